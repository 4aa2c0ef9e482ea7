/* graph_bulk.c - a graph over many rows at once, for a first load.
 *
 * Inserting rows one after the other spends most of its time on finding each row's
 * neighbours by a walk. When all rows are there, they can be found in blocks that fit
 * the cache instead: graph_leaves.c does so, and here follows
 *
 *   3. Of what its leaves found a row keeps a diverse few; each edge asks for one back,
 *      and each row prunes once for all that ask.
 *      Clusters that are far from each other then have no edges between them, so entries are
 *      given to those that lack them (graph_islands.c); and so again at the end.
 *   4. Each row walks the graph that came of it, with a narrow beam, and chooses again
 *      among what it had and what it met; and edges back again. Leaves know only what
 *      is near; this is what makes ways between them. Nothing comes after, so now lists
 *      are filled.
 *
 * Every step writes only what belongs to one row or one leaf, and reads what the steps
 * before have left, on integer distances with ties in one fixed order. So the result
 * does not depend on the number of threads, nor on the instruction set. */
#include "index/bulk.h"

#include <math.h>

enum {
    BULK_MIN = 8192,    /* rows; fewer are linked as fast one by one */
    BULK_MAX = 1 << 28, /* so that occurrences of rows can be counted in 32 bits */
    BEAM_PARTS = 25,    /* the walk's beam is 7 parts of this many of ef_construction's, */
    BEAM_MIN = 16       /* since leaves have found most of what online building walks for */
};

/* ---- buffers ---- */

/* Whether a call that links `count` rows is to do it here: when they are many, and no
 * fewer than those that are linked already, which then are linked again with them. Leaves are
 * of codes. */
bool vs_bulk_suits(const struct vshard_index *x, uint64_t count)
{
    uint64_t there = atomic_load(&x->trained) ? x->live : 0;

    return !x->by_vectors && count >= BULK_MIN && count >= there && count + there <= BULK_MAX;
}

static uint32_t beam(const struct vshard_index *x)
{
    uint32_t ef = x->ef_construction * 7 / BEAM_PARTS;

    return ef < BEAM_MIN ? BEAM_MIN : ef;
}

/* Candidates of one task. */
uint32_t vs_bulk_pool(const struct vshard_index *x)
{
    return VS_LEAVES_FOUND + beam(x) + x->degree;
}

static size_t strand_bytes(const struct vs_bulk *b)
{
    return VS_LEAF_MAX * b->stride;
}

void vs_bulk_end(struct vshard_index *x, struct vs_bulk *b)
{
    const struct vshard_allocator *a = x->allocator;

    if (b == NULL)
        return;
    for (uint32_t i = 0; b->strands != NULL && i < x->strand_count; i++) {
        vs_free_wiped(a, b->strands[i].codes, strand_bytes(b));
        vs_free(a, b->strands[i].rows, VS_LEAF_MAX * sizeof *b->strands[i].rows);
        vs_free(a, b->strands[i].keys, VS_LEAF_TILE * VS_LEAF_MAX * sizeof *b->strands[i].keys);
        vs_free_wiped(a, b->strands[i].panels, strand_bytes(b));
        vs_free(a, b->strands[i].norms, 2 * VS_LEAF_MAX * sizeof *b->strands[i].norms);
        vs_free_wiped(a, b->strands[i].asked, VS_LEAF_TILE * b->stride);
        vs_free(a, b->strands[i].numbers, VS_LEAF_MAX * sizeof *b->strands[i].numbers);
    }
    vs_free(a, b->strands, x->strand_count * sizeof *b->strands);
    vs_free(a, b->identity, VS_LEAF_MAX * sizeof *b->identity);
    vs_free(a, b->sources, b->cap * vs_kept_edges(x) * sizeof *b->sources);
    vs_free(a, b->ins, b->ins_cap * sizeof *b->ins);
    vs_free(a, b->found, b->cap * b->width * sizeof *b->found);
    vs_free(a, b->spare, b->cap * VS_LEAF_FANOUT * sizeof *b->spare);
    vs_free(a, b->members, b->cap * VS_LEAF_FANOUT * sizeof *b->members);
    vs_free(a, b->nearest, b->cap * VS_LEAF_FANOUT * sizeof *b->nearest);
    vs_free(a, b->firsts, (b->leader_cap + 1) * sizeof *b->firsts);
    vs_free(a, b->rows, b->leader_cap * sizeof *b->rows);
    vs_free_wiped(a, b->panels, b->leader_cap * b->stride);
    vs_free(a, b->norms, 2 * (size_t)b->leader_cap * sizeof *b->norms);
    vs_free_wiped(a, b->codes, b->leader_cap * b->stride);
    vs_free(a, b->slots, b->cap * sizeof *b->slots);
    vs_free(a, b, sizeof *b);
}

