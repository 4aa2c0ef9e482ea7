/* disk.c - storage on threads of its own, so that no sync holds up the loop.
 *
 * The log submits requests and polls; here they wait in a queue for two threads, one
 * of which may be making the next segment while the other syncs the batch that
 * everybody waits for. A small write is a copy into the system's memory, shorter than
 * the way to a thread and back, and is done at once. The POSIX storage of the library
 * does the work. */
#include "host.h"

#include <stdlib.h>

/* The log has at most four requests under way; a call that waits has one. */
enum { THREADS = 2, QUEUE = 64, SMALL_WRITE = 64 << 10 };

struct disk {
    struct vshard_storage posix;
    uv_thread_t thread[THREADS];
    uv_mutex_t lock;
    uv_cond_t work, done;
    struct vshard_io *queue[QUEUE];
    unsigned first, last;
    bool closing;
    uv_async_t async;
    void (*wake)(void *ctx);
    void *ctx;
};

/* A request's `link` is storage's own until it is complete: here it is not NULL for
 * so long. Once done() has been called the request belongs to its owner again, who
 * may free it at once, so that call is the last thing. */
static void serve(void *arg)
{
    struct disk *d = arg;

    uv_mutex_lock(&d->lock);
    while (!d->closing || d->first != d->last) {
        struct vshard_io *io;
        void (*done)(struct vshard_io *);

        if (d->first == d->last) {
            uv_cond_wait(&d->work, &d->lock);
            continue;
        }
        io = d->queue[d->first++ % QUEUE];
        uv_mutex_unlock(&d->lock);
        done = io->done;
        io->done = NULL;
        d->posix.submit(d->posix.ctx, io); /* complete when it returns */
        uv_mutex_lock(&d->lock);
        io->done = done;
        io->link = NULL;
        uv_cond_broadcast(&d->done);
        if (done != NULL)
            done(io);
    }
    uv_mutex_unlock(&d->lock);
}

static void submit(void *ctx, struct vshard_io *io)
{
    struct disk *d = ctx;

    if (io->op == VSHARD_IO_WRITE && io->count <= SMALL_WRITE) {
        io->link = NULL;
        d->posix.submit(d->posix.ctx, io);
        return;
    }
    uv_mutex_lock(&d->lock);
    if (d->last - d->first == QUEUE)
        die("the storage queue is full");
    io->link = d;
    d->queue[d->last++ % QUEUE] = io;
    uv_cond_signal(&d->work);
    uv_mutex_unlock(&d->lock);
}

static void wait_for(void *ctx, struct vshard_io *io)
{
    struct disk *d = ctx;

    uv_mutex_lock(&d->lock);
    while (io->link != NULL)
        uv_cond_wait(&d->done, &d->lock);
    uv_mutex_unlock(&d->lock);
}

void disk_hook(struct disk *d, struct vshard_storage *storage)
{
    *storage = (struct vshard_storage){ submit, wait_for, d, NULL };
}

static void on_async(uv_async_t *async)
{
    struct disk *d = async->data;

    d->wake(d->ctx);
}

void disk_wake(void *disk)
{
    struct disk *d = disk;

    uv_async_send(&d->async);
}

struct disk *disk_open(uv_loop_t *loop, void (*wake)(void *ctx), void *ctx)
{
    struct disk *d = take(NULL, sizeof *d);

    *d = (struct disk){ .wake = wake, .ctx = ctx };
    vshard_storage_posix(&d->posix);
    if (uv_async_init(loop, &d->async, on_async) != 0 || uv_mutex_init(&d->lock) != 0 ||
        uv_cond_init(&d->work) != 0 || uv_cond_init(&d->done) != 0)
        die("cannot make a queue");
    d->async.data = d;
    for (int i = 0; i < THREADS; i++) {
        if (uv_thread_create(&d->thread[i], serve, d) != 0)
            die("cannot start a thread");
    }
    return d;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void disk_close(struct disk *d)
{
    uv_mutex_lock(&d->lock);
    d->closing = true;
    uv_cond_broadcast(&d->work);
    uv_mutex_unlock(&d->lock);
    for (int i = 0; i < THREADS; i++)
        uv_thread_join(&d->thread[i]);
    uv_cond_destroy(&d->work);
    uv_cond_destroy(&d->done);
    uv_mutex_destroy(&d->lock);
    uv_close((uv_handle_t *)&d->async, on_closed);
}
