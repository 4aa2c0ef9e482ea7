/* node_frames.c - reads and their answers, as a peer that has gone mad would send them.
 *
 * Method: a question with an expression, and the answer to a fetch with values of each type,
 * are handed over behind the seal, at every length and with every byte changed. Nothing may be
 * read that is not there, which a checker of memory sees; the node goes on, and each request
 * ends. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { ROWS = 30 };

static uint64_t group_of(struct cluster *c)
{
    struct vshard_shard_status s;
    size_t count;

    cr_assert_eq(vshard_node_shards(c->node[1].node, "words", &s, 1, &count), VSHARD_OK);
    return s.group;
}

/* A copy that ends where its memory ends. */
static void hand_over(struct vshard_node *n, const struct vs_out *o, size_t count, bool reply)
{
    unsigned char *copy = malloc(count + 1);
    struct vs_in in = { .at = copy + 1, .left = count };

    memcpy(copy + 1, o->at, count);
    if (reply)
        vs_read_reply(n, 2, &in);
    else
        vs_serve_read(n, 2, &in);
    free(copy);
}

static void put_question(struct vs_out *o, struct cluster *c, uint64_t id)
{
    static const unsigned char where[] = { 1,  VSHARD_WHERE_EQ, VSHARD_ATTRIBUTE_KEYWORD, 2, 2, 'w',
                                           '3' };
    const float query[DIM] = { 0 };

    vs_put64(o, group_of(c));
    vs_put64(o, id);
    vs_put32(o, 0);
    vs_put32(o, VS_SERVE_SEARCH);
    vs_put32(o, VSHARD_READ_ANY);
    vs_put32(o, 0);
    vs_put64(o, 0);
    vs_put32(o, 0);
    vs_put_float(o, 1e30f);
    vs_put64(o, 100 * MS);
    vs_put32(o, 3);
    vs_put32(o, 0);
    vs_put64(o, 0);
    vs_put_key(o, (struct vshard_key){ 0, 0 });
    vs_put32(o, 10);
    vs_put_float(o, 0);
    vs_put32(o, sizeof where);
    vs_put32(o, sizeof query);
    vs_put_bytes(o, where, sizeof where);
    vs_put_bytes(o, query, sizeof query);
}

Test(node_frames, a_question_of_any_bytes_is_answered_or_dropped)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    struct vs_out o = { .allocator = NULL };

    written(c, 1, 1, ROWS, 5, VSHARD_WRITE_APPLIED);
    put_question(&o, c, 1 << 20);
    for (size_t n = 0; n <= o.count; n++)
        hand_over(c->node[1].node, &o, n, false);
    for (size_t at = 8; at < o.count; at++) {
        for (unsigned value = 1; value < 256; value *= 3) {
            o.at[at] ^= (unsigned char)value;
            hand_over(c->node[1].node, &o, o.count, false);
            o.at[at] ^= (unsigned char)value;
        }
        cluster_run(c, 5 * MS);
    }
    cluster_run(c, 1000 * MS);
    vs_out_free(&o);
    expect_rows(c, 1, 1, ROWS, 5);
    cluster_destroy(c);
}

/* An export writes a file, by a name that the question has where a search has an expression. */
Test(node_frames, a_question_of_a_peer_writes_no_file)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    struct vs_out o = { .allocator = NULL };
    size_t bytes;

    put_question(&o, c, 1 << 20);
    vs_store32(o.at + 20, VS_SERVE_EXPORT);
    memcpy(o.at + 104, "home/x", 7);
    hand_over(c->node[1].node, &o, o.count, false);
    cluster_run(c, 1000 * MS);
    cr_expect_null(fault_storage_bytes(c->node[1].disk, "home/x", &bytes));
    cr_expect_null(fault_storage_bytes(c->node[1].disk, "home/x.tmp", &bytes));
    vs_out_free(&o);
    cluster_destroy(c);
}

