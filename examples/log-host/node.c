/* node.c - one replica: its log on disk, its Raft core, its state machine.
 *
 * Everything goes round in flush(), once for each turn of the loop: requests that came
 * in become one proposal; the effects of the core are done in their order; what they
 * ask to be persisted goes into the write-ahead log, and the log is polled; when a
 * barrier is durable, what waited for it is sent and the core is told. So the slower the
 * disk, the larger the batches, and nothing waits for a timer.
 *
 * Two sequences of barriers meet here. The core numbers its PERSIST effects; the log
 * names the batch that a record went into. `pending` pairs them up, oldest first, and
 * the core is told of a barrier when the log's for it, and all those before it, are
 * reached.
 *
 * A full disk. An effect cannot be refused, so a PERSIST that the log does not take is
 * kept, in order, until it does. Clients' writes are refused meanwhile; reads go on. A
 * snapshot is taken, whose mark frees what the log holds of the entries before it. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* Records of the node itself stand under a group id of their own. */
enum { NODE_ITSELF = 0 };
enum { SEGMENT_DEFAULT = 32 << 20 }; /* of the log */
enum { RESULTS = 1 << 14, BATCH_MAX = 1024, BATCH_BYTES = 1 << 20, CHUNK = 256 << 10 };
enum { TRAILING = 10000, BUSY_BYTES = 32 << 20 };
enum { RETRY_MS = 100, WITNESS_MS = 1000, STOP_MS = 1000, FULL_MS = 1000 };

static const uint64_t millisecond = 1000000;

/* What the log keeps of an entry besides its payload. */
struct entry_head {
    uint64_t session, sequence;
    uint32_t kind, reserved;
};

/* The note about the node itself: what must not change. The number of the start is the
 * log's, which counts them. */
struct identity {
    uint64_t node, cluster, incarnation;
    uint64_t born; /* 1: a first member; 0: it joined */
};

/* The payload of a MARK: the snapshot that stands for the entries. */
struct mark {
    uint64_t index, term;
};

/* Requests that went to the core under one tag. */
struct batch {
    struct bytes bytes;
    uint32_t kind, count, cap;
    struct request *request;
};

struct pending {
    uint64_t raft, wal;
    bool vote; /* no more than a vote, which may be told ahead of the others; once */
};

/* A message that waits for a barrier. */
struct held {
    struct vshard_raft_effect effect;
    struct held *next;
};

/* A PERSIST that the log had no room for. */
struct stuck {
    uint64_t barrier;
    bool vote;
    struct vshard_wal_record *record;
    size_t count;
    struct stuck *next;
};

/* An event that an effect asked for; the core takes it when its effects are taken. */
struct todo {
    uint32_t kind;
    uint64_t node, index, offset, byte_count;
};

struct result {
    uint64_t index;
    uint32_t flags, kind;
    struct bytes answer;
};

struct node {
    uv_loop_t *loop;
    const struct options *o;
    struct disk *disk;
    struct vshard_wal *wal;
    struct vshard_raft *raft;
    struct store *store;
    struct peers *peers;
    struct clients *clients;
    struct identity self;
    int lock;
    uv_check_t check;
    uv_timer_t timer, housekeeper, stopper;

    uint64_t raft_durable;
    uint64_t term, vote, commit; /* as last written to the log */
    uint64_t leader, applied;
    uint32_t role, successor;
    int wal_status;
    bool stepping, stopping;
    uint64_t idle_since, witnessed, full_tried;

    struct pending *pending; /* a ring */
    size_t pending_first, pending_count, pending_cap;
    struct held *held, **held_end;
    struct stuck *stuck, **stuck_end;
    struct todo *todo;
    size_t todo_first, todo_count, todo_cap;
    struct vshard_wal_record *record; /* room to build in */
    struct entry_head *head;
    size_t record_cap;

    struct batch *writes, *reads; /* that are being gathered */
    struct result *result;        /* [RESULTS], by index */

    struct snapshot *taking; /* being written, or its mark is */
    struct snapshot *newest; /* its bytes, once somebody wanted them; or NULL */
    struct snapshot *incoming;
    uint64_t snapshot_index, snapshot_term, compact_index;
    uint64_t mark_barrier; /* of the log: durable then; 0 for none */
    bool installing, mark_wanted;
    bool settle_wanted; /* certain of its log, which has not been told: the disk is full */
};

static void step(struct node *n, struct vshard_raft_event event);

static struct vshard_raft_event event_of(uint32_t kind)
{
    return (struct vshard_raft_event){ .size = sizeof(struct vshard_raft_event),
                                       .kind = kind,
                                       .group = GROUP };
}

/* ---- persist ---- */

static void pending_push(struct node *n, uint64_t raft, uint64_t wal, bool vote)
{
    if (n->pending_count == n->pending_cap) {
        size_t cap = n->pending_cap != 0 ? 2 * n->pending_cap : 64;
        struct pending *ring = take(NULL, cap * sizeof *ring);

        for (size_t i = 0; i < n->pending_count; i++)
            ring[i] = n->pending[(n->pending_first + i) % n->pending_cap];
        free(n->pending);
        n->pending = ring;
        n->pending_cap = cap;
        n->pending_first = 0;
    }
    n->pending[(n->pending_first + n->pending_count++) % n->pending_cap] =
        (struct pending){ raft, wal, vote };
}

