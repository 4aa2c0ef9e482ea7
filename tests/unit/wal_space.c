/* wal_space.c - the log and its room: segments made, filled, packed, copied out of and
 * removed; full disks.
 *
 * Method: storage in memory whose files, lengths and requests are looked at, and whose
 * capacity is taken away and given back; what the log holds is compared with the model. */
#include <criterion/criterion.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/wal_model.h"
#include "support/wal_writer.h"
#include "wire/wire.h"

/* Opened again, the log holds what it held; and the end. */
static void end_whole(struct writer *w, const struct vshard_wal_options *o,
                      struct fault_storage *fs, uint64_t durable)
{
    vshard_wal_close(w->wal);
    open_log(w, o);
    check(w, durable, "reopened");
    vshard_wal_close(w->wal);
    model_fini(&w->model);
    fault_storage_destroy(fs);
}

/* A batch that found no space is written again, with the same bytes. */
Test(wal_space, writes_a_batch_again_that_found_no_space)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    const struct fault_rule rule = {
        .k = 1, .ops = 1 << VSHARD_IO_WRITE, .does = FAULT_SHORT, .status = VSHARD_ENOSPC
    };
    struct writer w = { .seed = 1 };
    uint64_t durable = 0;

    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 1, VSHARD_WAL_ENTRY, 1, 100);
    cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    put(&w, 1, VSHARD_WAL_ENTRY, 2, 3000);
    fault_storage_rule(fs, &rule);
    cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_ENOSPC);
    cr_expect_eq(durable, 1);
    cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    cr_expect_eq(durable, 2);
    end_whole(&w, &o, fs, 2);
}

/* A node that has nothing yet can promise nothing before there is a segment, and each request is a
 * turn of its host. */
Test(wal_space, makes_the_first_segment_in_few_requests)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct writer w = { .seed = 1 };
    uint64_t durable = 0, writes;

    o.segment_bytes = 32 << 20;
    model_init(&w.model);
    open_log(&w, &o);
    writes = fault_storage_count(fs, VSHARD_IO_WRITE);
    put(&w, 1, VSHARD_WAL_ENTRY, 1, 100);
    cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    cr_expect_eq(durable, 1);
    cr_expect_leq(fault_storage_count(fs, VSHARD_IO_WRITE) - writes, (uint64_t)12);
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

/* Batches that would not shrink are mostly followed by others: then not each one is tried, and
 * when they do shrink again that is found out. */
Test(wal_space, packs_again_after_what_would_not_shrink)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    static unsigned char payload[4000];
    struct vshard_wal_record r = { .group = 1, .kind = VSHARD_WAL_ENTRY, .payload = payload };
    uint64_t seed = 5, before = 0, plain = 0, packed = 0;
    struct vshard_wal *wal;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    r.payload_bytes = sizeof payload;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (unsigned char)random_next(&seed);
    for (r.index = 1; r.index <= 40; r.index++) {
        if (r.index == 4)
            memset(payload, 7, sizeof payload);
        cr_assert_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_OK);
        cr_assert_eq(vshard_wal_poll(wal, NULL), VSHARD_OK);
        cr_assert_eq(vshard_wal_stats_read(wal, &stats), VSHARD_OK);
        if (stats.written_bytes - before < 1000)
            packed++;
        else if (r.index >= 4)
            plain++;
        before = stats.written_bytes;
    }
    if (vs_pack_available()) {
        cr_expect_leq(plain, 15, "%lu", (unsigned long)plain);
        cr_expect_eq(packed, 37 - plain);
    }
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

/* One group writes once and falls silent, another writes on: the silent one is
 * copied forward, old segments go, and nothing of it is lost. */
Test(wal_space, carries_a_silent_group_forward)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct writer w = { .seed = 1 };
    uint64_t durable = 0;

    o.rewrite_above = 3;
    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 1, VSHARD_WAL_VOTE, 2, 0);
    for (uint64_t i = 1; i <= 5; i++)
        put(&w, 1, VSHARD_WAL_ENTRY, i, 100);
    put(&w, 1, VSHARD_WAL_NOTE, 0, 30);
    put(&w, 1, VSHARD_WAL_MARK, 2, 30);
    for (uint64_t i = 1; i < 2000; i++) {
        put(&w, 2, VSHARD_WAL_ENTRY, i, 500);
        if (i % 20 == 0) {
            put(&w, 2, VSHARD_WAL_MARK, i - 1, 10);
            cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
        }
    }
    check(&w, durable, "running");
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_gt(stats.rewritten, 0);
    cr_expect_gt(stats.removed, 5);
    cr_expect_leq(stats.segments, 5, "%lu segments", (unsigned long)stats.segments);
    end_whole(&w, &o, fs, durable);
}

