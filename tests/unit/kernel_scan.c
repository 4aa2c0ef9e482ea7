/* kernel_scan.c - what a flat scan is made of: panels, their products, and selection.
 *
 * Method: for each variant this machine can run, each dimension around the vector widths,
 * compare with the definition in kernel.h, element by element. Integers, and the bits of
 * a selection, must be equal: floats there are compared after operations that are rounded
 * one by one. Rows, queries and results lie against an unreadable page. */
#include <stdlib.h>

#include "../support/kernel_data.h"

enum { ROWS = VS_PANEL_ROWS, QUERIES = 14 };

static size_t groups_of(size_t dim)
{
    return (dim + 3) / 4;
}

/* Element i of row r as it stands in a panel. */
static size_t place(size_t i, size_t r)
{
    return (i / 4 * ROWS + r) * 4 + i % 4;
}

static void check_panel(const struct variant *v, const void *const *rows, size_t dim, uint8_t flip,
                        unsigned char *panel)
{
    v->kernel.panel_pack(rows, dim, flip, panel);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < 4 * groups_of(dim); i++) {
            uint8_t element = i < dim ? ((const uint8_t *)rows[r])[i] : 0;

            cr_assert_eq(panel[place(i, r)], element ^ flip, "%s dim %zu row %zu element %zu",
                         v->kernel.name, dim, r, i);
        }
    }
}

Test(kernel_scan, panels_hold_each_element_in_its_place)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wr = walled_make(ROWS * DIM_LAST);
    const void *rows[ROWS];
    uint64_t seed = 1;

    random_fill(wr.from, (size_t)(wr.end - wr.from), &seed);
    for (size_t dim = 1; dim <= DIM_LAST; dim = dim_next(dim)) {
        struct walled wp = walled_make(groups_of(dim) * 4 * ROWS);
        unsigned char *panel = wp.end - groups_of(dim) * 4 * ROWS;

        for (size_t r = 0; r < ROWS; r++)
            rows[r] = wr.end - (ROWS - r) * dim;
        for (size_t i = 0; i < variants; i++)
            check_panel(&v[i], rows, dim, dim % 2 ? 128 : 0, panel);
        walled_free(&wp);
    }
    walled_free(&wr);
}

static void check_products(const struct variant *v, const int8_t *queries, size_t count,
                           size_t groups, const unsigned char *panel, int32_t *out)
{
    v->kernel.panel_dot(queries, count, groups, panel, out);
    for (size_t q = 0; q < count; q++) {
        for (size_t r = 0; r < ROWS; r++) {
            int32_t sum = 0;

            for (size_t i = 0; i < 4 * groups; i++)
                sum += queries[q * groups * 4 + i] * panel[place(i, r)];
            cr_assert_eq(out[q * ROWS + r], sum, "%s cpu=%x groups %zu query %zu of %zu row %zu",
                         v->kernel.name, v->cpu, groups, q, count, r);
        }
    }
}

Test(kernel_scan, products_are_exact_for_each_count_of_queries)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wq = walled_make(QUERIES * 4 * 40), wp = walled_make(ROWS * 4 * 40);
    struct walled wo = walled_make(QUERIES * ROWS * 4);
    uint64_t seed = 2;

    random_fill(wq.from, (size_t)(wq.end - wq.from), &seed);
    random_fill(wp.from, (size_t)(wp.end - wp.from), &seed);
    for (size_t groups = 1; groups <= 40; groups += groups < 9 ? 1 : 31) {
        for (size_t count = 0; count <= QUERIES; count++) {
            const int8_t *queries = (const int8_t *)(wq.end - count * groups * 4);
            int32_t *out = (int32_t *)(void *)(wo.end - count * ROWS * 4);

            for (size_t i = 0; i < variants; i++)
                check_products(&v[i], queries, count, groups, wp.end - ROWS * groups * 4, out);
        }
    }
    walled_free(&wq);
    walled_free(&wp);
    walled_free(&wo);
}

Test(kernel_scan, products_do_not_overflow_at_the_most_elements)
{
    static const int extremes[] = { -128, 127, 0 };
    enum { GROUPS = 8192 };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    int8_t *queries = malloc(4 * GROUPS);
    unsigned char *panel = malloc((size_t)ROWS * 4 * GROUPS);
    int32_t out[ROWS];

    memset(panel, 255, (size_t)ROWS * 4 * GROUPS);
    for (size_t e = 0; e < sizeof extremes / sizeof extremes[0]; e++) {
        memset(queries, extremes[e], 4 * GROUPS);
        for (size_t i = 0; i < variants; i++) {
            v[i].kernel.panel_dot(queries, 1, GROUPS, panel, out);
            for (size_t r = 0; r < ROWS; r++)
                cr_assert_eq(out[r], extremes[e] * 255 * 4 * GROUPS, "%s %d", v[i].kernel.name,
                             extremes[e]);
        }
    }
    free(panel);
    free(queries);
}

