/* shard_keymap.c - the tables of a shard, where others choose the keys and the request ids.
 *
 * Method: keys that fall on one place of a table are made by who knows the code, and the longest
 * run of taken places is looked at. The digest must not know of the seed. */
#include <criterion/criterion.h>

#include "shard/keymap.h"
#include "support/random.h"

enum { KEYS = 4000, LONG = 200 };

/* All of one hash but for the upper bits, if the seed is 0. */
static struct vshard_key chosen(uint64_t i)
{
    return (struct vshard_key){ random_unmix(i << 40), 0 };
}

static uint64_t longest_run(const uint32_t *table, uint64_t places)
{
    uint64_t run = 0, longest = 0;

    for (uint64_t i = 0; i < 2 * places; i++) {
        run = table[i % places] == 0 ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    return longest;
}

/* Of so many places that are taken in a row, and what the digest is. */
static uint64_t run_of_keys(uint64_t seed, uint64_t *digest)
{
    struct vs_keymap m;
    uint64_t run;

    vs_keymap_init(&m, NULL, seed);
    cr_assert_eq(vs_keymap_reserve(&m, KEYS), VSHARD_OK);
    for (uint64_t i = 0; i < KEYS; i++)
        vs_keymap_place(&m, chosen(i));
    for (uint64_t i = 0; i < KEYS; i += 2)
        vs_keymap_drop(&m, vs_keymap_find(&m, chosen(i)));
    for (uint64_t i = 0; i < KEYS; i += 2)
        vs_keymap_place(&m, chosen(i));
    for (uint64_t i = 0; i < KEYS; i++) {
        uint32_t row = vs_keymap_find(&m, chosen(i));

        cr_assert(row != VS_NO_ROW && m.row[row].key.hi == chosen(i).hi);
    }
    run = longest_run(m.table, (uint64_t)m.mask + 1);
    *digest = vs_keymap_digest(&m);
    vs_keymap_fini(&m);
    cr_expect_eq(m.seed, seed);
    return run;
}

static uint64_t run_of_requests(uint64_t seed)
{
    struct vs_requests r = { .seed = seed };
    uint64_t run;

    for (uint64_t i = 1; i <= KEYS; i++) {
        cr_assert_eq(vs_requests_reserve(&r), VSHARD_OK);
        vs_requests_add(&r, chosen(i));
    }
    for (uint64_t i = 1; i <= KEYS; i++)
        cr_assert(vs_requests_has(&r, chosen(i)));
    run = longest_run(r.table, 2 * (uint64_t)r.cap);
    vs_requests_fini(&r);
    return run;
}

Test(shard_keymap, keys_that_fall_on_one_place_are_not_known_without_the_seed)
{
    uint64_t known, unknown;

    cr_expect_geq(run_of_keys(0, &known), (uint64_t)KEYS,
                  "the keys are not as bad as they could be");
    cr_expect_lt(run_of_keys(0x9e3779b97f4a7c15u, &unknown), (uint64_t)LONG);
    cr_expect_eq(known, unknown);
    cr_expect_geq(run_of_requests(0), (uint64_t)KEYS);
    cr_expect_lt(run_of_requests(0x9e3779b97f4a7c15u), (uint64_t)LONG);
}
