/* node_snapshot.c - a snapshot on its way to a replica that is far behind, while something fails.
 *
 * Method: one of three nodes is down while so much is written that the others forget the entries
 * it needs. When it comes back, a storage request of it fails, or large allocations of all nodes do,
 * while the snapshot is under way: what is lost is asked for again, and it arrives. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/fault_alloc.h"

enum { ROWS = 100, WRITES = 4, HEAVY = 9000 };

static struct vs_replica *replica(struct cluster *c, uint64_t at)
{
    return vs_replica_find(c->node[at].node, 1);
}

/* Rows so heavy that their snapshot goes in some pieces. */
static void write_heavy(struct cluster *c, uint64_t salt)
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
    a = cluster_wait(c, write_rows(c, 1, 1, ROWS, salt, &more), 12000 * MS);
    cr_assert(a != NULL && a->status == VSHARD_OK);
}

static struct cluster *begin(const struct vshard_allocator *memory)
{
    struct vshard_node_options o = { .snapshot_bytes = 1000000,
                                     .replace_ns = UINT64_MAX,
                                     .allocator = memory };
    struct cluster *c = with_words(3, 3, 1, 3, &o);

    c->spread_ns = 2 * MS;
    return c;
}

/* Node 3 is up again, and the first piece has come. */
static void fall_behind(struct cluster *c)
{
    cluster_kill(c, 3);
    for (uint64_t i = 0; i < WRITES; i++)
        write_heavy(c, i);
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
