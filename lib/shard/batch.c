/* batch.c - what an entry of a shard's log says.
 *
 *     offset  bytes
 *          0  2   apply format, 1
 *          2  2   kind: 1 ADD, 2 REMOVE
 *          4  4   count, rows
 *          8  16  request id: hi, lo; both 0 where there is none
 *         24  4   bytes of a vector; 0 for REMOVE
 *         28  2   attributes of a row; 0 for REMOVE
 *         30  2   flags: 1 versions, 2 payloads
 *         32      keys        [count x (8 hi, 8 lo)]
 *                 versions    [count x 8], with flag 1
 *                 attributes  [count x attributes x 8]
 *                 lengths     [count x 4] of payloads, with flag 2
 *                 vectors     [count x bytes], elements as an index takes them
 *                 payloads, one after the other, with flag 2
 *
 * Integers are little-endian, and each part begins at a multiple of 8 bytes, behind
 * zeros. Nothing follows the last part. Elements are taken in the machine's own order,
 * which is little-endian wherever the library runs.
 *
 * Apply formats. A replica applies the formats it knows and halts at others: it must
 * not guess. What a format means never changes; steps of VS_CHUNK_ROWS and the rule for
 * first loads belong to format 1, since the graph depends on what is added together. */
#include "shard/shard.h"

#include <math.h>

enum { HEAD = 32, VERSIONS = 1, PAYLOADS = 2 };

struct part {
    size_t at, bytes;
};

/* Places of the parts: keys, versions, attributes, lengths, vectors, payloads. */
struct layout {
    struct part part[6];
    size_t total;
};

static bool lay_out(struct layout *l, const struct vs_batch *b, uint32_t flags)
{
    const uint64_t each[6] = { 16,
                               flags & VERSIONS ? 8 : 0,
                               8 * (uint64_t)b->attribute_count,
                               flags & PAYLOADS ? 4 : 0,
                               b->vector_bytes,
                               0 };
    uint64_t at = HEAD;

    for (int i = 0; i < 6; i++) {
        uint64_t bytes = i == 5 ? b->payload_bytes : each[i] * b->count; /* 2^32 * 2^32 at most */

        at = (at + 7) / 8 * 8;
        if (bytes > SIZE_MAX / 4 || at > SIZE_MAX / 4)
            return false;
        l->part[i] = (struct part){ (size_t)at, (size_t)bytes };
        at += bytes;
    }
    l->total = (size_t)at;
    return true;
}

static size_t payload_sum(const struct vs_batch_source *s)
{
    size_t sum = 0;

    for (uint32_t i = 0; s->payload_bytes != NULL && i < s->count; i++)
        sum += s->payload_bytes[s->rows ? s->rows[i] : i];
    return sum;
}

static struct vs_batch shape(const struct vs_batch_source *s)
{
    return (struct vs_batch){ .kind = s->kind,
                              .count = s->count,
                              .vector_bytes = s->kind == VS_BATCH_ADD ? s->vector_bytes : 0,
                              .attribute_count = s->kind == VS_BATCH_ADD ? s->attribute_count : 0,
                              .payload_bytes = s->kind == VS_BATCH_ADD ? payload_sum(s) : 0 };
}

static uint32_t flags_of(const struct vs_batch_source *s)
{
    return (s->versions != NULL ? VERSIONS : 0) |
           (s->kind == VS_BATCH_ADD && s->payload_bytes != NULL ? PAYLOADS : 0);
}

size_t vs_batch_bytes(const struct vs_batch_source *s)
{
    struct vs_batch b = shape(s);
    struct layout l;

    return lay_out(&l, &b, flags_of(s)) ? l.total : SIZE_MAX;
}

