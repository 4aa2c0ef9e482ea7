/* bits.c - Hamming distance of packed bits: the ones of a XOR b.
 *
 * AVX2 counts the ones of each half byte by a table of sixteen that fits a
 * register, and adds up eight bytes at once (Mula, Kurz and Lemire 2018).
 * VPOPCNTDQ and NEON count by themselves.
 *
 * 4096 bytes have at most 32768 ones, so each lane of 64 bits has zeros in its
 * upper half, and is added up as two of 32. */
#include "kernel/topics.h"

/* ---- scalar ---- */

static uint64_t word_at(const uint8_t *bytes, size_t count)
{
    uint64_t v = 0;

    memcpy(&v, bytes, count < 8 ? count : 8);
    return v;
}

/* Ones in pairs, then in fours, then in bytes, which the product adds up. */
static int32_t ones(uint64_t v)
{
    v = v - (v >> 1 & 0x5555555555555555u);
    v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int32_t)(v * 0x0101010101010101u >> 56);
}

static void scalar_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                        int32_t *out)
{
    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = rows[r];
        int32_t sum = 0;

        for (size_t i = 0; i < bytes; i += 8)
            sum += ones(word_at(query + i, bytes - i) ^ word_at(row + i, bytes - i));
        out[r] = sum;
    }
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

VS_STEP __m128i sse2_step(__m128i sum, __m128i q, __m128i r)
{
    const __m128i pairs = _mm_set1_epi8(0x55), fours = _mm_set1_epi8(0x33);
    __m128i v = _mm_xor_si128(q, r);

    v = _mm_sub_epi8(v, _mm_and_si128(_mm_srli_epi16(v, 1), pairs)); /* as by ones() */
    v = _mm_add_epi8(_mm_and_si128(v, fours), _mm_and_si128(_mm_srli_epi16(v, 2), fours));
    v = _mm_and_si128(_mm_add_epi8(v, _mm_srli_epi16(v, 4)), _mm_set1_epi8(15));
    return _mm_add_epi32(sum, _mm_sad_epu8(v, _mm_setzero_si128()));
}

VS_STEP __m128i sse2_load(const uint8_t *from)
{
    return _mm_loadu_si128((const void *)from);
}

VS_STEP void sse2_four(int only, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m128i a = _mm_setzero_si128(), b = a, c = a, d = a;
    size_t i = 0;

    (void)only;
    for (; i + 16 <= bytes; i += 16) {
        __m128i x = sse2_load(q + i);
        a = sse2_step(a, x, sse2_load(ra + i));
        b = sse2_step(b, x, sse2_load(rb + i));
        c = sse2_step(c, x, sse2_load(rc + i));
        d = sse2_step(d, x, sse2_load(rd + i));
    }
    if (i < bytes) {
        __m128i x = sse2_few(q + i, bytes - i);
        a = sse2_step(a, x, sse2_few(ra + i, bytes - i));
        b = sse2_step(b, x, sse2_few(rb + i, bytes - i));
        c = sse2_step(c, x, sse2_few(rc + i, bytes - i));
        d = sse2_step(d, x, sse2_few(rd + i, bytes - i));
    }
    _mm_storeu_si128((void *)out, sse2_sum4_epi32(a, b, c, d));
}

static void sse2_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                      int32_t *out)
{
    vs_by_fours(sse2_four, 0, query, rows, count, bytes, out);
}

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_step(__m256i sum, __m256i q, __m256i r)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    __m256i v = _mm256_xor_si256(q, r);
    __m256i n = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
    __m256i m = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));

    return _mm256_add_epi32(sum, _mm256_sad_epu8(_mm256_add_epi8(n, m), _mm256_setzero_si256()));
}

AVX2 VS_STEP __m256i avx2_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const void *)from);
}

AVX2 VS_STEP void avx2_four(int only, const void *query, const void *const *rows, size_t bytes,
                            int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    size_t i = 0;

    (void)only;
    for (; i + 32 <= bytes; i += 32) {
        __m256i x = avx2_load(q + i);
        a = avx2_step(a, x, avx2_load(ra + i));
        b = avx2_step(b, x, avx2_load(rb + i));
        c = avx2_step(c, x, avx2_load(rc + i));
        d = avx2_step(d, x, avx2_load(rd + i));
    }
    if (i < bytes) {
        __m256i x = last_bytes(q, bytes, bytes - i);
        a = avx2_step(a, x, last_bytes(ra, bytes, bytes - i));
        b = avx2_step(b, x, last_bytes(rb, bytes, bytes - i));
        c = avx2_step(c, x, last_bytes(rc, bytes, bytes - i));
        d = avx2_step(d, x, last_bytes(rd, bytes, bytes - i));
    }
    _mm_storeu_si128((void *)out, sum4_epi32(a, b, c, d));
}

AVX2 static void avx2_many(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out)
{
    vs_by_fours(avx2_four, 0, query, rows, count, bytes, out);
}

