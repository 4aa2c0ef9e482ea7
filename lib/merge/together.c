/* together.c - the selection when all lists are at hand.
 *
 * Then the lists need not lower the limit hit by hit. A distance that covers k hits
 * is guessed from a sample; the hits within it, hardly more than k, are collected
 * and sorted; and the selection takes them nearest first, until it is full. Nothing
 * ever enters to be displaced again.
 *
 * The guess. Take one hit of each list, at depth j: the list has j + 1 hits as near
 * or nearer. If m of the lists have their sample within some distance, then
 * m * (j + 1) hits are within it. So the m-th smallest sample, with m * (j + 1) >=
 * k, covers k hits, and j is chosen so that m is at most half of the lists: there
 * the order of the samples says most. For 64 lists and k = 10 the samples are the
 * heads, m is 10, and with random distances some 13 of 6,400 hits are within the
 * guess. The m-th smallest need not be exact: a few counts of the samples below a
 * trial distance come near it, without a branch that depends on the data.
 *
 * It is a guess only because hits may share a key. When too few keys are within it,
 * or too many hits, the lists are read one by one as if there had been none. */
#include "merge/select.h"

#include <math.h>

enum {
    SAMPLE_MAX = 1024,
    BLOCK = 16,
    TRIALS = 8,
    COLLECT_MAX = 512,  /* hits within the guess; 12 KiB of stack */
    COLLECT_K_MAX = 136 /* 512 are then enough for a guess that is far too wide */
};

struct collected {
    uint64_t order[COLLECT_MAX]; /* a distance as an integer, and a position in hits */
    uint64_t spare[COLLECT_MAX];
    const struct vshard_merge_hit *hits[COLLECT_MAX];
    uint32_t count;
    uint16_t near[SAMPLE_MAX]; /* lists that begin within the guess */
    uint32_t near_count;
};

/* ---- the guess ---- */

static uint32_t count_within(const float *sample, size_t blocks, float distance)
{
    uint32_t n = 0;

    for (size_t b = 0; b < blocks; b++) {
        for (size_t i = 0; i < BLOCK; i++)
            n += sample[b * BLOCK + i] <= distance;
    }
    return n;
}

/* A distance within which at least m samples are, and not many more. */
static float near_mth(const float *sample, size_t blocks, uint32_t m, float low, float high)
{
    uint32_t count_low = 0, count_high = (uint32_t)(blocks * BLOCK);
    float best = high;

    for (int trial = 0; trial < TRIALS && low < high; trial++) {
        float part = ((float)(m - count_low) + 0.5f) / (float)(count_high - count_low);
        float t = low + (high - low) * part;
        uint32_t n;

        if (!(t > low && t < high))
            break;
        n = count_within(sample, blocks, t);
        if (n < m) {
            low = t;
            count_low = n;
            continue;
        }
        best = high = t;
        count_high = n;
        if (n <= m + m / 4 + 1)
            break;
    }
    return best;
}

/* Infinite when there is no telling. */
static float guess(const struct vshard_merge_list *lists, size_t list_count, uint32_t k)
{
    float sample[SAMPLE_MAX], low = INFINITY, high = -INFINITY;
    size_t depth, n = 0;
    uint32_t m;

    if (list_count < 2 || list_count > SAMPLE_MAX)
        return INFINITY;
    depth = (2 * (size_t)k - 1) / list_count;
    m = (uint32_t)((k + depth) / (depth + 1));
    for (size_t i = 0; i < list_count; i++) {
        float d;

        if (lists[i].count <= depth)
            continue;
        d = lists[i].hits[depth].distance;
        low = d < low ? d : low;
        high = d > high ? d : high;
        sample[n++] = d;
    }
    if (n < m || !isfinite(low) || !isfinite(high))
        return INFINITY;
    while (n % BLOCK != 0)
        sample[n++] = INFINITY;
    return near_mth(sample, n / BLOCK, m, low, high);
}

/* ---- the hits within it ---- */

/* Integers in the order of the distances. -0 comes before +0; as both are one
 * distance, the selection puts them in order. */
