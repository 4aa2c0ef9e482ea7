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

enum job { L2SQ, DOT };

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

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_step(enum job job, __m256i sum, __m256i query, const uint8_t *row)
{
    __m256i r = _mm256_load_si256((const void *)row);

    if (job == L2SQ)
        r = query = _mm256_abs_epi8(_mm256_sub_epi8(query, r));
    r = _mm256_maddubs_epi16(r, query);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(r, _mm256_set1_epi16(1)));
}

AVX2 VS_STEP void avx2_four(enum job job, const void *query, const void *const *rows, size_t bytes,
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

AVX2 VS_STEP void avx2_many(enum job job, const void *query, const void *const *rows, size_t count,
                            size_t bytes, int32_t *out)
{
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        avx2_four(job, query, rows + i, bytes, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        avx2_four(job, query, last, bytes, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

AVX2 static void avx2_l2sq_many(const uint8_t *query, const void *const *rows, size_t count,
                                size_t bytes, int32_t *out)
{
    avx2_many(L2SQ, query, rows, count, bytes, out);
}

AVX2 static void avx2_dot_many(const int8_t *query, const void *const *rows, size_t count,
                               size_t bytes, int32_t *out)
{
    avx2_many(DOT, query, rows, count, bytes, out);
}

#endif /* x86-64 */

uint32_t vs_kernel_pick_code(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*l2sq)(const uint8_t *, const void *const *, size_t, size_t, int32_t *);
        void (*dot)(const int8_t *, const void *const *, size_t, size_t, int32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX2, avx2_l2sq_many, avx2_dot_many },
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
