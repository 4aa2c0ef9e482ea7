/* flat.c - exact search by scanning every row: the yardstick for recall, what a flat
 * index does, and what a graph does until it has enough rows.
 *
 * The rows are walked 512 at a time, for up to 64 queries at once, so that a batch
 * brings each row from memory once. Which rows are live stands in words of one bit a
 * row; nothing else is read of a row that is not. A bound, the distance of the k-th
 * nearest so far, lets nearly all others be passed over without a branch (sieve.c).
 *
 * A scan costs what it reads. So a flat index over floats keeps, beside each row, its
 * bytes: x ~ a c, with c[i] in -127..127 and a scale a = max|x[i]| / 127 of its own, so
 * that no row, however far out, spoils another's. The bytes are scanned, and only rows
 * that they cannot rule out are measured on their elements; the answer is the one that
 * measuring all of them gives, bit for bit. Why no row is ruled out wrongly:
 *
 *   Let q be the query, x a row, ^ what their bytes stand for, E the length of what
 *   rounding took: |x - x^| <= E_x, |q - q^| = E_q. As each element is off by at most
 *   a / 2, E_x <= a sqrt(dim) / 2; E_q is computed. D is the product of the bytes.
 *
 *   L2SQ    |q - x| >= |q^ - x^| - E_q - E_x                       (triangle)
 *           |q^ - x^|^2 = |q^|^2 + |x^|^2 - 2 a_q a_x D
 *           so x is out if that is > (r + E_q + E_x)^2, where r is the farthest that
 *           counts. A row keeps a_x and |x^|^2.
 *   COSINE  the same on vectors divided by their lengths: 1 - cos = |q - x|^2 / 2
 *   IP      q.x <= q^.x^ + |q^| E_x + E_q |x|                      (Cauchy-Schwarz)
 *           so x is out if that is < the least product that counts. A row keeps a_x
 *           and |x|.
 *
 *   The distance that counts is one computed in float32. It is within the error e that
 *   index.h promises, so r is taken larger by that much. What is computed here is
 *   rounded, too: a few operations, each to 2^-24 of values no larger than
 *   |q^|^2 + |x^|^2, or |q| |x|; SLACK, 2^-20, is taken off these or added to them.
 *   Where floats vanish below 1e-38, TINY = 1e-30, which index.h allows, is far more.
 *
 * 8-bit elements are bytes already. For one query their distances are exact integers;
 * a batch under L2SQ takes the way above with a = 1 and E = 0, where all that is left
 * is rounding. Other elements and metrics are measured row by row.
 *
 * The bytes are a function of the row alone, made when it is added or a file is copied
 * in; they are not in files, and no part of the digest. They cost dim + 8 bytes a row.
 * A mapped index has none: it owns no memory for its rows. */
#include "index/state.h"

#include <math.h>

enum {
    LIST = 512,           /* rows taken at a time */
    QUERIES_LEAST = 8,    /* however large their bytes and answers are */
    TILE_QUERIES = 4,     /* from here on packing rows for a tile pays */
    CODED_DIM_LEAST = 32, /* below it bytes and bounds save too little */
    PENDING = 128,
    WORD = 64
};

#define SLACK 0x1p-20
#define TINY  1e-30
#define HALF  0.50005 /* of a unit: the most that rounding takes, itself rounded */
#define EPS   0x1p-24

struct pending { /* a row that must be measured for a query */
    uint32_t slot;
    uint32_t query;
};

struct query {
    struct vs_query q;
    const void *given;
    struct vs_top top;
    struct vs_select select;
    double lost;    /* E_q, and what else the reach is longer by */
    int32_t origin; /* 128 times the sum of the bytes */
};

