/* raft_hostile.c - messages that no honest node sends get a status and a counter, and take no
 * memory to speak of; events that break their contract are refused.
 *
 * Method: one replica of three; a message that is right is changed in one field at a time, to
 * the values at the edges, over all kinds. */
#include <stdio.h>

#include "support/raft_rig.h"

static uint64_t refused(const struct rig *t)
{
    struct vshard_raft_counters c = { .size = sizeof c };

    cr_assert_eq(vshard_raft_count(t->raft, &c), VSHARD_OK);
    return c.malformed;
}

Test(raft_hostile, an_append_that_leaves_a_gap_is_not_taken)
{
    struct rig t;

    boot(&t, 2, 0, "2");
    cr_expect_eq(append(&t, (struct vs_message){ .from = 2, .term = 9, .index = 500 }, 9, 1),
                 VSHARD_ECORRUPT);
    cr_expect_eq(append(&t, (struct vs_message){ .from = 2, .term = 9, .index = 500 }, 9, 0),
                 VSHARD_ECORRUPT);
    cr_expect_eq(append(&t, (struct vs_message){ .from = 2, .term = 9, .log_term = 3 }, 9, 1),
                 VSHARD_ECORRUPT);
    cr_expect_eq(refused(&t), 3u);
    cr_expect_eq(status(&t).term, 2u, "nothing has changed");
    append(&t, (struct vs_message){ .from = 2, .term = 9, .index = 500, .log_term = 8 }, 9, 1);
    cr_assert_not_null(sent(&t, VS_APPEND_REPLY, 2));
    cr_expect(sent(&t, VS_APPEND_REPLY, 2)->flags & VS_FLAG_REJECT);
    cr_expect_eq(status(&t).last, 2u);
    stop(&t);
}

/* Whatever the numbers say, a step ends, and takes no more than a message could carry. */
Test(raft_hostile, no_number_in_a_message_is_believed)
{
    static const uint64_t edge[] = {
        0, 1, 2, 3, 1000, 0x7fffffff, (uint64_t)1 << 40, ((uint64_t)1 << 63) - 1, UINT64_MAX
    };
    unsigned char wire[VS_MESSAGE_HEAD];
    uint64_t taken = 0;
    struct rig t;

    for (unsigned kind = 1; kind <= VS_KIND_MAX; kind++) {
        boot(&t, 2, 0, "2");
        for (unsigned word = 0; word <= 10; word++) {
            for (unsigned i = 0; i < sizeof edge / sizeof *edge; i++) {
                struct vs_message m = { .kind = kind,
                                        .group = 1,
                                        .from = 2,
                                        .to = 1,
                                        .from_incarnation = 2,
                                        .to_incarnation = 1,
                                        .term = 2,
                                        .index = 2,
                                        .log_term = 2,
                                        .boot = 1 };

                vs_message_encode(wire, &m);
                if (word == 0)
                    vs_store32(wire + 4, (uint32_t)edge[i]);
                else
                    vs_store64(wire + 48 + 8 * (word - 1), edge[i]);
                vs_store64(wire + 120, word == 10 ? edge[i] : 0);
                taken += hand(&t, wire, sizeof wire) == VSHARD_OK;
            }
        }
        cr_expect_lt(t.raft->head_cap, (size_t)1 << 20, "kind %u", kind);
        stop(&t);
    }
    cr_expect_gt(taken, 100u, "some of them are right");
}

