/* 06-host-map.c - a cluster whose map the host keeps, in a store that compares and swaps.
 *
 *     cc 06-host-map.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * Three nodes in one process, as in 05-cluster.c. The store is an array here, and might be etcd: a
 * document under a key, put only where the version before it stands, and watched by each node.
 * Two collections are created at once, by two nodes: one put is too late, and its node tries again
 * on the newer map. Then the store is away, and writes and searches go on.
 *
 * It prints:
 *
 *     a map of 3 nodes
 *     two collections, 1 put was too late
 *     the store is away
 *     100 points written
 *     nearest to 42.2: 42 43 41
 */
#define _XOPEN_SOURCE 700
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vshard.h>

enum { NODES = 3, POINTS = 100, MESSAGES = 4096, MAP = 65536 };

struct message {
    uint64_t to;
    size_t count;
    char *bytes;
};

struct document {
    uint64_t version; /* 0: there is none */
    size_t count;
    char bytes[MAP];
};

static const struct vshard_key cluster = { 1, 2 };
static struct vshard_node *node[NODES + 1]; /* by id, from 1 */
static char folder[NODES + 1][64];
static struct message network[MESSAGES];
static size_t first, last;
static uint64_t now = 1; /* ns */
static int answered;

static struct document store;
static int store_away, too_late;
static struct document put[NODES + 1]; /* what each node wants to put there */
static uint64_t told[NODES + 1];       /* the version that it was told of last */

static void check(int status, const char *what)
{
    if (status != VSHARD_OK) {
        fprintf(stderr, "06-host-map: %s: %s\n", what, vshard_strerror(status));
        exit(1);
    }
}

/* ---- the store ---- */

/* The node is inside a call: what it wants is kept, and done by serve_store(). */
static void on_put_map(void *ctx, uint64_t version, const void *map, size_t bytes)
{
    struct document *d = ctx;

    check(bytes <= MAP ? VSHARD_OK : VSHARD_E2BIG, "a map");
    d->version = version;
    d->count = bytes;
    memcpy(d->bytes, map, bytes);
}

/* Compare and swap: in etcd, a transaction on the key's version. */
static int swap(const struct document *to)
{
    if (to->version != store.version + 1)
        return VSHARD_ESTALE;
    store = *to;
    return VSHARD_OK;
}

static void serve_store(void)
{
    for (int id = 1; id <= NODES && !store_away; id++) {
        if (put[id].version != 0) {
            int status = swap(&put[id]);
            uint64_t version = put[id].version;

            too_late += status == VSHARD_ESTALE;
            put[id].version = 0;
            check(vshard_node_map_put(node[id], now, version, status), "an answer");
        }
        if (told[id] < store.version) { /* a watch */
            told[id] = store.version;
            check(vshard_node_map(node[id], now, store.bytes, store.count), "a map");
        }
    }
}

/* ---- the network, and time ---- */

static void on_send(void *ctx, uint64_t to, const void *frame, size_t bytes)
{
    struct message *m = &network[last++ % MESSAGES];

    (void)ctx;
    *m = (struct message){ to, bytes, malloc(bytes) };
    memcpy(m->bytes, frame, bytes);
}

static void on_done(void *ctx, const struct vshard_node_done *done)
{
    (void)ctx;
    check(done->status, "a request");
    for (uint32_t i = 0; i < done->hit_count; i++)
        printf(" %d", (int)done->hits[i].key.lo);
    answered++;
}

/* Lets milliseconds pass, or less if so many requests are answered. */
static void run(int milliseconds, int answers)
{
    for (answered = 0; milliseconds-- > 0 && (answers == 0 || answered < answers); now += 1000000) {
        for (size_t through = last; first < through; first++) {
            struct message *m = &network[first % MESSAGES];

            vshard_node_recv(node[m->to], now, m->bytes, m->count);
            free(m->bytes);
        }
        for (int id = 1; id <= NODES; id++) {
            if (vshard_node_deadline_ns(node[id]) <= now)
                check(vshard_node_tick(node[id], now), "a node");
        }
        serve_store();
    }
}

