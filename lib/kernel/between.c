/* between.c - which of 64 integers lie between two others. */
#include "kernel/topics.h"

enum { VALUES = 64 };

/* ---- scalar ---- */

static uint64_t scalar_between(int64_t low, int64_t high, const int64_t *values)
{
    uint64_t bits = 0;

    for (uint32_t i = 0; i < VALUES; i++)
        bits |= (uint64_t)(low <= values[i] && values[i] <= high) << i;
    return bits;
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- AVX2 ---- */

AVX2 static uint64_t avx2_between(int64_t low, int64_t high, const int64_t *values)
{
    const __m256i l = _mm256_set1_epi64x(low), h = _mm256_set1_epi64x(high);
    uint64_t out = 0;

    for (uint32_t i = 0; i < VALUES; i += 4) {
        __m256i v = _mm256_loadu_si256((const void *)(values + i));
        __m256i beyond = _mm256_or_si256(_mm256_cmpgt_epi64(l, v), _mm256_cmpgt_epi64(v, h));

        out |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(beyond)) << i;
    }
    return ~out;
}

/* ---- AVX-512 ---- */

AVX512 static uint64_t avx512_between(int64_t low, int64_t high, const int64_t *values)
{
    const __m512i l = _mm512_set1_epi64(low), h = _mm512_set1_epi64(high);
    uint64_t out = 0;

    for (uint32_t i = 0; i < VALUES; i += 8) {
        __m512i v = _mm512_loadu_si512(values + i);

        out |= (uint64_t)(_mm512_cmpgt_epi64_mask(l, v) | _mm512_cmpgt_epi64_mask(v, h)) << i;
    }
    return ~out;
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

static uint64_t neon_between(int64_t low, int64_t high, const int64_t *values)
{
    const int64x2_t l = vdupq_n_s64(low), h = vdupq_n_s64(high);
    uint64_t bits = 0;

    for (uint32_t i = 0; i < VALUES; i += 2) {
        int64x2_t v = vld1q_s64(values + i);
        uint64x2_t in = vandq_u64(vcgeq_s64(v, l), vcleq_s64(v, h));

        bits |= (vgetq_lane_u64(in, 0) & 1) << i | (vgetq_lane_u64(in, 1) & 2) << i;
    }
    return bits;
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_between(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        uint64_t (*between)(int64_t, int64_t, const int64_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512, avx512_between },
        { VSHARD_CPU_AVX2, avx2_between },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_between },
#endif
        { 0, scalar_between },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->between = variants[i].between;
    return variants[i].needs;
}
