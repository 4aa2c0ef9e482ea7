/* node_recover.c - most replicas are lost for good, and an operator says so.
 *
 * Method: of five nodes three die with their disks. What the two others know is compared, as
 * an operator would, and each group that has lost its quorum is recovered at the better one.
 * Then all rows must be there, new nodes must get what the lost ones had, and one of the two
 * must be able to die as well. What a survivor did not have must be said to be lost, and a
 * session that has seen it must be told. Lost nodes are shown as such, and can be removed where
 * there is no other; that none harms who comes back as it was, tests/cluster_sim/10 tells. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 200, SHARDS = 4 };

struct disaster {
    struct cluster *c;
    uint64_t alive[2], lost[3];
    uint32_t epoch;
};

static struct vshard_shard_status shard_at(struct disaster *d, uint64_t at, uint32_t shard)
{
    struct vshard_shard_status all[SHARDS];
    size_t count;

    cr_assert_eq(vshard_node_shards(d->c->node[at].node, "words", all, SHARDS, &count), VSHARD_OK);
    return all[shard];
}

static struct vshard_node_admin recovery(struct disaster *d, uint64_t group)
{
    return (struct vshard_node_admin){ .op = VSHARD_ADMIN_RECOVER,
                                       .group = group,
                                       .lost = d->lost,
                                       .lost_count = 3,
                                       .epoch = ++d->epoch,
                                       .name = "three disks burned" };
}

static uint64_t recover_map(struct disaster *d)
{
    struct vshard_node_status s[2] = { { .size = sizeof *s }, { .size = sizeof *s } };
    struct vshard_node_admin a = recovery(d, 0);
    uint32_t best;

    for (int i = 0; i < 2; i++)
        vshard_node_status(d->c->node[d->alive[i]].node, &s[i]);
    best = s[1].map_last_term > s[0].map_last_term ||
           (s[1].map_last_term == s[0].map_last_term && s[1].map_last > s[0].map_last);
    a.last = s[best].map_last;
    a.last_term = s[best].map_last_term;
    cr_assert_eq(administer(d->c, d->alive[best], a), VSHARD_OK);
    return d->alive[best];
}

/* Returns what administer() does; EEXIST: there is no need. */
static int recover_shard(struct disaster *d, uint32_t shard, uint64_t *at)
{
    struct vshard_shard_status s[2];
    struct vshard_node_admin a;
    uint32_t best;

    for (int i = 0; i < 2; i++)
        s[i] = shard_at(d, d->alive[i], shard);
    best = s[0].here == 0 ||
           (s[1].here != 0 && (s[1].last_term > s[0].last_term ||
                               (s[1].last_term == s[0].last_term && s[1].last > s[0].last)));
    cr_assert_eq(s[best].here, 1u, "nobody has shard %u", shard);
    a = recovery(d, s[best].group);
    a.last = s[best].last;
    a.last_term = s[best].last_term;
    *at = d->alive[best];
    return administer(d->c, *at, a);
}

static bool has(const struct vshard_shard_status *s, uint64_t node)
{
    for (uint32_t i = 0; i < s->member_count; i++) {
        if (s->members[i] == node)
            return true;
    }
    return false;
}

/* Two nodes of which each shard has one, and the three others. */
static void choose(struct disaster *d)
{
    for (uint64_t pair = 0; pair < 25; pair++) {
        uint64_t a = pair / 5 + 1, b = pair % 5 + 1;
        uint32_t covered = 0, lost = 0;

        for (uint32_t i = 0; i < SHARDS && a < b; i++) {
            struct vshard_shard_status s = shard_at(d, 1, i);

            covered += has(&s, a) || has(&s, b);
        }
        if (covered != SHARDS)
            continue;
        d->alive[0] = a;
        d->alive[1] = b;
        for (uint64_t id = 1; id <= 5; id++) {
            if (id != a && id != b)
                d->lost[lost++] = id;
        }
        return;
    }
    cr_assert(false, "no two nodes have a replica of each shard");
}

