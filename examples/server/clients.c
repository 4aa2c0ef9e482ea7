/* clients.c - the protocol of clients: a line, and for some requests the bytes that its last
 * word counts; each is answered by a line that begins with the request's tag.
 *
 *     create TAG NAME DIM l2|ip|cosine SHARDS REPLICAS [FIELD=NUMBER|ATTRIBUTE:TYPE]...
 *     alter TAG NAME FIELD=NUMBER...          ef_search, max_rows, replicas
 *     drop TAG NAME
 *     join TAG NODE                           this node asks that one for admission
 *     remove-node TAG NODE [INCARNATION]      as nodes says it: if it has another, it stays
 *     lead TAG NAME SHARD NODE
 *     replace TAG NAME SHARD NODE TO
 *     primary TAG REGION
 *     recover TAG GROUP EPOCH LAST LAST_TERM NODE+NODE... BYTES    then the statement
 *     write TAG NAME COUNT REQUEST BYTES      then rows
 *     remove TAG NAME COUNT REQUEST BYTES     then COUNT keys
 *     search TAG NAME K EF CONSISTENCY BYTES  then the query and, if there is one, the bytes of
 *                                             an expression, see vshard_index(3)
 *     fetch TAG NAME KEY CONSISTENCY
 *     describe TAG NAME
 *     export TAG NAME SHARD                   of a replica here: how many bytes, as of which
 *                                             position, how many rows
 *     read TAG OFFSET                         of the last export of this connection: how many
 *                                             bytes, and behind the line these; 0: the end
 *     status TAG
 *     nodes TAG                               of the cluster, as this one sees them
 *     shards TAG NAME
 *     end TAG                                 the process ends at once, as by kill -9
 *
 *     TAG ok ...            TAG error STATUS REASON
 *
 * Who closes its half of the connection gets the answers that are under way, and then the end.
 * So does, behind an answer that says what is wrong, who sends a line that cannot be read: of more
 * than 2048 bytes or 32 words, with a tag of more than 31, or with a body of more than 64 MiB.
 *
 * A FIELD is a number of struct vshard_collection. An ATTRIBUTE is a word of letters, digits
 * and _, a TYPE is int64, double or keyword. `recover` is VSHARD_ADMIN_RECOVER of vshard/node.h,
 * which says what is to be seen to before.
 *
 * Rows are COUNT keys of 8 bytes, COUNT vectors, and then, as far as the body goes, for each
 * attribute of the collection 4 bytes with the width of its places (8, of keywords up to 120,
 * 0: all are missing) and COUNT places, and behind them COUNT sizes of payloads, of 4 bytes
 * each, and the payloads.
 *
 * A write is answered with GROUP:INDEX of each shard, where it is in the logs; `recover`
 * likewise, with what is lost from there on. A fetch is answered with the version, and in
 * hexadecimal the vector, the value of each attribute and the payload; - has no bytes.
 *
 * REQUEST is a number that names a write when it is sent again; 0: none. CONSISTENCY is that
 * of vshard/node.h: 0 any, 3 linearizable; STATUS that of vshard/base.h. Numbers in bodies are
 * little-endian. Who speaks this may do all that there is: it is not for strangers. */
#include "server.h"
#include "../tcp_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048, WAITING_MAX = 4096, PIECE = 1 << 20, OWED_MAX = 4 << 20 };

/* One that takes nothing of its answers for so long is gone, too; who reads slowly is not. */
enum { SILENCE_S = 60 };

