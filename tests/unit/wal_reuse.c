/* wal_reuse.c - files that a log has left, and writes to again.
 *
 * Method: a log in small segments goes round until a segment stands in a file that was one
 * before; then what could make its past speak is done: a log made anew beside what another
 * left, a superblock lost, keys changed, a close with a batch under way, a disk that is nearly
 * full. Crash states are wal_states.c's and wal_crash.c's, flipped bits wal_tail.c's. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/wal_model.h"
#include "support/wal_writer.h"
#include "wal/log.h"

/* Entries with marks close behind, until there is a spare; returns the next index. */
static uint64_t go_round(struct writer *w, uint64_t i)
{
    uint64_t end = i + 2000;

    while (w->wal->spares == 0 || w->wal->current.head.ahead == 0) {
        cr_assert_lt(i, end, "nothing was used again");
        put(w, 1, VSHARD_WAL_ENTRY, i, 500);
        if (i % 10 == 0)
            put(w, 1, VSHARD_WAL_MARK, i - 5, 10);
        cr_assert_eq(vshard_wal_poll(w->wal, NULL), VSHARD_OK);
        i++;
    }
    return i;
}

static bool exists(struct fault_storage *fs, const char *path)
{
    size_t bytes;

    return fault_storage_bytes(fs, path, &bytes) != NULL;
}

static void do_now(struct fault_storage *fs, uint32_t op, const char *path)
{
    struct vshard_io io = { .op = op, .path = path };

    fault_storage_hook(fs)->submit(fault_storage_hook(fs)->ctx, &io);
}

/* The disk as it is, without the process. */
static struct fault_storage *stop(struct writer *w, struct fault_storage *fs,
                                  struct vshard_wal_options *o)
{
    struct fault_storage *after =
        fault_storage_after(fs, &(struct fault_crash){ .flags = FAULT_CRASH_KEEP });

    vshard_wal_close(w->wal);
    fault_storage_destroy(fs);
    o->storage = fault_storage_hook(after);
    return after;
}

/* An operator empties the directory and misses a file: the new log begins empty, whenever it
 * is stopped. */
Test(wal_reuse, finds_nothing_of_a_log_that_was_there_before)
{
    struct fault_storage *fs = disk(1), *after;
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_report r = { .size = sizeof r };
    struct writer w = { .seed = 1 };
    char path[40];

    model_init(&w.model);
    open_log(&w, &o);
    go_round(&w, 1);
    fs = stop(&w, fs, &o);
    do_now(fs, VSHARD_IO_REMOVE, "log/wal.super");
    for (unsigned i = 0; i < 60; i++) {
        snprintf(path, sizeof path, "log/%016x.wal", i);
        do_now(fs, VSHARD_IO_REMOVE, path);
    }
    cr_assert(exists(fs, "log/wal.spare0") || exists(fs, "log/wal.spare1"));
    do_now(fs, VSHARD_IO_SYNC_DIR, "log");
    for (uint64_t k = 1; k < 30; k++) {
        const struct fault_crash how = { .flags = FAULT_CRASH_KEEP };
        struct fault_storage *trial = fault_storage_after(fs, &how);
        struct vshard_wal_options p = o;
        struct vshard_wal_group g = { .size = sizeof g };

        p.storage = fault_storage_hook(trial);
        fault_storage_fail(trial, k, FAULT_FOREVER);
        if (vshard_wal_open(&p, NULL, &w.wal) == VSHARD_OK) {
            const struct vshard_wal_record record = { .group = 9, .index = 1, .kind = 1 };

            vshard_wal_append(w.wal, &record, 1, NULL);
            vshard_wal_poll(w.wal, NULL);
        }
        after = fault_storage_after(trial, &how);
        fault_storage_heal(trial);
        vshard_wal_close(w.wal);
        fault_storage_destroy(trial);
        p.storage = fault_storage_hook(after);
        cr_assert_eq(vshard_wal_open(&p, &r, &w.wal), VSHARD_OK, "request %lu", (unsigned long)k);
        cr_assert_leq(r.barrier, 1, "request %lu: %lu", (unsigned long)k, (unsigned long)r.barrier);
        cr_assert_eq(vshard_wal_find(w.wal, 1, &g), VSHARD_ENOTFOUND);
        vshard_wal_close(w.wal);
        fault_storage_destroy(after);
    }
    fault_storage_destroy(fs);
    model_fini(&w.model);
}

