/* index_lean.c - a lean index keeps codes alone, and says so truthfully.
 *
 * Method: what is fetched must be within half a step of what was given, wherever that lies
 * in the range of the first rows; every distance must be right to the vector that is
 * fetched; through adds, replacements, removals, repairs, saving and both ways of opening.
 * Recall by the vectors as given is measured on the words of the demo, memory on them and
 * by bytes. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/npy.h"

enum { D = 33, N = 1500, K = 10, TRAIN = 256 };

struct lean {
    struct vshard_index *x;
    struct fault_storage *fs;
    uint32_t metric, element;
    unsigned char *vectors;
    uint64_t *ids;
};

static struct lean begin(uint32_t metric, uint32_t element)
{
    struct vshard_index_options o = small_options(D, metric, element);
    struct lean l = { .metric = metric, .element = element, .fs = fault_storage_create(1) };
    uint64_t seed = 12;

    o.profile = VSHARD_PROFILE_LEAN;
    o.storage = fault_storage_hook(l.fs);
    l.x = make_index(&o);
    l.vectors = draw_vectors(&seed, element, N, D);
    l.ids = number_ids(0, N);
    return l;
}

static void end(struct lean *l)
{
    vshard_index_destroy(l->x);
    fault_storage_destroy(l->fs);
    free(l->vectors);
    free(l->ids);
}

static double distance(uint32_t metric, const double *a, const double *b)
{
    double l2 = 0, l1 = 0, ab = 0, aa = 0, bb = 0;

    for (size_t i = 0; i < D; i++) {
        l2 += (a[i] - b[i]) * (a[i] - b[i]);
        l1 += fabs(a[i] - b[i]);
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    switch (metric) {
    case VSHARD_METRIC_L2SQ: return l2;
    case VSHARD_METRIC_L1: return l1;
    case VSHARD_METRIC_IP: return -ab;
    default: return 1 - ab / sqrt(aa * bb);
    }
}

static void widen(const struct lean *l, const void *vector, double *out)
{
    for (size_t i = 0; i < D; i++)
        out[i] = element_at(l->element, vector, i);
}

/* Each element within half a step, and what half floats round. */
static void expect_near(const struct lean *l, struct vshard_index *x, uint64_t id,
                        const void *given)
{
    unsigned char fetched[D * 4];
    double a[D], b[D], length = 0, step, worst = 0;

    cr_assert_eq(vshard_index_fetch(x, &id, 1, fetched, NULL), 0);
    widen(l, given, a);
    widen(l, fetched, b);
    for (size_t i = 0; i < D; i++)
        length += a[i] * a[i];
    step = (l->metric == VSHARD_METRIC_COSINE ? sqrt(length) : 1) / (double)x->quantizer.scale;
    for (size_t i = 0; i < D; i++) {
        double most = 0.51 * step + (l->element == VSHARD_ELEMENT_F16 ? 0x1p-11 : 0);

        worst = fmax(worst, fabs(a[i] - b[i]) / step);
        cr_expect(fabs(a[i] - b[i]) <= most, "%s, row %llu, %zu: %g, %g", metric_names[l->metric],
                  (unsigned long long)id, i, a[i], b[i]);
    }
    cr_expect(worst > 0, "a code that is exact");
}

/* Distances are to what is fetched. */
static void expect_true_distances(const struct lean *l, struct vshard_index *x, uint32_t flags)
{
    struct vshard_hit hits[K];
    double slack = l->element == VSHARD_ELEMENT_F16 ? 2e-2 : 2e-5; /* fetched ones are rounded */

    for (uint32_t q = 0; q < 20; q++) {
        const unsigned char *query = l->vectors + q * 7 * D * element_bytes(l->element);
        double a[D], b[D];

        widen(l, query, a);
        search_rows(x, query, 1, K, 60, flags, hits);
        for (uint32_t i = 0; i < K; i++) {
            unsigned char fetched[D * 4];
            double d;

            cr_assert_eq(vshard_index_fetch(x, &hits[i].id, 1, fetched, NULL), 0);
            widen(l, fetched, b);
            d = distance(l->metric, a, b);
            cr_expect(fabs(d - (double)hits[i].distance) <= slack * (1 + fabs(d)),
                      "%s %s, query %u, answer %u: %g, to the fetched %g", metric_names[l->metric],
                      element_names[l->element], q, i, (double)hits[i].distance, d);
        }
    }
}

