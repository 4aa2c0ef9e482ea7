/* kernel_distance.c - how fast one query meets rows, and candidates a pool.
 *
 * What it models: the inner loop of a graph search. `cached` takes the same 64
 * rows again and again. `random` takes 32 rows at a time from anywhere in 256 MB
 * and prefetches the next 32 first, as a search does with the neighbours of the
 * vertex it will expand next. A pool is offered, 32 at a time, 32 candidates for
 * each entry it can hold, in random order: about one in seven gets in, anywhere;
 * the time is for one that gets in, with what the refused ones cost.
 *
 * The last lines are of what scans and loads spend their time on besides, for a row: products
 * of a panel of 64 rows with four queries (for a row and query), choosing of 64 rows those that
 * may be near, comparing 64 values with two bounds, encoding a vector.
 *
 * One line a case, tab-separated, units in the column names; the time is the
 * median of the repeats, and the 95th percentile stands beside it. `size` is the
 * dimension, in bits for hamming, or what the pool can hold. Every variant this machine can run has
 * its lines. Time is this thread's own, so that a busy machine, though it still
 * takes caches and memory away, does not count in full.
 *
 *     build/bench/kernel_distance [repeats]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernel/kernel.h"
#include "os/os.h"
#include "support/bench.h"

enum { REPEATS_DEFAULT = 15, BATCH = 32, CACHED_ROWS = 64, OFFERS_FOR_ENTRY = 32, KEYS = 1 << 18 };

#define DATA_BYTES ((size_t)256 << 20)

static volatile int32_t sink; /* keeps the compiler from dropping the work */

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void report(const char *what, const char *variant, size_t size, const char *where,
                   double *sample, size_t repeats)
{
    qsort(sample, repeats, sizeof *sample, by_value);
    printf("%s\t%s\t%zu\t%s\t%.2f\t%.2f\n", what, variant, size, where, sample[repeats / 2],
           sample[repeats * 95 / 100]);
}

/* ---- distances ---- */

enum job {
    L2SQ_F32,
    DOT_F32,
    L1_F32,
    L2SQ_F16,
    DOT_F16,
    L1_F16,
    L2SQ_CODE,
    DOT_CODE,
    L2SQ_U8,
    DOT_I8,
    L1_U8,
    L1_I8,
    HAMMING,
    L2SQ_U4,
    JOBS
};

static const struct {
    const char *name;
    size_t bits; /* of an element */
} jobs[JOBS] = {
    [L2SQ_F32] = { "l2sq_f32", 32 },  [DOT_F32] = { "dot_f32", 32 },  [L1_F32] = { "l1_f32", 32 },
    [L2SQ_F16] = { "l2sq_f16", 16 },  [DOT_F16] = { "dot_f16", 16 },  [L1_F16] = { "l1_f16", 16 },
    [L2SQ_CODE] = { "l2sq_code", 8 }, [DOT_CODE] = { "dot_code", 8 }, [L2SQ_U8] = { "l2sq_u8", 8 },
    [DOT_I8] = { "dot_i8", 8 },       [L1_U8] = { "l1_u8", 8 },       [L1_I8] = { "l1_i8", 8 },
    [HAMMING] = { "hamming", 1 },     [L2SQ_U4] = { "l2sq_u4", 4 },
};

struct setup {
    const struct vs_kernel *kernel;
    enum job job;
    size_t dim;
    size_t bytes; /* from one row to the next */
    size_t rows;
    const uint8_t *data; /* [rows * bytes] */
};

static void run(const struct setup *s, const void *const *rows)
{
    static float f[BATCH];
    static int32_t n[BATCH];
    const struct vs_kernel *k = s->kernel;
    const void *q = s->data;

    switch (s->job) {
    case L2SQ_F32: k->l2sq_f32_many(q, rows, BATCH, s->dim, f); break;
    case DOT_F32: k->dot_f32_many(q, rows, BATCH, s->dim, f); break;
    case L1_F32: k->l1_f32_many(q, rows, BATCH, s->dim, f); break;
    case L2SQ_F16: k->l2sq_f16_many(q, rows, BATCH, s->dim, f); break;
    case DOT_F16: k->dot_f16_many(q, rows, BATCH, s->dim, f); break;
    case L1_F16: k->l1_f16_many(q, rows, BATCH, s->dim, f); break;
    case L2SQ_CODE: k->l2sq_code_many(q, rows, BATCH, s->bytes, n); break;
    case DOT_CODE: k->dot_code_many(q, rows, BATCH, s->bytes, n); break;
    case L2SQ_U8: k->l2sq_u8_many(q, rows, BATCH, s->dim, n); break;
    case DOT_I8: k->dot_i8_many(q, rows, BATCH, s->dim, n); break;
    case L1_U8: k->l1_u8_many(q, rows, BATCH, s->dim, n); break;
    case L1_I8: k->l1_i8_many(q, rows, BATCH, s->dim, n); break;
    case L2SQ_U4: k->l2sq_u4_many(q, rows, BATCH, s->bytes, n); break;
    default: k->hamming_many(q, rows, BATCH, s->dim / 8, n);
    }
    sink = n[0] + (f[0] > 0);
}

