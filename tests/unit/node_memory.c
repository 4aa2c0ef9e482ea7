/* node_memory.c - a replica that finds no memory for what it must do, and goes on when there is
 * some again.
 *
 * Method: a node of its own refills a replica that is said to have diverged, or opens one that it
 * has a snapshot of, or none, with each allocation failing in turn, and then with all of them
 * failing for a while. It must report that, try again, later each time, and come to the same
 * digest; nothing may halt, and nothing may leak. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/fault_alloc.h"
#include "support/lone_node.h"

enum { ROWS = 20, WRITES = 5, MANY = 600 };

struct lone {
    struct fault_alloc memory;
    struct fault_storage *fs;
    struct vshard_node *node;
    uint64_t now;
    uint64_t snapshot_bytes;
    int status; /* of the last answer; 1: it has not come */
    uint32_t waits;
};

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    ((struct lone *)ctx)->status = d->status;
}

static void on_event(void *ctx, uint32_t level, const char *name,
                     const struct vshard_log_field *fields, size_t field_count)
{
    (void)level;
    (void)fields;
    (void)field_count;
    ((struct lone *)ctx)->waits +=
        strcmp(name, "node.refill") == 0 || strcmp(name, "node.open") == 0;
}

static int open_node(struct lone *l)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = l, .send = lone_send, .done = on_done
    };
    const struct vshard_logger logger = { .ctx = l, .event = on_event };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .node = 1,
                                           .path = "home",
                                           .host = &host,
                                           .snapshot_bytes = l->snapshot_bytes,
                                           .segment_bytes = 1 << 20,
                                           .allocator = &l->memory.hook,
                                           .logger = &logger,
                                           .storage = fault_storage_hook(l->fs) };

    return vshard_node_open(&o, l->now, &l->node);
}

static void run(struct lone *l, uint64_t ns)
{
    for (uint64_t end = l->now + ns; l->now < end; l->now += MS)
        vshard_node_tick(l->node, l->now);
}

static int answered(struct lone *l, int rc)
{
    for (int i = 0; rc == VSHARD_OK && i < 5000 && l->status == 1; i++)
        run(l, MS);
    return rc == VSHARD_OK ? l->status : rc;
}

static int create_words(struct lone *l, uint32_t family)
{
    const struct vshard_collection spec = {
        .size = sizeof spec, .dim = DIM, .family = family, .shards = 1, .name = "words"
    };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 1, .collection = &spec
    };
    int rc = VSHARD_EBUSY;

    for (int i = 0; i < 2000 && rc == VSHARD_EBUSY; i++) {
        run(l, MS);
        l->status = 1;
        rc = vshard_node_admin(l->node, l->now, &a);
    }
    return answered(l, rc);
}

static int write_some(struct lone *l, uint64_t first, uint32_t count, uint64_t salt)
{
    static struct vshard_key keys[MANY];
    static float vectors[MANY * DIM];
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = count,
                                         .tag = 1,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };

    for (uint64_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, first + i };
        vector_of(vectors + i * DIM, first + i, salt);
    }
    l->status = 1;
    return answered(l, vshard_node_write(l->node, l->now, &w));
}

static int write_words(struct lone *l, uint64_t first, uint64_t salt)
{
    return write_some(l, first, ROWS, salt);
}

static int fetch_word(struct lone *l, uint64_t key)
{
    const struct vshard_node_fetch f = { .size = sizeof f,
                                         .consistency = VSHARD_READ_LINEARIZABLE,
                                         .tag = 1,
                                         .timeout_ns = 3000 * MS,
                                         .collection = "words",
                                         .key = { 0, key } };

    l->status = 1;
    return answered(l, vshard_node_fetch(l->node, l->now, &f));
}

static void begin_with(struct lone *l, uint32_t family, uint64_t snapshot_bytes)
{
    *l = (struct lone){ .fs = fault_storage_create(1),
                        .now = 1000 * MS,
                        .snapshot_bytes = snapshot_bytes };
    fault_alloc_init(&l->memory);
    fault_storage_mkdir(l->fs, "home");
    fault_storage_refuse_maps(l->fs, 1);
    cr_assert_eq(lone_format(fault_storage_hook(l->fs), &l->memory.hook), VSHARD_OK);
    cr_assert_eq(open_node(l), VSHARD_OK);
    cr_assert_eq(create_words(l, family), VSHARD_OK);
    for (uint64_t i = 0; i < WRITES; i++) {
        cr_assert_eq(write_words(l, i * ROWS, 5), VSHARD_OK);
        run(l, 50 * MS);
    }
    run(l, 2500 * MS); /* and it has told its digest */
}

/* A shard with a snapshot and entries behind it. */
static void begin(struct lone *l, uint32_t family)
{
    begin_with(l, family, 2500);
}

