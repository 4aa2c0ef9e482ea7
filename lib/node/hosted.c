/* hosted.c - the cluster's map, where the host keeps it.
 *
 * Group 0 is never born then: its nodes are formatted as ones that join, and there is nobody
 * to ask. Whoever wants a change applies its command to a copy of the map that it has, and asks the
 * host to put the copy in its place, if the map is still of the version before. One that was
 * overtaken is given the newer map, and tries again on that. So the store orders commands as
 * the log of group 0 would, and the map's version stands for their index. The node with the
 * lowest id of those that are there does what the leader of group 0 would; if two think so of
 * themselves, the store lets one of them pass.
 *
 *     document   "VSKEPT1\0", 16 cluster, 8 version, 8 bytes of the state, state as in meta.c,
 *                8 checksum of all before
 *
 * A checksum can be made by anybody, so the state is verified, too: numbers in their ranges,
 * and nothing named that is not there. */
#include "node/core.h"

enum { HEAD = 40, SUM = 8 };

static const char magic[8] = "VSKEPT1";

bool vs_hosted(const struct vshard_node *n)
{
    return n->host.put_map != NULL;
}

/* ---- the document ---- */

static void put_document(const struct vs_cluster *m, struct vshard_key cluster, struct vs_out *o)
{
    vs_put_bytes(o, magic, sizeof magic);
    vs_put_key(o, cluster);
    vs_put64(o, m->applied);
    vs_put64(o, 0);
    vs_cluster_encode(m, o);
    if (o->status != VSHARD_OK)
        return;
    vs_store64(o->at + HEAD - 8, o->count - HEAD);
    vs_put64(o, vs_checksum(o->at, o->count, 0));
}

int vshard_node_map_read(const void *bytes, size_t count, struct vshard_key *cluster,
                         uint64_t *version)
{
    const unsigned char *p = bytes;

    if (bytes == NULL || cluster == NULL || version == NULL)
        return VSHARD_EINVAL;
    if (count < HEAD + SUM || memcmp(p, magic, 6) != 0)
        return VSHARD_ECORRUPT;
    if (memcmp(p, magic, sizeof magic) != 0)
        return VSHARD_EVERSION;
    if (vs_load64(p + HEAD - 8) != count - HEAD - SUM ||
        vs_load64(p + count - SUM) != vs_checksum(p, count - SUM, 0) || vs_load64(p + 24) == 0)
        return VSHARD_ECORRUPT;
    *cluster = (struct vshard_key){ vs_load64(p + 8), vs_load64(p + 16) };
    *version = vs_load64(p + 24);
    return VSHARD_OK;
}

static bool sound_nodes(const struct vs_cluster *m)
{
    for (uint32_t i = 0; i < m->node_count; i++) {
        if (m->node[i].node == 0 || m->node[i].incarnation == 0 || m->leaving[i] > 1 ||
            m->announced[i] < m->level || (i != 0 && m->node[i].node <= m->node[i - 1].node))
            return false;
    }
    for (uint32_t i = 0; i < m->former_count; i++) {
        const struct vs_meta_node *now = vs_cluster_node(m, m->former[i].node);

        if (m->former[i].node == 0 || m->former[i].incarnation == 0 ||
            (now != NULL && now->incarnation == m->former[i].incarnation))
            return false;
    }
    return m->level != 0 && m->settled <= 1;
}

static bool sound_shard(const struct vs_cluster *m, const struct vs_meta_shard *shard)
{
    if (shard->founder_count == 0 || shard->member_count == 0 ||
        shard->member_count > VSHARD_REPLICAS_MAX + 1)
        return false;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (vs_cluster_node(m, shard->members[i].node) == NULL)
            return false;
        for (uint32_t k = 0; k < i; k++) {
            if (shard->members[k].node == shard->members[i].node)
                return false;
        }
    }
    return true;
}

