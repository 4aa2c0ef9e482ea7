/* index_bound.c - a search that is told how far is too far: it answers what is within, and
 * ends sooner.
 *
 * Method: rows in clusters, by codes and by sketches. The same queries are asked with a bound
 * and without; a bound is the exact distance of the tenth, as other shards would tell, or one
 * that nothing is within. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/index_data.h"

enum { ROWS = 6000, CLUSTERS = 60, QUERIES = 60, K = 10, EF = 100 };

struct stage {
    struct vshard_index *x;
    float *rows, *queries;
    uint64_t *ids;
    uint32_t dim;
};

static void draw(float *to, uint32_t dim, uint32_t cluster, uint64_t *random)
{
    uint64_t centre = cluster + 1;

    for (uint32_t i = 0; i < dim; i++)
        to[i] = random_float(&centre) + 0.3f * random_float(random);
}

static void begin(struct stage *t, uint32_t dim, uint32_t metric)
{
    struct vshard_index_options o = { .size = sizeof o, .dim = dim, .metric = metric, .m = 8 };
    uint64_t random = 5;

    t->dim = dim;
    t->rows = malloc((size_t)ROWS * dim * sizeof *t->rows);
    t->queries = malloc((size_t)QUERIES * dim * sizeof *t->queries);
    t->ids = number_ids(0, ROWS);
    for (uint32_t i = 0; i < ROWS; i++)
        draw(t->rows + (size_t)i * dim, dim, i % CLUSTERS, &random);
    for (uint32_t i = 0; i < QUERIES; i++)
        draw(t->queries + (size_t)i * dim, dim, i % CLUSTERS, &random);
    t->x = make_index(&o);
    add_rows(t->x, t->ids, t->rows, ROWS);
    cr_assert_eq(t->x->sketches.stride > 0, dim > 64);
}

static void end(struct stage *t)
{
    vshard_index_destroy(t->x);
    free(t->rows);
    free(t->queries);
    free(t->ids);
}

static uint32_t ask(struct stage *t, uint32_t query, float bound, struct vshard_hit *hits,
                    uint64_t *distances)
{
    struct vshard_search_info info = { .size = sizeof info };
    uint32_t found = 0;
    const struct vshard_search_options o = { .size = sizeof o,
                                             .ef_search = EF,
                                             .flags = bound < INFINITY ? VSHARD_SEARCH_WITHIN : 0u,
                                             .found = &found,
                                             .info = &info,
                                             .distance_max = bound < INFINITY ? bound : 0 };

    cr_assert_eq(vshard_index_search(t->x, t->queries + (size_t)query * t->dim, 1, K, hits, &o),
                 VSHARD_OK);
    *distances += info.distances;
    for (uint32_t i = 0; i < found; i++)
        cr_expect_leq(hits[i].distance, bound);
    return found;
}

static void compare(uint32_t dim, uint32_t metric)
{
    static struct stage t;
    struct vshard_hit hits[K], exact[K];
    uint64_t without = 0, with = 0, none = 0;
    uint32_t found = 0;

    begin(&t, dim, metric);
    for (uint32_t q = 0; q < QUERIES; q++) {
        search_rows(t.x, t.queries + (size_t)q * dim, 1, K, 0, VSHARD_SEARCH_EXACT, exact);
        ask(&t, q, INFINITY, hits, &without);
        found += ask(&t, q, exact[K - 1].distance, hits, &with);
        cr_expect_eq(ask(&t, q, exact[0].distance / 2, hits, &none), 0u);
    }
    cr_expect_geq(found, (uint32_t)(0.99 * K * QUERIES), "%u dimensions, %u", dim, found);
    cr_expect_lt(with, without * 9 / 10, "%u dimensions, %d of %d", dim, (int)with, (int)without);
    cr_expect_leq(none, with);
    end(&t);
}

Test(index_bound, ends_a_walk_by_codes_sooner)
{
    compare(24, VSHARD_METRIC_L2SQ);
    compare(24, VSHARD_METRIC_COSINE);
}

Test(index_bound, ends_a_walk_by_sketches_sooner)
{
    compare(100, VSHARD_METRIC_L2SQ);
    compare(100, VSHARD_METRIC_COSINE);
}

/* Of inner products, codes do not tell what is within: all are looked for. */
Test(index_bound, leaves_a_walk_as_it_is_where_nothing_is_known_of_keys)
{
    static struct stage t;
    struct vshard_hit hits[K], all[K];
    uint64_t without = 0, with = 0;

    begin(&t, 24, VSHARD_METRIC_IP);
    for (uint32_t q = 0; q < QUERIES; q++) {
        ask(&t, q, INFINITY, all, &without);
        cr_expect_eq(ask(&t, q, all[K - 1].distance, hits, &with), (uint32_t)K);
        cr_expect_arr_eq(hits, all, sizeof all);
    }
    cr_expect_eq(with, without);
    end(&t);
}
