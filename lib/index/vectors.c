/* vectors.c - walks by the vectors themselves, where codes do not serve.
 *
 * Codes have one scale for all dimensions and all rows (quantizer.c). Where one dimension
 * reaches a hundred times as far as the others, or one row in two is a thousandth as long,
 * the rest falls within one step of a code: rows then look alike to a walk that are far apart,
 * and no beam finds the nearest. So when codes are made it is measured whether near rows stay
 * near: of one in 8 of the first 1,024 rows the 10 nearest by their vectors must be among the
 * 12 nearest by code, but for 15 in 100. Words and sentences keep 0.999 (glove100, minilm384);
 * numbers of which one in 128 reaches 10 times as far 0.92, 30 times 0.80, 1,000 times 0.11.
 *
 * Of clusters that are many, these rows are few each, and are kept whatever their order, while a
 * walk must find 10 in a whole cluster. So it is measured, too, whether codes tell a row from the
 * nearest that is another, however few there are: these must lie half a step of a code apart in an
 * element, as a root mean square, but for 15 in 100. (Of 20 clusters in 8 dimensions whose spread
 * is a ten thousandth of what lies between them, 256 rows to begin with, walks by codes found 0.25
 * of the nearest.) Rows that differ by no more than floats are rounded are taken for equal.
 *
 * If codes do not serve, the graph is built and walked on the vectors: it is as good as by
 * codes of other data, there are no codes and no sketches, and a row takes several times as
 * long to look at.
 *
 * A graph must be the same on every machine. So a distance is summed in one fixed order, 16
 * sums of float64: a product of two floats is exact there, so nothing depends on whether it
 * is fused with the addition. It becomes a key as the bits of a float, which order as the
 * floats do, as these are not negative.
 *
 * Floats under L2SQ, COSINE and L1. A lean index keeps no vectors, and under IP queries and
 * rows are compared otherwise than rows with each other: there it is only said in the log. */
#include "index/state.h"

#include <math.h>

enum {
    LANES = 16,
    PART = 256,       /* half floats that are widened at once: a multiple of LANES */
    ROWS_MOST = 1024, /* that are looked at, */
    ASKED_ONE_IN = 8, /* and of these, that are asked */
    NEAR = 10,
    AMONG = 12,
    KEPT_PERCENT = 85
};

#define ROUNDED 1e-12 /* of the square of a length: of a distance that is due to rounding */

struct vs_trial {
    const void **codes, **vectors; /* [ROWS_MOST] */
    int32_t *by_code, *by_vector;  /* [ROWS_MOST] */
    uint32_t count;
};

/* ---- keys ---- */

/* Each of the next three adds to sum[i % LANES] what element i contributes. */
static void add_squares(const float *a, const float *b, size_t count, double sum[LANES])
{
    for (; count >= LANES; count -= LANES, a += LANES, b += LANES) {
        for (size_t i = 0; i < LANES; i++) {
            float d = a[i] - b[i];

            sum[i] += (double)d * d;
        }
    }
    for (size_t i = 0; i < count; i++) {
        float d = a[i] - b[i];

        sum[i] += (double)d * d;
    }
}

static void add_absolutes(const float *a, const float *b, size_t count, double sum[LANES])
{
    for (; count >= LANES; count -= LANES, a += LANES, b += LANES) {
        for (size_t i = 0; i < LANES; i++)
            sum[i] += (double)fabsf(a[i] - b[i]);
    }
    for (size_t i = 0; i < count; i++)
        sum[i] += (double)fabsf(a[i] - b[i]);
}

static void add_products(const float *a, const float *b, size_t count, double sum[LANES])
{
    for (; count >= LANES; count -= LANES, a += LANES, b += LANES) {
        for (size_t i = 0; i < LANES; i++)
            sum[i] += (double)a[i] * b[i];
    }
    for (size_t i = 0; i < count; i++)
        sum[i] += (double)a[i] * b[i];
}

