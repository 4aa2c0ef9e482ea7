/* core.h - what a node is made of: shared by the files of lib/node.
 *
 * Two kinds of thread meet here. The control thread owns everything but the queues of
 * items.c; a worker that has taken an item owns what the item names until it gives the
 * item back: a reader shares its replica's shard with other readers, a writer has it for
 * itself. Nothing else is shared, and no lock is held across a call to another room. */
#ifndef VS_NODE_CORE_H
#define VS_NODE_CORE_H

#include <stdatomic.h>

#include "merge/merge.h"
#include "node/node.h"
#include "os/os.h"
#include "raft/raft.h"
#include "route/route.h"
#include "shard/shard.h"
#include "wal/wal.h"
#include "wire/wire.h"

#define VS_NEVER UINT64_MAX

enum { VS_META = 0 };        /* the group of the map, */
enum { VS_META_VOTERS = 5 }; /* and how many of its members vote, at most */
enum { VS_GOSSIP_NS = 100000000 };
enum { VS_CORE_CACHE = 256 << 10 }; /* bytes of a group's applied entries that the core keeps */

/* ---- talk.c: messages as bytes ---- */

struct vs_out {
    const struct vshard_allocator *allocator;
    unsigned char *at;
    size_t count, cap;
    int status; /* 0 or ENOMEM */
};

void vs_put32(struct vs_out *o, uint32_t v);
void vs_put64(struct vs_out *o, uint64_t v);
void vs_put_key(struct vs_out *o, struct vshard_key key);
void vs_put_bytes(struct vs_out *o, const void *bytes, size_t count);
void vs_put_text(struct vs_out *o, const char *text); /* its length first */
void *vs_put_room(struct vs_out *o, size_t count);    /* NULL after a failure */
void vs_put_float(struct vs_out *o, float f);
void vs_out_free(struct vs_out *o);

struct vs_in {
    const unsigned char *at;
    size_t left;
    int status; /* 0 or ECORRUPT, after which all reads are 0 */
};

uint32_t vs_take32(struct vs_in *in);
uint64_t vs_take64(struct vs_in *in);
struct vshard_key vs_take_key(struct vs_in *in);
float vs_take_float(struct vs_in *in);
const void *vs_take_bytes(struct vs_in *in, size_t count);
/* A text of at most VSHARD_NAME_MAX bytes, which ends in a zero then. */
void vs_take_text(struct vs_in *in, char text[VSHARD_NAME_MAX + 1]);

/* ---- meta.c: the map ---- */

struct vs_meta_node {
    uint64_t node, incarnation;
};

struct vs_meta_shard {
    uint64_t group;
    uint32_t founder_count, member_count;
    struct vs_meta_node founders[VSHARD_REPLICAS_MAX];    /* who gave birth to the group */
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1]; /* who shall be in it now */
};

struct vs_collection {
    uint32_t id;
    struct vshard_collection spec; /* its name and attributes point here */
    char name[VSHARD_NAME_MAX + 1];
    struct vshard_attribute attributes[VSHARD_ATTRIBUTES_MAX];
    struct vs_meta_shard *shard; /* [spec.shards] */
    struct vshard_map *map;      /* key to shard */
};

enum { VS_RESULTS = 256, VS_FORMER = 64 };

struct vs_cluster {
    const struct vshard_allocator *allocator;
    const struct vshard_logger *logger;
    uint64_t applied;
    uint64_t next_group;
    uint32_t known; /* the highest level that this replica of the map knows; not replicated */
    uint32_t level; /* of what is written: level.c */
    uint32_t next_collection;
    uint32_t node_count, collection_count, shard_count;
    struct vs_meta_node node[VSHARD_NODES_MAX]; /* by id */
    uint32_t leaving[VSHARD_NODES_MAX];         /* likewise: it shall lose its replicas, and go */
    uint32_t region[VSHARD_NODES_MAX];          /* likewise */
    uint32_t announced[VSHARD_NODES_MAX];       /* likewise: levels */
    uint32_t primary; /* replicas in this region vote, those in others learn */
    uint32_t settled; /* a node was removed: who is not written down is none */
    uint32_t former_count;
    struct vs_meta_node former[VS_FORMER]; /* who was a member, and will not be one again: the last
                                              ones, the oldest first */
    struct vs_collection *collection[VSHARD_COLLECTIONS_MAX];
    struct {
        uint64_t index;
        int32_t status;
        uint32_t reserved;
    } result[VS_RESULTS]; /* of the last commands; not replicated state */
};

enum { /* commands */
       VS_CMD_NODE = 1,
       VS_CMD_NODE_REMOVE = 2,
       VS_CMD_CREATE = 3,
       VS_CMD_DROP = 4,
       VS_CMD_MEMBERS = 5,
       VS_CMD_PRIMARY = 6,
       VS_CMD_ALTER = 7,
       VS_CMD_LEVEL = 8
};

void vs_cluster_init(struct vs_cluster *m, const struct vshard_allocator *a,
                     const struct vshard_logger *logger);
