/* node_halted.c - a replica that has halted, or makes its state again, leads nobody; and one that
 * stays so is lost.
 *
 * Method: each member in turn is the one that leads, by an operator's word, and then its replica
 * halts, or finds no memory to refill itself; as a fault would do it, by hand. Writes must go on
 * soon, and go on for long: leadership must not come back to who cannot apply them. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/fault_alloc.h"

enum { ROWS = 20 };

static struct cluster *with_leader(uint32_t turn, uint64_t *leader)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    struct vshard_node_admin lead = { .op = VSHARD_ADMIN_LEAD, .group = 1, .node = turn };

    cr_assert_eq(administer(c, turn % 3 + 1, lead), VSHARD_OK);
    cluster_run(c, 6000 * MS);
    *leader = cluster_leader(c, "words", 0);
    cr_assert_eq(*leader, (uint64_t)turn);
    written(c, turn % 3 + 1, 1, ROWS, 5, 0);
    return c;
}

/* For twenty seconds, by way of each node, the one that idles too. */
static void expect_writes(struct cluster *c, uint64_t idle)
{
    const struct vshard_node_write more = { .timeout_ns = 3000 * MS };

    for (uint64_t i = 0; i < 40; i++) {
        uint64_t tag = write_rows(c, 1 + i % 3, 1, ROWS, 10 + i, &more);
        struct cluster_answer *a = cluster_wait(c, tag, 4000 * MS);

        cr_assert_not_null(a);
        cr_assert_eq(a->status, VSHARD_OK, "write %d: %s", (int)i, vshard_strerror(a->status));
        cluster_run(c, 500 * MS);
        cr_expect_neq(cluster_leader(c, "words", 0), idle, "after write %d", (int)i);
    }
    expect_rows(c, idle % 3 + 1, 1, ROWS, 49);
}

Test(node_halted, leads_no_more)
{
    for (uint32_t turn = 1; turn <= 3; turn++) {
        uint64_t leader;
        struct cluster *c = with_leader(turn, &leader);
        struct vshard_node *n = c->node[leader].node;

        vs_replica_halt(n, vs_replica_find(n, 1), VSHARD_ECORRUPT);
        expect_writes(c, leader);
        cluster_destroy(c);
    }
}

Test(node_halted, leads_no_more_while_it_is_refilled)
{
    for (uint32_t turn = 1; turn <= 3; turn++) {
        uint64_t leader;
        struct cluster *c = with_leader(turn, &leader);
        struct vshard_node *n = c->node[leader].node;
        struct vs_replica *r = vs_replica_find(n, 1);

        r->diverged = 1;
        r->again_ns = c->now + 22000 * MS; /* as if there were no memory until then */
        expect_writes(c, leader);
        cluster_run(c, 15000 * MS);
        cr_expect_eq(r->refills, 1u);
        cr_expect_eq(cluster_leader(c, "words", 0), leader, "it leads again");
        expect_rows(c, leader, 1, ROWS, 49);
        cluster_destroy(c);
    }
}

/* Only it has all that was committed: it must lead until another has that, too. */
Test(node_halted, leads_until_another_can)
{
    uint64_t leader, behind, dead;
    struct cluster *c = with_leader(1, &leader);
    struct vshard_node *n = c->node[leader].node;

    behind = leader % 3 + 1;
    dead = behind % 3 + 1;
    c->node[behind].side = 1;
    written(c, leader, 1, ROWS, 6, 0);
    vs_replica_halt(n, vs_replica_find(n, 1), VSHARD_ECORRUPT);
    cluster_kill(c, dead);
    c->node[behind].side = 0;
    written(c, behind, 1, ROWS, 7, 0);
    cr_expect_eq(cluster_leader(c, "words", 0), behind);
    expect_rows(c, behind, 1, ROWS, 7);
    cluster_destroy(c);
}

