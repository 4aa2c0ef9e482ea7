/* index_rows.c - an index holds what was put in, and nothing else.
 *
 * Method: a dictionary (an array over a small universe of ids, with the last vector
 * given for each) is the model. Long sequences of add, upsert, remove and maintain
 * are drawn from fixed seeds, with ids repeated within one batch; after each step the
 * count and a sample of fetches must agree with the model, after some steps all of
 * them, the index must check clean, and no search may answer what was removed. Slots
 * and bytes are looked at through the private header, since no public call tells. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { UNIVERSE = 2200, BATCH = 400, DIM = 9 };

struct model {
    struct vshard_index *x;
    uint32_t metric, element, step;
    uint64_t seed;
    size_t bytes; /* of a vector */
    uint64_t count;
    unsigned char there[UNIVERSE];
    unsigned char vectors[UNIVERSE][4 * DIM];
    uint64_t ids[BATCH];
    unsigned char batch[BATCH][4 * DIM];
};

/* Ids look like anything, 0 among them. */
static uint64_t id_of(uint32_t i)
{
    return i % 3 == 0 ? i : vs_mix64(i) >> (i % 5 == 0 ? 40 : 1);
}

static int row_of(uint64_t id, const struct model *m)
{
    (void)m;
    for (uint32_t i = 0; i < UNIVERSE; i++) {
        if (id_of(i) == id)
            return (int)i;
    }
    return -1;
}

static void step_add(struct model *m)
{
    size_t count = 1 + random_below(&m->seed, random_one_in(&m->seed, 3) ? BATCH : 20);
    uint32_t range = random_one_in(&m->seed, 4) ? 40 : UNIVERSE; /* 40: many ids twice */
    unsigned char *packed = malloc(count * m->bytes);

    for (size_t i = 0; i < count; i++) {
        uint32_t row = (uint32_t)random_below(&m->seed, range);

        m->ids[i] = id_of(row);
        draw_elements(&m->seed, m->element, m->vectors[row], DIM);
        memcpy(packed + i * m->bytes, m->vectors[row], m->bytes);
        m->count += !m->there[row];
        m->there[row] = 1;
    }
    add_rows(m->x, m->ids, packed, count);
    free(packed);
}

static void step_remove(struct model *m, size_t most)
{
    size_t count = 1 + random_below(&m->seed, most), removed = 99999, gone = 0;
    uint64_t *ids = malloc(count * sizeof *ids);
    int rc;

    for (size_t i = 0; i < count; i++) {
        uint32_t row = (uint32_t)random_below(&m->seed, UNIVERSE);

        ids[i] = random_one_in(&m->seed, 50) ? VSHARD_ID_NONE : id_of(row);
        if (ids[i] == VSHARD_ID_NONE)
            continue;
        gone += m->there[row];
        m->count -= m->there[row];
        m->there[row] = 0;
    }
    rc = vshard_index_remove(m->x, ids, count, &removed);
    cr_assert_eq(rc, 0);
    cr_assert_eq(removed, gone, "step %u: removed %zu, the model %zu", m->step, removed, gone);
    free(ids);
}

static void expect_fetch(struct model *m, uint32_t row)
{
    unsigned char vector[4 * DIM], untouched[4 * DIM];
    uint64_t id = id_of(row);
    uint8_t found = 9;
    int rc;

    memset(vector, 0x5a, sizeof vector);
    memset(untouched, 0x5a, sizeof untouched);
    rc = vshard_index_fetch(m->x, &id, 1, vector, &found);
    cr_assert_eq(rc, m->there[row] ? 0 : VSHARD_ENOTFOUND, "step %u, row %u: %s", m->step, row,
                 vshard_strerror(rc));
    cr_assert_eq(found, m->there[row]);
    cr_assert_eq(memcmp(vector, m->there[row] ? m->vectors[row] : untouched, m->bytes), 0,
                 "step %u, row %u: another vector", m->step, row);
}

static void expect_answers(struct model *m, uint32_t flags)
{
    enum { K = 50 };
    struct vshard_hit hits[K];
    unsigned char query[4 * DIM];

    draw_elements(&m->seed, m->element, query, DIM);
    search_rows(m->x, query, 1, K, 0, flags, hits);
    for (uint32_t i = 0; i < K; i++) {
        int row;

        if (i >= m->count) {
            cr_assert_eq(hits[i].id, VSHARD_ID_NONE);
            continue;
        }
        row = row_of(hits[i].id, m);
        cr_assert(row >= 0 && m->there[row], "step %u: answer %u is no row, or a removed one",
                  m->step, i);
    }
}

