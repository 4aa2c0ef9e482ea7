/* shard_tail.c - entries are searchable before they are applied, and what comes
 * of them is the same.
 *
 * Method: random entries are staged, and applied some steps later, by chance;
 * after each step all that a search says, and every row, is compared with an
 * array to which everything staged has been done. A twin applies the same
 * entries and stages none. */
#include <criterion/criterion.h>

#include "shard/keymap.h"
#include "support/fault_alloc.h"
#include "support/seeds.h"
#include "support/shard_truth.h"

enum { ENTRIES = 60, WAITING = 8 };

static struct vs_shard *make(const struct vshard_allocator *memory, uint32_t train_rows)
{
    struct vs_shard_plan plan = shard_plan(memory, NULL);
    struct vs_shard *s = NULL;

    plan.family = VSHARD_FAMILY_HNSW;
    plan.train_rows = train_rows;
    if (memory == NULL)
        cr_assert_eq(vs_shard_create(&plan, &s), VSHARD_OK);
    else if (vs_shard_create(&plan, &s) != VSHARD_OK)
        return NULL;
    return s;
}

struct entry {
    uint32_t kind, count;
    uint64_t first, salt, version, request;
    void *bytes;
    size_t byte_count;
};

/* Entries 1..ENTRIES; some say again what one of the last said. */
static void draw(struct entry *e, uint64_t *state, uint64_t index)
{
    e->kind = random_below(state, 3) == 0 ? VS_BATCH_REMOVE : VS_BATCH_ADD;
    e->first = random_below(state, TRUTH_KEYS - 61);
    e->count = 1 + (uint32_t)random_below(state, 60);
    e->version = random_one_in(state, 4) ? 1 + random_below(state, index + 20) : 0;
    e->salt = random_next(state) % 1000;
    e->request = index > 3 && random_one_in(state, 5) ? index - 1 - random_below(state, 3) : index;
    e->bytes = shard_entry(e->kind, e->first, 1, e->count, e->salt, e->version, e->request,
                           &e->byte_count);
}

struct run {
    struct entry entry[ENTRIES + 1];
    struct vs_shard *s, *twin;
    struct truth truth;
    bool asked[ENTRIES + 1]; /* requests that were done */
    uint64_t staged, applied, seed;
    uint32_t row;
};

static void note(struct run *r)
{
    const struct entry *e = &r->entry[r->staged];

    if (!r->asked[e->request])
        truth_apply(&r->truth, e->kind, e->first, e->count, e->salt, e->version, r->staged);
    r->asked[e->request] = true;
}

static void stage_one(struct run *r)
{
    const struct entry *e = &r->entry[r->staged + 1];

    cr_assert_eq(vs_shard_stage(r->s, r->staged + 2, e->bytes, e->byte_count), VSHARD_ESTALE);
    cr_assert_eq(vs_shard_stage(r->s, r->staged + 1, e->bytes, e->byte_count), VSHARD_OK);
    r->staged++;
    cr_assert_eq(vs_shard_searchable(r->s), r->staged);
    cr_assert_eq(vs_shard_stage(r->s, r->staged, e->bytes, e->byte_count), VSHARD_OK);
    note(r);
}

static void apply_one(struct run *r)
{
    const struct entry *e = &r->entry[r->applied + 1];

    cr_assert_eq(vs_shard_apply(r->s, r->applied + 1, e->bytes, e->byte_count, &r->row), VSHARD_OK);
    if (r->row < e->count)
        return;
    r->applied++;
    r->row = 0;
    cr_assert_eq(shard_apply(r->twin, r->applied, e->bytes, e->byte_count), VSHARD_OK);
}

