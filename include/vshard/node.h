/* node.h - a cluster of vector indexes: one object per process.
 *
 * A node holds replicas of shards, replicates what is written to them, routes what is
 * asked to the shards that know, and merges what they answer. It opens no socket, starts
 * no thread and reads no clock: frames and time come in by calls, frames and answers go
 * out by the functions of a host table.
 *
 * Control calls (all but vshard_node_work()) are exclusive, and short where there are
 * workers: searching, applying, snapshots and syncs are items of work that threads of the
 * host take by vshard_node_work(). Without workers a control call does at most one such
 * item, and vshard_node_deadline_ns() says that there are more.
 *
 * A write is acknowledged when a quorum has it on disk. Some milliseconds later a replica has
 * it staged, and reads there reflect it; a graph takes it in by and by, which is what `applied`
 * says. A read says how fresh it must be. Each request is answered exactly once, by done(),
 * within its timeout. */
#ifndef VSHARD_NODE_H
#define VSHARD_NODE_H

#include <vshard/attribute.h>
#include <vshard/base.h>
#include <vshard/merge.h>
#include <vshard/wire.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VSHARD_NODES_MAX          16    /* of a cluster */
#define VSHARD_NAME_MAX           64    /* bytes of a collection's name */
#define VSHARD_COLLECTIONS_MAX    256   /* of a cluster */
#define VSHARD_CLUSTER_SHARDS_MAX 4096  /* of all collections */
#define VSHARD_REPLICAS_MAX       7     /* of a shard */
#define VSHARD_PAYLOAD_MAX        65536 /* bytes of a row's payload */
#define VSHARD_WRITE_ROWS_MAX     65536 /* of one write */
#define VSHARD_STATEMENT_MAX      1024  /* bytes of what an operator says about a recovery */

struct vshard_node;

/* ==== 1. Birth ========================================================= */

enum { VSHARD_NODE_JOINS = 1 }; /* struct vshard_node_birth.flags: the cluster exists */

/* Set `size`, zero the rest, and fill in what you care about. */
struct vshard_node_birth {
    uint32_t size;             /* bytes in this struct; required */
    uint32_t flags;            /* VSHARD_NODE_* */
    uint32_t founder_count;    /* nodes that the cluster begins with, 1..16; 0 with JOINS */
    uint32_t region;           /* where it stands; founders stand in region 0, which is the
                                  primary one until VSHARD_ADMIN_PRIMARY names another */
    struct vshard_key cluster; /* drawn once for a cluster, the same on all its nodes; required */
    uint64_t node;             /* this node's id; required */
    const uint64_t *founders;  /* [founder_count] ids, this node's among them; the same list on
                                  each founder. The first five vote about the cluster's map */
    const char *path;          /* a directory that exists, of this node alone; required */
    const struct vshard_storage *storage;     /* default POSIX files */
    const struct vshard_allocator *allocator; /* default the C library's heap */
    const struct vshard_logger *logger;       /* default silence */
    const struct vshard_entropy *entropy;     /* for the incarnation of one that joins; default
                                                 the system's */
};

/* Makes a directory the home of a node: once in its life, and an explicit act, because a
 * node that has lost its directory must come back as one that joins.
 *
 * Returns   0, EINVAL, EVERSION, EEXIST (it is one already), ENOMEM, and what storage says
 * Blocks    for a sync
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_node_format(const struct vshard_node_birth *birth);

/* ==== 2. The host ====================================================== */

enum {                          /* what there is to do, in struct vshard_node_host.wake */
       VSHARD_WAKE_CONTROL = 1, /* work is finished: call vshard_node_tick() */
       VSHARD_WAKE_WORK = 2     /* there is work: call vshard_node_work() on some thread */
};

enum { /* struct vshard_node_done.kind */
       VSHARD_NODE_WRITE = 1,
       VSHARD_NODE_SEARCH = 2,
       VSHARD_NODE_FETCH = 3,
       VSHARD_NODE_ADMIN = 4,
       VSHARD_NODE_EXPORT = 5
};

/* How far a shard's log is reflected, or must be. An array element: frozen. A session is
 * an array of these, of each shard the highest `index` that any answer named. */
