/* self.c - checks that cannot fail are worth nothing.
 *
 * Each case runs a healthy cluster for a while, then makes one thing untrue: what the
 * checks know, what a replica holds, what a client was told. The check that is meant
 * for it must say so, and say what it is about. A case runs in a process of its own,
 * because a check that fails ends it. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct node *leader(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++) {
        if (w->node[i].alive && w->node[i].seen_role[0] == VSHARD_RAFT_LEADER)
            return &w->node[i];
    }
    fail(w, "the case has no leader");
}

/* Makes the next check of n see it become leader. */
static void again(struct world *w, struct node *n)
{
    n->seen_role[0] = VSHARD_RAFT_FOLLOWER;
    check_node(w, n);
}

static void two_leaders(struct world *w)
{
    struct node *n = leader(w);

    n->id = n->id % w->nodes + 1; /* it is another that leads */
    again(w, n);
}

static void two_incarnations(struct world *w)
{
    struct node *n = leader(w);

    n->incarnation += 100; /* it has lost its disk since */
    again(w, n);
}

/* Another is elected at once, in a term of its own. */
static void early_leader(struct world *w)
{
    struct node *n = leader(w), *o = &w->node[n->id % 3 + 1];

    check_elected(w, o, 0, o->seen_term[0] + 1);
}

static void incomplete_leader(struct world *w)
{
    w->truth[0].committed[w->truth[0].count - 1].term += 100;
    w->truth[0].committed[w->truth[0].count - 1].decided = 0;
    again(w, leader(w));
}

static struct vshard_raft_entry last_entry(struct world *w, struct node *n)
{
    const struct disk_group *d = &n->disk[0];

    if (d->count == 0)
        fail(w, "the case has no entry");
    return d->entry[d->count - 1];
}

static void other_entry(struct world *w)
{
    struct node *n = leader(w);
    struct vshard_raft_entry e = last_entry(w, n);

    e.session += 1;
    check_persist(w, n, 0,
                  &(struct vshard_raft_effect){ .entries = &e, .entry_count = 1, .term = e.term });
}

static void other_past(struct world *w)
{
    struct node *n = leader(w);
    struct vshard_raft_entry e = last_entry(w, n);

    w->truth[0].record[e.index].variant[0].before += 1;
    w->truth[0].record[e.index].variant[0].term = e.term;
    check_persist(w, n, 0,
                  &(struct vshard_raft_effect){ .entries = &e, .entry_count = 1, .term = e.term });
}

static void other_applied(struct world *w)
{
    for (size_t i = 0; i < w->truth[0].count; i++)
        w->truth[0].committed[i].hash ^= 1;
    node_crash(w, &w->node[1]);
    node_start(w, &w->node[1], true);
    sim_peace(w);
}

static void other_state(struct world *w)
{
    w->node[1].machine[0].hash ^= 1;
    sim_peace(w);
}

static void gap(struct world *w)
{
    w->node[1].machine[0].applied += 1;
    sim_peace(w);
}

static void few_disks(struct world *w)
{
    struct node *n = leader(w);

    for (uint32_t i = 1; i <= w->nodes; i++) {
        if (i != n->id)
            w->node[i].disk[0].count = 0;
    }
    n->seen_commit[0]--;
    check_node(w, n);
}

static void term_back(struct world *w)
{
    leader(w)->seen_term[0] += 1;
    check_node(w, leader(w));
}

static void commit_back(struct world *w)
{
    leader(w)->seen_commit[0] += 1;
    check_node(w, leader(w));
}

/* Runs until some client waits for an operation of this kind (and mode), and returns it. */
static struct client *waiting(struct world *w, uint32_t kind, uint32_t mode)
{
    for (int steps = 0; steps < 1000000; steps++) {
        for (uint32_t i = 0; i < CLIENTS; i++) {
            struct client *c = &w->client[i];
            if (c->waiting && c->kind == kind && (kind != OP_READ || c->mode == mode))
                return c;
        }
        world_step(w);
    }
    fail(w, "the case waits in vain");
}

static void old_read(struct world *w)
{
    waiting(w, OP_READ, VSHARD_RAFT_READ_INDEX)->floor = UINT64_MAX;
    sim_peace(w);
}

static void old_lease_read(struct world *w)
{
    waiting(w, OP_READ, VSHARD_RAFT_READ_LEASE)->floor = UINT64_MAX;
    sim_peace(w);
}

/* The answer says that it is fresh, and it is as old as the log. */
static void too_stale(struct world *w)
{
    struct client *c = waiting(w, OP_READ, VSHARD_RAFT_READ_STALE);
    struct vshard_raft_effect e = {
        .kind = VSHARD_RAFT_DONE, .tag = c->tag, .index = 1, .age_ns = MS, .group = 1
    };

    w->now += 100 * MS;
    client_done(w, leader(w), &e);
}

static void read_ahead(struct world *w)
{
    struct client *c = waiting(w, OP_READ, VSHARD_RAFT_READ_STALE);
    struct vshard_raft_effect e = {
        .kind = VSHARD_RAFT_DONE, .tag = c->tag, .index = UINT64_MAX / 2, .group = 1
    };

    client_done(w, leader(w), &e);
}

static void twice(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++)
        w->node[i].machine[0].last_op[0] += 50;
    sim_peace(w);
}

static void lost_write(struct world *w)
{
    sim_peace(w);
    w->client[0].acked_op = w->client[0].op + 1;
    client_check(w);
}

static void phantom_write(struct world *w)
{
    struct client *c = waiting(w, OP_WRITE, 0);
    struct vshard_raft_effect e = {
        .kind = VSHARD_RAFT_DONE, .tag = c->tag, .index = 1, .group = 1
    };

    client_done(w, leader(w), &e);
}

