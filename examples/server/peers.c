/* peers.c - frames between nodes over TCP, each behind four bytes with its length.
 *
 * To each peer one connection, which is made when there is something to send and again
 * when it breaks; what a peer does not take is dropped, which the node bears. What others
 * send comes over connections of theirs.
 *
 * A machine that vanishes closes no connection, and the kernel would go on sending to it for a
 * quarter of an hour, ever more seldom, also when it has long been back. So a connection on which
 * nothing is acknowledged for SILENCE_S ends, and is made anew: that is many times what makes the
 * node elect another leader (150 ms), and little of what makes it give replicas up (60 s). */
#include "server.h"
#include "../tcp_watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAME_MAX = 80 << 20, QUEUE_MAX = 64 << 20, AGAIN_MS = 100, SILENCE_S = 5 };

struct peer {
    struct peers *all;
    struct address address;
    uv_tcp_t *tcp;
    uv_connect_t connect;
    uv_timer_t timer;
    bool connected;
    size_t queued; /* bytes on their way */
};

struct peers {
    struct server *s;
    struct peer peer[NODES_MAX + 1]; /* the last is nobody */
    uv_tcp_t listener;
    uint64_t unknown; /* the last node that there was no address of */
};

/* A connection of somebody else. */
struct inlet {
    uv_tcp_t tcp;
    struct server *s;
    struct bytes got;
    bool refused; /* and that was said */
};

struct writing {
    uv_write_t request;
    char *data;
    void (*written)(void *ctx, int status);
    void *ctx;
};

static void on_written(uv_write_t *request, int status)
{
    struct writing *w = request->data;

    if (w->written != NULL)
        w->written(w->ctx, status);
    free(w->data);
    free(w);
}

int stream_write(uv_stream_t *to, char *data, size_t bytes, void (*written)(void *ctx, int status),
                 void *ctx)
{
    struct writing *w = take(NULL, sizeof *w);
    uv_buf_t buffer = uv_buf_init(data, (unsigned)bytes);
    int rc;

    *w = (struct writing){ .data = data, .written = written, .ctx = ctx };
    w->request.data = w;
    rc = uv_write(&w->request, to, &buffer, 1, on_written);
    if (rc != 0) {
        free(data);
        free(w);
    }
    return rc;
}

void stream_listen(uv_loop_t *loop, uv_tcp_t *tcp, const char *name, const struct address *at,
                   uv_connection_cb call)
{
    char why[160];
    int rc;

    uv_tcp_init(loop, tcp);
    rc = uv_tcp_bind(tcp, (const struct sockaddr *)&at->at, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)tcp, 64, call);
    if (rc == 0)
        return;
    snprintf(why, sizeof why, "%s: %s", at->text, uv_strerror(rc));
    die(name, why);
}

/* ---- sending ---- */

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void lose(struct peer *p)
{
    if (p->tcp != NULL)
        uv_close((uv_handle_t *)p->tcp, on_closed);
    p->tcp = NULL;
    p->connected = false;
}

static void on_connected(uv_connect_t *request, int status);

static void call(struct peer *p)
{
    if (p->tcp != NULL || uv_is_active((uv_handle_t *)&p->timer))
        return;
    p->tcp = take(NULL, sizeof *p->tcp);
    uv_tcp_init_ex(p->all->s->loop, p->tcp, p->address.at.ss_family);
    uv_tcp_nodelay(p->tcp, 1);
    tcp_watch(p->tcp, SILENCE_S);
    p->connect.data = p;
    if (uv_tcp_connect(&p->connect, p->tcp, (const struct sockaddr *)&p->address.at,
                       on_connected) != 0)
        lose(p);
}

static void on_again(uv_timer_t *timer)
{
    uv_timer_stop(timer);
}

static void on_connected(uv_connect_t *request, int status)
{
    struct peer *p = request->data;

    p->connected = status == 0;
    if (status != 0 && status != UV_ECANCELED) {
        lose(p);
        uv_timer_start(&p->timer, on_again, AGAIN_MS, 0);
    }
}

