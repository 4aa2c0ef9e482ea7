/* idmap.c - from the caller's id to the slot that holds the vector. */
#include "index/idmap.h"

/* At most 3 of 4 entries are used; a search for an absent id then looks at 8.5
 * entries on average (Knuth, volume 3, 6.4, linear probing). */
enum { CAP_MIN = 64, LOAD_OF = 4, LOAD_MOST = 3 };

void vs_idmap_init(struct vs_idmap *map, const struct vs_column *rows, uint64_t seed)
{
    memset(map, 0, sizeof *map);
    map->rows = rows;
    map->seed = seed;
}

void vs_idtable_free(struct vs_idtable *table, const struct vshard_allocator *a)
{
    if (table != NULL)
        vs_free(a, table, vs_idtable_bytes(table->cap));
}

void vs_idmap_fini(struct vs_idmap *map, const struct vshard_allocator *a)
{
    vs_idtable_free(vs_idmap_table(map), a);
    atomic_store(&map->table, NULL);
    map->count = 0;
}

static uint64_t row_id(const struct vs_idmap *map, uint32_t slot)
{
    const struct vs_row *row = vs_column_at(map->rows, slot);

    return row->id;
}

static uint32_t entry(const struct vs_idtable *table, uint64_t at)
{
    return atomic_load_explicit(&table->slots[at], memory_order_acquire);
}

static void set_entry(struct vs_idtable *table, uint64_t at, uint32_t slot)
{
    atomic_store_explicit(&table->slots[at], slot, memory_order_release);
}

/* Where an id would be if it were alone. */
static uint64_t home_of(const struct vs_idmap *map, const struct vs_idtable *table, uint64_t id)
{
    return (table->direct ? id : vs_mix64(id ^ map->seed)) & (table->cap - 1);
}

/* The entry that holds the id, or the empty one where it would go; and what is in it. */
static uint64_t probe(const struct vs_idmap *map, const struct vs_idtable *table, uint64_t id,
                      uint32_t *slot)
{
    uint64_t mask = table->cap - 1, at = home_of(map, table, id);

    if (table->direct) {
        *slot = at == id ? entry(table, at) : VS_SLOT_NONE;
        return at;
    }
    while ((*slot = entry(table, at)) != VS_SLOT_NONE && row_id(map, *slot) != id)
        at = (at + 1) & mask;
    return at;
}

static uint64_t grown_cap(uint64_t cap, uint64_t count)
{
    while (cap / LOAD_OF * LOAD_MOST < count)
        cap *= 2;
    return cap;
}

uint64_t vs_idmap_cap_for(const struct vs_idmap *map, uint64_t count)
{
    return grown_cap(vs_idmap_cap(map) ? vs_idmap_cap(map) : CAP_MIN, count);
}

/* The id that an entry is of, or 0 if it is empty. */
static uint64_t id_at(const struct vs_idmap *map, const struct vs_idtable *table, uint64_t at)
{
    uint32_t slot = entry(table, at);

    return slot == VS_SLOT_NONE ? 0 : table->direct ? at : row_id(map, slot);
}

/* Are all ids, those there and those up to `largest`, numbers of entries? */
static bool fits(const struct vs_idmap *map, uint64_t cap, uint64_t largest)
{
    const struct vs_idtable *table = vs_idmap_table(map);

    for (uint64_t i = 0; table != NULL && largest < cap && i < table->cap; i++) {
        uint64_t id = id_at(map, table, i);

        largest = id > largest ? id : largest;
    }
    return largest < cap;
}

static int replace(struct vs_idmap *map, uint64_t cap, bool direct,
                   const struct vshard_allocator *a, struct vs_idtable **old)
{
    struct vs_idtable *table = vs_idmap_table(map), *grown;
    uint32_t none;

    *old = NULL;
    if (table != NULL && cap == table->cap && direct == table->direct)
        return VSHARD_OK;
    grown = vs_alloc(a, vs_idtable_bytes(cap));
    if (grown == NULL)
        return VSHARD_ENOMEM;
    grown->cap = cap;
    grown->direct = direct;
    for (uint64_t i = 0; i < cap; i++)
        atomic_init(&grown->slots[i], VS_SLOT_NONE);
    for (uint64_t i = 0; table != NULL && i < table->cap; i++) {
        uint32_t slot = entry(table, i);

        if (slot != VS_SLOT_NONE)
            set_entry(grown, probe(map, grown, id_at(map, table, i), &none), slot);
    }
    atomic_store_explicit(&map->table, grown, memory_order_release);
    atomic_store(&map->bytes, vs_idtable_bytes(cap));
    *old = table;
    return VSHARD_OK;
}

