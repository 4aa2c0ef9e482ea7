/* index_generation.c - what changed goes into a file of its own, and all files open as one.
 *
 * Method: an index of every kind is changed and saved by turns; what is opened must have its
 * digest, copied and mapped, and files of changes must be as small as what changed. In small files
 * every byte is flipped and every length cut; a forger makes the checksums right again. A save
 * fails at each of its storage calls and each of its allocations, and the disk is left in many
 * states: the old generation or the new one must open, and both it and the index must be good for
 * more. */
#include <criterion/criterion.h>

#include <unistd.h>

#include "index/generation.h"
#include "support/damage.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/seeds.h"

enum { ATTRIBUTES = 2, WORDS = 40 };

static const char path[] = "/x";

static const struct kind {
    const char *name;
    uint32_t dim, family, metric, element, profile, attributes, rows;
} kinds[] = {
    { "flat with values", 3, 1, 2, 0, 0, ATTRIBUTES, 2100 },
    { "graph", 5, 0, 0, 0, 0, 0, 2100 },
    { "graph with sketches and values", 66, 0, 0, 3, 0, ATTRIBUTES, 1500 },
    { "graph on bytes", 24, 0, 0, 1, 0, 0, 2048 },
    { "lean graph", 24, 0, 2, 0, 1, 0, 1500 },
    { "before there is a graph", 5, 0, 1, 0, 0, 0, 200 },
    { "empty", 3, 0, 0, 0, 0, 0, 0 },
};

static const struct kind small_kinds[] = {
    { "small, flat with values", 3, 1, 2, 1, 0, ATTRIBUTES, 60 },
    { "small graph", 3, 0, 0, 0, 0, 0, 300 },
};

static struct vshard_index *make_kind(const struct kind *k, const struct vshard_storage *storage,
                                      const struct vshard_allocator *memory)
{
    static const struct vshard_attribute schema[ATTRIBUTES] = {
        { .type = VSHARD_ATTRIBUTE_INT64, .name = "number" },
        { .type = VSHARD_ATTRIBUTE_KEYWORD, .name = "word" }
    };
    struct vshard_index_options o = small_options(k->dim, k->metric, k->element);

    o.family = k->family;
    o.profile = k->profile;
    o.m = 4;
    o.ef_construction = 16;
    o.storage = storage;
    o.allocator = memory;
    o.attributes = schema;
    o.attribute_count = k->attributes;
    return make_index(&o);
}

static void add_drawn(struct vshard_index *x, const struct kind *k, uint64_t *seed, uint64_t first,
                      size_t count)
{
    uint64_t *ids = number_ids(first, count);
    int64_t *numbers = calloc(count + 1, sizeof *numbers);
    char(*words)[8] = calloc(count + 1, sizeof *words);
    const struct vshard_values values[ATTRIBUTES] = { { numbers, 0 }, { words, sizeof *words } };
    struct vshard_add_options o = { .size = sizeof o,
                                    .values = values,
                                    .value_count = k->attributes };
    unsigned char *v = draw_vectors(seed, k->element, count, k->dim);
    int rc;

    for (size_t i = 0; i < count; i++) {
        numbers[i] = (int64_t)random_below(seed, 1000);
        snprintf(words[i], sizeof words[i], "w%u", (unsigned)random_below(seed, WORDS));
    }
    for (size_t i = 0; k->element == VSHARD_ELEMENT_U8 && i < count * k->dim; i++)
        v[i] |= 1; /* cosine refuses zeros */
    rc = vshard_index_add_with(x, ids, v, count, &o);
    cr_assert_eq(rc, 0, "%s: add: %s", k->name, vshard_strerror(rc));
    free(v);
    free(words);
    free(numbers);
    free(ids);
}

static struct vshard_index *fill_kind(const struct kind *k, const struct vshard_storage *storage,
                                      const struct vshard_allocator *memory, uint64_t *seed)
{
    struct vshard_index *x = make_kind(k, storage, memory);

    for (uint64_t at = 0; at < k->rows; at += 250)
        add_drawn(x, k, seed, at, k->rows - at < 250 ? k->rows - at : 250);
    return x;
}

static void change(struct vshard_index *x, const struct kind *k, uint64_t *seed)
{
    uint64_t most = k->rows + 10, *ids = number_ids(random_below(seed, most), 20);

    switch (random_below(seed, 4)) {
    case 0: add_drawn(x, k, seed, random_below(seed, most), 4); break;
    case 1: add_drawn(x, k, seed, 1000000 + random_below(seed, 100000), 2); break;
    case 2: remove_rows(x, ids, 1 + random_below(seed, 8)); break;
    default: /* by too little for rows to move together */
        cr_assert_eq(vshard_index_maintain(x, 1 + random_below(seed, 100), NULL), 0);
    }
    free(ids);
}

static int open_at(struct fault_storage *fs, uint32_t flags, struct vshard_index **x)
{
    struct vshard_open_options o = { .size = sizeof o,
                                     .flags = flags,
                                     .storage = fault_storage_hook(fs) };

    return vshard_index_open(path, &o, x);
}

static void expect_file(struct fault_storage *fs, uint64_t digest, const char *what)
{
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_index *x;
        int rc = open_at(fs, flags, &x);

        cr_assert_eq(rc, 0, "%s, flags %u: %s", what, flags, vshard_strerror(rc));
        expect_clean(x, what);
        cr_assert_eq(digest_of(x), digest, "%s, flags %u: another index", what, flags);
        vshard_index_destroy(x);
    }
}

