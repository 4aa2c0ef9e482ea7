/* link.c - other nodes, whatever groups they share with this one; and sleep.
 *
 * One frame of beats goes to a node in an interval, and one comes back. When it
 * comes, and how regularly, is a matter of the two nodes and not of a group, so it
 * is kept here: the time between frames and its spread, smoothed (Jacobson 1988),
 * the spread quick to rise and slow to fall. From both follows how long silence is
 * borne before somebody campaigns or steps down: never less than election_ns, on
 * which leases rest, and never more than election_max_ns. A machine that stutters
 * so teaches its peers patience. A leader's lease is a matter of election_ns alone
 * and does not know of any of this.
 *
 * Sleep. A group that nobody has wanted anything of for idle_ns, whose leader knows
 * that every member it can reach has all of the log, puts itself to sleep: the
 * beat asks each member, and each says that it sleeps, if it too has committed,
 * applied and written everything. From then on the group has no timer, no line in
 * any frame, and no room to work in. What remains is the frame itself, which goes
 * on between the nodes without lines: it says that the process that led when the
 * group fell asleep is alive and its disk does not hang. If the frames stop, or
 * come from another process, the groups that slept on them wake, with their
 * election timers set anew; all is then as if a leader had fallen silent. A leader
 * likewise wakes when the nodes it hears are no quorum of the group.
 *
 * A group wakes on any message and any request, but for what one asks that was a member
 * once and does not know that it is none. Sleep proves nothing: no lease, no
 * read and no commit rests on it. A sleeping replica refuses its vote to others as
 * one would that has just heard its leader, but that is courtesy, and nobody's
 * lease counts on it. A leader that wakes must hear from a quorum afresh before it
 * reads by lease, as every leader must; if it has been replaced meanwhile, it finds
 * out as every leader does.
 *
 * Two sides may differ about whether a group sleeps. A leader awake sends lines,
 * and they wake the member; a member awake whose leader sleeps asks for votes when
 * its timer runs out, and the question wakes the leader. */
#include "raft/core.h"

int vs_link_reserve(struct vshard_raft *r, uint32_t more)
{
    return vs_grow(r->allocator, (void **)&r->link, &r->link_cap, (uint64_t)r->link_count + more,
                   sizeof *r->link);
}

struct vs_link *vs_link_find(const struct vshard_raft *r, uint64_t node)
{
    for (uint32_t i = 0; i < r->link_count; i++) {
        if (r->link[i].node == node)
            return &r->link[i];
    }
    return NULL;
}

/* The place of a node in the list; it never changes. */
uint32_t vs_link_add(struct vshard_raft *r, uint64_t node)
{
    const struct vs_link *l = vs_link_find(r, node);

    if (l != NULL)
        return (uint32_t)(l - r->link);
    VS_ASSERT(r->link_count < r->link_cap);
    r->link[r->link_count] = (struct vs_link){ .node = node };
    return r->link_count++;
}

/* ---- how long silence is borne ---- */

uint64_t vs_link_patience(const struct vshard_raft *r, const struct vs_link *l)
{
    uint64_t ns = l ? l->mean_ns + 4 * l->spread_ns : 0;

    if (TRAP(43))
        return r->o.election_ns;
    if (ns > r->o.election_max_ns)
        return r->o.election_max_ns;
    return ns > r->o.election_ns ? ns : r->o.election_ns;
}

/* A follower waits for its leader, a leader for the slowest of its members. */
uint64_t vs_group_patience(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t most = r->o.election_ns;

    if (g->role != VSHARD_RAFT_LEADER)
        return vs_link_patience(r, g->leader ? vs_link_find(r, g->leader) : NULL);
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t ns = vs_link_patience(r, &r->link[g->peer[i].link]);
        most = ns > most ? ns : most;
    }
    return most;
}

static void measure(struct vs_link *l, uint64_t gap)
{
    uint64_t off = gap > l->mean_ns ? gap - l->mean_ns : l->mean_ns - gap;

    if (l->mean_ns == 0) {
        l->mean_ns = gap;
        return;
    }
    l->mean_ns = l->mean_ns - l->mean_ns / 8 + gap / 8;
    l->spread_ns = off > l->spread_ns ? l->spread_ns + (off - l->spread_ns) / 2
                                      : l->spread_ns - (l->spread_ns - off) / 64;
}