Test(raft_hostile, many_heartbeats_of_one_group_are_one)
{
    enum { LINES = 5000 };
    struct vs_message m = { .kind = VS_BEATS,
                            .from = 2,
                            .to = 1,
                            .from_incarnation = 2,
                            .to_incarnation = 1,
                            .boot = 1,
                            .count = LINES,
                            .body_bytes = LINES * VS_BEAT_BYTES };
    const struct vs_beat b = { .group = 1, .term = 2, .to_incarnation = 1 };
    unsigned char *wire = calloc(1, VS_MESSAGE_HEAD + LINES * (size_t)VS_BEAT_BYTES);
    struct rig t;

    boot(&t, 2, 0, "2");
    vs_message_encode(wire, &m);
    for (size_t i = 0; i < LINES; i++)
        vs_beat_encode(wire + VS_MESSAGE_HEAD + i * VS_BEAT_BYTES, &b);
    cr_assert_eq(hand(&t, wire, VS_MESSAGE_HEAD + LINES * VS_BEAT_BYTES), VSHARD_OK);
    cr_assert_not_null(sent(&t, VS_BEAT_REPLIES, 2));
    cr_expect_eq(sent(&t, VS_BEAT_REPLIES, 2)->count, 1u);
    cr_expect_lt(t.raft->head_cap, (size_t)1 << 20);
    free(wire);
    stop(&t);
}

Test(raft_hostile, events_with_flags_that_are_not_theirs_are_refused)
{
    struct vshard_raft_entry e = { .data = "z", .count = 1 };
    struct rig t;

    boot(&t, 1, 0, "");
    lead_firmly(&t);
    for (uint32_t kind = VSHARD_RAFT_TIME; kind <= VSHARD_RAFT_PROMOTE; kind++) {
        for (uint32_t flag = 1; flag <= 8; flag *= 2) {
            bool known = flag == VSHARD_RAFT_LOCAL_ONLY
                             ? kind == VSHARD_RAFT_PROPOSE || kind == VSHARD_RAFT_READ
                         : flag == VSHARD_RAFT_LAST      ? kind == VSHARD_RAFT_CHUNK
                         : flag == VSHARD_RAFT_VOTE_ONLY ? kind == VSHARD_RAFT_PERSISTED
                                                         : false;

            if (!known)
                cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = kind, .flags = flag }),
                             VSHARD_EINVAL, "kind %u, flag %u", kind, flag);
        }
        if (kind != VSHARD_RAFT_READ)
            cr_expect_eq(step(&t, (struct vshard_raft_event){ .kind = kind, .mode = 1 }),
                         VSHARD_EINVAL, "kind %u", kind);
        if (kind != VSHARD_RAFT_PROPOSE && kind != VSHARD_RAFT_FETCHED)
            cr_expect_eq(
                step(&t,
                     (struct vshard_raft_event){ .kind = kind, .entries = &e, .entry_count = 1 }),
                VSHARD_EINVAL, "kind %u", kind);
    }
    e.flags = 1;
    cr_expect_eq(step(&t,
                      (struct vshard_raft_event){
                          .kind = VSHARD_RAFT_PROPOSE, .tag = 1, .entries = &e, .entry_count = 1 }),
                 VSHARD_EINVAL);
    stop(&t);
}

/* Nobody is asked again and again, in one step, for what cannot be read. */
Test(raft_hostile, a_snapshot_that_cannot_be_read_is_asked_for_as_time_passes)
{
    struct vshard_raft_event gone = { .kind = VSHARD_RAFT_CHUNK,
                                      .node = 3,
                                      .status = VSHARD_ENOTFOUND };
    struct rig t;
    uint64_t term, at;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    at = status(&t).commit;
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = at });
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    step(&t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT, .index = at, .offset = at });
    say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                 .from = 3,
                                 .term = term,
                                 .index = at - 1,
                                 .flags = VS_FLAG_REJECT,
                                 .stamp = t.now });
    for (int i = 0; i < 40 && effect(&t, VSHARD_RAFT_SNAPSHOT_READ) == NULL; i++) {
        time_passes(&t, 30 * MS);
        beat_reply(&t, 2, term, t.beat.round);
        if (effect(&t, VSHARD_RAFT_SNAPSHOT_READ) == NULL)
            beat_reply(&t, 3, term, t.beat.round);
    }
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    gone.index = effect(&t, VSHARD_RAFT_SNAPSHOT_READ)->index;
    cr_expect_eq(step(&t, gone), VSHARD_OK);
    cr_expect_null(effect(&t, VSHARD_RAFT_SNAPSHOT_READ));
    stop(&t);
}

