/* route.h - the door of lib/route: who owns a key (public), and which nodes get the
 * replicas of a shard. */
#ifndef VS_ROUTE_H
#define VS_ROUTE_H

#include <vshard/map.h>

#include "base/base.h"

/* A map of shards 0 .. shards - 1, of weight 1 each: as if they had been added in this order.
 * Returns 0 and what vshard_map_create() and vshard_map_add() do. */
int vs_map_even(const struct vshard_map_options *options, uint32_t shards, struct vshard_map **map);

enum { VS_PLACING_MAX = 16 };

struct vs_placing_node {
    uint64_t node;
    uint32_t replicas; /* that it has */
    uint32_t leads;    /* of them, those it should lead */
};

struct vs_placing {
    struct vs_placing_node node[VS_PLACING_MAX];
    uint32_t count;
};

/* Counts a replica that a node has; others than the placing's are passed over. */
void vs_placing_count(struct vs_placing *p, uint64_t node, bool leads);
/* Chooses `replicas` different nodes, at most p->count, and counts them. The first is to
 * lead. */
void vs_place(struct vs_placing *p, uint64_t *nodes, uint32_t replicas);
/* Who would get one replica more; p->count is at least 1. */
uint64_t vs_place_one(const struct vs_placing *p);

#endif