void vs_cluster_fini(struct vs_cluster *m);
/* What is decided from now on is decided in this recovery epoch of the map's group. */
void vs_cluster_epoch(struct vs_cluster *m, uint64_t epoch);
/* Applies a command. Returns 0 or ENOMEM; what the command itself came to is in result. */
int vs_cluster_apply(struct vs_cluster *m, uint64_t index, const void *bytes, size_t count);
void vs_cluster_encode(const struct vs_cluster *m, struct vs_out *o);
int vs_cluster_decode(struct vs_cluster *m, struct vs_in *in);
struct vs_collection *vs_cluster_find(const struct vs_cluster *m, const char *name);
const struct vs_meta_shard *vs_cluster_group(const struct vs_cluster *m, uint64_t group,
                                             const struct vs_collection **collection);
/* Whether a node has replicas, as the map has it. */
bool vs_cluster_holds(const struct vs_cluster *m, uint64_t node);
bool vs_cluster_leaves(const struct vs_cluster *m, uint64_t node);
const struct vs_meta_node *vs_cluster_node(const struct vs_cluster *m, uint64_t node);
/* Whether a node may be written down: 0; EVERSION: it knows less than what is written; ESTALE: it
 * was a member under this incarnation, and has been given up; E2BIG: there are as many as there may
 * be. */
int vs_cluster_admits(const struct vs_cluster *m, uint64_t node, uint64_t incarnation,
                      uint32_t level);
/* Whether replicas of a node vote: it is in the primary region. */
bool vs_cluster_votes(const struct vs_cluster *m, uint64_t node);
void vs_cmd_node(struct vs_out *o, uint64_t node, uint64_t incarnation, uint32_t region,
                 uint32_t level);
void vs_cmd_level(struct vs_out *o, uint32_t level);
void vs_cmd_primary(struct vs_out *o, uint32_t region);
void vs_cmd_node_remove(struct vs_out *o, uint64_t node, uint64_t incarnation);
void vs_cmd_create(struct vs_out *o, const struct vshard_collection *c, const uint64_t *nodes);
void vs_cmd_drop(struct vs_out *o, const char *name);
void vs_cmd_alter(struct vs_out *o, const struct vshard_collection *c);
void vs_cmd_members(struct vs_out *o, uint64_t group, const struct vs_meta_node *members,
                    uint32_t count);

/* ---- items.c: work ---- */

enum {
    VS_ITEM_APPLY = 1, /* a step of the entries that wait */
    VS_ITEM_SEARCH = 2,
    VS_ITEM_FETCH = 3,
    VS_ITEM_SNAPSHOT = 4, /* save */
    VS_ITEM_CHUNK = 5,    /* read a piece of a snapshot's file */
    VS_ITEM_PIECE = 6,    /* write one */
    VS_ITEM_INSTALL = 7,
    VS_ITEM_DIGEST = 8,
    VS_ITEM_STORAGE = 9, /* a storage request of the write-ahead log; of no replica */
    VS_ITEM_META = 10,   /* save the map */
    VS_ITEM_REFILL = 11, /* back to the newest snapshot, or to nothing */
    VS_ITEM_EXPORT = 12,
    VS_ITEM_STAGE = 13, /* entries that wait become searchable */
    VS_ITEM_OPEN = 14,  /* read the snapshot that a replica starts from */
    VS_ITEM_CLOSE = 15  /* give back what a replica has that goes */
};

struct vs_replica;
struct vs_serving;

struct vs_item {
    struct vs_item *next;
    struct vs_replica *replica; /* NULL: STORAGE */
    uint32_t kind;
    int32_t status; /* when it is done */
    uint64_t index, offset, node;
    uint64_t position; /* of what was read or made */
    uint64_t digest;
    void *bytes; /* [count] owned */
    size_t count;
    size_t meta_bytes;
    uint32_t last;
    uint32_t reserved;
    struct vs_serving *serving; /* SEARCH, FETCH, EXPORT */
    struct vs_entry *entry;     /* APPLY, STAGE: the first of `entries` */
    uint64_t entries;
    struct vshard_io *io; /* STORAGE */
};

struct vs_queue {
    struct vs_item *first, **end;
};

struct vs_ring {
    struct vs_replica *first, **end;
};

struct vs_items {
    atomic_flag lock, storage_lock;
    struct vs_queue storage; /* before all others */
    struct vs_ring ready[2]; /* replicas of which a short item may start, or a long one */
    uint32_t since_long;     /* short ones begun while a long one could have been */
    uint32_t running_long;
    struct vs_queue finished;
    uint32_t waiting, running; /* items, all replicas */
    uint32_t told;             /* work was announced since the last item was pushed */
};

/* ---- requests served here, for this node's router or another's ---- */

enum { VS_SERVE_SEARCH = 1, VS_SERVE_FETCH = 2, VS_SERVE_EXPORT = 3 };

/* One read of one shard, from its arrival to its answer. */
struct vs_serving {
    struct vs_serving *next; /* of its replica's waiting */
    struct vs_replica *replica;
    uint64_t origin; /* who asked; this node itself, too */
    uint64_t request;
    uint32_t part;
    uint32_t kind;
    uint32_t consistency, flags;
    uint64_t wanted_index; /* POSITIONS, and what a read index demands */
    uint64_t max_staleness_ns;
    uint64_t deadline_ns, wait_until_ns;
    uint32_t k, ef;
    float target_recall;
    _Atomic float bound; /* read when the search begins */
    uint32_t cancel;     /* read by the search */
    uint32_t where_bytes;
    struct vshard_key key;
    unsigned char *asked; /* [asked_bytes] owned: an expression, then the query; EXPORT: the path */
    size_t asked_bytes;
    struct vshard_merge_hit *hits; /* [k] owned, or NULL */
    struct vs_shard_answer answer;
    /* FETCH */
    uint64_t version;
    struct vs_out row; /* as in the frame */
    uint32_t vector_bytes, value_count, payload_bytes, reserved;
};

