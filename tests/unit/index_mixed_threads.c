/* index_mixed_threads.c - every call of an index runs beside every other.
 *
 * Method: a few threads draw calls by chance on one index, from a table that has all that
 * lib/vshard.map lists for an index; so each call meets each other, those that change it, too. The
 * vector and the values of a row follow from its id. Some rows are there always and only replaced,
 * by what they are; others come and go. So of each answer it is known whether it may be one: that
 * the row is one of these, allowed, at its own distance, and answered once; and a row that is
 * there always is found by each call that promises it. What a graph may miss is counted. Meant for
 * ThreadSanitizer above all. */
#include <criterion/criterion.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/pool.h"
#include "support/sanitized.h"

enum {
    D = 16,
    KEPT = 150,        /* rows that are always there: ids from 0 on */
    ROWS = KEPT + 450, /* and those that come and go */
    K = 8,
    MANY = 9, /* queries of one call, or rows */
    THREADS = 5,
    CALLS = SANITIZED ? 250 : 600, /* of each thread */
    WORD = 8,
    WORDS = 20
};

static const char whole[] = "/whole", changes[] = "/changes";

struct mix {
    struct vshard_index *x;
    struct vshard_storage storage;
    float vectors[ROWS][D];
    uint32_t lean;
    uint32_t cancel; /* set and cleared all the time */
    atomic_ullong now;
    atomic_uint wrong, asked, missed;
};

/* One thread. */
struct hand {
    struct mix *m;
    uint64_t seed;
};

static void expect(struct mix *m, bool right, const char *what, uint64_t id, double got)
{
    if (!right && atomic_fetch_add(&m->wrong, 1) < 5)
        fprintf(stderr, "index_mixed_threads: %s: id %llu, %g\n", what, (unsigned long long)id,
                got);
}

static uint64_t draw(struct hand *h, uint64_t below)
{
    return random_below(&h->seed, below);
}

/* ---- what may be answered ---- */

static double distance_of(const struct mix *m, uint64_t id, const float *query)
{
    double sum = 0;

    for (uint32_t i = 0; i < D; i++) {
        double d = (double)m->vectors[id][i] - (double)query[i];

        sum += d * d;
    }
    return sum;
}

/* What a row of a lean index stands for is half a step off in each element. */
static double slack(const struct mix *m, double distance)
{
    return m->lean ? 0.05 + 0.1 * distance : 1e-5 * (1 + distance);
}

static void judge(struct mix *m, const float *query, const struct vshard_hit *hits, uint32_t found,
                  uint64_t below)
{
    for (uint32_t i = 0; i < found; i++) {
        uint64_t id = hits[i].id;
        double got = (double)hits[i].distance, d;

        if (id >= ROWS) {
            expect(m, false, "no row of these", id, got);
            continue;
        }
        d = distance_of(m, id, query);
        expect(m, fabs(got - d) <= slack(m, d), "not its distance", id, got);
        expect(m, id < below, "not allowed", id, got);
        expect(m, i == 0 || hits[i - 1].distance <= hits[i].distance, "not in order", id, got);
        for (uint32_t j = 0; j < i; j++)
            expect(m, hits[j].id != id, "answered twice", id, got);
    }
}

/* The row that was asked for by its own vector is among the answers. */
static void judge_own(struct mix *m, uint64_t id, const struct vshard_hit *hits, uint32_t found,
                      bool sure)
{
    bool there = false;

    for (uint32_t i = 0; i < found; i++)
        there = there || hits[i].id == id;
    expect(m, there || !sure, "not found", id, found);
    atomic_fetch_add(&m->asked, 1);
    atomic_fetch_add(&m->missed, !there);
}

/* ---- changes ---- */

struct rows {
    uint64_t ids[MANY];
    float vectors[MANY][D];
    int64_t numbers[MANY];
    double reals[MANY];
    char words[MANY][WORD];
    size_t count;
};

