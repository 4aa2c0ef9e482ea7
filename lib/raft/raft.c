/* raft.c - one event, all or nothing.
 *
 * Finds the group an event is about, reserves, lets the room's other files change
 * state, and brings every group that was touched to rest. Also here: the list of
 * effects, the barriers that are under way, and the timer heap. */
#include "raft/core.h"

/* Effects and message heads beyond those that follow from members and requests. */
enum { SPARE_EFFECTS = 12, PEER_EFFECTS = VS_BURST + 4 };

static const uint64_t millisecond = 1000000;

uint64_t vs_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return vs_mix64(*state);
}

/* ---- groups by id ---- */

struct vs_group *vs_group_find(const struct vshard_raft *r, uint64_t id)
{
    if (r->table_cap == 0)
        return NULL;
    for (uint64_t i = vs_mix64(id);; i++) {
        struct vs_group *g = r->table[i & (r->table_cap - 1)];
        if (g == NULL || g->id == id)
            return g;
    }
}

/* ---- timers: a binary heap by deadline ---- */

static bool sooner(const struct vs_group *a, const struct vs_group *b)
{
    return a->deadline != b->deadline ? a->deadline < b->deadline : a->id < b->id;
}

static void heap_put(struct vshard_raft *r, uint32_t at, struct vs_group *g)
{
    r->heap[at] = g;
    g->heap_at = at;
}

void vs_heap_place(struct vshard_raft *r, struct vs_group *g)
{
    uint32_t at = g->heap_at;

    while (at > 0 && sooner(g, r->heap[(at - 1) / 2])) {
        heap_put(r, at, r->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= r->group_count)
            break;
        if (child + 1 < r->group_count && sooner(r->heap[child + 1], r->heap[child]))
            child++;
        if (!sooner(r->heap[child], g))
            break;
        heap_put(r, at, r->heap[child]);
        at = child;
    }
    heap_put(r, at, g);
}

void vs_lead(struct vshard_raft *r, struct vs_group *g, bool leads)
{
    if (leads) {
        g->led_at = r->led_count;
        r->led[r->led_count++] = g;
    } else {
        struct vs_group *last = r->led[--r->led_count];
        r->led[g->led_at] = last;
        last->led_at = g->led_at;
    }
}

/* ---- reserving ---- */

int vs_reserve(struct vshard_raft *r, size_t effects, size_t bytes)
{
    int rc = vs_grow(r->allocator, (void **)&r->effect, &r->effect_cap, effects, sizeof *r->effect);

    if (rc == VSHARD_OK && bytes > r->head_cap) {
        size_t cap = r->head_cap ? r->head_cap : 4096;
        unsigned char *p;

        while (cap < bytes)
            cap *= 2;
        p = vs_alloc(r->allocator, cap);
        if (p == NULL)
            return VSHARD_ENOMEM;
        vs_free(r->allocator, r->head, r->head_cap);
        r->head = p;
        r->head_cap = cap;
    }
    return rc;
}

static int reserve_pending(struct vshard_raft *r, uint32_t more)
{
    if (r->pending_head != 0 && r->pending_head + r->pending_count + more > r->pending_cap) {
        memmove(r->pending, r->pending + r->pending_head, r->pending_count * sizeof *r->pending);
        r->pending_head = 0;
    }
    return vs_grow(r->allocator, (void **)&r->pending, &r->pending_cap,
                   (uint64_t)r->pending_head + r->pending_count + more, sizeof *r->pending);
}

size_t vs_group_effects(const struct vs_group *g)
{
    return SPARE_EFFECTS + (size_t)g->peer_cap * PEER_EFFECTS + g->proposal_count +
           g->request_count;
}

size_t vs_group_heads(const struct vs_group *g)
{
    return (vs_group_effects(g) + g->peer_cap) * (VS_MESSAGE_HEAD + VS_BEAT_BYTES) + g->meta_bytes;
}

