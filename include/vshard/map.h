/* map.h - the cluster map: which shard owns a key, and what moves when shards
 * come, go, or change weight.
 *
 * A ring of equal arcs, a power of two of them. A fixed function of all 128 bits
 * of a key picks its arc (the formula is in vshard_map(3)), and a table gives
 * each arc its shard. A shard holds arcs in proportion to its weight, exact to
 * one arc. A change moves the least number of arcs that restores that.
 *
 * A map is a value: equal sequences of calls give equal maps, with equal bytes,
 * on all machines. It is integers only, and knows no cluster, clock or network. */
#ifndef VSHARD_MAP_H
#define VSHARD_MAP_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VSHARD_MAP_ARCS_DEFAULT 65536
#define VSHARD_MAP_ARCS_MAX     1048576 /* 2^20 */
#define VSHARD_MAP_SHARDS_MAX   16384
#define VSHARD_MAP_WEIGHT_MAX   1000000
#define VSHARD_MAP_BYTES_MAX    16777216 /* of an encoded map */

/* Not the number of any shard: who owns the arcs of a map without weight. */
#define VSHARD_SHARD_NONE UINT32_MAX

struct vshard_map;

/* Set `size` to sizeof(struct vshard_map_options), zero the rest, and fill in
 * what you care about: in every field, zero means the default. */
struct vshard_map_options {
    uint32_t size; /* bytes in this struct; required */
    uint32_t arcs; /* a power of two, 1..2^20; default 65536; decode: as encoded */
    const struct vshard_allocator *allocator; /* copied; default malloc */
    const struct vshard_logger *logger;       /* copied; default silence */
};

/* A shard of a map. Frozen, as it is an array element. */
struct vshard_map_shard {
    uint32_t shard;    /* its number, 0..2^32-2 */
    uint32_t weight;   /* 0..1000000; 0 is drained: listed, but owns nothing */
    uint32_t arcs;     /* how many it owns */
    uint32_t reserved; /* 0 */
};

/* A run of neighbouring arcs that change hands together. Frozen, as it is an
 * array element. */
struct vshard_map_move {
    uint32_t first; /* the first arc */
    uint32_t count; /* arcs, at least 1 */
    uint32_t from;  /* the shard that owned them; NONE if nobody did */
    uint32_t to;    /* the shard that owns them */
};

/* What vshard_map_stats() fills in. Set `size`; as much as fits is filled in. */
struct vshard_map_stats {
    uint32_t size;    /* bytes in this struct; required */
    uint32_t arcs;    /* [out] in the ring */
    uint32_t shards;  /* [out] listed, drained ones too */
    uint32_t runs;    /* [out] longest runs of arcs with one owner */
    uint64_t weight;  /* [out] sum over the shards */
    uint64_t version; /* [out] changes since the map was made */
};

/* ==== 1. A map's life ================================================== */

/* Makes a map without shards, of version 0.
 *
 *   map       [out] NULL on failure
 *
 * Returns   0; EINVAL (arcs not a power of two); E2BIG (arcs); EVERSION; ENOMEM
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_map_create(const struct vshard_map_options *options, struct vshard_map **map);

/* Makes an equal map, with the allocator and the log of the first.
 *
 *   copy      [out] NULL on failure
 *
 * Returns   0, EINVAL, ENOMEM
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_copy(const struct vshard_map *map, struct vshard_map **copy);

/* Releases a map. NULL is allowed.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_map_destroy(struct vshard_map *map);

/* ==== 2. Changes ======================================================= */

/* Each change either succeeds, and then the version is one higher, or leaves the
 * map as it was. Afterwards the arcs of each shard are its quota: arcs * weight /
 * sum of weights, rounded down, and one more for the shards with the largest
 * remainders. Among equal remainders, one arc more goes first to shards that would
 * have to give one up without it, then to smaller numbers. */

