/* index_idmap.c - the table that leads from ids to slots, and when it is direct.
 *
 * Method: the table alone, from the private header index/idmap.h, over a column of rows that the
 * test fills; beside it an array that says where each id must lead. All ids that come are asked
 * for, and strangers around them, again and again. */
#include <criterion/criterion.h>

#include "index/idmap.h"
#include "support/fault_alloc.h"
#include "support/random.h"
#include "support/seeds.h"

enum { KEYS = 1500, ROWS = 2 * KEYS, STEPS = 300, ABSENT = -1 };

/* Key i has the id first + i * apart, and two slots, of which it is put into one and then the
 * other. */
struct rig {
    struct fault_alloc memory;
    struct vs_column rows;
    struct vs_idmap map;
    uint64_t first, apart;
    int64_t slot_of[KEYS]; /* or ABSENT */
    uint32_t replaced;
};

static uint64_t id_of(const struct rig *r, uint32_t key)
{
    return r->first + key * r->apart;
}

static void begin(struct rig *r, uint64_t first, uint64_t apart)
{
    fault_alloc_init(&r->memory);
    vs_column_init(&r->rows, sizeof(struct vs_row));
    cr_assert_eq(vs_column_reserve(&r->rows, ROWS, &r->memory.hook), 0);
    vs_idmap_init(&r->map, &r->rows, 7);
    r->first = first;
    r->apart = apart;
    r->replaced = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        r->slot_of[i] = ABSENT;
}

static void end(struct rig *r)
{
    vs_idmap_fini(&r->map, &r->memory.hook);
    vs_column_fini(&r->rows, &r->memory.hook);
    cr_expect_null(fault_alloc_verdict(&r->memory));
    fault_alloc_fini(&r->memory);
}

/* Counts the tables that are made in place of another, for each looks at all ids. */
static int reserve(struct rig *r, uint64_t count, uint64_t largest)
{
    struct vs_idtable *old;
    int rc = vs_idmap_reserve(&r->map, count, largest, &r->memory.hook, &old);

    r->replaced += old != NULL;
    vs_idtable_free(old, &r->memory.hook);
    return rc;
}

static void cut(struct rig *r)
{
    struct vs_idtable *old;

    cr_assert_eq(vs_idmap_cut(&r->map, &r->memory.hook, &old), 0);
    vs_idtable_free(old, &r->memory.hook);
}

static void put(struct rig *r, uint32_t key)
{
    uint32_t slot = 2 * key + (r->slot_of[key] == 2 * (int64_t)key);
    struct vs_row *row = vs_column_at(&r->rows, slot);

    cr_assert_eq(reserve(r, r->map.count + 1, id_of(r, key)), 0);
    row->id = id_of(r, key);
    cr_expect_eq(vs_idmap_put(&r->map, row->id, slot),
                 r->slot_of[key] == ABSENT ? VS_SLOT_NONE : (uint32_t)r->slot_of[key]);
    r->slot_of[key] = slot;
}

static void take_away(struct rig *r, uint32_t key)
{
    cr_expect_eq(vs_idmap_remove(&r->map, id_of(r, key)),
                 r->slot_of[key] == ABSENT ? VS_SLOT_NONE : (uint32_t)r->slot_of[key]);
    r->slot_of[key] = ABSENT;
}

static void expect_model(const struct rig *r, const char *when)
{
    uint64_t count = 0, cap = vs_idmap_cap(&r->map);
    const uint64_t strangers[] = {
        r->first + KEYS * r->apart, r->first - 1, cap - 1, cap, cap + r->first, 1ull << 63, ~0ull
    };

    for (uint32_t i = 0; i < KEYS; i++) {
        uint32_t want = r->slot_of[i] == ABSENT ? VS_SLOT_NONE : (uint32_t)r->slot_of[i];

        count += r->slot_of[i] != ABSENT;
        cr_assert_eq(vs_idmap_find(&r->map, id_of(r, i)), want, "%s: id %llu", when,
                     (unsigned long long)id_of(r, i));
    }
    cr_assert_eq(r->map.count, count, "%s: %llu ids of %llu", when,
                 (unsigned long long)r->map.count, (unsigned long long)count);
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        if (strangers[i] - r->first >= KEYS * r->apart)
            cr_assert_eq(vs_idmap_find(&r->map, strangers[i]), VS_SLOT_NONE, "%s: stranger %llu",
                         when, (unsigned long long)strangers[i]);
    }
}

static bool is_direct(const struct rig *r)
{
    return vs_idmap_table(&r->map)->direct;
}

