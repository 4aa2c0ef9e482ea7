/* wal.h - a write-ahead log that can be believed: one a process, for any number
 * of groups.
 *
 * A group is whatever needs an ordered log: a Raft replica, a queue, a table.
 * Each has numbered entries, a vote, a mark up to which its entries are covered
 * by a snapshot, and a note. All groups share one run of files, so one sync makes
 * the appends of every group durable at once.
 *
 * The order of a host's calls: open, look at each group and replay, then append
 * and poll for as long as the process lives, then close. Appending copies into
 * memory and names a barrier; polling moves bytes to storage; a barrier is durable
 * when the number that poll reports has reached it. Calls that wait for storage say
 * so under Blocks.
 *
 * The format is drawn in lib/wal/format.c, and how a damaged tail is judged in
 * lib/wal/recover.c. */
#ifndef VSHARD_WAL_H
#define VSHARD_WAL_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ==== 1. Records ======================================================= */

/* What a record says. Each is about one group, and takes effect in the order of
 * the log. */
enum {
    VSHARD_WAL_ENTRY = 1,  /* entry `index` of `term`, with a payload. Entries that stood at
                              `index` or above are gone; one that does not follow the last
                              starts the group's entries anew */
    VSHARD_WAL_VOTE = 2,   /* the group is in `term` and voted for `index`; goes ahead of entries */
    VSHARD_WAL_COMMIT = 3, /* entries up to `index` are known to be committed: a hint */
    VSHARD_WAL_CUT = 4,    /* entries at `index` and above are gone */
    VSHARD_WAL_MARK = 5,   /* a snapshot covers entries up to `index`, the last of them of
                              `term`: they are no longer needed. The payload describes it */
    VSHARD_WAL_NOTE = 6,   /* the payload replaces the group's note */
    VSHARD_WAL_FORGET = 7, /* the group is gone, with all it had */
    VSHARD_WAL_RESET = 8   /* only in a scan: what follows in this batch is all of the group */
};

enum {                                    /* limits */
       VSHARD_WAL_PAYLOAD_MAX = 16777216, /* bytes of an entry; also segment_bytes / 8 */
       VSHARD_WAL_BLOB_MAX = 65536        /* bytes of a mark's payload or a note */
};

/* One record. To append, the payload may come in two pieces, `head` and then
 * `payload`; both are borrowed for the call. What a visitor is shown has one. */
struct vshard_wal_record {
    uint64_t group;
    uint64_t index; /* VOTE: whom */
    uint64_t term;
    uint32_t kind;  /* VSHARD_WAL_ENTRY .. VSHARD_WAL_FORGET */
    uint32_t flags; /* 0 */
    uint32_t head_bytes;
    uint32_t payload_bytes;
    const void *head;    /* [head_bytes]; NULL only if that is 0 */
    const void *payload; /* [payload_bytes]; NULL only if that is 0 */
};

/* Where a visitor's record stands. */
struct vshard_wal_place {
    uint64_t barrier; /* that made it durable */
    uint64_t segment; /* file */
    uint64_t offset;  /* of its batch, bytes from the start of the file */
    uint32_t live;    /* 0: a later record made it meaningless */
    uint32_t reserved;
};

/* Called once a record; what it is handed dies when it returns. Non-zero ends the
 * visit, which then returns 0. */
struct vshard_wal_visitor {
    int (*visit)(void *ctx, const struct vshard_wal_record *record,
                 const struct vshard_wal_place *place);
    void *ctx;
};

/* ==== 2. Opening ======================================================= */

/* What the end of a log looks like after a crash; lib/wal/recover.c says how it
 * is told. */
enum {
    VSHARD_WAL_CLEAN = 0,     /* it ends after a whole batch */
    VSHARD_WAL_TORN = 1,      /* it ends in a batch that was never synced: nothing is lost */
    VSHARD_WAL_UNCERTAIN = 2, /* its last batch is damaged, and nothing says if it was synced */
    VSHARD_WAL_CORRUPT = 3    /* records that were synced are damaged or gone */
};

enum { /* struct vshard_wal_options.tail: what to do about an uncertain tail */
       VSHARD_WAL_TAIL_REFUSE = 0, /* open fails with ECORRUPT and changes nothing */
       VSHARD_WAL_TAIL_FLAG = 1,   /* cut it, and stay `unsettled` until vshard_wal_settle():
                                      for a replica, which asks its peers before it votes */
       VSHARD_WAL_TAIL_CUT = 2     /* cut it: for who would rather lose a record than stop */
};

