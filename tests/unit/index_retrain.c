/* index_retrain.c - codes follow rows that lie where the first ones did not.
 *
 * Rows come whose elements are cut in codes, and it is looked for what that should lead to:
 * another range, which is read from the private header index/state.h; equal answers after
 * opening again; nothing at all where rows lie as the first did, or without memory. Recall is
 * in index_recall.c, and that every machine does the same in index_digest.c. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/failing_add.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/random.h"

enum { D = 24, FIRST = 1200, LATER = 600, BATCH = 50, K = 10, QUERIES = 50, PLACE = 20 };

/* Normal vectors; the later ones around a place on the first axis. */
static float *draw(uint64_t *seed, double place, double spread)
{
    float *v = malloc((FIRST + LATER) * D * sizeof *v);

    for (size_t i = 0; i < (FIRST + LATER) * D; i++) {
        bool later = i >= FIRST * D;

        v[i] =
            (float)((later ? spread : 1) * random_normal(seed) + (later && i % D == 0 ? place : 0));
    }
    return v;
}

static struct vshard_index_options options_of(uint32_t metric)
{
    struct vshard_index_options o = small_options(D, metric, VSHARD_ELEMENT_F32);

    o.m = 16;
    o.ef_construction = o.ef_search = 100;
    return o;
}

static void add_batches(struct vshard_index *x, const float *v, uint32_t first, uint32_t count)
{
    uint64_t *ids = number_ids(first, count);

    for (uint32_t i = 0; i < count; i += BATCH)
        add_rows(x, ids + i, v + (size_t)(first + i) * D, BATCH);
    free(ids);
}

static void expect_recall(struct vshard_index *x, const float *queries, double floor)
{
    struct vshard_hit hits[QUERIES * K], exact[QUERIES * K];
    uint32_t good = 0;

    search_rows(x, queries, QUERIES, K, 0, 0, hits);
    search_rows(x, queries, QUERIES, K, 0, VSHARD_SEARCH_EXACT, exact);
    for (uint32_t q = 0; q < QUERIES; q++) {
        for (uint32_t i = 0; i < K; i++)
            good += hits[q * K + i].distance <= exact[q * K + K - 1].distance;
    }
    cr_expect_geq((double)good / (QUERIES * K), floor, "recall %g", (double)good / (QUERIES * K));
}

static void expect_followed(const struct vshard_index_options *o, double floor)
{
    uint64_t seed = 3;
    float *v = draw(&seed, PLACE, 1);
    struct vshard_index *x = make_index(o);
    float scale;

    add_batches(x, v, 0, FIRST);
    scale = x->quantizer.scale;
    add_batches(x, v, FIRST, LATER);
    cr_expect_lt(x->quantizer.scale, scale, "%s: codes have the range that they had",
                 metric_names[o->metric]);
    expect_recall(x, v, floor);
    expect_recall(x, v + FIRST * D, floor);
    expect_clean(x, "after rows that lay elsewhere");
    vshard_index_destroy(x);
    free(v);
}

Test(index_retrain, codes_follow_rows_that_lie_elsewhere)
{
    for (uint32_t metric = 0; metric < 4; metric++) {
        struct vshard_index_options o = options_of(metric);

        if (combine(metric, VSHARD_ELEMENT_F32))
            expect_followed(&o, metric == VSHARD_METRIC_IP ? 0.9 : 0.99);
    }
}

/* 0.1 % is cut on purpose. Rows that are uniform, or of few values, have many at the ends of the
 * range of which none is cut. */
Test(index_retrain, codes_stay_while_rows_are_like_the_first)
{
    for (int kind = 0; kind < 3; kind++) {
        struct vshard_index_options o = options_of(VSHARD_METRIC_L2SQ);
        struct vshard_index *x = make_index(&o);
        float *v = malloc(20 * FIRST * D * sizeof *v), scale;
        uint64_t seed = 4;

        for (size_t i = 0; i < 20 * FIRST * D; i++) {
            v[i] = (float)(kind == 0   ? random_normal(&seed)
                           : kind == 1 ? random_unit(&seed)
                                       : (double)random_below(&seed, 3));
        }
        add_batches(x, v, 0, FIRST);
        scale = x->quantizer.scale;
        add_batches(x, v, FIRST, 19 * FIRST);
        cr_expect_eq(x->quantizer.scale, scale, "kind %d: from %g to %g", kind, (double)scale,
                     (double)x->quantizer.scale);
        vshard_index_destroy(x);
        free(v);
    }
}

/* The index as its file has it. */
static struct vshard_index *reopened(struct vshard_index *x, struct fault_storage *fs,
                                     int (*save)(struct vshard_index *x, const char *path))
{
    struct vshard_open_options open = { .size = sizeof open, .storage = fault_storage_hook(fs) };
    uint64_t digest = digest_of(x);

    cr_assert_eq(save(x, "/i"), 0);
    vshard_index_destroy(x);
    cr_assert_eq(vshard_index_open("/i", &open, &x), 0);
    cr_expect_eq(digest_of(x), digest);
    return x;
}

