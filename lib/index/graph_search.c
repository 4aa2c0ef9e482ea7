/* graph_search.c - the walk over the graph: best first, on integer keys.
 *
 * Where rows have sketches (sketch.c), the walk goes by these; the pool that it ends with
 * is ranked again, by codes. Last come the vectors themselves, for as many rows as codes
 * cannot tell from the k-th.
 *
 * The pool holds the ef nearest rows seen so far. Each step follows the edges of up to
 * four of the nearest whose edges were not followed yet, keeps the rows not seen before, and
 * offers them to the pool; the walk ends when the edges of all in the pool were
 * followed (Malkov & Yashunin 2018, Algorithm 2).
 *
 * A walk that is told how far is too far ends sooner: when all that is left to follow is
 * farther, and a third of the beam was followed without meeting a nearer row. On the way to
 * where the query lies nearly every row is too far, so it takes both. In eighths of glove100
 * that are asked in turn, each told how far the 10 nearest of those before it reach, this
 * saves a third of the distances at ef 100, and a little at ef 6.
 *
 * What makes it fast is the order of memory accesses, since a code that is not in
 * cache costs ten times its arithmetic:
 *
 *   - rows seen before are dropped without a branch that could be mispredicted;
 *   - all codes of a step are requested before the first is used;
 *   - four rows a step give more requests to overlap, at the price of a few rows that
 *     one at a time would not have visited: where a query is alone, a fifth faster than
 *     two rows a step (sift128, recall 0.99), and as fast where four queries take turns.
 *     A narrow beam takes fewer, one for each eight that it holds: in one of 5 the rows
 *     that are visited too many are a third of all (glove100), and cost more than they gain;
 *   - while this step's keys are computed, the edges of the rows most likely to be
 *     next are already on their way, and when a walk has ended, the codes that rank its pool;
 *   - several walks take turns, so that what one has requested arrives while the
 *     others compute. Each walk does what it would do alone.
 *
 * Under a filter only the nearest tenth of a beam is followed, and only that is kept sorted: to
 * keep a wide beam sorted takes a third of a walk. The others are kept aside in the order they
 * came, and narrowed to as many as the beam holds when there is no more room, and at the end. So it
 * is the beam that there would be if all of it were sorted, row for row. Where rows lie in clusters
 * that tenth may be of one, and those beyond, which answers may be, were met by chance. So when it
 * was followed a few of these are, too; and if they lead to many more that are as near, all are.
 *
 * It starts at the nearest of the entry rows, which are scanned. */
#include "index/state.h"

#include <math.h>

enum {
    STEP_MAX = 4,    /* rows whose edges are followed in one step */
    STEP_IN = 8,     /* one more for so many in the beam */
    IDLE_IN = 3,     /* of the beam, what is followed in vain before a bound ends a walk, */
    IDLE_MIN = 4,    /* and at least so many */
    STARTS = 4,      /* entry rows the walk begins with */
    PROBES = 4,      /* rows beyond those that are followed under a filter, */
    NEW_ONE_IN = 32, /* which lead to so many of those among which answers are, or to too few */
    ASIDE_MIN = 64,  /* rows of a beam that are not followed: fewer are kept sorted, too */
    LINE = 64,       /* bytes of a cache line */
    GROUP = 8,       /* rows whose exact distances are computed at once, after the first k */
    CODE_LINES = 8   /* of a row: the rest follows in order, and the machine sees that */
};

/* Of a walk that follows some of its beam. */
enum { PROBE_NONE, PROBE_UNDER_WAY, PROBE_FOUND, PROBE_DONE };

/* Into the second level of cache: that has room for more requests at once than the first,
 * and all that four walks want in a step would stall on the first (minilm384, m 16, ef
 * 32: 16 us a query and not 25). */
static void prefetch(const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)p + i, 0, 2);
}