static int reserve_queue(const struct vshard_allocator *a, struct vs_group *g)
{
    int rc;

    if (g->proposal_head != 0 && g->proposal_head + g->proposal_count == g->proposal_cap) {
        memmove(g->proposal, g->proposal + g->proposal_head,
                g->proposal_count * sizeof *g->proposal);
        g->proposal_head = 0;
    }
    rc = vs_grow(a, (void **)&g->proposal, &g->proposal_cap,
                 (uint64_t)g->proposal_head + g->proposal_count + 1, sizeof *g->proposal);
    if (rc == VSHARD_OK)
        rc = vs_grow(a, (void **)&g->request, &g->request_cap, (uint64_t)g->request_count + 1,
                     sizeof *g->request);
    return rc;
}

int vs_group_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t entries, size_t bytes)
{
    int rc = vs_log_reserve(&g->log, entries + 2, bytes + 2 * vs_entry_bytes(VS_CONFIG_BYTES));

    if (rc == VSHARD_OK)
        rc = reserve_queue(r->allocator, g);
    if (rc == VSHARD_OK)
        rc = vs_config_reserve(r, g, 2);
    return rc;
}

/* For an event about one group. */
static int reserve_one(struct vshard_raft *r, struct vs_group *g, uint32_t entries, size_t bytes)
{
    int rc = vs_group_reserve(r, g, entries, bytes);

    if (rc == VSHARD_OK)
        rc = reserve_pending(r, 1);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, vs_group_effects(g) + 2, vs_group_heads(g) + bytes + VS_MESSAGE_HEAD);
    return rc;
}

/* ---- effects ---- */

struct vshard_raft_effect *vs_effect(struct vshard_raft *r, uint32_t kind, uint64_t group)
{
    struct vshard_raft_effect *e = &r->effect[r->effect_count++];

    VS_ASSERT(r->effect_count <= r->effect_cap);
    memset(e, 0, sizeof *e);
    e->size = sizeof *e;
    e->kind = kind;
    e->group = group;
    return e;
}

unsigned char *vs_head(struct vshard_raft *r, size_t bytes)
{
    unsigned char *p = r->head + r->head_used;

    r->head_used += (bytes + 7) / 8 * 8;
    VS_ASSERT(r->head_used <= r->head_cap);
    return p;
}

static uint64_t barrier_for(const struct vshard_raft *r, uint64_t seq)
{
    /* 15: nothing leaves before what it promises is on disk. */
    return seq > r->durable_seq && !TRAP(15) ? seq : 0;
}

void vs_send(struct vshard_raft *r, const struct vs_group *g, const struct vs_message *m,
             uint64_t barrier)
{
    struct vs_message out = *m;
    struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_SEND, g ? g->id : 0);
    unsigned char *head = vs_head(r, VS_MESSAGE_HEAD);

    out.group = g ? g->id : 0;
    out.from = r->o.node;
    out.from_incarnation = r->o.incarnation;
    out.boot = r->o.boot;
    vs_message_encode(head, &out);
    e->node = m->to;
    e->bytes = head;
    e->byte_count = VS_MESSAGE_HEAD;
    e->body = m->body;
    e->body_count = m->body_bytes;
    e->barrier = barrier_for(r, g && g->hard_seq > barrier ? g->hard_seq : barrier);
}

void vs_done(struct vshard_raft *r, const struct vs_group *g, const struct vs_request *q,
             int status)
{
    struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_DONE, g->id);

    e->tag = q->tag;
    e->status = status;
    e->index = status == VSHARD_OK ? q->index : 0;
    e->term = g->term;
    e->node = g->leader;
    if (status == VSHARD_OK && q->stamp != 0)
        e->age_ns = r->now - q->stamp;
}

void vs_dirty(struct vshard_raft *r, struct vs_group *g)
{
    g->dirty = 1;
    g->hard_seq = r->seq + 1;
}

void vs_group_begin(struct vshard_raft *r, struct vs_group *g)
{
    r->persist_at = r->effect_count;
    vs_effect(r, 0, g->id);
    g->cut = g->fresh = 0;
    g->dirty = g->want_beat = 0;
}

/* A barrier that covered entries which have since been cut must not vouch for
 * those that took their place (trap 6). */
