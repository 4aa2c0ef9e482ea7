/* index_where.c - searches among the rows whose attributes satisfy an expression.
 *
 * Method: expressions are drawn at random, as trees; the test evaluates them by recursion
 * over its own arrays, the library from encoded bytes. An exact search for all rows
 * tells which rows the library allows: these must be those that the test allows, on
 * flat indexes, graphs, copied and mapped files, alone and together with ids, bits or a
 * function. Walks must reach a recall of 0.95. Bytes that are cut, flipped, or drawn at
 * random are refused, or mean something; they never do harm. */
#include <criterion/criterion.h>

#include <math.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { N = 2300, D = 12, WORD = 12, REMOVED_FROM = 2200, K = 10, BYTES = 4096, ROUNDS = 150 };

enum { YEAR, PRICE, LANG };

static const struct vshard_attribute three[] = { { VSHARD_ATTRIBUTE_INT64, "year" },
                                                 { VSHARD_ATTRIBUTE_DOUBLE, "price" },
                                                 { VSHARD_ATTRIBUTE_KEYWORD, "lang" } };

struct stage {
    struct vshard_index *x;
    float *vectors;
    uint64_t ids[N];
    int64_t years[N];
    double prices[N];
    char langs[N][WORD];
    bool allowed[N];
    uint64_t bits[N / 64 + 1];
    uint64_t seed;
    struct seen seen;
    struct vshard_logger logger;
    struct fault_storage *fs;
};

static void begin(struct stage *s, uint32_t family, const struct vshard_allocator *memory)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    const struct vshard_values values[] = { { s->years, 0 }, { s->prices, 0 }, { s->langs, WORD } };
    struct vshard_add_options with = { .size = sizeof with, .value_count = 3, .values = values };

    memset(s, 0, sizeof *s);
    s->seed = 12 + family;
    s->fs = fault_storage_create(1);
    s->logger = seen_logger(&s->seen);
    s->vectors = draw_vectors(&s->seed, VSHARD_ELEMENT_F32, N + 1, D);
    for (uint32_t i = 0; i < N; i++) {
        s->ids[i] = i;
        s->years[i] =
            random_one_in(&s->seed, 12) ? VSHARD_MISSING : (int64_t)random_below(&s->seed, 40) - 20;
        s->prices[i] = random_one_in(&s->seed, 12) ? NAN : (double)random_below(&s->seed, 9) - 4;
        if (random_one_in(&s->seed, 50))
            s->prices[i] = random_one_in(&s->seed, 2) ? -0.0 : -INFINITY;
        if (random_below(&s->seed, 10) > 0)
            snprintf(
                s->langs[i], WORD, "w%llu",
                (unsigned long long)random_below(&s->seed, random_one_in(&s->seed, 2) ? 5 : 60));
    }
    o.family = family;
    o.m = 12;
    o.attributes = three;
    o.attribute_count = 3;
    o.logger = &s->logger;
    o.storage = fault_storage_hook(s->fs);
    o.allocator = memory;
    s->x = make_index(&o);
    cr_assert_eq(vshard_index_add_with(s->x, s->ids, s->vectors, N, &with), 0);
    remove_rows(s->x, s->ids + REMOVED_FROM, N - REMOVED_FROM);
}

static void end(struct stage *s)
{
    vshard_index_destroy(s->x);
    cr_expect_null(fault_storage_verdict(s->fs));
    fault_storage_destroy(s->fs);
    free(s->vectors);
}

/* ---- expressions, as trees that lie in postfix order ---- */

struct values {
    int64_t integers[4];
    double reals[4];
    char words[4][WORD];
};

struct expression {
    struct vshard_condition steps[VSHARD_CONDITIONS_MAX];
    struct values values[VSHARD_CONDITIONS_MAX];
    uint32_t count;
};

