/* wire_pack.c - how much effort compression takes.
 *
 * Method: blocks of three kinds, letters that repeat (shrink far), noise between repeated
 * headers (shrinks by an eighth) and pure noise (does not), follow each other; what is
 * packed comes back byte for byte, noise is tried once in 16 calls, and a block that
 * shrinks far after one that hardly did is packed as if it had been the first. */
#include <criterion/criterion.h>

#include <string.h>

#include "support/random.h"
#include "wire/wire.h"

enum { BYTES = 32 << 10, NOISY = 200, RECORD = 240 };

static char letters[BYTES], hardly[BYTES], noise[BYTES], packed[2 * BYTES], back[BYTES];

static void make_blocks(void)
{
    uint64_t seed = 11;

    random_bytes(&seed, noise, BYTES);
    memcpy(hardly, noise, BYTES);
    for (int i = 0; i < BYTES; i++) {
        letters[i] = "replication"[(i + i / 1000) % 11];
        if (i % RECORD >= NOISY)
            hardly[i] = (char)(i % RECORD);
    }
}

static size_t pack(struct vs_packing *p, const char *from)
{
    size_t n = vs_pack(p, from, BYTES, packed, BYTES - BYTES / 8);

    if (n > 0) {
        cr_assert_eq(vs_unpack(packed, n, back, BYTES), VSHARD_OK);
        cr_assert(memcmp(back, from, BYTES) == 0);
    }
    return n;
}

Test(wire_pack, tries_noise_once_in_16)
{
    struct vs_packing p = { 0 };

    if (!vs_pack_available())
        return;
    make_blocks();
    for (int round = 0; round < 3; round++) {
        cr_expect_eq(pack(&p, noise), 0);
        for (int i = 0; i < 15; i++)
            cr_expect_eq(pack(&p, letters), 0, "call %d after noise", i);
    }
    cr_expect_gt(pack(&p, letters), 0);
    cr_expect_gt(pack(&p, letters), 0);
    cr_expect_gt(vs_pack(NULL, letters, BYTES, packed, BYTES), 0);
}

Test(wire_pack, hurries_only_where_little_is_to_be_had)
{
    struct vs_packing p = { 0 }, q = { 0 };
    size_t careful, hasty, first;

    if (!vs_pack_available())
        return;
    make_blocks();
    first = pack(&q, letters);
    cr_expect(!q.quick);
    careful = pack(&p, hardly);
    cr_assert_gt(careful, 0);
    cr_expect(p.quick);
    hasty = pack(&p, hardly);
    cr_assert_gt(hasty, 0);
    cr_expect_leq(hasty, careful + careful / 20, "%zu for %zu", hasty, careful);
    cr_expect(p.quick);
    pack(&p, letters);
    cr_expect(!p.quick);
    cr_expect_eq(pack(&p, letters), first);
}
