/* reader.c - who is reading, and what they see of rows that change beside them.
 *
 * A reader claims a place in a table, writes down the epoch it begins in, and clears
 * it when it leaves. A writer that has made slots unreachable raises the epoch and
 * waits until no place holds an older one: then no reader can still know these slots
 * (epoch-based reclamation, Fraser 2004). Readers never wait for the writer. With a
 * place comes scratch memory, so that a search allocates nothing after its first.
 *
 * Changes are numbered. A row's state carries the position at which it became what it is:
 * of a live row, when it was added; of a removed one, when it was removed. Both are
 * written before x->position comes to be that number, which shows them to readers, all at once. A
 * reader looks at the position when it begins, and sees the rows that were live then:
 *
 *     live        if it was added no later
 *     removed     if it was removed later, and added no later
 *
 * The last is not on record, because one word has no room for two positions: so before a
 * row is removed that was added since readers were last waited for, they are waited for
 * again, and then none is there to whom it could look older than it is. Of a row that is
 * replaced, a reader sees the old or the new one and never both or neither. Where ids
 * lead to the new one already, its link leads to the old one. That is one step, so before an id
 * leads to a new row, too, there must be no reader who began before the old one was added. Of a
 * row that is removed, the id leads to it until readers are shown that it is.
 *
 * Slots of removed rows are used again in two steps. Readers are waited for once so that
 * none sees the rows, and what leads to them is taken away; and once again so that none
 * knows the slots. */
#include "index/state.h"

#define POSITION_MAX (UINT32_MAX >> VS_ROW_BITS)

int vs_readers_init(struct vshard_index *x)
{
    size_t bytes = WIDTH_MAX * sizeof *x->readers;

    atomic_init(&x->epoch, 1);
    x->readers = vs_alloc_zeroed(x->allocator, bytes);
    return x->readers ? VSHARD_OK : VSHARD_ENOMEM;
}

void vs_readers_fini(struct vshard_index *x)
{
    if (x->readers == NULL)
        return;
    for (uint32_t i = 0; i < WIDTH_MAX; i++) {
        struct vs_scratch *scratch = x->readers[i].scratch;

        for (uint32_t j = 0; scratch != NULL && j < WALKS; j++)
            vs_scratch_fini(x, &scratch[j]);
        vs_free(x->allocator, scratch, WALKS * sizeof *scratch);
    }
    vs_free(x->allocator, x->readers, WIDTH_MAX * sizeof *x->readers);
}

/* ---- readers ---- */

/* More threads than places take turns: the one that comes too late yields until
 * another search ends. */
static struct vs_reader *claim(struct vshard_index *x)
{
    for (;;) {
        for (uint32_t i = 0; i < WIDTH_MAX; i++) {
            struct vs_reader *r = &x->readers[i];
            uint32_t idle = 0;

            if (atomic_load_explicit(&r->busy, memory_order_relaxed) == 0 &&
                atomic_compare_exchange_strong(&r->busy, &idle, 1))
                return r;
        }
        vs_os_yield();
    }
}

int vs_reader_enter(struct vshard_index *x, struct vs_reader **out)
{
    struct vs_reader *r = claim(x);

    if (r->scratch == NULL) {
        r->scratch = vs_alloc_zeroed(x->allocator, WALKS * sizeof *r->scratch);
        if (r->scratch == NULL) {
            atomic_store_explicit(&r->busy, 0, memory_order_release);
            return VSHARD_ENOMEM;
        }
        atomic_fetch_add(&x->scratch_bytes, WALKS * sizeof *r->scratch);
    }
    vs_reader_renew(x, r);
    *out = r;
    return VSHARD_OK;
}

/* Begins anew: what was seen before, slots above all, means nothing any more. */
void vs_reader_renew(struct vshard_index *x, struct vs_reader *r)
{
    uint32_t position, moved;

    atomic_store(&r->epoch, atomic_load(&x->epoch));
    atomic_thread_fence(memory_order_seq_cst); /* see vs_readers_drain() */
    position = atomic_load(&x->position);
    moved = atomic_load(&x->moved_from);
    if (moved > 0 && position < atomic_load(&x->moved_at))
        moved = 0;
    for (uint32_t i = 0; i < WALKS; i++) {
        r->scratch[i].position = position;
        r->scratch[i].moved_from = moved;
    }
}

