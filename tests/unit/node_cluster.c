/* node_cluster.c - a cluster of nodes as its hosts see it: collections, writes, searches,
 * fetches, leaders that die, replicas that are behind, nodes that come and go.
 *
 * Method: nodes over an array as network and storage in memory, on virtual time
 * (support/cluster.h). What was acknowledged is known by key, and every answer is compared
 * with it. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"

enum { ROWS = 300 };

Test(node_cluster, finds_what_was_written_from_every_node)
{
    struct cluster *c = with_words(5, 5, 4, 3, NULL);
    struct vshard_collection spec = { .size = sizeof spec };

    cr_assert_eq(vshard_node_collection(c->node[4].node, "words", &spec), VSHARD_OK);
    cr_expect_eq(spec.dim, (uint32_t)DIM);
    cr_expect_eq(spec.shards, 4u);
    cr_expect_str_eq(spec.name, "words");
    cr_expect_eq(vshard_node_collection(c->node[4].node, "none", &spec), VSHARD_ENOTFOUND);
    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 500 * MS);
    for (uint64_t at = 1; at <= 5; at++) {
        for (uint64_t key = 1; key <= ROWS; key += 37) {
            struct cluster_answer *a = search(c, at, key, 5, NULL);

            cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
            cr_assert_eq(a->shards_answered, 4u);
            cr_assert_eq(a->hit_count, 3u);
            cr_assert_eq(a->hits[0].key.lo, key);
            cr_assert(a->hits[0].distance < 1e-6f);
            cr_assert_eq(a->rows, (uint64_t)ROWS);
        }
    }
    cluster_destroy(c);
}

Test(node_cluster, spreads_replicas_and_leaders_over_nodes)
{
    struct cluster *c = with_words(5, 5, 10, 3, NULL);
    struct vshard_shard_status s[10];
    uint32_t replicas[6] = { 0 }, leads[6] = { 0 };
    size_t count;

    cluster_run(c, 15000 * MS); /* leaders hand over to who is preferred */
    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", s, 10, &count), VSHARD_OK);
    cr_assert_eq(count, (size_t)10);
    for (uint32_t i = 0; i < 10; i++) {
        cr_assert_eq(s[i].member_count, 3u);
        for (uint32_t k = 0; k < 3; k++)
            replicas[s[i].members[k]]++;
        leads[cluster_leader(c, "words", i)]++;
    }
    for (int id = 1; id <= 5; id++) {
        cr_expect(replicas[id] >= 5 && replicas[id] <= 7, "node %d has %u", id, replicas[id]);
        cr_expect_eq(leads[id], 2u, "node %d leads %u", id, leads[id]);
    }
    cluster_destroy(c);
}

/* Is there such a row, and where is it in the order of `where`? */
static bool fits(uint64_t key)
{
    return key % 10 >= 4 && key % 10 <= 6 && (key % 3 == 0 || key > 200);
}

Test(node_cluster, answers_only_rows_for_which_the_expression_holds)
{
    const int64_t between[] = { 4, 6 };
    const double above = 100.0;
    const struct vshard_condition conditions[] = {
        { VSHARD_WHERE_RANGE, 0, VSHARD_ATTRIBUTE_INT64, 2, 0, 0, between },
        { VSHARD_WHERE_GT, 1, VSHARD_ATTRIBUTE_DOUBLE, 1, 0, 0, &above },
        { VSHARD_WHERE_IN, 2, VSHARD_ATTRIBUTE_KEYWORD, 3, 2, 0, "w4w5w6" },
        { .op = VSHARD_WHERE_OR, .count = 2 },
        { .op = VSHARD_WHERE_AND, .count = 2 }
    };
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    unsigned char where[128];
    size_t bytes;
    struct vshard_node_search more = { .k = 20, .where = where, .timeout_ns = 1000 * MS };

    cr_assert_eq(vshard_where_encode(conditions, 5, where, sizeof where, &bytes), VSHARD_OK);
    more.where_bytes = (uint32_t)bytes;
    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 500 * MS);
    for (uint64_t key = 1; key <= ROWS; key += 31) {
        struct cluster_answer *a = search(c, 2, key, 5, &more);

        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->hit_count, 16u); /* CLUSTER_HITS */
        for (uint32_t i = 0; i < a->hit_count; i++)
            cr_assert(fits(a->hits[i].key.lo), "key %d", (int)a->hits[i].key.lo);
    }
    cluster_destroy(c);
}