static void run(uint64_t seed, uint32_t train_rows)
{
    struct run r = { .s = make(NULL, train_rows), .twin = make(NULL, train_rows), .seed = seed };
    uint64_t state = seed, a, b;
    uint32_t kept = 1;

    for (uint64_t i = 1; i <= ENTRIES; i++)
        draw(&r.entry[i], &state, i);
    while (r.applied < ENTRIES) {
        float query[SHARD_DIM];
        uint64_t what = random_below(&state, 4);

        if (what < 2 && r.staged < ENTRIES && r.staged < r.applied + WAITING)
            stage_one(&r);
        else if (what == 2 && r.applied < r.staged)
            apply_one(&r);
        else if (what == 3)
            cr_assert_eq(vs_shard_unstage(r.s, &kept), VSHARD_OK);
        for (int i = 0; i < SHARD_DIM; i++)
            query[i] = random_float(&state);
        cr_assert_eq(truth_compare(&r.truth, r.s, query, 0, 9, seed), VSHARD_OK);
        cr_assert_eq(truth_compare(&r.truth, r.s, query, 3, 5, seed), VSHARD_OK);
        truth_rows(&r.truth, r.s, seed);
    }
    cr_assert_eq(vs_shard_unstage(r.s, &kept), VSHARD_OK);
    cr_assert_eq(kept, 0u);
    cr_assert_eq(vs_shard_digest(r.s, &a), VSHARD_OK);
    cr_assert_eq(vs_shard_digest(r.twin, &b), VSHARD_OK);
    cr_assert_eq(a, b, "seed %d: staged, and another digest", (int)seed);
    for (uint64_t i = 1; i <= ENTRIES; i++)
        free(r.entry[i].bytes);
    vs_shard_destroy(r.s);
    vs_shard_destroy(r.twin);
}

Test(shard_tail, agrees_with_a_dictionary_whatever_is_applied_for_every_seed)
{
    for (uint64_t seed = seeds_first(); seed < seeds_end(30); seed++) {
        run(seed, 0);   /* scanned below */
        run(seed, 256); /* and with a graph */
    }
}

/* ---- how it holds, and lets go ---- */

static int stage(struct vs_shard *s, uint64_t index, uint32_t kind, uint64_t first, uint32_t count,
                 uint64_t salt, uint64_t request)
{
    size_t bytes;
    void *entry = shard_entry(kind, first, 1, count, salt, 0, request, &bytes);
    int rc = vs_shard_stage(s, index, entry, bytes);

    free(entry);
    return rc;
}

static uint32_t kept_of(struct vs_shard *s)
{
    uint32_t kept = UINT32_MAX;

    cr_assert_eq(vs_shard_unstage(s, &kept), VSHARD_OK);
    return kept;
}

Test(shard_tail, keeps_rows_until_searches_that_began_before_are_over)
{
    struct vs_shard *s = make(NULL, 0);
    uint32_t before, after;

    cr_assert_eq(stage(s, 1, VS_BATCH_ADD, 0, 20, 1, 1), VSHARD_OK);
    cr_expect_eq(kept_of(s), 20u, "not applied");
    before = vs_tail_enter(s->tail);
    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 0, 20, 1, 0, 1), VSHARD_OK);
    cr_expect_eq(kept_of(s), 20u, "a search began before it was applied");
    after = vs_tail_enter(s->tail);
    cr_expect_neq(after, before);
    cr_expect_eq(kept_of(s), 20u);
    vs_tail_leave(s->tail, before);
    cr_expect_eq(kept_of(s), 0u, "who began later finds them below");
    vs_tail_leave(s->tail, after);
    vs_shard_destroy(s);
}

Test(shard_tail, takes_so_many_rows_and_whatever_comes_alone)
{
    struct vs_shard *s = make(NULL, 0);
    uint64_t index = 0;
    int rc = VSHARD_OK;

    while (rc == VSHARD_OK && index < 100) {
        index++;
        rc = stage(s, index, VS_BATCH_ADD, 100 * index, 100, index, 0);
    }
    cr_assert_eq(rc, VSHARD_EBUSY);
    cr_expect_eq(index, 4096u / 100 + 1);
    cr_expect_eq(kept_of(s), 4000u + 0u);
    for (uint64_t i = 1; i < index; i++)
        cr_assert_eq(shard_do(s, i, VS_BATCH_ADD, 100 * i, 100, i, 0, 0), VSHARD_OK);
    cr_expect_eq(kept_of(s), 0u);
    cr_expect_eq(stage(s, index, VS_BATCH_ADD, 0, 9000, 1, 0), VSHARD_OK);
    cr_expect_eq(stage(s, index + 1, VS_BATCH_ADD, 0, 1, 1, 0), VSHARD_EBUSY);
    vs_shard_destroy(s);
}

