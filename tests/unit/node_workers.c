/* node_workers.c - what is done first where much waits.
 *
 * Method: a node of two workers, and one thread that plays both. Storage of the host calls
 * vshard_node_work() from within the item that writes an export: it must find syncs and
 * searches to do, and no step of apply, however many of those wait. And rows are written
 * faster than they are applied: snapshots are taken all the same. When the node is opened again,
 * it is the thread as worker that opens them. Entries are staged while others are applied, in
 * whatever order the queues give that: what comes of them must be what a node makes of them
 * that opens the same log in peace. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "node/core.h"
#include "support/cluster_ask.h"
#include "support/lone_node.h"

enum { COUNT = 64 };

struct lone {
    struct fault_storage *fs;
    struct vshard_storage storage;
    struct vshard_node *node;
    uint64_t now;
    uint32_t answers, found; /* found: hits of the last search, */
    uint64_t rows;           /* and rows that it says there are */
    int32_t status;
    uint64_t export; /* the file that an export writes */
    void (*meanwhile)(struct lone *l);
};

static void submit(void *ctx, struct vshard_io *io)
{
    struct lone *l = ctx;
    const struct vshard_storage *below = fault_storage_hook(l->fs);
    bool opens = io->op == VSHARD_IO_OPEN && strcmp(io->path, "home/x.tmp") == 0;

    if (io->op == VSHARD_IO_WRITE && l->export != 0 && io->file == l->export) {
        l->export = 0;
        l->meanwhile(l);
    }
    below->submit(below->ctx, io);
    below->wait(below->ctx, io);
    if (opens)
        l->export = io->file;
}

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    struct lone *l = ctx;

    l->answers++;
    l->status = d->status;
    if (d->kind == VSHARD_NODE_SEARCH) {
        l->found = d->hit_count;
        l->rows = d->rows;
    }
}

static void on_wake(void *ctx, uint32_t what)
{
    (void)ctx;
    (void)what;
}

static void wait_storage(void *ctx, struct vshard_io *io)
{
    (void)ctx;
    (void)io;
}

static void tick(struct lone *l)
{
    l->now += MS;
    cr_assert_eq(vshard_node_tick(l->node, l->now), VSHARD_OK);
}

/* All that can be done without time, and then some time. */
static void run(struct lone *l, int ms)
{
    for (int i = 0; i < ms; i++) {
        while (vshard_node_work(l->node) != 0)
            continue;
        tick(l);
    }
}

static void open_again(struct lone *l, struct vshard_node_options o)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = l, .send = lone_send, .done = on_done, .wake = on_wake
    };

    o.size = sizeof o;
    o.workers = 2;
    o.node = 1;
    o.path = "home";
    o.host = &host;
    o.storage = &l->storage;
    cr_assert_eq(vshard_node_open(&o, l->now, &l->node), VSHARD_OK);
}

static void open_node(struct lone *l, struct vshard_node_options o)
{
    *l = (struct lone){ .fs = fault_storage_create(1), .now = 1000 * MS };
    l->storage = *fault_storage_hook(l->fs);
    l->storage.ctx = l;
    l->storage.submit = submit;
    l->storage.wait = wait_storage;
    fault_storage_mkdir(l->fs, "home");
    cr_assert_eq(lone_format(&l->storage, NULL), VSHARD_OK);
    open_again(l, o);
    run(l, 1000);
}

static void close_node(struct lone *l)
{
    vshard_node_close(l->node);
    cr_assert_null(fault_storage_verdict(l->fs));
    fault_storage_destroy(l->fs);
}

static void create_words(struct lone *l)
{
    const struct vshard_collection spec = {
        .size = sizeof spec, .dim = DIM, .family = VSHARD_FAMILY_FLAT, .shards = 2, .name = "words"
    };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 1, .collection = &spec
    };

    cr_assert_eq(vshard_node_admin(l->node, l->now, &a), VSHARD_OK);
    run(l, 1000);
    cr_assert(l->answers == 1 && l->status == VSHARD_OK);
}