static void save_changes(struct vshard_index *x)
{
    int rc = vshard_index_save_changes(x, path);

    cr_assert_eq(rc, 0, "%s", vshard_strerror(rc));
}

static struct vs_generation head_of(struct fault_storage *fs)
{
    struct vs_generation g;

    cr_assert_eq(vs_generation_read(fault_storage_hook(fs), path, &g), 0);
    return g;
}

static bool part_is_there(struct fault_storage *fs, uint64_t number)
{
    char part[GENERATION_PATH_BYTES];

    vs_part_path(part, path, number);
    return fault_storage_bytes(fs, part, &(size_t){ 0 }) != NULL;
}

/* Nothing but what the head names. */
static void expect_no_leftovers(struct fault_storage *fs, const char *what)
{
    struct vs_generation g = head_of(fs);

    for (uint64_t n = 1; n < g.first + g.count + 5; n++)
        cr_assert_eq(part_is_there(fs, n), n >= g.first && n < g.first + g.count, "%s: part %llu",
                     what, (unsigned long long)n);
    cr_assert_null(fault_storage_bytes(fs, "/x.tmp", &(size_t){ 0 }));
}

/* ---- what was saved is what opens ---- */

static void save_by_turns(const struct kind *k, uint64_t seed)
{
    struct fault_storage *fs = fault_storage_create(seed);
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);
    uint64_t changes = 0, wholes = 0;

    save_changes(x);
    expect_file(fs, digest_of(x), k->name);
    for (uint32_t i = 0; i < 24; i++) {
        struct vs_generation before = head_of(fs), after;

        for (uint64_t n = random_below(&seed, 4); n > 0; n--)
            change(x, k, &seed);
        save_changes(x);
        after = head_of(fs);
        wholes += after.count == 1;
        changes += after.count == before.count + 1;
        cr_assert_eq(after.first + after.count, before.first + before.count + 1);
        cr_assert_eq(after.digest, digest_of(x));
        expect_file(fs, digest_of(x), k->name);
        expect_no_leftovers(fs, k->name);
        if (i % 8 == 5) { /* what was opened goes on where it was */
            vshard_index_destroy(x);
            cr_assert_eq(open_at(fs, 0, &x), 0);
        }
    }
    cr_expect_eq(changes + wholes, 24);
    cr_expect(k->rows == 0 || changes > 8, "%s: %llu of changes, %llu whole", k->name,
              (unsigned long long)changes, (unsigned long long)wholes);
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(index_generation, opens_as_what_was_saved_after_any_changes)
{
    for (size_t k = 0; k < VS_COUNT(kinds); k++) {
        for (uint64_t seed = 1; seed <= 2; seed++)
            save_by_turns(&kinds[k], seed);
    }
}

Test(index_generation, a_part_has_the_rows_that_changed_and_no_others)
{
    const struct kind *k = &kinds[0]; /* flat: rows 16, elements 12, two values of 8 */
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1;
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);
    struct vs_generation g;

    save_changes(x);
    save_changes(x);
    g = head_of(fs);
    cr_assert_eq(g.count, 2);
    cr_expect_eq(g.parts[1].bytes, PART_HEADER_BYTES, "nothing changed");
    add_drawn(x, k, &seed, 1000000, 3);
    save_changes(x);
    g = head_of(fs);
    cr_assert_eq(g.count, 3);
    cr_expect_eq(g.parts[2].bytes, PART_HEADER_BYTES + 4 * RECORD_HEADER_BYTES + 3 * (16 + 12 + 16),
                 "three new rows: %llu bytes", (unsigned long long)g.parts[2].bytes);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
}

/* ---- when everything is written ---- */

static uint32_t parts_after(struct vshard_index *x, struct fault_storage *fs)
{
    save_changes(x);
    expect_file(fs, digest_of(x), "after a save");
    expect_no_leftovers(fs, "after a save");
    return head_of(fs).count;
}

