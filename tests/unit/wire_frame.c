/* wire_frame.c - frames go through whole or not at all.
 *
 * Method: one frame of each shape (in the open, packed, sealed, packed and sealed,
 * empty) is encoded, and every bit of it is flipped and every length of it is cut;
 * not one of those may be accepted, and each is counted once. Then hostile frames:
 * headers with every field set to what breaks decoders, their checksums made right.
 * Builds without LZ4 or libsodium test what they have. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "wire/wire.h"

enum { ROOM = 1 << 17 };

static const struct vs_frame_codec receiver = { .cluster = { 11, 22 }, .self = 5 };
static const uint8_t nonce[VS_SEAL_NONCE] = { 1, 2, 3 };
static unsigned char sent[ROOM], scratch[ROOM], payload[60000];

struct shape {
    const char *name;
    uint32_t bytes;
    uint32_t sealed;
    uint32_t packed;
};

static const struct shape shapes[] = {
    { "empty", 0, 0, 0 },    { "open", 200, 0, 0 },       { "packed", 3000, 0, 1 },
    { "sealed", 200, 1, 0 }, { "sealed empty", 0, 1, 0 }, { "packed and sealed", 3000, 1, 1 }
};

static struct vs_frame_codec codec_of(uint32_t sealed)
{
    struct vs_frame_codec c = receiver;

    if (sealed) {
        c.keys[0].id = 9;
        memset(c.keys[0].key, 42, VS_SEAL_KEY);
    }
    return c;
}

static struct vs_frame frame_of(uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        payload[i] = (unsigned char)(i % 7 * 3);
    return (struct vs_frame){ .group = 3,
                              .sender = 4,
                              .receiver = 5,
                              .incarnation = 6,
                              .payload = payload,
                              .payload_bytes = bytes,
                              .type = 77 };
}

static size_t encode(const struct vs_frame_codec *c, uint32_t bytes)
{
    struct vs_frame f = frame_of(bytes);
    size_t n = 0;

    cr_assert_eq(vs_frame_encode(c, &f, nonce, sent, sizeof sent, &n), VSHARD_OK);
    return n;
}

static int decode(const struct vs_frame_codec *c, const void *bytes, size_t n, struct vs_frame *f,
                  struct vs_frame_counts *counts)
{
    const struct vs_frame_work work = { scratch, sizeof scratch, counts };

    return vs_frame_decode(c, bytes, n, &work, f);
}

static int runs(const struct shape *s)
{
    return !s->sealed || vs_seal_init() == VSHARD_OK;
}

Test(wire_frame, carries_every_shape)
{
    for (size_t i = 0; i < VS_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        const struct vs_frame_codec c = codec_of(s->sealed);
        struct vs_frame f;
        size_t n;

        if (!runs(s))
            continue;
        n = encode(&c, s->bytes);
        cr_assert_eq(decode(&c, sent, n, &f, NULL), VSHARD_OK, "%s", s->name);
        cr_expect_eq(f.group, 3);
        cr_expect_eq(f.sender, 4);
        cr_expect_eq(f.receiver, 5);
        cr_expect_eq(f.incarnation, 6);
        cr_expect_eq(f.type, 77);
        cr_expect_eq(f.version, 1);
        cr_assert_eq(f.payload_bytes, s->bytes);
        cr_expect(s->bytes == 0 || memcmp(f.payload, payload, s->bytes) == 0, "%s", s->name);
        if (s->packed && vs_pack_available())
            cr_expect_lt(n, s->bytes, "%s: %zu bytes", s->name, n);
        cr_expect_leq(vs_frame_scratch(&c, sent, n), 2u * s->bytes);
    }
}

Test(wire_frame, refuses_every_flipped_bit)
{
    for (size_t i = 0; i < VS_COUNT(shapes); i++) {
        const struct vs_frame_codec c = codec_of(shapes[i].sealed);
        struct vs_frame_counts counts = { { 0 } };
        uint64_t refused = 0;
        size_t n;

        if (!runs(&shapes[i]))
            continue;
        n = encode(&c, shapes[i].bytes);
        for (size_t bit = 0; bit < n * 8; bit++) {
            struct vs_frame f;

            sent[bit / 8] ^= (unsigned char)(1 << bit % 8);
            cr_assert_lt(decode(&c, sent, n, &f, &counts), 0, "%s bit %zu", shapes[i].name, bit);
            sent[bit / 8] ^= (unsigned char)(1 << bit % 8);
        }
        for (size_t r = 1; r < VS_FRAME_REASONS; r++)
            refused += counts.count[r];
        cr_expect_eq(refused, n * 8);
        cr_expect_eq(counts.count[VS_FRAME_ACCEPTED], 0);
    }
}

Test(wire_frame, refuses_every_other_length)
{
    for (size_t i = 0; i < VS_COUNT(shapes); i++) {
        const struct vs_frame_codec c = codec_of(shapes[i].sealed);
        struct vs_frame f;
        size_t n;

        if (!runs(&shapes[i]))
            continue;
        n = encode(&c, shapes[i].bytes);
        for (size_t cut = 0; cut < n; cut++) {
            /* In a block of its own, so that a sanitizer sees a byte too many. */
            unsigned char *exact = malloc(cut + 1);

            memcpy(exact, sent, cut);
            cr_assert_lt(decode(&c, exact, cut, &f, NULL), 0, "%s cut to %zu", shapes[i].name, cut);
            free(exact);
        }
        cr_expect_lt(decode(&c, sent, n + 1, &f, NULL), 0, "%s", shapes[i].name);
    }
}

