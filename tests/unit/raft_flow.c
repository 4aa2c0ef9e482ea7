/* raft_flow.c - what a leader lets be under way, whom it prefers, and what overtakes what.
 *
 * Method: one replica of three, its messages made by hand, and one rule at a time: how
 * many messages and bytes are unanswered at most, how much is proposed and not committed,
 * who takes over from whom, who answers a request and how often. */
#include <time.h>

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

Test(raft_flow, a_term_that_comes_with_entries_is_not_told_ahead)
{
    struct rig t;

    boot(&t, 2, 0, "");
    append(&t, (struct vs_message){ .from = 2, .term = 3, .index = 1, .log_term = 1 }, 3, 1);
    cr_expect_eq(effect(&t, VSHARD_RAFT_PERSIST)->flags, 0);
    cr_expect_eq(effect(&t, VSHARD_RAFT_SEND)->barrier, effect(&t, VSHARD_RAFT_PERSIST)->barrier);
    cr_expect_eq(effect(&t, VSHARD_RAFT_SEND)->flags, 0);
    stop(&t);
}

Test(raft_flow, a_candidate_is_elected_while_its_bulk_waits_for_the_disk)
{
    struct rig t;
    uint64_t vote;

    boot(&t, 2, 0, "12");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 3, .log_term = 2 }, 2, 2);
    campaign(&t);
    say(&t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = 3 });
    vote = effect(&t, VSHARD_RAFT_PERSIST)->barrier;
    say(&t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = 3 });
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_CANDIDATE, "its own vote is not written");
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_PERSISTED, .flags = VSHARD_RAFT_VOTE_ONLY, .barrier = vote });
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(status(&t).durable, 3);
    cr_expect_not_null(sent(&t, VS_APPEND, 2), "and leads at once");
    acknowledge(&t, 2, 3, 6);
    cr_expect_eq(status(&t).commit, 0, "one member has it durably, and that is no quorum");
    persisted(&t);
    cr_expect_eq(status(&t).commit, 6);
    stop(&t);
}

/* ---- what may be under way ---- */

/* Appends with entries that went to a node in this step. */
static uint32_t appends(const struct rig *t, uint64_t to)
{
    uint32_t count = 0;

    for (size_t i = 0; i < t->sends; i++)
        count += t->sent[i].kind == VS_APPEND && t->sent[i].to == to && t->sent[i].count != 0;
    return count;
}

static uint32_t propose_bytes(struct rig *t, uint64_t tag, uint64_t bytes)
{
    static const unsigned char data[1000];
    struct vshard_raft_entry e = { .data = data, .count = bytes };

    step(t, (struct vshard_raft_event){
                .kind = VSHARD_RAFT_PROPOSE, .tag = tag, .entries = &e, .entry_count = 1 });
    return appends(t, 2);
}

Test(raft_flow, no_more_messages_are_under_way_than_allowed)
{
    struct rig t;
    uint64_t term, last;
    uint32_t sent_count = 0;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    t.raft->o.max_inflight = 3;
    last = status(&t).last;
    for (uint64_t i = 1; i <= 10; i++)
        sent_count += propose_bytes(&t, i, 1);
    cr_expect_eq(sent_count, 3);
    acknowledge(&t, 2, term, last + 1);
    cr_expect_eq(appends(&t, 2), 1, "one was answered, one goes");
    acknowledge(&t, 2, term, last + 10);
    cr_expect_eq(appends(&t, 2), 0);
    cr_expect_eq(propose_bytes(&t, 11, 1), 1, "all were answered");
    stop(&t);
}

Test(raft_flow, no_more_bytes_are_under_way_than_allowed)
{
    struct rig t;
    uint64_t term, last;
    uint32_t sent_count = 0;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    t.raft->o.max_inflight_bytes = 1000;
    last = status(&t).last;
    for (uint64_t i = 1; i <= 10; i++)
        sent_count += propose_bytes(&t, i, 360); /* and a head of 40 */
    cr_expect_eq(sent_count, 3, "%u", sent_count);
    acknowledge(&t, 2, term, last + 3);
    cr_expect_gt(appends(&t, 2), 0);
    stop(&t);
}

Test(raft_flow, an_append_is_no_larger_than_a_message_may_be)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    t.raft->o.max_inflight = 1;
    t.raft->o.max_message = 1000;
    for (uint64_t i = 1; i <= 10; i++)
        propose_bytes(&t, i, 360);
    acknowledge(&t, 2, term, status(&t).last - 9);
    cr_assert_eq(appends(&t, 2), 1);
    cr_expect_leq(sent(&t, VS_APPEND, 2)->body_bytes, 1000);
    cr_expect_geq(sent(&t, VS_APPEND, 2)->count, 2);
    stop(&t);
}