/* Also one that is wanted at once, which a new file would be as it is: what stands in a spare is
 * never taken for zeros. */
Test(wal_reuse, trusts_no_length_of_a_spare)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_report report = { .size = sizeof report };
    struct writer w = { .seed = 1 };
    uint64_t i = 1;

    o.flags = VSHARD_WAL_UNPACKED;
    model_init(&w.model);
    open_log(&w, &o);
    /* Until one is being filled with zeros, and the current segment is far enough. */
    for (;
         !w.wal->making.old || w.wal->making.ready || w.wal->current.end < w.wal->current.bytes / 3;
         i++) {
        cr_assert_lt(i, (uint64_t)2000);
        put(&w, 1, VSHARD_WAL_ENTRY, i, 500);
        if (i > 4)
            put(&w, 1, VSHARD_WAL_MARK, i - 2, 10);
        cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    }
    cr_assert_eq(vshard_wal_rotate(w.wal, 0), VSHARD_OK);
    put(&w, 1, VSHARD_WAL_ENTRY, i, 500);
    cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    cr_assert_neq(w.wal->current.head.ahead, 0, "the spare is not used");
    fs = stop(&w, fs, &o);
    cr_assert_eq(vshard_wal_open(&o, &report, &w.wal), VSHARD_OK);
    cr_expect_eq(report.verdict, VSHARD_WAL_CLEAN);
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

/* After an older superblock had to do, numbers are given again that stand in files of before. */
Test(wal_reuse, hears_no_witness_from_before_a_salvage)
{
    static unsigned char payload[500];

    for (uint64_t seed = 1; seed < 100; seed++) {
        struct fault_storage *fs = disk(seed), *after;
        struct vshard_wal_options o = options(fs);
        struct vshard_wal_report r = { .size = sizeof r };
        const struct fault_crash keep = { .flags = FAULT_CRASH_KEEP };
        struct vshard_wal_record record = { .group = 2, .kind = VSHARD_WAL_ENTRY };
        struct writer w = { .seed = seed };
        uint64_t i, barrier = 0, newest;

        model_init(&w.model);
        open_log(&w, &o);
        i = go_round(&w, 1);
        for (uint64_t n = 0; n < seed * 3; n++) { /* on, to another place each time */
            put(&w, 1, VSHARD_WAL_ENTRY, i, 500);
            cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
            i++;
        }
        newest = w.wal->super.generation % 2 * 2 * VS_WAL_SUPER_SLOT;
        fs = stop(&w, fs, &o);
        for (uint64_t slot = 0; slot < 2; slot++)
            fault_storage_flip(fs, "log/wal.super", (newest + slot * VS_WAL_SUPER_SLOT + 100) * 8);
        o.flags = VSHARD_WAL_SALVAGE;
        cr_assert_eq(vshard_wal_open(&o, &r, &w.wal), VSHARD_OK);
        cr_assert_eq(vshard_wal_settle(w.wal), VSHARD_OK);
        record.payload = payload;
        record.payload_bytes = 500;
        for (record.index = 1; record.index < 5 + seed * 2; record.index++) {
            cr_assert_eq(vshard_wal_append(w.wal, &record, 1, &barrier), VSHARD_OK);
            cr_assert_eq(vshard_wal_sync(w.wal, barrier), VSHARD_OK);
        }
        after = fault_storage_after(fs, &keep);
        vshard_wal_close(w.wal);
        o.flags = 0;
        o.storage = fault_storage_hook(after);
        cr_assert_eq(vshard_wal_open(&o, &r, &w.wal), VSHARD_OK,
                     "seed %lu: verdict %u at %lu of %lu", (unsigned long)seed, r.verdict,
                     (unsigned long)r.barrier, (unsigned long)barrier);
        cr_assert_eq(r.barrier, barrier);
        vshard_wal_close(w.wal);
        fault_storage_destroy(after);
        fault_storage_destroy(fs);
        model_fini(&w.model);
    }
}

/* What was written without a key, or with another, is gone when the log says so. */
static int key_hook(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    memset(key, (int)key_id, 32);
    return 0;
}

