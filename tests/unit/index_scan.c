/* index_scan.c - a scan that passes rows over by their bytes answers as one that measures
 * each of them: the same ids, the same bits of distance, ties by smaller id.
 *
 * Method: the plain definition is computed here, row by row with the index's own kernels,
 * and sorted. Data are drawn to lead bounds astray: equal rows, rows that differ in the
 * last digits, elements that all lose nearly half a unit, to the same side, which is as far as
 * bounds ever reach, one element far above all others, dimensions that are constant and large,
 * lengths from the least to the greatest allowed. Each index is asked by one query, by
 * three and by more than are scanned for at once; as it was built; after removes and
 * replacements, when its slots are live in patches; and opened again, by copy, lean and
 * mapped. The kernels are the machine's best, AVX2's and the scalar ones in turn. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { ROWS = 1100, EXTRA = 300, QUERIES = 70, K_MOST = 40, DIM_MOST = 3000 };

enum kind { PLAIN, EQUAL, CLOSE, SPIKED, CONSTANT, LENGTHS, TINY_ONES, HUGE_ONES, TIGHT, KINDS };

static const char *const kinds[KINDS] = { "plain",   "equal", "close", "spiked", "constant",
                                          "lengths", "tiny",  "huge",  "tight" };

struct model { /* what the index must hold */
    uint32_t metric, element, dim;
    enum kind kind;
    size_t bytes;
    unsigned char *vectors; /* [ROWS + EXTRA] */
    uint8_t live[ROWS + EXTRA];
    uint64_t ids[ROWS + EXTRA];
    unsigned char *queries;  /* [QUERIES] */
    struct vshard_hit *want; /* [QUERIES x K_MOST] */
    uint64_t seed;
    char name[100];
};

/* ---- data ---- */

static float draw_float(struct model *m, size_t row, size_t i)
{
    float v = random_float(&m->seed);
    uint64_t draw = random_next(&m->seed);

    switch (m->kind) {
    case EQUAL: return (float)((row % 7 * 31 + i * 17) % 23) - 11.0f;
    case CLOSE: return 1.0f + (float)(i % 5) + 1e-6f * v;
    case SPIKED: return i == row % m->dim && row % 3 == 0 ? 1e6f * (v < 0 ? -1.0f : 1.0f) : v;
    case CONSTANT: return i % 2 ? 3e4f : v;
    case LENGTHS: return v * ldexpf(1.0f, (int)(row % 80) - 40);
    case TINY_ONES: return v * (draw % 3 ? 1e-18f : 1e-24f) + (i == 0 ? 2e-15f : 0.0f);
    case TIGHT: return i == 0 ? 127.0f : 60.4f + 0.09f * v;
    case HUGE_ONES: return row % 5 ? v * 1e15f : v * 1e-10f + (i == 1 ? 1e-8f : 0.0f);
    default: return v;
    }
}

/* A half near v, of what range a half has. */
static uint16_t half_near(float v)
{
    uint16_t sign = v < 0 ? 0x8000 : 0;
    int exponent;
    float fraction = frexpf(fabsf(v), &exponent);

    if (v == 0 || exponent < -13)
        return sign;
    if (exponent > 16)
        return sign | 0x7bff;
    return (uint16_t)(sign | ((exponent + 14) << 10) | ((int)(fraction * 2048) & 1023));
}

static void draw_row(struct model *m, size_t row, unsigned char *to)
{
    if (m->element == VSHARD_ELEMENT_U8 || m->element == VSHARD_ELEMENT_I8) {
        draw_elements(&m->seed, m->element, to, m->dim);
        for (size_t i = 0; i < m->dim && m->kind == EQUAL; i++)
            to[i] = (unsigned char)((row % 7 * 31 + i * 17) % 256);
        for (size_t i = 0; i < m->dim && m->kind == HUGE_ONES; i++)
            to[i] = row % 2 ? 255 : 128;
        return;
    }
    for (size_t i = 0; i < m->dim; i++) {
        float v = draw_float(m, row, i);

        if (m->element == VSHARD_ELEMENT_F16) {
            uint16_t half = half_near(v);

            memcpy(to + 2 * i, &half, sizeof half);
        } else {
            memcpy(to + 4 * i, &v, sizeof v);
        }
    }
}

/* Under cosine a vector must have a length. */
static void lengthen(struct model *m, unsigned char *v)
{
    double sum = 0;
    uint16_t half = 0x3c00;
    float one = 1.0f;

    for (size_t i = 0; i < m->dim; i++)
        sum += element_at(m->element, v, i) * element_at(m->element, v, i);
    if (m->metric != VSHARD_METRIC_COSINE || sqrt(sum) > 2 * VSHARD_LENGTH_MIN)
        return;
    if (m->element == VSHARD_ELEMENT_F16)
        memcpy(v, &half, sizeof half);
    else
        memcpy(v, &one, sizeof one);
}

