/* search.c - one call, many queries. */
#include "index/state.h"

struct request {
    uint32_t ef;
    uint32_t flags;
    float recall; /* expected */
    size_t k;
    uint64_t exact_scans;
};

static uint64_t wanted(const struct vshard_index *x, const struct vs_top *top)
{
    return x->live < top->cap ? x->live : top->cap;
}

/* Widens the beam until there are enough answers, as after many removals; what even
 * the widest cannot reach is found by scanning. So k answers come back whenever there
 * are k rows. */
static int search_wider(struct vshard_index *x, struct vs_walk *w, struct request *want,
                        struct vs_top *top)
{
    uint32_t ef = want->ef;

    while (ef < VSHARD_EF_MAX && ef < x->live + x->removed) {
        int rc;

        ef = 2 * ef > VSHARD_EF_MAX ? VSHARD_EF_MAX : 2 * ef;
        rc = vs_scratch_reserve(x, w->scratch, ef, 0);
        if (rc < 0)
            return rc;
        vs_graph_walk(x, w, 1, ef);
        if (w->status < 0)
            return w->status;
        top->count = 0;
        vs_graph_rerank(x, w, top);
        if (top->count >= wanted(x, top))
            return VSHARD_OK;
    }
    top->count = 0;
    want->exact_scans++;
    return vs_flat_search(x, &w->query, w->scratch, top);
}

static int finish(struct vshard_index *x, struct vs_walk *w, struct request *want,
                  struct vs_top *top)
{
    int rc = w->status;

    if (rc < 0)
        return rc;
    vs_graph_rerank(x, w, top);
    if (top->count < wanted(x, top))
        rc = search_wider(x, w, want, top);
    vs_top_sort(top);
    return rc;
}

static void write_hits(const struct vs_top *top, size_t k, struct vshard_hit *hits)
{
    for (size_t i = 0; i < k; i++) {
        if (i < top->count)
            hits[i] = (struct vshard_hit){ top->items[i].id, top->items[i].distance, 0 };
        else
            hits[i] = (struct vshard_hit){ VSHARD_ID_NONE, __builtin_inff(), 0 };
    }
}

/* Up to WALKS queries, whose walks take turns. */
static int search_group(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                        uint32_t count, struct request *want, struct vshard_hit *hits,
                        uint32_t *found)
{
    size_t bytes = vs_vector_bytes(x);
    struct vs_walk walks[WALKS];
    int rc = VSHARD_OK;

    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        walks[i].scratch = &r->scratch[i];
        rc = vs_scratch_reserve(x, &r->scratch[i], want->ef, (uint32_t)want->k);
        if (rc == VSHARD_OK)
            rc = vs_query_check(x, queries + i * bytes, &r->scratch[i], &walks[i].query);
    }
    if (rc == VSHARD_OK)
        vs_graph_walk(x, walks, count, want->ef);
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        struct vs_top top = { r->scratch[i].top, 0, (uint32_t)want->k };

        rc = finish(x, &walks[i], want, &top);
        write_hits(&top, want->k, hits + i * want->k);
        if (found != NULL)
            found[i] = top.count;
    }
    return rc;
}

/* Queries for which the rows are scanned together. */
static int scan_group(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                      uint32_t count, struct request *want, struct vshard_hit *hits,
                      uint32_t *found)
{
    struct vs_top tops[SCAN_WIDTH_MAX];
    int rc = vs_flat_search_many(x, &r->scratch[0], queries, count, (uint32_t)want->k, tops);

    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        write_hits(&tops[i], want->k, hits + i * want->k);
        if (found != NULL)
            found[i] = tops[i].count;
    }
    want->exact_scans += count;
    return rc;
}

static int search_all(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                      size_t count, struct request *want, struct vshard_hit *hits, uint32_t *found)
{
    size_t bytes = vs_vector_bytes(x);
    bool walk = atomic_load_explicit(&x->trained, memory_order_acquire) &&
                !(want->flags & VSHARD_SEARCH_EXACT);
    uint32_t width = walk ? WALKS : vs_scan_width(x, want->k);
    int rc = VSHARD_OK;

    for (size_t i = 0; rc == VSHARD_OK && i < count; i += width) {
        uint32_t group = count - i < width ? (uint32_t)(count - i) : width;

        rc = (walk ? search_group : scan_group)(x, r, queries + i * bytes, group, want,
                                                hits + i * want->k, found ? found + i : NULL);
    }
    return rc;
}

static int refuse(const struct vshard_index *x, const char *argument, uint64_t value,
                  uint64_t limit)
{
    return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", argument, (int64_t)value,
                     (int64_t)limit);
}

/* Whether all rows are looked at. */
static bool scans(const struct vshard_index *x, const struct vshard_search_options *o)
{
    return !atomic_load_explicit(&x->trained, memory_order_acquire) ||
           (o->flags & VSHARD_SEARCH_EXACT);
}