Test(raft_hostile, an_entry_larger_than_the_log_takes_is_not_proposed)
{
    struct vshard_raft_entry e = { .data = "zzz", .count = 3 };
    const struct vshard_raft_event propose_it = {
        .kind = VSHARD_RAFT_PROPOSE, .tag = 1, .entries = &e, .entry_count = 1
    };
    unsigned char body[128];
    struct rig t;
    uint64_t term, last;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    t.raft->o.max_entry = 2;
    last = status(&t).last;
    cr_expect_eq(step(&t, propose_it), VSHARD_E2BIG);
    vs_entry_encode(body, &e);
    deliver(
        &t,
        (struct vs_message){ .kind = VS_FORWARD, .from = 2, .term = term, .count = 1, .round = 5 },
        body, vs_entry_bytes(e.count));
    cr_assert_not_null(sent(&t, VS_FORWARD_REPLY, 2));
    cr_expect_eq(sent(&t, VS_FORWARD_REPLY, 2)->hint, (uint64_t)-VSHARD_E2BIG);
    cr_expect_eq(status(&t).last, last);
    e.count = VS_ENTRY_MAX + 1; /* more than any may have: refused before it is read */
    cr_expect_eq(step(&t, propose_it), VSHARD_E2BIG);
    e.count = 2;
    cr_expect_eq(step(&t, propose_it), VSHARD_OK);
    stop(&t);
}

/* Nor for entries: the answer to a FETCH that failed is no reason to ask at once. */
Test(raft_hostile, entries_that_cannot_be_read_are_asked_for_as_time_passes)
{
    static const struct vshard_raft_entry other = { .index = 1, .term = 9 };
    struct vshard_raft_event answer = { .kind = VSHARD_RAFT_FETCHED, .node = 3 };
    static const int status_of[] = { VSHARD_EIO, VSHARD_ENOTFOUND, VSHARD_OK, VSHARD_OK };

    for (uint32_t way = 0; way < 4; way++) {
        const struct vshard_raft_effect *e;
        struct rig t;
        uint64_t term;

        boot(&t, 1, 0, "11111111");
        term = lead_firmly(&t);
        apply_all(&t);
        vs_log_evict(&vs_group_find(t.raft, 1)->log, 5);
        say(&t, (struct vs_message){ .kind = VS_APPEND_REPLY,
                                     .from = 3,
                                     .term = term,
                                     .index = status(&t).last - 1,
                                     .flags = VS_FLAG_REJECT,
                                     .hint = 1,
                                     .hint_term = 1,
                                     .stamp = t.now });
        e = effect(&t, VSHARD_RAFT_FETCH);
        cr_assert_not_null(e);
        answer.index = e->index;
        answer.status = status_of[way];
        answer.entry_count = way == 3; /* and an entry that is not what was asked for */
        answer.entries = &other;
        cr_expect_eq(step(&t, answer), VSHARD_OK);
        cr_expect_null(effect(&t, VSHARD_RAFT_FETCH), "way %u", way);
        beat_reply(&t, 2, term, t.beat.round);
        cr_expect_null(effect(&t, VSHARD_RAFT_FETCH), "way %u", way);
        for (int i = 0; i < 4 && effect(&t, VSHARD_RAFT_FETCH) == NULL; i++) {
            time_passes(&t, 30 * MS);
            beat_reply(&t, 2, term, t.beat.round);
            beat_reply(&t, 3, term, t.beat.round);
        }
        cr_expect_not_null(effect(&t, VSHARD_RAFT_FETCH), "way %u", way);
        stop(&t);
    }
}

