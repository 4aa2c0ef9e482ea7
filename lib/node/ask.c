/* ask.c - searches and fetches at the node that was asked: which replicas to ask, when to
 * ask another, and one answer of many.
 *
 *     READ        8 group, 8 request, 4 part (the highest bit: asked again), 4 kind,
 *                 4 consistency, 4 flags, 8 index wanted, 4 its epoch, 4 bound, 8 time left,
 *                 4 k, 4 0, 8 greatest age, 16 key, 4 ef, 4 target recall,
 *                 4 bytes of an expression, 4 bytes of the query, the expression, the query
 *     READ_REPLY  8 request, 4 part, 4 status, 8 group, 8 position, 4 epoch, 4 limits,
 *                 8 distances, 8 rows; of a search 4 hits, 4 0, [hits x (16 key,
 *                 8 version, 4 distance, 4 0)]; of a fetch 8 version, 4 bytes of the vector,
 *                 4 values, 4 bytes of the payload, 4 0, the vector and zeros to a multiple
 *                 of 8, [values x 8 type], the values, of 8 bytes or for keywords
 *                 VSHARD_KEYWORD_MAX, and the payload
 *
 * A shard is asked at one replica: here if there is one that may answer, else at the one
 * that answers soonest and is not behind. When that takes longer than its answers mostly do,
 * another is asked, too, and the first answer counts. Such second requests are bought: each
 * request earns a twentieth of one, so that a cluster which is slow because it has too
 * much to do is not given more. Who is thought dead is not waited for at all. A
 * replica that cannot answer says so at once, and the next is asked.
 *
 * A shard of many is not asked for all k hits: with S shards, k / S of the nearest are
 * expected in each, and hardly ever more than vs_read_effort() says, so beams may be narrower.
 * Where a shard turns out to have given all it was asked for, and the last of it is still among the
 * nearest, it is asked once more, for all k: the answer is what it would have been.
 *
 * Answers go into a merger as they come. No key is on two shards, so its bound is sound:
 * shards that are asked later leave out what is farther, and walk no further than it takes
 * to know. So do those that this node searches itself and has not begun with: of eight in one
 * process the last few know nearly how far the k-th is.
 *
 * Rows of a shard that is asked again may have changed or gone in between, and the k-th hit be
 * farther than others were told: these are asked again, too. */
#include "node/core.h"

#include <math.h>

#define AGAIN 0x80000000u /* in the number of a part */

enum {
    AGAIN_NS = 2000000,  /* before a replica that could not answer is asked again */
    LOST_NS = 100000000, /* when an answer is not late, but lost */
    HEDGE_PRICE = 20,    /* requests that earn a second one, */
    HEDGE_CREDIT = 200   /* and how much may be saved */
};

/* ---- which replica ---- */

static struct vs_peer *peer_of(struct vshard_node *n, uint64_t node)
{
    return node == n->node ? &n->self : vs_peer_find(n, node);
}

static uint32_t bit_of(const struct vshard_node *n, const struct vs_peer *peer)
{
    return peer == &n->self ? 1u << VSHARD_NODES_MAX : 1u << (peer - n->peer);
}

/* A peer owes an answer for a part until it has given it, or none is wanted any more: frames
 * may be lost, and who had lost some would else seem busy for ever. */
static void owe(const struct vshard_node *n, struct vs_part *p, struct vs_peer *peer)
{
    peer->outstanding += (p->owed & bit_of(n, peer)) == 0;
    p->owed |= bit_of(n, peer);
}

static void settle(const struct vshard_node *n, struct vs_part *p, struct vs_peer *peer)
{
    peer->outstanding -= (p->owed & bit_of(n, peer)) != 0 && peer->outstanding != 0;
    p->owed &= ~bit_of(n, peer);
}

void vs_read_over(struct vshard_node *n, struct vs_part *p)
{
    for (uint32_t i = 0; p->owed != 0 && i < VSHARD_NODES_MAX; i++)
        settle(n, p, &n->peer[i]);
    settle(n, p, &n->self);
}

/* Two heartbeats or rounds of gossip have not come. */
static bool silent(struct vshard_node *n, uint64_t node)
{
    return !vs_peer_alive(n, node, 2 * n->o.heartbeat_ns + 2 * VS_GOSSIP_NS);
}

