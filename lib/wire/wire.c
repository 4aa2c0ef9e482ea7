/* wire.c - the public face of frames: a codec with memory of its own.
 *
 * It adds to frame.c what a caller would otherwise have to keep: scratch memory,
 * counters, and nonces. A nonce is 16 bytes drawn once for the codec and a count of
 * the frames it has sealed, so that no two frames of one key share one however many
 * processes hold the key. */
#include "wire/wire.h"

#include <vshard/wire.h>

enum { DRAWN = 16, SCRATCH_KEPT = 1 << 20 };

struct vshard_wire {
    struct vs_frame_codec codec;
    struct vs_frame_counts counts;
    uint64_t incarnation;
    uint8_t version; /* of the frames that are sent; 0: the newest */
    uint8_t nonce[VS_SEAL_NONCE];
    uint64_t sealed; /* frames */
    struct vs_packing packing;
    unsigned char *scratch;
    size_t scratch_bytes;
    const struct vshard_allocator *allocator; /* NULL, or memory */
    struct vshard_allocator memory;
};

static int read_keys(struct vshard_wire *w, const struct vshard_wire_options *o)
{
    struct vshard_entropy entropy;
    int rc;

    if (o->key_count == 0)
        return VSHARD_OK;
    if (o->key_count > VS_FRAME_KEYS || o->keys == NULL)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < o->key_count; i++) {
        if (o->keys[i].id == 0 || (i > 0 && o->keys[i].id == o->keys[0].id))
            return VSHARD_EINVAL;
        w->codec.keys[i].id = o->keys[i].id;
        memcpy(w->codec.keys[i].key, o->keys[i].key, VS_SEAL_KEY);
    }
    rc = vs_seal_init();
    if (rc < 0)
        return rc;
    if (o->entropy == NULL) {
        rc = vshard_entropy_default(&entropy);
        if (rc < 0)
            return rc;
    } else {
        entropy = *o->entropy;
    }
    return entropy.fill(entropy.ctx, w->nonce, DRAWN) == 0 ? VSHARD_OK : VSHARD_EIO;
}

int vshard_wire_create(const struct vshard_wire_options *options, struct vshard_wire **wire)
{
    struct vshard_wire_options o;
    struct vshard_wire *w;
    int rc;

    if (wire == NULL)
        return VSHARD_EINVAL;
    *wire = NULL;
    rc = vs_options_read(&o, sizeof o, options,
                         VS_SIZE_THROUGH(struct vshard_wire_options, reserved));
    if (rc < 0)
        return rc;
    if (o.node == 0 || o.payload_max > VS_FRAME_PAYLOAD_MAX)
        return VSHARD_EINVAL;
    w = vs_alloc_zeroed(o.allocator, sizeof *w);
    if (w == NULL)
        return VSHARD_ENOMEM;
    if (o.allocator != NULL) {
        w->memory = *o.allocator;
        w->allocator = &w->memory;
    }
    w->incarnation = o.incarnation;
    w->codec.cluster = o.cluster;
    w->codec.self = o.node;
    w->codec.payload_max = o.payload_max;
    w->codec.pack_above = o.pack_above;
    rc = read_keys(w, &o);
    if (rc < 0) {
        vshard_wire_destroy(w);
        return rc;
    }
    *wire = w;
    return VSHARD_OK;
}

void vshard_wire_destroy(struct vshard_wire *wire)
{
    struct vshard_allocator memory;

    if (wire == NULL)
        return;
    memory = wire->memory;
    vs_free(wire->allocator, wire->scratch, wire->scratch_bytes);
    vs_wipe(&wire->codec, sizeof wire->codec);
    vs_free(wire->allocator != NULL ? &memory : NULL, wire, sizeof *wire);
}

/* Makes the scratch at least so large; what was in it is gone. Room for one huge
 * payload is given back when the next is an ordinary one. */
static int reserve(struct vshard_wire *w, size_t bytes)
{
    unsigned char *p;

    if (bytes <= w->scratch_bytes && (w->scratch_bytes <= SCRATCH_KEPT || bytes > SCRATCH_KEPT))
        return VSHARD_OK;
    if (bytes < SCRATCH_KEPT)
        bytes = SCRATCH_KEPT;
    p = vs_alloc(w->allocator, bytes);
    if (p == NULL)
        return bytes <= w->scratch_bytes ? VSHARD_OK : VSHARD_ENOMEM;
    vs_free(w->allocator, w->scratch, w->scratch_bytes);
    w->scratch = p;
    w->scratch_bytes = bytes;
    return VSHARD_OK;
}

size_t vshard_wire_bound(size_t payload_bytes)
{
    return vs_frame_bound(payload_bytes);
}

