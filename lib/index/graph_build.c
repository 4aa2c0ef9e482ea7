/* graph_build.c - edges for new rows, and edges back to them.
 *
 * Rows are linked in batches, so that many threads can work and the result does not
 * depend on how many there are (ParlayANN, Manohar et al. 2024):
 *
 *   1. Each new row searches the graph as it was before the batch, and is compared
 *      with the rows of the batch before it. Of what it finds it keeps a diverse few.
 *      Nothing is written that another row of the batch reads.
 *   2. The new rows' edges are written. Each edge asks for one back; these are
 *      sorted by target, and each target is worked on by one thread.
 *
 * A diverse few: candidates are taken nearest first, and one is passed over when a
 * row already taken is nearer to it than it is to the new row (Malkov & Yashunin
 * 2018, Algorithm 4). Free places are then filled with the nearest passed over.
 *
 * A new row takes three quarters of its places, and a full list is cut to three
 * quarters, so that the next edges back find room: a list is then pruned once in 16
 * edges and not for each.
 *
 * Equal vectors would fill each other's lists and be an island. At most a quarter of
 * a list goes to rows at distance 0 while there are others; and which of them, a hash
 * of both slots decides. In order of arrival, all would choose the same few, and the
 * many would have no edge in. */
#include "index/state.h"

#include <math.h>

enum {
    BATCH_MIN = 64,   /* rows in a batch, while the graph is small */
    BATCH_MAX = 1024, /* and when it is large */
    BATCH_SHARE = 32, /* else this part of the rows that are linked */
    FAR = 2,          /* times the distance that is usual there, squared or not, */
    FAR_MOST = 64,    /* and where there are more entries */
    ENTRIES_MIN = 64, /* than these, and one row in so many */
    ENTRIES_ONE_IN = 512,
    RADIX_BITS = 11,
    RADIX = 1 << RADIX_BITS
};

/* Rows to link at once: more would search a graph that lacks too many of them. */
uint32_t vs_build_batch(const struct vshard_index *x)
{
    uint64_t share = (x->live + x->removed) / BATCH_SHARE;

    return share < BATCH_MIN ? BATCH_MIN : share > BATCH_MAX ? BATCH_MAX : (uint32_t)share;
}

/* ---- entries ---- */

bool vs_is_entry(const struct vshard_index *x, uint64_t id)
{
    return vs_mix64(id ^ x->seed) % ENTRY_ONE_IN == 0;
}

/* Makes a new row an entry, if it is to be one: by its id, because it is far from all
 * others, or because it has no neighbour. */
void vs_entry_offer(struct vshard_index *x, uint32_t slot, uint32_t far)
{
    uint32_t count = atomic_load(&x->entry_count);
    bool by_id = vs_is_entry(x, vs_row_at(x, slot)->id);

    if (count > 0 && far != VS_FAR_ALONE && !by_id) {
        if (far == 0 || x->build.far_left == 0)
            return;
        x->build.far_left--;
    }
    vs_entry_set(x, count, by_id && far == 0 ? slot : slot | VS_ENTRY_ALONE);
    atomic_store_explicit(&x->entry_count, count + 1, memory_order_release);
}

/* ---- buffers ---- */

static size_t links_bytes(const struct vshard_index *x, uint32_t batch)
{
    size_t links = (size_t)batch * x->degree;

    return links * (2 * sizeof(struct vs_link) + sizeof(uint32_t)) + sizeof(uint32_t) +
           batch * (sizeof(uint32_t) + sizeof(uint8_t));
}

static void free_links(struct vshard_index *x)
{
    struct vs_build *b = &x->build;
    size_t links = (size_t)b->batch_cap * x->degree;

    if (b->batch_cap > 0)
        atomic_fetch_sub(&x->scratch_bytes, links_bytes(x, b->batch_cap));
    vs_free(x->allocator, b->link_counts, b->batch_cap * sizeof *b->link_counts);
    vs_free(x->allocator, b->far, b->batch_cap * sizeof *b->far);
    vs_free(x->allocator, b->links, links * sizeof *b->links);
    vs_free(x->allocator, b->sorted, links * sizeof *b->sorted);
    vs_free(x->allocator, b->groups, (links + 1) * sizeof *b->groups);
    memset(b, 0, sizeof *b);
}

static int reserve_links(struct vshard_index *x, uint32_t batch)
{
    struct vs_build *b = &x->build;
    size_t links = (size_t)batch * x->degree;

    if (batch <= b->batch_cap)
        return VSHARD_OK;
    free_links(x);
    b->batch_cap = batch;
    atomic_fetch_add(&x->scratch_bytes, links_bytes(x, batch));
    b->link_counts = vs_alloc(x->allocator, batch * sizeof *b->link_counts);
    b->far = vs_alloc(x->allocator, batch * sizeof *b->far);
    b->links = vs_alloc(x->allocator, links * sizeof *b->links);
    b->sorted = vs_alloc(x->allocator, links * sizeof *b->sorted);
    b->groups = vs_alloc(x->allocator, (links + 1) * sizeof *b->groups);
    if (b->link_counts && b->far && b->links && b->sorted && b->groups)
        return VSHARD_OK;
    free_links(x);
    return VSHARD_ENOMEM;
}