static double sum_of(const struct vshard_index *x,
                     void (*add)(const float *a, const float *b, size_t count, double sum[LANES]),
                     const void *a, const void *b)
{
    double sum[LANES] = { 0 };

    if (x->element == VSHARD_ELEMENT_F32)
        add(a, b, x->dim, sum);
    for (size_t at = 0; x->element == VSHARD_ELEMENT_F16 && at < x->dim; at += PART) {
        size_t n = x->dim - at < PART ? x->dim - at : PART;
        float wide[2][PART];

        x->kernel.widen_f16((const uint16_t *)a + at, n, wide[0]);
        x->kernel.widen_f16((const uint16_t *)b + at, n, wide[1]);
        add(wide[0], wide[1], n, sum);
    }
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++)
            sum[j] += sum[j + width];
    }
    return sum[0];
}

static int32_t key_of(double distance)
{
    float near = distance > 0 ? (float)distance : 0.0f;
    int32_t bits;

    memcpy(&bits, &near, sizeof bits);
    return bits;
}

/* Keys between vectors, aligned and of the index's elements. */
void vs_vector_keys(const struct vshard_index *x, const void *query, const void *const *rows,
                    size_t count, int32_t *out)
{
    double square = x->metric == VSHARD_METRIC_COSINE ? sum_of(x, add_products, query, query) : 0;

    for (size_t i = 0; i < count; i++) {
        if (x->metric == VSHARD_METRIC_COSINE) {
            double length = sqrt(square * sum_of(x, add_products, rows[i], rows[i]));

            out[i] = key_of(1 - sum_of(x, add_products, query, rows[i]) / length);
        } else {
            out[i] = key_of(sum_of(x, x->metric == VSHARD_METRIC_L1 ? add_absolutes : add_squares,
                                   query, rows[i]));
        }
    }
}

static float value_of(int32_t key)
{
    float value;

    memcpy(&value, &key, sizeof value);
    return value;
}

/* What a key stands for, so that it can be compared with a multiple of another. */
float vs_key_value(const struct vshard_index *x, int32_t key)
{
    return x->by_vectors ? value_of(key) : (float)key;
}

/* ---- whether codes serve ---- */

static bool measured(const struct vshard_index *x)
{
    return x->family == VSHARD_FAMILY_HNSW &&
           (x->element == VSHARD_ELEMENT_F32 || x->element == VSHARD_ELEMENT_F16) &&
           x->metric != VSHARD_METRIC_IP;
}

/* Whether the options let walks go by vectors. */
bool vs_walks_by_vectors(const struct vshard_index *x)
{
    return measured(x) && !vs_is_lean(x);
}

int vs_trial_begin(struct vshard_index *x, struct vs_trial **out)
{
    struct vs_trial *t;

    *out = NULL;
    if (!measured(x))
        return VSHARD_OK;
    t = *out = vs_alloc_zeroed(x->allocator, sizeof *t);
    if (t == NULL)
        return VSHARD_ENOMEM;
    t->codes = vs_alloc(x->allocator, ROWS_MOST * sizeof *t->codes);
    t->vectors = vs_alloc(x->allocator, ROWS_MOST * sizeof *t->vectors);
    t->by_code = vs_alloc(x->allocator, ROWS_MOST * sizeof *t->by_code);
    t->by_vector = vs_alloc(x->allocator, ROWS_MOST * sizeof *t->by_vector);
    if (t->codes && t->vectors && t->by_code && t->by_vector)
        return VSHARD_OK;
    vs_trial_end(x, t);
    *out = NULL;
    return VSHARD_ENOMEM;
}

void vs_trial_end(struct vshard_index *x, struct vs_trial *t)
{
    if (t == NULL)
        return;
    vs_free(x->allocator, t->codes, ROWS_MOST * sizeof *t->codes);
    vs_free(x->allocator, t->vectors, ROWS_MOST * sizeof *t->vectors);
    vs_free(x->allocator, t->by_code, ROWS_MOST * sizeof *t->by_code);
    vs_free(x->allocator, t->by_vector, ROWS_MOST * sizeof *t->by_vector);
    vs_free(x->allocator, t, sizeof *t);
}

static void nearest(const struct vshard_index *x, const int32_t *keys, uint32_t count,
                    uint32_t without, struct vs_pool *p)
{
    p->count = p->next = 0;
    for (uint32_t r = 0; r < count; r++) {
        if (r != without)
            x->kernel.pool_push(p, &keys[r], &r, 1);
    }
}

