/* flat.c - exact search by scanning every row: the yardstick for recall, and what an
 * index does until it has enough rows for a graph. */
#include "index/state.h"

/* Offers the rows gathered in s->slots, by their exact distances. */
static void offer_gathered(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                           struct vs_top *top, uint32_t gathered)
{
    vs_distances(x, q, s, gathered);
    for (uint32_t i = 0; i < gathered; i++) {
        if (top->count == top->cap && s->distances[i] > top->items[0].distance)
            continue;
        vs_top_offer(top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                 vs_row_at(x, s->slots[i])->id });
    }
}

int vs_flat_search(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                   struct vs_top *top)
{
    uint32_t count = atomic_load_explicit(&x->slot_count, memory_order_acquire), gathered = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        if (slot % VS_EXTENT_ROWS == 0) {
            int rc = vs_touch(x, slot);

            if (rc < 0)
                return rc;
        }
        if (vs_row_state(x, slot) != VS_ROW_LIVE)
            continue;
        s->slots[gathered++] = slot;
        if (gathered == s->list_cap) {
            offer_gathered(x, q, s, top, gathered);
            gathered = 0;
        }
    }
    offer_gathered(x, q, s, top, gathered);
    return VSHARD_OK;
}
