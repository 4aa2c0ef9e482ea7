/* write.c - writes: at the node that was asked, and at the leader of a shard.
 *
 *     WRITE        8 group, 8 request, 4 part, 4 flags, then the batch, as
 *                  lib/shard/batch.c draws it
 *     WRITE_REPLY  8 request, 4 part, 4 status, 8 group, 8 index, 4 epoch, 4 0, 8 leader
 *
 * Each shard's part goes to whoever is believed to lead it, and again, to another, when
 * that turns out wrong or nothing is heard. That is safe, because the batch carries the
 * request's id, under which a shard applies it once. The flags then say AGAIN, and a leader
 * that has it under way does not propose it another time: who is slow to answer because much
 * waits must not be given more.
 *
 * Admission is here, before the log: a batch that a shard could not apply must never be
 * committed. A shard that has as many rows as it may have takes no more, but what is refused for
 * that may be a repetition of what filled it. So it is looked for among what was applied and what
 * is on its way there, when the core has said that this node leads still; and whoever asks is told
 * that it is written, or that it is not. */
#include "node/core.h"

enum { AGAIN = 1 << 16 }; /* beside VSHARD_WRITE_* */
enum { SOON_NS = 10000000, SILENT_NS = 1000000000 };
enum { LOOKED_AT = 4096 }; /* entries, which takes some hundred microseconds */

/* ---- at the node that was asked ---- */

static void send(struct vshard_node *n, struct vs_request *q, struct vs_part *p, uint64_t node)
{
    struct vs_out o = { .allocator = n->allocator };

    vs_put64(&o, p->group);
    vs_put64(&o, q->id);
    vs_put32(&o, (uint32_t)(p - q->part));
    vs_put32(&o, q->flags | (p->attempts > 1 ? AGAIN : 0));
    if (node != n->node) {
        if (o.status == VSHARD_OK)
            vs_post(n, node, VS_FRAME_WRITE, p->group, o.at, o.count, p->bytes, p->count);
        n->forwards++;
    } else {
        vs_put_bytes(&o, p->bytes, p->count);
        if (o.status == VSHARD_OK) {
            struct vs_in in = { .at = o.at, .left = o.count };

            vs_serve_write(n, n->node, &in);
        }
    }
    vs_out_free(&o);
}

/* Whoever leads, as far as is known; else one member after the other. */
static uint64_t target(struct vshard_node *n, const struct vs_request *q, const struct vs_part *p)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, p->group, NULL);
    uint64_t leader = vs_leader_of(n, p->group);

    if (shard == NULL)
        return 0;
    if (leader != 0 && (leader != p->node || p->status == VSHARD_OK))
        return leader;
    return shard->members[(q->id + p->attempts) % shard->member_count].node;
}

void vs_write_ask(struct vshard_node *n, struct vs_request *q, struct vs_part *p)
{
    uint64_t node = target(n, q, p);

    if (node == 0) { /* the collection is gone */
        vs_request_finish(n, q, VSHARD_ENOTFOUND);
        return;
    }
    p->node = node;
    p->asked_ns = n->now;
    p->again_ns = n->now + SOON_NS;
    p->attempts++;
    p->status = VSHARD_OK;
    send(n, q, p, node);
}

/* Again when another leads now, when the last answer said so, or when nothing is heard. */
void vs_write_time(struct vshard_node *n, struct vs_request *q)
{
    for (uint32_t i = 0; i < q->part_count && q->link != NULL; i++) {
        struct vs_part *p = &q->part[i];
        uint64_t leader;

        if (p->state != VS_PART_OPEN || p->again_ns > n->now)
            continue;
        leader = vs_leader_of(n, p->group);
        if (p->status != VSHARD_OK || (leader != 0 && leader != p->node) ||
            n->now - p->asked_ns >= SILENT_NS)
            vs_write_ask(n, q, p);
        else
            p->again_ns = n->now + SOON_NS;
    }
}

void vs_write_reply(struct vshard_node *n, uint64_t from, struct vs_in *in)
{
    uint64_t id = vs_take64(in);
    uint32_t part = vs_take32(in);
    int32_t status = (int32_t)vs_take32(in);
    uint64_t group = vs_take64(in), index = vs_take64(in);
    uint32_t epoch = vs_take32(in);
    struct vs_request *q = in->status == VSHARD_OK ? vs_request_find(n, id) : NULL;
    struct vs_part *p = q != NULL && part < q->part_count ? &q->part[part] : NULL;

    (void)from;
    if (p == NULL || q->kind != VSHARD_NODE_WRITE || p->group != group || p->state != VS_PART_OPEN)
        return;
    switch (status) {
    case VSHARD_OK:
        p->position = index;
        p->epoch = epoch;
        q->answered++;
        vs_request_part_done(n, q, p);
        return;
    case VSHARD_EINVAL:
    case VSHARD_E2BIG:
    case VSHARD_EBUSY: /* there is no room: the host slows down */
    case VSHARD_ENOSPC: vs_request_finish(n, q, status); return;
    default: /* another leads, or the outcome is unknown: the same again, soon */
        p->status = status;
        p->again_ns = n->now + SOON_NS / 5;
        vs_requests_by(n, p->again_ns);
    }
}

