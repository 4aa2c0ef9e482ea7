/* raft_epoch.c - a forced promotion, and those that meet it.
 *
 * Method: one replica, on either side. On the one side the promotion, with every
 * piece of its evidence missing in turn. On the other a replica of the old epoch
 * that hears of the new one: with nothing the new log lacks it must follow, with
 * more it must stop, and in no case may it help the old epoch on. */
#include "support/raft_rig.h"

#include "support/fault_alloc.h"

#define EPOCH(n, count) ((uint64_t)(n) << 48 | (count))

static const char words[] = "2 and 3 were in a hall that burned down";

static const struct vshard_raft_member alone[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                   { 2, 2, VSHARD_RAFT_FENCED, 0 },
                                                   { 3, 3, VSHARD_RAFT_FENCED, 0 } };

static struct vshard_raft_event evidence(const struct rig *t)
{
    return (struct vshard_raft_event){ .kind = VSHARD_RAFT_PROMOTE,
                                       .tag = 7,
                                       .barrier = 1,
                                       .index = status(t).last,
                                       .offset = status(t).last_term,
                                       .members = alone,
                                       .member_count = 3,
                                       .bytes = words,
                                       .byte_count = sizeof words };
}

static int answer(const struct rig *t)
{
    const struct vshard_raft_effect *e = effect(t, VSHARD_RAFT_DONE);

    cr_assert_not_null(e);
    cr_assert_eq(e->tag, 7);
    return e->status;
}

/* With a log to index 3, and nobody heard for a second. */
static void survive(struct rig *t)
{
    boot(t, 2, 0, "22");
    time_passes(t, 1000 * MS);
}

static void promote(struct rig *t)
{
    survive(t);
    step(t, evidence(t));
    persisted(t);
    apply_all(t);
}

/* ---- the survivor ---- */

Test(raft_epoch, a_survivor_leads_the_epoch_once_that_is_written)
{
    const struct vshard_raft_effect *e;
    struct rig t;

    survive(&t);
    cr_assert_eq(step(&t, evidence(&t)), VSHARD_OK);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(status(&t).term, EPOCH(1, 1));
    cr_expect_eq(status(&t).epoch, 1);
    cr_expect_eq(status(&t).superseded, 0);
    cr_expect_eq(status(&t).commit, 0);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_not_null(effect(&t, VSHARD_RAFT_EPOCH));
    e = effect(&t, VSHARD_RAFT_PERSIST);
    cr_assert_not_null(e);
    cr_expect_eq(e->term, EPOCH(1, 1));
    cr_expect_eq(e->vote, 1);
    cr_expect_eq(e->entry_count, 1);
    time_passes(&t, 40 * MS);
    cr_expect_eq(t.sends, 0, "nothing is said before it is written");
    persisted(&t);
    cr_expect_eq(status(&t).commit, 4, "alone, it decides");
    apply_all(&t);
    cr_expect_eq(answer(&t), VSHARD_OK);
    e = effect(&t, VSHARD_RAFT_DONE);
    cr_expect_eq(e->index, 4);
    cr_expect(e->age_ns >= 1000 * MS && e->age_ns < 1300 * MS, "%llu",
              (unsigned long long)e->age_ns);
    stop(&t);
}

Test(raft_epoch, the_operators_words_are_in_the_log_and_survive_a_restart)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 2 };
    struct vshard_raft_boot b = { .size = sizeof b, .group = 1, .term = EPOCH(1, 1), .vote = 1 };
    struct vshard_raft_status s = { .size = sizeof s };
    struct vshard_raft *again;
    struct rig t;

    promote(&t);
    cr_assert_eq(vshard_raft_create(&o, &again), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(again, &b), VSHARD_OK);
    for (uint64_t i = 1; i <= 4; i++) {
        const struct vshard_raft_entry *e = vs_log_at(&vs_group_find(t.raft, 1)->log, i);
        const char *end = (const char *)e->data + e->count - sizeof words;

        if (i == 4)
            cr_expect_eq(memcmp(end, words, sizeof words), 0);
        cr_assert_eq(vshard_raft_load(again, 1, e, 1), VSHARD_OK);
    }
    cr_assert_eq(vshard_raft_start(again, 1, t.now), VSHARD_OK);
    cr_assert_eq(vshard_raft_inspect(again, 1, &s), VSHARD_OK);
    cr_expect_eq(s.member_count, 1);
    cr_expect_eq(s.epoch, 1);
    cr_expect_eq(s.superseded, 0);
    vshard_raft_destroy(again);
    stop(&t);
}

