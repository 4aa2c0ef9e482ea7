/* node_alter.c - collections that are altered: what may be changed, what follows from it, and
 * what may not.
 *
 * Method: a cluster over an array as network (support/cluster.h). After each change every node
 * must know it, rows must be where they were, and members as many as were asked for. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"

enum { ROWS = 60 };

static void alter(struct cluster *c, uint64_t at, const struct vshard_collection *to)
{
    struct vshard_collection spec = *to;
    int rc;

    spec.size = sizeof spec;
    spec.name = "words";
    rc = administer(c, at,
                    (struct vshard_node_admin){ .op = VSHARD_ADMIN_ALTER, .collection = &spec });
    cr_assert_eq(rc, VSHARD_OK, "%s", vshard_strerror(rc));
}

static struct vshard_collection spec_at(struct cluster *c, uint64_t at)
{
    struct vshard_collection spec = { .size = sizeof spec };

    cr_assert_eq(vshard_node_collection(c->node[at].node, "words", &spec), VSHARD_OK);
    return spec;
}

Test(node_alter, changes_effort_and_limit_for_every_node_and_over_restarts)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    const struct vshard_collection change = { .ef_search = 77, .max_rows = 40 };
    const struct vshard_collection open = { .max_rows = UINT64_MAX };
    uint64_t tag;

    alter(c, 2, &change);
    cluster_run(c, 1000 * MS);
    cluster_kill(c, 3);
    cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
    cluster_run(c, 2000 * MS);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(spec_at(c, id).ef_search, 77u, "node %d", (int)id);
        cr_expect_eq(spec_at(c, id).max_rows, (uint64_t)40);
        cr_expect_eq(spec_at(c, id).replicas, 3u);
    }
    tag = write_rows(c, 1, 1, 2 * ROWS, 5, NULL);
    cr_assert_neq(tag, (uint64_t)0);
    cr_assert_eq(cluster_wait(c, tag, 8000 * MS)->status, VSHARD_E2BIG);
    alter(c, 1, &open);
    cr_expect_eq(spec_at(c, 1).max_rows, (uint64_t)0);
    cr_expect_eq(spec_at(c, 1).ef_search, 77u, "0 leaves it");
    written(c, 1, 1, 2 * ROWS, 5, 0);
    cluster_destroy(c);
}

static bool members_are(struct cluster *c, uint32_t count)
{
    struct vshard_shard_status s[2];
    size_t shards;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", s, 2, &shards), VSHARD_OK);
    return s[0].member_count == count && s[1].member_count == count;
}

static void wait_for_members(struct cluster *c, uint32_t count)
{
    for (int i = 0; i < 200 && !members_are(c, count); i++)
        cluster_run(c, 100 * MS);
    cr_assert(members_are(c, count), "%u replicas", count);
    cluster_run(c, 3000 * MS); /* the groups follow the map */
}

static uint32_t replicas_at(struct cluster *c, uint64_t at)
{
    struct vshard_node_status s = { .size = sizeof s };

    cr_assert_eq(vshard_node_status(c->node[at].node, &s), VSHARD_OK);
    return s.replicas;
}

Test(node_alter, gives_shards_more_replicas_and_takes_them_again)
{
    struct cluster *c = with_words(5, 5, 2, 3, NULL);
    struct vshard_collection change = { .replicas = 5 };
    uint32_t sum = 0;

    written(c, 1, 1, ROWS, 5, 0);
    alter(c, 1, &change);
    wait_for_members(c, 5);
    for (uint64_t id = 1; id <= 5; id++)
        cr_expect_eq(replicas_at(c, id), 2u, "node %d", (int)id);
    /* Two may die now, whichever they are. */
    cluster_kill(c, 2);
    cluster_kill(c, 4);
    cluster_run(c, 2000 * MS);
    expect_rows(c, 1, 1, ROWS, 5);
    cr_assert_eq(cluster_start(c, 2), VSHARD_OK);
    cr_assert_eq(cluster_start(c, 4), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    change.replicas = 2;
    alter(c, 3, &change);
    wait_for_members(c, 2);
    for (uint64_t id = 1; id <= 5; id++)
        sum += replicas_at(c, id);
    cr_expect_eq(sum, 4u);
    expect_rows(c, 5, 1, ROWS, 5);
    written(c, 4, 1, ROWS, 6, 0);
    expect_rows(c, 5, 1, ROWS, 6);
    cluster_destroy(c);
}

static char named[64];

static void on_event(void *ctx, uint32_t level, const char *name,
                     const struct vshard_log_field *fields, size_t field_count)
{
    (void)ctx;
    (void)level;
    if (strcmp(name, "node.refused") == 0 && field_count != 0 && fields[0].text != NULL)
        snprintf(named, sizeof named, "%s", fields[0].text);
}

static int refused(struct cluster *c, const char *name, const struct vshard_collection *to)
{
    struct vshard_collection spec = *to;
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_ALTER, .tag = 99, .collection = &spec
    };

    named[0] = 0;
    spec.size = sizeof spec;
    spec.name = name;
    return vshard_node_admin(c->node[1].node, c->now, &a);
}

