/* wire.h - frames: what one node of a cluster sends another, whole or not at all.
 *
 * A frame carries one message with its cluster, group, sender, receiver and the
 * sender's incarnation, under a checksum, and under a seal where a key is given
 * (XChaCha20-Poly1305, all of these inside the authenticated part). Large payloads
 * are packed (LZ4). What arrives may be anything: a frame is accepted whole, or
 * refused and counted by reason, and nothing worse can happen.
 *
 * A frame says how long it is, so a stream needs nothing around it:
 * vshard_wire_length() on what has arrived, then vshard_wire_decode(). Repeats and
 * reordering are not noticed here; the log above bears both. The bytes are drawn in
 * lib/wire/frame.c. */
#ifndef VSHARD_WIRE_H
#define VSHARD_WIRE_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    VSHARD_WIRE_HEADER = 112,           /* bytes of a frame around its payload, without a seal */
    VSHARD_WIRE_PAYLOAD_MAX = 67108864, /* bytes */
    VSHARD_WIRE_KEYS_MAX = 2
};

/* A key that seals. An array element: it will never get another field. */
struct vshard_wire_key {
    uint32_t id;       /* not 0; goes with each frame, in the open */
    uint32_t reserved; /* 0 */
    uint8_t key[32];
};

/* Set `size`, zero the rest, fill in what you care about: zero is the default. */
struct vshard_wire_options {
    uint32_t size;             /* bytes in this struct; required */
    uint32_t key_count;        /* 0..VSHARD_WIRE_KEYS_MAX */
    struct vshard_key cluster; /* frames of another cluster are refused */
    uint64_t node;             /* this node's id; frames for another are refused; required */
    uint64_t incarnation;      /* of this node's disk; goes into each frame */
    uint32_t payload_max;      /* bytes; default VSHARD_WIRE_PAYLOAD_MAX */
    uint32_t pack_above;       /* bytes; default 1024; UINT32_MAX: never */
    const struct vshard_wire_key *keys;   /* [key_count], copied. The first seals, each opens; with
                                             none nothing is sealed, with one nothing unsealed is
                                             accepted. To rotate: new key second on all nodes, then
                                             first on all, then the old one goes */
    const struct vshard_entropy *entropy; /* for nonces; copied; default the system's */
    const struct vshard_allocator *allocator; /* copied; default the C library's heap */
    const void *reserved;                     /* NULL */
};

struct vshard_wire;

/* Makes a codec: one end, for all its peers.
 *
 *   wire      [out] NULL on failure
 *
 * Returns   0, EINVAL, EVERSION, ENOMEM, EIO (no entropy), ENOTSUP (keys, and this build has
 *           no libsodium)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_wire_create(const struct vshard_wire_options *options,
                                  struct vshard_wire **wire);

/* Wipes the keys and frees the codec. NULL is fine.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_wire_destroy(struct vshard_wire *wire);

/* One message. Its payload may come in two pieces, `head` and then `body`, as the log's
 * SEND gives it; decoding gives one. */
struct vshard_frame {
    uint32_t size;        /* bytes in this struct; required */
    uint32_t type;        /* 0..65535, the caller's */
    uint64_t group;       /* the caller's */
    uint64_t node;        /* encode: the receiver. Decode: the sender */
    uint64_t incarnation; /* decode: of the sender's disk */
    uint64_t head_bytes;
    uint64_t body_bytes;
    const void *head; /* encode: [head_bytes], borrowed for the call. Decode: the payload, valid
                         until the next encode or decode, and not longer than the bytes given */
    const void *body; /* encode: likewise. Decode: NULL */
};

/* Bytes that suffice to encode a payload of so many bytes.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API size_t vshard_wire_bound(size_t payload_bytes);

/* Writes one frame.
 *
 *   to        [out] [cap]
 *   bytes     [out] how long the frame is
 *
 * Returns   0, EINVAL, EVERSION, E2BIG (payload_max, or cap below vshard_wire_bound()), ENOMEM
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wire_encode(struct vshard_wire *wire, const struct vshard_frame *frame,
                                  void *to, size_t cap, size_t *bytes);

/* Tells how long the frame is that begins so, from a stream. What fails is no frame of
 * this version: close the stream, since where the next frame begins is not known.
 *
 *   bytes     [count], borrowed
 *   length    [out] 0 when more than `count` bytes are needed to tell
 *
 * Returns   0, EINVAL, ECORRUPT (no frame, or longer than payload_max allows), EVERSION
 * Thread    shared
 * Since     0.1 */
VSHARD_API int vshard_wire_length(const struct vshard_wire *wire, const void *bytes, size_t count,
                                  size_t *length);

/* Opens one whole frame. Refusals are counted; they are nothing to die of.
 *
 *   bytes     [count], borrowed
 *   frame     [out] set its `size`; the library fills in as much as fits
 *
 * Returns   0; EINVAL; ENOMEM: try again; ECORRUPT, EVERSION, ENOTFOUND (another cluster, another
 *           receiver, or a key that is not held): refused
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wire_decode(struct vshard_wire *wire, const void *bytes, size_t count,
                                  struct vshard_frame *frame);

/* What was decoded, and refused why. Set `size`; the library fills in as much as fits. */
struct vshard_wire_counters {
    uint32_t size; /* bytes in this struct; required */
    uint32_t reserved;
    uint64_t accepted;
    uint64_t malformed;   /* no frame, too short, or lengths that contradict each other */
    uint64_t unversioned; /* a version, a flag or a bit that this library does not know */
    uint64_t damaged;     /* the checksum */
    uint64_t misdirected; /* another cluster or another receiver */
    uint64_t unsealed;    /* in the open, where seals are required */
    uint64_t unkeyed;     /* sealed with a key that is not held */
    uint64_t forged;      /* a broken seal */
    uint64_t unpacked;    /* does not expand to what it says, or this build cannot */
};

/* Says what was refused.
 *
 * Returns   0, EINVAL
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wire_count(const struct vshard_wire *wire,
                                 struct vshard_wire_counters *counters);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_WIRE_H */
