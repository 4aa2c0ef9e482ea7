/* options.h - what the user asked for. */
#ifndef DEMO_OPTIONS_H
#define DEMO_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

struct options {
    const char *data, *set, *dir; /* dir may be NULL */
    uint32_t shards, threads, ef;
    uint32_t metric; /* VSHARD_METRIC_* */
    uint64_t seed;
    size_t rows; /* 0: all */
};

/* Returns 0, or 1 + the status to leave with: help was printed, or the user was told
 * what is wrong. */
int options_read(struct options *options, int argc, char **argv);

#endif
