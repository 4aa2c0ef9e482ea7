/* int8.c - squared distance and dot product of 8-bit elements.
 *
 * Eight bits and a sign do not fit what AVX2 can multiply as bytes, so even and
 * odd bytes are spread to 16 bits, by mask and shift, which cost less than the
 * widening loads: those go through the one port that crosses lanes. The order of
 * elements does not matter to a sum.
 *
 * 32768 elements add up to at most 32768 * 255 * 255 < 2^31. */
#include "kernel/topics.h"

enum { L2SQ_U8, L2SQ_I8, DOT_U8, DOT_I8 };

/* ---- scalar ---- */

VS_STEP int32_t scalar_element(int job, const void *from, size_t i)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return ((const uint8_t *)from)[i];
    return ((const int8_t *)from)[i];
}

VS_STEP void scalar_many(int job, const void *query, const void *const *rows, size_t count,
                         size_t dim, int32_t *out)
{
    for (size_t r = 0; r < count; r++) {
        int32_t sum = 0;
        for (size_t i = 0; i < dim; i++) {
            int32_t a = scalar_element(job, query, i), b = scalar_element(job, rows[r], i);
            sum += job == DOT_U8 || job == DOT_I8 ? a * b : (a - b) * (a - b);
        }
        out[r] = sum;
    }
}

static void scalar_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                size_t dim, int32_t *out)
{
    scalar_many(L2SQ_U8, query, rows, count, dim, out);
}

static void scalar_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                size_t dim, int32_t *out)
{
    scalar_many(L2SQ_I8, query, rows, count, dim, out);
}

static void scalar_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                               size_t dim, int32_t *out)
{
    scalar_many(DOT_U8, query, rows, count, dim, out);
}

static void scalar_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                               size_t dim, int32_t *out)
{
    scalar_many(DOT_I8, query, rows, count, dim, out);
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

VS_STEP __m128i sse2_even(int job, __m128i v)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return _mm_and_si128(v, _mm_set1_epi16(255));
    return _mm_srai_epi16(_mm_slli_epi16(v, 8), 8);
}

VS_STEP __m128i sse2_odd(int job, __m128i v)
{
    return job == L2SQ_U8 || job == DOT_U8 ? _mm_srli_epi16(v, 8) : _mm_srai_epi16(v, 8);
}

VS_STEP __m128i sse2_pairs(int job, __m128i a, __m128i b)
{
    if (job == L2SQ_U8 || job == L2SQ_I8)
        a = b = _mm_sub_epi16(a, b);
    return _mm_madd_epi16(a, b);
}

/* even and odd: of the query; r: as it was loaded. */
VS_STEP __m128i sse2_step(int job, __m128i sum, __m128i even, __m128i odd, __m128i r)
{
    sum = _mm_add_epi32(sum, sse2_pairs(job, even, sse2_even(job, r)));
    return _mm_add_epi32(sum, sse2_pairs(job, odd, sse2_odd(job, r)));
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
        __m128i x = sse2_load(q + i);
        __m128i even = sse2_even(job, x), odd = sse2_odd(job, x);
        a = sse2_step(job, a, even, odd, sse2_load(ra + i));
        b = sse2_step(job, b, even, odd, sse2_load(rb + i));
        c = sse2_step(job, c, even, odd, sse2_load(rc + i));
        d = sse2_step(job, d, even, odd, sse2_load(rd + i));
    }
    if (i < dim) {
        __m128i x = sse2_few(q + i, dim - i);
        __m128i even = sse2_even(job, x), odd = sse2_odd(job, x);
        a = sse2_step(job, a, even, odd, sse2_few(ra + i, dim - i));
        b = sse2_step(job, b, even, odd, sse2_few(rb + i, dim - i));
        c = sse2_step(job, c, even, odd, sse2_few(rc + i, dim - i));
        d = sse2_step(job, d, even, odd, sse2_few(rd + i, dim - i));
    }
    _mm_storeu_si128((void *)out, sse2_sum4_epi32(a, b, c, d));
}

static void sse2_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(sse2_four, L2SQ_U8, query, rows, count, dim, out);
}

static void sse2_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(sse2_four, L2SQ_I8, query, rows, count, dim, out);
}

static void sse2_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                             size_t dim, int32_t *out)
{
    vs_by_fours(sse2_four, DOT_U8, query, rows, count, dim, out);
}