Test(raft_flow, what_is_proposed_and_not_committed_has_a_limit)
{
    struct rig t;
    struct vshard_raft_entry e = { .data = "f", .count = 1 };
    unsigned char body[64];
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    t.raft->o.max_uncommitted_bytes = 1000;
    for (uint64_t i = 1; i <= 3; i++) {
        propose_bytes(&t, i, 360);
        cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    }
    cr_expect_eq(status(&t).uncommitted_bytes, 1200);
    last = status(&t).last;
    propose_bytes(&t, 4, 360);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EBUSY);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, 4);
    vs_entry_encode(body, &e);
    deliver(
        &t,
        (struct vs_message){ .kind = VS_FORWARD, .from = 2, .term = term, .round = 1, .count = 1 },
        body, vs_entry_bytes(1));
    cr_assert_not_null(sent(&t, VS_FORWARD_REPLY, 2));
    cr_expect_eq(sent(&t, VS_FORWARD_REPLY, 2)->hint, (uint64_t)-VSHARD_EBUSY);
    cr_expect_eq(status(&t).last, last, "nothing was taken");
    persisted(&t);
    acknowledge(&t, 2, term, last);
    cr_expect_eq(status(&t).uncommitted_bytes, 0);
    propose_bytes(&t, 5, 360);
    cr_expect_eq(status(&t).last, last + 1);
    stop(&t);
}

/* ---- snapshots, piece by piece ---- */

static void give_piece(struct rig *t, const struct vshard_raft_effect *e, uint32_t flags)
{
    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_CHUNK,
                                        .node = e->node,
                                        .index = e->index,
                                        .offset = e->offset,
                                        .bytes = "piece of it",
                                        .byte_count = 11,
                                        .flags = flags });
}

Test(raft_flow, one_piece_of_a_snapshot_is_under_way_and_a_lost_one_is_all_that_is_lost)
{
    const struct vshard_raft_effect *e;
    struct vshard_raft_effect want;
    struct rig t;
    uint64_t term, index;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_META));
    index = effect(&t, VSHARD_RAFT_META)->index;
    cr_assert_eq(step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT,
                                                      .index = index,
                                                      .offset = index }),
                 VSHARD_OK);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .flags = VS_FLAG_REJECT,
                                 .from = 3,
                                 .term = term,
                                 .index = 1,
                                 .stamp = t.now });
    e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    cr_assert_not_null(e);
    cr_expect_eq(e->offset, 0);
    want = *e;
    propose(&t, 1);
    cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ), "one is asked of the host");
    give_piece(&t, &want, 0);
    cr_assert_not_null(sent(&t, VS_CHUNK, 3));
    cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ), "one is under way");
    propose(&t, 2);
    beat_reply(&t, 3, term, 0);
    cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    say(&t, (struct vs_message){ .kind = VS_CHUNK_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = want.index,
                                 .log_term = term,
                                 .hint = 11,
                                 .stamp = t.now });
    e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    cr_assert_not_null(e, "it was taken: the next");
    cr_expect_eq(e->offset, 11);
    want = *e;
    give_piece(&t, &want, 0);
    cr_assert_not_null(sent(&t, VS_CHUNK, 3));
    /* No answer comes, but the member lives: the same piece again. */
    for (int i = 0; i < 11; i++) {
        t.now += 30 * MS;
        beat_reply(&t, 2, term, 0);
        cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
        if (i < 10)
            beat_reply(&t, 3, term, 0);
        cr_expect(i == 10 || effect(&t, VSHARD_RAFT_SNAPSHOT_READ) == NULL, "at %d", i);
    }
    beat_reply(&t, 3, term, 0);
    e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    cr_assert_not_null(e);
    cr_expect_eq(e->offset, 11);
    stop(&t);
}

/* Takes a snapshot of all that is applied, and forgets the log up to there. */
static uint64_t compact_all(struct rig *t)
{
    uint64_t at = status(t).applied;

    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    cr_assert_not_null(effect(t, VSHARD_RAFT_META));
    cr_assert_eq(
        step(t,
             (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT, .index = at, .offset = at }),
        VSHARD_OK);
    return at;
}

/* Its host has not thrown the older one away: the member would be given its end for ever. */
Test(raft_flow, who_has_a_snapshot_that_is_too_old_by_now_gets_the_newest)
{
    const struct vshard_raft_effect *e;
    struct vshard_raft_effect want;
    struct rig t;
    uint64_t term, old, newest;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    old = compact_all(&t);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .flags = VS_FLAG_REJECT,
                                 .from = 3,
                                 .term = term,
                                 .index = 1,
                                 .stamp = t.now });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    want = *effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    cr_assert_eq(want.index, old);
    give_piece(&t, &want, 0);
    say(&t, (struct vs_message){ .kind = VS_CHUNK_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = old,
                                 .log_term = term,
                                 .hint = 11,
                                 .stamp = t.now });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    want = *effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    propose(&t, 1);
    persisted(&t);
    acknowledge(&t, 2, term, status(&t).last);
    apply_all(&t);
    newest = compact_all(&t);
    cr_assert_gt(newest, old);
    for (int i = 0; i < 5 && want.index == old; i++) {
        give_piece(&t, &want, VSHARD_RAFT_LAST);
        t.now += 400 * MS; /* all of an interval in which a lost piece is noticed */
        beat_reply(&t, 2, term, 0);
        acknowledge(&t, 3, term, old);
        e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
        if (e == NULL) {
            beat_reply(&t, 3, term, 0);
            e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
        }
        cr_assert_not_null(e);
        want = *e;
    }
    cr_expect_eq(want.index, newest);
    cr_expect_eq(want.offset, 0);
    stop(&t);
}

