/* meta.c - the cluster's map, as a state machine: nodes, collections, and which nodes hold
 * which shards.
 *
 * It is replicated by group 0, of which every node is a member, so each node knows the
 * map and asks nobody. A command says what shall be and is checked against what is; what
 * it came to is the same on every replica. Where shards go is decided by the proposer, who
 * knows who is alive, and only checked here.
 *
 * A group is born by its founders, who are written down for good: a founder that has
 * nothing of the group on disk gives birth to it (again), since nothing was promised. Who
 * came later waits to be told.
 *
 * An incarnation that is a member no more, because its node was removed or has come back with an
 * empty directory, does not become one again: what asks for that was asked before, and comes late.
 * Those that were given up are known by name, the last VS_FORMER of them.
 *
 *     command   4 kind, then
 *     NODE      8 node, 8 incarnation, 4 region, 4 level: it is a member, from now on under
 *               this incarnation, and knows this level
 *     NODE_REMOVE  8 node, 8 incarnation: it goes, if it has that incarnation; as long as it has
 *               replicas, it is marked as leaving. One that ends behind the node, as they did
 *               before, means whichever incarnation it has
 *     CREATE    collection, [shards x replicas x 8] nodes
 *     DROP      text name
 *     ALTER     text name, 4 ef_search, 4 replicas, 8 max_rows: 0 leaves what is, and all ones
 *               are no limit of rows
 *     MEMBERS   8 group, 4 count, [count x (8 node, 8 incarnation)]: who shall be in it
 *     PRIMARY   4 region: replicas there vote from now on, and all others learn
 *     LEVEL     4 level: each node knows it (level.c)
 *
 *     collection  text name, 13 x 4, 2 x 8: the fields of struct vshard_collection from
 *                 dim to learners, and seed, max_rows; [attributes x (4 type, 60 name)]
 *     state     "VSMETA5\0", 8 applied, 8 next group, 4 next collection, 4 nodes, 4 settled,
 *               4 primary, 4 level, [nodes x (8, 8)], [nodes x 4 leaving], [nodes x 4 region],
 *               [nodes x 4 level], 4 former, [former x (8, 8)], 4 collections, and for each 4 id,
 *               collection, and for each shard 8 group, 4 founders, 4 members, [.. x (8, 8)]
 *
 * A shard's members are in two parts, those that vote first, so the first may lead. */
#include "node/core.h"

static const char magic[8] = "VSMETA5";

void vs_cluster_init(struct vs_cluster *m, const struct vshard_allocator *a,
                     const struct vshard_logger *logger)
{
    memset(m, 0, sizeof *m);
    m->allocator = a;
    m->logger = logger;
    m->known = VS_LEVEL;
    m->level = 1;
    m->next_group = VS_META + 1;
    m->next_collection = 1;
}

static void collection_free(struct vs_cluster *m, struct vs_collection *c)
{
    if (c == NULL)
        return;
    vshard_map_destroy(c->map);
    vs_free(m->allocator, c->shard, c->spec.shards * sizeof *c->shard);
    vs_free(m->allocator, c, sizeof *c);
}

void vs_cluster_fini(struct vs_cluster *m)
{
    uint32_t known = m->known;

    for (uint32_t i = 0; i < m->collection_count; i++)
        collection_free(m, m->collection[i]);
    vs_cluster_init(m, m->allocator, m->logger);
    m->known = known;
}

/* ---- looking up ---- */

struct vs_collection *vs_cluster_find(const struct vs_cluster *m, const char *name)
{
    for (uint32_t i = 0; i < m->collection_count; i++) {
        if (strcmp(m->collection[i]->name, name) == 0)
            return m->collection[i];
    }
    return NULL;
}

const struct vs_meta_shard *vs_cluster_group(const struct vs_cluster *m, uint64_t group,
                                             const struct vs_collection **collection)
{
    for (uint32_t i = 0; i < m->collection_count; i++) {
        const struct vs_collection *c = m->collection[i];

        /* Its groups were numbered when it was created, without gaps. */
        if (group < c->shard[0].group || group - c->shard[0].group >= c->spec.shards)
            continue;
        if (collection != NULL)
            *collection = c;
        return &c->shard[group - c->shard[0].group];
    }
    return NULL;
}

