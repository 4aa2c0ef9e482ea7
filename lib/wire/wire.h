/* wire.h - the door of lib/wire: bytes that leave this process.
 *
 * Compression, seals and the frames that nodes exchange. Pure: no I/O, no clock,
 * no randomness; nonces and salts are handed in. The only room that knows LZ4 and
 * libsodium, so a build without one of them says ENOTSUP here and nowhere else. */
#ifndef VS_WIRE_H
#define VS_WIRE_H

#include "base/base.h"

/* ---- compression (LZ4 blocks) ---- */

/* Whether this build can compress. */
bool vs_pack_available(void);

/* What came of the last call, as most data is followed by more of its kind. All zero at first. */
struct vs_packing {
    uint32_t pause; /* calls that are spared the search, since the last did not shrink */
    bool quick; /* the last shrank by less than a quarter: a hasty search finds as much of that */
};

/* Compresses `bytes` into at most `cap`, with as much effort as what came before was worth;
 * `packing` may be NULL. Returns the bytes used, or 0 when it does not fit or was not tried:
 * then the bytes are kept as they are. */
size_t vs_pack(struct vs_packing *packing, const void *from, size_t bytes, void *to, size_t cap);

/* Expands to exactly raw_bytes. Returns 0, ECORRUPT or ENOTSUP. */
int vs_unpack(const void *from, size_t bytes, void *raw, size_t raw_bytes);

/* ---- seals ---- */
enum {
    VS_SEAL_KEY = 32,
    VS_SEAL_SALT = 32,
    VS_SEAL_NONCE = 24,
    VS_SEAL_MAC = 16,
    VS_SEAL_SIGNATURE = 32
};

/* Both add VS_SEAL_MAC bytes. The numbers stand in files. */
enum vs_cipher {
    VS_CIPHER_NONE = 0,
    VS_CIPHER_XCHACHA20 = 1, /* XChaCha20-Poly1305, on every machine */
    VS_CIPHER_AES256_GCM = 2 /* where the CPU has it; uses the first 12 bytes of the nonce */
};

/* What a seal is made with. `context` is authenticated and not encrypted. */
struct vs_seal {
    const uint8_t *key;   /* [VS_SEAL_KEY] */
    const uint8_t *nonce; /* [VS_SEAL_NONCE], never used twice with one key */
    const void *context;
    size_t context_bytes;
    enum vs_cipher cipher;
};

/* Prepares the ciphers; call before the others. Returns 0, ENOTSUP or EIO. */
int vs_seal_init(void);

/* Whether this build, on this machine, has a cipher. */
bool vs_seal_has(enum vs_cipher cipher);

/* subkey = BLAKE2b-256 of the salt, keyed with the key. */
int vs_seal_derive(uint8_t subkey[VS_SEAL_KEY], const uint8_t key[VS_SEAL_KEY],
                   const uint8_t salt[VS_SEAL_SALT]);

/* 16 bytes by which a key can be recognised without anything being opened. */
int vs_seal_check(uint8_t check[VS_SEAL_MAC], const uint8_t subkey[VS_SEAL_KEY]);

/* Keyed BLAKE2b-256: what shows that bytes were written by who has the key. */
int vs_seal_sign(uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                 const void *bytes, size_t count);
/* Returns 0, ECORRUPT (signed with another key, or not these bytes) or ENOTSUP. */
int vs_seal_signed(const uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                   const void *bytes, size_t count);

/* Seals bytes into `to`, which has room for bytes + VS_SEAL_MAC and may be `from`. */
int vs_seal(const struct vs_seal *s, const void *from, size_t bytes, void *to);

/* Opens `bytes` sealed bytes into `to`, room for bytes - VS_SEAL_MAC, which may
 * be `from`. Returns 0, ECORRUPT or ENOTSUP; nothing is learned on failure. */
int vs_unseal(const struct vs_seal *s, const void *from, size_t bytes, void *to);

/* Overwrites a key so that no compiler leaves it out. */
void vs_wipe(void *p, size_t bytes);

/* ---- frames; the layout is drawn in frame.c ---- */
enum {
    VS_FRAME_HEADER = 112,
    VS_FRAME_VERSION = 1,
    VS_FRAME_PAYLOAD_MAX = 64 << 20,
    VS_FRAME_PACK_ABOVE = 1024, /* the default of vs_frame_codec.pack_above */
    VS_FRAME_KEYS = 2           /* the one in use and the one being retired */
};

