/* index_file.c - a file opens as what was saved, or not at all.
 *
 * Method: small files of every kind lie in storage that is memory. Each is flipped at
 * every byte that a checksum covers (of the longest files, at some of them), has all bytes between
 * the sections changed, and is cut at every length, and damaged by chance (damage.h); each is
 * opened copied and mapped, searched, fetched and checked, and must give a status or the answers of
 * the undamaged file. A forger makes all checksums right again (index_file.h) after changing each
 * field of the header, chains, ids, entries, edges and codes: no crash, no endless loop, no bad
 * state, also when the opened index is then written to. A save is cut short at each of its storage
 * calls and the disk left in many states: the old file or the new one, whole. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/damage.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/index_file.h"
#include "support/seeds.h"

enum { DIM_MAX = 257, QUERIES = 3, K = 6, ROWS_MAX = 340 };

static const char path[] = "/i";

/* ---- files of every kind ---- */

static const struct kind {
    const char *name;
    uint32_t dim, family, metric, element, rows, removed, replaced;
    uint32_t budget, late;   /* of the repair, and rows removed after it */
    uint32_t profile, asked; /* asked: calibrated by so many rows */
    uint32_t attributes;
} kinds[] = {
    { "empty", 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 },
    { "flat", 3, 1, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0 },
    { "flat with free rows", 3, 1, 2, 1, 30, 7, 3, 0, 0, 0, 0, 0 },
    { "not trained", 3, 0, 1, 2, 40, 5, 0, 0, 0, 0, 0, 0 },
    { "graph on codes", 3, 0, 2, 0, 260, 0, 0, 0, 0, 0, 0, 0 },
    { "graph on bytes", 3, 0, 0, 1, 260, 5, 0, 0, 0, 0, 0, 0 },
    { "graph, ip, repaired", 3, 0, 1, 0, 280, 20, 10, 1000, 2, 0, 0, 0 },
    { "graph in the midst of a repair", 3, 0, 0, 2, 320, 30, 10, 20, 1, 0, 0, 0 },
    { "graph with sketches that have axes", 257, 0, 2, 0, 260, 9, 0, 0, 0, 0, 0, 0 },
    { "flat, half floats under l1", 3, 1, 3, 3, 30, 4, 2, 0, 0, 0, 0, 0 },
    { "graph on bits", 3, 0, 4, 4, 257, 1, 0, 0, 0, 0, 0, 0 },
    { "graph with sketches", 66, 0, 0, 0, 260, 9, 0, 0, 0, 0, 0, 0 },
    { "graph with sketches of bytes", 129, 0, 0, 2, 260, 9, 0, 0, 0, 0, 0, 0 },
    { "not trained, lean", 3, 0, 2, 0, 40, 5, 0, 0, 0, 1, 0, 0 },
    { "lean graph", 5, 0, 2, 0, 260, 9, 4, 0, 0, 1, 40, 0 },
    { "lean graph of half floats with sketches", 66, 0, 0, 3, 260, 9, 0, 0, 0, 1, 0, 0 },
    { "graph, ip, calibrated", 3, 0, 1, 0, 260, 9, 0, 0, 0, 0, 300, 0 },
    { "flat with attributes", 3, 1, 2, 1, 30, 7, 3, 0, 0, 0, 0, 3 },
    { "empty, with attributes", 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 },
    { "graph with attributes", 3, 0, 0, 1, 260, 25, 5, 1000, 2, 0, 0, 3 },
};

enum { PLAIN_KINDS = 17 }; /* those without attributes come first */

static struct vshard_attribute some_attributes[] = {
    { VSHARD_ATTRIBUTE_INT64, "year" },
    { VSHARD_ATTRIBUTE_DOUBLE, "price" },
    { VSHARD_ATTRIBUTE_KEYWORD, "lang" },
};

enum { WORD = 12 }; /* bytes of a place for a keyword */

static struct vshard_index_options options_of(const struct kind *kind)
{
    struct vshard_index_options o = small_options(kind->dim, kind->metric, kind->element);

    o.family = kind->family;
    o.m = 4;
    o.ef_construction = 16;
    o.ef_search = 16;
    o.profile = kind->profile;
    o.attributes = some_attributes;
    o.attribute_count = kind->attributes;
    return o;
}

enum { SKETCHED = 257, DIRECTIONS = 24 };

/* Cosine refuses zero vectors, which bytes may be. Sketches along axes serve rows that differ in
 * few directions. */
static void *some_vectors(const struct kind *kind, uint64_t seed, size_t count)
{
    unsigned char *v = draw_vectors(&seed, kind->element, count, kind->dim);
    float *floats = (float *)(void *)v;

    for (size_t i = 0; kind->dim == SKETCHED && i < count * SKETCHED; i++)
        floats[i] = floats[i - i % SKETCHED / DIRECTIONS * DIRECTIONS];
    for (size_t i = 0; kind->element != VSHARD_ELEMENT_F32 && i < count * kind->dim; i++)
        v[i] |= 1;
    return v;
}

