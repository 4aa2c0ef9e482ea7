/* node_remove.c - a node is removed, and nobody else in its stead.
 *
 * Method: the rules of the map are tried on the map alone, with commands as they are written and as
 * they were before. Then a node is removed, comes back with an empty directory, and who removed it
 * asks again, as after an outcome that was not known; or what it asked before comes late. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

static int32_t apply(struct vs_cluster *m, uint64_t index, struct vs_out *o)
{
    int rc = vs_cluster_apply(m, index, o->at, o->count);

    vs_out_free(o);
    return rc != VSHARD_OK ? rc : m->result[index % VS_RESULTS].status;
}

static int32_t node(struct vs_cluster *m, uint64_t index, uint64_t id, uint64_t incarnation)
{
    struct vs_out o = { .allocator = NULL };

    vs_cmd_node(&o, id, incarnation, 0, VS_LEVEL);
    return apply(m, index, &o);
}

static int32_t removal(struct vs_cluster *m, uint64_t index, uint64_t id, uint64_t incarnation)
{
    struct vs_out o = { .allocator = NULL };

    vs_cmd_node_remove(&o, id, incarnation);
    return apply(m, index, &o);
}

static int32_t cut_short(struct vs_cluster *m, uint64_t index, size_t count)
{
    struct vs_out o = { .allocator = NULL };

    vs_cmd_node_remove(&o, 2, 70);
    o.count = count;
    return apply(m, index, &o);
}

Test(node_remove, is_of_the_incarnation_that_is_named)
{
    static struct vs_cluster m;

    vs_cluster_init(&m, NULL, NULL);
    node(&m, 1, 1, 1);
    node(&m, 2, 2, 70);
    cr_expect_eq(removal(&m, 3, 2, 69), VSHARD_ESTALE);
    cr_expect_eq(removal(&m, 4, 2, 0), VSHARD_ESTALE, "whoever asked did not know it");
    cr_expect_eq(removal(&m, 5, 9, 1), VSHARD_ENOTFOUND);
    cr_expect(!m.settled);
    cr_assert_eq(m.node_count, 2u);
    cr_expect_eq(removal(&m, 6, 2, 70), VSHARD_OK);
    cr_expect_eq(m.node_count, 1u);
    cr_expect_eq(removal(&m, 7, 2, 70), VSHARD_ENOTFOUND, "again");
    node(&m, 8, 2, 71);
    cr_expect_eq(removal(&m, 9, 2, 70), VSHARD_ESTALE, "and when it has come back");
    cr_expect_eq(m.node_count, 2u);
    vs_cluster_fini(&m);
}

/* They named none, and meant whichever there was. */
Test(node_remove, is_read_in_logs_of_before)
{
    static struct vs_cluster m;

    vs_cluster_init(&m, NULL, NULL);
    node(&m, 1, 1, 1);
    node(&m, 2, 2, 70);
    for (size_t count = 13; count < 20; count++)
        cr_expect_eq(cut_short(&m, 3, count), VSHARD_EINVAL, "%zu bytes", count);
    cr_assert_eq(m.node_count, 2u);
    cr_expect_eq(cut_short(&m, 4, 12), VSHARD_OK);
    cr_expect_eq(m.node_count, 1u);
    vs_cluster_fini(&m);
}

