/* index_attribute_threads.c - values are read, and searched by, beside the thread that writes.
 *
 * Method: a row's values say whose they are and which version: its id, a number, and a
 * keyword made of both, which no other row has and which is gone with the row. A writer
 * replaces rows over and over, adds and removes others, and repairs, so that keywords come
 * and go all the time. Readers fetch a row's values, which must belong together and be no
 * older than was acknowledged, and search for the rows of an id, of which there must be one;
 * and for a keyword, which must lead to its own row or, when it is gone, to none. One thread
 * saves, opens and checks meanwhile. Meant for ThreadSanitizer above all. */
#include <criterion/criterion.h>

#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum {
    D = 8,
    KEPT = 48,
    FIRST = 1000,
    ROWS = 900,
    ROUNDS = 150,
    CHANGED = 16,
    READERS = 3,
    WORD = 24
};

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "owner" },
                                                      { VSHARD_ATTRIBUTE_INT64, "version" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "word" } };

struct live {
    struct vshard_index *x;
    const struct vshard_storage *storage;
    atomic_uint acknowledged[KEPT];
    atomic_uint over, wrong, searches;
};

static void wrong(struct live *l, const char *what, uint64_t id, double got, double expected)
{
    if (atomic_fetch_add(&l->wrong, 1) < 5)
        fprintf(stderr, "index_attribute_threads: %s: id %llu, %g and not %g\n", what,
                (unsigned long long)id, got, expected);
}

static void word_of(uint64_t id, uint32_t version, char word[WORD])
{
    memset(word, 0, WORD);
    snprintf(word, WORD, "%llu-%u", (unsigned long long)id, version);
}

static void add(struct live *l, const uint64_t *ids, const uint32_t *versions, uint32_t count)
{
    float *vectors = malloc(count * D * sizeof *vectors);
    int64_t *owners = malloc(count * sizeof *owners), *numbers = malloc(count * sizeof *numbers);
    char(*words)[WORD] = malloc(count * sizeof *words);
    const struct vshard_values values[] = { { owners, 0 }, { numbers, 0 }, { words, WORD } };
    const struct vshard_add_options with = { sizeof with, 3, values };

    for (uint32_t i = 0; i < count; i++) {
        uint64_t seed = ids[i] + 1;

        draw_elements(&seed, VSHARD_ELEMENT_F32, vectors + i * D, D);
        owners[i] = (int64_t)ids[i];
        numbers[i] = versions[i];
        word_of(ids[i], versions[i], words[i]);
    }
    cr_assert_eq(vshard_index_add_with(l->x, ids, vectors, count, &with), 0);
    free(vectors);
    free(owners);
    free(numbers);
    free(words);
}

/* ---- readers ---- */

static void fetch_kept(struct live *l, uint64_t id)
{
    uint32_t least = atomic_load(&l->acknowledged[id]);
    int64_t owner = -1, version = -1;
    char word[WORD], expected[WORD];
    const struct vshard_values values[] = { { &owner, 0 }, { &version, 0 }, { word, WORD } };

    if (vshard_index_fetch_values(l->x, &id, 1, values, 3, NULL) != 0) {
        wrong(l, "not fetched", id, 0, 1);
        return;
    }
    word_of(id, (uint32_t)version, expected);
    if (owner != (int64_t)id || memcmp(word, expected, WORD) != 0)
        wrong(l, "values of two versions", id, (double)version, least);
    if (version < least)
        wrong(l, "an old version", id, (double)version, least);
}

/* Answers to a search among the rows for which one comparison holds. */
static uint32_t search(struct live *l, const struct vshard_condition *c, uint32_t flags,
                       struct vshard_hit hits[4])
{
    unsigned char where[64];
    struct vshard_filter f = { .size = sizeof f, .kind = VSHARD_FILTER_WHERE, .where = where };
    uint32_t found = 0;
    struct vshard_search_options o = {
        .size = sizeof o, .flags = flags, .filter = &f, .found = &found
    };
    const float query[D] = { 0 };

    cr_assert_eq(vshard_where_encode(c, 1, where, sizeof where, &f.where_bytes), 0);
    if (vshard_index_search(l->x, query, 1, 4, hits, &o) != 0)
        wrong(l, "a search failed", 0, 0, 0);
    atomic_fetch_add(&l->searches, 1);
    return found;
}