static size_t records_of(struct node *n, const struct vshard_raft_effect *e)
{
    size_t count = 0, cap = (size_t)e->entry_count + 3;

    if (cap > n->record_cap) {
        n->record = take(n->record, cap * sizeof *n->record);
        n->head = take(n->head, cap * sizeof *n->head);
        n->record_cap = cap;
    }
    if (e->term != n->term || e->vote != n->vote)
        n->record[count++] = (struct vshard_wal_record){
            .group = GROUP, .kind = VSHARD_WAL_VOTE, .term = e->term, .index = e->vote
        };
    if (e->cut != 0 && (e->entry_count == 0 || e->entries[0].index != e->cut))
        n->record[count++] =
            (struct vshard_wal_record){ .group = GROUP, .kind = VSHARD_WAL_CUT, .index = e->cut };
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];

        n->head[i] = (struct entry_head){ x->session, x->sequence, x->kind, 0 };
        n->record[count++] = (struct vshard_wal_record){ .group = GROUP,
                                                         .kind = VSHARD_WAL_ENTRY,
                                                         .index = x->index,
                                                         .term = x->term,
                                                         .head = &n->head[i],
                                                         .head_bytes = sizeof n->head[i],
                                                         .payload = x->data,
                                                         .payload_bytes = (uint32_t)x->count };
    }
    /* A hint, for which a vote must not wait. */
    if (e->commit > n->commit && !(e->flags & VSHARD_RAFT_VOTE_ONLY))
        n->record[count++] = (struct vshard_wal_record){ .group = GROUP,
                                                         .kind = VSHARD_WAL_COMMIT,
                                                         .index = e->commit };
    n->term = e->term;
    n->vote = e->vote;
    if (!(e->flags & VSHARD_RAFT_VOTE_ONLY))
        n->commit = e->commit > n->commit ? e->commit : n->commit;
    return count;
}

/* A status of the log after which the same records may be given again. */
static bool later(int status)
{
    return status == VSHARD_ENOSPC || status == VSHARD_EBUSY || status == VSHARD_ENOMEM;
}

static void keep(struct node *n, const struct vshard_raft_effect *e, size_t count)
{
    struct stuck *s = take(NULL, sizeof *s);

    *s = (struct stuck){ .barrier = e->barrier,
                         .vote = (e->flags & VSHARD_RAFT_VOTE_ONLY) != 0,
                         .count = count };
    s->record = take(NULL, (count + 1) * sizeof *s->record);
    for (size_t i = 0; i < count; i++) {
        struct vshard_wal_record r = n->record[i];
        char *copy = take(NULL, (size_t)r.head_bytes + r.payload_bytes + 1);

        if (r.head_bytes > 0)
            memcpy(copy, r.head, r.head_bytes);
        if (r.payload_bytes > 0)
            memcpy(copy + r.head_bytes, r.payload, r.payload_bytes);
        r.payload = copy;
        r.payload_bytes += r.head_bytes;
        r.head = NULL;
        r.head_bytes = 0;
        s->record[i] = r;
    }
    *n->stuck_end = s;
    n->stuck_end = &s->next;
}

static void persist(struct node *n, const struct vshard_raft_effect *e)
{
    size_t count = records_of(n, e);
    uint64_t barrier = 0;
    int rc = VSHARD_EBUSY;

    if (n->stuck == NULL)
        rc = vshard_wal_append(n->wal, n->record, count, &barrier);
    if (rc == VSHARD_OK)
        pending_push(n, e->barrier, barrier, (e->flags & VSHARD_RAFT_VOTE_ONLY) != 0);
    else if (later(rc))
        keep(n, e, count);
    else
        die("the log takes nothing more: %s", vshard_strerror(rc));
}

/* Gives the log again what it had no room for. */
static void unstick(struct node *n)
{
    while (n->stuck != NULL) {
        struct stuck *s = n->stuck;
        uint64_t barrier = 0;
        int rc = vshard_wal_append(n->wal, s->record, s->count, &barrier);

        if (later(rc))
            return;
        if (rc != VSHARD_OK)
            die("the log takes nothing more: %s", vshard_strerror(rc));
        pending_push(n, s->barrier, barrier, s->vote);
        n->stuck = s->next;
        if (n->stuck == NULL)
            n->stuck_end = &n->stuck;
        for (size_t i = 0; i < s->count; i++)
            free((void *)(uintptr_t)s->record[i].payload);
        free(s->record);
        free(s);
    }
}

/* ---- send ---- */

static void send_message(struct node *n, const struct vshard_raft_effect *e)
{
    struct held *h;

    if (e->barrier <= n->raft_durable) {
        peers_send(n->peers, e->node, e);
        return;
    }
    /* What an effect points to dies with the next step; what waits has no body. */
    h = take(NULL, sizeof *h + (size_t)e->byte_count);
    h->effect = *e;
    h->effect.bytes = memcpy(h + 1, e->bytes, (size_t)e->byte_count);
    h->next = NULL;
    *n->held_end = h;
    n->held_end = &h->next;
}

/* Sends what waited for what is durable now, or for that vote. */
static void release(struct node *n, uint64_t vote)
{
    struct held **link = &n->held;

    while (*link != NULL) {
        struct held *h = *link;

        if (h->effect.barrier > n->raft_durable &&
            !(h->effect.barrier == vote && (h->effect.flags & VSHARD_RAFT_VOTE_ONLY))) {
            link = &h->next;
            continue;
        }
        peers_send(n->peers, h->effect.node, &h->effect);
        *link = h->next;
        free(h);
    }
    n->held_end = link;
}

/* ---- apply and answer ---- */

static void todo_push(struct node *n, struct todo t)
{
    if (n->todo_first + n->todo_count == n->todo_cap) {
        n->todo_cap = 2 * n->todo_cap + 16;
        n->todo = take(n->todo, n->todo_cap * sizeof *n->todo);
    }
    n->todo[n->todo_first + n->todo_count++] = t;
}

static void apply(struct node *n, const struct vshard_raft_effect *e)
{
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        struct result *r = &n->result[x->index % RESULTS];

        r->index = x->index;
        r->flags = x->flags;
        r->kind = x->kind;
        r->answer.count = 0;
        /* A repetition counts as an entry, and changes nothing. */
        if (x->kind == VSHARD_RAFT_DATA && x->flags == 0)
            store_apply(n->store, x->data, (size_t)x->count, &r->answer);
    }
    n->applied = e->index;
    todo_push(n, (struct todo){ .kind = VSHARD_RAFT_APPLIED, .index = e->index });
}

static void batch_free(struct batch *b)
{
    bytes_free(&b->bytes);
    free(b->request);
    free(b);
}

