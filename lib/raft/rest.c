/* rest.c - what every step needs at its two ends: room before, and rest after.
 *
 * Before: whatever the step could need is reserved, so that nothing fails later.
 * After: vs_group_finish() sends, persists, hands out and answers what the step
 * brought about, and sets the group's timer. Also here: the list of effects, the
 * barriers that are under way, and the timer heap. */
#include "raft/core.h"

/* Effects and message heads beyond those that follow from members and requests. */
enum { SPARE_EFFECTS = 12, PEER_EFFECTS = VS_BURST + 4 };

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

static void pending_shrink(struct vshard_raft *r)
{
    if (r->pending_head != 0)
        memmove(r->pending, r->pending + r->pending_head, r->pending_count * sizeof *r->pending);
    r->pending_head = 0;
    vs_shrink(r->allocator, (void **)&r->pending, &r->pending_cap, r->pending_count,
              sizeof *r->pending);
}

int vs_reserve(struct vshard_raft *r, size_t effects, size_t bytes)
{
    int rc = vs_grow(r->allocator, (void **)&r->effect, &r->effect_cap, effects, sizeof *r->effect);

    r->effect_most = effects > r->effect_most ? effects : r->effect_most;
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

/* Room that a burst over many groups took, and nobody has used since the last beat,
 * goes back. */
void vs_relax(struct vshard_raft *r)
{
    enum { KEEP = 1024 };

    if (r->effect_cap > KEEP && r->effect_most < r->effect_cap / 4) {
        vs_free(r->allocator, r->effect, r->effect_cap * sizeof *r->effect);
        vs_free(r->allocator, r->head, r->head_cap);
        r->effect = NULL;
        r->head = NULL;
        r->effect_cap = 0;
        r->head_cap = 0;
        r->effect_count = r->effect_taken = 0;
    }
    if (r->pending_cap > KEEP && r->pending_count < r->pending_cap / 4)
        pending_shrink(r);
    r->effect_most = 0;
}

int vs_pending_reserve(struct vshard_raft *r, uint32_t more)
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

/* For an event about one group, of so many bytes: of entries that may go into its log, if there are
 * any, or of what only passes through. */
int vs_reserve_one(struct vshard_raft *r, struct vs_group *g, uint32_t entries, size_t bytes)
{
    int rc = vs_group_reserve(r, g, entries, entries != 0 ? bytes : 0);

    if (rc == VSHARD_OK)
        rc = vs_pending_reserve(r, 1);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, vs_group_effects(g) + 2, vs_group_heads(g) + bytes + VS_MESSAGE_HEAD);
    return rc;
}

int vs_room_add(struct vshard_raft *r, struct vs_group *g, struct vs_room *room)
{
    room->effects += vs_group_effects(g);
    room->bytes += vs_group_heads(g);
    room->groups++;
    return vs_group_reserve(r, g, 0, 0);
}

int vs_room_make(struct vshard_raft *r, const struct vs_room *room)
{
    int rc = vs_pending_reserve(r, (uint32_t)room->groups);

    return rc == VSHARD_OK ? vs_reserve(r, room->effects, room->bytes) : rc;
}

/* ---- effects ---- */

static struct vshard_raft_effect *effect_at(struct vshard_raft *r, uint32_t at, uint32_t kind,
                                            uint64_t group)
{
    struct vshard_raft_effect *e = &r->effect[at];

    memset(e, 0, sizeof *e);
    e->size = sizeof *e;
    e->kind = kind;
    e->group = group;
    return e;
}

struct vshard_raft_effect *vs_effect(struct vshard_raft *r, uint32_t kind, uint64_t group)
{
    VS_ASSERT(r->effect_count < r->effect_cap);
    return effect_at(r, r->effect_count++, kind, group);
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

struct vshard_raft_effect *vs_send(struct vshard_raft *r, const struct vs_group *g,
                                   const struct vs_message *m, uint64_t barrier)
{
    struct vs_message out = *m;
    struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_SEND, g ? g->id : 0);
    unsigned char *head = vs_head(r, VS_MESSAGE_HEAD);

    out.group = g ? g->id : 0;
    out.from = r->o.node;
    out.from_incarnation = r->o.incarnation;
    out.boot = r->o.boot;
    if (m->kind == VS_APPEND_REPLY && g->uncertain)
        out.flags |= VS_FLAG_UNCERTAIN;
    vs_message_encode(head, &out);
    e->node = m->to;
    e->bytes = head;
    e->byte_count = VS_MESSAGE_HEAD;
    e->body = m->body;
    e->body_count = m->body_bytes;
    /* A vote may be durable before what was written before it; an entry may not. */
    if (g && !vs_promised(r, g) && barrier <= r->durable_seq)
        e->flags = VSHARD_RAFT_VOTE_ONLY;
    if (g && !vs_promised(r, g) && g->hard_seq > barrier)
        barrier = g->hard_seq;
    e->barrier = barrier_for(r, barrier);
    return e;
}

