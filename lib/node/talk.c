/* talk.c - what nodes say to each other, as bytes, and who takes what arrives.
 *
 *     type           group   payload
 *     RAFT           -       a message of the core
 *     READ           shard   see ask.c: a search or a fetch of one shard
 *     READ_REPLY     shard
 *     WRITE          shard   see write.c: a batch for the shard's leader
 *     WRITE_REPLY    shard
 *     GOSSIP         -       see steward.c: how the sender's replicas are
 *     JOIN           -       4 region, 4 level: the sender asks for admission
 *     JOIN_REPLY     -       8 incarnation, 4 status: of who asked, and why it is refused; who is
 *                            admitted hears of it by the map
 *     CANCEL         -       8 request: its reads are not wanted any more
 *
 * Integers are little-endian. Frames may be lost, repeated and overtaken: each says what
 * it answers, and an answer nobody waits for is dropped. */
#include "node/core.h"

enum { BARE = 128 }; /* bytes of a message of the core that brings no entries */

/* ---- bytes ---- */

static bool reserve(struct vs_out *o, size_t more)
{
    size_t cap = o->cap ? o->cap : 256;
    unsigned char *at;

    if (o->status != VSHARD_OK || more > SIZE_MAX / 4 - o->count)
        return false;
    if (o->count + more <= o->cap)
        return true;
    while (cap < o->count + more)
        cap *= 2;
    at = vs_alloc(o->allocator, cap);
    if (at == NULL) {
        o->status = VSHARD_ENOMEM;
        return false;
    }
    if (o->count != 0)
        memcpy(at, o->at, o->count);
    vs_free(o->allocator, o->at, o->cap);
    o->at = at;
    o->cap = cap;
    return true;
}

void *vs_put_room(struct vs_out *o, size_t count)
{
    if (!reserve(o, count))
        return NULL;
    o->count += count;
    return o->at + o->count - count;
}

void vs_put32(struct vs_out *o, uint32_t v)
{
    void *to = vs_put_room(o, 4);

    if (to != NULL)
        vs_store32(to, v);
}

void vs_put64(struct vs_out *o, uint64_t v)
{
    void *to = vs_put_room(o, 8);

    if (to != NULL)
        vs_store64(to, v);
}

void vs_put_float(struct vs_out *o, float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    vs_put32(o, bits);
}

void vs_put_key(struct vs_out *o, struct vshard_key key)
{
    vs_put64(o, key.hi);
    vs_put64(o, key.lo);
}

void vs_put_bytes(struct vs_out *o, const void *bytes, size_t count)
{
    void *to = count != 0 ? vs_put_room(o, count) : NULL;

    if (to != NULL)
        memcpy(to, bytes, count);
}

void vs_put_text(struct vs_out *o, const char *text)
{
    size_t count = strlen(text);

    vs_put32(o, (uint32_t)count);
    vs_put_bytes(o, text, count);
}

void vs_out_free(struct vs_out *o)
{
    vs_free(o->allocator, o->at, o->cap);
    *o = (struct vs_out){ .allocator = o->allocator };
}

const void *vs_take_bytes(struct vs_in *in, size_t count)
{
    const void *at = in->at;

    if (in->status != VSHARD_OK || count > in->left) {
        in->status = VSHARD_ECORRUPT;
        return NULL;
    }
    in->at += count;
    in->left -= count;
    return at;
}

uint32_t vs_take32(struct vs_in *in)
{
    const void *at = vs_take_bytes(in, 4);

    return at ? vs_load32(at) : 0;
}

uint64_t vs_take64(struct vs_in *in)
{
    const void *at = vs_take_bytes(in, 8);

    return at ? vs_load64(at) : 0;
}