static const char *word_for(int status)
{
    switch (status) {
    case VSHARD_ENOTLEADER: return "notleader";
    case VSHARD_EBUSY: return "busy";
    case VSHARD_EUNKNOWN: return "unknown";
    case VSHARD_ENOSPC: return "full";
    case VSHARD_ESTALE: return "stale";
    case VSHARD_ETIMEDOUT: return "timeout";
    case VSHARD_EINVAL: return "invalid";
    case VSHARD_EEXIST: return "exists";
    }
    return "failed";
}

static void refuse(struct node *n, const struct request *r, int status)
{
    char text[64];
    int count = status == VSHARD_ENOTLEADER
                    ? snprintf(text, sizeof text, "error notleader %" PRIu64, n->leader)
                    : snprintf(text, sizeof text, "error %s", word_for(status));

    client_answer(r->client, r->tag, text, (size_t)count);
}

static void answer_write(struct node *n, const struct request *r, uint64_t index, uint64_t term,
                         struct bytes *text)
{
    const struct result *x = &n->result[index % RESULTS];

    text->count = 0;
    if (x->index != index)
        bytes_print(text, "error unknown"); /* so long ago that its result is gone */
    else if (x->flags & VSHARD_RAFT_EXPIRED)
        bytes_print(text, "error expired");
    else if (x->flags & VSHARD_RAFT_DUPLICATE)
        bytes_print(text, "done %" PRIu64 " %" PRIu64, index, term);
    else
        bytes_print(text, "ok %" PRIu64 " %" PRIu64 "%s%.*s", index, term,
                    x->answer.count > 0 ? " " : "", (int)x->answer.count, x->answer.at);
    client_answer(r->client, r->tag, text->at, text->count);
}

static void answer_read(struct node *n, const struct batch *b, const struct request *r,
                        const struct vshard_raft_effect *e, struct bytes *text)
{
    size_t count;
    const char *value = store_get(n->store, b->bytes.at + r->at, r->count, &count);

    text->count = 0;
    bytes_print(text, "%s %" PRIu64 " %" PRIu64, value != NULL ? "ok" : "none", e->index, e->term);
    if (value != NULL) {
        bytes_add(text, " ", 1);
        bytes_add(text, value, count);
    }
    client_answer(r->client, r->tag, text->at, text->count);
}

static void done(struct node *n, const struct vshard_raft_effect *e)
{
    struct batch *b = (struct batch *)(uintptr_t)e->tag;
    struct bytes text = { 0 };

    if (b == NULL) /* the transfer before we stop: whatever came of it */
        return;
    for (uint32_t i = 0; i < b->count; i++) {
        const struct request *r = &b->request[i];

        /* Of several entries some may have expired and others not: the status is of
         * all, what became of each stands in its result. */
        if (b->kind == WRITE && (e->status == VSHARD_OK || e->status == VSHARD_ESTALE))
            answer_write(n, r, e->index - b->count + 1 + i, e->term, &text);
        else if (e->status != VSHARD_OK)
            refuse(n, r, e->status);
        else if (b->kind == READ)
            answer_read(n, b, r, e, &text);
        else
            client_answer(r->client, r->tag, "ok", 2);
    }
    bytes_free(&text);
    batch_free(b);
}

/* ---- snapshots ---- */

static void mark(struct node *n, const struct snapshot *s, uint64_t through, uint64_t term)
{
    const struct mark m = { s->index, s->term };
    struct vshard_wal_record record[2];
    size_t count = 0;
    int rc;

    if (n->installing) /* nothing of the old log may stay behind the snapshot */
        record[count++] = (struct vshard_wal_record){ .group = GROUP,
                                                      .kind = VSHARD_WAL_CUT,
                                                      .index = s->index + 1 };
    record[count++] = (struct vshard_wal_record){ .group = GROUP,
                                                  .kind = VSHARD_WAL_MARK,
                                                  .index = through,
                                                  .term = term,
                                                  .payload = &m,
                                                  .payload_bytes = sizeof m };
    /* What waits for room comes behind the entries that a mark of our own covers, and may be
     * among those that an installed snapshot does away with. */
    rc = n->installing && n->stuck != NULL
             ? VSHARD_EBUSY
             : vshard_wal_append(n->wal, record, count, &n->mark_barrier);
    n->mark_wanted = later(rc); /* then housekeeping tries again */
    if (n->mark_wanted)
        n->mark_barrier = 0;
    else if (rc != VSHARD_OK)
        die("cannot mark a snapshot in the log: %s", vshard_strerror(rc));
}

static void mark_snapshot(struct node *n)
{
    struct snapshot *s = n->taking;

    if (n->installing) {
        mark(n, s, s->index, s->term);
        return;
    }
    n->compact_index = s->index > TRAILING ? s->index - TRAILING : 0;
    if (n->wal_status == VSHARD_ENOSPC || vshard_raft_term(n->raft, GROUP, n->compact_index) == 0)
        n->compact_index = s->index; /* there is no room for more, or the log begins later */
    mark(n, s, n->compact_index, vshard_raft_term(n->raft, GROUP, n->compact_index));
}

static void drop_taking(struct node *n)
{
    snapshot_free(n->taking);
    n->taking = NULL;
    n->installing = n->mark_wanted = false;
    n->mark_barrier = 0;
}

static void written(struct snapshot *s, int status, void *ctx)
{
    struct node *n = ctx;

    if (status == VSHARD_OK) {
        mark_snapshot(n);
        return;
    }
    say("snapshot %" PRIu64 " is not written: %s", s->index, vshard_strerror(status));
    if (n->installing)
        todo_push(n,
                  (struct todo){ .kind = VSHARD_RAFT_INSTALLED, .index = s->index, .offset = 1 });
    drop_taking(n);
}