uint64_t vs_applied_known(struct vshard_node *n, uint64_t group)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint64_t best = r != NULL ? vs_replica_searchable(r) : 0;
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, group, &hints);

    for (uint32_t i = 0; i < hints; i++)
        best = h[i].applied > best ? h[i].applied : best;
    return best;
}

/* How long an answer is expected to take, in ns; more for who is behind or silent. */
static uint64_t cost(struct vshard_node *n, const struct vs_request *q, uint64_t group,
                     uint64_t node)
{
    struct vs_replica *r = vs_replica_find(n, group);
    const struct vs_peer *p = peer_of(n, node);
    const struct vs_hint *h;
    uint64_t best = vs_applied_known(n, group), ns, applied;
    uint32_t hints;

    if (p == NULL || silent(n, node))
        return VS_NEVER / 4;
    if (node == n->node && !vs_serves(n, r))
        return VS_NEVER / 2;
    h = vs_hints_of(n, group, &hints);
    applied = node == n->node ? vs_replica_searchable(r) : 0;
    for (uint32_t i = 0; i < hints; i++)
        applied = h[i].node == node ? h[i].applied : applied;
    ns = node == n->node ? p->latency_ns / 2 : 20000 + p->latency_ns * (1 + p->outstanding);
    ns += best > applied ? (best - applied) * 10000 : 0;
    if (q->consistency == VSHARD_READ_LINEARIZABLE && vs_leader_of(n, group) != node)
        ns += 1000000;
    return ns;
}

/* The member to ask next; 0 when all have been tried. */
static uint64_t choose(struct vshard_node *n, const struct vs_request *q, struct vs_part *p)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, p->group, NULL);
    uint64_t least = VS_NEVER, node = 0;
    uint32_t at = 0;

    for (uint32_t k = 0; shard != NULL && k < shard->member_count; k++) {
        uint32_t i = (uint32_t)((q->id + k) % shard->member_count);
        uint64_t c;

        if (p->tried & 1u << i)
            continue;
        c = cost(n, q, p->group, shard->members[i].node);
        if (c < least) {
            least = c;
            node = shard->members[i].node;
            at = i;
        }
    }
    if (node != 0)
        p->tried |= 1u << at;
    return node;
}

/* How long the first answer is waited for: as long as nearly all of them take. */
static uint64_t patience(struct vshard_node *n, const struct vs_part *p)
{
    const struct vs_peer *peer = peer_of(n, p->node);
    uint64_t ns = peer != NULL ? peer->latency_ns + 4 * peer->spread_ns : 0;

    if (silent(n, p->node))
        return AGAIN_NS;
    if (n->o.hedge_ns == VS_NEVER || p->attempts > 1)
        return LOST_NS;
    return ns > n->o.hedge_ns ? ns : n->o.hedge_ns;
}

/* Whether a second request may go out though the first may yet be answered. */
static bool may_hedge(struct vshard_node *n, const struct vs_part *p)
{
    if (silent(n, p->node) || n->now - p->asked_ns >= LOST_NS)
        return true;
    if (n->hedge_credit < HEDGE_PRICE)
        return false;
    n->hedge_credit -= HEDGE_PRICE;
    return true;
}

/* ---- asking ---- */

/* Two standard deviations above what is expected of a shard when hits lie anywhere, and one
 * more: of 10 in 8 shards, one query of 50 has to ask again. */
uint32_t vs_read_effort(uint32_t k, uint32_t shards)
{
    double mean = (double)k / shards;
    double enough = ceil(mean + 2 * sqrt(mean)) + 1;

    return enough < k ? (uint32_t)enough : k;
}

static uint64_t wanted_index(const struct vs_request *q, uint64_t group, uint32_t *epoch)
{
    uint64_t index = 0;

    *epoch = 0;
    for (uint32_t i = 0; i < q->position_count; i++) {
        if (q->positions[i].group != group || q->positions[i].index < index)
            continue;
        index = q->positions[i].index;
        *epoch = q->positions[i].epoch;
    }
    return index;
}

static float bound_of(const struct vs_request *q)
{
    return q->merger != NULL ? vshard_merger_bound(q->merger) : INFINITY;
}

