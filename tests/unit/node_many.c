/* node_many.c - a node that gets many replicas at once, or is opened with them: each call stays
 * short.
 *
 * Method: one node, and a collection of many shards, which is called until all are there. How many
 * replicas each call has opened is counted, which is what a call takes time for. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { SHARDS = 1000, AT_ONCE = 64, CALLS = 100 };

/* How many calls it takes until all shards have a replica; each opens no more than AT_ONCE. */
static uint32_t calls_until_all(struct cluster *c)
{
    struct vshard_node *n = c->node[1].node;
    uint32_t calls = 0;

    for (; n->replica_count < 1 + SHARDS && calls < CALLS; calls++) {
        uint32_t before = n->replica_count;

        cr_expect_leq(vshard_node_deadline_ns(n), c->now, "it waits for nothing");
        vshard_node_tick(n, c->now);
        cr_expect_leq(n->replica_count, before + AT_ONCE, "call %u", calls);
    }
    return calls;
}

static uint32_t led(struct cluster *c)
{
    static struct vshard_shard_status s[SHARDS];
    uint32_t leaders = 0;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", s, SHARDS, &count), VSHARD_OK);
    for (size_t i = 0; i < count; i++)
        leaders += s[i].leader == 1;
    return leaders;
}

Test(node_many, are_opened_some_at_a_time)
{
    struct cluster *c = cluster_create(1, 1, 1, NULL);
    const struct vshard_collection spec = {
        .size = sizeof spec, .dim = DIM, .shards = SHARDS, .replicas = 1, .name = "words"
    };
    const struct vshard_node_admin create = {
        .size = sizeof create, .op = VSHARD_ADMIN_CREATE, .tag = next_tag++, .collection = &spec
    };
    struct vshard_node *n = c->node[1].node;

    cluster_run(c, 1500 * MS);
    cr_assert_eq(vshard_node_admin(n, c->now, &create), VSHARD_OK);
    cr_expect_leq(n->replica_count, 1u + AT_ONCE);
    cr_expect_lt(calls_until_all(c), (uint32_t)CALLS);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(led(c), (uint32_t)SHARDS);
    cluster_kill(c, 1);
    cr_assert_eq(cluster_start(c, 1), VSHARD_OK);
    n = c->node[1].node;
    cr_expect_leq(n->replica_count, 1u + AT_ONCE);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(n->replica_count, 1u + SHARDS);
    cr_expect_eq(n->unsettled, 0u);
    cr_expect_eq(led(c), (uint32_t)SHARDS);
    cluster_destroy(c);
}
