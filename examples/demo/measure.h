/* measure.h - many questions at once: how right the answers are, and how fast. */
#ifndef DEMO_MEASURE_H
#define DEMO_MEASURE_H

#include "shards.h"

/* Questions, and room for their answers. */
struct exam {
    const struct shards *shards;
    const struct set *set;
    const struct vshard_executor *executor;
    uint32_t ef;
};

/* These return 0, or -1 after saying why not, or STOPPED. */

/* Asks the first `count` questions, some together, on all threads.
 *
 *   name      in the first column while it takes
 *   flags     VSHARD_SEARCH_*
 *   answers   [out] [count x NEAREST]
 *   taken     [out] seconds */
int exam_ask(const struct exam *exam, const char *name, uint32_t flags, size_t count,
             struct vshard_merge_hit *answers, double *taken);

struct latency {
    double p50_us, p99_us;
};

/* Asks every question by itself, on one thread. */
int exam_latency(const struct exam *exam, struct latency *latency);

/* The share of `exact` that was found, judged by distance: an answer as near as the
 * last of the exact ones is right, whichever of several at that distance it is. */
double recall(const struct vshard_merge_hit *answers, const struct vshard_merge_hit *exact,
              size_t count, size_t rows);

#endif