/* Collections come in the order of their ids and of their groups. */
static bool sound_collections(const struct vs_cluster *m)
{
    uint64_t group = VS_META + 1;
    uint32_t id = 1;

    for (uint32_t i = 0; i < m->collection_count; i++) {
        const struct vs_collection *c = m->collection[i];

        if (c->id < id || c->shard[0].group < group || vs_cluster_find(m, c->name) != c)
            return false;
        id = c->id + 1;
        group = c->shard[0].group + c->spec.shards;
        if (id == 0 || group < c->spec.shards)
            return false;
        for (uint32_t s = 0; s < c->spec.shards; s++) {
            if (!sound_shard(m, &c->shard[s]))
                return false;
        }
    }
    return m->next_collection >= id && m->next_group >= group;
}

/* What does not make sense is no map: ECORRUPT. */
static int sound(const struct vs_cluster *m)
{
    int rc = sound_nodes(m) && sound_collections(m) ? VSHARD_OK : VSHARD_ECORRUPT;

    for (uint32_t i = 0; rc == VSHARD_OK && i < m->collection_count; i++) {
        struct vshard_index_stats made;

        rc = vs_collection_try(&m->collection[i]->spec, m->allocator, m->logger, &made);
    }
    return rc == VSHARD_OK || rc == VSHARD_ENOMEM ? rc : VSHARD_ECORRUPT;
}

int vs_hosted_take(struct vs_cluster *m, struct vshard_key cluster, const void *bytes, size_t count)
{
    struct vshard_key of;
    uint64_t version;
    struct vs_in in;
    int rc = vshard_node_map_read(bytes, count, &of, &version);

    if (rc != VSHARD_OK)
        return rc;
    if (of.hi != cluster.hi || of.lo != cluster.lo)
        return VSHARD_ENOTFOUND;
    in = (struct vs_in){ .at = (const unsigned char *)bytes + HEAD, .left = count - HEAD - SUM };
    rc = vs_cluster_decode(m, &in);
    if (rc != VSHARD_OK)
        return rc == VSHARD_E2BIG ? VSHARD_ECORRUPT : rc;
    return in.left == 0 && m->applied == version ? sound(m) : VSHARD_ECORRUPT;
}

/* ---- the map of a node ---- */

void vs_map_adopt(struct vshard_node *n, struct vs_cluster *from)
{
    vs_cluster_fini(&n->meta);
    n->meta = *from;
    vs_cluster_init(from, n->allocator, n->logger);
    from->known = n->level;
    atomic_store(&n->replica[0]->applied, n->meta.applied);
    n->meta_seen = 0;
}

static bool same(const struct vs_cluster *a, const struct vs_cluster *b,
                 const struct vshard_allocator *allocator)
{
    struct vs_out x = { .allocator = allocator }, y = { .allocator = allocator };
    bool equal;

    vs_cluster_encode(a, &x);
    vs_cluster_encode(b, &y);
    equal = x.status == VSHARD_OK && y.status == VSHARD_OK && x.count == y.count &&
            memcmp(x.at, y.at, x.count) == 0;
    vs_out_free(&x);
    vs_out_free(&y);
    return equal;
}

int vs_hosted_given(struct vshard_node *n, const void *bytes, size_t count)
{
    struct vs_cluster *m;
    int rc;

    if (count == 0) {
        n->hosted.given |= n->meta.applied == 0;
        return n->meta.applied == 0 ? VSHARD_OK : VSHARD_ESTALE;
    }
    m = vs_alloc(n->allocator, sizeof *m);
    if (m == NULL)
        return VSHARD_ENOMEM;
    vs_cluster_init(m, n->allocator, n->logger);
    m->known = n->level;
    rc = vs_hosted_take(m, n->cluster, bytes, count);
    if (rc == VSHARD_OK && m->applied < n->meta.applied)
        rc = VSHARD_ESTALE;
    if (rc == VSHARD_OK && m->applied == n->meta.applied && !same(m, &n->meta, n->allocator))
        rc = VSHARD_EEXIST;
    if (rc == VSHARD_OK) {
        n->hosted.given = 1;
        if (m->applied > n->meta.applied)
            vs_map_adopt(n, m);
    }
    vs_cluster_fini(m);
    vs_free(n->allocator, m, sizeof *m);
    return rc;
}

