/* node_hosted.c - a cluster whose map is in a store of the host's.
 *
 * Method: nodes of cluster.h around a store in memory with compare-and-swap; what one node is
 * told of the map by a wrong host, it refuses with a status. Each byte of a map is flipped and
 * each length is cut; bytes under a right checksum that make no sense are refused, too. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/fault_alloc.h"
#include "support/lone_node.h"

static struct cluster *hosted(uint32_t founders, uint32_t count, uint32_t shards)
{
    struct cluster *c = cluster_create_hosted(founders, count, 1, NULL);
    struct cluster_answer *a;

    cluster_run(c, 1500 * MS);
    a = create(c, 1, shards, 3);
    cr_assert_not_null(a, "no answer to create");
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cluster_run(c, 1000 * MS);
    return c;
}

static struct vshard_node_status status(struct cluster *c, uint64_t id)
{
    struct vshard_node_status s = { .size = sizeof s };

    vshard_node_status(c->node[id].node, &s);
    return s;
}

Test(node_hosted, nodes_are_written_down_and_serve)
{
    struct cluster *c = hosted(3, 3, 2);

    written(c, 1, 1, 30, 5, 0);
    expect_rows(c, 2, 1, 30, 5);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(status(c, id).map_index, c->map_version, "node %d", (int)id);
        cr_expect_eq(status(c, id).nodes, 3u);
        cr_expect_eq(status(c, id).map_last, 0u, "there is no group of the map");
    }
    cluster_destroy(c);
}

Test(node_hosted, all_come_back_from_a_power_cut)
{
    struct cluster *c = hosted(3, 3, 2);

    written(c, 1, 1, 30, 5, 0);
    for (uint64_t id = 1; id <= 3; id++)
        cluster_kill(c, id);
    for (uint64_t id = 1; id <= 3; id++)
        cr_assert_eq(cluster_start(c, id), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    expect_rows(c, 3, 1, 30, 5);
    written(c, 2, 1, 30, 6, 0);
    expect_rows(c, 1, 1, 30, 6);
    cluster_destroy(c);
}

/* Shards do not need the store; changes of the map wait for it. */
Test(node_hosted, goes_on_while_the_store_is_away)
{
    const struct vshard_node_admin drop = {
        .size = sizeof drop, .op = VSHARD_ADMIN_DROP, .name = "words", .tag = 3900
    };
    struct cluster *c = hosted(3, 3, 2);

    c->store_away = 1;
    cr_assert_eq(vshard_node_admin(c->node[1].node, c->now, &drop), VSHARD_OK);
    written(c, 1, 1, 30, 5, 0);
    expect_rows(c, 2, 1, 30, 5);
    cr_expect_eq(c->answer[3900].times, 0u);
    c->store_away = 0;
    cluster_run(c, 1000 * MS);
    cr_expect_eq(c->answer[3900].times, 1u);
    cr_expect_eq(c->answer[3900].status, VSHARD_OK);
    cr_expect_eq(status(c, 3).collections, 0u);
    cluster_destroy(c);
}

/* Each asks for another collection, at once: all are there, one version each. */
Test(node_hosted, changes_of_one_moment_are_ordered_by_the_store)
{
    static const char *const names[] = { "a", "b", "c" };
    struct cluster *c = hosted(3, 3, 1);
    uint64_t before = c->map_version;

    for (uint64_t id = 1; id <= 3; id++) {
        const struct vshard_collection spec = { .size = sizeof spec,
                                                .dim = DIM,
                                                .name = names[id - 1] };
        const struct vshard_node_admin a = {
            .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 3900 + id, .collection = &spec
        };

        cr_assert_eq(vshard_node_admin(c->node[id].node, c->now, &a), VSHARD_OK);
    }
    cluster_run(c, 2000 * MS);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(c->answer[3900 + id].times, 1u);
        cr_expect_eq(c->answer[3900 + id].status, VSHARD_OK, "%s", names[id - 1]);
        cr_expect_eq(status(c, id).collections, 4u);
    }
    cr_expect_eq(c->map_version, before + 3);
    cluster_destroy(c);
}

