/* persist.c - what the core asks to be kept, in the write-ahead log, and what waits for it.
 *
 * Two sequences of barriers meet here. The core numbers its PERSIST effects; the log names
 * the batch that a record went into. `pending` pairs them up, oldest first, and the core is
 * told of a barrier when the log's for it, and all those before it, are reached. Votes
 * stand in front of the batch that the log writes next, and are told ahead.
 *
 * A PERSIST cannot be refused: one that the log has no room for is copied and kept, in
 * order, until it has.
 *
 * An entry's payload in the log is 8 session, 8 sequence, 4 kind, 4 zeros, then its data. */
#include "node/core.h"

/* ---- records ---- */

uint64_t vs_entry_limit(const struct vshard_node *n)
{
    uint64_t bytes = n->o.segment_bytes / 8;

    return (bytes < VSHARD_WAL_PAYLOAD_MAX ? bytes : VSHARD_WAL_PAYLOAD_MAX) - VS_ENTRY_HEAD_BYTES;
}

static bool record_room(struct vshard_node *n, size_t cap)
{
    struct vshard_wal_record *record;
    unsigned char *head;

    if (cap <= n->record_cap)
        return true;
    cap += cap / 2;
    record = vs_alloc(n->allocator, cap * sizeof *record);
    head = vs_alloc(n->allocator, cap * VS_ENTRY_HEAD_BYTES);
    if (record == NULL || head == NULL) {
        vs_free(n->allocator, record, cap * sizeof *record);
        vs_free(n->allocator, head, cap * VS_ENTRY_HEAD_BYTES);
        return false;
    }
    vs_free(n->allocator, n->record, n->record_cap * sizeof *record);
    vs_free(n->allocator, n->record_head, n->record_cap * VS_ENTRY_HEAD_BYTES);
    n->record = record;
    n->record_head = head;
    n->record_cap = cap;
    return true;
}

static struct vshard_wal_record entry_record(struct vshard_node *n, uint64_t group, uint32_t i,
                                             const struct vshard_raft_entry *x)
{
    unsigned char *head = n->record_head + (size_t)i * VS_ENTRY_HEAD_BYTES;

    vs_store64(head, x->session);
    vs_store64(head + 8, x->sequence);
    vs_store32(head + 16, x->kind);
    vs_store32(head + 20, 0);
    return (struct vshard_wal_record){ .group = group,
                                       .kind = VSHARD_WAL_ENTRY,
                                       .index = x->index,
                                       .term = x->term,
                                       .head = head,
                                       .head_bytes = VS_ENTRY_HEAD_BYTES,
                                       .payload = x->data,
                                       .payload_bytes = (uint32_t)x->count };
}

static size_t records_of(struct vshard_node *n, struct vs_replica *r,
                         const struct vshard_raft_effect *e)
{
    bool only = (e->flags & VSHARD_RAFT_VOTE_ONLY) != 0;
    size_t count = 0;

    if (e->term != r->term || e->vote != r->vote)
        n->record[count++] = (struct vshard_wal_record){
            .group = r->group, .kind = VSHARD_WAL_VOTE, .term = e->term, .index = e->vote
        };
    if (e->cut != 0 && (e->entry_count == 0 || e->entries[0].index != e->cut))
        n->record[count++] = (struct vshard_wal_record){ .group = r->group,
                                                         .kind = VSHARD_WAL_CUT,
                                                         .index = e->cut };
    for (uint32_t i = 0; i < e->entry_count; i++)
        n->record[count++] = entry_record(n, r->group, i, &e->entries[i]);
    if (e->commit > r->commit && !only) /* a hint, for which a vote must not wait */
        n->record[count++] = (struct vshard_wal_record){ .group = r->group,
                                                         .kind = VSHARD_WAL_COMMIT,
                                                         .index = e->commit };
    r->term = e->term;
    r->vote = e->vote;
    if (!only && e->commit > r->commit)
        r->commit = e->commit;
    return count;
}

