/* batch.c - what an entry of a shard's log says.
 *
 *     offset  bytes
 *          0  2   apply format
 *          2  2   kind: 1 ADD, 2 REMOVE
 *          4  4   count, rows
 *          8  16  request id: hi, lo; both 0 where there is none
 *         24  4   bytes of a vector; 0 for REMOVE
 *         28  2   attributes; 0 for REMOVE
 *         30  2   flags: 1 versions, 2 payloads
 *         32      columns     [attributes x (2 type, 2 width)]
 *                 keys        [count x (8 hi, 8 lo)]
 *                 versions    [count x 8], with flag 1
 *                 lengths     [count x 4] of payloads, with flag 2
 *                 vectors     [count x bytes], elements as an index takes them
 *                 values      of each attribute [count x width], as an index takes them
 *                 payloads, one after the other, with flag 2
 *
 * Integers are little-endian, and each part begins at a multiple of 8 bytes, behind
 * zeros. Nothing follows the last part. Elements and values are taken in the machine's own
 * order, which is little-endian wherever the library runs. The width of a number is 8, that
 * of a keyword as many bytes as the longest of the batch has, and 0 where no row has a value.
 *
 * Apply formats. A replica applies the formats it knows and halts at others: it must
 * not guess. What a format means never changes; steps of VS_CHUNK_ROWS and the rule for
 * first loads belong to format 2, since the graph depends on what is added together. Format
 * 1, whose attributes were integers alone, was in no release. A later library goes on to
 * apply the formats before its own, and writes one that every replica knows: which, its
 * caller says (lib/node/level.c). */
#include "shard/shard.h"

#include <math.h>

enum { HEAD = 32, COLUMN = 4, VERSIONS = 1, PAYLOADS = 2 };
enum { TOO_LONG = VSHARD_KEYWORD_MAX + 1 }; /* a keyword's bytes are not counted beyond */

struct part {
    size_t at, bytes;
};

enum { /* parts; there is one of values for each attribute that there may be */
       COLUMNS = 0,
       KEYS = 1,
       VERSION = 2,
       LENGTHS = 3,
       VECTORS = 4,
       VALUES = 5,
       PAYLOAD = VALUES + VSHARD_ATTRIBUTES_MAX,
       PARTS = PAYLOAD + 1
};

struct layout {
    struct part part[PARTS];
    size_t total;
};

