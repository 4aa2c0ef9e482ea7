/* raft_core.c - the door: lives of a group, refusals, and a full heap.
 *
 * Method: one life of a group of one voter, from birth over writes, sessions, reads
 * and a snapshot to a restart, written once. It runs by itself; with the k-th
 * allocation failing, for each k, once and for ever; and with each failed step
 * tried again, when digests before and after the failure must be equal. Then each
 * way to misuse the door. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "support/fault_alloc.h"
#include <vshard/log.h>

#define MS ((uint64_t)1000000)

struct life {
    struct vshard_raft *raft;
    uint64_t now, barrier, handed, done, done_index, meta_index, meta_term;
    uint32_t dones, role, flags; /* of the last entry applied */
    unsigned char meta[2000];
    size_t meta_bytes;
};

static void take(struct life *l)
{
    const struct vshard_raft_effect *e;

    while ((e = vshard_raft_next(l->raft)) != NULL) {
        switch (e->kind) {
        case VSHARD_RAFT_PERSIST: l->barrier = e->barrier; break;
        case VSHARD_RAFT_APPLY:
            l->handed = e->index;
            l->flags = e->entries[e->entry_count - 1].flags;
            break;
        case VSHARD_RAFT_ROLE: l->role = e->role; break;
        case VSHARD_RAFT_DONE:
            l->dones++;
            l->done = e->tag;
            l->done_index = e->index;
            break;
        case VSHARD_RAFT_META:
            memcpy(l->meta, e->bytes, (size_t)e->byte_count);
            l->meta_bytes = (size_t)e->byte_count;
            l->meta_index = e->index;
            l->meta_term = e->term;
            break;
        default: break;
        }
    }
}

static int step(struct life *l, struct vshard_raft_event e)
{
    int rc;

    e.size = sizeof e;
    e.group = 1;
    e.now_ns = l->now;
    rc = vshard_raft_step(l->raft, &e);
    take(l);
    return rc;
}

/* Lets storage and state machine catch up. */
static int settle(struct life *l)
{
    int rc =
        step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = l->barrier });

    if (rc == VSHARD_OK)
        rc = step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = l->handed });
    return rc;
}

static int propose(struct life *l, uint64_t tag, uint64_t session, uint64_t sequence, uint32_t kind)
{
    static const char data[100] = "data";
    struct vshard_raft_entry e = {
        .kind = kind, .session = session, .sequence = sequence, .data = data, .count = sizeof data
    };
    int rc =
        step(l, (struct vshard_raft_event){
                    .kind = VSHARD_RAFT_PROPOSE, .tag = tag, .entries = &e, .entry_count = 1 });

    return rc == VSHARD_OK ? settle(l) : rc;
}

static int birth(struct life *l, const struct vshard_allocator *a)
{
    static const struct vshard_raft_member one = { 1, 1, VSHARD_RAFT_VOTER, 0 };
    struct vshard_raft_options o = {
        .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1, .allocator = a
    };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = &one, .member_count = 1
    };
    int rc = vshard_raft_create(&o, &l->raft);

    l->now = 1000 * MS;
    if (rc == VSHARD_OK)
        rc = vshard_raft_open(l->raft, &b);
    if (rc == VSHARD_OK)
        rc = vshard_raft_start(l->raft, 1, l->now);
    if (rc == VSHARD_OK)
        take(l);
    return rc;
}

static int lead(struct life *l)
{
    int rc = VSHARD_OK;

    for (int i = 0; i < 20 && rc == VSHARD_OK && l->role != VSHARD_RAFT_LEADER; i++) {
        rc = settle(l);
        l->now += 50 * MS;
        if (rc == VSHARD_OK)
            rc = step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
    }
    return rc == VSHARD_OK ? settle(l) : rc;
}

static int live(struct life *l, const struct vshard_allocator *a)
{
    int rc = birth(l, a);

    if (rc == VSHARD_OK)
        rc = lead(l);
    if (rc == VSHARD_OK)
        rc = propose(l, 1, 0, 0, VSHARD_RAFT_SESSION);
    for (uint64_t i = 1; i <= 20 && rc == VSHARD_OK; i++)
        rc = propose(l, 1 + i, 3, i, VSHARD_RAFT_DATA);
    if (rc == VSHARD_OK)
        rc = step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_READ, .tag = 90 });
    if (rc == VSHARD_OK)
        rc = step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    if (rc == VSHARD_OK)
        rc = step(l, (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT,
                                                 .index = l->meta_index,
                                                 .offset = l->meta_index });
    return rc;
}

