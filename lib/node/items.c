/* items.c - work that host threads take, one item at a time.
 *
 * Items of a replica are of four classes:
 *
 *   FREE     searches, staging, and pieces of files: beside all but REFILLS
 *   READS    fetches, saves, digests: beside each other and FREE, at a moment when nothing
 *            is half applied
 *   WRITES   a step of apply: beside FREE alone; the index lets searches run meanwhile
 *   REFILLS  an install, which puts another shard in the place of the one there is, the
 *            opening of the first, and the end of the last: alone
 *
 * FREE items have a queue of their own; the others are taken in the order in which they
 * came, so none starves: a fetch waits for one short step of apply, and a save sees what
 * was applied before it was asked for.
 *
 * Replicas of which something may start stand in two rings, so threads spread over shards,
 * and taking an item costs the same however many wait. What is short, searches, fetches and
 * pieces of files, goes first, since somebody waits for it; but after LONG_EVERY of them it
 * is the turn of what is long, so that shards do not fall behind for ever.
 *
 * Writes and syncs of the write-ahead log come before all others: every acknowledgement waits
 * for some. They reach this queue through a struct vshard_storage that stands in front of the
 * host's. First in a queue is not enough, since a step of apply takes a hundred times as long
 * as a sync: so of two workers and more, one never takes what is long.
 *
 * The lock is held for a few pointers at a time, never across a call to another room. */
#include "node/core.h"

enum { FREE = 0, READS = 1, WRITES = 2, REFILLS = 3 }; /* classes */
enum { SHORT_RING = 0, LONG_RING = 1, LONG_EVERY = 4 };

static void spin(atomic_flag *flag)
{
    while (atomic_flag_test_and_set_explicit(flag, memory_order_acquire))
        vs_os_yield();
}

static void unspin(atomic_flag *flag)
{
    atomic_flag_clear_explicit(flag, memory_order_release);
}

static void lock(struct vs_items *q)
{
    spin(&q->lock);
}

static void unlock(struct vs_items *q)
{
    unspin(&q->lock);
}

static void put(struct vs_queue *q, struct vs_item *item)
{
    item->next = NULL;
    if (q->first == NULL)
        q->end = &q->first;
    *q->end = item;
    q->end = &item->next;
}

static struct vs_item *take(struct vs_queue *q)
{
    struct vs_item *item = q->first;

    if (item != NULL)
        q->first = item->next;
    return item;
}

void vs_items_init(struct vs_items *q)
{
    *q = (struct vs_items){ .waiting = 0 };
    atomic_flag_clear(&q->lock);
    atomic_flag_clear(&q->storage_lock);
}

struct vs_item *vs_item_new(struct vshard_node *n, uint32_t kind, struct vs_replica *r)
{
    struct vs_item *item = vs_alloc_zeroed(n->allocator, sizeof *item);

    if (item == NULL)
        return NULL;
    item->kind = kind;
    item->replica = r;
    return item;
}

void vs_item_free(struct vshard_node *n, struct vs_item *item)
{
    if (item == NULL)
        return;
    vs_free(n->allocator, item->bytes, item->count);
    vs_free(n->allocator, item, sizeof *item);
}

static uint32_t class_of(const struct vs_item *item)
{
    switch (item->kind) {
    case VS_ITEM_SEARCH:
    case VS_ITEM_STAGE:
    case VS_ITEM_CHUNK:
    case VS_ITEM_PIECE:
    case VS_ITEM_META: return FREE;
    case VS_ITEM_APPLY: return WRITES;
    case VS_ITEM_REFILL:
    case VS_ITEM_OPEN:
    case VS_ITEM_CLOSE:
    case VS_ITEM_INSTALL: return REFILLS;
    default: return READS;
    }
}

static bool is_long(const struct vs_item *item)
{
    return class_of(item) != FREE && item->kind != VS_ITEM_FETCH;
}

static bool may_start(const struct vs_replica *r, const struct vs_item *item)
{
    const uint32_t *n = r->running;

    if (item == NULL || n[REFILLS] != 0)
        return false;
    switch (class_of(item)) {
    case FREE: return r->ordered.first == NULL || class_of(r->ordered.first) != REFILLS;
    case READS: return n[WRITES] == 0;
    case WRITES: return n[WRITES] + n[READS] == 0;
    default: return n[WRITES] + n[READS] + n[FREE] == 0;
    }
}

static void list_in(struct vs_items *q, struct vs_replica *r, uint32_t which)
{
    struct vs_ring *ring = &q->ready[which];

    if (r->listed[which])
        return;
    r->listed[which] = 1;
    r->ready_next[which] = NULL;
    if (ring->first == NULL)
        ring->end = &ring->first;
    *ring->end = r;
    ring->end = &r->ready_next[which];
}

/* Something of it may start: the replica stands in a ring, once. */
static void list(struct vs_items *q, struct vs_replica *r)
{
    const struct vs_item *ordered = may_start(r, r->ordered.first) ? r->ordered.first : NULL;

    if (may_start(r, r->free.first) || (ordered != NULL && !is_long(ordered)))
        list_in(q, r, SHORT_RING);
    if (ordered != NULL && is_long(ordered))
        list_in(q, r, LONG_RING);
}

/* The next replica of a ring of which something may still start. */
static struct vs_replica *next_ready(struct vs_items *q, uint32_t which)
{
    struct vs_ring *ring = &q->ready[which];
    struct vs_replica *r = ring->first;

    if (r == NULL)
        return NULL;
    ring->first = r->ready_next[which];
    r->listed[which] = 0;
    return r;
}

