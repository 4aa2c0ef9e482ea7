/* node_lead.c - an operator says which member leads a shard.
 *
 * Method: each member in turn is told to, by way of another node, of a shard that rests and of
 * one that is written to. It must lead soon, go on leading, give way when it dies, and lead
 * again when it is back. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"

enum { ROWS = 60 };

static int lead(struct cluster *c, uint64_t at, uint64_t group, uint64_t node)
{
    return administer(
        c, at, (struct vshard_node_admin){ .op = VSHARD_ADMIN_LEAD, .group = group, .node = node });
}

Test(node_lead, each_member_that_is_told_to_leads)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = with_words(4, 4, 1, 3, &o);
    struct vshard_shard_status s;
    size_t count;

    written(c, 1, 1, ROWS, 5, 0);
    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", &s, 1, &count), VSHARD_OK);
    for (uint32_t i = 0; i < 6; i++) {
        uint64_t node = s.members[(i + 1) % 3], by = s.members[i % 3];

        cr_assert_eq(lead(c, by, s.group, node), VSHARD_OK);
        if (i >= 3)
            written(c, by, 1, ROWS, 5 + i, 0);
        cluster_run(c, 1000 * MS);
        cr_expect_eq(cluster_leader(c, "words", 0), node, "turn %u", i);
        cluster_run(c, 12000 * MS);
        cr_expect_eq(cluster_leader(c, "words", 0), node, "turn %u", i);
    }
    expect_rows(c, 4, 1, ROWS, 10);
    cluster_destroy(c);
}

Test(node_lead, lasts)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t chosen = cluster_leader(c, "words", 0) % 3 + 1, other = chosen % 3 + 1;
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", &s, 1, &count), VSHARD_OK);
    cr_assert_eq(lead(c, other, s.group, chosen), VSHARD_OK);
    cr_expect_eq(lead(c, other, s.group, chosen), VSHARD_OK, "and again");
    cluster_run(c, 2000 * MS);
    cluster_kill(c, chosen);
    cluster_run(c, 3000 * MS);
    cr_expect_neq(cluster_leader(c, "words", 0), chosen);
    written(c, other, 1, ROWS, 6, 0);
    cr_assert_eq(cluster_start(c, chosen), VSHARD_OK);
    cluster_run(c, 12000 * MS);
    cr_expect_eq(cluster_leader(c, "words", 0), chosen);
    expect_rows(c, chosen, 1, ROWS, 6);
    cluster_destroy(c);
}

Test(node_lead, is_refused_to_who_has_no_vote)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = with_words(4, 4, 1, 3, &o);
    struct vshard_shard_status s;
    size_t count;
    uint64_t none = 10;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", &s, 1, &count), VSHARD_OK);
    for (int i = 0; i < 3; i++)
        none -= s.members[i];
    cr_expect_eq(lead(c, 1, s.group, none), VSHARD_ENOTFOUND, "it has no replica");
    cr_expect_eq(lead(c, 1, s.group, 9), VSHARD_ENOTFOUND);
    cr_expect_eq(lead(c, 1, s.group + 1, 1), VSHARD_ENOTFOUND);
    cluster_destroy(c);
}
