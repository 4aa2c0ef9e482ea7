/* log.h - the replication log: a Raft core that does no I/O.
 *
 * One object is one node and holds any number of groups. Events go in by
 * vshard_raft_step(), each with the time; effects come out by
 * vshard_raft_next(). Between the two the object is whole. It starts no thread,
 * opens nothing, reads no clock, and draws chance only from the seed it was given:
 * the same events make the same effects, on every machine.
 *
 * The order a host keeps is: persist, then send, then apply. Each PERSIST effect
 * carries the next number of one node-wide sequence, its barrier. Every other
 * effect names the barrier that must be durable first, or 0. So one sync covers
 * all groups of a node, and nothing else waits: the host writes what it is handed,
 * holds back the effects whose barrier is not reached, syncs when it likes, and
 * says PERSISTED with the highest barrier that the sync covered. A vote alone may be
 * reported ahead of the bulk that was handed over before it (VSHARD_RAFT_VOTE_ONLY).
 *
 * Memory. What an event points to is borrowed for the call. What an effect points
 * to belongs to the object and is valid until the next call that changes it.
 * Entries are copied once, into the object's own log, and from there handed to
 * storage, to the network and to the state machine in place.
 *
 * A step is all or nothing: with ENOMEM nothing has changed, and the same event
 * may be given again. Every tag is answered by exactly one DONE effect, with
 * EUNKNOWN where the outcome is not known; a crash of the host answers none. */
#ifndef VSHARD_LOG_H
#define VSHARD_LOG_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ==== 1. Entries and members =========================================== */

enum {                         /* struct vshard_raft_entry.kind */
       VSHARD_RAFT_DATA = 0,   /* the host's bytes */
       VSHARD_RAFT_BLANK = 1,  /* a new leader's first entry; no bytes */
       VSHARD_RAFT_CONFIG = 2, /* members; the core's own bytes */
       VSHARD_RAFT_SESSION = 3 /* opens a client session, whose id is the entry's index */
};

enum {                            /* struct vshard_raft_entry.flags, set on entries of APPLY */
       VSHARD_RAFT_DUPLICATE = 1, /* this (session, sequence) was applied before: do not apply */
       VSHARD_RAFT_EXPIRED = 2    /* the session is gone, or the sequence too old: do not apply */
};

/* One entry of a log. Proposals fill in kind, session, sequence, count, data;
 * the rest is the core's. 64 bytes where pointers have 8. */
struct vshard_raft_entry {
    uint64_t index;    /* from 1, without gaps */
    uint64_t term;     /* of the leader that appended it */
    uint64_t session;  /* 0: none */
    uint64_t sequence; /* within the session, from 1; up to 64 may be in flight at once */
    uint64_t count;    /* bytes of data, 0..16 MiB */
    uint32_t kind;
    uint32_t flags;
    const void *data;
    const void *reserved; /* NULL */
};

enum {                           /* struct vshard_raft_member.role, bits */
       VSHARD_RAFT_VOTER = 1,    /* votes in the present configuration */
       VSHARD_RAFT_OUTGOING = 2, /* voted in the one that a joint configuration leaves */
       VSHARD_RAFT_LEARNER = 4,  /* receives the log and does not vote */
       VSHARD_RAFT_FENCED = 8    /* PROMOTE only: kept from ever taking part again */
};

#define VSHARD_RAFT_MEMBERS_MAX 16

/* A replica is a node and the incarnation of its disk: a node whose disk was lost
 * comes back under another incarnation, and is then another replica, which has
 * promised nothing and whose word does not count until a configuration names it. */
struct vshard_raft_member {
    uint64_t node;        /* not 0 */
    uint64_t incarnation; /* not 0 */
    uint32_t role;        /* VSHARD_RAFT_VOTER or VSHARD_RAFT_LEARNER, in what a host asks for */
    uint32_t priority;    /* 0..7; a leader hands over to a caught-up voter of higher priority;
                             8: never campaigns, which one voter at least has to */
};

#define VSHARD_RAFT_NEVER_LEADS 8

/* ==== 2. Events ======================================================== */

