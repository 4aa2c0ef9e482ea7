/* index_golden.c - files that were written by this version and earlier ones can be read.
 *
 * Method: each file of tests/golden was made by the recipe of its line in the table below,
 * from numbers that this test draws again. It is opened copied and mapped; the index must
 * check clean, hold the rows, vectors and values that were drawn, answer an exact search as a
 * loop in this file does and a walk nearly so, and, opened copied, take more rows. With
 * VSHARD_GOLDEN=new, files that are not there are written first; those that are there, never. */
#include <criterion/criterion.h>

#include <math.h>
#include <unistd.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { ROWS_MAX = 256, DIM = 4, WORD = 12, K = 5, QUERIES = 8 };

/* Every third row is 1,000 times as long; or rows lie near a few. */
enum shape { EVEN, LONG, CLUSTERS };
enum { CENTERS = 8 };

static const struct recipe {
    const char *name;
    uint32_t family, metric, element, profile, rows, removed, attributes;
    uint32_t late; /* of the rows, those that are added after a first save, in a file of changes,
                      with what is removed */
    uint32_t dim;
    enum shape shape;
} recipes[] = {
    { "1-flat", VSHARD_FAMILY_FLAT, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, 0, 40, 6, 0, 0, DIM,
      EVEN },
    { "1-flat-bits", VSHARD_FAMILY_FLAT, VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS, 0, 40, 0, 0, 0,
      DIM, EVEN },
    { "1-graph", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 256, 9, 0, 0, DIM,
      EVEN },
    { "1-graph-bytes", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8, 0, 256, 0, 0, 0,
      DIM, EVEN },
    { "1-lean", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 1, 256, 0, 0, 0, DIM,
      EVEN },
    { "2-attributes", VSHARD_FAMILY_HNSW, VSHARD_METRIC_IP, VSHARD_ELEMENT_I8, 0, 256, 9, 3, 0, DIM,
      EVEN },
    { "2-parts", VSHARD_FAMILY_FLAT, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 200, 5, 3, 20, DIM,
      EVEN },
    { "3-vectors", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, 0, 256, 9, 0, 0, DIM,
      LONG },
    { "3-attributes", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L1, VSHARD_ELEMENT_F32, 0, 256, 9, 3, 0,
      DIM, LONG },
    { "4-codes", VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8, 0, 256, 9, 0, 0, 72,
      CLUSTERS },
    { "4-attributes", VSHARD_FAMILY_HNSW, VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F16, 0, 256, 0, 3, 0,
      72, CLUSTERS },
    { "5-products", VSHARD_FAMILY_HNSW, VSHARD_METRIC_IP, VSHARD_ELEMENT_F32, 0, 256, 9, 3, 0, DIM,
      EVEN },
};

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "year" },
                                                      { VSHARD_ATTRIBUTE_DOUBLE, "price" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "lang" } };

/* What was put in. */
struct content {
    const struct recipe *recipe;
    unsigned char *vectors;
    size_t bytes; /* of one */
    uint64_t ids[ROWS_MAX];
    int64_t years[ROWS_MAX];
    double prices[ROWS_MAX];
    char langs[ROWS_MAX][WORD];
};

static void put(uint32_t element, unsigned char *vector, uint32_t at, double v)
{
    uint16_t half = half_of((int)(v * 1024));
    float f = (float)v;

    if (element == VSHARD_ELEMENT_U8)
        vector[at] = (unsigned char)v;
    else if (element == VSHARD_ELEMENT_F16)
        memcpy(vector + 2 * at, &half, sizeof half);
    else
        memcpy(vector + 4 * at, &f, sizeof f);
}

/* The first rows of clusters are their centers. */
static void reshape(struct content *c)
{
    const struct recipe *r = c->recipe;
    bool bytes = r->element == VSHARD_ELEMENT_U8;
    double middle = bytes ? 128 : 0, spread = bytes ? 0.03125 : 0.0625;

    for (uint32_t i = 0; i < ROWS_MAX; i++) {
        unsigned char *vector = c->vectors + i * c->bytes;
        const unsigned char *center = c->vectors + i % CENTERS * c->bytes;

        for (uint32_t j = 0; j < r->dim; j++) {
            double v = element_at(r->element, vector, j) - middle;

            if (r->shape == LONG && i % 3 == 0)
                put(r->element, vector, j, 1000 * v);
            if (r->shape == CLUSTERS && i >= CENTERS)
                put(r->element, vector, j, element_at(r->element, center, j) + v * spread);
            if (r->shape == CLUSTERS && i < CENTERS)
                put(r->element, vector, j, middle + v * (1 - spread));
        }
    }
}

