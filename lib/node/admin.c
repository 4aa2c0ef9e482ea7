/* admin.c - changes of the map: proposed here, decided by the group of the map, known here.
 *
 * A command goes into the log of group 0, by way of its leader, and what it came to is
 * told when this node has applied it: then a request made here finds the collection. */
#include "node/core.h"

enum { AGAIN_NS = 50000000 };

static void again(struct vshard_node *n, struct vs_request *q)
{
    q->again_ns = n->now + AGAIN_NS;
    vs_requests_by(n, q->again_ns);
}

int vs_admin_propose(struct vshard_node *n, struct vs_request *q)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_PROPOSE, VS_META);
    struct vshard_raft_entry entry = { .kind = VSHARD_RAFT_DATA,
                                       .data = q->ask.at,
                                       .count = q->ask.count };
    struct vs_proposal *p;
    int rc;

    q->again_ns = 0;
    if (vs_hosted(n) && !vs_hosted_ready(n))
        return VSHARD_EBUSY;
    p = vs_proposal_new(n, VS_PROPOSED_ADMIN, VS_META);
    if (p == NULL)
        return VSHARD_ENOMEM;
    p->admin = q;
    if (vs_hosted(n)) {
        rc = vs_hosted_propose(n, p, q->ask.at, q->ask.count);
        if (rc != VSHARD_OK) { /* the command's own end */
            vs_proposal_free(n, p);
            vs_request_finish(n, q, rc);
        }
        return VSHARD_OK;
    }
    event.entries = &entry;
    event.entry_count = 1;
    return vs_proposal_step(n, p, &event);
}

static bool joined(const struct vshard_node *n)
{
    const struct vs_meta_node *x = vs_cluster_node(&n->meta, n->node);

    return x != NULL && x->incarnation == n->incarnation;
}

/* Requests whose command this node has applied are answered. */
void vs_admin_known(struct vshard_node *n)
{
    uint64_t at = atomic_load(&n->replica[0]->applied);
    struct vs_request *next;

    for (struct vs_request *q = n->requests; q != NULL; q = next) {
        uint64_t slot = q->meta_index % VS_RESULTS;

        next = q->next;
        if (q->kind != VSHARD_NODE_ADMIN)
            continue;
        if (q->command == VSHARD_ADMIN_JOIN && joined(n))
            vs_request_finish(n, q, VSHARD_OK);
        else if (q->meta_index != 0 && q->meta_index <= at)
            vs_request_finish(n, q,
                              n->meta.result[slot].index == q->meta_index
                                  ? n->meta.result[slot].status
                                  : VSHARD_EUNKNOWN);
    }
}

void vs_admin_committed(struct vshard_node *n, struct vs_proposal *p,
                        const struct vshard_raft_effect *e)
{
    struct vs_request *q = p->admin;

    if (q == NULL)
        return;
    if (e->status == VSHARD_OK) {
        q->meta_index = e->index;
        vs_admin_known(n); /* at the leader it has been applied */
    } else if (e->status == VSHARD_EUNKNOWN || e->status == VSHARD_E2BIG) {
        vs_request_finish(n, q, e->status);
    } else {
        again(n, q); /* nobody leads, or not yet: nothing was proposed */
    }
}

/* Who was asked refuses; but what it says of an earlier incarnation is late. */
void vs_join_reply(struct vshard_node *n, uint64_t from, struct vs_in *in)
{
    uint64_t incarnation = vs_take64(in);
    int32_t status = (int32_t)vs_take32(in);
    struct vs_request *next;

    if (from != n->join_peer || incarnation != n->incarnation ||
        (status != VSHARD_ESTALE && status != VSHARD_EVERSION && status != VSHARD_E2BIG))
        return;
    for (struct vs_request *q = n->requests; q != NULL; q = next) {
        next = q->next;
        if (q->kind == VSHARD_NODE_ADMIN && q->command == VSHARD_ADMIN_JOIN)
            vs_request_finish(n, q, status);
    }
}

