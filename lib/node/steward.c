/* steward.c - who is a member of what: what the map says, made so.
 *
 * The map says what shall be; three parties make it so, each by looking at what is and
 * doing one thing at a time, so that it does not matter when one of them dies:
 *
 *   - every node opens the groups it is a member of, and lets go of those it is not;
 *   - the leader of a group asks its core for the members that the map names;
 *   - the leader of the map writes down nodes that are members of it, makes those members
 *     that are written down, and gives the replicas of a node that has been silent for
 *     replace_ns to another.
 *
 *     GOSSIP  4 count, 4 level, 8 number, [count x (8 group, 8 applied, 8 leader, 8 term,
 *             8 digest's index, 8 digest, 8 members who vote, 8 flags: VS_HINT_*)]; numbers of
 *             one sender rise, and what comes late is of no use; a digest's index of all ones says
 *             that the replica answers nothing: it has halted, or is refilled
 *
 * Who is to vote learns first, and votes when it has the log up to where it was named, if writes
 * would wait for it else; and in a group that was recovered, where the vote of one that has parted
 * never comes.
 *
 * A replica that the map does not name any more goes only when the group does not count on
 * it: when its own configuration says so, or a leader tells that a configuration without it
 * is committed. What it has may be all there is of an entry until then.
 *
 * What replicas that name different digests for one position do about it is refill.c. */
#include "node/core.h"

enum { STEWARD_NS = 100000000, OPENED_AT_ONCE = 64 };
enum { HALTED_SNAPSHOTS = 16 }; /* what a halted replica may log, in snapshot_bytes */

static const uint64_t hand_over_every = 5000000000; /* ns */

/* ---- who leads ---- */

uint64_t vs_leader_of(struct vshard_node *n, uint64_t group)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint64_t leader = 0, term = 0;
    const struct vs_hint *h;
    uint32_t hints;

    if (r != NULL && r->open && !r->dropped && r->leader != 0)
        return r->leader;
    h = vs_hints_of(n, group, &hints);
    for (uint32_t i = 0; i < hints; i++) {
        if (h[i].leader == 0 || h[i].term < term)
            continue;
        leader = h[i].leader;
        term = h[i].term;
    }
    return leader;
}

/* ---- this node's replicas ---- */

static bool named(const struct vs_meta_node *x, uint32_t count, uint64_t node, uint64_t incarnation)
{
    for (uint32_t i = 0; i < count; i++) {
        if (x[i].node == node && x[i].incarnation == incarnation)
            return true;
    }
    return false;
}

/* Takes from `room`. False: there is none left, or no memory. */
static bool open_replica(struct vshard_node *n, const struct vs_collection *c, uint32_t number,
                         uint32_t *room)
{
    struct vs_replica *r;

    if (*room == 0 || vs_replica_add(n, c->shard[number].group, c, number, &r) != VSHARD_OK)
        return false;
    --*room;
    vs_replica_begin(n, r);
    return true;
}

static bool open_named(struct vshard_node *n, uint32_t *room)
{
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *c = n->meta.collection[i];

        for (uint32_t s = 0; s < c->spec.shards; s++) {
            if (named(c->shard[s].members, c->shard[s].member_count, n->node, n->incarnation) &&
                vs_replica_find(n, c->shard[s].group) == NULL && !open_replica(n, c, s, room))
                return false;
        }
    }
    return true;
}

/* Nothing will be asked for it any more. */
static bool bury(struct vshard_node *n, uint64_t group)
{
    struct vs_replica gone = { .group = group };
    struct vshard_wal_group about = { .size = sizeof about };

    if (vshard_wal_find(n->wal, group, &about) == VSHARD_OK && about.mark_bytes == 16)
        gone.snapshot_index = vs_load64(about.mark);
    if (!vs_persist_forget(n, &gone))
        return false;
    vs_replica_files_remove(n, &gone);
    return true;
}

/* A group of which the log has something since before this node was opened. Though the map may not
 * name this node in it any more, the group may count on it. False: at a later turn. */
static bool open_kept(struct vshard_node *n, uint64_t group, uint32_t *room)
{
    struct vshard_wal_group about = { .size = sizeof about };
    const struct vs_collection *c;

    if (vs_replica_find(n, group) != NULL || vshard_wal_find(n->wal, group, &about) != VSHARD_OK)
        return true;
    if (vs_cluster_group(&n->meta, group, &c) == NULL)
        return bury(n, group);
    if (about.mark_index == 0 && about.last_term == 0)
        return true; /* it has promised something once */
    return open_replica(n, c, (uint32_t)(group - c->shard[0].group), room);
}

/* Groups are numbered as they come: of those that the map has not got to it will tell. */
static bool open_all_kept(struct vshard_node *n, uint32_t *room)
{
    uint64_t group;
    size_t count;

    while (n->kept_group != VS_NEVER) {
        if (vshard_wal_groups(n->wal, n->kept_group, &group, 1, &count) != VSHARD_OK)
            return false;
        if (count == 0)
            n->kept_group = VS_NEVER;
        else if (group >= n->meta.next_group)
            return true;
        else if (!open_kept(n, group, room))
            return false;
        else
            n->kept_group = group + 1;
    }
    return true;
}