/* Of a row, what is requested. */
static size_t requested_bytes(const struct vs_extents *e)
{
    return e->stride < (size_t)CODE_LINES * LINE ? e->stride : (size_t)CODE_LINES * LINE;
}

/* Requests the rows of a column that s->slots[0, count) name, and notes where they
 * are in s->rows. */
void vs_walk_request(const struct vs_column *column, struct vs_scratch *s, uint32_t count)
{
    const struct vs_extents extents = vs_column_extents(column);
    size_t bytes = requested_bytes(&extents);

    for (uint32_t i = 0; i < count; i++) {
        s->rows[i] = vs_extents_at(&extents, s->slots[i]);
        prefetch(s->rows[i], bytes);
    }
}

/* No row was seen yet. Beside a writer there may be more slots by now than bits. */
void vs_visited_clear(const struct vshard_index *x, struct vs_scratch *s)
{
    size_t words = atomic_load_explicit(&x->slot_count, memory_order_acquire) / 64 + 1;

    words = words < s->visited_words ? words : s->visited_words;
    memset(s->visited, 0, words * sizeof *s->visited);
    s->visited_slots = (uint32_t)(words * 64);
}

/* Appends the neighbours of `slot` that were not seen yet to s->slots. */
static uint32_t gather(const struct vshard_index *x, struct vs_scratch *s, uint32_t slot,
                       uint32_t count)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);
    uint64_t *visited = s->visited;
    uint32_t *out = s->slots, degree = x->degree, slots = s->visited_slots;
    uint32_t plain = s->moved_from > 0 && s->moved_from < slots ? s->moved_from : slots;

    for (uint32_t i = 0; i < degree; i++) {
        uint32_t to = atomic_load_explicit(&edges[i], memory_order_acquire);
        uint64_t word, bit;

        if (to >= plain) {
            if (to == VS_SLOT_NONE)
                break;
            to = vs_moved(x, s, to);
            if (to >= slots)
                continue;
        }
        word = visited[to / 64];
        bit = 1ull << (to % 64);
        visited[to / 64] = word | bit;
        out[count] = to;
        count += (word & bit) == 0;
    }
    return count;
}

static bool next_nearest(struct vs_pool *pool, uint32_t follow, uint32_t *slot)
{
    uint32_t end = follow != 0 && follow < pool->count ? follow : pool->count;

    while (pool->next < end && (pool->slots[pool->next] & VS_POOL_EXPANDED))
        pool->next++;
    if (pool->next >= end)
        return false;
    *slot = pool->slots[pool->next];
    pool->slots[pool->next++] |= VS_POOL_EXPANDED;
    return true;
}

/* Rows that are followed in one step. */
static uint32_t step_of(const struct vs_walk *w)
{
    uint32_t rows = 1 + w->width / STEP_IN;

    return rows < STEP_MAX ? rows : STEP_MAX;
}

/* Requests the edges of the rows that the next step will most likely follow. */
static void look_ahead(const struct vshard_index *x, const struct vs_walk *w)
{
    const struct vs_pool *pool = &w->scratch->pool;
    uint32_t found = 0;

    for (uint32_t i = pool->next; i < pool->count && found < step_of(w); i++) {
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

/* The column that walks go by. */
static const struct vs_column *walked(const struct vshard_index *x, const struct vs_query *q)
{
    return q->sketch != NULL ? &x->sketches : x->traversal;
}

/* Sets the keys of a walk's scratch to those of rows of that column. */
static void walk_keys(const struct vshard_index *x, struct vs_walk *w, const void *const *rows,
                      uint32_t count)
{
    struct vs_scratch *s = w->scratch;

    if (w->query.sketch != NULL)
        x->kernel.l2sq_u4_many(w->query.sketch, rows, count, x->sketches.stride, s->keys);
    else
        vs_keys(x, &w->query, rows, count, s->keys);
    s->distance_count += count;
}

/* The row that asks is behind all others. */
static void put_last(struct vs_walk *w, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (slots[i] == w->query.without - 1)
            w->scratch->keys[i] = INT32_MAX;
    }
}

/* Beside a writer the same row may be an entry twice, or a row without room for its bit. */
static uint32_t keep_unseen(struct vs_scratch *s, struct vs_pool *p)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t slot = p->slots[i];
        uint64_t bit = 1ull << (slot % 64);

        if (slot >= s->visited_slots || (s->visited[slot / 64] & bit))
            continue;
        s->visited[slot / 64] |= bit;
        p->keys[kept] = p->keys[i];
        p->slots[kept++] = slot;
    }
    return kept;
}

