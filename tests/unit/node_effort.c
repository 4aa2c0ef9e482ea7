/* node_effort.c - a shard of many is asked for fewer hits than are wanted, and for the rest
 * where it has more of them than its share.
 *
 * Method: all rows near the query are given keys of one shard, by asking the map, so that
 * what is expected of a shard is as wrong as it can be; the answer must be the exact one. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { SHARDS = 8, NEAR = 12, K = 10, WIDE = 24, GRAPH_ROWS = 6000 };

Test(node_effort, is_never_more_than_k_and_enough_for_one_shard)
{
    for (uint32_t k = 1; k <= 4096; k += 1 + k / 7) {
        cr_expect_eq(vs_read_effort(k, 1), k);
        for (uint32_t shards = 2; shards <= 4096; shards *= 2) {
            cr_expect_leq(vs_read_effort(k, shards), k);
            cr_expect_geq((uint64_t)vs_read_effort(k, shards) * shards, (uint64_t)k);
        }
    }
}

static uint32_t owner(uint64_t key)
{
    const struct vshard_map_options o = { .size = sizeof o };
    const struct vshard_key k = { 0, key };
    static struct vshard_map *map;
    uint32_t shard = 0;

    if (map == NULL) {
        vshard_map_create(&o, &map);
        for (uint32_t i = 0; i < SHARDS; i++)
            vshard_map_add(map, i, 1);
    }
    vshard_map_owner(map, &k, 1, &shard, NULL);
    return shard;
}

/* Row `key` lies at x along the first axis. */
static void write_at(struct cluster *c, uint64_t key, float x)
{
    const struct vshard_key k = { 0, key };
    const float vector[DIM] = { x };
    const struct vshard_node_write w = { .size = sizeof w,
                                         .flags = VSHARD_WRITE_APPLIED,
                                         .count = 1,
                                         .tag = next_tag++,
                                         .collection = "words",
                                         .keys = &k,
                                         .vectors = vector };

    cr_assert_eq(vshard_node_write(c->node[1].node, c->now, &w), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, w.tag, 3000 * MS)->status, VSHARD_OK);
}

Test(node_effort, finds_all_of_them_where_they_lie_in_one_shard)
{
    struct cluster *c = with_words(3, 3, SHARDS, 3, NULL);
    const float query[DIM] = { 0 };
    const struct vshard_node_search s = { .size = sizeof s,
                                          .k = K,
                                          .tag = 4090,
                                          .consistency = VSHARD_READ_LINEARIZABLE,
                                          .timeout_ns = 2000 * MS,
                                          .collection = "words",
                                          .query = query };
    struct cluster_answer *a;
    uint64_t near = 0, key;

    cr_assert_lt(vs_read_effort(K, SHARDS), (uint32_t)K);
    for (key = 1; near < NEAR; key++) {
        bool chosen = owner(key) == 3;

        write_at(c, key, chosen ? 1 + (float)near : 100 + (float)key);
        near += chosen;
    }
    cr_assert_eq(vshard_node_search(c->node[2].node, c->now, &s), VSHARD_OK);
    a = cluster_wait(c, s.tag, 5000 * MS);
    cr_assert_not_null(a);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_assert_eq(a->hit_count, (uint32_t)K);
    cr_expect_eq(a->shards_answered, (uint32_t)SHARDS);
    cr_expect_eq(a->rows, key - 1);
    for (uint32_t i = 0; i < K; i++)
        cr_expect_float_eq(a->hits[i].distance, (float)((i + 1) * (i + 1)), 1e-3f, "hit %u", i);
    cluster_destroy(c);
}

/* What it had more of it cannot say in time: the answer says that it was cut short. */
Test(node_effort, that_is_asked_for_in_vain_is_told)
{
    struct cluster *c = with_words(3, 3, SHARDS, 1, NULL);
    const float query[DIM] = { 0 };
    struct vshard_node_search s = { .size = sizeof s,
                                    .k = K,
                                    .tag = 4090,
                                    .timeout_ns = 300 * MS,
                                    .collection = "words",
                                    .query = query };
    uint64_t holder = cluster_leader(c, "words", 3), at = holder % 3 + 1, near = 0;
    const struct vs_part *part;
    struct vshard_node *n = c->node[at].node;

    for (uint64_t key = 1; near < NEAR; key++) {
        bool chosen = owner(key) == 3;

        write_at(c, key, chosen ? 1 + (float)near : 100 + (float)key);
        near += chosen;
    }
    for (int whole = 0; whole < 2; whole++) {
        s.tag++;
        s.flags = whole ? VSHARD_NODE_WHOLE : 0;
        cr_assert_eq(vshard_node_search(n, c->now, &s), VSHARD_OK);
        part = &n->requests->part[3];
        for (int i = 0; i < 10000 && n->requests != NULL && !part->asked_more; i++)
            cluster_run(c, 2000);
        cr_assert_not_null(n->requests, "it is not asked for more");
        c->node[holder].paused_until = c->now + 1000 * MS;
        cr_assert_not_null(cluster_wait(c, s.tag, 2000 * MS));
        cr_expect_eq(c->answer[s.tag].status, whole ? VSHARD_ETIMEDOUT : VSHARD_OK);
        cr_expect(whole || (c->answer[s.tag].limits & VSHARD_LIMIT_DEADLINE));
        cluster_run(c, 2000 * MS);
    }
    s.tag++;
    cr_assert_eq(vshard_node_search(n, c->now, &s), VSHARD_OK);
    cr_assert_not_null(cluster_wait(c, s.tag, 2000 * MS));
    cr_expect_eq(c->answer[s.tag].limits, 0u, "in time nothing is cut");
    cluster_destroy(c);
}

