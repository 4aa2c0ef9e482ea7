/* main.c - one node of a cluster as a process: libuv for the network, threads for work.
 *
 *     server CONFIG            runs the node
 *     server CONFIG --format   makes its directory a node's home first
 *     server CONFIG --joins    likewise, as a node that enters a cluster that exists
 *
 * The configuration, of which examples/server/example.conf is one, says who is who. The
 * process may be killed at any moment. */
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
#include <unistd.h>

/* ---- saying things ---- */

static void json_text(const char *text)
{
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', stderr);
        if ((unsigned char)*text >= ' ')
            fputc(*text, stderr);
    }
}

void log_line(const char *event, const char *name, const char *text, int64_t value)
{
    fprintf(stderr, "{\"ms\":%" PRIu64 ",\"event\":\"%s\"", server_now() / 1000000, event);
    if (text != NULL) {
        fprintf(stderr, ",\"%s\":\"", name);
        json_text(text);
        fputc('"', stderr);
    } else if (name != NULL) {
        fprintf(stderr, ",\"%s\":%" PRId64, name, value);
    }
    fputs("}\n", stderr);
}

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
    fprintf(stderr, "{\"ms\":%" PRIu64 ",\"level\":%" PRIu32 ",\"event\":\"%s\"",
            server_now() / 1000000, level, name);
    for (size_t i = 0; i < count; i++) {
        fprintf(stderr, ",\"%s\":", field[i].name);
        if (field[i].kind == VSHARD_FIELD_TEXT) {
            fputc('"', stderr);
            json_text(field[i].text);
            fputc('"', stderr);
        } else if (field[i].kind == VSHARD_FIELD_REAL) {
            fprintf(stderr, "%g", field[i].real);
        } else {
            fprintf(stderr, "%" PRId64, field[i].integer);
        }
    }
    fputs("}\n", stderr);
}

void die(const char *what, const char *why)
{
    log_line("server.ends", what, why, 0);
    exit(1);
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

/* ---- the configuration ---- */

static uint64_t read_number(const char *name, const char *value, uint64_t limit)
{
    char why[128];
    uint64_t number;

    if (!number_read(value, limit, &number)) {
        snprintf(why, sizeof why, "'%.40s' is no number up to %" PRIu64, value, limit);
        die(name, why);
    }
    return number;
}

static void read_address(const char *name, const char *text, struct address *to)
{
    char host[64], digits[64], why[128];
    uint64_t port;

    if (sscanf(text, "%63[^:]:%63s", host, digits) != 2 || !number_read(digits, 65535, &port) ||
        uv_ip4_addr(host, (int)port, (struct sockaddr_in *)&to->at) != 0) {
        snprintf(why, sizeof why, "'%.60s' is not an address and a port", text);
        die(name, why);
    }
}

static void read_line(struct config *c, const char *name, char *value)
{
    char where[128];
    uint64_t node;

    if (strcmp(name, "node") == 0)
        c->node = read_number(name, value, UINT64_MAX);
    else if (strcmp(name, "cluster") == 0)
        c->cluster = vshard_key_hash(value, strlen(value));
    else if (strcmp(name, "dir") == 0)
        snprintf(c->dir, sizeof c->dir, "%.2999s", value);
    else if (strcmp(name, "workers") == 0)
        c->workers = (uint32_t)read_number(name, value, WORKERS_MAX);
    else if (strcmp(name, "nice") == 0)
        c->nice = (int)strtol(value, NULL, 0);
    else if (strcmp(name, "region") == 0) {
        c->region = (uint32_t)read_number(name, value, UINT32_MAX);
        c->region_named = true;
    } else if (strcmp(name, "cache_bytes") == 0)
        c->cache_bytes = read_number(name, value, UINT64_MAX);
    else if (strcmp(name, "listen") == 0)
        read_address(name, value, &c->listen);
    else if (strcmp(name, "client") == 0)
        read_address(name, value, &c->client);
    else if (strcmp(name, "founder") == 0 && c->founder_count < NODES_MAX)
        c->founders[c->founder_count++] = read_number(name, value, UINT64_MAX);
    else if (strcmp(name, "peer") == 0 && c->peer_count < NODES_MAX &&
             sscanf(value, "%" SCNu64 " %127s", &node, where) == 2) {
        c->peer[c->peer_count].node = node;
        read_address(name, where, &c->peer[c->peer_count++]);
    } else {
        die("the configuration does not take", name);
    }
}

void config_read(struct config *c, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[4096], name[64], value[3500];

    if (file == NULL)
        die(path, strerror(errno));
    *c = (struct config){ .workers = 3, .nice = 5 };
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#' || line[strspn(line, " \t\n")] == 0)
            continue;
        if (sscanf(line, " %63[a-z_] = %3499[^\n]", name, value) != 2)
            die("not a line of a configuration", line);
        for (size_t n = strlen(value); n > 0 && strchr(" \t\r", value[n - 1]) != NULL;)
            value[--n] = 0;
        read_line(c, name, value);
    }
    fclose(file);
    if (c->node == 0 || c->dir[0] == 0 || c->listen.at.ss_family == 0 ||
        c->client.at.ss_family == 0)
        die(path, "node, dir, listen and client are needed");
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

static void work(void *arg)
{
    struct server *s = arg;

    /* First the shards are opened that the node has: until then it answers nothing. */
    while (vshard_node_work(s->node) != 0)
        continue;
    /* On Linux, of this thread alone: graphs make room for what is to become durable. It is nicer
     * than the loop, however nice that was started. */
    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, 0) + s->config.nice);
    uv_mutex_lock(&s->lock);
    while (!s->ending) {
        if (!s->work_wanted) {
            uv_cond_wait(&s->work, &s->lock);
            continue;
        }
        s->work_wanted = false;
        uv_mutex_unlock(&s->lock);
        while (vshard_node_work(s->node) != 0)
            continue;
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
    rc = vshard_node_format(&birth);
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
    if (rc != VSHARD_OK)
        die(s->config.dir, vshard_strerror(rc));
    vshard_node_status(s->node, &status);
    if (s->config.region_named && status.region != s->config.region) {
        snprintf(why, sizeof why, "%" PRIu32 ", and the node was formatted in %" PRIu32,
                 s->config.region, status.region);
        die("region", why);
    }
}

static const char usage[] =
    "usage: server CONFIG [--format | --joins]\n"
    "Runs one node of a cluster; CONFIG is like examples/server/example.conf.\n"
    "\n"
    "  --format   makes the directory a node's home first: once, when the cluster is born\n"
    "  --joins    likewise, as a node that enters a cluster that exists\n";

/* Whether the directory is to be made a home: 0, 'f' or 'j'. */
static int read_arguments(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
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

int main(int argc, char **argv)
{
    static struct server s;
    const struct vshard_logger logger = { on_event, &s };
    int born = read_arguments(argc, argv);

    s.thread = uv_thread_self();
    signal(SIGPIPE, SIG_IGN);
    config_read(&s.config, argv[1]);
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
    s.woken = true;
    uv_async_send(&s.async);
    log_line("server.runs", "node", NULL, (int64_t)s.config.node);
    return uv_run(s.loop, UV_RUN_DEFAULT);
}
