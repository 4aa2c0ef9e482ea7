/* wal_seal.c - with a key, nobody without it reads the log or writes to it.
 *
 * Method: sealed logs on storage in memory. What was appended must not stand there in
 * the open; every field of the superblock and of a segment's header is changed the way
 * a forger would who can make checksums right; keys are rotated until the old one can
 * be destroyed. Builds without libsodium test that they say so. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/wal_model.h"
#include "wal/format.h"

#define SUPER   "log/wal.super"
#define SEGMENT "log/0000000000000001.wal"

struct ring {
    uint32_t known; /* bit i: key i is there */
    uint32_t asked;
};

static int key_hook(void *ctx, uint32_t key_id, uint8_t *key)
{
    struct ring *ring = ctx;

    ring->asked++;
    if (key_id > 31 || (ring->known >> key_id & 1) == 0)
        return -1;
    memset(key, (int)key_id * 7, 32);
    return 0;
}

struct fixture {
    struct fault_storage *fs;
    struct ring ring;
    struct vshard_wal_hooks hooks;
    struct vshard_wal_options options;
    struct vshard_wal *wal;
    struct model model;
};

static void begin(struct fixture *f)
{
    *f = (struct fixture){ .fs = fault_storage_create(1), .ring = { .known = 0xe } };
    fault_storage_mkdir(f->fs, "log");
    model_init(&f->model);
    f->hooks =
        (struct vshard_wal_hooks){ .size = sizeof f->hooks, .ctx = &f->ring, .key = key_hook };
    f->options = (struct vshard_wal_options){ .size = sizeof f->options,
                                              .log_id = 7,
                                              .key_id = 1,
                                              .segment_bytes = 64 << 10,
                                              .path = "log",
                                              .storage = fault_storage_hook(f->fs),
                                              .hooks = &f->hooks };
}

static void end(struct fixture *f)
{
    vshard_wal_close(f->wal);
    fault_storage_destroy(f->fs);
    model_fini(&f->model);
}

static int reopen(struct fixture *f, struct vshard_wal_report *report)
{
    vshard_wal_close(f->wal);
    *report = (struct vshard_wal_report){ .size = sizeof *report };
    return vshard_wal_open(&f->options, report, &f->wal);
}

