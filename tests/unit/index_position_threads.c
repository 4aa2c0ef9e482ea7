/* index_position_threads.c - a file is the index as it was when the save began.
 *
 * Method: storage that changes the index beside each write of a save, so that changes come
 * at every place of it, always the same ones: rows are added, replaced and removed, edges
 * repaired, keywords come and go, a graph begins. What is opened then must have the
 * digest that the index had before; and the index itself must be that of the same changes
 * without a save. The same with a writer on a thread of its own and little room for
 * what is put aside, for ThreadSanitizer; there each file must be one of the positions
 * that the writer came by. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 24, ATTRIBUTES = 2, WORDS = 40 };

static const struct kind {
    const char *name;
    uint32_t dim, family, element, metric, profile, attributes, rows;
} kinds[] = {
    { "flat", D, VSHARD_FAMILY_FLAT, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 0, 3000 },
    { "graph", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_COSINE, 0, 0, 3000 },
    { "graph with values", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F16, VSHARD_METRIC_L2SQ, 0,
      ATTRIBUTES, 2200 },
    { "graph with sketches", 72, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 0,
      1500 },
    { "graph on bytes", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_U8, VSHARD_METRIC_L2SQ, 0, 0, 2200 },
    { "lean graph", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ,
      VSHARD_PROFILE_LEAN, 0, 2200 },
    { "before there is a graph", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0,
      0, 250 },
    { "empty", D, VSHARD_FAMILY_HNSW, VSHARD_ELEMENT_F32, VSHARD_METRIC_L2SQ, 0, 0, 0 },
};

static struct vshard_index *make_kind(const struct kind *k, const struct vshard_storage *storage)
{
    static const struct vshard_attribute schema[ATTRIBUTES] = {
        { .type = VSHARD_ATTRIBUTE_INT64, .name = "number" },
        { .type = VSHARD_ATTRIBUTE_KEYWORD, .name = "word" }
    };
    struct vshard_index_options o = small_options(k->dim, k->metric, k->element);

    o.family = k->family;
    o.profile = k->profile;
    o.storage = storage;
    o.attributes = k->attributes ? schema : NULL;
    o.attribute_count = k->attributes;
    return make_index(&o);
}

/* ---- changes, drawn from a seed ---- */

static void add_drawn(struct vshard_index *x, const struct kind *k, uint64_t *seed, uint64_t first,
                      size_t count)
{
    uint64_t *ids = number_ids(first, count);
    int64_t *numbers = calloc(count, sizeof *numbers);
    char(*words)[8] = calloc(count, sizeof *words);
    const struct vshard_values values[ATTRIBUTES] = {
        { .values = numbers, .width = sizeof *numbers }, { .values = words, .width = sizeof *words }
    };
    struct vshard_add_options o = { .size = sizeof o,
                                    .values = values,
                                    .value_count = k->attributes };
    void *v = draw_vectors(seed, k->element, count, k->dim);
    int rc;

    for (size_t i = 0; i < count; i++) {
        numbers[i] = (int64_t)random_below(seed, 1000);
        snprintf(words[i], sizeof words[i], "w%u", (unsigned)random_below(seed, WORDS) & 63);
    }
    rc = vshard_index_add_with(x, ids, v, count, &o);
    cr_assert_eq(rc, 0, "%s: add: %s", k->name, vshard_strerror(rc));
    free(v);
    free(words);
    free(numbers);
    free(ids);
}

static void change(struct vshard_index *x, const struct kind *k, uint64_t *seed)
{
    uint64_t most = k->rows + 100, *ids = number_ids(random_below(seed, most), 150);

    switch (random_below(seed, 4)) {
    case 0: add_drawn(x, k, seed, random_below(seed, most), 20); break;
    case 1: add_drawn(x, k, seed, 1000000 + random_below(seed, 100000), 5); break;
    case 2: remove_rows(x, ids, 1 + random_below(seed, 149)); break;
    default: /* by too little for rows to move together, which waits for the save */
        cr_assert_eq(vshard_index_maintain(x, 1 + random_below(seed, 200), NULL), 0);
    }
    free(ids);
}

/* ---- storage that changes the index on the way ---- */

struct busy {
    struct fault_storage *fs;
    struct vshard_index *x;
    const struct kind *kind;
    uint64_t seed, changes;
    bool going; /* a save, and not a change itself */
};

