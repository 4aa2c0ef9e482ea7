/* map_owner.c - how fast keys find their shards, and what a change costs.
 *
 * What it models: a node that routes a batch of writes (keys are integers, as they
 * are in most stores), and a cluster that grows by one shard. Beside the table of
 * arcs stands the textbook ring: 128 points a shard, sorted, and a binary search
 * for the first point at or after the hash. Both use the same hash of a key.
 *
 * Columns: nanoseconds a key; the fullest shard over the mean, in keys; and, for one
 * shard that joins, the share of keys that move over the share that must (1 is the
 * least) and the time the change takes. Ways run in turn within one pass.
 *
 *     build/bench/map_owner [repeats]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vshard/map.h>

#include "support/bench.h"

enum { REPEATS_DEFAULT = 31, KEYS = 65536, POINTS = 128, SHARDS_MAX = 1024 };

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

/* ---- the textbook ring ---- */

struct point {
    uint64_t at;
    uint32_t shard;
};

static int by_place(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static uint64_t finalise(uint64_t h)
{
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
}

static size_t ring_make(struct point *ring, uint32_t shards)
{
    size_t n = 0;

    for (uint32_t s = 0; s < shards; s++) {
        for (uint32_t p = 0; p < POINTS; p++)
            ring[n++] = (struct point){ finalise(finalise(s + 1) ^ p), s };
    }
    qsort(ring, n, sizeof *ring, by_place);
    return n;
}

static void ring_owner(const struct point *ring, size_t points, const struct vshard_key *keys,
                       uint32_t *shards)
{
    for (size_t i = 0; i < KEYS; i++) {
        uint64_t h = finalise(finalise(keys[i].hi) ^ keys[i].lo);
        size_t low = 0, high = points;

        while (low < high) {
            size_t middle = low + (high - low) / 2;

            if (ring[middle].at < h)
                low = middle + 1;
            else
                high = middle;
        }
        shards[i] = ring[low == points ? 0 : low].shard;
    }
}

/* ---- both ---- */

static struct vshard_map *map_make(uint32_t arcs, uint32_t shards)
{
    struct vshard_map_options o = { .size = sizeof o, .arcs = arcs };
    struct vshard_map *map;

    if (vshard_map_create(&o, &map) != VSHARD_OK)
        abort();
    for (uint32_t i = 0; i < shards; i++) {
        if (vshard_map_add(map, i, 1) != VSHARD_OK)
            abort();
    }
    return map;
}

/* Keys of the fullest shard over the mean. */
static double heaviest(const uint32_t *owner, uint32_t shards)
{
    static uint32_t count[SHARDS_MAX + 1];
    uint32_t most = 0;

    for (uint32_t s = 0; s < shards; s++)
        count[s] = 0;
    for (size_t i = 0; i < KEYS; i++) {
        if (++count[owner[i]] > most)
            most = count[owner[i]];
    }
    return (double)most * shards / KEYS;
}

static double moved(const uint32_t *before, const uint32_t *after, uint32_t shards)
{
    uint32_t n = 0;

    for (size_t i = 0; i < KEYS; i++)
        n += before[i] != after[i];
    return (double)n / KEYS * (shards + 1);
}

static void report(uint32_t shards, uint32_t arcs, const struct vshard_key *keys, size_t repeats)
{
    static uint32_t owner[2][KEYS], grown[2][KEYS];
    struct point *ring = malloc((size_t)(shards + 1) * POINTS * sizeof *ring);
    double *lookup[2], *change[2];
    struct vshard_map *map = map_make(arcs, shards);
    size_t points;

    for (int w = 0; w < 2; w++) {
        lookup[w] = calloc(repeats, sizeof(double));
        change[w] = calloc(repeats, sizeof(double));
    }
    for (size_t r = 0; r < repeats; r++) {
        struct vshard_map *copy;
        double start;

        points = ring_make(ring, shards);
        start = now_ns();
        ring_owner(ring, points, keys, owner[0]);
        lookup[0][r] = (now_ns() - start) / KEYS;
        start = now_ns();
        if (vshard_map_owner(map, keys, KEYS, owner[1], NULL) != VSHARD_OK)
            abort();
        lookup[1][r] = (now_ns() - start) / KEYS;

        if (vshard_map_copy(map, &copy) != VSHARD_OK)
            abort();
        start = now_ns();
        points = ring_make(ring, shards + 1);
        change[0][r] = (now_ns() - start) / 1000;
        start = now_ns();
        if (vshard_map_add(copy, shards, 1) != VSHARD_OK)
            abort();
        change[1][r] = (now_ns() - start) / 1000;
        ring_owner(ring, points, keys, grown[0]);
        vshard_map_owner(copy, keys, KEYS, grown[1], NULL);
        vshard_map_destroy(copy);
    }
    for (int w = 0; w < 2; w++) {
        qsort(lookup[w], repeats, sizeof(double), by_value);
        qsort(change[w], repeats, sizeof(double), by_value);
        printf("%s\t%u\t%u\t%.2f\t%.2f\t%.3f\t%.3f\t%.0f\n", w ? "arcs" : "points", shards,
               w ? arcs : shards * POINTS, lookup[w][repeats / 2], lookup[w][repeats * 95 / 100],
               heaviest(owner[w], shards), moved(owner[w], grown[w], shards),
               change[w][repeats / 2]);
        free(lookup[w]);
        free(change[w]);
    }
    vshard_map_destroy(map);
    free(ring);
}

int main(int argc, char **argv)
{
    static struct vshard_key keys[KEYS];
    size_t repeats = argc > 1 ? strtoul(argv[1], NULL, 10) : REPEATS_DEFAULT;

    bench_usage(argc, argv, 1, "[repeats]");
    if (repeats == 0)
        return 1;
    for (uint32_t i = 0; i < KEYS; i++)
        keys[i].lo = i;
    puts("ring\tshards\tentries\tns_per_key_p50\tns_per_key_p95\theaviest_over_mean\t"
         "moved_over_least\tus_per_join_p50");
    report(8, 65536, keys, repeats);
    report(64, 65536, keys, repeats);
    report(64, 1048576, keys, repeats);
    report(1024, 65536, keys, repeats);
    return 0;
}
