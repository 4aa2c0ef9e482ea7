/* frame.c - what nodes send each other: one header, one payload.
 *
 *      0   4   magic "VSF" and a zero byte
 *      4   1   version, 1
 *      5   1   flags: 1 sealed, 2 packed
 *      6   2   type, the layers above give it meaning
 *      8  16   cluster id: hi, lo
 *     24   8   group
 *     32   8   sender
 *     40   8   receiver
 *     48   8   incarnation of the sender
 *     56   4   stored bytes of the payload, 16 more than packed bytes when sealed
 *     60   4   raw bytes of the payload
 *     64   4   packed bytes: after packing, before sealing; raw bytes when not packed
 *     68   4   key id; 0 when not sealed
 *     72  24   nonce; zeros when not sealed
 *     96   8   zeros
 *    104   8   checksum of bytes 0..103 and of the stored payload
 *    112       stored payload
 *
 * Integers are little-endian. A frame is exactly 112 + stored bytes: where one
 * ends, the transport knows. The checksum is XXH3-64 of the payload, seeded with
 * XXH3-64 of the header: it finds accidents. A seal is XChaCha20-Poly1305 over
 * the packed payload with bytes 0..103 as its context, so that cluster, group,
 * both nodes and the incarnation cannot be exchanged between frames: a frame that
 * was meant for another group or node is refused, not delivered to the wrong one.
 *
 * Versions. The first five bytes never change. A version outside the codec's
 * range is refused before another byte is believed, and so is any flag or zero
 * byte that the version does not define. Both are counted: during a rolling
 * upgrade the count tells that a peer speaks a version too new, and nothing dies
 * of it. A node sends the version that its peer is known to accept.
 *
 * The order of the checks is cheap first, and each failure has its own count.
 * Lengths are checked before anything is allocated or expanded, so a hostile
 * frame costs at most one checksum over bytes that did arrive.
 *
 * Not here: who may send what (the layers above), replay protection (the log's
 * terms and indexes make repeats harmless), key exchange (the host's). */
#include "wire/wire.h"

enum {
    AT_VERSION = 4,
    AT_FLAGS = 5,
    AT_TYPE = 6,
    AT_CLUSTER = 8,
    AT_GROUP = 24,
    AT_SENDER = 32,
    AT_RECEIVER = 40,
    AT_INCARNATION = 48,
    AT_STORED = 56,
    AT_RAW = 60,
    AT_PACKED = 64,
    AT_KEY = 68,
    AT_NONCE = 72,
    AT_ZERO = 96,
    AT_CHECKSUM = 104
};
enum { SEALED = 1, PACKED = 2 };

static const unsigned char magic[4] = { 'V', 'S', 'F', 0 };

/* A header, decoded and in itself consistent. */
struct header {
    uint32_t stored, raw, packed, key;
    uint8_t flags;
};

static uint32_t version_min(const struct vs_frame_codec *c)
{
    return c->version_min ? c->version_min : 1;
}

static uint32_t version_max(const struct vs_frame_codec *c)
{
    return c->version_max ? c->version_max : VS_FRAME_VERSION;
}

static uint32_t payload_max(const struct vs_frame_codec *c)
{
    return c->payload_max && c->payload_max < VS_FRAME_PAYLOAD_MAX ? c->payload_max
                                                                   : VS_FRAME_PAYLOAD_MAX;
}

static uint64_t checksum(const unsigned char *frame, size_t stored)
{
    return vs_checksum(frame + VS_FRAME_HEADER, stored, vs_checksum(frame, AT_CHECKSUM, 0));
}

size_t vs_frame_bound(size_t payload_bytes)
{
    return VS_FRAME_HEADER + payload_bytes + VS_SEAL_MAC;
}

static void put_header(const struct vs_frame_codec *codec, const struct vs_frame *frame,
                       unsigned char *to)
{
    memset(to, 0, VS_FRAME_HEADER);
    memcpy(to, magic, sizeof magic);
    to[AT_VERSION] = frame->version ? frame->version : (uint8_t)version_max(codec);
    vs_store16(to + AT_TYPE, frame->type);
    vs_store64(to + AT_CLUSTER, codec->cluster.hi);
    vs_store64(to + AT_CLUSTER + 8, codec->cluster.lo);
    vs_store64(to + AT_GROUP, frame->group);
    vs_store64(to + AT_SENDER, frame->sender);
    vs_store64(to + AT_RECEIVER, frame->receiver);
    vs_store64(to + AT_INCARNATION, frame->incarnation);
    vs_store32(to + AT_RAW, frame->payload_bytes);
}

static bool packs(const struct vs_frame_codec *codec, uint32_t payload_bytes)
{
    uint32_t above = codec->pack_above ? codec->pack_above : VS_FRAME_PACK_ABOVE;

    return payload_bytes > above && above != UINT32_MAX;
}

