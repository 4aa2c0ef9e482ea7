/* node_newcomer.c - a replica that comes to a group: until it has what the others have it answers
 * nobody, and nobody waits for it.
 *
 * Method: a shard is given to a spare node which is held up, by slow messages or by a disk that
 * does nothing. Meanwhile its node is asked for rows, and rows are written. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 40, TIMES = 80 };

static struct vshard_shard_status look(struct cluster *c, uint64_t at)
{
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[at].node, "words", &s, 1, &count), VSHARD_OK);
    return s;
}

static bool is_member(const struct vshard_shard_status *s, uint64_t node)
{
    for (uint32_t i = 0; i < s->member_count; i++) {
        if (s->members[i] == node)
            return true;
    }
    return false;
}

/* Five nodes, of which one has nothing of the shard: that one. */
static struct cluster *prepare(uint32_t replicas, uint64_t *spare)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(5, 5, 1, replicas, &o);
    struct vshard_shard_status s = look(c, 1);

    *spare = 5;
    while (is_member(&s, *spare))
        --*spare;
    for (uint64_t first = 1; first <= ROWS; first += 10)
        written(c, s.members[0], first, 10, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 1000 * MS);
    return c;
}

static void give(struct cluster *c, uint64_t from, uint64_t to)
{
    const struct vshard_node_admin a = {
        .op = VSHARD_ADMIN_REPLACE, .group = 1, .node = from, .to = to
    };

    cr_assert_eq(administer(c, from, a), VSHARD_OK);
}

/* What is at hand is nothing at first, and no answer. */
Test(node_newcomer, answers_nothing_before_it_has_something)
{
    uint64_t spare, leader;
    struct cluster *c = prepare(3, &spare);
    struct vshard_shard_status s = look(c, spare);
    struct vshard_node_search q = { .timeout_ns = 400 * MS };

    leader = cluster_leader(c, "words", 0);
    for (int i = 0; i < TIMES; i++) /* it learns how long answers from elsewhere take */
        cr_assert_eq(search(c, spare, 7, 5, &q)->hit_count, 3u);
    c->node[leader].slow_ns = 60 * MS;
    cluster_run(c, 500 * MS);
    give(c, s.members[0] != leader ? s.members[0] : s.members[1], spare);
    for (int i = 0; i < TIMES; i++) {
        struct cluster_answer *a = search(c, spare, 7, 5, &q);

        cr_assert_eq(a->status, VSHARD_OK);
        cr_assert_eq(a->hit_count, 3u, "search %d: %d shards of %d rows", i,
                     (int)a->shards_answered, (int)a->rows);
        cluster_run(c, 5 * MS);
    }
    c->node[leader].slow_ns = 0;
    cluster_run(c, 5000 * MS);
    cr_expect_eq(look(c, spare).here, 1u);
    cr_expect_eq(look(c, spare).rows, (uint64_t)ROWS);
    cluster_destroy(c);
}

static void hold_disk(struct cluster_node *n)
{
    fault_storage_defer(n->disk, 1);
    n->disk_at = UINT64_MAX;
}

static void let_go(struct cluster_node *n)
{
    fault_storage_defer(n->disk, 0);
    fault_storage_drain(n->disk);
    n->disk_at = 0;
}

static void expect_written(struct cluster *c, uint64_t at, uint64_t salt)
{
    const struct vshard_node_write more = { .timeout_ns = 2000 * MS };

    for (uint64_t i = 0; i < 20; i++) {
        uint64_t tag = write_rows(c, at, 1, ROWS, salt + i, &more);
        struct cluster_answer *a = cluster_wait(c, tag, 3000 * MS);

        cr_assert_not_null(a);
        cr_assert_eq(a->status, VSHARD_OK, "write %d: %s", (int)i, vshard_strerror(a->status));
        cluster_run(c, 50 * MS);
    }
}

Test(node_newcomer, is_waited_for_by_no_write)
{
    for (uint32_t replicas = 1; replicas <= 3; replicas++) {
        uint64_t spare, other = 1;
        struct cluster *c = prepare(replicas, &spare);
        struct vshard_shard_status s = look(c, 1);

        while (is_member(&s, other) || other == spare)
            other++;
        other = replicas == 3 ? s.members[0] : other;
        hold_disk(&c->node[spare]);
        give(c, s.members[0], spare);
        expect_written(c, other, 100);
        let_go(&c->node[spare]);
        cluster_run(c, 8000 * MS);
        s = look(c, spare);
        cr_expect(is_member(&s, spare) && s.here == 1);
        cr_expect_eq(s.rows, (uint64_t)ROWS);
        expect_rows(c, spare, 1, ROWS, 119);
        cluster_destroy(c);
    }
}

Test(node_newcomer, is_waited_for_by_no_write_when_there_shall_be_more)
{
    uint64_t spare;
    struct cluster *c = prepare(1, &spare);
    const struct vshard_collection two = { .size = sizeof two, .name = "words", .replicas = 2 };
    const struct vshard_node_admin a = { .op = VSHARD_ADMIN_ALTER, .collection = &two };
    uint64_t first = look(c, 1).members[0], held = 0;
    struct vshard_shard_status s;

    for (uint64_t id = 1; id <= 5; id++) /* with two of five the map goes on */
        held = id != first && held == 0 ? id : held;
    hold_disk(&c->node[held]);
    cr_assert_eq(administer(c, first, a), VSHARD_OK);
    expect_written(c, first, 100);
    s = look(c, first);
    cr_expect_eq(s.member_count, 2u);
    cr_expect(is_member(&s, held), "another was chosen");
    let_go(&c->node[held]);
    cluster_run(c, 8000 * MS);
    cr_expect_eq(look(c, held).rows, (uint64_t)ROWS);
    cluster_kill(c, first);
    cluster_destroy(c);
}
