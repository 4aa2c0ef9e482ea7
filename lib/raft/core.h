/* core.h - what a node and a group are, and what the files of this room lend each
 * other.
 *
 * All or nothing. A step first reserves whatever it could need (effects, bytes for
 * message heads, room in the log, in the queues and in the configuration history)
 * and may fail only there. From then on nothing allocates and nothing fails, so
 * pointers into the log and the output stay where they are until the step is over.
 *
 * A handler changes state and queues answers; vs_group_finish() then brings the
 * group to rest: it advances the commit index, sends what each replica lacks,
 * writes one PERSIST for all that became dirty, hands out committed entries,
 * releases reads and proposals, and sets the timer. */
#ifndef VS_RAFT_CORE_H
#define VS_RAFT_CORE_H

#include "raft/raft.h"

enum {
    VS_FLIGHT_MAX = 16,      /* appends under way to one replica */
    VS_BURST = 4,            /* appends to one replica in one step */
    VS_ENTRY_HEAD = 40,      /* bytes before the data of an entry, in memory and in messages */
    VS_MESSAGE_HEAD = 128,   /* bytes before the body of a message */
    VS_BEAT_BYTES = 56,      /* one group in a heartbeat frame */
    VS_ENTRY_MAX = 16 << 20, /* bytes of data */
    VS_MESSAGE_MAX = 64 << 20,
    VS_APPEND_MAX = 32 << 20, /* bytes of entries in one append, where there is more than one */
    VS_PIECE_MAX = 32 << 20,  /* bytes of a snapshot in one message, beside META */
    VS_SESSION_WINDOW = 64,
    VS_WORDS_MAX = 1024, /* bytes of an operator's statement */
    VS_EPOCH_SHIFT = 48, /* of a term: below it a count, above it the recovery epoch */
    VS_EPOCH_MAX = 0x7fff
};

#define VS_TERM_COUNT (((uint64_t)1 << VS_EPOCH_SHIFT) - 1)

static inline uint64_t vs_epoch(uint64_t term)
{
    return term >> VS_EPOCH_SHIFT;
}

#define VS_NEVER UINT64_MAX

/* ---- vectors ---- */

/* Makes room for `need` elements in all; moves the block if it must. */
int vs_grow_block(const struct vshard_allocator *a, void **block, uint32_t *cap, uint64_t need,
                  size_t each);

static inline int vs_grow(const struct vshard_allocator *a, void **block, uint32_t *cap,
                          uint64_t need, size_t each)
{
    return need <= *cap ? VSHARD_OK : vs_grow_block(a, block, cap, need, each);
}

void vs_shrink(const struct vshard_allocator *a, void **block, uint32_t *cap, uint32_t need,
               size_t each);

/* ---- the log in memory (log.c) ---- */

struct vs_run { /* consecutive entries of one term */
    uint64_t first;
    uint64_t term;
};

struct vs_log {
    const struct vshard_allocator *allocator;
    struct vshard_raft_entry *slot; /* [slot_cap]; those in use are head .. head + count */
    struct vs_run *run;             /* [run_cap], by first; covers base + 1 .. last */
    unsigned char *bytes;           /* [byte_cap]; encoded entries, head .. tail */
    uint64_t base;                  /* compacted through here */
    uint64_t base_term;
    uint64_t last;
    size_t byte_cap, byte_head, byte_tail;
    uint32_t slot_cap, slot_head, slot_count;
    uint32_t run_cap, run_count;
};

void vs_log_init(struct vs_log *log, const struct vshard_allocator *a);
void vs_log_free(struct vs_log *log);
int vs_log_reserve(struct vs_log *log, uint32_t entries, size_t bytes);
/* Appends within what was reserved; data may be NULL if count is 0. */
struct vshard_raft_entry *vs_log_push(struct vs_log *log, const struct vshard_raft_entry *e);
/* Likewise `count` entries that are encoded already. */
void vs_log_extend(struct vs_log *log, const unsigned char *encoded, size_t bytes, uint32_t count);
void vs_log_cut(struct vs_log *log, uint64_t from);
void vs_log_compact(struct vs_log *log, uint64_t index);
void vs_log_evict(struct vs_log *log, uint64_t through);
void vs_log_trim(struct vs_log *log);
void vs_log_reset(struct vs_log *log, uint64_t index, uint64_t term);
uint64_t vs_log_term(const struct vs_log *log, uint64_t index);
/* The last index at or before `index` whose term is at most `term`, as far as terms are
 * known: base, or `index` itself where that is lower, if there is none. */
