/* index_search.c - what a search of a graph promises, whatever it finds.
 *
 * Method: recall is another test's; here the shape of the answer is compared with an
 * exact search of the same index. min(k, live) answers, each live, each once, in
 * order, with the very distance that the exact search gives it, also while most rows
 * are removed and the beam is narrower than k. Calls with many queries, from many
 * threads, and a second time, must answer the same. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/index_data.h"
#include "support/pool.h"

enum { N = 1500, D = 8 };

struct the_index {
    struct vshard_index *x;
    void *vectors;
    uint64_t *ids;
    uint32_t metric, element;
};

static void begin(struct the_index *t, uint32_t metric, uint32_t element)
{
    struct vshard_index_options o = small_options(D, metric, element);
    uint64_t seed = 21;

    t->metric = metric;
    t->element = element;
    t->x = make_index(&o);
    t->vectors = draw_vectors(&seed, element, N, D);
    t->ids = number_ids(0, N);
    add_rows(t->x, t->ids, t->vectors, N);
}

static void end(struct the_index *t)
{
    vshard_index_destroy(t->x);
    free(t->vectors);
    free(t->ids);
}

/* The answers of a graph beside those of an exact search. */
static void expect_answer(struct the_index *t, const void *query, size_t k, uint32_t ef)
{
    static struct vshard_hit hits[VSHARD_K_MAX], exact[VSHARD_K_MAX];
    static float distance_of[N];
    uint64_t live = vshard_index_count(t->x), want = k < live ? k : live;
    uint32_t found = 77;
    struct vshard_search_options o = { .size = sizeof o, .ef_search = ef, .found = &found };

    for (uint32_t i = 0; i < N; i++)
        distance_of[i] = NAN;
    search_rows(t->x, query, 1, N, 0, VSHARD_SEARCH_EXACT, exact);
    for (uint32_t i = 0; i < live; i++)
        distance_of[exact[i].id] = exact[i].distance;
    cr_assert_eq(vshard_index_search(t->x, query, 1, k, hits, &o), 0);
    cr_assert_eq(found, want, "k %zu, ef %u, %llu live: %u found", k, ef, (unsigned long long)live,
                 found);
    for (uint32_t i = 0; i < k; i++) {
        cr_assert_eq(hits[i].reserved, 0);
        if (i >= want) {
            cr_assert(hits[i].id == VSHARD_ID_NONE && isinf(hits[i].distance), "not padded");
            continue;
        }
        cr_assert(hits[i].id < N, "k %zu, ef %u: no such row", k, ef);
        cr_assert_eq(hits[i].distance, distance_of[hits[i].id],
                     "k %zu, ef %u: row %llu is removed, comes twice, or is not that far", k, ef,
                     (unsigned long long)hits[i].id);
        distance_of[hits[i].id] = NAN;
        cr_assert(i == 0 || hits[i - 1].distance < hits[i].distance ||
                      (hits[i - 1].distance == hits[i].distance && hits[i - 1].id < hits[i].id),
                  "k %zu, ef %u: out of order", k, ef);
    }
}

static void expect_answers(struct the_index *t)
{
    static const uint32_t efs[] = { 0, 1, 7, 300 };
    uint64_t live = vshard_index_count(t->x), seed = live;
    size_t ks[] = { 1, 10, 100, live / 2, live - 1, live, live + 1, VSHARD_K_MAX };

    for (size_t i = 0; i < VS_COUNT(ks); i++) {
        for (size_t j = 0; j < VS_COUNT(efs); j++) {
            unsigned char query[4 * D];

            draw_elements(&seed, t->element, query, D);
            if (ks[i] >= 1 && ks[i] <= VSHARD_K_MAX)
                expect_answer(t, query, ks[i], efs[j]);
        }
    }
}

Test(index_search, there_are_min_k_live_answers_while_rows_are_removed)
{
    static const uint32_t lives[] = { 1400, 700, 200, 50, 5, 2, 1, 0 };

    for (uint32_t at = 0; at < METRICS * ELEMENTS * 2; at++) {
        uint32_t live = N, repaired = at >= METRICS * ELEMENTS;
        struct the_index t;

        if (!combine(at % METRICS, at / METRICS % ELEMENTS))
            continue;
        begin(&t, at % METRICS, at / METRICS % ELEMENTS);
        expect_answers(&t);
        for (size_t i = 0; i < VS_COUNT(lives); i++) {
            remove_rows(t.x, t.ids + lives[i], live - lives[i]);
            live = lives[i];
            if (repaired)
                cr_assert_eq(vshard_index_maintain(t.x, 0, NULL), 0);
            cr_assert_eq(vshard_index_count(t.x), live);
            expect_answers(&t);
        }
        add_rows(t.x, t.ids, t.vectors, N); /* and again from nothing */
        expect_answers(&t);
        expect_clean(t.x, "filled again");
        end(&t);
    }
}