/* As who leads it has promised nobody anything, and so has heard nobody. */
Test(raft_epoch, a_survivor_that_led_says_how_long_ago_it_started)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    for (int i = 0; i < 100; i++)
        time_passes(&t, 30 * MS);
    cr_assert_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER, "nobody has answered it");
    cr_assert_eq(step(&t, evidence(&t)), VSHARD_OK);
    persisted(&t);
    apply_all(&t);
    cr_expect_eq(answer(&t), VSHARD_OK);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->age_ns, t.now - t.raft->since_ns);
    stop(&t);
}

static void refuses(const char *why, struct vshard_raft_event e, int status_wanted)
{
    struct rig t;

    survive(&t);
    cr_expect_eq(step(&t, e), VSHARD_OK, "%s", why);
    cr_expect_eq(answer(&t), status_wanted, "%s: %d", why, answer(&t));
    cr_expect_eq(status(&t).epoch, 0, "%s", why);
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER, "%s", why);
    stop(&t);
}

Test(raft_epoch, a_promotion_without_its_evidence_is_refused)
{
    struct vshard_raft_member list[34];
    struct vshard_raft_event e, whole;
    struct rig t;

    survive(&t);
    whole = evidence(&t);
    stop(&t);
    e = whole;
    e.byte_count = 0;
    refuses("no statement", e, VSHARD_EINVAL);
    e = whole;
    e.barrier = 0;
    refuses("no epoch", e, VSHARD_EINVAL);
    e.barrier = 0x8000;
    refuses("an epoch beyond all", e, VSHARD_EINVAL);
    e = whole;
    e.member_count = 2;
    refuses("node 3 is neither kept nor fenced", e, VSHARD_EINVAL);
    e = whole;
    e.members = alone + 1;
    e.member_count = 2;
    refuses("nor is this one", e, VSHARD_EINVAL);
    e.members = NULL;
    refuses("no list", e, VSHARD_EINVAL);
    memcpy(list, alone, sizeof alone);
    list[0].role = VSHARD_RAFT_LEARNER;
    e = whole;
    e.members = list;
    refuses("nobody votes", e, VSHARD_EINVAL);
    memcpy(list, alone, sizeof alone);
    list[3] = list[2];
    e.member_count = 4;
    refuses("one is named twice", e, VSHARD_EINVAL);
    for (uint64_t i = 1; i < 20; i++)
        list[2 + i] = (struct vshard_raft_member){ 10 + i, 1, VSHARD_RAFT_VOTER, 0 };
    e.member_count = 22;
    refuses("too many", e, VSHARD_E2BIG);
    e.member_count = 33;
    refuses("far too many", e, VSHARD_EINVAL);
    memcpy(list, alone, sizeof alone);
    list[1].role = VSHARD_RAFT_VOTER;
    e.member_count = 3;
    refuses("two of three remain", e, VSHARD_EEXIST);
    e = whole;
    e.index--;
    refuses("another end of the log", e, VSHARD_ESTALE);
    e = whole;
    e.offset++;
    refuses("of another term", e, VSHARD_ESTALE);
}

