/* node_snapshot.c - a snapshot on its way to a replica that is far behind, while something fails.
 *
 * Method: one of three nodes is down while so much is written that the others forget the entries
 * it needs. When it comes back, a storage request of it fails, or large allocations of all nodes
 * do, while the snapshot is under way: what is lost is asked for again, and it arrives. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/fault_alloc.h"

enum { ROWS = 100, WRITES = 4, HEAVY = 9000 };

static struct vs_replica *replica(struct cluster *c, uint64_t at)
{
    return vs_replica_find(c->node[at].node, 1);
}

/* Rows from `first` on, so heavy that their snapshot goes in some pieces. */
static void write_heavy(struct cluster *c, uint64_t first, uint64_t salt)
{
    static const char payload[HEAVY];
    const void *payloads[ROWS];
    uint32_t bytes[ROWS];
    const struct vshard_node_write more = { .timeout_ns = 10000 * MS,
                                            .payloads = payloads,
                                            .payload_bytes = bytes };
    struct cluster_answer *a;

    for (int i = 0; i < ROWS; i++) {
        payloads[i] = payload;
        bytes[i] = HEAVY;
    }
    a = cluster_wait(c, write_rows(c, 1, first, ROWS, salt, &more), 12000 * MS);
    cr_assert(a != NULL && a->status == VSHARD_OK);
}

static struct cluster *begin_with(const struct vshard_allocator *memory, uint64_t snapshot_bytes)
{
    struct vshard_node_options o = { .snapshot_bytes = snapshot_bytes,
                                     .replace_ns = UINT64_MAX,
                                     .allocator = memory };
    struct cluster *c = with_words(3, 3, 1, 3, &o);

    c->spread_ns = 2 * MS;
    return c;
}

static struct cluster *begin(const struct vshard_allocator *memory)
{
    return begin_with(memory, 1000000);
}

/* Node 3 is up again, and the first piece has come. */
static void fall_behind(struct cluster *c)
{
    cluster_kill(c, 3);
    for (uint64_t i = 0; i < WRITES; i++)
        write_heavy(c, 1, i);
    cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
    for (int t = 0; t < 2000 && (replica(c, 3) == NULL || replica(c, 3)->incoming == 0); t++)
        cluster_run(c, MS);
    cr_assert_neq(replica(c, 3)->incoming, (uint64_t)0, "no snapshot comes");
}

static bool arrived(struct cluster *c, uint64_t ns)
{
    uint64_t end = c->now + ns;
    struct vshard_shard_status s = { .here = 0 };
    size_t count;

    while (c->now < end && (s.here != 1 || s.rows != ROWS || s.applied != s.committed)) {
        cluster_run(c, 10 * MS);
        vshard_node_shards(c->node[3].node, "words", &s, 1, &count);
    }
    return c->now < end;
}

Test(node_snapshot, arrives_though_a_piece_cannot_be_written)
{
    const uint32_t ops[] = { VSHARD_IO_OPEN, VSHARD_IO_WRITE };

    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        struct cluster *c = begin(NULL);
        const struct fault_rule full = { .k = 1, /* its log has nothing to write meanwhile */
                                         .ops = 1u << ops[i],
                                         .does = FAULT_FAIL,
                                         .status = VSHARD_ENOSPC };

        fall_behind(c);
        fault_storage_rule(c->node[3].disk, &full);
        cr_expect(arrived(c, 20000 * MS), "%zu", i);
        cr_expect_eq(fault_storage_struck(c->node[3].disk), (uint64_t)1);
        cr_expect_eq(c->node[3].node->failed, VSHARD_OK);
        cluster_destroy(c);
    }
}

/* Node 1 has another snapshot than now after so many writes, at most. */
static uint32_t writes_until_next(struct cluster *c, bool grows)
{
    static uint64_t salt;
    uint64_t before = replica(c, 1)->snapshot_index;

    for (uint32_t writes = 1; writes < 30; writes++) {
        salt++;
        write_heavy(c, grows ? 1 + salt * ROWS : 1, salt);
        cluster_run(c, 1000 * MS);
        if (replica(c, 1)->snapshot_index != before)
            return writes;
    }
    return UINT32_MAX;
}

/* A write is 0.9 MB of entries; of a shard that is as small snapshots come all 4 MiB, though
 * snapshot_bytes is 64 MiB, and then when it doubles, or as much of it is replaced. So who comes
 * back has no more to apply than there is. */