const struct vs_meta_node *vs_cluster_node(const struct vs_cluster *m, uint64_t node)
{
    for (uint32_t i = 0; i < m->node_count; i++) {
        if (m->node[i].node == node)
            return &m->node[i];
    }
    return NULL;
}

/* It was a member under this incarnation, and has been given up. */
static bool is_former(const struct vs_cluster *m, uint64_t node, uint64_t incarnation)
{
    for (uint32_t i = 0; i < m->former_count; i++) {
        if (m->former[i].node == node && m->former[i].incarnation == incarnation)
            return true;
    }
    return false;
}

bool vs_cluster_leaves(const struct vs_cluster *m, uint64_t node)
{
    const struct vs_meta_node *x = vs_cluster_node(m, node);

    return x != NULL && m->leaving[x - m->node] != 0;
}

bool vs_cluster_votes(const struct vs_cluster *m, uint64_t node)
{
    const struct vs_meta_node *x = vs_cluster_node(m, node);

    return x != NULL && m->region[x - m->node] == m->primary;
}

static void voters_first(const struct vs_cluster *m, struct vs_meta_shard *shard)
{
    struct vs_meta_node members[VS_COUNT(shard->members)];
    uint32_t count = 0;

    for (int votes = 1; votes >= 0; votes--) {
        for (uint32_t i = 0; i < shard->member_count; i++) {
            if (vs_cluster_votes(m, shard->members[i].node) == votes)
                members[count++] = shard->members[i];
        }
    }
    memcpy(shard->members, members, count * sizeof *members);
}

/* ---- collections as bytes ---- */

static void put_spec(struct vs_out *o, const struct vshard_collection *c)
{
    const uint32_t field[13] = { c->dim,     c->family,          c->metric,    c->element,
                                 c->m,       c->ef_construction, c->ef_search, c->train_rows,
                                 c->profile, c->shards,          c->replicas,  c->attribute_count,
                                 c->learners };

    vs_put_text(o, c->name);
    for (size_t i = 0; i < VS_COUNT(field); i++)
        vs_put32(o, field[i]);
    vs_put64(o, c->seed);
    vs_put64(o, c->max_rows);
    for (uint32_t i = 0; i < c->attribute_count; i++) {
        vs_put32(o, c->attributes[i].type);
        vs_put_bytes(o, c->attributes[i].name, sizeof c->attributes[i].name);
    }
}

static void take_attributes(struct vs_in *in, struct vs_collection *to)
{
    for (uint32_t i = 0; i < to->spec.attribute_count && in->status == VSHARD_OK; i++) {
        struct vshard_attribute *a = &to->attributes[i];
        const void *name;

        a->type = vs_take32(in);
        name = vs_take_bytes(in, sizeof a->name);
        if (name == NULL || vs_value_bytes(a->type) == 0)
            in->status = VSHARD_ECORRUPT;
        else
            memcpy(a->name, name, sizeof a->name);
    }
    to->spec.attributes = to->attributes;
}

static void take_spec(struct vs_in *in, struct vs_collection *to)
{
    struct vshard_collection *c = &to->spec;
    uint32_t *const field[13] = { &c->dim,       &c->family,     &c->metric,
                                  &c->element,   &c->m,          &c->ef_construction,
                                  &c->ef_search, &c->train_rows, &c->profile,
                                  &c->shards,    &c->replicas,   &c->attribute_count,
                                  &c->learners };

    vs_take_text(in, to->name);
    for (size_t i = 0; i < VS_COUNT(field); i++)
        *field[i] = vs_take32(in);
    c->seed = vs_take64(in);
    c->max_rows = vs_take64(in);
    c->size = sizeof *c;
    c->name = to->name;
    if (to->name[0] == 0 || c->shards == 0 || c->shards > VSHARD_CLUSTER_SHARDS_MAX ||
        c->replicas == 0 || c->replicas > VSHARD_REPLICAS_MAX ||
        c->learners > VSHARD_REPLICAS_MAX - c->replicas ||
        c->attribute_count > VSHARD_ATTRIBUTES_MAX) {
        in->status = VSHARD_ECORRUPT;
        return;
    }
    take_attributes(in, to);
}