Test(index_idmap, a_table_is_direct_as_long_as_all_ids_are_below_its_size)
{
    struct rig r;
    uint64_t cap;

    begin(&r, 0, 1);
    for (uint32_t key = 0; key < KEYS; key++) {
        put(&r, key);
        cr_assert(is_direct(&r), "id %u of as many", key);
    }
    expect_model(&r, "from 0 on");
    cap = vs_idmap_cap(&r.map);
    cr_assert_eq(reserve(&r, r.map.count + 1, cap - 1), 0);
    cr_expect(is_direct(&r));
    cr_assert_eq(reserve(&r, r.map.count + 1, cap), 0);
    cr_expect_not(is_direct(&r), "an id that is as large as the table");
    cr_expect_eq(vs_idmap_cap(&r.map), cap, "a hash table of these ids takes as much");
    expect_model(&r, "hashed");
    cr_assert_eq(reserve(&r, cap, 0), 0);
    cr_expect(is_direct(&r), "the large id never came, and the table has grown");
    expect_model(&r, "grown");
    for (uint32_t key = 100; key < KEYS; key++)
        take_away(&r, key);
    cut(&r);
    cr_expect(is_direct(&r));
    expect_model(&r, "cut");
    for (uint32_t key = 0; key < 99; key++)
        take_away(&r, key);
    cr_assert_eq(r.map.count, 1);
    cut(&r);
    cr_expect_not(is_direct(&r), "id 99 of a table of %llu",
                  (unsigned long long)vs_idmap_cap(&r.map));
    expect_model(&r, "cut below an id");
    end(&r);
}

/* The writer meets ids in any order, and some that are far; seeds say which. */
Test(index_idmap, every_id_is_found_whatever_the_table_is_seeds)
{
    static const uint64_t kinds[][2] = {
        { 0, 1 }, { 1, 1 }, { 40, 3 }, { 1ull << 40, 1 }, { 5, 1ull << 32 }, { ~0ull - KEYS, 1 }
    };

    for (uint64_t seed = seeds_first(); seed < seeds_end(6); seed++) {
        const uint64_t *kind = kinds[seed % (sizeof kinds / sizeof *kinds)];
        uint64_t state = seed;
        struct rig r;

        begin(&r, kind[0], kind[1]);
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t from = (uint32_t)random_below(&state, KEYS), n = 0;
            bool adds = random_one_in(&state, 2);

            for (uint32_t key = from; key < KEYS && n < 60; key++, n++) {
                if (adds)
                    put(&r, key);
                else
                    take_away(&r, key);
            }
            if (random_one_in(&state, 8))
                cut(&r);
            if (step % 10 == 0)
                expect_model(&r, "seed");
        }
        end(&r);
    }
}

/* To 2,048 entries from 64 on, whether they are hashed or not. */
Test(index_idmap, a_table_is_replaced_when_it_is_full_and_not_before)
{
    static const uint64_t firsts[] = { 0, 1ull << 40 };

    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        struct rig r;

        begin(&r, firsts[i], 1);
        for (uint32_t key = 0; key < KEYS; key++)
            put(&r, key);
        for (uint32_t key = 0; key < KEYS; key++) {
            take_away(&r, key);
            put(&r, key);
        }
        cr_expect_eq(r.replaced, 5, "%u tables", r.replaced);
        expect_model(&r, "one by one");
        end(&r);
    }
}

/* One id that is far makes a hash table of it for as long as it is there. */
Test(index_idmap, a_table_is_direct_again_once_the_far_id_is_gone_and_it_is_cut)
{
    struct rig r;
    struct vs_row *row;

    begin(&r, 0, 1);
    for (uint32_t key = 0; key < KEYS - 1; key++)
        put(&r, key);
    cr_assert_eq(reserve(&r, KEYS, 1ull << 40), 0);
    row = vs_column_at(&r.rows, ROWS - 1);
    row->id = 1ull << 40;
    cr_assert_eq(vs_idmap_put(&r.map, row->id, ROWS - 1), VS_SLOT_NONE);
    cut(&r);
    cr_expect_not(is_direct(&r));
    cr_expect_eq(vs_idmap_find(&r.map, 1ull << 40), ROWS - 1);
    cr_assert_eq(vs_idmap_remove(&r.map, 1ull << 40), ROWS - 1);
    expect_model(&r, "hashed");
    cut(&r);
    cr_expect(is_direct(&r));
    expect_model(&r, "direct again");
    end(&r);
}

Test(index_idmap, without_memory_for_another_table_it_is_as_it_was)
{
    struct rig r;

    begin(&r, 0, 1);
    for (uint32_t key = 0; key < 48; key++)
        put(&r, key);
    fault_alloc_fail(&r.memory, 1, FAULT_ONCE);
    cr_expect_eq(reserve(&r, 48, 1000), VSHARD_ENOMEM, "to be hashed");
    fault_alloc_fail(&r.memory, 1, FAULT_ONCE);
    cr_expect_eq(reserve(&r, 1000, 0), VSHARD_ENOMEM, "to grow");
    cr_expect(is_direct(&r));
    expect_model(&r, "refused");
    end(&r);
}