struct client {
    uv_tcp_t tcp;
    struct clients *all;
    struct bytes got;
    uint32_t waits; /* requests under way */
    int exported;   /* the file of the last export; -1: none */
    bool closed;
    bool paused; /* nothing is read from it */
    bool asked;  /* all that it will ask for: it has closed its half, or cannot be understood */
    char bad_tag[TAG_BYTES];
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

static void on_written(void *ctx, int status);

static void send_bytes(struct client *c, struct bytes *line)
{
    if (uv_is_closing((uv_handle_t *)&c->tcp)) {
        free(line->at);
        return;
    }
    if (stream_write((uv_stream_t *)&c->tcp, line->at, line->count, on_written, c) != 0)
        uv_close((uv_handle_t *)&c->tcp, on_closed);
}

static void answer(struct client *c, struct bytes *line)
{
    bytes_add(line, "\n", 1);
    send_bytes(c, line);
}

static void refuse(struct client *c, const char *tag, int status, const char *why)
{
    struct bytes line = { 0 };

    bytes_print(&line, "%s error %d %s", tag, status, vshard_strerror(status));
    if (why[0] != 0)
        bytes_print(&line, ": %s", why);
    answer(c, &line);
}

/* The file is read by its descriptor alone, so that nothing is left of it. */
static int take_export(struct clients *all, struct client *c, uint64_t slot)
{
    char path[4096];
    int fd;

    export_path(&all->s->config, slot, path);
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
        refuse(c, w->tag, status, "");
        return;
    }
    bytes_print(&line, "%s ok", w->tag);
    print_done(&line, d);
    if (d->kind == VSHARD_NODE_EXPORT)
        print_export(&line, c, d);
    answer(c, &line);
}

/* ---- requests ---- */

static void read_export(struct client *c, const struct request *r)
{
    struct bytes line = { 0 };
    uint64_t offset = 0;
    char *piece;
    ssize_t count;

    number_read(r->words[0], INT64_MAX, &offset);
    if (c->exported < 0) {
        refuse(c, r->tag, VSHARD_ENOTFOUND, "no export");
        return;
    }
    piece = take(NULL, PIECE);
    count = pread(c->exported, piece, PIECE, (off_t)offset);
    if (count < 0) {
        refuse(c, r->tag, VSHARD_EIO, "");
    } else {
        bytes_print(&line, "%s ok %zd\n", r->tag, count);
        bytes_add(&line, piece, (size_t)count);
        send_bytes(c, &line);
    }
    free(piece);
}

/* What tells of the node. */
static void tell_of_node(struct client *c, const struct request *r,
                         void (*print)(struct bytes *line, struct vshard_node *node))
{
    struct bytes line = { 0 };

    bytes_print(&line, "%s ok", r->tag);
    print(&line, c->all->s->node);
    answer(c, &line);
}

static void status(struct client *c, const struct request *r)
{
    tell_of_node(c, r, print_status);
}

static void nodes(struct client *c, const struct request *r)
{
    tell_of_node(c, r, print_nodes);
}

/* What tells of a collection. */
static void tell(struct client *c, const struct request *r,
                 int (*print)(struct bytes *line, struct vshard_node *node, const char *name))
{
    struct bytes line = { 0 };
    int rc;

    bytes_print(&line, "%s ok", r->tag);
    rc = print(&line, c->all->s->node, r->words[0]);
    if (rc == VSHARD_OK) {
        answer(c, &line);
        return;
    }
    free(line.at);
    refuse(c, r->tag, rc, c->all->s->why);
}

static void describe(struct client *c, const struct request *r)
{
    tell(c, r, print_collection);
}

static void shards(struct client *c, const struct request *r)
{
    tell(c, r, print_shards);
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

static void serve(struct client *c, const struct request *r)
{
    static const struct {
        const char *word;
        void (*call)(struct client *c, const struct request *r);
    } at_once[] = { { "status", status }, { "nodes", nodes }, { "describe", describe },
                    { "shards", shards }, { "end", end },     { "read", read_export } };
    struct clients *all = c->all;
    uint64_t slot = 0;
    int rc;

    all->s->why[0] = 0;
    rc = request_check(all->s, r);
    if (rc != VSHARD_OK) {
        refuse(c, r->tag, rc, all->s->why);
        return;
    }
    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++) {
        if (strcmp(r->word, at_once[i].word) == 0) {
            at_once[i].call(c, r);
            return;
        }
    }
    while (slot < WAITING_MAX && all->waiting[slot].client != NULL)
        slot++;
    if (slot == WAITING_MAX) {
        refuse(c, r->tag, VSHARD_EBUSY, "");
        return;
    }
    all->waiting[slot].client = c;
    snprintf(all->waiting[slot].tag, TAG_BYTES, "%s", r->tag);
    c->waits++;
    rc = request_begin(all->s, r, slot);
    if (rc == VSHARD_OK)
        return; /* clients_done() tells, or has told */
    all->waiting[slot].client = NULL;
    c->waits--;
    refuse(c, r->tag, rc, all->s->why);
}

