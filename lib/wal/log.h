/* log.h - one open log. Private to this room. */
#ifndef VS_WAL_LOG_H
#define VS_WAL_LOG_H

#include <stdatomic.h>

#include "os/os.h"
#include "wal/groups.h"
#include "wal/wal.h"

enum {
    VS_WAL_WINDOW = 1 << 20, /* bytes read at a time */
    VS_WAL_NAME = 32,        /* room for "/0123456789abcdef.wal" and the longest suffix */
    VS_WAL_PIECE = 1 << 18,  /* zeros written ahead between two batches, */
    VS_WAL_PIECES = 1 << 22, /* and at most where they are late, or a batch waits for them */
    VS_WAL_SPARES = 2        /* files that the log has left, and keeps for its next segments */
};

/* Bytes of one kind that grow and are used again. */
struct vs_wal_bytes {
    unsigned char *at;
    size_t count, cap;
};

/* A batch that is being filled. Votes are kept apart: they go in front. */
struct vs_wal_batch {
    struct vs_wal_batch *next;
    uint64_t seq;
    struct vs_wal_bytes urgent, bulk;
    uint32_t records;
    /* what it was before the append that is being carried out */
    uint32_t old_records;
    size_t old_urgent, old_bulk;
};

/* One chain of storage requests: at most one is under way. */
struct vs_wal_task {
    struct vshard_io io;
    struct vshard_wal *wal;
    char *path, *path_to; /* [path_bytes] each */
    atomic_uint complete;
    uint32_t busy; /* submitted, and its end not yet looked at */
    uint32_t step;
};

/* A segment that is being made, is ready, or is written to. */
struct vs_wal_file {
    struct vs_wal_segment_head head;
    struct vs_wal_key key;
    uint64_t file;
    uint64_t bytes;  /* its length */
    uint64_t goal;   /* up to where zeros are written before it is used */
    uint64_t filled; /* up to where they have been */
    uint64_t end;    /* of its batches */
    uint32_t open;
    uint32_t ready;  /* batches may be written */
    uint32_t full;   /* the next one did not fit */
    uint32_t old;    /* it was a segment before, so its length promises no zeros */
    uint32_t backed; /* the length promises zeros, and has its space */
    uint32_t reserved;
};

/* Reads batches from one segment. */
struct vs_wal_reader {
    struct vshard_wal *wal;
    uint64_t file;
    uint64_t bytes; /* the file's length */
    uint64_t segment;
    uint32_t open;
    struct vs_wal_key key;
    struct vs_wal_bytes window; /* [window_at, + count) of the file */
    uint64_t window_at;
    struct vs_wal_bytes image; /* header and body, tags removed */
    struct vs_wal_bytes raw;   /* the body, opened and unpacked */
};

/* A batch as the reader found it. */
struct vs_wal_found {
    struct vs_wal_head head;
    uint64_t digest;
    size_t sectors;
    const unsigned char *body; /* [head.raw] */
};

/* What stands behind the last whole batch. */
struct vs_wal_evidence {
    uint64_t members, damaged;
    uint64_t witness; /* the highest barrier that something there vouches for */
    uint64_t last;    /* end of the last sector that is not empty, in the tail's segment */
};

struct vshard_wal {
    struct vshard_wal_options options; /* its pointers are not used after open */
    struct vshard_allocator memory;
    const struct vshard_allocator *allocator;
    struct vshard_storage storage;
    struct vshard_logger logger;
    const struct vshard_logger *log;
    struct vshard_entropy entropy;
    struct vshard_wal_hooks hooks;
    char *path; /* the directory; [path_bytes], with room for a name */
    size_t path_bytes;

    int status;                    /* 0, or EIO for good */
    uint32_t full;                 /* nothing more can be written, */
    uint32_t tight;                /* or only to the end of the current segment */
    uint32_t patience, polls_left; /* tight: how many polls go by until the next try */
    uint32_t unsettled;
    uint32_t created;
    struct vs_wal_super super;
    uint64_t super_file;
    uint64_t super_found; /* bytes it had when it was opened */
    uint32_t super_open;
    uint32_t clean; /* nothing was written since the superblock said so */
    struct vs_wal_point durable;
    struct vs_wal_index index;

