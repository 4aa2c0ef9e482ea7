/* index_filter.c - searches that may answer some rows only, and searches within a radius.
 *
 * Method: an exact search for all rows, without a filter, gives each row's distance; what
 * the test's own predicate leaves of that list is the truth. Whatever a filter is given
 * as, an answer has min(k, allowed) rows, each allowed, once, in order, at its distance;
 * exact searches equal the truth, and walks reach a recall of 0.95, also where only the
 * rows nearest to the query are allowed, or only those farthest from it. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { N = 4000, D = 16, K = 10, QUERIES = 6, REMOVED_FROM = 3900, CLUSTERS = 100, EACH = 200 };

struct stage {
    struct vshard_index *x;
    void *vectors;
    uint64_t *ids;
    size_t row_bytes;
    struct vshard_hit truth[N]; /* all rows, nearest first */
    uint64_t bits[N / 64 + 1];
    uint64_t listed[2 * N];
    uint64_t allowed; /* live rows */
    struct vshard_filter filter;
};

static void begin(struct stage *t, uint32_t family, uint32_t metric, uint32_t element)
{
    struct vshard_index_options o = small_options(D, metric, element);
    uint64_t seed = 77;

    o.family = family;
    o.m = 12;
    t->x = make_index(&o);
    t->row_bytes = D * element_bytes(element);
    t->vectors = draw_vectors(&seed, element, N + QUERIES, D);
    t->ids = number_ids(0, N);
    add_rows(t->x, t->ids, t->vectors, N);
    remove_rows(t->x, t->ids + REMOVED_FROM, N - REMOVED_FROM);
}

static void end(struct stage *t)
{
    vshard_index_destroy(t->x);
    free(t->vectors);
    free(t->ids);
}

static const void *query_at(const struct stage *t, uint32_t i)
{
    return (const char *)t->vectors + (N + i) * t->row_bytes;
}

static bool allows(const struct stage *t, uint64_t id)
{
    return id < N && (t->bits[id / 64] >> id % 64 & 1);
}

static int ask(void *ctx, uint64_t id)
{
    return allows(ctx, id);
}

enum { RANDOM, NEAREST, FARTHEST, ORDERS };

/* Allows `count` of the live rows, and some that are not there. */
static void allow(struct stage *t, uint32_t order, uint32_t count)
{
    uint64_t seed = count + order;

    search_rows(t->x, query_at(t, 0), 1, N, 0, VSHARD_SEARCH_EXACT, t->truth);
    memset(t->bits, 0, sizeof t->bits);
    t->allowed = 0;
    while (t->allowed < count) {
        uint64_t rank = order == RANDOM    ? random_below(&seed, REMOVED_FROM)
                        : order == NEAREST ? t->allowed
                                           : REMOVED_FROM - 1 - t->allowed;
        uint64_t id = t->truth[rank].id;

        t->allowed += !allows(t, id);
        t->bits[id / 64] |= 1ull << id % 64;
    }
    t->bits[REMOVED_FROM / 64 + 1] |= 1ull << 5; /* a removed row */
}

static void make_filter(struct stage *t, uint32_t kind)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < N; i++) {
        if (!allows(t, i))
            continue;
        t->listed[count++] = i;
        if (i % 7 == 0)
            t->listed[count++] = i; /* twice */
    }
    t->listed[count++] = VSHARD_ID_NONE;
    t->listed[count++] = N + 17; /* never there */
    t->filter = (struct vshard_filter){ .size = sizeof t->filter,
                                        .kind = kind,
                                        .count = kind == VSHARD_FILTER_IDS ? count : N,
                                        .ids = t->listed,
                                        .bits = t->bits,
                                        .allow = ask,
                                        .ctx = t };
}

