/* select.c - the k nearest distinct keys of sorted lists, read no further than
 * they matter.
 *
 * The k nearest so far are kept in order, and the k-th distance is the limit: a
 * list is sorted, so it is left at its first hit beyond the limit. The limit falls
 * quickly. Of lists of random distances the i-th has about k / i hits that enter,
 * so 64 lists cost some 5k insertions, and most lists one comparison. When all
 * lists are at hand, there is a shorter way to the same end: see together.c.
 *
 * A kept hit lies in a slot and does not move; what is kept in order are places,
 * 8 bytes each. A table leads from a key to its slot. It is sparse when there
 * will be a check, which asks it about every hit there is, and should mostly find an
 * empty entry.
 *
 * With small k, hits enter one by one, each lowering the limit for the next. With
 * large k that would move half the order for every hit, so new hits are gathered,
 * up to k of them, and then sorted and merged into the order in one pass.
 *
 * What it guarantees, with several versions of a key about. Let S be what is kept,
 * W its last place once it is full. Places only ever get nearer, W too: a hit that
 * enters displaces the last; a kept key moves farther, to a newer version, only if
 * it stays before the last, and otherwise keeps its old place. So each hit before W
 * was read, and:
 *
 *   - a survivor (newest of its key, nearest of these) before W is in S. It was
 *     read, entered or took its key's place, gave way to no other hit of the key,
 *     and was never last;
 *   - a hit in S is a survivor, unless a newer version of its key exists. Such a
 *     one lies beyond W or left S, and a check over all hits finds it.
 *
 * So after the check, the hits in S that are not dead are the nearest survivors
 * there are. If S is not full, everything was read, and none is dead.
 *
 * Not here: what happens when too many are dead, which is merge.c. */
#include "merge/select.h"

#include <math.h>

/* Above this, new hits are gathered before they are merged in. */
enum { ONE_BY_ONE_MAX = 64 };

/* At most 1/16 full, so that probes are short; for a check 1/32, while that takes at
 * most 8 KiB: most keys that are not kept then meet an empty entry at once. */
static uint32_t table_bits(uint32_t k, uint32_t spread)
{
    uint32_t want = k <= 128 ? spread * k : 4096;
    uint32_t bits = 6;

    if (want < VS_SPREAD_MIN * k)
        want = VS_SPREAD_MIN * k;
    while ((uint32_t)1 << bits < want)
        bits++;
    return bits;
}

size_t vs_select_bytes(uint32_t k, uint32_t spread)
{
    return (size_t)k * (2 * sizeof(struct vshard_merge_hit) + 3 * sizeof(struct vs_place) +
                        2 * sizeof(uint32_t) + 2 * sizeof(uint8_t)) +
           (sizeof(uint16_t) << table_bits(k, spread));
}

void vs_select_init(struct vs_select *s, void *memory, uint32_t k, uint32_t spread)
{
    uint32_t bits = table_bits(k, spread);
    char *at = memory;

    s->slots = (void *)at;
    at += 2 * sizeof *s->slots * k;
    s->order = (void *)at;
    at += sizeof *s->order * k;
    s->spare = (void *)at;
    at += sizeof *s->spare * k;
    s->fresh = (void *)at;
    at += sizeof *s->fresh * k;
    s->free_slots = (void *)at;
    at += 2 * sizeof *s->free_slots * k;
    s->table = (void *)at;
    s->table_mask = ((uint32_t)1 << bits) - 1;
    s->table_shift = 64 - bits;
    at += sizeof *s->table << bits;
    s->dead = (void *)at;
    s->k = k;
    vs_select_reset(s);
}

void vs_select_reset(struct vs_select *s)
{
    memset(s->table, 0, sizeof *s->table * ((size_t)s->table_mask + 1));
    s->free_count = 2 * s->k;
    for (uint32_t i = 0; i < s->free_count; i++)
        s->free_slots[i] = i;
    s->count = 0;
    s->fresh_count = 0;
    s->limit = INFINITY;
    vs_select_check_begin(s);
}

/* ---- the table ---- */

/* An odd multiplier with well-spread bits: consecutive integers land far apart. */
static inline uint32_t home(const struct vs_select *s, struct vshard_key key)
{
    uint64_t folded = key.lo ^ (key.hi << 32 | key.hi >> 32);

    return (uint32_t)(folded * 0x9e3779b97f4a7c15u >> s->table_shift);
}

/* The entry that holds the key, or the empty one where it would go. */
static inline uint32_t find(const struct vs_select *s, struct vshard_key key)
{
    uint32_t t = home(s, key);

    while (s->table[t] != 0 && !vs_key_equal(s->slots[s->table[t] - 1].key, key))
        t = (t + 1) & s->table_mask;
    return t;
}

