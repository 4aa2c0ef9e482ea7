/* wal_tail.c - torn, uncertain and corrupt are told apart.
 *
 * Method: exhaustion. A log of 64 records whose last batch spans several sectors is
 * damaged in every way of a kind, opened, and judged against what is known: which
 * barriers were acknowledged, and what the records were (support/wal_model.h).
 *
 *   flips     every single bit, in every file; what was acknowledged may only be
 *             missing under the verdict corrupt or uncertain
 *   subsets   the last batch not synced, every subset of its sectors on the disk;
 *             the verdict is torn, never corrupt, and nothing acknowledged is gone
 *
 * Every bit of what was written is flipped, and one a byte of the zeros behind it; with
 * VSHARD_LONG in the environment, as check-long has it, really all of them. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/wal_model.h"
#include "wal/log.h"

#define SEGMENT "log/0000000000000001.wal"
enum { AHEAD = 8 }; /* sectors of zeros behind a batch in a segment of 64 KiB used again */

struct fixture {
    struct fault_storage *fs;
    struct model model;
    struct vshard_wal_options options;
    struct vshard_wal *wal;
    uint64_t acknowledged;
};

static void put(struct fixture *f, uint64_t index, uint32_t bytes, uint64_t *barrier)
{
    const struct vshard_wal_record r = {
        .group = index % 3, .index = index / 3 + 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = bytes
    };

    cr_assert_eq(model_append(&f->model, f->wal, &r, barrier), VSHARD_OK);
}

/* 64 records in 22 batches, all acknowledged, the last of `sectors` sectors. The
 * process then stops: nothing but the batches themselves bears witness. If the segment is
 * one that was `used` before, no sector behind its zeros is empty. */
static void build_in(struct fixture *f, uint32_t sectors, uint32_t flags, bool used)
{
    static unsigned char stale[64 << 10];
    uint64_t barrier = 0;

    *f = (struct fixture){ .fs = fault_storage_create(1) };
    fault_storage_mkdir(f->fs, "log");
    memset(stale, 0xa5, sizeof stale);
    model_init(&f->model);
    f->options = (struct vshard_wal_options){ .size = sizeof f->options,
                                              .log_id = 7,
                                              .flags = VSHARD_WAL_UNPACKED | flags,
                                              .segment_bytes = 64 << 10,
                                              .path = "log",
                                              .storage = fault_storage_hook(f->fs) };
    cr_assert_eq(vshard_wal_open(&f->options, NULL, &f->wal), VSHARD_OK);
    if (used) { /* as if the log had left it */
        fault_storage_put(f->fs, "log/wal.spare0", stale, sizeof stale);
        f->wal->spares = 1;
    }
    for (uint64_t i = 0; i < 63; i++) {
        put(f, i, (uint32_t)(i * 7 % 61), &barrier);
        if (i % 3 == 2)
            cr_assert_eq(vshard_wal_sync(f->wal, barrier), VSHARD_OK);
    }
    put(f, 63, sectors * 504 - 96 - 32 - 40, &barrier);
    f->acknowledged = barrier - 1;
}

static void build(struct fixture *f, uint32_t sectors, uint32_t flags)
{
    build_in(f, sectors, flags, false);
}

static void acknowledge_last(struct fixture *f)
{
    cr_assert_eq(vshard_wal_sync(f->wal, ++f->acknowledged), VSHARD_OK);
}

/* Puts the disk as a crash leaves it into f->fs. */
static void crash(struct fixture *f, const struct fault_crash *how)
{
    struct fault_storage *after = fault_storage_after(f->fs, how);

    vshard_wal_close(f->wal);
    fault_storage_destroy(f->fs);
    f->wal = NULL;
    f->fs = after;
    f->options.storage = fault_storage_hook(after);
}

static void finish(struct fixture *f)
{
    fault_storage_destroy(f->fs);
    model_fini(&f->model);
}

/* Opens without changing anything, compares with the model, and reports. */
static struct vshard_wal_report look(struct fixture *f, const char *what, uint64_t at)
{
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal_options o = f->options;
    struct vshard_wal *wal;
    int rc;

