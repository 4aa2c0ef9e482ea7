/* lockstep.c - this core and etcd's, through the same random events.
 *
 *     lockstep <oracle> <seed> <events> [-v]
 *
 * Worlds of three to five replicas, WORLD events each: campaigns, proposals, crashes
 * and restarts, links that are cut one way or both, hand-overs, compaction (and so
 * snapshots), members made learners and back. An event is carried out, everything
 * that can be delivered over the links is, then every leader sends its heartbeats,
 * one after the other, twice, and again all is delivered. Then each replica must stand where
 * etcd's stands: up, term, vote, commit, role, leader, last index, configuration
 * applied, and a digest of its log (index, term, kind, bytes of every entry).
 *
 * The two meet at these quiet points because they cannot meet in between: a proposal
 * is one message in etcd and shares one here. What is done so that only the protocol
 * is compared: campaigns are those that a hand-over orders (no pre-vote, no promise to
 * a leader), on both sides; etcd runs with CheckQuorum, in which a replica tells a
 * leader of an older term so, as ours does; no timeout ever passes; and a refusal that
 * would tell a candidate of a newer term is lost, because etcd sends none.
 *
 * What reaches a replica at once is taken by term, the newest first: how far a leader
 * gets with one member before another tells it that it leads no more is a matter of
 * how many messages a thing takes.
 *
 * One thing is not compared everywhere: how soon a member learns of a commit. While
 * appends are under way, a leader here does not send news of one alone, and a member
 * believes a heartbeat only as far as this leader has shown it the log, where etcd's
 * relies on what an earlier process answered. Both are caught up by the next exchange;
 * so the commit index of a member that can at that moment not talk with its leader is
 * printed as "~", and compared again when it can. */
#include "cluster.h"

#include <stdio.h>
#include <stdlib.h>

enum { WORLD = 250, START = 2, LINE = 4096 };

struct event {
    uint64_t kind, a, b, k;
};

static struct cluster desk;
static uint8_t cut[NODES + 1][NODES + 1];
static uint8_t muted[NODES + 1];
static uint64_t dice, written;
static int verbose;

