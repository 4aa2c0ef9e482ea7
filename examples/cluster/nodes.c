/* nodes.c - a cluster in one process. */
#define _GNU_SOURCE /* gettid() */
#include "nodes.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../demo/screen.h"

enum { PATH_BYTES = 4096, WORKERS_NICE = 5 };

struct message {
    uint32_t from, to;
    size_t count;
    unsigned char *bytes;
};

struct one {
    struct nodes *all;
    uint32_t id;
    struct vshard_node *node;
    pthread_rwlock_t alive; /* workers read; who opens and closes the node writes */
    char path[PATH_BYTES];
};

struct nodes {
    struct nodes_plan plan;
    struct one one[NODES_MAX + 1];
    struct message *message; /* the network: first in, first out */
    size_t first, count, cap;
    uint64_t frames;
    pthread_t worker[256];
    uint32_t workers;
    pthread_mutex_t lock;
    pthread_cond_t work, control;
    uint32_t work_wanted, control_wanted;
    int ending;
};

uint64_t nodes_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t clock_ns(void *ctx)
{
    (void)ctx;
    return nodes_now();
}

uint64_t nodes_frames(const struct nodes *n)
{
    return n->frames;
}

struct vshard_node *nodes_at(struct nodes *n, uint32_t at)
{
    return n->one[at].node;
}

/* ---- what a node wants of its host ---- */

static void on_send(void *ctx, uint64_t to, const void *bytes, size_t count)
{
    struct one *from = ctx;
    struct nodes *n = from->all;
    unsigned char *copy = malloc(count);

    if (copy == NULL || to == 0 || to > n->plan.count) {
        free(copy); /* lost, as on any network */
        return;
    }
    if (n->first + n->count == n->cap) {
        if (n->first > 0)
            memmove(n->message, n->message + n->first, n->count * sizeof *n->message);
        n->first = 0;
        if (n->count == n->cap) {
            size_t cap = 2 * n->cap + 256;
            struct message *more = realloc(n->message, cap * sizeof *more);

            if (more == NULL) {
                free(copy);
                return;
            }
            n->message = more;
            n->cap = cap;
        }
    }
    memcpy(copy, bytes, count);
    n->message[n->first + n->count++] = (struct message){ from->id, (uint32_t)to, count, copy };
    n->frames++;
}

static void on_done(void *ctx, const struct vshard_node_done *done)
{
    struct one *at = ctx;

    at->all->plan.done(at->all->plan.ctx, at->id, done);
}

static void on_wake(void *ctx, uint32_t what)
{
    struct nodes *n = ((struct one *)ctx)->all;

    pthread_mutex_lock(&n->lock);
    if (what & VSHARD_WAKE_WORK) {
        n->work_wanted = 1;
        pthread_cond_broadcast(&n->work);
    }
    if (what & VSHARD_WAKE_CONTROL) {
        n->control_wanted = 1;
        pthread_cond_signal(&n->control);
    }
    pthread_mutex_unlock(&n->lock);
}

/* ---- workers ---- */

static uint32_t work_once(struct nodes *n)
{
    uint32_t done = 0;

    for (uint32_t i = 1; i <= n->plan.count; i++) {
        struct one *o = &n->one[i];

        if (pthread_rwlock_tryrdlock(&o->alive) != 0)
            continue;
        if (o->node != NULL)
            done += vshard_node_work(o->node);
        pthread_rwlock_unlock(&o->alive);
    }
    return done;
}

static void *work(void *arg)
{
    struct nodes *n = arg;

    /* On Linux, of this thread alone: graphs make room for frames and heartbeats. */
    setpriority(PRIO_PROCESS, (id_t)gettid(), WORKERS_NICE);
    pthread_mutex_lock(&n->lock);
    while (!n->ending) {
        if (!n->work_wanted) {
            pthread_cond_wait(&n->work, &n->lock);
            continue;
        }
        n->work_wanted = 0; /* whoever finds more will say so */
        pthread_mutex_unlock(&n->lock);
        while (work_once(n) != 0)
            continue;
        pthread_mutex_lock(&n->lock);
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

/* ---- birth and death ---- */

static int open_one(struct one *o)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = o, .send = on_send, .done = on_done, .wake = on_wake
    };
    const struct vshard_clock clock = { clock_ns, NULL };
    /* What is long in all nodes together leaves one of the threads that they share. */
    const uint32_t workers = (o->all->plan.workers - 1) / o->all->plan.count + 1;
    const struct vshard_node_options options = { .size = sizeof options,
                                                 .workers = workers,
                                                 .node = o->id,
                                                 .search_ns = 500000000,
                                                 .path = o->path,
                                                 .host = &host,
                                                 .logger = o->all->plan.logger,
                                                 .clock = &clock };
    int rc;

    pthread_rwlock_wrlock(&o->alive);
    rc = vshard_node_open(&options, nodes_now(), &o->node);
    pthread_rwlock_unlock(&o->alive);
    return rc;
}

