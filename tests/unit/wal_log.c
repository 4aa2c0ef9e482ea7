/* wal_log.c - what goes in comes out: batches, rotation, votes, seals.
 *
 * Method: random appends to up to eight groups on storage in memory, mirrored in a
 * model (support/wal_model.h) that applies every record by hand; after each round
 * and after each reopening, all that the log tells is compared with the model. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <time.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/seeds.h"
#include "support/wal_model.h"
#include "support/wal_writer.h"
#include "wire/wire.h"

static int key_hook(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    if (key_id == 0 || key_id > 3)
        return -1;
    memset(key, (int)key_id, 32);
    return 0;
}

static int count_visits(void *ctx, const struct vshard_wal_record *r,
                        const struct vshard_wal_place *place)
{
    (void)r, (void)place;
    ++*(uint64_t *)ctx;
    return 0;
}

static const struct vshard_wal_hooks keys = { .size = sizeof keys, .key = key_hook };

static void one(struct writer *w)
{
    uint64_t g = random_below(&w->seed, MODEL_GROUPS), what = random_below(&w->seed, 20);

    if (what < 12 && w->last[g] + 1 < MODEL_ENTRIES) {
        put(w, g, VSHARD_WAL_ENTRY, ++w->last[g], (uint32_t)random_below(&w->seed, 900));
    } else if (what < 14 && w->last[g] > w->mark[g]) {
        uint64_t from = w->mark[g] + 1 + random_below(&w->seed, w->last[g] - w->mark[g]);

        w->term[g]++;
        if (what == 12)
            put(w, g, VSHARD_WAL_CUT, from, 0);
        put(w, g, VSHARD_WAL_ENTRY, from, 40);
        w->last[g] = from;
    } else if (what == 14) {
        w->term[g]++;
        put(w, g, VSHARD_WAL_VOTE, random_below(&w->seed, 3), 0);
    } else if (what == 15) {
        put(w, g, VSHARD_WAL_COMMIT, w->last[g], 0);
    } else if (what == 16 && w->last[g] > w->mark[g]) {
        w->mark[g] += 1 + random_below(&w->seed, w->last[g] - w->mark[g]);
        put(w, g, VSHARD_WAL_MARK, w->mark[g], (uint32_t)random_below(&w->seed, 200));
    } else if (what == 17) {
        put(w, g, VSHARD_WAL_NOTE, 0, (uint32_t)random_below(&w->seed, 100));
    } else if (what == 18 && random_one_in(&w->seed, 20)) {
        put(w, g, VSHARD_WAL_FORGET, 0, 0);
        w->last[g] = w->mark[g] = w->term[g] = 0;
    }
}

/* Appends, syncs, reopens; every few rounds all is compared. */
static void run(const struct vshard_wal_options *o, uint64_t seed, int rounds)
{
    struct writer w = { .seed = seed };
    uint64_t durable = 0;

    model_init(&w.model);
    open_log(&w, o);
    for (int i = 0; i < rounds; i++) {
        for (uint64_t n = random_below(&w.seed, 30); n > 0; n--)
            one(&w);
        cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
        if (random_one_in(&w.seed, 16))
            cr_assert_eq(vshard_wal_rotate(w.wal, o->hooks ? (uint32_t)(1 + i % 3) : 0), VSHARD_OK);
        if (random_one_in(&w.seed, 8))
            check(&w, durable, "running");
        if (random_one_in(&w.seed, 8)) {
            check(&w, durable, "before closing");
            vshard_wal_close(w.wal);
            open_log(&w, o);
            check(&w, durable, "reopened");
        }
    }
    vshard_wal_close(w.wal);
    model_fini(&w.model);
}

Test(wal_log, holds_what_was_appended_for_each_seed, .timeout = 600)
{
    for (uint64_t seed = seeds_first(); seed < seeds_end(4); seed++) {
        struct fault_storage *fs = disk(seed);
        struct vshard_wal_options o = options(fs);

        o.flags = seed % 2 ? VSHARD_WAL_UNPACKED : 0;
        o.flags |= seed % 4 > 1 ? VSHARD_WAL_SPARSE : 0;
        o.rewrite_above = 2;
        fault_storage_refuse_reserves(fs, seed & 1);
        run(&o, seed, 120);
        cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
        fault_storage_destroy(fs);
    }
}