static bool quorum_up(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    uint64_t up[VSHARD_RAFT_MEMBERS_MAX];

    for (uint32_t i = 0; i < c->count; i++)
        up[i] = vs_is_self(r, &g->peer[i]) || r->link[g->peer[i].link].up;
    return vs_config_reached(c, up) != 0;
}

/* Those that slept because this node was heard, and must see for themselves now. */
static void wake_followed(struct vshard_raft *r, const struct vs_link *l)
{
    for (uint32_t i = 0; i < r->table_cap && l->followed != 0; i++) {
        struct vs_group *g = r->table[i];
        if (g != NULL && g->asleep && g->role != VSHARD_RAFT_LEADER && g->leader == l->node)
            vs_wake(r, g);
    }
}

/* Those led here of which this node is a member: all, or where those heard are no
 * quorum without it. */
static void wake_led(struct vshard_raft *r, const struct vs_link *l, bool all)
{
    for (uint32_t i = 0; i < r->table_cap && l->led != 0; i++) {
        struct vs_group *g = r->table[i];
        if (g != NULL && g->asleep && g->role == VSHARD_RAFT_LEADER &&
            vs_config_node(vs_config_now(g), l->node) >= 0 && (all || !quorum_up(r, g)))
            vs_wake(r, g);
    }
}

/* A frame of beats, or of answers, has come. False if an earlier process sent it. */
bool vs_link_heard(struct vshard_raft *r, const struct vs_message *m)
{
    struct vs_link *l = vs_link_find(r, m->from);
    uint64_t gap;

    if (l == NULL)
        return true;
    if (m->from_incarnation == l->incarnation && m->boot < l->boot)
        return false;
    if (m->from_incarnation != l->incarnation || m->boot != l->boot) {
        wake_followed(r, l);
        wake_led(r, l, true); /* it knows nothing of sleep, and perhaps nothing at all */
        l->incarnation = m->from_incarnation;
        l->boot = m->boot;
        l->mean_ns = l->spread_ns = l->heard_ns = 0;
    }
    l->seen_ns = r->now;
    if (m->flags & VS_FLAG_STALLED)
        return true;
    gap = r->now - l->heard_ns;
    /* Longer than anybody would wait is no stutter, it is an absence. */
    if (l->heard_ns != 0 && gap < r->o.election_max_ns)
        measure(l, gap);
    l->heard_ns = r->now;
    if (!l->up) {
        l->up = 1;
        wake_led(r, l, true);
    }
    return true;
}

static bool silent(const struct vshard_raft *r, const struct vs_link *l)
{
    return l->up && r->now >= vs_later(l->heard_ns, vs_link_patience(r, l));
}

/* Will vs_links_watch() find anybody? */
bool vs_links_silent(const struct vshard_raft *r)
{
    for (uint32_t i = 0; i < r->link_count; i++) {
        if (silent(r, &r->link[i]))
            return true;
    }
    return false;
}

/* With each beat: who has not been heard for too long? */
void vs_links_watch(struct vshard_raft *r)
{
    for (uint32_t i = 0; i < r->link_count; i++) {
        struct vs_link *l = &r->link[i];

        if (!silent(r, l))
            continue;
        l->up = 0;
        if (!TRAP(42))
            wake_followed(r, l);
        wake_led(r, l, false);
    }
}

/* ---- sleep ---- */

/* Nothing is under way here, and everything is committed, applied and written. */
static bool at_rest(const struct vshard_raft *r, const struct vs_group *g)
{
    return g->started && !g->stopped && !g->uncertain && g->commit == g->log.last &&
           g->applied == g->log.last && g->durable == g->log.last && g->install == NULL &&
           vs_promised(r, g) && g->proposal_count == 0 && g->request_count == 0 &&
           g->taken == NULL && !vs_config_joint(vs_config_now(g));
}

/* May a leader ask the others whether the group should sleep? Only if it could be
 * elected again, and no better leader can be reached. */