/* How many of the true k are among the answers. */
static uint32_t expect_answer(struct stage *t, uint32_t k, uint32_t flags)
{
    static struct vshard_hit hits[VSHARD_K_MAX];
    struct vshard_search_info info = { .size = sizeof info };
    uint32_t found, right = 0, at = 0, want = t->allowed < k ? (uint32_t)t->allowed : k;
    struct vshard_search_options o = { .size = sizeof o,
                                       .ef_search = 160,
                                       .flags = flags,
                                       .found = &found,
                                       .info = &info,
                                       .filter = &t->filter };

    float kth = 0;

    cr_assert_eq(vshard_index_search(t->x, query_at(t, 0), 1, k, hits, &o), 0);
    cr_assert_eq(found, want, "%u of %llu allowed found, k %u", found,
                 (unsigned long long)t->allowed, k);
    cr_expect_eq(info.limits, 0);
    cr_assert_eq(hits[k - 1].id == VSHARD_ID_NONE, want < k);
    for (uint32_t i = 0, rank = 0; i < found; i++) {
        cr_assert(allows(t, hits[i].id), "row %llu is not allowed", (unsigned long long)hits[i].id);
        while (rank < REMOVED_FROM && t->truth[rank].id != hits[i].id)
            rank++;
        cr_assert_lt(rank, REMOVED_FROM, "removed, twice, or out of order");
        cr_assert_eq(hits[i].distance, t->truth[rank].distance);
    }
    for (uint32_t rank = 0; rank < REMOVED_FROM && at < want; rank++) {
        at += allows(t, t->truth[rank].id);
        kth = t->truth[rank].distance;
    }
    for (uint32_t i = 0; i < found; i++)
        right += hits[i].distance <= kth;
    if (flags & VSHARD_SEARCH_EXACT)
        cr_assert_eq(right, want, "an exact search missed one");
    if (info.exact_scans > 0) /* by codes, which must let the nearest pass */
        cr_expect_eq(right, want, "a scan missed %u", want - right);
    return right;
}

static const uint32_t counts[] = { 0, 1, 9, 40, 200, 800, 2000, 3600, REMOVED_FROM };

static void expect_all(struct stage *t, const char *name)
{
    uint32_t right = 0, wanted = 0;

    for (uint32_t at = 0; at < VS_COUNT(counts) * ORDERS; at++) {
        allow(t, at % ORDERS, counts[at / ORDERS]);
        for (uint32_t kind = VSHARD_FILTER_IDS; kind <= VSHARD_FILTER_CALL; kind++) {
            make_filter(t, kind);
            expect_answer(t, K, VSHARD_SEARCH_EXACT);
            right += expect_answer(t, K, 0);
            wanted += t->allowed < K ? (uint32_t)t->allowed : K;
        }
        expect_answer(t, 1, 0);
        expect_answer(t, 500, 0);
    }
    cr_expect_geq(right * 20, wanted * 19, "%s: %u of %u", name, right, wanted);
}

Test(index_filter, answers_are_allowed_and_as_many_as_there_are_whatever_the_filter)
{
    static struct stage t;

    for (uint32_t at = 0; at < METRICS * ELEMENTS; at++) {
        if (!combine(at % METRICS, at / METRICS))
            continue;
        begin(&t, 0, at % METRICS, at / METRICS);
        expect_all(&t, metric_names[at % METRICS]);
        end(&t);
    }
    begin(&t, VSHARD_FAMILY_FLAT, VSHARD_METRIC_COSINE, 0);
    expect_all(&t, "flat");
    end(&t);
}

Test(index_filter, a_mapped_index_is_filtered_too)
{
    static struct stage t;
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_open_options o = { .size = sizeof o,
                                     .flags = VSHARD_OPEN_MAPPED,
                                     .storage = fault_storage_hook(fs) };
    struct vshard_index_options plain = small_options(D, 0, 0);
    struct vshard_index *x;

    begin(&t, 0, 0, 0);
    plain.storage = o.storage;
    x = make_index(&plain);
    add_rows(x, t.ids, t.vectors, REMOVED_FROM);
    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    vshard_index_destroy(x);
    vshard_index_destroy(t.x);
    cr_assert_eq(vshard_index_open("/i", &o, &t.x), 0);
    expect_all(&t, "mapped");
    end(&t);
    fault_storage_destroy(fs);
}