/* The ring of a collection: a function of the number of its shards. */
static int make_map(const struct vs_cluster *m, struct vs_collection *c)
{
    const struct vshard_map_options o = { .size = sizeof o,
                                          .allocator = m->allocator,
                                          .logger = m->logger };

    return vs_map_even(&o, c->spec.shards, &c->map);
}

static int collection_take(const struct vs_cluster *m, struct vs_in *in, struct vs_collection **out)
{
    struct vs_collection *c = vs_alloc_zeroed(m->allocator, sizeof *c);
    int rc;

    *out = c;
    if (c == NULL)
        return VSHARD_ENOMEM;
    take_spec(in, c);
    if (in->status != VSHARD_OK) {
        c->spec.shards = 0;
        return in->status;
    }
    /* Not before it is plain that they are there: whoever wrote this may not be believed. */
    if (c->spec.shards > in->left / 8 ||
        m->shard_count + c->spec.shards > VSHARD_CLUSTER_SHARDS_MAX) {
        rc = c->spec.shards > in->left / 8 ? VSHARD_ECORRUPT : VSHARD_E2BIG;
        c->spec.shards = 0;
        return rc;
    }
    c->shard = vs_alloc_zeroed(m->allocator, c->spec.shards * sizeof *c->shard);
    if (c->shard == NULL) {
        c->spec.shards = 0;
        return VSHARD_ENOMEM;
    }
    rc = make_map(m, c);
    return rc;
}

/* ---- commands ---- */

void vs_cmd_node(struct vs_out *o, uint64_t node, uint64_t incarnation, uint32_t region,
                 uint32_t level)
{
    vs_put32(o, VS_CMD_NODE);
    vs_put64(o, node);
    vs_put64(o, incarnation);
    vs_put32(o, region);
    vs_put32(o, level);
}

void vs_cmd_level(struct vs_out *o, uint32_t level)
{
    vs_put32(o, VS_CMD_LEVEL);
    vs_put32(o, level);
}

void vs_cmd_primary(struct vs_out *o, uint32_t region)
{
    vs_put32(o, VS_CMD_PRIMARY);
    vs_put32(o, region);
}

void vs_cmd_node_remove(struct vs_out *o, uint64_t node, uint64_t incarnation)
{
    vs_put32(o, VS_CMD_NODE_REMOVE);
    vs_put64(o, node);
    vs_put64(o, incarnation);
}

void vs_cmd_create(struct vs_out *o, const struct vshard_collection *c, const uint64_t *nodes)
{
    vs_put32(o, VS_CMD_CREATE);
    put_spec(o, c);
    for (size_t i = 0; i < (size_t)c->shards * c->replicas; i++)
        vs_put64(o, nodes[i]);
}

void vs_cmd_drop(struct vs_out *o, const char *name)
{
    vs_put32(o, VS_CMD_DROP);
    vs_put_text(o, name);
}

void vs_cmd_alter(struct vs_out *o, const struct vshard_collection *c)
{
    vs_put32(o, VS_CMD_ALTER);
    vs_put_text(o, c->name);
    vs_put32(o, c->ef_search);
    vs_put32(o, c->replicas);
    vs_put64(o, c->max_rows);
}

void vs_cmd_members(struct vs_out *o, uint64_t group, const struct vs_meta_node *members,
                    uint32_t count)
{
    vs_put32(o, VS_CMD_MEMBERS);
    vs_put64(o, group);
    vs_put32(o, count);
    for (uint32_t i = 0; i < count; i++) {
        vs_put64(o, members[i].node);
        vs_put64(o, members[i].incarnation);
    }
}

static void give_up(struct vs_cluster *m, struct vs_meta_node x)
{
    if (m->former_count == VS_FORMER)
        memmove(&m->former[0], &m->former[1], --m->former_count * sizeof *m->former);
    m->former[m->former_count++] = x;
}