Test(node_hosted, a_lost_node_is_replaced)
{
    const struct vshard_node_options o = { .replace_ns = 2000 * MS };
    struct cluster *c = cluster_create_hosted(4, 4, 1, &o);
    struct vshard_shard_status s;
    size_t count;
    bool there = false;

    cluster_run(c, 1500 * MS);
    cr_assert_eq(create(c, 1, 1, 3)->status, VSHARD_OK);
    cluster_run(c, 1000 * MS);
    written(c, 1, 1, 30, 5, 0);
    cluster_kill(c, 1); /* which did what the map's leader does */
    cluster_run(c, 8000 * MS);
    cr_assert_eq(vshard_node_shards(c->node[2].node, "words", &s, 1, &count), VSHARD_OK);
    for (uint32_t i = 0; i < s.member_count; i++)
        there |= s.members[i] == 1;
    cr_expect_not(there);
    cr_expect_eq(s.member_count, 3u);
    expect_rows(c, 4, 1, 30, 5);
    cluster_destroy(c);
}

/* ---- a host that is wrong ---- */

static int give(struct cluster *c, uint64_t id, const void *bytes, size_t count)
{
    return vshard_node_map(c->node[id].node, c->now, bytes, count);
}

static void sum(unsigned char *map, size_t bytes)
{
    vs_store64(map + bytes - 8, vs_checksum(map, bytes - 8, 0));
}

Test(node_hosted, a_map_that_is_stale_or_another_is_refused)
{
    struct cluster *c = hosted(3, 3, 1);
    size_t count = c->map_bytes;
    unsigned char *old = malloc(count), *map = malloc(count);
    const struct vshard_node_admin drop = {
        .size = sizeof drop, .op = VSHARD_ADMIN_DROP, .name = "words", .tag = 3900
    };

    memcpy(old, c->map, count);
    memcpy(map, c->map, count);
    cr_expect_eq(give(c, 1, map, count), VSHARD_OK, "what it knows");
    map[8] ^= 1;
    sum(map, count);
    cr_expect_eq(give(c, 1, map, count), VSHARD_ENOTFOUND, "of another cluster");
    memcpy(map, old, count);
    vs_store32(map + 40 + 32, 1 - vs_load32(map + 40 + 32)); /* `settled`, of the state */
    sum(map, count);
    cr_expect_eq(give(c, 1, map, count), VSHARD_EEXIST, "another of this version");
    cr_expect_eq(give(c, 1, NULL, 0), VSHARD_ESTALE, "none");
    cr_expect_eq(give(c, 1, NULL, 1), VSHARD_EINVAL);
    vshard_node_admin(c->node[1].node, c->now, &drop);
    cluster_run(c, 500 * MS);
    cr_assert_eq(c->answer[3900].status, VSHARD_OK);
    cr_expect_eq(give(c, 1, old, count), VSHARD_ESTALE);
    cr_expect_eq(status(c, 1).collections, 0u, "and nothing has changed");
    cr_expect_eq(vshard_node_map_put(c->node[1].node, c->now, 99, 0), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_node_map_put(c->node[1].node, c->now, 0, 0), VSHARD_ENOTFOUND);
    free(old);
    free(map);
    cluster_destroy(c);
}