void vs_admin_time(struct vshard_node *n, struct vs_request *q)
{
    int rc;

    if (q->command == VSHARD_ADMIN_JOIN && !vs_hosted(n)) {
        unsigned char join[8];

        vs_store32(join, n->region);
        vs_store32(join + 4, n->level);
        vs_post(n, n->join_peer, VS_FRAME_JOIN, VS_META, join, sizeof join, NULL, 0);
        q->again_ns = n->now + 4 * (uint64_t)AGAIN_NS;
        return;
    }
    /* With a full disk this node could not come to know the change. */
    rc = vs_log_room(n) == VSHARD_ENOSPC ? VSHARD_ENOSPC : vs_admin_propose(n, q);
    if (rc == VSHARD_ENOSPC || rc == VSHARD_E2BIG)
        vs_request_finish(n, q, rc);
    else if (rc != VSHARD_OK)
        again(n, q);
}

/* ---- commands ---- */

/* Where the shards of a collection go: to the nodes that are alive and have the fewest
 * replicas, leaders turning. */
static int place(struct vshard_node *n, const struct vshard_collection *c, uint64_t *nodes)
{
    struct vs_placing p = { .count = 0 };

    for (uint32_t i = 0; i < n->meta.node_count; i++) {
        uint64_t node = n->meta.node[i].node;

        if (vs_peer_follows(n, node) && !n->meta.leaving[i] && vs_cluster_votes(&n->meta, node))
            p.node[p.count++].node = node;
    }
    for (uint32_t i = 0; i < n->meta.collection_count; i++) {
        const struct vs_collection *x = n->meta.collection[i];

        for (uint32_t s = 0; s < x->spec.shards; s++) {
            for (uint32_t k = 0; k < x->shard[s].member_count; k++)
                vs_placing_count(&p, x->shard[s].members[k].node, k == 0);
        }
    }
    if (p.count < c->replicas)
        return vs_node_refuse(n, VSHARD_EBUSY, "replicas", c->replicas, p.count);
    for (uint32_t s = 0; s < c->shards; s++)
        vs_place(&p, nodes + (size_t)s * c->replicas, c->replicas);
    return VSHARD_OK;
}

/* Nodes whose replicas would vote. */
static uint32_t voting_nodes(const struct vshard_node *n)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < n->meta.node_count; i++)
        count += n->meta.region[i] == n->meta.primary;
    return count;
}

int vs_collection_try(const struct vshard_collection *c, const struct vshard_allocator *a,
                      const struct vshard_logger *logger, struct vshard_index_stats *made)
{
    const struct vshard_index_options o = { .size = sizeof o,
                                            .dim = c->dim,
                                            .family = c->family,
                                            .metric = c->metric,
                                            .element = c->element,
                                            .m = c->m,
                                            .ef_construction = c->ef_construction,
                                            .ef_search = c->ef_search,
                                            .train_rows = c->train_rows,
                                            .profile = c->profile,
                                            .allocator = a,
                                            .logger = logger,
                                            .attributes = c->attributes,
                                            .attribute_count = c->attribute_count };
    struct vshard_index *index;
    int rc = vshard_index_create(&o, &index); /* it says what an index does not take */

    *made = (struct vshard_index_stats){ .size = sizeof *made };
    if (rc == VSHARD_OK)
        rc = vshard_index_stats(index, made);
    vshard_index_destroy(index);
    return rc;
}

/* What the library takes where nothing was said is said from here on: another version may take
 * something else, and replicas of a shard must be made alike. */
static int fill_in(struct vshard_node *n, struct vshard_collection *c)
{
    struct vshard_index_stats made;
    int rc = vs_collection_try(c, n->allocator, n->logger, &made);

    if (rc != VSHARD_OK || c->family == VSHARD_FAMILY_FLAT)
        return rc;
    c->m = made.m;
    c->ef_construction = made.ef_construction;
    c->ef_search = made.ef_search;
    c->train_rows = made.train_rows;
    return VSHARD_OK;
}

