/* route_map.c - each change restores the balance with the fewest moves.
 *
 * Method: small rings are exhausted: every sequence of five changes (add, remove,
 * reweight; three shards, weights 0 to 3) on 1, 2, 4 and 8 arcs. After each the
 * moves are compared with the least over all balances by largest remainder, found
 * by trying every way to hand out the arcs left over. Large rings take sequences
 * from fixed seeds; there the least is computed from the sorted remainders. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/base.h"
#include "route/route.h"
#include "support/random.h"
#include <vshard/map.h>

enum { SHARDS_HERE = 600 };

static struct vshard_map *make(uint32_t arcs)
{
    struct vshard_map_options o = { .size = sizeof o, .arcs = arcs };
    struct vshard_map *map;

    cr_assert_eq(vshard_map_create(&o, &map), VSHARD_OK);
    return map;
}

static struct vshard_map *copy_of(const struct vshard_map *map)
{
    struct vshard_map *copy;

    cr_assert_eq(vshard_map_copy(map, &copy), VSHARD_OK);
    return copy;
}

static struct vshard_map_stats stats_of(const struct vshard_map *map)
{
    struct vshard_map_stats s = { .size = sizeof s };

    cr_assert_eq(vshard_map_stats(map, &s), VSHARD_OK);
    return s;
}

static bool equal(const struct vshard_map *a, const struct vshard_map *b)
{
    size_t na, nb;
    bool same;
    unsigned char *ba, *bb;

    vshard_map_encode(a, NULL, 0, &na);
    vshard_map_encode(b, NULL, 0, &nb);
    if (na != nb)
        return false;
    ba = malloc(na);
    bb = malloc(nb);
    cr_assert_eq(vshard_map_encode(a, ba, na, &na), VSHARD_OK);
    cr_assert_eq(vshard_map_encode(b, bb, nb, &nb), VSHARD_OK);
    same = memcmp(ba, bb, na) == 0;
    free(ba);
    free(bb);
    return same;
}

static uint32_t arcs_before(const struct vshard_map_shard *old, size_t old_count, uint32_t shard)
{
    for (size_t i = 0; i < old_count; i++) {
        if (old[i].shard == shard)
            return old[i].arcs;
    }
    return 0;
}

/* ---- the least number of arcs that leave their shard ---- */

struct due {
    uint64_t floor, remainder;
    uint32_t now;
};

static uint32_t surplus(const struct due *d, uint32_t more)
{
    return d->now > d->floor + more ? d->now - (uint32_t)d->floor - more : 0;
}

/* Every subset that may have the arcs left over; at most 3 shards. */
static uint32_t least_by_trying(const struct due *due, size_t count, uint64_t extra)
{
    uint32_t least = UINT32_MAX;

    for (uint32_t set = 0; set < 1u << count; set++) {
        uint64_t in_min = UINT64_MAX, out_max = 0;
        uint32_t moves = 0, size = 0;

        for (size_t i = 0; i < count; i++) {
            uint32_t in = set >> i & 1;

            size += in;
            if (in && due[i].remainder < in_min)
                in_min = due[i].remainder;
            if (!in && due[i].remainder > out_max)
                out_max = due[i].remainder;
            moves += surplus(&due[i], in);
        }
        if (size == extra && in_min >= out_max && moves < least)
            least = moves;
    }
    return least;
}

static int by_remainder(const void *pa, const void *pb)
{
    const struct due *a = pa, *b = pb;

    if (a->remainder != b->remainder)
        return a->remainder > b->remainder ? -1 : 1;
    return (int)(surplus(b, 0) > surplus(b, 1)) - (int)(surplus(a, 0) > surplus(a, 1));
}

static uint32_t least_by_sorting(struct due *due, size_t count, uint64_t extra)
{
    uint32_t moves = 0;

    qsort(due, count, sizeof *due, by_remainder);
    for (size_t i = 0; i < count; i++)
        moves += surplus(&due[i], i < extra);
    return moves;
}

/* Arcs that must leave a shard to get from `old` to a balance of the weights in
 * `map`; those of a removed shard count too. */