static void values_of(uint64_t id, int64_t *number, double *real, char word[WORD])
{
    *number = (int64_t)id;
    *real = (double)id / 2;
    memset(word, 0, WORD);
    snprintf(word, WORD, "w%u", (unsigned)(id % WORDS));
}

static void draw_rows(struct hand *h, struct rows *r, uint64_t first, uint64_t end)
{
    r->count = 1 + draw(h, MANY);
    for (size_t i = 0; i < r->count; i++) {
        r->ids[i] = first + draw(h, end - first);
        memcpy(r->vectors[i], h->m->vectors[r->ids[i]], sizeof r->vectors[i]);
        values_of(r->ids[i], &r->numbers[i], &r->reals[i], r->words[i]);
    }
}

static int call_add(struct hand *h)
{
    struct rows r;

    draw_rows(h, &r, KEPT, ROWS); /* which takes away their values */
    return vshard_index_add(h->m->x, r.ids, r.vectors, r.count);
}

static int add_with(struct vshard_index *x, struct rows *r)
{
    const struct vshard_values values[] = { { r->numbers, 0 },
                                            { r->reals, 0 },
                                            { r->words, WORD } };
    const struct vshard_add_options o = { sizeof o, 3, values };

    return vshard_index_add_with(x, r->ids, r->vectors, r->count, &o);
}

static int call_add_with(struct hand *h)
{
    struct rows r;

    draw_rows(h, &r, 0, ROWS);
    return add_with(h->m->x, &r);
}

static int call_remove(struct hand *h)
{
    size_t removed = MANY + 1;
    struct rows r;
    int rc;

    draw_rows(h, &r, KEPT, ROWS);
    rc = vshard_index_remove(h->m->x, r.ids, r.count, &removed);
    expect(h->m, removed <= r.count, "removed", r.ids[0], (double)removed);
    return rc;
}

static int call_maintain(struct hand *h)
{
    uint64_t remaining = ROWS + 1;
    int rc = vshard_index_maintain(h->m->x, draw(h, 4) * 200, &remaining);

    expect(h->m, remaining <= ROWS * 16, "remaining", 0, (double)remaining);
    return rc;
}

static int call_calibrate(struct hand *h)
{
    return vshard_index_calibrate(h->m->x, draw(h, 2) ? h->m->vectors : NULL, 20);
}

/* ---- searches ---- */

static int is_below(void *ctx, uint64_t id)
{
    return id < *(const uint64_t *)ctx;
}

static uint64_t read_clock(void *ctx)
{
    struct mix *m = ctx;

    return atomic_fetch_add(&m->now, 1);
}

/* All that an option of a search borrows. */
struct question {
    struct vshard_search_options o;
    struct vshard_search_info info;
    struct vshard_filter filter;
    struct vshard_clock clock;
    uint64_t below; /* ids that the filter allows */
    uint64_t ids[ROWS], bits[ROWS / 64 + 1];
    unsigned char where[64];
    uint32_t found[MANY];
    bool sure, cut; /* each row that is there is found; it may be cut */
};

static void filter_by(struct question *q, uint32_t kind)
{
    const int64_t limit = (int64_t)q->below;
    const struct vshard_condition c = {
        VSHARD_WHERE_LT, 0, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &limit
    };

    q->filter = (struct vshard_filter){ .size = sizeof q->filter, .kind = kind, .count = q->below };
    for (uint64_t i = 0; i < q->below; i++) {
        q->ids[i] = i;
        q->bits[i / 64] |= 1ull << i % 64;
    }
    q->filter.ids = q->ids;
    q->filter.bits = q->bits;
    q->filter.allow = is_below;
    q->filter.ctx = &q->below;
    q->filter.share = q->below % 2 ? 0.3f : 0;
    if (kind == VSHARD_FILTER_WHERE) {
        cr_assert_eq(vshard_where_encode(&c, 1, q->where, sizeof q->where, &q->filter.where_bytes),
                     0);
        q->filter.where = q->where;
    }
    q->o.filter = &q->filter;
}

/* Draws how to ask. A graph that is asked for a recall must have been calibrated, which it is from
 * the beginning. */
