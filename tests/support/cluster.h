/* cluster.h - nodes in one process on virtual time: an array is the network, and storage in
 * memory the disks. For tests of vshard/node.h and for the simulator.
 *
 * Everything follows from the seed and the calls. A message takes NET_MIN_NS and up to
 * NET_SPREAD_NS more, may be lost or repeated, and does not pass a cut. A node that is
 * killed loses what its disk had not synced.
 *
 * Where the map is hosted, a store in memory keeps it, which is away as long as `store_away`
 * is set, and loses as many of its answers as the network loses messages. */
#ifndef SUPPORT_CLUSTER_H
#define SUPPORT_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vshard.h>

#include "support/fault_storage.h"

enum {
    CLUSTER_NODES = VSHARD_NODES_MAX + 1, /* one more than a cluster may have */
    CLUSTER_ANSWERS = 1 << 12,
    CLUSTER_HITS = 16,
    CLUSTER_POSITIONS = 16,
    CLUSTER_VALUES = 3
};

#define CLUSTER_MS ((uint64_t)1000000)

/* An answer, kept. */
struct cluster_answer {
    uint64_t tag, at_ns;
    uint32_t kind, times; /* times: how often it was answered; 0: not yet */
    int32_t status;
    uint32_t shards, shards_answered, hit_count, position_count, hedges, limits;
    uint64_t version, rows, distances;
    struct vshard_merge_hit hits[CLUSTER_HITS];
    struct vshard_position positions[CLUSTER_POSITIONS];
    float vector[32];
    uint32_t payload_bytes, value_count;
    char payload[64];
    struct { /* as a fetched row has it */
        unsigned char bytes[VSHARD_KEYWORD_MAX];
    } value[CLUSTER_VALUES];
};

struct cluster_message {
    uint64_t at_ns, order;
    uint64_t from, to; /* 0: the store of a hosted map */
    size_t count;
    unsigned char *bytes;
    uint64_t version; /* of a put, or the answer to one; 0: of none */
    int32_t status;   /* of the answer */
    uint32_t life;    /* of the node that it concerns: the store's answers do not outlive it */
};

struct cluster_node {
    struct cluster *cluster;
    uint64_t id;
    struct vshard_node *node; /* NULL: down */
    struct fault_storage *disk;
    uint64_t paused_until; /* takes no event before */
    uint64_t slow_ns;      /* messages from it take so much longer */
    uint64_t disk_at;      /* its storage completes what is queued then; 0: nothing is */
    uint32_t side;         /* messages pass between nodes of one side */
    uint32_t joins;
    uint32_t life;   /* how often it was started */
    uint64_t taken;  /* bytes of frames, since then */
    int32_t opened;  /* the status of the last opening */
    uint32_t region; /* when it is formatted */
    uint32_t level;  /* of formats that its library knows (lib/node/level.c), when it is started;
                        0: that of this one */
};

struct cluster {
    uint64_t now, random, order;
    uint32_t count; /* nodes 1..count */
    uint32_t founders;
    uint32_t lose_per_mille, repeat_per_mille;
    uint64_t spread_ns;
    uint64_t disk_ns; /* storage requests take up to so long; 0: no time */
    uint64_t step_ns; /* a node takes no event while an item of work runs, so long each; 0: it
                         does, and items take a moment */
    struct cluster_node node[CLUSTER_NODES + 1];
    struct cluster_message *message; /* a heap */
    size_t message_count, message_cap;
    struct cluster_answer *answer; /* [CLUSTER_ANSWERS] by tag */
    struct vshard_node_options options;
    const struct vshard_logger *logger;
    uint64_t sent, lost;
    uint32_t hosted;      /* there is a store, which has the map */
    uint32_t store_away;  /* it answers nothing */
    uint32_t disputed;    /* what it told of the map and a node would not believe */
    uint32_t overtaken;   /* puts that it refused: another was first */
    uint64_t map_version; /* 0: none yet */
    unsigned char *map, *map_before; /* [map_bytes], [map_before_bytes]: the version before */
    size_t map_bytes, map_before_bytes;
};

/* Founders 1..founders are formatted and opened; nodes up to `count` are not yet there. */
struct cluster *cluster_create(uint32_t founders, uint32_t count, uint64_t seed,
                               const struct vshard_node_options *options);
/* Likewise, with a store that keeps the map; the first have asked to be written down in it. */
struct cluster *cluster_create_hosted(uint32_t founders, uint32_t count, uint64_t seed,
                                      const struct vshard_node_options *options);
void cluster_destroy(struct cluster *c);

/* Lets time pass. */
void cluster_run(struct cluster *c, uint64_t ns);
/* Until tag is answered, at most so long; NULL if it is not. */
struct cluster_answer *cluster_wait(struct cluster *c, uint64_t tag, uint64_t ns);

/* Power is cut: what was not synced is gone, in a way that the seed decides. */
void cluster_kill(struct cluster *c, uint64_t id);
int cluster_start(struct cluster *c, uint64_t id);
/* Likewise, and then it is started again with a library of that level (lib/node/level.c). */
int cluster_upgrade(struct cluster *c, uint64_t id, uint32_t level);
/* The disk is empty, and the node has asked `peer` for admission. */
void cluster_join(struct cluster *c, uint64_t id, uint64_t peer);

uint64_t cluster_random(struct cluster *c, uint64_t below);
/* Who leads a shard, as a node that is up says; 0 if nobody. */
uint64_t cluster_leader(struct cluster *c, const char *collection, uint32_t shard);

#endif