Test(index_generation, everything_is_written_where_changes_are_not_known)
{
    const struct kind *k = &kinds[5]; /* 200 rows, and no graph */
    struct fault_storage *fs = fault_storage_create(1);
    const struct vshard_storage *storage = fault_storage_hook(fs);
    uint64_t seed = 1;
    struct vshard_index *x = fill_kind(k, storage, NULL, &seed), *other, *mapped;

    cr_expect_eq(parts_after(x, fs), 1);
    cr_expect_eq(parts_after(x, fs), 2);
    add_drawn(x, k, &seed, 500, 100); /* a graph begins */
    cr_expect_eq(parts_after(x, fs), 1);
    cr_expect_eq(parts_after(x, fs), 2);
    other = fill_kind(k, storage, NULL, &seed);
    cr_expect_eq(parts_after(other, fs), 1, "of another index");
    cr_expect_eq(parts_after(x, fs), 1, "which was there since");
    cr_expect_eq(vshard_index_save_changes(x, "/y"), 0);
    cr_expect_eq(parts_after(x, fs), 1, "another path was saved to since");
    cr_expect_eq(parts_after(x, fs), 2);
    cr_expect_eq(open_at(fs, VSHARD_OPEN_MAPPED, &mapped), 0);
    cr_expect_eq(parts_after(mapped, fs), 1, "a mapped index");
    vshard_index_destroy(mapped);
    cr_expect_eq(vshard_index_save(x, path), 0);
    expect_file(fs, digest_of(x), "a file in place of a head");
    save_changes(x);
    cr_expect_eq(head_of(fs).count, 1, "over a file of the other call");
    vshard_index_destroy(other);
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(index_generation, everything_is_written_when_rows_were_moved)
{
    struct kind k = kinds[0];
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1, *ids = number_ids(0, 1300);
    struct vshard_index *x;

    k.rows = 10000; /* so that it would not be too much */
    x = fill_kind(&k, fault_storage_hook(fs), NULL, &seed);
    cr_expect_eq(parts_after(x, fs), 1);
    remove_rows(x, ids, 1300);
    cr_expect_eq(parts_after(x, fs), 2);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    cr_assert_eq(atomic_load(&x->slot_count), 8700, "rows were moved");
    add_drawn(x, &k, &seed, 20000, 1300);
    cr_expect_eq(parts_after(x, fs), 1);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
    free(ids);
}

Test(index_generation, everything_is_written_when_parts_are_many)
{
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1;
    struct vshard_index *x = fill_kind(&kinds[5], fault_storage_hook(fs), NULL, &seed);

    for (uint32_t i = 1; i <= GENERATION_PARTS; i++) {
        save_changes(x);
        cr_assert_eq(head_of(fs).count, i);
    }
    expect_file(fs, digest_of(x), "as many as may be");
    cr_expect_eq(parts_after(x, fs), 1);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
}

Test(index_generation, who_has_mapped_an_older_one_keeps_it)
{
    const struct kind *k = &kinds[1];
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1, old;
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed), *mapped;

    save_changes(x);
    change(x, k, &seed);
    save_changes(x);
    old = digest_of(x);
    cr_assert_eq(open_at(fs, VSHARD_OPEN_MAPPED, &mapped), 0);
    while (head_of(fs).count > 1 || head_of(fs).first == 1) {
        change(x, k, &seed);
        save_changes(x);
    }
    cr_expect_eq(digest_of(mapped), old);
    expect_clean(mapped, "mapped, of files that are removed");
    vshard_index_destroy(mapped);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
}

static void remove_files(const char *dir)
{
    char file[200];

    for (uint32_t i = 0; i < 50; i++) {
        snprintf(file, sizeof file, "%s/x.g%u", dir, i);
        unlink(file);
    }
    snprintf(file, sizeof file, "%s/x", dir);
    unlink(file);
    cr_expect_eq(rmdir(dir), 0);
}

/* As the system has it, where nothing of a map is read before it is asked for. */
Test(index_generation, a_map_of_real_files_outlives_them)
{
    const struct kind *k = &kinds[1];
    struct vshard_open_options o = { .size = sizeof o, .flags = VSHARD_OPEN_MAPPED };
    char dir[] = "/tmp/vshard-index-XXXXXX", file[100];
    uint64_t seed = 1, digests[2];
    struct vshard_index *x = fill_kind(k, NULL, NULL, &seed), *mapped[2];

    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/x", dir);
    for (int i = 0; i < 2; i++) { /* a whole file, and a generation in its place */
        digests[i] = digest_of(x);
        cr_assert_eq(i == 0 ? vshard_index_save(x, file) : vshard_index_save_changes(x, file), 0);
        cr_assert_eq(vshard_index_open(file, &o, &mapped[i]), 0);
        add_drawn(x, k, &seed, 0, k->rows / 2);
    }
    cr_assert_eq(vshard_index_save_changes(x, file), 0);
    cr_assert_eq(vshard_index_save(x, file), 0);
    remove_files(dir);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(digest_of(mapped[i]), digests[i]);
        expect_clean(mapped[i], "mapped, of files that are gone");
        vshard_index_destroy(mapped[i]);
    }
    vshard_index_destroy(x);
}

/* A map of a file in memory is a copy; so what stays is looked at through an open file. */
Test(index_generation, a_number_that_comes_again_is_of_another_file)
{
    struct fault_storage *fs = fault_storage_create(1);
    const struct vshard_storage *storage = fault_storage_hook(fs);
    uint64_t seed = 1, file, bytes;
    struct vshard_index *x = fill_kind(&kinds[5], storage, NULL, &seed);
    unsigned char *before, *now;
    size_t count;

    save_changes(x);
    cr_assert_eq(vshard_index_save_changes(x, "/y"), 0);
    save_changes(x);
    cr_assert_eq(head_of(fs).first, 2, "all was written again");
    cr_assert_eq(vs_io_open(storage, "/x.g2", 0, &file, &bytes), 0);
    before = malloc(bytes);
    now = malloc(bytes);
    memcpy(before, fault_storage_bytes(fs, "/x.g2", &count), bytes);
    cr_assert_eq(vshard_index_save(x, path), 0);
    for (uint32_t i = 0; i < 3; i++) { /* numbers begin with 1 again */
        add_drawn(x, &kinds[5], &seed, i, 1);
        save_changes(x);
        cr_assert_eq(head_of(fs).first, 1);
        expect_file(fs, digest_of(x), "over an earlier chain");
    }
    cr_assert_eq(vs_io_read(storage, file, 0, now, bytes), 0, "the old file was cut");
    cr_expect_eq(memcmp(now, before, bytes), 0, "the old file was written to");
    vs_io_close(storage, file);
    free(now);
    free(before);
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

/* After a save of which it is not known whether it will stay. */
Test(index_generation, changes_are_not_those_since_a_head_that_came_back)
{
    const struct kind *k = &kinds[0];
    const struct fault_rule last = { .k = 2, .ops = 1u << VSHARD_IO_SYNC_DIR, .how = FAULT_ONCE };
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1;
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);
    unsigned char *head;
    size_t count;

    save_changes(x);
    fault_storage_bytes(fs, path, &count);
    head = malloc(count);
    memcpy(head, fault_storage_bytes(fs, path, &count), count);
    add_drawn(x, k, &seed, 5, 3);
    fault_storage_rule(fs, &last);
    cr_assert_eq(vshard_index_save_changes(x, path), VSHARD_EUNKNOWN);
    fault_storage_heal(fs);
    expect_file(fs, digest_of(x), "renamed");
    fault_storage_put(fs, path, head, count);
    add_drawn(x, k, &seed, 50, 3);
    save_changes(x);
    expect_file(fs, digest_of(x), "over the old head");
    free(head);
    vshard_index_destroy(x);
    fault_storage_destroy(fs);
}

