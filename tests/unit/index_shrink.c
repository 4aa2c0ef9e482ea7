/* index_shrink.c - memory is given back after many rows were removed.
 *
 * Method: nine of ten rows are removed, and repaired by small budgets, so that nothing moves
 * yet; then they move. The graph is the same under other numbers, so each answer must be
 * what it was, in every way to ask; the index must be whole, take little more than one
 * that never had the others, and grow and be saved as before. Twins make the same calls on
 * other numbers of strands. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 32, ROWS = 12000, STEP = 10, ASKED = 200, K = 10, WORDS = 50 };

static const struct kind {
    const char *name;
    uint32_t family, element, metric, profile, dim;
} kinds[] = {
    { "graph", VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, D },
    { "graph with sketches", VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_COSINE, 0, 80 },
    { "graph on bytes", VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_U8, VSHARD_METRIC_L2SQ, 0, D },
    { "lean graph", VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, VSHARD_PROFILE_LEAN,
      D },
    { "flat", VSHARD_FAMILY_FLAT, VSHARD_ELEMENT_F32, VSHARD_METRIC_IP, 0, 48 },
};

struct herd {
    const struct kind *kind;
    struct vshard_index *x;
    struct fault_storage *fs;
    uint64_t *ids;
    unsigned char *vectors;
    size_t vector_bytes;
};

static void run_here(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    (void)ctx;
    for (uint32_t i = count; i-- > 0;)
        task(arg, i);
}

static const struct vshard_executor three = { run_here, NULL, 3, 0 };

static struct vshard_index_options herd_options(const struct kind *k,
                                                const struct vshard_executor *executor,
                                                const struct vshard_allocator *allocator)
{
    static const struct vshard_attribute schema[] = {
        { .type = VSHARD_ATTRIBUTE_INT64, .name = "number" },
        { .type = VSHARD_ATTRIBUTE_KEYWORD, .name = "word" }
    };
    struct vshard_index_options o = small_options(k->dim, k->metric, k->element);

    o.family = k->family;
    o.profile = k->profile;
    o.m = 16;
    o.ef_search = 120;
    o.attributes = schema;
    o.attribute_count = 2;
    o.executor = executor;
    o.allocator = allocator;
    return o;
}

static void add_some(struct herd *h, const size_t *rows, size_t first, size_t count)
{
    unsigned char *v = malloc(count * h->vector_bytes);
    uint64_t *ids = malloc(count * sizeof *ids);
    int64_t *numbers = malloc(count * sizeof *numbers);
    char(*words)[8] = calloc(count, sizeof *words);
    const struct vshard_values values[] = { { .values = numbers, .width = sizeof *numbers },
                                            { .values = words, .width = sizeof *words } };
    struct vshard_add_options o = { .size = sizeof o, .values = values, .value_count = 2 };

    for (size_t i = 0; i < count; i++) {
        size_t row = rows ? rows[first + i] : first + i;

        ids[i] = h->ids[row];
        numbers[i] = (int64_t)row;
        snprintf(words[i], sizeof words[i], "w%u", (unsigned)(row % WORDS));
        memcpy(v + i * h->vector_bytes, h->vectors + row * h->vector_bytes, h->vector_bytes);
    }
    cr_assert_eq(vshard_index_add_with(h->x, ids, v, count, &o), 0);
    free(words);
    free(numbers);
    free(ids);
    free(v);
}

static struct herd herd_of(const struct kind *k, const struct vshard_executor *executor,
                           const struct vshard_allocator *allocator)
{
    struct vshard_index_options o = herd_options(k, executor, allocator);
    struct herd h = { .kind = k, .fs = fault_storage_create(1), .ids = number_ids(0, ROWS) };
    uint64_t seed = 3;

    o.storage = fault_storage_hook(h.fs);
    h.x = make_index(&o);
    h.vector_bytes = k->dim * element_bytes(k->element);
    h.vectors = draw_vectors(&seed, k->element, ROWS, k->dim);
    for (size_t at = 0; at < ROWS; at += 1500)
        add_some(&h, NULL, at, 1500);
    return h;
}

static void herd_end(struct herd *h)
{
    vshard_index_destroy(h->x);
    cr_expect_null(fault_storage_verdict(h->fs));
    fault_storage_destroy(h->fs);
    free(h->vectors);
    free(h->ids);
}

/* All but each tenth go; repair ends, and no row has moved but where the call may do so. */
static void thin_out(struct herd *h)
{
    for (size_t i = 0; i < ROWS - 5000; i++) {
        if (i % STEP != 0)
            remove_rows(h->x, h->ids + i, 1);
    }
    for (uint64_t remaining = 1; remaining > 0;)
        cr_assert_eq(vshard_index_maintain(h->x, 500, &remaining), 0);
    cr_expect_eq(atomic_load(&h->x->slot_count), ROWS, "%s: rows have moved", h->kind->name);
}

