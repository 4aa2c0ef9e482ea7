/* clients.c - the protocol of clients: a line, and for some requests the bytes that its last
 * word counts; each is answered by a line that begins with the request's tag.
 *
 *     create TAG NAME DIM l2|ip|cosine SHARDS REPLICAS
 *     drop TAG NAME
 *     join TAG NODE
 *     write TAG NAME COUNT REQUEST BYTES      then COUNT keys of 8 bytes, COUNT vectors
 *     remove TAG NAME COUNT REQUEST BYTES     then COUNT keys
 *     search TAG NAME K EF CONSISTENCY BYTES  then the query
 *     fetch TAG NAME KEY CONSISTENCY
 *     describe TAG NAME
 *     export TAG NAME SHARD                   of a replica here: how many bytes, as of which
 *                                             position, how many rows
 *     read TAG OFFSET                         of the last export of this connection: how many
 *                                             bytes, and behind the line these; 0: the end
 *     status TAG
 *     shards TAG NAME
 *     end TAG                                 the process ends at once, as by kill -9
 *
 *     TAG ok ...            TAG error STATUS REASON
 *
 * A write is answered with GROUP:INDEX of each shard, where it is in the logs.
 *
 * REQUEST is a number that names a write when it is sent again; 0: none. CONSISTENCY is that
 * of vshard/node.h: 0 any, 3 linearizable; STATUS that of vshard/base.h. Numbers in bodies are
 * little-endian. Who speaks this may do all that there is: it is not for strangers. */
#include "server.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 512,
    BODY_MAX = 64 << 20,
    WAITING_MAX = 4096,
    TAG_BYTES = 32,
    PIECE = 1 << 20
};

struct client {
    uv_tcp_t tcp;
    struct clients *all;
    struct bytes got;
    uint32_t waits; /* requests under way */
    int exported;   /* the file of the last export; -1: none */
    bool closed;
};

struct waiting {
    struct client *client; /* NULL: free */
    char tag[TAG_BYTES];
    uint32_t kind;
};

struct clients {
    struct server *s;
    uv_tcp_t listener;
    struct waiting waiting[WAITING_MAX];
};

/* A request as its line has it. */
struct request {
    char word[16], tag[TAG_BYTES], name[VSHARD_NAME_MAX + 1], metric[16];
    uint64_t number[5];
    const char *body;
    size_t body_bytes;
};

/* ---- answers ---- */

static void on_closed(uv_handle_t *handle)
{
    struct client *c = handle->data;

    c->closed = true;
    if (c->exported >= 0)
        close(c->exported);
    free(c->got.at);
    c->got = (struct bytes){ 0 };
    if (c->waits == 0)
        free(c);
}

