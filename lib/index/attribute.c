/* attribute.c - the values beside the vectors: declared, added, fetched, verified. */
#include "index/attribute.h"
#include "index/state.h"

#include <math.h>

/* ---- declared ---- */

static bool name_valid(const struct vshard_attribute *a)
{
    size_t length = vs_keyword_length(a->name, sizeof a->name);

    for (size_t i = length; i < sizeof a->name; i++) {
        if (a->name[i] != 0)
            return false;
    }
    return length >= 1 && length <= VSHARD_ATTRIBUTE_NAME_MAX;
}

static int refuse_attribute(const struct vshard_index_options *o, const char *what, size_t at,
                            int64_t limit)
{
    return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", what, (int64_t)at, limit);
}

int vs_attributes_check(const struct vshard_index_options *o)
{
    if (o->attribute_count > VSHARD_ATTRIBUTES_MAX)
        return refuse_attribute(o, "attribute_count", o->attribute_count, VSHARD_ATTRIBUTES_MAX);
    if (o->attribute_count > 0 && o->attributes == NULL)
        return refuse_attribute(o, "attributes: NULL", o->attribute_count, 0);
    for (size_t i = 0; i < o->attribute_count; i++) {
        const struct vshard_attribute *a = &o->attributes[i];

        if (a->type < VSHARD_ATTRIBUTE_INT64 || a->type > VSHARD_ATTRIBUTE_KEYWORD)
            return refuse_attribute(o, "attributes: type", a->type, VSHARD_ATTRIBUTE_KEYWORD);
        if (!name_valid(a))
            return refuse_attribute(o, "attributes: name", i, VSHARD_ATTRIBUTE_NAME_MAX);
        for (size_t j = 0; j < i; j++) {
            if (memcmp(a->name, o->attributes[j].name, sizeof a->name) == 0)
                return refuse_attribute(o, "attributes: name twice", i, (int64_t)j);
        }
    }
    return VSHARD_OK;
}

void vs_attributes_init(struct vshard_index *x, const struct vshard_index_options *o)
{
    struct vs_attributes *t = &x->attributes;

    t->count = (uint32_t)o->attribute_count;
    if (t->count > 0)
        memcpy(t->schema, o->attributes, t->count * sizeof *t->schema);
    for (uint32_t i = 0; i < VSHARD_ATTRIBUTES_MAX; i++)
        vs_column_init(&t->columns[i], sizeof(int64_t));
    vs_keywords_init(&t->keywords);
}

int vs_attributes_reserve(struct vshard_index *x, uint64_t slots)
{
    int rc = VSHARD_OK;

    for (uint32_t i = 0; rc == VSHARD_OK && i < x->attributes.count; i++)
        rc = vs_column_reserve(&x->attributes.columns[i], slots, x->allocator);
    return rc;
}

/* Of keywords, and of values in memory or in the mapped file. */
uint64_t vs_attributes_bytes(const struct vshard_index *x)
{
    uint64_t bytes = vs_keywords_bytes(&x->attributes.keywords);

    for (uint32_t i = 0; i < x->attributes.count; i++)
        bytes += x->mapping.bytes != NULL ? (uint64_t)atomic_load(&x->slot_count) * sizeof(int64_t)
                                          : x->attributes.columns[i].heap_bytes;
    return bytes;
}

int vshard_index_attribute(const struct vshard_index *index, size_t at,
                           struct vshard_attribute *attribute)
{
    if (index == NULL)
        return VSHARD_EINVAL;
    if (attribute == NULL)
        return vs_refuse(index->logger, VSHARD_EINVAL, "attribute.refused", "attribute: NULL", 0,
                         0);
    if (at >= index->attributes.count)
        return VSHARD_ENOTFOUND;
    *attribute = index->attributes.schema[at];
    return VSHARD_OK;
}

/* ---- values and keys ---- */

static int64_t *key_at(const struct vshard_index *x, uint32_t attribute, uint32_t slot)
{
    return vs_column_at(&x->attributes.columns[attribute], slot);
}

/* Negative numbers have their bits turned round, so that greater ones are less. */
static int64_t turned(int64_t bits)
{
    return bits < 0 ? bits ^ INT64_MAX : bits;
}

int64_t vs_double_key(double v)
{
    int64_t bits;

    memcpy(&bits, &v, sizeof bits);
    return isnan(v) ? VSHARD_MISSING : turned(bits);
}