/* ---- who opens while files are removed ---- */

struct overtaken {
    struct fault_storage *fs;
    struct vshard_index *x;
    bool armed;
};

static void overtaken_submit(void *ctx, struct vshard_io *io)
{
    struct overtaken *o = ctx;
    const struct vshard_storage *under = fault_storage_hook(o->fs);

    if (o->armed && io->op == VSHARD_IO_OPEN && strcmp(io->path, "/x.g1") == 0) {
        o->armed = false;
        save_changes(o->x);
    }
    under->submit(under->ctx, io);
}

static void overtaken_wait(void *ctx, struct vshard_io *io)
{
    struct overtaken *o = ctx;
    const struct vshard_storage *under = fault_storage_hook(o->fs);

    under->wait(under->ctx, io);
}

Test(index_generation, a_reader_that_is_overtaken_reads_the_new_one)
{
    struct overtaken o = { .fs = fault_storage_create(1) };
    const struct vshard_storage storage = { overtaken_submit, overtaken_wait, &o, NULL };
    struct vshard_open_options options = { .size = sizeof options, .storage = &storage };
    uint64_t seed = 1;
    struct vshard_index *first = fill_kind(&kinds[5], fault_storage_hook(o.fs), NULL, &seed), *x;

    save_changes(first);
    o.x = fill_kind(&kinds[5], fault_storage_hook(o.fs), NULL, &seed);
    o.armed = true;
    cr_assert_eq(vshard_index_open(path, &options, &x), 0);
    cr_expect_not(o.armed);
    cr_expect_eq(digest_of(x), digest_of(o.x));
    vshard_index_destroy(x);
    vshard_index_destroy(o.x);
    vshard_index_destroy(first);
    cr_expect_null(fault_storage_verdict(o.fs));
    fault_storage_destroy(o.fs);
}

/* ---- damage ---- */

struct the_files {
    struct fault_storage *fs;
    uint64_t digest, element_bytes;
    struct vs_generation g;
};

static void begin(struct the_files *f, const struct kind *k)
{
    uint64_t seed = 1;
    struct vshard_index *x;

    f->fs = fault_storage_create(1);
    f->element_bytes = (k->dim * element_bytes(k->element) + 3) / 4 * 4;
    x = fill_kind(k, fault_storage_hook(f->fs), NULL, &seed);
    save_changes(x);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t id = 2 + i;

        remove_rows(x, &id, 1);
        add_drawn(x, k, &seed, 10000 + i, 1);
        save_changes(x);
    }
    f->digest = digest_of(x);
    f->g = head_of(f->fs);
    cr_assert_eq(f->g.count, 3, "%s", k->name);
    vshard_index_destroy(x);
}

static void end(struct the_files *f)
{
    cr_expect_null(fault_storage_verdict(f->fs), "%s", fault_storage_verdict(f->fs));
    fault_storage_destroy(f->fs);
}

/* It does not open, or it is the index that was saved. Mapped, the check may be what sees it. */
static void expect_seen(struct the_files *f, bool must_see, const char *what, uint64_t at)
{
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_index *x;
        int rc = open_at(f->fs, flags, &x);

        cr_assert(rc == 0 || rc == VSHARD_ECORRUPT, "%s %llu: %s", what, (unsigned long long)at,
                  vshard_strerror(rc));
        cr_assert(rc < 0 || !must_see, "%s %llu, flags %u: it opened", what, (unsigned long long)at,
                  flags);
        if (rc < 0)
            continue;
        rc = vshard_index_check(x, NULL);
        cr_assert(rc == 0 || (rc == VSHARD_ECORRUPT && flags), "%s %llu", what,
                  (unsigned long long)at);
        cr_assert(rc < 0 || digest_of(x) == f->digest, "%s %llu, flags %u: another index", what,
                  (unsigned long long)at, flags);
        vshard_index_destroy(x);
    }
}