static int check_collection(struct vshard_node *n, struct vshard_collection *c)
{
    size_t length = c->name != NULL ? strlen(c->name) : 0;
    uint32_t voters = voting_nodes(n);

    if (length == 0 || length > VSHARD_NAME_MAX)
        return vs_node_refuse(n, VSHARD_EINVAL, "name", (int64_t)length, VSHARD_NAME_MAX);
    c->shards = c->shards != 0 ? c->shards : 1;
    if (c->replicas == 0)
        c->replicas = voters < 3 ? voters : 3;
    if (c->shards > VSHARD_CLUSTER_SHARDS_MAX)
        return vs_node_refuse(n, VSHARD_E2BIG, "shards", c->shards, VSHARD_CLUSTER_SHARDS_MAX);
    if (c->replicas > VSHARD_REPLICAS_MAX)
        return vs_node_refuse(n, VSHARD_E2BIG, "replicas", c->replicas, VSHARD_REPLICAS_MAX);
    if (c->learners > VSHARD_REPLICAS_MAX - c->replicas)
        return vs_node_refuse(n, VSHARD_E2BIG, "learners", c->learners,
                              VSHARD_REPLICAS_MAX - c->replicas);
    return fill_in(n, c);
}

static int create(struct vshard_node *n, const struct vshard_collection *theirs, struct vs_out *o)
{
    struct vshard_collection c;
    size_t bytes;
    uint64_t *nodes;
    int rc = vs_options_read(&c, sizeof c, theirs,
                             VS_SIZE_THROUGH(struct vshard_collection, attributes));

    if (rc == VSHARD_OK)
        rc = check_collection(n, &c);
    if (rc != VSHARD_OK)
        return rc;
    if (c.replicas == 0)
        return VSHARD_EBUSY; /* no node is known yet */
    bytes = (size_t)c.shards * c.replicas * sizeof *nodes;
    nodes = vs_alloc(n->allocator, bytes);
    if (nodes == NULL)
        return VSHARD_ENOMEM;
    rc = place(n, &c, nodes);
    if (rc == VSHARD_OK)
        vs_cmd_create(o, &c, nodes);
    vs_free(n->allocator, nodes, bytes);
    return rc;
}

/* What was made with the collection is as it was, or not named. */
static int check_fixed(struct vshard_node *n, const struct vshard_collection *c,
                       const struct vshard_collection *is)
{
    const struct {
        const char *name;
        uint64_t asked, is;
    } fixed[] = {
        { "dim", c->dim, is->dim },
        { "family", c->family, is->family },
        { "metric", c->metric, is->metric },
        { "element", c->element, is->element },
        { "m", c->m, is->m },
        { "ef_construction", c->ef_construction, is->ef_construction },
        { "train_rows", c->train_rows, is->train_rows },
        { "profile", c->profile, is->profile },
        { "shards", c->shards, is->shards },
        { "attribute_count", c->attribute_count, is->attribute_count },
        { "learners", c->learners, is->learners },
        { "seed", c->seed, is->seed },
    };

    for (size_t i = 0; i < VS_COUNT(fixed); i++) {
        if (fixed[i].asked != 0 && fixed[i].asked != fixed[i].is)
            return vs_node_refuse(n, VSHARD_EINVAL, fixed[i].name, (int64_t)fixed[i].asked,
                                  (int64_t)fixed[i].is);
    }
    if (c->attribute_count != 0 &&
        (c->attributes == NULL ||
         memcmp(c->attributes, is->attributes, c->attribute_count * sizeof *c->attributes) != 0))
        return vs_node_refuse(n, VSHARD_EINVAL, "attributes", 0, 0);
    return VSHARD_OK;
}

static int alter(struct vshard_node *n, const struct vshard_collection *theirs, struct vs_out *o)
{
    const struct vs_collection *is;
    struct vshard_collection c;
    uint32_t voters = voting_nodes(n);
    int rc = vs_options_read(&c, sizeof c, theirs,
                             VS_SIZE_THROUGH(struct vshard_collection, attributes));

    if (rc != VSHARD_OK)
        return rc;
    is = c.name != NULL ? vs_cluster_find(&n->meta, c.name) : NULL;
    if (is == NULL)
        return vs_node_refuse(n, VSHARD_ENOTFOUND, "collection", 0, 0);
    rc = check_fixed(n, &c, &is->spec);
    if (rc != VSHARD_OK)
        return rc;
    if (c.ef_search > VSHARD_EF_MAX)
        return vs_node_refuse(n, VSHARD_EINVAL, "ef_search", c.ef_search, VSHARD_EF_MAX);
    if (c.replicas > VSHARD_REPLICAS_MAX - is->spec.learners)
        return vs_node_refuse(n, VSHARD_E2BIG, "replicas", c.replicas,
                              VSHARD_REPLICAS_MAX - is->spec.learners);
    if (c.replicas > voters)
        return vs_node_refuse(n, VSHARD_EBUSY, "replicas", c.replicas, voters);
    vs_cmd_alter(o, &c);
    return VSHARD_OK;
}