struct answers {
    struct vshard_hit hits[4][ASKED][K];
    uint32_t found[4][ASKED];
};

static void ask(const struct herd *h, struct answers *a)
{
    static const char words[3][4] = { "w0", "w10", "w7" };
    const struct vshard_condition condition = { .op = VSHARD_WHERE_IN,
                                                .attribute = 1,
                                                .type = VSHARD_ATTRIBUTE_KEYWORD,
                                                .count = 3,
                                                .width = sizeof words[0],
                                                .values = words };
    struct vshard_filter where = { .size = sizeof where, .kind = VSHARD_FILTER_WHERE };
    unsigned char bytes[256];
    size_t used;

    cr_assert_eq(vshard_where_encode(&condition, 1, bytes, sizeof bytes, &used), 0);
    where.where = bytes;
    where.where_bytes = used;
    memset(a, 0, sizeof *a);
    for (size_t i = 0; i < ASKED; i++) {
        const void *q = h->vectors + i * 59 * h->vector_bytes;

        for (int way = 0; way < 4; way++) {
            struct vshard_search_options o = { .size = sizeof o, .found = &a->found[way][i] };

            o.flags = way == 1 || way == 2 ? VSHARD_SEARCH_EXACT : 0;
            o.filter = way == 2 ? &where : NULL;
            cr_assert_eq(way < 3 ? vshard_index_search(h->x, q, 1, K, a->hits[way][i], &o)
                                 : vshard_index_range(h->x, q, h->kind->element ? 60000 : 6,
                                                      a->hits[way][i], K, &o),
                         0);
        }
    }
}

static uint64_t heap_of(struct vshard_index *x)
{
    struct vshard_index_stats s = { .size = sizeof s };

    cr_assert_eq(vshard_index_stats(x, &s), 0);
    return s.heap_bytes - s.scratch_bytes;
}

/* Of an index that never had other rows. */
static uint64_t heap_of_fresh(const struct herd *h)
{
    struct vshard_index_options o = herd_options(h->kind, NULL, NULL);
    struct herd fresh = *h;
    size_t rows[ROWS], count = 0;
    uint64_t bytes;

    fresh.x = make_index(&o);
    for (size_t i = 0; i < ROWS; i++) {
        if (vshard_index_fetch(h->x, h->ids + i, 1, (float[128]){ 0 }, NULL) == 0)
            rows[count++] = i;
    }
    add_some(&fresh, rows, 0, count);
    bytes = heap_of(fresh.x);
    vshard_index_destroy(fresh.x);
    return bytes;
}

static uint64_t reopened_digest(const struct herd *h)
{
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    struct vshard_open_options o = { .size = sizeof o,
                                     .storage = fault_storage_hook(h->fs),
                                     .logger = &logger };
    struct vshard_index *again = NULL;
    uint64_t digest;
    int rc = vshard_index_save(h->x, "/x");

    if (rc == VSHARD_OK)
        rc = vshard_index_open("/x", &o, &again);
    cr_assert_eq(rc, 0, "%s: %s, %s", h->kind->name, seen.name, seen.fields);
    expect_clean(again, "reopened");
    digest = digest_of(again);
    vshard_index_destroy(again);
    return digest;
}

