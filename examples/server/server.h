/* server.h - what the files of the server share.
 *
 * One thread, that of the loop, makes all control calls of the node and owns everything but
 * the flags that workers and the node's wake() set. Reading order: main.c (the node and its
 * workers), peers.c (frames between nodes), clients.c (the protocol). */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include <vshard.h>

enum { NODES_MAX = 16, WORKERS_MAX = 64 };

struct address {
    uint64_t node;
    struct sockaddr_storage at;
};

struct config {
    uint64_t node;
    struct vshard_key cluster;
    char dir[3000];
    struct address listen, client;
    struct address peer[NODES_MAX]; /* others */
    uint32_t peer_count;
    uint64_t founders[NODES_MAX];
    uint32_t founder_count;
    uint32_t workers;
    int nice; /* of workers */
};

/* Reads a file of lines "name = value"; says what is wrong, and ends. */
void config_read(struct config *c, const char *path);

/* One JSON line to stderr. */
void log_line(const char *event, const char *name, const char *text, int64_t value);
_Noreturn void die(const char *what, const char *why);
void *take(void *old, size_t bytes);

/* ---- bytes that grow ---- */

struct bytes {
    char *at;
    size_t count, cap;
};

void bytes_add(struct bytes *b, const void *from, size_t count);
void bytes_print(struct bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void bytes_drop(struct bytes *b, size_t count); /* from the front */

struct server {
    struct config config;
    uv_loop_t *loop;
    struct vshard_node *node;
    struct peers *peers;
    struct clients *clients;
    uv_async_t async; /* the node wants a tick */
    uv_timer_t timer;
    uv_check_t check;
    uv_thread_t worker[WORKERS_MAX];
    uv_mutex_t lock;
    uv_cond_t work;
    bool work_wanted, ending, woken;
};

uint64_t server_now(void);

struct peers *peers_open(struct server *s);
/* One frame; dropped where the peer does not take it. */
void peers_send(struct peers *p, uint64_t node, const void *frame, size_t bytes);

struct clients *clients_open(struct server *s);
void clients_done(struct clients *c, const struct vshard_node_done *done);

/* Writes what the kernel does not take at once later; frees `data` in any case. */
int stream_write(uv_stream_t *to, char *data, size_t bytes, void (*written)(void *ctx, int status),
                 void *ctx);

#endif
