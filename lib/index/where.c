/* where.c - conditions on attributes: written, read, and evaluated.
 *
 * An expression is bytes, and there is one form of it: what a program writes, keeps, or is
 * sent by another is verified by the same few lines, names types itself, and so can be passed
 * on by who has no index. Nodes with pointers would have needed a second form for the wire,
 * and text a grammar and quotes, which are how strangers' words become operators.
 *
 *     version   1 byte, 1
 *     steps     in postfix order, 1 to 64 of them:
 *
 *         op 1, type 1, attribute 1, then
 *             EQ LT LE GT GE   a value
 *             RANGE            two values
 *             IN               uint16 count, so many values
 *             MISSING          nothing
 *         AND, OR 1, operands 1
 *         NOT 1
 *
 * Integers are little-endian. A value is 8 bytes, an int64 or an IEEE double that is no
 * NaN; or of a keyword its length, 1 byte, 1 to 120, and so many bytes, none of them zero.
 * Numbers of ops and types are those of vshard/attribute.h. The steps leave one result.
 *
 * All comparisons are one: is the key between two others? A keyword that no row has lies
 * between none. Expressions are evaluated for one row, on a stack of bits, or for the 1,024
 * rows of an extent, on a stack of words. */
#include "index/state.h"

#include <math.h>

/* ---- the form ---- */

static bool is_joint(uint32_t op)
{
    return op >= VSHARD_WHERE_AND && op <= VSHARD_WHERE_NOT;
}

static bool compares(uint32_t op, uint32_t type)
{
    bool any = op == VSHARD_WHERE_EQ || op == VSHARD_WHERE_IN || op == VSHARD_WHERE_MISSING;

    return op >= VSHARD_WHERE_EQ && op <= VSHARD_WHERE_MISSING && type >= VSHARD_ATTRIBUTE_INT64 &&
           type <= VSHARD_ATTRIBUTE_KEYWORD && (any || type != VSHARD_ATTRIBUTE_KEYWORD);
}

/* Values that an op has, but IN. */
static uint32_t values_of(uint32_t op)
{
    return op == VSHARD_WHERE_RANGE ? 2 : op == VSHARD_WHERE_MISSING ? 0 : 1;
}

/* ---- writing ---- */

struct writing {
    unsigned char *bytes;
    size_t room, used;
};

static void put(struct writing *w, const void *bytes, size_t count)
{
    if (w->used <= w->room && count <= w->room - w->used)
        memcpy(w->bytes + w->used, bytes, count);
    w->used += count;
}

static void put_byte(struct writing *w, uint32_t byte)
{
    unsigned char b = (unsigned char)byte;

    put(w, &b, 1);
}

static int put_keyword(struct writing *w, const char *text, size_t width)
{
    uint32_t length = vs_keyword_length(text, width);

    if (length == 0 || length > VSHARD_KEYWORD_MAX)
        return VSHARD_EINVAL;
    put_byte(w, length);
    put(w, text, length);
    return VSHARD_OK;
}

static int put_value(struct writing *w, const struct vshard_condition *c, uint32_t i)
{
    const char *at = c->values;
    unsigned char bytes[8];
    uint64_t bits;
    double real;

    if (c->type == VSHARD_ATTRIBUTE_KEYWORD)
        return put_keyword(w, at + (size_t)i * c->width, c->width);
    memcpy(&bits, at + (size_t)i * 8, sizeof bits);
    memcpy(&real, &bits, sizeof real);
    if (c->type == VSHARD_ATTRIBUTE_DOUBLE && isnan(real))
        return VSHARD_EINVAL;
    vs_store64(bytes, bits);
    put(w, bytes, sizeof bytes);
    return VSHARD_OK;
}

static int put_joint(struct writing *w, const struct vshard_condition *c)
{
    if (c->attribute != 0 || c->type != 0 || c->values != NULL ||
        (c->op == VSHARD_WHERE_NOT ? c->count != 0
                                   : c->count < 1 || c->count > VSHARD_CONDITIONS_MAX))
        return VSHARD_EINVAL;
    put_byte(w, c->op);
    if (c->op != VSHARD_WHERE_NOT)
        put_byte(w, c->count);
    return VSHARD_OK;
}