/* Adds rows with values of which some are missing, some frequent and some rare. */
static int add_valued(struct vshard_index *x, const struct kind *kind, const uint64_t *ids,
                      const void *v, uint32_t count)
{
    static int64_t years[ROWS_MAX];
    static double prices[ROWS_MAX];
    static char words[ROWS_MAX][WORD];
    const struct vshard_values values[] = { { years, 0 }, { prices, 8 }, { words, WORD } };
    struct vshard_add_options o = { .size = sizeof o,
                                    .value_count = kind->attributes,
                                    .values = values };

    memset(words, 0, sizeof words);
    for (uint32_t i = 0; i < count; i++) {
        years[i] = i % 11 == 3 ? VSHARD_MISSING : 1990 + i % 30;
        prices[i] = i % 13 == 5 ? NAN : i * -0.5;
        if (i % 7 != 2)
            snprintf(words[i], WORD, i % 3 ? "word%u" : "id%08u", i % 5 * 1000 + i % 3 * i);
    }
    return vshard_index_add_with(x, ids, v, count, &o);
}

static struct vshard_index *make_kind(const struct kind *kind, const struct vshard_storage *storage)
{
    struct vshard_index_options o = options_of(kind);
    uint64_t *ids = number_ids(100, ROWS_MAX);
    void *v = some_vectors(kind, 1, ROWS_MAX);
    struct vshard_index *x;

    o.storage = storage;
    x = make_index(&o);
    cr_assert_eq(add_valued(x, kind, ids, v, kind->rows), 0);
    remove_rows(x, ids, kind->removed);
    cr_assert_eq(add_valued(x, kind, ids + kind->removed, v, kind->replaced), 0);
    if (kind->budget > 0)
        cr_assert_eq(vshard_index_maintain(x, kind->budget, NULL), 0);
    remove_rows(x, ids + 250, kind->late); /* one row moves the pass on by 256 */
    if (kind->asked > 0)
        cr_assert_eq(vshard_index_calibrate(x, NULL, kind->asked), 0);
    free(v);
    free(ids);
    return x;
}

/* ---- what an index answers ---- */

struct answers {
    uint64_t count;
    struct vshard_hit graph[QUERIES * K], exact[QUERIES * K];
    unsigned char vectors[ROWS_MAX * 4 * DIM_MAX]; /* the kind's dimension is used */
    uint8_t found[ROWS_MAX];
    int64_t years[ROWS_MAX];
    double prices[ROWS_MAX];
    char words[ROWS_MAX][WORD];
    struct vshard_hit filtered[QUERIES * K];
};

/* Searches among the rows whose year is none of the first, and fetches all values. */
static int ask_values(struct vshard_index *x, const struct kind *kind, const void *queries,
                      const uint64_t *ids, struct answers *a)
{
    const struct vshard_values values[] = { { a->years, 0 }, { a->prices, 0 }, { a->words, WORD } };
    static const int64_t from = 2005;
    const struct vshard_condition late = {
        VSHARD_WHERE_GE, 0, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &from
    };
    unsigned char where[32];
    struct vshard_filter f = { .size = sizeof f, .kind = VSHARD_FILTER_WHERE, .where = where };
    struct vshard_search_options o = { .size = sizeof o, .filter = &f };
    int rc;

    cr_assert_eq(vshard_where_encode(&late, 1, where, sizeof where, &f.where_bytes), 0);
    rc = vshard_index_search(x, queries, QUERIES, K, a->filtered, &o);
    if (rc == 0)
        rc = vshard_index_fetch_values(x, ids, ROWS_MAX, values, kind->attributes, a->found);
    return rc == VSHARD_ENOTFOUND ? 0 : rc;
}

/* Asks everything. The first status that is not 0, or else the answers. */
static int ask(struct vshard_index *x, const struct kind *kind, struct answers *a)
{
    static uint64_t ids[ROWS_MAX];
    struct vshard_search_options exact = { .size = sizeof exact, .flags = VSHARD_SEARCH_EXACT };
    void *queries = some_vectors(kind, 2, QUERIES);
    int rc = vshard_index_search(x, queries, QUERIES, K, a->graph, NULL);

    memset(a->years, 0, sizeof a->years);
    memset(a->prices, 0, sizeof a->prices);
    memset(a->words, 0, sizeof a->words);
    memset(a->filtered, 0, sizeof a->filtered);
    for (uint32_t i = 0; i < ROWS_MAX; i++)
        ids[i] = 100 + i;
    if (rc == 0)
        rc = vshard_index_search(x, queries, QUERIES, K, a->exact, &exact);
    if (rc == 0) {
        memset(a->vectors, 0, (size_t)ROWS_MAX * 4 * kind->dim);
        rc = vshard_index_fetch(x, ids, ROWS_MAX, a->vectors, a->found);
        rc = rc == VSHARD_ENOTFOUND ? 0 : rc;
    }
    if (rc == 0 && kind->attributes > 0)
        rc = ask_values(x, kind, queries, ids, a);
    a->count = vshard_index_count(x);
    free(queries);
    return rc;
}