int vs_cluster_admits(const struct vs_cluster *m, uint64_t node, uint64_t incarnation,
                      uint32_t level)
{
    if (level < m->level)
        return VSHARD_EVERSION;
    if (is_former(m, node, incarnation))
        return VSHARD_ESTALE;
    return m->node_count == VSHARD_NODES_MAX && vs_cluster_node(m, node) == NULL ? VSHARD_E2BIG
                                                                                 : VSHARD_OK;
}

static int apply_node(struct vs_cluster *m, struct vs_in *in)
{
    struct vs_meta_node x;
    uint32_t at = 0, region, level;
    int rc;

    x.node = vs_take64(in);
    x.incarnation = vs_take64(in);
    region = vs_take32(in);
    level = vs_take32(in);
    if (in->status != VSHARD_OK || x.node == 0 || x.incarnation == 0)
        return VSHARD_EINVAL;
    rc = vs_cluster_admits(m, x.node, x.incarnation, level);
    if (rc != VSHARD_OK)
        return rc;
    while (at < m->node_count && m->node[at].node < x.node)
        at++;
    if (at == m->node_count || m->node[at].node != x.node) {
        memmove(&m->node[at + 1], &m->node[at], (m->node_count - at) * sizeof *m->node);
        memmove(&m->leaving[at + 1], &m->leaving[at], (m->node_count - at) * sizeof *m->leaving);
        memmove(&m->region[at + 1], &m->region[at], (m->node_count - at) * sizeof *m->region);
        memmove(&m->announced[at + 1], &m->announced[at],
                (m->node_count - at) * sizeof *m->announced);
        m->node_count++;
        m->leaving[at] = 0;
    } else if (m->node[at].incarnation != x.incarnation) {
        give_up(m, m->node[at]);
        m->leaving[at] = 0;
    }
    m->node[at] = x;
    m->region[at] = region;
    m->announced[at] = level;
    return VSHARD_OK;
}

bool vs_cluster_holds(const struct vs_cluster *m, uint64_t node)
{
    for (uint32_t i = 0; i < m->collection_count; i++) {
        for (uint32_t s = 0; s < m->collection[i]->spec.shards; s++) {
            const struct vs_meta_shard *shard = &m->collection[i]->shard[s];

            for (uint32_t k = 0; k < shard->member_count; k++) {
                if (shard->members[k].node == node)
                    return true;
            }
        }
    }
    return false;
}

/* A node that has replicas is only marked: they are moved, and then it is removed. One that has
 * come back with an empty directory meanwhile is not who was meant. */
static int apply_node_remove(struct vs_cluster *m, struct vs_in *in)
{
    uint64_t node = vs_take64(in);
    bool any = in->left == 0;
    uint64_t incarnation = any ? 0 : vs_take64(in);
    const struct vs_meta_node *x = vs_cluster_node(m, node);
    size_t at, behind;

    if (in->status != VSHARD_OK)
        return VSHARD_EINVAL;
    if (x == NULL)
        return VSHARD_ENOTFOUND;
    if (!any && x->incarnation != incarnation)
        return VSHARD_ESTALE;
    if (m->node_count == 1)
        return VSHARD_EBUSY;
    at = (size_t)(x - m->node);
    m->settled = 1;
    if (vs_cluster_holds(m, node)) {
        m->leaving[at] = 1;
        return VSHARD_OK;
    }
    give_up(m, *x);
    behind = m->node_count - at - 1;
    memmove(&m->node[at], &m->node[at + 1], behind * sizeof *m->node);
    memmove(&m->leaving[at], &m->leaving[at + 1], behind * sizeof *m->leaving);
    memmove(&m->region[at], &m->region[at + 1], behind * sizeof *m->region);
    memmove(&m->announced[at], &m->announced[at + 1], behind * sizeof *m->announced);
    m->node_count--;
    return VSHARD_OK;
}

