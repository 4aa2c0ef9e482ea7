/* sim.h - a whole cluster with search, simulated: what the files share.
 *
 * A schedule is a function of its seed: nodes, shards, clients, faults (schedule.c). What
 * clients did and were told is kept by key (model.c), and each answer is judged by it. */
#ifndef CLUSTER_SIM_H
#define CLUSTER_SIM_H

#include "support/cluster.h"

enum { KEYS = 40, OPS = 4096, SEEN = 8192, CLIENTS = 4, DIM = 8, K = 8, READS = 64 };

/* Something that was written to a key, or its removal. */
struct op {
    uint64_t tag;
    uint64_t invoked, ended; /* ended: acknowledged, or given up; 0: under way */
    uint64_t salt;
    uint32_t key, client;
    uint32_t live;   /* 0: a removal */
    int32_t outcome; /* 1: acknowledged, 0: under way, -1: nobody knows */
};

/* What a linearizable fetch found. */
struct seen {
    uint64_t asked, answered;
    uint64_t salt; /* 0: nothing */
    uint32_t key;
};

struct model {
    struct op op[OPS];
    uint32_t count;
    uint32_t under_way[KEYS]; /* ops */
    struct seen seen[SEEN];
    uint32_t seen_count;
};

/* What a read may rest on: everything that was acknowledged by `before`; by one client
 * alone, if `client` is not CLIENTS. */
struct judge {
    uint64_t before, now;
    uint32_t client;
};

void model_init(struct model *m);
/* Begins an op; NULL when there is no room. */
struct op *model_begin(struct model *m, uint64_t now, uint32_t key, uint32_t client);
/* The ops of a request have ended. */
void model_end(struct model *m, uint64_t tag, uint64_t now, int32_t outcome);
/* Whether a reader may see the key in that state; live 0: as not there. */
bool model_allows(const struct model *m, const struct judge *j, uint32_t key, uint32_t live,
                  uint64_t salt);
/* If only one state is allowed and it is live: its salt, and true. */
bool model_certain(const struct model *m, const struct judge *j, uint32_t key, uint64_t *salt);
/* Whether somebody ever wrote this. */
bool model_knows(const struct model *m, uint32_t key, uint64_t salt);

void model_see(struct model *m, const struct seen *seen);
/* Whether what linearizable fetches of a key found can be explained by one order of all that was
 * done to it, as by linear_check(). */
int model_linearizable(const struct model *m, uint32_t key);

void vector_of(float *v, uint64_t key, uint64_t salt);
float distance(const float *a, const float *b);

struct result {
    uint64_t acknowledged, unknown, reads, refused, kills, cuts, wipes, snapshots, joins, leaves;
    uint64_t upgrades, hosted;
    uint64_t histories, too_hard; /* of a key, found to be linearizable, or not decided */
};

/* Runs one schedule. False after saying what was wrong. */
bool schedule_run(uint64_t seed, struct result *sum, bool loud);

/* Runs a script (story.c), and compares the trace that it leaves, or writes it down. False
 * after saying what was wrong. */
bool story_run(const char *path, bool bless);

#endif