static struct vs_item *take_of(struct vs_replica *r, uint32_t which)
{
    struct vs_item *first = r->ordered.first;

    if (which == SHORT_RING && may_start(r, r->free.first))
        return take(&r->free);
    if (may_start(r, first) && is_long(first) == (which == LONG_RING))
        return take(&r->ordered);
    return NULL; /* what made it stand there has been taken, or something hinders it now */
}

/* An item that may start, counted as running; NULL if there is none. */
static struct vs_item *next_item(struct vs_items *q, bool may_be_long)
{
    uint32_t which =
        q->ready[LONG_RING].first != NULL && q->since_long >= LONG_EVERY ? LONG_RING : SHORT_RING;
    struct vs_item *item = NULL;
    struct vs_replica *r;

    for (int ring = 0; ring < 2 && item == NULL; ring++, which = 1 - which) {
        while (item == NULL && (which == SHORT_RING || may_be_long) &&
               (r = next_ready(q, which)) != NULL) {
            item = take_of(r, which);
            if (item == NULL)
                continue;
            q->since_long = which == LONG_RING ? 0 : q->since_long + 1;
            q->running_long += which == LONG_RING;
            r->running[class_of(item)]++;
            list(q, r);
        }
    }
    return item;
}

void vs_item_push(struct vshard_node *n, struct vs_item *item)
{
    struct vs_items *q = &n->items;

    lock(q);
    if (item->replica == NULL) {
        put(&q->storage, item);
    } else {
        item->replica->items++;
        put(class_of(item) == FREE ? &item->replica->free : &item->replica->ordered, item);
        list(q, item->replica);
    }
    q->waiting++;
    q->told = 0;
    unlock(q);
}

static struct vs_item *begin(struct vs_items *q, uint32_t workers)
{
    struct vs_item *item;

    lock(q);
    item = take(&q->storage);
    if (item == NULL)
        item = next_item(q, workers < 2 || q->running_long + 1 < workers);
    if (item != NULL) {
        q->waiting--;
        q->running++;
    }
    unlock(q);
    return item;
}

static void end(struct vs_items *q, struct vs_item *item)
{
    struct vs_replica *r = item->replica;

    lock(q);
    q->running--;
    q->running_long -= is_long(item);
    r->running[class_of(item)]--;
    list(q, r);
    put(&q->finished, item);
    unlock(q);
}

static void run_storage(struct vshard_node *n, struct vs_item *item)
{
    struct vshard_io *io = item->io;
    void (*done)(struct vshard_io *) = io->done;

    io->done = NULL;
    n->storage.submit(n->storage.ctx, io);
    n->storage.wait(n->storage.ctx, io);
    lock(&n->items);
    n->items.running--;
    unlock(&n->items);
    vs_item_free(n, item);
    /* Once done() has been called the request is its owner's again, who may release it at
     * once; and who waits for it must not return before that call has. */
    spin(&n->items.storage_lock);
    io->done = done;
    io->link = NULL;
    if (done != NULL)
        done(io);
    unspin(&n->items.storage_lock);
}

uint32_t vs_item_work(struct vshard_node *n)
{
    struct vs_item *item = begin(&n->items, n->o.workers);

    if (item == NULL)
        return 0;
    if (item->replica == NULL) {
        run_storage(n, item);
    } else {
        item->status = vs_item_run(n, item);
        end(&n->items, item);
    }
    return 1;
}

struct vs_item *vs_item_finished(struct vshard_node *n)
{
    struct vs_item *item;

    lock(&n->items);
    item = take(&n->items.finished);
    unlock(&n->items);
    return item;
}

uint32_t vs_items_waiting(struct vshard_node *n)
{
    uint32_t waiting;

    lock(&n->items);
    waiting = n->items.waiting;
    unlock(&n->items);
    return waiting;
}

/* ---- storage of the write-ahead log ---- */

static void submit(void *ctx, struct vshard_io *io)
{
    struct vshard_node *n = ctx;
    bool slow = io->op == VSHARD_IO_SYNC || io->op == VSHARD_IO_RESIZE ||
                (io->op == VSHARD_IO_WRITE && io->count > 65536);
    struct vs_item *item = slow && n->opened ? vs_item_new(n, VS_ITEM_STORAGE, NULL) : NULL;

    if (item == NULL) { /* short, or no memory: then it is done here */
        io->link = NULL;
        n->storage.submit(n->storage.ctx, io);
        n->storage.wait(n->storage.ctx, io);
        io->link = NULL;
        return;
    }
    io->link = n;
    item->io = io;
    vs_item_push(n, item);
    n->host.wake(n->host.ctx, VSHARD_WAKE_WORK);
}

static bool under_way(struct vshard_node *n, const struct vshard_io *io)
{
    bool is;

    spin(&n->items.storage_lock);
    is = io->link != NULL;
    unspin(&n->items.storage_lock);
    return is;
}

/* Who must wait helps: other requests of storage may stand before this one. */
static void wait_for(void *ctx, struct vshard_io *io)
{
    struct vshard_node *n = ctx;
    struct vs_item *item;

    while (under_way(n, io)) {
        lock(&n->items);
        item = take(&n->items.storage);
        if (item != NULL) {
            n->items.waiting--;
            n->items.running++;
        }
        unlock(&n->items);
        if (item != NULL)
            run_storage(n, item);
        else
            vs_os_yield();
    }
}

void vs_items_storage(struct vshard_node *n)
{
    n->wal_storage =
        n->o.workers == 0 ? n->storage : (struct vshard_storage){ submit, wait_for, n, NULL };
}