/* A proposal under way in the core: its tag. */
struct vs_proposal {
    struct vs_proposal *next, **link; /* of all */
    uint64_t origin, request, group;
    uint32_t part;
    uint32_t kind; /* VS_PROPOSED_* */
    uint32_t until_applied;
    uint32_t reserved;
    struct vshard_key id;       /* WRITE, AGAIN: of the batch */
    struct vs_serving *serving; /* READ */
    struct vs_request *admin;   /* ADMIN, RECOVERY, while it is not over */
};

enum {
    VS_PROPOSED_WRITE = 1,
    VS_PROPOSED_ADMIN = 2,
    VS_PROPOSED_READ = 3,
    VS_PROPOSED_SELF = 4,
    VS_PROPOSED_RECOVERY = 5,
    VS_PROPOSED_AGAIN = 6 /* a read: whether a write that has no room was done before */
};

/* A write that is committed and waits until reads here reflect it. */
struct vs_parked {
    struct vs_parked *next;
    uint64_t origin, request, index;
    uint32_t part, reserved;
};

/* ---- replica.c ---- */

struct vs_entry { /* committed, not yet applied */
    struct vs_entry *next;
    uint64_t index;
    size_t count; /* bytes of data, behind this; 0: no batch */
    uint32_t skip;
    uint32_t reserved;
};

struct vs_replica {
    uint64_t group;
    uint32_t collection, number; /* number of the shard */
    uint32_t open;               /* the core has the group */
    uint32_t dropped;            /* it takes part no more: its collection is gone, say, */
    uint32_t forgotten;          /* and the log forgets it, */
    uint32_t reserved;
    uint64_t forget_barrier; /* when this is durable */
    struct vs_shard_plan plan;
    struct vs_shard *shard; /* NULL: of the map */
    int32_t status;         /* what has halted it, or 0 */
    uint64_t halted_ns;     /* when */
    uint32_t role;
    uint64_t leader, term, vote, commit; /* as last persisted; leader and role as last told */

    struct vs_entry *entries, **entries_end;
    uint64_t backlog;      /* bytes of them */
    uint64_t queued;       /* index of the last entry handed over by the core */
    uint64_t acknowledged; /* the core was told APPLIED */
    _Atomic uint64_t applied, rows;
    uint32_t row; /* of the first entry: rows applied; the writer's */
    uint32_t apply_busy;
    uint64_t apply_from; /* the first entry that the item has which applies, */
    uint64_t stage_from; /* and of that which stages; UINT64_MAX: there is none */

    struct vs_entry *unstaged; /* of entries, the first that may still be to be staged */
    _Atomic uint64_t staged;   /* entries up to here have been; see lib/shard/tail.c */
    uint32_t stage_busy;
    uint32_t stage_full; /* more must be applied first */
    uint32_t tail_kept;  /* rows in the tail, when it was staged last, */
    uint32_t tail_stale; /* of which some may go now */

    uint64_t since_snapshot;                /* bytes of entries behind the last that was begun */
    uint64_t snapshot_index, snapshot_term; /* the newest that the log marks */
    _Atomic uint64_t snapshot_bytes;        /* of the files of the last of a shard, or 0 */
    uint64_t taking_index, taking_term;     /* being made or marked; 0: none */
    uint64_t compact_index;
    uint64_t mark_barrier;    /* of the log; 0: none */
    struct vs_item *snapshot; /* waits until the shard stands at taking_index */
    uint32_t installing, mark_wanted;
    uint64_t incoming; /* index of the snapshot that comes in pieces, or 0 */
    unsigned char incoming_head[16];

    uint64_t hand_over_ns; /* not before that is leadership offered again */
    uint64_t digest_index, digest;
    uint64_t rest_index, rest_ns; /* nothing was applied beyond it, since then */
    uint32_t digest_busy;
    uint32_t diverged; /* it is, and answers nothing until it was refilled */
    uint32_t refilling, refills;
    uint32_t unproven; /* refilled, and no other's digest has agreed since */
    uint32_t comes;    /* it was no member when it was opened, and does not reflect yet what made
                          it one */
    uint64_t whole_at; /* it has reflected so much once, and answers nothing before it does again */
    uint64_t again_ns; /* it found no memory, and tries again then, */
    uint32_t failures; /* later each time */

    uint32_t items;             /* of it, pushed and not yet finished */
    uint32_t raft_reads;        /* under way in the core */
    struct vs_serving *waiting; /* reads that wait for an index */
    struct vs_parked *parked;   /* by index */

    /* items.c, under its lock */
    struct vs_queue free, ordered;
    uint32_t running[4]; /* items, by class */
    uint32_t listed[2];
    struct vs_replica *ready_next[2];
};

/* ---- requests asked here ---- */

enum { VS_PART_OPEN = 0, VS_PART_DONE = 1 };

