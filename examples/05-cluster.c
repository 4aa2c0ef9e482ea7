/* 05-cluster.c - three nodes in one process, an array as their network.
 *
 *     cc 05-cluster.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * Time and the network are variables here; the files are real, in directories under
 * /tmp. Points on a line, red and blue, are written and searched for; then the node that
 * leads their shard is closed without a word, and the others go on.
 *
 * It prints:
 *
 *     100 points written
 *     nearest to 42.2: 42 43 41
 *     nearest blue: 43 41 45
 *     the leader is gone
 *     point 42 moved to 1000
 *     nearest to 42.2: 43 41 44
 */
#define _XOPEN_SOURCE 700
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vshard.h>

enum { NODES = 3, POINTS = 100, MESSAGES = 4096 };

struct message {
    uint64_t to;
    size_t count;
    char *bytes;
};

static struct vshard_node *node[NODES + 1]; /* by id, from 1 */
static char folder[NODES + 1][64];
static struct message network[MESSAGES];
static size_t first, last;
static uint64_t now = 1; /* ns */
static int answered;

static void check(int status, const char *what)
{
    if (status != VSHARD_OK) {
        fprintf(stderr, "05-cluster: %s: %s\n", what, vshard_strerror(status));
        exit(1);
    }
}

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
    answered = 1;
}

/* Lets milliseconds pass, or less if a request is answered. */
static void run(int milliseconds)
{
    for (answered = 0; milliseconds-- > 0 && !answered; now += 1000000) {
        for (size_t through = last; first < through; first++) {
            struct message *m = &network[first % MESSAGES];

            if (node[m->to] != NULL)
                vshard_node_recv(node[m->to], now, m->bytes, m->count);
            free(m->bytes);
        }
        for (int id = 1; id <= NODES; id++) {
            if (node[id] != NULL && vshard_node_deadline_ns(node[id]) <= now)
                check(vshard_node_tick(node[id], now), "a node");
        }
    }
}

static void start(uint64_t id)
{
    static const uint64_t founders[NODES] = { 1, 2, 3 };
    const struct vshard_node_host host = { .size = sizeof host, .send = on_send, .done = on_done };
    struct vshard_node_birth birth = { .size = sizeof birth,
                                       .cluster = { 1, 2 },
                                       .node = id,
                                       .founders = founders,
                                       .founder_count = NODES,
                                       .path = folder[id] };
    struct vshard_node_options options = {
        .size = sizeof options, .node = id, .path = folder[id], .host = &host
    };

    strcpy(folder[id], "/tmp/vshard-05.XXXXXX");
    if (mkdtemp(folder[id]) == NULL)
        check(VSHARD_EIO, folder[id]);
    check(vshard_node_format(&birth), "format");
    check(vshard_node_open(&options, now, &node[id]), "open");
}

static void write_points(struct vshard_node *at, uint64_t from, uint32_t count, float add)
{
    struct vshard_key keys[POINTS];
    float points[POINTS];
    char colors[POINTS][4];
    const struct vshard_values values = { colors, sizeof colors[0] };
    struct vshard_node_write write = { .size = sizeof write,
                                       .count = count,
                                       .value_count = 1,
                                       .collection = "points",
                                       .keys = keys,
                                       .vectors = points,
                                       .values = &values };

    for (uint32_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, from + i };
        points[i] = (float)(from + i) + add;
        memcpy(colors[i], (from + i) % 2 ? "blue" : "red", 4);
    }
    check(vshard_node_write(at, now, &write), "write");
    run(5000);
}

static void search(struct vshard_node *at, const char *what, const void *where, size_t where_bytes)
{
    const float query = 42.2f;
    struct vshard_node_search search = { .size = sizeof search,
                                         .k = 3,
                                         .consistency = VSHARD_READ_LINEARIZABLE,
                                         .timeout_ns = 5000000000,
                                         .where_bytes = (uint32_t)where_bytes,
                                         .collection = "points",
                                         .query = &query,
                                         .where = where };

    printf("%s:", what);
    check(vshard_node_search(at, now, &search), "search");
    run(5000);
    printf("\n");
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

int main(void)
{
    const struct vshard_attribute color = { VSHARD_ATTRIBUTE_KEYWORD, "color" };
    const struct vshard_condition is_blue = { VSHARD_WHERE_EQ, 0, VSHARD_ATTRIBUTE_KEYWORD, 1, 4, 0,
                                              "blue" };
    struct vshard_collection points = { .size = sizeof points,
                                        .dim = 1,
                                        .attribute_count = 1,
                                        .name = "points",
                                        .attributes = &color };
    struct vshard_node_admin create = { .size = sizeof create,
                                        .op = VSHARD_ADMIN_CREATE,
                                        .collection = &points };
    struct vshard_shard_status shard;
    struct vshard_node *other;
    unsigned char where[64];
    size_t count, bytes;

    for (uint64_t id = 1; id <= NODES; id++)
        start(id);
    run(2000); /* they find each other */
    check(vshard_node_admin(node[1], now, &create), "create");
    run(5000);
    run(2000); /* its shard finds a leader */
    write_points(node[2], 0, POINTS, 0);
    printf("%d points written\n", POINTS);
    search(node[3], "nearest to 42.2", NULL, 0);
    check(vshard_where_encode(&is_blue, 1, where, sizeof where, &bytes), "blue");
    search(node[2], "nearest blue", where, bytes);

    check(vshard_node_shards(node[1], "points", &shard, 1, &count), "shards");
    vshard_node_close(node[shard.leader]);
    node[shard.leader] = NULL;
    other = node[shard.leader % NODES + 1];
    printf("the leader is gone\n");
    write_points(other, 42, 1, 958);
    printf("point 42 moved to 1000\n");
    search(other, "nearest to 42.2", NULL, 0);

    for (int id = 1; id <= NODES; id++) {
        vshard_node_close(node[id]);
        nftw(folder[id], remove_one, 8, FTW_DEPTH | FTW_PHYS);
    }
    for (; first < last; first++)
        free(network[first % MESSAGES].bytes);
    return 0;
}
