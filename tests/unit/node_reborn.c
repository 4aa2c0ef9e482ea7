/* node_reborn.c - a founder whose replica has moved away, and comes back; and a node that comes
 * back with an empty directory.
 *
 * Method: a shard of one replica is moved from its founder to another node, and back while
 * that other node stands still: nobody tells the founder that there is a log. It must not
 * begin one of its own. A node without replicas asks for writes, loses its directory, and asks for
 * others while answers to the first are still on their way and nobody takes the new ones. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"

static void replace(struct cluster *c, uint64_t at, uint64_t from, uint64_t to)
{
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_REPLACE,
                                         .tag = next_tag++,
                                         .group = 1,
                                         .node = from,
                                         .to = to };

    cr_assert_eq(vshard_node_admin(c->node[at].node, c->now, &a), VSHARD_OK);
}

Test(node_reborn, is_not_born_again)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = with_words(3, 3, 1, 1, &o);
    uint64_t first = cluster_leader(c, "words", 0), second = first % 3 + 1, third = second % 3 + 1;

    written(c, third, 1, 20, 5, 0);
    replace(c, third, first, second);
    cluster_run(c, 8000 * MS);
    cr_assert_eq(cluster_leader(c, "words", 0), second);
    written(c, third, 21, 20, 5, 0);
    c->node[second].paused_until = c->now + 700 * MS;
    replace(c, third, second, first);
    cluster_run(c, 600 * MS);
    cr_expect_eq(cluster_leader(c, "words", 0), second, "nobody else can know the log");
    cluster_run(c, 10000 * MS);
    cr_expect_eq(cluster_leader(c, "words", 0), first);
    written(c, third, 41, 10, 5, 0);
    expect_rows(c, third, 1, 50, 5);
    cluster_destroy(c);
}

static bool knows_words(struct cluster *c, uint64_t id)
{
    struct vshard_collection spec = { .size = sizeof spec };

    return vshard_node_collection(c->node[id].node, "words", &spec) == VSHARD_OK;
}

/* Numbers of requests are not used again: what was acknowledged is what was asked. */
Test(node_reborn, is_not_told_what_it_asked_before)
{
    enum { WRITES = 40 };
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 4, 1, 3, &o);
    uint64_t tag[WRITES];
    const struct vshard_node_write soon = { .timeout_ns = 400 * MS };

    cluster_join(c, 4, 1);
    cluster_run(c, 3000 * MS);
    cr_assert(knows_words(c, 4));
    c->repeat_per_mille = 1000; /* up to half a second later */
    for (int i = 0; i < WRITES; i++)
        tag[i] = write_rows(c, 4, 1, 5, 5, NULL);
    cluster_run(c, 5 * MS);
    for (int i = 0; i < WRITES; i++)
        cr_assert(c->answer[tag[i]].times == 1 && c->answer[tag[i]].status == VSHARD_OK);
    c->repeat_per_mille = 0;
    cluster_kill(c, 4);
    cluster_join(c, 4, 1);
    for (int i = 0; i < 400 && !knows_words(c, 4); i++)
        cluster_run(c, MS);
    cr_assert(knows_words(c, 4));
    for (uint64_t id = 1; id <= 3; id++)
        c->node[id].paused_until = c->now + 1000 * MS;
    for (int i = 0; i < WRITES; i++)
        tag[i] = write_rows(c, 4, 1, 5, 6, &soon);
    cluster_run(c, 450 * MS);
    for (int i = 0; i < WRITES; i++) {
        struct cluster_answer *a = &c->answer[tag[i]];

        cr_expect_eq(a->times, 1u);
        cr_expect_eq(a->status, VSHARD_ETIMEDOUT, "write %d: %s", i, vshard_strerror(a->status));
    }
    cluster_destroy(c);
}
