/* shard_truth.h - what a shard of shard_data.h should say: an array indexed by key, which is
 * trivially right. Include it after <criterion/criterion.h>. */
#ifndef SUPPORT_SHARD_TRUTH_H
#define SUPPORT_SHARD_TRUTH_H

#include <math.h>

#include "support/shard_data.h"

enum { TRUTH_KEYS = 400, TRUTH_K = 10 };

struct truth {
    struct {
        uint64_t version, salt;
        int live;
    } key[TRUTH_KEYS];
};

/* Every row as it is fetched; returns how many there are. */
static inline uint64_t truth_rows(const struct truth *t, struct vs_shard *s, uint64_t seed)
{
    uint64_t rows = 0;

    for (uint64_t k = 0; k < TRUTH_KEYS; k++) {
        float v[SHARD_DIM], wanted[SHARD_DIM];
        int64_t digit;
        double salt;
        char word[SHARD_WORD], text[SHARD_WORD];
        const struct vshard_values values[] = { { &digit, 0 }, { &salt, 0 }, { word, SHARD_WORD } };
        struct vs_shard_row row = { .vector = v, .values = values };
        int rc = vs_shard_fetch(vs_shard_hold(s, (struct vshard_key){ 7, k }),
                                (struct vshard_key){ 7, k }, &row);

        cr_assert_eq(rc, t->key[k].live ? VSHARD_OK : VSHARD_ENOTFOUND, "seed %d, key %d",
                     (int)seed, (int)k);
        if (!t->key[k].live) {
            vs_shard_release(s);
            continue;
        }
        rows++;
        shard_vector(wanted, (struct vshard_key){ 7, k }, t->key[k].salt);
        cr_assert_arr_eq(v, wanted, sizeof v);
        cr_assert_eq(row.version, t->key[k].version);
        cr_assert_eq(digit, (int64_t)(k % 10), "seed %d", (int)seed);
        cr_assert_eq((uint64_t)salt, t->key[k].salt, "seed %d", (int)seed);
        shard_word(text, (struct vshard_key){ 7, k }, t->key[k].salt);
        cr_assert_str_eq(word, text, "seed %d", (int)seed);
        cr_assert_eq(row.payload_bytes, (uint32_t)(k % 3 == 0 ? 1 + k % 7 : 0));
        if (row.payload_bytes != 0)
            cr_assert_arr_eq(row.payload, "payload", row.payload_bytes);
        vs_shard_release(s);
    }
    return rows;
}

/* The nearest of the rows whose digit is in [low, high], by a scan. Returns what the search
 * does. */
static inline int truth_compare(const struct truth *t, struct vs_shard *s, const float *query,
                                int64_t low, int64_t high, uint64_t seed)
{
    const int64_t between[] = { low, high };
    const struct vshard_condition condition = {
        VSHARD_WHERE_RANGE, 0, VSHARD_ATTRIBUTE_INT64, 2, 0, 0, between
    };
    unsigned char where[64];
    struct vs_shard_query q = { .vector = query, .k = TRUTH_K, .exact = 1, .bound = INFINITY, .where = where };
    struct vshard_merge_hit hit[TRUTH_K];
    struct vs_shard_answer a;
    float before = -1;
    uint64_t nearer = 0, rows = 0;
    int rc;

    cr_assert_eq(vshard_where_encode(&condition, 1, where, sizeof where, &q.where_bytes),
                 VSHARD_OK);
    rc = vs_shard_search(s, &q, hit, &a);
    if (rc != VSHARD_OK)
        return rc;
    for (uint32_t i = 0; i < a.found; i++) {
        uint64_t k = hit[i].key.lo;

        cr_assert(k < TRUTH_KEYS && t->key[k].live && (int64_t)(k % 10) >= low &&
                  (int64_t)(k % 10) <= high);
        cr_assert_eq(hit[i].version, t->key[k].version);
        cr_assert_geq(hit[i].distance, before);
        before = hit[i].distance;
    }
    for (uint64_t k = 0; k < TRUTH_KEYS; k++) {
        float v[SHARD_DIM], d = 0;

        rows += t->key[k].live != 0;
        if (!t->key[k].live || (int64_t)(k % 10) < low || (int64_t)(k % 10) > high)
            continue;
        shard_vector(v, (struct vshard_key){ 7, k }, t->key[k].salt);
        for (int i = 0; i < SHARD_DIM; i++)
            d += (v[i] - query[i]) * (v[i] - query[i]);
        nearer += a.found < TRUTH_K || d < before * 0.99999f;
    }
    cr_assert_leq(nearer, (uint64_t)a.found, "seed %d", (int)seed);
    cr_assert_eq(a.rows, rows, "seed %d", (int)seed);
    return VSHARD_OK;
}

static inline void truth_apply(struct truth *t, uint32_t kind, uint64_t first, uint32_t count,
                        uint64_t salt, uint64_t version, uint64_t index)
{
    for (uint64_t k = first; k < first + count; k++) {
        uint64_t v = version ? version : index;

        if (t->key[k].version > v)
            continue;
        if (kind == VS_BATCH_REMOVE && version == 0)
            v = 0; /* no tombstone: nothing is remembered */
        t->key[k].version = v;
        t->key[k].salt = salt;
        t->key[k].live = kind == VS_BATCH_ADD;
    }
}

#endif
