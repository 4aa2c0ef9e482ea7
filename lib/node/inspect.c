/* inspect.c - how a node is, and shards and other nodes as it sees them. */
#include "node/core.h"

int vshard_node_status(struct vshard_node *n, struct vshard_node_status *status)
{
    struct vshard_node_status s = { .size = sizeof s };
    struct vshard_raft_status map = { .size = sizeof map };

    if (n == NULL)
        return VSHARD_EINVAL;
    if (n->replica[0]->open)
        vshard_raft_inspect(n->raft, VS_META, &map);
    s.status = n->failed;
    s.node = n->node;
    s.incarnation = n->incarnation;
    s.boot = n->boot;
    s.meta_leader = vs_leader_of(n, VS_META);
    s.map_index = n->meta.applied;
    s.map_last = map.last;
    s.map_last_term = map.last_term;
    s.map_epoch = (uint32_t)map.epoch;
    s.region = n->region;
    s.primary = n->meta.primary;
    s.level = n->meta.level;
    s.level_known = n->level;
    s.map_status = n->replica[0]->status;
    s.cluster = n->cluster;
    s.nodes = n->meta.node_count;
    s.collections = n->meta.collection_count;
    s.shards = n->meta.shard_count;
    s.replicas = n->replica_count - 1;
    s.requests = n->request_count;
    s.items = vs_items_waiting(n);
    s.frames_taken = n->frames_taken;
    s.frames_refused = n->frames_refused;
    s.hedges = n->hedges;
    s.forwards = n->forwards;
    s.elections = n->elections;
    s.cache_answers = n->cache.answers;
    s.cache_misses = n->cache.misses;
    s.cache_bytes = n->cache.bytes;
    return vs_report_write(status, &s, sizeof s, VS_SIZE_THROUGH(struct vshard_node_status, node));
}

int vshard_node_collection(struct vshard_node *n, const char *name,
                           struct vshard_collection *collection)
{
    const struct vs_collection *c;

    if (n == NULL || name == NULL || collection == NULL)
        return VSHARD_EINVAL;
    c = vs_cluster_find(&n->meta, name);
    if (c == NULL)
        return VSHARD_ENOTFOUND;
    return vs_report_write(collection, &c->spec, sizeof c->spec,
                           VS_SIZE_THROUGH(struct vshard_collection, attributes));
}

static void fill(struct vshard_node *n, const struct vs_collection *c, uint32_t number,
                 struct vshard_shard_status *to)
{
    const struct vs_meta_shard *shard = &c->shard[number];
    const struct vs_replica *r = vs_replica_find(n, shard->group);
    struct vshard_raft_status s = { .size = sizeof s };

    memset(to, 0, sizeof *to);
    to->group = shard->group;
    to->leader = vs_leader_of(n, shard->group);
    to->shard = number;
    to->collection = c->id;
    to->member_count = shard->member_count;
    for (uint32_t i = 0; i < shard->member_count; i++)
        to->members[i] = shard->members[i].node;
    if (r != NULL && r->status != VSHARD_OK)
        to->here = 2;
    if (r == NULL || !r->open || vshard_raft_inspect(n->raft, r->group, &s) != VSHARD_OK)
        return;
    to->here = r->status != VSHARD_OK ? 2 : 1;
    to->term = s.term;
    to->committed = s.commit;
    to->last = s.last;
    to->last_term = s.last_term;
    to->epoch = (uint32_t)s.epoch;
    to->applied = atomic_load(&r->applied);
    to->rows = atomic_load(&r->rows);
    to->digest_index = r->digest_index;
    to->digest = r->digest;
}

int vshard_node_shards(struct vshard_node *n, const char *collection,
                       struct vshard_shard_status *shards, size_t cap, size_t *count)
{
    size_t at = 0;

    if (n == NULL || count == NULL || (shards == NULL && cap != 0))
        return VSHARD_EINVAL;
    if (collection != NULL && vs_cluster_find(&n->meta, collection) == NULL)
        return VSHARD_ENOTFOUND;
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *c = n->meta.collection[i];

        if (collection != NULL && strcmp(c->name, collection) != 0)
            continue;
        for (uint32_t s = 0; s < c->spec.shards; s++, at++) {
            if (at < cap)
                fill(n, c, s, &shards[at]);
        }
    }
    *count = at;
    return at <= cap ? VSHARD_OK : VSHARD_E2BIG;
}

/* Of the map's group; 0 where it is none. */
static uint32_t role_in_map(struct vshard_node *n, const struct vs_meta_node *x)
{
    struct vs_members now = { .count = 0 };
    const struct vshard_raft_member *m;

    if (vs_hosted(n))
        return VSHARD_RAFT_LEARNER;
    vshard_raft_members(n->raft, VS_META, now.member, &now.count);
    m = vs_member_find(&now, x->node, x->incarnation);
    return m != NULL ? m->role : 0;
}

static uint32_t replicas_of(const struct vs_cluster *m, uint64_t node)
{
    uint32_t replicas = 0;

    for (uint32_t i = 0; i < m->collection_count; i++) {
        for (uint32_t s = 0; s < m->collection[i]->spec.shards; s++) {
            const struct vs_meta_shard *shard = &m->collection[i]->shard[s];

            for (uint32_t k = 0; k < shard->member_count; k++)
                replicas += shard->members[k].node == node;
        }
    }
    return replicas;
}

static void fill_peer(struct vshard_node *n, uint32_t at, struct vshard_peer_status *to)
{
    const struct vs_meta_node *x = &n->meta.node[at];
    const struct vs_peer *p = vs_peer_find(n, x->node);
    const uint32_t role = role_in_map(n, x);
    const uint64_t heard = p != NULL ? p->heard_ns : 0;

    *to = (struct vshard_peer_status){ .node = x->node,
                                       .incarnation = x->incarnation,
                                       .region = n->meta.region[at],
                                       .level = n->meta.announced[at],
                                       .replicas = replicas_of(&n->meta, x->node) };
    to->silence_ns = x->node == n->node ? 0 : heard != 0 ? n->now - heard : UINT64_MAX;
    if (vs_peer_here(n, x->node))
        to->flags |= VSHARD_PEER_ALIVE;
    if (n->meta.leaving[at])
        to->flags |= VSHARD_PEER_LEAVES;
    if (role == 0)
        to->flags |= VSHARD_PEER_LOST;
    if (role & VSHARD_RAFT_VOTER)
        to->flags |= VSHARD_PEER_VOTES;
    if (vs_peer_mapless(n, x->node))
        to->flags |= VSHARD_PEER_HALTED;
}

int vshard_node_peers(struct vshard_node *n, struct vshard_peer_status *peers, size_t cap,
                      size_t *count)
{
    if (n == NULL || count == NULL || (peers == NULL && cap != 0))
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < n->meta.node_count && i < cap; i++)
        fill_peer(n, i, &peers[i]);
    *count = n->meta.node_count;
    return n->meta.node_count <= cap ? VSHARD_OK : VSHARD_E2BIG;
}