static double key_double(int64_t key)
{
    int64_t bits = turned(key);
    double v = NAN;

    if (key != VSHARD_MISSING)
        memcpy(&v, &bits, sizeof v);
    return v;
}

/* The text of keyword `row` of a call, and its length. */
static const char *text_at(const struct vshard_values *v, size_t row, uint32_t *length)
{
    const char *text = (const char *)v->values + row * v->width;

    *length = vs_keyword_length(text, v->width);
    return text;
}

/* ---- what add was given ---- */

static int refuse_values(const struct vshard_index *x, const char *call, const char *what,
                         uint64_t value, uint64_t limit)
{
    return vs_refuse(x->logger, VSHARD_EINVAL, call, what, (int64_t)value, (int64_t)limit);
}

/* Both for values to be added and for places to be filled. */
static int check_places(const struct vshard_index *x, const struct vshard_values *values,
                        size_t value_count, size_t count, const char *call)
{
    if (value_count > x->attributes.count)
        return refuse_values(x, call, "value_count", value_count, x->attributes.count);
    if (value_count > 0 && values == NULL)
        return refuse_values(x, call, "values: NULL", value_count, 0);
    for (size_t i = 0; i < value_count; i++) {
        bool keyword = x->attributes.schema[i].type == VSHARD_ATTRIBUTE_KEYWORD;
        size_t width = values[i].width, bytes;

        if (values[i].values == NULL)
            continue;
        if (keyword ? width == 0 || !vs_bytes(&bytes, width, count) : width != 0 && width != 8)
            return refuse_values(x, call, "values: width", width, keyword ? 1 : 8);
    }
    return VSHARD_OK;
}

static int check_keywords(const struct vshard_index *x, const struct vshard_values *v, size_t count)
{
    for (size_t row = 0; row < count; row++) {
        uint32_t length;

        text_at(v, row, &length);
        if (length > VSHARD_KEYWORD_MAX)
            return refuse_values(x, "add.refused", "values: bytes of a keyword", length,
                                 VSHARD_KEYWORD_MAX);
    }
    return VSHARD_OK;
}

int vs_incoming_read(const struct vshard_index *x, const struct vshard_add_options *options,
                     size_t count, struct vs_incoming *in)
{
    struct vshard_add_options o = { .size = sizeof o };
    int rc = VSHARD_OK;

    memset(in, 0, sizeof *in);
    if (options != NULL)
        rc = vs_options_read(&o, sizeof o, options,
                             VS_SIZE_THROUGH(struct vshard_add_options, values));
    if (rc < 0)
        return vs_refuse(x->logger, rc, "add.refused", "options.size", options->size, sizeof o);
    rc = check_places(x, o.values, o.value_count, count, "add.refused");
    for (size_t i = 0; rc == VSHARD_OK && i < o.value_count; i++) {
        if (o.values[i].values != NULL && x->attributes.schema[i].type == VSHARD_ATTRIBUTE_KEYWORD)
            rc = check_keywords(x, &o.values[i], count);
    }
    in->given = o.values;
    in->given_count = o.value_count;
    return rc;
}

/* Counts a keyword in, and sets its key. */
static int add_keyword(struct vshard_index *x, const struct vshard_values *v, uint32_t row,
                       uint64_t most, int64_t *key)
{
    struct vs_keywords *k = &x->attributes.keywords;
    struct vs_keyword_table *retired;
    uint32_t length, number;
    const char *text = text_at(v, row, &length);
    int rc;

    *key = VSHARD_MISSING;
    if (length == 0)
        return VSHARD_OK;
    if (vs_keywords_bytes_next(k) > most && vs_keywords_find(k, text, length) == VS_KEYWORD_NONE)
        return vs_refuse(x->logger, VSHARD_E2BIG, "add.refused", "max_bytes: keywords",
                         (int64_t)vs_keywords_bytes_next(k), (int64_t)most);
    if (k->count >= VSHARD_ROWS_MAX && k->free_count == 0)
        return vs_refuse(x->logger, VSHARD_E2BIG, "add.refused", "keywords", k->count,
                         VSHARD_ROWS_MAX);
    rc = vs_keywords_add(k, text, length, x->allocator, &number, &retired);
    if (retired != NULL) {
        vs_readers_drain(x);
        vs_keyword_table_free(retired, x->allocator);
    }
    if (rc == VSHARD_OK)
        *key = number;
    return rc;
}