static uint64_t plain_sectors(struct fault_storage *fs)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < 200; i++) {
        const unsigned char *bytes;
        char path[40];
        size_t n = 0;

        if (i < VS_WAL_SPARES)
            snprintf(path, sizeof path, "log/wal.spare%u", i);
        else
            snprintf(path, sizeof path, "log/%016x.wal", i - VS_WAL_SPARES);
        bytes = fault_storage_bytes(fs, path, &n);
        for (size_t at = 0; bytes != NULL && at + 512 <= n; at += 512)
            count += memchr(bytes + at, 'S', 512) != NULL &&
                     memcmp(bytes + at + 200, "SSSSSSSSSSSSSSSS", 16) == 0;
    }
    return count;
}

Test(wal_reuse, leaves_nothing_under_a_key_that_is_no_longer_needed)
{
    static char secret[600];
    struct vshard_wal_hooks hooks = { .size = sizeof hooks, .key = key_hook };
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_stats s = { .size = sizeof s };
    struct vshard_wal_record r = { .group = 1, .kind = VSHARD_WAL_ENTRY };
    struct vshard_wal *wal;

    memset(secret, 'S', sizeof secret);
    o.hooks = &hooks;
    o.flags = VSHARD_WAL_UNPACKED;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    for (uint64_t i = 1; i < 1000; i++) {
        r = (struct vshard_wal_record){ .group = 1,
                                        .index = i,
                                        .kind = VSHARD_WAL_ENTRY,
                                        .payload = secret,
                                        .payload_bytes = 600 };
        if (i == 300 && vshard_wal_rotate(wal, 1) != VSHARD_OK)
            break; /* a build without libsodium */
        cr_assert_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_OK);
        if (i % 20 == 0 && i > 150) { /* so far behind that full segments go under the new key */
            r = (struct vshard_wal_record){ .group = 1, .index = i - 150, .kind = VSHARD_WAL_MARK };
            cr_assert_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_OK);
        }
        cr_assert_eq(vshard_wal_poll(wal, NULL), VSHARD_OK);
        cr_assert_eq(vshard_wal_stats_read(wal, &s), VSHARD_OK);
        if (i < 300)
            continue;
        if (s.other_keys == 0) {
            cr_expect_eq(plain_sectors(fs), 0, "entry %lu: %lu sectors", (unsigned long)i,
                         (unsigned long)plain_sectors(fs));
            break;
        }
        cr_assert_lt(i, 900);
    }
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

/* The batch under way when a log is closed is written, and not counted; the next run writes
 * another of its number. */
Test(wal_reuse, cuts_for_good_what_was_under_way_when_it_was_closed)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct writer w = { .seed = 1 };

    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 1, VSHARD_WAL_ENTRY, 1, 100);
    cr_assert_eq(vshard_wal_sync(w.wal, 1), VSHARD_OK);
    fault_storage_defer(fs, 1);
    put(&w, 1, VSHARD_WAL_ENTRY, 2, 3000);
    cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    vshard_wal_close(w.wal);
    w.model.count--;
    fault_storage_defer(fs, 0);
    open_log(&w, &o);
    w.term[1] = 2;
    for (uint64_t i = 2; i < 4; i++) {
        put(&w, 1, VSHARD_WAL_ENTRY, i, 10);
        cr_assert_eq(vshard_wal_sync(w.wal, i), VSHARD_OK);
    }
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct fault_storage *after =
            fault_storage_after(fs, &(struct fault_crash){ .seed = seed });
        struct vshard_wal_report r = { .size = sizeof r };
        struct vshard_wal_options p = o;
        struct vshard_wal *wal;

        p.storage = fault_storage_hook(after);
        cr_assert_eq(vshard_wal_open(&p, &r, &wal), VSHARD_OK, "seed %lu: verdict %u",
                     (unsigned long)seed, r.verdict);
        cr_assert_eq(r.barrier, 3);
        cr_assert_null(model_differs(&w.model, wal, 3));
        vshard_wal_close(wal);
        fault_storage_destroy(after);
    }
    vshard_wal_close(w.wal);
    fault_storage_destroy(fs);
    model_fini(&w.model);
}

