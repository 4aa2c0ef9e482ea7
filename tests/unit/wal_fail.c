/* wal_fail.c - the k-th allocation and the k-th storage request fail.
 *
 * Method: one scenario, which opens a log, writes, rotates, copies groups forward,
 * closes, opens again and reads. It runs with the first call failing, then the
 * second, and so on until a run meets no failure; each time once with that call
 * alone failing and once with it and all after it. Afterwards nothing has leaked,
 * what was acknowledged is there, and what is there is the state at the barrier that
 * is reported (support/wal_model.h). Then the ways in which a disk lies: short and
 * misdirected writes, reads that are stale or wrong. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/wal_model.h"
#include "wire/wire.h"

struct trial {
    struct fault_storage *fs;
    struct model model;
    struct vshard_wal_options options;
    uint64_t acknowledged;
    int status; /* the first failure */
};

static int key_hook(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    memset(key, (int)key_id, 32);
    return 0;
}

static const struct vshard_wal_hooks keys = { .size = sizeof keys, .key = key_hook };

static void begin(struct trial *t, const struct vshard_allocator *memory)
{
    *t = (struct trial){ .fs = fault_storage_create(3) };
    fault_storage_mkdir(t->fs, "log");
    model_init(&t->model);
    t->options = (struct vshard_wal_options){ .size = sizeof t->options,
                                              .log_id = 7,
                                              .segment_bytes = 64 << 10,
                                              .rewrite_above = 2,
                                              .path = "log",
                                              .hooks = &keys,
                                              .allocator = memory,
                                              .storage = fault_storage_hook(t->fs) };
}

static void end(struct trial *t)
{
    fault_storage_destroy(t->fs);
    model_fini(&t->model);
}

static int count_entry(void *ctx, const struct vshard_wal_record *r,
                       const struct vshard_wal_place *place)
{
    (void)r, (void)place;
    ++*(uint64_t *)ctx;
    return 0;
}

static int note_status(struct trial *t, int rc)
{
    if (t->status == VSHARD_OK)
        t->status = rc;
    return rc;
}

/* Appends, and tries again once after a failure: state must be as it was before. */
static int put(struct trial *t, struct vshard_wal *wal, const struct vshard_wal_record *r,
               uint64_t *barrier)
{
    int rc = model_append(&t->model, wal, r, barrier);

    if (rc == VSHARD_ENOMEM) {
        note_status(t, rc);
        rc = model_append(&t->model, wal, r, barrier);
    }
    return rc;
}

static int fill(struct trial *t, struct vshard_wal *wal, uint64_t from)
{
    struct vshard_wal_record r = { .group = 1, .index = from, .term = 1 };
    uint64_t barrier = 0;
    int rc = VSHARD_OK;

    for (uint64_t i = from; i < from + 120 && rc == VSHARD_OK; i++) {
        r = (struct vshard_wal_record){
            .group = 1, .index = i, .term = i / 7, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 2500
        };
        if (i % 40 == 3) {
            r.group = 2 + i / 40;
            r.payload_bytes = 100;
        } else if (i % 10 == 9) {
            r.kind = VSHARD_WAL_MARK;
            r.index = i - 2;
            r.payload_bytes = 30;
        } else if (i % 10 == 5) {
            r.kind = VSHARD_WAL_VOTE;
            r.payload_bytes = 0;
        }
        rc = put(t, wal, &r, &barrier);
        if (rc == VSHARD_OK && i % 3 == 0) {
            rc = vshard_wal_sync(wal, barrier);
            if (rc == VSHARD_ENOMEM) {
                note_status(t, rc);
                rc = vshard_wal_sync(wal, barrier);
            }
            if (rc == VSHARD_OK)
                t->acknowledged = barrier;
        }
    }
    return note_status(t, rc);
}

static int scenario(struct trial *t)
{
    struct vshard_wal_visitor visitor = { count_entry, &(uint64_t){ 0 } };
    struct vshard_wal *wal;

    if (note_status(t, vshard_wal_open(&t->options, NULL, &wal)) < 0)
        return t->status;
    fill(t, wal, 1);
    vshard_wal_rotate(wal, vs_seal_init() < 0 ? 0 : 1);
    if (t->status == VSHARD_OK || t->status == VSHARD_ENOMEM)
        fill(t, wal, 121);
    vshard_wal_close(wal);
    if (t->status < 0)
        return t->status;
    if (note_status(t, vshard_wal_open(&t->options, NULL, &wal)) < 0)
        return t->status;
    note_status(t, vshard_wal_replay(wal, &visitor));
    note_status(t, vshard_wal_read(wal, 1, 240, &visitor));
    vshard_wal_close(wal);
    return t->status;
}

