/* raft_sleep.c - groups that nobody uses, and how long silence is borne.
 *
 * Method: one replica, frames of beats made by hand at the times a test wants. What
 * must hold: a group falls asleep only when everybody has everything; asleep, it
 * has no timer and no line; it wakes on any request or message, and when the frames
 * it sleeps on stop; and nothing that needs a quorum's word takes sleep for it. */
#include "support/raft_rig.h"

#include "support/fault_alloc.h"

enum { BEAT_MS = 30 };

/* A frame from a node, with a line about the group if `b` is given. */
static void frame(struct rig *t, uint32_t kind, uint64_t from, uint32_t flags,
                  const struct vs_beat *b)
{
    unsigned char line[VS_BEAT_BYTES];

    if (b != NULL)
        vs_beat_encode(line, b);
    deliver(t,
            (struct vs_message){
                .kind = kind, .from = from, .stamp = t->now, .flags = flags, .count = b != NULL },
            line, b ? sizeof line : 0);
}

static void answers(struct rig *t, uint64_t from, uint32_t flags)
{
    struct vshard_raft_status s = status(t);
    struct vs_beat b = { .group = 1,
                         .term = s.term,
                         .round = t->beat.round,
                         .received = s.last,
                         .commit = s.last,
                         .flags = flags,
                         .to_incarnation = 1 };

    frame(t, VS_BEAT_REPLIES, from, 0, &b);
}

/* Beats and their answers for so long. */
static void beats(struct rig *t, uint64_t ms, uint32_t flags)
{
    for (uint64_t i = 0; i < ms; i += BEAT_MS) {
        time_passes(t, BEAT_MS * MS);
        answers(t, 2, flags);
        answers(t, 3, flags);
    }
}

static uint64_t lead_idle(struct rig *t)
{
    uint64_t term;

    boot(t, 1, 0, "");
    term = lead_firmly(t);
    apply_all(t);
    acknowledge(t, 3, term, status(t).last);
    beats(t, 1600, 0);
    return term;
}

static void fall_asleep(struct rig *t)
{
    lead_idle(t);
    cr_assert(t->beat.flags & VS_FLAG_SLEEP, "the beat asks");
    beats(t, BEAT_MS, VS_FLAG_SLEEP);
    time_passes(t, BEAT_MS * MS);
    cr_assert_eq(status(t).asleep, 1);
}

Test(raft_sleep, a_leader_sleeps_when_all_that_it_reaches_do)
{
    struct rig t;

    lead_idle(&t);
    answers(&t, 2, VS_FLAG_SLEEP);
    time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 0, "node 3 has not said so");
    answers(&t, 2, VS_FLAG_SLEEP);
    answers(&t, 3, VS_FLAG_SLEEP);
    time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 1);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(t.sends, 2, "a frame to each");
    cr_expect_eq(t.sent[0].kind, (uint32_t)VS_BEATS);
    cr_expect_eq(t.sent[0].count, 0, "and no line in it");
    cr_expect_eq(vshard_raft_deadline_ns(t.raft), t.now + BEAT_MS * MS, "the beat, and no more");
    stop(&t);
}

Test(raft_sleep, a_member_that_is_down_does_not_keep_the_others_awake)
{
    struct rig t;

    lead_idle(&t);
    for (int i = 0; i < 12; i++) {
        time_passes(&t, BEAT_MS * MS);
        answers(&t, 2, VS_FLAG_SLEEP);
    }
    cr_expect_eq(status(&t).asleep, 1, "node 3 is silent");
    frame(&t, VS_BEAT_REPLIES, 3, 0, NULL);
    cr_expect_eq(status(&t).asleep, 0, "it is back, and may lack something");
    stop(&t);
}

Test(raft_sleep, a_leader_that_hears_no_quorum_wakes)
{
    struct rig t;

    fall_asleep(&t);
    for (int i = 0; i < 12; i++) {
        frame(&t, VS_BEAT_REPLIES, 2, 0, NULL);
        time_passes(&t, BEAT_MS * MS);
    }
    cr_expect_eq(status(&t).asleep, 1, "node 2 is enough");
    for (int i = 0; i < 7; i++)
        time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 0);
    for (int i = 0; i < 40; i++)
        time_passes(&t, BEAT_MS * MS);
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER, "and lets go");
    stop(&t);
}

