/* graph_islands.c - every part of a graph that hangs together has an entry.
 *
 * Where clusters lie far from each other, edges from one to another are few, and walks get only to
 * those where they can begin. A row that comes when there is a graph is compared with that, and is
 * an entry if it is far (graph_build.c). Rows that are linked together have nothing to be far from;
 * so when they have their edges, parts are looked for that hang together by near neighbours and
 * have no entry, and one row of each becomes one. That a walk gets there as it is says little: it
 * does by edges of single rows, and these may go. (Of 20 clusters whose rows came in turns a beam
 * of 20 missed 2, and 8 when half of the rows had been removed.)
 *
 * Words, sentences and descriptors of images are one piece, but for some sentence that is there
 * several times. Where parts are very many, as where each row is there ten times, walks do get from
 * one to the next; so beyond a number of entries only a part that a walk does not get near has
 * one. */
#include "index/state.h"

#include <math.h>

enum {
    NEAR_PART = 8, /* of its neighbours is what a row has around it, and all that are */
    NEAR = 2,      /* no more than so many times as far are near; the others may be elsewhere */
    FEW = 256,     /* entries, which cost a walk a twentieth of its time; where there are more, */
    BEAM = 24      /* a walk with this beam says whether one is needed */
};

struct vs_islands {
    struct vshard_index *x;
    const uint32_t *slots; /* the rows */
    uint32_t words;        /* of a slot in `near` */
    uint64_t cap;          /* slots there is room for */
    uint64_t *near;        /* [cap x words] one bit an edge: 1 where it leads to a near row */
    uint32_t *queue;       /* [cap] */
};

void vs_islands_end(struct vshard_index *x, struct vs_islands *g)
{
    if (g == NULL)
        return;
    vs_free(x->allocator, g->near, g->cap * g->words * sizeof *g->near);
    vs_free(x->allocator, g->queue, g->cap * sizeof *g->queue);
    vs_free(x->allocator, g, sizeof *g);
}

/* Gets all memory that vs_islands_enter() needs when there are so many slots. */
int vs_islands_begin(struct vshard_index *x, uint64_t slots, struct vs_islands **out)
{
    struct vs_islands *g = *out = vs_alloc_zeroed(x->allocator, sizeof *g);

    if (g == NULL)
        return VSHARD_ENOMEM;
    g->x = x;
    g->cap = slots;
    g->words = (x->degree + 63) / 64;
    g->near = vs_alloc_zeroed(x->allocator, g->cap * g->words * sizeof *g->near);
    g->queue = vs_alloc(x->allocator, g->cap * sizeof *g->queue);
    if (g->near && g->queue)
        return VSHARD_OK;
    vs_islands_end(x, g);
    *out = NULL;
    return VSHARD_ENOMEM;
}

/* How far it is from a row to those around it. Sets the first *count of s->distances to how far
 * its neighbours are; uses s->slots, s->rows and s->keys. */
static float around(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s,
                    uint32_t *count)
{
    uint32_t n = *count = vs_read_edges(x, slot, s->slots);
    float apart[2 * M_MAX];

    vs_apart(x, slot, s, n);
    memcpy(apart, s->distances, n * sizeof *apart);
    return n == 0 ? INFINITY : vs_nth(apart, n, n / NEAR_PART);
}

/* Which of a row's edges lead to near rows. */
static void find_near(void *arg, uint32_t row, uint32_t strand)
{
    const struct vs_islands *g = arg;
    struct vs_scratch *s = &g->x->strands[strand * WALKS];
    uint32_t slot = g->slots[row], count;
    uint64_t *near = g->near + (size_t)slot * g->words;
    float far = NEAR * around(g->x, slot, s, &count);

    memset(near, 0, g->words * sizeof *near);
    for (uint32_t i = 0; i < count; i++)
        near[i / 64] |= (uint64_t)(s->distances[i] <= far) << (i % 64);
}

