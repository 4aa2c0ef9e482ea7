/* index_faults.c - without memory or disk a call fails, and nothing else happens.
 *
 * Method: an index in a known state is opened from a file in memory, so that each try
 * begins alike; the k-th allocation (then: all from the k-th on) fails inside one
 * call, for each k until a try meets no failure. The call must say ENOMEM and log an
 * event; digest, count and answers must be those of before; after some of them the call is
 * repeated with memory, and the digest must be that of an index that never met a failure; and
 * nothing may leak. The same with the k-th storage call of save and open, by EIO and
 * by a full disk. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"

enum { D = 5, D_SKETCHES = 66, D_AXES = 257, ROWS = 1400, QUERIES = 3, K = 5 };

struct stage {
    struct vshard_index *x;
    struct fault_alloc memory;
    struct fault_storage *fs;
    struct seen seen;
    struct vshard_logger logger;
    struct vshard_executor executor;
    float *vectors;
    uint64_t *ids;
};

/* An executor of width 3 on one thread, so that strands are there to be allocated. */
static void run_here(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    (void)ctx;
    for (uint32_t i = 0; i < count; i++)
        task(arg, i);
}

static const struct vshard_executor three = { run_here, NULL, 3, 0 };

static const struct situation {
    const char *name;
    uint32_t dim, family, metric, rows, removed, budget, profile, attributes;
} situations[] = {
    { "empty", D, 0, 0, 0, 0, 0, 0, 0 },
    { "flat", D, 1, 2, 300, 50, 0, 0, 0 },
    { "flat, by bytes", 40, 1, 0, 1100, 50, 0, 0, 0 },
    { "just before training", D, 0, 1, 250, 20, 0, 0, 0 },
    { "with a graph", D, 0, 2, 1020, 100, 0, 0, 0 },
    { "before a repair", D, 0, 0, 1300, 990, 0, 0, 0 },
    { "in the midst of a repair", D, 0, 1, 1300, 900, 700, 0, 0 },
    { "just before training sketches", D_AXES, 0, 2, 250, 20, 0, 0, 0 },
    { "with sketches", D_SKETCHES, 0, 0, 300, 20, 0, 0, 0 },
    { "with sketches that have axes", D_AXES, 0, 0, 300, 20, 0, 0, 0 },
    { "lean, just before training", D, 0, 0, 250, 20, 0, 1, 0 },
    { "lean, with a graph", D, 0, 2, 1020, 100, 0, 1, 0 },
    { "flat, with attributes", D, 1, 2, 300, 50, 0, 0, 2 },
    { "with attributes, just before training", D, 0, 1, 250, 20, 0, 0, 2 },
    { "in the midst of a repair, with attributes", D, 0, 1, 1300, 900, 700, 0, 2 },
};

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "number" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "word" } };

/* Adds rows with values, a hundred of them new each time, where the index has attributes. */
static int add_valued(struct vshard_index *x, const uint64_t *ids, const float *vectors,
                      uint32_t count)
{
    static char words[ROWS][8];
    static int64_t numbers[ROWS];
    struct vshard_index_stats stats = { .size = sizeof stats };
    const struct vshard_values values[] = { { numbers, 0 }, { words, sizeof words[0] } };
    struct vshard_add_options o = { .size = sizeof o, .values = values };

    vshard_index_stats(x, &stats);
    o.value_count = stats.attribute_count;
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = i % 50;
        snprintf(words[i], sizeof words[i], "w%u", count + i % 100);
    }
    return vshard_index_add_with(x, ids, vectors, count, &o);
}

static void begin(struct stage *s, const struct situation *at)
{
    struct vshard_index_options o = small_options(at->dim, at->metric, VSHARD_ELEMENT_F32);
    uint64_t seed = 31;
    struct vshard_index *x;

    memset(s, 0, sizeof *s);
    s->fs = fault_storage_create(3);
    s->vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, at->dim);
    s->ids = number_ids(0, ROWS);
    fault_alloc_init(&s->memory);
    s->logger = seen_logger(&s->seen);
    o.m = 4;
    o.ef_construction = 8;
    o.family = at->family;
    o.profile = at->profile;
    o.storage = fault_storage_hook(s->fs);
    o.attributes = attributes;
    o.attribute_count = at->attributes;
    x = make_index(&o);
    cr_assert_eq(add_valued(x, s->ids, s->vectors, at->rows), 0);
    remove_rows(x, s->ids, at->removed);
    if (at->budget > 0)
        cr_assert_eq(vshard_index_maintain(x, at->budget, NULL), 0);
    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    vshard_index_destroy(x);
}

