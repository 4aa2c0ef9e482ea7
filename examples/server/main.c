/* main.c - one node of a cluster as a process: libuv for the network, threads for work.
 *
 *     server CONFIG            runs the node
 *     server CONFIG --format   makes its directory a node's home first
 *     server CONFIG --joins    likewise, as a node that enters a cluster that exists
 *
 * The configuration, of which examples/server/example.conf is one, says who is who. SIGTERM
 * and SIGINT end it; the process may be killed at any moment. */
#define _GNU_SOURCE /* gettid() */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- saying things ---- */

/* What the node refuses it names in an event, in the call; other threads have events, too. */
static void keep_why(struct server *s, const char *name, const struct vshard_log_field *field,
                     size_t count)
{
    uv_thread_t here = uv_thread_self();
    const char *end = strstr(name, ".refused");

    if (end == NULL || end[8] != 0 || !uv_thread_equal(&here, &s->thread) || count < 3 ||
        field[0].kind != VSHARD_FIELD_TEXT)
        return;
    if (field[2].integer != 0)
        snprintf(s->why, sizeof s->why, "%s %" PRId64 ", limit %" PRId64, field[0].text,
                 field[1].integer, field[2].integer);
    else
        snprintf(s->why, sizeof s->why, "%s %" PRId64, field[0].text, field[1].integer);
}

static void on_event(void *ctx, uint32_t level, const char *name,
                     const struct vshard_log_field *field, size_t count)
{
    keep_why(ctx, name, field, count);
    log_event(level, name, field, count);
}

void *take(void *old, size_t bytes)
{
    void *p = realloc(old, bytes);

    if (p == NULL)
        die("memory", "there is none");
    return p;
}

void bytes_add(struct bytes *b, const void *from, size_t count)
{
    if (b->count + count + 1 > b->cap) {
        b->cap = 2 * (b->count + count) + 64;
        b->at = take(b->at, b->cap);
    }
    memcpy(b->at + b->count, from, count);
    b->count += count;
}

void bytes_print(struct bytes *b, const char *format, ...)
{
    char text[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bytes_add(b, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

void bytes_drop(struct bytes *b, size_t count)
{
    memmove(b->at, b->at + count, b->count - count);
    b->count -= count;
}

uint64_t server_now(void)
{
    return uv_hrtime();
}

/* ---- what the node wants ---- */

static void on_send(void *ctx, uint64_t node, const void *frame, size_t bytes)
{
    struct server *s = ctx;

    peers_send(s->peers, node, frame, bytes);
}

static void on_done(void *ctx, const struct vshard_node_done *done)
{
    struct server *s = ctx;

    clients_done(s->clients, done);
}

/* Any thread. */
static void on_wake(void *ctx, uint32_t what)
{
    struct server *s = ctx;

    if (what & VSHARD_WAKE_CONTROL)
        uv_async_send(&s->async);
    if (!(what & VSHARD_WAKE_WORK))
        return;
    uv_mutex_lock(&s->lock);
    s->work_wanted = true;
    uv_cond_broadcast(&s->work);
    uv_mutex_unlock(&s->lock);
}

/* Does what there is to do; what is left when the server ends is done when it runs again. */
static void work_off(struct server *s)
{
    while (!atomic_load(&s->ending) && vshard_node_work(s->node) != 0)
        continue;
}

static void work(void *arg)
{
    struct server *s = arg;

    /* First the shards are opened that the node has: until then it answers nothing. */
    work_off(s);
    /* On Linux, of this thread alone: graphs make room for what is to become durable. It is nicer
     * than the loop, however nice that was started. */
    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, 0) + s->config.nice);
    uv_mutex_lock(&s->lock);
    while (!atomic_load(&s->ending)) {
        if (!s->work_wanted) {
            uv_cond_wait(&s->work, &s->lock);
            continue;
        }
        s->work_wanted = false;
        uv_mutex_unlock(&s->lock);
        work_off(s);
        uv_mutex_lock(&s->lock);
    }
    uv_mutex_unlock(&s->lock);
}

/* ---- the loop ---- */

static void must_live(int rc)
{
    if (rc != VSHARD_OK && rc != VSHARD_EBUSY)
        die("the node has stopped", vshard_strerror(rc));
}

static void on_async(uv_async_t *async)
{
    ((struct server *)async->data)->woken = true;
}

/* A timer that is due when the loop comes to its timers, as after a long tick, runs before the
 * poll; and nothing else may ever arrive that ends the poll, so that the check comes. */
static void on_timer(uv_timer_t *timer)
{
    struct server *s = timer->data;

    s->woken = true;
    uv_async_send(&s->async);
}

/* Once a turn of the loop: what has arrived was taken in, and now time passes. */
static void on_check(uv_check_t *check)
{
    struct server *s = check->data;
    uint64_t at;

    if (s->woken || vshard_node_deadline_ns(s->node) <= server_now()) {
        s->woken = false;
        must_live(vshard_node_tick(s->node, server_now()));
    }
    at = vshard_node_deadline_ns(s->node);
    if (at == UINT64_MAX) /* it has stopped, in another call than a tick, and wants none any more */
        must_live(vshard_node_tick(s->node, server_now()));
    else
        uv_timer_start(&s->timer, on_timer,
                       at > server_now() ? (at - server_now() + 999999) / 1000000 : 0, 0);
}

/* ---- birth and death ---- */

static void lock_directory(const char *dir)
{
    char path[4096];
    int fd;

    snprintf(path, sizeof path, "%s/lock", dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        die(path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        die(dir, "another process has this directory");
}

static bool is_zero(struct vshard_key key)
{
    return key.hi == 0 && key.lo == 0;
}

static bool is_founder(const struct config *c)
{
    uint32_t i = 0;

    while (i < c->founder_count && c->founders[i] != c->node)
        i++;
    return i < c->founder_count;
}

static void format(const struct config *c, bool joins, const struct vshard_logger *logger)
{
    char why[128];
    const struct vshard_node_birth birth = { .size = sizeof birth,
                                             .flags = joins ? VSHARD_NODE_JOINS : 0,
                                             .cluster = c->cluster,
                                             .node = c->node,
                                             .founders = c->founders,
                                             .founder_count = joins ? 0 : c->founder_count,
                                             .region = c->region,
                                             .path = c->dir,
                                             .logger = logger };
    int rc;

    if (!joins && c->region != 0) {
        snprintf(why, sizeof why, "%" PRIu32 ", and founders stand in 0; others join", c->region);
        die("region", why);
    }
    if (is_zero(c->cluster))
        die("cluster", "it is needed, the same on all nodes");
    if (!joins && !is_founder(c))
        die("founder", "this node is to be one, or joins others (--joins)");
    rc = vshard_node_format(&birth);
    if (rc == VSHARD_EEXIST)
        die(c->dir, "a node lives there already; it runs without --format and --joins");
    if (rc != VSHARD_OK)
        die("format", vshard_strerror(rc));
}

static void open_node(struct server *s, const struct vshard_logger *logger)
{
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = s, .send = on_send, .done = on_done, .wake = on_wake
    };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .workers = s->config.workers,
                                           .node = s->config.node,
                                           .path = s->config.dir,
                                           .host = &host,
                                           .cache_bytes = s->config.cache_bytes,
                                           .logger = logger };
    struct vshard_node_status status = { .size = sizeof status };
    char why[128];
    int rc = vshard_node_open(&o, server_now(), &s->node);

    if (rc == VSHARD_ENOTFOUND)
        die(s->config.dir, "no node lives there yet (--format, or --joins)");
    if (rc == VSHARD_ESTALE)
        die(s->config.dir, "another node lives there");
    if (rc != VSHARD_OK)
        die(s->config.dir, vshard_strerror(rc));
    vshard_node_status(s->node, &status);
    if (!is_zero(s->config.cluster) &&
        (status.cluster.hi != s->config.cluster.hi || status.cluster.lo != s->config.cluster.lo))
        die("cluster", "the node in this directory is of another one");
    if (s->config.region_named && status.region != s->config.region) {
        snprintf(why, sizeof why, "%" PRIu32 ", and the node was formatted in %" PRIu32,
                 s->config.region, status.region);
        die("region", why);
    }
}

static const char usage[] =
    "usage: server CONFIG [--format | --joins]\n"
    "Runs one node of a cluster, until SIGTERM; CONFIG is like examples/server/example.conf.\n"
    "\n"
    "  --format   makes the directory, a node's home, first: once, when the cluster is born\n"
    "  --joins    likewise, as a node that enters a cluster that exists; vshardctl join follows\n";

/* Whether the directory is to be made a home: 0, 'f' or 'j'. */
static int read_arguments(int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        exit(0);
    }
    if (argc == 2 && argv[1][0] != '-')
        return 0;
    if (argc == 3 && argv[1][0] != '-' && strcmp(argv[2], "--format") == 0)
        return 'f';
    if (argc == 3 && argv[1][0] != '-' && strcmp(argv[2], "--joins") == 0)
        return 'j';
    fputs(usage, stderr);
    exit(2);
}