static bool lay_out(struct layout *l, const struct vs_batch *b, uint32_t flags)
{
    uint64_t size[PARTS] = { [COLUMNS] = COLUMN * (uint64_t)b->attribute_count,
                             [KEYS] = 16 * (uint64_t)b->count,
                             [VERSION] = flags & VERSIONS ? 8 * (uint64_t)b->count : 0,
                             [LENGTHS] = flags & PAYLOADS ? 4 * (uint64_t)b->count : 0,
                             [VECTORS] = (uint64_t)b->vector_bytes * b->count,
                             [PAYLOAD] = b->payload_bytes };
    uint64_t at = HEAD;

    for (uint32_t a = 0; a < b->attribute_count; a++)
        size[VALUES + a] = (uint64_t)b->column[a].width * b->count;
    for (int i = 0; i < PARTS; i++) {
        uint64_t bytes = size[i]; /* 2^32 * 2^32 at most */

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

static const char *text_of(const struct vshard_values *v, size_t row, uint32_t *length)
{
    const char *text = (const char *)v->values + row * v->width;

    *length = vs_keyword_length(text, v->width < TOO_LONG ? v->width : TOO_LONG);
    return text;
}

/* How many bytes a value of attribute `a` takes. */
static uint32_t width_of(const struct vs_batch_source *s, uint32_t a)
{
    uint32_t width = 0, length;

    if (a >= s->value_count || s->values[a].values == NULL)
        return 0;
    if (s->attributes[a].type != VSHARD_ATTRIBUTE_KEYWORD)
        return 8;
    for (uint32_t i = 0; i < s->count; i++) {
        text_of(&s->values[a], s->rows ? s->rows[i] : i, &length);
        width = length > width ? length : width;
    }
    return width;
}

static struct vs_batch shape(const struct vs_batch_source *s)
{
    struct vs_batch b = { .kind = s->kind, .count = s->count };

    if (s->kind != VS_BATCH_ADD)
        return b;
    b.vector_bytes = s->vector_bytes;
    b.attribute_count = s->attribute_count;
    b.payload_bytes = payload_sum(s);
    for (uint32_t a = 0; a < s->attribute_count; a++)
        b.column[a] = (struct vs_batch_column){ s->attributes[a].type, width_of(s, a), NULL };
    return b;
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

    vs_store64(to + l->part[KEYS].at + 16 * (size_t)i, s->keys[row].hi);
    vs_store64(to + l->part[KEYS].at + 16 * (size_t)i + 8, s->keys[row].lo);
    if (s->versions != NULL)
        vs_store64(to + l->part[VERSION].at + 8 * (size_t)i, s->versions[row]);
    if (s->kind != VS_BATCH_ADD)
        return;
    if (s->payload_bytes != NULL)
        vs_store32(to + l->part[LENGTHS].at + 4 * (size_t)i, s->payload_bytes[row]);
    memcpy(to + l->part[VECTORS].at + (size_t)i * s->vector_bytes,
           (const unsigned char *)s->vectors + row * s->vector_bytes, s->vector_bytes);
}

static void encode_column(const struct vs_batch_source *s, const struct vs_batch_column *c,
                          const struct vshard_values *v, unsigned char *to)
{
    for (uint32_t i = 0; i < s->count; i++, to += c->width) {
        size_t row = s->rows ? s->rows[i] : i;
        const char *from = (const char *)v->values + 8 * row;
        uint32_t length = c->width;

        if (c->type == VSHARD_ATTRIBUTE_KEYWORD)
            from = text_of(v, row, &length);
        memcpy(to, from, length);
    }
}

static void encode_columns(const struct vs_batch_source *s, const struct vs_batch *b,
                           const struct layout *l, unsigned char *to)
{
    for (uint32_t a = 0; a < b->attribute_count; a++) {
        unsigned char *head = to + l->part[COLUMNS].at + COLUMN * (size_t)a;

        vs_store16(head, (uint16_t)b->column[a].type);
        vs_store16(head + 2, (uint16_t)b->column[a].width);
        if (b->column[a].width != 0)
            encode_column(s, &b->column[a], &s->values[a], to + l->part[VALUES + a].at);
    }
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
    vs_store16(to, (uint16_t)(s->format != 0 ? s->format : VS_APPLY_FORMAT));
    vs_store16(to + 2, (uint16_t)s->kind);
    vs_store32(to + 4, s->count);
    vs_store64(to + 8, s->request.hi);
    vs_store64(to + 16, s->request.lo);
    vs_store32(to + 24, b.vector_bytes);
    vs_store16(to + 28, (uint16_t)b.attribute_count);
    vs_store16(to + 30, (uint16_t)flags);
    encode_columns(s, &b, &l, to);
    payload = to + l.part[PAYLOAD].at;
    for (uint32_t i = 0; i < s->count; i++) {
        size_t row = s->rows ? s->rows[i] : i;

        encode_row(s, &l, to, i);
        if (!(flags & PAYLOADS) || s->payload_bytes[row] == 0)
            continue;
        memcpy(payload, s->payloads[row], s->payload_bytes[row]);
        payload += s->payload_bytes[row];
    }
}

static int read_format(uint32_t newest, const unsigned char *p, size_t count)
{
    if (count < HEAD || vs_load16(p) == 0)
        return VSHARD_ECORRUPT;
    newest = newest != 0 ? newest : VS_APPLY_FORMAT;
    return vs_load16(p) >= VS_APPLY_FORMAT_FIRST && vs_load16(p) <= newest ? VSHARD_OK
                                                                           : VSHARD_EVERSION;
}

static int read_head(struct vs_batch *b, const unsigned char *p, uint32_t *flags)
{
    *b = (struct vs_batch){ .format = vs_load16(p),
                            .kind = vs_load16(p + 2),
                            .count = vs_load32(p + 4),
                            .request = vs_batch_request(p),
                            .vector_bytes = vs_load32(p + 24),
                            .attribute_count = vs_load16(p + 28) };
    *flags = vs_load16(p + 30);
    if ((b->kind != VS_BATCH_ADD && b->kind != VS_BATCH_REMOVE) || b->count == 0 ||
        b->count > VS_BATCH_ROWS_MAX || b->attribute_count > VSHARD_ATTRIBUTES_MAX ||
        (*flags & ~(uint32_t)(VERSIONS | PAYLOADS)) != 0 || b->vector_bytes > 4 * VSHARD_DIM_MAX ||
        (b->kind == VS_BATCH_ADD) != (b->vector_bytes != 0))
        return VSHARD_ECORRUPT;
    if (b->kind == VS_BATCH_REMOVE && (b->attribute_count != 0 || (*flags & PAYLOADS) != 0))
        return VSHARD_ECORRUPT;
    return VSHARD_OK;
}

static int read_columns(struct vs_batch *b, const unsigned char *p, size_t count)
{
    if (HEAD + COLUMN * (size_t)b->attribute_count > count)
        return VSHARD_ECORRUPT;
    for (uint32_t a = 0; a < b->attribute_count; a++) {
        b->column[a].type = vs_load16(p + HEAD + COLUMN * (size_t)a);
        b->column[a].width = vs_load16(p + HEAD + COLUMN * (size_t)a + 2);
    }
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

struct vshard_key vs_batch_request(const void *bytes)
{
    const unsigned char *p = bytes;

    return (struct vshard_key){ vs_load64(p + 8), vs_load64(p + 16) };
}

int vs_batch_decode(struct vs_batch *b, uint32_t newest, const void *bytes, size_t count)
{
    const unsigned char *p = bytes;
    struct layout l;
    uint32_t flags = 0;
    int rc = read_format(newest, p, count);

    if (rc == VSHARD_OK)
        rc = read_head(b, p, &flags);
    if (rc == VSHARD_OK)
        rc = read_columns(b, p, count);
    if (rc != VSHARD_OK)
        return rc;
    if (!lay_out(&l, b, flags))
        return VSHARD_ECORRUPT;
    if (flags & PAYLOADS) {
        rc = read_payloads(b, p, &l.part[LENGTHS], count);
        if (rc != VSHARD_OK || !lay_out(&l, b, flags))
            return VSHARD_ECORRUPT;
    }
    if (l.total != count)
        return VSHARD_ECORRUPT;
    b->keys = p + l.part[KEYS].at;
    b->versions = flags & VERSIONS ? p + l.part[VERSION].at : NULL;
    b->lengths = flags & PAYLOADS ? p + l.part[LENGTHS].at : NULL;
    b->vectors = p + l.part[VECTORS].at;
    b->payloads = p + l.part[PAYLOAD].at;
    for (uint32_t a = 0; a < b->attribute_count; a++)
        b->column[a].values = p + l.part[VALUES + a].at;
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

/* What is not of the plan's shape, or NULL. */
static const char *misfit(const struct vs_shard_plan *plan, const struct vs_batch *b,
                          int64_t *value, int64_t *limit)
{
    if (b->vector_bytes != vs_plan_vector_bytes(plan)) {
        *value = b->vector_bytes, *limit = vs_plan_vector_bytes(plan);
        return "vector_bytes";
    }
    if (b->attribute_count != plan->attribute_count) {
        *value = b->attribute_count, *limit = plan->attribute_count;
        return "attribute_count";
    }
    for (uint32_t a = 0; a < b->attribute_count; a++) {
        uint32_t type = plan->attributes[a].type, width = b->column[a].width;
        bool keyword = type == VSHARD_ATTRIBUTE_KEYWORD;

        *value = b->column[a].type, *limit = type;
        if (*value != *limit)
            return "values: type";
        *value = width, *limit = keyword ? VSHARD_KEYWORD_MAX : 8;
        if (keyword ? width > VSHARD_KEYWORD_MAX : width != 0 && width != 8)
            return "values: bytes of one";
    }
    return NULL;
}

bool vs_plan_fits(const struct vs_shard_plan *plan, const struct vs_batch *b)
{
    int64_t value, limit;

    return b->kind == VS_BATCH_REMOVE || misfit(plan, b, &value, &limit) == NULL;
}

int vs_plan_admits(const struct vs_shard_plan *plan, const struct vs_batch *b)
{
    const struct vshard_logger *log = plan->logger;
    int64_t value, limit;
    const char *what;

    if (b->kind == VS_BATCH_REMOVE)
        return VSHARD_OK;
    what = misfit(plan, b, &value, &limit);
    if (what != NULL)
        return vs_refuse(log, VSHARD_EINVAL, "shard.refused", what, value, limit);
    for (uint32_t i = 0; i < b->count; i++) {
        if (!fit(plan, b->vectors + (size_t)i * b->vector_bytes))
            return vs_refuse(log, VSHARD_EINVAL, "shard.refused", "vector", i, b->count);
    }
    return VSHARD_OK;
}

int vs_plan_admits_where(const struct vs_shard_plan *plan, const void *where, size_t bytes)
{
    return vs_where_check(plan->attributes, plan->attribute_count, where, bytes, plan->logger,
                          "shard.refused");
}
