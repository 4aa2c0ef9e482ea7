/* epoch.c - a group whose quorum is gone for good, and the one way on.
 *
 * Where a quorum of a group's voters is lost with its disks or its region, nothing
 * that keeps Raft's promises can go on. An operator may decide that the others are
 * fenced (powered off, cut off, their rights revoked), and that what one survivor
 * has is the log from now on. That is a forced promotion, and it begins a recovery
 * epoch. What it may lose is what was acknowledged and is not in that log.
 *
 * The epoch is the upper 15 of a term's 63 bits. So it is written wherever the term
 * is, is in every message, and is compared before anything else; "refuses the old"
 * is what a replica does with a lower term anyway. The survivor leads the first term
 * of the new epoch without a vote, since the epoch's number is used once, and its
 * first entry there is the configuration it was given, with the operator's words
 * behind it. From then on that group is an ordinary group.
 *
 * Replicas of the old epoch need more than a comparison, since they may hold, and
 * have committed, what the new one never had. Five rules keep their past apart:
 *
 * Whoever has met a term of a new epoch stands for election only with an entry of
 * that epoch in its log; such an entry comes after the configuration that begins
 * it. So the old voters, told of the new epoch by anybody, elect nobody.
 *
 * A vote goes only to one whose last entry is of the epoch it asks in.
 *
 * A replica of the old epoch takes up the new log only where that log is shown to
 * hold everything the replica had committed: terms are never used twice, so an
 * index and a term still name one past. A leader walking back never skips the last
 * common entry (replicate.c). If the walk passes the replica's commit index, or
 * ends before what it has compacted, the two have parted: the replica stops with
 * ESTALE, and comes back under a new incarnation, without its data.
 *
 * A snapshot beyond its commit index replaces everything and needs no such proof;
 * one at or below it must name an entry that the replica has.
 *
 * Until that is shown the replica answers no read, however far the leader says that
 * one must be: its state may be of the other past.
 *
 * What no software can do is to see that a fence holds. If the old majority is
 * whole and meets nobody of the new epoch, it goes on, and there are two groups.
 * The core refuses a promotion that its own eyes contradict: while a leader is
 * heard, while one named as fenced has been heard lately, or while those that
 * remain are a quorum. The rest is the operator's word, and it is kept in the log. */
#include "raft/core.h"

bool vs_superseded(const struct vs_group *g)
{
    return vs_epoch(vs_log_term(&g->log, g->log.last)) != vs_epoch(g->term);
}

/* The last entry that is committed here and of an epoch before this one: by the message that
 * brings the epoch some of its own may be, too, and after a restart all may. 0 where the log does
 * not reach back so far. */
uint64_t vs_epoch_before(const struct vs_group *g)
{
    uint64_t first = vs_epoch(g->term) << VS_EPOCH_SHIFT; /* a term, of this epoch and later ones */

    return g->log.base_term < first ? vs_log_back(&g->log, g->commit, first - 1) : 0;
}

/* Does a leader of `term` have all that we have committed? Not shown yet, if we come
 * from an earlier epoch, and it has not yet verified so much. */
bool vs_unproven(const struct vs_group *g, uint64_t term)
{
    return vs_epoch(vs_log_term(&g->log, g->log.last)) < vs_epoch(term) &&
           g->verified < g->commit && !TRAP(40);
}

/* Reads the list of a PROMOTE: the members to be, and a mark for each present one
 * that is neither kept nor named as fenced. */
