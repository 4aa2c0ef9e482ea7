/* raft_close.c - a group is closed at a node that has others.
 *
 * Method: one replica of three leads, has requests under way and barriers not reached, and
 * is closed; the node must answer what was asked and go on with its other groups. And what a
 * group is opened with and told first. */
#include "support/raft_rig.h"

static void open_other(struct rig *t, uint64_t group)
{
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = group, .members = three, .member_count = 3
    };

    cr_assert_eq(vshard_raft_open(t->raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(t->raft, group, t->now), VSHARD_OK);
    drain(t);
}

Test(raft_close, answers_what_was_asked_and_forgets_the_rest)
{
    struct rig t;
    uint64_t seq;

    boot(&t, 2, 0, "12");
    for (uint64_t group = 2; group < 40; group++)
        open_other(&t, group);
    lead_firmly(&t);
    propose(&t, 77);
    seq = t.raft->seq;
    cr_assert_eq(vshard_raft_close(t.raft, 1), VSHARD_OK);
    drain(&t);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, (uint64_t)77);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EUNKNOWN);
    cr_expect_eq(vshard_raft_close(t.raft, 1), VSHARD_ENOTFOUND);
    /* Its barriers may come or not; the other groups are found, and time passes. */
    cr_expect_eq(
        step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = seq }),
        VSHARD_OK);
    for (uint64_t group = 2; group < 40; group += 2) {
        cr_assert_eq(vshard_raft_close(t.raft, group), VSHARD_OK, "group %d", (int)group);
        drain(&t);
    }
    for (int i = 0; i < 100; i++)
        time_passes(&t, 30 * MS);
    for (uint64_t group = 1; group < 40; group++) {
        struct vshard_raft_status s = { .size = sizeof s };

        cr_expect_eq(vshard_raft_inspect(t.raft, group, &s),
                     group % 2 == 1 && group > 1 ? VSHARD_OK : VSHARD_ENOTFOUND, "group %d",
                     (int)group);
    }
    /* It may be opened again. */
    open_other(&t, 1);
    cr_expect_eq(status(&t).last, (uint64_t)1);
    stop(&t);
}

Test(raft_close, ends_any_number_of_groups_in_a_row)
{
    struct rig t;

    boot(&t, 2, 0, "12");
    for (uint64_t group = 2; group < 400; group++)
        open_other(&t, group);
    for (uint64_t group = 2; group < 400; group++) {
        cr_assert_eq(vshard_raft_close(t.raft, group), VSHARD_OK, "group %d", (int)group);
        drain(&t);
    }
    stop(&t);
}

/* The question is lost, and an answer to the group's life before comes instead. */
Test(raft_close, believes_no_answer_to_a_group_that_was_closed)
{
    struct vshard_raft_event read = { .kind = VSHARD_RAFT_READ, .tag = 5 };
    struct vshard_raft_boot again = { .size = sizeof again, .group = 1, .term = 2, .commit = 2 };
    struct vs_message m = {
        .kind = VS_READ_REPLY, .from = 2, .term = 2, .index = 2, .log_term = 1
    };
    unsigned char members[VS_CONFIG_BYTES];
    struct vshard_raft_entry e[2] = {
        { .index = 1, .term = 1, .kind = VSHARD_RAFT_CONFIG, .data = members },
        { .index = 2, .term = 2, .data = "y", .count = 1 }
    };
    struct vs_config c;
    struct rig t;
    uint64_t asked;

    boot(&t, 2, 0, "2");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2 }, 2, 0);
    step(&t, read);
    cr_assert_not_null(sent(&t, VS_READ, 2));
    m.round = sent(&t, VS_READ, 2)->round;
    cr_assert_eq(vshard_raft_close(t.raft, 1), VSHARD_OK);
    drain(&t);
    cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
    e[0].count = vs_config_encode(&c, members);
    cr_assert_eq(vshard_raft_open(t.raft, &again), VSHARD_OK);
    cr_assert_eq(vshard_raft_load(t.raft, 1, e, 2), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(t.raft, 1, t.now), VSHARD_OK);
    drain(&t);
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2, .commit = 2 },
           2, 0);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = 2 });
    read.tag = 6;
    step(&t, read);
    cr_assert_not_null(sent(&t, VS_READ, 2));
    asked = sent(&t, VS_READ, 2)->round;
    cr_expect_neq(asked, m.round);
    say(&t, m);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    m.round = asked;
    say(&t, m);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, (uint64_t)6);
    stop(&t);
}

