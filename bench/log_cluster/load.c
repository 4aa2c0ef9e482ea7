/* load.c - keeps so many writes in flight at examples/log-host, each sent until it is
 * answered, and says how fast that went and whether every one was done exactly once.
 *
 *     load --nodes 1=PORT,2=PORT,3=PORT [--in-flight N] [--seconds S | 0: until SIGINT]
 *          [--value BYTES] [--keys N] [--add] [--connections N]
 *
 * A lane is a client session with up to 16 writes in flight. With --add each write adds
 * 1 to the lane's counter; at the end all counters are read and must be equal to the
 * writes that were acknowledged: fewer, and one was lost; more, and one was done twice.
 *
 * Output, times of CLOCK_MONOTONIC in ns:
 *     term <term> <last acknowledgement before> <first acknowledgement of that term>
 *     result ops=.. seconds=.. rate=.. p50_ms=.. ...
 *     verified <writes> writes, each done once                     (--add) */
#define _GNU_SOURCE /* ppoll() */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NODES = 16, CONNECTIONS = 16, LANE_DEPTH = 16, WINDOW = 64, SAMPLES = 1 << 24 };
enum { PATIENCE = 300000 }; /* ns before what was refused is sent again */

enum { FREE, WAITING, SENT }; /* of a write */

struct op {
    uint64_t sequence, begun, not_before;
    int state, connection;
};

struct lane {
    uint64_t session, next, done; /* sequences used, writes acknowledged */
    struct op op[LANE_DEPTH];
    int opening, connection; /* of `open` */
    uint64_t not_before;
};

struct connection {
    int fd, node, connecting;
    char *in, *out;
    size_t in_count, in_cap, out_count, out_cap;
    uint64_t retry;
};

static struct sockaddr_in address[NODES];
static int node_id[NODES], node_count, connection_count = 1, lane_count, depth;
static struct connection conn[NODES * CONNECTIONS];
static struct lane *lane;
static int target; /* index of the node that is thought to lead */
static uint64_t target_since;
static uint64_t term, last_ack, retries, ops;
static uint32_t *sample; /* us */
static int in_flight = 32, value_bytes = 256, keys = 10000, adding;
static double seconds = 5;
static int waiting; /* a write waits to be sent again */
static volatile sig_atomic_t stop;
static char chance[1 << 22]; /* letters drawn by chance: what is written does not compress */

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void *room(char **at, size_t count, size_t *cap, size_t more)
{
    if (count + more > *cap) {
        *cap = 2 * (count + more);
        *at = realloc(*at, *cap);
        if (*at == NULL)
            fail("out of memory");
    }
    return *at + count;
}

/* ---- connections: `connection_count` for each node, of which the target's are used ---- */

static struct connection *connection_of(int node, int k)
{
    return &conn[node * CONNECTIONS + k];
}

static void aim(int node)
{
    target = node;
    target_since = now();
}

static void aim_next(int from)
{
    if (from == target)
        aim((target + 1) % node_count);
}

static void lost(struct connection *c)
{
    int id = (int)(c - conn);

    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->in_count = c->out_count = 0;
    c->retry = now() + 5000000;
    for (int i = 0; i < lane_count; i++) {
        if (lane[i].opening && lane[i].connection == id)
            lane[i].opening = 0;
        for (int k = 0; k < depth; k++) {
            struct op *o = &lane[i].op[k];
            if (o->state == SENT && o->connection == id) {
                o->state = WAITING;
                retries++;
            }
        }
    }
    aim_next(c->node);
}

