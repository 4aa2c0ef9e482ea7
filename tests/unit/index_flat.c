/* index_flat.c - exact answers are exact, and distances as good as promised.
 *
 * Method: a naive sum in float64 is the model. Every metric and element is tried at
 * several dimensions, by the scalar kernels and by this machine's, through a flat
 * index, an HNSW index that has no graph yet, and one that has. The answer for k = all
 * rows must hold each row once, each distance within the documented bound of the
 * model's, in order, ties by smaller id; the answer for any k must be its beginning.
 * For 8-bit elements and bits the model itself says the order, since sums are exact. To run
 * other kernels than the machine's best, a test reaches into the index by the private
 * header and fills in its table of kernels again, right after create. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/index_data.h"

enum { N = 300, QUERIES = 4 };

static const uint32_t dims[] = { 1, 3, 16, 100, 129 };

/* ---- the model ---- */

struct truth {
    double distance;
    double error; /* how far from it an answer may be */
};

static struct truth truth_of(uint32_t metric, uint32_t element, const void *a, const void *b,
                             uint32_t dim)
{
    double l2 = 0, l1 = 0, dot = 0, sum = 0, aa = 0, bb = 0, e = (dim + 4) * 0x1p-24;
    uint32_t differ = 0;

    for (uint32_t i = 0; i < dim; i++) {
        double u = element_at(element, a, i), v = element_at(element, b, i);

        l2 += (u - v) * (u - v);
        l1 += fabs(u - v);
        dot += u * v;
        sum += fabs(u * v);
        aa += u * u;
        bb += v * v;
        for (int bit = 0; bit < 8; bit++) /* of bits, which are drawn as bytes */
            differ += element == VSHARD_ELEMENT_BITS &&
                      (((const uint8_t *)a)[i] ^ ((const uint8_t *)b)[i]) >> bit & 1;
    }
    if (metric == VSHARD_METRIC_HAMMING)
        return (struct truth){ differ, 0 };
    if (metric == VSHARD_METRIC_L1)
        return (struct truth){ l1, e * l1 + 1e-30 };
    if (metric == VSHARD_METRIC_L2SQ)
        return (struct truth){ l2, e * l2 + 1e-30 };
    if (metric == VSHARD_METRIC_IP)
        return (struct truth){ -dot, e * sum + 1e-30 };
    return (struct truth){ 1 - dot / sqrt(aa * bb), 2 * e + 1e-30 };
}

/* ---- one case ---- */

struct the_case {
    uint32_t family, metric, element, dim, cpu, train_rows, flags;
    struct vshard_index *x;
    unsigned char *vectors, *queries;
    uint64_t *ids;
    size_t bytes;
    char name[120];
};

static void begin(struct the_case *c)
{
    struct vshard_index_options o = small_options(c->dim, c->metric, c->element);
    uint64_t seed = 11 + c->dim;

    snprintf(c->name, sizeof c->name, "%s %s dim %u, family %u, train_rows %u, cpu %#x",
             metric_names[c->metric], element_names[c->element], c->dim, c->family, c->train_rows,
             c->cpu);
    o.family = c->family;
    o.train_rows = c->train_rows;
    c->x = make_index(&o);
    vs_kernel_init(&c->x->kernel, c->cpu);
    c->bytes = c->dim * element_bytes(c->element);
    c->vectors = draw_vectors(&seed, c->element, N, c->dim);
    c->queries = draw_vectors(&seed, c->element, QUERIES, c->dim);
    if (c->metric == VSHARD_METRIC_COSINE && c->element != VSHARD_ELEMENT_F32) {
        for (size_t i = 0; i < N * c->bytes; i++) /* no zero vectors */
            c->vectors[i] |= 1;
        for (size_t i = 0; i < QUERIES * c->bytes; i++)
            c->queries[i] |= 1;
    }
    for (uint32_t i = 0; i < 40; i++) /* equal rows, and queries that are rows */
        memcpy(c->vectors + (N - 1 - i) * c->bytes, c->vectors + (i / 4) * c->bytes, c->bytes);
    memcpy(c->queries, c->vectors, c->bytes);
    c->ids = number_ids(0, N);
    for (uint32_t i = 0; i < N; i++)
        c->ids[i] = vs_mix64(i + 1); /* so that the order of ids is not that of rows */
    add_rows(c->x, c->ids, c->vectors, N);
}

static void end(struct the_case *c)
{
    vshard_index_destroy(c->x);
    free(c->ids);
    free(c->queries);
    free(c->vectors);
}

static uint32_t row_of(const struct the_case *c, uint64_t id)
{
    uint32_t row = 0;

    while (row < N && c->ids[row] != id)
        row++;
    cr_assert(row < N, "%s: an answer that is no row", c->name);
    return row;
}