static void release(struct vs_select *s, uint32_t slot)
{
    uint32_t hole = find(s, s->slots[slot].key);

    /* Knuth 6.4, Algorithm R: pull back what the hole would cut off. */
    for (uint32_t t = (hole + 1) & s->table_mask; s->table[t] != 0; t = (t + 1) & s->table_mask) {
        uint32_t from = home(s, s->slots[s->table[t] - 1].key);

        if (((t - from) & s->table_mask) >= ((t - hole) & s->table_mask)) {
            s->table[hole] = s->table[t];
            hole = t;
        }
    }
    s->table[hole] = 0;
    s->free_slots[s->free_count++] = slot;
}

static uint32_t keep(struct vs_select *s, uint32_t t, const struct vshard_merge_hit *hit)
{
    uint32_t slot = s->free_slots[--s->free_count];

    s->slots[slot] = *hit;
    s->table[t] = (uint16_t)(slot + 1);
    return slot;
}

/* ---- the order ---- */

static inline bool before(const struct vs_select *s, struct vs_place a, struct vs_place b)
{
    return a.distance != b.distance ? a.distance < b.distance
                                    : vs_key_less(s->slots[a.slot].key, s->slots[b.slot].key);
}

static void set_limit(struct vs_select *s)
{
    s->limit = s->count == s->k ? s->order[s->k - 1].distance : INFINITY;
}

static void insert_place(struct vs_select *s, struct vs_place p)
{
    uint32_t i = s->count++;

    for (; i > 0 && before(s, p, s->order[i - 1]); i--)
        s->order[i] = s->order[i - 1];
    s->order[i] = p;
}

static void remove_place(struct vs_select *s, struct vs_place p)
{
    uint32_t low = 0, high = s->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (before(s, s->order[middle], p))
            low = middle + 1;
        else
            high = middle;
    }
    s->count--;
    memmove(s->order + low, s->order + low + 1, (s->count - low) * sizeof *s->order);
}

/* When full: the hit comes after the last and cannot enter. */
static inline bool too_late(const struct vs_select *s, const struct vshard_merge_hit *hit)
{
    if (hit->distance < s->limit)
        return false;
    return hit->distance > s->limit || vs_key_less(s->slots[s->order[s->k - 1].slot].key, hit->key);
}

/* Another hit of a kept key. */
static void meet(struct vs_select *s, uint32_t slot, const struct vshard_merge_hit *hit)
{
    struct vshard_merge_hit *kept = &s->slots[slot];

    if (!vs_hit_survives(hit, kept))
        return;
    if (kept->distance != hit->distance) {
        if (s->count == s->k && too_late(s, hit))
            return; /* the kept one is dead; a check will say so */
        remove_place(s, (struct vs_place){ kept->distance, slot });
        insert_place(s, (struct vs_place){ hit->distance, slot });
    }
    *kept = *hit;
    set_limit(s);
}

static inline void take(struct vs_select *s, const struct vshard_merge_hit *hit)
{
    uint32_t t = find(s, hit->key);

    if (s->table[t] != 0) {
        meet(s, s->table[t] - 1u, hit);
        return;
    }
    if (s->count == s->k) {
        if (too_late(s, hit))
            return;
        release(s, s->order[--s->count].slot);
        t = find(s, hit->key); /* the release may have moved the empty entry */
    }
    insert_place(s, (struct vs_place){ hit->distance, keep(s, t, hit) });
    set_limit(s);
}

void vs_select_hit(struct vs_select *s, const struct vshard_merge_hit *hit)
{
    take(s, hit);
}

static int list_one_by_one(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    float last = -INFINITY;

    for (size_t i = 0; i < count; i++) {
        if (!(hits[i].distance >= last)) /* or a NaN */
            return VSHARD_EINVAL;
        if (hits[i].distance > s->limit)
            break;
        last = hits[i].distance;
        take(s, &hits[i]);
    }
    return VSHARD_OK;
}

/* ---- large k: gathered ---- */

static void merge_places(const struct vs_select *s, const struct vs_place *from, uint32_t middle,
                         uint32_t end, struct vs_place *to)
{
    uint32_t a = 0, b = middle;

    for (uint32_t n = 0; n < end; n++) {
        if (b == end || (a < middle && !before(s, from[b], from[a])))
            to[n] = from[a++];
        else
            to[n] = from[b++];
    }
}

/* Runs of 8 by insertion, then pairs of runs; one list is sorted but for its ties,
 * so that nothing moves. */