static inline uint64_t as_integer(float distance)
{
    uint32_t bits;

    memcpy(&bits, &distance, sizeof bits);
    return bits ^ (bits >> 31 ? UINT32_MAX : 0x80000000u);
}

/* False when there is no room for them all. */
static bool collect(struct collected *c, const struct vshard_merge_list *list, float within,
                    int *status)
{
    float last = -INFINITY;

    for (size_t i = 0; i < list->count; i++) {
        const struct vshard_merge_hit *hit = &list->hits[i];

        if (!(hit->distance >= last)) { /* or a NaN */
            *status = VSHARD_EINVAL;
            return true;
        }
        if (hit->distance > within)
            break;
        if (c->count == COLLECT_MAX)
            return false;
        last = hit->distance;
        c->order[c->count] = as_integer(hit->distance) << 32 | c->count;
        c->hits[c->count++] = hit;
    }
    return true;
}

static void merge_runs(const uint64_t *from, size_t middle, size_t end, uint64_t *to)
{
    size_t a = 0, b = middle;

    while (a < middle && b < end) {
        uint64_t x = from[a], y = from[b], second = y < x;

        *to++ = second ? y : x;
        a += !second;
        b += second;
    }
    memcpy(to, from + a, (middle - a) * sizeof *to);
    memcpy(to + (middle - a), from + b, (end - b) * sizeof *to);
}

/* Runs of 16 by insertion, then pairs of runs. Returns where the result is. */
static const uint64_t *sort(struct collected *c)
{
    uint64_t *from = c->order, *to = c->spare, *swap;
    size_t n = c->count;

    for (size_t i = 1; i < n; i++) {
        uint64_t x = from[i];
        size_t j = i;

        for (; j % 16 != 0 && from[j - 1] > x; j--)
            from[j] = from[j - 1];
        from[j] = x;
    }
    for (size_t run = 16; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t end = n - i < 2 * run ? n - i : 2 * run;

            merge_runs(from + i, run < end ? run : end, end, to + i);
        }
        swap = from;
        from = to;
        to = swap;
    }
    return from;
}

/* Which lists begin within the guess cannot be foreseen, so no branch may depend on
 * it. A NaN counts as near, to be found out. */
static void find_near(struct collected *c, const struct vshard_merge_list *lists, size_t list_count,
                      float within)
{
    uint32_t n = 0;

    memset(c->near, 0, list_count * sizeof c->near[0]);
    for (size_t i = 0; i < list_count; i++) {
        c->near[n] = (uint16_t)i;
        n += lists[i].count != 0 && !(lists[i].hits[0].distance > within);
    }
    c->near_count = n;
}

/* Returns whether the selection is full; if not, it has to be done otherwise. */
static bool select_within(struct vs_select *s, const struct vshard_merge_list *lists,
                          size_t list_count, float within, int *status)
{
    struct collected c;
    const uint64_t *order;

    find_near(&c, lists, list_count, within);
    c.count = 0;
    for (uint32_t i = 0; i < c.near_count && *status == VSHARD_OK; i++) {
        if (!collect(&c, &lists[c.near[i]], within, status))
            return false;
    }
    if (*status < 0 || c.count < s->k)
        return false;
    order = sort(&c);
    for (size_t i = 0; i < c.count; i++) {
        const struct vshard_merge_hit *hit = c.hits[(uint32_t)order[i]];

        if (hit->distance > s->limit) /* full, and past all ties with the last */
            break;
        vs_select_hit(s, hit);
    }
    return s->count == s->k;
}

int vs_select_lists(struct vs_select *s, const struct vshard_merge_list *lists, size_t list_count)
{
    int status = VSHARD_OK;

    if (s->k <= COLLECT_K_MAX) {
        float within = guess(lists, list_count, s->k);

        if (within < INFINITY && select_within(s, lists, list_count, within, &status))
            return VSHARD_OK;
        /* What was selected may stay: it will only meet itself again. */
    }
    for (size_t i = 0; i < list_count && status == VSHARD_OK; i++)
        status = vs_select_list(s, lists[i].hits, lists[i].count);
    vs_select_flush(s);
    return status;
}