static void expect_exact(const struct the_case *c, const void *query, const struct vshard_hit *all)
{
    unsigned char seen[N] = { 0 };

    for (uint32_t i = 0; i < N; i++) {
        uint32_t row = row_of(c, all[i].id);
        struct truth t =
            truth_of(c->metric, c->element, query, c->vectors + row * c->bytes, c->dim);

        cr_assert(!seen[row]++, "%s: row %u twice", c->name, row);
        cr_assert_eq(all[i].reserved, 0);
        cr_assert(fabs((double)all[i].distance - t.distance) <= t.error,
                  "%s: distance %.9g, in truth %.17g, may be off by %.3g", c->name,
                  (double)all[i].distance, t.distance, t.error);
        if (c->element != VSHARD_ELEMENT_F32 && c->element != VSHARD_ELEMENT_F16 &&
            c->metric != VSHARD_METRIC_COSINE)
            cr_assert_eq(all[i].distance, (float)t.distance, "%s: a sum is not exact", c->name);
        cr_assert(i == 0 || all[i - 1].distance < all[i].distance ||
                      (all[i - 1].distance == all[i].distance && all[i - 1].id < all[i].id),
                  "%s: answers %u and %u are out of order", c->name, i - 1, i);
    }
}

static void expect_case(struct the_case *c)
{
    static const size_t ks[] = { 1, 2, 3, 10, 64, N - 1, N, N + 1, N + 300, VSHARD_K_MAX };
    struct vshard_hit *all = malloc(QUERIES * N * sizeof *all), *some;

    begin(c);
    search_rows(c->x, c->queries, QUERIES, N, 0, c->flags, all);
    for (uint32_t q = 0; q < QUERIES; q++)
        expect_exact(c, c->queries + q * c->bytes, all + q * N);
    some = malloc(QUERIES * VSHARD_K_MAX * sizeof *some);
    for (size_t j = 0; j < VS_COUNT(ks); j++) {
        size_t k = ks[j], kept = k < N ? k : N;

        search_rows(c->x, c->queries, QUERIES, k, 0, c->flags, some);
        for (uint32_t q = 0; q < QUERIES; q++) {
            cr_assert_eq(memcmp(some + q * k, all + q * N, kept * sizeof *some), 0,
                         "%s: the first %zu are not those of all", c->name, k);
            for (size_t i = kept; i < k; i++)
                cr_assert(some[q * k + i].id == VSHARD_ID_NONE && isinf(some[q * k + i].distance) &&
                              some[q * k + i].distance > 0 && some[q * k + i].reserved == 0,
                          "%s: k %zu, place %zu is not padded", c->name, k, i);
        }
    }
    free(some);
    free(all);
    end(c);
}

static void expect_cases(uint32_t family, uint32_t train_rows, uint32_t flags)
{
    for (uint32_t at = 0; at < METRICS * ELEMENTS * VS_COUNT(dims) * 2; at++) {
        struct the_case c = { .family = family,
                              .metric = at % METRICS,
                              .element = at / METRICS % ELEMENTS,
                              .dim = dims[at / METRICS / ELEMENTS % VS_COUNT(dims)],
                              .train_rows = train_rows,
                              .flags = flags };

        c.cpu = at >= METRICS * ELEMENTS * VS_COUNT(dims) ? vs_os_cpu() : 0;
        if (combine(c.metric, c.element))
            expect_case(&c);
    }
}

Test(index_flat, a_flat_index_is_exact)
{
    expect_cases(VSHARD_FAMILY_FLAT, 0, 0);
}

Test(index_flat, an_index_that_has_no_graph_yet_is_exact)
{
    expect_cases(VSHARD_FAMILY_HNSW, 512, 0);
}

Test(index_flat, a_graph_is_exact_on_request)
{
    expect_cases(VSHARD_FAMILY_HNSW, 256, VSHARD_SEARCH_EXACT);
}

/* ---- the ends of the ranges ---- */

