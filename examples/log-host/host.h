/* host.h - what the files of the host share.
 *
 * Reading order: node.c (a replica: its log on disk, its core, its state machine), which
 * is what vshard_host(7) describes; disk.c (storage on threads); snapshot.c; peers.c
 * (frames over TCP); clients.c (the protocol); store.c (the state machine); main.c.
 *
 * One thread, that of the loop, owns everything but disk.c's queue. */
#ifndef LOG_HOST_H
#define LOG_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include <vshard.h>

enum { GROUP = 1, NODES_MAX = VSHARD_RAFT_MEMBERS_MAX, KEY_MAX = 255, VALUE_MAX = 4096 };

/* Prints one line to stderr, with the node's name before it. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, and ends the process: for what it cannot go on after. A process that is
 * killed at any moment restarts from its log, so this is always safe. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory, or the end. */
void *take(void *old, size_t bytes);

/* ---- bytes that grow ---- */

struct bytes {
    char *at;
    size_t count, cap;
};

void bytes_add(struct bytes *b, const void *from, size_t count);
void bytes_print(struct bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *bytes_room(struct bytes *b, size_t count); /* what is written there counts after */
void bytes_free(struct bytes *b);

/* ---- a stream to write to, without waiting ---- */

struct outlet {
    uv_stream_t *stream;
    struct bytes next, flying;
    uv_write_t request;
    bool busy;
};

/* Sends what has been added to `next`; what the kernel does not take goes later.
 * Returns 0, or libuv's error. */
int outlet_flush(struct outlet *o);
void outlet_free(struct outlet *o);

/* ---- options ---- */

struct address {
    uint64_t node; /* 0: none */
    struct sockaddr_storage at;
};

struct options {
    uint64_t node;
    const char *dir;
    struct address peers[NODES_MAX]; /* this node too */
    uint32_t peer_count;
    struct sockaddr_storage client;
    bool init, join;
    uint64_t cluster;
    struct vshard_wire_key keys[VSHARD_WIRE_KEYS_MAX];
    uint32_t key_count;
    uint64_t election_ms, segment_kib, snapshot_every;
};

/* ---- disk.c ---- */

struct disk;
struct disk *disk_open(uv_loop_t *loop, void (*wake)(void *ctx), void *ctx);
void disk_hook(struct disk *d, struct vshard_storage *storage);
void disk_wake(void *disk); /* any thread: wake() is called on the loop's, soon */
void disk_close(struct disk *d);

/* ---- store.c ---- */

struct store;
struct store *store_create(void);
void store_destroy(struct store *s);
/* Applies one entry; the answer for its client goes into `answer`. */
void store_apply(struct store *s, const void *entry, size_t count, struct bytes *answer);
const char *store_get(const struct store *s, const char *key, size_t count, size_t *value_count);
void store_save(const struct store *s, struct bytes *image);
int store_load(struct store *s, const void *image, size_t count);
/* The entries that clients' requests become. */
void store_entry_put(struct bytes *to, const char *key, size_t key_count, const char *value,
                     size_t count);
void store_entry_add(struct bytes *to, const char *key, size_t key_count, int64_t amount);

/* ---- node.c ---- */

struct client;

/* What a client waits for. */
struct request {
    struct client *client;
    char tag[32];
    uint32_t kind;
    uint32_t mode;        /* of READ */
    uint64_t max_age_ns;  /* of READ */
    uint64_t node;        /* of TRANSFER and REPLACE */
    uint64_t incarnation; /* of REPLACE */
    uint64_t session;     /* of WRITE */
    uint64_t sequence;
    size_t at, count; /* WRITE: the entry, READ: the key, in the batch's bytes */
};

enum { WRITE = 1, SESSION, READ, TRANSFER, REPLACE };

struct node;
struct node *node_open(uv_loop_t *loop, const struct options *options);
/* Takes a request, with its bytes; it is answered by client_answer(). */
void node_request(struct node *n, const struct request *r, const void *bytes);
void node_status(struct node *n, struct bytes *to);
bool node_busy(const struct node *n); /* ask for nothing more now */
void node_message(struct node *n, const void *bytes, size_t count);
/* Hands leadership over if it is here, then stops the loop. */
void node_stop(struct node *n);
void node_close(struct node *n);

/* ---- snapshot.c: a file of its own for each, made on another thread ---- */

struct snapshot {
    uint64_t index, term;
    struct bytes meta, state;
};

/* Writes the snapshot, which is then the callback's to free. */
void snapshot_write(uv_loop_t *loop, const char *dir, struct snapshot *s,
                    void (*done)(struct snapshot *s, int status, void *ctx), void *ctx);
int snapshot_read(const char *dir, uint64_t index, struct snapshot *s);
void snapshot_remove(const char *dir, uint64_t index);
void snapshot_free(struct snapshot *s);

/* ---- peers.c ---- */

struct peers;
struct peers *peers_open(uv_loop_t *loop, const struct options *o, uint64_t incarnation,
                         struct node *n);
/* A message for a peer, in two pieces. Lost when the peer is away, which Raft bears. */
void peers_send(struct peers *p, uint64_t node, const struct vshard_raft_effect *message);
void peers_flush(struct peers *p);
void peers_status(struct peers *p, struct bytes *to);
void peers_close(struct peers *p);

/* ---- clients.c ---- */

struct clients;
struct clients *clients_open(uv_loop_t *loop, const struct options *o, struct node *n);
void client_answer(struct client *c, const char *tag, const char *text, size_t count);
void clients_flush(struct clients *c);
void clients_close(struct clients *c);

#endif
