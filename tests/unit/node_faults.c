/* node_faults.c - memory and storage that fail, one call at a time.
 *
 * Method: a cluster of one node is founded, opened, filled, searched and closed, with the
 * k-th allocation failing, for each k up to some hundreds and then fewer and fewer; then
 * with the k-th storage request failing. Nothing may leak or hang, each request is answered
 * once, and what was acknowledged is there when the node is opened again. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"
#include "support/fault_alloc.h"
#include "support/lone_node.h"

enum { ROWS = 20 };

struct lone {
    struct fault_storage *fs;
    struct vshard_node *node;
    uint64_t now;
    int done;   /* answers */
    int status; /* of the last */
};

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    struct lone *l = ctx;

    l->done++;
    l->status = d->status;
}

static int open_node(struct lone *l, const struct vshard_allocator *memory)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = l, .send = lone_send, .done = on_done
    };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .node = 1,
                                           .path = "home",
                                           .host = &host,
                                           .snapshot_bytes = 1500,
                                           .segment_bytes = 65536,
                                           .allocator = memory,
                                           .storage = fault_storage_hook(l->fs) };

    return vshard_node_open(&o, l->now, &l->node);
}

/* Waits for an answer, at most two seconds: whatever fails, each request ends. */
static int wait_for(struct lone *l, int rc)
{
    if (rc != VSHARD_OK)
        return rc;
    for (int i = 0; i < 3000 && l->status == 1; i++) {
        l->now += MS;
        vshard_node_tick(l->node, l->now); /* also one that has stopped has answered */
    }
    cr_assert_neq(l->status, 1, "no answer");
    return l->status;
}

static int create_named(struct lone *l, const char *name)
{
    const struct vshard_collection spec = {
        .size = sizeof spec, .dim = DIM, .family = VSHARD_FAMILY_FLAT, .shards = 2, .name = name
    };
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_CREATE,
                                         .tag = 1,
                                         .timeout_ns = 1000 * MS,
                                         .collection = &spec };
    int rc = VSHARD_EBUSY;

    for (int i = 0; i < 2000 && rc == VSHARD_EBUSY; i++) {
        l->now += MS;
        rc = vshard_node_tick(l->node, l->now);
        l->status = 1;
        if (rc == VSHARD_OK)
            rc = vshard_node_admin(l->node, l->now, &a);
    }
    return wait_for(l, rc);
}

static int write_words(struct lone *l, uint64_t salt)
{
    struct vshard_key keys[ROWS];
    float vectors[ROWS * DIM];
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = ROWS,
                                         .tag = 1,
                                         .timeout_ns = 1000 * MS,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };

    for (uint64_t i = 0; i < ROWS; i++) {
        keys[i] = (struct vshard_key){ 0, i };
        vector_of(vectors + i * DIM, i, salt);
    }
    l->status = 1;
    return wait_for(l, vshard_node_write(l->node, l->now, &w));
}

static int search_words(struct lone *l)
{
    float query[DIM] = { 0 };
    const struct vshard_node_search s = { .size = sizeof s,
                                          .k = 3,
                                          .tag = 1,
                                          .timeout_ns = 1000 * MS,
                                          .consistency = VSHARD_READ_LINEARIZABLE,
                                          .collection = "words",
                                          .query = query };

    l->status = 1;
    return wait_for(l, vshard_node_search(l->node, l->now, &s));
}

/* All of a life; the first status that is not 0. *written: how many writes were acknowledged. */
static int live(struct lone *l, const struct vshard_allocator *memory, int *written)
{
    int rc = lone_format(fault_storage_hook(l->fs), memory);

    *written = 0;
    if (rc == VSHARD_OK)
        rc = open_node(l, memory);
    if (rc == VSHARD_OK)
        rc = create_named(l, "words");
    for (uint64_t i = 1; rc == VSHARD_OK && i <= 4; i++) {
        rc = write_words(l, i);
        *written += rc == VSHARD_OK;
    }
    if (rc == VSHARD_OK)
        rc = search_words(l);
    vshard_node_close(l->node);
    l->node = NULL;
    return rc;
}

static void begin(struct lone *l)
{
    *l = (struct lone){ .fs = fault_storage_create(1), .now = 1000 * MS };
    fault_storage_mkdir(l->fs, "home");
    fault_storage_refuse_maps(l->fs, 1);
}

