/* keys.c - how far a query is from rows: integer keys for walking the graph, and
 * exact distances on the stored elements for the answer. */
#include "index/state.h"

void vs_keys(const struct vshard_index *x, const struct vs_query *q, const void *const *rows,
             size_t count, int32_t *out)
{
    switch (q->space) {
    case SPACE_CODE_L2:
        x->kernel.l2sq_code_many(q->code, rows, count, x->quantizer.code_bytes, out);
        return;
    case SPACE_CODE_DOT:
        x->kernel.dot_code_many(q->code, rows, count, x->quantizer.code_bytes, out);
        for (size_t i = 0; i < count; i++)
            out[i] = -out[i];
        return;
    case SPACE_U8_L2: x->kernel.l2sq_u8_many(q->code, rows, count, x->dim, out); return;
    default: x->kernel.l2sq_i8_many(q->code, rows, count, x->dim, out); return;
    }
}

/* The space in which rows are compared with each other: always a squared distance. */
uint32_t vs_build_space(const struct vshard_index *x)
{
    if (!vs_elements_are_codes(x))
        return SPACE_CODE_L2;
    return x->element == VSHARD_ELEMENT_U8 ? SPACE_U8_L2 : SPACE_I8_L2;
}

static void distances_f32(const struct vshard_index *x, const struct vs_query *q,
                          struct vs_scratch *s, size_t count)
{
    if (x->metric == VSHARD_METRIC_L2SQ)
        x->kernel.l2sq_f32_many(q->elements, s->rows, count, x->dim, s->distances);
    else
        x->kernel.dot_f32_many(q->elements, s->rows, count, x->dim, s->distances);
}

static void distances_8bit(const struct vshard_index *x, const struct vs_query *q,
                           struct vs_scratch *s, size_t count)
{
    const void *const *rows = s->rows;

    if (x->metric == VSHARD_METRIC_L2SQ && x->element == VSHARD_ELEMENT_U8)
        x->kernel.l2sq_u8_many(q->elements, rows, count, x->dim, s->keys);
    else if (x->metric == VSHARD_METRIC_L2SQ)
        x->kernel.l2sq_i8_many(q->elements, rows, count, x->dim, s->keys);
    else if (x->element == VSHARD_ELEMENT_U8)
        x->kernel.dot_u8_many(q->elements, rows, count, x->dim, s->keys);
    else
        x->kernel.dot_i8_many(q->elements, rows, count, x->dim, s->keys);
    for (size_t i = 0; i < count; i++)
        s->distances[i] = (float)s->keys[i];
}

/* Sets s->distances[i] to the distance between the query and slot s->slots[i]. */
void vs_distances(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                  size_t count)
{
    for (size_t i = 0; i < count; i++)
        s->rows[i] = vs_column_at(&x->elements, s->slots[i]);
    if (x->element == VSHARD_ELEMENT_F32)
        distances_f32(x, q, s, count);
    else
        distances_8bit(x, q, s, count);
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

/* Verifies a query and prepares it: EINVAL names what is wrong in the log. */
int vs_query_check(const struct vshard_index *x, const void *query, struct vs_scratch *s,
                   struct vs_query *out)
{
    if (x->element == VSHARD_ELEMENT_F32) {
        size_t at = x->kernel.find_unfit(query, x->dim, VSHARD_VALUE_MAX);

        if (at < x->dim)
            return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", "queries: element",
                             (int64_t)at, x->dim);
    }
    *out = (struct vs_query){ .elements = query, .code = s->code, .space = vs_build_space(x) };
    if (vs_length_check(x, query, s->vector, &out->inverse_length) != VSHARD_OK)
        return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", "queries: length", 0, 1);
    if (!atomic_load_explicit(&x->trained, memory_order_acquire))
        return VSHARD_OK;
    if (vs_elements_are_codes(x)) {
        out->code = query;
    } else if (x->metric == VSHARD_METRIC_IP) {
        vs_widen(x, query, s->vector);
        vs_encode_dot_query(x, s->vector, (int8_t *)s->code);
        out->space = SPACE_CODE_DOT;
    } else {
        vs_encode_row(x, query, out->inverse_length, s->vector, s->code);
        if (x->sketches.stride > 0) {
            vs_sketch_code(x, s->code, s->sketch);
            out->sketch = s->sketch;
        }
    }
    return VSHARD_OK;
}