enum { /* struct vshard_raft_event.kind; which fields each reads stands beside it */
       VSHARD_RAFT_TIME = 1,           /* nothing but now_ns; timers run here */
       VSHARD_RAFT_MESSAGE = 2,        /* bytes: one message, whole, as SEND gave it elsewhere */
       VSHARD_RAFT_PROPOSE = 3,        /* group, tag, entries, flags */
       VSHARD_RAFT_CONFIGURE = 4,      /* group, tag, members: all that shall be members */
       VSHARD_RAFT_READ = 5,           /* group, tag, mode, max_age_ns */
       VSHARD_RAFT_TRANSFER = 6,       /* group, tag, node: who shall lead. DONE says 0 when this
                                          node leads no more, whoever does: see ROLE; ETIMEDOUT:
                                          it leads on, and takes proposals again */
       VSHARD_RAFT_CAMPAIGN = 7,       /* group: ask for votes, as soon as the promise is over that
                                          was given to a leader that was heard of late */
       VSHARD_RAFT_PERSISTED = 8,      /* barrier: this and all lower ones are durable */
       VSHARD_RAFT_PERSIST_FAILED = 9, /* storage failed: the node takes part in nothing more */
       VSHARD_RAFT_APPLIED = 10,       /* group, index: the state machine is there */
       VSHARD_RAFT_SNAPSHOT = 11,      /* group: a snapshot of what has been applied begins; needs
                                          all that was handed out applied, or EBUSY */
       VSHARD_RAFT_COMPACT = 12,       /* group, index: entries to here are no longer wanted;
                                          offset: the newest durable snapshot, at least as far */
       VSHARD_RAFT_FETCHED = 13, /* group, node, index, entries: the answer to FETCH; status */
       VSHARD_RAFT_CHUNK = 14,   /* group, node, index, offset, bytes, flags, status: the answer
                                    to SNAPSHOT_READ */
       VSHARD_RAFT_CHUNK_WRITTEN = 15, /* group, index, offset = bytes written so far; status */
       VSHARD_RAFT_INSTALLED = 16,     /* group, index, status: the answer to INSTALL */
       VSHARD_RAFT_PROMOTE = 17 /* group, tag, barrier, index, offset, members, bytes: a forced
                                   promotion, section 6 */
};

enum {                             /* struct vshard_raft_event.mode of READ */
       VSHARD_RAFT_READ_INDEX = 0, /* linearizable, by a quorum */
       VSHARD_RAFT_READ_LEASE = 1, /* linearizable, by the leader's lease where it holds, as long as
                                      clocks run within clock_drift_ppm of each other */
       VSHARD_RAFT_READ_STALE = 2  /* at most max_age_ns old, with the proof in the answer */
};

enum {                             /* struct vshard_raft_event.flags */
       VSHARD_RAFT_LOCAL_ONLY = 1, /* PROPOSE, READ: do not forward to the leader */
       VSHARD_RAFT_LAST = 2,       /* CHUNK: the snapshot ends with these bytes */
       VSHARD_RAFT_VOTE_ONLY = 4   /* PERSISTED: the term and vote of `barrier`, whose PERSIST had
                                      this flag, are durable; nothing is said of lower ones.
                                      A flag of effects, too: PERSIST has neither cut nor entries,
                                      and may be reported so; SEND waits for no more than that of
                                      its barrier. A host need not make use of it */
};

/* One thing that happened. Set `size`, zero the rest, fill in what the kind reads. */
struct vshard_raft_event {
    uint32_t size; /* bytes in this struct; required */
    uint32_t kind;
    uint64_t now_ns; /* required; any steady clock of this node; never goes back */
    uint64_t group;
    uint64_t tag; /* the host's name for a request; comes back in DONE */
    uint64_t node;
    uint64_t barrier;
    uint64_t index;
    uint64_t offset;
    uint64_t max_age_ns;
    uint64_t byte_count;
    uint32_t entry_count;
    uint32_t member_count;
    uint32_t mode;
    uint32_t flags;
    int32_t status;
    uint32_t reserved; /* 0 */
    const struct vshard_raft_entry *entries;
    const struct vshard_raft_member *members;
    const void *bytes;
    const void *reserved_pointer; /* NULL */
};

/* ==== 3. Effects ======================================================= */