static int found_one(struct one *o)
{
    uint64_t founders[NODES_MAX];
    struct vshard_node_birth birth = { .size = sizeof birth,
                                       .cluster = { 0xde, 0x50 },
                                       .node = o->id,
                                       .founders = founders,
                                       .founder_count = o->all->plan.count,
                                       .path = o->path };

    for (uint32_t i = 0; i < o->all->plan.count; i++)
        founders[i] = i + 1;
    if (mkdir(o->path, 0777) != 0)
        return failed("%s: %s", o->path, strerror(errno));
    return vshard_node_format(&birth);
}

static int start_workers(struct nodes *n)
{
    while (n->workers < n->plan.workers) {
        if (pthread_create(&n->worker[n->workers], NULL, work, n) != 0)
            return failed("a thread cannot be started");
        n->workers++;
    }
    return 0;
}

struct nodes *nodes_open(const struct nodes_plan *plan)
{
    struct nodes *n = calloc(1, sizeof *n);
    int rc = 0;

    if (n == NULL) {
        failed("no memory");
        return NULL;
    }
    n->plan = *plan;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->work, NULL);
    pthread_cond_init(&n->control, NULL);
    for (uint32_t i = 1; i <= plan->count; i++) {
        struct one *o = &n->one[i];

        o->all = n;
        o->id = i;
        pthread_rwlock_init(&o->alive, NULL);
        snprintf(o->path, sizeof o->path, "%.4000s/node-%u", plan->folder, i);
    }
    for (uint32_t i = 1; i <= plan->count && rc == 0; i++) {
        rc = found_one(&n->one[i]);
        if (rc == 0)
            rc = open_one(&n->one[i]);
        if (rc != 0)
            failed("%s: %s", n->one[i].path, vshard_strerror(rc));
    }
    if (rc == 0)
        rc = start_workers(n);
    if (rc == 0)
        return n;
    nodes_close(n);
    return NULL;
}

void nodes_kill(struct nodes *n, uint32_t at)
{
    struct one *o = &n->one[at];
    struct vshard_node *node;

    pthread_rwlock_wrlock(&o->alive);
    node = o->node;
    o->node = NULL;
    pthread_rwlock_unlock(&o->alive);
    vshard_node_close(node);
}

int nodes_revive(struct nodes *n, uint32_t at)
{
    return open_one(&n->one[at]);
}

void nodes_close(struct nodes *n)
{
    if (n == NULL)
        return;
    pthread_mutex_lock(&n->lock);
    n->ending = 1;
    pthread_cond_broadcast(&n->work);
    pthread_mutex_unlock(&n->lock);
    for (uint32_t i = 0; i < n->workers; i++)
        pthread_join(n->worker[i], NULL);
    for (uint32_t i = 1; i <= n->plan.count; i++) {
        vshard_node_close(n->one[i].node);
        pthread_rwlock_destroy(&n->one[i].alive);
    }
    for (size_t i = 0; i < n->count; i++)
        free(n->message[n->first + i].bytes);
    free(n->message);
    pthread_cond_destroy(&n->work);
    pthread_cond_destroy(&n->control);
    pthread_mutex_destroy(&n->lock);
    free(n);
}

/* ---- the control thread ---- */

static int deliver(struct nodes *n)
{
    size_t through = n->count;

    for (size_t i = 0; i < through; i++) {
        struct message m = n->message[n->first++];

        n->count--;
        if (n->one[m.to].node != NULL && n->one[m.from].node != NULL)
            vshard_node_recv(n->one[m.to].node, nodes_now(), m.bytes, m.count);
        free(m.bytes);
    }
    if (n->count == 0)
        n->first = 0;
    return through != 0;
}

/* Returns when the next node wants a tick. */
static uint64_t tick(struct nodes *n, int all)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 1; i <= n->plan.count; i++) {
        struct vshard_node *node = n->one[i].node;
        uint64_t at;

        if (node == NULL)
            continue;
        if (all || vshard_node_deadline_ns(node) <= nodes_now())
            vshard_node_tick(node, nodes_now());
        at = vshard_node_deadline_ns(node);
        next = at < next ? at : next;
    }
    return next;
}

static void sleep_until(struct nodes *n, uint64_t at)
{
    uint64_t now = nodes_now(), left = at > now ? at - now : 0;
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += (time_t)((left + (uint64_t)t.tv_nsec) / 1000000000);
    t.tv_nsec = (long)((left + (uint64_t)t.tv_nsec) % 1000000000);
    pthread_mutex_lock(&n->lock);
    while (!n->control_wanted && left > 0 && pthread_cond_timedwait(&n->control, &n->lock, &t) == 0)
        continue;
    pthread_mutex_unlock(&n->lock);
}

static int was_woken(struct nodes *n)
{
    int woken;

    pthread_mutex_lock(&n->lock);
    woken = (int)n->control_wanted;
    n->control_wanted = 0;
    pthread_mutex_unlock(&n->lock);
    return woken;
}

void nodes_pump(struct nodes *n, uint64_t until, const int *stop)
{
    do {
        uint64_t next = tick(n, was_woken(n));

        if (!deliver(n) && (stop == NULL || *stop == 0))
            sleep_until(n, next < until ? next : until);
    } while (nodes_now() < until && (stop == NULL || *stop == 0));
}