static int read_list(const struct vshard_raft *r, const struct vs_group *g,
                     const struct vshard_raft_event *e, struct vs_config *to)
{
    const struct vs_config *now = vs_config_now(g);
    struct vshard_raft_member keep[VSHARD_RAFT_MEMBERS_MAX];
    uint64_t kept[VSHARD_RAFT_MEMBERS_MAX] = { 0 };
    uint32_t named[VSHARD_RAFT_MEMBERS_MAX] = { 0 };
    uint32_t count = 0;
    int at, rc;

    if (e->member_count > 2 * VSHARD_RAFT_MEMBERS_MAX || e->members == NULL)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < e->member_count; i++) {
        const struct vshard_raft_member *m = &e->members[i];

        at = vs_config_find(now, m->node, m->incarnation);
        if (at >= 0 && named[at]++ != 0)
            return VSHARD_EINVAL;
        if (m->role == VSHARD_RAFT_FENCED)
            continue;
        if (at >= 0)
            kept[at] = 1;
        if (count == VSHARD_RAFT_MEMBERS_MAX)
            return VSHARD_E2BIG;
        keep[count++] = *m;
    }
    for (uint32_t i = 0; i < now->count; i++) {
        if (named[i] == 0)
            return VSHARD_EINVAL;
    }
    rc = vs_config_change(NULL, keep, count, to);
    if (rc != VSHARD_OK)
        return rc;
    at = vs_config_find(to, r->o.node, r->o.incarnation);
    if (at < 0 || to->member[at].role != VSHARD_RAFT_VOTER)
        return VSHARD_EINVAL;
    /* Those that remain could decide by themselves: that takes no force. */
    return vs_config_reached(now, kept) != 0 ? VSHARD_EEXIST : VSHARD_OK;
}

/* What this node sees with its own eyes that speaks against it. */
static bool contradicted(const struct vshard_raft *r, const struct vs_group *g,
                         const struct vshard_raft_event *e)
{
    if (r->now < g->promise_until || g->role == VSHARD_RAFT_LEADER)
        return true;
    for (uint32_t i = 0; i < e->member_count; i++) {
        const struct vs_link *l = vs_link_find(r, e->members[i].node);
        uint64_t seen = l && l->seen_ns > r->since_ns ? l->seen_ns : r->since_ns;

        if (e->members[i].role == VSHARD_RAFT_FENCED &&
            r->now < vs_later(seen, r->o.election_max_ns))
            return true;
    }
    return false;
}

static int may_promote(const struct vshard_raft *r, const struct vs_group *g,
                       const struct vshard_raft_event *e, struct vs_config *to)
{
    int rc;

    if (e->byte_count == 0 || e->byte_count > VS_WORDS_MAX || e->barrier > VS_EPOCH_MAX ||
        e->barrier == 0)
        return VSHARD_EINVAL;
    rc = read_list(r, g, e, to);
    if (rc != VSHARD_OK)
        return rc;
    if (e->barrier <= vs_epoch(g->term) || e->index != g->log.last ||
        e->offset != vs_log_term(&g->log, g->log.last))
        return VSHARD_ESTALE;
    return g->installing || contradicted(r, g, e) ? VSHARD_EBUSY : VSHARD_OK;
}

/* Leads the first term of the new epoch, by order and without a vote. */
void vs_promote(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    unsigned char bytes[VS_CONFIG_BYTES + VS_WORDS_MAX];
    struct vshard_raft_entry first = { .kind = VSHARD_RAFT_CONFIG, .data = bytes };
    struct vs_request refused = { .tag = e->tag };
    struct vs_config c;
    uint64_t heard = g->promise_until, none = vs_later(r->since_ns, r->o.election_ns);
    int rc = may_promote(r, g, e, &c);
    size_t n;

    if (rc != VSHARD_OK) {
        vs_done(r, g, &refused, rc);
        return;
    }
    n = vs_config_encode(&c, bytes);
    vs_store32(bytes + 4, (uint32_t)e->byte_count);
    memcpy(bytes + n, e->bytes, (size_t)e->byte_count);
    first.count = n + e->byte_count;
    vs_become_follower(r, g, e->barrier << VS_EPOCH_SHIFT | 1, 0);
    g->vote = r->o.node;
    vs_lead_with(r, g, &first);
    if (g->uncertain) /* of all before, when this is on disk */
        vs_certain_at(g, g->log.last);
    /* Who has led itself has promised nobody anything since. */
    vs_proposal_push(g, e->tag)->stamp = (heard > none ? heard : none) - r->o.election_ns;
}
