/* kernel_encode.c - codes are equal on every machine; unfit values are found.
 *
 * Method: the definition is worked out in float64, where the difference and the
 * product of two float32 are exact but for one rounding each to float32. Ties,
 * clamps and neighbours of ties are tried one by one; then random values, at
 * each dimension around the vector widths, with every array at an unreadable
 * page. An unfit value of each kind is put at each place. */
#include "../support/kernel_data.h"

/* The float64 difference and product of two float32 may be rounded twice, which
 * is once too often unless the first is exact or the second harmless: twice 24
 * bits and two are fewer than 53, so it is harmless. */
static uint8_t want(float x, float by, float low, float scale)
{
    float m = (float)((double)x * (double)by);
    float d = (float)((double)m - (double)low);
    float v = (float)((double)d * (double)scale);
    double whole;

    if (!(v > 0))
        return 0;
    if (v > 127)
        return 127;
    whole = floor((double)v);
    if ((double)v - whole > 0.5 || ((double)v - whole == 0.5 && fmod(whole, 2) == 1))
        whole += 1;
    return (uint8_t)whole;
}

Test(kernel_encode, rounds_to_nearest_with_ties_to_even_and_clamps)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    static float x[6 * 140 + 16], low[6 * 140 + 16];
    static uint8_t out[6 * 140 + 16];
    size_t n = 0;

    for (int i = -6; i < 134; i++) { /* around each half and each whole */
        for (int half = 0; half < 2; half++) {
            float c = (float)i + 0.5f * (float)half;
            x[n++] = nextafterf(c, -INFINITY);
            x[n++] = c;
            x[n++] = nextafterf(c, INFINITY);
        }
    }
    x[n++] = FLT_MAX;
    x[n++] = -FLT_MAX;
    x[n++] = -0.0f;
    x[n++] = FLT_TRUE_MIN;
    x[n++] = NAN;
    x[n++] = INFINITY;
    x[n++] = -INFINITY;
    for (size_t i = 0; i < variants; i++) {
        v[i].kernel.encode(x, 1, low, 1, n, out);
        for (size_t j = 0; j < n; j++)
            cr_expect(out[j] == want(x[j], 1, 0, 1), "%s cpu=%x x=%.9g: got %u, want %u",
                      v[i].kernel.name, v[i].cpu, (double)x[j], out[j], want(x[j], 1, 0, 1));
    }
}

/* Random scales make the products inexact: were one fused with a sum, or kept in
 * more bits, some code would differ. One in some thousands does, so there are
 * many. */
Test(kernel_encode, agrees_with_its_definition_and_touches_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wx = walled_make(DIM_LAST * 4), wl = walled_make(DIM_LAST * 4);
    struct walled wo = walled_make(DIM_LAST);
    uint64_t seed = 1;

    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        float *x = (float *)(void *)wx.end - dim, *low = (float *)(void *)wl.end - dim;
        uint8_t *out = wo.end - dim;
        for (int round = 0; round < 8; round++) {
            float scale = 64 * (1 + random_float(&seed) / 8);
            float by = round % 2 ? 1 : 1 + random_float(&seed) / 2;
            for (size_t i = 0; i < dim; i++) {
                low[i] = random_float(&seed) - 1;
                /* half of them as near to a tie as a float32 can be */
                x[i] = i % 2 ? random_float(&seed) * 1.25f
                             : (low[i] + ((float)(random_bits(&seed) % 127) + 0.5f) / scale) / by;
            }
            for (size_t i = 0; i < variants; i++) {
                memset(out, 0xee, dim);
                v[i].kernel.encode(x, by, low, scale, dim, out);
                for (size_t j = 0; j < dim; j++)
                    cr_expect(out[j] == want(x[j], by, low[j], scale),
                              "%s cpu=%x dim=%zu at=%zu: x=%a by=%a low=%a scale=%a got %u",
                              v[i].kernel.name, v[i].cpu, dim, j, (double)x[j], (double)by,
                              (double)low[j], (double)scale, out[j]);
            }
        }
    }
    walled_free(&wx);
    walled_free(&wl);
    walled_free(&wo);
}

Test(kernel_find_unfit, finds_the_first_unfit_value_at_each_place)
{
    static const float unfit[] = { NAN, -NAN, INFINITY, -INFINITY, 8.000001f, -8.000001f, FLT_MAX };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled w = walled_make(130 * sizeof(float));

    for (size_t count = 0; count <= 130; count++) {
        float *x = (float *)(void *)w.end - count;
        for (size_t i = 0; i < count; i++)
            x[i] = i % 2 ? 8 : -8; /* the limit itself is fit */
        for (size_t i = 0; i < variants; i++)
            cr_expect(v[i].kernel.find_unfit(x, count, 8) == count, "%s count=%zu",
                      v[i].kernel.name, count);
        for (size_t at = 0; at < count; at++) {
            for (size_t u = 0; u < sizeof unfit / sizeof unfit[0]; u++) {
                float keep = x[at], last = x[count - 1];
                x[count - 1] = NAN; /* a later one must not be reported */
                x[at] = unfit[u];
                for (size_t i = 0; i < variants; i++)
                    cr_expect(v[i].kernel.find_unfit(x, count, 8) == at,
                              "%s count=%zu at=%zu value=%g", v[i].kernel.name, count, at,
                              (double)unfit[u]);
                x[count - 1] = last;
                x[at] = keep;
            }
        }
    }
    walled_free(&w);
}

Test(kernel_find_unfit, finds_infinity_under_any_limit)
{
    static const float limits[] = { FLT_MAX, INFINITY, NAN };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    float x[20] = { FLT_MAX, -FLT_MAX, 0 };

    for (size_t i = 0; i < variants; i++) {
        for (size_t l = 0; l < 3; l++) {
            for (size_t at = 3; at < 20; at++) {
                x[at] = INFINITY;
                cr_expect(v[i].kernel.find_unfit(x, 20, limits[l]) == at, "%s at=%zu",
                          v[i].kernel.name, at);
                x[at] = 0;
            }
        }
    }
}