struct sent {
    struct peer *peer;
    uv_tcp_t *tcp;
    size_t bytes;
};

static void on_sent(void *ctx, int status)
{
    struct sent *t = ctx;

    t->peer->queued -= t->bytes;
    if (status != 0 && t->peer->tcp == t->tcp)
        lose(t->peer);
    free(t);
}

void peers_send(struct peers *all, uint64_t node, const void *frame, size_t bytes)
{
    struct peer *p = all->peer;
    uint32_t count = (uint32_t)bytes;
    struct sent *t;
    char *data;

    while (p->all != NULL && p->address.node != node)
        p++;
    if (p->all == NULL) {
        if (all->unknown != node)
            log_line("peer.unknown", "node", NULL,
                     (int64_t)node); /* the configuration has no line */
        all->unknown = node;
        return;
    }
    if (!p->connected) {
        call(p);
        return;
    }
    if (p->queued + bytes > QUEUE_MAX)
        return;
    data = take(NULL, bytes + sizeof count);
    memcpy(data, &count, sizeof count);
    memcpy(data + sizeof count, frame, bytes);
    t = take(NULL, sizeof *t);
    *t = (struct sent){ p, p->tcp, bytes };
    p->queued += bytes;
    if (stream_write((uv_stream_t *)p->tcp, data, bytes + sizeof count, on_sent, t) != 0) {
        p->queued -= bytes;
        free(t);
        lose(p);
    }
}

/* ---- receiving ---- */

static void on_inlet_closed(uv_handle_t *handle)
{
    struct inlet *i = handle->data;

    free(i->got.at);
    free(i);
}

static void on_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buffer)
{
    (void)handle;
    *buffer = uv_buf_init(take(NULL, wanted), (unsigned)wanted);
}

static void take_frame(struct inlet *i, const char *frame, size_t bytes)
{
    int rc = vshard_node_recv(i->s->node, server_now(), frame, bytes);

    if (rc == VSHARD_ENOTFOUND || rc == VSHARD_ECORRUPT || rc == VSHARD_EVERSION) {
        if (!i->refused)
            log_line("peer.refused", "why", vshard_strerror(rc), 0);
        i->refused = true;
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct inlet *i = stream->data;
    size_t at = 0;
    uint32_t bytes;

    if (count > 0)
        bytes_add(&i->got, buffer->base, (size_t)count);
    free(buffer->base);
    while (count >= 0 && i->got.count - at >= sizeof bytes) {
        memcpy(&bytes, i->got.at + at, sizeof bytes);
        if (bytes > FRAME_MAX) {
            count = -1;
            break;
        }
        if (i->got.count - at < sizeof bytes + bytes)
            break;
        take_frame(i, i->got.at + at + sizeof bytes, bytes);
        at += sizeof bytes + bytes;
    }
    if (count < 0)
        uv_close((uv_handle_t *)stream, on_inlet_closed);
    else if (at > 0)
        bytes_drop(&i->got, at);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct peers *p = listener->data;
    struct inlet *i;

    if (status != 0)
        return;
    i = take(NULL, sizeof *i);
    *i = (struct inlet){ .s = p->s };
    uv_tcp_init(p->s->loop, &i->tcp);
    i->tcp.data = i;
    if (uv_accept(listener, (uv_stream_t *)&i->tcp) != 0 ||
        uv_read_start((uv_stream_t *)&i->tcp, on_room, on_read) != 0)
        uv_close((uv_handle_t *)&i->tcp, on_inlet_closed);
    else
        tcp_watch(&i->tcp, SILENCE_S);
}

struct peers *peers_open(struct server *s)
{
    struct peers *p = take(NULL, sizeof *p);

    *p = (struct peers){ .s = s };
    for (uint32_t i = 0; i < s->config.peer_count; i++) {
        p->peer[i].all = p;
        p->peer[i].address = s->config.peer[i];
        uv_timer_init(s->loop, &p->peer[i].timer);
    }
    p->listener.data = p;
    stream_listen(s->loop, &p->listener, "listen", &s->config.listen, on_connection);
    return p;
}