/* A status of the log after which the same records may be given again. */
static bool later(int status)
{
    return status == VSHARD_ENOSPC || status == VSHARD_EBUSY || status == VSHARD_ENOMEM;
}

/* ---- what the log has no room for ---- */

static void stuck_free(struct vshard_node *n, struct vs_stuck *s)
{
    vs_free(n->allocator, s, s->bytes);
}

/* Records and what they point to, in one block. */
static struct vs_stuck *stuck_make(struct vshard_node *n, size_t count)
{
    size_t bytes = sizeof(struct vs_stuck) + count * sizeof(struct vshard_wal_record);
    struct vs_stuck *s;
    unsigned char *to;

    for (size_t i = 0; i < count; i++)
        bytes += n->record[i].head_bytes + (size_t)n->record[i].payload_bytes;
    s = vs_alloc(n->allocator, bytes);
    if (s == NULL)
        return NULL;
    *s = (struct vs_stuck){ .count = count, .bytes = bytes };
    s->record = (struct vshard_wal_record *)(void *)(s + 1);
    to = (unsigned char *)(s->record + count);
    for (size_t i = 0; i < count; i++) {
        struct vshard_wal_record x = n->record[i];

        if (x.head_bytes != 0)
            memcpy(to, x.head, x.head_bytes);
        if (x.payload_bytes != 0)
            memcpy(to + x.head_bytes, x.payload, x.payload_bytes);
        x.payload = to;
        x.payload_bytes += x.head_bytes;
        to += x.payload_bytes;
        x.head = NULL;
        x.head_bytes = 0;
        s->record[i] = x;
    }
    return s;
}

static void pending_push(struct vshard_node *n, uint64_t raft, uint64_t wal, uint32_t vote)
{
    if (n->pending_count == n->pending_cap) {
        size_t cap = n->pending_cap != 0 ? 2 * n->pending_cap : 64;
        struct vs_pending *ring = vs_alloc(n->allocator, cap * sizeof *ring);

        if (ring == NULL) {
            vs_node_fail(n, VSHARD_ENOMEM, "pending barriers");
            return;
        }
        for (size_t i = 0; i < n->pending_count; i++)
            ring[i] = n->pending[(n->pending_first + i) % n->pending_cap];
        vs_free(n->allocator, n->pending, n->pending_cap * sizeof *ring);
        n->pending = ring;
        n->pending_cap = cap;
        n->pending_first = 0;
    }
    n->pending[(n->pending_first + n->pending_count++) % n->pending_cap] =
        (struct vs_pending){ raft, wal, vote, 0 };
}

void vs_persist(struct vshard_node *n, struct vs_replica *r, const struct vshard_raft_effect *e)
{
    uint32_t vote = (e->flags & VSHARD_RAFT_VOTE_ONLY) != 0;
    struct vs_stuck *s;
    uint64_t barrier = 0;
    size_t count;
    int rc = VSHARD_EBUSY;

    if (!record_room(n, (size_t)e->entry_count + 3)) {
        vs_node_fail(n, VSHARD_ENOMEM, "records");
        return;
    }
    count = records_of(n, r, e);
    if (r->dropped)
        count = 0;
    if (n->stuck == NULL && count != 0)
        rc = vshard_wal_append(n->wal, n->record, count, &barrier);
    else if (n->stuck == NULL)
        rc = VSHARD_OK;
    if (rc == VSHARD_OK) {
        pending_push(n, e->barrier, barrier, vote);
        return;
    }
    s = later(rc) ? stuck_make(n, count) : NULL;
    if (s == NULL) {
        vs_node_fail(n, later(rc) ? VSHARD_ENOMEM : rc, "append");
        return;
    }
    s->barrier = e->barrier;
    s->vote = vote;
    n->stuck_status = n->stuck == NULL ? rc : n->stuck_status;
    *n->stuck_end = s;
    n->stuck_end = &s->next;
}