/* Thousands at once would take longer than others wait for a beat. */
void vs_steward_open(struct vshard_node *n)
{
    uint32_t room = OPENED_AT_ONCE;

    if (n->now < n->open_ns)
        return;
    if (open_named(n, &room) && open_all_kept(n, &room))
        n->open_ns = VS_NEVER;
    else
        n->open_ns = room == 0 ? n->now : n->now + STEWARD_NS;
}

/* Whether the group's configuration, as far as this node knows for sure, counts on it. */
static bool configured(struct vshard_node *n, uint64_t group)
{
    struct vshard_raft_member member[VSHARD_RAFT_MEMBERS_MAX];
    struct vshard_raft_status s = { .size = sizeof s };
    uint32_t count = 0;

    if (vshard_raft_members(n->raft, group, member, &count) != VSHARD_OK ||
        vshard_raft_inspect(n->raft, group, &s) != VSHARD_OK)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (member[i].node == n->node && member[i].incarnation == n->incarnation)
            return true;
    }
    return s.commit != s.last; /* what leaves it out may yet be undone */
}

/* It takes part no more. False: at a later turn. */
static bool shut(struct vshard_node *n, struct vs_replica *r)
{
    int rc = vshard_raft_close(n->raft, r->group);

    vs_take_effects(n);
    if (rc == VSHARD_ENOMEM)
        return false;
    r->open = 0;
    r->role = VSHARD_RAFT_FOLLOWER;
    r->leader = 0;
    vs_serve_leave(n, r);
    return true;
}

static void part(struct vshard_node *n, struct vs_replica *r)
{
    r->dropped = 1;
    r->dropped = shut(n, r);
    if (r->dropped)
        vs_node_event(n, VSHARD_LOG_INFO, "node.dropped", r->group, "replica", 0);
}

/* One that has halted keeps the log of its group, and votes; but it takes no snapshots, so its log
 * grows for ever. Before that is a burden to all others here, it is as if it were not there. */
static void unburden(struct vshard_node *n, struct vs_replica *r)
{
    struct vshard_wal_group about = { .size = sizeof about };

    if (r->group == VS_META || r->status == VSHARD_OK || !r->open || r->dropped ||
        vshard_wal_find(n->wal, r->group, &about) != VSHARD_OK ||
        about.bytes / HALTED_SNAPSHOTS <= n->o.snapshot_bytes)
        return;
    if (shut(n, r))
        vs_node_event(n, VSHARD_LOG_ERROR, "node.silenced", r->group, "bytes of its log",
                      (int64_t)about.bytes);
}

/* To give back what a large shard has takes some ten milliseconds. False: there is no memory for
 * that. */
static bool close_shard(struct vshard_node *n, struct vs_replica *r)
{
    struct vs_item *item = vs_item_new(n, VS_ITEM_CLOSE, r);

    if (item != NULL)
        vs_item_push(n, item);
    return item != NULL;
}

static void drop(struct vshard_node *n, struct vs_replica *r)
{
    bool forgotten;

    if (!r->dropped)
        part(n, r);
    if (r->dropped && !r->forgotten)
        r->forgotten = vs_persist_forget(n, r);
    if (!r->dropped || r->items != 0)
        return; /* when its items are done */
    forgotten = r->forgotten && r->forget_barrier <= n->wal_durable;
    /* Nobody will look for files of a group that is gone, and the log may need their room. */
    if (forgotten || vs_cluster_group(&n->meta, r->group, NULL) == NULL)
        vs_replica_files_remove(n, r);
    /* Until then the log still shows the group to who would open it again. */
    if (!forgotten)
        return; /* when there is room, and it is durable */
    if (r->shard != NULL && close_shard(n, r))
        return; /* when that is done */
    vs_replica_free(n, r);
    n->meta_seen = 0; /* it may have been named again meanwhile */
}

uint64_t vs_member_bits(uint64_t node, uint64_t incarnation)
{
    uint64_t hash = vs_mix64(node ^ vs_mix64(incarnation)), bits = 0;

    for (int i = 0; i < 5; i++, hash >>= 6)
        bits |= (uint64_t)1 << (hash & 63);
    return bits;
}

static bool is_among(uint64_t members, uint64_t node, uint64_t incarnation)
{
    uint64_t bits = vs_member_bits(node, incarnation);

    return (members & bits) == bits;
}

/* Who votes in a group that is led here, if its configuration is committed. What one that learns
 * has is counted on by nobody. */
static uint64_t settled_members(struct vshard_node *n, const struct vs_replica *r)
{
    struct vshard_raft_member member[VSHARD_RAFT_MEMBERS_MAX];
    struct vshard_raft_status s = { .size = sizeof s };
    uint32_t count = 0;
    uint64_t bits = 0;

    if (r->role != VSHARD_RAFT_LEADER || vshard_raft_inspect(n->raft, r->group, &s) != VSHARD_OK ||
        s.commit < s.config || vshard_raft_members(n->raft, r->group, member, &count) != VSHARD_OK)
        return UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        if (member[i].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING))
            bits |= vs_member_bits(member[i].node, member[i].incarnation);
    }
    return bits;
}