static bool same(const struct answers *a, const struct answers *b, const struct kind *kind)
{
    return a->count == b->count && memcmp(a->graph, b->graph, sizeof a->graph) == 0 &&
           memcmp(a->exact, b->exact, sizeof a->exact) == 0 &&
           memcmp(a->vectors, b->vectors, (size_t)ROWS_MAX * 4 * kind->dim) == 0 &&
           memcmp(a->found, b->found, sizeof a->found) == 0 &&
           memcmp(a->filtered, b->filtered, sizeof a->filtered) == 0 &&
           memcmp(a->years, b->years, sizeof a->years) == 0 &&
           memcmp(a->prices, b->prices, sizeof a->prices) == 0 &&
           memcmp(a->words, b->words, sizeof a->words) == 0;
}

static int open_index(struct fault_storage *fs, uint32_t flags, struct vshard_index **x)
{
    struct vshard_open_options o = { .size = sizeof o,
                                     .flags = flags,
                                     .storage = fault_storage_hook(fs) };
    int rc = vshard_index_open(path, &o, x);

    cr_assert((rc == 0) == (*x != NULL), "a status and an index, or neither");
    return rc;
}

/* ---- a file of one kind, and the answers it must give ---- */

struct the_file {
    const struct kind *kind;
    struct fault_storage *fs;
    struct file_layout layout;
    unsigned char *bytes;
    size_t count;
    struct answers good;
    uint64_t digest;
};

static void begin(struct the_file *f, const struct kind *kind)
{
    struct vshard_index *x;
    const void *bytes;

    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->fs = fault_storage_create(1);
    x = make_kind(kind, fault_storage_hook(f->fs));
    cr_assert_eq(vshard_index_save(x, path), 0);
    cr_assert_eq(ask(x, kind, &f->good), 0);
    f->digest = digest_of(x);
    vshard_index_destroy(x);
    bytes = fault_storage_bytes(f->fs, path, &f->count);
    f->bytes = malloc(f->count);
    memcpy(f->bytes, bytes, f->count);
    file_layout(f->bytes, &f->layout);
    cr_assert_eq(f->layout.end, f->count, "%s: not as the manual draws it", kind->name);
}

static void end(struct the_file *f)
{
    cr_expect_null(fault_storage_verdict(f->fs), "%s: %s", f->kind->name,
                   fault_storage_verdict(f->fs));
    fault_storage_destroy(f->fs);
    free(f->bytes);
}

Test(index_file, opens_both_ways_as_what_was_saved)
{
    for (size_t i = 0; i < VS_COUNT(kinds); i++) {
        static struct the_file f;

        begin(&f, &kinds[i]);
        cr_assert_eq(vs_load64(f.bytes + 504), f.digest, "the digest is the header's checksum");
        for (uint32_t flags = 0; flags < 2; flags++) {
            struct vshard_index_stats s = { .size = sizeof s };
            static struct answers a;
            struct vshard_index *x;

            cr_assert_eq(open_index(f.fs, flags, &x), 0, "%s", kinds[i].name);
            cr_assert_eq(digest_of(x), f.digest, "%s", kinds[i].name);
            cr_assert_eq(ask(x, f.kind, &a), 0);
            cr_assert(same(&a, &f.good, f.kind), "%s, flags %u: other answers", kinds[i].name,
                      flags);
            expect_clean(x, kinds[i].name);
            cr_assert_eq(vshard_index_stats(x, &s), 0);
            cr_expect_eq(s.mapped, flags);
            cr_expect_eq(s.mapped_bytes, flags ? f.count : 0);
            cr_assert_eq(vshard_index_save(x, "/j"), 0, "a mapped index can be saved too");
            vshard_index_destroy(x);
            cr_assert_eq(memcmp(fault_storage_bytes(f.fs, "/j", &(size_t){ 0 }), f.bytes, f.count),
                         0, "%s: saved again, the bytes are others", kinds[i].name);
        }
        end(&f);
    }
}

Test(index_file, the_kinds_are_what_they_say)
{
    uint32_t trained = 0, active = 0, removed = 0, with_free = 0, codes = 0, sketches = 0;

    for (size_t i = 0; i < PLAIN_KINDS; i++) {
        static struct the_file f;

        begin(&f, &kinds[i]);
        trained += vs_load32(f.bytes + 56);
        active += vs_load32(f.bytes + 108);
        removed += vs_load64(f.bytes + 80) > 0;
        with_free += vs_load64(f.bytes + 88) > 0;
        codes += f.layout.stride[2] > 0;
        sketches += f.layout.stride[3] > 0;
        if (vs_load32(f.bytes + 108))
            cr_expect(vs_load32(f.bytes + 100) != VS_SLOT_NONE &&
                          vs_load32(f.bytes + 104) != VS_SLOT_NONE,
                      "rows removed before and during the pass");
        end(&f);
    }
    cr_expect(trained == 11 && active == 1 && removed == 10 && with_free >= 3 && codes == 7 &&
                  sketches == 4,
              "%u %u %u %u %u %u", trained, active, removed, with_free, codes, sketches);
}

/* ---- damage ---- */

