/* kernel_code.c - distances of 7-bit codes are exact, and stay in bounds.
 *
 * Method: for each variant this machine can run, each length and each count
 * around four rows, compare with a 64-bit sum. The data are random codes and the
 * extremes that overflow first, up to the largest length. The last row and the
 * query end at an unreadable page. */
#include "../support/kernel_data.h"

enum { ROWS = 64, BYTES_LAST = 1088, BYTES_MOST = 65536 };

static const size_t counts[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 64 };

static int64_t l2sq(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    int64_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

static int64_t dot(const int8_t *a, const uint8_t *b, size_t bytes)
{
    int64_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum += a[i] * b[i];
    return sum;
}

static void check(const struct variant *v, const uint8_t *q, const int8_t *signed_q,
                  const void *const *rows, size_t count, size_t bytes)
{
    int32_t out[ROWS + 1];

    out[count] = -7;
    v->kernel.l2sq_code_many(q, rows, count, bytes, out);
    for (size_t r = 0; r < count; r++)
        cr_expect(out[r] == l2sq(q, rows[r], bytes), "l2sq %s cpu=%x bytes=%zu row %zu of %zu",
                  v->kernel.name, v->cpu, bytes, r, count);
    v->kernel.dot_code_many(signed_q, rows, count, bytes, out);
    for (size_t r = 0; r < count; r++)
        cr_expect(out[r] == dot(signed_q, rows[r], bytes), "dot %s cpu=%x bytes=%zu row %zu of %zu",
                  v->kernel.name, v->cpu, bytes, r, count);
    cr_expect(out[count] == -7, "%s cpu=%x bytes=%zu count=%zu wrote past out", v->kernel.name,
              v->cpu, bytes, count);
}

Test(kernel_code, agrees_with_its_definition_and_reads_nothing_past_the_end)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(BYTES_LAST), ws = walled_make(BYTES_LAST);
    struct walled wr = walled_make((size_t)ROWS * BYTES_LAST);
    const void *rows[ROWS];
    uint64_t seed = 1;

    random_fill(wq.from, (size_t)(wq.end - wq.from), &seed);
    random_fill(ws.from, (size_t)(ws.end - ws.from), &seed);
    random_fill(wr.from, (size_t)(wr.end - wr.from), &seed);
    for (unsigned char *p = wq.from; p < wq.end; p++)
        *p &= 127;
    for (unsigned char *p = wr.from; p < wr.end; p++)
        *p &= 127;
    for (unsigned char *p = ws.from; p < ws.end; p++)
        *p += *p == 128; /* -128 is no query element */
    for (size_t bytes = 64; bytes <= BYTES_LAST; bytes += 64) {
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            for (size_t r = 0; r < counts[n]; r++)
                rows[r] = wr.end - (counts[n] - r) * bytes;
            for (size_t i = 0; i < variants; i++)
                check(&v[i], wq.end - bytes, (const int8_t *)(ws.end - bytes), rows, counts[n],
                      bytes);
        }
    }
    walled_free(&wq);
    walled_free(&ws);
    walled_free(&wr);
}

Test(kernel_code, takes_the_extremes_up_to_the_largest_length)
{
    static const int query[] = { 127, -127, 0 };
    static const size_t lengths[] = { 64, 128, 4096, BYTES_MOST };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(BYTES_MOST), ws = walled_make(BYTES_MOST);
    struct walled wr = walled_make(BYTES_MOST);

    for (size_t a = 0; a < sizeof query / sizeof query[0]; a++) {
        for (int b = 0; b <= 127; b += 127) {
            memset(wq.from, query[a] < 0 ? 1 : query[a], BYTES_MOST);
            memset(ws.from, query[a], BYTES_MOST);
            memset(wr.from, b, BYTES_MOST);
            for (size_t n = 0; n < sizeof lengths / sizeof lengths[0]; n++) {
                const void *rows[1] = { wr.end - lengths[n] };
                for (size_t i = 0; i < variants; i++)
                    check(&v[i], wq.from, (const int8_t *)ws.from, rows, 1, lengths[n]);
            }
        }
    }
    walled_free(&wq);
    walled_free(&ws);
    walled_free(&wr);
}
