/* sim.h - a cluster in one thread, on virtual time, under one seed.
 *
 * The world owns everything that a Raft core cannot: a network that loses, doubles,
 * delays and overtakes, disks that forget what was not synced, clocks that drift
 * and jump, processes that crash, pause and come back, clients that retry. All
 * chance comes from the seed, so a seed is a history, and a failure names it.
 *
 * world.c   events, processes                       network.c frames, of two versions
 * store.c   what a node remembers                   check.c   what must always hold
 * client.c  clients, and what they were promised    story.c   .sim scripts
 * fault.c   what goes wrong, and when               self.c    checks that must fail
 * fence.c   a quorum lost for good                  main.c    the command line
 * starve.c  snapshots that come too late */
#ifndef VS_SIM_H
#define VS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <vshard/log.h>

#include "support/linear.h"

enum {
    NODES_MAX = 7,
    GROUPS_MAX = 40,
    GROUPS_FEW = 3, /* most seeds have so many at most */
    CLIENTS = 8,
    KEYS = 3,
    SESSIONS_MAX = 8
};

#define MS    ((uint64_t)1000000)
#define NEVER UINT64_MAX

/* ---- the disk of a node ---- */

struct bytes {
    unsigned char *p;
    size_t n;
};

struct disk_group {
    uint64_t term, vote, commit;
    uint64_t snapshot, snapshot_term;
    struct bytes meta, state;        /* of the snapshot */
    struct vshard_raft_entry *entry; /* data is ours; entry[i].index = first + i */
    size_t count, cap;
    uint64_t first;
    uint32_t exists, uncertain;
};

enum write_kind { WRITE_PERSIST, WRITE_SNAPSHOT, WRITE_INSTALL };

struct write { /* one that is not synced */
    enum write_kind kind;
    uint32_t group;
    uint64_t barrier;      /* the core's */
    uint64_t real_barrier; /* the log's, and those of all before it */
    uint64_t own_barrier;  /* the log's, of this write alone */
    uint32_t vote_only, told;
    uint32_t waits; /* the log had no room for it */
    uint64_t term;  /* of the replica; of the snapshot's last entry */
    uint64_t vote, commit, cut;
    uint64_t index, through; /* of a snapshot; of the entries that it makes superfluous */
    struct bytes meta, state;
    struct vshard_raft_entry *entry;
    uint32_t entry_count;
};

struct real; /* the log of a node, and what it stands on */

/* ---- the state machine: registers, and which client did what last ---- */

struct machine {
    uint64_t applied;
    uint64_t hash; /* of everything applied, in order */
    uint64_t value[KEYS];
    uint64_t last_op[CLIENTS];
};

struct held { /* a message or answer that waits for a barrier */
    uint64_t barrier;
    uint64_t to;
    uint32_t flags;
    struct bytes bytes;
};

enum event_kind {
    EV_DELIVER = 1,
    EV_TIMER,
    EV_SYNC,
    EV_APPLIED,
    EV_CLIENT,
    EV_FAULT,
    EV_FETCH,
    EV_CHUNK,
    EV_WRITTEN,
    EV_INSTALL,
    EV_SNAPSHOT,
    EV_HEAL,
    EV_RESTART
};

struct event {
    uint64_t at, order;
    uint32_t kind, node;
    uint64_t boot; /* of the process it is for */
    uint64_t life; /* of the group that the process has asked it for, see struct node; 0: of none */
    uint64_t a, b, c;
    struct bytes bytes;
};