float vs_take_float(struct vs_in *in)
{
    uint32_t bits = vs_take32(in);
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

struct vshard_key vs_take_key(struct vs_in *in)
{
    struct vshard_key key = { 0, 0 };

    key.hi = vs_take64(in);
    key.lo = vs_take64(in);
    return key;
}

void vs_take_text(struct vs_in *in, char text[VSHARD_NAME_MAX + 1])
{
    uint32_t count = vs_take32(in);
    const void *at;

    text[0] = 0;
    if (count > VSHARD_NAME_MAX)
        in->status = VSHARD_ECORRUPT;
    at = vs_take_bytes(in, count);
    if (at == NULL)
        return;
    memcpy(text, at, count);
    text[count] = 0;
}

/* ---- frames ---- */

void vs_post(struct vshard_node *n, uint64_t node, uint32_t type, uint64_t group, const void *head,
             size_t head_bytes, const void *body, size_t body_bytes)
{
    const struct vshard_frame f = { .size = sizeof f,
                                    .type = type,
                                    .group = group,
                                    .node = node,
                                    .head = head,
                                    .head_bytes = head_bytes,
                                    .body = body,
                                    .body_bytes = body_bytes };
    size_t cap = vshard_wire_bound(head_bytes + body_bytes);
    struct vs_sending *s = vs_alloc(n->allocator, sizeof *s + cap);
    const struct vs_peer *p = vs_peer_find(n, node);
    uint32_t level = p != NULL && p->level != 0 ? p->level : 1;

    if (s == NULL)
        return; /* as if the network had lost it */
    *s = (struct vs_sending){ .node = node, .cap = cap };
    vs_wire_speak(n->wire, vs_level_frame(level < n->level ? level : n->level));
    if (vshard_wire_encode(n->wire, &f, s + 1, cap, &s->count) != VSHARD_OK) {
        vs_free(n->allocator, s, sizeof *s + cap);
        return;
    }
    *n->sending_end = s;
    n->sending_end = &s->next;
}

/* ---- peers ---- */

struct vs_peer *vs_peer_find(struct vshard_node *n, uint64_t node)
{
    for (uint32_t i = 0; i < n->peer_count; i++) {
        if (n->peer[i].node == node)
            return &n->peer[i];
    }
    return NULL;
}

/* Who is no member, and was not heard of for the longest time; NULL: all are. */
static struct vs_peer *stranger(struct vshard_node *n)
{
    struct vs_peer *oldest = NULL;

    for (uint32_t i = 0; i < n->peer_count; i++) {
        struct vs_peer *p = &n->peer[i];

        if (vs_cluster_node(&n->meta, p->node) == NULL &&
            (oldest == NULL || p->heard_ns < oldest->heard_ns))
            oldest = p;
    }
    return oldest;
}

struct vs_peer *vs_peer_meet(struct vshard_node *n, uint64_t node)
{
    struct vs_peer *p = vs_peer_find(n, node);

    if (p != NULL || node == n->node || node == 0)
        return p;
    /* A member that is forgotten would seem to be dead. */
    p = n->peer_count < VSHARD_NODES_MAX ? &n->peer[n->peer_count++] : stranger(n);
    if (p == NULL)
        return NULL;
    *p = (struct vs_peer){ .node = node, .first_ns = n->now };
    return p;
}

bool vs_peer_alive(struct vshard_node *n, uint64_t node, uint64_t silence_ns)
{
    const struct vs_peer *p = vs_peer_find(n, node);
    uint64_t since;

    if (node == n->node)
        return true;
    if (p == NULL)
        return false;
    since = p->heard_ns > p->first_ns ? p->heard_ns : p->first_ns;
    return n->now - since <= silence_ns;
}

bool vs_peer_mapless(struct vshard_node *n, uint64_t node)
{
    const struct vs_peer *p = vs_peer_find(n, node);

    return node == n->node ? n->replica[0]->status != VSHARD_OK : p != NULL && p->mapless;
}

bool vs_peer_here(struct vshard_node *n, uint64_t node)
{
    return vs_peer_alive(n, node, 4 * n->o.election_ns);
}

bool vs_peer_follows(struct vshard_node *n, uint64_t node)
{
    return vs_peer_here(n, node) && !vs_peer_mapless(n, node);
}

/* Hints lie by group, then node. */
static uint32_t hint_place(const struct vshard_node *n, uint64_t group, uint64_t node)
{
    uint32_t low = 0, high = n->hint_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct vs_hint *h = &n->hint[middle];

        if (h->group < group || (h->group == group && h->node < node))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct vs_hint *vs_hints_of(const struct vshard_node *n, uint64_t group, uint32_t *count)
{
    uint32_t at = hint_place(n, group, 0);

    *count = 0;
    while (at + *count < n->hint_count && n->hint[at + *count].group == group)
        ++*count;
    return *count != 0 ? &n->hint[at] : NULL;
}

static const struct vs_hint *hint_find(const struct vshard_node *n, uint64_t node, uint64_t group)
{
    uint32_t at = hint_place(n, group, node);

    return at < n->hint_count && n->hint[at].group == group && n->hint[at].node == node
               ? &n->hint[at]
               : NULL;
}

void vs_hint_put(struct vshard_node *n, const struct vs_hint *hint)
{
    uint32_t at = hint_place(n, hint->group, hint->node), cap = n->hint_cap ? 2 * n->hint_cap : 64;
    struct vs_hint *table;

    if (hint_find(n, hint->node, hint->group) != NULL) {
        n->hint[at] = *hint;
        return;
    }
    if (n->hint_count == n->hint_cap) {
        if (cap > 2 * VSHARD_CLUSTER_SHARDS_MAX * (VSHARD_REPLICAS_MAX + 1))
            return;
        table = vs_alloc(n->allocator, cap * sizeof *table);
        if (table == NULL)
            return; /* it is only advice */
        if (n->hint_count != 0)
            memcpy(table, n->hint, n->hint_count * sizeof *table);
        vs_free(n->allocator, n->hint, n->hint_cap * sizeof *table);
        n->hint = table;
        n->hint_cap = cap;
    }
    memmove(&n->hint[at + 1], &n->hint[at], (n->hint_count - at) * sizeof *n->hint);
    n->hint[at] = *hint;
    n->hint_count++;
}

void vs_hints_prune(struct vshard_node *n)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n->hint_count; i++) {
        if (vs_cluster_group(&n->meta, n->hint[i].group, NULL) != NULL &&
            vs_cluster_node(&n->meta, n->hint[i].node) != NULL)
            n->hint[kept++] = n->hint[i];
    }
    n->hint_count = kept;
}

