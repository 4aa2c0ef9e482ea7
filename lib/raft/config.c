/* config.c - who votes, and what a quorum of them has reached.
 *
 * A configuration is a list of members, each with role bits, ordered by node and
 * incarnation. While it changes it is joint: VOTER marks the half that is coming,
 * OUTGOING the half that is leaving, and a decision needs a quorum of both
 * (Ongaro 2014, section 4.3). A member that is OUTGOING and LEARNER votes in the
 * old half and will be a learner. Each configuration entry holds the whole list,
 * so any one of them can be restored without its predecessors, and a replica uses
 * the newest in its log, committed or not.
 *
 * Encoded: members (4), bytes of a statement (4), then node, incarnation (8 each),
 * role, priority (4 each) a member, then the statement of the operator who forced it
 * (epoch.c), which the members' business does not depend on. */
#include "raft/core.h"

bool vs_config_joint(const struct vs_config *c)
{
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->member[i].role & VSHARD_RAFT_OUTGOING)
            return true;
    }
    return false;
}

static int order(const struct vshard_raft_member *a, const struct vshard_raft_member *b)
{
    if (a->node != b->node)
        return a->node < b->node ? -1 : 1;
    return a->incarnation < b->incarnation ? -1 : a->incarnation > b->incarnation;
}

int vs_config_find(const struct vs_config *c, uint64_t node, uint64_t incarnation)
{
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->member[i].node == node && (c->member[i].incarnation == incarnation || TRAP(16)))
            return (int)i;
    }
    return -1;
}

int vs_config_node(const struct vs_config *c, uint64_t node)
{
    int at = -1;

    for (uint32_t i = 0; i < c->count; i++) {
        if (c->member[i].node != node)
            continue;
        if (at < 0 || !(c->member[at].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_LEARNER)))
            at = (int)i;
    }
    return at;
}

size_t vs_config_encode(const struct vs_config *c, unsigned char *to)
{
    vs_store32(to, c->count);
    vs_store32(to + 4, 0);
    for (uint32_t i = 0; i < c->count; i++) {
        unsigned char *p = to + 8 + 24 * i;
        vs_store64(p, c->member[i].node);
        vs_store64(p + 8, c->member[i].incarnation);
        vs_store32(p + 16, c->member[i].role);
        vs_store32(p + 20, c->member[i].priority);
    }
    return 8 + 24 * (size_t)c->count;
}

static bool role_valid(uint32_t role)
{
    switch (role) {
    case VSHARD_RAFT_VOTER:
    case VSHARD_RAFT_OUTGOING:
    case VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING:
    case VSHARD_RAFT_LEARNER:
    case VSHARD_RAFT_LEARNER | VSHARD_RAFT_OUTGOING: return true;
    default: return false;
    }
}

int vs_config_decode(struct vs_config *c, const void *from, size_t bytes)
{
    const unsigned char *p = from;
    uint32_t voters = 0;

    memset(c, 0, sizeof *c);
    if (bytes < 8)
        return VSHARD_ECORRUPT;
    c->count = vs_load32(p);
    if (c->count > VSHARD_RAFT_MEMBERS_MAX || vs_load32(p + 4) > VS_WORDS_MAX ||
        bytes != 8 + 24 * (size_t)c->count + vs_load32(p + 4))
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < c->count; i++) {
        struct vshard_raft_member *m = &c->member[i];

        p = (const unsigned char *)from + 8 + 24 * i;
        *m = (struct vshard_raft_member){ vs_load64(p), vs_load64(p + 8), vs_load32(p + 16),
                                          vs_load32(p + 20) };
        if (m->node == 0 || m->incarnation == 0 || !role_valid(m->role) ||
            m->priority > VSHARD_RAFT_NEVER_LEADS || (i > 0 && order(m - 1, m) >= 0))
            return VSHARD_ECORRUPT;
        voters += m->role & VSHARD_RAFT_VOTER;
    }
    return voters != 0 || c->count == 0 ? VSHARD_OK : VSHARD_ECORRUPT;
}

static void insert(struct vs_config *c, const struct vshard_raft_member *m)
{
    uint32_t i = c->count++;

    for (; i > 0 && order(&c->member[i - 1], m) > 0; i--)
        c->member[i] = c->member[i - 1];
    c->member[i] = *m;
}