void vs_reader_leave(struct vs_reader *r)
{
    atomic_store_explicit(&r->epoch, 0, memory_order_release);
    atomic_store_explicit(&r->busy, 0, memory_order_release);
}

/* The slot that holds this id for a reader at this position, or VS_SLOT_NONE. */
uint32_t vs_find_visible(const struct vshard_index *x, uint64_t id, uint32_t position)
{
    uint32_t slot = vs_idmap_find(&x->ids, id);

    if (slot != VS_SLOT_NONE && !vs_row_visible(x, slot, position))
        slot = vs_link(x, slot);
    return slot != VS_SLOT_NONE && vs_row_visible(x, slot, position) ? slot : VS_SLOT_NONE;
}

/* ---- the writer ---- */

static void set_state(struct vshard_index *x, uint32_t slot, uint32_t state, uint32_t since)
{
    atomic_store_explicit(&vs_row_at(x, slot)->state, since << VS_ROW_BITS | state,
                          memory_order_release);
}

/* The row is live from the next position on. */
void vs_row_born(struct vshard_index *x, uint32_t slot)
{
    set_state(x, slot, VS_ROW_LIVE, atomic_load(&x->position) + 1);
    atomic_fetch_add_explicit(&x->live, 1, memory_order_relaxed);
}

/* Sees to it that there is no reader who began before the row was added. */
void vs_row_settle(struct vshard_index *x, uint32_t slot)
{
    uint32_t born = atomic_load(&vs_row_at(x, slot)->state) >> VS_ROW_BITS;

    if (born > x->drained)
        vs_readers_drain(x);
}

/* The row is removed from the next position on. */
void vs_row_retired(struct vshard_index *x, uint32_t slot)
{
    vs_row_settle(x, slot);
    vs_keep(x, IMAGE_ROWS, slot);
    set_state(x, slot, VS_ROW_REMOVED, atomic_load(&x->position) + 1);
    atomic_fetch_sub_explicit(&x->live, 1, memory_order_relaxed);
}

/* Begins to count again. Readers see at the last position what they see at the first:
 * all live rows and none that is removed. */
static void renumber(struct vshard_index *x)
{
    uint32_t slots = atomic_load(&x->slot_count);

    vs_readers_drain(x);
    for (uint32_t slot = 0; slot < slots; slot++)
        set_state(x, slot, vs_row_state(x, slot), 0);
    atomic_store(&x->position, 0);
    vs_readers_drain(x);
}

/* Sees to it that the next change that is shown has a number above all before. */
void vs_readers_number(struct vshard_index *x)
{
    if (atomic_load(&x->position) + 1 == POSITION_MAX)
        renumber(x);
}

/* Shows readers what was born and retired since the last time. */
void vs_readers_show(struct vshard_index *x)
{
    uint32_t next = atomic_load(&x->position) + 1;

    atomic_store_explicit(&x->position, next, memory_order_release);
    atomic_store_explicit(&x->shown, atomic_load(&x->live), memory_order_release);
    if (next == POSITION_MAX)
        renumber(x);
}

/* Waits until no reader knows what it knew before. By the fences, a reader whose epoch is
 * not seen here sees all that was changed before. */
void vs_readers_drain(struct vshard_index *x)
{
    uint32_t position = atomic_load(&x->position);
    uint64_t now;

    atomic_thread_fence(memory_order_seq_cst);
    now = atomic_fetch_add(&x->epoch, 1) + 1;
    for (uint32_t i = 0; i < WIDTH_MAX; i++) {
        uint64_t epoch;

        while ((epoch = atomic_load(&x->readers[i].epoch)) != 0 && epoch < now)
            vs_os_yield();
    }
    x->drained = position;
}