struct vs_scan {
    struct query *queries; /* [cap] */
    uint32_t cap, count;
    int8_t *codes;               /* [cap x code_bytes] */
    float *vectors;              /* [cap x dim], for float16 */
    uint8_t *panel;              /* [VS_PANEL_ROWS x code_bytes] */
    uint8_t *zero;               /* [dim] the element that stands for 0 */
    uint32_t first;              /* of the slots at hand */
    uint32_t *at;                /* [LIST] the live rows among them, counted from the first */
    bool all;                    /* `at` is 0, 1, 2, ... */
    const void **rows;           /* [LIST + VS_PANEL_ROWS] */
    const float *scales, *norms; /* [LIST] of the rows: the columns themselves, or: */
    float *some_scales, *some_norms;
    int32_t *products; /* [LIST], and [cap x VS_PANEL_ROWS] */
    struct pending *pending;
    uint32_t pending_count;
    size_t bytes;
};

/* ---- bytes of rows ---- */

bool vs_scan_coded(const struct vshard_index *x)
{
    return x->family == VSHARD_FAMILY_FLAT && x->profile != VSHARD_PROFILE_LEAN &&
           (x->element == VSHARD_ELEMENT_F32 || x->element == VSHARD_ELEMENT_F16) &&
           x->metric != VSHARD_METRIC_L1 && x->dim >= CODED_DIM_LEAST;
}

/* Of a query's bytes, in fours as a tile takes them. */
static size_t code_bytes(const struct vshard_index *x)
{
    return ((size_t)x->dim + 3) / 4 * 4;
}

/* Returns the scale. */
static float encode(const struct vshard_index *x, const float *v, int8_t *code)
{
    float greatest = x->kernel.greatest(v, x->dim), least = 127 * (float)TINY, scale;

    scale = (greatest > least ? greatest : least) / 127;
    x->kernel.round_bytes(v, 1 / scale, x->dim, code);
    return scale;
}

/* Of the vector that the bytes stand for, squared. */
static double coded_square(float scale, const int8_t *code, size_t dim)
{
    int32_t squares = 0;

    for (size_t i = 0; i < dim; i++)
        squares += code[i] * code[i];
    return (double)scale * (double)scale * (double)squares;
}

/* Square of the length of what rounding took. */
static double lost_square(const float *v, float scale, const int8_t *code, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++) {
        double lost = (double)v[i] - (double)code[i] * (double)scale;

        sum += lost * lost;
    }
    return sum;
}

static int32_t origin_of(const int8_t *code, size_t dim)
{
    int32_t sum = 0;

    for (size_t i = 0; i < dim; i++)
        sum += code[i];
    return 128 * sum;
}

/* Widened, and of length 1 under cosine. */
static void prepare(const struct vshard_index *x, const void *elements, float inverse_length,
                    float *out)
{
    vs_widen(x, elements, out);
    for (size_t i = 0; x->metric == VSHARD_METRIC_COSINE && i < x->dim; i++)
        out[i] *= inverse_length;
}

/* Within an extent of bounds, scales come first. */
static float *scale_at(const struct vshard_index *x, uint32_t slot)
{
    float *extent = vs_column_at(&x->bounds, slot & ~(uint32_t)(VS_EXTENT_ROWS - 1));

    return extent + (slot & (VS_EXTENT_ROWS - 1));
}

void vs_scan_encode(struct vshard_index *x, uint32_t slot, float *vector)
{
    float *scale = scale_at(x, slot);
    int8_t *code = vs_column_at(&x->codes, slot);

    prepare(x, vs_column_at(&x->elements, slot), vs_row_at(x, slot)->inverse_length, vector);
    *scale = encode(x, vector, code);
    scale[VS_EXTENT_ROWS] =
        (float)(x->metric == VSHARD_METRIC_IP ? sqrt(vs_sum_squares(x, vector)) * (1 + SLACK)
                                              : coded_square(*scale, code, x->dim) * (1 - SLACK));
}

/* Bounds of a row whose other bytes were copied. */
void vs_scan_copy(struct vshard_index *x, uint32_t from, uint32_t to)
{
    const float *theirs = scale_at(x, from);
    float *scale = scale_at(x, to);

    scale[0] = theirs[0];
    scale[VS_EXTENT_ROWS] = theirs[VS_EXTENT_ROWS];
}

/* ---- which rows are there: live, or removed and not freed yet ---- */