Test(node_snapshot, comes_when_as_much_has_come_as_the_last_is_long)
{
    struct cluster *c = begin_with(NULL, 0);
    uint64_t grown;

    write_heavy(c, 1, 0);
    cr_expect_eq(writes_until_next(c, false), (uint32_t)4);
    cr_expect_lt(replica(c, 1)->snapshot_bytes, (uint64_t)3 << 20);
    cr_expect_eq(writes_until_next(c, false), (uint32_t)5);
    cr_expect_eq(writes_until_next(c, true), (uint32_t)5);
    cr_expect_eq(writes_until_next(c, true), (uint32_t)7);
    grown = replica(c, 1)->snapshot_bytes;
    cr_expect(grown > (uint64_t)9 << 20 && grown < (uint64_t)12 << 20, "%d", (int)grown);
    cluster_kill(c, 1); /* it knows how long the last was, too, when it comes back */
    cr_assert_eq(cluster_start(c, 1), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_expect_eq(replica(c, 1)->snapshot_bytes, grown);
    cr_expect_eq(writes_until_next(c, false), (uint32_t)14);
    cluster_destroy(c);
}

/* ---- its last step ---- */

/* So many changes of the map that node 3 gets it whole. */
static void change_map(struct cluster *c)
{
    static struct vshard_attribute attributes[VSHARD_ATTRIBUTES_MAX];
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = 2,
                                            .replicas = 2,
                                            .attribute_count = VSHARD_ATTRIBUTES_MAX,
                                            .attributes = attributes,
                                            .name = "passing" };

    for (uint32_t i = 0; i < VSHARD_ATTRIBUTES_MAX; i++) {
        attributes[i].type = VSHARD_ATTRIBUTE_INT64;
        snprintf(attributes[i].name, sizeof attributes[i].name, "a%u", i);
    }
    for (int i = 0; i < 110; i++) {
        int rc = administer(
            c, 1, (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE, .collection = &spec });

        cr_assert_eq(rc, VSHARD_OK, "%d: %s", i, vshard_strerror(rc));
        cr_assert_eq(
            administer(c, 1,
                       (struct vshard_node_admin){ .op = VSHARD_ADMIN_DROP, .name = "passing" }),
            VSHARD_OK);
    }
}

/* Node 3 is about to install a snapshot of that group; false: it will not. */
static bool about_to_install(struct cluster *c, uint64_t group)
{
    for (int t = 0; t < 200000; t++) {
        const struct vs_replica *r = vs_replica_find(c->node[3].node, group);

        if (r != NULL && r->installing)
            return true;
        cluster_run(c, 20000);
    }
    return false;
}

/* Each allocation of node 3 fails once, of the first ones, and then fewer and fewer, from the
 * moment on that it is installed; the last k fails none. */
static void install_each(uint64_t group, void (*fall)(struct cluster *c))
{
    uint64_t k, failures = 1;

    for (k = 1; failures != 0; k += 1 + k / 8) {
        struct fault_alloc memory;
        struct cluster *c;

        fault_alloc_init(&memory);
        c = begin_with(NULL, 3000);
        cluster_kill(c, 3);
        cluster_run(c, 1000 * MS);
        fall(c);
        c->options.allocator = &memory.hook; /* of node 3 alone */
        cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
        cr_assert(about_to_install(c, group), "no snapshot comes");
        fault_alloc_fail(&memory, k, FAULT_ONCE);
        for (int t = 0; t < 2000 && vs_replica_find(c->node[3].node, group)->installing; t++)
            cluster_run(c, 20000);
        failures = memory.failures;
        fault_alloc_fail(&memory, 0, FAULT_ONCE);
        cluster_run(c, 3000 * MS);
        for (uint64_t id = 1; id <= 3; id++)
            cr_assert_eq(c->node[id].node->failed, VSHARD_OK, "k=%d: node %d", (int)k, (int)id);
        cr_assert_eq(vs_replica_find(c->node[3].node, group)->status, VSHARD_OK, "k=%d", (int)k);
        cr_assert_eq(c->node[3].node->meta.applied, c->node[1].node->meta.applied, "k=%d", (int)k);
        cr_assert(arrived(c, 20000 * MS), "k=%d", (int)k);
        cluster_destroy(c);
        cr_assert_null(fault_alloc_verdict(&memory), "k=%d: %s", (int)k,
                       fault_alloc_verdict(&memory));
        fault_alloc_fini(&memory);
    }
    cr_expect_gt(k, (uint64_t)5);
}