struct node {
    uint32_t id;                      /* 1.. */
    uint32_t alive, poisoned, parted; /* parted: its log has left the group's */
    uint64_t incarnation, boot;
    uint64_t life[GROUPS_MAX]; /* 1, and how often its host has closed each group */
    uint64_t paused_until;
    int64_t drift_ppm;
    uint64_t jumped;  /* added to the clock */
    uint64_t disk_ns; /* a sync takes about this long */
    uint64_t stalled_until, full_until;
    uint64_t busy_until;              /* its state machine */
    uint32_t build;                   /* the newest version of frames it speaks, 1 or 2 */
    uint32_t attempts[NODES_MAX + 1]; /* at speaking to each */
    uint8_t spoken[NODES_MAX + 1];    /* the version each node last spoke; 0: none */
    uint64_t timer_at;                /* the event under way */
    uint64_t sync_at;
    uint64_t durable, asked; /* barriers: the last that is, the last that was handed over */
    struct real *real;
    uint64_t heard[NODES_MAX + 1]; /* when a message of that node was last taken */
    /* of its latest process that was heard from: */
    uint64_t heard_incarnation[NODES_MAX + 1], heard_boot[NODES_MAX + 1];
    struct vshard_raft *raft;
    struct disk_group disk[GROUPS_MAX];
    struct machine machine[GROUPS_MAX];
    struct bytes incoming[GROUPS_MAX]; /* a snapshot being received */
    struct event piece[GROUPS_MAX];    /* a piece of it that is slow to be written; kind 0: none */
    struct write *write; /* votes may be made durable before what was written earlier, for long */
    size_t write_count, write_cap;
    struct held *held;
    size_t held_count, held_cap;
    /* what was seen of it last, for the checks */
    uint64_t seen_term[GROUPS_MAX], seen_commit[GROUPS_MAX];
    uint32_t seen_role[GROUPS_MAX], compacting[GROUPS_MAX], seen_asleep[GROUPS_MAX];
    uint64_t meta_index[GROUPS_MAX], meta_term[GROUPS_MAX];
    struct bytes meta[GROUPS_MAX], meta_state[GROUPS_MAX];
};

/* ---- what all replicas of a group must agree on ---- */

struct truth {
    uint64_t term, hash, state;
    uint64_t decided;    /* the term in which it was first known to be committed, or later */
    uint32_t client, op; /* of a client's write, or CLIENTS */
    uint64_t session, sequence;
    uint32_t kind, flags; /* as it was applied: DUPLICATE, EXPIRED */
};

struct variant { /* (index, term) names one entry and one past */
    uint64_t term, hash, before;
};

struct index_record {
    struct variant *variant;
    size_t count, cap;
};

struct reign { /* who led a term */
    uint64_t term, incarnation;
    uint32_t node;
};

struct known { /* a client's session, as all must remember it */
    uint64_t id, high, used;
};

struct group_truth {
    struct truth *committed; /* by index - 1 */
    size_t count, cap;
    struct index_record *record;
    size_t record_cap;
    struct reign *reign; /* by term */
    size_t reign_count, reign_cap;
    struct known known[SESSIONS_MAX];
    uint32_t known_count;
    uint64_t floor; /* the highest index any client was told of */
    uint64_t *floor_at, *floor_index;
    size_t floor_count, floor_cap;
};

enum { OP_WRITE = 0, OP_READ = 1 };

struct client {
    uint32_t id, group, busy, waiting;
    uint32_t kind, mode, node, sessions;
    uint64_t tag, key, value, op; /* op counts a client's writes */
    uint64_t call, sent, floor;
    uint64_t session, sequence, max_age;
    uint64_t acked_op; /* with a session: applied for sure */
    struct linear_op *history;
    uint64_t *history_key;
    size_t history_count, history_cap, entry; /* entry: the operation under way */
};

struct admin {
    uint64_t tag;
    uint32_t node, busy, group, kind;
    uint64_t since;
};

enum { ASKED_MAX = 32 };

struct asked { /* by a story, and not answered */
    uint64_t tag, key;
    uint32_t read;
    char what[44]; /* empty: free */
};