Test(node_cluster, fetches_values_as_they_were_written)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    struct vshard_collection spec = { .size = sizeof spec };

    cr_assert_eq(vshard_node_collection(c->node[3].node, "words", &spec), VSHARD_OK);
    cr_assert_eq(spec.attribute_count, (uint32_t)WORDS_ATTRIBUTES);
    cr_expect_arr_eq(spec.attributes, words_attributes, sizeof words_attributes);
    written(c, 1, 1, 30, 5, 0);
    for (uint64_t key = 1; key <= 30; key++) {
        struct cluster_answer *a = fetch(c, 1 + key % 3, key, NULL);
        char word[WORD] = "";
        int64_t digit;
        double half;

        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->value_count, (uint32_t)WORDS_ATTRIBUTES);
        memcpy(&digit, a->value[0].bytes, sizeof digit);
        memcpy(&half, a->value[1].bytes, sizeof half);
        if (key % 3 == 0)
            snprintf(word, sizeof word, "w%d", (int)(key % 10));
        cr_expect_eq(digit, (int64_t)(key % 10));
        cr_expect_eq(half, (double)key / 2);
        cr_expect_arr_eq(a->value[2].bytes, word, sizeof word);
    }
    cluster_destroy(c);
}

Test(node_cluster, removes_rows_for_good)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    const struct vshard_node_search fresh = { .consistency = VSHARD_READ_LINEARIZABLE,
                                              .timeout_ns = 2000 * MS };

    written(c, 1, 1, ROWS, 5, 0);
    written(c, 2, 100, 50, 0, VSHARD_WRITE_REMOVE);
    for (uint64_t key = 95; key < 155; key++) {
        bool gone = key >= 100 && key < 150;
        struct cluster_answer *a = search(c, 3, key, 5, &fresh);

        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->hits[0].key.lo == key, !gone, "key %d", (int)key);
        cr_assert_eq(fetch(c, 1, key, NULL)->status, gone ? VSHARD_ENOTFOUND : VSHARD_OK);
    }
    cluster_destroy(c);
}

Test(node_cluster, goes_on_when_a_leader_dies_and_loses_nothing)
{
    struct cluster *c = with_words(5, 5, 4, 3, NULL);
    uint64_t leader, router, before;
    struct cluster_answer *a;

    written(c, 1, 1, ROWS, 5, 0);
    leader = cluster_leader(c, "words", 2);
    cr_assert_neq(leader, (uint64_t)0);
    router = leader == 1 ? 2 : 1;
    cluster_kill(c, leader);
    before = c->now;
    a = written(c, router, 1, ROWS, 6, 0);
    cr_assert_lt((a->at_ns - before) / MS, (uint64_t)1000);
    expect_rows(c, router, 1, 60, 6);
    cr_assert_eq(cluster_start(c, leader), VSHARD_OK);
    cluster_run(c, 2000 * MS);
    expect_rows(c, leader, 1, ROWS, 6);
    cluster_destroy(c);
}

Test(node_cluster, comes_back_whole_after_a_power_cut_of_all)
{
    struct vshard_node_options o = { .snapshot_bytes = 20000 };
    struct cluster *c = with_words(3, 3, 2, 3, &o);

    for (uint64_t i = 0; i < 8; i++)
        written(c, 1 + i % 3, 1, ROWS, i, 0);
    for (int round = 0; round < 3; round++) {
        for (uint64_t id = 1; id <= 3; id++)
            cluster_kill(c, id);
        for (uint64_t id = 1; id <= 3; id++)
            cr_assert_eq(cluster_start(c, id), VSHARD_OK, "%s",
                         vshard_strerror(c->node[id].opened));
        cluster_run(c, 1500 * MS);
        expect_rows(c, 2, 1, ROWS, 7);
    }
    cluster_destroy(c);
}

