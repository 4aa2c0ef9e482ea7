/* bench.h - what the benchmarks of the index share: clocks, giving up, sets of vectors. */
#ifndef SUPPORT_BENCH_H
#define SUPPORT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "support/npy.h"

double bench_seconds(clockid_t clock);

/* Says how the program is called if it is asked with --help or -h, and ends the process; so, too,
 * if there is another option, or there are more than `most` arguments. */
void bench_usage(int argc, char **argv, int most, const char *arguments);

/* Ends the process with a line of reason. */
void bench_die(const char *what, const char *why);
void bench_must(const char *what, int status);
void *bench_allocate(size_t count, size_t bytes); /* zeroed; never NULL */
int bench_by_value(const void *a, const void *b); /* of double, for qsort() */

struct bench_vectors {
    size_t rows, dim;
    uint32_t metric, element; /* VSHARD_METRIC_*, VSHARD_ELEMENT_* */
    size_t row_bytes;         /* of one vector as it is given to an index */
    void *given;              /* [rows x row_bytes] */
    float *floats;            /* [rows x dim] the same numbers; bits as 0 and 1, whose squared
                                 distance is that of Hamming; may be the same memory */
};

/* Reads folder/set.tail, where the folder is $VSHARD_DATA, or the demo's. */
void bench_read_npy(struct npy *array, const char *set, const char *tail, size_t rows_max);

/* base.npy or query.npy of a set. Sets named sift* are compared by squared distance, those
 * named orb* are bits, all others are compared by cosine; half floats are given as floats
 * unless `halves`. */
void bench_read(struct bench_vectors *v, const char *set, const char *tail, size_t rows_max,
                bool halves);

/* Made up: clustered vectors of low rank, as embeddings are; squared distances. Rows and
 * queries are drawn alike, and the first rows of a larger set are those of a smaller. */
void bench_synthetic(struct bench_vectors *base, struct bench_vectors *query, size_t dim,
                     size_t rows, size_t queries);

void bench_free(struct bench_vectors *v);

#endif
