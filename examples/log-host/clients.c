/* clients.c - the protocol of clients: lines of words.
 *
 * A request begins with a tag, any word up to 31 bytes, which its answer begins with;
 * answers come in any order, and a client may have many requests under way:
 *
 *     T open                              a session, for doing things exactly once
 *     T put SESSION SEQUENCE KEY VALUE    0 0 for no session
 *     T add SESSION SEQUENCE KEY AMOUNT
 *     T get KEY [index | lease | stale MS]
 *     T status
 *     T lead NODE                         hand leadership over
 *     T replace NODE INCARNATION          its disk was lost
 *
 *     T ok INDEX TERM [VALUE]             open: INDEX is the session
 *     T done INDEX TERM                   it had been done before
 *     T none INDEX TERM                   no such key
 *     T error WORD                        notleader NODE, busy, full, unknown, expired, ...
 *
 * After `unknown`, or when the connection broke before the answer, the request may or
 * may not be done: sending it again with the same session and sequence does it at most
 * once. Up to 64 sequences of a session may be under way. Keys have up to 255 bytes,
 * values up to 4,096, neither a space.
 *
 * Back-pressure: a client with too much under way is not read from until it has less,
 * and one that does not read its answers is cut off. Who closes its half of the connection gets
 * the answers that are under way, and then the end. */
#include "host.h"
#include "../tcp_watch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = KEY_MAX + VALUE_MAX + 128, WORDS = 7, BACKLOG = 128 };
enum { UNDER_WAY_MAX = 2048, UNREAD_MAX = 16 << 20, READ_BYTES = 64 << 10, SILENCE_S = 60 };

struct client {
    uv_tcp_t tcp;
    struct clients *all;
    struct bytes in;
    struct outlet out;
    uint32_t under_way; /* requests without an answer */
    bool paused, gone;
    bool asked; /* all that it will ask for: it has closed its half */
    struct client *next;
};

struct clients {
    uv_loop_t *loop;
    struct node *node;
    uv_tcp_t listener;
    struct client *first;
};

struct word {
    const char *at;
    size_t count;
};

/* ---- the life of a connection ---- */

static void release(struct client *c)
{
    struct client **link = &c->all->first;

    if (!c->gone || c->under_way > 0)
        return;
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    bytes_free(&c->in);
    outlet_free(&c->out);
    free(c);
}

static void on_gone(uv_handle_t *handle)
{
    struct client *c = handle->data;

    c->gone = true;
    release(c); /* or when its last request is answered */
}

static void drop(struct client *c)
{
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, on_gone);
}

void client_answer(struct client *c, const char *tag, const char *text, size_t count)
{
    c->under_way--;
    if (c->gone) {
        release(c);
        return;
    }
    bytes_add(&c->out.next, tag, strlen(tag));
    bytes_add(&c->out.next, " ", 1);
    bytes_add(&c->out.next, text, count);
    bytes_add(&c->out.next, "\n", 1);
}

static void answer(struct client *c, const char *tag, const char *text)
{
    c->under_way++;
    client_answer(c, tag, text, strlen(text));
}

/* ---- requests ---- */

static bool is(const struct word *w, const char *text)
{
    return w->count == strlen(text) && memcmp(w->at, text, w->count) == 0;
}