static void open_stage(struct stage *s)
{
    struct vshard_open_options o = { .size = sizeof o,
                                     .allocator = &s->memory.hook,
                                     .logger = &s->logger,
                                     .executor = &three,
                                     .storage = fault_storage_hook(s->fs) };
    int rc = vshard_index_open("/i", &o, &s->x);

    cr_assert_eq(rc, 0, "open: %s", vshard_strerror(rc));
}

static void close_stage(struct stage *s, const char *name, uint64_t k)
{
    vshard_index_destroy(s->x);
    cr_assert_null(fault_alloc_verdict(&s->memory), "%s, k %llu: %s", name, (unsigned long long)k,
                   fault_alloc_verdict(&s->memory));
    cr_assert_null(fault_storage_verdict(s->fs), "%s, k %llu: %s", name, (unsigned long long)k,
                   fault_storage_verdict(s->fs));
}

static void end(struct stage *s)
{
    fault_alloc_fini(&s->memory);
    fault_storage_destroy(s->fs);
    free(s->ids);
    free(s->vectors);
}

/* ---- the calls ---- */

static int call_add_few(struct stage *s)
{
    return add_valued(s->x, s->ids + 1010, s->vectors, 40);
}

static int call_add_many(struct stage *s) /* trains, grows every column, begins a repair */
{
    return add_valued(s->x, s->ids, s->vectors, s->x->dim > D ? 600 : ROWS);
}

static int call_replace(struct stage *s)
{
    return add_valued(s->x, s->ids + 100, s->vectors, 30);
}

static int call_remove(struct stage *s)
{
    return vshard_index_remove(s->x, s->ids, 1100, NULL);
}

static int call_maintain(struct stage *s)
{
    return vshard_index_maintain(s->x, 0, NULL);
}

static int call_search(struct stage *s)
{
    struct vshard_hit hits[QUERIES * 300];
    struct vshard_search_options o = { .size = sizeof o, .ef_search = 300 };

    return vshard_index_search(s->x, s->vectors, QUERIES, 300, hits, &o);
}

static int call_save(struct stage *s)
{
    return vshard_index_save(s->x, "/j");
}

static int call_check(struct stage *s)
{
    return vshard_index_check(s->x, NULL);
}

static int call_digest(struct stage *s)
{
    uint64_t digest;

    return vshard_index_digest(s->x, &digest);
}

static int allow_odd(void *ctx, uint64_t id)
{
    (void)ctx;
    return id % 2;
}

static int ask_where(struct stage *s, struct vshard_hit *hits)
{
    static const int64_t few[] = { 4, 9, 30 };
    const struct vshard_condition in = { VSHARD_WHERE_IN, 0, VSHARD_ATTRIBUTE_INT64, 3, 0, 0, few };
    char words[2][8];
    const struct vshard_values both[] = { { NULL, 0 }, { words, 8 } };
    unsigned char where[64];
    struct vshard_filter f = { .size = sizeof f, .kind = VSHARD_FILTER_WHERE, .where = where };
    struct vshard_search_options o = { .size = sizeof o, .filter = &f };
    int rc;

    cr_assert_eq(vshard_where_encode(&in, 1, where, sizeof where, &f.where_bytes), 0);
    rc = vshard_index_search(s->x, s->vectors, 1, K, hits, &o);
    if (rc == VSHARD_OK)
        rc = vshard_index_fetch_values(s->x, s->ids + 200, 2, both, 2, NULL);
    return rc == VSHARD_ENOTFOUND ? VSHARD_OK : rc; /* they may be removed */
}

static int call_ask(struct stage *s)
{
    const uint64_t ids[] = { 1, 3, 9 };
    const struct vshard_filter list = {
        .size = sizeof list, .kind = VSHARD_FILTER_IDS, .count = 3, .ids = ids
    };
    const struct vshard_filter call = { .size = sizeof call,
                                        .kind = VSHARD_FILTER_CALL,
                                        .allow = allow_odd };
    struct vshard_search_options o = { .size = sizeof o, .filter = &list };
    struct vshard_explanation e = { .size = sizeof e };
    struct vshard_hit hits[2 * K];
    int rc = vshard_index_search(s->x, s->vectors, 1, K, hits, &o);

    if (rc == VSHARD_OK && s->x->attributes.count > 0)
        rc = ask_where(s, hits);
    o.filter = &call;
    if (rc == VSHARD_OK)
        rc = vshard_index_range(s->x, s->vectors, 0.5f, hits, 2 * K, &o);
    return rc < 0 ? rc : vshard_index_explain(s->x, s->vectors, 2, K, NULL, &e);
}

