/* index_attribute.c - values come back as they were added, with their row and no other.
 *
 * Method: a model, an array of what each id has, goes through the same calls as indexes of
 * each kind: adds with all, some or no values, replacements, removals, repairs. After
 * each call all values are fetched, the index is checked, and the number of different
 * keywords compared; in between it is saved, and opened copied and mapped. Equal calls must
 * lead to equal digests whatever the executor. What is refused is refused by name, and
 * changes nothing. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 6, IDS = 700, WORD = 16, STEPS = 60 };

static struct vshard_attribute three[] = { { VSHARD_ATTRIBUTE_INT64, "year" },
                                           { VSHARD_ATTRIBUTE_KEYWORD, "lang" },
                                           { VSHARD_ATTRIBUTE_DOUBLE, "price" } };

struct row {
    bool there;
    int64_t year;
    double price;
    char lang[WORD];
};

struct stage {
    struct vshard_index *x;
    struct vshard_index *twin; /* sees the same calls, on three strands, and is never reopened */
    struct fault_storage *fs;
    struct seen seen;
    struct vshard_logger logger;
    struct row model[IDS];
    float *vectors;
    uint64_t seed;
};

static struct vshard_index_options options_of(struct stage *s, uint32_t family, uint32_t profile)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);

    o.family = family;
    o.profile = profile;
    o.attributes = three;
    o.attribute_count = VS_COUNT(three);
    o.storage = fault_storage_hook(s->fs);
    o.logger = &s->logger;
    return o;
}

static void begin(struct stage *s, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    s->seed = seed;
    s->fs = fault_storage_create(1);
    s->logger = seen_logger(&s->seen);
    s->vectors = draw_vectors(&s->seed, VSHARD_ELEMENT_F32, IDS, D);
}

static void end(struct stage *s)
{
    vshard_index_destroy(s->x);
    vshard_index_destroy(s->twin);
    cr_expect_null(fault_storage_verdict(s->fs));
    fault_storage_destroy(s->fs);
    free(s->vectors);
}

static void run_here(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    (void)ctx;
    for (uint32_t i = count; i-- > 0;)
        task(arg, i);
}

static const struct vshard_executor strands = { run_here, NULL, 3, 0 };

/* ---- the model ---- */

static void draw_row(uint64_t *seed, struct row *r)
{
    static const double odd[] = { 0.0, -0.0, INFINITY, -INFINITY, NAN, -NAN, 5e-324, -5e-324 };
    uint64_t rare = random_below(seed, 40);

    memset(r, 0, sizeof *r);
    r->there = true;
    r->year = random_one_in(seed, 9) ? VSHARD_MISSING : (int64_t)random_below(seed, 30) - 10;
    r->price = random_one_in(seed, 4) ? odd[random_below(seed, VS_COUNT(odd))]
                                      : (double)random_float(seed);
    if (random_one_in(seed, 3))
        snprintf(r->lang, WORD, "rare%llu", (unsigned long long)*seed % 100000);
    else if (rare > 5)
        snprintf(r->lang, WORD, "word%llu", (unsigned long long)rare);
}

static void expect_rows(struct stage *s, struct vshard_index *x, const char *when)
{
    static uint64_t ids[IDS];
    static int64_t years[IDS];
    static double prices[IDS];
    static char langs[IDS][WORD];
    static uint8_t found[IDS];
    const struct vshard_values values[] = { { years, 8 }, { langs, WORD }, { prices, 0 } };
    bool absent = false;
    int rc;

    for (uint64_t i = 0; i < IDS; i++) {
        ids[i] = i;
        absent = absent || !s->model[i].there;
    }
    rc = vshard_index_fetch_values(x, ids, IDS, values, 3, found);
    cr_assert_eq(rc, absent ? VSHARD_ENOTFOUND : 0, "%s: %s", when, vshard_strerror(rc));
    for (uint64_t i = 0; i < IDS; i++) {
        const struct row *r = &s->model[i];

        cr_assert_eq(found[i], r->there, "%s: id %llu", when, (unsigned long long)i);
        if (!r->there)
            continue;
        cr_assert_eq(years[i], r->year, "%s: id %llu", when, (unsigned long long)i);
        cr_assert_eq(memcmp(langs[i], r->lang, WORD), 0, "%s: id %llu: %s, not %s", when,
                     (unsigned long long)i, langs[i], r->lang);
        cr_assert(isnan(r->price) ? isnan(prices[i])
                                  : memcmp(&prices[i], &r->price, sizeof r->price) == 0,
                  "%s: id %llu: %g, not %g", when, (unsigned long long)i, prices[i], r->price);
    }
    expect_clean(x, when);
}