static int put_condition(struct writing *w, const struct vshard_condition *c)
{
    bool in = c->op == VSHARD_WHERE_IN, keyword = c->type == VSHARD_ATTRIBUTE_KEYWORD;
    int rc = VSHARD_OK;

    if (c->reserved != 0)
        return VSHARD_EINVAL;
    if (is_joint(c->op))
        return put_joint(w, c);
    if (!compares(c->op, c->type) || c->attribute >= VSHARD_ATTRIBUTES_MAX ||
        (in ? c->count > UINT16_MAX : c->count != values_of(c->op)) ||
        (c->count > 0 && (c->values == NULL || (keyword && c->width == 0))))
        return VSHARD_EINVAL;
    put_byte(w, c->op);
    put_byte(w, c->type);
    put_byte(w, c->attribute);
    if (in) {
        put_byte(w, c->count & 0xff);
        put_byte(w, c->count >> 8);
    }
    for (uint32_t i = 0; rc == VSHARD_OK && i < c->count; i++)
        rc = put_value(w, c, i);
    return rc;
}

/* Do the steps leave one result, and never take one that is not there? */
static bool leaves_one(const struct vshard_condition *c, size_t count)
{
    size_t depth = 0;

    for (size_t i = 0; i < count; i++) {
        size_t takes = c[i].op == VSHARD_WHERE_NOT ? 1 : is_joint(c[i].op) ? c[i].count : 0;

        if (takes > depth)
            return false;
        depth = depth - takes + 1;
    }
    return depth == 1;
}

int vshard_where_encode(const struct vshard_condition *conditions, size_t count, void *bytes,
                        size_t room, size_t *used)
{
    struct writing w = { bytes, room, 0 };
    int rc = VSHARD_OK;

    if (used != NULL)
        *used = 0;
    if (conditions == NULL || used == NULL || (bytes == NULL && room > 0) || count == 0 ||
        count > VSHARD_CONDITIONS_MAX)
        return VSHARD_EINVAL;
    put_byte(&w, WHERE_VERSION);
    for (size_t i = 0; rc == VSHARD_OK && i < count; i++)
        rc = put_condition(&w, &conditions[i]);
    if (rc < 0 || !leaves_one(conditions, count))
        return VSHARD_EINVAL;
    *used = w.used;
    return w.used > room || w.used > VSHARD_WHERE_BYTES_MAX ? VSHARD_E2BIG : VSHARD_OK;
}

/* ---- reading ---- */

struct reading {
    const unsigned char *bytes;
    size_t count, at;
    uint32_t depth;
    struct vs_where *where;
    struct vs_where_fault *fault;
};

static int faulty(struct reading *r, int status, const char *what, uint64_t value, uint64_t limit)
{
    *r->fault = (struct vs_where_fault){ what, value, limit };
    return status;
}

/* The next so many bytes, or NULL. */
static const unsigned char *take(struct reading *r, size_t count)
{
    const unsigned char *at = r->bytes + r->at;

    if (count > r->count - r->at)
        return NULL;
    r->at += count;
    return at;
}

static int cut_short(struct reading *r)
{
    return faulty(r, VSHARD_EINVAL, "filter.where: cut short", r->count, r->count);
}

static int read_value(struct reading *r, uint32_t type)
{
    const unsigned char *at = take(r, type == VSHARD_ATTRIBUTE_KEYWORD ? 1 : 8);
    uint64_t bits;
    double real;

    if (at == NULL)
        return cut_short(r);
    if (type == VSHARD_ATTRIBUTE_KEYWORD) {
        uint32_t length = *at;

        if (length == 0 || length > VSHARD_KEYWORD_MAX)
            return faulty(r, VSHARD_EINVAL, "filter.where: bytes of a keyword", length,
                          VSHARD_KEYWORD_MAX);
        at = take(r, length);
        if (at == NULL)
            return cut_short(r);
        return memchr(at, 0, length) == NULL
                   ? VSHARD_OK
                   : faulty(r, VSHARD_EINVAL, "filter.where: a zero in a keyword", r->at, 0);
    }
    bits = vs_load64(at);
    memcpy(&real, &bits, sizeof real);
    return type != VSHARD_ATTRIBUTE_DOUBLE || !isnan(real)
               ? VSHARD_OK
               : faulty(r, VSHARD_EINVAL, "filter.where: NaN", r->at, 0);
}

