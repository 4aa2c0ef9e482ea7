/* node_level.c - nodes of two versions of the library in one cluster.
 *
 * Method: nodes of this version and of the next, which has the same forms under other numbers
 * (lib/node/level.c). What is written is read in the logs, and what is refused is counted. The
 * rules of the map are tried on the map alone. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { NEXT = VS_LEVEL + 1 };

/* ---- the map's rules ---- */

static int32_t apply(struct vs_cluster *m, uint64_t index, struct vs_out *o)
{
    int rc = vs_cluster_apply(m, index, o->at, o->count);

    vs_out_free(o);
    return rc != VSHARD_OK ? rc : m->result[index % VS_RESULTS].status;
}

static int32_t node(struct vs_cluster *m, uint64_t index, uint64_t id, uint32_t level)
{
    struct vs_out o = { .allocator = NULL };

    vs_cmd_node(&o, id, 1, 0, level);
    return apply(m, index, &o);
}

static int32_t level(struct vs_cluster *m, uint64_t index, uint32_t to)
{
    struct vs_out o = { .allocator = NULL };

    vs_cmd_level(&o, to);
    return apply(m, index, &o);
}

Test(node_level, rises_when_all_know_it_and_never_falls)
{
    static struct vs_cluster m;

    vs_cluster_init(&m, NULL, NULL);
    m.known = NEXT;
    cr_expect_eq(node(&m, 1, 1, NEXT), VSHARD_OK);
    cr_expect_eq(node(&m, 2, 2, VS_LEVEL), VSHARD_OK);
    cr_expect_eq(level(&m, 3, NEXT), VSHARD_EBUSY, "one knows less");
    cr_expect_eq(m.level, 1u);
    cr_expect_eq(node(&m, 4, 2, NEXT), VSHARD_OK, "it is upgraded");
    cr_expect_eq(level(&m, 5, NEXT), VSHARD_OK);
    cr_expect_eq(m.level, (uint32_t)NEXT);
    cr_expect_eq(level(&m, 6, VS_LEVEL), VSHARD_EINVAL, "it does not fall");
    cr_expect_eq(node(&m, 7, 3, VS_LEVEL), VSHARD_EVERSION, "and who knows less is no member");
    cr_expect_eq(m.node_count, 2u);
    vs_cluster_fini(&m);
}

/* An announcement is no return of a node that is about to leave. */
Test(node_level, is_announced_by_a_node_that_leaves)
{
    static struct vs_cluster m;

    vs_cluster_init(&m, NULL, NULL);
    m.known = NEXT;
    node(&m, 1, 1, VS_LEVEL);
    m.leaving[0] = 1;
    cr_expect_eq(node(&m, 2, 1, NEXT), VSHARD_OK);
    cr_expect_eq(m.leaving[0], 1u);
    cr_expect_eq(m.announced[0], (uint32_t)NEXT);
    vs_cluster_fini(&m);
}

Test(node_level, that_a_replica_of_the_map_does_not_know_stops_it)
{
    static struct vs_cluster m, old;
    struct vs_out o = { .allocator = NULL };
    struct vs_in in;

    vs_cluster_init(&m, NULL, NULL);
    vs_cluster_init(&old, NULL, NULL);
    m.known = NEXT;
    node(&m, 1, 1, NEXT);
    node(&old, 1, 1, NEXT);
    cr_expect_eq(level(&m, 2, NEXT), VSHARD_OK);
    cr_expect_eq(level(&old, 2, NEXT), VSHARD_EVERSION, "in its log");
    vs_cluster_encode(&m, &o);
    in = (struct vs_in){ .at = o.at, .left = o.count };
    cr_expect_eq(vs_cluster_decode(&old, &in), VSHARD_EVERSION, "in a snapshot");
    in = (struct vs_in){ .at = o.at, .left = o.count };
    cr_expect_eq(vs_cluster_decode(&m, &in), VSHARD_OK);
    cr_expect_eq(m.level, (uint32_t)NEXT);
    cr_expect_eq(m.announced[0], (uint32_t)NEXT);
    vs_out_free(&o);
    vs_cluster_fini(&m);
    vs_cluster_fini(&old);
}

/* ---- clusters ---- */

static struct vshard_node_status status(struct cluster *c, uint64_t id)
{
    struct vshard_node_status s = { .size = sizeof s };

    vshard_node_status(c->node[id].node, &s);
    return s;
}

/* The apply format of the last batch in a replica's log. */
static uint32_t format(struct cluster *c, uint64_t id)
{
    struct vs_gathered g = { .limit = 1 << 20 };
    uint32_t last = 0;

    cr_assert_eq(vs_gather(c->node[id].node, 1, 1, &g), VSHARD_OK);
    for (uint32_t i = 0; i < g.count; i++) {
        if (g.entry[i].kind == VSHARD_RAFT_DATA && g.entry[i].count != 0)
            last = vs_load16(g.entry[i].data);
    }
    vs_gathered_free(&g);
    return last;
}

Test(node_level, of_what_is_written_is_what_all_nodes_know)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);

    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(status(c, id).level, (uint32_t)VS_LEVEL, "node %d", (int)id);
        cr_assert_eq(cluster_upgrade(c, id, NEXT), VSHARD_OK);
        cluster_run(c, 1500 * MS);
        written(c, id, 1, 10, 5 + id, 0);
        cluster_run(c, 200 * MS);
        for (uint64_t at = 1; at <= 3; at++)
            cr_expect_eq(format(c, at), vs_level_apply(id == 3 ? NEXT : VS_LEVEL),
                         "node %d after %d was upgraded", (int)at, (int)id);
        expect_rows(c, 4 - id, 1, 10, 5 + id);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(status(c, id).level, (uint32_t)NEXT, "node %d", (int)id);
        cr_expect_eq(status(c, id).frames_refused, 0u, "nobody was sent what it does not know");
    }
    cluster_destroy(c);
}

/* A node that is away is not counted on, whatever it has announced: it may come back as of
 * the old version. */
Test(node_level, does_not_rise_while_one_is_away)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);

    cr_assert_eq(cluster_upgrade(c, 3, NEXT), VSHARD_OK);
    cluster_run(c, 1500 * MS);
    cluster_kill(c, 3);
    cluster_run(c, 1000 * MS);
    for (uint64_t id = 1; id <= 2; id++) {
        cr_assert_eq(cluster_upgrade(c, id, NEXT), VSHARD_OK);
        cluster_run(c, 2000 * MS);
    }
    cr_expect_eq(status(c, 1).level, (uint32_t)VS_LEVEL);
    cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_expect_eq(status(c, 1).level, (uint32_t)NEXT);
    cluster_destroy(c);
}

Test(node_level, admits_no_node_that_knows_less)
{
    struct cluster *c = with_words(3, 4, 1, 3, NULL);

    for (uint64_t id = 1; id <= 3; id++)
        cluster_upgrade(c, id, NEXT);
    cluster_run(c, 2000 * MS);
    cr_assert_eq(status(c, 1).level, (uint32_t)NEXT);
    cluster_join(c, 4, 1);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(status(c, 1).nodes, 3u);
    cr_expect_eq(c->answer[4004].status, VSHARD_EVERSION, "it hears why, at once");
    cluster_kill(c, 4);
    c->node[4].level = NEXT;
    cluster_join(c, 4, 1);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(status(c, 1).nodes, 4u);
    cr_expect_eq(status(c, 4).level, (uint32_t)NEXT);
    cluster_destroy(c);
}