enum { /* struct vshard_raft_effect.kind; which fields each sets stands beside it */
       VSHARD_RAFT_PERSIST = 1, /* barrier = its own number; term, vote, commit; cut: if not 0,
                                   entries from this index on are gone; then entries to append */
       VSHARD_RAFT_SEND = 2,    /* node; bytes then body, as one message. Only a message without
                                   body ever names a barrier, so what must wait is small */
       VSHARD_RAFT_APPLY = 3,   /* entries, in order; answer APPLIED. At most one at a time */
       VSHARD_RAFT_DONE = 4,    /* tag, status, index, term, node = leader if known. Of a proposal
                                   `index` is its last entry; with ESTALE too, which says that
                                   some of its entries had VSHARD_RAFT_EXPIRED when applied.
                                   age_ns of a read: the state at `index` is at most this old */
       VSHARD_RAFT_ROLE = 5,    /* role, term, node = leader or 0 */
       VSHARD_RAFT_MEMBERS = 6, /* the configuration in use changed; vshard_raft_members() */
       VSHARD_RAFT_FETCH = 7,   /* node, index, byte_count: entries from index on, at least one,
                                   no more than byte_count beyond the first; answer FETCHED */
       VSHARD_RAFT_META = 8,    /* index, term, bytes: keep them with the snapshot just begun */
       VSHARD_RAFT_SNAPSHOT_READ = 9, /* node, index, offset: a piece of snapshot `index`, as large
                                         as the host likes, to 32 MiB; answer CHUNK; ENOTFOUND: it
                                         is gone */
       VSHARD_RAFT_SNAPSHOT_WRITE = 10, /* index, offset, bytes; answer CHUNK_WRITTEN */
       VSHARD_RAFT_INSTALL = 11, /* index, term, bytes = META: make the snapshot written durable
                                    and current, and the log empty behind it; answer INSTALLED */
       VSHARD_RAFT_FATAL = 12, /* status: this group has stopped; a promise was broken elsewhere */
       VSHARD_RAFT_CERTAIN = 13, /* a group that was booted UNCERTAIN is not so any more */
       VSHARD_RAFT_EPOCH = 14    /* term, index: the group is in another recovery epoch, and refuses
                                    the one before, of which entries to here are committed; 0: to where
                                    is not known any more. See section 6 */
};

enum { /* roles */
       VSHARD_RAFT_FOLLOWER = 0,
       VSHARD_RAFT_PRECANDIDATE = 1,
       VSHARD_RAFT_CANDIDATE = 2,
       VSHARD_RAFT_LEADER = 3
};

/* One thing the host must do. `size` says how much of the struct the library that
 * runs has filled in. */
struct vshard_raft_effect {
    uint32_t size;
    uint32_t kind;
    uint64_t group;
    uint64_t barrier; /* PERSIST: its number. SEND: durable first; 0 for none. Else 0 */
    uint64_t tag;
    uint64_t node;
    uint64_t index;
    uint64_t term;
    uint64_t vote; /* PERSIST: the node voted for in `term`, or 0 */
    uint64_t commit;
    uint64_t cut;
    uint64_t offset;
    uint64_t age_ns;
    uint64_t byte_count;
    uint64_t body_count;
    uint32_t entry_count;
    uint32_t role;
    int32_t status;
    uint32_t flags; /* VSHARD_RAFT_VOTE_ONLY */
    const struct vshard_raft_entry *entries;
    const void *bytes;
    const void *body;
    const void *reserved_pointer;
};

/* ==== 4. The node ====================================================== */

struct vshard_raft;

/* Set `size`, zero the rest, and fill in what you care about: in every field,
 * zero means the default. */