static void flip_each(struct the_files *f, const char *file, uint64_t must_see, uint64_t step)
{
    size_t count;

    fault_storage_bytes(f->fs, file, &count);
    for (uint64_t at = 0; at < count; at += at < must_see ? 1 : step) {
        uint64_t bit = 8 * at + at % 8;

        fault_storage_flip(f->fs, file, bit);
        expect_seen(f, at < must_see, file, at);
        fault_storage_flip(f->fs, file, bit);
    }
}

static void cut_each(struct the_files *f, const char *file, uint64_t step)
{
    size_t count;
    const void *bytes = fault_storage_bytes(f->fs, file, &count);
    unsigned char *good = malloc(count + 1);

    memcpy(good, bytes, count);
    good[count] = 0;
    for (size_t n = 0; n <= count + 1; n += n + 40 < count ? step : 1) {
        if (n == count)
            continue;
        fault_storage_put(f->fs, file, good, n);
        expect_seen(f, true, file, n);
    }
    fault_storage_put(f->fs, file, good, count);
    free(good);
}

Test(index_generation, every_flipped_byte_is_seen_or_does_not_matter)
{
    for (size_t k = 0; k < VS_COUNT(small_kinds); k++) {
        struct the_files f;

        begin(&f, &small_kinds[k]);
        flip_each(&f, path, GENERATION_BYTES + IMAGE_HEADER_BYTES, 13);
        flip_each(&f, "/x.g2", f.g.parts[1].bytes, 1);
        flip_each(&f, "/x.g3", f.g.parts[2].bytes, 1);
        flip_each(&f, "/x.g1", IMAGE_HEADER_BYTES, 23);
        expect_seen(&f, false, "undamaged", 0);
        end(&f);
    }
}

Test(index_generation, a_file_that_is_cut_or_missing_is_seen)
{
    static const char *const files[] = { path, "/x.g1", "/x.g2", "/x.g3" };

    for (size_t k = 0; k < VS_COUNT(small_kinds); k++) {
        for (size_t i = 0; i < VS_COUNT(files); i++) {
            struct the_files f;

            begin(&f, &small_kinds[k]);
            cut_each(&f, files[i], i < 2 ? 61 : 1);
            expect_seen(&f, false, "undamaged", 0);
            vs_io_remove(fault_storage_hook(f.fs), files[i]);
            if (i > 0)
                expect_seen(&f, true, "missing", i);
            end(&f);
        }
    }
}

enum { DAMAGES = 50 };

/* Of one of the four files, or its bytes those of another: fifty times for each seed. */
Test(index_generation, random_damage_is_seen_or_does_no_harm_for_each_seed)
{
    static const char *const files[] = { path, "/x.g1", "/x.g2", "/x.g3" };

    for (uint64_t seed = seeds_first(); seed < seeds_end(8); seed++) {
        uint64_t draw = seed;
        struct the_files f;

        begin(&f, &small_kinds[seed % VS_COUNT(small_kinds)]);
        for (int i = 0; i < DAMAGES; i++) {
            const char *file = files[random_below(&draw, VS_COUNT(files))];
            size_t count, other_count;
            const void *other =
                fault_storage_bytes(f.fs, files[random_below(&draw, 4)], &other_count);
            const void *bytes = fault_storage_bytes(f.fs, file, &count);
            unsigned char *good = malloc(count), *bad = malloc(count);

            memcpy(good, bytes, count);
            memcpy(bad, bytes, count);
            fault_storage_put(f.fs, file, bad, damage_file(&draw, bad, count, other, other_count));
            expect_seen(&f, false, "damage by seed", seed);
            fault_storage_put(f.fs, file, good, count);
            free(bad);
            free(good);
        }
        expect_seen(&f, false, "undamaged, seed", seed);
        end(&f);
    }
}

/* Puts parts and head there again with their checksums right. */
static void put_forged(struct the_files *f, unsigned char *part, size_t count, uint64_t number,
                       unsigned char *head, size_t head_bytes)
{
    struct vs_generation g = f->g;
    char name[GENERATION_PATH_BYTES];
    uint64_t sum = vs_checksum(part, PART_HEADER_BYTES, 0);
    size_t at = PART_HEADER_BYTES;

    while (at + RECORD_HEADER_BYTES <= count) { /* as the forged records say */
        uint64_t stride[8] = { 16, f->element_bytes, 64, 0, 32, 8, 8, 8 };
        uint32_t column = vs_load32(part + at);
        uint64_t rows = vs_load32(part + at + 8) * (column < 8 ? stride[column] : 1);

        sum = vs_checksum(part + at, RECORD_HEADER_BYTES, sum);
        at += RECORD_HEADER_BYTES;
        if (rows > count - at)
            break;
        sum = vs_checksum(part + at, rows, sum);
        at += rows;
    }
    g.parts[number - g.first] = (struct vs_part){ count, sum };
    vs_generation_encode(&g, head);
    vs_part_path(name, path, number);
    fault_storage_put(f->fs, name, part, count);
    fault_storage_put(f->fs, path, head, head_bytes);
}

