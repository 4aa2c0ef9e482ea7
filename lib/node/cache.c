/* cache.c - answers to searches, kept for those who ask the same again.
 *
 * An answer is kept under all that it depends on: the collection, the bytes of the question
 * with its expression, k, effort and flags. It is kept whole or not at all: each shard has
 * answered, and no limit has cut it. With it go the positions that it reflects, and it is
 * given again as long as nothing newer than these is known:
 *
 *   - no replica, here or by what other nodes say of theirs, has applied more of a shard, or is
 *     of a later recovery epoch, in which what was answered may be void: who asks for any answer
 *     gets none that this node knows to be out of date;
 *   - the positions reach those that are named, whatever else is asked for;
 *   - for a bound of age, there is a moment at which it was known to be current: when it was
 *     asked for, if that was linearizable, or so much before as a bounded one allowed.
 *
 * A linearizable search is never answered from here. What is least recently used goes first.
 *
 * There is a bucket for each KiB that it may hold, about what one answer takes, so that chains are
 * short however large it is. */
#include "node/core.h"

struct vs_cached {
    struct vs_cached *chain;         /* of its bucket */
    struct vs_cached *newer, *older; /* by use */
    uint64_t hash;
    uint64_t current_ns; /* it was current then; 0: that is not known */
    uint64_t rows;
    uint32_t hit_count, position_count;
    size_t key_bytes;
    struct vshard_merge_hit *hits;     /* [hit_count] behind this, as what follows */
    struct vshard_position *positions; /* [position_count] */
    unsigned char *key;                /* [key_bytes] */
};

enum { BUCKETS_MIN = 64, BUCKETS_MAX = 1 << 22, BYTES_A_BUCKET = 1024 };
enum { HEAD = 16, AGE = 8 }; /* of a key; of q->ask: the age that is bounded is no part of it */

static size_t bytes_of(const struct vs_cached *c)
{
    return sizeof *c + c->hit_count * sizeof *c->hits + c->position_count * sizeof *c->positions +
           c->key_bytes;
}

static void put_head(unsigned char head[HEAD], const struct vs_request *q)
{
    vs_store32(head, q->collection);
    vs_store32(head + 4, q->k);
    vs_store32(head + 8, q->flags);
    vs_store32(head + 12, q->part_count);
}

static uint64_t hash_of(const struct vs_request *q)
{
    unsigned char head[HEAD];

    put_head(head, q);
    return vs_checksum(q->ask.at + AGE, q->ask.count - AGE, vs_checksum(head, HEAD, 0));
}

static bool asks_for(const struct vs_cached *c, const struct vs_request *q, uint64_t hash)
{
    unsigned char head[HEAD];

    put_head(head, q);
    return c->hash == hash && c->key_bytes == HEAD + q->ask.count - AGE &&
           memcmp(c->key, head, HEAD) == 0 &&
           memcmp(c->key + HEAD, q->ask.at + AGE, q->ask.count - AGE) == 0;
}

static struct vs_cached **bucket_of(struct vs_cache *cache, uint64_t hash)
{
    return &cache->bucket[hash & (cache->bucket_count - 1)];
}

static struct vs_cached **place_of(struct vs_cache *cache, const struct vs_request *q,
                                   uint64_t hash)
{
    struct vs_cached **at = bucket_of(cache, hash);

    while (*at != NULL && !asks_for(*at, q, hash))
        at = &(*at)->chain;
    return at;
}

/* ---- by use ---- */

static void unlink(struct vs_cache *cache, struct vs_cached *c)
{
    *(c->newer != NULL ? &c->newer->older : &cache->newest) = c->older;
    *(c->older != NULL ? &c->older->newer : &cache->oldest) = c->newer;
}

static void put_newest(struct vs_cache *cache, struct vs_cached *c)
{
    c->newer = NULL;
    c->older = cache->newest;
    *(c->older != NULL ? &c->older->newer : &cache->oldest) = c;
    cache->newest = c;
}

static void drop(struct vshard_node *n, struct vs_cached *c)
{
    struct vs_cached **at = bucket_of(&n->cache, c->hash);

    while (*at != c)
        at = &(*at)->chain;
    *at = c->chain;
    unlink(&n->cache, c);
    n->cache.bytes -= bytes_of(c);
    vs_free(n->allocator, c, bytes_of(c));
}

