/* index_bulk.c - a first load in one call: equal everywhere, whole, or not at all.
 *
 * Method: loads just large enough for the bulk path, into an empty index and into one
 * with a graph, some of whose rows are removed and some replaced by the load. Digests
 * are compared over instruction sets and numbers of threads; recall with an exact
 * search; every allocation fails once. Rows in clusters far from each other must each be
 * found by their own vector, and must not make most of the rows entries. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/failing_add.h"
#include "support/index_data.h"
#include "support/pool.h"
#include "support/sanitized.h"

enum { ROWS = 9000, THERE = 900, D = 24, QUERIES = 100, K = 10 };

struct load {
    uint32_t metric, element, dim, threads, cpu, there;
    const void *vectors; /* [THERE + ROWS] */
};

/* With `there` rows before it, of which some are removed and some come again. */
static struct vshard_index *load(const struct load *l, struct pool *pool)
{
    struct vshard_index_options o = small_options(l->dim, l->metric, l->element);
    uint64_t *ids = number_ids(0, THERE + ROWS);
    struct vshard_index *x;

    o.executor = pool_executor(pool);
    x = make_index(&o);
    vs_kernel_init(&x->kernel, l->cpu);
    if (l->there > 0) {
        add_rows(x, ids, l->vectors, l->there);
        remove_rows(x, ids + 100, 50);
    }
    for (uint32_t i = 0; i < 200; i++) /* replaced */
        ids[THERE + i] = i;
    ids[THERE + 500] = ids[THERE + 501]; /* twice in the call */
    cr_assert(vs_bulk_suits(x, ROWS - o.train_rows - 1));
    add_rows(x, ids + THERE,
             (const char *)l->vectors + (size_t)THERE * l->dim * element_bytes(l->element), ROWS);
    free(ids);
    return x;
}

static uint64_t digest_of_load(const struct load *l)
{
    struct pool *pool = pool_create(l->threads);
    struct vshard_index *x = load(l, pool);
    struct vshard_index_check c = { .size = sizeof c };
    uint64_t digest = digest_of(x);

    cr_assert_eq(vshard_index_check(x, &c), 0);
    cr_assert_eq(c.unreachable, 0, "%llu rows cannot be reached",
                 (unsigned long long)c.unreachable);
    vshard_index_destroy(x);
    pool_destroy(pool);
    return digest;
}

/* Under a sanitizer the fewest and the most: to compare digests none is needed. */
Test(index_bulk, does_not_depend_on_the_number_of_threads)
{
    uint64_t seed = 3, digest;
    struct load l = { .dim = D, .threads = 1, .cpu = vs_os_cpu() };
    void *v = draw_vectors(&seed, 0, THERE + ROWS, D);

    l.vectors = v;
    for (l.there = 0; l.there <= THERE; l.there += THERE) {
        l.threads = 1;
        digest = digest_of_load(&l);
        for (l.threads = SANITIZED ? 8 : 2; l.threads <= 8; l.threads++)
            cr_expect_eq(digest_of_load(&l), digest, "%u threads", l.threads);
    }
    free(v);
}

/* Likewise, none and all of the instructions. */
Test(index_bulk, does_not_depend_on_the_instruction_set)
{
    static const struct load loads[] = {
        { .metric = VSHARD_METRIC_COSINE, .element = VSHARD_ELEMENT_F32, .dim = D },
        { .metric = VSHARD_METRIC_IP, .element = VSHARD_ELEMENT_F16, .dim = D },
        { .metric = VSHARD_METRIC_L2SQ, .element = VSHARD_ELEMENT_U8, .dim = D },
        { .metric = VSHARD_METRIC_HAMMING, .element = VSHARD_ELEMENT_BITS, .dim = 8 },
    };
    const uint32_t cpus[] = { 0, vs_os_cpu() & VSHARD_CPU_AVX2,
                              vs_os_cpu() & (VSHARD_CPU_AVX2 | VSHARD_CPU_AVX512), vs_os_cpu() };

    for (size_t i = 0; i < VS_COUNT(loads); i++) {
        struct load l = loads[i];
        uint64_t seed = 4 + i, digest = 0;
        void *v = draw_vectors(&seed, l.element, THERE + ROWS, l.dim);

        l.vectors = v;
        l.threads = 2;
        l.there = i % 2 ? THERE : 0;
        for (size_t c = 0; c < VS_COUNT(cpus); c += SANITIZED ? VS_COUNT(cpus) - 1 : 1) {
            uint64_t then;

            l.cpu = cpus[c];
            then = digest_of_load(&l);
            cr_expect(c == 0 || then == digest, "load %zu, cpu %#x", i, l.cpu);
            digest = then;
        }
        free(v);
    }
}

