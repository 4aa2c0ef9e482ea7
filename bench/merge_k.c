/* merge_k.c - how fast the lists of many shards become one answer.
 *
 * What it models: a query that went to 8, 64 or 256 shards, each of which sent
 * its 100 nearest hits; the distances are uniform, the keys are hashes. Queries
 * differ from pass to pass, so that no branch is learned by heart, and lie in
 * memory one after the other, so that hits come from the outer caches.
 *
 * Beside the library stand the textbook ways, which give the same answers:
 *
 *   heap+set    a binary heap over the heads of the lists, and a hash set of the
 *               keys given out; stops at the k-th. Right when no key comes in two
 *               versions, as `settled` is.
 *   map+heap    a hash map from key to newest version over all hits, then the
 *               same heap. Right always, as `any` and `stream` are.
 *
 * All ways run in turn within one pass over the queries. Each answer is compared
 * before anything is timed. In the `newer` rows one key of the answer has a newer
 * version far down another list. The heap is handed all lists at once; `stream`
 * takes them one by one, as they arrive, and keeps a bound.
 *
 *     build/bench/merge_k [repeats]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vshard/merge.h>

#include "support/bench.h"

enum { REPEATS_DEFAULT = 41, PER_LIST = 100, LISTS_MAX = 256, QUERIES = 16, K_MAX = 100, WAYS = 6 };

struct query {
    struct vshard_merge_hit hits[LISTS_MAX][PER_LIST];
    struct vshard_merge_list lists[LISTS_MAX];
};

static uint64_t seed = 1;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_distance(const void *a, const void *b)
{
    float x = ((const struct vshard_merge_hit *)a)->distance;
    float y = ((const struct vshard_merge_hit *)b)->distance;
    return (x > y) - (x < y);
}

static void fill(struct query *q, uint32_t lists, int newer)
{
    for (uint32_t i = 0; i < lists; i++) {
        for (uint32_t j = 0; j < PER_LIST; j++)
            q->hits[i][j] =
                (struct vshard_merge_hit){ { draw(), draw() }, 1, (float)(draw() >> 40), i };
        qsort(q->hits[i], PER_LIST, sizeof q->hits[i][0], by_distance);
        q->lists[i] = (struct vshard_merge_list){ q->hits[i], PER_LIST };
    }
    if (newer) {
        uint32_t nearest = 0;

        for (uint32_t i = 1; i < lists; i++) {
            if (q->hits[i][0].distance < q->hits[nearest][0].distance)
                nearest = i;
        }
        q->hits[(nearest + 1) % lists][PER_LIST - 1].key = q->hits[nearest][0].key;
        q->hits[(nearest + 1) % lists][PER_LIST - 1].version = 2;
    }
}

/* ---- the textbook ways ---- */

enum { MAP_SLOTS = 1 << 16 };

struct map {
    struct {
        struct vshard_key key;
        uint64_t version;
        uint32_t stamp; /* of the query that used the slot; saves clearing */
        uint32_t given;
    } slots[MAP_SLOTS];
    uint32_t stamp;
    uint32_t bits; /* slots in use; as few as serve, so that they stay in cache */
};

static struct map map;

static void map_clear(size_t keys)
{
    map.stamp++;
    map.bits = 4;
    while ((size_t)1 << map.bits < 2 * keys)
        map.bits++;
}

/* The slot of a key; *is_new tells whether it was empty. */
static uint32_t map_slot(struct vshard_key key, int *is_new)
{
    uint32_t s = (uint32_t)((key.lo ^ key.hi) * 0x9e3779b97f4a7c15u >> (64 - map.bits));

    while (map.slots[s].stamp == map.stamp &&
           (map.slots[s].key.lo != key.lo || map.slots[s].key.hi != key.hi))
        s = (s + 1) & ((1u << map.bits) - 1);
    *is_new = map.slots[s].stamp != map.stamp;
    if (*is_new) {
        map.slots[s].key = key;
        map.slots[s].version = 0;
        map.slots[s].given = 0;
        map.slots[s].stamp = map.stamp;
    }
    return s;
}

struct head {
    const struct vshard_merge_hit *hit, *end;
};

static int nearer(const struct vshard_merge_hit *a, const struct vshard_merge_hit *b)
{
    if (a->distance != b->distance)
        return a->distance < b->distance;
    return a->key.hi != b->key.hi ? a->key.hi < b->key.hi : a->key.lo < b->key.lo;
}

static void sift_down(struct head *heap, uint32_t count, uint32_t i)
{
    struct head top = heap[i];

    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= count)
            break;
        if (child + 1 < count && nearer(heap[child + 1].hit, heap[child].hit))
            child++;
        if (!nearer(heap[child].hit, top.hit))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = top;
}

static uint32_t textbook(const struct query *q, uint32_t lists, uint32_t k,
                         struct vshard_merge_hit *out, int versions)
{
    struct head heap[LISTS_MAX];
    uint32_t found = 0, count = lists;
    int is_new;

