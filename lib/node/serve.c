/* serve.c - searches and fetches at a replica: until it is as fresh as asked for, then as
 * an item, then back to who asked.
 *
 * Frames are drawn in ask.c. ENOTSUP in an answer means that there is no such replica
 * here; a row that is not there is ENOTFOUND. */
#include "node/core.h"

void vs_serving_free(struct vshard_node *n, struct vs_serving *s)
{
    if (s == NULL)
        return;
    vs_read_gone(n, s);
    vs_free(n->allocator, s->asked, s->asked_bytes);
    vs_free(n->allocator, s->hits, s->k * sizeof *s->hits);
    vs_out_free(&s->row);
    vs_free(n->allocator, s, sizeof *s);
}

/* ---- answers ---- */

struct about {
    uint64_t origin, request, group, position;
    uint32_t part, epoch;
};

static void put_hits(struct vs_out *o, const struct vs_serving *s)
{
    unsigned char *to;

    vs_put32(o, s->answer.found);
    vs_put32(o, 0);
    to = vs_put_room(o, 32 * (size_t)s->answer.found);
    for (uint32_t i = 0; to != NULL && i < s->answer.found; i++, to += 32) {
        uint32_t bits;

        memcpy(&bits, &s->hits[i].distance, sizeof bits);
        vs_store64(to, s->hits[i].key.hi);
        vs_store64(to + 8, s->hits[i].key.lo);
        vs_store64(to + 16, s->hits[i].version);
        vs_store32(to + 24, bits);
        vs_store32(to + 28, 0);
    }
}

void vs_put_row(struct vs_out *o, const struct vs_serving *s)
{
    vs_put64(o, s->version);
    vs_put32(o, s->vector_bytes);
    vs_put32(o, s->value_count);
    vs_put32(o, s->payload_bytes);
    vs_put32(o, 0);
    vs_put_bytes(o, s->row.at, s->row.count);
}

static void reply(struct vshard_node *n, const struct about *a, int status,
                  const struct vs_serving *s)
{
    struct vs_out o = { .allocator = n->allocator };

    vs_put64(&o, a->request);
    vs_put32(&o, a->part);
    vs_put32(&o, (uint32_t)status);
    vs_put64(&o, a->group);
    vs_put64(&o, a->position);
    vs_put32(&o, a->epoch);
    vs_put32(&o, s != NULL ? s->answer.limits : 0);
    vs_put64(&o, s != NULL ? s->answer.distances : 0);
    vs_put64(&o, s != NULL ? s->answer.rows : 0);
    if (s != NULL && status == VSHARD_OK && s->kind == VS_SERVE_SEARCH)
        put_hits(&o, s);
    if (s != NULL && status == VSHARD_OK && s->kind == VS_SERVE_FETCH)
        vs_put_row(&o, s);
    if (o.status == VSHARD_OK && a->origin != n->node) {
        vs_post(n, a->origin, VS_FRAME_READ_REPLY, a->group, o.at, o.count, NULL, 0);
    } else if (o.status == VSHARD_OK) {
        struct vs_in in = { .at = o.at, .left = o.count };

        vs_read_reply(n, n->node, &in);
    }
    vs_out_free(&o);
}

static void answer(struct vshard_node *n, struct vs_serving *s, int status, uint64_t position)
{
    const struct about a = { .origin = s->origin,
                             .request = s->request,
                             .part = s->part,
                             .group = s->replica->group,
                             .position = position,
                             .epoch = (uint32_t)vs_replica_epoch(s->replica) };

    reply(n, &a, status, s);
    vs_serving_free(n, s);
}

/* ---- from a frame ---- */

/* Who comes has nothing at first, and who makes its state again little. That is no answer, not even
 * for who asks for no freshness: others have it all. */
static bool is_whole(struct vshard_node *n, struct vs_replica *r)
{
    uint64_t at = vs_replica_searchable(r);

    r->comes = r->comes && !vs_replica_came(n, r, at);
    return !r->comes && at >= r->whole_at;
}

bool vs_serves(struct vshard_node *n, struct vs_replica *r)
{
    return r != NULL && r->group != VS_META && r->status == VSHARD_OK && r->open && !r->dropped &&
           !r->diverged && !r->refilling && is_whole(n, r);
}

