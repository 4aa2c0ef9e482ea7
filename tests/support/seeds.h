/* seeds.h - which seeds a randomised test draws from.
 *
 * Fixed, so that `make check` is the same everywhere. VSHARD_SEED sets the first
 * and VSHARD_SEEDS how many, to repeat a failure or to search for one (`make
 * check-soak`). Tests that use it have "seed" in their names. */
#ifndef SUPPORT_SEEDS_H
#define SUPPORT_SEEDS_H

#include <stdint.h>
#include <stdlib.h>

static inline uint64_t seeds_first(void)
{
    const char *text = getenv("VSHARD_SEED");

    return text != NULL ? strtoull(text, NULL, 0) : 1;
}

static inline uint64_t seeds_end(uint64_t normally)
{
    const char *text = getenv("VSHARD_SEEDS");

    return seeds_first() + (text != NULL ? strtoull(text, NULL, 0) : normally);
}

#endif