/* A client that waits for a write hears of it, and the log has it as it is made here. */
static void hear(struct world *w, uint32_t flags, int32_t status)
{
    struct client *c = waiting(w, OP_WRITE, 0);
    struct group_truth *t = &w->truth[0];
    struct vshard_raft_effect e = {
        .kind = VSHARD_RAFT_DONE, .tag = c->tag, .index = t->count, .group = 1, .status = status
    };

    t->committed[t->count - 1].client = c->id;
    t->committed[t->count - 1].op = (uint32_t)c->op;
    t->committed[t->count - 1].flags = flags;
    client_done(w, leader(w), &e);
}

static void expired_and_applied(struct world *w)
{
    hear(w, 0, VSHARD_ESTALE);
}

static void done_and_expired(struct world *w)
{
    hear(w, VSHARD_RAFT_EXPIRED, VSHARD_OK);
}

static void forgotten_session(struct world *w)
{
    w->truth[0].known_count = 0;
    sim_peace(w);
}

static void stale_history(struct world *w)
{
    sim_peace(w);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct client *c = &w->client[i];
        for (size_t k = c->history_count; k-- > 0;) {
            if (!c->history[k].write && c->history[k].ret != NEVER && c->history[k].value != 0) {
                c->history[k].value = 0;
                client_check(w);
            }
        }
    }
}

static void told_too_much(struct world *w)
{
    sim_peace(w);
    w->truth[0].floor = w->truth[0].count + 1;
    check_converged(w);
}

static void no_quorum(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++)
        memset(w->cut[i], 1, sizeof w->cut[i]);
    sim_peace(w);
}

static void unanswered(struct world *w)
{
    w->tags_open++;
    sim_peace(w);
}

static void leak(struct world *w)
{
    w->live_blocks++;
    world_free(w);
}

static void nobody_asked(struct world *w)
{
    waiting(w, OP_WRITE, 0)->tag += 1000000;
    sim_peace(w);
}

/* A flipped bit that the frame does not show: the event says so, the frame is whole. */
static void bits_unseen(struct world *w)
{
    for (size_t i = 0; i < w->queue_count; i++) {
        if (w->queue[i].kind == EV_DELIVER)
            w->queue[i].b = 1;
    }
    sim_peace(w);
}

static const struct {
    const char *name;
    void (*spoil)(struct world *w);
    const char *says;
} cases[] = {
    { "election safety", two_leaders, "election safety:" },
    { "one incarnation leads a term", two_incarnations, "election safety:" },
    { "nobody is elected beside a lease", early_leader, "lease: n" },
    { "leader completeness", incomplete_leader, "leader completeness:" },
    { "log matching, the entry", other_entry, "log matching: n" },
    { "log matching, its past", other_past, "after another past" },
    { "state-machine safety", other_applied, "state-machine safety:" },
    { "equal states", other_state, "another state" },
    { "entries in order", gap, "was handed entry" },
    { "committed is durable", few_disks, "disks" },
    { "terms rise", term_back, "falls back to term" },
    { "commit indexes rise", commit_back, "takes its commit index back" },
    { "reads see what was acknowledged", old_read, "read (mode 0)" },
    { "reads under a lease do", old_lease_read, "read (mode 1)" },
    { "the bound of a stale read", too_stale, "stale read:" },
    { "reads are answered when applied", read_ahead, "answers a read at" },
    { "exactly once", twice, "exactly once:" },
    { "acknowledged writes stay", lost_write, "lost write" },
    { "a write is where it is said to be", phantom_write, "which is another's" },
    { "what expired was not applied", expired_and_applied, "expired, and it was applied" },
    { "what is done had not expired", done_and_expired, "was done, and it had expired" },
    { "sessions are remembered alike", forgotten_session, "sessions: n" },
    { "linearizable", stale_history, "not linearizable" },
    { "nobody is told of more than there is", told_too_much, "a client was told of" },
    { "liveness", no_quorum, "no peace" },
    { "each tag is answered", unanswered, "tags were never answered" },
    { "and once", nobody_asked, "nobody waits for" },
    { "nothing leaks", leak, "never released" },
    { "damaged frames are refused", bits_unseen, "with bits flipped" },
};

/* A healthy world, half a second old, in a process that reports to `out`. */
static void spoil(size_t i, int out)
{
    struct world *w = world_new(1 + i, 3, 1, 3);

    dup2(out, STDOUT_FILENO);
    for (uint32_t n = 1; n <= 3; n++)
        node_start(w, &w->node[n], true);
    client_start(w);
    while (w->now < 1500 * MS)
        world_step(w);
    fault_heal(w);
    cases[i].spoil(w);
    printf("nothing was noticed\n");
    fflush(stdout);
    _exit(0);
}

int self_test(void)
{
    size_t passed = 0, count = sizeof cases / sizeof *cases;

    fflush(stdout);
    for (size_t i = 0; i < count; i++) {
        char text[4096];
        size_t used = 0;
        ssize_t n;
        int pipes[2], ended = 0;

        if (pipe(pipes) != 0)
            return 1;
        if (fork() == 0)
            spoil(i, pipes[1]);
        close(pipes[1]);
        while (used + 1 < sizeof text &&
               (n = read(pipes[0], text + used, sizeof text - 1 - used)) > 0)
            used += (size_t)n;
        text[used] = 0;
        close(pipes[0]);
        wait(&ended);
        if (strstr(text, "FAILED seed") != NULL && strstr(text, cases[i].says) != NULL)
            passed++;
        else
            printf("FAIL sim --self, %s: %s\n", cases[i].name, text);
    }
    printf("%s sim --self: %zu of %zu checks notice what they are for\n",
           passed == count ? "pass" : "FAIL", passed, count);
    return passed != count;
}