Test(index_generation, a_forged_part_does_no_harm)
{
    static const uint32_t values[] = { 0, 1, 2, 5, 7, 255, 1023, 1024, 0x7fffffff, UINT32_MAX };

    for (size_t k = 0; k < VS_COUNT(small_kinds); k++) {
        struct the_files f;
        size_t count, head_bytes;
        unsigned char *good, *part, *head;

        begin(&f, &small_kinds[k]);
        part = malloc(f.g.parts[2].bytes);
        good = malloc(f.g.parts[2].bytes);
        memcpy(good, fault_storage_bytes(f.fs, "/x.g3", &count), f.g.parts[2].bytes);
        fault_storage_bytes(f.fs, path, &head_bytes);
        head = malloc(head_bytes);
        memcpy(head, fault_storage_bytes(f.fs, path, &head_bytes), head_bytes);
        for (size_t at = 0; at + 4 <= count; at += 4) {
            for (size_t v = 0; v < VS_COUNT(values); v++) {
                memcpy(part, good, count);
                vs_store32(part + at, values[v]);
                put_forged(&f, part, count, 3, head, head_bytes);
                expect_seen(&f, false, "forged at", at);
            }
        }
        put_forged(&f, good, count, 3, head, head_bytes);
        expect_file(f.fs, f.digest, "the forger makes good files");
        free(head);
        free(good);
        free(part);
        end(&f);
    }
}

Test(index_generation, a_forged_head_does_no_harm)
{
    static const uint32_t values[] = { 0, 1, 2, 4, 127, 128, 129, 4096, UINT32_MAX };
    struct the_files f;
    size_t count;
    unsigned char *good, *bad;
    struct vshard_index *x;

    begin(&f, &small_kinds[0]);
    fault_storage_bytes(f.fs, path, &count);
    good = malloc(count);
    bad = malloc(count);
    memcpy(good, fault_storage_bytes(f.fs, path, &count), count);
    for (size_t at = 12; at < 200; at += 4) {
        for (size_t v = 0; v < VS_COUNT(values); v++) {
            memcpy(bad, good, count);
            vs_store32(bad + at, values[v]);
            vs_store64(bad + GENERATION_BYTES - 8, vs_checksum(bad, GENERATION_BYTES - 8, 0));
            fault_storage_put(f.fs, path, bad, count);
            expect_seen(&f, false, "forged at", at);
        }
    }
    memcpy(bad, good, count);
    vs_store32(bad + 8, 2);
    vs_store64(bad + GENERATION_BYTES - 8, vs_checksum(bad, GENERATION_BYTES - 8, 0));
    fault_storage_put(f.fs, path, bad, count);
    for (uint32_t flags = 0; flags < 2; flags++)
        cr_expect_eq(open_at(f.fs, flags, &x), VSHARD_EVERSION);
    free(bad);
    free(good);
    end(&f);
}

/* A head of 2^20 rows, with their checksums, over files that have 62. */
Test(index_generation, a_forged_head_takes_no_memory)
{
    enum { LOW = GENERATION_BYTES + 4096, SUMS = LOW + 4096, ROWS = 1 << 20 };
    const size_t sums_bytes = ROWS / VS_EXTENT_ROWS * (5 + ATTRIBUTES) * 8, more = 13 * 4096;
    struct the_files f;
    struct fault_alloc memory;
    struct vshard_open_options o = { .size = sizeof o, .allocator = &memory.hook };
    unsigned char *head, *header;
    size_t count;

    begin(&f, &small_kinds[0]);
    fault_storage_bytes(f.fs, path, &count);
    head = calloc(1, count + more);
    header = head + GENERATION_BYTES;
    memcpy(head, fault_storage_bytes(f.fs, path, &count), SUMS);
    memcpy(head + SUMS + 4096 + more,
           (const unsigned char *)fault_storage_bytes(f.fs, path, &count) + SUMS + 4096,
           count - SUMS - 4096);
    vs_store64(header + 64, ROWS);
    vs_store64(header + 88, ROWS - vs_load64(header + 72) - vs_load64(header + 80));
    vs_image_seal(header, head + SUMS, sums_bytes);
    f.g.digest = vs_load64(header + IMAGE_HEADER_BYTES - 8);
    vs_generation_encode(&f.g, head);
    fault_storage_put(f.fs, path, head, count + more);
    fault_alloc_init(&memory);
    o.storage = fault_storage_hook(f.fs);
    for (; o.flags < 2; o.flags++) {
        struct vshard_index *x;

        cr_expect_eq(vshard_index_open(path, &o, &x), VSHARD_ECORRUPT);
        cr_expect(memory.bytes_peak < 1 << 20, "flags %u: %llu bytes", o.flags,
                  (unsigned long long)memory.bytes_peak);
    }
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    free(head);
    end(&f);
}

/* What a head says of files that are left is not believed without end. */
Test(index_generation, a_forged_number_does_not_hold_up_a_save)
{
    static const uint64_t numbers[] = { 5000, 1ull << 40, UINT64_MAX / 2 };

    for (size_t i = 0; i < VS_COUNT(numbers); i++) {
        struct the_files f;
        uint64_t seed = 1, removed;
        struct vshard_index *x;
        unsigned char *head;
        size_t count;

        begin(&f, &small_kinds[0]);
        x = fill_kind(&small_kinds[0], fault_storage_hook(f.fs), NULL, &seed);
        fault_storage_bytes(f.fs, path, &count);
        head = malloc(count);
        memcpy(head, fault_storage_bytes(f.fs, path, &count), count);
        f.g.first = numbers[i];
        vs_generation_encode(&f.g, head);
        fault_storage_put(f.fs, path, head, count);
        removed = fault_storage_count(f.fs, VSHARD_IO_REMOVE);
        cr_expect_eq(vshard_index_save_changes(x, path), 0);
        removed = fault_storage_count(f.fs, VSHARD_IO_REMOVE) - removed;
        cr_expect(removed < 2000, "%llu removals", (unsigned long long)removed);
        expect_file(f.fs, digest_of(x), "over a forged head");
        free(head);
        vshard_index_destroy(x);
        end(&f);
    }
}

