/* route_document.c - the bytes of a map are canonical, and bad bytes are refused.
 *
 * Method: round trips of maps drawn from fixed seeds. Every byte of a document is
 * changed in every bit, and every length cut: as it is, so that the checksum must
 * notice; and with the lengths and the checksum made good again, so that the checks
 * behind it must. Whatever is taken must encode to the same bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/base.h"
#include "support/random.h"
#include <vshard/map.h>

enum { CAP = 65536 };

/* A document of a map of `shards` shards; returns its bytes. */
static size_t document(unsigned char *bytes, uint32_t arcs, uint32_t shards, uint64_t seed)
{
    struct vshard_map_options o = { .size = sizeof o, .arcs = arcs };
    struct vshard_map *map;
    size_t count;

    cr_assert_eq(vshard_map_create(&o, &map), VSHARD_OK);
    for (uint32_t i = 0; i < shards; i++)
        vshard_map_add(map, (uint32_t)random_next(&seed), (uint32_t)(random_next(&seed) % 9));
    cr_assert_eq(vshard_map_encode(map, bytes, CAP, &count), VSHARD_OK);
    vshard_map_destroy(map);
    return count;
}

/* Makes length and checksum good again. */
static void seal(unsigned char *bytes, size_t count)
{
    if (count < 40)
        return;
    vs_store32(bytes + 8, (uint32_t)count);
    vs_store64(bytes + count - 8, vs_checksum(bytes, count - 8, 0));
}

/* Decodes; what is taken must encode to the same bytes. */
static int decode(const unsigned char *bytes, size_t count, const char *what, size_t at)
{
    static unsigned char again[CAP];
    unsigned char *exact = malloc(count ? count : 1); /* so that ASan sees a byte too far */
    struct vshard_map *map;
    size_t again_count;
    int rc;

    memcpy(exact, bytes, count);
    rc = vshard_map_decode(exact, count, NULL, &map);
    free(exact);
    cr_assert_eq(rc != VSHARD_OK, map == NULL);
    if (rc == VSHARD_OK) {
        cr_assert_eq(vshard_map_encode(map, again, CAP, &again_count), VSHARD_OK);
        cr_assert(again_count == count && memcmp(bytes, again, count) == 0,
                  "%s %zu: taken, but encodes otherwise", what, at);
        vshard_map_destroy(map);
    }
    return rc;
}

Test(route_document, of_any_map_comes_back_the_same)
{
    static unsigned char bytes[CAP];

    for (uint64_t seed = 0; seed < 500; seed++) {
        size_t count = document(bytes, 1u << seed % 13, (uint32_t)(seed % 40), seed);

        cr_assert_eq(decode(bytes, count, "seed", seed), VSHARD_OK, "seed %zu", (size_t)seed);
    }
}

/* The bytes of a small map, written out: the format is a promise. */
Test(route_document, has_the_bytes_that_the_manual_draws)
{
    static const unsigned char want[] = {
        'V', 'S', 'M', 'A', 'P', 0, 0, 1, 112,  0,    0, 0, 2, 0, 0, 0, /* 112 bytes, 2 sections */
        2,   0,   0,   0,   0,   0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, /* version 2 */
        1,   0,   0,   0,   64,  0, 0, 0, 16,   0,    0, 0, 0, 0, 0, 0, /* shards at 64 */
        2,   0,   0,   0,   80,  0, 0, 0, 24,   0,    0, 0, 0, 0, 0, 0, /* ring at 80 */
        7,   0,   0,   0,   3,   0, 0, 0, 0x39, 0x30, 0, 0, 1, 0, 0, 0, /* 7 weighs 3, 12345 1 */
        4,   0,   0,   0,   2,   0, 0, 0,                               /* 4 arcs, 2 runs */
        1,   0,   0,   0,   1,   0, 0, 0, 3,    0,    0, 0, 0, 0, 0, 0, /* 1 to row 1, 3 to row 0 */
    };
    struct vshard_map_options o = { .size = sizeof o, .arcs = 4 };
    unsigned char bytes[200];
    struct vshard_map *map;
    size_t count;

    cr_assert_eq(vshard_map_create(&o, &map), VSHARD_OK);
    cr_assert_eq(vshard_map_add(map, 7, 3), VSHARD_OK);
    cr_assert_eq(vshard_map_add(map, 12345, 1), VSHARD_OK);
    cr_assert_eq(vshard_map_encode(map, bytes, 111, &count), VSHARD_E2BIG);
    cr_assert_eq(count, 112);
    cr_assert_eq(vshard_map_encode(map, bytes, 112, &count), VSHARD_OK);
    cr_assert_eq(sizeof want, 104);
    cr_expect(memcmp(bytes, want, sizeof want) == 0);
    cr_expect_eq(vs_load64(bytes + 104), vs_checksum(want, 104, 0));
    vshard_map_destroy(map);
}