static void unstick(struct vshard_node *n)
{
    while (n->stuck != NULL && n->failed == VSHARD_OK) {
        struct vs_stuck *s = n->stuck;
        uint64_t barrier = 0;
        int rc =
            s->count != 0 ? vshard_wal_append(n->wal, s->record, s->count, &barrier) : VSHARD_OK;

        if (later(rc)) {
            n->stuck_status = rc;
            return;
        }
        if (rc != VSHARD_OK) {
            vs_node_fail(n, rc, "append");
            return;
        }
        pending_push(n, s->barrier, barrier, s->vote);
        n->stuck = s->next;
        if (n->stuck == NULL)
            n->stuck_end = &n->stuck;
        stuck_free(n, s);
    }
}

/* Of what waits for room, a group's records: they must not come behind its end. */
static void stuck_forget(struct vshard_node *n, uint64_t group)
{
    for (struct vs_stuck *s = n->stuck; s != NULL; s = s->next) {
        size_t kept = 0;

        for (size_t i = 0; i < s->count; i++) {
            if (s->record[i].group != group)
                s->record[kept++] = s->record[i];
        }
        s->count = kept;
    }
}

/* And what it was to say when they are there: they never may be. */
static void held_forget(struct vshard_node *n, uint64_t group)
{
    struct vs_held **link = &n->held;

    while (*link != NULL) {
        struct vs_held *h = *link;

        if (h->group != group) {
            link = &h->next;
            continue;
        }
        *link = h->next;
        vs_free(n->allocator, h, sizeof *h + h->count);
    }
    n->held_end = link;
}

bool vs_persist_forget(struct vshard_node *n, struct vs_replica *r)
{
    /* Of a group that lives on, what it has promised is kept: it may be named again, and must
     * not vote twice, nor be born again as a founder. */
    const struct vshard_wal_record records[] = {
        { .group = r->group, .kind = VSHARD_WAL_FORGET },
        { .group = r->group, .kind = VSHARD_WAL_VOTE, .term = r->term, .index = r->vote },
    };
    size_t count = vs_cluster_group(&n->meta, r->group, NULL) != NULL ? 2 : 1;

    stuck_forget(n, r->group);
    held_forget(n, r->group);
    return vshard_wal_append(n->wal, records, count, &r->forget_barrier) == VSHARD_OK;
}

int vs_log_room(const struct vshard_node *n)
{
    if (n->wal_status == VSHARD_ENOSPC || (n->stuck != NULL && n->stuck_status == VSHARD_ENOSPC))
        return VSHARD_ENOSPC;
    return n->stuck != NULL ? VSHARD_EBUSY : VSHARD_OK;
}

/* ---- messages that wait ---- */

void vs_send_message(struct vshard_node *n, const struct vshard_raft_effect *e)
{
    struct vs_held *h;

    if (e->barrier <= n->raft_durable || (TRAP(65) && e->body_count == 0)) {
        vs_post(n, e->node, VS_FRAME_RAFT, e->group, e->bytes, (size_t)e->byte_count, e->body,
                (size_t)e->body_count);
        return;
    }
    h = vs_alloc(n->allocator, sizeof *h + (size_t)e->byte_count);
    if (h == NULL)
        return; /* lost, as on a network */
    *h = (struct vs_held){ .barrier = e->barrier,
                           .group = e->group,
                           .node = e->node,
                           .flags = e->flags,
                           .count = (size_t)e->byte_count };
    memcpy(h + 1, e->bytes, h->count);
    *n->held_end = h;
    n->held_end = &h->next;
}