static void choose(const struct setup *s, const void **rows, uint64_t *state)
{
    for (size_t i = 0; i < BATCH; i++)
        rows[i] = s->data + (next_random(state) * s->rows >> 31) * s->bytes;
}

static void prefetch(const struct setup *s, const void *const *rows)
{
    for (size_t i = 0; i < BATCH; i++) {
        for (size_t at = 0; at < s->bytes; at += 64)
            __builtin_prefetch((const uint8_t *)rows[i] + at);
    }
}

/* Nanoseconds a row. */
static double pass(const struct setup *s, size_t batches, uint64_t *state)
{
    const void *rows[2][BATCH];
    double start;

    choose(s, rows[0], state);
    start = now_ns();
    for (size_t b = 0; b < batches; b++) {
        if (s->rows > CACHED_ROWS) {
            choose(s, rows[(b + 1) & 1], state);
            prefetch(s, rows[(b + 1) & 1]);
            run(s, rows[b & 1]);
        } else {
            run(s, rows[0]);
        }
    }
    return (now_ns() - start) / (double)(batches * BATCH);
}

static void distances(const struct vs_kernel *k, const uint8_t *data, double *sample,
                      size_t repeats)
{
    static const size_t dims[] = { 100, 128, 384, 768, 960 }, bits[] = { 128, 256, 512, 768, 1024 };

    for (int job = 0; job < JOBS; job++) {
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            size_t dim = job == HAMMING ? bits[d] : dims[d], least = job == HAMMING ? 16 : 64;
            struct setup s = { k, (enum job)job, dim, 0, CACHED_ROWS, data };
            uint64_t state = 1;

            s.bytes = (dim * jobs[job].bits / 8 + least - 1) / least * least;
            pass(&s, 200, &state);
            for (size_t i = 0; i < repeats; i++)
                sample[i] = pass(&s, 200, &state);
            report(jobs[job].name, k->name, dim, "cached", sample, repeats);
            s.rows = DATA_BYTES / s.bytes;
            for (size_t i = 0; i < repeats; i++)
                sample[i] = pass(&s, 500, &state);
            report(jobs[job].name, k->name, dim, "random", sample, repeats);
        }
    }
}

/* ---- pool ---- */

/* Offers a search's worth of candidates to an empty pool. */
static void fill(const struct vs_kernel *k, struct vs_pool *pool, const int32_t *keys,
                 const uint32_t *slots)
{
    pool->count = pool->next = 0;
    for (size_t i = 0; i < (size_t)pool->cap * OFFERS_FOR_ENTRY; i += BATCH)
        k->pool_push(pool, keys + i, slots + i, BATCH);
    sink = pool->keys[0];
}

/* How many of those get in: one at a time, with a look at whether it did. */
static size_t count_inserted(const struct vs_kernel *k, struct vs_pool *pool, const int32_t *keys,
                             const uint32_t *slots)
{
    size_t inserted = 0;

    pool->count = pool->next = 0;
    for (size_t i = 0; i < (size_t)pool->cap * OFFERS_FOR_ENTRY; i++) {
        inserted += pool->count < pool->cap || keys[i] < pool->keys[pool->cap - 1];
        k->pool_push(pool, keys + i, slots + i, 1);
    }
    return inserted;
}

static void pools(const struct vs_kernel *k, double *sample, size_t repeats)
{
    enum { SEARCHES = 100, CAP_MOST = 400 };
    static const uint32_t caps[] = { 64, 100, 200, CAP_MOST };
    static int32_t keys[KEYS], pool_keys[CAP_MOST + 16];
    static uint32_t slots[KEYS], pool_slots[CAP_MOST + 16];
    uint64_t state = 1;

    for (size_t i = 0; i < KEYS; i++) {
        keys[i] = (int32_t)next_random(&state);
        slots[i] = (uint32_t)i;
    }
    for (size_t c = 0; c < sizeof caps / sizeof caps[0]; c++) {
        struct vs_pool pool = { pool_keys, pool_slots, 0, caps[c], 0 };
        size_t starts = KEYS - (size_t)caps[c] * OFFERS_FOR_ENTRY;

        for (size_t r = 0; r < repeats; r++) {
            uint64_t replay = state;
            size_t inserted = 0;
            double start = now_ns();

            for (size_t i = 0; i < SEARCHES; i++) {
                size_t at = next_random(&state) % starts;
                fill(k, &pool, keys + at, slots + at);
            }
            sample[r] = now_ns() - start;
            for (size_t i = 0; i < SEARCHES; i++) {
                size_t at = next_random(&replay) % starts;
                inserted += count_inserted(k, &pool, keys + at, slots + at);
            }
            sample[r] /= (double)inserted;
        }
        report("pool_push", k->name, caps[c], "cached", sample, repeats);
    }
}

