/* index_refusals.c - bad input gets its status and an event that names it.
 *
 * Method: each refusal that the header documents is provoked alone, beside the nearest
 * input that must be accepted. After each one the digest must be what it was. The
 * event must carry the name of the call and of the argument. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 5, ROWS = 300 };

struct bench {
    struct vshard_index *x;
    struct seen seen;
    struct vshard_logger logger;
    struct fault_storage *fs;
    void *vectors;
    uint64_t *ids;
    uint64_t digest;
};

static void begin(struct bench *b, uint32_t metric, uint32_t element)
{
    struct vshard_index_options o = small_options(D, metric, element);
    uint64_t seed = 3;

    b->fs = fault_storage_create(1);
    b->logger = seen_logger(&b->seen);
    o.logger = &b->logger;
    o.storage = fault_storage_hook(b->fs);
    b->x = make_index(&o);
    b->vectors = draw_vectors(&seed, element, ROWS, D);
    b->ids = number_ids(0, ROWS);
    add_rows(b->x, b->ids, b->vectors, ROWS);
    b->digest = digest_of(b->x);
}

static void end(struct bench *b)
{
    vshard_index_destroy(b->x);
    cr_expect_null(fault_storage_verdict(b->fs));
    fault_storage_destroy(b->fs);
    free(b->vectors);
    free(b->ids);
}

/* After a refused call: its status, one event of this name that speaks of `field`,
 * and nothing changed. */
static void expect_refused(struct bench *b, int rc, int status, const char *event,
                           const char *field)
{
    cr_expect_eq(rc, status, "%s, %s: %s", event, field, vshard_strerror(rc));
    cr_expect_eq(b->seen.count, 1, "%s, %s: %u events", event, field, b->seen.count);
    cr_expect_str_eq(b->seen.name, event, "%s: the event is %s", field, b->seen.name);
    cr_expect_not_null(strstr(b->seen.fields, field), "%s: %s is not in %s", event, field,
                       b->seen.fields);
    b->seen.count = 0;
    b->seen.name[0] = b->seen.fields[0] = 0;
    if (b->x != NULL)
        cr_expect_eq(digest_of(b->x), b->digest, "%s, %s: the index changed", event, field);
}

/* ---- create ---- */

Test(index_refusals, each_option_out_of_range_is_named)
{
    static const struct {
        const char *name;
        size_t at;
        uint32_t least, most; /* 0, the default, is always accepted but for dim */
    } fields[] = {
#define FIELD(name, least, most) { #name, offsetof(struct vshard_index_options, name), least, most }
        FIELD(dim, 1, 32768),       FIELD(family, 0, 1),
        FIELD(metric, 0, 3),        FIELD(element, 0, 3),
        FIELD(m, 4, 128),           FIELD(ef_construction, 8, 4096),
        FIELD(ef_search, 1, 16384), FIELD(train_rows, 256, 65536),
        FIELD(flags, 0, 0),         FIELD(profile, 0, 1),

#undef FIELD
    };
    struct bench b = { 0 };

    b.logger = seen_logger(&b.seen);
    for (size_t i = 0; i < VS_COUNT(fields); i++) {
        uint32_t values[] = { fields[i].least,    fields[i].most, fields[i].least - 1,
                              fields[i].most + 1, 0x80000000u,    UINT32_MAX };

        for (size_t j = 0; j < VS_COUNT(values); j++) {
            struct vshard_index_options o = small_options(D, 0, 0);
            struct vshard_index *x = (void *)1;
            int rc;

            if (values[j] == 0 && i > 0) /* the default */
                continue;
            o.logger = &b.logger;
            memcpy((char *)&o + fields[i].at, &values[j], sizeof values[j]);
            rc = vshard_index_create(&o, &x);
            cr_expect((rc == 0) == (x != NULL), "%s", fields[i].name);
            if (values[j] >= fields[i].least && values[j] <= fields[i].most)
                cr_expect_eq(rc, 0, "%s = %u: %s", fields[i].name, values[j], vshard_strerror(rc));
            else
                expect_refused(&b, rc, VSHARD_EINVAL, "create.refused", fields[i].name);
            vshard_index_destroy(x);
        }
    }
}

Test(index_refusals, elements_and_metrics_that_do_not_combine_are_named)
{
    struct bench b = { 0 };

    b.logger = seen_logger(&b.seen);
    for (uint32_t at = 0; at < 2 * METRICS * ELEMENTS; at++) {
        struct vshard_index_options o = small_options(D, at % METRICS, at / METRICS % ELEMENTS);
        struct vshard_index *x = (void *)1;
        int rc;

        o.family = at / METRICS / ELEMENTS;
        o.logger = &b.logger;
        rc = vshard_index_create(&o, &x);
        cr_expect_eq(rc == 0, combine(o.metric, o.element), "%s %s: %s", metric_names[o.metric],
                     element_names[o.element], vshard_strerror(rc));
        if (rc != 0)
            expect_refused(&b, rc, VSHARD_EINVAL, "create.refused", "metric");
        vshard_index_destroy(x);
    }
}