/* What was asked for before a node was given up, and comes late, is not done any more. */
Test(node_remove, is_for_good)
{
    static struct vs_cluster m, copy;
    struct vs_out o = { .allocator = NULL };
    struct vs_in in;

    vs_cluster_init(&m, NULL, NULL);
    vs_cluster_init(&copy, NULL, NULL);
    node(&m, 1, 1, 1);
    node(&m, 2, 2, 70);
    cr_expect_eq(node(&m, 3, 2, 70), VSHARD_OK, "again");
    cr_expect_eq(node(&m, 4, 2, 71), VSHARD_OK, "it has come back");
    cr_expect_eq(node(&m, 5, 2, 70), VSHARD_ESTALE);
    cr_expect_eq(m.node[1].incarnation, (uint64_t)71);
    cr_expect_eq(removal(&m, 6, 2, 71), VSHARD_OK);
    cr_expect_eq(node(&m, 7, 2, 71), VSHARD_ESTALE);
    cr_expect_eq(node(&m, 8, 2, 70), VSHARD_ESTALE);
    cr_expect_eq(m.node_count, 1u);
    vs_cluster_encode(&m, &o);
    in = (struct vs_in){ .at = o.at, .left = o.count };
    cr_assert_eq(vs_cluster_decode(&copy, &in), VSHARD_OK);
    cr_expect_eq(node(&copy, 9, 2, 71), VSHARD_ESTALE, "who has a copy knows it, too");
    cr_expect_eq(node(&copy, 10, 2, 72), VSHARD_OK);
    /* Of those that were given up the last are known. */
    for (uint64_t i = 0; i < VS_FORMER; i++)
        cr_assert_eq(node(&m, 11 + i, 3, 100 + i), VSHARD_OK);
    cr_expect_eq(m.former_count, (uint32_t)VS_FORMER);
    cr_expect_eq(node(&m, 200, 3, 100), VSHARD_ESTALE);
    vs_out_free(&o);
    vs_cluster_encode(&m, &o);
    for (size_t cut = 1; cut < o.count; cut++) {
        in = (struct vs_in){ .at = o.at, .left = o.count - cut };
        cr_expect_neq(vs_cluster_decode(&copy, &in), VSHARD_OK, "cut by %zu", cut);
    }
    vs_out_free(&o);
    vs_cluster_fini(&copy);
    vs_cluster_fini(&m);
}

static uint64_t incarnation(struct cluster *c, uint64_t id)
{
    struct vshard_peer_status p[CLUSTER_NODES];
    size_t count;

    cr_assert_eq(vshard_node_peers(c->node[1].node, p, CLUSTER_NODES, &count), VSHARD_OK);
    for (size_t i = 0; i < count; i++) {
        if (p[i].node == id)
            return p[i].incarnation;
    }
    return 0;
}

static void come(struct cluster *c, uint64_t id)
{
    cluster_kill(c, id);
    cluster_join(c, id, 1);
    cluster_run(c, 3000 * MS);
    cr_assert_neq(incarnation(c, id), (uint64_t)0, "it is no member");
}

static void come_and_go(struct cluster *c)
{
    struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = 4 };
    uint64_t first, second;

    come(c, 4);
    first = incarnation(c, 4);
    leave.incarnation = first;
    cr_assert_eq(administer(c, 2, leave), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(incarnation(c, 4), (uint64_t)0);
    cr_expect_eq(administer(c, 2, leave), VSHARD_ENOTFOUND, "it has left");
    come(c, 4);
    second = incarnation(c, 4);
    cr_assert_neq(second, first);
    for (uint64_t at = 1; at <= 3; at++)
        cr_expect_eq(administer(c, at, leave), VSHARD_ESTALE, "at node %d", (int)at);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(incarnation(c, 4), second, "it is still there");
    leave.incarnation = 0;
    cr_expect_eq(administer(c, 3, leave), VSHARD_OK, "who names none means who is there");
    cluster_run(c, 3000 * MS);
    cr_expect_eq(incarnation(c, 4), (uint64_t)0);
}

Test(node_remove, that_is_asked_for_again_spares_who_has_come_back)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 4, 1, 3, &o);

    come_and_go(c);
    cluster_destroy(c);
    c = cluster_create_hosted(3, 4, 1, &o);
    cluster_run(c, 3000 * MS);
    come_and_go(c);
    cluster_destroy(c);
}

