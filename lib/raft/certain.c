/* certain.c - a replica whose log may have lost its end.
 *
 * Storage cannot always tell whether the last record it synced is there. A replica that
 * lost it may have voted, or acknowledged entries, and not know. Votes that it forgot may
 * still be on their way, to one who stands in a term that nobody else has heard of, and so
 * may its acknowledgements. Until it is certain, it neither votes nor stands, and nothing
 * that it answers is counted: not for commits, not for leases, not for reads (trap 17).
 *
 * It asks the leader. The leader takes back what it believed of it, since that came from an
 * earlier process, and appends an entry. It answers when so many of the others have that
 * entry on disk that those who do not, with the one that asks, are no quorum. Then:
 *
 *   - Who stands in a later term and has the forgotten vote stood before the entry was made,
 *     and does not have it. To be elected it needs the vote of one who has, and is refused
 *     for the end of its log. One who voted for it before would not have taken the entry.
 *   - Nobody leads in a later term, for the same reason: one of those who elected it would
 *     have taken the entry in spite of its vote.
 *   - In the leader's term and before, the replica will not vote any more: it abstains.
 *   - What was committed with an acknowledgement that it forgot is in the leader's log, before
 *     the entry: if in an earlier term, because this leader was elected; if in this one,
 *     because such acknowledgements do not count any more since the question came.
 *
 * A configuration that is not committed may be undone, and then the one before it counts. So
 * this is asked of the configurations that are not committed, and of the last that is.
 *
 * So when it has the leader's log on disk up to that entry, and its term and abstention as
 * well, it is certain, and from then on as good as any other.
 *
 * While too many are uncertain or dead for that, it waits, and so does the group; what is
 * lost then an operator has to decide (epoch.c). */
#include "raft/core.h"

void vs_certain_begin(struct vshard_raft *r, struct vs_group *g)
{
    g->uncertain = VS_ASKING;
    vs_certain_tick(r, g);
}

static void ask(struct vshard_raft *r, struct vs_group *g, uint64_t node, uint64_t incarnation)
{
    const struct vs_message m = {
        .kind = VS_SURE, .to = node, .term = g->term, .to_incarnation = incarnation
    };

    vs_send(r, g, &m, 0);
}

/* Asks, or asks again; of another leader everything. Without a leader it asks all: who leads
 * may be asleep, and hears of this replica by that alone. */
void vs_certain_tick(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    g->sure_at = vs_later(r->now, g->leader != 0 ? r->o.heartbeat_ns : r->o.election_ns);
    if (g->uncertain == VS_CATCHING_UP && g->sure_term == g->term)
        return;
    g->uncertain = VS_ASKING;
    if (g->leader != 0)
        ask(r, g, g->leader, g->leader_incarnation);
    for (uint32_t i = 0; i < c->count && g->leader == 0; i++) {
        if (!vs_is_self(r, &g->peer[i]))
            ask(r, g, g->peer[i].node, g->peer[i].incarnation);
    }
}

/* ---- at the leader ---- */

static bool has(const struct vshard_raft *r, const struct vs_peer *p, const struct vs_group *g,
                uint64_t index)
{
    return vs_is_self(r, p) ? g->durable >= index : !p->uncertain && p->match >= index;
}

/* Do so many of a configuration have it that those who do not are no quorum? */
static bool is_held_in(const struct vshard_raft *r, struct vs_group *g, const struct vs_config *c,
                       uint64_t index)
{
    uint64_t without[VSHARD_RAFT_MEMBERS_MAX];

    for (uint32_t i = 0; i < c->count; i++) {
        const struct vs_peer *p = vs_peer_of(g, c->member[i].node, c->member[i].incarnation);

        without[i] = p == NULL || !has(r, p, g, index);
    }
    return vs_config_reached(c, without) == 0;
}

static bool is_held(const struct vshard_raft *r, struct vs_group *g, uint64_t index)
{
    uint32_t i = g->config_count - 1;

    while (is_held_in(r, g, &g->config[i], index)) {
        if (i == 0 || g->config[i].index <= g->commit || TRAP(47))
            return true;
        i--;
    }
    return TRAP(46);
}

void vs_on_sure(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    const struct vshard_raft_entry blank = { .kind = VSHARD_RAFT_BLANK };
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);
    struct vs_message reply = { .kind = VS_SURE_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .log_term = m->boot };

    if (g->role != VSHARD_RAFT_LEADER || m->term != g->term || p == NULL ||
        !vs_same_process(p, m->boot))
        return;
    p->uncertain = 1;
    if (p->sure_boot != m->boot || p->sure_term != g->term) {
        vs_leader_append(r, g, &blank);
        p->sure_boot = m->boot;
        p->sure_term = g->term;
        p->sure_index = g->log.last;
    }
    reply.index = p->sure_index;
    if (is_held(r, g, p->sure_index))
        vs_send(r, g, &reply, 0);
}

/* ---- at the one that asked ---- */

/* Certain as soon as it has this entry, of this term. */
void vs_certain_at(struct vs_group *g, uint64_t index)
{
    g->uncertain = VS_CATCHING_UP;
    g->sure_index = index;
    g->sure_term = g->term;
}

void vs_on_sure_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    /* An answer to an earlier question of this process in this term says the same. */
    if (g->uncertain != VS_ASKING || m->term != g->term || m->log_term != r->o.boot ||
        m->index == 0)
        return;
    vs_certain_at(g, m->index);
    if (g->vote == 0) { /* abstain */
        g->vote = r->o.node;
        vs_dirty(r, g);
    }
}

void vs_certain_try(struct vshard_raft *r, struct vs_group *g)
{
    if (g->uncertain != VS_CATCHING_UP || g->sure_term != g->term ||
        (g->verified < g->sure_index && g->role != VSHARD_RAFT_LEADER) ||
        g->durable < g->sure_index || !vs_promised(r, g))
        return;
    g->uncertain = VS_CERTAIN;
    vs_effect(r, VSHARD_RAFT_CERTAIN, g->id);
}
