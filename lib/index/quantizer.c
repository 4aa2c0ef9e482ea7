/* quantizer.c - from a vector to its 7-bit code, and 1 / length.
 *
 * A graph is built and walked on codes, so they decide the structure that replicas
 * must agree on. Every step here is therefore elementwise, or a sum in one fixed
 * order (kernel/float64.c), and no compiler or instruction set can change the result.
 *
 * The code of x is round((x[i] - low[i]) * scale), clamped to 0..127. One scale for
 * all dimensions makes distances between codes proportional to those between
 * vectors; each dimension has its own low, which differences do not see, so that the
 * range is spent around the mean of that dimension.
 *
 *   L2SQ, L1 the vector itself; codes are compared by the same metric
 *   COSINE   the vector divided by its length: half the squared distance is 1 - cos
 *   IP       the vector itself. A query is coded as signed numbers, and its key is the
 *            negated dot product, which needs no low: that adds the same to every row.
 *
 * Under IP a row that looks for neighbours does so as a query: its edges lead to the rows of
 * the greatest products with it (Morozov & Babenko 2018), which are long ones, as answers
 * are. It stands for queries of its direction, and is coded for that as its code less the
 * mean, so that rows stand for all directions though they share one; but of that a part
 * is left in, no longer than 4 steps an element, as queries may share it, too. (Recall at ef
 * 100, m 32, of 9,000 rows around (10, 10, ...): of queries like them, and of such around 0,
 * with all of the mean 1.00 and 0.21, with none 0.96 and 0.99, with a part 1.00 and 0.98.)
 * Such keys have no unit: those of one row's query order rows, and are compared with nothing
 * else; none of them says that two rows are equal, nor how far is far.
 *
 * Of a graph that an earlier version began, codes are those of vectors with
 * sqrt(radius2 - length^2) spread over 16 more dimensions: then all points lie on one
 * sphere, and nearness in L2 is nearness in inner product (Bachrach et al. 2014). But then
 * rows are near each other that have one length, and no walk gets to the long ones: with lengths
 * exp(0.2 times a normal number) recall was 0.53, and 0.11 with the exact distances. Such a
 * graph stays as it is.
 *
 * A lean index decodes its rows from their codes. Elements that were clamped would be far
 * off then, and the first rows need not tell how far the later ones reach (rare words have
 * elements that frequent ones have not), so the 8 farthest outside are kept, 32 bytes a
 * row. The recall among 331,000 words by codes alone is 0.83 without them (bench/RESULTS.md).
 *
 * The scale is chosen from a sample so that 1 in 1,000 elements is clamped: a few far
 * elements would otherwise take the resolution from all others. Under IP these are of long
 * rows, which most answers are, so it is 1 in 10,000, unless that costs more than one bit. The
 * sample is of the first rows, and of as many from all over the rest of the call that brings the
 * last of these: a load whose rows are in an order would be judged by its beginning. */
#include "index/state.h"

#include <math.h>

/* Elements kept when the scale is chosen: more does not change the third digit. */
enum {
    SAMPLE_MAX = 1 << 20,
    CODE_MAX = 127,
    CLAMPED_ONE_IN = 1000,
    LONG_ONE_IN = 10000, /* products: clamped, */
    LONG_TIMES = 2,      /* if that is no more than so many times as far */
    SHARED_MOST = 4,     /* steps an element of what all rows share, as a root mean square */
    ROUNDS_MOST = 100    /* of a selection: 40 where there are a million values */
};

#define HALF_MOST 65504.0f /* in float16 */

/* Of dim elements, at any address. */
double vs_sum_squares(const struct vshard_index *x, const float *v)
{
    return x->kernel.dot_f64(v, v, x->dim);
}

void vs_widen(const struct vshard_index *x, const void *elements, float *out)
{
    if (x->element == VSHARD_ELEMENT_F32) {
        memcpy(out, elements, x->dim * sizeof *out);
    } else if (x->element == VSHARD_ELEMENT_F16) {
        x->kernel.widen_f16(elements, x->dim, out);
    } else if (x->element == VSHARD_ELEMENT_U8) {
        for (size_t i = 0; i < x->dim; i++)
            out[i] = ((const uint8_t *)elements)[i];
    } else {
        for (size_t i = 0; i < x->dim; i++)
            out[i] = ((const int8_t *)elements)[i];
    }
}

