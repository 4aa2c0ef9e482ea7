/* float32.c - squared distance, dot product and sum of absolute differences of
 * float32 vectors.
 *
 * Why two sums a row: a fused multiply-add takes four cycles and two start in
 * each, so eight must be in flight to keep that pace: two sums in each of four
 * rows. More rows at once would share the loads of the query better, but AVX2
 * has sixteen registers.
 *
 * One-to-one is the same row by itself, sum for sum, so that it gives the same
 * bits: a result must not depend on which function a caller found handy. It runs
 * at half the pace for want of work in flight.
 *
 * The bound. With u = 2^-24, a difference carries one rounding, its square two
 * of those and one more for the product (none when fused), and a sum of n terms
 * at most n - 1, whatever the order: (n + 2) u. A dot product has no difference:
 * n u. An absolute difference has its one rounding: n u. Sums over lanes stay far
 * below that. */
#include "kernel/topics.h"

VS_NO_FUSING

enum job { L2SQ, DOT, L1 };

/* ---- scalar ---- */

static float difference(const float *a, const float *b, size_t i)
{
    return vs_float_at(a, i) - vs_float_at(b, i);
}

static float product(const float *a, const float *b, size_t i)
{
    return vs_float_at(a, i) * vs_float_at(b, i);
}

static float scalar_l2sq(const float *a, const float *b, size_t dim)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) { /* four sums: no addition waits for the last */
        float d0 = difference(a, b, i), d1 = difference(a, b, i + 1);
        float d2 = difference(a, b, i + 2), d3 = difference(a, b, i + 3);
        s0 += d0 * d0;
        s1 += d1 * d1;
        s2 += d2 * d2;
        s3 += d3 * d3;
    }
    for (; i < dim; i++)
        s0 += difference(a, b, i) * difference(a, b, i);
    return (s0 + s1) + (s2 + s3);
}

static float scalar_dot(const float *a, const float *b, size_t dim)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        s0 += product(a, b, i);
        s1 += product(a, b, i + 1);
        s2 += product(a, b, i + 2);
        s3 += product(a, b, i + 3);
    }
    for (; i < dim; i++)
        s0 += product(a, b, i);
    return (s0 + s1) + (s2 + s3);
}

static float scalar_l1(const float *a, const float *b, size_t dim)
{
    float sum[4] = { 0 };

    for (size_t i = 0; i < dim; i++) {
        float d = difference(a, b, i);
        sum[i % 4] += d < 0 ? -d : d;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void scalar_l2sq_many(const float *query, const void *const *rows, size_t count, size_t dim,
                             float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = scalar_l2sq(query, rows[i], dim);
}

static void scalar_dot_many(const float *query, const void *const *rows, size_t count, size_t dim,
                            float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = scalar_dot(query, rows[i], dim);
}

static void scalar_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                           float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = scalar_l1(query, rows[i], dim);
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

VS_STEP __m128 sse2_step(int job, __m128 sum, __m128 a, __m128 b)
{
    if (job == L1)
        return _mm_add_ps(sum, _mm_andnot_ps(_mm_set1_ps(-0.0f), _mm_sub_ps(a, b)));
    if (job == L2SQ)
        a = b = _mm_sub_ps(a, b);
    return _mm_add_ps(sum, _mm_mul_ps(a, b));
}

VS_STEP __m128 sse2_last(const float *x, size_t n)
{
    return _mm_castsi128_ps(sse2_few(x, n * sizeof *x));
}

VS_STEP void sse2_four(int job, const void *query, const void *const *rows, size_t dim, float *out)
{
    const float *q = query;
    const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128 a = _mm_setzero_ps(), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        __m128 x = _mm_loadu_ps(q + i);
        a = sse2_step(job, a, x, _mm_loadu_ps(ra + i));
        b = sse2_step(job, b, x, _mm_loadu_ps(rb + i));
        c = sse2_step(job, c, x, _mm_loadu_ps(rc + i));
        d = sse2_step(job, d, x, _mm_loadu_ps(rd + i));
    }
    if (i < dim) {
        __m128 x = sse2_last(q + i, dim - i);
        a = sse2_step(job, a, x, sse2_last(ra + i, dim - i));
        b = sse2_step(job, b, x, sse2_last(rb + i, dim - i));
        c = sse2_step(job, c, x, sse2_last(rc + i, dim - i));
        d = sse2_step(job, d, x, sse2_last(rd + i, dim - i));
    }
    _mm_storeu_ps(out, sse2_sum4_ps(a, b, c, d));
}

static float sse2_l2sq(const float *a, const float *b, size_t dim)
{
    const void *row = b;
    float sum;

    vs_floats_by_fours(sse2_four, L2SQ, a, &row, 1, dim, &sum);
    return sum;
}

static float sse2_dot(const float *a, const float *b, size_t dim)
{
    const void *row = b;
    float sum;

    vs_floats_by_fours(sse2_four, DOT, a, &row, 1, dim, &sum);
    return sum;
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

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256 avx2_step(enum job job, __m256 sum, __m256 a, __m256 b)
{
    if (job == L1)
        return _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(a, b)));
    if (job == L2SQ)
        a = b = _mm256_sub_ps(a, b);
    return _mm256_fmadd_ps(a, b, sum);
}