Test(raft_sleep, an_old_answer_puts_nobody_to_sleep)
{
    struct rig t;
    struct vs_beat b = { .group = 1, .flags = VS_FLAG_SLEEP, .to_incarnation = 1 };
    unsigned char line[VS_BEAT_BYTES];
    uint64_t before;

    lead_idle(&t);
    before = t.now;
    propose(&t, 5);
    persisted(&t);
    acknowledge(&t, 2, status(&t).term, status(&t).last);
    acknowledge(&t, 3, status(&t).term, status(&t).last);
    apply_all(&t);
    beats(&t, 1600, 0);
    b.term = status(&t).term;
    b.commit = b.received = status(&t).last;
    vs_beat_encode(line, &b);
    for (uint64_t from = 2; from <= 3; from++)
        deliver(&t,
                (struct vs_message){
                    .kind = VS_BEAT_REPLIES, .from = from, .stamp = before, .count = 1 },
                line, sizeof line);
    time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 0, "they said so before that write");
    stop(&t);
}

Test(raft_sleep, a_request_wakes_a_leader)
{
    struct rig t;

    fall_asleep(&t);
    propose(&t, 5);
    cr_expect_eq(status(&t).asleep, 0);
    cr_expect_not_null(sent(&t, VS_APPEND, 2));
    cr_expect_not_null(sent(&t, VS_APPEND, 3));
    stop(&t);
}

Test(raft_sleep, a_snapshot_and_its_compaction_do_not)
{
    struct rig t;
    uint64_t last;

    fall_asleep(&t);
    last = status(&t).last;
    cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT }), VSHARD_OK);
    cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT,
                                                      .index = last,
                                                      .offset = last }),
                 VSHARD_OK);
    cr_expect_eq(status(&t).asleep, 1);
    cr_expect_eq(status(&t).first, last + 1);
    propose(&t, 5);
    cr_expect_not_null(sent(&t, VS_APPEND, 2));
    stop(&t);
}

/* 41: frames go to and fro all the time, and say nothing about who leads the group. */
Test(raft_sleep, a_lease_is_never_judged_by_sleep)
{
    struct rig t;

    fall_asleep(&t);
    for (int i = 0; i < 20; i++) {
        time_passes(&t, BEAT_MS * MS);
        frame(&t, VS_BEAT_REPLIES, 2, 0, NULL);
        frame(&t, VS_BEAT_REPLIES, 3, 0, NULL);
    }
    cr_assert_eq(status(&t).asleep, 1);
    cr_expect(status(&t).lease_ns <= t.now);
    read_now(&t, VSHARD_RAFT_READ_LEASE);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE), "a quorum must say so first");
    answers(&t, 2, 0);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_DONE));
    stop(&t);
}

Test(raft_sleep, a_sleeping_leader_that_was_replaced_steps_down)
{
    struct rig t;

    fall_asleep(&t);
    append(&t, (struct vs_message){ .from = 3, .term = 9, .index = 2, .log_term = 2 }, 9, 1);
    cr_expect_eq(status(&t).asleep, 0);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_FOLLOWER);
    cr_expect_eq(status(&t).last, 3);
    stop(&t);
}

/* ---- followers ---- */

static struct vs_beat line_of(const struct rig *t, uint32_t flags)
{
    return (struct vs_beat){
        .group = 1, .term = 2, .commit = status(t).last, .flags = flags, .to_incarnation = 1
    };
}

/* A follower of node 2 with everything committed, applied and written. */
static void follow(struct rig *t)
{
    boot(t, 2, 0, "2");
    append(t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2, .commit = 3 },
           2, 1);
    persisted(t);
    apply_all(t);
}

static void sleep_under(struct rig *t)
{
    struct vs_beat b;

    follow(t);
    b = line_of(t, VS_FLAG_SLEEP);
    frame(t, VS_BEATS, 2, 0, &b);
    cr_assert_eq(status(t).asleep, 1);
    cr_assert(t->beat.flags & VS_FLAG_SLEEP, "and says so");
}

