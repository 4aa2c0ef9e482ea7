/* main.c - options, signals, and bytes. */
#include "host.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t own_node; /* for messages */

/* ---- words and memory ---- */

static void print(const char *format, va_list args)
{
    char text[1024];
    int n = snprintf(text, sizeof text, "n%" PRIu64 ": ", own_node);

    vsnprintf(text + n, sizeof text - (size_t)n, format, args);
    fprintf(stderr, "%s\n", text);
}

void say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print(format, args);
    va_end(args);
}

_Noreturn void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print(format, args);
    va_end(args);
    _Exit(1);
}

void *take(void *old, size_t bytes)
{
    void *p = realloc(old, bytes > 0 ? bytes : 1);

    if (p == NULL)
        die("out of memory");
    return p;
}

char *bytes_room(struct bytes *b, size_t count)
{
    if (count > b->cap - b->count) {
        size_t cap = 2 * b->cap > b->count + count ? 2 * b->cap : b->count + count;

        b->at = take(b->at, cap);
        b->cap = cap;
    }
    return b->at + b->count;
}

void bytes_add(struct bytes *b, const void *from, size_t count)
{
    if (count == 0)
        return;
    memcpy(bytes_room(b, count), from, count);
    b->count += count;
}

void bytes_print(struct bytes *b, const char *format, ...)
{
    va_list args, again;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    vsnprintf(bytes_room(b, (size_t)n + 1), (size_t)n + 1, format, again);
    va_end(again);
    b->count += (size_t)n;
}

void bytes_free(struct bytes *b)
{
    free(b->at);
    *b = (struct bytes){ 0 };
}

/* ---- writing to a stream ---- */

static void on_written(uv_write_t *request, int status)
{
    struct outlet *o = request->data;

    (void)status; /* the reader of the stream notices that it broke */
    o->busy = false;
    o->flying.count = 0;
    if (status == 0 && !uv_is_closing((uv_handle_t *)o->stream))
        outlet_flush(o);
}

int outlet_flush(struct outlet *o)
{
    struct bytes swap;
    uv_buf_t buffer;
    int n;

    if (o->busy || o->next.count == 0)
        return 0;
    buffer = uv_buf_init(o->next.at, (unsigned)o->next.count);
    n = uv_try_write(o->stream, &buffer, 1);
    if (n < 0 && n != UV_EAGAIN)
        return n;
    if (n > 0 && (size_t)n == o->next.count) {
        o->next.count = 0;
        return 0;
    }
    swap = o->flying;
    o->flying = o->next;
    o->next = swap;
    n = n > 0 ? n : 0;
    buffer = uv_buf_init(o->flying.at + n, (unsigned)(o->flying.count - (size_t)n));
    o->request.data = o;
    o->busy = true;
    n = uv_write(&o->request, o->stream, &buffer, 1, on_written);
    if (n != 0)
        o->busy = false;
    return n;
}

void outlet_free(struct outlet *o)
{
    bytes_free(&o->next);
    bytes_free(&o->flying);
}

/* ---- options ---- */

static const char usage[] =
    "usage: log-host --node N --dir DIR --peers N=HOST:PORT,... --client HOST:PORT [options]\n"
    "\n"
    "One of a few processes that keep keys and values together. HOST is a number, as\n"
    "127.0.0.1 or [::1]. --peers lists all nodes, this one too.\n"
    "\n"
    "  --init             found a cluster: once, on each of its first nodes\n"
    "  --join             this node's disk was lost, or it is new: start empty, and wait\n"
    "                     for `replace` at the leader to let it in\n"
    "  --cluster N        a number that all nodes share (1)\n"
    "  --key-file FILE    seal what nodes send each other: 64 hex digits a line, of one or\n"
    "                     two keys, the first of which seals\n"
    "  --election MS      silence before an election, at least (150)\n"
    "  --segment KIB      bytes of a file of the log, 64..1048576 (32768)\n"
    "  --snapshot-every N entries between snapshots (200000)\n"
    "  --help\n"
    "\n"
    "Clients send lines, as in: printf '1 put 0 0 color blue\\n' | nc 127.0.0.1 PORT\n"
    "The head of clients.c lists them. SIGINT and SIGTERM hand leadership over and stop.\n";

static _Noreturn void wrong(const char *format, ...)
{
    va_list args;

    fputs("log-host: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\nTry 'log-host --help'.\n", stderr);
    exit(2);
}

static uint64_t number(const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < low || value > high)
        wrong("%s takes a number from %" PRIu64 " to %" PRIu64 ", not '%s'", name, low, high, text);
    return value;
}

static void address(const char *name, const char *text, struct sockaddr_storage *to)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t count = colon != NULL ? (size_t)(colon - text) : 0;
    int port;

    if (colon == NULL || count == 0 || count >= sizeof host)
        wrong("%s takes HOST:PORT, not '%s'", name, text);
    port = (int)number("a port", colon + 1, 1, 65535);
    memcpy(host, text, count);
    host[count] = '\0';
    if (host[0] == '[' && host[count - 1] == ']') {
        host[count - 1] = '\0';
        if (uv_ip6_addr(host + 1, port, (struct sockaddr_in6 *)to) == 0)
            return;
    } else if (uv_ip4_addr(host, port, (struct sockaddr_in *)to) == 0) {
        return;
    }
    wrong("%s takes an address in numbers, not '%s'", name, text);
}

