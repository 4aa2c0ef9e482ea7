/* index_reach.c - a stored row can be reached, whatever the rows are.
 *
 * Method: sets that leave rows without an edge in where pruning alone decides: equal
 * rows, clusters of equal rows, rows in order, clusters far apart, rows that drift.
 * Each is added in one call and in small ones, then rows are removed, some calls on,
 * and repaired; after each, check must count no row that cannot be reached, and a
 * search for a row as it is must find something at distance 0. */
#include <criterion/criterion.h>

#include <math.h>

#include "support/index_data.h"
#include "support/pool.h"

enum { D = 8 };

struct set {
    const char *name;
    uint32_t rows, ones; /* rows in a small call */
    void (*fill)(uint64_t *seed, uint32_t row, float *out);
};

static void equal(uint64_t *seed, uint32_t row, float *out)
{
    (void)seed;
    for (uint32_t j = 0; j < D; j++)
        out[j] = (float)(row % 10 == 9 ? row * (j + 1) % 97 : 7); /* nine of ten */
}

static void all_equal(uint64_t *seed, uint32_t row, float *out)
{
    (void)seed;
    (void)row;
    for (uint32_t j = 0; j < D; j++)
        out[j] = 1;
}

/* 50 equal rows each, far from each other. */
static void groups(uint64_t *seed, uint32_t row, float *out)
{
    uint64_t own = row / 50 + 1;

    (void)seed;
    for (uint32_t j = 0; j < D; j++)
        out[j] = random_float(&own);
}

static void sorted(uint64_t *seed, uint32_t row, float *out)
{
    for (uint32_t j = 0; j < D; j++)
        out[j] = (float)row + random_float(seed) / 8;
}

static void two_far(uint64_t *seed, uint32_t row, float *out)
{
    for (uint32_t j = 0; j < D; j++)
        out[j] = random_float(seed) + (row % 2 ? 1000.0f : 0.0f);
}

static void drifting(uint64_t *seed, uint32_t row, float *out)
{
    for (uint32_t j = 0; j < D; j++)
        out[j] = random_float(seed) + (float)row / 300.0f * (float)(j % 3);
}

static void expect_reached(const struct set *s, struct vshard_index *x, const char *when)
{
    struct vshard_index_check c = { .size = sizeof c };

    cr_assert_eq(vshard_index_check(x, &c), 0, "%s, %s", s->name, when);
    cr_expect_eq(c.unreachable, 0, "%s, %s: %llu of %llu rows cannot be reached", s->name, when,
                 (unsigned long long)c.unreachable, (unsigned long long)c.rows);
}

static void churn(const struct set *s, struct vshard_index *x, const float *v, const char *when)
{
    uint64_t *ids = number_ids(0, s->rows);

    for (uint32_t i = 1; i < s->rows; i += 2) /* odd rows: one of two far clusters whole */
        remove_rows(x, ids + i, 1);
    expect_reached(s, x, when);
    cr_assert_eq(vshard_index_maintain(x, 50, NULL), 0);
    expect_reached(s, x, when);
    add_rows(x, ids + s->rows / 2, v + (size_t)(s->rows / 2) * D, 300); /* replaces, too */
    expect_reached(s, x, when);
    remove_rows(x, ids, s->rows / 4);
    expect_reached(s, x, when);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_reached(s, x, when);
    remove_rows(x, ids, s->rows - 10);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_reached(s, x, when);
    free(ids);
}

static void expect_all_reached(const struct set *s)
{
    uint64_t seed = 9, *ids = number_ids(0, s->rows);
    float *v = malloc((size_t)s->rows * D * sizeof *v);
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct pool *pool = pool_create(2);

    for (uint32_t i = 0; i < s->rows; i++)
        s->fill(&seed, i, v + (size_t)i * D);
    o.executor = pool_executor(pool);
    for (uint32_t ones = 0; ones < 2; ones++) {
        struct vshard_index *x = make_index(&o);
        uint32_t batch = ones ? s->ones : s->rows;

        for (uint32_t i = 0; i < s->rows; i += batch)
            add_rows(x, ids + i, v + (size_t)i * D, s->rows - i < batch ? s->rows - i : batch);
        expect_reached(s, x, ones ? "in small calls" : "in one call");
        churn(s, x, v, ones ? "small calls, churned" : "one call, churned");
        vshard_index_destroy(x);
    }
    pool_destroy(pool);
    free(ids);
    free(v);
}