uint64_t vs_log_back(const struct vs_log *log, uint64_t index, uint64_t term);
struct vshard_raft_entry *vs_log_at(const struct vs_log *log, uint64_t index); /* NULL: evicted */
/* Bytes of entries first..last, encoded, and where they start; both are cached. */
size_t vs_log_span(const struct vs_log *log, uint64_t first, uint64_t last, const void **start);

static inline uint64_t vs_log_cached(const struct vs_log *log) /* first index with a slot */
{
    return log->last - log->slot_count + 1;
}

static inline size_t vs_entry_bytes(uint64_t count)
{
    return VS_ENTRY_HEAD + ((size_t)count + 7) / 8 * 8;
}

void vs_entry_encode(unsigned char *to, const struct vshard_raft_entry *e);
/* Reads the entry at `p`; returns its bytes, or 0 if it does not fit in `left`. */
size_t vs_entry_decode(struct vshard_raft_entry *e, const unsigned char *p, size_t left);

/* ---- configurations (config.c) ---- */

struct vs_config {
    uint64_t index; /* of the entry that made it */
    uint32_t count;
    uint32_t reserved;
    struct vshard_raft_member member[VSHARD_RAFT_MEMBERS_MAX];
};

enum { VS_CONFIG_BYTES = 8 + 24 * VSHARD_RAFT_MEMBERS_MAX };

bool vs_config_joint(const struct vs_config *c);
int vs_config_find(const struct vs_config *c, uint64_t node, uint64_t incarnation); /* -1: no */
int vs_config_node(const struct vs_config *c, uint64_t node); /* the newest row of a node */
size_t vs_config_encode(const struct vs_config *c, unsigned char *to);
int vs_config_decode(struct vs_config *c, const void *from, size_t bytes); /* 0 or ECORRUPT */
/* What `to` must become: joint when more than one vote changes. Returns 0, EINVAL, E2BIG,
 * EEXIST when nothing would change. */
int vs_config_change(const struct vs_config *now, const struct vshard_raft_member *want,
                     uint32_t count, struct vs_config *to);
/* Makes `to` joint with `now`. Returns 0, EBUSY (now is joint), EINVAL (nobody votes), E2BIG. */
int vs_config_join(const struct vs_config *now, struct vs_config *to);
void vs_config_leave(const struct vs_config *joint, struct vs_config *to);
/* The highest value that a quorum (of both halves, when joint) has reached. */
uint64_t vs_config_reached(const struct vs_config *c, const uint64_t *value);
/* 1 won, -1 lost, 0 open; vote[i] is 1, -1 or 0. */
int vs_config_tally(const struct vs_config *c, const int *vote);

/* ---- messages (message.c) ---- */

enum {
    VS_PREVOTE = 1,
    VS_PREVOTE_REPLY = 2,
    VS_VOTE = 3,
    VS_VOTE_REPLY = 4,
    VS_APPEND = 5,
    VS_APPEND_REPLY = 6,
    VS_BEATS = 7,
    VS_BEAT_REPLIES = 8,
    VS_TIMEOUT_NOW = 9,
    VS_FORWARD = 10,
    VS_FORWARD_REPLY = 11,
    VS_READ = 12,
    VS_READ_REPLY = 13,
    VS_CHUNK = 14,
    VS_CHUNK_REPLY = 15,
    VS_SURE = 16, /* certain.c */
    VS_SURE_REPLY = 17,
    VS_KIND_MAX = 17
};

enum {
    VS_FLAG_REJECT = 1,
    VS_FLAG_TRANSFER = 2,
    VS_FLAG_LAST = 4,
    VS_FLAG_QUIET = 8,
    VS_FLAG_SLEEP = 16,    /* a beat: the group may sleep; its answer: it does */
    VS_FLAG_STALLED = 32,  /* a frame of beats: the sender's disk hangs */
    VS_FLAG_UNCERTAIN = 64 /* an answer that does not count, see certain.c */
};