static _Atomic uint64_t *live_word(const struct vshard_index *x, uint32_t slot)
{
    return vs_column_at(&x->live_words, slot / WORD);
}

/* There is one writer, so loads and stores will do. */
void vs_scan_mark(struct vshard_index *x, uint32_t slot, bool live)
{
    _Atomic uint64_t *word = live_word(x, slot);
    uint64_t bit = 1ull << slot % WORD, was = atomic_load_explicit(word, memory_order_relaxed);

    atomic_store_explicit(word, live ? was | bit : was & ~bit, memory_order_release);
}

/* Which of the 64 rows from `slot` on are live. */
uint64_t vs_scan_live(const struct vshard_index *x, uint32_t slot)
{
    return atomic_load_explicit(live_word(x, slot), memory_order_acquire);
}

int vs_scan_reserve_rows(struct vshard_index *x, uint64_t slots)
{
    uint32_t words = (uint32_t)((slots + WORD - 1) / WORD);
    int rc = vs_column_reserve(&x->live_words, words, x->allocator);

    if (rc < 0)
        return rc;
    for (; x->live_word_count < words; x->live_word_count++)
        atomic_store_explicit(live_word(x, x->live_word_count * WORD), 0, memory_order_relaxed);
    if (!vs_scan_coded(x))
        return VSHARD_OK;
    rc = vs_column_reserve(&x->codes, slots, x->allocator);
    return rc < 0 ? rc : vs_column_reserve(&x->bounds, slots, x->allocator);
}

/* ---- how queries and rows meet ---- */

enum way { MEASURED, KEYS, BYTES };

/* Bytes, exact integers, or distances one by one. */
static enum way way_of(const struct vshard_index *x, uint32_t queries)
{
    if (x->family == VSHARD_FAMILY_FLAT && x->codes.stride > 0)
        return BYTES;
    if ((x->space == SPACE_U8_L2 || x->space == SPACE_I8_L2) && queries >= TILE_QUERIES)
        return BYTES;
    return vs_elements_are_codes(x) ? KEYS : MEASURED;
}

/* What makes a row's bytes unsigned. */
static uint8_t flip_of(const struct vshard_index *x)
{
    return x->element == VSHARD_ELEMENT_U8 ? 0 : 128;
}

static float farthest(const struct vs_top *top)
{
    return top->count == top->cap ? top->items[0].distance : __builtin_inff();
}

/* How near a row must be to be measured, now that the k-th nearest is as near as it is. */
static void set_reach(const struct vshard_index *x, struct query *q)
{
    double e = (x->dim + 4) * EPS, far = (double)farthest(&q->top), r;

    if (x->metric == VSHARD_METRIC_IP) {
        q->select.reach = (float)(-far - fabs(far) * SLACK - TINY);
        return;
    }
    r = x->metric == VSHARD_METRIC_COSINE ? 2 * (far + 4 * e) : far * (1 + SLACK) / (1 - 2 * e);
    q->select.reach = (float)((sqrt(r + TINY) + q->lost) * (1 + SLACK));
}

static void bound_floats(const struct vshard_index *x, struct query *q, float *vector,
                         const void *elements, int8_t *code)
{
    double e = (x->dim + 4) * EPS, root = HALF * sqrt((double)x->dim) * (1 + SLACK), length;
    float scale;

    prepare(x, elements, q->q.inverse_length, vector);
    scale = encode(x, vector, code);
    q->lost = sqrt(lost_square(vector, scale, code, x->dim)) * (1 + SLACK);
    if (x->metric == VSHARD_METRIC_IP) {
        length = sqrt(vs_sum_squares(x, vector)) * (1 + SLACK) + q->lost;
        q->select.scale = scale;
        q->select.norm = (float)((q->lost + (2 * e + 2 * SLACK) * length) * (1 + SLACK));
        q->select.slope = (float)(length * root);
        return;
    }
    if (x->metric == VSHARD_METRIC_COSINE)
        q->lost += SLACK; /* lengths are 1 only almost */
    q->select.scale = 2 * scale;
    q->select.norm = (float)(coded_square(scale, code, x->dim) * (1 - SLACK));
    q->select.slope = (float)root;
}