struct vshard_position {
    uint64_t group;
    uint64_t index;
    uint32_t epoch;    /* recovery epoch; a later one may have lost what this names: ESTALE */
    uint32_t reserved; /* 0 */
};

/* The answer to a request. What it points to dies when done() returns. */
struct vshard_node_done {
    uint32_t size;
    uint32_t kind;   /* VSHARD_NODE_WRITE .. */
    uint64_t tag;    /* as it was given */
    int32_t status;  /* 0, or why there is no answer; of a search that some shards answered, 0 */
    uint32_t limits; /* SEARCH: VSHARD_LIMIT_* that cut a shard's search; DEADLINE also where a
                        shard has answered, and was to say whether it has more of the nearest */
    uint32_t shards; /* asked, or written to */
    uint32_t shards_answered; /* of them; fewer: the answer is partial */
    uint32_t hit_count;
    uint32_t position_count;
    uint64_t retry_ns;                       /* with EBUSY: try again after */
    uint64_t rows;                           /* SEARCH: in the shards that answered, also those that
                                                are staged and not applied yet; EXPORT: written */
    uint64_t distances;                      /* SEARCH: computed */
    uint64_t version;                        /* FETCH: of the row */
    uint32_t vector_bytes;                   /* FETCH */
    uint32_t value_count;                    /* FETCH: attributes of the collection */
    uint32_t payload_bytes;                  /* FETCH */
    uint32_t hedges;                         /* second requests that were sent */
    const struct vshard_merge_hit *hits;     /* SEARCH: [hit_count], nearest first */
    const struct vshard_position *positions; /* [position_count]: WRITE: where it is in the logs;
                                                else what the answer reflects */
    const void *vector;                      /* FETCH: [vector_bytes] */
    const struct vshard_values *values;      /* FETCH: [value_count] of one row each; a keyword
                                                has VSHARD_KEYWORD_MAX bytes, with zeros behind */
    const void *payload;                     /* FETCH: [payload_bytes] */
    const void *reserved_pointer;
};

/* Functions of the host. send() and done() are called by control calls alone, on their
 * thread, when the node is whole: they may not call the node (it would say EBUSY). wake()
 * is called on any thread. */
struct vshard_node_host {
    uint32_t size;  /* bytes in this struct; required */
    uint32_t flags; /* 0 */
    void *ctx;      /* handed to each function */
    /* One whole frame for another node; borrowed. It may be lost; it is best dropped where
     * the other does not take it. Required. */
    void (*send)(void *ctx, uint64_t node, const void *frame, size_t bytes);
    /* A request is over. Required. */
    void (*done)(void *ctx, const struct vshard_node_done *done);
    /* There is something to do. Required with workers. */
    void (*wake)(void *ctx, uint32_t what);
    /* The host keeps the map, and shall put these bytes in its place, of this version, if the
     * one that is there is of the version before: see vshard_node_map(). Borrowed. Default: the
     * nodes keep the map among themselves. */
    void (*put_map)(void *ctx, uint64_t version, const void *bytes, size_t count);
};

/* ==== 3. A node ======================================================== */

