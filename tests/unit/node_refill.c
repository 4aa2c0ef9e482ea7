/* node_refill.c - a replica whose state has gone wrong is found by its digest, answers
 * nothing, and makes its state again.
 *
 * Method: a batch that is in no log is applied to the shard of a follower, as a fault of
 * memory would change it. The replicas must agree again, by the digests they name; where a
 * snapshot has taken the fault in, the replica must halt, and say so. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 60 };

static void spoil(struct cluster *c, uint64_t id)
{
    struct vs_replica *r = vs_replica_find(c->node[id].node, 1);
    const struct vshard_key key = { 0, 7 };
    float vector[DIM] = { 9 };
    const struct vs_batch_source s = { .kind = VS_BATCH_ADD,
                                       .count = 1,
                                       .vector_bytes = sizeof vector,
                                       .attribute_count = WORDS_ATTRIBUTES,
                                       .attributes = words_attributes,
                                       .keys = &key,
                                       .vectors = vector };
    size_t bytes = vs_batch_bytes(&s);
    void *entry = malloc(bytes);
    uint32_t row = 0;

    vs_batch_encode(&s, entry);
    cr_assert_eq(vs_shard_apply(r->shard, atomic_load(&r->applied), entry, bytes, &row), VSHARD_OK);
    free(entry);
}

static struct vshard_shard_status look(struct cluster *c, uint64_t id)
{
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[id].node, "words", &s, 1, &count), VSHARD_OK);
    return s;
}

/* A write, and a while in which nothing is written. */
static void rest(struct cluster *c, uint64_t salt)
{
    written(c, 1, 1, 5, salt, 0);
    cluster_run(c, 4000 * MS);
}

Test(node_refill, brings_back_who_has_diverged)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t leader, bad;

    written(c, 1, 1, ROWS, 5, 0);
    cluster_run(c, 300 * MS);
    leader = cluster_leader(c, "words", 0);
    bad = leader % 3 + 1;
    spoil(c, bad);
    rest(c, 6);
    rest(c, 7);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(look(c, id).here, 1u, "node %d", (int)id);
        cr_expect_eq(look(c, id).digest, look(c, leader).digest, "node %d", (int)id);
        cr_expect_eq(look(c, id).digest_index, look(c, leader).digest_index);
    }
    cr_expect_eq(vs_replica_find(c->node[bad].node, 1)->refills, 1u);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != bad)
            cr_expect_eq(vs_replica_find(c->node[id].node, 1)->refills, 0u, "node %d", (int)id);
    }
    cluster_destroy(c);
}

/* Whoever has agreed with the others since has a fault of its own each time. */
Test(node_refill, brings_back_who_diverges_again_later)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    uint64_t bad;

    written(c, 1, 1, ROWS, 5, 0);
    cluster_run(c, 300 * MS);
    bad = cluster_leader(c, "words", 0) % 3 + 1;
    for (uint32_t fault = 1; fault <= 3; fault++) {
        spoil(c, bad);
        rest(c, 6);
        rest(c, 7);
        rest(c, 8);
        cr_expect_eq(look(c, bad).here, 1u, "fault %u", fault);
        cr_expect_eq(vs_replica_find(c->node[bad].node, 1)->refills, fault);
    }
    for (uint64_t id = 1; id <= 3; id++)
        cr_expect_eq(look(c, id).digest, look(c, bad).digest, "node %d", (int)id);
    cluster_destroy(c);
}

/* Of two nobody can tell by the digests which is wrong, and it may be the one that leads. */
Test(node_refill, of_one_of_two_is_of_who_is_wrong)
{
    for (int leads = 0; leads < 2; leads++) {
        struct vshard_node_options o = { .replace_ns = UINT64_MAX };
        struct cluster *c = with_words(3, 3, 1, 2, &o);
        struct vshard_shard_status s = look(c, 1);
        uint64_t leader = cluster_leader(c, "words", 0);
        uint64_t other = s.members[0] != leader ? s.members[0] : s.members[1];
        float right[DIM];

        written(c, 1, 1, ROWS, 5, 0);
        cluster_run(c, 300 * MS);
        spoil(c, leads ? leader : other);
        rest(c, 6);
        rest(c, 7);
        rest(c, 8);
        vector_of(right, 7, 5);
        for (int i = 0; i < 2; i++) {
            const struct vs_replica *r = vs_replica_find(c->node[s.members[i]].node, 1);
            const struct vshard_node_fetch any = { .timeout_ns = 1000 * MS };

            cr_expect_eq(look(c, s.members[i]).here, 1u);
            cr_expect_eq(look(c, s.members[i]).digest, look(c, leader).digest);
            cr_expect_eq(r->unproven, 0u);
            cr_expect_arr_eq(fetch(c, s.members[i], 7, &any)->vector, right, sizeof right);
        }
        cluster_destroy(c);
    }
}

/* It differs still when both have made their states again. */
Test(node_refill, of_one_of_two_halts_who_does_not_lead_in_the_end)
{
    struct vshard_node_options o = { .snapshot_bytes = 3000, .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 1, 2, &o);
    struct vshard_shard_status s = look(c, 1);
    uint64_t leader = cluster_leader(c, "words", 0);
    uint64_t bad = s.members[0] != leader ? s.members[0] : s.members[1];

    written(c, 1, 1, ROWS, 5, 0);
    cluster_run(c, 300 * MS);
    spoil(c, bad);
    for (uint64_t i = 0; i < 6; i++)
        written(c, 1, 100 + i, 30, i, 0);
    for (uint64_t i = 0; i < 6; i++)
        rest(c, 6 + i);
    cr_expect_eq(look(c, bad).here, 2u);
    cr_expect_eq(look(c, leader).here, 1u);
    cr_expect_eq(cluster_leader(c, "words", 0), leader);
    cr_expect_eq(search(c, leader, 1, 8, NULL)->status, VSHARD_OK);
    cluster_destroy(c);
}

