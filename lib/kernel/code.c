/* code.c - squared distance and dot product of 7-bit codes.
 *
 * Seven bits are what makes AVX2 fast here: it multiplies bytes only in pairs,
 * and adds each pair in 16 bits. Twice 127 * 127 is 32258, so nothing saturates,
 * and the difference of two codes fits a signed byte. With VNNI four products
 * are added in 32 bits at once.
 *
 * 65536 codes add up to at most 65536 * 127 * 127 < 2^30.
 *
 * `bytes` is a multiple of 64 and codes start at multiples of 64, so there are no
 * ends: each step is one cache line of each of four rows. */
#include "kernel/topics.h"

enum { L2SQ, DOT };

/* ---- scalar ---- */

static void scalar_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                             size_t bytes, int32_t *out)
{
    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = rows[r];
        int32_t sum = 0;
        for (size_t i = 0; i < bytes; i++)
            sum += (query[i] - row[i]) * (query[i] - row[i]);
        out[r] = sum;
    }
}

static void scalar_dot_many(const int8_t *query, const void *const *rows, size_t count,
                            size_t bytes, int32_t *out)
{
    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = rows[r];
        int32_t sum = 0;
        for (size_t i = 0; i < bytes; i++)
            sum += query[i] * row[i];
        out[r] = sum;
    }
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2: no products of bytes, so halves are spread to 16 bits ---- */

VS_STEP __m128i sse2_pairs(int job, __m128i query, __m128i row)
{
    if (job == L2SQ)
        query = row = _mm_sub_epi16(query, row);
    return _mm_madd_epi16(query, row);
}

VS_STEP __m128i sse2_step(int job, __m128i sum, __m128i low, __m128i high, const uint8_t *row)
{
    __m128i r = _mm_load_si128((const void *)row), zero = _mm_setzero_si128();

    sum = _mm_add_epi32(sum, sse2_pairs(job, low, _mm_unpacklo_epi8(r, zero)));
    return _mm_add_epi32(sum, sse2_pairs(job, high, _mm_unpackhi_epi8(r, zero)));
}

VS_STEP void sse2_four(int job, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128i a = _mm_setzero_si128(), b = a, c = a, d = a, zero = a;

    for (size_t i = 0; i < bytes; i += 16) {
        __m128i x = _mm_load_si128((const void *)(q + i));
        __m128i sign = job == DOT ? _mm_cmpgt_epi8(zero, x) : zero;
        __m128i low = _mm_unpacklo_epi8(x, sign), high = _mm_unpackhi_epi8(x, sign);
        a = sse2_step(job, a, low, high, ra + i);
        b = sse2_step(job, b, low, high, rb + i);
        c = sse2_step(job, c, low, high, rc + i);
        d = sse2_step(job, d, low, high, rd + i);
    }
    _mm_storeu_si128((void *)out, sse2_sum4_epi32(a, b, c, d));
}

static void sse2_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out)
{
    vs_by_fours(sse2_four, L2SQ, query, rows, count, bytes, out);
}

static void sse2_dot_many(const int8_t *query, const void *const *rows, size_t count, size_t bytes,
                          int32_t *out)
{
    vs_by_fours(sse2_four, DOT, query, rows, count, bytes, out);
}

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_step(int job, __m256i sum, __m256i query, const uint8_t *row)
{
    __m256i r = _mm256_load_si256((const void *)row);

    if (job == L2SQ)
        r = query = _mm256_abs_epi8(_mm256_sub_epi8(query, r));
    r = _mm256_maddubs_epi16(r, query);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(r, _mm256_set1_epi16(1)));
}

AVX2 VS_STEP void avx2_four(int job, const void *query, const void *const *rows, size_t bytes,
                            int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 64) {
        __m256i x = _mm256_load_si256((const void *)(q + i));
        __m256i y = _mm256_load_si256((const void *)(q + i + 32));
        a = avx2_step(job, a, x, ra + i);
        b = avx2_step(job, b, x, rb + i);
        c = avx2_step(job, c, x, rc + i);
        d = avx2_step(job, d, x, rd + i);
        a = avx2_step(job, a, y, ra + i + 32);
        b = avx2_step(job, b, y, rb + i + 32);
        c = avx2_step(job, c, y, rc + i + 32);
        d = avx2_step(job, d, y, rd + i + 32);
    }
    _mm_storeu_si128((void *)out, sum4_epi32(a, b, c, d));
}

AVX2 static void avx2_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                size_t bytes, int32_t *out)
{
    vs_by_fours(avx2_four, L2SQ, query, rows, count, bytes, out);
}