/* Candidates of one task. */
uint32_t vs_build_pool(const struct vshard_index *x)
{
    return x->ef_construction > 4 * x->degree ? x->ef_construction : 4 * x->degree;
}

/* Gets all memory that linking `rows` rows needs, after the columns were reserved. */
int vs_build_reserve(struct vshard_index *x, uint64_t rows)
{
    uint32_t batch = rows < BATCH_MIN ? BATCH_MIN : rows < BATCH_MAX ? (uint32_t)rows : BATCH_MAX;
    int rc = reserve_links(x, batch);

    return rc < 0 ? rc : vs_strands_reserve(x, vs_build_pool(x));
}

/* Keeps what single rows need: the buffers of a large load would otherwise stay for
 * the life of the index, and weigh as much as a quarter of a small one. And nothing of the rows:
 * they may be removed. */
void vs_build_trim(struct vshard_index *x)
{
    vs_strands_forget(x);
    if (x->build.batch_cap > BATCH_MIN)
        free_links(x);
}

void vs_build_fini(struct vshard_index *x)
{
    free_links(x);
}

/* ---- phase 1: where a new row belongs ---- */

/* Only mates that come before it, as if rows were linked one by one: so the first row
 * of a cluster has edges to the graph that is there, and not to its cluster alone. */
static void offer_mates(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                        uint32_t self)
{
    const struct vs_build *b = &x->build;
    uint32_t gathered = 0;

    for (uint32_t i = 0; i < self; i++) {
        s->slots[gathered++] = b->slots[i];
        if (gathered == s->list_cap) {
            vs_offer(x, q, s, gathered);
            gathered = 0;
        }
    }
    vs_offer(x, q, s, gathered);
}

static void parent_first(const struct vshard_index *x, struct vs_pool *p)
{
    uint32_t at = vs_tree_parent(x, p->slots, p->count), slot;
    int32_t key;

    if (at == 0)
        return;
    slot = p->slots[at];
    key = p->keys[at];
    memmove(p->slots + 1, p->slots, at * sizeof *p->slots);
    memmove(p->keys + 1, p->keys, at * sizeof *p->keys);
    p->slots[0] = slot;
    p->keys[0] = key;
}

/* Every search scans the entries, so the more there are, the farther is far: a cluster of
 * its own is many times as far, and is let in still. In sets where one row in 50 is twice
 * as far they would be one in 50 (sift128, 300,000 rows: 6,500 entries, 93 us a query). */
float vs_far_times(const struct vshard_index *x)
{
    uint32_t most = ENTRIES_MIN + atomic_load(&x->slot_count) / ENTRIES_ONE_IN;
    float times = FAR;

    for (uint32_t n = atomic_load(&x->entry_count); n > most && times < FAR_MOST; n /= 2)
        times *= 2;
    return times;
}

/* How far from any row is far, around the nearest row of the graph: much farther than half
 * of that one's neighbours are. Half, and not the nearest, since pairs of all but equal
 * rows are no clusters. Uses s->slots, s->rows, s->keys and s->distances. */
static float far_from(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    const struct vs_pool *p = &s->pool;
    uint32_t count, nearest;

    if (p->count == 0)
        return INFINITY;
    vs_apart_least(x, slot, s, &nearest);
    count = vs_read_edges(x, p->slots[nearest], s->slots);
    if (count == 0)
        return INFINITY;
    vs_apart(x, p->slots[nearest], s, count);
    return vs_far_times(x) * vs_nth(s->distances, count, count / 2);
}

/* A row that is far from all in the graph and from its mates begins a cluster of its own:
 * edges alone may not lead walks to it. */
static void take_edges(struct vshard_index *x, struct vs_walk *w, uint32_t item)
{
    struct vs_build *b = &x->build;
    struct vs_link *links = b->links + (size_t)item * x->degree;
    struct vs_pool *pool = &w->scratch->pool;
    uint32_t at;
    float far;

    vs_graph_rank(x, w);
    vs_keep_live(x, pool);
    far = far_from(x, b->slots[item], w->scratch);
    offer_mates(x, &w->query, w->scratch, item);
    b->far[item] =
        pool->count == 0 ? VS_FAR_ALONE : vs_apart_least(x, b->slots[item], w->scratch, &at) > far;
    vs_choose(x, w->scratch, b->slots[item], vs_kept_edges(x));
    parent_first(x, pool);
    for (uint32_t i = 0; i < pool->count; i++)
        links[i] = (struct vs_link){ pool->slots[i], pool->keys[i], b->slots[item] };
    b->link_counts[item] = pool->count;
}

/* For WALKS rows at once. A walk cannot fail here: only a mapped index's can, and that
 * has no writer. */
static void find_edges(void *arg, uint32_t group, uint32_t strand)
{
    struct vshard_index *x = arg;
    struct vs_build *b = &x->build;
    struct vs_walk walks[WALKS] = { 0 };
    uint32_t first = group * WALKS, count = b->count - first < WALKS ? b->count - first : WALKS;

    for (uint32_t i = 0; i < count; i++) {
        walks[i].scratch = &x->strands[strand * WALKS + i];
        walks[i].query = vs_row_query(x, b->slots[first + i], walks[i].scratch);
    }
    vs_graph_walk(x, walks, count, x->ef_construction);
    for (uint32_t i = 0; i < count; i++)
        take_edges(x, &walks[i], first + i);
}