bool vs_leads_map(struct vshard_node *n)
{
    const struct vs_meta_node *self = vs_cluster_node(&n->meta, n->node);

    if (!vs_hosted(n))
        return n->replica[0]->role == VSHARD_RAFT_LEADER;
    if (!n->hosted.given || self == NULL || self->incarnation != n->incarnation)
        return false;
    for (const struct vs_meta_node *x = n->meta.node; x < self; x++) {
        if (vs_peer_here(n, x->node))
            return false;
    }
    return true;
}

/* ---- changes ---- */

bool vs_hosted_ready(const struct vshard_node *n)
{
    return n->hosted.given && n->hosted.version == 0;
}

static int prepare(struct vshard_node *n, const void *command, size_t count)
{
    struct vs_cluster *next = &n->hosted.next;
    struct vs_out o = { .allocator = n->allocator };
    uint64_t version = n->meta.applied + 1;
    struct vs_in in;
    int rc;

    vs_cluster_encode(&n->meta, &o);
    in = (struct vs_in){ .at = o.at, .left = o.count };
    rc = o.status == VSHARD_OK ? vs_cluster_decode(next, &in) : o.status;
    vs_out_free(&o);
    if (rc == VSHARD_OK)
        rc = vs_cluster_apply(next, version, command, count);
    if (rc == VSHARD_OK)
        rc = next->result[version % VS_RESULTS].status;
    if (rc != VSHARD_OK)
        return rc;
    n->hosted.bytes.allocator = n->allocator;
    put_document(next, n->cluster, &n->hosted.bytes);
    return n->hosted.bytes.status;
}

int vs_hosted_propose(struct vshard_node *n, struct vs_proposal *p, const void *command,
                      size_t count)
{
    int rc = prepare(n, command, count);

    if (rc != VSHARD_OK) {
        vs_cluster_fini(&n->hosted.next);
        vs_out_free(&n->hosted.bytes);
        return rc;
    }
    n->hosted.version = n->hosted.next.applied;
    n->hosted.proposal = p;
    n->hosted.due = 1;
    return VSHARD_OK;
}

void vs_hosted_flush(struct vshard_node *n)
{
    if (!n->hosted.due)
        return;
    n->hosted.due = 0;
    n->host.put_map(n->host.ctx, n->hosted.version, n->hosted.bytes.at, n->hosted.bytes.count);
}

static void over(struct vshard_node *n, struct vs_proposal *p, int status)
{
    const struct vshard_raft_effect e = { .status = status };

    if (p->kind != VS_PROPOSED_ADMIN)
        vs_steward_proposed(n, status);
    else if (p->admin != NULL && status == VSHARD_OK)
        vs_request_finish(n, p->admin, VSHARD_OK);
    else
        vs_admin_committed(n, p, &e); /* which tries again, if nothing came of it */
    vs_proposal_free(n, p);
}

int vs_hosted_put(struct vshard_node *n, uint64_t version, int status)
{
    struct vs_hosted *h = &n->hosted;

    if (version == 0 || version != h->version)
        return VSHARD_ENOTFOUND;
    /* A newer one may have been given meanwhile. */
    if ((status == VSHARD_OK || TRAP(71)) && h->version > n->meta.applied)
        vs_map_adopt(n, &h->next);
    vs_cluster_fini(&h->next);
    vs_out_free(&h->bytes);
    h->version = 0;
    h->due = 0;
    over(n, h->proposal, status == VSHARD_OK || status == VSHARD_ESTALE ? status : VSHARD_EUNKNOWN);
    h->proposal = NULL;
    return VSHARD_OK;
}

void vs_hosted_fini(struct vshard_node *n)
{
    vs_cluster_fini(&n->hosted.next);
    vs_out_free(&n->hosted.bytes);
}