/* On a thread of its own, which holds no lock of the save's. */
static void *change_once(void *arg)
{
    struct busy *b = arg;

    change(b->x, b->kind, &b->seed);
    return NULL;
}

static void busy_submit(void *ctx, struct vshard_io *io)
{
    struct busy *b = ctx;
    const struct vshard_storage *under = fault_storage_hook(b->fs);
    pthread_t writer;

    if (b->going && io->op == VSHARD_IO_WRITE) {
        b->going = false;
        cr_assert_eq(pthread_create(&writer, NULL, change_once, b), 0);
        pthread_join(writer, NULL);
        b->changes++;
        b->going = true;
    }
    under->submit(under->ctx, io);
}

static void busy_wait(void *ctx, struct vshard_io *io)
{
    const struct busy *b = ctx;
    const struct vshard_storage *under = fault_storage_hook(b->fs);

    under->wait(under->ctx, io);
}

static uint64_t digest_of_file(struct fault_storage *fs, const char *path)
{
    struct vshard_open_options o = { .size = sizeof o, .storage = fault_storage_hook(fs) };
    struct vshard_index *x = NULL;
    int rc = vshard_index_open(path, &o, &x);
    uint64_t digest;

    cr_assert_eq(rc, 0, "%s: %s", path, vshard_strerror(rc));
    expect_clean(x, path);
    digest = digest_of(x);
    vshard_index_destroy(x);
    return digest;
}

static void save_beside_changes(const struct kind *k, uint64_t seed,
                                int (*save)(struct vshard_index *x, const char *path))
{
    struct busy b = { .fs = fault_storage_create(seed), .kind = k, .seed = seed };
    const struct vshard_storage storage = { busy_submit, busy_wait, &b, NULL };
    struct vshard_index *twin = make_kind(k, NULL);
    uint64_t again = seed, before;

    b.x = make_kind(k, &storage);
    for (uint64_t at = 0; at < k->rows; at += 250) {
        add_drawn(b.x, k, &b.seed, at, 250);
        add_drawn(twin, k, &again, at, 250);
    }
    for (int saves = 0; saves < 3; saves++) {
        before = digest_of(b.x);
        b.changes = 0;
        b.going = true;
        cr_assert_eq(save(b.x, "/x"), 0);
        b.going = false;
        cr_expect(b.changes > 1);
        for (; b.changes > 0; b.changes--)
            change(twin, k, &again);
        cr_expect_eq(digest_of_file(b.fs, "/x"), before, "%s, seed %llu: save %d is no position",
                     k->name, (unsigned long long)seed, saves);
        cr_expect_eq(digest_of(b.x), digest_of(twin), "%s, seed %llu: a save left a trace", k->name,
                     (unsigned long long)seed);
    }
    cr_expect(b.x->keep.marks == NULL && b.x->keep.kept == NULL);
    vshard_index_destroy(b.x);
    vshard_index_destroy(twin);
    cr_expect_null(fault_storage_verdict(b.fs));
    fault_storage_destroy(b.fs);
}

Test(index_position_threads, a_file_is_the_index_as_the_save_began)
{
    for (size_t k = 0; k < VS_COUNT(kinds); k++) {
        for (uint64_t seed = 1; seed <= 3; seed++)
            save_beside_changes(&kinds[k], seed, vshard_index_save);
    }
}

Test(index_position_threads, a_file_of_changes_is_the_index_as_the_save_began)
{
    for (size_t k = 0; k < VS_COUNT(kinds); k++) {
        for (uint64_t seed = 1; seed <= 3; seed++)
            save_beside_changes(&kinds[k], seed, vshard_index_save_changes);
    }
}

/* ---- no memory for what is to be put aside ---- */