static void draw_values(uint64_t *seed, struct vshard_condition *c, struct values *v)
{
    for (uint32_t i = 0; i < 4; i++) {
        v->integers[i] = (int64_t)random_below(seed, 44) - 22;
        v->reals[i] = (double)random_below(seed, 11) - 5;
        if (random_one_in(seed, 8)) {
            v->integers[i] = random_one_in(seed, 2) ? INT64_MIN : INT64_MAX;
            v->reals[i] = random_one_in(seed, 3)   ? INFINITY
                          : random_one_in(seed, 2) ? -INFINITY
                                                   : -0.0;
        }
        snprintf(v->words[i], WORD, "w%llu", (unsigned long long)random_below(seed, 65));
    }
    c->values = c->type == VSHARD_ATTRIBUTE_INT64    ? (void *)v->integers
                : c->type == VSHARD_ATTRIBUTE_DOUBLE ? (void *)v->reals
                                                     : (void *)v->words;
    c->width = c->type == VSHARD_ATTRIBUTE_KEYWORD ? WORD : 0;
}

static void draw_comparison(uint64_t *seed, struct expression *e)
{
    static const uint32_t of_words[] = { VSHARD_WHERE_EQ, VSHARD_WHERE_IN, VSHARD_WHERE_MISSING };
    struct vshard_condition *c = &e->steps[e->count];

    memset(c, 0, sizeof *c);
    c->attribute = (uint32_t)random_below(seed, 3);
    c->type = three[c->attribute].type;
    c->op = c->attribute == LANG ? of_words[random_below(seed, 3)]
                                 : 1 + (uint32_t)random_below(seed, 8);
    c->count = c->op == VSHARD_WHERE_MISSING ? 0
               : c->op == VSHARD_WHERE_RANGE ? 2
               : c->op == VSHARD_WHERE_IN    ? (uint32_t)random_below(seed, 5)
                                             : 1;
    draw_values(seed, c, &e->values[e->count]);
    e->count++;
}

static void draw_tree(uint64_t *seed, struct expression *e, uint32_t depth)
{
    uint32_t operands = depth == 0 || e->count > 40 ? 0 : (uint32_t)random_below(seed, 4);
    uint32_t op =
        operands == 1 ? VSHARD_WHERE_NOT : VSHARD_WHERE_AND + (uint32_t)random_below(seed, 2);

    if (operands == 0) {
        draw_comparison(seed, e);
        return;
    }
    for (uint32_t i = 0; i < operands; i++)
        draw_tree(seed, e, depth - 1);
    e->steps[e->count++] =
        (struct vshard_condition){ .op = op, .count = op == VSHARD_WHERE_NOT ? 0 : operands };
}

/* Three-way, of the row's value and the i-th given; 2 if there is none. */
static int order(const struct stage *s, uint32_t row, const struct vshard_condition *c, uint32_t i)
{
    int64_t integer;
    double real;

    switch (c->attribute) {
    case YEAR:
        integer = ((const int64_t *)c->values)[i];
        return s->years[row] == VSHARD_MISSING
                   ? 2
                   : (s->years[row] > integer) - (s->years[row] < integer);
    case PRICE:
        real = ((const double *)c->values)[i];
        return isnan(s->prices[row]) ? 2 : (s->prices[row] > real) - (s->prices[row] < real);
    default:
        return s->langs[row][0] == 0
                   ? 2
                   : strcmp(s->langs[row], (const char *)c->values + i * WORD) != 0;
    }
}

static bool compares(const struct stage *s, uint32_t row, const struct vshard_condition *c)
{
    struct vshard_condition probe = *c;
    struct values any = { .words = { "x" } };
    int first;

    if (c->op == VSHARD_WHERE_MISSING) {
        probe.values = &any;
        return order(s, row, &probe, 0) == 2;
    }
    if (c->op == VSHARD_WHERE_IN) {
        for (uint32_t i = 0; i < c->count; i++) {
            if (order(s, row, c, i) == 0)
                return true;
        }
        return false;
    }
    first = order(s, row, c, 0);
    if (first == 2)
        return false;
    switch (c->op) {
    case VSHARD_WHERE_EQ: return first == 0;
    case VSHARD_WHERE_LT: return first < 0;
    case VSHARD_WHERE_LE: return first <= 0;
    case VSHARD_WHERE_GT: return first > 0;
    case VSHARD_WHERE_GE: return first >= 0;
    default: return first >= 0 && order(s, row, c, 1) <= 0;
    }
}

