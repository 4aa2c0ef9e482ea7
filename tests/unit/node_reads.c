/* node_reads.c - how fresh an answer is, when a replica is not.
 *
 * Method: three replicas; one is cut off, or paused, while rows are written, and is then
 * asked, so that each kind of consistency shows what it promises and what not. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 40 };

/* A follower of the only shard. */
static uint64_t follower(struct cluster *c)
{
    return cluster_leader(c, "words", 0) % 3 + 1;
}

static uint64_t other(struct cluster *c, uint64_t not_this)
{
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != not_this && id != cluster_leader(c, "words", 0))
            return id;
    }
    return 0;
}

Test(node_reads, of_any_replica_may_be_old_and_say_where_they_stand)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t cut = follower(c);
    struct cluster_answer *a, *w;
    struct vshard_node_fetch any = { .consistency = VSHARD_READ_ANY, .timeout_ns = 1000 * MS };

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    c->node[cut].side = 1;
    w = written(c, other(c, cut), 1, ROWS, 6, 0);
    a = fetch(c, cut, 1, &any);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_expect_lt(a->version, w->positions[0].index);
    cr_expect_lt(a->positions[0].index, w->positions[0].index);
    cluster_destroy(c);
}

Test(node_reads, with_positions_see_the_sessions_own_writes)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t cut = follower(c);
    struct vshard_node_fetch mine = { .consistency = VSHARD_READ_POSITIONS,
                                      .timeout_ns = 400 * MS,
                                      .position_count = 1 };
    struct cluster_answer *w, *a;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    c->node[cut].side = 1;
    w = written(c, other(c, cut), 1, ROWS, 6, 0);
    mine.positions = w->positions;
    a = fetch(c, cut, 1, &mine);
    cr_expect_eq(a->status, VSHARD_ESTALE, "%s", vshard_strerror(a->status));
    for (uint64_t id = 1; id <= 3; id++) {
        if (id == cut)
            continue;
        a = fetch(c, id, 1, &mine);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_expect_geq(a->version, w->positions[0].index);
    }
    c->node[cut].side = 0;
    mine.timeout_ns = 3000 * MS;
    a = fetch(c, cut, 1, &mine);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_expect_geq(a->version, w->positions[0].index);
    cluster_destroy(c);
}

Test(node_reads, that_are_bounded_fail_where_nothing_can_be_proven)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t cut = follower(c);
    struct vshard_node_fetch bounded = { .consistency = VSHARD_READ_BOUNDED,
                                         .timeout_ns = 400 * MS,
                                         .max_staleness_ns = 200 * MS };
    struct cluster_answer *a;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    a = fetch(c, cut, 1, &bounded);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    c->node[cut].side = 1;
    cluster_run(c, 1000 * MS);
    a = fetch(c, cut, 1, &bounded);
    cr_assert_neq(a->status, VSHARD_OK);
    cluster_destroy(c);
}

Test(node_reads, that_are_linearizable_need_a_quorum)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t leader = cluster_leader(c, "words", 0), third = other(c, leader);
    struct vshard_node_fetch linear = { .consistency = VSHARD_READ_LINEARIZABLE,
                                        .timeout_ns = 400 * MS };

    written(c, 1, 1, ROWS, 5, 0);
    cr_assert_eq(fetch(c, third, 1, &linear)->status, VSHARD_OK);
    c->node[leader].side = 1; /* it believes itself leader for a while */
    cr_expect_neq(fetch(c, leader, 1, &linear)->status, VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_expect_eq(fetch(c, third, 1, &linear)->status, VSHARD_OK);
    cluster_destroy(c);
}

Test(node_reads, are_not_held_up_by_a_replica_that_hangs)
{
    struct cluster *c = with_words(3, 3, 1, 2, NULL);
    uint64_t outside = 0, slow;
    struct vshard_shard_status s;
    size_t count;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
    for (uint64_t id = 1; id <= 3; id++)
        outside = id != s.members[0] && id != s.members[1] ? id : outside;
    slow = s.members[0];
    for (int i = 0; i < 30; i++) {
        struct cluster_answer *a;
        uint64_t before = c->now;

        c->node[slow].paused_until = c->now + 40 * MS;
        a = search(c, outside, 1, 5, NULL);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->shards_answered, 1u);
        cr_assert_lt(a->at_ns - before, 30 * MS, "search %d", i);
        cluster_run(c, 100 * MS);
        for (int k = 0; k < 20; k++) /* which pay for the second request */
            search(c, outside, 1, 5, NULL);
        slow = i % 2 ? s.members[0] : s.members[1];
    }
    cluster_destroy(c);
}

/* Frames are lost, and with them answers: who had lost some must not seem busy for ever. */
Test(node_reads, count_nobody_as_busy_who_is_asked_for_nothing)
{
    struct vshard_node_options o = { .search_ns = 50 * MS };
    struct cluster *c = with_words(5, 5, 4, 2, &o);

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    c->lose_per_mille = 200;
    for (uint64_t key = 1; key <= ROWS; key++)
        search(c, 1 + key % 5, key, 5, NULL);
    c->lose_per_mille = 0;
    cluster_run(c, 1000 * MS);
    for (uint64_t id = 1; id <= 5; id++) {
        const struct vshard_node *n = c->node[id].node;

        for (uint32_t i = 0; i < n->peer_count; i++)
            cr_expect_eq(n->peer[i].outstanding, 0u, "node %d, by %d", (int)n->peer[i].node,
                         (int)id);
        cr_expect_eq(n->self.outstanding, 0u);
    }
    cluster_destroy(c);
}
