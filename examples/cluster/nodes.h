/* nodes.h - a cluster in one process: nodes, the array that is their network, and the
 * threads that work for all of them.
 *
 * One thread, the caller's, makes all control calls: nodes_pump() delivers what has been
 * sent, ticks the nodes whose time has come, and sleeps until something is to do. Worker
 * threads take items of work from whichever node has some. */
#ifndef CLUSTER_NODES_H
#define CLUSTER_NODES_H

#include <stdatomic.h>
#include <stdint.h>

#include <vshard.h>

enum { NODES_MAX = 16 };

struct nodes;

struct nodes_plan {
    uint32_t count, workers;
    const char *folder; /* each node gets one in it */
    /* What came of a request at node `at`. */
    void (*done)(void *ctx, uint32_t at, const struct vshard_node_done *done);
    void *ctx;
    const struct vshard_logger *logger; /* or NULL */
};

/* Founds a cluster and opens its nodes 1 to count. NULL after saying why not. */
struct nodes *nodes_open(const struct nodes_plan *plan);
void nodes_close(struct nodes *n);

/* NULL while it is down. */
struct vshard_node *nodes_at(struct nodes *n, uint32_t at);

/* As if its process were killed: nothing is said to anybody. */
void nodes_kill(struct nodes *n, uint32_t at);
/* Opens it again from its files. Returns 0 or a status. */
int nodes_revive(struct nodes *n, uint32_t at);

/* Lets the cluster live until `ns` of nodes_now() at most, or until *stop is not 0. */
void nodes_pump(struct nodes *n, uint64_t until, const int *stop);

/* Nanoseconds of a steady clock. */
uint64_t nodes_now(void);

/* Frames that were sent so far. */
uint64_t nodes_frames(const struct nodes *n);

#endif
