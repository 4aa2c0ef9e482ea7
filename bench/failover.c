/* failover.c - a leader is killed: how long until its shard takes writes again?
 *
 * Five nodes of one shard with three replicas, on virtual time: messages take 0.05 to
 * 0.15 ms, storage up to 4 ms, so what is measured is the protocol and its timers, the same
 * on every machine. A client writes a row every 5 ms at a node that stays. KILLS times the
 * leader's power is cut in the midst of it; the time runs until the first write that was
 * begun afterwards is acknowledged. Searches at any replica go on meanwhile, and none may
 * fail. Prints one line: the distribution in ms, and the searches.
 *
 *     make bench/failover && build/bench/failover */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/bench.h"
#include "support/cluster.h"
#include "support/random.h"

enum { KILLS = 100, DIM = 8, TAGS = 3000 };

#define MS CLUSTER_MS

static uint64_t turn;

static uint64_t write_one(struct cluster *c, uint64_t at)
{
    const struct vshard_key key = { 0, turn % 1000 };
    float vector[DIM] = { (float)turn };
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = 1,
                                         .tag = 1 + turn++ % TAGS,
                                         .collection = "words",
                                         .keys = &key,
                                         .vectors = vector };

    c->answer[w.tag].times = 0;
    bench_must("write", vshard_node_write(c->node[at].node, c->now, &w));
    return w.tag;
}

static uint64_t search_one(struct cluster *c, uint64_t at)
{
    const float query[DIM] = { (float)turn };
    const struct vshard_node_search s = {
        .size = sizeof s, .k = 10, .tag = 1 + turn++ % TAGS, .collection = "words", .query = query
    };

    c->answer[s.tag].times = 0;
    bench_must("search", vshard_node_search(c->node[at].node, c->now, &s));
    return s.tag;
}

static void create(struct cluster *c)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = VSHARD_FAMILY_FLAT,
                                            .shards = 1,
                                            .replicas = 3,
                                            .name = "words" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 4000, .collection = &spec
    };

    cluster_run(c, 2000 * MS);
    bench_must("create", vshard_node_admin(c->node[1].node, c->now, &a));
    cluster_wait(c, 4000, 5000 * MS);
    bench_must("create", c->answer[4000].status);
    cluster_run(c, 1000 * MS);
}

/* One kill; the time in ms. */
static double kill_once(struct cluster *c, uint64_t *searches, uint64_t *failed)
{
    uint64_t leader = cluster_leader(c, "words", 0), router = leader % 5 + 1, killed, tag = 0;
    uint64_t tags[400];
    size_t count = 0, first = 0;

    if (leader == 0)
        bench_die("failover", "no leader");
    cluster_run(c, cluster_random(c, 50 * MS));
    cluster_kill(c, leader);
    killed = c->now;
    for (bool done = false; !done && count < 400; cluster_run(c, 5 * MS)) {
        tag = write_one(c, router);
        tags[count++] = tag;
        tag = search_one(c, router);
        cluster_wait(c, tag, 60 * MS);
        *searches += 1;
        *failed += c->answer[tag].times != 1 || c->answer[tag].status != VSHARD_OK ||
                   c->answer[tag].shards_answered != c->answer[tag].shards;
        for (size_t i = first; i < count && !done; i++) {
            if (c->answer[tags[i]].times == 1 && c->answer[tags[i]].status == VSHARD_OK) {
                tag = tags[i];
                done = true;
            }
        }
    }
    bench_must("reopen", cluster_start(c, leader));
    killed = c->answer[tag].at_ns - killed;
    cluster_run(c, 3000 * MS);
    return (double)killed * 1e-6;
}

int main(int argc, char **argv)
{
    const struct vshard_node_options o = { .segment_bytes = 65536, .write_ns = 5000 * MS };
    struct cluster *c = cluster_create(5, 5, 1, &o);
    double took[KILLS];
    uint64_t searches = 0, failed = 0;

    bench_usage(argc, argv, 0, "");
    c->disk_ns = 4 * MS;
    create(c);
    for (int i = 0; i < KILLS; i++)
        took[i] = kill_once(c, &searches, &failed);
    qsort(took, KILLS, sizeof *took, bench_by_value);
    printf("kills\tmedian_ms\tp90_ms\tp99_ms\tmax_ms\tsearches\tfailed\n");
    printf("%d\t%.0f\t%.0f\t%.0f\t%.0f\t%llu\t%llu\n", KILLS, took[KILLS / 2], took[KILLS * 9 / 10],
           took[KILLS * 99 / 100 - 1], took[KILLS - 1], (unsigned long long)searches,
           (unsigned long long)failed);
    cluster_destroy(c);
    return failed != 0;
}
