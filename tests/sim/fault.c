/* fault.c - what goes wrong, and when.
 *
 * Kinds of fault, of which a seed enables some:
 *
 *  1 messages lost, to 30 %               15 writes lost with a crash
 *  2 messages doubled, to 50 %            16 a write torn by a crash
 *  3 overtaken by later ones              17 a synced write lost after all (the disk lied)
 *  4 late, by a constant and by chance    18 a disk lost whole: then it is another replica
 *  5 bits flipped on the way              19 a slow disk
 *  6 delivered to the wrong node          20 a disk that hangs
 *  7 the nodes cut into halves            21 a full disk
 *  8 one node cut off                     22 a disk that fails for good
 *  9 links cut one way                    23 reads of the log or a snapshot that fail
 * 10 all cut but for one bridge           24 clocks that drift, to 500 ppm each way
 * 11 clogged links                        25 clocks that jump
 * 12 a process crashes, or the leader     26 processes of two builds, changed at restarts
 * 13 all crash at once                    27 allocations that fail
 * 14 a process pauses                     28 bits that rot where the log ends
 * 29 all crash at once but one            34 a leader cut off while its state
 * 30 a piece of a snapshot written late      machine hangs, or its disk
 * 31 replicas that take no snapshots      35 all gone but one that a leader's log
 * 32 commit indexes not remembered           does not reach any more (starve.c)
 * 33 few sessions for many clients        36 clocks that differ by a tenth
 * 37 groups closed and opened again
 *
 * One world in ten runs its cores 200 times as fast, with an election timeout below a
 * millisecond; one in 128 has 40 groups, which sleep.
 *
 * And with each crash, by store.c: sectors that were not synced are old, new or
 * garbage, in any order; names lag behind their files; recovery is cut short itself.
 *
 * On top of them an administrator moves leadership, changes members and urges
 * elections, all of which are legal at any time. */
#include "sim.h"

#include <string.h>

#include "support/random.h"
#include "wire/wire.h"

enum fault {
    CRASH,
    CRASH_LEADER,
    CRASH_ALL,
    PAUSE,
    SPLIT,
    ONE_WAY,
    ISOLATE,
    BRIDGE,
    MEND,
    CLOG,
    WIPE,
    DISK_SLOW,
    DISK_STALL,
    DISK_FAIL,
    CLOCK_JUMP,
    TRANSFER,
    CONFIGURE,
    CAMPAIGN,
    LOSE_TAIL,
    DISK_FULL,
    LULL,
    FENCE,
    SICKEN,
    STARVE,
    KINDS,
    CUT_OFF = KINDS /* planned only */
};

static struct node *any(struct world *w)
{
    return &w->node[1 + world_random(w, w->nodes)];
}

struct node *leader_of(struct world *w, uint32_t g)
{
    struct node *best = NULL;
    uint64_t term = 0;

    for (uint32_t i = 1; i <= w->nodes; i++) {
        struct vshard_raft_status s = { .size = sizeof s };
        if (!w->node[i].alive || w->node[i].poisoned ||
            vshard_raft_inspect(w->node[i].raft, g + 1, &s) != VSHARD_OK)
            continue;
        if (s.role == VSHARD_RAFT_LEADER && s.term > term) {
            best = &w->node[i];
            term = s.term;
        }
    }
    return best;
}

static void restart_later(struct world *w, struct node *n, uint64_t within)
{
    world_at(w, w->now + MS + world_random(w, within),
             (struct event){ .kind = EV_RESTART, .node = n->id });
}

/* ---- the administrator ---- */

bool admin_ask(struct world *w, struct node *n, struct vshard_raft_event e)
{
    if (w->admin.busy || n == NULL || n->paused_until > w->now)
        return false;
    e.tag = ++w->next_tag;
    w->admin = (struct admin){ e.tag, n->id, 1, (uint32_t)e.group, e.kind, w->now };
    w->tags_open++;
    if (node_event(w, n, e) != VSHARD_OK) {
        w->admin.busy = 0;
        w->tags_open--;
    }
    return true;
}

bool admin_done(struct world *w, const struct vshard_raft_effect *e)
{
    if (!w->admin.busy || w->admin.tag != e->tag)
        return false;
    w->admin.busy = 0;
    w->tags_open--;
    if (w->admin.kind == VSHARD_RAFT_PROMOTE)
        fence_answered(w, e);
    return true;
}