/* Opens the file that lies there and asks it everything. With `must_see`, copied it
 * must not open, and mapped the check must find the damage. */
static void expect_status_or_same(struct the_file *f, bool must_see, const char *what,
                                  uint64_t where)
{
    static struct answers a;

    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_index *x;
        int rc = open_index(f->fs, flags, &x);

        if (rc < 0) {
            cr_assert(must_see && rc == VSHARD_ECORRUPT, "%s, %s %llu, flags %u: open says %s",
                      f->kind->name, what, (unsigned long long)where, flags, vshard_strerror(rc));
            continue;
        }
        cr_assert(!must_see || flags == VSHARD_OPEN_MAPPED, "%s, %s %llu: it opened", f->kind->name,
                  what, (unsigned long long)where);
        rc = ask(x, f->kind, &a);
        cr_assert(rc == 0 || (must_see && rc == VSHARD_ECORRUPT), "%s, %s %llu, flags %u: %s",
                  f->kind->name, what, (unsigned long long)where, flags, vshard_strerror(rc));
        cr_assert(rc < 0 || same(&a, &f->good, f->kind), "%s, %s %llu, flags %u: other answers",
                  f->kind->name, what, (unsigned long long)where, flags);
        cr_assert_eq(vshard_index_check(x, NULL), must_see ? VSHARD_ECORRUPT : 0,
                     "%s, %s %llu, flags %u: check", f->kind->name, what, (unsigned long long)where,
                     flags);
        vshard_index_destroy(x);
    }
}

/* Of the sections from `first` to `last`, only every `step`-th byte. */
static void flip_every_byte(const struct kind *kind, uint64_t step, int first, int last)
{
    static struct the_file f;
    uint64_t flips = 0;

    begin(&f, kind);
    for (uint64_t at = 0; at < f.count; at++) {
        bool covered = file_covers(&f.layout, at);
        uint64_t bit = 8 * at + (at * 5 + at / 8) % 8;

        if (!covered && at % 509 != 0)
            continue;
        if (at % step != 0 && at >= f.layout.at[first] && at < f.layout.at[last])
            continue;
        fault_storage_flip(f.fs, path, bit);
        expect_status_or_same(&f, covered, "flipped byte", at);
        fault_storage_flip(f.fs, path, bit);
        flips++;
    }
    printf("index_file: %s, %llu flips\n", kind->name, (unsigned long long)flips);
    end(&f);
}

static int request(struct fault_storage *fs, struct vshard_io io, uint64_t *file)
{
    const struct vshard_storage *hook = fault_storage_hook(fs);

    hook->submit(hook->ctx, &io);
    hook->wait(hook->ctx, &io);
    *file = io.op == VSHARD_IO_OPEN ? io.file : *file;
    return io.status;
}

/* Every length, the longest first; of a long file, those near the ends of pages. */
static void cut_at_every_length(const struct kind *kind)
{
    static struct the_file f;
    uint64_t file;

    begin(&f, kind);
    cr_assert_eq(request(f.fs,
                         (struct vshard_io){
                             .op = VSHARD_IO_OPEN, .path = path, .flags = VSHARD_IO_OPEN_WRITE },
                         &file),
                 0);
    expect_status_or_same(&f, false, "uncut at", f.count);
    for (size_t n = f.count; n-- > 0;) {
        if (kind->dim > 100 && n > 600 && (n + 100) % 4096 > 200)
            continue;
        cr_assert_eq(
            request(f.fs, (struct vshard_io){ .op = VSHARD_IO_RESIZE, .file = file, .offset = n },
                    &file),
            0);
        cr_assert_eq(request(f.fs, (struct vshard_io){ .op = VSHARD_IO_SYNC, .file = file }, &file),
                     0);
        expect_status_or_same(&f, true, "cut at", n);
    }
    cr_assert_eq(request(f.fs, (struct vshard_io){ .op = VSHARD_IO_CLOSE, .file = file }, &file),
                 0);
    end(&f);
}

Test(index_file, no_flipped_byte_changes_an_answer_of_a_small_file)
{
    for (size_t i = 0; i < 4; i++)
        flip_every_byte(&kinds[i], 1, 5, 6);
}

Test(index_file, no_flipped_byte_changes_an_answer_where_there_are_attributes, .timeout = 600)
{
    flip_every_byte(&kinds[PLAIN_KINDS], 1, 5, 6);
    flip_every_byte(&kinds[PLAIN_KINDS + 1], 1, 5, 6);
    flip_every_byte(&kinds[PLAIN_KINDS + 2], 7, 0, 16);
}

Test(index_file, no_flipped_byte_changes_an_answer_of_a_graph_on_codes)
{
    flip_every_byte(&kinds[4], 1, 5, 6);
}

Test(index_file, no_flipped_byte_changes_an_answer_of_a_graph_on_bytes)
{
    flip_every_byte(&kinds[5], 1, 5, 6);
}

Test(index_file, no_flipped_byte_changes_an_answer_of_a_repaired_graph)
{
    flip_every_byte(&kinds[6], 13, 5, 6);
}