static void sse2_dot_i8_many(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                             int32_t *out)
{
    vs_by_fours(sse2_four, DOT_I8, query, rows, count, dim, out);
}

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_even(int job, __m256i v)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return _mm256_and_si256(v, _mm256_set1_epi16(255));
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}

AVX2 VS_STEP __m256i avx2_odd(int job, __m256i v)
{
    return job == L2SQ_U8 || job == DOT_U8 ? _mm256_srli_epi16(v, 8) : _mm256_srai_epi16(v, 8);
}

AVX2 VS_STEP __m256i avx2_pairs(int job, __m256i a, __m256i b)
{
    if (job == L2SQ_U8 || job == L2SQ_I8)
        a = b = _mm256_sub_epi16(a, b);
    return _mm256_madd_epi16(a, b);
}

/* even and odd: of the query; r: as it was loaded. */
AVX2 VS_STEP __m256i avx2_step(int job, __m256i sum, __m256i even, __m256i odd, __m256i r)
{
    sum = _mm256_add_epi32(sum, avx2_pairs(job, even, avx2_even(job, r)));
    return _mm256_add_epi32(sum, avx2_pairs(job, odd, avx2_odd(job, r)));
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
        __m256i x = avx2_load(q + i);
        __m256i even = avx2_even(job, x), odd = avx2_odd(job, x);
        a = avx2_step(job, a, even, odd, avx2_load(ra + i));
        b = avx2_step(job, b, even, odd, avx2_load(rb + i));
        c = avx2_step(job, c, even, odd, avx2_load(rc + i));
        d = avx2_step(job, d, even, odd, avx2_load(rd + i));
    }
    if (i < dim) {
        __m256i x = last_bytes(q, dim, dim - i);
        __m256i even = avx2_even(job, x), odd = avx2_odd(job, x);
        a = avx2_step(job, a, even, odd, last_bytes(ra, dim, dim - i));
        b = avx2_step(job, b, even, odd, last_bytes(rb, dim, dim - i));
        c = avx2_step(job, c, even, odd, last_bytes(rc, dim, dim - i));
        d = avx2_step(job, d, even, odd, last_bytes(rd, dim, dim - i));
    }
    _mm_storeu_si128((void *)out, sum4_epi32(a, b, c, d));
}

AVX2 static void avx2_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, L2SQ_U8, query, rows, count, dim, out);
}

AVX2 static void avx2_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, L2SQ_I8, query, rows, count, dim, out);
}

AVX2 static void avx2_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, DOT_U8, query, rows, count, dim, out);
}

AVX2 static void avx2_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vs_by_fours(avx2_four, DOT_I8, query, rows, count, dim, out);
}

/* ---- AVX-VNNI, 256 bits: client CPUs without AVX-512 ----
 * Dot products only: it would save a squared distance two steps of eight. Bytes
 * are multiplied unsigned by signed, so one side is moved by 128, and 128 times
 * the sum of the query makes up for it. That side is always the row: where
 * elements are missing at the end the query is 0, and so is the product. */

AVXVNNI VS_STEP __m256i avxvnni_step(int job, __m256i sum, __m256i q, __m256i r)
{
    r = _mm256_xor_si256(r, _mm256_set1_epi8(-128));
    return job == DOT_U8 ? _mm256_dpbusd_avx_epi32(sum, q, r) : _mm256_dpbusd_avx_epi32(sum, r, q);
}

AVXVNNI VS_STEP __m256i avxvnni_sum(int job, __m256i sum, __m256i q)
{
    const __m256i one = _mm256_set1_epi8(1);
    return job == DOT_U8 ? _mm256_dpbusd_avx_epi32(sum, q, one)
                         : _mm256_dpbusd_avx_epi32(sum, one, q);
}

/* What is missing in each sum. */
AVXVNNI VS_STEP int32_t avxvnni_missing(int job, const uint8_t *q, size_t dim)
{
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    int32_t total;

    for (; i + 32 <= dim; i += 32)
        sum = avxvnni_sum(job, sum, avx2_load(q + i));
    if (i < dim)
        sum = avxvnni_sum(job, sum, last_bytes(q, dim, dim - i));
    total = _mm_cvtsi128_si32(sum4_epi32(sum, sum, sum, sum));
    return job == DOT_U8 ? 128 * total : -128 * total;
}

