/* replicate.c - a leader's log becomes everybody's.
 *
 * A leader keeps for each member the next entry to send. It starts by probing:
 * one append at a time until one fits. Then it streams, up to a number of appends
 * and of bytes under way, and moves on without waiting. An append that does not
 * fit comes back with a hint, the newest of the follower's entries whose term is
 * not above the one the leader named; the leader takes its own newest entry that
 * is not above the hint's term, so that each exchange skips at least a whole term
 * (raft thesis, section 5.3, and its refinement in etcd).
 *
 * One that was removed, and comes back in the same term, may have been told to forget what it
 * had (its node's store is the host's to empty). So nothing counts that answers what it was sent
 * before: it began anew, and so does what the leader knows of it.
 *
 * Losses are noticed by heartbeats: the answer to one says how much of this
 * leader's log has been received; if that is less than what was sent before the
 * heartbeat was, something is gone, and the leader probes again. */
#include "raft/core.h"

struct vs_peer *vs_peer_of(struct vs_group *g, uint64_t node, uint64_t incarnation)
{
    int at = vs_config_find(vs_config_now(g), node, incarnation);

    return at < 0 ? NULL : &g->peer[at];
}

bool vs_leads_firmly(const struct vs_group *g)
{
    return g->role == VSHARD_RAFT_LEADER && vs_log_term(&g->log, g->commit) == g->term;
}

/* What this member may take as committed: never more than it is known to have. */
uint64_t vs_peer_commit(const struct vs_group *g, const struct vs_peer *p)
{
    if (TRAP(2))
        return g->commit;
    return g->commit < p->match ? g->commit : p->match;
}

void vs_leader_append(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_entry *e)
{
    struct vshard_raft_entry entry = *e;

    entry.index = g->log.last + 1;
    entry.term = g->term;
    vs_log_push(&g->log, &entry);
    if (g->fresh == 0)
        g->fresh = entry.index;
    g->log_seq = r->seq + 1;
    if (entry.kind == VSHARD_RAFT_CONFIG) {
        struct vs_config c;
        VS_ASSERT(vs_config_decode(&c, entry.data, (size_t)entry.count) == VSHARD_OK);
        c.index = entry.index;
        vs_config_push(r, g, &c);
    }
}

void vs_advance_commit(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t value[VSHARD_RAFT_MEMBERS_MAX];
    uint64_t reached;

    for (uint32_t i = 0; i < c->count; i++)
        value[i] = g->peer[i].uncertain && !TRAP(45) ? 0
                   : !vs_is_self(r, &g->peer[i])     ? g->peer[i].match
                   : TRAP(15)                        ? g->log.last
                                                     : g->durable;
    reached = vs_config_reached(c, value);
    /* 1: entries of earlier terms are committed only beneath one of this term. */
    if (reached > g->commit && reached <= g->log.last &&
        (vs_log_term(&g->log, reached) == g->term || TRAP(1)))
        g->commit = reached;
}

/* ---- sending ---- */

static size_t flight_bytes(const struct vs_group *g, const struct vs_peer *p)
{
    uint64_t from = p->match + 1, cached = vs_log_cached(&g->log);
    const void *start;

    if (from < cached)
        from = cached;
    return p->next > from ? vs_log_span(&g->log, from, p->next - 1, &start) : 0;
}

/* The last entry of an append that starts at `first`: as many as fit, at least one. */
static uint64_t append_end(const struct vshard_raft *r, const struct vs_group *g, uint64_t first)
{
    uint64_t last = g->log.last;
    const void *start;

    while (last > first && vs_log_span(&g->log, first, last, &start) > r->o.max_message)
        last = first + (last - first) / 2;
    return last;
}