static void draw(struct content *c, const struct recipe *r)
{
    uint64_t seed = 1000;

    memset(c, 0, sizeof *c);
    c->recipe = r;
    c->bytes = r->dim * element_bytes(r->element);
    c->vectors = draw_vectors(&seed, r->element, ROWS_MAX, r->dim);
    reshape(c);
    for (uint32_t i = 0; i < ROWS_MAX; i++) {
        c->ids[i] = 5 + 3 * (uint64_t)i;
        c->years[i] = i % 10 == 0 ? VSHARD_MISSING : 1950 + (int64_t)random_below(&seed, 70);
        c->prices[i] = i % 12 == 7 ? NAN : (double)random_below(&seed, 1000) / 8 - 40;
        if (i % 9 != 4)
            snprintf(c->langs[i], WORD, "lang%u", (uint32_t)random_below(&seed, 12));
    }
}

/* Rows that were removed are the first. */
static struct vshard_index *make(struct content *c, const char *path)
{
    const struct recipe *r = c->recipe;
    uint32_t first = r->rows - r->late;
    struct vshard_index_options o = small_options(r->dim, r->metric, r->element);
    const struct vshard_values values[] = { { c->years, 0 }, { c->prices, 0 }, { c->langs, WORD } };
    struct vshard_add_options with = { .size = sizeof with,
                                       .value_count = r->attributes,
                                       .values = values };
    struct vshard_index *x;

    o.family = r->family;
    o.profile = r->profile;
    o.m = 4;
    o.ef_construction = 32;
    o.attributes = attributes;
    o.attribute_count = r->attributes;
    x = make_index(&o);
    cr_assert_eq(vshard_index_add_with(x, c->ids, c->vectors, first, &with), 0);
    if (r->late > 0) {
        const struct vshard_values rest[] = { { c->years + first, 0 },
                                              { c->prices + first, 0 },
                                              { c->langs + first, WORD } };

        cr_assert_eq(vshard_index_save_changes(x, path), 0);
        with.values = rest;
        cr_assert_eq(
            vshard_index_add_with(x, c->ids + first, c->vectors + first * c->bytes, r->late, &with),
            0);
    }
    remove_rows(x, c->ids, r->removed);
    return x;
}

static void path_of(const struct recipe *r, char *path, size_t room)
{
    static const char here[] = __FILE__; /* source tree/tests/unit/index_golden.c */

    snprintf(path, room, "%.*s/golden/%s.vsx", (int)(sizeof here - sizeof "/unit/index_golden.c"),
             here, r->name);
}

static void write_if_new(struct content *c, const char *path)
{
    const struct recipe *r = c->recipe;
    const char *wanted = getenv("VSHARD_GOLDEN");
    struct vshard_index *x;

    if (wanted == NULL || strcmp(wanted, "new") != 0 || access(path, F_OK) == 0)
        return;
    x = make(c, path);
    cr_assert_eq(r->late ? vshard_index_save_changes(x, path) : vshard_index_save(x, path), 0);
    vshard_index_destroy(x);
    printf("index_golden: wrote %s\n", path);
}

/* ---- what it must say ---- */

static double distance(const struct recipe *r, const void *a, const void *b)
{
    double square = 0, dot = 0, aa = 0, bb = 0, bits = 0, sum = 0;

    for (uint32_t i = 0; i < r->dim; i++) {
        double p = element_at(r->element, a, i), q = element_at(r->element, b, i);

        square += (p - q) * (p - q);
        sum += fabs(p - q);
        dot += p * q;
        aa += p * p;
        bb += q * q;
        bits += __builtin_popcount((uint32_t)p ^ (uint32_t)q);
    }
    return r->metric == VSHARD_METRIC_L2SQ     ? square
           : r->metric == VSHARD_METRIC_IP     ? -dot
           : r->metric == VSHARD_METRIC_L1     ? sum
           : r->metric == VSHARD_METRIC_COSINE ? 1 - dot / sqrt(aa * bb)
                                               : bits;
}