/* Of what only passes through a group nothing is left in it, at either end. */
Test(raft_flow, a_piece_of_a_snapshot_takes_no_room_in_the_log)
{
    const size_t bytes = 1 << 20, whole = VS_MESSAGE_HEAD + 8 + VS_CONFIG_BYTES + bytes;
    struct vshard_raft_event piece = { .kind = VSHARD_RAFT_CHUNK, .node = 3, .byte_count = bytes };
    unsigned char *body = calloc(1, whole);
    struct vs_message m = { .kind = VS_CHUNK,
                            .group = 1,
                            .from = 2,
                            .to = 1,
                            .from_incarnation = 2,
                            .to_incarnation = 1,
                            .boot = 1,
                            .term = 3,
                            .index = 6,
                            .log_term = 3 };
    struct vs_config c;
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    piece.index = compact_all(&t);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .flags = VS_FLAG_REJECT,
                                 .from = 3,
                                 .term = term,
                                 .index = 1,
                                 .stamp = t.now });
    piece.bytes = body;
    cr_assert_eq(step(&t, piece), VSHARD_OK);
    cr_assert_not_null(sent(&t, VS_CHUNK, 3));
    cr_expect_leq(vs_group_find(t.raft, 1)->log.byte_cap, 8192);
    stop(&t);

    boot(&t, 2, 0, "");
    cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
    m.hint_term = 8 + vs_config_encode(&c, body + VS_MESSAGE_HEAD + 8);
    vs_store32(body + VS_MESSAGE_HEAD, (uint32_t)m.hint_term - 8);
    m.body_bytes = m.hint_term + bytes;
    vs_message_encode(body, &m);
    cr_assert_eq(hand(&t, body, VS_MESSAGE_HEAD + m.body_bytes), VSHARD_OK);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    cr_expect_leq(vs_group_find(t.raft, 1)->log.byte_cap, 8192);
    stop(&t);
    free(body);
}

/* ---- whose log is whose ---- */

Test(raft_flow, a_follower_names_its_newest_entry_of_no_later_term)
{
    struct rig t;

    boot(&t, 5, 0, "1112244"); /* entries 2.. */
    append(&t, (struct vs_message){ .from = 2, .term = 5, .index = 8, .log_term = 3 }, 5, 0);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_REJECT);
    cr_expect_eq(sent(&t, VS_APPEND_REPLY, 2)->hint, 6);
    cr_expect_eq(sent(&t, VS_APPEND_REPLY, 2)->hint_term, 2);
    stop(&t);
}

Test(raft_flow, a_leader_skips_whole_terms_by_what_it_is_told)
{
    struct rig t;
    uint64_t term;

    boot(&t, 3, 0, "1133333333"); /* entries 2..11, those of term 3 from 4 on */
    term = lead(&t);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .flags = VS_FLAG_REJECT,
                                 .from = 2,
                                 .term = term,
                                 .index = 11,
                                 .hint = 9,
                                 .hint_term = 2,
                                 .stamp = t.now });
    cr_assert_not_null(sent(&t, VS_APPEND, 2));
    cr_expect_eq(sent(&t, VS_APPEND, 2)->index, 3, "the newest that is not above term 2");
    stop(&t);
}

/* ---- who is to lead ---- */

Test(raft_flow, leadership_goes_to_a_member_of_higher_priority_that_has_everything)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    vs_config_now(vs_group_find(t.raft, 1))->member[2].priority = 5;
    term = lead_firmly(&t);
    for (int i = 0; i < 11; i++) {
        t.now += 30 * MS;
        beat_reply(&t, 2, term, 0);
        beat_reply(&t, 3, term, 0);
        time_passes(&t, 0);
        cr_assert_null(sent(&t, VS_TIMEOUT_NOW, 3), "it lacks entries");
        propose(&t, 1);
        cr_assert_null(effect(&t, VSHARD_RAFT_DONE), "and nobody waits for it");
    }
    persisted(&t);
    acknowledge(&t, 2, term, status(&t).last);
    acknowledge(&t, 3, term, status(&t).last);
    cr_expect_not_null(sent(&t, VS_TIMEOUT_NOW, 3));
    cr_expect_null(sent(&t, VS_TIMEOUT_NOW, 2));
    stop(&t);
}

Test(raft_flow, who_shall_never_lead_does_not_stand)
{
    struct rig t;

    boot(&t, 1, 0, "");
    vs_config_now(vs_group_find(t.raft, 1))->member[0].priority = VSHARD_RAFT_NEVER_LEADS;
    for (int i = 0; i < 20; i++) {
        time_passes(&t, 50 * MS);
        cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_FOLLOWER);
    }
    say(&t, (struct vs_message){ .kind = VS_TIMEOUT_NOW, .from = 2, .term = 1, .index = 1 });
    cr_expect_null(sent(&t, VS_VOTE, 3));
    stop(&t);
}

/* Not when the group is born, nor later, nor when it is promoted by force: it would have no leader
 * once the present one is gone. */