static void forget_cut(struct vshard_raft *r, const struct vs_group *g)
{
    for (uint32_t i = 0; i < r->pending_count; i++) {
        struct vs_pending *p = &r->pending[r->pending_head + i];
        if (p->group == g && p->last >= g->cut && !TRAP(6))
            p->last = g->cut - 1;
    }
}

static void persist(struct vshard_raft *r, struct vs_group *g)
{
    struct vshard_raft_effect *e = &r->effect[r->persist_at];

    if (!g->dirty && g->fresh == 0 && g->cut == 0)
        return;
    if (g->cut != 0)
        forget_cut(r, g);
    e->kind = VSHARD_RAFT_PERSIST;
    e->barrier = ++r->seq;
    e->term = g->term;
    /* 11: term and vote in one write, or a crash between the two votes twice. */
    e->vote = TRAP(11) && g->told_term != g->term ? 0 : g->vote;
    e->commit = g->commit;
    e->cut = g->cut;
    if (g->fresh != 0) {
        e->entries = vs_log_at(&g->log, g->fresh);
        e->entry_count = (uint32_t)(g->log.last - g->fresh + 1);
    }
    r->pending[r->pending_head + r->pending_count++] =
        (struct vs_pending){ r->seq, g->log.last, r->now, g };
    VS_ASSERT(r->pending_head + r->pending_count <= r->pending_cap);
}

static void tell(struct vshard_raft *r, struct vs_group *g)
{
    if (g->told_role != g->role || g->told_term != g->term || g->told_leader != g->leader) {
        struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_ROLE, g->id);
        e->role = g->told_role = g->role;
        e->term = g->told_term = g->term;
        e->node = g->told_leader = g->leader;
    }
    if (g->told_members) {
        vs_effect(r, VSHARD_RAFT_MEMBERS, g->id);
        g->told_members = 0;
    }
}

static uint64_t next_deadline(const struct vshard_raft *r, struct vs_group *g)
{
    uint64_t at = g->expires;

    if (g->stopped || !g->started)
        return VS_NEVER;
    if (g->role == VSHARD_RAFT_LEADER) {
        /* Answers only move this on, so one that is still to come may stand. */
        if (g->check_at <= r->now) {
            uint64_t since = vs_quorum_ns(r, g);
            g->check_at =
                vs_later(since > g->lead_since ? since : g->lead_since, 2 * r->o.election_ns);
        }
        at = g->check_at < at ? g->check_at : at;
        at = g->transfer_node != 0 && g->transfer_until < at ? g->transfer_until : at;
    } else if (g->uncertain) {
        at = g->sure_at < at ? g->sure_at : at;
    } else if (vs_can_campaign(r, g)) {
        at = g->election_at < at ? g->election_at : at;
    }
    return at;
}

/* Entries that are applied and durable stay for slow replicas up to a limit. */
static void evict(struct vshard_raft *r, struct vs_group *g)
{
    uint64_t through = g->applied < g->durable ? g->applied : g->durable;

    while (g->log.byte_tail - g->log.byte_head > r->o.max_cache_bytes) {
        uint64_t first = vs_log_cached(&g->log);
        uint64_t half = first + (g->log.slot_count - 1) / 2;

        if (first > through)
            break;
        vs_log_evict(&g->log, half < through ? half : through);
    }
}

void vs_group_finish(struct vshard_raft *r, struct vs_group *g)
{
    if (!g->stopped && g->started) {
        if (g->role == VSHARD_RAFT_LEADER) {
            vs_advance_commit(r, g);
            vs_leave_joint(r, g);
            vs_flush(r, g);
        }
        vs_install_try(r, g);
        persist(r, g);
        vs_certain_try(r, g);
        vs_hand_out(r, g);
        vs_reads_release(r, g);
        if (g->want_beat)
            vs_beats(r, g);
        vs_answer(r, g);
    } else {
        persist(r, g);
    }
    tell(r, g);
    g->deadline = next_deadline(r, g);
    vs_heap_place(r, g);
}

/* ---- events ---- */

bool vs_stalled(const struct vshard_raft *r)
{
    /* 34: a leader whose disk hangs must not hold the others off with heartbeats. */
    return r->pending_count != 0 && !TRAP(34) &&
           r->now - r->pending[r->pending_head].since_ns > r->o.disk_stall_ns;
}