static void draw_question(struct hand *h, struct question *q)
{
    struct mix *m = h->m;
    uint32_t kind = (uint32_t)draw(h, 12);

    memset(q, 0, sizeof *q);
    q->below = ROWS;
    q->info.size = sizeof q->info;
    q->o = (struct vshard_search_options){ .size = sizeof q->o, .found = q->found };
    q->o.info = draw(h, 2) ? &q->info : NULL;
    if (draw(h, 3) == 0)
        q->o.flags = VSHARD_SEARCH_EXACT;
    q->sure = q->o.flags != 0 || m->x->family == VSHARD_FAMILY_FLAT;
    if (kind < 4) {
        q->below = 1 + draw(h, ROWS);
        filter_by(q, VSHARD_FILTER_IDS + kind);
    } else if (kind == 4) {
        q->clock = (struct vshard_clock){ read_clock, m };
        q->o.clock = &q->clock;
        q->o.deadline_ns = atomic_load(&m->now) + 1 + draw(h, 6);
        q->cut = true;
    } else if (kind == 5) {
        q->o.cancel = &m->cancel;
        q->cut = true;
    } else if (kind == 6) {
        q->o.distance_budget = 1 + draw(h, 200);
        q->cut = true;
    } else if (kind == 7) {
        q->o.flags |= VSHARD_SEARCH_WITHIN;
        q->o.distance_max = m->lean ? 0.2f : 0.001f;
    } else if (kind == 8) {
        q->o.target_recall = 0.9f;
    } else if (kind == 9) {
        q->o.ef_search = 200;
    }
}

static int call_search(struct hand *h)
{
    struct vshard_hit hits[MANY * K];
    float queries[MANY][D];
    uint64_t ids[MANY];
    size_t count = draw(h, 2) ? 1 : MANY;
    struct question q;
    int rc;

    draw_question(h, &q);
    for (size_t i = 0; i < count; i++) {
        ids[i] = draw(h, KEPT);
        memcpy(queries[i], h->m->vectors[ids[i]], sizeof queries[i]);
    }
    rc = vshard_index_search(h->m->x, queries, count, K, hits, &q.o);
    for (size_t i = 0; rc == VSHARD_OK && i < count; i++) {
        judge(h->m, queries[i], hits + i * K, q.found[i], q.below);
        if (!q.cut && ids[i] < q.below)
            judge_own(h->m, ids[i], hits + i * K, q.found[i], q.sure);
    }
    return rc;
}

static int call_range(struct hand *h)
{
    uint64_t id = draw(h, KEPT);
    struct vshard_hit hits[MANY * K];
    struct question q;
    int rc;

    draw_question(h, &q);
    rc = vshard_index_range(h->m->x, h->m->vectors[id], 2.0f, hits, MANY * K, &q.o);
    if (rc < 0)
        return rc;
    judge(h->m, h->m->vectors[id], hits, q.found[0], q.below);
    for (uint32_t i = 0; i < q.found[0]; i++)
        expect(h->m, hits[i].distance <= 2.0f, "too far", hits[i].id, (double)hits[i].distance);
    if (!q.cut && id < q.below)
        judge_own(h->m, id, hits, q.found[0], q.sure);
    return rc;
}

static int call_explain(struct hand *h)
{
    struct vshard_explanation e = { .size = sizeof e };
    uint64_t id = draw(h, ROWS + 5);
    struct question q;
    uint32_t why;
    int rc;

    draw_question(h, &q);
    rc = vshard_index_explain(h->m->x, h->m->vectors[id % ROWS], id, K, &q.o, &e);
    why = e.why;
    if (rc < 0)
        return rc;
    expect(h->m, id < ROWS || why == VSHARD_WHY_ABSENT, "explained", id, why);
    expect(h->m, id >= KEPT || why != VSHARD_WHY_ABSENT, "absent", id, why);
    expect(h->m, why != VSHARD_WHY_UNREACHABLE, "unreachable", id, why);
    if (id < KEPT && id >= q.below)
        expect(h->m, why == VSHARD_WHY_FILTERED, "not filtered", id, why);
    if (id < KEPT && id < q.below)
        expect(h->m, why == VSHARD_WHY_RETURNED || why >= VSHARD_WHY_LIMIT || h->m->lean,
               "explained", id, why);
    return rc;
}

