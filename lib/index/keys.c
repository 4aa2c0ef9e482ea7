/* keys.c - how far a query is from rows: integer keys for walking the graph, and
 * exact distances on the stored elements for the answer. */
#include "index/state.h"

#include <math.h>

/* In which space rows of these elements are compared with each other, under this
 * metric; SPACE_NONE if they cannot be. Cosines become squared distances between codes
 * (quantizer.c). */
uint32_t vs_space(uint32_t element, uint32_t metric)
{
    static const uint8_t spaces[][5] = {
        /* L2SQ, IP, COSINE, L1, HAMMING */
        [VSHARD_ELEMENT_F32] = { SPACE_CODE_L2, SPACE_CODE_DOT, SPACE_CODE_L2, SPACE_CODE_L1,
                                 SPACE_NONE },
        [VSHARD_ELEMENT_U8] = { SPACE_U8_L2, SPACE_CODE_DOT, SPACE_CODE_L2, SPACE_U8_L1,
                                SPACE_NONE },
        [VSHARD_ELEMENT_I8] = { SPACE_I8_L2, SPACE_CODE_DOT, SPACE_CODE_L2, SPACE_I8_L1,
                                SPACE_NONE },
        [VSHARD_ELEMENT_F16] = { SPACE_CODE_L2, SPACE_CODE_DOT, SPACE_CODE_L2, SPACE_CODE_L1,
                                 SPACE_NONE },
        [VSHARD_ELEMENT_BITS] = { SPACE_NONE, SPACE_NONE, SPACE_NONE, SPACE_NONE, SPACE_BITS },
    };

    return spaces[element][metric];
}

void vs_keys(const struct vshard_index *x, const struct vs_query *q, const void *const *rows,
             size_t count, int32_t *out)
{
    const struct vs_kernel *k = &x->kernel;
    size_t bytes = x->quantizer.code_bytes;

    switch (q->space) {
    case SPACE_CODE_L2: k->l2sq_code_many(q->code, rows, count, bytes, out); return;
    case SPACE_CODE_L1: k->l1_u8_many(q->code, rows, count, bytes, out); return;
    case SPACE_CODE_DOT:
        k->dot_code_many(q->code, rows, count, bytes, out);
        for (size_t i = 0; i < count; i++)
            out[i] = -out[i];
        return;
    case SPACE_U8_L2: k->l2sq_u8_many(q->code, rows, count, x->dim, out); return;
    case SPACE_I8_L2: k->l2sq_i8_many(q->code, rows, count, x->dim, out); return;
    case SPACE_U8_L1: k->l1_u8_many(q->code, rows, count, x->dim, out); return;
    case SPACE_I8_L1: k->l1_i8_many(q->code, rows, count, x->dim, out); return;
    case SPACE_VECTORS: vs_vector_keys(x, q->code, rows, count, out); return;
    default: k->hamming_many(q->code, rows, count, x->dim / 8, out); return;
    }
}

/* To rows of half floats, or of floats. */
static void distances_float(const struct vshard_index *x, uint32_t element, const void *query,
                            const void *const *rows, size_t count, float *out)
{
    const struct vs_kernel *k = &x->kernel;
    bool half = element == VSHARD_ELEMENT_F16;
    void (*many)(const float *, const void *const *, size_t, size_t, float *);

    switch (x->metric) {
    case VSHARD_METRIC_L2SQ: many = half ? k->l2sq_f16_many : k->l2sq_f32_many; break;
    case VSHARD_METRIC_L1: many = half ? k->l1_f16_many : k->l1_f32_many; break;
    default: many = half ? k->dot_f16_many : k->dot_f32_many; break;
    }
    many(query, rows, count, x->dim, out);
}

static void distances_integer(const struct vshard_index *x, const struct vs_query *q,
                              struct vs_scratch *s, size_t count)
{
    if (vs_elements_are_codes(x))
        vs_keys(x, q, s->rows, count, s->keys);
    else if (x->element == VSHARD_ELEMENT_U8)
        x->kernel.dot_u8_many(q->elements, s->rows, count, x->dim, s->keys);
    else
        x->kernel.dot_i8_many(q->elements, s->rows, count, x->dim, s->keys);
    for (size_t i = 0; i < count; i++)
        s->distances[i] = (float)s->keys[i];
}

/* From rows that are codes: a few are decoded at a time. What a code stands for is not
 * quite as long as the vector was, and a cosine is of what it stands for. */
static void distances_decoded(const struct vshard_index *x, const struct vs_query *q,
                              struct vs_scratch *s, size_t count)
{
    const void *rows[DECODED];