/* Evaluates the subtree that ends at step *at, and moves to before it. */
static bool evaluate(const struct stage *s, uint32_t row, const struct expression *e, uint32_t *at)
{
    const struct vshard_condition *c = &e->steps[--*at];
    bool all = true, any = false;

    if (c->op < VSHARD_WHERE_AND)
        return compares(s, row, c);
    if (c->op == VSHARD_WHERE_NOT)
        return !evaluate(s, row, e, at);
    for (uint32_t i = 0; i < c->count; i++) {
        bool holds = evaluate(s, row, e, at);

        all = all && holds;
        any = any || holds;
    }
    return c->op == VSHARD_WHERE_AND ? all : any;
}

static uint32_t allow(struct stage *s, const struct expression *e)
{
    uint32_t count = 0;

    for (uint32_t row = 0; row < N; row++) {
        uint32_t at = e->count;

        s->allowed[row] = row < REMOVED_FROM && evaluate(s, row, e, &at);
        count += s->allowed[row];
    }
    return count;
}

/* ---- what the library allows ---- */

static int ask(void *ctx, uint64_t id)
{
    const struct stage *s = ctx;

    return s->bits[id / 64] >> id % 64 & 1;
}

static struct vshard_filter filter_of(struct stage *s, uint32_t kind, const void *where,
                                      size_t bytes)
{
    return (struct vshard_filter){ .size = sizeof(struct vshard_filter),
                                   .kind = kind,
                                   .count = N,
                                   .ids = s->ids,
                                   .bits = s->bits,
                                   .allow = ask,
                                   .ctx = s,
                                   .where = where,
                                   .where_bytes = bytes };
}

static uint32_t search(struct stage *s, const struct vshard_filter *f, uint32_t k, uint32_t flags,
                       struct vshard_hit *hits)
{
    uint32_t found = 0;
    struct vshard_search_options o = {
        .size = sizeof o, .ef_search = 120, .flags = flags, .filter = f, .found = &found
    };

    cr_assert_eq(vshard_index_search(s->x, s->vectors + (size_t)N * D, 1, k, hits, &o), 0);
    return found;
}

/* All that are allowed, and how many of the nearest K a walk finds. */
static void expect_allowed(struct stage *s, const struct vshard_filter *f, uint32_t count,
                           uint32_t *right, uint32_t *wanted)
{
    static struct vshard_hit all[N], hits[K];
    uint32_t found = search(s, f, N, VSHARD_SEARCH_EXACT, all), some = count < K ? count : K;

    cr_assert_eq(found, count, "kind %u: %u allowed, not %u", f->kind, found, count);
    for (uint32_t i = 0; i < found; i++)
        cr_assert(s->allowed[all[i].id], "row %llu", (unsigned long long)all[i].id);
    found = search(s, f, K, 0, hits);
    cr_assert_eq(found, some);
    for (uint32_t i = 0; i < found; i++) {
        cr_assert(s->allowed[hits[i].id]);
        *right += hits[i].distance <= all[some - 1].distance;
    }
    *wanted += some;
}