Test(raft_flow, one_voter_at_least_may_lead)
{
    struct vshard_raft_member m[] = { { 1, 1, VSHARD_RAFT_VOTER, VSHARD_RAFT_NEVER_LEADS },
                                      { 2, 2, VSHARD_RAFT_VOTER, VSHARD_RAFT_NEVER_LEADS },
                                      { 3, 3, VSHARD_RAFT_LEARNER, 0 } };
    struct vshard_raft_event change = {
        .kind = VSHARD_RAFT_CONFIGURE, .tag = 8, .members = m, .member_count = 3
    };
    struct vshard_raft_boot b = { .size = sizeof b, .group = 2, .members = m, .member_count = 3 };
    struct rig t;
    uint64_t last;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    last = status(&t).last;
    cr_assert_eq(step(&t, change), VSHARD_OK);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EINVAL);
    cr_expect_eq(status(&t).last, last);
    cr_expect_eq(vshard_raft_open(t.raft, &b), VSHARD_EINVAL);
    m[1].priority = 0;
    cr_assert_eq(step(&t, change), VSHARD_OK);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(status(&t).last, last + 1);
    cr_expect_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
    stop(&t);
}

/* ---- requests and their answers ---- */

enum { TAGS = 8 };

struct answers {
    uint32_t count[TAGS + 1];
    int status[TAGS + 1];
};

static void note(const struct rig *t, struct answers *a)
{
    for (size_t i = 0; i < t->effects; i++) {
        const struct vshard_raft_effect *e = &t->effect[i];

        if (e->kind != VSHARD_RAFT_DONE)
            continue;
        cr_assert(e->tag >= 1 && e->tag <= TAGS);
        a->count[e->tag]++;
        a->status[e->tag] = e->status;
    }
}

/* What node 3 forwards: its request of that number, with so much of the log. */
static void forwarded(struct rig *t, uint64_t term, uint64_t round, uint64_t verified)
{
    struct vshard_raft_entry e = { .data = "f", .count = 1 };
    unsigned char body[64];

    vs_entry_encode(body, &e);
    deliver(t,
            (struct vs_message){ .kind = VS_FORWARD,
                                 .from = 3,
                                 .term = term,
                                 .index = verified,
                                 .round = round,
                                 .count = 1 },
            body, vs_entry_bytes(1));
}

static uint64_t reconfigure(struct rig *t, uint64_t term, uint32_t count)
{
    step(t, (struct vshard_raft_event){
                .kind = VSHARD_RAFT_CONFIGURE, .tag = 8, .members = three, .member_count = count });
    persisted(t);
    acknowledge(t, 2, term, status(t).last);
    apply_all(t);
    cr_assert_eq(status(t).commit, status(t).last);
    cr_assert_eq(status(t).member_count, count);
    return status(t).last;
}

Test(raft_flow, a_request_is_taken_once_though_its_sender_was_removed_and_came_back)
{
    struct rig t;
    uint64_t term, last, back, with;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    with = status(&t).last;
    forwarded(&t, term, 1, with);
    cr_assert_eq(status(&t).last, with + 1);
    persisted(&t);
    acknowledge(&t, 2, term, with + 1);
    reconfigure(&t, term, 2);
    back = reconfigure(&t, term, 3);
    forwarded(&t, term, 1, with); /* a copy, which was long on its way */
    cr_expect_eq(status(&t).last, back);
    cr_assert_not_null(sent(&t, VS_FORWARD_REPLY, 3));
    cr_expect_eq(sent(&t, VS_FORWARD_REPLY, 3)->hint, (uint64_t)-VSHARD_ENOTLEADER);
    forwarded(&t, term, 2, back - 1); /* it may be another copy */
    cr_expect_eq(status(&t).last, back);
    last = back;
    for (uint64_t round = 3; round <= 4; round++) {
        for (int copy = 0; copy < 2; copy++)
            forwarded(&t, term, round, back);
        cr_expect_eq(status(&t).last, ++last, "it knows that it is back");
    }
    stop(&t);
}

Test(raft_flow, a_forwarded_request_says_how_much_of_the_log_its_sender_has)
{
    struct rig t;

    boot(&t, 2, 0, "12");
    append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 1, .commit = 1 },
           2, 0);
    persisted(&t);
    propose(&t, 1);
    cr_assert_not_null(sent(&t, VS_FORWARD, 2));
    cr_expect_eq(sent(&t, VS_FORWARD, 2)->index, 2, "what it shares with the leader, not its end");
    stop(&t);
}

Test(raft_flow, a_new_leader_takes_what_members_send_before_they_have_its_log)
{
    struct rig t;
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    last = status(&t).last;
    forwarded(&t, term, 1, 0);
    cr_expect_eq(status(&t).last, last + 1);
    stop(&t);
}

/* A follower of node 2 in term 2. */
static void follow(struct rig *t)
{
    boot(t, 2, 0, "");
    append(t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1, .commit = 1 },
           2, 0);
    persisted(t);
    apply_all(t);
}

static void forward_reply(struct rig *t, uint64_t round, int status, struct answers *a)
{
    say(t, (struct vs_message){ .kind = VS_FORWARD_REPLY,
                                .from = 2,
                                .term = 2,
                                .index = status == VSHARD_OK ? 7 : 0,
                                .round = round,
                                .hint = (uint64_t)-status,
                                .log_term = 1 });
    note(t, a);
}