/* Set `size`, zero the rest, and fill in what you care about: zero is the default. */
struct vshard_node_options {
    uint32_t size;         /* bytes in this struct; required */
    uint32_t workers;      /* threads that call vshard_node_work(); default none */
    uint32_t key_count;    /* of keys */
    uint32_t max_requests; /* under way here; beyond it: EBUSY; default 4096 */
    uint64_t node;         /* as it was formatted; required */
    uint64_t heartbeat_ns; /* of logs; default 30 ms */
    uint64_t election_ns;  /* silence before an election, at least; the same on all nodes;
                              default 150 ms */
    uint64_t idle_ns;      /* a shard that nobody uses sleeps after; default 10 election_ns */
    uint64_t search_ns;  /* timeout of searches and fetches, where they name none; default 50 ms */
    uint64_t write_ns;   /* likewise of writes and admin; default 5 s */
    uint64_t hedge_ns;   /* a shard's answer is waited for at least so long before another replica
                            is asked, too; UINT64_MAX: never; default 5 ms */
    uint64_t replace_ns; /* a node that is silent for so long loses its replicas to a spare one, and
                            its vote about the map, if there are five others; and one whose replica
                            has halted for so long loses that; default 60 s; UINT64_MAX: never */
    uint64_t snapshot_bytes; /* of entries between two snapshots of a shard; as many as the last one
                                is long will do, from 4 MiB on; default 64 MiB */
    uint64_t backlog_bytes;  /* of a shard's entries that are durable and not applied; beyond it a
                                leader refuses writes with EBUSY, and beyond twice that a replica
                                is sent no more; default 64 MiB */
    uint64_t segment_bytes;  /* of the write-ahead log; default 32 MiB, 64 KiB..1 GiB. What is
                                replicated as one, the rows that a write has for a shard say, is an
                                eighth of it at most, and 16 MiB: so it is the same on all nodes */
    uint64_t cache_bytes;    /* for answers to searches that are asked again, with the same bytes
                                and parameters. One is given again until this node hears that a
                                replica has applied more than it reflects, and as far as the
                                consistency allows; never to a linearizable search. Default 0:
                                none are kept */
    const char *path;        /* the directory; required */
    const struct vshard_node_host *host;      /* copied; required */
    const struct vshard_wire_key *keys;       /* [key_count] that seal frames; copied */
    const struct vshard_storage *storage;     /* copied; default POSIX files */
    const struct vshard_allocator *allocator; /* copied; default the C library's heap */
    const struct vshard_logger *logger;       /* copied; default silence */
    const struct vshard_executor *executor;   /* for building; copied; default the calling thread */
    const struct vshard_clock *clock; /* for deadlines inside a search; copied; default none:
                                         then a search runs to its end */
};

/* Opens a node: its log is read; then items of work load its shards from their snapshots, and
 * apply what follows in the log by and by. One process at a time may do so:
 * another is refused, where storage has VSHARD_IO_OPEN_ALONE.
 *
 *   node      [out] NULL on failure
 *
 * Returns   0, EINVAL, EVERSION (also: the cluster's level is above what this library knows),
 *           ENOMEM, ENOTFOUND (the directory is no node's), ESTALE (it is another node's),
 *           ECORRUPT (synced records are damaged: put the directory aside, and let the node join
 *           again), EBUSY (another has it open), and what storage says
 * Blocks    for reading
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_node_open(const struct vshard_node_options *options, uint64_t now_ns,
                                struct vshard_node **node);

/* Ends a node. Requests under way are answered with ECANCELED, by done(), before it returns. No
 * thread may be in vshard_node_work(). NULL is fine.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_node_close(struct vshard_node *node);

/* Takes one frame that another node's send() was given.
 *
 *   bytes     [count], borrowed
 *
 * Returns   0; ECORRUPT, EVERSION, ENOTFOUND (another cluster, receiver or key): the frame was
 *           counted and dropped; EINVAL; EBUSY (from a callback); ENOMEM: dropped; or the status
 *           that has stopped this node, as EIO after a failed sync: close it and open it again
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_recv(struct vshard_node *node, uint64_t now_ns, const void *bytes,
                                size_t count);

/* Lets time pass: call it when vshard_node_deadline_ns() is reached, and when woken.
 *
 * Returns   0, EINVAL, EBUSY, or the status that has stopped this node
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_tick(struct vshard_node *node, uint64_t now_ns);

/* When the node next wants a tick, by the clock of now_ns; 0 for at once.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API uint64_t vshard_node_deadline_ns(const struct vshard_node *node);

/* Does one item of work, if there is one.
 *
 * Returns the items done, 0 or 1.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API uint32_t vshard_node_work(struct vshard_node *node);

/* ==== 4. Collections and members ======================================= */

