/* cluster_query.c - what a search through a node costs beyond the searches in its shards.
 *
 * One node, without workers, holds a collection of SHARDS shards, one replica each, so no
 * network and no thread is in it. Three tables:
 *
 *   overhead    shards of a row each, about: routing, framing, items and merging alone, a query
 *   cached      answers of such shards that are kept, more and more of them: each is asked for
 *               again, in an order of chance
 *   distances   a set (SET, of VSHARD_DATA) in one index and in shards, each at the width
 *               of beam that finds TARGET of the 10 nearest: distances computed, a query
 *
 *     make bench/cluster_query && build/bench/cluster_query [set [rows]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/bench.h"
#include "support/fault_storage.h"
#include "support/lone_node.h"
#include "support/random.h"
#include <vshard.h>

enum { SHARDS = 8, K = 10, QUERIES = 500, ROUNDS = 20000, BATCH = 8000 };

static const double target = 0.95;

struct rig {
    struct fault_storage *disk;
    struct vshard_node *node;
    uint64_t now;
    int done, status;
    uint64_t distances;
    struct vshard_merge_hit hits[K];
    uint32_t hit_count;
};

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    struct rig *r = ctx;

    r->done = 1;
    r->status = d->status;
    r->distances += d->distances;
    r->hit_count = d->hit_count < K ? d->hit_count : K;
    if (r->hit_count != 0)
        memcpy(r->hits, d->hits, r->hit_count * sizeof *r->hits);
}

static void await(struct rig *r, int rc)
{
    if (rc != VSHARD_OK)
        bench_die("request", vshard_strerror(rc));
    while (!r->done) {
        uint64_t at = vshard_node_deadline_ns(r->node);

        r->now = at > r->now ? at : r->now + 100;
        bench_must("tick", vshard_node_tick(r->node, r->now));
    }
    bench_must("answer", r->status);
}

static void open_rig(struct rig *r, uint64_t cache_bytes)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = r, .send = lone_send, .done = on_done
    };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .node = 1,
                                           .search_ns = UINT64_MAX / 4,
                                           .write_ns = UINT64_MAX / 4,
                                           .hedge_ns = UINT64_MAX,
                                           .snapshot_bytes = UINT64_MAX,
                                           .cache_bytes = cache_bytes,
                                           .path = "home",
                                           .host = &host,
                                           .storage = fault_storage_hook(
                                               r->disk = fault_storage_create(1)) };

    r->now = 1000000000;
    fault_storage_mkdir(r->disk, "home");
    bench_must("format", lone_format(fault_storage_hook(r->disk), NULL));
    bench_must("open", vshard_node_open(&o, r->now, &r->node));
    for (int i = 0; i < 3000; i++)
        vshard_node_tick(r->node, r->now += 1000000);
}

static void create(struct rig *r, uint32_t dim, uint32_t metric, uint32_t shards)
{
    const struct vshard_collection c = { .size = sizeof c,
                                         .dim = dim,
                                         .metric = metric,
                                         .shards = shards,
                                         .replicas = 1,
                                         .name = "words" };
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_CREATE,
                                         .collection = &c };

    r->done = 0;
    await(r, vshard_node_admin(r->node, r->now, &a));
    for (int i = 0; i < 1000; i++)
        vshard_node_tick(r->node, r->now += 1000000);
}

static void load(struct rig *r, const float *rows, size_t count, size_t dim)
{
    struct vshard_key *keys = bench_allocate(BATCH, sizeof *keys);

    for (size_t at = 0; at < count; at += BATCH) {
        struct vshard_node_write w = { .size = sizeof w,
                                       .flags = VSHARD_WRITE_APPLIED,
                                       .count = (uint32_t)(count - at < BATCH ? count - at : BATCH),
                                       .collection = "words",
                                       .keys = keys,
                                       .vectors = rows + at * dim };

        for (uint32_t i = 0; i < w.count; i++)
            keys[i] = (struct vshard_key){ 0, at + i };
        r->done = 0;
        await(r, vshard_node_write(r->node, r->now, &w));
    }
    free(keys);
}

static void ask(struct rig *r, const float *query, uint32_t ef, uint32_t flags)
{
    const struct vshard_node_search s = { .size = sizeof s,
                                          .flags = flags,
                                          .k = K,
                                          .ef_search = ef,
                                          .collection = "words",
                                          .query = query };

    r->done = 0;
    await(r, vshard_node_search(r->node, r->now, &s));
}

static void close_rig(struct rig *r)
{
    vshard_node_close(r->node);
    fault_storage_destroy(r->disk);
    memset(r, 0, sizeof *r);
}

static void overhead(void)
{
    static struct rig r;
    static double took[ROUNDS];
    const float rows[SHARDS * 4] = { 1 };

    open_rig(&r, 0);
    create(&r, 4, VSHARD_METRIC_L2SQ, SHARDS);
    load(&r, rows, SHARDS, 4);
    for (int i = 0; i < ROUNDS; i++) {
        double start = bench_seconds(CLOCK_MONOTONIC);

        ask(&r, rows, 0, 0);
        took[i] = (bench_seconds(CLOCK_MONOTONIC) - start) * 1e6;
    }
    qsort(took, ROUNDS, sizeof *took, bench_by_value);
    printf("probe\tshards\tp50_us\tp99_us\noverhead\t%d\t%.1f\t%.1f\n", SHARDS, took[ROUNDS / 2],
           took[ROUNDS * 99 / 100]);
    close_rig(&r);
}

static void cached(void)
{
    static struct rig r;
    const float rows[SHARDS * 4] = { 1 };
    struct vshard_node_status s = { .size = sizeof s };
    uint64_t random = 1;

    open_rig(&r, (uint64_t)1 << 30);
    create(&r, 4, VSHARD_METRIC_L2SQ, SHARDS);
    load(&r, rows, SHARDS, 4);
    printf("probe\tanswers\tbytes\tmean_us\n");
    for (uint32_t kept = 0, most = 1000; most <= 256000; most *= 4) {
        double start;

        for (; kept < most; kept++)
            ask(&r, (float[4]){ (float)kept }, 0, 0);
        start = bench_seconds(CLOCK_MONOTONIC);
        for (int i = 0; i < ROUNDS; i++)
            ask(&r, (float[4]){ (float)random_below(&random, kept) }, 0, 0);
        start = bench_seconds(CLOCK_MONOTONIC) - start;
        bench_must("status", vshard_node_status(r.node, &s));
        printf("cached\t%u\t%llu\t%.2f\n", kept, (unsigned long long)s.cache_bytes,
               start / ROUNDS * 1e6);
        fflush(stdout);
    }
    if (s.cache_answers < 4 * ROUNDS)
        bench_die("cached", "these were no answers of the cache");
    close_rig(&r);
}

/* Recall and distances a query at that width. */
static double judge(struct rig *r, const struct bench_vectors *q, size_t count, uint32_t ef,
                    const float *exact, double *distances)
{
    size_t right = 0;

    r->distances = 0;
    for (size_t i = 0; i < count; i++) {
        ask(r, q->floats + i * q->dim, ef, 0);
        for (uint32_t k = 0; k < r->hit_count; k++)
            right += r->hits[k].distance <= exact[i] * 1.00001f + 1e-7f;
    }
    *distances = (double)r->distances / (double)count;
    return (double)right / (double)(count * K);
}

