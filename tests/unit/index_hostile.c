/* index_hostile.c - what is made to be slow is not.
 *
 * Method: ids that fall on one place of a table are made by who knows the code, and the longest run
 * of taken places is looked at, by the private header index/state.h. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/index_data.h"

enum { D = 2, ROWS = 4000 };

/* The number whose hash this is: vs_mix64() backwards. */
static uint64_t unmix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0x9cb4b2f8129337dbu;
    x ^= x >> 33;
    x *= 0x4f74430c22a54005u;
    return x ^ (x >> 33);
}

static uint64_t longest_run(const struct vs_idmap *map)
{
    const struct vs_idtable *table = vs_idmap_table(map);
    uint64_t run = 0, longest = 0;

    for (uint64_t i = 0; i < 2 * table->cap; i++) {
        run = atomic_load(&table->slots[i % table->cap]) == VS_SLOT_NONE ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    return longest;
}

Test(index_hostile, ids_that_fall_on_one_place_are_not_known_without_the_seed)
{
    uint64_t seed = 1, *ids = malloc(ROWS * sizeof *ids);
    void *vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, D);

    for (uint64_t i = 0; i < ROWS; i++)
        ids[i] = unmix(i << 32);
    cr_assert_eq(vs_mix64(ids[7]), 7ull << 32);
    for (uint64_t known = 0; known < 2; known++) {
        struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
        struct vshard_index *x;

        o.seed = known ? 0 : 0x9e3779b97f4a7c15u;
        o.family = VSHARD_FAMILY_FLAT;
        x = make_index(&o);
        add_rows(x, ids, vectors, ROWS);
        remove_rows(x, ids, ROWS / 2);
        add_rows(x, ids, vectors, ROWS);
        expect_clean(x, "ids of one place");
        if (known)
            cr_expect_geq(longest_run(&x->ids), ROWS, "the ids are not as bad as they could be");
        else
            cr_expect_lt(longest_run(&x->ids), 200);
        vshard_index_destroy(x);
    }
    free(vectors);
    free(ids);
}
