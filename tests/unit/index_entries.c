/* index_entries.c - walks get to every cluster as long as it has rows.
 *
 * Clusters lie so far apart that edges do not lead from one to another, so each needs a row
 * where walks begin. These rows, read from the private header index/state.h, are removed
 * again and again; narrow beams must find each cluster all the same. And clusters that go for good
 * must not leave entries behind. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/index_data.h"
#include "support/random.h"

enum { D = 8, CLUSTERS = 20, EACH = 300, BATCH = 50, K = 5 };

/* Row `row` of a cluster, which lies in a direction of its own. */
static void draw(uint64_t *seed, uint32_t cluster, float *out)
{
    uint64_t place = cluster + 1;

    for (uint32_t j = 0; j < D; j++)
        out[j] = (float)(10000 * random_normal(&place) + random_normal(seed));
}

static uint64_t *entry_ids(const struct vshard_index *x, uint32_t *count)
{
    uint64_t *ids = malloc((atomic_load(&x->entry_count) + 1) * sizeof *ids);

    *count = 0;
    for (uint32_t i = 0; i < atomic_load(&x->entry_count); i++)
        ids[(*count)++] = vs_row_at(x, vs_entry_at(x, i))->id;
    return ids;
}

static void expect_found(struct vshard_index *x, const char *when)
{
    for (uint32_t c = 0; c < CLUSTERS; c++) {
        uint64_t seed = 1000 + c;
        struct vshard_hit hits[K];
        float query[D];

        draw(&seed, c, query);
        search_rows(x, query, 1, K, 20, 0, hits);
        cr_expect_lt(hits[K - 1].distance, 1000.0f, "%s: cluster %u is not found, but %g far", when,
                     c, (double)hits[0].distance);
    }
}

static void expect_heirs(uint32_t batch)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    uint64_t seed = 3, *ids = number_ids(0, CLUSTERS * EACH);
    float *v = malloc(CLUSTERS * EACH * D * sizeof *v);
    struct vshard_index *x = make_index(&o);

    for (uint32_t i = 0; i < CLUSTERS * EACH; i++)
        draw(&seed, i / EACH, v + i * D);
    for (uint32_t i = 0; i < CLUSTERS * EACH; i += batch)
        add_rows(x, ids + i, v + i * D, batch);
    expect_found(x, "as added");
    for (uint32_t round = 0; round < 10; round++) {
        uint32_t count;
        uint64_t *gone = entry_ids(x, &count);

        remove_rows(x, gone, count);
        expect_found(x, "entries removed");
        cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
        expect_found(x, "and repaired");
        expect_clean(x, "and repaired");
        free(gone);
    }
    vshard_index_destroy(x);
    free(ids);
    free(v);
}

Test(index_entries, the_nearest_row_follows_one_that_goes)
{
    expect_heirs(BATCH);
    expect_heirs(CLUSTERS * EACH);
}

/* An entry goes with all its neighbours, so that the heir is none of these. */
Test(index_entries, the_heir_may_be_behind_rows_that_go_too)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    uint64_t seed = 3, *ids = number_ids(0, CLUSTERS * EACH), *gone;
    float *v = malloc(CLUSTERS * EACH * D * sizeof *v);
    struct vshard_index *x = make_index(&o);
    uint32_t entries, at = 0;

    for (uint32_t i = 0; i < CLUSTERS * EACH; i++)
        draw(&seed, i / EACH, v + i * D);
    for (uint32_t i = 0; i < CLUSTERS * EACH; i += BATCH)
        add_rows(x, ids + i, v + i * D, BATCH);
    entries = atomic_load(&x->entry_count);
    gone = malloc(entries * (2 * M_MAX + 1) * sizeof *gone);
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t list[2 * M_MAX], count = vs_read_edges(x, vs_entry_at(x, i), list);

        gone[at++] = vs_row_at(x, vs_entry_at(x, i))->id;
        for (uint32_t j = 0; j < count; j++)
            gone[at++] = vs_row_at(x, list[j])->id;
    }
    remove_rows(x, gone, at);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_found(x, "entries and their neighbours removed");
    expect_clean(x, "entries and their neighbours removed");
    vshard_index_destroy(x);
    free(gone);
    free(ids);
    free(v);
}

