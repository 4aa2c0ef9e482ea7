/* cluster.h - cores on a desk: nothing moves until it is told to.
 *
 * What a core wants sent, applied or read waits in its own queue until ready() lets
 * it go, as etcd's test environment has it. Storage is durable at once. Campaigns
 * skip the question before the vote, which etcd does not ask by default, and nobody's
 * promise to a leader counts: the order to stand that a hand-over gives. */
#ifndef ETCD_CLUSTER_H
#define ETCD_CLUSTER_H

#include "raft/core.h"

enum { NODES = 8, GROUP = 1 };

struct letter {
    struct letter *next;
    uint64_t from, to;
    size_t count;
    unsigned char bytes[];
};

struct letters {
    struct letter *first, **last;
};

struct work { /* that the host of a replica has to do */
    uint32_t kind;
    uint64_t index, term, offset, node, count;
    unsigned char bytes[8 + VS_CONFIG_BYTES]; /* META, or a piece of a snapshot */
};

struct disk {
    uint64_t term, vote, commit;
    struct vshard_raft_entry *entry; /* from first on; data is ours */
    uint64_t *chain;                 /* a digest of the log through each of them */
    size_t count, cap;
    uint64_t first;
    uint64_t snapshot, snapshot_term, snapshot_chain; /* the newest */
    unsigned char meta[8 + VS_CONFIG_BYTES];
    size_t meta_count;
};

struct replica {
    uint64_t id, boot;
    struct vshard_raft *raft; /* NULL: down */
    struct vs_group *g;
    struct letters out;
    struct work work[64];
    size_t work_count;
    struct disk disk;
    uint64_t incoming; /* the state of a snapshot being received */
    int answer;        /* of the last DONE */
    uint32_t answers, installs;
    int snapshots;   /* take one of everything applied */
    int stays_joint; /* until told to leave */
};

struct cluster {
    uint64_t now;
    uint32_t count;
    struct replica node[NODES + 1];
    struct letters net;
};

/* A replica that starts with this configuration at `index`, or (count 0) with nothing. */
void replica_start(struct cluster *c, uint64_t id, const struct vshard_raft_member *member,
                   uint32_t count, uint64_t index);
/* Entries before the newest snapshot, taken now, are forgotten, but for `keep`. */
void replica_compact(struct cluster *c, struct replica *n, uint64_t keep);
uint64_t replica_chain(const struct replica *n); /* of its whole log */
void replica_crash(struct cluster *c, uint64_t id);
void replica_restart(struct cluster *c, uint64_t id);
int replica_step(struct cluster *c, struct replica *n, struct vshard_raft_event e);
void replica_campaign(struct cluster *c, struct replica *n);
/* Appends a configuration as a leader would. */
void replica_append_config(struct cluster *c, struct replica *n, const struct vs_config *config);
/* As a leader under a committed joint configuration does. Returns 0 or EBUSY. */
int replica_leave_joint(struct cluster *c, struct replica *n);
int replica_has_ready(const struct replica *n);
void replica_ready(struct cluster *c, struct replica *n);
void replica_beat(struct cluster *c, struct replica *n);
/* Is this letter to be lost? May be NULL. */
extern int (*cluster_loses)(const struct cluster *c, const struct letter *l);
/* Hands n what is on its way to it; without `take`, drops it. Returns how many. */
size_t cluster_deliver(struct cluster *c, uint64_t id, int take);
void cluster_free(struct cluster *c);
const struct vs_config *replica_config(const struct replica *n); /* as far as it has applied */

#endif
