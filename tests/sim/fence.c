/* fence.c - a quorum lost for good, and what an operator does then.
 *
 * All members but one are taken down, and stay down: they are fenced. The one kept
 * holds everything that was applied anywhere, so that all that was promised must
 * hold across the promotion. It is promoted when it has heard nobody for long
 * enough; asked before, it must refuse. Then the others come back, some without
 * their disks, some as they were, with logs that may have parted from the new one.
 * Until such a one has met the new epoch it cannot reach the others of its kind:
 * that is what the fence is. It must then refuse the old epoch; and it follows, or
 * stops and is wiped. In the end all are members again.
 *
 * The one kept may also lack what was committed (starve.c). That is lost then, and no check
 * holds anybody to it: what parts from it, as of the promotion, is another past. */
#include "sim.h"

#include <string.h>

enum { NONE = 0, FENCED = 1, RETURNING = 2, PATIENCE = 1000 };

bool fence_between(const struct world *w, uint32_t a, uint32_t b)
{
    return ((w->apart >> a | w->apart >> b) & 1) || (w->fenced >> a & w->fenced >> b & 1);
}

static bool holds_everything(const struct world *w, const struct node *n)
{
    const struct group_truth *t = &w->truth[0];
    struct vshard_raft_status s = { .size = sizeof s };

    if (!n->alive || n->poisoned || n->disk[0].uncertain ||
        vshard_raft_inspect(n->raft, 1, &s) != VSHARD_OK || s.durable < t->count)
        return false;
    for (uint64_t i = s.first; i <= t->count; i++) {
        if (vshard_raft_term(n->raft, 1, i) != t->committed[i - 1].term)
            return false;
    }
    return true;
}

static uint32_t config_of(const struct node *n, struct vshard_raft_member *m)
{
    uint32_t count = 0;

    vshard_raft_members(n->raft, 1, m, &count);
    return count;
}

/* Is it a voter of whole members, so that it may be all that remains? */
bool fence_may_keep(const struct world *w, const struct node *keep)
{
    struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t count, voter = 0, voters = 0;

    if (w->groups != 1 || w->fence != NONE || w->admin.busy || !keep->alive || keep->poisoned ||
        keep->disk[0].uncertain)
        return false;
    count = config_of(keep, m);
    for (uint32_t i = 0; i < count; i++) {
        if ((m[i].role & VSHARD_RAFT_OUTGOING) ||
            m[i].incarnation != w->node[m[i].node].incarnation)
            return false;
        voter |= m[i].node == keep->id && m[i].role == VSHARD_RAFT_VOTER;
        voters += m[i].role == VSHARD_RAFT_VOTER;
    }
    return voter && voters >= 3;
}

void fence_falls(struct world *w, const struct node *late)
{
    w->fence = FENCED;
    w->fence_at = w->now;
    w->apart = late ? 1u << late->id | 1u << w->survivor : 0;
    if (late != NULL && w->end < w->now + 3 * PATIENCE * MS) /* its host goes on being slow */
        w->end = w->now + 3 * PATIENCE * MS;
    for (uint32_t i = 1; i <= w->nodes; i++) {
        if (i == w->survivor)
            continue;
        w->fenced |= 1u << i;
        if (&w->node[i] != late)
            node_crash(w, &w->node[i]);
    }
}

void fence_strike(struct world *w, struct node *keep)
{
    if (!fence_may_keep(w, keep) || !holds_everything(w, keep))
        return;
    w->survivor = keep->id;
    fence_falls(w, NULL);
}

/* Those whom the operator names must have been silent when the promotion was taken. It is
 * answered when it is durable, and frames from before they were taken down may come until then.
 * One that the survivor's configuration leaves out is no voter, and need not be silent. */
static void check_silence(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++) {
        uint64_t heard = w->node[w->survivor].heard[i];

        if (!w->jumps && (w->named >> i & 1) && heard != 0 &&
            w->now < heard + 890 * MS - 890 * MS / 1000000 * w->drift_ppm)
            fail(w, "n%u is promoted %llu ns after n%u was heard", w->survivor,
                 (unsigned long long)(w->now - heard), i);
    }
}

static void promote(struct world *w)
{
    struct node *n = &w->node[w->survivor];
    struct vshard_raft_status s = { .size = sizeof s };
    struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
    struct vshard_raft_event e = {
        .kind = VSHARD_RAFT_PROMOTE, .group = 1, .members = m, .bytes = "by hand", .byte_count = 7
    };
    uint64_t epoch;

    if (!n->alive || n->poisoned || n->paused_until > w->now)
        return;
    e.member_count = config_of(n, m);
    w->named = 0;
    for (uint32_t i = 0; i < e.member_count; i++) {
        m[i].role = m[i].node == n->id ? VSHARD_RAFT_VOTER : VSHARD_RAFT_FENCED;
        w->named |= m[i].node == n->id ? 0 : 1u << m[i].node;
    }
    vshard_raft_inspect(n->raft, 1, &s);
    e.barrier = ++w->drawn;
    e.index = s.last;
    e.offset = s.last_term;
    epoch = s.epoch;
    admin_ask(w, n, e);
    if (vshard_raft_inspect(n->raft, 1, &s) == VSHARD_OK && s.epoch != epoch)
        check_silence(w);
}