void vs_hints_forget(struct vshard_node *n, uint64_t node)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n->hint_count; i++) {
        if (n->hint[i].node != node)
            n->hint[kept++] = n->hint[i];
    }
    n->hint_count = kept;
}

/* ---- what arrives ---- */

/* A replica that does not keep up with what it applies takes no more entries into memory. To its
 * leader they are lost on the way: they come again, or a snapshot does. */
static bool has_room(const struct vshard_node *n, uint64_t group)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    struct vshard_raft_status s = { .size = sizeof s };

    return r == NULL || r->acknowledged == r->queued ||
           vshard_raft_inspect(n->raft, group, &s) != VSHARD_OK ||
           s.held_bytes <= n->o.backlog_bytes + VS_CORE_CACHE;
}

static void take_message(struct vshard_node *n, const struct vshard_frame *f)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_MESSAGE, 0);

    if (f->head_bytes > BARE && !has_room(n, f->group))
        return;
    event.bytes = f->head;
    event.byte_count = f->head_bytes;
    vs_step(n, &event); /* what it refuses, it counts */
}

void vs_receive(struct vshard_node *n, const struct vshard_frame *f)
{
    struct vs_in in = { .at = f->head, .left = (size_t)f->head_bytes };
    struct vs_peer *p = vs_peer_meet(n, f->node);

    if (p != NULL) {
        p->heard_ns = n->now;
        p->incarnation = f->incarnation;
    }
    switch (f->type) {
    case VS_FRAME_RAFT: take_message(n, f); break;
    case VS_FRAME_READ: vs_serve_read(n, f->node, &in); break;
    case VS_FRAME_READ_REPLY: vs_read_reply(n, f->node, &in); break;
    case VS_FRAME_WRITE: vs_serve_write(n, f->node, &in); break;
    case VS_FRAME_WRITE_REPLY: vs_write_reply(n, f->node, &in); break;
    case VS_FRAME_GOSSIP: vs_gossip_take(n, f->node, f->incarnation, &in); break;
    case VS_FRAME_JOIN: vs_join_take(n, f->node, f->incarnation, &in); break;
    case VS_FRAME_JOIN_REPLY: vs_join_reply(n, f->node, &in); break;
    case VS_FRAME_CANCEL: vs_serve_cancel(n, f->node, vs_take64(&in)); break;
    default: n->frames_refused++; /* of a later version, perhaps */
    }
}