static int read_comparison(struct reading *r, struct vs_step *step)
{
    const unsigned char *head = take(r, 2), *count;
    int rc = VSHARD_OK;

    if (head == NULL)
        return cut_short(r);
    step->type = head[0];
    step->attribute = head[1];
    if (!compares(step->op, step->type))
        return faulty(r, VSHARD_EINVAL, "filter.where: op of this type", step->op, step->type);
    step->count = values_of(step->op);
    if (step->op == VSHARD_WHERE_IN) {
        count = take(r, 2);
        if (count == NULL)
            return cut_short(r);
        step->count = vs_load16(count);
        r->where->value_count += step->count;
        r->where->sets++;
    }
    step->values = r->bytes + r->at;
    for (uint32_t i = 0; rc == VSHARD_OK && i < step->count; i++)
        rc = read_value(r, step->type);
    r->where->comparisons++;
    r->depth++;
    return rc;
}

static int read_joint(struct reading *r, struct vs_step *step)
{
    const unsigned char *joined = NULL;

    step->joined = 1;
    if (step->op != VSHARD_WHERE_NOT) {
        joined = take(r, 1);
        if (joined == NULL)
            return cut_short(r);
        step->joined = *joined;
    }
    if (step->joined == 0 || step->joined > r->depth)
        return faulty(r, VSHARD_EINVAL, "filter.where: operands", step->joined, r->depth);
    r->depth -= step->joined - 1u;
    return VSHARD_OK;
}

static int read_step(struct reading *r)
{
    const unsigned char *op = take(r, 1);
    struct vs_step *step = &r->where->steps[r->where->count];

    if (r->where->count == VSHARD_CONDITIONS_MAX)
        return faulty(r, VSHARD_EINVAL, "filter.where: conditions", VSHARD_CONDITIONS_MAX + 1,
                      VSHARD_CONDITIONS_MAX);
    *step = (struct vs_step){ .op = *op };
    r->where->count++;
    if (is_joint(*op))
        return read_joint(r, step);
    if (*op >= VSHARD_WHERE_EQ && *op <= VSHARD_WHERE_MISSING)
        return read_comparison(r, step);
    return faulty(r, VSHARD_EINVAL, "filter.where: op", *op, VSHARD_WHERE_NOT);
}

int vs_where_read(const void *bytes, size_t count, struct vs_where *w, struct vs_where_fault *fault)
{
    struct reading r = { bytes, count, 1, 0, w, fault };
    int rc = VSHARD_OK;

    w->count = w->value_count = w->comparisons = w->sets = 0;
    if (count == 0 || bytes == NULL)
        return faulty(&r, VSHARD_EINVAL, "filter.where_bytes", count, 1);
    if (count > VSHARD_WHERE_BYTES_MAX)
        return faulty(&r, VSHARD_EINVAL, "filter.where_bytes", count, VSHARD_WHERE_BYTES_MAX);
    if (r.bytes[0] != WHERE_VERSION)
        return faulty(&r, VSHARD_EVERSION, "filter.where: version", r.bytes[0], WHERE_VERSION);
    while (rc == VSHARD_OK && r.at < count)
        rc = read_step(&r);
    if (rc == VSHARD_OK && r.depth != 1)
        rc = faulty(&r, VSHARD_EINVAL, "filter.where: results", r.depth, 1);
    return rc;
}

int vs_where_suits(const struct vshard_attribute *schema, uint32_t count, const struct vs_where *w,
                   struct vs_where_fault *fault)
{
    for (uint32_t i = 0; i < w->count; i++) {
        const struct vs_step *s = &w->steps[i];

        if (is_joint(s->op))
            continue;
        if (s->attribute >= count) {
            *fault = (struct vs_where_fault){ "filter.where: attribute", s->attribute, count };
            return VSHARD_EINVAL;
        }
        if (s->type != schema[s->attribute].type) {
            *fault =
                (struct vs_where_fault){ "filter.where: type", s->type, schema[s->attribute].type };
            return VSHARD_EINVAL;
        }
    }
    return VSHARD_OK;
}

int vs_where_check(const struct vshard_attribute *schema, uint32_t count, const void *where,
                   size_t bytes, const struct vshard_logger *log, const char *event)
{
    struct vs_where_fault fault;
    struct vs_where w;
    int rc = vs_where_read(where, bytes, &w, &fault);

    if (rc == VSHARD_OK)
        rc = vs_where_suits(schema, count, &w, &fault);
    return rc == VSHARD_OK
               ? rc
               : vs_refuse(log, rc, event, fault.what, (int64_t)fault.value, (int64_t)fault.limit);
}