int vs_cache_init(struct vshard_node *n)
{
    struct vs_cache *cache = &n->cache;
    uint32_t count = BUCKETS_MIN;

    if (n->o.cache_bytes == 0)
        return VSHARD_OK;
    while (count < BUCKETS_MAX && (uint64_t)count * BYTES_A_BUCKET < n->o.cache_bytes)
        count *= 2;
    cache->bucket = vs_alloc_zeroed(n->allocator, count * sizeof(struct vs_cached *));
    cache->bucket_count = cache->bucket != NULL ? count : 0;
    return cache->bucket != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

void vs_cache_fini(struct vshard_node *n)
{
    while (n->cache.oldest != NULL)
        drop(n, n->cache.oldest);
    vs_free(n->allocator, n->cache.bucket, n->cache.bucket_count * sizeof(struct vs_cached *));
}

/* ---- whether it may be given ---- */

/* The latest recovery epoch of a group that this node has heard of. */
static uint64_t epoch_known(const struct vshard_node *n, uint64_t group)
{
    const struct vs_replica *r = vs_replica_find(n, group);
    uint64_t epoch = r != NULL ? vs_replica_epoch(r) : 0;
    uint32_t hints;
    const struct vs_hint *h = vs_hints_of(n, group, &hints);

    for (uint32_t i = 0; i < hints; i++)
        epoch = h[i].term >> 48 > epoch ? h[i].term >> 48 : epoch;
    return epoch;
}

static bool outdated(struct vshard_node *n, const struct vs_cached *c)
{
    for (uint32_t i = 0; i < c->position_count; i++) {
        const struct vshard_position *at = &c->positions[i];

        if (vs_applied_known(n, at->group) > at->index || epoch_known(n, at->group) > at->epoch)
            return true;
    }
    return false;
}

static bool reaches(const struct vs_cached *c, const struct vshard_position *wanted)
{
    for (uint32_t i = 0; i < c->position_count; i++) {
        if (c->positions[i].group == wanted->group)
            return c->positions[i].epoch == wanted->epoch && c->positions[i].index >= wanted->index;
    }
    return true; /* of another collection */
}

static bool suits(struct vshard_node *n, const struct vs_cached *c, const struct vs_request *q)
{
    uint64_t age = vs_load64(q->ask.at);

    if (TRAP(67))
        return true;
    for (uint32_t i = 0; i < q->position_count; i++) {
        if (!reaches(c, &q->positions[i]))
            return false;
    }
    if (q->consistency == VSHARD_READ_BOUNDED)
        return c->current_ns != 0 && n->now - c->current_ns <= age;
    return q->consistency != VSHARD_READ_LINEARIZABLE;
}

/* The parts as they were when all had answered, the hits of all in the first. */
static bool give(struct vshard_node *n, const struct vs_cached *c, struct vs_request *q)
{
    size_t bytes = c->hit_count * sizeof *c->hits;
    struct vs_part *first = &q->part[0];

    first->hits = bytes != 0 ? vs_alloc(n->allocator, bytes) : NULL;
    if (bytes != 0 && first->hits == NULL)
        return false;
    if (bytes != 0)
        memcpy(first->hits, c->hits, bytes);
    first->found = c->hit_count;
    for (uint32_t i = 0; i < q->part_count; i++) {
        q->part[i].state = VS_PART_DONE;
        q->part[i].position = c->positions[i].index;
        q->part[i].epoch = c->positions[i].epoch;
    }
    q->answered = q->part_count;
    q->open_count = 0;
    q->rows = c->rows;
    q->kept = 1;
    return true;
}

bool vs_cache_answer(struct vshard_node *n, struct vs_request *q)
{
    struct vs_cached *c;

    if (n->o.cache_bytes == 0 || q->consistency == VSHARD_READ_LINEARIZABLE)
        return false;
    c = *place_of(&n->cache, q, hash_of(q));
    if (c != NULL && outdated(n, c) && !TRAP(67)) {
        drop(n, c);
        c = NULL;
    }
    if (c == NULL || !suits(n, c, q) || !give(n, c, q)) {
        n->cache.misses++;
        return false;
    }
    n->cache.answers++;
    unlink(&n->cache, c);
    put_newest(&n->cache, c);
    return true;
}

/* ---- keeping ---- */

static uint64_t current_at(const struct vs_request *q)
{
    uint64_t age = vs_load64(q->ask.at);

    switch (q->consistency) {
    case VSHARD_READ_LINEARIZABLE: return q->started_ns;
    case VSHARD_READ_BOUNDED: return age < q->started_ns ? q->started_ns - age : 0;
    default: return 0;
    }
}

static struct vs_cached *make(struct vshard_node *n, const struct vs_request *q,
                              const struct vshard_node_done *d)
{
    const struct vs_cached shape = { .hash = hash_of(q),
                                     .current_ns = current_at(q),
                                     .rows = d->rows,
                                     .hit_count = d->hit_count,
                                     .position_count = d->position_count,
                                     .key_bytes = HEAD + q->ask.count - AGE };
    size_t hit_bytes = d->hit_count * sizeof *d->hits;
    struct vs_cached *c;

    if (bytes_of(&shape) > n->o.cache_bytes)
        return NULL;
    while (bytes_of(&shape) > n->o.cache_bytes - n->cache.bytes)
        drop(n, n->cache.oldest);
    c = vs_alloc(n->allocator, bytes_of(&shape));
    if (c == NULL)
        return NULL;
    *c = shape;
    c->hits = (struct vshard_merge_hit *)(void *)(c + 1);
    c->positions = (struct vshard_position *)(void *)(c->hits + d->hit_count);
    c->key = (unsigned char *)(c->positions + d->position_count);
    if (hit_bytes != 0)
        memcpy(c->hits, d->hits, hit_bytes);
    memcpy(c->positions, d->positions, d->position_count * sizeof *d->positions);
    put_head(c->key, q);
    memcpy(c->key + HEAD, q->ask.at + AGE, q->ask.count - AGE);
    return c;
}

void vs_cache_keep(struct vshard_node *n, const struct vs_request *q,
                   const struct vshard_node_done *d)
{
    struct vs_cached **at, *c;

    if (n->o.cache_bytes == 0 || q->kind != VSHARD_NODE_SEARCH || q->kept ||
        d->status != VSHARD_OK || d->limits != 0 || d->position_count != q->part_count)
        return;
    at = place_of(&n->cache, q, hash_of(q));
    if (*at != NULL)
        drop(n, *at);
    c = make(n, q, d);
    if (c == NULL)
        return;
    at = bucket_of(&n->cache, c->hash);
    c->chain = *at;
    *at = c;
    put_newest(&n->cache, c);
    n->cache.bytes += bytes_of(c);
}