static int call_calibrate(struct stage *s)
{
    return vshard_index_calibrate(s->x, s->vectors, 60);
}

static const struct call {
    const char *name;
    int (*call)(struct stage *s);
    uint32_t least; /* allocations in some situation, so that the test tests something */
} calls[] = {
    { "add few", call_add_few, 4 },
    { "add many", call_add_many, 20 },
    { "replace", call_replace, 4 },
    { "remove", call_remove, 4 },
    { "maintain", call_maintain, 4 },
    { "search", call_search, 8 },
    { "save", call_save, 3 },
    { "check", call_check, 2 },
    { "digest", call_digest, 1 },
    { "ask", call_ask, 3 },
    { "calibrate", call_calibrate, 20 },
};

static void answers_of(struct stage *s, struct vshard_hit hits[2 * QUERIES * K])
{
    search_rows(s->x, s->vectors, QUERIES, K, 0, 0, hits);
    search_rows(s->x, s->vectors, QUERIES, K, 0, VSHARD_SEARCH_EXACT, hits + QUERIES * K);
}

/* What the call leads to when nothing fails. */
static uint64_t digest_after(struct stage *s, const struct call *c)
{
    uint64_t digest;

    open_stage(s);
    cr_assert_eq(c->call(s), 0, "%s", c->name);
    digest = digest_of(s->x);
    close_stage(s, c->name, 0);
    return digest;
}

/* Returns whether the k-th allocation was reached. */
static bool fail_once(struct stage *s, const struct call *c, const char *name, uint64_t k,
                      uint32_t how, uint64_t after)
{
    struct vshard_hit before[2 * QUERIES * K], then[2 * QUERIES * K];
    uint64_t digest, count;
    bool struck;
    int rc;

    open_stage(s);
    if (c->call != call_search) /* which would get its buffers here */
        answers_of(s, before);
    digest = digest_of(s->x);
    count = vshard_index_count(s->x);
    s->memory.failures = 0;
    s->seen.errors = 0;
    fault_alloc_fail(&s->memory, k, how);
    rc = c->call(s);
    fault_alloc_fail(&s->memory, 0, FAULT_ONCE);
    struck = s->memory.failures > 0;
    cr_assert_eq(rc, struck ? VSHARD_ENOMEM : 0, "%s, k %llu: %s", name, (unsigned long long)k,
                 vshard_strerror(rc));
    if (struck) {
        cr_assert(s->seen.errors > 0, "%s, k %llu: no event", name, (unsigned long long)k);
        cr_assert_eq(digest_of(s->x), digest, "%s, k %llu: changed", name, (unsigned long long)k);
        cr_assert_eq(vshard_index_count(s->x), count);
        expect_clean(s->x, name);
        if (c->call != call_search) {
            answers_of(s, then);
            cr_assert_eq(memcmp(before, then, sizeof then), 0, "%s, k %llu: other answers", name,
                         (unsigned long long)k);
        }
    }
    if (!struck || k % 16 == 1) {
        cr_assert_eq(struck ? c->call(s) : 0, 0, "%s, k %llu: fails again", name,
                     (unsigned long long)k);
        cr_assert_eq(digest_of(s->x), after, "%s, k %llu: leads elsewhere", name,
                     (unsigned long long)k);
    }
    close_stage(s, name, k);
    return struck;
}

static void expect_no_harm(const struct call *c)
{
    uint64_t most = 0;

    for (size_t i = 0; i < VS_COUNT(situations); i++) {
        struct stage s;
        char name[100];
        uint64_t after, k = 0;

        snprintf(name, sizeof name, "%s, %s", c->name, situations[i].name);
        begin(&s, &situations[i]);
        after = digest_after(&s, c);
        do
            k++;
        while (fail_once(&s, c, name, k, FAULT_ONCE, after));
        most = k - 1 > most ? k - 1 : most;
        while (--k > 0)
            fail_once(&s, c, name, k, FAULT_FOREVER, after);
        end(&s);
    }
    cr_expect(most >= c->least, "%s: only %llu allocations were made to fail", c->name,
              (unsigned long long)most);
}

Test(index_faults, adding_without_memory_changes_nothing)
{
    expect_no_harm(&calls[0]);
    expect_no_harm(&calls[2]);
}

Test(index_faults, adding_much_without_memory_changes_nothing)
{
    expect_no_harm(&calls[1]);
}

Test(index_faults, removing_and_repairing_without_memory_change_nothing)
{
    expect_no_harm(&calls[3]);
    expect_no_harm(&calls[4]);
}