Test(raft_flow, each_request_of_a_follower_is_answered_once_whatever_becomes_of_it)
{
    struct vshard_raft_entry e = { .data = "z", .count = 1 };
    struct answers a = { { 0 }, { 0 } };
    struct rig t;

    follow(&t);
    for (uint64_t tag = 1; tag <= 5; tag++) {
        propose(&t, tag);
        cr_assert_not_null(sent(&t, VS_FORWARD, 2));
        cr_assert_eq(sent(&t, VS_FORWARD, 2)->round, tag);
        note(&t, &a);
    }
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PROPOSE,
                                         .tag = 6,
                                         .flags = VSHARD_RAFT_LOCAL_ONLY,
                                         .entries = &e,
                                         .entry_count = 1 });
    cr_expect_null(sent(&t, VS_FORWARD, 2));
    note(&t, &a);
    for (int again = 0; again < 2; again++) {
        forward_reply(&t, 1, VSHARD_OK, &a);
        forward_reply(&t, 2, VSHARD_EBUSY, &a);
        forward_reply(&t, 3, VSHARD_ENOTLEADER, &a);
    }
    /* The leader stays, and says nothing of the fourth; of the fifth nobody ever hears. */
    for (int i = 0; i < 49; i++) {
        t.now += 30 * MS;
        append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 }, 2, 0);
        time_passes(&t, 0);
        note(&t, &a);
    }
    cr_expect_eq(a.count[4] + a.count[5], 0, "they have time until request_ns");
    time_passes(&t, 60 * MS);
    note(&t, &a);
    cr_expect_eq(a.count[4], 1);
    forward_reply(&t, 4, VSHARD_OK, &a);
    propose(&t, 7);
    note(&t, &a);
    cr_expect_eq(a.count[7], 0);
    append(&t, (struct vs_message){ .from = 3, .term = 3, .index = 1, .log_term = 1 }, 3, 0);
    note(&t, &a);
    forward_reply(&t, 6, VSHARD_OK, &a);
    for (uint32_t tag = 1; tag <= 7; tag++)
        cr_expect_eq(a.count[tag], 1, "tag %u: %u answers", tag, a.count[tag]);
    cr_expect_eq(a.status[1], VSHARD_OK);
    cr_expect_eq(a.status[2], VSHARD_EBUSY);
    cr_expect_eq(a.status[3], VSHARD_EUNKNOWN, "a copy of it may have been taken");
    cr_expect_eq(a.status[4], VSHARD_EUNKNOWN);
    cr_expect_eq(a.status[5], VSHARD_EUNKNOWN);
    cr_expect_eq(a.status[6], VSHARD_ENOTLEADER);
    cr_expect_eq(a.status[7], VSHARD_EUNKNOWN, "the leader it went to leads no more");
    stop(&t);
}

Test(raft_flow, each_request_of_a_leader_is_answered_once)
{
    struct answers a = { { 0 }, { 0 } };
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    propose(&t, 1);
    note(&t, &a);
    persisted(&t);
    note(&t, &a);
    acknowledge(&t, 2, term, status(&t).last);
    note(&t, &a);
    cr_expect_eq(a.count[1], 0, "committed is not applied");
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = status(&t).last });
    note(&t, &a);
    cr_expect_eq(a.count[1], 1);
    cr_expect_eq(a.status[1], VSHARD_OK);
    propose(&t, 2);
    note(&t, &a);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .tag = 3, .node = 2 });
    note(&t, &a);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .tag = 4, .node = 3 });
    note(&t, &a);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_READ, .tag = 5 });
    note(&t, &a);
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_CONFIGURE, .tag = 6, .members = three, .member_count = 2 });
    note(&t, &a);
    append(&t, (struct vs_message){ .from = 3, .term = term + 1, .index = 1, .log_term = 1 }, 1, 0);
    note(&t, &a);
    time_passes(&t, 2000 * MS);
    note(&t, &a);
    for (uint32_t tag = 1; tag <= 6; tag++)
        cr_expect_eq(a.count[tag], 1, "tag %u: %u answers", tag, a.count[tag]);
    cr_expect_eq(a.status[2], VSHARD_EUNKNOWN);
    cr_expect_eq(a.status[3], VSHARD_OK, "it leads no more, as was asked");
    cr_expect_eq(a.status[4], VSHARD_EBUSY);
    cr_expect_eq(a.status[5], VSHARD_ENOTLEADER);
    cr_expect_eq(a.status[6], VSHARD_EBUSY);
    stop(&t);
}

/* An entry of a client whose session nobody knows: it is refused when applied. */
static void entry_of_no_session(struct rig *t, struct vs_message m)
{
    struct vshard_raft_entry e = {
        .index = m.index + 1, .term = m.term, .session = 77, .sequence = 1, .data = "x", .count = 1
    };
    unsigned char body[64];

    vs_entry_encode(body, &e);
    m.kind = VS_APPEND;
    m.count = 1;
    deliver(t, m, body, vs_entry_bytes(1));
}

Test(raft_flow, what_became_of_an_earlier_leaders_entry_is_no_answer_to_a_later_request)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    entry_of_no_session(&t, (struct vs_message){ .from = 2, .term = 2, .index = 1, .log_term = 1 });
    term = lead(&t);
    propose(&t, 5);
    persisted(&t);
    acknowledge(&t, 2, term, status(&t).last);
    cr_assert_eq(status(&t).commit, 4u);
    apply_all(&t);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, 5u);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_OK);
    stop(&t);
}

/* ---- what it says of itself ---- */

