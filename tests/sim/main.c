/* main.c - runs seeds, one after the other, and stops at the first that fails.
 *
 *     sim --seed 42 [--trace]          one history, told as it happens
 *     sim --from 1 --to 2000           many
 *     sim --from 1 --to 9 --nodes 3    of three nodes each, 3 to 7
 *     sim --from 1 --to 200 --digest   prints what each history came to
 *     sim --story file.sim [--bless]   a script and its expected trace
 *     sim --self                       the checks themselves, on worlds gone wrong */
#include "sim.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *sim_program = "sim";
static uint32_t sim_nodes; /* 0: as the seed has it */

enum { PATIENCE_MS = 30000 };

struct totals {
    uint64_t seeds, steps, virtual_ns, operations, commits, failed_allocs;
    uint64_t refused, unversioned, naps, overtakings, waits, promotions, met, parted;
    uint64_t expired, slow_written, forfeits, reopened;
};

static struct world *running;

/* The core itself says that something cannot be. */
static void broken(int number)
{
    (void)number;
    fail(running, "an invariant of the core is broken");
}

/* A world of this seed, in trouble. */
struct world *sim_begin(uint64_t seed, FILE *story)
{
    uint64_t z = (seed + 1) * 0x9e3779b97f4a7c15u;
    uint32_t drawn = (z >> 60) < 9 ? 3 : (z >> 60) < 13 ? 5 : 4 + (uint32_t)(z >> 50 & 3);
    uint32_t nodes = sim_nodes ? sim_nodes : drawn;
    uint32_t groups = (z >> 20 & 127) == 0
                          ? GROUPS_MAX
                          : 1 + (uint32_t)((z >> 40 & 7) == 0) + (uint32_t)((z >> 43 & 7) == 0);
    uint32_t members = nodes == 3 || (z >> 30 & 1) ? 3 : nodes;
    struct world *w = world_new(seed, nodes, groups, members);

    running = w;
    w->story = story;
    fault_setup(w);
    for (uint32_t i = 1; i <= nodes; i++)
        node_start(w, &w->node[i], true);
    client_start(w);
    return w;
}

/* Nothing fails any more, and everything must come right. */
void sim_peace(struct world *w)
{
    uint64_t quiet_at = w->now + 300 * MS;

    while (!(w->quiet && clients_idle(w) && !w->admin.busy && w->wiped_node == 0 && w->fence == 0 &&
             check_settled(w))) {
        world_step(w);
        if (w->now >= quiet_at && !w->quiet) {
            w->quiet = 1;
        }
        if (w->now > quiet_at + PATIENCE_MS * MS) {
            check_print(w);
            fail(w, "no peace: %s%s%s%llu tags open", clients_idle(w) ? "" : "clients wait, ",
                 w->wiped_node ? "a wiped node waits, " : "",
                 check_settled(w) ? "" : "replicas differ or nobody leads, ",
                 (unsigned long long)w->tags_open);
        }
    }
    if (w->tags_open != 0)
        fail(w, "%llu tags were never answered", (unsigned long long)w->tags_open);
    check_converged(w);
    client_check(w);
}

/* One history: faults, then peace. */
static void run(uint64_t seed, bool trace, bool digest, struct totals *t)
{
    struct world *w = sim_begin(seed, trace ? stdout : NULL);

    w->digests = digest;
    while (!w->healed)
        world_step(w);
    if (trace)
        printf("-- peace\n");
    sim_peace(w);
    for (uint32_t i = 1; i <= w->nodes; i++)
        w->digest = fold(w->digest, vshard_raft_digest(w->node[i].raft));
    if (digest)
        printf("%llu\t%016llx\t%llu\n", (unsigned long long)seed, (unsigned long long)w->digest,
               (unsigned long long)w->steps);
    t->seeds++;
    t->steps += w->steps;
    t->virtual_ns += w->now;
    t->failed_allocs += w->failed_allocs;
    t->refused += w->refused;
    t->unversioned += w->unversioned;
    t->naps += w->naps;
    t->overtakings += w->overtakings;
    t->waits += w->waits;
    t->promotions += w->promotions;
    t->met += w->met;
    t->parted += w->parted;
    t->expired += w->expired;
    t->slow_written += w->slow_written;
    t->forfeits += w->forfeits;
    t->reopened += w->reopened;
    for (uint32_t g = 0; g < w->groups; g++)
        t->commits += w->truth[g].count;
    for (uint32_t i = 0; i < CLIENTS; i++)
        t->operations += w->client[i].history_count;
    world_free(w);
}

/* Of a core: what else runs on the machine does not count. */
static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    uint64_t from = 1, to = 0;
    bool trace = false, digest = false, bless = false;
    const char *story = NULL;
    struct totals t = { 0 };
    double start = seconds();

    sim_program = argv[0];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            from = to = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            from = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
            to = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--story") == 0 && i + 1 < argc)
            story = argv[++i];
        else if (strcmp(argv[i], "--nodes") == 0 && i + 1 < argc)
            sim_nodes = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--self") == 0)
            return self_test();
        else if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--digest") == 0)
            digest = true;
        else if (strcmp(argv[i], "--bless") == 0)
            bless = true;
        else {
            fprintf(stderr, "usage: sim [--seed n] [--from n --to n] [--trace] [--digest] "
                            "[--story file [--bless]] [--self]\n");
            return 2;
        }
    }
    if (sim_nodes != 0 && (sim_nodes < 3 || sim_nodes > NODES_MAX)) {
        fprintf(stderr, "sim: 3 to %d nodes\n", NODES_MAX);
        return 2;
    }
    if (story != NULL)
        return story_run(story, bless);
    signal(SIGABRT, broken);
    for (uint64_t seed = from; seed <= to; seed++)
        run(seed, trace, digest, &t);
    if (!digest && to != 0)
        printf(
            "sim: %llu seeds, %llu events, %llu committed, %llu operations, %llu failed "
            "allocations, %llu frames refused (%llu for their version), %llu naps, %llu votes that overtook, %llu writes that waited for room, "
            "%llu forced "
            "promotions (%llu with losses; %llu met one, %llu had parted), %llu writes told to have expired, "
            "%llu slow pieces of snapshots, %llu groups closed and opened again, %.0f s of virtual time in %.1f s of a core (%.0fx)\n",
            (unsigned long long)t.seeds, (unsigned long long)t.steps, (unsigned long long)t.commits,
            (unsigned long long)t.operations, (unsigned long long)t.failed_allocs,
            (unsigned long long)t.refused, (unsigned long long)t.unversioned,
            (unsigned long long)t.naps, (unsigned long long)t.overtakings,
            (unsigned long long)t.waits, (unsigned long long)t.promotions,
            (unsigned long long)t.forfeits, (unsigned long long)t.met, (unsigned long long)t.parted,
            (unsigned long long)t.expired, (unsigned long long)t.slow_written,
            (unsigned long long)t.reopened,
            (double)t.virtual_ns / 1e9, seconds() - start,
            (double)t.virtual_ns / 1e9 / (seconds() - start));
    return 0;
}
