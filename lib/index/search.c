/* search.c - one call, many queries. */
#include "index/state.h"

#include <math.h>

/* Of the rows by which a filter widens the beam, this part is followed, and more where that was too
 * little (graph_search.c). Less finds less at shares of 5 % and below, and more costs more
 * (glove100, minilm384). */
#define FOLLOWED 0.1

/* So many times k rows of a widened beam are ranked by codes, if the filter leaves more. As near as
 * the k nearest are all of these by sketch: 0.99 of 10 are among the first 16. */
#define RANKED 3

enum { FEW_ROWS = 1024 }; /* that are all measured, at most */

/* Answers there must be, unless a filter turns out to allow fewer. */
static uint64_t wanted(const struct vshard_index *x, const struct vs_top *top)
{
    uint64_t live = atomic_load_explicit(&x->live, memory_order_relaxed);

    return live < top->cap ? live : top->cap;
}

/* All rows that may be answered, until a limit ends it. */
int vs_scan_allowed(struct vshard_index *x, const struct vs_request *want, struct vs_walk *w,
                    struct vs_top *top)
{
    top->count = 0;
    if (want->filter != NULL || want->limits.on)
        return vs_filter_scan(x, w, top, true);
    w->scratch->row_count += x->live;
    return vs_flat_search(x, &w->query, w->scratch, top);
}

/* Whether all rows are looked at, whatever a filter says. */
static bool scans(const struct vshard_index *x, uint32_t flags)
{
    return !atomic_load_explicit(&x->trained, memory_order_acquire) ||
           atomic_load_explicit(&x->relinking, memory_order_acquire) ||
           (flags & VSHARD_SEARCH_EXACT);
}

/* Whether there are no more rows than the beam would hold. Where most were removed, those that are
 * left may lie in more islands than a walk sets out from. */
static bool has_few(const struct vshard_index *x, const struct vs_request *want)
{
    uint64_t live = atomic_load_explicit(&x->live, memory_order_relaxed);

    return live <= want->ef && live <= FEW_ROWS;
}

/* All rows that a filter allows, one after the other, and not by way of edges: measured, if
 * that was asked for or there are no codes, or else those that their codes let pass. */
static int scan(struct vshard_index *x, const struct vs_request *want, struct vs_walk *w,
                struct vs_top *top)
{
    int rc;

    if (want->filter == NULL || !w->by_codes)
        return vs_scan_allowed(x, want, w, top);
    rc = vs_filter_list(x, want->filter, w->scratch);
    top->count = 0;
    return rc < 0 ? rc : vs_filter_scan(x, w, top, false);
}

/* Widens the beam until there are enough answers, as after many removals; what even
 * the widest cannot reach is found by scanning. So k answers come back whenever there
 * are k rows. */
static int search_wider(struct vshard_index *x, struct vs_walk *w, struct vs_request *want,
                        struct vs_top *top)
{
    uint64_t slots = atomic_load_explicit(&x->slot_count, memory_order_relaxed);
    uint32_t ef = want->ef;

    while (ef < VSHARD_EF_MAX && ef < slots) {
        int rc;

        ef = 2 * ef > VSHARD_EF_MAX ? VSHARD_EF_MAX : 2 * ef;
        if (w->filter != NULL && (top->count == 0 || vs_filter_scans(x, w->filter, ef)))
            break;
        w->follow = (uint32_t)((double)want->follow * ef / want->ef);
        rc = vs_scratch_reserve(x, w->scratch, vs_walk_room(x, vs_walk_width(x, ef), w->follow), 0);
        if (rc < 0)
            return rc;
        vs_graph_walk(x, w, 1, vs_walk_width(x, ef));
        if (w->status < 0)
            return w->status;
        if (w->cut)
            return VSHARD_OK;
        top->count = 0;
        vs_graph_rerank(x, w, top);
        if (w->passed || top->count >= wanted(x, top))
            return VSHARD_OK;
    }
    want->exact_scans++;
    return scan(x, want, w, top);
}

/* Takes off what is farther than was asked for. */
static void trim(struct vs_top *top, const struct vs_request *want)
{
    while (top->count > 0 && top->items[top->count - 1].distance > want->farthest)
        top->count--;
}

static int finish(struct vshard_index *x, struct vs_walk *w, struct vs_request *want,
                  struct vs_top *top, bool walked)
{
    int rc = w->status;