AVX2 VS_STEP float avx2_one(enum job job, const float *q, const float *r, size_t dim)
{
    __m256 a0 = _mm256_setzero_ps(), a1 = a0;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        a0 = avx2_step(job, a0, _mm256_loadu_ps(q + i), _mm256_loadu_ps(r + i));
        a1 = avx2_step(job, a1, _mm256_loadu_ps(q + i + 8), _mm256_loadu_ps(r + i + 8));
    }
    if (i + 8 <= dim) {
        a0 = avx2_step(job, a0, _mm256_loadu_ps(q + i), _mm256_loadu_ps(r + i));
        i += 8;
    }
    if (i < dim) {
        __m256i m = first_lanes(dim - i);
        a1 = avx2_step(job, a1, _mm256_maskload_ps(q + i, m), _mm256_maskload_ps(r + i, m));
    }
    a0 = _mm256_add_ps(a0, a1);
    return _mm_cvtss_f32(sum4_ps(a0, a0, a0, a0));
}

AVX2 VS_STEP void avx2_four(enum job job, const float *q, const void *const *rows, size_t dim,
                            float *out)
{
    const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256 a0 = _mm256_setzero_ps(), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m256 x = _mm256_loadu_ps(q + i), y = _mm256_loadu_ps(q + i + 8);
        a0 = avx2_step(job, a0, x, _mm256_loadu_ps(ra + i));
        b0 = avx2_step(job, b0, x, _mm256_loadu_ps(rb + i));
        c0 = avx2_step(job, c0, x, _mm256_loadu_ps(rc + i));
        d0 = avx2_step(job, d0, x, _mm256_loadu_ps(rd + i));
        a1 = avx2_step(job, a1, y, _mm256_loadu_ps(ra + i + 8));
        b1 = avx2_step(job, b1, y, _mm256_loadu_ps(rb + i + 8));
        c1 = avx2_step(job, c1, y, _mm256_loadu_ps(rc + i + 8));
        d1 = avx2_step(job, d1, y, _mm256_loadu_ps(rd + i + 8));
    }
    if (i + 8 <= dim) {
        __m256 x = _mm256_loadu_ps(q + i);
        a0 = avx2_step(job, a0, x, _mm256_loadu_ps(ra + i));
        b0 = avx2_step(job, b0, x, _mm256_loadu_ps(rb + i));
        c0 = avx2_step(job, c0, x, _mm256_loadu_ps(rc + i));
        d0 = avx2_step(job, d0, x, _mm256_loadu_ps(rd + i));
        i += 8;
    }
    if (i < dim) {
        __m256i m = first_lanes(dim - i);
        __m256 x = _mm256_maskload_ps(q + i, m);
        a1 = avx2_step(job, a1, x, _mm256_maskload_ps(ra + i, m));
        b1 = avx2_step(job, b1, x, _mm256_maskload_ps(rb + i, m));
        c1 = avx2_step(job, c1, x, _mm256_maskload_ps(rc + i, m));
        d1 = avx2_step(job, d1, x, _mm256_maskload_ps(rd + i, m));
    }
    _mm_storeu_ps(out, sum4_ps(_mm256_add_ps(a0, a1), _mm256_add_ps(b0, b1), _mm256_add_ps(c0, c1),
                               _mm256_add_ps(d0, d1)));
}