static void put(struct fixture *f, uint64_t group, uint64_t index, uint32_t bytes)
{
    const struct vshard_wal_record r = {
        .group = group, .index = index, .kind = VSHARD_WAL_ENTRY, .payload_bytes = bytes
    };
    uint64_t barrier;

    cr_assert_eq(model_append(&f->model, f->wal, &r, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(f->wal, barrier), VSHARD_OK);
}

static struct vshard_wal_stats stats_of(const struct fixture *f)
{
    struct vshard_wal_stats s = { .size = sizeof s };

    cr_assert_eq(vshard_wal_stats_read(f->wal, &s), VSHARD_OK);
    return s;
}

static int sealing(void)
{
    return vs_seal_init() == VSHARD_OK;
}

/* ---- ciphers ---- */

Test(wal_seal, is_refused_by_a_build_that_cannot)
{
    struct vshard_wal_report r;
    struct fixture f;

    begin(&f);
    cr_expect_eq(reopen(&f, &r), sealing() ? VSHARD_OK : VSHARD_ENOTSUP);
    end(&f);
}

static void round_trip(uint32_t asked, uint32_t cipher)
{
    struct vshard_wal_report r;
    const unsigned char *bytes;
    struct fixture f;
    size_t count;

    begin(&f);
    f.options.cipher = asked;
    f.options.flags = VSHARD_WAL_UNPACKED;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(stats_of(&f).cipher, cipher);
    for (uint64_t i = 1; i <= 60; i++)
        put(&f, i % 5, (i + 4) / 5, 400);
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    bytes = fault_storage_bytes(f.fs, SEGMENT, &count);
    cr_assert_not_null(bytes);
    cr_expect_eq(vs_load32(bytes + 12), cipher);
    /* Half of the model's payloads are one byte over and over. */
    for (size_t at = VS_WAL_START, same = 0; at < count; at++) {
        same = bytes[at] != 0 && bytes[at] == bytes[at - 1] ? same + 1 : 0;
        cr_assert_lt(same, 16, "something stands in the open at %zu", at);
    }
    end(&f);
}

Test(wal_seal, seals_with_xchacha20)
{
    if (sealing())
        round_trip(VSHARD_WAL_XCHACHA20, VS_CIPHER_XCHACHA20);
}

Test(wal_seal, seals_with_aes_where_the_machine_has_it)
{
    if (sealing())
        round_trip(VSHARD_WAL_AES256_GCM,
                   vs_seal_has(VS_CIPHER_AES256_GCM) ? VS_CIPHER_AES256_GCM : VS_CIPHER_XCHACHA20);
}

/* Logs of both ciphers can be read whatever is asked for now. */
Test(wal_seal, reads_what_another_cipher_sealed)
{
    struct vshard_wal_report r;
    struct fixture f;

    if (!sealing())
        return;
    begin(&f);
    for (uint64_t i = 1; i <= 6; i++) {
        f.options.cipher = i % 2;
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
        put(&f, 1, i, 300);
    }
    end(&f);
}

/* The same bytes at the same place never meet the same salt. */
Test(wal_seal, draws_a_salt_for_each_segment)
{
    unsigned char salts[8][VS_SEAL_SALT];

    if (!sealing())
        return;
    for (size_t i = 0; i < 8; i++) {
        struct vshard_wal_report r;
        struct fixture f;
        size_t count;

        begin(&f);
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        put(&f, 1, 1, 100);
        memcpy(salts[i], (const char *)fault_storage_bytes(f.fs, SEGMENT, &count) + 40,
               VS_SEAL_SALT);
        for (size_t j = 0; j < i; j++)
            cr_expect_neq(memcmp(salts[i], salts[j], VS_SEAL_SALT), 0);
        end(&f);
    }
}

/* ---- forgers ---- */

/* Changes a byte in every copy of a header and makes its checksum right. */
static void forge(struct fault_storage *fs, const char *path, size_t copies, size_t stride,
                  size_t at, unsigned char change)
{
    for (size_t i = 0; i < copies; i++) {
        unsigned char copy[512];
        const unsigned char *now;
        size_t count;

        now = fault_storage_bytes(fs, path, &count);
        memcpy(copy, now + i * stride, sizeof copy);
        copy[at] ^= change;
        vs_store64(copy + 504, vs_checksum(copy, 504, 0));
        for (size_t bit = 0; bit < sizeof copy * 8; bit++) {
            now = fault_storage_bytes(fs, path, &count);
            if ((now[i * stride + bit / 8] ^ copy[bit / 8]) >> bit % 8 & 1)
                fault_storage_flip(fs, path, i * stride * 8 + bit);
        }
    }
}

static void build(struct fixture *f)
{
    struct vshard_wal_report r;

    begin(f);
    cr_assert_eq(reopen(f, &r), VSHARD_OK);
    for (uint64_t i = 1; i <= 10; i++)
        put(f, 1, i, 300);
    cr_assert_eq(reopen(f, &r), VSHARD_OK);
    vshard_wal_close(f->wal);
    f->wal = NULL;
}

/* Nothing that the superblock says is believed unless it is signed: the flag that
 * forbids to vote, the floor, the witness, the incarnation, the boot. */
Test(wal_seal, believes_no_forged_superblock)
{
    struct fixture f;

    if (!sealing())
        return;
    build(&f);
    f.options.flags = VSHARD_WAL_READ_ONLY | VSHARD_WAL_SEALED_ONLY;
    for (size_t at = 0; at < 184; at++) {
        struct vshard_wal_report r;
        int rc;

        forge(f.fs, SUPER, VS_WAL_SUPER_SLOTS, VS_WAL_SUPER_SLOT, at, 1);
        rc = reopen(&f, &r);
        /* Read-only, so a log without a believable superblock opens, and says corrupt. */
        if (rc == VSHARD_OK)
            cr_assert_eq(r.verdict, VSHARD_WAL_CORRUPT, "byte %zu is believed", at);
        forge(f.fs, SUPER, VS_WAL_SUPER_SLOTS, VS_WAL_SUPER_SLOT, at, 1);
        cr_assert_eq(reopen(&f, &r), VSHARD_OK, "byte %zu", at);
        cr_assert_eq(r.verdict, VSHARD_WAL_CLEAN, "byte %zu", at);
    }
    end(&f);
}

/* A forger who takes the key id away takes the signature away with it; who has
 * always had keys says so. */
Test(wal_seal, takes_nothing_unsealed_when_told_so)
{
    struct vshard_wal_report r;
    struct vs_wal_super plain;
    unsigned char slot[VS_WAL_SUPER_SLOT];
    struct fixture f;
    size_t count;

    if (!sealing())
        return;
    build(&f);
    cr_assert_eq(vs_wal_super_read(fault_storage_bytes(f.fs, SUPER, &count), &plain), VSHARD_OK);
    cr_expect_eq(plain.key_id, 1);
    memset(plain.check, 0, sizeof plain.check);
    plain.generation += 10;
    cr_assert_eq(vs_wal_super_write(&plain, &(struct vs_wal_key){ 0 }, slot), VSHARD_OK);
    for (size_t bit = 0; bit < 512 * 8; bit++) {
        const unsigned char *now = fault_storage_bytes(f.fs, SUPER, &count);

        if ((now[bit / 8] ^ slot[bit / 8]) >> bit % 8 & 1)
            fault_storage_flip(f.fs, SUPER, bit);
    }
    cr_expect_eq(reopen(&f, &r), VSHARD_OK, "without the flag, a log may be on its way to keys");
    end(&f);

    build(&f);
    f.options.flags = VSHARD_WAL_SEALED_ONLY;
    cr_expect_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(vshard_wal_rotate(f.wal, 0), VSHARD_EINVAL);
    end(&f);

    begin(&f); /* a log in the open */
    f.options.key_id = 0;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    put(&f, 1, 1, 300);
    f.options.key_id = 1;
    f.options.flags = VSHARD_WAL_SEALED_ONLY;
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    f.options.flags = 0; /* the way to keys */
    cr_expect_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_gt(stats_of(&f).other_keys, 0);
    put(&f, 2, 1, 300);
    put(&f, 2, 2, 300);
    cr_expect_eq(stats_of(&f).other_keys, 0);
    f.options.flags = VSHARD_WAL_SEALED_ONLY;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    f.options.key_id = 0;
    cr_expect_eq(reopen(&f, &r), VSHARD_EINVAL);
    end(&f);
}

/* A batch whose tags have been made right and whose seal has not is corrupt. */
Test(wal_seal, believes_no_forged_batch)
{
    struct vshard_wal_report r;
    struct fixture f;
    size_t count;
    const unsigned char *now;
    unsigned char sectors[2][VS_WAL_SECTOR], image[2 * VS_WAL_DATA];
    struct vs_wal_head head;
    uint64_t digest;
    size_t n;

    if (!sealing())
        return;
    build(&f);
    now = fault_storage_bytes(f.fs, SEGMENT, &count);
    cr_assert_eq(vs_wal_head_read(now + VS_WAL_START, &head), VSHARD_OK);
    n = vs_wal_sectors(head.stored);
    cr_assert_leq(n, 2);
    cr_assert_eq(vs_wal_unstripe(now + VS_WAL_START, n, image, &head, &digest), n);
    image[VS_WAL_HEAD + 3] ^= 1;
    vs_wal_stripe(image, VS_WAL_HEAD + head.stored, sectors[0], &head);
    for (size_t bit = 0; bit < n * 512 * 8; bit++) {
        now = fault_storage_bytes(f.fs, SEGMENT, &count);
        if ((now[VS_WAL_START + bit / 8] ^ sectors[0][bit / 8]) >> bit % 8 & 1)
            fault_storage_flip(f.fs, SEGMENT, VS_WAL_START * 8 + bit);
    }
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    cr_expect_eq(r.verdict, VSHARD_WAL_CORRUPT);
    end(&f);
}

/* ---- keys ---- */

Test(wal_seal, refuses_a_key_that_is_missing_or_wrong)
{
    struct vshard_wal_report r;
    struct fixture f;
    uint64_t writes;

    if (!sealing())
        return;
    build(&f);
    writes = fault_storage_count(f.fs, VSHARD_IO_WRITE);
    f.ring.known = 4;
    f.options.key_id = 2;
    cr_expect_eq(reopen(&f, &r), VSHARD_ENOTFOUND, "the old key is missing");
    f.options.key_id = 9;
    f.ring.known = 0xe;
    cr_expect_eq(reopen(&f, &r), VSHARD_ENOTFOUND, "the new key is missing");
    f.options.key_id = 1;
    forge(f.fs, SUPER, VS_WAL_SUPER_SLOTS, VS_WAL_SUPER_SLOT, 128, 1 ^ 3); /* key 3 */
    cr_expect_eq(reopen(&f, &r), VSHARD_EINVAL, "a wrong key");
    forge(f.fs, SUPER, VS_WAL_SUPER_SLOTS, VS_WAL_SUPER_SLOT, 128, 1 ^ 3);
    forge(f.fs, SEGMENT, 2, 512, 32, 1 ^ 3);
    cr_expect_eq(reopen(&f, &r), VSHARD_EINVAL, "a wrong key");
    forge(f.fs, SEGMENT, 2, 512, 32, 1 ^ 3);
    cr_expect_eq(fault_storage_count(f.fs, VSHARD_IO_WRITE), writes, "nothing was changed");
    cr_expect_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    cr_expect_eq(vshard_wal_rotate(f.wal, 9), VSHARD_ENOTFOUND);
    put(&f, 1, 11, 10); /* and all goes on */
    end(&f);
}

Test(wal_seal, does_not_take_a_log_whose_key_is_missing_for_none)
{
    struct vshard_wal_report report;
    struct fixture f;
    uint64_t incarnation;

    if (!sealing())
        return;
    begin(&f);
    cr_assert_eq(reopen(&f, &report), VSHARD_OK);
    cr_assert_eq(reopen(&f, &report), VSHARD_OK); /* it has no record and no segment */
    incarnation = report.incarnation;
    f.options.key_id = 2;
    f.ring.known &= ~(1u << 1);
    cr_expect_eq(reopen(&f, &report), VSHARD_ENOTFOUND);
    f.ring.known |= 1u << 1;
    cr_assert_eq(reopen(&f, &report), VSHARD_OK);
    cr_expect_eq(report.created, 0);
    cr_expect_eq(report.incarnation, incarnation, "it is the same log");
    end(&f);
}

/* Whether a slot of the superblock names that key. */
static int signed_with(struct fault_storage *fs, uint32_t key)
{
    size_t count;
    const unsigned char *slots = fault_storage_bytes(fs, SUPER, &count);
    int found = 0;

    for (size_t i = 0; i < VS_WAL_SUPER_SLOTS; i++) {
        struct vs_wal_super super;

        found |= vs_wal_super_read(slots + i * VS_WAL_SUPER_SLOT, &super) == VSHARD_OK &&
                 super.key_id == key;
    }
    return found;
}

/* A key is changed while groups are silent: soon nothing needs the old one. */
Test(wal_seal, changes_keys_until_the_old_one_can_be_destroyed)
{
    struct vshard_wal_report r;
    struct fixture f;

    if (!sealing())
        return;
    begin(&f);
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    for (uint64_t g = 1; g < 8; g++) {
        for (uint64_t i = 1; i <= 5; i++)
            put(&f, g, i, 200);
    }
    for (uint32_t key = 2; key <= 3; key++) {
        int batches = 0;

        cr_assert_eq(vshard_wal_rotate(f.wal, key), VSHARD_OK);
        cr_expect_gt(stats_of(&f).other_keys, 0);
        cr_assert_eq(vshard_wal_poll(f.wal, NULL), VSHARD_OK);
        cr_expect(signed_with(f.fs, key), "the superblock changes over without an append");
        while (stats_of(&f).other_keys > 0) {
            put(&f, 0, (key - 1) * 100 + (uint64_t)batches, 50);
            cr_assert_lt(++batches, 50);
        }
        f.ring.known = 1u << key;
        f.options.key_id = key;
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        cr_expect_eq(r.verdict, VSHARD_WAL_CLEAN);
        cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
        f.ring.known = 0xe;
    }
    end(&f);
}

/* All groups write with the first batch under the new key, and then never again: they need not wait
 * for another segment. */
Test(wal_seal, changes_keys_of_groups_that_fall_silent_later)
{
    struct vshard_wal_report r;
    struct fixture f;
    uint64_t barrier, segments;

    if (!sealing())
        return;
    begin(&f);
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    for (uint64_t g = 1; g < 8; g++)
        put(&f, g, 1, 200);
    cr_assert_eq(vshard_wal_rotate(f.wal, 2), VSHARD_OK);
    for (uint64_t g = 1; g < 8; g++) {
        const struct vshard_wal_record record = {
            .group = g, .index = 2, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 200
        };

        cr_assert_eq(model_append(&f.model, f.wal, &record, &barrier), VSHARD_OK);
    }
    cr_assert_eq(vshard_wal_sync(f.wal, barrier), VSHARD_OK);
    segments = stats_of(&f).segments;
    cr_expect_gt(stats_of(&f).other_keys, 0);
    for (uint64_t i = 1; i < 10; i++)
        put(&f, 0, i, 50);
    cr_expect_eq(stats_of(&f).other_keys, 0);
    cr_expect_leq(stats_of(&f).segments, segments);
    f.ring.known = 1u << 2;
    f.options.key_id = 2;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    end(&f);
}

/* Nothing but the superblock needs it: whoever destroys the old key when he is told that he
 * may can open the log after a power cut. */
Test(wal_seal, needs_the_old_key_until_the_new_superblock_is_durable)
{
    const struct fault_crash lose = { .flags = FAULT_CRASH_LOSE };
    struct fault_storage *after;
    struct vshard_wal_report r;
    struct fixture f;
    struct vshard_wal *wal;
    int polls = 0;

    if (!sealing())
        return;
    begin(&f);
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_assert_eq(vshard_wal_rotate(f.wal, 2), VSHARD_OK);
    cr_expect_eq(stats_of(&f).other_keys, 1);
    do
        cr_assert_eq(vshard_wal_poll(f.wal, NULL), VSHARD_OK);
    while (stats_of(&f).other_keys > 0 && ++polls < 5);
    cr_expect_eq(stats_of(&f).other_keys, 0);
    f.ring.known = 1u << 2;
    after = fault_storage_after(f.fs, &lose);
    f.options.key_id = 2;
    f.options.storage = fault_storage_hook(after);
    cr_expect_eq(vshard_wal_open(&f.options, NULL, &wal), VSHARD_OK);
    vshard_wal_close(wal);
    fault_storage_destroy(after);
    f.options.storage = fault_storage_hook(f.fs);
    f.ring.known = 0xe;
    end(&f);
}

/* ---- who this log is ---- */

Test(wal_seal, signs_what_a_replica_is_known_by)
{
    struct vshard_wal_report r;
    struct fixture f;
    uint64_t incarnation, boot;

    begin(&f);
    f.options.key_id = sealing();
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    incarnation = r.incarnation;
    boot = r.boot;
    cr_expect_neq(incarnation, 0);
    cr_expect_eq(boot, 1);
    for (uint64_t i = 1; i <= 5; i++) {
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        cr_expect_eq(r.incarnation, incarnation);
        cr_expect_eq(r.boot, boot + i);
        put(&f, 1, i, 10);
    }
    f.options.flags = VSHARD_WAL_READ_ONLY;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.boot, boot + 5, "to look is not to open");
    end(&f);
    begin(&f);
    f.options.key_id = sealing();
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_neq(r.incarnation, incarnation);
    end(&f);
}
