/* pool.c - offers candidates to the sorted pool of a graph search.
 *
 * Most candidates are no better than the last entry, and which ones cannot be
 * predicted; a branch on a key costs more than the rest. So:
 *
 *   1. vectors of keys are compared with the last entry; of those below it, as
 *      many as a vector has lanes form a group;
 *   2. each finds its rank: how many keys of the pool are <= its own. A few
 *      halvings and a count over 64 keys, without a branch;
 *   3. the group is kept sorted in a register. Its n-th goes to position rank + n;
 *   4. from the last vector of the pool down to the first that changes, each is
 *      put together from the old entries and the group, by a permutation that
 *      the bits of the group's positions in it select.
 *
 * So an entry moves once for a whole group, and nothing is loaded that has just
 * been stored at another offset, which would wait for the store to leave the
 * pipeline: inserting one by one spends most of its time so.
 *
 * A candidate overtaken by its own group ends beyond `cap`, in the spare entries,
 * which is to say nowhere. What lies behind the last entry, as far as a vector
 * reaches, is INT32_MAX or fell off the end: never below the last key. So whole
 * vectors may be compared, and a rank above `count` means the end. */
#include "kernel/topics.h"

/* ---- scalar ---- */

static void scalar_push(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t at = pool->count;

        if (at == pool->cap && (at == 0 || keys[i] >= pool->keys[at - 1]))
            continue;
        while (at > 0 && pool->keys[at - 1] > keys[i])
            at--;
        pool->count += pool->count < pool->cap;
        for (uint32_t j = pool->count - 1; j > at; j--) {
            pool->keys[j] = pool->keys[j - 1];
            pool->slots[j] = pool->slots[j - 1];
        }
        pool->keys[at] = keys[i];
        pool->slots[at] = slots[i];
        if (at < pool->next)
            pool->next = at;
    }
}

static size_t scalar_count(int32_t most, const int32_t *keys, size_t count)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++)
        n += keys[i] <= most;
    return n;
}

static size_t scalar_keep(int32_t most, const int32_t *keys, const uint32_t *slots, size_t count,
                          int32_t *out_keys, uint32_t *out_slots)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        if (keys[i] > most)
            continue;
        out_keys[n] = keys[i];
        out_slots[n++] = slots[i];
    }
    return n;
}

#if defined(__x86_64__) || defined(__aarch64__)

/* The keys of the pool that are <= key. Halves until a window of 64 is left:
 * whatever is behind the window is above the key, or the end. */
#define RANK_WINDOW 64

static inline uint32_t rank_window(const struct vs_pool *p, int32_t key, uint32_t *left)
{
    uint32_t from = 0, n = p->count;

    while (n > RANK_WINDOW) {
        uint32_t half = n / 2;
        from += half & (0u - (uint32_t)(p->keys[from + half - 1] <= key));
        n -= half;
    }
    *left = n;
    return from;
}

#endif

#if defined(__x86_64__)
#include "kernel/x86.h"

/* ---- AVX2 ---- */

/* How to put eight entries together, for each set of lanes that the group takes:
 * a lane's place among those of its kind, and the sign bit where it is taken. */
#define BIT(m, l)   ((m) >> (l)&1)
#define BEFORE_0(m) 0
#define BEFORE_1(m) (BEFORE_0(m) + BIT(m, 0))
#define BEFORE_2(m) (BEFORE_1(m) + BIT(m, 1))
#define BEFORE_3(m) (BEFORE_2(m) + BIT(m, 2))
#define BEFORE_4(m) (BEFORE_3(m) + BIT(m, 3))
#define BEFORE_5(m) (BEFORE_4(m) + BIT(m, 4))
#define BEFORE_6(m) (BEFORE_5(m) + BIT(m, 5))
#define BEFORE_7(m) (BEFORE_6(m) + BIT(m, 6))
#define LANE(m, l)  (BIT(m, l) ? BEFORE_##l(m) - 128 : (l) - (BEFORE_##l(m)))
#define ROW(m)                                                                              \
    {                                                                                       \
        LANE(m, 0), LANE(m, 1), LANE(m, 2), LANE(m, 3), LANE(m, 4), LANE(m, 5), LANE(m, 6), \
            LANE(m, 7)                                                                      \
    }
