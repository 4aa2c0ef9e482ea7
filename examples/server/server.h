/* server.h - what the files of the server share.
 *
 * One thread, that of the loop, makes all control calls of the node and owns everything but
 * the flags that workers and the node's wake() set. Reading order: main.c (the node and its
 * workers), config.c and log.c (what it is told, and what it tells), peers.c (frames between
 * nodes), clients.c (the protocol), requests.c (what a line asks for), answers.c (what a line
 * tells). */
#ifndef SERVER_H
#define SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include <vshard.h>

enum { NODES_MAX = 16, WORKERS_MAX = 64, TAG_BYTES = 32, WORDS_MAX = 32 };

struct address {
    uint64_t node;
    struct sockaddr_storage at;
    char text[72]; /* as the configuration has it */
};

struct config {
    uint64_t node;
    struct vshard_key cluster; /* 0: none was named */
    char dir[3000];
    struct address listen, client;
    struct address peer[NODES_MAX]; /* others */
    uint32_t peer_count;
    uint64_t founders[NODES_MAX];
    uint32_t founder_count;
    uint32_t workers;
    int nice; /* so much nicer are workers */
    uint32_t region;
    bool region_named; /* it is to be the one that the node was formatted with */
    uint64_t cache_bytes;
};

/* Reads a file of lines "name = value"; says what is wrong, and ends. */
void config_read(struct config *c, const char *path);

/* One JSON line to stderr, of the server and of its node; any thread. */
void log_line(const char *event, const char *name, const char *text, int64_t value);
void log_event(uint32_t level, const char *name, const struct vshard_log_field *field,
               size_t count);
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

/* Whether the text is a number, digits alone, of at most `limit`. */
bool number_read(const char *text, uint64_t limit, uint64_t *number);

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
    uv_signal_t stop[2]; /* by which it is asked to end */
    bool work_wanted, woken;
    atomic_bool ending;
    uv_thread_t thread; /* of the loop */
    char why[256];      /* what was wrong with the request at hand: argument, value and limit */
};

uint64_t server_now(void);

struct peers *peers_open(struct server *s);
/* One frame; dropped where the peer does not take it. */
void peers_send(struct peers *p, uint64_t node, const void *frame, size_t bytes);

struct clients *clients_open(struct server *s);
void clients_done(struct clients *c, const struct vshard_node_done *done);

/* ---- a request, and what is said to it ---- */

/* A request as its line has it, and its body. */
struct request {
    char word[16], tag[TAG_BYTES];
    char *words[WORDS_MAX]; /* behind the tag, without the bytes of the body; in the line */
    uint32_t word_count;
    const char *body;
    size_t body_bytes;
};

/* Cuts a line into words; false: it is nobody's, since it has no tag, or its body no end. */
bool request_read(struct request *r, char *line, size_t *body);
/* 0, or a status: there is no such request, or its words are others; `why` says more. */
int request_check(struct server *s, const struct request *r);
/* One that was checked. 0: done() will tell; a status: it will not, and `why` may say more. */
int request_begin(struct server *s, const struct request *r, uint64_t tag);
/* The file of an export that has this tag. */
void export_path(const struct config *c, uint64_t tag, char path[4096]);
extern const char export_name[], *const metric_names[3], *const type_names[4];

/* A number of a collection, which has the name that it has in struct vshard_collection. */
struct field {
    const char *name;
    size_t at, bytes;
};
extern const struct field collection_fields[];

void print_done(struct bytes *line, const struct vshard_node_done *d);
void print_status(struct bytes *line, struct vshard_node *node);
void print_nodes(struct bytes *line, struct vshard_node *node);
int print_collection(struct bytes *line, struct vshard_node *node, const char *name);
int print_shards(struct bytes *line, struct vshard_node *node, const char *name);

/* Listens there, or says why not, and ends; `name` is that of the line of the configuration. */
void stream_listen(uv_loop_t *loop, uv_tcp_t *tcp, const char *name, const struct address *at,
                   uv_connection_cb call);
/* Writes what the kernel does not take at once later; frees `data` in any case. */
int stream_write(uv_stream_t *to, char *data, size_t bytes, void (*written)(void *ctx, int status),
                 void *ctx);

#endif