/* The bound that a shard is told; none when it is asked again. */
static float bound_for(const struct vs_request *q, struct vs_part *p)
{
    float bound = p->asked_more ? INFINITY : bound_of(q);

    p->bound = bound < p->bound ? bound : p->bound;
    return bound;
}

/* What is the same for all shards lies in q->ask: from the key on. */
static void put_read(struct vshard_node *n, const struct vs_request *q, struct vs_part *p,
                     struct vs_out *o)
{
    uint32_t epoch;
    uint64_t index = wanted_index(q, p->group, &epoch);

    vs_put64(o, p->group);
    vs_put64(o, q->id);
    vs_put32(o, (uint32_t)(p - q->part) | (p->asked_more ? AGAIN : 0));
    vs_put32(o, q->kind == VSHARD_NODE_FETCH ? VS_SERVE_FETCH : VS_SERVE_SEARCH);
    vs_put32(o, q->consistency);
    vs_put32(o, q->flags);
    vs_put64(o, index);
    vs_put32(o, epoch);
    vs_put_float(o, bound_for(q, p));
    vs_put64(o, q->deadline_ns - n->now);
    vs_put32(o, p->k);
    vs_put32(o, 0);
    vs_put_bytes(o, q->ask.at, q->ask.count);
}

void vs_read_ask(struct vshard_node *n, struct vs_request *q, struct vs_part *p)
{
    struct vs_out o = { .allocator = n->allocator };
    struct vs_peer *peer;
    uint64_t node;

    if (q->deadline_ns <= n->now) { /* it ends in this turn, with what there is */
        vs_requests_by(n, q->deadline_ns);
        return;
    }
    node = choose(n, q, p);
    if (node == 0) { /* all were tried: from the beginning, a little later */
        p->tried = 0;
        p->again_ns = n->now + AGAIN_NS;
        vs_requests_by(n, p->again_ns);
        return;
    }
    p->node = node;
    p->asked_ns = n->now;
    p->attempts++;
    p->again_ns = n->now + patience(n, p);
    vs_requests_by(n, p->again_ns);
    if (p->attempts == 1 && n->hedge_credit < HEDGE_CREDIT)
        n->hedge_credit++;
    peer = peer_of(n, node);
    if (peer != NULL)
        owe(n, p, peer);
    put_read(n, q, p, &o);
    if (o.status == VSHARD_OK && node != n->node) {
        vs_post(n, node, VS_FRAME_READ, p->group, o.at, o.count, NULL, 0);
    } else if (o.status == VSHARD_OK) {
        struct vs_in in = { .at = o.at, .left = o.count };

        vs_serve_read(n, n->node, &in);
    }
    vs_out_free(&o);
}

void vs_read_time(struct vshard_node *n, struct vs_request *q)
{
    for (uint32_t i = 0; i < q->part_count && q->link != NULL; i++) {
        struct vs_part *p = &q->part[i];

        if (p->state != VS_PART_OPEN || p->again_ns > n->now)
            continue;
        if (p->tried != 0 && !may_hedge(n, p)) {
            p->again_ns = n->now + patience(n, p);
            continue;
        }
        if (p->tried != 0) {
            q->hedges++;
            n->hedges++;
        }
        vs_read_ask(n, q, p);
    }
}

/* The part that a frame names. What was asked for at first may be answered when it was asked
 * for again, and is no answer then. */
static struct vs_part *part_named(struct vs_request *q, uint32_t name)
{
    struct vs_part *p =
        q != NULL && (name & ~AGAIN) < q->part_count ? &q->part[name & ~AGAIN] : NULL;

    return p != NULL && (p->asked_more == name >> 31 || TRAP(68)) ? p : NULL;
}

static struct vs_part *part_of(struct vshard_node *n, const struct vs_serving *s)
{
    return part_named(s->origin == n->node ? vs_request_find(n, s->request) : NULL, s->part);
}

void vs_read_here(struct vshard_node *n, struct vs_serving *s)
{
    struct vs_part *p = part_of(n, s);

    if (p != NULL)
        p->here = s;
}

void vs_read_gone(struct vshard_node *n, const struct vs_serving *s)
{
    struct vs_part *p = part_of(n, s);

    if (p != NULL && p->here == s)
        p->here = NULL;
}