static void send_append(struct vshard_raft *r, struct vs_group *g, struct vs_peer *p, uint64_t last)
{
    const void *body = NULL;
    struct vs_message m = { .kind = VS_APPEND,
                            .to = p->node,
                            .to_incarnation = p->incarnation,
                            .term = g->term,
                            .index = p->next - 1,
                            .commit = g->commit,
                            .round = g->round,
                            .stamp = r->now };

    m.log_term = vs_log_term(&g->log, m.index);
    if (last >= p->next) {
        m.count = (uint32_t)(last - p->next + 1);
        m.body_bytes = vs_log_span(&g->log, p->next, last, &body);
        m.body = body;
    } else if (p->state == VS_REPLICATE) {
        m.flags = VS_FLAG_QUIET; /* news of a commit wants no answer */
    }
    p->sent_commit = g->commit;
    p->sent_ns = r->now;
    vs_send(r, g, &m, 0);
}

static void fetch(struct vshard_raft *r, struct vs_group *g, struct vs_peer *p)
{
    struct vshard_raft_effect *e;

    if (p->fetching)
        return;
    p->fetching = 1;
    r->counters.fetches++;
    e = vs_effect(r, VSHARD_RAFT_FETCH, g->id);
    e->node = p->node;
    e->index = p->next;
    e->byte_count = r->o.max_message;
}

/* Moves past what was just sent. */
static void sent_through(struct vs_peer *p, uint64_t last)
{
    if (p->state == VS_PROBE) {
        p->paused = 1;
        return;
    }
    p->flight[(p->flight_head + p->flight_count++) % VS_FLIGHT_MAX] = (uint32_t)last;
    p->next = last + 1;
}

static void flush_peer(struct vshard_raft *r, struct vs_group *g, struct vs_peer *p)
{
    if (p->state != VS_SNAPSHOT && p->next <= g->log.base) {
        /* Without an answer to what was sent last, is anyone there to send it to? */
        if (p->paused || p->flight_count != 0)
            return;
        p->state = VS_SNAPSHOT;
        p->chunk_index = g->snapshot_index;
        p->chunk_term = g->snapshot_term;
        p->chunk_offset = 0;
        p->paused = p->reading = 0;
        p->flight_count = 0;
    }
    if (p->state == VS_SNAPSHOT) {
        vs_chunk_send(r, g, p);
        return;
    }
    for (uint32_t i = 0; i < VS_BURST; i++) {
        uint64_t last = p->next - 1;

        if (p->paused || p->flight_count >= r->o.max_inflight)
            return;
        if (p->next <= g->log.last && p->next < vs_log_cached(&g->log)) {
            fetch(r, g, p);
            return;
        }
        if (p->next <= g->log.last) {
            if (p->flight_count != 0 && flight_bytes(g, p) >= r->o.max_inflight_bytes)
                return;
            last = append_end(r, g, p->next);
        } else if (p->state == VS_REPLICATE &&
                   (p->flight_count != 0 || p->sent_commit >= g->commit)) {
            return;
        }
        send_append(r, g, p, last);
        if (last < p->next && p->state == VS_REPLICATE)
            return;
        sent_through(p, last);
    }
}

void vs_flush(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    /* Promoted by force, it has a term that is not yet written. */
    if (!vs_promised(r, g) && !TRAP(15))
        return;
    for (uint32_t i = 0; i < c->count; i++) {
        if (!vs_is_self(r, &g->peer[i]))
            flush_peer(r, g, &g->peer[i]);
    }
    /* A leader that has voted itself out leads until that is committed, and then
     * no longer (trap 24); the others have just been told. */
    if (c->index <= g->commit && !TRAP(24) && !VS_CONFIG_APPLIED) {
        int at = vs_config_find(c, r->o.node, r->o.incarnation);
        if (at < 0 || !(c->member[at].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING))) {
            vs_name_successor(r, g);
            vs_become_follower(r, g, g->term, 0);
        }
    }
    if (g->role == VSHARD_RAFT_LEADER)
        vs_hand_over(r, g);
}

static void probe_from(struct vs_peer *p, uint64_t next)
{
    p->state = VS_PROBE;
    p->next = next > p->match ? next : p->match + 1;
    p->paused = 0;
    p->flight_count = 0;
}

/* Storage does not have them, or cannot read them now: asked again at once it would say the
 * same. As after a probe that is out, the next heartbeat that is answered lets us try. */
