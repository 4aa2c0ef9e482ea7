/* merge_lists.c - the answer is the one the definition gives.
 *
 * Method: the definition in vshard/merge.h, written down as two sorts, is the
 * reference. Small spaces are exhausted: every sequence of up to four hits over
 * three keys, two versions and three distances, in every split into two lists,
 * for every k, pushed in both orders. Large ones are drawn from fixed seeds, with
 * many ties and many copies. The bound is tested by cutting each list where the
 * bound allows it, and comparing with the answer for the lists uncut. Memory is
 * counted, and the n-th allocation fails for each n. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "support/random.h"
#include <vshard/merge.h>

#define HIT(id, v, d, s) \
    ((struct vshard_merge_hit){ .key = { 0, id }, .version = v, .distance = d, .shard = s })

/* ---- the reference ---- */

static int by_size(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int by_key(struct vshard_key a, struct vshard_key b)
{
    return a.hi != b.hi ? by_size(a.hi, b.hi) : by_size(a.lo, b.lo);
}

static int by_distance(float a, float b)
{
    return (a > b) - (a < b);
}

static int survivor_first(const void *pa, const void *pb)
{
    const struct vshard_merge_hit *a = pa, *b = pb;
    int c = by_key(a->key, b->key);

    c = c ? c : by_size(b->version, a->version);
    c = c ? c : by_distance(a->distance, b->distance);
    return c ? c : by_size(a->shard, b->shard);
}

static int nearest_first(const void *pa, const void *pb)
{
    const struct vshard_merge_hit *a = pa, *b = pb;
    int c = by_distance(a->distance, b->distance);

    return c ? c : by_key(a->key, b->key);
}

/* Leaves the survivors of hits[count], nearest first; returns how many. */
static size_t survivors(struct vshard_merge_hit *hits, size_t count)
{
    size_t n = 0;

    qsort(hits, count, sizeof *hits, survivor_first);
    for (size_t i = 0; i < count; i++) {
        if (n == 0 || by_key(hits[i].key, hits[n - 1].key) != 0)
            hits[n++] = hits[i];
    }
    qsort(hits, n, sizeof *hits, nearest_first);
    return n;
}

static size_t reference(struct vshard_merge_hit *hits, size_t count, size_t k)
{
    size_t n = survivors(hits, count);

    return n < k ? n : k;
}

/* ---- small helpers of this test ---- */

static bool same(const struct vshard_merge_hit *a, const struct vshard_merge_hit *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (by_key(a[i].key, b[i].key) != 0 || a[i].version != b[i].version ||
            a[i].distance != b[i].distance || a[i].shard != b[i].shard)
            return false;
    }
    return true;
}

static void sort_list(struct vshard_merge_hit *hits, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct vshard_merge_hit h = hits[i];
        size_t j = i;

        for (; j > 0 && hits[j - 1].distance > h.distance; j--)
            hits[j] = hits[j - 1];
        hits[j] = h;
    }
}

static struct vshard_merger *make(uint32_t k, uint32_t flags, uint32_t hit_max)
{
    struct vshard_merge_options o = {
        .size = sizeof o, .k = k, .flags = flags, .hit_max = hit_max
    };
    struct vshard_merger *m;

    cr_assert_eq(vshard_merger_create(&o, &m), VSHARD_OK);
    return m;
}

/* Gives the lists to the one-shot call and to a merger, first to last and last to
 * first; both must give want[n]. */
static void expect(struct vshard_merger *m, uint32_t k, uint32_t flags,
                   const struct vshard_merge_list *lists, size_t list_count,
                   const struct vshard_merge_hit *want, size_t n, const char *what, uint64_t number)
{
    struct vshard_merge_options o = { .size = sizeof o, .k = k, .flags = flags };
    struct vshard_merge_hit *got = malloc(k * sizeof *got);
    uint32_t found = 77;

    cr_assert_eq(vshard_merge(&o, lists, list_count, got, &found), VSHARD_OK, "%s %llu", what,
                 (unsigned long long)number);
    cr_assert(found == n && same(got, want, n), "%s %llu: one call, %u found, want %zu", what,
              (unsigned long long)number, found, n);
    for (int backward = 0; backward < 2; backward++) {
        vshard_merger_reset(m);
        for (size_t i = 0; i < list_count; i++) {
            const struct vshard_merge_list *l = &lists[backward ? list_count - 1 - i : i];

            cr_assert_eq(vshard_merger_push(m, l->hits, l->count), VSHARD_OK);
        }
        for (int again = 0; again < 2; again++) {
            cr_assert_eq(vshard_merger_hits(m, got, k, &found), VSHARD_OK);
            cr_assert(found == n && same(got, want, n),
                      "%s %llu: pushed%s, asked %d times, %u found, want %zu", what,
                      (unsigned long long)number, backward ? " backward" : "", again + 1, found, n);
        }
    }
    free(got);
}