static struct disaster prepare(void)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct disaster d = { .c = with_words(5, 8, SHARDS, 3, &o) };

    written(d.c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(d.c, 1000 * MS);
    choose(&d);
    return d;
}

static void strike(struct disaster *d)
{
    for (int i = 0; i < 3; i++)
        cluster_kill(d->c, d->lost[i]);
    cluster_run(d->c, 3000 * MS);
}

static void recover_all(struct disaster *d)
{
    uint64_t at;

    recover_map(d);
    for (uint32_t i = 0; i < SHARDS; i++) {
        int rc = recover_shard(d, i, &at);

        cr_assert(rc == VSHARD_OK || rc == VSHARD_EEXIST, "shard %u: %s", i, vshard_strerror(rc));
    }
    for (int i = 0; i < 3; i++)
        cr_assert_eq(administer(d->c, d->alive[0],
                                (struct vshard_node_admin){ .op = VSHARD_ADMIN_REMOVE_NODE,
                                                            .node = d->lost[i] }),
                     VSHARD_OK);
    cluster_run(d->c, 2000 * MS);
}

Test(node_recover, goes_on_from_two_nodes_of_five_and_gives_new_ones_what_is_missing)
{
    struct disaster d = prepare();

    strike(&d);
    recover_all(&d);
    written(d.c, d.alive[1], 1, ROWS / 2, 6, 0);
    expect_rows(d.c, d.alive[0], 1, ROWS / 2, 6);
    expect_rows(d.c, d.alive[1], ROWS / 2 + 1, ROWS / 2, 5);
    for (uint64_t id = 6; id <= 8; id++) {
        cluster_join(d.c, id, d.alive[id % 2]);
        cr_assert_not_null(cluster_wait(d.c, 4000 + id, 10000 * MS));
        cr_expect_eq(d.c->answer[4000 + id].status, VSHARD_OK);
    }
    cluster_run(d.c, 15000 * MS);
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct vshard_shard_status s = shard_at(&d, 7, i);

        cr_expect_eq(s.member_count, 3u);
        for (int k = 0; k < 3; k++)
            cr_expect(!has(&s, d.lost[k]), "shard %u still names node %d", i, (int)d.lost[k]);
    }
    cluster_kill(d.c, d.alive[0]);
    cluster_run(d.c, 2000 * MS);
    expect_rows(d.c, 7, 1, ROWS / 2, 6);
    expect_rows(d.c, 7, ROWS / 2 + 1, ROWS / 2, 5);
    cluster_destroy(d.c);
}

Test(node_recover, is_as_durable_as_any_write)
{
    struct disaster d = prepare();

    strike(&d);
    recover_all(&d);
    for (int i = 0; i < 2; i++) {
        cluster_kill(d.c, d.alive[i]);
        cr_assert_eq(cluster_start(d.c, d.alive[i]), VSHARD_OK);
    }
    cluster_run(d.c, 3000 * MS);
    written(d.c, d.alive[1], 1, ROWS / 2, 6, 0);
    expect_rows(d.c, d.alive[0], 1, ROWS / 2, 6);
    expect_rows(d.c, d.alive[1], ROWS / 2 + 1, ROWS / 2, 5);
    cluster_destroy(d.c);
}

/* Those of the rows that the three can write without the others; the highest position of each
 * shard that they told. */
static uint32_t write_without(struct disaster *d, struct vshard_position *seen, uint32_t *shards)
{
    const struct vshard_node_write more = { .timeout_ns = 1500 * MS };
    uint64_t tag[ROWS + 1];
    uint32_t count = 0;

    for (uint64_t key = 1; key <= ROWS; key++)
        tag[key] = write_rows(d->c, d->lost[0], key, 1, 9, &more);
    cluster_run(d->c, 3000 * MS);
    for (uint64_t key = 1; key <= ROWS; key++) {
        const struct cluster_answer *a = cluster_wait(d->c, tag[key], 1 * MS);
        uint32_t i = 0;

        cr_assert_not_null(a);
        if (a->status != VSHARD_OK)
            continue;
        count++;
        while (i < *shards && seen[i].group != a->positions[0].group)
            i++;
        *shards += i == *shards;
        if (seen[i].index < a->positions[0].index)
            seen[i] = a->positions[0];
    }
    return count;
}

