/* requests.c - what was asked of this node and is not yet answered.
 *
 * A request has parts, one a shard, and ends once: when its parts are done, when its
 * deadline passes, or when it is given up. It then leaves the tables, so that late answers
 * find nothing, and flush hands it over. */
#include "node/core.h"

static uint32_t bucket_of(uint64_t id)
{
    return (uint32_t)(vs_mix64(id) % VS_COUNT(((struct vshard_node *)0)->bucket));
}

struct vs_request *vs_request_new(struct vshard_node *n, uint32_t kind, uint64_t tag,
                                  uint64_t timeout_ns, uint32_t parts)
{
    struct vs_request *q = vs_alloc_zeroed(n->allocator, sizeof *q);

    if (q == NULL)
        return NULL;
    if (parts != 0) {
        q->part = vs_alloc_zeroed(n->allocator, parts * sizeof *q->part);
        if (q->part == NULL) {
            vs_free(n->allocator, q, sizeof *q);
            return NULL;
        }
    }
    q->part_count = q->open_count = parts;
    q->kind = kind;
    q->tag = tag;
    q->id = ++n->next_request;
    q->started_ns = n->now;
    q->deadline_ns = timeout_ns > VS_NEVER - n->now ? VS_NEVER : n->now + timeout_ns;
    q->ask.allocator = q->row.allocator = n->allocator;
    q->next = n->requests;
    q->link = &n->requests;
    if (q->next != NULL)
        q->next->link = &q->next;
    n->requests = q;
    q->chain = n->bucket[bucket_of(q->id)];
    n->bucket[bucket_of(q->id)] = q;
    n->request_count++;
    n->next_timer = 0;
    return q;
}

struct vs_request *vs_request_find(struct vshard_node *n, uint64_t id)
{
    struct vs_request *q = n->bucket[bucket_of(id)];

    while (q != NULL && q->id != id)
        q = q->chain;
    return q;
}

/* Proposals that still name it name nothing from now on. */
static void forget(struct vshard_node *n, struct vs_request *q)
{
    for (struct vs_proposal *p = n->proposals; q->kind == VSHARD_NODE_ADMIN && p; p = p->next) {
        if (p->admin == q)
            p->admin = NULL;
    }
}

void vs_request_finish(struct vshard_node *n, struct vs_request *q, int status)
{
    struct vs_request **at = &n->bucket[bucket_of(q->id)];

    if (q->link == NULL)
        return; /* it has ended */
    if (n->walk == q)
        n->walk = q->next;
    while (*at != q)
        at = &(*at)->chain;
    *at = q->chain;
    *q->link = q->next;
    if (q->next != NULL)
        q->next->link = q->link;
    q->link = NULL;
    q->next = NULL;
    q->status = status;
    forget(n, q);
    for (uint32_t i = 0; i < q->part_count; i++)
        vs_read_over(n, &q->part[i]);
    n->request_count--;
    *n->ended_end = q;
    n->ended_end = &q->next;
}

void vs_request_free(struct vshard_node *n, struct vs_request *q)
{
    for (uint32_t i = 0; i < q->part_count; i++) {
        vs_free(n->allocator, q->part[i].bytes, q->part[i].count);
        vs_free(n->allocator, q->part[i].hits, q->part[i].found * sizeof *q->part[i].hits);
    }
    vs_free(n->allocator, q->part, q->part_count * sizeof *q->part);
    vs_free(n->allocator, q->positions, q->position_count * sizeof *q->positions);
    vshard_merger_destroy(q->merger);
    vs_out_free(&q->ask);
    vs_out_free(&q->row);
    vs_free(n->allocator, q, sizeof *q);
}

void vs_request_part_done(struct vshard_node *n, struct vs_request *q, struct vs_part *p)
{
    p->state = VS_PART_DONE;
    if (--q->open_count == 0)
        vs_request_finish(n, q, VSHARD_OK);
}

/* ---- time ---- */

/* What an end without all answers comes to: of a search, what there is, unless all was
 * asked for. Else the reason that the last attempt gave. A shard that was asked for the rest has
 * answered, but not all. */
static int late(struct vs_request *q)
{
    int status = VSHARD_ETIMEDOUT;

    for (uint32_t i = 0; i < q->part_count; i++) {
        const struct vs_part *p = &q->part[i];

        if (p->state == VS_PART_OPEN && p->status == VSHARD_ESTALE)
            status = VSHARD_ESTALE;
        if (p->state == VS_PART_OPEN && p->asked_more)
            q->limits |= VSHARD_LIMIT_DEADLINE;
    }
    if (q->kind == VSHARD_NODE_SEARCH && q->answered != 0 && !(q->flags & VSHARD_NODE_WHOLE))
        return VSHARD_OK;
    return status;
}

static uint64_t wanted_at(const struct vs_request *q)
{
    uint64_t at = q->deadline_ns;

    for (uint32_t i = 0; i < q->part_count; i++) {
        if (q->part[i].state == VS_PART_OPEN && q->part[i].again_ns < at)
            at = q->part[i].again_ns;
    }
    return q->again_ns != 0 && q->again_ns < at ? q->again_ns : at;
}

void vs_requests_time(struct vshard_node *n)
{
    if (n->now < n->next_timer)
        return;
    n->next_timer = VS_NEVER;
    for (n->walk = n->requests; n->walk != NULL;) {
        struct vs_request *q = n->walk;
        uint64_t at;

        n->walk = q->next; /* which may end before its turn */
        if (q->deadline_ns <= n->now) {
            vs_request_finish(n, q, late(q));
            continue;
        }
        at = wanted_at(q);
        if (at <= n->now) {
            if (q->kind == VSHARD_NODE_WRITE)
                vs_write_time(n, q);
            else if (q->kind == VSHARD_NODE_ADMIN)
                vs_admin_time(n, q);
            else
                vs_read_time(n, q);
            at = wanted_at(q);
        }
        if (q->link != NULL && at < n->next_timer)
            n->next_timer = at;
    }
}

void vs_requests_by(struct vshard_node *n, uint64_t ns)
{
    if (ns < n->next_timer)
        n->next_timer = ns;
}

uint64_t vs_requests_deadline(const struct vshard_node *n)
{
    return n->requests != NULL ? n->next_timer : VS_NEVER;
}
