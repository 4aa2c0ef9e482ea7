/* index_data.h - what the tests of lib/index share: vectors of any element, a logger
 * that remembers, and short ways to say add, search and digest. Include it after
 * <criterion/criterion.h>. */
#ifndef SUPPORT_INDEX_DATA_H
#define SUPPORT_INDEX_DATA_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/random.h"
#include <vshard/index.h>

enum { METRICS = 5, NUMBER_METRICS = 4, ELEMENTS = 5 };

static const char *const metric_names[METRICS] = { "l2sq", "ip", "cosine", "l1", "hamming" };
static const char *const element_names[ELEMENTS] = { "f32", "u8", "i8", "f16", "bits" };

/* The first NUMBER_METRICS are for numbers, the last is for bits alone. */
static inline bool combine(uint32_t metric, uint32_t element)
{
    return (metric == VSHARD_METRIC_HAMMING) == (element == VSHARD_ELEMENT_BITS);
}

/* ---- a logger that remembers the last event ---- */

struct seen {
    uint32_t count;  /* of all events */
    uint32_t errors; /* of level ERROR or WARN */
    char name[64];
    char fields[512]; /* "name=value name=value " */
};

static inline void seen_event(void *ctx, uint32_t level, const char *name,
                              const struct vshard_log_field *fields, size_t field_count)
{
    struct seen *s = ctx;
    size_t at = 0;

    s->count++;
    s->errors += level <= VSHARD_LOG_WARN;
    snprintf(s->name, sizeof s->name, "%s", name);
    s->fields[0] = 0;
    for (size_t i = 0; i < field_count && at < sizeof s->fields; i++) {
        if (fields[i].kind == VSHARD_FIELD_TEXT)
            at += (size_t)snprintf(s->fields + at, sizeof s->fields - at, "%s=%s ", fields[i].name,
                                   fields[i].text);
        else if (fields[i].kind == VSHARD_FIELD_REAL)
            at += (size_t)snprintf(s->fields + at, sizeof s->fields - at, "%s=%g ", fields[i].name,
                                   fields[i].real);
        else
            at += (size_t)snprintf(s->fields + at, sizeof s->fields - at, "%s=%lld ",
                                   fields[i].name, (long long)fields[i].integer);
    }
}

static inline struct vshard_logger seen_logger(struct seen *s)
{
    memset(s, 0, sizeof *s);
    return (struct vshard_logger){ seen_event, s };
}

/* ---- vectors ---- */

/* Of bits, a test's dimensions are bytes of eight. */
static inline size_t element_bytes(uint32_t element)
{
    return element == VSHARD_ELEMENT_F32 ? 4 : element == VSHARD_ELEMENT_F16 ? 2 : 1;
}

/* n / 1024 as float16, n in -1024..1024, which is exact. */
static inline uint16_t half_of(int n)
{
    uint32_t sign = n < 0 ? 0x8000 : 0, fraction = (uint32_t)(n < 0 ? -n : n), exponent = 15;

    if (fraction == 0)
        return (uint16_t)sign;
    for (; fraction < 1024; fraction *= 2)
        exponent--;
    return (uint16_t)(sign | exponent << 10 | (fraction & 1023));
}

static inline double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);

    return half & 0x8000 ? -v : v;
}

