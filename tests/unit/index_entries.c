/* index_entries.c - walks get to every cluster as long as it has rows.
 *
 * Clusters lie so far apart that edges do not lead from one to another, so each needs a row
 * where walks begin. These rows, read from the private header index/state.h, are removed
 * again and again; narrow beams must find each cluster all the same, also where rows of all came in
 * turns from the first on. And clusters that go for good must not leave entries behind, nor rows
 * that are one piece have more than they need. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/index_data.h"
#include "support/pool.h"
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
    for (at = 1; count < REPLACED && at < rows; at += 3) {
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

/* ---- rows of all clusters come in turns ---- */

enum { WIDE = 64, TURNS = 20, EACH_IN_TURN = 430 };

/* Row i is of cluster i % clusters; `apart` is how far, in widths of one. */
static float *draw_in_turns(uint32_t clusters, uint32_t rows, float apart)
{
    uint64_t seed = 7;
    float *centre = malloc(clusters * WIDE * sizeof *centre);
    float *v = malloc((size_t)rows * WIDE * sizeof *v);

    for (uint32_t i = 0; i < clusters * WIDE; i++)
        centre[i] = apart * (float)random_normal(&seed);
    for (uint32_t i = 0; i < rows * WIDE; i++)
        v[i] = centre[i / WIDE % clusters * WIDE + i % WIDE] + (float)random_normal(&seed);
    free(centre);
    return v;
}

/* Of the last row of each cluster, which stays. */
static void expect_own_found(struct vshard_index *x, const float *v, const char *when)
{
    const uint32_t first = TURNS * (EACH_IN_TURN - 1);

    for (uint32_t c = 0; c < TURNS; c++) {
        struct vshard_hit hits[K];
        uint32_t own = 0;

        search_rows(x, v + (size_t)(first + c) * WIDE, 1, K, 20, 0, hits);
        for (uint32_t i = 0; i < K; i++)
            own += hits[i].id % TURNS == c;
        cr_expect_eq(own, K, "%s, %s: %u of %d are of cluster %u", metric_names[x->metric], when,
                     own, K, c);
    }
}

/* One that has an heir when it goes. */
static void expect_own_entries(const struct vshard_index *x)
{
    uint32_t clusters = 0;

    for (uint32_t i = 0; i < atomic_load(&x->entry_count); i++) {
        if (vs_entry_word(x, i) & VS_ENTRY_ALONE)
            clusters |= 1u << vs_row_at(x, vs_entry_at(x, i))->id % TURNS;
    }
    cr_expect_eq(clusters, (1u << TURNS) - 1, "%s: clusters %#x have an entry",
                 metric_names[x->metric], clusters);
}

static void expect_in_turns(uint32_t metric, uint32_t batch)
{
    struct vshard_index_options o = small_options(WIDE, metric, VSHARD_ELEMENT_F32);
    const uint32_t rows = TURNS * EACH_IN_TURN;
    uint64_t *ids = number_ids(0, rows), *gone = malloc(rows * sizeof *gone);
    float *v = draw_in_turns(TURNS, rows, 20);
    uint32_t count = 0;
    struct vshard_index *x;

    o.m = 16;
    o.ef_construction = 100;
    o.train_rows = 400; /* so that a load in one call is one of many rows */
    x = make_index(&o);
    for (uint32_t i = 0; i < rows; i += batch)
        add_rows(x, ids + i, v + (size_t)i * WIDE, batch);
    expect_own_entries(x);
    expect_own_found(x, v, "as added");
    for (uint32_t i = 0; i < rows; i++) {
        if (i / TURNS % 2 == 0)
            gone[count++] = i;
    }
    remove_rows(x, gone, count);
    expect_own_found(x, v, "half removed");
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    expect_own_found(x, v, "and repaired");
    expect_clean(x, "half removed");
    vshard_index_destroy(x);
    free(ids);
    free(gone);
    free(v);
}

/* All clusters are there when the graph begins, so that no row comes far from all others. Walks got
 * to some by edges of single rows, and were lost with these. */
Test(index_entries, clusters_whose_rows_come_in_turns_outlive_half_of_them)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        expect_in_turns(metric, BATCH);
        expect_in_turns(metric, TURNS * EACH_IN_TURN);
    }
}

Test(index_entries, of_clusters_in_turns_are_the_same_everywhere)
{
    enum { ROWS = 2000 };
    uint64_t *ids = number_ids(0, ROWS);
    float *v = draw_in_turns(TURNS, ROWS, 20);

    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        uint64_t digest = 0;

        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct vshard_index_options o = small_options(WIDE, metric, VSHARD_ELEMENT_F32);
            struct pool *pool = pool_create(threads);
            struct vshard_index *x;

            o.executor = pool_executor(pool);
            x = make_index(&o);
            vs_kernel_init(&x->kernel, threads == 1 ? 0 : vs_os_cpu());
            add_rows(x, ids, v, ROWS);
            cr_expect(threads == 1 || digest_of(x) == digest, "%s, %u threads",
                      metric_names[metric], threads);
            digest = digest_of(x);
            vshard_index_destroy(x);
            pool_destroy(pool);
        }
    }
    free(ids);
    free(v);
}

/* Rows around one place, and around places no farther from each other than they are wide. */
Test(index_entries, rows_that_are_one_piece_have_those_of_their_ids)
{
    enum { ROWS = 9000, AS_ONE = 50 };

    for (uint32_t clusters = 1; clusters <= AS_ONE; clusters += AS_ONE - 1) {
        float *v = draw_in_turns(clusters, ROWS, 1);
        uint64_t *ids = number_ids(0, ROWS);

        for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
            struct vshard_index_options o = small_options(WIDE, metric, VSHARD_ELEMENT_F32);

            o.m = 16;
            for (uint32_t batch = ROWS; batch >= BATCH; batch = batch == ROWS ? BATCH : 0) {
                struct vshard_index *x = make_index(&o);
                uint32_t by_id = 1; /* and the first row */

                for (uint32_t i = 0; i < ROWS; i += batch)
                    add_rows(x, ids + i, v + (size_t)i * WIDE, batch);
                for (uint32_t i = 0; i < ROWS; i++)
                    by_id += vs_is_entry(x, i);
                cr_expect_leq(atomic_load(&x->entry_count), by_id, "%s, %u clusters, batch %u",
                              metric_names[metric], clusters, batch);
                vshard_index_destroy(x);
            }
        }
        free(v);
        free(ids);
    }
}