/* One row in three comes to be a thousand times as far away as the others are from each other: no
 * range serves both. */
Test(index_retrain, walks_go_by_vectors_where_no_range_serves)
{
    struct vshard_index_options o = options_of(VSHARD_METRIC_L2SQ);
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 5;
    float *v = draw(&seed, 0, 1000);
    struct vshard_index *x;

    o.storage = fault_storage_hook(fs);
    x = make_index(&o);
    add_batches(x, v, 0, FIRST);
    cr_assert_eq(x->by_vectors, 0);
    add_batches(x, v, FIRST, LATER);
    cr_expect_eq(x->by_vectors, 1);
    expect_recall(x, v, 0.98);
    expect_recall(x, v + FIRST * D, 0.98);
    expect_clean(x, "by vectors");
    x = reopened(x, fs, vshard_index_save);
    expect_recall(x, v, 0.98);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    free(v);
}

/* Every row has other codes, so a save of what changed is one of all. */
Test(index_retrain, a_save_of_changes_has_all_codes)
{
    struct vshard_index_options o = options_of(VSHARD_METRIC_L2SQ);
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 6;
    float *v = draw(&seed, PLACE, 1);
    struct vshard_index *x;

    o.storage = fault_storage_hook(fs);
    x = make_index(&o);
    add_batches(x, v, 0, FIRST);
    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    add_batches(x, v, FIRST, LATER);
    x = reopened(x, fs, vshard_index_save_changes);
    expect_recall(x, v + FIRST * D, 0.99);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    free(v);
}

/* It has no vectors that other codes could be made of. */
Test(index_retrain, a_lean_index_stays_as_it_was_trained)
{
    struct vshard_index_options o = options_of(VSHARD_METRIC_L2SQ);
    uint64_t seed = 7;
    float *v = draw(&seed, PLACE, 1), scale;
    struct vshard_index *x;

    o.profile = VSHARD_PROFILE_LEAN;
    x = make_index(&o);
    add_batches(x, v, 0, FIRST);
    scale = x->quantizer.scale;
    add_batches(x, v, FIRST, LATER);
    cr_expect_eq(x->quantizer.scale, scale);
    vshard_index_destroy(x);
    free(v);
}

static void expect_range(const struct vshard_index *x, bool struck, void *ctx)
{
    const float *scale = ctx;

    cr_assert(struck == (x->quantizer.scale == *scale), "struck %d", struck);
}

/* The call that makes codes anew fails at each allocation, and then changes nothing. */
Test(index_retrain, without_memory_changes_nothing)
{
    struct vshard_index_options o = options_of(VSHARD_METRIC_COSINE);
    uint64_t seed = 8, k;
    float *v = draw(&seed, PLACE, 1), scale;
    struct vshard_index *x = make_index(&o);

    add_batches(x, v, 0, FIRST);
    scale = x->quantizer.scale;
    vshard_index_destroy(x);
    k = fail_each_allocation(
        &(struct failing_add){ &o, v, FIRST, BATCH, LATER, expect_range, &scale });
    cr_expect(k > 10, "only %llu allocations were made to fail", (unsigned long long)k);
    free(v);
}

/* All rows but a few are removed, and those that come lie elsewhere and differ in other elements.
 */
static void expect_refilled(uint32_t dim, uint32_t stay, uint32_t call)
{
    enum { ROWS = 3000 };
    struct vshard_index_options o = options_of(VSHARD_METRIC_L2SQ);
    uint64_t seed = 12, *ids = number_ids(0, 2 * ROWS);
    float *v = malloc((size_t)ROWS * dim * sizeof *v);
    struct vshard_index *x;

    o.dim = dim;
    x = make_index(&o);
    for (size_t i = 0; i < (size_t)ROWS * dim; i++)
        v[i] = (float)((i % dim < 12 ? 1 : 0.1) * random_normal(&seed));
    add_rows(x, ids, v, ROWS);
    remove_rows(x, ids + stay, ROWS - stay);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    for (size_t i = 0; i < (size_t)ROWS * dim; i++)
        v[i] = (float)((i % dim >= 12 && i % dim < 24 ? 10 : 1) * random_normal(&seed) + 100);
    for (uint32_t i = 0; i < ROWS; i += call)
        add_rows(x, ids + ROWS + i, v + (size_t)i * dim, call);
    expect_recall(x, v, 0.95);
    expect_clean(x, "refilled");
    vshard_index_destroy(x);
    free(v);
    free(ids);
}

Test(index_retrain, an_index_that_was_emptied_is_filled_with_other_rows)
{
    for (uint32_t stay = 0; stay < 21; stay += 10) {
        expect_refilled(D, stay, 3000);
        expect_refilled(D, stay, 10);
        expect_refilled(300, stay, 3000);
        expect_refilled(300, stay, 100);
    }
}
