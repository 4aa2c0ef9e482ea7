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

static bool somebody_waits(const struct cluster *c)
{
    for (uint64_t id = 1; id <= 3; id++) {
        const struct vs_replica *r = vs_replica_find(c->node[id].node, 1);

        if (r != NULL && r->waiting != NULL)
            return true;
    }
    return false;
}

/* Who asked is held up, and hears too late that a replica cannot answer. */
Test(node_reads, are_not_asked_again_when_their_time_is_up)
{
    struct cluster *c = with_words(3, 3, 1, 2, NULL);
    const struct vshard_position never = { .group = 1, .index = 1u << 30 };
    const struct vshard_node_search q = { .consistency = VSHARD_READ_POSITIONS,
                                          .position_count = 1,
                                          .positions = &never,
                                          .timeout_ns = 50 * MS };
    struct vshard_shard_status s;
    uint64_t outside = 0, tag;
    size_t count;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
    for (uint64_t id = 1; id <= 3; id++)
        outside = id != s.members[0] && id != s.members[1] ? id : outside;
    for (uint32_t i = 0; i < 2; i++) /* each says that it is none */
        vs_replica_find(c->node[s.members[i]].node, 1)->diverged = 1;
    tag = search_begin(c, outside, 1, 5, &q);
    c->node[outside].paused_until = c->now + 80 * MS;
    cluster_run(c, 20 * MS);
    for (uint32_t i = 0; i < 2; i++)
        vs_replica_find(c->node[s.members[i]].node, 1)->diverged = 0;
    cluster_run(c, 500 * MS);
    cr_expect_eq(c->answer[tag].times, 1u);
    cr_expect(!somebody_waits(c), "a read has no end");
    cluster_destroy(c);
}

/* It waits at a replica that goes, where it could have waited at another. */
Test(node_reads, are_asked_of_another_when_a_replica_goes)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t cut = follower(c), tag;
    const struct cluster_answer *w, *a;
    struct vshard_node_search mine = { .consistency = VSHARD_READ_POSITIONS,
                                       .timeout_ns = 400 * MS,
                                       .position_count = 1 };

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 300 * MS);
    c->node[cut].side = 1;
    w = written(c, other(c, cut), 1, ROWS, 6, 0);
    mine.positions = w->positions;
    for (uint64_t id = 1; id <= 3; id++) /* no other is asked beside it */
        c->node[id].node->o.hedge_ns = UINT64_MAX;
    tag = search_begin(c, cut, 1, 6, &mine);
    cr_assert_not_null(vs_replica_find(c->node[cut].node, 1)->waiting);
    vs_replica_halt(c->node[cut].node, vs_replica_find(c->node[cut].node, 1), VSHARD_ECORRUPT);
    c->node[cut].side = 0;
    a = cluster_wait(c, tag, 1000 * MS);
    cr_assert_not_null(a);
    cr_expect_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_expect_eq(a->hit_count, 3u);
    cr_expect_null(vs_replica_find(c->node[cut].node, 1)->waiting);
    cluster_destroy(c);
}

/* ---- answers that are none ---- */

enum { SHARDS = 2, K = 10 };

/* What a shard has answered, but that a peer has spoilt it: the last hit stands first. */
static void answer_spoilt(struct vshard_node *n, struct vs_request *q, uint32_t part)
{
    struct vs_out o = { .allocator = NULL };
    struct vs_in in;

    vs_put64(&o, q->id);
    vs_put32(&o, part);
    vs_put32(&o, 0);
    vs_put64(&o, q->part[part].group);
    vs_put64(&o, 5); /* position */
    vs_put64(&o, 0); /* epoch, limits */
    vs_put64(&o, 0);
    vs_put64(&o, ROWS);
    vs_put32(&o, 2);
    vs_put32(&o, 0);
    for (uint32_t i = 0; i < 2; i++) {
        vs_put_key(&o, (struct vshard_key){ 9, i });
        vs_put64(&o, 1);
        vs_put_float(&o, i == 0 ? 1e-6f : 0.0f);
        vs_put32(&o, 0);
    }
    in = (struct vs_in){ .at = o.at, .left = o.count };
    vs_read_reply(n, q->part[part].node, &in);
    vs_out_free(&o);
}

Test(node_reads, take_nothing_of_an_answer_that_is_none)
{
    struct cluster *c = with_words(3, 3, SHARDS, 1, NULL);
    uint64_t outside = 0, tag;
    struct vshard_node_search q = { .k = K, .timeout_ns = 400 * MS };
    const struct cluster_answer *a;
    struct vshard_shard_status s[SHARDS];
    size_t count;

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 1000 * MS);
    vshard_node_shards(c->node[1].node, "words", s, SHARDS, &count);
    for (uint64_t id = 1; id <= 3; id++)
        outside = id != s[0].members[0] && id != s[1].members[0] ? id : outside;
    cr_assert_neq(outside, (uint64_t)0);
    for (uint32_t lost = 0; lost < 2; lost++) {
        c->node[s[1].members[0]].side = lost; /* its right answer comes, or does not */
        cluster_run(c, 10 * MS);
        tag = search_begin(c, outside, 1, 5, &q);
        answer_spoilt(c->node[outside].node, c->node[outside].node->requests, 1);
        a = cluster_wait(c, tag, 1000 * MS);
        cr_assert_not_null(a);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_expect_eq(a->shards_answered, lost ? 1u : 2u);
        cr_expect_eq(a->hit_count, (uint32_t)K);
        for (uint32_t i = 0; i < a->hit_count; i++)
            cr_expect_eq(a->hits[i].key.hi, (uint64_t)0, "hit %d", (int)i);
    }
    cluster_destroy(c);
}