static void write_words(struct lone *l, uint64_t salt)
{
    struct vshard_key keys[COUNT];
    float vectors[COUNT * DIM];
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = COUNT,
                                         .tag = 2,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };

    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = (struct vshard_key){ 0, i };
        vector_of(vectors + i * DIM, i, salt);
    }
    cr_assert_eq(vshard_node_write(l->node, l->now, &w), VSHARD_OK);
}

static void search_words(struct lone *l)
{
    float query[DIM] = { 1 };
    const struct vshard_node_search s = {
        .size = sizeof s, .k = 3, .tag = 3, .collection = "words", .query = query
    };

    cr_assert_eq(vshard_node_search(l->node, l->now, &s), VSHARD_OK);
}

static uint64_t applied(struct lone *l)
{
    struct vshard_shard_status s[2];
    size_t count;

    cr_assert_eq(vshard_node_shards(l->node, "words", s, 2, &count), VSHARD_OK);
    return s[0].applied + s[1].applied;
}

/* Entries of a shard that wait to be applied, of the one with fewer. */
static uint64_t waiting(struct lone *l)
{
    struct vshard_shard_status s[2];
    uint64_t a, b;
    size_t count;

    cr_assert_eq(vshard_node_shards(l->node, "words", s, 2, &count), VSHARD_OK);
    a = s[0].committed - s[0].applied;
    b = s[1].committed - s[1].applied;
    return a < b ? a : b;
}

static void export_words(struct lone *l)
{
    const struct vshard_node_export e = {
        .size = sizeof e, .tag = 4, .collection = "words", .path = "home/x"
    };

    cr_assert_eq(vshard_node_export(l->node, l->now, &e), VSHARD_OK);
}

/* The other worker, while one writes the export. */
static void other_worker(struct lone *l)
{
    uint64_t before = applied(l);

    l->answers = 0;
    write_words(l, 2);
    run(l, 100);
    cr_assert_eq(l->answers, 1u, "a write waits for what is long");
    cr_assert_eq(l->status, VSHARD_OK);
    cr_assert_eq(applied(l), before, "a second long item has begun");
    search_words(l);
    run(l, 20);
    cr_assert_eq(l->answers, 2u, "a search waits for what is long");
    cr_assert_eq(l->found, 3u);
    l->meanwhile = NULL;
}

Test(node_workers, one_is_kept_for_syncs_and_searches)
{
    struct lone l;
    uint64_t before;

    open_node(&l, (struct vshard_node_options){ .size = 0 });
    create_words(&l);
    write_words(&l, 1);
    run(&l, 100);
    before = applied(&l);
    l.meanwhile = other_worker;
    export_words(&l);
    run(&l, 100);
    cr_assert_null(l.meanwhile, "there was no export");
    cr_assert_gt(applied(&l), before, "what waited was never applied");
    close_node(&l);
}

/* Every entry is larger than what a snapshot is taken for. */
Test(node_workers, snapshots_do_not_wait_until_all_is_applied)
{
    struct lone l;
    uint64_t renames;

    open_node(&l, (struct vshard_node_options){ .snapshot_bytes = 1000 });
    create_words(&l);
    for (uint64_t i = 0; i < 40; i++)
        write_words(&l, i);
    l.answers = 0;
    while (l.answers < 40) { /* storage goes first, so little is applied */
        tick(&l);
        vshard_node_work(l.node);
    }
    cr_assert_gt(waiting(&l), (uint64_t)10);
    renames = fault_storage_count(l.fs, VSHARD_IO_RENAME);
    for (uint64_t i = 0; i < 200 && fault_storage_count(l.fs, VSHARD_IO_RENAME) < renames + 4;
         i++) {
        write_words(&l, i);
        write_words(&l, i);
        for (int k = 0; k < 4; k++) {
            tick(&l);
            vshard_node_work(l.node);
        }
        cr_assert_gt(waiting(&l), (uint64_t)0, "this test writes too slowly");
    }
    cr_assert_geq(fault_storage_count(l.fs, VSHARD_IO_RENAME), renames + 4, "no snapshots");
    run(&l, 1000);
    cr_assert_eq(waiting(&l), (uint64_t)0);
    close_node(&l);
}