static int scenario(const struct vshard_allocator *memory, void *arg)
{
    struct life l = { 0 };
    int rc = live(&l, memory);

    (void)arg;
    vshard_raft_destroy(l.raft);
    return rc;
}

Test(raft_core, one_life_of_a_group)
{
    struct life l = { 0 };
    struct vshard_raft_status s = { .size = sizeof s };

    cr_assert_eq(live(&l, NULL), VSHARD_OK);
    cr_expect_eq(l.dones, 22);
    cr_expect_eq(l.done, 90);
    cr_assert_eq(vshard_raft_inspect(l.raft, 1, &s), VSHARD_OK);
    cr_expect_eq(s.role, (uint32_t)VSHARD_RAFT_LEADER);
    cr_expect_eq(s.applied, 23);
    cr_expect_eq(s.snapshot, 23);
    cr_expect_eq(s.first, 24);
    cr_expect_eq(s.pending, 0);
    vshard_raft_destroy(l.raft);
}

Test(raft_core, survives_each_allocation_that_fails)
{
    char why[300] = "";
    uint64_t runs = fault_alloc_try_each(scenario, NULL, why, sizeof why);

    cr_expect(runs > 20, "%llu runs: %s", (unsigned long long)runs, why);
}

Test(raft_core, a_session_is_remembered_across_snapshot_and_restart)
{
    struct life l = { 0 }, after = { 0 };
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 2 };
    struct vshard_raft_boot b = { .size = sizeof b, .group = 1 };

    cr_assert_eq(live(&l, NULL), VSHARD_OK);
    b.term = 2;
    b.vote = 1;
    b.applied = b.snapshot_index = l.meta_index;
    b.snapshot_term = l.meta_term;
    b.meta = l.meta;
    b.meta_count = l.meta_bytes;
    after.now = 5000 * MS;
    cr_assert_eq(vshard_raft_create(&o, &after.raft), VSHARD_OK);
    cr_assert_eq(vshard_raft_open(after.raft, &b), VSHARD_OK);
    cr_assert_eq(vshard_raft_start(after.raft, 1, after.now), VSHARD_OK);
    take(&after);
    cr_assert_eq(lead(&after), VSHARD_OK);
    cr_assert_eq(propose(&after, 1, 3, 20, VSHARD_RAFT_DATA), VSHARD_OK);
    cr_expect_eq(after.flags, (uint32_t)VSHARD_RAFT_DUPLICATE);
    cr_assert_eq(propose(&after, 2, 3, 21, VSHARD_RAFT_DATA), VSHARD_OK);
    cr_expect_eq(after.flags, 0);
    cr_assert_eq(propose(&after, 3, 99, 1, VSHARD_RAFT_DATA), VSHARD_OK);
    cr_expect_eq(after.flags, (uint32_t)VSHARD_RAFT_EXPIRED);
    cr_expect_eq(after.done_index, after.handed); /* refused, and where */
    vshard_raft_destroy(l.raft);
    vshard_raft_destroy(after.raft);
}

Test(raft_core, meta_of_any_other_length_is_refused)
{
    struct life l = { 0 };
    struct vshard_raft_options o = { .size = sizeof o, .node = 1, .incarnation = 1, .boot = 2 };
    struct vshard_raft_boot b = { .size = sizeof b, .group = 1, .term = 2 };
    struct vshard_raft *r;

    cr_assert_eq(live(&l, NULL), VSHARD_OK);
    b.applied = b.snapshot_index = l.meta_index;
    b.snapshot_term = l.meta_term;
    b.meta = l.meta;
    cr_assert_eq(vshard_raft_create(&o, &r), VSHARD_OK);
    for (b.meta_count = 0; b.meta_count < l.meta_bytes; b.meta_count++)
        cr_expect_eq(vshard_raft_open(r, &b), VSHARD_ECORRUPT, "%llu",
                     (unsigned long long)b.meta_count);
    cr_expect_eq(vshard_raft_open(r, &b), VSHARD_OK);
    vshard_raft_destroy(r);
    vshard_raft_destroy(l.raft);
}