void vs_done(struct vshard_raft *r, const struct vs_group *g, const struct vs_request *q,
             int status)
{
    struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_DONE, g->id);

    e->tag = q->tag;
    e->status = status;
    e->index = status == VSHARD_OK || status == VSHARD_ESTALE ? q->index : 0;
    e->term = g->term;
    e->node = g->leader;
    if (status == VSHARD_OK &&
        (q->stamp != 0 || q->kind == VS_REQUEST_READ || q->kind == VS_REQUEST_ASK))
        e->age_ns = r->now - q->stamp;
}

void vs_dirty(struct vshard_raft *r, struct vs_group *g)
{
    g->dirty = 1;
    g->hard_seq = r->seq + 1;
}

/* All that there were have been taken. */
void vs_effects_begin(struct vshard_raft *r)
{
    r->effect_count = r->effect_taken = 0;
    /* Room for a head before the first piece, see vs_on_beats(). */
    r->head_used = VS_MESSAGE_HEAD;
}

void vs_group_begin(struct vshard_raft *r, struct vs_group *g)
{
    /* A place for the PERSIST, should there be one: it comes before all else. */
    r->persist_at = r->effect_count++;
    VS_ASSERT(r->effect_count <= r->effect_cap);
    r->effect[r->persist_at].kind = 0;
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
    struct vshard_raft_effect *e;

    if (!g->dirty && g->fresh == 0 && g->cut == 0)
        return;
    if (g->cut != 0)
        forget_cut(r, g);
    e = effect_at(r, r->persist_at, VSHARD_RAFT_PERSIST, g->id);
    e->barrier = ++r->seq;
    e->term = g->term;
    /* 11: term and vote in one write, or a crash between the two votes twice. */
    e->vote = TRAP(11) && g->told_term != g->term ? 0 : g->vote;
    e->commit = g->commit;
    e->cut = g->cut;
    if (g->fresh != 0) {
        e->entries = vs_log_at(&g->log, g->fresh);
        e->entry_count = (uint32_t)(g->log.last - g->fresh + 1);
    } else if (g->cut == 0)
        e->flags = VSHARD_RAFT_VOTE_ONLY;
    r->pending[r->pending_head + r->pending_count++] = (struct vs_pending){
        r->seq, g->log.last, r->ran_ns, g, e->flags & VSHARD_RAFT_VOTE_ONLY, 0
    };
    VS_ASSERT(r->pending_head + r->pending_count <= r->pending_cap);
}

static void tell(struct vshard_raft *r, struct vs_group *g)
{
    if (g->told_role != g->role || g->told_term != g->term || g->told_leader != g->leader) {
        struct vshard_raft_effect *e;

        if (vs_epoch(g->told_term) != vs_epoch(g->term)) {
            e = vs_effect(r, VSHARD_RAFT_EPOCH, g->id);
            e->term = g->term;
            e->index = vs_epoch_before(g);
        }
        e = vs_effect(r, VSHARD_RAFT_ROLE, g->id);
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

    if (g->stopped || !g->started || g->asleep)
        return VS_NEVER;
    if (g->role == VSHARD_RAFT_LEADER) {
        /* Answers only move this on, so one that is still to come may stand. */
        if (g->check_at <= r->now) {
            uint64_t since = vs_quorum_ns(r, g);
            g->check_at = vs_later(since > g->lead_since ? since : g->lead_since,
                                   2 * vs_group_patience(r, g));
        }
        at = g->check_at < at ? g->check_at : at;
        at = g->transfer_node != 0 && g->transfer_until < at ? g->transfer_until : at;
    } else if (g->uncertain) {
        at = g->sure_at < at ? g->sure_at : at;
    } else if (vs_can_campaign(r, g) || vs_seeks_leader(r, g)) {
        at = g->election_at < at ? g->election_at : at;
    }
    return at;
}

/* Entries that are applied and durable stay for slow replicas up to a limit. */
void vs_evict(struct vshard_raft *r, struct vs_group *g)
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

void vs_timer(struct vshard_raft *r, struct vs_group *g)
{
    g->deadline = next_deadline(r, g);
    vs_heap_place(r, g);
}

void vs_group_finish(struct vshard_raft *r, struct vs_group *g)
{
    if (!g->stopped && g->started) {
        if (g->role == VSHARD_RAFT_LEADER) {
            vs_advance_commit(r, g);
            if (!VS_CONFIG_APPLIED)
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
    vs_timer(r, g);
}
