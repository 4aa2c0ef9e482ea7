/* propose.c - what hosts ask of a leader, and how each request ends.
 *
 * A proposal is answered when the state machine has applied it. If this node stops
 * leading first, the answer is EUNKNOWN at once: the entries may be in other logs
 * and may yet be committed. A client that must not do a thing twice repeats it
 * under the same session and sequence.
 *
 * A follower forwards to the leader it knows, once: a forwarded request that does
 * not reach a leader of the same term is refused, never passed on, so none goes in
 * circles. The leader takes each (boot, id) of a sender once, so none is doubled
 * by the network. What it took from a member is forgotten when that is removed. One
 * that comes back in the same term begins anew, and a copy of what it sent before may
 * still be on its way: so each request says how much of the leader's log its sender has,
 * and none is taken from who did not have the entry that made it a member (again). */
#include "raft/core.h"

struct vs_request *vs_request_push(struct vs_group *g, uint32_t kind, uint64_t tag)
{
    struct vs_request *q = &g->request[g->request_count++];

    VS_ASSERT(g->request_count <= g->request_cap);
    *q = (struct vs_request){ .kind = kind, .tag = tag, .deadline = VS_NEVER };
    return q;
}

void vs_request_remove(struct vs_group *g, uint32_t at)
{
    memmove(g->request + at, g->request + at + 1, (--g->request_count - at) * sizeof *g->request);
    g->waiting_count -= at < g->waiting_count;
}

struct vs_request *vs_proposal_push(struct vs_group *g, uint64_t tag)
{
    struct vs_request *q = &g->proposal[g->proposal_head + g->proposal_count++];

    VS_ASSERT(g->proposal_head + g->proposal_count <= g->proposal_cap);
    *q = (struct vs_request){ .kind = VS_REQUEST_PROPOSAL, .tag = tag, .deadline = VS_NEVER };
    q->index = g->log.last;
    q->term = g->term;
    return q;
}

/* Measured from the log, so that there is no count to leak (trap 8). */
size_t vs_uncommitted(const struct vs_group *g)
{
    const void *start;

    if (g->role != VSHARD_RAFT_LEADER || g->commit >= g->log.last)
        return 0;
    return vs_log_span(&g->log, g->commit + 1, g->log.last, &start);
}

static void done_now(struct vshard_raft *r, struct vs_group *g, uint64_t tag, int status)
{
    struct vs_request q = { .tag = tag };

    vs_done(r, g, &q, status);
}

static void reply_forward(struct vshard_raft *r, struct vs_group *g, const struct vs_request *q,
                          int status)
{
    struct vs_message m = { .kind = VS_FORWARD_REPLY,
                            .to = q->origin,
                            .term = g->term,
                            .to_incarnation = q->origin_incarnation,
                            .round = q->id,
                            .log_term = q->origin_boot,
                            .index = status == VSHARD_OK || status == VSHARD_ESTALE ? q->index : 0,
                            .hint = (uint64_t)-status };

    vs_send(r, g, &m, 0);
}

/* Ends a request, whoever made it. */
static void end(struct vshard_raft *r, struct vs_group *g, const struct vs_request *q, int status)
{
    if (q->origin == 0)
        vs_done(r, g, q, status);
    else if (q->kind == VS_REQUEST_PROPOSAL)
        reply_forward(r, g, q, status);
    else {
        struct vs_message m = { .kind = VS_READ_REPLY,
                                .to = q->origin,
                                .term = g->term,
                                .to_incarnation = q->origin_incarnation,
                                .round = q->id,
                                .log_term = q->origin_boot,
                                .flags = VS_FLAG_REJECT };
        vs_send(r, g, &m, 0);
    }
}

/* ---- proposing ---- */

static int check_proposal(const struct vshard_raft *r, const struct vshard_raft_event *e)
{
    if (e->entry_count == 0)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        if ((x->kind != VSHARD_RAFT_DATA && x->kind != VSHARD_RAFT_SESSION) || x->flags != 0 ||
            x->reserved != NULL)
            return VSHARD_EINVAL;
        if (x->session != 0 && (x->kind != VSHARD_RAFT_DATA || x->sequence == 0))
            return VSHARD_EINVAL;
        if (x->count > r->o.max_entry)
            return VSHARD_E2BIG;
    }
    return VSHARD_OK;
}

