/* index_range.c - a search within a radius answers what lies within it.
 *
 * Method: all distances of a query are listed by an exact search for as many answers as
 * there are rows, which other tests compare with their definition. A range search that is
 * exact must answer the first of that list, as far as the radius reaches, bit for bit; the
 * radius is put at the distance of some row, so that one row is just within it. A graph may
 * leave out a few, and no answer may be beyond, come twice or have another distance. All
 * elements, metrics, families and profiles, and dimensions on both sides of where scans go by
 * bytes and walks by sketches. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/index_data.h"

enum { N = 700, QUERIES = 6 };

struct the_index {
    struct vshard_index *x;
    unsigned char *queries;
    size_t bytes;
    bool graph;
    uint64_t wanted, found; /* of a graph that is not scanned */
    char name[100];
};

static void begin(struct the_index *t, const struct vshard_index_options *o)
{
    uint64_t seed = o->dim + o->element, *ids = number_ids(1, N);
    size_t elements = o->element == VSHARD_ELEMENT_BITS ? o->dim / 8 : o->dim;
    void *vectors = draw_vectors(&seed, o->element, N, elements);

    *t = (struct the_index){ .bytes = elements * element_bytes(o->element) };
    snprintf(t->name, sizeof t->name, "%s %s, dim %u, family %u, profile %u",
             element_names[o->element], metric_names[o->metric], o->dim, o->family, o->profile);
    t->graph = o->family == VSHARD_FAMILY_HNSW;
    t->queries = draw_vectors(&seed, o->element, QUERIES, elements);
    t->x = make_index(o);
    add_rows(t->x, ids, vectors, N);
    free(vectors);
    free(ids);
}

static void end(struct the_index *t)
{
    vshard_index_destroy(t->x);
    free(t->queries);
}

/* The answers are among the listed ones, in their order. */
static void expect_some(const struct the_index *t, const struct vshard_hit *hits, uint32_t count,
                        const struct vshard_hit *all, uint32_t within)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        while (at < within && all[at].id != hits[i].id)
            at++;
        cr_assert(at < within && memcmp(&all[at], &hits[i], sizeof *hits) == 0,
                  "%s: answer %u of %u is not within, or not so far", t->name, i, count);
        at++;
    }
}

static void expect_range(struct the_index *t, const unsigned char *query, float radius,
                         const struct vshard_hit *all, uint32_t flags)
{
    static struct vshard_hit hits[N + 1];
    struct vshard_search_info info = { .size = sizeof info };
    uint32_t found = N + 1, within = 0;
    struct vshard_search_options o = {
        .size = sizeof o, .flags = flags, .found = &found, .info = &info
    };

    while (within < N && all[within].distance <= radius)
        within++;
    cr_assert_eq(vshard_index_range(t->x, query, radius, hits, N, &o), 0);
    expect_some(t, hits, found, all, within);
    if (!t->graph || flags & VSHARD_SEARCH_EXACT) {
        cr_assert_eq(found, within, "%s, radius %g: %u of %u", t->name, (double)radius, found,
                     within);
        cr_assert_eq(info.exact_scans, 1, "%s", t->name);
        cr_assert_eq(info.rows, N, "%s: %llu rows", t->name, (unsigned long long)info.rows);
    }
    t->wanted += within;
    t->found += found;
    if (within < 2)
        return;
    cr_assert_eq(vshard_index_range(t->x, query, radius, hits, within / 2, &o), 0);
    cr_assert(found <= within / 2, "%s: no room", t->name);
    expect_some(t, hits, found, all, within);
    if (!t->graph || flags & VSHARD_SEARCH_EXACT)
        expect_some(t, hits, found, all, within / 2);
}

static void expect_ranges(struct the_index *t)
{
    static const uint32_t ranks[] = { 0, 1, 9, 60, N - 1 };
    static struct vshard_hit all[N];

    for (size_t q = 0; q < QUERIES; q++) {
        const unsigned char *query = t->queries + q * t->bytes;

        search_rows(t->x, query, 1, N, 0, VSHARD_SEARCH_EXACT, all);
        for (size_t i = 0; i < VS_COUNT(ranks); i++) {
            expect_range(t, query, all[ranks[i]].distance, all, 0);
            expect_range(t, query, all[ranks[i]].distance, all, VSHARD_SEARCH_EXACT);
        }
        expect_range(t, query, -INFINITY, all, 0);
        expect_range(t, query, INFINITY, all, 0);
    }
    cr_assert(t->found * 100 >= t->wanted * 98, "%s: %llu of %llu", t->name,
              (unsigned long long)t->found, (unsigned long long)t->wanted);
}

static void expect_all(uint32_t element)
{
    static const uint32_t dims[] = { 8, 31, 32, 64, 300 };

    for (uint32_t at = 0; at < 4 * METRICS * VS_COUNT(dims); at++) {
        uint32_t metric = at / 4 % METRICS;
        uint32_t dim = dims[at / 4 / METRICS];
        struct vshard_index_options o = small_options(dim, metric, element);
        struct the_index t;

        if (!combine(metric, element))
            continue;
        o.family = at % 2;
        o.profile = at / 2 % 2;
        begin(&t, &o);
        expect_ranges(&t);
        end(&t);
    }
}

Test(index_range, of_floats)
{
    expect_all(VSHARD_ELEMENT_F32);
}

Test(index_range, of_half_floats)
{
    expect_all(VSHARD_ELEMENT_F16);
}

Test(index_range, of_bytes)
{
    expect_all(VSHARD_ELEMENT_U8);
    expect_all(VSHARD_ELEMENT_I8);
}

Test(index_range, of_bits)
{
    expect_all(VSHARD_ELEMENT_BITS);
}