static void attempt(struct connection *c)
{
    const int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("no socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connecting = 1;
    if (connect(c->fd, (struct sockaddr *)&address[c->node], sizeof address[0]) != 0 &&
        errno != EINPROGRESS)
        lost(c);
}

static void flush(struct connection *c)
{
    while (c->out_count > 0) {
        ssize_t n = send(c->fd, c->out, c->out_count, MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lost(c);
            return;
        }
        memmove(c->out, c->out + n, c->out_count - (size_t)n);
        c->out_count -= (size_t)n;
    }
}

/* ---- writes ---- */

static int usable(const struct connection *c)
{
    return c->fd >= 0 && !c->connecting && c->out_count < (4u << 20);
}

static void send_op(int l, int k, struct connection *c)
{
    struct lane *a = &lane[l];
    struct op *o = &a->op[k];
    char *to = room(&c->out, c->out_count, &c->out_cap, 512 + (size_t)value_bytes);
    int n;

    if (adding)
        n = sprintf(to, "%d.%d add %" PRIu64 " %" PRIu64 " lane%d 1\n", l, k, a->session,
                    o->sequence, l);
    else
        n = sprintf(to, "%d.%d put %" PRIu64 " %" PRIu64 " k%07" PRIu64 " %.*s\n", l, k, a->session,
                    o->sequence, ((uint64_t)l * 7919 + o->sequence) % (uint64_t)keys, value_bytes,
                    chance + (o->sequence * 509 + (uint64_t)l * 65537) % (sizeof chance - 4097));
    c->out_count += (size_t)n;
    o->state = SENT;
    o->connection = (int)(c - conn);
}

static uint64_t oldest(const struct lane *a)
{
    uint64_t low = a->next;

    for (int k = 0; k < depth; k++) {
        if (a->op[k].state != FREE && a->op[k].sequence < low)
            low = a->op[k].sequence;
    }
    return low;
}

static void feed_lane(int l, uint64_t at)
{
    struct lane *a = &lane[l];
    struct connection *c = connection_of(target, l % connection_count);

    if (!usable(c) || at < a->not_before)
        return;
    if (a->session == 0) {
        if (!a->opening) {
            char *to = room(&c->out, c->out_count, &c->out_cap, 64);
            c->out_count += (size_t)sprintf(to, "%d open\n", l);
            a->opening = 1;
            a->connection = (int)(c - conn);
        }
        return;
    }
    for (int k = 0; k < depth; k++) {
        struct op *o = &a->op[k];

        if (o->state == FREE && !stop && l * LANE_DEPTH + k < in_flight &&
            a->next + 1 - oldest(a) < WINDOW) {
            *o = (struct op){ .sequence = ++a->next, .begun = at, .state = WAITING };
        }
        if (o->state == WAITING && at >= o->not_before)
            send_op(l, k, c);
        waiting |= o->state == WAITING;
    }
}

static void acknowledge(struct lane *a, struct op *o, uint64_t of_term, uint64_t at)
{
    if (of_term > term) {
        printf("term %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", of_term, last_ack, at);
        fflush(stdout);
        term = of_term;
    }
    last_ack = at;
    a->done++;
    sample[ops++ % SAMPLES] = (uint32_t)((at - o->begun) / 1000);
    o->state = FREE;
}

static void refused(const char *why, int node, uint64_t *not_before, uint64_t at)
{
    int leader = 0;

    retries++;
    *not_before = at + PATIENCE;
    if (sscanf(why, "notleader %d", &leader) == 1) {
        for (int i = 0; leader != 0 && i < node_count; i++) {
            if (node_id[i] == leader && node == target && i != target)
                aim(i);
        }
        if (leader == 0)
            aim_next(node);
    } else if (strncmp(why, "full", 4) == 0) {
        *not_before = at + 100000000;
    } else if (strncmp(why, "expired", 7) == 0) {
        fail("a session expired");
    }
}

static void on_answer(struct connection *c, char *text, uint64_t at)
{
    char *rest = text, word[32] = "";
    int l, k = -1, used = 0;
    uint64_t index = 0, of_term = 0;

    l = (int)strtol(rest, &rest, 10);
    if (*rest == '.')
        k = (int)strtol(rest + 1, &rest, 10);
    if (l < 0 || l >= lane_count || k >= depth || sscanf(rest, "%31s %n", word, &used) != 1)
        fail("an answer that is none");
    rest += used;
    if (word[0] != 'e') {
        index = strtoull(rest, &rest, 10);
        of_term = strtoull(rest, &rest, 10);
    }
    if (k < 0) {
        lane[l].opening = 0;
        if (word[0] == 'o')
            lane[l].session = index;
        else
            refused(rest, c->node, &lane[l].not_before, at);
        return;
    }
    if (lane[l].op[k].state != SENT)
        return;
    if (word[0] == 'e') {
        lane[l].op[k].state = WAITING;
        refused(rest, c->node, &lane[l].op[k].not_before, at);
    } else {
        acknowledge(&lane[l], &lane[l].op[k], of_term, at);
    }
}

static void on_readable(struct connection *c)
{
    ssize_t n = recv(c->fd, room(&c->in, c->in_count, &c->in_cap, 256 << 10), 256 << 10, 0);
    uint64_t at = now();
    char *from, *end;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        lost(c);
        return;
    }
    c->in_count += (size_t)n;
    for (from = c->in; (end = memchr(from, '\n', c->in_count - (size_t)(from - c->in))) != NULL;
         from = end + 1) {
        *end = '\0';
        on_answer(c, from, at);
    }
    c->in_count -= (size_t)(from - c->in);
    memmove(c->in, from, c->in_count);
}

