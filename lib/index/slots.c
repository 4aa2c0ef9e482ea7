/* slots.c - which slots are free. They form a chain, last freed first used: an order that
 * depends only on the calls, as replicas need. */
#include "index/state.h"

/* What was removed is neither in memory nor in the next file. */
void vs_slot_wipe(struct vshard_index *x, uint32_t slot)
{
    struct vs_row *row = vs_row_at(x, slot);

    if (vs_is_codes_only(x))
        memset(vs_column_at(&x->outside, slot), 0, x->outside.stride);
    else
        memset(vs_column_at(&x->elements, slot), 0, x->elements.stride);
    if (x->codes.stride > 0 && (x->bounds.stride > 0 || atomic_load(&x->trained)))
        memset(vs_column_at(&x->codes, slot), 0, x->codes.stride);
    if (atomic_load(&x->trained)) {
        if (x->sketches.stride > 0)
            memset(vs_column_at(&x->sketches, slot), 0, x->sketches.stride);
        memset(vs_column_at(&x->edges, slot), 0xff, x->edges.stride);
    }
    vs_attributes_clear(x, slot);
    atomic_store_explicit(&row->state, VS_ROW_FREE, memory_order_release);
    row->inverse_length = 0.0f;
    row->id = 0;
}

/* The slot must be in no edge, no entry and no reader's hands. */
void vs_slot_free(struct vshard_index *x, uint32_t slot)
{
    vs_keep_all(x, slot);
    vs_slot_wipe(x, slot);
    vs_link_set(x, slot, x->free_head);
    x->free_head = slot;
    atomic_fetch_add_explicit(&x->free_count, 1, memory_order_relaxed);
}

/* A free slot, or a new one, for which there must be room. */
uint32_t vs_slot_take(struct vshard_index *x)
{
    uint32_t slot = x->free_head;

    if (slot == VS_SLOT_NONE) {
        slot = atomic_load_explicit(&x->slot_count, memory_order_relaxed);
        atomic_init(&vs_row_at(x, slot)->state, VS_ROW_FREE);
        if (x->edges.extents > 0)
            memset(vs_column_at(&x->edges, slot), 0xff, x->edges.stride);
        atomic_store_explicit(&x->slot_count, slot + 1, memory_order_release);
        return slot;
    }
    vs_keep_all(x, slot);
    x->free_head = vs_link(x, slot);
    atomic_fetch_sub_explicit(&x->free_count, 1, memory_order_relaxed);
    return slot;
}
