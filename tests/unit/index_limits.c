/* index_limits.c - a search ends when its caller's patience does, and explains itself.
 *
 * Method: a clock that counts how often it is read, and strikes at the n-th reading, for
 * each n; a budget of each size; a flag that a filter raises in the midst of a search.
 * Whatever cuts a search, what it answers are rows at their own distances, in order. Each
 * verdict of explain is provoked, that of an unreachable row by cutting all edges to it. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/index_data.h"

enum { N = 3000, D = 8, K = 10, MANY = 9 };

struct stage {
    struct vshard_index *x;
    float *vectors;
    uint64_t *ids;
    float distances[N]; /* from the first vector */
    uint64_t readings, strikes_at;
    uint32_t cancelled;
};

static uint64_t read_clock(void *ctx)
{
    struct stage *t = ctx;

    return ++t->readings >= t->strikes_at ? 1000 : 1;
}

static void begin(struct stage *t, uint32_t family)
{
    struct vshard_index_options o = small_options(D, 0, 0);
    static struct vshard_hit all[N];
    uint64_t seed = 12;

    memset(t, 0, sizeof *t);
    o.family = family;
    t->x = make_index(&o);
    t->vectors = draw_vectors(&seed, 0, N, D);
    t->ids = number_ids(0, N);
    add_rows(t->x, t->ids, t->vectors, N);
    search_rows(t->x, t->vectors, 1, N, 0, VSHARD_SEARCH_EXACT, all);
    for (uint32_t i = 0; i < N; i++)
        t->distances[all[i].id] = all[i].distance;
}

static void end(struct stage *t)
{
    vshard_index_destroy(t->x);
    free(t->vectors);
    free(t->ids);
}

static void expect_valid(const struct stage *t, const struct vshard_hit *hits, uint32_t found)
{
    for (uint32_t i = 0; i < K; i++) {
        if (i >= found) {
            cr_assert(hits[i].id == VSHARD_ID_NONE && isinf(hits[i].distance));
            continue;
        }
        cr_assert(hits[i].id < N && hits[i].distance == t->distances[hits[i].id]);
        cr_assert(i == 0 || hits[i - 1].distance <= hits[i].distance);
    }
}

static const uint32_t flags_of[] = { 0, VSHARD_SEARCH_EXACT };

Test(index_limits, a_deadline_cuts_wherever_it_strikes)
{
    static struct stage t;

    for (uint32_t way = 0; way < 4; way++) {
        struct vshard_clock clock = { read_clock, &t };
        struct vshard_hit hits[K];
        uint32_t found, cuts = 0;
        struct vshard_search_info info = { .size = sizeof info };
        struct vshard_search_options o = { .size = sizeof o,
                                           .ef_search = 200,
                                           .flags = flags_of[way % 2],
                                           .found = &found,
                                           .info = &info,
                                           .clock = &clock,
                                           .deadline_ns = 1000 };

        begin(&t, way / 2);
        for (t.strikes_at = 1;; t.strikes_at++) {
            t.readings = 0;
            cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), 0);
            expect_valid(&t, hits, found);
            cr_assert_leq(t.readings, info.distances / 64 + N / VS_EXTENT_ROWS + 2);
            if (info.limits == 0)
                break;
            cr_assert_eq(info.limits, VSHARD_LIMIT_DEADLINE);
            cr_assert_eq(t.readings, t.strikes_at, "it read on");
            cuts++;
            o.flags |= VSHARD_SEARCH_STRICT;
            t.readings = 0;
            cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), VSHARD_ETIMEDOUT);
            o.flags &= ~(uint32_t)VSHARD_SEARCH_STRICT;
        }
        cr_expect_eq(found, K);
        cr_expect_gt(cuts, 5, "way %u: only %u cuts", way, cuts);
        end(&t);
    }
}

Test(index_limits, a_budget_of_any_size_is_kept_to_within_a_step)
{
    static struct stage t;

    for (uint32_t way = 0; way < 4; way++) {
        struct vshard_hit hits[K];
        uint32_t found;
        uint64_t all = 0;
        struct vshard_search_info info = { .size = sizeof info };
        struct vshard_search_options o = {
            .size = sizeof o, .flags = flags_of[way % 2], .found = &found, .info = &info
        };

        begin(&t, way / 2);
        cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), 0);
        all = info.distances;
        for (o.distance_budget = 1; o.distance_budget < all + 200; o.distance_budget += 17) {
            o.flags = flags_of[way % 2];
            cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), 0);
            expect_valid(&t, hits, found);
            cr_assert_leq(info.distances, o.distance_budget + 64 + K + 40);
            cr_assert(info.distances >= all || info.limits == VSHARD_LIMIT_BUDGET);
            cr_assert(o.distance_budget < 64 + K || found == K);
            o.flags |= VSHARD_SEARCH_STRICT;
            cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o),
                         info.limits ? VSHARD_E2BIG : 0);
        }
        end(&t);
    }
}