static bool due(const struct vshard_raft *r, const struct vs_group *g, bool stalled)
{
    return g->deadline <= r->now || (stalled && g->role == VSHARD_RAFT_LEADER);
}

static int on_time(struct vshard_raft *r)
{
    bool stalled = vs_stalled(r), beat = r->beat_at <= r->now;
    size_t effects = 0, bytes = 0, groups = 0;
    int rc = VSHARD_OK;

    if (r->group_count == 0)
        return VSHARD_OK;
    /* A heap's due members are found without looking below one that is not due. */
    for (uint32_t i = 0; i < r->group_count && rc == VSHARD_OK; i++) {
        struct vs_group *g = r->heap[i];
        if (!due(r, g, stalled))
            continue;
        rc = vs_group_reserve(r, g, 0, 0);
        effects += vs_group_effects(g);
        bytes += vs_group_heads(g);
        groups++;
    }
    if (beat) {
        bytes += vs_beats_bytes(r);
        effects += vs_beats_bytes(r) / VS_MESSAGE_HEAD;
    }
    if (rc == VSHARD_OK)
        rc = reserve_pending(r, (uint32_t)groups);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, effects, bytes);
    if (rc != VSHARD_OK)
        return rc;

    r->step_id++;
    for (uint32_t i = 0; i < r->led_count && stalled;) {
        struct vs_group *g = r->led[i];
        vs_group_begin(r, g);
        vs_become_follower(r, g, g->term, 0);
        vs_group_finish(r, g);
        g->mark = r->step_id;
    }
    while (r->heap[0]->deadline <= r->now) {
        struct vs_group *g = r->heap[0];
        if (g->mark == r->step_id) { /* it was served, and wants to be again at once */
            g->deadline = r->now + 1;
            vs_heap_place(r, g);
            continue;
        }
        g->mark = r->step_id;
        vs_group_begin(r, g);
        vs_election_tick(r, g);
        vs_group_finish(r, g);
    }
    if (beat) {
        vs_beats(r, NULL);
        r->beat_at = r->now + r->o.heartbeat_ns;
    }
    return VSHARD_OK;
}

static int on_persisted(struct vshard_raft *r, uint64_t through)
{
    size_t effects = 0, bytes = 0, groups = 0;
    int rc = VSHARD_OK;

    if (through > r->seq)
        return VSHARD_EINVAL;
    if (through <= r->durable_seq)
        return VSHARD_OK;
    r->step_id++;
    for (uint32_t i = 0; i < r->pending_count && rc == VSHARD_OK; i++) {
        const struct vs_pending *p = &r->pending[r->pending_head + i];
        if (p->seq > through || p->group->mark == r->step_id)
            continue;
        p->group->mark = r->step_id;
        rc = vs_group_reserve(r, p->group, 0, 0);
        effects += vs_group_effects(p->group);
        bytes += vs_group_heads(p->group);
        groups++;
    }
    if (rc == VSHARD_OK)
        rc = reserve_pending(r, (uint32_t)groups);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, effects, bytes);
    if (rc != VSHARD_OK)
        return rc;

    r->durable_seq = through;
    for (uint32_t i = 0; i < r->pending_count && r->pending[r->pending_head + i].seq <= through;
         i++) {
        const struct vs_pending *p = &r->pending[r->pending_head + i];
        if (p->last > p->group->durable)
            p->group->durable = p->last < p->group->log.last ? p->last : p->group->log.last;
    }
    r->step_id++;
    while (r->pending_count != 0 && r->pending[r->pending_head].seq <= through) {
        struct vs_group *g = r->pending[r->pending_head].group;

        r->pending_head++;
        r->pending_count--;
        if (g->mark == r->step_id)
            continue;
        g->mark = r->step_id;
        vs_group_begin(r, g);
        vs_self_vote(r, g);
        vs_group_finish(r, g);
    }
    return VSHARD_OK;
}

/* 37: what a failed sync promised is not there, and trying again does not bring it
 * back. The node falls silent; what it led, it leads no more. */
