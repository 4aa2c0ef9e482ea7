/* select.h - the k nearest distinct keys of what has been seen. */
#ifndef VS_MERGE_SELECT_H
#define VS_MERGE_SELECT_H

#include "merge/merge.h"

/* Where a kept hit stands: sorted by distance, then by the key of its slot. */
struct vs_place {
    float distance;
    uint32_t slot;
};

struct vs_select {
    struct vshard_merge_hit *slots; /* [2k] the hits, each in one place while it is kept */
    struct vs_place *order;         /* [k] the kept ones, nearest first */
    struct vs_place *spare;         /* [k] where the next order is written */
    struct vs_place *fresh;         /* [k] new ones that are not in the order yet */
    uint32_t *free_slots;           /* [2k] a stack */
    uint16_t *table;                /* [table_mask + 1] slot + 1 by key, 0 is empty */
    uint8_t *dead;                  /* [2k] by slot: a newer version was seen */
    uint32_t table_mask;
    uint32_t table_shift;
    uint32_t k;
    uint32_t count;
    uint32_t free_count;
    uint32_t fresh_count;
    uint32_t dead_count;
    float limit; /* hits farther than this cannot matter */
};

/* How many entries of the table there are to a key, at least. */
enum { VS_SPREAD_MIN = 4, VS_SPREAD = 16, VS_SPREAD_CHECKED = 32 };

/* Bytes of scratch for k; the caller allocates, aligned to VS_ALIGN. */
size_t vs_select_bytes(uint32_t k, uint32_t spread);
void vs_select_init(struct vs_select *s, void *memory, uint32_t k, uint32_t spread);
void vs_select_reset(struct vs_select *s);

/* Reads a list as far as it can matter. EINVAL when what it read is not sorted
 * or holds a NaN. */
int vs_select_list(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count);

/* The same for one hit, at any k; not between vs_select_list() and a flush. */
void vs_select_hit(struct vs_select *s, const struct vshard_merge_hit *hit);

/* Reads all lists there are into an empty selection, and puts them in order. EINVAL
 * as above. */
int vs_select_lists(struct vs_select *s, const struct vshard_merge_list *lists, size_t list_count);

/* Puts what has been read in order, which lowers the limit. Needed before any of
 * the functions below. */
void vs_select_flush(struct vs_select *s);

/* A check begins, and reads all hits: it counts in dead_count the kept ones that
 * have a newer version among them. EINVAL when hits are not sorted or hold a NaN. */
void vs_select_check_begin(struct vs_select *s);
int vs_select_check(struct vs_select *s, const struct vshard_merge_hit *hits, size_t count);

/* Writes the nearest that are not dead, at most `cap`; returns how many. */
uint32_t vs_select_write(const struct vs_select *s, struct vshard_merge_hit *hits, size_t cap);

static inline bool vs_key_equal(struct vshard_key a, struct vshard_key b)
{
    return a.hi == b.hi && a.lo == b.lo;
}

static inline bool vs_key_less(struct vshard_key a, struct vshard_key b)
{
    return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo;
}

/* Of two hits of one key, whether `a` survives `b`. */
static inline bool vs_hit_survives(const struct vshard_merge_hit *a,
                                   const struct vshard_merge_hit *b)
{
    if (a->version != b->version)
        return a->version > b->version;
    if (a->distance != b->distance)
        return a->distance < b->distance;
    return a->shard < b->shard;
}

#endif