static void reopen_and_compare(const struct lean *l)
{
    struct vshard_hit before[K], after[K];
    uint64_t digest = digest_of(l->x);

    search_rows(l->x, l->vectors, 1, K, 0, 0, before);
    cr_assert_eq(vshard_index_save(l->x, "/i"), 0);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .storage = fault_storage_hook(l->fs) };
        struct vshard_index_stats s = { .size = sizeof s };
        struct vshard_index *y;

        cr_assert_eq(vshard_index_open("/i", &o, &y), 0);
        cr_expect_eq(digest_of(y), digest);
        expect_clean(y, "reopened");
        cr_assert_eq(vshard_index_stats(y, &s), 0);
        cr_expect(s.profile == VSHARD_PROFILE_LEAN && s.element_bytes < N * 2 * 32, "%llu bytes",
                  (unsigned long long)s.element_bytes);
        search_rows(y, l->vectors, 1, K, 0, 0, after);
        cr_expect_eq(memcmp(before, after, sizeof before), 0);
        expect_near(l, y, 700, l->vectors + 700 * D * element_bytes(l->element));
        vshard_index_destroy(y);
    }
}

static void live_through(uint32_t metric, uint32_t element)
{
    struct lean l = begin(metric, element);
    size_t bytes = D * element_bytes(element);
    unsigned char *fetched = malloc(N * bytes);

    add_rows(l.x, l.ids, l.vectors, TRAIN - 1);
    cr_assert_eq(vshard_index_fetch(l.x, l.ids, TRAIN - 1, fetched, NULL), 0);
    cr_expect_eq(memcmp(fetched, l.vectors, (TRAIN - 1) * bytes), 0, "as given before the graph");
    add_rows(l.x, l.ids + TRAIN - 1, l.vectors + (TRAIN - 1) * bytes, N - TRAIN + 1);
    cr_expect_eq(l.x->elements.heap_bytes, 0);
    for (uint32_t i = 0; i < N; i += 50)
        expect_near(&l, l.x, l.ids[i], l.vectors + i * bytes);
    expect_true_distances(&l, l.x, 0);
    expect_true_distances(&l, l.x, VSHARD_SEARCH_EXACT);
    remove_rows(l.x, l.ids, 500);
    add_rows(l.x, l.ids + 600, l.vectors + 100 * bytes, 50); /* replaced */
    expect_near(&l, l.x, l.ids[610], l.vectors + 110 * bytes);
    cr_assert_eq(vshard_index_maintain(l.x, 0, NULL), 0);
    add_rows(l.x, l.ids, l.vectors, 300); /* into freed slots */
    expect_near(&l, l.x, l.ids[10], l.vectors + 10 * bytes);
    expect_true_distances(&l, l.x, 0);
    expect_clean(l.x, "after a life");
    reopen_and_compare(&l);
    free(fetched);
    end(&l);
}

Test(index_lean, rows_are_what_their_codes_stand_for_all_their_life)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        live_through(metric, VSHARD_ELEMENT_F32);
        live_through(metric, VSHARD_ELEMENT_F16);
    }
}

Test(index_lean, bytes_and_bits_and_flat_indexes_stay_exact)
{
    for (uint32_t at = 0; at < 2 * METRICS * ELEMENTS; at++) {
        uint32_t metric = at % METRICS, element = at / METRICS % ELEMENTS;
        struct vshard_index_options o = small_options(D, metric, element);
        uint64_t seed = 3, *ids = number_ids(0, 300);
        size_t bytes = D * element_bytes(element);
        bool floats = element == VSHARD_ELEMENT_F32 || element == VSHARD_ELEMENT_F16;
        unsigned char *v, *fetched;
        struct vshard_index *x;

        o.family = at / METRICS / ELEMENTS;
        o.profile = VSHARD_PROFILE_LEAN;
        if (!combine(metric, element) || (floats && o.family == VSHARD_FAMILY_HNSW))
            continue;
        x = make_index(&o);
        v = draw_vectors(&seed, element, 300, D);
        fetched = malloc(300 * bytes);
        add_rows(x, ids, v, 300);
        cr_assert_eq(vshard_index_fetch(x, ids, 300, fetched, NULL), 0);
        cr_expect_eq(memcmp(v, fetched, 300 * bytes), 0, "%s %s", metric_names[metric],
                     element_names[element]);
        vshard_index_destroy(x);
        free(v);
        free(fetched);
        free(ids);
    }
}

/* Half floats are rounded to the nearest; checked against every half there is. */
Test(index_lean, half_floats_are_fetched_rounded_to_the_nearest)
{
    struct lean l = begin(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F16);

    add_rows(l.x, l.ids, l.vectors, N);
    for (uint32_t row = 0; row < N; row += 10) {
        uint16_t fetched[D];
        uint64_t id = row;
        float decoded[D];

        vs_decode(l.x, vs_idmap_find(&l.x->ids, id), 0, D, decoded);
        cr_assert_eq(vshard_index_fetch(l.x, &id, 1, fetched, NULL), 0);
        for (size_t i = 0; i < D; i++) {
            double off = fabs(half_value(fetched[i]) - (double)decoded[i]);

            for (int step = -1; step <= 1; step += 2) {
                uint16_t other = (uint16_t)(fetched[i] + step);

                if ((fetched[i] & 0x7fff) != 0)
                    cr_expect(off <= fabs(half_value(other) - (double)decoded[i]), "%g",
                              (double)decoded[i]);
            }
        }
    }
    end(&l);
}