/* An index's elements as floats: where they are, at any address, or in `room`. */
static const float *as_floats(const struct vshard_index *x, const void *elements, float *room)
{
    if (x->element == VSHARD_ELEMENT_F32)
        return elements;
    vs_widen(x, elements, room);
    return room;
}

/* 1 / length under cosine, else 1; EINVAL for a vector that has no direction. */
int vs_length_check(const struct vshard_index *x, const void *elements, float *room,
                    float *inverse_length)
{
    double length;

    *inverse_length = 1.0f;
    if (x->metric != VSHARD_METRIC_COSINE)
        return VSHARD_OK;
    length = sqrt(vs_sum_squares(x, as_floats(x, elements, room)));
    if (length < VSHARD_LENGTH_MIN)
        return VSHARD_EINVAL;
    *inverse_length = (float)(1.0 / length);
    return VSHARD_OK;
}

static void scale_floats(float *v, size_t dim, float by)
{
    size_t i = 0;

    for (; i + 16 <= dim; i += 16) { /* so that it is done by vectors */
        for (size_t j = 0; j < 16; j++)
            v[i + j] = v[i + j] * by;
    }
    for (; i < dim; i++)
        v[i] = v[i] * by;
}

/* What codes are made of: code_dim floats. */
static void code_vector(const struct vshard_index *x, const void *elements, float inverse_length,
                        float *out)
{
    vs_widen(x, elements, out);
    if (x->metric == VSHARD_METRIC_COSINE) {
        scale_floats(out, x->dim, inverse_length);
    } else if (x->on_sphere) {
        double rest = x->quantizer.radius2 - vs_sum_squares(x, out);
        float each = rest > 0 ? (float)sqrt(rest / IP_EXTRA_DIMS) : 0.0f;

        for (size_t i = 0; i < IP_EXTRA_DIMS; i++)
            out[x->dim + i] = each;
    }
}

/* The code of code_vector(), which is made only where it is more than a product. */
void vs_encode_row(const struct vshard_index *x, const void *elements, float inverse_length,
                   float *room, unsigned char *code)
{
    const struct vs_quantizer *z = &x->quantizer;
    float by = x->metric == VSHARD_METRIC_COSINE ? inverse_length : 1.0f;
    const float *v = room;

    if (x->on_sphere)
        code_vector(x, elements, inverse_length, room);
    else
        v = as_floats(x, elements, room);
    x->kernel.encode(v, by, z->low, z->scale, z->code_dim, code);
    memset(code + z->code_dim, 0, z->code_bytes - z->code_dim);
}