static void expect_vectors(struct vshard_index *x, const struct content *c)
{
    const struct recipe *r = c->recipe;
    unsigned char *fetched = calloc(ROWS_MAX, c->bytes);
    uint8_t found[ROWS_MAX];
    int rc = vshard_index_fetch(x, c->ids, r->rows, fetched, found);

    cr_assert_eq(rc, r->removed ? VSHARD_ENOTFOUND : 0, "%s: %s", r->name, vshard_strerror(rc));
    for (uint32_t i = 0; i < r->rows; i++) {
        cr_assert_eq(found[i], i >= r->removed, "%s: row %u", r->name, i);
        for (uint32_t j = 0; found[i] && j < r->dim; j++) {
            double was = element_at(r->element, c->vectors + i * c->bytes, j);
            double is = element_at(r->element, fetched + i * c->bytes, j);

            cr_assert(fabs(was - is) <= (r->profile ? 0.01 : 0), "%s: row %u: %g was %g", r->name,
                      i, is, was);
        }
    }
    free(fetched);
}

static void expect_values(struct vshard_index *x, const struct content *c)
{
    const struct recipe *r = c->recipe;
    static int64_t years[ROWS_MAX];
    static double prices[ROWS_MAX];
    static char langs[ROWS_MAX][WORD];
    const struct vshard_values values[] = { { years, 0 }, { prices, 0 }, { langs, WORD } };
    struct vshard_attribute a;

    for (uint32_t i = 0; i < r->attributes; i++) {
        cr_assert_eq(vshard_index_attribute(x, i, &a), 0);
        cr_assert_eq(memcmp(&a, &attributes[i], sizeof a), 0, "%s: attribute %u", r->name, i);
    }
    cr_assert_eq(vshard_index_attribute(x, r->attributes, &a), VSHARD_ENOTFOUND);
    cr_assert_eq(vshard_index_fetch_values(x, c->ids + r->removed, r->rows - r->removed, values,
                                           r->attributes, NULL),
                 0);
    for (uint32_t i = 0; r->attributes > 0 && i < r->rows - r->removed; i++) {
        uint32_t row = i + r->removed;

        cr_assert_eq(years[i], c->years[row], "%s: row %u", r->name, row);
        cr_assert(isnan(c->prices[row]) ? isnan(prices[i]) : fabs(prices[i] - c->prices[row]) <= 0);
        cr_assert_eq(memcmp(langs[i], c->langs[row], WORD), 0, "%s: row %u", r->name, row);
    }
}

static bool allows(const struct content *c, uint32_t row)
{
    return row >= c->recipe->removed && (c->recipe->attributes == 0 || c->years[row] >= 1980);
}

/* The k-th least distance from a row, among those that may be answered. */
static double kth(const struct content *c, const void *query)
{
    double nearest[K];
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->recipe->rows; i++) {
        double d = distance(c->recipe, query, c->vectors + i * c->bytes);
        uint32_t at;

        if (!allows(c, i) || (count == K && d >= nearest[K - 1]))
            continue;
        for (at = count < K ? count++ : K - 1; at > 0 && nearest[at - 1] > d; at--)
            nearest[at] = nearest[at - 1];
        nearest[at] = d;
    }
    return nearest[K - 1];
}

/* The version is of the graph that the file has. */
static void expect_version(struct vshard_index *x, const struct recipe *r)
{
    bool codes =
        r->family == VSHARD_FAMILY_HNSW && x->sketches.stride == 0 && vs_sketch_bytes(x) > 0;

    cr_assert_eq(x->by_vectors, r->shape == LONG, "%s", r->name);
    cr_assert_eq(!x->by_vectors && codes, r->shape == CLUSTERS, "%s", r->name);
}