static int place(struct vs_cluster *m, struct vs_in *in, struct vs_collection *c)
{
    for (uint32_t s = 0; s < c->spec.shards; s++) {
        struct vs_meta_shard *shard = &c->shard[s];

        shard->group = m->next_group + s;
        shard->founder_count = shard->member_count = c->spec.replicas;
        for (uint32_t i = 0; i < c->spec.replicas; i++) {
            uint64_t node = vs_take64(in);
            const struct vs_meta_node *x = vs_cluster_node(m, node);

            if (x == NULL)
                return VSHARD_ENOTFOUND;
            if (!vs_cluster_votes(m, node))
                return VSHARD_EINVAL;
            for (uint32_t k = 0; k < i; k++) {
                if (shard->founders[k].node == node)
                    return VSHARD_EINVAL;
            }
            shard->founders[i] = shard->members[i] = *x;
        }
    }
    return in->status == VSHARD_OK && in->left == 0 ? VSHARD_OK : VSHARD_EINVAL;
}

static int apply_create(struct vs_cluster *m, struct vs_in *in)
{
    struct vs_collection *c;
    int rc = collection_take(m, in, &c);

    if (rc == VSHARD_OK && vs_cluster_find(m, c->name) != NULL)
        rc = VSHARD_EEXIST;
    if (rc == VSHARD_OK && m->collection_count == VSHARD_COLLECTIONS_MAX)
        rc = VSHARD_E2BIG;
    if (rc == VSHARD_OK)
        rc = place(m, in, c);
    if (rc != VSHARD_OK) {
        collection_free(m, c);
        return rc == VSHARD_ECORRUPT ? VSHARD_EINVAL : rc;
    }
    c->id = m->next_collection++;
    m->next_group += c->spec.shards;
    m->shard_count += c->spec.shards;
    m->collection[m->collection_count++] = c;
    return VSHARD_OK;
}

static int apply_drop(struct vs_cluster *m, struct vs_in *in)
{
    char name[VSHARD_NAME_MAX + 1];

    vs_take_text(in, name);
    for (uint32_t i = 0; i < m->collection_count; i++) {
        struct vs_collection *c = m->collection[i];

        if (strcmp(c->name, name) != 0)
            continue;
        m->shard_count -= c->spec.shards;
        m->collection_count--;
        memmove(&m->collection[i], &m->collection[i + 1],
                (m->collection_count - i) * sizeof m->collection[0]);
        collection_free(m, c);
        return VSHARD_OK;
    }
    return VSHARD_ENOTFOUND;
}

static int apply_alter(struct vs_cluster *m, struct vs_in *in)
{
    char name[VSHARD_NAME_MAX + 1];
    struct vs_collection *c;
    uint32_t ef_search, replicas;
    uint64_t max_rows;

    vs_take_text(in, name);
    c = vs_cluster_find(m, name);
    ef_search = vs_take32(in);
    replicas = vs_take32(in);
    max_rows = vs_take64(in);
    if (in->status != VSHARD_OK || ef_search > VSHARD_EF_MAX)
        return VSHARD_EINVAL;
    if (c == NULL)
        return VSHARD_ENOTFOUND;
    if (replicas > VSHARD_REPLICAS_MAX - c->spec.learners)
        return VSHARD_E2BIG;
    c->spec.ef_search = ef_search != 0 ? ef_search : c->spec.ef_search;
    c->spec.replicas = replicas != 0 ? replicas : c->spec.replicas;
    if (max_rows != 0)
        c->spec.max_rows = max_rows != UINT64_MAX ? max_rows : 0;
    return VSHARD_OK;
}

static int apply_members(struct vs_cluster *m, struct vs_in *in)
{
    struct vs_meta_shard *shard =
        (struct vs_meta_shard *)(uintptr_t)vs_cluster_group(m, vs_take64(in), NULL);
    struct vs_meta_node members[VSHARD_REPLICAS_MAX + 1];
    uint32_t count = vs_take32(in);

    if (shard == NULL)
        return VSHARD_ENOTFOUND;
    if (count == 0 || count > VSHARD_REPLICAS_MAX + 1)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        members[i].node = vs_take64(in);
        members[i].incarnation = vs_take64(in);
        if (vs_cluster_node(m, members[i].node) == NULL)
            return VSHARD_ENOTFOUND;
        for (uint32_t k = 0; k < i; k++) {
            if (members[k].node == members[i].node)
                return VSHARD_EINVAL;
        }
    }
    if (in->status != VSHARD_OK)
        return VSHARD_EINVAL;
    if (!vs_cluster_votes(m, members[0].node))
        return VSHARD_EINVAL;
    memcpy(shard->members, members, count * sizeof *members);
    shard->member_count = count;
    voters_first(m, shard);
    return VSHARD_OK;
}