static void bound_bytes(const struct vshard_index *x, struct query *q, const uint8_t *elements,
                        int8_t *code)
{
    for (size_t i = 0; i < x->dim; i++)
        code[i] = (int8_t)(elements[i] ^ (x->element == VSHARD_ELEMENT_U8 ? 128 : 0));
    q->select.scale = 2;
    q->select.norm = (float)(coded_square(1, code, x->dim) * (1 - SLACK));
    q->select.slope = 0;
    q->lost = 0;
}

/* The query's bytes and bounds, once its vector and its top are there. */
static void begin_query(const struct vshard_index *x, struct vs_scan *c, uint32_t i, float *vector)
{
    struct query *q = &c->queries[i];
    int8_t *code = c->codes + i * code_bytes(x);

    memset(code, 0, code_bytes(x));
    if (x->element == VSHARD_ELEMENT_F32 || x->element == VSHARD_ELEMENT_F16)
        bound_floats(x, q, vector, q->given, code);
    else
        bound_bytes(x, q, q->given, code);
    q->origin = origin_of(code, x->dim);
}

/* ---- one scan ---- */

/* Lists the live rows of LIST slots from `first` on. Usually all are, as in the list
 * before, which then is right already. */
static uint32_t list_live(const struct vshard_index *x, struct vs_scan *c, uint32_t first,
                          uint32_t end)
{
    uint64_t live[LIST / WORD], all = end - first == LIST ? ~0ull : 0;
    uint32_t words = (end - first + WORD - 1) / WORD, n = 0;

    c->first = first;
    for (uint32_t w = 0; w < words; w++) {
        live[w] = atomic_load_explicit(live_word(x, first + w * WORD), memory_order_acquire);
        all &= live[w];
    }
    if (c->all && all == ~0ull)
        return LIST;
    c->all = all == ~0ull;
    for (uint32_t w = 0; w < words; w++) {
        for (; live[w] != 0; live[w] &= live[w] - 1)
            c->at[n++] = w * WORD + (uint32_t)__builtin_ctzll(live[w]);
    }
    return n;
}

/* Where they are; LIST slots are within one extent. */
static void list_rows(const struct vshard_index *x, struct vs_scan *c, uint32_t n)
{
    const struct vs_column *column = x->bounds.stride > 0 ? &x->codes : &x->elements;
    const unsigned char *base = vs_column_at(column, c->first);
    size_t stride = column->stride;

    if (c->all) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < n; i++, base += stride)
            c->rows[i] = base;
    } else {
        for (uint32_t i = 0; i < n; i++)
            c->rows[i] = base + c->at[i] * stride;
    }
}

static void list_bounds(const struct vshard_index *x, struct vs_scan *c, uint32_t n)
{
    const float *bounds = scale_at(x, c->first);

    c->scales = bounds;
    c->norms = bounds + VS_EXTENT_ROWS;
    if (c->all)
        return;
    for (uint32_t i = 0; i < n; i++) {
        c->some_scales[i] = bounds[c->at[i]];
        c->some_norms[i] = bounds[c->at[i] + VS_EXTENT_ROWS];
    }
    c->scales = c->some_scales;
    c->norms = c->some_norms;
}

/* 8-bit elements have scale 1; their norms are distances from 0. */
static void list_norms(const struct vshard_index *x, struct vs_scan *c, uint32_t n)
{
    if (x->space == SPACE_U8_L2)
        x->kernel.l2sq_u8_many(c->zero, c->rows, n, x->dim, c->products);
    else
        x->kernel.l2sq_i8_many((const int8_t *)c->zero, c->rows, n, x->dim, c->products);
    for (uint32_t i = 0; i < n; i++) {
        c->some_scales[i] = 1;
        c->some_norms[i] = (float)c->products[i] * (float)(1 - SLACK);
    }
    c->scales = c->some_scales;
    c->norms = c->some_norms;
}

