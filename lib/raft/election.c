/* election.c - who leads: timers, votes, leases.
 *
 * A follower that hears nothing of a leader for its timeout first asks whether it
 * would be elected (pre-vote), and raises its term only if a quorum says so: a
 * replica that was merely cut off disturbs nobody when it returns (Ongaro 2014,
 * section 9.6). A follower that has heard a leader within election_ns refuses both
 * questions; that refusal is a promise, and the leader's lease rests on it: what
 * a quorum answered was sent at some time t of the leader's clock, so nobody can
 * be elected before t + election_ns, less the drift of clocks. A replica that
 * restarts may have promised and does not know, so it keeps the promise anyway,
 * unless it is alone.
 *
 * A leader that hands over tells its successor to campaign at once, and the others
 * to break that promise: before it does, its lease ends, and it stays ended until
 * an entry that the successor did not have is committed, after which a late order
 * can no longer make anybody leader.
 *
 * The same clock readings tell a leader that nobody follows it any more. It then
 * steps down and falls silent, so that those it still reaches are free to elect
 * somebody whom others reach too. */
#include "raft/core.h"

bool vs_is_self(const struct vshard_raft *r, const struct vs_peer *p)
{
    return p->node == r->o.node && (p->incarnation == r->o.incarnation || TRAP(16));
}

uint64_t vs_quorum_ns(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t value[VSHARD_RAFT_MEMBERS_MAX];

    for (uint32_t i = 0; i < c->count; i++)
        value[i] = vs_is_self(r, &g->peer[i]) ? r->now : g->peer[i].ack_ns;
    return vs_config_reached(c, value);
}

uint64_t vs_lease_until(const struct vshard_raft *r, const struct vs_group *g)
{
    uint64_t whole = r->o.election_ns / 1000000, rest = r->o.election_ns % 1000000;
    uint64_t drift = whole * r->o.clock_drift_ppm +
                     (TRAP(55) ? 0 : (rest * r->o.clock_drift_ppm + 999999) / 1000000);
    uint64_t lease = r->o.election_ns - drift - 1;

    if (g->role != VSHARD_RAFT_LEADER || !vs_leads_firmly(g))
        return 0;
    /* 28: from the moment a hand-over is asked for. */
    if (!TRAP(28) && (g->transfer_node != 0 || g->commit <= g->transfer_fence))
        return 0;
    return vs_later(vs_quorum_ns(r, g), lease);
}

static bool may_lead(const struct vshard_raft *r, const struct vs_config *c)
{
    int at = vs_config_find(c, r->o.node, r->o.incarnation);

    return at >= 0 && (c->member[at].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING)) &&
           c->member[at].priority < VSHARD_RAFT_NEVER_LEADS;
}

/* A voter may; and so may one whose newest configuration leaves it out, until that
 * is committed: it may be the only one whose log the others can accept (Ongaro
 * 2014, section 4.2.2). */
bool vs_can_campaign(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    if (g->installing || g->stopped || !g->started || g->uncertain ||
        (vs_superseded(g) && !TRAP(39)) || (g->term & VS_TERM_COUNT) == VS_TERM_COUNT)
        return false;
    return may_lead(r, c) || (c->index > g->commit && c > g->config && may_lead(r, c - 1));
}

/* One that may not lead asks all the same while it knows no leader, as after it was opened again:
 * who leads may be asleep, and hears of this replica by that alone. What is answered, it ignores.
 */
bool vs_seeks_leader(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    return g->leader == 0 && g->started && !g->stopped && !g->installing && !TRAP(57) &&
           vs_config_find(c, r->o.node, r->o.incarnation) >= 0 && !may_lead(r, c);
}

/* Is it the only member, and nobody else leads or may still believe so? That holds of the
 * first configuration there was, and of one that is known to be committed: a leader that
 * it left out let go before it told of that (vs_flush). Where others only learn, one of
 * them may have been made the beginning of an epoch (epoch.c). */
static bool is_alone(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    return c->count == 1 && !vs_config_joint(c) && vs_is_self(r, &g->peer[0]) &&
           (c->index == 1 || c->index <= g->commit || TRAP(48)) && vs_can_campaign(r, g);
}