Test(index_refusals, bits_come_by_eight)
{
    struct bench b = { 0 };

    b.logger = seen_logger(&b.seen);
    for (uint32_t dim = 1; dim <= 64; dim++) {
        struct vshard_index_options o =
            small_options(D, VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS);
        struct vshard_index *x;
        int rc;

        o.dim = dim;
        o.logger = &b.logger;
        rc = vshard_index_create(&o, &x);
        if (dim % 8 == 0)
            cr_expect_eq(rc, 0, "dim %u: %s", dim, vshard_strerror(rc));
        else
            expect_refused(&b, rc, VSHARD_EINVAL, "create.refused", "dim");
        vshard_index_destroy(x);
    }
}

Test(index_refusals, zero_is_the_default_in_every_option)
{
    struct vshard_index_options o = { .size = sizeof o, .dim = 3 };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *x = make_index(&o);

    cr_assert_eq(vshard_index_stats(x, &s), 0);
    cr_expect(s.dim == 3 && s.family == VSHARD_FAMILY_HNSW && s.metric == VSHARD_METRIC_L2SQ &&
              s.element == VSHARD_ELEMENT_F32 && s.m == 32 && s.ef_construction == 200 &&
              s.ef_search == 100 && s.train_rows == 2048);
    vshard_index_destroy(x);
}

static void run_never(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    (void)ctx, (void)count, (void)task, (void)arg;
}

Test(index_refusals, an_executor_has_a_width)
{
    static const uint32_t widths[] = { 0, 257, UINT32_MAX };
    struct bench b;
    struct vshard_index *x;

    begin(&b, 0, 0);
    cr_assert_eq(vshard_index_save(b.x, "/i"), 0);
    for (size_t i = 0; i < VS_COUNT(widths); i++) {
        struct vshard_executor e = { run_never, NULL, widths[i], 0 };
        struct vshard_index_options o = small_options(D, 0, 0);
        struct vshard_open_options oo = { .size = sizeof oo,
                                          .logger = &b.logger,
                                          .executor = &e,
                                          .storage = fault_storage_hook(b.fs) };

        o.logger = &b.logger;
        o.executor = &e;
        expect_refused(&b, vshard_index_create(&o, &x), VSHARD_EINVAL, "create.refused",
                       "executor.width");
        cr_expect_null(x);
        expect_refused(&b, vshard_index_open("/i", &oo, &x), VSHARD_EINVAL, "open.refused",
                       "executor.width");
        cr_expect_null(x);
    }
    end(&b);
}

/* ---- option structs of other sizes ---- */

Test(index_refusals, option_structs_may_be_larger_if_the_tail_is_zero)
{
    struct {
        struct vshard_index_options o;
        uint64_t tail[4];
    } large = { .o = small_options(D, 0, 0) };
    struct {
        struct vshard_search_options o;
        uint64_t tail[4];
    } wide = { .o = { .size = sizeof wide } };
    struct {
        struct vshard_open_options o;
        uint64_t tail[4];
    } open = { .o = { .size = sizeof open } };
    float query[D] = { 1 };
    struct vshard_hit hit;
    struct vshard_index *x = NULL, *y;
    struct bench b;

    begin(&b, 0, 0);
    cr_assert_eq(vshard_index_save(b.x, "/i"), 0);
    large.o.size = sizeof large;
    large.o.logger = open.o.logger = &b.logger;
    open.o.storage = fault_storage_hook(b.fs);
    cr_assert_eq(vshard_index_create(&large.o, &x), 0);
    cr_expect_eq(vshard_index_search(b.x, query, 1, 1, &hit, &wide.o), 0);
    cr_assert_eq(vshard_index_open("/i", &open.o, &y), 0);
    vshard_index_destroy(y);
    vshard_index_destroy(x);
    for (uint32_t i = 0; i < sizeof large.tail; i++) {
        ((unsigned char *)large.tail)[i] = 1;
        ((unsigned char *)wide.tail)[i] = 1;
        ((unsigned char *)open.tail)[i] = 1;
        expect_refused(&b, vshard_index_create(&large.o, &x), VSHARD_EVERSION, "create.refused",
                       "options.size");
        expect_refused(&b, vshard_index_search(b.x, query, 1, 1, &hit, &wide.o), VSHARD_EVERSION,
                       "search.refused", "options.size");
        expect_refused(&b, vshard_index_open("/i", &open.o, &y), VSHARD_EVERSION, "open.refused",
                       "options.size");
        cr_expect(x == NULL && y == NULL);
        ((unsigned char *)large.tail)[i] = 0;
        ((unsigned char *)wide.tail)[i] = 0;
        ((unsigned char *)open.tail)[i] = 0;
    }
    end(&b);
}