/* What is asked of one shard. */
struct vs_part {
    uint64_t group;
    uint64_t node;     /* asked last */
    uint64_t asked_ns; /* then */
    uint64_t again_ns; /* ask another then */
    uint64_t position;
    uint32_t shard;
    uint32_t state;
    uint32_t tried; /* bits of members that were asked */
    uint32_t owed;  /* READ: bits of peers that were asked, and have not answered */
    uint32_t reserved;
    uint32_t attempts;
    int32_t status; /* the last that an attempt ended with */
    uint32_t epoch;
    uint32_t k, found;             /* SEARCH: hits asked for, and got */
    uint32_t asked_more;           /* it was answered, and is asked for the rest */
    float bound;                   /* SEARCH: hits that are farther may be missing */
    struct vshard_merge_hit *hits; /* [found] nearest first */
    struct vs_serving *here;       /* SEARCH: this node does it itself, and has not answered */
    void *bytes;                   /* WRITE: the batch */
    size_t count;
};

struct vs_request {
    struct vs_request *next, **link; /* of all */
    struct vs_request *chain;        /* of its bucket */
    uint64_t id, tag;
    uint32_t kind; /* VSHARD_NODE_* */
    uint32_t part_count, open_count;
    uint32_t k, hedges, limits;
    uint64_t started_ns, deadline_ns;
    uint32_t collection; /* id */
    uint32_t flags;
    int32_t status;
    uint32_t consistency;
    struct vs_part *part;
    struct vshard_merger *merger;
    struct vs_out ask; /* SEARCH, FETCH: the part of a frame that is the same for all shards */
    uint32_t position_count, command;
    uint32_t kept, reserved;           /* kept: it was answered by the cache */
    struct vshard_position *positions; /* [position_count] asked for */
    uint64_t rows, distances;
    uint64_t meta_index; /* ADMIN: known here when the map is there */
    uint64_t again_ns;   /* ADMIN: propose again then; 0: no */
    uint64_t version;
    struct vs_out row; /* FETCH: as in the frame */
    uint32_t vector_bytes, value_count, payload_bytes, answered;
};

/* ---- cache.c ---- */

struct vs_cached;

struct vs_cache {
    struct vs_cached **bucket; /* [bucket_count] */
    uint32_t bucket_count;     /* a power of two; 0: nothing is kept */
    uint32_t reserved;
    struct vs_cached *newest, *oldest; /* by use */
    uint64_t bytes, answers, misses;
};

/* ---- a node ---- */

struct vs_pending { /* a barrier of the core, and that of the log */
    uint64_t raft, wal;
    uint32_t vote, reserved;
};

struct vs_held { /* a message that waits for a barrier */
    struct vs_held *next;
    uint64_t barrier, group, node;
    uint32_t flags, reserved;
    size_t count;
};

struct vs_stuck { /* a PERSIST that the log had no room for */
    struct vs_stuck *next;
    uint64_t barrier;
    uint32_t vote, reserved;
    struct vshard_wal_record *record;
    size_t count, bytes;
};

struct vs_todo { /* an event that the core takes when its effects are taken */
    uint32_t kind;
    int32_t status;
    uint64_t group, node, index, offset, byte_count;
};

struct vs_sending {
    struct vs_sending *next;
    uint64_t node;
    size_t count, cap;
};

struct vs_ending { /* a request whose answer is due */
    struct vs_request *request;
};

struct vs_peer { /* what is known of a node */
    uint64_t node, incarnation;
    uint64_t heard_ns, first_ns; /* 0: never */
    uint64_t gossip, gossip_of;  /* the number of its last gossip, and of which incarnation */
    uint64_t latency_ns;         /* of its answers, smoothed, */
    uint64_t spread_ns;          /* and how far they lie from that */
    uint32_t outstanding;
    uint32_t level;   /* that it has announced; 0: none yet */
    uint32_t mapless; /* its replica of the map has halted: what it does, it does by an old one */
    uint32_t reserved;
};

enum { VS_HINT_HALTED = 1, VS_HINT_UNPROVEN = 2 };

struct vs_hint { /* what another node says of its replica */
    uint64_t node, group, applied, leader, term, digest_index, digest;
    uint64_t members; /* bits of each, by vs_member_bits(), where it leads and they are settled */
    uint64_t flags;   /* VS_HINT_* */
    uint64_t heard_ns, halted_ns; /* when; and when that it has halted, for the first time, or 0 */
};

/* hosted.c: the map, where the host keeps it. */
struct vs_hosted {
    uint32_t given;               /* the host has said what the map is, since the node is open */
    uint32_t due;                 /* the host is to be asked to put */
    uint64_t version;             /* that is being put; 0: none */
    struct vs_cluster next;       /* it */
    struct vs_out bytes;          /* likewise */
    struct vs_proposal *proposal; /* whose it is */
};

struct vshard_node {
    struct vshard_node_options o;
    struct vshard_node_host host;
    struct vshard_allocator allocator_copy;
    struct vshard_logger logger_copy;
    struct vshard_storage storage_copy;
    struct vshard_executor executor_copy;
    struct vshard_clock clock_copy;
    const struct vshard_allocator *allocator; /* NULL: the C library's heap */
    const struct vshard_logger *logger;
    const struct vshard_executor *executor;
    const struct vshard_clock *clock;
    struct vshard_storage storage;     /* as the host gave it, or POSIX */
    struct vshard_storage wal_storage; /* syncs are items where there are workers */
    char path[3072];