/* ---- a save that is cut short ---- */

struct left {
    uint64_t may_be[3];
    uint32_t count;
};

/* Opens what a crash left, and goes on with it. */
static void expect_left(struct fault_storage *fs, const struct kind *k, const struct left *l,
                        const char *what)
{
    struct vshard_index *x;
    uint64_t digest, seed = 5;
    bool any = false;
    int rc = open_at(fs, 0, &x);

    cr_assert_eq(rc, 0, "%s: %s", what, vshard_strerror(rc));
    expect_clean(x, what);
    digest = digest_of(x);
    for (uint32_t i = 0; i < l->count; i++)
        any = any || digest == l->may_be[i];
    cr_assert(any, "%s: no generation that there was", what);
    change(x, k, &seed);
    save_changes(x);
    expect_file(fs, digest_of(x), what);
    vshard_index_destroy(x);
}

enum way { OF_CHANGES, WHOLE, OVER_WHAT_MAY_COME_BACK, BY_THE_OTHER_CALL, WAYS };

static void crash_at(const struct kind *k, enum way way, uint64_t call, uint64_t first,
                     uint64_t *struck)
{
    static const uint32_t flags[] = { 0, FAULT_CRASH_GARBAGE, FAULT_CRASH_LOSE, FAULT_CRASH_KEEP,
                                      FAULT_CRASH_EACH_NAME };
    const struct fault_rule no_dir = { .k = 1, .ops = 1u << VSHARD_IO_SYNC_DIR, .how = FAULT_ONCE };
    struct fault_storage *fs = fault_storage_create(call + 1);
    uint64_t seed = first;
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);
    struct left l = { { 0 }, 0 };
    char what[100];
    int rc;

    save_changes(x);
    change(x, k, &seed);
    save_changes(x);
    l.may_be[l.count++] = digest_of(x);
    add_drawn(x, k, &seed, 1000000, 2);
    if (way == OVER_WHAT_MAY_COME_BACK) {
        fault_storage_rule(fs, &no_dir);
        cr_assert_eq(vshard_index_save(x, path), VSHARD_EUNKNOWN);
        fault_storage_heal(fs);
        l.may_be[l.count++] = digest_of(x);
    }
    if (way == WHOLE) {
        vshard_index_destroy(x);
        x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);
    }
    add_drawn(x, k, &seed, 2000000, 2);
    l.may_be[l.count] = digest_of(x);
    fault_storage_fail(fs, call, FAULT_FOREVER);
    *struck = fault_storage_struck(fs);
    rc = way == BY_THE_OTHER_CALL ? vshard_index_save(x, path) : vshard_index_save_changes(x, path);
    *struck = fault_storage_struck(fs) - *struck;
    fault_storage_heal(fs);
    if (rc == VSHARD_OK)
        l = (struct left){ { digest_of(x) }, 1 };
    else
        l.count++;
    for (uint32_t i = 0; i < 12 * VS_COUNT(flags); i++) {
        struct fault_crash crash = { .seed = 60 * (first - 1) + i, .flags = flags[i / 12] };
        struct fault_storage *after = fault_storage_after(fs, &crash);

        snprintf(what, sizeof what, "%s, seed %llu, way %u, crash at call %llu, state %u", k->name,
                 (unsigned long long)first, way, (unsigned long long)call, i);
        expect_left(after, k, &l, what);
        fault_storage_destroy(after);
    }
    if (rc < 0) {
        change(x, k, &seed);
        save_changes(x);
        expect_file(fs, digest_of(x), "saved again");
    }
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(index_generation, a_save_cut_short_leaves_the_old_one_or_the_new)
{
    for (size_t k = 0; k < VS_COUNT(small_kinds); k++) {
        for (enum way way = OF_CHANGES; way < BY_THE_OTHER_CALL; way++) {
            uint64_t call = 1, struck = 1;

            for (; struck > 0; call++)
                crash_at(&small_kinds[k], way, call, 1, &struck);
            cr_expect(call > 20, "way %u: %llu calls", way, (unsigned long long)call);
        }
    }
}

/* 60 states of the disk each. */
Test(index_generation, a_power_cut_leaves_the_old_one_or_the_new_for_each_seed)
{
    for (uint64_t seed = seeds_first(); seed < seeds_end(40); seed++) {
        uint64_t draw = seed, struck;
        const struct kind *k = &small_kinds[random_below(&draw, VS_COUNT(small_kinds))];
        enum way way = (enum way)random_below(&draw, WAYS);

        crash_at(k, way, 1 + random_below(&draw, 45), seed, &struck);
    }
}