static void encode_row(const struct vs_batch_source *s, const struct layout *l, unsigned char *to,
                       uint32_t i)
{
    size_t row = s->rows ? s->rows[i] : i;

    vs_store64(to + l->part[0].at + 16 * (size_t)i, s->keys[row].hi);
    vs_store64(to + l->part[0].at + 16 * (size_t)i + 8, s->keys[row].lo);
    if (s->versions != NULL)
        vs_store64(to + l->part[1].at + 8 * (size_t)i, s->versions[row]);
    if (s->kind != VS_BATCH_ADD)
        return;
    for (uint32_t a = 0; a < s->attribute_count; a++)
        vs_store64(to + l->part[2].at + 8 * ((size_t)i * s->attribute_count + a),
                   s->attributes ? (uint64_t)s->attributes[row * s->attribute_count + a] : 0);
    if (s->payload_bytes != NULL)
        vs_store32(to + l->part[3].at + 4 * (size_t)i, s->payload_bytes[row]);
    memcpy(to + l->part[4].at + (size_t)i * s->vector_bytes,
           (const unsigned char *)s->vectors + row * s->vector_bytes, s->vector_bytes);
}

void vs_batch_encode(const struct vs_batch_source *s, void *bytes)
{
    struct vs_batch b = shape(s);
    unsigned char *to = bytes, *payload;
    uint32_t flags = flags_of(s);
    struct layout l;

    if (!lay_out(&l, &b, flags))
        return;
    memset(to, 0, l.total - b.payload_bytes);
    vs_store16(to, VS_APPLY_FORMAT);
    vs_store16(to + 2, (uint16_t)s->kind);
    vs_store32(to + 4, s->count);
    vs_store64(to + 8, s->request.hi);
    vs_store64(to + 16, s->request.lo);
    vs_store32(to + 24, b.vector_bytes);
    vs_store16(to + 28, (uint16_t)b.attribute_count);
    vs_store16(to + 30, (uint16_t)flags);
    payload = to + l.part[5].at;
    for (uint32_t i = 0; i < s->count; i++) {
        size_t row = s->rows ? s->rows[i] : i;

        encode_row(s, &l, to, i);
        if (!(flags & PAYLOADS) || s->payload_bytes[row] == 0)
            continue;
        memcpy(payload, s->payloads[row], s->payload_bytes[row]);
        payload += s->payload_bytes[row];
    }
}

static int read_head(struct vs_batch *b, const unsigned char *p, size_t count, uint32_t *flags)
{
    if (count < HEAD)
        return VSHARD_ECORRUPT;
    if (vs_load16(p) == 0)
        return VSHARD_ECORRUPT;
    if (vs_load16(p) > VS_APPLY_FORMAT)
        return VSHARD_EVERSION;
    *b = (struct vs_batch){ .kind = vs_load16(p + 2),
                            .count = vs_load32(p + 4),
                            .request = { vs_load64(p + 8), vs_load64(p + 16) },
                            .vector_bytes = vs_load32(p + 24),
                            .attribute_count = vs_load16(p + 28) };
    *flags = vs_load16(p + 30);
    if ((b->kind != VS_BATCH_ADD && b->kind != VS_BATCH_REMOVE) || b->count == 0 ||
        b->count > VS_BATCH_ROWS_MAX || b->attribute_count > VS_ATTRIBUTES_MAX ||
        (*flags & ~(uint32_t)(VERSIONS | PAYLOADS)) != 0 || b->vector_bytes > 4 * VSHARD_DIM_MAX ||
        (b->kind == VS_BATCH_ADD) != (b->vector_bytes != 0))
        return VSHARD_ECORRUPT;
    if (b->kind == VS_BATCH_REMOVE && (b->attribute_count != 0 || (*flags & PAYLOADS) != 0))
        return VSHARD_ECORRUPT;
    return VSHARD_OK;
}

static int read_payloads(struct vs_batch *b, const unsigned char *p, const struct part *lengths,
                         size_t count)
{
    if (lengths->at + lengths->bytes > count)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < b->count; i++) {
        uint32_t bytes = vs_load32(p + lengths->at + 4 * (size_t)i);

        if (bytes > VS_PAYLOAD_MAX)
            return VSHARD_ECORRUPT;
        b->payload_bytes += bytes;
    }
    return VSHARD_OK;
}