Test(index_refusals, structs_smaller_than_their_first_release_are_refused)
{
    struct bench b;
    float query[D] = { 1 };
    struct vshard_hit hit;
    struct vshard_index *x;

    begin(&b, 0, 0);
    for (uint32_t size = 0; size < offsetof(struct vshard_index_options, numa_node); size++) {
        struct vshard_index_options o = small_options(D, 0, 0);

        o.size = size;
        cr_expect_eq(vshard_index_create(&o, &x), VSHARD_EINVAL, "size %u", size);
        cr_expect_null(x);
    }
    for (uint32_t size = 0; size < VS_SIZE_THROUGH(struct vshard_search_options, info); size++) {
        struct vshard_search_options o = { .size = size };

        expect_refused(&b, vshard_index_search(b.x, query, 1, 1, &hit, &o), VSHARD_EINVAL,
                       "search.refused", "options.size");
    }
    for (uint32_t size = 0; size < VS_SIZE_THROUGH(struct vshard_search_info, exact_scans);
         size++) {
        struct vshard_search_info info = { .size = size };
        struct vshard_search_options o = { .size = sizeof o, .info = &info };

        expect_refused(&b, vshard_index_search(b.x, query, 1, 1, &hit, &o), VSHARD_EINVAL,
                       "search.refused", "info.size");
    }
    for (uint32_t size = 0; size < offsetof(struct vshard_open_options, numa_node); size++) {
        struct vshard_open_options o = { .size = size };

        cr_expect_eq(vshard_index_open("/i", &o, &x), VSHARD_EINVAL, "size %u", size);
    }
    for (uint32_t size = 0; size < offsetof(struct vshard_index_stats, numa_node); size++) {
        struct vshard_index_stats s = { .size = size };

        expect_refused(&b, vshard_index_stats(b.x, &s), VSHARD_EINVAL, "stats.refused",
                       "stats.size");
    }
    for (uint32_t size = 0; size < VS_SIZE_THROUGH(struct vshard_index_check, unreachable);
         size++) {
        struct vshard_index_check c = { .size = size };

        expect_refused(&b, vshard_index_check(b.x, &c), VSHARD_EINVAL, "check.refused",
                       "report.size");
    }
    end(&b);
}

Test(index_refusals, reports_are_filled_as_far_as_they_reach_and_zeroed_behind)
{
    struct {
        struct vshard_index_stats s;
        uint64_t tail[4];
    } large;
    struct bench b;

    begin(&b, 0, 0);
    memset(&large, 0xaa, sizeof large);
    large.s.size = sizeof large - 8;
    cr_assert_eq(vshard_index_stats(b.x, &large.s), 0);
    cr_expect_eq(large.s.size, sizeof large - 8, "the size is the caller's");
    cr_expect_eq(large.s.rows, ROWS);
    cr_expect(large.tail[0] == 0 && large.tail[2] == 0);
    cr_expect_eq(large.tail[3], 0xaaaaaaaaaaaaaaaau, "nothing behind it is touched");
    end(&b);
}

/* ---- NULL ---- */