/* A leader has said that the group goes on without this replica; not before it was a member, as in
 * a frame that is late: the leader's own replica reflects what has made it one. */
static bool released(const struct vshard_node *n, const struct vs_replica *r)
{
    struct vshard_raft_status s = { .size = sizeof s };
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, r->group, &hints);

    vshard_raft_inspect(n->raft, r->group, &s);
    for (uint32_t i = 0; i < hints; i++) {
        if (h[i].leader == h[i].node && h[i].term >= r->term && h[i].applied >= s.config &&
            !is_among(h[i].members, n->node, n->incarnation))
            return true;
    }
    return false;
}

static void drop_all(struct vshard_node *n)
{
    for (uint32_t i = n->replica_count; i-- > 1;) {
        struct vs_replica *r = n->replica[i];
        const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, r->group, NULL);

        if (shard != NULL && !r->dropped &&
            named(shard->members, shard->member_count, n->node, n->incarnation))
            continue;
        /* One that is not open, as what it starts from is still being read, does not know. */
        if (shard == NULL || r->dropped || (r->open && !configured(n, r->group)) || released(n, r))
            drop(n, r);
    }
}

void vs_steward_map(struct vshard_node *n)
{
    if (n->meta_seen)
        return;
    n->meta_seen = 1;
    for (uint32_t i = 0; i < n->meta.node_count; i++)
        vs_peer_meet(n, n->meta.node[i].node);
    vs_hints_prune(n);
    n->open_ns = n->now;
    vs_admin_known(n);
    n->steward_at = n->now;
}

/* ---- the members of a group, by its leader ---- */

static bool silent(struct vshard_node *n, uint64_t node)
{
    return !vs_peer_here(n, node);
}

const struct vshard_raft_member *vs_member_find(const struct vs_members *m, uint64_t node,
                                                uint64_t incarnation)
{
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->member[i].node == node && m->member[i].incarnation == incarnation)
            return &m->member[i];
    }
    return NULL;
}

/* A member that is to come is asked for when it is there, under the incarnation that it has
 * now: one that never answers could only stand in the way of all that follows. */
static bool may_come(struct vshard_node *n, const struct vs_meta_node *x)
{
    const struct vs_meta_node *now = vs_cluster_node(&n->meta, x->node);

    return now != NULL && now->incarnation == x->incarnation &&
           !vs_cluster_leaves(&n->meta, x->node) && !silent(n, x->node);
}

/* A replica that has halted, or is refilled, keeps the log as any other, and votes; but who leads
 * takes writes and says that they are applied, which it cannot. Nor shall one lead that was
 * refilled, and differs still: whoever leads then is asked to make its state again, too (refill.c).
 */
static bool idles(struct vshard_node *n, uint64_t group, uint64_t node)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, group, &hints);

    if (node == n->node)
        return r == NULL || r->status != VSHARD_OK || r->diverged;
    for (uint32_t i = 0; i < hints; i++) {
        if (h[i].node == node)
            return h[i].digest_index == UINT64_MAX || (h[i].flags & VS_HINT_UNPROVEN);
    }
    return false;
}

/* Who a group shall have, as the map has it. */
struct named {
    const struct vs_meta_node *node;
    uint32_t count;
    uint32_t shall_vote, follow; /* so many; and of them, so many have the log, and are there */
    bool at_once;                /* who comes votes at once */
};

/* It would have lost its replicas by now. */
static bool is_gone(struct vshard_node *n, uint64_t node)
{
    return n->o.replace_ns != VS_NEVER && !vs_peer_alive(n, node, n->o.replace_ns);
}

/* Whether enough others could vote about the map in place of one that is gone. */
static bool has_spares(struct vshard_node *n)
{
    uint32_t there = 0;

    for (uint32_t i = 0; i < n->meta.node_count; i++)
        there += n->meta.region[i] == n->meta.primary && !is_gone(n, n->meta.node[i].node);
    return there >= VS_META_VOTERS;
}

/* Of the map's group the first that are there. */
static bool shall_vote(struct vshard_node *n, uint64_t group, const struct vs_meta_node *x,
                       uint32_t voters)
{
    if (!vs_cluster_votes(&n->meta, x->node))
        return false;
    return group != VS_META || (voters < VS_META_VOTERS && !(is_gone(n, x->node) && has_spares(n)));
}

static bool follows(struct vshard_node *n, uint64_t group, const struct vs_meta_node *x,
                    const struct vshard_raft_status *s)
{
    return vshard_raft_match(n->raft, group, x->node, x->incarnation) >= s->config;
}

