/* shard_batch.c - entries as bytes, and what of them is let in.
 *
 * Method: what was encoded is read back, field by field; then every length it is cut to,
 * every byte too many and every value of every byte of the head is read, from memory that
 * ends where the bytes end, so that a checker of memory sees any step too far. */
#include <criterion/criterion.h>
#include <math.h>

#include "support/shard_data.h"

enum { ROWS = 5 };

static void *sample(size_t *bytes)
{
    return shard_entry(VS_BATCH_ADD, 1, 1, ROWS, 3, 9, 77, bytes);
}

Test(shard_batch, is_read_as_it_was_written)
{
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    const unsigned char *payload;
    struct vs_batch b;

    cr_assert_eq(vs_batch_decode(&b, 0, entry, bytes), VSHARD_OK);
    cr_expect_eq(b.kind, (uint32_t)VS_BATCH_ADD);
    cr_expect_eq(b.count, (uint32_t)ROWS);
    cr_expect_eq(b.request.lo, (uint64_t)77);
    cr_expect_eq(b.vector_bytes, (uint32_t)(4 * SHARD_DIM));
    cr_assert_eq(b.attribute_count, (uint32_t)SHARD_ATTRIBUTES);
    cr_expect_eq(b.column[2].type, (uint32_t)VSHARD_ATTRIBUTE_KEYWORD);
    cr_expect_eq(b.column[2].width, 2u);
    payload = b.payloads;
    for (uint32_t i = 0; i < ROWS; i++) {
        struct vshard_key key = { 7, i + 1 };
        uint32_t length = key.lo % 3 == 0 ? (uint32_t)(1 + key.lo % 7) : 0;
        float v[SHARD_DIM];
        char word[SHARD_WORD];
        double salt;

        shard_vector(v, key, 3);
        shard_word(word, key, 3);
        memcpy(&salt, b.column[1].values + 8 * i, sizeof salt);
        cr_expect_eq(vs_load64(b.keys + 16 * i), key.hi);
        cr_expect_eq(vs_load64(b.keys + 16 * i + 8), key.lo);
        cr_expect_eq(vs_load64(b.versions + 8 * i), (uint64_t)9);
        cr_expect_eq(vs_load64(b.column[0].values + 8 * i), key.lo % 10);
        cr_expect_eq(salt, 3.0);
        cr_expect_arr_eq(b.column[2].values + 2 * i, word, 2, "two bytes: w4 to w8");
        cr_expect_eq(vs_load32(b.lengths + 4 * i), length);
        cr_expect_arr_eq(b.vectors + i * sizeof v, v, sizeof v);
        cr_expect_arr_eq(payload, "payload", length);
        payload += length;
    }
    free(entry);
}

Test(shard_batch, is_refused_at_every_wrong_length)
{
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    struct vs_batch b;

    for (size_t n = 0; n < bytes + 9; n++) {
        unsigned char *cut = calloc(1, n + 1);

        memcpy(cut + 1, entry, n < bytes ? n : bytes);
        if (n != bytes)
            cr_expect_eq(vs_batch_decode(&b, 0, cut + 1, n), VSHARD_ECORRUPT, "%zu bytes", n);
        free(cut);
    }
    free(entry);
}

Test(shard_batch, bears_any_byte_in_its_head)
{
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    uint64_t sum = 0;
    struct vs_batch b;

    for (size_t at = 0; at < 32 + 4 * SHARD_ATTRIBUTES; at++) {
        for (unsigned value = 0; value < 256; value++) {
            unsigned char was = entry[at];
            int rc;

            entry[at] = (unsigned char)value;
            rc = vs_batch_decode(&b, 0, entry, bytes);
            cr_assert(rc == VSHARD_OK || rc == VSHARD_ECORRUPT || rc == VSHARD_EVERSION);
            if (rc == VSHARD_OK) /* all of what it says is there */
                sum += b.keys[16 * (size_t)b.count - 1] +
                       (b.vector_bytes ? b.vectors[(size_t)b.count * b.vector_bytes - 1] : 0);
            for (uint32_t a = 0; rc == VSHARD_OK && a < b.attribute_count; a++) {
                size_t bytes_of = (size_t)b.count * b.column[a].width;

                sum += bytes_of ? b.column[a].values[bytes_of - 1] : 0;
            }
            entry[at] = was;
        }
    }
    cr_expect(sum != 1);
    free(entry);
}

Test(shard_batch, of_a_later_format_is_not_guessed_at)
{
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    struct vs_batch b;

    entry[0] = VS_APPLY_FORMAT + 1;
    cr_expect_eq(vs_batch_decode(&b, 0, entry, bytes), VSHARD_EVERSION);
    free(entry);
}

Test(shard_batch, is_of_a_format_that_the_caller_knows)
{
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    struct vs_batch b;

    entry[0] = VS_APPLY_FORMAT + 1;
    cr_expect_eq(vs_batch_decode(&b, VS_APPLY_FORMAT + 1, entry, bytes), VSHARD_OK);
    cr_expect_eq(b.format, VS_APPLY_FORMAT + 1u);
    entry[0] = VS_APPLY_FORMAT_FIRST - 1;
    cr_expect_eq(vs_batch_decode(&b, 0, entry, bytes), VSHARD_EVERSION, "it was in no release");
    free(entry);
}