    struct vshard_key cluster;
    uint64_t node, incarnation, boot;
    uint64_t founders[VSHARD_NODES_MAX];
    uint32_t founder_count, region;
    uint32_t level; /* that it announces */
    uint32_t unsettled;
    int32_t failed;  /* what has stopped this node, or 0 */
    uint32_t inside; /* a callback runs */
    uint64_t now;

    struct vshard_wire *wire;
    struct vshard_raft *raft;
    struct vshard_wal *wal;
    struct vs_cluster meta;
    struct vs_hosted hosted;

    struct vs_replica **replica; /* by group; [0] is the map's */
    uint32_t replica_count, replica_cap;

    /* persist.c */
    struct vs_pending *pending; /* a ring */
    size_t pending_first, pending_count, pending_cap;
    struct vs_held *held, **held_end;
    struct vs_stuck *stuck, **stuck_end;
    int32_t stuck_status; /* why the first of them is */
    uint64_t raft_durable;
    uint64_t told_durable; /* the core knows of */
    int32_t wal_status;
    uint32_t opened;
    uint64_t wal_durable; /* of the log's barriers, when it was looked at last */
    uint64_t idle_since, witnessed;
    struct vshard_wal_record *record; /* room to build in */
    unsigned char *record_head;
    size_t record_cap;

    struct vs_todo *todo;
    size_t todo_first, todo_count, todo_cap;

    struct vs_items items;

    /* requests */
    struct vs_request *requests;
    struct vs_request *walk; /* the next that vs_requests_time() looks at, or NULL */
    struct vs_request *bucket[1024];
    uint32_t request_count;
    uint64_t next_request;
    uint64_t next_timer; /* no request needs attention before */
    struct vs_proposal *proposals;
    struct vs_cache cache;

    /* flush.c */
    struct vs_sending *sending, **sending_end;
    struct vs_request *ended, **ended_end;

    struct vs_peer peer[VSHARD_NODES_MAX];
    struct vs_peer self; /* how soon this node answers itself */
    uint32_t peer_count;
    uint32_t hedge_credit; /* see ask.c */
    struct vs_hint *hint;
    uint32_t hint_count, hint_cap;
    uint32_t meta_seen; /* collections and members were looked at for map `meta_at` */
    uint64_t meta_at;
    uint64_t kept_group; /* groups in the log before it have been opened, or are gone */
    uint64_t open_ns;    /* more replicas are opened; VS_NEVER: all are that shall be */
    uint64_t gossip_at, steward_at;
    uint64_t gossips;  /* sent, beginning anew above those of earlier boots */
    uint64_t serve_at; /* no read that waits for its replica runs out before */
    uint64_t join_at, join_peer;
    uint32_t steward_busy, steward_step;

    uint64_t frames_taken, frames_refused, hedges, forwards, elections;
};

/* ---- node.c ---- */

/* Stops the node for good: what it has promised it can no longer keep. */
void vs_node_fail(struct vshard_node *n, int status, const char *what);
int vs_node_refuse(const struct vshard_node *n, int status, const char *argument, int64_t value,
                   int64_t limit);
void vs_node_event(const struct vshard_node *n, uint32_t level, const char *name, uint64_t group,
                   const char *text, int64_t value);
/* All that follows from what has happened, until the node is at rest. */
void vs_turn(struct vshard_node *n);

/* ---- persist.c ---- */

enum { VS_ENTRY_HEAD_BYTES = 24 };
/* What the log takes of an entry. */
uint64_t vs_entry_limit(const struct vshard_node *n);
void vs_persist(struct vshard_node *n, struct vs_replica *r, const struct vshard_raft_effect *e);
void vs_send_message(struct vshard_node *n, const struct vshard_raft_effect *e);
/* Gives the log what it had no room for, and sees what has become durable. True if something
 * did, and there may be more. */
bool vs_poll_log(struct vshard_node *n);
/* Whether something new may be logged: 0, EBUSY, ENOSPC. */
int vs_log_room(const struct vshard_node *n);
/* The log forgets a group that is closed, as of r->forget_barrier. False: it has no room for that
 * yet. */
bool vs_persist_forget(struct vshard_node *n, struct vs_replica *r);
/* Writes down how far the group is committed, if nothing else has. */
void vs_persist_commit(struct vshard_node *n, struct vs_replica *r);
int vs_mark(struct vshard_node *n, struct vs_replica *r, uint64_t through, uint64_t term);
/* Durable entries of a group from `first` on: FETCHED, and what a group is loaded with. */
struct vs_gathered {
    const struct vshard_allocator *allocator;
    struct vshard_raft_entry *entry;
    uint32_t count, cap;
    uint64_t bytes, limit;
    int status;
};
int vs_gather(struct vshard_node *n, uint64_t group, uint64_t first, struct vs_gathered *g);
void vs_gathered_free(struct vs_gathered *g);

/* ---- effects.c ---- */

struct vshard_raft_event vs_event(uint32_t kind, uint64_t group);
/* Gives the core one event, and does what it says. */
int vs_step(struct vshard_node *n, struct vshard_raft_event *event);
void vs_take_effects(struct vshard_node *n);
void vs_todo_push(struct vshard_node *n, struct vs_todo t);
void vs_todo_work(struct vshard_node *n);
/* Settles the log, if all that it holds is certain. */
void vs_certain(struct vshard_node *n);
struct vs_proposal *vs_proposal_new(struct vshard_node *n, uint32_t kind, uint64_t group);
void vs_proposal_free(struct vshard_node *n, struct vs_proposal *p);
/* Hands the core an event about it, which done() ends; if the core does not take the event, it is
 * gone. */