static void end(struct lone *l, uint64_t k)
{
    vshard_node_close(l->node);
    fault_storage_destroy(l->fs);
    cr_assert_null(fault_alloc_verdict(&l->memory), "k=%d: %s", (int)k,
                   fault_alloc_verdict(&l->memory));
    fault_alloc_fini(&l->memory);
}

static struct vs_replica *words(struct lone *l)
{
    return vs_replica_find(l->node, 1);
}

/* Until it is what it was, or is not any more. */
static void expect_refilled(struct lone *l, uint64_t digest, uint64_t k)
{
    struct vs_replica *r = words(l);

    for (int i = 0; i < 300 && r->refills == 0 && r->status == VSHARD_OK; i++)
        run(l, 100 * MS);
    cr_assert_eq(r->status, VSHARD_OK, "k=%d: it has halted: %s", (int)k,
                 vshard_strerror(r->status));
    cr_assert_eq(l->node->failed, VSHARD_OK, "k=%d", (int)k);
    cr_assert_eq(r->refills, 1u, "k=%d", (int)k);
    run(l, 2500 * MS);
    cr_assert_eq(r->digest, digest, "k=%d: its state is another", (int)k);
    cr_assert_eq(r->backlog, (uint64_t)0);
    cr_assert_eq(fetch_word(l, WRITES * ROWS - 1), VSHARD_OK, "k=%d", (int)k);
}

static void refill_each(uint32_t family)
{
    uint64_t failed = 0;

    for (uint64_t k = 1;; k++) {
        uint64_t digest, failures;
        struct lone l;

        begin(&l, family);
        cr_assert_gt(words(&l)->snapshot_index, (uint64_t)0);
        cr_assert_gt(words(&l)->queued, words(&l)->snapshot_index, "nothing stands behind it");
        digest = words(&l)->digest;
        cr_assert_neq(digest, (uint64_t)0);
        words(&l)->diverged = 1; /* as digests would have it */
        fault_alloc_fail(&l.memory, k, FAULT_ONCE);
        /* All that is allocated until it is done; nothing else happens meanwhile. */
        for (int i = 0; i < 150 && words(&l)->refills == 0; i++)
            run(&l, 2 * MS);
        failures = l.memory.failures;
        fault_alloc_fail(&l.memory, 0, FAULT_ONCE);
        failed += l.waits;
        expect_refilled(&l, digest, k);
        end(&l, k);
        if (failures == 0)
            break;
    }
    cr_expect_gt(failed, (uint64_t)20, "it has hardly ever waited: %d times", (int)failed);
}

Test(node_memory, that_is_missing_in_a_refill_makes_it_wait_and_try_again)
{
    refill_each(VSHARD_FAMILY_FLAT);
}

Test(node_memory, that_is_missing_in_a_refill_of_a_graph_makes_it_wait_and_try_again)
{
    refill_each(VSHARD_FAMILY_HNSW);
}

/* For a minute there is none at all. */
Test(node_memory, that_is_missing_for_long_is_asked_for_more_and_more_seldom)
{
    struct lone l;
    uint64_t digest, held;

    begin(&l, VSHARD_FAMILY_FLAT);
    digest = words(&l)->digest;
    words(&l)->diverged = 1;
    held = l.memory.bytes;
    for (int i = 0; i < 100 && !words(&l)->refilling; i++)
        run(&l, MS);
    fault_alloc_fail(&l.memory, 1, FAULT_FOREVER);
    run(&l, 60000 * MS);
    cr_expect_geq(l.waits, 4u);
    cr_expect_leq(l.waits, 8u, "%u tries", l.waits);
    cr_expect_eq(words(&l)->status, VSHARD_OK);
    cr_expect_eq(words(&l)->refills, 0u);
    cr_expect_lt(l.memory.bytes, held, "what is wrong is kept");
    fault_alloc_fail(&l.memory, 0, FAULT_ONCE);
    for (int i = 0; i < 700 && words(&l)->refills == 0; i++)
        run(&l, 100 * MS);
    expect_refilled(&l, digest, 0);
    cr_expect_eq(write_words(&l, 0, 6), VSHARD_OK);
    end(&l, 0);
}

/* ---- opening ---- */

/* False if the node could not be opened: then there is nothing to wait for. */
static bool open_with(struct lone *l, uint64_t k, uint64_t *failures)
{
    int rc;

    vshard_node_close(l->node);
    l->node = NULL;
    l->waits = 0;
    fault_alloc_fail(&l->memory, k, FAULT_ONCE);
    rc = open_node(l);
    if (rc == VSHARD_OK)
        run(l, 300 * MS);
    *failures = l->memory.failures;
    fault_alloc_fail(&l->memory, 0, FAULT_ONCE);
    return rc == VSHARD_OK && l->node->failed == VSHARD_OK;
}