/* The mark is durable: the snapshot counts. */
static void marked(struct node *n)
{
    struct snapshot *s = n->taking;
    uint64_t old = n->snapshot_index;

    n->snapshot_index = s->index;
    n->snapshot_term = s->term;
    if (n->installing) {
        if (store_load(n->store, s->state.at, s->state.count) != VSHARD_OK)
            die("snapshot %" PRIu64 " is not of this version", s->index);
        n->applied = s->index;
        todo_push(n, (struct todo){ .kind = VSHARD_RAFT_INSTALLED, .index = s->index });
    } else {
        todo_push(n, (struct todo){ .kind = VSHARD_RAFT_COMPACT,
                                    .index = n->compact_index,
                                    .offset = s->index });
    }
    snapshot_free(n->newest);
    n->newest = NULL;
    drop_taking(n);
    if (old != 0 && old != n->snapshot_index)
        snapshot_remove(n->o->dir, old);
}

/* The state is copied at once, which holds up the loop for as long as that takes: a
 * machine with gigabytes would copy on write instead. */
static void begin_snapshot(struct node *n, const struct vshard_raft_effect *e)
{
    struct snapshot *s = take(NULL, sizeof *s);

    *s = (struct snapshot){ .index = e->index, .term = e->term };
    bytes_add(&s->meta, e->bytes, (size_t)e->byte_count);
    store_save(n->store, &s->state);
    n->taking = s;
    snapshot_write(n->loop, n->o->dir, s, written, n);
}

static void snapshot_piece(struct node *n, const struct vshard_raft_effect *e)
{
    if (n->incoming == NULL) {
        n->incoming = take(NULL, sizeof *n->incoming);
        *n->incoming = (struct snapshot){ 0 };
    }
    n->incoming->state.count = (size_t)e->offset; /* a piece may come again */
    bytes_add(&n->incoming->state, e->bytes, (size_t)e->byte_count);
    todo_push(n, (struct todo){ .kind = VSHARD_RAFT_CHUNK_WRITTEN,
                                .index = e->index,
                                .offset = e->offset + e->byte_count });
}

static void install(struct node *n, const struct vshard_raft_effect *e)
{
    struct snapshot *s = n->incoming;

    n->incoming = NULL;
    if (n->taking != NULL || s == NULL) { /* one of our own is under way: another time */
        snapshot_free(s);
        todo_push(n,
                  (struct todo){ .kind = VSHARD_RAFT_INSTALLED, .index = e->index, .offset = 1 });
        return;
    }
    s->index = e->index;
    s->term = e->term;
    s->meta.count = 0;
    bytes_add(&s->meta, e->bytes, (size_t)e->byte_count);
    n->taking = s;
    n->installing = true;
    say("installing snapshot %" PRIu64, s->index);
    snapshot_write(n->loop, n->o->dir, s, written, n);
}

/* ---- effects ---- */

static void on_role(struct node *n, const struct vshard_raft_effect *e)
{
    static const char *const name[] = { "follower", "precandidate", "candidate", "leader" };

    n->role = e->role;
    n->leader = e->node;
    say("%s in term %" PRIu64 ", leader %" PRIu64, name[e->role], e->term, e->node);
    if (n->stopping && e->role != VSHARD_RAFT_LEADER)
        uv_stop(n->loop);
}

static void settle(struct node *n)
{
    int rc = vshard_wal_settle(n->wal);

    n->settle_wanted = rc == VSHARD_ENOSPC; /* then housekeeping tries again */
    if (rc == VSHARD_OK)
        say("certain of its log again");
    else if (rc != VSHARD_ENOSPC)
        die("cannot settle the log: %s", vshard_strerror(rc));
}

static void on_effect(struct node *n, const struct vshard_raft_effect *e)
{
    switch (e->kind) {
    case VSHARD_RAFT_PERSIST: persist(n, e); break;
    case VSHARD_RAFT_SEND: send_message(n, e); break;
    case VSHARD_RAFT_APPLY: apply(n, e); break;
    case VSHARD_RAFT_DONE: done(n, e); break;
    case VSHARD_RAFT_ROLE: on_role(n, e); break;
    case VSHARD_RAFT_MEMBERS: say("members changed"); break;
    case VSHARD_RAFT_FETCH:
        todo_push(n, (struct todo){ VSHARD_RAFT_FETCHED, e->node, e->index, 0, e->byte_count });
        break;
    case VSHARD_RAFT_META: begin_snapshot(n, e); break;
    case VSHARD_RAFT_SNAPSHOT_READ:
        todo_push(n, (struct todo){ VSHARD_RAFT_CHUNK, e->node, e->index, e->offset, 0 });
        break;
    case VSHARD_RAFT_SNAPSHOT_WRITE: snapshot_piece(n, e); break;
    case VSHARD_RAFT_INSTALL: install(n, e); break;
    case VSHARD_RAFT_CERTAIN: settle(n); break;
    case VSHARD_RAFT_FATAL: die("the group has stopped: %s", vshard_strerror(e->status));
    case VSHARD_RAFT_EPOCH:
        say("recovery epoch %" PRIu64 ": what was acknowledged before it beyond entry %" PRIu64
            " may be void",
            e->term >> 48, e->index);
        break;
    default: say("an effect of kind %" PRIu32 ", which this host does not know", e->kind);
    }
}

static int step_once(struct node *n, struct vshard_raft_event *event)
{
    const struct vshard_raft_effect *e;
    int rc;

    event->now_ns = uv_hrtime();
    rc = vshard_raft_step(n->raft, event);
    if (rc == VSHARD_ENOMEM)
        die("out of memory");
    while ((e = vshard_raft_next(n->raft)) != NULL)
        on_effect(n, e);
    return rc;
}

/* ---- what effects asked for ---- */

struct gathered {
    struct vshard_raft_entry *entry;
    uint32_t count, cap;
    uint64_t bytes, limit;
};