/* To the nearest half float, ties to even; what is too large becomes the largest. */
static uint16_t narrow(float v)
{
    uint32_t sign, bits, exponent;

    memcpy(&bits, &v, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    exponent = bits >> 23;
    if (exponent < 127 - 14) { /* subnormal, or 0: in steps of 2^-24 */
        float steps = fabsf(v) * 0x1p24f;

        return (uint16_t)(sign | (uint32_t)lrintf(steps));
    }
    bits += 0xfff + (bits >> 13 & 1) - ((127u - 15) << 23);
    return (uint16_t)(sign | (bits >> 13 > 0x7bff ? 0x7bff : bits >> 13));
}

/* Notes the elements that lie farthest outside of the range of codes. */
void vs_encode_outside(const struct vshard_index *x, const void *elements, float inverse_length,
                       float *vector, const unsigned char *code, struct vs_outside *out)
{
    const struct vs_quantizer *z = &x->quantizer;
    float by[OUTSIDE] = { 0 };
    uint32_t count = 0;

    code_vector(x, elements, inverse_length, vector);
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < x->dim; i++) {
        float steps = (vector[i] - z->low[i]) * z->scale, beyond = steps - (float)code[i];
        uint32_t at = count;

        if (fabsf(beyond) <= 0.5f || (code[i] != 0 && code[i] != CODE_MAX))
            continue;
        for (; at > 0 && fabsf(by[at - 1]) < fabsf(beyond); at--) {
            if (at < OUTSIDE) {
                by[at] = by[at - 1];
                out->element[at] = out->element[at - 1];
            }
        }
        if (at < OUTSIDE) {
            by[at] = beyond;
            out->element[at] = (uint16_t)i;
            count += count < OUTSIDE;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        bool far = fabsf(by[i]) > HALF_MOST;

        out->element[i] |= far ? OUTSIDE_FAR : 0;
        out->by[i] = narrow(far ? by[i] / OUTSIDE_UNIT : by[i]);
    }
}

/* Elements [first, first + count) of the vector that the code of this slot stands for. */
void vs_decode(const struct vshard_index *x, uint32_t slot, size_t first, size_t count, float *out)
{
    const struct vs_quantizer *z = &x->quantizer;
    const unsigned char *code = (unsigned char *)vs_column_at(&x->codes, slot) + first;
    const struct vs_outside *outside = vs_column_at(&x->outside, slot);
    const float *low = z->low + first;
    float by[OUTSIDE];
    float length =
        x->metric == VSHARD_METRIC_COSINE ? 1.0f / vs_row_at(x, slot)->inverse_length : 1.0f;
    float step = 1.0f / z->scale;

    for (size_t i = 0; i < count; i++)
        out[i] = (low[i] + (float)code[i] * step) * length;
    x->kernel.widen_f16(outside->by, OUTSIDE, by);
    for (size_t i = 0; i < OUTSIDE; i++) {
        size_t at = outside->element[i] & ~(size_t)OUTSIDE_FAR;
        float unit = outside->element[i] & OUTSIDE_FAR ? OUTSIDE_UNIT : 1;

        if (at >= first && at < first + count)
            out[at - first] += by[i] * unit * step * length;
    }
}

/* The same, as elements of the kind that the index takes; at any address. */
void vs_decode_elements(const struct vshard_index *x, uint32_t slot, unsigned char *out)
{
    float part[64];

    for (size_t first = 0, n; first < x->dim; first += n) {
        n = x->dim - first < VS_COUNT(part) ? x->dim - first : VS_COUNT(part);
        vs_decode(x, slot, first, n, part);
        if (x->element == VSHARD_ELEMENT_F32)
            memcpy(out + first * sizeof *part, part, n * sizeof *part);
        for (size_t i = 0; x->element == VSHARD_ELEMENT_F16 && i < n; i++)
            vs_store16(out + (first + i) * 2, narrow(part[i]));
    }
}

/* The range of codes lies around the mean. */
static float mean_in_steps(const struct vs_quantizer *z, size_t i)
{
    return (float)((double)z->low[i] * z->scale + CODE_MAX / 2.0);
}

/* How codes of rows become those of queries: see above. Done again when a file is opened. */
void vs_quantizer_centre(struct vshard_index *x)
{
    const struct vs_quantizer *z = &x->quantizer;
    double square = 0, part;

    if (vs_has_distances(x))
        return;
    for (size_t i = 0; i < z->code_dim; i++) {
        float mean = mean_in_steps(z, i);

        square += (double)mean * mean;
    }
    part = square > 0 ? SHARED_MOST / sqrt(square / z->code_dim) : 1;
    part = part < 1 ? part : 1;
    for (size_t i = 0; i < z->code_dim; i++) {
        double shared = part * (double)mean_in_steps(z, i);

        shared = fmin(fmax(shared, -CODE_MAX), CODE_MAX);
        z->centre[i] = (int16_t)lrint(CODE_MAX / 2.0 - shared);
    }
}

/* The code of a row as that of a query. Both are padded to 64 bytes by what is 0. */
void vs_encode_dot_row(const struct vshard_index *x, const unsigned char *row, int8_t *code)
{
    const struct vs_quantizer *z = &x->quantizer;

    for (size_t i = 0; i < z->code_bytes; i += 16) {
        for (size_t j = i; j < i + 16; j++) { /* by vectors */
            int16_t v = (int16_t)(row[j] - z->centre[j]);

            v = v < CODE_MAX ? v : CODE_MAX;
            code[j] = (int8_t)(v > -CODE_MAX ? v : -CODE_MAX);
        }
    }
}

/* Not replicated, so plain float arithmetic will do. */
void vs_encode_dot_query(const struct vshard_index *x, const float *query, int8_t *code)
{
    float greatest = 0.0f;

    for (size_t i = 0; i < x->dim; i++)
        greatest = fmaxf(greatest, fabsf(query[i]));
    memset(code, 0, x->quantizer.code_bytes);
    for (size_t i = 0; i < x->dim && greatest > 0.0f; i++) /* whose inverse may be infinite */
        code[i] = (int8_t)lrintf(query[i] / greatest * CODE_MAX);
}

static size_t centre_bytes(const struct vshard_index *x)
{
    return (x->quantizer.low_dim + 63) / 64 * 64 * sizeof(int16_t);
}

int vs_quantizer_init(struct vshard_index *x)
{
    struct vs_quantizer *z = &x->quantizer;

    z->low_dim = x->dim + (x->metric == VSHARD_METRIC_IP ? IP_EXTRA_DIMS : 0);
    z->code_dim = x->dim;
    z->code_bytes = (z->code_dim + 63) / 64 * 64;
    z->low = vs_alloc_zeroed(x->allocator, z->low_dim * sizeof *z->low);
    if (x->metric == VSHARD_METRIC_IP)
        z->centre = vs_alloc_zeroed(x->allocator, centre_bytes(x));
    return z->low && (z->centre || x->metric != VSHARD_METRIC_IP) ? VSHARD_OK : VSHARD_ENOMEM;
}

size_t vs_quantizer_bytes(const struct vshard_index *x)
{
    const struct vs_quantizer *z = &x->quantizer;

    return z->low_dim * sizeof *z->low + (z->centre ? centre_bytes(x) : 0);
}

/* An empty index becomes one whose codes are on a sphere. */
void vs_code_on_sphere(struct vshard_index *x)
{
    struct vs_quantizer *z = &x->quantizer;

    x->on_sphere = 1;
    x->space = SPACE_CODE_L2;
    z->code_dim = z->low_dim;
    z->code_bytes = (z->code_dim + 63) / 64 * 64;
    x->codes.stride = z->code_bytes;
}

void vs_quantizer_fini(struct vshard_index *x)
{
    vs_free(x->allocator, x->quantizer.low, x->quantizer.low_dim * sizeof(float));
    vs_free(x->allocator, x->quantizer.centre, centre_bytes(x));
}

/* The bits of a float as an integer that orders as it does, and back. */
static uint32_t ordered(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    return bits >> 31 ? ~bits : bits | 1u << 31;
}

static float of_ordered(uint32_t order)
{
    uint32_t bits = order >> 31 ? order & ~(1u << 31) : ~order;
    float v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Halves the range of values, and not of places: 32 times, whatever the order. */
static float nth_by_value(const float *v, size_t count, size_t rank)
{
    uint32_t low = 0, high = UINT32_MAX;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        size_t not_above = 0;

        for (size_t i = 0; i < count; i++)
            not_above += ordered(v[i]) <= middle;
        if (not_above > rank)
            high = middle;
        else
            low = middle + 1;
    }
    return of_ordered(low);
}

/* The value that `rank` others are not above (Hoare's selection). It takes some 3 looks at each in
 * any order that is no one's work; an order made to take as many as there are values, which may be
 * a million that somebody sent, is given up. */
float vs_nth(float *v, size_t count, size_t rank)
{
    size_t first = 0, last = count - 1;

    for (int round = 0; first < last; round++) {
        float pivot = v[first + (last - first) / 2];
        size_t i = first, j = last;

        if (round == ROUNDS_MOST)
            return nth_by_value(v + first, last - first + 1, rank - first);
        for (;;) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i >= j)
                break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (rank <= j)
            last = j;
        else
            first = j + 1;
    }
    return v[rank];
}

