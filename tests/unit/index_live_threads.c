/* index_live_threads.c - any number of threads read while one writes.
 *
 * Method: a vector tells whose it is and which version of it: its last element grows with
 * the version, and the query for it is the vector without that, so an answer's distance is
 * the version. A writer adds rows, replaces others over and over, removes some for good,
 * repairs, and calibrates. It notes in atomics what it was told is done; readers note what
 * is on record before they search, and afterwards expect
 *
 *   of a row that is only ever replaced   one answer, never two or none; a version no older
 *                                         than was acknowledged, and than was seen before
 *   of a row that was removed             none
 *   of a row that was added               one, by its id and by its vector
 *
 * Another thread saves, opens what was saved, checks, and asks for digests and statistics
 * meanwhile. Meant for ThreadSanitizer above all, which sees what luck may hide. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum {
    DIM = 16,
    TRAIN = 256,
    KEPT = 64,     /* rows that are replaced for ever */
    GONE = 400,    /* rows that are removed, one after the other */
    ROUNDS = 120,  /* of the writer */
    ADDED = 20,    /* rows a round */
    REPLACED = 24, /* likewise */
    READERS = 3,
    K = 10,
    STEPS = 256 /* versions in one unit of distance */
};

struct live {
    struct vshard_index *x;
    uint32_t family, profile;
    atomic_uint acknowledged[KEPT]; /* versions */
    atomic_uint gone, added;        /* ids GONE_FIRST + [0, gone) are gone, ... */
    atomic_uint over;
    atomic_uint wrong, searches;
};

enum { GONE_FIRST = 1000, ADDED_FIRST = 10000 };

static void wrong(struct live *l, const char *what, uint64_t id, double got, double least)
{
    if (atomic_fetch_add(&l->wrong, 1) < 5)
        fprintf(stderr, "index_live_threads: %s: id %llu, %g and not %g\n", what,
                (unsigned long long)id, got, least);
}

static void vector_of(uint64_t id, uint32_t version, float *out)
{
    uint64_t seed = id + 1;

    draw_elements(&seed, VSHARD_ELEMENT_F32, out, DIM - 1);
    out[DIM - 1] = (float)version / STEPS;
}

static void add_version(struct live *l, const uint64_t *ids, const uint32_t *versions, size_t count)
{
    float *vectors = malloc(count * DIM * sizeof *vectors);

    for (size_t i = 0; i < count; i++)
        vector_of(ids[i], versions[i], vectors + i * DIM);
    cr_assert_eq(vshard_index_add(l->x, ids, vectors, count), VSHARD_OK);
    free(vectors);
}

/* ---- readers ---- */

/* How many of the hits are this id; *version is that of the last. */
static uint32_t find(const struct vshard_hit *hits, size_t count, uint64_t id, double *version)
{
    uint32_t found = 0;

    for (size_t i = 0; i < count; i++) {
        if (hits[i].id != id)
            continue;
        *version = sqrt((double)hits[i].distance) * STEPS;
        found++;
    }
    return found;
}

static bool tells_versions(const struct live *l)
{
    return l->profile != VSHARD_PROFILE_LEAN; /* whose codes do not */
}

static void search_near(struct live *l, uint64_t id, uint32_t way, struct vshard_hit *hits)
{
    const struct vshard_filter only = {
        .size = sizeof only, .kind = VSHARD_FILTER_IDS, .count = 1, .ids = &id
    };
    struct vshard_search_options o = { .size = sizeof o };
    uint32_t found = 0;
    float query[DIM];
    int rc;

    vector_of(id, 0, query);
    o.flags = way % 2 ? VSHARD_SEARCH_EXACT : 0;
    o.filter = way == 2 || way == 3 ? &only : NULL;
    o.found = &found;
    if (way < 4)
        rc = vshard_index_search(l->x, query, 1, K, hits, &o);
    else
        rc = vshard_index_range(l->x, query, 1.5f, hits, K, &o);
    for (uint32_t i = found; i < K; i++)
        hits[i].id = VSHARD_ID_NONE;
    if (rc != VSHARD_OK)
        wrong(l, "a search failed", id, rc, 0);
    atomic_fetch_add(&l->searches, 1);
}