Test(node_hosted, no_byte_may_differ_and_none_be_missing)
{
    struct cluster *c = hosted(3, 3, 1);
    size_t count = c->map_bytes;
    unsigned char *map = malloc(count + 1);
    struct vshard_key of;
    uint64_t version;

    memcpy(map, c->map, count);
    map[count] = 0;
    cr_assert_eq(vshard_node_map_read(map, count, &of, &version), VSHARD_OK);
    cr_expect_eq(version, c->map_version);
    cr_expect(of.hi == 0xc1 && of.lo == 0x57e2);
    cr_expect_eq(vshard_node_map_read(map, count + 1, &of, &version), VSHARD_ECORRUPT);
    for (size_t i = 0; i < count; i++) {
        unsigned char *cut = malloc(i + 1); /* so that a sanitizer sees reads beyond */

        memcpy(cut, map, i);
        cr_expect_eq(vshard_node_map_read(cut, i, &of, &version), VSHARD_ECORRUPT, "cut at %zu", i);
        if (i != 0)
            cr_expect_eq(give(c, 1, cut, i), VSHARD_ECORRUPT, "cut at %zu", i);
        free(cut);
        for (int bit = 0; bit < 8; bit++) {
            int rc;

            map[i] ^= (unsigned char)(1 << bit);
            rc = vshard_node_map_read(map, count, &of, &version);
            cr_expect(rc == VSHARD_ECORRUPT || (rc == VSHARD_EVERSION && (i == 6 || i == 7)),
                      "byte %zu", i);
            cr_expect_neq(give(c, 1, map, count), VSHARD_OK, "byte %zu", i);
            map[i] ^= (unsigned char)(1 << bit);
        }
    }
    cr_expect_eq(give(c, 1, map, count), VSHARD_OK);
    free(map);
    cluster_destroy(c);
}

/* Whether shards can be made of it: what a map says of vectors is how many bytes are read of a
 * caller's. */
static bool can_be_made(const struct vshard_collection *c)
{
    const struct vshard_index_options o = { .size = sizeof o,
                                            .dim = c->dim,
                                            .family = c->family,
                                            .metric = c->metric,
                                            .element = c->element,
                                            .m = c->m,
                                            .ef_construction = c->ef_construction,
                                            .ef_search = c->ef_search,
                                            .train_rows = c->train_rows,
                                            .profile = c->profile,
                                            .attributes = c->attributes,
                                            .attribute_count = c->attribute_count };
    struct vshard_index *index;
    int rc = vshard_index_create(&o, &index);

    vshard_index_destroy(index);
    return rc == VSHARD_OK;
}

/* Under a right checksum any bit may be wrong: what is taken is a map that says the same
 * again, and of which all can be made that it names; nothing worse happens. */
Test(node_hosted, a_checksum_is_not_believed)
{
    static struct vs_cluster m;
    struct cluster *c = hosted(3, 3, 1);
    size_t count = c->map_bytes;
    unsigned char *map = malloc(count);
    uint32_t refused = 0, taken = 0;

    memcpy(map, c->map, count);
    vs_cluster_init(&m, NULL, NULL);
    for (size_t i = 24; i + 8 < count; i++) {
        for (int bit = 0; bit < 8; bit++) {
            struct vs_out o = { .allocator = NULL };

            map[i] ^= (unsigned char)(1 << bit);
            sum(map, count);
            if (vs_hosted_take(&m, c->node[1].node->cluster, map, count) != VSHARD_OK) {
                refused++;
            } else {
                taken++;
                for (uint32_t k = 0; k < m.collection_count; k++)
                    cr_expect(can_be_made(&m.collection[k]->spec), "byte %zu, bit %d", i, bit);
                vs_cluster_encode(&m, &o);
                cr_expect(o.count == count - 48 && memcmp(o.at, map + 40, o.count) == 0);
            }
            vs_out_free(&o);
            map[i] ^= (unsigned char)(1 << bit);
        }
    }
    cr_expect_gt(refused, 0u);
    cr_expect_gt(taken, 0u);
    vs_cluster_fini(&m);
    free(map);
    cluster_destroy(c);
}

/* ---- nodes that are not for it ---- */

Test(node_hosted, is_refused_where_the_nodes_keep_the_map)
{
    struct cluster *c = with_words(1, 1, 1, 1, NULL);

    cr_expect_eq(give(c, 1, NULL, 0), VSHARD_ENOTSUP);
    cluster_kill(c, 1);
    c->hosted = 1;
    cr_expect_eq(cluster_start(c, 1), VSHARD_EINVAL, "a founder");
    cluster_destroy(c);
}

/* ---- memory that fails ---- */

