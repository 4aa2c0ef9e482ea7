/* index_stress_threads.c - many inserts, eight readers, removals and saves in between.
 *
 * Method: everything about a row follows from its id: its vector, that it is removed some
 * time after it was added (one in five), or replaced (one in seven), and how it was before and
 * after. The writer notes how far each of the three has begun and is done; so a reader
 * knows of each answer whether it may be one: that the row may have been there, at the
 * distance that one of its vectors has, once. A row that nobody removes must be fetched,
 * and be found by its vector; a graph may miss a few, which are counted. Another
 * thread saves, opens and checks. In the end most rows are removed, beside readers
 * still, and no row may be out of reach.
 *
 * 16,000 rows; with VSHARD_LONG=1 (`make check-live`) a million, or as many as VSHARD_ROWS says. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { DIM = 16, READERS = 8, K = 10, BATCH = 400, LAG = 2000, REMOVED = 5, REPLACED = 7 };

/* Of ids below, something has begun and is done. */
struct front {
    atomic_uint begun, done;
};

struct stress {
    struct vshard_index *x;
    struct vshard_storage storage;
    uint32_t rows;
    struct front added, removed, replaced, thinned;
    atomic_uint over, wrong, missed, saves;
    atomic_ullong searches;
};

static void wrong(struct stress *s, const char *what, uint64_t id, double got)
{
    if (atomic_fetch_add(&s->wrong, 1) < 5)
        fprintf(stderr, "index_stress_threads: %s: id %llu, %g\n", what, (unsigned long long)id,
                got);
}

static void vector_of(uint64_t id, uint32_t version, float *out)
{
    uint64_t seed = 2 * id + version + 1;

    draw_elements(&seed, VSHARD_ELEMENT_F32, out, DIM);
}

static bool is_removed_some_time(uint64_t id)
{
    return id % REMOVED == 0;
}

/* Not those that are removed, for that would add them again. */
static bool is_replaced_some_time(uint64_t id)
{
    return id % REPLACED == 3 && !is_removed_some_time(id);
}

static bool is_thinned(uint64_t id)
{
    return id % 16 != 1;
}

/* ---- readers ---- */

/* What was done, and what had begun, at one moment each. */
struct seen_fronts {
    uint32_t added, removed, replaced, thinned;
};

static struct seen_fronts done_now(struct stress *s)
{
    return (struct seen_fronts){ atomic_load(&s->added.done), atomic_load(&s->removed.done),
                                 atomic_load(&s->replaced.done), atomic_load(&s->thinned.done) };
}

static struct seen_fronts begun_now(struct stress *s)
{
    return (struct seen_fronts){ atomic_load(&s->added.begun), atomic_load(&s->removed.begun),
                                 atomic_load(&s->replaced.begun), atomic_load(&s->thinned.begun) };
}

static double distance_of(uint64_t id, uint32_t version, const float *query)
{
    float v[DIM];
    double sum = 0;

    vector_of(id, version, v);
    for (size_t i = 0; i < DIM; i++)
        sum += ((double)v[i] - (double)query[i]) * ((double)v[i] - (double)query[i]);
    return sum;
}

static bool at_distance(uint64_t id, uint32_t version, const float *query, double distance)
{
    double d = distance_of(id, version, query);

    return fabs(d - distance) <= 1e-5 * (d + 1);
}

static void judge(struct stress *s, const struct vshard_hit *hit, const float *query,
                  const struct seen_fronts *before, const struct seen_fronts *after)
{
    uint64_t id = hit->id;
    double distance = (double)hit->distance;
    bool old = !is_replaced_some_time(id) || id >= before->replaced;
    bool replaced = is_replaced_some_time(id) && id < after->replaced;

    if (id >= after->added)
        wrong(s, "answered before it was added", id, distance);
    else if ((is_removed_some_time(id) && id < before->removed) ||
             (is_thinned(id) && id < before->thinned))
        wrong(s, "answered after it was removed", id, distance);
    else if (!(old && at_distance(id, 0, query, distance)) &&
             !(replaced && at_distance(id, 1, query, distance)))
        wrong(s, "not its distance", id, distance);
}