/* Adds a shard.
 *
 *   shard     0..2^32-2
 *   weight    0..1000000
 *
 * Returns   0; EINVAL; EEXIST; E2BIG (weight, shards or version above its limit);
 *           ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_map_add(struct vshard_map *map, uint32_t shard, uint32_t weight);

/* Removes a shard; the others take over its arcs. The last shard with a weight
 * cannot go while there are others: there would be nobody to own the arcs.
 *
 * Returns   0; EINVAL; ENOTFOUND; EBUSY (the last with a weight, beside drained
 *           ones); E2BIG (version); ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_map_remove(struct vshard_map *map, uint32_t shard);

/* Gives a shard another weight. Its own weight again is no change.
 *
 * Returns   0; EINVAL; ENOTFOUND; EBUSY (0 for the last with a weight); E2BIG
 *           (weight, version)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_map_reweight(struct vshard_map *map, uint32_t shard, uint32_t weight);

/* ==== 3. Questions ===================================================== */

/* Who owns the keys.
 *
 *   keys      [count], borrowed
 *   shards    [out] [count], the owner of each; may be NULL
 *   arcs      [out] [count], the arc of each; may be NULL
 *
 * Returns   0; EINVAL; ENOTFOUND (nobody owns anything, and `shards` was asked for;
 *           nothing is written)
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_owner(const struct vshard_map *map, const struct vshard_key *keys,
                                size_t count, uint32_t *shards, uint32_t *arcs);

/* Who owns neighbouring arcs.
 *
 *   first     0..arcs-1
 *   shards    [out] [count], NONE where nobody does
 *
 * Returns   0; EINVAL (they reach past the last arc)
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_arcs(const struct vshard_map *map, uint32_t first, uint32_t count,
                               uint32_t *shards);

/* The shards, by number.
 *
 *   shards    [out] [cap]; NULL only if cap is 0
 *   count     [out] how many there are, also with E2BIG
 *
 * Returns   0; EINVAL; E2BIG (cap is too small; nothing is in `shards`)
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_shards(const struct vshard_map *map, struct vshard_map_shard *shards,
                                 size_t cap, size_t *count);

/* What has to move to get from one map to another with as many arcs: the longest
 * runs of arcs that change from one owner to one other, by first arc.
 *
 *   moves     [out] [cap]; NULL only if cap is 0
 *   count     [out] how many there are, also with E2BIG
 *
 * Returns   0; EINVAL (also: a different number of arcs); E2BIG (cap is too small;
 *           the first cap moves are in `moves`)
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_moves(const struct vshard_map *from, const struct vshard_map *to,
                                struct vshard_map_move *moves, size_t cap, size_t *count);

/* The version; 0 for NULL.
 *
 * Thread    shared
 * Since     0.1 */
VSHARD_API uint64_t vshard_map_version(const struct vshard_map *map);

/* Fills in counts.
 *
 * Returns   0, EINVAL
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_stats(const struct vshard_map *map, struct vshard_map_stats *stats);

/* ==== 4. As bytes ====================================================== */

/* Writes the map as bytes; equal maps give equal bytes. vshard_map(3) draws them.
 *
 *   bytes     [out] [cap]; NULL only if cap is 0
 *   count     [out] bytes written, or with E2BIG needed
 *
 * Returns   0; EINVAL; E2BIG (cap is too small; nothing is in `bytes`)
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_map_encode(const struct vshard_map *map, void *bytes, size_t cap,
                                 size_t *count);

/* Makes a map from bytes. Bytes that vshard_map_encode() would not write are not
 * taken, whoever made them: what is taken encodes to the same bytes.
 *
 *   bytes     [count], borrowed
 *   options   may be NULL; if `arcs` is set, the map must have as many
 *   map       [out] NULL on failure
 *
 * Returns   0; EINVAL (NULL, another number of arcs); ECORRUPT (not a map, cut
 *           short, damaged); EVERSION (a format or a section of a newer library, or
 *           newer options); E2BIG (count is above 2^24); ENOMEM
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_map_decode(const void *bytes, size_t count,
                                 const struct vshard_map_options *options, struct vshard_map **map);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_MAP_H */
