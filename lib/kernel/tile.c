/* tile.c - many queries against many rows of bytes: a tile of products at a time.
 *
 * A batch of queries shares what costs most: a row is brought from memory once, and
 * once it is in a register, several queries use it. For that the bytes of 64 rows are
 * first put into a panel, four of each row side by side:
 *
 *     panel[g][r][0..3] = elements 4g .. 4g + 3 of row r
 *
 * One vector then holds the same four elements of many rows. Multiplied by four
 * elements of a query, repeated, it adds up to one sum a row, so no sum ever crosses
 * lanes. Six queries and 64 rows are 24 sums of AVX-512, which with a query's four
 * bytes and the rows' fill its registers.
 *
 * Rows are unsigned, queries signed, as VNNI multiplies. A panel of signed bytes is made
 * by flipping the sign bit, which adds 128 to each: who asks for that takes 128 times
 * the sum of the query off again. 32768 products add up to at most
 * 32768 * 255 * 128 < 2^31. */
#include "kernel/topics.h"

/* Sums stay in registers only if every loop over them is unrolled. */
#define UNROLL _Pragma("GCC unroll 8")

enum { ROWS = VS_PANEL_ROWS, GROUP = 4 };

/* ---- scalar ---- */

/* Elements `from` .. dim of each row; those behind the last are zero before the flip. */
static void pack_from(const void *const *rows, size_t from, size_t dim, uint8_t flip,
                      uint8_t *panel)
{
    const uint32_t flips = flip * 0x01010101u;

    for (size_t i = from; i < dim; i += GROUP) {
        for (size_t r = 0; r < ROWS; r++) {
            uint32_t four = 0;

            if (dim - i >= GROUP)
                memcpy(&four, (const uint8_t *)rows[r] + i, GROUP);
            else
                memcpy(&four, (const uint8_t *)rows[r] + i, dim - i);
            four ^= flips;
            memcpy(panel + i * ROWS + r * GROUP, &four, GROUP);
        }
    }
}

static void scalar_pack(const void *const *rows, size_t dim, uint8_t flip, uint8_t *panel)
{
    pack_from(rows, 0, dim, flip, panel);
}