/* Rewrites one field of a good frame, and its checksum with it: what a forger does
 * who has no key. */
static int forged(const struct vs_frame_codec *c, size_t n, size_t at, uint64_t value, size_t bytes,
                  struct vs_frame_counts *counts)
{
    unsigned char copy[VS_FRAME_HEADER + 4000];
    struct vs_frame f;

    memcpy(copy, sent, n);
    for (size_t i = 0; i < bytes; i++)
        copy[at + i] = (unsigned char)(value >> 8 * i);
    vs_store64(copy + 104,
               vs_checksum(copy + VS_FRAME_HEADER, n - VS_FRAME_HEADER, vs_checksum(copy, 104, 0)));
    return decode(c, copy, n, &f, counts);
}

static void expect_reason(struct vs_frame_counts *counts, enum vs_frame_reason reason,
                          const char *what)
{
    cr_expect_eq(counts->count[reason], 1, "%s", what);
    memset(counts, 0, sizeof *counts);
}

Test(wire_frame, names_why_a_frame_was_refused)
{
    struct vs_frame_counts counts = { { 0 } };
    const struct vs_frame_codec c = receiver;
    struct vs_frame f;
    size_t n = encode(&c, 200);

    cr_expect_eq(decode(&c, sent, 10, &f, &counts), VSHARD_ECORRUPT);
    expect_reason(&counts, VS_FRAME_SHORT, "short");
    cr_expect_eq(forged(&c, n, 0, 'X', 1, &counts), VSHARD_ECORRUPT);
    expect_reason(&counts, VS_FRAME_MAGIC, "magic");
    cr_expect_eq(forged(&c, n, 4, 2, 1, &counts), VSHARD_EVERSION);
    expect_reason(&counts, VS_FRAME_UNVERSIONED, "a newer version");
    cr_expect_eq(forged(&c, n, 4, 0, 1, &counts), VSHARD_EVERSION);
    expect_reason(&counts, VS_FRAME_UNVERSIONED, "version 0");
    cr_expect_eq(forged(&c, n, 5, 4, 1, &counts), VSHARD_EVERSION);
    expect_reason(&counts, VS_FRAME_BITS, "an unknown flag");
    cr_expect_eq(forged(&c, n, 96, 1, 8, &counts), VSHARD_EVERSION);
    expect_reason(&counts, VS_FRAME_BITS, "reserved bytes");
    cr_expect_eq(forged(&c, n, 8, 99, 8, &counts), VSHARD_ENOTFOUND);
    expect_reason(&counts, VS_FRAME_CLUSTER, "cluster");
    cr_expect_eq(forged(&c, n, 40, 99, 8, &counts), VSHARD_ENOTFOUND);
    expect_reason(&counts, VS_FRAME_RECEIVER, "receiver");
    cr_expect_eq(forged(&c, n, 60, UINT32_MAX, 4, &counts), VSHARD_ECORRUPT);
    expect_reason(&counts, VS_FRAME_LENGTH, "an immense length");
    cr_expect_eq(forged(&c, n, 60, 100, 4, &counts), VSHARD_ECORRUPT);
    expect_reason(&counts, VS_FRAME_LENGTH, "a length that contradicts");
}