/* Why a frame was refused; indexes of vs_frame_counts.count. */
enum vs_frame_reason {
    VS_FRAME_ACCEPTED,
    VS_FRAME_SHORT,       /* fewer bytes than a header */
    VS_FRAME_MAGIC,       /* not a frame */
    VS_FRAME_UNVERSIONED, /* a version outside what this codec speaks */
    VS_FRAME_BITS,        /* flags or reserved bytes that this version does not know */
    VS_FRAME_LENGTH,      /* lengths that contradict each other or a limit */
    VS_FRAME_CHECKSUM,    /* damaged on the way */
    VS_FRAME_CLUSTER,     /* of another cluster */
    VS_FRAME_RECEIVER,    /* for another node */
    VS_FRAME_UNSEALED,    /* in the open, where seals are required */
    VS_FRAME_KEY,         /* sealed with a key we do not hold */
    VS_FRAME_SEAL,        /* the seal is broken: forged, or the wrong key */
    VS_FRAME_PACKING,     /* does not expand to what it says, or this build cannot */
    VS_FRAME_REASONS
};

struct vs_frame_counts {
    uint64_t count[VS_FRAME_REASONS];
};

struct vs_frame_key {
    uint32_t id; /* 0: none */
    uint8_t key[VS_SEAL_KEY];
};

/* How one node speaks: fixed while in use, shared by any number of threads. */
struct vs_frame_codec {
    struct vshard_key cluster;
    uint64_t self;                           /* frames to other receivers are refused */
    uint32_t version_min;                    /* 0: 1 */
    uint32_t version_max;                    /* 0: VS_FRAME_VERSION */
    uint32_t payload_max;                    /* 0: VS_FRAME_PAYLOAD_MAX */
    uint32_t pack_above;                     /* 0: VS_FRAME_PACK_ABOVE; UINT32_MAX: never */
    struct vs_frame_key keys[VS_FRAME_KEYS]; /* [0] seals; each opens; id 0 in [0]: no seals */
};

struct vs_frame {
    uint64_t group;
    uint64_t sender;
    uint64_t receiver;
    uint64_t incarnation; /* of the sender */
    const void *payload;
    uint32_t payload_bytes;
    uint16_t type;              /* the layers above give it meaning */
    uint8_t version;            /* encode: 0 is the newest we speak */
    struct vs_packing *packing; /* encode: of the frames before, or NULL */
};

/* Bytes that suffice for vs_frame_encode. */
size_t vs_frame_bound(size_t payload_bytes);

/* Encodes a frame from codec->self's side. `nonce` is [VS_SEAL_NONCE] and unique
 * for the key; it may be NULL when the codec does not seal.
 * Returns 0, EINVAL, E2BIG or ENOTSUP; *bytes is what was used. */
int vs_frame_encode(const struct vs_frame_codec *codec, const struct vs_frame *frame,
                    const uint8_t *nonce, void *to, size_t cap, size_t *bytes);

/* How long the frame is that begins with these bytes; *length 0 when they are too few
 * to tell. Returns 0, ECORRUPT or EVERSION: what is wrong already. Counts nothing. */
int vs_frame_length(const struct vs_frame_codec *codec, const void *bytes, size_t count,
                    size_t *length);

/* Bytes of scratch that decoding this frame takes at most; 0 when none. Bounded by
 * the codec's limits whatever the bytes say. */
size_t vs_frame_scratch(const struct vs_frame_codec *codec, const void *bytes, size_t count);

/* What a decoder works with besides the bytes. */
struct vs_frame_work {
    void *scratch;
    size_t scratch_bytes;
    struct vs_frame_counts *counts; /* may be NULL */
};

/* Decodes one whole frame. The payload points into `bytes` or the scratch.
 * Returns 0; ECORRUPT, EVERSION, ENOTFOUND (another cluster, receiver or key) or
 * ENOMEM (scratch too small: not counted, try again). Never anything worse. */
int vs_frame_decode(const struct vs_frame_codec *codec, const void *bytes, size_t count,
                    const struct vs_frame_work *work, struct vs_frame *frame);

/* ---- versions, of one that vshard_wire_create() has made ---- */

struct vshard_wire;

/* Frames up to this version are taken. */
void vs_wire_accept(struct vshard_wire *wire, uint32_t newest);
/* The frames that follow are of this one, which must be accepted here, too. */
void vs_wire_speak(struct vshard_wire *wire, uint32_t version);

#endif
