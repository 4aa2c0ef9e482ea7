/* shard_tail_threads.c - one thread stages, one applies, and what is searched for is found once
 * and as new as it was when it was looked for.
 *
 * Method: entry i writes a few keys, whose vectors tell i, or removes one. So what a key must be
 * at least is known from the position that stood when a search began. Most entries replace
 * rows, which go from the tail into the shard all the while. Meant above all for
 * ThreadSanitizer. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "support/sanitized.h"
#include "support/shard_data.h"

enum { ENTRIES = SANITIZED ? 600 : 4000 };
enum { DIM = 8, KEYS = 64, KEPT = 48, TOGETHER = 5, AHEAD = 40, READERS = 2, HITS = 4 };

struct rig {
    struct vs_shard *s;
    unsigned char *bytes[ENTRIES + 1];
    size_t count[ENTRIES + 1];
    uint64_t written[KEYS][ENTRIES + 1]; /* by which entry, as of each; 0: it is not there */
    _Atomic uint64_t applied;
    atomic_int ended;
    _Atomic uint64_t searches;
};

static void key_vector(float *v, uint64_t key, uint64_t entry)
{
    memset(v, 0, DIM * sizeof *v);
    for (int bit = 0; bit < 6; bit++)
        v[bit] = key >> bit & 1 ? 1e5f : 0;
    v[DIM - 1] = (float)entry;
}

/* Keys from KEPT on are removed now and then. */
static void draw(struct rig *r, uint64_t index)
{
    float vectors[TOGETHER * DIM];
    struct vshard_key keys[TOGETHER];
    bool removes = index > KEYS && index % 4 == 0;
    struct vs_batch_source b = { .kind = removes ? VS_BATCH_REMOVE : VS_BATCH_ADD,
                                 .count = removes ? 1 : TOGETHER,
                                 .vector_bytes = removes ? 0 : DIM * sizeof(float),
                                 .keys = keys,
                                 .vectors = vectors };

    for (uint64_t k = 0; k < KEYS; k++)
        r->written[k][index] = r->written[k][index - 1];
    for (uint32_t i = 0; i < b.count; i++) {
        uint64_t k = removes ? KEPT + index / 4 % (KEYS - KEPT) : (index * TOGETHER + i) % KEYS;

        keys[i] = (struct vshard_key){ 0, k };
        key_vector(vectors + (size_t)i * DIM, k, index);
        r->written[k][index] = removes ? 0 : index;
    }
    r->count[index] = vs_batch_bytes(&b);
    r->bytes[index] = malloc(r->count[index]);
    vs_batch_encode(&b, r->bytes[index]);
}

static void *stage(void *arg)
{
    struct rig *r = arg;
    uint64_t index = 1;
    uint32_t kept = 1;

    while (index <= ENTRIES || kept != 0) {
        cr_assert_eq(vs_shard_unstage(r->s, &kept), VSHARD_OK);
        for (; index <= ENTRIES && index <= atomic_load(&r->applied) + AHEAD; index++)
            cr_assert_eq(vs_shard_stage(r->s, index, r->bytes[index], r->count[index]), VSHARD_OK);
        sched_yield();
    }
    atomic_store(&r->ended, 1);
    return NULL;
}

static void *apply(void *arg)
{
    struct rig *r = arg;

    for (uint64_t index = 1; index <= ENTRIES; index++) {
        while (vs_shard_searchable(r->s) < index)
            sched_yield();
        cr_assert_eq(shard_apply(r->s, index, r->bytes[index], r->count[index]), VSHARD_OK);
        atomic_store(&r->applied, index);
    }
    return NULL;
}

static void look_for(struct rig *r, uint64_t key)
{
    uint64_t before = vs_shard_searchable(r->s), after, least = 0, found = 0, times = 0;
    float query[DIM];
    struct vs_shard_query q = { .vector = query, .k = HITS, .exact = 1, .bound = INFINITY };
    struct vshard_merge_hit hit[HITS];
    struct vs_shard_answer a;
    bool gone = false;

    key_vector(query, key, 0);
    cr_assert_eq(vs_shard_search(r->s, &q, hit, &a), VSHARD_OK);
    after = vs_shard_searchable(r->s) + 1; /* the next may be half staged */
    after = after < ENTRIES ? after : ENTRIES;
    cr_assert_geq(a.position, before);
    for (uint32_t i = 0; i < a.found; i++) {
        if (hit[i].key.lo != key)
            continue;
        found = (uint64_t)llround(sqrt((double)hit[i].distance));
        times++;
    }
    least = r->written[key][before];
    for (uint64_t at = before; at <= after; at++)
        gone |= r->written[key][at] == 0;
    cr_assert_leq(times, 1u, "key %d twice, at %d", (int)key, (int)before);
    cr_assert(times == 1 || gone, "key %d is not found, at %d to %d", (int)key, (int)before,
              (int)after);
    if (times == 1)
        cr_assert(found >= least && found <= after,
                  "key %d of entry %d, at %d to %d, where it was %d", (int)key, (int)found,
                  (int)before, (int)after, (int)least);
    /* Nothing has brought it back. */
    if (times == 1 && least == 0)
        cr_assert_gt(found, before, "key %d was gone", (int)key);
}

/* A row is that of one entry, whole. */
static void fetch(struct rig *r, uint64_t key)
{
    const struct vshard_key k = { 0, key };
    uint64_t before = vs_shard_searchable(r->s);
    float v[DIM];
    struct vs_shard_row row = { .vector = v };
    const struct vs_shard *from = vs_shard_hold(r->s, k);

    /* Below it may be half applied: who fetches from there does not so beside apply. */
    if (from != r->s && vs_shard_fetch(from, k, &row) == VSHARD_OK) {
        cr_assert_eq((uint64_t)v[DIM - 1], row.version);
        cr_assert_geq(row.version, r->written[key][before]);
    }
    vs_shard_release(r->s);
}

static void *search(void *arg)
{
    struct rig *r = arg;
    uint64_t state = (uint64_t)(uintptr_t)&state;

    do { /* once at least, though it may come to run when the others have ended */
        look_for(r, random_below(&state, KEYS));
        fetch(r, random_below(&state, KEYS));
        atomic_fetch_add(&r->searches, 1);
    } while (!atomic_load(&r->ended));
    return NULL;
}

Test(shard_tail_threads, nothing_is_lost_on_its_way_from_the_tail)
{
    struct vs_shard_plan plan = {
        .dim = DIM, .family = VSHARD_FAMILY_HNSW, .metric = VSHARD_METRIC_L2SQ, .seed = 1
    };
    struct rig *r = calloc(1, sizeof *r);
    pthread_t thread[READERS + 2];

    cr_assert_eq(vs_shard_create(&plan, &r->s), VSHARD_OK);
    for (uint64_t i = 1; i <= ENTRIES; i++)
        draw(r, i);
    pthread_create(&thread[0], NULL, stage, r);
    pthread_create(&thread[1], NULL, apply, r);
    for (int i = 0; i < READERS; i++)
        pthread_create(&thread[2 + i], NULL, search, r);
    for (int i = 0; i < READERS + 2; i++)
        pthread_join(thread[i], NULL);
    cr_expect_gt(atomic_load(&r->searches), 0u);
    for (uint64_t i = 1; i <= ENTRIES; i++)
        free(r->bytes[i]);
    vs_shard_destroy(r->s);
    free(r);
}