/* ---- what else a scan and a load spend their time on, in cache ---- */

enum other { PANEL_DOT, SELECT_NEAR, BETWEEN, ENCODE, OTHERS };

static const char *const others[OTHERS] = {
    [PANEL_DOT] = "panel_dot",
    [SELECT_NEAR] = "select_near",
    [BETWEEN] = "between",
    [ENCODE] = "encode",
};

enum { TOGETHER = 4, LONGEST = 1024 };

/* Once; returns for how many rows: times queries for a panel. */
static size_t run_other(const struct vs_kernel *k, enum other what, size_t dim, const uint8_t *data)
{
    static const struct vs_select select = { 1, 0, 0, 1, 0 };
    static int32_t products[TOGETHER * VS_PANEL_ROWS];
    static uint8_t code[LONGEST];
    const float *floats = (const float *)(const void *)data;

    switch (what) {
    case PANEL_DOT:
        k->panel_dot((const int8_t *)data, TOGETHER, dim / 4, data + LONGEST * TOGETHER, products);
        sink = products[0];
        return (size_t)TOGETHER * VS_PANEL_ROWS;
    case SELECT_NEAR:
        sink =
            k->select_near(&select, products, floats, floats + VS_PANEL_ROWS, VS_PANEL_ROWS) != 0;
        return VS_PANEL_ROWS;
    case BETWEEN:
        sink = k->between(0, 1 << 20, (const int64_t *)(const void *)data) != 0;
        return 64;
    default:
        k->encode(floats, 1, floats + LONGEST, 100, dim, code);
        sink = code[0];
        return 1;
    }
}

static void run_others(const struct vs_kernel *k, const uint8_t *data, double *sample,
                       size_t repeats)
{
    static const size_t dims[] = { 100, 128, 384, 768, 960 };

    for (int what = 0; what < OTHERS; what++) {
        bool of_dim = what == PANEL_DOT || what == ENCODE;

        for (size_t d = 0; d < (of_dim ? sizeof dims / sizeof dims[0] : 1); d++) {
            for (size_t r = 0; r < repeats; r++) {
                double start = now_ns();
                size_t rows = 0;

                for (int i = 0; i < 2000; i++)
                    rows += run_other(k, (enum other)what, dims[d], data);
                sample[r] = (now_ns() - start) / (double)rows;
            }
            report(others[what], k->name, of_dim ? dims[d] : 64, "cached", sample, repeats);
        }
    }
}

int main(int argc, char **argv)
{
    size_t repeats = argc > 1 ? strtoul(argv[1], NULL, 10) : REPEATS_DEFAULT;
    uint8_t *data = aligned_alloc(64, DATA_BYTES);
    double *sample = calloc(repeats ? repeats : 1, sizeof *sample);
    uint32_t all = vs_os_cpu(), cpu = all;
    const char *names[16];
    size_t count = 0;
    struct vs_kernel kernel;

    bench_usage(argc, argv, 1, "[repeats]");
    if (data == NULL || sample == NULL || repeats == 0)
        return 1;
    for (size_t i = 0; i < DATA_BYTES; i += 4) { /* floats of [1, 2) whose bytes are codes */
        uint32_t bits = 0x3f000000u | ((uint32_t)(i * 2654435761u) & 0x007f7f7fu);
        memcpy(data + i, &bits, 4);
    }

    puts("function\tvariant\tsize\twhere\tns_p50\tns_p95");
    for (;; cpu = (cpu - 1) & all) { /* of the subsets of the bits by one name, the largest */
        bool had = false;

        vs_kernel_init(&kernel, cpu);
        for (size_t i = 0; i < count; i++)
            had = had || strcmp(kernel.name, names[i]) == 0;
        if (!had && count < sizeof names / sizeof names[0]) {
            names[count++] = kernel.name;
            distances(&kernel, data, sample, repeats);
            pools(&kernel, sample, repeats);
            run_others(&kernel, data, sample, repeats);
        }
        if (cpu == 0)
            break;
    }
    free(sample);
    free(data);
    return 0;
}