Test(index_position_threads, without_memory_the_save_fails_and_the_change_does_not)
{
    const struct kind *k = &kinds[1];
    struct fault_alloc memory;
    struct vshard_index_options o = small_options(k->dim, k->metric, k->element);
    unsigned char *rows = malloc(VS_EXTENT_ROWS * 1024);
    uint64_t seed = 1;
    struct vshard_index *x;

    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    x = make_index(&o);
    add_drawn(x, k, &seed, 0, k->rows);
    for (uint64_t fail = 1; fail <= 9; fail++) {
        bool enough = fail == 9;

        cr_assert_eq(vs_keep_begin(x), 0);
        fault_alloc_fail(&memory, fail, FAULT_FOREVER);
        for (uint32_t slot = 0; slot < 8; slot++)
            vs_keep(x, IMAGE_EDGES, slot);
        fault_alloc_fail(&memory, 0, FAULT_ONCE);
        cr_expect_eq(atomic_load(&x->keep.on), enough);
        cr_expect_eq(vs_keep_take(x, IMAGE_EDGES, 0, rows), enough ? VSHARD_OK : VSHARD_ENOMEM);
        vs_keep_end(x);
        vs_keep_free(x);
    }
    vshard_index_destroy(x);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    free(rows);
}

/* ---- a writer on a thread of its own ---- */

enum { POSITIONS = 4000 };

struct beside {
    struct vshard_index *x;
    const struct kind *kind;
    uint64_t digests[POSITIONS]; /* [0, count) the writer came by */
    atomic_uint count, saves;
};

static void slow_submit(void *ctx, struct vshard_io *io)
{
    const struct vshard_storage *under = fault_storage_hook(ctx);

    for (int i = 0; i < 20 && io->op == VSHARD_IO_WRITE; i++)
        vs_os_yield();
    under->submit(under->ctx, io);
}

static void slow_wait(void *ctx, struct vshard_io *io)
{
    const struct vshard_storage *under = fault_storage_hook(ctx);

    under->wait(under->ctx, io);
}

static void *write_on(void *arg)
{
    struct beside *b = arg;
    uint64_t seed = 9;

    while (atomic_load(&b->saves) < 6 && atomic_load(&b->count) < POSITIONS) {
        uint32_t at = atomic_load(&b->count);

        change(b->x, b->kind, &seed);
        b->digests[at] = digest_of(b->x);
        atomic_store(&b->count, at + 1);
    }
    return NULL;
}

/* It may have begun at the last position before, or at any that came until it was over. */
static bool came_by(const struct beside *b, uint32_t from, uint64_t digest)
{
    for (uint32_t tries = 0; tries < 100000; tries++) {
        for (uint32_t i = from, end = atomic_load(&b->count); i < end; i++) {
            if (b->digests[i] == digest)
                return true;
        }
        vs_os_yield(); /* the writer has yet to write it down */
    }
    return false;
}

static void write_and_save(const struct kind *k, size_t most,
                           int (*save)(struct vshard_index *x, const char *path))
{
    struct fault_storage *fs = fault_storage_create(1);
    const struct vshard_storage storage = { slow_submit, slow_wait, fs, NULL };
    struct beside *b = calloc(1, sizeof *b);
    uint64_t seed = 4;
    pthread_t writer;

    b->kind = k;
    b->x = make_kind(k, &storage);
    b->x->keep.most_set = most;
    add_drawn(b->x, k, &seed, 0, k->rows);
    b->digests[0] = digest_of(b->x);
    atomic_store(&b->count, 1);
    cr_assert_eq(pthread_create(&writer, NULL, write_on, b), 0);
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t from = atomic_load(&b->count) - 1;

        cr_expect_eq(save(b->x, "/x"), 0);
        cr_expect(came_by(b, from, digest_of_file(fs, "/x")), "%s: save %u is no position", k->name,
                  i);
        atomic_fetch_add(&b->saves, 1);
    }
    pthread_join(writer, NULL);
    vshard_index_destroy(b->x);
    free(b);
    fault_storage_destroy(fs);
}

Test(index_position_threads, each_file_is_a_position_that_a_writer_came_by)
{
    write_and_save(&kinds[0], 0, vshard_index_save);
    write_and_save(&kinds[1], 0, vshard_index_save);
    write_and_save(&kinds[2], 0, vshard_index_save);
}

Test(index_position_threads, each_file_of_changes_is_a_position_that_a_writer_came_by)
{
    write_and_save(&kinds[0], 0, vshard_index_save_changes);
    write_and_save(&kinds[1], 1 << 12, vshard_index_save_changes);
    write_and_save(&kinds[2], 0, vshard_index_save_changes);
}

Test(index_position_threads, a_writer_waits_when_too_much_is_put_aside)
{
    write_and_save(&kinds[1], 1 << 12, vshard_index_save);
    write_and_save(&kinds[5], 1, vshard_index_save);
}