/* ---- rows that are met, and will not be followed ---- */

/* The pool that a walk needs room for: what is kept aside is more than it will need, so that it
 * is seldom narrowed. */
uint32_t vs_walk_room(const struct vshard_index *x, uint32_t width, uint32_t follow)
{
    return follow != 0 && follow + ASIDE_MIN <= width ? 2 * width + STEP_MAX * x->degree : width;
}

/* A number that is exceeded by all keys kept aside but for n; or, where equal ones do not let it
 * be, the least that is exceeded by fewer. There are more keys than that. It is sought from the
 * farthest row on that may be followed. */
static int32_t nth_key(const struct vshard_index *x, const struct vs_walk *w, uint32_t n)
{
    const struct vs_pool *aside = &w->scratch->ranked, *pool = &w->scratch->pool;
    int64_t low = (int64_t)INT32_MIN - 1, high = (int64_t)w->most + 1;
    int64_t at = pool->keys[pool->count - 1];
    int64_t reach = (at - pool->keys[0]) / 4 + 1;

    while (high - low > 1) {
        size_t count = x->kernel.count_keys((int32_t)at, aside->keys, aside->count);

        if (count == n)
            return (int32_t)at;
        if (count > n)
            high = at;
        else
            low = at;
        at = count < n && reach < high - low ? low + reach : low + (high - low) / 2;
        reach *= 2;
    }
    return (int32_t)high;
}

/* Leaves aside the nearest, as many as the beam holds; of equal ones those that came first. */
void vs_walk_narrow(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_pool *aside = &w->scratch->ranked;
    int32_t most;

    if (aside->count <= w->width)
        return;
    most = nth_key(x, w, w->width);
    aside->count = (uint32_t)x->kernel.keep_keys(most, aside->keys, aside->slots, aside->count,
                                                 aside->keys, aside->slots);
    for (uint32_t i = aside->count; aside->count > w->width;) {
        if (aside->keys[--i] != most)
            continue;
        aside->count--;
        memmove(aside->keys + i, aside->keys + i + 1, (aside->count - i) * sizeof *aside->keys);
        memmove(aside->slots + i, aside->slots + i + 1, (aside->count - i) * sizeof *aside->slots);
    }
    w->most = most > INT32_MIN ? most - 1 : most;
}

/* Offers rows that were met to the pool, and keeps them aside. */
static void offer(const struct vshard_index *x, struct vs_walk *w, const int32_t *keys,
                  const uint32_t *slots, uint32_t count)
{
    struct vs_pool *aside = &w->scratch->ranked;

    x->kernel.pool_push(&w->scratch->pool, keys, slots, count);
    if (!w->aside)
        return;
    if (aside->count + count > w->scratch->pool_cap)
        vs_walk_narrow(x, w);
    aside->count += (uint32_t)x->kernel.keep_keys(
        w->most, keys, slots, count, aside->keys + aside->count, aside->slots + aside->count);
}

static bool is_in_pool(const struct vs_pool *pool, int32_t key, uint32_t slot)
{
    for (uint32_t i = pool->count; i-- > 0 && pool->keys[i] >= key;) {
        if ((pool->slots[i] & ~VS_POOL_EXPANDED) == slot)
            return true;
    }
    return false;
}

