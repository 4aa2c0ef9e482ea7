/* graph_search.c - the walk over the graph: best first, on integer keys.
 *
 * The pool holds the ef nearest rows seen so far. Each step follows the edges of the
 * two nearest whose edges were not followed yet, keeps the rows not seen before, and
 * offers them to the pool; the walk ends when the edges of all in the pool were
 * followed (Malkov & Yashunin 2018, Algorithm 2).
 *
 * What makes it fast is the order of memory accesses, since a code that is not in
 * cache costs ten times its arithmetic:
 *
 *   - rows seen before are dropped without a branch that could be mispredicted;
 *   - all codes of a step are requested before the first is used;
 *   - two rows a step give more requests to overlap, at the price of a few rows that
 *     one at a time would not have visited;
 *   - while this step's keys are computed, the edges of the rows most likely to be
 *     next are already on their way;
 *   - several walks take turns, so that what one has requested arrives while the
 *     others compute. Each walk does what it would do alone.
 *
 * It starts at the nearest of the entry rows, which are scanned. */
#include "index/state.h"

enum {
    BEAM = 2,         /* rows whose edges are followed in one step */
    STARTS = 4,       /* entry rows the walk begins with */
    LINE = 64,        /* bytes of a cache line */
    CODE_LINES = 8,   /* of a row: the rest follows in order, and the machine sees that */
    RERANK_MIN = 32,  /* rows whose exact distances are computed, at least */
    RERANK_ONE_IN = 4 /* and as a part of the beam */
};

static void prefetch(const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)p + i);
}

/* Requests the rows of a column that s->slots[0, count) name, and notes where they
 * are in s->rows. */
static void request(const struct vs_column *column, struct vs_scratch *s, uint32_t count)
{
    const struct vs_extents extents = vs_column_extents(column);
    size_t bytes =
        extents.stride < (size_t)CODE_LINES * LINE ? extents.stride : (size_t)CODE_LINES * LINE;

    for (uint32_t i = 0; i < count; i++) {
        s->rows[i] = vs_extents_at(&extents, s->slots[i]);
        prefetch(s->rows[i], bytes);
    }
}

/* Appends the neighbours of `slot` that were not seen yet to s->slots. */
static uint32_t gather(const struct vshard_index *x, struct vs_scratch *s, uint32_t slot,
                       uint32_t count)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);
    uint64_t *visited = s->visited;
    uint32_t *out = s->slots, degree = x->degree;

    for (uint32_t i = 0; i < degree; i++) {
        uint32_t to = atomic_load_explicit(&edges[i], memory_order_relaxed);
        uint64_t word, bit;

        if (to == VS_SLOT_NONE)
            break;
        word = visited[to / 64];
        bit = 1ull << (to % 64);
        visited[to / 64] = word | bit;
        out[count] = to;
        count += (word & bit) == 0;
    }
    return count;
}

static bool next_nearest(struct vs_pool *pool, uint32_t *slot)
{
    while (pool->next < pool->count && (pool->slots[pool->next] & VS_POOL_EXPANDED))
        pool->next++;
    if (pool->next == pool->count)
        return false;
    *slot = pool->slots[pool->next];
    pool->slots[pool->next++] |= VS_POOL_EXPANDED;
    return true;
}

/* Requests the edges of the rows that the next step will most likely follow. */
static void look_ahead(const struct vshard_index *x, const struct vs_pool *pool)
{
    uint32_t found = 0;

    for (uint32_t i = pool->next; i < pool->count && found < BEAM; i++) {
        if (!(pool->slots[i] & VS_POOL_EXPANDED)) {
            prefetch(vs_column_at(&x->edges, pool->slots[i]), x->edges.stride);
            found++;
        }
    }
}

static int verify_gathered(const struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    if (x->mapping.bytes == NULL)
        return VSHARD_OK;
    for (uint32_t i = 0; i < count; i++) {
        int rc = vs_touch(x, slots[i]);

        if (rc < 0)
            return rc;
    }
    return VSHARD_OK;
}

/* Offers the nearest of the entry rows. */
static int start(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s)
{
    uint32_t entries = atomic_load_explicit(&x->entry_count, memory_order_acquire);
    int32_t keys[STARTS + 16];
    uint32_t slots[STARTS + 16];
    struct vs_pool nearest = { keys, slots, 0, STARTS, 0 };

    for (uint32_t first = 0; first < entries; first += s->list_cap) {
        uint32_t count = entries - first < s->list_cap ? entries - first : s->list_cap;
        int rc;

        for (uint32_t i = 0; i < count; i++)
            s->slots[i] = *(const uint32_t *)vs_column_at(&x->entries, first + i);
        rc = verify_gathered(x, s->slots, count);
        if (rc < 0)
            return rc;
        for (uint32_t i = 0; i < count; i++)
            s->rows[i] = vs_code_at(x, s->slots[i]);
        vs_keys(x, q, s->rows, count, s->keys);
        x->kernel.pool_push(&nearest, s->keys, s->slots, count);
        s->distance_count += count;
    }
    for (uint32_t i = 0; i < nearest.count; i++)
        s->visited[slots[i] / 64] |= 1ull << (slots[i] % 64);
    x->kernel.pool_push(&s->pool, keys, slots, nearest.count);
    return VSHARD_OK;
}