    if (rc < 0)
        return rc;
    if (walked) {
        vs_graph_rerank(x, w, top);
        if (top->count < wanted(x, top) && !w->cut && !w->passed)
            rc = search_wider(x, w, want, top);
    } else {
        want->exact_scans++;
        rc = scan(x, want, w, top);
    }
    vs_top_sort(top);
    trim(top, want);
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

bool vs_request_walks(const struct vshard_index *x, const struct vs_request *want)
{
    return want->walks && !scans(x, want->flags) &&
           !(want->filter && vs_filter_scans(x, want->filter, want->ef));
}

/* Up to WALKS queries, whose walks take turns. */
static int search_group(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                        uint32_t count, struct vs_request *want, struct vshard_hit *hits,
                        uint32_t *found)
{
    size_t bytes = vs_vector_bytes(x);
    bool walk = vs_request_walks(x, want), by_codes = walk || !scans(x, want->flags);
    struct vs_walk walks[WALKS] = { 0 };
    int rc = VSHARD_OK;

    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        walks[i].scratch = &r->scratch[i];
        walks[i].filter = want->filter;
        walks[i].limits = want->limits.on ? &want->limits : NULL;
        walks[i].counted = r->scratch[i].distance_count;
        walks[i].follow = want->follow;
        walks[i].reach = want->reach;
        walks[i].rank = want->rank;
        walks[i].by_codes = by_codes;
        walks[i].bounded = (want->flags & VSHARD_SEARCH_WITHIN) != 0;
        walks[i].farthest = want->farthest;
        rc = vs_scratch_reserve(x, &r->scratch[i], vs_walk_room(x, want->width, want->follow),
                                (uint32_t)want->k);
        if (rc == VSHARD_OK)
            rc = vs_query_check(x, queries + i * bytes, by_codes, &r->scratch[i], &walks[i].query);
    }
    if (rc == VSHARD_OK && walk)
        vs_graph_walk(x, walks, count, want->width);
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        struct vs_top top = { r->scratch[i].top, 0, (uint32_t)want->k };

        rc = finish(x, &walks[i], want, &top, walk);
        write_hits(&top, want->k, hits + i * want->k);
        if (found != NULL)
            found[i] = top.count;
    }
    return rc;
}

/* Queries for which the rows are scanned together. */
static int scan_group(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                      uint32_t count, struct vs_request *want, struct vshard_hit *hits,
                      uint32_t *found)
{
    struct vs_top tops[SCAN_WIDTH_MAX];
    int rc = vs_flat_search_many(x, &r->scratch[0], queries, count, (uint32_t)want->k, tops);

    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++) {
        trim(&tops[i], want);
        write_hits(&tops[i], want->k, hits + i * want->k);
        if (found != NULL)
            found[i] = tops[i].count;
    }
    want->exact_scans += count;
    r->scratch[0].row_count += x->live * count;
    return rc;
}

/* What the queries get that a call did not come to. */
static void answer_none(size_t count, const struct vs_request *want, struct vshard_hit *hits,
                        uint32_t *found)
{
    const struct vs_top none = { 0 };

    for (size_t i = 0; i < count; i++) {
        write_hits(&none, want->k, hits + i * want->k);
        if (found != NULL)
            found[i] = 0;
    }
}

/* A call of many queries does not hold slots back for all its time, unless a filter has
 * listed them. */
static int search_all(struct vshard_index *x, struct vs_reader *r, const unsigned char *queries,
                      size_t count, struct vs_request *want, struct vshard_hit *hits)
{
    bool apart = want->filter || want->limits.on || vs_request_walks(x, want);
    size_t bytes = vs_vector_bytes(x), i = 0, width = apart ? WALKS : vs_scan_width(x, want->k);
    int rc = VSHARD_OK;

    while (rc == VSHARD_OK && i < count && !vs_limits_over(&want->limits)) {
        uint32_t group = (uint32_t)(count - i < width ? count - i : width);

        rc = (apart ? search_group : scan_group)(x, r, queries + i * bytes, group, want,
                                                 hits + i * want->k,
                                                 want->found ? want->found + i : NULL);
        i += group;
        if (want->filter == NULL)
            vs_reader_renew(x, r);
    }
    if (i < count)
        answer_none(count - i, want, hits + i * want->k, want->found ? want->found + i : NULL);
    return rc;
}

/* ---- one call ---- */

static int refuse(const struct vshard_index *x, const char *argument, uint64_t value,
                  uint64_t limit)
{
    return vs_refuse(x->logger, VSHARD_EINVAL, "search.refused", argument, (int64_t)value,
                     (int64_t)limit);
}