/* Rows kept aside that are no farther than this join the pool, whose cap is raised. */
static void join(const struct vshard_index *x, struct vs_walk *w, int32_t bound)
{
    struct vs_scratch *s = w->scratch;
    const struct vs_pool *aside = &s->ranked;
    int32_t last = s->pool.keys[s->pool.count - 1];
    uint32_t count = 0;

    s->pool.cap = w->follow;
    for (uint32_t i = 0; i < aside->count; i++) {
        int32_t key = aside->keys[i];

        if (key < last || key > bound ||
            (key == last && is_in_pool(&s->pool, key, aside->slots[i])))
            continue;
        s->keys[count] = key;
        s->slots[count++] = aside->slots[i];
        if (count == s->list_cap) {
            x->kernel.pool_push(&s->pool, s->keys, s->slots, count);
            count = 0;
        }
    }
    x->kernel.pool_push(&s->pool, s->keys, s->slots, count);
}

/* ---- whether as much was followed as is needed ---- */

/* The greatest key of the rows among which the answers are expected to be, as far as they were met;
 * the greatest there can be where too few were. */
static int32_t reach_key(const struct vshard_index *x, const struct vs_walk *w)
{
    const struct vs_pool *met = w->aside ? &w->scratch->ranked : &w->scratch->pool;

    if (met->count <= w->reach)
        return INT32_MAX;
    return w->aside ? nth_key(x, w, w->reach) : met->keys[w->reach - 1];
}

/* Follows a few rows that were not to be, of those that came last and are about as far as answers
 * may be: what they lead to tells whether all that near must be followed. Returns how many. */
static uint32_t probe(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;
    const struct vs_pool *met = w->aside ? &s->ranked : &s->pool;
    int64_t last = s->pool.keys[w->follow - 1];
    uint32_t hops = 0;

    w->reach_key = reach_key(x, w);
    w->probe = w->reach_key == INT32_MAX ? PROBE_FOUND : PROBE_DONE;
    last += (w->reach_key - last) / 2;
    for (uint32_t i = met->count; i-- > 0 && hops < PROBES;) {
        if (met->keys[i] <= last || met->keys[i] > w->reach_key)
            continue;
        w->gathered = gather(x, s, met->slots[i] & ~VS_POOL_EXPANDED, w->gathered);
        hops++;
    }
    if (hops > 0)
        w->probe = PROBE_UNDER_WAY;
    return hops;
}

/* Whether the rows that a probe led to are many, as near as answers may be. */
static bool found_many(const struct vs_walk *w)
{
    const struct vs_scratch *s = w->scratch;
    uint32_t near = 0;

    for (uint32_t i = 0; i < w->gathered; i++)
        near += s->keys[i] <= w->reach_key;
    return near * NEW_ONE_IN > w->reach;
}

/* Lets the walk follow all rows among which answers may be. False if it does. */
static bool follow_on(const struct vshard_index *x, struct vs_walk *w)
{
    const struct vs_pool *met = w->aside ? &w->scratch->ranked : &w->scratch->pool;
    int32_t last = reach_key(x, w);
    uint32_t near = (uint32_t)x->kernel.count_keys(last, met->keys, met->count);

    if (near <= w->follow)
        return false;
    w->follow = near < w->width ? near : w->width;
    if (w->aside)
        join(x, w, last);
    return true;
}

/* All that was to be followed was. Whether there is more to follow; or a probe, of so many rows. */
static bool look_beyond(const struct vshard_index *x, struct vs_walk *w, uint32_t *probed)
{
    if (w->follow == 0 || w->follow >= w->width || w->scratch->pool.count < w->follow)
        return false;
    if (w->probe == PROBE_NONE)
        *probed = probe(x, w);
    return w->probe == PROBE_FOUND && follow_on(x, w);
}