static void expect_opened(struct lone *l, uint64_t digest, uint64_t k)
{
    run(l, 4000 * MS);
    cr_assert_eq(words(l)->status, VSHARD_OK, "k=%d: it has halted: %s", (int)k,
                 vshard_strerror(words(l)->status));
    cr_assert_eq(words(l)->digest, digest, "k=%d: its state is another", (int)k);
    cr_assert_eq(fetch_word(l, 1), VSHARD_OK, "k=%d", (int)k);
    cr_assert_eq(write_words(l, 0, 6), VSHARD_OK, "k=%d", (int)k);
}

static void open_each(uint64_t snapshot_bytes)
{
    uint64_t failures = 1, waited = 0;

    for (uint64_t k = 1; failures != 0; k++) {
        struct lone l;
        uint64_t digest;

        begin_with(&l, VSHARD_FAMILY_FLAT, snapshot_bytes);
        digest = words(&l)->digest;
        if (open_with(&l, k, &failures))
            expect_opened(&l, digest, k);
        waited += l.waits;
        end(&l, k);
    }
    cr_expect_gt(waited, (uint64_t)10, "it has hardly ever waited: %d times", (int)waited);
}

Test(node_memory, that_is_missing_when_a_snapshot_is_opened_makes_it_wait_and_try_again)
{
    open_each(2500);
}

Test(node_memory, that_is_missing_when_a_log_is_opened_makes_it_wait_and_try_again)
{
    open_each(1 << 20);
}

/* ---- digests ---- */

enum { BORDER = 4096 }; /* of so many entries each a digest is compared */

static void fill_to_border(struct lone *l)
{
    while (words(l)->queued < BORDER - 1)
        cr_assert_eq(write_some(l, 0, 1, 5), VSHARD_OK);
    run(l, 10 * MS);
}

/* At the border there was no memory for one. The entry that comes next has some steps, between two
 * of which the state is of no position: what is taken then would differ from all others'. */
Test(node_memory, that_is_missing_for_a_digest_leaves_none_of_half_an_entry)
{
    struct vs_replica *r;
    struct lone l;
    uint64_t right;

    begin_with(&l, VSHARD_FAMILY_FLAT, 1 << 30);
    fill_to_border(&l);
    r = words(&l);
    r->digest_busy = 1; /* it is being taken, */
    cr_assert_eq(write_some(&l, 0, 1, 6), VSHARD_OK);
    run(&l, 10 * MS);
    cr_assert_eq(atomic_load(&r->applied), (uint64_t)BORDER);
    cr_assert_eq(vs_shard_digest(r->shard, &right), VSHARD_OK);
    cr_assert_eq(write_some(&l, 0, MANY, 7), VSHARD_OK);
    for (int i = 0; i < 100 && r->row == 0; i++)
        run(&l, MS);
    cr_assert_gt(r->row, 0u, "it has not come half-way");
    cr_assert_eq(atomic_load(&r->applied), (uint64_t)BORDER);
    r->digest_busy = 0; /* and failed */
    run(&l, 100 * MS);
    cr_assert_eq(atomic_load(&r->applied), (uint64_t)BORDER + 1);
    cr_expect(r->digest_index != BORDER || r->digest == right, "of half an entry");
    end(&l, 0);
}

/* ---- a replica that does not keep up ---- */

static void nobody_works(void *ctx, uint32_t what)
{
    (void)ctx;
    (void)what;
}

enum { HEAVY_ROWS = 1000, BACKLOG = 200000 };

Test(node_memory, of_a_replica_that_does_not_keep_up_is_bounded)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX,
                                     .backlog_bytes = BACKLOG,
                                     .snapshot_bytes = BACKLOG };
    struct fault_alloc memory;
    struct cluster *c;
    struct vshard_shard_status s;
    uint64_t leader, slow, before;
    struct vshard_node *n;
    size_t count;

    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    c = with_words(3, 3, 1, 3, &o);
    leader = cluster_leader(c, "words", 0);
    slow = leader % 3 + 1;
    for (uint64_t i = 0; i < 30; i++)
        written(c, leader, 1, HEAVY_ROWS, i, 0);
    cluster_run(c, 1000 * MS);
    n = c->node[slow].node;
    n->host.wake = nobody_works; /* as if it had a worker, who does nothing */
    n->o.workers = 1;
    before = memory.bytes;
    for (uint64_t i = 0; i < 150; i++) /* of some 70 KB each */
        written(c, leader, 1, HEAVY_ROWS, i, 0);
    cluster_run(c, 1000 * MS);
    cr_expect_lt(memory.bytes, before + 12u * BACKLOG, "%d bytes more",
                 (int)(memory.bytes - before));
    n->o.workers = 0;
    cluster_run(c, 5000 * MS);
    cr_assert_eq(vshard_node_shards(n, "words", &s, 1, &count), VSHARD_OK);
    cr_expect_eq(s.here, 1u);
    cr_expect_eq(s.applied, s.committed);
    cr_expect_eq(s.rows, (uint64_t)HEAVY_ROWS);
    expect_rows(c, slow, 1, 50, 149);
    cluster_destroy(c);
    cr_assert_null(fault_alloc_verdict(&memory), "%s", fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}