/* Who comes votes at once where most of those who shall vote follow: then nobody waits for it, and
 * a second loss while it catches up stops nothing for longer than that. Else it learns first, or
 * writes would wait until all that there is has been sent to it. In a group that was recovered it
 * always does: one whose past has parted from the group's (lib/raft/epoch.c) never follows, and its
 * vote would be missing. In any other nobody's past can have. */
static struct named find_named(struct vshard_node *n, uint64_t group,
                               const struct vshard_raft_status *s)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, group, NULL);
    struct named m = { .count = 0 };

    if (shard != NULL)
        m = (struct named){ .node = shard->members, .count = shard->member_count };
    else if (group == VS_META)
        m = (struct named){ .node = n->meta.node, .count = n->meta.node_count };
    for (uint32_t i = 0; i < m.count; i++) {
        bool shall = shall_vote(n, group, &m.node[i], m.shall_vote);

        m.shall_vote += shall;
        m.follow += shall && !silent(n, m.node[i].node) && follows(n, group, &m.node[i], s);
    }
    m.at_once = s->epoch == 0 && m.follow > m.shall_vote / 2;
    return m;
}

static bool is_voter(const struct vshard_raft_member *m)
{
    return m != NULL && (m->role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING));
}

/* Those who are there already, but for whose node is back under another incarnation. */
static void stay(const struct vs_members *now, struct vs_members *to)
{
    for (uint32_t i = 0; i < now->count && to->count < VSHARD_RAFT_MEMBERS_MAX; i++) {
        uint32_t at = 0;

        while (at < to->count && to->member[at].node != now->member[i].node)
            at++;
        if (at == to->count)
            to->member[to->count++] = now->member[i];
    }
}

/* Who votes and is to learn goes on to vote. */
static void keep_votes(const struct vs_members *now, struct vs_members *to)
{
    for (uint32_t i = 0; i < to->count; i++) {
        const struct vshard_raft_member *m =
            vs_member_find(now, to->member[i].node, to->member[i].incarnation);

        if (m != NULL && (m->role & VSHARD_RAFT_VOTER))
            to->member[i].role = VSHARD_RAFT_VOTER;
    }
}

/* What the map names, as far as it can be had; and until all of it can be had, those who are
 * there already stay, and vote until most of those do who shall. */
static void find_wanted(struct vshard_node *n, const struct vs_replica *r,
                        const struct vs_members *now, struct vs_members *to)
{
    struct vshard_raft_status s = { .size = sizeof s };
    uint32_t voters = 0, missing = 0;
    struct named named;

    to->count = 0;
    if (vshard_raft_inspect(n->raft, r->group, &s) != VSHARD_OK)
        return;
    named = find_named(n, r->group, &s);
    for (uint32_t i = 0; i < named.count; i++) {
        const struct vs_meta_node *x = &named.node[i];
        const struct vshard_raft_member *m = vs_member_find(now, x->node, x->incarnation);
        bool shall = shall_vote(n, r->group, x, voters);
        bool votes =
            shall && (named.at_once || is_voter(m) || (m != NULL && follows(n, r->group, x, &s)));

        if (m == NULL && !may_come(n, x)) {
            missing++;
            continue;
        }
        missing += shall != votes;
        voters += votes;
        to->member[to->count++] = (struct vshard_raft_member){
            x->node, x->incarnation, votes ? VSHARD_RAFT_VOTER : VSHARD_RAFT_LEARNER,
            r->group != VS_META && i == 0 && !vs_peer_mapless(n, x->node) &&
                (named.count == 1 || !idles(n, r->group, x->node))
        };
    }
    if (missing != 0)
        stay(now, to);
    if (named.shall_vote != 0 && voters <= named.shall_vote / 2)
        keep_votes(now, to);
    /* After a recovery in another region, until that is made the primary one. */
    for (uint32_t i = voters = 0; i < to->count; i++)
        voters += to->member[i].role == VSHARD_RAFT_VOTER;
    if (voters == 0)
        *to = *now;
}

static bool same_members(const struct vs_members *a, const struct vs_members *b)
{
    for (uint32_t i = 0; i < a->count; i++) {
        const struct vshard_raft_member *x = &a->member[i];
        const struct vshard_raft_member *y = vs_member_find(b, x->node, x->incarnation);

        if (y == NULL || y->role != x->role || y->priority != x->priority)
            return false;
    }
    return a->count == b->count;
}

static void configure(struct vshard_node *n, struct vs_replica *r)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_CONFIGURE, r->group);
    struct vs_members now = { .count = 0 }, wanted;

    if (vshard_raft_members(n->raft, r->group, now.member, &now.count) != VSHARD_OK)
        return;
    find_wanted(n, r, &now, &wanted);
    if (wanted.count == 0 || same_members(&now, &wanted))
        return;
    /* Of the map's group no founder is put out because it is not written down yet. */
    if (r->group == VS_META && wanted.count < now.count && !n->meta.settled)
        return;
    event.members = wanted.member;
    event.member_count = wanted.count;
    vs_step(n, &event); /* EBUSY while one is under way: the next time */
}

/* Leaders are spread by placement, which turns who comes first: to that member leadership is
 * handed. The core does so by itself while a group is awake; this also reaches one that sleeps. */
