/* shard_apply.c - entries become rows: against a dictionary, in steps, and with memory
 * that fails.
 *
 * Method: random batches are applied to a shard and to an array indexed by key, which is
 * trivially right; every answer of the shard is compared with what the array says. */
#include <criterion/criterion.h>

#include "support/fault_alloc.h"
#include "support/seeds.h"
#include "support/shard_truth.h"

static uint64_t seed_now; /* for messages */

static struct vs_shard *make(const struct vshard_allocator *memory)
{
    struct vs_shard_plan plan = shard_plan(memory, NULL);
    struct vs_shard *s;

    cr_assert_eq(vs_shard_create(&plan, &s), VSHARD_OK);
    return s;
}

static void compare_rows(struct vs_shard *s, const struct truth *t)
{
    struct vs_shard_stats stats;

    vs_shard_stats(s, &stats);
    cr_assert_eq(stats.rows, truth_rows(t, s, seed_now));
}

static void run(uint64_t seed)
{
    struct vs_shard *s = make(NULL), *twin = make(NULL);
    struct truth t;
    uint64_t state = seed, a, b;

    memset(&t, 0, sizeof t);
    for (uint64_t index = 1; index <= 60; index++) {
        uint32_t kind = random_below(&state, 3) == 0 ? VS_BATCH_REMOVE : VS_BATCH_ADD;
        uint64_t first = random_below(&state, TRUTH_KEYS - 1);
        uint32_t count =
            1 + (uint32_t)random_below(&state, TRUTH_KEYS - first - 1 < 60 ? TRUTH_KEYS - first - 1 : 60);
        uint64_t version = random_one_in(&state, 4) ? 1 + random_below(&state, index + 20) : 0;
        uint64_t salt = random_next(&state) % 1000;
        float query[SHARD_DIM];

        cr_assert_eq(shard_do(s, index, kind, first, count, salt, version, index), VSHARD_OK);
        cr_assert_eq(shard_do(twin, index, kind, first, count, salt, version, index), VSHARD_OK);
        truth_apply(&t, kind, first, count, salt, version, index);
        /* The same request again changes nothing. */
        if (random_one_in(&state, 4)) {
            index++;
            cr_assert_eq(shard_do(s, index, kind, first, count, salt, 0, index - 1), VSHARD_OK);
            cr_assert_eq(shard_do(twin, index, kind, first, count, salt, 0, index - 1), VSHARD_OK);
        }
        for (int i = 0; i < SHARD_DIM; i++)
            query[i] = random_float(&state);
        compare_rows(s, &t);
        cr_assert_eq(truth_compare(&t, s, query, 0, 9, seed), VSHARD_OK);
        cr_assert_eq(truth_compare(&t, s, query, 3, 5, seed), VSHARD_OK);
    }
    cr_assert_eq(vs_shard_digest(s, &a), VSHARD_OK);
    cr_assert_eq(vs_shard_digest(twin, &b), VSHARD_OK);
    cr_assert_eq(a, b, "equal histories, and other digests");
    vs_shard_destroy(s);
    vs_shard_destroy(twin);
}

Test(shard_apply, agrees_with_a_dictionary_for_every_seed)
{
    for (uint64_t seed = seeds_first(); seed < seeds_end(30); seed++) {
        seed_now = seed;
        run(seed);
    }
}

Test(shard_apply, digests_differ_where_anything_differs)
{
    uint64_t digest[6];
    struct vs_shard *s[6];

    for (int i = 0; i < 6; i++) {
        s[i] = make(NULL);
        cr_assert_eq(shard_do(s[i], 1, VS_BATCH_ADD, 1, 20, 5, 0, 1), VSHARD_OK);
    }
    shard_do(s[1], 2, VS_BATCH_ADD, 3, 1, 6, 0, 0);     /* a vector */
    shard_do(s[2], 2, VS_BATCH_REMOVE, 3, 1, 0, 0, 0);  /* a row less */
    shard_do(s[3], 2, VS_BATCH_REMOVE, 90, 1, 0, 7, 0); /* a tombstone */
    shard_do(s[4], 2, VS_BATCH_ADD, 3, 1, 5, 2, 2);     /* a request */
    shard_do(s[5], 9, VS_BATCH_ADD, 3, 1, 5, 0, 0);     /* a version */
    for (int i = 0; i < 6; i++)
        cr_assert_eq(vs_shard_digest(s[i], &digest[i]), VSHARD_OK);
    for (int i = 0; i < 6; i++) {
        for (int k = 0; k < i; k++)
            cr_expect_neq(digest[i], digest[k], "%d and %d", i, k);
        vs_shard_destroy(s[i]);
    }
}

