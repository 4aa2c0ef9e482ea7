/* shrink.c - memory is given back after many rows were removed.
 *
 * Slots of removed rows are used again by rows to come; when none come, half of an index
 * may be holes. Then the last rows move into them, and the end of all columns is given
 * back. A row that moves keeps its neighbours: its bytes are copied, and edges are told
 * where it is. So the graph stays what it was, under other numbers.
 *
 * Readers beside it, who take no lock:
 *
 *   1. Rows are copied from slots at the end into holes below. Nothing leads there.
 *   2. The links of the old slots lead to the new ones, and by one change, as that of
 *      a row that is replaced, the old ones are gone and the new ones live. Readers who
 *      began before see the rows where they were: nothing there was touched. Those who
 *      begin later follow the link wherever an edge or an entry leads to the end
 *      (vs_moved), and see the rows where they are.
 *   3. When no reader is left of the first kind, edges, entries and marks are rewritten. When
 *      none is left who may have read one before, the end is wiped and given back.
 *
 * It happens at the end of a call, when repair is at rest, and all at once: so no file and
 * no digest sees it half done, and when it happens depends on the calls alone. Add and remove do it
 * when half of all slots are free, so that it costs a removed row little more
 * than copying one; maintain already when an eighth is.
 *
 * Rows that may be asked by calibrations go to slots whose rows are, while there are any
 * (vs_is_probe). */
#include "index/state.h"

enum {
    DUE_ONE_IN = 2,  /* slots that are free */
    DUE_MIN = 8192,  /* and at least so many */
    MOST_ONE_IN = 8, /* where it is asked for */
    MOST_MIN = VS_EXTENT_ROWS
};

bool vs_shrink_due(const struct vshard_index *x)
{
    uint64_t free_count = atomic_load(&x->free_count);

    return free_count >= DUE_MIN && free_count >= atomic_load(&x->slot_count) / DUE_ONE_IN;
}

/* ---- rows move ---- */

/* The next free slot below `end` whose row may be asked, or may not. */
static uint32_t next_hole(const struct vshard_index *x, uint32_t *at, uint32_t end, bool probe)
{
    while (*at < end && (vs_row_state(x, *at) != VS_ROW_FREE || vs_is_probe(*at) != probe))
        ++*at;
    return *at < end ? *at : VS_SLOT_NONE;
}

static void copy_row(struct vshard_index *x, uint32_t from, uint32_t to)
{
    struct vs_column *columns[VS_COLUMNS];
    const struct vs_column *other[] = { &x->rows, &x->links, &x->bounds, &x->live_words,
                                        &x->entries };

    vs_columns_list(x, columns);
    for (size_t i = 0; i < VS_COLUMNS; i++) {
        bool copied = columns[i]->extents > 0;

        for (size_t j = 0; j < VS_COUNT(other); j++)
            copied = copied && columns[i] != other[j];
        if (copied)
            memcpy(vs_column_at(columns[i], to), vs_column_at(columns[i], from),
                   columns[i]->stride);
    }
    if (x->bounds.extents > 0)
        vs_scan_copy(x, from, to);
    vs_row_at(x, to)->id = vs_row_at(x, from)->id;
    vs_row_at(x, to)->inverse_length = vs_row_at(x, from)->inverse_length;
}

static void move_row(struct vshard_index *x, uint32_t from, uint32_t to)
{
    copy_row(x, from, to);
    vs_link_set(x, from, to);
    vs_link_set(x, to, from); /* for readers who do not see it yet */
    vs_row_born(x, to);
    vs_row_retired(x, from);
    vs_scan_mark(x, to, true);
    vs_idmap_put(&x->ids, vs_row_at(x, to)->id, to);
}

/* Rows from `end` on go to the free slots below, of which there are as many. */
static void move_rows(struct vshard_index *x, uint32_t end)
{
    uint32_t slots = atomic_load(&x->slot_count), holes[2] = { 0, 0 };

    for (uint32_t slot = end; slot < slots; slot++) {
        bool probe = vs_is_probe(slot);
        uint32_t to;

        if (vs_row_state(x, slot) != VS_ROW_LIVE)
            continue;
        to = next_hole(x, &holes[probe], end, probe);
        if (to == VS_SLOT_NONE)
            to = next_hole(x, &holes[!probe], end, !probe);
        move_row(x, slot, to);
    }
}

/* ---- what leads to them ---- */

