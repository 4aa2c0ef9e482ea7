/* raft_flow.c - what a leader lets be under way, whom it prefers, and what overtakes what.
 *
 * Method: one replica of three, its messages made by hand, and one rule at a time: how
 * many messages and bytes are unanswered at most, how much is proposed and not committed,
 * who takes over from whom, who answers a request and how often. */
#include "support/raft_rig.h"

/* ---- votes ahead of bulk ---- */

Test(raft_flow, a_vote_is_told_ahead_of_the_entries_written_before_it)
{
    const struct vshard_raft_effect *e;
    struct rig t;
    uint64_t entries, vote;

    boot(&t, 2, 0, "12");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2 }, 2, 2);
    e = effect(&t, VSHARD_RAFT_PERSIST);
    cr_assert_eq(e->entry_count, 2);
    cr_expect_eq(e->flags, 0, "entries are not reported ahead");
    entries = e->barrier;
    e = effect(&t, VSHARD_RAFT_SEND);
    cr_expect_eq(e->barrier, entries);
    cr_expect_eq(e->flags, 0);
    say(&t, (struct vs_message){ .kind = VS_VOTE,
                                 .flags = VS_FLAG_TRANSFER,
                                 .from = 3,
                                 .term = 3,
                                 .index = 5,
                                 .log_term = 2 });
    e = effect(&t, VSHARD_RAFT_PERSIST);
    cr_assert_eq(e->flags, (uint32_t)VSHARD_RAFT_VOTE_ONLY);
    cr_expect_eq(e->vote, 3);
    vote = e->barrier;
    cr_assert_gt(vote, entries);
    e = effect(&t, VSHARD_RAFT_SEND);
    cr_expect_eq(e->barrier, vote);
    cr_expect_eq(e->flags, (uint32_t)VSHARD_RAFT_VOTE_ONLY, "the answer waits for the vote alone");
    cr_expect_eq(status(&t).term_durable, 0);
    cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                                      .flags = VSHARD_RAFT_VOTE_ONLY,
                                                      .barrier = entries }),
                 VSHARD_EINVAL);
    cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                                      .flags = VSHARD_RAFT_VOTE_ONLY,
                                                      .barrier = vote + 1 }),
                 VSHARD_EINVAL);
    cr_assert_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                                      .flags = VSHARD_RAFT_VOTE_ONLY,
                                                      .barrier = vote }),
                 VSHARD_OK);
    cr_expect_eq(status(&t).term_durable, 1);
    cr_expect_eq(status(&t).durable, 3, "and says nothing of the entries");
    /* The new leader's append shows the entries; that they are here still waits. */
    append(&t, (struct vs_message){ .from = 3, .term = 3, .index = 5, .log_term = 2 }, 3, 0);
    e = effect(&t, VSHARD_RAFT_SEND);
    cr_expect_eq(e->barrier, entries);
    cr_expect_eq(e->flags, 0);
    persisted(&t);
    cr_expect_eq(status(&t).durable, 5);
    stop(&t);
}

Test(raft_flow, a_candidate_is_elected_while_its_bulk_waits_for_the_disk)
{
    struct rig t;
    uint64_t vote;

    boot(&t, 2, 0, "12");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2 }, 2, 2);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_CAMPAIGN });
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = 3 });
    vote = effect(&t, VSHARD_RAFT_PERSIST)->barrier;
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 3 });
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE, "its own vote is not written");
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                         .flags = VSHARD_RAFT_VOTE_ONLY,
                                         .barrier = vote });
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(status(&t).durable, 3);
    cr_expect_not_null(sent(&t, VS_APPEND, 2), "and leads at once");
    acknowledge(&t, 2, 3, 6);
    cr_expect_eq(status(&t).commit, 0, "one member has it durably, and that is no quorum");
    persisted(&t);
    cr_expect_eq(status(&t).commit, 6);
    stop(&t);
}
