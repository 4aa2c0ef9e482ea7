/* index_forget.c - of a row that was removed no byte is left, in no buffer either.
 *
 * Method: an allocator looks through all memory that an index holds for the vector of one row, as
 * it was given, as its code and as its sketch, and of a lean index as what its code stands for. The
 * row comes in each way there is: with those that a graph begins with, in a call that builds over
 * many at once, and alone; it is calibrated by, saved and looked at; then it goes, by being removed
 * or replaced, and is repaired. Then memory has none of these, and the next file neither; nor was
 * memory given back with the vector in it. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { BEFORE = 100, FIRST = 600, BULK = 8300, ROWS = FIRST + BULK + 1, K = 5, DIM_MAX = 300 };

static const struct kind {
    const char *name;
    uint32_t family, element, metric, profile, dim;
} kinds[] = {
    { "graph on codes", 0, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 24 },
    { "graph with sketches", 0, VSHARD_ELEMENT_F32, VSHARD_METRIC_COSINE, 0, 80 },
    { "graph with sketches along axes", 0, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 270 },
    { "graph on bytes", 0, VSHARD_ELEMENT_U8, VSHARD_METRIC_L2SQ, 0, 32 },
    { "graph on bytes, cosine", 0, VSHARD_ELEMENT_I8, VSHARD_METRIC_COSINE, 0, 32 },
    { "graph on halves", 0, VSHARD_ELEMENT_F16, VSHARD_METRIC_L1, 0, 32 },
    { "graph on bits", 0, VSHARD_ELEMENT_BITS, VSHARD_METRIC_HAMMING, 0, 32 },
    { "graph by products", 0, VSHARD_ELEMENT_F32, VSHARD_METRIC_IP, 0, 24 },
    { "lean graph", 0, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, VSHARD_PROFILE_LEAN, 24 },
    { "lean graph of halves", 0, VSHARD_ELEMENT_F16, VSHARD_METRIC_COSINE, VSHARD_PROFILE_LEAN,
      80 },
    { "flat", 1, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 48 },
    { "flat, bytes", 1, VSHARD_ELEMENT_U8, VSHARD_METRIC_COSINE, 0, 32 },
};

/* How the row comes: the last of a call is what buffers have longest. A call before those that a
 * graph begins with is of rows that lean indexes have vectors of until then. */
enum way { EARLY, WITH_THE_FIRST, WITH_MANY, ALONE, WAYS };

static const char *const ways[WAYS] = { "early", "with the first", "with many", "alone" };

struct stage {
    const struct kind *kind;
    struct fault_alloc memory;
    struct fault_storage *fs;
    struct vshard_index *x;
    unsigned char *vectors;
    uint64_t *ids, secret;
    size_t bytes; /* of a vector */
    unsigned char code[DIM_MAX + 64], sketch[128];
    size_t code_bytes, sketch_bytes;
    float stands_for[DIM_MAX]; /* of a lean index of floats */
};

static const unsigned char *vector_of(const struct stage *s, uint64_t id)
{
    return s->vectors + id * s->bytes;
}

static void begin(struct stage *s, const struct kind *k, enum way way)
{
    static const uint64_t secrets[WAYS] = { BEFORE - 1, 300, FIRST + 4000, FIRST + BULK };
    struct vshard_index_options o = small_options(k->dim, k->metric, k->element);
    uint64_t seed = 3;

    memset(s, 0, sizeof *s);
    s->kind = k;
    s->secret = secrets[way];
    s->bytes = k->dim * element_bytes(k->element);
    s->ids = number_ids(0, ROWS);
    s->vectors = draw_vectors(&seed, k->element, ROWS, k->dim);
    fault_alloc_init(&s->memory);
    s->fs = fault_storage_create(1);
    o.family = k->family;
    o.profile = k->profile;
    o.allocator = &s->memory.hook;
    o.storage = fault_storage_hook(s->fs);
    s->x = make_index(&o);
    fault_alloc_watch(&s->memory, vector_of(s, s->secret), s->bytes);
    add_rows(s->x, s->ids, s->vectors, BEFORE);
    add_rows(s->x, s->ids + BEFORE, vector_of(s, BEFORE), FIRST - BEFORE);
    if (way == WITH_MANY)
        add_rows(s->x, s->ids + FIRST, vector_of(s, FIRST), BULK);
    if (way == ALONE)
        add_rows(s->x, s->ids + s->secret, vector_of(s, s->secret), 1);
}

static void end(struct stage *s)
{
    vshard_index_destroy(s->x);
    cr_expect_null(fault_alloc_verdict(&s->memory));
    fault_alloc_fini(&s->memory);
    fault_storage_destroy(s->fs);
    free(s->vectors);
    free(s->ids);
}

