/* idmap.h - from the caller's id to the slot that holds the vector.
 *
 * A table of slots only, 4 bytes an entry. Where all ids are below its size when it is made, as
 * those that count from 0 on, it is direct: an id is its own place, and neighbours in the list of
 * a filter are neighbours here. Else it is a hash table of the same size: the id itself stands in
 * the row. The hash takes the index's seed, so that who does not know it cannot choose ids that
 * fall on one place. Linear probing; removal shifts the followers back, so there are no
 * tombstones and a table never gets slower with age. Its layout depends on its history, so
 * digests and files speak of rows and never of the table.
 *
 * Readers look up ids while the writer changes the table. An entry is one word; only a removal
 * from a hash table moves entries that others may be looking for, and `turn` tells. */
#ifndef VS_IDMAP_H
#define VS_IDMAP_H

#include "index/column.h"

#define VS_SLOT_NONE 0xffffffffu

struct vs_row {
    uint64_t id;            /* the caller's; in a file, and mapped from it, of a row that is
                               not live the next slot of the chain that it is in */
    float inverse_length;   /* cosine: 1 / length of the vector; else 1 */
    _Atomic uint32_t state; /* VS_ROW_*, and a position << VS_ROW_BITS (reader.c); a file
                               has the state alone */
};

enum {
    VS_ROW_FREE = 0,    /* no vector; also while one is being put in */
    VS_ROW_LIVE = 1,    /* can be found */
    VS_ROW_REMOVED = 2, /* not found any more, still passed through */
    VS_ROW_DYING = 3,   /* removed, and its edges are being repaired now */
    VS_ROW_BITS = 2,
    VS_ROW_MASK = (1 << VS_ROW_BITS) - 1
};

struct vs_idtable {
    uint64_t cap;             /* a power of two */
    bool direct;              /* the entry of an id is the one with its number */
    _Atomic uint32_t slots[]; /* [cap], VS_SLOT_NONE where empty */
};

struct vs_idmap {
    struct vs_idtable *_Atomic table; /* NULL at first */
    uint64_t count;
    _Atomic uint64_t bytes; /* of the table, for whoever may not look at it */
    _Atomic uint32_t turn;  /* odd while entries are being moved */
    uint64_t seed;
    const struct vs_column *rows;
};

static inline uint64_t vs_idtable_bytes(uint64_t cap)
{
    return cap > 0 ? sizeof(struct vs_idtable) + cap * sizeof(uint32_t) : 0;
}

static inline struct vs_idtable *vs_idmap_table(const struct vs_idmap *map)
{
    return atomic_load_explicit(&map->table, memory_order_acquire);
}

/* Entries of the table; 0 where there is none. */
static inline uint64_t vs_idmap_cap(const struct vs_idmap *map)
{
    const struct vs_idtable *table = vs_idmap_table(map);

    return table ? table->cap : 0;
}

/* And those that `count` ids in all need; never fewer than it has. */
uint64_t vs_idmap_cap_for(const struct vs_idmap *map, uint64_t count);

void vs_idmap_init(struct vs_idmap *map, const struct vs_column *rows, uint64_t seed);
void vs_idmap_fini(struct vs_idmap *map, const struct vshard_allocator *a);

/* Makes room for `count` ids in all, of which those to come are at most `largest`. On failure
 * the map is as it was. *old is the table that was replaced, to be freed when no reader can know
 * it any more, or NULL. */
int vs_idmap_reserve(struct vs_idmap *map, uint64_t count, uint64_t largest,
                     const struct vshard_allocator *a, struct vs_idtable **old);
/* A table that is as small as it may be for the ids that are there, and direct if it may; *old as
 * above. */
int vs_idmap_cut(struct vs_idmap *map, const struct vshard_allocator *a, struct vs_idtable **old);
void vs_idtable_free(struct vs_idtable *table, const struct vshard_allocator *a);

/* The slot of an id, or VS_SLOT_NONE. A reader may ask beside the writer. */
uint32_t vs_idmap_find(const struct vs_idmap *map, uint64_t id);

/* Has the entry fetched early where the search for an id begins; then the row that it
 * names. */
void vs_idmap_prefetch(const struct vs_idmap *map, uint64_t id);
void vs_idmap_prefetch_row(const struct vs_idmap *map, uint64_t id);

/* Leads `id` to `slot`, whose row already carries it; returns the slot it led to
 * before, or VS_SLOT_NONE. There must be room. */
uint32_t vs_idmap_put(struct vs_idmap *map, uint64_t id, uint32_t slot);

/* Forgets an id; returns the slot it led to, or VS_SLOT_NONE. */
uint32_t vs_idmap_remove(struct vs_idmap *map, uint64_t id);

#endif