static uint32_t least_moves(const struct vshard_map *map, const struct vshard_map_shard *old,
                            size_t old_count)
{
    static struct vshard_map_shard now[SHARDS_HERE];
    static struct due due[SHARDS_HERE];
    struct vshard_map_stats s = stats_of(map);
    uint64_t extra = s.arcs, kept = 0, all = 0;
    size_t count;

    cr_assert_eq(vshard_map_shards(map, now, SHARDS_HERE, &count), VSHARD_OK);
    for (size_t i = 0; i < old_count; i++)
        all += old[i].arcs;
    if (s.weight == 0)
        return (uint32_t)all;
    for (size_t i = 0; i < count; i++) {
        due[i].floor = (uint64_t)s.arcs * now[i].weight / s.weight;
        due[i].remainder = (uint64_t)s.arcs * now[i].weight % s.weight;
        due[i].now = arcs_before(old, old_count, now[i].shard);
        extra -= due[i].floor;
        kept += due[i].now;
    }
    return (uint32_t)(all - kept) +
           (count <= 3 ? least_by_trying(due, count, extra) : least_by_sorting(due, count, extra));
}

/* ---- what holds after every change ---- */

static void check_balance(const struct vshard_map *map, const char *what, uint64_t number)
{
    static struct vshard_map_shard now[SHARDS_HERE];
    struct vshard_map_stats s = stats_of(map);
    uint64_t arcs = 0;
    size_t count;

    cr_assert_eq(vshard_map_shards(map, now, SHARDS_HERE, &count), VSHARD_OK);
    for (size_t i = 0; i < count; i++) {
        int64_t off = (int64_t)(now[i].arcs * s.weight) - (int64_t)s.arcs * now[i].weight;

        arcs += now[i].arcs;
        cr_assert(i == 0 || now[i - 1].shard < now[i].shard);
        cr_assert(s.weight == 0 || llabs(off) < (int64_t)s.weight,
                  "%s %llu: shard %u of weight %u owns %u of %u arcs", what,
                  (unsigned long long)number, now[i].shard, now[i].weight, now[i].arcs, s.arcs);
    }
    cr_assert_eq(arcs, s.weight == 0 ? 0 : s.arcs);
}

/* Applies the moves to the old owners; the result must be the new owners. */
static uint32_t apply_moves(const struct vshard_map *old, const struct vshard_map *new,
                            const char *what, uint64_t number)
{
    uint32_t arcs = stats_of(old).arcs, moved = 0, end = 0;
    uint32_t *a = malloc(arcs * sizeof *a), *b = malloc(arcs * sizeof *b);
    struct vshard_map_move *moves = malloc(arcs * sizeof *moves);
    size_t count;

    cr_assert_eq(vshard_map_arcs(old, 0, arcs, a), VSHARD_OK);
    cr_assert_eq(vshard_map_arcs(new, 0, arcs, b), VSHARD_OK);
    cr_assert_eq(vshard_map_moves(old, new, moves, arcs, &count), VSHARD_OK);
    for (size_t i = 0; i < count; i++) {
        const struct vshard_map_move *m = &moves[i];

        cr_assert(m->count > 0 && m->first >= end && m->from != m->to);
        cr_assert(i == 0 || m->first > end || m->from != m[-1].from || m->to != m[-1].to,
                  "%s %llu: two moves that are one", what, (unsigned long long)number);
        end = m->first + m->count;
        cr_assert_leq(end, arcs);
        for (uint32_t at = m->first; at < end; at++) {
            cr_assert_eq(a[at], m->from);
            a[at] = m->to;
        }
        moved += m->count;
    }
    cr_assert(memcmp(a, b, arcs * sizeof *a) == 0, "%s %llu: moves do not lead there", what,
              (unsigned long long)number);
    free(a);
    free(b);
    free(moves);
    return moved;
}

struct change {
    uint32_t kind, shard, weight; /* kind: 0 add, 1 remove, 2 reweight */
};

static int change(struct vshard_map *map, struct change c)
{
    switch (c.kind) {
    case 0: return vshard_map_add(map, c.shard, c.weight);
    case 1: return vshard_map_remove(map, c.shard);
    default: return vshard_map_reweight(map, c.shard, c.weight);
    }
}