Test(node_recover, says_what_is_lost_and_tells_a_session_that_saw_it)
{
    struct disaster d = prepare();
    struct vshard_position seen[SHARDS] = { { 0, 0, 0, 0 } };
    struct vshard_node_fetch session = { .consistency = VSHARD_READ_POSITIONS,
                                         .timeout_ns = 500 * MS,
                                         .positions = seen };
    uint32_t acknowledged, stale = 0;

    for (int i = 0; i < 2; i++)
        d.c->node[d.alive[i]].side = 1;
    cluster_run(d.c, 2000 * MS);
    acknowledged = write_without(&d, seen, &session.position_count);
    cr_assert_gt(acknowledged, 0u);
    strike(&d);
    recover_all(&d);
    for (uint64_t key = 1; key <= ROWS; key++) {
        int status = fetch(d.c, d.alive[0], key, &session)->status;

        cr_expect(status == VSHARD_OK || status == VSHARD_ESTALE, "%s", vshard_strerror(status));
        stale += status == VSHARD_ESTALE;
    }
    cr_expect_eq(stale, acknowledged);
    expect_rows(d.c, d.alive[0], 1, ROWS, 5);
    cluster_destroy(d.c);
}

Test(node_recover, refuses_what_is_incomplete_or_contradicted)
{
    struct disaster d = prepare();
    struct vshard_node_status s = { .size = sizeof s };
    struct vshard_node_admin good, bad;
    uint64_t at = d.alive[0], self = d.alive[0];

    vshard_node_status(d.c->node[at].node, &s);
    good = recovery(&d, 0);
    good.last = s.map_last;
    good.last_term = s.map_last_term;
    cr_expect_eq(administer(d.c, at, good), VSHARD_EBUSY, "they are alive");
    strike(&d);
    vshard_node_status(d.c->node[at].node, &s);
    good.last = s.map_last;
    good.last_term = s.map_last_term;
    bad = good, bad.name = NULL;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.lost_count = 0;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.lost = NULL;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.lost_count = 17;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.lost = &self, bad.lost_count = 1;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.lost_count = 1;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EEXIST);
    bad = good, bad.epoch = 0;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.epoch = 32768;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_EINVAL);
    bad = good, bad.last++;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_ESTALE);
    bad = good, bad.last_term++;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_ESTALE);
    bad = good, bad.group = 999;
    cr_expect_eq(administer(d.c, at, bad), VSHARD_ENOTFOUND);
    cr_expect_eq(administer(d.c, at, good), VSHARD_OK);
    vshard_node_status(d.c->node[at].node, &s);
    cr_expect_eq(s.map_epoch, good.epoch);
    cr_expect_eq(administer(d.c, at, good), VSHARD_EEXIST, "it has been done");
    cluster_destroy(d.c);
}

/* ---- what was given up, and is still there ---- */

static const struct vshard_peer_status *peer_at(struct cluster *c, uint64_t at, uint64_t node)
{
    static struct vshard_peer_status all[VSHARD_NODES_MAX];
    size_t count;

    cr_assert_eq(vshard_node_peers(c->node[at].node, all, VSHARD_NODES_MAX, &count), VSHARD_OK);
    for (size_t i = 0; i < count; i++) {
        if (all[i].node == node)
            return &all[i];
    }
    return NULL;
}

