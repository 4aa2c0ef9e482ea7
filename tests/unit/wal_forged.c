/* wal_forged.c - a log whose checksums are right and whose contents nobody wrote.
 *
 * Method: superblock and segment are made by hand, with one number in them that no log
 * can have come to. The log must refuse it, or do without, and in no case end the
 * process, not when it is written on for some segments either. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "support/fault_storage.h"
#include "wal/log.h"

struct forgery {
    struct vs_wal_super super;
    uint64_t seq;                /* of the one batch, */
    uint64_t segment;            /* its file, */
    struct vs_wal_record record; /* and what stands in it, */
    struct vs_wal_record after;  /* twice */
    uint32_t lost;               /* there is nothing in the superblock */
    struct fault_storage *fs;
};

static void begin(struct forgery *f)
{
    *f =
        (struct forgery){ .super = { .log_id = 7, .generation = 2, .next_segment = 2 },
                          .seq = 1,
                          .segment = 1,
                          .record = { .group = 1, .index = 5, .term = 1, .kind = VSHARD_WAL_ENTRY },
                          .after = { .group = 1, .index = 6, .term = 1, .kind = VSHARD_WAL_ENTRY },
                          .fs = fault_storage_create(1) };
    fault_storage_mkdir(f->fs, "log");
    f->super.incarnation = 3;
    f->super.boot = 1;
    f->super.floor.digest = f->super.durable.digest = vs_wal_first_digest(7);
    f->super.floor.end = f->super.durable.end = VS_WAL_START;
}

static void put_super(const struct forgery *f)
{
    static unsigned char bytes[VS_WAL_SUPER_BYTES];

    memset(bytes, 0, sizeof bytes);
    for (size_t i = 0; i < VS_WAL_SUPER_SLOTS && !f->lost; i++)
        vs_wal_super_write(&f->super, &(struct vs_wal_key){ 0 }, bytes + i * VS_WAL_SUPER_SLOT);
    fault_storage_put(f->fs, "log/wal.super", bytes, sizeof bytes);
}

static void put_segment(const struct forgery *f)
{
    static unsigned char image[VS_WAL_DATA], file[VS_WAL_START + VS_WAL_SECTOR];
    const struct vs_wal_segment_head segment = { .log_id = 7, .segment = f->segment };
    const struct vs_wal_head head = { .log_id = 7,
                                      .seq = f->seq,
                                      .prev = f->super.floor.digest,
                                      .stored = 2 * VS_WAL_RECORD,
                                      .raw = 2 * VS_WAL_RECORD,
                                      .records = 2 };
    char path[32];

    vs_wal_segment_write(&segment, file);
    memset(image, 0, sizeof image);
    vs_wal_head_write(&head, image);
    vs_wal_record_write(&f->record, image + VS_WAL_HEAD, NULL, 0);
    vs_wal_record_write(&f->after, image + VS_WAL_HEAD + VS_WAL_RECORD, NULL, 0);
    vs_wal_stripe(image, VS_WAL_HEAD + head.stored, file + VS_WAL_START, &head);
    snprintf(path, sizeof path, "log/%016llx.wal", (unsigned long long)f->segment);
    fault_storage_put(f->fs, path, file, sizeof file);
}

static int count_one(void *ctx, const struct vshard_wal_record *r,
                     const struct vshard_wal_place *place)
{
    (void)r;
    (void)place;
    ++*(uint64_t *)ctx;
    return 0;
}

/* Opens it and, where that is granted, reads what is there and writes on. */
static int use(const struct forgery *f, uint32_t flags)
{
    const struct vshard_wal_options o = { .size = sizeof o,
                                          .flags = flags,
                                          .log_id = 7,
                                          .segment_bytes = 64 << 10,
                                          .path = "log",
                                          .storage = fault_storage_hook(f->fs) };
    static unsigned char payload[2000];
    struct vshard_wal_record r = { .group = 2,
                                   .term = 1,
                                   .kind = VSHARD_WAL_ENTRY,
                                   .payload = payload,
                                   .payload_bytes = sizeof payload };
    uint64_t barrier = 0, before = 0, read = 0;
    const struct vshard_wal_visitor visitor = { count_one, &read };
    struct vshard_wal *wal;
    int rc;

    put_super(f);
    put_segment(f);
    rc = vshard_wal_open(&o, NULL, &wal);
    if (rc != VSHARD_OK)
        return rc;
    cr_expect_eq(vshard_wal_replay(wal, &visitor), VSHARD_OK);
    for (r.index = 1; r.index <= 200; r.index++) {
        cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
        cr_expect_gt(barrier, before);
        before = barrier;
        cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    }
    vshard_wal_close(wal);
    return VSHARD_OK;
}

static void end(struct forgery *f)
{
    cr_expect_null(fault_storage_verdict(f->fs));
    fault_storage_destroy(f->fs);
}

Test(wal_forged, what_is_made_by_hand_is_taken_when_it_makes_sense)
{
    struct forgery f;

    begin(&f);
    cr_expect_eq(use(&f, 0), VSHARD_OK);
    end(&f);
}

/* After it there would be entry 0. */
Test(wal_forged, no_entry_is_the_last_that_a_number_can_name)
{
    static const uint64_t after[] = { 0, 1, 5, UINT64_MAX - 1, UINT64_MAX };

    for (size_t i = 0; i < VS_COUNT(after); i++) {
        struct forgery f;

        begin(&f);
        f.record.index = UINT64_MAX;
        f.after.index = after[i];
        cr_expect_eq(use(&f, 0), VSHARD_ECORRUPT, "then %llu", (unsigned long long)after[i]);
        end(&f);
    }
}

Test(wal_forged, no_superblock_has_come_near_the_end_of_its_numbers)
{
    for (int field = 0; field < 6; field++) {
        struct forgery f;
        uint64_t *const number[] = { &f.super.generation,  &f.super.next_segment,
                                     &f.super.boot,        &f.super.floor.seq,
                                     &f.super.durable.seq, &f.super.floor.segment };

        for (uint64_t value = UINT64_MAX; value != 0;
             value = value == UINT64_MAX ? 1ull << 63 : 0) {
            begin(&f);
            *number[field] = value;
            f.seq = f.super.floor.seq + 1;
            cr_expect_eq(use(&f, 0), VSHARD_ECORRUPT, "field %d", field);
            end(&f);
        }
    }
}

/* Without a superblock, a batch's own number is believed: salvage has nothing better. */
Test(wal_forged, no_batch_has_a_number_that_none_can_follow)
{
    static const uint64_t number[] = { 0, UINT64_MAX, UINT64_MAX - 1, 1ull << 63 };

    for (size_t i = 0; i < VS_COUNT(number); i++) {
        struct forgery f;

        begin(&f);
        f.seq = number[i];
        f.lost = 1;
        cr_expect_eq(use(&f, 0), VSHARD_ECORRUPT);
        cr_expect_eq(use(&f, VSHARD_WAL_SALVAGE), VSHARD_OK);
        end(&f);
    }
}

Test(wal_forged, no_segment_has_a_number_that_none_can_follow)
{
    struct forgery f;

    begin(&f);
    f.segment = UINT64_MAX;
    use(&f, 0);
    end(&f);
}