static int gather(void *ctx, const struct vshard_wal_record *r,
                  const struct vshard_wal_place *place)
{
    struct gathered *g = ctx;
    struct entry_head head;
    char *data;

    (void)place;
    if (r->payload_bytes < sizeof head || (g->count > 0 && g->bytes > g->limit))
        return 1;
    if (g->count == g->cap) {
        g->cap = 2 * g->cap + 64;
        g->entry = take(g->entry, g->cap * sizeof *g->entry);
    }
    memcpy(&head, r->payload, sizeof head);
    data = take(NULL, r->payload_bytes);
    memcpy(data, (const char *)r->payload + sizeof head, r->payload_bytes - sizeof head);
    g->entry[g->count++] = (struct vshard_raft_entry){ .index = r->index,
                                                       .term = r->term,
                                                       .session = head.session,
                                                       .sequence = head.sequence,
                                                       .kind = head.kind,
                                                       .count = r->payload_bytes - sizeof head,
                                                       .data = data };
    g->bytes += r->payload_bytes;
    return 0;
}

static void gathered_free(struct gathered *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        free((void *)(uintptr_t)g->entry[i].data);
    free(g->entry);
}

static void fetched(struct node *n, const struct todo *t)
{
    struct gathered g = { .limit = t->byte_count };
    const struct vshard_wal_visitor visitor = { gather, &g };
    struct vshard_raft_event event = event_of(VSHARD_RAFT_FETCHED);

    event.node = t->node;
    event.index = t->index;
    event.status = vshard_wal_read(n->wal, GROUP, t->index, &visitor);
    event.entries = g.entry;
    event.entry_count = g.count;
    step_once(n, &event);
    gathered_free(&g);
}

static void chunk(struct node *n, const struct todo *t)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_CHUNK);
    uint64_t left;

    if (n->newest == NULL && n->snapshot_index != 0) {
        n->newest = take(NULL, sizeof *n->newest);
        if (snapshot_read(n->o->dir, n->snapshot_index, n->newest) != VSHARD_OK) {
            say("snapshot %" PRIu64 " cannot be read", n->snapshot_index);
            snapshot_free(n->newest);
            n->newest = NULL;
        }
    }
    event.node = t->node;
    event.index = t->index;
    event.offset = t->offset;
    event.status = VSHARD_ENOTFOUND;
    if (n->newest != NULL && n->newest->index == t->index && t->offset <= n->newest->state.count) {
        left = n->newest->state.count - t->offset;
        event.status = VSHARD_OK;
        event.bytes = n->newest->state.at + t->offset;
        event.byte_count = left < CHUNK ? left : CHUNK;
        event.flags = event.byte_count == left ? VSHARD_RAFT_LAST : 0;
    }
    step_once(n, &event);
}

static void work_off(struct node *n)
{
    while (n->todo_count > 0) {
        const struct todo t = n->todo[n->todo_first++];
        struct vshard_raft_event event = event_of(t.kind);

        if (--n->todo_count == 0)
            n->todo_first = 0;
        event.index = t.index;
        event.offset = t.offset;
        if (t.kind == VSHARD_RAFT_FETCHED) {
            fetched(n, &t);
        } else if (t.kind == VSHARD_RAFT_CHUNK) {
            chunk(n, &t);
        } else if (t.kind == VSHARD_RAFT_INSTALLED) {
            event.status = t.offset != 0 ? VSHARD_EIO : VSHARD_OK;
            event.offset = 0;
            step_once(n, &event);
        } else {
            step_once(n, &event);
        }
    }
}

static void step(struct node *n, struct vshard_raft_event event)
{
    step_once(n, &event);
    work_off(n);
}

/* ---- requests ---- */

static struct batch *batch_make(uint32_t kind)
{
    struct batch *b = take(NULL, sizeof *b);

    *b = (struct batch){ .kind = kind };
    return b;
}

static void batch_add(struct batch *b, const struct request *r, const void *bytes)
{
    if (b->count == b->cap) {
        b->cap = 2 * b->cap + 16;
        b->request = take(b->request, b->cap * sizeof *b->request);
    }
    b->request[b->count] = *r;
    b->request[b->count++].at = b->bytes.count;
    if (r->count > 0)
        bytes_add(&b->bytes, bytes, r->count);
}

static void propose(struct node *n)
{
    struct vshard_raft_entry entry[BATCH_MAX] = { 0 };
    struct vshard_raft_event event = event_of(VSHARD_RAFT_PROPOSE);
    struct batch *b = n->writes;

    if (b == NULL)
        return;
    n->writes = NULL;
    for (uint32_t i = 0; i < b->count; i++) {
        const struct request *r = &b->request[i];

        entry[i].kind = r->kind == SESSION ? VSHARD_RAFT_SESSION : VSHARD_RAFT_DATA;
        entry[i].session = r->session;
        entry[i].sequence = r->sequence;
        entry[i].data = b->bytes.at + r->at;
        entry[i].count = r->count;
    }
    event.tag = (uintptr_t)b;
    event.flags = VSHARD_RAFT_LOCAL_ONLY; /* results are where the entry was applied */
    event.entries = entry;
    event.entry_count = b->count;
    step(n, event);
}

static void read_now(struct node *n)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_READ);
    struct batch *b = n->reads;

    if (b == NULL)
        return;
    n->reads = NULL;
    event.tag = (uintptr_t)b;
    event.mode = b->request[0].mode;
    event.max_age_ns = b->request[0].max_age_ns;
    step(n, event);
}

static void transfer(struct node *n, struct batch *b)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_TRANSFER);

    event.tag = (uintptr_t)b;
    event.node = b->request[0].node;
    step(n, event);
}

/* A node whose disk was lost comes back under another incarnation. */
static void replace(struct node *n, struct batch *b)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_CONFIGURE);
    struct vshard_raft_member member[NODES_MAX];
    uint32_t count = 0;

    vshard_raft_members(n->raft, GROUP, member, &count);
    for (uint32_t i = 0; i < count; i++) {
        member[i].role = VSHARD_RAFT_VOTER;
        if (member[i].node == b->request[0].node)
            member[i].incarnation = b->request[0].incarnation;
    }
    event.tag = (uintptr_t)b;
    event.members = member;
    event.member_count = count;
    step(n, event);
}