Test(index_file, no_flipped_byte_changes_an_answer_in_the_midst_of_a_repair)
{
    flip_every_byte(&kinds[7], 1, 5, 6);
}

Test(index_file, no_flipped_byte_changes_an_answer_of_a_graph_with_sketches)
{
    flip_every_byte(&kinds[8], 1009, 0, 7);
    flip_every_byte(&kinds[11], 401, 0, 7);
    flip_every_byte(&kinds[12], 401, 0, 7);
}

Test(index_file, a_file_cut_at_any_length_does_not_open)
{
    for (size_t i = 0; i < VS_COUNT(kinds); i++)
        cut_at_every_length(&kinds[i]);
}

/* Saves the index once more after one row was replaced: a file that differs in few places. */
static unsigned char *earlier_file(struct the_file *f, size_t *count)
{
    uint64_t id = 100 + f->kind->removed;
    void *v = some_vectors(f->kind, 9, 1);
    struct vshard_open_options o = { .size = sizeof o, .storage = fault_storage_hook(f->fs) };
    struct vshard_index *x;
    unsigned char *out;

    cr_assert_eq(vshard_index_open(path, &o, &x), 0);
    if (f->kind->rows > 0)
        cr_assert_eq(add_valued(x, f->kind, &id, v, 1), 0);
    cr_assert_eq(vshard_index_save(x, "/earlier"), 0);
    vshard_index_destroy(x);
    fault_storage_bytes(f->fs, "/earlier", count);
    out = malloc(*count);
    memcpy(out, fault_storage_bytes(f->fs, "/earlier", count), *count);
    free(v);
    return out;
}

/* Whether a checksum, or the length, must tell that these bytes are not those of a file that was
 * saved. */
static bool differs(const struct the_file *f, const unsigned char *bytes, size_t count,
                    const unsigned char *saved, size_t saved_count)
{
    for (size_t i = 0; count == saved_count && i < count; i++) {
        if (bytes[i] != saved[i] && file_covers(&f->layout, i))
            return true;
    }
    return count != saved_count;
}

enum { DAMAGES = 100 };

/* A hundred damages of one file for each seed. */
Test(index_file, random_damage_is_seen_or_does_no_harm_for_each_seed, .timeout = 600)
{
    uint64_t seen = 0, all = 0;

    for (uint64_t seed = seeds_first(); seed < seeds_end(VS_COUNT(kinds)); seed++) {
        static struct the_file f;
        uint64_t draw = seed;
        unsigned char *bad, *other;
        size_t other_count, count;

        begin(&f, &kinds[seed % VS_COUNT(kinds)]);
        other = earlier_file(&f, &other_count);
        bad = malloc(f.count);
        for (int i = 0; i < DAMAGES; i++, all++) {
            bool must_see;

            memcpy(bad, f.bytes, f.count);
            count = damage_file(&draw, bad, f.count, other, other_count);
            must_see = differs(&f, bad, count, f.bytes, f.count);
            if (must_see && !differs(&f, bad, count, other, other_count))
                continue; /* all of the other */
            seen += must_see;
            fault_storage_put(f.fs, path, bad, count);
            expect_status_or_same(&f, must_see, "damage by seed", seed);
        }
        free(bad);
        free(other);
        end(&f);
    }
    printf("index_file: %llu damages, %llu of them to what is summed\n", (unsigned long long)all,
           (unsigned long long)seen);
}

Test(index_file, bytes_between_sections_do_not_matter)
{
    for (size_t i = 0; i < VS_COUNT(kinds); i++) {
        static struct the_file f;

        begin(&f, &kinds[i]);
        for (uint64_t at = 0; at < f.count; at++) {
            if (!file_covers(&f.layout, at))
                f.bytes[at] = (unsigned char)~f.bytes[at];
        }
        fault_storage_put(f.fs, path, f.bytes, f.count);
        expect_status_or_same(&f, false, "all padding", 0);
        end(&f);
    }
}

Test(index_file, a_file_with_something_behind_it_does_not_open)
{
    static struct the_file f;

    begin(&f, &kinds[4]);
    f.bytes = realloc(f.bytes, f.count + 4096);
    memset(f.bytes + f.count, 0, 4096);
    for (size_t more = 1; more <= 4096; more += 819) {
        fault_storage_put(f.fs, path, f.bytes, f.count + more);
        expect_status_or_same(&f, true, "longer by", more);
    }
    end(&f);
}

/* ---- forgery ---- */