static void forward(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    struct vs_request *q = vs_request_push(g, VS_REQUEST_FORWARD, e->tag);
    struct vs_message m = { .kind = VS_FORWARD,
                            .to = g->leader,
                            .term = g->term,
                            .to_incarnation = g->leader_incarnation,
                            .index = g->verified,
                            .count = e->entry_count };
    unsigned char *out = r->head + r->head_used;

    q->id = m.round = ++g->next_id;
    q->deadline = vs_later(r->now, r->o.request_ns);
    g->expires = q->deadline < g->expires ? q->deadline : g->expires;
    for (uint32_t i = 0; i < e->entry_count; i++) {
        struct vshard_raft_entry x = e->entries[i];
        x.index = x.term = 0;
        vs_entry_encode(out + m.body_bytes, &x);
        m.body_bytes += vs_entry_bytes(x.count);
    }
    m.body = vs_head(r, m.body_bytes);
    vs_send(r, g, &m, 0);
}

static bool full(const struct vshard_raft *r, const struct vs_group *g)
{
    return g->transfer_node != 0 || vs_uncommitted(g) > r->o.max_uncommitted_bytes;
}

int vs_propose(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    int rc = check_proposal(r, e);

    if (rc != VSHARD_OK)
        return rc;
    if (VS_CONFIG_APPLIED && vs_peer_of(g, r->o.node, r->o.incarnation) == NULL) {
        done_now(r, g, e->tag, VSHARD_ENOTLEADER);
    } else if (g->role == VSHARD_RAFT_LEADER && full(r, g)) {
        done_now(r, g, e->tag, VSHARD_EBUSY);
    } else if (g->role == VSHARD_RAFT_LEADER) {
        for (uint32_t i = 0; i < e->entry_count; i++)
            vs_leader_append(r, g, &e->entries[i]);
        vs_proposal_push(g, e->tag);
    } else if (g->leader != 0 && !(e->flags & VSHARD_RAFT_LOCAL_ONLY) && vs_promised(r, g)) {
        forward(r, g, e);
    } else {
        done_now(r, g, e->tag, VSHARD_ENOTLEADER);
    }
    return VSHARD_OK;
}

/* Has (boot, id) of this sender come before? Notes that it has now. */
static bool seen_before(struct vs_peer *p, uint64_t boot, uint64_t id)
{
    uint64_t back;

    if (boot != p->forward_boot) {
        if (boot < p->forward_boot)
            return true;
        p->forward_boot = boot;
        p->forward_high = p->forward_seen = 0;
    }
    if (id > p->forward_high) {
        back = id - p->forward_high;
        p->forward_seen = back < 64 ? p->forward_seen << back : 0;
        p->forward_seen |= 1;
        p->forward_high = id;
        return false;
    }
    back = p->forward_high - id;
    if (back >= 64 || p->forward_seen >> back & 1)
        return !TRAP(30);
    p->forward_seen |= (uint64_t)1 << back;
    return false;
}

int vs_on_forward(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);
    struct vs_request q = { .kind = VS_REQUEST_PROPOSAL,
                            .origin = m->from,
                            .id = m->round,
                            .origin_incarnation = m->from_incarnation,
                            .origin_boot = m->boot };
    const unsigned char *at = m->body;
    size_t left = m->body_bytes;
    struct vs_request *kept;

    if (g->role != VSHARD_RAFT_LEADER || m->term != g->term || p == NULL || m->index < p->since) {
        reply_forward(r, g, &q, VSHARD_ENOTLEADER);
        return VSHARD_OK;
    }
    if (seen_before(p, m->boot, m->round))
        return VSHARD_OK;
    /* Another node's limit may be another. */
    if (full(r, g) || m->largest > r->o.max_entry) {
        reply_forward(r, g, &q, full(r, g) ? VSHARD_EBUSY : VSHARD_E2BIG);
        return VSHARD_OK;
    }
    for (uint32_t i = 0; i < m->count; i++) {
        struct vshard_raft_entry e;
        size_t n = vs_entry_decode(&e, at, left);
        vs_leader_append(r, g, &e);
        at += n;
        left -= n;
    }
    kept = vs_proposal_push(g, 0);
    q.index = kept->index;
    q.term = kept->term;
    q.deadline = VS_NEVER;
    *kept = q;
    return VSHARD_OK;
}