void node_request(struct node *n, const struct request *r, const void *bytes)
{
    struct batch *b;

    switch (r->kind) {
    case WRITE:
    case SESSION:
        if (n->role == VSHARD_RAFT_LEADER && (n->stuck != NULL || n->wal_status == VSHARD_ENOSPC)) {
            refuse(n, r, VSHARD_ENOSPC);
            return;
        }
        if (n->writes == NULL)
            n->writes = batch_make(WRITE);
        batch_add(n->writes, r, bytes);
        if (n->writes->count == BATCH_MAX || n->writes->bytes.count > BATCH_BYTES)
            propose(n);
        return;
    case READ:
        if (n->reads != NULL && (n->reads->request[0].mode != r->mode ||
                                 n->reads->request[0].max_age_ns != r->max_age_ns))
            read_now(n);
        if (n->reads == NULL)
            n->reads = batch_make(READ);
        batch_add(n->reads, r, bytes);
        return;
    default:
        b = batch_make(r->kind);
        batch_add(b, r, NULL);
        if (r->kind == TRANSFER)
            transfer(n, b);
        else
            replace(n, b);
    }
}

bool node_busy(const struct node *n)
{
    struct vshard_wal_stats s = { .size = sizeof s };

    return vshard_wal_stats_read(n->wal, &s) == VSHARD_OK && s.pending_bytes > BUSY_BYTES;
}

void node_message(struct node *n, const void *bytes, size_t count)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_MESSAGE);

    event.bytes = bytes;
    event.byte_count = count;
    step(n, event); /* what is refused is counted */
}

/* ---- the turn of the loop ---- */

/* Votes stand in front of the batch that the log writes next, so one may be durable
 * while entries that the core handed over before it still wait. */
static bool tell_vote(struct node *n, uint64_t durable)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_PERSISTED);

    for (size_t i = 0; i < n->pending_count; i++) {
        struct pending *p = &n->pending[(n->pending_first + i) % n->pending_cap];

        if (!p->vote || p->wal > durable)
            continue;
        p->vote = false;
        event.barrier = p->raft;
        event.flags = VSHARD_RAFT_VOTE_ONLY;
        release(n, p->raft);
        step(n, event);
        return true;
    }
    return false;
}

/* True if something became durable. */
static bool poll_log(struct node *n)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_PERSISTED);
    uint64_t durable = 0;
    int rc = vshard_wal_poll(n->wal, &durable);

    if (rc == VSHARD_EIO)
        die("the log is poisoned; start again to read what is there");
    if (rc != n->wal_status)
        say("log: %s", vshard_strerror(rc));
    n->wal_status = rc;
    while (n->pending_count > 0 && n->pending[n->pending_first].wal <= durable) {
        event.barrier = n->pending[n->pending_first].raft;
        n->pending_first = (n->pending_first + 1) % n->pending_cap;
        n->pending_count--;
    }
    if (event.barrier != 0) {
        n->raft_durable = event.barrier;
        n->idle_since = uv_hrtime();
        release(n, 0);
        step(n, event);
    }
    if (n->mark_barrier != 0 && n->mark_barrier <= durable) {
        marked(n);
        work_off(n);
        return true;
    }
    return tell_vote(n, durable) || event.barrier != 0;
}

static void maybe_snapshot(struct node *n)
{
    bool full = n->wal_status == VSHARD_ENOSPC && n->applied > n->snapshot_index &&
                uv_hrtime() - n->full_tried > FULL_MS * millisecond;

    if (n->taking != NULL || (!full && n->applied < n->snapshot_index + n->o->snapshot_every))
        return;
    n->full_tried = uv_hrtime();
    step(n, event_of(VSHARD_RAFT_SNAPSHOT)); /* EBUSY: later */
}

static void arm(struct node *n);

static void flush(struct node *n)
{
    if (vshard_raft_deadline_ns(n->raft) <= uv_hrtime())
        step(n, event_of(VSHARD_RAFT_TIME));
    propose(n);
    read_now(n);
    work_off(n);
    unstick(n);
    do {
        /* Messages leave before the disk is waited for. */
        peers_flush(n->peers);
    } while (poll_log(n));
    maybe_snapshot(n);
    peers_flush(n->peers);
    clients_flush(n->clients);
    arm(n);
}

static void on_check(uv_check_t *check)
{
    flush(check->data);
}

static void on_timer(uv_timer_t *timer)
{
    flush(timer->data);
}

static void arm(struct node *n)
{
    uint64_t now = uv_hrtime(), at = vshard_raft_deadline_ns(n->raft);

    if (at == UINT64_MAX)
        uv_timer_stop(&n->timer);
    else
        uv_timer_start(&n->timer, on_timer,
                       at > now ? (at - now + millisecond - 1) / millisecond : 0, 0);
}

/* Storage has completed something. The check that ends this turn does the rest. */
static void on_wake(void *ctx)
{
    (void)ctx;
}

/* To one of the other voters, another each time; false if there is none. */
static bool hand_over(struct node *n)
{
    struct vshard_raft_event event = event_of(VSHARD_RAFT_TRANSFER);
    struct vshard_raft_member member[NODES_MAX];
    uint32_t count = 0, at = n->successor++;

    vshard_raft_members(n->raft, GROUP, member, &count);
    for (uint32_t i = 0; i < count && event.node == 0; i++) {
        const struct vshard_raft_member *m = &member[(at + i) % count];

        if (m->node != n->o->node && (m->role & VSHARD_RAFT_VOTER))
            event.node = m->node;
    }
    if (event.node == 0)
        return false;
    say("hands over to %" PRIu64, event.node);
    step(n, event);
    return true;
}

static void on_housekeeping(uv_timer_t *timer)
{
    struct node *n = timer->data;

    /* A leader that can take no writes is in the way of one that can. */
    if (n->wal_status == VSHARD_ENOSPC && n->role == VSHARD_RAFT_LEADER)
        hand_over(n);

    if (n->mark_wanted)
        mark_snapshot(n);
    if (n->settle_wanted)
        settle(n);
    if (n->idle_since > n->witnessed && uv_hrtime() - n->idle_since > WITNESS_MS * millisecond) {
        n->witnessed = uv_hrtime();
        vshard_wal_witness(n->wal); /* the log is idle: make its end certain */
    }
    flush(n);
}

