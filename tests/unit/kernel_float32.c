/* kernel_float32.c - float distances: right within the bound, and in bounds.
 *
 * Method: for each variant this machine can run, each dimension around the
 * vector widths and each count around four rows, compare with a float64 sum. The
 * bound is the one kernel.h states. The data are random, of one sign (roundings
 * that do not cancel), of mixed magnitude, and nearly equal (differences that
 * cancel). Every vector ends at an unreadable page. */
#include "../support/kernel_data.h"

enum { ROWS = 68, KINDS = 4 };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 64 };

static void fill(int kind, float *a, float *b, size_t dim, uint64_t *seed)
{
    for (size_t i = 0; i < dim; i++) {
        float x = random_float(seed), y = random_float(seed);
        if (kind == 1) {
            x = 0.5f + x * 0.1f;
            y = 0.5f + y * 0.1f;
        } else if (kind == 2) {
            x = ldexpf(x, (int)(random_bits(seed) % 40) - 20);
            y = ldexpf(y, (int)(random_bits(seed) % 40) - 20);
        } else if (kind == 3) {
            x += 4;
            y = x + y * 0x1p-20f;
        }
        a[i] = x;
        b[i] = y;
    }
}

static double l2sq(const float *a, const float *b, size_t dim)
{
    double sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

static double dot(const float *a, const float *b, size_t dim, double *magnitude)
{
    double sum = 0;
    *magnitude = 0;
    for (size_t i = 0; i < dim; i++) {
        sum += (double)a[i] * b[i];
        *magnitude += fabs((double)a[i] * b[i]);
    }
    return sum;
}

static double l1(const float *a, const float *b, size_t dim)
{
    double sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += fabs((double)a[i] - b[i]);
    return sum;
}

static float l1_alone(const struct vs_kernel *k, const float *a, const void *b, size_t dim)
{
    float out;

    k->l1_f32_many(a, &b, 1, dim, &out);
    return out;
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

Test(kernel_float32, agrees_with_its_definition_and_reads_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wa = walled_make(DIM_LAST * sizeof(float));
    struct walled wb = walled_make(DIM_LAST * sizeof(float));
    uint64_t seed = 1;

    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        float *a = (float *)(void *)wa.end - dim, *b = (float *)(void *)wb.end - dim;
        for (int kind = 0; kind < KINDS; kind++) {
            double want_l2, want_dot, want_l1, magnitude, unit = (double)(dim + 2) * 0x1p-24;

            fill(kind, a, b, dim, &seed);
            want_l2 = l2sq(a, b, dim);
            want_dot = dot(a, b, dim, &magnitude);
            want_l1 = l1(a, b, dim);
            for (size_t i = 0; i < variants; i++) {
                double got = v[i].kernel.l2sq_f32(a, b, dim);
                cr_expect(fabs(got - want_l2) <= want_l2 * unit,
                          "l2sq %s cpu=%x dim=%zu kind=%d: got %.9g, want %.9g", v[i].kernel.name,
                          v[i].cpu, dim, kind, got, want_l2);
                got = v[i].kernel.dot_f32(a, b, dim);
                cr_expect(fabs(got - want_dot) <= magnitude * unit,
                          "dot %s cpu=%x dim=%zu kind=%d: got %.9g, want %.9g", v[i].kernel.name,
                          v[i].cpu, dim, kind, got, want_dot);
                got = l1_alone(&v[i].kernel, a, b, dim);
                cr_expect(fabs(got - want_l1) <= want_l1 * unit,
                          "l1 %s cpu=%x dim=%zu kind=%d: got %.9g, want %.9g", v[i].kernel.name,
                          v[i].cpu, dim, kind, got, want_l1);
            }
        }
    }
    walled_free(&wa);
    walled_free(&wb);
}

/* Rows are packed, so that all but the first few are unaligned and the last one
 * ends at the wall. */
Test(kernel_float32, gives_many_rows_the_same_bits_as_one)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(DIM_LAST * sizeof(float));
    struct walled wr = walled_make(ROWS * DIM_LAST * sizeof(float));
    float out[ROWS + 1];
    uint64_t seed = 2;

    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        float *q = (float *)(void *)wq.end - dim;
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            size_t count = counts[n];
            float *base = (float *)(void *)wr.end - count * dim;
            const void *rows[ROWS];

            for (size_t i = 0; i < count * dim; i++)
                base[i] = random_float(&seed);
            for (size_t i = 0; i < dim; i++)
                q[i] = random_float(&seed);
            for (size_t i = 0; i < count; i++)
                rows[i] = base + i * dim;
            for (size_t i = 0; i < variants; i++) {
                const struct vs_kernel *k = &v[i].kernel;
                out[count] = -7;
                k->l2sq_f32_many(q, rows, count, dim, out);
                for (size_t r = 0; r < count; r++)
                    cr_expect(same_bits(out[r], k->l2sq_f32(q, rows[r], dim)),
                              "l2sq %s cpu=%x dim=%zu row %zu of %zu", k->name, v[i].cpu, dim, r,
                              count);
                k->dot_f32_many(q, rows, count, dim, out);
                for (size_t r = 0; r < count; r++)
                    cr_expect(same_bits(out[r], k->dot_f32(q, rows[r], dim)),
                              "dot %s cpu=%x dim=%zu row %zu of %zu", k->name, v[i].cpu, dim, r,
                              count);
                k->l1_f32_many(q, rows, count, dim, out);
                for (size_t r = 0; r < count; r++)
                    cr_expect(same_bits(out[r], l1_alone(k, q, rows[r], dim)),
                              "l1 %s cpu=%x dim=%zu row %zu of %zu", k->name, v[i].cpu, dim, r,
                              count);
                cr_expect(out[count] == -7, "%s cpu=%x dim=%zu count=%zu wrote past out", k->name,
                          v[i].cpu, dim, count);
            }
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}