int vs_proposal_step(struct vshard_node *n, struct vs_proposal *p, struct vshard_raft_event *event);

/* ---- replica.c ---- */

struct vs_replica *vs_replica_find(const struct vshard_node *n, uint64_t group);
struct vs_shard_plan vs_plan_of(const struct vshard_node *n, const struct vs_collection *c);
/* The replica's place in the node, without a group in the core. */
int vs_replica_add(struct vshard_node *n, uint64_t group, const struct vs_collection *c,
                   uint32_t number, struct vs_replica **out);
void vs_replica_free(struct vshard_node *n, struct vs_replica *r);
/* Loads what storage has of the group and starts it in the core: of a shard that has a snapshot
 * once an item has read that. */
int vs_replica_start(struct vshard_node *n, struct vs_replica *r);
/* Does so, if that is still to be done, and again where it found no memory: what the try before has
 * left goes first. */
void vs_replica_begin(struct vshard_node *n, struct vs_replica *r);
/* It has found no memory for what must be done: that is tried again later, as again_ns says. */
void vs_replica_wait(struct vshard_node *n, struct vs_replica *r, const char *event);
void vs_replica_apply(struct vshard_node *n, struct vs_replica *r,
                      const struct vshard_raft_effect *e);
void vs_replica_more(struct vshard_node *n,
                     struct vs_replica *r); /* items that stage and apply, if there is need */
void vs_replica_rest(struct vshard_node *n,
                     struct vs_replica *r); /* nothing was applied, perhaps */
void vs_replica_halt(struct vshard_node *n, struct vs_replica *r, int status);
/* Whether the entry that made it a member, if one has, is among those up to `at`. */
bool vs_replica_came(struct vshard_node *n, const struct vs_replica *r, uint64_t at);
/* An item of it is finished; frees it. */
void vs_replica_finished(struct vshard_node *n, struct vs_item *item);
void vs_replica_meta_effect(struct vshard_node *n, struct vs_replica *r,
                            const struct vshard_raft_effect *e);
void vs_replica_read_effect(struct vshard_node *n, struct vs_replica *r,
                            const struct vshard_raft_effect *e);
void vs_replica_no_chunk(struct vshard_node *n, struct vs_replica *r, uint64_t node, uint64_t index,
                         uint64_t offset, int status); /* a piece cannot be sent */
void vs_replica_piece(struct vshard_node *n, struct vs_replica *r,
                      const struct vshard_raft_effect *e);
/* A piece has been written up to `end` of its snapshot, or has not. */
void vs_replica_wrote(struct vshard_node *n, struct vs_replica *r, uint64_t index, uint64_t end,
                      int status);
void vs_replica_install(struct vshard_node *n, struct vs_replica *r,
                        const struct vshard_raft_effect *e);
void vs_replica_marked(struct vshard_node *n, struct vs_replica *r);
void vs_replica_snapshot(struct vshard_node *n, struct vs_replica *r); /* if it is time */
void vs_replica_stands(struct vshard_node *n, struct vs_replica *r);   /* where it does, perhaps */
void vs_replica_snapshot_drop(struct vshard_node *n, struct vs_replica *r); /* if it waits */
void vs_replica_untaken(struct vshard_node *n, struct vs_replica *r);       /* it failed */
void vs_replica_files_remove(struct vshard_node *n, struct vs_replica *r);
/* Removes files of snapshots that the log does not name, and that no replica is at. */
void vs_snapshots_sweep(struct vshard_node *n);
void vs_snapshot_path(const struct vshard_node *n, char path[4096], uint64_t group, uint64_t index);
void vs_incoming_path(const struct vshard_node *n, char path[4096], uint64_t group);
/* It has diverged from the others: its state is made again from its snapshot and log. */
void vs_replica_refill(struct vshard_node *n, struct vs_replica *r);
void vs_replica_refilled(struct vshard_node *n, struct vs_replica *r, const struct vs_item *item);
/* Returns 0 or ENOMEM: nothing is queued again. */
int vs_replica_requeue(struct vshard_node *n, struct vs_replica *r,
                       const struct vshard_raft_entry *entries, uint32_t count);
int vs_item_run(struct vshard_node *n, struct vs_item *item); /* work.c: on any thread */
/* The row of s->key, into s. */
int vs_fetch_row(struct vs_serving *s, const struct vs_shard_plan *plan,
                 const struct vs_shard *from);
uint64_t vs_replica_epoch(const struct vs_replica *r);

/* ---- stage.c ---- */

/* Searches and fetches here reflect all entries up to this; what goes to files, `applied`. */
uint64_t vs_replica_searchable(const struct vs_replica *r);
/* An item that stages, if there is need. */
void vs_stage_more(struct vshard_node *n, struct vs_replica *r);
void vs_stage_finished(struct vs_replica *r, const struct vs_item *item);
/* Something has been applied, or who may have held back what was is done. */
void vs_stage_moves(struct vs_replica *r);
/* Another shard stands in the place of the one there was: its tail is empty. */
void vs_stage_again(struct vs_replica *r);

/* ---- items.c ---- */