/* 1 if it is there for sure, -1 if not for sure. */
static int is_there(uint64_t id, const struct seen_fronts *before, const struct seen_fronts *after)
{
    if ((is_removed_some_time(id) && id < before->removed) ||
        (is_thinned(id) && id < before->thinned))
        return -1;
    return (is_removed_some_time(id) && id < after->removed) ||
                   (is_thinned(id) && id < after->thinned)
               ? 0
               : 1;
}

static void look_for(struct stress *s, uint64_t id, const struct seen_fronts *before)
{
    uint32_t version = is_replaced_some_time(id) && id < before->replaced, times = 0, found = 0;
    struct vshard_search_options o = { .size = sizeof o, .found = &found };
    struct seen_fronts after;
    struct vshard_hit hits[K];
    float query[DIM];

    vector_of(id, version, query);
    if (vshard_index_search(s->x, query, 1, K, hits, &o) != VSHARD_OK)
        wrong(s, "the search failed", id, 0);
    after = begun_now(s);
    for (uint32_t i = 0; i < found; i++) {
        judge(s, &hits[i], query, before, &after);
        times += hits[i].id == id;
        for (uint32_t j = 0; j < i; j++) {
            if (hits[j].id == hits[i].id)
                wrong(s, "answered twice", hits[i].id, (double)hits[i].distance);
        }
    }
    if (is_there(id, before, &after) > 0 && times == 0 &&
        (version == 1 || !is_replaced_some_time(id) || id >= after.replaced))
        atomic_fetch_add(&s->missed, 1);
    atomic_fetch_add(&s->searches, 1);
}

static void fetch(struct stress *s, uint64_t id, const struct seen_fronts *before)
{
    float v[DIM], old[DIM], new[DIM];
    int rc = vshard_index_fetch(s->x, &id, 1, v, NULL);
    struct seen_fronts after = begun_now(s);
    int there = is_there(id, before, &after);

    if (there > 0 && rc != VSHARD_OK)
        wrong(s, "not fetched", id, rc);
    if (there < 0 && rc != VSHARD_ENOTFOUND)
        wrong(s, "fetched after it was removed", id, rc);
    if (rc != VSHARD_OK)
        return;
    vector_of(id, 0, old);
    vector_of(id, 1, new);
    if ((memcmp(v, old, sizeof v) != 0 || (is_replaced_some_time(id) && id < before->replaced)) &&
        (memcmp(v, new, sizeof v) != 0 || !is_replaced_some_time(id) || id >= after.replaced))
        wrong(s, "not its vector", id, 0);
}

static void *read_all(void *arg)
{
    struct stress *s = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed;

    while (!atomic_load(&s->over)) {
        struct seen_fronts before = done_now(s);

        if (before.added == 0) {
            vs_os_yield();
            continue;
        }
        look_for(s, random_below(&seed, before.added), &before);
        before = done_now(s);
        fetch(s, random_below(&seed, before.added), &before);
    }
    return NULL;
}

static void *save_all(void *arg)
{
    struct vshard_index_check check = { .size = sizeof check };
    struct stress *s = arg;
    const struct vshard_open_options open = { .size = sizeof open, .storage = &s->storage };

    while (!atomic_load(&s->over)) {
        struct vshard_index *saved = NULL;

        if (vshard_index_save(s->x, "/stress") != VSHARD_OK ||
            vshard_index_open("/stress", &open, &saved) != VSHARD_OK ||
            vshard_index_check(saved, &check) != VSHARD_OK || check.unreachable > 0)
            wrong(s, "what was saved is not whole", check.unreachable, 0);
        vshard_index_destroy(saved);
        atomic_fetch_add(&s->saves, 1);
    }
    return NULL;
}

