/* items.c - work that host threads take, one item at a time.
 *
 * Each replica has a queue. Its first item may start when nothing that it excludes runs:
 * readers (searches, fetches, saves) run beside each other, a writer (a step of apply, an
 * install) alone. Order is that of arrival, so a writer waits for the readers before it and
 * holds up those behind it, for one short step: neither starves. Replicas whose first item
 * may start stand in a ring, so threads spread over shards, and taking an item costs the
 * same however many wait.
 *
 * Syncs of the write-ahead log come before all others: every acknowledgement waits for
 * one. They reach this queue through a struct vshard_storage that stands in front of the
 * host's.
 *
 * The lock is held for a few pointers at a time, never across a call to another room. */
#include "node/core.h"

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
    q->ready_end = &q->ready;
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

static bool writes(const struct vs_item *item)
{
    return item->kind == VS_ITEM_APPLY || item->kind == VS_ITEM_INSTALL;
}

/* The first item may start, and threads are told so once. */
static void list(struct vs_items *q, struct vs_replica *r)
{
    const struct vs_item *first = r->queue.first;

    if (r->listed || first == NULL || r->writers != 0 || (writes(first) && r->readers != 0))
        return;
    r->listed = 1;
    r->ready_next = NULL;
    if (q->ready == NULL)
        q->ready_end = &q->ready;
    *q->ready_end = r;
    q->ready_end = &r->ready_next;
}

void vs_item_push(struct vshard_node *n, struct vs_item *item)
{
    struct vs_items *q = &n->items;

    lock(q);
    if (item->replica == NULL) {
        put(&q->storage, item);
    } else {
        put(&item->replica->queue, item);
        list(q, item->replica);
    }
    q->waiting++;
    q->told = 0;
    unlock(q);
}

static struct vs_item *begin(struct vs_items *q)
{
    struct vs_item *item;
    struct vs_replica *r;

    lock(q);
    item = take(&q->storage);
    if (item == NULL && q->ready != NULL) {
        r = q->ready;
        q->ready = r->ready_next;
        r->listed = 0;
        item = take(&r->queue);
        r->writers += writes(item);
        r->readers += !writes(item);
        list(q, r);
    }
    if (item != NULL) {
        q->waiting--;
        q->running++;
    }
    unlock(q);
    return item;
}

/* Storage is not waited for by the control thread's queue: its owner polls. */
static void end(struct vs_items *q, struct vs_item *item)
{
    struct vs_replica *r = item->replica;

    lock(q);
    q->running--;
    r->writers -= writes(item);
    r->readers -= !writes(item);
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
    struct vs_item *item = begin(&n->items);

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