/* ---- birth ---- */

static void lock_directory(struct node *n)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/lock", n->o->dir);
    n->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (n->lock < 0)
        die("%s: %s", path, strerror(errno));
    if (flock(n->lock, LOCK_EX | LOCK_NB) != 0)
        die("%s: another process has this directory", n->o->dir);
}

static void open_log(struct node *n, struct vshard_wal_report *report)
{
    struct vshard_storage storage;
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks,
                                            .ctx = n->disk,
                                            .wake = disk_wake };
    const struct vshard_wal_options options = { .size = sizeof options,
                                                .tail = VSHARD_WAL_TAIL_FLAG,
                                                .log_id = n->o->cluster ^ n->o->node,
                                                .segment_bytes = n->o->segment_kib << 10,
                                                .path = n->o->dir,
                                                .storage = &storage,
                                                .hooks = &hooks };
    int rc;

    disk_hook(n->disk, &storage);
    rc = vshard_wal_open(&options, report, &n->wal);
    if (rc == VSHARD_ECORRUPT)
        die("%s: records that were synced are damaged. Move the directory away and start with "
            "--join: the others have what it had",
            n->o->dir);
    if (rc == VSHARD_ESTALE)
        die("%s has the log of another node or cluster", n->o->dir);
    if (rc != VSHARD_OK)
        die("%s: %s", n->o->dir, vshard_strerror(rc));
    if (report->verdict != VSHARD_WAL_CLEAN)
        say("the log ends in a %s batch", report->verdict == VSHARD_WAL_TORN ? "torn" : "doubtful");
}

static void identify(struct node *n, const struct vshard_wal_report *report)
{
    struct vshard_wal_group about = { .size = sizeof about };
    struct vshard_wal_record note = { .group = NODE_ITSELF, .kind = VSHARD_WAL_NOTE };
    uint64_t barrier;
    bool known = vshard_wal_find(n->wal, NODE_ITSELF, &about) == VSHARD_OK &&
                 about.note_bytes == sizeof n->self;
    int rc;

    if (known)
        memcpy(&n->self, about.note, sizeof n->self);
    if (known && (n->o->init || n->o->join))
        die("%s has a log already; start without --init and --join", n->o->dir);
    if (!known && !n->o->init && !n->o->join)
        die("%s has no log. A new cluster starts with --init on all its nodes; a node that has "
            "lost its disk, with --join",
            n->o->dir);
    if (!known)
        n->self = (struct identity){ n->o->node, n->o->cluster,
                                     n->o->join ? report->incarnation : 1, n->o->init };
    if (n->self.node != n->o->node || n->self.cluster != n->o->cluster)
        die("%s belongs to node %" PRIu64 " of cluster %" PRIu64, n->o->dir, n->self.node,
            n->self.cluster);
    if (known)
        return;
    note.payload = &n->self;
    note.payload_bytes = sizeof n->self;
    rc = vshard_wal_append(n->wal, &note, 1, &barrier);
    if (rc == VSHARD_OK)
        rc = vshard_wal_sync(n->wal, barrier);
    if (rc != VSHARD_OK)
        die("%s: %s", n->o->dir, vshard_strerror(rc));
}

static void load_snapshot(struct node *n, const struct vshard_wal_group *about,
                          struct vshard_raft_boot *boot, struct snapshot *s)
{
    struct mark m;
    int rc;

    if (about->mark_index == 0)
        return;
    if (about->mark_bytes != sizeof m)
        die("a mark that this version does not know");
    memcpy(&m, about->mark, sizeof m);
    rc = snapshot_read(n->o->dir, m.index, s);
    if (rc == VSHARD_OK)
        rc = store_load(n->store, s->state.at, s->state.count);
    if (rc != VSHARD_OK)
        die("%s: snapshot %" PRIu64 ": %s. Move the directory away and start with --join",
            n->o->dir, m.index, vshard_strerror(rc));
    boot->snapshot_index = boot->applied = n->snapshot_index = n->applied = m.index;
    boot->snapshot_term = n->snapshot_term = m.term;
    boot->meta = s->meta.at;
    boot->meta_count = s->meta.count;
}

static void load_entries(struct node *n, uint64_t first)
{
    struct gathered g = { .limit = CHUNK };
    const struct vshard_wal_visitor visitor = { gather, &g };
    int rc;

    for (;; first += g.count) {
        g.count = 0;
        g.bytes = 0;
        rc = vshard_wal_read(n->wal, GROUP, first, &visitor);
        if (rc != VSHARD_OK || g.count == 0)
            break;
        rc = vshard_raft_load(n->raft, GROUP, g.entry, g.count);
        for (uint32_t i = 0; i < g.count; i++)
            free((void *)(uintptr_t)g.entry[i].data);
        if (rc != VSHARD_OK)
            break;
    }
    g.count = 0;
    gathered_free(&g);
    if (rc != VSHARD_OK)
        die("%s: %s", n->o->dir, vshard_strerror(rc));
}

static void open_group(struct node *n, bool unsettled)
{
    struct vshard_wal_group about = { .size = sizeof about };
    struct vshard_raft_boot boot = { .size = sizeof boot, .group = GROUP };
    struct vshard_raft_member member[NODES_MAX];
    struct snapshot s = { 0 };
    int rc = vshard_wal_find(n->wal, GROUP, &about);

    if (rc == VSHARD_OK) {
        load_snapshot(n, &about, &boot, &s);
        boot.term = n->term = about.voted ? about.vote_term : 0;
        boot.vote = n->vote = about.voted ? about.vote : 0;
        boot.commit = n->commit = about.commit;
        boot.flags = unsettled ? VSHARD_RAFT_UNCERTAIN : 0;
    } else if (unsettled) {
        die("%s may have lost all of the group, and what it has promised. Move the directory away "
            "and start with --join",
            n->o->dir);
    } else if (n->self.born) {
        /* Nothing was persisted, so nothing was promised: it is born, perhaps again. */
        for (uint32_t i = 0; i < n->o->peer_count; i++)
            member[i] = (struct vshard_raft_member){ n->o->peers[i].node, 1, VSHARD_RAFT_VOTER, 0 };
        boot.members = member;
        boot.member_count = n->o->peer_count;
    }
    rc = vshard_raft_open(n->raft, &boot);
    if (rc == VSHARD_OK && about.first != 0)
        load_entries(n, about.first);
    if (rc == VSHARD_OK)
        rc = vshard_raft_start(n->raft, GROUP, uv_hrtime());
    if (rc != VSHARD_OK)
        die("cannot open the group: %s", vshard_strerror(rc));
    bytes_free(&s.meta);
    bytes_free(&s.state);
}