static int check_target(const struct vshard_index *x, const struct vshard_search_options *o,
                        const struct vs_calibration *c)
{
    double target = (double)o->target_recall;

    if (!(target >= 0 && target < 1))
        return vs_refuse_real(x->logger, VSHARD_EINVAL, "search.refused", "target_recall", target,
                              1);
    if (target > 0 && o->ef_search != 0)
        return refuse(x, "target_recall: and ef_search", o->ef_search, 0);
    if (target > 0 && !scans(x, o->flags) && c->rows == 0)
        return vs_refuse(x->logger, VSHARD_ENOTSUP, "search.refused",
                         "target_recall: not calibrated", 0, 1);
    return VSHARD_OK;
}

static int check_search(const struct vshard_index *x, size_t k,
                        const struct vshard_search_options *o, const struct vs_calibration *c)
{
    const uint32_t flags = VSHARD_SEARCH_EXACT | VSHARD_SEARCH_STRICT | VSHARD_SEARCH_WITHIN;

    if (k == 0 || k > VSHARD_K_MAX)
        return refuse(x, "k", k, VSHARD_K_MAX);
    if (o->ef_search > VSHARD_EF_MAX)
        return refuse(x, "ef_search", o->ef_search, VSHARD_EF_MAX);
    if (o->flags & ~flags)
        return refuse(x, "flags", o->flags, flags);
    if (o->reserved_pointer != NULL || o->reserved_number != 0)
        return refuse(x, "reserved", 1, 0);
    if (o->deadline_ns != 0 && (o->clock == NULL || o->clock->now_ns == NULL))
        return refuse(x, "clock: NULL", 0, o->deadline_ns);
    return check_target(x, o, c);
}

static int check_count(const struct vshard_index *x, size_t count, size_t k)
{
    size_t bytes;

    if (k == 0 || k > VSHARD_K_MAX)
        return refuse(x, "k", k, VSHARD_K_MAX);
    if (!vs_bytes(&bytes, count, k * sizeof(struct vshard_hit)) ||
        !vs_bytes(&bytes, count, vs_vector_bytes(x)))
        return refuse(x, "count", count, SIZE_MAX / (k * sizeof(struct vshard_hit)));
    return VSHARD_OK;
}

/* How wide to walk, and what that is expected to find. */
static void choose_beam(const struct vshard_index *x, const struct vshard_search_options *o,
                        const struct vs_calibration *c, struct vs_request *want)
{
    double ef = o->ef_search ? o->ef_search : x->ef_search;

    if (o->target_recall > 0.0f && c->rows > 0)
        ef = vs_calibrated_ef(c, want->k, o->target_recall);
    ef = ef < (double)want->k ? (double)want->k : ef;
    want->ef = (uint32_t)ceil(ef);
    want->width = vs_walk_width(x, ef);
    want->walks = !scans(x, o->flags) && !has_few(x, want);
    want->recall = 1.0f;
    if (want->walks && o->info != NULL)
        want->recall = vs_calibrated_recall(c, want->k, ef);
}

/* Zeros before the search, which also tells whether `info` can be filled in. */
static int report(const struct vs_reader *r, const struct vs_request *want,
                  struct vshard_search_info *info)
{
    struct vshard_search_info ours = { .exact_scans = want->exact_scans,
                                       .limits = want->limits.cut,
                                       .recall = want->recall,
                                       .share = 1 };

    if (want->filter != NULL) {
        ours.share = (float)want->filter->share;
        ours.filter_checks = want->filter->checks;
        ours.recall = NAN; /* it is another question */
    }
    if (r != NULL && want->walks)
        ours.ef = want->ef;
    for (uint32_t i = 0; r != NULL && i < WALKS; i++) {
        ours.distances += r->scratch[i].distance_count;
        ours.hops += r->scratch[i].hop_count;
        ours.rows += r->scratch[i].row_count;
    }
    if (info == NULL)
        return VSHARD_OK;
    return vs_report_write(info, &ours, sizeof ours,
                           VS_SIZE_THROUGH(struct vshard_search_info, exact_scans));
}

/* Reads what the caller of this version, or of an older one, has given. */
int vs_request_options(const struct vshard_index *x, const struct vshard_search_options *given,
                       struct vshard_search_options *o)
{
    int rc =
        vs_options_read(o, sizeof *o, given, VS_SIZE_THROUGH(struct vshard_search_options, info));

    return rc < 0
               ? vs_refuse(x->logger, rc, "search.refused", "options.size", given->size, sizeof *o)
               : rc;
}

