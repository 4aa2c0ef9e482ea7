/* raft_traps.c - known mistakes, one at a time.
 *
 * Method: one replica of three, its log as the test wants it, and messages made by
 * hand. Each test is the shortest story in which a mistake that some
 * implementation shipped would show; the numbers are those of
 * tests/sim/mutants.tsv. The simulator finds most of them too, but a story says
 * what went wrong. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "raft/core.h"
#include "support/raft_rig.h"

/* ---- the log ---- */

Test(raft_traps, trap_1_entries_of_earlier_terms_are_not_committed_by_counting)
{
    struct rig t;
    uint64_t term;

    boot(&t, 2, 0, "2");
    term = lead(&t);
    persisted(&t);
    acknowledge(&t, 2, term, 2);
    cr_expect_eq(status(&t).commit, 0, "two of three have entry 2, but it is of term 2");
    acknowledge(&t, 2, term, 3);
    cr_expect_eq(status(&t).commit, 3);
    stop(&t);
}

Test(raft_traps, trap_2_a_follower_commits_only_what_a_message_has_shown)
{
    struct rig t;

    boot(&t, 2, 0, "22");
    append(&t, (struct vs_message){ .from = 2, .term = 3, .index = 1, .log_term = 1, .commit = 3 },
           3, 0);
    cr_expect_eq(status(&t).commit, 1, "entries 2 and 3 may not be the leader's");
    stop(&t);
}

Test(raft_traps, trap_3_a_short_append_cuts_nothing_that_agrees)
{
    struct rig t;

    boot(&t, 2, 0, "22");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 1);
    cr_expect_eq(status(&t).last, 3);
    stop(&t);
}

Test(raft_traps, trap_4_an_empty_append_is_checked_like_any_other)
{
    struct rig t;

    boot(&t, 2, 0, "22");
    append(&t, (struct vs_message){ .from = 2, .term = 3, .index = 3, .log_term = 3, .commit = 3 },
           3, 0);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_REJECT);
    cr_expect_eq(status(&t).commit, 0);
    stop(&t);
}

Test(raft_traps, trap_6_a_barrier_does_not_vouch_for_entries_that_came_later)
{
    struct rig t;
    uint64_t first;

    boot(&t, 2, 0, "");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 1);
    first = t.raft->seq;
    append(&t, (struct vs_message){ .from = 3, .term = 3, .index = 1, .log_term = 1 }, 3, 1);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = first });
    cr_expect_eq(status(&t).durable, 1, "entry 2 of term 3 is not on disk");
    persisted(&t);
    cr_expect_eq(status(&t).durable, 2);
    stop(&t);
}

Test(raft_traps, trap_7_after_a_failed_write_a_leader_leads_no_more)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    propose(&t, 7);
    cr_assert_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSIST_FAILED }),
                 VSHARD_OK);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EUNKNOWN);
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME }), VSHARD_EIO);
    stop(&t);
}

Test(raft_traps, trap_10_a_rejected_append_is_followed_by_an_earlier_one)
{
    struct rig t;
    uint64_t term;

    boot(&t, 2, 0, "2222222222");
    term = lead(&t);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = 11,
                                 .flags = VS_FLAG_REJECT,
                                 .hint = 1,
                                 .hint_term = 1 });
    cr_assert_not_null(sent(&t, VS_APPEND, 3));
    cr_expect_eq(sent(&t, VS_APPEND, 3)->index, 1);
    stop(&t);
}

/* ---- votes and persistence ---- */

static void request_vote(struct rig *t, uint64_t from, uint64_t term, uint64_t index,
                         uint64_t log_term)
{
    t->now += 200 * MS; /* no leader has been heard for as long as it was promised */
    say(t, (struct vs_message){
               .kind = VS_VOTE, .from = from, .term = term, .index = index, .log_term = log_term });
}

static bool granted(const struct rig *t, uint64_t to)
{
    const struct vs_message *m = sent(t, VS_VOTE_REPLY, to);

    return m != NULL && !(m->flags & VS_FLAG_REJECT);
}