/* ---- at the leader ---- */

struct about {
    uint64_t origin, request, group, index;
    uint32_t part, epoch;
};

static void reply(struct vshard_node *n, const struct about *a, int status)
{
    struct vs_out o = { .allocator = n->allocator };

    vs_put64(&o, a->request);
    vs_put32(&o, a->part);
    vs_put32(&o, (uint32_t)status);
    vs_put64(&o, a->group);
    vs_put64(&o, a->index);
    vs_put32(&o, a->epoch);
    vs_put32(&o, 0);
    vs_put64(&o, vs_leader_of(n, a->group));
    if (o.status == VSHARD_OK && a->origin != n->node) {
        vs_post(n, a->origin, VS_FRAME_WRITE_REPLY, a->group, o.at, o.count, NULL, 0);
    } else if (o.status == VSHARD_OK) {
        struct vs_in in = { .at = o.at, .left = o.count };

        vs_write_reply(n, n->node, &in);
    }
    vs_out_free(&o);
}

/* E2BIG: it may have been done before. */
static int admit(struct vshard_node *n, const struct vs_replica *r, const void *bytes, size_t count)
{
    const struct vs_collection *c = NULL;
    struct vs_batch b;
    int rc = vs_batch_decode(&b, r->plan.newest, bytes, count);

    if (rc != VSHARD_OK)
        return VSHARD_EINVAL;
    vs_cluster_group(&n->meta, r->group, &c);
    if (c == NULL)
        return VSHARD_ENOTFOUND;
    rc = r->backlog > n->o.backlog_bytes ? VSHARD_EBUSY : vs_log_room(n);
    if (rc == VSHARD_OK && b.kind == VS_BATCH_ADD && c->spec.max_rows != 0 &&
        atomic_load(&r->rows) + b.count > c->spec.max_rows)
        rc = VSHARD_E2BIG;
    return rc == VSHARD_OK ? vs_plan_admits(&r->plan, &b) : rc;
}

static struct vs_proposal *proposal(struct vshard_node *n, const struct about *a, uint32_t kind,
                                    uint32_t flags, const void *bytes)
{
    struct vs_proposal *p = vs_proposal_new(n, kind, a->group);

    if (p == NULL)
        return NULL;
    p->origin = a->origin;
    p->request = a->request;
    p->part = a->part;
    p->until_applied = flags & VSHARD_WRITE_APPLIED;
    p->id = vs_batch_request(bytes);
    return p;
}

static int propose(struct vshard_node *n, const struct about *a, uint32_t flags, const void *bytes,
                   size_t count)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PROPOSE, a->group);
    struct vshard_raft_entry entry = { .kind = VSHARD_RAFT_DATA, .data = bytes, .count = count };
    struct vs_proposal *p = proposal(n, a, VS_PROPOSED_WRITE, flags, bytes);
    int rc;

    if (p == NULL)
        return VSHARD_ENOMEM;
    event.flags = VSHARD_RAFT_LOCAL_ONLY;
    event.entries = &entry;
    event.entry_count = 1;
    rc = vs_proposal_step(n, p, &event);
    if (TRAP(64) && rc == VSHARD_OK)
        reply(n, a, VSHARD_OK);
    return rc;
}

static int look_for(struct vshard_node *n, const struct about *a, uint32_t flags, const void *bytes)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_READ, a->group);
    struct vs_proposal *p = proposal(n, a, VS_PROPOSED_AGAIN, flags, bytes);

    if (p == NULL)
        return VSHARD_ENOMEM;
    event.mode = VSHARD_RAFT_READ_INDEX;
    event.flags = VSHARD_RAFT_LOCAL_ONLY;
    return vs_proposal_step(n, p, &event);
}

static bool under_way(const struct vshard_node *n, const struct vs_replica *r,
                      const struct about *a)
{
    for (const struct vs_proposal *p = n->proposals; p != NULL; p = p->next) {
        if ((p->kind == VS_PROPOSED_WRITE || p->kind == VS_PROPOSED_AGAIN) &&
            p->group == a->group && p->origin == a->origin && p->request == a->request &&
            p->part == a->part)
            return true;
    }
    for (const struct vs_parked *p = r->parked; p != NULL; p = p->next) {
        if (p->origin == a->origin && p->request == a->request && p->part == a->part)
            return true;
    }
    return false;
}

