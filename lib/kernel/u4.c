/* u4.c - squared distance between a query of 7 bits and rows of 4 bits.
 *
 * A row holds two numbers a byte: of each 64 bytes, the low halves are numbers 0 to
 * 63 and the high halves 64 to 127. Number r stands for 8 r, the query's q for itself,
 * so both halves of the work are shifts: the difference q - 8 r is -120..127 and fits
 * a signed byte, and from there on the arithmetic is that of code.c. Where bytes without a sign
 * are multiplied with such that have one, (q - 8 r)^2 is q^2 + 4 * 4 r * (4 r - q), which saves
 * the absolute values: 4 r is at most 60, and 4 r - q is -127..60.
 *
 * Rows are a multiple of 64 bytes, aligned to 64; the query is twice as long. */
#include "kernel/topics.h"

enum {
    STANDS_FOR = 0x78, /* the bits of 8 r */
    HALF_OF_IT = 0x3c
};

static void scalar_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                        int32_t *out)
{
    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = rows[r];
        int32_t sum = 0;

        for (size_t i = 0; i < bytes; i++) {
            const uint8_t *q = query + i / 64 * 128 + i % 64;
            int low = q[0] - (row[i] & 15) * 8, high = q[64] - (row[i] >> 4) * 8;
            sum += low * low + high * high;
        }
        out[r] = sum;
    }
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

VS_STEP __m128i sse2_square(__m128i sum, __m128i query, __m128i row)
{
    __m128i d = _mm_and_si128(row, _mm_set1_epi8(STANDS_FOR)), zero = _mm_setzero_si128();
    __m128i low, high;

    d = _mm_or_si128(_mm_subs_epu8(query, d), _mm_subs_epu8(d, query));
    low = _mm_unpacklo_epi8(d, zero);
    high = _mm_unpackhi_epi8(d, zero);
    sum = _mm_add_epi32(sum, _mm_madd_epi16(low, low));
    return _mm_add_epi32(sum, _mm_madd_epi16(high, high));
}

VS_STEP __m128i sse2_step(__m128i sum, __m128i low, __m128i high, const uint8_t *row)
{
    __m128i r = _mm_load_si128((const void *)row);

    sum = sse2_square(sum, low, _mm_slli_epi16(r, 3));
    return sse2_square(sum, high, _mm_srli_epi16(r, 1));
}

VS_STEP void sse2_four(int only, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128i a = _mm_setzero_si128(), b = a, c = a, d = a;

    (void)only;
    for (size_t i = 0; i < bytes; i += 16) {
        const uint8_t *at = q + i / 64 * 128 + i % 64;
        __m128i low = _mm_load_si128((const void *)at);
        __m128i high = _mm_load_si128((const void *)(at + 64));
        a = sse2_step(a, low, high, ra + i);
        b = sse2_step(b, low, high, rb + i);
        c = sse2_step(c, low, high, rc + i);
        d = sse2_step(d, low, high, rd + i);
    }
    _mm_storeu_si128((void *)out, sse2_sum4_epi32(a, b, c, d));
}

static void sse2_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                      int32_t *out)
{
    vs_by_fours(sse2_four, 0, query, rows, count, bytes, out);
}

/* The sum of the squares of a query, which is twice as long as rows. */
static int32_t square_of(const uint8_t *query, size_t bytes)
{
    const __m128i zero = _mm_setzero_si128();
    __m128i sum = zero;

    for (size_t i = 0; i < 2 * bytes; i += 16) {
        __m128i q = _mm_load_si128((const void *)(query + i));
        __m128i low = _mm_unpacklo_epi8(q, zero), high = _mm_unpackhi_epi8(q, zero);
        sum = _mm_add_epi32(sum, _mm_madd_epi16(low, low));
        sum = _mm_add_epi32(sum, _mm_madd_epi16(high, high));
    }
    return _mm_cvtsi128_si32(sse2_sum4_epi32(sum, sum, sum, sum));
}

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_square(__m256i query, __m256i row)
{
    __m256i r = _mm256_and_si256(row, _mm256_set1_epi8(HALF_OF_IT));

    return _mm256_maddubs_epi16(r, _mm256_sub_epi8(r, query));
}

/* Of both halves together: no sum of four products is beyond 16 bits. */
AVX2 VS_STEP __m256i avx2_step(__m256i sum, __m256i low, __m256i high, const uint8_t *row)
{
    __m256i r = _mm256_load_si256((const void *)row);
    __m256i d = _mm256_add_epi16(avx2_square(low, _mm256_slli_epi16(r, 2)),
                                 avx2_square(high, _mm256_srli_epi16(r, 2)));

    return _mm256_add_epi32(sum, _mm256_madd_epi16(d, _mm256_set1_epi16(1)));
}