Test(raft_traps, trap_9_a_longer_log_of_an_older_term_is_not_better)
{
    struct rig t;

    boot(&t, 3, 0, "3");
    request_vote(&t, 2, 4, 9, 2);
    cr_expect_not(granted(&t, 2));
    request_vote(&t, 3, 5, 2, 3);
    cr_expect(granted(&t, 3));
    stop(&t);
}

Test(raft_traps, trap_11_term_and_vote_are_one_write)
{
    struct rig t;
    const struct vshard_raft_effect *e;

    boot(&t, 2, 0, "");
    request_vote(&t, 2, 5, 9, 4);
    cr_assert(granted(&t, 2));
    e = effect(&t, VSHARD_RAFT_PERSIST);
    cr_assert_not_null(e);
    cr_expect_eq(e->term, 5);
    cr_expect_eq(e->vote, 2);
    cr_expect_eq(t.barrier[0], e->barrier);
    stop(&t);
}

Test(raft_traps, trap_12_losing_an_election_does_not_free_the_vote)
{
    struct rig t;

    boot(&t, 1, 0, "");
    stand(&t);
    say(&t, (struct vs_message){
                .kind = VS_VOTE_REPLY, .from = 2, .term = 2, .flags = VS_FLAG_REJECT });
    say(&t, (struct vs_message){
                .kind = VS_VOTE_REPLY, .from = 3, .term = 2, .flags = VS_FLAG_REJECT });
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_FOLLOWER);
    request_vote(&t, 3, 2, 9, 2);
    cr_expect_not(granted(&t, 3), "it voted for itself in term 2");
    stop(&t);
}

Test(raft_traps, trap_13_a_candidate_writes_its_term_before_it_leads)
{
    struct rig t;
    const struct vshard_raft_effect *e;

    boot(&t, 1, 0, "");
    campaign(&t);
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = 2 });
    e = effect(&t, VSHARD_RAFT_PERSIST);
    cr_assert_not_null(e);
    cr_expect_eq(e->term, 2);
    cr_expect_eq(e->vote, 1);
    cr_assert_not_null(sent(&t, VS_VOTE, 2));
    cr_expect_eq(t.barrier[0], 0, "the others' disks need not wait for ours");
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 2 });
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 3, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE, "whoever votes for it");
    persisted(&t);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

/* The leader counts on everybody who answered it for as long as its lease is: on us, too,
 * and a vote for oneself is a vote. */
Test(raft_traps, trap_44_who_has_just_heard_its_leader_does_not_stand_when_told_to)
{
    struct rig t;

    boot(&t, 1, 0, "");
    time_passes(&t, 100 * MS);
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 1);
    persisted(&t);
    time_passes(&t, 100 * MS);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_CAMPAIGN });
    cr_expect_null(sent(&t, VS_PREVOTE, 3), "it keeps its promise");
    time_passes(&t, 49 * MS);
    cr_expect_null(sent(&t, VS_PREVOTE, 3));
    time_passes(&t, 1 * MS);
    cr_expect_not_null(sent(&t, VS_PREVOTE, 3), "and stands when it is over");
    stop(&t);
}

/* It asked, crashed before its vote was written, and asks in the same term again, with
 * another log: what was said to the process before is no vote for this one. */
Test(raft_traps, a_vote_for_an_earlier_process_of_this_node_is_not_ours)
{
    struct rig t;

    boot(&t, 1, 0, "");
    stand(&t);
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 2, .round = 7 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE);
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

/* Of five voters three are wanted, itself among them. */
Test(raft_traps, trap_14_one_voter_has_one_vote)
{
    static const struct vshard_raft_member five[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                      { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                      { 3, 3, VSHARD_RAFT_VOTER, 0 },
                                                      { 4, 4, VSHARD_RAFT_VOTER, 0 },
                                                      { 5, 5, VSHARD_RAFT_VOTER, 0 } };
    struct rig t;

    boot_of(&t, five, 5, 1, 0, "", 0);
    campaign(&t);
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = 2 });
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_PRECANDIDATE);
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 3, .term = 2 });
    persisted(&t);
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 2 });
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE);
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 3, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