/* Offers each walk the nearest of the entry rows, which are looked up once for all. */
static int start(const struct vshard_index *x, struct vs_walk *walks, uint32_t count)
{
    const struct vs_extents column = vs_column_extents(walked(x, &walks[0].query));
    struct vs_scratch *s = walks[0].scratch;
    uint32_t entries = atomic_load_explicit(&x->entry_count, memory_order_acquire);
    int32_t keys[WALKS][STARTS + 16];
    uint32_t slots[WALKS][STARTS + 16];
    struct vs_pool nearest[WALKS];

    for (uint32_t w = 0; w < count; w++)
        nearest[w] = (struct vs_pool){ keys[w], slots[w], 0, STARTS, 0 };
    for (uint32_t first = 0; first < entries; first += s->list_cap) {
        uint32_t some = entries - first < s->list_cap ? entries - first : s->list_cap;
        int rc;

        for (uint32_t i = 0; i < some; i++)
            s->slots[i] = vs_moved(x, s, vs_entry_at(x, first + i));
        rc = verify_gathered(x, s->slots, some);
        if (rc < 0)
            return rc;
        for (uint32_t i = 0; i < some; i++)
            s->rows[i] = vs_extents_at(&column, s->slots[i]);
        for (uint32_t w = 0; w < count; w++) {
            walk_keys(x, &walks[w], s->rows, some);
            if (walks[w].query.without != 0)
                put_last(&walks[w], s->slots, some);
            x->kernel.pool_push(&nearest[w], walks[w].scratch->keys, s->slots, some);
        }
    }
    for (uint32_t w = 0; w < count; w++)
        offer(x, &walks[w], keys[w], slots[w], keep_unseen(walks[w].scratch, &nearest[w]));
    return VSHARD_OK;
}

/* Of what is within a bound no key is greater: vs_key_limit(), and for sketches likewise,
 * whose rows are rounded to 4 bits, so that each element adds a variance of 64 / 12, of which
 * the variance is 8^4 / 180. Sketches along axes have another scale. */
static float farthest_key(const struct vshard_index *x, const struct vs_walk *w)
{
    float key = vs_key_limit(x, w->farthest), dims = (float)x->quantizer.code_dim;

    if (w->query.sketch == NULL || isinf(key))
        return key;
    if (vs_sketch_has_axes(x))
        return INFINITY;
    return key + dims * 64 / 12 + 4 * sqrtf(4 * key * 64 / 12 + dims * 4096 / 180);
}

/* Whether a bounded walk can end: what it was told is within was followed, and nothing
 * nearer comes up. */
static bool is_passed(struct vs_walk *w)
{
    const struct vs_pool *p = &w->scratch->pool;
    uint32_t next = p->next, enough = w->width / IDLE_IN > IDLE_MIN ? w->width / IDLE_IN : IDLE_MIN;

    if (p->count != 0 && p->keys[0] < w->nearest) {
        w->nearest = p->keys[0];
        w->idle = 0;
    } else {
        w->idle += w->followed;
    }
    while (next < p->count && (p->slots[next] & VS_POOL_EXPANDED))
        next++;
    return w->idle >= enough && next < p->count && (float)p->keys[next] > w->farthest_key;
}

static void begin(const struct vshard_index *x, struct vs_walk *w, uint32_t ef)
{
    struct vs_scratch *s = w->scratch;

    VS_ASSERT(vs_walk_room(x, ef, w->follow) <= s->pool_cap);
    vs_visited_clear(x, s);
    if (w->query.without != 0)
        s->visited[(w->query.without - 1) / 64] |= 1ull << (w->query.without - 1) % 64;
    w->width = ef;
    w->aside = vs_walk_room(x, ef, w->follow) > ef && !w->bounded; /* is_passed() looks at all */
    w->most = INT32_MAX;
    s->pool.count = s->pool.next = s->ranked.count = 0;
    s->pool.cap = w->aside ? w->follow : ef;
    w->cut = w->passed = false;
    w->farthest_key = w->bounded ? farthest_key(x, w) : INFINITY;
    w->nearest = INT32_MAX;
    w->idle = 0;
    w->probe = PROBE_NONE;
    w->gathered = 0;
    w->status = VSHARD_OK;
    w->ended = false;
}