    map_clear(versions ? (size_t)lists * PER_LIST : 2 * k);
    if (versions) {
        for (uint32_t i = 0; i < lists; i++) {
            for (uint32_t j = 0; j < PER_LIST; j++) {
                uint32_t s = map_slot(q->hits[i][j].key, &is_new);
                if (q->hits[i][j].version > map.slots[s].version)
                    map.slots[s].version = q->hits[i][j].version;
            }
        }
    }
    for (uint32_t i = 0; i < lists; i++)
        heap[i] = (struct head){ q->hits[i], q->hits[i] + PER_LIST };
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(heap, count, i);
    while (found < k && count > 0) {
        const struct vshard_merge_hit *hit = heap[0].hit;
        uint32_t s = map_slot(hit->key, &is_new);

        if (!map.slots[s].given && (!versions || hit->version == map.slots[s].version)) {
            map.slots[s].given = 1;
            out[found++] = *hit;
        }
        if (++heap[0].hit == heap[0].end)
            heap[0] = heap[--count];
        sift_down(heap, count, 0);
    }
    return found;
}

/* ---- the library ---- */

static uint32_t one_call(const struct query *q, uint32_t lists, uint32_t k, uint32_t flags,
                         struct vshard_merge_hit *out)
{
    struct vshard_merge_options o = { .size = sizeof o, .k = k, .flags = flags };
    uint32_t found = 0;

    if (vshard_merge(&o, q->lists, lists, out, &found) != VSHARD_OK)
        abort();
    return found;
}

static uint32_t stream(struct vshard_merger *m, const struct query *q, uint32_t lists, uint32_t k,
                       struct vshard_merge_hit *out)
{
    uint32_t found = 0;

    vshard_merger_reset(m);
    for (uint32_t i = 0; i < lists; i++) {
        if (vshard_merger_push(m, q->hits[i], PER_LIST) != VSHARD_OK)
            abort();
    }
    if (vshard_merger_hits(m, out, k, &found) != VSHARD_OK)
        abort();
    return found;
}

static const char *const way_names[WAYS] = { "heap+set", "settled", "settled stream",
                                             "map+heap", "any",     "any stream" };

static uint32_t run(uint32_t way, struct vshard_merger *const *m, const struct query *q,
                    uint32_t lists, uint32_t k, struct vshard_merge_hit *out)
{
    switch (way) {
    case 0: return textbook(q, lists, k, out, 0);
    case 1: return one_call(q, lists, k, VSHARD_MERGE_SETTLED, out);
    case 2: return stream(m[0], q, lists, k, out);
    case 3: return textbook(q, lists, k, out, 1);
    case 4: return one_call(q, lists, k, 0, out);
    default: return stream(m[1], q, lists, k, out);
    }
}

static struct vshard_merger *make(uint32_t k, uint32_t flags)
{
    struct vshard_merge_options o = {
        .size = sizeof o, .k = k, .flags = flags, .hit_max = LISTS_MAX * PER_LIST
    };
    struct vshard_merger *m;

    if (vshard_merger_create(&o, &m) != VSHARD_OK)
        abort();
    return m;
}

static void report(struct query *queries, uint32_t lists, uint32_t k, int newer, size_t repeats)
{
    struct vshard_merger *m[2] = { make(k, VSHARD_MERGE_SETTLED), make(k, 0) };
    struct vshard_merge_hit out[K_MAX], want[K_MAX];
    double *sample[WAYS];
    uint32_t first = newer ? 3 : 0;

    for (uint32_t q = 0; q < QUERIES; q++) {
        fill(&queries[q], lists, newer);
        for (uint32_t w = first; w < WAYS; w++) {
            uint32_t n = textbook(&queries[q], lists, k, want, w >= 3);
            if (run(w, m, &queries[q], lists, k, out) != n || memcmp(out, want, n * sizeof *out)) {
                fprintf(stderr, "%s is wrong\n", way_names[w]);
                exit(1);
            }
        }
    }
    for (uint32_t w = first; w < WAYS; w++)
        sample[w] = calloc(repeats, sizeof *sample[w]);
    for (size_t r = 0; r < repeats; r++) {
        for (uint32_t w = first; w < WAYS; w++) {
            double start = now_ns();
            for (uint32_t q = 0; q < QUERIES; q++)
                run(w, m, &queries[q], lists, k, out);
            sample[w][r] = (now_ns() - start) / QUERIES;
        }
    }
    for (uint32_t w = first; w < WAYS; w++)
        qsort(sample[w], repeats, sizeof *sample[w], by_value);
    for (uint32_t w = first; w < WAYS; w++)
        printf("%s\t%s\t%u\t%d\t%u\t%.0f\t%.0f\t%.1f\n", way_names[w], newer ? "newer" : "same",
               lists, PER_LIST, k, sample[w][repeats / 2], sample[w][repeats * 95 / 100],
               sample[w < 3 ? 0 : 3][repeats / 2] / sample[w][repeats / 2]);
    for (uint32_t w = first; w < WAYS; w++)
        free(sample[w]);
    vshard_merger_destroy(m[0]);
    vshard_merger_destroy(m[1]);
}

int main(int argc, char **argv)
{
    static const uint32_t shape[][2] = { { 8, 10 }, { 64, 10 }, { 64, 100 }, { 256, 10 } };
    size_t repeats = argc > 1 ? strtoul(argv[1], NULL, 10) : REPEATS_DEFAULT;
    struct query *queries = calloc(QUERIES, sizeof *queries);

    bench_usage(argc, argv, 1, "[repeats]");
    if (queries == NULL || repeats == 0)
        return 1;
    puts(
        "way\tversions\tlists\thits_per_list\tk\tns_per_merge_p50\tns_per_merge_p95\ttextbook_over_this");
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        report(queries, shape[i][0], shape[i][1], 0, repeats);
        report(queries, shape[i][0], shape[i][1], 1, repeats);
    }
    free(queries);
    return 0;
}