static void begin(struct model *m)
{
    m->bytes = m->dim * element_bytes(m->element);
    m->vectors = malloc((ROWS + EXTRA) * m->bytes);
    m->queries = malloc(QUERIES * m->bytes);
    m->want = malloc(QUERIES * K_MOST * sizeof *m->want);
    m->seed = 5 + m->dim + m->kind;
    memset(m->live, 0, sizeof m->live);
    for (size_t i = 0; i < ROWS + EXTRA; i++) {
        draw_row(m, i, m->vectors + i * m->bytes);
        lengthen(m, m->vectors + i * m->bytes);
        m->ids[i] = vs_mix64(i + 1);
    }
    for (size_t i = 0; i < QUERIES; i++) {
        unsigned char *q = m->queries + i * m->bytes;

        if (i % 3 == 0)
            memcpy(q, m->vectors + i * 13 * m->bytes, m->bytes);
        else if (i % 3 == 1)
            draw_row(m, i, q);
        else
            memset(q, 0, m->bytes);
        lengthen(m, q);
    }
    snprintf(m->name, sizeof m->name, "%s %s dim %u %s", metric_names[m->metric],
             element_names[m->element], m->dim, kinds[m->kind]);
}

static void end(struct model *m)
{
    free(m->want);
    free(m->queries);
    free(m->vectors);
}

/* ---- the plain definition ---- */

static float inverse_length(const struct vshard_index *x, const float *wide)
{
    return x->metric == VSHARD_METRIC_COSINE ? (float)(1.0 / sqrt(vs_sum_squares(x, wide))) : 1.0f;
}

static float measure(const struct model *m, const struct vshard_index *x, const float *query,
                     const void *given, const void *row)
{
    const struct vs_kernel *k = &x->kernel;
    bool half = m->element == VSHARD_ELEMENT_F16;
    float wide[DIM_MOST], d;
    int32_t n;

    if (m->element == VSHARD_ELEMENT_U8 || m->element == VSHARD_ELEMENT_I8) {
        if (m->element == VSHARD_ELEMENT_U8)
            k->l2sq_u8_many(given, &row, 1, m->dim, &n);
        else
            k->l2sq_i8_many(given, &row, 1, m->dim, &n);
        return (float)n;
    }
    if (m->metric == VSHARD_METRIC_L2SQ) {
        (half ? k->l2sq_f16_many : k->l2sq_f32_many)(query, &row, 1, m->dim, &d);
        return d;
    }
    (half ? k->dot_f16_many : k->dot_f32_many)(query, &row, 1, m->dim, &d);
    if (m->metric == VSHARD_METRIC_IP)
        return -d;
    vs_widen(x, row, wide);
    d = 1.0f - d * (inverse_length(x, query) * inverse_length(x, wide));
    return d < 0.0f ? 0.0f : d > 2.0f ? 2.0f : d;
}

