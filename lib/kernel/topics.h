/* topics.h - private to lib/kernel: the topics, and how a variant is compiled.
 *
 * Each topic is one file. It holds every variant of its functions, and a table
 * of them, fastest first, each row with the CPU bits it needs; its pick function
 * takes the first row whose bits are all there. So a new variant is a change to
 * one file.
 *
 * Every SIMD function carries its own target attribute: the files need no
 * special compiler flags, and no instruction leaks into code that runs
 * elsewhere. The checks that emulate an instruction set compile the same text
 * with VS_KERNEL_EMULATED, which drops the attributes. */
#ifndef VS_KERNEL_TOPICS_H
#define VS_KERNEL_TOPICS_H

#include "kernel/kernel.h"

#if defined(VS_KERNEL_EMULATED)
#define VS_TARGET(sets)
#else
#define VS_TARGET(sets) __attribute__((target(sets)))
#endif

/* A step of a loop: it must be inlined, for its first argument is a constant
 * that chooses what remains of it. */
#define VS_STEP static inline __attribute__((always_inline))

/* Compilers may fuse a product and a sum, and some do unasked. Where a result
 * must not depend on the compiler, a file says so before its first function. */
#if defined(__clang__)
#define VS_NO_FUSING _Pragma("STDC FP_CONTRACT OFF")
#elif defined(__GNUC__)
#define VS_NO_FUSING _Pragma("GCC optimize(\"fp-contract=off\")")
#else
#define VS_NO_FUSING
#endif

/* Each fills in its topic's functions for a CPU with these VSHARD_CPU_* bits,
 * and returns the bits that they use. */
uint32_t vs_kernel_pick_float32(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_float64(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_float16(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_int8(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_l1(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_bits(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_code(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_u4(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_encode(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_pool(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_tile(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_sieve(struct vs_kernel *kernel, uint32_t cpu);
uint32_t vs_kernel_pick_between(struct vs_kernel *kernel, uint32_t cpu);

/* The i-th float from any address. */
static inline float vs_float_at(const float *x, size_t i)
{
    float v;

    memcpy(&v, (const char *)x + i * sizeof v, sizeof v);
    return v;
}

/* Four rows are taken at a time. When 1 to 3 are left, fills in the four by
 * repeating the last: it is in cache by then, and one loop serves all counts. */
static inline void vs_rows_repeat_last(const void *four[4], const void *const *rows, size_t left)
{
    for (size_t i = 0; i < 4; i++)
        four[i] = rows[i < left ? i : left - 1];
}

/* One query to any number of rows by a step that takes four: vs_by_fours() is inlined
 * where both the step and its job are constants, so that the step is, too. */
VS_STEP void vs_by_fours(void (*four)(int job, const void *query, const void *const *rows,
                                      size_t size, int32_t *out),
                         int job, const void *query, const void *const *rows, size_t count,
                         size_t size, int32_t *out)
{
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        four(job, query, rows + i, size, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        four(job, query, last, size, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

/* The same for sums of floats. */
VS_STEP void vs_floats_by_fours(void (*four)(int job, const void *query, const void *const *rows,
                                             size_t dim, float *out),
                                int job, const void *query, const void *const *rows, size_t count,
                                size_t dim, float *out)
{
    const void *last[4];
    float sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        four(job, query, rows + i, dim, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        four(job, query, last, dim, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

#endif