struct world {
    uint64_t seed, random, now, order, steps, digest;
    uint64_t end; /* of the faults */
    uint32_t nodes, groups, first_members, quiet;
    uint32_t jumps, healed, trace, failed_allocs;
    uint32_t loss, twice, slow, astray, garble; /* per mille, of messages */
    uint32_t rolling;                           /* of restarts: by another build */
    uint32_t unreadable;                        /* of reads of the log or a snapshot */
    uint32_t sealed, digests;                   /* digests: fold in everything, at every event */
    uint64_t frames, refused, unversioned;
    uint32_t fault_kinds;
    uint64_t fault_gap; /* between two faults, on average */
    uint64_t delay_ns, delay_spread;
    uint32_t oom; /* per mille of allocations that fail */
    uint32_t oom_on;
    int64_t live_blocks;
    uint64_t next_tag, next_value;
    uint8_t cut[NODES_MAX + 1][NODES_MAX + 1];
    uint64_t clogged[NODES_MAX + 1][NODES_MAX + 1];
    uint32_t fault_mask;
    uint64_t snapshot_every;
    uint32_t hoarders;    /* bit i: node i takes no snapshots */
    uint32_t slow_pieces; /* per mille, of pieces of snapshots */
    uint32_t forgetful;   /* commit indexes are not remembered */
    uint32_t clients, max_sessions;
    uint32_t drift_ppm; /* two clocks may disagree by */
    uint64_t scale;     /* the core lives so many times as fast */
    uint64_t expired;   /* writes that a client was told were not done */
    uint64_t slow_written;
    uint32_t bulk; /* records of 3,000 bytes that come with each write of the core */
    uint32_t fence, fenced, survivor; /* fence.c: how far it is; bit i: node i is fenced */
    uint32_t named;                   /* bit i: as fenced in the promotion asked for last */
    uint32_t starving, late;          /* starve.c: how far it is; the one let back */
    uint32_t apart;                   /* bit i: node i is cut off from all */
    uint64_t starved_at;
    uint64_t fence_at, epoch, drawn, promotions, met, parted;
    uint64_t idle_ns;     /* groups sleep after; 0: the default */
    uint64_t lull_until;  /* until then clients begin nothing */
    uint64_t naps;        /* how often a group fell asleep somewhere */
    uint64_t waits;       /* writes that a full log did not take at first */
    uint64_t overtakings; /* votes that were durable before what was written before them */
    struct node node[NODES_MAX + 1];
    struct event *queue;
    size_t queue_count, queue_cap;
    struct group_truth truth[GROUPS_MAX];
    struct client client[CLIENTS];
    struct admin admin;
    uint64_t wiped_node, wiped_at; /* waits for its group to take it back */
    uint64_t aside, reopened;      /* chance of its own, see fault.c; groups that were closed */
    uint64_t tags_open;
    /* What the last forced promotion has lost: entries beyond `kept`, as they were committed. */
    struct group_truth past;
    uint64_t kept, past_epoch, past_at, forfeits;
    struct vshard_allocator allocator;
    FILE *story; /* the trace; NULL: none */
    size_t told; /* bytes of it that were compared */
    uint32_t story_op;
    struct asked asked[ASKED_MAX];
};

/* world.c */
struct world *world_new(uint64_t seed, uint32_t nodes, uint32_t groups, uint32_t members);
void world_free(struct world *w);
void world_at(struct world *w, uint64_t at, struct event e);
bool world_step(struct world *w);
uint64_t world_random(struct world *w, uint64_t below);
bool world_chance(struct world *w, uint32_t per_mille);
uint64_t node_clock(const struct world *w, const struct node *n);
int node_event(struct world *w, struct node *n, struct vshard_raft_event e);
/* Closes a group of which everything is durable, if it is, and opens it with what storage has. */
void node_reopen(struct world *w, struct node *n, uint32_t g);
void node_start(struct world *w, struct node *n, bool first);
void node_crash(struct world *w, struct node *n);
void node_wipe(struct world *w, struct node *n);
void node_lose_tail(struct world *w, struct node *n);
/* Something of the group is on the disk, and with it, perhaps, the piece that was slow. */
void piece_written(struct world *w, struct node *n, uint32_t g);
void bytes_set(struct bytes *b, const void *p, size_t n);
void bytes_free(struct bytes *b);
void network_send(struct world *w, uint32_t from, uint32_t to, const void *a, size_t an,
                  const void *b, size_t bn);
void network_deliver(struct world *w, struct node *n, const struct event *e);
/* A disk tells: n->durable has risen; a snapshot has become durable. */
void store_durable(struct world *w, struct node *n);
void store_full(struct world *w, struct node *n);
void store_vote_durable(struct world *w, struct node *n, uint64_t barrier);
void store_landed(struct world *w, struct node *n, const struct write *snapshot);