static void hand_over(struct vshard_node *n, struct vs_replica *r)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, r->group, NULL);
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_TRANSFER, r->group);

    if (shard == NULL || shard->members[0].node == n->node || n->now < r->hand_over_ns)
        return;
    /* Not at once: who has just begun to lead has other things to do. */
    if (r->hand_over_ns != 0 && vs_peer_follows(n, shard->members[0].node) &&
        !idles(n, r->group, shard->members[0].node)) {
        event.node = shard->members[0].node;
        vs_step(n, &event); /* whatever comes of it */
    }
    r->hand_over_ns = n->now + hand_over_every;
}

/* This node does not know the map any more, and would hold the group to an old one, or its replica
 * idles: another leads it, if there is one who can. */
static void give_away(struct vshard_node *n, struct vs_replica *r)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_TRANSFER, r->group);
    struct vs_members now = { .count = 0 };

    if (n->now < r->hand_over_ns ||
        vshard_raft_members(n->raft, r->group, now.member, &now.count) != VSHARD_OK)
        return;
    r->hand_over_ns = n->now + hand_over_every;
    for (uint32_t i = 0; i < now.count; i++) {
        event.node = now.member[i].node;
        if (event.node != n->node && (now.member[i].role & VSHARD_RAFT_VOTER) &&
            vs_peer_follows(n, event.node) && !idles(n, r->group, event.node) &&
            vs_step(n, &event) == VSHARD_OK)
            return;
    }
}

/* ---- the map's leader ---- */

static void propose(struct vshard_node *n, struct vs_out *o)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PROPOSE, VS_META);
    struct vshard_raft_entry entry = { .kind = VSHARD_RAFT_DATA };
    struct vs_proposal *p = NULL;
    int rc;

    if (o->status == VSHARD_OK)
        p = vs_proposal_new(n, VS_PROPOSED_SELF, VS_META);
    if (p != NULL) {
        entry.data = o->at;
        entry.count = o->count;
        event.tag = (uintptr_t)p;
        event.entries = &entry;
        event.entry_count = 1;
        n->steward_busy = 1;
        if (vs_hosted(n))
            rc = vs_hosted_ready(n) ? vs_hosted_propose(n, p, o->at, o->count) : VSHARD_EBUSY;
        else
            rc = vs_step(n, &event);
        if (rc != VSHARD_OK) {
            n->steward_busy = 0;
            vs_proposal_free(n, p);
        }
    }
    vs_out_free(o);
}

void vs_steward_proposed(struct vshard_node *n, int status)
{
    (void)status; /* what is still to do, the next look will find */
    n->steward_busy = 0;
}

/* True if a member of the map's group was not written down. */
static bool write_down(struct vshard_node *n)
{
    struct vshard_raft_member now[VSHARD_RAFT_MEMBERS_MAX];
    struct vs_out o = { .allocator = n->allocator };
    uint32_t count = 0;

    if (vshard_raft_members(n->raft, VS_META, now, &count) != VSHARD_OK)
        return false;
    if (n->meta.settled)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (vs_cluster_node(&n->meta, now[i].node) != NULL)
            continue;
        vs_cmd_node(&o, now[i].node, now[i].incarnation, 0, n->meta.level); /* a founder */
        propose(n, &o);
        return true;
    }
    return false;
}

/* A node with the fewest replicas that is alive and has none of this shard, and whose replica
 * would vote, or learn. */
static uint64_t spare(struct vshard_node *n, const struct vs_meta_shard *shard, bool votes)
{
    struct vs_placing p = { .count = 0 };

    for (uint32_t i = 0; i < n->meta.node_count; i++) {
        uint64_t x = n->meta.node[i].node;
        bool has = false;

        for (uint32_t k = 0; k < shard->member_count; k++)
            has |= shard->members[k].node == x;
        if (!has && !n->meta.leaving[i] && vs_cluster_votes(&n->meta, x) == votes &&
            vs_peer_follows(n, x))
            p.node[p.count++].node = x;
    }
    if (p.count == 0) /* of many shards each would count the replicas of all */
        return 0;
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *c = n->meta.collection[i];

        for (uint32_t s = 0; s < c->spec.shards; s++) {
            for (uint32_t k = 0; k < c->shard[s].member_count; k++)
                vs_placing_count(&p, c->shard[s].members[k].node, k == 0);
        }
    }
    return vs_place_one(&p);
}

/* The members of a group as its leader has them, as bits; all, where that is not known. */
static uint64_t counted_members(struct vshard_node *n, uint64_t group)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint64_t members = UINT64_MAX, term = 0;
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, group, &hints);

    if (r != NULL && r->open && !r->dropped && r->role == VSHARD_RAFT_LEADER)
        return settled_members(n, r);
    for (uint32_t i = 0; i < hints; i++) {
        if (h[i].leader == h[i].node && h[i].term > term) {
            members = h[i].members;
            term = h[i].term;
        }
    }
    return members;
}

