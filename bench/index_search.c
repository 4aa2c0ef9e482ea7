/* index_search.c - what an index finds, how fast, and what it costs to have.
 *
 * What it models: one index on one machine, built once from a set of real vectors and
 * then asked by one thread: one question a call, as a server does that answers each
 * request as it comes, and 64 a call, as one does that gathers them.
 *
 *     build/bench/index_search [set [ef,ef,... [f16] [lean] [m16]]]
 *     VSHARD_DATA=dir build/bench/index_search glove100 32,64,128
 *     VSHARD_DATA=dir build/bench/index_search glove100 0.9,0.95,0.99 lean m16
 *
 * It reads set.base.npy, set.query.npy and, if it is there, set.gt.npy (rows of the
 * nearest, nearest first) from VSHARD_DATA; without VSHARD_DATA the words of the demo.
 * Without a gt file it computes the nearest itself. Sets named sift* are compared by
 * squared distance, those named orb* are bits, all others are compared by cosine. With
 * f16, the half floats of a file are given as they are, and not as floats.
 *
 * Every answer is checked before it counts: its distance is computed again in float64
 * from the vectors as they are in the file, must agree with what the index said to
 * within the bound that index.h documents, and counts as right if it is no farther
 * than the 10th nearest is. Passes are repeated; of times, the median is printed. The
 * build uses all processors.
 *
 * Numbers below 1 are target recalls: the index is calibrated, by its own rows, and the
 * column ef says what the target led to. Of a lean index answers are judged by the true
 * distances, too, but what it says of them cannot be compared with these. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vshard/index.h>

#include "support/npy.h"
#include "support/pool.h"

enum { K = 10, REPEATS = 3, TOGETHER = 64, EF_COUNT_MAX = 16, BATCH = 4096 };

struct bench {
    const char *set;
    uint32_t metric, element;
    int halves; /* float16 is given as it is */
    uint32_t profile, m;
    size_t columns, dim, rows, queries, row_bytes;
    float *base, *query;            /* float32 [rows x dim], what is in the file exactly */
    void *base_given, *query_given; /* as given to the index; may be the same memory */
    double *tenth;                  /* [queries] distance of the 10th nearest */
    struct pool *pool;              /* lives as long as the index, which holds on to it */
    struct vshard_index *index;
    double build_s, bytes_per_vector;
};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "index_search: %s: %s\n", what, why);
    exit(1);
}

static void must(const char *what, int status)
{
    if (status != VSHARD_OK)
        die(what, vshard_strerror(status));
}

