/* build.c - what measure.py compares with: the indexes of a node, built by a process that
 * does nothing else.
 *
 *     build FILE DIM SHARDS BATCH THREADS
 *
 * FILE holds rows of DIM floats. They are dealt out to SHARDS indexes, each of which gets its
 * part of BATCH rows in one call; a thread has every THREADS-th of them. Prints the seconds
 * that it took, and the seconds of processor. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/bench.h"

#include <vshard.h>

static const char *path;
static uint32_t dim, shards, batch, threads;

static void *build(void *arg)
{
    uint32_t first = *(const uint32_t *)arg;
    struct vshard_index *index[64];
    FILE *file = fopen(path, "rb");
    float *rows = bench_allocate((size_t)batch * dim, sizeof *rows);
    uint64_t id = 0, *ids = bench_allocate(batch, sizeof *ids);
    size_t count;

    if (file == NULL)
        bench_die("build", path);
    for (uint32_t s = first; s < shards; s += threads) {
        const struct vshard_index_options o = { .size = sizeof o,
                                                .dim = dim,
                                                .metric = VSHARD_METRIC_COSINE };

        bench_must("create", vshard_index_create(&o, &index[s]));
    }
    for (uint32_t turn = 0; (count = fread(rows, dim * sizeof *rows, batch, file)) != 0; turn++) {
        for (size_t i = 0; i < count; i++)
            ids[i] = id++;
        if (turn % shards % threads == first)
            bench_must("add", vshard_index_add(index[turn % shards], ids, rows, count));
    }
    for (uint32_t s = first; s < shards; s += threads)
        vshard_index_destroy(index[s]);
    free(rows);
    free(ids);
    fclose(file);
    return NULL;
}

int main(int argc, char **argv)
{
    uint32_t number[16];
    pthread_t thread[16];
    double begun = bench_seconds(CLOCK_MONOTONIC);

    if (argc != 6)
        bench_die("build", "FILE DIM SHARDS BATCH THREADS");
    path = argv[1];
    dim = (uint32_t)atoi(argv[2]);
    shards = (uint32_t)atoi(argv[3]);
    batch = (uint32_t)atoi(argv[4]) / shards;
    threads = (uint32_t)atoi(argv[5]);
    for (uint32_t t = 0; t < threads; t++) {
        number[t] = t;
        if (pthread_create(&thread[t], NULL, build, &number[t]) != 0)
            bench_die("build", "no thread");
    }
    for (uint32_t t = 0; t < threads; t++)
        pthread_join(thread[t], NULL);
    printf("%.3f %.3f\n", bench_seconds(CLOCK_MONOTONIC) - begun,
           bench_seconds(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}