Test(index_reach, of_many_equal_rows)
{
    expect_all_reached(&(struct set){ "nine of ten equal", 5000, 37, equal });
    expect_all_reached(&(struct set){ "all equal", 5000, 300, all_equal });
}

Test(index_reach, of_many_equal_rows_in_bulk)
{
    expect_all_reached(&(struct set){ "all equal", 9000, 4000, all_equal });
    expect_all_reached(&(struct set){ "nine of ten equal", 9000, 4000, equal });
}

Test(index_reach, of_a_thousand_groups_of_equal_rows)
{
    expect_all_reached(&(struct set){ "groups of 50", 50000, 5000, groups });
}

/* So few that they lie in more islands than a walk sets out from. */
Test(index_reach, of_few_rows_that_are_left_of_many)
{
    enum { MANY = 8000, LEFT = 30, KEPT = 10 };
    static float v[MANY * D];
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct vshard_index *x = make_index(&o);
    uint64_t *ids = number_ids(0, MANY), seed = 4;
    struct vshard_hit hits[KEPT], truth[KEPT];

    for (size_t i = 0; i < MANY * D; i++)
        v[i] = i < MANY / 2 * D ? 1.0f : (float)random_normal(&seed);
    add_rows(x, ids, v, MANY);
    remove_rows(x, ids, MANY - LEFT);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    for (uint32_t q = 0; q < 100; q++) {
        search_rows(x, v + (size_t)(MANY - 1 - q) * D, 1, KEPT, 0, VSHARD_SEARCH_EXACT, truth);
        search_rows(x, v + (size_t)(MANY - 1 - q) * D, 1, KEPT, 0, 0, hits);
        for (uint32_t i = 0; i < KEPT; i++)
            cr_assert_eq(hits[i].id, truth[i].id, "%u of query %u", i, q);
    }
    vshard_index_destroy(x);
    free(ids);
}

Test(index_reach, of_rows_in_order)
{
    expect_all_reached(&(struct set){ "sorted", 9000, 64, sorted });
}

Test(index_reach, of_two_clusters_far_apart_of_which_one_goes)
{
    expect_all_reached(&(struct set){ "two far clusters", 9000, 100, two_far });
}

Test(index_reach, of_rows_that_drift)
{
    expect_all_reached(&(struct set){ "drifting", 9000, 50, drifting });
}

/* Rows of very unequal length, so that one in some tens lies twice as far out as its
 * neighbours are apart. Searches scan the entries, which must stay few. */
Test(index_reach, outliers_do_not_all_become_entries)
{
    enum { OUTLIERS = 30000, CALL = 500 };

    struct vshard_index_options o = { .size = sizeof o, .dim = D, .m = 4, .ef_construction = 16 };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *x = make_index(&o);
    float *rows = malloc(CALL * D * sizeof *rows);
    uint64_t seed = 5;

    for (uint64_t first = 0; first < OUTLIERS; first += CALL) {
        uint64_t *ids = number_ids(first, CALL);

        for (uint32_t i = 0; i < CALL; i++) {
            float length = expf(3 * (float)random_normal(&seed));

            for (uint32_t j = 0; j < D; j++)
                rows[i * D + j] = length * (float)random_normal(&seed);
        }
        cr_assert_eq(vshard_index_add(x, ids, rows, CALL), 0);
        free(ids);
    }
    cr_assert_eq(vshard_index_stats(x, &s), 0);
    printf("index_reach: %u entries of %u rows\n", s.entries, OUTLIERS);
    cr_expect_leq(s.entries, OUTLIERS / 100, "%u entries", s.entries);
    free(rows);
    vshard_index_destroy(x);
}