/* One call on the index and on the model. */
static void step(struct stage *s)
{
    static uint64_t ids[IDS];
    static float vectors[IDS * D];
    static int64_t years[IDS];
    static double prices[IDS];
    static char langs[IDS][WORD];
    uint64_t what = random_below(&s->seed, 10), count = random_below(&s->seed, IDS / 2), budget;
    bool with_year = random_below(&s->seed, 4) > 0, with_lang = random_below(&s->seed, 4) > 0;
    const struct vshard_values values[] = { { with_year ? years : NULL, 0 },
                                            { with_lang ? langs : NULL, WORD },
                                            { prices, 8 } };
    struct vshard_add_options o = { .size = sizeof o,
                                    .value_count = random_below(&s->seed, 4) ? 3 : 2,
                                    .values = values };

    memset(langs, 0, sizeof langs);
    for (uint64_t i = 0; i < count; i++) {
        struct row r;

        ids[i] = random_below(&s->seed, IDS);
        draw_row(&s->seed, &r);
        years[i] = r.year;
        prices[i] = r.price;
        memcpy(langs[i], r.lang, WORD);
        memcpy(vectors + i * D, s->vectors + random_below(&s->seed, IDS) * D, D * sizeof(float));
        if (what > 6) {
            s->model[ids[i]].there = what == 9 && s->model[ids[i]].there;
            continue;
        }
        r.year = with_year && what > 0 ? r.year : VSHARD_MISSING;
        r.price = o.value_count > 2 && what > 0 ? r.price : NAN;
        if (!with_lang || what == 0)
            memset(r.lang, 0, WORD);
        s->model[ids[i]] = r;
    }
    budget = random_below(&s->seed, 400);
    for (int i = 0; i < 2; i++) {
        struct vshard_index *x = i ? s->twin : s->x;

        if (what == 0)
            cr_assert_eq(vshard_index_add(x, ids, vectors, count), 0);
        else if (what <= 6)
            cr_assert_eq(vshard_index_add_with(x, ids, vectors, count, &o), 0);
        else if (what <= 8)
            cr_assert_eq(vshard_index_remove(x, ids, count, NULL), 0);
        else
            cr_assert_eq(vshard_index_maintain(x, budget, NULL), 0);
    }
    cr_assert_eq(digest_of(s->x), digest_of(s->twin), "equal calls, other digests");
}

/* No more different keywords than rows, removed ones too, can have; no row, none. */
static void expect_keywords_end(struct stage *s)
{
    struct vshard_index_stats stats = { .size = sizeof stats };
    uint64_t ids[IDS];

    for (uint64_t i = 0; i < IDS; i++)
        ids[i] = i;
    cr_assert_eq(vshard_index_remove(s->x, ids, IDS, NULL), 0);
    cr_assert_eq(vshard_index_maintain(s->x, 0, NULL), 0);
    cr_assert_eq(vshard_index_stats(s->x, &stats), 0);
    cr_expect_eq(stats.keyword_count, 0, "%u keywords without a row", stats.keyword_count);
    cr_expect_eq(stats.attribute_count, 3);
    cr_expect_gt(stats.attribute_bytes, 0);
    memset(s->model, 0, sizeof s->model);
    expect_rows(s, s->x, "empty");
}

static void reopen(struct stage *s, uint32_t flags)
{
    struct vshard_open_options o = { .size = sizeof o,
                                     .flags = flags,
                                     .storage = fault_storage_hook(s->fs) };
    struct vshard_index *y;
    struct vshard_attribute a;

    cr_assert_eq(vshard_index_save(s->x, "/i"), 0);
    cr_assert_eq(vshard_index_open("/i", &o, &y), 0);
    cr_assert_eq(digest_of(y), digest_of(s->x));
    expect_rows(s, y, flags ? "mapped" : "copied");
    for (size_t i = 0; i < VS_COUNT(three); i++) {
        cr_assert_eq(vshard_index_attribute(y, i, &a), 0);
        cr_assert_eq(memcmp(&a, &three[i], sizeof a), 0);
    }
    cr_assert_eq(vshard_index_attribute(y, VS_COUNT(three), &a), VSHARD_ENOTFOUND);
    if (flags & VSHARD_OPEN_MAPPED) {
        vshard_index_destroy(y);
        return;
    }
    vshard_index_destroy(s->x); /* and go on with what was opened */
    s->x = y;
}