/* A group that never rests, and always holds more than may be copied: its vote and its note
 * are as old as the log, and keep no segment. The next vote overtakes what is copied. */
Test(wal_space, carries_what_a_busy_group_said_once)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct writer w = { .seed = 1 };
    uint64_t durable = 0;

    model_init(&w.model);
    open_log(&w, &o);
    w.term[2] = 3;
    put(&w, 2, VSHARD_WAL_ENTRY, 1, 10);
    put(&w, 2, VSHARD_WAL_VOTE, 2, 0);
    put(&w, 2, VSHARD_WAL_NOTE, 0, 30);
    put(&w, 2, VSHARD_WAL_COMMIT, 1, 0);
    for (uint64_t i = 2; i < 3000; i++) {
        put(&w, 2, VSHARD_WAL_ENTRY, i, 500);
        if (i % 20 == 0 && i > 100) {
            put(&w, 2, VSHARD_WAL_MARK, i - 100, i > 1000 && i < 2000 ? 0 : 10);
            cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
        }
        if (i % 700 == 0) {
            w.term[2]++;
            put(&w, 2, VSHARD_WAL_VOTE, i, 0);
        }
    }
    check(&w, durable, "running");
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_leq(stats.segments, 6, "%lu segments", (unsigned long)stats.segments);
    cr_expect_lt(stats.rewritten, 100, "%lu records copied", (unsigned long)stats.rewritten);
    end_whole(&w, &o, fs, durable);
}

Test(wal_space, names_a_group_too_large_to_carry)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct writer w = { .seed = 1 };

    o.rewrite_above = 2;
    o.rewrite_bytes = 4096;
    model_init(&w.model);
    open_log(&w, &o);
    for (uint64_t i = 1; i <= 40; i++)
        put(&w, 3, VSHARD_WAL_ENTRY, i, 500);
    for (uint64_t i = 1; i < 1000; i++) {
        put(&w, 2, VSHARD_WAL_ENTRY, i, 500);
        cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    }
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_eq(stats.pinned, 3);
    cr_expect_gt(stats.pinned_bytes, 4096);
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

static void expect_patience(struct writer *w, struct fault_storage *fs)
{
    uint64_t opened = fault_storage_count(fs, VSHARD_IO_OPEN);

    for (int i = 0; i < 800; i++)
        cr_assert_eq(vshard_wal_poll(w->wal, NULL), VSHARD_ENOSPC);
    opened = fault_storage_count(fs, VSHARD_IO_OPEN) - opened;
    cr_expect_leq(opened, 110, "each try makes a file: %llu of 800 polls did",
                  (unsigned long long)opened);
}

Test(wal_space, refuses_when_full_and_recovers_when_there_is_space)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct writer w = { .seed = 1 };
    struct vshard_wal_record r = {
        .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 700
    };
    uint64_t durable = 0, named = 0;
    int rc = VSHARD_OK;

    for (int sparse = 0; sparse < 2; sparse++) {
        o.flags = sparse ? VSHARD_WAL_SPARSE : 0;
        model_init(&w.model);
        open_log(&w, &o);
        r.index = 1;
        fault_storage_capacity(fs, 300 << 10);
        for (rc = VSHARD_OK; rc == VSHARD_OK;) {
            rc = model_append(&w.model, w.wal, &r, &named);
            if (rc == VSHARD_OK)
                r.index++;
            vshard_wal_poll(w.wal, &durable);
        }
        cr_expect_eq(rc, VSHARD_ENOSPC);
        cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_ENOSPC);
        check(&w, durable, "full");
        expect_patience(&w, fs);
        fault_storage_capacity(fs, UINT64_MAX);
        for (int i = 0; i < 64 && rc != VSHARD_OK; i++)
            rc = vshard_wal_poll(w.wal, &durable);
        cr_expect_eq(rc, VSHARD_OK);
        cr_expect_eq(durable, named);
        cr_assert_eq(model_append(&w.model, w.wal, &r, &named), VSHARD_OK);
        cr_assert_eq(vshard_wal_sync(w.wal, named), VSHARD_OK);
        check(&w, named, "after");
        put(&w, 1, VSHARD_WAL_FORGET, 0, 0);
        cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
        vshard_wal_close(w.wal);
        model_fini(&w.model);
        fault_storage_destroy(fs);
        fs = disk(1);
        o.storage = fault_storage_hook(fs);
    }
    fault_storage_destroy(fs);
}