#define ROWS_4(m)  ROW(m), ROW(m + 1), ROW(m + 2), ROW(m + 3)
#define ROWS_16(m) ROWS_4(m), ROWS_4(m + 4), ROWS_4(m + 8), ROWS_4(m + 12)
#define ROWS_64(m) ROWS_16(m), ROWS_16(m + 16), ROWS_16(m + 32), ROWS_16(m + 48)

static const int8_t avx2_weave[256][8] = { ROWS_64(0), ROWS_64(64), ROWS_64(128), ROWS_64(192) };

/* Up to eight candidates, ascending; equal ones in the order they were offered. */
struct avx2_group {
    __m256i keys, slots, ranks;
    uint32_t count;
};

AVX2 VS_STEP __m256i avx2_lanes(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

AVX2 VS_STEP __m256i avx2_choose(__m256i no, __m256i yes, __m256i sign)
{
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no), _mm256_castsi256_ps(yes),
                                                _mm256_castsi256_ps(sign)));
}

AVX2 VS_STEP __m256i avx2_load(const void *from)
{
    return _mm256_loadu_si256(from);
}

/* Reads up to 15 entries behind the last. */
AVX2 VS_STEP uint32_t avx2_rank(const struct vs_pool *p, int32_t key)
{
    const __m256i x = _mm256_set1_epi32(key);
    __m256i a = _mm256_setzero_si256(), b = a;
    __m128i sum;
    uint32_t left, from = rank_window(p, key, &left), seen = (left + 15) & ~15u;

    for (uint32_t i = 0; i < seen; i += 16) { /* each key above it counts -1 */
        a = _mm256_add_epi32(a, _mm256_cmpgt_epi32(avx2_load(p->keys + from + i), x));
        b = _mm256_add_epi32(b, _mm256_cmpgt_epi32(avx2_load(p->keys + from + i + 8), x));
    }
    a = _mm256_add_epi32(a, b);
    sum = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    from += seen + (uint32_t)_mm_cvtsi128_si32(sum);
    return from < p->count ? from : p->count;
}

/* Moves the lanes above the new key up by one, and puts it in the gap. */
AVX2 VS_STEP void avx2_join(struct avx2_group *g, int32_t key, uint32_t slot, uint32_t rank)
{
    const __m256i up = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6), lane = avx2_lanes();
    const __m256i x = _mm256_set1_epi32(key), n = _mm256_set1_epi32((int32_t)g->count - 1);
    __m256i above = _mm256_or_si256(_mm256_cmpgt_epi32(g->keys, x), _mm256_cmpgt_epi32(lane, n));
    __m256i gap = _mm256_andnot_si256(
        _mm256_blend_epi32(_mm256_permutevar8x32_epi32(above, up), _mm256_setzero_si256(), 1),
        above);

    g->keys = avx2_choose(g->keys, _mm256_permutevar8x32_epi32(g->keys, up), above);
    g->slots = avx2_choose(g->slots, _mm256_permutevar8x32_epi32(g->slots, up), above);
    g->ranks = avx2_choose(g->ranks, _mm256_permutevar8x32_epi32(g->ranks, up), above);
    g->keys = avx2_choose(g->keys, x, gap);
    g->slots = avx2_choose(g->slots, _mm256_set1_epi32((int32_t)slot), gap);
    g->ranks = avx2_choose(g->ranks, _mm256_set1_epi32((int32_t)rank), gap);
    g->count++;
}

/* Behind the last entry, as far as vectors reach. */
AVX2 VS_STEP void avx2_fence(int32_t *end)
{
    _mm256_storeu_si256((void *)end, _mm256_set1_epi32(INT32_MAX));
    _mm256_storeu_si256((void *)(end + 8), _mm256_set1_epi32(INT32_MAX));
}