static int on_persist_failed(struct vshard_raft *r)
{
    size_t effects = 0, bytes = 0;
    int rc = VSHARD_OK;

    if (TRAP(37))
        return on_persisted(r, r->seq);
    if (TRAP(7))
        return VSHARD_OK;
    for (uint32_t i = 0; i < r->group_count; i++) {
        effects += vs_group_effects(r->heap[i]);
        bytes += vs_group_heads(r->heap[i]);
    }
    rc = vs_reserve(r, effects, bytes);
    if (rc == VSHARD_OK)
        rc = reserve_pending(r, r->group_count);
    if (rc != VSHARD_OK)
        return rc;
    r->poisoned = 1;
    for (uint32_t i = 0; i < r->group_count; i++)
        vs_group_stop(r, r->heap[i], VSHARD_EIO);
    for (uint32_t i = 0; i < r->group_count; i++)
        r->heap[i]->deadline = VS_NEVER;
    return VSHARD_OK;
}

/* ---- messages ---- */

static int refuse_message(uint64_t *counter, int status)
{
    ++*counter;
    return status;
}

/* What appended entries of a message need beyond their bytes. */
static int reserve_special(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    const unsigned char *p = m->body;
    size_t left = m->body_bytes;
    uint32_t configs = 0;
    int rc = VSHARD_OK;

    for (uint32_t i = 0; i < m->count && rc == VSHARD_OK; i++) {
        struct vshard_raft_entry e;
        size_t n = vs_entry_decode(&e, p, left);

        configs += e.kind == VSHARD_RAFT_CONFIG;
        if (e.kind == VSHARD_RAFT_SESSION)
            rc = vs_sessions_reserve(r, g, r->o.max_sessions);
        p += n;
        left -= n;
    }
    return rc == VSHARD_OK && configs != 0 ? vs_config_reserve(r, g, configs + 2) : rc;
}

static int dispatch(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    switch (m->kind) {
    case VS_PREVOTE:
    case VS_VOTE: vs_on_vote(r, g, m); break;
    case VS_PREVOTE_REPLY:
    case VS_VOTE_REPLY: vs_on_vote_reply(r, g, m); break;
    case VS_APPEND: vs_on_append(r, g, m); break;
    case VS_APPEND_REPLY: vs_on_append_reply(r, g, m); break;
    case VS_TIMEOUT_NOW: vs_on_timeout_now(r, g, m); break;
    case VS_FORWARD: return vs_on_forward(r, g, m);
    case VS_FORWARD_REPLY: vs_on_forward_reply(r, g, m); break;
    case VS_READ: vs_on_read(r, g, m); break;
    case VS_READ_REPLY: vs_on_read_reply(r, g, m); break;
    case VS_TERM: vs_on_term(r, g, m); break;
    case VS_TERM_REPLY: vs_on_term_reply(r, g, m); break;
    case VS_CHUNK: return vs_on_chunk(r, g, m);
    case VS_CHUNK_REPLY: vs_on_chunk_reply(r, g, m); break;
    default: break;
    }
    return VSHARD_OK;
}

