/* quorum_lost.c - a group whose quorum is lost for good, by an operator's word.
 *
 * The core does it (lib/raft/epoch.c) and refuses what its own eyes contradict. Here the
 * evidence is put in its form: of the group's members those that are lost are named as
 * fenced, and all others go on as voters.
 *
 * The map goes on naming the lost nodes until they are removed from it. That harms nobody:
 * the steward asks for no member that is not there, lets none vote in a recovered group that has
 * not shown that it follows, and counts only those whom the group counts. So one that comes back as
 * it was may: if it has what was given up, the core halts its replica. One whose replica of the map
 * has halted goes by an old map. It says so in its gossip, gives away what it leads and configures
 * nothing, and no group prefers it as leader or moves to it; what shards it has, it serves. What
 * it had created by that map cannot be taken for anything else, because groups are numbered
 * apart in each epoch. */
#include "node/core.h"

static bool is_lost(const struct vshard_node_admin *a, uint64_t node)
{
    for (uint32_t i = 0; i < a->lost_count; i++) {
        if (a->lost[i] == node)
            return true;
    }
    return false;
}

static int check(struct vshard_node *n, const struct vshard_node_admin *a)
{
    const struct vs_replica *r = vs_replica_find(n, a->group);
    size_t words = a->name != NULL ? strlen(a->name) : 0;

    if (words == 0 || words > VSHARD_STATEMENT_MAX)
        return vs_node_refuse(n, VSHARD_EINVAL, "name", (int64_t)words, VSHARD_STATEMENT_MAX);
    if (a->lost == NULL || a->lost_count == 0 || a->lost_count > VSHARD_NODES_MAX)
        return vs_node_refuse(n, VSHARD_EINVAL, "lost_count", a->lost_count, VSHARD_NODES_MAX);
    if (a->group == VS_META && vs_hosted(n)) /* it is the host's */
        return vs_node_refuse(n, VSHARD_EINVAL, "group", 0, 0);
    if (is_lost(a, n->node))
        return vs_node_refuse(n, VSHARD_EINVAL, "lost", (int64_t)n->node, 0);
    return r != NULL && r->open && !r->dropped ? VSHARD_OK : VSHARD_ENOTFOUND;
}

/* This node's replica votes, and of the map's group no more than may. */
static int name_members(struct vshard_node *n, const struct vshard_node_admin *a,
                        struct vshard_raft_member *member, uint32_t *count)
{
    uint32_t voters = 1;
    int rc = vshard_raft_members(n->raft, a->group, member, count);

    for (uint32_t i = 0; rc == VSHARD_OK && i < *count; i++) {
        member[i].role = VSHARD_RAFT_VOTER;
        if (is_lost(a, member[i].node))
            member[i].role = VSHARD_RAFT_FENCED;
        else if (member[i].node != n->node && a->group == VS_META && voters++ >= VS_META_VOTERS)
            member[i].role = VSHARD_RAFT_LEARNER;
    }
    return rc;
}

int vs_recover(struct vshard_node *n, struct vs_request *q, const struct vshard_node_admin *a)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PROMOTE, a->group);
    struct vshard_raft_member member[VSHARD_RAFT_MEMBERS_MAX];
    struct vs_proposal *p;
    int rc = check(n, a);

    if (rc == VSHARD_OK)
        rc = name_members(n, a, member, &event.member_count);
    if (rc != VSHARD_OK)
        return rc;
    p = vs_proposal_new(n, VS_PROPOSED_RECOVERY, a->group);
    if (p == NULL)
        return VSHARD_ENOMEM;
    p->admin = q;
    q->part[0].group = a->group;
    q->part[0].node = n->node;
    q->part[0].again_ns = VS_NEVER;
    event.members = member;
    event.barrier = a->epoch;
    event.index = a->last;
    event.offset = a->last_term;
    event.bytes = a->name;
    event.byte_count = strlen(a->name);
    return vs_proposal_step(n, p, &event);
}

void vs_recover_done(struct vshard_node *n, struct vs_proposal *p,
                     const struct vshard_raft_effect *e)
{
    const struct vs_replica *r = vs_replica_find(n, p->group);
    struct vs_request *q = p->admin;

    if (e->status == VSHARD_OK)
        vs_node_event(n, VSHARD_LOG_WARN, "node.recovered", p->group, "silence_ns",
                      (int64_t)e->age_ns);
    if (q == NULL)
        return;
    if (e->status != VSHARD_OK || r == NULL) {
        vs_request_finish(n, q, e->status);
        return;
    }
    q->part[0].position = e->index;
    q->part[0].epoch = (uint32_t)vs_replica_epoch(r);
    q->answered = 1;
    vs_request_part_done(n, q, &q->part[0]);
}