Test(index_filter, the_share_is_measured_and_a_hint_changes_no_answer)
{
    static struct stage t;
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o, .info = &info, .filter = &t.filter };
    struct vshard_hit hits[K];

    begin(&t, 0, 0, 0);
    for (uint32_t i = 0; i < VS_COUNT(counts); i++) {
        allow(&t, RANDOM, counts[i]);
        for (uint32_t kind = VSHARD_FILTER_IDS; kind <= VSHARD_FILTER_CALL; kind++) {
            double share = (double)t.allowed / REMOVED_FROM;

            make_filter(&t, kind);
            cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), 1, K, hits, &o), 0);
            cr_expect_float_eq((double)info.share, share, kind == VSHARD_FILTER_CALL ? 0.1 : 0.001,
                               "%u allowed, kind %u: %g", counts[i], kind, (double)info.share);
        }
        t.filter.share = 0.9f;
        expect_answer(&t, K, 0);
        t.filter.share = 1e-6f;
        expect_answer(&t, K, 0);
        t.filter.share = 0;
        o.filter = NULL;
        cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), 1, K, hits, &o), 0);
        cr_expect(info.share == 1.0f && info.filter_checks == 0 && info.rows > 0);
        o.filter = &t.filter;
    }
    end(&t);
}

/* More bits than there are rows, some in the last word and some behind the end. */
Test(index_filter, bits_are_counted_to_the_last)
{
    enum { BITS = 100021, SET = 2000 };
    static uint64_t bits[BITS / 64 + 1];
    static struct stage t;
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o, .info = &info, .filter = &t.filter };
    struct vshard_hit hits[K];

    begin(&t, 0, 0, 0);
    for (uint32_t i = 1; i < SET; i++)
        bits[(N + 48 * i) / 64] |= 1ull << (N + 48 * i) % 64;
    bits[BITS / 64] |= ~0ull << (BITS - 1) % 64;
    t.filter = (struct vshard_filter){
        .size = sizeof t.filter, .kind = VSHARD_FILTER_BITS, .count = BITS, .bits = bits
    };
    cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), 1, K, hits, &o), 0);
    cr_expect_eq(info.share, (float)((double)SET / REMOVED_FROM));
    cr_expect_eq(hits[0].id, VSHARD_ID_NONE);
    end(&t);
}

/* ---- within a distance ---- */

static void expect_within(struct stage *t, float radius, size_t room, uint32_t flags,
                          uint32_t *right, uint32_t *wanted)
{
    static struct vshard_hit hits[N];
    uint32_t found = 99, there = 0;
    struct vshard_search_options o = { .size = sizeof o,
                                       .flags = flags,
                                       .found = &found,
                                       .filter = t->filter.size ? &t->filter : NULL };

    for (uint32_t i = 0; i < REMOVED_FROM && t->truth[i].distance <= radius; i++)
        there += t->filter.size == 0 || allows(t, t->truth[i].id);
    there = there < room ? there : (uint32_t)room;
    cr_assert_eq(vshard_index_range(t->x, query_at(t, 0), radius, hits, room, &o), 0);
    cr_assert_leq(found, there);
    for (uint32_t i = 0, rank = 0; i < found; i++) {
        while (rank < REMOVED_FROM && t->truth[rank].id != hits[i].id)
            rank++;
        cr_assert_lt(rank, REMOVED_FROM, "removed, twice, or out of order");
        cr_assert(hits[i].distance == t->truth[rank].distance && hits[i].distance <= radius);
        cr_assert(t->filter.size == 0 || allows(t, hits[i].id));
    }
    if (flags & VSHARD_SEARCH_EXACT)
        cr_assert_eq(found, there);
    *right += found;
    *wanted += there;
}