Test(wal_log, holds_what_was_sealed)
{
    struct fault_storage *fs;
    struct vshard_wal_options o;

    if (vs_seal_init() < 0)
        return;
    fs = disk(1);
    o = options(fs);
    o.hooks = &keys;
    o.key_id = 1;
    run(&o, 5, 100);
    fault_storage_destroy(fs);
}

Test(wal_log, reads_nothing_with_the_wrong_key)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    const struct vshard_wal_record r = { .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY };
    struct vshard_wal_hooks none = { .size = sizeof none };
    struct vshard_wal *wal;
    uint64_t barrier;

    if (vs_seal_init() < 0) {
        fault_storage_destroy(fs);
        return;
    }
    o.hooks = &keys;
    o.key_id = 1;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    vshard_wal_close(wal);
    o.key_id = 0;
    o.hooks = &none;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_ENOTFOUND);
    cr_expect_null(wal);
    fault_storage_destroy(fs);
}

/* A vote is in the first batch that leaves, however much bulk was there before; but for
 * that of a group of which nothing is there, which comes with what begins the group. */
Test(wal_log, puts_votes_ahead_of_bulk)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r = { .group = 1, .kind = VSHARD_WAL_ENTRY };
    static unsigned char payload[4000];
    uint64_t first = 0, bulk = 0, vote = 0, born = 0, durable = 0;
    struct vshard_wal *wal;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    r.group = 2;
    r.index = 1;
    cr_assert_eq(vshard_wal_append(wal, &r, 1, &first), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, first), VSHARD_OK);
    r.group = 1;
    fault_storage_defer(fs, 1);
    r.payload = payload;
    r.payload_bytes = sizeof payload;
    for (r.index = 1; r.index <= 40; r.index++)
        cr_assert_eq(vshard_wal_append(wal, &r, 1, r.index == 1 ? &first : &bulk), VSHARD_OK);
    r = (struct vshard_wal_record){ .group = 2, .index = 3, .term = 9, .kind = VSHARD_WAL_VOTE };
    cr_assert_eq(vshard_wal_append(wal, &r, 1, &vote), VSHARD_OK);
    cr_expect_eq(first, vote);
    cr_expect_gt(bulk, vote + 10);
    r.group = 3;
    cr_assert_eq(vshard_wal_append(wal, &r, 1, &born), VSHARD_OK);
    cr_expect_eq(born, bulk);
    while (durable < bulk) {
        cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
        fault_storage_drain(fs);
    }
    vshard_wal_close(wal);
    cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