/* The positions the group takes among the 64 from `from`, as bits. */
AVX2 VS_STEP uint64_t avx2_taken(__m256i at, uint32_t from)
{
    const __m256i one = _mm256_set1_epi64x(1), base = _mm256_set1_epi64x(from);
    __m256i low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(at));
    __m256i high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(at, 1));
    __m256i bits = _mm256_or_si256(_mm256_sllv_epi64(one, _mm256_sub_epi64(low, base)),
                                   _mm256_sllv_epi64(one, _mm256_sub_epi64(high, base)));
    __m128i half = _mm_or_si128(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));

    return (uint64_t)_mm_cvtsi128_si64(_mm_or_si128(half, _mm_unpackhi_epi64(half, half)));
}

/* Eight entries from `old`, or from lane `from` of the group, as `how` says. */
AVX2 VS_STEP __m256i avx2_entries(const void *old, __m256i group, __m256i from, __m256i how)
{
    return avx2_choose(_mm256_permutevar8x32_epi32(avx2_load(old), how),
                       _mm256_permutevar8x32_epi32(group, _mm256_add_epi32(how, from)), how);
}

AVX2 VS_STEP void avx2_merge(struct vs_pool *p, const struct avx2_group *g)
{
    const __m256i lane = avx2_lanes(), n = _mm256_set1_epi32((int32_t)g->count);
    const uint32_t room = p->cap - p->count, count = p->count + (g->count < room ? g->count : room);
    __m256i at = _mm256_add_epi32(g->ranks, lane);
    uint32_t block = (count + 7) / 8, first, below;
    uint64_t taken = 0;

    at = _mm256_or_si256(at, _mm256_xor_si256(_mm256_cmpgt_epi32(n, lane), _mm256_set1_epi32(-1)));
    first = (uint32_t)_mm256_cvtsi256_si32(at);
    below = (uint32_t)__builtin_popcount((uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(
        _mm256_andnot_si256(at, _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)block * 8), at)))));
    if (block % 8 != 0)
        taken = avx2_taken(at, block / 8 * 64) << (64 - block % 8 * 8);
    while (block-- > first / 8) {
        uint32_t lanes, i = block * 8;
        __m256i how, from;

        if (block % 8 == 7)
            taken = avx2_taken(at, i - 56);
        lanes = (uint32_t)(taken >> 56);
        taken <<= 8;
        below -= (uint32_t)__builtin_popcount(lanes);
        how = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)avx2_weave[lanes]));
        from = _mm256_set1_epi32((int32_t)below);
        _mm256_storeu_si256((void *)(p->keys + i),
                            avx2_entries(p->keys + i - below, g->keys, from, how));
        _mm256_storeu_si256((void *)(p->slots + i),
                            avx2_entries(p->slots + i - below, g->slots, from, how));
    }
    p->next = first < p->next ? first : p->next;
    if (p->count < p->cap)
        avx2_fence(p->keys + count);
    p->count = count;
}

/* Which of up to 64 candidates are below the last entry, as bits. */
AVX2 VS_STEP uint64_t avx2_better(const struct vs_pool *p, const int32_t *keys, size_t count)
{
    uint64_t better = 0;
    size_t i = 0;
    int32_t last;

    if (p->count < p->cap)
        return UINT64_MAX >> (64 - count);
    last = p->keys[p->cap - 1];
    for (; i + 8 <= count; i += 8) {
        __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(last), avx2_load(keys + i));
        better |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(below)) << i;
    }
    for (; i < count; i++)
        better |= (uint64_t)(keys[i] < last) << i;
    return better;
}

AVX2 static void avx2_push(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                           size_t count)
{
    if (pool->cap == 0)
        return;
    avx2_fence(pool->keys + pool->count);
    for (size_t done = 0; done < count; done += 64) {
        size_t left = count - done < 64 ? count - done : 64;
        uint64_t better = avx2_better(pool, keys + done, left);

        while (better != 0) {
            const __m256i zero = _mm256_setzero_si256();
            struct avx2_group g = { zero, zero, zero, 0 };

            for (; better != 0 && g.count < 8; better &= better - 1) {
                size_t i = done + (size_t)__builtin_ctzll(better);
                avx2_join(&g, keys[i], slots[i], avx2_rank(pool, keys[i]));
            }
            avx2_merge(pool, &g);
        }
    }
}