/* Nothing that stands behind the snapshot has been applied when it is first looked at. */
Test(node_cluster, counts_the_rows_of_the_snapshot_that_it_starts_from)
{
    struct vshard_node_options o = { .snapshot_bytes = 20000 };
    struct cluster *c = with_words(1, 1, 1, 1, &o);
    struct vshard_shard_status s = { .applied = 0 };
    size_t count;

    for (uint64_t i = 0; i < 20; i++)
        written(c, 1, 1, ROWS, i, 0);
    cluster_run(c, 1000 * MS);
    cluster_kill(c, 1);
    cr_assert_eq(cluster_start(c, 1), VSHARD_OK);
    for (int i = 0; i < 2000 && s.applied == 0; i++) {
        vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
        cr_expect_eq(s.rows, s.applied == 0 ? 0 : (uint64_t)ROWS);
        cluster_run(c, MS / 4);
    }
    cr_assert_gt(s.applied, (uint64_t)0, "there is no snapshot");
    cluster_destroy(c);
}

Test(node_cluster, sends_a_snapshot_to_a_replica_that_is_far_behind)
{
    struct vshard_node_options o = { .snapshot_bytes = 20000, .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    struct vshard_shard_status s;
    size_t count;

    cluster_kill(c, 3);
    for (uint64_t i = 0; i < 60; i++)
        written(c, 1, 1, ROWS, i, 0);
    cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(vshard_node_shards(c->node[3].node, "words", &s, 1, &count), VSHARD_OK);
    cr_expect_eq(s.here, 1u);
    cr_expect_eq(s.applied, s.committed);
    cr_expect_eq(s.rows, (uint64_t)ROWS);
    cluster_kill(c, 1); /* so that the one that was refilled counts */
    cluster_run(c, 1000 * MS);
    expect_rows(c, 3, 1, ROWS, 59);
    cluster_destroy(c);
}

Test(node_cluster, admits_a_node_and_gives_it_what_a_lost_one_had)
{
    struct vshard_node_options o = { .replace_ns = 2000 * MS };
    struct cluster *c = with_words(3, 4, 2, 3, &o);
    struct vshard_shard_status s[2];
    size_t count;

    written(c, 1, 1, ROWS, 5, 0);
    cluster_join(c, 4, 2);
    cr_assert_not_null(cluster_wait(c, 4004, 10000 * MS));
    cr_expect_eq(c->answer[4004].status, VSHARD_OK);
    cluster_kill(c, 3);
    cluster_run(c, 8000 * MS);
    cr_assert_eq(vshard_node_shards(c->node[4].node, "words", s, 2, &count), VSHARD_OK);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(s[i].here, 1u, "shard %d", i);
        cr_expect_eq(s[i].applied, s[i].committed);
        for (uint32_t k = 0; k < s[i].member_count; k++)
            cr_expect_neq(s[i].members[k], (uint64_t)3);
    }
    cluster_kill(c, 2);
    cluster_run(c, 1500 * MS);
    expect_rows(c, 4, 1, ROWS, 5);
    cluster_destroy(c);
}

/* Five vote about the map, the first at first; those that are lost one after the other are most of
 * these in the end. */
Test(node_cluster, goes_on_without_the_first_voters_if_there_are_others)
{
    struct vshard_node_options o = { .replace_ns = 2000 * MS };
    struct cluster *c = cluster_create(7, 7, 1, &o);
    struct vshard_peer_status p[CLUSTER_NODES];
    struct cluster_answer *a;
    size_t count;

    cluster_run(c, 2000 * MS);
    for (uint64_t id = 1; id <= 4; id++) {
        cluster_kill(c, id);
        cluster_run(c, 5000 * MS);
    }
    a = create(c, 6, 2, 3);
    cr_assert_not_null(a);
    cr_expect_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cluster_run(c, 1000 * MS);
    written(c, 7, 1, 20, 5, 0);
    for (uint64_t id = 1; id <= 4; id++)
        cr_assert_eq(cluster_start(c, id), VSHARD_OK);
    cluster_run(c, 5000 * MS);
    cr_assert_eq(vshard_node_peers(c->node[1].node, p, CLUSTER_NODES, &count), VSHARD_OK);
    cr_assert_eq(count, (size_t)7);
    for (size_t i = 0; i < count; i++)
        cr_expect_eq((p[i].flags & VSHARD_PEER_VOTES) != 0, i < 5, "node %d", (int)p[i].node);
    expect_rows(c, 1, 1, 20, 5);
    cluster_destroy(c);
}