Test(index_refusals, null_arguments_are_refused)
{
    struct vshard_index_options o = small_options(D, 0, 0);
    struct vshard_hit hit;
    struct bench b;
    float v[D] = { 1 };
    uint64_t id = 1, digest;
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *x;

    begin(&b, 0, 0);
    cr_expect_eq(vshard_index_create(NULL, &x), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_create(&o, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_add(NULL, &id, v, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_remove(NULL, &id, 1, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_fetch(NULL, &id, 1, v, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_search(NULL, v, 1, 1, &hit, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_save(NULL, "/i"), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_save_changes(NULL, "/i"), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_open(NULL, NULL, &x), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_open("/i", NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_stats(NULL, &s), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_check(NULL, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_digest(NULL, &digest), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_maintain(NULL, 0, NULL), VSHARD_EINVAL);
    expect_refused(&b, vshard_index_add(b.x, NULL, v, 1), VSHARD_EINVAL, "add.refused",
                   "ids: NULL");
    expect_refused(&b, vshard_index_add(b.x, &id, NULL, 1), VSHARD_EINVAL, "add.refused",
                   "vectors: NULL");
    expect_refused(&b, vshard_index_remove(b.x, NULL, 1, NULL), VSHARD_EINVAL, "remove.refused",
                   "ids: NULL");
    expect_refused(&b, vshard_index_fetch(b.x, NULL, 1, v, NULL), VSHARD_EINVAL, "fetch.refused",
                   "ids: NULL");
    expect_refused(&b, vshard_index_fetch(b.x, &id, 1, NULL, NULL), VSHARD_EINVAL, "fetch.refused",
                   "vectors: NULL");
    expect_refused(&b, vshard_index_search(b.x, NULL, 1, 1, &hit, NULL), VSHARD_EINVAL,
                   "search.refused", "queries: NULL");
    expect_refused(&b, vshard_index_search(b.x, v, 1, 1, NULL, NULL), VSHARD_EINVAL,
                   "search.refused", "hits: NULL");
    expect_refused(&b, vshard_index_save(b.x, NULL), VSHARD_EINVAL, "save.refused", "path: bytes");
    expect_refused(&b, vshard_index_save_changes(b.x, NULL), VSHARD_EINVAL, "save.refused",
                   "path: bytes");
    expect_refused(&b, vshard_index_stats(b.x, NULL), VSHARD_EINVAL, "stats.refused", "stats.size");
    expect_refused(&b, vshard_index_digest(b.x, NULL), VSHARD_EINVAL, "digest.refused",
                   "digest: NULL");
    cr_expect_eq(vshard_index_add(b.x, NULL, NULL, 0), 0, "no rows are no error");
    cr_expect_eq(vshard_index_remove(b.x, NULL, 0, NULL), 0);
    cr_expect_eq(vshard_index_fetch(b.x, NULL, 0, NULL, NULL), 0);
    cr_expect_eq(digest_of(b.x), b.digest);
    end(&b);
}

/* ---- vectors and ids ---- */

Test(index_refusals, floats_that_are_no_numbers_or_too_large_are_refused_at_each_place)
{
    static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY, 1.1e15f, -1.1e15f };
    enum { BATCH = 3 };

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        struct bench b;
        struct vshard_hit hits[BATCH];

        begin(&b, metric, VSHARD_ELEMENT_F32);
        for (uint32_t i = 0; i < VS_COUNT(bad) * BATCH * D; i++) {
            uint32_t at = i / VS_COUNT(bad);
            float v[BATCH * D];
            char row[16];

            for (uint32_t j = 0; j < BATCH * D; j++)
                v[j] = 0.5f;
            v[at] = bad[i % VS_COUNT(bad)];
            snprintf(row, sizeof row, "row=%u ", at / D);
            expect_refused(&b, vshard_index_add(b.x, b.ids, v, BATCH), VSHARD_EINVAL, "add.refused",
                           row);
            expect_refused(&b, vshard_index_search(b.x, v, BATCH, 1, hits, NULL), VSHARD_EINVAL,
                           "search.refused", "queries");
        }
        end(&b);
    }
}

Test(index_refusals, half_floats_that_are_no_numbers_are_refused_at_each_place)
{
    static const uint16_t bad[] = { 0x7c00, 0xfc00, 0x7e00, 0xffff, 0x7c01 };
    enum { BATCH = 3 };

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        uint16_t v[BATCH * D];
        struct bench b;
        struct vshard_hit hits[BATCH];

        begin(&b, metric, VSHARD_ELEMENT_F16);
        for (uint32_t i = 0; i < BATCH * D; i++)
            v[i] = 0x7bff; /* the greatest */
        for (uint32_t i = 0; i < VS_COUNT(bad) * BATCH * D; i++) {
            uint32_t at = i / VS_COUNT(bad);
            char row[16];

            v[at] = bad[i % VS_COUNT(bad)];
            snprintf(row, sizeof row, "row=%u ", at / D);
            expect_refused(&b, vshard_index_add(b.x, b.ids, v, BATCH), VSHARD_EINVAL, "add.refused",
                           row);
            expect_refused(&b, vshard_index_search(b.x, v, BATCH, 1, hits, NULL), VSHARD_EINVAL,
                           "search.refused", "queries");
            v[at] = 0x7bff;
        }
        cr_expect_eq(vshard_index_add(b.x, b.ids, v, BATCH), 0);
        cr_expect_eq(vshard_index_search(b.x, v, BATCH, 1, hits, NULL), 0);
        end(&b);
    }
}

Test(index_refusals, the_greatest_value_is_accepted)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        struct bench b;
        float v[D] = { VSHARD_VALUE_MAX, -VSHARD_VALUE_MAX, 1e-45f, 0, -0.0f };
        struct vshard_hit hit;

        begin(&b, metric, VSHARD_ELEMENT_F32);
        cr_expect_eq(vshard_index_add(b.x, b.ids, v, 1), 0, "%s", metric_names[metric]);
        cr_expect_eq(vshard_index_search(b.x, v, 1, 1, &hit, NULL), 0);
        cr_expect_eq(b.seen.errors, 0);
        end(&b);
    }
}

Test(index_refusals, vectors_without_a_direction_are_refused_under_cosine_alone)
{
    for (uint32_t at = 0; at < METRICS * ELEMENTS; at++) {
        uint32_t metric = at % METRICS, element = at / METRICS;
        unsigned char zero[2 * 4 * D] = { 0 };
        struct vshard_hit hits[2];
        struct bench b;
        int add, search;

        if (!combine(metric, element))
            continue;
        begin(&b, metric, element);
        add = vshard_index_add(b.x, b.ids, zero, 2);
        if (metric == VSHARD_METRIC_COSINE) {
            expect_refused(&b, add, VSHARD_EINVAL, "add.refused", "limit=1e-15");
            search = vshard_index_search(b.x, zero, 2, 1, hits, NULL);
            expect_refused(&b, search, VSHARD_EINVAL, "search.refused", "queries: length");
        } else {
            cr_expect_eq(add, 0);
            cr_expect_eq(vshard_index_search(b.x, zero, 2, 1, hits, NULL), 0);
        }
        end(&b);
    }
}

/* By each call that takes one; with the filter, too, that a search would ask first. */
static void expect_vector_refused(struct bench *b, const float v[D])
{
    const struct vshard_add_options with = { .size = sizeof with };
    const struct vshard_filter none = { .size = sizeof none, .kind = VSHARD_FILTER_IDS };
    struct vshard_search_options o = { .size = sizeof o, .filter = &none };
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_hit hit;

    expect_refused(b, vshard_index_add_with(b->x, b->ids, v, 1, &with), VSHARD_EINVAL,
                   "add.refused", "row=0 ");
    expect_refused(b, vshard_index_search(b->x, v, 1, 1, &hit, &o), VSHARD_EINVAL, "search.refused",
                   "queries");
    expect_refused(b, vshard_index_range(b->x, v, 1, &hit, 1, &o), VSHARD_EINVAL, "search.refused",
                   "queries");
    expect_refused(b, vshard_index_explain(b->x, v, 1, 1, &o, &e), VSHARD_EINVAL, "search.refused",
                   "queries");
    o.filter = NULL;
    o.flags = VSHARD_SEARCH_EXACT;
    expect_refused(b, vshard_index_search(b->x, v, 1, 1, &hit, &o), VSHARD_EINVAL, "search.refused",
                   "queries");
    expect_refused(b, vshard_index_range(b->x, v, 1, &hit, 1, NULL), VSHARD_EINVAL,
                   "search.refused", "queries");
    expect_refused(b, vshard_index_explain(b->x, v, 1, 1, NULL, &e), VSHARD_EINVAL,
                   "search.refused", "queries");
    expect_refused(b, vshard_index_calibrate(b->x, v, 1), VSHARD_EINVAL, "calibrate.refused",
                   "queries");
}

Test(index_refusals, each_call_that_takes_a_vector_refuses_a_bad_one)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 1.1e15f, 0 };

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        struct bench b;

        begin(&b, metric, VSHARD_ELEMENT_F32);
        for (size_t i = 0; i < VS_COUNT(bad); i++) {
            const float v[D] = { 0, 0, 0, bad[i] };

            if (bad[i] != 0 || metric == VSHARD_METRIC_COSINE)
                expect_vector_refused(&b, v);
        }
        end(&b);
    }
}