AVX2 static size_t avx2_count(int32_t most, const int32_t *keys, size_t count)
{
    const __m256i x = _mm256_set1_epi32(most);
    size_t i = 0, above = 0;

    for (; i + 8 <= count; i += 8)
        above += (size_t)__builtin_popcount((uint32_t)_mm256_movemask_ps(
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(avx2_load(keys + i), x))));
    return i - above + scalar_count(most, keys + i, count - i);
}

/* ---- AVX-512: sixteen at a time, put together by expanding ---- */

struct avx512_group {
    __m512i keys, slots, ranks;
    uint32_t count;
};

AVX512 VS_STEP __m512i avx512_lanes(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* Reads up to 15 entries behind the last. */
AVX512 VS_STEP uint32_t avx512_rank(const struct vs_pool *p, int32_t key)
{
    const __m512i x = _mm512_set1_epi32(key);
    uint32_t left, from = rank_window(p, key, &left), rank = from;

    for (uint32_t i = 0; i < left; i += 16)
        rank += (uint32_t)__builtin_popcount(
            _mm512_cmple_epi32_mask(_mm512_loadu_si512(p->keys + from + i), x));
    return rank < p->count ? rank : p->count;
}

/* Moves the lanes above the new key up by one, and puts it in the gap. Keys do not wait for masks:
 * each is the lesser of itself and of the greater of the one before and the new one, where
 * INT32_MAX is behind the last. */
AVX512 VS_STEP void avx512_join(struct avx512_group *g, int32_t key, uint32_t slot, uint32_t rank)
{
    const __m512i up = _mm512_sub_epi32(avx512_lanes(), _mm512_set1_epi32(1));
    const __m512i x = _mm512_set1_epi32(key), s = _mm512_set1_epi32((int32_t)slot);
    const __m512i before = _mm512_mask_permutexvar_epi32(x, 0xfffe, up, g->keys);
    const uint32_t unused = 0xffffu << g->count;
    __mmask16 above = (__mmask16)(_mm512_cmpgt_epi32_mask(g->keys, x) | unused);
    __mmask16 moved = (__mmask16)(_mm512_cmpgt_epi32_mask(before, x) | unused << 1);

    g->keys = _mm512_min_epi32(g->keys, _mm512_max_epi32(before, x));
    g->slots = _mm512_mask_permutexvar_epi32(_mm512_mask_mov_epi32(g->slots, above, s), moved, up,
                                             g->slots);
    g->ranks = _mm512_mask_permutexvar_epi32(
        _mm512_mask_mov_epi32(g->ranks, above, _mm512_set1_epi32((int32_t)rank)), moved, up,
        g->ranks);
    g->count++;
}

/* The positions the group takes among the 64 from `from`, as bits. */
AVX512 VS_STEP uint64_t avx512_taken(__m512i at, uint32_t from)
{
    const __m512i one = _mm512_set1_epi64(1), base = _mm512_set1_epi64(from);
    __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(at));
    __m512i high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(at, 1));

    return (uint64_t)_mm512_reduce_or_epi64(
        _mm512_or_si512(_mm512_sllv_epi64(one, _mm512_sub_epi64(low, base)),
                        _mm512_sllv_epi64(one, _mm512_sub_epi64(high, base))));
}

/* Sixteen entries: those taken from lane `from` of the group on, the others from
 * `old` on. */
AVX512 VS_STEP __m512i avx512_entries(const void *old, __m512i group, uint32_t from,
                                      __mmask16 taken)
{
    __m512i lane = _mm512_add_epi32(avx512_lanes(), _mm512_set1_epi32((int32_t)from));
    __m512i new = _mm512_maskz_expand_epi32(taken, _mm512_permutexvar_epi32(lane, group));
    return _mm512_mask_expand_epi32(new, (__mmask16)~taken, _mm512_loadu_si512(old));
}