/* The operator's call has been answered. */
void fence_answered(struct world *w, const struct vshard_raft_effect *e)
{
    if (e->status == VSHARD_EBUSY || e->status == VSHARD_EUNKNOWN || e->status == VSHARD_EEXIST)
        return;
    if (e->status != VSHARD_OK)
        fail(w, "a promotion with all its evidence is refused: %s", vshard_strerror(e->status));
}

/* Also where the answer was lost: a crash may have come between. */
static bool promoted(struct world *w)
{
    struct vshard_raft_status s = { .size = sizeof s };
    const struct node *n = &w->node[w->survivor];

    if (!n->alive || n->poisoned || vshard_raft_inspect(n->raft, 1, &s) != VSHARD_OK ||
        s.epoch == w->epoch || s.superseded || s.durable != s.last)
        return false;
    w->epoch = s.epoch;
    w->promotions++;
    w->fence = RETURNING;
    w->apart = 0;
    return true;
}

/* Of another incarnation, and so nobody's voter, it may talk to anybody. One that has stored
 * nothing but is named in the old configuration is a voter like the others. */
static void return_wiped(struct world *w, struct node *n)
{
    node_wipe(w, n);
    w->fenced &= ~(1u << n->id);
}

/* Those that are down come back; those that have met the epoch and will not forget it may talk to
 * anybody. */
static void bring_back(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++) {
        struct node *n = &w->node[i];
        struct vshard_raft_status s = { .size = sizeof s };

        /* One that is no voter by its own lights asks nobody, and meets no epoch. */
        if (n->parted || (n->alive && (w->fenced >> i & 1) && w->now > w->fence_at + 6000 * MS)) {
            w->parted += n->parted;
            return_wiped(w, n);
            n->parted = 0;
        }
        if (!n->alive && world_chance(w, 200)) {
            if ((w->fenced >> i & 1) && n->disk[0].exists && world_chance(w, 300))
                return_wiped(w, n);
            node_start(w, n, false);
        }
        if (!n->alive || vshard_raft_inspect(n->raft, 1, &s) != VSHARD_OK)
            continue;
        if ((w->fenced >> i & 1) && s.epoch == w->epoch && s.term_durable) {
            w->fenced &= ~(1u << i);
            w->met += s.superseded;
        }
    }
}

/* Members again: first as learners, since an old log may turn out to have parted. */
static void readmit(struct world *w, struct node *lead)
{
    struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX], want[NODES_MAX];
    struct vshard_raft_status ours = { .size = sizeof ours };
    uint32_t count = config_of(lead, m), voters = 0, kept = 0;
    bool change = false;

    vshard_raft_inspect(lead->raft, 1, &ours);
    for (uint32_t i = 1; i <= w->nodes; i++) {
        struct vshard_raft_status s = { .size = sizeof s };
        const struct node *n = &w->node[i];
        uint32_t role = 0;

        for (uint32_t k = 0; k < count; k++) {
            if (m[k].node == i && m[k].incarnation == n->incarnation)
                role = m[k].role;
            change |= m[k].node == i && m[k].incarnation != n->incarnation;
        }
        if (role == 0 && (w->fenced >> i & 1))
            continue;
        if (n->alive && role == VSHARD_RAFT_LEARNER && !n->parted &&
            vshard_raft_inspect(n->raft, 1, &s) == VSHARD_OK && s.term == ours.term &&
            !s.superseded && s.last == ours.last && s.commit == ours.commit) {
            role = VSHARD_RAFT_VOTER;
            change = true;
        }
        change |= role == 0;
        voters += role == VSHARD_RAFT_VOTER;
        want[kept++] =
            (struct vshard_raft_member){ i, n->incarnation, role ? role : VSHARD_RAFT_LEARNER, 0 };
    }
    if (change)
        admin_ask(
            w, lead,
            (struct vshard_raft_event){
                .kind = VSHARD_RAFT_CONFIGURE, .group = 1, .members = want, .member_count = kept });
    else if (voters == w->nodes && w->fenced == 0)
        w->fence = NONE;
}

void fence_act(struct world *w)
{
    struct node *lead;

    if (w->fence == FENCED && !promoted(w)) {
        /* Too early at times, which must be refused. */
        if (w->now >= w->fence_at + PATIENCE * MS || world_chance(w, 100))
            promote(w);
    } else if (w->fence == RETURNING) {
        bring_back(w);
        lead = leader_of(w, 0);
        if (lead != NULL)
            readmit(w, lead);
    }
}