/* ---- AVX-512 with VPOPCNTDQ ----
 * Without it AVX2 serves: vectors of bits are short, and a line of 64 bytes is
 * two steps. */

POPCNT VS_STEP __m512i popcnt_step(__m512i sum, __m512i q, __m512i r)
{
    return _mm512_add_epi32(sum, _mm512_popcnt_epi64(_mm512_xor_si512(q, r)));
}

POPCNT VS_STEP void popcnt_four(const uint8_t *q, const void *const *rows, size_t bytes,
                                int32_t *out)
{
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    for (size_t i = 0; i < bytes; i += 64) {
        const __mmask64 m = first_bytes(bytes - i);
        __m512i x = _mm512_maskz_loadu_epi8(m, q + i);
        a = popcnt_step(a, x, _mm512_maskz_loadu_epi8(m, ra + i));
        b = popcnt_step(b, x, _mm512_maskz_loadu_epi8(m, rb + i));
        c = popcnt_step(c, x, _mm512_maskz_loadu_epi8(m, rc + i));
        d = popcnt_step(d, x, _mm512_maskz_loadu_epi8(m, rd + i));
    }
    _mm_storeu_si128((void *)out, avx512_sum4_epi32(a, b, c, d));
}

/* Rows of 32 bytes, as descriptors of image features are: two share a register. The four
 * counts of each are added up crosswise: of rows a to d first a, c, a, c, b, d, b, d. */
POPCNT VS_STEP __m512i popcnt_pair(const void *a, const void *b, __m512i q)
{
    __m512i both =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(a)), _mm256_loadu_si256(b), 1);
    return _mm512_popcnt_epi64(_mm512_xor_si512(both, q));
}

POPCNT VS_STEP __m512i popcnt_quad(const void *const *rows, __m512i q)
{
    __m512i ab = popcnt_pair(rows[0], rows[1], q), cd = popcnt_pair(rows[2], rows[3], q);
    return _mm512_add_epi64(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

POPCNT VS_STEP void popcnt_32(const uint8_t *query, const void *const *rows, size_t eights,
                              int32_t *out)
{
    const __m512i q = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)query));
    const __m512i first = _mm512_setr_epi64(0, 4, 1, 5, 8, 12, 9, 13);
    const __m512i second = _mm512_setr_epi64(2, 6, 3, 7, 10, 14, 11, 15);

    for (size_t i = 0; i < 8 * eights; i += 8) {
        __m512i a = popcnt_quad(rows + i, q), b = popcnt_quad(rows + i + 4, q);
        a = _mm512_add_epi64(_mm512_permutex2var_epi64(a, first, b),
                             _mm512_permutex2var_epi64(a, second, b));
        _mm256_storeu_si256((void *)(out + i), _mm512_cvtepi64_epi32(a));
    }
}

POPCNT static void popcnt_many(const uint8_t *query, const void *const *rows, size_t count,
                               size_t bytes, int32_t *out)
{
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    if (bytes == 32) {
        popcnt_32(query, rows, count / 8, out);
        i = count / 8 * 8;
    }
    for (; i + 4 <= count; i += 4)
        popcnt_four(query, rows + i, bytes, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        popcnt_four(query, last, bytes, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

VS_STEP uint32x4_t neon_step(uint32x4_t sum, uint8x16_t q, uint8x16_t r)
{
    return vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(veorq_u8(q, r))));
}

VS_STEP void neon_four(int only, const void *query, const void *const *rows, size_t bytes,
                       int32_t *out)
{
    const uint8_t *q = query;
    const uint8_t *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3];
    uint32x4_t a = vdupq_n_u32(0), b = a, c = a, d = a;
    size_t i = 0;

    (void)only;
    for (; i + 16 <= bytes; i += 16) {
        uint8x16_t x = vld1q_u8(q + i);
        a = neon_step(a, x, vld1q_u8(ra + i));
        b = neon_step(b, x, vld1q_u8(rb + i));
        c = neon_step(c, x, vld1q_u8(rc + i));
        d = neon_step(d, x, vld1q_u8(rd + i));
    }
    if (i < bytes) {
        uint8x16_t x = last_bytes(q, bytes, bytes - i);
        a = neon_step(a, x, last_bytes(ra, bytes, bytes - i));
        b = neon_step(b, x, last_bytes(rb, bytes, bytes - i));
        c = neon_step(c, x, last_bytes(rc, bytes, bytes - i));
        d = neon_step(d, x, last_bytes(rd, bytes, bytes - i));
    }
    vst1q_s32(out, sum4_u32(a, b, c, d));
}

static void neon_many(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                      int32_t *out)
{
    vs_by_fours(neon_four, 0, query, rows, count, bytes, out);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_bits(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*hamming)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_VPOPCNTDQ, popcnt_many },
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
    kernel->hamming_many = variants[i].hamming;
    return variants[i].needs;
}