Test(route_document, is_refused_when_any_bit_is_flipped)
{
    static unsigned char bytes[CAP];
    size_t count = document(bytes, 256, 12, 3), refused = 0;

    for (size_t bit = 0; bit < 8 * count; bit++) {
        int rc;

        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        rc = decode(bytes, count, "bit", bit);
        cr_expect_eq(rc, VSHARD_ECORRUPT, "bit %zu of byte %zu: %s", bit % 8, bit / 8,
                     vshard_strerror(rc));
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        refused += rc != VSHARD_OK;
    }
    cr_expect_eq(refused, 8 * count);
}

Test(route_document, is_refused_at_every_other_length)
{
    static unsigned char bytes[CAP + 64];
    size_t count = document(bytes, 256, 12, 3);

    for (size_t cut = 0; cut < count + 64; cut++) {
        if (cut != count)
            cr_expect_eq(decode(bytes, cut, "length", cut), VSHARD_ECORRUPT, "length %zu", cut);
    }
}

/* A forger can make the checksum good; then the rest must hold. */
Test(route_document, forged_byte_by_byte_is_refused_or_canonical)
{
    static unsigned char bytes[CAP], forged[CAP + 64];
    size_t taken = 0;

    for (uint64_t seed = 0; seed < 4; seed++) {
        size_t count = document(bytes, 64, (uint32_t)seed * 3, seed);

        for (size_t at = 0; at < count - 8; at++) {
            for (unsigned x = 1; x < 256; x++) {
                memcpy(forged, bytes, count);
                forged[at] ^= (unsigned char)x;
                if (at < 8 || at >= 12)
                    seal(forged, count);
                taken += decode(forged, count, "forged byte", at) == VSHARD_OK;
            }
        }
        for (size_t cut = 0; cut < count + 64; cut++) {
            memcpy(forged, bytes, count);
            memset(forged + count, 0, 64);
            seal(forged, cut);
            if (cut != count)
                cr_expect_eq(decode(forged, cut, "forged length", cut), VSHARD_ECORRUPT);
        }
    }
    cr_expect_gt(taken, 1000, "nothing was taken: the checks behind the checksum were not met");
}

Test(route_document, forged_at_random_is_refused_or_canonical)
{
    static unsigned char bytes[CAP], forged[CAP];
    static const uint32_t tempting[] = { 0,  1,          2,          7,          8,         16,
                                         64, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff8 };
    uint64_t seed = 9;

    for (uint32_t round = 0; round < 200000; round++) {
        size_t count = document(bytes, 16, 4, round % 16);

        memcpy(forged, bytes, count);
        for (uint64_t n = 1 + random_next(&seed) % 3; n > 0; n--) {
            size_t at = random_next(&seed) % (count / 4 - 2) * 4;

            vs_store32(forged + at,
                       random_next(&seed) % 2
                           ? tempting[random_next(&seed) % VS_COUNT(tempting)]
                           : vs_load32(bytes + random_next(&seed) % (count / 4 - 2) * 4));
        }
        seal(forged, count);
        decode(forged, count, "seed 9, round", round);
    }
}

