/* certain.c - a replica whose log may have lost its end.
 *
 * Storage cannot always tell whether the last record it synced is there. A replica
 * that lost it may have voted, or acknowledged entries, and not know. If it then
 * voted as its log says, it could help to elect a leader without entries that are
 * committed, or vote twice (trap 17).
 *
 * So it does not vote, nor stand, until three things are true. First, it has heard
 * the terms of so many others that those it has not heard, and itself, are no
 * quorum: whoever was elected with a vote it forgot, was elected by one of those it
 * heard, so no such term is above what it heard. It abstains in the highest.
 * Second, a leader of that term or a later one has confirmed its commit index by a
 * quorum, after this replica asked: what was committed with an acknowledgement it
 * forgot, is at or below that. Third, it has all of that on disk again.
 *
 * Meanwhile it follows like any other: what it acknowledges now, it has. A leader
 * takes back what it believed of it, since the acknowledgements came from a process
 * with an earlier boot. */
#include "raft/core.h"

void vs_certain_begin(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    g->uncertain = VS_ASKING_TERMS;
    for (uint32_t i = 0; i < c->count; i++)
        g->peer[i].vote = 0;
    vs_certain_tick(r, g);
}

/* Have so many been heard that nobody else can have elected a leader with a vote that
 * this replica forgot? Then the leader is asked next. */
static void weigh_terms(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t unheard[VSHARD_RAFT_MEMBERS_MAX];
    bool any = false;

    for (uint32_t i = 0; i < c->count; i++) {
        unheard[i] = vs_is_self(r, &g->peer[i]) || g->peer[i].vote == 0;
        any |= !unheard[i];
    }
    if (!any || vs_config_reached(c, unheard) != 0)
        return;
    if (g->sure_term > g->term)
        vs_become_follower(r, g, g->sure_term, 0);
    if (g->vote == 0) { /* abstain */
        g->vote = r->o.node;
        vs_dirty(r, g);
    }
    g->uncertain = VS_ASKING_LEADER;
}

/* Asks, or asks again. Of a configuration that came meanwhile enough may be heard. */
void vs_certain_tick(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    g->sure_at = vs_later(r->now, r->o.election_ns);
    if (g->uncertain == VS_ASKING_TERMS)
        weigh_terms(r, g);
    for (uint32_t i = 0; i < c->count && g->uncertain == VS_ASKING_TERMS; i++) {
        const struct vs_peer *p = &g->peer[i];
        struct vs_message m = {
            .kind = VS_TERM, .to = p->node, .term = g->term, .to_incarnation = p->incarnation
        };
        if (!vs_is_self(r, p) && p->vote == 0)
            vs_send(r, g, &m, 0);
    }
    if (g->uncertain == VS_ASKING_LEADER && g->leader != 0) {
        struct vs_message m = { .kind = VS_READ,
                                .to = g->leader,
                                .term = g->term,
                                .to_incarnation = g->leader_incarnation };
        g->sure_id = m.round = ++g->next_id;
        vs_send(r, g, &m, 0);
    }
}

void vs_on_term(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_message reply = { .kind = VS_TERM_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .log_term = m->boot };

    /* Who is uncertain itself does not know which terms it has been in. */
    if (g->uncertain == VS_CERTAIN)
        vs_send(r, g, &reply, 0);
}

void vs_on_term_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);

    if (g->uncertain != VS_ASKING_TERMS || p == NULL || m->log_term != r->o.boot)
        return;
    p->vote = 1;
    if (m->term > g->sure_term)
        g->sure_term = m->term;
    weigh_terms(r, g);
    if (g->uncertain == VS_ASKING_LEADER)
        vs_certain_tick(r, g);
}

/* The leader's answer, see vs_on_read_reply(). */
void vs_certain_index(struct vs_group *g, const struct vs_message *m)
{
    if (g->uncertain == VS_ASKING_LEADER && m->round == g->sure_id && m->index != 0 &&
        !(m->flags & VS_FLAG_REJECT)) {
        g->sure_index = m->index;
        g->uncertain = VS_CATCHING_UP;
    }
}

void vs_certain_try(struct vshard_raft *r, struct vs_group *g)
{
    if (g->uncertain != VS_CATCHING_UP || g->commit < g->sure_index || g->durable < g->sure_index ||
        !vs_promised(r, g))
        return;
    g->uncertain = VS_CERTAIN;
    vs_effect(r, VSHARD_RAFT_CERTAIN, g->id);
}