Test(raft_flow, status_tells_whether_the_configuration_is_committed)
{
    struct rig t;
    uint64_t term, config;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    cr_expect_eq(status(&t).config, 1);
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_CONFIGURE, .tag = 5, .members = three, .member_count = 2 });
    config = status(&t).config;
    cr_expect_gt(config, status(&t).commit);
    propose(&t, 2);
    persisted(&t);
    acknowledge(&t, 2, term, config);
    cr_expect_eq(status(&t).config, config);
    cr_expect_geq(status(&t).commit, config);
    cr_expect_lt(status(&t).commit, status(&t).last, "what came later is not, and says nothing");
    stop(&t);
}

Test(raft_flow, a_leader_tells_how_much_of_the_log_a_member_has)
{
    struct rig t;
    uint64_t term;

    boot(&t, 2, 0, "22");
    cr_expect_eq(vshard_raft_match(t.raft, 1, 1, 1), 0, "it does not lead");
    stop(&t);
    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    propose(&t, 3);
    cr_expect_lt(vshard_raft_match(t.raft, 1, 1, 1), status(&t).last, "it is not on its own disk");
    persisted(&t);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 1, 1), status(&t).last);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), 0);
    acknowledge(&t, 3, term, status(&t).last - 1);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), status(&t).last - 1);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 4), 0, "another incarnation");
    cr_expect_eq(vshard_raft_match(t.raft, 1, 9, 1), 0);
    cr_expect_eq(vshard_raft_match(t.raft, 9, 1, 1), 0);
    cr_expect_eq(vshard_raft_match(NULL, 1, 1, 1), 0);
    acknowledge(&t, 3, term + 1, status(&t).last);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), 0, "it does not lead any more");
    stop(&t);
}

Test(raft_flow, a_piece_that_no_message_can_carry_is_refused)
{
    struct vshard_raft_event piece = { .kind = VSHARD_RAFT_CHUNK, .node = 3 };
    struct rig t;
    uint64_t term, index;
    void *bytes = calloc(1, VS_MESSAGE_MAX);

    cr_assert_not_null(bytes);
    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    apply_all(&t);
    index = status(&t).applied;
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    step(&t, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_COMPACT, .index = index, .offset = index });
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = index - 1,
                                 .flags = VS_FLAG_REJECT,
                                 .stamp = t.now });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    piece.index = index;
    piece.bytes = bytes;
    piece.byte_count = VS_MESSAGE_MAX;
    cr_expect_eq(step(&t, piece), VSHARD_EINVAL);
    piece.byte_count = VS_MESSAGE_MAX / 2;
    cr_expect_eq(step(&t, piece), VSHARD_OK);
    cr_expect_not_null(sent(&t, VS_CHUNK, 3));
    free(bytes);
    stop(&t);
}

/* ---- a snapshot, and what comes before it is written ---- */

/* The last piece of a snapshot of entry 6, which is of term 3, from node 2; the host has yet
 * to write it. */
static void last_piece(struct rig *t)
{
    unsigned char body[16 + VS_CONFIG_BYTES];
    struct vs_message m = { .kind = VS_CHUNK,
                            .flags = VS_FLAG_LAST,
                            .from = 2,
                            .term = 3,
                            .index = 6,
                            .log_term = 3,
                            .stamp = t->now };
    struct vs_config c;
    size_t meta;

    cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
    meta = 8 + vs_config_encode(&c, body + 8);
    vs_store32(body, (uint32_t)meta - 8);
    vs_store32(body + 4, 0);
    memset(body + meta, 7, 8);
    m.hint_term = meta;
    deliver(t, m, body, meta + 8);
    cr_assert_not_null(effect(t, VSHARD_RAFT_SNAPSHOT_WRITE));
}

/* Entries 3 to 6 of term 3, 7 and 8 of term 4, of which the new leader does not say yet that
 * they are committed. */
static void all_entries(struct rig *t)
{
    struct vs_message m = { .from = 3, .term = 4, .index = 2, .log_term = 2, .commit = 2 };

    append(t, m, 3, 4);
    m.index = 6;
    m.log_term = 3;
    append(t, m, 4, 2);
    persisted(t);
    cr_assert_eq(status(t).durable, 8u);
}

static void piece_is_written(struct rig *t)
{
    step(t,
         (struct vshard_raft_event){ .kind = VSHARD_RAFT_CHUNK_WRITTEN, .index = 6, .offset = 8 });
    if (effect(t, VSHARD_RAFT_INSTALL) != NULL)
        step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_INSTALLED, .index = 6 });
}

Test(raft_flow, a_snapshot_does_not_take_away_what_was_acknowledged_while_it_came)
{
    struct rig t;

    boot(&t, 2, 0, "2");
    last_piece(&t);
    all_entries(&t);
    apply_all(&t);
    cr_assert_eq(status(&t).commit, 2u);
    piece_is_written(&t);
    cr_expect_eq(status(&t).last, 8u, "entries 7 and 8 may be committed with our word");
    stop(&t);
}

Test(raft_flow, who_leads_installs_no_snapshot)
{
    uint64_t term;
    struct rig t;

    boot(&t, 2, 0, "2");
    last_piece(&t);
    all_entries(&t);
    apply_all(&t);
    term = lead(&t);
    piece_is_written(&t);
    cr_expect_eq(status(&t).last, 9u);
    cr_expect_eq(status(&t).last_term, term);
    stop(&t);
}

