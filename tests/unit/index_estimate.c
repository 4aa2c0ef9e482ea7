/* index_estimate.c - what rows take is said before they are there, and can be limited.
 *
 * Method: for each layout an estimate is compared with what the index, and the file that
 * it saves, then take; and for each kind of elements, metric, dimension and profile, over rows that
 * codes and sketches serve and others, told apart by the private header index/state.h. A limit
 * equal to the estimate must let exactly so many rows in; one byte less must refuse all of them,
 * say so by name and number, and change nothing. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { N = 12000 };

struct layout {
    const char *name;
    uint32_t dim, family, metric, element, profile, m, attributes;
};

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "a" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "b" },
                                                      { VSHARD_ATTRIBUTE_DOUBLE, "c" } };

static const struct layout layouts[] = {
    { "floats", 96, VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 8, 0 },
    { "axes", 260, VSHARD_FAMILY_HNSW, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, 0, 8, 0 },
    { "lean", 96, VSHARD_FAMILY_HNSW, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, 1, 8, 0 },
    { "bytes", 100, VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8, 0, 16, 0 },
    { "bits", 128, VSHARD_FAMILY_HNSW, VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS, 0, 8, 0 },
    { "flat floats", 50, VSHARD_FAMILY_FLAT, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 0, 0 },
    { "with attributes", 32, VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 8, 3 },
    { "flat bits", 64, VSHARD_FAMILY_FLAT, VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS, 0, 0, 0 },
};

/* An executor of any width, on one thread. */
static void run_here(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    (void)ctx;
    for (uint32_t i = 0; i < count; i++)
        task(arg, i);
}

static struct vshard_index_options options_of(const struct layout *l)
{
    return (struct vshard_index_options){ .size = sizeof(struct vshard_index_options),
                                          .dim = l->dim,
                                          .family = l->family,
                                          .metric = l->metric,
                                          .element = l->element,
                                          .profile = l->profile ? VSHARD_PROFILE_LEAN : 0,
                                          .m = l->m,
                                          .ef_construction = 40,
                                          .seed = 1,
                                          .attributes = attributes,
                                          .attribute_count = l->attributes };
}

static uint64_t saved_bytes(struct vshard_index *x, struct fault_storage *fs)
{
    struct vshard_storage storage = *fault_storage_hook(fs);
    struct vshard_io io = { .op = VSHARD_IO_OPEN, .path = "x" };
    uint64_t bytes;

    cr_assert_eq(vshard_index_save(x, "x"), 0);
    storage.submit(storage.ctx, &io);
    storage.wait(storage.ctx, &io);
    cr_assert_eq(io.status, 0);
    bytes = io.count;
    io.op = VSHARD_IO_CLOSE;
    storage.submit(storage.ctx, &io);
    storage.wait(storage.ctx, &io);
    return bytes;
}

static void expect_near(const char *name, const char *what, uint64_t said, uint64_t is)
{
    printf("index_estimate: %s: %s %llu, estimated %llu\n", name, what, (unsigned long long)is,
           (unsigned long long)said);
    cr_expect(fabs((double)said / (double)is - 1) <= 0.05, "%s: %s is %llu, estimated %llu", name,
              what, (unsigned long long)is, (unsigned long long)said);
}

Test(index_estimate, is_right_to_five_percent)
{
    for (size_t i = 0; i < VS_COUNT(layouts); i++) {
        struct vshard_index_options o = options_of(&layouts[i]);
        struct vshard_index_estimate e = { .size = sizeof e };
        struct vshard_index_stats s = { .size = sizeof s };
        struct fault_storage *fs = fault_storage_create(1);
        uint64_t seed = 1, *ids = number_ids(0, N);
        void *vectors = draw_vectors(&seed, o.element, N, o.dim);
        struct vshard_index *x;

        o.storage = fault_storage_hook(fs);
        cr_assert_eq(vshard_index_estimate(&o, N, &e), 0);
        x = make_index(&o);
        cr_assert_eq(vshard_index_add(x, ids, vectors, N), 0);
        cr_assert_eq(vshard_index_stats(x, &s), 0);
        expect_near(layouts[i].name, "memory", e.memory_bytes, s.heap_bytes);
        expect_near(layouts[i].name, "file", e.file_bytes, saved_bytes(x, fs));
        vshard_index_destroy(x);
        fault_storage_destroy(fs);
        free(vectors);
        free(ids);
    }
}

/* ---- where the rows decide ---- */

enum { DECIDING = 2500 };

static const uint32_t dims[] = { 1, 72, 264 };
static const char *const kinds[] = { "numbers", "one far feature", "tight clusters" };

