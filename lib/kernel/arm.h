/* arm.h - private to lib/kernel: what the NEON variants share. */
#ifndef VS_KERNEL_ARM_H
#define VS_KERNEL_ARM_H

#include <arm_neon.h>

#include "kernel/topics.h"

/* Clang before 16 declares the dot products only to files that are compiled for
 * them as a whole; there the NEON variants serve. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_DOTPROD)
#define HAVE_DOTPROD 1
#if defined(__clang__)
#define DOTPROD VS_TARGET("dotprod")
#else
#define DOTPROD VS_TARGET("arch=armv8.2-a+dotprod")
#endif
#endif

/* Four vectors to the four sums of their lanes. */
VS_STEP int32x4_t sum4_u32(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d)
{
    return vreinterpretq_s32_u32(vpaddq_u32(vpaddq_u32(a, b), vpaddq_u32(c, d)));
}

/* The last `left` elements of a run of `count` bytes, left < 16, zeros beside
 * them. Where there are 16 bytes, the last 16 are loaded and those already seen
 * are cleared. */
VS_STEP uint8x16_t last_bytes(const void *run, size_t count, size_t left)
{
    static const uint8_t mask[32] = { [16] = 255, 255, 255, 255, 255, 255, 255, 255,
                                      255,        255, 255, 255, 255, 255, 255, 255 };
    const uint8_t *bytes = run;
    uint8_t few[16] = { 0 };

    if (count >= 16)
        return vandq_u8(vld1q_u8(bytes + count - 16), vld1q_u8(mask + left));
    memcpy(few, bytes, left);
    return vld1q_u8(few);
}

#endif
