/* index_estimate.c - what rows take is said before they are there, and can be limited.
 *
 * Method: for each layout an estimate is compared with what the index, and the file that
 * it saves, then take. A limit equal to the estimate must let exactly so many rows in; one
 * byte less must refuse all of them, say so by name and number, and change nothing. */
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
