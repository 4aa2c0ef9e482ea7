/* beat.c - heartbeats, which belong to nodes and not to groups.
 *
 * One frame goes to each node in an interval, with one line for each group led here.
 * It carries the leader's clock and its round; the answers give both back, and that is
 * all that leases, reads by quorum, and the leader's own sense of being followed are
 * made of. What a line says to a group is replicate.c's; when frames come is link.c's. */
#include "raft/core.h"

/* ---- sending ---- */

size_t vs_beats_bytes(const struct vshard_raft *r)
{
    bool wakes = vs_links_silent(r) && !TRAP(51);
    size_t bytes = 0;

    for (uint32_t i = 0; i < r->led_count; i++)
        bytes += (size_t)vs_config_now(r->led[i])->count * VS_BEAT_BYTES;
    /* And of groups that wake before these are sent, because somebody has fallen silent. */
    for (uint32_t i = 0; wakes && i < r->link_count; i++)
        bytes += (size_t)r->link[i].led * VS_BEAT_BYTES;
    return bytes + r->link_count * (size_t)VS_MESSAGE_HEAD;
}

/* The line for one member of a group. */
static void beat_line(const struct vshard_raft *r, const struct vs_group *g,
                      const struct vs_peer *p, unsigned char *to)
{
    struct vs_beat b = { .group = g->id,
                         .term = g->term,
                         .round = g->round,
                         .commit = vs_peer_commit(g, p),
                         .flags = vs_drowsy(r, g) ? VS_FLAG_SLEEP : 0,
                         .to_incarnation = p->incarnation };

    vs_beat_encode(to, &b);
}

/* One frame to a node, with a line for each group led here of which it is a
 * member, or only for `only`. Without lines it says that this process lives, for
 * the groups that sleep; but to a node that has just been sent an answer, that is
 * known. */
static void beat_node(struct vshard_raft *r, const struct vs_group *only, struct vs_link *l)
{
    struct vs_message m = { .kind = VS_BEATS, .to = l->node, .stamp = r->now };
    unsigned char *out = r->head + r->head_used;

    for (uint32_t i = 0; i < (only ? 1 : r->led_count); i++) {
        const struct vs_group *g = only ? only : r->led[i];

        for (uint32_t k = 0; k < vs_config_now(g)->count; k++) {
            const struct vs_peer *p = &g->peer[k];

            if (p->node == l->node && !vs_is_self(r, p) && vs_promised(r, g))
                beat_line(r, g, p, out + VS_BEAT_BYTES * (size_t)m.count++);
        }
    }
    if (m.count == 0 && (only || l->led == 0 || vs_stalled(r) ||
                         r->now - l->answered_ns < r->o.heartbeat_ns + r->o.heartbeat_ns / 2))
        return;
    m.body_bytes = VS_BEAT_BYTES * (size_t)m.count;
    m.body = vs_head(r, m.body_bytes);
    vs_send(r, NULL, &m, 0);
}

void vs_beats(struct vshard_raft *r, struct vs_group *only)
{
    if (only != NULL && only->role != VSHARD_RAFT_LEADER)
        return;
    for (uint32_t i = 0; i < r->link_count; i++) {
        if (r->link[i].node != r->o.node)
            beat_node(r, only, &r->link[i]);
    }
}

/* ---- receiving ---- */

/* The group that a line is for; NULL for one that is not here, for a line that is for another
 * incarnation, and for a second line: of that no honest sender has need. */
static struct vs_group *group_of(const struct vshard_raft *r, const struct vs_beat *b)
{
    struct vs_group *g = vs_group_find(r, b->group);

    if (g == NULL || g->mark == r->step_id || (b->to_incarnation != r->o.incarnation && !TRAP(16)))
        return NULL;
    g->mark = r->step_id;
    return g;
}

int vs_on_beats(struct vshard_raft *r, const struct vs_message *m)
{
    struct vs_room room = { 4, 2 * VS_MESSAGE_HEAD + m->body_bytes, 0 };
    struct vs_link *link = vs_link_find(r, m->from);
    struct vs_message reply = { .kind = VS_BEAT_REPLIES,
                                .to = m->from,
                                .stamp = m->stamp,
                                .to_incarnation = m->from_incarnation,
                                .round = m->round };
    unsigned char *out;
    uint64_t barrier = 0;
    int rc = VSHARD_OK;

    r->step_id++;
    for (uint32_t i = 0; i < m->count && rc == VSHARD_OK; i++) {
        struct vs_beat b;
        struct vs_group *g;

        vs_beat_decode(&b, m->body + VS_BEAT_BYTES * (size_t)i);
        g = group_of(r, &b);
        if (g != NULL)
            rc = vs_room_add(r, g, &room);
    }
    if (rc == VSHARD_OK)
        rc = vs_room_make(r, &room);
    if (rc != VSHARD_OK)
        return rc;
    if (!vs_link_heard(r, m))
        return VSHARD_OK;
    out = vs_head(r, m->body_bytes);
    r->step_id++;
    for (uint32_t i = 0; i < m->count; i++) {
        struct vs_beat b, answer = { 0 };
        struct vs_group *g;

        vs_beat_decode(&b, m->body + VS_BEAT_BYTES * (size_t)i);
        g = group_of(r, &b);
        if (g == NULL || !g->started || g->stopped || b.term >> 63 || b.commit >> 63 ||
            (b.term & VS_TERM_COUNT) == VS_TERM_COUNT)
            continue;
        vs_group_begin(r, g);
        if (m->kind == VS_BEATS) {
            vs_on_beat(r, g, m, &b, &answer);
            vs_beat_encode(out + VS_BEAT_BYTES * (size_t)reply.count++, &answer);
        } else {
            vs_on_beat_reply(r, g, m, &b);
        }
        vs_group_finish(r, g);
        barrier = !vs_promised(r, g) && g->hard_seq > barrier ? g->hard_seq : barrier;
    }
    /* Always: whoever knows nothing of a group yet is heard of by this. */
    if (m->kind == VS_BEATS) {
        struct vshard_raft_effect *e;
        reply.flags = vs_stalled(r) ? VS_FLAG_STALLED : 0;
        if (link != NULL)
            link->answered_ns = r->now;
        reply.body_bytes = VS_BEAT_BYTES * (size_t)reply.count;
        reply.body = out;
        e = vs_send(r, NULL, &reply, barrier);
        /* Head and beats lie apart; join them, so that what waits has no body. */
        e->bytes = memmove(out - VS_MESSAGE_HEAD, e->bytes, VS_MESSAGE_HEAD);
        e->byte_count = VS_MESSAGE_HEAD + reply.body_bytes;
        e->body = NULL;
        e->body_count = 0;
    }
    return VSHARD_OK;
}