Test(raft_sleep, a_follower_sleeps_only_with_nothing_left_to_do)
{
    struct rig t;
    struct vs_beat b;

    boot(&t, 2, 0, "2");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2, .commit = 3 },
           2, 1);
    b = line_of(&t, VS_FLAG_SLEEP);
    frame(&t, VS_BEATS, 2, 0, &b);
    cr_expect_eq(status(&t).asleep, 0, "the entry is not written");
    cr_expect_eq(t.beat.flags & VS_FLAG_SLEEP, 0);
    persisted(&t);
    frame(&t, VS_BEATS, 2, 0, &b);
    cr_expect_eq(status(&t).asleep, 0, "nor applied");
    apply_all(&t);
    b.commit = 2;
    frame(&t, VS_BEATS, 2, 0, &b);
    cr_expect_eq(status(&t).asleep, 0, "nor is it the end of the leader's log");
    b.commit = 3;
    frame(&t, VS_BEATS, 2, 0, &b);
    cr_expect_eq(status(&t).asleep, 1);
    stop(&t);
}

/* 42 */
Test(raft_sleep, a_follower_sleeps_as_long_as_frames_come_and_no_longer)
{
    struct rig t;

    sleep_under(&t);
    for (int i = 0; i < 100; i++) {
        time_passes(&t, BEAT_MS * MS);
        cr_assert_eq(t.sends, 0);
        frame(&t, VS_BEATS, 2, 0, NULL);
        cr_assert_eq(t.sends, 1, "each frame is answered");
    }
    cr_expect_eq(status(&t).asleep, 1);
    for (int i = 0; i < 6; i++)
        time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 0);
    for (int i = 0; i < 6; i++) {
        time_passes(&t, BEAT_MS * MS);
        if (sent(&t, VS_PREVOTE, 3) != NULL)
            break;
    }
    cr_expect_not_null(sent(&t, VS_PREVOTE, 3), "within twice election_ns of the last frame");
    stop(&t);
}

Test(raft_sleep, frames_of_another_process_or_of_one_that_hangs_are_not_what_it_slept_on)
{
    struct rig t;

    sleep_under(&t);
    for (int i = 0; i < 6; i++) {
        time_passes(&t, BEAT_MS * MS);
        frame(&t, VS_BEATS, 2, VS_FLAG_STALLED, NULL);
    }
    cr_expect_eq(status(&t).asleep, 0, "its disk hangs");
    stop(&t);

    sleep_under(&t);
    time_passes(&t, BEAT_MS * MS);
    deliver(&t, (struct vs_message){ .kind = VS_BEATS, .from = 2, .boot = 2 }, NULL, 0);
    cr_expect_eq(status(&t).asleep, 0, "it has started anew");
    stop(&t);
}

Test(raft_sleep, a_line_or_a_message_or_a_request_wakes_a_follower)
{
    for (int how = 0; how < 4; how++) {
        struct rig t;
        struct vs_beat b;

        sleep_under(&t);
        b = line_of(&t, 0);
        if (how == 0)
            frame(&t, VS_BEATS, 2, 0, &b);
        else if (how == 1)
            append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2 }, 2,
                   1);
        else if (how == 2)
            propose(&t, 5);
        else
            read_now(&t, VSHARD_RAFT_READ_INDEX);
        cr_expect_eq(status(&t).asleep, 0, "way %d", how);
        cr_expect(vshard_raft_deadline_ns(t.raft) < t.now + 400 * MS, "way %d: no timer", how);
        if (how == 2)
            cr_expect_not_null(sent(&t, VS_FORWARD, 2));
        stop(&t);
    }
}

/* The allocator of a rig, of which the *ctx-th call fails. */
static void *refuse_one(void *ctx, void *old, size_t old_bytes, size_t bytes, size_t align)
{
    uint64_t *left = ctx;

    (void)old_bytes;
    free(old);
    return bytes == 0 || --*left == 0 ? NULL
                                      : aligned_alloc(align, (bytes + align - 1) / align * align);
}

/* Nobody sends one that was voted out the entry that says so. It asks as long as it lives. */
Test(raft_sleep, one_that_is_no_member_keeps_nobody_awake)
{
    struct vs_message asks = {
        .kind = VS_PREVOTE, .from = 4, .term = 9, .index = 9, .log_term = 8, .round = 1
    };
    struct rig t;

    lead_idle(&t);
    say(&t, asks);
    time_passes(&t, BEAT_MS * MS);
    cr_expect(t.beat.flags & VS_FLAG_SLEEP, "the beat still asks");
    stop(&t);
    fall_asleep(&t);
    for (int i = 0; i < 20; i++) {
        say(&t, asks);
        cr_expect_null(sent(&t, VS_PREVOTE_REPLY, 4));
        cr_assert_eq(status(&t).asleep, 1u);
        time_passes(&t, BEAT_MS * MS);
        frame(&t, VS_BEAT_REPLIES, 2, 0, NULL);
        frame(&t, VS_BEAT_REPLIES, 3, 0, NULL);
    }
    asks.from = 3;
    say(&t, asks);
    cr_expect_eq(status(&t).asleep, 0u, "a member wakes it");
    stop(&t);
}

