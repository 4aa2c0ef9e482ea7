/* guess.c - how far one has to look, guessed from a sample.
 *
 * Lists that are all at hand need not lower the limit hit by hit. Take one hit of
 * each list, at depth j: the list has j + 1 hits as near or nearer. If m of the
 * lists have their sample within some distance, then m * (j + 1) hits are within
 * it. So the m-th smallest sample, with m * (j + 1) >= k, covers k hits, and j is
 * chosen so that m is at most half of the lists: there the order of the samples
 * says most. For 64 lists and k = 10 the samples are the heads, m is 10, and with
 * random distances some 20 of 6,400 hits are within the guess.
 *
 * It is a guess only because hits may share a key. The caller counts the keys it
 * got, and reads again without a ceiling when they are too few.
 *
 * The m-th smallest need not be exact: a few counts of the samples below a trial
 * distance come near it, without a branch that depends on the data. */
#include "merge/select.h"

#include <math.h>

enum { SAMPLE_MAX = 1024, BLOCK = 16, TRIALS = 8 };

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

float vs_select_guess(const struct vshard_merge_list *lists, size_t list_count, uint32_t k)
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