struct vs_message {
    uint32_t kind, flags, count;
    uint64_t group, from, to, from_incarnation, to_incarnation;
    uint64_t term, index, log_term, commit;
    uint64_t round; /* the sender's count of rounds, echoed */
    uint64_t stamp; /* the sender's clock, echoed */
    uint64_t hint, hint_term;
    uint64_t boot;
    const unsigned char *body;
    size_t body_bytes;
    uint32_t special; /* entries that are not just data; found on decoding, */
    uint64_t largest; /* and bytes of data of the largest */
};

void vs_message_encode(unsigned char *to, const struct vs_message *m);
/* Returns 0, ECORRUPT, EVERSION. Checks the frame, and for entries each record. */
int vs_message_decode(struct vs_message *m, const void *bytes, size_t count);

struct vs_beat { /* one group in VS_BEATS and VS_BEAT_REPLIES */
    uint64_t group, term;
    uint64_t commit; /* in an answer: this much of the leader's log is durable */
    uint64_t round, received, to_incarnation;
    uint32_t flags, reserved;
};

void vs_beat_encode(unsigned char *to, const struct vs_beat *b);
void vs_beat_decode(struct vs_beat *b, const unsigned char *from);

/* ---- groups ---- */

enum { VS_PROBE = 0, VS_REPLICATE = 1, VS_SNAPSHOT = 2 };

/* What a leader knows of one member; row i is the member in row i of the
 * configuration in use. */
struct vs_peer {
    uint64_t node, incarnation;
    uint64_t match; /* the member has this much of our log, durably */
    uint64_t next;  /* the next entry to send */
    uint64_t sent_commit;
    uint64_t sent_ns;      /* when the last append went */
    uint64_t ack_ns;       /* it answered something we sent then */
    uint64_t ack_round;    /* likewise, by count */
    uint64_t forward_high; /* forwarded requests taken: the highest, and the 64 below it */
    uint64_t forward_seen;
    uint64_t forward_boot; /* of the process that sent them */
    uint64_t since;        /* leader: the entry that made it a member, if in this term; else 0 */
    uint64_t since_ns;     /* likewise, when: answers to what was sent before say nothing of it */
    uint64_t boot;         /* of the process that answered last */
    uint64_t sure_boot, sure_term, sure_index; /* the entry made for it in this term, certain.c */
    uint64_t chunk_index;                      /* of the snapshot on its way */
    uint64_t chunk_term;
    uint64_t chunk_offset;
    uint64_t chunk_ns;              /* when the last piece went or was asked of the host */
    uint32_t flight[VS_FLIGHT_MAX]; /* the last entry of each append, its low half */
    uint32_t flight_head, flight_count;
    uint32_t link; /* of its node, in the node's list */
    int32_t vote;  /* 1 granted, -1 refused */
    uint8_t state;
    uint8_t paused;    /* PROBE: one append is out */
    uint8_t fetching;  /* entries have been asked of storage */
    uint8_t reading;   /* a piece of the snapshot has been asked of the host */
    uint8_t asleep;    /* it has said that the group sleeps there */
    uint8_t uncertain; /* what it answers does not count */
};

/* What this node knows of another, whatever groups they share (link.c). */
struct vs_link {
    uint64_t node, incarnation, boot; /* of the process heard last; boot 0: none yet */
    uint64_t heard_ns;                /* when its last frame of beats came */
    uint64_t seen_ns;                 /* when its last message of any kind came */
    uint64_t answered_ns;             /* when our last answer went there */
    uint64_t mean_ns, spread_ns; /* of the time between frames: what to expect, and how sharply */
    uint32_t led;                /* groups asleep that we lead and it is a member of */
    uint32_t followed;           /* groups asleep here that it leads */
    uint32_t up;                 /* heard within its patience */
    uint32_t reserved;
};

enum { /* struct vs_group.uncertain, see certain.c */
       VS_CERTAIN = 0,
       VS_ASKING = 1,
       VS_CATCHING_UP = 2
};