/* Returns whether the change was taken. */
static bool change_and_check(struct vshard_map *map, struct change c, const char *what,
                             uint64_t number)
{
    static struct vshard_map_shard before[SHARDS_HERE];
    struct vshard_map *old = copy_of(map);
    uint64_t version = vshard_map_version(map);
    size_t before_count;
    uint32_t moved;
    int rc;

    cr_assert_eq(vshard_map_shards(map, before, SHARDS_HERE, &before_count), VSHARD_OK);
    rc = change(map, c);
    if (rc != VSHARD_OK || vshard_map_version(map) == version) {
        cr_assert(equal(old, map), "%s %llu: %s, and yet it changed", what,
                  (unsigned long long)number, vshard_strerror(rc));
        vshard_map_destroy(old);
        return false;
    }
    cr_assert_eq(vshard_map_version(map), version + 1);
    check_balance(map, what, number);
    moved = apply_moves(old, map, what, number);
    if (stats_of(old).weight != 0) {
        uint32_t least = least_moves(map, before, before_count);

        cr_assert_eq(moved, least, "%s %llu: %u arcs moved, %u would do", what,
                     (unsigned long long)number, moved, least);
    }
    vshard_map_destroy(old);
    return true;
}

/* ---- small rings, exhausted ---- */

enum { CHANGES = 12 + 3 + 12, DEPTH = 5 };

static struct change numbered(uint32_t i)
{
    if (i < 12)
        return (struct change){ 0, i % 3, i / 3 };
    if (i < 15)
        return (struct change){ 1, i - 12, 0 };
    return (struct change){ 2, (i - 15) % 3, (i - 15) / 3 };
}

static void explore(const struct vshard_map *map, uint32_t depth, uint64_t path, uint64_t *taken)
{
    for (uint32_t i = 0; i < CHANGES; i++) {
        struct vshard_map *next = copy_of(map);

        if (change_and_check(next, numbered(i), "path", path * CHANGES + i)) {
            ++*taken;
            if (depth > 1)
                explore(next, depth - 1, path * CHANGES + i, taken);
        }
        vshard_map_destroy(next);
    }
}

Test(route_map, moves_the_least_for_every_short_history_of_a_small_ring)
{
    for (uint32_t arcs = 1; arcs <= 8; arcs *= 2) {
        struct vshard_map *map = make(arcs);
        uint64_t taken = 0;

        explore(map, DEPTH, 1, &taken);
        cr_assert_gt(taken, 20000, "%llu changes", (unsigned long long)taken);
        vshard_map_destroy(map);
    }
}

/* ---- large ones, drawn ---- */

static struct change drawn(uint64_t *seed, uint32_t shards)
{
    uint32_t kind = (uint32_t)(random_next(seed) % 5),
             weights = random_next(seed) % 2 ? 4 : 1000001;

    return (struct change){ kind < 3 ? 0 : kind - 2, (uint32_t)(random_next(seed) % shards) * 7,
                            (uint32_t)(random_next(seed) % weights) };
}

Test(route_map, moves_the_least_for_long_histories_of_large_rings)
{
    static const uint32_t arcs[] = { 64, 1024, 65536 };
    static const uint32_t shards[] = { 5, 40, 500 };

    for (size_t a = 0; a < VS_COUNT(arcs); a++) {
        for (size_t s = 0; s < VS_COUNT(shards); s++) {
            struct vshard_map *map = make(arcs[a]);
            uint64_t seed = 100 * a + s + 1;

            for (uint64_t step = 0; step < (arcs[a] > 2000 ? 150 : 600); step++)
                change_and_check(map, drawn(&seed, shards[s]), "seed * 1000 + step",
                                 (100 * a + s + 1) * 1000 + step);
            vshard_map_destroy(map);
        }
    }
}

Test(route_map, gives_one_that_joins_its_share_and_moves_nothing_else)
{
    struct vshard_map *map = make(VSHARD_MAP_ARCS_MAX), *old;
    uint32_t moved;

    for (uint32_t i = 0; i < 127; i++)
        cr_assert_eq(vshard_map_add(map, i, VSHARD_MAP_WEIGHT_MAX), VSHARD_OK);
    old = copy_of(map);
    cr_assert_eq(vshard_map_add(map, 127, VSHARD_MAP_WEIGHT_MAX), VSHARD_OK);
    check_balance(map, "ring of 2^20", 0);
    moved = apply_moves(old, map, "ring of 2^20", 0);
    cr_expect_eq(moved, VSHARD_MAP_ARCS_MAX / 128);
    vshard_map_destroy(old);
    vshard_map_destroy(map);
}

/* ---- equal calls, equal maps ---- */

