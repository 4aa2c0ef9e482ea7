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
#include <unistd.h>

#include <vshard/index.h>

#include "support/bench.h"
#include "support/pool.h"

enum { K = 10, REPEATS = 3, TOGETHER = 64, EF_COUNT_MAX = 16, BATCH = 4096 };

struct bench {
    const char *set;
    uint32_t profile, m;
    struct bench_vectors base, query;
    double *tenth;     /* [queries] distance of the 10th nearest */
    struct pool *pool; /* lives as long as the index, which holds on to it */
    struct vshard_index *index;
    double build_s, bytes_per_vector;
};

/* ---- the truth ---- */

/* The definition, in float64. */
static double distance(const struct bench *b, const float *x, const float *y)
{
    double xy = 0, xx = 0, yy = 0;

    if (b->base.metric != VSHARD_METRIC_COSINE) {
        for (size_t i = 0; i < b->base.dim; i++)
            xy += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        return xy;
    }
    for (size_t i = 0; i < b->base.dim; i++) {
        xy += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
    }
    return 1 - xy / sqrt(xx * yy);
}

static double distance_of(const struct bench *b, size_t query, size_t row)
{
    return distance(b, b->query.floats + query * b->base.dim, b->base.floats + row * b->base.dim);
}

static double tenth_by_scan(const struct bench *b, size_t query, double *all)
{
    for (size_t r = 0; r < b->base.rows; r++)
        all[r] = distance_of(b, query, r);
    qsort(all, b->base.rows, sizeof *all, bench_by_value);
    return all[K - 1];
}

/* Ties may stand in any order and the file was made in float32, so the farthest of the
 * first ten is looked for. */
static double tenth_by_file(const struct bench *b, size_t query, const struct npy *truth)
{
    const int32_t *rows = (const int32_t *)truth->data + query * truth->columns;
    double farthest = -INFINITY;

    for (size_t i = 0; i < K; i++) {
        if (rows[i] < 0 || (size_t)rows[i] >= b->base.rows)
            bench_die("gt.npy", "names a row that is not there");
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

    b->tenth = bench_allocate(b->query.rows, sizeof *b->tenth);
    if (file) {
        bench_read_npy(&truth, b->set, "gt.npy", 0);
        if (truth.type != NPY_INT32 || truth.rows != b->query.rows || truth.columns < K)
            bench_die("gt.npy", "is not int32 [queries x 10 or more]");
    } else {
        all = bench_allocate(b->base.rows, sizeof *all);
    }
    for (size_t q = 0; q < b->query.rows; q++)
        b->tenth[q] = file ? tenth_by_file(b, q, &truth) : tenth_by_scan(b, q, all);
    npy_free(&truth);
    free(all);
}

/* ---- the index ---- */

static void build(struct bench *b)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct vshard_index_options options = { .size = sizeof options,
                                            .dim = (uint32_t)b->base.dim,
                                            .metric = b->base.metric,
                                            .element = b->base.element,
                                            .profile = b->profile,
                                            .m = b->m,
                                            .seed = 1 };
    struct vshard_index_stats stats = { .size = sizeof stats };
    uint64_t *ids = bench_allocate(b->base.rows, sizeof *ids);
    double start = bench_seconds(CLOCK_MONOTONIC);

    b->pool = pool_create(processors < 1 ? 1 : processors > 64 ? 64 : (uint32_t)processors);
    if (b->pool == NULL)
        bench_die("threads", "there are none");
    options.executor = pool_executor(b->pool);
    bench_must("create", vshard_index_create(&options, &b->index));
    for (size_t i = 0; i < b->base.rows; i++)
        ids[i] = i;
    for (size_t i = 0; i < b->base.rows; i += BATCH)
        bench_must("add", vshard_index_add(b->index, ids + i,
                                           (char *)b->base.given + i * b->base.row_bytes,
                                           b->base.rows - i < BATCH ? b->base.rows - i : BATCH));
    b->build_s = bench_seconds(CLOCK_MONOTONIC) - start;
    bench_must("stats", vshard_index_stats(b->index, &stats));
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
    double start = bench_seconds(CLOCK_MONOTONIC);

    for (size_t q = 0; q < b->query.rows; q += together) {
        size_t count = b->query.rows - q < together ? b->query.rows - q : together;
        double before = us ? bench_seconds(CLOCK_MONOTONIC) : 0;

        bench_must("search", vshard_index_search(
                                 b->index, (const char *)b->query.given + q * b->base.row_bytes,
                                 count, K, hits + q * K, &options));
        if (us != NULL)
            us[q] = (bench_seconds(CLOCK_MONOTONIC) - before) * 1e6;
    }
    return bench_seconds(CLOCK_MONOTONIC) - start;
}