Test(raft_traps, trap_15_an_acknowledgement_waits_for_the_disk)
{
    struct rig t;

    boot(&t, 2, 0, "");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 1);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect_eq(t.barrier[0], t.raft->seq);
    stop(&t);
}

Test(raft_traps, trap_16_a_wiped_disk_has_no_vote)
{
    struct rig t;

    boot(&t, 1, 0, "");
    stand(&t);
    say(&t,
        (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .from_incarnation = 77, .term = 2 });
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE);
    stop(&t);
}

/* Node 3 asks for a vote as this incarnation of it; the status of the answer. */
static uint32_t asked_by(struct rig *t, uint64_t incarnation)
{
    say(t, (struct vs_message){ .kind = VS_VOTE,
                                .flags = VS_FLAG_TRANSFER,
                                .from = 3,
                                .from_incarnation = incarnation,
                                .term = 4,
                                .index = 9,
                                .log_term = 3 });
    cr_assert_not_null(sent(t, VS_VOTE_REPLY, 3));
    return sent(t, VS_VOTE_REPLY, 3)->flags & VS_FLAG_REJECT;
}

/* Both could lead the term with it: what the first has sent may still be on its way. */
Test(raft_traps, a_vote_is_for_one_incarnation)
{
    struct rig t;

    boot(&t, 1, 0, "");
    cr_expect_eq(asked_by(&t, 3), 0u);
    cr_expect_eq(asked_by(&t, 3), 0u, "the same, again");
    cr_expect_neq(asked_by(&t, 33), 0u);
    stop(&t);
    boot(&t, 4, 3, "");
    cr_expect_neq(asked_by(&t, 33), 0u, "storage does not say which it was");
    stop(&t);
}

/* The answer to its question, for an entry that the leader has made for it. */
static void make_sure(struct rig *t, uint64_t term, uint64_t index)
{
    cr_assert_not_null(sent(t, VS_SURE, 2), "it asks the leader");
    say(t, (struct vs_message){ .kind = VS_SURE_REPLY,
                                .from = 2,
                                .term = term,
                                .index = index,
                                .round = sent(t, VS_SURE, 2)->round,
                                .log_term = 1 });
}

Test(raft_traps, trap_17_who_may_have_lost_the_end_of_its_log_does_not_vote)
{
    struct rig t;

    boot_as(&t, 2, 0, "22", VSHARD_RAFT_UNCERTAIN);
    request_vote(&t, 2, 3, 3, 2);
    cr_expect_not(granted(&t, 2));
    campaign(&t);
    cr_expect_null(sent(&t, VS_PREVOTE, 2));
    append(&t, (struct vs_message){ .from = 2, .term = 4, .index = 3, .log_term = 2 }, 4, 1);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_UNCERTAIN);
    time_passes(&t, 40 * MS);
    make_sure(&t, 4, 5);
    cr_expect_eq(status(&t).vote, 1, "it abstains in the leader's term");
    persisted(&t);
    cr_expect_eq(status(&t).uncertain, 1, "it has not got the entry");
    append(&t, (struct vs_message){ .from = 2, .term = 4, .index = 4, .log_term = 4 }, 4, 1);
    cr_expect_eq(status(&t).uncertain, 1, "the entry is not on disk");
    persisted(&t);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_CERTAIN));
    append(&t, (struct vs_message){ .from = 2, .term = 4, .index = 5, .log_term = 4 }, 4, 1);
    cr_expect_not(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_UNCERTAIN);
    t.now += 400 * MS;
    request_vote(&t, 3, 5, 9, 4);
    cr_expect(granted(&t, 3));
    stop(&t);
}

Test(raft_traps, who_is_in_doubt_and_hears_of_no_leader_asks_all)
{
    struct rig t;

    boot_as(&t, 2, 0, "22", VSHARD_RAFT_UNCERTAIN);
    time_passes(&t, 200 * MS);
    cr_expect_not_null(sent(&t, VS_SURE, 2), "it may be asleep, and lead");
    cr_expect_not_null(sent(&t, VS_SURE, 3));
    stop(&t);
}

