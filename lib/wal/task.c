/* task.c - chains of storage requests, and what becomes of their failures. */
#include "wal/log.h"

enum { POLLS_BLOCKED = 7, POLLS_TIGHT = 63 }; /* between two tries, at most */

static void done(struct vshard_io *io)
{
    struct vs_wal_task *t = io->owner;
    /* After the store the log may be closed, and t with it, by another thread. */
    void (*wake)(void *ctx) = t->wal->hooks.wake;
    void *ctx = t->wal->hooks.ctx;

    atomic_store_explicit(&t->complete, 1, memory_order_release);
    if (wake != NULL)
        wake(ctx);
}

void vs_wal_submit(struct vs_wal_task *t, uint32_t op)
{
    VS_ASSERT(!t->busy);
    t->io.op = op;
    t->io.status = VSHARD_OK;
    t->io.done = done;
    t->io.owner = t;
    t->busy = 1;
    atomic_store_explicit(&t->complete, 0, memory_order_relaxed);
    t->wal->storage.submit(t->wal->storage.ctx, &t->io);
}

bool vs_wal_ended(struct vs_wal_task *t, int *status)
{
    if (!t->busy || !atomic_load_explicit(&t->complete, memory_order_acquire))
        return false;
    t->busy = 0;
    *status = t->io.status > 0 ? VSHARD_EIO : t->io.status;
    t->io.flags = 0;
    return true;
}

void vs_wal_poison(struct vshard_wal *w, const char *why)
{
    const struct vs_field fields[] = { { "path", w->path, 0, NULL },
                                       { "barrier", NULL, (int64_t)w->durable.seq, NULL },
                                       { "request", why, 0, NULL } };

    if (w->status == VSHARD_OK)
        vs_log(w->log, VSHARD_LOG_ERROR, "wal.poisoned", fields, VS_COUNT(fields));
    w->status = VSHARD_EIO;
}

void vs_wal_full(struct vshard_wal *w)
{
    if (!w->full)
        vs_wal_event(w, VSHARD_LOG_ERROR, "wal.full", (int64_t)w->durable.seq, 0);
    w->full = 1;
    w->may_retry = 0;
    w->stats.refused_space++;
}

void vs_wal_tight(struct vshard_wal *w)
{
    if (!w->tight)
        vs_wal_event(w, VSHARD_LOG_WARN, "wal.tight", (int64_t)w->durable.seq, 0);
    w->tight = w->may_leave = 1;
    w->may_retry = 0;
}

/* Each try to make a segment makes a file and removes it: less often the longer it fails,
 * and not much less where nothing else can be done. */
void vs_wal_be_patient(struct vshard_wal *w)
{
    uint32_t most = w->blocked ? POLLS_BLOCKED : POLLS_TIGHT;

    w->patience = w->patience < most / 2 ? 2 * w->patience + 1 : most;
    w->polls_left = w->patience;
}

bool vs_wal_wait(struct vshard_wal *w)
{
    struct vs_wal_task *const tasks[] = { &w->flight, &w->maker, &w->keeper, &w->trimmer };

    for (size_t i = 0; i < VS_COUNT(tasks); i++) {
        if (tasks[i]->busy) {
            w->storage.wait(w->storage.ctx, &tasks[i]->io);
            return true;
        }
    }
    return false;
}

void vs_wal_pump(struct vshard_wal *w)
{
    bool moved = true;

    if (w->blocked && w->polls_left > POLLS_BLOCKED)
        w->polls_left = POLLS_BLOCKED;
    w->may_make = w->polls_left == 0;
    w->may_retry = !w->tight || w->blocked || w->may_make;
    w->polls_left -= w->polls_left > 0;
    w->keep_left -= w->keep_left > 0;
    while (moved) {
        moved = vs_wal_flight_step(w);
        moved |= vs_wal_maker_step(w);
        moved |= vs_wal_trimmer_step(w);
        moved |= vs_wal_keeper_step(w);
    }
}