static void expect_as_told(struct stage *s, const char *name)
{
    uint32_t right = 0, wanted = 0;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        static struct expression e;
        static unsigned char where[BYTES];
        struct vshard_filter f;
        uint64_t seed = s->seed + round;
        uint32_t count;
        size_t bytes;

        e.count = 0;
        draw_tree(&seed, &e, round % 4);
        cr_assert_eq(vshard_where_encode(e.steps, e.count, where, BYTES, &bytes), 0, "round %u",
                     round);
        count = allow(s, &e);
        f = filter_of(s, VSHARD_FILTER_WHERE, where, bytes);
        expect_allowed(s, &f, count, &right, &wanted);
        for (uint32_t i = 0; i < N; i++) {
            bool yes = random_one_in(&seed, 1 + round % 5);

            s->bits[i / 64] = (s->bits[i / 64] & ~(1ull << i % 64)) | (uint64_t)yes << i % 64;
            count -= s->allowed[i] && !yes;
            s->allowed[i] = s->allowed[i] && yes;
            s->ids[i] = yes ? i : VSHARD_ID_NONE;
        }
        f.kind = VSHARD_FILTER_IDS + round % 3;
        expect_allowed(s, &f, count, &right, &wanted);
    }
    printf("index_where: %s: %u of %u\n", name, right, wanted);
    cr_expect_geq(right * 20, wanted * 19, "%s: %u of %u", name, right, wanted);
}

Test(index_where, the_rows_allowed_are_those_that_the_expression_says)
{
    static struct stage s;

    begin(&s, VSHARD_FAMILY_FLAT, NULL);
    expect_as_told(&s, "flat");
    end(&s);
    begin(&s, VSHARD_FAMILY_HNSW, NULL);
    expect_as_told(&s, "graph");
    end(&s);
}

Test(index_where, a_file_copied_or_mapped_is_searched_alike)
{
    static struct stage s;

    begin(&s, VSHARD_FAMILY_HNSW, NULL);
    cr_assert_eq(vshard_index_save(s.x, "/i"), 0);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .storage = fault_storage_hook(s.fs) };

        vshard_index_destroy(s.x);
        cr_assert_eq(vshard_index_open("/i", &o, &s.x), 0);
        expect_as_told(&s, flags ? "mapped" : "copied");
    }
    end(&s);
}

/* All of a few ids at an unlikely value, among many rows: most walks would miss them. */
Test(index_where, range_and_explain_ask_the_expression_too)
{
    static struct stage s;
    static struct vshard_hit hits[N];
    static const int64_t zero = 0;
    const struct vshard_condition after = {
        VSHARD_WHERE_GT, YEAR, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &zero
    };
    unsigned char where[32];
    uint32_t found = 0, count = 0, why[2] = { 0 };
    struct vshard_filter f;
    struct vshard_search_options o = {
        .size = sizeof o, .filter = &f, .found = &found, .flags = VSHARD_SEARCH_EXACT
    };
    size_t bytes;

    for (uint32_t family = 0; family < 2; family++) {
        begin(&s, family, NULL);
        cr_assert_eq(vshard_where_encode(&after, 1, where, sizeof where, &bytes), 0);
        f = filter_of(&s, VSHARD_FILTER_WHERE, where, bytes);
        count = 0;
        for (uint32_t i = 0; i < REMOVED_FROM; i++)
            count += s.years[i] > 0;
        cr_assert_eq(vshard_index_range(s.x, s.vectors, INFINITY, hits, N, &o), 0);
        cr_expect_eq(found, count);
        for (uint32_t i = 0; i < found; i++)
            cr_assert_gt(s.years[hits[i].id], 0);
        for (uint64_t id = 0; id < 50; id++) {
            struct vshard_explanation e = { .size = sizeof e };

            cr_assert_eq(vshard_index_explain(s.x, s.vectors, id, K, &o, &e), 0);
            cr_expect_eq(e.why == VSHARD_WHY_FILTERED, s.years[id] <= 0);
            cr_expect_eq(e.candidates, count);
            why[e.why == VSHARD_WHY_FILTERED]++;
        }
        cr_expect(why[0] > 0 && why[1] > 0);
        end(&s);
    }
}