/* What the leader said. A status that this version does not know is an outcome that it does
 * not know. */
static int answered(const struct vs_message *m)
{
    return m->hint <= (uint64_t)-VSHARD_ECANCELED ? -(int)m->hint : VSHARD_EUNKNOWN;
}

void vs_on_forward_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];
        int status = answered(m);

        if (q->kind != VS_REQUEST_FORWARD || q->id != m->round || m->log_term != r->o.boot)
            continue;
        /* "Not a leader" may answer a copy of a message whose first copy was
         * taken, so it is no proof that nothing happened. */
        q->index = m->index;
        vs_done(r, g, q, status == VSHARD_ENOTLEADER ? VSHARD_EUNKNOWN : status);
        vs_request_remove(g, i);
        return;
    }
}

/* ---- endings ---- */

static int lost_status(const struct vs_group *g, const struct vs_request *q)
{
    const struct vs_config *c = vs_config_now(g);

    /* A leader that has just voted itself out knows how that ended. */
    if (q->kind == VS_REQUEST_CONFIG && c->index >= q->index && c->index <= g->commit &&
        !vs_config_joint(c))
        return VSHARD_OK;
    return q->kind == VS_REQUEST_READ || q->kind == VS_REQUEST_ASK ? VSHARD_ENOTLEADER
                                                                   : VSHARD_EUNKNOWN;
}

/* The term or the leader changed: what hung on the old one ends. */
void vs_requests_drop(struct vshard_raft *r, struct vs_group *g)
{
    uint32_t kept = 0;

    while (g->proposal_count != 0) {
        struct vs_request *q = &g->proposal[g->proposal_head + g->proposal_count - 1];
        if (q->index <= g->commit && !g->stopped)
            break;
        g->proposal_count--;
        if (!TRAP(31))
            end(r, g, q, VSHARD_EUNKNOWN);
    }
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];
        if (q->kind == VS_REQUEST_ASK && q->index != 0 && !g->stopped)
            g->request[kept++] = *q;
        else if (!TRAP(31))
            end(r, g, q, lost_status(g, q));
    }
    g->request_count = kept;
    g->waiting_count = g->waiting_config = 0;
}

/* A snapshot stands where entries were committed and not applied: how they ended, as repeated or
 * expired, it does not say, and the host has not seen them. */
void vs_proposals_overtaken(struct vshard_raft *r, struct vs_group *g)
{
    for (; g->proposal_count != 0; g->proposal_head++, g->proposal_count--)
        end(r, g, &g->proposal[g->proposal_head], VSHARD_EUNKNOWN);
    g->proposal_head = 0;
}

void vs_requests_expire(struct vshard_raft *r, struct vs_group *g)
{
    uint32_t kept = 0;

    if (r->now < g->expires)
        return;
    g->expires = VS_NEVER;
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];
        if (q->deadline <= r->now) {
            end(r, g, q, q->kind == VS_REQUEST_FORWARD ? VSHARD_EUNKNOWN : VSHARD_ETIMEDOUT);
            continue;
        }
        g->expires = q->deadline < g->expires ? q->deadline : g->expires;
        g->request[kept++] = *q;
    }
    g->request_count = kept;
    g->waiting_count = 0;
}