/* The payload in one piece. */
static int join(struct vshard_wire *w, const struct vshard_frame *f, const void **payload)
{
    int rc;

    *payload = f->body_bytes == 0 ? f->head : f->body;
    if (f->head_bytes == 0 || f->body_bytes == 0)
        return VSHARD_OK;
    rc = reserve(w, (size_t)(f->head_bytes + f->body_bytes));
    if (rc < 0)
        return rc;
    memcpy(w->scratch, f->head, (size_t)f->head_bytes);
    memcpy(w->scratch + f->head_bytes, f->body, (size_t)f->body_bytes);
    *payload = w->scratch;
    return VSHARD_OK;
}

void vs_wire_accept(struct vshard_wire *wire, uint32_t newest)
{
    wire->codec.version_max = newest;
}

void vs_wire_speak(struct vshard_wire *wire, uint32_t version)
{
    wire->version = (uint8_t)version;
}

int vshard_wire_encode(struct vshard_wire *wire, const struct vshard_frame *frame, void *to,
                       size_t cap, size_t *bytes)
{
    struct vshard_frame f;
    struct vs_frame out;
    int rc;

    if (wire == NULL || to == NULL || bytes == NULL)
        return VSHARD_EINVAL;
    rc = vs_options_read(&f, sizeof f, frame, VS_SIZE_THROUGH(struct vshard_frame, body));
    if (rc < 0)
        return rc;
    if (f.node == 0 || f.type > UINT16_MAX || (f.head == NULL && f.head_bytes > 0) ||
        (f.body == NULL && f.body_bytes > 0))
        return VSHARD_EINVAL;
    if (f.head_bytes > VS_FRAME_PAYLOAD_MAX || f.body_bytes > VS_FRAME_PAYLOAD_MAX)
        return VSHARD_E2BIG;
    out = (struct vs_frame){ .group = f.group,
                             .sender = wire->codec.self,
                             .receiver = f.node,
                             .incarnation = wire->incarnation,
                             .payload_bytes = (uint32_t)(f.head_bytes + f.body_bytes),
                             .type = (uint16_t)f.type,
                             .version = wire->version,
                             .packing = &wire->packing };
    if (out.payload_bytes > VS_FRAME_PAYLOAD_MAX || cap < vs_frame_bound(out.payload_bytes))
        return VSHARD_E2BIG;
    rc = join(wire, &f, &out.payload);
    if (rc < 0)
        return rc;
    vs_store64(wire->nonce + DRAWN, ++wire->sealed);
    return vs_frame_encode(&wire->codec, &out, wire->nonce, to, cap, bytes);
}

int vshard_wire_length(const struct vshard_wire *wire, const void *bytes, size_t count,
                       size_t *length)
{
    if (wire == NULL || length == NULL || (bytes == NULL && count > 0))
        return VSHARD_EINVAL;
    return vs_frame_length(&wire->codec, bytes, count, length);
}

int vshard_wire_decode(struct vshard_wire *wire, const void *bytes, size_t count,
                       struct vshard_frame *frame)
{
    struct vs_frame_work work;
    struct vs_frame in;
    struct vshard_frame f = { .size = sizeof f };
    int rc;

    if (wire == NULL || frame == NULL || (bytes == NULL && count > 0))
        return VSHARD_EINVAL;
    rc = reserve(wire, vs_frame_scratch(&wire->codec, bytes, count));
    if (rc < 0)
        return rc;
    work = (struct vs_frame_work){ wire->scratch, wire->scratch_bytes, &wire->counts };
    rc = vs_frame_decode(&wire->codec, bytes, count, &work, &in);
    if (rc < 0)
        return rc;
    f.type = in.type;
    f.group = in.group;
    f.node = in.sender;
    f.incarnation = in.incarnation;
    f.head = in.payload;
    f.head_bytes = in.payload_bytes;
    return vs_report_write(frame, &f, sizeof f, VS_SIZE_THROUGH(struct vshard_frame, body));
}

int vshard_wire_count(const struct vshard_wire *wire, struct vshard_wire_counters *counters)
{
    struct vshard_wire_counters c = { .size = sizeof c };
    const uint64_t *n;

    if (wire == NULL)
        return VSHARD_EINVAL;
    n = wire->counts.count;
    c.accepted = n[VS_FRAME_ACCEPTED];
    c.malformed = n[VS_FRAME_SHORT] + n[VS_FRAME_MAGIC] + n[VS_FRAME_LENGTH];
    c.unversioned = n[VS_FRAME_UNVERSIONED] + n[VS_FRAME_BITS];
    c.damaged = n[VS_FRAME_CHECKSUM];
    c.misdirected = n[VS_FRAME_CLUSTER] + n[VS_FRAME_RECEIVER];
    c.unsealed = n[VS_FRAME_UNSEALED];
    c.unkeyed = n[VS_FRAME_KEY];
    c.forged = n[VS_FRAME_SEAL];
    c.unpacked = n[VS_FRAME_PACKING];
    return vs_report_write(counters, &c, sizeof c,
                           VS_SIZE_THROUGH(struct vshard_wire_counters, unpacked));
}
