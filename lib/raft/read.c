/* read.c - reading without writing.
 *
 * A read by index asks the leader for its commit index, confirmed by a quorum that
 * still followed it in a round of heartbeats begun after the read was (Ongaro 2014,
 * section 6.4). Reads that come while a round is under way share the next one.
 * Before a leader has committed an entry of its own term it does not know the
 * commit index, and reads wait. A round has a number that is never used again in
 * its term, so a late answer to an old one confirms nothing new.
 *
 * A read by lease takes the commit index at once while the lease holds.
 *
 * A follower asks the leader, and stamps the question with its own clock. Since the
 * answer was true after that, the follower's state at that index is at least as
 * new as the stamp: the same exchange serves linearizable reads, and afterwards
 * proves an age for reads that bear one. Only one clock is involved.
 *
 * Every read is answered when the state machine has reached its index, and that state is
 * one of the leader's log: a replica that has met a new recovery epoch (epoch.c) may have
 * applied what the new log never had, and answers nothing until it has shown that it has not. */
#include "raft/core.h"

static uint64_t quorum_round(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t value[VSHARD_RAFT_MEMBERS_MAX];

    for (uint32_t i = 0; i < c->count; i++)
        value[i] = vs_is_self(r, &g->peer[i]) ? g->round : g->peer[i].ack_round;
    return vs_config_reached(c, value);
}

static bool lease_holds(const struct vshard_raft *r, const struct vs_group *g)
{
    return r->now < vs_lease_until(r, g);
}

static struct vs_request *push(struct vshard_raft *r, struct vs_group *g, uint32_t kind,
                               uint64_t tag)
{
    struct vs_request *q = vs_request_push(g, kind, tag);

    q->stamp = r->now;
    q->deadline = vs_later(r->now, r->o.request_ns);
    g->expires = q->deadline < g->expires ? q->deadline : g->expires;
    return q;
}

static void ask_leader(struct vshard_raft *r, struct vs_group *g, uint64_t tag)
{
    struct vs_request *q = push(r, g, VS_REQUEST_ASK, tag);
    struct vs_message m = {
        .kind = VS_READ, .to = g->leader, .term = g->term, .to_incarnation = g->leader_incarnation
    };

    q->id = m.round = ++g->next_id;
    vs_send(r, g, &m, 0);
}

/* May what is applied here be another past than the leader's? */
static bool elsewhere(const struct vs_group *g)
{
    return vs_unproven(g, g->term) && !TRAP(56);
}

/* Can a read that bears an age be answered from what the leader confirmed last? */
bool vs_read_is_proven(const struct vshard_raft *r, const struct vs_group *g,
                       const struct vshard_raft_event *e)
{
    return e->mode == VSHARD_RAFT_READ_STALE && g->role != VSHARD_RAFT_LEADER &&
           g->proof_index != 0 && g->applied >= g->proof_index && !elsewhere(g) &&
           r->now - g->proof_ns <= e->max_age_ns;
}

void vs_read(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    if (vs_read_is_proven(r, g, e)) {
        struct vs_request q = { .tag = e->tag, .index = g->applied, .stamp = g->proof_ns };
        vs_done(r, g, &q, VSHARD_OK);
    } else if (g->role == VSHARD_RAFT_LEADER) {
        struct vs_request *q = push(r, g, VS_REQUEST_READ, e->tag);
        if (e->mode != VSHARD_RAFT_READ_INDEX && lease_holds(r, g))
            q->index = g->commit;
    } else if (g->leader != 0 && !(e->flags & VSHARD_RAFT_LOCAL_ONLY)) {
        ask_leader(r, g, e->tag);
    } else {
        struct vs_request q = { .tag = e->tag };
        vs_done(r, g, &q, e->mode == VSHARD_RAFT_READ_STALE ? VSHARD_ESTALE : VSHARD_ENOTLEADER);
    }
}

