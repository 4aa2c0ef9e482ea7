/* random.h - reproducible chance for tests, the demo and the benchmarks.
 *
 * The state is the seed. The same seed gives the same numbers on every machine:
 * integers exactly, floats exactly too, since each comes from integer bits by one
 * exact conversion; only random_normal() calls the C library's mathematics. */
#ifndef SUPPORT_RANDOM_H
#define SUPPORT_RANDOM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* splitmix64 (Steele, Lea and Flood 2014). */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [0, bound), bound at least 1. The bias is below bound / 2^64. */
static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return random_next(state) % bound;
}

/* True once in `times`. */
static inline int random_one_in(uint64_t *state, uint64_t times)
{
    return random_below(state, times) == 0;
}

/* In [0, 1), a multiple of 2^-53. */
static inline double random_unit(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/* In [-1, 1), a multiple of 2^-23. */
static inline float random_float(uint64_t *state)
{
    return (float)((int32_t)(random_next(state) >> 40) - (1 << 23)) * 0x1p-23f;
}

/* Mean 0, deviation 1 (Box and Muller). */
static inline double random_normal(uint64_t *state)
{
    double u = 1.0 - random_unit(state), v = random_unit(state);

    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static inline void random_bytes(uint64_t *state, void *bytes, size_t count)
{
    unsigned char *p = bytes;

    for (size_t i = 0; i < count; i++)
        p[i] = (unsigned char)random_next(state);
}

/* Fisher and Yates. */
static inline void random_shuffle(uint64_t *state, uint32_t *items, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)random_below(state, i);
        uint32_t item = items[i - 1];

        items[i - 1] = items[j];
        items[j] = item;
    }
}

/* The number whose vs_mix64() this is: who knows a hash can choose what falls on one place. */
static inline uint64_t random_unmix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0x9cb4b2f8129337dbu;
    x ^= x >> 33;
    x *= 0x4f74430c22a54005u;
    return x ^ (x >> 33);
}

#endif