Test(index_refusals, the_shortest_vector_with_a_direction_is_accepted)
{
    float shortest[D] = { 0, 0, 1.0001e-15f }, shorter[D] = { 0, 0, 0.999e-15f };
    struct bench b;
    struct vshard_hit hit;

    begin(&b, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32);
    expect_refused(&b, vshard_index_add(b.x, b.ids, shorter, 1), VSHARD_EINVAL, "add.refused",
                   "row=0");
    cr_expect_eq(vshard_index_add(b.x, b.ids, shortest, 1), 0);
    cr_expect_eq(vshard_index_search(b.x, shortest, 1, 1, &hit, NULL), 0);
    cr_expect_eq(hit.id, b.ids[0]);
    end(&b);
}

Test(index_refusals, the_one_id_that_cannot_be_used_is_refused)
{
    uint64_t ids[3] = { UINT64_MAX - 1, 0, VSHARD_ID_NONE };
    float v[3 * D] = { 1 };
    uint8_t found[1];
    struct bench b;

    begin(&b, 0, 0);
    expect_refused(&b, vshard_index_add(b.x, ids, v, 3), VSHARD_EINVAL, "add.refused", "row=2");
    cr_expect_eq(vshard_index_fetch(b.x, ids + 2, 1, v, found), VSHARD_ENOTFOUND);
    cr_expect_eq(found[0], 0);
    cr_expect_eq(vshard_index_remove(b.x, ids + 2, 1, NULL), 0);
    cr_expect_eq(vshard_index_add(b.x, ids, v, 2), 0);
    end(&b);
}

