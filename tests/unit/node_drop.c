/* node_drop.c - replicas that go in the middle of something: while they are saved, before they
 * have been opened, when their node is started again, and while the log forgets them.
 *
 * Method: one replica's items of work are held back, its shard is given to another node and
 * back, and the items go on at moments that are chosen. In the end the replica must be there
 * again; until others go on without it, it must not have gone. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 40 };

struct move {
    struct cluster *c;
    uint64_t from, to; /* from: a follower */
    uint64_t group;
};

static struct vs_replica *replica(const struct move *m)
{
    return vs_replica_find(m->c->node[m->from].node, m->group);
}

static struct vshard_shard_status look(const struct move *m, uint64_t at)
{
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(m->c->node[at].node, "words", &s, 1, &count), VSHARD_OK);
    return s;
}

static struct move prepare(void)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct move m = { .c = with_words(5, 5, 1, 3, &o) };
    struct vshard_shard_status s;
    uint64_t leader;

    written(m.c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(m.c, 1000 * MS);
    s = look(&m, 1);
    leader = cluster_leader(m.c, "words", 0);
    m.group = s.group;
    m.from = s.members[0] != leader ? s.members[0] : s.members[1];
    for (uint64_t id = 1; id <= 5; id++) {
        if (id != s.members[0] && id != s.members[1] && id != s.members[2])
            m.to = id;
    }
    return m;
}

static void nobody_works(void *ctx, uint32_t what)
{
    (void)ctx;
    (void)what;
}

/* As if it had a worker, who does nothing. */
static void hold(const struct move *m, uint32_t held)
{
    struct vshard_node *n = m->c->node[m->from].node;

    n->host.wake = nobody_works;
    n->o.workers = held;
}

static void give(const struct move *m, uint64_t from, uint64_t to)
{
    uint64_t at = cluster_leader(m->c, "words", 0);
    const struct vshard_node_admin a = {
        .op = VSHARD_ADMIN_REPLACE, .group = m->group, .node = from, .to = to
    };

    cr_assert_eq(administer(m->c, at, a), VSHARD_OK);
}

static void snapshot(const struct move *m)
{
    struct vs_replica *r = replica(m);

    r->since_snapshot = 1 << 30;
    vs_replica_snapshot(m->c->node[m->from].node, r);
    cr_assert_gt(r->taking_index, (uint64_t)0);
}

static void expect_whole(const struct move *m)
{
    cr_expect_eq(look(m, m->from).here, 1u);
    cr_expect_eq(look(m, m->from).rows, (uint64_t)ROWS);
    expect_rows(m->c, m->from, 1, ROWS, 5);
}

static bool has_file(const struct move *m, uint64_t index)
{
    char name[100];
    size_t count;

    snprintf(name, sizeof name, "home/g%llx-%llx.rows", (unsigned long long)m->group,
             (unsigned long long)index);
    return fault_storage_bytes(m->c->node[m->from].disk, name, &count) != NULL;
}

Test(node_drop, of_one_that_is_being_saved_leaves_nothing_behind)
{
    struct move m = prepare();
    uint64_t index;

    hold(&m, 1);
    snapshot(&m);
    index = replica(&m)->taking_index;
    give(&m, m.from, m.to);
    cluster_run(m.c, 5000 * MS);
    cr_assert(replica(&m) != NULL && replica(&m)->dropped);
    hold(&m, 0);
    cluster_run(m.c, 1000 * MS);
    cr_assert_null(replica(&m));
    cr_expect(!has_file(&m, index));
    give(&m, m.to, m.from);
    cluster_run(m.c, 8000 * MS);
    expect_whole(&m);
    cluster_kill(m.c, m.from);
    cr_assert_eq(cluster_start(m.c, m.from), VSHARD_OK);
    cluster_run(m.c, 3000 * MS);
    expect_whole(&m);
    cluster_destroy(m.c);
}

Test(node_drop, of_one_that_is_named_again_meanwhile_is_followed_by_another)
{
    struct move m = prepare();

    hold(&m, 1);
    snapshot(&m);
    give(&m, m.from, m.to);
    cluster_run(m.c, 5000 * MS);
    cr_assert(replica(&m) != NULL && replica(&m)->dropped);
    give(&m, m.to, m.from);
    cluster_run(m.c, 1000 * MS);
    hold(&m, 0);
    cluster_run(m.c, 8000 * MS);
    expect_whole(&m);
    cluster_destroy(m.c);
}