/* Takes the members wanted, as given by a host, into an ordered list. */
static int read_wanted(const struct vshard_raft_member *want, uint32_t count, struct vs_config *to)
{
    bool led = false;

    memset(to, 0, sizeof *to);
    if (count == 0 || want == NULL)
        return VSHARD_EINVAL;
    if (count > VSHARD_RAFT_MEMBERS_MAX)
        return VSHARD_E2BIG;
    for (uint32_t i = 0; i < count; i++) {
        const struct vshard_raft_member *m = &want[i];

        if (m->node == 0 || m->incarnation == 0 || m->priority > VSHARD_RAFT_NEVER_LEADS ||
            (m->role != VSHARD_RAFT_VOTER && m->role != VSHARD_RAFT_LEARNER) ||
            vs_config_node(to, m->node) >= 0)
            return VSHARD_EINVAL;
        led |= m->role == VSHARD_RAFT_VOTER && m->priority < VSHARD_RAFT_NEVER_LEADS;
        insert(to, m);
    }
    return led ? VSHARD_OK : VSHARD_EINVAL; /* else nobody ever would, after the present leader */
}

/* What a decision needs while `now` gives way to `to`: a quorum of both. */
int vs_config_join(const struct vs_config *now, struct vs_config *to)
{
    struct vs_config joint = *to;

    if (vs_config_joint(now))
        return VSHARD_EBUSY;
    for (uint32_t i = 0; i < now->count; i++) {
        struct vshard_raft_member m = now->member[i];
        int at = vs_config_find(&joint, m.node, m.incarnation);

        if (!(m.role & VSHARD_RAFT_VOTER))
            continue;
        m.role = VSHARD_RAFT_OUTGOING;
        if (at >= 0)
            joint.member[at].role |= VSHARD_RAFT_OUTGOING;
        else if (joint.count < VSHARD_RAFT_MEMBERS_MAX)
            insert(&joint, &m);
        else
            return VSHARD_E2BIG;
    }
    *to = joint;
    return vs_config_joint(to) ? VSHARD_OK : VSHARD_EINVAL;
}

static uint32_t voters_missing(const struct vs_config *from, const struct vs_config *in)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < from->count; i++) {
        const struct vshard_raft_member *m = &from->member[i];
        int at = vs_config_find(in, m->node, m->incarnation);

        count += (m->role & VSHARD_RAFT_VOTER) != 0 &&
                 (at < 0 || in->member[at].role != VSHARD_RAFT_VOTER);
    }
    return count;
}

int vs_config_change(const struct vs_config *now, const struct vshard_raft_member *want,
                     uint32_t count, struct vs_config *to)
{
    int rc = read_wanted(want, count, to);

    if (rc != VSHARD_OK || now == NULL)
        return rc;
    if (now->count == to->count && memcmp(now->member, to->member, sizeof now->member) == 0)
        return VSHARD_EEXIST;
    /* One vote more or less leaves every old and new quorum with a common member;
     * anything else goes through a joint configuration. */
    if (voters_missing(now, to) + voters_missing(to, now) > 1)
        return vs_config_join(now, to);
    return VSHARD_OK;
}

void vs_config_leave(const struct vs_config *joint, struct vs_config *to)
{
    memset(to, 0, sizeof *to);
    for (uint32_t i = 0; i < joint->count; i++) {
        struct vshard_raft_member m = joint->member[i];

        m.role &= ~(uint32_t)VSHARD_RAFT_OUTGOING;
        if (m.role != 0)
            to->member[to->count++] = m;
    }
}

static uint64_t half_reached(const struct vs_config *c, const uint64_t *value, uint32_t role)
{
    uint64_t sorted[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t at = n;

        if (!(c->member[i].role & role))
            continue;
        for (; at > 0 && sorted[at - 1] < value[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = value[i];
        n++;
    }
    return n == 0 ? UINT64_MAX : sorted[n / 2];
}

uint64_t vs_config_reached(const struct vs_config *c, const uint64_t *value)
{
    uint64_t in = half_reached(c, value, VSHARD_RAFT_VOTER);
    uint64_t out = half_reached(c, value, VSHARD_RAFT_OUTGOING);

    return in < out ? in : out;
}

static int half_tally(const struct vs_config *c, const int *vote, uint32_t role)
{
    uint32_t yes = 0, no = 0, all = 0;

    for (uint32_t i = 0; i < c->count; i++) {
        if (!(c->member[i].role & role))
            continue;
        all++;
        yes += vote[i] > 0;
        no += vote[i] < 0;
    }
    if (all == 0 || yes > all / 2)
        return 1;
    return no >= all - all / 2 ? -1 : 0;
}

int vs_config_tally(const struct vs_config *c, const int *vote)
{
    int in = half_tally(c, vote, VSHARD_RAFT_VOTER);
    int out = half_tally(c, vote, VSHARD_RAFT_OUTGOING);

    if (in < 0 || out < 0)
        return -1;
    return in > 0 && out > 0;
}
