/* raft_rig.h - one replica of three, its log as a test wants it, and messages made by
 * hand: what the tests of single rules of the Raft core are written with. */
#ifndef VS_SUPPORT_RAFT_RIG_H
#define VS_SUPPORT_RAFT_RIG_H

#include <criterion/criterion.h>
#include <stdlib.h>

#include "raft/core.h"

#define VS_RIG __attribute__((unused)) static

#define MS ((uint64_t)1000000)

enum { SENDS = 64, EFFECTS = 64 };

struct rig {
    struct vshard_raft *raft;
    uint64_t now;
    struct vshard_raft_effect effect[EFFECTS];
    size_t effects;
    struct vs_message sent[SENDS];
    uint64_t barrier[SENDS]; /* of what was sent */
    size_t sends;
    struct vs_beat beat; /* the last line of the last heartbeat frame sent */
};

VS_RIG void drain(struct rig *t)
{
    const struct vshard_raft_effect *e;

    t->effects = t->sends = 0;
    while ((e = vshard_raft_next(t->raft)) != NULL) {
        cr_assert(t->effects < EFFECTS && t->sends < SENDS);
        t->effect[t->effects++] = *e;
        if (e->kind == VSHARD_RAFT_SEND) {
            size_t n = (size_t)(e->byte_count + e->body_count);
            unsigned char *whole = malloc(n);

            memcpy(whole, e->bytes, (size_t)e->byte_count);
            if (e->body_count != 0)
                memcpy(whole + e->byte_count, e->body, (size_t)e->body_count);
            cr_assert_eq(vs_message_decode(&t->sent[t->sends], whole, n), VSHARD_OK);
            if (t->sent[t->sends].count != 0 &&
                (t->sent[t->sends].kind == VS_BEATS || t->sent[t->sends].kind == VS_BEAT_REPLIES))
                vs_beat_decode(&t->beat, t->sent[t->sends].body);
            t->sent[t->sends].body = NULL;
            t->barrier[t->sends++] = e->barrier;
            free(whole);
        }
    }
}

VS_RIG int step(struct rig *t, struct vshard_raft_event e)
{
    int rc;

    e.size = sizeof e;
    e.now_ns = t->now;
    e.group = 1;
    rc = vshard_raft_step(t->raft, &e);
    drain(t);
    return rc;
}

VS_RIG const struct vshard_raft_effect *effect(const struct rig *t, uint32_t kind)
{
    for (size_t i = 0; i < t->effects; i++) {
        if (t->effect[i].kind == kind)
            return &t->effect[i];
    }
    return NULL;
}

VS_RIG const struct vs_message *sent(const struct rig *t, uint32_t kind, uint64_t to)
{
    for (size_t i = 0; i < t->sends; i++) {
        if (t->sent[i].kind == kind && t->sent[i].to == to)
            return &t->sent[i];
    }
    return NULL;
}

VS_RIG struct vshard_raft_status status(const struct rig *t)
{
    struct vshard_raft_status s = { .size = sizeof s };

    cr_assert_eq(vshard_raft_inspect(t->raft, 1, &s), VSHARD_OK);
    return s;
}

VS_RIG int hand(struct rig *t, const void *wire, size_t bytes)
{
    return step(t, (struct vshard_raft_event){
                       .kind = VSHARD_RAFT_MESSAGE, .bytes = wire, .byte_count = bytes });
}

VS_RIG int deliver(struct rig *t, struct vs_message m, const void *body, size_t bytes)
{
    unsigned char wire[2048];

    m.group = 1;
    m.to = m.to ? m.to : 1;
    m.to_incarnation = m.to_incarnation ? m.to_incarnation : 1;
    m.from_incarnation = m.from_incarnation ? m.from_incarnation : m.from;
    m.boot = m.boot ? m.boot : 1;
    if (m.kind == VS_VOTE_REPLY || m.kind == VS_PREVOTE_REPLY)
        m.round = m.round ? m.round : 1; /* our boot, as we asked */
    m.body_bytes = bytes;
    cr_assert(bytes + VS_MESSAGE_HEAD <= sizeof wire);
    vs_message_encode(wire, &m);
    if (bytes != 0)
        memcpy(wire + VS_MESSAGE_HEAD, body, bytes);
    return hand(t, wire, VS_MESSAGE_HEAD + bytes);
}

VS_RIG int say(struct rig *t, struct vs_message m)
{
    return deliver(t, m, NULL, 0);
}

/* An append of `count` one-byte entries of m.term - 0, after (m.index, m.log_term). */
VS_RIG int append(struct rig *t, struct vs_message m, uint64_t entry_term, uint32_t count)
{
    unsigned char body[1024] = { 0 };
    size_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct vshard_raft_entry e = {
            .index = m.index + 1 + i, .term = entry_term, .data = "x", .count = 1
        };
        vs_entry_encode(body + used, &e);
        used += vs_entry_bytes(1);
    }
    m.kind = VS_APPEND;
    m.count = count;
    return deliver(t, m, body, used);
}

VS_RIG void beat_reply(struct rig *t, uint64_t from, uint64_t term, uint64_t round)
{
    unsigned char line[VS_BEAT_BYTES];
    struct vs_beat b = { .group = 1, .term = term, .round = round, .to_incarnation = 1 };

    vs_beat_encode(line, &b);
    deliver(
        t,
        (struct vs_message){ .kind = VS_BEAT_REPLIES, .from = from, .stamp = t->now, .count = 1 },
        line, sizeof line);
}

VS_RIG void persisted(struct rig *t)
{
    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = t->raft->seq });
}