Test(index_faults, reading_without_memory_fails_cleanly)
{
    for (size_t i = 5; i < VS_COUNT(calls); i++)
        expect_no_harm(&calls[i]);
}

/* ---- create and open ---- */

static int create_once(const struct vshard_allocator *memory, void *arg)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_IP, VSHARD_ELEMENT_F32);
    struct vshard_index *x = (void *)1;
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    int rc;

    (void)arg;
    o.allocator = memory;
    o.logger = &logger;
    rc = vshard_index_create(&o, &x);
    cr_assert((rc == 0) == (x != NULL));
    cr_assert_eq(rc<0, seen.errors> 0, "an event for each failure");
    vshard_index_destroy(x);
    return rc;
}

struct opening_case {
    struct stage *s;
    uint32_t flags;
};

static int open_once(const struct vshard_allocator *memory, void *arg)
{
    const struct opening_case *c = arg;
    struct vshard_open_options o = { .size = sizeof o,
                                     .flags = c->flags,
                                     .allocator = memory,
                                     .logger = &c->s->logger,
                                     .storage = fault_storage_hook(c->s->fs) };
    struct vshard_index *x = (void *)1;
    int rc;

    c->s->seen.errors = 0;
    rc = vshard_index_open("/i", &o, &x);
    cr_assert((rc == 0) == (x != NULL));
    cr_assert_eq(rc<0, c->s->seen.errors> 0, "an event for each failure");
    vshard_index_destroy(x);
    cr_assert_null(fault_storage_verdict(c->s->fs));
    return rc;
}

Test(index_faults, creating_without_memory_leaves_nothing)
{
    char why[200];
    uint64_t runs = fault_alloc_try_each(create_once, NULL, why, sizeof why);

    cr_expect(runs >= 6, "%llu runs: %s", (unsigned long long)runs, why);
}

Test(index_faults, opening_without_memory_leaves_nothing)
{
    for (size_t i = 0; i < VS_COUNT(situations); i++) {
        for (uint32_t flags = 0; flags < 2; flags++) {
            struct stage s;
            struct opening_case c = { &s, flags };
            char why[200];
            uint64_t runs;

            begin(&s, &situations[i]);
            runs = fault_alloc_try_each(open_once, &c, why, sizeof why);
            cr_expect(runs >= 6, "%s, flags %u, %llu runs: %s", situations[i].name, flags,
                      (unsigned long long)runs, why);
            end(&s);
        }
    }
}

/* ---- storage ---- */

static uint64_t saved_digest(struct fault_storage *fs, const char *path)
{
    struct vshard_open_options o = { .size = sizeof o, .storage = fault_storage_hook(fs) };
    struct vshard_index *x;
    uint64_t digest;

    cr_assert_eq(vshard_index_open(path, &o, &x), 0, "the file is damaged");
    digest = digest_of(x);
    vshard_index_destroy(x);
    return digest;
}

/* One save over an older file while storage fails. Returns whether it was struck. */
static bool save_once(struct stage *s, const struct fault_rule *rule, uint64_t old, uint64_t new)
{
    uint64_t left, sync_dirs = fault_storage_count(s->fs, VSHARD_IO_SYNC_DIR);
    int32_t status = rule->status ? rule->status : VSHARD_EIO;
    bool struck;
    int rc;

    s->seen.errors = 0;
    fault_storage_rule(s->fs, rule);
    rc = vshard_index_save(s->x, "/j");
    struck = fault_storage_struck(s->fs) > 0;
    fault_storage_heal(s->fs);
    left = saved_digest(s->fs, "/j");
    if (!struck) {
        cr_assert_eq(rc, 0);
        cr_assert_eq(left, new);
    } else if (fault_storage_count(s->fs, VSHARD_IO_SYNC_DIR) > sync_dirs) {
        cr_assert_eq(rc, VSHARD_EUNKNOWN, "k %llu: %s", (unsigned long long)rule->k,
                     vshard_strerror(rc));
        cr_assert_eq(left, new, "renamed, and only the directory is not synced");
    } else {
        cr_assert_eq(rc, status, "k %llu: %s", (unsigned long long)rule->k, vshard_strerror(rc));
        cr_assert_eq(left, old, "k %llu: the old file is gone", (unsigned long long)rule->k);
    }
    cr_assert_eq(rc<0, s->seen.errors> 0, "an event for each failure");
    cr_assert_eq(digest_of(s->x), new, "the index itself");
    cr_assert_eq(vshard_index_save(s->x, "/j"), 0, "the next save");
    cr_assert_eq(saved_digest(s->fs, "/j"), new);
    return struck;
}