Test(raft_traps, what_one_leader_has_made_sure_is_not_so_for_the_next)
{
    struct rig t;

    boot_as(&t, 2, 0, "22", VSHARD_RAFT_UNCERTAIN);
    append(&t, (struct vs_message){ .from = 2, .term = 4, .index = 3, .log_term = 2 }, 4, 1);
    time_passes(&t, 40 * MS);
    make_sure(&t, 4, 5);
    append(&t, (struct vs_message){ .from = 2, .term = 6, .index = 4, .log_term = 4 }, 6, 1);
    persisted(&t);
    cr_expect_eq(status(&t).uncertain, 1);
    time_passes(&t, 40 * MS);
    make_sure(&t, 6, 5);
    persisted(&t);
    cr_expect_eq(status(&t).uncertain, 0);
    stop(&t);
}

static void ask_to_be_sure(struct rig *t, uint64_t from, uint64_t term, uint64_t boot)
{
    say(t, (struct vs_message){
               .kind = VS_SURE, .from = from, .term = term, .round = 9, .boot = boot });
}

Test(raft_traps, trap_45_what_is_answered_in_doubt_does_not_count)
{
    struct rig t;
    uint64_t term, at;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    ask_to_be_sure(&t, 2, term, 2);
    at = status(&t).last;
    persisted(&t);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 2,
                                 .term = term,
                                 .index = at,
                                 .stamp = t.now,
                                 .boot = 2,
                                 .flags = VS_FLAG_UNCERTAIN });
    cr_expect_lt(status(&t).commit, at);
    say(&t, (struct vs_message){
                .kind = VS_APPEND_REPLY, .from = 2, .term = term, .index = at, .stamp = t.now });
    cr_expect_lt(status(&t).commit, at, "an answer of the process before");
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 2,
                                 .term = term,
                                 .index = at,
                                 .stamp = t.now,
                                 .boot = 2 });
    cr_expect_eq(status(&t).commit, at);
    stop(&t);
}

Test(raft_traps, trap_46_a_leader_makes_nobody_sure_before_enough_others_have_an_entry)
{
    struct rig t;
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    last = status(&t).last;
    ask_to_be_sure(&t, 2, term, 2);
    cr_expect_eq(status(&t).last, last + 1, "an entry is made for it");
    cr_expect_null(sent(&t, VS_SURE_REPLY, 2));
    persisted(&t);
    ask_to_be_sure(&t, 2, term, 2);
    cr_expect_eq(status(&t).last, last + 1, "one is enough");
    cr_expect_null(sent(&t, VS_SURE_REPLY, 2), "2 and 3 do not have it, and are a quorum");
    acknowledge(&t, 3, term, last + 1);
    ask_to_be_sure(&t, 2, term, 2);
    cr_assert_not_null(sent(&t, VS_SURE_REPLY, 2));
    cr_expect_eq(sent(&t, VS_SURE_REPLY, 2)->index, last + 1);
    cr_expect_eq(sent(&t, VS_SURE_REPLY, 2)->log_term, 2u, "it says to which process");
    ask_to_be_sure(&t, 2, term, 3);
    cr_expect_eq(status(&t).last, last + 2, "another for another process");
    cr_expect_null(sent(&t, VS_SURE_REPLY, 2));
    stop(&t);
}

/* A fourth is to vote, which is not committed: without it, 2 and 3 are a quorum. */
Test(raft_traps, trap_47_nor_before_enough_of_each_configuration_that_may_count)
{
    static const struct vshard_raft_member four[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                      { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                      { 3, 3, VSHARD_RAFT_VOTER, 0 },
                                                      { 4, 4, VSHARD_RAFT_VOTER, 0 } };
    struct rig t;
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_CONFIGURE, .tag = 5, .members = four, .member_count = 4 });
    ask_to_be_sure(&t, 3, term, 2);
    last = status(&t).last;
    persisted(&t);
    acknowledge(&t, 4, term, last);
    cr_assert_lt(status(&t).commit, last - 1, "the configuration is not committed");
    ask_to_be_sure(&t, 3, term, 2);
    cr_expect_null(sent(&t, VS_SURE_REPLY, 3));
    acknowledge(&t, 2, term, last);
    ask_to_be_sure(&t, 3, term, 2);
    cr_expect_not_null(sent(&t, VS_SURE_REPLY, 3));
    stop(&t);
}

