/* wire_public.c - the codec that hosts use: what frame.c does is tested in
 * wire_frame.c; here is what the codec adds.
 *
 * Method: payloads in every split of head and body and every shape survive the trip;
 * a stream cut at every byte names its length from the header on and never before;
 * no nonce repeats; each failing allocation leaves a codec that works; and misuse is
 * refused. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "support/fault_alloc.h"
#include <vshard/wire.h>

enum { ROOM = 1 << 16 };

static unsigned char payload[40000], sent[ROOM];

static struct vshard_wire_key key_of(uint32_t id)
{
    struct vshard_wire_key k = { .id = id };

    memset(k.key, (int)id, sizeof k.key);
    return k;
}

static struct vshard_wire *codec(uint64_t node, const struct vshard_wire_key *keys, uint32_t count)
{
    const struct vshard_wire_options o = { .size = sizeof o,
                                           .cluster = { 1, 2 },
                                           .node = node,
                                           .incarnation = 70 + node,
                                           .keys = keys,
                                           .key_count = count };
    struct vshard_wire *w = NULL;
    int rc = vshard_wire_create(&o, &w);

    cr_assert(rc == VSHARD_OK || (count > 0 && rc == VSHARD_ENOTSUP), "%s", vshard_strerror(rc));
    return w;
}

static size_t encode(struct vshard_wire *w, size_t head, size_t body)
{
    const struct vshard_frame f = { .size = sizeof f,
                                    .type = 5,
                                    .group = 9,
                                    .node = 2,
                                    .head = payload,
                                    .head_bytes = head,
                                    .body = payload + head,
                                    .body_bytes = body };
    size_t n = 0;

    cr_assert_eq(vshard_wire_encode(w, &f, sent, sizeof sent, &n), VSHARD_OK);
    return n;
}

static void fill(void)
{
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (unsigned char)(i % 11 * 5);
}

static void trip(struct vshard_wire *a, struct vshard_wire *b, size_t head, size_t body)
{
    struct vshard_frame in = { .size = sizeof in };
    size_t n = encode(a, head, body);

    cr_assert_eq(vshard_wire_decode(b, sent, n, &in), VSHARD_OK);
    cr_assert_eq(in.head_bytes, head + body);
    cr_assert(head + body == 0 || memcmp(in.head, payload, head + body) == 0);
    cr_assert(in.type == 5 && in.group == 9 && in.node == 1 && in.incarnation == 71);
    cr_assert(in.body == NULL && in.body_bytes == 0 && in.size == sizeof in);
}

Test(wire_public, joins_every_split)
{
    const struct vshard_wire_key key = key_of(3);

    fill();
    for (uint32_t sealed = 0; sealed < 2; sealed++) {
        struct vshard_wire *a = codec(1, &key, sealed), *b = codec(2, &key, sealed);

        for (size_t head = 0; a != NULL && head <= 300; head++)
            trip(a, b, head, 300 - head);
        if (a != NULL) {
            trip(a, b, 0, 0);
            trip(a, b, 128, 39000); /* packed */
        }
        vshard_wire_destroy(a);
        vshard_wire_destroy(b);
    }
}

Test(wire_public, tells_lengths_from_a_stream)
{
    struct vshard_wire *a = codec(1, NULL, 0);
    size_t n, length;

    fill();
    n = encode(a, 100, 50);
    for (size_t count = 0; count <= n; count++) {
        cr_assert_eq(vshard_wire_length(a, sent, count, &length), VSHARD_OK);
        cr_assert_eq(length, count < VSHARD_WIRE_HEADER ? 0 : n, "%zu", count);
    }
    sent[4] = 9;
    cr_expect_eq(vshard_wire_length(a, sent, n, &length), VSHARD_EVERSION);
    cr_expect_eq(vshard_wire_length(a, "GET / HTTP/1.1", 3, &length), VSHARD_ECORRUPT);
    sent[4] = 1;
    memset(sent + 56, 0xff, 12); /* a length that no payload_max allows */
    cr_expect_eq(vshard_wire_length(a, sent, n, &length), VSHARD_ECORRUPT);
    vshard_wire_destroy(a);
}

