/* level.c - nodes of several versions of the library in one cluster.
 *
 * What a node sends, logs or keeps for others has forms that those must know: frames, entries
 * of shards, commands of the map, snapshots. The forms that came with one version of the
 * library are a level:
 *
 *     level   frames   entries of shards (apply format)
 *         1        1   2
 *
 * A node announces the highest level that it knows, in GOSSIP and when it joins. The leader
 * of the map writes down what each announces (NODE); when all that are written down know a
 * level, and its group has no other member, it makes that the cluster's (LEVEL). New forms of
 * entries, commands and snapshots are written by a node from when its map says so: then all
 * that could have to read them can. A frame concerns two nodes alone, and has the form that its
 * receiver has announced.
 *
 * So a cluster is upgraded one node after the other, beside reads and writes. Until the last
 * has announced the new level each can go back to the old version; from then on none can. The
 * level never falls: a node that knows less than it is not written down, and stops with
 * EVERSION where it was a member, at the LEVEL in its log or in the snapshot of its map. It
 * must not guess.
 *
 * The simulator opens nodes of levels that are not there yet: their forms are those of the
 * last one, under the numbers that follow. */
#include "node/core.h"

uint32_t vs_level_frame(uint32_t level)
{
    return level;
}

uint32_t vs_level_apply(uint32_t level)
{
    return level + VS_APPLY_FORMAT - VS_LEVEL;
}

/* What a node announces, if it is there under this incarnation; else 0. */
static uint32_t announced(struct vshard_node *n, const struct vs_meta_node *x)
{
    const struct vs_peer *p = vs_peer_find(n, x->node);

    if (x->node == n->node)
        return x->incarnation == n->incarnation ? n->level : 0;
    if (p == NULL || p->incarnation != x->incarnation || !vs_peer_here(n, x->node))
        return TRAP(70) ? n->level : 0;
    return p->level;
}

/* Whether the map's group has no member that is not written down, as one that was removed and
 * has not left yet. */
static bool all_written(const struct vshard_node *n)
{
    struct vshard_raft_member now[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t count = 0;

    if (vshard_raft_members(n->raft, VS_META, now, &count) != VSHARD_OK)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct vs_meta_node *x = vs_cluster_node(&n->meta, now[i].node);

        if (x == NULL || x->incarnation != now[i].incarnation)
            return false;
    }
    return true;
}

bool vs_level_next(struct vshard_node *n, struct vs_out *o)
{
    uint32_t lowest = UINT32_MAX;

    for (uint32_t i = 0; i < n->meta.node_count; i++) {
        const struct vs_meta_node *x = &n->meta.node[i];
        uint32_t level = announced(n, x);

        /* One that knows less than it did, after all have relied on it, has stopped. */
        if (level >= n->meta.level && level != n->meta.announced[i]) {
            vs_cmd_node(o, x->node, x->incarnation, n->meta.region[i], level);
            return true;
        }
        /* Who is not there may come back as of an earlier version. */
        if (level < lowest)
            lowest = level;
    }
    if (n->meta.node_count == 0 || lowest <= n->meta.level || !all_written(n))
        return false;
    vs_node_event(n, VSHARD_LOG_INFO, "node.level", VS_META, "all know", lowest);
    vs_cmd_level(o, lowest);
    return true;
}