Test(raft_traps, trap_18_two_leaders_of_one_term_are_fatal)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    append(&t, (struct vs_message){ .from = 3, .term = term, .index = 1, .log_term = 1 }, term, 0);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_FATAL));
    cr_expect_eq(status(&t).stopped, 1);
    stop(&t);
}

/* ---- membership ---- */

Test(raft_traps, trap_20_no_change_before_an_entry_of_the_term_is_committed)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead(&t);
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_CONFIGURE, .tag = 5, .members = three, .member_count = 2 });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EBUSY);
    stop(&t);
}

Test(raft_traps, trap_22_a_new_leader_ends_a_joint_configuration)
{
    struct rig t;
    uint64_t term;

    boot(&t, 2, 0, "J");
    term = lead(&t);
    persisted(&t);
    acknowledge(&t, 2, term, 3);
    cr_expect_eq(status(&t).commit, 3);
    cr_expect_eq(status(&t).last, 4, "the configuration that leaves");
    cr_expect_eq(status(&t).member_count, 3);
    stop(&t);
}

Test(raft_traps, trap_23_but_not_before_it_is_committed)
{
    struct rig t;

    boot(&t, 2, 0, "J");
    lead(&t);
    persisted(&t);
    cr_expect_eq(status(&t).last, 3, "the joint entry and a blank one");
    cr_expect_eq(status(&t).member_count, 4);
    stop(&t);
}

Test(raft_traps, trap_24_a_leader_that_was_voted_out_leads_no_more)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    step(&t,
         (struct vshard_raft_event){
             .kind = VSHARD_RAFT_CONFIGURE, .tag = 5, .members = three + 1, .member_count = 2 });
    persisted(&t);
    acknowledge(&t, 2, term, status(&t).last);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER, "until that is committed");
    acknowledge(&t, 3, term, status(&t).last);
    cr_expect_eq(status(&t).commit, status(&t).last);
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

/* ---- snapshots ---- */

Test(raft_traps, trap_25_a_snapshot_that_is_not_needed_is_not_installed)
{
    struct rig t;
    unsigned char body[64] = { 0 };

    boot(&t, 2, 0, "22");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2, .commit = 3 },
           2, 0);
    cr_assert_eq(status(&t).commit, 3);
    vs_store32(body, 8);
    deliver(&t,
            (struct vs_message){ .kind = VS_CHUNK,
                                 .from = 2,
                                 .term = 2,
                                 .index = 2,
                                 .log_term = 2,
                                 .hint_term = 16,
                                 .flags = VS_FLAG_LAST },
            body, 20);
    cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    cr_expect_not_null(sent(&t, VS_APPEND_REPLY, 2), "it says what it has");
    stop(&t);
}

/* ---- reads, leases, hand-over ---- */

Test(raft_traps, trap_26_a_read_waits_for_an_entry_of_the_term)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead(&t);
    read_now(&t, VSHARD_RAFT_READ_INDEX);
    cr_expect_null(sent(&t, VS_BEATS, 2), "no round is worth having yet");
    stop(&t);
}

Test(raft_traps, trap_27_an_old_answer_does_not_confirm_a_new_read)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    read_now(&t, VSHARD_RAFT_READ_INDEX);
    cr_assert_not_null(sent(&t, VS_BEATS, 2));
    beat_reply(&t, 2, term, t.beat.round);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    read_now(&t, VSHARD_RAFT_READ_INDEX);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    beat_reply(&t, 2, term, 1);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE), "a late copy of the first answer");
    beat_reply(&t, 2, term, 2);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_DONE));
    stop(&t);
}

