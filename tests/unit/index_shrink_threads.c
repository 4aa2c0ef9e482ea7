/* index_shrink_threads.c - rows move together beside readers, and none is missed.
 *
 * Method: rows go and come in waves, and at the end of each the few that stay move together.
 * Readers on threads of their own ask for those in every way: what is there is found, always, once.
 * Another thread saves. Meant for ThreadSanitizer, too. */
#include <criterion/criterion.h>

#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 32, ROWS = 6000, READERS = 3, KEPT = 200, EACH = ROWS / KEPT, WAVES = 4, K = 10 };

struct beside {
    struct vshard_index *x;
    uint64_t *ids; /* those that go first, then those that stay */
    float *vectors;
    atomic_uint over, wrong, searches;
};

static void *read_kept(void *arg)
{
    struct beside *b = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed;

    while (!atomic_load(&b->over)) {
        size_t row = ROWS - 1 - random_below(&seed, KEPT);
        uint64_t id = b->ids[row];
        const float *q = b->vectors + row * D;
        const struct vshard_filter only = {
            .size = sizeof only, .kind = VSHARD_FILTER_IDS, .count = 1, .ids = &id
        };
        struct vshard_search_options o = { .size = sizeof o };
        struct vshard_hit hits[K];
        uint32_t way = (uint32_t)random_below(&seed, 4), found = 0, times = 0;
        float copy[D];
        int rc;

        o.flags = way == 1 ? VSHARD_SEARCH_EXACT : 0;
        o.filter = way == 2 ? &only : NULL;
        o.found = &found;
        rc = way < 3 ? vshard_index_search(b->x, q, 1, K, hits, &o)
                     : vshard_index_range(b->x, q, 0.01f, hits, K, &o);
        for (uint32_t i = 0; i < found; i++)
            times += hits[i].id == id;
        if (rc != 0 || times != 1 || vshard_index_fetch(b->x, &id, 1, copy, NULL) != 0 ||
            memcmp(copy, q, sizeof copy) != 0) {
            if (atomic_fetch_add(&b->wrong, 1) < 5)
                fprintf(stderr, "index_shrink_threads: id %llu, way %u: %s, %u times\n",
                        (unsigned long long)id, way, vshard_strerror(rc), times);
        }
        atomic_fetch_add(&b->searches, 1);
    }
    return NULL;
}

static void *save_on(void *arg)
{
    struct beside *b = arg;

    while (!atomic_load(&b->over)) {
        if (vshard_index_save(b->x, "/x") != 0)
            atomic_fetch_add(&b->wrong, 1);
        vs_os_yield();
    }
    return NULL;
}

/* Those that stay are spread over all slots, and the last. */
static void spread(struct beside *b, uint64_t first)
{
    size_t gone = 0, kept = ROWS - KEPT;

    for (size_t i = 0; i < ROWS; i++)
        b->ids[i % EACH == EACH - 1 ? kept++ : gone++] = first + i;
}

static void add_in_order(struct beside *b, uint64_t first, uint64_t *seed)
{
    uint64_t *ids = number_ids(first, ROWS);
    float *v = draw_vectors(seed, VSHARD_ELEMENT_F32, ROWS, D);

    add_rows(b->x, ids, v, ROWS);
    for (size_t i = 0; i < ROWS; i++)
        memcpy(b->vectors + i * D, v + (b->ids[i] - first) * D, D * sizeof *v);
    free(v);
    free(ids);
}

/* Ids from 0 on are their own places in the table of ids while all rows are there, and hashed while
 * few are; others are always hashed. */
static void read_beside(uint32_t family, uint64_t first)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct beside b = { .ids = malloc(ROWS * sizeof *b.ids),
                        .vectors = malloc(ROWS * D * sizeof *b.vectors) };
    uint64_t seed = 3;
    pthread_t threads[READERS + 1];

    o.family = family;
    o.m = 16;
    o.ef_search = 120;
    o.storage = fault_storage_hook(fs);
    b.x = make_index(&o);
    spread(&b, first);
    add_in_order(&b, first, &seed);
    for (int i = 0; i <= READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, i < READERS ? read_kept : save_on, &b), 0);
    for (int i = 0; i < WAVES; i++) {
        remove_rows(b.x, b.ids, ROWS - KEPT);
        cr_assert_eq(vshard_index_maintain(b.x, 0, NULL), 0);
        cr_expect_eq(atomic_load(&b.x->slot_count), KEPT);
        add_rows(b.x, b.ids, b.vectors, ROWS - KEPT);
    }
    atomic_store(&b.over, 1);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(b.wrong, 0, "family %u: %u of %u", family, b.wrong, b.searches);
    expect_clean(b.x, "after all waves");
    vshard_index_destroy(b.x);
    fault_storage_destroy(fs);
    free(b.vectors);
    free(b.ids);
}

Test(index_shrink_threads, readers_of_a_graph_see_every_row_while_rows_move)
{
    read_beside(VSHARD_FAMILY_HNSW, 1ull << 40);
}

Test(index_shrink_threads, readers_of_a_flat_index_see_every_row_while_rows_move)
{
    read_beside(VSHARD_FAMILY_FLAT, 0);
}
