/* kernel_int8.c - distances of 8-bit elements are exact, and stay in bounds.
 *
 * Method: for each variant this machine can run, each dimension around the
 * vector widths and each count around four rows, compare with a 64-bit sum. The
 * data are random bytes and the extremes that overflow first, up to the largest
 * dimension. Vectors are packed, so most are unaligned, and end at an unreadable
 * page. */
#include "../support/kernel_data.h"

enum { ROWS = 64, DIM_MOST = 32768 };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 64 };

enum { L2SQ_U8, L2SQ_I8, DOT_U8, DOT_I8, JOBS };

static const char *const names[JOBS] = { "l2sq_u8", "l2sq_i8", "dot_u8", "dot_i8" };

static int32_t want(int job, const void *a, const void *b, size_t dim)
{
    const uint8_t *ua = a, *ub = b;
    const int8_t *ia = a, *ib = b;
    int64_t sum = 0;

    for (size_t i = 0; i < dim; i++) {
        int64_t x = job == L2SQ_U8 || job == DOT_U8 ? ua[i] : ia[i];
        int64_t y = job == L2SQ_U8 || job == DOT_U8 ? ub[i] : ib[i];
        sum += job == DOT_U8 || job == DOT_I8 ? x * y : (x - y) * (x - y);
    }
    cr_assert(sum >= INT32_MIN && sum <= INT32_MAX);
    return (int32_t)sum;
}

static void run(const struct vs_kernel *k, int job, const void *q, const void *const *rows,
                size_t count, size_t dim, int32_t *out)
{
    switch (job) {
    case L2SQ_U8: k->l2sq_u8_many(q, rows, count, dim, out); break;
    case L2SQ_I8: k->l2sq_i8_many(q, rows, count, dim, out); break;
    case DOT_U8: k->dot_u8_many(q, rows, count, dim, out); break;
    default: k->dot_i8_many(q, rows, count, dim, out);
    }
}

static void check(const struct variant *v, const void *q, const void *const *rows, size_t count,
                  size_t dim)
{
    for (int job = 0; job < JOBS; job++) {
        int32_t out[ROWS + 1];

        out[count] = -7;
        run(&v->kernel, job, q, rows, count, dim, out);
        for (size_t r = 0; r < count; r++)
            cr_expect(out[r] == want(job, q, rows[r], dim), "%s %s cpu=%x dim=%zu row %zu of %zu",
                      names[job], v->kernel.name, v->cpu, dim, r, count);
        cr_expect(out[count] == -7, "%s %s cpu=%x dim=%zu count=%zu wrote past out", names[job],
                  v->kernel.name, v->cpu, dim, count);
    }
}

Test(kernel_int8, agrees_with_its_definition_and_reads_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(DIM_LAST), wr = walled_make(ROWS * DIM_LAST);
    const void *rows[ROWS];
    uint64_t seed = 1;

    random_fill(wq.from, (size_t)(wq.end - wq.from), &seed);
    random_fill(wr.from, (size_t)(wr.end - wr.from), &seed);
    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            for (size_t r = 0; r < counts[n]; r++)
                rows[r] = wr.end - (counts[n] - r) * dim;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], wq.end - dim, rows, counts[n], dim);
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}

/* A short row may also lie just behind an unreadable page. */
Test(kernel_int8, reads_nothing_before_the_start)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(256), wr = walled_make(256);
    const void *rows[3] = { wr.from, wr.from, wr.from };
    uint64_t seed = 2;

    random_fill(wq.from, 256, &seed);
    random_fill(wr.from, 256, &seed);
    for (size_t dim = 1; dim <= 130; dim++) {
        for (size_t i = 0; i < variants; i++)
            check(&v[i], wq.from, rows, 3, dim);
    }
    walled_free(&wq);
    walled_free(&wr);
}

Test(kernel_int8, takes_the_extremes_at_every_dimension_up_to_the_largest)
{
    static const int bytes[] = { 0, 255, 127, 128, 1 };
    static const size_t dims[] = { 1, 31, 32, 63, 64, 65, 1000, 4096, 32767, DIM_MOST };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(DIM_MOST), wr = walled_make(DIM_MOST);

    for (size_t a = 0; a < sizeof bytes / sizeof bytes[0]; a++) {
        for (size_t b = 0; b < sizeof bytes / sizeof bytes[0]; b++) {
            memset(wq.from, bytes[a], DIM_MOST);
            memset(wr.from, bytes[b], DIM_MOST);
            for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
                const void *rows[2] = { wr.end - dims[d], wr.from };
                for (size_t i = 0; i < variants; i++)
                    check(&v[i], wq.end - dims[d], rows, 2, dims[d]);
            }
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}