static void configure(struct world *w)
{
    uint32_t g = (uint32_t)world_random(w, w->groups), count = 0, voters = 0;
    struct vshard_raft_member m[NODES_MAX];

    for (uint32_t i = 1; i <= w->nodes; i++) {
        uint32_t role = world_chance(w, 800) ? VSHARD_RAFT_VOTER : VSHARD_RAFT_LEARNER;
        uint32_t left = w->nodes - i;

        if (voters + left < 3)
            role = VSHARD_RAFT_VOTER;
        else if (world_chance(w, 250))
            continue;
        voters += role == VSHARD_RAFT_VOTER;
        m[count++] = (struct vshard_raft_member){ i, w->node[i].incarnation, role,
                                                  (uint32_t)world_random(w, 3) };
    }
    if (voters >= 3)
        admin_ask(w, leader_of(w, g),
                  (struct vshard_raft_event){ .kind = VSHARD_RAFT_CONFIGURE,
                                              .group = g + 1,
                                              .members = m,
                                              .member_count = count });
}

/* Nodes that lost their disks are taken back under their new incarnations. */
void admin_readmit(struct world *w)
{
    bool everywhere = true;

    for (uint32_t g = 0; g < w->groups; g++) {
        struct vshard_raft_status s = { .size = sizeof s };
        struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
        struct node *n = leader_of(w, g);
        uint32_t count, kept = 0;
        bool old = false, joint = false;

        if (n == NULL)
            return;
        vshard_raft_members(n->raft, g + 1, m, &count);
        vshard_raft_inspect(n->raft, g + 1, &s);
        for (uint32_t i = 0; i < count; i++) {
            joint |= (m[i].role & VSHARD_RAFT_OUTGOING) != 0;
            if (m[i].incarnation != w->node[m[i].node].incarnation) {
                m[i].incarnation = w->node[m[i].node].incarnation;
                old = true;
            }
            if (m[i].role != VSHARD_RAFT_OUTGOING)
                m[kept++] = m[i];
        }
        everywhere &= !old && !joint && s.commit == s.last;
        if (old && !joint)
            admin_ask(w, n,
                      (struct vshard_raft_event){ .kind = VSHARD_RAFT_CONFIGURE,
                                                  .group = g + 1,
                                                  .members = m,
                                                  .member_count = kept });
    }
    if (w->wiped_node != 0 && everywhere && w->node[w->wiped_node].alive)
        w->wiped_node = 0;
}

bool uncertain(const struct world *w, const struct node *n)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        if (n->disk[g].uncertain)
            return true;
    }
    return false;
}

/* Only when every copy that is counted on exists, since this loses one of them:
 * no disk is lost or in doubt, and no change of members is under way. */
static bool may_lose(struct world *w)
{
    if (w->wiped_node != 0 || w->fence != 0 || w->admin.busy || w->now < w->wiped_at + 300 * MS)
        return false;
    for (uint32_t i = 1; i <= w->nodes; i++) {
        if (uncertain(w, &w->node[i]))
            return false;
    }
    for (uint32_t g = 0; g < w->groups; g++) {
        struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
        const struct node *n = leader_of(w, g);
        uint32_t count;

        if (n == NULL)
            return false;
        vshard_raft_members(n->raft, g + 1, m, &count);
        for (uint32_t i = 0; i < count; i++) {
            if ((m[i].role & VSHARD_RAFT_OUTGOING) ||
                m[i].incarnation != w->node[m[i].node].incarnation)
                return false;
        }
    }
    return true;
}

/* ---- faults ---- */

static void split(struct world *w)
{
    uint32_t side = (uint32_t)world_random(w, 1u << w->nodes);

    for (uint32_t a = 1; a <= w->nodes; a++) {
        for (uint32_t b = 1; b <= w->nodes; b++)
            w->cut[a][b] = (side >> (a - 1) & 1) != (side >> (b - 1) & 1);
    }
}

static void one_way(struct world *w)
{
    for (uint32_t i = 0; i < w->nodes; i++)
        w->cut[any(w)->id][any(w)->id] ^= 1;
    for (uint32_t i = 1; i <= w->nodes; i++)
        w->cut[i][i] = 0;
}

static void isolate(struct world *w, const struct node *n, bool bridge)
{
    for (uint32_t a = 1; a <= w->nodes; a++) {
        for (uint32_t b = 1; b <= w->nodes; b++)
            w->cut[a][b] = a != b && ((a == n->id || b == n->id) != bridge);
    }
}