static void send_bytes(struct client *c, struct bytes *line)
{
    if (uv_is_closing((uv_handle_t *)&c->tcp)) {
        free(line->at);
        return;
    }
    if (stream_write((uv_stream_t *)&c->tcp, line->at, line->count, NULL, NULL) != 0)
        uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void answer(struct client *c, struct bytes *line)
{
    bytes_add(line, "\n", 1);
    send_bytes(c, line);
}

static void refuse(struct client *c, const char *tag, int status)
{
    struct bytes line = { 0 };

    bytes_print(&line, "%s error %d %s", tag, status, vshard_strerror(status));
    answer(c, &line);
}

static void print_positions(struct bytes *line, const struct vshard_node_done *d)
{
    for (uint32_t i = 0; i < d->position_count; i++)
        bytes_print(line, " %" PRIu64 ":%" PRIu64, d->positions[i].group, d->positions[i].index);
}

static void print_hits(struct bytes *line, const struct vshard_node_done *d)
{
    bytes_print(line, " %" PRIu32 "/%" PRIu32, d->shards_answered, d->shards);
    for (uint32_t i = 0; i < d->hit_count; i++)
        bytes_print(line, " %" PRIu64 ":%.6g", d->hits[i].key.lo, (double)d->hits[i].distance);
}

static void print_row(struct bytes *line, const struct vshard_node_done *d)
{
    const unsigned char *v = d->vector;

    bytes_print(line, " %" PRIu64 " ", d->version);
    for (uint32_t i = 0; i < d->vector_bytes; i++)
        bytes_print(line, "%02x", v[i]);
}

static const char export_name[] = "export-";

static void export_path(const struct clients *all, uint64_t slot, char path[4096])
{
    snprintf(path, 4096, "%s/%s%" PRIu64, all->s->config.dir, export_name, slot);
}

/* The file is read by its descriptor alone, so that nothing is left of it. */
static int take_export(struct clients *all, struct client *c, uint64_t slot)
{
    char path[4096];
    int fd;

    export_path(all, slot, path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    unlink(path);
    if (c->closed || fd < 0) {
        close(fd);
        return fd < 0 ? VSHARD_EIO : VSHARD_OK;
    }
    if (c->exported >= 0)
        close(c->exported);
    c->exported = fd;
    return VSHARD_OK;
}

static void print_export(struct bytes *line, const struct client *c,
                         const struct vshard_node_done *d)
{
    struct stat st = { .st_size = 0 };

    fstat(c->exported, &st);
    bytes_print(line, " %" PRIu64 " %" PRIu64 " %" PRIu64, (uint64_t)st.st_size,
                d->positions[0].index, d->rows);
}

void clients_done(struct clients *all, const struct vshard_node_done *d)
{
    struct waiting *w = &all->waiting[d->tag];
    struct client *c = w->client;
    struct bytes line = { 0 };
    int status = d->status;

    w->client = NULL;
    c->waits--;
    if (d->kind == VSHARD_NODE_EXPORT && status == VSHARD_OK)
        status = take_export(all, c, d->tag);
    if (c->closed) {
        if (c->waits == 0)
            free(c);
        return;
    }
    if (status != VSHARD_OK) {
        refuse(c, w->tag, status);
        return;
    }
    bytes_print(&line, "%s ok", w->tag);
    if (d->kind == VSHARD_NODE_WRITE)
        print_positions(&line, d);
    if (d->kind == VSHARD_NODE_SEARCH)
        print_hits(&line, d);
    if (d->kind == VSHARD_NODE_FETCH)
        print_row(&line, d);
    if (d->kind == VSHARD_NODE_EXPORT)
        print_export(&line, c, d);
    answer(c, &line);
}

/* ---- requests ---- */

static const char *const metrics[] = { "l2", "ip", "cosine" };

static int create(struct clients *all, const struct request *r, uint64_t tag)
{
    struct vshard_collection c = { .size = sizeof c,
                                   .dim = (uint32_t)r->number[0],
                                   .shards = (uint32_t)r->number[1],
                                   .replicas = (uint32_t)r->number[2],
                                   .metric = UINT32_MAX,
                                   .name = r->name };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = tag, .collection = &c
    };

    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(r->metric, metrics[i]) == 0)
            c.metric = i;
    }
    return vshard_node_admin(all->s->node, server_now(), &a);
}

static int admin(struct clients *all, const struct request *r, uint32_t op, uint64_t tag)
{
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = op,
                                         .tag = tag,
                                         .timeout_ns = 30000000000,
                                         .node = r->number[0],
                                         .name = r->name };

    return vshard_node_admin(all->s->node, server_now(), &a);
}

/* Bytes of a vector of the collection; 0: there is no such collection. */
static size_t vector_bytes(struct clients *all, const char *name)
{
    struct vshard_collection c = { .size = sizeof c };

    return vshard_node_collection(all->s->node, name, &c) == VSHARD_OK ? c.dim * sizeof(float) : 0;
}