static int take_query(struct vshard_node *n, struct vs_serving *s, struct vs_in *in)
{
    uint32_t bytes;
    const void *asked;

    s->k = vs_take32(in);
    vs_take32(in);
    s->max_staleness_ns = vs_take64(in);
    s->key = vs_take_key(in);
    s->ef = vs_take32(in);
    s->target_recall = vs_take_float(in);
    s->where_bytes = vs_take32(in);
    bytes = vs_take32(in);
    /* An export writes a file: only who is here may ask for it. */
    if (s->kind != VS_SERVE_SEARCH && s->kind != VS_SERVE_FETCH)
        return VSHARD_EINVAL;
    if (s->where_bytes > VSHARD_WHERE_BYTES_MAX || s->k > VSHARD_MERGE_K_MAX)
        return VSHARD_EINVAL;
    asked = vs_take_bytes(in, (size_t)s->where_bytes + bytes);
    if (in->status != VSHARD_OK || in->left != 0)
        return VSHARD_ECORRUPT;
    if (s->kind == VS_SERVE_FETCH)
        return VSHARD_OK;
    if (s->k == 0 || bytes != vs_plan_vector_bytes(&s->replica->plan))
        return VSHARD_EINVAL;
    s->asked = vs_alloc(n->allocator, (size_t)s->where_bytes + bytes);
    if (s->asked == NULL)
        return VSHARD_ENOMEM;
    s->asked_bytes = (size_t)s->where_bytes + bytes;
    memcpy(s->asked, asked, s->asked_bytes);
    return VSHARD_OK;
}

static uint32_t item_of(const struct vs_serving *s)
{
    switch (s->kind) {
    case VS_SERVE_FETCH: return VS_ITEM_FETCH;
    case VS_SERVE_EXPORT: return VS_ITEM_EXPORT;
    default: return VS_ITEM_SEARCH;
    }
}

static void run(struct vshard_node *n, struct vs_serving *s)
{
    struct vs_item *item = vs_item_new(n, item_of(s), s->replica);

    if (item == NULL) {
        answer(n, s, VSHARD_ENOMEM, 0);
        return;
    }
    item->serving = s;
    vs_item_push(n, item);
}

static uint64_t stands_at(const struct vs_serving *s)
{
    return s->kind == VS_SERVE_EXPORT ? atomic_load(&s->replica->applied)
                                      : vs_replica_searchable(s->replica);
}

/* Now, or when the replica is there. */
static void run_or_wait(struct vshard_node *n, struct vs_serving *s)
{
    struct vs_replica *r = s->replica;

    if (stands_at(s) >= s->wanted_index || TRAP(62)) {
        run(n, s);
        return;
    }
    /* A quarter of the time is left for who asked, to ask another. */
    s->wait_until_ns = s->deadline_ns - (s->deadline_ns - n->now) / 4;
    n->serve_at = s->wait_until_ns < n->serve_at ? s->wait_until_ns : n->serve_at;
    s->next = r->waiting;
    r->waiting = s;
}

/* Asks the core how far the shard must be. */
static void ask_core(struct vshard_node *n, struct vs_serving *s)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_READ, s->replica->group);
    struct vs_proposal *p = vs_proposal_new(n, VS_PROPOSED_READ, s->replica->group);
    int rc;

    if (p == NULL) {
        answer(n, s, VSHARD_ENOMEM, 0);
        return;
    }
    p->serving = s;
    event.mode =
        s->consistency == VSHARD_READ_BOUNDED ? VSHARD_RAFT_READ_STALE : VSHARD_RAFT_READ_INDEX;
    event.max_age_ns = s->max_staleness_ns;
    s->replica->raft_reads++;
    rc = vs_proposal_step(n, p, &event);
    if (rc != VSHARD_OK) { /* the core did not take it, and answers nothing */
        s->replica->raft_reads--;
        answer(n, s, rc, 0);
    }
}

void vs_serve_read_done(struct vshard_node *n, struct vs_serving *s, int status, uint64_t index)
{
    s->replica->raft_reads--;
    if (status != VSHARD_OK || s->deadline_ns <= n->now) {
        answer(n, s, status == VSHARD_OK ? VSHARD_ETIMEDOUT : status, 0);
        return;
    }
    s->wanted_index = index > s->wanted_index ? index : s->wanted_index;
    run_or_wait(n, s);
}

