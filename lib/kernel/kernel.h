/* kernel.h - the door of lib/kernel: arithmetic on vectors and codes.
 *
 * A struct vs_kernel holds one function for each job, each the fastest that runs
 * on a CPU with the given bits. It is filled once, when an index is created, by a
 * pure function of those bits, and is then only read: nothing is global, and a
 * test can run any variant the machine can execute by passing fewer bits.
 *
 * The choice is made function by function, not table by table: CPUs combine the
 * instruction sets freely, and a bundle of them would leave the best variant
 * unused on a machine that lacks only an unrelated bit.
 *
 * The scalar variant of each function defines the right answer. Integer results
 * are equal on every instruction set; float results are within the stated bound.
 * Pointers to elements may have any alignment; pointers to codes are aligned to
 * 64 bytes, and codes are padded with zeros to a multiple of 64 bytes. Nothing is
 * read past the end. */
#ifndef VS_KERNEL_H
#define VS_KERNEL_H

#include "base/base.h"

/* The candidate pool of a graph search: the `cap` nearest rows seen so far, sorted
 * by key. Two arrays, so that one compare covers eight or sixteen keys. */
struct vs_pool {
    int32_t *keys;   /* [cap + 16], ascending in [0, count) */
    uint32_t *slots; /* [cap + 16]; VS_POOL_EXPANDED set once its edges were followed */
    uint32_t count;
    uint32_t cap;
    uint32_t next; /* the first entry that may not be expanded yet, <= count */
};

#define VS_POOL_EXPANDED 0x80000000u

/* Rows whose bytes make one panel (tile.c), and what one call selects from at most. */
enum { VS_PANEL_ROWS = 64 };

/* Which rows a scan must look at, of those it knows by scaled bytes (sieve.c). */
struct vs_select {
    float scale, norm, slope, reach;
    int32_t origin; /* taken off each product */
};

/* Codes are 7-bit, 0..127, so that AVX2's 16-bit sums of two products cannot
 * overflow. */
struct vs_kernel {
    /* Float32, squared distance and dot product. Relative error of l2sq and l1, and
     * error of dot relative to the sum of |a[i] * b[i]|: at most (dim + 2) * 2^-24,
     * where no product underflows. */
    float (*l2sq_f32)(const float *a, const float *b, size_t dim);
    float (*dot_f32)(const float *a, const float *b, size_t dim);

    /* The same, one query to many rows: out[i] is for rows[i]. Each result is bit
     * for bit what the one-to-one function of the same table gives. l1 is the sum of
     * |a[i] - b[i]|. */
    void (*l2sq_f32_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                          float *out);
    void (*dot_f32_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                         float *out);

    void (*l1_f32_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                        float *out);

    /* The dot product of floats at any address, summed in float64 in one fixed order (float64.c):
     * equal on every instruction set. */
    double (*dot_f64)(const float *a, const float *b, size_t dim);

    /* Rows of float16 (IEEE 754 binary16), a query of float32, with the bounds above;
     * a row's result does not depend on its place among the rows. */
    void (*l2sq_f16_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                          float *out);
    void (*dot_f16_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                         float *out);
    void (*l1_f16_many)(const float *query, const void *const *rows, size_t count, size_t dim,
                        float *out);

    /* Float16 to float32: exact, also of infinities and of numbers below 2^-14; a NaN
     * stays one. And the index of the first that is NaN or infinite, or count. */
    void (*widen_f16)(const void *x, size_t dim, float *out);
    size_t (*find_unfit_f16)(const void *x, size_t count);

    /* 8-bit elements, any alignment, dim <= 32768; exact. */
    void (*l2sq_u8_many)(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out);
    void (*l2sq_i8_many)(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                         int32_t *out);
    void (*dot_u8_many)(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                        int32_t *out);
    void (*dot_i8_many)(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                        int32_t *out);

    /* Sums of absolute differences of bytes, any alignment, dim <= 65536; exact. Codes
     * are bytes, too. */
    void (*l1_u8_many)(const uint8_t *query, const void *const *rows, size_t count, size_t dim,
                       int32_t *out);
    void (*l1_i8_many)(const int8_t *query, const void *const *rows, size_t count, size_t dim,
                       int32_t *out);

    /* Packed bits that differ, any alignment, bytes <= 4096; exact. */
    void (*hamming_many)(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                         int32_t *out);