enum {                          /* struct vs_request.kind */
       VS_REQUEST_PROPOSAL = 1, /* ours or a forwarded one, in this leader's log */
       VS_REQUEST_FORWARD = 2,  /* sent to the leader, no answer yet */
       VS_REQUEST_READ = 3,     /* at the leader */
       VS_REQUEST_CONFIG = 5,   /* a configuration on its way to being applied */
       VS_REQUEST_ASK = 4       /* a read sent to the leader, or answered and not yet applied */
};

struct vs_request {
    uint64_t tag;
    uint64_t index;  /* proposal: of its last entry; read: what must be applied; 0: not known */
    uint64_t term;   /* proposal: of its entries */
    uint64_t round;  /* read: which must be confirmed */
    uint64_t origin; /* a node that asked, or 0: our own host */
    uint64_t origin_incarnation;
    uint64_t origin_boot; /* its process, which alone knows the number */
    uint64_t id;          /* the origin's number */
    uint64_t stamp;       /* when it was asked, by the clock of this node */
    uint64_t deadline;    /* VS_NEVER: none */
    int32_t status;
    uint32_t kind;
};

struct vs_session {
    uint64_t id;
    uint64_t high; /* the highest sequence applied */
    uint64_t seen; /* bit i: high - i was applied */
    uint64_t used; /* index that last used it */
};

struct vs_group {
    uint64_t id;
    uint64_t term, vote, leader;
    uint64_t leader_incarnation;
    uint64_t vote_incarnation; /* of another node voted for; 0: an earlier process voted */
    uint64_t commit, handed, applied, durable;
    uint64_t verified;  /* follower: our log equals the leader's to here */
    uint64_t hard_seq;  /* barrier of the last term or vote */
    uint64_t hard_done; /* likewise, that is known to be durable though not all before it is */
    uint64_t log_seq;   /* barrier of the last append */
    uint64_t cut;       /* this step: entries from here were removed, or 0 */
    uint64_t fresh;     /* this step: entries from here were appended, or 0 */
    uint64_t deadline, election_at, promise_until, lead_since;
    uint64_t check_at;  /* leader: when to see whether anybody follows */
    uint64_t active_ns; /* when somebody last wanted something of it */
    uint64_t expires;   /* no request's deadline is before this */
    uint64_t told_term, told_leader;
    uint64_t random;
    uint64_t round;
    uint64_t prefer_at; /* when a leader may next look for a better one */
    uint64_t transfer_node, transfer_tag, transfer_until, transfer_fence;
    uint64_t proof_index, proof_ns; /* follower: the state at proof_index was current then */
    uint64_t next_id; /* of what is asked of other nodes; never used again by this process */
    uint64_t snapshot_index, snapshot_term, taken_index, taken_term;
    uint64_t install_index, install_term, install_incarnation, install_offset;
    uint64_t install_from;  /* 0: it was of an epoch before */
    uint64_t install_stamp; /* of the last piece, if it came in this term, by the sender's clock */
    uint64_t write_end;     /* where the piece ends that the host is writing */
    struct vs_log log;
    struct vs_config *config; /* history since the snapshot; the last is in use */
    struct vs_peer *peer;
    struct vs_request *proposal; /* fifo by index, from proposal_head */
    struct vs_request *request;  /* all others, in order of arrival */
    struct vs_session *session;  /* by id */
    unsigned char *meta;         /* of snapshot_index */
    unsigned char *taken;        /* of taken_index */
    unsigned char *install;      /* META of the snapshot being received */
    size_t meta_bytes, taken_bytes, install_bytes;
    uint32_t config_count, config_cap, peer_cap;
    uint32_t proposal_head, proposal_count, proposal_cap;
    uint32_t request_count, request_cap;
    uint32_t waiting_count; /* of `request`, the first, see read.c */
    uint32_t session_count, session_cap;
    uint32_t heap_at; /* place in the node's timer heap */
    uint32_t led_at;  /* place in the node's list of led groups */
    uint32_t role, told_role;
    uint32_t told_members;
    uint8_t started, stopped, dirty, want_beat;
    uint8_t writing, write_last, installing, transfer_sent;
    uint8_t transfer_told, void_tail; /* a tag waits; loading: the rest of the log diverges */
    uint8_t uncertain;                /* VS_CERTAIN .. */
    uint8_t asleep, excused;          /* see link.c; see vs_election_tick() */
    uint8_t waiting_open;             /* one of those that wait is a read without a round; */
    uint8_t waiting_config;           /* of all requests one is a configuration */
    uint64_t sure_index, sure_term, sure_at;
    uint64_t waiting_applied, waiting_round; /* when those that wait were looked at */
    uint64_t mark;                           /* the step that last counted this group */
};