static bool number(const struct word *w, uint64_t *value)
{
    uint64_t v = 0;

    if (w->count == 0 || w->count > 19)
        return false;
    for (size_t i = 0; i < w->count; i++) {
        if (w->at[i] < '0' || w->at[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(w->at[i] - '0');
    }
    *value = v;
    return true;
}

static bool write_of(const struct word *w, size_t words, struct request *r, struct bytes *entry)
{
    char text[24] = { 0 };
    uint64_t amount;

    if (words != 6 || !number(&w[2], &r->session) || !number(&w[3], &r->sequence) ||
        w[4].count == 0 || w[4].count > KEY_MAX || w[5].count > VALUE_MAX ||
        (r->session == 0) != (r->sequence == 0))
        return false;
    r->kind = WRITE;
    if (is(&w[1], "put")) {
        store_entry_put(entry, w[4].at, w[4].count, w[5].at, w[5].count);
    } else {
        if (w[5].count >= sizeof text || !number(&w[5], &amount))
            return false;
        store_entry_add(entry, w[4].at, w[4].count, (int64_t)amount);
    }
    r->count = entry->count;
    return true;
}

static bool read_of(const struct word *w, size_t words, struct request *r, struct bytes *key)
{
    uint64_t ms;

    if (words < 3 || words > 5 || w[2].count == 0 || w[2].count > KEY_MAX)
        return false;
    r->kind = READ;
    if (words == 3 || (words == 4 && is(&w[3], "index"))) {
        r->mode = VSHARD_RAFT_READ_INDEX;
    } else if (words == 4 && is(&w[3], "lease")) {
        r->mode = VSHARD_RAFT_READ_LEASE;
    } else if (words == 5 && is(&w[3], "stale") && number(&w[4], &ms) && ms < UINT32_MAX) {
        r->mode = VSHARD_RAFT_READ_STALE;
        r->max_age_ns = ms * 1000000;
    } else {
        return false;
    }
    bytes_add(key, w[2].at, w[2].count);
    r->count = key->count;
    return true;
}

static bool parse(const struct word *w, size_t words, struct request *r, struct bytes *bytes)
{
    if (is(&w[1], "put") || is(&w[1], "add"))
        return write_of(w, words, r, bytes);
    if (is(&w[1], "get"))
        return read_of(w, words, r, bytes);
    if (is(&w[1], "open") && words == 2) {
        r->kind = SESSION;
        return true;
    }
    if (is(&w[1], "lead") && words == 3) {
        r->kind = TRANSFER;
        return number(&w[2], &r->node);
    }
    if (is(&w[1], "replace") && words == 4) {
        char text[24] = { 0 };

        r->kind = REPLACE;
        if (w[3].count >= sizeof text)
            return false;
        memcpy(text, w[3].at, w[3].count);
        r->incarnation = strtoull(text, NULL, 10);
        return number(&w[2], &r->node) && r->incarnation != 0;
    }
    return false;
}

static void request(struct client *c, const struct word *w, size_t words)
{
    struct request r = { .client = c };
    struct bytes bytes = { 0 };

    if (w[0].count == 0 || w[0].count >= sizeof r.tag || words < 2) {
        answer(c, "?", "error invalid");
        return;
    }
    memcpy(r.tag, w[0].at, w[0].count);
    if (is(&w[1], "status")) {
        node_status(c->all->node, &bytes);
        bytes_add(&bytes, "", 1);
        answer(c, r.tag, bytes.at);
    } else if (parse(w, words, &r, &bytes)) {
        c->under_way++;
        node_request(c->all->node, &r, bytes.at);
    } else {
        answer(c, r.tag, "error invalid");
    }
    bytes_free(&bytes);
}

static void line(struct client *c, const char *at, size_t count)
{
    struct word w[WORDS] = { { at, 0 } };
    size_t words = 0;

    if (count > 0 && at[count - 1] == '\r')
        count--;
    for (size_t i = 0; i < count && words < WORDS; words++) {
        const char *space = memchr(at + i, ' ', count - i);
        size_t end = space != NULL ? (size_t)(space - at) : count;

        w[words] = (struct word){ at + i, end - i };
        i = end + 1;
    }
    request(c, w, words);
}

/* ---- reading ---- */

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct client *c = handle->data;

    (void)suggested;
    *buffer = uv_buf_init(bytes_room(&c->in, READ_BYTES), READ_BYTES);
}

static void take_lines(struct client *c)
{
    size_t at = 0;

    while (c->under_way < UNDER_WAY_MAX) {
        const char *from = c->in.at + at;
        const char *end = c->in.count > at ? memchr(from, '\n', c->in.count - at) : NULL;

        if (end == NULL)
            break;
        line(c, from, (size_t)(end - from));
        at += (size_t)(end - from) + 1;
    }
    c->in.count -= at;
    if (at > 0)
        memmove(c->in.at, c->in.at + at, c->in.count);
    if (c->under_way < UNDER_WAY_MAX && c->in.count > LINE_MAX_BYTES) {
        say("a client sends lines without an end");
        drop(c);
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct client *c = stream->data;

    (void)buffer;
    if (count == UV_EOF) {
        c->asked = true; /* turn() drops it when it has been answered */
        return;
    }
    if (count < 0) {
        drop(c);
        return;
    }
    c->in.count += (size_t)count;
    take_lines(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct clients *all = listener->data;
    struct client *c;

    if (status != 0)
        return;
    c = take(NULL, sizeof *c);
    *c = (struct client){ .all = all, .next = all->first };
    all->first = c;
    uv_tcp_init(all->loop, &c->tcp);
    c->tcp.data = c;
    c->out.stream = (uv_stream_t *)&c->tcp;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read) != 0)
        drop(c);
    else {
        uv_tcp_nodelay(&c->tcp, 1);
        tcp_watch(&c->tcp, SILENCE_S);
    }
}

/* It asks for no more, and has all its answers. */
static bool is_done(const struct client *c)
{
    return c->asked && c->under_way == 0 && c->out.next.count == 0 && !c->out.busy &&
           (c->in.count == 0 || memchr(c->in.at, '\n', c->in.count) == NULL);
}

/* Sends answers, and reads from whom there is room for more. */
static void turn(struct client *c, bool busy)
{
    bool pause = busy || c->under_way >= UNDER_WAY_MAX;

    if (uv_is_closing((uv_handle_t *)&c->tcp))
        return;
    if (outlet_flush(&c->out) != 0 || c->out.next.count + c->out.flying.count > UNREAD_MAX ||
        is_done(c)) {
        drop(c);
        return;
    }
    if (pause && !c->paused)
        uv_read_stop((uv_stream_t *)&c->tcp);
    if (!pause)
        take_lines(c); /* those that there was no room for */
    if (!pause && c->paused && !c->asked && !uv_is_closing((uv_handle_t *)&c->tcp))
        uv_read_start((uv_stream_t *)&c->tcp, on_room, on_read);
    c->paused = pause;
}

void clients_flush(struct clients *all)
{
    bool busy = node_busy(all->node);

    for (struct client *c = all->first, *next; c != NULL; c = next) {
        next = c->next;
        turn(c, busy);
    }
}

struct clients *clients_open(uv_loop_t *loop, const struct options *o, struct node *n)
{
    struct clients *all = take(NULL, sizeof *all);
    int rc;

    *all = (struct clients){ .loop = loop, .node = n };
    uv_tcp_init(loop, &all->listener);
    all->listener.data = all;
    rc = uv_tcp_bind(&all->listener, (const struct sockaddr *)&o->client, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&all->listener, BACKLOG, on_connection);
    if (rc != 0)
        die("cannot listen for clients: %s", uv_strerror(rc));
    return all;
}

void clients_close(struct clients *all)
{
    uv_close((uv_handle_t *)&all->listener, NULL);
    for (struct client *c = all->first; c != NULL; c = c->next)
        drop(c);
}