/* A node that shall leave, and whose replica no other can take. One that does not answer, or whom
 * the group does not count, is not waited for: without it the group is what it was with it. */
static bool give_up(struct vshard_node *n, const struct vs_meta_shard *shard, uint32_t at,
                    uint64_t counted)
{
    const struct vs_meta_node *lost = &shard->members[at];
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    struct vs_out o = { .allocator = n->allocator };
    uint32_t count = 0;

    if (!vs_cluster_leaves(&n->meta, lost->node) || shard->member_count == 1 ||
        (!silent(n, lost->node) && is_among(counted, lost->node, lost->incarnation)))
        return false;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (i != at)
            members[count++] = shard->members[i];
    }
    vs_node_event(n, VSHARD_LOG_WARN, "node.gives_up", shard->group, "lost member",
                  (int64_t)lost->node);
    vs_cmd_members(&o, shard->group, members, count);
    propose(n, &o);
    return true;
}

/* When it was first heard that the replica which this is about has halted; 0: it has not. */
static uint64_t halted_since(const struct vshard_node *n, const struct vs_hint *got)
{
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, got->group, &hints);

    if (!(got->flags & VS_HINT_HALTED))
        return 0;
    for (uint32_t i = 0; i < hints; i++) {
        if (h[i].node == got->node && h[i].halted_ns != 0)
            return h[i].halted_ns;
    }
    return n->now;
}

/* For how long a replica has halted, in ns. */
static uint64_t halted_for(const struct vshard_node *n, uint64_t group, uint64_t node)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint64_t since = node == n->node && r != NULL ? r->halted_ns : 0;
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, group, &hints);

    for (uint32_t i = 0; i < hints; i++) { /* else it has gone meanwhile, and may be another */
        if (h[i].node == node && n->now - h[i].heard_ns <= 4 * n->o.election_ns)
            since = h[i].halted_ns;
    }
    return since != 0 ? n->now - since : 0;
}

/* The member whose replica has halted, and for long. What halts two is in the log, and would halt
 * others: then there is none. */
static uint32_t find_halted(struct vshard_node *n, const struct vs_meta_shard *shard)
{
    uint32_t count = 0, at = shard->member_count;

    for (uint32_t i = 0; i < shard->member_count; i++) {
        uint64_t ns = halted_for(n, shard->group, shard->members[i].node);

        count += ns != 0;
        at = ns > n->o.replace_ns ? i : at;
    }
    return count == 1 ? at : shard->member_count;
}

/* One member at a time: one that came back under another incarnation, or one whose node is
 * gone or leaves, or whose replica has halted. Only while most of those are there that count, which
 * after a recovery are fewer than the map names: else nothing can be decided. */
static bool replace_in(struct vshard_node *n, const struct vs_meta_shard *shard)
{
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    struct vs_out o = { .allocator = n->allocator };
    const uint64_t counted = counted_members(n, shard->group);
    uint32_t alive = 0, count = 0, at = find_halted(n, shard);
    const struct vs_meta_node *x;

    memcpy(members, shard->members, sizeof members);
    for (uint32_t i = 0; i < shard->member_count; i++) {
        x = vs_cluster_node(&n->meta, members[i].node);
        if (x != NULL && x->incarnation != members[i].incarnation) {
            members[i] = *x;
            vs_cmd_members(&o, shard->group, members, shard->member_count);
            propose(n, &o);
            return true;
        }
        if (vs_cluster_votes(&n->meta, members[i].node) &&
            is_among(counted, members[i].node, members[i].incarnation)) {
            alive += !silent(n, members[i].node);
            count++;
        }
        if (vs_cluster_leaves(&n->meta, members[i].node) || is_gone(n, members[i].node))
            at = i;
    }
    if (at == shard->member_count || alive <= count / 2)
        return false;
    x = vs_cluster_node(&n->meta, spare(n, shard, vs_cluster_votes(&n->meta, members[at].node)));
    if (x == NULL)
        return give_up(n, shard, at, counted);
    vs_node_event(n, VSHARD_LOG_WARN, "node.replaces", shard->group, "lost member",
                  (int64_t)members[at].node);
    members[at] = *x;
    vs_cmd_members(&o, shard->group, members, shard->member_count);
    propose(n, &o);
    return true;
}

/* One replica more, where a shard has too few that vote, or that learn. */
static bool complete(struct vshard_node *n, const struct vshard_collection *c,
                     const struct vs_meta_shard *shard)
{
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    struct vs_out o = { .allocator = n->allocator };
    const struct vs_meta_node *x = NULL;
    uint32_t voters = 0;

    for (uint32_t i = 0; i < shard->member_count; i++)
        voters += vs_cluster_votes(&n->meta, shard->members[i].node);
    if (shard->member_count > VSHARD_REPLICAS_MAX)
        return false;
    if (voters < c->replicas)
        x = vs_cluster_node(&n->meta, spare(n, shard, true));
    if (x == NULL && shard->member_count - voters < c->learners)
        x = vs_cluster_node(&n->meta, spare(n, shard, false));
    if (x == NULL)
        return false;
    memcpy(members, shard->members, sizeof members);
    members[shard->member_count] = *x;
    vs_cmd_members(&o, shard->group, members, shard->member_count + 1);
    propose(n, &o);
    return true;
}

