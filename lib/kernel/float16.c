/* float16.c - distances between a float32 query and float16 rows.
 *
 * Rows stay as they were given, two bytes an element, and are widened in
 * registers. Widening is exact, so that the error bounds are those of float32.c,
 * and so is its shape: two sums in each of four rows. The query is widened once,
 * by the caller: to do it here would cost a conversion for each row.
 *
 * When 1 to 3 rows are left the last is repeated, so that a row's sums are taken
 * in one order, whatever its place among the rows. */
#include "kernel/topics.h"

VS_NO_FUSING

enum job { L2SQ, DOT, L1 };

/* ---- scalar ---- */

static uint16_t half_at(const void *x, size_t i)
{
    uint16_t v;

    memcpy(&v, (const char *)x + i * sizeof v, sizeof v);
    return v;
}

/* Five bits of exponent, moved by 15, and ten of fraction. The smallest numbers
 * have no leading one, and are 2^-24 times the fraction: written so, because a
 * host may have told its CPU to take such floats for 0. */
static float widened(uint16_t half)
{
    uint32_t sign = half & 0x8000u, exponent = half >> 10 & 31, fraction = half & 0x3ffu, bits;
    float v;

    if (exponent == 0) {
        v = (float)fraction * 0x1p-24f;
        return sign ? -v : v;
    }
    bits = sign << 16 | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    memcpy(&v, &bits, sizeof v);
    return v;
}

VS_STEP float scalar_term(enum job job, float q, float r)
{
    float d = q - r;

    return job == DOT ? q * r : job == L2SQ ? d * d : d < 0 ? -d : d;
}

VS_STEP void scalar_many(enum job job, const float *q, const void *const *rows, size_t count,
                         size_t dim, float *out)
{
    for (size_t r = 0; r < count; r++) {
        float sum[4] = { 0 }; /* no addition waits for the last */

        for (size_t i = 0; i < dim; i++)
            sum[i % 4] += scalar_term(job, vs_float_at(q, i), widened(half_at(rows[r], i)));
        out[r] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

static void scalar_l2sq_many(const float *query, const void *const *rows, size_t count, size_t dim,
                             float *out)
{
    scalar_many(L2SQ, query, rows, count, dim, out);
}

static void scalar_dot_many(const float *query, const void *const *rows, size_t count, size_t dim,
                            float *out)
{
    scalar_many(DOT, query, rows, count, dim, out);
}

static void scalar_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                           float *out)
{
    scalar_many(L1, query, rows, count, dim, out);
}

static void scalar_widen(const void *x, size_t dim, float *out)
{
    for (size_t i = 0; i < dim; i++)
        out[i] = widened(half_at(x, i));
}

/* All exponent bits set: infinity or NaN. */
static size_t scalar_find_unfit(const void *x, size_t count)
{
    size_t i = 0;

    while (i < count && (half_at(x, i) & 0x7c00) != 0x7c00)
        i++;
    return i;
}

#if defined(__x86_64__)
#include "kernel/x86.h"

#define F16C VS_TARGET("avx2,fma,f16c")

/* ---- SSE2 ----
 * There are no halves in it: they are widened as by widened(), four at once. */

/* Four halves, each in 32 bits. */
VS_STEP __m128 sse2_widened(__m128i half)
{
    const __m128i move = _mm_set1_epi32(112 << 23), exponent = _mm_set1_epi32(0x7c00);
    __m128i of = _mm_and_si128(half, exponent), unfit = _mm_cmpeq_epi32(of, exponent);
    __m128i none = _mm_cmpeq_epi32(of, _mm_setzero_si128());
    __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
    __m128i bits = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
    __m128 small = _mm_cvtepi32_ps(_mm_and_si128(half, _mm_set1_epi32(0x3ff)));

    bits = _mm_add_epi32(_mm_add_epi32(bits, move), _mm_and_si128(unfit, move));
    small = _mm_and_ps(_mm_mul_ps(small, _mm_set1_ps(0x1p-24f)), _mm_castsi128_ps(none));
    bits = _mm_or_si128(_mm_andnot_si128(none, bits), sign);
    return _mm_or_ps(_mm_castsi128_ps(bits), small);
}

VS_STEP __m128 sse2_widen4(const uint16_t *from)
{
    __m128i four = _mm_loadl_epi64((const void *)from);
    return sse2_widened(_mm_unpacklo_epi16(four, _mm_setzero_si128()));
}

VS_STEP __m128 sse2_widen_last(const uint16_t *from, size_t n)
{
    __m128i few = sse2_few(from, n * sizeof *from);
    return sse2_widened(_mm_unpacklo_epi16(few, _mm_setzero_si128()));
}

VS_STEP __m128 sse2_step(int job, __m128 sum, __m128 q, __m128 r)
{
    if (job == L1)
        return _mm_add_ps(sum, _mm_andnot_ps(_mm_set1_ps(-0.0f), _mm_sub_ps(q, r)));
    if (job == L2SQ)
        q = r = _mm_sub_ps(q, r);
    return _mm_add_ps(sum, _mm_mul_ps(q, r));
}

VS_STEP void sse2_four(int job, const void *query, const void *const *rows, size_t dim, float *out)
{
    const float *q = query;
    const uint16_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128 a = _mm_setzero_ps(), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        __m128 x = _mm_loadu_ps(q + i);
        a = sse2_step(job, a, x, sse2_widen4(ra + i));
        b = sse2_step(job, b, x, sse2_widen4(rb + i));
        c = sse2_step(job, c, x, sse2_widen4(rc + i));
        d = sse2_step(job, d, x, sse2_widen4(rd + i));
    }
    if (i < dim) {
        size_t n = dim - i;
        __m128 x = _mm_castsi128_ps(sse2_few(q + i, n * sizeof *q));
        a = sse2_step(job, a, x, sse2_widen_last(ra + i, n));
        b = sse2_step(job, b, x, sse2_widen_last(rb + i, n));
        c = sse2_step(job, c, x, sse2_widen_last(rc + i, n));
        d = sse2_step(job, d, x, sse2_widen_last(rd + i, n));
    }
    _mm_storeu_ps(out, sse2_sum4_ps(a, b, c, d));
}