Test(shard_tail, counts_rows_as_searches_find_them_also_behind_what_was_never_staged)
{
    struct vs_shard *s = make(NULL, 0);

    cr_assert_eq(stage(s, 1, VS_BATCH_ADD, 0, 20, 1, 0), VSHARD_OK);
    cr_expect_eq(vs_shard_rows(s), 20u);
    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 0, 20, 1, 0, 0), VSHARD_OK);
    cr_assert_eq(shard_do(s, 2, VS_BATCH_ADD, 10, 20, 1, 0, 0), VSHARD_OK);
    cr_expect_eq(vs_shard_rows(s), 30u);
    cr_assert_eq(stage(s, 3, VS_BATCH_REMOVE, 25, 10, 1, 0), VSHARD_OK);
    cr_expect_eq(vs_shard_rows(s), 25u);
    cr_assert_eq(stage(s, 4, VS_BATCH_ADD, 0, 40, 1, 0), VSHARD_OK);
    cr_expect_eq(vs_shard_rows(s), 40u);
    cr_assert_eq(shard_do(s, 3, VS_BATCH_REMOVE, 25, 10, 1, 0, 0), VSHARD_OK);
    cr_expect_eq(vs_shard_rows(s), 40u, "what is below is behind, and not what counts");
    cr_expect_eq(kept_of(s), 40u);
    vs_shard_destroy(s);
}

enum { WIDE = 8 };

/* WIDE rows, of 64 KiB each beside their vectors. */
static void *wide_entry(uint64_t index, size_t *bytes)
{
    static char wide[VS_PAYLOAD_MAX];
    struct vshard_key keys[WIDE];
    const void *payloads[WIDE];
    uint32_t lengths[WIDE];
    float vectors[WIDE * SHARD_DIM] = { 0 };
    const struct vs_batch_source b = { .kind = VS_BATCH_ADD,
                                       .count = WIDE,
                                       .vector_bytes = 4 * SHARD_DIM,
                                       .attribute_count = SHARD_ATTRIBUTES,
                                       .attributes = shard_attributes,
                                       .keys = keys,
                                       .payloads = payloads,
                                       .payload_bytes = lengths,
                                       .vectors = vectors };
    void *entry;

    for (uint32_t i = 0; i < WIDE; i++) {
        keys[i] = (struct vshard_key){ 7, WIDE * index + i };
        payloads[i] = wide;
        lengths[i] = VS_PAYLOAD_MAX;
    }
    *bytes = vs_batch_bytes(&b);
    entry = malloc(*bytes);
    vs_batch_encode(&b, entry);
    return entry;
}

static int stage_wide(struct vs_shard *s, uint64_t index)
{
    size_t bytes;
    void *entry = wide_entry(index, &bytes);
    int rc = vs_shard_stage(s, index, entry, bytes);

    free(entry);
    return rc;
}

/* What has left gives its payloads' room to what comes. */
Test(shard_tail, takes_so_many_payloads)
{
    struct vs_shard *s = make(NULL, 0);
    uint64_t index = 0;

    while (stage_wide(s, index + 1) == VSHARD_OK)
        index++;
    cr_expect_eq(index, 8u, "4 MiB");
    for (uint64_t i = 1; i <= 3; i++) {
        size_t bytes;
        void *entry = wide_entry(i, &bytes);

        cr_assert_eq(shard_apply(s, i, entry, bytes), VSHARD_OK);
        free(entry);
    }
    cr_expect_eq(kept_of(s), 5u * WIDE);
    for (uint64_t i = 1; i <= 3; i++)
        cr_expect_eq(stage_wide(s, index + i), VSHARD_OK);
    cr_expect_eq(stage_wide(s, index + 4), VSHARD_EBUSY);
    vs_shard_destroy(s);
}