struct vshard_raft_options {
    uint32_t size;                  /* bytes in this struct; required */
    uint32_t max_inflight;          /* appends under way to one replica, 1..16; default 16 */
    uint64_t node;                  /* this node's id; required */
    uint64_t incarnation;           /* of this node's disk: drawn anew when it is lost; required */
    uint64_t boot;                  /* of this process: larger at each start; required */
    uint64_t seed;                  /* for election timeouts; equal seeds draw equal ones */
    uint64_t heartbeat_ns;          /* default 30 ms */
    uint64_t election_ns;           /* silence before a follower campaigns, at least; drawn from
                                       [election_ns, 2 election_ns); the same on all nodes, or
                                       leases do not hold; default 150 ms. Who starts as the only
                                       member campaigns at once */
    uint64_t disk_stall_ns;         /* a leader whose storage is silent this long steps down,
                                       where there are other voters; default 4 election_ns. What is
                                       longer than election_ns from one event to the next counts as
                                       that: then the process was held up, and not its disk */
    uint64_t request_ns;            /* forwarded requests give up after; default 10 election_ns */
    uint64_t max_message;           /* bytes of entries in one append, to 32 MiB; default 256 KiB */
    uint64_t max_inflight_bytes;    /* to one replica; default 4 MiB */
    uint64_t max_uncommitted_bytes; /* a leader refuses proposals beyond it; default 64 MiB */
    uint64_t max_cache_bytes;       /* of applied entries kept in memory for a group's slow
                                       replicas; default 256 KiB */
    uint32_t clock_drift_ppm;       /* two clocks may disagree by; default 1000 */
    uint32_t max_sessions;          /* client sessions a group remembers, 1..65536, the same on all
                                       its replicas; default 1024 */
    const struct vshard_allocator *allocator; /* copied; default malloc */
    const struct vshard_logger *logger;       /* copied; default silence */
    uint64_t election_max_ns; /* where beats come irregularly, more silence is borne, up to this;
                                 at least election_ns; default 6 election_ns */
    uint64_t idle_ns;         /* a group that nobody wants anything of for this long goes to sleep
                                 and costs nothing; UINT64_MAX: never; default 10 election_ns */
    uint64_t max_entry;       /* bytes of one proposed entry: what the host's log takes, less what
                                 the host adds; the same on all nodes; to 16 MiB, the default */
};

/* Makes a node without groups.
 *
 *   raft      [out] NULL on failure
 *
 * Returns   0, EINVAL, EVERSION, ENOMEM
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_raft_create(const struct vshard_raft_options *options,
                                  struct vshard_raft **raft);

/* Releases a node and all its groups. NULL is fine.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_raft_destroy(struct vshard_raft *raft);

enum {                           /* struct vshard_raft_boot.flags */
       VSHARD_RAFT_UNCERTAIN = 1 /* the last record that was synced may be missing, and with it a
                                    vote or entries that others count on. The replica follows,
                                    but does not vote, and its answers do not count, until it has
                                    an entry that a leader made for it and enough others have.
                                    CERTAIN says so; until then storage must boot it so. A single
                                    voter stays uncertain for ever, and so does one of two
                                    unless the other leads */
};

/* What storage remembers of a group. All zero but `size` and `group`: a replica that
 * knows nothing and waits for a leader to find it. */
struct vshard_raft_boot {
    uint32_t size;         /* bytes in this struct; required */
    uint32_t member_count; /* if not 0, the group is born now, with these voters and learners;
                              every first member is given the same list. Nothing else may be set */
    uint64_t group;
    uint64_t term;           /* of the last PERSIST */
    uint64_t vote;           /* likewise */
    uint64_t commit;         /* likewise; may be old */
    uint64_t applied;        /* where the host's state machine is; at least snapshot_index */
    uint64_t snapshot_index; /* of the newest snapshot, or 0 */
    uint64_t snapshot_term;
    uint64_t meta_count;
    uint32_t flags;    /* VSHARD_RAFT_UNCERTAIN */
    uint32_t reserved; /* 0 */
    const struct vshard_raft_member *members;
    const void *meta; /* META of that snapshot */
};