static void *allocate(size_t count, size_t bytes)
{
    void *p = calloc(count ? count : 1, bytes);

    if (p == NULL)
        die("memory", "there is none");
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* ---- the data, and the truth about it ---- */

static void read_array(struct npy *array, const struct bench *b, const char *tail)
{
    const char *folder = getenv("VSHARD_DATA");
    char path[4096];

    snprintf(path, sizeof path, "%s/%s.%s", folder ? folder : "examples/demo/data", b->set, tail);
    if (npy_read(array, path, 0) != 0)
        die(tail, array->error);
}

/* Numbers are given as the file has them: bytes, bits, half floats or floats. */
static uint32_t element_of(const struct bench *b, const struct npy *array)
{
    if (b->metric == VSHARD_METRIC_HAMMING)
        return VSHARD_ELEMENT_BITS;
    if (array->type == NPY_FLOAT16 && b->halves)
        return VSHARD_ELEMENT_F16;
    return array->type == NPY_UINT8 ? VSHARD_ELEMENT_U8 : VSHARD_ELEMENT_F32;
}

/* As 0 and 1, whose squared distance is that of Hamming. */
static float *spread_bits(const struct npy *array)
{
    const uint8_t *bytes = array->data;
    float *all = malloc((array->rows * array->columns * 8 + 1) * sizeof *all);

    for (size_t i = 0; all != NULL && i < array->rows * array->columns * 8; i++)
        all[i] = (float)(bytes[i / 8] >> i % 8 & 1);
    return all;
}

static void read_vectors(struct bench *b, const char *tail, size_t *rows, float **floats,
                         void **given)
{
    struct npy array;

    read_array(&array, b, tail);
    if (b->columns != 0 && b->columns != array.columns)
        die(tail, "not the dimension of the base");
    b->columns = array.columns;
    b->dim = b->metric == VSHARD_METRIC_HAMMING ? 8 * array.columns : array.columns;
    b->element = element_of(b, &array);
    b->row_bytes =
        array.columns * (b->element == VSHARD_ELEMENT_F32 ? sizeof(float) : array.item_bytes);
    *rows = array.rows;
    *floats = b->element == VSHARD_ELEMENT_BITS ? spread_bits(&array) : npy_floats(&array);
    if (*floats == NULL)
        die(tail, "no memory");
    *given = *floats;
    if (b->element != VSHARD_ELEMENT_F32) {
        *given = array.data;
        array.data = NULL;
    }
    npy_free(&array);
}

/* The definition, in float64. */
static double distance(const struct bench *b, const float *x, const float *y)
{
    double xy = 0, xx = 0, yy = 0;

    if (b->metric != VSHARD_METRIC_COSINE) {
        for (size_t i = 0; i < b->dim; i++)
            xy += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        return xy;
    }
    for (size_t i = 0; i < b->dim; i++) {
        xy += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
    }
    return 1 - xy / sqrt(xx * yy);
}

static double distance_of(const struct bench *b, size_t query, size_t row)
{
    return distance(b, b->query + query * b->dim, b->base + row * b->dim);
}

static double tenth_by_scan(const struct bench *b, size_t query, double *all)
{
    for (size_t r = 0; r < b->rows; r++)
        all[r] = distance_of(b, query, r);
    qsort(all, b->rows, sizeof *all, by_value);
    return all[K - 1];
}

/* Ties may stand in any order and the file was made in float32, so the farthest of the
 * first ten is looked for. */
static double tenth_by_file(const struct bench *b, size_t query, const struct npy *truth)
{
    const int32_t *rows = (const int32_t *)truth->data + query * truth->columns;
    double farthest = -INFINITY;

    for (size_t i = 0; i < K; i++) {
        if (rows[i] < 0 || (size_t)rows[i] >= b->rows)
            die("gt.npy", "names a row that is not there");
        farthest = fmax(farthest, distance_of(b, query, (size_t)rows[i]));
    }
    return farthest;
}

static int there_is_truth(const struct bench *b)
{
    const char *folder = getenv("VSHARD_DATA");
    char path[4096];

    snprintf(path, sizeof path, "%s/%s.gt.npy", folder ? folder : "examples/demo/data", b->set);
    return access(path, R_OK) == 0;
}

static void find_truth(struct bench *b)
{
    struct npy truth = { 0 };
    double *all = NULL;
    int file = there_is_truth(b);

    b->tenth = allocate(b->queries, sizeof *b->tenth);
    if (file) {
        read_array(&truth, b, "gt.npy");
        if (truth.type != NPY_INT32 || truth.rows != b->queries || truth.columns < K)
            die("gt.npy", "is not int32 [queries x 10 or more]");
    } else {
        all = allocate(b->rows, sizeof *all);
    }
    for (size_t q = 0; q < b->queries; q++)
        b->tenth[q] = file ? tenth_by_file(b, q, &truth) : tenth_by_scan(b, q, all);
    npy_free(&truth);
    free(all);
}

/* ---- the index ---- */

static void build(struct bench *b)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct vshard_index_options options = { .size = sizeof options,
                                            .dim = (uint32_t)b->dim,
                                            .metric = b->metric,
                                            .element = b->element,
                                            .profile = b->profile,
                                            .m = b->m,
                                            .seed = 1 };
    struct vshard_index_stats stats = { .size = sizeof stats };
    uint64_t *ids = allocate(b->rows, sizeof *ids);
    double start = now_s();

    b->pool = pool_create(processors < 1 ? 1 : processors > 64 ? 64 : (uint32_t)processors);
    if (b->pool == NULL)
        die("threads", "there are none");
    options.executor = pool_executor(b->pool);
    must("create", vshard_index_create(&options, &b->index));
    for (size_t i = 0; i < b->rows; i++)
        ids[i] = i;
    for (size_t i = 0; i < b->rows; i += BATCH)
        must("add", vshard_index_add(b->index, ids + i, (char *)b->base_given + i * b->row_bytes,
                                     b->rows - i < BATCH ? b->rows - i : BATCH));
    b->build_s = now_s() - start;
    must("stats", vshard_index_stats(b->index, &stats));
    b->bytes_per_vector = (double)stats.heap_bytes / (double)stats.rows;
    free(ids);
}

/* ---- asking ---- */

/* Asks all, `together` a call; the time of each call goes to us[], if that is wanted.
 * Returns the seconds it took. */
static double ask(const struct bench *b, size_t together, double knob, struct vshard_hit *hits,
                  double *us)
{
    const struct vshard_search_options options = { .size = sizeof options,
                                                   .ef_search = knob < 1 ? 0 : (uint32_t)knob,
                                                   .target_recall = knob < 1 ? (float)knob : 0 };
    double start = now_s();

    for (size_t q = 0; q < b->queries; q += together) {
        size_t count = b->queries - q < together ? b->queries - q : together;
        double before = us ? now_s() : 0;

        must("search",
             vshard_index_search(b->index, (const char *)b->query_given + q * b->row_bytes, count,
                                 K, hits + q * K, &options));
        if (us != NULL)
            us[q] = (now_s() - before) * 1e6;
    }
    return now_s() - start;
}