Test(index_refusals, more_rows_than_can_be_are_refused)
{
    struct bench b;
    float v[D] = { 1 };

    begin(&b, 0, 0);
    expect_refused(&b, vshard_index_add(b.x, b.ids, v, (size_t)VSHARD_ROWS_MAX + 1), VSHARD_E2BIG,
                   "add.refused", "count");
    expect_refused(&b, vshard_index_add(b.x, b.ids, v, VSHARD_ROWS_MAX), VSHARD_E2BIG,
                   "add.refused", "count");
    expect_refused(&b, vshard_index_add(b.x, b.ids, v, SIZE_MAX), VSHARD_E2BIG, "add.refused",
                   "count");
    expect_refused(&b, vshard_index_add(b.x, b.ids, v, SIZE_MAX / D / 4 + 2), VSHARD_E2BIG,
                   "add.refused", "count");
    end(&b);
}

/* ---- search ---- */

Test(index_refusals, searches_out_of_range_are_refused)
{
    static const size_t ks[] = { 0, VSHARD_K_MAX + 1, (size_t)1 << 32, SIZE_MAX };
    struct vshard_search_options o = { .size = sizeof o };
    float q[D] = { 1 };
    static struct vshard_hit hits[VSHARD_K_MAX];
    struct bench b;

    begin(&b, 0, 0);
    for (size_t i = 0; i < VS_COUNT(ks); i++)
        expect_refused(&b, vshard_index_search(b.x, q, 1, ks[i], hits, NULL), VSHARD_EINVAL,
                       "search.refused", "=k ");
    cr_expect_eq(vshard_index_search(b.x, q, 1, VSHARD_K_MAX, hits, NULL), 0);
    expect_refused(&b, vshard_index_search(b.x, q, SIZE_MAX, 1, hits, NULL), VSHARD_EINVAL,
                   "search.refused", "=count ");
    expect_refused(&b, vshard_index_search(b.x, q, SIZE_MAX / 16 / 10 + 1, 10, hits, NULL),
                   VSHARD_EINVAL, "search.refused", "=count ");
    for (uint32_t bit = 3; bit < 32; bit++) {
        o.flags = 1u << bit;
        expect_refused(&b, vshard_index_search(b.x, q, 1, 1, hits, &o), VSHARD_EINVAL,
                       "search.refused", "=flags ");
    }
    o.flags = 0;
    o.ef_search = VSHARD_EF_MAX + 1;
    expect_refused(&b, vshard_index_search(b.x, q, 1, 1, hits, &o), VSHARD_EINVAL, "search.refused",
                   "=ef_search ");
    o.ef_search = VSHARD_EF_MAX;
    cr_expect_eq(vshard_index_search(b.x, q, 1, 1, hits, &o), 0);
    end(&b);
}

static int allow_none(void *ctx, uint64_t id)
{
    (void)ctx, (void)id;
    return 0;
}

/* Each by all three calls that take options. */
static void expect_all_refused(struct bench *b, const struct vshard_search_options *o, int status,
                               const char *field)
{
    struct vshard_explanation e = { .size = sizeof e };
    float q[D] = { 1 };
    struct vshard_hit hit;

    expect_refused(b, vshard_index_search(b->x, q, 1, 1, &hit, o), status, "search.refused", field);
    expect_refused(b, vshard_index_range(b->x, q, 1, &hit, 1, o), status, "search.refused", field);
    expect_refused(b, vshard_index_explain(b->x, q, 1, 1, o, &e), status, "search.refused", field);
}

/* A range search never reads it, and others with WITHIN alone. */
static void expect_distance_read(struct bench *b, const struct vshard_search_options *o, bool read)
{
    struct vshard_explanation e = { .size = sizeof e };
    float q[D] = { 1 };
    struct vshard_hit hit;

    cr_expect_eq(vshard_index_range(b->x, q, 1, &hit, 1, o), VSHARD_OK);
    if (!read) {
        cr_expect_eq(vshard_index_search(b->x, q, 1, 1, &hit, o), VSHARD_OK);
        cr_expect_eq(vshard_index_explain(b->x, q, 1, 1, o, &e), VSHARD_OK);
        return;
    }
    expect_refused(b, vshard_index_search(b->x, q, 1, 1, &hit, o), VSHARD_EINVAL, "search.refused",
                   "distance_max");
    expect_refused(b, vshard_index_explain(b->x, q, 1, 1, o, &e), VSHARD_EINVAL, "search.refused",
                   "distance_max");
}