static void look_at_kept(struct live *l, uint64_t id, uint32_t way, uint32_t *seen)
{
    uint32_t least = atomic_load(&l->acknowledged[id]), found;
    struct vshard_hit hits[K];
    double version = -1;

    if (*seen > least)
        least = *seen;
    search_near(l, id, way, hits);
    found = find(hits, K, id, &version);
    if (found != 1)
        wrong(l, "answers", id, found, 1);
    if (found != 1 || !tells_versions(l))
        return;
    if (version < least - 0.01)
        wrong(l, "an old version", id, version, least);
    *seen = (uint32_t)(version + 0.5);
}

static void fetch_kept(struct live *l, uint64_t id, uint32_t *seen)
{
    uint32_t least = atomic_load(&l->acknowledged[id]), version;
    float vector[DIM], expected[DIM];

    if (*seen > least)
        least = *seen;
    if (vshard_index_fetch(l->x, &id, 1, vector, NULL) != VSHARD_OK) {
        wrong(l, "not fetched", id, 0, 1);
        return;
    }
    if (!tells_versions(l))
        return;
    version = (uint32_t)(vector[DIM - 1] * STEPS + 0.5f);
    vector_of(id, version, expected);
    if (memcmp(vector, expected, sizeof vector) != 0)
        wrong(l, "no version of the vector", id, version, least);
    if (version < least)
        wrong(l, "fetched an old version", id, version, least);
    *seen = version;
}

static void look_for(struct live *l, uint64_t id, uint32_t expected, uint32_t way)
{
    struct vshard_hit hits[K];
    double version;
    uint32_t found;

    search_near(l, id, way, hits);
    found = find(hits, K, id, &version);
    if (found != expected)
        wrong(l, expected ? "not found" : "found after it was removed", id, found, expected);
    if ((vshard_index_fetch(l->x, &id, 1, &(float[DIM]){ 0 }, NULL) == VSHARD_OK) != expected)
        wrong(l, "fetch disagrees", id, 1 - expected, expected);
}

static void *read_all(void *arg)
{
    uint32_t seen[KEPT] = { 0 }, gone, added;
    struct live *l = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seen;

    while (!atomic_load(&l->over)) {
        uint64_t id = random_below(&seed, KEPT);

        look_at_kept(l, id, (uint32_t)random_below(&seed, 6), &seen[id]);
        fetch_kept(l, id, &seen[id]);
        gone = atomic_load(&l->gone);
        if (gone > 0)
            look_for(l, GONE_FIRST + random_below(&seed, gone), 0,
                     (uint32_t)random_below(&seed, 6));
        added = atomic_load(&l->added);
        if (added > 0)
            look_for(l, ADDED_FIRST + random_below(&seed, added), 1,
                     (uint32_t)random_below(&seed, 6));
    }
    return NULL;
}

static void *look_after(void *arg)
{
    struct vshard_index_stats stats = { .size = sizeof stats };
    struct vshard_index_check check = { .size = sizeof check };
    struct live *l = arg;
    struct vshard_open_options open = { .size = sizeof open, .storage = l->x->storage };
    uint64_t digest;

    while (!atomic_load(&l->over)) {
        struct vshard_index *saved;

        if (vshard_index_save(l->x, "/live") != VSHARD_OK ||
            vshard_index_open("/live", &open, &saved) != VSHARD_OK) {
            wrong(l, "save or open failed", 0, 0, 0);
            continue;
        }
        if (vshard_index_check(saved, &check) != VSHARD_OK || check.unreachable > 0)
            wrong(l, "what was saved is not whole", 0, (double)check.unreachable, 0);
        vshard_index_destroy(saved);
        if (vshard_index_check(l->x, &check) != VSHARD_OK || check.unreachable > 0)
            wrong(l, "rows cannot be reached", 0, (double)check.unreachable, 0);
        if (vshard_index_stats(l->x, &stats) != VSHARD_OK || stats.rows < KEPT)
            wrong(l, "stats", 0, (double)stats.rows, KEPT);
        if (vshard_index_digest(l->x, &digest) != VSHARD_OK)
            wrong(l, "digest failed", 0, 0, 0);
    }
    return NULL;
}

/* ---- the writer ---- */