Test(index_where, nothing_is_allocated_after_the_first_search)
{
    static struct stage s;
    static struct expression e;
    static unsigned char where[BYTES];
    static struct vshard_hit hits[K];
    struct fault_alloc memory;
    struct vshard_filter f;
    size_t bytes;

    fault_alloc_init(&memory);
    begin(&s, VSHARD_FAMILY_HNSW, &memory.hook);
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t calls = memory.calls;

        for (uint64_t i = 0; i < 40; i++) {
            uint64_t seed = i;

            e.count = 0;
            draw_tree(&seed, &e, 3);
            cr_assert_eq(vshard_where_encode(e.steps, e.count, where, BYTES, &bytes), 0);
            f = filter_of(&s, VSHARD_FILTER_WHERE, where, bytes);
            search(&s, &f, K, 0, hits);
        }
        cr_assert(round == 0 || memory.calls == calls, "%llu allocations",
                  (unsigned long long)(memory.calls - calls));
    }
    end(&s);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

/* ---- bytes that are no expression ---- */

static int search_status(struct stage *s, const void *where, size_t bytes)
{
    const struct vshard_filter f = filter_of(s, VSHARD_FILTER_WHERE, where, bytes);
    struct vshard_search_options o = { .size = sizeof o, .filter = &f };
    struct vshard_hit hits[K];
    int rc;

    s->seen.count = 0;
    rc = vshard_index_search(s->x, s->vectors, 1, K, hits, &o);
    cr_assert(rc == 0 || rc == VSHARD_EINVAL || rc == VSHARD_EVERSION, "%s", vshard_strerror(rc));
    cr_assert_eq(s->seen.count, rc < 0, "one event for each refusal");
    cr_assert(rc == 0 || strstr(s->seen.fields, "filter.where") != NULL, "%s", s->seen.fields);
    return rc;
}

Test(index_where, bytes_that_are_cut_or_flipped_are_refused_or_mean_something)
{
    static struct stage s;
    static struct expression e;
    static unsigned char where[BYTES];
    uint32_t cut_opened = 0;

    begin(&s, VSHARD_FAMILY_FLAT, NULL);
    for (uint64_t round = 0; round < 12; round++) {
        uint64_t seed = 600 + round;
        unsigned char *exact; /* so that a byte too far is seen */
        size_t bytes;

        e.count = 0;
        draw_tree(&seed, &e, 3);
        cr_assert_eq(vshard_where_encode(e.steps, e.count, where, BYTES, &bytes), 0);
        for (size_t cut = 0; cut < bytes; cut++) {
            exact = malloc(cut + (cut == 0));
            memcpy(exact, where, cut);
            cut_opened += search_status(&s, exact, cut) == 0;
            free(exact);
        }
        for (size_t at = 0; at < 8 * bytes; at++) {
            exact = malloc(bytes);
            memcpy(exact, where, bytes);
            exact[at / 8] ^= (unsigned char)(1 << at % 8);
            search_status(&s, exact, bytes);
            free(exact);
        }
    }
    printf("index_where: %u prefixes are expressions, too\n", cut_opened);
    end(&s);
}

Test(index_where, random_bytes_do_no_harm)
{
    static struct stage s;
    uint64_t seed = 91;
    uint32_t good = 0;

    printf("index_where: seed %llu\n", (unsigned long long)seed);
    begin(&s, VSHARD_FAMILY_FLAT, NULL);
    for (uint32_t round = 0; round < 20000; round++) {
        size_t count = 1 + random_below(&seed, 24);
        unsigned char *bytes = malloc(count);

        for (size_t i = 0; i < count; i++) /* small numbers are ops, types and lengths */
            bytes[i] = (unsigned char)random_below(&seed, random_one_in(&seed, 8) ? 256 : 9);
        bytes[0] = random_one_in(&seed, 50) ? bytes[0] : 1;
        good += search_status(&s, bytes, count) == 0;
        free(bytes);
    }
    cr_expect_gt(good, 5, "%u expressions among them", good);
    end(&s);
}