Test(index_refusals, what_limits_a_search_is_checked)
{
    struct vshard_clock clock = { 0 };
    struct vshard_search_options o = { .size = sizeof o, .deadline_ns = 1 };
    struct bench b;

    begin(&b, 0, 0);
    expect_all_refused(&b, &o, VSHARD_EINVAL, "clock: NULL");
    o.clock = &clock;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "clock: NULL");
    o = (struct vshard_search_options){ .size = sizeof o, .distance_max = NAN };
    expect_distance_read(&b, &o, false);
    o.flags = VSHARD_SEARCH_WITHIN;
    expect_distance_read(&b, &o, true);
    o = (struct vshard_search_options){ .size = sizeof o, .reserved_pointer = &clock };
    expect_all_refused(&b, &o, VSHARD_EINVAL, "=reserved ");
    o = (struct vshard_search_options){ .size = sizeof o, .reserved_number = 1 };
    expect_all_refused(&b, &o, VSHARD_EINVAL, "=reserved ");
    end(&b);
}

Test(index_refusals, filters_are_checked)
{
    struct {
        struct vshard_filter f;
        uint64_t tail;
    } large = { .f = { .kind = VSHARD_FILTER_CALL, .allow = allow_none } };
    struct vshard_filter *f = &large.f;
    const struct vshard_search_options o = { .size = sizeof o, .filter = f };
    static const float shares[] = { -0.1f, 1.1f, NAN, INFINITY };
    const float q[D] = { 1 };
    struct vshard_hit hit;
    struct bench b;

    begin(&b, 0, 0);
    for (; f->size < VS_SIZE_THROUGH(struct vshard_filter, reserved); f->size++)
        expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.size");
    f->size = sizeof large;
    large.tail = 1;
    expect_all_refused(&b, &o, VSHARD_EVERSION, "filter.size");
    large.tail = 0;
    for (size_t i = 0; i < VS_COUNT(shares); i++) {
        f->share = shares[i];
        expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.share");
    }
    f->share = 1.1f;
    vshard_index_search(b.x, q, 1, 1, &hit, &o);
    cr_expect_not_null(strstr(b.seen.fields, "value=1.1 "), "%s", b.seen.fields);
    b.seen.count = 0;
    f->share = 0;
    f->reserved = 1;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.reserved");
    f->reserved = 0;
    f->allow = NULL;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.allow: NULL");
    f->count = 1;
    f->kind = VSHARD_FILTER_IDS;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.ids: NULL");
    f->kind = VSHARD_FILTER_BITS;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.bits: NULL");
    f->kind = 0;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.kind");
    f->kind = VSHARD_FILTER_WHERE + 1;
    expect_all_refused(&b, &o, VSHARD_EINVAL, "filter.kind");
    end(&b);
}

Test(index_refusals, ranges_and_explanations_are_checked)
{
    static const size_t rooms[] = { 0, VSHARD_RANGE_MAX + 1, SIZE_MAX };
    struct vshard_explanation e = { .size = sizeof e };
    float q[D] = { 1 }, bad[D] = { NAN };
    struct vshard_hit hit;
    struct bench b;

    begin(&b, 0, 0);
    for (size_t i = 0; i < VS_COUNT(rooms); i++)
        expect_refused(&b, vshard_index_range(b.x, q, 1, &hit, rooms[i], NULL), VSHARD_EINVAL,
                       "search.refused", "=room ");
    expect_refused(&b, vshard_index_range(b.x, q, NAN, &hit, 1, NULL), VSHARD_EINVAL,
                   "search.refused", "radius");
    expect_refused(&b, vshard_index_range(b.x, NULL, 1, &hit, 1, NULL), VSHARD_EINVAL,
                   "search.refused", "query: NULL");
    expect_refused(&b, vshard_index_range(b.x, q, 1, NULL, 1, NULL), VSHARD_EINVAL,
                   "search.refused", "hits: NULL");
    expect_refused(&b, vshard_index_range(b.x, bad, 1, &hit, 1, NULL), VSHARD_EINVAL,
                   "search.refused", "queries");
    cr_expect_eq(vshard_index_range(NULL, q, 1, &hit, 1, NULL), VSHARD_EINVAL);
    expect_refused(&b, vshard_index_explain(b.x, NULL, 1, 1, NULL, &e), VSHARD_EINVAL,
                   "search.refused", "query: NULL");
    expect_refused(&b, vshard_index_explain(b.x, q, 1, 1, NULL, NULL), VSHARD_EINVAL,
                   "search.refused", "explanation: NULL");
    expect_refused(&b, vshard_index_explain(b.x, q, 1, 0, NULL, &e), VSHARD_EINVAL,
                   "search.refused", "=k ");
    expect_refused(&b, vshard_index_explain(b.x, bad, 1, 1, NULL, &e), VSHARD_EINVAL,
                   "search.refused", "queries");
    cr_expect_eq(vshard_index_explain(NULL, q, 1, 1, NULL, &e), VSHARD_EINVAL);
    for (e.size = 0; e.size < sizeof e; e.size++)
        expect_refused(&b, vshard_index_explain(b.x, q, 1, 1, NULL, &e), VSHARD_EINVAL,
                       "search.refused", "explanation.size");
    end(&b);
}

