/* index_threads.c - the calls marked "shared" run beside each other, and an executor's
 * threads build what one thread builds.
 *
 * Method: READERS threads make every shared call in turn on one index, in memory and
 * mapped, and compare each answer with the one that a single thread got before. Meant
 * above all for ThreadSanitizer, which sees what a wrong answer would show too late. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/pool.h"

enum { READERS = 4, ROUNDS = 8, ROWS = 900, DIM = 24, QUERIES = 9, K = 5, FLAT_EVERY = 3 };

struct reading {
    struct vshard_index *index;
    const float *queries;
    const struct vshard_hit *answers;       /* [QUERIES x K] */
    const struct vshard_hit *exact_answers; /* likewise */
    const float *vectors;
    uint64_t digest;
    atomic_uint wrong;
    char path[16];
};

static void expect(struct reading *r, bool right)
{
    if (!right)
        atomic_fetch_add(&r->wrong, 1);
}

static void look_around(struct reading *r, uint64_t id)
{
    struct vshard_index_stats stats = { .size = sizeof stats };
    struct vshard_index_check check = { .size = sizeof check };
    float vector[DIM];
    uint64_t digest = 0;

    expect(r, vshard_index_fetch(r->index, &id, 1, vector, NULL) == VSHARD_OK &&
                  memcmp(vector, r->vectors + id * DIM, sizeof vector) == 0);
    expect(r, vshard_index_count(r->index) == ROWS);
    expect(r, vshard_index_stats(r->index, &stats) == VSHARD_OK && stats.rows == ROWS);
    expect(r, vshard_index_check(r->index, &check) == VSHARD_OK && check.rows == ROWS);
    expect(r, vshard_index_digest(r->index, &digest) == VSHARD_OK && digest == r->digest);
}

static int allow_even(void *ctx, uint64_t id)
{
    (void)ctx;
    return id % 2 == 0;
}

/* Filters, limits, a radius and an explanation beside all the others. */
static void search_some(struct reading *r, uint32_t round)
{
    static const uint64_t bits[ROWS / 64 + 1] = { UINT64_MAX, UINT64_MAX };
    static const uint64_t ids[] = { 5, 7, 1, 800 };
    const struct vshard_filter filters[] = {
        { .size = sizeof *filters, .kind = VSHARD_FILTER_IDS, .count = 4, .ids = ids },
        { .size = sizeof *filters, .kind = VSHARD_FILTER_BITS, .count = ROWS, .bits = bits },
        { .size = sizeof *filters, .kind = VSHARD_FILTER_CALL, .allow = allow_even },
    };
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_hit hits[QUERIES * K];
    uint32_t found[QUERIES] = { 0 };
    const struct vshard_search_options options = { .size = sizeof options,
                                                   .found = found,
                                                   .filter = &filters[round % 3] };

    expect(r, vshard_index_search(r->index, r->queries, QUERIES, K, hits, &options) == VSHARD_OK);
    expect(r, found[0] == (round % 3 == 0 ? 4 : K));
    expect(r, vshard_index_range(r->index, r->queries, 2.0f, hits, K, &options) == VSHARD_OK);
    expect(r, found[0] == (round % 3 == 0 ? 4 : K));
    expect(r,
           vshard_index_explain(r->index, r->queries, r->answers[0].id, K, NULL, &e) == VSHARD_OK &&
               e.why == VSHARD_WHY_RETURNED);
}

static void *read_all(void *arg)
{
    struct reading *r = arg;
    struct vshard_hit hits[QUERIES * K];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        bool exact = round % FLAT_EVERY == 0;
        const struct vshard_search_options options = { .size = sizeof options,
                                                       .flags = exact ? VSHARD_SEARCH_EXACT : 0 };

        expect(r,
               vshard_index_search(r->index, r->queries, QUERIES, K, hits, &options) == VSHARD_OK);
        expect(r, memcmp(hits, exact ? r->exact_answers : r->answers, sizeof hits) == 0);
        look_around(r, round * 7);
        search_some(r, round);
    }
    return NULL;
}

static void *save_it(void *arg)
{
    struct reading *r = arg;

    for (uint32_t i = 0; i < 3; i++)
        expect(r, vshard_index_save(r->index, r->path) == VSHARD_OK);
    return NULL;
}

static void read_together(struct reading *r)
{
    pthread_t threads[READERS + 1];

    for (int i = 0; i < READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, read_all, r), 0);
    cr_assert_eq(pthread_create(&threads[READERS], NULL, save_it, r), 0);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(r->wrong, 0, "%u wrong answers", r->wrong);
}

static struct vshard_index *build(const struct vshard_storage *storage,
                                  const struct vshard_executor *executor, const float *vectors)
{
    struct vshard_index_options options = small_options(DIM, VSHARD_METRIC_COSINE, 0);
    uint64_t *ids = number_ids(0, ROWS);
    struct vshard_index *index;

    options.storage = storage;
    options.executor = executor;
    cr_assert_eq(vshard_index_create(&options, &index), VSHARD_OK);
    cr_assert_eq(vshard_index_add(index, ids, vectors, ROWS), VSHARD_OK);
    free(ids);
    return index;
}

Test(index_threads, every_shared_call_runs_beside_every_other)
{
    struct fault_storage *fs = fault_storage_create(1);
    const struct vshard_storage *storage = fault_storage_hook(fs);
    struct vshard_hit answers[QUERIES * K], exact[QUERIES * K];
    const struct vshard_search_options scan = { .size = sizeof scan, .flags = VSHARD_SEARCH_EXACT };
    uint64_t seed = 5;
    float *vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, DIM);
    float *queries = draw_vectors(&seed, VSHARD_ELEMENT_F32, QUERIES, DIM);
    struct pool *pool = pool_create(READERS);
    struct reading r = { .index = build(storage, pool_executor(pool), vectors),
                         .queries = queries,
                         .answers = answers,
                         .exact_answers = exact,
                         .vectors = vectors,
                         .path = "a" };
    const struct vshard_open_options mapped = { .size = sizeof mapped,
                                                .flags = VSHARD_OPEN_MAPPED,
                                                .storage = storage };

    cr_assert_eq(vshard_index_digest(r.index, &r.digest), VSHARD_OK);
    cr_assert_eq(vshard_index_search(r.index, queries, QUERIES, K, answers, NULL), VSHARD_OK);
    cr_assert_eq(vshard_index_search(r.index, queries, QUERIES, K, exact, &scan), VSHARD_OK);
    read_together(&r);
    vshard_index_destroy(r.index);

    cr_assert_eq(vshard_index_open("a", &mapped, &r.index), VSHARD_OK);
    r.path[0] = 'b';
    read_together(&r);
    vshard_index_destroy(r.index);

    pool_destroy(pool);
    fault_storage_destroy(fs);
    free(queries);
    free(vectors);
}

Test(index_threads, many_threads_build_what_one_builds)
{
    uint64_t seed = 6, alone, together;
    float *vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, DIM);
    struct pool *pool = pool_create(READERS);
    struct vshard_index *one = build(NULL, NULL, vectors);
    struct vshard_index *many = build(NULL, pool_executor(pool), vectors);

    cr_assert_eq(vshard_index_digest(one, &alone), VSHARD_OK);
    cr_assert_eq(vshard_index_digest(many, &together), VSHARD_OK);
    cr_expect_eq(alone, together);
    vshard_index_destroy(many);
    vshard_index_destroy(one);
    pool_destroy(pool);
    free(vectors);
}