/* It may have promised a leader not to vote, just before it went down. Who is alone has
 * promised nobody anything, and need not see whether a leader is heard. */
void vs_election_begin(struct vshard_raft *r, struct vs_group *g)
{
    bool alone = is_alone(r, g);

    g->promise_until = alone ? 0 : vs_later(r->now, r->o.election_ns);
    vs_election_reset(r, g);
    if (alone) {
        g->election_at = r->now;
        g->excused = 1; /* nor whether one waits to be */
    }
}

void vs_election_reset(struct vshard_raft *r, struct vs_group *g)
{
    g->election_at =
        vs_later(r->now, vs_group_patience(r, g) + vs_random(&g->random) % r->o.election_ns);
    g->excused = 0;
}

void vs_heard_leader(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    g->leader = m->from;
    g->leader_incarnation = m->from_incarnation;
    g->promise_until = vs_later(r->now, r->o.election_ns);
    vs_election_reset(r, g);
    if (g->sure_at > vs_later(r->now, r->o.heartbeat_ns)) /* there is somebody to ask */
        g->sure_at = vs_later(r->now, r->o.heartbeat_ns);
}

void vs_become_follower(struct vshard_raft *r, struct vs_group *g, uint64_t term, uint64_t leader)
{
    bool led = g->role == VSHARD_RAFT_LEADER, newer = term > g->term;

    VS_ASSERT(term >= g->term);
    if (g->asleep)
        vs_wake(r, g);
    if (newer) {
        if (vs_epoch(term) != vs_epoch(g->term)) { /* of another past, perhaps */
            g->proof_index = 0;
            g->install_from = TRAP(50) ? g->install_from : 0;
        }
        g->term = term;
        g->vote = g->vote_incarnation = 0;
        g->verified = g->install_stamp = 0;
        vs_dirty(r, g);
    } else if (TRAP(12)) {
        g->vote = 0;
    }
    if (led) {
        vs_lead(r, g, false);
        vs_transfer_end(r, g, VSHARD_OK);
        vs_election_reset(r, g);
    }
    g->role = VSHARD_RAFT_FOLLOWER;
    if (newer || led) {
        g->leader = leader;
        vs_requests_drop(r, g);
    }
}

static void last_of(const struct vs_group *g, uint64_t *index, uint64_t *term)
{
    *index = g->log.last;
    *term = vs_log_term(&g->log, g->log.last);
}

/* Asks the others. With `flags` TRANSFER the old leader wants it so.
 *
 * A candidate asks while its own disk still writes the term, so that all disks write at
 * once; it leads only when that is done (tally). If it crashes first it has forgotten the
 * question, and may ask again in the same term with less of a log, or vote for another.
 * So the answer names the process that asked, and is worth nothing to a later one. */
static void ask(struct vshard_raft *r, struct vs_group *g, uint32_t kind, uint32_t flags)
{
    const struct vs_config *c = vs_config_now(g);

    for (uint32_t i = 0; i < c->count; i++) {
        struct vs_peer *p = &g->peer[i];
        struct vs_message m = { .kind = kind,
                                .flags = flags,
                                .to = p->node,
                                .to_incarnation = p->incarnation,
                                .round = r->o.boot,
                                .term = g->term + (kind == VS_PREVOTE) };
        struct vshard_raft_effect *e;

        p->vote = 0;
        if (vs_is_self(r, p) || !(c->member[i].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING)))
            continue;
        last_of(g, &m.index, &m.log_term);
        e = vs_send(r, g, &m, 0);
        e->barrier = 0;
        e->flags = 0;
    }
}

/* Begins to lead the present term, whose first entry is this. */
void vs_lead_with(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_entry *first)
{
    const struct vs_config *c = vs_config_now(g);

    g->role = VSHARD_RAFT_LEADER;
    g->leader = r->o.node;
    g->leader_incarnation = r->o.incarnation;
    g->lead_since = r->now;
    g->check_at = 0;
    g->transfer_fence = 0;
    g->round = 0;
    g->active_ns = r->now;
    g->promise_until = 0;
    vs_tick_from_now(r);
    vs_lead(r, g, true);
    for (uint32_t i = 0; i < c->count; i++) {
        g->peer[i] = (struct vs_peer){ .node = c->member[i].node,
                                       .incarnation = c->member[i].incarnation,
                                       .next = g->log.last + 1,
                                       .link = g->peer[i].link };
    }
    vs_leader_append(r, g, first);
}

