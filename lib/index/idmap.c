/* idmap.c - from the caller's id to the slot that holds the vector. */
#include "index/idmap.h"

/* At most 3 of 4 entries are used; a search for an absent id then looks at 8.5
 * entries on average (Knuth, volume 3, 6.4, linear probing). */
enum { CAP_MIN = 64, LOAD_OF = 4, LOAD_MOST = 3 };

void vs_idmap_init(struct vs_idmap *map, const struct vs_column *rows)
{
    memset(map, 0, sizeof *map);
    map->rows = rows;
}

void vs_idmap_fini(struct vs_idmap *map, const struct vshard_allocator *a)
{
    vs_free(a, map->table, map->cap * sizeof *map->table);
    map->table = NULL;
    map->cap = map->count = 0;
}

static uint64_t row_id(const struct vs_idmap *map, uint32_t slot)
{
    const struct vs_row *row = vs_column_at(map->rows, slot);

    return row->id;
}

/* The entry that holds the id, or the empty one where it would go. */
static uint64_t probe(const struct vs_idmap *map, uint64_t id)
{
    uint64_t mask = map->cap - 1, at = vs_mix64(id) & mask;

    while (map->table[at] != VS_SLOT_NONE && row_id(map, map->table[at]) != id)
        at = (at + 1) & mask;
    return at;
}

uint64_t vs_idmap_cap(const struct vs_idmap *map, uint64_t count)
{
    uint64_t cap = map->cap ? map->cap : CAP_MIN;

    while (cap / LOAD_OF * LOAD_MOST < count)
        cap *= 2;
    return cap;
}

int vs_idmap_reserve(struct vs_idmap *map, uint64_t count, const struct vshard_allocator *a)
{
    struct vs_idmap grown = { .cap = vs_idmap_cap(map, count), .rows = map->rows };

    if (grown.cap == map->cap)
        return VSHARD_OK;
    grown.table = vs_alloc(a, grown.cap * sizeof *grown.table);
    if (grown.table == NULL)
        return VSHARD_ENOMEM;
    memset(grown.table, 0xff, grown.cap * sizeof *grown.table);
    for (uint64_t i = 0; i < map->cap; i++) {
        if (map->table[i] != VS_SLOT_NONE)
            grown.table[probe(&grown, row_id(map, map->table[i]))] = map->table[i];
    }
    grown.count = map->count;
    vs_idmap_fini(map, a);
    *map = grown;
    return VSHARD_OK;
}

uint32_t vs_idmap_find(const struct vs_idmap *map, uint64_t id)
{
    return map->cap == 0 ? VS_SLOT_NONE : map->table[probe(map, id)];
}

uint32_t vs_idmap_put(struct vs_idmap *map, uint64_t id, uint32_t slot)
{
    uint64_t at = probe(map, id);
    uint32_t before = map->table[at];

    map->table[at] = slot;
    if (before == VS_SLOT_NONE)
        map->count++;
    return before;
}

uint32_t vs_idmap_remove(struct vs_idmap *map, uint64_t id)
{
    uint64_t mask = map->cap - 1, hole, at;
    uint32_t slot;

    if (map->cap == 0)
        return VS_SLOT_NONE;
    hole = probe(map, id);
    slot = map->table[hole];
    if (slot == VS_SLOT_NONE)
        return VS_SLOT_NONE;

    /* Each follower moves into the hole unless its home lies behind the hole. */
    for (at = (hole + 1) & mask; map->table[at] != VS_SLOT_NONE; at = (at + 1) & mask) {
        uint64_t home = vs_mix64(row_id(map, map->table[at])) & mask;

        if (((at - home) & mask) >= ((at - hole) & mask)) {
            map->table[hole] = map->table[at];
            hole = at;
        }
    }
    map->table[hole] = VS_SLOT_NONE;
    map->count--;
    return slot;
}