AVX2 static void avx2_dot_many(const int8_t *query, const void *const *rows, size_t count,
                               size_t bytes, int32_t *out)
{
    vs_by_fours(avx2_four, DOT, query, rows, count, bytes, out);
}

/* ---- AVX-VNNI, 256 bits: client CPUs without AVX-512 ---- */

AVXVNNI VS_STEP __m256i avxvnni_step(int job, __m256i sum, __m256i query, const uint8_t *row)
{
    __m256i r = _mm256_load_si256((const void *)row);

    if (job == L2SQ)
        r = query = _mm256_abs_epi8(_mm256_sub_epi8(query, r));
    return _mm256_dpbusd_avx_epi32(sum, r, query);
}

AVXVNNI VS_STEP void avxvnni_four(int job, const void *query, const void *const *rows, size_t bytes,
                                  int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 64) {
        __m256i x = _mm256_load_si256((const void *)(q + i));
        __m256i y = _mm256_load_si256((const void *)(q + i + 32));
        a = avxvnni_step(job, a, x, ra + i);
        b = avxvnni_step(job, b, x, rb + i);
        c = avxvnni_step(job, c, x, rc + i);
        d = avxvnni_step(job, d, x, rd + i);
        a = avxvnni_step(job, a, y, ra + i + 32);
        b = avxvnni_step(job, b, y, rb + i + 32);
        c = avxvnni_step(job, c, y, rc + i + 32);
        d = avxvnni_step(job, d, y, rd + i + 32);
    }
    _mm_storeu_si128((void *)out, sum4_epi32(a, b, c, d));
}

AVXVNNI static void avxvnni_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                      size_t bytes, int32_t *out)
{
    vs_by_fours(avxvnni_four, L2SQ, query, rows, count, bytes, out);
}

AVXVNNI static void avxvnni_dot_many(const int8_t *query, const void *const *rows, size_t count,
                                     size_t bytes, int32_t *out)
{
    vs_by_fours(avxvnni_four, DOT, query, rows, count, bytes, out);
}

/* ---- AVX-512 ---- */

AVX512 VS_STEP __m512i avx512_step(int job, __m512i sum, __m512i query, const uint8_t *row)
{
    __m512i r = _mm512_load_si512(row);

    if (job == L2SQ)
        r = query = _mm512_abs_epi8(_mm512_sub_epi8(query, r));
    r = _mm512_maddubs_epi16(r, query);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(r, _mm512_set1_epi16(1)));
}

AVX512 VS_STEP void avx512_four(int job, const void *query, const void *const *rows, size_t bytes,
                                int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 64) {
        __m512i x = _mm512_load_si512(q + i);
        a = avx512_step(job, a, x, ra + i);
        b = avx512_step(job, b, x, rb + i);
        c = avx512_step(job, c, x, rc + i);
        d = avx512_step(job, d, x, rd + i);
    }
    _mm_storeu_si128((void *)out, avx512_sum4_epi32(a, b, c, d));
}

AVX512 static void avx512_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                    size_t bytes, int32_t *out)
{
    vs_by_fours(avx512_four, L2SQ, query, rows, count, bytes, out);
}

AVX512 static void avx512_dot_many(const int8_t *query, const void *const *rows, size_t count,
                                   size_t bytes, int32_t *out)
{
    vs_by_fours(avx512_four, DOT, query, rows, count, bytes, out);
}

/* ---- AVX-512 with VNNI ----
 * Each step waits for the sum before it, four or five cycles, and there is one
 * for each row and cache line. Short codes, of a few lines, hide that: the next
 * four rows start meanwhile. Long codes are bound by memory. */

VNNI VS_STEP __m512i vnni_step(int job, __m512i sum, __m512i query, const uint8_t *row)
{
    __m512i r = _mm512_load_si512(row);

    if (job == L2SQ)
        r = query = _mm512_abs_epi8(_mm512_sub_epi8(query, r));
    return _mm512_dpbusd_epi32(sum, r, query);
}

VNNI VS_STEP void vnni_four(int job, const void *query, const void *const *rows, size_t bytes,
                            int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 64) {
        __m512i x = _mm512_load_si512(q + i);
        a = vnni_step(job, a, x, ra + i);
        b = vnni_step(job, b, x, rb + i);
        c = vnni_step(job, c, x, rc + i);
        d = vnni_step(job, d, x, rd + i);
    }
    _mm_storeu_si128((void *)out, avx512_sum4_epi32(a, b, c, d));
}