int vs_batch_decode(struct vs_batch *b, const void *bytes, size_t count)
{
    const unsigned char *p = bytes;
    struct layout l;
    uint32_t flags;
    int rc = read_head(b, p, count, &flags);

    if (rc != VSHARD_OK)
        return rc;
    if (!lay_out(&l, b, flags))
        return VSHARD_ECORRUPT;
    if (flags & PAYLOADS) {
        rc = read_payloads(b, p, &l.part[3], count);
        if (rc != VSHARD_OK || !lay_out(&l, b, flags))
            return VSHARD_ECORRUPT;
    }
    if (l.total != count)
        return VSHARD_ECORRUPT;
    b->keys = p + l.part[0].at;
    b->versions = flags & VERSIONS ? p + l.part[1].at : NULL;
    b->attributes = p + l.part[2].at;
    b->lengths = flags & PAYLOADS ? p + l.part[3].at : NULL;
    b->vectors = p + l.part[4].at;
    b->payloads = p + l.part[5].at;
    return VSHARD_OK;
}

/* ---- admission ---- */

uint32_t vs_plan_vector_bytes(const struct vs_shard_plan *plan)
{
    switch (plan->element) {
    case VSHARD_ELEMENT_F32: return 4 * plan->dim;
    case VSHARD_ELEMENT_F16: return 2 * plan->dim;
    case VSHARD_ELEMENT_BITS: return plan->dim / 8;
    default: return plan->dim;
    }
}

static double number_at(const unsigned char *row, uint32_t element, uint32_t i)
{
    uint16_t half;
    float f;

    switch (element) {
    case VSHARD_ELEMENT_F32: memcpy(&f, row + 4 * (size_t)i, sizeof f); return (double)f;
    case VSHARD_ELEMENT_F16:
        half = vs_load16(row + 2 * (size_t)i);
        if ((half & 0x7c00) == 0x7c00)
            return (double)NAN;
        if ((half & 0x7c00) == 0)
            return ldexp((double)(half & 0x3ff), -24);
        return ldexp((double)((half & 0x3ff) | 0x400), ((half >> 10) & 31) - 25);
    case VSHARD_ELEMENT_I8: return (double)(int8_t)row[i];
    default: return (double)row[i];
    }
}

/* A little stricter than an index, so that no index refuses what was let in: a length
 * is summed here in another order than there. */
static bool fit(const struct vs_shard_plan *plan, const unsigned char *row)
{
    bool real = plan->element == VSHARD_ELEMENT_F32 || plan->element == VSHARD_ELEMENT_F16;
    double sum = 0;

    if (plan->element == VSHARD_ELEMENT_BITS || (!real && plan->metric != VSHARD_METRIC_COSINE))
        return true;
    for (uint32_t i = 0; i < plan->dim; i++) {
        double x = number_at(row, plan->element, i);

        if (!(fabs(x) <= (double)VSHARD_VALUE_MAX))
            return false;
        sum += x * x;
    }
    return plan->metric != VSHARD_METRIC_COSINE || sqrt(sum) >= 2 * VSHARD_LENGTH_MIN;
}

int vs_plan_admits(const struct vs_shard_plan *plan, const struct vs_batch *b)
{
    const struct vshard_logger *log = plan->logger;

    if (b->kind == VS_BATCH_REMOVE)
        return VSHARD_OK;
    if (b->vector_bytes != vs_plan_vector_bytes(plan))
        return vs_refuse(log, VSHARD_EINVAL, "shard.refused", "vector_bytes", b->vector_bytes,
                         vs_plan_vector_bytes(plan));
    if (b->attribute_count != plan->attribute_count)
        return vs_refuse(log, VSHARD_EINVAL, "shard.refused", "attribute_count", b->attribute_count,
                         plan->attribute_count);
    for (uint32_t i = 0; i < b->count; i++) {
        if (!fit(plan, b->vectors + (size_t)i * b->vector_bytes))
            return vs_refuse(log, VSHARD_EINVAL, "shard.refused", "vector", i, b->count);
    }
    return VSHARD_OK;
}