static int replace(struct vshard_node *n, const struct vshard_node_admin *a, struct vs_out *o)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, a->group, NULL);
    const struct vs_meta_node *to = vs_cluster_node(&n->meta, a->to);
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    bool found = false;

    if (shard == NULL || to == NULL)
        return VSHARD_ENOTFOUND;
    for (uint32_t i = 0; i < shard->member_count; i++) {
        if (shard->members[i].node == a->to)
            return VSHARD_EEXIST;
        found |= shard->members[i].node == a->node;
        members[i] = shard->members[i].node == a->node ? *to : shard->members[i];
    }
    if (!found)
        return VSHARD_ENOTFOUND;
    if (vs_cluster_votes(&n->meta, a->node) != vs_cluster_votes(&n->meta, a->to))
        return vs_node_refuse(n, VSHARD_EINVAL, "to", (int64_t)a->to, 0);
    vs_cmd_members(o, a->group, members, shard->member_count);
    return VSHARD_OK;
}

/* Who comes first among the members leads: steward.c, and the core by priority. */
static int lead(struct vshard_node *n, const struct vshard_node_admin *a, struct vs_out *o)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, a->group, NULL);
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    uint32_t at = 0;

    while (shard != NULL && at < shard->member_count && shard->members[at].node != a->node)
        at++;
    if (shard == NULL || at == shard->member_count)
        return VSHARD_ENOTFOUND;
    if (!vs_cluster_votes(&n->meta, a->node))
        return vs_node_refuse(n, VSHARD_EINVAL, "node", (int64_t)a->node, 0);
    if (at == 0)
        return VSHARD_OK; /* it is so */
    members[0] = shard->members[at];
    for (uint32_t i = 0, k = 1; i < shard->member_count; i++) {
        if (i != at)
            members[k++] = shard->members[i];
    }
    vs_cmd_members(o, a->group, members, shard->member_count);
    return VSHARD_OK;
}

/* As this node knows it: a command that is proposed again is about the same. 0, which none has,
 * where it is not known. */
static uint64_t present(const struct vshard_node *n, uint64_t node)
{
    const struct vs_meta_node *x = vs_cluster_node(&n->meta, node);

    return x != NULL ? x->incarnation : 0;
}

int vs_admin_command(struct vshard_node *n, const struct vshard_node_admin *a, struct vs_out *o)
{
    size_t length = a->name != NULL ? strlen(a->name) : 0;

    switch (a->op) {
    case VSHARD_ADMIN_CREATE:
        return a->collection != NULL ? create(n, a->collection, o) : VSHARD_EINVAL;
    case VSHARD_ADMIN_ALTER:
        return a->collection != NULL ? alter(n, a->collection, o) : VSHARD_EINVAL;
    case VSHARD_ADMIN_DROP:
        if (length == 0 || length > VSHARD_NAME_MAX)
            return vs_node_refuse(n, VSHARD_EINVAL, "name", (int64_t)length, VSHARD_NAME_MAX);
        vs_cmd_drop(o, a->name);
        return VSHARD_OK;
    case VSHARD_ADMIN_JOIN:
        if (vs_hosted(n)) { /* it writes itself down */
            vs_cmd_node(o, n->node, n->incarnation, n->region, n->level);
            return VSHARD_OK;
        }
        if (a->node == 0 || a->node == n->node)
            return vs_node_refuse(n, VSHARD_EINVAL, "node", (int64_t)a->node, 0);
        n->join_peer = a->node;
        return VSHARD_OK;
    case VSHARD_ADMIN_REMOVE_NODE:
        vs_cmd_node_remove(o, a->node, a->incarnation != 0 ? a->incarnation : present(n, a->node));
        return VSHARD_OK;
    case VSHARD_ADMIN_REPLACE: return replace(n, a, o);
    case VSHARD_ADMIN_LEAD: return lead(n, a, o);
    case VSHARD_ADMIN_PRIMARY: vs_cmd_primary(o, a->region); return VSHARD_OK;
    default: return vs_node_refuse(n, VSHARD_EINVAL, "op", a->op, VSHARD_ADMIN_ALTER);
    }
}