/* A step that fails has changed nothing: the message comes again. */
Test(raft_sleep, a_chunk_that_finds_no_memory_wakes_nobody)
{
    const struct vs_message m = { .kind = VS_CHUNK,
                                  .from = 2,
                                  .term = 2,
                                  .index = 9,
                                  .log_term = 2,
                                  .hint_term = 16,
                                  .flags = VS_FLAG_LAST };
    unsigned char body[64] = { 0 };
    struct rig t;
    uint64_t digest;
    int rc = VSHARD_ENOMEM;

    sleep_under(&t);
    vs_store32(body, 8);
    digest = vshard_raft_digest(t.raft);
    for (uint64_t nth = 1; rc == VSHARD_ENOMEM; nth++) {
        uint64_t left = nth;
        const struct vshard_allocator refuses = { refuse_one, &left };

        t.raft->allocator = &refuses;
        rc = deliver(&t, m, body, 20);
        t.raft->allocator = NULL;
        cr_expect_eq(status(&t).asleep, rc == VSHARD_ENOMEM, "allocation %u", (unsigned)nth);
        cr_expect_eq(vshard_raft_digest(t.raft) == digest, rc == VSHARD_ENOMEM);
    }
    cr_expect_eq(rc, VSHARD_OK);
    stop(&t);
}

Test(raft_sleep, a_sleeping_follower_is_true_to_a_leader_whose_node_it_hears)
{
    struct rig t;

    sleep_under(&t);
    for (int i = 0; i < 20; i++) {
        time_passes(&t, BEAT_MS * MS);
        frame(&t, VS_BEATS, 2, 0, NULL);
    }
    say(&t,
        (struct vs_message){ .kind = VS_PREVOTE, .from = 3, .term = 3, .index = 3, .log_term = 2 });
    cr_expect_null(sent(&t, VS_PREVOTE_REPLY, 3));
    cr_expect_eq(status(&t).asleep, 0, "but it is awake");
    time_passes(&t, 160 * MS);
    say(&t,
        (struct vs_message){ .kind = VS_PREVOTE, .from = 3, .term = 3, .index = 3, .log_term = 2 });
    cr_expect_not_null(sent(&t, VS_PREVOTE_REPLY, 3), "and not for ever");
    stop(&t);
}

Test(raft_sleep, a_group_asleep_takes_less_than_two_kibibytes)
{
    enum { GROUPS = 1000 };
    struct fault_alloc memory;
    struct vshard_raft_options o = {
        .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1, .allocator = &memory.hook
    };
    struct vshard_raft *raft;
    size_t before, bytes;

    fault_alloc_init(&memory);
    cr_assert_eq(vshard_raft_create(&o, &raft), VSHARD_OK);
    before = memory.bytes;
    for (uint64_t g = 1; g <= GROUPS; g++) {
        struct vshard_raft_boot b = {
            .size = sizeof b, .group = g, .members = three, .member_count = 3
        };
        struct vs_group *group;

        cr_assert_eq(vshard_raft_open(raft, &b), VSHARD_OK);
        cr_assert_eq(vshard_raft_start(raft, g, 1000 * MS), VSHARD_OK);
        while (vshard_raft_next(raft) != NULL)
            ;
        group = vs_group_find(raft, g);
        group->leader = 2;
        vs_sleep(raft, group);
    }
    bytes = memory.bytes - before;
    /* The blocks of the allocator beneath have heads of their own. */
    bytes += 16 * (size_t)memory.blocks;
    cr_expect(bytes / GROUPS <= 2048, "%zu", bytes / GROUPS);
    vshard_raft_destroy(raft);
    fault_alloc_fini(&memory);
}

