/* pool.c - offers candidates to the sorted pool of a graph search.
 *
 * Most candidates are no better than the last entry, and which ones cannot be
 * predicted. So no branch depends on a single key:
 *
 *   1. those below the last key when the call began are gathered, branch-free;
 *   2. each finds its place by comparing it with every key: a count of the keys
 *      that are <= its own, which on sorted keys is its position;
 *   3. what lies behind moves up by one, a vector at a time.
 *
 * A gathered candidate that has been overtaken meanwhile finds its place at
 * `cap`, in the spare entries, which is to say nowhere. What lies behind the last
 * entry is INT32_MAX or fell off the end, so none of it is below the last key:
 * whole vectors may be compared, and a count above `count` means the end. */
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

#if defined(__x86_64__)
#include "kernel/x86.h"

enum { GATHER = 64 }; /* candidates gathered at a time */

struct gathered {
    int32_t keys[GATHER + 8];
    uint32_t slots[GATHER + 8];
    size_t count;
};

/* ---- AVX2 ---- */

/* Behind the last entry, as far as a whole vector may reach. */
AVX2 VS_STEP void avx2_fence(int32_t *end)
{
    _mm256_storeu_si256((void *)end, _mm256_set1_epi32(INT32_MAX));
}

AVX2 VS_STEP void avx2_insert(struct vs_pool *p, int32_t key, uint32_t slot)
{
    const __m256i x = _mm256_set1_epi32(key);
    __m256i above = _mm256_setzero_si256(), k, s;
    uint32_t at, end = (p->count + 7) & ~7u;

    for (uint32_t i = 0; i < end; i += 8)
        above = _mm256_add_epi32(
            above, _mm256_cmpgt_epi32(_mm256_loadu_si256((const void *)(p->keys + i)), x));
    at = end + (uint32_t)_mm_cvtsi128_si32(sum4_epi32(above, above, above, above));
    at = at < p->count ? at : p->count;

    k = _mm256_loadu_si256((const void *)(p->keys + at));
    s = _mm256_loadu_si256((const void *)(p->slots + at));
    for (uint32_t i = at; i < p->count; i += 8) {
        __m256i k_next = _mm256_loadu_si256((const void *)(p->keys + i + 8));
        __m256i s_next = _mm256_loadu_si256((const void *)(p->slots + i + 8));
        _mm256_storeu_si256((void *)(p->keys + i + 1), k);
        _mm256_storeu_si256((void *)(p->slots + i + 1), s);
        k = k_next;
        s = s_next;
    }
    p->keys[at] = key;
    p->slots[at] = slot;
    p->next = at < p->next ? at : p->next;
    if (p->count < p->cap)
        avx2_fence(p->keys + ++p->count);
}

AVX2 static void avx2_gather(struct gathered *g, const struct vs_pool *p, const int32_t *keys,
                             const uint32_t *slots, size_t count)
{
    int32_t worst = p->count == p->cap ? p->keys[p->cap - 1] : INT32_MAX;
    int32_t any = p->count < p->cap;

    g->count = 0;
    for (size_t i = 0; i < count; i++) {
        g->keys[g->count] = keys[i];
        g->slots[g->count] = slots[i];
        g->count += (size_t)((keys[i] < worst) | any);
    }
}

AVX2 static void avx2_push(struct vs_pool *pool, const int32_t *keys, const uint32_t *slots,
                           size_t count)
{
    struct gathered g;

    if (pool->cap == 0)
        return;
    avx2_fence(pool->keys + pool->count);
    for (size_t done = 0; done < count; done += GATHER) {
        avx2_gather(&g, pool, keys + done, slots + done,
                    count - done < GATHER ? count - done : GATHER);
        for (size_t i = 0; i < g.count; i++)
            avx2_insert(pool, g.keys[i], g.slots[i]);
    }
}

#endif /* x86-64 */

uint32_t vs_kernel_pick_pool(struct vs_kernel *kernel, uint32_t cpu)
{
    static const struct {
        uint32_t needs;
        void (*push)(struct vs_pool *, const int32_t *, const uint32_t *, size_t);
    } variants[] = {
#if defined(__x86_64__)
        { VSHARD_CPU_AVX2, avx2_push },
#endif
        { 0, scalar_push },
    };
    size_t i = 0;

    while ((cpu & variants[i].needs) != variants[i].needs)
        i++; /* the last row needs nothing */
    kernel->pool_push = variants[i].push;
    return variants[i].needs;
}
