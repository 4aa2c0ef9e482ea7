/* format.h - the bytes of the log; drawn in format.c. Private to this room. */
#ifndef VS_WAL_FORMAT_H
#define VS_WAL_FORMAT_H

#include "base/base.h"
#include "wire/wire.h"

enum {
    VS_WAL_VERSION = 1,
    VS_WAL_VERSION_AHEAD = 2, /* of a segment's header that says how far zeros are */
    VS_WAL_SECTOR = 512,
    VS_WAL_DATA = 504,   /* of a sector, before its tag */
    VS_WAL_START = 4096, /* of a segment, where batches begin */
    VS_WAL_HEAD = 96,    /* a batch's header */
    VS_WAL_RECORD = 32,  /* a record's header */
    VS_WAL_SUPER_SLOT = 4096,
    VS_WAL_SUPER_SLOTS = 4,
    VS_WAL_SUPER_BYTES = VS_WAL_SUPER_SLOT * VS_WAL_SUPER_SLOTS,
    VS_WAL_PAGE = 4096,          /* zeros end on one: pages of a file are written whole */
    VS_WAL_BATCH_MAX = 256 << 20 /* stored bytes; far above what segments allow */
};

/* Where a run of whole batches ends: the digest vouches for all before it. */
struct vs_wal_point {
    uint64_t seq;
    uint64_t digest;
    uint64_t segment;
    uint64_t end; /* bytes from the start of the segment */
};

enum { VS_WAL_PACKED = 1, VS_WAL_SEALED = 2 };

struct vs_wal_head {
    uint32_t flags;
    uint32_t stored; /* body bytes as stored: packed, then sealed */
    uint32_t raw;    /* body bytes before that */
    uint32_t records;
    uint64_t log_id;
    uint64_t seq;
    uint64_t prev;               /* digest of batch seq - 1 */
    struct vs_wal_point durable; /* the witness: durable before this was written */
};

struct vs_wal_segment_head {
    uint64_t log_id;
    uint64_t segment;
    uint32_t key_id; /* 0: in the open, and so is `cipher` */
    uint32_t cipher; /* enum vs_cipher */
    uint32_t ahead;  /* sectors behind the last batch that read as zeros; 0: all */
    uint8_t salt[VS_SEAL_SALT];
    uint8_t check[VS_SEAL_MAC]; /* of the subkey */
};

/* What opens a file: a host's key, and what was derived from it for this file. */
struct vs_wal_key {
    uint32_t id;     /* 0: there is none */
    uint32_t cipher; /* enum vs_cipher */
    uint8_t subkey[VS_SEAL_KEY];
    uint8_t check[VS_SEAL_MAC]; /* of the subkey, as a header should carry it */
};

enum { VS_WAL_UNSETTLED = 1 };

struct vs_wal_super {
    uint32_t flags;
    uint64_t log_id;
    uint64_t generation;
    struct vs_wal_point durable;
    struct vs_wal_point floor; /* the first segment, and what came before it */
    uint64_t unsettled_from;   /* the first barrier that may be missing */
    uint64_t next_segment;     /* no file was ever given this number or a higher one */
    uint64_t incarnation;      /* drawn when the log was made */
    uint64_t boot;             /* how often it has been opened to be written */
    uint32_t key_id;           /* signed with it; 0: not signed */
    uint32_t reserved;
    uint8_t check[VS_SEAL_MAC]; /* of the key it is signed with */
};

/* What a sector is, seen from the place where batch seq should begin. */
enum vs_wal_sector { VS_WAL_EMPTY, VS_WAL_MEMBER, VS_WAL_ALIEN };

/* A record inside a body. */
struct vs_wal_record {
    uint64_t group, index, term;
    uint32_t bytes;
    uint8_t kind;
    const unsigned char *payload;
};

uint64_t vs_wal_first_digest(uint64_t log_id);
size_t vs_wal_sectors(uint64_t stored);

/* Cuts header and body into tagged sectors; returns the batch's digest. */
uint64_t vs_wal_stripe(const unsigned char *image, size_t bytes, unsigned char *sectors,
                       const struct vs_wal_head *head);
/* The reverse. Returns how many sectors from the start are as they were written. */
size_t vs_wal_unstripe(const unsigned char *sectors, size_t count, unsigned char *image,
                       const struct vs_wal_head *head, uint64_t *digest);
/* `nth` sector after the place where batch head->seq, after head->prev, begins. */
enum vs_wal_sector vs_wal_judge(const unsigned char *sector, const struct vs_wal_head *head,
                                uint64_t nth);

void vs_wal_head_write(const struct vs_wal_head *head, unsigned char *to);
/* Returns 0, ECORRUPT or EVERSION. Looks only at the header itself. */
int vs_wal_head_read(const unsigned char *from, struct vs_wal_head *head);
/* Whether a sector is the first of some batch of this log, whichever. */
bool vs_wal_head_found(const unsigned char *sector, uint64_t log_id, struct vs_wal_head *head);

/* Segment header: VS_WAL_START bytes. */
void vs_wal_segment_write(const struct vs_wal_segment_head *head, unsigned char *to);
int vs_wal_segment_read(const unsigned char *from, struct vs_wal_segment_head *head);

/* One slot of the superblock: VS_WAL_SUPER_SLOT bytes, signed if key->id is not 0.
 * Returns 0 or ENOTSUP. */
int vs_wal_super_write(const struct vs_wal_super *super, const struct vs_wal_key *key,
                       unsigned char *to);
/* Looks at everything but the signature. */
int vs_wal_super_read(const unsigned char *from, struct vs_wal_super *super);
/* Returns 0, ECORRUPT (whoever wrote it did not have the key) or ENOTSUP. */
int vs_wal_super_signed(const unsigned char *from, const struct vs_wal_key *key);
/* What the key for signatures is derived with. */
void vs_wal_super_salt(uint64_t log_id, uint8_t salt[VS_SEAL_SALT]);

size_t vs_wal_record_bytes(uint64_t payload_bytes);
/* Returns the bytes written; the payload is in two pieces. */
size_t vs_wal_record_write(const struct vs_wal_record *r, unsigned char *to, const void *head,
                           size_t head_bytes);
/* Reads the record at *at and moves *at past it. Returns 0, ECORRUPT or EVERSION. */
int vs_wal_record_read(const unsigned char *body, size_t bytes, size_t *at,
                       struct vs_wal_record *r);

/* The nonce of a batch under its segment's subkey. */
void vs_wal_nonce(uint8_t nonce[VS_SEAL_NONCE], uint64_t seq, uint64_t offset);

#endif