void vs_items_init(struct vs_items *q);
struct vs_item *vs_item_new(struct vshard_node *n, uint32_t kind, struct vs_replica *r);
void vs_item_free(struct vshard_node *n, struct vs_item *item);
void vs_item_push(struct vshard_node *n, struct vs_item *item);
/* Takes and runs one; 0 or 1. */
uint32_t vs_item_work(struct vshard_node *n);
/* Finished ones, in order, NULL at the end. */
struct vs_item *vs_item_finished(struct vshard_node *n);
uint32_t vs_items_waiting(struct vshard_node *n);
void vs_items_storage(struct vshard_node *n); /* makes wal_storage */

/* ---- talk.c: frames ---- */

enum {
    VS_FRAME_RAFT = 1,
    VS_FRAME_READ = 2,
    VS_FRAME_READ_REPLY = 3,
    VS_FRAME_WRITE = 4,
    VS_FRAME_WRITE_REPLY = 5,
    VS_FRAME_GOSSIP = 6,
    VS_FRAME_JOIN = 7,
    VS_FRAME_CANCEL = 8,
    VS_FRAME_JOIN_REPLY = 9
};

void vs_post(struct vshard_node *n, uint64_t node, uint32_t type, uint64_t group, const void *head,
             size_t head_bytes, const void *body, size_t body_bytes);
void vs_receive(struct vshard_node *n, const struct vshard_frame *f);
struct vs_peer *vs_peer_find(struct vshard_node *n, uint64_t node);
struct vs_peer *vs_peer_meet(struct vshard_node *n, uint64_t node);
/* Heard of lately, or this node itself. */
bool vs_peer_alive(struct vshard_node *n, uint64_t node, uint64_t silence_ns);
/* Its replica of the map has halted, as far as is known here. */
bool vs_peer_mapless(struct vshard_node *n, uint64_t node);
/* It is heard of and is not mapless: it does what the map says. */
bool vs_peer_follows(struct vshard_node *n, uint64_t node);
/* Heard of within some elections. */
bool vs_peer_here(struct vshard_node *n, uint64_t node);
/* What is known of a group's replicas elsewhere, [*count]. */
const struct vs_hint *vs_hints_of(const struct vshard_node *n, uint64_t group, uint32_t *count);
void vs_hint_put(struct vshard_node *n, const struct vs_hint *hint);
/* Of what the map does not name: nodes and groups. */
void vs_hints_prune(struct vshard_node *n);
/* All that a node has said. */
void vs_hints_forget(struct vshard_node *n, uint64_t node);

/* ---- requests.c ---- */

struct vs_request *vs_request_new(struct vshard_node *n, uint32_t kind, uint64_t tag,
                                  uint64_t timeout_ns, uint32_t parts);
struct vs_request *vs_request_find(struct vshard_node *n, uint64_t id);
/* Its answer is due: it leaves the tables, and is handed over by flush. */
void vs_request_finish(struct vshard_node *n, struct vs_request *q, int status);
void vs_request_free(struct vshard_node *n, struct vs_request *q);
void vs_request_part_done(struct vshard_node *n, struct vs_request *q, struct vs_part *p);
void vs_requests_time(struct vshard_node *n);
/* Some request wants attention then. */
void vs_requests_by(struct vshard_node *n, uint64_t ns);
uint64_t vs_requests_deadline(const struct vshard_node *n);

/* ---- ask.c, serve.c ---- */

/* Bytes of a value in a fetched row, 0 where there is no such type. */
uint32_t vs_value_bytes(uint32_t type);
/* The values of a fetched row, and its payload; NULL: that is not how a row is made. */
const unsigned char *vs_row_values(const unsigned char *row, size_t bytes, uint32_t vector_bytes,
                                   uint32_t count, struct vshard_values *values);
/* Hits to ask one of so many shards for. */
uint32_t vs_read_effort(uint32_t k, uint32_t shards);
void vs_read_ask(struct vshard_node *n, struct vs_request *q, struct vs_part *p);
void vs_read_reply(struct vshard_node *n, uint64_t from, struct vs_in *in);
void vs_read_time(struct vshard_node *n, struct vs_request *q);
/* No answer is wanted any more from those who were asked. */
void vs_read_over(struct vshard_node *n, struct vs_part *p);
/* A read that was asked here is served here, too, from now on; and is not any more. */
void vs_read_here(struct vshard_node *n, struct vs_serving *s);
void vs_read_gone(struct vshard_node *n, const struct vs_serving *s);
/* It may be read; NULL may not. */
bool vs_serves(struct vshard_node *n, struct vs_replica *r);
void vs_serve_read(struct vshard_node *n, uint64_t origin, struct vs_in *in);
void vs_serve_cancel(struct vshard_node *n, uint64_t origin, uint64_t request);
void vs_serve_done(struct vshard_node *n, struct vs_item *item);
void vs_serve_read_done(struct vshard_node *n, struct vs_serving *s, int status, uint64_t index);
void vs_serve_ready(struct vshard_node *n, struct vs_replica *r);
/* A replica that serves nobody any more lets go of those who wait for it. */
void vs_serve_leave(struct vshard_node *n, struct vs_replica *r);
void vs_serve_time(struct vshard_node *n);
void vs_serving_free(struct vshard_node *n, struct vs_serving *s);
void vs_put_row(struct vs_out *o, const struct vs_serving *s);
/* Serves a read that needs no frame, as fresh as it says. */
void vs_serve_own(struct vshard_node *n, struct vs_serving *s);

/* ---- export.c ---- */