static void save_with(const struct situation *at, int32_t status, uint32_t how, uint32_t does)
{
    bool struck = true;
    uint64_t k = 1;

    for (; struck; k++) {
        struct fault_rule rule = { .k = k,
                                   .how = how,
                                   .does = does,
                                   .status = status,
                                   .ops = does == FAULT_SHORT ? 1u << VSHARD_IO_WRITE : 0 };
        struct vshard_index_options o = small_options(2, 0, 0);
        struct vshard_index *old;
        struct stage s;
        uint64_t old_digest;

        begin(&s, at);
        o.storage = fault_storage_hook(s.fs);
        old = make_index(&o);
        cr_assert_eq(vshard_index_save(old, "/j"), 0);
        old_digest = digest_of(old);
        vshard_index_destroy(old);
        open_stage(&s);
        struck = save_once(&s, &rule, old_digest, digest_of(s.x));
        close_stage(&s, at->name, k);
        end(&s);
    }
    cr_expect(k > 5, "%llu storage calls", (unsigned long long)k);
}

Test(index_faults, a_save_that_storage_fails_leaves_the_old_file)
{
    static const size_t which[] = { 1, 3, 5 };

    for (size_t i = 0; i < VS_COUNT(which); i++) {
        const struct situation *at = &situations[which[i]];

        save_with(at, VSHARD_EIO, FAULT_ONCE, FAULT_FAIL);
        save_with(at, VSHARD_ENOSPC, FAULT_ONCE, FAULT_FAIL);
        save_with(at, VSHARD_EIO, FAULT_FOREVER, FAULT_FAIL);
        save_with(at, VSHARD_ENOSPC, FAULT_ONCE, FAULT_SHORT);
    }
}

Test(index_faults, a_save_to_a_full_disk_leaves_the_old_file)
{
    struct stage s;
    size_t bytes;

    begin(&s, &situations[3]);
    open_stage(&s);
    fault_storage_bytes(s.fs, "/i", &bytes);
    for (uint64_t room = 0; room <= bytes; room += 7777) {
        uint64_t digest = digest_of(s.x);

        fault_storage_capacity(s.fs, bytes + room);
        cr_assert_eq(vshard_index_save(s.x, "/i"), VSHARD_ENOSPC, "room %llu",
                     (unsigned long long)room);
        fault_storage_capacity(s.fs, UINT64_MAX);
        cr_assert_eq(saved_digest(s.fs, "/i"), digest);
        cr_assert_null(fault_storage_bytes(s.fs, "/i.tmp", &(size_t){ 0 }), "room is given back");
    }
    fault_storage_capacity(s.fs, 2 * bytes);
    cr_assert_eq(vshard_index_save(s.x, "/i"), 0);
    close_stage(&s, "full disk", 0);
    end(&s);
}

Test(index_faults, an_open_that_storage_fails_leaves_nothing)
{
    for (size_t i = 0; i < VS_COUNT(situations); i++) {
        for (uint32_t way = 0; way < 4; way++) {
            struct stage s;
            uint64_t k = 1, struck = 1;

            begin(&s, &situations[i]);
            for (; struck > 0; k++) {
                struct vshard_open_options o = { .size = sizeof o,
                                                 .flags = way & 1,
                                                 .logger = &s.logger,
                                                 .allocator = &s.memory.hook,
                                                 .storage = fault_storage_hook(s.fs) };
                struct vshard_index *x;
                struct fault_rule rule = { .k = k, .how = way / 2 };
                uint64_t before = fault_storage_count(s.fs, VSHARD_IO_CLOSE);
                uint64_t struck_before = fault_storage_struck(s.fs);
                int rc;

                s.seen.errors = 0;
                fault_storage_rule(s.fs, &rule);
                rc = vshard_index_open("/i", &o, &x);
                struck = fault_storage_struck(s.fs) - struck_before;
                fault_storage_heal(s.fs);
                cr_assert((rc == 0) == (x != NULL));
                /* A file that was only read, and does not close, is no loss. */
                if (struck > 0 && fault_storage_count(s.fs, VSHARD_IO_CLOSE) == before)
                    cr_assert_eq(rc, VSHARD_EIO, "%s, k %llu: %s", situations[i].name,
                                 (unsigned long long)k, vshard_strerror(rc));
                cr_assert_eq(rc<0, s.seen.errors> 0, "an event for each failure");
                vshard_index_destroy(x);
                cr_assert_null(fault_alloc_verdict(&s.memory));
            }
            cr_expect(k > 4);
            end(&s);
        }
    }
}