void vs_serve_write(struct vshard_node *n, uint64_t origin, struct vs_in *in)
{
    uint64_t group = vs_take64(in);
    struct about a = { .origin = origin, .group = group, .request = vs_take64(in) };
    struct vs_replica *r = vs_replica_find(n, group);
    uint32_t flags;
    int rc = VSHARD_ENOTLEADER;

    a.part = vs_take32(in);
    flags = vs_take32(in);
    if (in->status != VSHARD_OK)
        return;
    if (r != NULL && group != VS_META && r->status == VSHARD_OK && r->open && !r->dropped &&
        r->role == VSHARD_RAFT_LEADER) {
        if ((flags & AGAIN) && under_way(n, r, &a))
            return; /* what became of the first answers both */
        rc = admit(n, r, in->at, in->left);
        if (rc == VSHARD_OK)
            rc = propose(n, &a, flags, in->at, in->left);
        else if (rc == VSHARD_E2BIG)
            rc = look_for(n, &a, flags, in->at);
    }
    if (rc != VSHARD_OK)
        reply(n, &a, rc);
}

static int park(struct vshard_node *n, struct vs_replica *r, const struct about *a)
{
    struct vs_parked **link = &r->parked, *p = vs_alloc(n->allocator, sizeof *p);

    if (p == NULL)
        return VSHARD_ENOMEM;
    *p = (struct vs_parked){
        .origin = a->origin, .request = a->request, .index = a->index, .part = a->part
    };
    while (*link != NULL && (*link)->index <= a->index)
        link = &(*link)->next;
    p->next = *link;
    *link = p;
    return VSHARD_OK;
}

/* What it came to: with 0 it is at `index`. */
static void tell(struct vshard_node *n, const struct vs_proposal *p, int status, uint64_t index)
{
    struct vs_replica *r = vs_replica_find(n, p->group);
    struct about a = { .origin = p->origin,
                       .request = p->request,
                       .group = p->group,
                       .index = index,
                       .part = p->part,
                       .epoch = r != NULL ? (uint32_t)vs_replica_epoch(r) : 0 };

    if (status == VSHARD_OK && p->until_applied && r != NULL && vs_replica_searchable(r) < index &&
        park(n, r, &a) == VSHARD_OK)
        return;
    reply(n, &a, status);
}

void vs_write_committed(struct vshard_node *n, struct vs_proposal *p,
                        const struct vshard_raft_effect *e)
{
    /* A leader that hands over, or has much to commit, will take it soon, or another will. */
    tell(n, p, e->status == VSHARD_EBUSY ? VSHARD_ENOTLEADER : e->status, e->index);
}

static bool same(struct vshard_key a, struct vshard_key b)
{
    return a.hi == b.hi && a.lo == b.lo;
}

/* Whether a request was done before: 0, and where it is, or the shard is by now; ENOTFOUND: it was
 * not; EUNKNOWN: it cannot be told yet. What is committed waits here, or has been applied; what is
 * not is of this leader. */
static int find_before(struct vshard_node *n, struct vs_replica *r, struct vshard_key id,
                       uint64_t *index)
{
    uint32_t left = LOOKED_AT;

    if (r->shard == NULL || r->refilling || r->installing)
        return VSHARD_EUNKNOWN;
    for (const struct vs_entry *e = r->entries; e != NULL; e = e->next) {
        *index = e->index;
        if (e->count != 0 && same(vs_batch_request(e + 1), id))
            return VSHARD_OK;
        if (--left == 0)
            return VSHARD_EUNKNOWN;
    }
    *index = atomic_load(&r->applied);
    if (vs_shard_did(r->shard, id))
        return VSHARD_OK;
    for (const struct vs_proposal *p = n->proposals; p != NULL; p = p->next) {
        if (p->kind == VS_PROPOSED_WRITE && p->group == r->group && same(p->id, id))
            return VSHARD_EUNKNOWN;
    }
    return VSHARD_ENOTFOUND;
}

void vs_write_judged(struct vshard_node *n, struct vs_proposal *p,
                     const struct vshard_raft_effect *e)
{
    struct vs_replica *r = vs_replica_find(n, p->group);
    uint64_t index = 0;
    int rc = r == NULL || r->dropped ? VSHARD_ENOTLEADER : e->status;

    if (rc == VSHARD_OK)
        rc = find_before(n, r, p->id, &index);
    tell(n, p, rc == VSHARD_ENOTFOUND ? VSHARD_E2BIG : rc, index);
}

void vs_write_parked(struct vshard_node *n, struct vs_replica *r)
{
    uint64_t at = vs_replica_searchable(r);

    while (r->parked != NULL && r->parked->index <= at) {
        struct vs_parked *p = r->parked;
        const struct about a = { .origin = p->origin,
                                 .request = p->request,
                                 .group = r->group,
                                 .index = p->index,
                                 .part = p->part,
                                 .epoch = (uint32_t)vs_replica_epoch(r) };

        r->parked = p->next;
        reply(n, &a, VSHARD_OK);
        vs_free(n->allocator, p, sizeof *p);
    }
}