/* ---- what is there ---- */

static int call_fetch(struct hand *h)
{
    uint64_t ids[2] = { draw(h, KEPT), KEPT + draw(h, ROWS) }; /* of these some never come */
    float v[2][D];
    uint8_t found[2];
    int rc = vshard_index_fetch(h->m->x, ids, 2, v, found);

    expect(h->m, found[0] == 1 && found[1] <= (ids[1] < ROWS), "fetched", ids[1], found[1]);
    expect(h->m, rc == (found[1] ? VSHARD_OK : VSHARD_ENOTFOUND), "fetch says", ids[1], rc);
    for (int i = 0; i < 2; i++)
        expect(h->m,
               !found[i] || h->m->lean ||
                   memcmp(v[i], h->m->vectors[ids[i] % ROWS], sizeof v[i]) == 0,
               "not its vector", ids[i], 0);
    return VSHARD_OK;
}

static int call_fetch_values(struct hand *h)
{
    uint64_t ids[2] = { draw(h, KEPT), KEPT + draw(h, ROWS) };
    int64_t numbers[2], number;
    double reals[2], real;
    char words[2][WORD], word[WORD];
    uint8_t found[2];
    const struct vshard_values values[] = { { numbers, 0 }, { reals, 0 }, { words, WORD } };
    int rc = vshard_index_fetch_values(h->m->x, ids, 2, values, 3, found);

    expect(h->m, found[0] == 1 && found[1] <= (ids[1] < ROWS), "fetched", ids[1], found[1]);
    expect(h->m, rc == (found[1] ? VSHARD_OK : VSHARD_ENOTFOUND), "fetch says", ids[1], rc);
    for (int i = 0; i < 2; i++) {
        bool none = found[i] && numbers[i] == VSHARD_MISSING && isnan(reals[i]) && !words[i][0];

        values_of(ids[i], &number, &real, word);
        expect(h->m,
               !found[i] || (none && ids[i] >= KEPT) ||
                   (numbers[i] == number && reals[i] <= real && reals[i] >= real &&
                    memcmp(words[i], word, WORD) == 0),
               "not its values", ids[i], (double)numbers[i]);
    }
    return VSHARD_OK;
}

static int call_attribute(struct hand *h)
{
    struct vshard_attribute a;
    int rc = vshard_index_attribute(h->m->x, draw(h, 4), &a);

    return rc == VSHARD_ENOTFOUND ? VSHARD_OK : rc;
}

static int call_count(struct hand *h)
{
    uint64_t count = vshard_index_count(h->m->x);

    expect(h->m, count >= KEPT && count <= ROWS, "count", 0, (double)count);
    return VSHARD_OK;
}

static int call_stats(struct hand *h)
{
    struct vshard_index_stats s = { .size = sizeof s };
    int rc = vshard_index_stats(h->m->x, &s);

    expect(h->m, s.rows >= KEPT && s.rows <= ROWS, "stats", 0, (double)s.rows);
    return rc;
}

static int check(struct mix *m, struct vshard_index *x)
{
    struct vshard_index_check c = { .size = sizeof c };
    int rc = vshard_index_check(x, &c);

    expect(m, c.unreachable == 0, "unreachable", 0, (double)c.unreachable);
    expect(m, c.rows >= KEPT && c.rows <= ROWS, "check", 0, (double)c.rows);
    return rc;
}

static int call_check(struct hand *h)
{
    return check(h->m, h->m->x);
}

static int call_digest(struct hand *h)
{
    uint64_t digest;

    return vshard_index_digest(h->m->x, &digest);
}

