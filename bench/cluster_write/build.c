/* build.c - what measure.py compares with: the indexes of a node, built by a process that
 * does nothing else.
 *
 *     build FILE DIM SHARDS BATCH
 *
 * FILE holds rows of DIM floats. They are dealt out to SHARDS indexes and added in batches
 * of BATCH rows, each index getting its part of a batch in one call. Prints the seconds. */
#include <stdio.h>
#include <stdlib.h>

#include "support/bench.h"

#include <vshard.h>

int main(int argc, char **argv)
{
    uint32_t dim = argc == 5 ? (uint32_t)atoi(argv[2]) : 0, shards, batch;
    struct vshard_index *index[64];
    FILE *file = argc == 5 ? fopen(argv[1], "rb") : NULL;
    float *rows;
    uint64_t id = 0, *ids;
    size_t count;
    double begun;

    if (file == NULL || dim == 0)
        bench_die("build", "FILE DIM SHARDS BATCH");
    shards = (uint32_t)atoi(argv[3]);
    batch = (uint32_t)atoi(argv[4]) / shards;
    rows = bench_allocate((size_t)batch * dim, sizeof *rows);
    ids = bench_allocate(batch, sizeof *ids);
    for (uint32_t s = 0; s < shards; s++) {
        const struct vshard_index_options o = { .size = sizeof o,
                                                .dim = dim,
                                                .metric = VSHARD_METRIC_COSINE };

        bench_must("create", vshard_index_create(&o, &index[s]));
    }
    begun = bench_seconds(CLOCK_MONOTONIC);
    for (uint32_t turn = 0; (count = fread(rows, dim * sizeof *rows, batch, file)) != 0; turn++) {
        for (size_t i = 0; i < count; i++)
            ids[i] = id++;
        bench_must("add", vshard_index_add(index[turn % shards], ids, rows, count));
    }
    printf("%.3f\n", bench_seconds(CLOCK_MONOTONIC) - begun);
    for (uint32_t s = 0; s < shards; s++)
        vshard_index_destroy(index[s]);
    free(rows);
    free(ids);
    fclose(file);
    return 0;
}