/* Sends what waited for what is durable now, or for that vote. */
static void release(struct vshard_node *n, uint64_t vote)
{
    struct vs_held **link = &n->held;

    while (*link != NULL) {
        struct vs_held *h = *link;

        if (h->barrier > n->raft_durable &&
            !(h->barrier == vote && (h->flags & VSHARD_RAFT_VOTE_ONLY))) {
            link = &h->next;
            continue;
        }
        vs_post(n, h->node, VS_FRAME_RAFT, h->group, h + 1, h->count, NULL, 0);
        *link = h->next;
        vs_free(n->allocator, h, sizeof *h + h->count);
    }
    n->held_end = link;
}

/* ---- what has become durable ---- */

static bool tell(struct vshard_node *n, uint64_t barrier, uint32_t flags)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PERSISTED, 0);

    event.barrier = barrier;
    event.flags = flags;
    return vs_step(n, &event) != VSHARD_ENOMEM;
}

/* A vote may be durable while entries that the core handed over before it still wait. */
static bool tell_vote(struct vshard_node *n, uint64_t durable)
{
    for (size_t i = 0; i < n->pending_count; i++) {
        struct vs_pending *p = &n->pending[(n->pending_first + i) % n->pending_cap];

        if (!p->vote || p->wal > durable)
            continue;
        p->vote = 0;
        release(n, p->raft);
        tell(n, p->raft, VSHARD_RAFT_VOTE_ONLY);
        return true;
    }
    return false;
}

static bool marks_reached(struct vshard_node *n, uint64_t durable)
{
    bool any = false;

    for (uint32_t i = 0; i < n->replica_count; i++) {
        struct vs_replica *r = n->replica[i];

        if (r->mark_barrier == 0 || r->mark_barrier > durable)
            continue;
        r->mark_barrier = 0;
        vs_replica_marked(n, r);
        any = true;
    }
    return any;
}

static int poll(struct vshard_node *n, uint64_t *durable)
{
    int rc = vshard_wal_poll(n->wal, durable);

    if (rc == VSHARD_EIO)
        vs_node_fail(n, VSHARD_EIO, "the log is poisoned");
    else if (rc != n->wal_status)
        vs_node_event(n, VSHARD_LOG_WARN, "node.log", 0, vshard_strerror(rc), rc);
    n->wal_status = rc;
    n->wal_durable = *durable;
    return rc;
}

bool vs_poll_log(struct vshard_node *n)
{
    uint64_t durable = 0, barrier = 0;

    unstick(n);
    if (n->failed != VSHARD_OK || poll(n, &durable) == VSHARD_EIO)
        return false;
    while (n->pending_count != 0 && n->pending[n->pending_first].wal <= durable) {
        barrier = n->pending[n->pending_first].raft;
        n->pending_first = (n->pending_first + 1) % n->pending_cap;
        n->pending_count--;
    }
    if (barrier != 0) {
        n->raft_durable = barrier;
        n->idle_since = n->now;
        release(n, 0);
    }
    /* Without memory the core is told at a later turn. */
    if (n->told_durable < n->raft_durable && tell(n, n->raft_durable, 0))
        n->told_durable = n->raft_durable;
    if (marks_reached(n, durable))
        return true;
    return tell_vote(n, durable) || barrier != 0;
}

/* ---- marks ---- */

/* That the last entries of a group are committed stands nowhere until more is written. */
void vs_persist_commit(struct vshard_node *n, struct vs_replica *r)
{
    const struct vshard_wal_record record = { .group = r->group,
                                              .kind = VSHARD_WAL_COMMIT,
                                              .index = r->queued };

    if (r->queued <= r->commit || !r->open || r->dropped || r->installing ||
        r->status != VSHARD_OK || n->stuck != NULL)
        return;
    if (vshard_wal_append(n->wal, &record, 1, NULL) == VSHARD_OK)
        r->commit = record.index;
}