/* Takes one request off what has arrived; false if it is not whole, or is none. */
static bool take_one(struct client *c, bool *bad)
{
    char line[LINE_MAX_BYTES + 1], *end;
    struct request r;
    size_t length, body;

    end = c->got.count > 0 ? memchr(c->got.at, '\n', c->got.count) : NULL;
    length = end != NULL ? (size_t)(end - c->got.at) : c->got.count;
    if (end == NULL && length <= LINE_MAX_BYTES)
        return false;
    *bad = length > LINE_MAX_BYTES;
    if (*bad)
        length = LINE_MAX_BYTES;
    memcpy(line, c->got.at, length);
    line[length] = 0;
    *bad |= !request_read(&r, line, &body);
    if (*bad)
        snprintf(c->bad_tag, sizeof c->bad_tag, "%s", r.tag);
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

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer);

/* It does not take what it has asked for. */
static bool owed_much(const struct client *c)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) > OWED_MAX;
}

/* What follows what cannot be read is no request. */
static void part(struct client *c)
{
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->got.count = 0;
    c->asked = true;
    refuse(c, c->bad_tag[0] != 0 ? c->bad_tag : "-", VSHARD_EINVAL,
           "a line has at most 2048 bytes, 32 words, 31 bytes of a tag, and 64 MiB of a body");
}

/* Takes all requests off what has arrived, as long as their answers are taken; until then nothing
 * more is read, or who only asks would have the memory of all. */
static void take_all(struct client *c)
{
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    bool bad = false;
    int rc = 0;

    while (!uv_is_closing((uv_handle_t *)stream) && !owed_much(c) && take_one(c, &bad))
        continue;
    if (uv_is_closing((uv_handle_t *)stream))
        return;
    if (owed_much(c) != c->paused && !c->asked) {
        c->paused = !c->paused;
        rc = c->paused ? uv_read_stop(stream) : uv_read_start(stream, on_room, on_read);
    }
    if (rc != 0)
        uv_close((uv_handle_t *)stream, on_closed);
    else if (bad)
        part(c);
}

/* It asks for no more, and has all its answers. */
static bool is_done(const struct client *c)
{
    return c->asked && c->waits == 0 &&
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) == 0;
}

/* Comes for each answer before on_closed() does. */
static void on_written(void *ctx, int status)
{
    struct client *c = ctx;

    if (uv_is_closing((uv_handle_t *)&c->tcp))
        return;
    if (status != 0 || is_done(c))
        uv_close((uv_handle_t *)&c->tcp, on_closed);
    else if (c->paused)
        take_all(c);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct client *c = stream->data;

    if (count > 0)
        bytes_add(&c->got, buffer->base, (size_t)count);
    free(buffer->base);
    c->asked = count == UV_EOF;
    if (count >= 0)
        take_all(c);
    else if (!uv_is_closing((uv_handle_t *)stream) && (!c->asked || is_done(c)))
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
    else
        tcp_watch(&c->tcp, SILENCE_S);
}

/* A process that was killed may have left them. */
static void drop_exports(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, export_name, strlen(export_name)) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d != NULL)
        closedir(d);
}

struct clients *clients_open(struct server *s)
{
    struct clients *c = take(NULL, sizeof *c);

    drop_exports(s->config.dir);
    memset(c, 0, sizeof *c);
    c->s = s;
    c->listener.data = c;
    stream_listen(s->loop, &c->listener, "client", &s->config.client, on_connection);
    return c;
}