/* A log that never had a segment can do nothing but try. */
Test(wal_space, tries_less_often_the_longer_there_is_no_space)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct writer w = { .seed = 1 };
    struct vshard_wal_record r = {
        .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 700
    };
    uint64_t durable = 0, named = 0;
    int rc = VSHARD_ENOSPC;

    model_init(&w.model);
    open_log(&w, &o);
    fault_storage_capacity(fs, fault_storage_used(fs) + 1000);
    cr_assert_eq(model_append(&w.model, w.wal, &r, &named), VSHARD_OK);
    expect_patience(&w, fs);
    fault_storage_capacity(fs, UINT64_MAX);
    for (int i = 0; i < 9 && rc != VSHARD_OK; i++)
        rc = vshard_wal_poll(w.wal, &durable);
    cr_expect_eq(rc, VSHARD_OK, "it notices soon that there is space");
    cr_expect_eq(durable, named);
    check(&w, named, "after");
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

/* When the next segment cannot be made, entries are refused while there is still room
 * for what was taken, and for votes and marks; and a mark frees the space that lets the
 * log go on. Entries, in the refused appends, leave nothing behind. */
Test(wal_space, keeps_room_for_what_frees_room)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct writer w = { .seed = 1 };
    struct vshard_wal_record r = {
        .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 700
    };
    uint64_t durable = 0, named = 0;
    int rc = VSHARD_OK;

    o.pending_bytes = o.segment_bytes / 4;
    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 2, VSHARD_WAL_VOTE, 1, 0);
    fault_storage_capacity(fs, 300 << 10);
    fault_storage_defer(fs, 1);
    while (rc == VSHARD_OK) {
        /* As much as is taken, before anything of it is written. */
        do {
            rc = model_append(&w.model, w.wal, &r, &named);
            r.index += rc == VSHARD_OK;
        } while (rc == VSHARD_OK);
        if (rc == VSHARD_EBUSY)
            rc = VSHARD_OK;
        vshard_wal_poll(w.wal, &durable);
        fault_storage_drain(fs);
    }
    cr_expect_eq(rc, VSHARD_ENOSPC);
    fault_storage_defer(fs, 0);
    cr_expect_eq(vshard_wal_sync(w.wal, named), VSHARD_OK, "all that was taken has a place");
    cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_ENOSPC);
    cr_expect_eq(durable, named);
    put(&w, 2, VSHARD_WAL_VOTE, 7, 0);
    put(&w, 2, VSHARD_WAL_COMMIT, 1, 0);
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_eq(vshard_wal_sync(w.wal, stats.appended), VSHARD_OK, "a vote goes through");
    check(&w, stats.appended, "full");
    put(&w, 1, VSHARD_WAL_MARK, r.index - 1, 20);
    for (int i = 0; i < 3; i++)
        rc = vshard_wal_poll(w.wal, &durable);
    cr_expect_eq(rc, VSHARD_OK, "the mark has freed segments: %s", vshard_strerror(rc));
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_gt(stats.removed, 0);
    cr_assert_eq(model_append(&w.model, w.wal, &r, &named), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(w.wal, named), VSHARD_OK);
    check(&w, named, "after");
    vshard_wal_close(w.wal);
    open_log(&w, &o);
    check(&w, named, "reopened");
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

/* Where each write takes space, as on file systems that copy on write, that of the superblock
 * may find none; it is no more than put off. */