/* ---- nodes ---- */

static void start(uint64_t id)
{
    const struct vshard_node_host host = { .size = sizeof host,
                                           .ctx = &put[id],
                                           .send = on_send,
                                           .done = on_done,
                                           .put_map = on_put_map };
    const struct vshard_node_birth birth = { .size = sizeof birth,
                                             .flags = VSHARD_NODE_JOINS,
                                             .cluster = cluster,
                                             .node = id,
                                             .path = folder[id] };
    const struct vshard_node_options options = {
        .size = sizeof options, .node = id, .path = folder[id], .host = &host
    };
    const struct vshard_node_admin join = { .size = sizeof join, .op = VSHARD_ADMIN_JOIN };

    strcpy(folder[id], "/tmp/vshard-06.XXXXXX");
    if (mkdtemp(folder[id]) == NULL)
        check(VSHARD_EIO, folder[id]);
    check(vshard_node_format(&birth), "format");
    check(vshard_node_open(&options, now, &node[id]), "open");
    /* What the store has: here, as yet, nothing, or what others have put. */
    told[id] = store.version;
    check(vshard_node_map(node[id], now, store.version != 0 ? store.bytes : NULL, store.count),
          "the first map");
    check(vshard_node_admin(node[id], now, &join), "join");
}

static void create(struct vshard_node *at, const char *name)
{
    const struct vshard_collection c = { .size = sizeof c, .dim = 1, .name = name };
    const struct vshard_node_admin admin = { .size = sizeof admin,
                                             .op = VSHARD_ADMIN_CREATE,
                                             .collection = &c };

    check(vshard_node_admin(at, now, &admin), "create");
}

static void write_points(struct vshard_node *at)
{
    struct vshard_key keys[POINTS];
    float points[POINTS];
    const struct vshard_node_write write = { .size = sizeof write,
                                             .count = POINTS,
                                             .collection = "points",
                                             .keys = keys,
                                             .vectors = points };

    for (uint32_t i = 0; i < POINTS; i++) {
        keys[i] = (struct vshard_key){ 0, i };
        points[i] = (float)i;
    }
    check(vshard_node_write(at, now, &write), "write");
    run(5000, 1);
    printf("%d points written\n", POINTS);
}

static void search(struct vshard_node *at)
{
    const float query = 42.2f;
    const struct vshard_node_search search = { .size = sizeof search,
                                               .k = 3,
                                               .consistency = VSHARD_READ_LINEARIZABLE,
                                               .timeout_ns = 5000000000,
                                               .collection = "points",
                                               .query = &query };

    printf("nearest to 42.2:");
    check(vshard_node_search(at, now, &search), "search");
    run(5000, 1);
    printf("\n");
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

int main(void)
{
    struct vshard_node_status status = { .size = sizeof status };
    struct vshard_key of;
    uint64_t version;

    for (uint64_t id = 1; id <= NODES; id++)
        start(id);
    run(5000, NODES);
    run(2000, 0); /* they find each other */
    check(vshard_node_status(node[1], &status), "status");
    printf("a map of %d nodes\n", (int)status.nodes);

    too_late = 0;
    create(node[1], "points");
    create(node[2], "words");
    run(5000, 2);
    printf("two collections, %d put was too late\n", too_late);
    check(vshard_node_map_read(store.bytes, store.count, &of, &version), "the document");
    check(version == store.version && of.lo == cluster.lo ? VSHARD_OK : VSHARD_ECORRUPT, "it");
    run(2000, 0); /* shards find leaders */

    store_away = 1;
    printf("the store is away\n");
    write_points(node[2]);
    search(node[3]);

    for (int id = 1; id <= NODES; id++) {
        vshard_node_close(node[id]);
        nftw(folder[id], remove_one, 8, FTW_DEPTH | FTW_PHYS);
    }
    for (; first < last; first++)
        free(network[first % MESSAGES].bytes);
    return 0;
}