static void start_timers(struct node *n)
{
    uv_check_init(n->loop, &n->check);
    uv_timer_init(n->loop, &n->timer);
    uv_timer_init(n->loop, &n->housekeeper);
    uv_timer_init(n->loop, &n->stopper);
    n->check.data = n->timer.data = n->housekeeper.data = n->stopper.data = n;
    uv_check_start(&n->check, on_check);
    uv_timer_start(&n->housekeeper, on_housekeeping, RETRY_MS, RETRY_MS);
}

/* What the log takes, less what stands before each entry. */
static uint64_t largest_entry(const struct options *o)
{
    uint64_t segment = o->segment_kib != 0 ? o->segment_kib << 10 : SEGMENT_DEFAULT;
    uint64_t bytes = segment / 8;

    return (bytes < VSHARD_WAL_PAYLOAD_MAX ? bytes : VSHARD_WAL_PAYLOAD_MAX) -
           sizeof(struct entry_head);
}

struct node *node_open(uv_loop_t *loop, const struct options *o)
{
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_raft_options options = { .size = sizeof options,
                                           .node = o->node,
                                           .election_ns = o->election_ms * millisecond,
                                           .max_entry = largest_entry(o) };
    const struct vshard_raft_effect *e;
    struct node *n = take(NULL, sizeof *n);

    *n = (struct node){ .loop = loop, .o = o };
    n->held_end = &n->held;
    n->stuck_end = &n->stuck;
    n->result = take(NULL, RESULTS * sizeof *n->result);
    memset(n->result, 0, RESULTS * sizeof *n->result);
    n->store = store_create();
    lock_directory(n);
    n->disk = disk_open(loop, on_wake, n);
    open_log(n, &report);
    identify(n, &report);
    n->peers = peers_open(loop, o, n->self.incarnation, n);
    n->clients = clients_open(loop, o, n);

    options.incarnation = n->self.incarnation;
    options.boot = report.boot;
    options.seed = n->self.incarnation + o->node;
    if (vshard_raft_create(&options, &n->raft) != VSHARD_OK)
        die("out of memory");
    open_group(n, report.unsettled != 0);
    while ((e = vshard_raft_next(n->raft)) != NULL)
        on_effect(n, e);
    work_off(n);
    start_timers(n);
    say("node %" PRIu64 ", incarnation %" PRIu64 ", start %" PRIu64 ", %" PRIu64
        " records in the log%s",
        o->node, n->self.incarnation, report.boot, report.records,
        report.unsettled ? ", uncertain" : "");
    flush(n);
    return n;
}

/* ---- status and the end ---- */

void node_status(struct node *n, struct bytes *to)
{
    struct vshard_raft_status s = { .size = sizeof s };
    struct vshard_raft_counters c = { .size = sizeof c };
    struct vshard_wal_stats w = { .size = sizeof w };
    struct vshard_raft_member member[NODES_MAX];
    uint32_t count = 0;

    vshard_raft_inspect(n->raft, GROUP, &s);
    vshard_raft_count(n->raft, &c);
    vshard_raft_members(n->raft, GROUP, member, &count);
    vshard_wal_stats_read(n->wal, &w);
    bytes_print(to,
                "ok node=%" PRIu64 " role=%" PRIu32 " term=%" PRIu64 " leader=%" PRIu64
                " last=%" PRIu64 " commit=%" PRIu64 " applied=%" PRIu64 " first=%" PRIu64
                " snapshot=%" PRIu64 " uncertain=%" PRIu32 " elections=%" PRIu64
                " wal=%s segments=%" PRIu64 " syncs=%" PRIu64 " incarnation=%" PRIu64 " members=",
                n->o->node, s.role, s.term, s.leader, s.last, s.commit, s.applied, s.first,
                s.snapshot, s.uncertain, c.elections,
                n->stuck != NULL || w.status == VSHARD_ENOSPC ? "full" : "ok", w.segments, w.syncs,
                n->self.incarnation);
    for (uint32_t i = 0; i < count; i++)
        bytes_print(to, "%s%" PRIu64, i > 0 ? "," : "", member[i].node);
    peers_status(n->peers, to);
}

static void on_stop(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

void node_stop(struct node *n)
{
    if (n->stopping || n->role != VSHARD_RAFT_LEADER) {
        uv_stop(n->loop);
        return;
    }
    n->stopping = true;
    uv_timer_start(&n->stopper, on_stop, STOP_MS, 0);
    if (!hand_over(n))
        uv_stop(n->loop);
}

/* What reaches beyond the process is put in order; its memory goes with it. */
void node_close(struct node *n)
{
    struct vshard_wal_stats s = { .size = sizeof s };

    uv_close((uv_handle_t *)&n->check, NULL);
    uv_close((uv_handle_t *)&n->timer, NULL);
    uv_close((uv_handle_t *)&n->housekeeper, NULL);
    uv_close((uv_handle_t *)&n->stopper, NULL);
    clients_flush(n->clients);
    clients_close(n->clients);
    peers_close(n->peers);
    vshard_wal_stats_read(n->wal, &s);
    if (vshard_wal_sync(n->wal, s.appended) == VSHARD_OK)
        vshard_wal_witness(n->wal);
    vshard_wal_close(n->wal);
    disk_close(n->disk);
    vshard_raft_destroy(n->raft);
    store_destroy(n->store);
    close(n->lock);
}
