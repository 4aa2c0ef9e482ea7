/* main.c - runs schedules: cluster-sim --from 1 --to 500; or a story: --story path [--bless]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

int main(int argc, char **argv)
{
    uint64_t from = 1, to = 500, bad = 0;
    struct result sum;

    if (argc > 2 && strcmp(argv[1], "--story") == 0)
        return !story_run(argv[2], argc > 3 && strcmp(argv[3], "--bless") == 0);
    memset(&sum, 0, sizeof sum);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--from") == 0)
            from = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--to") == 0)
            to = strtoull(argv[i + 1], NULL, 0);
    }
    for (uint64_t seed = from; seed <= to && bad < 5; seed++)
        bad += !schedule_run(seed, &sum, from == to);
    if (bad != 0) {
        printf("FAIL cluster-sim: %llu schedules\n", (unsigned long long)bad);
        return 1;
    }
    printf("pass cluster-sim seeds %llu to %llu: %llu writes acknowledged and %llu unknown, %llu "
           "reads judged, %llu power cuts, %llu partitions, %llu disks lost, %llu nodes "
           "come and %llu gone, %llu upgraded, %llu replicas refilled; %llu with a "
           "hosted map; %llu histories linearizable, %llu too hard to say\n",
           (unsigned long long)from, (unsigned long long)to, (unsigned long long)sum.acknowledged,
           (unsigned long long)sum.unknown, (unsigned long long)sum.reads,
           (unsigned long long)sum.kills, (unsigned long long)sum.cuts,
           (unsigned long long)sum.wipes, (unsigned long long)sum.joins,
           (unsigned long long)sum.leaves, (unsigned long long)sum.upgrades,
           (unsigned long long)sum.snapshots, (unsigned long long)sum.hosted,
           (unsigned long long)sum.histories, (unsigned long long)sum.too_hard);
    return 0;
}
