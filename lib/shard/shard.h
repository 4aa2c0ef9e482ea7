/* shard.h - the door of lib/shard: one replica of one shard.
 *
 * A shard is a function of its log: batches of rows under 128-bit keys go in, in the
 * order of the log, and what comes of them is the same on every replica, bit by bit,
 * whatever its instruction set. It keeps vectors in an index, and beside them what an
 * index does not know: keys, versions, payloads, and which requests have been
 * applied. It knows no group, no network and no thread.
 *
 * Who may call what beside what: a search beside anything but destroy; calls that take a
 * const shard beside each other and stage; apply beside searches and stage alone. */
#ifndef VS_SHARD_H
#define VS_SHARD_H

#include "base/base.h"
#include "index/index.h"

#include <vshard/merge.h>

enum {
    VS_APPLY_FORMAT = 2,            /* the newest that this library knows, */
    VS_APPLY_FORMAT_FIRST = 2,      /* and the oldest */
    VS_PAYLOAD_MAX = 65536,         /* bytes of one row's payload */
    VS_BATCH_ROWS_MAX = 65536,      /* rows in one entry */
    VS_REQUESTS_KEPT = 65536,       /* request ids that a shard remembers */
    VS_CHUNK_ROWS = 256,            /* rows that one step of apply adds */
    VS_BULK_ROWS = 8192,            /* a first load goes in whole from so many rows on */
    VS_SNAPSHOT_META_MAX = 16 << 20 /* bytes that a snapshot keeps for its owner */
};

/* ==== 1. Entries ======================================================= */

enum { VS_BATCH_ADD = 1, VS_BATCH_REMOVE = 2 };

/* Values of an attribute, one for each row. */
struct vs_batch_column {
    uint32_t type, width;        /* width: bytes of a value; 0: all are missing */
    const unsigned char *values; /* [count x width] */
};

/* A batch as its bytes have it: arrays point into them, little-endian, 8-aligned in the
 * entry. `count` rows. */
struct vs_batch {
    uint32_t format; /* apply format */
    uint32_t kind, count;
    uint32_t vector_bytes;    /* of one row; 0 for REMOVE */
    uint32_t attribute_count; /* likewise */
    struct vshard_key request;
    const unsigned char *keys;     /* [count x 16] hi, lo */
    const unsigned char *versions; /* [count x 8] or NULL: all get the entry's index */
    const unsigned char *lengths;  /* [count x 4] of payloads, or NULL: there are none */
    const unsigned char *vectors;  /* [count x vector_bytes] */
    const unsigned char *payloads; /* one after the other */
    size_t payload_bytes;          /* of all */
    struct vs_batch_column column[VSHARD_ATTRIBUTES_MAX]; /* [attribute_count] */
};

/* What a batch is made of; `rows` picks some of the caller's rows, or NULL for all. */
struct vs_batch_source {
    uint32_t format; /* apply format; 0: VS_APPLY_FORMAT */
    uint32_t kind, count;
    uint32_t vector_bytes, attribute_count;
    struct vshard_key request;
    const struct vshard_key *keys;
    const uint64_t *versions;
    const struct vshard_attribute *attributes; /* [attribute_count] */
    const struct vshard_values *values;        /* [value_count] of the first attributes */
    const void *const *payloads;
    const uint32_t *payload_bytes;
    const void *vectors;
    const uint32_t *rows;
    uint32_t value_count;
};

/* The request id of an entry that was admitted. */
struct vshard_key vs_batch_request(const void *bytes);
/* The bytes of an entry; SIZE_MAX when they cannot be counted. */
size_t vs_batch_bytes(const struct vs_batch_source *s);
void vs_batch_encode(const struct vs_batch_source *s, void *to);
/* `newest` is the newest apply format that is taken; 0: VS_APPLY_FORMAT.
 * Returns 0, ECORRUPT, EVERSION (a later apply format). Looks at every length. */
int vs_batch_decode(struct vs_batch *b, uint32_t newest, const void *bytes, size_t count);

/* ==== 2. A shard ======================================================= */

/* What the rows of a shard are. The hooks are borrowed for the life of the shard. */
struct vs_shard_plan {
    uint32_t dim, family, metric, element, m, ef_construction, train_rows, profile;
    uint32_t attribute_count;
    uint32_t newest; /* apply format; 0: VS_APPLY_FORMAT */
    uint64_t seed;
    struct vshard_attribute attributes[VSHARD_ATTRIBUTES_MAX]; /* [attribute_count] */
    const struct vshard_allocator *allocator;
    const struct vshard_logger *logger;
    const struct vshard_executor *executor;
    const struct vshard_storage *storage;
};

struct vs_shard;

/* The bytes of a vector. */
uint32_t vs_plan_vector_bytes(const struct vs_shard_plan *plan);

/* Whether shards of this plan take every row of the batch: what it refuses must not
 * reach a log. Returns 0, EINVAL (a shape that is not the plan's, a number that is none,
 * a vector without direction) and logs why. */
int vs_plan_admits(const struct vs_shard_plan *plan, const struct vs_batch *batch);
/* Whether it has the shape of the plan's rows, whatever the vectors are. */
bool vs_plan_fits(const struct vs_shard_plan *plan, const struct vs_batch *batch);
/* Whether shards of this plan take an expression. Returns 0, EINVAL, EVERSION and logs why. */
int vs_plan_admits_where(const struct vs_shard_plan *plan, const void *where, size_t bytes);

