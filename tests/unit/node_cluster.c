/* node_cluster.c - a cluster of nodes as its hosts see it: collections, writes, searches,
 * fetches, leaders that die.
 *
 * Method: five nodes over an array as network and storage in memory, on virtual time
 * (support/cluster.h). What was acknowledged is kept in an array by key, and every answer
 * is compared with it. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/cluster.h"
#include "support/random.h"

#define MS CLUSTER_MS

enum { DIM = 8, ROWS = 300 };

static uint64_t next_tag = 1;

static void vector_of(float *v, uint64_t key, uint64_t salt)
{
    uint64_t state = key * 7919 + salt;

    for (int i = 0; i < DIM; i++)
        v[i] = random_float(&state);
}

static struct cluster *five(const struct vshard_node_options *o)
{
    struct cluster *c = cluster_create(5, 5, 1, o);

    cluster_run(c, 1500 * MS);
    return c;
}

static void create(struct cluster *c, uint64_t at, const char *name, uint32_t shards,
                   uint32_t replicas)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = VSHARD_FAMILY_FLAT,
                                            .shards = shards,
                                            .replicas = replicas,
                                            .attributes = 1,
                                            .name = name };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = next_tag++, .collection = &spec
    };
    struct cluster_answer *answer;

    cr_assert_eq(vshard_node_admin(c->node[at].node, c->now, &a), VSHARD_OK);
    answer = cluster_wait(c, a.tag, 5000 * MS);
    cr_assert_not_null(answer, "no answer to create");
    cr_assert_eq(answer->status, VSHARD_OK, "%s", vshard_strerror(answer->status));
}

static uint64_t write_rows(struct cluster *c, uint64_t at, uint64_t first, uint32_t count,
                           uint64_t salt, uint32_t flags)
{
    struct vshard_key *keys = calloc(count, sizeof *keys);
    float *vectors = calloc((size_t)count * DIM, sizeof *vectors);
    int64_t *attributes = calloc(count, sizeof *attributes);
    struct vshard_node_write w = { .size = sizeof w,
                                   .flags = flags,
                                   .count = count,
                                   .tag = next_tag++,
                                   .collection = "words",
                                   .keys = keys,
                                   .vectors = vectors,
                                   .attributes = attributes };
    int rc;

    for (uint32_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, first + i };
        vector_of(vectors + (size_t)i * DIM, first + i, salt);
        attributes[i] = (int64_t)((first + i) % 10);
    }
    rc = vshard_node_write(c->node[at].node, c->now, &w);
    cr_assert_eq(rc, VSHARD_OK, "%s", vshard_strerror(rc));
    free(keys);
    free(vectors);
    free(attributes);
    return w.tag;
}

static struct cluster_answer *written(struct cluster *c, uint64_t tag)
{
    struct cluster_answer *a = cluster_wait(c, tag, 10000 * MS);

    cr_assert_not_null(a, "no answer to a write");
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    return a;
}

static struct cluster_answer *search(struct cluster *c, uint64_t at,
                                     const struct vshard_node_search *more, uint64_t key,
                                     uint64_t salt)
{
    struct vshard_node_search s = *more;
    float query[DIM];

    vector_of(query, key, salt);
    s.size = sizeof s;
    s.k = s.k ? s.k : 3;
    s.tag = next_tag++;
    s.collection = "words";
    s.query = query;
    cr_assert_eq(vshard_node_search(c->node[at].node, c->now, &s), VSHARD_OK);
    return cluster_wait(c, s.tag, 10000 * MS);
}

Test(node_cluster, finds_what_was_written_from_every_node)
{
    struct cluster *c = five(NULL);
    struct vshard_node_search any = { .k = 3 };

    create(c, 2, "words", 4, 3);
    written(c, write_rows(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED));
    cluster_run(c, 500 * MS);
    for (uint64_t at = 1; at <= 5; at++) {
        for (uint64_t key = 1; key <= ROWS; key += 37) {
            struct cluster_answer *a = search(c, at, &any, key, 5);

            cr_assert_not_null(a);
            cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
            cr_assert_eq(a->shards_answered, 4u);
            cr_assert_eq(a->hit_count, 3u);
            cr_assert_eq(a->hits[0].key.lo, key);
            cr_assert(a->hits[0].distance < 1e-6f);
            cr_assert_eq(a->rows, (uint64_t)ROWS);
        }
    }
    cluster_destroy(c);
}

Test(node_cluster, goes_on_when_a_leader_dies_and_loses_nothing)
{
    struct cluster *c = five(NULL);
    struct vshard_node_search fresh = { .consistency = VSHARD_READ_LINEARIZABLE,
                                        .timeout_ns = 5000 * MS };
    uint64_t leader, router, before, tag;

    create(c, 1, "words", 4, 3);
    written(c, write_rows(c, 1, 1, ROWS, 5, 0));
    leader = cluster_leader(c, "words", 2);
    cr_assert_neq(leader, (uint64_t)0);
    router = leader == 1 ? 2 : 1;
    cluster_kill(c, leader);
    before = c->now;
    tag = write_rows(c, router, 1, ROWS, 6, 0);
    written(c, tag);
    cr_assert_lt((c->answer[tag].at_ns - before) / MS, (uint64_t)1000);
    for (uint64_t key = 1; key <= ROWS; key += 29) {
        struct cluster_answer *a = search(c, router, &fresh, key, 6);

        cr_assert_not_null(a);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->hits[0].key.lo, key);
        cr_assert(a->hits[0].distance < 1e-6f);
    }
    cr_assert_eq(cluster_start(c, leader), VSHARD_OK);
    cluster_run(c, 3000 * MS);
    for (uint64_t key = 1; key <= ROWS; key += 29) {
        struct cluster_answer *a = search(c, leader, &fresh, key, 6);

        cr_assert_not_null(a);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->hits[0].key.lo, key);
    }
    cluster_destroy(c);
}