Test(index_flat, distances_stay_finite_at_the_limits)
{
    static const float sizes[] = { 1e15f, 1e-15f, 1.0f, 1e-20f };

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        struct vshard_index_options o = small_options(VSHARD_DIM_MAX, metric, VSHARD_ELEMENT_F32);
        float *v = malloc(8 * VSHARD_DIM_MAX * sizeof *v);
        uint64_t *ids = number_ids(0, 8);
        struct vshard_hit hits[64];
        struct vshard_index *x;

        o.family = VSHARD_FAMILY_FLAT;
        x = make_index(&o);
        for (uint32_t i = 0; i < 8 * VSHARD_DIM_MAX; i++) {
            uint32_t row = i / VSHARD_DIM_MAX;

            v[i] = row % 2 ? -sizes[row / 2] : sizes[row / 2];
            if (metric == VSHARD_METRIC_COSINE && row / 2 == 3)
                v[i] = i % VSHARD_DIM_MAX == 5 ? 1e-15f : 0.0f; /* as short as may be */
        }
        add_rows(x, ids, v, 8);
        search_rows(x, v, 8, 8, 0, 0, hits);
        for (uint32_t i = 0; i < 64; i++) {
            struct truth t = truth_of(metric, VSHARD_ELEMENT_F32, v + i / 8 * VSHARD_DIM_MAX,
                                      v + hits[i].id * VSHARD_DIM_MAX, VSHARD_DIM_MAX);

            cr_expect(isfinite(hits[i].distance), "%s: %g", metric_names[metric],
                      (double)hits[i].distance);
            cr_expect(fabs((double)hits[i].distance - t.distance) <= t.error,
                      "%s, rows %u and %llu: %g, in truth %g", metric_names[metric], i / 8,
                      (unsigned long long)hits[i].id, (double)hits[i].distance, t.distance);
        }
        vshard_index_destroy(x);
        free(ids);
        free(v);
    }
}

Test(index_flat, bytes_at_the_limits_do_not_overflow)
{
    for (uint32_t at = 0; at < 2 * NUMBER_METRICS; at++) {
        uint32_t metric = at / 2, element = 1 + at % 2;
        struct vshard_index_options o = small_options(VSHARD_DIM_MAX, metric, element);
        unsigned char *v = malloc(2 * VSHARD_DIM_MAX);
        uint64_t *ids = number_ids(0, 2);
        struct vshard_hit hits[4];
        struct vshard_index *x;

        o.family = VSHARD_FAMILY_FLAT;
        x = make_index(&o);
        memset(v, element == VSHARD_ELEMENT_U8 ? 255 : 127, VSHARD_DIM_MAX);
        memset(v + VSHARD_DIM_MAX, element == VSHARD_ELEMENT_U8 ? 1 : 128, VSHARD_DIM_MAX);
        if (metric == VSHARD_METRIC_L2SQ && element == VSHARD_ELEMENT_U8)
            memset(v + VSHARD_DIM_MAX, 0, VSHARD_DIM_MAX);
        add_rows(x, ids, v, 2);
        search_rows(x, v, 2, 2, 0, 0, hits);
        for (uint32_t i = 0; i < 4; i++) {
            struct truth t = truth_of(metric, element, v + i / 2 * VSHARD_DIM_MAX,
                                      v + hits[i].id * VSHARD_DIM_MAX, VSHARD_DIM_MAX);

            cr_expect(fabs((double)hits[i].distance - t.distance) <= t.error,
                      "%s %s: %g, in truth %g", metric_names[metric], element_names[element],
                      (double)hits[i].distance, t.distance);
        }
        vshard_index_destroy(x);
        free(ids);
        free(v);
    }
}

Test(index_flat, vectors_may_lie_at_any_address)
{
    enum { D = 19, ROWS = 400 };

    for (uint32_t at = 0; at < 2 * NUMBER_METRICS; at++) {
        struct vshard_index_options o = small_options(D, at / 2, VSHARD_ELEMENT_F32);
        uint64_t seed = 2, *ids = number_ids(0, ROWS);
        float *v = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, D);
        unsigned char *moved = malloc(ROWS * D * sizeof *v + 8), back[D * sizeof *v + 1];
        struct vshard_hit hits[10], again[10];
        struct vshard_index *x = make_index(&o), *y = make_index(&o);

        if (at % 2) {
            vs_kernel_init(&x->kernel, 0);
            vs_kernel_init(&y->kernel, 0);
        }
        add_rows(x, ids, v, ROWS);
        search_rows(x, v, 1, 10, 0, 0, hits);
        memcpy(moved + 1, v, ROWS * D * sizeof *v);
        add_rows(y, ids, moved + 1, ROWS);
        search_rows(y, moved + 1, 1, 10, 0, 0, again);
        cr_expect_eq(digest_of(x), digest_of(y));
        cr_expect_eq(memcmp(hits, again, sizeof hits), 0);
        cr_expect_eq(vshard_index_fetch(y, ids + 7, 1, back + 1, NULL), 0);
        cr_expect_eq(memcmp(back + 1, v + 7 * D, D * sizeof *v), 0);
        vshard_index_destroy(y);
        vshard_index_destroy(x);
        free(moved);
        free(v);
        free(ids);
    }
}