VS_RIG void time_passes(struct rig *t, uint64_t ns)
{
    t->now += ns;
    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
}

static const struct vshard_raft_member three[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                   { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                   { 3, 3, VSHARD_RAFT_VOTER, 0 } };

/* A joint configuration: 1 and 2 stay, 3 goes, 4 comes. */
VS_RIG struct vshard_raft_entry joint_entry(unsigned char *bytes, uint64_t index)
{
    struct vs_config c = { .count = 4 };
    struct vshard_raft_entry e = {
        .index = index, .term = 2, .kind = VSHARD_RAFT_CONFIG, .data = bytes
    };
    uint32_t both = VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING;

    c.member[0] = (struct vshard_raft_member){ 1, 1, both, 0 };
    c.member[1] = (struct vshard_raft_member){ 2, 2, both, 0 };
    c.member[2] = (struct vshard_raft_member){ 3, 3, VSHARD_RAFT_OUTGOING, 0 };
    c.member[3] = (struct vshard_raft_member){ 4, 4, VSHARD_RAFT_VOTER, 0 };
    e.count = vs_config_encode(&c, bytes);
    return e;
}

/* Node 1 of these voters at `term`; after the members, its log holds entries of `terms`,
 * where J stands for a joint configuration. */
VS_RIG void boot_of(struct rig *t, const struct vshard_raft_member *voters, uint32_t count,
                    uint64_t term, uint64_t vote, const char *terms, uint32_t flags)
{
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1 };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .term = term, .vote = vote, .flags = flags
    };
    struct vs_config c;
    unsigned char members[VS_CONFIG_BYTES];
    struct vshard_raft_entry e = {
        .index = 1, .term = 1, .kind = VSHARD_RAFT_CONFIG, .data = members
    };

    memset(t, 0, sizeof *t);
    t->now = 1000 * MS;
    cr_assert_eq(vshard_raft_create(&o, &t->raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(t->raft, &b), VSHARD_OK);
    cr_assert_eq(vs_config_change(NULL, voters, count, &c), VSHARD_OK);
    e.count = vs_config_encode(&c, members);
    cr_assert_eq(vshard_raft_load(t->raft, 1, &e, 1), VSHARD_OK);
    for (size_t i = 0; terms[i] != 0; i++) {
        struct vshard_raft_entry x = {
            .index = 2 + i, .term = (uint64_t)(terms[i] - '0'), .data = "y", .count = 1
        };
        if (terms[i] == 'J')
            x = joint_entry(members, 2 + i);
        cr_assert_eq(vshard_raft_load(t->raft, 1, &x, 1), VSHARD_OK);
    }
    cr_assert_eq(vshard_raft_start(t->raft, 1, t->now), VSHARD_OK);
    drain(t);
    time_passes(t, 1); /* past nothing: promises to others still hold */
}

VS_RIG void boot_as(struct rig *t, uint64_t term, uint64_t vote, const char *terms, uint32_t flags)
{
    boot_of(t, three, 3, term, vote, terms, flags);
}

VS_RIG void boot(struct rig *t, uint64_t term, uint64_t vote, const char *terms)
{
    boot_as(t, term, vote, terms, 0);
}

VS_RIG void stop(struct rig *t)
{
    vshard_raft_destroy(t->raft);
}

/* Tells it to stand, as soon as it has promised nothing to anybody. */
VS_RIG void campaign(struct rig *t)
{
    uint64_t until = vs_group_find(t->raft, 1)->promise_until;

    t->now = until > t->now ? until : t->now;
    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_CAMPAIGN });
}

VS_RIG void stand(struct rig *t)
{
    uint64_t term = status(t).term;

    campaign(t);
    say(t, (struct vs_message){ .kind = VS_PREVOTE_REPLY, .from = 2, .term = term + 1 });
    persisted(t);
}

/* Elected with the vote of node 2; its blank entry is not durable yet. */
VS_RIG uint64_t lead(struct rig *t)
{
    uint64_t term = status(t).term + 1;

    stand(t);
    say(t, (struct vs_message){ .kind = VS_VOTE_REPLY, .from = 2, .term = term });
    cr_assert_eq(status(t).role, (uint32_t)VSHARD_RAFT_LEADER);
    return term;
}

VS_RIG void acknowledge(struct rig *t, uint64_t from, uint64_t term, uint64_t index)
{
    say(t,
        (struct vs_message){
            .kind = VS_APPEND_REPLY, .from = from, .term = term, .index = index, .stamp = t->now });
}

/* A leader whose log is committed to its end, with a confirmed lease. */
VS_RIG uint64_t lead_firmly(struct rig *t)
{
    uint64_t term = lead(t);

    persisted(t);
    acknowledge(t, 2, term, status(t).last);
    cr_assert_eq(status(t).commit, status(t).last);
    return term;
}

VS_RIG void propose(struct rig *t, uint64_t tag)
{
    struct vshard_raft_entry e = { .data = "z", .count = 1 };

    step(t, (struct vshard_raft_event){
                .kind = VSHARD_RAFT_PROPOSE, .tag = tag, .entries = &e, .entry_count = 1 });
}

/* What has been handed out, and then what that let be handed out. */
VS_RIG void apply_all(struct rig *t)
{
    const struct vshard_raft_effect *e;

    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED,
                                        .index = vs_group_find(t->raft, 1)->handed });
    while ((e = effect(t, VSHARD_RAFT_APPLY)) != NULL)
        step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = e->index });
}

VS_RIG void read_now(struct rig *t, uint32_t mode)
{
    step(t, (struct vshard_raft_event){ .kind = VSHARD_RAFT_READ, .tag = 9, .mode = mode });
}

#endif