/* Verifies the options of a call, and makes ready what does not depend on the query. */
static int read_request(struct vshard_index *x, const struct vshard_search_options *options,
                        size_t k, const float *radius, struct vs_request *want)
{
    const struct vs_calibration *c = vs_calibration(x); /* once: another may take its place */
    struct vshard_search_options o = { .size = sizeof o };
    int rc = VSHARD_OK;

    memset(want, 0, offsetof(struct vs_request, the_where));
    if (options != NULL)
        rc = vs_request_options(x, options, &o);
    if (rc < 0)
        return rc;
    rc = check_search(x, k, &o, c);
    if (rc == VSHARD_OK && o.filter != NULL) {
        want->filter = &want->the_filter;
        rc = vs_filter_check(x, o.filter, want->filter, &want->the_where);
    }
    if (rc < 0)
        return rc;
    if (report(NULL, want, o.info) < 0)
        return refuse(x, "info.size", o.info->size, sizeof *o.info);
    vs_limits_read(&want->limits, &o);
    want->flags = o.flags;
    want->farthest = radius                           ? *radius
                     : o.flags & VSHARD_SEARCH_WITHIN ? o.distance_max
                                                      : __builtin_inff();
    if (want->farthest != want->farthest)
        return refuse(x, "distance_max: NaN", 0, 0);
    want->found = o.found;
    want->info = o.info;
    want->k = k;
    choose_beam(x, &o, c, want);
    return VSHARD_OK;
}

/* Begins to read, and verifies the options of a call; if they are refused, reading has
 * ended again. A radius stands for distance_max. */
int vs_request_begin(struct vshard_index *x, const struct vshard_search_options *options, size_t k,
                     const float *radius, struct vs_request *want, struct vs_reader **out)
{
    int rc = vs_reader_enter(x, out);

    if (rc < 0)
        return vs_refuse(x->logger, rc, "search.refused", "memory", 0, 0);
    rc = read_request(x, options, k, radius, want);
    if (rc < 0)
        vs_reader_leave(*out);
    return rc;
}

/* The beam under a filter that was measured: it holds more rows, but follows only some of
 * them, since a row is met long before its turn to be followed comes. */
static void widen(const struct vshard_index *x, struct vs_request *want)
{
    double asked = want->ef;

    want->ef = vs_filter_ef(want->filter, want->ef, want->k);
    want->width = vs_walk_width(x, want->ef);
    want->follow = vs_walk_width(x, asked + ((double)want->ef - asked) * FOLLOWED);
    want->reach = (uint32_t)fmin(ceil((double)want->k / want->filter->share), want->width);
    want->rank = vs_walk_width(x, fmax(asked, RANKED * (double)want->k));
}

static int measure_filter(struct vshard_index *x, struct vs_reader *r, struct vs_request *want)
{
    int rc = vs_scratch_reserve(x, &r->scratch[0], want->ef, 0);

    want->filter->limits = want->limits.on ? &want->limits : NULL;
    if (rc == VSHARD_OK)
        rc = vs_filter_measure(x, want->filter, &r->scratch[0], want->ef, want->k);
    if (rc == VSHARD_OK)
        widen(x, want);
    return rc;
}

/* Answers the queries of a call, on the scratch of a reader. */
int vs_request_run(struct vshard_index *x, struct vs_reader *r, const void *queries, size_t count,
                   struct vs_request *want, struct vshard_hit *hits)
{
    int rc = VSHARD_OK;

    for (uint32_t i = 0; i < WALKS; i++)
        r->scratch[i].distance_count = r->scratch[i].hop_count = r->scratch[i].row_count = 0;
    if (want->filter != NULL && count > 0)
        rc = measure_filter(x, r, want);
    return rc < 0 || hits == NULL ? rc : search_all(x, r, queries, count, want, hits);
}

/* Reports what a call did, says what it returns, and ends reading. */
int vs_request_end(struct vshard_index *x, struct vs_reader *r, struct vs_request *want, int status)
{
    report(r, want, want->info);
    for (uint32_t i = 0; i < WALKS; i++)
        vs_scratch_forget(x, &r->scratch[i]);
    vs_reader_leave(r);
    if (status == VSHARD_ENOMEM)
        return vs_refuse(x->logger, status, "search.refused", "memory", 0, 0);
    return status == VSHARD_OK && want->flags & VSHARD_SEARCH_STRICT
               ? vs_limits_status(&want->limits)
               : status;
}

int vshard_index_search(struct vshard_index *index, const void *queries, size_t count, size_t k,
                        struct vshard_hit *hits, const struct vshard_search_options *options)
{
    struct vs_request want;
    struct vs_reader *r;
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (count > 0 && (queries == NULL || hits == NULL))
        return refuse(index, queries == NULL ? "queries: NULL" : "hits: NULL", 0, 0);
    rc = check_count(index, count, k);
    if (rc == VSHARD_OK)
        rc = vs_request_begin(index, options, k, NULL, &want, &r);
    if (rc < 0)
        return rc;
    rc = vs_request_run(index, r, queries, count, &want, hits);
    return vs_request_end(index, r, &want, rc);
}