/* Exact answers are the nearest; walks find most of them. */
static void expect_answers(struct vshard_index *x, const struct content *c)
{
    const struct recipe *r = c->recipe;
    static const int64_t from = 1980;
    const struct vshard_condition late = {
        VSHARD_WHERE_GE, 0, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &from
    };
    unsigned char where[32];
    struct vshard_filter f = { .size = sizeof f, .kind = VSHARD_FILTER_WHERE, .where = where };
    struct vshard_search_options o = { .size = sizeof o, .filter = r->attributes ? &f : NULL };
    uint32_t right = 0;

    cr_assert_eq(vshard_where_encode(&late, 1, where, sizeof where, &f.where_bytes), 0);
    for (uint32_t at = 0; at < 2 * QUERIES; at++) {
        const void *query = c->vectors + (r->removed + 20 * (at % QUERIES) % 34) * c->bytes;
        double farthest = kth(c, query), slack = r->profile ? 0.05 : 1e-5 + 1e-6 * fabs(farthest);
        struct vshard_hit hits[K];

        o.flags = at < QUERIES ? VSHARD_SEARCH_EXACT : 0;
        cr_assert_eq(vshard_index_search(x, query, 1, K, hits, &o), 0);
        for (uint32_t i = 0; i < K; i++) {
            uint32_t row = (uint32_t)(hits[i].id - 5) / 3;
            double d;

            cr_assert(row < r->rows && allows(c, row), "%s: id %llu", r->name,
                      (unsigned long long)hits[i].id);
            d = distance(r, query, c->vectors + row * c->bytes);
            cr_assert(fabs(d - (double)hits[i].distance) <= slack, "%s: %g is %g", r->name,
                      (double)hits[i].distance, d);
            cr_assert(o.flags == 0 || d <= farthest + slack, "%s: not the nearest", r->name);
            right += o.flags == 0 && d <= farthest + slack;
        }
    }
    cr_expect(right * 10 >= QUERIES * K * 9, "%s: walks found %u of %u", r->name, right,
              QUERIES * K);
}

static void expect_content(const char *path, const struct content *c, uint32_t flags)
{
    const struct recipe *r = c->recipe;
    struct vshard_open_options o = { .size = sizeof o, .flags = flags };
    struct vshard_index *x;
    uint64_t id = 3;
    int rc = vshard_index_open(path, &o, &x);

    cr_assert_eq(rc, 0, "%s, flags %u: %s", path, flags, vshard_strerror(rc));
    expect_clean(x, r->name);
    expect_version(x, r);
    cr_assert_eq(vshard_index_count(x), r->rows - r->removed);
    expect_vectors(x, c);
    expect_values(x, c);
    expect_answers(x, c);
    rc = vshard_index_add(x, &id, c->vectors, 1);
    cr_assert_eq(rc, flags & VSHARD_OPEN_MAPPED ? VSHARD_ENOTSUP : 0, "%s: %s", r->name,
                 vshard_strerror(rc));
    expect_clean(x, r->name);
    vshard_index_destroy(x);
}

Test(index_golden, every_file_ever_written_is_read)
{
    for (size_t i = 0; i < VS_COUNT(recipes); i++) {
        static struct content c;
        char path[4096];

        draw(&c, &recipes[i]);
        path_of(&recipes[i], path, sizeof path);
        write_if_new(&c, path);
        expect_content(path, &c, 0);
        expect_content(path, &c, VSHARD_OPEN_MAPPED);
        free(c.vectors);
    }
}

/* What an earlier version made of inner products stays as it is, and goes on. */
Test(index_golden, a_graph_on_a_sphere_goes_on_as_one)
{
    enum { MORE = 400 };
    struct vshard_open_options o = { .size = sizeof o };
    struct vshard_hit hits[QUERIES * K], exact[QUERIES * K];
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 2, *ids = number_ids(2000, MORE);
    void *v = draw_vectors(&seed, VSHARD_ELEMENT_I8, MORE, DIM);
    struct vshard_index *x, *y;
    uint32_t right = 0;
    char path[4096];

    path_of(&recipes[5], path, sizeof path);
    cr_assert_eq(vshard_index_open(path, &o, &x), 0);
    add_rows(x, ids, v, MORE);
    remove_rows(x, ids, MORE / 2);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_clean(x, path);
    cr_assert_eq(x->on_sphere, 1);
    x->storage_copy = *fault_storage_hook(fs);
    x->storage = &x->storage_copy;
    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    o.storage = fault_storage_hook(fs);
    for (o.flags = 0; o.flags < 2; o.flags++) {
        cr_assert_eq(vshard_index_open("/i", &o, &y), 0);
        cr_expect_eq(y->on_sphere, 1);
        search_rows(y, v, QUERIES, K, 0, 0, hits);
        search_rows(y, v, QUERIES, K, 0, VSHARD_SEARCH_EXACT, exact);
        for (uint32_t i = 0; i < QUERIES * K; i++)
            right += hits[i].distance <= exact[i / K * K + K - 1].distance;
        vshard_index_destroy(y);
    }
    cr_expect(right * 10 >= 2 * QUERIES * K * 9, "found %u", right);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    free(ids);
    free(v);
}