static int busy(void)
{
    for (int i = 0; i < lane_count; i++) {
        for (int k = 0; k < depth; k++) {
            if (lane[i].op[k].state != FREE)
                return 1;
        }
    }
    return 0;
}

static void turn(void)
{
    struct pollfd p[NODES * CONNECTIONS];
    struct connection *of[NODES * CONNECTIONS];
    nfds_t count = 0;
    uint64_t at = now();

    if (at - target_since > 2000000000u && at - last_ack > 2000000000u)
        aim((target + 1) % node_count); /* whoever it was, it does not answer */
    waiting = 0;
    for (int l = 0; l < lane_count; l++)
        feed_lane(l, at);
    for (int i = 0; i < node_count * CONNECTIONS; i++) {
        struct connection *c = &conn[i];

        if (i % CONNECTIONS >= connection_count)
            continue;
        if (c->fd < 0 && at >= c->retry)
            attempt(c);
        if (c->fd >= 0 && !c->connecting)
            flush(c);
        if (c->fd < 0)
            continue;
        of[count] = c;
        p[count++] = (struct pollfd){
            c->fd, (short)(POLLIN | (c->connecting || c->out_count > 0 ? POLLOUT : 0)), 0
        };
    }
    ppoll(p, count, &(struct timespec){ 0, waiting ? PATIENCE : 1000000 }, NULL);
    for (nfds_t i = 0; i < count; i++) {
        struct connection *c = of[i];

        if (c->fd != p[i].fd)
            continue;
        if (c->connecting && (p[i].revents & (POLLOUT | POLLERR | POLLHUP))) {
            int error = 0;
            socklen_t size = sizeof error;

            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0) {
                lost(c);
                continue;
            }
            c->connecting = 0;
        }
        if (p[i].revents & (POLLIN | POLLERR | POLLHUP))
            on_readable(c);
    }
}

/* ---- the end ---- */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void report(double elapsed)
{
    uint64_t n = ops < SAMPLES ? ops : SAMPLES;
    static const double q[] = { 0.5, 0.99, 0.999, 1 };
    static const char *const name[] = { "p50", "p99", "p999", "max" };

    qsort(sample, n, sizeof *sample, by_size);
    printf("result ops=%" PRIu64 " seconds=%.3f rate=%.0f", ops, elapsed, (double)ops / elapsed);
    for (int i = 0; i < 4; i++)
        printf(" %s_ms=%.3f", name[i], n ? sample[(uint64_t)(q[i] * (double)(n - 1))] / 1000.0 : 0);
    printf(" retries=%" PRIu64 "\n", retries);
    fflush(stdout);
}