Test(node_cluster, moves_what_a_node_has_before_it_leaves)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(4, 4, 4, 3, &o);
    struct vshard_node_admin leave = {
        .size = sizeof leave, .op = VSHARD_ADMIN_REMOVE_NODE, .tag = next_tag++, .node = 2
    };
    struct vshard_node_status status = { .size = sizeof status };
    struct vshard_shard_status s[4];
    size_t count;

    written(c, 1, 1, ROWS, 5, 0);
    cr_assert_eq(vshard_node_admin(c->node[3].node, c->now, &leave), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, leave.tag, 3000 * MS)->status, VSHARD_OK);
    cluster_run(c, 8000 * MS);
    for (uint64_t id = 1; id <= 4; id++) {
        if (id == 2)
            continue;
        vshard_node_status(c->node[id].node, &status);
        cr_expect_eq(status.nodes, 3u, "node %d counts %u", (int)id, status.nodes);
        cr_expect(status.cluster.hi == 0xc1 && status.cluster.lo == 0x57e2);
        cr_expect_eq(status.replicas, 4u);
        cr_assert_eq(vshard_node_shards(c->node[id].node, "words", s, 4, &count), VSHARD_OK);
        for (int i = 0; i < 4; i++) {
            for (uint32_t k = 0; k < s[i].member_count; k++)
                cr_expect_neq(s[i].members[k], (uint64_t)2);
        }
    }
    cluster_kill(c, 2);
    cluster_kill(c, 4);
    cluster_run(c, 1500 * MS);
    expect_rows(c, 1, 1, ROWS, 5);
    cr_assert_eq(cluster_start(c, 4), VSHARD_OK);
    leave.node = 9;
    leave.tag = next_tag++;
    cr_assert_eq(vshard_node_admin(c->node[3].node, c->now, &leave), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, leave.tag, 3000 * MS)->status, VSHARD_ENOTFOUND);
    cluster_destroy(c);
}

static uint64_t map_leader(struct cluster *c, uint32_t *nodes)
{
    struct vshard_node_status status = { .size = sizeof status };

    vshard_node_status(c->node[1].node, &status);
    vshard_node_status(c->node[status.meta_leader].node, &status);
    *nodes = status.nodes;
    return status.meta_leader;
}

static bool is_member(struct cluster *c, uint64_t id)
{
    struct vshard_shard_status s;
    size_t count;
    bool found = false;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", &s, 1, &count), VSHARD_OK);
    for (uint32_t k = 0; k < s.member_count; k++)
        found |= s.members[k] == id;
    return found;
}

/* Its shard's leader, or it itself, stands still while it leaves, so its group counts on it for
 * longer than the map names it. */
static bool leaves(struct cluster *c, uint64_t id, bool itself)
{
    const struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = id };
    uint32_t nodes = 0;
    uint64_t leader = cluster_leader(c, "words", 0);

    if (!is_member(c, id) || map_leader(c, &nodes) == leader || map_leader(c, &nodes) == id)
        return false;
    written(c, leader, 1, ROWS, 5, 0);
    cr_assert_eq(administer(c, map_leader(c, &nodes), leave), VSHARD_OK);
    if (itself)
        c->node[id].paused_until = c->now + 1500 * MS;
    else
        c->node[leader].paused_until = c->now + 500 * MS;
    for (int i = 0; i < 20000 && map_leader(c, &nodes) != 0 && nodes != 3; i++)
        cluster_run(c, 1 * MS);
    cr_assert_eq(nodes, 3u, "it does not leave");
    return true;
}

