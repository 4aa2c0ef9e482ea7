/* node_cache.c - answers that are kept: given again to who asks the same, and not when they
 * may not be.
 *
 * Method: one question asked again and again at one node; its status counts which answers came
 * from the cache, and each is compared with what is there. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 60 };

static struct vshard_node_status status_of(struct cluster *c, uint64_t at)
{
    struct vshard_node_status s = { .size = sizeof s };

    cr_assert_eq(vshard_node_status(c->node[at].node, &s), VSHARD_OK);
    return s;
}

static struct cluster *with_cache(uint64_t bytes)
{
    struct vshard_node_options o = { .cache_bytes = bytes };
    struct cluster *c = with_words(3, 3, 2, 3, &o);

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    cluster_run(c, 2000 * MS); /* all have applied it, and heard so of the others */
    return c;
}

/* Whether the answer came from the cache. */
static bool kept(struct cluster *c, const struct vshard_node_search *more, uint64_t nearest)
{
    uint64_t before = status_of(c, 2).cache_answers;
    struct cluster_answer *a = search(c, 2, 7, 5, more);

    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cr_assert_eq(a->shards_answered, 2u);
    cr_assert_eq(a->position_count, 2u);
    cr_assert_eq(a->hits[0].key.lo, nearest);
    return status_of(c, 2).cache_answers != before;
}

Test(node_cache, answers_again_until_something_newer_was_applied)
{
    struct cluster *c = with_cache(65536);
    struct cluster_answer *first, *again;

    first = search(c, 2, 7, 5, NULL);
    cr_assert_eq(status_of(c, 2).cache_answers, (uint64_t)0);
    again = search(c, 2, 7, 5, NULL);
    cr_assert_eq(status_of(c, 2).cache_answers, (uint64_t)1);
    cr_assert_eq(again->hit_count, first->hit_count);
    cr_expect_arr_eq(again->hits, first->hits, first->hit_count * sizeof *first->hits);
    cr_expect_eq(again->rows, first->rows);
    cr_expect(again->distances == 0 && first->distances != 0);
    written(c, 1, 7, 1, 0, VSHARD_WRITE_REMOVE);
    cluster_run(c, 500 * MS);
    again = search(c, 2, 7, 5, NULL);
    cr_expect_eq(status_of(c, 2).cache_answers, (uint64_t)1);
    cr_expect_neq(again->hits[0].key.lo, (uint64_t)7);
    cluster_destroy(c);
}

Test(node_cache, keeps_to_the_consistency_that_is_asked_for)
{
    struct cluster *c = with_cache(65536);
    struct vshard_node_search any = { .timeout_ns = 1000 * MS };
    struct vshard_node_search linearizable = { .timeout_ns = 1000 * MS,
                                               .consistency = VSHARD_READ_LINEARIZABLE };
    struct vshard_node_search bounded = { .timeout_ns = 1000 * MS,
                                          .consistency = VSHARD_READ_BOUNDED,
                                          .max_staleness_ns = 300 * MS };
    struct vshard_position positions[2];
    struct vshard_node_search session = { .timeout_ns = 1000 * MS,
                                          .consistency = VSHARD_READ_POSITIONS,
                                          .positions = positions,
                                          .position_count = 2 };

    cr_expect(!kept(c, &any, 7));
    cr_expect(!kept(c, &bounded, 7), "nobody knows how old that answer was");
    cr_expect(!kept(c, &linearizable, 7));
    cr_expect(!kept(c, &linearizable, 7), "that one is never given");
    cr_expect(kept(c, &bounded, 7), "it was current a moment ago");
    cluster_run(c, 400 * MS);
    cr_expect(!kept(c, &bounded, 7), "not any more");
    cr_expect(kept(c, &any, 7));
    memcpy(positions, search(c, 2, 7, 5, &linearizable)->positions, sizeof positions);
    cr_expect(kept(c, &session, 7));
    positions[1].index--;
    cr_expect(kept(c, &session, 7), "it reflects more than that");
    positions[0].group = 77; /* of another collection */
    cr_expect(kept(c, &session, 7));
    cluster_destroy(c);
}