/* A vote overtakes entries, but not the forget of its own group. */
Test(wal_log, lets_no_vote_overtake_a_forget)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_group about = { .size = sizeof about };
    struct writer w = { .seed = 1 };
    uint64_t durable = 0;

    model_init(&w.model);
    open_log(&w, &o);
    put(&w, 2, VSHARD_WAL_VOTE, 1, 0);
    for (uint64_t i = 1; i < 40; i++)
        put(&w, 1, VSHARD_WAL_ENTRY, i, 800);
    put(&w, 2, VSHARD_WAL_FORGET, 0, 0);
    put(&w, 2, VSHARD_WAL_VOTE, 3, 0);
    cr_assert_eq(vshard_wal_poll(w.wal, &durable), VSHARD_OK);
    cr_assert_eq(vshard_wal_find(w.wal, 2, &about), VSHARD_OK);
    cr_expect_eq(about.vote, 3);
    check(&w, durable, "running");
    vshard_wal_close(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

/* What waits has a limit; one append larger than it goes through alone. */
Test(wal_log, says_busy_when_too_much_waits)
{
    static unsigned char payload[5000];
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r = { .group = 1,
                                   .index = 1,
                                   .kind = VSHARD_WAL_ENTRY,
                                   .payload = payload,
                                   .payload_bytes = sizeof payload };
    struct vshard_wal *wal;
    uint64_t barrier = 0;
    int rc = VSHARD_OK;

    o.pending_bytes = 40000;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    fault_storage_defer(fs, 1);
    while (rc == VSHARD_OK) {
        rc = vshard_wal_append(wal, &r, 1, &barrier);
        r.index += rc == VSHARD_OK;
    }
    cr_expect_eq(rc, VSHARD_EBUSY);
    cr_expect_eq(r.index, 8, "%lu", (unsigned long)r.index);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    cr_expect_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    vshard_wal_close(wal);
    o.pending_bytes = 100;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    r.index = 9;
    cr_expect_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

/* One sync makes the appends of all groups durable. */
Test(wal_log, syncs_once_for_all_groups)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal *wal;
    struct vshard_wal_record r = { .kind = VSHARD_WAL_ENTRY, .index = 1 };
    uint64_t barrier, before;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    before = fault_storage_count(fs, VSHARD_IO_SYNC);
    for (r.group = 1; r.group <= 50; r.group++)
        cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    cr_expect_eq(fault_storage_count(fs, VSHARD_IO_SYNC), before + 1);
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

struct barriers {
    uint64_t group, lowest, highest, count;
};

static int note_barrier(void *ctx, const struct vshard_wal_record *r,
                        const struct vshard_wal_place *place)
{
    struct barriers *b = ctx;

    if (r->group == b->group) {
        b->lowest = b->count++ == 0 ? place->barrier : b->lowest;
        b->highest = place->barrier;
    }
    return 0;
}

/* However full the last batch is, what is appended together and fits into one barrier
 * is in one batch, and what does not fit is in as many as it takes. */
Test(wal_log, parts_no_append_that_fits_a_barrier)
{
    static unsigned char payload[1000];
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r[6];
    struct vshard_wal *wal;
    uint64_t barrier;

    o.barrier_bytes = 4096;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    fault_storage_defer(fs, 1);
    for (uint32_t i = 0; i < 60; i++) {
        struct barriers b = { .group = 10 + i };
        const struct vshard_wal_visitor visitor = { note_barrier, &b };
        const uint32_t count = i % 2 ? 4 : 6;

        for (uint32_t j = 0; j < count; j++)
            r[j] = (struct vshard_wal_record){ .group = 10 + i,
                                               .index = j + 1,
                                               .kind = VSHARD_WAL_ENTRY,
                                               .payload = payload,
                                               .payload_bytes = count == 4 ? 60 * (i / 4) : 900 };
        cr_assert_eq(vshard_wal_append(wal, r, 1, NULL), VSHARD_OK);
        r[0].group = 1; /* something else first */
        cr_assert_eq(vshard_wal_append(wal, r, 1, NULL), VSHARD_OK);
        r[0].group = 10 + i;
        cr_assert_eq(vshard_wal_append(wal, r, count, &barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_scan(wal, &visitor), VSHARD_OK);
        cr_assert_eq(b.count, count + 1);
        b.count = b.lowest = 0;
        cr_assert_eq(vshard_wal_replay(wal, &visitor), VSHARD_OK);
        cr_assert_eq(b.count, count);
        if (count == 4)
            cr_expect_eq(b.lowest, b.highest, "append %u is in %lu..%lu", i,
                         (unsigned long)b.lowest, (unsigned long)b.highest);
        else
            cr_expect_lt(b.lowest, b.highest);
    }
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

/* No barrier is larger than it may be, whatever is appended. */
Test(wal_log, caps_the_bytes_of_a_barrier)
{
    static unsigned char payload[9000];
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal *wal;
    uint64_t seed = 3, barrier = 0, index = 0, largest = 0, durable = 0;

    o.barrier_bytes = 4096;
    o.flags = VSHARD_WAL_UNPACKED;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    fault_storage_defer(fs, 1);
    for (int i = 0; i < 2000; i++) {
        const uint32_t bytes = (uint32_t)random_below(&seed, 3000);
        const struct vshard_wal_record r = { .group = 1,
                                             .index = ++index,
                                             .kind = VSHARD_WAL_ENTRY,
                                             .payload = payload,
                                             .payload_bytes = bytes };

        cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
        if (i % 7 == 0) {
            while (durable < barrier) {
                cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
                for (uint32_t q = 0; q < fault_storage_queued(fs); q++) {
                    const struct vshard_io *io = fault_storage_request(fs, q);

                    /* Not the zeros written ahead. */
                    if (io->op == VSHARD_IO_WRITE && ((const char *)io->buffer)[0] == 'V' &&
                        ((const char *)io->buffer)[2] == 'B' && io->count > largest)
                        largest = io->count;
                }
                fault_storage_drain(fs);
            }
        }
    }
    cr_expect_leq(largest, (4096 + 96) / 504 * 512 + 512, "%lu", (unsigned long)largest);
    cr_expect_gt(largest, 3000);
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

struct told {
    uint64_t calls, done, total;
    uint32_t stop;
};

static int tell(void *ctx, uint64_t done, uint64_t total)
{
    struct told *t = ctx;

    cr_assert_geq(done, t->done);
    cr_assert_leq(done, total);
    t->calls++;
    t->done = done;
    t->total = total;
    return t->stop != 0 && t->calls >= t->stop;
}

static int ignore(void *ctx, const struct vshard_wal_record *r,
                  const struct vshard_wal_place *place)
{
    (void)ctx, (void)r, (void)place;
    return 0;
}

/* Opening and replaying say how far they are, and stop when told to. */
Test(wal_log, tells_progress_and_can_be_stopped)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct told told = { 0 };
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .ctx = &told, .progress = tell };
    const struct vshard_wal_visitor visitor = { ignore, NULL };
    struct writer w = { .seed = 1 };

    model_init(&w.model);
    open_log(&w, &o);
    for (uint64_t i = 1; i <= 400; i++) {
        put(&w, 1, VSHARD_WAL_ENTRY, i, 900);
        cr_assert_eq(vshard_wal_poll(w.wal, NULL), VSHARD_OK);
    }
    vshard_wal_close(w.wal);
    o.hooks = &hooks;
    open_log(&w, &o);
    cr_expect_gt(told.calls, 100);
    told = (struct told){ 0 };
    cr_expect_eq(vshard_wal_replay(w.wal, &visitor), VSHARD_OK);
    cr_expect_eq(told.done, told.total);
    cr_expect_gt(told.calls, 100);
    told = (struct told){ .stop = 5 };
    cr_expect_eq(vshard_wal_replay(w.wal, &visitor), VSHARD_ECANCELED);
    cr_expect_eq(told.calls, 5);
    vshard_wal_close(w.wal);
    told = (struct told){ .stop = 5 };
    cr_expect_eq(vshard_wal_open(&o, NULL, &w.wal), VSHARD_ECANCELED);
    cr_expect_null(w.wal);
    model_fini(&w.model);
    fault_storage_destroy(fs);
}

/* After a failed sync the kernel's pages may be clean and not on the disk. The log
 * stops; opened again on the same machine it reads those pages, and must make them
 * durable itself: a power cut right after must not take them away. */
Test(wal_log, is_poisoned_by_a_failed_sync)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct fault_storage *fs = disk(seed), *after;
        struct vshard_wal_options o = options(fs);
        struct vshard_wal_record r = {
            .group = 1, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 3000
        };
        const struct fault_crash lose = { .flags = FAULT_CRASH_LOSE };
        struct vshard_wal_report report = { .size = sizeof report };
        struct writer w = { .seed = 1 };
        uint64_t barrier;

        model_init(&w.model);
        open_log(&w, &o);
        cr_assert_eq(model_append(&w.model, w.wal, &r, &barrier), VSHARD_OK);
        cr_assert_eq(vshard_wal_sync(w.wal, barrier), VSHARD_OK);
        r.index = 2;
        cr_assert_eq(model_append(&w.model, w.wal, &r, &barrier), VSHARD_OK);
        fault_storage_rule(fs, &(struct fault_rule){ .k = 1, .ops = 1 << VSHARD_IO_SYNC });
        cr_expect_eq(vshard_wal_sync(w.wal, barrier), VSHARD_EIO);
        r.index = 3;
        cr_expect_eq(model_append(&w.model, w.wal, &r, &barrier), VSHARD_EIO);
        cr_expect_eq(vshard_wal_poll(w.wal, NULL), VSHARD_EIO);
        vshard_wal_close(w.wal);
        fault_storage_heal(fs);

        cr_assert_eq(vshard_wal_open(&o, &report, &w.wal), VSHARD_OK);
        check(&w, report.barrier, "reopened");
        after = fault_storage_after(fs, &lose);
        barrier = report.barrier;
        vshard_wal_close(w.wal);
        o.storage = fault_storage_hook(after);
        cr_assert_eq(vshard_wal_open(&o, &report, &w.wal), VSHARD_OK);
        cr_expect_geq(report.barrier, barrier, "seed %lu", (unsigned long)seed);
        check(&w, report.barrier, "after the power cut");
        vshard_wal_close(w.wal);
        model_fini(&w.model);
        fault_storage_destroy(after);
        fault_storage_destroy(fs);
    }
}

Test(wal_log, refuses_what_its_contract_forbids)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record r = { .group = 1, .index = 0, .kind = VSHARD_WAL_ENTRY };
    struct vshard_wal_report report = { .size = 1 };
    struct vshard_wal *wal;

    cr_expect_eq(vshard_wal_open(NULL, NULL, &wal), VSHARD_EINVAL);
    o.reserved = 1;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_EINVAL);
    o.reserved = 0;
    cr_expect_eq(vshard_wal_open(&o, &report, &wal), VSHARD_EINVAL);
    cr_expect_eq(fault_storage_count(fs, 0), 0, "nothing has been touched");
    o.segment_bytes = 1;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_EINVAL);
    o = options(fs);
    o.barrier_bytes = 64 << 10;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_EINVAL);
    o = options(fs);
    o.flags = VSHARD_WAL_READ_ONLY;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_ENOTFOUND);
    o.flags = 0;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_expect_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_EINVAL);
    r.index = 1;
    r.kind = VSHARD_WAL_RESET;
    cr_expect_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_EINVAL);
    r.kind = VSHARD_WAL_ENTRY;
    r.payload_bytes = 1;
    cr_expect_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_EINVAL);
    r.payload = &r;
    r.payload_bytes = 9000;
    cr_expect_eq(vshard_wal_append(wal, &r, 1, NULL), VSHARD_E2BIG);
    cr_expect_eq(vshard_wal_sync(wal, 1), VSHARD_EINVAL);
    vshard_wal_close(wal);
    o.log_id = 8;
    cr_expect_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_ESTALE);
    vshard_wal_close(NULL);
    fault_storage_destroy(fs);
}