static int write_rows(struct clients *all, const struct request *r, bool removes, uint64_t tag)
{
    size_t count = (size_t)r->number[0];
    struct vshard_key *keys;
    struct vshard_node_write w = { .size = sizeof w,
                                   .flags = removes ? VSHARD_WRITE_REMOVE : 0,
                                   .count = (uint32_t)count,
                                   .tag = tag,
                                   .timeout_ns = 30000000000,
                                   .collection = r->name };
    int rc;

    if (vector_bytes(all, r->name) == 0)
        return VSHARD_ENOTFOUND;
    if (count == 0 || count > VSHARD_WRITE_ROWS_MAX ||
        r->body_bytes != count * (8 + (removes ? 0 : vector_bytes(all, r->name))))
        return VSHARD_EINVAL;
    keys = take(NULL, count * sizeof *keys);
    for (size_t i = 0; i < count; i++) {
        keys[i].hi = 0;
        memcpy(&keys[i].lo, r->body + 8 * i, 8);
    }
    if (r->number[1] != 0)
        w.request = (struct vshard_key){ 1, r->number[1] };
    w.keys = keys;
    w.vectors = removes ? NULL : r->body + 8 * count;
    rc = vshard_node_write(all->s->node, server_now(), &w);
    free(keys);
    return rc;
}

static int search(struct clients *all, const struct request *r, uint64_t tag)
{
    const struct vshard_node_search q = { .size = sizeof q,
                                          .k = (uint32_t)r->number[0],
                                          .ef_search = (uint32_t)r->number[1],
                                          .consistency = (uint32_t)r->number[2],
                                          .timeout_ns = 5000000000,
                                          .tag = tag,
                                          .collection = r->name,
                                          .query = r->body };

    if (vector_bytes(all, r->name) == 0)
        return VSHARD_ENOTFOUND;
    if (r->body_bytes != vector_bytes(all, r->name))
        return VSHARD_EINVAL;
    return vshard_node_search(all->s->node, server_now(), &q);
}

static int fetch(struct clients *all, const struct request *r, uint64_t tag)
{
    const struct vshard_node_fetch f = { .size = sizeof f,
                                         .consistency = (uint32_t)r->number[1],
                                         .timeout_ns = 5000000000,
                                         .tag = tag,
                                         .key = { 0, r->number[0] },
                                         .collection = r->name };

    return vshard_node_fetch(all->s->node, server_now(), &f);
}

static int export(struct clients *all, const struct request *r, uint64_t tag)
{
    char path[4096];
    const struct vshard_node_export e = { .size = sizeof e,
                                          .shard = (uint32_t)r->number[0],
                                          .tag = tag,
                                          .timeout_ns = 600000000000,
                                          .collection = r->name,
                                          .path = path };

    export_path(all, tag, path);
    return vshard_node_export(all->s->node, server_now(), &e);
}

static void read_export(struct client *c, const struct request *r)
{
    struct bytes line = { 0 };
    char *piece;
    ssize_t count;

    if (c->exported < 0) {
        refuse(c, r->tag, VSHARD_ENOTFOUND);
        return;
    }
    piece = take(NULL, PIECE);
    count = pread(c->exported, piece, PIECE, (off_t)r->number[0]);
    if (count < 0) {
        refuse(c, r->tag, VSHARD_EIO);
    } else {
        bytes_print(&line, "%s ok %zd\n", r->tag, count);
        bytes_add(&line, piece, (size_t)count);
        send_bytes(c, &line);
    }
    free(piece);
}

static void status(struct client *c, const struct request *r)
{
    struct vshard_node_status s = { .size = sizeof s };
    struct bytes line = { 0 };

    vshard_node_status(c->all->s->node, &s);
    bytes_print(&line,
                "%s ok node=%" PRIu64 " boot=%" PRIu64 " incarnation=%" PRIu64
                " map_leader=%" PRIu64 " nodes=%" PRIu32 " collections=%" PRIu32
                " replicas=%" PRIu32 " requests=%" PRIu32 " hedges=%" PRIu64 " elections=%" PRIu64,
                r->tag, s.node, s.boot, s.incarnation, s.meta_leader, s.nodes, s.collections,
                s.replicas, s.requests, s.hedges, s.elections);
    answer(c, &line);
}

