/* l1.c - sums of absolute differences of bytes: 8-bit elements, and codes.
 *
 * One instruction of x86 adds up the absolute differences of eight unsigned
 * bytes. Signed ones are moved by 128 on both sides, which no difference sees.
 *
 * 65536 bytes add up to at most 65536 * 255 < 2^24, so each lane of 64 bits has
 * zeros in its upper half, and is added up as two of 32. */
#include "kernel/topics.h"

enum { U8, I8 };

/* ---- scalar ---- */

VS_STEP void scalar_many(int job, const void *query, const void *const *rows, size_t count,
                         size_t dim, int32_t *out)
{
    const uint8_t *q = query, move = job == I8 ? 128 : 0;

    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = rows[r];
        int32_t sum = 0;

        for (size_t i = 0; i < dim; i++) {
            int32_t d = (q[i] ^ move) - (row[i] ^ move);
            sum += d < 0 ? -d : d;
        }
        out[r] = sum;
    }
}

static void scalar_u8_many(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                           int32_t *out)
{
    scalar_many(U8, query, rows, count, dim, out);
}

static void scalar_i8_many(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                           int32_t *out)
{
    scalar_many(I8, query, rows, count, dim, out);
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

VS_STEP __m128i sse2_moved(int job, __m128i v)
{
    return job == I8 ? _mm_xor_si128(v, _mm_set1_epi8(-128)) : v;
}

/* q was moved before. */
VS_STEP __m128i sse2_step(int job, __m128i sum, __m128i q, __m128i r)
{
    return _mm_add_epi32(sum, _mm_sad_epu8(q, sse2_moved(job, r)));
}

VS_STEP __m128i sse2_load(const uint8_t *from)
{
    return _mm_loadu_si128((const void *)from);
}

VS_STEP void sse2_four(int job, const void *query, const void *const *rows, size_t dim,
                       int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128i a = _mm_setzero_si128(), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        __m128i x = sse2_moved(job, sse2_load(q + i));
        a = sse2_step(job, a, x, sse2_load(ra + i));
        b = sse2_step(job, b, x, sse2_load(rb + i));
        c = sse2_step(job, c, x, sse2_load(rc + i));
        d = sse2_step(job, d, x, sse2_load(rd + i));
    }
    if (i < dim) {
        __m128i x = sse2_moved(job, sse2_few(q + i, dim - i));
        a = sse2_step(job, a, x, sse2_few(ra + i, dim - i));
        b = sse2_step(job, b, x, sse2_few(rb + i, dim - i));
        c = sse2_step(job, c, x, sse2_few(rc + i, dim - i));
        d = sse2_step(job, d, x, sse2_few(rd + i, dim - i));
    }
    _mm_storeu_si128((void *)out, sse2_sum4_epi32(a, b, c, d));
}

static void sse2_u8_many(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out)
{
    vs_by_fours(sse2_four, U8, query, rows, count, dim, out);
}

static void sse2_i8_many(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out)
{
    vs_by_fours(sse2_four, I8, query, rows, count, dim, out);
}

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_moved(int job, __m256i v)
{
    return job == I8 ? _mm256_xor_si256(v, _mm256_set1_epi8(-128)) : v;
}

/* q was moved before. */
AVX2 VS_STEP __m256i avx2_step(int job, __m256i sum, __m256i q, __m256i r)
{
    return _mm256_add_epi32(sum, _mm256_sad_epu8(q, avx2_moved(job, r)));
}

AVX2 VS_STEP __m256i avx2_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const void *)from);
}

AVX2 VS_STEP void avx2_four(int job, const void *query, const void *const *rows, size_t dim,
                            int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        __m256i x = avx2_moved(job, avx2_load(q + i));
        a = avx2_step(job, a, x, avx2_load(ra + i));
        b = avx2_step(job, b, x, avx2_load(rb + i));
        c = avx2_step(job, c, x, avx2_load(rc + i));
        d = avx2_step(job, d, x, avx2_load(rd + i));
    }
    if (i < dim) {
        __m256i x = avx2_moved(job, last_bytes(q, dim, dim - i));
        a = avx2_step(job, a, x, last_bytes(ra, dim, dim - i));
        b = avx2_step(job, b, x, last_bytes(rb, dim, dim - i));
        c = avx2_step(job, c, x, last_bytes(rc, dim, dim - i));
        d = avx2_step(job, d, x, last_bytes(rd, dim, dim - i));
    }
    _mm_storeu_si128((void *)out, sum4_epi32(a, b, c, d));
}