/* ---- phase 2: edges back ---- */

/* Writes the edges of the batch's rows, and moves all links to the front. */
static uint32_t write_own_edges(struct vshard_index *x)
{
    struct vs_build *b = &x->build;
    uint32_t total = 0;

    for (uint32_t i = 0; i < b->count; i++) {
        const struct vs_link *links = b->links + (size_t)i * x->degree;
        _Atomic uint32_t *edges = vs_edges_at(x, b->slots[i]);

        for (uint32_t j = 0; j < x->degree; j++)
            atomic_store_explicit(&edges[j], j < b->link_counts[i] ? links[j].target : VS_SLOT_NONE,
                                  memory_order_release);
        memmove(b->links + total, links, b->link_counts[i] * sizeof *links);
        total += b->link_counts[i];
    }
    return total;
}

/* Sorts by target, and keeps the order of the batch within one target. */
static void sort_links(struct vs_build *b, uint32_t count, uint32_t slots)
{
    for (uint32_t shift = 0; shift < 32 && slots >> shift != 0; shift += RADIX_BITS) {
        uint32_t first[RADIX + 1] = { 0 };
        struct vs_link *swap = b->links;

        for (uint32_t i = 0; i < count; i++)
            first[(b->links[i].target >> shift) % RADIX + 1]++;
        for (uint32_t i = 0; i < RADIX; i++)
            first[i + 1] += first[i];
        for (uint32_t i = 0; i < count; i++)
            b->sorted[first[(b->links[i].target >> shift) % RADIX]++] = b->links[i];
        b->links = b->sorted;
        b->sorted = swap;
    }
}

static uint32_t group_links(struct vs_build *b, uint32_t count)
{
    uint32_t groups = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || b->links[i].target != b->links[i - 1].target)
            b->groups[groups++] = i;
    }
    b->groups[groups] = count;
    return groups;
}

/* Adds edges to one target: appended while there is room, else all are weighed
 * again, and a diverse few stay. */
static void add_edges_back(void *arg, uint32_t item, uint32_t strand)
{
    struct vshard_index *x = arg;
    struct vs_build *b = &x->build;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    const struct vs_link *link = b->links + b->groups[item];
    const struct vs_link *end = b->links + b->groups[item + 1];
    uint32_t target = link->target, *edges = s->slots;
    uint32_t count = vs_read_edges(x, target, edges), added = 0;
    int32_t key;
    const struct vs_query q = vs_row_query(x, target, s);

    s->pool.count = s->pool.next = 0;
    s->pool.cap = 3 * x->degree;
    for (; link < end; link++) {
        if (vs_contains(edges, count, link->source))
            continue;
        key = vs_has_distances(x) ? link->key : vs_key_of(x, &q, link->source);
        x->kernel.pool_push(&s->pool, &key, &link->source, 1);
        added++;
    }
    if (added == 0)
        return;
    if (count + added > x->degree) {
        uint32_t before[2 * M_MAX];

        memcpy(before, edges, count * sizeof *before);
        s->pool.cap += x->degree; /* so that none of these falls out */
        vs_offer(x, &q, s, count);
        vs_tree_pin(x, &s->pool, target, before, count);
        vs_keep_live_or_marked(x, &s->pool);
        vs_choose(x, s, target, vs_kept_edges(x));
        vs_tree_front(s->pool.slots, s->pool.count, before[0]);
        vs_write_edges(x, target, s->pool.slots, s->pool.count);
        return;
    }
    for (uint32_t i = 0; i < s->pool.count; i++)
        edges[count++] = s->pool.slots[i];
    vs_write_edges(x, target, edges, count);
}

/* A row that has no edges yet gets its first before others look whether it is theirs. */
static void add_first_edge(void *arg, uint32_t item, uint32_t strand)
{
    struct vshard_index *x = arg;
    const struct vs_link *link = x->build.links + x->build.groups[item];

    (void)strand;
    if (atomic_load_explicit(vs_edges_at(x, link->target), memory_order_relaxed) == VS_SLOT_NONE)
        vs_write_edges(x, link->target, &link->source, 1);
}

static void link_back(struct vshard_index *x, uint32_t links)
{
    struct vs_build *b = &x->build;
    uint32_t groups;

    sort_links(b, links, atomic_load(&x->slot_count));
    groups = group_links(b, links);
    vs_parallel(x, groups, add_first_edge, x);
    vs_parallel(x, groups, add_edges_back, x);
}

/* Links rows that have codes and are not live yet. */
void vs_build_link(struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    x->build.slots = slots;
    x->build.count = count;
    vs_parallel(x, (count + WALKS - 1) / WALKS, find_edges, x);
    link_back(x, write_own_edges(x));
    for (uint32_t i = 0; i < count; i++)
        vs_tree_hang(x, slots[i]);
}