static bool get_strands(struct vshard_index *x, struct vs_bulk *b)
{
    const struct vshard_allocator *a = x->allocator;

    b->strands = vs_alloc_zeroed(a, x->strand_count * sizeof *b->strands);
    for (uint32_t i = 0; b->strands != NULL && i < x->strand_count; i++) {
        b->strands[i].codes = vs_alloc(a, strand_bytes(b));
        b->strands[i].rows = vs_alloc(a, VS_LEAF_MAX * sizeof *b->strands[i].rows);
        b->strands[i].keys = vs_alloc(a, VS_LEAF_TILE * VS_LEAF_MAX * sizeof *b->strands[i].keys);
        b->strands[i].panels = vs_alloc(a, strand_bytes(b));
        b->strands[i].norms = vs_alloc(a, 2 * VS_LEAF_MAX * sizeof *b->strands[i].norms);
        b->strands[i].asked = vs_alloc(a, VS_LEAF_TILE * b->stride);
        b->strands[i].numbers = vs_alloc(a, VS_LEAF_MAX * sizeof *b->strands[i].numbers);
        if (!b->strands[i].codes || !b->strands[i].rows || !b->strands[i].keys ||
            !b->strands[i].panels || !b->strands[i].norms || !b->strands[i].asked ||
            !b->strands[i].numbers)
            return false;
        for (size_t j = 0; j < VS_LEAF_MAX; j++)
            b->strands[i].rows[j] = b->strands[i].codes + j * b->stride;
    }
    return b->strands != NULL;
}

/* Gets all memory that linking `count` rows needs, beside those that are live. The
 * columns must have been reserved. */
int vs_bulk_begin(struct vshard_index *x, uint64_t count, struct vs_bulk **out)
{
    const struct vshard_allocator *a = x->allocator;
    struct vs_bulk *b = vs_alloc_zeroed(a, sizeof *b);

    *out = b;
    if (b == NULL)
        return VSHARD_ENOMEM;
    b->cap = count + x->live;
    b->leader_cap = (uint32_t)(b->cap / VS_LEADER_SHARE * 2 + 64) / VS_PANEL_ROWS * VS_PANEL_ROWS;
    b->width = VS_LEAVES_FOUND > vs_kept_edges(x) ? VS_LEAVES_FOUND : vs_kept_edges(x);
    b->stride = (x->traversal->stride + 63) / 64 * 64;
    b->ins_cap = (size_t)x->rows.extents * VS_EXTENT_ROWS + 1;
    b->slots = vs_alloc(a, b->cap * sizeof *b->slots);
    b->codes = vs_alloc(a, b->leader_cap * b->stride);
    b->rows = vs_alloc(a, b->leader_cap * sizeof *b->rows);
    b->panels = vs_alloc(a, b->leader_cap * b->stride);
    b->norms = vs_alloc(a, 2 * (size_t)b->leader_cap * sizeof *b->norms);
    b->firsts = vs_alloc(a, (b->leader_cap + 1) * sizeof *b->firsts);
    b->nearest = vs_alloc(a, b->cap * VS_LEAF_FANOUT * sizeof *b->nearest);
    b->members = vs_alloc(a, b->cap * VS_LEAF_FANOUT * sizeof *b->members);
    b->spare = vs_alloc(a, b->cap * VS_LEAF_FANOUT * sizeof *b->spare);
    b->found = vs_alloc(a, b->cap * b->width * sizeof *b->found);
    b->ins = vs_alloc(a, b->ins_cap * sizeof *b->ins);
    b->sources = vs_alloc(a, b->cap * vs_kept_edges(x) * sizeof *b->sources);
    b->identity = vs_alloc(a, VS_LEAF_MAX * sizeof *b->identity);
    if (vs_strands_reserve(x, vs_bulk_pool(x)) < 0) {
        vs_bulk_end(x, b);
        *out = NULL;
        return VSHARD_ENOMEM;
    }
    if (b->slots && b->codes && b->rows && b->panels && b->norms && b->firsts && b->nearest &&
        b->members && b->spare && b->found && b->ins && b->sources && b->identity &&
        get_strands(x, b)) {
        for (uint32_t i = 0; i < VS_LEAF_MAX; i++)
            b->identity[i] = i;
        return VSHARD_OK;
    }
    vs_bulk_end(x, b);
    *out = NULL;
    return VSHARD_ENOMEM;
}