Test(node_recover, says_who_is_lost)
{
    struct disaster d = prepare();
    const struct vshard_peer_status *p;
    size_t count = 0;

    strike(&d);
    p = peer_at(d.c, d.alive[0], d.lost[0]);
    cr_expect_eq(p->flags & (VSHARD_PEER_ALIVE | VSHARD_PEER_LOST), 0u, "down, and counted");
    cr_expect_geq(p->silence_ns, 2500 * MS);
    recover_map(&d);
    cluster_run(d.c, 1000 * MS);
    for (int i = 0; i < 2; i++) {
        p = peer_at(d.c, d.alive[i], d.lost[1]);
        cr_expect_eq(p->flags, (uint32_t)VSHARD_PEER_LOST);
        cr_expect_gt(p->replicas, 0u);
        p = peer_at(d.c, d.alive[i], d.alive[i]);
        cr_expect_eq(p->flags, (uint32_t)(VSHARD_PEER_ALIVE | VSHARD_PEER_VOTES));
        cr_expect_eq(p->silence_ns, 0);
    }
    cr_expect_eq(vshard_node_peers(d.c->node[d.alive[0]].node, NULL, 0, &count), VSHARD_E2BIG);
    cr_expect_eq(count, 5u);
    cr_expect_eq(vshard_node_peers(d.c->node[d.alive[0]].node, NULL, 1, &count), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_peers(d.c->node[d.alive[0]].node, NULL, 0, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_peers(NULL, NULL, 0, &count), VSHARD_EINVAL);
    cluster_destroy(d.c);
}

Test(node_recover, removes_the_lost_where_nobody_can_take_what_they_had)
{
    struct disaster d = prepare();

    strike(&d);
    recover_all(&d);
    cluster_run(d.c, 5000 * MS);
    for (int i = 0; i < 3; i++)
        cr_expect_null(peer_at(d.c, d.alive[1], d.lost[i]), "node %d", (int)d.lost[i]);
    for (uint32_t i = 0; i < SHARDS; i++)
        cr_expect_eq(shard_at(&d, d.alive[0], i).member_count, 2u, "shard %u", i);
    expect_rows(d.c, d.alive[0], 1, ROWS, 5);
    cluster_destroy(d.c);
}

/* One that answers keeps what nobody else can take. */
Test(node_recover, gives_up_no_replica_that_is_there)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    struct disaster d = { .c = c };
    const struct vshard_node_admin leave = { .op = VSHARD_ADMIN_REMOVE_NODE, .node = 3 };

    cr_assert_eq(administer(c, 1, leave), VSHARD_OK);
    cluster_run(c, 5000 * MS);
    cr_expect_eq(shard_at(&d, 1, 0).member_count, 3u);
    cr_expect_eq(peer_at(c, 1, 3)->flags & VSHARD_PEER_LEAVES, (uint32_t)VSHARD_PEER_LEAVES);
    cluster_kill(c, 3);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(shard_at(&d, 1, 0).member_count, 2u);
    cr_expect_null(peer_at(c, 1, 3));
    cluster_destroy(c);
}

static uint64_t created(struct vs_cluster *m, uint64_t index, const char *name)
{
    static const uint64_t nodes[2] = { 1, 1 };
    const struct vshard_collection c = {
        .size = sizeof c, .dim = 4, .shards = 2, .replicas = 1, .name = name
    };
    struct vs_out o = { .allocator = NULL };

    vs_cmd_create(&o, &c, nodes);
    cr_assert_eq(vs_cluster_apply(m, index, o.at, o.count), VSHARD_OK);
    cr_assert_eq(m->result[index % VS_RESULTS].status, VSHARD_OK);
    vs_out_free(&o);
    return vs_cluster_find(m, name)->shard[0].group;
}

