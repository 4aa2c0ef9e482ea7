/* kernel_float16.c - float16 rows: widened exactly, measured within the bound.
 *
 * Method: all 65,536 float16 values are widened by every variant, at every place of
 * a vector register, and compared with what the definition of binary16 says, by
 * ldexp. Distances are compared with a float64 sum at each dimension around the
 * vector widths and each count around four rows, and must not depend on a row's
 * place. The data are random numbers of every exponent, subnormal ones among them,
 * and numbers nearly equal to the query. Everything ends at an unreadable page. */
#include "../support/kernel_data.h"

enum { ROWS = 68, ALL = 65536, L2SQ = 0, DOT, L1, JOBS };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 7, 8, 64 };
static const char *const names[JOBS] = { "l2sq_f16", "dot_f16", "l1_f16" };

static double value_of(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double v;

    if (exponent == 31)
        v = fraction ? (double)NAN : (double)INFINITY;
    else
        v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -v : v;
}

static bool finite_half(uint16_t half)
{
    return (half >> 10 & 31) != 31;
}

Test(kernel_float16, widens_each_of_the_65536_values_exactly)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    static uint16_t halves[ALL + 32];
    static float out[ALL + 32];

    for (size_t shift = 0; shift < 17; shift++) {
        for (size_t i = 0; i < ALL; i++)
            halves[shift + i] = (uint16_t)i;
        for (size_t k = 0; k < variants; k++) {
            memset(out, 0, sizeof out);
            v[k].kernel.widen_f16(halves, ALL + shift, out);
            for (size_t i = 0; i < ALL; i++) {
                double want = value_of((uint16_t)i), got = (double)out[shift + i];
                cr_assert(isnan(want) ? isnan(got) : got == want && !signbit(got) == !signbit(want),
                          "%s cpu=%x shift=%zu: %04zx is %.9g, not %.9g", v[k].kernel.name,
                          v[k].cpu, shift, i, want, got);
            }
            cr_assert(out[ALL + shift] == 0, "%s wrote past out", v[k].kernel.name);
        }
    }
}

Test(kernel_float16, finds_the_first_that_is_not_finite)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled w = walled_make(130 * sizeof(uint16_t));

    for (size_t k = 0; k < variants; k++) {
        for (size_t count = 0; count <= 70; count++) {
            uint16_t *x = (uint16_t *)(void *)w.end - count;

            for (size_t i = 0; i < count; i++)
                x[i] = (uint16_t)(0x7bff - i);
            cr_expect(v[k].kernel.find_unfit_f16(x, count) == count, "%s cpu=%x count=%zu",
                      v[k].kernel.name, v[k].cpu, count);
            for (size_t at = count; at-- > 0;) { /* those behind it are unfit, too */
                static const uint16_t bad[] = { 0x7c00, 0xfc00, 0x7c01, 0xffff, 0x7e00 };
                x[at] = bad[at % 5];
                cr_expect(v[k].kernel.find_unfit_f16(x, count) == at, "%s cpu=%x count=%zu at=%zu",
                          v[k].kernel.name, v[k].cpu, count, at);
            }
        }
        for (uint32_t half = 0; half < ALL; half++) {
            uint16_t x[17] = { 0 };

            x[half % 17] = (uint16_t)half;
            cr_assert(v[k].kernel.find_unfit_f16(x, 17) ==
                          (finite_half((uint16_t)half) ? 17 : half % 17),
                      "%s cpu=%x: %04x", v[k].kernel.name, v[k].cpu, half);
        }
    }
    walled_free(&w);
}

/* ---- distances ---- */

static uint16_t random_half(uint64_t *seed, int kind)
{
    uint16_t half = (uint16_t)random_bits(seed);

    if (kind == 1) /* 4 and a little: differences cancel */
        return (uint16_t)(0x4400 | (half & 7));
    if (kind == 2) /* subnormal */
        return half & 0x83ff;
    return finite_half(half) ? half : (uint16_t)(half & 0xbfff);
}