static int allow_and_cancel(void *ctx, uint64_t id)
{
    struct stage *t = ctx;

    if (++t->readings >= t->strikes_at)
        __atomic_store_n(&t->cancelled, 1, __ATOMIC_RELAXED);
    return id % 2 == 0;
}

Test(index_limits, a_flag_raised_in_the_midst_ends_the_call)
{
    static struct stage t;
    const struct vshard_filter filter = {
        .size = sizeof filter, .kind = VSHARD_FILTER_CALL, .allow = allow_and_cancel, .ctx = &t
    };
    struct vshard_hit hits[MANY * K];
    uint32_t found[MANY], cuts = 0;
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = {
        .size = sizeof o, .found = found, .info = &info, .filter = &filter, .cancel = &t.cancelled
    };

    for (uint32_t way = 0; way < 4; way++) {
        begin(&t, way / 2);
        o.flags = flags_of[way % 2];
        for (t.strikes_at = 1;; t.strikes_at += 97) {
            t.readings = 0;
            t.cancelled = 0;
            cr_assert_eq(vshard_index_search(t.x, t.vectors, MANY, K, hits, &o), 0);
            expect_valid(&t, hits, found[0]);
            if (info.limits == 0)
                break;
            cr_assert_eq(info.limits, VSHARD_LIMIT_CANCEL);
            cuts++;
        }
        t.cancelled = 1; /* before the call */
        cr_assert_eq(vshard_index_search(t.x, t.vectors, MANY, K, hits, &o), 0);
        cr_expect_eq(found[MANY - 1], 0);
        cr_expect_eq(hits[(MANY - 1) * K].id, VSHARD_ID_NONE);
        o.flags |= VSHARD_SEARCH_STRICT;
        cr_assert_eq(vshard_index_search(t.x, t.vectors, MANY, K, hits, &o), VSHARD_ECANCELED);
        cr_assert_eq(vshard_index_range(t.x, t.vectors, 1.0f, hits, K, &o), VSHARD_ECANCELED);
        end(&t);
    }
    cr_expect_gt(cuts, 20);
}

/* Few rows are allowed, so that all are asked about first; or ids are many. */
Test(index_limits, a_call_that_was_cancelled_does_not_ask_about_all_rows)
{
    static struct stage t;
    static uint64_t ids[100 * N];
    struct vshard_filter filter = { .size = sizeof filter, .share = 0.001f, .ctx = &t };
    struct vshard_hit hits[K];
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = {
        .size = sizeof o, .info = &info, .filter = &filter, .cancel = &t.cancelled
    };

    for (uint32_t way = 0; way < 4; way++) {
        begin(&t, way / 2);
        o.flags = flags_of[way % 2];
        filter.kind = VSHARD_FILTER_CALL;
        filter.allow = allow_and_cancel;
        for (uint32_t i = 0; i < 2; i++) { /* at once, and after some rows */
            t.readings = 0;
            t.strikes_at = 1 + 1000 * i;
            t.cancelled = i == 0;
            cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), 0);
            cr_expect_eq(info.limits, VSHARD_LIMIT_CANCEL);
            cr_expect_leq(t.readings, t.strikes_at + 64, "way %u: %u rows", way,
                          (uint32_t)t.readings);
        }
        filter.kind = VSHARD_FILTER_IDS;
        filter.ids = ids;
        filter.count = VS_COUNT(ids);
        cr_assert_eq(vshard_index_search(t.x, t.vectors, 1, K, hits, &o), 0);
        cr_expect_eq(info.limits, VSHARD_LIMIT_CANCEL);
        cr_expect_eq(hits[0].id, VSHARD_ID_NONE);
        end(&t);
    }
}

/* ---- explain ---- */

static struct vshard_explanation explain(struct stage *t, uint64_t id, uint32_t k,
                                         const struct vshard_search_options *o)
{
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_search_info info, before;
    struct vshard_search_options with;

    if (o == NULL) {
        cr_assert_eq(vshard_index_explain(t->x, t->vectors, id, k, NULL, &e), 0);
        return e;
    }
    with = *o;
    memset(&info, 7, sizeof info);
    before = info;
    with.info = &info;
    cr_assert_eq(vshard_index_explain(t->x, t->vectors, id, k, &with, &e), 0);
    cr_assert_eq(memcmp(&info, &before, sizeof info), 0, "what a search has reported is lost");
    return e;
}

static uint64_t nth(struct stage *t, uint32_t rank)
{
    static struct vshard_hit hits[N];

    search_rows(t->x, t->vectors, 1, N, 0, VSHARD_SEARCH_EXACT, hits);
    return hits[rank].id;
}