Test(node_recover, numbers_groups_apart_from_those_of_an_epoch_that_was_given_up)
{
    static struct vs_cluster m;
    struct vs_out o = { .allocator = NULL };

    vs_cluster_init(&m, NULL, NULL);
    vs_cmd_node(&o, 1, 1, 0, VS_LEVEL);
    cr_assert_eq(vs_cluster_apply(&m, 1, o.at, o.count), VSHARD_OK);
    vs_out_free(&o);
    cr_expect_eq(created(&m, 2, "a"), 1);
    vs_cluster_epoch(&m, 0);
    cr_expect_eq(created(&m, 3, "b"), 3);
    vs_cluster_epoch(&m, 2);
    cr_expect_eq(created(&m, 4, "c"), UINT64_C(2) << 32);
    vs_cluster_epoch(&m, 2);
    cr_expect_eq(created(&m, 5, "d"), (UINT64_C(2) << 32) + 2);
    cr_expect_not_null(vs_cluster_group(&m, 2, NULL));
    cr_expect_null(vs_cluster_group(&m, 5, NULL));
    cr_expect_not_null(vs_cluster_group(&m, (UINT64_C(2) << 32) + 3, NULL));
    vs_cluster_fini(&m);
}

/* ---- what came of entries that are void ---- */

/* Of three nodes, 2 and 3 write on while 1 is cut off, which is then the beginning of an epoch. */
static struct disaster part_ways(uint64_t more, const struct vshard_node_options *o)
{
    struct disaster d = { .c = with_words(3, 3, 1, 3, o), .alive = { 1, 1 }, .lost = { 2, 3 } };
    uint64_t at;

    written(d.c, 2, 1, 20, 5, VSHARD_WRITE_APPLIED);
    cluster_run(d.c, 1000 * MS);
    d.c->node[1].side = 1;
    cluster_run(d.c, 2000 * MS);
    for (uint64_t i = 0; i < more; i++)
        written(d.c, 2, 1, 1, 6, VSHARD_WRITE_APPLIED);
    cluster_run(d.c, 3000 * MS);
    d.lost[2] = 9;
    recover_map(&d);
    cr_assert_eq(recover_shard(&d, 0, &at), VSHARD_OK);
    return d;
}

/* Those who were given up are there again, as they were, and stood where this one stands. */
Test(node_recover, takes_no_digest_of_what_is_void_for_its_own)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS };
    struct disaster d = part_ways(20, &o);
    struct vshard_shard_status theirs = shard_at(&d, 2, 0), s = shard_at(&d, 1, 0);

    for (int i = 0; i < 50 && s.committed < theirs.digest_index; i++) {
        written(d.c, 1, 1, 1, 7, 0);
        s = shard_at(&d, 1, 0);
    }
    cluster_run(d.c, 3000 * MS);
    s = shard_at(&d, 1, 0);
    cr_assert_eq(s.digest_index, theirs.digest_index);
    cr_assert_neq(s.digest, theirs.digest);
    d.c->node[1].side = 0;
    cluster_run(d.c, 4000 * MS);
    cr_expect_eq(shard_at(&d, 1, 0).here, 1u);
    cr_expect_eq(vs_replica_find(d.c->node[1].node, s.group)->refills, 0u);
    expect_rows(d.c, 1, 2, 19, 5);
    expect_rows(d.c, 1, 1, 1, 7);
    cluster_destroy(d.c);
}

/* A node that was given up has kept an answer. */
Test(node_recover, makes_answers_void_that_were_kept)
{
    struct vshard_node_options o = { .replace_ns = 3600000 * MS, .cache_bytes = 1 << 20 };
    struct disaster d = part_ways(20, &o);
    struct vshard_node *n = d.c->node[2].node;
    const struct cluster_answer *a = search(d.c, 2, 1, 6, NULL);

    cr_assert_eq(a->hits[0].key.lo, (uint64_t)1);
    cr_assert_lt(a->hits[0].distance, 1e-6f);
    d.c->node[1].side = 0;
    cluster_run(d.c, 2000 * MS);
    cr_assert_lt(shard_at(&d, 1, 0).committed, a->positions[0].index);
    a = search(d.c, 2, 1, 6, NULL);
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_expect_eq(n->cache.answers, (uint64_t)0);
    cr_expect_eq(a->positions[0].epoch, 2u);
    cr_expect_gt(a->hits[0].distance, 1e-6f);
    cluster_destroy(d.c);
}