static int make_key(struct vshard_index *x, const struct vs_incoming *in, uint32_t attribute,
                    uint32_t row, uint64_t most, int64_t *key)
{
    const struct vshard_values *v = &in->given[attribute];
    double real;

    *key = VSHARD_MISSING;
    if (attribute >= in->given_count || v->values == NULL)
        return VSHARD_OK;
    switch (x->attributes.schema[attribute].type) {
    case VSHARD_ATTRIBUTE_KEYWORD: return add_keyword(x, v, row, most, key);
    case VSHARD_ATTRIBUTE_DOUBLE:
        memcpy(&real, (const char *)v->values + row * sizeof real, sizeof real);
        *key = vs_double_key(real);
        return VSHARD_OK;
    default: memcpy(key, (const char *)v->values + row * sizeof *key, sizeof *key);
    }
    return VSHARD_OK;
}

int vs_incoming_begin(struct vshard_index *x, struct vs_incoming *in, const uint32_t *order,
                      uint32_t rows, uint64_t room)
{
    uint64_t most = vs_keywords_bytes(&x->attributes.keywords);
    uint32_t width = x->attributes.count;
    int rc = VSHARD_OK;

    in->keywords_before = x->attributes.keywords.count;
    in->rows = rows;
    if (width == 0)
        return VSHARD_OK;
    most = room > UINT64_MAX - most ? UINT64_MAX : most + room;
    if (!vs_bytes(&in->keys_bytes, rows, width * sizeof *in->keys))
        return VSHARD_ENOMEM;
    in->keys = vs_alloc(x->allocator, in->keys_bytes);
    if (in->keys == NULL)
        return VSHARD_ENOMEM;
    for (size_t i = 0; rc == VSHARD_OK && i < (size_t)rows * width; i++) {
        rc = make_key(x, in, (uint32_t)(i % width), order[i / width], most, &in->keys[i]);
        in->counted += rc == VSHARD_OK;
    }
    return rc;
}

static bool is_keyword(const struct vshard_index *x, uint32_t attribute)
{
    return x->attributes.schema[attribute].type == VSHARD_ATTRIBUTE_KEYWORD;
}

/* The last first, so that the keywords are as they were. */
static void take_back(struct vshard_index *x, const struct vs_incoming *in)
{
    uint32_t width = x->attributes.count;

    for (size_t i = in->counted; i-- > 0;) {
        if (is_keyword(x, (uint32_t)(i % width)) && in->keys[i] != VSHARD_MISSING)
            vs_keywords_drop(&x->attributes.keywords, (uint32_t)in->keys[i]);
    }
    vs_readers_drain(x);
    vs_keywords_settle(&x->attributes.keywords, in->keywords_before);
}

void vs_incoming_end(struct vshard_index *x, struct vs_incoming *in, int status)
{
    if (status < 0 && in->counted > 0)
        take_back(x, in);
    vs_free(x->allocator, in->keys, in->keys_bytes);
    in->keys = NULL;
}

/* ---- in and out of slots ---- */

void vs_attributes_store(struct vshard_index *x, const struct vs_incoming *in, uint32_t at,
                         uint32_t slot)
{
    uint32_t width = x->attributes.count;

    for (uint32_t i = 0; i < width; i++)
        *key_at(x, i, slot) = in->keys[(size_t)at * width + i];
}

void vs_attributes_clear(struct vshard_index *x, uint32_t slot)
{
    for (uint32_t i = 0; i < x->attributes.count; i++) {
        int64_t *key = key_at(x, i, slot);

        if (is_keyword(x, i) && *key != VSHARD_MISSING)
            vs_keywords_drop(&x->attributes.keywords, (uint32_t)*key);
        *key = VSHARD_MISSING;
    }
}

void vs_attributes_settle(struct vshard_index *x)
{
    struct vs_keywords *k = &x->attributes.keywords;

    if (k->leaving == VS_KEYWORD_NONE)
        return;
    vs_readers_drain(x);
    vs_keywords_settle(k, k->count);
}

/* ---- fetched ---- */