static int call_node_bytes(struct hand *h)
{
    uint64_t bytes[64];
    int rc = vshard_index_node_bytes(h->m->x, bytes, 64);

    return rc == VSHARD_ENOTSUP ? VSHARD_OK : rc;
}

/* ---- files, and other indexes ---- */

static int call_open(struct hand *h)
{
    struct vshard_open_options o = { .size = sizeof o, .storage = &h->m->storage };
    uint64_t id = draw(h, KEPT);
    struct vshard_index *x;
    struct vshard_hit hit;
    int rc;

    o.flags = draw(h, 2) ? VSHARD_OPEN_MAPPED : 0;
    rc = vshard_index_open(draw(h, 2) ? whole : changes, &o, &x);
    if (rc < 0)
        return rc;
    rc = vshard_index_search(x, h->m->vectors[id], 1, 1, &hit, NULL);
    if (rc == VSHARD_OK)
        judge(h->m, h->m->vectors[id], &hit, 1, ROWS);
    if (rc == VSHARD_OK)
        rc = check(h->m, x);
    vshard_index_destroy(x);
    return rc;
}

static int call_save(struct hand *h)
{
    return vshard_index_save(h->m->x, whole);
}

static int call_save_changes(struct hand *h)
{
    return vshard_index_save_changes(h->m->x, changes);
}

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "number" },
                                                      { VSHARD_ATTRIBUTE_DOUBLE, "real" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "word" } };

static int call_create(struct hand *h)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct vshard_index_estimate e = { .size = sizeof e };
    struct vshard_index *x;
    struct rows r;
    int rc;

    o.attributes = attributes;
    o.attribute_count = 3;
    rc = vshard_index_estimate(&o, 1 + draw(h, 100000), &e);
    if (rc == VSHARD_OK)
        rc = vshard_index_create(&o, &x);
    if (rc < 0)
        return rc;
    draw_rows(h, &r, 0, ROWS);
    rc = add_with(x, &r);
    vshard_index_destroy(x);
    return rc;
}

static const struct call {
    const char *name; /* of what the library has */
    int (*call)(struct hand *h);
    uint32_t share; /* of the calls, as a weight */
} calls[] = {
    { "vshard_index_add", call_add, 6 },
    { "vshard_index_add_with", call_add_with, 6 },
    { "vshard_index_remove", call_remove, 8 },
    { "vshard_index_maintain", call_maintain, 2 },
    { "vshard_index_calibrate", call_calibrate, 1 },
    { "vshard_index_search", call_search, 30 },
    { "vshard_index_range", call_range, 8 },
    { "vshard_index_explain", call_explain, 8 },
    { "vshard_index_fetch", call_fetch, 6 },
    { "vshard_index_fetch_values", call_fetch_values, 6 },
    { "vshard_index_attribute", call_attribute, 2 },
    { "vshard_index_count", call_count, 2 },
    { "vshard_index_stats", call_stats, 3 },
    { "vshard_index_check", call_check, 2 },
    { "vshard_index_digest", call_digest, 2 },
    { "vshard_index_node_bytes", call_node_bytes, 1 },
    { "vshard_index_open", call_open, 3 },
    { "vshard_index_save", call_save, 2 },
    { "vshard_index_save_changes", call_save_changes, 3 },
    { "vshard_index_create", call_create, 1 },
    { "vshard_index_estimate", call_create, 1 },
    { "vshard_index_destroy", call_create, 1 },
};

static const struct call *draw_call(struct hand *h)
{
    uint32_t all = 0;
    uint64_t at;

    for (size_t i = 0; i < VS_COUNT(calls); i++)
        all += calls[i].share;
    at = draw(h, all);
    for (size_t i = 0;; i++) {
        if (at < calls[i].share)
            return &calls[i];
        at -= calls[i].share;
    }
}