/* However short the silence is that a follower bears. */
Test(raft_traps, a_lease_is_shorter_than_the_promise_by_what_clocks_may_differ)
{
    static const uint64_t election[] = { 2, 999, 900000, 1999999, 150 * MS + 999999 };
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    t.raft->o.clock_drift_ppm = 100000;
    for (size_t i = 0; i < VS_COUNT(election); i++) {
        t.raft->o.election_ns = election[i];
        cr_expect_lt(status(&t).lease_ns, t.now + election[i] - election[i] / 10, "%lu",
                     (unsigned long)election[i]);
        cr_expect_geq(status(&t).lease_ns, t.now, "%lu", (unsigned long)election[i]);
    }
    stop(&t);
}

Test(raft_traps, trap_28_the_lease_ends_when_a_hand_over_begins)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    read_now(&t, VSHARD_RAFT_READ_LEASE);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE), "the lease holds");
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .tag = 3, .node = 2 });
    cr_assert_not_null(sent(&t, VS_TIMEOUT_NOW, 2));
    read_now(&t, VSHARD_RAFT_READ_LEASE);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    /* The hand-over fails; a late order may still be on its way. */
    beat_reply(&t, 2, term, 0);
    time_passes(&t, 160 * MS);
    beat_reply(&t, 2, term, 0);
    cr_expect_eq(status(&t).lease_ns, 0);
    propose(&t, 4);
    persisted(&t);
    acknowledge(&t, 2, term, status(&t).last);
    cr_expect_neq(status(&t).lease_ns, 0, "now nobody without that entry can be elected");
    stop(&t);
}

Test(raft_traps, trap_29_a_hand_over_that_fails_lets_writes_go_on)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .tag = 3, .node = 3 });
    propose(&t, 4);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EBUSY);
    t.now += 100 * MS;
    beat_reply(&t, 2, term, 0);
    time_passes(&t, 60 * MS);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE), "the hand-over ends");
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_ETIMEDOUT);
    propose(&t, 5);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    stop(&t);
}

Test(raft_traps, trap_30_a_forwarded_request_is_taken_once)
{
    struct rig t;
    struct vshard_raft_entry e = { .data = "f", .count = 1 };
    unsigned char body[64];
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    vs_entry_encode(body, &e);
    last = status(&t).last;
    for (int i = 0; i < 3; i++)
        deliver(&t,
                (struct vs_message){
                    .kind = VS_FORWARD, .from = 2, .term = term, .round = 1, .count = 1 },
                body, vs_entry_bytes(1));
    cr_expect_eq(status(&t).last, last + 1);
    stop(&t);
}

Test(raft_traps, trap_31_who_stops_leading_answers_what_is_open)
{
    struct rig t;
    uint64_t term;
    size_t done = 0;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    propose(&t, 1);
    propose(&t, 2);
    read_now(&t, VSHARD_RAFT_READ_INDEX);
    append(&t, (struct vs_message){ .from = 3, .term = term + 1, .index = 1, .log_term = 1 }, 1, 0);
    for (size_t i = 0; i < t.effects; i++)
        done += t.effect[i].kind == VSHARD_RAFT_DONE;
    cr_expect_eq(done, 3);
    stop(&t);
}

Test(raft_traps, an_answer_to_an_earlier_process_of_this_node_is_not_ours)
{
    struct rig t;

    boot(&t, 2, 0, "");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1, .commit = 1 },
           2, 0);
    persisted(&t);
    propose(&t, 1);
    cr_assert_not_null(sent(&t, VS_FORWARD, 2));
    say(&t, (struct vs_message){ .kind = VS_FORWARD_REPLY,
                                 .from = 2,
                                 .term = 2,
                                 .index = 1,
                                 .round = 1,
                                 .log_term = 77 });
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    say(&t, (struct vs_message){ .kind = VS_FORWARD_REPLY,
                                 .from = 2,
                                 .term = 2,
                                 .index = 1,
                                 .round = 1,
                                 .log_term = 1 });
    cr_expect_not_null(effect(&t, VSHARD_RAFT_DONE));
    stop(&t);
}

/* ---- liveness ---- */

