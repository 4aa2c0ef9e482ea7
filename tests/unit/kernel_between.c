/* kernel_between.c - which of 64 integers lie between two others.
 *
 * Method: for each variant this machine can run, numbers near the bounds, at the ends of
 * the range and anywhere, also between bounds that stand the wrong way round, against the
 * definition in kernel.h; the numbers end at an unreadable page. */
#include <stdlib.h>

#include "../support/kernel_data.h"

enum { VALUES = 64, ROUNDS = 20000 };

static int64_t some_number(uint64_t *seed, int64_t near)
{
    static const int64_t ends[] = { INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX };

    switch (random_bits(seed) % 4) {
    case 0: return ends[random_bits(seed) % 7];
    case 1: return (int64_t)random_bits(seed);
    default: return (int64_t)((uint64_t)near + random_bits(seed) % 5 - 2);
    }
}

Test(kernel_between, equals_the_definition_everywhere)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled w = walled_make(VALUES * sizeof(int64_t));
    int64_t *values = (int64_t *)(void *)(w.end - VALUES * sizeof *values);
    uint64_t seed = 11, some = 0;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        int64_t low = some_number(&seed, 100), high = some_number(&seed, low);
        uint64_t want = 0;

        for (uint32_t i = 0; i < VALUES; i++) {
            values[i] = some_number(&seed, i % 2 ? low : high);
            want |= (uint64_t)(low <= values[i] && values[i] <= high) << i;
        }
        some += want != 0 && ~want != 0;
        for (size_t i = 0; i < variants; i++)
            cr_assert_eq(v[i].kernel.between(low, high, values), want, "%s cpu=%x round %u",
                         v[i].kernel.name, v[i].cpu, round);
    }
    cr_assert(some > ROUNDS / 4);
    walled_free(&w);
}