Test(shard_tail, is_small_again_after_a_first_load)
{
    struct vs_shard *s = make(NULL, 0);
    struct vshard_index_stats before = { .size = sizeof before }, after = before;

    vshard_index_stats(s->tail->index, &before);
    cr_assert_eq(stage(s, 1, VS_BATCH_ADD, 0, 9000, 1, 0), VSHARD_OK);
    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 0, 9000, 1, 0, 0), VSHARD_OK);
    cr_expect_eq(kept_of(s), 0u);
    vshard_index_stats(s->tail->index, &after);
    cr_expect_eq(s->tail->map.count, 0u, "each step would look at all of them");
    cr_expect_eq(stage(s, 2, VS_BATCH_ADD, 0, 3000, 2, 0), VSHARD_OK);
    cr_assert_eq(shard_do(s, 2, VS_BATCH_ADD, 0, 3000, 2, 0, 0), VSHARD_OK);
    cr_expect_eq(kept_of(s), 0u);
    vshard_index_stats(s->tail->index, &after);
    vs_shard_destroy(s);
}

/* ---- more is hidden than a search may ask for ---- */

static uint32_t search_many(struct vs_shard *s, uint32_t k, uint32_t exact,
                            struct vshard_merge_hit *hit)
{
    const float query[SHARD_DIM] = { 0.5f };
    struct vs_shard_query q = { .vector = query, .k = k, .exact = exact, .bound = INFINITY };
    struct vs_shard_answer a;

    cr_assert_eq(vs_shard_search(s, &q, hit, &a), VSHARD_OK);
    return a.found;
}

Test(shard_tail, hides_no_row_behind_those_that_are_gone)
{
    static struct vshard_merge_hit hit[VSHARD_K_MAX];
    struct vs_shard *s = make(NULL, 0);

    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 0, 9000, 1, 0, 0), VSHARD_OK);
    cr_assert_eq(stage(s, 2, VS_BATCH_REMOVE, 0, 2000, 1, 0), VSHARD_OK);
    for (uint32_t exact = 0; exact < 2; exact++)
        cr_expect_eq(search_many(s, VSHARD_K_MAX, exact, hit), (uint32_t)VSHARD_K_MAX);
    cr_assert_eq(shard_do(s, 2, VS_BATCH_REMOVE, 0, 2000, 1, 0, 0), VSHARD_OK);
    cr_expect_eq(kept_of(s), 0u);
    cr_assert_eq(stage(s, 3, VS_BATCH_REMOVE, 0, 8990, 1, 0), VSHARD_OK);
    for (uint32_t exact = 0; exact < 2; exact++) {
        cr_expect_eq(search_many(s, 10, exact, hit), 10u);
        for (uint32_t i = 0; i < 10; i++)
            cr_expect_geq(hit[i].key.lo, 8990u);
    }
    vs_shard_destroy(s);
}

/* ---- deadlines ---- */

struct looks {
    uint64_t left;
};

static uint64_t now_ns(void *ctx)
{
    struct looks *l = ctx;

    return l->left == 0 ? 2 : (l->left--, 0);
}

/* Who has more time finds nothing that is farther. */
Test(shard_tail, is_cut_short_and_does_not_forget_what_was_found)
{
    struct vs_shard *s = make(NULL, 0);
    float least = INFINITY, query[SHARD_DIM] = { 0.5f };

    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 0, 800, 1, 0, 0), VSHARD_OK);
    cr_assert_eq(stage(s, 2, VS_BATCH_REMOVE, 400, 400, 1, 0), VSHARD_OK);
    for (uint64_t looks = 0; looks < 100; looks++) {
        struct looks left = { looks };
        const struct vshard_clock clock = { .ctx = &left, .now_ns = now_ns };
        struct vs_shard_query q = { .vector = query,
                                    .k = 10,
                                    .exact = 1,
                                    .bound = INFINITY,
                                    .clock = &clock,
                                    .deadline_ns = 1 };
        struct vshard_merge_hit hit[10];
        struct vs_shard_answer a;

        cr_assert_eq(vs_shard_search(s, &q, hit, &a), VSHARD_OK);
        if (a.found == 0)
            continue;
        cr_expect_leq(hit[0].distance, least, "after %d looks at the clock", (int)looks);
        least = hit[0].distance;
    }
    vs_shard_destroy(s);
}