static void describe(struct client *c, const struct request *r)
{
    struct vshard_collection k = { .size = sizeof k };
    struct bytes line = { 0 };
    int rc = vshard_node_collection(c->all->s->node, r->name, &k);

    if (rc != VSHARD_OK) {
        refuse(c, r->tag, rc);
        return;
    }
    bytes_print(&line, "%s ok dim=%" PRIu32 " metric=%s shards=%" PRIu32 " replicas=%" PRIu32,
                r->tag, k.dim, k.metric < 3 ? metrics[k.metric] : "other", k.shards, k.replicas);
    answer(c, &line);
}

/* The answer is sent before, since nothing is done after. */
static void end(struct client *c, const struct request *r)
{
    char line[TAG_BYTES + 8];
    uv_buf_t buffer = uv_buf_init(line, (unsigned)snprintf(line, sizeof line, "%s ok\n", r->tag));

    log_line("server.ends", "why", "a client asked for it", 0);
    uv_try_write((uv_stream_t *)&c->tcp, &buffer, 1);
    raise(SIGKILL);
}

static void shards(struct client *c, const struct request *r)
{
    static struct vshard_shard_status s[VSHARD_CLUSTER_SHARDS_MAX];
    struct bytes line = { 0 };
    size_t count = 0;
    int rc = vshard_node_shards(c->all->s->node, r->name, s, VSHARD_CLUSTER_SHARDS_MAX, &count);

    if (rc != VSHARD_OK) {
        refuse(c, r->tag, rc);
        return;
    }
    bytes_print(&line, "%s ok", r->tag);
    for (size_t i = 0; i < count; i++) {
        bytes_print(&line,
                    " shard=%" PRIu32 ",group=%" PRIu64 ",leader=%" PRIu64 ",here=%" PRIu32
                    ",committed=%" PRIu64 ",applied=%" PRIu64 ",rows=%" PRIu64 ",members=",
                    s[i].shard, s[i].group, s[i].leader, s[i].here, s[i].committed, s[i].applied,
                    s[i].rows);
        for (uint32_t k = 0; k < s[i].member_count; k++)
            bytes_print(&line, "%s%" PRIu64, k > 0 ? "+" : "", s[i].members[k]);
    }
    answer(c, &line);
}

static int begin(struct clients *all, const struct request *r, uint64_t tag)
{
    if (strcmp(r->word, "write") == 0)
        return write_rows(all, r, false, tag);
    if (strcmp(r->word, "remove") == 0)
        return write_rows(all, r, true, tag);
    if (strcmp(r->word, "search") == 0)
        return search(all, r, tag);
    if (strcmp(r->word, "fetch") == 0)
        return fetch(all, r, tag);
    if (strcmp(r->word, "export") == 0)
        return export(all, r, tag);
    if (strcmp(r->word, "create") == 0)
        return create(all, r, tag);
    if (strcmp(r->word, "drop") == 0)
        return admin(all, r, VSHARD_ADMIN_DROP, tag);
    if (strcmp(r->word, "join") == 0)
        return admin(all, r, VSHARD_ADMIN_JOIN, tag);
    return VSHARD_ENOTSUP;
}

static void serve(struct client *c, const struct request *r)
{
    static const struct {
        const char *word;
        void (*call)(struct client *c, const struct request *r);
    } at_once[] = { { "status", status },
                    { "describe", describe },
                    { "shards", shards },
                    { "end", end },
                    { "read", read_export } };
    struct clients *all = c->all;
    uint64_t slot = 0;
    int rc;

    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++) {
        if (strcmp(r->word, at_once[i].word) == 0) {
            at_once[i].call(c, r);
            return;
        }
    }
    while (slot < WAITING_MAX && all->waiting[slot].client != NULL)
        slot++;
    if (slot == WAITING_MAX) {
        refuse(c, r->tag, VSHARD_EBUSY);
        return;
    }
    all->waiting[slot].client = c;
    snprintf(all->waiting[slot].tag, TAG_BYTES, "%s", r->tag);
    c->waits++;
    rc = begin(all, r, slot);
    if (rc == VSHARD_OK)
        return; /* clients_done() tells, or has told */
    all->waiting[slot].client = NULL;
    c->waits--;
    refuse(c, r->tag, rc);
}