static void shrink_one(const struct kind *k)
{
    struct herd h = herd_of(k, NULL, NULL), twin = herd_of(k, &three, NULL);
    struct answers *before = malloc(sizeof *before), *after = malloc(sizeof *after);
    struct vshard_index_stats s = { .size = sizeof s };

    thin_out(&h);
    thin_out(&twin);
    ask(&h, before);
    cr_assert_eq(vshard_index_maintain(h.x, 0, NULL), 0);
    cr_assert_eq(vshard_index_maintain(twin.x, ROWS, NULL), 0);
    ask(&h, after);
    for (int way = 0; way < 4; way++)
        cr_expect(memcmp(before->hits[way], after->hits[way], sizeof before->hits[way]) == 0 &&
                      memcmp(before->found[way], after->found[way], sizeof before->found[way]) == 0,
                  "%s: other answers in way %d", k->name, way);
    expect_clean(h.x, k->name);
    cr_assert_eq(vshard_index_stats(h.x, &s), 0);
    cr_expect_eq(s.free_rows, 0);
    cr_expect_eq(atomic_load(&h.x->slot_count), s.rows, "%s: holes are left", k->name);
    cr_expect(heap_of(h.x) <= heap_of_fresh(&h) * 11 / 10, "%s: %llu bytes, fresh %llu", k->name,
              (unsigned long long)heap_of(h.x), (unsigned long long)heap_of_fresh(&h));
    cr_expect_eq(digest_of(h.x), digest_of(twin.x), "%s: strands matter", k->name);
    cr_expect_eq(digest_of(h.x), reopened_digest(&h), "%s: not what was saved", k->name);
    add_some(&h, NULL, 0, 3000);
    add_some(&twin, NULL, 0, 3000);
    expect_clean(h.x, k->name);
    cr_expect_eq(digest_of(h.x), digest_of(twin.x));
    cr_expect_eq(vshard_index_count(h.x), 3000 + (ROWS - 5000 - 3000) / STEP + 5000);
    free(before);
    free(after);
    herd_end(&h);
    herd_end(&twin);
}

Test(index_shrink, rows_move_and_answers_stay)
{
    for (size_t i = 0; i < VS_COUNT(kinds); i++)
        shrink_one(&kinds[i]);
}

Test(index_shrink, removing_most_rows_is_enough)
{
    struct herd h = herd_of(&kinds[0], NULL, NULL);
    struct vshard_index_stats s = { .size = sizeof s };
    uint64_t *ids = number_ids(100, ROWS - 100);

    remove_rows(h.x, ids, ROWS - 100);
    cr_assert_eq(vshard_index_stats(h.x, &s), 0);
    cr_expect_eq(s.free_rows + s.removed_rows, 0);
    cr_expect_eq(atomic_load(&h.x->slot_count), 100);
    expect_clean(h.x, "100 are left");
    remove_rows(h.x, h.ids, 100);
    cr_assert_eq(vshard_index_maintain(h.x, 0, NULL), 0);
    expect_clean(h.x, "none is left");
    add_some(&h, NULL, 0, 2000);
    expect_clean(h.x, "some are there again");
    cr_expect_eq(vshard_index_count(h.x), 2000);
    free(ids);
    herd_end(&h);
}

/* Memory is given back only where there is some for it; nothing else is different. */
Test(index_shrink, without_memory_rows_move_all_the_same)
{
    struct fault_alloc memory;
    uint64_t digest = 0;

    fault_alloc_init(&memory);
    for (uint64_t k = 0; k < 8; k++) {
        struct herd h = herd_of(&kinds[0], NULL, &memory.hook);

        thin_out(&h);
        fault_alloc_fail(&memory, k, FAULT_FOREVER);
        cr_assert_eq(vshard_index_maintain(h.x, 0, NULL), 0);
        fault_alloc_fail(&memory, 0, FAULT_ONCE);
        expect_clean(h.x, "without memory");
        digest = k == 0 ? digest_of(h.x) : digest;
        cr_expect_eq(digest_of(h.x), digest);
        herd_end(&h);
    }
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

/* ---- what is gone ---- */

static bool holds(struct vshard_index *x, const void *pattern, size_t n)
{
    struct vs_column *columns[VS_COLUMNS];

    vs_columns_list(x, columns);
    for (size_t c = 0; c < VS_COLUMNS; c++) {
        for (uint32_t e = 0; e < columns[c]->extents; e++) {
            const unsigned char *at = vs_column_at(columns[c], e * VS_EXTENT_ROWS);

            for (size_t i = 0; i + n <= VS_EXTENT_ROWS * columns[c]->stride; i++) {
                if (memcmp(at + i, pattern, n) == 0)
                    return true;
            }
        }
    }
    return false;
}

/* The rows that move leave copies behind, and so would they when they are removed. */
Test(index_shrink, what_is_removed_after_it_moved_is_wiped_everywhere)
{
    struct herd h = herd_of(&kinds[2], NULL, NULL);
    const unsigned char *secret = h.vectors + (ROWS - 1) * h.vector_bytes;

    thin_out(&h);
    cr_assert_eq(vshard_index_maintain(h.x, 0, NULL), 0);
    cr_expect(holds(h.x, secret, h.vector_bytes), "the test itself");
    remove_rows(h.x, h.ids + ROWS - 1, 1);
    cr_assert_eq(vshard_index_maintain(h.x, 0, NULL), 0);
    cr_expect(!holds(h.x, secret, h.vector_bytes));
    herd_end(&h);
}