AVXVNNI VS_STEP void avxvnni_four(int job, const uint8_t *q, const void *const *rows, size_t dim,
                                  __m128i missing, int32_t *out)
{
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        __m256i x = avx2_load(q + i);
        a = avxvnni_step(job, a, x, avx2_load(ra + i));
        b = avxvnni_step(job, b, x, avx2_load(rb + i));
        c = avxvnni_step(job, c, x, avx2_load(rc + i));
        d = avxvnni_step(job, d, x, avx2_load(rd + i));
    }
    if (i < dim) {
        __m256i x = last_bytes(q, dim, dim - i);
        a = avxvnni_step(job, a, x, last_bytes(ra, dim, dim - i));
        b = avxvnni_step(job, b, x, last_bytes(rb, dim, dim - i));
        c = avxvnni_step(job, c, x, last_bytes(rc, dim, dim - i));
        d = avxvnni_step(job, d, x, last_bytes(rd, dim, dim - i));
    }
    _mm_storeu_si128((void *)out, _mm_add_epi32(missing, sum4_epi32(a, b, c, d)));
}

AVXVNNI VS_STEP void avxvnni_many(int job, const void *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    const __m128i missing = _mm_set1_epi32(avxvnni_missing(job, query, dim));
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        avxvnni_four(job, query, rows + i, dim, missing, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        avxvnni_four(job, query, last, dim, missing, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

AVXVNNI static void avxvnni_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                        size_t dim, int32_t *out)
{
    avxvnni_many(DOT_U8, query, rows, count, dim, out);
}

AVXVNNI static void avxvnni_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                        size_t dim, int32_t *out)
{
    avxvnni_many(DOT_I8, query, rows, count, dim, out);
}

/* ---- AVX-512 ---- */

AVX512 VS_STEP __m512i avx512_even(int job, __m512i v)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return _mm512_and_si512(v, _mm512_set1_epi16(255));
    return _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8);
}

AVX512 VS_STEP __m512i avx512_odd(int job, __m512i v)
{
    return job == L2SQ_U8 || job == DOT_U8 ? _mm512_srli_epi16(v, 8) : _mm512_srai_epi16(v, 8);
}

AVX512 VS_STEP __m512i avx512_pairs(int job, __m512i a, __m512i b)
{
    if (job == L2SQ_U8 || job == L2SQ_I8)
        a = b = _mm512_sub_epi16(a, b);
    return _mm512_madd_epi16(a, b);
}

AVX512 VS_STEP __m512i avx512_step(int job, __m512i sum, __m512i even, __m512i odd, __m512i r)
{
    sum = _mm512_add_epi32(sum, avx512_pairs(job, even, avx512_even(job, r)));
    return _mm512_add_epi32(sum, avx512_pairs(job, odd, avx512_odd(job, r)));
}

AVX512 VS_STEP void avx512_four(int job, const void *query, const void *const *rows, size_t dim,
                                int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < dim; i += 64) {
        const __mmask64 m = first_bytes(dim - i);
        __m512i x = _mm512_maskz_loadu_epi8(m, q + i);
        __m512i even = avx512_even(job, x), odd = avx512_odd(job, x);
        a = avx512_step(job, a, even, odd, _mm512_maskz_loadu_epi8(m, ra + i));
        b = avx512_step(job, b, even, odd, _mm512_maskz_loadu_epi8(m, rb + i));
        c = avx512_step(job, c, even, odd, _mm512_maskz_loadu_epi8(m, rc + i));
        d = avx512_step(job, d, even, odd, _mm512_maskz_loadu_epi8(m, rd + i));
    }
    _mm_storeu_si128((void *)out, avx512_sum4_epi32(a, b, c, d));
}

AVX512 static void avx512_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                       size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, L2SQ_U8, query, rows, count, dim, out);
}

AVX512 static void avx512_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                       size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, L2SQ_I8, query, rows, count, dim, out);
}

AVX512 static void avx512_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                      size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, DOT_U8, query, rows, count, dim, out);
}

AVX512 static void avx512_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                      size_t dim, int32_t *out)
{
    vs_by_fours(avx512_four, DOT_I8, query, rows, count, dim, out);
}

/* ---- AVX-512 with VNNI ----
 * Squared distances in 16 bits, multiplied and added in one step. Dot products
 * as with AVX-VNNI above. */

