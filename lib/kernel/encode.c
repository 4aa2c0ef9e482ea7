/* encode.c - floats to 7-bit codes, and the search for values no code can hold.
 *
 * Replicas compare codes byte for byte, so every variant and every compiler must
 * give the same ones. Each element stands alone, and each operation is rounded
 * to float32 as IEEE 754 says: one product, one difference, another product, a clamp,
 * and a rounding to the nearest integer, ties to even. Nothing may be fused. */
#include <float.h>

#include "kernel/topics.h"

VS_NO_FUSING

/* ---- scalar ---- */

static void scalar_encode(const float *x, float by, const float *low, float scale, size_t dim,
                          uint8_t *out)
{
    /* Above 2^23 a float32 has no fraction: adding 1.5 * 2^23 rounds as the
     * machine rounds, to even, and leaves the integer in the last bits. */
    const float magic = 0x1.8p23f;

    for (size_t i = 0; i < dim; i++) {
        float v = (vs_float_at(x, i) * by - low[i]) * scale;
        v = v > 0 ? v : 0;
        v = v < 127 ? v : 127;
        out[i] = (uint8_t)((v + magic) - magic);
    }
}

static float scalar_greatest(const float *x, size_t dim)
{
    float most = 0;

    for (size_t i = 0; i < dim; i++) {
        float v = x[i] < 0 ? -x[i] : x[i];
        most = v > most ? v : most;
    }
    return most;
}

static void scalar_round(const float *x, float scale, size_t dim, int8_t *out)
{
    const float magic = 0x1.8p23f;

    for (size_t i = 0; i < dim; i++)
        out[i] = (int8_t)((x[i] * scale + magic) - magic);
}

/* The comparison is written so that a NaN fails it. */
static bool fits(float x, float limit)
{
    return x <= limit && x >= -limit;
}

/* An infinite or NaN limit still lets no infinity through. */
static float finite_limit(float limit)
{
    return limit < FLT_MAX ? limit : FLT_MAX;
}

static size_t scalar_find_unfit(const float *x, size_t count, float limit)
{
    size_t i = 0;

    limit = finite_limit(limit);
    while (i < count && fits(vs_float_at(x, i), limit))
        i++;
    return i;
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- AVX2 ---- */

/* Eight codes as 32-bit integers. max(v, 0) takes the second when v is NaN, as
 * the scalar comparison does. */
AVX2 VS_STEP __m256i avx2_code(const float *x, __m256 by, const float *low, __m256 scale)
{
    __m256 v = _mm256_sub_ps(_mm256_mul_ps(_mm256_loadu_ps(x), by), _mm256_loadu_ps(low));
    v = _mm256_mul_ps(v, scale);
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(127));
    return _mm256_cvtps_epi32(v);
}

AVX2 static void avx2_encode(const float *x, float by, const float *low, float scale, size_t dim,
                             uint8_t *out)
{
    const __m256 m = _mm256_set1_ps(by), s = _mm256_set1_ps(scale);
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m256i a = avx2_code(x + i, m, low + i, s), b = avx2_code(x + i + 8, m, low + i + 8, s);
        a = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm_storeu_si128((void *)(out + i), _mm_packus_epi16(_mm256_castsi256_si128(a),
                                                             _mm256_extracti128_si256(a, 1)));
    }
    scalar_encode(x + i, by, low + i, scale, dim - i, out + i);
}

AVX2 static float avx2_greatest(const float *x, size_t dim)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps();
    __m128 half;
    float rest;
    size_t i = 0;

    for (; i + 8 <= dim; i += 8)
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
    half = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    half = _mm_max_ss(half, _mm_movehdup_ps(half));
    rest = scalar_greatest(x + i, dim - i);
    return rest > _mm_cvtss_f32(half) ? rest : _mm_cvtss_f32(half);
}

AVX2 static void avx2_round(const float *x, float scale, size_t dim, int8_t *out)
{
    const __m256 s = _mm256_set1_ps(scale);
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), s));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), s));
        a = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm_storeu_si128((void *)(out + i), _mm_packs_epi16(_mm256_castsi256_si128(a),
                                                            _mm256_extracti128_si256(a, 1)));
    }
    scalar_round(x + i, scale, dim - i, out + i);
}

AVX2 static size_t avx2_find_unfit(const float *x, size_t count, float limit)
{
    const __m256 most = _mm256_set1_ps(finite_limit(limit)), sign = _mm256_set1_ps(-0.0f);
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        uint32_t bad = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v, most, _CMP_NLE_UQ));
        if (bad)
            return i + (size_t)__builtin_ctz(bad);
    }
    return i + scalar_find_unfit(x + i, count - i, limit);
}