static void sse2_l2sq_many(const float *query, const void *const *rows, size_t count, size_t dim,
                           float *out)
{
    vs_floats_by_fours(sse2_four, L2SQ, query, rows, count, dim, out);
}

static void sse2_dot_many(const float *query, const void *const *rows, size_t count, size_t dim,
                          float *out)
{
    vs_floats_by_fours(sse2_four, DOT, query, rows, count, dim, out);
}

static void sse2_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                         float *out)
{
    vs_floats_by_fours(sse2_four, L1, query, rows, count, dim, out);
}

static void sse2_widen(const void *x, size_t dim, float *out)
{
    const uint16_t *from = x;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4)
        _mm_storeu_ps(out + i, sse2_widen4(from + i));
    scalar_widen(from + i, dim - i, out + i);
}

static size_t sse2_find_unfit(const void *x, size_t count)
{
    const __m128i exponent = _mm_set1_epi16(0x7c00);
    const uint16_t *from = x;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        __m128i v = _mm_and_si128(_mm_loadu_si128((const void *)(from + i)), exponent);
        uint32_t bad = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi16(v, exponent));
        if (bad)
            return i + (size_t)__builtin_ctz(bad) / 2;
    }
    return i + scalar_find_unfit(from + i, count - i);
}

/* ---- AVX2 with F16C ---- */

F16C VS_STEP __m256 avx2_widen8(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)from));
}

/* The last `left` elements of a run of `count`, left < 8, in the first lanes,
 * zeros in the others. AVX2 has no masked load of 16 bits: where there are 8
 * elements, the last 8 are loaded and moved down. */
F16C VS_STEP __m256 avx2_widen_last(const uint16_t *run, size_t count, size_t left)
{
    static const uint8_t from[32] = { 0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,
                                      11,  12,  13,  14,  15,  128, 128, 128, 128, 128, 128,
                                      128, 128, 128, 128, 128, 128, 128, 128, 128, 128 };
    uint16_t few[8] = { 0 };

    if (count >= 8) {
        __m128i order = _mm_loadu_si128((const void *)(from + 16 - 2 * left));
        __m128i last = _mm_loadu_si128((const void *)(run + count - 8));
        return _mm256_cvtph_ps(_mm_shuffle_epi8(last, order));
    }
    memcpy(few, run, left * sizeof *few);
    return avx2_widen8(few);
}