static void take_column(const struct vs_column *c, uint32_t slot, size_t most, unsigned char *out,
                        size_t *bytes)
{
    *bytes = c->stride < most ? c->stride : most;
    if (*bytes > 0)
        memcpy(out, vs_column_at(c, slot), *bytes);
}

static void take_codes(struct stage *s)
{
    uint32_t slot = vs_idmap_find(&s->x->ids, s->secret);

    take_column(&s->x->codes, slot, s->kind->dim, s->code, &s->code_bytes);
    if (s->kind->family == VSHARD_FAMILY_HNSW)
        take_column(&s->x->sketches, slot, (s->kind->dim + 1) / 2, s->sketch, &s->sketch_bytes);
}

/* From so near that the row is among those that are measured, by another code than its own. */
static void search_near(struct stage *s)
{
    struct vshard_hit hits[K];
    float query[DIM_MAX];

    memcpy(query, vector_of(s, s->secret), s->bytes);
    query[0] += 0.25f;
    search_rows(s->x, query, 1, K, 0, 0, hits);
    cr_expect_eq(hits[0].id, s->secret, "%s: it is not found", s->kind->name);
    cr_assert_eq(vshard_index_fetch(s->x, &s->secret, 1, s->stands_for, NULL), 0);
}

static void use(struct stage *s)
{
    static unsigned char copy[4 * DIM_MAX];
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_hit hits[K];

    cr_assert_eq(vshard_index_calibrate(s->x, NULL, 300), 0);
    cr_assert_eq(vshard_index_save(s->x, "/whole"), 0);
    cr_assert_eq(vshard_index_fetch(s->x, &s->secret, 1, copy, NULL), 0);
    search_rows(s->x, vector_of(s, 3), 1, K, 0, VSHARD_SEARCH_EXACT, hits);
    search_rows(s->x, vector_of(s, 3), 1, K, 0, 0, hits);
    cr_assert_eq(vshard_index_explain(s->x, vector_of(s, 3), s->secret, K, NULL, &e), 0);
    if (s->kind->profile == VSHARD_PROFILE_LEAN && s->kind->element == VSHARD_ELEMENT_F32)
        search_near(s);
}

static bool file_holds(struct stage *s, const char *path, const void *bytes, size_t count)
{
    size_t length;
    const unsigned char *file = fault_storage_bytes(s->fs, path, &length);

    for (size_t i = 0; i + count <= length; i++) {
        if (memcmp(file + i, bytes, count) == 0)
            return true;
    }
    return false;
}

static void expect_gone(struct stage *s, const char *name, const char *what, const void *bytes,
                        size_t count)
{
    if (count == 0)
        return;
    cr_expect_eq(fault_alloc_holds(&s->memory, bytes, count), 0, "%s: %s in memory", name, what);
    cr_expect(!file_holds(s, "/next", bytes, count), "%s: %s in the file", name, what);
}

static void forget(const struct kind *k, enum way way, bool replaced)
{
    static struct stage s;
    char name[100];

    snprintf(name, sizeof name, "%s, %s, %s", k->name, ways[way],
             replaced ? "replaced" : "removed");
    begin(&s, k, way);
    take_codes(&s);
    use(&s);
    cr_expect(s.x->no_vectors || fault_alloc_holds(&s.memory, vector_of(&s, s.secret), s.bytes) > 0,
              "%s: the test itself", name);
    if (replaced)
        add_rows(s.x, &s.secret, s.vectors, 1);
    else
        remove_rows(s.x, &s.secret, 1);
    cr_assert_eq(vshard_index_maintain(s.x, 0, NULL), 0);
    cr_assert_eq(vshard_index_save(s.x, "/next"), 0);
    expect_gone(&s, name, "the vector", vector_of(&s, s.secret), s.bytes);
    expect_gone(&s, name, "its code", s.code, s.code_bytes);
    expect_gone(&s, name, "its sketch", s.sketch, s.sketch_bytes);
    if (k->profile == VSHARD_PROFILE_LEAN && k->element == VSHARD_ELEMENT_F32)
        expect_gone(&s, name, "what it stands for", s.stands_for, s.bytes);
    cr_expect_eq(s.memory.left_behind, 0, "%s: %llu blocks were given back with it", name,
                 (unsigned long long)s.memory.left_behind);
    end(&s);
}

Test(index_forget, a_row_that_goes_is_in_no_memory)
{
    for (size_t k = 0; k < VS_COUNT(kinds); k++) {
        for (enum way way = 0; way < WAYS; way++) {
            if (way == WITH_MANY && kinds[k].dim > 32) /* which takes long */
                continue;
            forget(&kinds[k], way, false);
            if (way != WITH_MANY)
                forget(&kinds[k], way, true);
        }
    }
}