    o.flags |= VSHARD_WAL_READ_ONLY;
    rc = vshard_wal_open(&o, &report, &wal);
    cr_assert_eq(rc, VSHARD_OK, "%s %lu: open says %d", what, (unsigned long)at, rc);
    /* The model is slow, and most flips change nothing: look closer only at those. */
    if (report.barrier != f->acknowledged || at % 64 == 0) {
        const char *wrong = model_differs(&f->model, wal, report.barrier);

        cr_assert_null(wrong, "%s %lu: %s", what, (unsigned long)at, wrong);
    }
    vshard_wal_close(wal);
    return report;
}

static void flip_all(struct fixture *f, const char *path, size_t used, uint32_t last_verdict)
{
    size_t bytes, everything = getenv("VSHARD_LONG") != NULL;
    uint64_t flips = 0;

    cr_assert_not_null(fault_storage_bytes(f->fs, path, &bytes));
    for (uint64_t bit = 0; bit < bytes * 8; bit++) {
        struct vshard_wal_report r;

        if (!everything && bit / 8 >= used && bit % 8 != bit / 8 % 8)
            continue;
        fault_storage_flip(f->fs, path, bit);
        r = look(f, path, bit);
        fault_storage_flip(f->fs, path, bit);
        flips++;
        if (r.barrier == f->acknowledged) {
            cr_assert_eq(r.verdict, VSHARD_WAL_CLEAN, "%s bit %lu: verdict %u", path,
                         (unsigned long)bit, r.verdict);
            continue;
        }
        cr_assert(r.verdict == VSHARD_WAL_CORRUPT || r.verdict == VSHARD_WAL_UNCERTAIN,
                  "%s bit %lu: %lu of %lu with verdict %u", path, (unsigned long)bit,
                  (unsigned long)r.barrier, (unsigned long)f->acknowledged, r.verdict);
        /* Only the last batch may leave doubt; what a later one witnesses may not. */
        cr_assert_eq(r.verdict,
                     r.barrier + 1 == f->acknowledged ? last_verdict : VSHARD_WAL_CORRUPT,
                     "%s bit %lu: verdict %u", path, (unsigned long)bit, r.verdict);
    }
    cr_expect_geq(flips, everything ? bytes * 8 : bytes);
}

static size_t used_bytes(struct fixture *f)
{
    return (size_t)look(f, "whole", 0).offset;
}

Test(wal_tail, tells_every_flipped_bit, .timeout = 3000)
{
    struct fixture f;

    build(&f, 4, 0);
    acknowledge_last(&f);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    flip_all(&f, SEGMENT, used_bytes(&f), VSHARD_WAL_UNCERTAIN);
    finish(&f);
}

/* Also where the last batch is larger than what is always zeros. */
Test(wal_tail, tells_every_flipped_bit_of_a_segment_used_again, .timeout = 3000)
{
    for (uint32_t sectors = 4; sectors <= 4 + AHEAD; sectors += AHEAD) {
        struct fixture f;

        build_in(&f, sectors, 0, true);
        acknowledge_last(&f);
        crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
        flip_all(&f, SEGMENT, used_bytes(&f), VSHARD_WAL_UNCERTAIN);
        finish(&f);
    }
}

Test(wal_tail, survives_every_flipped_bit_of_the_superblock, .timeout = 3000)
{
    struct fixture f;

    build(&f, 2, 0);
    acknowledge_last(&f);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    flip_all(&f, "log/wal.super", 12288 + 512, VSHARD_WAL_CLEAN);
    finish(&f);
}

/* With a witness in the superblock even the last batch leaves no doubt. */
Test(wal_tail, knows_that_the_last_batch_was_synced_when_there_is_a_witness)
{
    struct fixture f;
    uint64_t end;

    build(&f, 4, 0);
    acknowledge_last(&f);
    cr_assert_eq(vshard_wal_witness(f.wal), VSHARD_OK);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_KEEP });
    end = used_bytes(&f);
    for (uint64_t bit = (end - 4 * 512) * 8; bit < end * 8; bit += 13) {
        struct vshard_wal_report r;

        fault_storage_flip(f.fs, SEGMENT, bit);
        r = look(&f, "witnessed", bit);
        fault_storage_flip(f.fs, SEGMENT, bit);
        cr_assert_eq(r.verdict, VSHARD_WAL_CORRUPT, "bit %lu: verdict %u", (unsigned long)bit,
                     r.verdict);
    }
    finish(&f);
}