/* What a collection is. Set `size`; zero is the default in every field. */
struct vshard_collection {
    uint32_t size; /* bytes in this struct; required */
    uint32_t dim;  /* and the next eight: as in struct vshard_index_options; required */
    uint32_t family;
    uint32_t metric;
    uint32_t element;
    uint32_t m;
    uint32_t ef_construction;
    uint32_t ef_search;
    uint32_t train_rows;
    uint32_t profile;
    uint32_t shards;   /* default 1 */
    uint32_t replicas; /* of each shard, 1..7, and no more than nodes; default 3, or the nodes */
    uint32_t attribute_count; /* 0..8 */
    uint32_t learners; /* replicas of each shard in other regions than the primary one, beside
                          `replicas`, and no more than 7 with these: they follow without being
                          waited for, and answer reads; as soon as such nodes are there */
    uint64_t seed;
    uint64_t max_rows; /* of a shard, about; writes beyond it: E2BIG; default no limit */
    const char *name;  /* 1..64 bytes; required */
    const struct vshard_attribute *attributes; /* [attribute_count] beside each vector, as in
                                                  struct vshard_index_options */
};

enum {                               /* struct vshard_node_admin.op */
       VSHARD_ADMIN_CREATE = 1,      /* collection */
       VSHARD_ADMIN_DROP = 2,        /* name */
       VSHARD_ADMIN_JOIN = 3,        /* node: some member; this node asks it for admission. E2BIG:
                                        there are VSHARD_NODES_MAX; ESTALE: it was removed, and
                                        needs an empty directory; EVERSION: the cluster writes
                                        what this version of the library does not know */
       VSHARD_ADMIN_REMOVE_NODE = 4, /* node: its replicas move to nodes that have none of those
                                        shards, and when it has none left, and none that a group
                                        counts on, it is no member any more, and may be switched
                                        off; 0 says that this has begun. What no other node can
                                        take it keeps, unless it does not answer or was given up
                                        by RECOVER: then the shard has one replica less. Who
                                        was removed comes back with an empty directory.
                                        incarnation: who says it again, after EUNKNOWN say, does
                                        not remove who has come back meanwhile: ESTALE */
       VSHARD_ADMIN_REPLACE = 5,     /* group, node: loses this replica; to: who gets it */
       VSHARD_ADMIN_LEAD = 6,        /* group, node: this member leads it from now on, whenever it
                                        is there and has all; 0 says that this is decided. EINVAL:
                                        it learns; ENOTFOUND: it is no member */
       VSHARD_ADMIN_RECOVER = 7,     /* group, lost, epoch, last, last_term, name: see below */
       VSHARD_ADMIN_PRIMARY = 8,     /* region: replicas there vote and lead from now on, and those
                                        in other regions learn. While a quorum lives nothing is
                                        lost; 0 says that it has begun. done: ENOTFOUND: no node
                                        is there; EBUSY: not a replica of each shard is */
       VSHARD_ADMIN_ALTER = 9        /* collection: see below */
};

/* When most replicas of a group are lost for good, nothing that keeps its promises can go on,
 * and RECOVER makes the replica of the node that is asked the beginning of a new epoch. What
 * was acknowledged and is not in its log is lost, which is why nothing automatic does this.
 * Before it, see to it that no lost node takes part again as it was (power it off, cut it off;
 * it comes back with an empty directory, by JOIN), and compare what the survivors say of the
 * group in their status: it is to be done at the one with the highest (last_term, last).
 * First the map, group 0, if most of its voters are lost, then every shard of which most
 * replicas are; after that, REMOVE_NODE for each lost node, so that spare nodes get what it had.
 * One that comes back as it was, before that, learns until it has shown that it follows; if it has
 * what was given up, it halts, and nobody waits for it.
 *
 *   group      0, or of a shard that has a replica here
 *   lost       [lost_count] nodes that are fenced; others than members may be among them
 *   epoch      above the present one, 1..32767, and never used twice for a group
 *   last, last_term  of this replica, as vshard_node_status() or vshard_node_shards() say
 *   name       a statement, 1..1024 bytes, of who was fenced and how; kept in the log
 *
 * done: 0: the group goes on; positions[0]: what was acknowledged at `index` or beyond, in an
 * earlier epoch, is lost. EEXIST: the others are a quorum, REMOVE_NODE will do; EBUSY: a leader
 * or a lost node has been heard within some election_ns; ESTALE: the log or the epoch is another;
 * EUNKNOWN, ETIMEDOUT: look at the status, and draw another epoch if it had no effect. */