/* Searches that have not begun here are told how far the k-th is by now. */
static void tell_bound(const struct vs_request *q)
{
    for (uint32_t i = 0; i < q->part_count; i++) {
        struct vs_part *p = &q->part[i];

        if (p->here != NULL && p->state == VS_PART_OPEN)
            atomic_store(&p->here->bound, bound_for(q, p));
    }
}

/* ---- answers ---- */

static void note_latency(struct vshard_node *n, uint64_t from, struct vs_part *p)
{
    struct vs_peer *peer = peer_of(n, from);
    uint64_t ns, off;

    if (peer == NULL)
        return;
    settle(n, p, peer);
    if (p->node != from)
        return;
    ns = n->now - p->asked_ns;
    off = ns > peer->latency_ns ? ns - peer->latency_ns : peer->latency_ns - ns;
    peer->spread_ns += off / 4;
    peer->spread_ns -= peer->spread_ns / 4;
    peer->latency_ns += ns / 8;
    peer->latency_ns -= peer->latency_ns / 8;
}

static void drop_hits(struct vs_part *p, const struct vshard_allocator *a)
{
    vs_free(a, p->hits, p->found * sizeof *p->hits);
    p->hits = NULL;
    p->found = 0;
}

/* The bound without the lists of shards that are asked again. */
static int merge_again(struct vs_request *q)
{
    int rc = VSHARD_OK;

    vshard_merger_reset(q->merger);
    for (uint32_t i = 0; rc == VSHARD_OK && i < q->part_count; i++) {
        if (q->part[i].state == VS_PART_DONE)
            rc = vshard_merger_push(q->merger, q->part[i].hits, q->part[i].found);
    }
    return rc;
}

/* A list is kept by its part, and pushed for the sake of the bound: a shard that is asked
 * again gives another list in the place of the first, which stands until it is there. */
static bool take_hits(struct vs_request *q, struct vs_part *p, struct vs_in *in,
                      const struct vshard_allocator *a)
{
    uint32_t count = vs_take32(in);
    struct vshard_merge_hit *hits = NULL;
    const unsigned char *at;

    vs_take32(in);
    at = count <= VSHARD_MERGE_K_MAX ? vs_take_bytes(in, 32 * (size_t)count) : NULL;
    if (at == NULL)
        return false;
    if (count != 0)
        hits = vs_alloc(a, count * sizeof *hits);
    if (count != 0 && hits == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++, at += 32) {
        uint32_t bits = vs_load32(at + 24);

        hits[i] = (struct vshard_merge_hit){ .key = { vs_load64(at), vs_load64(at + 8) },
                                             .version = vs_load64(at + 16),
                                             .shard = p->shard };
        memcpy(&hits[i].distance, &bits, sizeof bits);
    }
    if (count != 0 && vshard_merger_push(q->merger, hits, count) != VSHARD_OK) {
        vs_free(a, hits, count * sizeof *hits);
        merge_again(q); /* some of them count, until then */
        return false;
    }
    drop_hits(p, a);
    p->hits = hits;
    p->found = count;
    return true;
}

uint32_t vs_value_bytes(uint32_t type)
{
    switch (type) {
    case VSHARD_ATTRIBUTE_INT64:
    case VSHARD_ATTRIBUTE_DOUBLE: return 8;
    case VSHARD_ATTRIBUTE_KEYWORD: return VSHARD_KEYWORD_MAX;
    default: return 0;
    }
}

const unsigned char *vs_row_values(const unsigned char *row, size_t bytes, uint32_t vector_bytes,
                                   uint32_t count, struct vshard_values *values)
{
    size_t head = ((size_t)vector_bytes + 7) / 8 * 8, at = head + 8 * (size_t)count;

    if (vector_bytes > 4 * VSHARD_DIM_MAX || count > VSHARD_ATTRIBUTES_MAX || at > bytes)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t width = vs_value_bytes(vs_load32(row + head + 8 * (size_t)i));

        if (width == 0 || width > bytes - at)
            return NULL;
        values[i] = (struct vshard_values){ (void *)(uintptr_t)(row + at), width };
        at += width;
    }
    return row + at;
}

