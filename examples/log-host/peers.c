/* peers.c - frames over TCP.
 *
 * Each node connects to every other, and sends on the connection it made; on those it
 * accepted it only reads. So there is nothing to agree on about who connects: the frame
 * says whose it is, and a peer is whoever can make a frame that is accepted (with keys,
 * whoever has the key). A stream whose next frame cannot be found is closed.
 *
 * What is sent to a peer that is away, or too slow to take it, is dropped. A connection on which
 * nothing is acknowledged for SILENCE_S ends, and is made anew: the machine may have vanished. */
#include "host.h"
#include "../tcp_watch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { RAFT_MESSAGE = 1, QUEUE_MAX = 32 << 20, READ_BYTES = 256 << 10, BACKLOG = 64 };
enum { RETRY_MIN_MS = 10, RETRY_MAX_MS = 250, SILENCE_S = 5 };

struct peer {
    struct peers *all;
    struct address address;
    uv_tcp_t *tcp; /* NULL between attempts */
    uv_connect_t request;
    uv_timer_t timer;
    struct outlet out;
    bool connected;
    uint64_t retry_ms, dropped;
};

struct peers {
    uv_loop_t *loop;
    struct node *node;
    struct vshard_wire *wire;
    uv_tcp_t listener;
    struct peer peer[NODES_MAX];
    uint32_t count;
    struct inlet *inlets;
    bool closing;
};

/* A connection that somebody made to us. */
struct inlet {
    uv_tcp_t tcp;
    struct peers *all;
    struct bytes in;
    struct inlet *next;
};

/* ---- receiving ---- */

static void inlet_gone(uv_handle_t *handle)
{
    struct inlet *i = handle->data, **link = &i->all->inlets;

    while (*link != i)
        link = &(*link)->next;
    *link = i->next;
    bytes_free(&i->in);
    free(i);
}

static void inlet_close(struct inlet *i)
{
    if (!uv_is_closing((uv_handle_t *)&i->tcp))
        uv_close((uv_handle_t *)&i->tcp, inlet_gone);
}

/* Takes whole frames from the front. Returns how many bytes they were, or -1. */
static ptrdiff_t take_frames(struct inlet *i)
{
    size_t at = 0, length;

    for (;;) {
        struct vshard_frame frame = { .size = sizeof frame };
        const char *from = i->in.at + at;

        if (vshard_wire_length(i->all->wire, from, i->in.count - at, &length) != VSHARD_OK)
            return -1;
        if (length == 0 || length > i->in.count - at)
            return (ptrdiff_t)at;
        if (vshard_wire_decode(i->all->wire, from, length, &frame) == VSHARD_OK &&
            frame.type == RAFT_MESSAGE && frame.group == GROUP)
            node_message(i->all->node, frame.head, (size_t)frame.head_bytes);
        at += length;
    }
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct inlet *i = handle->data;

    (void)suggested;
    *buffer = uv_buf_init(bytes_room(&i->in, READ_BYTES), READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct inlet *i = stream->data;
    ptrdiff_t used;

    (void)buffer;
    if (count < 0) {
        inlet_close(i);
        return;
    }
    i->in.count += (size_t)count;
    used = take_frames(i);
    if (used < 0) {
        say("a connection is closed that sends no frames");
        inlet_close(i);
        return;
    }
    i->in.count -= (size_t)used;
    if (used > 0)
        memmove(i->in.at, i->in.at + used, i->in.count);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct peers *p = listener->data;
    struct inlet *i;

    if (status != 0)
        return;
    i = take(NULL, sizeof *i);
    *i = (struct inlet){ .all = p, .next = p->inlets };
    p->inlets = i;
    uv_tcp_init(p->loop, &i->tcp);
    i->tcp.data = i;
    if (uv_accept(listener, (uv_stream_t *)&i->tcp) != 0 ||
        uv_read_start((uv_stream_t *)&i->tcp, on_room, on_read) != 0)
        inlet_close(i);
    else
        tcp_watch(&i->tcp, SILENCE_S);
}

/* ---- sending ---- */

static void peer_connect(struct peer *p);

static void on_retry(uv_timer_t *timer)
{
    peer_connect(timer->data);
}

static void peer_gone(uv_handle_t *handle)
{
    struct peer *p = handle->data;

    p->tcp = NULL;
    p->connected = false;
    p->out.next.count = 0;
    free(handle);
    if (p->all->closing)
        return;
    uv_timer_start(&p->timer, on_retry, p->retry_ms, 0);
    p->retry_ms = p->retry_ms * 2 < RETRY_MAX_MS ? p->retry_ms * 2 : RETRY_MAX_MS;
}

static void peer_drop(struct peer *p)
{
    if (p->tcp != NULL && !uv_is_closing((uv_handle_t *)p->tcp))
        uv_close((uv_handle_t *)p->tcp, peer_gone);
}

/* Nobody sends on a connection that we made; what can be read is that it ended. */
static void on_nothing(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    static char nothing[1];

    (void)handle;
    (void)suggested;
    *buffer = uv_buf_init(nothing, sizeof nothing);
}

static void on_end(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    (void)buffer;
    if (count < 0)
        peer_drop(stream->data);
}

static void on_connected(uv_connect_t *request, int status)
{
    struct peer *p = request->data;

    if (status != 0) {
        peer_drop(p);
        return;
    }
    uv_tcp_nodelay(p->tcp, 1);
    uv_read_start((uv_stream_t *)p->tcp, on_nothing, on_end);
    p->connected = true;
    p->retry_ms = RETRY_MIN_MS;
}

static void peer_connect(struct peer *p)
{
    p->tcp = take(NULL, sizeof *p->tcp);
    uv_tcp_init_ex(p->all->loop, p->tcp, p->address.at.ss_family);
    tcp_watch(p->tcp, SILENCE_S);
    p->tcp->data = p;
    p->request.data = p;
    p->out.stream = (uv_stream_t *)p->tcp;
    if (uv_tcp_connect(&p->request, p->tcp, (struct sockaddr *)&p->address.at, on_connected) != 0)
        peer_drop(p);
}

void peers_send(struct peers *all, uint64_t node, const struct vshard_raft_effect *e)
{
    const struct vshard_frame frame = { .size = sizeof frame,
                                        .type = RAFT_MESSAGE,
                                        .group = GROUP,
                                        .node = node,
                                        .head = e->bytes,
                                        .head_bytes = e->byte_count,
                                        .body = e->body,
                                        .body_bytes = e->body_count };
    size_t bound = vshard_wire_bound((size_t)(e->byte_count + e->body_count)), length;
    struct peer *p = all->peer;

    while (p < all->peer + all->count && p->address.node != node)
        p++;
    if (p == all->peer + all->count || !p->connected ||
        p->out.next.count + p->out.flying.count > QUEUE_MAX) {
        if (p < all->peer + all->count)
            p->dropped++;
        return;
    }
    if (vshard_wire_encode(all->wire, &frame, bytes_room(&p->out.next, bound), bound, &length) ==
        VSHARD_OK)
        p->out.next.count += length;
}

void peers_flush(struct peers *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        struct peer *p = &all->peer[i];

        if (p->connected && !uv_is_closing((uv_handle_t *)p->tcp) && outlet_flush(&p->out) != 0)
            peer_drop(p);
    }
}