static void write_little(struct cluster *c)
{
    for (uint64_t i = 0; i < 3; i++)
        written(c, 1, 1, ROWS, i, 0);
}

static void change_and_write(struct cluster *c)
{
    change_map(c);
    written(c, 1, 1, ROWS, 7, 0);
}

Test(node_snapshot, of_the_map_is_installed_though_memory_fails)
{
    install_each(VS_META, change_and_write);
}

Test(node_snapshot, of_a_shard_is_installed_though_memory_fails)
{
    install_each(1, write_little);
}

/* For half a second there is not enough for all copies of a piece, or for none, and for what is
 * small there is. */
Test(node_snapshot, arrives_though_there_is_no_memory_for_a_while)
{
    struct fault_alloc memory;
    struct cluster *c;

    fault_alloc_init(&memory);
    c = begin(&memory.hook);
    for (uint64_t room = 50000; room < 700000; room += 100000) {
        fall_behind(c);
        memory.bytes_limit = memory.bytes + room;
        cluster_run(c, 500 * MS);
        memory.bytes_limit = 0;
        cr_expect(arrived(c, 20000 * MS), "%d bytes", (int)room);
        for (uint64_t id = 1; id <= 3; id++)
            cr_assert_eq(c->node[id].node->failed, VSHARD_OK);
    }
    cr_expect_gt(memory.failures, (uint64_t)0);
    cluster_destroy(c);
    fault_alloc_fini(&memory);
}

static bool there(struct cluster *c, const char *path)
{
    size_t bytes;

    return fault_storage_bytes(c->node[3].disk, path, &bytes) != NULL;
}

/* The last batch of the log of node 3 is damaged, as when it was never written whole. */
static void damage_the_end(struct cluster *c)
{
    char names[4096], last[4200] = "", path[4200];
    size_t bytes = sizeof names, count = 0;
    const unsigned char *log;

    cr_assert_eq(vs_io_list(fault_storage_hook(c->node[3].disk), "home", names, &bytes), VSHARD_OK);
    for (size_t at = 0; at < bytes; at += strlen(names + at) + 1) {
        snprintf(path, sizeof path, "home/%s", names + at);
        if (strstr(path, ".wal") != NULL && strcmp(path, last) > 0)
            strcpy(last, path);
    }
    log = fault_storage_bytes(c->node[3].disk, last, &count);
    while (count > 0 && log[count - 1] == 0)
        count--;
    cr_assert_gt(count, (size_t)100);
    fault_storage_flip(c->node[3].disk, last, 8 * (uint64_t)(count - 50));
}

/* After a crash in the middle of a save where the log ends is not certain at times, and it may have
 * named what is there. */
Test(node_snapshot, of_which_nothing_came_is_removed_when_the_log_is_settled)
{
    static const char *const left[] = { "home/g1-7f.rows", "home/g1-7f.index.tmp",
                                        "home/g1-in.index", "home/g0-7f.map" };
    struct cluster *c = begin(NULL);

    write_heavy(c, 1, 1);
    cluster_kill(c, 3);
    damage_the_end(c);
    for (size_t i = 0; i < VS_COUNT(left); i++)
        fault_storage_put(c->node[3].disk, left[i], "?", 1);
    cr_assert_eq(cluster_start(c, 3), VSHARD_OK);
    cr_assert_eq(c->node[3].node->unsettled, 1u, "the end of its log is certain");
    for (size_t i = 0; i < VS_COUNT(left); i++)
        cr_expect(there(c, left[i]), "%s", left[i]);
    for (int t = 0; t < 200 && c->node[3].node->unsettled; t++)
        cluster_run(c, 100 * MS);
    cr_assert_eq(c->node[3].node->unsettled, 0u);
    for (size_t i = 0; i < VS_COUNT(left); i++)
        cr_expect(!there(c, left[i]), "%s", left[i]);
    expect_rows(c, 3, 1, ROWS, 1);
    cluster_destroy(c);
}

/* One that is on its way when the log is settled is not taken for such. */
Test(node_snapshot, arrives_though_the_log_is_settled_meanwhile)
{
    struct cluster *c = begin(NULL);

    fall_behind(c);
    vs_snapshots_sweep(c->node[3].node);
    cr_expect(arrived(c, 20000 * MS));
    cluster_destroy(c);
}