/* Every subset of the last batch's sectors is on the disk. */
static void subsets(uint32_t sectors, uint32_t flags, uint32_t verdict, bool used)
{
    uint32_t states[64], chosen[64] = { 0 };
    uint64_t seen[4] = { 0 }, whole = 0;
    struct fixture f;
    size_t units;

    build_in(&f, sectors, flags, used);
    fault_storage_defer(f.fs, 1);
    cr_assert_eq(vshard_wal_poll(f.wal, NULL), VSHARD_OK); /* the write is under way, */
    while (fault_storage_request(f.fs, 0)->count != sectors * 512) { /* or more zeros first */
        fault_storage_complete(f.fs, 0);
        cr_assert_eq(vshard_wal_poll(f.wal, NULL), VSHARD_OK);
    }
    units = fault_storage_units(f.fs, 0, states, 64);
    cr_assert_geq(units, sectors);
    cr_assert_leq(units, 64);
    do {
        const struct fault_crash how = { .chosen = chosen };
        struct fixture g = f;
        struct vshard_wal_report r;

        g.fs = fault_storage_after(f.fs, &how);
        g.options.storage = fault_storage_hook(g.fs);
        r = look(&g, "subset", seen[0] + seen[1] + seen[2]);
        cr_assert_neq(r.verdict, VSHARD_WAL_CORRUPT);
        cr_assert_geq(r.barrier, f.acknowledged);
        seen[r.verdict]++;
        whole += r.barrier > f.acknowledged;
        fault_storage_destroy(g.fs);
    } while (fault_choice_next(chosen, states, units));
    cr_expect_eq(seen[VSHARD_WAL_CLEAN], 2, "no sector, and all of them: %lu",
                 (unsigned long)seen[VSHARD_WAL_CLEAN]);
    cr_expect_eq(whole, 1);
    cr_expect_eq(seen[verdict], (1u << sectors) - 2u, "%lu", (unsigned long)seen[verdict]);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    finish(&f);
}

Test(wal_tail, calls_every_subset_of_sectors_torn, .timeout = 600)
{
    for (uint32_t sectors = 2; sectors <= (getenv("VSHARD_LONG") ? 12u : 8u); sectors++)
        subsets(sectors, 0, VSHARD_WAL_TORN, false);
}

Test(wal_tail, calls_every_subset_torn_in_a_segment_used_again, .timeout = 600)
{
    for (uint32_t sectors = 2; sectors <= 11; sectors += 3)
        subsets(sectors, 0, VSHARD_WAL_TORN, true);
}

Test(wal_tail, calls_every_subset_uncertain_when_told_to_be_strict, .timeout = 600)
{
    subsets(6, VSHARD_WAL_STRICT, VSHARD_WAL_UNCERTAIN, false);
}

/* A bit flipped in a torn batch: nobody can know, and nobody says corrupt. */
Test(wal_tail, calls_a_torn_batch_that_also_rotted_uncertain)
{
    struct fixture f;
    uint64_t seed = 11, at;

    build(&f, 6, 0);
    fault_storage_defer(f.fs, 1);
    cr_assert_eq(vshard_wal_poll(f.wal, NULL), VSHARD_OK);
    at = fault_storage_request(f.fs, 0)->offset;
    for (int i = 0; i < 300; i++) {
        const struct fault_crash how = { .seed = random_next(&seed) };
        uint64_t bit = at * 8 + random_below(&seed, 6 * 4096);
        struct fixture g = f;
        struct vshard_wal_report r;

        g.fs = fault_storage_after(f.fs, &how);
        g.options.storage = fault_storage_hook(g.fs);
        fault_storage_flip(g.fs, SEGMENT, bit);
        r = look(&g, "rotted", bit);
        cr_assert_neq(r.verdict, VSHARD_WAL_CORRUPT);
        cr_assert_geq(r.barrier, f.acknowledged);
        fault_storage_destroy(g.fs);
    }
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    finish(&f);
}