/* One call fails, and the ones after it do not: what is left over must not be in the way. */
Test(index_generation, a_call_of_storage_that_fails_leaves_the_old_one_or_the_new)
{
    const struct kind *k = &small_kinds[0];
    struct fault_storage *fs = fault_storage_create(1);
    uint64_t seed = 1, old, struck = 0, calls = 1;
    struct vshard_index *x = fill_kind(k, fault_storage_hook(fs), NULL, &seed);

    save_changes(x);
    for (;; calls++) {
        struct vshard_index *left;
        uint64_t digest;
        int rc;

        old = head_of(fs).digest;
        change(x, k, &seed);
        fault_storage_fail(fs, calls, FAULT_ONCE);
        rc = vshard_index_save_changes(x, path);
        if (fault_storage_struck(fs) == struck)
            break;
        struck = fault_storage_struck(fs);
        fault_storage_heal(fs);
        cr_assert(rc == 0 || rc == VSHARD_EIO || rc == VSHARD_EUNKNOWN, "%s", vshard_strerror(rc));
        cr_assert_eq(open_at(fs, 0, &left), 0);
        digest = digest_of(left);
        cr_assert_eq(digest, rc == VSHARD_EIO ? old : digest_of(x), "call %llu",
                     (unsigned long long)calls);
        vshard_index_destroy(left);
        save_changes(x);
        expect_file(fs, digest_of(x), "the next save");
    }
    cr_expect(calls > 20);
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

/* ---- without memory ---- */

Test(index_generation, without_memory_a_save_fails_or_the_next_one_is_whole)
{
    const struct kind *k = &small_kinds[1];
    uint64_t runs = 0;

    for (uint32_t how = FAULT_ONCE; how <= FAULT_FOREVER; how++) {
        bool struck = true;

        for (uint64_t fail = 1; struck; fail++, runs++) {
            struct fault_storage *fs = fault_storage_create(1);
            struct fault_alloc memory;
            uint64_t seed = 1, old;
            struct vshard_index *x;
            int rc;

            fault_alloc_init(&memory);
            x = fill_kind(k, fault_storage_hook(fs), &memory.hook, &seed);
            save_changes(x);
            old = digest_of(x);
            add_drawn(x, k, &seed, 1000000, 2);
            memory.failures = 0;
            fault_alloc_fail(&memory, fail, how);
            rc = vshard_index_save_changes(x, path);
            fault_alloc_fail(&memory, 0, FAULT_ONCE);
            struck = memory.failures > 0;
            cr_assert(rc == 0 || (struck && rc == VSHARD_ENOMEM));
            expect_file(fs, rc == 0 ? digest_of(x) : old, "without memory");
            add_drawn(x, k, &seed, 1000001, 2);
            save_changes(x);
            expect_file(fs, digest_of(x), "with memory again");
            if (!struck)
                cr_expect_eq(head_of(fs).count, 3);
            vshard_index_destroy(x);
            cr_expect_null(fault_alloc_verdict(&memory), "%s", fault_alloc_verdict(&memory));
            fault_alloc_fini(&memory);
            fault_storage_destroy(fs);
        }
    }
    cr_expect(runs > 12);
}

static int open_once(const struct vshard_allocator *memory, void *arg)
{
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .allocator = memory,
                                         .storage = fault_storage_hook(arg) };
        struct vshard_index *x;
        int rc = vshard_index_open(path, &o, &x);

        cr_assert((rc == 0) == (x != NULL));
        vshard_index_destroy(x);
        if (rc < 0)
            return rc;
    }
    return 0;
}

Test(index_generation, opening_without_memory_leaves_nothing)
{
    for (size_t k = 0; k < VS_COUNT(small_kinds); k++) {
        struct the_files f;
        char why[200];

        begin(&f, &small_kinds[k]);
        cr_expect(fault_alloc_try_each(open_once, f.fs, why, sizeof why) > 10, "%s", why);
        end(&f);
    }
}

Test(index_generation, opening_when_storage_fails_leaves_nothing)
{
    for (uint32_t way = 0; way < 4; way++) {
        struct the_files f;
        uint64_t struck = 1, k = 1;

        begin(&f, &small_kinds[1]);
        for (; struck > 0; k++) {
            struct fault_rule rule = { .k = k, .how = way / 2 };
            struct vshard_index *x;
            uint64_t before = fault_storage_struck(f.fs);
            int rc;

            fault_storage_rule(f.fs, &rule);
            rc = open_at(f.fs, way & 1, &x);
            struck = fault_storage_struck(f.fs) - before;
            fault_storage_heal(f.fs);
            cr_assert((rc == 0) == (x != NULL));
            cr_assert(rc == 0 || (struck > 0 && rc == VSHARD_EIO), "%s", vshard_strerror(rc));
            cr_assert(rc < 0 || digest_of(x) == f.digest);
            vshard_index_destroy(x);
        }
        cr_expect(k > 10);
        fault_storage_destroy(f.fs); /* unmapping has failed, too */
    }
}

Test(index_generation, stats_count_what_it_takes)
{
    struct the_files f;
    struct fault_alloc memory;

    begin(&f, &small_kinds[1]);
    fault_alloc_init(&memory);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .allocator = &memory.hook,
                                         .storage = fault_storage_hook(f.fs) };
        struct vshard_index_stats s = { .size = sizeof s };
        struct vshard_index *x;

        cr_assert_eq(vshard_index_open(path, &o, &x), 0);
        cr_assert_eq(vshard_index_stats(x, &s), 0);
        cr_expect_eq(s.heap_bytes, memory.bytes, "flags %u: %llu, and %llu", flags,
                     (unsigned long long)s.heap_bytes, (unsigned long long)memory.bytes);
        vshard_index_destroy(x);
    }
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    end(&f);
}