static void rewrite_edges(void *arg, uint32_t extent, uint32_t strand)
{
    struct vshard_index *x = arg;
    uint32_t first = extent * VS_EXTENT_ROWS, end = atomic_load(&x->moved_from);

    (void)strand;
    for (uint32_t slot = first; slot < end && slot < first + VS_EXTENT_ROWS; slot++) {
        _Atomic uint32_t *edges = vs_edges_at(x, slot);

        for (uint32_t i = 0; i < x->degree; i++) {
            uint32_t to = atomic_load_explicit(&edges[i], memory_order_relaxed);

            if (to == VS_SLOT_NONE)
                break;
            if (to >= end)
                atomic_store_explicit(&edges[i], vs_link(x, to), memory_order_release);
        }
    }
}

static void rewrite(struct vshard_index *x)
{
    uint32_t entries = atomic_load(&x->entry_count), end = atomic_load(&x->moved_from);

    if (atomic_load(&x->trained))
        vs_parallel(x, vs_extents_for(end), rewrite_edges, x);
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t to = vs_entry_at(x, i);

        if (to >= end)
            vs_entry_set(x, i, vs_link(x, to) | (vs_entry_word(x, i) & VS_ENTRY_ALONE));
    }
    for (uint32_t slot = end, slots = atomic_load(&x->slot_count); slot < slots; slot++)
        vs_scan_mark(x, slot, false);
}

/* ---- the end ---- */

/* Keywords have moved with the row, and are had by as many as before. */
static void wipe(struct vshard_index *x, uint32_t slot)
{
    vs_link_set(x, vs_link(x, slot), VS_SLOT_NONE);
    for (uint32_t i = 0; i < x->attributes.count; i++)
        *(int64_t *)vs_column_at(&x->attributes.columns[i], slot) = VSHARD_MISSING;
    vs_slot_wipe(x, slot);
}

static uint32_t rows_of(const struct vshard_index *x, const struct vs_column *c)
{
    return c == &x->entries      ? atomic_load(&x->entry_count)
           : c == &x->live_words ? x->live_word_count
                                 : atomic_load(&x->slot_count);
}

/* Where there is no memory for what this takes, columns stay as long as they are. */
static void give_back(struct vshard_index *x)
{
    struct vs_column *columns[VS_COLUMNS];
    struct vs_block *cut = NULL;
    struct vs_idtable *old;

    x->live_word_count = (atomic_load(&x->slot_count) + 63) / 64;
    vs_columns_list(x, columns);
    for (size_t i = 0; i < VS_COLUMNS; i++)
        vs_column_cut(columns[i], rows_of(x, columns[i]), x->allocator, &cut);
    vs_idmap_cut(&x->ids, x->allocator, &old);
    vs_readers_drain(x);
    vs_blocks_free(cut, x->allocator);
    vs_idtable_free(old, x->allocator);
}

static void shrink(struct vshard_index *x)
{
    uint32_t slots = atomic_load(&x->slot_count), end = (uint32_t)atomic_load(&x->live);

    vs_keep_wait(x);
    vs_track_drop(x);
    vs_readers_number(x);
    vs_readers_drain(x);
    move_rows(x, end);
    atomic_store(&x->moved_at, atomic_load(&x->position) + 1);
    atomic_store(&x->moved_from, end);
    vs_readers_show(x);
    vs_readers_drain(x);
    rewrite(x);
    atomic_store(&x->moved_from, 0);
    atomic_store(&x->slot_count, end);
    vs_readers_drain(x);
    for (uint32_t slot = end; slot < slots; slot++) {
        if (vs_row_state(x, slot) != VS_ROW_FREE)
            wipe(x, slot);
    }
    x->free_head = VS_SLOT_NONE;
    x->repair.cursor = 0;
    atomic_store(&x->free_count, 0);
    give_back(x);
}

static bool at_rest(const struct vshard_index *x)
{
    return !x->repair.active && atomic_load(&x->removed) == 0;
}

void vs_shrink_run(struct vshard_index *x)
{
    if (at_rest(x) && vs_shrink_due(x))
        shrink(x);
}

void vs_shrink_most(struct vshard_index *x)
{
    uint64_t free_count = atomic_load(&x->free_count);

    if (at_rest(x) && free_count >= MOST_MIN &&
        free_count >= atomic_load(&x->slot_count) / MOST_ONE_IN)
        shrink(x);
}