static uint64_t committed(struct lone *l)
{
    return applied(l) + 2 * waiting(l); /* of two shards that are given the same */
}

/* A write that is answered late, since its shard is behind: the router asks again, and again. */
static void behind(struct lone *l)
{
    uint64_t before = committed(l);

    l->answers = 0;
    write_words(l, 3);
    run(l, 3500);
    cr_assert_eq(l->answers, 0u, "nothing holds this write up");
    cr_assert_eq(committed(l), before + 2, "%d entries", (int)(committed(l) - before));
    l->meanwhile = NULL;
}

Test(node_workers, a_write_that_waits_is_not_logged_again)
{
    struct lone l;

    open_node(&l, (struct vshard_node_options){ .backlog_bytes = 1 });
    create_words(&l);
    l.meanwhile = behind;
    export_words(&l);
    run(&l, 1000);
    cr_assert_null(l.meanwhile, "there was no export");
    cr_assert(l.answers == 2 && l.status == VSHARD_OK);
    close_node(&l);
}

static uint32_t shards_here(struct lone *l)
{
    struct vshard_shard_status s[2];
    size_t count = 0;

    vshard_node_shards(l->node, "words", s, 2, &count);
    return count == 2 ? s[0].here + s[1].here : UINT32_MAX;
}

/* What a shard starts from may have some 100 MB. */
Test(node_workers, snapshots_are_opened_by_workers)
{
    const struct vshard_node_options o = { .snapshot_bytes = 1000 };
    struct lone l;

    open_node(&l, o);
    create_words(&l);
    write_words(&l, 1);
    run(&l, 2000);
    vshard_node_close(l.node);
    open_again(&l, o);
    cr_expect_eq(shards_here(&l), 0u, "the map is known, and no shard is opened yet");
    for (int i = 0; i < 300; i++)
        tick(&l);
    cr_expect_eq(shards_here(&l), 0u, "the control thread has opened one");
    while (vshard_node_work(l.node) != 0)
        continue;
    tick(&l);
    cr_expect_eq(shards_here(&l), 2u);
    l.found = 0;
    search_words(&l);
    run(&l, 20);
    cr_expect_eq(l.found, 3u);
    close_node(&l);
}

/* Of the first shard. */
static void spoil_snapshot(struct lone *l)
{
    uint32_t spoilt = 0;

    for (int index = 1; index < 100; index++) {
        char path[40];
        size_t bytes;

        snprintf(path, sizeof path, "home/g1-%d.rows", index);
        if (fault_storage_bytes(l->fs, path, &bytes) == NULL)
            continue;
        fault_storage_flip(l->fs, path, 100);
        spoilt++;
    }
    cr_assert_gt(spoilt, 0u, "there is no snapshot");
}

Test(node_workers, a_snapshot_that_cannot_be_opened_halts_its_replica)
{
    const struct vshard_node_options o = { .snapshot_bytes = 1000 };
    struct vshard_shard_status s[2];
    struct lone l;
    size_t count;

    open_node(&l, o);
    create_words(&l);
    write_words(&l, 1);
    run(&l, 2000);
    vshard_node_close(l.node);
    spoil_snapshot(&l);
    open_again(&l, o);
    run(&l, 1000);
    cr_assert_eq(vshard_node_shards(l.node, "words", s, 2, &count), VSHARD_OK);
    cr_expect_eq(s[0].here, 2u);
    cr_expect_eq(s[1].here, 1u);
    close_node(&l);
}

/* ---- entries that are staged while others are applied ---- */

static void create_graph(struct lone *l)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = VSHARD_FAMILY_HNSW,
                                            .train_rows = 256,
                                            .name = "words" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 1, .collection = &spec
    };

    cr_assert_eq(vshard_node_admin(l->node, l->now, &a), VSHARD_OK);
    run(l, 1000);
    cr_assert(l->answers == 1 && l->status == VSHARD_OK);
}

static void write_range(struct lone *l, uint64_t first, uint32_t count, uint64_t salt)
{
    static struct vshard_key keys[1024];
    static float vectors[1024 * DIM];
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = count,
                                         .tag = 2,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };

    for (uint64_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, first + i };
        vector_of(vectors + i * DIM, first + i, salt);
    }
    cr_assert_eq(vshard_node_write(l->node, l->now, &w), VSHARD_OK);
}

