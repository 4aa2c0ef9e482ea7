/* story.h - what the files of the demo share. */
#ifndef CLUSTER_STORY_H
#define CLUSTER_STORY_H

#include "../demo/set.h"
#include "nodes.h"

enum { NEAREST = 10, SHARDS_MAX = 64, FLIGHT = 64 };

struct plan {
    const char *data, *set, *dir;
    uint32_t metric, nodes, shards, replicas, threads, ef;
    size_t rows;
};

/* A request under way; its number is the tag's low half. */
struct asked {
    uint64_t at_ns;
    uint32_t kind, node; /* kind: what it is for; 0: free */
    size_t item, count;  /* count: rows of a write, `item` and each third from there */
};

enum { FOR_ADMIN = 1, FOR_LOAD, FOR_EXACT, FOR_RECALL, FOR_LIVE, FOR_READ, FOR_WRITE, FOR_CHECK };
enum { THIRD = 3 };

struct story {
    struct plan plan;
    struct set set;
    struct nodes *nodes;
    char folder[4000];
    int folder_is_ours;

    struct asked asked[FLIGHT];
    uint32_t under_way;
    int answered; /* something was; ends a pump */
    int broken;   /* why no request of its kind may fail */

    struct vshard_merge_hit *exact, *found; /* [queries x NEAREST] */
    uint32_t *exact_count, *found_count;

    uint64_t reads, reads_failed, reads_partial, writes, writes_late;
    uint64_t *latency; /* [latency_count] ns of reads */
    size_t latency_count, latency_cap;
    uint32_t *version; /* [rows] how often a row was rewritten and acknowledged */
    uint32_t *tried;   /* [rows] likewise, and sent */
    uint64_t lost;

    uint64_t storm_began_ns, storm_writes;
    uint32_t killed;       /* a node, or 0 */
    uint64_t killed_at_ns; /* of nodes_now() */
    uint64_t failover_ns;  /* until a write to a shard it led was acknowledged */
    uint32_t *owner;       /* [rows] shard of each */
    uint32_t led[SHARDS_MAX];
};

/* Begins a request if there is room for one more; -1 if there is not. */
int ask_read(struct story *s, uint32_t why, size_t query, uint32_t node);
int ask_load(struct story *s, size_t first, size_t count, uint32_t node);
int ask_write(struct story *s, size_t row, size_t count, uint32_t node);
int is_being_written(const struct story *s, size_t row);
int ask_check(struct story *s, size_t row, uint32_t node);

void on_done(void *ctx, uint32_t at, const struct vshard_node_done *done);

/* The vector of a row after so many rewrites: they change nothing, so that recall stays
 * what it was; how often, its attribute says. */
uint32_t alive_node(struct story *s, size_t turn);

/* Waits until nothing is under way, at most so long; 0, or -1 after saying so. */
int drain(struct story *s, const char *what, double seconds_at_most);

/* view.c: shards, leaders, lag and rates; drawn over itself on a terminal. */
void view_begin(void);
void view_show(struct story *s, const char *phase, uint64_t done, uint64_t total);
void view_end(void);

#endif