/* ---- files ---- */

Test(index_refusals, paths_and_flags_of_files_are_checked)
{
    struct vshard_open_options o = { .size = sizeof o };
    struct vshard_index *x;
    char longest[4002];
    struct bench b;

    begin(&b, 0, 0);
    o.logger = &b.logger;
    o.storage = fault_storage_hook(b.fs);
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[4001] = 0;
    expect_refused(&b, vshard_index_save(b.x, ""), VSHARD_EINVAL, "save.refused", "path: bytes");
    expect_refused(&b, vshard_index_save(b.x, longest), VSHARD_EINVAL, "save.refused",
                   "value=4001");
    expect_refused(&b, vshard_index_save_changes(b.x, ""), VSHARD_EINVAL, "save.refused",
                   "path: bytes");
    expect_refused(&b, vshard_index_save_changes(b.x, longest), VSHARD_EINVAL, "save.refused",
                   "value=4001");
    expect_refused(&b, vshard_index_open("", &o, &x), VSHARD_EINVAL, "open.refused", "path: bytes");
    expect_refused(&b, vshard_index_open(NULL, &o, &x), VSHARD_EINVAL, "open.refused",
                   "path: bytes");
    expect_refused(&b, vshard_index_open(longest, &o, &x), VSHARD_EINVAL, "open.refused",
                   "value=4001");
    longest[4000] = 0;
    cr_expect_eq(vshard_index_save_changes(b.x, longest), 0);
    cr_expect_eq(vshard_index_open(longest, &o, &x), 0);
    vshard_index_destroy(x);
    cr_expect_eq(vshard_index_save(b.x, longest), 0);
    cr_expect_eq(vshard_index_open(longest, &o, &x), 0);
    vshard_index_destroy(x);
    expect_refused(&b, vshard_index_open("/nowhere", &o, &x), VSHARD_ENOTFOUND, "open.failed",
                   "/nowhere");
    expect_refused(&b, vshard_index_save(b.x, "/no/where"), VSHARD_ENOTFOUND, "save.failed",
                   "/no/where");
    expect_refused(&b, vshard_index_save_changes(b.x, "/no/where"), VSHARD_ENOTFOUND, "save.failed",
                   "/no/where");
    for (uint32_t bit = 2; bit < 32; bit++) {
        o.flags = 1u << bit;
        expect_refused(&b, vshard_index_open(longest, &o, &x), VSHARD_EINVAL, "open.refused",
                       "flags");
        cr_expect_null(x);
    }
    end(&b);
}

Test(index_refusals, a_mapped_index_is_read_only)
{
    struct vshard_open_options o = { .size = sizeof o, .flags = VSHARD_OPEN_MAPPED };
    struct vshard_index *x;
    struct bench b;

    begin(&b, 0, 0);
    o.logger = &b.logger;
    o.storage = fault_storage_hook(b.fs);
    cr_assert_eq(vshard_index_save(b.x, "/i"), 0);
    fault_storage_refuse_maps(b.fs, 1);
    expect_refused(&b, vshard_index_open("/i", &o, &x), VSHARD_ENOTSUP, "open.failed", "/i");
    cr_expect_null(x);
    fault_storage_refuse_maps(b.fs, 0);
    vshard_index_destroy(b.x);
    cr_assert_eq(vshard_index_open("/i", &o, &b.x), 0);
    expect_refused(&b, vshard_index_add(b.x, b.ids, b.vectors, 1), VSHARD_ENOTSUP, "add.refused",
                   "index: mapped");
    expect_refused(&b, vshard_index_add_with(b.x, b.ids, b.vectors, 1, NULL), VSHARD_ENOTSUP,
                   "add.refused", "index: mapped");
    expect_refused(&b, vshard_index_calibrate(b.x, NULL, 0), VSHARD_ENOTSUP, "calibrate.refused",
                   "index: mapped");
    expect_refused(&b, vshard_index_remove(b.x, b.ids, 1, NULL), VSHARD_ENOTSUP, "remove.refused",
                   "index: mapped");
    expect_refused(&b, vshard_index_maintain(b.x, 0, NULL), VSHARD_ENOTSUP, "maintain.refused",
                   "index: mapped");
    end(&b);
}