/* Set `size`; zero the rest. */
struct vshard_node_admin {
    uint32_t size;
    uint32_t op; /* VSHARD_ADMIN_* */
    uint64_t tag;
    uint64_t timeout_ns;
    uint64_t node;
    uint64_t to;
    uint64_t group;
    const struct vshard_collection *collection;
    const char *name;
    uint64_t last;
    uint64_t last_term;
    uint32_t epoch;
    uint32_t lost_count;
    uint32_t region;
    uint32_t reserved;
    const uint64_t *lost;         /* [lost_count] */
    const void *reserved_pointer; /* NULL */
    uint64_t incarnation;         /* REMOVE_NODE: the node's, as vshard_node_peers() says; default
                                     that which this node knows when it is asked */
};

/* Changes the cluster, at any of its nodes. done() says 0 when this node knows the change;
 * a collection can be written to when its shards have leaders, some 100 ms later.
 *
 * Of a collection that is there, by its name, ALTER changes ef_search, max_rows (UINT64_MAX:
 * no limit any more) and replicas, where they are not 0. Replicas come and go one at a time,
 * after done(). All else is as it was created: it must be 0, or what it is, else EINVAL, and
 * the log names the field.
 *
 * Returns   0: done() will tell; EINVAL, EVERSION, E2BIG, ENOMEM, EBUSY; or the status that has
 *           stopped this node. done: EEXIST, ENOTFOUND, EBUSY (fewer nodes than replicas),
 *           ESTALE (the node has another incarnation), E2BIG (too many nodes or shards, or so many
 *           that the command does not fit a log, see segment_bytes), ENOSPC (this node's log is
 *           full), ENOTLEADER, EUNKNOWN, ETIMEDOUT
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_admin(struct vshard_node *node, uint64_t now_ns,
                                 const struct vshard_node_admin *admin);

/* By default nodes keep the cluster's map among themselves, in a group of which all are members.
 * A host that has a store with compare-and-swap, as etcd, may keep it there: then put_map() is
 * given on all nodes, each is formatted with VSHARD_NODE_JOINS, and joins by VSHARD_ADMIN_JOIN
 * once it was told the map (`node` is not read). The map is a document with a version, which
 * rises by one with each change; shards keep their own logs, and go on while the store is away.
 *
 * What the host promises:
 *
 *   - each put_map() is answered once, by vshard_node_map_put(), on the control thread and not
 *     within put_map(). In the store the version is compared and the bytes are replaced in one
 *     step, and are durable; version 1 is put where there is nothing.
 *   - after a node is opened it is told what the store has, as a linearizable read says, and
 *     afterwards each change, or the last of some; also where a put was too late. */

/* Tells a node what the store has: after it was opened, and when it has changed.
 *
 *   bytes     [count], borrowed; NULL: there is no map yet
 *
 * Returns   0, also for what it knows already; ESTALE: it knows a later version; EEXIST: it knows
 *           another map of that version: the store has not compared; ECORRUPT: not a map, cut
 *           short or damaged; EVERSION: of a later library; ENOTFOUND: of another cluster; then
 *           nothing has changed. EINVAL, ENOTSUP (it has no put_map()), ENOMEM, EBUSY; or the
 *           status that has stopped this node
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_map(struct vshard_node *node, uint64_t now_ns, const void *bytes,
                               size_t count);

/* Answers a put_map().
 *
 *   version   as it was given
 *   status    0: it is there; ESTALE: another was first, and nothing has changed; any other:
 *             nobody knows, and who asked for the change is told EUNKNOWN
 *
 * Returns   0, EINVAL, ENOTFOUND (no such put is under way), EBUSY, or the status that has stopped
 *           this node
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_map_put(struct vshard_node *node, uint64_t now_ns, uint64_t version,
                                   int status);

/* Reads what a host needs to know of a map: which cluster it is of, and its version. All of it
 * is under a checksum, which is verified.
 *
 *   bytes     [count], borrowed
 *   cluster   [out]
 *   version   [out] 1..
 *
 * Returns   0, EINVAL, ECORRUPT (not a map, cut short or damaged), EVERSION (of a later library)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_node_map_read(const void *bytes, size_t count, struct vshard_key *cluster,
                                    uint64_t *version);

/* ==== 5. Requests ====================================================== */