/* A golden digest: the same on every machine, in every version. */
Test(route_map, equal_calls_give_equal_maps_everywhere)
{
    unsigned char *bytes = malloc(VSHARD_MAP_BYTES_MAX);
    uint64_t digest[2];

    for (int twice = 0; twice < 2; twice++) {
        struct vshard_map *map = make(4096);
        uint64_t seed = 42;
        size_t count;

        for (int step = 0; step < 300; step++)
            change(map, drawn(&seed, 60));
        cr_assert_eq(vshard_map_encode(map, bytes, VSHARD_MAP_BYTES_MAX, &count), VSHARD_OK);
        digest[twice] = vs_checksum(bytes, count, 0);
        vshard_map_destroy(map);
    }
    cr_expect_eq(digest[0], digest[1]);
    cr_expect_eq(digest[0], 0x4c17300bf6facaa5u, "digest %#llx", (unsigned long long)digest[0]);
    free(bytes);
}

Test(route_map, removing_a_drained_shard_moves_nothing)
{
    struct vshard_map *map = make(64), *old;

    for (uint32_t i = 0; i < 6; i++)
        cr_assert_eq(vshard_map_add(map, i, i == 3 ? 5 : 1), VSHARD_OK);
    cr_assert_eq(vshard_map_reweight(map, 3, 0), VSHARD_OK);
    old = copy_of(map);
    cr_assert_eq(vshard_map_remove(map, 3), VSHARD_OK);
    cr_expect_eq(apply_moves(old, map, "drained", 0), 0);
    cr_expect_eq(vshard_map_version(map), 8);
    vshard_map_destroy(old);
    vshard_map_destroy(map);
}

/* ---- keys ---- */

/* Computed by another program from the formula in vshard_map(3). */
static const struct {
    struct vshard_key key;
    uint32_t arc; /* of 2^20 */
} golden[] = {
    { { 0x0, 0x0 }, 0 },
    { { 0x0, 0x1 }, 738667 },
    { { 0x1, 0x0 }, 513764 },
    { { 0x0, 0x8000000000000000 }, 587648 },
    { { 0xffffffffffffffff, 0xffffffffffffffff }, 243920 },
    { { 0x123456789abcdef, 0xfedcba9876543210 }, 455794 },
};

Test(route_keys, have_the_arcs_they_had_in_every_version)
{
    struct vshard_map *map = make(VSHARD_MAP_ARCS_MAX);

    for (size_t i = 0; i < VS_COUNT(golden); i++) {
        uint32_t arc = 0;

        cr_assert_eq(vshard_map_owner(map, &golden[i].key, 1, NULL, &arc), VSHARD_OK);
        cr_expect_eq(arc, golden[i].arc, "key %zu has arc %u", i, arc);
    }
    vshard_map_destroy(map);
}

Test(route_keys, belong_to_the_owner_of_their_arc)
{
    enum { KEYS = 1000 };
    static struct vshard_key keys[KEYS];
    static uint32_t shards[KEYS], arcs[KEYS], owners[4096];

    for (uint32_t ring = 1; ring <= 4096; ring *= 2) {
        struct vshard_map *map = make(ring);
        uint64_t seed = ring;

        for (uint32_t i = 0; i < KEYS; i++)
            keys[i] = (struct vshard_key){ random_next(&seed), random_next(&seed) };
        cr_expect_eq(vshard_map_owner(map, keys, KEYS, shards, arcs), VSHARD_ENOTFOUND);
        for (uint32_t i = 0; i < 5; i++)
            cr_assert_eq(vshard_map_add(map, 900 - 100 * i, 1 + i), VSHARD_OK);
        cr_assert_eq(vshard_map_owner(map, keys, KEYS, shards, arcs), VSHARD_OK);
        cr_assert_eq(vshard_map_arcs(map, 0, ring, owners), VSHARD_OK);
        for (uint32_t i = 0; i < KEYS; i++) {
            cr_assert_lt(arcs[i], ring);
            cr_assert_eq(shards[i], owners[arcs[i]], "ring %u key %u", ring, i);
        }
        vshard_map_destroy(map);
    }
}

static struct vshard_key key_of_kind(uint32_t kind, uint64_t i, uint64_t *seed)
{
    char text[64];