Test(raft_epoch, a_promotion_against_what_the_node_itself_hears_is_refused)
{
    struct rig t;

    boot(&t, 2, 0, "22");
    time_passes(&t, 700 * MS);
    step(&t, evidence(&t));
    cr_expect_eq(answer(&t), VSHARD_EBUSY, "it has not listened for long enough");
    time_passes(&t, 300 * MS);
    say(&t, (struct vs_message){ .kind = VS_PREVOTE, .from = 3, .term = 1 });
    step(&t, evidence(&t));
    cr_expect_eq(answer(&t), VSHARD_EBUSY, "node 3, said to be fenced, speaks");
    time_passes(&t, 1000 * MS);
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2 }, 2, 0);
    step(&t, evidence(&t));
    cr_expect_eq(answer(&t), VSHARD_EBUSY, "and node 2 leads");
    time_passes(&t, 1000 * MS);
    step(&t, evidence(&t));
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(status(&t).epoch, 1);
    step(&t, evidence(&t));
    cr_expect_eq(answer(&t), VSHARD_EEXIST, "alone, it is a quorum now");
    stop(&t);
}

Test(raft_epoch, a_promotion_needs_a_higher_number_than_any_before)
{
    struct vshard_raft_event e;
    struct rig t;

    boot(&t, EPOCH(4, 9), 0, "");
    time_passes(&t, 1000 * MS);
    e = evidence(&t);
    e.barrier = 4;
    step(&t, e);
    cr_expect_eq(answer(&t), VSHARD_ESTALE);
    e.barrier = 5;
    step(&t, e);
    cr_expect_eq(status(&t).term, EPOCH(5, 1));
    stop(&t);
}

Test(raft_epoch, a_survivor_in_doubt_of_its_log_is_certain_of_it_by_order)
{
    struct rig t;

    boot_as(&t, 2, 0, "22", VSHARD_RAFT_UNCERTAIN);
    time_passes(&t, 1000 * MS);
    step(&t, evidence(&t));
    cr_expect_eq(status(&t).epoch, 1);
    cr_expect_null(effect(&t, VSHARD_RAFT_CERTAIN), "the epoch is not on disk");
    persisted(&t);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_CERTAIN));
    stop(&t);
}

static int live(const struct vshard_allocator *memory, void *arg)
{
    struct vshard_raft_options o = {
        .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1, .allocator = memory
    };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = three, .member_count = 3
    };
    struct vshard_raft_event e = { .size = sizeof e,
                                   .kind = VSHARD_RAFT_PROMOTE,
                                   .group = 1,
                                   .now_ns = 2000 * MS,
                                   .tag = 7,
                                   .barrier = 1,
                                   .index = 1,
                                   .offset = 1,
                                   .members = alone,
                                   .member_count = 3,
                                   .bytes = words,
                                   .byte_count = sizeof words };
    struct vshard_raft *r = NULL;
    int rc = vshard_raft_create(&o, &r);

    (void)arg;
    if (rc == VSHARD_OK)
        rc = vshard_raft_open(r, &b);
    if (rc == VSHARD_OK)
        rc = vshard_raft_start(r, 1, MS);
    while (rc == VSHARD_OK && vshard_raft_next(r) != NULL)
        ;
    if (rc == VSHARD_OK)
        rc = vshard_raft_step(r, &e);
    vshard_raft_destroy(r);
    return rc;
}

Test(raft_epoch, each_allocation_of_a_promotion_may_fail)
{
    char why[300] = "";
    uint64_t runs = fault_alloc_try_each(live, NULL, why, sizeof why);

    cr_expect(runs > 10, "%llu runs: %s", (unsigned long long)runs, why);
}

/* ---- those of the old epoch ---- */

Test(raft_epoch, an_old_leader_that_meets_the_epoch_lets_go_for_good)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    say(&t, (struct vs_message){
                .kind = VS_APPEND_REPLY, .from = 2, .term = EPOCH(1, 3), .flags = VS_FLAG_REJECT });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_FOLLOWER);
    cr_expect_eq(status(&t).superseded, 1);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_EPOCH));
    persisted(&t);
    /* 39 */
    for (int i = 0; i < 40; i++) {
        time_passes(&t, 50 * MS);
        cr_assert_null(sent(&t, VS_PREVOTE, 2));
    }
    campaign(&t);
    cr_expect_null(sent(&t, VS_PREVOTE, 2), "not when asked to either");
    propose(&t, 5);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_ENOTLEADER);
    stop(&t);
}