static void replace_some(struct live *l, uint64_t *seed, uint32_t *versions)
{
    uint64_t ids[REPLACED];
    uint32_t with[REPLACED];

    for (size_t i = 0; i < REPLACED; i++) {
        ids[i] = random_below(seed, KEPT);
        with[i] = ++versions[ids[i]];
    }
    add_version(l, ids, with, REPLACED);
    for (size_t i = 0; i < REPLACED; i++)
        atomic_store(&l->acknowledged[ids[i]], versions[ids[i]]);
}

static void add_some(struct live *l, size_t count)
{
    uint64_t *ids = number_ids(ADDED_FIRST + atomic_load(&l->added), count);
    uint32_t *versions = calloc(count, sizeof *versions);

    add_version(l, ids, versions, count);
    atomic_fetch_add(&l->added, (unsigned)count);
    free(versions);
    free(ids);
}

static void remove_some(struct live *l, size_t count)
{
    uint64_t first = GONE_FIRST + atomic_load(&l->gone), *ids;
    size_t removed;

    if (first + count > GONE_FIRST + GONE)
        return;
    ids = number_ids(first, count);
    cr_assert_eq(vshard_index_remove(l->x, ids, count, &removed), VSHARD_OK);
    cr_assert_eq(removed, count);
    atomic_fetch_add(&l->gone, (unsigned)count);
    free(ids);
}

static void write_all(struct live *l, uint64_t seed)
{
    uint32_t versions[KEPT] = { 0 };

    for (uint32_t round = 0; round < ROUNDS; round++) {
        replace_some(l, &seed, versions);
        add_some(l, ADDED);
        remove_some(l, 4);
        if (round % 4 == 3)
            cr_assert_eq(vshard_index_maintain(l->x, random_below(&seed, 3) * 500, NULL),
                         VSHARD_OK);
        if (round % 40 == 39)
            cr_assert_eq(vshard_index_calibrate(l->x, NULL, 50), VSHARD_OK);
    }
}

static void first_rows(struct live *l)
{
    uint64_t *kept = number_ids(0, KEPT), *gone = number_ids(GONE_FIRST, GONE);
    uint32_t *versions = calloc(GONE, sizeof *versions);

    add_version(l, kept, versions, KEPT);
    add_version(l, gone, versions, GONE / 4); /* the others when it is read already */
    free(versions);
    free(gone);
    free(kept);
}

static void rest_of_first_rows(struct live *l)
{
    uint64_t *gone = number_ids(GONE_FIRST, GONE);
    uint32_t *versions = calloc(GONE, sizeof *versions);

    add_version(l, gone + GONE / 4, versions, GONE - GONE / 4);
    free(versions);
    free(gone);
}

/* With `near_end` the numbers of changes run out on the way. */
static void live_through(uint32_t family, uint32_t profile, bool near_end)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = DIM,
                                      .family = family,
                                      .profile = profile,
                                      .m = 8,
                                      .ef_construction = 64,
                                      .train_rows = family == VSHARD_FAMILY_HNSW ? TRAIN : 0,
                                      .storage = fault_storage_hook(fs) };
    struct live l = { .family = family, .profile = profile };
    pthread_t threads[READERS + 1];

    cr_assert_eq(vshard_index_create(&o, &l.x), VSHARD_OK);
    if (near_end)
        atomic_store(&l.x->position, (UINT32_MAX >> VS_ROW_BITS) - ROUNDS);
    first_rows(&l);
    for (int i = 0; i <= READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, i < READERS ? read_all : look_after, &l), 0);
    rest_of_first_rows(&l);
    write_all(&l, 7);
    atomic_store(&l.over, 1);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(l.wrong, 0, "%u wrong of %u searches", l.wrong, l.searches);
    if (near_end)
        cr_expect(atomic_load(&l.x->position) < 100 * ROUNDS);
    vshard_index_destroy(l.x);
    fault_storage_destroy(fs);
}

Test(index_live_threads, a_flat_index_is_read_beside_its_writer)
{
    live_through(VSHARD_FAMILY_FLAT, 0, false);
}

Test(index_live_threads, a_graph_is_read_beside_its_writer)
{
    live_through(VSHARD_FAMILY_HNSW, 0, false);
}

Test(index_live_threads, a_lean_graph_is_read_beside_its_writer)
{
    live_through(VSHARD_FAMILY_HNSW, VSHARD_PROFILE_LEAN, false);
}

Test(index_live_threads, changes_may_be_more_than_there_are_numbers)
{
    live_through(VSHARD_FAMILY_HNSW, 0, true);
}