static bool take_row(struct vs_request *q, struct vs_in *in)
{
    struct vshard_values values[VSHARD_ATTRIBUTES_MAX];
    const unsigned char *payload, *end = in->at + in->left;

    q->version = vs_take64(in);
    q->vector_bytes = vs_take32(in);
    q->value_count = vs_take32(in);
    q->payload_bytes = vs_take32(in);
    vs_take32(in);
    if (in->status != VSHARD_OK)
        return false;
    payload = vs_row_values(in->at, in->left, q->vector_bytes, q->value_count, values);
    if (payload == NULL || q->payload_bytes != (size_t)(end - payload))
        return false;
    vs_put_bytes(&q->row, in->at, in->left);
    return q->row.status == VSHARD_OK;
}

/* This replica could not: another may. What the request itself is to blame for ends it. */
static void failed(struct vshard_node *n, struct vs_request *q, struct vs_part *p, int status,
                   uint64_t from)
{
    p->status = status;
    if (status == VSHARD_EINVAL || status == VSHARD_E2BIG || q->kind == VSHARD_NODE_EXPORT ||
        (status == VSHARD_ENOTFOUND && q->kind == VSHARD_NODE_FETCH))
        vs_request_finish(n, q, status);
    else if (p->node == from)
        vs_read_ask(n, q, p);
}

/* Whether a shard may have more of the nearest than it has answered: it gave all that it was
 * asked for, or left out what others made seem too far. */
static bool may_have_more(const struct vs_request *q, const struct vs_part *p)
{
    float bound = vshard_merger_bound(q->merger);

    if (p->bound < bound)
        return true;
    return p->k < q->k && p->found == p->k && p->hits[p->found - 1].distance <= bound;
}

static bool ask_more(struct vshard_node *n, struct vs_request *q)
{
    uint32_t asked = 0;

    for (uint32_t i = 0; q->kind == VSHARD_NODE_SEARCH && i < q->part_count; i++) {
        struct vs_part *p = &q->part[i];

        if (!may_have_more(q, p))
            continue;
        p->k = q->k;
        p->bound = INFINITY;
        p->state = VS_PART_OPEN;
        p->asked_more = 1;
        p->here = NULL; /* what was asked at first may go any time now */
        p->tried = p->attempts = 0;
        q->open_count++;
        asked++;
    }
    if (asked != 0 && merge_again(q) != VSHARD_OK)
        vs_request_finish(n, q, VSHARD_ENOMEM);
    for (uint32_t i = 0; asked != 0 && i < q->part_count && q->link != NULL; i++) {
        if (q->part[i].state == VS_PART_OPEN)
            vs_read_ask(n, q, &q->part[i]);
    }
    return asked != 0;
}

void vs_read_reply(struct vshard_node *n, uint64_t from, struct vs_in *in)
{
    uint64_t id = vs_take64(in);
    uint32_t part = vs_take32(in);
    int32_t status = (int32_t)vs_take32(in);
    uint64_t group = vs_take64(in), position = vs_take64(in);
    uint32_t epoch = vs_take32(in), limits = vs_take32(in);
    uint64_t distances = vs_take64(in), rows = vs_take64(in);
    struct vs_request *q = in->status == VSHARD_OK ? vs_request_find(n, id) : NULL;
    struct vs_part *p = part_named(q, part);

    if (p == NULL || p->group != group || q->kind == VSHARD_NODE_WRITE)
        return;
    if (q->kind != VSHARD_NODE_EXPORT)
        note_latency(n, from, p);
    if (p->state != VS_PART_OPEN)
        return; /* another was sooner */
    p->position = position;
    p->epoch = epoch;
    if (status == VSHARD_OK &&
        ((q->kind == VSHARD_NODE_FETCH && !take_row(q, in)) ||
         (q->kind == VSHARD_NODE_SEARCH && !take_hits(q, p, in, n->allocator))))
        status = VSHARD_ECORRUPT;
    if (status != VSHARD_OK) {
        failed(n, q, p, status, from);
        return;
    }
    q->limits |= limits;
    q->distances += distances;
    q->rows += p->asked_more ? 0 : rows;
    q->answered += !p->asked_more;
    p->status = VSHARD_OK;
    p->state = VS_PART_DONE;
    tell_bound(q);
    if (--q->open_count == 0 && !ask_more(n, q))
        vs_request_finish(n, q, VSHARD_OK);
}
