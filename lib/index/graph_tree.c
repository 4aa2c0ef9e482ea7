/* graph_tree.c - every row can be reached, by construction.
 *
 * Pruning keeps near and diverse edges, and by itself can take a row's last edge in:
 * among many equal rows, or of one that is far from all others. So there is a tree in
 * the graph. The first edge of a row leads to its parent, and the parent has an edge to
 * the row, which pruning must keep. Parents are older than their children, or above
 * where those were before; so there is no ring, and every row hangs from an entry, where
 * walks start. The first edge of an entry is kept, too, and says nothing.
 *
 * A new row's parent is the nearest of its neighbours that has fewer than a quarter of
 * its places taken by children. Where several of a batch chose one, or when a parent is
 * removed, rows are adopted: by the row where they asked, or by one below it that has
 * room, or by the nearest live row above one that was removed. That is done row by row,
 * in the order of slots, so that it is the same on any number of threads.
 *
 * In a file that was tampered with there may be a ring; so every way up or down is
 * bounded. */
#include "index/state.h"

enum { STEPS_MAX = 4096 };

static uint32_t first_edge(const struct vshard_index *x, uint32_t slot)
{
    return atomic_load_explicit(vs_edges_at(x, slot), memory_order_relaxed);
}

/* Children that a row takes before it passes on those who ask. */
static uint32_t children_most(const struct vshard_index *x)
{
    return x->degree / 4;
}

static void request_first_edges(const struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        __builtin_prefetch(vs_edges_at(x, slots[i] & ~VS_POOL_EXPANDED));
}

/* Moves those of list that are children of the row to the front; returns their number. */
static uint32_t children_of(const struct vshard_index *x, uint32_t slot, uint32_t *list,
                            uint32_t count)
{
    uint32_t children = 0;

    request_first_edges(x, list, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t other = list[i];

        if (first_edge(x, other) != slot)
            continue;
        list[i] = list[children];
        list[children++] = other;
    }
    return children;
}

static bool has_room(const struct vshard_index *x, uint32_t slot)
{
    uint32_t list[2 * M_MAX], count = vs_read_edges(x, slot, list);

    return count < children_most(x) || children_of(x, slot, list, count) < children_most(x);
}

/* Which of a new row's edges, nearest first, is to be the first. */
uint32_t vs_tree_parent(const struct vshard_index *x, const uint32_t *to, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (has_room(x, to[i]))
            return i;
    }
    return 0;
}

/* Marks in the pool what this row must keep: its first edge, its children, and of those
 * that ask to be its children as many as there is room for. `edges` is what it has. */
void vs_tree_pin(const struct vshard_index *x, struct vs_pool *p, uint32_t slot,
                 const uint32_t *edges, uint32_t count)
{
    uint32_t children = 0;

    request_first_edges(x, p->slots, p->count);
    for (int asking = 0; asking < 2; asking++) {
        for (uint32_t i = 0; i < p->count; i++) {
            uint32_t to = p->slots[i];

            if ((to & VS_POOL_EXPANDED) || (first_edge(x, to) != slot && to != edges[0]) ||
                vs_contains(edges, count, to) == asking)
                continue;
            if (asking && ++children > children_most(x))
                return;
            children += !asking;
            p->slots[i] |= VS_POOL_EXPANDED;
        }
    }
}

/* Moves one edge to the front of a list that has it. */
void vs_tree_front(uint32_t *list, uint32_t count, uint32_t parent)
{
    uint32_t at = 0;

    while (at < count && list[at] != parent)
        at++;
    if (at == count)
        return;
    memmove(list + 1, list, at * sizeof *list);
    list[0] = parent;
}

/* Makes room for one more edge in a full list, by dropping the last that nothing hangs
 * on. Returns the edges left: count, if all must stay. */
static uint32_t drop_one(const struct vshard_index *x, uint32_t slot, uint32_t *list,
                         uint32_t count)
{
    for (uint32_t i = count; i-- > 1;) {
        if (first_edge(x, list[i]) == slot)
            continue;
        memmove(list + i, list + i + 1, (count - i - 1) * sizeof *list);
        return count - 1;
    }
    return count;
}

/* Gives `parent` an edge to the row, and the row its first edge to it. False if the
 * parent has room for no more. */