void vs_answer(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint32_t kept = 0;

    while (g->proposal_count != 0) {
        const struct vs_request *q = &g->proposal[g->proposal_head];
        if (q->index > g->applied)
            break;
        end(r, g, q, q->status);
        g->proposal_head++;
        g->proposal_count--;
    }
    if (g->proposal_count == 0)
        g->proposal_head = 0;
    if (!g->waiting_config || c->index > g->applied || vs_config_joint(c))
        return;
    for (uint32_t i = 0; i < g->request_count; i++) {
        struct vs_request *q = &g->request[i];
        if (q->kind == VS_REQUEST_CONFIG && c->index >= q->index)
            end(r, g, q, VSHARD_OK);
        else
            g->request[kept++] = *q;
    }
    g->request_count = kept;
    g->waiting_count = g->waiting_config = 0; /* no other is asked for while one is under way */
}

/* One batch at a time goes to the state machine: committed, and durable here. */
void vs_hand_out(struct vshard_raft *r, struct vs_group *g)
{
    enum { BATCH = 1024 };
    uint64_t to = g->commit < g->durable ? g->commit : g->durable;
    struct vshard_raft_entry *x = vs_log_at(&g->log, g->handed + 1);
    struct vshard_raft_effect *e;

    if (g->installing || g->handed > g->applied || to <= g->handed)
        return;
    if (to - g->handed > BATCH)
        to = g->handed + BATCH;
    for (uint64_t i = g->handed + 1; i <= to; i++, x++) {
        if (x->session == 0 && x->kind != VSHARD_RAFT_SESSION)
            continue;
        x->flags = vs_session_apply(r, g, x);
        for (uint32_t k = 0; (x->flags & VSHARD_RAFT_EXPIRED) && k < g->proposal_count; k++) {
            struct vs_request *q = &g->proposal[g->proposal_head + k];
            if (q->index >= i) {
                if (q->term == x->term || TRAP(52)) /* else it is of a leader between or before */
                    q->status = VSHARD_ESTALE;
                break;
            }
        }
    }
    e = vs_effect(r, VSHARD_RAFT_APPLY, g->id);
    e->entries = vs_log_at(&g->log, g->handed + 1);
    e->entry_count = (uint32_t)(to - g->handed);
    e->index = to;
    e->term = g->term;
    g->handed = to;
}

/* ---- configurations ---- */

static void append_config(struct vshard_raft *r, struct vs_group *g, const struct vs_config *c)
{
    unsigned char bytes[VS_CONFIG_BYTES];
    struct vshard_raft_entry e = { .kind = VSHARD_RAFT_CONFIG, .data = bytes };

    e.count = vs_config_encode(c, bytes);
    vs_leader_append(r, g, &e);
}

/* Is a change of the configuration under way? */
static bool pending(const struct vs_group *g)
{
    if (VS_CONFIG_APPLIED)
        return vs_config_now(g) != &g->config[g->config_count - 1];
    return vs_config_now(g)->index > g->commit;
}

void vs_configure(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    const struct vs_config *now = vs_config_now(g);
    struct vs_config next;
    int rc = VSHARD_OK;

    if (g->role != VSHARD_RAFT_LEADER)
        rc = VSHARD_ENOTLEADER;
    /* 20: one change at a time, and none before this leader has committed an entry
     * of its own, or two leaders could change the same configuration apart. */
    else if (!TRAP(20) && (!vs_leads_firmly(g) || pending(g)))
        rc = VSHARD_EBUSY;
    else if (vs_config_joint(now) || g->transfer_node != 0)
        rc = VSHARD_EBUSY;
    else
        rc = vs_config_change(now, e->members, e->member_count, &next);
    if (rc != VSHARD_OK) {
        done_now(r, g, e->tag, rc);
        return;
    }
    append_config(r, g, &next);
    vs_request_push(g, VS_REQUEST_CONFIG, e->tag)->index = g->log.last;
    g->waiting_config = 1;
}

/* Whoever leads under a committed joint configuration ends it (traps 22 and 23). */
void vs_leave_joint(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *now = vs_config_now(g);
    bool ours = vs_log_term(&g->log, now->index) == g->term;
    struct vs_config next;

    if (!vs_config_joint(now) || g->log.last - g->commit > UINT32_MAX)
        return;
    if ((pending(g) || !vs_leads_firmly(g)) && !(TRAP(23) && !ours))
        return;
    if (TRAP(22) && !ours)
        return;
    vs_config_leave(now, &next);
    append_config(r, g, &next);
}