Test(raft_traps, trap_32_who_asks_from_an_old_term_is_told_the_new_one)
{
    struct rig t;

    boot(&t, 5, 0, "");
    t.now += 400 * MS;
    say(&t,
        (struct vs_message){ .kind = VS_PREVOTE, .from = 2, .term = 3, .index = 9, .log_term = 2 });
    cr_assert_not_null(sent(&t, VS_PREVOTE_REPLY, 2));
    cr_expect_eq(sent(&t, VS_PREVOTE_REPLY, 2)->term, 5);
    stop(&t);
}

Test(raft_traps, trap_33_a_leader_whom_nobody_answers_falls_silent)
{
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    for (int i = 0; i < 12; i++)
        time_passes(&t, 30 * MS);
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

Test(raft_traps, trap_34_a_leader_whose_disk_hangs_lets_go)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    propose(&t, 1);
    for (int i = 0; i < 25; i++) {
        beat_reply(&t, 2, term, 0);
        beat_reply(&t, 3, term, 0);
        time_passes(&t, 30 * MS);
    }
    cr_expect_neq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

/* Heartbeats and their answers stutter, so that silence is borne for longer than a disk's is. */
static uint64_t lead_patiently(struct rig *t)
{
    uint64_t term = lead_firmly(t);

    for (int i = 0; i < 24; i++) {
        time_passes(t, i % 2 ? 20 * MS : 280 * MS);
        beat_reply(t, 2, term, 0);
        beat_reply(t, 3, term, 0);
        persisted(t);
    }
    cr_assert_eq(status(t).role, (uint32_t)VSHARD_RAFT_LEADER);
    return term;
}

/* Steps until it leads no more, each with answers of all. */
static int steps_until_it_lets_go(struct rig *t, uint64_t term, uint64_t ns)
{
    int steps = 0;

    while (status(t).role == VSHARD_RAFT_LEADER && steps < 1000) {
        beat_reply(t, 2, term, 0);
        beat_reply(t, 3, term, 0);
        time_passes(t, ns);
        steps++;
    }
    return steps;
}

/* The process stood still for longer than a disk may, with something under way. */
Test(raft_traps, a_leader_that_was_held_up_does_not_blame_its_disk)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_patiently(&t);
    propose(&t, 1);
    time_passes(&t, 700 * MS);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    persisted(&t);
    for (int i = 0; i < 30; i++) {
        beat_reply(&t, 2, term, 0);
        beat_reply(&t, 3, term, 0);
        time_passes(&t, 30 * MS);
    }
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    stop(&t);
}

/* However it is called, a disk that does hang costs the lead. */
Test(raft_traps, a_leader_that_was_held_up_lets_go_when_its_disk_hangs_as_well)
{
    const uint64_t gap[] = { 10, 30, 100, 150, 200, 500 };

    for (size_t i = 0; i < VS_COUNT(gap); i++) {
        uint64_t counted = gap[i] < 150 ? gap[i] : 150, most = (600 - 150) / counted + 2;
        struct rig t;
        uint64_t term;
        int steps;

        boot(&t, 1, 0, "");
        term = lead_patiently(&t);
        propose(&t, 1);
        time_passes(&t, 700 * MS);
        steps = steps_until_it_lets_go(&t, term, gap[i] * MS);
        cr_expect(steps > 0 && steps <= (int)most, "%d ms: %d steps", (int)gap[i], steps);
        stop(&t);
    }
}

Test(raft_traps, trap_35_a_restarted_replica_stands_in_time)
{
    struct rig t;

    boot(&t, 1, 0, "");
    cr_expect(vshard_raft_deadline_ns(t.raft) <= t.now + 300 * MS);
    stop(&t);
}

static void load_config(struct rig *t, const struct vshard_raft_member *members, uint32_t count,
                        uint64_t index)
{
    unsigned char bytes[VS_CONFIG_BYTES];
    struct vshard_raft_entry e = {
        .index = index, .term = 1, .kind = VSHARD_RAFT_CONFIG, .data = bytes
    };
    struct vs_config c;

    cr_assert_eq(vs_config_change(NULL, members, count, &c), VSHARD_OK);
    e.count = vs_config_encode(&c, bytes);
    cr_assert_eq(vshard_raft_load(t->raft, 1, &e, 1), VSHARD_OK);
}