static bool stands_in(const struct vs_cluster *m, const struct vs_meta_shard *shard,
                      uint32_t region)
{
    for (uint32_t i = 0; i < shard->member_count; i++) {
        const struct vs_meta_node *x = vs_cluster_node(m, shard->members[i].node);

        if (x != NULL && m->region[x - m->node] == region)
            return true;
    }
    return false;
}

/* Not without a replica there of every shard, and a node that can hold the map. */
static int apply_primary(struct vs_cluster *m, struct vs_in *in)
{
    uint32_t region = vs_take32(in), there = 0;

    if (in->status != VSHARD_OK)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < m->node_count; i++)
        there += m->region[i] == region;
    if (there == 0)
        return VSHARD_ENOTFOUND;
    for (uint32_t i = 0; i < m->collection_count; i++) {
        for (uint32_t s = 0; s < m->collection[i]->spec.shards; s++) {
            if (!stands_in(m, &m->collection[i]->shard[s], region))
                return VSHARD_EBUSY;
        }
    }
    m->primary = region;
    for (uint32_t i = 0; i < m->collection_count; i++) {
        for (uint32_t s = 0; s < m->collection[i]->spec.shards; s++)
            voters_first(m, &m->collection[i]->shard[s]);
    }
    return VSHARD_OK;
}

/* Beyond what this replica knows it must not go: then it stops. */
static int apply_level(struct vs_cluster *m, struct vs_in *in)
{
    uint32_t level = vs_take32(in);

    if (in->status != VSHARD_OK || level < m->level)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < m->node_count; i++) {
        if (m->announced[i] < level)
            return VSHARD_EBUSY;
    }
    m->level = level;
    return VSHARD_OK;
}

/* Groups are numbered apart in each epoch: what was created by those who have been given up may
 * live on at them, and must not be taken for what has been created since. */
void vs_cluster_epoch(struct vs_cluster *m, uint64_t epoch)
{
    uint64_t first = epoch << 32;

    m->next_group = first > m->next_group ? first : m->next_group;
}

int vs_cluster_apply(struct vs_cluster *m, uint64_t index, const void *bytes, size_t count)
{
    struct vs_in in = { .at = bytes, .left = count };
    int rc = VSHARD_ENOTSUP;

    switch (vs_take32(&in)) {
    case VS_CMD_NODE: rc = apply_node(m, &in); break;
    case VS_CMD_NODE_REMOVE: rc = apply_node_remove(m, &in); break;
    case VS_CMD_CREATE: rc = apply_create(m, &in); break;
    case VS_CMD_DROP: rc = apply_drop(m, &in); break;
    case VS_CMD_MEMBERS: rc = apply_members(m, &in); break;
    case VS_CMD_PRIMARY: rc = apply_primary(m, &in); break;
    case VS_CMD_ALTER: rc = apply_alter(m, &in); break;
    case VS_CMD_LEVEL: rc = apply_level(m, &in); break;
    default: return VSHARD_EVERSION; /* of a later version: this replica must not guess */
    }
    if (rc == VSHARD_ENOMEM)
        return rc;
    if (m->level > m->known)
        return VSHARD_EVERSION;
    m->applied = index;
    m->result[index % VS_RESULTS].index = index;
    m->result[index % VS_RESULTS].status = rc;
    return VSHARD_OK;
}

/* ---- the state as bytes ---- */

static void put_nodes(struct vs_out *o, const struct vs_meta_node *x, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        vs_put64(o, x[i].node);
        vs_put64(o, x[i].incarnation);
    }
}

static void take_nodes(struct vs_in *in, struct vs_meta_node *x, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        x[i].node = vs_take64(in);
        x[i].incarnation = vs_take64(in);
    }
}

