/* wal_states.c - every crash state of every operation.
 *
 * Method: exhaustion. Each operation of the log (the first append, an append behind
 * others, rotation, a cut, compaction with the removal of segments, the use of a removed one as
 * the next, the install of a snapshot, a copy forward, a witness, a settling) runs on storage whose
 * requests wait. Before and after each request is carried out the power fails, and the disk is left
 * in every state that it may be left in, unit by unit: each unsynced sector old or new, each length
 * and each name ahead or behind. Where these are more than LIMIT, they are drawn, with those in
 * which all, none, or all but one unit is new always among them. On each the log is opened, must be
 * clean or torn, hold what was acknowledged, and be exactly the state at the barrier that it
 * reports (support/wal_model.h).
 *
 * And every so often the recovery is stopped at its k-th request, for each k, the power
 * fails again, and what that leaves is opened. VSHARD_LONG raises LIMIT to where the
 * states of all scenarios together are more than a million. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/wal_model.h"
#include "wal/log.h"

enum { UNITS = 4096 };

struct run {
    struct fault_storage *fs;
    struct model model;
    struct vshard_wal_options options;
    struct vshard_wal *wal;
    const char *name;
    uint64_t durable, seed;
    uint64_t states, exhausted, points; /* looked at; points where those were all */
    uint64_t nested;                    /* states of interrupted recoveries */
    uint32_t watching;
};

static uint64_t limit(void)
{
    return getenv("VSHARD_LONG") ? 2048 : 128;
}

/* ---- one state ---- */

static void examine(struct run *r, struct fault_storage *fs, const char *what)
{
    struct vshard_wal_options o = r->options;
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    const char *wrong;
    int rc;

    o.storage = fault_storage_hook(fs);
    rc = vshard_wal_open(&o, &report, &wal);
    cr_assert_eq(rc, VSHARD_OK, "%s, %s %lu: open says %d, verdict %u", r->name, what,
                 (unsigned long)r->states, rc, report.verdict);
    cr_assert_leq(report.verdict, VSHARD_WAL_TORN, "%s, %s %lu: verdict %u", r->name, what,
                  (unsigned long)r->states, report.verdict);
    cr_assert_geq(report.barrier, r->durable, "%s, %s %lu: %lu of %lu", r->name, what,
                  (unsigned long)r->states, (unsigned long)report.barrier,
                  (unsigned long)r->durable);
    wrong = model_differs(&r->model, wal, report.barrier);
    cr_assert_null(wrong, "%s, %s %lu, barrier %lu: %s", r->name, what, (unsigned long)r->states,
                   (unsigned long)report.barrier, wrong);
    vshard_wal_close(wal);
}

/* Recovery stops at its k-th request, for each k, and the power fails again. */
static void interrupt(struct run *r, const struct fault_crash *how)
{
    for (uint64_t k = 1, struck = 1; struck > 0; k++) {
        struct fault_storage *fs = fault_storage_after(r->fs, how), *again;
        struct vshard_wal_options o = r->options;
        const struct fault_crash next = { .seed = random_next(&r->seed) };
        struct vshard_wal *wal;

        o.storage = fault_storage_hook(fs);
        fault_storage_fail(fs, k, FAULT_FOREVER);
        vshard_wal_open(&o, NULL, &wal);
        struck = fault_storage_struck(fs);
        fault_storage_heal(fs);
        again = fault_storage_after(fs, &next);
        examine(r, again, "recovery interrupted");
        r->nested++;
        fault_storage_destroy(again);
        vshard_wal_close(wal);
        fault_storage_destroy(fs);
    }
}

static void look(struct run *r, const uint32_t *chosen, uint32_t flags)
{
    const struct fault_crash how = { .seed = r->states, .chosen = chosen, .flags = flags };
    struct fault_storage *after = fault_storage_after(r->fs, &how);

    examine(r, after, "state");
    fault_storage_destroy(after);
    r->states++;
    if (r->states % 64 == 1)
        interrupt(r, &how);
}

/* ---- all states of a moment ---- */

/* All old, all new, one old, one new, and some at random. */
static void draw(struct run *r, const uint32_t *states, size_t units, uint32_t flags)
{
    static uint32_t chosen[UNITS];

    for (uint64_t i = 0; i < limit(); i++) {
        for (size_t u = 0; u < units; u++) {
            uint32_t newest = states[u] - 1;

            if (i < 2)
                chosen[u] = i ? newest : 0;
            else if (i < limit() / 2)
                chosen[u] = ((i / 2 - 1) % units == u) == i % 2 ? newest : 0;
            else
                chosen[u] = (uint32_t)random_below(&r->seed, states[u]);
        }
        look(r, chosen, flags);
    }
}