/* Checks every distance and returns the share of the 10 nearest that was found. */
static double check(const struct bench *b, const struct vshard_hit *hits)
{
    const double e = (double)(b->dim + 4) * 0x1p-24;
    const double bound = b->metric == VSHARD_METRIC_COSINE ? 2 * e : e;
    size_t right = 0;

    for (size_t i = 0; i < b->queries * K; i++) {
        double true_distance, tenth = b->tenth[i / K], wrong;

        if (hits[i].id >= b->rows)
            die("search", "answered with an id that was never added");
        if (i % K > 0 && hits[i].distance < hits[i - 1].distance)
            die("search", "answers are not in order");
        true_distance = distance_of(b, i / K, hits[i].id);
        wrong = fabs((double)hits[i].distance - true_distance);
        if (b->profile == VSHARD_PROFILE_DEFAULT &&
            wrong > (b->metric == VSHARD_METRIC_COSINE ? bound : bound * true_distance) + 1e-30)
            die("search", "a distance is wrong by more than its documented bound");
        right += true_distance <= tenth + 1e-12 * fabs(tenth);
    }
    return (double)right / (double)(b->queries * K);
}

/* The width of the beam that a target leads to. */
static uint32_t beam(const struct bench *b, double knob)
{
    struct vshard_search_info info = { .size = sizeof info };
    const struct vshard_search_options options = {
        .size = sizeof options, .target_recall = (float)knob, .info = &info
    };
    struct vshard_hit hits[K];

    if (knob >= 1)
        return (uint32_t)knob;
    must("search", vshard_index_search(b->index, b->query_given, 1, K, hits, &options));
    return info.ef;
}

static void calibrate(const struct bench *b, const double *knobs, size_t count)
{
    double start = now_s();

    for (size_t i = 0; i < count; i++) {
        if (knobs[i] >= 1)
            continue;
        must("calibrate", vshard_index_calibrate(b->index, NULL, 0));
        printf("calibrated in %.2f s\n", now_s() - start);
        return;
    }
}

static void report(const struct bench *b, double ef)
{
    static const char *const metrics[] = { "l2", "ip", "cosine", "l1", "hamming" };
    struct vshard_hit *hits = allocate(b->queries * K, sizeof *hits);
    double *us = allocate(b->queries, sizeof *us), single[REPEATS], batch[REPEATS], recall;

    ask(b, TOGETHER, ef, hits, NULL); /* to warm up, and to judge */
    recall = check(b, hits);
    for (int r = 0; r < REPEATS; r++) {
        single[r] = ask(b, 1, ef, hits, us);
        batch[r] = ask(b, TOGETHER, ef, hits, NULL);
    }
    qsort(single, REPEATS, sizeof *single, by_value);
    qsort(batch, REPEATS, sizeof *batch, by_value);
    qsort(us, b->queries, sizeof *us, by_value);
    printf("%s\t%zu\t%zu\t%s\t%.2f\t%.0f\t%u\t%.4f\t%.0f\t%.0f\t%.1f\t%.1f\n", b->set, b->rows,
           b->dim, metrics[b->metric], b->build_s, b->bytes_per_vector, beam(b, ef), recall,
           (double)b->queries / single[REPEATS / 2], (double)b->queries / batch[REPEATS / 2],
           us[b->queries / 2], us[b->queries * 99 / 100]);
    fflush(stdout);
    free(us);
    free(hits);
}

static size_t parse_list(const char *text, double *efs)
{
    size_t count = 0;

    while (count < EF_COUNT_MAX && *text != '\0') {
        char *end;
        double ef = strtod(text, &end);

        if (end == text || !(ef > 0) || ef > VSHARD_EF_MAX || (*end != ',' && *end != '\0'))
            die(text, "not a list of numbers from 1 to 16384, or of recalls below 1");
        efs[count++] = ef;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

int main(int argc, char **argv)
{
    struct bench b = { .set = argc > 1 ? argv[1] : "glove30k" };
    double efs[EF_COUNT_MAX];
    size_t count = parse_list(argc > 2 ? argv[2] : "16,32,64,128,256", efs);

    b.metric = strncmp(b.set, "sift", 4) == 0  ? VSHARD_METRIC_L2SQ
               : strncmp(b.set, "orb", 3) == 0 ? VSHARD_METRIC_HAMMING
                                               : VSHARD_METRIC_COSINE;
    for (int i = 3; i < argc; i++) {
        b.halves |= strcmp(argv[i], "f16") == 0;
        b.profile |= strcmp(argv[i], "lean") == 0 ? VSHARD_PROFILE_LEAN : 0;
        b.m = argv[i][0] == 'm' ? (uint32_t)strtoul(argv[i] + 1, NULL, 10) : b.m;
    }
    read_vectors(&b, "base.npy", &b.rows, &b.base, &b.base_given);
    read_vectors(&b, "query.npy", &b.queries, &b.query, &b.query_given);
    if (b.rows < K || b.queries == 0)
        die(b.set, "too few vectors");
    find_truth(&b);
    build(&b);
    calibrate(&b, efs, count);
    puts("set\trows\tdim\tmetric\tbuild_s\tbytes_per_vector\tef\trecall_at_10\tqueries_per_s_single"
         "\tqueries_per_s_by_64\tus_p50\tus_p99");
    for (size_t i = 0; i < count; i++)
        report(&b, efs[i]);
    vshard_index_destroy(b.index);
    pool_destroy(b.pool);
    if (b.base_given != b.base) {
        free(b.base_given);
        free(b.query_given);
    }
    free(b.base);
    free(b.query);
    free(b.tenth);
    return 0;
}