/* The bits say that rows are there; whether this reader sees them, their states say. */
static void offer(struct vshard_index *x, const struct vs_scratch *s, struct vs_top *top,
                  float distance, uint32_t slot)
{
    if (distance <= farthest(top) && vs_row_visible(x, slot, s->position))
        vs_top_offer(top, (struct vs_candidate){ distance, slot, vs_row_at(x, slot)->id });
}

/* Measures the rows that are waiting: those of one query together. */
static void flush(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s)
{
    for (uint32_t first = 0, n; first < c->pending_count; first += n) {
        const struct pending *p = c->pending + first;
        struct query *q = &c->queries[p->query];

        for (n = 0; first + n < c->pending_count && p[n].query == p->query; n++)
            s->slots[n] = p[n].slot;
        vs_distances(x, &q->q, s, n);
        for (uint32_t i = 0; i < n; i++)
            offer(x, s, &q->top, s->distances[i], s->slots[i]);
        set_reach(x, q);
    }
    c->pending_count = 0;
}

/* Notes rows to be measured, and asks memory for them. They wait for the next list, so
 * that they are there by then. */
static void defer(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s, uint32_t query,
                  uint32_t from, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        uint32_t slot = c->first + c->at[from + (uint32_t)__builtin_ctzll(bits)];
        const unsigned char *row = vs_column_at(&x->elements, slot);

        for (size_t i = 0; i < x->elements.stride; i += 64)
            __builtin_prefetch(row + i);
        c->pending[c->pending_count++] = (struct pending){ slot, query };
        if (c->pending_count == PENDING)
            flush(x, c, s);
    }
}

static uint64_t select_rows(const struct vshard_index *x, const struct vs_select *select,
                            const struct vs_scan *c, const int32_t *products, uint32_t at,
                            uint32_t n)
{
    const struct vs_kernel *k = &x->kernel;

    return x->metric == VSHARD_METRIC_IP
               ? k->select_dot(select, products, c->scales + at, c->norms + at, n)
               : k->select_near(select, products, c->scales + at, c->norms + at, n);
}

static void scan_bytes_alone(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s,
                             uint32_t n)
{
    for (uint32_t i = 0; i < c->count; i++) {
        struct query *q = &c->queries[i];

        x->kernel.dot_i8_many(c->codes + i * code_bytes(x), c->rows, n, x->dim, c->products);
        s->distance_count += n;
        flush(x, c, s);
        q->select.origin = 0;
        for (uint32_t at = 0; at < n; at += WORD) {
            uint32_t some = n - at < WORD ? n - at : WORD;
            uint64_t bits = select_rows(x, &q->select, c, c->products + at, at, some);

            defer(x, c, s, i, at, bits);
        }
    }
}

static void scan_bytes_tiled(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s,
                             uint32_t n)
{
    const struct vs_kernel *k = &x->kernel;

    for (uint32_t i = 0; n % VS_PANEL_ROWS != 0 && i < VS_PANEL_ROWS; i++)
        c->rows[n + i] = c->rows[n - 1];
    for (uint32_t at = 0; at < n; at += VS_PANEL_ROWS) {
        uint32_t some = n - at < VS_PANEL_ROWS ? n - at : VS_PANEL_ROWS;

        k->panel_pack(c->rows + at, x->dim, flip_of(x), c->panel);
        k->panel_dot(c->codes, c->count, code_bytes(x) / 4, c->panel, c->products);
        s->distance_count += (uint64_t)some * c->count;
        flush(x, c, s);
        for (uint32_t i = 0; i < c->count; i++) {
            struct query *q = &c->queries[i];
            const int32_t *products = c->products + (size_t)i * VS_PANEL_ROWS;

            q->select.origin = q->origin;
            defer(x, c, s, i, at, select_rows(x, &q->select, c, products, at, some));
        }
    }
}