/* A snapshot that came from elsewhere leaves nothing of the old log behind it. */
int vs_mark(struct vshard_node *n, struct vs_replica *r, uint64_t through, uint64_t term)
{
    unsigned char payload[16];
    struct vshard_wal_record record[2];
    size_t count = 0;
    int rc;

    r->mark_wanted = 0;
    if (r->dropped) /* the log has forgotten the group, and its files go */
        return VSHARD_OK;
    vs_store64(payload, r->taking_index);
    vs_store64(payload + 8, r->taking_term);
    if (r->installing)
        record[count++] = (struct vshard_wal_record){ .group = r->group,
                                                      .kind = VSHARD_WAL_CUT,
                                                      .index = r->taking_index + 1 };
    record[count++] = (struct vshard_wal_record){ .group = r->group,
                                                  .kind = VSHARD_WAL_MARK,
                                                  .index = through,
                                                  .term = term,
                                                  .payload = payload,
                                                  .payload_bytes = sizeof payload };
    /* Past what waits for room, since a mark makes room; but a cut must not overtake entries. */
    rc = r->installing && n->stuck != NULL
             ? VSHARD_EBUSY
             : vshard_wal_append(n->wal, record, count, &r->mark_barrier);
    r->mark_wanted = later(rc);
    if (rc != VSHARD_OK)
        r->mark_barrier = 0;
    if (rc != VSHARD_OK && !later(rc))
        vs_node_fail(n, rc, "mark");
    return rc;
}

/* ---- reading back ---- */

void vs_gathered_free(struct vs_gathered *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        vs_free(g->allocator, (void *)(uintptr_t)g->entry[i].data, (size_t)g->entry[i].count);
    vs_free(g->allocator, g->entry, g->cap * sizeof *g->entry);
    g->entry = NULL;
    g->count = g->cap = 0;
}

static bool gather_room(struct vs_gathered *g)
{
    uint32_t cap = g->cap ? 2 * g->cap : 64;
    struct vshard_raft_entry *entry;

    if (g->count < g->cap)
        return true;
    entry = vs_alloc(g->allocator, cap * sizeof *entry);
    if (entry == NULL)
        return false;
    if (g->count != 0)
        memcpy(entry, g->entry, g->count * sizeof *entry);
    vs_free(g->allocator, g->entry, g->cap * sizeof *entry);
    g->entry = entry;
    g->cap = cap;
    return true;
}

static int visit(void *ctx, const struct vshard_wal_record *r, const struct vshard_wal_place *place)
{
    struct vs_gathered *g = ctx;
    const unsigned char *head = r->payload;
    size_t bytes;
    char *data = NULL;

    (void)place;
    if (g->count > 0 && g->bytes > g->limit)
        return 1;
    if (r->payload_bytes < VS_ENTRY_HEAD_BYTES) {
        g->status = VSHARD_ECORRUPT;
        return 1;
    }
    bytes = r->payload_bytes - VS_ENTRY_HEAD_BYTES;
    if (gather_room(g) && bytes != 0)
        data = vs_alloc(g->allocator, bytes);
    if (g->count == g->cap || (bytes != 0 && data == NULL)) {
        g->status = VSHARD_ENOMEM;
        return 1;
    }
    if (bytes != 0)
        memcpy(data, head + VS_ENTRY_HEAD_BYTES, bytes);
    g->entry[g->count++] = (struct vshard_raft_entry){ .index = r->index,
                                                       .term = r->term,
                                                       .session = vs_load64(head),
                                                       .sequence = vs_load64(head + 8),
                                                       .kind = vs_load32(head + 16),
                                                       .count = bytes,
                                                       .data = data };
    g->bytes += r->payload_bytes;
    return 0;
}

int vs_gather(struct vshard_node *n, uint64_t group, uint64_t first, struct vs_gathered *g)
{
    const struct vshard_wal_visitor visitor = { visit, g };
    int rc;

    g->allocator = n->allocator;
    g->status = VSHARD_OK;
    g->bytes = 0;
    rc = vshard_wal_read(n->wal, group, first, &visitor);
    return rc != VSHARD_OK ? rc : g->status;
}