/* The shard may forget a request over the entries that wait: then it is not
 * known now whether it has been done by the time that the entry is applied. */
Test(shard_tail, waits_where_a_request_may_be_forgotten)
{
    struct vs_shard *s = make(NULL, 0);
    uint64_t index = 0;
    uint32_t kept;

    for (uint64_t id = 1; id <= VS_REQUESTS_KEPT; id++)
        cr_assert_eq(shard_do(s, ++index, VS_BATCH_ADD, id % 50, 1, id, 0, id), VSHARD_OK);
    cr_assert_eq(stage(s, index + 1, VS_BATCH_ADD, 60, 1, 1, 1), VSHARD_OK, "it is next");
    cr_expect_eq(vs_shard_unstage(s, &kept), VSHARD_OK);
    cr_expect_eq(kept, 0u, "it was done before");
    cr_assert_eq(stage(s, index + 2, VS_BATCH_ADD, 61, 1, 1, VS_REQUESTS_KEPT + 9), VSHARD_OK);
    cr_assert_eq(stage(s, index + 3, VS_BATCH_ADD, 62, 1, 1, 2), VSHARD_EBUSY);
    cr_assert_eq(shard_do(s, index + 1, VS_BATCH_ADD, 60, 1, 1, 0, 1), VSHARD_OK);
    cr_assert_eq(shard_do(s, index + 2, VS_BATCH_ADD, 61, 1, 1, 0, VS_REQUESTS_KEPT + 9),
                 VSHARD_OK);
    cr_assert_eq(stage(s, index + 3, VS_BATCH_ADD, 62, 1, 1, 2), VSHARD_OK);
    vs_shard_destroy(s);
}

Test(shard_tail, refuses_what_cannot_be_applied)
{
    struct vs_shard *s = make(NULL, 0);
    size_t bytes;
    unsigned char *entry = shard_entry(VS_BATCH_ADD, 0, 1, 3, 1, 0, 0, &bytes);

    cr_expect_eq(vs_shard_stage(s, 1, entry, bytes - 8), VSHARD_ECORRUPT);
    entry[0] = VS_APPLY_FORMAT + 1;
    cr_expect_eq(vs_shard_stage(s, 1, entry, bytes), VSHARD_EVERSION);
    cr_expect_eq(vs_shard_searchable(s), 0u);
    free(entry);
    vs_shard_destroy(s);
}

/* ---- distances ---- */

enum { DIM = 128, ROWS = 200 };