/* Lives through everything that can be done with an index; results may be anything. */
static void exercise(struct vshard_index *x, const struct kind *kind, uint32_t flags)
{
    static struct answers a;
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index_check c = { .size = sizeof c };
    uint64_t *ids = number_ids(90, ROWS_MAX), digest;
    void *v = some_vectors(kind, 3, ROWS_MAX);

    ask(x, kind, &a);
    vshard_index_stats(x, &s);
    vshard_index_check(x, &c);
    vshard_index_digest(x, &digest);
    if (s.dim == kind->dim && s.element == kind->element && !(flags & VSHARD_OPEN_MAPPED)) {
        int rc = vshard_index_add(x, ids, v, 20);

        cr_assert(rc == 0 || rc == VSHARD_EINVAL || rc == VSHARD_ENOMEM, "%s", vshard_strerror(rc));
        vshard_index_remove(x, ids + 10, 30, NULL);
        vshard_index_maintain(x, 100, NULL);
        vshard_index_add(x, ids, v, ROWS_MAX);
        if (kind->attributes > 0 && s.attribute_count == kind->attributes)
            add_valued(x, kind, ids, v, ROWS_MAX);
        vshard_index_remove(x, ids, ROWS_MAX / 2, NULL);
        vshard_index_maintain(x, 0, NULL);
        ask(x, kind, &a);
        vshard_index_save(x, "/k");
    }
    free(v);
    free(ids);
}

static uint32_t try_forgery(struct the_file *f, const unsigned char *bytes)
{
    uint32_t opened = 0;

    fault_storage_put(f->fs, path, bytes, f->count);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_index *x;
        int rc = open_index(f->fs, flags, &x);

        cr_assert(rc == 0 || rc == VSHARD_ECORRUPT || rc == VSHARD_EVERSION, "%s: %s",
                  f->kind->name, vshard_strerror(rc));
        if (rc < 0)
            continue;
        opened++;
        /* Other dimensions or elements would be read past the test's arrays. */
        if (vs_load32(bytes + 16) == f->kind->dim && vs_load32(bytes + 28) == f->kind->element)
            exercise(x, f->kind, flags);
        vshard_index_destroy(x);
    }
    return opened;
}

static const uint32_t odd_values[] = { 0,          1,          2,          3,          4,
                                       5,          31,         255,        256,        257,
                                       300,        1000,       65535,      65536,      65537,
                                       0x7f800000, 0x7fc00000, 0x7ffffffe, 0x7fffffff, 0x80000000,
                                       0xff800000, 0xfffffffe, 0xffffffff };

static void forge_each_field(const struct kind *kind)
{
    static struct the_file f;
    unsigned char *forged;

    begin(&f, kind);
    forged = malloc(f.count);
    for (uint32_t at = 8; at < FILE_HEADER + 64; at += 4) {
        if (at == 168) /* the calibration */
            at = 404;
        if (at == 440 || (at == 404 && kind->attributes == 0))
            at = kind->attributes ? FILE_HEADER : FILE_HEADER + 64;
        for (uint32_t i = 0; i<VS_COUNT(odd_values) + 4; i += kind->dim> 100 ? 5 : 1) {
            uint32_t value = i < VS_COUNT(odd_values) ? odd_values[i]
                                                      : vs_load32(f.bytes + at) +
                                                            (uint32_t[]){ 1, -1u, 64, -64u }[i % 4];

            memcpy(forged, f.bytes, f.count);
            vs_store32(forged + at, value);
            file_reseal(forged, f.count);
            try_forgery(&f, forged);
        }
    }
    free(forged);
    end(&f);
}

Test(index_file, no_forged_header_does_harm, .timeout = 600)
{
    for (size_t i = 0; i < VS_COUNT(kinds); i++)
        forge_each_field(&kinds[i]);
}

/* One to four words anywhere in the sections, checksums made right. */
Test(index_file, no_forged_section_does_harm, .timeout = 600)
{
    uint32_t opened = 0, tried = 0;

    for (size_t i = 0; i < VS_COUNT(kinds); i++) {
        static struct the_file f;
        unsigned char *forged;
        uint64_t seed = 500 + i;

        printf("index_file: forging sections of %s, seed %llu\n", kinds[i].name,
               (unsigned long long)seed);
        begin(&f, &kinds[i]);
        forged = malloc(f.count);
        for (uint32_t n = 0; n < (kinds[i].dim > 100 ? 60 : 300); n++) {
            uint64_t edits = 1 + random_below(&seed, 4);

            memcpy(forged, f.bytes, f.count);
            for (uint64_t e = 0; e < edits; e++) {
                uint64_t section = random_below(&seed, FILE_SECTIONS), at;

                if (f.layout.bytes[section] < 4)
                    continue;
                at = f.layout.at[section] + random_below(&seed, f.layout.bytes[section] / 4) * 4;
                vs_store32(forged + at, random_one_in(&seed, 2)
                                            ? odd_values[random_below(&seed, VS_COUNT(odd_values))]
                                            : (uint32_t)random_below(&seed, f.layout.slots + 2));
            }
            file_reseal(forged, f.count);
            opened += try_forgery(&f, forged);
            tried += 2;
        }
        free(forged);
        end(&f);
    }
    cr_expect(opened > tried / 10 && opened < tried, "%u of %u opened: the forger is no good",
              opened, tried);
}

/* What open must refuse by name. */
static int open_forged(struct the_file *f, unsigned char *forged, uint32_t flags)
{
    struct vshard_index *x;
    int rc;

    file_reseal(forged, f->count);
    fault_storage_put(f->fs, path, forged, f->count);
    rc = open_index(f->fs, flags, &x);
    if (rc == 0)
        rc = vshard_index_check(x, NULL);
    vshard_index_destroy(x);
    return rc;
}