Test(index_attribute, values_are_those_of_the_last_add_of_their_row, .timeout = 120)
{
    for (uint32_t at = 0; at < 4; at++) {
        static struct stage s;
        struct vshard_index_options o;
        uint64_t seed = 900 + at;

        printf("index_attribute: kind %u, seed %llu\n", at, (unsigned long long)seed);
        begin(&s, seed);
        o = options_of(&s, at / 2, at % 2);
        s.x = make_index(&o);
        o.executor = &strands;
        s.twin = make_index(&o);
        for (uint32_t i = 0; i < STEPS; i++) {
            step(&s);
            expect_rows(&s, s.x, "after a step");
            if (i % 16 == 15)
                reopen(&s, i % 32 == 31 ? VSHARD_OPEN_MAPPED : 0);
        }
        expect_keywords_end(&s);
        end(&s);
    }
}

/* ---- what is gone is gone ---- */

static bool holds_text(const void *bytes, size_t count, const char *text)
{
    const char *at = bytes;
    size_t length = strlen(text);

    for (size_t i = 0; i + length <= count; i++) {
        if (memcmp(at + i, text, length) == 0)
            return true;
    }
    return false;
}

Test(index_attribute, a_keyword_that_no_row_has_is_in_no_file)
{
    static const char kept[] = "kept-for-ever", gone[] = "gone-for-good";

    for (uint32_t family = 0; family < 2; family++) {
        static struct stage s;
        struct vshard_index_options o;
        struct vshard_values values[] = { { NULL, 0 }, { (void *)gone, sizeof gone } };
        struct vshard_add_options with = { .size = sizeof with,
                                           .value_count = 2,
                                           .values = values };
        uint64_t *ids = number_ids(0, IDS);
        const void *bytes;
        size_t count;

        begin(&s, 3);
        o = options_of(&s, family, 0);
        s.x = make_index(&o);
        add_rows(s.x, ids, s.vectors, IDS - 2);
        cr_assert_eq(vshard_index_add_with(s.x, ids + 690, s.vectors, 1, &with), 0);
        values[1].values = (void *)kept;
        cr_assert_eq(vshard_index_add_with(s.x, ids + 5, s.vectors, 1, &with), 0);
        cr_assert_eq(vshard_index_save(s.x, "/i"), 0);
        bytes = fault_storage_bytes(s.fs, "/i", &count);
        cr_expect(holds_text(bytes, count, gone) && holds_text(bytes, count, kept));
        remove_rows(s.x, ids + 690, 1);
        cr_assert_eq(vshard_index_maintain(s.x, 0, NULL), 0);
        cr_assert_eq(vshard_index_save(s.x, "/i"), 0);
        bytes = fault_storage_bytes(s.fs, "/i", &count);
        cr_expect(!holds_text(bytes, count, gone) && holds_text(bytes, count, kept));
        end(&s);
        free(ids);
    }
}

/* ---- keywords, many and long ---- */

Test(index_attribute, keywords_may_be_many_and_as_long_as_the_limit)
{
    enum { MANY = 5000 };
    static struct stage s;
    struct vshard_attribute tag = { VSHARD_ATTRIBUTE_KEYWORD, "tag" };
    struct vshard_index_options o;
    uint64_t *ids = number_ids(0, MANY), seed = 5;
    float *vectors = draw_vectors(&seed, 0, MANY, D);
    char(*words)[VSHARD_KEYWORD_MAX] = calloc(MANY, sizeof *words), *back = calloc(MANY, 121);
    struct vshard_values values = { words, sizeof *words };
    struct vshard_add_options with = { .size = sizeof with, .value_count = 1, .values = &values };
    struct vshard_index_stats stats = { .size = sizeof stats };

    begin(&s, 5);
    o = options_of(&s, VSHARD_FAMILY_FLAT, 0);
    o.attributes = &tag;
    o.attribute_count = 1;
    s.x = make_index(&o);
    for (uint32_t i = 0; i < MANY; i++) {
        size_t length = 1 + i % VSHARD_KEYWORD_MAX;

        memset(words[i], 'a', length);
        for (size_t at = 0, rest = i; at < length && rest > 0; at++, rest /= 10)
            words[i][at] = (char)('0' + rest % 10);
    }
    for (uint32_t round = 0; round < 3; round++) { /* keywords are dropped and come again */
        cr_assert_eq(vshard_index_add_with(s.x, ids, vectors, MANY, &with), 0);
        values.values = back;
        values.width = 121;
        cr_assert_eq(vshard_index_fetch_values(s.x, ids, MANY, &values, 1, NULL), 0);
        for (uint32_t i = 0; i < MANY; i++)
            cr_assert(memcmp(back + i * 121, words[i], 120) == 0 && back[i * 121 + 120] == 0);
        values.values = words;
        values.width = sizeof *words;
        cr_assert_eq(vshard_index_stats(s.x, &stats), 0);
        cr_expect(stats.keyword_count > MANY / 2 && stats.keyword_count <= MANY);
        expect_clean(s.x, "many");
        if (round == 1)
            remove_rows(s.x, ids, MANY);
    }
    end(&s);
    free(ids);
    free(vectors);
    free(words);
    free(back);
}