void vs_export_begin(struct vshard_node *n, struct vs_request *q);
int vs_export_run(struct vshard_node *n, struct vs_item *item);

/* As far as any replica of the group is known to have applied. */
uint64_t vs_applied_known(struct vshard_node *n, uint64_t group);

/* ---- cache.c ---- */

int vs_cache_init(struct vshard_node *n); /* 0, ENOMEM */
/* Fills in a search whose answer is kept and may be given; false: it must be asked. */
bool vs_cache_answer(struct vshard_node *n, struct vs_request *q);
void vs_cache_keep(struct vshard_node *n, const struct vs_request *q,
                   const struct vshard_node_done *d);
void vs_cache_fini(struct vshard_node *n);

/* ---- write.c ---- */

void vs_write_ask(struct vshard_node *n, struct vs_request *q, struct vs_part *p);
void vs_write_reply(struct vshard_node *n, uint64_t from, struct vs_in *in);
void vs_write_time(struct vshard_node *n, struct vs_request *q);
void vs_serve_write(struct vshard_node *n, uint64_t origin, struct vs_in *in);
void vs_write_committed(struct vshard_node *n, struct vs_proposal *p,
                        const struct vshard_raft_effect *e);
void vs_write_parked(struct vshard_node *n, struct vs_replica *r);
/* It is known whether this node leads still. */
void vs_write_judged(struct vshard_node *n, struct vs_proposal *p,
                     const struct vshard_raft_effect *e);
void vs_admin_committed(struct vshard_node *n, struct vs_proposal *p,
                        const struct vshard_raft_effect *e);
void vs_admin_known(struct vshard_node *n);
void vs_admin_time(struct vshard_node *n, struct vs_request *q);
void vs_join_reply(struct vshard_node *n, uint64_t from, struct vs_in *in);
int vs_admin_propose(struct vshard_node *n, struct vs_request *q);
/* Whether shards can be made so; *made is how they are then, with defaults filled in. */
int vs_collection_try(const struct vshard_collection *c, const struct vshard_allocator *a,
                      const struct vshard_logger *logger, struct vshard_index_stats *made);
/* The command for the map's log; an empty one: there is nothing to propose. */
int vs_admin_command(struct vshard_node *n, const struct vshard_node_admin *a, struct vs_out *o);

/* ---- quorum_lost.c ---- */

int vs_recover(struct vshard_node *n, struct vs_request *q, const struct vshard_node_admin *a);
void vs_recover_done(struct vshard_node *n, struct vs_proposal *p,
                     const struct vshard_raft_effect *e);

/* ---- steward.c ---- */

void vs_steward_map(struct vshard_node *n); /* the map may have changed */
void vs_steward_open(struct vshard_node *n);
void vs_steward_time(struct vshard_node *n);
void vs_steward_proposed(struct vshard_node *n, int status);
void vs_gossip_take(struct vshard_node *n, uint64_t from, uint64_t incarnation, struct vs_in *in);
void vs_join_take(struct vshard_node *n, uint64_t from, uint64_t incarnation, struct vs_in *in);
uint64_t vs_leader_of(struct vshard_node *n, uint64_t group);
/* Five of 64 bits: a set is the bits of all its members. Who misses one is no member; who has
 * all is one, but for some in a thousand. */
uint64_t vs_member_bits(uint64_t node, uint64_t incarnation);

/* Members of a group, and one of them; NULL: it is none. */
struct vs_members {
    struct vshard_raft_member member[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t count;
};
const struct vshard_raft_member *vs_member_find(const struct vs_members *m, uint64_t node,
                                                uint64_t incarnation);

/* ---- hosted.c: the map, where the host keeps it ---- */

bool vs_hosted(const struct vshard_node *n);
/* What was in `from` is the node's map now; nothing is left there. */
void vs_map_adopt(struct vshard_node *n, struct vs_cluster *from);
/* Whether this node does what the map's leader does. */
bool vs_leads_map(struct vshard_node *n);
/* Whether a change may be proposed: the map is known, and no other change is under way. */
bool vs_hosted_ready(const struct vshard_node *n);
/* Proposes a command, when it is ready. Returns 0, and then p ends with the host's answer; or
 * what the command comes to at once, or ENOMEM. */
int vs_hosted_propose(struct vshard_node *n, struct vs_proposal *p, const void *command,
                      size_t count);
/* Reads a document into an initialised map, which is to be finished whatever is returned: 0,
 * ECORRUPT, EVERSION, ENOTFOUND (of another cluster), ENOMEM. */
int vs_hosted_take(struct vs_cluster *m, struct vshard_key cluster, const void *bytes,
                   size_t count);
int vs_hosted_given(struct vshard_node *n, const void *bytes, size_t count);
int vs_hosted_put(struct vshard_node *n, uint64_t version, int status);
void vs_hosted_flush(struct vshard_node *n);
void vs_hosted_fini(struct vshard_node *n);

/* ---- level.c ---- */

/* The forms of a level: the version of frames, the apply format. */
uint32_t vs_level_frame(uint32_t level);
uint32_t vs_level_apply(uint32_t level);
/* The command that the map's leader has to propose, if there is one. */
bool vs_level_next(struct vshard_node *n, struct vs_out *o);

/* ---- flush.c ---- */

void vs_flush_frames(struct vshard_node *n);
void vs_flush_answers(struct vshard_node *n);

#endif