enum {                                 /* struct vshard_wal_options.flags */
       VSHARD_WAL_READ_ONLY = 1 << 0,  /* change nothing; append is refused */
       VSHARD_WAL_SALVAGE = 1 << 1,    /* cut a corrupt log where the damage begins, keep what is
                                          cut beside it, and stay unsettled */
       VSHARD_WAL_STRICT = 1 << 2,     /* call a torn tail uncertain: for disks that may lose what
                                          they said was synced */
       VSHARD_WAL_UNPACKED = 1 << 3,   /* write batches uncompressed */
       VSHARD_WAL_SPARSE = 1 << 4,     /* do not write zeros ahead: half the writes, but a full
                                          disk is noticed late and a sync costs more */
       VSHARD_WAL_SEALED_ONLY = 1 << 5 /* refuse a superblock that is not signed and a segment
                                         that is not sealed, with ECORRUPT: for who has always
                                         had keys, so that nobody can take a seal away */
};

enum {                           /* struct vshard_wal_options.cipher */
       VSHARD_WAL_XCHACHA20 = 0, /* XChaCha20-Poly1305 */
       VSHARD_WAL_AES256_GCM = 1 /* if the CPU has instructions for it, else the other */
};

/* Optional functions of the host. Copied when given. */
struct vshard_wal_hooks {
    uint32_t size;  /* bytes in this struct; required */
    uint32_t flags; /* none yet */
    void *ctx;      /* handed to each function below */
    /* Writes the 32 bytes of the key of that name. Returns 0, or non-zero if there
     * is none. Segments that name a key are sealed and opened with it, and the
     * superblock that names one is signed with it. */
    int (*key)(void *ctx, uint32_t key_id, uint8_t *key);
    /* A storage request is complete, so poll() has something to do. Called on the
     * thread that storage completes requests on, of the last ones perhaps when close() has
     * returned already: `ctx` lives as long as that thread. */
    void (*wake)(void *ctx);
    /* How far open or replay has come, in bytes. Non-zero stops it: ECANCELED. */
    int (*progress)(void *ctx, uint64_t done, uint64_t total);
};

/* Set `size`, zero the rest, fill in what you care about: zero is the default. */
struct vshard_wal_options {
    uint32_t size;          /* bytes in this struct; required */
    uint32_t flags;         /* VSHARD_WAL_READ_ONLY ... */
    uint32_t tail;          /* VSHARD_WAL_TAIL_* */
    uint32_t key_id;        /* seals new segments, signs the superblock; 0: none */
    uint64_t log_id;        /* whose log it is; files of another are refused */
    uint64_t segment_bytes; /* of a file, 64 KiB..1 GiB; default 32 MiB */
    uint64_t barrier_bytes; /* made durable by one sync at most, unless one record is larger;
                               4 KiB..segment_bytes / 8; default 1 MiB, or that */
    uint64_t pending_bytes; /* appended and not durable at most, beyond which append says EBUSY;
                               default 64 MiB */
    uint64_t rewrite_bytes; /* the most a group may still need for it to be copied forward;
                               default 256 KiB, at most segment_bytes / 8 */
    uint64_t rewrite_above; /* segments, above which silent groups are copied out of the oldest;
                               default 4 */
    uint32_t cipher;        /* VSHARD_WAL_XCHACHA20 or VSHARD_WAL_AES256_GCM */
    uint32_t reserved;      /* 0 */
    const char *path;       /* the directory, which exists; required */
    const struct vshard_storage *storage;     /* copied; default POSIX files */
    const struct vshard_allocator *allocator; /* copied; default the C library's heap */
    const struct vshard_logger *log;          /* copied; default silence */
    const struct vshard_entropy *entropy;     /* copied; default the system's; salts only */
    const struct vshard_wal_hooks *hooks;     /* copied; may be NULL */
};

/* What opening found. Set `size`; the library fills in as much as fits. */
struct vshard_wal_report {
    uint32_t size;         /* bytes in this struct; required */
    uint32_t verdict;      /* [out] VSHARD_WAL_CLEAN .. VSHARD_WAL_CORRUPT */
    uint32_t created;      /* [out] 1: there was no log; it is new */
    uint32_t unsettled;    /* [out] 1: records may be missing, now or since an earlier open */
    uint64_t barrier;      /* [out] the last whole batch */
    uint64_t witnessed;    /* [out] the highest barrier something says was durable */
    uint64_t segment;      /* [out] the file in which the log ends ... */
    uint64_t offset;       /* [out] ... and where, in bytes */
    uint64_t segments;     /* [out] files */
    uint64_t records;      /* [out] in whole batches, dead ones among them */
    uint64_t bytes;        /* [out] of whole batches, as stored */
    uint64_t tail_present; /* [out] 512-byte sectors of the batch after the last whole one that
                              are as they were written, */
    uint64_t tail_damaged; /* [out] and sectors behind the end that are neither that nor empty */
    uint64_t removed;      /* [out] bytes cut from the tail */
    uint64_t incarnation;  /* [out] drawn when this log was made, never 0: another log, in the
                              place of a lost one, has another */
    uint64_t boot;         /* [out] how often the log was opened to be written, this time counted:
                              larger at each open, whatever a crash took */
};