    switch (kind) {
    case 0: return (struct vshard_key){ 0, i };             /* a sequence */
    case 1: return (struct vshard_key){ i, 0 };             /* in the other half */
    case 2: return (struct vshard_key){ 0, i << 32 };       /* high bits only */
    case 3: return (struct vshard_key){ i, i };             /* both halves alike */
    case 4: return (struct vshard_key){ i >> 8, i & 0xff }; /* a grid */
    case 5:                                                 /* UUID version 4 */
        return (struct vshard_key){ (random_next(seed) & ~0xf000ull) | 0x4000,
                                    random_next(seed) >> 2 | 1ull << 63 };
    case 6: /* UUID version 7: milliseconds, a counter, little chance */
        return (struct vshard_key){ (0x18c2f0d0000ull + i / 100) << 16 | 0x7000 | i % 100,
                                    1ull << 63 | (random_next(seed) & 0xffff) };
    default:
        snprintf(text, sizeof text, "https://example.org/document/%llu", (unsigned long long)i);
        return vshard_key_hash(text, strlen(text));
    }
}

/* 50 shards, 8,000 keys each on average: a standard deviation of 89, so 6 of them
 * is 535. Wider than chance would ever be, narrower than any bad mixing. */
Test(route_keys, of_every_shape_spread_evenly)
{
    enum { SHARDS = 50, PER_SHARD = 8000, BOUND = 535, BATCH = 1000 };
    struct vshard_map *map = make(0);
    static struct vshard_key keys[BATCH];
    static uint32_t shards[BATCH];

    for (uint32_t i = 0; i < SHARDS; i++)
        cr_assert_eq(vshard_map_add(map, i, 1), VSHARD_OK);
    for (uint32_t kind = 0; kind < 8; kind++) {
        uint32_t count[SHARDS] = { 0 };
        uint64_t seed = 7;

        for (uint64_t i = 0; i < SHARDS * PER_SHARD; i += BATCH) {
            for (uint64_t j = 0; j < BATCH; j++)
                keys[j] = key_of_kind(kind, i + j, &seed);
            cr_assert_eq(vshard_map_owner(map, keys, BATCH, shards, NULL), VSHARD_OK);
            for (uint32_t j = 0; j < BATCH; j++)
                count[shards[j]]++;
        }
        for (uint32_t s = 0; s < SHARDS; s++)
            cr_expect(count[s] > PER_SHARD - BOUND && count[s] < PER_SHARD + BOUND,
                      "kind %u: shard %u got %u keys of %u", kind, s, count[s], PER_SHARD);
    }
    vshard_map_destroy(map);
}

/* ---- what is refused ---- */

static void count_event(void *ctx, uint32_t level, const char *name,
                        const struct vshard_log_field *fields, size_t field_count)
{
    cr_assert_eq(level, VSHARD_LOG_WARN);
    cr_assert_str_eq(name, "map.refused");
    cr_assert(field_count == 4 && fields[0].text != NULL);
    ++*(int *)ctx;
}

