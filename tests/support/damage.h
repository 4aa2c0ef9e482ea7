/* damage.h - bytes of a file, damaged by chance: bits that flip, an end that is missing, runs that
 * are zero, gone, or those of another place or of another file. Runs often begin and end at
 * pages, as those of file systems do. */
#ifndef SUPPORT_DAMAGE_H
#define SUPPORT_DAMAGE_H

#include <stdint.h>
#include <string.h>

#include "support/random.h"

/* A place in a file of so many bytes, which is not empty. */
static inline size_t damage_place(uint64_t *seed, size_t count)
{
    static const size_t steps[] = { 1, 8, 64, 512, 4096, 4096 };
    size_t step = steps[random_below(seed, 6)];

    return random_below(seed, count) / step * step;
}

static inline void damage_flip(uint64_t *seed, unsigned char *bytes, size_t count)
{
    for (uint64_t n = 1 + random_below(seed, 3); n > 0; n--)
        bytes[random_below(seed, count)] ^= (unsigned char)(1 << random_below(seed, 8));
}

/* Damages `bytes`, which have room for as many; returns how many there are then. */
static inline size_t damage_file(uint64_t *seed, unsigned char *bytes, size_t count,
                                 const unsigned char *other, size_t other_count)
{
    size_t at = damage_place(seed, count), from = damage_place(seed, other_count);
    size_t most = count - at, run = damage_place(seed, most) + 1;

    switch (random_below(seed, 6)) {
    case 0: damage_flip(seed, bytes, count); break;
    case 1: count = at; break;
    case 2: memset(bytes + at, 0, run); break;
    case 3: /* gone, and the rest moves up */
        memmove(bytes + at, bytes + at + run, most - run);
        count -= run;
        break;
    case 4: /* of another place */
        from %= count;
        run = run < count - from ? run : count - from;
        memmove(bytes + at, bytes + from, run);
        break;
    default: /* of another file: of the same place, or of any */
        from = random_below(seed, 2) && at < other_count ? at : from;
        run = run < other_count - from ? run : other_count - from;
        memcpy(bytes + at, other + from, run);
    }
    return count;
}

#endif