/* ---- handing leadership over ---- */

static void begin_transfer(struct vshard_raft *r, struct vs_group *g, uint64_t node)
{
    g->transfer_node = node;
    g->transfer_until = vs_later(r->now, r->o.election_ns);
    g->transfer_sent = 0;
}

void vs_transfer(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    const struct vs_config *c = vs_config_now(g);
    int at = vs_config_node(c, e->node);
    int rc = VSHARD_OK;

    if (g->role != VSHARD_RAFT_LEADER)
        rc = VSHARD_ENOTLEADER;
    else if (at < 0 || !(c->member[at].role & VSHARD_RAFT_VOTER) ||
             c->member[at].priority == VSHARD_RAFT_NEVER_LEADS)
        rc = VSHARD_EINVAL;
    else if (e->node == r->o.node)
        rc = VSHARD_EEXIST;
    else if (g->transfer_node != 0)
        rc = VSHARD_EBUSY;
    if (rc != VSHARD_OK) {
        done_now(r, g, e->tag, rc);
        return;
    }
    begin_transfer(r, g, e->node);
    g->transfer_tag = e->tag;
    g->transfer_told = 1;
}

void vs_transfer_end(struct vshard_raft *r, struct vs_group *g, int status)
{
    if (g->transfer_node != 0 && g->transfer_told)
        done_now(r, g, g->transfer_tag, status);
    g->transfer_node = 0;
    g->transfer_told = 0;
    g->prefer_at = vs_later(r->now, 20 * r->o.election_ns);
}

/* A leader looks for a voter that is to be preferred, caught up and alive. */
static void prefer(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    int self = vs_config_find(c, r->o.node, r->o.incarnation);
    uint32_t best = self < 0 ? 0 : c->member[self].priority;

    if (r->now < g->prefer_at || r->now < vs_later(g->lead_since, 2 * r->o.election_ns) ||
        best == VSHARD_RAFT_NEVER_LEADS || !vs_leads_firmly(g))
        return;
    for (uint32_t i = 0; i < c->count; i++) {
        const struct vshard_raft_member *m = &c->member[i];
        if ((m->role & VSHARD_RAFT_VOTER) && m->priority > best &&
            m->priority < VSHARD_RAFT_NEVER_LEADS && g->peer[i].match == g->log.last &&
            vs_later(g->peer[i].ack_ns, r->o.election_ns) > r->now) {
            best = m->priority;
            begin_transfer(r, g, m->node);
        }
    }
}

static void tell_to_stand(struct vshard_raft *r, struct vs_group *g, const struct vs_peer *p)
{
    struct vs_message m = { .kind = VS_TIMEOUT_NOW,
                            .to = p->node,
                            .term = g->term,
                            .to_incarnation = p->incarnation,
                            .index = g->log.last };

    vs_send(r, g, &m, 0);
}

/* Who steps down for good need not leave the others to wait for a timeout. */
void vs_name_successor(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);

    for (uint32_t i = 0; i < c->count; i++) {
        if ((c->member[i].role & VSHARD_RAFT_VOTER) && g->peer[i].match == g->log.last &&
            c->member[i].priority < VSHARD_RAFT_NEVER_LEADS && !vs_is_self(r, &g->peer[i])) {
            tell_to_stand(r, g, &g->peer[i]);
            return;
        }
    }
}

void vs_hand_over(struct vshard_raft *r, struct vs_group *g)
{
    struct vs_peer *p;
    int at;

    if (g->transfer_node == 0)
        prefer(r, g);
    if (g->transfer_node == 0 || g->transfer_sent)
        return;
    at = vs_config_node(vs_config_now(g), g->transfer_node);
    p = at < 0 ? NULL : &g->peer[at];
    if (p != NULL && p->match == g->log.last) {
        g->transfer_sent = 1;
        g->transfer_fence = g->log.last;
        tell_to_stand(r, g, p);
    }
}