VNNI VS_STEP __m512i vnni_step(int job, __m512i sum, __m512i q, __m512i r)
{
    const __m512i move = _mm512_set1_epi8(-128);
    __m512i even, odd;

    if (job == DOT_U8)
        return _mm512_dpbusd_epi32(sum, q, _mm512_xor_si512(r, move));
    if (job == DOT_I8)
        return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(r, move), q);
    even = _mm512_sub_epi16(avx512_even(job, q), avx512_even(job, r));
    odd = _mm512_sub_epi16(avx512_odd(job, q), avx512_odd(job, r));
    return _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum, even, even), odd, odd);
}

VNNI VS_STEP int32_t vnni_missing(int job, const uint8_t *q, size_t dim)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i sum = _mm512_setzero_si512();
    int32_t total;
    __m256i half;

    if (job != DOT_U8 && job != DOT_I8)
        return 0;
    for (size_t i = 0; i < dim; i += 64) {
        __m512i x = _mm512_maskz_loadu_epi8(first_bytes(dim - i), q + i);
        sum = job == DOT_U8 ? _mm512_dpbusd_epi32(sum, x, one) : _mm512_dpbusd_epi32(sum, one, x);
    }
    half = halves_epi32(sum);
    total = _mm_cvtsi128_si32(sum4_epi32(half, half, half, half));
    return job == DOT_U8 ? 128 * total : -128 * total;
}

VNNI VS_STEP void vnni_four(int job, const uint8_t *q, const void *const *rows, size_t dim,
                            __m128i missing, int32_t *out)
{
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < dim; i += 64) {
        const __mmask64 m = first_bytes(dim - i);
        __m512i x = _mm512_maskz_loadu_epi8(m, q + i);
        a = vnni_step(job, a, x, _mm512_maskz_loadu_epi8(m, ra + i));
        b = vnni_step(job, b, x, _mm512_maskz_loadu_epi8(m, rb + i));
        c = vnni_step(job, c, x, _mm512_maskz_loadu_epi8(m, rc + i));
        d = vnni_step(job, d, x, _mm512_maskz_loadu_epi8(m, rd + i));
    }
    _mm_storeu_si128((void *)out, _mm_add_epi32(missing, avx512_sum4_epi32(a, b, c, d)));
}

VNNI VS_STEP void vnni_many(int job, const void *query, const void *const *rows, size_t count,
                            size_t dim, int32_t *out)
{
    const __m128i missing = _mm_set1_epi32(vnni_missing(job, query, dim));
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        vnni_four(job, query, rows + i, dim, missing, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        vnni_four(job, query, last, dim, missing, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

VNNI static void vnni_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    vnni_many(L2SQ_U8, query, rows, count, dim, out);
}

VNNI static void vnni_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    vnni_many(L2SQ_I8, query, rows, count, dim, out);
}

VNNI static void vnni_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vnni_many(DOT_U8, query, rows, count, dim, out);
}

VNNI static void vnni_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    vnni_many(DOT_I8, query, rows, count, dim, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

/* The bytes of q and r, or of their difference twice, are what is multiplied. The
 * difference of signed bytes, too, fits an unsigned one. */
VS_STEP uint32x4_t neon_step(int job, uint32x4_t sum, uint8x16_t q, uint8x16_t r)
{
    if (job == DOT_I8) {
        int8x16_t x = vreinterpretq_s8_u8(q), y = vreinterpretq_s8_u8(r);
        int32x4_t s = vreinterpretq_s32_u32(sum);
        s = vpadalq_s16(s, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        return vreinterpretq_u32_s32(vpadalq_s16(s, vmull_high_s8(x, y)));
    }
    if (job == L2SQ_U8)
        q = r = vabdq_u8(q, r);
    if (job == L2SQ_I8)
        q = r = vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)));
    sum = vpadalq_u16(sum, vmull_u8(vget_low_u8(q), vget_low_u8(r)));
    return vpadalq_u16(sum, vmull_high_u8(q, r));
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

static void neon_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(neon_four, L2SQ_U8, query, rows, count, dim, out);
}

static void neon_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                              size_t dim, int32_t *out)
{
    vs_by_fours(neon_four, L2SQ_I8, query, rows, count, dim, out);
}

static void neon_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                             size_t dim, int32_t *out)
{
    vs_by_fours(neon_four, DOT_U8, query, rows, count, dim, out);
}

static void neon_dot_i8_many(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                             int32_t *out)
{
    vs_by_fours(neon_four, DOT_I8, query, rows, count, dim, out);
}