Test(node_refill, halts_a_replica_whose_snapshot_is_wrong_as_well)
{
    struct vshard_node_options o = { .snapshot_bytes = 3000 };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t bad;

    written(c, 1, 1, ROWS, 5, 0);
    cluster_run(c, 300 * MS);
    bad = cluster_leader(c, "words", 0) % 3 + 1;
    spoil(c, bad);
    for (uint64_t i = 0; i < 6; i++)
        written(c, 1, 100 + i, 30, i, 0);
    rest(c, 6);
    rest(c, 7);
    rest(c, 8);
    cr_expect_eq(look(c, bad).here, 2u);
    for (uint64_t id = 1; id <= 3; id++)
        cr_expect_eq(search(c, id, 1, 8, NULL)->status, VSHARD_OK);
    cluster_destroy(c);
}

/* A snapshot came, and nothing behind it: all that there is stands in it. */
Test(node_refill, of_who_has_just_had_a_snapshot_from_another)
{
    struct vshard_node_options o = { .snapshot_bytes = 3000, .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t bad = cluster_leader(c, "words", 0) % 3 + 1, other = bad % 3 + 1;
    const struct vs_replica *r;

    cluster_kill(c, bad);
    for (uint64_t i = 0; i < 6; i++)
        written(c, other, 1, ROWS, 5 + i, 0);
    cluster_run(c, 3000 * MS);
    cr_assert_eq(cluster_start(c, bad), VSHARD_OK);
    cluster_run(c, 500 * MS);
    r = vs_replica_find(c->node[bad].node, 1);
    cr_assert_eq(atomic_load(&r->applied), r->snapshot_index, "no snapshot came");
    cr_assert_eq(look(c, bad).last, r->snapshot_index, "there is more than the snapshot");
    spoil(c, bad);
    cluster_run(c, 6000 * MS);
    cr_expect_eq(look(c, bad).here, 1u);
    cr_expect_eq(r->refills, 1u);
    cr_expect_eq(look(c, bad).digest, look(c, other).digest);
    cluster_destroy(c);
}

static void nobody_works(void *ctx, uint32_t what)
{
    (void)ctx;
    (void)what;
}

/* It is being saved when that is found out. What it saves is wrong, and must not take the place of
 * the snapshot and the log that are right. */
Test(node_refill, does_not_begin_with_what_it_saved_meanwhile)
{
    struct vshard_node_options o = { .snapshot_bytes = 3000, .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t leader = cluster_leader(c, "words", 0), bad = leader % 3 + 1, before;
    struct vshard_node *n = c->node[bad].node;
    struct vs_replica *r = vs_replica_find(n, 1);

    written(c, leader, 1, ROWS, 5, 0);
    cluster_run(c, 1000 * MS);
    before = r->snapshot_index;
    n->host.wake = nobody_works;
    n->o.workers = 1;
    for (int i = 0; i < 2000 && (r->taking_index == 0 || r->snapshot != NULL); i++) {
        if (i % 100 == 0)
            write_rows(c, leader, 1, ROWS, 6, NULL);
        cluster_run(c, MS);
        if (r->taking_index == 0 || r->snapshot != NULL)
            vshard_node_work(n);
    }
    cr_assert_neq(r->taking_index, (uint64_t)0);
    cr_assert_eq(r->snapshot_index, before, "it is saved already");
    spoil(c, bad);
    r->diverged = 1; /* as digests would have it */
    n->o.workers = 0;
    cluster_run(c, 4000 * MS);
    rest(c, 7);
    cr_expect_eq(r->refills, 1u);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(look(c, id).here, 1u, "node %d", (int)id);
        cr_expect_eq(look(c, id).digest, look(c, leader).digest, "node %d", (int)id);
    }
    cluster_destroy(c);
}

/* Whenever its worker is done with something there is something else to do. */
Test(node_refill, does_not_wait_for_a_moment_without_writes)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    struct vshard_node *n;
    struct vs_replica *r;
    uint64_t bad, leader;

    written(c, 1, 1, ROWS, 5, 0);
    cluster_run(c, 300 * MS);
    leader = cluster_leader(c, "words", 0);
    bad = leader % 3 + 1;
    n = c->node[bad].node;
    r = vs_replica_find(n, 1);
    spoil(c, bad);
    n->host.wake = nobody_works;
    n->o.workers = 1;
    for (int ms = 0; ms < 1000; ms++) {
        write_rows(c, leader, 1, 5, 6, NULL);
        cluster_run(c, MS);
        r->diverged |= ms == 200; /* as digests would have it */
        if (ms % 5 == 0)
            vshard_node_work(n);
    }
    cr_expect_eq(r->refills, 1u);
    n->o.workers = 0;
    cluster_run(c, 4000 * MS);
    rest(c, 7);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_eq(look(c, id).here, 1u, "node %d", (int)id);
        cr_expect_eq(look(c, id).digest, look(c, leader).digest, "node %d", (int)id);
    }
    cr_expect(!r->diverged);
    cluster_destroy(c);
}