/* How many elements lie outside of the range of codes; `vector` has room for code_dim. */
uint32_t vs_count_cut(const struct vshard_index *x, const void *elements, float inverse_length,
                      float *vector)
{
    const struct vs_quantizer *z = &x->quantizer;
    uint32_t cut = 0;

    code_vector(x, elements, inverse_length, vector);
    for (size_t i = 0; i < z->code_dim; i++) {
        float step = (vector[i] - z->low[i]) * z->scale;

        cut += step < -0.5f || step > CODE_MAX + 0.5f;
    }
    return cut;
}

/* Buffers of one training, got before anything changes. */
struct vs_training {
    float *vector; /* [code_dim] */
    double *sum;   /* [code_dim] */
    float *sample; /* [sample_cap] distances from the mean */
    size_t sample_cap, sample_count, rows;
    struct vs_training_rest rest;
};

/* One row of the sample: first live ones, then those of the call that are not stored. */
struct cursor {
    uint32_t at, taken;
    const void *elements;
    float inverse_length;
};

static bool next(const struct vshard_index *x, const struct vs_training *t, struct cursor *c)
{
    const struct vs_training_rest *rest = &t->rest;
    uint32_t most = rest->count < x->train_rows ? rest->count : x->train_rows;
    uint32_t slot = vs_sample_next(x, x->train_rows, &c->at);

    if (slot != VS_SLOT_NONE) {
        c->elements = vs_column_at(&x->elements, slot);
        c->inverse_length = vs_row_at(x, slot)->inverse_length;
        return true;
    }
    if (c->taken == most)
        return false;
    c->elements =
        rest->vectors + rest->order[(uint64_t)c->taken++ * rest->count / most] * vs_vector_bytes(x);
    vs_length_check(x, c->elements, t->vector, &c->inverse_length);
    return true;
}