AVX512 VS_STEP void avx512_fence(int32_t *end)
{
    _mm512_storeu_si512(end, _mm512_set1_epi32(INT32_MAX));
}

AVX512 VS_STEP void avx512_merge(struct vs_pool *p, const struct avx512_group *g)
{
    const uint32_t room = p->cap - p->count, count = p->count + (g->count < room ? g->count : room);
    const uint32_t used = (1u << g->count) - 1;
    __m512i at =
        _mm512_mask_add_epi32(_mm512_set1_epi32(-1), (__mmask16)used, g->ranks, avx512_lanes());
    uint32_t first = (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(at));
    uint32_t block = (count + 15) / 16, below;
    uint64_t taken = 0;

    below = (uint32_t)__builtin_popcount(
        used & _mm512_cmpgt_epi32_mask(_mm512_set1_epi32((int32_t)block * 16), at));
    if (block % 4 != 0)
        taken = avx512_taken(at, block / 4 * 64) << (64 - block % 4 * 16);
    while (block-- > first / 16) {
        uint32_t lanes, i = block * 16;

        if (block % 4 == 3)
            taken = avx512_taken(at, i - 48);
        lanes = (uint32_t)(taken >> 48);
        taken <<= 16;
        below -= (uint32_t)__builtin_popcount(lanes);
        _mm512_storeu_si512(p->keys + i,
                            avx512_entries(p->keys + i - below, g->keys, below, (__mmask16)lanes));
        _mm512_storeu_si512(
            p->slots + i, avx512_entries(p->slots + i - below, g->slots, below, (__mmask16)lanes));
    }
    p->next = first < p->next ? first : p->next;
    if (p->count < p->cap)
        avx512_fence(p->keys + count);
    p->count = count;
}

AVX512 static void avx512_push(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                               size_t count)
{
    if (pool->cap == 0)
        return;
    avx512_fence(pool->keys + pool->count);
    for (size_t done = 0; done < count; done += 64) {
        size_t left = count - done < 64 ? count - done : 64;
        uint64_t better = avx2_better(pool, keys + done, left);

        while (better != 0) {
            const __m512i zero = _mm512_setzero_si512();
            struct avx512_group g = { _mm512_set1_epi32(INT32_MAX), zero, zero, 0 };

            for (; better != 0 && g.count < 16; better &= better - 1) {
                size_t i = done + (size_t)__builtin_ctzll(better);
                avx512_join(&g, keys[i], slots[i], avx512_rank(pool, keys[i]));
            }
            avx512_merge(pool, &g);
        }
    }
}

AVX512 static size_t avx512_count(int32_t most, const int32_t *keys, size_t count)
{
    const __m512i x = _mm512_set1_epi32(most);
    size_t n = 0;

    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 m = first_floats(count - i);
        n += (size_t)__builtin_popcount(
            _mm512_mask_cmple_epi32_mask(m, _mm512_maskz_loadu_epi32(m, keys + i), x));
    }
    return n;
}

AVX512 static size_t avx512_keep(int32_t most, const int32_t *keys, const uint32_t *slots,
                                 size_t count, int32_t *out_keys, uint32_t *out_slots)
{
    const __m512i x = _mm512_set1_epi32(most);
    size_t n = 0;

    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 m = first_floats(count - i);
        __m512i k = _mm512_maskz_loadu_epi32(m, keys + i),
                s = _mm512_maskz_loadu_epi32(m, slots + i);
        __mmask16 in = _mm512_mask_cmple_epi32_mask(m, k, x);
        size_t kept = (size_t)__builtin_popcount(in);

        _mm512_mask_storeu_epi32(out_keys + n, first_floats(kept),
                                 _mm512_maskz_compress_epi32(in, k));
        _mm512_mask_storeu_epi32(out_slots + n, first_floats(kept),
                                 _mm512_maskz_compress_epi32(in, s));
        n += kept;
    }
    return n;
}