struct vs_pending { /* a PERSIST whose barrier is not reached */
    uint64_t seq;
    uint64_t last;     /* the group's log is durable to here with it; 0: says nothing */
    uint64_t since_ns; /* by ran_ns */
    struct vs_group *group;
    uint32_t vote_only, reserved; /* it holds no entries, and takes none away */
};

struct vshard_raft {
    struct vshard_raft_options o;
    struct vshard_allocator allocator_copy;
    struct vshard_logger logger_copy;
    const struct vshard_allocator *allocator;
    const struct vshard_logger *logger;
    uint64_t now;
    uint64_t ran_ns; /* how much of the time until now this process was seen to run */
    uint64_t seq, durable_seq;
    uint64_t step_id;
    uint64_t id_floor; /* groups that were closed have used ids up to this */
    uint64_t beat_at;
    uint64_t since_ns;          /* when its first group started */
    struct vs_link *link;       /* nodes that share a group with this one */
    struct vs_group **table;    /* open addressing by id; [table_cap], a power of two */
    struct vs_group **heap;     /* by deadline, then id */
    struct vs_group **led;      /* groups this node leads */
    struct vs_pending *pending; /* fifo */
    struct vshard_raft_effect *effect;
    unsigned char *head; /* message heads and bodies of this step */
    size_t head_cap, head_used;
    size_t effect_most; /* reserved for, since the last beat */
    uint32_t table_cap, group_count, heap_cap, led_cap, led_count;
    uint32_t pending_cap, pending_head, pending_count;
    uint32_t link_cap, link_count;
    uint32_t asleep_count; /* groups asleep here, led or followed */
    uint32_t effect_cap, effect_count, effect_taken;
    uint32_t persist_at; /* the slot kept for the group's PERSIST */
    uint32_t poisoned;
    struct vshard_raft_counters counters;
};

static inline struct vs_config *vs_config_now(const struct vs_group *g)
{
#if TRAP(21) || VS_CONFIG_APPLIED
    for (uint32_t i = g->config_count; i-- > 1;) {
        if (g->config[i].index <= g->applied)
            return &g->config[i];
    }
    return &g->config[0];
#endif
    return &g->config[g->config_count - 1];
}

/* The term and vote of a group are durable. */
static inline bool vs_promised(const struct vshard_raft *r, const struct vs_group *g)
{
    return g->hard_seq <= r->durable_seq || g->hard_seq == g->hard_done;
}

static inline uint64_t vs_later(uint64_t at, uint64_t by)
{
    return at > VS_NEVER - by ? VS_NEVER : at + by;
}

struct vs_room { /* that a step over many groups needs */
    size_t effects, bytes, groups;
};

/* beat.c */
void vs_beats(struct vshard_raft *r, struct vs_group *only);
size_t vs_beats_bytes(const struct vshard_raft *r);
int vs_on_beats(struct vshard_raft *r, const struct vs_message *m);