Test(node_faults, of_memory_end_in_a_status_and_leak_nothing)
{
    uint64_t tried = 0;

    for (uint64_t k = 1;; k += 1 + k / 60) {
        struct fault_alloc memory;
        struct lone l;
        int written;

        fault_alloc_init(&memory);
        begin(&l);
        fault_alloc_fail(&memory, k, FAULT_ONCE);
        live(&l, &memory.hook, &written);
        cr_assert_null(fault_storage_verdict(l.fs), "k=%d: %s", (int)k,
                       fault_storage_verdict(l.fs));
        fault_storage_destroy(l.fs);
        cr_assert_null(fault_alloc_verdict(&memory), "k=%d: %s", (int)k,
                       fault_alloc_verdict(&memory));
        tried++;
        if (memory.failures == 0)
            break;
        fault_alloc_fini(&memory);
    }
    cr_assert_gt(tried, (uint64_t)100);
}

static void check_again(struct lone *l, uint64_t k, int written)
{
    int rc = open_node(l, NULL);

    if (written == 0) { /* it may not even have been founded */
        vshard_node_close(l->node);
        return;
    }
    cr_assert_eq(rc, VSHARD_OK, "k=%d: %s", (int)k, vshard_strerror(rc));
    for (int i = 0; i < 1500; i++) {
        l->now += MS;
        cr_assert_eq(vshard_node_tick(l->node, l->now), VSHARD_OK);
    }
    cr_assert_eq(search_words(l), VSHARD_OK, "k=%d", (int)k);
    cr_assert_eq(write_words(l, 9), VSHARD_OK, "k=%d", (int)k);
    vshard_node_close(l->node);
}

Test(node_faults, of_storage_stop_the_node_and_lose_nothing_acknowledged)
{
    uint64_t struck = 1;

    for (uint64_t k = 1; struck != 0; k += 1 + k / 60) {
        struct lone l;
        int written;

        begin(&l);
        fault_storage_fail(l.fs, k, FAULT_ONCE);
        live(&l, NULL, &written);
        struck = fault_storage_struck(l.fs);
        fault_storage_heal(l.fs);
        cr_assert_null(fault_storage_verdict(l.fs), "k=%d: %s", (int)k,
                       fault_storage_verdict(l.fs));
        check_again(&l, k, written);
        fault_storage_destroy(l.fs);
        cr_assert(k < 100000);
    }
}

/* A disk that is full refuses writes, and nothing else; when there is room they go on. */
Test(node_faults, of_room_refuse_writes_until_there_is_some)
{
    struct lone l;
    int rc = VSHARD_OK, fine = 0;

    begin(&l);
    cr_assert_eq(lone_format(fault_storage_hook(l.fs), NULL), VSHARD_OK);
    cr_assert_eq(open_node(&l, NULL), VSHARD_OK);
    cr_assert_eq(create_named(&l, "words"), VSHARD_OK);
    cr_assert_eq(write_words(&l, 1), VSHARD_OK);
    fault_storage_capacity(l.fs, fault_storage_used(l.fs) + 20000);
    for (uint64_t i = 2; i < 400 && rc == VSHARD_OK; i++) {
        rc = write_words(&l, i);
        fine += rc == VSHARD_OK;
    }
    cr_assert(rc == VSHARD_ENOSPC || rc == VSHARD_ETIMEDOUT, "%s", vshard_strerror(rc));
    cr_assert_gt(fine, 0);
    cr_expect_eq(search_words(&l), VSHARD_OK);
    rc = create_named(&l, "others");
    cr_expect_eq(rc, VSHARD_ENOSPC, "%s", vshard_strerror(rc));
    fault_storage_capacity(l.fs, UINT64_MAX);
    for (int i = 0; i < 300 && rc != VSHARD_OK; i++) { /* the log tries again now and then */
        cr_assert_eq(vshard_node_tick(l.node, l.now += 10 * MS), VSHARD_OK);
        rc = write_words(&l, 999);
    }
    cr_expect_eq(rc, VSHARD_OK, "%s", vshard_strerror(rc));
    vshard_node_close(l.node);
    cr_expect_null(fault_storage_verdict(l.fs), "%s", fault_storage_verdict(l.fs));
    check_again(&l, 0, 1);
    fault_storage_destroy(l.fs);
}