/* ---- small spaces, exhausted ---- */

/* Hit `code` of a space of 3 keys, `versions` versions and 3 distances. */
static struct vshard_merge_hit coded(uint32_t code, uint32_t versions, uint32_t shard)
{
    return HIT(code % 3, 1 + code / 3 % versions, (float)(code / 3 / versions), shard);
}

static void exhaust(uint32_t versions, size_t hit_count, uint32_t flags)
{
    uint32_t space = 9 * versions, sequences = 1;
    struct vshard_merger *m[4];

    for (uint32_t k = 1; k <= 3; k++)
        m[k] = make(k, flags, 16);
    for (size_t i = 0; i < hit_count; i++)
        sequences *= space;
    for (uint32_t sequence = 0; sequence < sequences; sequence++) {
        for (uint32_t split = 0; split < 1u << hit_count; split++) {
            struct vshard_merge_hit hit[2][8], all[8];
            struct vshard_merge_list lists[2] = { { hit[0], 0 }, { hit[1], 0 } };
            uint32_t rest = sequence;
            size_t n;

            for (size_t i = 0; i < hit_count; i++, rest /= space) {
                uint32_t side = split >> i & 1;

                all[i] = coded(rest % space, versions, side);
                hit[side][lists[side].count++] = all[i];
            }
            sort_list(hit[0], lists[0].count);
            sort_list(hit[1], lists[1].count);
            n = survivors(all, hit_count);
            for (uint32_t k = 1; k <= 3; k++)
                expect(m[k], k, flags, lists, 2, all, n < k ? n : k, "sequence",
                       (uint64_t)sequence << 8 | split);
        }
    }
    for (uint32_t k = 1; k <= 3; k++)
        vshard_merger_destroy(m[k]);
}

Test(merge_lists, gives_the_defined_answer_for_every_small_input)
{
    for (size_t hit_count = 0; hit_count <= 3; hit_count++)
        exhaust(2, hit_count, 0);
    exhaust(2, 3, VSHARD_MERGE_CHECKED);
}

Test(merge_lists, gives_the_defined_answer_for_every_small_input_of_one_version)
{
    for (size_t hit_count = 0; hit_count <= 4; hit_count++)
        exhaust(1, hit_count, VSHARD_MERGE_SETTLED);
}

/* Four lists: what two cannot show, a hit that comes in, is displaced, and is
 * wanted again. */
Test(merge_lists, gives_the_defined_answer_for_every_order_of_four_single_hits)
{
    struct vshard_merger *m[3] = { NULL, make(1, 0, 16), make(2, 0, 16) };

    for (uint32_t sequence = 0; sequence < 18 * 18 * 18 * 18; sequence++) {
        struct vshard_merge_hit hit[4], all[4];
        struct vshard_merge_list lists[4];
        uint32_t rest = sequence;
        size_t n;

        for (size_t i = 0; i < 4; i++, rest /= 18) {
            hit[i] = all[i] = coded(rest % 18, 2, (uint32_t)i);
            lists[i] = (struct vshard_merge_list){ &hit[i], 1 };
        }
        n = survivors(all, 4);
        for (uint32_t k = 1; k <= 2; k++)
            expect(m[k], k, 0, lists, 4, all, n < k ? n : k, "sequence", sequence);
    }
    vshard_merger_destroy(m[1]);
    vshard_merger_destroy(m[2]);
}

/* ---- large ones, drawn ---- */