AVX2 VS_STEP void avx2_many(enum job job, const float *q, const void *const *rows, size_t count,
                            size_t dim, float *out)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        avx2_four(job, q, rows + i, dim, out + i);
    for (; i < count; i++)
        out[i] = avx2_one(job, q, rows[i], dim);
}

AVX2 static float avx2_l2sq(const float *a, const float *b, size_t dim)
{
    return avx2_one(L2SQ, a, b, dim);
}

AVX2 static float avx2_dot(const float *a, const float *b, size_t dim)
{
    return avx2_one(DOT, a, b, dim);
}

AVX2 static void avx2_l2sq_many(const float *query, const void *const *rows, size_t count,
                                size_t dim, float *out)
{
    avx2_many(L2SQ, query, rows, count, dim, out);
}

AVX2 static void avx2_dot_many(const float *query, const void *const *rows, size_t count,
                               size_t dim, float *out)
{
    avx2_many(DOT, query, rows, count, dim, out);
}

AVX2 static void avx2_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                              float *out)
{
    avx2_many(L1, query, rows, count, dim, out);
}

/* ---- AVX-512 ----
 * Masked loads for the end; otherwise as above. Skylake and Cascade Lake servers
 * lower their clock for 512-bit multiplications, and may run AVX2 as fast. They are
 * given these all the same: what a search spends its time on are codes, and whether
 * a choice by model would gain anything was not measured on one. */

AVX512 VS_STEP __m512 avx512_step(enum job job, __m512 sum, __m512 a, __m512 b)
{
    if (job == L1)
        return _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(a, b)));
    if (job == L2SQ)
        a = b = _mm512_sub_ps(a, b);
    return _mm512_fmadd_ps(a, b, sum);
}

AVX512 VS_STEP float avx512_one(enum job job, const float *q, const float *r, size_t dim)
{
    __m512 a0 = _mm512_setzero_ps(), a1 = a0;
    size_t i = 0;
    __m256 a;

    for (; i + 32 <= dim; i += 32) {
        a0 = avx512_step(job, a0, _mm512_loadu_ps(q + i), _mm512_loadu_ps(r + i));
        a1 = avx512_step(job, a1, _mm512_loadu_ps(q + i + 16), _mm512_loadu_ps(r + i + 16));
    }
    if (i + 16 <= dim) {
        a0 = avx512_step(job, a0, _mm512_loadu_ps(q + i), _mm512_loadu_ps(r + i));
        i += 16;
    }
    if (i < dim) {
        const __mmask16 m = first_floats(dim - i);
        a1 = avx512_step(job, a1, _mm512_maskz_loadu_ps(m, q + i), _mm512_maskz_loadu_ps(m, r + i));
    }
    a = halves_ps(_mm512_add_ps(a0, a1));
    return _mm_cvtss_f32(sum4_ps(a, a, a, a));
}

AVX512 VS_STEP void avx512_four(enum job job, const float *q, const void *const *rows, size_t dim,
                                float *out)
{
    const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512 a0 = _mm512_setzero_ps(), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        __m512 x = _mm512_loadu_ps(q + i), y = _mm512_loadu_ps(q + i + 16);
        a0 = avx512_step(job, a0, x, _mm512_loadu_ps(ra + i));
        b0 = avx512_step(job, b0, x, _mm512_loadu_ps(rb + i));
        c0 = avx512_step(job, c0, x, _mm512_loadu_ps(rc + i));
        d0 = avx512_step(job, d0, x, _mm512_loadu_ps(rd + i));
        a1 = avx512_step(job, a1, y, _mm512_loadu_ps(ra + i + 16));
        b1 = avx512_step(job, b1, y, _mm512_loadu_ps(rb + i + 16));
        c1 = avx512_step(job, c1, y, _mm512_loadu_ps(rc + i + 16));
        d1 = avx512_step(job, d1, y, _mm512_loadu_ps(rd + i + 16));
    }
    if (i + 16 <= dim) {
        __m512 x = _mm512_loadu_ps(q + i);
        a0 = avx512_step(job, a0, x, _mm512_loadu_ps(ra + i));
        b0 = avx512_step(job, b0, x, _mm512_loadu_ps(rb + i));
        c0 = avx512_step(job, c0, x, _mm512_loadu_ps(rc + i));
        d0 = avx512_step(job, d0, x, _mm512_loadu_ps(rd + i));
        i += 16;
    }
    if (i < dim) {
        const __mmask16 m = first_floats(dim - i);
        __m512 x = _mm512_maskz_loadu_ps(m, q + i);
        a1 = avx512_step(job, a1, x, _mm512_maskz_loadu_ps(m, ra + i));
        b1 = avx512_step(job, b1, x, _mm512_maskz_loadu_ps(m, rb + i));
        c1 = avx512_step(job, c1, x, _mm512_maskz_loadu_ps(m, rc + i));
        d1 = avx512_step(job, d1, x, _mm512_maskz_loadu_ps(m, rd + i));
    }
    _mm_storeu_ps(out, sum4_ps(halves_ps(_mm512_add_ps(a0, a1)), halves_ps(_mm512_add_ps(b0, b1)),
                               halves_ps(_mm512_add_ps(c0, c1)), halves_ps(_mm512_add_ps(d0, d1))));
}