Test(wire_frame, expands_nothing_beyond_its_limits)
{
    struct vs_frame_codec c = receiver;
    struct vs_frame_counts counts = { { 0 } };
    struct vs_frame f;
    size_t n;

    if (!vs_pack_available())
        return;
    n = encode(&c, 3000);
    cr_assert(sent[5] & 2);
    for (uint32_t raw = 0; raw < 4000; raw++) { /* says it expands to something else */
        if (raw != 3000)
            cr_assert_lt(forged(&c, n, 60, raw, 4, &counts), 0, "raw %u", raw);
    }
    c.payload_max = 2999;
    cr_expect_eq(decode(&c, sent, n, &f, NULL), VSHARD_ECORRUPT);
    cr_expect_eq(vs_frame_scratch(&c, sent, n), 0);
}

/* Cluster, group, nodes, incarnation and type are inside the seal. */
Test(wire_frame, binds_every_field_of_a_sealed_frame)
{
    static const struct {
        size_t at, bytes;
    } fields[] = { { 6, 2 }, { 24, 8 }, { 32, 8 }, { 48, 8 }, { 72, 8 } };
    struct vs_frame_codec c = codec_of(1), other = codec_of(1), open = codec_of(0);
    struct vs_frame_counts counts = { { 0 } };
    struct vs_frame f;
    size_t n;

    if (vs_seal_init() < 0)
        return;
    n = encode(&c, 200);
    for (size_t i = 0; i < VS_COUNT(fields); i++) {
        cr_expect_eq(forged(&c, n, fields[i].at, 999, fields[i].bytes, &counts), VSHARD_ECORRUPT);
        expect_reason(&counts, VS_FRAME_SEAL, "a field inside the seal");
    }
    cr_expect_eq(forged(&c, n, 68, 8, 4, &counts), VSHARD_ENOTFOUND);
    expect_reason(&counts, VS_FRAME_KEY, "a key we do not hold");

    /* The key being retired still opens; another key does not. */
    other.keys[1] = c.keys[0];
    other.keys[0].id = 10;
    memset(other.keys[0].key, 1, VS_SEAL_KEY);
    cr_expect_eq(decode(&other, sent, n, &f, NULL), VSHARD_OK);
    other.keys[1].key[0] ^= 1;
    cr_expect_eq(decode(&other, sent, n, &f, NULL), VSHARD_ECORRUPT);

    /* In the open where seals are required. */
    n = encode(&open, 200);
    cr_expect_eq(decode(&c, sent, n, &f, &counts), VSHARD_ECORRUPT);
    expect_reason(&counts, VS_FRAME_UNSEALED, "unsealed");
}

/* During an upgrade one node speaks versions 1 to 2, its peer only 1: the new one
 * sends 1, and what slips through as 2 is counted and dropped. */
Test(wire_frame, lets_two_versions_live_in_one_cluster)
{
    struct vs_frame_codec newer = receiver;
    struct vs_frame_counts counts = { { 0 } };
    struct vs_frame f = frame_of(50);
    size_t n;

    newer.version_max = 2;
    f.version = 1;
    cr_assert_eq(vs_frame_encode(&newer, &f, NULL, sent, sizeof sent, &n), VSHARD_OK);
    cr_expect_eq(decode(&receiver, sent, n, &f, NULL), VSHARD_OK);
    f = frame_of(50);
    cr_assert_eq(vs_frame_encode(&newer, &f, NULL, sent, sizeof sent, &n), VSHARD_OK);
    cr_expect_eq(decode(&newer, sent, n, &f, NULL), VSHARD_OK);
    cr_expect_eq(f.version, 2);
    cr_expect_eq(decode(&receiver, sent, n, &f, &counts), VSHARD_EVERSION);
    expect_reason(&counts, VS_FRAME_UNVERSIONED, "newer");
    f = frame_of(50);
    f.version = 3;
    cr_expect_eq(vs_frame_encode(&newer, &f, NULL, sent, sizeof sent, &n), VSHARD_EINVAL);
}

Test(wire_frame, says_when_there_is_too_little_room)
{
    const struct vs_frame_codec c = receiver;
    struct vs_frame_work none = { NULL, 0, NULL };
    struct vs_frame f = frame_of(3000);
    size_t n;

    cr_expect_eq(vs_frame_encode(&c, &f, NULL, sent, vs_frame_bound(3000) - 1, &n), VSHARD_E2BIG);
    n = encode(&c, 3000);
    if (vs_frame_scratch(&c, sent, n) > 0)
        cr_expect_eq(vs_frame_decode(&c, sent, n, &none, &f), VSHARD_ENOMEM);
}