/* The k-th slot of a state, and its row in the file. */
static unsigned char *find_row(const struct the_file *f, unsigned char *forged, uint32_t state,
                               uint32_t k)
{
    for (uint64_t slot = 0; slot < f->layout.slots; slot++) {
        unsigned char *row = forged + f->layout.at[3] + 16 * slot;

        if (vs_load32(row + 12) == state && k-- == 0)
            return row;
    }
    cr_assert(0, "no such row");
    return NULL;
}

static void forge(struct the_file *f, unsigned char *forged, uint32_t what)
{
    unsigned char *row, *edges = forged + f->layout.at[7], *codes = forged + f->layout.at[5];

    memcpy(forged, f->bytes, f->count);
    switch (what) {
    case 0: /* an id twice */
        vs_store64(find_row(f, forged, VS_ROW_LIVE, 1),
                   vs_load64(find_row(f, forged, VS_ROW_LIVE, 5)));
        break;
    case 1: vs_store64(find_row(f, forged, VS_ROW_LIVE, 3), VSHARD_ID_NONE); break;
    case 2: /* a chain that bites its tail */
        row = find_row(f, forged, VS_ROW_FREE, 0);
        vs_store64(row, (uint64_t)(row - forged - f->layout.at[3]) / 16);
        break;
    case 3: /* a chain into a live row */
        row = find_row(f, forged, VS_ROW_LIVE, 0);
        vs_store64(find_row(f, forged, VS_ROW_FREE, 0),
                   (uint64_t)(row - forged - f->layout.at[3]) / 16);
        break;
    case 4: vs_store64(find_row(f, forged, VS_ROW_FREE, 0), f->layout.slots); break;
    case 5: vs_store64(find_row(f, forged, VS_ROW_FREE, 0), 1ull << 32); break;
    case 6: vs_store32(find_row(f, forged, VS_ROW_LIVE, 0) + 12, 4); break;
    case 7: vs_store32(find_row(f, forged, VS_ROW_LIVE, 0) + 12, VS_ROW_FREE); break;
    case 8: vs_store32(find_row(f, forged, VS_ROW_LIVE, 0) + 8, 0x7f800000); break;
    case 9: vs_store32(forged + f->layout.at[1], (uint32_t)f->layout.slots); break;
    case 10: vs_store32(edges, (uint32_t)f->layout.slots); break;
    case 11: vs_store32(edges + f->layout.bytes[7] - 8 * f->layout.stride[4], 0xfffffffe); break;
    case 12: codes[0] |= 128; break;
    case 13: codes[f->layout.bytes[5] - 1] |= 128; break;
    case 14: vs_store32(forged + f->layout.at[0], 0x7fc00000); break;
    default: vs_store32(forged + 116, 0x7f800000); break;
    }
}

Test(index_file, what_no_index_holds_is_refused_though_its_checksums_are_right)
{
    static struct the_file f;
    unsigned char *forged;

    begin(&f, &kinds[6]);
    forged = malloc(f.count);
    memcpy(forged, f.bytes, f.count);
    for (uint32_t flags = 0; flags < 2; flags++) {
        cr_assert_eq(open_forged(&f, forged, flags), 0, "nothing forged");
        for (uint32_t what = 0; what < 16; what++) {
            int rc;

            forge(&f, forged, what);
            rc = open_forged(&f, forged, flags);
            cr_expect_eq(rc, VSHARD_ECORRUPT, "forgery %u, flags %u: %s", what, flags,
                         vshard_strerror(rc));
            memcpy(forged, f.bytes, f.count);
        }
    }
    free(forged);
    end(&f);
}

/* A pass that is not under way has no dying rows: maintain would wait for them. */
Test(index_file, dying_rows_without_a_pass_are_refused)
{
    static struct the_file f;

    begin(&f, &kinds[7]);
    vs_store32(f.bytes + 108, 0);
    for (uint32_t flags = 0; flags < 2; flags++)
        cr_expect_eq(open_forged(&f, f.bytes, flags), VSHARD_ECORRUPT, "flags %u", flags);
    end(&f);
}

/* With train_rows rows there is a graph: training later would not expect more. */
Test(index_file, more_rows_than_train_rows_and_no_graph_are_refused)
{
    struct vshard_index_options o = small_options(3, 0, 0);
    struct fault_storage *fs = fault_storage_create(1);
    static struct the_file f;
    uint64_t *ids = number_ids(0, 1000), seed = 1;
    void *v = draw_vectors(&seed, 0, 1000, 3);
    struct vshard_index *x;

    f.kind = &kinds[1];
    f.fs = fs;
    o.train_rows = 2000;
    o.storage = fault_storage_hook(fs);
    x = make_index(&o);
    add_rows(x, ids, v, 1000);
    cr_assert_eq(vshard_index_save(x, path), 0);
    vshard_index_destroy(x);
    fault_storage_bytes(fs, path, &f.count);
    f.bytes = malloc(f.count);
    memcpy(f.bytes, fault_storage_bytes(fs, path, &f.count), f.count);
    cr_expect_eq(open_forged(&f, f.bytes, 0), 0);
    vs_store32(f.bytes + 44, 256);
    for (uint32_t flags = 0; flags < 2; flags++)
        cr_expect_eq(open_forged(&f, f.bytes, flags), VSHARD_ECORRUPT, "flags %u", flags);
    end(&f);
    free(v);
    free(ids);
}