Test(index_search, an_empty_index_answers_nothing)
{
    for (uint32_t family = 0; family < 2; family++) {
        struct vshard_index_options o = small_options(D, 0, 0);
        struct vshard_index *x;
        struct vshard_hit hits[3];
        float query[D] = { 1 };

        o.family = family;
        x = make_index(&o);
        search_rows(x, query, 1, 3, 0, 0, hits);
        cr_expect_eq(hits[0].id, VSHARD_ID_NONE);
        cr_expect_eq(vshard_index_search(x, NULL, 0, 3, NULL, NULL), 0, "no query is no error");
        cr_expect_eq(vshard_index_count(x), 0);
        expect_clean(x, "empty");
        vshard_index_destroy(x);
    }
    cr_expect_eq(vshard_index_count(NULL), 0);
    vshard_index_destroy(NULL);
}

Test(index_search, equal_rows_are_all_found_smaller_ids_first)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        struct vshard_index_options o = small_options(D, metric, VSHARD_ELEMENT_F32);
        uint64_t *ids = number_ids(0, N);
        float *v = malloc(N * D * sizeof *v);
        struct vshard_hit hits[N];
        struct vshard_index *x = make_index(&o);

        for (uint32_t i = 0; i < N * D; i++)
            v[i] = 0.25f * (float)(i % D);
        for (uint32_t i = 0; i < N; i++)
            ids[i] = (uint64_t)(i * 7919u) % N; /* in no order; 7919 is prime to N */
        add_rows(x, ids, v, N);
        for (size_t k = 1; k <= N; k = k * 2 + 1) {
            search_rows(x, v, 1, k, 0, VSHARD_SEARCH_EXACT, hits);
            for (uint32_t i = 0; i < k; i++)
                cr_assert_eq(hits[i].id, i, "k %zu: %llu at %u", k, (unsigned long long)hits[i].id,
                             i);
            search_rows(x, v, 1, k, 0, 0, hits);
            for (uint32_t i = 1; i < k; i++)
                cr_assert(hits[i - 1].id < hits[i].id, "k %zu, by the graph", k);
        }
        vshard_index_destroy(x);
        free(v);
        free(ids);
    }
}

/* ---- many queries, threads, again ---- */

enum { QUERIES = 64, K = 9 };

struct job {
    struct the_index *t;
    const unsigned char *queries;
    struct vshard_hit (*hits)[K];
};

static void search_job(void *arg, uint32_t i)
{
    struct job *j = arg;

    for (uint32_t q = i; q < QUERIES; q += 4)
        search_rows(j->t->x, j->queries + q * 4 * D, 1, K, 0, 0, j->hits[q]);
}