static uint64_t roll(uint64_t below)
{
    uint64_t z = (dice += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static int loses(const struct cluster *c, const struct letter *l)
{
    struct vs_message m;

    if (cut[l->from][l->to])
        return 1;
    /* etcd says nothing to a candidate of an older term. */
    return vs_message_decode(&m, l->bytes, l->count) == VSHARD_OK && m.kind == VS_VOTE_REPLY &&
           (m.flags & VS_FLAG_REJECT) && m.term > c->node[l->to].g->term;
}

static void settle(void)
{
    int busy = 1;

    while (busy) {
        busy = 0;
        for (uint64_t i = 1; i <= desk.count; i++) {
            if (!replica_has_ready(&desk.node[i]))
                continue;
            replica_ready(&desk, &desk.node[i]);
            busy = 1;
        }
        for (uint64_t i = 1; i <= desk.count; i++)
            busy |= cluster_deliver(&desk, i, 1) != 0;
    }
}

static void links(const struct event *e)
{
    uint64_t n = desk.count;

    memset(cut, 0, sizeof cut);
    for (uint64_t i = 1; i <= n; i++) {
        for (uint64_t k = 1; k <= n; k++) {
            uint64_t one_way = roll(5);
            if ((e->a + e->b) % 2 == 0)
                continue;
            if (e->k == 1)
                cut[i][k] = one_way == 0;
            else if (e->k == 2)
                cut[i][k] = i == e->a || k == e->a;
            else if (e->k == 3)
                cut[i][k] = (e->b >> i & 1) != (e->b >> k & 1);
            cut[i][i] = 0;
        }
    }
}

static int whole(void)
{
    for (uint64_t i = 1; i <= desk.count; i++) {
        if (desk.node[i].raft == NULL)
            return 0;
        for (uint64_t k = 1; k <= desk.count; k++) {
            if (cut[i][k])
                return 0;
        }
    }
    return 1;
}

static void propose(struct replica *n, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        unsigned char data[8];
        struct vshard_raft_entry x = { .kind = VSHARD_RAFT_DATA, .data = data, .count = 8 };

        vs_store64(data, ++written);
        replica_step(&desk, n,
                     (struct vshard_raft_event){
                         .kind = VSHARD_RAFT_PROPOSE, .entries = &x, .entry_count = 1 });
    }
}

/* Voters `a` and, if k says so, `b` become learners, or learners voters; not the leader,
 * and three voters stay. */
static void members(struct replica *n, const struct event *e)
{
    struct vs_config c = *vs_config_now(n->g);
    uint64_t who[2] = { e->a, e->k ? e->b : e->a };
    uint32_t voters = 0;

    for (int i = 0; i < 1 + (who[0] != who[1]); i++) {
        if (who[i] == n->id)
            continue;
        c.member[who[i] - 1].role ^= VSHARD_RAFT_VOTER | VSHARD_RAFT_LEARNER;
    }
    for (uint32_t i = 0; i < c.count; i++)
        voters += c.member[i].role == VSHARD_RAFT_VOTER;
    if (voters >= 2)
        replica_step(&desk, n,
                     (struct vshard_raft_event){ .kind = VSHARD_RAFT_CONFIGURE,
                                                 .members = c.member,
                                                 .member_count = c.count });
}

static struct replica *leader(void)
{
    struct replica *best = NULL;

    for (uint64_t i = 1; i <= desk.count; i++) {
        struct replica *n = &desk.node[i];
        if (n->raft != NULL && n->g->role == VSHARD_RAFT_LEADER &&
            (best == NULL || n->g->term > best->g->term))
            best = n;
    }
    return best;
}

static void act(const struct event *e)
{
    struct replica *n = &desk.node[e->a], *lead = leader();
    int up = n->raft != NULL;
    int leads = up && n->g->role == VSHARD_RAFT_LEADER;

    if (e->kind < 14) {
        links(e);
    } else if (e->kind < 32) {
        if (up && n->g->role == VSHARD_RAFT_FOLLOWER && vs_can_campaign(n->raft, n->g))
            replica_campaign(&desk, n);
    } else if (e->kind < 64) {
        if (leads)
            propose(n, 1 + e->k);
        else if (lead != NULL)
            propose(lead, 1 + e->k);
    } else if (e->kind < 69) {
        if (up)
            replica_crash(&desk, e->a);
    } else if (e->kind < 86) {
        if (up && n->g->role == VSHARD_RAFT_CANDIDATE)
            replica_crash(&desk, e->a);
        if (n->raft == NULL)
            replica_restart(&desk, e->a);
    } else if (e->kind < 91) {
        if (leads && e->b != e->a && desk.node[e->b].raft != NULL && !cut[e->a][e->b] &&
            !cut[e->b][e->a] && vs_can_campaign(desk.node[e->b].raft, desk.node[e->b].g))
            replica_step(&desk, n,
                         (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .node = e->b });
    } else if (e->kind < 96) {
        if (up)
            replica_compact(&desk, n, e->k);
    } else if (whole() && lead != NULL) {
        members(lead, e);
    }
}

static void world(uint64_t seed)
{
    struct vshard_raft_member m[NODES];
    uint32_t count;

    cluster_free(&desk);
    memset(cut, 0, sizeof cut);
    memset(muted, 0, sizeof muted);
    dice = seed;
    written = 0;
    count = 3 + (uint32_t)roll(3);
    for (uint32_t i = 0; i < count; i++)
        m[i] = (struct vshard_raft_member){ i + 1, 1, VSHARD_RAFT_VOTER, 0 };
    for (uint32_t i = 1; i <= count; i++)
        replica_start(&desk, i, m, count, START);
}

/* Whose leader is gone or cannot be talked with may have heard of other commits than
 * etcd's replica: see this file's opening. */
static void mute(void)
{
    for (uint64_t i = 1; i <= desk.count; i++) {
        const struct replica *n = &desk.node[i];
        uint64_t lead = n->raft ? n->g->leader : 0;
        const struct replica *l = &desk.node[lead];

        if (lead == 0)
            continue;
        muted[i] = lead != i && (l->raft == NULL || l->g->role != VSHARD_RAFT_LEADER ||
                                 l->g->term != n->g->term || cut[i][lead] || cut[lead][i]);
    }
}

static void one_event(void)
{
    uint64_t n = desk.count;
    struct event e = { .kind = roll(100) };

    e.a = 1 + roll(n);
    e.b = 1 + roll(n);
    e.k = roll(4);
    if (e.kind < 14 && e.k == 3)
        e.b = roll(64);
    if (verbose)
        printf("event %llu a %llu b %llu k %llu\n", (unsigned long long)e.kind,
               (unsigned long long)e.a, (unsigned long long)e.b, (unsigned long long)e.k);
    act(&e);
    settle();
    for (uint64_t i = 0; i < 2 * n; i++) {
        if (desk.node[1 + i % n].raft == NULL)
            continue;
        replica_beat(&desk, &desk.node[1 + i % n]);
        settle();
    }
    mute();
}

static char *roles(char *to, const struct vs_config *c)
{
    for (uint32_t i = 0; i < c->count; i++)
        *to++ = c->member[i].role == VSHARD_RAFT_VOTER     ? 'v'
                : c->member[i].role == VSHARD_RAFT_LEARNER ? 'l'
                                                           : 'j';
    *to = 0;
    return to;
}

/* One line of all replicas, as oracle.go writes it. */
static void describe(char *to)
{
    static const int role[] = { 0, 3, 1, 2 };

    for (uint64_t i = 1; i <= desk.count; i++) {
        const struct replica *n = &desk.node[i];

        if (n->raft == NULL) {
            to += sprintf(to, "%llu down; ", (unsigned long long)i);
            continue;
        }
        to += sprintf(to, "%llu %llu %llu %d %llu %llu %016llx ", (unsigned long long)i,
                      (unsigned long long)n->g->term, (unsigned long long)n->g->vote,
                      role[n->g->role], (unsigned long long)n->g->leader,
                      (unsigned long long)n->g->log.last, (unsigned long long)replica_chain(n));
        if (muted[i]) {
            to += sprintf(to, "~");
        } else {
            to += sprintf(to, "%llu ", (unsigned long long)n->g->commit);
            to = roles(to, replica_config(n));
        }
        to += sprintf(to, "; ");
    }
}

struct sum {
    uint64_t events, worlds, entries;
};

static uint64_t elections, installs; /* leaders that were not; snapshots taken over */

static void watch(void)
{
    static uint64_t term[NODES + 1], base[NODES + 1];

    for (uint64_t i = 1; i <= desk.count; i++) {
        const struct replica *n = &desk.node[i];
        int leads = n->raft != NULL && n->g->role == VSHARD_RAFT_LEADER;

        elections += leads && n->g->term != term[i];
        term[i] = leads ? n->g->term : 0;
        installs += n->installs > base[i] ? n->installs - base[i] : 0;
        base[i] = n->installs;
    }
}

static void tell(const struct sum *s)
{
    printf("lockstep: %llu events in %llu worlds agree with etcd: %llu elections won, %llu entries "
           "committed, %llu snapshots installed\n",
           (unsigned long long)s->events, (unsigned long long)s->worlds,
           (unsigned long long)elections, (unsigned long long)s->entries,
           (unsigned long long)installs);
}

int main(int argc, char **argv)
{
    static char ours[LINE], theirs[LINE];
    uint64_t seed, events;
    struct sum sum = { 0 };
    FILE *oracle;

    if (argc < 4) {
        fprintf(stderr, "usage: lockstep <oracle> <seed> <events> [-v]\n");
        return 2;
    }
    verbose = argc > 4 && strcmp(argv[4], "-v") == 0;
    seed = strtoull(argv[2], NULL, 10);
    events = strtoull(argv[3], NULL, 10);
    snprintf(ours, sizeof ours, "'%s' lockstep %llu %llu", argv[1], (unsigned long long)seed,
             (unsigned long long)events);
    oracle = popen(ours, "r");
    cluster_loses = loses;
    for (uint64_t i = 0; i < events; i++) {
        if (i % WORLD == 0) {
            world(seed + i / WORLD);
            sum.worlds++;
        }
        one_event();
        watch();
        describe(ours);
        if (oracle == NULL || fgets(theirs, sizeof theirs, oracle) == NULL) {
            fprintf(stderr, "lockstep: the oracle fell silent\n");
            return 1;
        }
        theirs[strcspn(theirs, "\n")] = 0;
        if (verbose)
            printf("%llu ours %s\n", (unsigned long long)(i % WORLD), ours);
        if (strcmp(ours, theirs) != 0) {
            printf("FAILED seed %llu, event %llu\nours %s\netcd %s\n",
                   (unsigned long long)(seed + i / WORLD), (unsigned long long)(i % WORLD), ours,
                   theirs);
            printf("replay: %s %s %llu %llu -v\n", argv[0], argv[1],
                   (unsigned long long)(seed + i / WORLD), (unsigned long long)(i % WORLD + 1));
            return 1;
        }
        sum.events++;
        if (i % WORLD == WORLD - 1 && leader() != NULL)
            sum.entries += leader()->g->commit - START;
    }
    pclose(oracle);
    cluster_free(&desk);
    tell(&sum);
    return 0;
}
