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
 * committed. */
#include "node/core.h"

enum { AGAIN = 1 << 16 }; /* beside VSHARD_WRITE_* */
enum { SOON_NS = 10000000, SILENT_NS = 1000000000 };

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
    if (b.kind == VS_BATCH_ADD && c->spec.max_rows != 0 &&
        atomic_load(&r->rows) + b.count > c->spec.max_rows)
        return VSHARD_E2BIG;
    rc = r->backlog > n->o.backlog_bytes ? VSHARD_EBUSY : vs_log_room(n);
    if (rc != VSHARD_OK)
        return rc;
    return vs_plan_admits(&r->plan, &b);
}

static int propose(struct vshard_node *n, const struct about *a, uint32_t flags, const void *bytes,
                   size_t count)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PROPOSE, a->group);
    struct vshard_raft_entry entry = { .kind = VSHARD_RAFT_DATA, .data = bytes, .count = count };
    struct vs_proposal *p = vs_proposal_new(n, VS_PROPOSED_WRITE, a->group);
    int rc;

    if (p == NULL)
        return VSHARD_ENOMEM;
    p->origin = a->origin;
    p->request = a->request;
    p->part = a->part;
    p->until_applied = flags & VSHARD_WRITE_APPLIED;
    event.tag = (uintptr_t)p;
    event.flags = VSHARD_RAFT_LOCAL_ONLY;
    event.entries = &entry;
    event.entry_count = 1;
    rc = vs_step(n, &event);
    if (rc != VSHARD_OK)
        vs_proposal_free(n, p);
    if (TRAP(64) && rc == VSHARD_OK)
        reply(n, a, VSHARD_OK);
    return rc;
}

static bool under_way(const struct vshard_node *n, const struct vs_replica *r,
                      const struct about *a)
{
    for (const struct vs_proposal *p = n->proposals; p != NULL; p = p->next) {
        if (p->kind == VS_PROPOSED_WRITE && p->group == a->group && p->origin == a->origin &&
            p->request == a->request && p->part == a->part)
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

void vs_write_committed(struct vshard_node *n, struct vs_proposal *p,
                        const struct vshard_raft_effect *e)
{
    struct vs_replica *r = vs_replica_find(n, p->group);
    struct about a = { .origin = p->origin,
                       .request = p->request,
                       .group = p->group,
                       .index = e->index,
                       .part = p->part,
                       .epoch = r != NULL ? (uint32_t)vs_replica_epoch(r) : 0 };

    if (e->status == VSHARD_OK && p->until_applied && r != NULL &&
        vs_replica_searchable(r) < e->index && park(n, r, &a) == VSHARD_OK)
        return;
    /* A leader that hands over, or has much to commit, will take it soon, or another will. */
    reply(n, &a, e->status == VSHARD_EBUSY ? VSHARD_ENOTLEADER : e->status);
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