F16C VS_STEP __m256 avx2_step(int job, __m256 sum, __m256 q, __m256 r)
{
    if (job == L1)
        return _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(q, r)));
    if (job == L2SQ)
        q = r = _mm256_sub_ps(q, r);
    return _mm256_fmadd_ps(q, r, sum);
}

F16C VS_STEP void avx2_four(int job, const void *query, const void *const *rows, size_t dim,
                            float *out)
{
    const float *q = query;
    const uint16_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256 a0 = _mm256_setzero_ps(), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m256 x = _mm256_loadu_ps(q + i), y = _mm256_loadu_ps(q + i + 8);
        a0 = avx2_step(job, a0, x, avx2_widen8(ra + i));
        b0 = avx2_step(job, b0, x, avx2_widen8(rb + i));
        c0 = avx2_step(job, c0, x, avx2_widen8(rc + i));
        d0 = avx2_step(job, d0, x, avx2_widen8(rd + i));
        a1 = avx2_step(job, a1, y, avx2_widen8(ra + i + 8));
        b1 = avx2_step(job, b1, y, avx2_widen8(rb + i + 8));
        c1 = avx2_step(job, c1, y, avx2_widen8(rc + i + 8));
        d1 = avx2_step(job, d1, y, avx2_widen8(rd + i + 8));
    }
    if (i + 8 <= dim) {
        __m256 x = _mm256_loadu_ps(q + i);
        a0 = avx2_step(job, a0, x, avx2_widen8(ra + i));
        b0 = avx2_step(job, b0, x, avx2_widen8(rb + i));
        c0 = avx2_step(job, c0, x, avx2_widen8(rc + i));
        d0 = avx2_step(job, d0, x, avx2_widen8(rd + i));
        i += 8;
    }
    if (i < dim) {
        __m256 x = _mm256_maskload_ps(q + i, first_lanes(dim - i));
        a1 = avx2_step(job, a1, x, avx2_widen_last(ra, dim, dim - i));
        b1 = avx2_step(job, b1, x, avx2_widen_last(rb, dim, dim - i));
        c1 = avx2_step(job, c1, x, avx2_widen_last(rc, dim, dim - i));
        d1 = avx2_step(job, d1, x, avx2_widen_last(rd, dim, dim - i));
    }
    _mm_storeu_ps(out, sum4_ps(_mm256_add_ps(a0, a1), _mm256_add_ps(b0, b1), _mm256_add_ps(c0, c1),
                               _mm256_add_ps(d0, d1)));
}

F16C static void avx2_l2sq_many(const float *query, const void *const *rows, size_t count,
                                size_t dim, float *out)
{
    vs_floats_by_fours(avx2_four, L2SQ, query, rows, count, dim, out);
}

F16C static void avx2_dot_many(const float *query, const void *const *rows, size_t count,
                               size_t dim, float *out)
{
    vs_floats_by_fours(avx2_four, DOT, query, rows, count, dim, out);
}

F16C static void avx2_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                              float *out)
{
    vs_floats_by_fours(avx2_four, L1, query, rows, count, dim, out);
}

F16C static void avx2_widen(const void *x, size_t dim, float *out)
{
    const uint16_t *from = x;
    size_t i = 0;

    for (; i + 8 <= dim; i += 8)
        _mm256_storeu_ps(out + i, avx2_widen8(from + i));
    scalar_widen(from + i, dim - i, out + i);
}

F16C static size_t avx2_find_unfit(const void *x, size_t count)
{
    const __m256i exponent = _mm256_set1_epi16(0x7c00);
    const uint16_t *from = x;
    size_t i = 0;

    for (; i + 16 <= count; i += 16) {
        __m256i v = _mm256_and_si256(_mm256_loadu_si256((const void *)(from + i)), exponent);
        uint32_t bad = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi16(v, exponent));
        if (bad)
            return i + (size_t)__builtin_ctz(bad) / 2;
    }
    return i + scalar_find_unfit(from + i, count - i);
}

/* ---- AVX-512 ---- */