/* Strikes n with it later. */
static void plan(struct world *w, uint64_t after, enum fault kind, const struct node *n)
{
    world_at(w, w->now + after,
             (struct event){ .kind = EV_FAULT, .node = n->id, .a = (uint64_t)kind + 1 });
}

/* All but one at times, and then by preference one that is writing a snapshot. */
static void crash_all(struct world *w, const struct node *spared)
{
    bool one = world_chance(w, 500);

    for (uint32_t i = 1; one && i <= w->nodes; i++)
        spared = w->node[i].piece[0].kind != 0 ? &w->node[i] : spared;
    for (uint32_t i = 1; i <= w->nodes; i++) {
        if (one && &w->node[i] == spared)
            continue;
        node_crash(w, &w->node[i]);
        restart_later(w, &w->node[i], (one ? 600 : 300) * MS);
    }
}

/* A leader's state machine hangs, or its disk; then the others lose it; and it is back before
 * that is. */
static void sicken(struct world *w, struct node *lead)
{
    uint64_t until = w->now + (1000 + world_random(w, 3000)) * MS;

    if (world_chance(w, 700))
        lead->busy_until = until;
    else
        lead->stalled_until = until;
    plan(w, world_random(w, 200 * MS), CUT_OFF, lead);
    plan(w, (600 + world_random(w, 1500)) * MS, MEND, lead);
}

static void strike(struct world *w, enum fault kind, struct node *n)
{
    uint32_t g = (uint32_t)world_random(w, w->groups);
    struct node *lead = leader_of(w, g);

    switch (kind) {
    case CRASH_LEADER: n = lead ? lead : n; /* fallthrough */
    case CRASH:
        node_crash(w, n);
        restart_later(w, n, 600 * MS);
        break;
    case CRASH_ALL: crash_all(w, n); break;
    case PAUSE:
        (lead && world_chance(w, 500) ? lead : n)->paused_until =
            w->now + world_random(w, 800 * MS);
        break;
    case SPLIT: split(w); break;
    case ONE_WAY: one_way(w); break;
    case ISOLATE:
        strike(w, CUT_OFF, lead && world_chance(w, 500) ? lead : n);
        for (uint32_t i = 1; i <= w->nodes; i++) { /* and somebody urges others to lead */
            if (world_chance(w, w->scale != 1 ? 800 : 100))
                plan(w, world_random(w, 150 * MS), CAMPAIGN, &w->node[i]);
        }
        break;
    case BRIDGE: isolate(w, n, true); break;
    case MEND: memset(w->cut, 0, sizeof w->cut); break;
    case CLOG: w->clogged[n->id][any(w)->id] = w->now + world_random(w, 1000 * MS); break;
    case WIPE:
        if (may_lose(w)) {
            w->wiped_node = n->id;
            w->wiped_at = w->now;
            node_wipe(w, n);
            restart_later(w, n, 300 * MS);
        }
        break;
    case LOSE_TAIL:
        if (may_lose(w)) {
            w->wiped_at = w->now;
            node_lose_tail(w, n);
            restart_later(w, n, 300 * MS);
        }
        break;
    case DISK_SLOW: n->disk_ns = MS / 10 + world_random(w, 30 * MS); break;
    case DISK_STALL: (lead ? lead : n)->stalled_until = w->now + world_random(w, 2000 * MS); break;
    case DISK_FAIL:
        if (n->alive && !n->poisoned) {
            n->poisoned = 1;
            store_fail(w, n);
            node_event(w, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSIST_FAILED });
            restart_later(w, n, 500 * MS);
            node_crash(w, n);
        }
        break;
    case DISK_FULL:
        n->full_until = w->now + world_random(w, 1500 * MS);
        /* The log itself has some room left or next to none, in one history of 16, since
         * that costs; in the others nothing becomes durable until there is room again. */
        if (n->alive && !n->poisoned && (w->seed & 15) == 6)
            store_full(w, n);
        else if (n->stalled_until < n->full_until)
            n->stalled_until = n->full_until;
        break;
    case CLOCK_JUMP: n->jumped += world_random(w, 1000 * MS); break;
    case TRANSFER:
        admin_ask(w, lead,
                  (struct vshard_raft_event){
                      .kind = VSHARD_RAFT_TRANSFER, .group = g + 1, .node = any(w)->id });
        break;
    case CONFIGURE:
        if (w->wiped_node == 0 && w->fence == 0)
            configure(w);
        break;
    case CAMPAIGN:
        if (n->alive && !n->poisoned && n->paused_until <= w->now)
            node_event(w, n,
                       (struct vshard_raft_event){ .kind = VSHARD_RAFT_CAMPAIGN, .group = g + 1 });
        break;
    case LULL: w->lull_until = w->now + world_random(w, 1500 * MS); break;
    case FENCE:
        if (may_lose(w))
            fence_strike(w, n);
        break;
    case STARVE: starve_strike(w, world_chance(w, 500) && may_lose(w) ? n : NULL); break;
    case SICKEN:
        if (lead)
            sicken(w, lead);
        break;
    case CUT_OFF: isolate(w, n, false); break;
    }
}