/* The host crashed between making a snapshot current and emptying the log behind it. What the log
 * has there is of another past, and storage must hear that it is gone. */
Test(raft_close, a_tail_of_another_past_is_cut_in_storage_too)
{
    for (uint64_t tail = 2; tail <= 3; tail++) { /* terms of the entries that were not removed */
        struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
        unsigned char meta[16 + VS_CONFIG_BYTES];
        struct vshard_raft_boot b = { .size = sizeof b,
                                      .group = 1,
                                      .term = 3,
                                      .applied = 4,
                                      .snapshot_index = 4,
                                      .snapshot_term = 3,
                                      .meta = meta };
        const struct vshard_raft_effect *e;
        struct vs_config c;
        struct rig t = { .now = 1000 * MS };
        size_t n;

        cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
        n = vs_config_encode(&c, meta + 8);
        vs_store32(meta, (uint32_t)n);
        vs_store32(meta + 4, 0);
        b.meta_count = 8 + n;
        cr_assert_eq(vshard_raft_create(&o, &t.raft), VSHARD_OK);
        cr_assert_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
        for (uint64_t i = 3; i <= 6; i++) {
            const struct vshard_raft_entry x = {
                .index = i, .term = tail, .data = "y", .count = 1
            };

            cr_assert_eq(vshard_raft_load(t.raft, 1, &x, 1), VSHARD_OK);
        }
        cr_assert_eq(vshard_raft_start(t.raft, 1, t.now), VSHARD_OK);
        drain(&t);
        e = effect(&t, VSHARD_RAFT_PERSIST);
        cr_assert_eq(e != NULL, tail == 2);
        cr_expect_eq(status(&t).last, tail == 2 ? 4u : 6u);
        if (e != NULL) {
            cr_expect_eq(e->cut, 5u);
            cr_expect_eq(e->entry_count, 0u);
            cr_expect_eq(e->term, 3u);
        }
        stop(&t);
    }
}

Test(raft_close, nothing_starts_where_storage_has_failed)
{
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 2, .members = three, .member_count = 3
    };
    struct rig t;

    boot(&t, 2, 0, "12");
    cr_assert_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
    cr_assert_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSIST_FAILED }),
                 VSHARD_OK);
    cr_expect_eq(vshard_raft_start(t.raft, 2, t.now), VSHARD_EIO);
    b.group = 3;
    cr_expect_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
    cr_expect_eq(vshard_raft_start(t.raft, 3, t.now), VSHARD_EIO);
    cr_expect_null(vshard_raft_next(t.raft));
    cr_expect_eq(vshard_raft_close(t.raft, 2), VSHARD_OK);
    stop(&t);
}

Test(raft_close, waits_until_effects_are_taken)
{
    struct vshard_raft_event time = { .size = sizeof time,
                                      .kind = VSHARD_RAFT_CAMPAIGN,
                                      .group = 1 };
    struct rig t;

    boot(&t, 2, 0, "12");
    time.now_ns = t.now;
    cr_assert_eq(vshard_raft_step(t.raft, &time), VSHARD_OK);
    cr_expect_eq(vshard_raft_close(t.raft, 1), VSHARD_EBUSY);
    drain(&t);
    cr_expect_eq(vshard_raft_close(t.raft, 1), VSHARD_OK);
    cr_expect_eq(vshard_raft_close(NULL, 1), VSHARD_EINVAL);
    stop(&t);
}
