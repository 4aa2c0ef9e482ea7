/* raft_digest.c - the digest of a node has everything in it that it knows.
 *
 * Method: in a leader with something of each kind, one bit of each byte of each struct is
 * changed in turn, and the digest must change; what is left out is listed here, and why. So a
 * field that is added must be put into the digest, or into the list. Logs, requests and
 * configurations, whose shape the digest follows, are changed in places. */
#include "support/raft_rig.h"

struct gap {
    size_t at, bytes;
};

#define GAP(type, field)                                                \
    {                                                                   \
        offsetof(struct type, field), sizeof(((struct type *)0)->field) \
    }
#define PAST(type, field)                                                                          \
    {                                                                                              \
        offsetof(struct type, field) + sizeof(((struct type *)0)->field),                          \
            sizeof(struct type) - offsetof(struct type, field) - sizeof(((struct type *)0)->field) \
    }

static bool left_out(const struct gap *gap, size_t count, size_t at)
{
    for (size_t i = 0; i < count; i++) {
        if (at >= gap[i].at && at < gap[i].at + gap[i].bytes)
            return true;
    }
    return false;
}

static void each_byte_counts(struct rig *t, void *what, size_t bytes, const struct gap *gap,
                             size_t gaps, const char *name)
{
    unsigned char *p = what;
    uint64_t digest = vshard_raft_digest(t->raft);

    for (size_t at = 0; at < bytes; at++) {
        if (left_out(gap, gaps, at))
            continue;
        p[at] ^= 1;
        cr_expect_neq(vshard_raft_digest(t->raft), digest, "byte %zu of a %s", at, name);
        p[at] ^= 1;
    }
    cr_assert_eq(vshard_raft_digest(t->raft), digest);
}

/* A leader with a change of members under way, a proposal, and a read that waits. */
static struct vs_group *busy_leader(struct rig *t)
{
    uint64_t term;

    boot(t, 2, 0, "1J");
    term = lead(t);
    acknowledge(t, 2, term, status(t).last);
    propose(t, 1);
    read_now(t, VSHARD_RAFT_READ_INDEX);
    cr_assert_gt(t->raft->pending_count, 0u);
    return vs_group_find(t->raft, 1);
}

Test(raft_digest, has_what_is_known_of_a_peer)
{
    static const struct gap gaps[] = {
        GAP(vs_peer, flight),      /* a ring, of which a part is in use: below */
        GAP(vs_peer, flight_head), /* where in it that lies */
        GAP(vs_peer, link),        /* a place in a table */
        GAP(vs_peer, flight_count), PAST(vs_peer, uncertain),
    };
    struct rig t;
    struct vs_group *g = busy_leader(&t);
    struct vs_peer *p = &g->peer[1];
    uint64_t digest = vshard_raft_digest(t.raft);

    each_byte_counts(&t, p, sizeof *p, gaps, VS_COUNT(gaps), "peer");
    cr_assert_gt(p->flight_count, 0u);
    p->flight[p->flight_head % VS_FLIGHT_MAX] ^= 1;
    cr_expect_neq(vshard_raft_digest(t.raft), digest);
    p->flight[p->flight_head % VS_FLIGHT_MAX] ^= 1;
    p->flight_count--;
    cr_expect_neq(vshard_raft_digest(t.raft), digest);
    p->flight_count++;
    stop(&t);
}

Test(raft_digest, has_what_is_known_of_a_group)
{
    static const struct gap gaps[] = {
        /* Their contents count, and not where they lie. */
        GAP(vs_group, log),
        GAP(vs_group, config),
        GAP(vs_group, peer),
        GAP(vs_group, proposal),
        GAP(vs_group, request),
        GAP(vs_group, session),
        GAP(vs_group, meta),
        GAP(vs_group, taken),
        GAP(vs_group, install),
        GAP(vs_group, meta_bytes),
        GAP(vs_group, taken_bytes),
        GAP(vs_group, install_bytes),
        GAP(vs_group, config_count),
        GAP(vs_group, config_cap),
        GAP(vs_group, peer_cap),
        GAP(vs_group, proposal_head),
        GAP(vs_group, proposal_count),
        GAP(vs_group, proposal_cap),
        GAP(vs_group, request_count),
        GAP(vs_group, request_cap),
        GAP(vs_group, session_count),
        GAP(vs_group, session_cap),
        GAP(vs_group, heap_at),
        GAP(vs_group, led_at),
        /* Only within a step. */
        GAP(vs_group, cut),
        GAP(vs_group, fresh),
        GAP(vs_group, dirty),
        GAP(vs_group, want_beat),
        GAP(vs_group, mark),
        { offsetof(struct vs_group, excused) + 1,
          offsetof(struct vs_group, sure_index) - offsetof(struct vs_group, excused) - 1 },
    };
    struct rig t;
    struct vs_group *g = busy_leader(&t);

    each_byte_counts(&t, g, sizeof *g, gaps, VS_COUNT(gaps), "group");
    stop(&t);
}

Test(raft_digest, has_members_with_their_roles_and_requests)
{
    static const struct gap pending[] = { GAP(vs_pending, group), GAP(vs_pending, reserved) };
    static const struct gap link[] = { GAP(vs_link, reserved) };
    struct rig t;
    struct vs_group *g = busy_leader(&t);

    cr_assert_gt(g->config_count, 2u);
    for (uint32_t i = 1; i < g->config_count; i++) /* before the first there is nobody */
        each_byte_counts(&t, g->config[i].member,
                         g->config[i].count * sizeof g->config[i].member[0], NULL, 0, "member");
    for (uint32_t i = 0; i < g->config_count; i++)
        each_byte_counts(&t, &g->config[i].index, 8, NULL, 0, "configuration");
    each_byte_counts(&t, &g->proposal[g->proposal_head], sizeof *g->proposal, NULL, 0, "proposal");
    each_byte_counts(&t, &g->request[0], sizeof *g->request, NULL, 0, "request");
    each_byte_counts(&t, &t.raft->link[1], sizeof t.raft->link[1], link, VS_COUNT(link), "link");
    each_byte_counts(&t, &t.raft->pending[t.raft->pending_head], sizeof *t.raft->pending, pending,
                     VS_COUNT(pending), "barrier that is not reached");
    each_byte_counts(&t, g->log.bytes + g->log.byte_head, g->log.byte_tail - g->log.byte_head, NULL,
                     0, "log");
    stop(&t);
}