/* What it is given it can do nothing with: it must not keep it. */
Test(node_halted, keeps_in_memory_nothing_of_what_comes)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX,
                                     .backlog_bytes = 100000,
                                     .snapshot_bytes = 100000 };
    struct fault_alloc memory;
    struct cluster *c;
    uint64_t leader, idle, before;

    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    c = with_words(3, 3, 1, 3, &o);
    written(c, 1, 1, 1000, 5, 0);
    leader = cluster_leader(c, "words", 0);
    idle = leader % 3 + 1;
    vs_replica_halt(c->node[idle].node, vs_replica_find(c->node[idle].node, 1), VSHARD_ECORRUPT);
    for (uint64_t i = 0; i < 30; i++)
        written(c, leader, 1, 1000, 6 + i, 0);
    cluster_run(c, 2000 * MS);
    before = memory.bytes;
    for (uint64_t i = 0; i < 200; i++) /* of some 70 KB each */
        written(c, leader, 1, 1000, 6 + i, 0);
    cluster_run(c, 2000 * MS);
    cr_expect_lt(memory.bytes, before + 8000000u, "%d bytes more", (int)(memory.bytes - before));
    cluster_destroy(c);
    fault_alloc_fini(&memory);
}

static bool names(struct cluster *c, uint64_t at, uint64_t node)
{
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[at].node, "words", &s, 1, &count), VSHARD_OK);
    for (uint32_t i = 0; i < s.member_count; i++) {
        if (s.members[i] == node)
            return true;
    }
    return false;
}

/* Its node is there and well; but this replica is lost. */
Test(node_halted, for_long_is_replaced_on_a_spare_node)
{
    struct vshard_node_options o = { .replace_ns = 3000 * MS };

    for (uint32_t turn = 0; turn < 3; turn++) {
        struct cluster *c = with_words(4, 4, 1, 3, &o);
        struct vshard_shard_status s;
        uint64_t idle, at;
        size_t count;

        vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
        written(c, 1, 1, ROWS, 5, 0);
        idle = s.members[turn];
        at = idle % 4 + 1;
        vs_replica_halt(c->node[idle].node, vs_replica_find(c->node[idle].node, 1),
                        VSHARD_ECORRUPT);
        cluster_run(c, 2000 * MS);
        cr_expect(names(c, at, idle), "it was not waited for");
        cluster_run(c, 10000 * MS);
        cr_expect(!names(c, at, idle));
        cr_expect_null(vs_replica_find(c->node[idle].node, 1));
        expect_rows(c, at, 1, ROWS, 5);
        cluster_destroy(c);
    }
}

/* What halts two of three is in the log, and would halt whoever came in their place. */
Test(node_halted, together_with_another_is_not_replaced)
{
    struct vshard_node_options o = { .replace_ns = 3000 * MS };
    struct cluster *c = with_words(4, 4, 1, 3, &o);
    struct vshard_shard_status s;
    size_t count;

    vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
    for (uint32_t i = 0; i < 2; i++)
        vs_replica_halt(c->node[s.members[i]].node, vs_replica_find(c->node[s.members[i]].node, 1),
                        VSHARD_ECORRUPT);
    cluster_run(c, 10000 * MS);
    cr_expect(names(c, 1, s.members[0]) && names(c, 1, s.members[1]));
    cluster_destroy(c);
}

static uint64_t logged(struct cluster *c, uint64_t at)
{
    struct vshard_wal_group about = { .size = sizeof about };

    cr_assert_eq(vshard_wal_find(c->node[at].node->wal, 1, &about), VSHARD_OK);
    return about.bytes;
}

/* No snapshot makes room in its log, and its log is that of all replicas of its node. */
Test(node_halted, does_not_fill_the_disk_of_its_node)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX, .snapshot_bytes = 3000 };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t leader = cluster_leader(c, "words", 0), idle = leader % 3 + 1, most;

    written(c, leader, 1, ROWS, 5, 0);
    vs_replica_halt(c->node[idle].node, vs_replica_find(c->node[idle].node, 1), VSHARD_ECORRUPT);
    for (uint64_t i = 0; i < 60; i++)
        written(c, leader, 1, ROWS, 6 + i, 0);
    cluster_run(c, 500 * MS);
    most = logged(c, idle);
    cr_expect_gt(most, 16u * 3000u);
    for (uint64_t i = 0; i < 100; i++)
        written(c, leader, 1, ROWS, 66 + i, 0);
    cluster_run(c, 500 * MS);
    cr_expect_eq(logged(c, idle), most);
    expect_rows(c, leader, 1, ROWS, 165);
    cluster_kill(c, idle); /* the fault was one of its memory: it comes back */
    cr_assert_eq(cluster_start(c, idle), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_expect_lt(logged(c, idle), 16u * 3000u);
    expect_rows(c, idle, 1, ROWS, 165);
    cluster_destroy(c);
}