enum {                          /* struct vshard_node_write.flags */
       VSHARD_WRITE_REMOVE = 1, /* keys alone: these rows go */
       VSHARD_WRITE_APPLIED = 2 /* answer when reads at the leaders reflect it, too */
};

/* Rows to write. Set `size`; zero the rest. All of it is borrowed for the call. */
struct vshard_node_write {
    uint32_t size;
    uint32_t flags;       /* VSHARD_WRITE_* */
    uint32_t count;       /* rows, 1..65536 */
    uint32_t value_count; /* of values: attributes, the first of the collection's */
    uint64_t tag;
    uint64_t timeout_ns;           /* default write_ns */
    struct vshard_key request;     /* who repeats a write gives the same id, and it is done once;
                                      default: one is drawn */
    const char *collection;        /* required */
    const struct vshard_key *keys; /* [count]; of a key twice, the last counts */
    const void *vectors;           /* element [count x dim], row-major */
    const struct vshard_values *values; /* [value_count] arrays of `count` values each;
                                           attributes beyond are missing */
    const void *const *payloads;        /* [count]; NULL for none */
    const uint32_t *payload_bytes;      /* [count], each up to 65536; goes with payloads */
};

/* Adds rows, or replaces or removes them. The rows of one shard are applied together; those
 * of several are not one transaction. Leaders that change meanwhile are found again. Of two
 * writes that are under way at once either may be applied first, whichever was asked first.
 *
 * Returns   0: done() will tell; EINVAL (also a vector or a value that an index refuses),
 *           EVERSION, E2BIG, ENOTFOUND (collection), ENOMEM, EBUSY; or the status that has
 *           stopped this node. done: 0: durable on a quorum; ETIMEDOUT: nothing is known of some
 *           shard (its part may be written, or not; a repetition under the same request id makes
 *           sure); EBUSY: some shard had no room just now, ENOSPC: some leader's disk is full, and
 *           likewise; E2BIG: some shard has max_rows, and its part is not written, or a leader's
 *           log takes no such entry; EINVAL (a leader refuses it); ENOTFOUND (dropped meanwhile);
 *           ECANCELED. Parts of other shards may be written in any case
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_write(struct vshard_node *node, uint64_t now_ns,
                                 const struct vshard_node_write *write);

enum {                      /* how fresh an answer must be: struct vshard_node_search.consistency */
       VSHARD_READ_ANY = 0, /* whatever a replica has staged or applied */
       VSHARD_READ_BOUNDED = 1,     /* at most max_staleness_ns old, proven by the leader */
       VSHARD_READ_POSITIONS = 2,   /* reflects `positions`: a session's own writes and reads */
       VSHARD_READ_LINEARIZABLE = 3 /* reflects all that was acknowledged before it was asked */
};

enum {                        /* struct vshard_node_search.flags */
       VSHARD_NODE_EXACT = 1, /* scan, as VSHARD_SEARCH_EXACT */
       VSHARD_NODE_WHOLE = 2  /* a partial answer is none: ETIMEDOUT */
};

/* What is searched for. Set `size`; zero the rest. All of it is borrowed for the call. */
struct vshard_node_search {
    uint32_t size;
    uint32_t flags;     /* VSHARD_NODE_* */
    uint32_t k;         /* hits wanted, 1..4096 */
    uint32_t ef_search; /* in each shard; default the collection's */
    uint32_t consistency;
    uint32_t position_count;
    uint32_t where_bytes;
    float target_recall; /* of each shard, in place of ef_search; needs calibrated shards */
    uint64_t tag;
    uint64_t timeout_ns;       /* default search_ns */
    uint64_t max_staleness_ns; /* of BOUNDED */
    const char *collection;    /* required */
    const void *query;         /* element [dim] */
    const void *where;         /* [where_bytes] an expression by vshard_where_encode(), about the
                                  attributes of the collection: rows for which it does not hold are
                                  passed over. It is verified. Default: none */
    const struct vshard_position *positions; /* others than this collection's are passed over */
};

