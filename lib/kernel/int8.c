/* int8.c - squared distance and dot product of 8-bit elements.
 *
 * Eight bits and a sign do not fit what AVX2 can multiply as bytes, so even and
 * odd bytes are spread to 16 bits, by mask and shift, which cost less than the
 * widening loads: those go through the one port that crosses lanes. The order of
 * elements does not matter to a sum.
 *
 * 32768 elements add up to at most 32768 * 255 * 255 < 2^31. */
#include "kernel/topics.h"

enum job { L2SQ_U8, L2SQ_I8, DOT_U8, DOT_I8 };

/* ---- scalar ---- */

VS_STEP int32_t scalar_element(enum job job, const void *from, size_t i)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return ((const uint8_t *)from)[i];
    return ((const int8_t *)from)[i];
}

VS_STEP void scalar_many(enum job job, const void *query, const void *const *rows, size_t count,
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

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256i avx2_even(enum job job, __m256i v)
{
    if (job == L2SQ_U8 || job == DOT_U8)
        return _mm256_and_si256(v, _mm256_set1_epi16(255));
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}

AVX2 VS_STEP __m256i avx2_odd(enum job job, __m256i v)
{
    return job == L2SQ_U8 || job == DOT_U8 ? _mm256_srli_epi16(v, 8) : _mm256_srai_epi16(v, 8);
}

AVX2 VS_STEP __m256i avx2_pairs(enum job job, __m256i a, __m256i b)
{
    if (job == L2SQ_U8 || job == L2SQ_I8)
        a = b = _mm256_sub_epi16(a, b);
    return _mm256_madd_epi16(a, b);
}

/* even and odd: of the query; r: as it was loaded. */
AVX2 VS_STEP __m256i avx2_step(enum job job, __m256i sum, __m256i even, __m256i odd, __m256i r)
{
    sum = _mm256_add_epi32(sum, avx2_pairs(job, even, avx2_even(job, r)));
    return _mm256_add_epi32(sum, avx2_pairs(job, odd, avx2_odd(job, r)));
}

AVX2 VS_STEP __m256i avx2_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const void *)from);
}

AVX2 VS_STEP void avx2_four(enum job job, const void *query, const void *const *rows, size_t dim,
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

AVX2 VS_STEP void avx2_many(enum job job, const void *query, const void *const *rows, size_t count,
                            size_t dim, int32_t *out)
{
    const void *last[4];
    int32_t sums[4];
    size_t i = 0;

    for (; i + 4 <= count; i += 4)
        avx2_four(job, query, rows + i, dim, out + i);
    if (i < count) {
        vs_rows_repeat_last(last, rows + i, count - i);
        avx2_four(job, query, last, dim, sums);
        memcpy(out + i, sums, (count - i) * sizeof *out);
    }
}

AVX2 static void avx2_l2sq_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    avx2_many(L2SQ_U8, query, rows, count, dim, out);
}

AVX2 static void avx2_l2sq_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                   size_t dim, int32_t *out)
{
    avx2_many(L2SQ_I8, query, rows, count, dim, out);
}

AVX2 static void avx2_dot_u8_many(const uint8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    avx2_many(DOT_U8, query, rows, count, dim, out);
}

AVX2 static void avx2_dot_i8_many(const int8_t *query, const void *const *rows, size_t count,
                                  size_t dim, int32_t *out)
{
    avx2_many(DOT_I8, query, rows, count, dim, out);
}

#endif /* x86-64 */

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
        { VSHARD_CPU_AVX2, avx2_l2sq_u8_many, avx2_l2sq_i8_many, avx2_dot_u8_many,
          avx2_dot_i8_many },
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