static int check_target(const struct vshard_index *x, const struct vshard_search_options *o)
{
    double target = (double)o->target_recall, limit = 1;
    const struct vs_field fields[] = { { .name = "argument", .text = "target_recall" },
                                       { .name = "value", .real = &target },
                                       { .name = "limit", .real = &limit },
                                       { .name = "status",
                                         .text = vshard_strerror(VSHARD_EINVAL) } };

    if (!(target >= 0) || target >= limit) {
        vs_log(x->logger, VSHARD_LOG_WARN, "search.refused", fields, VS_COUNT(fields));
        return VSHARD_EINVAL;
    }
    if (target > 0 && o->ef_search != 0)
        return refuse(x, "target_recall: and ef_search", o->ef_search, 0);
    if (target > 0 && !scans(x, o) && x->calibration.rows == 0)
        return vs_refuse(x->logger, VSHARD_ENOTSUP, "search.refused",
                         "target_recall: not calibrated", 0, 1);
    return VSHARD_OK;
}

static int check_search(const struct vshard_index *x, size_t count, size_t k,
                        const struct vshard_search_options *o)
{
    size_t bytes;

    if (k == 0 || k > VSHARD_K_MAX)
        return refuse(x, "k", k, VSHARD_K_MAX);
    if (!vs_bytes(&bytes, count, k * sizeof(struct vshard_hit)) ||
        !vs_bytes(&bytes, count, vs_vector_bytes(x)))
        return refuse(x, "count", count, SIZE_MAX / (k * sizeof(struct vshard_hit)));
    if (o->ef_search > VSHARD_EF_MAX)
        return refuse(x, "ef_search", o->ef_search, VSHARD_EF_MAX);
    if (o->flags & ~(uint32_t)VSHARD_SEARCH_EXACT)
        return refuse(x, "flags", o->flags, VSHARD_SEARCH_EXACT);
    return check_target(x, o);
}

/* How wide to walk, and what that is expected to find. */
static void choose_beam(const struct vshard_index *x, const struct vshard_search_options *o,
                        struct request *want)
{
    want->ef = o->ef_search ? o->ef_search : x->ef_search;
    if (o->target_recall > 0.0f && x->calibration.rows > 0)
        want->ef = vs_calibrated_ef(x, want->k, o->target_recall);
    if (want->ef < want->k)
        want->ef = (uint32_t)want->k;
    want->recall = scans(x, o)                 ? 1.0f
                   : o->info == NULL           ? 0.0f
                                               : vs_calibrated_recall(x, want->k, want->ef);
}

/* Zeros before the search, which also tells whether `info` can be filled in. */
static int report(const struct vs_reader *r, const struct request *want,
                  struct vshard_search_info *info)
{
    struct vshard_search_info ours = { .exact_scans = want->exact_scans, .recall = want->recall };

    if (r != NULL && !(want->flags & VSHARD_SEARCH_EXACT))
        ours.ef = want->ef;
    for (uint32_t i = 0; r != NULL && i < WALKS; i++) {
        ours.distances += r->scratch[i].distance_count;
        ours.hops += r->scratch[i].hop_count;
    }

    if (info == NULL)
        return VSHARD_OK;
    return vs_report_write(info, &ours, sizeof ours,
                           VS_SIZE_THROUGH(struct vshard_search_info, reserved));
}

int vshard_index_search(struct vshard_index *index, const void *queries, size_t count, size_t k,
                        struct vshard_hit *hits, const struct vshard_search_options *options)
{
    struct vshard_search_options o = { .size = sizeof o };
    struct request want = { 0 };
    struct vs_reader *r;
    int rc = VSHARD_OK;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (count > 0 && (queries == NULL || hits == NULL))
        return refuse(index, queries == NULL ? "queries: NULL" : "hits: NULL", 0, 0);
    if (options != NULL)
        rc = vs_options_read(&o, sizeof o, options,
                             VS_SIZE_THROUGH(struct vshard_search_options, info));
    if (rc < 0)
        return vs_refuse(index->logger, rc, "search.refused", "options.size", options->size,
                         sizeof o);
    rc = check_search(index, count, k, &o);
    if (rc < 0)
        return rc;
    if (report(NULL, &want, o.info) < 0)
        return refuse(index, "info.size", o.info->size, sizeof *o.info);
    want.flags = o.flags;
    want.k = k;
    choose_beam(index, &o, &want);

    rc = vs_reader_enter(index, &r);
    if (rc == VSHARD_OK) {
        for (uint32_t i = 0; i < WALKS; i++)
            r->scratch[i].distance_count = r->scratch[i].hop_count = 0;
        rc = search_all(index, r, queries, count, &want, hits, o.found);
        report(r, &want, o.info);
        vs_reader_leave(r);
    }
    if (rc == VSHARD_ENOMEM)
        vs_refuse(index->logger, rc, "search.refused", "memory", 0, 0);
    return rc;
}