/* Searches all shards of a collection, one replica of each, and merges what they find.
 *
 * Returns   0: done() will tell; EINVAL (also an expression that is none or is about other
 *           attributes), EVERSION, E2BIG, ENOTFOUND, ENOMEM, EBUSY; or the status that has
 *           stopped this node. done: 0, with shards_answered; ETIMEDOUT: no shard
 *           answered, or not all and WHOLE was asked for; ESTALE: no replica is as fresh as asked
 *           for; ECANCELED
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_search(struct vshard_node *node, uint64_t now_ns,
                                  const struct vshard_node_search *search);

/* A row by its key; fields as in struct vshard_node_search. */
struct vshard_node_fetch {
    uint32_t size;
    uint32_t consistency;
    uint32_t position_count;
    uint32_t reserved;
    uint64_t tag;
    uint64_t timeout_ns;
    uint64_t max_staleness_ns;
    struct vshard_key key;
    const char *collection;
    const struct vshard_position *positions;
};

/* Fetches a row with its version, vector, values and payload.
 *
 * Returns   as vshard_node_search(). done: also ENOTFOUND: there is no such row
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_fetch(struct vshard_node *node, uint64_t now_ns,
                                 const struct vshard_node_fetch *fetch);

/* A shard as a file. Set `size`; zero the rest. */
struct vshard_node_export {
    uint32_t size;
    uint32_t shard; /* of the collection */
    uint64_t tag;
    uint64_t timeout_ns;    /* default write_ns */
    const char *collection; /* required */
    const char *path;       /* of the file, by the node's storage; required */
};

/* Writes the rows of a shard of which this node has a replica to a file, as of one position of
 * its log, which reflects all that was acknowledged before. It is written aside, synced and
 * renamed; searches go on meanwhile, and nothing is applied. Integers are little-endian:
 *
 *     8 "VSEXPT1\0", 8 position, 8 rows, 8 zeros, then pieces:
 *     8 bytes of rows, 16 vshard_key_hash() of them as hi and lo, the rows; without rows it
 *     is the last
 *     a row: 16 key (hi, lo), 8 version, 4 bytes of the vector, 4 values, 4 bytes of the
 *     payload, 4 zeros, the vector and zeros to a multiple of 8, of each value 8 bytes with
 *     VSHARD_ATTRIBUTE_*, the values, of 8 bytes or for keywords VSHARD_KEYWORD_MAX, the
 *     payload and zeros to a multiple of 8
 *
 * Returns   0: done() will tell; EINVAL, EVERSION, ENOTFOUND (collection; or there is no replica
 *           here), ENOMEM, EBUSY; or the status that has stopped this node. done: 0; ETIMEDOUT
 *           (the file may come yet); ESTALE, ENOTLEADER: not within the timeout, as of a read;
 *           ENOTSUP: the replica has gone meanwhile; ECANCELED; and what storage says
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_export(struct vshard_node *node, uint64_t now_ns,
                                  const struct vshard_node_export *request);

/* Gives up requests of that tag: each is answered with ECANCELED, by done(), before this
 * returns; a write may happen all the same.
 *
 * Returns   0, ENOTFOUND (there is none), EINVAL, EBUSY
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_cancel(struct vshard_node *node, uint64_t tag);

/* ==== 6. Looking inside ================================================ */

/* Set `size`; the library fills in as much as fits. */
struct vshard_node_status {
    uint32_t size;
    int32_t status;            /* [out] what has stopped this node, or 0 */
    uint64_t node;             /* [out] */
    uint64_t incarnation;      /* [out] */
    uint64_t boot;             /* [out] how often it was opened */
    uint64_t meta_leader;      /* [out] who leads the cluster's map; 0: not known */
    uint64_t map_index;        /* [out] the last change of the map that this node knows */
    uint64_t map_last;         /* [out] where the map's log ends here, */
    uint64_t map_last_term;    /* [out] in which term, */
    uint32_t map_epoch;        /* [out] and in which recovery epoch it is */
    uint32_t region;           /* [out] where it stands */
    uint32_t primary;          /* [out] the region whose replicas vote */
    uint32_t level;            /* [out] of formats: what all nodes know, and each writes. In an
                                  upgrade it rises when the last node is of the new version; until
                                  then each may go back to the old one */
    uint32_t nodes;            /* [out] of the cluster */
    uint32_t collections;      /* [out] */
    uint32_t shards;           /* [out] of all collections */
    uint32_t replicas;         /* [out] here */
    uint32_t requests;         /* [out] under way */
    uint32_t items;            /* [out] of work, waiting */
    uint64_t frames_taken;     /* [out] */
    uint64_t frames_refused;   /* [out] */
    uint64_t hedges;           /* [out] second requests sent */
    uint64_t forwards;         /* [out] writes sent to a leader elsewhere */
    uint64_t elections;        /* [out] begun here */
    uint64_t cache_answers;    /* [out] searches that were answered from the cache, */
    uint64_t cache_misses;     /* [out] those that could have been and were not, */
    uint64_t cache_bytes;      /* [out] and what it holds */
    uint32_t level_known;      /* [out] the highest level of formats that this node knows */
    int32_t map_status;        /* [out] what has halted this node's replica of the map, or 0 */
    struct vshard_key cluster; /* [out] which it is, as the node was formatted */
};