/* It has a snapshot, and is down. */
static struct move prepare_down(void)
{
    struct move m = prepare();

    snapshot(&m);
    cluster_run(m.c, 1000 * MS);
    cr_assert_gt(replica(&m)->snapshot_index, (uint64_t)0);
    return m;
}

static void start_held(const struct move *m)
{
    cr_assert_eq(cluster_start(m->c, m->from), VSHARD_OK);
    hold(m, 1);
    cr_assert(replica(m) != NULL && !replica(m)->open, "it is not being opened");
}

Test(node_drop, waits_for_who_is_being_opened_and_is_counted_on)
{
    struct move m = prepare_down();

    cluster_kill(m.c, m.to);
    cluster_kill(m.c, m.from);
    cluster_run(m.c, 1500 * MS); /* it is known that they are down */
    give(&m, m.from, m.to);
    cluster_run(m.c, 2000 * MS);
    start_held(&m);
    cluster_run(m.c, 3000 * MS);
    cr_assert_eq(look(&m, m.from).members[0] == m.from || look(&m, m.from).members[1] == m.from ||
                     look(&m, m.from).members[2] == m.from,
                 0, "it has not heard of the change");
    cr_assert(replica(&m) != NULL && !replica(&m)->dropped, "the group has nobody in its place");
    hold(&m, 0);
    cluster_run(m.c, 2000 * MS);
    expect_whole(&m);
    cr_assert_eq(cluster_start(m.c, m.to), VSHARD_OK);
    cluster_run(m.c, 8000 * MS);
    cr_expect_null(replica(&m));
    cr_expect_eq(look(&m, m.to).here, 1u);
    cluster_destroy(m.c);
}

Test(node_drop, keeps_what_was_promised_by_one_that_was_not_opened)
{
    struct move m = prepare_down();
    struct vshard_wal_group about = { .size = sizeof about };
    uint64_t term = replica(&m)->term;

    cr_assert_gt(term, (uint64_t)0);
    cluster_kill(m.c, m.from);
    give(&m, m.from, m.to);
    cluster_run(m.c, 5000 * MS);
    start_held(&m);
    cluster_run(m.c, 3000 * MS);
    hold(&m, 0);
    cluster_run(m.c, 1000 * MS);
    cr_assert_null(replica(&m));
    cr_assert_eq(vshard_wal_find(m.c->node[m.from].node->wal, m.group, &about), VSHARD_OK);
    cr_expect_eq(about.vote_term, term);
    cluster_destroy(m.c);
}

/* What a leader said before this replica was a member comes late, when the map does not name it any
 * more and its group still counts on it. */
Test(node_drop, is_not_for_what_was_said_before_it_was_a_member)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(5, 5, 1, 3, &o);
    uint64_t leader = cluster_leader(c, "words", 0), spare = 0, left = 0;
    struct vshard_shard_status s;
    const struct vs_replica *r;
    struct vs_hint late = { .group = 1, .node = leader, .leader = leader };
    size_t count;

    written(c, leader, 1, 20, 5, 0);
    cr_assert_eq(vshard_node_shards(c->node[leader].node, "words", &s, 1, &count), VSHARD_OK);
    for (uint32_t i = 0; i < s.member_count; i++) {
        if (s.members[i] == leader || left != 0)
            late.members |= vs_member_bits(s.members[i], 1);
        else
            left = s.members[i];
    }
    for (uint64_t id = 1; id <= 5; id++)
        spare = id != s.members[0] && id != s.members[1] && id != s.members[2] ? id : spare;
    for (uint32_t i = 0; i < s.member_count; i++) { /* so that its group cannot go on without it */
        if (s.members[i] != left)
            c->node[s.members[i]].paused_until = c->now + 20000 * MS;
    }
    cluster_run(c, 2000 * MS);
    cr_assert_eq(administer(c, spare,
                            (struct vshard_node_admin){ .op = VSHARD_ADMIN_REPLACE,
                                                        .group = 1,
                                                        .node = left,
                                                        .to = spare,
                                                        .timeout_ns = 7000 * MS }),
                 VSHARD_OK);
    cluster_run(c, 500 * MS);
    r = vs_replica_find(c->node[left].node, 1);
    cr_assert(r != NULL && !r->dropped, "its group counts on it");
    late.term = r->term;
    vs_hint_put(c->node[left].node, &late);
    cluster_run(c, 500 * MS);
    cr_assert_not_null(vs_replica_find(c->node[left].node, 1), "what it has acknowledged is gone");
    cr_expect(!r->dropped);
    cluster_run(c, 30000 * MS);
    cr_expect_null(vs_replica_find(c->node[left].node, 1), "it goes in the end");
    expect_rows(c, spare, 1, 20, 5);
    cluster_destroy(c);
}