static void expect_all(struct model *m)
{
    char when[80];

    snprintf(when, sizeof when, "%s %s, step %u", metric_names[m->metric],
             element_names[m->element], m->step);
    for (uint32_t row = 0; row < UNIVERSE; row++)
        expect_fetch(m, row);
    expect_clean(m->x, when);
    for (int i = 0; i < 5; i++) {
        expect_answers(m, 0);
        expect_answers(m, VSHARD_SEARCH_EXACT);
    }
}

static void take_step(struct model *m)
{
    switch (random_below(&m->seed, 8)) {
    case 0:
    case 1:
    case 2:
    case 3: step_add(m); break;
    case 4: step_remove(m, 12); break;
    case 5:
        if (m->step > 40)
            step_remove(m, 500);
        break;
    case 6:
        cr_assert_eq(vshard_index_maintain(m->x, 1 + random_below(&m->seed, 900), NULL), 0);
        break;
    default:
        if (random_one_in(&m->seed, 6))
            cr_assert_eq(vshard_index_maintain(m->x, 0, NULL), 0);
    }
}

static void follow(uint32_t family, uint32_t metric, uint32_t element, uint32_t steps)
{
    struct vshard_index_options o = small_options(DIM, metric, element);
    struct model *m = calloc(1, sizeof *m);

    o.family = family;
    m->x = make_index(&o);
    m->metric = metric;
    m->element = element;
    m->bytes = DIM * element_bytes(element);
    m->seed = 1000 + 100 * family + 10 * metric + element;
    printf("index_rows: family %u, %s %s, seed %llu\n", family, metric_names[metric],
           element_names[element], (unsigned long long)m->seed);
    for (m->step = 1; m->step <= steps; m->step++) {
        take_step(m);
        cr_assert_eq(vshard_index_count(m->x), m->count, "step %u", m->step);
        for (int i = 0; i < 10; i++)
            expect_fetch(m, (uint32_t)random_below(&m->seed, UNIVERSE));
        if (m->step % 16 == 0)
            expect_all(m);
    }
    expect_all(m);
    vshard_index_destroy(m->x);
    free(m);
}

Test(index_rows, ids_of_the_model_are_distinct)
{
    for (uint32_t i = 0; i < UNIVERSE; i++)
        cr_assert_eq(row_of(id_of(i), NULL), (int)i, "the test itself: id %u comes twice", i);
}

Test(index_rows, a_graph_follows_the_model_through_l2)
{
    for (uint32_t element = 0; element < VSHARD_ELEMENT_BITS; element++)
        follow(VSHARD_FAMILY_HNSW, VSHARD_METRIC_L2SQ, element, 160);
}

Test(index_rows, a_graph_follows_the_model_through_ip)
{
    for (uint32_t element = 0; element < VSHARD_ELEMENT_BITS; element++)
        follow(VSHARD_FAMILY_HNSW, VSHARD_METRIC_IP, element, 160);
}

Test(index_rows, a_graph_follows_the_model_through_cosine)
{
    for (uint32_t element = 0; element < VSHARD_ELEMENT_BITS; element++)
        follow(VSHARD_FAMILY_HNSW, VSHARD_METRIC_COSINE, element, 160);
}

Test(index_rows, a_graph_follows_the_model_through_l1)
{
    for (uint32_t element = 0; element < VSHARD_ELEMENT_BITS; element++)
        follow(VSHARD_FAMILY_HNSW, VSHARD_METRIC_L1, element, 160);
}

Test(index_rows, a_graph_follows_the_model_through_hamming)
{
    follow(VSHARD_FAMILY_HNSW, VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS, 160);
}

Test(index_rows, a_flat_index_follows_the_model)
{
    for (uint32_t metric = 0; metric < METRICS; metric++) {
        for (uint32_t element = 0; element < ELEMENTS; element++) {
            if (combine(metric, element))
                follow(VSHARD_FAMILY_FLAT, metric, element, 120);
        }
    }
}

/* ---- rows removed while a pass of repair is under way ---- */

/* The pass frees only the rows that were removed before it began. A row removed
 * later, and not passed yet, must not go on leading to them. */