Test(wire_public, seals_each_frame_with_a_nonce_of_its_own)
{
    const struct vshard_wire_key key = key_of(3);
    struct vshard_wire *a = codec(1, &key, 1), *b = codec(1, &key, 1);
    unsigned char nonce[3][24];

    if (a == NULL || b == NULL)
        return; /* built without libsodium */
    encode(a, 10, 0);
    memcpy(nonce[0], sent + 72, 24);
    encode(a, 10, 0);
    memcpy(nonce[1], sent + 72, 24);
    encode(b, 10, 0);
    memcpy(nonce[2], sent + 72, 24);
    cr_expect(memcmp(nonce[0], nonce[1], 24) != 0);
    cr_expect(memcmp(nonce[0], nonce[2], 24) != 0);
    cr_expect(memcmp(nonce[1], nonce[2], 24) != 0);
    vshard_wire_destroy(a);
    vshard_wire_destroy(b);
}

/* Old first, then new second, new first, new only: at each step all understand all. */
Test(wire_public, rotates_keys_without_a_pause)
{
    const struct vshard_wire_key old_new[] = { key_of(1), key_of(2) };
    const struct vshard_wire_key new_old[] = { key_of(2), key_of(1) };
    struct step {
        const struct vshard_wire_key *keys;
        uint32_t count;
    } steps[] = { { old_new, 1 }, { old_new, 2 }, { new_old, 2 }, { new_old, 1 } };

    fill();
    for (size_t i = 0; i + 1 < sizeof steps / sizeof *steps; i++) {
        struct vshard_wire *a = codec(1, steps[i].keys, steps[i].count);
        struct vshard_wire *b = codec(2, steps[i + 1].keys, steps[i + 1].count);

        if (a != NULL)
            trip(a, b, 20, 0);
        vshard_wire_destroy(a);
        vshard_wire_destroy(b);
    }
}

Test(wire_public, counts_what_it_refuses)
{
    const struct vshard_wire_key one = key_of(1), two = key_of(2);
    struct vshard_wire *a = codec(1, NULL, 0), *b = codec(2, NULL, 0), *c = codec(3, NULL, 0);
    struct vshard_wire *sealed = codec(1, &one, 1), *other = codec(2, &two, 1);
    struct vshard_wire_counters n = { .size = sizeof n };
    struct vshard_frame in = { .size = sizeof in };
    size_t bytes;

    fill();
    bytes = encode(a, 20, 0);
    cr_expect_eq(vshard_wire_decode(b, sent, bytes, &in), VSHARD_OK);
    cr_expect_eq(vshard_wire_decode(b, sent, 20, &in), VSHARD_ECORRUPT);
    cr_expect_eq(vshard_wire_decode(c, sent, bytes, &in), VSHARD_ENOTFOUND);
    if (other != NULL)
        cr_expect_eq(vshard_wire_decode(other, sent, bytes, &in), VSHARD_ECORRUPT);
    sent[120] ^= 1;
    cr_expect_eq(vshard_wire_decode(b, sent, bytes, &in), VSHARD_ECORRUPT);
    cr_assert_eq(vshard_wire_count(b, &n), VSHARD_OK);
    cr_expect(n.accepted == 1 && n.malformed == 1 && n.damaged == 1 && n.misdirected == 0);
    cr_assert_eq(vshard_wire_count(c, &n), VSHARD_OK);
    cr_expect(n.accepted == 0 && n.misdirected == 1);
    if (sealed != NULL) {
        bytes = encode(sealed, 20, 0);
        cr_expect_eq(vshard_wire_decode(other, sent, bytes, &in), VSHARD_ENOTFOUND);
        cr_assert_eq(vshard_wire_count(other, &n), VSHARD_OK);
        cr_expect(n.unsealed == 1 && n.unkeyed == 1 && n.accepted == 0);
    }
    vshard_wire_destroy(a);
    vshard_wire_destroy(b);
    vshard_wire_destroy(c);
    vshard_wire_destroy(sealed);
    vshard_wire_destroy(other);
}

