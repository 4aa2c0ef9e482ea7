/* starve.c - a replica that its leader's log does not reach any more, at a bad moment.
 *
 * One replica, the late one, is cut off until the leader has compacted what it lacks, and
 * is let back. Its host is slow to write the leader's snapshot, and meanwhile the others
 * go down. They come back, the leader last, and have compacted nothing: so whoever leads
 * then has the entries themselves for the late one, and some behind them.
 *
 * Or a second replica was starved with it. That is all that remains (fence.c), and it is
 * promoted with a log that lacks what was committed: so a replica of the old epoch meets
 * the new one with a snapshot of entries that this never had. */
#include "sim.h"

enum { NONE = 0, STARVING = 1, WRITING = 2 };

bool starve_delays(const struct world *w, const struct node *n)
{
    return w->starving == WRITING && n->id == w->late;
}

static bool is_up(const struct node *n)
{
    return n->alive && !n->poisoned && !n->disk[0].uncertain;
}

/* A member beside the leader and the one kept, if any, without which the others are a quorum. */
static bool find_late(struct world *w, const struct node *lead, uint32_t keep)
{
    struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t count = 0, voters = 0, least = UINT32_MAX;

    vshard_raft_members(lead->raft, 1, m, &count);
    for (uint32_t i = 0; i < count; i++) {
        voters += m[i].role == VSHARD_RAFT_VOTER;
        if (m[i].role & VSHARD_RAFT_OUTGOING || m[i].incarnation != w->node[m[i].node].incarnation)
            return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t without = (m[i].role == VSHARD_RAFT_VOTER ? 1u : 0u) + (keep ? 1u : 0u);
        uint32_t draw = (uint32_t)world_random(w, 1000);

        if (m[i].node != lead->id && m[i].node != keep && is_up(&w->node[m[i].node]) &&
            2 * (voters - without) > voters && draw < least) {
            w->late = (uint32_t)m[i].node;
            least = draw;
        }
    }
    return least != UINT32_MAX;
}

void starve_strike(struct world *w, const struct node *keep)
{
    const struct node *lead = leader_of(w, 0);

    if (w->starving != NONE || w->fence != 0 || lead == NULL || lead == keep || !is_up(lead) ||
        (keep != NULL && !fence_may_keep(w, keep)) || !find_late(w, lead, keep ? keep->id : 0))
        return;
    w->starving = STARVING;
    w->starved_at = w->now;
    w->survivor = keep ? keep->id : 0;
    w->apart = 1u << w->late | (keep ? 1u << keep->id : 0);
    w->hoarders = ~(1u << lead->id);
    if (w->end < w->now + 1500 * MS)
        w->end = w->now + 1500 * MS;
}

static void end_of(struct world *w)
{
    w->starving = NONE;
    w->apart = 0;
}

/* They come back, the leader last. */
static void others_fall(struct world *w, const struct node *lead)
{
    for (uint32_t i = 1; i <= w->nodes; i++) {
        uint64_t after = (&w->node[i] == lead ? 400 + world_random(w, 600) : 0) * MS;

        if (i == w->late || !w->node[i].alive)
            continue;
        node_crash(w, &w->node[i]);
        world_at(w, w->now + after + world_random(w, 50 * MS),
                 (struct event){ .kind = EV_RESTART, .node = i });
    }
}

void starve_act(struct world *w)
{
    const struct node *keep = w->survivor ? &w->node[w->survivor] : NULL;
    const struct node *late = &w->node[w->late], *lead = leader_of(w, 0);
    struct vshard_raft_status k = { .size = sizeof k }, l = k, s = k;

    if (w->now > w->starved_at + 3000 * MS) {
        end_of(w);
        return;
    }
    if (lead == NULL || !is_up(late) || (keep != NULL && !is_up(keep)))
        return;
    vshard_raft_inspect(lead->raft, 1, &s);
    vshard_raft_inspect(late->raft, 1, &l);
    if (keep != NULL)
        vshard_raft_inspect(keep->raft, 1, &k);
    if (w->starving == STARVING && s.snapshot > k.last && s.first > l.last + 1) {
        w->starving = WRITING;
        w->apart &= ~(1u << w->late);
    } else if (w->starving == WRITING && late->piece[0].kind != 0 && late->piece[0].b > k.last) {
        end_of(w);
        if (keep != NULL)
            fence_falls(w, late);
        else
            others_fall(w, lead);
    }
}