Test(node_cluster, does_without_a_node_from_the_moment_that_it_has_left)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    uint32_t left = 0;

    for (uint32_t i = 0; i < 6; i++) {
        for (uint32_t replicas = 1; replicas <= 3; replicas++) {
            struct cluster *c = with_words(4, 4, 1, replicas, &o);
            uint64_t id = 2 + i / 2;

            if (leaves(c, id, i % 2)) {
                left++;
                cluster_kill(c, id);
                cluster_run(c, 3000 * MS);
                expect_rows(c, 1, 1, ROWS, 5);
                written(c, 1, 1, ROWS, 6, 0);
            }
            cluster_destroy(c);
        }
    }
    cr_expect_gt(left, 1u);
}

Test(node_cluster, takes_a_node_back_that_has_lost_its_disk)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);

    written(c, 1, 1, ROWS, 5, 0);
    cluster_join(c, 3, 1); /* an empty disk, and another incarnation */
    cr_assert_not_null(cluster_wait(c, 4003, 10000 * MS));
    cluster_run(c, 4000 * MS);
    cluster_kill(c, 2);
    cluster_run(c, 1500 * MS);
    written(c, 3, 1, 50, 6, 0);
    expect_rows(c, 1, 1, 50, 6);
    expect_rows(c, 3, 51, ROWS - 50, 5);
    cluster_destroy(c);
}

Test(node_cluster, forgets_a_collection_that_is_dropped_and_makes_another)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    struct vshard_node_admin drop = {
        .size = sizeof drop, .op = VSHARD_ADMIN_DROP, .tag = next_tag++, .name = "words"
    };
    struct vshard_node_status status = { .size = sizeof status };

    written(c, 1, 1, ROWS, 5, 0);
    cr_assert_eq(vshard_node_admin(c->node[2].node, c->now, &drop), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, drop.tag, 3000 * MS)->status, VSHARD_OK);
    cluster_run(c, 1000 * MS);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_assert_eq(vshard_node_status(c->node[id].node, &status), VSHARD_OK);
        cr_expect_eq(status.replicas, 0u, "node %d", (int)id);
    }
    drop.tag = next_tag++;
    cr_assert_eq(vshard_node_admin(c->node[2].node, c->now, &drop), VSHARD_OK);
    cr_assert_eq(cluster_wait(c, drop.tag, 3000 * MS)->status, VSHARD_ENOTFOUND);
    cr_assert_eq(create(c, 3, 2, 3)->status, VSHARD_OK);
    cr_assert_eq(create(c, 3, 2, 3)->status, VSHARD_EEXIST);
    cluster_run(c, 1000 * MS);
    written(c, 1, 1, 20, 6, 0);
    expect_rows(c, 2, 1, 20, 6);
    cr_assert_eq(fetch(c, 1, 100, NULL)->status, VSHARD_ENOTFOUND);
    for (uint64_t id = 1; id <= 3; id++) {
        cluster_kill(c, id);
        cr_assert_eq(cluster_start(c, id), VSHARD_OK);
    }
    cluster_run(c, 1500 * MS);
    expect_rows(c, 2, 1, 20, 6);
    cluster_destroy(c);
}

Test(node_cluster, answers_in_part_when_a_shard_has_no_replica_left)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(5, 5, 4, 1, &o);
    const struct vshard_node_search whole = { .flags = VSHARD_NODE_WHOLE };
    struct cluster_answer *a;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_kill(c, cluster_leader(c, "words", 2));
    for (uint64_t id = 1; id <= 5; id++) {
        if (c->node[id].node == NULL)
            continue;
        a = search(c, id, 7, 5, NULL);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->shards, 4u);
        cr_assert_eq(a->shards_answered, 3u);
        cr_assert_eq(search(c, id, 7, 5, &whole)->status, VSHARD_ETIMEDOUT);
        break;
    }
    cluster_destroy(c);
}