/* In one world of three hosts close groups at times, and open them again. That was thought of late,
 * and is drawn apart: all other histories are what they were. */
static void reopen(struct world *w)
{
    uint64_t seed = w->seed;

    if (random_one_in(&seed, 3) && w->fence == 0 && random_one_in(&w->aside, 4)) {
        struct node *n = &w->node[1 + random_below(&w->aside, w->nodes)];

        node_reopen(w, n, (uint32_t)random_below(&w->aside, w->groups));
    }
}

void fault_act(struct world *w, const struct event *e)
{
    enum fault kind = (enum fault)world_random(w, KINDS);

    if (e->a != 0) { /* planned */
        if (!w->healed)
            strike(w, (enum fault)(e->a - 1), &w->node[e->node]);
        return;
    }
    if (w->starving != 0) {
        starve_act(w);
        world_at(w, w->now + 20 * MS, (struct event){ .kind = EV_FAULT });
        return;
    }
    if (w->fence != 0)
        fence_act(w);
    else if (w->wiped_at != 0)
        admin_readmit(w);
    if (w->healed) {
        world_at(w, w->now + 50 * MS, (struct event){ .kind = EV_FAULT });
        return;
    }
    if (w->now >= w->end) {
        fault_heal(w);
    } else if (w->fault_kinds >> kind & 1) {
        strike(w, kind, any(w));
    }
    if (!w->healed)
        reopen(w);
    if (!w->healed && w->idle_ns != 0 && world_chance(w, 80))
        strike(w, LULL, any(w));
    world_at(w, w->now + world_random(w, 2 * w->fault_gap), (struct event){ .kind = EV_FAULT });
}

void fault_heal(struct world *w)
{
    w->healed = 1;
    memset(w->cut, 0, sizeof w->cut);
    memset(w->clogged, 0, sizeof w->clogged);
    w->loss = w->twice = w->slow = w->astray = w->garble = w->unreadable = 0;
    w->delay_ns = MS / 5;
    w->delay_spread = MS;
    w->oom = 0;
    w->slow_pieces = 0;
    for (uint32_t i = 1; i <= w->nodes; i++) {
        struct node *n = &w->node[i];
        n->disk_ns = MS / 2;
        n->stalled_until = n->full_until = n->busy_until = 0;
        n->paused_until = 0;
        for (uint32_t g = 0; g < w->groups; g++)
            piece_written(w, n, g);
        if (!n->alive && !(w->fenced >> i & 1))
            node_start(w, n, true);
    }
}

/* Hosts that are slow, forgetful, or unlike each other, as they may be. */
static void setup_hosts(struct world *w)
{
    w->hoarders = world_chance(w, 300) ? (uint32_t)world_random(w, 2u << w->nodes) : 0;
    w->forgetful = world_chance(w, 300);
    if (w->snapshot_every != 0 && world_chance(w, 120)) {
        struct node *n = any(w); /* drawn by itself: of two arguments either may be first */

        w->forgetful = 1;
        plan(w, (300 + world_random(w, 700)) * MS, STARVE, n);
    }
    if (world_chance(w, 250)) {
        w->slow_pieces = 300 + (uint32_t)world_random(w, 700);
        w->fault_kinds |= 1u << CRASH_ALL;
    }
    if (world_chance(w, 150)) {
        w->max_sessions = 2 + (uint32_t)world_random(w, 2);
        w->clients = 4 + (uint32_t)world_random(w, CLIENTS - 3);
        plan(w, (400 + world_random(w, 800)) * MS, SICKEN, &w->node[1]);
    }
    if (world_chance(w, 100)) {
        w->scale = 200;
        w->delay_ns = MS / 10 + world_random(w, MS / 2);
        w->delay_spread = world_random(w, MS);
        w->fault_kinds |= 1u << ISOLATE;
    }
    if (world_chance(w, w->scale != 1 ? 800 : 50)) {
        w->drift_ppm = 100000;
        for (uint32_t i = 1; i <= w->nodes; i++)
            w->node[i].drift_ppm = (int64_t)world_random(w, 100001) - 50000;
    }
}