/* Somebody has written, and this node has not heard yet that a replica has applied it. */
Test(node_cache, reflects_the_positions_that_are_named_beside_a_bound_of_age)
{
    struct cluster *c = with_cache(65536);
    struct vshard_node_search linearizable = { .timeout_ns = 1000 * MS,
                                               .consistency = VSHARD_READ_LINEARIZABLE };
    struct vshard_position positions[2];
    struct vshard_node_search bounded = { .timeout_ns = 50 * MS,
                                          .consistency = VSHARD_READ_BOUNDED,
                                          .max_staleness_ns = 300 * MS,
                                          .positions = positions,
                                          .position_count = 2 };

    memcpy(positions, search(c, 2, 7, 5, &linearizable)->positions, sizeof positions);
    cr_expect(kept(c, &bounded, 7));
    positions[1].index++;
    cr_expect_eq(search(c, 2, 7, 5, &bounded)->shards_answered, 1u);
    cluster_destroy(c);
}

Test(node_cache, takes_no_other_question_for_the_same)
{
    struct cluster *c = with_cache(65536);
    const unsigned char where[] = { 1, VSHARD_WHERE_MISSING, VSHARD_ATTRIBUTE_KEYWORD, 2 };
    const struct vshard_node_search asked[] = {
        { .timeout_ns = 1000 * MS },
        { .timeout_ns = 1000 * MS, .k = 4 },
        { .timeout_ns = 1000 * MS, .ef_search = 50 },
        { .timeout_ns = 1000 * MS, .flags = VSHARD_NODE_EXACT },
        { .timeout_ns = 1000 * MS, .where = where, .where_bytes = sizeof where },
    };

    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
            cr_expect_eq(kept(c, &asked[i], 7), round == 1, "%zu", i);
    }
    cluster_destroy(c);
}

Test(node_cache, holds_what_was_used_last_and_no_more_bytes)
{
    struct cluster *c = with_cache(1500);
    struct vshard_node_status s;

    for (uint64_t key = 1; key <= ROWS; key++) {
        search(c, 2, key, 5, NULL);
        search(c, 2, 1, 5, NULL);
        s = status_of(c, 2);
        cr_assert(s.cache_bytes > 0 && s.cache_bytes <= 1500);
    }
    cr_expect_eq(s.cache_answers, (uint64_t)ROWS, "the first is asked for all the time");
    search(c, 2, 2, 5, NULL);
    cr_expect_eq(status_of(c, 2).cache_answers, (uint64_t)ROWS, "the second is gone by then");
    cluster_destroy(c);
}

/* So that chains are short: bench/cluster_query.c has what long ones cost. */
Test(node_cache, has_a_bucket_for_each_kilobyte_that_it_may_hold)
{
    const struct {
        uint64_t bytes;
        uint32_t buckets;
    } sizes[] = { { 0, 0 },
                  { 1, 64 },
                  { 65536, 64 },
                  { 65537, 128 },
                  { 1 << 30, 1 << 20 },
                  { UINT64_MAX, 1 << 22 } };

    for (size_t i = 0; i < VS_COUNT(sizes); i++) {
        struct vshard_node_options o = { .cache_bytes = sizes[i].bytes };
        struct cluster *c = cluster_create(1, 1, 1, &o);

        cr_expect_eq(c->node[1].node->cache.bucket_count, sizes[i].buckets, "%zu", i);
        cluster_destroy(c);
    }
}

Test(node_cache, is_off_unless_it_has_room)
{
    struct cluster *c = with_cache(0);
    struct vshard_node_status s;

    search(c, 2, 7, 5, NULL);
    search(c, 2, 7, 5, NULL);
    s = status_of(c, 2);
    cr_expect(s.cache_answers == 0 && s.cache_misses == 0 && s.cache_bytes == 0);
    cluster_destroy(c);
}