Test(raft_hostile, an_answer_that_is_not_known_is_no_success)
{
    struct vshard_raft_entry e = { .data = "z", .count = 1 };
    static const uint64_t hint[] = { 17, 63, 64, 200, UINT64_MAX };

    for (size_t i = 0; i < VS_COUNT(hint); i++) {
        struct rig t;

        boot(&t, 2, 0, "2");
        append(&t, (struct vs_message){ .from = 2, .term = 2, .index = 2, .log_term = 2 }, 2, 0);
        step(&t, (struct vshard_raft_event){
                     .kind = VSHARD_RAFT_PROPOSE, .tag = 5, .entries = &e, .entry_count = 1 });
        cr_assert_not_null(sent(&t, VS_FORWARD, 2));
        say(&t, (struct vs_message){ .kind = VS_FORWARD_REPLY,
                                     .from = 2,
                                     .term = 2,
                                     .round = sent(&t, VS_FORWARD, 2)->round,
                                     .log_term = 1,
                                     .index = 7,
                                     .hint = hint[i] });
        cr_assert_not_null(effect(&t, VSHARD_RAFT_DONE));
        cr_expect_eq(effect(&t, VSHARD_RAFT_DONE)->status, VSHARD_EUNKNOWN, "hint %llu",
                     (unsigned long long)hint[i]);
        stop(&t);
    }
}

static int chunk(struct rig *t, uint64_t term, uint64_t index, uint64_t log_term)
{
    unsigned char meta[8 + VS_CONFIG_BYTES];
    struct vs_config c;
    size_t bytes;

    cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
    bytes = vs_config_encode(&c, meta + 8);
    vs_store32(meta, (uint32_t)bytes);
    vs_store32(meta + 4, 0);
    return deliver(t,
                   (struct vs_message){ .kind = VS_CHUNK,
                                        .from = 2,
                                        .term = term,
                                        .index = index,
                                        .log_term = log_term,
                                        .hint_term = 8 + bytes,
                                        .flags = VS_FLAG_LAST,
                                        .stamp = t->now },
                   meta, 8 + bytes);
}

/* 18, by way of a snapshot. */
Test(raft_hostile, a_snapshot_of_another_leader_of_this_term_stops_the_group)
{
    struct rig t;
    uint64_t term;

    boot(&t, 1, 0, "");
    term = lead_firmly(&t);
    chunk(&t, term, 100, term);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_FATAL));
    cr_expect_eq(effect(&t, VSHARD_RAFT_FATAL)->status, VSHARD_ECORRUPT);
    stop(&t);
}

Test(raft_hostile, a_snapshot_of_a_later_term_than_its_leader_is_not_taken)
{
    struct rig t;

    boot(&t, 2, 0, "2");
    cr_expect_eq(chunk(&t, 3, 100, 4), VSHARD_ECORRUPT);
    cr_expect_eq(refused(&t), 1u);
    cr_expect_eq(status(&t).term, 2u, "nothing has changed");
    cr_expect_eq(chunk(&t, 3, 100, 3), VSHARD_OK);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    stop(&t);
}

/* What a host says of a piece must be what can be. */
Test(raft_hostile, a_piece_that_is_written_in_part_is_not_installed)
{
    struct vshard_raft_event written = { .kind = VSHARD_RAFT_CHUNK_WRITTEN, .index = 100 };
    unsigned char body[16 + VS_CONFIG_BYTES];
    struct vs_message m = { .kind = VS_CHUNK, .from = 2, .term = 3, .index = 100, .log_term = 3 };
    struct vs_config c;
    struct rig t;
    size_t meta;

    boot(&t, 2, 0, "2");
    cr_assert_eq(vs_config_change(NULL, three, 3, &c), VSHARD_OK);
    meta = 8 + vs_config_encode(&c, body + 8);
    vs_store32(body, (uint32_t)meta - 8);
    vs_store32(body + 4, 0);
    memset(body + meta, 7, 8);
    m.hint_term = meta;
    m.flags = VS_FLAG_LAST;
    m.stamp = t.now;
    deliver(&t, m, body, meta + 8);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    cr_assert_eq(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE)->byte_count, 8u);
    written.offset = 9;
    cr_expect_eq(step(&t, written), VSHARD_EINVAL, "more than there was");
    written.offset = 3;
    cr_expect_eq(step(&t, written), VSHARD_OK);
    cr_expect_null(effect(&t, VSHARD_RAFT_INSTALL));
    cr_assert_not_null(sent(&t, VS_CHUNK_REPLY, 2));
    cr_expect_eq(sent(&t, VS_CHUNK_REPLY, 2)->hint, 3u, "the rest is asked for");
    m.hint = 3;
    m.hint_term = 0;
    deliver(&t, m, body + meta + 3, 5);
    cr_assert_not_null(effect(&t, VSHARD_RAFT_SNAPSHOT_WRITE));
    written.offset = 2;
    cr_expect_eq(step(&t, written), VSHARD_EINVAL, "less than there is");
    written.offset = 8;
    cr_expect_eq(step(&t, written), VSHARD_OK);
    cr_expect_not_null(effect(&t, VSHARD_RAFT_INSTALL));
    stop(&t);
}