/* ---- what is done about it ---- */

static int reopen(struct fixture *f, struct vshard_wal_report *report)
{
    *report = (struct vshard_wal_report){ .size = sizeof *report };
    return vshard_wal_open(&f->options, report, &f->wal);
}

/* A log whose last batch was acknowledged and has rotted, unwitnessed. */
static void build_uncertain(struct fixture *f)
{
    build(f, 4, 0);
    acknowledge_last(f);
    crash(f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    fault_storage_flip(f->fs, SEGMENT, used_bytes(f) * 8 - 5000);
}

Test(wal_tail, refuses_an_uncertain_tail_and_changes_nothing)
{
    struct fixture f;
    struct vshard_wal_report r;
    uint64_t writes;

    build_uncertain(&f);
    writes = fault_storage_count(f.fs, VSHARD_IO_WRITE);
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    cr_expect_eq(r.verdict, VSHARD_WAL_UNCERTAIN);
    cr_expect_eq(r.barrier, f.acknowledged - 1);
    cr_expect_eq(fault_storage_count(f.fs, VSHARD_IO_WRITE), writes);
    finish(&f);
}

/* A replica that crashes again before it has asked its peers must still know. */
Test(wal_tail, stays_unsettled_until_it_is_settled)
{
    struct fixture f;
    struct vshard_wal_report r;
    uint64_t barrier;

    build_uncertain(&f);
    f.options.tail = VSHARD_WAL_TAIL_FLAG;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.verdict, VSHARD_WAL_UNCERTAIN);
    cr_expect_eq(r.unsettled, 1);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.verdict, VSHARD_WAL_CLEAN);
    cr_expect_eq(r.unsettled, 1);
    cr_assert_eq(vshard_wal_settle(f.wal), VSHARD_OK);
    f.model.count--; /* the record that was cut */
    put(&f, 63, 100, &barrier);
    cr_assert_eq(vshard_wal_sync(f.wal, barrier), VSHARD_OK);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.unsettled, 0);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    vshard_wal_close(f.wal);
    finish(&f);
}

/* A full disk is no reason to give a log up: nothing has been lost, and space comes back. */
Test(wal_tail, is_settled_when_there_is_space_again)
{
    static const uint32_t does[] = { FAULT_FAIL, FAULT_SHORT };

    for (size_t i = 0; i < 2; i++) {
        const struct fault_rule rule = {
            .k = 1, .ops = 1 << VSHARD_IO_WRITE, .does = does[i], .status = VSHARD_ENOSPC
        };
        const struct fault_crash still = { .flags = FAULT_CRASH_KEEP };
        struct fixture f, g;
        struct vshard_wal_report r;
        uint64_t barrier;

        build_uncertain(&f);
        f.options.tail = VSHARD_WAL_TAIL_FLAG;
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        fault_storage_rule(f.fs, &rule);
        cr_expect_eq(vshard_wal_settle(f.wal), VSHARD_ENOSPC);
        fault_storage_heal(f.fs);
        f.model.count--; /* the record that was cut */
        put(&f, 63, 100, &barrier);
        cr_expect_eq(vshard_wal_sync(f.wal, barrier), VSHARD_OK);
        g = f;
        g.fs = fault_storage_after(f.fs, &still);
        g.options.storage = fault_storage_hook(g.fs);
        cr_assert_eq(reopen(&g, &r), VSHARD_OK);
        if (does[i] == FAULT_FAIL) /* else as much may have arrived as says so */
            cr_expect_eq(r.unsettled, 1, "it is not settled yet");
        vshard_wal_close(g.wal);
        fault_storage_destroy(g.fs);
        cr_expect_eq(vshard_wal_settle(f.wal), VSHARD_OK);
        crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
        cr_assert_eq(reopen(&f, &r), VSHARD_OK);
        cr_expect_eq(r.unsettled, 0);
        cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
        vshard_wal_close(f.wal);
        finish(&f);
    }
}