/* The others are held up, so that their group can decide nothing; the map names another in place
 * of this one, which knows it. */
static struct move prepare_counted_on(uint64_t others[2])
{
    struct move m = prepare();
    struct vshard_shard_status s = look(&m, 1);
    struct vshard_node_admin a = {
        .op = VSHARD_ADMIN_REPLACE, .group = m.group, .node = m.from, .to = m.to
    };

    snapshot(&m);
    cluster_run(m.c, 1000 * MS);
    others[0] = cluster_leader(m.c, "words", 0);
    for (uint32_t i = 0; i < s.member_count; i++) {
        if (s.members[i] != m.from && s.members[i] != others[0])
            others[1] = s.members[i];
    }
    for (int i = 0; i < 2; i++)
        m.c->node[others[i]].paused_until = m.c->now + 3600000 * MS;
    cluster_run(m.c, 2000 * MS);
    cr_assert_eq(administer(m.c, m.to, a), VSHARD_OK);
    cluster_run(m.c, 1000 * MS);
    cr_assert_neq(look(&m, m.from).members[0], m.from);
    cr_assert(replica(&m) != NULL && !replica(&m)->dropped, "its group counts on it");
    return m;
}

static void go_on(const struct move *m, uint64_t id)
{
    m->c->node[id].paused_until = 0;
}

/* It has acknowledged what one of the others is lost with. */
Test(node_drop, waits_for_who_is_started_again_and_is_counted_on)
{
    uint64_t others[2];
    struct move m = prepare_counted_on(others);

    cluster_kill(m.c, m.from);
    cr_assert_eq(cluster_start(m.c, m.from), VSHARD_OK);
    cluster_run(m.c, 500 * MS);
    cr_assert_not_null(replica(&m), "what it has is no use to its group");
    cluster_kill(m.c, others[1]);
    go_on(&m, others[0]);
    cluster_run(m.c, 15000 * MS);
    expect_rows(m.c, m.to, 1, ROWS, 5);
    cr_expect_null(replica(&m), "it goes in the end");
    cluster_destroy(m.c);
}

static struct vshard_wal_group logged(const struct move *m)
{
    struct vshard_wal_group about = { .size = sizeof about };
    int rc = vshard_wal_find(m->c->node[m->from].node->wal, m->group, &about);

    cr_assert(rc == VSHARD_OK || rc == VSHARD_ENOTFOUND);
    return about;
}

Test(node_drop, of_one_that_was_down_meanwhile_leaves_nothing_behind)
{
    uint64_t others[2], index;
    struct move m = prepare_counted_on(others);

    index = replica(&m)->snapshot_index;
    cr_assert(has_file(&m, index));
    cluster_kill(m.c, m.from);
    go_on(&m, others[0]);
    go_on(&m, others[1]);
    cluster_run(m.c, 8000 * MS);
    cr_assert_eq(cluster_start(m.c, m.from), VSHARD_OK);
    cr_assert_gt(logged(&m).mark_index, (uint64_t)0);
    cluster_run(m.c, 5000 * MS);
    cr_expect_null(replica(&m));
    cr_expect(!has_file(&m, index));
    cr_expect_eq(logged(&m).mark_index, (uint64_t)0, "the log keeps it for ever");
    cr_expect_gt(logged(&m).vote_term, (uint64_t)0, "but for what it has promised");
    expect_rows(m.c, m.from, 1, ROWS, 5);
    cluster_destroy(m.c);
}