static void wait_for_storage(const struct vshard_raft *r, struct vs_peer *p)
{
    probe_from(p, p->next);
    p->paused = 1;
    p->sent_ns = r->now;
}

void vs_on_fetched(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    int at = vs_config_node(vs_config_now(g), e->node);
    struct vs_peer *p = at < 0 ? NULL : &g->peer[at];
    struct vs_message m = {
        .kind = VS_APPEND, .term = g->term, .commit = g->commit, .round = g->round, .stamp = r->now
    };
    unsigned char *out;
    size_t used = 0;

    if (p == NULL || !p->fetching)
        return;
    p->fetching = 0;
    if (g->role != VSHARD_RAFT_LEADER || e->index != p->next || p->next <= g->log.base ||
        p->state == VS_SNAPSHOT || p->paused || p->flight_count >= VS_FLIGHT_MAX)
        return;
    out = r->head + r->head_used;
    for (uint32_t i = 0; e->status == VSHARD_OK && i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        if (x->index != p->next + i || x->term != vs_log_term(&g->log, x->index))
            break;
        vs_entry_encode(out + used, x);
        used += vs_entry_bytes(x->count);
        m.count++;
    }
    if (m.count == 0) {
        wait_for_storage(r, p);
        return;
    }
    m.to = p->node;
    m.to_incarnation = p->incarnation;
    m.index = p->next - 1;
    m.log_term = vs_log_term(&g->log, m.index);
    m.body = vs_head(r, used);
    m.body_bytes = used;
    p->sent_ns = r->now;
    vs_send(r, g, &m, 0);
    sent_through(p, p->next + m.count - 1);
}

/* ---- receiving ---- */

/* A message of our own term from another leader: the one thing that cannot be. */
static bool two_leaders(struct vshard_raft *r, struct vs_group *g, uint64_t term)
{
    if (g->role != VSHARD_RAFT_LEADER || term != g->term)
        return false;
    if (!TRAP(18))
        vs_group_stop(r, g, VSHARD_ECORRUPT);
    return true;
}

static void reply_append(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                         uint64_t index, uint64_t barrier)
{
    struct vs_message reply = { .kind = VS_APPEND_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .index = index,
                                .round = m->round,
                                .stamp = m->stamp };

    vs_send(r, g, &reply, barrier);
}

static void reject_append(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_message reply = { .kind = VS_APPEND_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .index = m->index,
                                .flags = VS_FLAG_REJECT,
                                .round = m->round,
                                .stamp = m->stamp };

    if (m->term == g->term) {
        reply.hint = vs_log_back(&g->log, m->index, m->log_term);
        reply.hint_term = vs_log_term(&g->log, reply.hint);
    }
    vs_send(r, g, &reply, 0);
}

static void cut(struct vshard_raft *r, struct vs_group *g, uint64_t from)
{
    bool configs = false;

    vs_log_cut(&g->log, from);
    if (g->durable >= from)
        g->durable = from - 1;
    g->cut = from;
    g->log_seq = r->seq + 1;
    while (g->config_count > 1 && g->config[g->config_count - 1].index >= from) {
        g->config_count--;
        configs = true;
    }
    if (configs) {
        vs_peers_follow(r, g);
        g->told_members = 1;
    }
}

/* The last `bytes` of an append, from entry `first` on, continue the log. */
static void append_rest(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                        uint64_t first, size_t bytes)
{
    vs_log_extend(&g->log, m->body + m->body_bytes - bytes, bytes,
                  (uint32_t)(m->index + m->count + 1 - first));
    if (g->fresh == 0)
        g->fresh = first;
    g->log_seq = r->seq + 1;
    for (uint64_t i = first; m->special != 0 && i <= g->log.last; i++) {
        const struct vshard_raft_entry *e = vs_log_at(&g->log, i);
        struct vs_config c;

        if (e->kind != VSHARD_RAFT_CONFIG)
            continue;
        vs_config_decode(&c, e->data, (size_t)e->count);
        c.index = e->index;
        vs_config_push(r, g, &c);
    }
}

/* Takes the entries of an append whose first is known to fit. False if they
 * contradict something committed, which no correct leader's can. */