/* The first part of a step: which rows to look at. Requests them. */
static void advance(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;
    uint32_t slot, hops = 0, step = step_of(w);

    w->gathered = 0;
    do {
        for (; hops < step && next_nearest(&s->pool, w->follow, &slot); hops++)
            w->gathered = gather(x, s, slot, w->gathered);
    } while (hops == 0 && look_beyond(x, w, &hops));
    w->followed = hops;
    s->hop_count += hops;
    s->row_count += w->gathered;
    w->status = verify_gathered(x, s->slots, w->gathered);
    w->ended = hops == 0 || w->status < 0;
    if (!w->ended)
        vs_walk_request(walked(x, &w->query), s, w->gathered);
}

/* The second part: how near they are. Requests the edges of the next. */
static void score(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;

    walk_keys(x, w, s->rows, w->gathered);
    if (w->probe == PROBE_UNDER_WAY)
        w->probe = found_many(w) ? PROBE_FOUND : PROBE_DONE;
    offer(x, w, s->keys, s->slots, w->gathered);
    look_ahead(x, w);
    w->cut = w->limits && vs_limits_cut(w->limits, s->distance_count - w->counted, w->gathered);
    w->passed = w->farthest_key < INFINITY && is_passed(w);
    w->ended = w->cut || w->passed;
}

/* Requests what ranks the pool of a walk that has ended, while the others go on. */
static void request_codes(const struct vshard_index *x, const struct vs_walk *w)
{
    const struct vs_pool *p = &w->scratch->pool;
    const struct vs_extents codes = vs_column_extents(x->traversal);
    size_t bytes = requested_bytes(&codes);

    if (w->query.sketch == NULL || w->aside)
        return;
    for (uint32_t i = 0; i < p->count; i++)
        prefetch(vs_extents_at(&codes, p->slots[i] & ~VS_POOL_EXPANDED), bytes);
}

/* Fills each walk's pool with the ef nearest rows that it meets, of any state. */
void vs_graph_walk(const struct vshard_index *x, struct vs_walk *walks, uint32_t count, uint32_t ef)
{
    uint32_t going = count;
    int status;

    vs_sketch_queries(x, walks, count);
    for (uint32_t i = 0; i < count; i++)
        begin(x, &walks[i], ef);
    status = start(x, walks, count);
    for (uint32_t i = 0; i < count && status < 0; i++) {
        walks[i].status = status;
        walks[i].ended = true;
    }
    while (going > 0) {
        for (uint32_t i = 0; i < count; i++) {
            if (walks[i].ended)
                continue;
            advance(x, &walks[i]);
            if (walks[i].ended && count > 1) /* else they are asked for at once */
                request_codes(x, &walks[i]);
        }
        going = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (walks[i].ended)
                continue;
            if (count == 1) /* there is nobody to wait for what score() requests */
                look_ahead(x, &walks[i]);
            score(x, &walks[i]);
            going++;
        }
    }
}

/* Ranks the pool of a walk that went by sketches again, by codes. */
void vs_graph_rank(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_scratch *s = w->scratch;
    struct vs_pool walked = s->pool;

    if (w->query.sketch == NULL)
        return;
    s->ranked.count = s->ranked.next = 0;
    s->ranked.cap = walked.cap;
    for (uint32_t first = 0; first < walked.count; first += s->list_cap) {
        uint32_t count = walked.count - first < s->list_cap ? walked.count - first : s->list_cap;

        for (uint32_t i = 0; i < count; i++)
            s->slots[i] = walked.slots[first + i] & ~VS_POOL_EXPANDED;
        vs_walk_request(x->traversal, s, count);
        vs_keys(x, &w->query, s->rows, count, s->keys);
        x->kernel.pool_push(&s->ranked, s->keys, s->slots, count);
        s->distance_count += count;
        if (vs_limits_ended(w->limits, count)) { /* a wide pool takes a ms */
            w->cut = true;
            break;
        }
    }
    s->pool = s->ranked;
    s->ranked = walked;
}