/* Its entries were committed, and the snapshot does not say what they did. */
Test(raft_flow, a_request_that_a_snapshot_has_overtaken_ends_unknown)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead(&t);
    propose(&t, 5);
    acknowledge(&t, 2, term, status(&t).last);
    acknowledge(&t, 3, term, status(&t).last);
    apply_all(&t);
    cr_assert_eq(status(&t).commit, 3u);
    cr_assert_eq(status(&t).applied, 1u, "its own disk is slow");
    last_piece(&t);
    cr_expect_null(effect(&t, VSHARD_RAFT_DONE), "it may still see");
    piece_is_written(&t);
    cr_assert_eq(status(&t).applied, 6u);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->tag, 5u);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EUNKNOWN);
    stop(&t);
}

/* ---- in doubt ---- */

/* ---- a member that was removed, and is one again ---- */

/* Node 1 leads, and has had all of its log acknowledged by both others; then node 3 is removed,
 * and named again, its log forgotten. Returns the clock at the last answer it gave as a member. */
static uint64_t remove_and_name_again(struct rig *t, uint64_t *term, uint64_t *had)
{
    struct vshard_raft_event change = { .kind = VSHARD_RAFT_CONFIGURE, .members = three };
    uint64_t then;

    boot(t, 1, 0, "1111");
    *term = lead_firmly(t);
    *had = status(t).last;
    then = t->now;
    for (change.member_count = 2; change.member_count <= 3; change.member_count++) {
        t->now += MS;
        acknowledge(t, 2, *term, status(t).last);
        apply_all(t);
        cr_assert_eq(step(t, change), VSHARD_OK);
        cr_assert_null(effect(t, VSHARD_RAFT_DONE));
        persisted(t);
        acknowledge(t, 2, *term, status(t).last);
    }
    cr_assert_eq(status(t).member_count, 3);
    t->now += MS;
    return then;
}

/* Of all that the leader has sent, node 3 takes nothing, as it has nothing. */
static bool goes_back_to_the_start(struct rig *t, uint64_t term)
{
    struct vs_message no = {
        .kind = VS_APPEND_REPLY, .from = 3, .term = term, .flags = VS_FLAG_REJECT
    };
    uint64_t next = status(t).last;

    for (int i = 0; i < 40 && next != 0; i++) {
        time_passes(t, 30 * MS);
        beat_reply(t, 2, term, t->beat.round);
        beat_reply(t, 3, term, t->beat.round);
        next = sent(t, VS_APPEND, 3) != NULL ? sent(t, VS_APPEND, 3)->index : next;
        no.index = next;
        no.stamp = t->now;
        if (next != 0)
            say(t, no);
        next = sent(t, VS_APPEND, 3) != NULL ? sent(t, VS_APPEND, 3)->index : next;
    }
    return next == 0;
}

Test(raft_flow, an_answer_from_before_a_member_was_removed_says_nothing_of_it_now)
{
    struct rig t;
    uint64_t term, had, then = remove_and_name_again(&t, &term, &had);

    say(&t, (struct vs_message){
                .kind = VS_APPEND_REPLY, .from = 3, .term = term, .index = had, .stamp = then });
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), 0u);
    cr_expect(goes_back_to_the_start(&t, term));
    stop(&t);
}

Test(raft_flow, nor_does_the_answer_to_a_beat)
{
    struct rig t;
    uint64_t term, had, then = remove_and_name_again(&t, &term, &had);
    unsigned char line[VS_BEAT_BYTES];

    vs_beat_encode(
        line, &(struct vs_beat){
                  .group = 1, .term = term, .received = had, .commit = had, .to_incarnation = 1 });
    deliver(&t,
            (struct vs_message){ .kind = VS_BEAT_REPLIES, .from = 3, .stamp = then, .count = 1 },
            line, sizeof line);
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), 0u);
    cr_expect(goes_back_to_the_start(&t, term));
    stop(&t);
}

/* What it says of a snapshot that it was sent since then counts at once. */
Test(raft_flow, a_member_that_is_named_again_is_believed_when_it_has_the_snapshot)
{
    struct vshard_raft_event chunk = { .kind = VSHARD_RAFT_CHUNK, .node = 3 };
    const struct vshard_raft_effect *e;
    const struct vs_message *piece;
    struct rig t;
    uint64_t term, had, at;

    remove_and_name_again(&t, &term, &had);
    apply_all(&t);
    at = status(&t).applied;
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT, .index = at, .offset = at });
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = at,
                                 .flags = VS_FLAG_REJECT,
                                 .stamp = t.now });
    e = effect(&t, VSHARD_RAFT_SNAPSHOT_READ);
    cr_assert_not_null(e);
    chunk.index = e->index;
    chunk.bytes = "s";
    chunk.byte_count = 1;
    chunk.flags = VSHARD_RAFT_LAST;
    step(&t, chunk);
    piece = sent(&t, VS_CHUNK, 3);
    cr_assert_not_null(piece);
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = piece->index,
                                 .stamp = piece->stamp });
    cr_expect_eq(vshard_raft_match(t.raft, 1, 3, 3), at);
    stop(&t);
}

