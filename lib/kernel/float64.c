/* float64.c - products of floats, summed in float64 in one fixed order.
 *
 * For what must come out equal on every machine: lengths that codes are made by, axes of
 * sketches. Product i is added to sum i % 16, row by row of 16 elements, and the sums are
 * added up in pairs, the first to the ninth and so on. A product of two floats is exact in
 * float64, so that fusing it with the addition changes nothing, and no compiler or
 * instruction set can change the result. Sixteen sums are four vectors of AVX2: as many as an
 * addition takes cycles. By AVX-512 it takes no less. */
#include "kernel/topics.h"

enum { LANES = 16 };

/* ---- scalar ---- */

/* Element i, which is in lane i, and those behind it: fewer than LANES. */
static void add_last(double sum[LANES], const float *a, const float *b, size_t i, size_t dim)
{
    for (size_t j = 0; i + j < dim; j++)
        sum[j] += (double)vs_float_at(a, i + j) * (double)vs_float_at(b, i + j);
}

static double added_up(double sum[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++)
            sum[j] += sum[j + width];
    }
    return sum[0];
}

static double scalar_dot(const float *a, const float *b, size_t dim)
{
    double sum[LANES] = { 0 };
    size_t i = 0;

    for (; i + LANES <= dim; i += LANES) {
        for (size_t j = 0; j < LANES; j++) /* by vectors */
            sum[j] += (double)vs_float_at(a, i + j) * (double)vs_float_at(b, i + j);
    }
    add_last(sum, a, b, i, dim);
    return added_up(sum);
}

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- AVX2 ---- */

AVX2 VS_STEP __m256d avx2_step(__m256d sum, const float *a, const float *b)
{
    return _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(a)), _mm256_cvtps_pd(_mm_loadu_ps(b)), sum);
}

AVX2 static double avx2_dot(const float *a, const float *b, size_t dim)
{
    __m256d s = _mm256_setzero_pd(), t = s, u = s, v = s;
    double sum[LANES];
    size_t i = 0;

    for (; i + LANES <= dim; i += LANES) {
        s = avx2_step(s, a + i, b + i);
        t = avx2_step(t, a + i + 4, b + i + 4);
        u = avx2_step(u, a + i + 8, b + i + 8);
        v = avx2_step(v, a + i + 12, b + i + 12);
    }
    _mm256_storeu_pd(sum, s);
    _mm256_storeu_pd(sum + 4, t);
    _mm256_storeu_pd(sum + 8, u);
    _mm256_storeu_pd(sum + 12, v);
    add_last(sum, a, b, i, dim);
    return added_up(sum);
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ---- */

static double neon_dot(const float *a, const float *b, size_t dim)
{
    float64x2_t s[LANES / 2];
    double sum[LANES];
    size_t i = 0;

    for (size_t j = 0; j < LANES / 2; j++)
        s[j] = vdupq_n_f64(0);
    for (; i + LANES <= dim; i += LANES) {
        for (size_t j = 0; j < LANES / 4; j++) {
            float32x4_t x = vld1q_f32(a + i + 4 * j), y = vld1q_f32(b + i + 4 * j);

            s[2 * j] =
                vfmaq_f64(s[2 * j], vcvt_f64_f32(vget_low_f32(x)), vcvt_f64_f32(vget_low_f32(y)));
            s[2 * j + 1] = vfmaq_f64(s[2 * j + 1], vcvt_high_f64_f32(x), vcvt_high_f64_f32(y));
        }
    }
    for (size_t j = 0; j < LANES / 2; j++)
        vst1q_f64(sum + 2 * j, s[j]);
    add_last(sum, a, b, i, dim);
    return added_up(sum);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_float64(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        double (*dot)(const float *, const float *, size_t);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX2, avx2_dot },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_dot },
#endif
        { 0, scalar_dot },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->dot_f64 = variants[i].dot;
    return variants[i].needs;
}