/* Checks every distance and returns the share of the 10 nearest that was found. */
static double check(const struct bench *b, const struct vshard_hit *hits)
{
    const double e = (double)(b->base.dim + 4) * 0x1p-24;
    const double bound = b->base.metric == VSHARD_METRIC_COSINE ? 2 * e : e;
    size_t right = 0;

    for (size_t i = 0; i < b->query.rows * K; i++) {
        double true_distance, tenth = b->tenth[i / K], wrong;

        if (hits[i].id >= b->base.rows)
            bench_die("search", "answered with an id that was never added");
        if (i % K > 0 && hits[i].distance < hits[i - 1].distance)
            bench_die("search", "answers are not in order");
        true_distance = distance_of(b, i / K, hits[i].id);
        wrong = fabs((double)hits[i].distance - true_distance);
        if (b->profile == VSHARD_PROFILE_DEFAULT &&
            wrong >
                (b->base.metric == VSHARD_METRIC_COSINE ? bound : bound * true_distance) + 1e-30)
            bench_die("search", "a distance is wrong by more than its documented bound");
        right += true_distance <= tenth + 1e-12 * fabs(tenth);
    }
    return (double)right / (double)(b->query.rows * K);
}

/* The width of the beam that a target leads to. */
static uint32_t beam(const struct bench *b, double knob)
{
    struct vshard_search_info info = { .size = sizeof info };
    const struct vshard_search_options options = { .size = sizeof options,
                                                   .target_recall = (float)knob,
                                                   .info = &info };
    struct vshard_hit hits[K];

    if (knob >= 1)
        return (uint32_t)knob;
    bench_must("search", vshard_index_search(b->index, b->query.given, 1, K, hits, &options));
    return info.ef;
}

static void calibrate(const struct bench *b, const double *knobs, size_t count)
{
    double start = bench_seconds(CLOCK_MONOTONIC);

    for (size_t i = 0; i < count; i++) {
        if (knobs[i] >= 1)
            continue;
        bench_must("calibrate", vshard_index_calibrate(b->index, NULL, 0));
        printf("calibrated in %.2f s\n", bench_seconds(CLOCK_MONOTONIC) - start);
        return;
    }
}

static void report(const struct bench *b, double ef)
{
    static const char *const metrics[] = { "l2", "ip", "cosine", "l1", "hamming" };
    struct vshard_hit *hits = bench_allocate(b->query.rows * K, sizeof *hits);
    double *us = bench_allocate(b->query.rows, sizeof *us), single[REPEATS], batch[REPEATS], recall;

    ask(b, TOGETHER, ef, hits, NULL); /* to warm up, and to judge */
    recall = check(b, hits);
    for (int r = 0; r < REPEATS; r++) {
        single[r] = ask(b, 1, ef, hits, us);
        batch[r] = ask(b, TOGETHER, ef, hits, NULL);
    }
    qsort(single, REPEATS, sizeof *single, bench_by_value);
    qsort(batch, REPEATS, sizeof *batch, bench_by_value);
    qsort(us, b->query.rows, sizeof *us, bench_by_value);
    printf("%s\t%zu\t%zu\t%s\t%.2f\t%.0f\t%u\t%.4f\t%.0f\t%.0f\t%.1f\t%.1f\n", b->set, b->base.rows,
           b->base.dim, metrics[b->base.metric], b->build_s, b->bytes_per_vector, beam(b, ef),
           recall, (double)b->query.rows / single[REPEATS / 2],
           (double)b->query.rows / batch[REPEATS / 2], us[b->query.rows / 2],
           us[b->query.rows * 99 / 100]);
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
            bench_die(text, "not a list of numbers from 1 to 16384, or of recalls below 1");
        efs[count++] = ef;
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

/* False: it is none of those that follow the beams. */
static bool take_word(struct bench *b, const char *word, bool *halves)
{
    char *end;

    if (strcmp(word, "f16") == 0)
        *halves = true;
    else if (strcmp(word, "lean") == 0)
        b->profile = VSHARD_PROFILE_LEAN;
    else if (word[0] == 'm')
        b->m = (uint32_t)strtoul(word + 1, &end, 10);
    else
        return false;
    return word[0] != 'm' || (*end == '\0' && b->m != 0);
}

int main(int argc, char **argv)
{
    struct bench b = { .set = argc > 1 ? argv[1] : "glove30k" };
    bool halves = false;
    double efs[EF_COUNT_MAX];
    size_t count = parse_list(argc > 2 ? argv[2] : "16,32,64,128,256", efs);

    bench_usage(argc, argv, 99, "[set [ef,ef,... [f16] [lean] [m16]]]");
    for (int i = 3; i < argc; i++) {
        if (!take_word(&b, argv[i], &halves))
            bench_die(argv[i], "not f16, lean, or m and a number");
    }
    bench_read(&b.base, b.set, "base.npy", 0, halves);
    bench_read(&b.query, b.set, "query.npy", 0, halves);
    if (b.base.rows < K || b.query.rows == 0 || b.base.dim != b.query.dim)
        bench_die(b.set, "the queries do not fit, or there are too few rows");
    find_truth(&b);
    build(&b);
    calibrate(&b, efs, count);
    puts("set\trows\tdim\tmetric\tbuild_s\tbytes_per_vector\tef\trecall_at_10\tqueries_per_s_single"
         "\tqueries_per_s_by_64\tus_p50\tus_p99");
    for (size_t i = 0; i < count; i++)
        report(&b, efs[i]);
    vshard_index_destroy(b.index);
    pool_destroy(b.pool);
    bench_free(&b.base);
    bench_free(&b.query);
    free(b.tenth);
    return 0;
}
