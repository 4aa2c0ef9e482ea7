/* repair.c - edges around removed rows.
 *
 * A removed row is not found any more, but walks still pass through it, because
 * taking it out at once would tear a hole. When enough have gathered, a pass begins:
 * it goes over all slots, and each row with an edge to a removed one drops it, or gets
 * another (graph_relink.c). At the end of the pass nothing leads to the removed rows, and
 * their slots are free.
 *
 * Add and remove move the pass on by a fixed number of slots for each row they
 * change, so no call is long, and the place of the pass depends on the calls alone.
 * It ends before as many rows are removed again as began it.
 *
 * Rows that were removed after the pass began wait for the next one, and are still
 * walked through: they get new edges too, so that they do not lead to freed slots.
 *
 * Rows whose parent in the tree of graph_tree.c is about to be freed get another when
 * the pass begins, before anything is taken from the graph.
 *
 * New edges never lead to dying rows, so nothing behind the cursor leads to a row that
 * the pass will free.
 *
 * Walks get to a cluster that lies apart by that of its rows which is an entry. When it dies the
 * nearest of its neighbours is an entry from then on, or of those of a neighbour that dies with it,
 * unless all are far: then the cluster is gone. (Of 30 clusters 20 apart two were lost when half of
 * all rows were replaced.) Rows that are entries by their ids are followed by others. */
#include "index/state.h"

enum {
    BEGIN_MIN = 1000,    /* removed rows that begin a pass, at least */
    BEGIN_ONE_IN = 32,   /* and as a part of all slots */
    SLOTS_PER_ROW = 256, /* looked at for each row that a call changes */
    GATHER = 1024,       /* rows relinked at once */
    BEHIND_MOST = 128,   /* rows that die, behind which an heir is looked for */
    SPARE_ENTRIES = 64   /* for rows that lose all there is above them */
};

static uint64_t begin_at(const struct vshard_index *x)
{
    uint64_t share = atomic_load(&x->slot_count) / BEGIN_ONE_IN;

    return share < BEGIN_MIN ? BEGIN_MIN : share;
}

static int reserve_marks(struct vshard_index *x)
{
    struct vs_repair *r = &x->repair;
    size_t words = (size_t)x->rows.extents * VS_EXTENT_ROWS / VS_MARK_SLOTS;
    uint64_t *marks;

    if (words <= r->marks_words)
        return VSHARD_OK;
    words += words / 8;
    marks = vs_alloc_zeroed(x->allocator, words * sizeof *marks);
    if (marks == NULL)
        return VSHARD_ENOMEM;
    if (r->marks != NULL)
        memcpy(marks, r->marks, r->marks_words * sizeof *marks);
    vs_free(x->allocator, r->marks, r->marks_words * sizeof *marks);
    atomic_fetch_add(&x->scratch_bytes, (words - r->marks_words) * sizeof *marks);
    r->marks = marks;
    r->marks_words = words;
    return VSHARD_OK;
}

/* Gets all memory that vs_repair_retire() and vs_repair_run() may need when `changed` more rows
 * may have been removed, and there may be so many entries: of these, all that are there now may
 * die and have heirs. */
int vs_repair_reserve(struct vshard_index *x, uint64_t changed, uint64_t entries)
{
    int rc;

    if (x->family == VSHARD_FAMILY_FLAT)
        return VSHARD_OK;
    rc = reserve_marks(x);
    if (rc < 0 || (!x->repair.active && !vs_shrink_due(x) &&
                   atomic_load(&x->removed) + changed < begin_at(x)))
        return rc;
    rc = vs_column_reserve(&x->entries, entries + atomic_load(&x->entry_count) + SPARE_ENTRIES,
                           x->allocator);
    return rc < 0 ? rc : vs_build_reserve(x, 1);
}

void vs_repair_fini(struct vshard_index *x)
{
    vs_free(x->allocator, x->repair.marks, x->repair.marks_words * sizeof *x->repair.marks);
}

/* Notes that a live row was removed. */
void vs_repair_retire(struct vshard_index *x, uint32_t slot)
{
    vs_row_retired(x, slot);
    x->repair.marks[slot / VS_MARK_SLOTS] |= vs_mark(slot, VS_MARK_GONE);
    vs_link_set(x, slot, x->repair.removed_head);
    x->repair.removed_head = slot;
    atomic_fetch_add_explicit(&x->removed, 1, memory_order_relaxed);
}