/* Any alignment, down to single bytes: the pointers of a packed file. */
Test(kernel_float32, takes_any_alignment)
{
    enum { DIM = 100 };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    float a[DIM], b[DIM];
    unsigned char raw_a[DIM * 4 + 64], raw_b[DIM * 4 + 64];
    uint64_t seed = 3;

    fill(0, a, b, DIM, &seed);
    for (size_t i = 0; i < variants; i++) {
        const struct vs_kernel *k = &v[i].kernel;
        float l2 = k->l2sq_f32(a, b, DIM), ip = k->dot_f32(a, b, DIM);
        for (size_t offset = 0; offset < 64; offset += sizeof(float)) {
            const float *x = (const void *)(raw_a + offset),
                        *y = (const void *)(raw_b + 60 - offset);
            memcpy(raw_a + offset, a, sizeof a);
            memcpy(raw_b + 60 - offset, b, sizeof b);
            cr_expect(same_bits(k->l2sq_f32(x, y, DIM), l2), "l2sq %s offset=%zu", k->name, offset);
            cr_expect(same_bits(k->dot_f32(x, y, DIM), ip), "dot %s offset=%zu", k->name, offset);
        }
    }
}

Test(kernel_float32, passes_infinity_and_nan_through)
{
    enum { DIM = 37 };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    float a[DIM] = { 0 }, b[DIM];

    for (size_t i = 0; i < DIM; i++)
        b[i] = 1;
    for (size_t i = 0; i < variants; i++) {
        for (size_t at = 0; at < DIM; at++) {
            a[at] = INFINITY;
            cr_expect(isinf(v[i].kernel.l2sq_f32(a, b, DIM)), "%s at=%zu", v[i].kernel.name, at);
            a[at] = NAN;
            cr_expect(isnan(v[i].kernel.dot_f32(a, b, DIM)), "%s at=%zu", v[i].kernel.name, at);
            a[at] = 0;
        }
    }
}
