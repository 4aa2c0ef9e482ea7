/* range.c - all rows within a radius of a query.
 *
 * Of a graph, a walk finds the rows nearest to the query. From those within the radius the
 * graph is followed breadth first, through rows within the radius alone: rows that are
 * near each other are neighbours, so what is within a ball hangs together. Each row met is
 * measured exactly, so that no margin for codes is needed. A filter has no say in where
 * the search goes, only in what it answers. */
#include "index/state.h"

struct flood {
    struct vs_walk *walk;
    struct vs_filter *filter;
    struct vs_top *top;
    float radius;
    uint32_t *queue; /* [cap] rows within the radius */
    uint32_t cap, count;
    bool full;
};

/* Measures the rows in s->slots, and takes those within the radius. */
static int take(struct vshard_index *x, struct flood *f, uint32_t count)
{
    struct vs_walk *w = f->walk;
    struct vs_scratch *s = w->scratch;

    for (uint32_t i = 0; i < count; i++) {
        int rc = vs_touch(x, s->slots[i]);

        if (rc < 0)
            return rc;
    }
    vs_walk_request(vs_exact(x, w->query.codes_only), s, count);
    vs_distances(x, &w->query, s, count);
    for (uint32_t i = 0; i < count; i++) {
        if (!(s->distances[i] <= f->radius))
            continue;
        f->full = f->full || f->count == f->cap;
        if (!f->full)
            f->queue[f->count++] = s->slots[i];
        if (vs_filter_allows(x, f->filter, s->slots[i], s->position))
            vs_top_offer(f->top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                        vs_row_at(x, s->slots[i])->id });
    }
    s->row_count += count;
    w->cut = w->limits && vs_limits_cut(w->limits, s->distance_count - w->counted, count);
    return VSHARD_OK;
}

/* Appends a row to s->slots if it was not met yet. */
static uint32_t meet(struct vs_scratch *s, uint32_t slot, uint32_t count)
{
    uint64_t bit = 1ull << (slot % 64);

    if (slot >= s->visited_slots || (s->visited[slot / 64] & bit))
        return count;
    s->visited[slot / 64] |= bit;
    s->slots[count] = slot;
    return count + 1;
}

static int take_pool(struct vshard_index *x, struct flood *f)
{
    struct vs_scratch *s = f->walk->scratch;
    int rc = VSHARD_OK;

    for (uint32_t first = 0; rc == VSHARD_OK && first < s->pool.count; first += s->list_cap) {
        uint32_t count = 0;

        for (uint32_t i = first; i < s->pool.count && i < first + s->list_cap; i++)
            count = meet(s, s->pool.slots[i] & ~VS_POOL_EXPANDED, count);
        rc = take(x, f, count);
    }
    return rc;
}

static int follow(struct vshard_index *x, struct flood *f)
{
    struct vs_scratch *s = f->walk->scratch;
    int rc = take_pool(x, f);

    for (uint32_t at = 0; rc == VSHARD_OK && at < f->count && !f->full && !f->walk->cut; at++) {
        const _Atomic uint32_t *edges = vs_edges_at(x, f->queue[at]);
        uint32_t count = 0;

        for (uint32_t i = 0; i < x->degree; i++) {
            uint32_t to = atomic_load_explicit(&edges[i], memory_order_acquire);

            if (to == VS_SLOT_NONE)
                break;
            count = meet(s, vs_moved(x, s, to), count);
        }
        s->hop_count++;
        rc = take(x, f, count);
    }
    return rc;
}

static int search_graph(struct vshard_index *x, struct vs_reader *r, struct vs_request *want,
                        struct vs_walk *w, struct vs_top *top)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    struct flood f = { .walk = w, .filter = want->filter, .top = top, .radius = want->farthest };
    int rc = vs_scratch_list(x, &r->scratch[1], slots / 4 + 1);

    if (rc < 0)
        return rc;
    vs_graph_walk(x, w, 1, want->width);
    if (w->status < 0)
        return w->status;
    f.queue = r->scratch[1].listed;
    f.cap = slots / 4 + 1;
    vs_visited_clear(x, w->scratch);
    rc = w->cut ? take_pool(x, &f) : follow(x, &f);
    if (rc == VSHARD_OK && !w->cut && f.full) {
        want->exact_scans++;
        w->filter = want->filter;
        rc = vs_scan_allowed(x, want, w, top);
    }
    vs_top_sort(top);
    return rc;
}

static int scan(struct vshard_index *x, struct vs_request *want, struct vs_walk *w,
                const void *query, struct vs_top *top)
{
    int rc;

    want->exact_scans++;
    if (want->filter == NULL && !want->limits.on) {
        w->scratch->row_count += x->live;
        return vs_flat_search_many(x, w->scratch, query, 1, top->cap, top);
    }
    w->filter = want->filter;
    rc = vs_scan_allowed(x, want, w, top);
    vs_top_sort(top);
    return rc;
}

static int search_range(struct vshard_index *x, struct vs_reader *r, const void *query,
                        struct vs_request *want, struct vs_top *top)
{
    struct vs_walk w = { .scratch = &r->scratch[0],
                         .limits = want->limits.on ? &want->limits : NULL };
    int rc = vs_request_run(x, r, query, 1, want, NULL);       /* a filter widens the beam */
    bool walks = rc == VSHARD_OK && vs_request_walks(x, want); /* a graph may begin, not end */

    if (rc < 0 || vs_limits_over(&want->limits))
        return rc;
    rc = vs_scratch_reserve(x, w.scratch, want->width, top->cap);
    if (rc == VSHARD_OK)
        rc = vs_query_check(x, query, walks, w.scratch, &w.query);
    if (rc < 0)
        return rc;
    top->items = w.scratch->top;
    if (walks)
        rc = search_graph(x, r, want, &w, top);
    else
        rc = scan(x, want, &w, query, top);
    while (top->count > 0 && !(top->items[top->count - 1].distance <= want->farthest))
        top->count--;
    return rc;
}

static int check_range(const struct vshard_index *x, const void *query, float radius,
                       const struct vshard_hit *hits, size_t room)
{
    const char *bad = query == NULL      ? "query: NULL"
                      : hits == NULL     ? "hits: NULL"
                      : radius != radius ? "radius: NaN"
                                         : NULL;

    if (bad != NULL)
        return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", bad, 0, 0);
    if (room == 0 || room > VSHARD_RANGE_MAX)
        return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", "room", (int64_t)room,
                         VSHARD_RANGE_MAX);
    return VSHARD_OK;
}

int vshard_index_range(struct vshard_index *index, const void *query, float radius,
                       struct vshard_hit *hits, size_t room,
                       const struct vshard_search_options *options)
{
    struct vs_top top = { 0 };
    struct vs_request want;
    struct vs_reader *r;
    uint32_t slots;
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    rc = check_range(index, query, radius, hits, room);
    if (rc == VSHARD_OK)
        rc = vs_request_begin(index, options, 1, &radius, &want, &r);
    if (rc < 0)
        return rc;
    slots = atomic_load_explicit(&index->slot_count, memory_order_relaxed);
    top.cap = room < slots ? (uint32_t)room : slots + (slots == 0);
    rc = search_range(index, r, query, &want, &top);
    for (uint32_t i = 0; rc == VSHARD_OK && i < top.count; i++)
        hits[i] = (struct vshard_hit){ top.items[i].id, top.items[i].distance, 0 };
    if (rc == VSHARD_OK && want.found != NULL)
        *want.found = top.count;
    return vs_request_end(index, r, &want, rc);
}