/* Who may not lead has no election to wake a leader by, after it was opened again. */
Test(raft_sleep, who_may_not_lead_asks_for_a_leader_that_sleeps)
{
    static const struct vshard_raft_member who[][3] = { { { 1, 1, VSHARD_RAFT_LEARNER, 0 },
                                                          { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                          { 3, 3, VSHARD_RAFT_VOTER, 0 } },
                                                        { { 1, 1, VSHARD_RAFT_VOTER,
                                                            VSHARD_RAFT_NEVER_LEADS },
                                                          { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                          { 3, 3, VSHARD_RAFT_VOTER, 0 } },
                                                        { { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                          { 3, 3, VSHARD_RAFT_VOTER, 0 },
                                                          { 4, 4, VSHARD_RAFT_VOTER, 0 } } };
    struct rig t;

    for (int i = 0; i < 3; i++) {
        bool member = i < 2;

        boot_of(&t, who[i], 3, 1, 0, "1", 0);
        cr_expect(member == (vshard_raft_deadline_ns(t.raft) < t.now + 400 * MS));
        for (int asked = 0; asked < 3; asked++) {
            t.now = member ? vshard_raft_deadline_ns(t.raft) : t.now + 400 * MS;
            time_passes(&t, 0);
            cr_expect_eq(sent(&t, VS_PREVOTE, 2) != NULL, member, "case %d", i);
            cr_expect_eq(sent(&t, VS_PREVOTE, 3) != NULL, member, "case %d", i);
            for (uint64_t from = 2; from <= 3; from++)
                say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = from, .term = 2 });
            cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_FOLLOWER);
            cr_expect_eq(status(&t).term, (uint64_t)1);
        }
        append(&t, (struct vs_message){ .from = 2, .term = 1, .index = 2, .log_term = 1 }, 1, 0);
        cr_assert_eq(status(&t).leader, (uint64_t)2);
        time_passes(&t, 2000 * MS);
        time_passes(&t, 2000 * MS);
        cr_expect_eq(t.sends, (size_t)0, "it knows who leads");
        stop(&t);
    }
}

Test(raft_sleep, a_leader_wakes_when_a_member_asks_for_one)
{
    struct rig t;

    fall_asleep(&t);
    say(&t,
        (struct vs_message){ .kind = VS_PREVOTE, .from = 9, .term = 2, .index = 9, .log_term = 1 });
    cr_expect_eq(status(&t).asleep, 1u, "no member");
    say(&t,
        (struct vs_message){ .kind = VS_PREVOTE, .from = 3, .term = 2, .index = 9, .log_term = 1 });
    cr_expect_eq(status(&t).asleep, 0u);
    time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect(t.beat.group == 1 && !(t.beat.flags & VS_FLAG_SLEEP));
    stop(&t);
}

/* What a step sends points into the log, from which a group that sleeps has all room taken. Here
 * a leader is served and falls asleep in one step, while a learner that is down still lacks
 * entries that may be under way to it. */
Test(raft_sleep, what_the_step_sends_outlives_falling_asleep)
{
    static const struct vshard_raft_member learns[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                        { 2, 2, VSHARD_RAFT_LEARNER, 0 } };
    enum { ENTRIES = 14 }; /* four a step go out, of which there are three before the last */
    struct vshard_raft_entry e[ENTRIES];
    struct fault_alloc memory;
    struct vshard_raft_options o = { .size = sizeof o,
                                     .node = 1,
                                     .incarnation = 1,
                                     .boot = 1,
                                     .max_message = 1,
                                     .idle_ns = 1,
                                     .allocator = &memory.hook };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = learns, .member_count = 2
    };
    struct rig t = { .now = 1000 * MS };
    size_t sent_in_the_end = 0;

    fault_alloc_init(&memory);
    cr_assert_eq(vshard_raft_create(&o, &t.raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(t.raft, 1, t.now), VSHARD_OK);
    drain(&t);
    persisted(&t);
    campaign(&t);
    persisted(&t);
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    persisted(&t);
    apply_all(&t);
    acknowledge(&t, 2, status(&t).term, status(&t).last);
    for (size_t i = 0; i < ENTRIES; i++)
        e[i] = (struct vshard_raft_entry){ .data = "zzzzzzzz", .count = 8 };
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_PROPOSE, .tag = 1, .entries = e, .entry_count = ENTRIES });
    persisted(&t);
    apply_all(&t);
    time_passes(&t, 400 * MS);
    for (size_t i = 0; i < t.sends; i++)
        sent_in_the_end += t.sent[i].kind == VS_APPEND && t.sent[i].count == 1;
    cr_expect_gt(sent_in_the_end, 0u, "drain() has read what they hold");
    time_passes(&t, BEAT_MS * MS);
    cr_expect_eq(status(&t).asleep, 1u);
    stop(&t);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