Test(shard_apply, goes_in_steps_and_a_first_load_in_one)
{
    struct vs_shard *s = make(NULL);
    size_t bytes;
    uint32_t row = 0, steps = 0;
    void *load = shard_entry(VS_BATCH_ADD, 0, 1, VS_BULK_ROWS, 1, 0, 0, &bytes);

    cr_assert_eq(vs_shard_apply(s, 1, load, bytes, &row), VSHARD_OK);
    cr_expect_eq(row, (uint32_t)VS_BULK_ROWS);
    free(load);
    load = shard_entry(VS_BATCH_ADD, 5, 1, 3 * VS_CHUNK_ROWS + 1, 2, 0, 0, &bytes);
    for (row = 0; row < 3 * VS_CHUNK_ROWS + 1; steps++)
        cr_assert_eq(vs_shard_apply(s, 2, load, bytes, &row), VSHARD_OK);
    cr_expect_eq(steps, 4u);
    free(load);
    vs_shard_destroy(s);
}

Test(shard_apply, forgets_requests_from_the_oldest_on)
{
    struct vs_shard *s = make(NULL);
    struct vs_shard_stats stats;
    uint64_t index = 0;

    for (uint64_t id = 1; id <= VS_REQUESTS_KEPT + 1; id++)
        cr_assert_eq(shard_do(s, ++index, VS_BATCH_ADD, id % 50, 1, id, 0, id), VSHARD_OK);
    for (uint64_t id = 2; id <= VS_REQUESTS_KEPT + 1; id += 4096)
        cr_assert_eq(shard_do(s, ++index, VS_BATCH_ADD, 1, 1, 1, 0, id), VSHARD_OK);
    vs_shard_stats(s, &stats);
    cr_expect_eq(stats.repeated, (uint64_t)(VS_REQUESTS_KEPT / 4096));
    cr_assert_eq(shard_do(s, ++index, VS_BATCH_ADD, 1, 1, 1, 0, 1), VSHARD_OK);
    vs_shard_stats(s, &stats);
    cr_expect_eq(stats.repeated, (uint64_t)(VS_REQUESTS_KEPT / 4096), "the oldest is forgotten");
    vs_shard_destroy(s);
}

Test(shard_apply, halts_at_what_it_does_not_know)
{
    struct vs_shard *s = make(NULL);
    size_t bytes;
    uint32_t row = 0;
    unsigned char *entry = shard_entry(VS_BATCH_ADD, 0, 1, 3, 1, 0, 0, &bytes);

    entry[0] = VS_APPLY_FORMAT + 1;
    cr_expect_eq(vs_shard_apply(s, 1, entry, bytes, &row), VSHARD_EVERSION);
    entry[0] = VS_APPLY_FORMAT;
    cr_expect_eq(vs_shard_apply(s, 1, entry, bytes - 8, &row), VSHARD_ECORRUPT);
    cr_expect_eq(row, 0u);
    free(entry);
    vs_shard_destroy(s);
}

/* After a failed step the digest is what it was, and the same step can be done again. */
static int with_failing_memory(const struct vshard_allocator *memory, void *arg)
{
    struct vs_shard_plan plan = shard_plan(memory, NULL);
    struct vs_shard *s;
    uint64_t before, after;
    int rc = vs_shard_create(&plan, &s);

    (void)arg;
    if (rc != VSHARD_OK)
        return rc;
    for (uint64_t index = 1; rc == VSHARD_OK && index <= 4; index++) {
        uint32_t kind = index == 3 ? VS_BATCH_REMOVE : VS_BATCH_ADD;
        size_t bytes;
        void *entry = shard_entry(kind, 10 * index - (index == 3 ? 15 : 0), 1, 40, index,
                                  index == 4 ? 30 : 0, index, &bytes);

        rc = vs_shard_digest(s, &before);
        if (rc == VSHARD_OK) {
            rc = shard_apply(s, index, entry, bytes);
            if (rc != VSHARD_OK && vs_shard_digest(s, &after) == VSHARD_OK)
                cr_assert_eq(before, after, "entry %d", (int)index);
        }
        free(entry);
    }
    vs_shard_destroy(s);
    return rc;
}

Test(shard_apply, is_all_or_nothing_whichever_allocation_fails)
{
    char why[200];

    cr_assert(fault_alloc_try_each(with_failing_memory, NULL, why, sizeof why) > 0, "%s", why);
}