static void search_owner(struct live *l, int64_t id, uint32_t flags)
{
    const struct vshard_condition owner = {
        VSHARD_WHERE_EQ, 0, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &id
    };
    struct vshard_hit hits[4];
    uint32_t found = search(l, &owner, flags, hits);

    if (found != 1 || hits[0].id != (uint64_t)id)
        wrong(l, "rows of one owner", (uint64_t)id, found, 1);
}

static void search_word(struct live *l, uint64_t id, uint32_t flags)
{
    char word[WORD];
    const struct vshard_condition is = {
        VSHARD_WHERE_EQ, 2, VSHARD_ATTRIBUTE_KEYWORD, 1, WORD, 0, word
    };
    struct vshard_hit hits[4];
    uint32_t found;

    word_of(id, atomic_load(&l->acknowledged[id]), word);
    found = search(l, &is, flags, hits);
    if (found > 1 || (found == 1 && hits[0].id != id))
        wrong(l, "rows with one word", id, found, 1);
}

static void *read_all(void *arg)
{
    struct live *l = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed;

    while (!atomic_load(&l->over)) {
        uint64_t id = random_below(&seed, KEPT);
        uint32_t flags = random_one_in(&seed, 3) ? VSHARD_SEARCH_EXACT : 0;

        fetch_kept(l, id);
        search_owner(l, (int64_t)id, flags);
        search_word(l, id, flags);
    }
    return NULL;
}

static void *look_after(void *arg)
{
    struct live *l = arg;
    struct vshard_open_options open = { .size = sizeof open, .storage = l->storage };
    struct vshard_index_stats stats = { .size = sizeof stats };

    while (!atomic_load(&l->over)) {
        struct vshard_index *saved;

        if (vshard_index_save(l->x, "/live") != 0 ||
            vshard_index_open("/live", &open, &saved) != 0) {
            wrong(l, "save or open failed", 0, 0, 0);
            continue;
        }
        vshard_index_destroy(saved);
        if (vshard_index_check(l->x, NULL) != 0)
            wrong(l, "check", 0, 0, 0);
        if (vshard_index_stats(l->x, &stats) != 0 || stats.keyword_count > 5 * ROWS)
            wrong(l, "keywords", 0, stats.keyword_count, ROWS);
    }
    return NULL;
}

/* ---- the writer ---- */

static void write_all(struct live *l)
{
    uint32_t versions[KEPT] = { 0 }, with[CHANGED];
    uint64_t seed = 5, ids[CHANGED];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < CHANGED; i++) {
            ids[i] = random_below(&seed, KEPT);
            with[i] = ++versions[ids[i]];
        }
        add(l, ids, with, CHANGED);
        for (uint32_t i = 0; i < CHANGED; i++)
            atomic_store(&l->acknowledged[ids[i]], versions[ids[i]]);
        for (uint32_t i = 0; i < CHANGED; i++)
            ids[i] = FIRST + random_below(&seed, ROWS);
        if (round % 2)
            cr_assert_eq(vshard_index_remove(l->x, ids, CHANGED, NULL), 0);
        else
            add(l, ids, with, CHANGED);
        if (round % 5 == 4)
            cr_assert_eq(vshard_index_maintain(l->x, random_below(&seed, 3) * 500, NULL), 0);
    }
}

static void live_through(uint32_t family)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    uint64_t *kept = number_ids(0, KEPT), *others = number_ids(FIRST, ROWS);
    uint32_t versions[ROWS] = { 0 };
    struct live l = { .storage = fault_storage_hook(fs) };
    pthread_t threads[READERS + 1];

    o.family = family;
    o.storage = l.storage;
    o.attributes = attributes;
    o.attribute_count = 3;
    l.x = make_index(&o);
    add(&l, kept, versions, KEPT);
    for (int i = 0; i <= READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, i < READERS ? read_all : look_after, &l), 0);
    add(&l, others, versions, ROWS);
    write_all(&l);
    atomic_store(&l.over, 1);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(l.wrong, 0, "%u wrong of %u searches", l.wrong, l.searches);
    expect_clean(l.x, "in the end");
    vshard_index_destroy(l.x);
    fault_storage_destroy(fs);
    free(kept);
    free(others);
}

Test(index_attribute_threads, values_of_a_flat_index_are_read_beside_its_writer)
{
    live_through(VSHARD_FAMILY_FLAT);
}

Test(index_attribute_threads, values_of_a_graph_are_read_beside_its_writer)
{
    live_through(VSHARD_FAMILY_HNSW);
}