/* Appends the rows of a list that go with the pass, and are not there, to those that an heir is
 * looked for behind. Leaves the live ones in s->slots; returns their number. */
static uint32_t part(const struct vshard_index *x, const uint32_t *list, uint32_t count,
                     uint32_t *behind, uint32_t *behind_count, struct vs_scratch *s)
{
    uint32_t live = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (vs_row_state(x, list[i]) == VS_ROW_LIVE)
            s->slots[live++] = list[i];
        else if (*behind_count < BEHIND_MOST && !vs_contains(behind, *behind_count, list[i]))
            behind[(*behind_count)++] = list[i];
    }
    return live;
}

/* The nearest of the live rows in s->slots to one that dies, if it is of the same cluster. */
static uint32_t near_of(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s,
                        uint32_t live)
{
    uint32_t nearest = 0, to, count;
    float distance;

    if (live == 0)
        return VS_SLOT_NONE;
    vs_apart(x, slot, s, live);
    for (uint32_t i = 1; i < live; i++)
        nearest = s->distances[i] < s->distances[nearest] ? i : nearest;
    to = s->slots[nearest];
    distance = s->distances[nearest];
    count = vs_read_edges(x, to, s->slots);
    vs_apart(x, to, s, count);
    return count > 0 && distance <= vs_far_times(x) * vs_nth(s->distances, count, count / 2)
               ? to
               : VS_SLOT_NONE;
}

/* The nearest live neighbour of an entry that dies, if it is of the same cluster; else that of
 * its neighbours that die with it, and so on. */
static uint32_t heir(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    uint32_t behind[BEHIND_MOST] = { slot }, behind_count = 1;

    for (uint32_t at = 0; at < behind_count; at++) {
        uint32_t list[2 * M_MAX], count = vs_read_edges(x, behind[at], list), to;

        to = near_of(x, slot, s, part(x, list, count, behind, &behind_count, s));
        if (to != VS_SLOT_NONE)
            return to;
    }
    return VS_SLOT_NONE;
}

/* The entries that die stay until the pass ends, as roots of the tree. An heir that is an entry
 * by its id has an heir in turn. */
static void hand_over(struct vshard_index *x)
{
    uint32_t count = atomic_load(&x->entry_count);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = vs_entry_at(x, i), to, at;

        if (!(vs_entry_word(x, i) & VS_ENTRY_ALONE) || !vs_is_dying(x, slot))
            continue;
        to = heir(x, slot, &x->strands[0]);
        if (to == VS_SLOT_NONE)
            continue;
        at = vs_entry_find(x, to);
        vs_entry_set(x, at, to | VS_ENTRY_ALONE);
        if (at == atomic_load(&x->entry_count))
            atomic_store_explicit(&x->entry_count, at + 1, memory_order_release);
    }
}

static void begin(struct vshard_index *x)
{
    struct vs_repair *r = &x->repair;

    r->active = 1;
    r->cursor = 0;
    r->dying_head = r->removed_head;
    r->removed_head = VS_SLOT_NONE;
    vs_readers_drain(x);
    for (uint32_t slot = r->dying_head; slot != VS_SLOT_NONE; slot = vs_link(x, slot)) {
        vs_keep(x, IMAGE_ROWS, slot);
        atomic_fetch_or(&vs_row_at(x, slot)->state, VS_ROW_DYING);
        vs_scan_mark(x, slot, false);
        r->marks[slot / VS_MARK_SLOTS] |= vs_mark(slot, VS_MARK_DYING);
    }
    hand_over(x);
    for (uint32_t slot = r->dying_head; slot != VS_SLOT_NONE; slot = vs_link(x, slot))
        vs_tree_orphan(x, slot);
}

/* There must be an entry while there is a row. */
static uint32_t put_first_entry(struct vshard_index *x)
{
    uint32_t slots = atomic_load(&x->slot_count);

    for (uint32_t slot = 0; slot < slots; slot++) {
        if (vs_row_state(x, slot) == VS_ROW_LIVE) {
            vs_entry_set(x, 0, slot);
            return 1;
        }
    }
    return 0;
}

/* Takes the rows that are about to be freed out of the entries: the last ones take their
 * places, and stay where they are, so that a reader who goes from the first to the last
 * misses none. */