static uint64_t digest_of(struct lone *l)
{
    uint64_t digest = 0;

    cr_assert_eq(vs_shard_digest(vs_replica_find(l->node, 1)->shard, &digest), VSHARD_OK);
    return digest;
}

Test(node_workers, a_large_entry_goes_on_where_it_was_whatever_is_staged_meanwhile)
{
    struct lone l;
    uint64_t random = 1, digest, partly = 0;

    open_node(&l, (struct vshard_node_options){ .size = 0 });
    create_graph(&l);
    for (uint64_t i = 0; i < 20; i++) {
        struct vs_replica *r = vs_replica_find(l.node, 1);

        write_range(&l, random_below(&random, 2000), 1 + (uint32_t)random_below(&random, 3), i);
        write_range(&l, random_below(&random, 1000), 600, i);
        for (uint64_t k = random_below(&random, 12); k > 0; k--) {
            search_words(&l);
            tick(&l);
            vshard_node_work(l.node);
            partly += r->row != 0 && r->entries->index <= atomic_load(&r->applied);
        }
    }
    cr_expect_gt(partly, 0u, "nothing stood before an entry that was applied in part");
    run(&l, 2000);
    digest = digest_of(&l);
    vshard_node_close(l.node);
    open_again(&l, (struct vshard_node_options){ .size = 0 });
    run(&l, 2000);
    cr_expect_eq(digest_of(&l), digest, "an entry was applied in another way");
    close_node(&l);
}

/* Lets time pass, and the log do its work, until something else is to be done. */
static void settle_log(struct lone *l)
{
    for (int i = 0; i < 100; i++) {
        while (l->node->items.storage.first != NULL)
            vshard_node_work(l->node);
        tick(l);
    }
}

Test(node_workers, rows_that_are_found_are_counted_whether_they_are_applied_or_not)
{
    struct vshard_shard_status s;
    struct lone l;
    size_t count;

    open_node(&l, (struct vshard_node_options){ .size = 0 });
    create_graph(&l);
    write_range(&l, 0, 10, 1);
    settle_log(&l);
    cr_assert_eq(vshard_node_work(l.node), 1u);
    tick(&l);
    search_words(&l);
    cr_assert_eq(vshard_node_work(l.node), 1u);
    tick(&l);
    cr_assert_eq(vshard_node_shards(l.node, "words", &s, 1, &count), VSHARD_OK);
    cr_assert_lt(s.applied, s.committed, "it is applied already");
    cr_expect_eq(s.rows, 10u);
    cr_expect_eq(l.found, 3u);
    cr_expect_eq(l.rows, 10u);
    close_node(&l);
}

/* Searches stand before what stages, so that what applies has its turn first. */
Test(node_workers, what_is_applied_is_no_backlog_though_something_waits_to_be_staged)
{
    struct vs_replica *r;
    struct lone l;
    uint64_t first;

    open_node(&l, (struct vshard_node_options){ .size = 0 });
    create_graph(&l);
    r = vs_replica_find(l.node, 1);
    write_range(&l, 0, 10, 1);
    settle_log(&l);
    cr_assert(r->stage_busy && !r->apply_busy);
    cr_assert_eq(vshard_node_work(l.node), 1u);
    tick(&l);
    cr_assert(!r->stage_busy && r->apply_busy, "it is staged, and to be applied");
    first = r->entries->index;
    for (int i = 0; i < 8; i++)
        search_words(&l);
    write_range(&l, 10, 10, 1);
    settle_log(&l);
    while (atomic_load(&r->applied) < first)
        cr_assert_eq(vshard_node_work(l.node), 1u);
    tick(&l);
    cr_assert(r->stage_busy, "the second was staged first");
    cr_expect_eq(r->entries->index, first + 1);
    cr_expect_eq(r->backlog, r->entries->count, "what has been applied waits");
    run(&l, 1000);
    cr_expect_eq(r->backlog, 0u);
    cr_expect_null(r->entries);
    close_node(&l);
}
