/* kernel_u4.c - distances to rows of 4 bits are exact, and stay in bounds.
 *
 * Method: for each variant this machine can run, each length and each count
 * around four rows, compare with a 64-bit sum over numbers unpacked one by one. The
 * data are random and the extremes, up to the largest length. The last row and the
 * query end at an unreadable page. */
#include "../support/kernel_data.h"

enum { ROWS = 17, BYTES_LAST = 1088, BYTES_MOST = 32768 };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17 };

/* Number i of a row: the low halves of 64 bytes, then the high ones. */
static int number(const uint8_t *row, size_t i)
{
    uint8_t byte = row[i / 128 * 64 + i % 64];

    return i / 64 % 2 == 0 ? byte & 15 : byte >> 4;
}

static int64_t l2sq(const uint8_t *query, const uint8_t *row, size_t bytes)
{
    int64_t sum = 0;

    for (size_t i = 0; i < 2 * bytes; i++)
        sum += (query[i] - 8 * number(row, i)) * (query[i] - 8 * number(row, i));
    return sum;
}

static void check(const struct variant *v, const uint8_t *q, const void *const *rows, size_t count,
                  size_t bytes)
{
    int32_t out[ROWS + 1];

    out[count] = -7;
    v->kernel.l2sq_u4_many(q, rows, count, bytes, out);
    for (size_t r = 0; r < count; r++)
        cr_expect(out[r] == l2sq(q, rows[r], bytes), "%s cpu=%x bytes=%zu row %zu of %zu",
                  v->kernel.name, v->cpu, bytes, r, count);
    cr_expect(out[count] == -7, "%s cpu=%x bytes=%zu count=%zu wrote past out", v->kernel.name,
              v->cpu, bytes, count);
}

Test(kernel_u4, agrees_with_its_definition_and_reads_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make((size_t)2 * BYTES_LAST);
    struct walled wr = walled_make((size_t)ROWS * BYTES_LAST);
    const void *rows[ROWS];
    uint64_t seed = 1;

    random_fill(wq.from, (size_t)(wq.end - wq.from), &seed);
    random_fill(wr.from, (size_t)(wr.end - wr.from), &seed);
    for (unsigned char *p = wq.from; p < wq.end; p++)
        *p &= 127;
    for (size_t bytes = 64; bytes <= BYTES_LAST; bytes += 64) {
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            for (size_t r = 0; r < counts[n]; r++)
                rows[r] = wr.end - (counts[n] - r) * bytes;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], wq.end - 2 * bytes, rows, counts[n], bytes);
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}

Test(kernel_u4, takes_the_extremes_up_to_the_largest_length)
{
    static const size_t lengths[] = { 64, 128, 4096, BYTES_MOST };
    static const int queries[] = { 0, 127 }, bytes_of_rows[] = { 0x00, 0x0f, 0xf0, 0xff };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make((size_t)2 * BYTES_MOST), wr = walled_make(BYTES_MOST);

    for (size_t a = 0; a < 2; a++) {
        for (size_t b = 0; b < 4; b++) {
            memset(wq.from, queries[a], (size_t)(wq.end - wq.from));
            memset(wr.from, bytes_of_rows[b], (size_t)(wr.end - wr.from));
            for (size_t n = 0; n < sizeof lengths / sizeof lengths[0]; n++) {
                const void *rows[1] = { wr.end - lengths[n] };

                for (size_t i = 0; i < variants; i++)
                    check(&v[i], wq.end - 2 * lengths[n], rows, 1, lengths[n]);
            }
        }
    }
    walled_free(&wq);
    walled_free(&wr);
}