static bool is_bytes(uint32_t element)
{
    return element == VSHARD_ELEMENT_U8 || element == VSHARD_ELEMENT_I8;
}

/* What of this kind tells more than numbers do. */
static bool tells(const struct vshard_index_options *o, int kind)
{
    if (kind == 0)
        return true;
    if (o->metric == VSHARD_METRIC_IP)
        return false;
    return o->element == VSHARD_ELEMENT_F32 ||
           (kind == 2 && is_bytes(o->element) && o->metric != VSHARD_METRIC_L1);
}

/* Elements of one of the kinds. */
static void *draw_kind(const struct vshard_index_options *o, int kind)
{
    uint64_t seed = 2;
    size_t dim = o->element == VSHARD_ELEMENT_BITS ? o->dim / 8 : o->dim;
    void *all = draw_vectors(&seed, o->element, DECIDING, dim);
    float *v = all;
    unsigned char *bytes = all;

    for (size_t i = 0; i < DECIDING * dim; i++) {
        uint64_t place = i / dim % 10 * dim + i % dim + 1;

        if (o->element == VSHARD_ELEMENT_F32 && kind == 1)
            v[i] *= i % dim == 0 ? 1000.0f : 1.0f;
        else if (o->element == VSHARD_ELEMENT_F32 && kind == 2)
            v[i] = random_float(&place) + v[i] / 30;
        else if (is_bytes(o->element) && kind == 2)
            bytes[i] = (unsigned char)(random_below(&place, 100) + bytes[i] % 4);
        if (o->element != VSHARD_ELEMENT_F32) /* a cosine is of what is not 0 */
            bytes[i * element_bytes(o->element)] |= 1;
    }
    return all;
}

/* Within 5 % of the one or the other, where it is known which; else between them. */
static void expect_between(const char *name, const char *what, uint64_t most, uint64_t least,
                           uint64_t is, int all)
{
    double slack = 0.05 * (double)is;

    cr_expect(least <= most, "%s: %s is %llu at most, %llu at least", name, what,
              (unsigned long long)most, (unsigned long long)least);
    if (all >= 0 || most == least) {
        expect_near(name, what, all == 0 ? least : most, is);
        return;
    }
    cr_expect((double)is <= (double)most + slack && (double)is >= (double)least - slack,
              "%s: %s is %llu, estimated %llu to %llu", name, what, (unsigned long long)is,
              (unsigned long long)least, (unsigned long long)most);
}

/* 1: it has codes and sketches if it may; 0: it has none of what it may lack; else -1. */
static int has_all(const struct vshard_index *x)
{
    if (x->by_vectors)
        return 0;
    if (x->sketches.stride == vs_sketch_bytes(x))
        return 1;
    return vs_walks_by_vectors(x) ? -1 : 0;
}

static void expect_kind(struct vshard_index_options *o, int kind, uint32_t seen[3])
{
    struct vshard_index_estimate e = { .size = sizeof e };
    struct vshard_index_stats s = { .size = sizeof s };
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t *ids = number_ids(0, DECIDING);
    void *vectors = draw_kind(o, kind);
    struct vshard_index *x;
    char name[120];
    int all;

    snprintf(name, sizeof name, "%s %u, %s, %s, %s", element_names[o->element], o->dim,
             metric_names[o->metric], o->profile ? "lean" : "default", kinds[kind]);
    o->storage = fault_storage_hook(fs);
    cr_assert_eq(vshard_index_estimate(o, DECIDING, &e), 0);
    x = make_index(o);
    cr_assert_eq(vshard_index_add(x, ids, vectors, DECIDING), 0);
    cr_assert_eq(vshard_index_stats(x, &s), 0);
    all = has_all(x);
    seen[1 + all]++;
    expect_between(name, "memory", e.memory_bytes, e.least_memory_bytes, s.heap_bytes, all);
    expect_between(name, "file", e.file_bytes, e.least_file_bytes, saved_bytes(x, fs), all);
    cr_expect((e.rows_bytes == e.least_rows_bytes) == (e.memory_bytes == e.least_memory_bytes));
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    free(vectors);
    free(ids);
}

Test(index_estimate, is_right_for_what_the_rows_decide)
{
    uint32_t seen[3] = { 0 }; /* of each that has_all() says, and 1 */

    for (uint32_t at = 0; at < ELEMENTS * METRICS * VS_COUNT(dims); at++) {
        uint32_t element = at % ELEMENTS, metric = at / ELEMENTS % METRICS;
        uint32_t dim = dims[at / ELEMENTS / METRICS];

        for (int kind = 0; combine(metric, element) && kind < 3; kind++) {
            struct vshard_index_options o = small_options(dim, metric, element);

            o.ef_construction = 8;
            if (element == VSHARD_ELEMENT_BITS)
                o.dim = (dim + 7) / 8 * 8;
            if (!tells(&o, kind))
                continue;
            expect_kind(&o, kind, seen);
            if (element == VSHARD_ELEMENT_F32) {
                o.profile = VSHARD_PROFILE_LEAN;
                expect_kind(&o, kind, seen);
            }
        }
    }
    cr_expect(seen[0] > 0 && seen[1] > 0 && seen[2] > 0, "%u between, %u least, %u most", seen[0],
              seen[1], seen[2]);
}