static double distances(const struct bench_vectors *base, const struct bench_vectors *q,
                        uint32_t shards)
{
    static struct rig r;
    size_t count = q->rows < QUERIES ? q->rows : QUERIES;
    float *exact = bench_allocate(count, sizeof *exact);
    double spent = 0, found = 0;
    uint32_t ef;

    open_rig(&r, 0);
    create(&r, (uint32_t)base->dim, base->metric, shards);
    load(&r, base->floats, base->rows, base->dim);
    for (size_t i = 0; i < count; i++) {
        ask(&r, q->floats + i * q->dim, 0, VSHARD_NODE_EXACT);
        exact[i] = r.hits[K - 1].distance;
    }
    for (ef = 1; ef < 4000 && found < target; ef += 1 + ef / 8)
        found = judge(&r, q, count, ef, exact, &spent);
    printf("distances\t%u\t%u\t%.4f\t%.0f\n", shards, ef, found, spent);
    fflush(stdout);
    close_rig(&r);
    free(exact);
    return spent;
}

int main(int argc, char **argv)
{
    const char *set = argc > 1 ? argv[1] : "glove30k";
    size_t rows = argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 0;
    struct bench_vectors base, query;
    double one, many;

    bench_usage(argc, argv, 2, "[set [rows]]");
    overhead();
    cached();
    bench_read(&base, set, "base.npy", rows, false);
    bench_read(&query, set, "query.npy", 0, false);
    printf("probe\tshards\tef\trecall\tdistances_a_query\n");
    one = distances(&base, &query, 1);
    many = distances(&base, &query, SHARDS);
    printf("ratio\t%.2f\n", many / one);
    bench_free(&base);
    bench_free(&query);
    return 0;
}
