/* flush.c - the only place where functions of the host are called with results.
 *
 * Frames leave before storage is waited for, answers when all else is done: at both
 * moments the node is whole. */
#include "node/core.h"

void vs_flush_frames(struct vshard_node *n)
{
    n->inside = 1;
    while (n->sending != NULL) {
        struct vs_sending *s = n->sending;

        n->sending = s->next;
        n->host.send(n->host.ctx, s->node, s + 1, s->count);
        vs_free(n->allocator, s, sizeof *s + s->cap);
    }
    n->sending_end = &n->sending;
    vs_hosted_flush(n);
    n->inside = 0;
}

static uint32_t positions_of(const struct vs_request *q, struct vshard_position *to)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < q->part_count; i++) {
        if (q->part[i].state == VS_PART_DONE)
            to[count++] = (struct vshard_position){ q->part[i].group, q->part[i].position,
                                                    q->part[i].epoch, 0 };
    }
    return count;
}

/* The lists of all shards that have answered, as one. */
static int merge(struct vshard_node *n, const struct vs_request *q, struct vshard_merge_hit *hits,
                 uint32_t *found)
{
    const struct vshard_merge_options o = { .size = sizeof o,
                                            .k = q->k,
                                            .flags = VSHARD_MERGE_SETTLED,
                                            .allocator = n->allocator,
                                            .logger = n->logger };
    size_t bytes = q->part_count * sizeof(struct vshard_merge_list);
    struct vshard_merge_list *lists = vs_alloc(n->allocator, bytes);
    int rc;

    if (lists == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < q->part_count; i++)
        lists[i] = (struct vshard_merge_list){ q->part[i].hits, q->part[i].found };
    rc = vshard_merge(&o, lists, q->part_count, hits, found);
    vs_free(n->allocator, lists, bytes);
    return rc;
}

static void hand_over(struct vshard_node *n, struct vs_request *q)
{
    size_t position_bytes = q->part_count * sizeof(struct vshard_position);
    size_t hit_bytes = q->kind == VSHARD_NODE_SEARCH ? q->k * sizeof(struct vshard_merge_hit) : 0;
    struct vshard_position *positions = vs_alloc(n->allocator, position_bytes);
    struct vshard_merge_hit *hits = hit_bytes != 0 ? vs_alloc(n->allocator, hit_bytes) : NULL;
    struct vshard_node_done d = { .size = sizeof d,
                                  .kind = q->kind,
                                  .tag = q->tag,
                                  .status = q->status,
                                  .limits = q->limits,
                                  .shards = q->part_count,
                                  .shards_answered = q->answered,
                                  .rows = q->rows,
                                  .distances = q->distances,
                                  .hedges = q->hedges,
                                  .retry_ns = q->status == VSHARD_EBUSY ? 20000000 : 0 };
    struct vshard_values values[VSHARD_ATTRIBUTES_MAX];

    if (q->status == VSHARD_OK &&
        ((positions == NULL && q->part_count != 0) || (hits == NULL && hit_bytes != 0)))
        d.status = VSHARD_ENOMEM;
    if (positions != NULL)
        d.position_count = positions_of(q, positions);
    d.positions = positions;
    if (d.status == VSHARD_OK && q->kind == VSHARD_NODE_SEARCH) {
        d.status = merge(n, q, hits, &d.hit_count);
        d.hits = hits;
    }
    if (d.status == VSHARD_OK && q->kind == VSHARD_NODE_FETCH) {
        d.version = q->version;
        d.vector_bytes = q->vector_bytes;
        d.value_count = q->value_count;
        d.payload_bytes = q->payload_bytes;
        d.vector = q->row.at;
        d.values = values;
        d.payload = vs_row_values(q->row.at, q->row.count, q->vector_bytes, q->value_count, values);
    }
    n->inside = 1;
    n->host.done(n->host.ctx, &d);
    n->inside = 0;
    vs_cache_keep(n, q, &d);
    vs_free(n->allocator, positions, position_bytes);
    vs_free(n->allocator, hits, hit_bytes);
}

void vs_flush_answers(struct vshard_node *n)
{
    while (n->ended != NULL) {
        struct vs_request *q = n->ended;

        n->ended = q->next;
        if (n->ended == NULL)
            n->ended_end = &n->ended;
        hand_over(n, q);
        vs_request_free(n, q);
    }
}