/* ---- binding: from values to keys ---- */

/* The key of the value at *at, and on to the next. Of a zero there are two: the lower one,
 * but where `upper` is. */
static int64_t next_key(const struct vshard_index *x, const struct vs_step *step,
                        const unsigned char **at, bool upper)
{
    uint64_t bits;
    uint32_t number;
    double real;

    if (step->type == VSHARD_ATTRIBUTE_KEYWORD) {
        uint32_t length = **at;

        number = vs_keywords_find(&x->attributes.keywords, (const char *)*at + 1, length);
        *at += 1 + length;
        return number == VS_KEYWORD_NONE ? VSHARD_MISSING : (int64_t)number;
    }
    bits = vs_load64(*at);
    *at += 8;
    if (step->type == VSHARD_ATTRIBUTE_INT64)
        return (int64_t)bits;
    memcpy(&real, &bits, sizeof real);
    if (real == 0.0)
        real = upper ? 0.0 : -0.0;
    return vs_double_key(real);
}

static void bind_between(const struct vshard_index *x, struct vs_step *step)
{
    const unsigned char *low = step->values, *high = step->values;

    step->low = VSHARD_MISSING + 1;
    step->high = INT64_MAX;
    switch (step->op) {
    case VSHARD_WHERE_MISSING: step->low = step->high = VSHARD_MISSING; return;
    case VSHARD_WHERE_RANGE:
        step->low = next_key(x, step, &low, false);
        step->high = next_key(x, step, &low, true);
        break;
    case VSHARD_WHERE_EQ:
        step->low = next_key(x, step, &low, false);
        step->high = next_key(x, step, &high, true);
        break;
    case VSHARD_WHERE_LE: step->high = next_key(x, step, &high, true); break;
    case VSHARD_WHERE_GE: step->low = next_key(x, step, &low, false); break;
    case VSHARD_WHERE_LT:
        step->high = next_key(x, step, &high, false);
        step->high -= step->high > VSHARD_MISSING;
        break;
    default: /* GT: nothing is greater than the greatest */
        step->low = next_key(x, step, &low, true);
        if (step->low == INT64_MAX)
            step->high = VSHARD_MISSING;
        else
            step->low++;
    }
    if (step->low == VSHARD_MISSING) /* is between none, nor is a keyword that is not there */
        step->low++;
}

static void sift(int64_t *v, uint32_t at, uint32_t count)
{
    int64_t moved = v[at];

    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        child += child + 1 < count && v[child] < v[child + 1];
        if (v[child] <= moved)
            break;
        v[at] = v[child];
    }
    v[at] = moved;
}

static void sort_keys(int64_t *v, uint32_t count)
{
    for (uint32_t at = count / 2; at-- > 0;)
        sift(v, at, count);
    for (uint32_t end = count; end-- > 1;) {
        int64_t top = v[0];

        v[0] = v[end];
        v[end] = top;
        sift(v, 0, end);
    }
}

/* Fills in a set, from `keys` on. Both zeros of a double are there if one is. */
static uint32_t bind_set(const struct vshard_index *x, struct vs_step *step, int64_t *keys)
{
    const unsigned char *at = step->values;
    uint32_t given = step->count, count = 0;

    for (uint32_t i = 0; i < given; i++) {
        const unsigned char *again = at;
        int64_t low = next_key(x, step, &at, false), high = next_key(x, step, &again, true);

        if (low == VSHARD_MISSING)
            continue;
        keys[count++] = low;
        if (high != low)
            keys[count++] = high;
    }
    sort_keys(keys, count);
    step->set = keys;
    step->count = count;
    step->low = count > 0 ? keys[0] : VSHARD_MISSING + 1;
    step->high = count > 0 ? keys[count - 1] : VSHARD_MISSING;
    return count;
}

int vs_where_bind(struct vshard_index *x, struct vs_where *w, struct vs_scratch *s)
{
    int rc = vs_scratch_sets(x, s, 2 * w->value_count);
    uint32_t used = 0;

    for (uint32_t i = 0; rc == VSHARD_OK && i < w->count; i++) {
        struct vs_step *step = &w->steps[i];

        if (step->op == VSHARD_WHERE_IN)
            used += bind_set(x, step, s->sets + used);
        else if (!is_joint(step->op))
            bind_between(x, step);
    }
    return rc;
}

