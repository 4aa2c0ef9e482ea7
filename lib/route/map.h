/* map.h - what a cluster map is made of: shared by the files of lib/route. */
#ifndef VS_ROUTE_MAP_H
#define VS_ROUTE_MAP_H

#include "route/route.h"

/* In the table of arcs: nobody. */
#define VS_NOBODY UINT16_MAX

struct vs_member {
    uint32_t shard;
    uint32_t weight;
    uint32_t arcs;      /* owned */
    uint32_t quota;     /* of the balance at hand */
    uint64_t remainder; /* arcs * weight mod the sum of weights */
};

struct vshard_map {
    struct vshard_allocator own_allocator;
    const struct vshard_allocator *allocator; /* NULL: the C library's heap */
    struct vshard_logger log;
    uint16_t *owner;           /* [arcs] the owner's row in members, or VS_NOBODY */
    struct vs_member *members; /* [member_count] by shard; NULL when there are none */
    uint32_t member_count;
    uint32_t arcs;
    uint32_t arc_bits;
    uint64_t weight; /* sum over the members; 0 exactly when nobody owns arcs */
    uint64_t version;
};

/* Refuses a call on this map, with a log event. */
int vs_map_refuse(const struct vshard_map *map, int status, const char *argument, int64_t value,
                  int64_t limit);

/* Makes an empty map whose table of arcs is not yet filled. */
int vs_map_new(struct vshard_map **map, const struct vshard_allocator *allocator,
               const struct vshard_logger *log, uint32_t arcs);
int vs_map_options(struct vshard_map_options *ours, const struct vshard_map_options *theirs);

/* The row of a shard in members, or where it would go. */
uint32_t vs_map_row(const struct vshard_map *map, uint32_t shard);

/* Gives each member its quota of arcs, moving as few as can be. */
void vs_map_balance(struct vshard_map *map);

#endif