static int by_distance(const void *a, const void *b)
{
    const struct vshard_hit *x = a, *y = b;

    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void define(struct model *m, struct vshard_index *x)
{
    struct vshard_hit *all = malloc((ROWS + EXTRA) * sizeof *all);

    for (size_t q = 0; q < QUERIES; q++) {
        const void *given = m->queries + q * m->bytes;
        float wide[DIM_MOST];
        size_t n = 0;

        vs_widen(x, given, wide);
        for (size_t i = 0; i < ROWS + EXTRA; i++) {
            if (m->live[i])
                all[n++] =
                    (struct vshard_hit){ m->ids[i],
                                         measure(m, x, wide, given, m->vectors + i * m->bytes), 0 };
        }
        qsort(all, n, sizeof *all, by_distance);
        memcpy(m->want + q * K_MOST, all, K_MOST * sizeof *all);
    }
    free(all);
}

/* ---- asking ---- */

static void expect_answers(const struct model *m, struct vshard_index *x, const char *when)
{
    static const size_t together[] = { 1, 3, 5, QUERIES }, ks[] = { 1, 10, K_MOST };
    struct vshard_hit *hits = malloc(QUERIES * K_MOST * sizeof *hits);

    for (size_t t = 0; t < VS_COUNT(together); t++) {
        size_t k = ks[(t + m->kind) % VS_COUNT(ks)], of = together[t] == QUERIES ? QUERIES : 15;

        for (size_t q = 0; q + together[t] <= of; q += together[t]) {
            search_rows(x, m->queries + q * m->bytes, together[t], k, 0, 0, hits);
            for (size_t i = 0; i < together[t] * k; i++) {
                const struct vshard_hit *want = &m->want[(q + i / k) * K_MOST + i % k];

                cr_assert(hits[i].id == want->id && hits[i].distance == want->distance,
                          "%s, %s, kernels %s: query %zu of %zu, place %zu of %zu: %a, not %a",
                          m->name, when, x->kernel.name, q + i / k, together[t], i % k, k,
                          (double)hits[i].distance, (double)want->distance);
            }
        }
    }
    for (size_t q = 0; q < 3; q++) {
        const struct vshard_hit *want = m->want + q * K_MOST;
        float radius = want[K_MOST / 2].distance;
        uint32_t found = 0, within = 0;
        struct vshard_search_options o = { .size = sizeof o, .found = &found };

        while (within < K_MOST && want[within].distance <= radius)
            within++;
        cr_assert_eq(vshard_index_range(x, m->queries + q * m->bytes, radius, hits, K_MOST, &o), 0);
        cr_assert_eq(found, within, "%s, %s, kernels %s: %u of %u within the radius", m->name, when,
                     x->kernel.name, found, within);
        for (uint32_t i = 0; i < found; i++)
            cr_assert(hits[i].id == want[i].id && hits[i].distance == want[i].distance);
    }
    free(hits);
}

static void expect_opened(const struct model *m, struct fault_storage *fs, uint32_t flags,
                          const struct vs_kernel *kernel)
{
    const struct vshard_open_options o = { .size = sizeof o,
                                           .flags = flags,
                                           .storage = fault_storage_hook(fs) };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *x = NULL;

    cr_assert_eq(vshard_index_open("x", &o, &x), 0);
    x->kernel = *kernel;
    cr_assert_eq(vshard_index_stats(x, &s), 0);
    cr_assert_eq(s.code_bytes > 0, flags == 0 && (m->element == VSHARD_ELEMENT_F32 ||
                                                  m->element == VSHARD_ELEMENT_F16));
    expect_answers(m, x, flags == 0 ? "copied" : flags == VSHARD_OPEN_LEAN ? "lean" : "mapped");
    vshard_index_destroy(x);
}

/* Removes runs and single rows, replaces some, and adds others in their slots. */
static void change(struct model *m, struct vshard_index *x)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (i % 5 != 0 && (i < 300 || i >= 500))
            continue;
        remove_rows(x, &m->ids[i], 1);
        m->live[i] = 0;
    }
    for (size_t i = 1; i < ROWS; i += 50) {
        if (!m->live[i])
            continue;
        memcpy(m->vectors + i * m->bytes, m->vectors + (i + 1) * m->bytes, m->bytes);
        add_rows(x, &m->ids[i], m->vectors + i * m->bytes, 1);
    }
    add_rows(x, m->ids + ROWS, m->vectors + ROWS * m->bytes, EXTRA);
    memset(m->live + ROWS, 1, EXTRA);
}

static void expect_case(struct model *m, uint32_t cpu)
{
    struct vshard_index_options o = small_options(m->dim, m->metric, m->element);
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index *x;

    o.family = VSHARD_FAMILY_FLAT;
    o.storage = fault_storage_hook(fs);
    begin(m);
    x = make_index(&o);
    vs_kernel_init(&x->kernel, cpu);
    add_rows(x, m->ids, m->vectors, ROWS);
    memset(m->live, 1, ROWS);
    define(m, x);
    expect_answers(m, x, "built");
    change(m, x);
    define(m, x);
    expect_answers(m, x, "changed");
    cr_assert_eq(vshard_index_save(x, "x"), 0);
    expect_opened(m, fs, 0, &x->kernel);
    expect_opened(m, fs, VSHARD_OPEN_LEAN, &x->kernel);
    expect_opened(m, fs, VSHARD_OPEN_MAPPED, &x->kernel);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    end(m);
}

static void expect_cases(uint32_t metric, uint32_t element)
{
    static const uint32_t dims[] = { 32, 33, 100, 129 };
    const uint32_t cpus[] = { vs_os_cpu(), vs_os_cpu() & ~(uint32_t)VSHARD_CPU_AVX512, 0 };

    for (uint32_t at = 0; at < KINDS * 2; at++) {
        struct model m = { .metric = metric,
                           .element = element,
                           .dim = dims[(at + metric) % VS_COUNT(dims)],
                           .kind = at % KINDS };

        expect_case(&m, cpus[at % VS_COUNT(cpus)]);
    }
}

Test(index_scan, floats_under_l2_answer_as_if_measured)
{
    expect_cases(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
}

Test(index_scan, floats_under_inner_product_answer_as_if_measured)
{
    expect_cases(VSHARD_METRIC_IP, VSHARD_ELEMENT_F32);
}

Test(index_scan, floats_under_cosine_answer_as_if_measured)
{
    expect_cases(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32);
}

Test(index_scan, halves_answer_as_if_measured)
{
    for (uint32_t metric = 0; metric <= VSHARD_METRIC_COSINE; metric++)
        expect_cases(metric, VSHARD_ELEMENT_F16);
}

/* Sums above 2^24 are no longer exact as floats. */
Test(index_scan, bytes_in_batches_answer_as_if_measured)
{
    for (uint32_t kind = PLAIN; kind <= EQUAL; kind++) {
        struct model m = { .element = VSHARD_ELEMENT_U8 + kind, .dim = DIM_MOST, .kind = EQUAL };

        expect_case(&m, vs_os_cpu());
    }

    expect_cases(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8);
    expect_cases(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_I8);
}