/* All of a node's groups lead here, sleep, and have this node and another for members, which
 * falls silent. */
Test(raft_sleep, there_is_room_for_the_lines_of_all_that_wake_at_once)
{
    enum { GROUPS = 300 };
    struct rig t = { .now = 1000 * MS };
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };

    cr_assert_eq(vshard_raft_create(&o, &t.raft), VSHARD_OK);
    for (uint64_t g = 1; g <= GROUPS; g++) {
        struct vshard_raft_boot b = {
            .size = sizeof b, .group = g, .members = three, .member_count = 2
        };

        cr_assert_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
        cr_assert_eq(vshard_raft_start(t.raft, g, t.now), VSHARD_OK);
        drain(&t);
    }
    persisted(&t);
    for (uint64_t g = 1; g <= GROUPS; g++) {
        struct vs_group *group = vs_group_find(t.raft, g);

        group->role = VSHARD_RAFT_LEADER;
        group->leader = 1;
        vs_lead(t.raft, group, true);
        vs_sleep(t.raft, group);
    }
    frame(&t, VS_BEAT_REPLIES, 2, 0, NULL);
    for (uint64_t g = 1; g <= GROUPS; g++)
        vs_sleep(t.raft, vs_group_find(t.raft, g)); /* the first frame woke them */
    vs_relax(t.raft);
    time_passes(&t, 1000 * MS);
    cr_assert_not_null(sent(&t, VS_BEATS, 2));
    cr_expect_eq(sent(&t, VS_BEATS, 2)->count, GROUPS);
    stop(&t);
}

/* ---- how long silence is borne ---- */

/* How long after the last beat a follower asks for votes, at the earliest of many. */
static uint64_t earliest(const uint64_t *gap_ms, size_t gaps)
{
    uint64_t least = UINT64_MAX;

    for (uint64_t seed = 0; seed < 20; seed++) {
        struct rig t;
        uint64_t since;

        follow(&t);
        t.raft->heap[0]->random = seed;
        for (size_t i = 0; i < gaps; i++) {
            struct vs_beat b = line_of(&t, 0);
            t.now += gap_ms[i] * MS; /* and no TIME: nothing is due of itself */
            frame(&t, VS_BEATS, 2, 0, &b);
        }
        since = t.now;
        t.now = vshard_raft_deadline_ns(t.raft);
        step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
        cr_assert_not_null(sent(&t, VS_PREVOTE, 3));
        least = t.now - since < least ? t.now - since : least;
        stop(&t);
    }
    return least / MS;
}

/* 43 */
Test(raft_sleep, a_peer_that_stutters_is_borne_longer_within_bounds)
{
    uint64_t even[300], stutter[40], wild[40], calm[800];
    uint64_t at;

    for (size_t i = 0; i < 800; i++)
        calm[i] = 30;
    for (size_t i = 0; i < 40; i++) {
        calm[i] = stutter[i] = i % 4 == 3 ? 120 : 30;
        wild[i] = i % 2 ? 850 : 30;
    }
    for (size_t i = 0; i < 300; i++)
        even[i] = 30;
    at = earliest(even, 300);
    cr_expect(at >= 150 && at < 190, "%llu", (unsigned long long)at);
    at = earliest(stutter, 40);
    cr_expect(at > 250 && at < 600, "%llu", (unsigned long long)at);
    at = earliest(wild, 40);
    cr_expect(at >= 900 && at < 1050, "never beyond election_max_ns: %llu", (unsigned long long)at);
    at = earliest(calm, 800);
    cr_expect(at >= 150 && at < 190, "and it is forgiven: %llu", (unsigned long long)at);
}

Test(raft_sleep, who_was_held_up_itself_waits_a_beat_more_and_only_one)
{
    struct rig t;

    follow(&t);
    time_passes(&t, 2000 * MS);
    cr_expect_null(sent(&t, VS_PREVOTE, 3), "the leader's word may be in the queue");
    cr_expect(vshard_raft_deadline_ns(t.raft) <= t.now + 30 * MS);
    time_passes(&t, 2000 * MS);
    cr_expect_not_null(sent(&t, VS_PREVOTE, 3), "late again; that is no excuse");
    stop(&t);
}