static int admit(uint32_t metric, uint32_t element, const void *vector)
{
    struct vs_shard_plan plan = shard_plan(NULL, NULL);
    struct vs_batch b = { .kind = VS_BATCH_ADD, .count = 1, .vectors = vector };

    plan.metric = metric;
    plan.element = element;
    plan.attribute_count = 0;
    b.vector_bytes = vs_plan_vector_bytes(&plan);
    return vs_plan_admits(&plan, &b);
}

Test(shard_batch, with_a_vector_that_an_index_refuses_is_not_let_in)
{
    const float bad[] = { NAN, INFINITY, -INFINITY, 2e15f };
    const float zero[SHARD_DIM] = { 0 }, tiny[SHARD_DIM] = { 1e-15f };
    const uint16_t half[SHARD_DIM] = { 0x7c00 }, fine[SHARD_DIM] = { 0x3c00 };
    const int8_t none[SHARD_DIM] = { 0 };

    for (size_t i = 0; i < VS_COUNT(bad); i++) {
        float v[SHARD_DIM] = { 1, 1, 1, 1, 1, 1, 1, 1 };

        cr_expect_eq(admit(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, v), VSHARD_OK);
        v[5] = bad[i];
        cr_expect_eq(admit(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, v), VSHARD_EINVAL, "%zu", i);
    }
    cr_expect_eq(admit(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, zero), VSHARD_OK);
    cr_expect_eq(admit(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, zero), VSHARD_EINVAL);
    cr_expect_eq(admit(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, tiny), VSHARD_EINVAL);
    cr_expect_eq(admit(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F16, half), VSHARD_EINVAL);
    cr_expect_eq(admit(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F16, fine), VSHARD_OK);
    cr_expect_eq(admit(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_I8, none), VSHARD_EINVAL);
    cr_expect_eq(admit(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_I8, none), VSHARD_OK);
}

static int admit_values(const struct vshard_values *values, uint32_t count)
{
    const struct vs_shard_plan plan = shard_plan(NULL, NULL);
    const struct vshard_key keys[2] = { { 0, 1 }, { 0, 2 } };
    const float vectors[2 * SHARD_DIM] = { 0 };
    const struct vs_batch_source s = { .kind = VS_BATCH_ADD,
                                       .count = 2,
                                       .vector_bytes = 4 * SHARD_DIM,
                                       .attribute_count = SHARD_ATTRIBUTES,
                                       .attributes = shard_attributes,
                                       .values = values,
                                       .value_count = count,
                                       .keys = keys,
                                       .vectors = vectors };
    size_t bytes = vs_batch_bytes(&s);
    void *entry = malloc(bytes);
    struct vs_batch b;
    int rc;

    vs_batch_encode(&s, entry);
    rc = vs_batch_decode(&b, 0, entry, bytes);
    cr_assert_eq(rc, VSHARD_OK);
    rc = vs_plan_admits(&plan, &b);
    free(entry);
    return rc;
}

Test(shard_batch, is_let_in_with_values_as_far_as_an_index_takes_them)
{
    static char words[2][200];
    int64_t digits[2] = { 5, VSHARD_MISSING };
    double salts[2] = { NAN, INFINITY };
    const struct vshard_values values[] = { { digits, 0 },
                                            { salts, 8 },
                                            { words, sizeof words[0] } };

    for (uint32_t count = 0; count <= SHARD_ATTRIBUTES; count++)
        cr_expect_eq(admit_values(values, count), VSHARD_OK, "%u", count);
    memset(words[1], 'x', VSHARD_KEYWORD_MAX);
    cr_expect_eq(admit_values(values, SHARD_ATTRIBUTES), VSHARD_OK);
    words[1][VSHARD_KEYWORD_MAX] = 'x';
    cr_expect_eq(admit_values(values, SHARD_ATTRIBUTES), VSHARD_EINVAL);
}

Test(shard_batch, of_other_attributes_is_not_let_in)
{
    struct vs_shard_plan plan = shard_plan(NULL, NULL);
    size_t bytes;
    unsigned char *entry = sample(&bytes);
    struct vs_batch b;

    cr_assert_eq(vs_batch_decode(&b, 0, entry, bytes), VSHARD_OK);
    cr_expect_eq(vs_plan_admits(&plan, &b), VSHARD_OK);
    b.column[0].width = 4;
    cr_expect_eq(vs_plan_admits(&plan, &b), VSHARD_EINVAL);
    b.column[0].width = 8;
    plan.attributes[0].type = VSHARD_ATTRIBUTE_DOUBLE;
    cr_expect_eq(vs_plan_admits(&plan, &b), VSHARD_EINVAL);
    plan.attributes[0].type = VSHARD_ATTRIBUTE_INT64;
    plan.attribute_count = 2;
    cr_expect_eq(vs_plan_admits(&plan, &b), VSHARD_EINVAL);
    free(entry);
}