    for (size_t i = 0; i < DECODED; i++)
        rows[i] = s->decoded + i * x->dim;
    for (size_t first = 0; first < count; first += DECODED) {
        size_t n = count - first < DECODED ? count - first : DECODED;

        s->decoded_rows = n > s->decoded_rows ? (uint32_t)n : s->decoded_rows;
        for (size_t i = 0; i < n; i++)
            vs_decode(x, s->slots[first + i], 0, x->dim, s->decoded + i * x->dim);
        distances_float(x, VSHARD_ELEMENT_F32, q->elements, rows, n, s->distances + first);
        for (size_t i = 0; x->metric == VSHARD_METRIC_COSINE && i < n; i++) {
            double length = sqrt(vs_sum_squares(x, rows[i]));

            s->distances[first + i] /=
                (float)(length * (double)vs_row_at(x, s->slots[first + i])->inverse_length);
        }
    }
}

/* Sets s->distances[i] to the distance between the query and slot s->slots[i]. */
void vs_distances(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                  size_t count)
{
    for (size_t i = 0; !q->codes_only && i < count; i++)
        s->rows[i] = vs_column_at(&x->elements, s->slots[i]);
    if (q->codes_only)
        distances_decoded(x, q, s, count);
    else if (x->element == VSHARD_ELEMENT_F32 || x->element == VSHARD_ELEMENT_F16)
        distances_float(x, x->element, q->elements, s->rows, count, s->distances);
    else
        distances_integer(x, q, s, count);
    s->distance_count += count;

    if (x->metric == VSHARD_METRIC_IP) {
        for (size_t i = 0; i < count; i++)
            s->distances[i] = -s->distances[i];
    } else if (x->metric == VSHARD_METRIC_COSINE) {
        for (size_t i = 0; i < count; i++) {
            float scale = q->inverse_length * vs_row_at(x, s->slots[i])->inverse_length;
            float d = 1.0f - s->distances[i] * scale;

            s->distances[i] = d < 0.0f ? 0.0f : d > 2.0f ? 2.0f : d;
        }
    }
}

/* The first element that is not finite or is too large; x->dim if there is none. */
size_t vs_find_unfit(const struct vshard_index *x, const void *elements)
{
    if (x->element == VSHARD_ELEMENT_F32)
        return x->kernel.find_unfit(elements, x->dim, VSHARD_VALUE_MAX);
    if (x->element == VSHARD_ELEMENT_F16)
        return x->kernel.find_unfit_f16(elements, x->dim);
    return x->dim;
}

/* What keys are computed against, where elements are not their own code. */
static void code_query(const struct vshard_index *x, const void *query, struct vs_scratch *s,
                       struct vs_query *out)
{
    out->code = s->code;
    if (x->by_vectors) { /* that of a query may lie at any address */
        memcpy(s->code, query, vs_vector_bytes(x));
        out->space = SPACE_VECTORS;
        return;
    }
    if (x->metric == VSHARD_METRIC_IP) {
        vs_widen(x, query, s->vector);
        vs_encode_dot_query(x, s->vector, (int8_t *)s->code);
        out->space = SPACE_CODE_DOT;
        return;
    }
    vs_encode_row(x, query, out->inverse_length, s->vector, s->code);
}

static struct vs_query query_in(const struct vshard_index *x, uint32_t slot, unsigned char *room)
{
    const void *code = vs_code_at(x, slot);

    if (vs_has_distances(x))
        return (struct vs_query){ .code = code, .space = vs_walk_space(x) };
    vs_encode_dot_row(x, code, (int8_t *)room);
    return (struct vs_query){ .code = room, .space = SPACE_CODE_DOT };
}

/* A row, as the scratch's query. */
struct vs_query vs_row_query(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    return query_in(x, slot, s->code);
}

/* The same, while the scratch's query is another, and until the next of these. */
struct vs_query vs_other_query(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    return query_in(x, slot, s->code + x->quantizer.code_bytes);
}

int32_t vs_key_of(const struct vshard_index *x, const struct vs_query *q, uint32_t slot)
{
    const void *row = vs_code_at(x, slot);
    int32_t key;

    vs_keys(x, q, &row, 1, &key);
    return key;
}

/* Verifies a query and prepares it, for walks or where codes rule rows out if `by_codes`: EINVAL
 * names what is wrong in the log. */
int vs_query_check(const struct vshard_index *x, const void *query, bool by_codes,
                   struct vs_scratch *s, struct vs_query *out)
{
    bool trained = atomic_load_explicit(&x->trained, memory_order_acquire);
    size_t at = vs_find_unfit(x, query);

    if (at < x->dim)
        return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", "queries: element",
                         (int64_t)at, x->dim);
    *out = (struct vs_query){ .elements = query, .code = query, .space = x->space };
    out->codes_only = trained && vs_is_lean(x);
    if (vs_length_check(x, query, s->vector, &out->inverse_length) != VSHARD_OK)
        return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", "queries: length", 0, 1);
    if (by_codes && !vs_elements_are_codes(x))
        code_query(x, query, s, out);
    if (x->element == VSHARD_ELEMENT_F16) { /* s->vector is of no more use to the code */
        vs_widen(x, query, s->vector);
        out->elements = s->vector;
    }
    return VSHARD_OK;
}