static void sort_fresh(struct vs_select *s)
{
    uint32_t n = s->fresh_count, sorted = 1;

    while (sorted < n && !before(s, s->fresh[sorted], s->fresh[sorted - 1]))
        sorted++;
    if (sorted >= n)
        return;
    for (uint32_t i = 1; i < n; i++) {
        struct vs_place p = s->fresh[i];
        uint32_t j = i;

        for (; j % 8 != 0 && before(s, p, s->fresh[j - 1]); j--)
            s->fresh[j] = s->fresh[j - 1];
        s->fresh[j] = p;
    }
    for (uint32_t run = 8; run < n; run *= 2) {
        struct vs_place *swap = s->fresh;

        for (uint32_t i = 0; i < n; i += 2 * run) {
            uint32_t end = n - i < 2 * run ? n - i : 2 * run;

            merge_places(s, s->fresh + i, run < end ? run : end, end, s->spare + i);
        }
        s->fresh = s->spare;
        s->spare = swap;
    }
}

void vs_select_flush(struct vs_select *s)
{
    struct vs_place *out;
    uint32_t a = 0, b = 0, n = 0;

    if (s->fresh_count == 0)
        return;
    sort_fresh(s);
    out = s->spare;
    while (n < s->k && (a < s->count || b < s->fresh_count)) {
        if (b == s->fresh_count || (a < s->count && before(s, s->order[a], s->fresh[b])))
            out[n++] = s->order[a++];
        else
            out[n++] = s->fresh[b++];
    }
    while (a < s->count)
        release(s, s->order[a++].slot);
    while (b < s->fresh_count)
        release(s, s->fresh[b++].slot);
    s->spare = s->order;
    s->order = out;
    s->count = n;
    s->fresh_count = 0;
    set_limit(s);
}

/* As take(), but a new hit waits among the gathered. */
static inline void gather(struct vs_select *s, const struct vshard_merge_hit *hit)
{
    uint32_t t = find(s, hit->key);

    if (s->table[t] != 0) {
        struct vshard_merge_hit *kept = &s->slots[s->table[t] - 1u];

        if (!vs_hit_survives(hit, kept))
            return;
        if (kept->distance == hit->distance) {
            *kept = *hit;
            return;
        }
        vs_select_flush(s); /* it may be one of the gathered, which are not in order */
        take(s, hit);
        return;
    }
    if (s->count == s->k && too_late(s, hit))
        return;
    s->fresh[s->fresh_count++] = (struct vs_place){ hit->distance, keep(s, t, hit) };
    if (s->fresh_count == s->k)
        vs_select_flush(s);
}

static int list_gathered(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    float last = -INFINITY;

    for (size_t i = 0; i < count; i++) {
        if (!(hits[i].distance >= last)) /* or a NaN */
            return VSHARD_EINVAL;
        if (hits[i].distance > s->limit)
            break;
        last = hits[i].distance;
        gather(s, &hits[i]);
    }
    return VSHARD_OK;
}

int vs_select_list(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    return s->k <= ONE_BY_ONE_MAX ? list_one_by_one(s, hits, count) : list_gathered(s, hits, count);
}

/* ---- the answer ---- */

void vs_select_check_begin(struct vs_select *s)
{
    memset(s->dead, 0, 2 * (size_t)s->k);
    s->dead_count = 0;
}

static void bury(struct vs_select *s, const struct vshard_merge_hit *hit)
{
    uint32_t t = find(s, hit->key), slot = s->table[t] - 1u;

    if (s->table[t] != 0 && hit->version > s->slots[slot].version && !s->dead[slot]) {
        s->dead[slot] = 1;
        s->dead_count++;
    }
}

/* Not 0 if the hit's key may be kept. */
static inline uint32_t entry(const struct vs_select *s, const struct vshard_merge_hit *hit)
{
    return s->table[home(s, hit->key)];
}

/* Four hits at a time, as nearly all of them meet an empty entry. */
int vs_select_check(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    float last = -INFINITY;
    int sorted = 1;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const struct vshard_merge_hit *h = hits + i;

        sorted &= (h[0].distance >= last) & (h[1].distance >= h[0].distance) &
                  (h[2].distance >= h[1].distance) & (h[3].distance >= h[2].distance);
        last = h[3].distance;
        if ((entry(s, h) | entry(s, h + 1) | entry(s, h + 2) | entry(s, h + 3)) != 0) {
            for (size_t j = 0; j < 4; j++)
                bury(s, h + j);
        }
    }
    for (; i < count; i++) {
        sorted &= hits[i].distance >= last; /* and no NaN */
        last = hits[i].distance;
        bury(s, hits + i);
    }
    return sorted ? VSHARD_OK : VSHARD_EINVAL;
}

uint32_t vs_select_write(const struct vs_select *s, struct vshard_merge_hit *hits, size_t cap)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->count && n < cap; i++) {
        if (!s->dead[s->order[i].slot])
            hits[n++] = s->slots[s->order[i].slot];
    }
    return n;
}