/* Many groups, handed to the first node, where they sleep. When another is back that was cut
 * off they wake, and so fall asleep all at once; and they wake again when the first node is cut
 * off. Only then somebody wants something of a few of them. */
static void setup_crowd(struct world *w)
{
    w->loss = w->slow = w->astray = w->garble = w->oom = w->jumps = 0;
    w->delay_spread = world_random(w, 2 * MS);
    w->idle_ns = 30 * MS + world_random(w, 200 * MS);
    w->lull_until = 3000 * MS;
    w->end = w->lull_until + world_random(w, 1000 * MS);
    plan(w, (900 + world_random(w, 100)) * MS, CUT_OFF, &w->node[2]);
    plan(w, 1300 * MS, MEND, &w->node[2]);
    plan(w, (1700 + world_random(w, 300)) * MS, CUT_OFF, &w->node[1]);
    plan(w, 2800 * MS, MEND, &w->node[1]);
}

/* What this seed is made of. */
void fault_setup(struct world *w)
{
    bool rough = world_chance(w, 600);

    w->loss = rough ? (uint32_t)world_random(w, world_chance(w, 300) ? 300 : 60) : 0;
    w->twice = world_chance(w, 500) ? (uint32_t)world_random(w, 500) : 0;
    w->slow = world_chance(w, 400) ? (uint32_t)world_random(w, 60) : 0;
    w->astray = world_chance(w, 200) ? (uint32_t)world_random(w, 50) : 0;
    w->delay_ns = MS / 10 + world_random(w, 4 * MS);
    w->delay_spread = world_random(w, rough ? 15 * MS : 2 * MS);
    w->jumps = world_chance(w, 150);
    w->oom = world_chance(w, 120) ? 1 + (uint32_t)world_random(w, 300) : 0;
    w->bulk = world_chance(w, 150) ? 1 + (uint32_t)world_random(w, 3) : 0;
    w->snapshot_every = world_chance(w, 650) ? 6 + world_random(w, 40) : 0;
    w->idle_ns = world_chance(w, 600) ? 10 * MS + world_random(w, 300 * MS) : 0;
    w->fault_gap = 20 * MS + world_random(w, world_chance(w, 500) ? 100 * MS : 600 * MS);
    w->fault_kinds = (uint32_t)world_random(w, 1u << KINDS) | 1u << MEND;
    if (world_chance(w, 300))
        w->fault_kinds |= (uint32_t)world_random(w, 1u << KINDS);
    if (!w->jumps)
        w->fault_kinds &= ~(1u << CLOCK_JUMP);
    if (world_chance(w, 700))
        w->fault_kinds &= ~(1u << CRASH_ALL);
    w->end = 1000 * MS + world_random(w, 3000 * MS);
    for (uint32_t i = 1; i <= w->nodes; i++) {
        w->node[i].drift_ppm = (int64_t)world_random(w, 1001) - 500;
        w->node[i].disk_ns = MS / 10 + world_random(w, world_chance(w, 300) ? 20 * MS : 2 * MS);
    }
    w->garble = world_chance(w, 250) ? (uint32_t)world_random(w, 80) : 0;
    w->unreadable = world_chance(w, 250) ? (uint32_t)world_random(w, 400) : 0;
    w->sealed = world_chance(w, 100); /* drawn in every build, so that all draw alike */
    w->sealed = w->sealed && vs_seal_has(VS_CIPHER_XCHACHA20);
    w->rolling = world_chance(w, 300) ? 500 : 0;
    for (uint32_t i = 1; i <= w->nodes && w->rolling; i++)
        w->node[i].build = 1 + (uint32_t)world_random(w, 2);
    setup_hosts(w);
    if (w->groups > GROUPS_FEW)
        setup_crowd(w);
    world_at(w, w->lull_until != 0 ? w->lull_until : 200 * MS, (struct event){ .kind = EV_FAULT });
}
