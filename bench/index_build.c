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
 * set.query.npy from VSHARD_DATA; without VSHARD_DATA the words of the demo. Sets named
 * sift* are compared by squared distance, those named orb* are bits, all others are
 * compared by cosine; half floats are given as floats. What is right is told by an exact
 * search of the same index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vshard/index.h>

#include "support/npy.h"
#include "support/pool.h"

enum { K = 10, EF = 100, QUERIES = 1000, LIST_MAX = 16 };

struct bench {
    const char *set;
    uint32_t metric, element, dim, m, ef_construction;
    struct npy base, query;
    float *base_floats, *query_floats; /* where the file has half floats */
    size_t row_bytes;
};

struct list {
    size_t values[LIST_MAX], count;
};

static double now_s(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "index_build: %s: %s\n", what, why);
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

static void read_array(const struct bench *b, const char *tail, size_t rows, struct npy *out)
{
    const char *folder = getenv("VSHARD_DATA");
    char path[4096];

    snprintf(path, sizeof path, "%s/%s.%s", folder ? folder : "examples/demo/data", b->set, tail);
    if (npy_read(out, path, rows) != 0)
        die(tail, out->error);
}

/* Keeps QUERIES of them, from all over the file, which may be in an order. */
static void spread_queries(struct npy *query)
{
    size_t bytes = query->columns * query->item_bytes;

    if (query->rows <= QUERIES)
        return;
    for (size_t i = 0; i < QUERIES; i++)
        memmove((char *)query->data + i * bytes,
                (char *)query->data + i * query->rows / QUERIES * bytes, bytes);
    query->rows = QUERIES;
}

static void read_set(struct bench *b)
{
    read_array(b, "base.npy", 0, &b->base);
    read_array(b, "query.npy", 0, &b->query);
    if (b->base.columns != b->query.columns || b->base.rows < K || b->query.rows == 0)
        die(b->set, "the queries do not fit, or there are too few rows");
    spread_queries(&b->query);
    b->metric = strncmp(b->set, "sift", 4) == 0  ? VSHARD_METRIC_L2SQ
                : strncmp(b->set, "orb", 3) == 0 ? VSHARD_METRIC_HAMMING
                                                 : VSHARD_METRIC_COSINE;
    b->dim = (uint32_t)b->base.columns * (b->metric == VSHARD_METRIC_HAMMING ? 8 : 1);
    b->element = b->metric == VSHARD_METRIC_HAMMING ? VSHARD_ELEMENT_BITS
                 : b->base.type == NPY_UINT8        ? VSHARD_ELEMENT_U8
                                                    : VSHARD_ELEMENT_F32;
    b->row_bytes = b->base.columns;
    if (b->element != VSHARD_ELEMENT_F32)
        return;
    b->row_bytes *= sizeof(float);
    b->base_floats = npy_floats(&b->base);
    b->query_floats = npy_floats(&b->query);
    if (b->base_floats == NULL || b->query_floats == NULL)
        die(b->set, "no memory");
}

static void load(const struct bench *b, struct vshard_index *index, size_t rows, size_t batch)
{
    const char *vectors = b->base_floats ? (const char *)b->base_floats : b->base.data;
    uint64_t *ids = allocate(rows, sizeof *ids);

    for (size_t i = 0; i < rows; i++)
        ids[i] = i;
    for (size_t i = 0, n; i < rows; i += n) {
        n = batch && batch < rows - i ? batch : rows - i;
        must("add", vshard_index_add(index, ids + i, vectors + i * b->row_bytes, n));
    }
    free(ids);
}

static double recall(const struct bench *b, struct vshard_index *index, double *distances)
{
    const void *queries = b->query_floats ? (const void *)b->query_floats : b->query.data;
    size_t count = b->query.rows, right = 0;
    struct vshard_hit *hits = allocate(count * K, sizeof *hits);
    struct vshard_hit *exact = allocate(count * K, sizeof *exact);
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o, .ef_search = EF, .info = &info };
    struct vshard_search_options scan = { .size = sizeof scan, .flags = VSHARD_SEARCH_EXACT };

    must("search", vshard_index_search(index, queries, count, K, hits, &o));
    must("search", vshard_index_search(index, queries, count, K, exact, &scan));
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
                                            .dim = b->dim,
                                            .metric = b->metric,
                                            .element = b->element,
                                            .m = b->m,
                                            .ef_construction = b->ef_construction,
                                            .seed = 1 };
    struct vshard_index_check check = { .size = sizeof check };
    struct vshard_index *index;
    double wall, cpu, share, distances;
    uint64_t digest;

    if (pool == NULL)
        die("threads", "there are none");
    options.executor = pool_executor(pool);
    must("create", vshard_index_create(&options, &index));
    wall = now_s(CLOCK_MONOTONIC);
    cpu = now_s(CLOCK_PROCESS_CPUTIME_ID);
    load(b, index, rows, batch);
    wall = now_s(CLOCK_MONOTONIC) - wall;
    cpu = now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    share = recall(b, index, &distances);
    must("check", vshard_index_check(index, &check));
    must("digest", vshard_index_digest(index, &digest));
    printf("%s\t%zu\t%u\t%u\t%zu\t%u\t%.2f\t%.2f\t%.4f\t%.0f\t%llu\t%016llx\n", b->set, rows, b->m,
           b->ef_construction, batch, threads, wall, cpu, share, distances,
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
            die(text, "not a list of numbers");
        text = *end == ',' ? end + 1 : end;
    }
    return list;
}

int main(int argc, char **argv)
{
    struct bench b = { .set = argc > 1 ? argv[1] : "glove30k" };
    struct list rows = parse(argc > 2 ? argv[2] : "0"), batches = parse(argc > 3 ? argv[3] : "4096,0"),
                threads = parse(argc > 4 ? argv[4] : "1,2");

    b.m = argc > 5 ? (uint32_t)atoi(argv[5]) : 16;
    b.ef_construction = argc > 6 ? (uint32_t)atoi(argv[6]) : 200;
    read_set(&b);
    puts("set\trows\tm\tef_construction\tbatch\tthreads\tbuild_s\tbuild_cpu_s\trecall_at_10_ef_100"
         "\tdistances\tunreachable\tdigest");
    for (size_t r = 0; r < rows.count; r++) {
        size_t n = rows.values[r] && rows.values[r] < b.base.rows ? rows.values[r] : b.base.rows;

        for (size_t i = 0; i < batches.count; i++) {
            for (size_t t = 0; t < threads.count; t++)
                measure(&b, n, batches.values[i], (uint32_t)threads.values[t]);
        }
    }
    free(b.base_floats);
    free(b.query_floats);
    npy_free(&b.base);
    npy_free(&b.query);
    return 0;
}
