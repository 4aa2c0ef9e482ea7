/* node_again.c - a write that is sent again under its id where a shard has no room for more rows:
 * what is among these already is told as written, and nothing else is.
 *
 * Method: a shard is filled up to its limit. Then what filled it is written again: at each node,
 * when another leads, when all have been started again, when the group has slept, and while it is
 * still waiting to be applied. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { LIMIT = 20 };

static struct cluster *limited(uint32_t family)
{
    struct cluster *c = cluster_create(3, 3, 1, NULL);
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = family,
                                            .shards = 1,
                                            .replicas = 3,
                                            .attribute_count = WORDS_ATTRIBUTES,
                                            .max_rows = LIMIT,
                                            .name = "words",
                                            .attributes = words_attributes };

    cluster_run(c, 1500 * MS);
    cr_assert_eq(administer(c, 1,
                            (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE,
                                                        .collection = &spec }),
                 VSHARD_OK);
    cluster_run(c, 1000 * MS);
    return c;
}

/* LIMIT rows, under an id. */
static struct cluster_answer *fill(struct cluster *c, uint64_t at, uint64_t id, uint32_t flags)
{
    const struct vshard_node_write more = { .flags = flags,
                                            .request = { 7, id },
                                            .timeout_ns = 3000 * MS };
    uint64_t tag = write_rows(c, at, 1, LIMIT, id, &more);
    struct cluster_answer *a;

    cr_assert_neq(tag, (uint64_t)0);
    a = cluster_wait(c, tag, 4000 * MS);
    cr_assert_not_null(a);
    cr_expect_eq(a->times, 1u);
    return a;
}

/* The first counts as written, wherever that is asked, and another does not. */
static void expect_one(struct cluster *c, const char *when)
{
    for (uint64_t at = 1; at <= 3; at++) {
        int status;

        if (c->node[at].node == NULL)
            continue;
        status = fill(c, at, 1, at == 1 ? VSHARD_WRITE_APPLIED : 0)->status;
        cr_expect_eq(status, VSHARD_OK, "%s, at node %d: %s", when, (int)at,
                     vshard_strerror(status));
        status = fill(c, at, 2, 0)->status;
        cr_expect_eq(status, VSHARD_E2BIG, "%s, at node %d: %s", when, (int)at,
                     vshard_strerror(status));
    }
    expect_rows(c, c->node[1].node != NULL ? 1 : 2, 1, LIMIT, 1);
}

Test(node_again, is_told_what_became_of_it)
{
    struct cluster *c = limited(VSHARD_FAMILY_FLAT);
    uint64_t leader, index;
    struct cluster_answer *a = fill(c, 1, 1, 0);

    cr_assert_eq(a->status, VSHARD_OK);
    index = a->positions[0].index;
    cluster_run(c, 100 * MS);
    expect_one(c, "at once");
    a = fill(c, 2, 1, 0);
    cr_assert_eq(a->position_count, 1u);
    cr_expect_geq(a->positions[0].index, index, "who reads from there on sees it");
    cluster_run(c, 20000 * MS);
    expect_one(c, "when the group has slept");
    leader = cluster_leader(c, "words", 0);
    cluster_kill(c, leader);
    cluster_run(c, 1000 * MS);
    expect_one(c, "when another leads");
    cr_assert_eq(cluster_start(c, leader), VSHARD_OK);
    for (uint64_t id = 1; id <= 3; id++)
        cluster_kill(c, id);
    for (uint64_t id = 1; id <= 3; id++)
        cr_assert_eq(cluster_start(c, id), VSHARD_OK);
    cluster_run(c, 2000 * MS);
    expect_one(c, "when all were started again");
    cluster_destroy(c);
}

/* What is staged counts as rows before it is applied. */
Test(node_again, is_told_before_it_is_applied)
{
    struct cluster *c = limited(VSHARD_FAMILY_HNSW);

    c->step_ns = 3 * MS; /* an item of work takes so long */
    cr_assert_eq(fill(c, 1, 1, 0)->status, VSHARD_OK);
    for (int i = 0; i < 40; i++) {
        int status = fill(c, (uint64_t)i % 3 + 1, 1, i % 2 ? VSHARD_WRITE_APPLIED : 0)->status;

        cr_expect_eq(status, VSHARD_OK, "%d: %s", i, vshard_strerror(status));
        cluster_run(c, MS / 2);
    }
    expect_one(c, "afterwards");
    cluster_destroy(c);
}

/* Nobody says that it is not written who may not know: one that has been cut off and believes
 * itself leader, while another leads who has it. */
Test(node_again, is_not_denied_by_who_was_cut_off)
{
    struct cluster *c = limited(VSHARD_FAMILY_FLAT);
    uint64_t leader = cluster_leader(c, "words", 0), client = leader % 3 + 1, tag;
    const struct vshard_node_write again = { .request = { 7, 1 }, .timeout_ns = 60 * MS };
    struct cluster_answer *a;

    /* Its rows are others. */
    tag = write_rows(c, client, 100, LIMIT / 2, 1, NULL);
    cr_assert_eq(cluster_wait(c, tag, 1000 * MS)->status, VSHARD_OK);
    c->node[leader].paused_until = c->now + 500 * MS;
    cluster_run(c, 450 * MS); /* others elect one of them */
    cr_assert_eq(fill(c, client, 1, 0)->status, VSHARD_E2BIG);
    tag = write_rows(c, client, 1, LIMIT / 2, 1, &again);
    a = cluster_wait(c, tag, 1000 * MS);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    c->node[leader].side = 1; /* what it was sent meanwhile is lost, and nobody has told it */
    tag = write_rows(c, leader, 1, LIMIT / 2 + 1, 1, &again);
    a = cluster_wait(c, tag, 1000 * MS);
    cr_assert_not_null(a);
    cr_expect_neq(a->status, VSHARD_OK);
    cr_expect_neq(a->status, VSHARD_E2BIG);
    cluster_destroy(c);
}