struct draws {
    uint32_t k, lists, per_list, keys, versions, distances, flags;
};

static size_t fill(const struct draws *d, uint64_t *seed, struct vshard_merge_hit *hits,
                   struct vshard_merge_list *lists)
{
    size_t count = 0;

    for (uint32_t i = 0; i < d->lists; i++) {
        uint32_t n = (uint32_t)(random_next(seed) % (d->per_list + 1));

        for (uint32_t j = 0; j < n; j++) {
            struct vshard_merge_hit *h = &hits[count + j];

            *h = HIT(random_next(seed) % d->keys, 1 + random_next(seed) % d->versions,
                     (float)(random_next(seed) % d->distances) - 2,
                     (uint32_t)(random_next(seed) % 4));
            h->key.hi = h->key.lo % 3; /* so that hi alone does not tell keys apart */
        }
        qsort(hits + count, n, sizeof *hits, nearest_first);
        lists[i] = (struct vshard_merge_list){ hits + count, n };
        count += n;
    }
    return count;
}

static const struct draws cases[] = {
    { 10, 64, 100, 100000, 1, 1000000, VSHARD_MERGE_SETTLED },
    { 10, 64, 100, 50, 1, 20, VSHARD_MERGE_SETTLED },
    { 10, 64, 100, 500, 3, 1000, 0 },
    { 10, 16, 30, 1000000, 2, 1000000, 0 }, /* the guess is right */
    { 10, 16, 30, 100, 9, 3, 0 },
    { 64, 20, 100, 300, 2, 100, 0 },
    { 65, 20, 100, 300, 2, 100, 0 }, /* gathered */
    { 65, 20, 100, 300, 1, 7, VSHARD_MERGE_SETTLED },
    { 200, 30, 400, 100000, 1, 1000000, VSHARD_MERGE_SETTLED },
    { 200, 30, 400, 100000, 1, 1, VSHARD_MERGE_SETTLED }, /* all at one distance */
    { 200, 30, 400, 600, 4, 50, 0 },
    { 4096, 8, 4096, 20000, 1, 100000, VSHARD_MERGE_SETTLED },
    { 4096, 8, 4096, 20000, 2, 5000, 0 },
    { 4096, 4, 50, 20000, 2, 5000000, 0 }, /* fewer than k */
    { 40, 4, 9, 20000, 2, 5000000, 0 },
    { 40, 4, 9, 20000, 1, 5000000, VSHARD_MERGE_SETTLED },
};

Test(merge_lists, gives_the_defined_answer_for_large_inputs)
{
    struct vshard_merge_hit *hits = malloc(64 * 4096 * sizeof *hits);
    struct vshard_merge_hit *want = malloc(64 * 4096 * sizeof *want);
    struct vshard_merge_list lists[64];

    for (size_t c = 0; c < VS_COUNT(cases); c++) {
        const struct draws *d = &cases[c];
        struct vshard_merger *m = make(d->k, d->flags, 64 * 4096);
        uint64_t seed = 1 + c;

        for (uint64_t round = 0; round < (d->k > 1000 ? 4 : 60); round++) {
            size_t count = fill(d, &seed, hits, lists);

            memcpy(want, hits, count * sizeof *want);
            count = reference(want, count, d->k);
            expect(m, d->k, d->flags, lists, d->lists, want, count, "case * 1000 + round",
                   c * 1000 + round);
        }
        vshard_merger_destroy(m);
    }
    free(hits);
    free(want);
}

Test(merge_lists, holds_both_zeros_for_one_distance_and_takes_infinity)
{
    struct vshard_merge_hit hit[4][2], want[8];
    struct vshard_merge_list lists[4];
    struct vshard_merger *m = make(8, 0, 64);

    for (uint32_t i = 0; i < 4; i++) {
        hit[i][0] = HIT(3 - i, 1, i % 2 ? 0.0f : -0.0f, i);
        hit[i][1] = HIT(7 - i, 1, i == 3 ? INFINITY : i % 2 ? -0.0f : 0.0f, i);
        lists[i] = (struct vshard_merge_list){ hit[i], 2 };
        memcpy(&want[2 * i], hit[i], sizeof hit[i]);
    }
    survivors(want, 8);
    for (uint32_t k = 1; k <= 8; k++) {
        struct vshard_merger *of_k = make(k, VSHARD_MERGE_SETTLED, 64);

        expect(of_k, k, VSHARD_MERGE_SETTLED, lists, 4, want, k, "k", k);
        vshard_merger_destroy(of_k);
    }
    expect(m, 8, 0, lists, 4, want, 8, "both zeros", 0);
    vshard_merger_destroy(m);
}