/* model.c */
void entry_copy(struct vshard_raft_entry *to, const struct vshard_raft_entry *from);
void entry_free(struct vshard_raft_entry *e);
void model_cut(struct disk_group *d, uint64_t from);
void model_clear(struct disk_group *d);
void model_write(struct world *w, struct node *n, const struct write *x);
void write_free(struct write *x);

/* store.c */
/* Opens what a node remembers into its disk[]. Returns which boot this is; the node's
 * incarnation is another afterwards if the disk is found lost. */
uint64_t store_open(struct world *w, struct node *n);
void store_persist(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_effect *e);
void store_snapshot(struct world *w, struct node *n, const struct write *snapshot);
/* Begins a sync, if one is needed and none is under way. */
void store_schedule(struct world *w, struct node *n);
void store_sync(struct world *w, struct node *n, uint64_t through);
size_t store_read(struct world *w, struct node *n, uint32_t g, uint64_t from,
                  struct vshard_raft_entry *to);
void store_read_free(struct vshard_raft_entry *entries, size_t count);
void store_crash(struct node *n);
void store_fail(struct world *w, struct node *n);
void store_wipe(struct world *w, struct node *n);
void store_lose_tail(struct world *w, struct node *n);
void store_certain(struct world *w, struct node *n, uint32_t g);
void store_free(struct world *w, struct node *n);

/* client.c */
void client_start(struct world *w);
void client_act(struct world *w, struct client *c);
bool client_done(struct world *w, struct node *n, const struct vshard_raft_effect *e);
void client_crashed(struct world *w, struct node *n);
void client_check(struct world *w);
/* What was promised beyond an index of the first group holds no longer. */
void client_forfeit(struct world *w, uint64_t kept);
bool clients_idle(const struct world *w);

/* fault.c */
void fault_setup(struct world *w);
void fault_act(struct world *w, const struct event *e);
void fault_heal(struct world *w);
bool admin_done(struct world *w, const struct vshard_raft_effect *e);
bool uncertain(const struct world *w, const struct node *n);
void admin_readmit(struct world *w);

struct node *leader_of(struct world *w, uint32_t g);
bool admin_ask(struct world *w, struct node *n, struct vshard_raft_event e);

/* fence.c */
void fence_strike(struct world *w, struct node *keep);
void fence_act(struct world *w);
void fence_answered(struct world *w, const struct vshard_raft_effect *e);
bool fence_may_keep(const struct world *w, const struct node *keep);
/* All others but the survivor go down, but for one that nobody hears (or NULL). */
void fence_falls(struct world *w, const struct node *late);
bool fence_between(const struct world *w, uint32_t a, uint32_t b);

/* starve.c */
void starve_strike(struct world *w, const struct node *keep);
void starve_act(struct world *w);
/* The host of n takes its time. */
bool starve_delays(const struct world *w, const struct node *n);

/* check.c */
__attribute__((noreturn, format(printf, 2, 3))) void fail(struct world *w, const char *what, ...);
void check_persist(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_effect *e);
void check_apply(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_entry *e,
                 uint64_t term);
/* n leads this term from now on. */
void check_elected(struct world *w, struct node *n, uint32_t g, uint64_t term);
void check_node(struct world *w, struct node *n);
void check_floor(struct world *w, uint32_t g, uint64_t index);
/* Whether this is of what the last forced promotion has lost, of the log before it. */
bool check_is_lost(const struct world *w, uint32_t g, uint64_t index, uint64_t term);
uint64_t check_floor_at(const struct world *w, uint32_t g, uint64_t at);
void check_converged(struct world *w);
bool check_settled(struct world *w);
void check_print(struct world *w);
uint64_t entry_hash(const struct vshard_raft_entry *e);
uint64_t fold(uint64_t digest, uint64_t word);

/* story.c */
bool story_done(struct world *w, const struct node *n, const struct vshard_raft_effect *e);
int story_run(const char *path, bool bless);
void story_say(struct world *w, const struct node *n, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* main.c */
struct world *sim_begin(uint64_t seed, FILE *story);
void sim_peace(struct world *w);

/* self.c */
int self_test(void);

extern const char *sim_program;

#endif