/* Opens a group; give it its log by vshard_raft_load(), then start it.
 *
 * Returns   0, EINVAL, EVERSION, E2BIG (members), EEXIST, ECORRUPT (meta), ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_raft_open(struct vshard_raft *raft, const struct vshard_raft_boot *boot);

/* Hands an opened group entries from its storage, in order, in as many calls as
 * suits: from any index that is at most snapshot_index + 1.
 *
 *   entries   [count], borrowed
 *
 * Returns   0, ENOTFOUND (no such group), EINVAL (it has started), ECORRUPT (a gap, or terms
 *           that fall), ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_raft_load(struct vshard_raft *raft, uint64_t group,
                                const struct vshard_raft_entry *entries, size_t count);

/* Starts an opened group. Effects may follow; a PERSIST with `cut`, for one, where the host had
 * not emptied its log behind a snapshot before it ended.
 *
 * Returns   0, ENOTFOUND, EINVAL (it has started), EBUSY (effects are waiting), ECORRUPT
 *           (applied or commit is past the log), EIO (after PERSIST_FAILED), ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_raft_start(struct vshard_raft *raft, uint64_t group, uint64_t now_ns);

/* Ends a group here: the node takes no more part in it, and its messages are refused. What
 * was asked of it and has no answer is answered, by DONE effects, and by SEND effects where other
 * nodes had asked; nothing else follows, and barriers of its PERSIST effects need not be reached.
 * What storage has of it is the host's to forget; SEND effects that wait for barriers which are
 * not reached are dropped then. A member that is closed is missed like one that has died. One that
 * is opened again is opened with all that storage has of it, when all its PERSIST effects are
 * durable: before, or as newborn, it would forget what it has promised, and answers to what it
 * asked would still count.
 *
 * Returns   0, EINVAL, ENOTFOUND, EBUSY (effects are waiting), ENOMEM: nothing changed
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_raft_close(struct vshard_raft *raft, uint64_t group);

/* Takes one event. Requests that cannot be served are no failure of this call:
 * their tag is answered by DONE.
 *
 * Returns   0; ENOMEM: nothing changed; EBUSY: effects are waiting, take them first, or see
 *           SNAPSHOT; ENOTFOUND: no such group; EINVAL: the event breaks its contract (fields,
 *           flags or modes that its kind does not know, entries or indexes that cannot be); E2BIG:
 *           an entry is larger than max_entry; EIO: after PERSIST_FAILED, or the group has
 *           stopped. For MESSAGE also ECORRUPT, EVERSION, ENOTFOUND and EINVAL (not for this
 *           replica): it was counted and dropped, and nothing changed
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_raft_step(struct vshard_raft *raft, const struct vshard_raft_event *event);

/* Takes the next effect of the last step; NULL when there is none left.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API const struct vshard_raft_effect *vshard_raft_next(struct vshard_raft *raft);

/* When the node next wants a TIME event; UINT64_MAX if never.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API uint64_t vshard_raft_deadline_ns(const struct vshard_raft *raft);

/* ==== 5. Looking inside ================================================ */

/* Where a group stands. Set `size`; the library fills in as much as fits. */
struct vshard_raft_status {
    uint32_t size; /* bytes in this struct; required */
    uint32_t role;
    uint64_t term;
    uint64_t vote;
    uint64_t leader; /* 0: not known */
    uint64_t first;  /* the first index that has not been compacted */
    uint64_t last;   /* the last index of the log */
    uint64_t last_term;
    uint64_t durable; /* this much of the log is on this node's disk */
    uint64_t commit;
    uint64_t applied;
    uint64_t snapshot; /* index of the newest snapshot */
    uint64_t lease_ns; /* a leader's lease holds until this time of its clock; else 0 */
    uint64_t uncommitted_bytes;
    uint64_t pending; /* requests without an answer */
    uint32_t member_count;
    uint32_t stopped;      /* 1 after FATAL */
    uint32_t uncertain;    /* 1 until CERTAIN */
    uint32_t asleep;       /* 1: idle, without timers; any request or message wakes it */
    uint64_t epoch;        /* the recovery epoch of `term` */
    uint32_t superseded;   /* 1: has met `epoch` and has no entry of it: elects nobody */
    uint32_t term_durable; /* 1: `term`, its epoch and the vote are on this node's disk */
    uint64_t config;       /* index of the configuration in use: committed once `commit` is there */
    uint64_t held_bytes;   /* of entries in memory: all that are not applied, and some that are */
};