static void begin(const struct vshard_index *x, struct vs_walk *w, uint32_t ef)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    struct vs_scratch *s = w->scratch;

    memset(s->visited, 0, (slots / 64 + 1) * sizeof *s->visited);
    s->pool.count = s->pool.next = 0;
    s->pool.cap = ef;
    w->status = start(x, &w->query, s);
    w->gathered = 0;
    w->ended = w->status < 0;
}

/* The first part of a step: which rows to look at. Requests their codes, or their
 * sketches. */
static void advance(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;
    uint32_t slot, hops = 0;

    w->gathered = 0;
    while (hops < BEAM && next_nearest(&s->pool, &slot)) {
        w->gathered = gather(x, s, slot, w->gathered);
        hops++;
    }
    s->hop_count += hops;
    w->status = verify_gathered(x, s->slots, w->gathered);
    w->ended = hops == 0 || w->status < 0;
    if (!w->ended)
        request(w->query.sketch ? &x->sketches : x->traversal, s, w->gathered);
}

/* The second part, where there are sketches: which rows are worth a closer look.
 * Requests their codes. */
static void sift(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;
    uint32_t kept = 0;

    if (w->query.sketch == NULL)
        return;
    if (s->pool.count == s->pool.cap) {
        float limit = x->sketcher.ratio * (float)s->pool.keys[s->pool.count - 1];

        x->kernel.l2sq_code_many(w->query.sketch, s->rows, w->gathered, SKETCH_DIMS, s->keys);
        for (uint32_t i = 0; i < w->gathered; i++) {
            s->slots[kept] = s->slots[i];
            kept += (float)s->keys[i] <= limit;
        }
        s->sketch_count += w->gathered;
        w->gathered = kept;
    }
    request(x->traversal, s, w->gathered);
}

/* The last part: how near they are. Requests the edges of the next. */
static void score(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;

    vs_keys(x, &w->query, s->rows, w->gathered, s->keys);
    x->kernel.pool_push(&s->pool, s->keys, s->slots, w->gathered);
    s->distance_count += w->gathered;
    look_ahead(x, &s->pool);
}

/* Fills each walk's pool with the ef nearest rows that it meets, of any state. */
void vs_graph_walk(const struct vshard_index *x, struct vs_walk *walks, uint32_t count, uint32_t ef)
{
    uint32_t going = count;

    for (uint32_t i = 0; i < count; i++)
        begin(x, &walks[i], ef);
    while (going > 0) {
        for (uint32_t i = 0; i < count; i++) {
            if (!walks[i].ended)
                advance(x, &walks[i]);
        }
        for (uint32_t i = 0; i < count; i++) {
            if (!walks[i].ended)
                sift(x, &walks[i]);
        }
        going = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (walks[i].ended)
                continue;
            score(x, &walks[i]);
            going++;
        }
    }
}

static void offer_exact(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                        struct vs_top *top, uint32_t count)
{
    vs_distances(x, q, s, count);
    for (uint32_t i = 0; i < count; i++)
        vs_top_offer(top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                 vs_row_at(x, s->slots[i])->id });
}

/* Offers the live rows of the pool by their keys, which are distances already. */
static void offer_keys(const struct vshard_index *x, const struct vs_pool *pool, struct vs_top *top)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        uint32_t slot = pool->slots[i] & ~VS_POOL_EXPANDED;
        float distance = (float)pool->keys[i];

        if (top->count == top->cap && distance > top->items[0].distance)
            return;
        if (vs_row_state(x, slot) == VS_ROW_LIVE)
            vs_top_offer(top, (struct vs_candidate){ distance, slot, vs_row_at(x, slot)->id });
    }
}

/* How many rows of the pool are worth an exact distance. A wider beam asks for more:
 * rows that are nearer to each other than a code can tell are sorted by nothing else. */
static uint32_t rerank_count(const struct vs_pool *pool, uint32_t k)
{
    uint32_t count = 2 * k < RERANK_MIN ? RERANK_MIN : 2 * k, share = pool->cap / RERANK_ONE_IN;

    return count < share ? share : count;
}

/* Offers the nearest live rows of the pool, by their exact distances; the last of them
 * with all whose key is the same. */
void vs_graph_rerank(struct vshard_index *x, struct vs_walk *w, struct vs_top *top)
{
    struct vs_scratch *s = w->scratch;
    uint32_t want = rerank_count(&s->pool, top->cap), gathered = 0;
    int32_t last = 0;

    if (vs_elements_are_codes(x)) {
        offer_keys(x, &s->pool, top);
        return;
    }
    for (uint32_t i = 0; i < s->pool.count && (want > 0 || s->pool.keys[i] == last); i++) {
        uint32_t slot = s->pool.slots[i] & ~VS_POOL_EXPANDED;

        if (vs_row_state(x, slot) != VS_ROW_LIVE)
            continue;
        prefetch(vs_column_at(&x->elements, slot), x->elements.stride);
        s->slots[gathered++] = slot;
        last = s->pool.keys[i];
        want -= want > 0;
        if (gathered == s->list_cap) {
            offer_exact(x, &w->query, s, top, gathered);
            gathered = 0;
        }
    }
    offer_exact(x, &w->query, s, top, gathered);
}