/* As a fetch of node 1 would be answered: a vector, a number, a keyword and a payload. */
static void put_answer(struct vs_out *o, struct cluster *c, uint64_t id)
{
    const float vector[DIM] = { 1 };
    const char word[VSHARD_KEYWORD_MAX] = "word";

    vs_put64(o, id);
    vs_put32(o, 0);
    vs_put32(o, VSHARD_OK);
    vs_put64(o, group_of(c));
    vs_put64(o, 7);
    vs_put32(o, 0);
    vs_put32(o, 0);
    vs_put64(o, 0);
    vs_put64(o, 0);
    vs_put64(o, 7);
    vs_put32(o, sizeof vector);
    vs_put32(o, 2);
    vs_put32(o, 3);
    vs_put32(o, 0);
    vs_put_bytes(o, vector, sizeof vector);
    vs_put64(o, VSHARD_ATTRIBUTE_INT64);
    vs_put64(o, VSHARD_ATTRIBUTE_KEYWORD);
    vs_put64(o, 42);
    vs_put_bytes(o, word, sizeof word);
    vs_put_bytes(o, "abc", 3);
}

static uint64_t begin_fetch(struct cluster *c)
{
    const struct vshard_node_fetch f = { .size = sizeof f,
                                         .consistency = VSHARD_READ_LINEARIZABLE,
                                         .timeout_ns = 50 * MS,
                                         .tag = next_tag++,
                                         .key = { 0, 1 },
                                         .collection = "words" };

    c->answer[f.tag].times = 0;
    cr_assert_eq(vshard_node_fetch(c->node[1].node, c->now, &f), VSHARD_OK);
    return f.tag;
}

/* What a fetch comes to whose answer is cut, or has a byte changed. */
static struct cluster_answer *answered(struct cluster *c, size_t cut, size_t at, unsigned value)
{
    struct vs_out o = { .allocator = NULL };
    uint64_t tag = begin_fetch(c);
    struct cluster_answer *a;

    put_answer(&o, c, c->node[1].node->next_request);
    o.at[at] ^= (unsigned char)value;
    hand_over(c->node[1].node, &o, o.count - cut, true);
    a = cluster_wait(c, tag, 1000 * MS);
    cr_assert(a != NULL && a->times == 1);
    vs_out_free(&o);
    return a;
}

Test(node_frames, an_answer_of_any_bytes_is_taken_or_another_is_waited_for)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    struct cluster_answer *a;
    struct vs_out o = { .allocator = NULL };
    int64_t number;
    size_t count;

    written(c, 1, 1, ROWS, 5, 0);
    put_answer(&o, c, 1);
    count = o.count;
    vs_out_free(&o);
    a = answered(c, 0, 0, 0);
    cr_assert_eq(a->status, VSHARD_OK);
    cr_expect_eq(a->version, (uint64_t)7);
    cr_assert_eq(a->value_count, 2u);
    memcpy(&number, a->value[0].bytes, sizeof number);
    cr_expect_eq(number, (int64_t)42);
    cr_expect_str_eq((const char *)a->value[1].bytes, "word");
    cr_expect_eq(a->payload_bytes, 3u);
    for (size_t cut = 1; cut < count; cut++) {
        a = answered(c, cut, 0, 0);
        cr_assert(a->status != VSHARD_OK || a->version != 7, "cut by %zu", cut);
    }
    for (size_t at = 0; at < count; at++)
        answered(c, 0, at, 1u << at % 8);
    expect_rows(c, 1, 1, ROWS, 5);
    cluster_destroy(c);
}

Test(node_frames, of_strangers_make_no_member_seem_dead)
{
    struct cluster *c = with_words(3, 3, 1, 3, NULL);
    struct vshard_node *n = c->node[1].node;

    for (uint64_t id = 100; id < 200; id++)
        vs_peer_meet(n, id);
    for (uint64_t id = 2; id <= 3; id++)
        cr_expect(vs_peer_here(n, id), "node %d", (int)id);
    cluster_destroy(c);
}