static void *call_all(void *arg)
{
    struct hand *h = arg;

    for (uint32_t i = 0; i < CALLS; i++) {
        const struct call *c = draw_call(h);
        int rc = c->call(h);

        expect(h->m, rc == VSHARD_OK, c->name, i, rc);
        if (i % 16 == 0)
            __atomic_store_n(&h->m->cancel, i / 16 % 2, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* ---- all together ---- */

static void begin(struct mix *m, uint32_t family, uint32_t profile, struct fault_storage *fs,
                  struct pool *pool)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct hand h = { m, 3 };
    uint64_t *ids = number_ids(0, ROWS), seed = 4;
    struct rows r;

    m->storage = *fault_storage_hook(fs);
    m->lean = profile == VSHARD_PROFILE_LEAN;
    draw_elements(&seed, VSHARD_ELEMENT_F32, m->vectors, (size_t)ROWS * D);
    o.family = family;
    o.profile = profile;
    o.ef_search = 100;
    o.storage = &m->storage;
    o.executor = pool_executor(pool);
    o.attributes = attributes;
    o.attribute_count = 3;
    m->x = make_index(&o);
    add_rows(m->x, ids, m->vectors, ROWS);
    for (uint64_t id = 0; id < KEPT; id++) {
        draw_rows(&h, &r, id, id + 1);
        cr_assert_eq(add_with(m->x, &r), VSHARD_OK);
    }
    cr_assert_eq(call_calibrate(&h), VSHARD_OK);
    cr_assert_eq(call_save(&h), VSHARD_OK);
    cr_assert_eq(call_save_changes(&h), VSHARD_OK);
    free(ids);
}

static void mix_all(uint32_t family, uint32_t profile)
{
    static struct mix m;
    struct fault_storage *fs = fault_storage_create(1);
    struct pool *pool = pool_create(2);
    struct hand hands[THREADS];
    pthread_t threads[THREADS];

    memset(&m, 0, sizeof m);
    begin(&m, family, profile, fs, pool);
    for (int i = 0; i < THREADS; i++) {
        hands[i] = (struct hand){ &m, (uint64_t)i + 1 };
        cr_assert_eq(pthread_create(&threads[i], NULL, call_all, &hands[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("index_mixed_threads: family %u, profile %u: %u of %u missed\n", family, profile,
           m.missed, m.asked);
    cr_expect_eq(m.wrong, 0, "family %u, profile %u: %u wrong", family, profile, m.wrong);
    cr_expect(m.missed <= m.asked / 100, "%u of %u missed", m.missed, m.asked);
    expect_clean(m.x, "in the end");
    vshard_index_destroy(m.x);
    pool_destroy(pool);
    cr_expect_null(fault_storage_verdict(fs), "%s", fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(index_mixed_threads, every_call_on_a_graph_beside_every_other)
{
    mix_all(VSHARD_FAMILY_HNSW, 0);
}

Test(index_mixed_threads, every_call_on_a_lean_graph_beside_every_other)
{
    mix_all(VSHARD_FAMILY_HNSW, VSHARD_PROFILE_LEAN);
}

Test(index_mixed_threads, every_call_on_a_flat_index_beside_every_other)
{
    mix_all(VSHARD_FAMILY_FLAT, 0);
}

/* As the library lists them. Out of reach of the source tree there is nothing to compare with. */
Test(index_mixed_threads, there_is_no_other_call)
{
    static const char here[] = __FILE__, mine[] = "tests/unit/index_mixed_threads.c";
    int n = (int)(strlen(here) - strlen(mine)), listed = 0;
    char path[4200], line[200], name[100];
    FILE *map;

    snprintf(path, sizeof path, "%.*slib/vshard.map", n, here);
    map = fopen(path, "r");
    while (map != NULL && fgets(line, sizeof line, map) != NULL) {
        bool known = false;

        if (sscanf(line, " %99[a-z_];", name) != 1 || strncmp(name, "vshard_index_", 13) != 0)
            continue;
        for (size_t i = 0; i < VS_COUNT(calls); i++)
            known = known || strcmp(calls[i].name, name) == 0;
        cr_expect(known, "%s is not among the calls above", name);
        listed++;
    }
    if (map != NULL) {
        cr_expect_eq(listed, VS_COUNT(calls));
        fclose(map);
    }
}