static int on_beat_frame(struct vshard_raft *r, const struct vs_message *m)
{
    size_t effects = 4, bytes = 2 * VS_MESSAGE_HEAD + m->body_bytes;
    struct vs_message reply = { .kind = VS_BEAT_REPLIES,
                                .to = m->from,
                                .stamp = m->stamp,
                                .to_incarnation = m->from_incarnation,
                                .round = m->round };
    unsigned char *out;
    uint64_t barrier = 0;
    int rc = VSHARD_OK;

    for (uint32_t i = 0; i < m->count && rc == VSHARD_OK; i++) {
        struct vs_group *g = vs_group_find(r, vs_load64(m->body + VS_BEAT_BYTES * (size_t)i));
        if (g == NULL)
            continue;
        rc = vs_group_reserve(r, g, 0, 0);
        effects += vs_group_effects(g);
        bytes += vs_group_heads(g);
    }
    if (rc == VSHARD_OK)
        rc = reserve_pending(r, m->count);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, effects, bytes);
    if (rc != VSHARD_OK)
        return rc;
    out = vs_head(r, m->body_bytes);
    for (uint32_t i = 0; i < m->count; i++) {
        struct vs_beat b, answer = { 0 };
        struct vs_group *g;

        vs_beat_decode(&b, m->body + VS_BEAT_BYTES * (size_t)i);
        g = vs_group_find(r, b.group);
        if (g == NULL || !g->started || g->stopped || b.term >> 63 || b.commit >> 63 ||
            (b.to_incarnation != r->o.incarnation && !TRAP(16)))
            continue;
        vs_group_begin(r, g);
        if (m->kind == VS_BEATS) {
            vs_on_beat(r, g, m, &b, &answer);
            vs_beat_encode(out + VS_BEAT_BYTES * (size_t)reply.count++, &answer);
        } else {
            vs_on_beat_reply(r, g, m, &b);
        }
        vs_group_finish(r, g);
        barrier = g->hard_seq > barrier ? g->hard_seq : barrier;
    }
    if (reply.count != 0) {
        struct vshard_raft_effect *e;
        reply.body_bytes = VS_BEAT_BYTES * (size_t)reply.count;
        reply.body = out;
        vs_send(r, NULL, &reply, barrier);
        e = &r->effect[r->effect_count - 1];
        /* Head and beats lie apart; join them, so that what waits has no body. */
        e->bytes = memmove(out - VS_MESSAGE_HEAD, e->bytes, VS_MESSAGE_HEAD);
        e->byte_count = VS_MESSAGE_HEAD + reply.body_bytes;
        e->body = NULL;
        e->body_count = 0;
    }
    return VSHARD_OK;
}

static int on_message(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    struct vs_message m;
    struct vs_group *g;
    int rc = vs_message_decode(&m, e->bytes, (size_t)e->byte_count);

    if (rc == VSHARD_ECORRUPT)
        return refuse_message(&r->counters.malformed, rc);
    if (rc == VSHARD_EVERSION)
        return refuse_message(&r->counters.unversioned, rc);
    /* 38: a message for someone else is refused here, whatever it says. */
    if (!TRAP(38) && (m.to != r->o.node || m.from == r->o.node ||
                      (m.to_incarnation != r->o.incarnation && m.to_incarnation != 0 && !TRAP(16))))
        return refuse_message(&r->counters.misdirected, VSHARD_EINVAL);
    if (m.kind == VS_BEATS || m.kind == VS_BEAT_REPLIES) {
        rc = on_beat_frame(r, &m);
        r->counters.messages += rc == VSHARD_OK;
        return rc;
    }
    g = vs_group_find(r, m.group);
    if (g == NULL || !g->started)
        return refuse_message(&r->counters.ungrouped, VSHARD_ENOTFOUND);
    if (g->stopped)
        return VSHARD_OK;
    rc = reserve_special(r, g, &m);
    if (rc == VSHARD_OK)
        rc = reserve_one(r, g, m.count, m.body_bytes);
    if (rc != VSHARD_OK)
        return rc;
    vs_group_begin(r, g);
    rc = dispatch(r, g, &m);
    if (rc != VSHARD_OK) {
        r->effect_count = 0;
        return rc;
    }
    vs_group_finish(r, g);
    r->counters.messages++;
    return VSHARD_OK;
}

/* ---- the host's requests ---- */

static int entries_bytes(const struct vshard_raft_event *e, size_t *bytes)
{
    *bytes = 0;
    if (e->entry_count != 0 && e->entries == NULL)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        if (x->count > VS_ENTRY_MAX || (x->count != 0 && x->data == NULL))
            return VSHARD_EINVAL;
        *bytes += vs_entry_bytes(x->count);
    }
    return *bytes <= VS_MESSAGE_MAX - VS_MESSAGE_HEAD ? VSHARD_OK : VSHARD_EINVAL;
}