static void offer_exact(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                        struct vs_top *top, uint32_t count)
{
    vs_distances(x, q, s, count);
    for (uint32_t i = 0; i < count; i++)
        vs_top_offer(top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                 vs_row_at(x, s->slots[i])->id });
}

/* Offers the rows of the pool that can be seen by their keys, which are distances already. */
static void offer_keys(const struct vshard_index *x, const struct vs_pool *pool, uint32_t position,
                       struct vs_top *top)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        uint32_t slot = pool->slots[i] & ~VS_POOL_EXPANDED;
        float distance = (float)pool->keys[i];

        if (top->count == top->cap && distance > top->items[0].distance)
            return;
        if (vs_row_visible(x, slot, position))
            vs_top_offer(top, (struct vs_candidate){ distance, slot, vs_row_at(x, slot)->id });
    }
}

/* The key from which on no row can be expected to be nearer than `distance`: that of
 * this distance, and what rounding adds to it. The difference of two codes is off by two
 * roundings, of variance 1/6 together: so a key is greater by dim / 6 on average, and
 * its variance is about 4 * key / 6, and dim / 25 where the key is small. Four standard
 * deviations are allowed for. Clamping only takes away from a key. The rows of a lean
 * index are what their codes say, so only the query is rounded. */
float vs_key_limit(const struct vshard_index *x, float distance)
{
    float dims = (float)x->quantizer.code_dim, scale = x->quantizer.scale, key;

    if (x->space != SPACE_CODE_L2 || x->metric == VSHARD_METRIC_IP || x->by_vectors)
        return INFINITY;
    key = distance * scale * scale * (x->metric == VSHARD_METRIC_COSINE ? 2.0f : 1.0f);
    if (vs_is_lean(x))
        return key + dims / 12 + 4 * sqrtf(key / 3 + dims / 180);
    return key + dims / 6 + 4 * sqrtf(key * 2 / 3 + dims / 25);
}

/* Offers the rows of the pool that may be answered, by their exact distances: the nearest
 * by code first, until the codes rule out the rest. */
void vs_graph_rerank(struct vshard_index *x, struct vs_walk *w, struct vs_top *top)
{
    struct vs_scratch *s = w->scratch;
    uint32_t gathered = 0, group = top->cap < s->list_cap ? top->cap : s->list_cap;
    float limit = INFINITY;

    if (w->filter != NULL)
        vs_filter_pool(x, w);
    if (w->cut && s->pool.count > 2 * top->cap + 64) /* there is no time to rank them all */
        s->pool.count = 2 * top->cap + 64;
    vs_graph_rank(x, w);
    if (vs_elements_are_codes(x)) {
        offer_keys(x, &s->pool, s->position, top);
        return;
    }
    for (uint32_t i = 0; i < s->pool.count; i++) {
        uint32_t slot = s->pool.slots[i] & ~VS_POOL_EXPANDED;

        if ((float)s->pool.keys[i] > limit)
            break;
        if (!vs_row_visible(x, slot, s->position))
            continue;
        if (!w->query.codes_only)
            prefetch(vs_column_at(&x->elements, slot), x->elements.stride);
        s->slots[gathered++] = slot;
        if (gathered < group)
            continue;
        offer_exact(x, &w->query, s, top, gathered);
        gathered = 0;
        if (w->cut) /* as many as there are answers must do */
            break;
        group = GROUP;
        if (top->count == top->cap)
            limit = vs_key_limit(x, top->items[0].distance);
    }
    offer_exact(x, &w->query, s, top, gathered);
}
