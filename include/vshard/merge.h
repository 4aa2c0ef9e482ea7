/* merge.h - sorted hit lists into one: for anyone's scatter-gather.
 *
 * A query goes to many shards, each answers with its nearest hits, and the
 * answer is the nearest of all. Copies of a key may come from several shards and
 * in several versions; one of them survives:
 *
 *   1. of the hits of one key, those of the newest version;
 *   2. of these the nearest; at equal distance, that of the smaller shard number.
 *
 * The answer is the k nearest survivors, ties by smaller key (hi, then lo). It
 * depends on the hits that were given and on nothing else: not on the order of
 * the lists, nor on how the hits were spread over them. A key whose newest
 * version is too far away to be among the k is not in the answer at all: its
 * older hits are dead, however near they are. */
#ifndef VSHARD_MERGE_H
#define VSHARD_MERGE_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Limits. */
#define VSHARD_MERGE_K_MAX     4096    /* hits in an answer */
#define VSHARD_MERGE_LISTS_MAX 65536   /* lists in one vshard_merge() */
#define VSHARD_MERGE_HITS_MAX  4194304 /* hits in one merge, over all lists: 2^22 */

/* One hit that crosses shards: 32 bytes, no padding, frozen, as it is an array
 * element. */
struct vshard_merge_hit {
    struct vshard_key key;
    uint64_t version; /* of the key's vector; larger is newer */
    float distance;   /* smaller is nearer; any value but NaN */
    uint32_t shard;   /* who answered; free for the caller to use */
};

/* One list. Frozen, as it is an array element.
 *
 *   hits      [count], by distance, nearest first, ties in any order; borrowed;
 *             NULL only if count is 0 */
struct vshard_merge_list {
    const struct vshard_merge_hit *hits;
    size_t count;
};

enum { /* what the caller knows about versions; at most one of them */
       /* No key is given in two versions: nothing is moving. Then a list is read
        * only as far as it can matter, and the bound is the running k-th distance.
        * If the promise is broken, older hits may be in the answer. */
       VSHARD_MERGE_SETTLED = 1 << 0,
       /* Keys may come in two versions, but the caller checks the hits of the answer
        * where their keys live, and drops the stale ones. Then the bound is the
        * running k-th distance. */
       VSHARD_MERGE_CHECKED = 1 << 1
};

/* Set `size` to sizeof(struct vshard_merge_options), zero the rest, and fill in
 * what you care about: in every field, zero means the default. */
struct vshard_merge_options {
    uint32_t size;    /* bytes in this struct; required */
    uint32_t k;       /* hits wanted, 1..4096; required */
    uint32_t flags;   /* VSHARD_MERGE_* */
    uint32_t hit_max; /* merger only: room for hits between two resets, 1..2^22;
                         default 64 * k; not used by SETTLED, which keeps k */
    const struct vshard_allocator *allocator; /* copied; default malloc */
    const struct vshard_logger *logger;       /* copied; default silence */
};

/* Turns the answer of an index into a list: key { 0, id }, version 0, of this shard.
 *
 *   hits      [count], as vshard_index_search() fills in one query's row; borrowed
 *   list      [out] [count]
 *
 * Returns the hits written: those before the first VSHARD_ID_NONE.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API size_t vshard_merge_from_index(const struct vshard_hit *hits, size_t count,
                                          uint32_t shard, struct vshard_merge_hit *list);

/* ==== 1. All lists at once ============================================= */

/* Merges lists into one.
 *
 *   lists     [list_count], in any order, at most 65536; each sorted
 *   hits      [out] [k], nearest first, ties by smaller key; may not overlap
 *             the lists
 *   found     [out] the hits written, at most k; the rest of `hits` is untouched
 *
 * With SETTLED a list is read up to the first hit that is too far, and only so
 * far are its order and its distances checked. Memory is allocated only when k is
 * above 32, or when more than eight of the nearest hits turn out to be old, and is
 * released before the call returns. The call takes up to 32 KiB of stack.
 *
 * Returns   0; EINVAL (NULL, k 0, unknown or contradicting flags, a NaN or an
 *           unsorted list); E2BIG (k, lists or hits above their limit); EVERSION;
 *           ENOMEM. On failure `hits` and `found` are untouched.
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_merge(const struct vshard_merge_options *options,
                            const struct vshard_merge_list *lists, size_t list_count,
                            struct vshard_merge_hit *hits, uint32_t *found);

/* ==== 2. Lists as they arrive ========================================== */

struct vshard_merger;

/* Makes a merger. It allocates here, and never again.
 *
 *   merger    [out] NULL on failure
 *
 * Returns   0, EINVAL, E2BIG, EVERSION, ENOMEM
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_merger_create(const struct vshard_merge_options *options,
                                    struct vshard_merger **merger);

/* Takes one list; its hits are copied.
 *
 *   hits      [count], by distance, nearest first; borrowed
 *
 * With SETTLED, hits that are too far are not read, and so not checked; and after
 * EINVAL the hits before the first bad one have been taken, as if the list had
 * ended there. Otherwise a list that is refused changes nothing.
 *
 * Returns   0; EINVAL (NULL, a NaN, an unsorted list); E2BIG (hit_max)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_merger_push(struct vshard_merger *merger, const struct vshard_merge_hit *hits,
                                  size_t count);

/* The distance that a shard may stop at: it may leave out hits that are farther
 * than the bound (not those at the same distance), in any list not yet pushed.
 *
 *   SETTLED   the k-th distance so far, +infinity until there are k keys. It
 *             never rises, and the answer is the same as without it.
 *   CHECKED   the same number. A newer version that was left out cannot kill an
 *             older hit, so the answer may hold stale ones. Once the caller has
 *             dropped those, the hits no farther than the lowest bound it used
 *             are exactly the nearest there are; ask for some more than are
 *             wanted.
 *   neither   +infinity: any far hit could be the newer version of a near one,
 *             so no smaller bound would be sound.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API float vshard_merger_bound(const struct vshard_merger *merger);

/* Writes the answer for the lists pushed since the last reset. More lists may be
 * pushed afterwards, and the answer asked for again.
 *
 *   hits      [out] [cap], nearest first, ties by smaller key
 *   cap       at most so many, and at most k, are written
 *   found     [out] the hits written
 *
 * Returns   0, EINVAL
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_merger_hits(struct vshard_merger *merger, struct vshard_merge_hit *hits,
                                  size_t cap, uint32_t *found);

/* Forgets all lists; the merger is as new. NULL is allowed.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_merger_reset(struct vshard_merger *merger);

/* Releases a merger. NULL is allowed.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_merger_destroy(struct vshard_merger *merger);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_MERGE_H */