Test(wal_space, writes_the_superblock_again_that_found_no_space)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    const struct fault_rule full = {
        .k = 1, .ops = 1 << VSHARD_IO_WRITE, .how = FAULT_FOREVER, .status = VSHARD_ENOSPC
    };
    struct writer w = { .seed = 1 };
    uint64_t durable = 0, writes;

    model_init(&w.model);
    open_log(&w, &o);
    for (uint64_t i = 1; i < 200; i++) {
        put(&w, 1, VSHARD_WAL_ENTRY, i, 700);
        cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    }
    fault_storage_rule(fs, &full);
    cr_expect_eq(vshard_wal_witness(w.wal), VSHARD_OK);
    writes = fault_storage_count(fs, VSHARD_IO_WRITE);
    for (int i = 0; i < 70; i++)
        vshard_wal_poll(w.wal, &durable);
    cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    cr_expect_leq(fault_storage_count(fs, VSHARD_IO_WRITE), writes + 20, "not at each poll");
    fault_storage_heal(fs);
    put(&w, 1, VSHARD_WAL_VOTE, 3, 0);
    put(&w, 1, VSHARD_WAL_COMMIT, 3, 0);
    put(&w, 1, VSHARD_WAL_MARK, 199, 0);
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_eq(vshard_wal_sync(w.wal, stats.appended), VSHARD_OK);
    for (int i = 0; i < 70; i++)
        cr_expect_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_gt(stats.removed, 0);
    check(&w, durable, "after");
    end_whole(&w, &o, fs, durable);
}

/* What a group said once, and what others said that are silent, stands in the oldest segment; and
 * when the disk is full nothing but the mark is written. */
Test(wal_space, frees_room_by_a_mark_after_which_nothing_is_written)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct writer w = { .seed = 1 };
    struct vshard_wal_record r = {
        .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 700
    };
    uint64_t durable = 0, named = 0;
    int rc = VSHARD_OK;

    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 1, VSHARD_WAL_VOTE, 1, 0);
    put(&w, 2, VSHARD_WAL_NOTE, 0, 40);
    put(&w, 3, VSHARD_WAL_ENTRY, 1, 100);
    fault_storage_capacity(fs, 1 << 20);
    while (rc == VSHARD_OK) {
        rc = model_append(&w.model, w.wal, &r, &named);
        r.index += rc == VSHARD_OK;
        vshard_wal_poll(w.wal, &durable);
    }
    cr_expect_eq(rc, VSHARD_ENOSPC);
    cr_expect_eq(durable, named);
    put(&w, 1, VSHARD_WAL_MARK, r.index - 1, 20);
    for (int i = 0; i < 70; i++)
        rc = vshard_wal_poll(w.wal, &durable);
    cr_expect_eq(rc, VSHARD_OK, "%s", vshard_strerror(rc));
    cr_assert_eq(vshard_wal_stats_read(w.wal, &stats), VSHARD_OK);
    cr_expect_gt(stats.removed, 10);
    cr_expect_eq(stats.pending_bytes, 0);
    check(&w, durable, "after");
    cr_assert_eq(model_append(&w.model, w.wal, &r, &named), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(w.wal, named), VSHARD_OK);
    end_whole(&w, &o, fs, named);
}