Test(index_where, what_is_wrong_is_named)
{
    static const struct {
        const char *field;
        int status;
        unsigned char bytes[16];
        uint32_t count;
    } cases[] = {
        { "filter.where_bytes", VSHARD_EINVAL, { 1 }, 0 },
        { "filter.where: version", VSHARD_EVERSION, { 2, 8, 1, 0 }, 4 },
        { "filter.where: results", VSHARD_EINVAL, { 1 }, 1 },
        { "filter.where: results", VSHARD_EINVAL, { 1, 8, 1, 0, 8, 1, 0 }, 7 },
        { "filter.where: op", VSHARD_EINVAL, { 1, 0 }, 2 },
        { "filter.where: op", VSHARD_EINVAL, { 1, 12 }, 2 },
        { "filter.where: op of this type", VSHARD_EINVAL, { 1, 2, 3, 2, 1, 'a' }, 6 },
        { "filter.where: op of this type", VSHARD_EINVAL, { 1, 8, 4, 0 }, 4 },
        { "filter.where: operands", VSHARD_EINVAL, { 1, 11 }, 2 },
        { "filter.where: operands", VSHARD_EINVAL, { 1, 8, 1, 0, 9, 0 }, 6 },
        { "filter.where: operands", VSHARD_EINVAL, { 1, 8, 1, 0, 9, 2 }, 6 },
        { "filter.where: cut short", VSHARD_EINVAL, { 1, 1, 1, 0, 0 }, 5 },
        { "filter.where: cut short", VSHARD_EINVAL, { 1, 7, 3, 2, 255, 255, 1, 'a' }, 8 },
        { "filter.where: bytes of a keyword", VSHARD_EINVAL, { 1, 1, 3, 2, 0 }, 5 },
        { "filter.where: bytes of a keyword", VSHARD_EINVAL, { 1, 1, 3, 2, 121 }, 5 },
        { "filter.where: a zero in a keyword", VSHARD_EINVAL, { 1, 1, 3, 2, 2, 'a', 0 }, 7 },
        { "filter.where: NaN", VSHARD_EINVAL, { 1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f }, 12 },
        { "filter.where: attribute", VSHARD_EINVAL, { 1, 8, 1, 3 }, 4 },
        { "filter.where: type", VSHARD_EINVAL, { 1, 8, 1, 1 }, 4 },
    };
    static struct stage s;
    static unsigned char many[2 + 4 * VSHARD_CONDITIONS_MAX], large[VSHARD_WHERE_BYTES_MAX + 1];

    begin(&s, VSHARD_FAMILY_FLAT, NULL);
    for (size_t i = 0; i < VS_COUNT(cases); i++) {
        cr_expect_eq(search_status(&s, cases[i].bytes, cases[i].count), cases[i].status, "case %zu",
                     i);
        cr_expect_not_null(strstr(s.seen.fields, cases[i].field), "case %zu: %s", i, s.seen.fields);
    }
    many[0] = 1;
    memcpy(many + 1, "\x08\x01", 3);
    for (size_t i = 4; i < sizeof many; i++)
        many[i] = VSHARD_WHERE_NOT;
    cr_expect_eq(search_status(&s, many, 3 + VSHARD_CONDITIONS_MAX), 0, "as many as may be");
    cr_expect_eq(search_status(&s, many, 4 + VSHARD_CONDITIONS_MAX), VSHARD_EINVAL);
    cr_expect_not_null(strstr(s.seen.fields, "filter.where: conditions"));
    cr_expect_eq(search_status(&s, large, sizeof large), VSHARD_EINVAL);
    cr_expect_eq(search_status(&s, NULL, 4), VSHARD_EINVAL);
    end(&s);
}