/* As if power had failed before the log had forgotten it. */
Test(node_drop, with_its_collection_is_made_up_for)
{
    struct move m = prepare();
    const struct vshard_node_admin drop = { .op = VSHARD_ADMIN_DROP, .name = "words" };
    static const unsigned char head[VS_ENTRY_HEAD_BYTES];
    const struct vshard_wal_record record = { .group = m.group,
                                              .kind = VSHARD_WAL_ENTRY,
                                              .index = 1,
                                              .term = 1,
                                              .payload = head,
                                              .payload_bytes = sizeof head };
    uint64_t barrier;

    cr_assert_eq(administer(m.c, 1, drop), VSHARD_OK);
    cluster_run(m.c, 2000 * MS);
    cr_assert_eq(logged(&m).last_term, (uint64_t)0);
    cr_assert_eq(vshard_wal_append(m.c->node[m.from].node->wal, &record, 1, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(m.c->node[m.from].node->wal, barrier), VSHARD_OK);
    cluster_kill(m.c, m.from);
    cr_assert_eq(cluster_start(m.c, m.from), VSHARD_OK);
    cluster_run(m.c, 2000 * MS);
    cr_expect_eq(logged(&m).last_term, (uint64_t)0, "the log keeps it for ever");
    cluster_destroy(m.c);
}

/* As long as the log still shows it, it would be opened again as it was, if it were named again;
 * and then the log would forget it. */
Test(node_drop, is_over_when_the_log_has_forgotten)
{
    uint64_t others[2], index;
    struct move m = prepare_counted_on(others);
    struct cluster_node *n = &m.c->node[m.from];

    index = replica(&m)->snapshot_index;
    fault_storage_defer(n->disk, 1);
    n->disk_at = UINT64_MAX;
    go_on(&m, others[0]);
    go_on(&m, others[1]);
    cluster_run(m.c, 8000 * MS);
    cr_assert(replica(&m) != NULL && replica(&m)->dropped && replica(&m)->forgotten);
    cr_expect(has_file(&m, index), "the log names it");
    cr_expect_gt(logged(&m).mark_index, (uint64_t)0);
    fault_storage_defer(n->disk, 0);
    fault_storage_drain(n->disk);
    n->disk_at = 0;
    cluster_run(m.c, 1000 * MS);
    cr_expect_null(replica(&m));
    cr_expect(!has_file(&m, index));
    cr_expect_eq(logged(&m).mark_index, (uint64_t)0);
    cluster_destroy(m.c);
}

/* Its records go with it, also those that the log has no room for yet: what was to be said when
 * they are durable is not said when their turn comes. */
Test(node_drop, says_nothing_more_of_what_it_will_not_write)
{
    struct move m = prepare();
    struct vshard_node *n = m.c->node[m.from].node;
    struct vs_replica *r = replica(&m);
    const struct vshard_raft_effect e = { .kind = VSHARD_RAFT_SEND,
                                          .group = m.group,
                                          .node = m.to,
                                          .barrier = n->raft_durable + 1,
                                          .bytes = "x",
                                          .byte_count = 1 };
    struct vshard_raft_effect other = e;
    size_t held = 0;

    other.group = 0;
    vs_send_message(n, &other);
    vs_send_message(n, &e);
    vs_send_message(n, &other);
    cr_assert(vs_persist_forget(n, r));
    for (const struct vs_held *h = n->held; h != NULL; h = h->next, held++)
        cr_expect_neq(h->group, m.group);
    cr_expect_geq(held, 2u);
    cr_expect_null(*n->held_end);
    cluster_destroy(m.c);
}

/* Of a large shard that takes some ten milliseconds: not between two heartbeats. */
Test(node_drop, gives_memory_back_as_an_item_of_work)
{
    struct move m = prepare();

    hold(&m, 1);
    give(&m, m.from, m.to);
    cluster_run(m.c, 5000 * MS);
    cr_assert(replica(&m) != NULL && replica(&m)->dropped);
    cr_expect_not_null(replica(&m)->shard);
    hold(&m, 0);
    cluster_run(m.c, 1000 * MS);
    cr_expect_null(replica(&m));
    cluster_destroy(m.c);
}