Test(index_filter, a_range_search_finds_what_is_within_the_radius)
{
    static const uint32_t ranks[] = { 0, 5, 60, 400, 1500, REMOVED_FROM - 1 };
    static struct stage t;

    for (uint32_t at = 0; at < METRICS * ELEMENTS; at++) {
        uint32_t right = 0, wanted = 0;

        if (!combine(at % METRICS, at / METRICS))
            continue;
        begin(&t, 0, at % METRICS, at / METRICS);
        for (uint32_t i = 0; i < VS_COUNT(ranks); i++) {
            float radius;

            allow(&t, RANDOM, 1000);
            radius = t.truth[ranks[i]].distance;
            for (uint32_t kind = 0; kind <= VSHARD_FILTER_CALL; kind++) {
                if (kind > 0)
                    make_filter(&t, kind);
                else
                    t.filter.size = 0;
                expect_within(&t, radius, N, 0, &right, &wanted);
                expect_within(&t, radius, 33, 0, &right, &wanted);
                expect_within(&t, radius, N, VSHARD_SEARCH_EXACT, &right, &wanted);
            }
        }
        t.filter.size = 0;
        expect_within(&t, -INFINITY, 5, 0, &right, &wanted);
        expect_within(&t, INFINITY, N, 0, &right, &wanted);
        cr_expect_geq(right * 100, wanted * 98, "%s: %u of %u", metric_names[at % METRICS], right,
                      wanted);
        end(&t);
    }
}

/* A filter widens the beam, and so what the walk has to have room for. */
Test(index_filter, a_range_search_has_room_for_the_beam_that_a_filter_asks_for)
{
    static struct stage t;

    begin(&t, VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    for (uint32_t count = 20; count < REMOVED_FROM; count += count / 2) {
        struct vshard_hit hits[K];
        uint32_t found = 0;
        struct vshard_search_options o = {
            .size = sizeof o, .ef_search = 1, .filter = &t.filter, .found = &found
        };

        allow(&t, RANDOM, count);
        make_filter(&t, VSHARD_FILTER_CALL);
        cr_assert_eq(vshard_index_range(t.x, query_at(&t, 0), 4.0f, hits, K, &o), 0);
        for (uint32_t i = 0; i < found; i++)
            cr_expect(allows(&t, hits[i].id) && hits[i].distance <= 4.0f, "%u allowed", count);
    }
    end(&t);
}

Test(index_filter, no_answer_is_farther_than_the_most_that_is_wanted)
{
    static struct stage t;
    struct vshard_hit hits[K];
    uint32_t found;
    struct vshard_search_options o = {
        .size = sizeof o, .ef_search = 200, .flags = VSHARD_SEARCH_WITHIN, .found = &found
    };

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        begin(&t, 0, metric, 0);
        allow(&t, RANDOM, 1);
        o.distance_max = t.truth[3].distance;
        cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), 1, K, hits, &o), 0);
        cr_expect_eq(found, 4);
        cr_expect_eq(hits[4].id, VSHARD_ID_NONE);
        o.distance_max = -INFINITY;
        cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), 1, K, hits, &o), 0);
        cr_expect_eq(found, 0);
        end(&t);
    }
}

static int allow_any(void *ctx, uint64_t id)
{
    (void)ctx;
    (void)id;
    return 1;
}