Test(route_document, of_a_newer_library_is_told_from_a_damaged_one)
{
    static unsigned char bytes[CAP], newer[CAP];
    size_t count = document(bytes, 16, 4, 1), tail = count - 8 - 64;

    memcpy(newer, bytes, count);
    newer[7] = 2;
    seal(newer, count);
    cr_expect_eq(decode(newer, count, "format", 2), VSHARD_EVERSION);
    newer[7] = 0;
    seal(newer, count);
    cr_expect_eq(decode(newer, count, "format", 0), VSHARD_ECORRUPT);

    /* A third section of kind 3, 24 bytes long, with its row in the table. */
    memcpy(newer, bytes, 64);
    memset(newer + 64, 0, 16 + tail + 24);
    memcpy(newer + 80, bytes + 64, tail);
    vs_store32(newer + 12, 3);
    vs_store32(newer + 36, 80);
    vs_store32(newer + 52, vs_load32(bytes + 52) + 16);
    vs_store32(newer + 64, 3);
    vs_store32(newer + 68, (uint32_t)(80 + tail));
    vs_store32(newer + 72, 24);
    seal(newer, 80 + tail + 24 + 8);
    cr_expect_eq(decode(newer, 80 + tail + 24 + 8, "section", 3), VSHARD_EVERSION);
}

Test(route_document, gives_no_arcs_to_a_drained_shard)
{
    static unsigned char bytes[CAP];
    size_t count = document(bytes, 16, 1, 1);

    cr_assert_neq(vs_load32(bytes + 68), 0);
    vs_store32(bytes + 68, 0);
    seal(bytes, count);
    cr_expect_eq(decode(bytes, count, "the only weight", 0), VSHARD_ECORRUPT);

    count = document(bytes, 16, 6, 3);
    for (size_t i = 0; i < 6; i++) {
        uint32_t weight = vs_load32(bytes + 68 + 8 * i);

        if (weight == 0)
            continue;
        vs_store32(bytes + 68 + 8 * i, 0);
        seal(bytes, count);
        cr_expect_eq(decode(bytes, count, "weight", i), VSHARD_ECORRUPT);
        vs_store32(bytes + 68 + 8 * i, weight);
    }
}

Test(route_document, must_have_the_arcs_that_were_asked_for)
{
    static unsigned char bytes[CAP];
    struct vshard_map_options o = { .size = sizeof o, .arcs = 32 };
    struct vshard_map *map;
    size_t count = document(bytes, 16, 4, 1);

    cr_expect_eq(vshard_map_decode(bytes, count, &o, &map), VSHARD_EINVAL);
    cr_expect_null(map);
    o.arcs = 16;
    cr_expect_eq(vshard_map_decode(bytes, count, &o, &map), VSHARD_OK);
    vshard_map_destroy(map);
    cr_expect_eq(vshard_map_decode(NULL, count, NULL, &map), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_decode(bytes, count, NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_decode(bytes, SIZE_MAX, NULL, &map), VSHARD_E2BIG);
}

/* The largest version can be decoded, and then the map cannot change any more. */
Test(route_document, of_the_last_version_takes_no_change)
{
    static unsigned char bytes[CAP];
    struct vshard_map *map;
    size_t count = document(bytes, 16, 4, 1);

    memset(bytes + 16, 0xff, 8);
    seal(bytes, count);
    cr_assert_eq(vshard_map_decode(bytes, count, NULL, &map), VSHARD_OK);
    cr_expect_eq(vshard_map_version(map), UINT64_MAX);
    cr_expect_eq(vshard_map_add(map, 5, 1), VSHARD_E2BIG);
    vshard_map_destroy(map);
}