static void find_means(struct vshard_index *x, struct vs_training *t)
{
    struct cursor c = { 0 };

    while (next(x, t, &c)) {
        code_vector(x, c.elements, c.inverse_length, t->vector);
        for (size_t i = 0; i < x->quantizer.code_dim; i++)
            t->sum[i] += (double)t->vector[i];
        t->rows++;
    }
    for (size_t i = 0; i < x->quantizer.code_dim; i++)
        x->quantizer.low[i] = (float)(t->sum[i] / (double)t->rows);
}

/* What all but one in so many of the sample are below. */
static float all_but(struct vs_training *t, size_t one_in)
{
    return vs_nth(t->sample, t->sample_count, t->sample_count - 1 - t->sample_count / one_in);
}

static void find_scale(struct vshard_index *x, struct vs_training *t)
{
    struct vs_quantizer *z = &x->quantizer;
    size_t step = (t->rows * z->code_dim + t->sample_cap - 1) / t->sample_cap, row = 0;
    struct cursor c = { 0 };
    float half;

    while (next(x, t, &c)) {
        if (vs_mix64(row++) % step != 0) /* by chance: rows may be of two kinds in turns */
            continue;
        code_vector(x, c.elements, c.inverse_length, t->vector);
        for (size_t i = 0; i < z->code_dim && t->sample_count < t->sample_cap; i++)
            t->sample[t->sample_count++] = fabsf(t->vector[i] - z->low[i]);
    }
    half = all_but(t, CLAMPED_ONE_IN);
    if (x->space == SPACE_CODE_DOT)
        half = fminf(all_but(t, LONG_ONE_IN), LONG_TIMES * half);
    if (half < 1e-30f) /* all rows are equal: any scale codes them alike */
        half = 1.0f;
    z->scale = (float)CODE_MAX / (2.0f * half);
    for (size_t i = 0; i < z->code_dim; i++)
        z->low[i] = z->low[i] - half;
}

int vs_training_begin(struct vshard_index *x, const struct vs_training_rest *rest,
                      struct vs_training **out)
{
    size_t dims = x->quantizer.code_dim;
    struct vs_training *t = vs_alloc_zeroed(x->allocator, sizeof *t);

    *out = t;
    if (t == NULL)
        return VSHARD_ENOMEM;
    t->rest = *rest;
    t->sample_cap = 2 * x->train_rows * dims < SAMPLE_MAX ? 2 * x->train_rows * dims : SAMPLE_MAX;
    t->vector = vs_alloc(x->allocator, dims * sizeof *t->vector);
    t->sum = vs_alloc_zeroed(x->allocator, dims * sizeof *t->sum);
    t->sample = vs_alloc(x->allocator, t->sample_cap * sizeof *t->sample);
    if (t->vector == NULL || t->sum == NULL || t->sample == NULL) {
        vs_training_end(x, t);
        *out = NULL;
        return VSHARD_ENOMEM;
    }
    return VSHARD_OK;
}

void vs_training_end(struct vshard_index *x, struct vs_training *t)
{
    size_t dims = x->quantizer.code_dim;

    if (t == NULL)
        return;
    vs_free(x->allocator, t->sample, t->sample_cap * sizeof *t->sample);
    vs_free(x->allocator, t->sum, dims * sizeof *t->sum);
    vs_free_wiped(x->allocator, t->vector, dims * sizeof *t->vector);
    vs_free(x->allocator, t, sizeof *t);
}

void vs_quantizer_train(struct vshard_index *x, struct vs_training *t)
{
    if (vs_elements_are_codes(x))
        return;
    find_means(x, t);
    find_scale(x, t);
    vs_quantizer_centre(x);
}