Test(index_search, one_call_many_calls_and_many_threads_answer_the_same)
{
    struct the_index t;
    uint64_t seed = 9;
    unsigned char *queries = draw_vectors(&seed, VSHARD_ELEMENT_F32, QUERIES, D);
    static struct vshard_hit together[QUERIES][K], apart[QUERIES][K];
    struct job j = { &t, queries, apart };
    struct pool *pool = pool_create(4);

    begin(&t, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    search_rows(t.x, queries, QUERIES, K, 0, 0, together[0]);
    for (int again = 0; again < 20; again++) {
        memset(apart, 0, sizeof apart);
        pool_executor(pool)->run(pool_executor(pool)->ctx, 4, search_job, &j);
        cr_assert_eq(memcmp(together, apart, sizeof apart), 0);
    }
    pool_destroy(pool);
    end(&t);
    free(queries);
}

/* ---- queries that walk together ---- */

enum { WIDE_ROWS = 2200, WIDE_QUERIES = 21, CENTRES = 12, WIDE_MOST = 1000 };

/* Mixtures of some vectors, which sketches serve. */
static float *draw_mixtures(uint64_t *seed, const float *centres, size_t count, size_t dim)
{
    float *v = malloc(count * dim * sizeof *v);

    for (size_t i = 0; i < count; i++) {
        float *to = v + i * dim;

        memset(to, 0, dim * sizeof *to);
        for (size_t c = 0; c < CENTRES; c++) {
            float part = random_float(seed);

            for (size_t j = 0; j < dim; j++)
                to[j] += part * centres[c * dim + j];
        }
    }
    return v;
}

static void expect_same(struct vshard_index *x, const float *queries, size_t dim,
                        struct vshard_search_options *o, const char *what)
{
    static struct vshard_hit together[WIDE_QUERIES * K], alone[K];

    cr_assert_eq(vshard_index_search(x, queries, WIDE_QUERIES, K, together, o), 0);
    for (size_t q = 0; q < WIDE_QUERIES; q++) {
        cr_assert_eq(vshard_index_search(x, queries + q * dim, 1, K, alone, o), 0);
        cr_assert_eq(memcmp(together + q * K, alone, sizeof alone), 0,
                     "%s, dim %zu, metric %u, flags %u, query %zu of %d", what, dim, x->metric,
                     o->flags, q, WIDE_QUERIES);
    }
}

static void expect_same_of(uint32_t metric, size_t dim)
{
    struct vshard_index_options o = { .size = sizeof o, .dim = (uint32_t)dim, .metric = metric };
    uint64_t seed = dim, bits[WIDE_ROWS / 64 + 1] = { 0 }, *ids = number_ids(0, WIDE_ROWS);
    float *centres = draw_vectors(&seed, VSHARD_ELEMENT_F32, CENTRES, dim);
    float *rows = draw_mixtures(&seed, centres, WIDE_ROWS, dim);
    float *queries = draw_mixtures(&seed, centres, WIDE_QUERIES, dim);
    struct vshard_filter f = {
        .size = sizeof f, .kind = VSHARD_FILTER_BITS, .count = WIDE_ROWS, .bits = bits
    };
    struct vshard_index *x = make_index(&o);

    add_rows(x, ids, rows, WIDE_ROWS);
    cr_assert_eq(x->sketches.stride > 0,
                 dim > 64 && metric != VSHARD_METRIC_IP && metric != VSHARD_METRIC_L1,
                 "dim %zu, metric %u", dim, metric);
    for (uint32_t every = 0; every < 3; every++) { /* all rows, every other, every 20th */
        struct vshard_search_options s = { .size = sizeof s, .filter = every > 0 ? &f : NULL };

        memset(bits, 0, sizeof bits);
        for (size_t i = 0; every > 0 && i < WIDE_ROWS; i += every == 1 ? 2 : 20)
            bits[i / 64] |= 1ull << i % 64;
        expect_same(x, queries, dim, &s, every > 0 ? "filtered" : "all");
        s.flags = VSHARD_SEARCH_EXACT;
        expect_same(x, queries, dim, &s, every > 0 ? "filtered" : "all");
    }
    vshard_index_destroy(x);
    free(queries);
    free(rows);
    free(centres);
    free(ids);
}

/* Whose codes are padded, and whose sketches are made together. */
Test(index_search, queries_of_one_call_do_not_disturb_each_other)
{
    static const size_t dims[] = { 31, 300, 384, 784, WIDE_MOST };

    for (size_t i = 0; i < VS_COUNT(dims); i++)
        expect_same_of(VSHARD_METRIC_L2SQ, dims[i]);
    expect_same_of(VSHARD_METRIC_COSINE, 300);
    expect_same_of(VSHARD_METRIC_IP, 300);
    expect_same_of(VSHARD_METRIC_L1, 300);
}

/* One query and several, all rows and every other, by the graph and exactly. */
static void search_each_way(struct vshard_index *x, const struct vshard_filter *filter,
                            const float *queries)
{
    struct vshard_hit hits[WIDE_QUERIES * K];

    for (uint32_t way = 0; way < 8; way++) {
        struct vshard_search_options s = { .size = sizeof s,
                                           .filter = way & 1 ? filter : NULL,
                                           .flags = way & 2 ? VSHARD_SEARCH_EXACT : 0 };

        cr_assert_eq(vshard_index_search(x, queries, way & 4 ? WIDE_QUERIES : 1, K, hits, &s), 0);
    }
}

static void expect_no_allocations(uint32_t family, size_t dim)
{
    struct vshard_index_options o =
        small_options((uint32_t)dim, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32);
    uint64_t seed = 9, *ids = number_ids(0, WIDE_ROWS), bits[WIDE_ROWS / 64 + 1], calls;
    float *centres = draw_vectors(&seed, VSHARD_ELEMENT_F32, CENTRES, dim);
    float *rows = draw_mixtures(&seed, centres, WIDE_ROWS, dim);
    struct vshard_filter f = {
        .size = sizeof f, .kind = VSHARD_FILTER_BITS, .count = WIDE_ROWS, .bits = bits
    };
    struct fault_alloc memory;
    struct vshard_index *x;

    memset(bits, 0x55, sizeof bits);
    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    o.family = family;
    x = make_index(&o);
    add_rows(x, ids, rows, WIDE_ROWS);
    search_each_way(x, &f, rows);
    calls = memory.calls;
    for (uint32_t i = 0; i < 20; i++)
        search_each_way(x, &f, rows + i * dim);
    cr_expect_eq(memory.calls, calls, "family %u, dim %zu", family, dim);
    vshard_index_destroy(x);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    free(rows);
    free(centres);
    free(ids);
}

/* By codes, by sketches, by sketches along axes, and of a flat index. */
Test(index_search, a_search_allocates_nothing_after_its_first)
{
    expect_no_allocations(VSHARD_FAMILY_HNSW, 8);
    expect_no_allocations(VSHARD_FAMILY_HNSW, 100);
    expect_no_allocations(VSHARD_FAMILY_HNSW, 300);
    expect_no_allocations(VSHARD_FAMILY_FLAT, 100);
}

/* ---- numbers ---- */

static struct vshard_search_info searched(struct vshard_index *x, const void *queries, size_t count,
                                          uint32_t ef, uint32_t flags)
{
    struct vshard_hit hits[10 * K];
    struct vshard_search_info info = { .size = sizeof info, .distances = 1, .hops = 1 };
    struct vshard_search_options o = {
        .size = sizeof o, .ef_search = ef, .flags = flags, .info = &info
    };

    cr_assert_eq(vshard_index_search(x, queries, count, K, hits, &o), 0);
    cr_assert_eq(info.reserved, 0);
    cr_assert_eq(info.size, sizeof info);
    return info;
}

Test(index_search, the_info_counts_what_was_done)
{
    struct the_index t;
    struct vshard_search_info exact, narrow, wide, twice;

    begin(&t, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32);
    exact = searched(t.x, t.vectors, 3, 0, VSHARD_SEARCH_EXACT);
    cr_expect_eq(exact.distances, 3 * N);
    cr_expect_eq(exact.hops, 0);
    cr_expect_eq(exact.exact_scans, 3);
    narrow = searched(t.x, t.vectors, 3, 10, 0);
    cr_expect_eq(narrow.exact_scans, 0);
    cr_expect(narrow.hops >= 3 * 10, "a beam of 10 follows at least 10 rows: %llu",
              (unsigned long long)narrow.hops);
    cr_expect(narrow.distances > narrow.hops && narrow.distances < 3 * N);
    wide = searched(t.x, t.vectors, 3, 100, 0);
    cr_expect(wide.hops > narrow.hops && wide.distances > narrow.distances);
    twice = searched(t.x, t.vectors, 3, 10, 0);
    cr_expect_eq(memcmp(&twice, &narrow, sizeof twice), 0, "counters start again with each call");
    remove_rows(t.x, t.ids, 500);
    cr_assert_eq(vshard_index_maintain(t.x, 0, NULL), 0);
    exact = searched(t.x, t.vectors, 1, 0, VSHARD_SEARCH_EXACT);
    cr_expect_eq(exact.distances, N - 500, "removed rows are not measured");
    end(&t);
}

Test(index_search, the_stats_count_every_byte)
{
    for (uint32_t at = 0; at < 2 * METRICS * ELEMENTS + 1; at++) {
        uint32_t dim = at == 2 * METRICS * ELEMENTS ? 300 : D; /* which has sketches */
        struct vshard_index_options o = small_options(dim, at % METRICS, at / METRICS % ELEMENTS);
        struct vshard_index_stats s = { .size = sizeof s };
        struct fault_alloc memory;
        uint64_t seed = 9, *ids = number_ids(0, N);
        void *v = draw_vectors(&seed, o.element, N, dim);
        struct vshard_hit hits[K];
        struct vshard_index *x;

        if (!combine(o.metric, o.element)) {
            free(v);
            free(ids);
            continue;
        }
        fault_alloc_init(&memory);
        o.allocator = &memory.hook;
        o.family = at / METRICS / ELEMENTS == 1;
        x = make_index(&o);
        for (uint32_t step = 0; step < 4; step++) {
            cr_assert_eq(vshard_index_stats(x, &s), 0);
            cr_expect_eq(s.heap_bytes, memory.bytes, "case %u, step %u: %llu said, %llu held", at,
                         step, (unsigned long long)s.heap_bytes, (unsigned long long)memory.bytes);
            if (step == 0)
                add_rows(x, ids, v, N);
            else if (step == 1)
                search_rows(x, v, 1, K, 0, 0, hits);
            else if (step == 2)
                remove_rows(x, ids, 1100);
        }
        cr_expect_eq(s.rows, N - 1100);
        cr_expect_eq(s.rows + s.removed_rows + s.free_rows, N);
        cr_expect_eq(s.trained, o.family == VSHARD_FAMILY_HNSW);
        cr_expect_eq(s.dim, o.dim);
        cr_expect_eq(s.m, o.family == VSHARD_FAMILY_HNSW ? 6 : 0);
        cr_expect(s.element_bytes >= N * dim * element_bytes(o.element));
        vshard_index_destroy(x);
        cr_expect_null(fault_alloc_verdict(&memory));
        fault_alloc_fini(&memory);
        free(v);
        free(ids);
    }
}
