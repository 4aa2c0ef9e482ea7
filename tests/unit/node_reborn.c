/* node_reborn.c - a founder whose replica has moved away, and comes back.
 *
 * Method: a shard of one replica is moved from its founder to another node, and back while
 * that other node stands still: nobody tells the founder that there is a log. It must not
 * begin one of its own. */
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
