/* select.c - the k nearest distinct keys of sorted lists, read no further than
 * they matter.
 *
 * The k nearest so far are kept in order, and the k-th distance is the limit: a
 * list is sorted, so it is left at its first hit beyond the limit. The limit
 * falls quickly. Of lists of random distances the i-th has about k / i hits that
 * enter, so 64 lists cost some 5k insertions, and most lists one comparison.
 *
 * A kept hit lies in a slot and does not move; what is kept in order are places,
 * 8 bytes each. A table leads from a key to its slot. It is sparse, because its
 * other use is to say no: vs_select_stale() asks it about every hit there is,
 * and should mostly find an empty entry.
 *
 * With small k, hits enter one by one, each lowering the limit for the next. With
 * large k that would move half the order for every hit, so the new hits of a list
 * are gathered, up to k of them, and merged into the order in one pass.
 *
 * Here a hit whose key is kept in another version is a conflict. The newer of
 * the two is kept, but what the older one displaced is gone; merge.c then starts
 * again from all hits. Without a conflict the limit never rises: a hit leaves
 * only when a nearer one enters, and a kept key only ever comes nearer. So a hit
 * that was left out, farther than the limit then, is farther than the k-th now.
 *
 * Not here: which of several versions survives for good, which is merge.c. */
#include "merge/select.h"

#include <math.h>

/* Above this, new hits are gathered before they are merged in. */
enum { ONE_BY_ONE_MAX = 64 };

/* At most 1/4 full, so that probes are short; 1/32 while that takes at most 8 KiB,
 * so that most keys that are not kept meet an empty entry at once. */
static uint32_t table_bits(uint32_t k)
{
    uint32_t want = k <= 128 ? 32 * k : 4096;
    uint32_t bits = 6;

    if (want < 4 * k)
        want = 4 * k;
    while ((uint32_t)1 << bits < want)
        bits++;
    return bits;
}

size_t vs_select_bytes(uint32_t k)
{
    return (size_t)k * (2 * sizeof(struct vshard_merge_hit) + 3 * sizeof(struct vs_place) +
                        2 * sizeof(uint32_t)) +
           (sizeof(uint16_t) << table_bits(k));
}

void vs_select_init(struct vs_select *s, void *memory, uint32_t k)
{
    uint32_t bits = table_bits(k);
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
    s->conflict = 0;
    s->limit = INFINITY;
}

/* ---- the table ---- */

/* Odd multipliers with well-spread bits; consecutive integers land far apart. */
static inline uint32_t home(const struct vs_select *s, struct vshard_key key)
{
    return (uint32_t)((key.lo + key.hi * 0xd6e8feb86659fd93u) * 0x9e3779b97f4a7c15u >>
                      s->table_shift);
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

    if (kept->version != hit->version)
        s->conflict = 1;
    if (!vs_hit_survives(hit, kept))
        return;
    if (kept->distance != hit->distance) {
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

/* Merges the first `fresh_count` gathered places into the order, of which k stay. */
static void merge_fresh(struct vs_select *s, uint32_t fresh_count)
{
    struct vs_place *out = s->spare;
    uint32_t a = 0, b = 0, n = 0;

    while (n < s->k && (a < s->count || b < fresh_count)) {
        if (b == fresh_count || (a < s->count && before(s, s->order[a], s->fresh[b])))
            out[n++] = s->order[a++];
        else
            out[n++] = s->fresh[b++];
    }
    while (a < s->count)
        release(s, s->order[a++].slot);
    while (b < fresh_count)
        release(s, s->fresh[b++].slot);
    s->spare = s->order;
    s->order = out;
    s->count = n;
    set_limit(s);
}

/* Appends a place; hits come by distance, so only ties have to be sorted. */
static void gather(const struct vs_select *s, uint32_t at, struct vs_place p)
{
    for (; at > 0 && before(s, p, s->fresh[at - 1]); at--)
        s->fresh[at] = s->fresh[at - 1];
    s->fresh[at] = p;
}

static int list_gathered(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    uint32_t fresh_count = 0;
    float last = -INFINITY;
    int rc = VSHARD_OK;

    for (size_t i = 0; i < count; i++) {
        uint32_t t;

        if (!(hits[i].distance >= last)) { /* or a NaN */
            rc = VSHARD_EINVAL;
            break;
        }
        if (hits[i].distance > s->limit)
            break;
        last = hits[i].distance;
        t = find(s, hits[i].key);
        if (s->table[t] != 0) {
            /* The kept one may be among the gathered, which have no order yet. */
            merge_fresh(s, fresh_count);
            fresh_count = 0;
            take(s, &hits[i]);
            continue;
        }
        if (s->count == s->k && too_late(s, &hits[i]))
            continue;
        gather(s, fresh_count++, (struct vs_place){ hits[i].distance, keep(s, t, &hits[i]) });
        if (fresh_count == s->k) {
            merge_fresh(s, fresh_count);
            fresh_count = 0;
        }
    }
    merge_fresh(s, fresh_count);
    return rc;
}

int vs_select_list(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count)
{
    return s->k <= ONE_BY_ONE_MAX ? list_one_by_one(s, hits, count) : list_gathered(s, hits, count);
}

/* ---- the answer ---- */

int vs_select_stale(const struct vs_select *s, const struct vshard_merge_hit *hits, size_t count,
                    bool *stale)
{
    float last = -INFINITY;

    for (size_t i = 0; i < count; i++) {
        uint32_t t;

        if (!(hits[i].distance >= last)) /* or a NaN */
            return VSHARD_EINVAL;
        last = hits[i].distance;
        if (s->table[home(s, hits[i].key)] == 0)
            continue;
        t = find(s, hits[i].key);
        if (s->table[t] != 0 && hits[i].version > s->slots[s->table[t] - 1].version)
            *stale = true;
    }
    return VSHARD_OK;
}

uint32_t vs_select_write(const struct vs_select *s, struct vshard_merge_hit *hits, size_t cap)
{
    uint32_t n = s->count < cap ? s->count : (uint32_t)cap;

    for (uint32_t i = 0; i < n; i++)
        hits[i] = s->slots[s->order[i].slot];
    return n;
}