    /* 7-bit codes, `bytes` a multiple of 64, at most 65536; exact. The query of
     * dot_code_many is signed, -127..127. */
    void (*l2sq_code_many)(const uint8_t *query, const void *const *rows, size_t count,
                           size_t bytes, int32_t *out);
    void (*dot_code_many)(const int8_t *query, const void *const *rows, size_t count, size_t bytes,
                          int32_t *out);

    /* A query of 7 bits, uint8 [2 x bytes], and rows of 4 bits, two to a byte: of each 64
     * bytes of a row, the low halves face 64 bytes of the query and the high halves the
     * next 64. out is the sum of (query - 8 * row)^2. `bytes` is a multiple of 64, at
     * most 32768; exact. */
    void (*l2sq_u4_many)(const uint8_t *query, const void *const *rows, size_t count, size_t bytes,
                         int32_t *out);

    /* out[i] = (x[i] * by - low[i]) * scale, in float32 without a fused multiply-add,
     * clamped to 0..127 (NaN to 0), then rounded to the nearest integer, ties to
     * even. Equal on every instruction set, because each element stands alone. x may lie
     * at any address. */
    void (*encode)(const float *x, float by, const float *low, float scale, size_t dim,
                   uint8_t *out);

    /* The greatest magnitude; 0 if there is none. And out[i] = x[i] * scale, rounded to
     * the nearest integer, ties to even; the products are within -127.4..127.4. Equal on
     * every instruction set. */
    float (*greatest)(const float *x, size_t dim);
    void (*round_bytes)(const float *x, float scale, size_t dim, int8_t *out);

    /* The index of the first value that is NaN, infinite or above `limit` in
     * magnitude; count if there is none. */
    size_t (*find_unfit)(const float *x, size_t count, float limit);

    /* Offers `count` candidates to the pool, in order. One whose key is below that of
     * the last of a full pool, or any while it is not full, is inserted behind the
     * entries whose keys are <= its own; what falls off the end is gone. Afterwards
     * pool->next is at most the least position inserted at. The entries from `count`
     * on are scratch: they need not be set, and are not kept. */
    void (*pool_push)(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                      size_t count);

    /* How many keys are at most `most`; and those candidates whose keys are, in order, to the
     * front of other arrays, which may be the same: returns how many. Nothing is written
     * behind them. */
    size_t (*count_keys)(int32_t most, const int32_t *keys, size_t count);
    size_t (*keep_keys)(int32_t most, const int32_t *keys, const uint32_t *slots, size_t count,
                        int32_t *out_keys, uint32_t *out_slots);

    /* Puts VS_PANEL_ROWS rows of bytes, any alignment, into a panel of
     * [(dim + 3) / 4][VS_PANEL_ROWS][4] bytes, each XORed with `flip`; elements behind
     * the last count as 0 before that. */
    void (*panel_pack)(const void *const *rows, size_t dim, uint8_t flip, uint8_t *panel);

    /* out[q][r] = the sum of query q's bytes, signed, times row r's, unsigned. Queries
     * are [count][4 * groups] bytes, groups <= 8192; out is [count][VS_PANEL_ROWS].
     * Exact. */
    void (*panel_dot)(const int8_t *queries, size_t count, size_t groups, const uint8_t *panel,
                      int32_t *out);

    /* Bit i is set unless, in float32, each operation rounded, and with
     * p = (s->scale * scales[i]) * (products[i] - s->origin), r = s->slope * scales[i]:
     *
     *   near   (s->norm + norms[i]) - p > (s->reach + r)^2
     *   dot    (p + r) + s->norm * norms[i] < s->reach
     *   keys   keys[i] > most
     *   floats distances[i] > most
     *
     * count <= 64; bits from count on are 0. Equal on every instruction set. */
    uint64_t (*select_near)(const struct vs_select *s, const int32_t *products, const float *scales,
                            const float *norms, size_t count);
    uint64_t (*select_dot)(const struct vs_select *s, const int32_t *products, const float *scales,
                           const float *norms, size_t count);
    uint64_t (*select_keys)(float most, const int32_t *keys, size_t count);
    uint64_t (*select_floats)(float most, const float *distances, size_t count);

    /* Of 64 values, bit i is set where low <= values[i] <= high. */
    uint64_t (*between)(int64_t low, int64_t high, const int64_t *values);

    const char *name; /* static text for reports: the widest instruction set in use */
};

/* Fills in the fastest functions for a CPU with these VSHARD_CPU_* bits. */
void vs_kernel_init(struct vs_kernel *kernel, uint32_t cpu);

#endif