    /* writing: batches from the one that goes next to the one that is filled */
    struct vs_wal_batch *first, *last, *idle; /* idle: emptied, for the next use */
    struct vs_wal_blob *blobs, **blobs_end;   /* of marks and notes, in order */
    uint64_t pending_bytes;
    struct vs_wal_bytes body, packed, image, sectors; /* the batch in flight */
    struct vs_packing packing;
    struct vs_wal_head head;
    uint64_t digest;                /* of the batch in flight */
    size_t copied_from, copied_end; /* of its body, what was copied forward */
    struct vs_wal_file current;     /* is written to */
    struct vs_wal_file making;      /* will be */
    struct vs_wal_file old;         /* waits to be shortened and closed */
    uint32_t in_flight;
    uint32_t rotate;    /* the next batch begins a segment */
    uint32_t blocked;   /* a batch waits for `making` */
    uint32_t may_retry; /* storage was full, and this poll has not tried again yet */
    uint32_t may_make;  /* nor has it to wait until it may try to make a segment */
    uint32_t witness;   /* is wanted */
    uint32_t key_id;    /* of the segments that will be made, */
    uint32_t cipher;    /* and how they are sealed, if they are */
    struct vs_wal_key super_key;
    uint64_t next_segment;
    uint64_t retiring;                /* the superblock has left every segment below this */
    struct vs_wal_super super_before; /* as it was before the write that is under way */
    /* Files of which segments may be made, bit by bit; what they hold is sealed with key_id. */
    uint32_t spares;
    uint32_t unwanted; /* others, which are to be removed */
    uint32_t keeping;  /* which of them the keeper is about to make, */
    uint32_t keeping_key;

    struct vs_wal_task flight, maker, trimmer, keeper; /* keeper: of the superblock */
    unsigned char *super_bytes;                        /* two slots */
    unsigned char *zeros;                              /* [vs_wal_piece(w, VS_WAL_PIECES)] */
    unsigned char *head_bytes;                         /* a segment's */

    size_t copy_cursor;    /* among the groups, which of them to look at next */
    uint64_t copy_segment; /* whose groups those are */
    uint64_t copied;       /* bytes, since a segment was begun */
    uint32_t may_leave;    /* tight: perhaps the oldest segment can be left without more appends */
    uint32_t keep_left;    /* polls until the superblock is tried again, which found no space */
    uint32_t signed_with;  /* the key of the superblock as it is durable */
    uint32_t copy_again;   /* one of the groups looked at was busy, and needs the oldest segment */

    struct vshard_wal_stats stats;
};

/* Of the zeros of a segment, not more than so many together. */
static inline uint64_t vs_wal_piece(const struct vshard_wal *w, uint64_t most)
{
    return w->options.segment_bytes / 8 < most ? w->options.segment_bytes / 8 : most;
}

/* bytes.c */
int vs_wal_bytes_reserve(struct vshard_wal *w, struct vs_wal_bytes *b, size_t cap);
void vs_wal_bytes_fini(struct vshard_wal *w, struct vs_wal_bytes *b);
/* Writes "directory/name" with a suffix into `to`, [w->path_bytes]. */
void vs_wal_segment_path(const struct vshard_wal *w, uint64_t segment, const char *suffix,
                         char *to);
void vs_wal_super_path(const struct vshard_wal *w, char *to);
void vs_wal_spare_path(const struct vshard_wal *w, uint32_t spare, char *to);
void vs_wal_event(const struct vshard_wal *w, uint32_t level, const char *name, int64_t a,
                  int64_t b);
/* Derives what opens a file from the host's key and the file's salt. Returns 0,
 * ENOTFOUND (no such key), ENOTSUP or EIO. */
int vs_wal_key_derive(struct vshard_wal *w, uint32_t key_id, const uint8_t salt[VS_SEAL_SALT],
                      struct vs_wal_key *key);
/* The host's key: says if a header's check is not that of the key. Returns 0 or EINVAL. */
int vs_wal_key_check(const struct vshard_wal *w, const struct vs_wal_key *key,
                     const uint8_t check[VS_SEAL_MAC]);
/* From now on new files are sealed and the superblock is signed with that key. On
 * failure, as vs_wal_key_derive(), nothing has changed. */
int vs_wal_key_use(struct vshard_wal *w, uint32_t key_id);

/* window.c */
int vs_wal_reader_open(struct vs_wal_reader *r, struct vshard_wal *w, uint64_t segment);
void vs_wal_reader_close(struct vs_wal_reader *r);
void vs_wal_reader_fini(struct vs_wal_reader *r);
/* `bytes` at `offset`, zeros behind the end of the file. */
int vs_wal_reader_bytes(struct vs_wal_reader *r, uint64_t offset, size_t bytes,
                        const unsigned char **p);