/* A sync that failed is another matter, whatever it says of the reason. */
Test(wal_tail, is_poisoned_when_the_sync_that_settles_it_fails)
{
    const struct fault_rule rule = {
        .k = 1, .ops = 1 << VSHARD_IO_SYNC, .does = FAULT_FAIL, .status = VSHARD_ENOSPC
    };
    struct fixture f;
    struct vshard_wal_report r;

    build_uncertain(&f);
    f.options.tail = VSHARD_WAL_TAIL_FLAG;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    fault_storage_rule(f.fs, &rule);
    cr_expect_eq(vshard_wal_settle(f.wal), VSHARD_EIO);
    cr_expect_eq(vshard_wal_settle(f.wal), VSHARD_EIO);
    cr_expect_eq(vshard_wal_poll(f.wal, NULL), VSHARD_EIO);
    vshard_wal_close(f.wal);
    finish(&f);
}

/* Whatever interrupts the repair of an uncertain tail, the next open either sees the
 * damage again or says unsettled. */
Test(wal_tail, forgets_no_doubt_when_its_repair_is_interrupted)
{
    struct fixture f;

    build_uncertain(&f);
    f.options.tail = VSHARD_WAL_TAIL_FLAG;
    for (uint64_t k = 1, struck = 1; struck > 0; k++) {
        for (uint64_t i = 0; i < 12; i++) {
            const struct fault_crash still = { .flags = FAULT_CRASH_KEEP },
                                     how = { .seed = k * 100 + i };
            struct fault_storage *before = fault_storage_after(f.fs, &still), *after;
            struct vshard_wal_options o = f.options;
            struct vshard_wal_report r = { .size = sizeof r };
            struct vshard_wal *wal;

            o.storage = fault_storage_hook(before);
            fault_storage_fail(before, k, FAULT_FOREVER);
            vshard_wal_open(&o, NULL, &wal);
            struck = fault_storage_struck(before);
            after = fault_storage_after(before, &how);
            fault_storage_heal(before);
            vshard_wal_close(wal);
            o.storage = fault_storage_hook(after);
            cr_assert_eq(vshard_wal_open(&o, &r, &wal), VSHARD_OK);
            cr_assert_eq(r.unsettled, 1, "request %lu, seed %lu: verdict %u", (unsigned long)k,
                         (unsigned long)how.seed, r.verdict);
            vshard_wal_close(wal);
            fault_storage_destroy(before);
            fault_storage_destroy(after);
        }
    }
    finish(&f);
}

Test(wal_tail, cuts_an_uncertain_tail_when_told_to)
{
    struct fixture f;
    struct vshard_wal_report r;

    build_uncertain(&f);
    f.options.tail = VSHARD_WAL_TAIL_CUT;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.unsettled, 0);
    cr_expect_null(model_differs(&f.model, f.wal, f.acknowledged - 1));
    vshard_wal_close(f.wal);
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.verdict, VSHARD_WAL_CLEAN);
    vshard_wal_close(f.wal);
    finish(&f);
}

Test(wal_tail, salvages_a_corrupt_log_only_when_told_to)
{
    struct fixture f;
    struct vshard_wal_report r;
    size_t bytes;

    build(&f, 4, 0);
    acknowledge_last(&f);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    fault_storage_flip(f.fs, SEGMENT, (4096 + 10 * 512) * 8 + 77);
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    cr_expect_eq(r.verdict, VSHARD_WAL_CORRUPT);
    cr_expect_lt(r.barrier, f.acknowledged - 1);
    f.options.flags |= VSHARD_WAL_SALVAGE;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.unsettled, 1);
    cr_expect_null(model_differs(&f.model, f.wal, r.barrier));
    vshard_wal_close(f.wal);
    cr_expect_not_null(fault_storage_bytes(f.fs, "log/0000000000000001.cut", &bytes));
    f.options.flags &= ~(uint32_t)VSHARD_WAL_SALVAGE;
    cr_assert_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.verdict, VSHARD_WAL_CLEAN);
    cr_expect_eq(r.unsettled, 1);
    vshard_wal_close(f.wal);
    finish(&f);
}