Test(route_refusal, each_limit_has_its_status_and_its_event)
{
    int events = 0;
    const struct vshard_logger log = { count_event, &events };
    struct vshard_map_options o = { sizeof o, 8, NULL, &log };
    struct vshard_map *map, *other = make(16);
    size_t n;

    cr_assert_eq(vshard_map_create(&o, &map), VSHARD_OK);
    cr_expect_eq(vshard_map_add(map, VSHARD_SHARD_NONE, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_add(map, 1, VSHARD_MAP_WEIGHT_MAX + 1), VSHARD_E2BIG);
    cr_expect_eq(vshard_map_remove(map, 1), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_map_reweight(map, 1, 1), VSHARD_ENOTFOUND);
    cr_expect_eq(events, 4);
    cr_expect_eq(vshard_map_version(map), 0);

    cr_assert_eq(vshard_map_add(map, 1, 1), VSHARD_OK);
    cr_assert_eq(vshard_map_add(map, 2, 0), VSHARD_OK);
    events = 0;
    cr_expect_eq(vshard_map_add(map, 1, 1), VSHARD_EEXIST);
    cr_expect_eq(vshard_map_remove(map, 1), VSHARD_EBUSY);
    cr_expect_eq(vshard_map_reweight(map, 1, 0), VSHARD_EBUSY);
    cr_expect_eq(vshard_map_reweight(map, 1, VSHARD_MAP_WEIGHT_MAX + 1), VSHARD_E2BIG);
    cr_expect_eq(vshard_map_moves(other, map, NULL, 0, &n), VSHARD_EINVAL);
    cr_expect_eq(events, 5);
    cr_expect_eq(vshard_map_reweight(map, 1, 1), VSHARD_OK);
    cr_expect_eq(vshard_map_version(map), 2, "the same weight is no change");
    cr_expect_eq(vshard_map_remove(map, 2), VSHARD_OK);
    cr_expect_eq(vshard_map_remove(map, 1), VSHARD_OK);
    cr_expect_eq(stats_of(map).runs, 1);
    vshard_map_destroy(map);
    vshard_map_destroy(other);
}

Test(route_refusal, bad_options_make_no_map)
{
    static const struct {
        uint32_t arcs;
        int status;
    } bad[] = { { 3, VSHARD_EINVAL },
                { 65537, VSHARD_EINVAL },
                { VSHARD_MAP_ARCS_MAX * 2, VSHARD_E2BIG },
                { UINT32_MAX, VSHARD_E2BIG } };

    for (size_t i = 0; i < VS_COUNT(bad); i++) {
        struct vshard_map_options o = { .size = sizeof o, .arcs = bad[i].arcs };
        struct vshard_map *map = (void *)&o;

        cr_expect_eq(vshard_map_create(&o, &map), bad[i].status, "arcs %u", bad[i].arcs);
        cr_expect_null(map);
    }
}

Test(route_refusal, more_shards_than_the_limit)
{
    struct vshard_map *map = make(2);

    for (uint32_t i = 0; i < VSHARD_MAP_SHARDS_MAX; i++)
        cr_assert_eq(vshard_map_add(map, i, 0), VSHARD_OK);
    cr_expect_eq(vshard_map_add(map, VSHARD_MAP_SHARDS_MAX, 1), VSHARD_E2BIG);
    cr_expect_eq(stats_of(map).shards, VSHARD_MAP_SHARDS_MAX);
    vshard_map_destroy(map);
}

Test(route_refusal, sees_nulls_and_small_arrays)
{
    struct vshard_map_options o = { .size = sizeof o };
    struct vshard_map *map = make(8), *copy = map;
    struct vshard_map_shard shards[2];
    struct vshard_map_move moves[2];
    struct vshard_key key = { 1, 2 };
    uint32_t shard[9];
    size_t n = 9;

    cr_expect_eq(vshard_map_create(&o, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_create(NULL, &copy), VSHARD_EINVAL);
    cr_expect_null(copy);
    cr_expect_eq(vshard_map_copy(NULL, &copy), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_copy(map, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_add(NULL, 1, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_remove(NULL, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_reweight(NULL, 1, 1), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_owner(NULL, &key, 1, shard, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_owner(map, NULL, 1, shard, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_arcs(map, 0, 9, shard), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_arcs(map, 9, 0, shard), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_arcs(map, 1, UINT32_MAX, shard), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_arcs(map, 8, 0, NULL), VSHARD_OK);
    cr_expect_eq(vshard_map_shards(map, NULL, 1, &n), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_shards(map, shards, 2, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_moves(map, NULL, moves, 2, &n), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_moves(map, map, moves, 2, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_encode(map, NULL, 1, &n), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_stats(map, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_map_version(NULL), 0);
    vshard_map_destroy(NULL);

    copy = copy_of(map);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(vshard_map_add(map, i, 1), VSHARD_OK);
    cr_expect_eq(vshard_map_shards(map, shards, 2, &n), VSHARD_E2BIG);
    cr_expect_eq(n, 3);
    cr_expect_eq(vshard_map_moves(copy, map, moves, 2, &n), VSHARD_E2BIG);
    cr_expect_geq(n, 3);
    cr_expect_eq(moves[1].first, moves[0].count);
    cr_expect_eq(vshard_map_moves(copy, map, NULL, 0, &n), VSHARD_E2BIG);
    cr_expect_eq(vshard_map_moves(map, map, NULL, 0, &n), VSHARD_OK);
    cr_expect_eq(n, 0);
    vshard_map_destroy(copy);
    vshard_map_destroy(map);
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

Test(route_memory, every_call_survives_each_allocation_that_fails)
{
    struct counted c = { 0, SIZE_MAX, 0 };
    const struct vshard_allocator a = { counted_resize, &c };
    struct vshard_map_options o = { .size = sizeof o, .arcs = 64, .allocator = &a };
    struct vshard_map *plain = make(64), *map, *copy;
    unsigned char bytes[2048];
    size_t count, failures = 0;

    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(vshard_map_add(plain, i, 1 + i), VSHARD_OK);
    cr_assert_eq(vshard_map_encode(plain, bytes, sizeof bytes, &count), VSHARD_OK);
    for (uint32_t call = 0; call < 5; call++) {
        for (size_t fail_at = 0;; fail_at++) {
            int rc;

            c.fail_at = SIZE_MAX;
            cr_assert_eq(vshard_map_decode(bytes, count, &o, &map), VSHARD_OK);
            c.calls = 0;
            c.fail_at = fail_at;
            copy = map;
            switch (call) {
            case 0: rc = vshard_map_create(&o, &copy); break;
            case 1: rc = vshard_map_copy(map, &copy); break;
            case 2: rc = vshard_map_decode(bytes, count, &o, &copy); break;
            case 3: rc = vshard_map_add(map, 9, 3); break;
            default: rc = vshard_map_remove(map, 2); break;
            }
            if (rc != VSHARD_OK) {
                cr_expect_eq(rc, VSHARD_ENOMEM);
                cr_expect(call > 2 || copy == NULL);
                cr_expect(equal(map, plain), "call %u changed the map", call);
                failures++;
            }
            if (call <= 2)
                vshard_map_destroy(copy);
            vshard_map_destroy(map);
            cr_expect_eq(c.live_bytes, 0, "call %u leaks when allocation %zu fails", call, fail_at);
            if (rc == VSHARD_OK)
                break;
        }
    }
    cr_expect_eq(failures, 2 + 3 + 3 + 1 + 1);
    vshard_map_destroy(plain);
}

/* ---- many shards at once ---- */

static struct vshard_map *added(uint32_t arcs, uint32_t shards)
{
    struct vshard_map *map = make(arcs);

    for (uint32_t i = 0; i < shards; i++)
        cr_assert_eq(vshard_map_add(map, i, 1), VSHARD_OK);
    return map;
}

static struct vshard_map *made_at_once(uint32_t arcs, uint32_t shards)
{
    const struct vshard_map_options o = { .size = sizeof o, .arcs = arcs };
    struct vshard_map *map;

    cr_assert_eq(vs_map_even(&o, shards, &map), VSHARD_OK);
    return map;
}

Test(route_map, gives_shards_that_come_together_what_they_get_one_by_one)
{
    static const uint32_t arcs[] = { 1, 2, 8, 64, 1024, 65536 };
    static const uint32_t many[] = { 70, 100, 255, 256, 257, 300, 511, 700 };

    for (size_t a = 0; a < VS_COUNT(arcs); a++) {
        for (uint32_t i = 0; i < 66 + VS_COUNT(many); i++) {
            uint32_t shards = i < 66 ? i : many[i - 66];
            struct vshard_map *one, *all;

            if (arcs[a] > 10000 && i > 20 && i % 7 != 0)
                continue;
            one = added(arcs[a], shards);
            all = made_at_once(arcs[a], shards);
            cr_assert(equal(one, all), "%u shards on %u arcs", shards, arcs[a]);
            /* And so it goes on. */
            cr_assert_eq(vshard_map_add(one, 9999, 3), VSHARD_OK);
            cr_assert_eq(vshard_map_add(all, 9999, 3), VSHARD_OK);
            cr_assert(equal(one, all), "%u shards on %u arcs, and one", shards, arcs[a]);
            vshard_map_destroy(one);
            vshard_map_destroy(all);
        }
    }
}

/* A collection of many shards is made between two heartbeats. */
Test(route_map, makes_many_shards_in_the_time_of_some)
{
    clock_t least_one = 0, least_all = 0;

    for (int turn = 0; turn < 3; turn++) {
        clock_t begun = clock(), middle;

        vshard_map_destroy(added(65536, 128));
        middle = clock();
        vshard_map_destroy(made_at_once(65536, 4096));
        if (turn == 0 || middle - begun < least_one)
            least_one = middle - begun;
        if (turn == 0 || clock() - middle < least_all)
            least_all = clock() - middle;
    }
    cr_expect_lt(least_all, least_one * 4, "%ld, and %ld for 128 by themselves", (long)least_all,
                 (long)least_one);
}