/* ---- the bound ---- */

/* Cuts each list where the bound allows, or a little later, as a shard that has
 * an old bound would. Returns the lowest bound used. */
static float push_cut(struct vshard_merger *m, const struct vshard_merge_list *lists, size_t count,
                      uint64_t *seed)
{
    float lowest = INFINITY, held = INFINITY;

    for (size_t i = 0; i < count; i++) {
        size_t n = 0;

        if (random_next(seed) % 3 != 0)
            held = vshard_merger_bound(m);
        while (n < lists[i].count && lists[i].hits[n].distance <= held)
            n++;
        if (held < lowest)
            lowest = held;
        cr_assert_eq(vshard_merger_push(m, lists[i].hits, n), VSHARD_OK);
    }
    return lowest;
}

Test(merge_bound, changes_no_answer_when_keys_are_settled)
{
    struct vshard_merge_hit hits[640], want[640], got[20];
    struct vshard_merge_list lists[16];
    uint64_t seed = 11, left_out = 0;

    for (uint64_t round = 0; round < 20000; round++) {
        struct draws d = { 1 + (uint32_t)(round % 20),
                           16,
                           1 + (uint32_t)(round % 40),
                           1 + (uint32_t)(random_next(&seed) % 100),
                           1,
                           1 + (uint32_t)(random_next(&seed) % 50),
                           VSHARD_MERGE_SETTLED };
        struct vshard_merger *m = make(d.k, d.flags, 0);
        size_t count = fill(&d, &seed, hits, lists), n;
        uint32_t found;
        float lowest;

        memcpy(want, hits, count * sizeof *want);
        n = reference(want, count, d.k);
        lowest = push_cut(m, lists, d.lists, &seed);
        for (size_t i = 0; i < count; i++)
            left_out += hits[i].distance > lowest;
        cr_assert_eq(vshard_merger_hits(m, got, d.k, &found), VSHARD_OK);
        cr_assert(found == n && same(got, want, n), "seed 11, round %llu",
                  (unsigned long long)round);
        vshard_merger_destroy(m);
    }
    cr_assert_gt(left_out, 100000, "the bound cut nothing: this test proves nothing");
}

Test(merge_bound, never_rises_when_keys_are_settled)
{
    struct vshard_merge_hit hits[640];
    struct vshard_merge_list lists[16];
    uint64_t seed = 12;

    for (uint64_t round = 0; round < 2000; round++) {
        struct draws d = { 1 + (uint32_t)(round % 100), 16, 40, 150, 1, 50, VSHARD_MERGE_SETTLED };
        struct vshard_merger *m = make(d.k, d.flags, 0);
        float last = INFINITY;

        fill(&d, &seed, hits, lists);
        for (size_t i = 0; i < 16; i++) {
            cr_assert_eq(vshard_merger_push(m, lists[i].hits, lists[i].count), VSHARD_OK);
            cr_assert_leq(vshard_merger_bound(m), last, "seed 12, round %llu",
                          (unsigned long long)round);
            last = vshard_merger_bound(m);
        }
        vshard_merger_destroy(m);
    }
}

/* What is left of a cut answer once the stale hits are dropped agrees with the
 * uncut answer, as far as the lowest bound. */