/* 39: an old log may be the longer one. */
Test(raft_epoch, a_vote_goes_to_a_log_of_the_epoch_it_is_asked_in)
{
    struct vs_message ask = {
        .kind = VS_VOTE, .from = 2, .term = EPOCH(1, 5), .index = 90, .log_term = 2
    };
    struct rig t;

    survive(&t);
    say(&t, ask);
    cr_assert_not_null(sent(&t, VS_VOTE_REPLY, 2));
    cr_expect(sent(&t, VS_VOTE_REPLY, 2)->flags & VS_FLAG_REJECT);
    ask.log_term = EPOCH(1, 1);
    ask.index = 4;
    say(&t, ask);
    cr_expect_eq(sent(&t, VS_VOTE_REPLY, 2)->flags & VS_FLAG_REJECT, 0);
    stop(&t);
}

Test(raft_epoch, what_the_old_epoch_says_is_refused_and_counted)
{
    struct vshard_raft_counters c = { .size = sizeof c };
    struct rig t;

    promote(&t);
    append(&t, (struct vs_message){ .from = 2, .term = 40, .index = 3, .log_term = 2 }, 40, 1);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_REJECT);
    cr_expect_eq(sent(&t, VS_APPEND_REPLY, 2)->term, EPOCH(1, 1), "and the sender learns why");
    say(&t,
        (struct vs_message){ .kind = VS_VOTE, .from = 3, .term = 41, .index = 90, .log_term = 40 });
    cr_expect(sent(&t, VS_VOTE_REPLY, 3)->flags & VS_FLAG_REJECT);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    vshard_raft_count(t.raft, &c);
    cr_expect_eq(c.outdated, 2);
    stop(&t);
}

/* Committed to `commit`, of a log that reaches index 5. */
static void old_replica(struct rig *t, uint64_t commit)
{
    boot(t, 2, 0, "2222");
    append(t,
           (struct vs_message){ .from = 3, .term = 2, .index = 5, .log_term = 2, .commit = commit },
           2, 0);
    cr_assert_eq(status(t).commit, commit);
}

Test(raft_epoch, who_has_committed_nothing_else_follows)
{
    struct rig t;

    old_replica(&t, 3);
    append(&t, (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 3, .log_term = 2 },
           EPOCH(1, 1), 1);
    cr_expect_null(effect(&t, VSHARD_RAFT_FATAL));
    cr_expect_eq(status(&t).last, 4, "what was not committed is gone");
    cr_expect_eq(status(&t).superseded, 0);
    cr_expect_not_null(sent(&t, VS_APPEND_REPLY, 2));
    stop(&t);
}

/* What its first message brings is of the epoch itself, and so is what is found at a restart. */
Test(raft_epoch, who_meets_it_says_how_far_the_one_before_was_committed)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 2 };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .term = EPOCH(1, 1), .commit = 5, .applied = 5
    };
    struct rig t, again = { 0 };

    old_replica(&t, 3);
    append(&t,
           (struct vs_message){
               .from = 2, .term = EPOCH(1, 1), .index = 3, .log_term = 2, .commit = 5 },
           EPOCH(1, 1), 2);
    cr_assert_eq(status(&t).commit, 5);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_EPOCH));
    cr_expect_eq(effect(&t, VSHARD_RAFT_EPOCH)->index, 3);

    cr_assert_eq(vshard_raft_create(&o, &again.raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(again.raft, &b), VSHARD_OK);
    for (uint64_t i = 1; i <= 5; i++)
        cr_assert_eq(
            vshard_raft_load(again.raft, 1, vs_log_at(&vs_group_find(t.raft, 1)->log, i), 1),
            VSHARD_OK);
    cr_assert_eq(vshard_raft_start(again.raft, 1, again.now), VSHARD_OK);
    drain(&again);
    cr_assert_not_null(effect(&again, VSHARD_RAFT_EPOCH));
    cr_expect_eq(effect(&again, VSHARD_RAFT_EPOCH)->index, 3);
    stop(&again);
    stop(&t);
}

