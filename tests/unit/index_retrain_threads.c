/* index_retrain_threads.c - codes are made anew beside readers.
 *
 * One thread adds rows that lie farther and farther away, so that codes are made anew several
 * times, and in the end rows for which no codes serve. Meanwhile others make every call that
 * reads, and one saves. Each answer must be true: the distance of a row that is there; and a row
 * that was added before must find itself. Meant above all for ThreadSanitizer. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/random.h"

enum { D = 16, ROWS = 3000, BATCH = 60, READERS = 3, K = 5, STEADY = 600, STEP = 300 };

struct run {
    struct vshard_index *x;
    float *vectors;
    _Atomic uint32_t added; /* rows that are to be found */
    _Atomic uint32_t wrong, missed, searches, ended;
};

static void expect(struct run *r, bool right)
{
    if (!right)
        atomic_fetch_add(&r->wrong, 1);
}

static double distance(const struct run *r, uint64_t a, uint64_t b)
{
    double sum = 0;

    for (uint32_t i = 0; i < D; i++) {
        double d = (double)r->vectors[a * D + i] - (double)r->vectors[b * D + i];

        sum += d * d;
    }
    return sum;
}

static void judge(struct run *r, uint64_t id, const struct vshard_hit *hits)
{
    atomic_fetch_add(&r->searches, 1);
    atomic_fetch_add(&r->missed, hits[0].id != id);
    for (uint32_t i = 0; i < K; i++) {
        double true_one;

        expect(r, hits[i].id < ROWS);
        if (hits[i].id >= ROWS)
            continue;
        true_one = distance(r, id, hits[i].id);
        expect(r, (double)hits[i].distance <= true_one * 1.0001 + 1e-3);
        expect(r, (double)hits[i].distance >= true_one * 0.9999 - 1e-3);
    }
}

static void read_once(struct run *r, uint64_t id, uint32_t turn)
{
    const uint64_t few[] = { id, 1, 2, 3 };
    const struct vshard_filter filter = {
        .size = sizeof filter, .kind = VSHARD_FILTER_IDS, .count = 4, .ids = few
    };
    const struct vshard_search_options filtered = { .size = sizeof filtered, .filter = &filter };
    struct vshard_index_stats stats = { .size = sizeof stats };
    struct vshard_explanation e = { .size = sizeof e };
    const float *query = r->vectors + id * D;
    struct vshard_hit hits[K];
    float vector[D];

    expect(r, vshard_index_search(r->x, query, 1, K, hits, NULL) == VSHARD_OK);
    judge(r, id, hits);
    switch (turn % 5) {
    case 0:
        expect(r, vshard_index_search(r->x, query, 1, 1, hits, &filtered) == VSHARD_OK);
        expect(r, hits[0].id == id);
        break;
    case 1: expect(r, vshard_index_range(r->x, query, 0.5f, hits, K, NULL) == VSHARD_OK); break;
    case 2:
        expect(r, vshard_index_explain(r->x, query, id, K, NULL, &e) == VSHARD_OK);
        expect(r, e.rank == 0);
        break;
    case 3: expect(r, vshard_index_stats(r->x, &stats) == VSHARD_OK); break;
    default:
        expect(r, vshard_index_fetch(r->x, &id, 1, vector, NULL) == VSHARD_OK);
        expect(r, memcmp(vector, query, sizeof vector) == 0);
        break;
    }
}

static void *read_all(void *arg)
{
    struct run *r = arg;
    uint64_t seed = 9;

    for (uint32_t turn = 0; !atomic_load(&r->ended); turn++) {
        uint32_t added = atomic_load(&r->added);

        if (added > K)
            read_once(r, random_below(&seed, added), turn);
    }
    return NULL;
}

static void *save_all(void *arg)
{
    struct run *r = arg;

    while (!atomic_load(&r->ended))
        expect(r, vshard_index_save_changes(r->x, "/i") == VSHARD_OK);
    return NULL;
}

/* Rows come to lie farther away in steps, and the last a thousand times as far. */
static float *draw(void)
{
    uint64_t seed = 1;
    float *v = malloc(ROWS * D * sizeof *v);

    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t step = i < STEADY ? 0 : (i - STEADY) / STEP;

        for (uint32_t j = 0; j < D; j++)
            v[i * D + j] = (float)(random_normal(&seed) * (i < ROWS - STEP ? 1 : 1000) +
                                   (j % 4 == step % 4 ? 5.0 * step : 0));
    }
    return v;
}

Test(index_retrain_threads, answers_are_true_while_codes_are_made_anew)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct fault_storage *fs = fault_storage_create(1);
    struct run r = { .vectors = draw() };
    uint64_t *ids = number_ids(0, ROWS);
    pthread_t threads[READERS + 1];
    uint32_t ranges = 0;
    float scale = 0;

    o.storage = fault_storage_hook(fs);
    o.m = 16;
    r.x = make_index(&o);
    for (int i = 0; i < READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, read_all, &r), 0);
    cr_assert_eq(pthread_create(&threads[READERS], NULL, save_all, &r), 0);
    for (uint32_t i = 0; i < ROWS; i += BATCH) {
        add_rows(r.x, ids + i, r.vectors + i * D, BATCH);
        atomic_store(&r.added, i + BATCH);
        ranges += r.x->quantizer.scale != scale;
        scale = r.x->quantizer.scale;
    }
    cr_expect_eq(r.x->by_vectors, 1);
    atomic_store(&r.ended, 1);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    printf("index_retrain_threads: %u searches, %u missed themselves, %u ranges\n", r.searches,
           r.missed, ranges);
    cr_expect_eq(r.wrong, 0, "%u wrong", r.wrong);
    cr_expect(r.missed * 50 <= r.searches, "%u of %u missed", r.missed, r.searches);
    cr_expect_gt(ranges, 3u);
    expect_clean(r.x, "in the end");
    vshard_index_destroy(r.x);
    fault_storage_destroy(fs);
    free(r.vectors);
    free(ids);
}