/* Says how a node is.
 *
 * Returns   0, EINVAL
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_status(struct vshard_node *node, struct vshard_node_status *status);

/* What a collection is, as it was created, with defaults filled in.
 *
 *   collection  [out] set its `size`; `name` and `attributes` are valid until the next
 *               control call
 *
 * Returns   0, EINVAL, ENOTFOUND
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_collection(struct vshard_node *node, const char *name,
                                      struct vshard_collection *collection);

/* A shard as this node sees it. An array element of the size it has in this version. */
struct vshard_shard_status {
    uint64_t group;
    uint64_t leader; /* 0: not known */
    uint64_t term;
    uint64_t committed;    /* here, as the next seven; 0 where there is no replica here */
    uint64_t applied;      /* in the index; reads reflect what is staged, too */
    uint64_t last;         /* where its log ends, */
    uint64_t last_term;    /* and in which term */
    uint64_t rows;         /* that reads here find: those that are staged, too */
    uint64_t digest_index; /* the digest below is of this position; 0: none yet */
    uint64_t digest;
    uint32_t shard;      /* of its collection */
    uint32_t collection; /* id; in the order of creation */
    uint32_t here;       /* 1: there is a replica here; 2: it has halted */
    uint32_t member_count;
    uint32_t epoch; /* recovery epoch, here */
    uint32_t reserved;
    uint64_t members[VSHARD_REPLICAS_MAX + 1];
};

/* Lists the shards of all collections, or of one.
 *
 *   collection  its name, or NULL for all
 *   shards      [out] [cap]
 *   count       [out] how many there are, also with E2BIG
 *
 * Returns   0, EINVAL, ENOTFOUND, E2BIG (cap is too small; the first cap are in `shards`)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_shards(struct vshard_node *node, const char *collection,
                                  struct vshard_shard_status *shards, size_t cap, size_t *count);

enum {                         /* struct vshard_peer_status.flags */
       VSHARD_PEER_ALIVE = 1,  /* it was heard of within four times election_ns, or is this node */
       VSHARD_PEER_LEAVES = 2, /* its replicas move away, and then it is no member any more */
       VSHARD_PEER_LOST = 4,   /* the map names it, and the map's group goes on without it: it was
                                  given up by RECOVER, or has only just come */
       VSHARD_PEER_VOTES = 8,  /* about the map; not where the host has that */
       VSHARD_PEER_HALTED = 16 /* it has a map that is void, and goes by that: empty its directory,
                                  and let it join again */
};

/* A node as this one sees it. An array element of the size it has in this version. */
struct vshard_peer_status {
    uint64_t node;
    uint64_t incarnation;
    uint64_t silence_ns; /* since it was heard of, at the last call; UINT64_MAX: never */
    uint32_t flags;      /* VSHARD_PEER_* */
    uint32_t region;
    uint32_t level;    /* of formats, that it has announced */
    uint32_t replicas; /* that it shall have */
};

/* Lists the nodes that the map names, by id.
 *
 *   peers     [out] [cap]
 *   count     [out] how many there are, also with E2BIG
 *
 * Returns   0, EINVAL, E2BIG (cap is too small; the first cap are in `peers`)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_node_peers(struct vshard_node *node, struct vshard_peer_status *peers,
                                 size_t cap, size_t *count);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_NODE_H */