/* Nobody leads the map while it is asked; when somebody does, the node is another. */
Test(node_remove, that_had_to_wait_spares_who_has_come_back)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 4, 1, 3, &o);
    const struct vshard_node_admin leave = { .size = sizeof leave,
                                             .op = VSHARD_ADMIN_REMOVE_NODE,
                                             .tag = next_tag++,
                                             .timeout_ns = 20000 * MS,
                                             .node = 4 };
    uint64_t first;

    come(c, 4);
    first = incarnation(c, 4);
    c->node[1].side = 1; /* it hears nobody, and asks again and again */
    cluster_run(c, 2000 * MS);
    cr_assert_eq(vshard_node_admin(c->node[1].node, c->now, &leave), VSHARD_OK);
    cluster_kill(c, 4);
    cluster_join(c, 4, 2);
    cluster_run(c, 3000 * MS);
    c->node[1].side = 0;
    cr_assert_not_null(cluster_wait(c, leave.tag, 20000 * MS));
    cr_expect_eq(c->answer[leave.tag].status, VSHARD_ESTALE);
    cluster_run(c, 3000 * MS);
    cr_expect(incarnation(c, 4) != 0 && incarnation(c, 4) != first);
    cluster_destroy(c);
}

/* As a frame that a node sent when it had this incarnation. */
static void late_join(struct cluster *c, uint64_t at, uint64_t id, uint64_t incarnation)
{
    unsigned char join[8];
    struct vs_in in = { .at = join, .left = sizeof join };

    vs_store32(join, 0);
    vs_store32(join + 4, VS_LEVEL);
    vs_join_take(c->node[at].node, id, incarnation, &in);
    cluster_run(c, 500 * MS);
}

Test(node_remove, is_not_undone_by_a_late_frame)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = 4 };
    struct cluster *c = with_words(3, 4, 1, 3, &o);
    uint64_t first, second;

    come(c, 4);
    first = incarnation(c, 4);
    come(c, 4);
    second = incarnation(c, 4);
    cr_assert_neq(second, first);
    for (uint64_t at = 1; at <= 3; at++) {
        late_join(c, at, 4, first);
        cr_expect_eq(incarnation(c, 4), second, "at node %d", (int)at);
    }
    cr_assert_eq(administer(c, 2, leave), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(incarnation(c, 4), (uint64_t)0);
    for (uint64_t at = 1; at <= 3; at++) {
        late_join(c, at, 4, second);
        late_join(c, at, 4, first);
        cr_expect_eq(incarnation(c, 4), (uint64_t)0, "at node %d", (int)at);
    }
    come(c, 4);
    cr_expect(incarnation(c, 4) != first && incarnation(c, 4) != second);
    cluster_destroy(c);
}

/* It knows why after a moment, and not by its timeout. */
Test(node_remove, sends_who_asks_with_an_old_directory_away)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = 4 };
    struct vshard_node_admin join = { .op = VSHARD_ADMIN_JOIN, .node = 2 };
    struct cluster *c = with_words(3, 4, 1, 3, &o);

    come(c, 4);
    cr_assert_eq(administer(c, 2, leave), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(incarnation(c, 4), (uint64_t)0);
    cr_expect_eq(administer(c, 4, join), VSHARD_ESTALE);
    cluster_destroy(c);
}

Test(node_remove, makes_room_for_another)
{
    enum { LAST = VSHARD_NODES_MAX + 1 };
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = 9 };
    struct vshard_node_admin join = { .op = VSHARD_ADMIN_JOIN, .node = 3 };
    struct cluster *c = cluster_create(VSHARD_NODES_MAX, LAST, 1, &o);

    cluster_run(c, 3000 * MS);
    cluster_join(c, LAST, 2);
    cluster_run(c, 100 * MS);
    cr_expect_eq(c->answer[4000 + LAST].status, VSHARD_E2BIG);
    cr_expect_eq(administer(c, LAST, join), VSHARD_E2BIG);
    cr_assert_eq(administer(c, 2, leave), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_expect_eq(administer(c, LAST, join), VSHARD_OK);
    cluster_destroy(c);
}