int vs_shard_create(const struct vs_shard_plan *plan, struct vs_shard **shard);
void vs_shard_destroy(struct vs_shard *s);

/* Applies entry `index`, a step at a time: *row is 0 at first, and is the batch's count when
 * the entry is applied whole. Returns 0; ECORRUPT, EVERSION, EINVAL: this replica cannot
 * apply it and must halt; ENOMEM: nothing changed in this step, which may be tried again. */
int vs_shard_apply(struct vs_shard *s, uint64_t index, const void *entry, size_t bytes,
                   uint32_t *row);
/* Whether a request is among the last that were applied. Beside apply. */
bool vs_shard_did(struct vs_shard *s, struct vshard_key request);
/* An entry that is no batch was committed: the shard stands there. */
void vs_shard_pass(struct vs_shard *s, uint64_t index);

/* ---- before it is applied: tail.c ---- */

/* Whether entries are to be staged, each before it is applied: not into a flat shard. */
bool vs_plan_stages(const struct vs_shard_plan *plan);
/* Makes entry `index` searchable; bytes 0: one that is no batch. Returns 0, also if it has been
 * staged or applied; EBUSY: when more has been applied and has left; ESTALE: another entry comes
 * before; ENOMEM: again; else what vs_shard_apply() will say. */
int vs_shard_stage(struct vs_shard *s, uint64_t index, const void *entry, size_t bytes);
/* What has been applied leaves, unless a search that runs may still want it; *kept rows stay.
 * Beside the same calls as stage, not beside stage. Returns 0 or ENOMEM: again, and before
 * anything is staged. */
int vs_shard_unstage(struct vs_shard *s, uint32_t *kept);
/* Searches reflect all entries up to this, and so do fetches from who is held. */
uint64_t vs_shard_searchable(const struct vs_shard *s);
/* Rows that there are by then. */
uint64_t vs_shard_rows(const struct vs_shard *s);
/* What the newest row of a key is fetched from: s, or what has been staged. Nothing is staged
 * until it is released. */
const struct vs_shard *vs_shard_hold(struct vs_shard *s, struct vshard_key key);
void vs_shard_release(struct vs_shard *s);

struct vs_shard_stats {
    uint64_t applied; /* index of the last entry */
    uint64_t rows;    /* by then */
    uint64_t tombstones;
    uint64_t fenced;   /* rows passed over, since a newer version was there */
    uint64_t repeated; /* entries passed over, since their request had been applied */
};

void vs_shard_stats(const struct vs_shard *s, struct vs_shard_stats *stats);

/* All of a shard's state, as 64 bits: equal histories, equal digests. */
int vs_shard_digest(const struct vs_shard *s, uint64_t *digest);

struct vs_shard_query {
    const void *vector;
    uint32_t k, ef;
    uint32_t exact;
    const void *where; /* an expression that must hold, as an index takes it; or NULL */
    size_t where_bytes;
    float bound;          /* no hit is farther; +infinity for any */
    float target_recall;  /* or 0 */
    uint64_t deadline_ns; /* by `clock`, which may be NULL */
    const struct vshard_clock *clock;
    const uint32_t *cancel;
};

struct vs_shard_answer {
    uint32_t found;
    uint32_t limits; /* VSHARD_LIMIT_* */
    uint64_t distances;
    uint64_t rows; /* in the shard, as vs_shard_rows() */
    uint64_t position;
};

/* The nearest rows: hits [k], of shard number 0, nearest first. */
int vs_shard_search(struct vs_shard *s, const struct vs_shard_query *q,
                    struct vshard_merge_hit *hits, struct vs_shard_answer *answer);

struct vs_shard_row {
    void *vector;                       /* filled in, unless NULL */
    const struct vshard_values *values; /* NULL, or [attribute_count] that are written to */
    uint64_t version;                   /* [out], as the next two */
    const void *payload;                /* in the shard */
    uint32_t payload_bytes;
    uint32_t reserved;
};

/* One row as it was applied. Returns 0, ENOTFOUND, and what an index says. */
int vs_shard_fetch(const struct vs_shard *s, struct vshard_key key, struct vs_shard_row *row);

/* The key of the next row from *at on, which is 0 at first; false: there is none. */
bool vs_shard_next(const struct vs_shard *s, uint32_t *at, struct vshard_key *key);

/* ==== 3. Files ========================================================= */

/* A snapshot is two files, path + ".index" and path + ".rows", the second naming the first
 * by its digest; each is written aside, synced and renamed. `meta` is the owner's. */
int vs_shard_save(const struct vs_shard *s, const char *path, const void *meta, size_t meta_bytes);
/* Opens one. *meta is allocated by the plan's allocator, [*meta_bytes]. Returns 0, ECORRUPT,
 * EVERSION, EINVAL (rows of another plan), and what storage says. */
int vs_shard_open(const struct vs_shard_plan *plan, const char *path, struct vs_shard **shard,
                  void **meta, size_t *meta_bytes);
void vs_shard_remove_files(const struct vshard_storage *storage, const char *path);

#endif