static void scalar_dot(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                       int32_t *out)
{
    for (size_t q = 0; q < count; q++) {
        const int8_t *query = queries + q * groups * GROUP;

        for (size_t r = 0; r < ROWS; r++) {
            int32_t sum = 0;

            for (size_t i = 0; i < groups * GROUP; i++)
                sum += query[i] * panel[i / GROUP * GROUP * ROWS + r * GROUP + i % GROUP];
            out[q * ROWS + r] = sum;
        }
    }
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- SSE2 ---- */

/* Two queries and 16 rows, which begin at `panel`; as with AVX2. */
VS_STEP void sse2_two(const int8_t *qa, const int8_t *qb, size_t groups, const uint8_t *panel,
                      int32_t *oa, int32_t *ob)
{
    __m128i a[4], b[4];

    UNROLL
    for (int v = 0; v < 4; v++)
        a[v] = b[v] = _mm_setzero_si128();
    for (size_t g = 0; g < groups; g++) {
        int32_t fa, fb;
        __m128i x, y;

        memcpy(&fa, qa + g * GROUP, sizeof fa);
        memcpy(&fb, qb + g * GROUP, sizeof fb);
        x = _mm_set1_epi32(fa);
        y = _mm_set1_epi32(fb);
        __m128i xe = _mm_srai_epi16(_mm_slli_epi16(x, 8), 8), xo = _mm_srai_epi16(x, 8);
        __m128i ye = _mm_srai_epi16(_mm_slli_epi16(y, 8), 8), yo = _mm_srai_epi16(y, 8);

        UNROLL
        for (int v = 0; v < 4; v++) {
            __m128i r = _mm_loadu_si128((const void *)(panel + g * GROUP * ROWS + 16 * v));
            __m128i even = _mm_and_si128(r, _mm_set1_epi16(255)), odd = _mm_srli_epi16(r, 8);

            a[v] = _mm_add_epi32(a[v], _mm_madd_epi16(even, xe));
            a[v] = _mm_add_epi32(a[v], _mm_madd_epi16(odd, xo));
            b[v] = _mm_add_epi32(b[v], _mm_madd_epi16(even, ye));
            b[v] = _mm_add_epi32(b[v], _mm_madd_epi16(odd, yo));
        }
    }
    UNROLL
    for (int v = 0; v < 4; v++) {
        _mm_storeu_si128((void *)(oa + 4 * v), a[v]);
        _mm_storeu_si128((void *)(ob + 4 * v), b[v]);
    }
}

static void sse2_dot(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                     int32_t *out)
{
    for (size_t q = 0; q < count; q += 2) {
        size_t p = q + 1 < count ? q + 1 : q; /* the last alone: twice the same */
        const int8_t *a = queries + q * groups * GROUP, *b = queries + p * groups * GROUP;

        for (size_t r = 0; r < ROWS; r += 16)
            sse2_two(a, b, groups, panel + r * GROUP, out + q * ROWS + r, out + p * ROWS + r);
    }
}

/* ---- AVX2 ----
 * Bytes of eight bits and a sign do not fit its products of bytes, so even and odd
 * bytes are spread to 16 bits (int8.c). */

AVX2 VS_STEP __m256i avx2_query(const int8_t *four)
{
    int32_t bits;

    memcpy(&bits, four, sizeof bits);
    return _mm256_set1_epi32(bits);
}

/* Two queries and 32 rows, which begin at `panel`. */
AVX2 VS_STEP void avx2_two(const int8_t *qa, const int8_t *qb, size_t groups, const uint8_t *panel,
                           int32_t *oa, int32_t *ob)
{
    __m256i a[4], b[4];

    UNROLL
    for (int v = 0; v < 4; v++)
        a[v] = b[v] = _mm256_setzero_si256();
    for (size_t g = 0; g < groups; g++) {
        __m256i x = avx2_query(qa + g * GROUP), y = avx2_query(qb + g * GROUP);
        __m256i xe = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), xo = _mm256_srai_epi16(x, 8);
        __m256i ye = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8), yo = _mm256_srai_epi16(y, 8);

        UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i r = _mm256_loadu_si256((const void *)(panel + g * GROUP * ROWS + 32 * v));
            __m256i even = _mm256_and_si256(r, _mm256_set1_epi16(255));
            __m256i odd = _mm256_srli_epi16(r, 8);

            a[v] = _mm256_add_epi32(a[v], _mm256_madd_epi16(even, xe));
            a[v] = _mm256_add_epi32(a[v], _mm256_madd_epi16(odd, xo));
            b[v] = _mm256_add_epi32(b[v], _mm256_madd_epi16(even, ye));
            b[v] = _mm256_add_epi32(b[v], _mm256_madd_epi16(odd, yo));
        }
    }
    UNROLL
    for (int v = 0; v < 4; v++) {
        _mm256_storeu_si256((void *)(oa + 8 * v), a[v]);
        _mm256_storeu_si256((void *)(ob + 8 * v), b[v]);
    }
}

AVX2 static void avx2_dot(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                          int32_t *out)
{
    for (size_t q = 0; q < count; q += 2) {
        size_t p = q + 1 < count ? q + 1 : q; /* the last alone: twice the same */
        const int8_t *a = queries + q * groups * GROUP, *b = queries + p * groups * GROUP;

        avx2_two(a, b, groups, panel, out + q * ROWS, out + p * ROWS);
        avx2_two(a, b, groups, panel + 32 * GROUP, out + q * ROWS + 32, out + p * ROWS + 32);
    }
}

/* Eight rows of 32 bytes as eight vectors, turned: the n-th has the n-th four bytes of
 * each row. */
AVX2 VS_STEP void avx2_turn(const void *const *rows, size_t at, __m256i flip, uint8_t *panel)
{
    __m256i r[8], t[8];

    UNROLL
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_si256((const void *)((const uint8_t *)rows[i] + at));
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m256i low = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
        __m256i high = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
        uint8_t *to = panel + i * GROUP * ROWS;

        _mm256_storeu_si256((void *)to, _mm256_xor_si256(low, flip));
        _mm256_storeu_si256((void *)(to + 4 * GROUP * ROWS), _mm256_xor_si256(high, flip));
    }
}

AVX2 static void avx2_pack(const void *const *rows, size_t dim, uint8_t flip, uint8_t *panel)
{
    const __m256i flips = _mm256_set1_epi8((char)flip);
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        for (size_t r = 0; r < ROWS; r += 8)
            avx2_turn(rows + r, i, flips, panel + i * ROWS + r * GROUP);
    }
    pack_from(rows, i, dim, flip, panel);
}