/* What is acknowledged is durable at any moment; but what is under way is answered, and what is
 * open is closed. */
static void on_stop(uv_signal_t *signal, int number)
{
    struct server *s = signal->data;

    log_line("server.ends", "why", number == SIGTERM ? "SIGTERM" : "SIGINT", 0);
    uv_stop(s->loop);
}

static void stop_at(struct server *s, uv_signal_t *signal, int number)
{
    uv_signal_init(s->loop, signal);
    signal->data = s;
    uv_signal_start(signal, on_stop, number);
}

static void close_node(struct server *s)
{
    uv_mutex_lock(&s->lock);
    atomic_store(&s->ending, true);
    uv_cond_broadcast(&s->work);
    uv_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->config.workers; i++)
        uv_thread_join(&s->worker[i]);
    vshard_node_close(s->node);
}

int main(int argc, char **argv)
{
    static struct server s;
    const struct vshard_logger logger = { on_event, &s };
    int born = read_arguments(argc, argv);

    s.thread = uv_thread_self();
    signal(SIGPIPE, SIG_IGN);
    config_read(&s.config, argv[1]);
    if (born != 0 && mkdir(s.config.dir, 0777) != 0 && errno != EEXIST)
        die(s.config.dir, strerror(errno));
    lock_directory(s.config.dir);
    if (born != 0)
        format(&s.config, born == 'j', &logger);
    s.loop = uv_default_loop();
    uv_mutex_init(&s.lock);
    uv_cond_init(&s.work);
    uv_async_init(s.loop, &s.async, on_async);
    uv_timer_init(s.loop, &s.timer);
    uv_check_init(s.loop, &s.check);
    s.async.data = s.timer.data = s.check.data = &s;
    s.peers = peers_open(&s);
    open_node(&s, &logger);
    s.clients = clients_open(&s);
    for (uint32_t i = 0; i < s.config.workers; i++) {
        if (uv_thread_create(&s.worker[i], work, &s) != 0)
            die("a thread", "cannot be started");
    }
    uv_check_start(&s.check, on_check);
    stop_at(&s, &s.stop[0], SIGTERM);
    stop_at(&s, &s.stop[1], SIGINT);
    s.woken = true;
    uv_async_send(&s.async);
    log_line("server.runs", "node", NULL, (int64_t)s.config.node);
    uv_run(s.loop, UV_RUN_DEFAULT);
    close_node(&s);
    return 0;
}
