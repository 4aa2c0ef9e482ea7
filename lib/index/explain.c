/* explain.c - why a row was an answer, or was not. The search is run once more, and leaves
 * behind which rows it met; then all rows are measured, which tells the true rank. */
#include "index/state.h"

#include <math.h>

struct inquiry {
    struct vshard_index *x;
    struct vs_reader *reader;
    struct vs_request *want;
    uint64_t id;
    uint32_t slot;
    bool answered, met;
    struct vshard_explanation e;
};

static int search_again(struct inquiry *q, const void *query, struct vshard_hit *hits)
{
    struct vs_request *want = q->want;
    uint32_t found = 0;
    int rc;

    want->found = &found;
    rc = vs_request_run(q->x, q->reader, query, 1, want, hits);
    for (uint32_t i = 0; rc == VSHARD_OK && i < found; i++)
        q->answered = q->answered || hits[i].id == q->id;
    q->e.limits = want->limits.cut;
    if (q->id != VSHARD_ID_NONE) /* as the search saw it in the end */
        q->slot = vs_find_visible(q->x, q->id, q->reader->scratch[0].position);
    if (rc == VSHARD_OK && q->slot != VS_SLOT_NONE && q->slot < q->reader->scratch[0].visited_slots)
        q->met = q->reader->scratch[0].visited[q->slot / 64] >> (q->slot % 64) & 1;
    return rc;
}

/* Measures every row: how far ours is, and how many come before it. */
static int rank(struct inquiry *q, const void *query)
{
    struct vshard_index *x = q->x;
    struct vs_scratch *s = &q->reader->scratch[0];
    struct vs_candidate ours = { .slot = q->slot, .id = q->id };
    struct vs_query prepared;
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    int rc = vs_query_check(x, query, false, s, &prepared);

    if (rc < 0)
        return rc;
    if (q->slot != VS_SLOT_NONE) {
        s->slots[0] = q->slot;
        vs_distances(x, &prepared, s, 1);
        q->e.distance = ours.distance = s->distances[0];
    }
    for (uint32_t slot = 0; rc == VSHARD_OK && slot < slots; slot++) {
        if (slot % VS_EXTENT_ROWS == 0)
            rc = vs_touch(x, slot);
        if (rc < 0 || !vs_filter_allows(x, q->want->filter, slot, s->position))
            continue;
        q->e.candidates++;
        if (q->slot == VS_SLOT_NONE)
            continue;
        s->slots[0] = slot;
        vs_distances(x, &prepared, s, 1);
        q->e.rank += vs_nearer(
            &(struct vs_candidate){ s->distances[0], slot, vs_row_at(x, slot)->id }, &ours);
    }
    return rc;
}

static int judge(struct inquiry *q)
{
    const struct vs_request *want = q->want;
    bool reached = true;
    int rc = VSHARD_OK;

    if (q->answered)
        q->e.why = VSHARD_WHY_RETURNED;
    else if (q->slot == VS_SLOT_NONE)
        q->e.why = VSHARD_WHY_ABSENT;
    else if (!vs_filter_allows(q->x, want->filter, q->slot, q->reader->scratch[0].position))
        q->e.why = VSHARD_WHY_FILTERED;
    else if (q->e.distance > want->farthest)
        q->e.why = VSHARD_WHY_DISTANCE;
    else if (q->e.rank >= want->k)
        q->e.why = VSHARD_WHY_RANK;
    else if (q->e.limits != 0)
        q->e.why = VSHARD_WHY_LIMIT;
    else if (q->met)
        q->e.why = VSHARD_WHY_BEAM;
    else {
        rc = vs_reaches(q->x, &q->reader->scratch[0], q->slot, &reached);
        q->e.why = reached ? VSHARD_WHY_PATH : VSHARD_WHY_UNREACHABLE;
    }
    return rc;
}

static int inquire(struct inquiry *q, const void *query)
{
    size_t bytes = q->want->k * sizeof(struct vshard_hit);
    struct vshard_hit *hits = vs_alloc(q->x->allocator, bytes);
    int rc = hits ? search_again(q, query, hits) : VSHARD_ENOMEM;

    vs_free(q->x->allocator, hits, bytes);
    if (rc == VSHARD_OK)
        rc = rank(q, query);
    return rc < 0 ? rc : judge(q);
}

int vshard_index_explain(struct vshard_index *index, const void *query, uint64_t id, size_t k,
                         const struct vshard_search_options *options,
                         struct vshard_explanation *explanation)
{
    const uint32_t min_size = VS_SIZE_THROUGH(struct vshard_explanation, limits);
    struct inquiry q = { .x = index, .id = id, .slot = VS_SLOT_NONE, .e.distance = INFINITY };
    struct vshard_search_options o = { .size = sizeof o };
    struct vs_request want;
    int rc = VSHARD_OK;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (query == NULL || explanation == NULL)
        return vs_refuse(index->logger, VSHARD_EINVAL, "search.refused",
                         query == NULL ? "query: NULL" : "explanation: NULL", 0, 0);
    if (vs_report_write(explanation, &q.e, sizeof q.e, min_size) < 0)
        return vs_refuse(index->logger, VSHARD_EINVAL, "search.refused", "explanation.size",
                         explanation->size, sizeof q.e);
    if (options != NULL)
        rc = vs_request_options(index, options, &o);
    o.info = NULL;
    if (rc == VSHARD_OK)
        rc = vs_request_begin(index, &o, k, NULL, &want, &q.reader);
    if (rc < 0)
        return rc;
    q.want = &want;
    want.flags &= VSHARD_SEARCH_WITHIN;
    rc = inquire(&q, query);
    if (rc == VSHARD_OK)
        rc = vs_report_write(explanation, &q.e, sizeof q.e, min_size);
    return vs_request_end(index, q.reader, &want, rc);
}