AVX512 VS_STEP void avx512_many(enum job job, const float *q, const void *const *rows, size_t count,
                                size_t dim, float *out)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        avx512_four(job, q, rows + i, dim, out + i);
    for (; i < count; i++)
        out[i] = avx512_one(job, q, rows[i], dim);
}

AVX512 static float avx512_l2sq(const float *a, const float *b, size_t dim)
{
    return avx512_one(L2SQ, a, b, dim);
}

AVX512 static float avx512_dot(const float *a, const float *b, size_t dim)
{
    return avx512_one(DOT, a, b, dim);
}

AVX512 static void avx512_l2sq_many(const float *query, const void *const *rows, size_t count,
                                    size_t dim, float *out)
{
    avx512_many(L2SQ, query, rows, count, dim, out);
}

AVX512 static void avx512_dot_many(const float *query, const void *const *rows, size_t count,
                                   size_t dim, float *out)
{
    avx512_many(DOT, query, rows, count, dim, out);
}

AVX512 static void avx512_l1_many(const float *query, const void *const *rows, size_t count,
                                  size_t dim, float *out)
{
    avx512_many(L1, query, rows, count, dim, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

VS_STEP float32x4_t neon_step(enum job job, float32x4_t sum, float32x4_t a, float32x4_t b)
{
    if (job == L1)
        return vaddq_f32(sum, vabdq_f32(a, b));
    if (job == L2SQ)
        a = b = vsubq_f32(a, b);
    return vfmaq_f32(sum, a, b);
}

/* The last 1 to 3 elements, zeros beside them. */
VS_STEP float32x4_t neon_last(const float *from, size_t left)
{
    float few[4] = { from[0], left > 1 ? from[1] : 0, left > 2 ? from[2] : 0, 0 };
    return vld1q_f32(few);
}

VS_STEP float neon_one(enum job job, const float *q, const float *r, size_t dim)
{
    float32x4_t a0 = vdupq_n_f32(0), a1 = a0;
    size_t i = 0;

    for (; i + 8 <= dim; i += 8) {
        a0 = neon_step(job, a0, vld1q_f32(q + i), vld1q_f32(r + i));
        a1 = neon_step(job, a1, vld1q_f32(q + i + 4), vld1q_f32(r + i + 4));
    }
    if (i + 4 <= dim) {
        a0 = neon_step(job, a0, vld1q_f32(q + i), vld1q_f32(r + i));
        i += 4;
    }
    if (i < dim)
        a1 = neon_step(job, a1, neon_last(q + i, dim - i), neon_last(r + i, dim - i));
    return vaddvq_f32(vaddq_f32(a0, a1));
}

VS_STEP void neon_four(enum job job, const float *q, const void *const *rows, size_t dim,
                       float *out)
{
    const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    float32x4_t a0 = vdupq_n_f32(0), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
    size_t i = 0;

    for (; i + 8 <= dim; i += 8) {
        float32x4_t x = vld1q_f32(q + i), y = vld1q_f32(q + i + 4);
        a0 = neon_step(job, a0, x, vld1q_f32(ra + i));
        b0 = neon_step(job, b0, x, vld1q_f32(rb + i));
        c0 = neon_step(job, c0, x, vld1q_f32(rc + i));
        d0 = neon_step(job, d0, x, vld1q_f32(rd + i));
        a1 = neon_step(job, a1, y, vld1q_f32(ra + i + 4));
        b1 = neon_step(job, b1, y, vld1q_f32(rb + i + 4));
        c1 = neon_step(job, c1, y, vld1q_f32(rc + i + 4));
        d1 = neon_step(job, d1, y, vld1q_f32(rd + i + 4));
    }
    if (i + 4 <= dim) {
        float32x4_t x = vld1q_f32(q + i);
        a0 = neon_step(job, a0, x, vld1q_f32(ra + i));
        b0 = neon_step(job, b0, x, vld1q_f32(rb + i));
        c0 = neon_step(job, c0, x, vld1q_f32(rc + i));
        d0 = neon_step(job, d0, x, vld1q_f32(rd + i));
        i += 4;
    }
    if (i < dim) {
        float32x4_t x = neon_last(q + i, dim - i);
        a1 = neon_step(job, a1, x, neon_last(ra + i, dim - i));
        b1 = neon_step(job, b1, x, neon_last(rb + i, dim - i));
        c1 = neon_step(job, c1, x, neon_last(rc + i, dim - i));
        d1 = neon_step(job, d1, x, neon_last(rd + i, dim - i));
    }
    out[0] = vaddvq_f32(vaddq_f32(a0, a1));
    out[1] = vaddvq_f32(vaddq_f32(b0, b1));
    out[2] = vaddvq_f32(vaddq_f32(c0, c1));
    out[3] = vaddvq_f32(vaddq_f32(d0, d1));
}

VS_STEP void neon_many(enum job job, const float *q, const void *const *rows, size_t count,
                       size_t dim, float *out)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        neon_four(job, q, rows + i, dim, out + i);
    for (; i < count; i++)
        out[i] = neon_one(job, q, rows[i], dim);
}

static float neon_l2sq(const float *a, const float *b, size_t dim)
{
    return neon_one(L2SQ, a, b, dim);
}

static float neon_dot(const float *a, const float *b, size_t dim)
{
    return neon_one(DOT, a, b, dim);
}

static void neon_l2sq_many(const float *query, const void *const *rows, size_t count, size_t dim,
                           float *out)
{
    neon_many(L2SQ, query, rows, count, dim, out);
}

static void neon_dot_many(const float *query, const void *const *rows, size_t count, size_t dim,
                          float *out)
{
    neon_many(DOT, query, rows, count, dim, out);
}

static void neon_l1_many(const float *query, const void *const *rows, size_t count, size_t dim,
                         float *out)
{
    neon_many(L1, query, rows, count, dim, out);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_float32(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        float (*l2sq)(const float *, const float *, size_t);
        float (*dot)(const float *, const float *, size_t);
        void (*l2sq_many)(const float *, const void *const *, size_t, size_t, float *);
        void (*dot_many)(const float *, const void *const *, size_t, size_t, float *);
        void (*l1_many)(const float *, const void *const *, size_t, size_t, float *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512, avx512_l2sq, avx512_dot, avx512_l2sq_many, avx512_dot_many,
          avx512_l1_many },
        { VSHARD_CPU_AVX2, avx2_l2sq, avx2_dot, avx2_l2sq_many, avx2_dot_many, avx2_l1_many },
        { VSHARD_CPU_SSE2, sse2_l2sq, sse2_dot, sse2_l2sq_many, sse2_dot_many, sse2_l1_many },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_l2sq, neon_dot, neon_l2sq_many, neon_dot_many, neon_l1_many },
#endif
        { 0, scalar_l2sq, scalar_dot, scalar_l2sq_many, scalar_dot_many, scalar_l1_many },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l2sq_f32 = variants[i].l2sq;
    kernel->dot_f32 = variants[i].dot;
    kernel->l2sq_f32_many = variants[i].l2sq_many;
    kernel->dot_f32_many = variants[i].dot_many;
    kernel->l1_f32_many = variants[i].l1_many;
    return variants[i].needs;
}