/* One less, where a collection was altered and more vote than shall: not the first, which
 * leads by preference. Only while all of them are there. */
static bool reduce(struct vshard_node *n, const struct vshard_collection *c,
                   const struct vs_meta_shard *shard)
{
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    struct vs_out o = { .allocator = n->allocator };
    uint32_t voters = 0, count = 0;

    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (silent(n, shard->members[i].node))
            return false;
        voters += vs_cluster_votes(&n->meta, shard->members[i].node);
    }
    if (voters <= c->replicas)
        return false;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (i != voters - 1) /* those that vote come first */
            members[count++] = shard->members[i];
    }
    vs_cmd_members(&o, shard->group, members, count);
    propose(n, &o);
    return true;
}

/* Whether a shard's group may count on a node still, though the map does not name it any more: its
 * leader says whom it counts, when that is settled. */
static bool may_be_needed(struct vshard_node *n, const struct vs_meta_node *x,
                          const struct vs_meta_shard *shard)
{
    const uint64_t counted = counted_members(n, shard->group);
    uint64_t named = 0;

    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (vs_cluster_votes(&n->meta, shard->members[i].node))
            named |= vs_member_bits(shard->members[i].node, shard->members[i].incarnation);
    }
    return counted != named && is_among(counted, x->node, x->incarnation);
}

/* Who has left may be switched off at once, and what some group counts on must not be lost with
 * it; nor does it hear of the map any more, by which it would open what it was given last. So one
 * that is silent is waited for as long as it would keep its replicas. */
static bool may_leave(struct vshard_node *n, const struct vs_meta_node *x)
{
    if (vs_cluster_holds(&n->meta, x->node))
        return false;
    if (!vs_peer_alive(n, x->node, n->o.replace_ns))
        return true;
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *c = n->meta.collection[i];

        for (uint32_t s = 0; s < c->spec.shards; s++) {
            if (may_be_needed(n, x, &c->shard[s]))
                return false;
        }
    }
    return true;
}

/* Nodes that leave, and have nothing left. */
static bool see_off(struct vshard_node *n)
{
    struct vs_out o = { .allocator = n->allocator };

    for (uint32_t i = 0; i < n->meta.node_count; i++) {
        if (!n->meta.leaving[i] || !may_leave(n, &n->meta.node[i]))
            continue;
        vs_cmd_node_remove(&o, n->meta.node[i].node, n->meta.node[i].incarnation);
        propose(n, &o);
        return true;
    }
    return false;
}

/* What is known of the nodes' versions of the library. */
static bool agree_level(struct vshard_node *n)
{
    struct vs_out o = { .allocator = n->allocator };

    if (!vs_level_next(n, &o))
        return false;
    propose(n, &o);
    return true;
}

static void lead_map(struct vshard_node *n)
{
    if (n->steward_busy || write_down(n) || agree_level(n) || see_off(n))
        return;
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *c = n->meta.collection[i];

        for (uint32_t s = 0; s < c->spec.shards; s++) {
            if (replace_in(n, &c->shard[s]) || complete(n, &c->spec, &c->shard[s]) ||
                reduce(n, &c->spec, &c->shard[s]))
                return;
        }
    }
}

static void log_refusal(const struct vshard_node *n, uint64_t node, int status)
{
    if (status == VSHARD_ESTALE) /* or it has a directory of then */
        vs_node_event(n, VSHARD_LOG_WARN, "node.former", VS_META, "is no member any more",
                      (int64_t)node);
    else if (status == VSHARD_EVERSION)
        vs_node_event(n, VSHARD_LOG_WARN, "node.outdated", VS_META, "of an earlier version",
                      (int64_t)node);
    else
        vs_node_refuse(n, status, "nodes", VSHARD_NODES_MAX + 1, VSHARD_NODES_MAX);
}

void vs_join_take(struct vshard_node *n, uint64_t from, uint64_t incarnation, struct vs_in *in)
{
    const struct vs_meta_node *x = vs_cluster_node(&n->meta, from);
    struct vs_out o = { .allocator = n->allocator };
    uint32_t region = vs_take32(in), level = vs_take32(in);
    unsigned char reply[12];
    int rc;

    if (in->status != VSHARD_OK || vs_hosted(n) || (x != NULL && x->incarnation == incarnation) ||
        n->steward_busy)
        return;
    rc = vs_cluster_admits(&n->meta, from, incarnation, level);
    if (rc != VSHARD_OK) { /* as the map would answer, as far as this node knows it */
        log_refusal(n, from, rc);
        vs_store64(reply, incarnation);
        vs_store32(reply + 8, (uint32_t)rc);
        vs_post(n, from, VS_FRAME_JOIN_REPLY, VS_META, reply, sizeof reply, NULL, 0);
        return;
    }
    vs_cmd_node(&o, from, incarnation, region, level);
    propose(n, &o); /* by way of the leader; the sender asks again if it is lost */
}