static bool holds(const struct vs_column *c, const void *pattern, size_t bytes)
{
    for (uint32_t e = 0; e < c->extents; e++) {
        const unsigned char *p = vs_column_at(c, e * VS_EXTENT_ROWS);

        for (size_t i = 0; i + bytes <= VS_EXTENT_ROWS * c->stride; i++) {
            if (memcmp(p + i, pattern, bytes) == 0)
                return true;
        }
    }
    return false;
}

Test(index_lean, codes_of_removed_rows_are_wiped)
{
    struct lean l = begin(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    unsigned char secret[D];

    add_rows(l.x, l.ids, l.vectors, N);
    memcpy(secret, vs_code_at(l.x, vs_idmap_find(&l.x->ids, 77)), D);
    cr_expect(holds(&l.x->codes, secret, D), "the test itself");
    remove_rows(l.x, l.ids + 77, 1);
    cr_assert_eq(vshard_index_maintain(l.x, 0, NULL), 0);
    cr_expect(!holds(&l.x->codes, secret, D));
    end(&l);
}

/* ---- words ---- */

static void read_words(struct npy *a, const char *name)
{
    static const char here[] = __FILE__; /* source tree/tests/unit/index_lean.c */
    char path[4200];
    int n = (int)(strlen(here) - strlen("tests/unit/index_lean.c"));

    snprintf(path, sizeof path, "%.*sexamples/demo/data/glove30k.%s.npy", n, here, name);
    cr_assert_eq(npy_read(a, path, 0), 0, "%s: %s", path, a->error);
}

Test(index_lean, words_take_few_bytes_and_are_found)
{
    struct vshard_index_options o = {
        .size = sizeof o, .dim = 100, .metric = VSHARD_METRIC_COSINE, .m = 16, .ef_construction = 60
    };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *full, *lean;
    struct npy base, query;
    struct vshard_hit exact[K], hits[K];
    float *v, *q;
    uint64_t *ids;
    uint32_t good = 0;

    read_words(&base, "base");
    read_words(&query, "query");
    v = npy_floats(&base);
    q = npy_floats(&query);
    ids = number_ids(0, base.rows);
    full = make_index(&(struct vshard_index_options){
        .size = sizeof o, .dim = 100, .metric = o.metric, .family = VSHARD_FAMILY_FLAT });
    add_rows(full, ids, v, base.rows);
    o.profile = VSHARD_PROFILE_LEAN;
    lean = make_index(&o);
    add_rows(lean, ids, v, base.rows);
    for (uint32_t i = 0; i < 300; i++) {
        search_rows(full, q + i * 100, 1, K, 0, 0, exact);
        search_rows(lean, q + i * 100, 1, K, 200, 0, hits);
        for (uint32_t a = 0; a < K; a++) {
            for (uint32_t b = 0; b < K; b++)
                good += hits[a].id == exact[b].id;
        }
    }
    cr_assert_eq(vshard_index_stats(lean, &s), 0);
    printf("index_lean: %.1f bytes a vector without scratch, recall@10 %.4f\n",
           (double)(s.heap_bytes - s.scratch_bytes) / (double)s.rows, good / 3000.0);
    cr_expect(good >= 2900, "%u of 3000", good);
    cr_expect(s.heap_bytes - s.scratch_bytes <= 420 * s.rows, "%llu bytes for %llu rows",
              (unsigned long long)s.heap_bytes, (unsigned long long)s.rows);
    vshard_index_destroy(full);
    vshard_index_destroy(lean);
    npy_free(&base);
    npy_free(&query);
    free(v);
    free(q);
    free(ids);
}

/* Of a row that lies far out, however far. */
Test(index_lean, elements_far_outside_are_right_to_a_part_in_two_thousand)
{
    static const float fars[] = { 1e2f, -3e3f, 6e4f, -1e5f, 1e7f, 1e9f, -1e10f };
    struct lean l = begin(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);

    add_rows(l.x, l.ids, l.vectors, N);
    for (size_t i = 0; i < VS_COUNT(fars); i++) {
        uint64_t id = N + i;
        float given[D] = { 0 }, fetched[D];
        struct vshard_hit hit;

        given[D - 1] = fars[i];
        given[0] = -fars[i] / 3;
        add_rows(l.x, &id, given, 1);
        cr_assert_eq(vshard_index_fetch(l.x, &id, 1, fetched, NULL), 0);
        cr_expect_float_eq(fetched[D - 1] / given[D - 1], 1, 1.0f / 2000, "%g is %g",
                           (double)given[D - 1], (double)fetched[D - 1]);
        cr_expect_float_eq(fetched[0] / given[0], 1, 1.0f / 2000, "%g is %g", (double)given[0],
                           (double)fetched[0]);
        search_rows(l.x, given, 1, 1, 0, VSHARD_SEARCH_EXACT, &hit);
        cr_expect_eq(hit.id, id);
    }
    end(&l);
}