static void peers(struct options *o, char *text)
{
    for (char *item = strtok(text, ","); item != NULL; item = strtok(NULL, ",")) {
        char *equals = strchr(item, '=');

        if (equals == NULL)
            wrong("--peers takes N=HOST:PORT,..., not '%s'", item);
        if (o->peer_count == NODES_MAX)
            wrong("--peers takes up to %d nodes", NODES_MAX);
        *equals = '\0';
        o->peers[o->peer_count].node = number("a node", item, 1, UINT32_MAX);
        for (uint32_t i = 0; i < o->peer_count; i++) {
            if (o->peers[i].node == o->peers[o->peer_count].node)
                wrong("--peers lists node %s twice", item);
        }
        address("--peers", equals + 1, &o->peers[o->peer_count++].at);
    }
}

static void keys(struct options *o, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[80];

    if (file == NULL)
        wrong("%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file) != NULL) {
        struct vshard_wire_key *k = &o->keys[o->key_count];

        line[strcspn(line, "\r\n")] = '\0';
        if (o->key_count == VSHARD_WIRE_KEYS_MAX || strlen(line) != 64 ||
            strspn(line, "0123456789abcdefABCDEF") != 64)
            wrong("%s: one or two lines of 64 hex digits are wanted", path);
        for (int i = 0; i < 32; i++) {
            const char digits[] = { line[2 * i], line[2 * i + 1], '\0' };

            k->key[i] = (uint8_t)strtoul(digits, NULL, 16);
        }
        /* The same key must have the same id on all nodes, first or second. */
        k->id = (uint32_t)vshard_key_hash(k->key, sizeof k->key).lo | 1;
        o->key_count++;
    }
    fclose(file);
    if (o->key_count == 0)
        wrong("%s: there is no key", path);
}

static void options_read(struct options *o, int argc, char **argv)
{
    enum { NODE = 1, DIR, PEERS, CLIENT, INIT, JOIN, CLUSTER, KEYS, ELECTION, SEGMENT, SNAP, HELP };
    static const struct option known[] = { { "node", 1, NULL, NODE },
                                           { "dir", 1, NULL, DIR },
                                           { "peers", 1, NULL, PEERS },
                                           { "client", 1, NULL, CLIENT },
                                           { "init", 0, NULL, INIT },
                                           { "join", 0, NULL, JOIN },
                                           { "cluster", 1, NULL, CLUSTER },
                                           { "key-file", 1, NULL, KEYS },
                                           { "election", 1, NULL, ELECTION },
                                           { "segment", 1, NULL, SEGMENT },
                                           { "snapshot-every", 1, NULL, SNAP },
                                           { "help", 0, NULL, HELP },
                                           { NULL, 0, NULL, 0 } };
    bool client = false, listed = false;
    int c;

    *o = (struct options){ .cluster = 1, .snapshot_every = 200000 };
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case NODE: o->node = number("--node", optarg, 1, UINT32_MAX); break;
        case DIR: o->dir = optarg; break;
        case PEERS: peers(o, optarg); break;
        case CLIENT:
            address("--client", optarg, &o->client);
            client = true;
            break;
        case INIT: o->init = true; break;
        case JOIN: o->join = true; break;
        case CLUSTER: o->cluster = number("--cluster", optarg, 1, UINT64_MAX); break;
        case KEYS: keys(o, optarg); break;
        case ELECTION: o->election_ms = number("--election", optarg, 60, 60000); break;
        case SEGMENT: o->segment_kib = number("--segment", optarg, 64, 1048576); break;
        case SNAP: o->snapshot_every = number("--snapshot-every", optarg, 1, UINT32_MAX); break;
        case HELP: fputs(usage, stdout); exit(fflush(stdout) == 0 ? 0 : 1);
        default: wrong("see above");
        }
    }
    if (optind < argc)
        wrong("what is '%s' for?", argv[optind]);
    if (o->node == 0 || o->dir == NULL || o->peer_count == 0 || !client)
        wrong("--node, --dir, --peers and --client are required");
    if (strlen(o->dir) > 2000)
        wrong("--dir is too long");
    if (o->init && o->join)
        wrong("--init founds a cluster, --join enters one: not both");
    for (uint32_t i = 0; i < o->peer_count; i++)
        listed = listed || o->peers[i].node == o->node;
    if (!listed)
        wrong("--peers does not list node %" PRIu64, o->node);
}

/* ---- the process ---- */

static void on_signal(uv_signal_t *signal, int number_of)
{
    say("stopping (signal %d)", number_of);
    node_stop(signal->data);
}

int main(int argc, char **argv)
{
    struct options o;
    uv_loop_t loop;
    uv_signal_t interrupt, terminate;
    struct node *n;

    signal(SIGPIPE, SIG_IGN); /* that a peer or a client is gone, writing says */
    options_read(&o, argc, argv);
    own_node = o.node;
    if (uv_loop_init(&loop) != 0)
        die("cannot make a loop");
    n = node_open(&loop, &o);
    uv_signal_init(&loop, &interrupt);
    uv_signal_init(&loop, &terminate);
    interrupt.data = terminate.data = n;
    uv_signal_start(&interrupt, on_signal, SIGINT);
    uv_signal_start(&terminate, on_signal, SIGTERM);
    uv_run(&loop, UV_RUN_DEFAULT);

    node_close(n);
    say("stopped");
    return 0;
}