/* A batch that LZ4 makes smaller is stored so, one that it does not is stored as it is. */
Test(wal_space, packs_a_batch_where_that_saves_something)
{
    static unsigned char payload[60000];
    uint64_t seed = 1, stored[2];

    for (int noise = 0; noise < 2; noise++) {
        struct fault_storage *fs = disk(1);
        struct vshard_wal_options o = options(fs);
        struct vshard_wal_stats stats = { .size = sizeof stats };
        struct vshard_wal_record r[10];
        struct vshard_wal *wal;
        uint64_t barrier;

        if (noise)
            random_bytes(&seed, payload, sizeof payload);
        for (uint32_t i = 0; i < 10; i++)
            r[i] = (struct vshard_wal_record){ .group = 1,
                                               .index = i + 1,
                                               .kind = VSHARD_WAL_ENTRY,
                                               .payload = payload + 6000 * i,
                                               .payload_bytes = 700 };
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
        cr_assert_eq(vshard_wal_append(wal, r, 10, &barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_stats_read(wal, &stats), VSHARD_OK);
        stored[noise] = stats.written_bytes;
        vshard_wal_close(wal);
        fault_storage_destroy(fs);
    }
    cr_expect_leq(stored[1], 8192);
    if (vs_pack_available())
        cr_expect_leq(stored[0], 1024, "%lu", (unsigned long)stored[0]);
    else
        cr_expect_eq(stored[0], stored[1]);
}

static size_t length_of(struct fault_storage *fs, const char *path)
{
    size_t bytes = 0;

    fault_storage_bytes(fs, path, &bytes);
    return bytes;
}

/* A segment has its whole length, and zeros written in it unless it is sparse, before a
 * batch is; no batch makes it longer; the next one stands ready; and the old one is cut
 * to its batches. */
Test(wal_space, makes_segments_ahead_and_shortens_them_behind)
{
    uint64_t writes[2];

    for (int sparse = 0; sparse < 2; sparse++) {
        struct fault_storage *fs = disk(1);
        struct vshard_wal_options o = options(fs);
        struct vshard_wal_record r = { .group = 1, .kind = VSHARD_WAL_ENTRY };
        static unsigned char payload[3000];
        struct vshard_wal *wal;
        uint64_t barrier;

        o.flags = VSHARD_WAL_UNPACKED | (sparse ? VSHARD_WAL_SPARSE : 0);
        r.payload = payload;
        r.payload_bytes = sizeof payload;
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
        for (r.index = 1; r.index <= 12; r.index++) {
            cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
            cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
            cr_assert_eq(length_of(fs, "log/0000000000000001.wal"), 64 << 10);
        }
        cr_expect_eq(length_of(fs, "log/0000000000000002.wal"), 64 << 10, "made ahead");
        writes[sparse] = fault_storage_count(fs, VSHARD_IO_WRITE);
        for (; r.index <= 27; r.index++) {
            cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
            cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
            if (r.index == 22)
                cr_assert_eq(vshard_wal_rotate(wal, 0), VSHARD_OK);
        }
        /* A full one that was filled with zeros stays as it is, to be used again. */
        cr_expect_eq(length_of(fs, "log/0000000000000001.wal") == 64 << 10, !sparse);
        cr_expect_lt(length_of(fs, "log/0000000000000002.wal"), 64 << 10, "shortened");
        vshard_wal_close(wal);
        fault_storage_destroy(fs);
    }
    cr_expect_geq(writes[0], writes[1] + 16, "%lu, %lu", (unsigned long)writes[0],
                  (unsigned long)writes[1]);
}

/* Batches that fill a segment faster than pieces of zeros go out beside them would each wait for
 * the rest of the next one. Where storage has reserved its space, that rest is left unwritten, and
 * a disk that fills up meanwhile still has room for it. */
Test(wal_space, leaves_unwritten_what_is_reserved_and_behind)
{
    static unsigned char payload[60 << 10];
    uint64_t writes[2];

    for (uint32_t refuse = 0; refuse < 2; refuse++) {
        struct fault_storage *fs = disk(1);
        struct vshard_wal_options o = options(fs);
        struct vshard_wal_record r[2] = { { .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY },
                                          { .group = 2, .index = 1, .kind = VSHARD_WAL_ENTRY } };
        struct vshard_wal_report report = { .size = sizeof report };
        struct vshard_wal *wal;
        uint64_t barrier = 0, batches = 0;

        fault_storage_refuse_reserves(fs, refuse);
        o.segment_bytes = 1 << 20;
        o.flags = VSHARD_WAL_UNPACKED;
        r[0].payload = r[1].payload = payload;
        r[0].payload_bytes = r[1].payload_bytes = sizeof payload;
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
        cr_assert_eq(vshard_wal_append(wal, r, 2, &barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK, "the first segment is there");
        writes[refuse] = fault_storage_count(fs, VSHARD_IO_WRITE);
        while (length_of(fs, "log/0000000000000003.wal") == 0) {
            r[0].index = ++r[1].index;
            cr_assert_eq(vshard_wal_append(wal, r, 2, &barrier), VSHARD_OK);
            cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
            cr_assert_lt(++batches, 20u);
        }
        fault_storage_capacity(fs, fault_storage_used(fs));
        for (int i = 0; i < 4; i++) { /* into the third */
            r[0].index = ++r[1].index;
            cr_assert_eq(vshard_wal_append(wal, r, 2, &barrier), VSHARD_OK);
            cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
        }
        writes[refuse] = fault_storage_count(fs, VSHARD_IO_WRITE) - writes[refuse];
        vshard_wal_close(wal);
        cr_assert_eq(vshard_wal_open(&o, &report, &wal), VSHARD_OK);
        cr_expect_eq(report.records, 2 * r[0].index);
        vshard_wal_close(wal);
        cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
        fault_storage_destroy(fs);
    }
    cr_expect_geq(writes[1], writes[0] + 6, "%lu writes, and %lu where nothing is reserved",
                  (unsigned long)writes[0], (unsigned long)writes[1]);
}