/* raft.c and rest.c */
int vs_room_add(struct vshard_raft *r, struct vs_group *g, struct vs_room *room);
int vs_room_make(struct vshard_raft *r, const struct vs_room *room);
struct vs_group *vs_group_find(const struct vshard_raft *r, uint64_t id);
int vs_reserve(struct vshard_raft *r, size_t effects, size_t bytes);
void vs_relax(struct vshard_raft *r);
/* Makes room in the group for `entries` more of `bytes` encoded bytes. */
int vs_group_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t entries, size_t bytes);
size_t vs_group_effects(const struct vs_group *g);
size_t vs_group_heads(const struct vs_group *g);
int vs_pending_reserve(struct vshard_raft *r, uint32_t more);
int vs_reserve_one(struct vshard_raft *r, struct vs_group *g, uint32_t entries, size_t bytes);
void vs_evict(struct vshard_raft *r, struct vs_group *g);
struct vshard_raft_effect *vs_effect(struct vshard_raft *r, uint32_t kind, uint64_t group);
unsigned char *vs_head(struct vshard_raft *r, size_t bytes);
struct vshard_raft_effect *vs_send(struct vshard_raft *r, const struct vs_group *g,
                                   const struct vs_message *m, uint64_t barrier);
void vs_done(struct vshard_raft *r, const struct vs_group *g, const struct vs_request *q,
             int status);
void vs_dirty(struct vshard_raft *r, struct vs_group *g);
bool vs_stalled(const struct vshard_raft *r);
void vs_lead(struct vshard_raft *r, struct vs_group *g, bool leads);
void vs_effects_begin(struct vshard_raft *r);
void vs_group_begin(struct vshard_raft *r, struct vs_group *g);
void vs_group_finish(struct vshard_raft *r, struct vs_group *g);
void vs_heap_place(struct vshard_raft *r, struct vs_group *g);
void vs_timer(struct vshard_raft *r, struct vs_group *g);
uint64_t vs_random(uint64_t *state);

/* group.c */
void vs_group_free(struct vshard_raft *r, struct vs_group *g);
void vs_config_push(struct vshard_raft *r, struct vs_group *g, const struct vs_config *c);
void vs_peers_follow(struct vshard_raft *r, struct vs_group *g);
int vs_config_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t more);
int vs_peers_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t members);
void vs_group_trim(struct vshard_raft *r, struct vs_group *g);
void vs_group_stop(struct vshard_raft *r, struct vs_group *g, int status);