struct vshard_wal;

/* Opens the log in a directory, or makes one, reads it whole and judges its tail.
 * What was found whole is durable when this returns: the last batch, which a sync
 * may have failed to make so, is written again. A log has one writer: while one has it
 * open, another is refused, in this process and in others, and changes nothing, where
 * storage has VSHARD_IO_OPEN_ALONE. With READ_ONLY anybody may look; what is being written
 * then may look torn, and what is being removed is ENOTFOUND: look again.
 *
 *   report   [out] filled in also on ECORRUPT; may be NULL
 *   wal      [out] NULL on failure
 *
 * Returns   0, EINVAL (also: another key than what it was sealed with, under the same id),
 *           ENOMEM, EIO, ENOSPC, ECORRUPT, EVERSION, ENOTFOUND (a key, or the
 *           directory), ENOTSUP (sealed or packed, and this build or this CPU
 *           cannot), ESTALE (files of another log_id), EBUSY (somebody else
 *           writes it; "wal.busy" is logged), ECANCELED
 * Blocks    for as long as reading the files takes
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_wal_open(const struct vshard_wal_options *options,
                               struct vshard_wal_report *report, struct vshard_wal **wal);

/* Waits for storage requests that are under way, notes how far the log is durable,
 * and frees everything. What was appended and is not durable may be lost. NULL is
 * allowed.
 *
 * Blocks    for those requests
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_wal_close(struct vshard_wal *wal);

/* Says that the unsettled log has been settled: the host has learned from a quorum
 * what was committed, or has decided to go on without. Durable on return.
 *
 * Returns   0; ENOSPC: storage is full, and the log is as it was: try again later; EIO: a write or
 *           sync failed and the log is poisoned; ENOTSUP (read-only)
 * Blocks    for one sync
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_settle(struct vshard_wal *wal);

/* ==== 3. Writing ======================================================= */

/* Takes records, all or none, and names the barrier that will make them durable.
 * Votes go into the next batch that is written, entries behind the entries
 * before them, so that an election never waits behind a bulk load. The order
 * among votes of a group and the order among its other records are kept. Records
 * that together take barrier_bytes or less stand in one batch, but for votes: after
 * a crash all of them are there, or none.
 *
 *   records   [count], borrowed for the call, payloads too
 *   barrier   [out] durable when poll() reports this or more; may be NULL
 *
 * Returns   0, EINVAL, ENOMEM, E2BIG (a payload), EBUSY (pending_bytes: poll, then
 *           try again), ENOSPC (storage is full: nothing was taken), EIO (the log
 *           is poisoned), ENOTSUP (read-only)
 * Full      When the segment after the current one cannot be made, entries and notes are
 *           refused, and the end of the current one is kept for the other kinds: votes,
 *           and cuts, marks and forgets, which free space: what else keeps the oldest segment
 *           is copied out of it, where there is room. That what was taken before
 *           fits in front of them is certain with pending_bytes <= segment_bytes / 4
 *           and without SPARSE. When that room is used up everything is refused
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_append(struct vshard_wal *wal, const struct vshard_wal_record *records,
                                 size_t count, uint64_t *barrier);

/* Takes note of completed storage requests and submits what comes next.
 *
 *   durable   [out] everything up to this barrier is durable; may be NULL
 *
 * Returns   0; ENOSPC: storage is full, or there is no room for a further segment;
 *           nothing is lost, later polls try again, one in 64 at
 *           least;
 *           ENOMEM: likewise; EIO: a write or sync failed and the log is poisoned.
 *           Nobody knows what of the barriers above `durable` is on disk; close it
 *           and open it again
 * Blocks    only where a silent group is copied forward: to read what it holds
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_poll(struct vshard_wal *wal, uint64_t *durable);

/* Polls until a barrier is durable.
 *
 * Returns   0, EINVAL (no such barrier), ENOSPC, ENOMEM, EIO as poll; EBUSY: nothing is under way
 *           and nothing can be begun before a later poll: try again
 * Blocks    for that
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_sync(struct vshard_wal *wal, uint64_t barrier);

/* Notes lazily, without a sync, how far the log is durable, so that damage to the
 * last batch is told from a torn one. Each batch does this for the one before it:
 * call it when the log has fallen idle.
 *
 * Returns   0, EIO, ENOTSUP (read-only)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_witness(struct vshard_wal *wal);

/* Begins a new segment with the next batch, sealed with that key; 0 for none. If that
 * is another key than before, the superblock changes over at once, and with each batch
 * that follows, what silent groups hold under other keys is copied forward; others
 * leave it behind as they are marked. An old key may be destroyed when `other_keys` of
 * vshard_wal_stats_read() is 0.
 *
 * Returns   0, EINVAL (no hook, or 0 with VSHARD_WAL_SEALED_ONLY), EIO, ENOTFOUND (the
 *           hook has no such key; all is as before), ENOTSUP (read-only, or no libsodium)
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_rotate(struct vshard_wal *wal, uint32_t key_id);

/* ==== 4. Reading ======================================================= */

