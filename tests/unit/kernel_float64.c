/* kernel_float64.c - sums in float64 are equal on every machine, bit for bit.
 *
 * Method: the definition is worked out in float64, product by product, from random values whose
 * magnitudes differ so much that any other order of additions would show, at each dimension
 * around the vector widths, with both arrays at an unreadable page and at odd addresses. */
#include "../support/kernel_data.h"

static double defined(const float *a, const float *b, size_t dim)
{
    double sum[16] = { 0 };

    for (size_t i = 0; i < dim; i++) {
        double product = (double)a[i] * (double)b[i];

        sum[i % 16] += product;
    }
    for (size_t width = 8; width > 0; width /= 2) {
        for (size_t i = 0; i < width; i++)
            sum[i] += sum[i + width];
    }
    return sum[0];
}

static void draw(float *to, size_t dim, uint64_t *seed)
{
    for (size_t i = 0; i < dim; i++)
        to[i] = ldexpf(random_float(seed), (int)(random_bits(seed) % 40) - 20);
}

static bool same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

Test(kernel_float64, sums_follow_their_definition_bit_by_bit)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wa = walled_make(DIM_LAST * 4 + 1), wb = walled_make(DIM_LAST * 4 + 1);
    static float a[DIM_LAST], b[DIM_LAST];
    uint64_t seed = 1;

    for (size_t dim = 0; dim <= DIM_LAST; dim = dim_next(dim)) {
        draw(a, dim, &seed);
        draw(b, dim, &seed);
        for (size_t odd = 0; odd < 2; odd++) {
            const float *x = memcpy(wa.end - dim * 4 - odd, a, dim * 4);
            const float *y = memcpy(wb.end - dim * 4, b, dim * 4);

            for (size_t i = 0; i < variants; i++) {
                double got = v[i].kernel.dot_f64(x, y, dim);

                cr_expect(same(got, defined(a, b, dim)), "%s cpu=%x dim=%zu: %a and not %a",
                          v[i].kernel.name, v[i].cpu, dim, got, defined(a, b, dim));
                cr_expect(same(v[i].kernel.dot_f64(x, x, dim), defined(a, a, dim)),
                          "%s cpu=%x dim=%zu: of squares", v[i].kernel.name, v[i].cpu, dim);
            }
        }
    }
    walled_free(&wa);
    walled_free(&wb);
}

/* Products of the smallest floats and of the greatest are exact, too. */
Test(kernel_float64, neither_end_of_the_range_is_lost)
{
    static const float ends[] = { FLT_TRUE_MIN, FLT_MIN, FLT_MAX, -FLT_MAX };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    float a[33], b[33];

    for (size_t i = 0; i < 16; i++) {
        for (size_t j = 0; j < 33; j++) {
            a[j] = ends[i % 4];
            b[j] = ends[i / 4];
        }
        for (size_t j = 0; j < variants; j++)
            cr_expect(same(v[j].kernel.dot_f64(a, b, 33), defined(a, b, 33)), "%s cpu=%x ends %zu",
                      v[j].kernel.name, v[j].cpu, i);
    }
}