/* Rows that are all entries by their ids: their clusters must have heirs when they go. */
Test(index_entries, an_entry_by_its_id_may_be_an_heir)
{
    enum { FEW = 30 };
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct vshard_index *x = make_index(&o);
    uint64_t seed = 3, id = 0, ids[CLUSTERS * FEW], gone[CLUSTERS * FEW];
    float v[CLUSTERS * FEW * D];
    uint32_t count = 0;

    for (uint32_t i = 0; i < CLUSTERS * FEW; i++) {
        while (!vs_is_entry(x, id))
            id++;
        ids[i] = id++;
        draw(&seed, i / FEW, v + i * D);
    }
    for (uint32_t i = 0; i < CLUSTERS * FEW; i += FEW)
        add_rows(x, ids + i, v + i * D, FEW);
    for (uint32_t i = 0; i < atomic_load(&x->entry_count); i++) {
        if (vs_entry_word(x, i) & VS_ENTRY_ALONE)
            gone[count++] = vs_row_at(x, vs_entry_at(x, i))->id;
    }
    remove_rows(x, gone, count);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    for (uint32_t i = 0, heirs = 0; heirs < CLUSTERS / 2; i++) {
        cr_assert_lt(i, atomic_load(&x->entry_count), "%u heirs of %u", heirs, count);
        heirs += (vs_entry_word(x, i) & VS_ENTRY_ALONE) != 0;
    }
    expect_clean(x, "after the first of each cluster were removed");
    vshard_index_destroy(x);
}

/* Adds clusters of EACH_FEW rows until there are so many entries; returns the rows. */
static uint64_t add_until(struct vshard_index *x, uint32_t entries, uint32_t *clusters)
{
    enum { EACH_FEW = 8, MOST = 60, ENOUGH = 2000 };
    float v[MOST * EACH_FEW * D];
    uint64_t seed = 5, rows = 0;

    while (atomic_load(&x->entry_count) < entries && *clusters < ENOUGH) {
        uint32_t lack = entries - atomic_load(&x->entry_count), count = lack < MOST ? lack : MOST;
        uint64_t *ids = number_ids(rows, count * EACH_FEW);

        for (uint32_t i = 0; i < count * EACH_FEW; i++)
            draw(&seed, *clusters + i / EACH_FEW, v + i * D);
        add_rows(x, ids, v, count * EACH_FEW);
        rows += count * EACH_FEW;
        *clusters += count;
        free(ids);
    }
    return rows;
}

/* Of 480 entries and as many heirs an extent has room for all but 64; the rows that come in
 * place of them begin more clusters than these. */
Test(index_entries, heirs_have_room_beside_entries_that_come)
{
    enum { ENTRIES = 480, REPLACED = 1200 };
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct vshard_index *x = make_index(&o);
    uint32_t clusters = 0, count;
    uint64_t rows = add_until(x, ENTRIES, &clusters), seed = 6, *gone = entry_ids(x, &count), at;
    float v[REPLACED * D];

    cr_assert_eq(count, ENTRIES);
    gone = realloc(gone, REPLACED * sizeof *gone);
    for (at = 1; count < REPLACED && at < rows; at += 5) {
        bool there = false;

        for (uint32_t i = 0; i < ENTRIES; i++)
            there = there || gone[i] == at;
        if (!there)
            gone[count++] = at;
    }
    cr_assert_eq(count, REPLACED);
    for (uint32_t i = 0; i < REPLACED; i++)
        draw(&seed, clusters + i / 10, v + i * D);
    add_rows(x, gone, v, REPLACED);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_clean(x, "after most entries were replaced");
    free(gone);
    vshard_index_destroy(x);
}

Test(index_entries, none_is_left_of_clusters_that_go)
{
    enum { THERE = 6, GENERATIONS = 150 };
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct vshard_index *x = make_index(&o);
    uint64_t seed = 4;
    float v[BATCH * D];

    for (uint32_t c = 0; c < GENERATIONS; c++) {
        uint64_t *ids = number_ids((uint64_t)c * BATCH, BATCH);

        for (uint32_t i = 0; i < BATCH; i++)
            draw(&seed, c, v + i * D);
        add_rows(x, ids, v, BATCH);
        free(ids);
        if (c < THERE)
            continue;
        ids = number_ids((uint64_t)(c - THERE) * BATCH, BATCH);
        remove_rows(x, ids, BATCH);
        cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
        free(ids);
    }
    cr_expect_lt(atomic_load(&x->entry_count), 3u * THERE, "%u entries for %u clusters",
                 atomic_load(&x->entry_count), THERE);
    vshard_index_destroy(x);
}