/* ---- AVX-512 with VNNI ---- */

/* `count` queries, at most six; the loops over it unroll. */
VNNI VS_STEP void vnni_some(size_t count, const int8_t *queries, size_t groups,
                            const uint8_t *panel, int32_t *out)
{
    __m512i sum[6][4];

    UNROLL
    for (size_t q = 0; q < count; q++)
        sum[q][0] = sum[q][1] = sum[q][2] = sum[q][3] = _mm512_setzero_si512();
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *p = panel + g * GROUP * ROWS;
        __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
        __m512i c = _mm512_loadu_si512(p + 128), d = _mm512_loadu_si512(p + 192);

        UNROLL
        for (size_t q = 0; q < count; q++) {
            int32_t four;
            __m512i x;

            memcpy(&four, queries + (q * groups + g) * GROUP, sizeof four);
            x = _mm512_set1_epi32(four);
            sum[q][0] = _mm512_dpbusd_epi32(sum[q][0], a, x);
            sum[q][1] = _mm512_dpbusd_epi32(sum[q][1], b, x);
            sum[q][2] = _mm512_dpbusd_epi32(sum[q][2], c, x);
            sum[q][3] = _mm512_dpbusd_epi32(sum[q][3], d, x);
        }
    }
    UNROLL
    for (size_t q = 0; q < count; q++) {
        UNROLL
        for (size_t v = 0; v < 4; v++)
            _mm512_storeu_si512(out + q * ROWS + 16 * v, sum[q][v]);
    }
}

VNNI static void vnni_dot(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                          int32_t *out)
{
    size_t q = 0;

    for (; q + 6 <= count; q += 6)
        vnni_some(6, queries + q * groups * GROUP, groups, panel, out + q * ROWS);
    queries += q * groups * GROUP;
    out += q * ROWS;
    switch (count - q) {
    case 5: vnni_some(5, queries, groups, panel, out); break;
    case 4: vnni_some(4, queries, groups, panel, out); break;
    case 3: vnni_some(3, queries, groups, panel, out); break;
    case 2: vnni_some(2, queries, groups, panel, out); break;
    case 1: vnni_some(1, queries, groups, panel, out); break;
    default: break;
    }
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

/* Four rows of 16 bytes, turned, and so on for all rows. */
static void neon_pack(const void *const *rows, size_t dim, uint8_t flip, uint8_t *panel)
{
    const uint32x4_t flips = vreinterpretq_u32_u8(vdupq_n_u8(flip));
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) {
        for (size_t r = 0; r < ROWS; r += 4) {
            uint32x4_t row[4];
            uint8_t *to = panel + i * ROWS + r * GROUP;

            UNROLL
            for (int n = 0; n < 4; n++)
                row[n] = veorq_u32(
                    vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)rows[r + (size_t)n] + i)),
                    flips);
            uint32x4_t ac_low = vzip1q_u32(row[0], row[2]), ac_high = vzip2q_u32(row[0], row[2]);
            uint32x4_t bd_low = vzip1q_u32(row[1], row[3]), bd_high = vzip2q_u32(row[1], row[3]);

            vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(ac_low, bd_low)));
            vst1q_u8(to + GROUP * ROWS, vreinterpretq_u8_u32(vzip2q_u32(ac_low, bd_low)));
            vst1q_u8(to + 2 * GROUP * ROWS, vreinterpretq_u8_u32(vzip1q_u32(ac_high, bd_high)));
            vst1q_u8(to + 3 * GROUP * ROWS, vreinterpretq_u8_u32(vzip2q_u32(ac_high, bd_high)));
        }
    }
    pack_from(rows, i, dim, flip, panel);
}

/* Eight products of a row's unsigned and a query's signed byte, and their sums by pairs. */
VS_STEP int32x4_t neon_products(uint8x8_t r, int16x8_t query)
{
    int16x8_t row = vreinterpretq_s16_u16(vmovl_u8(r));
    int32x4_t low = vmull_s16(vget_low_s16(row), vget_low_s16(query));

    return vpaddq_s32(low, vmull_high_s16(row, query));
}