static int count_entry(void *ctx, const struct vshard_wal_record *record,
                       const struct vshard_wal_place *place)
{
    (void)place;
    cr_expect_eq(record->term, 2);
    ++*(int *)ctx;
    return 0;
}

/* As when a replica is given a past anew behind a mark. */
Test(wal_log, shows_nothing_that_a_mark_of_the_same_batch_has_dropped)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    const struct vshard_wal_record r[] = {
        { .group = 1, .index = 5, .term = 1, .kind = VSHARD_WAL_ENTRY },
        { .group = 1, .index = 10, .term = 1, .kind = VSHARD_WAL_MARK },
        { .group = 1, .index = 5, .term = 2, .kind = VSHARD_WAL_ENTRY }
    };
    struct vshard_wal *wal;
    uint64_t barrier;
    int read = 0, replayed = 0;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_assert_eq(vshard_wal_append(wal, r, 3, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    for (int i = 0; i < 2; i++) {
        read = replayed = 0;
        vshard_wal_read(wal, 1, 5, &(struct vshard_wal_visitor){ count_entry, &read });
        cr_expect_eq(read, 1, "%d", read);
        vshard_wal_replay(wal, &(struct vshard_wal_visitor){ count_entry, &replayed });
        cr_expect_eq(replayed, 1, "%d", replayed);
        vshard_wal_close(wal);
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    }
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
}

/* One entry more, of which a snapshot covers all but the last, and the entry before it durable. */
static void stay_busy(struct vshard_wal *wal, struct fault_storage *fs, uint64_t index)
{
    const struct vshard_wal_record r[] = {
        { .group = 1, .index = index, .term = 1, .kind = VSHARD_WAL_ENTRY },
        { .group = 1, .index = index - 1, .term = 1, .kind = VSHARD_WAL_MARK }
    };
    uint64_t barrier = 0, durable = 0;

    cr_assert_eq(vshard_wal_append(wal, r, 2, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
    while (durable + 1 < barrier) {
        fault_storage_complete(fs, 0);
        cr_assert_eq(vshard_wal_poll(wal, &durable), VSHARD_OK);
    }
}

Test(wal_log, takes_no_more_memory_the_longer_a_group_is_busy)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct fault_alloc memory;
    struct vshard_wal *wal;
    uint64_t index = 1, bytes;

    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    fault_storage_defer(fs, 1);
    while (index < 1000)
        stay_busy(wal, fs, index++);
    bytes = memory.bytes;
    while (index < 8000)
        stay_busy(wal, fs, index++);
    cr_expect_leq(memory.bytes, bytes + 4096, "%llu after %llu", (unsigned long long)memory.bytes,
                  (unsigned long long)bytes);
    fault_storage_defer(fs, 0);
    fault_storage_drain(fs);
    vshard_wal_close(wal);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    fault_storage_destroy(fs);
}

/* Seconds to replay a batch of so many entries of two groups that take turns, of which the first
 * entry of each was cut and stands there again. */
static double replay_seconds(uint32_t count)
{
    struct fault_storage *fs = disk(1);
    struct vshard_wal_options o = options(fs);
    struct vshard_wal_record *r = malloc((count + 4) * sizeof *r);
    uint64_t barrier, seen = 0;
    const struct vshard_wal_visitor visitor = { count_visits, &seen };
    struct vshard_wal *wal;
    clock_t before;
    uint32_t n = 0;

    o.segment_bytes = 32 << 20;
    o.barrier_bytes = 4 << 20;
    cr_assert_not_null(r);
    for (uint64_t g = 1; g <= 2; g++)
        r[n++] = (struct vshard_wal_record){
            .group = g, .index = 1, .term = 1, .kind = VSHARD_WAL_ENTRY
        };
    for (uint64_t g = 1; g <= 2; g++)
        r[n++] = (struct vshard_wal_record){ .group = g, .index = 1, .kind = VSHARD_WAL_CUT };
    for (uint64_t i = 1; i <= count / 2; i++) {
        for (uint64_t g = 1; g <= 2; g++)
            r[n++] = (struct vshard_wal_record){
                .group = g, .index = i, .term = 1, .kind = VSHARD_WAL_ENTRY
            };
    }
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_assert_eq(vshard_wal_append(wal, r, n, &barrier), VSHARD_OK);
    cr_assert_eq(barrier, 1u);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
    before = clock();
    cr_assert_eq(vshard_wal_replay(wal, &visitor), VSHARD_OK);
    before = clock() - before;
    cr_expect_eq(seen, count);
    vshard_wal_close(wal);
    fault_storage_destroy(fs);
    free(r);
    return (double)before / CLOCKS_PER_SEC;
}

/* A replica that was far behind has a cut and then entries without end in each batch. */
Test(wal_log, replays_what_follows_a_cut_in_time)
{
    double few = replay_seconds(1 << 12), many = replay_seconds(1 << 14);

    cr_expect(many < 8 * few + 0.02, "%f s for four times what took %f s", many, few);
}