/* ---- selection ---- */

static bool near_by(const struct vs_select *s, int32_t product, float scale, float norm)
{
    volatile float a = s->scale * scale, p = a * (float)(product - s->origin);
    volatile float n = s->norm + norm, slope = s->slope * scale, r = s->reach + slope;
    volatile float left = n - p, right = r * r;

    return !(left > right);
}

static bool dot_by(const struct vs_select *s, int32_t product, float scale, float norm)
{
    volatile float a = s->scale * scale, p = a * (float)(product - s->origin);
    volatile float slope = s->slope * scale, n = s->norm * norm, sum = p + slope, all = sum + n;

    return !(all < s->reach);
}

static float odd_float(uint64_t *seed, float usual)
{
    static const float odd[] = { 0, -0.0f, 1e-40f, 1e30f, INFINITY, NAN };
    uint64_t draw = random_bits(seed);

    return draw % 16 == 0 ? odd[draw / 16 % 6] : usual * random_float(seed);
}

Test(kernel_scan, selections_follow_their_definition_bit_by_bit)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled w[3] = { walled_make(256), walled_make(256), walled_make(256) };
    uint64_t seed = 3, some = 0;

    for (uint32_t round = 0; round < 2000; round++) {
        size_t count = round % (ROWS + 1);
        int32_t *products = (int32_t *)(void *)(w[0].end - count * 4);
        float *scales = (float *)(void *)(w[1].end - count * 4);
        float *norms = (float *)(void *)(w[2].end - count * 4), most = odd_float(&seed, 1000.0f);
        struct vs_select s = { odd_float(&seed, 1), odd_float(&seed, 900), odd_float(&seed, 3),
                               odd_float(&seed, 30), (int32_t)(random_bits(&seed) % 999) };
        uint64_t want[4] = { 0 };

        for (size_t i = 0; i < count; i++) {
            products[i] = (int32_t)(random_bits(&seed) % 2001) - 1000;
            scales[i] = odd_float(&seed, 2);
            norms[i] = odd_float(&seed, 1000);
            if (i % 5 == 0) /* equal to the limit */
                norms[i] = most;
            want[0] |= (uint64_t)near_by(&s, products[i], scales[i], norms[i]) << i;
            want[1] |= (uint64_t)dot_by(&s, products[i], scales[i], norms[i]) << i;
            want[2] |= (uint64_t) !((float)products[i] > most) << i;
            want[3] |= (uint64_t) !(norms[i] > most) << i;
            some += want[0] + want[1] > 0;
        }
        for (size_t i = 0; i < variants; i++) {
            const struct vs_kernel *k = &v[i].kernel;

            cr_assert_eq(k->select_near(&s, products, scales, norms, count), want[0],
                         "near %s cpu=%x round %u", k->name, v[i].cpu, round);
            cr_assert_eq(k->select_dot(&s, products, scales, norms, count), want[1],
                         "dot %s cpu=%x round %u", k->name, v[i].cpu, round);
            cr_assert_eq(k->select_keys(most, products, count), want[2], "keys %s cpu=%x round %u",
                         k->name, v[i].cpu, round);
            cr_assert_eq(k->select_floats(most, norms, count), want[3], "floats %s cpu=%x round %u",
                         k->name, v[i].cpu, round);
        }
    }
    cr_assert(some > 1000);
    for (size_t i = 0; i < 3; i++)
        walled_free(&w[i]);
}

/* ---- bytes of floats ---- */

Test(kernel_scan, the_greatest_and_the_nearest_bytes_are_equal_everywhere)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    struct walled wx = walled_make(DIM_LAST * 4), wo = walled_make(DIM_LAST);
    uint64_t seed = 4;

    for (size_t dim = 0; dim <= DIM_LAST; dim = dim_next(dim)) {
        float *x = (float *)(void *)(wx.end - dim * 4), most = 0;
        int8_t *out = (int8_t *)(wo.end - dim);

        for (size_t i = 0; i < dim; i++) { /* halves too, which go to the even side */
            x[i] = i % 3 ? 127 * random_float(&seed) : (float)((int)(i % 254) - 127) + 0.5f;
            x[i] = x[i] > 127 ? 127 : x[i];
            most = fmaxf(most, fabsf(x[i]));
        }
        for (size_t j = 0; j < variants; j++) {
            cr_assert_eq(v[j].kernel.greatest(x, dim), most, "%s dim %zu", v[j].kernel.name, dim);
            v[j].kernel.round_bytes(x, 1.0f, dim, out);
            for (size_t i = 0; i < dim; i++)
                cr_assert_eq(out[i], (int)nearbyintf(x[i]), "%s dim %zu element %zu: %a",
                             v[j].kernel.name, dim, i, (double)x[i]);
        }
    }
    walled_free(&wx);
    walled_free(&wo);
}