static double want(int job, const float *q, const uint16_t *r, size_t dim, double *magnitude)
{
    double sum = 0;

    *magnitude = 0;
    for (size_t i = 0; i < dim; i++) {
        double a = (double)q[i], b = value_of(r[i]), d = a - b;
        double term = job == DOT ? a * b : job == L2SQ ? d * d : fabs(d);
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

static void run(const struct vs_kernel *k, int job, const float *q, const void *const *rows,
                size_t count, size_t dim, float *out)
{
    switch (job) {
    case L2SQ: k->l2sq_f16_many(q, rows, count, dim, out); break;
    case DOT: k->dot_f16_many(q, rows, count, dim, out); break;
    default: k->l1_f16_many(q, rows, count, dim, out);
    }
}

static void check(const struct variant *v, const float *q, const void *const *rows, size_t count,
                  size_t dim)
{
    for (int job = 0; job < JOBS; job++) {
        float out[ROWS + 1], alone;

        out[count] = -7;
        run(&v->kernel, job, q, rows, count, dim, out);
        for (size_t r = 0; r < count; r++) {
            double magnitude, truth = want(job, q, rows[r], dim, &magnitude);

            cr_expect(fabs((double)out[r] - truth) <= magnitude * (double)(dim + 2) * 0x1p-24,
                      "%s %s cpu=%x dim=%zu row %zu of %zu: %.9g, not %.9g", names[job],
                      v->kernel.name, v->cpu, dim, r, count, (double)out[r], truth);
            run(&v->kernel, job, q, rows + r, 1, dim, &alone);
            cr_expect(memcmp(&alone, &out[r], sizeof alone) == 0,
                      "%s %s cpu=%x dim=%zu: row %zu of %zu is not what it is alone", names[job],
                      v->kernel.name, v->cpu, dim, r, count);
        }
        cr_expect(out[count] == -7, "%s %s cpu=%x dim=%zu count=%zu wrote past out", names[job],
                  v->kernel.name, v->cpu, dim, count);
    }
}

Test(kernel_float16, agrees_with_its_definition_and_reads_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(DIM_LAST * sizeof(float));
    struct walled wr = walled_make(ROWS * DIM_LAST * sizeof(uint16_t));
    uint64_t seed = 1;

    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        float *q = (float *)(void *)wq.end - dim;
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            size_t count = dim > 260 && counts[n] > 8 ? 9 : counts[n];
            uint16_t *base = (uint16_t *)(void *)wr.end - count * dim;
            const void *rows[ROWS];
            int kind = (int)((dim + n) % 3);

            for (size_t i = 0; i < count * dim; i++)
                base[i] = random_half(&seed, kind);
            for (size_t i = 0; i < dim; i++)
                q[i] = (float)value_of(random_half(&seed, kind));
            for (size_t i = 0; i < count; i++)
                rows[i] = base + i * dim;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], q, rows, count, dim);
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}

/* A short row may also lie just behind an unreadable page, and at an odd address. */
Test(kernel_float16, reads_nothing_before_the_start_and_takes_any_alignment)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wr = walled_make(4096);
    uint16_t row[130];
    float q[130];
    uint64_t seed = 2;

    for (size_t dim = 1; dim <= 130; dim++) {
        for (size_t i = 0; i < dim; i++) {
            row[i] = random_half(&seed, 0);
            q[i] = (float)value_of(random_half(&seed, 0));
        }
        for (size_t i = 0; i < variants; i++) {
            const void *here[1] = { row }, *there[1];
            float want_sum, sum;

            for (int job = 0; job < JOBS; job++) {
                run(&v[i].kernel, job, q, here, 1, dim, &want_sum);
                for (size_t offset = 0; offset < 5; offset++) {
                    memcpy(wr.from + offset, row, dim * sizeof *row);
                    there[0] = wr.from + offset;
                    run(&v[i].kernel, job, q, there, 1, dim, &sum);
                    cr_expect(memcmp(&sum, &want_sum, sizeof sum) == 0,
                              "%s %s cpu=%x dim=%zu offset=%zu", names[job], v[i].kernel.name,
                              v[i].cpu, dim, offset);
                }
            }
        }
    }
    walled_free(&wr);
}