/* ---- one row ---- */

static bool has(const int64_t *set, uint32_t count, int64_t key)
{
    const int64_t *base = set;

    while (count > 1) {
        uint32_t half = count / 2;

        base += base[half] <= key ? half : 0;
        count -= half;
    }
    return count == 1 && *base == key;
}

static bool between(const struct vs_step *step, int64_t key)
{
    return step->low <= key && key <= step->high;
}

static bool compare(const struct vs_step *step, int64_t key)
{
    return between(step, key) && (step->op != VSHARD_WHERE_IN || has(step->set, step->count, key));
}

bool vs_where_holds(const struct vshard_index *x, const struct vs_where *w, uint32_t slot)
{
    uint64_t stack = 0; /* the top is bit 0; there are never more than there are steps */

    for (uint32_t i = 0; i < w->count; i++) {
        const struct vs_step *step = &w->steps[i];
        uint64_t operands = ~0ull >> (64 - (step->joined ? step->joined : 1));
        uint64_t all = stack & operands, rest = step->joined < 64 ? stack >> step->joined : 0;
        bool result;

        switch (step->op) {
        case VSHARD_WHERE_AND: result = all == operands; break;
        case VSHARD_WHERE_OR: result = all != 0; break;
        case VSHARD_WHERE_NOT: result = all == 0; break;
        default:
            rest = stack;
            result = compare(step, *(const int64_t *)vs_column_at(
                                       &x->attributes.columns[step->attribute], slot));
        }
        stack = rest << 1 | result;
    }
    return stack & 1;
}

void vs_where_request(const struct vshard_index *x, const struct vs_where *w, uint32_t slot)
{
    for (uint32_t i = 0; i < w->count && i < 4; i++) {
        if (!is_joint(w->steps[i].op))
            __builtin_prefetch(vs_column_at(&x->attributes.columns[w->steps[i].attribute], slot), 0,
                               3);
    }
}

/* ---- an extent ---- */

/* One comparison of the rows that `of` has bits for: others may be written to meanwhile. */
static uint64_t compare_some(const struct vs_step *step, const int64_t *keys, uint64_t of)
{
    uint64_t word = 0;

    for (; of != 0; of &= of - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(of);

        word |= (uint64_t)compare(step, keys[i]) << i;
    }
    return word;
}

/* Rows that are all there are compared at once. */
static uint64_t compare_word(const struct vshard_index *x, const struct vs_step *step,
                             const int64_t *keys, uint64_t live)
{
    uint64_t word;

    if (live != ~0ull)
        return compare_some(step, keys, live);
    word = x->kernel.between(step->low, step->high, keys);
    return step->op == VSHARD_WHERE_IN ? compare_some(step, keys, word) : word;
}

/* Joins the operands, of which the last is at top[0], into the first of them. */
static void join(const struct vs_step *step, uint64_t (*first)[WHERE_WORDS],
                 const uint64_t live[WHERE_WORDS])
{
    for (uint32_t i = 0; i < WHERE_WORDS; i++) {
        uint64_t word = first[0][i];

        for (uint32_t j = 1; j < step->joined; j++)
            word = step->op == VSHARD_WHERE_AND ? word & first[j][i] : word | first[j][i];
        first[0][i] = step->op == VSHARD_WHERE_NOT ? ~word & live[i] : word;
    }
}

void vs_where_extent(const struct vshard_index *x, const struct vs_where *w, uint32_t extent,
                     const uint64_t live[WHERE_WORDS], uint64_t out[WHERE_WORDS])
{
    uint64_t stack[VSHARD_CONDITIONS_MAX][WHERE_WORDS];
    uint32_t depth = 0;

    for (uint32_t i = 0; i < w->count; i++) {
        const struct vs_step *step = &w->steps[i];
        const int64_t *keys;

        if (is_joint(step->op)) {
            depth -= step->joined;
            join(step, &stack[depth++], live);
            continue;
        }
        keys = vs_column_at(&x->attributes.columns[step->attribute], extent * VS_EXTENT_ROWS);
        for (uint32_t j = 0; j < WHERE_WORDS; j++)
            stack[depth][j] = compare_word(x, step, keys + 64 * (size_t)j, live[j]);
        depth++;
    }
    memcpy(out, stack[0], sizeof stack[0]);
}