/* ---- 3: edges ---- */

static bool mark(uint64_t *marks, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64), old = marks[slot / 64];

    marks[slot / 64] = old | bit;
    return (old & bit) == 0;
}

/* A diverse few of what the leaves found. */
static void choose_found(void *arg, uint32_t row, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    const uint32_t *found = w->b->found + (size_t)row * w->b->width;
    uint32_t slot = w->b->slots[row], unseen = 0;
    const struct vs_query q = vs_row_query(x, slot, s);

    for (uint32_t i = 0; i < VS_LEAVES_FOUND; i++) {
        if (found[i] != VS_SLOT_NONE && mark(s->visited, found[i]))
            s->slots[unseen++] = found[i];
    }
    for (uint32_t i = 0; i < unseen; i++)
        s->visited[s->slots[i] / 64] = 0;
    s->pool.count = s->pool.next = 0;
    s->pool.cap = VS_LEAVES_FOUND;
    vs_offer(x, &q, s, unseen);
    vs_choose(x, s, slot, vs_kept_edges(x));
    vs_write_edges(x, slot, s->pool.slots, s->pool.count);
}

/* Collects for each slot the rows that have an edge to it. */
static void gather_ins(const struct vshard_index *x, struct vs_bulk *b)
{
    uint32_t slots = atomic_load(&x->slot_count), kept = vs_kept_edges(x);

    memset(b->ins, 0, (slots + 1) * sizeof *b->ins);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t row = 0; row < b->count; row++) {
            const _Atomic uint32_t *edges = vs_edges_at(x, b->slots[row]);

            for (uint32_t i = 0; i < kept; i++) {
                uint32_t to = atomic_load_explicit(&edges[i], memory_order_relaxed);

                if (to == VS_SLOT_NONE)
                    break;
                if (pass == 0)
                    b->ins[to + 1]++;
                else
                    b->sources[b->ins[to]++] = b->slots[row];
            }
        }
        for (uint32_t i = 0; pass == 0 && i < slots; i++)
            b->ins[i + 1] += b->ins[i];
    }
    memmove(b->ins + 1, b->ins, slots * sizeof *b->ins);
    b->ins[0] = 0;
}

/* Edges back to all that have an edge to this row; if there is not room for all, a
 * diverse few. */
static void add_ins(void *arg, uint32_t row, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    uint32_t slot = w->b->slots[row], edges[2 * M_MAX], count = vs_read_edges(x, slot, edges);
    const struct vs_query q = vs_row_query(x, slot, s);
    const uint32_t *in = w->b->sources + w->b->ins[slot],
                   *end = w->b->sources + w->b->ins[slot + 1];
    uint32_t own = count, gathered = 0;

    s->pool.count = s->pool.next = 0;
    s->pool.cap = 4 * x->degree;
    for (; in < end; in++) {
        if (vs_contains(edges, own, *in))
            continue;
        if (count < x->degree)
            edges[count] = *in;
        count++;
        s->slots[gathered++] = *in;
        if (gathered == s->list_cap) {
            vs_offer(x, &q, s, gathered);
            gathered = 0;
        }
    }
    if (count > x->degree) {
        vs_offer(x, &q, s, gathered);
        memcpy(s->slots, edges, own * sizeof *edges);
        vs_offer(x, &q, s, own);
        vs_choose(x, s, slot, w->want);
        vs_write_edges(x, slot, s->pool.slots, s->pool.count);
    } else {
        vs_write_edges(x, slot, edges, count);
    }
}

static void link_back(struct vs_bulk_work *w)
{
    gather_ins(w->x, w->b);
    vs_parallel(w->x, w->b->count, add_ins, w);
}

/* ---- 4: a walk for each row ---- */