/* Opens what the trial left, with everything working, and compares. */
static void examine(struct trial *t, struct fault_storage *fs, const char *what, uint64_t k)
{
    struct vshard_wal_options o = t->options;
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    const char *wrong;
    int rc;

    o.allocator = NULL;
    o.storage = fault_storage_hook(fs);
    rc = vshard_wal_open(&o, &report, &wal);
    cr_assert_eq(rc, VSHARD_OK, "%s %lu: open says %d, verdict %u", what, (unsigned long)k, rc,
                 report.verdict);
    cr_assert_leq(report.verdict, VSHARD_WAL_TORN, "%s %lu", what, (unsigned long)k);
    cr_assert_geq(report.barrier, t->acknowledged, "%s %lu", what, (unsigned long)k);
    wrong = model_differs(&t->model, wal, report.barrier);
    cr_assert_null(wrong, "%s %lu: %s", what, (unsigned long)k, wrong);
    vshard_wal_close(wal);
    wrong = fault_storage_verdict(fs);
    cr_assert_null(wrong, "%s %lu: %s", what, (unsigned long)k, wrong);
}

static int with_memory(const struct vshard_allocator *memory, void *arg)
{
    struct trial t;
    int rc;

    (void)arg;
    begin(&t, memory);
    rc = scenario(&t);
    examine(&t, t.fs, "allocation", 0);
    end(&t);
    return rc;
}

Test(wal_fail, survives_every_failing_allocation, .timeout = 600)
{
    char why[256] = "";
    uint64_t runs = fault_alloc_try_each(with_memory, NULL, why, sizeof why);

    cr_expect_gt(runs, 100, "%lu runs: %s", (unsigned long)runs, why);
}

/* An append of many records that fails at its k-th allocation has done nothing, and
 * the same append works afterwards. */
Test(wal_fail, takes_all_records_of_an_append_or_none)
{
    static const uint32_t kinds[] = { VSHARD_WAL_NOTE, VSHARD_WAL_ENTRY, VSHARD_WAL_MARK,
                                      VSHARD_WAL_VOTE };
    static unsigned char payload[3000];
    struct vshard_wal_record records[24];
    uint64_t failed = 0;

    for (uint64_t i = 0; i < 24; i++)
        records[i] = (struct vshard_wal_record){ .group = i % 6,
                                                 .index = i / 6 + 1,
                                                 .kind = kinds[i % 4],
                                                 .payload = payload,
                                                 .payload_bytes = i % 4 == 3 ? 0 : 2000 };
    for (uint64_t k = 1, met = 1; met > 0; k++) {
        struct vshard_wal_stats before = { .size = sizeof before }, after = before;
        struct vshard_wal_group about = { .size = sizeof about };
        struct fault_alloc memory;
        struct vshard_wal *wal;
        struct trial t;
        uint64_t barrier;
        int rc;

        fault_alloc_init(&memory);
        begin(&t, &memory.hook);
        cr_assert_eq(vshard_wal_open(&t.options, NULL, &wal), VSHARD_OK);
        cr_assert_eq(vshard_wal_append(wal, records, 3, &barrier), VSHARD_OK);
        vshard_wal_stats_read(wal, &before);
        fault_alloc_fail(&memory, k, FAULT_ONCE);
        met = memory.failures;
        rc = vshard_wal_append(wal, records, 24, &barrier);
        met = memory.failures - met;
        fault_alloc_fail(&memory, 0, FAULT_ONCE);
        cr_assert_eq(rc, met ? VSHARD_ENOMEM : VSHARD_OK, "k=%lu: %d", (unsigned long)k, rc);
        if (rc < 0) {
            failed++;
            vshard_wal_stats_read(wal, &after);
            cr_assert_eq(after.appended, before.appended, "k=%lu", (unsigned long)k);
            cr_assert_eq(after.pending_bytes, before.pending_bytes, "k=%lu", (unsigned long)k);
            cr_assert_eq(vshard_wal_append(wal, records, 24, &barrier), VSHARD_OK);
        }
        cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_find(wal, 0, &about), VSHARD_OK);
        cr_expect_eq(about.note_bytes, 2000);
        vshard_wal_stats_read(wal, &after);
        cr_expect_eq(after.records, 27);
        cr_expect_eq(after.pending_bytes, 0);
        vshard_wal_close(wal);
        cr_assert_null(fault_alloc_verdict(&memory), "k=%lu: %s", (unsigned long)k,
                       fault_alloc_verdict(&memory));
        fault_alloc_fini(&memory);
        end(&t);
    }
    cr_expect_gt(failed, 10, "%lu", (unsigned long)failed);
}