static int on_request(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    switch (e->kind) {
    case VSHARD_RAFT_PROPOSE: return vs_propose(r, g, e);
    case VSHARD_RAFT_CONFIGURE: vs_configure(r, g, e); break;
    case VSHARD_RAFT_READ: vs_read(r, g, e); break;
    case VSHARD_RAFT_TRANSFER: vs_transfer(r, g, e); break;
    case VSHARD_RAFT_CAMPAIGN:
        if (g->role != VSHARD_RAFT_LEADER && vs_can_campaign(r, g))
            vs_campaign(r, g, 0);
        break;
    case VSHARD_RAFT_APPLIED:
        if (e->index > g->handed)
            return VSHARD_EINVAL;
        g->applied = e->index > g->applied ? e->index : g->applied;
        evict(r, g);
        break;
    case VSHARD_RAFT_SNAPSHOT: return vs_snapshot(r, g);
    case VSHARD_RAFT_COMPACT: return vs_compact(r, g, e);
    case VSHARD_RAFT_FETCHED: vs_on_fetched(r, g, e); break;
    case VSHARD_RAFT_CHUNK: vs_on_host_chunk(r, g, e); break;
    case VSHARD_RAFT_CHUNK_WRITTEN: vs_on_chunk_written(r, g, e); break;
    case VSHARD_RAFT_INSTALLED: return vs_on_installed(r, g, e);
    default: return VSHARD_EINVAL;
    }
    return VSHARD_OK;
}

static int on_group_event(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    struct vs_group *g = vs_group_find(r, e->group);
    size_t bytes;
    int rc = entries_bytes(e, &bytes);

    if (rc != VSHARD_OK)
        return rc;
    if (g == NULL || !g->started)
        return VSHARD_ENOTFOUND;
    if (g->stopped)
        return VSHARD_EIO;
    for (uint32_t i = 0; i < e->entry_count && rc == VSHARD_OK; i++) {
        if (e->entries[i].kind == VSHARD_RAFT_SESSION)
            rc = vs_sessions_reserve(r, g, r->o.max_sessions);
    }
    if (rc == VSHARD_OK && e->kind == VSHARD_RAFT_CHUNK)
        bytes += e->byte_count;
    if (rc == VSHARD_OK)
        rc = reserve_one(r, g, e->entry_count, bytes);
    if (rc != VSHARD_OK)
        return rc;
    vs_group_begin(r, g);
    rc = on_request(r, g, e);
    if (rc != VSHARD_OK) {
        r->effect_count = 0;
        return rc;
    }
    vs_group_finish(r, g);
    return VSHARD_OK;
}

static int take_event(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    if (r->effect_taken < r->effect_count)
        return VSHARD_EBUSY;
    if (r->poisoned)
        return VSHARD_EIO;
    if (e->kind != VSHARD_RAFT_MESSAGE && e->kind != VSHARD_RAFT_CHUNK && e->byte_count != 0)
        return VSHARD_EINVAL;
    if (e->byte_count > VS_MESSAGE_MAX || (e->byte_count != 0 && e->bytes == NULL))
        return VSHARD_EINVAL;
    r->effect_count = r->effect_taken = 0;
    /* Room for a head before the first piece, see on_beat_frame(). */
    r->head_used = VS_MESSAGE_HEAD;
    r->now = e->now_ns > r->now ? e->now_ns : r->now;
    switch (e->kind) {
    case VSHARD_RAFT_TIME: return on_time(r);
    case VSHARD_RAFT_MESSAGE: return on_message(r, e);
    case VSHARD_RAFT_PERSISTED: return on_persisted(r, e->barrier);
    case VSHARD_RAFT_PERSIST_FAILED: return on_persist_failed(r);
    default: return on_group_event(r, e);
    }
}

int vshard_raft_step(struct vshard_raft *r, const struct vshard_raft_event *event)
{
    struct vshard_raft_event copy;
    uint64_t was;
    int rc;

    if (r == NULL || event == NULL)
        return VSHARD_EINVAL;
    if (event->size != sizeof copy) { /* from a caller built with other headers */
        rc = vs_options_read(&copy, sizeof copy, event,
                             VS_SIZE_THROUGH(struct vshard_raft_event, reserved_pointer));
        if (rc != VSHARD_OK)
            return rc;
        event = &copy;
    }
    was = r->now;
    rc = take_event(r, event);
    if (rc == VSHARD_ENOMEM)
        r->now = was;
    return rc;
}