/* The elements of 16 that the mask names, zeros for the others. */
AVX512 VS_STEP __m512 avx512_widen16(const uint16_t *from, __mmask16 m)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, from));
}

AVX512 VS_STEP __m512 avx512_step(int job, __m512 sum, __m512 q, __m512 r)
{
    if (job == L1)
        return _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(q, r)));
    if (job == L2SQ)
        q = r = _mm512_sub_ps(q, r);
    return _mm512_fmadd_ps(q, r, sum);
}

AVX512 VS_STEP void avx512_four(int job, const void *query, const void *const *rows, size_t dim,
                                float *out)
{
    const float *q = query;
    const uint16_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512 a0 = _mm512_setzero_ps(), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    const __mmask16 all = 0xffff;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        __m512 x = _mm512_loadu_ps(q + i), y = _mm512_loadu_ps(q + i + 16);
        a0 = avx512_step(job, a0, x, avx512_widen16(ra + i, all));
        b0 = avx512_step(job, b0, x, avx512_widen16(rb + i, all));
        c0 = avx512_step(job, c0, x, avx512_widen16(rc + i, all));
        d0 = avx512_step(job, d0, x, avx512_widen16(rd + i, all));
        a1 = avx512_step(job, a1, y, avx512_widen16(ra + i + 16, all));
        b1 = avx512_step(job, b1, y, avx512_widen16(rb + i + 16, all));
        c1 = avx512_step(job, c1, y, avx512_widen16(rc + i + 16, all));
        d1 = avx512_step(job, d1, y, avx512_widen16(rd + i + 16, all));
    }
    for (; i < dim; i += 16) {
        const __mmask16 m = first_floats(dim - i);
        __m512 x = _mm512_maskz_loadu_ps(m, q + i);
        a0 = avx512_step(job, a0, x, avx512_widen16(ra + i, m));
        b0 = avx512_step(job, b0, x, avx512_widen16(rb + i, m));
        c0 = avx512_step(job, c0, x, avx512_widen16(rc + i, m));
        d0 = avx512_step(job, d0, x, avx512_widen16(rd + i, m));
    }
    _mm_storeu_ps(out, sum4_ps(halves_ps(_mm512_add_ps(a0, a1)), halves_ps(_mm512_add_ps(b0, b1)),
                               halves_ps(_mm512_add_ps(c0, c1)), halves_ps(_mm512_add_ps(d0, d1))));
}

AVX512 static void avx512_l2sq_many(const float *query, const void *const *rows, size_t count,
                                    size_t dim, float *out)
{
    vs_floats_by_fours(avx512_four, L2SQ, query, rows, count, dim, out);
}

AVX512 static void avx512_dot_many(const float *query, const void *const *rows, size_t count,
                                   size_t dim, float *out)
{
    vs_floats_by_fours(avx512_four, DOT, query, rows, count, dim, out);
}