static bool attach(struct vshard_index *x, uint32_t slot, uint32_t parent)
{
    uint32_t list[2 * M_MAX + 1], count = vs_read_edges(x, parent, list);

    if (!vs_contains(list, count, slot)) {
        if (count == x->degree)
            count = drop_one(x, parent, list, count);
        if (count == x->degree)
            return false;
        list[count++] = slot;
        vs_write_edges(x, parent, list, count);
    }
    count = vs_read_edges(x, slot, list);
    if (count > 0 && vs_is_dying(x, list[0]))
        memmove(list, list + 1, --count * sizeof *list);
    if (!vs_contains(list, count, parent)) {
        if (count == x->degree)
            count = drop_one(x, slot, list, count);
        if (count == x->degree)
            list[0] = parent; /* where its first edge led before */
        else
            list[count++] = parent;
    }
    vs_tree_front(list, count, parent);
    vs_write_edges(x, slot, list, count);
    return true;
}

/* From `from` down to a row that has room, by a way that differs from row to row; or the
 * last that there is on that way. While a tree is planted, `seen` are the rows that hang
 * from it already: others may look like children, and are not. */
static uint32_t find_room(const struct vshard_index *x, const uint64_t *seen, uint32_t slot,
                          uint32_t from)
{
    for (uint32_t steps = 0; steps < STEPS_MAX; steps++) {
        uint32_t list[2 * M_MAX], count = vs_read_edges(x, from, list), live = 0;
        uint32_t children = children_of(x, from, list, count);

        if (children < children_most(x))
            return from;
        for (uint32_t i = 0; i < children; i++) {
            list[live] = list[i];
            live += list[i] != slot && vs_row_state(x, list[i]) < VS_ROW_REMOVED &&
                    (seen == NULL || (seen[list[i] / 64] >> (list[i] % 64) & 1));
        }
        if (live == 0)
            return from;
        from = list[vs_mix64((uint64_t)slot << 32 | from) % live];
    }
    return from;
}

/* The place of a row among the entries, or their number. */
uint32_t vs_entry_find(const struct vshard_index *x, uint32_t slot)
{
    uint32_t count = atomic_load(&x->entry_count), at = 0;

    while (at < count && vs_entry_at(x, at) != slot)
        at++;
    return at;
}

static bool is_entry_row(const struct vshard_index *x, uint32_t slot)
{
    return vs_entry_find(x, slot) < atomic_load(&x->entry_count);
}

static uint32_t live_entry(const struct vshard_index *x)
{
    uint32_t count = atomic_load(&x->entry_count);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = vs_entry_at(x, i);

        if (vs_row_state(x, slot) < VS_ROW_REMOVED)
            return slot;
    }
    return VS_SLOT_NONE;
}

/* The nearest row above a removed one that is live. */
static uint32_t live_above(const struct vshard_index *x, uint32_t slot)
{
    for (uint32_t steps = 0; steps < STEPS_MAX && slot != VS_SLOT_NONE; steps++) {
        if (vs_row_state(x, slot) < VS_ROW_REMOVED)
            return slot;
        if (is_entry_row(x, slot))
            break;
        slot = first_edge(x, slot);
    }
    return VS_SLOT_NONE;
}

/* Finds a row a parent, at `from` or below. For each row where there is none, the
 * entries must have been given room for one more. */
static void adopt(struct vshard_index *x, const uint64_t *seen, uint32_t slot, uint32_t from)
{
    uint32_t entries = atomic_load(&x->entry_count);

    if (from != VS_SLOT_NONE && attach(x, slot, find_room(x, seen, slot, from)))
        return;
    from = live_entry(x);
    if (from != VS_SLOT_NONE && from != slot && attach(x, slot, find_room(x, seen, slot, from)))
        return;
    if (vs_extents_for(entries + 1ull) > x->entries.extents)
        return;
    vs_entry_set(x, entries, slot);
    atomic_store_explicit(&x->entry_count, entries + 1, memory_order_release);
}

/* Sees to it that a row, which is new, hangs from where its first edge says. */
void vs_tree_hang(struct vshard_index *x, uint32_t slot)
{
    uint32_t parent = first_edge(x, slot), list[2 * M_MAX];

    if (parent != VS_SLOT_NONE && !vs_contains(list, vs_read_edges(x, parent, list), slot))
        adopt(x, NULL, slot, parent);
}