static void crash_here(struct run *r)
{
    static uint32_t states[UNITS], chosen[UNITS];

    for (uint32_t flags = 0; r->watching && flags < 4; flags++) {
        size_t units = fault_storage_units(r->fs, flags, states, UNITS);
        uint64_t product = 1;

        cr_assert_leq(units, UNITS);
        for (size_t i = 0; i < units && product <= limit(); i++)
            product *= states[i];
        r->points++;
        if (product > limit()) {
            draw(r, states, units, flags);
            continue;
        }
        r->exhausted++;
        memset(chosen, 0, sizeof chosen);
        do
            look(r, chosen, flags);
        while (fault_choice_next(chosen, states, units));
    }
}

/* Carries out what is under way, the oldest request first, and crashes around each. */
static void step(struct run *r)
{
    cr_assert_eq(vshard_wal_poll(r->wal, &r->durable), VSHARD_OK);
    while (fault_storage_queued(r->fs) > 0) {
        crash_here(r);
        fault_storage_complete(r->fs, 0);
        cr_assert_eq(vshard_wal_poll(r->wal, &r->durable), VSHARD_OK);
    }
    crash_here(r);
}

static void put(struct run *r, uint64_t group, uint32_t kind, uint64_t index, uint32_t bytes)
{
    const struct vshard_wal_record record = {
        .group = group, .index = index, .term = 3, .kind = kind, .payload_bytes = bytes
    };

    cr_assert_eq(model_append(&r->model, r->wal, &record, NULL), VSHARD_OK);
}

static void entries(struct run *r, uint64_t group, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++)
        put(r, group, VSHARD_WAL_ENTRY, i, 200 + (uint32_t)i % 3 * 100);
}

/* ---- the operations ---- */

static void first_append(struct run *r)
{
    r->watching = 1;
    put(r, 1, VSHARD_WAL_VOTE, 2, 0);
    entries(r, 1, 1, 2);
    step(r);
}

static void next_append(struct run *r)
{
    entries(r, 1, 1, 3);
    step(r);
    r->watching = 1;
    entries(r, 1, 4, 9);
    put(r, 2, VSHARD_WAL_NOTE, 0, 300);
    step(r);
    put(r, 1, VSHARD_WAL_COMMIT, 9, 0);
    step(r);
}

static void rotation(struct run *r)
{
    entries(r, 1, 1, 3);
    step(r);
    cr_assert_eq(vshard_wal_rotate(r->wal, 0), VSHARD_OK);
    r->watching = 1;
    entries(r, 1, 4, 6);
    step(r);
}

static void cut(struct run *r)
{
    entries(r, 1, 1, 8);
    step(r);
    r->watching = 1;
    put(r, 1, VSHARD_WAL_CUT, 5, 0);
    step(r);
    entries(r, 1, 3, 6);
    step(r);
}

static void compaction(struct run *r)
{
    for (uint64_t i = 0; i < 3; i++) {
        entries(r, 1, 1 + 4 * i, 4 + 4 * i);
        step(r);
        cr_assert_eq(vshard_wal_rotate(r->wal, 0), VSHARD_OK);
    }
    r->watching = 1;
    put(r, 1, VSHARD_WAL_MARK, 9, 100);
    step(r); /* segments go */
}

/* The log ends at 6; a snapshot of 20 replaces it, and entries follow. */
static void install(struct run *r)
{
    entries(r, 1, 1, 6);
    step(r);
    cr_assert_eq(vshard_wal_rotate(r->wal, 0), VSHARD_OK);
    r->watching = 1;
    put(r, 1, VSHARD_WAL_CUT, 1, 0);
    put(r, 1, VSHARD_WAL_MARK, 20, 2000);
    step(r);
    entries(r, 1, 21, 22);
    step(r);
}

static void copy(struct run *r)
{
    put(r, 2, VSHARD_WAL_VOTE, 3, 0);
    entries(r, 2, 1, 3);
    put(r, 2, VSHARD_WAL_NOTE, 0, 100);
    step(r);
    for (uint64_t i = 1; i <= 2; i++) {
        cr_assert_eq(vshard_wal_rotate(r->wal, 0), VSHARD_OK);
        r->watching = i == 2;
        put(r, 1, VSHARD_WAL_ENTRY, i, 100);
        step(r);
    }
    put(r, 1, VSHARD_WAL_ENTRY, 3, 100);
    step(r);
}