Test(node_alter, refuses_what_was_made_with_the_collection_and_names_it)
{
    const struct vshard_logger logger = { on_event, NULL };
    struct vshard_node_options o = { .logger = &logger };
    struct cluster *c = with_words(3, 3, 2, 3, &o);
    const struct vshard_attribute others[WORDS_ATTRIBUTES] = { { VSHARD_ATTRIBUTE_INT64, "x" } };
    const struct {
        const char *name;
        struct vshard_collection to;
        int status;
    } cases[] = {
        { "dim", { .dim = DIM + 1 }, VSHARD_EINVAL },
        { "metric", { .metric = VSHARD_METRIC_COSINE }, VSHARD_EINVAL },
        { "element", { .element = VSHARD_ELEMENT_U8 }, VSHARD_EINVAL },
        { "m", { .m = 8 }, VSHARD_EINVAL },
        { "ef_construction", { .ef_construction = 80 }, VSHARD_EINVAL },
        { "train_rows", { .train_rows = 300 }, VSHARD_EINVAL },
        { "profile", { .profile = VSHARD_PROFILE_LEAN }, VSHARD_EINVAL },
        { "shards", { .shards = 3 }, VSHARD_EINVAL },
        { "attribute_count", { .attribute_count = 1 }, VSHARD_EINVAL },
        { "attributes",
          { .attribute_count = WORDS_ATTRIBUTES, .attributes = others },
          VSHARD_EINVAL },
        { "seed", { .seed = 5 }, VSHARD_EINVAL },
        { "ef_search", { .ef_search = VSHARD_EF_MAX + 1 }, VSHARD_EINVAL },
        { "replicas", { .replicas = VSHARD_REPLICAS_MAX + 1 }, VSHARD_E2BIG },
        { "replicas", { .replicas = 4 }, VSHARD_EBUSY },
    };
    struct vshard_collection same = { .size = sizeof same };
    const struct vshard_node_admin none = { .size = sizeof none, .op = VSHARD_ADMIN_ALTER };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(refused(c, "words", &cases[i].to), cases[i].status, "%s", cases[i].name);
        cr_expect_str_eq(named, cases[i].name);
    }
    cr_expect_eq(refused(c, "none", &same), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_node_admin(c->node[1].node, c->now, &none), VSHARD_EINVAL);
    same = spec_at(c, 1); /* what it is, one may say */
    alter(c, 1, &same);
    cr_expect_eq(c->answer[99].times, 0u);
    cluster_destroy(c);
}

/* What was left to the library is said, and stays, whatever a later one would take. */
Test(node_alter, knows_what_a_collection_was_made_with)
{
    struct cluster *c = cluster_create(3, 3, 1, NULL);
    const struct vshard_collection spec = { .size = sizeof spec, .dim = DIM, .name = "words" };
    struct vshard_collection made;

    cluster_run(c, 1500 * MS);
    cr_assert_eq(administer(c, 1,
                            (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE,
                                                        .collection = &spec }),
                 VSHARD_OK);
    cluster_run(c, 500 * MS);
    made = spec_at(c, 3);
    cr_expect_eq(made.m, 32u);
    cr_expect_eq(made.ef_construction, 200u);
    cr_expect_eq(made.ef_search, 100u);
    cr_expect_gt(made.train_rows, 0u);
    cr_expect_eq(made.shards, 1u);
    cr_expect_eq(made.replicas, 3u);
    alter(c, 2, &(struct vshard_collection){ .m = 32, .ef_construction = 200 });
    cluster_destroy(c);
}