static int begin(struct vshard_node *n, struct vs_serving *s, uint32_t epoch)
{
    if (s->wanted_index != 0 && epoch != vs_replica_epoch(s->replica))
        return VSHARD_ESTALE; /* what the position names may be void */
    if ((s->consistency == VSHARD_READ_LINEARIZABLE && !TRAP(60)) ||
        (s->consistency == VSHARD_READ_BOUNDED && !TRAP(61)))
        ask_core(n, s);
    else
        run_or_wait(n, s);
    return VSHARD_OK;
}

void vs_serve_read(struct vshard_node *n, uint64_t origin, struct vs_in *in)
{
    uint64_t group = vs_take64(in), left;
    struct about a = { .origin = origin, .request = vs_take64(in), .group = group };
    struct vs_replica *r = vs_replica_find(n, group);
    struct vs_serving *s;
    uint32_t epoch;
    int rc;

    a.part = vs_take32(in);
    if (in->status != VSHARD_OK)
        return;
    if (!vs_serves(n, r)) {
        reply(n, &a, VSHARD_ENOTSUP, NULL);
        return;
    }
    s = vs_alloc_zeroed(n->allocator, sizeof *s);
    if (s == NULL)
        return; /* as if the frame had been lost */
    s->replica = r;
    s->origin = origin;
    s->request = a.request;
    s->part = a.part;
    s->row.allocator = n->allocator;
    s->kind = vs_take32(in);
    s->consistency = vs_take32(in);
    s->flags = vs_take32(in);
    s->wanted_index = vs_take64(in);
    epoch = vs_take32(in);
    atomic_store(&s->bound, vs_take_float(in));
    left = vs_take64(in);
    s->deadline_ns = left > VS_NEVER - n->now ? VS_NEVER : n->now + left;
    rc = take_query(n, s, in);
    vs_read_here(n, s);
    if (rc == VSHARD_OK)
        rc = begin(n, s, epoch);
    if (rc != VSHARD_OK)
        answer(n, s, rc, 0);
}

void vs_serve_own(struct vshard_node *n, struct vs_serving *s)
{
    int rc = begin(n, s, 0);

    if (rc != VSHARD_OK)
        answer(n, s, rc, 0);
}

/* ---- afterwards ---- */

void vs_serve_done(struct vshard_node *n, struct vs_item *item)
{
    answer(n, item->serving, item->status, item->position);
    item->serving = NULL;
}

void vs_serve_ready(struct vshard_node *n, struct vs_replica *r)
{
    struct vs_serving **link = &r->waiting;

    while (*link != NULL) {
        struct vs_serving *s = *link;

        if (s->wanted_index > stands_at(s)) {
            link = &s->next;
            continue;
        }
        *link = s->next;
        run(n, s);
    }
}

/* Others are asked, while there is time. */
void vs_serve_leave(struct vshard_node *n, struct vs_replica *r)
{
    while (r->waiting != NULL) {
        struct vs_serving *s = r->waiting;

        r->waiting = s->next;
        answer(n, s, VSHARD_ENOTSUP, 0);
    }
}

/* Those for whom it is too late say that this replica is behind. */
static void give_up(struct vshard_node *n, struct vs_replica *r)
{
    struct vs_serving **link = &r->waiting;

    while (*link != NULL) {
        struct vs_serving *s = *link;

        if (s->wait_until_ns > n->now) {
            n->serve_at = s->wait_until_ns < n->serve_at ? s->wait_until_ns : n->serve_at;
            link = &s->next;
            continue;
        }
        *link = s->next;
        answer(n, s, VSHARD_ESTALE, 0);
    }
}

void vs_serve_time(struct vshard_node *n)
{
    if (n->now < n->serve_at)
        return;
    n->serve_at = VS_NEVER;
    for (uint32_t i = 0; i < n->replica_count; i++)
        give_up(n, n->replica[i]);
}

void vs_serve_cancel(struct vshard_node *n, uint64_t origin, uint64_t request)
{
    for (uint32_t i = 0; i < n->replica_count; i++) {
        struct vs_serving **link = &n->replica[i]->waiting;

        while (*link != NULL) {
            struct vs_serving *s = *link;

            if (s->origin != origin || s->request != request) {
                link = &s->next;
                continue;
            }
            *link = s->next;
            vs_serving_free(n, s);
        }
    }
}