static int storage_trial(uint64_t k, uint32_t how, int32_t status, uint32_t does)
{
    struct fault_rule rule = { .k = k, .how = how, .does = does, .status = status };
    struct fault_storage *after;
    struct trial t;
    uint64_t struck;

    begin(&t, NULL);
    fault_storage_rule(t.fs, &rule);
    scenario(&t);
    struck = fault_storage_struck(t.fs);
    fault_storage_heal(t.fs);
    /* A segment that could not be made ahead of its time is no failure, and neither
     * is a file that could not be closed, which is how the scenario ends. */
    cr_assert(struck <= 4 || t.status < 0 || how == FAULT_ONCE || status == VSHARD_ENOSPC,
              "k=%lu: a failure went unnoticed", (unsigned long)k);
    for (uint64_t i = 0; i < 3; i++) {
        const struct fault_crash crash = { .seed = k + i, .flags = i == 0 ? FAULT_CRASH_LOSE : 0 };

        after = fault_storage_after(t.fs, &crash);
        examine(&t, after, "request, power cut", k);
        fault_storage_destroy(after);
    }
    examine(&t, t.fs, "request", k);
    end(&t);
    return struck > 0;
}

Test(wal_fail, survives_every_failing_request, .timeout = 600)
{
    uint64_t k = 1;

    for (; storage_trial(k, FAULT_ONCE, VSHARD_EIO, FAULT_FAIL); k++)
        storage_trial(k, FAULT_FOREVER, VSHARD_EIO, FAULT_FAIL);
    cr_expect_gt(k, 200);
}

Test(wal_fail, survives_every_request_that_finds_no_space, .timeout = 600)
{
    uint64_t k = 1;

    for (; storage_trial(k, FAULT_ONCE, VSHARD_ENOSPC, FAULT_SHORT); k++)
        storage_trial(k, FAULT_FOREVER, VSHARD_ENOSPC, FAULT_SHORT);
    cr_expect_gt(k, 200);
}

/* A disk that lies may lose what it acknowledged; the log may not make things up,
 * nor call anything whole that is not. */
Test(wal_fail, makes_nothing_up_when_the_disk_lies, .timeout = 600)
{
    static const uint32_t lies[] = { FAULT_LIE, FAULT_MISDIRECT, FAULT_STALE, FAULT_FLIP };
    uint64_t refused = 0, opened = 0;

    for (uint64_t k = 1; k < 400; k += 3) {
        for (size_t i = 0; i < 4; i++) {
            struct fault_rule rule = { .k = k, .does = lies[i] };
            const struct fault_crash crash = { .seed = k };
            struct vshard_wal_report report = { .size = sizeof report };
            struct fault_storage *after;
            struct vshard_wal *wal;
            struct trial t;

            begin(&t, NULL);
            t.options.flags = k % 2 ? VSHARD_WAL_UNPACKED : 0;
            rule.ops = lies[i] == FAULT_LIE         ? 1 << VSHARD_IO_WRITE | 1 << VSHARD_IO_SYNC
                       : lies[i] == FAULT_MISDIRECT ? 1 << VSHARD_IO_READ | 1 << VSHARD_IO_WRITE
                                                    : 1 << VSHARD_IO_READ;
            fault_storage_rule(t.fs, &rule);
            scenario(&t);
            fault_storage_heal(t.fs);
            after = fault_storage_after(t.fs, &crash);
            t.options.storage = fault_storage_hook(after);
            if (vshard_wal_open(&t.options, &report, &wal) == VSHARD_OK) {
                const char *wrong = model_differs(&t.model, wal, report.barrier);

                cr_assert_null(wrong, "lie %u at %lu: %s", lies[i], (unsigned long)k, wrong);
                opened++;
            } else {
                cr_assert_geq(report.verdict, VSHARD_WAL_UNCERTAIN, "lie %u at %lu", lies[i],
                              (unsigned long)k);
                refused++;
            }
            vshard_wal_close(wal);
            fault_storage_destroy(after);
            end(&t);
        }
    }
    cr_expect_gt(opened, 100, "%lu", (unsigned long)opened);
    cr_expect_gt(refused, 3, "%lu", (unsigned long)refused);
}