static int open_as(struct vshard_raft_boot b)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
    struct vshard_raft *raft;
    int rc;

    b.size = sizeof b;
    b.group = 1;
    cr_assert_eq(vshard_raft_create(&o, &raft), VSHARD_OK);
    rc = vshard_raft_open(raft, &b);
    vshard_raft_destroy(raft);
    return rc;
}

/* A replica that has a past was not born now: taken for one that was, it would count as
 * written what it never wrote. */
Test(raft_hostile, a_newborn_group_has_no_past)
{
    cr_expect_eq(open_as((struct vshard_raft_boot){ .members = three, .member_count = 3 }),
                 VSHARD_OK);
    cr_expect_eq(
        open_as((struct vshard_raft_boot){ .members = three, .member_count = 3, .commit = 1 }),
        VSHARD_EINVAL);
    cr_expect_eq(
        open_as((struct vshard_raft_boot){ .members = three, .member_count = 3, .vote = 2 }),
        VSHARD_EINVAL);
    cr_expect_eq(open_as((struct vshard_raft_boot){
                     .members = three, .member_count = 3, .flags = VSHARD_RAFT_UNCERTAIN }),
                 VSHARD_EINVAL);
    cr_expect_eq(open_as((struct vshard_raft_boot){ .flags = 2 }), VSHARD_EINVAL);
    cr_expect_eq(open_as((struct vshard_raft_boot){ .reserved = 1 }), VSHARD_EINVAL);
}

Test(raft_hostile, a_log_that_ends_before_what_was_committed_does_not_start)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
    struct vshard_raft_boot b = { .size = sizeof b, .group = 1, .term = 2, .commit = 3 };
    const struct vshard_raft_entry e = { .index = 1, .term = 1, .data = "y", .count = 1 };
    struct vshard_raft *raft;

    cr_assert_eq(vshard_raft_create(&o, &raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_load(raft, 1, &e, 1), VSHARD_OK);
    cr_expect_eq(vshard_raft_start(raft, 1, MS), VSHARD_ECORRUPT);
    vshard_raft_destroy(raft);
}

static void note_field(void *ctx, uint32_t level, const char *name,
                       const struct vshard_log_field *fields, size_t field_count)
{
    (void)level;
    (void)name;
    if (field_count > 0 && fields[0].text != NULL)
        snprintf(ctx, 32, "%s", fields[0].text);
}

Test(raft_hostile, an_option_out_of_range_is_named)
{
    char field[32] = "";
    const struct vshard_logger logger = { note_field, field };
    const struct vshard_raft_options fine = {
        .size = sizeof fine, .node = 1, .incarnation = 1, .boot = 1, .logger = &logger
    };
    struct vshard_raft_options o = fine;
    struct vshard_raft *raft;

    o.boot = 0;
    cr_expect_eq(vshard_raft_create(&o, &raft), VSHARD_EINVAL);
    cr_expect_str_eq(field, "boot");
    o = fine;
    o.max_entry = VS_ENTRY_MAX + 1;
    cr_expect_eq(vshard_raft_create(&o, &raft), VSHARD_EINVAL);
    cr_expect_str_eq(field, "max_entry");
    o = fine;
    o.election_ns = 50 * MS;
    cr_expect_eq(vshard_raft_create(&o, &raft), VSHARD_EINVAL);
    cr_expect_str_eq(field, "heartbeat_ns");
    o = fine;
    o.election_max_ns = MS;
    cr_expect_eq(vshard_raft_create(&o, &raft), VSHARD_EINVAL);
    cr_expect_str_eq(field, "election_max_ns");
}