static void drop_entries(struct vshard_index *x)
{
    uint32_t count = atomic_load(&x->entry_count), at = 0;

    for (;;) {
        while (at < count && !vs_is_dying(x, vs_entry_at(x, at)))
            at++;
        while (at < count && vs_is_dying(x, vs_entry_at(x, count - 1)))
            count--;
        if (at == count)
            break;
        vs_entry_set(x, at, vs_entry_word(x, --count));
    }
    if (count == 0)
        count = put_first_entry(x);
    atomic_store_explicit(&x->entry_count, count, memory_order_release);
}

static void finish(struct vshard_index *x)
{
    struct vs_repair *r = &x->repair;
    uint32_t slot = r->dying_head;

    drop_entries(x);
    vs_readers_drain(x);
    while (slot != VS_SLOT_NONE) {
        uint32_t next = vs_link(x, slot);

        r->marks[slot / VS_MARK_SLOTS] &= ~vs_mark(slot, VS_MARK_GONE | VS_MARK_DYING);
        vs_slot_free(x, slot);
        atomic_fetch_sub_explicit(&x->removed, 1, memory_order_relaxed);
        slot = next;
    }
    r->dying_head = VS_SLOT_NONE;
    r->active = 0;
}

static bool leads_to_dying(const struct vshard_index *x, uint32_t slot)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);

    for (uint32_t i = 0; i < x->degree; i++) {
        uint32_t to = atomic_load_explicit(&edges[i], memory_order_relaxed);

        if (to == VS_SLOT_NONE)
            return false;
        if (vs_is_dying(x, to))
            return true;
    }
    return false;
}

struct gathered {
    uint32_t slots[GATHER];
    uint32_t count;
};

static void relink(struct vshard_index *x, struct gathered *g)
{
    vs_build_relink(x, g->slots, g->count);
    g->count = 0;
}

static void gather(struct vshard_index *x, struct gathered *g, uint32_t slot)
{
    if (!leads_to_dying(x, slot))
        return;
    g->slots[g->count++] = slot;
    if (g->count == GATHER)
        relink(x, g);
}

/* Moves the pass on by at most `quota` slots. */
static uint64_t step(struct vshard_index *x, uint64_t quota)
{
    struct vs_repair *r = &x->repair;
    struct gathered rows;
    uint32_t end = atomic_load(&x->slot_count);
    uint64_t looked = 0;

    rows.count = 0;
    for (; r->cursor < end && looked < quota; r->cursor++, looked++) {
        uint32_t state = vs_row_state(x, r->cursor);

        if (state == VS_ROW_LIVE || state == VS_ROW_REMOVED)
            gather(x, &rows, r->cursor);
    }
    relink(x, &rows);
    if (r->cursor >= end)
        finish(x);
    return looked;
}

/* The share of the repair that falls to a call that changed `changed` rows. */
void vs_repair_run(struct vshard_index *x, uint64_t changed)
{
    uint64_t quota = changed * SLOTS_PER_ROW;

    if (!atomic_load(&x->trained))
        return;
    while (quota > 0 && (x->repair.active || x->removed >= begin_at(x) ||
                         (x->removed > 0 && vs_shrink_due(x)))) {
        if (!x->repair.active)
            begin(x);
        quota -= step(x, quota);
    }
}

static int maintain(struct vshard_index *x, uint64_t budget)
{
    int rc = vs_repair_reserve(x, UINT64_MAX / 2, atomic_load(&x->entry_count));

    if (rc < 0)
        return vs_refuse(x->logger, rc, "maintain.refused", "memory", 0, 0);
    if (budget == 0)
        budget = UINT64_MAX;
    while (budget > 0 && (x->repair.active || x->removed > 0)) {
        if (!x->repair.active)
            begin(x);
        budget -= step(x, budget);
    }
    vs_attributes_settle(x);
    vs_build_trim(x);
    if (budget >= atomic_load(&x->slot_count))
        vs_shrink_most(x);
    return VSHARD_OK;
}

int vshard_index_maintain(struct vshard_index *index, uint64_t budget, uint64_t *remaining)
{
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (index->mapping.bytes != NULL)
        return vs_refuse(index->logger, VSHARD_ENOTSUP, "maintain.refused", "index: mapped", 1, 0);
    vs_lock_take(&index->lock);
    rc = maintain(index, budget);
    if (rc == VSHARD_OK && remaining != NULL)
        *remaining = index->removed;
    vs_lock_leave(&index->lock);
    return rc;
}