/* ---- AVX-512 ---- */

AVX512 VS_STEP __m512i avx512_code(__m512 x, float by, __m512 low, float scale)
{
    __m512 v = _mm512_sub_ps(_mm512_mul_ps(x, _mm512_set1_ps(by)), low);
    v = _mm512_mul_ps(v, _mm512_set1_ps(scale));
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(127));
    return _mm512_cvtps_epi32(v);
}

/* Masks only at the end: a masked store of narrowed lanes takes as long as all the rest. */
AVX512 static void avx512_encode(const float *x, float by, const float *low, float scale,
                                 size_t dim, uint8_t *out)
{
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m512i v = avx512_code(_mm512_loadu_ps(x + i), by, _mm512_loadu_ps(low + i), scale);
        _mm_storeu_si128((void *)(out + i), _mm512_cvtepi32_epi8(v));
    }
    if (i < dim) {
        const __mmask16 m = first_floats(dim - i);
        __m512i v = avx512_code(_mm512_maskz_loadu_ps(m, x + i), by,
                                _mm512_maskz_loadu_ps(m, low + i), scale);
        _mm512_mask_cvtepi32_storeu_epi8(out + i, m, v);
    }
}

AVX512 static size_t avx512_find_unfit(const float *x, size_t count, float limit)
{
    const __m512 most = _mm512_set1_ps(finite_limit(limit));

    for (size_t i = 0; i < count; i += 16) {
        __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(first_floats(count - i), x + i));
        uint32_t bad = _mm512_cmp_ps_mask(v, most, _CMP_NLE_UQ);
        if (bad)
            return i + (size_t)__builtin_ctz(bad);
    }
    return count;
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

/* Four codes. vmaxnm takes the number when the other is NaN. */
VS_STEP uint16x4_t neon_code(const float *x, float by, const float *low, float scale)
{
    float32x4_t v = vsubq_f32(vmulq_n_f32(vld1q_f32(x), by), vld1q_f32(low));
    v = vmulq_n_f32(v, scale);
    v = vminq_f32(vmaxnmq_f32(v, vdupq_n_f32(0)), vdupq_n_f32(127));
    return vmovn_u32(vcvtnq_u32_f32(v));
}

static void neon_encode(const float *x, float by, const float *low, float scale, size_t dim,
                        uint8_t *out)
{
    size_t i = 0;

    for (; i + 8 <= dim; i += 8) {
        uint16x4_t a = neon_code(x + i, by, low + i, scale);
        uint16x4_t b = neon_code(x + i + 4, by, low + i + 4, scale);
        vst1_u8(out + i, vmovn_u16(vcombine_u16(a, b)));
    }
    scalar_encode(x + i, by, low + i, scale, dim - i, out + i);
}

static float neon_greatest(const float *x, size_t dim)
{
    float32x4_t most = vdupq_n_f32(0);
    float first, rest;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4)
        most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + i)));
    first = vmaxvq_f32(most);
    rest = scalar_greatest(x + i, dim - i);
    return rest > first ? rest : first;
}

static void neon_round(const float *x, float scale, size_t dim, int8_t *out)
{
    size_t i = 0;

    for (; i + 8 <= dim; i += 8) {
        int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), scale));
        int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), scale));
        vst1_s8(out + i, vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b))));
    }
    scalar_round(x + i, scale, dim - i, out + i);
}

static size_t neon_find_unfit(const float *x, size_t count, float limit)
{
    const float32x4_t most = vdupq_n_f32(finite_limit(limit));
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        uint32x4_t a = vcaleq_f32(vld1q_f32(x + i), most);
        uint32x4_t b = vcaleq_f32(vld1q_f32(x + i + 4), most);
        if (vminvq_u32(vandq_u32(a, b)) == 0)
            break; /* among these eight */
    }
    return i + scalar_find_unfit(x + i, count - i, limit);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_encode(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*encode)(const float *, float, const float *, float, size_t, uint8_t *);
        size_t (*find_unfit)(const float *, size_t, float);
        float (*greatest)(const float *, size_t);
        void (*round)(const float *, float, size_t, int8_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_AVX2, avx512_encode, avx512_find_unfit, avx2_greatest,
          avx2_round },
        { VSHARD_CPU_AVX2, avx2_encode, avx2_find_unfit, avx2_greatest, avx2_round },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_encode, neon_find_unfit, neon_greatest, neon_round },
#endif
        { 0, scalar_encode, scalar_find_unfit, scalar_greatest, scalar_round },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->encode = variants[i].encode;
    kernel->find_unfit = variants[i].find_unfit;
    kernel->greatest = variants[i].greatest;
    kernel->round_bytes = variants[i].round;
    return variants[i].needs;
}
