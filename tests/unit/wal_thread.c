/* wal_thread.c - storage that completes requests on a thread of its own.
 *
 * Method: a storage table hands each request to a worker thread, which carries it
 * out with POSIX files and completes it there, as a host with an I/O pool would. The
 * log is polled when it asks to be woken. What it then holds is compared with the
 * model; ThreadSanitizer watches when it is asked to. */
#include <criterion/criterion.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/wal_model.h"

enum { QUEUE = 16 };

struct pool {
    struct vshard_storage posix;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vshard_io *queue[QUEUE];
    uint32_t count, stop, woken;
};

static void *work(void *arg)
{
    struct pool *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct vshard_io *io, copy;

        while (p->count == 0 && !p->stop)
            pthread_cond_wait(&p->changed, &p->lock);
        if (p->count == 0)
            break;
        io = p->queue[0];
        pthread_mutex_unlock(&p->lock);
        /* A copy, since nothing may touch the request once it is complete. */
        copy = *io;
        copy.done = NULL;
        p->posix.submit(p->posix.ctx, &copy);
        io->status = copy.status;
        io->file = copy.file;
        io->count = copy.count;
        io->buffer = copy.buffer;
        if (io->done != NULL)
            io->done(io);
        pthread_mutex_lock(&p->lock);
        memmove(p->queue, p->queue + 1, --p->count * sizeof p->queue[0]);
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void submit(void *ctx, struct vshard_io *io)
{
    struct pool *p = ctx;

    pthread_mutex_lock(&p->lock);
    if (p->count == QUEUE)
        abort();
    p->queue[p->count++] = io;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for(void *ctx, struct vshard_io *io)
{
    struct pool *p = ctx;

    pthread_mutex_lock(&p->lock);
    for (uint32_t i = 0; i < p->count;) {
        if (p->queue[i] == io) {
            pthread_cond_wait(&p->changed, &p->lock);
            i = 0;
        } else {
            i++;
        }
    }
    pthread_mutex_unlock(&p->lock);
}

static void wake(void *ctx)
{
    struct pool *p = ctx;

    pthread_mutex_lock(&p->lock);
    p->woken++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void wait_until_woken(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->woken == 0)
        pthread_cond_wait(&p->changed, &p->lock);
    p->woken = 0;
    pthread_mutex_unlock(&p->lock);
}

static void fill(struct model *m, struct vshard_wal *wal, struct pool *p)
{
    uint64_t durable = 0, barrier = 0;

    for (uint64_t i = 1; i <= 2000; i++) {
        const struct vshard_wal_record r = { .group = i % 4,
                                             .index = i / 4 + 1,
                                             .term = 1,
                                             .kind = VSHARD_WAL_ENTRY,
                                             .payload_bytes = (uint32_t)(i % 300) };

        cr_assert_eq(model_append(m, wal, &r, &barrier), VSHARD_OK);
        if (i % 10 == 0)
            cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
    }
    for (;;) {
        cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
        if (durable >= barrier)
            return;
        wait_until_woken(p);
    }
}

Test(wal_thread, is_driven_by_completions_from_another_thread, .timeout = 120)
{
    struct pool p = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    const struct vshard_storage storage = { submit, wait_for, &p, NULL };
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .ctx = &p, .wake = wake };
    char path[] = "/tmp/vshard-wal-XXXXXX", command[64];
    struct vshard_wal_options o = {
        .size = sizeof o, .segment_bytes = 256 << 10, .storage = &storage, .hooks = &hooks
    };
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    struct model m;
    const char *wrong;
    pthread_t thread;

    cr_assert_not_null(mkdtemp(path));
    o.path = path;
    vshard_storage_posix(&p.posix);
    cr_assert_eq(pthread_create(&thread, NULL, work, &p), 0);
    model_init(&m);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(vshard_wal_open(&o, &report, &wal), VSHARD_OK);
        cr_assert_eq(report.verdict, VSHARD_WAL_CLEAN);
        if (round == 0)
            fill(&m, wal, &p);
        wrong = model_differs(&m, wal, UINT64_MAX);
        cr_expect_null(wrong, "%s", wrong);
        vshard_wal_close(wal);
    }
    pthread_mutex_lock(&p.lock);
    p.stop = 1;
    pthread_cond_broadcast(&p.changed);
    pthread_mutex_unlock(&p.lock);
    pthread_join(thread, NULL);
    model_fini(&m);
    snprintf(command, sizeof command, "rm -rf %s", path);
    cr_expect_eq(system(command), 0);
}