/* Finds other parents for the children of a row that is about to be freed. */
void vs_tree_orphan(struct vshard_index *x, uint32_t slot)
{
    uint32_t list[2 * M_MAX], count = vs_read_edges(x, slot, list);
    uint32_t children = children_of(x, slot, list, count);

    for (uint32_t i = 0; i < children; i++) {
        if (vs_row_state(x, list[i]) < VS_ROW_REMOVED && !is_entry_row(x, list[i]))
            adopt(x, NULL, list[i], live_above(x, slot));
    }
}

/* Takes the first edge from an entry, where it leads to a row that is about to be
 * freed. */
void vs_tree_forget(struct vshard_index *x, uint32_t slot)
{
    uint32_t list[2 * M_MAX], first = first_edge(x, slot);

    if (first != VS_SLOT_NONE && vs_is_dying(x, first))
        vs_write_edges(x, slot, list + 1, vs_read_edges(x, slot, list) - 1);
}

/* ---- a tree in a graph that has none ---- */

static bool mark(uint64_t *marks, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64), old = marks[slot / 64];

    marks[slot / 64] = old | bit;
    return (old & bit) == 0;
}

/* Lets what can be reached from queue[at] on hang from there. */
static uint32_t spread(const struct vshard_index *x, struct vs_planting *p, uint32_t at,
                       uint32_t count)
{
    for (; at < count; at++) {
        uint32_t list[2 * M_MAX], from = p->queue[at], edges = vs_read_edges(x, from, list);
        uint32_t children = 0;

        for (uint32_t i = 0; i < edges && children < children_most(x); i++) {
            if (!mark(p->seen, list[i]))
                continue;
            p->parents[list[i]] = from;
            p->queue[count++] = list[i];
            children++;
        }
    }
    return count;
}

/* Puts the parent first in a row's list, and drops no child for it. */
static void put_parent_first(struct vshard_index *x, const struct vs_planting *p, uint32_t slot)
{
    uint32_t list[2 * M_MAX + 1], count = vs_read_edges(x, slot, list), at = count;
    uint32_t parent = p->parents[slot];

    if (parent == VS_SLOT_NONE)
        return;
    if (!vs_contains(list, count, parent)) {
        while (count == x->degree && p->parents[list[--at]] == slot)
            ;
        if (count == x->degree)
            list[at] = parent;
        else
            list[count++] = parent;
    }
    vs_tree_front(list, count, parent);
    vs_write_edges(x, slot, list, count);
}

/* Makes a tree of the graph over these rows, from the entries on. Where it does not
 * reach, rows are adopted one by one: by a neighbour that was reached, else by the
 * nearest row of the entries. */
void vs_tree_plant(struct vshard_index *x, struct vs_planting *p, const uint32_t *slots,
                   uint32_t count)
{
    uint32_t slot_count = atomic_load(&x->slot_count), entries = atomic_load(&x->entry_count);
    uint32_t queued = 0;

    memset(p->seen, 0, (slot_count / 64 + 1) * sizeof *p->seen);
    memset(p->parents, 0xff, slot_count * sizeof *p->parents);
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t slot = vs_entry_at(x, i);

        if (vs_row_state(x, slot) < VS_ROW_REMOVED && mark(p->seen, slot))
            p->queue[queued++] = slot;
    }
    spread(x, p, 0, queued);
    for (uint32_t i = 0; i < count; i++)
        put_parent_first(x, p, slots[i]);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t list[2 * M_MAX], edges, from = VS_SLOT_NONE;

        if (!mark(p->seen, slots[i]))
            continue;
        edges = vs_read_edges(x, slots[i], list);
        for (uint32_t j = 0; j < edges && from == VS_SLOT_NONE; j++)
            from = p->seen[list[j] / 64] >> (list[j] % 64) & 1 ? list[j] : VS_SLOT_NONE;
        adopt(x, p->seen, slots[i], from);
        p->parents[slots[i]] = first_edge(x, slots[i]);
        p->queue[0] = slots[i];
        edges = spread(x, p, 0, 1);
        for (uint32_t j = 1; j < edges; j++)
            put_parent_first(x, p, p->queue[j]);
    }
}