void vs_cluster_encode(const struct vs_cluster *m, struct vs_out *o)
{
    vs_put_bytes(o, magic, sizeof magic);
    vs_put64(o, m->applied);
    vs_put64(o, m->next_group);
    vs_put32(o, m->next_collection);
    vs_put32(o, m->node_count);
    vs_put32(o, m->settled);
    vs_put32(o, m->primary);
    vs_put32(o, m->level);
    put_nodes(o, m->node, m->node_count);
    for (uint32_t i = 0; i < m->node_count; i++)
        vs_put32(o, m->leaving[i]);
    for (uint32_t i = 0; i < m->node_count; i++)
        vs_put32(o, m->region[i]);
    for (uint32_t i = 0; i < m->node_count; i++)
        vs_put32(o, m->announced[i]);
    vs_put32(o, m->former_count);
    put_nodes(o, m->former, m->former_count);
    vs_put32(o, m->collection_count);
    for (uint32_t i = 0; i < m->collection_count; i++) {
        const struct vs_collection *c = m->collection[i];

        vs_put32(o, c->id);
        put_spec(o, &c->spec);
        for (uint32_t s = 0; s < c->spec.shards; s++) {
            vs_put64(o, c->shard[s].group);
            vs_put32(o, c->shard[s].founder_count);
            vs_put32(o, c->shard[s].member_count);
            put_nodes(o, c->shard[s].founders, c->shard[s].founder_count);
            put_nodes(o, c->shard[s].members, c->shard[s].member_count);
        }
    }
}

static int take_collection(struct vs_cluster *m, struct vs_in *in)
{
    uint32_t id = vs_take32(in);
    struct vs_collection *c;
    int rc = collection_take(m, in, &c);

    for (uint32_t s = 0; rc == VSHARD_OK && s < c->spec.shards; s++) {
        struct vs_meta_shard *x = &c->shard[s];

        x->group = vs_take64(in);
        x->founder_count = vs_take32(in);
        x->member_count = vs_take32(in);
        if (x->founder_count > VSHARD_REPLICAS_MAX || x->member_count > VSHARD_REPLICAS_MAX + 1 ||
            x->group != c->shard[0].group + s || x->group == VS_META)
            rc = VSHARD_ECORRUPT;
        if (rc == VSHARD_OK) {
            take_nodes(in, x->founders, x->founder_count);
            take_nodes(in, x->members, x->member_count);
            rc = in->status;
        }
    }
    if (rc != VSHARD_OK) {
        collection_free(m, c);
        return rc;
    }
    c->id = id;
    m->shard_count += c->spec.shards;
    m->collection[m->collection_count++] = c;
    return VSHARD_OK;
}

int vs_cluster_decode(struct vs_cluster *m, struct vs_in *in)
{
    const void *head = vs_take_bytes(in, sizeof magic);
    uint32_t collections;
    int rc = VSHARD_OK;

    vs_cluster_fini(m);
    if (head == NULL || memcmp(head, magic, 6) != 0)
        return VSHARD_ECORRUPT;
    if (memcmp(head, magic, sizeof magic) != 0)
        return VSHARD_EVERSION;
    m->applied = vs_take64(in);
    m->next_group = vs_take64(in);
    m->next_collection = vs_take32(in);
    m->node_count = vs_take32(in);
    if (m->node_count > VSHARD_NODES_MAX) {
        m->node_count = 0;
        return VSHARD_ECORRUPT;
    }
    m->settled = vs_take32(in);
    m->primary = vs_take32(in);
    m->level = vs_take32(in);
    if (m->level > m->known)
        return VSHARD_EVERSION;
    take_nodes(in, m->node, m->node_count);
    for (uint32_t i = 0; i < m->node_count; i++)
        m->leaving[i] = vs_take32(in);
    for (uint32_t i = 0; i < m->node_count; i++)
        m->region[i] = vs_take32(in);
    for (uint32_t i = 0; i < m->node_count; i++)
        m->announced[i] = vs_take32(in);
    m->former_count = vs_take32(in);
    if (m->former_count > VS_FORMER) {
        m->former_count = 0;
        return VSHARD_ECORRUPT;
    }
    take_nodes(in, m->former, m->former_count);
    collections = vs_take32(in);
    if (collections > VSHARD_COLLECTIONS_MAX)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; rc == VSHARD_OK && i < collections; i++)
        rc = take_collection(m, in);
    return rc == VSHARD_OK ? in->status : rc;
}
