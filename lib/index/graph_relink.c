/* graph_relink.c - other edges for rows that lead to removed ones.
 *
 * What a row had chosen and is still there stays: it was diverse when it was chosen, and
 * is. A row that has enough left gets nothing, since rows to come will ask it for edges back.
 * Else it gets neighbours of those that go, nearest first, where no row that stays is
 * nearer to the candidate than the row itself is; and what is left, of the nearest passed
 * over. To weigh all of them again for each row (Singh et al. 2021, Algorithm 4) and to ask
 * for edges back was twice the work of an insertion, and found no more (bench/RESULTS.md).
 * A row that is gone took one edge from each who led to it, and led to as many. */
#include "index/state.h"

enum {
    CANDIDATES = 16, /* for each place */
    AHEAD = 4,       /* rows, whose memory is requested early */
    LINE = 64        /* bytes of a cache line */
};

/* Below this a row that loses edges gets others, */
static uint32_t edges_enough(const struct vshard_index *x)
{
    return x->degree * 25 / 32;
}

/* and at once so many that it lacks none again soon: most of what it takes to find one, it takes
 * once for several (bench/RESULTS.md). */
static uint32_t edges_filled(const struct vshard_index *x)
{
    return x->degree * 15 / 16;
}

/* Moves the edges that stay to the front of the list; returns how many. */
static uint32_t keep_edges(const struct vshard_index *x, uint32_t *list, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t to = list[i];

        if (vs_is_dying(x, to))
            continue;
        list[i] = list[kept];
        list[kept++] = to;
    }
    return kept;
}

static void request(const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch((const char *)p + i, 0, 2);
}

static void request_codes(const struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        request(vs_code_at(x, slots[i]), 2 * LINE);
}

/* Requests what a row will need, if it gets other edges: the edges of its neighbours that go, or
 * the codes where these lead. */
static void request_of(const struct vshard_index *x, uint32_t item, bool codes)
{
    uint32_t list[2 * M_MAX], theirs[2 * M_MAX], count, kept;

    if (item >= x->build.count)
        return;
    count = vs_read_edges(x, x->build.slots[item], list);
    kept = keep_edges(x, list, count);
    for (uint32_t i = kept; kept < edges_enough(x) && i < count; i++) {
        if (codes)
            request_codes(x, theirs, vs_read_edges(x, list[i], theirs));
        else
            request(vs_edges_at(x, list[i]), x->edges.stride);
    }
}

static void mark(struct vs_scratch *s, uint32_t slot)
{
    s->visited[slot / 64] |= 1ull << (slot % 64);
}

static bool is_marked(const struct vs_scratch *s, uint32_t slot)
{
    return s->visited[slot / 64] >> (slot % 64) & 1;
}

/* There are no other marks in the same words. */
static void unmark(struct vs_scratch *s, uint32_t slot)
{
    s->visited[slot / 64] = 0;
}

/* The pool becomes the neighbours of the rows that go, but for the row itself and what it
 * has; one may be there once for each. The edges of a row that goes are not written
 * meanwhile. */
static void gather_candidates(const struct vshard_index *x, struct vs_scratch *s, uint32_t slot,
                              const uint32_t *list, uint32_t kept, uint32_t count)
{
    const struct vs_query q = vs_row_query(x, slot, s);
    uint32_t theirs[2 * M_MAX], most = CANDIDATES * (count - kept);

    s->pool.count = s->pool.next = 0;
    s->pool.cap = most < 3 * x->degree ? most : 3 * x->degree;
    mark(s, slot);
    for (uint32_t i = 0; i < kept; i++)
        mark(s, list[i]);
    for (uint32_t i = kept; i < count; i++) {
        uint32_t n = vs_read_edges(x, list[i], theirs), unseen = 0;

        for (uint32_t j = 0; j < n; j++) {
            if (!vs_is_gone(x, theirs[j]) && !is_marked(s, theirs[j]))
                s->slots[unseen++] = theirs[j];
        }
        vs_offer(x, &q, s, unseen);
    }
    unmark(s, slot);
    for (uint32_t i = 0; i < kept; i++)
        unmark(s, list[i]);
}

/* A row without its removed neighbours. The first edge stays until all rows are done, since
 * others look at it; so does a place for it. */
static void replace_edges(void *arg, uint32_t item, uint32_t strand)
{
    struct vshard_index *x = arg;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    uint32_t slot = x->build.slots[item], list[2 * M_MAX], parent;
    uint32_t count = vs_read_edges(x, slot, list), kept;
    bool orphan;

    request_of(x, item + AHEAD, false);
    request_of(x, item + 1, true);
    if (count == 0)
        return;
    parent = list[0];
    orphan = vs_is_dying(x, parent);
    kept = keep_edges(x, list, count);
    if (kept + orphan < edges_enough(x)) {
        request_codes(x, list, kept);
        gather_candidates(x, s, slot, list, kept, count);
        kept = vs_fill(x, s, slot, list, kept, edges_filled(x) - orphan);
    }
    if (orphan)
        list[kept++] = parent;
    vs_tree_front(list, kept, parent);
    vs_write_edges(x, slot, list, kept);
}

/* Replaces the removed rows among the neighbours of these rows. */
void vs_build_relink(struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < x->strand_count; i++)
        vs_visited_clear(x, &x->strands[i * WALKS]);
    x->build.slots = slots;
    x->build.count = count;
    vs_parallel(x, count, replace_edges, x);
    for (uint32_t i = 0; i < count; i++)
        vs_tree_forget(x, slots[i]);
}