/* Node 1, of a group that had `before` voters, or 0, and then has one. */
static void boot_one(struct rig *t, uint32_t before, uint64_t commit, uint32_t flags)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .term = 1, .commit = commit, .flags = flags
    };

    memset(t, 0, sizeof *t);
    t->now = 1000 * MS;
    cr_assert_eq(vshard_raft_create(&o, &t->raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(t->raft, &b), VSHARD_OK);
    if (before != 0)
        load_config(t, three, before, 1);
    load_config(t, three, 1, before != 0 ? 2 : 1);
    cr_assert_eq(vshard_raft_start(t->raft, 1, t->now), VSHARD_OK);
    drain(t);
}

static bool leads_after(struct rig *t, uint64_t ns)
{
    time_passes(t, ns);
    persisted(t);
    return status(t).role == VSHARD_RAFT_LEADER;
}

Test(raft_traps, who_is_alone_waits_for_nobody)
{
    struct rig t;

    boot_one(&t, 0, 0, 0);
    cr_expect_eq(vshard_raft_deadline_ns(t.raft), t.now);
    cr_expect(leads_after(&t, 0), "there never was another member");
    stop(&t);
    boot_one(&t, 0, 1, 0);
    cr_expect(leads_after(&t, 2000 * MS), "called late, it waits for no word of a leader");
    stop(&t);
    boot_one(&t, 2, 2, 0);
    cr_expect(leads_after(&t, 0), "who led before let go when that was committed");
    stop(&t);
    boot_one(&t, 0, 1, VSHARD_RAFT_UNCERTAIN);
    cr_expect(!leads_after(&t, 0), "it may have lost a configuration that has others");
    stop(&t);
}

/* 34 is for the others' sake. */
Test(raft_traps, who_is_alone_goes_on_leading_when_its_disk_hangs)
{
    struct rig t;

    boot_one(&t, 0, 1, 0);
    cr_assert(leads_after(&t, 0));
    propose(&t, 1);
    for (int i = 0; i < 50; i++)
        time_passes(&t, 30 * MS);
    cr_expect_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    persisted(&t);
    cr_expect_eq(status(&t).commit, status(&t).last);
    stop(&t);
}

Test(raft_traps, who_is_alone_with_learners_is_not)
{
    static const struct vshard_raft_member two[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                     { 2, 2, VSHARD_RAFT_LEARNER, 0 } };
    struct rig t;

    boot_of(&t, two, 2, 1, 0, "", 0);
    cr_expect(!leads_after(&t, 100 * MS), "one of them may lead a recovery epoch");
    stop(&t);
}

/* Node 2 may lead still, and serve reads by a lease that rests on what this one promised. */
Test(raft_traps, trap_48_a_configuration_that_may_not_count_makes_nobody_alone)
{
    struct rig t;

    boot_one(&t, 2, 1, 0);
    cr_expect(!leads_after(&t, 140 * MS));
    cr_expect(vshard_raft_deadline_ns(t.raft) <= t.now + 160 * MS);
    stop(&t);
}

Test(raft_traps, trap_37_a_failed_sync_is_not_a_sync)
{
    struct rig t;

    boot(&t, 2, 0, "");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 1);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSIST_FAILED });
    cr_expect_eq(status(&t).durable, 1);
    stop(&t);
}

Test(raft_traps, trap_38_a_message_for_another_is_refused_and_counted)
{
    struct rig t;
    struct vshard_raft_counters c = { .size = sizeof c };

    boot(&t, 2, 0, "");
    cr_expect_eq(say(&t, (struct vs_message){ .kind = VS_APPEND, .from = 3, .to = 2, .term = 9 }),
                 VSHARD_EINVAL);
    cr_expect_eq(
        say(&t,
            (struct vs_message){ .kind = VS_APPEND, .from = 3, .term = 9, .to_incarnation = 8 }),
        VSHARD_EINVAL);
    cr_expect_eq(status(&t).term, 2);
    cr_assert_eq(vshard_raft_count(t.raft, &c), VSHARD_OK);
    cr_expect_eq(c.misdirected, 2);
    stop(&t);
}