/* It has forgotten where that was. */
Test(raft_epoch, who_has_compacted_beyond_its_beginning_says_nothing_of_the_one_before)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 2 };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .term = EPOCH(1, 1), .commit = 4, .applied = 4
    };
    const struct vshard_raft_effect *e;
    struct rig t, again = { 0 };

    promote(&t);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    e = effect(&t, VSHARD_RAFT_META);
    cr_assert_not_null(e);
    b.snapshot_index = e->index;
    b.snapshot_term = e->term;
    b.meta = e->bytes;
    b.meta_count = e->byte_count;
    cr_assert_eq(vshard_raft_create(&o, &again.raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(again.raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(again.raft, 1, again.now), VSHARD_OK);
    drain(&again);
    cr_assert_not_null(effect(&again, VSHARD_RAFT_EPOCH));
    cr_expect_eq(effect(&again, VSHARD_RAFT_EPOCH)->index, 0);
    stop(&again);
    stop(&t);
}

static void expect_parted(struct rig *t, const char *why)
{
    const struct vshard_raft_effect *e = effect(t, VSHARD_RAFT_FATAL);

    cr_assert_not_null(e, "%s", why);
    cr_expect_eq(e->status, VSHARD_ESTALE, "%s: %d", why, e->status);
    cr_expect_null(sent(t, VS_APPEND_REPLY, 2), "%s", why);
    cr_expect_eq(status(t).stopped, 1, "%s", why);
    stop(t);
}

/* 40: all three would otherwise acknowledge what they do not have. */
Test(raft_epoch, who_has_committed_something_else_stops)
{
    static const unsigned char piece[] = "p";
    struct rig t;

    old_replica(&t, 4);
    append(&t, (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 3, .log_term = 2 },
           EPOCH(1, 1), 1);
    expect_parted(&t, "the new log has another entry 4");

    old_replica(&t, 4);
    apply_all(&t);
    cr_assert_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT }), VSHARD_OK);
    cr_assert_eq(
        step(&t,
             (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT, .index = 4, .offset = 4 }),
        VSHARD_OK);
    append(&t, (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 3, .log_term = 2 },
           EPOCH(1, 1), 0);
    expect_parted(&t, "the new log ends before what is compacted here");

    old_replica(&t, 4);
    {
        unsigned char body[200];
        struct vs_config c;
        size_t n;

        vs_config_change(NULL, three, 3, &c);
        n = vs_config_encode(&c, body + 8);
        vs_store32(body, (uint32_t)n);
        vs_store32(body + 4, 0);
        memcpy(body + 8 + n, piece, 1);
        deliver(&t,
                (struct vs_message){ .kind = VS_CHUNK,
                                     .from = 2,
                                     .term = EPOCH(1, 1),
                                     .index = 4,
                                     .log_term = EPOCH(1, 1),
                                     .hint_term = 8 + n },
                body, 8 + n + 1);
    }
    expect_parted(&t, "a snapshot of another entry 4");
}

/* Entry 4, which it has applied, may be another than the new log's. */
Test(raft_epoch, who_has_not_shown_its_past_to_be_the_leaders_answers_no_read)
{
    struct vs_message m = {
        .kind = VS_READ_REPLY, .from = 2, .term = EPOCH(1, 1), .index = 3, .log_term = 1
    };
    struct rig t;

    old_replica(&t, 4);
    apply_all(&t);
    append(
        &t,
        (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 20, .log_term = EPOCH(1, 1) },
        EPOCH(1, 1), 0);
    persisted(&t);
    read_now(&t, VSHARD_RAFT_READ_INDEX);
    cr_assert_not_null(sent(&t, VS_READ, 2));
    m.round = sent(&t, VS_READ, 2)->round;
    say(&t, m);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_READ,
                                         .tag = 10,
                                         .mode = VSHARD_RAFT_READ_STALE,
                                         .max_age_ns = 1000 * MS });
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE), "nor one that may be old");
    append(&t, (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 4, .log_term = 2 },
           EPOCH(1, 1), 1);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE), "now it has");
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, 9u);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_OK);
    stop(&t);
}