Test(merge_bound, leaves_an_exact_prefix_when_the_caller_checks)
{
    struct vshard_merge_hit hits[640], want[640], got[20];
    struct vshard_merge_list lists[16];
    uint64_t seed = 13, dropped = 0, short_of = 0;

    for (uint64_t round = 0; round < 20000; round++) {
        struct draws d = { 1 + (uint32_t)(round % 20),
                           16,
                           1 + (uint32_t)(round % 40),
                           1 + (uint32_t)(random_next(&seed) % 100),
                           3,
                           1 + (uint32_t)(random_next(&seed) % 50),
                           VSHARD_MERGE_CHECKED };
        struct vshard_merger *m = make(d.k, d.flags, 640);
        size_t count = fill(&d, &seed, hits, lists), n = 0, exact = 0;
        uint32_t found;
        float lowest;

        memcpy(want, hits, count * sizeof *want);
        count = survivors(want, count);
        lowest = push_cut(m, lists, d.lists, &seed);
        cr_assert_eq(vshard_merger_hits(m, got, d.k, &found), VSHARD_OK);
        for (uint32_t i = 0; i < found; i++) {
            bool current = false;

            for (size_t j = 0; j < count; j++)
                current |=
                    by_key(want[j].key, got[i].key) == 0 && want[j].version == got[i].version;
            dropped += !current;
            if (current && got[i].distance <= lowest)
                got[n++] = got[i];
        }
        while (exact < count && want[exact].distance <= lowest)
            exact++;
        cr_assert(n <= exact && same(got, want, n), "seed 13, round %llu",
                  (unsigned long long)round);
        /* Nothing within the bound is missing unless the answer was full. */
        cr_assert(n == exact || found == d.k, "seed 13, round %llu", (unsigned long long)round);
        short_of += n < exact;
        vshard_merger_destroy(m);
    }
    cr_assert_gt(dropped, 1000, "no stale hit surfaced: this test proves nothing");
    cr_assert_gt(short_of, 100);
}

/* The reason for the infinite bound: with k 1, the far newer version of the only
 * answer decides that another key is the answer. */
Test(merge_bound, is_infinite_when_nothing_is_known_of_versions)
{
    const struct vshard_merge_hit old = HIT(1, 1, 1, 0), other = HIT(2, 1, 5, 1),
                                  newer = HIT(1, 2, 9, 2);
    struct vshard_merger *m = make(1, 0, 0), *checked = make(1, VSHARD_MERGE_CHECKED, 0);
    struct vshard_merge_hit got;
    uint32_t found;

    cr_assert_eq(vshard_merger_push(m, &old, 1), VSHARD_OK);
    cr_assert_eq(vshard_merger_push(checked, &old, 1), VSHARD_OK);
    cr_expect_eq(vshard_merger_bound(m), INFINITY);
    cr_expect_eq(vshard_merger_bound(checked), 1.0f);
    cr_expect_eq(vshard_merger_bound(NULL), INFINITY);
    cr_assert_eq(vshard_merger_push(m, &other, 1), VSHARD_OK);
    cr_assert_eq(vshard_merger_push(m, &newer, 1), VSHARD_OK);
    cr_assert_eq(vshard_merger_hits(m, &got, 1, &found), VSHARD_OK);
    cr_expect_eq(got.key.lo, 2);
    vshard_merger_destroy(m);
    vshard_merger_destroy(checked);
}

/* ---- versions, by hand ---- */

Test(merge_versions, an_older_hit_never_surfaces_however_near)
{
    struct vshard_merger *m = make(2, 0, 0);
    const struct vshard_merge_hit far_newer[] = { HIT(7, 2, 100, 0) };
    const struct vshard_merge_hit near_older[] = { HIT(7, 1, 1, 1), HIT(8, 1, 2, 1),
                                                   HIT(9, 1, 3, 1) };
    struct vshard_merge_hit got[2];
    uint32_t found;

    for (int newer_first = 0; newer_first < 2; newer_first++) {
        vshard_merger_reset(m);
        if (newer_first)
            cr_assert_eq(vshard_merger_push(m, far_newer, 1), VSHARD_OK);
        cr_assert_eq(vshard_merger_push(m, near_older, 3), VSHARD_OK);
        if (!newer_first)
            cr_assert_eq(vshard_merger_push(m, far_newer, 1), VSHARD_OK);
        cr_assert_eq(vshard_merger_hits(m, got, 2, &found), VSHARD_OK);
        cr_expect(found == 2 && got[0].key.lo == 8 && got[1].key.lo == 9, "newer first %d",
                  newer_first);
    }
    vshard_merger_destroy(m);
}

/* ---- what is refused ---- */