/* A node alone, and the store in its host. */
struct alone {
    struct fault_storage *fs;
    struct vshard_node *node;
    uint64_t now, version; /* version: that is to be put; 0: none */
    unsigned char *map;    /* [count], likewise */
    size_t count;
    int status; /* of the last request; 1: none yet */
};

static void alone_put(void *ctx, uint64_t version, const void *bytes, size_t count)
{
    struct alone *l = ctx;

    free(l->map);
    l->map = malloc(count);
    memcpy(l->map, bytes, count);
    l->count = count;
    l->version = version;
}

static void alone_done(void *ctx, const struct vshard_node_done *d)
{
    ((struct alone *)ctx)->status = d->status;
}

static int alone_open(struct alone *l, const struct vshard_allocator *memory)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = l, .send = lone_send, .done = alone_done, .put_map = alone_put
    };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .node = 1,
                                           .path = "home",
                                           .host = &host,
                                           .segment_bytes = 65536,
                                           .allocator = memory,
                                           .storage = fault_storage_hook(l->fs) };

    return vshard_node_open(&o, l->now, &l->node);
}

/* Each is answered, whatever fails. */
static int alone_ask(struct alone *l, struct vshard_node_admin a)
{
    int rc;

    a.size = sizeof a;
    a.timeout_ns = 1000 * MS;
    l->status = 1;
    rc = vshard_node_admin(l->node, l->now, &a);
    for (int i = 0; rc == VSHARD_OK && i < 3000 && l->status == 1; i++) {
        if (l->version != 0)
            vshard_node_map_put(l->node, l->now, l->version, VSHARD_OK);
        l->version = 0;
        l->now += MS;
        if (vshard_node_tick(l->node, l->now) != VSHARD_OK)
            break;
    }
    return rc == VSHARD_OK ? l->status : rc;
}

static int alone_live(struct alone *l, const struct vshard_allocator *memory)
{
    const struct vshard_node_birth birth = { .size = sizeof birth,
                                             .flags = VSHARD_NODE_JOINS,
                                             .cluster = { 1, 2 },
                                             .node = 1,
                                             .path = "home",
                                             .allocator = memory,
                                             .storage = fault_storage_hook(l->fs) };
    const struct vshard_collection spec = { .size = sizeof spec, .dim = DIM, .name = "words" };
    int rc = vshard_node_format(&birth);

    if (rc == VSHARD_OK)
        rc = alone_open(l, memory);
    if (rc == VSHARD_OK)
        rc = vshard_node_map(l->node, l->now, NULL, 0);
    if (rc == VSHARD_OK)
        rc = alone_ask(l, (struct vshard_node_admin){ .op = VSHARD_ADMIN_JOIN });
    if (rc == VSHARD_OK)
        rc = alone_ask(
            l, (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE, .collection = &spec });
    vshard_node_close(l->node);
    l->node = NULL;
    if (rc == VSHARD_OK)
        rc = alone_open(l, memory);
    if (rc == VSHARD_OK)
        rc = vshard_node_map(l->node, l->now, l->map, l->count);
    vshard_node_close(l->node);
    l->node = NULL;
    return rc;
}

Test(node_hosted, without_memory_ends_in_a_status_and_leaks_nothing)
{
    uint64_t tried = 0;
    bool struck = true;

    for (uint64_t k = 1; struck; k += 1 + k / 60, tried++) {
        struct alone l = { .fs = fault_storage_create(1), .now = 1000 * MS };
        struct fault_alloc memory;
        int rc;

        fault_storage_mkdir(l.fs, "home");
        fault_alloc_init(&memory);
        fault_alloc_fail(&memory, k, FAULT_ONCE);
        rc = alone_live(&l, &memory.hook);
        struck = memory.failures != 0;
        cr_assert(struck ? rc <= 0 : rc == VSHARD_OK, "k=%d: %d", (int)k, rc);
        cr_assert_null(fault_alloc_verdict(&memory), "k=%d: %s", (int)k,
                       fault_alloc_verdict(&memory));
        fault_alloc_fini(&memory);
        fault_storage_destroy(l.fs);
        free(l.map);
    }
    cr_assert_gt(tried, (uint64_t)50);
}