static bool take_entries(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    const unsigned char *p = m->body;
    size_t left = m->body_bytes;

    if (TRAP(3) && m->index + 1 > g->log.base && m->index < g->log.last && m->index >= g->applied)
        cut(r, g, m->index + 1);
    for (uint32_t i = 0; i < m->count; i++) {
        struct vshard_raft_entry e;
        size_t n = vs_entry_decode(&e, p, left);

        if (e.index > g->log.base && e.index <= g->log.last &&
            vs_log_term(&g->log, e.index) != e.term) {
            if (e.index <= g->commit)
                return false;
            cut(r, g, e.index);
        }
        if (e.index > g->log.last) { /* and so are all that follow */
            append_rest(r, g, m, e.index, left);
            break;
        }
        p += n;
        left -= n;
    }
    return true;
}

/* A leader of our term or a later one has spoken: it is heard, if there can be one. */
bool vs_follows(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    if (two_leaders(r, g, m->term))
        return false;
    if (m->term > g->term || g->role != VSHARD_RAFT_FOLLOWER)
        vs_become_follower(r, g, m->term, m->from);
    vs_heard_leader(r, g, m);
    return true;
}

void vs_on_append(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    uint64_t end = m->index + m->count, commit;
    bool unproven;

    if (m->term < g->term) {
        if (!TRAP(32))
            reject_append(r, g, m);
        return;
    }
    if (!vs_follows(r, g, m) || g->installing)
        return;
    unproven = vs_unproven(g, m->term);
    if (unproven && m->index < g->log.base) {
        vs_group_stop(r, g, VSHARD_ESTALE);
        return;
    }
    if (m->index > g->log.base && vs_log_term(&g->log, m->index) != m->log_term &&
        !(TRAP(4) && m->count == 0 && m->index <= g->log.last)) {
        reject_append(r, g, m);
        return;
    }
    if ((m->index == g->log.base && m->index > 0 && m->log_term != g->log.base_term) ||
        !take_entries(r, g, m)) {
        vs_group_stop(r, g, unproven ? VSHARD_ESTALE : VSHARD_ECORRUPT);
        return;
    }
    /* 2: only what this message has shown to be the leader's. An append that ends
     * before our base shows nothing new; all to the base is committed anyway. */
    end = end > g->log.base ? end : g->log.base;
    if (end > g->verified)
        g->verified = end;
    commit = TRAP(2) ? (m->commit < g->log.last ? m->commit : g->log.last)
                     : (m->commit < end ? m->commit : end);
    if (commit > g->commit)
        g->commit = commit;
    if (!(m->flags & VS_FLAG_QUIET))
        reply_append(r, g, m, end, end > g->durable ? g->log_seq : 0);
}

static void free_flight(struct vs_peer *p)
{
    /* What is under way is never as much as 2^31 entries: low halves tell which is first. */
    while (p->flight_count != 0 &&
           (int32_t)((uint32_t)p->match - p->flight[p->flight_head % VS_FLIGHT_MAX]) >= 0) {
        p->flight_head++;
        p->flight_count--;
    }
}

bool vs_same_process(struct vs_peer *p, uint64_t boot)
{
    if (boot < p->boot)
        return false;
    if (boot > p->boot && p->boot != 0) {
        p->match = 0;
        if (p->state != VS_SNAPSHOT)
            probe_from(p, p->next);
    }
    p->boot = boot;
    return true;
}

static void note_answer(struct vs_peer *p, uint32_t flags, uint64_t stamp, uint64_t round)
{
    p->uncertain = (flags & VS_FLAG_UNCERTAIN) != 0;
    if (p->uncertain && !TRAP(45))
        return;
    p->ack_ns = stamp > p->ack_ns ? stamp : p->ack_ns;
    p->ack_round = round > p->ack_round ? round : p->ack_round;
}