#if defined(HAVE_DOTPROD)

/* ---- NEON with dot products ---- */

DOTPROD VS_STEP uint32x4_t dotprod_step(int job, uint32x4_t sum, uint8x16_t q, uint8x16_t r)
{
    if (job == DOT_I8)
        return vreinterpretq_u32_s32(
            vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)));
    if (job == L2SQ_U8)
        q = r = vabdq_u8(q, r);
    if (job == L2SQ_I8)
        q = r = vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)));
    return vdotq_u32(sum, q, r);
}

DOTPROD VS_STEP void dotprod_four(int job, const void *query, const void *const *rows, size_t dim,
                                  int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        uint8x16_t x = vld1q_u8(q + i);
        a = dotprod_step(job, a, x, vld1q_u8(ra + i));
        b = dotprod_step(job, b, x, vld1q_u8(rb + i));
        c = dotprod_step(job, c, x, vld1q_u8(rc + i));
        d = dotprod_step(job, d, x, vld1q_u8(rd + i));
    }
    if (i < dim) {
        uint8x16_t x = last_bytes(q, dim, dim - i);
        a = dotprod_step(job, a, x, last_bytes(ra, dim, dim - i));
        b = dotprod_step(job, b, x, last_bytes(rb, dim, dim - i));
        c = dotprod_step(job, c, x, last_bytes(rc, dim, dim - i));
        d = dotprod_step(job, d, x, last_bytes(rd, dim, dim - i));
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

DOTPROD static void dotprod_l2sq_u8_many(const uint8_t *query, const void *const *rows,
                                         size_t count, size_t dim, int32_t *out)
{
    vs_by_fours(dotprod_four, L2SQ_U8, query, rows, count, dim, out);
}

DOTPROD static void dotprod_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                         size_t dim, int32_t *out)
{
    vs_by_fours(dotprod_four, L2SQ_I8, query, rows, count, dim, out);
}

DOTPROD static void dotprod_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                        size_t dim, int32_t *out)
{
    vs_by_fours(dotprod_four, DOT_U8, query, rows, count, dim, out);
}

DOTPROD static void dotprod_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                        size_t dim, int32_t *out)
{
    vs_by_fours(dotprod_four, DOT_I8, query, rows, count, dim, out);
}

#endif
#endif /* aarch64 */

uint32_t vs_kernel_pick_int8(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*l2sq_u8)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*l2sq_i8)(const int8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*dot_u8)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*dot_i8)(const int8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_VNNI, vnni_l2sq_u8_many, vnni_l2sq_i8_many,
          vnni_dot_u8_many, vnni_dot_i8_many },
        { VSHARD_CPU_AVX512, avx512_l2sq_u8_many, avx512_l2sq_i8_many, avx512_dot_u8_many,
          avx512_dot_i8_many },
        { VSHARD_CPU_AVX2 | VSHARD_CPU_AVXVNNI, avx2_l2sq_u8_many, avx2_l2sq_i8_many,
          avxvnni_dot_u8_many, avxvnni_dot_i8_many },
        { VSHARD_CPU_AVX2, avx2_l2sq_u8_many, avx2_l2sq_i8_many, avx2_dot_u8_many,
          avx2_dot_i8_many },
        { VSHARD_CPU_SSE2, sse2_l2sq_u8_many, sse2_l2sq_i8_many, sse2_dot_u8_many,
          sse2_dot_i8_many },
#elif defined(__aarch64__)
#if defined(HAVE_DOTPROD)
        { VSHARD_CPU_NEON | VSHARD_CPU_DOTPROD, dotprod_l2sq_u8_many, dotprod_l2sq_i8_many,
          dotprod_dot_u8_many, dotprod_dot_i8_many },
#endif
        { VSHARD_CPU_NEON, neon_l2sq_u8_many, neon_l2sq_i8_many, neon_dot_u8_many,
          neon_dot_i8_many },
#endif
        { 0, scalar_l2sq_u8_many, scalar_l2sq_i8_many, scalar_dot_u8_many, scalar_dot_i8_many },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l2sq_u8_many = variants[i].l2sq_u8;
    kernel->l2sq_i8_many = variants[i].l2sq_i8;
    kernel->dot_u8_many = variants[i].dot_u8;
    kernel->dot_i8_many = variants[i].dot_i8;
    return variants[i].needs;
}