/* ---- memory ---- */

Test(index_attribute, keywords_count_towards_the_bytes_an_index_may_take)
{
    enum { MANY = 3000 };
    static struct stage s;
    struct vshard_index_options o;
    struct vshard_index_estimate e = { .size = sizeof e };
    uint64_t *ids = number_ids(0, MANY), seed = 5, before;
    float *vectors = draw_vectors(&seed, 0, MANY, D);
    char(*words)[WORD] = calloc(MANY, sizeof *words);
    struct vshard_values values[] = { { NULL, 0 }, { words, WORD } };
    struct vshard_add_options with = { .size = sizeof with, .value_count = 2, .values = values };

    begin(&s, 5);
    o = options_of(&s, VSHARD_FAMILY_HNSW, 0);
    cr_assert_eq(vshard_index_estimate(&o, MANY, &e), 0);
    o.max_bytes = e.rows_bytes + 200 * 1024;
    s.x = make_index(&o);
    for (uint32_t i = 0; i < MANY; i++)
        snprintf(words[i], WORD, "w%u", i % 900);
    cr_assert_eq(vshard_index_add_with(s.x, ids, vectors, 700, &with), 0);
    before = digest_of(s.x);
    for (uint32_t i = 0; i < MANY; i++)
        snprintf(words[i], WORD, "w%u", i);
    cr_expect_eq(vshard_index_add_with(s.x, ids + 700, vectors, MANY - 700, &with), VSHARD_E2BIG);
    cr_expect_not_null(strstr(s.seen.fields, "max_bytes"), "%s", s.seen.fields);
    cr_expect_eq(digest_of(s.x), before, "the refused call left a trace");
    expect_clean(s.x, "refused");
    for (uint32_t i = 0; i < MANY; i++)
        snprintf(words[i], WORD, "w%u", i % 900);
    cr_expect_eq(vshard_index_add_with(s.x, ids + 700, vectors, MANY - 700, &with), 0,
                 "these have room");
    end(&s);
    free(ids);
    free(vectors);
    free(words);
}

/* ---- what is refused ---- */

static void expect_refused(struct stage *s, int rc, int status, const char *field)
{
    cr_expect_eq(rc, status, "%s: %s", field, vshard_strerror(rc));
    cr_expect(s->seen.count == 1 && strstr(s->seen.fields, field) != NULL, "%u events, not %s: %s",
              s->seen.count, field, s->seen.fields);
    s->seen.count = 0;
}

Test(index_attribute, what_cannot_be_declared_is_refused_by_name)
{
    static struct stage s;
    struct vshard_attribute bad[9];
    struct vshard_index_options o;
    struct vshard_index *x;

    begin(&s, 1);
    o = options_of(&s, 0, 0);
    o.attributes = bad;
    for (uint32_t i = 0; i < 9; i++) {
        memset(&bad[i], 0, sizeof bad[i]);
        bad[i].type = 1 + i % 3;
        memset(bad[i].name, (int)('a' + i), i == 7 ? VSHARD_ATTRIBUTE_NAME_MAX : i + 1);
    }
    o.attribute_count = 8;
    cr_expect_eq(vshard_index_create(&o, &x), 0);
    vshard_index_destroy(x);
    o.attribute_count = 9;
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attribute_count");
    o.attribute_count = 8;
    o.attributes = NULL;
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: NULL");
    o.attributes = bad;
    bad[3].type = 0;
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: type");
    bad[3].type = 4;
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: type");
    bad[3] = bad[0];
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: name twice");
    memset(bad[3].name, 0, sizeof bad[3].name);
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: name");
    memset(bad[3].name, 'x', sizeof bad[3].name);
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: name");
    memset(bad[3].name, 0, sizeof bad[3].name);
    bad[3].name[0] = bad[3].name[7] = 'x'; /* something behind the zero */
    expect_refused(&s, vshard_index_create(&o, &x), VSHARD_EINVAL, "attributes: name");
    end(&s);
}

