/* node_members.c - who is a member of a group, in 64 bits of gossip.
 *
 * Method: sets of as many members as a shard has, drawn at random, as incarnations are; each
 * member must be found in its set, and hardly ever somebody else. Then frames are kept, and come
 * late. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/cluster_ask.h"

enum { SETS = 20000, FRAME = 8192 };

static uint32_t strangers(uint32_t members)
{
    uint64_t random = members;
    uint32_t found = 0;

    for (int i = 0; i < SETS; i++) {
        uint64_t set = 0, stranger;

        for (uint32_t k = 0; k < members; k++) {
            uint64_t bits = vs_member_bits(k + 1, random_next(&random));

            set |= bits;
            cr_assert_eq(set & bits, bits);
        }
        stranger = vs_member_bits(members + 1, random_next(&random));
        found += (set & stranger) == stranger;
    }
    return found;
}

Test(node_members, are_hardly_ever_taken_for_others)
{
    cr_expect_leq(strangers(3), SETS / 400u);
    cr_expect_leq(strangers(5), SETS / 80u);
    cr_expect_eq(strangers(0), 0u);
}

/* The gossip of a node for another, when it is asked for, and not yet lost. */
static struct {
    struct vshard_node *to;
    void (*send)(void *ctx, uint64_t node, const void *frame, size_t bytes);
    size_t bytes;
    unsigned char frame[FRAME];
} kept;

static void keep(void *ctx, uint64_t node, const void *frame, size_t bytes)
{
    struct vshard_frame f = { .size = sizeof f };

    if (node == kept.to->node && kept.bytes == 0 && bytes <= FRAME &&
        vshard_wire_decode(kept.to->wire, frame, bytes, &f) == VSHARD_OK &&
        f.type == VS_FRAME_GOSSIP) {
        memcpy(kept.frame, frame, bytes);
        kept.bytes = bytes;
    }
    kept.send(ctx, node, frame, bytes);
}

static uint64_t members_heard(const struct vshard_node *n, uint64_t of)
{
    uint32_t count;
    const struct vs_hint *h = vs_hints_of(n, 1, &count);

    for (uint32_t i = 0; i < count; i++) {
        if (h[i].node == of)
            return h[i].members;
    }
    return 0;
}

Test(node_members, are_not_told_by_what_comes_late)
{
    struct vshard_node_options o = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(5, 5, 1, 3, &o);
    uint64_t leader = cluster_leader(c, "words", 0), outside = 0, to = 0, before, after;
    struct vshard_node_admin replace = { .op = VSHARD_ADMIN_REPLACE, .group = 1 };
    struct vshard_shard_status s;
    size_t count;

    vshard_node_shards(c->node[1].node, "words", &s, 1, &count);
    for (uint64_t id = 1; id <= 5; id++) {
        if (id == s.members[0] || id == s.members[1] || id == s.members[2])
            continue;
        outside = to;
        to = id;
    }
    written(c, 1, 1, 10, 5, 0);
    cluster_run(c, 1000 * MS);
    kept.to = c->node[outside].node;
    kept.bytes = 0;
    kept.send = c->node[leader].node->host.send;
    c->node[leader].node->host.send = keep;
    cluster_run(c, 500 * MS);
    cr_assert_gt(kept.bytes, (size_t)0);
    before = members_heard(kept.to, leader);
    replace.node = s.members[0] != leader ? s.members[0] : s.members[1];
    replace.to = to;
    cr_assert_eq(administer(c, outside, replace), VSHARD_OK);
    cluster_run(c, 5000 * MS);
    after = members_heard(kept.to, leader);
    cr_assert_neq(after, before);
    cr_assert_neq(after, UINT64_MAX);
    cr_assert_eq(vshard_node_recv(kept.to, c->now, kept.frame, kept.bytes), VSHARD_OK);
    cr_expect_eq(members_heard(kept.to, leader), after, "what was so once");
    c->node[leader].node->host.send = kept.send;
    cluster_destroy(c);
}
