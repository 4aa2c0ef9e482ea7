/* kernel_bytes.c - L1 of bytes and Hamming distance of bits: exact, and in bounds.
 *
 * Method: for each variant this machine can run, each length around the vector
 * widths and each count around four rows, compare with a sum taken byte by byte and
 * bit by bit. The data are random bytes, and the extremes up to the greatest length.
 * Vectors are packed, so most are unaligned, and end at an unreadable page. Ones are
 * counted once for each byte value at each place of a register. */
#include "../support/kernel_data.h"

enum { ROWS = 64, DIM_MOST = 65536, BYTES_MOST = 4096 };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 64 };

enum { L1_U8, L1_I8, HAMMING, JOBS };

static const char *const names[JOBS] = { "l1_u8", "l1_i8", "hamming" };

static int32_t want(int job, const void *a, const void *b, size_t dim)
{
    const uint8_t *ua = a, *ub = b;
    const int8_t *ia = a, *ib = b;
    int32_t sum = 0;

    for (size_t i = 0; i < dim; i++) {
        if (job == L1_U8)
            sum += ua[i] > ub[i] ? ua[i] - ub[i] : ub[i] - ua[i];
        else if (job == L1_I8)
            sum += ia[i] > ib[i] ? ia[i] - ib[i] : ib[i] - ia[i];
        else
            for (int bit = 0; bit < 8; bit++)
                sum += (ua[i] >> bit & 1) != (ub[i] >> bit & 1);
    }
    return sum;
}

static void run(const struct vs_kernel *k, int job, const void *q, const void *const *rows,
                size_t count, size_t dim, int32_t *out)
{
    switch (job) {
    case L1_U8: k->l1_u8_many(q, rows, count, dim, out); break;
    case L1_I8: k->l1_i8_many(q, rows, count, dim, out); break;
    default: k->hamming_many(q, rows, count, dim, out);
    }
}

static void check(const struct variant *v, const void *q, const void *const *rows, size_t count,
                  size_t dim)
{
    for (int job = 0; job < JOBS; job++) {
        int32_t out[ROWS + 1];

        if (job == HAMMING && dim > BYTES_MOST)
            continue;
        out[count] = -7;
        run(&v->kernel, job, q, rows, count, dim, out);
        for (size_t r = 0; r < count; r++)
            cr_expect(out[r] == want(job, q, rows[r], dim), "%s %s cpu=%x dim=%zu row %zu of %zu",
                      names[job], v->kernel.name, v->cpu, dim, r, count);
        cr_expect(out[count] == -7, "%s %s cpu=%x dim=%zu count=%zu wrote past out", names[job],
                  v->kernel.name, v->cpu, dim, count);
    }
}

Test(kernel_bytes, agree_with_their_definition_and_read_nothing_past_the_end)
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
            size_t count = dim > 260 && counts[n] > 9 ? 9 : counts[n];

            for (size_t r = 0; r < count; r++)
                rows[r] = wr.end - (count - r) * dim;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], wq.end - dim, rows, count, dim);
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}

/* A short row may also lie just behind an unreadable page. */
Test(kernel_bytes, read_nothing_before_the_start)
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

Test(kernel_bytes, take_the_extremes_at_every_length_up_to_the_largest)
{
    static const int bytes[] = { 0, 255, 127, 128, 1 };
    static const size_t dims[] = { 1, 31, 32, 63, 64, 65, 1000, 4095, 4096, 32768, DIM_MOST };
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

Test(kernel_bytes, count_the_ones_of_each_byte_at_each_place)
{
    enum { LENGTH = 100 };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    uint8_t q[LENGTH] = { 0 }, r[LENGTH] = { 0 };
    const void *rows[1] = { r };

    for (size_t at = 0; at < LENGTH; at++) {
        for (int byte = 0; byte < 256; byte++) {
            r[at] = (uint8_t)byte;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], q, rows, 1, LENGTH);
        }
        r[at] = 0;
    }
}