Test(index_bulk, answers_as_an_exact_search_does)
{
    uint64_t seed = 5;
    struct load l = { .dim = D, .threads = 2, .cpu = vs_os_cpu(), .there = THERE };
    void *v = draw_vectors(&seed, 0, THERE + ROWS, D);
    struct pool *pool = pool_create(2);
    struct vshard_hit *hits = malloc(QUERIES * K * sizeof *hits);
    struct vshard_hit *exact = malloc(QUERIES * K * sizeof *exact);
    struct vshard_index *x;
    uint32_t right = 0;

    l.vectors = v;
    x = load(&l, pool);
    cr_expect_eq(vshard_index_count(x), THERE - 50 + ROWS - 200 - 1 + 50 /* 50 came again */);
    search_rows(x, v, QUERIES, K, 100, 0, hits);
    search_rows(x, v, QUERIES, K, 0, VSHARD_SEARCH_EXACT, exact);
    for (uint32_t i = 0; i < QUERIES * K; i++)
        right += hits[i].distance <= exact[i / K * K + K - 1].distance;
    cr_expect(right >= QUERIES * K * 93 / 100, "%u of %u", right, QUERIES * K);
    free(hits);
    free(exact);
    vshard_index_destroy(x);
    pool_destroy(pool);
    free(v);
}

/* ---- clusters ---- */

struct clusters {
    uint32_t dim, rows, clusters;
    float spread;
    uint32_t element, metric, there; /* rows in an add before */
};

static void *draw_clusters(const struct clusters *c)
{
    uint64_t seed = 7;
    float *centers = draw_vectors(&seed, 0, c->clusters, c->dim);
    float *v = malloc((size_t)c->rows * c->dim * sizeof *v);
    int8_t *bytes = (int8_t *)v;

    for (uint32_t i = 0; i < c->rows; i++) {
        const float *center = centers + random_below(&seed, c->clusters) * c->dim;

        for (uint32_t j = 0; j < c->dim; j++) {
            float at = center[j] + c->spread * (random_float(&seed) + random_float(&seed));

            if (c->element == VSHARD_ELEMENT_I8) /* no farther than where this is read from */
                bytes[(size_t)i * c->dim + j] = (int8_t)(at * 100);
            else
                v[(size_t)i * c->dim + j] = at;
        }
    }
    free(centers);
    return v;
}

static uint32_t count_missed(struct vshard_index *x, const struct clusters *c, const void *v)
{
    struct vshard_hit *hits = malloc(c->rows * sizeof *hits);
    uint32_t missed = 0;

    search_rows(x, v, c->rows, 1, 100, 0, hits);
    for (uint32_t i = 0; i < c->rows; i++)
        missed += hits[i].id != i && hits[i].distance > 1e-6f;
    free(hits);
    return missed;
}

static uint64_t expect_found(const struct clusters *c, const void *v, uint32_t threads,
                             uint32_t cpu)
{
    struct vshard_index_options o = {
        .size = sizeof o, .dim = c->dim, .element = c->element, .metric = c->metric
    };
    uint64_t *ids = number_ids(0, c->rows), digest;
    struct pool *pool = pool_create(threads);
    struct vshard_index *x;
    uint32_t missed;

    o.executor = pool_executor(pool);
    x = make_index(&o);
    vs_kernel_init(&x->kernel, cpu);
    if (c->there > 0)
        add_rows(x, ids, v, c->there);
    add_rows(x, ids + c->there,
             (const char *)v + (size_t)c->there * c->dim * element_bytes(c->element),
             c->rows - c->there);
    missed = count_missed(x, c, v);
    cr_expect(missed <= c->rows / 1000, "%u rows of %u dimensions in %u clusters: %u not found",
              c->rows, c->dim, c->clusters, missed);
    cr_expect(atomic_load(&x->entry_count) <= c->rows / 512 + 64 + c->clusters);
    digest = digest_of(x);
    free(ids);
    vshard_index_destroy(x);
    pool_destroy(pool);
    return digest;
}

