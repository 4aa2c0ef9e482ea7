/* kernel_data.h - what the kernel tests share: every variant this machine can
 * run, random numbers with a fixed seed, and memory whose end is a wall. */
#ifndef VS_TEST_KERNEL_DATA_H
#define VS_TEST_KERNEL_DATA_H

#include <criterion/criterion.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/kernel.h"
#include "os/os.h"

/* The CPU bits to test with. A build that emulates instruction sets names those
 * it emulates. */
static inline uint32_t cpu_bits(void)
{
#if defined(VS_TEST_CPU)
    return VS_TEST_CPU;
#else
    return vs_os_cpu();
#endif
}

struct variant {
    uint32_t cpu;
    struct vs_kernel kernel;
};

enum { VARIANTS_MAX = 64 };

/* Fills in the different kernels that the subsets of the CPU bits lead to, and
 * returns how many there are. The first has no bits and is the scalar one. */
static inline size_t variants_make(struct variant v[VARIANTS_MAX])
{
    uint32_t all = cpu_bits(), cpu = 0;
    size_t count = 0, same;

    do {
        memset(&v[count], 0, sizeof v[count]);
        v[count].cpu = cpu;
        vs_kernel_init(&v[count].kernel, cpu);
        for (same = 0; memcmp(&v[same].kernel, &v[count].kernel, sizeof v[same].kernel) != 0;)
            same++;
        count += same == count;
        cpu = (cpu - all) & all; /* the next subset */
    } while (cpu != 0 && count < VARIANTS_MAX);
    return count;
}

static inline uint64_t random_bits(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline float random_float(uint64_t *state) /* in [-1, 1) */
{
    return (float)((int64_t)random_bits(state) >> 40) * 0x1p-23f;
}

static inline void random_fill(void *to, size_t bytes, uint64_t *state)
{
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = (unsigned char)(random_bits(state) >> 56);
}

/* Dimensions from 1: all up to 130, then around the multiples of 128 to 1025. */
static inline size_t dim_next(size_t dim)
{
    static const size_t far[] = { 255, 256, 257, 383, 384, 385, 767, 768, 769, 1023, 1024, 1025 };

    for (size_t i = 0; dim >= 130 && i < sizeof far / sizeof far[0]; i++) {
        if (far[i] > dim)
            return far[i];
    }
    return dim + 1;
}

enum { DIM_LAST = 1025 };

/* Memory that ends at an unreadable page. Touching one byte past the end, on
 * either side, kills the test. */
struct walled {
    unsigned char *from, *end; /* usable: [from, end) */
    size_t page;
};

static inline struct walled walled_make(size_t bytes)
{
    struct walled w;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), use = (bytes + page - 1) / page * page;
    unsigned char *m =
        mmap(NULL, use + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    cr_assert(m != MAP_FAILED);
    cr_assert(mprotect(m, page, PROT_NONE) == 0);
    cr_assert(mprotect(m + page + use, page, PROT_NONE) == 0);
    w.from = m + page;
    w.end = w.from + use;
    w.page = page;
    return w;
}

static inline void walled_free(struct walled *w)
{
    munmap(w->from - w->page, (size_t)(w->end - w->from) + 2 * w->page);
}

#endif