/* One query and 16 rows. */
static void neon_dot_16(const int8_t *query, size_t groups, const uint8_t *panel, int32_t *out)
{
    int32x4_t pairs[8]; /* of two rows each: the sums of a row's elements 0, 1 and 2, 3 */

    UNROLL
    for (int v = 0; v < 8; v++)
        pairs[v] = vdupq_n_s32(0);
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *p = panel + g * GROUP * ROWS;
        int32_t four;
        int16x8_t x;

        memcpy(&four, query + g * GROUP, sizeof four);
        x = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
        UNROLL
        for (int v = 0; v < 8; v++)
            pairs[v] = vaddq_s32(pairs[v], neon_products(vld1_u8(p + 8 * v), x));
    }
    UNROLL
    for (int v = 0; v < 4; v++)
        vst1q_s32(out + 4 * v, vpaddq_s32(pairs[2 * v], pairs[2 * v + 1]));
}

static void neon_dot(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                     int32_t *out)
{
    for (size_t q = 0; q < count; q++) {
        for (size_t r = 0; r < ROWS; r += 16)
            neon_dot_16(queries + q * groups * GROUP, groups, panel + r * GROUP,
                        out + q * ROWS + r);
    }
}

#if defined(HAVE_DOTPROD)

/* ---- NEON with dot products ----
 * Both sides must have a sign: rows are moved by 128, which the sum of the query,
 * 128 times, makes up for. Four queries and 16 rows are sixteen sums. */

DOTPROD VS_STEP void dotprod_some(size_t count, const int8_t *queries, size_t groups,
                                  const uint8_t *panel, int32_t *out)
{
    int32x4_t sum[4][4], total[4];

    UNROLL
    for (size_t q = 0; q < count; q++)
        total[q] = sum[q][0] = sum[q][1] = sum[q][2] = sum[q][3] = vdupq_n_s32(0);
    for (size_t g = 0; g < groups; g++) {
        int8x16_t r[4];

        UNROLL
        for (size_t v = 0; v < 4; v++)
            r[v] = vreinterpretq_s8_u8(
                veorq_u8(vld1q_u8(panel + g * GROUP * ROWS + 16 * v), vdupq_n_u8(128)));
        UNROLL
        for (size_t q = 0; q < count; q++) {
            int32_t four;
            int8x16_t x;

            memcpy(&four, queries + (q * groups + g) * GROUP, sizeof four);
            x = vreinterpretq_s8_s32(vdupq_n_s32(four));
            total[q] = vdotq_s32(total[q], x, vdupq_n_s8(1));
            UNROLL
            for (size_t v = 0; v < 4; v++)
                sum[q][v] = vdotq_s32(sum[q][v], r[v], x);
        }
    }
    UNROLL
    for (size_t q = 0; q < count; q++) {
        UNROLL
        for (size_t v = 0; v < 4; v++)
            vst1q_s32(out + q * ROWS + 4 * v, vmlaq_n_s32(sum[q][v], total[q], 128));
    }
}

DOTPROD static void dotprod_dot(const int8_t *queries, size_t count, size_t groups,
                                const uint8_t *panel, int32_t *out)
{
    for (size_t r = 0; r < ROWS; r += 16) {
        size_t q = 0;

        for (; q + 4 <= count; q += 4)
            dotprod_some(4, queries + q * groups * GROUP, groups, panel + r * GROUP,
                         out + q * ROWS + r);
        for (; q < count; q++)
            dotprod_some(1, queries + q * groups * GROUP, groups, panel + r * GROUP,
                         out + q * ROWS + r);
    }
}

#endif
#endif /* aarch64 */

uint32_t vs_kernel_pick_tile(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*pack)(const void *const *, size_t, uint8_t, uint8_t *);
        void (*dot)(const int8_t *, size_t, size_t, const uint8_t *, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512 | VSHARD_CPU_VNNI | VSHARD_CPU_AVX2, avx2_pack, vnni_dot },
        { VSHARD_CPU_AVX2, avx2_pack, avx2_dot },
        { VSHARD_CPU_SSE2, scalar_pack, sse2_dot },
#elif defined(__aarch64__)
#if defined(HAVE_DOTPROD)
        { VSHARD_CPU_NEON | VSHARD_CPU_DOTPROD, neon_pack, dotprod_dot },
#endif
        { VSHARD_CPU_NEON, neon_pack, neon_dot },
#endif
        { 0, scalar_pack, scalar_dot },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->panel_pack = variants[i].pack;
    kernel->panel_dot = variants[i].dot;
    return variants[i].needs;
}