Test(index_where, an_encoder_refuses_what_a_search_would)
{
    static const int64_t integers[] = { 1, 2 };
    static const double nan[] = { NAN };
    static const char words[][4] = { "a", "", "abc" };
    const uint32_t i64 = VSHARD_ATTRIBUTE_INT64, key = VSHARD_ATTRIBUTE_KEYWORD;
    const struct vshard_condition good = { VSHARD_WHERE_EQ, 0, i64, 1, 0, 0, integers };
    const struct vshard_condition bad[] = {
        { 0, 0, i64, 1, 0, 0, integers },
        { 12, 0, i64, 1, 0, 0, integers },
        { VSHARD_WHERE_EQ, 8, i64, 1, 0, 0, integers },
        { VSHARD_WHERE_EQ, 0, 0, 1, 0, 0, integers },
        { VSHARD_WHERE_EQ, 0, 4, 1, 0, 0, integers },
        { VSHARD_WHERE_EQ, 0, i64, 2, 0, 0, integers },
        { VSHARD_WHERE_EQ, 0, i64, 1, 0, 1, integers },
        { VSHARD_WHERE_EQ, 0, i64, 1, 0, 0, NULL },
        { VSHARD_WHERE_RANGE, 0, i64, 1, 0, 0, integers },
        { VSHARD_WHERE_IN, 0, i64, 65536, 0, 0, integers },
        { VSHARD_WHERE_MISSING, 0, i64, 1, 0, 0, integers },
        { VSHARD_WHERE_LT, 0, key, 1, 4, 0, words },
        { VSHARD_WHERE_EQ, 0, key, 1, 0, 0, words },
        { VSHARD_WHERE_IN, 0, key, 2, 4, 0, words },
        { VSHARD_WHERE_EQ, 0, VSHARD_ATTRIBUTE_DOUBLE, 1, 0, 0, nan },
        { VSHARD_WHERE_AND, 0, 0, 1, 0, 0, NULL },
        { VSHARD_WHERE_NOT, 0, 0, 0, 0, 0, NULL },
    };
    struct vshard_condition two[] = { good, good };
    unsigned char bytes[64];
    size_t used, need;

    cr_assert_eq(vshard_where_encode(&good, 1, bytes, sizeof bytes, &need), 0);
    cr_expect_eq(need, 12);
    for (size_t room = 0; room < need; room++) {
        bytes[room] = 0xaa;
        cr_expect_eq(vshard_where_encode(&good, 1, bytes, room, &used), VSHARD_E2BIG);
        cr_expect(used == need && bytes[room] == 0xaa, "room %zu", room);
    }
    for (size_t i = 0; i < VS_COUNT(bad); i++)
        cr_expect_eq(vshard_where_encode(&bad[i], 1, bytes, sizeof bytes, &used), VSHARD_EINVAL,
                     "case %zu", i);
    cr_expect_eq(vshard_where_encode(two, 2, bytes, sizeof bytes, &used), VSHARD_EINVAL,
                 "two results");
    two[1] = (struct vshard_condition){ .op = VSHARD_WHERE_OR, .count = 2 };
    cr_expect_eq(vshard_where_encode(two, 2, bytes, sizeof bytes, &used), VSHARD_EINVAL,
                 "one operand");
    two[1].count = 1;
    cr_expect_eq(vshard_where_encode(two, 2, bytes, sizeof bytes, &used), 0);
    cr_expect_eq(vshard_where_encode(two, 0, bytes, sizeof bytes, &used), VSHARD_EINVAL);
    cr_expect_eq(vshard_where_encode(two, 65, bytes, sizeof bytes, &used), VSHARD_EINVAL);
    cr_expect_eq(vshard_where_encode(NULL, 1, bytes, sizeof bytes, &used), VSHARD_EINVAL);
    cr_expect_eq(vshard_where_encode(two, 2, NULL, 3, &used), VSHARD_EINVAL);
    cr_expect_eq(vshard_where_encode(two, 2, NULL, 0, &used), VSHARD_E2BIG);
    cr_expect_eq(vshard_where_encode(two, 2, bytes, sizeof bytes, NULL), VSHARD_EINVAL);
}