static void count_event(void *ctx, uint32_t level, const char *name,
                        const struct vshard_log_field *fields, size_t field_count)
{
    cr_assert_eq(level, VSHARD_LOG_WARN);
    cr_assert_str_eq(name, "merge.refused");
    cr_assert(field_count == 4 && fields[0].text != NULL);
    ++*(int *)ctx;
}

Test(merge_refusal, names_the_limit_it_keeps)
{
    int events = 0;
    const struct vshard_logger log = { count_event, &events };
    struct vshard_merge_hit hit = HIT(1, 1, 1, 0), got;
    struct vshard_merge_list list = { &hit, 1 };
    static const struct {
        uint32_t k, flags, hit_max;
        int status;
    } bad[] = { { 0, 0, 0, VSHARD_EINVAL },
                { VSHARD_MERGE_K_MAX + 1, 0, 0, VSHARD_E2BIG },
                { 1, 4, 0, VSHARD_EINVAL },
                { 1, VSHARD_MERGE_SETTLED | VSHARD_MERGE_CHECKED, 0, VSHARD_EINVAL },
                { 1, 0, VSHARD_MERGE_HITS_MAX + 1, VSHARD_E2BIG } };

    for (size_t i = 0; i < VS_COUNT(bad); i++) {
        struct vshard_merge_options o = { sizeof o,       bad[i].k, bad[i].flags,
                                          bad[i].hit_max, NULL,     &log };
        struct vshard_merger *m = (void *)&o;
        uint32_t found = 9;

        events = 0;
        cr_expect_eq(vshard_merger_create(&o, &m), bad[i].status, "case %zu", i);
        cr_expect_null(m, "case %zu", i);
        cr_expect_eq(vshard_merge(&o, &list, 1, &got, &found), bad[i].status, "case %zu", i);
        cr_expect_eq(found, 9, "case %zu", i);
        cr_expect_eq(events, 2, "case %zu", i);
    }
}