void vs_on_append_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);

    if (m->term > g->term) {
        vs_become_follower(r, g, m->term, 0);
        return;
    }
    if (g->role != VSHARD_RAFT_LEADER || m->term != g->term || p == NULL ||
        m->index > g->log.last || m->stamp > r->now || m->stamp < p->since_ns ||
        m->round > g->round || !vs_same_process(p, m->boot))
        return;
    note_answer(p, m->flags, m->stamp, m->round);
    if (m->flags & VS_FLAG_REJECT) {
        /* Only the answer to the last probe counts, not one that is late. */
        if (p->state == VS_SNAPSHOT || m->index <= p->match ||
            (p->state == VS_PROBE && m->index != p->next - 1))
            return;
        if (!TRAP(10))
            probe_from(
                p, vs_log_back(&g->log, m->hint < m->index ? m->hint : m->index - 1, m->hint_term) +
                       1);
        else
            probe_from(p, p->next);
        return;
    }
    if (m->index > p->match)
        p->match = m->index;
    free_flight(p);
    if (p->state == VS_SNAPSHOT && p->match < g->log.base) {
        /* It has that snapshot, and the log goes on behind a later one. A host may have kept the
         * old one for this member, and would give its end again and again. */
        if (p->match >= p->chunk_index)
            p->chunk_offset = p->paused = 0;
        return;
    }
    if (p->state != VS_REPLICATE)
        probe_from(p, p->match + 1);
    p->state = VS_REPLICATE;
    if (p->next <= p->match)
        p->next = p->match + 1;
}

void vs_on_beat(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                const struct vs_beat *b, struct vs_beat *reply)
{
    struct vs_message head = *m;
    uint64_t commit;

    *reply = (struct vs_beat){ .group = g->id,
                               .round = b->round,
                               .flags = VS_FLAG_REJECT,
                               .to_incarnation = m->from_incarnation };
    head.term = b->term;
    if (g->asleep && !((b->flags & VS_FLAG_SLEEP) && b->term == g->term && m->from == g->leader))
        vs_wake(r, g);
    if (b->term < g->term && TRAP(32)) {
        reply->term = 0;
        return;
    }
    if (b->term >= g->term && vs_follows(r, g, &head)) {
        reply->flags = g->uncertain ? VS_FLAG_UNCERTAIN : 0;
        reply->received = g->verified;
        reply->commit = g->verified < g->durable ? g->verified : g->durable;
        commit = TRAP(2) ? (b->commit < g->log.last ? b->commit : g->log.last)
                         : (b->commit < g->verified ? b->commit : g->verified);
        if (commit > g->commit)
            g->commit = commit;
        if ((b->flags & VS_FLAG_SLEEP) && vs_sleep_with(r, g, b))
            reply->flags |= VS_FLAG_SLEEP;
    }
    reply->term = g->term;
}

void vs_on_beat_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                      const struct vs_beat *b)
{
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);

    if (b->term > g->term) {
        vs_become_follower(r, g, b->term, 0);
        return;
    }
    if (g->role != VSHARD_RAFT_LEADER || b->term != g->term || p == NULL || m->stamp > r->now ||
        m->stamp < p->since_ns || b->round > g->round || (b->flags & VS_FLAG_REJECT) || g->asleep ||
        !vs_same_process(p, m->boot))
        return;
    note_answer(p, b->flags, m->stamp, b->round);
    p->asleep = (b->flags & VS_FLAG_SLEEP) && m->stamp > g->active_ns;
    if (b->commit > g->log.last || b->received > g->log.last)
        return;
    /* What an append's lost answer would have said. */
    if (b->commit > p->match) {
        p->match = b->commit;
        free_flight(p);
        p->next = p->next > p->match ? p->next : p->match + 1;
    }
    if (p->state == VS_SNAPSHOT) {
        if (p->paused && r->now > vs_later(p->chunk_ns, 2 * r->o.election_ns))
            p->paused = 0;
    } else if (m->stamp > p->sent_ns) {
        /* Sent after the last append, and that has not arrived: it is lost, or the
         * network overtakes, in which case sending twice does no harm. */
        if (p->state == VS_PROBE)
            p->paused = 0;
        else if (b->received + 1 < p->next)
            probe_from(p, b->received + 1);
    }
}