/* Puts the payload behind the header, packed if that saves a sixteenth. */
static uint32_t put_payload(const struct vs_frame_codec *codec, const struct vs_frame *frame,
                            unsigned char *to)
{
    uint32_t raw = frame->payload_bytes;
    size_t packed = 0;

    if (packs(codec, raw))
        packed = vs_pack(frame->packing, frame->payload, raw, to + VS_FRAME_HEADER, raw - raw / 16);
    if (packed > 0) {
        to[AT_FLAGS] |= PACKED;
        return (uint32_t)packed;
    }
    if (raw > 0)
        memcpy(to + VS_FRAME_HEADER, frame->payload, raw);
    return raw;
}

static int seal_frame(const struct vs_frame_key *key, const uint8_t *nonce, unsigned char *to,
                      uint32_t packed)
{
    struct vs_seal s = { key->key, nonce, to, AT_CHECKSUM, VS_CIPHER_XCHACHA20 };

    to[AT_FLAGS] |= SEALED;
    vs_store32(to + AT_KEY, key->id);
    vs_store32(to + AT_STORED, packed + VS_SEAL_MAC);
    memcpy(to + AT_NONCE, nonce, VS_SEAL_NONCE);
    return vs_seal(&s, to + VS_FRAME_HEADER, packed, to + VS_FRAME_HEADER);
}

int vs_frame_encode(const struct vs_frame_codec *codec, const struct vs_frame *frame,
                    const uint8_t *nonce, void *to, size_t cap, size_t *bytes)
{
    unsigned char *out = to;
    uint32_t packed, stored;
    int rc;

    if (frame->payload_bytes > payload_max(codec) || cap < vs_frame_bound(frame->payload_bytes))
        return VSHARD_E2BIG;
    if ((frame->version != 0 &&
         (frame->version < version_min(codec) || frame->version > version_max(codec))) ||
        (codec->keys[0].id != 0 && nonce == NULL))
        return VSHARD_EINVAL;

    put_header(codec, frame, out);
    packed = put_payload(codec, frame, out);
    vs_store32(out + AT_PACKED, packed);
    vs_store32(out + AT_STORED, packed);
    if (codec->keys[0].id != 0) {
        rc = seal_frame(&codec->keys[0], nonce, out, packed);
        if (rc < 0)
            return rc;
    }
    stored = vs_load32(out + AT_STORED);
    vs_store64(out + AT_CHECKSUM, checksum(out, stored));
    *bytes = VS_FRAME_HEADER + stored;
    return VSHARD_OK;
}

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

static void read_header(const unsigned char *from, struct header *h)
{
    h->flags = from[AT_FLAGS];
    h->stored = vs_load32(from + AT_STORED);
    h->raw = vs_load32(from + AT_RAW);
    h->packed = vs_load32(from + AT_PACKED);
    h->key = vs_load32(from + AT_KEY);
}

static bool lengths_agree(const struct header *h, size_t count, uint32_t limit)
{
    uint32_t mac = h->flags & SEALED ? VS_SEAL_MAC : 0;

    if (h->raw > limit || h->packed > h->raw || h->stored != h->packed + mac)
        return false;
    if (h->flags & PACKED ? h->packed == 0 || h->packed == h->raw : h->packed != h->raw)
        return false;
    return count == (size_t)VS_FRAME_HEADER + h->stored;
}

/* Everything that can be judged without a key. */
static enum vs_frame_reason judge(const struct vs_frame_codec *codec, const unsigned char *from,
                                  size_t count, struct header *h)
{
    if (count < VS_FRAME_HEADER)
        return VS_FRAME_SHORT;
    if (memcmp(from, magic, sizeof magic) != 0)
        return VS_FRAME_MAGIC;
    if (from[AT_VERSION] < version_min(codec) || from[AT_VERSION] > version_max(codec))
        return VS_FRAME_UNVERSIONED;
    read_header(from, h);
    if ((h->flags & ~(SEALED | PACKED)) != 0 || !all_zero(from + AT_ZERO, AT_CHECKSUM - AT_ZERO))
        return VS_FRAME_BITS;
    if ((h->flags & SEALED) ? h->key == 0
                            : h->key != 0 || !all_zero(from + AT_NONCE, VS_SEAL_NONCE))
        return VS_FRAME_BITS;
    if (!lengths_agree(h, count, payload_max(codec)))
        return VS_FRAME_LENGTH;
    if (vs_load64(from + AT_CHECKSUM) != checksum(from, h->stored))
        return VS_FRAME_CHECKSUM;
    if (vs_load64(from + AT_CLUSTER) != codec->cluster.hi ||
        vs_load64(from + AT_CLUSTER + 8) != codec->cluster.lo)
        return VS_FRAME_CLUSTER;
    if (vs_load64(from + AT_RECEIVER) != codec->self)
        return VS_FRAME_RECEIVER;
    if (codec->keys[0].id != 0 && (h->flags & SEALED) == 0)
        return VS_FRAME_UNSEALED;
    return VS_FRAME_ACCEPTED;
}