/* The batch at an offset. `after` is what comes before it, or NULL: believe the
 * header. Returns 0; 1: no whole batch is there; ECORRUPT: whole, and its contents
 * are wrong; or another status. */
int vs_wal_reader_batch(struct vs_wal_reader *r, uint64_t offset, const struct vs_wal_point *after,
                        struct vs_wal_found *found);
/* Opens and unpacks a striped batch's image. */
int vs_wal_body(struct vshard_wal *w, const struct vs_wal_head *head, const struct vs_wal_key *key,
                uint64_t offset, struct vs_wal_bytes *image, struct vs_wal_bytes *raw,
                const unsigned char **body);

/* cut.c: removes them, and knows that they are gone. Blocks. */
int vs_wal_drop_spares(struct vshard_wal *w);

/* recover.c */
int vs_wal_recover(struct vshard_wal *w, struct vshard_wal_report *report);

/* super.c */
/* Opens the superblock if it is there; who writes takes the log with it. Returns 0, EBUSY,
 * or what storage says. Blocks. */
int vs_wal_super_open(struct vshard_wal *w);
/* Makes it, if vs_wal_super_open() did not find it. EBUSY: somebody else did. Blocks. */
int vs_wal_super_make(struct vshard_wal *w);
/* Reads the superblock, or makes one where there are no segments either. *lost becomes 1
 * if there are segments and no superblock that can be believed. Blocks. */
int vs_wal_super_load(struct vshard_wal *w, uint32_t *lost);
/* Writes both slots of the older pair, and makes them durable; one after the other, or both.
 * Blocks. */
int vs_wal_super_put(struct vshard_wal *w);
int vs_wal_super_sync(struct vshard_wal *w);
int vs_wal_super_store(struct vshard_wal *w);
/* Encodes the next generation into w->super_bytes; says where it goes. Returns 0 or
 * ENOTSUP. */
int vs_wal_super_prepare(struct vshard_wal *w, uint64_t *at);

/* task.c */
void vs_wal_submit(struct vs_wal_task *t, uint32_t op);
/* Whether it ended just now; then *status is how. */
bool vs_wal_ended(struct vs_wal_task *t, int *status);
/* Nobody knows what is on disk: nothing more is written. */
void vs_wal_poison(struct vshard_wal *w, const char *why);
/* Storage is full: stop until the next poll. */
void vs_wal_full(struct vshard_wal *w);
/* No further segment can be made for now; the current one still has room. */
void vs_wal_tight(struct vshard_wal *w);
void vs_wal_be_patient(struct vshard_wal *w);
/* Waits for one request that is under way; false if there is none. */
bool vs_wal_wait(struct vshard_wal *w);

/* Each does what it can and returns whether that was anything. */
bool vs_wal_flight_step(struct vshard_wal *w); /* flight.c */
bool vs_wal_maker_step(struct vshard_wal *w);  /* segment.c */
bool vs_wal_trimmer_step(struct vshard_wal *w);
bool vs_wal_keeper_step(struct vshard_wal *w);
/* All of them, until nothing moves. */
void vs_wal_pump(struct vshard_wal *w);

/* flight.c: the number after the last batch that was named */
uint64_t vs_wal_next_seq(const struct vshard_wal *w);
/* Where zeros end that reach `times` as far ahead of `end` as the segment's header says. */
uint64_t vs_wal_zeros_to(const struct vs_wal_file *f, uint64_t end, uint32_t times);

/* replay.c */
struct vs_wal_visit {
    struct vs_wal_reader reader;
    const struct vs_wal_group *group;
    uint64_t from; /* entries below are left out */
    const struct vshard_wal_visitor *visitor;
    uint32_t ended; /* by the visitor */
    uint32_t reserved;
};
/* Visits the live entries of one run. Blocks. */
int vs_wal_run_visit(struct vs_wal_visit *v, const struct vs_wal_run *run);

/* carry.c: adds groups that hold the oldest segment to a batch; returns how many
 * records. Never fails: what cannot be read stays where it is. */
uint32_t vs_wal_copy(struct vshard_wal *w, struct vs_wal_bytes *body);
/* Whether nothing holds the oldest segment that could not be copied; then *bytes is how much
 * that is. */
bool vs_wal_leaves(const struct vshard_wal *w, uint64_t *bytes);

#endif