/* election.c */
void vs_become_follower(struct vshard_raft *r, struct vs_group *g, uint64_t term, uint64_t leader);
void vs_lead_with(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_entry *first);
void vs_campaign(struct vshard_raft *r, struct vs_group *g, uint32_t flags);
void vs_stand(struct vshard_raft *r, struct vs_group *g);
void vs_election_tick(struct vshard_raft *r, struct vs_group *g);
void vs_election_begin(struct vshard_raft *r, struct vs_group *g);
void vs_election_reset(struct vshard_raft *r, struct vs_group *g);
void vs_heard_leader(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_vote(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_vote_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_timeout_now(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_self_vote(struct vshard_raft *r, struct vs_group *g);
uint64_t vs_quorum_ns(const struct vshard_raft *r, const struct vs_group *g);
uint64_t vs_lease_until(const struct vshard_raft *r, const struct vs_group *g);
bool vs_is_self(const struct vshard_raft *r, const struct vs_peer *p);
bool vs_can_campaign(const struct vshard_raft *r, const struct vs_group *g);
bool vs_seeks_leader(const struct vshard_raft *r, const struct vs_group *g);

/* replicate.c */
void vs_leader_append(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_entry *e);
void vs_flush(struct vshard_raft *r, struct vs_group *g);
void vs_advance_commit(struct vshard_raft *r, struct vs_group *g);
void vs_on_append(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_append_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_beat(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                const struct vs_beat *b, struct vs_beat *reply);
void vs_on_beat_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                      const struct vs_beat *b);
bool vs_follows(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_fetched(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
/* False for an answer of an earlier process of that node. A new process may have lost what
 * the old one acknowledged (certain.c). */
bool vs_same_process(struct vs_peer *p, uint64_t boot);
struct vs_peer *vs_peer_of(struct vs_group *g, uint64_t node, uint64_t incarnation);
bool vs_leads_firmly(const struct vs_group *g);
uint64_t vs_peer_commit(const struct vs_group *g, const struct vs_peer *p);

/* link.c */
int vs_link_reserve(struct vshard_raft *r, uint32_t more);
uint32_t vs_link_add(struct vshard_raft *r, uint64_t node);
struct vs_link *vs_link_find(const struct vshard_raft *r, uint64_t node);
bool vs_link_heard(struct vshard_raft *r, const struct vs_message *m);
bool vs_links_silent(const struct vshard_raft *r);
void vs_links_watch(struct vshard_raft *r);
uint64_t vs_link_patience(const struct vshard_raft *r, const struct vs_link *l);
uint64_t vs_group_patience(const struct vshard_raft *r, const struct vs_group *g);
bool vs_drowsy(const struct vshard_raft *r, const struct vs_group *g);
void vs_sleep(struct vshard_raft *r, struct vs_group *g);
void vs_sleep_ready(struct vshard_raft *r);
bool vs_sleep_with(struct vshard_raft *r, struct vs_group *g, const struct vs_beat *b);
void vs_wake(struct vshard_raft *r, struct vs_group *g);
void vs_touch(struct vshard_raft *r, struct vs_group *g);
void vs_tick_from_now(struct vshard_raft *r);

/* epoch.c */
void vs_promote(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
bool vs_superseded(const struct vs_group *g);
uint64_t vs_epoch_before(const struct vs_group *g);
bool vs_unproven(const struct vs_group *g, uint64_t term);

/* certain.c */
void vs_certain_begin(struct vshard_raft *r, struct vs_group *g);
void vs_certain_tick(struct vshard_raft *r, struct vs_group *g);
void vs_certain_try(struct vshard_raft *r, struct vs_group *g);
void vs_certain_at(struct vs_group *g, uint64_t index);
void vs_on_sure(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_sure_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);

/* propose.c */
int vs_propose(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
int vs_on_forward(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_forward_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_configure(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
void vs_transfer(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
void vs_transfer_end(struct vshard_raft *r, struct vs_group *g, int status);
void vs_leave_joint(struct vshard_raft *r, struct vs_group *g);
void vs_hand_out(struct vshard_raft *r, struct vs_group *g);
void vs_answer(struct vshard_raft *r, struct vs_group *g);
void vs_requests_expire(struct vshard_raft *r, struct vs_group *g);
void vs_requests_drop(struct vshard_raft *r, struct vs_group *g);
void vs_proposals_overtaken(struct vshard_raft *r, struct vs_group *g);
void vs_name_successor(struct vshard_raft *r, struct vs_group *g);
void vs_hand_over(struct vshard_raft *r, struct vs_group *g);
struct vs_request *vs_request_push(struct vs_group *g, uint32_t kind, uint64_t tag);
void vs_request_remove(struct vs_group *g, uint32_t at);
struct vs_request *vs_proposal_push(struct vs_group *g, uint64_t tag);
size_t vs_uncommitted(const struct vs_group *g);

/* session.c */
uint32_t vs_session_apply(struct vshard_raft *r, struct vs_group *g,
                          const struct vshard_raft_entry *e);
size_t vs_meta_bytes(const struct vs_group *g, uint64_t index);
void vs_meta_encode(const struct vs_group *g, uint64_t index, unsigned char *to);
/* Checks and reads; the group's history and sessions become the snapshot's. */
int vs_meta_check(const void *meta, size_t bytes, struct vs_config *c, uint32_t *sessions);
void vs_meta_adopt(struct vshard_raft *r, struct vs_group *g, const unsigned char *meta,
                   uint64_t index);
int vs_sessions_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t count);

/* read.c */
bool vs_read_is_proven(const struct vshard_raft *r, const struct vs_group *g,
                       const struct vshard_raft_event *e);
void vs_read(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
void vs_on_read(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_read_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_reads_release(struct vshard_raft *r, struct vs_group *g);

/* snapshot.c */
int vs_snapshot(struct vshard_raft *r, struct vs_group *g);
int vs_compact(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
void vs_chunk_send(struct vshard_raft *r, struct vs_group *g, struct vs_peer *p);
void vs_on_host_chunk(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
int vs_on_chunk(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
void vs_on_chunk_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m);
int vs_on_chunk_written(struct vshard_raft *r, struct vs_group *g,
                        const struct vshard_raft_event *e);
int vs_on_installed(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e);
void vs_install_try(struct vshard_raft *r, struct vs_group *g);

#endif