static void become_leader(struct vshard_raft *r, struct vs_group *g)
{
    vs_lead_with(r, g, &(struct vshard_raft_entry){ .kind = VSHARD_RAFT_BLANK });
}

static void elect(struct vshard_raft *r, struct vs_group *g);

static void tally(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    int vote[VSHARD_RAFT_MEMBERS_MAX];
    int won;

    for (uint32_t i = 0; i < c->count; i++)
        vote[i] = g->peer[i].vote;
    won = vs_config_tally(c, vote);
    if (won < 0) {
        vs_become_follower(r, g, g->term, 0);
    } else if (won > 0 && g->role == VSHARD_RAFT_PRECANDIDATE) {
        elect(r, g);
    } else if (won > 0 && (vs_promised(r, g) || TRAP(13) || TRAP(15))) {
        become_leader(r, g);
    }
}

static void vote_for_self(struct vshard_raft *r, struct vs_group *g)
{
    struct vs_peer *p = vs_peer_of(g, r->o.node, r->o.incarnation);

    if (p != NULL)
        p->vote = 1;
    tally(r, g);
}

/* The real election: a new term, and a vote for ourselves that counts when it is
 * on disk. */
static void elect_with(struct vshard_raft *r, struct vs_group *g, uint32_t flags)
{
    g->role = VSHARD_RAFT_CANDIDATE;
    g->term++;
    g->vote = r->o.node;
    g->vote_incarnation = 0;
    g->leader = 0;
    g->verified = g->install_stamp = 0;
    if (!TRAP(13))
        vs_dirty(r, g);
    vs_requests_drop(r, g);
    ask(r, g, VS_VOTE, flags);
    if (TRAP(13) || TRAP(15))
        vote_for_self(r, g);
}

static void elect(struct vshard_raft *r, struct vs_group *g)
{
    elect_with(r, g, 0);
}

void vs_self_vote(struct vshard_raft *r, struct vs_group *g)
{
    if (g->role == VSHARD_RAFT_CANDIDATE && g->vote == r->o.node && vs_promised(r, g) &&
        !g->stopped)
        vote_for_self(r, g);
}

void vs_campaign(struct vshard_raft *r, struct vs_group *g, uint32_t flags)
{
    vs_election_reset(r, g);
    r->counters.elections++;
    if (flags & VS_FLAG_TRANSFER) {
        elect_with(r, g, flags);
        return;
    }
    g->role = VSHARD_RAFT_PRECANDIDATE;
    g->leader = 0;
    ask(r, g, VS_PREVOTE, 0);
    vote_for_self(r, g);
}

/* As soon as no leader may count on us for its lease: what we answered to it was a promise
 * to vote for nobody else, and we are somebody else, too. */
void vs_stand(struct vshard_raft *r, struct vs_group *g)
{
    if (r->now >= g->promise_until || TRAP(44))
        vs_campaign(r, g, 0);
    else if (g->promise_until < g->election_at)
        g->election_at = g->promise_until;
}

static void leader_tick(struct vshard_raft *r, struct vs_group *g)
{
    uint64_t since = vs_quorum_ns(r, g);

    if (since < g->lead_since)
        since = g->lead_since;
    /* 33: nobody answers: fall silent, so that others may find each other. */
    if (r->now >= vs_later(since, 2 * vs_group_patience(r, g)) && !TRAP(33)) {
        vs_become_follower(r, g, g->term, 0);
        return;
    }
    /* 29: a hand-over that fails must not hold up writes. */
    if (g->transfer_node != 0 && r->now >= g->transfer_until && !TRAP(29))
        vs_transfer_end(r, g, VSHARD_ETIMEDOUT);
}