/* ---- gossip ---- */

/* Up to where the digest is that others may compare theirs with; 0: there is none. What came of
 * entries that a recovery has made void differs, and is nobody's fault. All ones: it idles. */
static uint64_t digest_told(struct vshard_node *n, const struct vs_replica *r)
{
    struct vshard_raft_status s = { .size = sizeof s };

    if (r->status != VSHARD_OK || r->diverged)
        return UINT64_MAX;
    if (vs_replica_epoch(r) != 0 &&
        (vshard_raft_inspect(n->raft, r->group, &s) != VSHARD_OK || s.superseded))
        return 0;
    return r->digest_index;
}

static void gossip(struct vshard_node *n)
{
    struct vs_out o = { .allocator = n->allocator };
    uint32_t count = 0;

    vs_put32(&o, 0);
    vs_put32(&o, n->level);
    vs_put64(&o, ++n->gossips);
    for (uint32_t i = 0; i < n->replica_count; i++) {
        const struct vs_replica *r = n->replica[i];

        if (r->dropped || (!r->open && r->status == VSHARD_OK))
            continue;
        count++;
        vs_put64(&o, r->group);
        vs_put64(&o, vs_replica_searchable(r));
        vs_put64(&o, r->leader);
        vs_put64(&o, r->term);
        vs_put64(&o, digest_told(n, r));
        vs_put64(&o, r->digest);
        vs_put64(&o, settled_members(n, r));
        vs_put64(&o, (r->status != VSHARD_OK ? VS_HINT_HALTED : 0) |
                         (r->unproven ? VS_HINT_UNPROVEN : 0));
    }
    if (o.status == VSHARD_OK) {
        vs_store32(o.at, count);
        for (uint32_t i = 0; i < n->peer_count; i++)
            vs_post(n, n->peer[i].node, VS_FRAME_GOSSIP, VS_META, o.at, o.count, NULL, 0);
    }
    vs_out_free(&o);
}

/* What was said before something that has come already, or by another who had its number, is old.
 */
static bool is_new(struct vshard_node *n, struct vs_peer *p, uint64_t incarnation, uint64_t number)
{
    if (p->gossip_of == incarnation && number <= p->gossip)
        return false;
    if (p->gossip_of != incarnation)
        vs_hints_forget(n, p->node);
    p->gossip_of = incarnation;
    p->gossip = number;
    return true;
}

void vs_gossip_take(struct vshard_node *n, uint64_t from, uint64_t incarnation, struct vs_in *in)
{
    uint32_t count = vs_take32(in), level = vs_take32(in);
    uint64_t number = vs_take64(in);
    const struct vs_meta_node *x = vs_cluster_node(&n->meta, from);
    struct vs_peer *p = vs_peer_find(n, from);

    if (p == NULL || in->status != VSHARD_OK || !is_new(n, p, incarnation, number))
        return;
    p->level = level;
    if (x == NULL || x->incarnation != incarnation) /* it has no say in what members do */
        return;
    for (uint32_t i = 0; i < count && in->status == VSHARD_OK; i++) {
        struct vs_hint got = { .node = from };

        got.group = vs_take64(in);
        got.applied = vs_take64(in);
        got.leader = vs_take64(in);
        got.term = vs_take64(in);
        got.digest_index = vs_take64(in);
        got.digest = vs_take64(in);
        got.members = vs_take64(in);
        got.flags = vs_take64(in);
        if (got.group == VS_META && in->status == VSHARD_OK)
            p->mapless = got.digest_index == UINT64_MAX;
        if (in->status != VSHARD_OK || vs_cluster_group(&n->meta, got.group, NULL) == NULL)
            continue;
        got.heard_ns = n->now;
        got.halted_ns = halted_since(n, &got);
        vs_hint_put(n, &got);
    }
}

void vs_steward_time(struct vshard_node *n)
{
    if (n->now >= n->gossip_at) {
        n->gossip_at = n->now + VS_GOSSIP_NS;
        gossip(n);
    }
    if (n->now < n->steward_at)
        return;
    n->steward_at = n->now + STEWARD_NS;
    drop_all(n);
    vs_certain(n);
    vs_persist_commit(n, n->replica[0]); /* who starts again then knows the map at once */
    for (uint32_t i = 0; i < n->replica_count; i++) {
        struct vs_replica *r = n->replica[i];

        vs_replica_begin(n, r);
        vs_replica_rest(n, r);
        vs_replica_refill(n, r);
        unburden(n, r);
        if (!r->open || r->role != VSHARD_RAFT_LEADER) {
            r->hand_over_ns = 0;
            continue;
        }
        if (n->replica[0]->status != VSHARD_OK) {
            give_away(n, r);
            continue;
        }
        configure(n, r);
        if (idles(n, r->group, n->node))
            give_away(n, r);
        else
            hand_over(n, r);
    }
    if (vs_leads_map(n))
        lead_map(n);
}