Test(index_bulk, clusters_are_found)
{
    static const struct clusters all[] = {
        { .dim = 32, .rows = 11000, .clusters = 20, .spread = 0.01f },
        { .dim = 32, .rows = 11000, .clusters = 200, .spread = 0.01f },
        { .dim = 32, .rows = 11000, .clusters = 900, .spread = 0.01f },
        { .dim = 8, .rows = 11000, .clusters = 300, .spread = 0.001f },
        { .dim = 128, .rows = 11000, .clusters = 200, .spread = 0.03f },
        { .dim = 32, .rows = 11000, .clusters = 250, .spread = 0.01f, .there = 2500 },
        { .dim = 32,
          .rows = 11000,
          .clusters = 200,
          .spread = 0.01f,
          .metric = VSHARD_METRIC_COSINE },
        { .dim = 32,
          .rows = 11000,
          .clusters = 200,
          .spread = 0.03f,
          .element = VSHARD_ELEMENT_I8 },
    };

    for (size_t i = 0; i < VS_COUNT(all); i++) {
        void *v = draw_clusters(&all[i]);
        uint64_t digest = expect_found(&all[i], v, 1, vs_os_cpu());

        if (i < 2 && !SANITIZED) /* the slowest instructions: under a sanitizer a minute */
            cr_expect_eq(expect_found(&all[i], v, 3, 0), digest);
        free(v);
    }
}

/* ---- slots ---- */

/* How many rows that were linked together have one of their own cluster in the next slot. */
static uint32_t count_beside(struct vshard_index *x, uint32_t rows, uint32_t clusters)
{
    uint32_t beside = 0, slots = atomic_load(&x->slot_count);

    cr_assert_eq(slots, rows);
    for (uint32_t slot = 1; slot < slots; slot++)
        beside += vs_row_at(x, slot)->id % clusters == vs_row_at(x, slot - 1)->id % clusters;
    return beside;
}

/* Rows of 60 clusters in turns: as they were given, no two of one are neighbours. */
Test(index_bulk, near_rows_lie_beside_each_other)
{
    enum { CLUSTERS = 60 };
    const struct vshard_attribute attribute = { VSHARD_ATTRIBUTE_INT64, "number" };
    struct vshard_index_options o = small_options(D, 0, 0);
    uint64_t seed = 8, *ids = number_ids(0, ROWS);
    float *v = draw_vectors(&seed, 0, ROWS, D), *back = malloc(ROWS * D * sizeof *back);
    int64_t *numbers = malloc(2 * ROWS * sizeof *numbers);
    struct vshard_values values = { numbers, 0 };
    const struct vshard_add_options with = { sizeof with, 1, &values };
    struct pool *pool = pool_create(2);
    struct vshard_index *x;

    for (uint32_t i = 0; i < ROWS; i++) {
        numbers[i] = 7 * (int64_t)i;
        for (uint32_t j = 0; i >= CLUSTERS && j < D; j++)
            v[i * D + j] = v[i % CLUSTERS * D + j] + v[i * D + j] / 64;
    }
    o.attributes = &attribute;
    o.attribute_count = 1;
    o.executor = pool_executor(pool);
    x = make_index(&o);
    cr_assert_eq(vshard_index_add_with(x, ids, v, ROWS, &with), 0);
    cr_expect(count_beside(x, ROWS, CLUSTERS) > ROWS / 2, "%u of %u",
              count_beside(x, ROWS, CLUSTERS), ROWS);

    values.values = numbers + ROWS;
    cr_assert_eq(vshard_index_fetch(x, ids, ROWS, back, NULL), 0);
    cr_assert_eq(vshard_index_fetch_values(x, ids, ROWS, &values, 1, NULL), 0);
    cr_expect(memcmp(back, v, ROWS * D * sizeof *v) == 0);
    cr_expect(memcmp(numbers, numbers + ROWS, ROWS * sizeof *numbers) == 0);
    vshard_index_destroy(x);
    pool_destroy(pool);
    free(numbers);
    free(back);
    free(v);
    free(ids);
}

/* ---- without memory ---- */

static void expect_all_or_nothing(uint32_t dim, uint32_t there)
{
    const struct vshard_index_options o = small_options(dim, 0, 0);
    uint64_t seed = 6, k;
    float *v = draw_vectors(&seed, 0, THERE + ROWS, dim);

    k = fail_each_allocation(&(struct failing_add){ &o, v, there, there, ROWS, NULL, NULL });
    cr_expect(k > 20, "only %llu allocations were made to fail", (unsigned long long)k);
    free(v);
}

Test(index_bulk, without_memory_changes_nothing)
{
    expect_all_or_nothing(8, 0);
    expect_all_or_nothing(8, THERE);
}
