/* index_build.c - how fast a graph is built, and how good it is.
 *
 * What it models: rows that arrive in batches ("online"), and a first load in one call
 * ("bulk"), on one thread and on several. For each it prints the time to build, what a
 * beam of 100 then finds of the 10 nearest and at how many distances, rows that cannot
 * be reached, and the digest: it must not depend on the number of threads.
 *
 *     build/bench/index_build [set [rows,... [batch,... [threads,... [m [ef_construction]]]]]]
 *     VSHARD_DATA=dir build/bench/index_build glove100 10000,100000,0 4096,0 1,2 16
 *
 * rows 0: all of the set. batch 0: all in one call. It reads set.base.npy and
 * set.query.npy as tests/support/bench.h says, where half floats are given as floats;
 * synth128 is made up, with so many dimensions, and has as many rows as are asked for.
 * What is right is told by an exact search of the same index. Searches are timed by what
 * their thread used, 1,000 queries a call, and the median of five is printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/index.h>

#include "support/bench.h"
#include "support/pool.h"

enum { K = 10, EF = 100, QUERIES = 1000, REPEATS = 5, LIST_MAX = 16 };

struct bench {
    const char *set;
    uint32_t m, ef_construction;
    struct bench_vectors base, query;
};

struct list {
    size_t values[LIST_MAX], count;
};

/* Keeps QUERIES of them, from all over the file, which may be in an order. */
static void spread_queries(struct bench_vectors *query)
{
    size_t bytes = query->row_bytes;

    if (query->rows <= QUERIES)
        return;
    for (size_t i = 0; i < QUERIES; i++)
        memmove((char *)query->given + i * bytes,
                (char *)query->given + i * query->rows / QUERIES * bytes, bytes);
    query->rows = QUERIES;
}

static void read_set(struct bench *b, const struct list *rows)
{
    size_t most = 0;

    for (size_t i = 0; i < rows->count; i++)
        most = rows->values[i] > most ? rows->values[i] : most;
    if (strncmp(b->set, "synth", 5) == 0) {
        bench_synthetic(&b->base, &b->query, strtoul(b->set + 5, NULL, 10), most ? most : 100000,
                        QUERIES);
        return;
    }
    bench_read(&b->base, b->set, "base.npy", 0, false);
    bench_read(&b->query, b->set, "query.npy", 0, false);
    if (b->base.dim != b->query.dim || b->base.rows < K || b->query.rows == 0)
        bench_die(b->set, "the queries do not fit, or there are too few rows");
    spread_queries(&b->query);
}

static void load(const struct bench *b, struct vshard_index *index, size_t rows, size_t batch)
{
    const char *vectors = b->base.given;
    uint64_t *ids = bench_allocate(rows, sizeof *ids);

    for (size_t i = 0; i < rows; i++)
        ids[i] = i;
    for (size_t i = 0, n; i < rows; i += n) {
        n = batch && batch < rows - i ? batch : rows - i;
        bench_must("add", vshard_index_add(index, ids + i, vectors + i * b->base.row_bytes, n));
    }
    free(ids);
}

/* Of the 10 nearest; and a query's distances and processor time. */
static double recall(const struct bench *b, struct vshard_index *index, double *distances,
                     double *us_each)
{
    const void *queries = b->query.given;
    size_t count = b->query.rows, right = 0;
    double us[REPEATS];
    struct vshard_hit *hits = bench_allocate(count * K, sizeof *hits);
    struct vshard_hit *exact = bench_allocate(count * K, sizeof *exact);
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o, .ef_search = EF, .info = &info };
    struct vshard_search_options scan = { .size = sizeof scan, .flags = VSHARD_SEARCH_EXACT };

    for (size_t i = 0; i < REPEATS; i++) {
        us[i] = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
        bench_must("search", vshard_index_search(index, queries, count, K, hits, &o));
        us[i] = (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - us[i]) / (double)count * 1e6;
    }
    qsort(us, REPEATS, sizeof *us, bench_by_value);
    *us_each = us[REPEATS / 2];
    bench_must("search", vshard_index_search(index, queries, count, K, exact, &scan));
    for (size_t i = 0; i < count * K; i++)
        right += hits[i].distance <= exact[i / K * K + K - 1].distance;
    *distances = (double)info.distances / (double)count;
    free(hits);
    free(exact);
    return (double)right / (double)(count * K);
}

static void measure(const struct bench *b, size_t rows, size_t batch, uint32_t threads)
{
    struct pool *pool = pool_create(threads);
    struct vshard_index_options options = { .size = sizeof options,
                                            .dim = (uint32_t)b->base.dim,
                                            .metric = b->base.metric,
                                            .element = b->base.element,
                                            .m = b->m,
                                            .ef_construction = b->ef_construction,
                                            .seed = 1 };
    struct vshard_index_check check = { .size = sizeof check };
    struct vshard_index *index;
    double wall, cpu, share, distances, us;
    uint64_t digest;

    if (pool == NULL)
        bench_die("threads", "there are none");
    options.executor = pool_executor(pool);
    bench_must("create", vshard_index_create(&options, &index));
    wall = bench_seconds(CLOCK_MONOTONIC);
    cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    load(b, index, rows, batch);
    wall = bench_seconds(CLOCK_MONOTONIC) - wall;
    cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    share = recall(b, index, &distances, &us);
    bench_must("check", vshard_index_check(index, &check));
    bench_must("digest", vshard_index_digest(index, &digest));
    printf("%s\t%zu\t%u\t%u\t%zu\t%u\t%.2f\t%.2f\t%.4f\t%.0f\t%.1f\t%llu\t%016llx\n", b->set, rows,
           b->m, b->ef_construction, batch, threads, wall, cpu, share, distances, us,
           (unsigned long long)check.unreachable, (unsigned long long)digest);
    fflush(stdout);
    vshard_index_destroy(index);
    pool_destroy(pool);
}

static struct list parse(const char *text)
{
    struct list list = { .count = 0 };

    while (list.count < LIST_MAX && *text != '\0') {
        char *end;

        list.values[list.count++] = strtoul(text, &end, 10);
        if (end == text || (*end != ',' && *end != '\0'))
            bench_die(text, "not a list of numbers");
        text = *end == ',' ? end + 1 : end;
    }
    return list;
}

int main(int argc, char **argv)
{
    struct bench b = { .set = argc > 1 ? argv[1] : "glove30k" };
    struct list rows = parse(argc > 2 ? argv[2] : "0"),
                batches = parse(argc > 3 ? argv[3] : "4096,0"),
                threads = parse(argc > 4 ? argv[4] : "1,2");

    bench_usage(argc, argv, 6, "[set [rows,... [batch,... [threads,... [m [ef_construction]]]]]]");
    b.m = argc > 5 ? (uint32_t)atoi(argv[5]) : 16;
    b.ef_construction = argc > 6 ? (uint32_t)atoi(argv[6]) : 200;
    read_set(&b, &rows);
    puts("set\trows\tm\tef_construction\tbatch\tthreads\tbuild_s\tbuild_cpu_s\trecall_at_10_ef_100"
         "\tdistances\tus_a_query\tunreachable\tdigest");
    for (size_t r = 0; r < rows.count; r++) {
        size_t n = rows.values[r] && rows.values[r] < b.base.rows ? rows.values[r] : b.base.rows;

        for (size_t i = 0; i < batches.count; i++) {
            for (size_t t = 0; t < threads.count; t++)
                measure(&b, n, batches.values[i], (uint32_t)threads.values[t]);
        }
    }
    bench_free(&b.base);
    bench_free(&b.query);
    return 0;
}