void vs_on_read(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_message reply = { .kind = VS_READ_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .round = m->round,
                                .log_term = m->boot,
                                .flags = VS_FLAG_REJECT };
    struct vs_request *q;

    if (g->role != VSHARD_RAFT_LEADER || m->term != g->term) {
        vs_send(r, g, &reply, 0);
        return;
    }
    q = push(r, g, VS_REQUEST_READ, 0);
    q->origin = m->from;
    q->origin_incarnation = m->from_incarnation;
    q->origin_boot = m->boot;
    q->id = m->round;
}

void vs_on_read_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];

        if (q->kind != VS_REQUEST_ASK || q->id != m->round || q->index != 0 ||
            m->log_term != r->o.boot)
            continue;
        if ((m->flags & VS_FLAG_REJECT) || m->index == 0) {
            vs_done(r, g, q, VSHARD_ENOTLEADER);
            vs_request_remove(g, i);
            return;
        }
        q->index = m->index;
        if (i < g->waiting_count && q->index <= g->applied)
            g->waiting_count = i; /* it waits no longer */
        if (q->stamp > g->proof_ns) {
            g->proof_ns = q->stamp;
            g->proof_index = m->index;
        }
        return;
    }
}

/* True if the read is over. */
static bool release(struct vshard_raft *r, struct vs_group *g, struct vs_request *q)
{
    if (q->kind == VS_REQUEST_READ && q->index != 0 && q->origin != 0) {
        struct vs_message m = { .kind = VS_READ_REPLY,
                                .to = q->origin,
                                .term = g->term,
                                .to_incarnation = q->origin_incarnation,
                                .round = q->id,
                                .log_term = q->origin_boot,
                                .index = q->index };
        vs_send(r, g, &m, 0);
        return true;
    }
    if (q->index == 0 || q->index > g->applied || elsewhere(g))
        return false;
    q->index = g->applied;
    vs_done(r, g, q, VSHARD_OK);
    return true;
}

/* Of those that were looked at before, which are the first, none ends before more is applied or a
 * later round confirmed: where many wait, a step looks at those that came with it. (Those that wait
 * for a proof are looked at in each step.) */
static uint32_t first_to_look_at(struct vs_group *g, uint64_t confirmed)
{
    if (g->applied != g->waiting_applied || confirmed != g->waiting_round)
        g->waiting_count = 0;
    if (g->waiting_count == 0)
        g->waiting_open = 0;
    g->waiting_applied = g->applied;
    g->waiting_round = confirmed;
    return g->waiting_count;
}

void vs_reads_release(struct vshard_raft *r, struct vs_group *g)
{
    uint64_t confirmed;
    uint32_t kept;

    if (g->request_count == 0)
        return;
    confirmed = g->role == VSHARD_RAFT_LEADER ? quorum_round(r, g) : 0;
    kept = first_to_look_at(g, confirmed);
    for (uint32_t i = kept; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];

        if (q->kind == VS_REQUEST_READ && q->index == 0 && q->round != 0 && q->round <= confirmed)
            q->index = q->term; /* the commit index when the round began */
        if ((q->kind == VS_REQUEST_READ || q->kind == VS_REQUEST_ASK) && release(r, g, q))
            continue;
        g->waiting_open |= q->kind == VS_REQUEST_READ && q->index == 0 && q->round == 0;
        g->request[kept++] = *q;
    }
    g->request_count = kept;
    g->waiting_count = elsewhere(g) ? 0 : kept;
    /* 26: not before an entry of this term is committed. */
    if (!g->waiting_open || g->role != VSHARD_RAFT_LEADER || (!vs_leads_firmly(g) && !TRAP(26)) ||
        confirmed < g->round)
        return;
    if (!TRAP(27) || g->round == 0)
        g->round++;
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];
        if (q->kind == VS_REQUEST_READ && q->index == 0 && q->round == 0) {
            q->round = g->round;
            q->term = g->commit;
        }
    }
    g->waiting_open = 0;
    g->want_beat = 1;
    /* Alone, the quorum is here already. */
    if (quorum_round(r, g) >= g->round)
        vs_reads_release(r, g);
}