Test(merge_refusal, sees_nulls)
{
    struct vshard_merge_options o = { .size = sizeof o, .k = 1 };
    struct vshard_merge_hit hit = HIT(1, 1, 1, 0), got;
    struct vshard_merge_list list = { &hit, 1 }, null_list = { NULL, 1 }, empty = { NULL, 0 };
    struct vshard_merger *m = make(1, 0, 0);
    uint32_t found = 9;

    cr_expect_eq(vshard_merge(NULL, &list, 1, &got, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merge(&o, NULL, 1, &got, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merge(&o, &list, 1, NULL, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merge(&o, &list, 1, &got, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_merge(&o, &null_list, 1, &got, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_create(&o, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_push(NULL, &hit, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_push(m, NULL, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_hits(NULL, &got, 1, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_hits(m, NULL, 1, &found), VSHARD_EINVAL);
    cr_expect_eq(vshard_merger_hits(m, &got, 1, NULL), VSHARD_EINVAL);
    cr_expect_eq(found, 9);
    cr_expect_eq(vshard_merger_push(m, NULL, 0), VSHARD_OK);
    cr_expect_eq(vshard_merge(&o, &empty, 1, &got, &found), VSHARD_OK);
    cr_expect_eq(found, 0);
    found = 9;
    cr_expect_eq(vshard_merge(&o, NULL, 0, &got, &found), VSHARD_OK);
    cr_expect_eq(found, 0);
    vshard_merger_reset(NULL);
    vshard_merger_destroy(NULL);
    vshard_merger_destroy(m);
}

Test(merge_refusal, counts_that_overflow_are_too_big)
{
    struct vshard_merge_options o = { .size = sizeof o, .k = 1 };
    struct vshard_merge_hit hit = HIT(1, 1, 1, 0), got;
    struct vshard_merge_list lists[] = { { &hit, 1 }, { &hit, SIZE_MAX } };
    struct vshard_merger *m = make(1, 0, 3);
    uint32_t found = 9;

    cr_expect_eq(vshard_merge(&o, lists, 2, &got, &found), VSHARD_E2BIG);
    cr_expect_eq(vshard_merge(&o, lists, SIZE_MAX, &got, &found), VSHARD_E2BIG);
    cr_expect_eq(vshard_merge(&o, lists, VSHARD_MERGE_LISTS_MAX + 1, &got, &found), VSHARD_E2BIG);
    cr_expect_eq(vshard_merger_push(m, &hit, SIZE_MAX), VSHARD_E2BIG);
    cr_expect_eq(vshard_merger_push(m, &hit, 4), VSHARD_E2BIG);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(vshard_merger_push(m, &hit, 1), VSHARD_OK);
    cr_expect_eq(vshard_merger_push(m, &hit, 1), VSHARD_E2BIG);
    vshard_merger_reset(m);
    cr_expect_eq(vshard_merger_push(m, &hit, 1), VSHARD_OK);
    vshard_merger_destroy(m);
}

/* Every place of a list gets a NaN, and every pair of neighbours is swapped. */
Test(merge_refusal, sees_each_nan_and_each_hit_out_of_order)
{
    enum { COUNT = 200 };
    static const uint32_t ks[] = { 3, 64, 65, 300 };
    struct vshard_merge_hit good[COUNT], bad[COUNT], got[300];

    for (uint32_t i = 0; i < COUNT; i++)
        good[i] = HIT(i, 1, (float)i, 0);
    for (size_t c = 0; c < VS_COUNT(ks); c++) {
        struct vshard_merge_options o = { .size = sizeof o, .k = ks[c] };
        struct vshard_merger *m = make(ks[c], 0, COUNT);

        for (uint32_t at = 0; at < 2 * COUNT - 1; at++) {
            struct vshard_merge_list list = { bad, COUNT };
            uint32_t found = 9;

            memcpy(bad, good, sizeof bad);
            if (at < COUNT)
                bad[at].distance = NAN;
            else
                bad[at - COUNT].distance = (float)(at - COUNT) + 1.5f;
            cr_expect_eq(vshard_merge(&o, &list, 1, got, &found), VSHARD_EINVAL, "k %u at %u",
                         ks[c], at);
            cr_expect_eq(found, 9);
            cr_expect_eq(vshard_merger_push(m, bad, COUNT), VSHARD_EINVAL, "k %u at %u", ks[c], at);
            cr_expect_eq(vshard_merger_hits(m, got, 300, &found), VSHARD_OK);
            cr_expect_eq(found, 0, "a refused list changed the answer, at %u", at);
        }
        vshard_merger_destroy(m);
    }
}

Test(merge_refusal, settled_takes_a_bad_list_up_to_the_bad_hit)
{
    const struct vshard_merge_hit bad[] = { HIT(1, 1, 1, 0), HIT(2, 1, NAN, 0), HIT(3, 1, 3, 0) };
    struct vshard_merge_hit got[100];
    static const uint32_t ks[] = { 10, 100 };

    for (size_t c = 0; c < 2; c++) {
        struct vshard_merger *m = make(ks[c], VSHARD_MERGE_SETTLED, 0);
        uint32_t found;

        cr_expect_eq(vshard_merger_push(m, bad, 3), VSHARD_EINVAL);
        cr_expect_eq(vshard_merger_hits(m, got, 100, &found), VSHARD_OK);
        cr_expect(found == 1 && got[0].key.lo == 1, "k %u", ks[c]);
        vshard_merger_destroy(m);
    }
}

/* ---- memory ---- */

struct counted {
    size_t calls, fail_at, live_bytes;
};

static void *counted_resize(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    struct counted *c = ctx;

    if (new_bytes == 0) {
        c->live_bytes -= old_bytes;
        free(old);
        return NULL;
    }
    cr_assert_null(old);
    if (c->calls++ == c->fail_at)
        return NULL;
    c->live_bytes += new_bytes;
    return aligned_alloc(align, (new_bytes + align - 1) / align * align);
}

Test(merge_lists, an_answer_of_an_index_ends_where_its_padding_begins)
{
    const struct vshard_hit hits[] = { { 7, 0.5f, 0 }, { 3, 1.5f, 0 }, { VSHARD_ID_NONE, 9, 0 } };
    struct vshard_merge_hit list[3] = { { { 9, 9 }, 9, 9, 9 } };

    cr_assert_eq(vshard_merge_from_index(hits, 3, 5, list), 2);
    for (size_t i = 0; i < 2; i++) {
        cr_expect_eq(list[i].key.hi, 0);
        cr_expect_eq(list[i].key.lo, hits[i].id);
        cr_expect_eq(list[i].version, 0);
        cr_expect_eq(list[i].distance, hits[i].distance);
        cr_expect_eq(list[i].shard, 5);
    }
    cr_expect_eq(vshard_merge_from_index(hits, 0, 5, list), 0);
    cr_expect_eq(vshard_merge_from_index(hits, 1, 5, list), 1);
}

Test(merge_memory, survives_each_allocation_that_fails)
{
    static const uint32_t flags[] = { 0, VSHARD_MERGE_SETTLED, VSHARD_MERGE_CHECKED };
    const struct vshard_merge_hit old = HIT(1, 1, 1, 0), newer = HIT(1, 2, 9, 2);
    const struct vshard_merge_list lists[] = { { &old, 1 }, { &newer, 1 } };
    struct vshard_merge_hit got[100];

    for (size_t f = 0; f < VS_COUNT(flags); f++) {
        for (size_t fail_at = 0, status = 1; status != 0; fail_at++) {
            struct counted c = { 0, fail_at, 0 };
            const struct vshard_allocator a = { counted_resize, &c };
            struct vshard_merge_options o = {
                .size = sizeof o, .k = 100, .flags = flags[f], .allocator = &a
            };
            struct vshard_merger *m;
            uint32_t found = 9;
            int rc = vshard_merger_create(&o, &m);

            cr_assert(rc == VSHARD_OK || (rc == VSHARD_ENOMEM && m == NULL));
            cr_expect_eq(rc == VSHARD_OK, c.calls <= fail_at);
            vshard_merger_destroy(m);
            cr_expect_eq(c.live_bytes, 0, "create leaks when allocation %zu fails", fail_at);
            status = rc != VSHARD_OK;

            c.calls = 0;
            rc = vshard_merge(&o, lists, 2, got, &found);
            cr_assert(rc == VSHARD_OK ? found == 1 : rc == VSHARD_ENOMEM && found == 9);
            cr_expect_eq(rc == VSHARD_OK, c.calls <= fail_at);
            cr_expect_eq(c.live_bytes, 0, "merge leaks when allocation %zu fails", fail_at);
            status |= rc != VSHARD_OK;
        }
    }
}

Test(merge_memory, a_merger_allocates_only_when_it_is_made)
{
    struct counted c = { 0, SIZE_MAX, 0 };
    const struct vshard_allocator a = { counted_resize, &c };
    struct vshard_merge_options o = { .size = sizeof o, .k = 10, .hit_max = 6400, .allocator = &a };
    struct vshard_merge_hit *hits = malloc(6400 * sizeof *hits), got[10];
    struct vshard_merge_list lists[64];
    struct draws d = { 10, 64, 100, 500, 3, 1000, 0 };
    struct vshard_merger *m;
    uint64_t seed = 5;
    uint32_t found;
    size_t made;

    cr_assert_eq(vshard_merger_create(&o, &m), VSHARD_OK);
    made = c.calls;
    for (int round = 0; round < 20; round++) {
        fill(&d, &seed, hits, lists);
        for (size_t i = 0; i < 64; i++)
            cr_assert_eq(vshard_merger_push(m, lists[i].hits, lists[i].count), VSHARD_OK);
        cr_assert_eq(vshard_merger_hits(m, got, 10, &found), VSHARD_OK);
        vshard_merger_reset(m);
    }
    cr_expect_eq(c.calls, made);
    vshard_merger_destroy(m);
    cr_expect_eq(c.live_bytes, 0);

    c.calls = 0;
    o.flags = VSHARD_MERGE_SETTLED;
    o.k = 32;
    for (size_t i = 0; i < 64; i++)
        lists[i].count = lists[i].count < 5 ? lists[i].count : 5;
    {
        struct vshard_merge_hit wide[32];
        cr_assert_eq(vshard_merge(&o, lists, 64, wide, &found), VSHARD_OK);
    }
    cr_expect_eq(c.calls, 0, "a settled merge of k 32 allocated");
    free(hits);
}