AVX512 static void avx512_l1_many(const float *query, const void *const *rows, size_t count,
                                  size_t dim, float *out)
{
    vs_floats_by_fours(avx512_four, L1, query, rows, count, dim, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

VS_STEP float32x4_t neon_widen4(const uint16_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

/* The last 1 to 3 elements, zeros beside them. */
VS_STEP float32x4_t neon_widen_last(const uint16_t *from, size_t left)
{
    uint16_t few[4] = { 0 };

    memcpy(few, from, left * sizeof *few);
    return neon_widen4(few);
}

VS_STEP float32x4_t neon_last(const float *from, size_t left)
{
    float few[4] = { from[0], left > 1 ? from[1] : 0, left > 2 ? from[2] : 0, 0 };
    return vld1q_f32(few);
}

VS_STEP float32x4_t neon_step(int job, float32x4_t sum, float32x4_t q, float32x4_t r)
{
    if (job == L1)
        return vaddq_f32(sum, vabdq_f32(q, r));
    if (job == L2SQ)
        q = r = vsubq_f32(q, r);
    return vfmaq_f32(sum, q, r);
}

VS_STEP void neon_four(int job, const void *query, const void *const *rows, size_t dim, float *out)
{
    const float *q = query;
    const uint16_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    float32x4_t a0 = vdupq_n_f32(0), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    size_t i = 0;

    for (; i + 8 <= dim; i += 8) {
        float32x4_t x = vld1q_f32(q + i), y = vld1q_f32(q + i + 4);
        a0 = neon_step(job, a0, x, neon_widen4(ra + i));
        b0 = neon_step(job, b0, x, neon_widen4(rb + i));
        c0 = neon_step(job, c0, x, neon_widen4(rc + i));
        d0 = neon_step(job, d0, x, neon_widen4(rd + i));
        a1 = neon_step(job, a1, y, neon_widen4(ra + i + 4));
        b1 = neon_step(job, b1, y, neon_widen4(rb + i + 4));
        c1 = neon_step(job, c1, y, neon_widen4(rc + i + 4));
        d1 = neon_step(job, d1, y, neon_widen4(rd + i + 4));
    }
    if (i + 4 <= dim) {
        float32x4_t x = vld1q_f32(q + i);
        a0 = neon_step(job, a0, x, neon_widen4(ra + i));
        b0 = neon_step(job, b0, x, neon_widen4(rb + i));
        c0 = neon_step(job, c0, x, neon_widen4(rc + i));
        d0 = neon_step(job, d0, x, neon_widen4(rd + i));
        i += 4;
    }
    if (i < dim) {
        float32x4_t x = neon_last(q + i, dim - i);
        a1 = neon_step(job, a1, x, neon_widen_last(ra + i, dim - i));
        b1 = neon_step(job, b1, x, neon_widen_last(rb + i, dim - i));
        c1 = neon_step(job, c1, x, neon_widen_last(rc + i, dim - i));
        d1 = neon_step(job, d1, x, neon_widen_last(rd + i, dim - i));
    }
    out[0] = vaddvq_f32(vaddq_f32(a0, a1));
    out[1] = vaddvq_f32(vaddq_f32(b0, b1));
    out[2] = vaddvq_f32(vaddq_f32(c0, c1));
    out[3] = vaddvq_f32(vaddq_f32(d0, d1));
}

static void neon_l2sq_many(const float *query, const void *const *rows, size_t count, size_t dim,
                           float *out)
{
    vs_floats_by_fours(neon_four, L2SQ, query, rows, count, dim, out);
}

static void neon_dot_many(const float *query, const void *const *rows, size_t count, size_t dim,
                          float *out)
{
    vs_floats_by_fours(neon_four, DOT, query, rows, count, dim, out);
}

static void neon_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                         float *out)
{
    vs_floats_by_fours(neon_four, L1, query, rows, count, dim, out);
}

static void neon_widen(const void *x, size_t dim, float *out)
{
    const uint16_t *from = x;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4)
        vst1q_f32(out + i, neon_widen4(from + i));
    scalar_widen(from + i, dim - i, out + i);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_float16(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*l2sq_many)(const float *, const void *const *, size_t, size_t, float *);
        void (*dot_many)(const float *, const void *const *, size_t, size_t, float *);
        void (*l1_many)(const float *, const void *const *, size_t, size_t, float *);
        void (*widen)(const void *, size_t, float *);
        size_t (*find_unfit)(const void *, size_t);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_AVX2, avx512_l2sq_many, avx512_dot_many, avx512_l1_many,
          avx2_widen, avx2_find_unfit },
        { VSHARD_CPU_AVX2, avx2_l2sq_many, avx2_dot_many, avx2_l1_many, avx2_widen,
          avx2_find_unfit },
        { VSHARD_CPU_SSE2, sse2_l2sq_many, sse2_dot_many, sse2_l1_many, sse2_widen,
          sse2_find_unfit },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_l2sq_many, neon_dot_many, neon_l1_many, neon_widen,
          scalar_find_unfit },
#endif
        { 0, scalar_l2sq_many, scalar_dot_many, scalar_l1_many, scalar_widen, scalar_find_unfit },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l2sq_f16_many = variants[i].l2sq_many;
    kernel->dot_f16_many = variants[i].dot_many;
    kernel->l1_f16_many = variants[i].l1_many;
    kernel->widen_f16 = variants[i].widen;
    kernel->find_unfit_f16 = variants[i].find_unfit;
    return variants[i].needs;
}