static int scenario(const struct vshard_allocator *allocator, void *arg)
{
    const struct vshard_wire_options o = { .size = sizeof o, .node = 1, .allocator = allocator };
    const struct vshard_frame f = { .size = sizeof f,
                                    .node = 1,
                                    .head = payload,
                                    .head_bytes = 128,
                                    .body = payload,
                                    .body_bytes = 30000 };
    struct vshard_frame in = { .size = sizeof in };
    struct vshard_wire *w = NULL;
    size_t n = 0;
    int rc = vshard_wire_create(&o, &w);

    (void)arg;
    if (rc == VSHARD_OK)
        rc = vshard_wire_encode(w, &f, sent, sizeof sent, &n);
    if (rc == VSHARD_OK)
        rc = vshard_wire_decode(w, sent, n, &in);
    if (rc == VSHARD_OK)
        cr_assert_eq(in.head_bytes, 30128);
    vshard_wire_destroy(w);
    return rc;
}

Test(wire_public, bears_each_failing_allocation)
{
    char why[200] = "";

    cr_expect_gt(fault_alloc_try_each(scenario, NULL, why, sizeof why), 0, "%s", why);
}

Test(wire_public, refuses_misuse)
{
    const struct vshard_wire_key none = { .id = 0 }, twice[] = { key_of(1), key_of(1) };
    struct vshard_wire_options o = { .size = sizeof o };
    struct vshard_frame f = { .size = sizeof f, .node = 2, .head_bytes = 1 };
    struct vshard_wire *w = codec(1, NULL, 0), *bad;
    size_t n = 9;

    cr_expect_eq(vshard_wire_length(w, NULL, 0, &n), VSHARD_OK);
    cr_expect_eq(n, 0);
    cr_expect_eq(vshard_wire_length(w, NULL, 1, &n), VSHARD_EINVAL);
    cr_expect_eq(vshard_wire_create(NULL, &bad), VSHARD_EINVAL);
    cr_expect_eq(vshard_wire_create(&o, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_wire_create(&o, &bad), VSHARD_EINVAL); /* no node */
    o.node = 1;
    o.key_count = 3;
    cr_expect_eq(vshard_wire_create(&o, &bad), VSHARD_EINVAL);
    o.key_count = 1;
    cr_expect_eq(vshard_wire_create(&o, &bad), VSHARD_EINVAL); /* NULL */
    o.keys = &none;
    cr_expect_eq(vshard_wire_create(&o, &bad), VSHARD_EINVAL);
    o.keys = twice;
    o.key_count = 2;
    cr_expect_eq(vshard_wire_create(&o, &bad), VSHARD_EINVAL);
    cr_expect_eq(bad, NULL);

    cr_expect_eq(vshard_wire_encode(w, &f, sent, sizeof sent, &n), VSHARD_EINVAL); /* NULL head */
    f.head = payload;
    f.type = 65536;
    cr_expect_eq(vshard_wire_encode(w, &f, sent, sizeof sent, &n), VSHARD_EINVAL);
    f.type = 0;
    cr_expect_eq(vshard_wire_encode(w, &f, sent, vshard_wire_bound(1) - 1, &n), VSHARD_E2BIG);
    f.head_bytes = UINT64_MAX;
    f.body = payload;
    f.body_bytes = 2; /* whose sum is small */
    cr_expect_eq(vshard_wire_encode(w, &f, sent, sizeof sent, &n), VSHARD_E2BIG);
    cr_expect_eq(vshard_wire_decode(w, NULL, 1, &f), VSHARD_EINVAL);
    cr_expect_eq(vshard_wire_decode(w, sent, 1, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_wire_count(NULL, NULL), VSHARD_EINVAL);
    vshard_wire_destroy(w);
    vshard_wire_destroy(NULL);
}