bool vs_drowsy(const struct vshard_raft *r, const struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    int self = vs_config_find(c, r->o.node, r->o.incarnation);

    if (r->now < vs_later(g->active_ns, r->o.idle_ns) || !at_rest(r, g) || !vs_leads_firmly(g) ||
        g->transfer_node != 0 || !vs_can_campaign(r, g) || self < 0 || !quorum_up(r, g))
        return false;
    for (uint32_t i = 0; i < c->count; i++) {
        const struct vs_peer *p = &g->peer[i];
        const struct vshard_raft_member *m = &c->member[i];

        if (vs_is_self(r, p) || !r->link[p->link].up)
            continue;
        if (p->match != g->log.last || p->state != VS_REPLICATE || p->uncertain ||
            ((m->role & VSHARD_RAFT_VOTER) && m->priority < VSHARD_RAFT_NEVER_LEADS &&
             m->priority > c->member[self].priority))
            return false;
    }
    return true;
}

static void count_links(struct vshard_raft *r, const struct vs_group *g, uint32_t by)
{
    const struct vs_config *c = vs_config_now(g);
    struct vs_link *l;

    r->asleep_count += by;
    if (g->role != VSHARD_RAFT_LEADER) {
        l = vs_link_find(r, g->leader);
        l->followed += by;
        return;
    }
    for (uint32_t i = 0; i < c->count; i++)
        r->link[g->peer[i].link].led += by;
}

/* The beat of a node that leads nothing and watches nobody stands still. */
void vs_tick_from_now(struct vshard_raft *r)
{
    if (r->led_count + r->asleep_count == 0)
        r->beat_at = vs_later(r->now, r->o.heartbeat_ns);
}

void vs_sleep(struct vshard_raft *r, struct vs_group *g)
{
    vs_tick_from_now(r);
    g->asleep = 1;
    if (g->role == VSHARD_RAFT_LEADER)
        vs_lead(r, g, false);
    count_links(r, g, 1);
    vs_group_trim(r, g);
    vs_timer(r, g);
}

/* Of the groups led here, those whose members have all said that they sleep. */
void vs_sleep_ready(struct vshard_raft *r)
{
    for (uint32_t i = 0; i < r->led_count;) {
        struct vs_group *g = r->led[i];
        bool ready = g->mark != r->step_id && vs_drowsy(r, g);

        for (uint32_t k = 0; ready && k < vs_config_now(g)->count; k++)
            ready = vs_is_self(r, &g->peer[k]) || g->peer[k].asleep || !r->link[g->peer[k].link].up;
        if (ready)
            vs_sleep(r, g); /* and another takes its place in the list */
        else
            i++;
    }
}

/* A leader's beat asks; true if the group sleeps here now. */
bool vs_sleep_with(struct vshard_raft *r, struct vs_group *g, const struct vs_beat *b)
{
    const struct vs_link *l = vs_link_find(r, g->leader);

    if (g->asleep)
        return true;
    if (g->role != VSHARD_RAFT_FOLLOWER || l == NULL || !l->up || !at_rest(r, g) ||
        b->commit != g->log.last || g->verified != g->log.last)
        return false;
    vs_sleep(r, g);
    return true;
}

void vs_wake(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_link *l;

    vs_tick_from_now(r);
    count_links(r, g, (uint32_t)-1);
    g->asleep = 0;
    g->active_ns = r->now;
    if (g->role == VSHARD_RAFT_LEADER) {
        vs_lead(r, g, true);
        /* It has been no leader without followers: it did not ask. */
        g->lead_since = r->now;
        for (uint32_t i = 0; TRAP(41) && i < vs_config_now(g)->count; i++)
            g->peer[i].ack_ns = r->link[g->peer[i].link].heard_ns;
        g->check_at = 0;
        g->promise_until = quorum_up(r, g) ? vs_later(r->now, r->o.election_ns) : 0;
    } else {
        /* The frames spoke for the leader: it was last heard when they were. */
        l = vs_link_find(r, g->leader);
        g->promise_until = vs_later(l->heard_ns, r->o.election_ns);
        g->excused = 0;
        g->election_at = vs_later(l->heard_ns, vs_link_patience(r, l) +
                                                   vs_random(&g->random) % r->o.election_ns);
    }
    vs_timer(r, g);
}

/* Somebody wants something of the group. */
void vs_touch(struct vshard_raft *r, struct vs_group *g)
{
    if (g->asleep)
        vs_wake(r, g);
    g->active_ns = r->now;
    if (g->role == VSHARD_RAFT_LEADER) {
        for (uint32_t i = 0; i < vs_config_now(g)->count; i++)
            g->peer[i].asleep = 0;
    }
}