AVX2 static void avx2_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, U8, query, rows, count, dim, out);
}

AVX2 static void avx2_i8_many(const int8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, I8, query, rows, count, dim, out);
}

/* ---- AVX-512 ---- */

AVX512 VS_STEP __m512i avx512_moved(int job, __m512i v)
{
    return job == I8 ? _mm512_xor_si512(v, _mm512_set1_epi8(-128)) : v;
}

AVX512 VS_STEP __m512i avx512_step(int job, __m512i sum, __m512i q, __m512i r)
{
    return _mm512_add_epi32(sum, _mm512_sad_epu8(q, avx512_moved(job, r)));
}

AVX512 VS_STEP void avx512_four(int job, const void *query, const void *const *rows, size_t dim,
                                int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < dim; i += 64) {
        const __mmask64 m = first_bytes(dim - i);
        __m512i x = avx512_moved(job, _mm512_maskz_loadu_epi8(m, q + i));
        a = avx512_step(job, a, x, _mm512_maskz_loadu_epi8(m, ra + i));
        b = avx512_step(job, b, x, _mm512_maskz_loadu_epi8(m, rb + i));
        c = avx512_step(job, c, x, _mm512_maskz_loadu_epi8(m, rc + i));
        d = avx512_step(job, d, x, _mm512_maskz_loadu_epi8(m, rd + i));
    }
    _mm_storeu_si128((void *)out, avx512_sum4_epi32(a, b, c, d));
}

AVX512 static void avx512_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, U8, query, rows, count, dim, out);
}

AVX512 static void avx512_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, I8, query, rows, count, dim, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

/* The difference of signed bytes, too, fits an unsigned one. */
VS_STEP uint32x4_t neon_step(int job, uint32x4_t sum, uint8x16_t q, uint8x16_t r)
{
    uint8x16_t d = vabdq_u8(q, r);

    if (job == I8)
        d = vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)));
    return vpadalq_u16(sum, vpaddlq_u8(d));
}

VS_STEP void neon_four(int job, const void *query, const void *const *rows, size_t dim,
                       int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        uint8x16_t x = vld1q_u8(q + i);
        a = neon_step(job, a, x, vld1q_u8(ra + i));
        b = neon_step(job, b, x, vld1q_u8(rb + i));
        c = neon_step(job, c, x, vld1q_u8(rc + i));
        d = neon_step(job, d, x, vld1q_u8(rd + i));
    }
    if (i < dim) {
        uint8x16_t x = last_bytes(q, dim, dim - i);
        a = neon_step(job, a, x, last_bytes(ra, dim, dim - i));
        b = neon_step(job, b, x, last_bytes(rb, dim, dim - i));
        c = neon_step(job, c, x, last_bytes(rc, dim, dim - i));
        d = neon_step(job, d, x, last_bytes(rd, dim, dim - i));
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

static void neon_u8_many(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out)
{
    vs_by_fours(neon_four, U8, query, rows, count, dim, out);
}

static void neon_i8_many(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out)
{
    vs_by_fours(neon_four, I8, query, rows, count, dim, out);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_l1(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*u8)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*i8)(const int8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512, avx512_u8_many, avx512_i8_many },
        { VSHARD_CPU_AVX2, avx2_u8_many, avx2_i8_many },
        { VSHARD_CPU_SSE2, sse2_u8_many, sse2_i8_many },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_u8_many, neon_i8_many },
#endif
        { 0, scalar_u8_many, scalar_i8_many },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l1_u8_many = variants[i].u8;
    kernel->l1_i8_many = variants[i].i8;
    return variants[i].needs;
}