/* As far as the farthest of them no others will do. */
uint32_t vs_count_kept(const struct vshard_index *x, const int32_t *keys, const int32_t *rough,
                       uint32_t count, uint32_t row, uint32_t near, uint32_t among)
{
    int32_t pool_keys[VS_AMONG_MAX + 16], farthest;
    uint32_t slots[VS_AMONG_MAX + 16], kept = 0;
    struct vs_pool p = { pool_keys, slots, 0, near, 0 };

    nearest(x, keys, count, row, &p);
    farthest = pool_keys[p.count - 1];
    p.cap = among;
    nearest(x, rough, count, row, &p);
    for (uint32_t i = 0; i < p.count; i++)
        kept += keys[slots[i]] <= farthest;
    return kept < near ? kept : near;
}

/* The nearest by its vector that is another row, or the row itself if there is none. */
static uint32_t nearest_other(const struct vshard_index *x, const struct vs_trial *t, uint32_t row)
{
    double square = sum_of(x, add_products, t->vectors[row], t->vectors[row]);
    uint32_t nearest = row;

    for (uint32_t r = 0; r < t->count; r++) {
        double distance = (double)value_of(t->by_vector[r]);

        if (x->metric == VSHARD_METRIC_L1)
            distance *= distance;
        else if (x->metric == VSHARD_METRIC_COSINE)
            distance *= square;
        if (r != row && distance > ROUNDED * square &&
            (nearest == row || t->by_vector[r] < t->by_vector[nearest]))
            nearest = r;
    }
    return nearest;
}

/* Whether codes at this distance tell two rows apart. */
static bool is_apart(const struct vshard_index *x, int32_t key)
{
    uint32_t parts = x->space == SPACE_CODE_L1 ? 2 : 4; /* half a step, or its square */

    return (uint64_t)key * parts >= x->quantizer.code_dim;
}

static void report(const struct vshard_index *x, double kept)
{
    double least = KEPT_PERCENT / 100.0;
    const struct vs_field fields[] = {
        { .name = "kept", .real = &kept },
        { .name = "least", .real = &least },
        { .name = "walks", .text = vs_is_lean(x) ? "by codes: lean" : "by vectors" }
    };

    vs_log(x->logger, VSHARD_LOG_WARN, "codes.coarse", fields, VS_COUNT(fields));
}

/* Whether walks must do without codes. Codes and vectors of the live rows must be there. */
bool vs_trial_fails(struct vshard_index *x, struct vs_trial *t)
{
    uint64_t kept = 0, asked = 0, apart = 0, others = 0;
    uint32_t at = 0, slot;

    while (t != NULL && (slot = vs_sample_next(x, ROWS_MOST, &at)) != VS_SLOT_NONE) {
        t->codes[t->count] = vs_column_at(&x->codes, slot);
        t->vectors[t->count++] = vs_column_at(&x->elements, slot);
    }
    if (t == NULL || t->count < 2)
        return false;
    for (uint32_t r = 0; r < t->count; r += ASKED_ONE_IN) {
        const struct vs_query q = { .code = t->codes[r], .space = x->space };
        uint32_t near = t->count - 1 < NEAR ? t->count - 1 : NEAR, other;

        vs_vector_keys(x, t->vectors[r], t->vectors, t->count, t->by_vector);
        vs_keys(x, &q, t->codes, t->count, t->by_code);
        kept += vs_count_kept(x, t->by_vector, t->by_code, t->count, r, near, AMONG);
        asked += near;
        other = nearest_other(x, t, r);
        apart += other != r && is_apart(x, t->by_code[other]);
        others += other != r;
    }
    if (kept * 100 >= asked * KEPT_PERCENT && apart * 100 >= others * KEPT_PERCENT)
        return false;
    report(x, kept * 100 < asked * KEPT_PERCENT ? (double)kept / (double)asked
                                                : (double)apart / (double)others);
    return !vs_is_lean(x);
}

static void drop_column(struct vshard_index *x, struct vs_column *c)
{
    c->stride = 0;
    vs_column_free(c, x->allocator);
}

/* From here on; nobody walks, or looks at codes, meanwhile. */
void vs_walk_by_vectors(struct vshard_index *x)
{
    x->by_vectors = 1;
    x->traversal = &x->elements;
    drop_column(x, &x->codes);
    drop_column(x, &x->sketches);
}

/* Likewise, where sketches do not serve (sketch.c). */
void vs_walk_by_codes(struct vshard_index *x)
{
    drop_column(x, &x->sketches);
}