static int write_value(const struct vshard_index *x, uint32_t attribute, uint32_t slot,
                       const struct vshard_values *to, size_t row)
{
    int64_t key = *key_at(x, attribute, slot);
    unsigned char *at = to->values;
    double real = key_double(key);
    const char *text = "";
    uint32_t length;

    switch (x->attributes.schema[attribute].type) {
    case VSHARD_ATTRIBUTE_INT64: memcpy(at + row * sizeof key, &key, sizeof key); break;
    case VSHARD_ATTRIBUTE_DOUBLE: memcpy(at + row * sizeof real, &real, sizeof real); break;
    default:
        if (key != VSHARD_MISSING)
            text = vs_keyword_at(&x->attributes.keywords, (uint32_t)key)->text;
        length = vs_keyword_length(text, key != VSHARD_MISSING ? VSHARD_KEYWORD_MAX : 1);
        if (length > to->width)
            return vs_refuse(x->logger, VSHARD_E2BIG, "fetch.refused", "values: width",
                             (int64_t)to->width, length);
        memset(at + row * to->width, 0, to->width);
        memcpy(at + row * to->width, text, length);
    }
    return VSHARD_OK;
}

static int fetch_rows(struct vshard_index *x, uint32_t position, const uint64_t *ids, size_t count,
                      const struct vshard_values *values, size_t value_count, uint8_t *found)
{
    int rc = VSHARD_OK, absent = VSHARD_OK;

    for (size_t row = 0; rc == VSHARD_OK && row < count; row++) {
        uint32_t slot = vs_find_visible(x, ids[row], position);

        if (found != NULL)
            found[row] = slot != VS_SLOT_NONE;
        if (slot == VS_SLOT_NONE) {
            absent = VSHARD_ENOTFOUND;
            continue;
        }
        for (uint32_t i = 0; rc == VSHARD_OK && i < value_count; i++) {
            if (values[i].values != NULL)
                rc = write_value(x, i, slot, &values[i], row);
        }
    }
    return rc < 0 ? rc : absent;
}

int vshard_index_fetch_values(struct vshard_index *index, const uint64_t *ids, size_t count,
                              const struct vshard_values *values, size_t value_count,
                              uint8_t *found)
{
    struct vs_reader *r;
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (count > 0 && ids == NULL)
        return vs_refuse(index->logger, VSHARD_EINVAL, "fetch.refused", "ids: NULL", 0, 0);
    rc = check_places(index, values, value_count, count, "fetch.refused");
    if (rc < 0)
        return rc;
    rc = vs_reader_enter(index, &r); /* so that no keyword is wiped while it is copied */
    if (rc < 0)
        return vs_refuse(index->logger, rc, "fetch.refused", "memory", 0, 0);
    rc = fetch_rows(index, r->scratch[0].position, ids, count, values, value_count, found);
    vs_reader_leave(r);
    return rc;
}

/* ---- verified ---- */

static bool key_bad(const struct vshard_index *x, uint32_t attribute, int64_t key, uint32_t state)
{
    if (key == VSHARD_MISSING)
        return false;
    if (state == VS_ROW_FREE)
        return true;
    switch (x->attributes.schema[attribute].type) {
    case VSHARD_ATTRIBUTE_INT64: return false;
    case VSHARD_ATTRIBUTE_DOUBLE: return isnan(key_double(key));
    default: return key < 0 || key >= x->attributes.keywords.count;
    }
}

static uint64_t audit_column(const struct vshard_index *x, uint32_t attribute, uint64_t *counts)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    uint64_t bad = 0;

    for (uint32_t slot = 0; slot < slots; slot++) {
        int64_t key = *key_at(x, attribute, slot);

        if (key_bad(x, attribute, key, vs_row_state(x, slot)))
            bad++;
        else if (is_keyword(x, attribute) && key != VSHARD_MISSING)
            counts[key]++;
    }
    return bad;
}

int vs_attributes_audit(const struct vshard_index *x, uint64_t *bad)
{
    const struct vs_keywords *k = &x->attributes.keywords;
    size_t bytes = (size_t)k->count * sizeof(uint64_t);
    uint64_t *counts;

    *bad = 0;
    if (x->attributes.count == 0)
        return VSHARD_OK;
    counts = vs_alloc_zeroed(x->allocator, bytes);
    if (counts == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < x->attributes.count; i++)
        *bad += audit_column(x, i, counts);
    for (uint32_t i = 0; i < k->count; i++) {
        const struct vs_keyword *cell = vs_keyword_at(k, i);

        *bad += (cell->text[0] != 0 ? cell->refs : 0) != counts[i];
        *bad += cell->text[0] != 0 && cell->refs == 0;
    }
    vs_free(x->allocator, counts, bytes);
    return VSHARD_OK;
}