Test(index_rows, a_row_removed_during_a_pass_leads_to_no_freed_slot)
{
    enum { N = 2000, D = 8 };
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    uint64_t seed = 5, *ids = number_ids(0, N), remaining;
    float *v = draw_vectors(&seed, VSHARD_ELEMENT_F32, N, D);
    struct vshard_index *x = make_index(&o);

    add_rows(x, ids, v, N);
    remove_rows(x, ids, 300);
    cr_assert_eq(vshard_index_maintain(x, 50, &remaining), 0);
    cr_assert_eq(x->repair.active, 1);
    remove_rows(x, ids + 300, 600); /* ahead of the cursor */
    cr_assert_eq(vshard_index_maintain(x, N - 50, &remaining), 0);
    cr_assert_eq(remaining, 600, "the pass freed the first 300 and nothing else");
    expect_clean(x, "after the first pass");
    add_rows(x, ids, v, 300);
    expect_clean(x, "after the freed slots were used again");
    cr_assert_eq(vshard_index_maintain(x, 0, &remaining), 0);
    cr_assert_eq(remaining, 0);
    expect_clean(x, "after the second pass");
    vshard_index_destroy(x);
    free(v);
    free(ids);
}

/* ---- slots and bytes ---- */

static uint32_t churn(struct vshard_index *x, uint32_t element, uint32_t rows, uint32_t rounds)
{
    enum { D = 8, AT_ONCE = 50 };
    uint64_t seed = 3, next = rows;
    uint32_t most = 0;

    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t *old = number_ids(next - rows, AT_ONCE), *new = number_ids(next, AT_ONCE);
        void *v = draw_vectors(&seed, element, AT_ONCE, D);

        remove_rows(x, old, AT_ONCE);
        add_rows(x, new, v, AT_ONCE);
        next += AT_ONCE;
        if (atomic_load(&x->slot_count) > most)
            most = atomic_load(&x->slot_count);
        free(v);
        free(new);
        free(old);
    }
    return most;
}

Test(index_rows, slots_of_removed_rows_are_used_again)
{
    enum { N = 2000, D = 8 };

    for (uint32_t family = 0; family < 2; family++) {
        struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8);
        uint64_t seed = 4, *ids = number_ids(0, N);
        uint8_t *v = draw_vectors(&seed, VSHARD_ELEMENT_U8, N, D);
        struct vshard_index *x;
        uint32_t slots;

        o.family = family;
        x = make_index(&o);
        add_rows(x, ids, v, N);
        slots = churn(x, VSHARD_ELEMENT_U8, N, 200); /* five times over */
        if (family == VSHARD_FAMILY_FLAT)
            cr_expect_eq(slots, N, "a flat index reuses at once, and had %u slots", slots);
        else
            cr_expect(slots <= N + 2 * 1000 + 100, "%u slots for %u rows", slots, N);
        cr_expect_eq(vshard_index_count(x), N);
        expect_clean(x, "after churn");
        vshard_index_destroy(x);
        free(v);
        free(ids);
    }
}

static bool holds(const unsigned char *bytes, size_t count, const void *pattern, size_t n)
{
    for (size_t i = 0; i + n <= count; i++) {
        if (memcmp(bytes + i, pattern, n) == 0)
            return true;
    }
    return false;
}

static bool file_holds(struct vshard_index *x, struct fault_storage *fs, const void *pattern,
                       size_t n)
{
    const unsigned char *bytes;
    size_t count;

    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    bytes = fault_storage_bytes(fs, "/i", &count);
    return holds(bytes, count, pattern, n);
}

static bool memory_holds(const struct vshard_index *x, const void *pattern, size_t n)
{
    for (uint32_t e = 0; e < x->elements.extents; e++) {
        if (holds(vs_column_at(&x->elements, e * VS_EXTENT_ROWS),
                  VS_EXTENT_ROWS * x->elements.stride, pattern, n))
            return true;
    }
    return false;
}

Test(index_rows, removed_vectors_are_wiped_from_memory_and_file)
{
    enum { N = 600, D = 16, SECRET = 77 };
    static const uint8_t secret[D] = "a secret vector";

    for (uint32_t family = 0; family < 2; family++) {
        struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8);
        struct fault_storage *fs = fault_storage_create(1);
        uint64_t seed = 6, *ids = number_ids(0, N), id = SECRET;
        uint8_t *v = draw_vectors(&seed, VSHARD_ELEMENT_U8, N, D);
        struct vshard_index *x;

        o.family = family;
        o.storage = fault_storage_hook(fs);
        x = make_index(&o);
        memcpy(v + SECRET * D, secret, D);
        add_rows(x, ids, v, N);
        cr_expect(file_holds(x, fs, secret, D) && memory_holds(x, secret, D), "the test itself");
        if (family == 0)
            remove_rows(x, &id, 1);
        else
            add_rows(x, &id, v, 1); /* replaced, which is as good */
        cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
        cr_expect(!file_holds(x, fs, secret, D), "family %u: the file remembers", family);
        cr_expect(!memory_holds(x, secret, D), "family %u: memory remembers", family);
        vshard_index_destroy(x);
        fault_storage_destroy(fs);
        free(v);
        free(ids);
    }
}