/* Says where a group stands.
 *
 * Returns   0, EINVAL, ENOTFOUND
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_raft_inspect(const struct vshard_raft *raft, uint64_t group,
                                   struct vshard_raft_status *status);

/* Returns the term of entry `index`, or 0 where the log does not reach it or has
 * forgotten it.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API uint64_t vshard_raft_term(const struct vshard_raft *raft, uint64_t group,
                                     uint64_t index);

/* Copies the configuration in use.
 *
 *   members   [out] [VSHARD_RAFT_MEMBERS_MAX], by node and incarnation
 *   count     [out]
 *
 * Returns   0, EINVAL, ENOTFOUND
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_raft_members(const struct vshard_raft *raft, uint64_t group,
                                   struct vshard_raft_member *members, uint32_t *count);

/* Returns up to which index the log is known to be on the disk of a member, by the leader of the
 * group, since it leads; elsewhere, and of who is no member, 0. One that is to vote has best
 * learnt first, until this has reached the `config` by which it came.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API uint64_t vshard_raft_match(const struct vshard_raft *raft, uint64_t group, uint64_t node,
                                      uint64_t incarnation);

/* A digest of everything the node knows: equal histories give equal digests on
 * every machine, compiler and optimisation.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API uint64_t vshard_raft_digest(const struct vshard_raft *raft);

/* What was refused since the node was made. Set `size`. */
struct vshard_raft_counters {
    uint32_t size; /* bytes in this struct; required */
    uint32_t reserved;
    uint64_t messages;    /* taken */
    uint64_t malformed;   /* ECORRUPT */
    uint64_t unversioned; /* EVERSION */
    uint64_t misdirected; /* EINVAL: for another node, incarnation or from nobody */
    uint64_t ungrouped;   /* ENOTFOUND */
    uint64_t elections;   /* campaigns begun */
    uint64_t fetches;     /* entries asked back from storage */
    uint64_t outdated;    /* of messages taken: from an earlier recovery epoch, and answered so */
};

/* Says what was refused.
 *
 * Returns   0, EINVAL
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_raft_count(const struct vshard_raft *raft,
                                 struct vshard_raft_counters *counters);

/* ==== 6. When a quorum is lost for good ================================
 *
 * PROMOTE makes one survivor the beginning of a new recovery epoch. Everything
 * acknowledged that is not in its log is lost, and nothing automatic may decide
 * that: the event is an operator's act, and demands evidence.
 *
 *   barrier   the epoch: above the present one, 1..32767, and never used twice for a
 *             group, by anybody: take it from where such numbers are drawn once
 *   index, offset
 *             `last` and `last_term` of this replica, as vshard_raft_inspect() says: the
 *             operator has compared the survivors and chosen the one with the highest
 *             (last_term, last)
 *   members   the configuration from now on, this replica a voter in it; and every
 *             present member that is not in it, with role FENCED: the operator has
 *             seen to it that this replica never takes part again as it is (powered
 *             off, cut off, rights revoked)
 *   bytes     a statement, 1..1024 bytes, of who was fenced and how: it is kept in the
 *             log, behind the members in the entry that begins the epoch
 *
 * DONE answers 0 when the new group has applied its first entry: `index`: what was
 * acknowledged there or beyond in the old epoch is lost; `age_ns`: how long ago a
 * leader of it was last heard, the time in which the loss lies; if this process has
 * heard none, how long ago it started, and the loss may lie before that. EUNKNOWN: look at
 * `epoch` and `superseded`, and draw another number if it has no effect. At once:
 * EINVAL: the evidence is not complete; ESTALE: the epoch is not above the present
 * one, or the log is not where it is said to be; EEXIST: those that remain are a
 * quorum, CONFIGURE does it; EBUSY: a leader, or a replica named as fenced, has been
 * heard within election_max_ns, or a snapshot is being installed; E2BIG.
 *
 * Whoever meets the new epoch refuses the old one from then on: EPOCH says so. A
 * replica of the old epoch that is a member of the new configuration follows if
 * all it had committed is in the new log. If not, FATAL with ESTALE ends it: wipe
 * it and bring it back under a new incarnation. One that is no member stays
 * `superseded`. Lift the fence from a replica when its status has the new epoch
 * and `term_durable`: before, it would have forgotten it after a crash, and the old
 * majority would be whole again. If the fence does not hold and the old majority never meets the
 * new epoch, both go on: no software can prevent that. */

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_LOG_H */