static void scan_keys(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s, uint32_t n)
{
    for (uint32_t i = 0; i < c->count; i++) {
        struct query *q = &c->queries[i];

        vs_keys(x, &q->q, c->rows, n, c->products);
        s->distance_count += n;
        for (uint32_t at = 0; at < n; at += WORD) {
            uint32_t some = n - at < WORD ? n - at : WORD;
            uint64_t bits = x->kernel.select_keys(farthest(&q->top), c->products + at, some);

            for (; bits != 0; bits &= bits - 1) {
                uint32_t row = at + (uint32_t)__builtin_ctzll(bits);

                offer(x, s, &q->top, (float)c->products[row], c->first + c->at[row]);
            }
        }
    }
}

static void scan_measured(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s,
                          uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        s->slots[i] = c->first + c->at[i];
    for (uint32_t i = 0; i < c->count; i++) {
        struct query *q = &c->queries[i];

        vs_distances(x, &q->q, s, n);
        for (uint32_t at = 0; at < n; at += WORD) {
            uint32_t some = n - at < WORD ? n - at : WORD;
            uint64_t bits = x->kernel.select_floats(farthest(&q->top), s->distances + at, some);

            for (; bits != 0; bits &= bits - 1) {
                uint32_t row = at + (uint32_t)__builtin_ctzll(bits);

                offer(x, s, &q->top, s->distances[row], s->slots[row]);
            }
        }
    }
}

static void scan_list(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s, uint32_t n)
{
    enum way way = way_of(x, c->count);

    if (way != MEASURED)
        list_rows(x, c, n);
    if (way == BYTES)
        (x->bounds.stride > 0 ? list_bounds : list_norms)(x, c, n);
    if (way == MEASURED)
        scan_measured(x, c, s, n);
    else if (way == KEYS)
        scan_keys(x, c, s, n);
    else if (c->count < TILE_QUERIES)
        scan_bytes_alone(x, c, s, n);
    else
        scan_bytes_tiled(x, c, s, n);
}

static int scan(struct vshard_index *x, struct vs_scan *c, struct vs_scratch *s)
{
    uint32_t count = atomic_load_explicit(&x->slot_count, memory_order_acquire);

    c->pending_count = 0;
    c->all = false;
    for (uint32_t first = 0; first < count; first += LIST) {
        uint32_t n = list_live(x, c, first, count - first < LIST ? count : first + LIST);
        int rc = first % VS_EXTENT_ROWS == 0 ? vs_touch(x, first) : VSHARD_OK;

        if (rc < 0)
            return rc;
        if (n > 0)
            scan_list(x, c, s, n);
    }
    flush(x, c, s);
    return VSHARD_OK;
}

/* ---- buffers ---- */

/* Queries at a time: their bytes, and their answers, stay in cache. */
uint32_t vs_scan_width(const struct vshard_index *x, size_t k)
{
    size_t by_bytes = ((size_t)1 << 18) / code_bytes(x), by_answers = ((size_t)1 << 14) / k;
    size_t width = by_bytes < by_answers ? by_bytes : by_answers;

    return width > SCAN_WIDTH_MAX  ? SCAN_WIDTH_MAX
           : width < QUERIES_LEAST ? QUERIES_LEAST
                                   : (uint32_t)width;
}

/* Takes `bytes` of a block, or with a block of NULL only counts them. */
static void *carve(unsigned char *block, size_t *used, size_t bytes)
{
    void *p = block ? block + *used : NULL;

    *used += (bytes + 63) / 64 * 64;
    return p;
}

static size_t lay_out(const struct vshard_index *x, struct vs_scan *c, unsigned char *block)
{
    bool tile = c->cap >= TILE_QUERIES;
    size_t used = 0, products = tile ? (size_t)c->cap * VS_PANEL_ROWS : 0;

    carve(block, &used, sizeof *c);
    c->queries = carve(block, &used, c->cap * sizeof *c->queries);
    c->codes = carve(block, &used, c->cap * code_bytes(x));
    c->vectors =
        carve(block, &used, x->element == VSHARD_ELEMENT_F16 ? c->cap * x->dim * sizeof(float) : 0);
    c->panel = carve(block, &used, tile ? VS_PANEL_ROWS * code_bytes(x) : 0);
    c->zero = carve(block, &used, x->dim);
    c->at = carve(block, &used, LIST * sizeof *c->at);
    c->rows = carve(block, &used, (LIST + VS_PANEL_ROWS) * sizeof *c->rows);
    c->some_scales = carve(block, &used, LIST * sizeof *c->some_scales);
    c->some_norms = carve(block, &used, LIST * sizeof *c->some_norms);
    c->products = carve(block, &used, (products > LIST ? products : LIST) * sizeof *c->products);
    c->pending = carve(block, &used, PENDING * sizeof *c->pending);
    return used;
}