Test(index_attribute, values_that_do_not_fit_are_refused_by_name)
{
    static struct stage s;
    struct vshard_index_options o;
    const uint64_t ids[] = { 1, 2 };
    char words[2][130] = { "one", "two" };
    int64_t years[2] = { 1, 2 };
    struct vshard_values values[] = { { years, 0 }, { words, 130 }, { NULL, 0 }, { NULL, 0 } };
    struct vshard_add_options with = { .size = sizeof with, .value_count = 3, .values = values };
    uint64_t before;

    begin(&s, 1);
    o = options_of(&s, 0, 0);
    s.x = make_index(&o);
    cr_assert_eq(vshard_index_add_with(s.x, ids, s.vectors, 2, &with), 0);
    before = digest_of(s.x);
    with.value_count = 4;
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "value_count");
    expect_refused(&s, vshard_index_fetch_values(s.x, ids, 2, values, 4, NULL), VSHARD_EINVAL,
                   "value_count");
    with.value_count = 3;
    with.values = NULL;
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "values: NULL");
    with.values = values;
    values[0].width = 4;
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "values: width");
    values[0].width = 0;
    values[1].width = 0;
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "values: width");
    expect_refused(&s, vshard_index_fetch_values(s.x, ids, 2, values, 2, NULL), VSHARD_EINVAL,
                   "values: width");
    values[1].width = SIZE_MAX;
    expect_refused(&s, vshard_index_fetch_values(s.x, ids, 2, values, 2, NULL), VSHARD_EINVAL,
                   "values: width");
    values[1].width = 130;
    memset(words[1], 'x', VSHARD_KEYWORD_MAX + 1);
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "bytes of a keyword");
    values[1].width = 2;
    expect_refused(&s, vshard_index_fetch_values(s.x, ids, 2, values, 2, NULL), VSHARD_E2BIG,
                   "values: width");
    with.size = 7;
    expect_refused(&s, vshard_index_add_with(s.x, ids, s.vectors, 2, &with), VSHARD_EINVAL,
                   "options.size");
    expect_refused(&s, vshard_index_fetch_values(s.x, NULL, 2, values, 2, NULL), VSHARD_EINVAL,
                   "ids: NULL");
    expect_refused(&s, vshard_index_attribute(s.x, 0, NULL), VSHARD_EINVAL, "attribute: NULL");
    cr_expect_eq(digest_of(s.x), before);
    cr_expect_eq(vshard_index_fetch_values(NULL, ids, 2, values, 2, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_add_with(NULL, ids, s.vectors, 2, &with), VSHARD_EINVAL);
    cr_expect_eq(vshard_index_attribute(NULL, 0, NULL), VSHARD_EINVAL);
    end(&s);
}

Test(index_attribute, an_index_without_attributes_is_what_it_was)
{
    static struct stage s;
    struct vshard_index_options o;
    struct vshard_add_options none = { .size = sizeof none };
    uint64_t ids[] = { 1, 2 }, digest;

    begin(&s, 1);
    o = options_of(&s, 0, 0);
    o.attribute_count = 0;
    s.x = make_index(&o);
    add_rows(s.x, ids, s.vectors, 2);
    digest = digest_of(s.x);
    cr_assert_eq(vshard_index_add_with(s.x, ids, s.vectors, 2, &none), 0);
    cr_expect_eq(vshard_index_fetch_values(s.x, ids, 2, NULL, 0, NULL), 0);
    o.size = (uint32_t)VS_SIZE_THROUGH(struct vshard_index_options, storage); /* an older caller */
    s.twin = make_index(&o);
    add_rows(s.twin, ids, s.vectors, 2);
    cr_expect_eq(digest_of(s.twin), digest);
    end(&s);
}
