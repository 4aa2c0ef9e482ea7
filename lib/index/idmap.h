/* idmap.h - from the caller's id to the slot that holds the vector.
 *
 * A hash table of slots only, 4 bytes an entry: the id itself stands in the row.
 * Linear probing; removal shifts the followers back, so there are no tombstones and
 * a table never gets slower with age. Its layout depends on its history, so digests
 * and files speak of rows and never of the table. */
#ifndef VS_IDMAP_H
#define VS_IDMAP_H

#include "index/column.h"

#define VS_SLOT_NONE 0xffffffffu

struct vs_row {
    uint64_t id;            /* the caller's; in a row that is not live, the next slot of
                               the chain it is in: free, removed or dying */
    float inverse_length;   /* cosine: 1 / length of the vector; else 1 */
    _Atomic uint32_t state; /* VS_ROW_* */
};

enum {
    VS_ROW_FREE = 0,    /* no vector; also while one is being put in */
    VS_ROW_LIVE = 1,    /* can be found */
    VS_ROW_REMOVED = 2, /* not found any more, still passed through */
    VS_ROW_DYING = 3    /* removed, and its edges are being repaired now */
};

struct vs_idmap {
    uint32_t *table; /* [cap] slots, VS_SLOT_NONE where empty */
    uint64_t cap;    /* 0 or a power of two */
    uint64_t count;
    const struct vs_column *rows;
};

/* Entries of the table that `count` ids in all need; never fewer than it has. */
uint64_t vs_idmap_cap(const struct vs_idmap *map, uint64_t count);

void vs_idmap_init(struct vs_idmap *map, const struct vs_column *rows);
void vs_idmap_fini(struct vs_idmap *map, const struct vshard_allocator *a);

/* Makes room for `count` ids in all. On failure the map is as it was. */
int vs_idmap_reserve(struct vs_idmap *map, uint64_t count, const struct vshard_allocator *a);

/* The slot of an id, or VS_SLOT_NONE. */
uint32_t vs_idmap_find(const struct vs_idmap *map, uint64_t id);

/* The entry where the search for an id begins, to have it fetched early; cap is not 0. */
static inline const uint32_t *vs_idmap_home(const struct vs_idmap *map, uint64_t id)
{
    return &map->table[vs_mix64(id) & (map->cap - 1)];
}

/* Leads `id` to `slot`, whose row already carries it; returns the slot it led to
 * before, or VS_SLOT_NONE. There must be room. */
uint32_t vs_idmap_put(struct vs_idmap *map, uint64_t id, uint32_t slot);

/* Forgets an id; returns the slot it led to, or VS_SLOT_NONE. */
uint32_t vs_idmap_remove(struct vs_idmap *map, uint64_t id);

#endif
