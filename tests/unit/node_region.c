/* node_region.c - a second region follows, answers reads, takes over while a quorum lives, and
 * is what is left when none does.
 *
 * Method: three founders, and two nodes that join in region 1. Who leads and votes is read
 * from the shards and from who can die without writes coming to a halt. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"

enum { ROWS = 120, SHARDS = 3, FOUNDERS = 3, NODES = 5 };

static int to_region(struct cluster *c, uint64_t at, uint32_t region)
{
    return administer(c, at,
                      (struct vshard_node_admin){ .op = VSHARD_ADMIN_PRIMARY, .region = region });
}

static struct cluster *two_regions(uint32_t learners)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = cluster_create(FOUNDERS, NODES, 1, &o);
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = VSHARD_FAMILY_FLAT,
                                            .shards = SHARDS,
                                            .learners = learners,
                                            .attribute_count = WORDS_ATTRIBUTES,
                                            .attributes = words_attributes,
                                            .name = "words" };

    cluster_run(c, 1500 * MS);
    for (uint64_t id = FOUNDERS + 1; id <= NODES; id++) {
        c->node[id].region = 1;
        cluster_join(c, id, id % FOUNDERS + 1);
        cr_assert_not_null(cluster_wait(c, 4000 + id, 10000 * MS));
        cr_assert_eq(c->answer[4000 + id].status, VSHARD_OK);
    }
    cr_assert_eq(
        administer(c, 1,
                   (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE, .collection = &spec }),
        VSHARD_OK);
    cluster_run(c, 3000 * MS);
    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 500 * MS);
    return c;
}

static struct vshard_shard_status look(struct cluster *c, uint64_t at, uint32_t shard)
{
    struct vshard_shard_status all[SHARDS];
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[at].node, "words", all, SHARDS, &count), VSHARD_OK);
    return all[shard];
}

Test(node_region, learners_follow_answer_and_are_not_waited_for)
{
    struct cluster *c = two_regions(2);

    for (uint32_t i = 0; i < SHARDS; i++) {
        cr_expect_eq(look(c, 1, i).member_count, 5u);
        cr_expect_leq(cluster_leader(c, "words", i), (uint64_t)FOUNDERS);
        for (uint64_t id = FOUNDERS + 1; id <= NODES; id++) {
            cr_expect_eq(look(c, id, i).here, 1u);
            cr_expect_eq(look(c, id, i).applied, look(c, 1, i).committed);
        }
    }
    for (uint64_t id = 1; id <= FOUNDERS; id++)
        c->node[id].side = 1; /* the second region is cut off, and answers what it has */
    cr_expect_eq(search(c, 4, 7, 5, NULL)->hits[0].key.lo, (uint64_t)7);
    written(c, 1, 1, ROWS, 6, 0);
    for (uint64_t id = FOUNDERS + 1; id <= NODES; id++)
        cluster_kill(c, id);
    cluster_kill(c, 3);
    cluster_run(c, 1500 * MS);
    written(c, 1, 1, ROWS, 7, 0); /* two of three that vote */
    expect_rows(c, 2, 1, ROWS, 7);
    cluster_destroy(c);
}

Test(node_region, takes_over_and_gives_back_while_a_quorum_lives)
{
    struct cluster *c = two_regions(2);

    cr_assert_eq(to_region(c, 2, 1), VSHARD_OK);
    written(c, 1, 1, ROWS, 6, 0);
    cluster_run(c, 15000 * MS);
    for (uint32_t i = 0; i < SHARDS; i++)
        cr_expect_gt(cluster_leader(c, "words", i), (uint64_t)FOUNDERS);
    for (uint64_t id = 1; id <= FOUNDERS; id++)
        cluster_kill(c, id);
    cluster_run(c, 1500 * MS);
    written(c, 4, 1, ROWS / 2, 7, 0);
    expect_rows(c, 5, 1, ROWS / 2, 7);
    expect_rows(c, 5, ROWS / 2 + 1, ROWS / 2, 6);
    for (uint64_t id = 1; id <= FOUNDERS; id++)
        cr_assert_eq(cluster_start(c, id), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(to_region(c, 4, 0), VSHARD_OK);
    cluster_run(c, 15000 * MS);
    for (uint64_t id = FOUNDERS + 1; id <= NODES; id++)
        cluster_kill(c, id);
    cluster_run(c, 1500 * MS);
    written(c, 3, 1, 10, 8, 0);
    expect_rows(c, 1, 1, 10, 8);
    expect_rows(c, 1, 11, ROWS / 2 - 10, 7);
    cluster_destroy(c);
}

Test(node_region, is_refused_where_there_is_nothing)
{
    struct cluster *c = two_regions(0);
    struct vshard_node_status s = { .size = sizeof s };
    struct vshard_collection many = {
        .size = sizeof many, .dim = DIM, .replicas = 3, .learners = 5, .name = "many"
    };

    cr_expect_eq(to_region(c, 1, 2), VSHARD_ENOTFOUND);
    cr_expect_eq(to_region(c, 1, 1), VSHARD_EBUSY);
    cr_expect_eq(
        administer(c, 1,
                   (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE, .collection = &many }),
        VSHARD_E2BIG);
    cr_expect_eq(administer(c, 1,
                            (struct vshard_node_admin){
                                .op = VSHARD_ADMIN_REPLACE, .group = 1, .node = 1, .to = 4 }),
                 VSHARD_EINVAL);
    vshard_node_status(c->node[4].node, &s);
    cr_expect_eq(s.region, 1u);
    cr_expect_eq(s.primary, 0u);
    written(c, 1, 1, ROWS, 6, 0);
    expect_rows(c, 4, 1, ROWS, 6);
    cluster_destroy(c);
}

/* The better of the two that are left. */
static uint64_t survivor(struct cluster *c, uint64_t group, struct vshard_node_admin *a)
{
    uint64_t best = 0;

    for (uint64_t id = FOUNDERS + 1; id <= NODES; id++) {
        struct vshard_node_status s = { .size = sizeof s };
        uint64_t last, term;

        vshard_node_status(c->node[id].node, &s);
        last = group == 0 ? s.map_last : look(c, id, (uint32_t)group - 1).last;
        term = group == 0 ? s.map_last_term : look(c, id, (uint32_t)group - 1).last_term;
        if (best != 0 && (term < a->last_term || (term == a->last_term && last <= a->last)))
            continue;
        best = id;
        a->last = last;
        a->last_term = term;
    }
    return best;
}

Test(node_region, is_what_is_left_when_the_first_is_gone)
{
    struct cluster *c = two_regions(2);
    const uint64_t lost[] = { 1, 2, 3 };
    struct vshard_node_admin a = { .op = VSHARD_ADMIN_RECOVER,
                                   .lost = lost,
                                   .lost_count = 3,
                                   .name = "the first region is under water" };

    for (uint64_t id = 1; id <= FOUNDERS; id++)
        cluster_kill(c, id);
    cluster_run(c, 3000 * MS);
    for (uint64_t group = 0; group <= SHARDS; group++) {
        uint64_t at = survivor(c, group, &a);

        a.group = group;
        a.epoch = (uint32_t)group + 1;
        cr_assert_eq(administer(c, at, a), VSHARD_OK, "group %d", (int)group);
        cluster_run(c, 500 * MS);
    }
    cr_assert_eq(to_region(c, 4, 1), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    written(c, 4, 1, ROWS / 2, 6, 0);
    expect_rows(c, 5, 1, ROWS / 2, 6);
    expect_rows(c, 5, ROWS / 2 + 1, ROWS / 2, 5);
    cluster_destroy(c);
}
