/* sieve.c - which of up to 64 rows may be among the nearest: one bit a row.
 *
 * A scan keeps the k nearest so far. After the first rows nearly all others are
 * farther than the k-th, so what matters is to pass over these without a branch: a
 * vector is compared at a time, and the scan looks at a row only where a bit is set.
 *
 * select_near and select_dot compare bounds, not distances (lib/index/flat.c says why
 * they hold). Each element stands alone and nothing is fused, so results are equal on
 * every instruction set. The comparisons are written so that a NaN is selected: what
 * cannot be judged is looked at. */
#include "kernel/topics.h"

VS_NO_FUSING

enum job { NEAR, DOT };

/* ---- scalar ---- */

static bool scalar_near(const struct vs_select *s, int32_t product, float scale, float norm)
{
    float reach = s->reach + s->slope * scale;
    float least = (s->norm + norm) - (s->scale * scale) * (float)(product - s->origin);

    return !(least > reach * reach);
}

static bool scalar_dot(const struct vs_select *s, int32_t product, float scale, float norm)
{
    float most = (s->scale * scale) * (float)(product - s->origin);

    most = (most + s->slope * scale) + s->norm * norm;
    return !(most < s->reach);
}

static uint64_t scalar_select_near(const struct vs_select *s, const int32_t *products,
                                   const float *scales, const float *norms, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++)
        bits |= (uint64_t)scalar_near(s, products[i], scales[i], norms[i]) << i;
    return bits;
}

static uint64_t scalar_select_dot(const struct vs_select *s, const int32_t *products,
                                  const float *scales, const float *norms, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++)
        bits |= (uint64_t)scalar_dot(s, products[i], scales[i], norms[i]) << i;
    return bits;
}

static uint64_t scalar_select_keys(float most, const int32_t *keys, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++)
        bits |= (uint64_t) !((float)keys[i] > most) << i;
    return bits;
}

static uint64_t scalar_select_floats(float most, const float *distances, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++)
        bits |= (uint64_t) !(distances[i] > most) << i;
    return bits;
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- AVX2 ---- */

AVX2 VS_STEP uint32_t avx2_judge(enum job job, const struct vs_select *s, __m256i products,
                                 __m256 scale, __m256 norm)
{
    __m256 p = _mm256_cvtepi32_ps(_mm256_sub_epi32(products, _mm256_set1_epi32(s->origin)));
    __m256 slope = _mm256_mul_ps(_mm256_set1_ps(s->slope), scale);
    __m256 reach = _mm256_set1_ps(s->reach);

    p = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(s->scale), scale), p);
    if (job == NEAR) {
        p = _mm256_sub_ps(_mm256_add_ps(_mm256_set1_ps(s->norm), norm), p);
        reach = _mm256_add_ps(reach, slope);
        p = _mm256_cmp_ps(p, _mm256_mul_ps(reach, reach), _CMP_NGT_UQ);
    } else {
        p = _mm256_add_ps(_mm256_add_ps(p, slope), _mm256_mul_ps(_mm256_set1_ps(s->norm), norm));
        p = _mm256_cmp_ps(p, reach, _CMP_NLT_UQ);
    }
    return (uint32_t)_mm256_movemask_ps(p);
}

AVX2 VS_STEP uint64_t avx2_select(enum job job, const struct vs_select *s, const int32_t *products,
                                  const float *scales, const float *norms, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 8 <= count; i += 8)
        bits |= (uint64_t)avx2_judge(job, s, _mm256_loadu_si256((const void *)(products + i)),
                                     _mm256_loadu_ps(scales + i), _mm256_loadu_ps(norms + i))
                << i;
    if (i < count) {
        __m256i m = first_lanes(count - i);
        uint32_t last =
            avx2_judge(job, s, _mm256_maskload_epi32(products + i, m),
                       _mm256_maskload_ps(scales + i, m), _mm256_maskload_ps(norms + i, m));
        bits |= (uint64_t)(last & ((1u << (count - i)) - 1)) << i;
    }
    return bits;
}

AVX2 static uint64_t avx2_select_near(const struct vs_select *s, const int32_t *products,
                                      const float *scales, const float *norms, size_t count)
{
    return avx2_select(NEAR, s, products, scales, norms, count);
}

AVX2 static uint64_t avx2_select_dot(const struct vs_select *s, const int32_t *products,
                                     const float *scales, const float *norms, size_t count)
{
    return avx2_select(DOT, s, products, scales, norms, count);
}

AVX2 static uint64_t avx2_select_keys(float most, const int32_t *keys, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        __m256 v = _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)(keys + i)));
        v = _mm256_cmp_ps(v, _mm256_set1_ps(most), _CMP_NGT_UQ);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(v) << i;
    }
    return i < count ? bits | scalar_select_keys(most, keys + i, count - i) << i : bits;
}

AVX2 static uint64_t avx2_select_floats(float most, const float *distances, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        __m256 v = _mm256_cmp_ps(_mm256_loadu_ps(distances + i), _mm256_set1_ps(most), _CMP_NGT_UQ);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(v) << i;
    }
    return i < count ? bits | scalar_select_floats(most, distances + i, count - i) << i : bits;
}

/* ---- AVX-512 ---- */