/* Is the last sector of the damage still in the log, or in what was kept aside? */
static bool has_the_damage(struct fault_storage *fs, uint64_t used)
{
    static const char *const path[] = { SEGMENT, "log/0000000000000001.cut" };
    bool found = false;

    for (size_t i = 0; i < 2; i++) {
        size_t bytes = 0;
        const unsigned char *at = fault_storage_bytes(fs, path[i], &bytes);

        for (size_t n = 0; at != NULL && i == 0 && n < 512 && bytes >= used; n++)
            found |= at[used - 512 + n] != 0;
        for (size_t n = 0; at != NULL && i == 1 && n < bytes; n++)
            found |= at[n] != 0;
    }
    return found;
}

/* What salvage cuts is kept beside the log, by a name that a crash does not take away. */
Test(wal_tail, loses_nothing_of_what_it_salvages)
{
    struct fixture f;
    uint64_t used;

    build(&f, 4, 0);
    acknowledge_last(&f);
    used = used_bytes(&f);
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    fault_storage_flip(f.fs, SEGMENT, (4096 + 10 * 512) * 8 + 77);
    f.options.flags |= VSHARD_WAL_SALVAGE;
    for (uint64_t k = 1, struck = 1; struck > 0; k++) {
        const struct fault_crash still = { .flags = FAULT_CRASH_KEEP };

        for (uint64_t i = 0; i < 8; i++) {
            const struct fault_crash how = { .seed = k * 100 + i,
                                             .flags = i == 0 ? FAULT_CRASH_LOSE : 0 };
            struct fault_storage *before = fault_storage_after(f.fs, &still), *after;
            struct vshard_wal_options o = f.options;
            struct vshard_wal *wal;

            o.storage = fault_storage_hook(before);
            fault_storage_fail(before, k, FAULT_FOREVER);
            vshard_wal_open(&o, NULL, &wal);
            struck = fault_storage_struck(before);
            after = fault_storage_after(before, &how);
            cr_expect(has_the_damage(after, used), "request %lu, seed %lu", (unsigned long)k,
                      (unsigned long)how.seed);
            fault_storage_heal(before);
            vshard_wal_close(wal);
            fault_storage_destroy(before);
            fault_storage_destroy(after);
        }
    }
    finish(&f);
}

Test(wal_tail, misses_a_segment_that_was_taken_away)
{
    struct vshard_wal_report r;
    struct fixture f;
    struct vshard_io io = { .op = VSHARD_IO_REMOVE, .path = "log/0000000000000002.wal" };
    uint64_t barrier;

    build(&f, 4, 0);
    for (uint64_t i = 64; i < 400; i++) {
        put(&f, i, 700, &barrier);
        cr_assert_eq(vshard_wal_sync(f.wal, barrier), VSHARD_OK);
    }
    crash(&f, &(struct fault_crash){ .flags = FAULT_CRASH_LOSE });
    f.options.storage->submit(f.options.storage->ctx, &io);
    cr_assert_eq(io.status, VSHARD_OK);
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    cr_expect_eq(r.verdict, VSHARD_WAL_CORRUPT);
    io = (struct vshard_io){ .op = VSHARD_IO_REMOVE, .path = "log/0000000000000001.wal" };
    f.options.storage->submit(f.options.storage->ctx, &io);
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    io = (struct vshard_io){ .op = VSHARD_IO_REMOVE, .path = "log/wal.super" };
    f.options.storage->submit(f.options.storage->ctx, &io);
    cr_expect_eq(reopen(&f, &r), VSHARD_ECORRUPT);
    f.options.flags |= VSHARD_WAL_SALVAGE;
    cr_expect_eq(reopen(&f, &r), VSHARD_OK);
    vshard_wal_close(f.wal);
    f.options.flags &= ~(uint32_t)VSHARD_WAL_SALVAGE;
    cr_expect_eq(reopen(&f, &r), VSHARD_OK);
    cr_expect_eq(r.unsettled, 1);
    vshard_wal_close(f.wal);
    finish(&f);
}