/* Fills in `count` elements: floats in [-1, 1), bytes of any value. */
static inline void draw_elements(uint64_t *seed, uint32_t element, void *out, size_t count)
{
    if (element != VSHARD_ELEMENT_F32 && element != VSHARD_ELEMENT_F16) {
        random_bytes(seed, out, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        float v = random_float(seed);
        uint16_t half = half_of((int)(v * 1024));

        if (element == VSHARD_ELEMENT_F16) {
            memcpy((char *)out + 2 * i, &half, sizeof half);
            continue;
        }

        memcpy((char *)out + 4 * i, &v, sizeof v);
    }
}

/* Draws count vectors; the caller frees them. */
static inline void *draw_vectors(uint64_t *seed, uint32_t element, size_t count, size_t dim)
{
    void *out = malloc(count * dim * element_bytes(element) + 1);

    draw_elements(seed, element, out, count * dim);
    return out;
}

/* One element as a number. */
static inline double element_at(uint32_t element, const void *vector, size_t i)
{
    uint16_t half;
    float v;

    if (element == VSHARD_ELEMENT_F16) {
        memcpy(&half, (const char *)vector + 2 * i, sizeof half);
        return half_value(half);
    }
    if (element == VSHARD_ELEMENT_U8 || element == VSHARD_ELEMENT_BITS)
        return ((const uint8_t *)vector)[i];
    if (element == VSHARD_ELEMENT_I8)
        return ((const int8_t *)vector)[i];
    memcpy(&v, (const char *)vector + 4 * i, sizeof v);
    return (double)v;
}

/* The ids first, first + 1, ... ; the caller frees them. */
static inline uint64_t *number_ids(uint64_t first, size_t count)
{
    uint64_t *ids = malloc(count * sizeof *ids + 1);

    for (size_t i = 0; i < count; i++)
        ids[i] = first + i;
    return ids;
}

/* ---- an index in few words; each failure ends the test ---- */

/* A small graph that still is one. */
static inline struct vshard_index_options small_options(uint32_t dim, uint32_t metric,
                                                        uint32_t element)
{
    return (struct vshard_index_options){ .size = sizeof(struct vshard_index_options),
                                          .dim = element == VSHARD_ELEMENT_BITS ? 8 * dim : dim,
                                          .metric = metric,
                                          .element = element,
                                          .m = 6,
                                          .ef_construction = 40,
                                          .ef_search = 40,
                                          .train_rows = 256,
                                          .seed = 7 };
}

static inline struct vshard_index *make_index(const struct vshard_index_options *o)
{
    struct vshard_index *x = NULL;
    int rc = vshard_index_create(o, &x);

    cr_assert_eq(rc, 0, "create: %s", vshard_strerror(rc));
    return x;
}

static inline uint64_t digest_of(struct vshard_index *x)
{
    uint64_t digest = 0;
    int rc = vshard_index_digest(x, &digest);

    cr_assert_eq(rc, 0, "digest: %s", vshard_strerror(rc));
    return digest;
}

static inline void add_rows(struct vshard_index *x, const uint64_t *ids, const void *vectors,
                            size_t count)
{
    int rc = vshard_index_add(x, ids, vectors, count);

    cr_assert_eq(rc, 0, "add of %zu rows: %s", count, vshard_strerror(rc));
}

static inline void remove_rows(struct vshard_index *x, const uint64_t *ids, size_t count)
{
    size_t removed = 0;
    int rc = vshard_index_remove(x, ids, count, &removed);

    cr_assert_eq(rc, 0, "remove of %zu rows: %s", count, vshard_strerror(rc));
}

/* Searches with a beam of `ef` (0: the default) and these flags. */
static inline void search_rows(struct vshard_index *x, const void *queries, size_t count, size_t k,
                               uint32_t ef, uint32_t flags, struct vshard_hit *hits)
{
    struct vshard_search_options o = { .size = sizeof o, .ef_search = ef, .flags = flags };
    int rc = vshard_index_search(x, queries, count, k, hits, &o);

    cr_assert_eq(rc, 0, "search, k %zu, ef %u: %s", k, ef, vshard_strerror(rc));
}

/* An index whose edges and ids are as they must be. */
static inline void expect_clean(struct vshard_index *x, const char *when)
{
    struct vshard_index_check c = { .size = sizeof c };
    int rc = vshard_index_check(x, &c);

    cr_assert_eq(rc, 0, "%s: check says %s, %llu bad edges of %llu, %llu bad ids", when,
                 vshard_strerror(rc), (unsigned long long)c.bad_edges, (unsigned long long)c.edges,
                 (unsigned long long)c.bad_ids);
    cr_assert_eq(c.rows, vshard_index_count(x), "%s: check saw %llu rows of %llu", when,
                 (unsigned long long)c.rows, (unsigned long long)vshard_index_count(x));
}

#endif