AVX512 VS_STEP uint64_t avx512_select(enum job job, const struct vs_select *s,
                                      const int32_t *products, const float *scales,
                                      const float *norms, size_t count)
{
    const __m512 own_scale = _mm512_set1_ps(s->scale), own_norm = _mm512_set1_ps(s->norm);
    const __m512 slope = _mm512_set1_ps(s->slope), least = _mm512_set1_ps(s->reach);
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 m = first_floats(count - i);
        __m512 scale = _mm512_maskz_loadu_ps(m, scales + i);
        __m512 norm = _mm512_maskz_loadu_ps(m, norms + i), reach = _mm512_mul_ps(slope, scale);
        __m512 p = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_maskz_loadu_epi32(m, products + i),
                                                       _mm512_set1_epi32(s->origin)));
        __mmask16 in;

        p = _mm512_mul_ps(_mm512_mul_ps(own_scale, scale), p);
        if (job == NEAR) {
            p = _mm512_sub_ps(_mm512_add_ps(own_norm, norm), p);
            reach = _mm512_add_ps(least, reach);
            in = m & _mm512_cmp_ps_mask(p, _mm512_mul_ps(reach, reach), _CMP_NGT_UQ);
        } else {
            p = _mm512_add_ps(_mm512_add_ps(p, reach), _mm512_mul_ps(own_norm, norm));
            in = m & _mm512_cmp_ps_mask(p, least, _CMP_NLT_UQ);
        }
        bits |= (uint64_t)in << i;
    }
    return bits;
}

AVX512 static uint64_t avx512_select_near(const struct vs_select *s, const int32_t *products,
                                          const float *scales, const float *norms, size_t count)
{
    return avx512_select(NEAR, s, products, scales, norms, count);
}

AVX512 static uint64_t avx512_select_dot(const struct vs_select *s, const int32_t *products,
                                         const float *scales, const float *norms, size_t count)
{
    return avx512_select(DOT, s, products, scales, norms, count);
}

AVX512 static uint64_t avx512_select_keys(float most, const int32_t *keys, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 m = first_floats(count - i);
        __m512 v = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(m, keys + i));
        bits |= (uint64_t)(m & _mm512_cmp_ps_mask(v, _mm512_set1_ps(most), _CMP_NGT_UQ)) << i;
    }
    return bits;
}

AVX512 static uint64_t avx512_select_floats(float most, const float *distances, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 m = first_floats(count - i);
        __m512 v = _mm512_maskz_loadu_ps(m, distances + i);
        bits |= (uint64_t)(m & _mm512_cmp_ps_mask(v, _mm512_set1_ps(most), _CMP_NGT_UQ)) << i;
    }
    return bits;
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ----
 * What is not to be selected is found, and turned round, so that a NaN is selected. */

VS_STEP uint64_t neon_bits(uint32x4_t out)
{
    const uint32x4_t weight = { 1, 2, 4, 8 };
    return vaddvq_u32(vbicq_u32(weight, out));
}

VS_STEP uint64_t neon_select(enum job job, const struct vs_select *s, const int32_t *products,
                             const float *scales, const float *norms, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        float32x4_t scale = vld1q_f32(scales + i), norm = vld1q_f32(norms + i);
        float32x4_t slope = vmulq_n_f32(scale, s->slope), reach = vdupq_n_f32(s->reach);
        float32x4_t p = vcvtq_f32_s32(vsubq_s32(vld1q_s32(products + i), vdupq_n_s32(s->origin)));

        p = vmulq_f32(vmulq_n_f32(scale, s->scale), p);
        if (job == NEAR) {
            p = vsubq_f32(vaddq_f32(vdupq_n_f32(s->norm), norm), p);
            reach = vaddq_f32(reach, slope);
            bits |= neon_bits(vcgtq_f32(p, vmulq_f32(reach, reach))) << i;
        } else {
            p = vaddq_f32(vaddq_f32(p, slope), vmulq_n_f32(norm, s->norm));
            bits |= neon_bits(vcltq_f32(p, reach)) << i;
        }
    }
    for (; i < count; i++)
        bits |= (uint64_t)(job == NEAR ? scalar_near(s, products[i], scales[i], norms[i])
                                       : scalar_dot(s, products[i], scales[i], norms[i]))
                << i;
    return bits;
}

static uint64_t neon_select_near(const struct vs_select *s, const int32_t *products,
                                 const float *scales, const float *norms, size_t count)
{
    return neon_select(NEAR, s, products, scales, norms, count);
}

static uint64_t neon_select_dot(const struct vs_select *s, const int32_t *products,
                                const float *scales, const float *norms, size_t count)
{
    return neon_select(DOT, s, products, scales, norms, count);
}

static uint64_t neon_select_keys(float most, const int32_t *keys, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        bits |= neon_bits(vcgtq_f32(vcvtq_f32_s32(vld1q_s32(keys + i)), vdupq_n_f32(most))) << i;
    return i < count ? bits | scalar_select_keys(most, keys + i, count - i) << i : bits;
}

static uint64_t neon_select_floats(float most, const float *distances, size_t count)
{
    uint64_t bits = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        bits |= neon_bits(vcgtq_f32(vld1q_f32(distances + i), vdupq_n_f32(most))) << i;
    return i < count ? bits | scalar_select_floats(most, distances + i, count - i) << i : bits;
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_sieve(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        uint64_t (*near)(const struct vs_select *, const int32_t *, const float *, const float *,
                         size_t);
        uint64_t (*dot)(const struct vs_select *, const int32_t *, const float *, const float *,
                        size_t);
        uint64_t (*keys)(float, const int32_t *, size_t);
        uint64_t (*floats)(float, const float *, size_t);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512, avx512_select_near, avx512_select_dot, avx512_select_keys,
          avx512_select_floats },
        { VSHARD_CPU_AVX2, avx2_select_near, avx2_select_dot, avx2_select_keys,
          avx2_select_floats },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_select_near, neon_select_dot, neon_select_keys,
          neon_select_floats },
#endif
        { 0, scalar_select_near, scalar_select_dot, scalar_select_keys, scalar_select_floats },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->select_near = variants[i].near;
    kernel->select_dot = variants[i].dot;
    kernel->select_keys = variants[i].keys;
    kernel->select_floats = variants[i].floats;
    return variants[i].needs;
}
