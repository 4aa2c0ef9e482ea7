/* wal_crash.c - at every point where the power may fail, the log recovers.
 *
 * Method: a workload of appends, cuts, marks, votes, rotations and copies runs on
 * storage whose requests wait to be completed one by one. Before each completion
 * the disk is left in several of the states a power cut may leave it in (unsynced
 * sectors lost, kept, torn and reordered, names and lengths behind or ahead of the
 * data), and the log is opened on it. A crash alone may leave it clean or torn,
 * nothing else; it must hold what was acknowledged, and exactly the state at the
 * barrier that it reports (support/wal_model.h).
 *
 * Then recovery itself is interrupted at each of its requests, and what that leaves
 * is recovered.
 *
 * VSHARD_LONG in the environment draws more states and longer workloads. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/seeds.h"
#include "support/wal_model.h"
#include "wire/wire.h"

static int key_hook(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    memset(key, (int)key_id, 32);
    return 0;
}

static const struct vshard_wal_hooks keys = { .size = sizeof keys, .key = key_hook };

struct run {
    struct fault_storage *fs;
    struct model model;
    struct vshard_wal_options options;
    struct vshard_wal *wal;
    uint64_t last[MODEL_GROUPS], mark[MODEL_GROUPS], term;
    uint64_t seed, durable;
    uint64_t states; /* that were looked at */
    uint32_t nested; /* interrupt recovery, too */
};

static uint64_t scale(uint64_t quick, uint64_t longer)
{
    return getenv("VSHARD_LONG") ? longer : quick;
}

/* ---- one crash state ---- */

static struct vshard_wal_options on(const struct run *r, struct fault_storage *fs)
{
    struct vshard_wal_options o = r->options;

    o.storage = fault_storage_hook(fs);
    return o;
}

/* Life goes on after a recovery: one more record, and one more opening. */
static void go_on(struct run *r, struct vshard_wal *wal, uint64_t barrier,
                  const struct vshard_wal_options *o)
{
    const struct vshard_wal_record record = {
        .group = 5, .index = 1, .kind = VSHARD_WAL_ENTRY, .payload_bytes = 600
    };
    struct vshard_wal_report report = { .size = sizeof report };
    struct model left = { .records = r->model.records + r->model.count };
    const char *wrong;
    uint64_t next;

    /* What the crash took is not in the history of this life. */
    for (size_t i = 0; i < r->model.count; i++) {
        if (r->model.records[i].barrier <= barrier)
            left.records[left.count++] = r->model.records[i];
    }
    cr_assert_eq(model_append(&left, wal, &record, &next), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, next), VSHARD_OK);
    vshard_wal_close(wal);
    cr_assert_eq(vshard_wal_open(o, &report, &wal), VSHARD_OK);
    cr_assert_eq(report.verdict, VSHARD_WAL_CLEAN);
    cr_assert_eq(report.barrier, next);
    wrong = model_differs(&left, wal, next);
    cr_assert_null(wrong, "after going on: %s", wrong);
    vshard_wal_close(wal);
}

static void recover(struct run *r, struct fault_storage *fs, const char *what, uint64_t seed)
{
    struct vshard_wal_options o = on(r, fs);
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    const char *wrong;
    int rc = vshard_wal_open(&o, &report, &wal);

    r->states++;
    cr_assert_eq(rc, VSHARD_OK, "%s, seed %lu, after barrier %lu: open says %d, verdict %u", what,
                 (unsigned long)seed, (unsigned long)r->durable, rc, report.verdict);
    cr_assert(report.verdict == VSHARD_WAL_CLEAN || report.verdict == VSHARD_WAL_TORN,
              "%s, seed %lu: verdict %u", what, (unsigned long)seed, report.verdict);
    cr_assert_geq(report.barrier, r->durable, "%s, seed %lu: %lu of %lu", what, (unsigned long)seed,
                  (unsigned long)report.barrier, (unsigned long)r->durable);
    wrong = model_differs(&r->model, wal, report.barrier);
    cr_assert_null(wrong, "%s, seed %lu, barrier %lu: %s", what, (unsigned long)seed,
                   (unsigned long)report.barrier, wrong);
    if (r->states % 3 == 0)
        go_on(r, wal, report.barrier, &o);
    else
        vshard_wal_close(wal);
    wrong = fault_storage_verdict(fs);
    cr_assert_null(wrong, "%s, seed %lu: %s", what, (unsigned long)seed, wrong);
}

/* Recovery stops at its k-th request, for each k, and the power fails then. */
static void interrupt_recovery(struct run *r, const struct fault_crash *how)
{
    for (uint64_t k = 1;; k++) {
        struct fault_storage *fs = fault_storage_after(r->fs, how), *again;
        struct vshard_wal_options o = on(r, fs);
        struct fault_crash next = { .seed = how->seed + k };
        struct vshard_wal *wal;
        uint64_t struck;

        fault_storage_fail(fs, k, FAULT_FOREVER);
        vshard_wal_open(&o, NULL, &wal);
        struck = fault_storage_struck(fs);
        fault_storage_heal(fs);
        if (struck > 0) {
            again = fault_storage_after(fs, &next);
            recover(r, again, "recovery interrupted", next.seed);
            fault_storage_destroy(again);
        }
        vshard_wal_close(wal);
        fault_storage_destroy(fs);
        if (struck == 0)
            return;
    }
}