static void stage_vectors(const uint32_t metric, uint32_t element)
{
    struct vs_shard_plan plan = {
        .dim = DIM, .family = VSHARD_FAMILY_HNSW, .metric = metric, .element = element, .seed = 1
    };
    uint32_t width = vs_plan_vector_bytes(&plan), row = 0;
    unsigned char *vectors = malloc((size_t)(ROWS + 1) * width), *entry;
    struct vshard_key keys[ROWS];
    struct vs_batch_source b = {
        .kind = VS_BATCH_ADD, .count = ROWS, .vector_bytes = width, .keys = keys, .vectors = vectors
    };
    struct vs_shard_query q = { .k = 20, .bound = INFINITY };
    struct vshard_merge_hit hit[2][20];
    struct vs_shard_answer a[2];
    struct vs_shard *s;
    uint64_t state = 1;
    size_t bytes;
    uint32_t kept;

    for (size_t i = 0; i < (size_t)(ROWS + 1) * width; i++)
        vectors[i] = (unsigned char)random_below(&state, 256);
    for (size_t i = 0; element == VSHARD_ELEMENT_F32 && i < (ROWS + 1) * DIM; i++)
        ((float *)(void *)vectors)[i] = random_float(&state) - 0.5f;
    for (size_t i = 0; element == VSHARD_ELEMENT_F16 && i < (ROWS + 1) * DIM; i++)
        ((uint16_t *)(void *)vectors)[i] = (uint16_t)(0x3000 + random_below(&state, 0x800));
    for (uint64_t i = 0; i < ROWS; i++)
        keys[i] = (struct vshard_key){ 0, i };
    q.vector = vectors + (size_t)ROWS * width;
    bytes = vs_batch_bytes(&b);
    entry = malloc(bytes);
    vs_batch_encode(&b, entry);
    cr_assert_eq(vs_shard_create(&plan, &s), VSHARD_OK);
    cr_assert_eq(vs_shard_stage(s, 1, entry, bytes), VSHARD_OK);
    cr_assert_eq(vs_shard_search(s, &q, hit[0], &a[0]), VSHARD_OK);
    while (row < ROWS)
        cr_assert_eq(vs_shard_apply(s, 1, entry, bytes, &row), VSHARD_OK);
    cr_assert_eq(vs_shard_unstage(s, &kept), VSHARD_OK);
    cr_assert_eq(vs_shard_search(s, &q, hit[1], &a[1]), VSHARD_OK);
    cr_assert_eq(a[0].found, 20u);
    cr_assert_eq(a[1].found, 20u);
    for (int i = 0; i < 20; i++) {
        cr_expect_eq(hit[0][i].key.lo, hit[1][i].key.lo, "metric %d, element %d", (int)metric,
                     (int)element);
        cr_expect_eq(hit[0][i].distance, hit[1][i].distance);
    }
    vs_shard_destroy(s);
    free(entry);
    free(vectors);
}

Test(shard_tail, measures_as_the_shard_does)
{
    for (uint32_t metric = VSHARD_METRIC_L2SQ; metric <= VSHARD_METRIC_COSINE; metric++) {
        stage_vectors(metric, VSHARD_ELEMENT_F32);
        stage_vectors(metric, VSHARD_ELEMENT_F16);
        stage_vectors(metric, VSHARD_ELEMENT_I8);
        stage_vectors(metric, VSHARD_ELEMENT_U8);
    }
    stage_vectors(VSHARD_METRIC_L1, VSHARD_ELEMENT_F32);
    stage_vectors(VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS);
}

/* ---- memory ---- */

/* What fails changes nothing, and can be done again. */
static int with_failing_memory(const struct vshard_allocator *memory, void *arg)
{
    const float query[SHARD_DIM] = { 0.5f };
    struct vs_shard *s = make(memory, 0);
    struct truth t;
    uint32_t kept;
    int rc = s != NULL ? VSHARD_OK : VSHARD_ENOMEM;

    (void)arg;
    memset(&t, 0, sizeof t);
    for (uint64_t index = 1; rc == VSHARD_OK && index <= 6; index++) {
        uint32_t kind = index == 3 ? VS_BATCH_REMOVE : VS_BATCH_ADD;
        uint64_t first = 10 * index - (index == 3 ? 15 : 0);

        rc = stage(s, index, kind, first, 40, index, index);
        if (rc == VSHARD_OK)
            truth_apply(&t, kind, first, 40, index, 0, index);
        truth_compare(&t, s, query, 0, 9, index);
        if (rc == VSHARD_OK && index % 2 == 0) {
            for (uint64_t i = index - 1; rc == VSHARD_OK && i <= index; i++)
                rc = shard_do(s, i, i == 3 ? VS_BATCH_REMOVE : VS_BATCH_ADD,
                              10 * i - (i == 3 ? 15 : 0), 40, i, 0, i);
            if (rc == VSHARD_OK)
                rc = vs_shard_unstage(s, &kept);
            truth_compare(&t, s, query, 0, 9, index);
        }
    }
    vs_shard_destroy(s);
    return rc;
}

Test(shard_tail, is_all_or_nothing_whichever_allocation_fails)
{
    char why[200];

    cr_assert(fault_alloc_try_each(with_failing_memory, NULL, why, sizeof why) > 0, "%s", why);
}