/* What the log holds of a group, as far as it is durable. */
struct vshard_wal_group {
    uint32_t size;       /* bytes in this struct; required */
    uint32_t voted;      /* [out] 1: there is a vote, and vote_term and vote are it */
    uint64_t vote_term;  /* [out] */
    uint64_t vote;       /* [out] */
    uint64_t commit;     /* [out] the last hint, 0 if none */
    uint64_t mark_index; /* [out] 0: no mark */
    uint64_t mark_term;  /* [out] */
    uint64_t first;      /* [out] the first entry held; last + 1 when there is none */
    uint64_t last;       /* [out] the last entry held, or the mark */
    uint64_t last_term;  /* [out] of that; 0 when there is neither */
    uint64_t bytes;      /* [out] of the entries held, about */
    uint64_t segment;    /* [out] the oldest segment it still needs */
    uint32_t mark_bytes; /* [out] */
    uint32_t note_bytes; /* [out] */
    const void *mark;    /* [out] [mark_bytes], valid until the next poll or sync */
    const void *note;    /* [out] [note_bytes], likewise */
};

/* Lists groups of which the log holds something, by rising id.
 *
 *   first    the smallest id wanted: 0, then one above the last that was listed
 *   ids      [out] [cap]
 *   count    [out] how many were written; fewer than cap means that was all
 *
 * Returns   0, EINVAL
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_groups(struct vshard_wal *wal, uint64_t first, uint64_t *ids, size_t cap,
                                 size_t *count);

/* Tells what the log holds of a group.
 *
 * Returns   0, EINVAL, ENOTFOUND
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_find(struct vshard_wal *wal, uint64_t group,
                               struct vshard_wal_group *about);

/* Visits a group's durable entries from `first` on, in rising order.
 *
 * Returns   0, EINVAL, ENOTFOUND (no such group, or `first` is below its first
 *           entry), ENOMEM, EIO, ECORRUPT
 * Blocks    for reading
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_read(struct vshard_wal *wal, uint64_t group, uint64_t first,
                               const struct vshard_wal_visitor *visitor);

/* Visits the live entries of all groups in the order of the log, in which those of
 * one group rise: how a process fills its memory after opening.
 *
 * Returns   0, EINVAL, ENOMEM, EIO, ECORRUPT, ECANCELED
 * Blocks    for reading
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_replay(struct vshard_wal *wal, const struct vshard_wal_visitor *visitor);

/* Visits every record of every kind, dead ones too: for tools.
 *
 * Returns   as vshard_wal_replay
 * Blocks    for reading
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_scan(struct vshard_wal *wal, const struct vshard_wal_visitor *visitor);

/* ==== 5. Figures ======================================================= */

/* Set `size`; the library fills in as much as fits. */
struct vshard_wal_stats {
    uint32_t size;          /* bytes in this struct; required */
    int32_t status;         /* [out] 0, ENOSPC while storage is full, EIO when poisoned */
    uint32_t unsettled;     /* [out] as in the report */
    uint32_t reserved;      /* [out] 0 */
    uint64_t appended;      /* [out] the highest barrier named */
    uint64_t durable;       /* [out] the highest that is durable */
    uint64_t pending_bytes; /* [out] appended and not durable */
    uint64_t segments;      /* [out] files */
    uint64_t oldest;        /* [out] the first of them */
    uint64_t pinned;        /* [out] a group too large to copy that keeps it; make a snapshot */
    uint64_t pinned_bytes;  /* [out] what that group needs; 0: there is none */
    uint64_t groups;        /* [out] */
    uint64_t syncs;         /* [out] batches made durable since open */
    uint64_t records;       /* [out] records in them */
    uint64_t written_bytes; /* [out] bytes of them, as stored */
    uint64_t rewritten;     /* [out] records copied forward */
    uint64_t refused_space; /* [out] times storage was full */
    uint64_t removed;       /* [out] segments removed */
    uint32_t cipher;        /* [out] of new segments: 0 none, 1 XChaCha20-Poly1305, 2 AES-256-GCM */
    uint32_t other_keys;    /* [out] segments, and the superblock, that need another key */
};

/* Tells how the log is doing.
 *
 * Returns   0, EINVAL
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API int vshard_wal_stats_read(const struct vshard_wal *wal, struct vshard_wal_stats *stats);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_WAL_H */