Test(raft_epoch, a_snapshot_beyond_what_is_committed_replaces_everything)
{
    unsigned char body[200];
    struct vs_config c;
    struct rig t;
    size_t n;

    old_replica(&t, 4);
    vs_config_change(NULL, three, 3, &c);
    n = vs_config_encode(&c, body + 8);
    vs_store32(body, (uint32_t)n);
    vs_store32(body + 4, 0);
    body[8 + n] = 'p';
    deliver(&t,
            (struct vs_message){ .kind = VS_CHUNK,
                                 .from = 2,
                                 .term = EPOCH(1, 1),
                                 .index = 9,
                                 .log_term = EPOCH(1, 1),
                                 .hint_term = 8 + n },
            body, 8 + n + 1);
    cr_expect_null(effect(&t, VSHARD_RAFT_FATAL));
    cr_expect_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    stop(&t);
}

/* The last piece of a snapshot of entry 9 of the old epoch, which the host has yet to write. */
static void old_snapshot(struct rig *t)
{
    unsigned char body[200];
    struct vs_config c;
    size_t n;

    old_replica(t, 4);
    apply_all(t);
    vs_config_change(NULL, three, 3, &c);
    n = vs_config_encode(&c, body + 8);
    vs_store32(body, (uint32_t)n);
    vs_store32(body + 4, 0);
    body[8 + n] = 'p';
    deliver(t,
            (struct vs_message){ .kind = VS_CHUNK,
                                 .flags = VS_FLAG_LAST,
                                 .from = 3,
                                 .term = 2,
                                 .index = 9,
                                 .log_term = 2,
                                 .hint_term = 8 + n },
            body, 8 + n + 1);
    cr_assert_not_null(effect(t, VSHARD_RAFT_SNAPSHOT_WRITE));
}

/* From one whose log has entry 4 of the old epoch as its last. */
static void new_leader(struct rig *t)
{
    append(t, (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 4, .log_term = 2 },
           EPOCH(1, 1), 8);
}

static void is_written(struct rig *t)
{
    step(t,
         (struct vshard_raft_event){ .kind = VSHARD_RAFT_CHUNK_WRITTEN, .index = 9, .offset = 1 });
}

Test(raft_epoch, a_snapshot_of_the_old_epoch_is_not_installed_in_the_new_one)
{
    struct rig t;

    old_snapshot(&t);
    append(
        &t,
        (struct vs_message){ .from = 2, .term = EPOCH(1, 1), .index = 20, .log_term = EPOCH(1, 1) },
        EPOCH(1, 1), 0);
    is_written(&t);
    cr_expect_null(effect(&t, VSHARD_RAFT_INSTALL));
    new_leader(&t);
    cr_expect_null(effect(&t, VSHARD_RAFT_FATAL));
    cr_expect_eq(status(&t).last, 12u, "it follows");
    stop(&t);
}

Test(raft_epoch, a_snapshot_of_the_old_epoch_that_was_being_installed_is_no_proof)
{
    struct rig t;

    old_snapshot(&t);
    is_written(&t);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_INSTALL));
    new_leader(&t);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_INSTALLED, .index = 9 });
    cr_assert_eq(status(&t).commit, 9u);
    cr_expect_null(sent(&t, VS_APPEND_REPLY, 2));
    new_leader(&t);
    expect_parted(&t, "entries 5 to 9 are not those of the new log");
}

Test(raft_epoch, no_count_of_terms_runs_into_the_next_epoch)
{
    struct rig t;

    survive(&t);
    cr_expect_eq(
        say(&t,
            (struct vs_message){
                .kind = VS_VOTE, .from = 2, .term = EPOCH(1, 0) - 1, .index = 9, .log_term = 2 }),
        VSHARD_ECORRUPT);
    stop(&t);
    boot(&t, EPOCH(1, 0) - 1, 0, "");
    time_passes(&t, 1000 * MS);
    campaign(&t);
    cr_expect_null(sent(&t, VS_PREVOTE, 2));
    stop(&t);
}