void vs_election_tick(struct vshard_raft *r, struct vs_group *g)
{
    if (g->stopped || !g->started)
        return;
    vs_requests_expire(r, g);
    if (g->role == VSHARD_RAFT_LEADER) {
        leader_tick(r, g);
    } else if (g->uncertain) {
        if (r->now >= g->sure_at)
            vs_certain_tick(r, g);
    } else if (r->now >= g->election_at) {
        /* Called late, this process was held up, and the leader's word may be in its
         * queue: it may have been silent for less than it seems. Once. */
        if (r->now - g->election_at > r->o.heartbeat_ns && !g->excused) {
            g->excused = 1;
            g->election_at = vs_later(r->now, r->o.heartbeat_ns);
            return;
        }
        if (vs_can_campaign(r, g) && !vs_stalled(r)) {
            vs_campaign(r, g, 0);
            return;
        }
        vs_election_reset(r, g);
        if (vs_seeks_leader(r, g))
            ask(r, g, VS_PREVOTE, 0);
    }
}

/* Is a log that ends with (index, term) at least as good as ours? */
static bool log_suffices(const struct vs_group *g, uint64_t index, uint64_t term)
{
    uint64_t our_index, our_term;

    last_of(g, &our_index, &our_term);
    if (TRAP(9))
        return index >= our_index;
    return term != our_term ? term > our_term : index >= our_index;
}

static bool promised(const struct vshard_raft *r, const struct vs_group *g,
                     const struct vs_message *m)
{
    if (m->flags & VS_FLAG_TRANSFER)
        return false;
    if (g->asleep) /* whoever asks has not woken it: no member */
        return true;
    if (g->role == VSHARD_RAFT_LEADER && r->now < vs_later(vs_quorum_ns(r, g), r->o.election_ns))
        return true;
    return r->now < g->promise_until;
}

void vs_on_vote(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_message reply = { .kind = m->kind + 1,
                                .to = m->from,
                                .term = m->term,
                                .to_incarnation = m->from_incarnation,
                                .round = m->round };
    bool good = log_suffices(g, m->index, m->log_term) &&
                (vs_epoch(m->log_term) == vs_epoch(m->term) || TRAP(39));

    if (m->term <= g->term && m->kind == VS_PREVOTE)
        good = false;
    if (m->term < g->term || (m->kind == VS_PREVOTE && !good)) {
        reply.flags = VS_FLAG_REJECT;
        reply.term = g->term;
        /* 32: one whose term is behind must hear of it, or it asks for ever. */
        if (!TRAP(32))
            vs_send(r, g, &reply, 0);
        return;
    }
    if (promised(r, g, m) || g->uncertain)
        return;
    if (m->kind == VS_PREVOTE) {
        vs_send(r, g, &reply, 0);
        return;
    }
    if (m->term > g->term)
        vs_become_follower(r, g, m->term, 0);
    /* What was voted for by an earlier process may have been another incarnation of that node. */
    if (g->role > VSHARD_RAFT_PRECANDIDATE || !good || g->leader != 0 ||
        (g->vote != 0 && (g->vote != m->from || (g->vote_incarnation != m->from_incarnation &&
                                                 !TRAP(16) && !TRAP(54))))) {
        reply.flags = VS_FLAG_REJECT;
    } else if (g->vote == 0) {
        g->vote = m->from;
        g->vote_incarnation = m->from_incarnation;
        vs_dirty(r, g);
        vs_election_reset(r, g);
    }
    vs_send(r, g, &reply, 0);
}

void vs_on_vote_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    bool pre = m->kind == VS_PREVOTE_REPLY, reject = (m->flags & VS_FLAG_REJECT) != 0;
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);

    if (m->term > g->term && !(pre && !reject)) {
        vs_become_follower(r, g, m->term, 0);
        return;
    }
    if (p == NULL || m->round != r->o.boot ||
        g->role != (pre ? VSHARD_RAFT_PRECANDIDATE : VSHARD_RAFT_CANDIDATE) ||
        (!reject && m->term != g->term + pre) || (reject && !pre && m->term != g->term))
        return;
    if (TRAP(14) && p->vote != 0) {
        for (uint32_t i = 0; i < vs_config_now(g)->count; i++)
            p = g->peer[i].vote == 0 ? &g->peer[i] : p;
    }
    p->vote = reject ? -1 : 1;
    tally(r, g);
}

void vs_on_timeout_now(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    if (m->term == g->term && g->role == VSHARD_RAFT_FOLLOWER && m->index == g->log.last &&
        vs_can_campaign(r, g) && !vs_stalled(r))
        vs_campaign(r, g, VS_FLAG_TRANSFER);
}