/* ---- birth and death ---- */

struct peers *peers_open(uv_loop_t *loop, const struct options *o, uint64_t incarnation,
                         struct node *n)
{
    const struct vshard_wire_options options = { .size = sizeof options,
                                                 .cluster = { 0, o->cluster },
                                                 .node = o->node,
                                                 .incarnation = incarnation,
                                                 .keys = o->keys,
                                                 .key_count = o->key_count };
    struct peers *p = take(NULL, sizeof *p);
    int rc;

    *p = (struct peers){ .loop = loop, .node = n };
    rc = vshard_wire_create(&options, &p->wire);
    if (rc != VSHARD_OK)
        die("cannot frame messages: %s", vshard_strerror(rc));
    uv_tcp_init(loop, &p->listener);
    p->listener.data = p;
    for (uint32_t i = 0; i < o->peer_count; i++) {
        if (o->peers[i].node == o->node) {
            rc = uv_tcp_bind(&p->listener, (const struct sockaddr *)&o->peers[i].at, 0);
            if (rc == 0)
                rc = uv_listen((uv_stream_t *)&p->listener, BACKLOG, on_connection);
            if (rc != 0)
                die("cannot listen for peers: %s", uv_strerror(rc));
            continue;
        }
        p->peer[p->count] =
            (struct peer){ .all = p, .address = o->peers[i], .retry_ms = RETRY_MIN_MS };
        uv_timer_init(loop, &p->peer[p->count].timer);
        p->peer[p->count].timer.data = &p->peer[p->count];
        peer_connect(&p->peer[p->count++]);
    }
    return p;
}

void peers_status(struct peers *all, struct bytes *to)
{
    struct vshard_wire_counters c = { .size = sizeof c };
    uint64_t dropped = 0, connected = 0;

    vshard_wire_count(all->wire, &c);
    for (uint32_t i = 0; i < all->count; i++) {
        dropped += all->peer[i].dropped;
        connected += all->peer[i].connected;
    }
    bytes_print(to,
                " connected=%" PRIu64 " frames=%" PRIu64 " refused=%" PRIu64 " dropped=%" PRIu64,
                connected, c.accepted,
                c.malformed + c.unversioned + c.damaged + c.misdirected + c.unsealed + c.unkeyed +
                    c.forged + c.unpacked,
                dropped);
}

void peers_close(struct peers *p)
{
    p->closing = true;
    uv_close((uv_handle_t *)&p->listener, NULL);
    for (struct inlet *i = p->inlets; i != NULL; i = i->next)
        inlet_close(i);
    for (uint32_t i = 0; i < p->count; i++) {
        uv_close((uv_handle_t *)&p->peer[i].timer, NULL);
        peer_drop(&p->peer[i]);
    }
}