Test(index_estimate, counts_the_buffers_of_every_thread)
{
    static const uint32_t widths[] = { 2, 16, 64 };

    for (size_t i = 0; i < VS_COUNT(widths); i++) {
        struct vshard_executor many = { run_here, NULL, widths[i], 0 };
        struct vshard_index_options o = small_options(20, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
        uint32_t seen[3] = { 0 };

        o.executor = &many;
        expect_kind(&o, 0, seen);
        o.m = 64;
        expect_kind(&o, 0, seen);
    }
}

/* As a caller that was built before there were these numbers. */
Test(index_estimate, knows_a_caller_of_the_first_release)
{
    struct vshard_index_options o = options_of(&layouts[0]);
    struct vshard_index_estimate e = { .size = sizeof e }, old;

    memset(&old, 0xaa, sizeof old);
    old.size = VS_SIZE_THROUGH(struct vshard_index_estimate, file_bytes);
    cr_assert_eq(vshard_index_estimate(&o, N, &e), 0);
    cr_assert_eq(vshard_index_estimate(&o, N, &old), 0);
    cr_expect_eq(old.file_bytes, e.file_bytes);
    cr_expect_eq(old.least_rows_bytes, 0xaaaaaaaaaaaaaaaau, "nothing behind it is touched");
}

Test(index_estimate, a_limit_lets_in_what_was_estimated_and_not_a_byte_more)
{
    enum { FEW = 3000 };

    for (size_t i = 0; i < VS_COUNT(layouts); i++) {
        struct vshard_index_options o = options_of(&layouts[i]);
        struct vshard_index_estimate e = { .size = sizeof e };
        struct seen seen;
        struct vshard_logger logger = seen_logger(&seen);
        uint64_t seed = 1, *ids = number_ids(0, FEW), before;
        unsigned char *vectors = draw_vectors(&seed, o.element, FEW, o.dim);
        struct vshard_index *x;

        o.logger = &logger;
        cr_assert_eq(vshard_index_estimate(&o, FEW, &e), 0);
        for (int less = 0; less < 2; less++) {
            o.max_bytes = e.rows_bytes - (uint64_t)less;
            x = make_index(&o);
            cr_assert_eq(vshard_index_add(x, ids, vectors, 10), 0);
            before = digest_of(x);
            cr_expect_eq(vshard_index_add(x, ids, vectors, FEW), less ? VSHARD_E2BIG : 0, "%s, %d",
                         layouts[i].name, less);
            if (less) {
                cr_expect_str_eq(seen.name, "add.refused");
                cr_expect_not_null(strstr(seen.fields, "max_bytes"), "%s", seen.fields);
                cr_expect_eq(digest_of(x), before);
                cr_expect_eq(vshard_index_add(x, ids, vectors, 20), 0, "there is room for these");
            }
            vshard_index_destroy(x);
        }
        free(vectors);
        free(ids);
    }
}

Test(index_estimate, what_cannot_be_is_refused_by_name)
{
    struct vshard_index_options o = options_of(&layouts[0]);
    struct vshard_index_estimate e = { .size = sizeof e };
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);

    o.logger = &logger;
    cr_expect_eq(vshard_index_estimate(&o, (uint64_t)VSHARD_ROWS_MAX + 1, &e), VSHARD_E2BIG);
    cr_expect_not_null(strstr(seen.fields, "count"));
    cr_expect_eq(vshard_index_estimate(&o, VSHARD_ROWS_MAX, &e), 0, "the largest");
    cr_expect_gt(e.file_bytes, (uint64_t)VSHARD_ROWS_MAX * 96 * 4);
    cr_expect_eq(vshard_index_estimate(&o, 0, &e), 0, "and none");
    cr_expect_eq(vshard_index_estimate(&o, 10, NULL), VSHARD_EINVAL);
    e.size = 3;
    cr_expect_eq(vshard_index_estimate(&o, 10, &e), VSHARD_EINVAL);
    cr_expect_not_null(strstr(seen.fields, "estimate.size"));
    o.dim = 0;
    cr_expect_eq(vshard_index_estimate(&o, 10, &e), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_estimate(NULL, 10, &e), VSHARD_EINVAL);
}