/* ---- the writer ---- */

static void add_rows_of(struct stress *s, const uint64_t *ids, size_t count, uint32_t version)
{
    float *v = malloc(count * DIM * sizeof *v + 1);

    for (size_t i = 0; i < count; i++)
        vector_of(ids[i], version, v + i * DIM);
    cr_assert_eq(vshard_index_add(s->x, ids, v, count), VSHARD_OK);
    free(v);
}

static void remove_rows_of(struct stress *s, const uint64_t *ids, size_t count, uint32_t unused)
{
    (void)unused;
    cr_assert_eq(vshard_index_remove(s->x, ids, count, NULL), VSHARD_OK);
}

/* Moves one front on to `to`, by the ids for which something happens there. */
static void advance(struct stress *s, struct front *f, uint32_t to, bool (*concerns)(uint64_t),
                    void (*happens)(struct stress *, const uint64_t *, size_t, uint32_t))
{
    uint32_t from = atomic_load(&f->done);
    uint64_t *ids = malloc((to - from) * sizeof *ids + 1);
    size_t count = 0;

    for (uint32_t id = from; id < to; id++) {
        if (concerns == NULL || concerns(id))
            ids[count++] = id;
    }
    atomic_store(&f->begun, to);
    happens(s, ids, count, concerns == is_replaced_some_time);
    atomic_store(&f->done, to);
    free(ids);
}

static void write_all(struct stress *s)
{
    for (uint32_t to = 0; to < s->rows;) {
        to = s->rows - to < BATCH ? s->rows : to + BATCH;
        advance(s, &s->added, to, NULL, add_rows_of);
        if (to <= LAG)
            continue;
        advance(s, &s->removed, to - LAG, is_removed_some_time, remove_rows_of);
        advance(s, &s->replaced, to - LAG, is_replaced_some_time, add_rows_of);
        if (to / BATCH % 16 == 0)
            cr_assert_eq(vshard_index_maintain(s->x, 5000, NULL), VSHARD_OK);
    }
    advance(s, &s->thinned, s->rows, is_thinned, remove_rows_of);
    cr_assert_eq(vshard_index_maintain(s->x, 0, NULL), VSHARD_OK);
}

static uint32_t rows_wanted(void)
{
    const char *rows = getenv("VSHARD_ROWS");

    return rows != NULL                    ? (uint32_t)strtoul(rows, NULL, 10)
           : getenv("VSHARD_LONG") != NULL ? 1000000
                                           : 16000;
}

Test(index_stress_threads, many_inserts_beside_readers_removals_and_saves)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct stress s = { .rows = rows_wanted(), .storage = *fault_storage_hook(fs) };
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = DIM,
                                      .m = 16,
                                      .ef_construction = 64,
                                      .train_rows = 1000,
                                      .storage = &s.storage };
    struct vshard_index_check check = { .size = sizeof check };
    pthread_t threads[READERS + 1];

    cr_assert_eq(vshard_index_create(&o, &s.x), VSHARD_OK);
    for (int i = 0; i <= READERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, i < READERS ? read_all : save_all, &s), 0);
    write_all(&s);
    atomic_store(&s.over, 1);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    fprintf(stderr, "index_stress_threads: %u rows, %llu searches, %u missed, %u saves\n", s.rows,
            (unsigned long long)s.searches, s.missed, s.saves);
    cr_expect_eq(s.wrong, 0, "%u wrong of %llu searches", s.wrong, (unsigned long long)s.searches);
    cr_expect(s.missed <= s.searches / 200, "%u of %llu missed", s.missed,
              (unsigned long long)s.searches);
    cr_expect_eq(vshard_index_check(s.x, &check), VSHARD_OK);
    cr_expect_eq(check.unreachable, 0);
    vshard_index_destroy(s.x);
    fault_storage_destroy(fs);
}
