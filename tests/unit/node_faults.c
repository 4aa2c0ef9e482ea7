/* node_faults.c - memory and storage that fail, one call at a time.
 *
 * Method: a cluster of one node is founded, opened, filled, searched and closed, with the
 * k-th allocation failing, for each k up to some hundreds and then fewer and fewer; then
 * with the k-th storage request failing. Nothing may leak or hang, each request is answered
 * once, and what was acknowledged is there when the node is opened again. Last, it dies at the
 * k-th storage request: when it is open again, its directory has no file of a snapshot that the
 * log does not name. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "node/core.h"
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

/* ---- files of snapshots ---- */

/* Whether a snapshot of the node has a file of this name: the log names it. */
static bool named(const struct lone *l, const char *name)
{
    for (uint32_t i = 0; i < l->node->replica_count; i++) {
        const struct vs_replica *r = l->node->replica[i];
        char base[64];
        int count = snprintf(base, sizeof base, "g%llx-%llx.", (unsigned long long)r->group,
                             (unsigned long long)r->snapshot_index);

        if (strncmp(name, base, (size_t)count) == 0 && strstr(name, ".tmp") == NULL)
            return true;
    }
    return false;
}

/* How many it does not name; *found: how many it does. With no node open, none is. */
static uint32_t orphans(const struct lone *l, uint32_t *found)
{
    char names[4096];
    size_t bytes = sizeof names;
    uint32_t count = 0;

    *found = 0;
    cr_assert_eq(vs_io_list(fault_storage_hook(l->fs), "home", names, &bytes), VSHARD_OK);
    for (size_t at = 0; at < bytes; at += strlen(names + at) + 1) {
        bool of_snapshot = names[at] == 'g', has = of_snapshot && l->node && named(l, names + at);

        *found += has;
        count += of_snapshot && !has;
    }
    return count;
}

/* Until no snapshot is under way. */
static void come_to_rest(struct lone *l)
{
    for (int i = 0; i < 1500; i++) {
        l->now += MS;
        cr_assert_eq(vshard_node_tick(l->node, l->now), VSHARD_OK);
    }
}

static void check_again(struct lone *l, uint64_t k, int written)
{
    int rc = open_node(l, NULL);

    if (written == 0) { /* it may not even have been founded */
        vshard_node_close(l->node);
        return;
    }
    cr_assert_eq(rc, VSHARD_OK, "k=%d: %s", (int)k, vshard_strerror(rc));
    come_to_rest(l);
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
    uint32_t found;

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
    for (uint64_t i = 0; i < 4; i++)
        cr_expect_eq(write_words(&l, i), VSHARD_OK);
    come_to_rest(&l);
    cr_expect_eq(orphans(&l, &found), 0u, "snapshots that had no room left something");
    cr_expect_gt(found, 0u);
    vshard_node_close(l.node);
    cr_expect_null(fault_storage_verdict(l.fs), "%s", fault_storage_verdict(l.fs));
    check_again(&l, 0, 1);
    fault_storage_destroy(l.fs);
}

/* The node dies at its k-th request, and is opened again; *swept: files that went then. True
 * when it had lived to its end before. */
static bool die_at(uint64_t k, uint32_t flags, uint32_t *swept)
{
    const struct fault_crash crash = { .seed = k, .flags = flags };
    struct fault_storage *after;
    struct lone l;
    int written;
    uint32_t found;
    bool lived;

    begin(&l);
    fault_storage_fail(l.fs, k, FAULT_FOREVER);
    live(&l, NULL, &written);
    lived = fault_storage_struck(l.fs) == 0;
    fault_storage_heal(l.fs);
    after = fault_storage_after(l.fs, &crash);
    fault_storage_destroy(l.fs);
    l.fs = after;
    fault_storage_refuse_maps(l.fs, 1);
    *swept = orphans(&l, &found);
    if (open_node(&l, NULL) == VSHARD_OK) { /* else it was never founded */
        *swept -= orphans(&l, &found) + found;
        come_to_rest(&l);
        cr_assert_eq(orphans(&l, &found), 0u, "k=%d", (int)k);
    }
    vshard_node_close(l.node);
    fault_storage_destroy(l.fs);
    return lived;
}

Test(node_faults, that_kill_it_at_any_step_leave_no_file_that_nothing_names)
{
    const uint32_t flags[] = { FAULT_CRASH_KEEP, 0, FAULT_CRASH_EACH_NAME };

    for (size_t i = 0; i < VS_COUNT(flags); i++) {
        uint32_t moments = 0, swept;

        for (uint64_t k = 1; !die_at(k, flags[i], &swept); k++)
            moments += swept != 0;
        cr_assert_gt(moments, 20u, "%d deaths were in a save", (int)moments);
    }
}

static bool there(const struct lone *l, const char *path)
{
    size_t bytes;

    return fault_storage_bytes(l->fs, path, &bytes) != NULL;
}

Test(node_faults, leave_files_that_are_of_no_snapshot_alone)
{
    const char *const gone[] = { "home/g1-in.rows", "home/g1-7f.index.tmp", "home/gfff-3.rows" };
    const char *const kept[] = { "home/g1", "home/g1-notes", "home/g1-7.rows.old", "home/x.rows",
                                 "home/g1.rows" };
    struct lone l;
    int written;

    begin(&l);
    cr_assert_eq(live(&l, NULL, &written), VSHARD_OK);
    for (size_t i = 0; i < VS_COUNT(gone); i++)
        fault_storage_put(l.fs, gone[i], "?", 1);
    for (size_t i = 0; i < VS_COUNT(kept); i++)
        fault_storage_put(l.fs, kept[i], "?", 1);
    cr_assert_eq(open_node(&l, NULL), VSHARD_OK);
    for (size_t i = 0; i < VS_COUNT(gone); i++)
        cr_expect(!there(&l, gone[i]), "%s", gone[i]);
    for (size_t i = 0; i < VS_COUNT(kept); i++)
        cr_expect(there(&l, kept[i]), "%s", kept[i]);
    vshard_node_close(l.node);
    fault_storage_destroy(l.fs);
}