/* Spares are room that the log gives back before it refuses anything. */
static void fill_small_disk(int rotate_every)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r = { .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY };
    uint64_t refused = 0, marked = 0;
    static char payload[300];
    struct vshard_wal *wal;

    o.pending_bytes = 16 << 10;
    o.flags = VSHARD_WAL_UNPACKED;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    fault_storage_capacity(fs, 7 * (32 << 10));
    r.payload = payload;
    r.payload_bytes = sizeof payload;
    for (int k = 0; k < 6000; k++) {
        if (vshard_wal_append(wal, &r, 1, NULL) == VSHARD_OK)
            r.index++;
        else
            refused++;
        vshard_wal_poll(wal, NULL);
        if (r.index > marked + 60) {
            const struct vshard_wal_record m = { .group = 1,
                                                 .index = r.index - 30,
                                                 .kind = VSHARD_WAL_MARK };

            if (vshard_wal_append(wal, &m, 1, NULL) == VSHARD_OK)
                marked = m.index;
        }
        if (k % rotate_every == rotate_every - 1)
            vshard_wal_rotate(wal, 0);
    }
    cr_expect_eq(refused, 0, "a rotation in %d: %lu of 6,000 refused", rotate_every,
                 (unsigned long)refused);
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

Test(wal_reuse, refuses_nothing_for_the_sake_of_spares)
{
    fill_small_disk(90);
    fill_small_disk(125);
    fill_small_disk(6000);
}

/* A mark that is copied forward says nothing of entries that came after it. */
Test(wal_reuse, copies_no_mark_over_entries_that_came_after_it)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_group g = { .size = sizeof g };
    struct writer w = { .seed = 1 };

    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 1, VSHARD_WAL_MARK, 20, 10);
    for (uint64_t i = 5; i < 10; i++) {
        cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
        cr_assert_eq(vshard_wal_rotate(w.wal, 0), VSHARD_OK);
        put(&w, 1, VSHARD_WAL_ENTRY, i, 10);
    }
    cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    cr_assert_eq(vshard_wal_find(w.wal, 1, &g), VSHARD_OK);
    cr_expect_eq(g.first, 5);
    cr_expect_eq(g.last, 9);
    vshard_wal_close(w.wal);
    fault_storage_destroy(fs);
    model_fini(&w.model);
}

static bool is_used(const struct vshard_wal *w, uint64_t segment)
{
    return vs_wal_segment_find(&w->index, segment) != NULL ||
           (w->making.open && w->making.head.segment == segment);
}

/* A spare has its new name, which the directory finds no room for. */
Test(wal_reuse, leaves_no_file_where_a_directory_has_no_room_for_a_name)
{
    const struct fault_rule full = {
        .k = 1, .ops = 1 << VSHARD_IO_SYNC_DIR, .how = FAULT_FOREVER, .status = VSHARD_ENOSPC
    };
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r = { .group = 1, .kind = VSHARD_WAL_ENTRY };
    static char payload[500];
    struct writer w = { .seed = 1 };
    uint64_t refused = 0, struck;
    int rc = VSHARD_ENOSPC;

    model_init(&w.model);
    open_log(&w, &o);
    r.index = go_round(&w, 1);
    r.payload = payload;
    r.payload_bytes = sizeof payload;
    fault_storage_rule(fs, &full);
    struck = fault_storage_struck(fs);
    for (int i = 0; i < 600; i++) {
        rc = vshard_wal_append(w.wal, &r, 1, NULL);
        cr_assert(rc == VSHARD_OK || rc == VSHARD_ENOSPC);
        r.index += rc == VSHARD_OK;
        refused += rc != VSHARD_OK;
        vshard_wal_poll(w.wal, NULL);
    }
    cr_assert_gt(refused, 0);
    cr_assert_gt(fault_storage_struck(fs), struck);
    fault_storage_heal(fs);
    for (int i = 0; i < 70; i++)
        rc = vshard_wal_poll(w.wal, NULL);
    cr_assert_eq(rc, VSHARD_OK);
    for (uint64_t i = 1; i < w.wal->next_segment; i++) {
        char path[40];

        snprintf(path, sizeof path, "log/%016llx.wal", (unsigned long long)i);
        cr_expect_eq(exists(fs, path), is_used(w.wal, i), "%s", path);
    }
    vshard_wal_close(w.wal);
    fault_storage_destroy(fs);
    model_fini(&w.model);
}