Test(index_file, a_newer_format_is_told_apart_from_damage)
{
    static struct the_file f;
    struct vshard_index *x;

    begin(&f, &kinds[4]);
    vs_store32(f.bytes + 8, 6);
    file_reseal(f.bytes, f.count);
    fault_storage_put(f.fs, path, f.bytes, f.count);
    for (uint32_t flags = 0; flags < 2; flags++)
        cr_expect_eq(open_index(f.fs, flags, &x), VSHARD_EVERSION);
    end(&f);
}

/* Version 4 says that there could be sketches, and that they do not serve. */
Test(index_file, a_graph_without_sketches_must_be_one_that_could_have_them)
{
    for (size_t i = 0; i < PLAIN_KINDS; i++) {
        static struct the_file f;

        begin(&f, &kinds[i]);
        vs_store32(f.bytes + 8, 4);
        for (uint32_t flags = 0; flags < 2; flags++)
            cr_expect_eq(open_forged(&f, f.bytes, flags), VSHARD_ECORRUPT, "%s, flags %u",
                         kinds[i].name, flags);
        end(&f);
    }
}

/* ---- a save that is cut short ---- */

/* Opens what a crash left and returns its digest; that it checks clean is part of it. */
static uint64_t digest_left(struct fault_storage *fs)
{
    struct vshard_index *x;
    uint64_t digest;
    int rc = open_index(fs, 0, &x);

    cr_assert_eq(rc, 0, "after a crash: %s", vshard_strerror(rc));
    expect_clean(x, "after a crash");
    digest = digest_of(x);
    vshard_index_destroy(x);
    return digest;
}

static void crash_at(const struct kind *old_kind, const struct kind *new_kind, uint64_t k,
                     uint64_t *calls)
{
    static const uint32_t flags[] = { 0, FAULT_CRASH_GARBAGE, FAULT_CRASH_LOSE, FAULT_CRASH_KEEP,
                                      FAULT_CRASH_EACH_NAME };
    struct fault_storage *fs = fault_storage_create(k + 1);
    struct vshard_index *x = make_kind(old_kind, fault_storage_hook(fs));
    uint64_t old = digest_of(x), new;
    int rc;

    cr_assert_eq(vshard_index_save(x, path), 0);
    vshard_index_destroy(x);
    x = make_kind(new_kind, fault_storage_hook(fs));
    new = digest_of(x);
    fault_storage_fail(fs, k, FAULT_FOREVER);
    rc = vshard_index_save(x, path);
    *calls = fault_storage_struck(fs);
    fault_storage_heal(fs);
    for (uint32_t i = 0; i < 4 * VS_COUNT(flags); i++) {
        struct fault_crash crash = { .seed = i, .flags = flags[i / 4] };
        struct fault_storage *after = fault_storage_after(fs, &crash);
        uint64_t left = digest_left(after);

        cr_assert(left == new || (left == old && rc < 0), "crash at call %llu, state %u: %s",
                  (unsigned long long)k, i, rc < 0 ? "neither file" : "not what was saved");
        fault_storage_destroy(after);
    }
    cr_assert_eq(vshard_index_save(x, path), 0, "leftovers disturb a later save");
    cr_assert_eq(digest_left(fs), new);
    vshard_index_destroy(x);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(index_file, a_save_cut_short_leaves_the_old_file_or_the_new)
{
    static const size_t pairs[][2] = { { 1, 4 }, { 4, 2 }, { 7, 6 } };

    for (size_t i = 0; i < VS_COUNT(pairs); i++) {
        uint64_t k = 1, struck = 1;

        for (; struck > 0; k++)
            crash_at(&kinds[pairs[i][0]], &kinds[pairs[i][1]], k, &struck);
        cr_expect(k > 8, "a save made %llu calls", (unsigned long long)k);
    }
}

Test(index_file, a_leftover_temporary_file_does_not_disturb)
{
    static struct the_file f;
    struct vshard_index *x;

    begin(&f, &kinds[4]);
    for (size_t n = 0; n < 300000; n += 99999) {
        unsigned char *rubbish = malloc(n + 1);

        memset(rubbish, 0xee, n + 1);
        fault_storage_put(f.fs, "/i.tmp", rubbish, n + 1);
        free(rubbish);
        expect_status_or_same(&f, false, "leftover", n);
        cr_assert_eq(open_index(f.fs, 0, &x), 0);
        cr_assert_eq(vshard_index_save(x, path), 0);
        vshard_index_destroy(x);
        expect_status_or_same(&f, false, "saved over leftover", n);
        cr_expect_null(fault_storage_bytes(f.fs, "/i.tmp", &(size_t){ 0 }));
    }
    end(&f);
}