AVX2 VS_STEP void avx2_four(int own, const void *query, const void *const *rows, size_t bytes,
                            int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    __m128i sum;

    for (size_t i = 0; i < bytes; i += 32) {
        const uint8_t *at = q + i / 64 * 128 + i % 64;
        __m256i low = _mm256_load_si256((const void *)at);
        __m256i high = _mm256_load_si256((const void *)(at + 64));
        a = avx2_step(a, low, high, ra + i);
        b = avx2_step(b, low, high, rb + i);
        c = avx2_step(c, low, high, rc + i);
        d = avx2_step(d, low, high, rd + i);
    }
    sum = _mm_slli_epi32(sum4_epi32(a, b, c, d), 2);
    _mm_storeu_si128((void *)out, _mm_add_epi32(_mm_set1_epi32(own), sum));
}

AVX2 static void avx2_many(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out)
{
    vs_by_fours(avx2_four, square_of(query, bytes), query, rows, count, bytes, out);
}

/* ---- AVX-512 with VNNI ---- */

VNNI VS_STEP __m512i vnni_square(__m512i sum, __m512i query, __m512i row)
{
    __m512i r = _mm512_and_si512(row, _mm512_set1_epi8(HALF_OF_IT));

    return _mm512_dpbusd_epi32(sum, r, _mm512_sub_epi8(r, query));
}

VNNI VS_STEP __m512i vnni_step(__m512i sum, __m512i low, __m512i high, const uint8_t *row)
{
    __m512i r = _mm512_load_si512(row);

    sum = vnni_square(sum, low, _mm512_slli_epi16(r, 2));
    return vnni_square(sum, high, _mm512_srli_epi16(r, 2));
}

VNNI VS_STEP void vnni_four(int own, const void *query, const void *const *rows, size_t bytes,
                            int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    __m128i sum;

    for (size_t i = 0; i < bytes; i += 64) {
        __m512i low = _mm512_load_si512(q + 2 * i), high = _mm512_load_si512(q + 2 * i + 64);
        a = vnni_step(a, low, high, ra + i);
        b = vnni_step(b, low, high, rb + i);
        c = vnni_step(c, low, high, rc + i);
        d = vnni_step(d, low, high, rd + i);
    }
    sum = _mm_slli_epi32(avx512_sum4_epi32(a, b, c, d), 2);
    _mm_storeu_si128((void *)out, _mm_add_epi32(_mm_set1_epi32(own), sum));
}

VNNI static void vnni_many(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out)
{
    vs_by_fours(vnni_four, square_of(query, bytes), query, rows, count, bytes, out);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

VS_STEP uint32x4_t neon_square(uint32x4_t sum, uint8x16_t query, uint8x16_t row)
{
    uint8x16_t d = vabdq_u8(query, vandq_u8(row, vdupq_n_u8(STANDS_FOR)));
    uint16x8_t low = vmull_u8(vget_low_u8(d), vget_low_u8(d));

    return vpadalq_u16(sum, vmlal_high_u8(low, d, d));
}

VS_STEP uint32x4_t neon_step(uint32x4_t sum, uint8x16_t low, uint8x16_t high, const uint8_t *row)
{
    uint8x16_t r = vld1q_u8(row);

    sum = neon_square(sum, low, vshlq_n_u8(r, 3));
    return neon_square(sum, high, vshrq_n_u8(r, 1));
}

VS_STEP void neon_four(int only, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;

    (void)only;
    for (size_t i = 0; i < bytes; i += 16) {
        const uint8_t *at = q + i / 64 * 128 + i % 64;
        uint8x16_t low = vld1q_u8(at), high = vld1q_u8(at + 64);
        a = neon_step(a, low, high, ra + i);
        b = neon_step(b, low, high, rb + i);
        c = neon_step(c, low, high, rc + i);
        d = neon_step(d, low, high, rd + i);
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

static void neon_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                      int32_t *out)
{
    vs_by_fours(neon_four, 0, query, rows, count, bytes, out);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_u4(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*l2sq)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_VNNI, vnni_many },
        { VSHARD_CPU_AVX2, avx2_many },
        { VSHARD_CPU_SSE2, sse2_many },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_many },
#endif
        { 0, scalar_many },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->l2sq_u4_many = variants[i].l2sq;
    return variants[i].needs;
}