Test(index_limits, each_verdict_is_given)
{
    static struct stage t;
    const struct vshard_filter odd = {
        .size = sizeof odd, .kind = VSHARD_FILTER_CALL, .allow = allow_and_cancel, .ctx = &t
    };
    struct vshard_search_options o = { .size = sizeof o, .ef_search = 100 };
    struct vshard_explanation e;
    uint32_t missed[VSHARD_WHY_UNREACHABLE + 1] = { 0 };

    begin(&t, 0);
    t.strikes_at = UINT64_MAX;
    e = explain(&t, nth(&t, 2), K, &o);
    cr_expect(e.why == VSHARD_WHY_RETURNED && e.rank == 2 && e.candidates == N && e.limits == 0);
    cr_expect_eq(e.distance, t.distances[nth(&t, 2)]);
    e = explain(&t, N + 5, K, NULL);
    cr_expect(e.why == VSHARD_WHY_ABSENT && isinf(e.distance) && e.rank == 0);
    cr_expect_eq(explain(&t, VSHARD_ID_NONE, K, NULL).why, VSHARD_WHY_ABSENT);
    e = explain(&t, nth(&t, 12), K, NULL);
    cr_expect(e.why == VSHARD_WHY_RANK && e.rank == 12);
    o.filter = &odd;
    e = explain(&t, 1, K, &o);
    cr_expect(e.why == VSHARD_WHY_FILTERED && e.candidates == N / 2);
    o.filter = NULL;
    o.flags = VSHARD_SEARCH_WITHIN;
    o.distance_max = t.distances[nth(&t, 4)];
    cr_expect_eq(explain(&t, nth(&t, 4), K, &o).why, VSHARD_WHY_RETURNED);
    cr_expect_eq(explain(&t, nth(&t, 5), K, &o).why, VSHARD_WHY_DISTANCE);
    o = (struct vshard_search_options){ .size = sizeof o, .distance_budget = 1 };
    for (uint32_t i = 0; i < K; i++) {
        e = explain(&t, nth(&t, i), K, &o);
        missed[e.why]++;
        cr_expect_eq(e.limits, VSHARD_LIMIT_BUDGET);
    }
    cr_expect_gt(missed[VSHARD_WHY_LIMIT], 0);
    end(&t);
}

/* Beams of 1 that end elsewhere, and rows that they met and dropped. */
Test(index_limits, a_narrow_beam_is_told_from_one_that_went_elsewhere)
{
    static struct stage t;
    struct vshard_search_options o = { .size = sizeof o, .ef_search = 1 };
    uint32_t why[VSHARD_WHY_UNREACHABLE + 1] = { 0 };
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_hit hits[5], near[5];

    begin(&t, 0);
    for (uint32_t q = 0; q < 400; q++) {
        float query[D];

        for (uint32_t i = 0; i < D; i++)
            query[i] = t.vectors[q * D + i] * 0.9f + t.vectors[(q + 1) * D + i] * 0.2f;
        search_rows(t.x, query, 1, 5, 0, VSHARD_SEARCH_EXACT, near);
        search_rows(t.x, query, 1, 5, 1, 0, hits);
        for (uint32_t i = 0; i < 5; i++) {
            bool there = false;

            for (uint32_t j = 0; j < 5; j++)
                there = there || hits[j].id == near[i].id;
            cr_assert_eq(vshard_index_explain(t.x, query, near[i].id, 5, &o, &e), 0);
            cr_assert_eq(there, e.why == VSHARD_WHY_RETURNED);
            cr_assert_eq(e.rank, i);
            why[e.why]++;
        }
    }
    cr_expect_gt(why[VSHARD_WHY_BEAM], 0);
    cr_expect_gt(why[VSHARD_WHY_PATH], 0);
    cr_expect_eq(why[VSHARD_WHY_BEAM] + why[VSHARD_WHY_PATH] + why[VSHARD_WHY_RETURNED], 2000);
    end(&t);
}

Test(index_limits, a_row_that_no_edge_leads_to_is_called_unreachable)
{
    static struct stage t;
    uint32_t lost = 0;

    begin(&t, 0);
    for (uint32_t i = 0; i < t.x->entry_count; i++) { /* of three, one is not the first */
        if (vs_entry_at(t.x, i) == lost)
            lost++;
    }
    for (uint32_t slot = 0; slot < N; slot++) {
        _Atomic uint32_t *edges = vs_edges_at(t.x, slot);

        for (uint32_t i = 0; i < t.x->degree; i++) {
            if (edges[i] == lost) /* its place is taken by the last */
                edges[i] = slot == 5 ? 6 : 5;
        }
    }
    memcpy(t.vectors, t.vectors + t.ids[lost] * D, D * sizeof(float));
    cr_expect_eq(explain(&t, lost, K, NULL).why, VSHARD_WHY_UNREACHABLE);
    end(&t);
}