static void choose_again(struct vshard_index *x, struct vs_bulk *b, struct vs_walk *walk,
                         uint32_t row)
{
    struct vs_scratch *s = walk->scratch;
    uint32_t slot = b->slots[row], edges[2 * M_MAX], count = vs_read_edges(x, slot, edges);
    uint32_t *found = b->found + (size_t)row * b->width, kept = 0;

    vs_graph_rank(x, walk);
    vs_keep_live(x, &s->pool);
    for (uint32_t i = 0; i < s->pool.count; i++) {
        s->pool.keys[kept] = s->pool.keys[i];
        s->pool.slots[kept] = s->pool.slots[i];
        kept += s->pool.slots[i] != slot;
    }
    s->pool.count = kept;
    s->pool.cap = beam(x) + x->degree;
    for (uint32_t i = kept = 0; i < count; i++) {
        s->slots[kept] = edges[i];
        kept += !vs_contains(s->pool.slots, s->pool.count, edges[i]);
    }
    vs_offer(x, &walk->query, s, kept);
    vs_choose(x, s, slot, vs_kept_edges(x));
    for (uint32_t i = 0; i < b->width; i++)
        found[i] = i < s->pool.count ? s->pool.slots[i] : VS_SLOT_NONE;
}

static void walk_rows(void *arg, uint32_t group, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_bulk *b = w->b;
    struct vs_walk walks[WALKS] = { 0 };
    uint32_t first = group * WALKS, count = b->count - first < WALKS ? b->count - first : WALKS;

    for (uint32_t i = 0; i < count; i++) {
        walks[i].scratch = &x->strands[strand * WALKS + i];
        walks[i].query = vs_row_query(x, b->slots[first + i], walks[i].scratch);
    }
    vs_graph_walk(x, walks, count, beam(x));
    for (uint32_t i = 0; i < count; i++)
        choose_again(x, b, &walks[i], first + i);
}

static void write_found(void *arg, uint32_t row, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    const uint32_t *found = w->b->found + (size_t)row * w->b->width;
    uint32_t count = 0, kept = vs_kept_edges(w->x);

    (void)strand;
    while (count < kept && found[count] != VS_SLOT_NONE)
        count++;
    vs_write_edges(w->x, w->b->slots[row], found, count);
}

/* The live rows and the new ones, which have codes in `slots`, join their leaves; then the slots
 * are dealt out so that new rows of one leaf have such as follow each other. */
void vs_bulk_arrange(struct vshard_index *x, struct vs_bulk *b, uint32_t *slots, uint32_t count)
{
    struct vs_bulk_work w = { x, b, 0 };
    uint32_t slot_count = atomic_load(&x->slot_count);
    const uint32_t *order;

    b->count = 0;
    for (uint32_t slot = 0; slot < slot_count; slot++) {
        if (vs_row_state(x, slot) == VS_ROW_LIVE)
            b->slots[b->count++] = slot;
    }
    b->old = b->count;
    memcpy(b->slots + b->old, slots, count * sizeof *slots);
    b->count += count;
    order = vs_leaves_join(&w);
    for (uint32_t i = 0; i < count; i++)
        slots[order[i]] = b->slots[b->old + i];
}

/* Links the new rows, which have their places and are not live yet, and all live rows. */
void vs_bulk_link(struct vshard_index *x, struct vs_bulk *b, struct vs_islands *islands)
{
    struct vs_bulk_work w = { x, b, vs_kept_edges(x) };
    uint32_t slot_count = atomic_load(&x->slot_count);
    uint32_t old = atomic_load(&x->trained) ? b->old : 0; /* who are entries by now, if ever */
    struct vs_planting planting = { x->strands[0].visited, b->spare, b->ins };

    for (size_t i = 0; i < (size_t)b->count * b->width; i++)
        b->found[i] = VS_SLOT_NONE;
    for (uint32_t i = 0; i < x->strand_count * WALKS; i++)
        memset(x->strands[i].visited, 0, (slot_count / 64 + 1) * sizeof(uint64_t));

    vs_leaves_find(&w);
    vs_parallel(x, b->count, choose_found, &w);
    link_back(&w);
    for (uint32_t i = old; i < b->count; i++)
        vs_entry_offer(x, b->slots[i], 0);
    vs_islands_enter(x, islands, b->slots, b->count);
    vs_parallel(x, (b->count + WALKS - 1) / WALKS, walk_rows, &w);
    vs_parallel(x, b->count, write_found, &w);
    w.want = x->degree;
    link_back(&w);
    vs_islands_enter(x, islands, b->slots, b->count); /* by the edges that are left */
    vs_tree_plant(x, &planting, b->slots, b->count);
}