/* Reads a counter at any node, linearizably, on a connection of its own. */
static uint64_t counter(int l)
{
    for (uint64_t begun = now(); now() - begun < 120000000000u; usleep(20000)) {
        for (int i = 0; i < node_count; i++) {
            struct timeval patience = { 2, 0 };
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            char text[256];
            ssize_t n = 0;
            uint64_t sum;

            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            if (connect(fd, (struct sockaddr *)&address[i], sizeof address[i]) == 0) {
                n = snprintf(text, sizeof text, "r get lane%d\n", l);
                n = send(fd, text, (size_t)n, MSG_NOSIGNAL) > 0 ? recv(fd, text, sizeof text - 1, 0)
                                                                : 0;
            }
            close(fd);
            if (n <= 0)
                continue;
            text[n] = '\0';
            if (sscanf(text, "r ok %*u %*u %" SCNu64, &sum) == 1)
                return sum;
            if (strncmp(text, "r none", 6) == 0)
                return 0;
        }
    }
    fail("a counter cannot be read");
    return 0;
}

static void verify(void)
{
    uint64_t sum = 0;

    for (int l = 0; l < lane_count; l++) {
        uint64_t found = counter(l);

        if (found != lane[l].done) {
            printf("WRONG lane%d: %" PRIu64 " acknowledged, %" PRIu64 " there\n", l, lane[l].done,
                   found);
            exit(1);
        }
        sum += found;
    }
    printf("verified %" PRIu64 " writes, each done once\n", sum);
}

static void on_signal(int signal_number)
{
    (void)signal_number;
    stop = 1;
}

static void nodes(char *text)
{
    for (char *item = strtok(text, ","); item != NULL && node_count < NODES;
         item = strtok(NULL, ",")) {
        int port;

        if (sscanf(item, "%d=%d", &node_id[node_count], &port) != 2)
            fail("--nodes takes 1=PORT,2=PORT,...");
        address[node_count].sin_family = AF_INET;
        address[node_count].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address[node_count++].sin_port = htons((uint16_t)port);
    }
}

static void options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *text = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(name, "--add") == 0) {
            adding = 1;
            continue;
        }
        if (strcmp(name, "--nodes") == 0)
            nodes(argv[i + 1]);
        else if (strcmp(name, "--in-flight") == 0)
            in_flight = atoi(text);
        else if (strcmp(name, "--seconds") == 0)
            seconds = atof(text);
        else if (strcmp(name, "--value") == 0)
            value_bytes = atoi(text);
        else if (strcmp(name, "--keys") == 0)
            keys = atoi(text);
        else if (strcmp(name, "--connections") == 0)
            connection_count = atoi(text);
        else
            fail("an option that is not known; see the head of load.c");
        i++;
    }
    if (node_count == 0 || in_flight < 1 || value_bytes < 1 || value_bytes > 4096 || keys < 1 ||
        connection_count < 1 || connection_count > CONNECTIONS)
        fail("--nodes is required, and numbers within reason");
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_signal };
    uint64_t begun, end;

    options(argc, argv);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (size_t i = 0; i + 1 < sizeof chance; i++)
        chance[i] = (char)('0' + rand() % 75);
    depth = LANE_DEPTH;
    lane_count = (in_flight + depth - 1) / depth;
    lane = calloc((size_t)lane_count, sizeof *lane);
    sample = malloc(SAMPLES * sizeof *sample);
    if (lane == NULL || sample == NULL)
        fail("out of memory");
    for (int i = 0; i < node_count * CONNECTIONS; i++)
        conn[i] = (struct connection){ .fd = -1, .node = i / CONNECTIONS };
    /* Sessions first, so that only writes are measured. */
    for (int l = 0; l < lane_count && !stop; l++) {
        while (lane[l].session == 0 && !stop) {
            int saved = in_flight;
            in_flight = 0;
            turn();
            in_flight = saved;
        }
    }
    begun = last_ack = now();
    end = seconds > 0 ? begun + (uint64_t)(seconds * 1e9) : UINT64_MAX;
    while (!stop) {
        turn();
        if (now() >= end)
            break;
    }
    end = now();
    stop = 1;
    report((double)(end - begun) / 1e9);
    while (busy())
        turn();
    if (adding)
        verify();
    return 0;
}