static int by_key(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Of a beam whose rows a filter may all answer, the nearest that can be seen are ranked. */
static void expect_few(const struct vshard_index *x, struct vs_walk *w, const int32_t *seen,
                       uint32_t count)
{
    struct vs_filter all = { .given = { .kind = VSHARD_FILTER_CALL, .allow = allow_any } };
    const struct vs_pool *pool = &w->scratch->pool;
    uint32_t wanted = count < w->rank ? count : w->rank;

    w->filter = &all;
    vs_filter_pool(x, w);
    cr_assert_eq(pool->count, wanted);
    cr_assert(memcmp(pool->keys, seen, wanted * sizeof *seen) == 0, "the %u nearest", wanted);
}

/* Whether the beam of a walk holds the nearest of all rows that the walk marked as met. Returns
 * whether what it does not follow was kept aside. */
static bool expect_nearest(struct vshard_index *x, const void *query, uint32_t width,
                           uint32_t follow)
{
    static int32_t met[N], seen[N], beam_keys[N];
    struct vs_scratch s = { .position = atomic_load(&x->position) };
    struct vs_walk w = { .scratch = &s, .follow = follow, .reach = width / 2, .rank = width / 4 };
    const struct vs_pool *beam;
    uint32_t count = 0, visible = 0;

    cr_assert_eq(vs_scratch_reserve(x, &s, vs_walk_room(x, width, follow), K), 0);
    cr_assert_eq(vs_query_check(x, query, true, &s, &w.query), 0);
    vs_graph_walk(x, &w, 1, width);
    cr_assert_eq(w.status, 0);
    for (uint32_t slot = 0; slot < s.visited_slots; slot++) {
        if (!(s.visited[slot / 64] >> slot % 64 & 1))
            continue;
        met[count] = vs_key_of(x, &w.query, slot);
        if (vs_row_visible(x, slot, s.position))
            seen[visible++] = met[count];
        count++;
    }
    qsort(seen, visible, sizeof *seen, by_key);
    qsort(met, count, sizeof *met, by_key);
    if (w.aside)
        vs_walk_narrow(x, &w);
    beam = w.aside ? &s.ranked : &s.pool;
    cr_assert_eq(beam->count, count < width ? count : width, "%u of %u, %u met", beam->count, width,
                 count);
    memcpy(beam_keys, beam->keys, beam->count * sizeof *beam_keys);
    if (w.aside)
        qsort(beam_keys, beam->count, sizeof *beam_keys, by_key);
    cr_assert(memcmp(beam_keys, met, beam->count * sizeof *met) == 0, "width %u of %u met", width,
              count);
    expect_few(x, &w, seen, visible);
    vs_scratch_fini(x, &s);
    return w.aside;
}

/* Of rows with few values many are equally near, also where a beam ends. */
static void make_equal(struct stage *t, uint32_t element)
{
    unsigned char *bytes = t->vectors;
    float *floats = t->vectors;

    for (size_t i = 0; i < (N + QUERIES) * D; i++) {
        if (element == VSHARD_ELEMENT_F32)
            floats[i] = floats[i] < 0 ? -1.0f : 1.0f;
        else
            bytes[i] &= 3;
    }
    add_rows(t->x, t->ids, t->vectors, N);
}

Test(index_filter, a_beam_holds_the_nearest_of_all_rows_that_were_met)
{
    static const uint32_t widths[] = { 40, 70, 200, 500, 900 }, follows[] = { 30, 5, 120, 300, 30 };
    static struct stage t;

    for (uint32_t at = 0; at < 8; at++) {
        uint32_t element = at & 1 ? VSHARD_ELEMENT_U8 : VSHARD_ELEMENT_F32, aside = 0;

        begin(&t, 0, at & 2 ? VSHARD_METRIC_COSINE : VSHARD_METRIC_L2SQ, element);
        if (at & 4)
            make_equal(&t, element);
        for (uint32_t i = 0; i < VS_COUNT(widths) * QUERIES; i++)
            aside += expect_nearest(t.x, query_at(&t, i % QUERIES), widths[i / QUERIES],
                                    follows[i / QUERIES]);
        cr_expect_eq(aside, 4 * QUERIES);
        end(&t);
    }
}

/* Rows in clusters of EACH; answers to a query at one lie in those around it, too, since too few of
 * it are allowed: what is followed first is all of one cluster. */
static uint32_t count_right_in_clusters(struct vshard_index *x, const float *query, double share)
{
    enum { MANY = 100 };
    static uint64_t bits[(CLUSTERS * EACH) / 64 + 1];
    struct vshard_filter f = { .size = sizeof f,
                               .kind = VSHARD_FILTER_BITS,
                               .count = (uint64_t)CLUSTERS * EACH,
                               .bits = bits };
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options o = { .size = sizeof o, .filter = &f, .info = &info };
    struct vshard_hit hits[MANY], truth[MANY];
    uint32_t right = 0;
    uint64_t seed = 5;

    memset(bits, 0, sizeof bits);
    for (uint64_t id = 0; id < (uint64_t)CLUSTERS * EACH; id++)
        bits[id / 64] |= (uint64_t)(random_unit(&seed) < share) << id % 64;
    cr_assert_eq(vshard_index_search(x, query, 1, MANY, hits, &o), 0);
    cr_assert_eq(info.exact_scans, 0, "it does not walk");
    o.flags = VSHARD_SEARCH_EXACT;
    cr_assert_eq(vshard_index_search(x, query, 1, MANY, truth, &o), 0);
    for (uint32_t i = 0; i < MANY; i++)
        right += hits[i].distance <= truth[MANY - 1].distance;
    return right * 100 / MANY;
}

Test(index_filter, clusters_beside_that_of_the_query_are_found)
{
    enum { CD = 64 };
    static float centre[CLUSTERS][CD], rows[CLUSTERS * EACH][CD];
    struct vshard_index_options o = { .size = sizeof o, .dim = CD, .metric = VSHARD_METRIC_COSINE };
    struct vshard_index *x = make_index(&o);
    uint64_t *ids = number_ids(0, CLUSTERS * EACH), seed = 12;

    for (uint32_t i = 0; i < CLUSTERS * CD; i++)
        centre[i / CD][i % CD] = 3 * (float)random_normal(&seed);
    for (uint32_t i = 0; i < CLUSTERS * EACH; i++) {
        const float *c = centre[random_below(&seed, CLUSTERS)];

        for (uint32_t j = 0; j < CD; j++)
            rows[i][j] = c[j] + (float)random_normal(&seed);
    }
    add_rows(x, ids, rows, CLUSTERS * EACH);
    for (double share = 0.4; share > 0.22; share -= 0.1) {
        uint32_t percent = 0;

        for (uint32_t q = 0; q < 40; q++)
            percent += count_right_in_clusters(x, rows[q], share);
        cr_expect_geq(percent, (uint32_t)(95 * 40), "share %g: %u", share, percent / 40);
    }
    vshard_index_destroy(x);
    free(ids);
}

Test(index_filter, nothing_is_allocated_after_the_first_search)
{
    static struct stage t;
    struct vshard_index_options options = small_options(D, 0, 0);
    struct fault_alloc memory;
    struct vshard_hit hits[QUERIES * K];
    struct vshard_search_options o = { .size = sizeof o, .filter = &t.filter };

    begin(&t, 0, 0, 0);
    vshard_index_destroy(t.x);
    fault_alloc_init(&memory);
    options.allocator = &memory.hook;
    t.x = make_index(&options);
    add_rows(t.x, t.ids, t.vectors, REMOVED_FROM);
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t calls = memory.calls;

        for (uint32_t at = 0; at < 2 * VSHARD_FILTER_CALL; at++) {
            allow(&t, RANDOM, at % 2 ? 1500 : 30);
            make_filter(&t, 1 + at / 2);
            cr_assert_eq(vshard_index_search(t.x, query_at(&t, 0), QUERIES, K, hits, &o), 0);
            cr_assert_eq(vshard_index_range(t.x, query_at(&t, 0), 1.0f, hits, K, &o), 0);
        }
        cr_assert(round == 0 || memory.calls == calls, "%llu allocations",
                  (unsigned long long)(memory.calls - calls));
    }
    end(&t);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}