static void witness(struct run *r)
{
    entries(r, 1, 1, 3);
    step(r);
    r->watching = 1;
    cr_assert_eq(vshard_wal_witness(r->wal), VSHARD_OK);
    step(r);
    entries(r, 1, 4, 4);
    step(r);
}

/* A segment that the log has left becomes its next one: from when it is taken until it is
 * written to; then a batch that finds its zeros there, one that does not, and one behind it. */
static void reuse(struct run *r)
{
    uint64_t i = 1;

    for (; r->wal->current.head.ahead == 0; i += 8) {
        cr_assert_lt(i, 1200, "no segment was used again");
        r->watching =
            r->wal->spares != 0 || (r->wal->making.head.ahead != 0 && r->wal->making.ready == 0);
        if (i > 64)
            put(r, 1, VSHARD_WAL_MARK, i - 33, 10);
        entries(r, 1, i, i + 7);
        step(r);
    }
    cr_assert_gt(r->points, 20);
    r->watching = 1;
    entries(r, 1, i, i + 1);
    step(r);
    put(r, 1, VSHARD_WAL_ENTRY, i + 2, 7000);
    cr_assert_gt(7000, r->wal->current.head.ahead * VS_WAL_SECTOR);
    step(r);
    entries(r, 1, i + 3, i + 4);
    step(r);
}

/* Batches fill a segment faster than pieces of zeros go out beside them, so that much of the next
 * one is left unwritten: from when it is made until it is written to, and a batch behind that. */
static void overtake(struct run *r)
{
    uint64_t i = 1;

    for (; r->wal->current.head.segment < 2; i++) {
        cr_assert_lt(i, 40, "the second segment is not written to");
        r->watching = r->wal->making.open;
        put(r, 1, VSHARD_WAL_ENTRY, i, 7000);
        step(r);
    }
    r->watching = 1;
    put(r, 1, VSHARD_WAL_ENTRY, i, 7000);
    step(r);
}

static void run(const char *name, void (*operation)(struct run *r), uint32_t flags)
{
    struct run r = { .fs = fault_storage_create(1), .name = name, .seed = 7 };

    fault_storage_mkdir(r.fs, "log");
    model_init(&r.model);
    r.options = (struct vshard_wal_options){ .size = sizeof r.options,
                                             .log_id = 7,
                                             .flags = flags,
                                             .segment_bytes = 64 << 10,
                                             .barrier_bytes = 4096,
                                             .rewrite_above = 2,
                                             .path = "log",
                                             .storage = fault_storage_hook(r.fs) };
    cr_assert_eq(vshard_wal_open(&r.options, NULL, &r.wal), VSHARD_OK);
    fault_storage_defer(r.fs, 1);
    operation(&r);
    vshard_wal_close(r.wal);
    fault_storage_destroy(r.fs);
    model_fini(&r.model);
    cr_expect_gt(r.states, 20);
    if (getenv("VSHARD_LONG"))
        fprintf(stderr, "%s: %lu states at %lu points, of which %lu exhausted; %lu interrupted\n",
                name, (unsigned long)r.states, (unsigned long)r.points, (unsigned long)r.exhausted,
                (unsigned long)r.nested);
}

#define SCENARIO(operation)                                             \
    Test(wal_states, recovers_from_all_of_##operation, .timeout = 3000) \
    {                                                                   \
        run(#operation, operation, VSHARD_WAL_SPARSE);                  \
    }

Test(wal_states, recovers_from_all_of_a_segment_filled_with_zeros, .timeout = 3000)
{
    run("filled with zeros", first_append, 0);
}

Test(wal_states, recovers_from_all_of_a_segment_used_again, .timeout = 3000)
{
    run("used again", reuse, 0);
}

Test(wal_states, recovers_from_all_of_a_segment_left_unwritten, .timeout = 3000)
{
    run("left unwritten", overtake, 0);
}

SCENARIO(first_append)
SCENARIO(next_append)
SCENARIO(rotation)
SCENARIO(cut)
SCENARIO(compaction)
SCENARIO(install)
SCENARIO(copy)
SCENARIO(witness)