/* Leaves in `to` the rows that are near one. */
static uint32_t read_near(const struct vs_islands *g, uint32_t slot, uint32_t to[2 * M_MAX])
{
    const uint64_t *near = g->near + (size_t)slot * g->words;
    uint32_t count = vs_read_edges(g->x, slot, to), kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        to[kept] = to[i];
        kept += (uint32_t)(near[i / 64] >> (i % 64) & 1);
    }
    return kept;
}

static bool mark(uint64_t *marks, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64), old = marks[slot / 64];

    marks[slot / 64] = old | bit;
    return (old & bit) == 0;
}

/* Marks the rows that ways over near rows lead to from queue[0, queued) on. */
static void spread(const struct vs_islands *g, uint64_t *marks, uint32_t queued)
{
    for (uint32_t at = 0; at < queued; at++) {
        uint32_t to[2 * M_MAX], count = read_near(g, g->queue[at], to);

        for (uint32_t i = 0; i < count; i++) {
            if (mark(marks, to[i]))
                g->queue[queued++] = to[i];
        }
    }
}

static bool is_near_marked(const struct vs_islands *g, const uint64_t *marks, uint32_t slot)
{
    uint32_t to[2 * M_MAX], count = read_near(g, slot, to);

    for (uint32_t i = 0; i < count; i++) {
        if (marks[to[i] / 64] >> (to[i] % 64) & 1)
            return true;
    }
    return false;
}

/* Marks what hangs together with a row. True if it is a part by itself: nothing was marked that
 * it is near. */
static bool is_island(const struct vs_islands *g, uint64_t *marks, uint32_t slot)
{
    bool apart;

    if (!mark(marks, slot))
        return false;
    apart = !is_near_marked(g, marks, slot);
    g->queue[0] = slot;
    spread(g, marks, 1);
    return apart;
}

/* Whether a walk for a row neither finds it nor gets near. */
static bool is_lost(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    struct vs_walk walk = { .scratch = s, .query = vs_row_query(x, slot, s) };
    float nearest;
    uint32_t count;

    vs_graph_walk(x, &walk, 1, BEAM);
    vs_graph_rank(x, &walk);
    vs_keep_live(x, &s->pool);
    if (vs_contains(s->pool.slots, s->pool.count, slot))
        return false;
    if (s->pool.count == 0)
        return true;
    nearest = vs_apart_least(x, slot, s, &count);
    return nearest > vs_far_times(x) * around(x, slot, s, &count);
}

/* Begins at entries of one kind: VS_ENTRY_ALONE, those that have heirs (repair.c), or 0, those that
 * were chosen by their ids, and have heirs from here on if there is no other entry. */
static void begin_at_entries(const struct vs_islands *g, uint64_t *marks, uint32_t kind)
{
    uint32_t entries = atomic_load(&g->x->entry_count);

    for (uint32_t i = 0; i < entries; i++) {
        uint32_t slot = vs_entry_at(g->x, i);

        if ((vs_entry_word(g->x, i) & VS_ENTRY_ALONE) == kind &&
            vs_row_state(g->x, slot) < VS_ROW_REMOVED && is_island(g, marks, slot))
            vs_entry_set(g->x, i, slot | VS_ENTRY_ALONE);
    }
}

/* The rows are all of the graph, which must lead to no others. */
void vs_islands_enter(struct vshard_index *x, struct vs_islands *g, const uint32_t *slots,
                      uint32_t count)
{
    uint64_t *marks = x->strands[0].visited;

    g->slots = slots;
    vs_parallel(x, count, find_near, g);
    memset(marks, 0, (atomic_load(&x->slot_count) / 64 + 1) * sizeof *marks);
    begin_at_entries(g, marks, VS_ENTRY_ALONE);
    begin_at_entries(g, marks, 0);
    for (uint32_t row = 0; row < count; row++) {
        if (is_island(g, marks, slots[row]) &&
            (atomic_load(&x->entry_count) < FEW || is_lost(x, slots[row], &x->strands[1])))
            vs_entry_offer(x, slots[row], 1);
    }
}