const struct vshard_raft_effect *vshard_raft_next(struct vshard_raft *r)
{
    while (r->effect_taken < r->effect_count) {
        const struct vshard_raft_effect *e = &r->effect[r->effect_taken++];
        if (e->kind != 0)
            return e;
    }
    return NULL;
}

uint64_t vshard_raft_deadline_ns(const struct vshard_raft *r)
{
    uint64_t at = r->group_count != 0 ? r->heap[0]->deadline : VS_NEVER;

    if (r->poisoned)
        return VS_NEVER;
    return r->led_count != 0 && r->beat_at < at ? r->beat_at : at;
}

/* ---- birth and death of a node ---- */

static int read_options(struct vshard_raft_options *o, const struct vshard_raft_options *from)
{
    int rc =
        vs_options_read(o, sizeof *o, from, VS_SIZE_THROUGH(struct vshard_raft_options, logger));

    if (rc != VSHARD_OK)
        return rc;
    if (o->node == 0 || o->incarnation == 0 || o->boot == 0 || o->max_inflight > VS_FLIGHT_MAX ||
        o->max_sessions > 65536 || o->clock_drift_ppm > 100000)
        return VSHARD_EINVAL;
    if (o->max_inflight == 0)
        o->max_inflight = VS_FLIGHT_MAX;
    if (o->heartbeat_ns == 0)
        o->heartbeat_ns = 30 * millisecond;
    if (o->election_ns == 0)
        o->election_ns = 150 * millisecond;
    if (o->disk_stall_ns == 0)
        o->disk_stall_ns = 4 * o->election_ns;
    if (o->request_ns == 0)
        o->request_ns = 10 * o->election_ns;
    if (o->max_message == 0)
        o->max_message = 256 << 10;
    if (o->max_inflight_bytes == 0)
        o->max_inflight_bytes = 4 << 20;
    if (o->max_uncommitted_bytes == 0)
        o->max_uncommitted_bytes = 64 << 20;
    if (o->max_cache_bytes == 0)
        o->max_cache_bytes = 1 << 20;
    if (o->clock_drift_ppm == 0)
        o->clock_drift_ppm = 1000;
    if (o->max_sessions == 0)
        o->max_sessions = 1024;
    /* Heartbeats must fit into the silence a follower bears, with some to spare. */
    return o->heartbeat_ns * 2 <= o->election_ns && o->election_ns >> 48 == 0 ? VSHARD_OK
                                                                              : VSHARD_EINVAL;
}

int vshard_raft_create(const struct vshard_raft_options *options, struct vshard_raft **raft)
{
    struct vshard_raft_options o;
    struct vshard_raft *r;
    int rc;

    if (raft == NULL)
        return VSHARD_EINVAL;
    *raft = NULL;
    rc = read_options(&o, options);
    if (rc != VSHARD_OK)
        return rc;
    r = vs_alloc_zeroed(o.allocator, sizeof *r);
    if (r == NULL)
        return VSHARD_ENOMEM;
    r->o = o;
    if (o.allocator != NULL) {
        r->allocator_copy = *o.allocator;
        r->allocator = &r->allocator_copy;
    }
    if (o.logger != NULL) {
        r->logger_copy = *o.logger;
        r->logger = &r->logger_copy;
    }
    *raft = r;
    return VSHARD_OK;
}

void vshard_raft_destroy(struct vshard_raft *r)
{
    struct vshard_allocator copy;
    const struct vshard_allocator *a = NULL;

    if (r == NULL)
        return;
    for (uint32_t i = 0; i < r->group_count; i++)
        vs_group_free(r, r->heap[i]);
    if (r->allocator != NULL) {
        copy = r->allocator_copy;
        a = &copy;
    }
    vs_free(a, r->table, r->table_cap * sizeof *r->table);
    vs_free(a, r->heap, r->heap_cap * sizeof *r->heap);
    vs_free(a, r->led, r->led_cap * sizeof *r->led);
    vs_free(a, r->pending, r->pending_cap * sizeof *r->pending);
    vs_free(a, r->effect, r->effect_cap * sizeof *r->effect);
    vs_free(a, r->head, r->head_cap);
    vs_free(a, r, sizeof *r);
}
