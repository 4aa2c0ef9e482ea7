/* query_setup.c - what a query costs before the first distance: verifying it, its code and
 * its sketch.
 *
 * Made-up rows of low rank, cosine, queries that stay in cache; the fastest of many set-ups,
 * since what is wanted is what the work takes, and the machine is shared. Beside it, what
 * reading the axes of sketches takes by itself: their bytes come from the second level of
 * cache each time.
 *
 *   query_setup [dim ...] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vshard/index.h>

#include "index/state.h"
#include "support/bench.h"

enum { ROWS = 4096, QUERIES = 8, ROUNDS = 200000 };

static struct vshard_index *make(const struct bench_vectors *base)
{
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = (uint32_t)base->dim,
                                      .metric = VSHARD_METRIC_COSINE,
                                      .family = VSHARD_FAMILY_HNSW };
    uint64_t *ids = bench_allocate(base->rows, sizeof *ids);
    struct vshard_index *x;

    for (size_t i = 0; i < base->rows; i++)
        ids[i] = i;
    bench_must("create", vshard_index_create(&o, &x));
    bench_must("add", vshard_index_add(x, ids, base->floats, base->rows));
    free(ids);
    return x;
}

static double fastest_read(const struct vshard_index *x)
{
    const volatile uint64_t *at = (const volatile void *)x->sketcher.axes;
    size_t words = vs_sketcher_bytes(x) / sizeof *at, line = 64 / sizeof *at;
    double best = 1;

    for (int i = 0; i < ROUNDS / 10; i++) {
        double from = bench_seconds(CLOCK_MONOTONIC), took;

        for (size_t w = 0; w < words; w += line)
            (void)at[w];
        took = bench_seconds(CLOCK_MONOTONIC) - from;
        best = took < best ? took : best;
    }
    return best;
}

static double fastest_setup(struct vshard_index *x, const struct bench_vectors *query)
{
    struct vs_reader *reader;
    double best = 1;

    bench_must("enter", vs_reader_enter(x, &reader));
    bench_must("reserve", vs_scratch_reserve(x, reader->scratch, 16, 16));
    for (size_t i = 0; i < ROUNDS; i++) {
        struct vs_walk walk = { .scratch = reader->scratch };
        double from = bench_seconds(CLOCK_MONOTONIC), took;

        bench_must("check", vs_query_check(x, query->floats + i % QUERIES * query->dim, true,
                                           reader->scratch, &walk.query));
        vs_sketch_queries(x, &walk, 1);
        took = bench_seconds(CLOCK_MONOTONIC) - from;
        best = took < best ? took : best;
    }
    vs_reader_leave(reader);
    return best;
}

int main(int argc, char **argv)
{
    static const char *const usual[] = { "", "100", "384", "768", "1536" };
    const char *const *dims = argc > 1 ? (const char *const *)argv : usual;
    int count = argc > 1 ? argc : (int)VS_COUNT(usual);

    bench_usage(argc, argv, 99, "[dim ...]");
    printf("dim\tset-up, us\taxes, bytes\taxes read, us\n");
    for (int i = 1; i < count; i++) {
        struct bench_vectors base, query;
        struct vshard_index *x;

        if (atoi(dims[i]) < 1)
            bench_die("dim", dims[i]);
        bench_synthetic(&base, &query, (size_t)atoi(dims[i]), ROWS, QUERIES);
        x = make(&base);
        printf("%s\t%.2f\t%zu\t%.2f\n", dims[i], fastest_setup(x, &query) * 1e6,
               vs_sketcher_bytes(x), fastest_read(x) * 1e6);
        fflush(stdout);
        vshard_index_destroy(x);
        bench_free(&base);
        bench_free(&query);
    }
    return 0;
}