int vs_idmap_reserve(struct vs_idmap *map, uint64_t count, uint64_t largest,
                     const struct vshard_allocator *a, struct vs_idtable **old)
{
    const struct vs_idtable *table = vs_idmap_table(map);
    uint64_t cap = vs_idmap_cap_for(map, count);
    /* A hash table that is large enough stays one: to look each time would take too long. */
    bool direct = table != NULL && cap == table->cap ? table->direct && largest < cap
                                                     : fits(map, cap, largest);

    return replace(map, cap, direct, a, old);
}

int vs_idmap_cut(struct vs_idmap *map, const struct vshard_allocator *a, struct vs_idtable **old)
{
    uint64_t cap = grown_cap(CAP_MIN, map->count);

    return replace(map, cap, fits(map, cap, 0), a, old);
}

/* While entries are moved, one may be missed; so the search is repeated until none was. */
uint32_t vs_idmap_find(const struct vs_idmap *map, uint64_t id)
{
    const struct vs_idtable *table = vs_idmap_table(map);
    uint32_t turn, slot;

    if (table == NULL)
        return VS_SLOT_NONE;
    do {
        turn = atomic_load_explicit(&map->turn, memory_order_acquire);
        probe(map, table, id, &slot);
    } while ((turn & 1) || turn != atomic_load_explicit(&map->turn, memory_order_acquire));
    return slot;
}

void vs_idmap_prefetch(const struct vs_idmap *map, uint64_t id)
{
    const struct vs_idtable *table = vs_idmap_table(map);

    if (table != NULL)
        __builtin_prefetch(&table->slots[home_of(map, table, id)], 0, 3);
}

void vs_idmap_prefetch_row(const struct vs_idmap *map, uint64_t id)
{
    const struct vs_idtable *table = vs_idmap_table(map);
    uint32_t slot = table ? entry(table, home_of(map, table, id)) : VS_SLOT_NONE;

    if (slot != VS_SLOT_NONE)
        __builtin_prefetch(vs_column_at(map->rows, slot), 0, 3);
}

uint32_t vs_idmap_put(struct vs_idmap *map, uint64_t id, uint32_t slot)
{
    struct vs_idtable *table = vs_idmap_table(map);
    uint32_t before;
    uint64_t at = probe(map, table, id, &before);

    set_entry(table, at, slot);
    if (before == VS_SLOT_NONE)
        map->count++;
    return before;
}

static void turn_on(struct vs_idmap *map)
{
    atomic_store_explicit(&map->turn, atomic_load_explicit(&map->turn, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* Each follower moves into the hole unless its home lies behind the hole. */
static void close_hole(struct vs_idmap *map, struct vs_idtable *table, uint64_t hole)
{
    uint64_t mask = table->cap - 1;
    uint32_t slot;

    for (uint64_t at = (hole + 1) & mask; (slot = entry(table, at)) != VS_SLOT_NONE;
         at = (at + 1) & mask) {
        uint64_t home = home_of(map, table, row_id(map, slot));

        if (((at - home) & mask) >= ((at - hole) & mask)) {
            set_entry(table, hole, slot);
            hole = at;
        }
    }
    set_entry(table, hole, VS_SLOT_NONE);
}

uint32_t vs_idmap_remove(struct vs_idmap *map, uint64_t id)
{
    struct vs_idtable *table = vs_idmap_table(map);
    uint32_t slot;
    uint64_t hole;

    if (table == NULL)
        return VS_SLOT_NONE;
    hole = probe(map, table, id, &slot);
    if (slot == VS_SLOT_NONE)
        return VS_SLOT_NONE;
    if (table->direct) {
        set_entry(table, hole, VS_SLOT_NONE);
    } else {
        turn_on(map);
        close_hole(map, table, hole);
        turn_on(map);
    }
    map->count--;
    return slot;
}
