/* shard_data.h - what the tests of lib/shard share: a plan, batches, and applying them.
 * Include it after <criterion/criterion.h>. */
#ifndef SUPPORT_SHARD_DATA_H
#define SUPPORT_SHARD_DATA_H

#include <stdio.h>
#include <stdlib.h>

#include "shard/shard.h"
#include "support/random.h"

enum { SHARD_DIM = 8, SHARD_ATTRIBUTES = 3, SHARD_WORD = 12 };

static const struct vshard_attribute shard_attributes[SHARD_ATTRIBUTES] = {
    { VSHARD_ATTRIBUTE_INT64, "digit" },
    { VSHARD_ATTRIBUTE_DOUBLE, "salt" },
    { VSHARD_ATTRIBUTE_KEYWORD, "word" },
};

static inline struct vs_shard_plan shard_plan(const struct vshard_allocator *memory,
                                              const struct vshard_storage *storage)
{
    struct vs_shard_plan plan = { .dim = SHARD_DIM,
                                  .family = VSHARD_FAMILY_FLAT,
                                  .metric = VSHARD_METRIC_L2SQ,
                                  .attribute_count = SHARD_ATTRIBUTES,
                                  .seed = 1,
                                  .allocator = memory,
                                  .storage = storage };

    memcpy(plan.attributes, shard_attributes, sizeof shard_attributes);
    return plan;
}

/* Rows whose salt is a multiple of 4 have none. */
static inline void shard_word(char word[SHARD_WORD], struct vshard_key key, uint64_t salt)
{
    memset(word, 0, SHARD_WORD);
    if (salt % 4 != 0)
        snprintf(word, SHARD_WORD, "w%d", (int)((key.lo + salt) % 2000));
}

/* The vector of a key in a version is a function of both. */
static inline void shard_vector(float *v, struct vshard_key key, uint64_t salt)
{
    uint64_t state = key.lo * 1000003 + salt;

    for (int i = 0; i < SHARD_DIM; i++)
        v[i] = random_float(&state);
}

/* An entry: rows of keys first, first + step, ... Values are (lo % 10, salt, word), and every
 * third key has a payload. The caller frees it. */
static inline void *shard_entry(uint32_t kind, uint64_t first, uint64_t step, uint32_t count,
                                uint64_t salt, uint64_t version, uint64_t request, size_t *bytes)
{
    struct vshard_key *keys = calloc(count, sizeof *keys);
    uint64_t *versions = calloc(count, sizeof *versions);
    int64_t *digits = calloc(count, sizeof *digits);
    double *salts = calloc(count, sizeof *salts);
    char(*words)[SHARD_WORD] = calloc(count, sizeof *words);
    const void **payloads = calloc(count, sizeof *payloads);
    uint32_t *lengths = calloc(count, sizeof *lengths);
    float *vectors = calloc((size_t)count * SHARD_DIM, sizeof *vectors);
    const struct vshard_values values[SHARD_ATTRIBUTES] = { { digits, 0 },
                                                            { salts, 8 },
                                                            { words, SHARD_WORD } };
    struct vs_batch_source s = { .kind = kind,
                                 .count = count,
                                 .vector_bytes = 4 * SHARD_DIM,
                                 .attribute_count = SHARD_ATTRIBUTES,
                                 .request = { 0, request },
                                 .keys = keys,
                                 .versions = version ? versions : NULL,
                                 .attributes = shard_attributes,
                                 .values = values,
                                 .value_count = SHARD_ATTRIBUTES,
                                 .payloads = payloads,
                                 .payload_bytes = lengths,
                                 .vectors = vectors };
    void *entry;

    for (uint32_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 7, first + step * i };
        versions[i] = version;
        digits[i] = (int64_t)(keys[i].lo % 10);
        salts[i] = (double)salt;
        shard_word(words[i], keys[i], salt);
        if (keys[i].lo % 3 == 0) {
            payloads[i] = "payload";
            lengths[i] = (uint32_t)(1 + keys[i].lo % 7);
        }
        shard_vector(vectors + (size_t)i * SHARD_DIM, keys[i], salt);
    }
    *bytes = vs_batch_bytes(&s);
    entry = malloc(*bytes);
    vs_batch_encode(&s, entry);
    free(keys);
    free(versions);
    free(digits);
    free(salts);
    free(words);
    free(payloads);
    free(lengths);
    free(vectors);
    return entry;
}

/* Applies an entry whole; returns the first status that is not 0. */
static inline int shard_apply(struct vs_shard *s, uint64_t index, const void *entry, size_t bytes)
{
    uint32_t row = 0;
    struct vs_batch b;
    int rc = vs_batch_decode(&b, 0, entry, bytes);

    while (rc == VSHARD_OK && row < b.count)
        rc = vs_shard_apply(s, index, entry, bytes, &row);
    return rc;
}

static inline int shard_do(struct vs_shard *s, uint64_t index, uint32_t kind, uint64_t first,
                           uint32_t count, uint64_t salt, uint64_t version, uint64_t request)
{
    size_t bytes;
    void *entry = shard_entry(kind, first, 1, count, salt, version, request, &bytes);
    int rc = shard_apply(s, index, entry, bytes);

    free(entry);
    return rc;
}

#endif