void vs_scan_forget(const struct vshard_index *x, struct vs_scan *c)
{
    if (c != NULL && c->cap >= TILE_QUERIES)
        memset(c->panel, 0, VS_PANEL_ROWS * code_bytes(x));
}

void vs_scan_free(struct vshard_index *x, struct vs_scan *c)
{
    if (c != NULL)
        vs_free(x->allocator, c, c->bytes);
}

/* Room for `count` queries: for one, or for all that are taken at a time. */
static int reserve(struct vshard_index *x, struct vs_scratch *s, uint32_t count)
{
    struct vs_scan shape = { .cap = count == 1 ? 1 : SCAN_WIDTH_MAX }, *c;

    if (shape.cap > 1)
        shape.cap = vs_scan_width(x, 1);
    if (s->scan != NULL && s->scan->cap >= shape.cap)
        return VSHARD_OK;
    shape.bytes = lay_out(x, &shape, NULL);
    c = vs_alloc_zeroed(x->allocator, shape.bytes);
    if (c == NULL)
        return VSHARD_ENOMEM;
    lay_out(x, &shape, (unsigned char *)c);
    *c = shape;
    memset(c->zero, x->element == VSHARD_ELEMENT_U8 ? 128 : 0, x->dim);
    atomic_fetch_add(&x->scratch_bytes, c->bytes - (s->scan ? s->scan->bytes : 0));
    vs_scan_free(x, s->scan);
    s->scan = c;
    return VSHARD_OK;
}

/* ---- the calls ---- */

/* Of an index whose rows have no bytes to be scanned by: a graph. */
int vs_flat_search(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                   struct vs_top *top)
{
    int rc = reserve(x, s, 1);

    if (rc < 0)
        return rc;
    s->scan->count = 1;
    s->scan->queries[0] = (struct query){ .q = *q, .top = *top };
    rc = scan(x, s->scan, s);
    *top = s->scan->queries[0].top;
    return rc;
}

/* A query's elements as they are measured, which for float16 s->vector holds only until
 * the next one. */
static int take_query(struct vshard_index *x, struct vs_scratch *s, uint32_t i, const void *given,
                      uint32_t k)
{
    struct vs_scan *c = s->scan;
    struct query *q = &c->queries[i];
    int rc = vs_query_check(x, given, false, s, &q->q);

    if (rc < 0)
        return rc;
    q->given = given;
    q->top = (struct vs_top){ s->top + (size_t)i * k, 0, k };
    if (x->element == VSHARD_ELEMENT_F16) {
        memcpy(c->vectors + (size_t)i * x->dim, s->vector, x->dim * sizeof(float));
        q->q.elements = c->vectors + (size_t)i * x->dim;
    }
    if (way_of(x, c->count) == BYTES) {
        begin_query(x, c, i, s->vector);
        set_reach(x, q);
    }
    return VSHARD_OK;
}

int vs_flat_search_many(struct vshard_index *x, struct vs_scratch *s, const void *queries,
                        uint32_t count, uint32_t k, struct vs_top *tops)
{
    const unsigned char *given = queries;
    int rc = reserve(x, s, count);

    if (rc == VSHARD_OK)
        rc = vs_scratch_reserve(x, s, 0, count * k);
    if (rc < 0)
        return rc;
    s->scan->count = count;
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++)
        rc = take_query(x, s, i, given + i * vs_vector_bytes(x), k);
    if (rc == VSHARD_OK)
        rc = scan(x, s->scan, s);
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        tops[i] = s->scan->queries[i].top;
        vs_top_sort(&tops[i]);
    }
    return rc;
}