/* The other end of it: which piece it answers, as long as who sent that leads. */
Test(raft_flow, who_has_installed_a_snapshot_says_which_piece_was_the_last)
{
    for (uint32_t later = 0; later < 2; later++) {
        struct rig t;
        uint64_t stamp;

        boot(&t, 2, 0, "");
        last_piece(&t);
        stamp = t.now;
        time_passes(&t, MS);
        if (later)
            append(&t, (struct vs_message){ .from = 2, .term = 4, .index = 1, .log_term = 1 }, 4,
                   0);
        piece_is_written(&t);
        cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
        cr_expect_eq(sent(&t, VS_APPEND_REPLY, 2)->index, 6u);
        cr_expect_eq(sent(&t, VS_APPEND_REPLY, 2)->stamp, later ? 0u : stamp);
        stop(&t);
    }
}

/* ---- from the first instant on ---- */

Test(raft_flow, a_clock_may_begin_at_zero)
{
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = three, .member_count = 1
    };
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
    struct rig t = { .now = 0 };

    cr_assert_eq(vshard_raft_create(&o, &t.raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(t.raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(t.raft, 1, t.now), VSHARD_OK);
    drain(&t);
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
    persisted(&t);
    cr_assert_eq(status(&t).role, (uint32_t)VSHARD_RAFT_LEADER);
    read_now(&t, VSHARD_RAFT_READ_INDEX); /* nothing is committed yet */
    cr_assert_null(effect(&t, VSHARD_RAFT_DONE));
    t.now = 70 * MS;
    persisted(&t);
    if (effect(&t, VSHARD_RAFT_DONE) == NULL)
        step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED,
                                             .index = vs_group_find(t.raft, 1)->handed });
    cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_OK);
    cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->age_ns, 70 * MS);
    stop(&t);
}

/* ---- many that wait ---- */

/* Seconds until so many requests wait for an answer: reads of a leader, reads of a follower, or
 * what a follower has forwarded. */
static double seconds_to_ask(uint32_t kind, bool leads, uint32_t count)
{
    struct vshard_raft_entry x = { .data = "z", .count = 1 };
    struct vshard_raft_event e = { .size = sizeof e, .kind = kind, .group = 1 };
    struct rig t;
    clock_t before;

    boot(&t, 2, 0, "2");
    if (leads) {
        lead_firmly(&t);
        apply_all(&t);
    } else {
        append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2 }, 2, 0);
    }
    e.now_ns = t.now;
    e.entries = kind == VSHARD_RAFT_PROPOSE ? &x : NULL;
    e.entry_count = kind == VSHARD_RAFT_PROPOSE;
    before = clock();
    for (e.tag = 1; e.tag <= count; e.tag++) {
        cr_assert_eq(vshard_raft_step(t.raft, &e), VSHARD_OK);
        while (vshard_raft_next(t.raft) != NULL)
            ;
    }
    before = clock() - before;
    cr_expect_eq(status(&t).pending, count);
    stop(&t);
    return (double)before / CLOCKS_PER_SEC;
}

Test(raft_flow, a_request_does_not_take_longer_where_many_wait)
{
    static const uint32_t kind[] = { VSHARD_RAFT_READ, VSHARD_RAFT_READ, VSHARD_RAFT_PROPOSE };

    for (uint32_t i = 0; i < 3; i++) {
        double few = seconds_to_ask(kind[i], i == 0, 1 << 12);
        double many = seconds_to_ask(kind[i], i == 0, 1 << 14);

        cr_expect(many < 8 * few + 0.02, "%u: %f s for four times what took %f s", i, many, few);
    }
}

/* Of those that wait only what is new is looked at; each must have its answer all the same. */
Test(raft_flow, reads_end_in_whatever_order_they_may)
{
    uint64_t seed = 5;

    for (int round = 0; round < 300; round++) {
        uint64_t asked = 0, ended = 0, had[64] = { 0 }, ids[64];
        struct rig t;

        boot(&t, 2, 0, "22222222");
        append(&t,
               (struct vs_message){ .from = 2, .term = 2, .index = 9, .log_term = 2, .commit = 9 },
               2, 0);
        while (ended < 40) {
            uint64_t what = vs_random(&seed) % 4, one = vs_random(&seed) % (asked + 1);

            t.effects = 0;
            if (what < 2 && asked < 40) {
                step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_READ, .tag = asked });
                cr_assert_not_null(sent(&t, VS_READ, 2));
                ids[asked++] = sent(&t, VS_READ, 2)->round;
            } else if (what == 2 && one < asked) {
                say(&t, (struct vs_message){ .kind = VS_READ_REPLY,
                                             .from = 2,
                                             .term = 2,
                                             .index = 1 + vs_random(&seed) % 9,
                                             .flags = vs_random(&seed) % 8 ? 0 : VS_FLAG_REJECT,
                                             .round = ids[one],
                                             .log_term = 1 });
            } else if (vs_group_find(t.raft, 1)->handed > status(&t).applied) {
                step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED,
                                                     .index = status(&t).applied + 1 });
            }
            for (size_t i = 0; i < t.effects; i++) {
                if (t.effect[i].kind != VSHARD_RAFT_DONE)
                    continue;
                cr_assert_eq(had[t.effect[i].tag]++, 0u, "an answer twice");
                ended++;
            }
            /* What may end has ended. */
            for (uint32_t i = 0; i < vs_group_find(t.raft, 1)->request_count; i++) {
                const struct vs_request *q = &vs_group_find(t.raft, 1)->request[i];

                cr_assert(q->index == 0 || q->index > status(&t).applied);
            }
        }
        stop(&t);
    }
}