/* The one that answers last is asked for the rest elsewhere, since its replica here seems to be
 * behind by then. What was served here is no more, and is told of no bound. */
Test(node_effort, is_asked_of_another_when_the_replica_here_has_fallen_behind)
{
    struct cluster *c = with_words(3, 3, SHARDS, 3, NULL);
    const float query[DIM] = { 0 };
    const struct vshard_node_search s = { .size = sizeof s,
                                          .k = K,
                                          .tag = 4090,
                                          .timeout_ns = 2000 * MS,
                                          .collection = "words",
                                          .query = query };
    struct vshard_node *n = c->node[2].node;
    struct vs_hint ahead = { .node = 3, .applied = 1000000 };
    const struct vs_part *last;
    uint64_t near = 0;

    for (uint64_t key = 1; near < NEAR; key++) {
        if (owner(key) >= SHARDS - 2)
            write_at(c, key, 1 + (float)near++);
    }
    cr_assert_eq(vshard_node_search(n, c->now, &s), VSHARD_OK);
    cr_assert_not_null(n->requests);
    last = &n->requests->part[SHARDS - 1];
    ahead.group = last->group;
    vs_hint_put(n, &ahead);
    for (int i = 0; i < 1000 && n->requests != NULL && !last->asked_more; i++)
        vshard_node_tick(n, c->now += 1000);
    cr_assert_not_null(n->requests, "nobody is asked for more");
    cr_expect_eq(last->node, (uint64_t)3);
    cr_expect_null(last->here, "it names what is gone");
    cr_assert_not_null(cluster_wait(c, s.tag, 5000 * MS));
    cr_expect_eq(c->answer[s.tag].hit_count, (uint32_t)K);
    for (uint32_t i = 0; i < K; i++)
        cr_expect_float_eq(c->answer[s.tag].hits[i].distance, (float)((i + 1) * (i + 1)), 1e-3f);
    cluster_destroy(c);
}

/* Rows in clusters, so that shards have graphs worth walking. */
static void point(float *to, uint64_t key, uint64_t *random)
{
    uint64_t centre = key % 50 + 1;

    for (int i = 0; i < WIDE; i++)
        to[i] = random_float(&centre) + 0.3f * random_float(random);
}

static void fill_graph(struct cluster *c)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = WIDE,
                                            .m = 8,
                                            .train_rows = 256,
                                            .shards = SHARDS,
                                            .name = "graph" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = next_tag++, .collection = &spec
    };
    static struct vshard_key keys[GRAPH_ROWS];
    static float rows[GRAPH_ROWS][WIDE];
    const struct vshard_node_write w = { .size = sizeof w,
                                         .flags = VSHARD_WRITE_APPLIED,
                                         .count = GRAPH_ROWS,
                                         .tag = next_tag++,
                                         .timeout_ns = 20000 * MS,
                                         .collection = "graph",
                                         .keys = keys,
                                         .vectors = rows };
    uint64_t random = 1;

    for (uint64_t i = 0; i < GRAPH_ROWS; i++) {
        keys[i].lo = i;
        point(rows[i], i, &random);
    }
    cr_assert_eq(vshard_node_admin(c->node[1].node, c->now, &a), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, a.tag, 8000 * MS)->status, VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_assert_eq(vshard_node_write(c->node[1].node, c->now, &w), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, w.tag, 20000 * MS)->status, VSHARD_OK);
}

static uint64_t distances_at(struct cluster *c, uint64_t at, struct vshard_merge_hit *nearest)
{
    uint64_t random = 99, sum = 0;

    for (uint64_t i = 0; i < 20; i++) {
        float query[WIDE];
        const struct vshard_node_search s = { .size = sizeof s,
                                              .k = K,
                                              .ef_search = 60,
                                              .tag = next_tag++,
                                              .timeout_ns = 2000 * MS,
                                              .collection = "graph",
                                              .query = query };
        struct cluster_answer *a;

        point(query, i, &random);
        cr_assert_eq(vshard_node_search(c->node[at].node, c->now, &s), VSHARD_OK);
        a = cluster_wait(c, s.tag, 5000 * MS);
        cr_assert(a != NULL && a->status == VSHARD_OK && a->hit_count == K);
        sum += a->distances;
        nearest[i] = a->hits[0];
    }
    return sum;
}

Test(node_effort, is_less_where_the_node_that_is_asked_searches_itself)
{
    struct cluster *c = cluster_create(1, 2, 1, NULL);
    struct vshard_merge_hit here[20], there[20];
    uint64_t with, without;

    cluster_run(c, 1500 * MS);
    fill_graph(c);
    cluster_join(c, 2, 1); /* it has no replica, and sends all its questions at once */
    cluster_run(c, 5000 * MS);
    with = distances_at(c, 1, here);
    without = distances_at(c, 2, there);
    cr_expect_lt(with, without * 9 / 10, "%d of %d", (int)with, (int)without);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(here[i].key.lo, there[i].key.lo, "query %d", i);
    cluster_destroy(c);
}