int vs_frame_length(const struct vs_frame_codec *codec, const void *bytes, size_t count,
                    size_t *length)
{
    const unsigned char *from = bytes;
    struct header h;

    *length = 0;
    if (count > 0 && memcmp(from, magic, count < sizeof magic ? count : sizeof magic) != 0)
        return VSHARD_ECORRUPT;
    if (count > AT_VERSION &&
        (from[AT_VERSION] < version_min(codec) || from[AT_VERSION] > version_max(codec)))
        return VSHARD_EVERSION;
    if (count < VS_FRAME_HEADER)
        return VSHARD_OK;
    read_header(from, &h);
    if (!lengths_agree(&h, (size_t)VS_FRAME_HEADER + h.stored, payload_max(codec)))
        return VSHARD_ECORRUPT;
    *length = (size_t)VS_FRAME_HEADER + h.stored;
    return VSHARD_OK;
}

static size_t scratch_needed(const struct header *h)
{
    return (h->flags & SEALED ? (size_t)h->packed : 0) + (h->flags & PACKED ? (size_t)h->raw : 0);
}

size_t vs_frame_scratch(const struct vs_frame_codec *codec, const void *bytes, size_t count)
{
    struct header h;

    if (count < VS_FRAME_HEADER)
        return 0;
    read_header(bytes, &h);
    return lengths_agree(&h, count, payload_max(codec)) ? scratch_needed(&h) : 0;
}

static const struct vs_frame_key *find_key(const struct vs_frame_codec *codec, uint32_t id)
{
    for (size_t i = 0; i < VS_FRAME_KEYS; i++) {
        if (id != 0 && codec->keys[i].id == id)
            return &codec->keys[i];
    }
    return NULL;
}

/* Opens and expands the payload of a frame that judge() accepted. */
static enum vs_frame_reason open_payload(const struct vs_frame_codec *codec,
                                         const unsigned char *from, const struct header *h,
                                         unsigned char *scratch, const void **payload)
{
    const unsigned char *body = from + VS_FRAME_HEADER;

    if (h->flags & SEALED) {
        const struct vs_frame_key *key = find_key(codec, h->key);
        struct vs_seal s = { NULL, from + AT_NONCE, from, AT_CHECKSUM, VS_CIPHER_XCHACHA20 };

        if (key == NULL)
            return VS_FRAME_KEY;
        s.key = key->key;
        if (vs_unseal(&s, body, h->stored, scratch) < 0)
            return VS_FRAME_SEAL;
        body = scratch;
        scratch += h->packed;
    }
    if (h->flags & PACKED) {
        if (vs_unpack(body, h->packed, scratch, h->raw) < 0)
            return VS_FRAME_PACKING;
        body = scratch;
    }
    *payload = h->raw > 0 ? body : NULL;
    return VS_FRAME_ACCEPTED;
}

static int status_of(enum vs_frame_reason reason)
{
    switch (reason) {
    case VS_FRAME_ACCEPTED: return VSHARD_OK;
    case VS_FRAME_UNVERSIONED:
    case VS_FRAME_BITS: return VSHARD_EVERSION;
    case VS_FRAME_CLUSTER:
    case VS_FRAME_RECEIVER:
    case VS_FRAME_KEY: return VSHARD_ENOTFOUND;
    default: return VSHARD_ECORRUPT;
    }
}

int vs_frame_decode(const struct vs_frame_codec *codec, const void *bytes, size_t count,
                    const struct vs_frame_work *work, struct vs_frame *frame)
{
    const unsigned char *from = bytes;
    const void *payload = NULL;
    struct header h;
    enum vs_frame_reason reason = judge(codec, from, count, &h);

    if (reason == VS_FRAME_ACCEPTED) {
        if (scratch_needed(&h) > work->scratch_bytes)
            return VSHARD_ENOMEM;
        reason = open_payload(codec, from, &h, work->scratch, &payload);
    }
    if (work->counts != NULL)
        work->counts->count[reason]++;
    if (reason != VS_FRAME_ACCEPTED)
        return status_of(reason);

    *frame = (struct vs_frame){ .group = vs_load64(from + AT_GROUP),
                                .sender = vs_load64(from + AT_SENDER),
                                .receiver = vs_load64(from + AT_RECEIVER),
                                .incarnation = vs_load64(from + AT_INCARNATION),
                                .payload = payload,
                                .payload_bytes = h.raw,
                                .type = vs_load16(from + AT_TYPE),
                                .version = from[AT_VERSION] };
    return VSHARD_OK;
}