Test(raft_core, misuse_gets_a_status)
{
    struct life l = { 0 };
    struct vshard_raft_event e = { .size = sizeof e, .group = 1 };
    struct vshard_raft_options o = { .size = sizeof o };
    struct vshard_raft *r;
    uint64_t digest;

    cr_expect_eq(vshard_raft_create(NULL, &r), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_create(&o, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_create(&o, &r), VSHARD_EINVAL, "no node id");
    o.node = o.incarnation = o.boot = 1;
    o.heartbeat_ns = 100 * MS;
    cr_expect_eq(vshard_raft_create(&o, &r), VSHARD_EINVAL, "elections faster than heartbeats");
    o.heartbeat_ns = 0;
    o.election_max_ns = 100 * MS;
    cr_expect_eq(vshard_raft_create(&o, &r), VSHARD_EINVAL, "the longest patience below the least");
    o.election_max_ns = 0;
    o.max_message = (32 << 20) + 1;
    cr_expect_eq(vshard_raft_create(&o, &r), VSHARD_EINVAL, "appends that nobody takes");
    o.max_message = 0;
    o.max_inflight = 17;
    cr_expect_eq(vshard_raft_create(&o, &r), VSHARD_EINVAL,
                 "more under way than there is room for");
    cr_assert_eq(live(&l, NULL), VSHARD_OK);
    digest = vshard_raft_digest(l.raft);
    e.now_ns = l.now;
    for (uint32_t kind = 0; kind < 40; kind++) {
        if (kind == VSHARD_RAFT_TIME || kind == VSHARD_RAFT_PERSIST_FAILED ||
            kind == VSHARD_RAFT_READ || kind == VSHARD_RAFT_CONFIGURE ||
            kind == VSHARD_RAFT_TRANSFER)
            continue;
        e.kind = kind;
        e.group = 2;
        if (kind != VSHARD_RAFT_PERSISTED)
            cr_expect_neq(vshard_raft_step(l.raft, &e), VSHARD_OK, "kind %u", kind);
        cr_expect_null(vshard_raft_next(l.raft));
    }
    e.group = 1;
    e.kind = VSHARD_RAFT_PERSISTED;
    e.barrier = 1000;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "a barrier that was never given");
    e.kind = VSHARD_RAFT_APPLIED;
    e.index = 1000;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "applied what was not handed out");
    e.kind = VSHARD_RAFT_COMPACT;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "no such snapshot");
    e.kind = VSHARD_RAFT_PROPOSE;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "no entries");
    e.entry_count = 3;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "entries that are not there");
    e.entry_count = 0;
    e.size = 8;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "a struct too short");
    cr_expect_eq(vshard_raft_step(NULL, &e), VSHARD_EINVAL);
    e = (struct vshard_raft_event){ .size = sizeof e, .kind = VSHARD_RAFT_READ, .group = 1 };
    e.now_ns = l.now;
    e.mode = 3;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "no such mode");
    e.mode = 0;
    e.flags = 8;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "no such flag");
    e.flags = 0;
    e.reserved = 1;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "a field that is none");
    e.reserved = 0;
    e.byte_count = 1;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "bytes of a read");
    e.kind = VSHARD_RAFT_MESSAGE;
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EINVAL, "bytes that are not there");
    cr_expect_eq(vshard_raft_digest(l.raft), digest, "and nothing changed");
    cr_expect_null(vshard_raft_next(NULL));
    cr_expect_eq(vshard_raft_deadline_ns(NULL), UINT64_MAX);
    cr_expect_eq(vshard_raft_digest(NULL), 0);
    cr_expect_eq(vshard_raft_term(NULL, 1, 1), 0);
    cr_expect_eq(vshard_raft_inspect(NULL, 1, NULL), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_raft_members(l.raft, 1, NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_count(NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_count(l.raft, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_open(NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_raft_load(l.raft, 1, NULL, 0), VSHARD_EINVAL, "it has started");
    cr_expect_eq(vshard_raft_start(l.raft, 1, 0), VSHARD_EINVAL, "likewise");
    cr_expect_eq(vshard_raft_start(l.raft, 9, 0), VSHARD_ENOTFOUND);
    vshard_raft_destroy(l.raft);
    vshard_raft_destroy(NULL);
}

Test(raft_core, effects_must_be_taken_before_the_next_step)
{
    struct life l = { 0 };
    struct vshard_raft_event e = { .size = sizeof e, .kind = VSHARD_RAFT_READ, .group = 1 };

    cr_assert_eq(live(&l, NULL), VSHARD_OK);
    e.now_ns = l.now;
    cr_assert_eq(vshard_raft_step(l.raft, &e), VSHARD_OK);
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_EBUSY);
    take(&l);
    cr_expect_eq(vshard_raft_step(l.raft, &e), VSHARD_OK);
    vshard_raft_destroy(l.raft);
}