VNNI static void vnni_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                size_t bytes, int32_t *out)
{
    vs_by_fours(vnni_four, L2SQ, query, rows, count, bytes, out);
}

VNNI static void vnni_dot_many(const int8_t *query, const void *const *rows, size_t count,
                               size_t bytes, int32_t *out)
{
    vs_by_fours(vnni_four, DOT, query, rows, count, bytes, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON: two products of codes fit 16 bits here, too ---- */

VS_STEP uint32x4_t neon_step(int job, uint32x4_t sum, uint8x16_t query, uint8x16_t row)
{
    if (job == L2SQ) {
        uint8x16_t d = vabdq_u8(query, row);
        uint16x8_t low = vmull_u8(vget_low_u8(d), vget_low_u8(d));
        return vpadalq_u16(sum, vmlal_high_u8(low, d, d));
    } else {
        int8x16_t q = vreinterpretq_s8_u8(query), r = vreinterpretq_s8_u8(row);
        int16x8_t low = vmull_s8(vget_low_s8(q), vget_low_s8(r));
        return vreinterpretq_u32_s32(
            vpadalq_s16(vreinterpretq_s32_u32(sum), vmlal_high_s8(low, q, r)));
    }
}

VS_STEP void neon_four(int job, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 16) {
        uint8x16_t x = vld1q_u8(q + i);
        a = neon_step(job, a, x, vld1q_u8(ra + i));
        b = neon_step(job, b, x, vld1q_u8(rb + i));
        c = neon_step(job, c, x, vld1q_u8(rc + i));
        d = neon_step(job, d, x, vld1q_u8(rd + i));
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

static void neon_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out)
{
    vs_by_fours(neon_four, L2SQ, query, rows, count, bytes, out);
}

static void neon_dot_many(const int8_t *query, const void *const *rows, size_t count, size_t bytes,
                          int32_t *out)
{
    vs_by_fours(neon_four, DOT, query, rows, count, bytes, out);
}

#if defined(HAVE_DOTPROD)

/* ---- NEON with dot products ---- */

DOTPROD VS_STEP uint32x4_t dotprod_step(int job, uint32x4_t sum, uint8x16_t query, uint8x16_t row)
{
    if (job == L2SQ) {
        uint8x16_t d = vabdq_u8(query, row);
        return vdotq_u32(sum, d, d);
    }
    return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u8(query),
                                           vreinterpretq_s8_u8(row)));
}

DOTPROD VS_STEP void dotprod_four(int job, const void *query, const void *const *rows, size_t bytes,
                                  int32_t *out)
{
    const uint8_t *q = query, *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 16) {
        uint8x16_t x = vld1q_u8(q + i);
        a = dotprod_step(job, a, x, vld1q_u8(ra + i));
        b = dotprod_step(job, b, x, vld1q_u8(rb + i));
        c = dotprod_step(job, c, x, vld1q_u8(rc + i));
        d = dotprod_step(job, d, x, vld1q_u8(rd + i));
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

DOTPROD static void dotprod_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                      size_t bytes, int32_t *out)
{
    vs_by_fours(dotprod_four, L2SQ, query, rows, count, bytes, out);
}

DOTPROD static void dotprod_dot_many(const int8_t *query, const void *const *rows, size_t count,
                                     size_t bytes, int32_t *out)
{
    vs_by_fours(dotprod_four, DOT, query, rows, count, bytes, out);
}

#endif
#endif /* aarch64 */

uint32_t vs_kernel_pick_code(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*l2sq)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*dot)(const int8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_VNNI, vnni_l2sq_many, vnni_dot_many },
        { VSHARD_CPU_AVX512, avx512_l2sq_many, avx512_dot_many },
        { VSHARD_CPU_AVX2 | VSHARD_CPU_AVXVNNI, avxvnni_l2sq_many, avxvnni_dot_many },
        { VSHARD_CPU_AVX2, avx2_l2sq_many, avx2_dot_many },
        { VSHARD_CPU_SSE2, sse2_l2sq_many, sse2_dot_many },
#elif defined(__aarch64__)
#if defined(HAVE_DOTPROD)
        { VSHARD_CPU_NEON | VSHARD_CPU_DOTPROD, dotprod_l2sq_many, dotprod_dot_many },
#endif
        { VSHARD_CPU_NEON, neon_l2sq_many, neon_dot_many },
#endif
        { 0, scalar_l2sq_many, scalar_dot_many },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l2sq_code_many = variants[i].l2sq;
    kernel->dot_code_many = variants[i].dot;
    return variants[i].needs;
}
