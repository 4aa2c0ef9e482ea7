/* index_deadline.c - how late a search comes back that had until then.
 *
 * What it models: a server that gives each question a deadline, on an index that needs
 * longer than that: a flat one, scanned row by row, and a graph with a beam so wide that it
 * takes as long. Between searches the same deadline is waited for by nothing but reading
 * the clock: how late that comes is the machine's doing, and the baseline.
 *
 *     build/bench/index_deadline [rows [tries [longest [queries]]]]
 *
 * Deadlines are drawn from 1 ms to `longest` (3), and given to calls of so many queries (1): of
 * deadlines up to 50 ms a call takes longer when it has 32 queries. Vectors are random, of 100
 * floats. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vshard/index.h>

#include "support/bench.h"
#include "support/random.h"

enum { DIM = 100, K = 10, CASES = 3, QUERIES_MOST = 256 };

static uint64_t now_ns(void *ctx)
{
    struct timespec t;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct vshard_index *make(uint32_t family, const float *vectors, const uint64_t *ids,
                                 size_t rows)
{
    struct vshard_index_options o = {
        .size = sizeof o, .dim = DIM, .family = family, .m = 8, .ef_construction = 40
    };
    struct vshard_index *index = NULL;

    if (vshard_index_create(&o, &index) != 0 || vshard_index_add(index, ids, vectors, rows) != 0)
        exit(1);
    return index;
}

static double search_late(struct vshard_index *index, const float *queries, size_t count,
                          uint64_t ns, size_t *cut)
{
    static struct vshard_hit hits[QUERIES_MOST * K];
    struct vshard_clock clock = { now_ns, NULL };
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o,
                                       .ef_search = VSHARD_EF_MAX,
                                       .info = &info,
                                       .clock = &clock,
                                       .deadline_ns = now_ns(NULL) + ns };
    uint64_t end;

    if (vshard_index_search(index, queries, count, K, hits, &o) != 0)
        exit(1);
    end = now_ns(NULL);
    *cut += info.limits != 0;
    return info.limits ? (double)(end - o.deadline_ns) * 1e-6 : 0;
}

static double wait_late(uint64_t ns)
{
    uint64_t until = now_ns(NULL) + ns, now;

    while ((now = now_ns(NULL)) < until)
        ;
    return (double)(now - until) * 1e-6;
}

int main(int argc, char **argv)
{
    static const char *const names[CASES] = { "clock alone", "flat", "graph" };
    size_t rows = argc > 1 ? strtoull(argv[1], NULL, 10) : 300000;
    size_t tries = argc > 2 ? strtoull(argv[2], NULL, 10) : 2000;
    uint64_t longest = argc > 3 ? strtoull(argv[3], NULL, 10) : 3;
    size_t queries = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    float *vectors = malloc(rows * DIM * sizeof *vectors);
    uint64_t *ids = malloc(rows * sizeof *ids), seed = 1;
    double *late[CASES];
    size_t cut[CASES] = { 0 };
    struct vshard_index *flat, *graph;

    bench_usage(argc, argv, 4, "[rows [tries [longest [queries]]]]");
    if (longest < 2 || queries < 1 || queries > QUERIES_MOST || rows < queries)
        return 1;
    for (int c = 0; c < CASES; c++)
        late[c] = calloc(tries + 1, sizeof *late[c]);
    for (size_t i = 0; i < rows * DIM; i++)
        vectors[i] = random_float(&seed);
    for (size_t i = 0; i < rows; i++)
        ids[i] = i;
    flat = make(VSHARD_FAMILY_FLAT, vectors, ids, rows);
    graph = make(VSHARD_FAMILY_HNSW, vectors, ids, rows / 6);
    for (size_t i = 0; i < tries; i++) {
        const float *query = vectors + random_below(&seed, rows - queries + 1) * DIM;
        uint64_t ns = 1000000 + random_below(&seed, (longest - 1) * 1000000);

        late[0][i] = wait_late(ns);
        late[1][i] = search_late(flat, query, queries, ns, &cut[1]);
        late[2][i] = search_late(graph, query, queries, ns, &cut[2]);
    }
    printf("%zu rows, %zu tries, deadlines of 1 to %llu ms, %zu queries a call; ms late\n", rows,
           tries, (unsigned long long)longest, queries);
    printf("%-12s %8s %8s %8s %8s %8s\n", "", "cut", "p50", "p99", "p99.9", "worst");
    for (int c = 0; c < CASES; c++) {
        qsort(late[c], tries, sizeof *late[c], by_value);
        printf("%-12s %8zu %8.3f %8.3f %8.3f %8.3f\n", names[c], cut[c], late[c][tries / 2],
               late[c][tries * 99 / 100], late[c][tries * 999 / 1000], late[c][tries - 1]);
        free(late[c]);
    }
    vshard_index_destroy(flat);
    vshard_index_destroy(graph);
    free(vectors);
    free(ids);
    return 0;
}