/* Words of a line, by the request's kind; false: nobody's. */
static bool parse(struct request *r, const char *line, size_t *body)
{
    uint64_t *n = r->number;
    int got;

    *r = (struct request){ .body = NULL };
    *body = 0;
    if (sscanf(line, "%15s %31s", r->word, r->tag) != 2)
        return false;
    line += strlen(r->word) + 1 + strlen(r->tag);
    if (strcmp(r->word, "status") == 0 || strcmp(r->word, "end") == 0)
        return true;
    if (strcmp(r->word, "join") == 0 || strcmp(r->word, "read") == 0)
        return sscanf(line, " %" SCNu64, &n[0]) == 1;
    if (strcmp(r->word, "create") == 0)
        return sscanf(line, " %64s %" SCNu64 " %15s %" SCNu64 " %" SCNu64, r->name, &n[0],
                      r->metric, &n[1], &n[2]) == 5;
    got = sscanf(line, " %64s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, r->name, &n[0], &n[1],
                 &n[2], &n[3]);
    if (strcmp(r->word, "write") == 0 || strcmp(r->word, "remove") == 0)
        *body = (size_t)n[2];
    if (strcmp(r->word, "search") == 0)
        *body = (size_t)n[3];
    return got >= 1 && *body <= BODY_MAX;
}

/* Takes one request off what has arrived; false if it is not whole, or is none. */
static bool take_one(struct client *c, bool *bad)
{
    char line[LINE_MAX_BYTES + 1], *end;
    struct request r;
    size_t length, body;

    end = c->got.count > 0 ? memchr(c->got.at, '\n', c->got.count) : NULL;
    length = end != NULL ? (size_t)(end - c->got.at) : c->got.count;
    *bad = length > LINE_MAX_BYTES;
    if (end == NULL || *bad)
        return false;
    memcpy(line, c->got.at, length);
    line[length] = 0;
    *bad = !parse(&r, line, &body);
    if (*bad || c->got.count - length - 1 < body)
        return false;
    if (body > 0) {
        char *copy = take(NULL, body); /* aligned, and its own */

        memcpy(copy, end + 1, body);
        r.body = copy;
        r.body_bytes = body;
    }
    bytes_drop(&c->got, length + 1 + body);
    serve(c, &r);
    free((void *)(uintptr_t)r.body);
    return true;
}

static void on_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buffer)
{
    (void)handle;
    *buffer = uv_buf_init(take(NULL, wanted), (unsigned)wanted);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct client *c = stream->data;
    bool bad = false;

    if (count > 0)
        bytes_add(&c->got, buffer->base, (size_t)count);
    free(buffer->base);
    while (count >= 0 && !uv_is_closing((uv_handle_t *)stream) && take_one(c, &bad))
        continue;
    if ((count < 0 || bad) && !uv_is_closing((uv_handle_t *)stream))
        uv_close((uv_handle_t *)stream, on_closed);
}

static void on_connection(uv_stream_t *listener, int rc)
{
    struct clients *all = listener->data;
    struct client *c;

    if (rc != 0)
        return;
    c = take(NULL, sizeof *c);
    *c = (struct client){ .all = all, .exported = -1 };
    uv_tcp_init(all->s->loop, &c->tcp);
    c->tcp.data = c;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read) != 0)
        uv_close((uv_handle_t *)&c->tcp, on_closed);
}

/* A process that was killed may have left them. */
static void drop_exports(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, export_name, sizeof export_name - 1) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d != NULL)
        closedir(d);
}

struct clients *clients_open(struct server *s)
{
    struct clients *c = take(NULL, sizeof *c);
    int rc;

    drop_exports(s->config.dir);

    memset(c, 0, sizeof *c);
    c->s = s;
    uv_tcp_init(s->loop, &c->listener);
    c->listener.data = c;
    uv_tcp_bind(&c->listener, (const struct sockaddr *)&s->config.client.at, 0);
    rc = uv_listen((uv_stream_t *)&c->listener, 64, on_connection);
    if (rc != 0)
        die("client", uv_strerror(rc)); /* as its line of the configuration is called */
    return c;
}
