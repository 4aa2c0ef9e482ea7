/* bench.c - what the benchmarks of the index share. */
#include "support/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/index.h>

#include "support/random.h"

double bench_seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bench_usage(int argc, char **argv, int most, const char *arguments)
{
    for (int i = 1; i < argc; i++) {
        bool asked = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;

        if (!asked && argv[i][0] != '-' && i <= most)
            continue;
        if (!asked)
            fprintf(stderr, "%s: not understood: %s\n", argv[0], argv[i]);
        fprintf(asked ? stdout : stderr,
                "usage: %s%s%s\nWhat it measures, and how, is told where %s.c begins.\n", argv[0],
                *arguments ? " " : "", arguments,
                strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0]);
        exit(asked ? 0 : 2);
    }
}

void bench_die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void bench_must(const char *what, int status)
{
    if (status != VSHARD_OK)
        bench_die(what, vshard_strerror(status));
}

void *bench_allocate(size_t count, size_t bytes)
{
    void *p = calloc(count ? count : 1, bytes);

    if (p == NULL)
        bench_die("memory", "there is none");
    return p;
}

int bench_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* ---- sets in files ---- */

void bench_read_npy(struct npy *array, const char *set, const char *tail, size_t rows_max)
{
    const char *folder = getenv("VSHARD_DATA");
    char path[4096];

    snprintf(path, sizeof path, "%s/%s.%s", folder ? folder : "examples/demo/data", set, tail);
    if (npy_read(array, path, rows_max) != 0)
        bench_die(tail, array->error);
}

static float *spread_bits(const struct npy *array)
{
    const uint8_t *bytes = array->data;
    float *all = bench_allocate(array->rows * array->columns * 8, sizeof *all);

    for (size_t i = 0; i < array->rows * array->columns * 8; i++)
        all[i] = (float)(bytes[i / 8] >> i % 8 & 1);
    return all;
}

void bench_read(struct bench_vectors *v, const char *set, const char *tail, size_t rows_max,
                bool halves)
{
    struct npy array;
    bool bits = strncmp(set, "orb", 3) == 0;

    bench_read_npy(&array, set, tail, rows_max);
    v->rows = array.rows;
    v->dim = array.columns * (bits ? 8 : 1);
    v->metric = strncmp(set, "sift", 4) == 0 ? VSHARD_METRIC_L2SQ
                : bits                       ? VSHARD_METRIC_HAMMING
                                             : VSHARD_METRIC_COSINE;
    v->element = bits                                  ? VSHARD_ELEMENT_BITS
                 : array.type == NPY_FLOAT16 && halves ? VSHARD_ELEMENT_F16
                 : array.type == NPY_UINT8             ? VSHARD_ELEMENT_U8
                                                       : VSHARD_ELEMENT_F32;
    v->row_bytes = array.columns;
    v->row_bytes *= v->element == VSHARD_ELEMENT_F32 ? sizeof(float) : array.item_bytes;
    v->floats = bits ? spread_bits(&array) : npy_floats(&array);
    if (v->floats == NULL)
        bench_die(tail, "no memory");
    v->given = v->floats;
    if (v->element != VSHARD_ELEMENT_F32) {
        v->given = array.data;
        array.data = NULL;
    }
    npy_free(&array);
}

void bench_free(struct bench_vectors *v)
{
    if (v->given != v->floats)
        free(v->given);
    free(v->floats);
}

/* ---- made up ---- */

enum { RANK = 64, CENTRES = 1000 };

/* Centres of unequal weight in a space whose axes shrink, noise around each, the whole
 * turned into `dim` dimensions, and a little noise in all of those. */
static void draw(struct bench_vectors *v, const float *turn, const float *centre, size_t dim,
                 size_t rows, uint64_t seed)
{
    *v = (struct bench_vectors){ .rows = rows,
                                 .dim = dim,
                                 .metric = VSHARD_METRIC_L2SQ,
                                 .element = VSHARD_ELEMENT_F32,
                                 .row_bytes = dim * sizeof(float) };
    v->given = v->floats = bench_allocate(rows * dim, sizeof(float));
    for (size_t i = 0; i < rows; i++) {
        const float *c = centre + (size_t)(CENTRES * pow(random_unit(&seed), 3)) * RANK;
        float *row = v->floats + i * dim;

        for (size_t j = 0; j < dim; j++)
            row[j] = 0.01f * (float)random_normal(&seed);
        for (size_t r = 0; r < RANK; r++) {
            float x = c[r] + 0.7f * (float)random_normal(&seed) / powf((float)r + 1, 0.35f);

            for (size_t j = 0; j < dim; j++)
                row[j] += x * turn[r * dim + j];
        }
    }
}

void bench_synthetic(struct bench_vectors *base, struct bench_vectors *query, size_t dim,
                     size_t rows, size_t queries)
{
    float *turn = bench_allocate(RANK * dim, sizeof *turn);
    float *centre = bench_allocate(CENTRES * RANK, sizeof *centre);
    uint64_t seed = 1;

    for (size_t i = 0; i < RANK * dim; i++)
        turn[i] = (float)random_normal(&seed) / sqrtf((float)dim);
    for (size_t i = 0; i < (size_t)CENTRES * RANK; i++)
        centre[i] = (float)random_normal(&seed) / powf((float)(i % RANK) + 1, 0.35f);
    draw(base, turn, centre, dim, rows, 2);
    draw(query, turn, centre, dim, queries, 3);
    free(turn);
    free(centre);
}