static void crash_here(struct run *r)
{
    static const uint32_t moods[] = {
        FAULT_CRASH_LOSE,      FAULT_CRASH_KEEP,    0,
        FAULT_CRASH_EACH_NAME, FAULT_CRASH_GARBAGE, FAULT_CRASH_GARBAGE | FAULT_CRASH_EACH_NAME
    };
    uint64_t draws = scale(6, 18);

    for (uint64_t i = 0; i < draws; i++) {
        const struct fault_crash how = { .seed = random_next(&r->seed), .flags = moods[i % 6] };
        struct fault_storage *after = fault_storage_after(r->fs, &how);

        recover(r, after, "crash", how.seed);
        fault_storage_destroy(after);
        if (r->nested && i == 2)
            interrupt_recovery(r, &how);
    }
}

/* ---- the workload ---- */

static void put(struct run *r, uint64_t group, uint32_t kind, uint64_t index, uint32_t bytes)
{
    const struct vshard_wal_record record = {
        .group = group, .index = index, .term = r->term, .kind = kind, .payload_bytes = bytes
    };

    cr_assert_eq(model_append(&r->model, r->wal, &record, NULL), VSHARD_OK);
}

static void work(struct run *r)
{
    uint64_t g = 1 + random_below(&r->seed, 3);

    switch (random_below(&r->seed, 8)) {
    case 0:
        r->term++;
        put(r, g, VSHARD_WAL_VOTE, 2, 0);
        break;
    case 1:
        if (r->last[g] > r->mark[g] + 4) {
            r->last[g] -= 2;
            put(r, g, VSHARD_WAL_CUT, r->last[g] + 1, 0);
        }
        break;
    case 2:
        if (r->last[g] > r->mark[g] + 8) {
            r->mark[g] = r->last[g] - 3;
            put(r, g, VSHARD_WAL_MARK, r->mark[g], 50);
        }
        break;
    case 3:
        if (random_one_in(&r->seed, 4))
            cr_assert_eq(vshard_wal_rotate(r->wal, r->options.key_id), VSHARD_OK);
        break;
    default:
        put(r, g, VSHARD_WAL_ENTRY, ++r->last[g], (uint32_t)random_below(&r->seed, 2200));
        break;
    }
}

/* Completes what is under way one request at a time, crashing before each. */
static void step(struct run *r, uint64_t crash_one_in)
{
    cr_assert_eq(vshard_wal_poll(r->wal, &r->durable), VSHARD_OK);
    while (fault_storage_queued(r->fs) > 0) {
        uint32_t which = (uint32_t)random_below(&r->seed, fault_storage_queued(r->fs));

        if (random_one_in(&r->seed, crash_one_in))
            crash_here(r);
        fault_storage_complete(r->fs, which);
        cr_assert_eq(vshard_wal_poll(r->wal, &r->durable), VSHARD_OK);
    }
    if (random_one_in(&r->seed, 5))
        vshard_wal_witness(r->wal);
}

static uint64_t run(const struct vshard_wal_options *options, uint64_t seed, uint64_t rounds,
                    uint32_t nested)
{
    struct run r = {
        .fs = fault_storage_create(seed), .options = *options, .seed = seed, .nested = nested
    };

    fault_storage_mkdir(r.fs, "log");
    fault_storage_refuse_reserves(r.fs, seed & 1);
    r.options.storage = fault_storage_hook(r.fs);
    model_init(&r.model);
    cr_assert_eq(vshard_wal_open(&r.options, NULL, &r.wal), VSHARD_OK);
    fault_storage_defer(r.fs, 1);
    put(&r, 4, VSHARD_WAL_ENTRY, 1, 300); /* a group that stays silent, and is copied */
    put(&r, 4, VSHARD_WAL_NOTE, 0, 20);
    for (uint64_t i = 0; i < rounds; i++) {
        for (uint64_t n = random_below(&r.seed, 5); n > 0; n--)
            work(&r);
        step(&r, nested ? 40 : 3);
    }
    vshard_wal_close(r.wal);
    fault_storage_destroy(r.fs);
    model_fini(&r.model);
    return r.states;
}

static struct vshard_wal_options small(void)
{
    return (struct vshard_wal_options){ .size = sizeof(struct vshard_wal_options),
                                        .log_id = 7,
                                        .segment_bytes = 64 << 10,
                                        .rewrite_above = 2,
                                        .path = "log" };
}

Test(wal_crash, recovers_from_every_moment_for_each_seed, .timeout = 3000)
{
    uint64_t states = 0;

    for (uint64_t seed = seeds_first(); seed < seeds_end(scale(2, 8)); seed++) {
        struct vshard_wal_options o = small();

        o.flags = seed % 3 == 0 ? VSHARD_WAL_UNPACKED : 0;
        states += run(&o, seed, scale(160, 300), 0);
    }
    cr_expect_gt(states, 1000, "%lu", (unsigned long)states);
}

Test(wal_crash, recovers_a_sparse_log_from_every_moment, .timeout = 3000)
{
    struct vshard_wal_options o = small();

    o.flags = VSHARD_WAL_SPARSE;
    run(&o, 21, scale(80, 300), 0);
}

Test(wal_crash, recovers_a_sealed_log_from_every_moment, .timeout = 3000)
{
    struct vshard_wal_options o = small();

    if (vs_seal_init() < 0)
        return;
    o.hooks = &keys;
    o.key_id = 1;
    run(&o, 22, scale(60, 300), 0);
}

Test(wal_crash, recovers_from_a_recovery_that_was_interrupted, .timeout = 3000)
{
    struct vshard_wal_options o = small();

    for (uint64_t seed = 31; seed <= scale(31, 34); seed++)
        run(&o, seed, scale(90, 200), 1);
}