#endif /* x86-64 */

#if defined(__aarch64__)
#include "kernel/arm.h"

/* ---- NEON ----
 * One by one: NEON has neither masks of bits nor a cheap way from them to a
 * permutation. The rank and the move take no branch on a key but the last. */

/* Reads up to 15 entries behind the last. */
VS_STEP uint32_t neon_rank(const struct vs_pool *p, int32_t key)
{
    const int32x4_t x = vdupq_n_s32(key);
    uint32x4_t a = vdupq_n_u32(0), b = a;
    uint32_t left, from = rank_window(p, key, &left);

    for (uint32_t i = 0; i < left; i += 8) { /* each key not above it counts -1 */
        a = vaddq_u32(a, vcleq_s32(vld1q_s32(p->keys + from + i), x));
        b = vaddq_u32(b, vcleq_s32(vld1q_s32(p->keys + from + i + 4), x));
    }
    from -= vaddvq_u32(vaddq_u32(a, b));
    return from < p->count ? from : p->count;
}

/* Moves what lies behind `at` up by one, the next vector loaded before each
 * store, and on into the spare entries. */
VS_STEP void neon_insert(struct vs_pool *p, uint32_t at, int32_t key, uint32_t slot)
{
    int32x4_t k = vld1q_s32(p->keys + at);
    uint32x4_t s = vld1q_u32(p->slots + at);

    for (uint32_t i = at; i < p->count; i += 4) {
        int32x4_t k_next = vld1q_s32(p->keys + i + 4);
        uint32x4_t s_next = vld1q_u32(p->slots + i + 4);
        vst1q_s32(p->keys + i + 1, k);
        vst1q_u32(p->slots + i + 1, s);
        k = k_next;
        s = s_next;
    }
    p->keys[at] = key;
    p->slots[at] = slot;
    p->next = at < p->next ? at : p->next;
    if (p->count < p->cap) {
        p->count++;
        vst1q_s32(p->keys + p->count, vdupq_n_s32(INT32_MAX));
        vst1q_s32(p->keys + p->count + 4, vdupq_n_s32(INT32_MAX));
    }
}

static void neon_push(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                      size_t count)
{
    if (pool->cap == 0)
        return;
    vst1q_s32(pool->keys + pool->count, vdupq_n_s32(INT32_MAX));
    vst1q_s32(pool->keys + pool->count + 4, vdupq_n_s32(INT32_MAX));
    for (size_t i = 0; i < count; i++) {
        if (pool->count < pool->cap || keys[i] < pool->keys[pool->cap - 1])
            neon_insert(pool, neon_rank(pool, keys[i]), keys[i], slots[i]);
    }
}

static size_t neon_count(int32_t most, const int32_t *keys, size_t count)
{
    const int32x4_t x = vdupq_n_s32(most);
    uint32x4_t n = vdupq_n_u32(0);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) /* each that is at most so much counts -1 */
        n = vsubq_u32(n, vcleq_s32(vld1q_s32(keys + i), x));
    return vaddvq_u32(n) + scalar_count(most, keys + i, count - i);
}

#endif /* aarch64 */

uint32_t vs_kernel_pick_pool(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*push)(struct vs_pool *, const int32_t *, const uint32_t *, size_t);
        size_t (*count)(int32_t, const int32_t *, size_t);
        size_t (*keep)(int32_t, const int32_t *, const uint32_t *, size_t, int32_t *, uint32_t *);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX512, avx512_push, avx512_count, avx512_keep },
        { VSHARD_CPU_AVX2, avx2_push, avx2_count, scalar_keep },
#elif defined(__aarch64__)
        { VSHARD_CPU_NEON, neon_push, neon_count, scalar_keep },
#endif
        { 0, scalar_push, scalar_count, scalar_keep },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->pool_push = variants[i].push;
    kernel->count_keys = variants[i].count;
    kernel->keep_keys = variants[i].keep;
    return variants[i].needs;
}
