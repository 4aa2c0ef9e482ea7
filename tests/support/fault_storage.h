/* fault_storage.h - a file system in memory that fails, forgets and tears.
 *
 * One model of storage serves every test of this library: index files, the
 * write-ahead log, whole clusters on virtual time. Everything follows from the
 * seed and the calls, so a failure replays.
 *
 * What is durable. A write is volatile until SYNC of its file, a name until
 * SYNC_DIR of its directory, and neither vouches for the other. fault_storage_after()
 * is the power cut: it gives the storage that the machine finds when it comes
 * back, and leaves this one as it was, so that one moment can be crashed in every
 * way there is. Each sector of 512 bytes that was written since the last sync is
 * found as it stood before, or after any one of the writes that touched it,
 * whatever its neighbours are found as: so a write is kept, lost or torn, and
 * writes seem reordered. A longer file may have kept its old length, or any sector
 * boundary on the way, or the new length and zeros (or rubbish). The unsynced
 * changes of a directory survive up to some point (or, as an option, each for
 * itself). Requests that were submitted and not complete may have done all of
 * their work, or none, or a part.
 *
 * What can fail is said by rules: see struct fault_rule.
 *
 * Every path needs a directory that fault_storage_mkdir() made; "." and "/" are
 * there. Renaming across directories is refused, since nobody promises what a
 * crash makes of it. Safe on any thread, done() called without locks held. */
#ifndef SUPPORT_FAULT_STORAGE_H
#define SUPPORT_FAULT_STORAGE_H

#include <stddef.h>
#include <stdint.h>

#include <vshard/base.h>

struct fault_storage;

struct fault_storage *fault_storage_create(uint64_t seed);
void fault_storage_destroy(struct fault_storage *fs);

/* Borrowed; lives as long as fs. */
const struct vshard_storage *fault_storage_hook(struct fault_storage *fs);

/* NULL while nobody broke the contract of struct vshard_io, and no file is open,
 * nothing mapped and nothing queued; otherwise what is wrong. */
const char *fault_storage_verdict(struct fault_storage *fs);

/* ---- contents, past all faults ---- */

void fault_storage_mkdir(struct fault_storage *fs, const char *path);
/* Makes a file that is durable at once. */
void fault_storage_put(struct fault_storage *fs, const char *path, const void *bytes, size_t count);
/* The bytes that a read would return, valid until the next request; NULL when
 * there is no such file. *count is its length. */
const void *fault_storage_bytes(struct fault_storage *fs, const char *path, size_t *count);
/* Flips one stored bit, in memory and on the platter: rot. */
void fault_storage_flip(struct fault_storage *fs, const char *path, uint64_t bit);
/* Submitted requests of one VSHARD_IO_*, or of all with 0. */
uint64_t fault_storage_count(struct fault_storage *fs, uint32_t op);

/* ---- faults ---- */

/* What a rule does to the requests it strikes. */
enum {
    FAULT_FAIL = 0,      /* refuses it with `status`; nothing happens. A SYNC that fails
                            writes some of the dirty sectors, forgets the rest, and the
                            next SYNC reports success without them */
    FAULT_SHORT = 1,     /* WRITE: some first sectors arrive, then `status` */
    FAULT_LIE = 2,       /* WRITE, SYNC, SYNC_DIR: reports success, does nothing */
    FAULT_MISDIRECT = 3, /* READ, WRITE: goes to another sector-aligned place of the file */
    FAULT_STALE = 4,     /* READ: returns what is on the platter, not what was written */
    FAULT_FLIP = 5       /* READ: one bit of the answer is wrong, this once */
};

/* Strikes the k-th request from now on that is one of `ops`; and, with
 * FAULT_FOREVER (fault_alloc.h), all after it. */
struct fault_rule {
    uint64_t k;     /* 1 is the next */
    uint32_t ops;   /* bits 1 << VSHARD_IO_*; 0: any */
    uint32_t how;   /* FAULT_ONCE or FAULT_FOREVER */
    uint32_t does;  /* FAULT_FAIL ... */
    int32_t status; /* of FAIL and SHORT; 0: EIO */
};

/* Up to eight rules at a time; each request meets the first that strikes. */
void fault_storage_rule(struct fault_storage *fs, const struct fault_rule *rule);
/* The common one: the k-th request of any kind fails with EIO. */
void fault_storage_fail(struct fault_storage *fs, uint64_t k, uint32_t how);
void fault_storage_heal(struct fault_storage *fs);
/* How many requests were struck. */
uint64_t fault_storage_struck(struct fault_storage *fs);

/* Room for so many bytes in all files together; UINT64_MAX: without end. What does
 * not fit is refused with ENOSPC, after as much as fits. */
void fault_storage_capacity(struct fault_storage *fs, uint64_t bytes);
uint64_t fault_storage_used(const struct fault_storage *fs); /* by all files together */

/* How MAP answers: with a read-only copy (0, from the start) or with ENOTSUP (1). */
void fault_storage_refuse_maps(struct fault_storage *fs, uint32_t refuse);
/* Whether RESIZE can reserve: it can (0, from the start) or does not know the flag (1). Space is
 * counted by lengths either way. */
void fault_storage_refuse_reserves(struct fault_storage *fs, uint32_t refuse);

/* ---- deferred completion ----
 * With `defer` 1, a request does nothing until the test completes it, or somebody
 * waits for it. */
void fault_storage_defer(struct fault_storage *fs, uint32_t defer);
uint32_t fault_storage_queued(struct fault_storage *fs);
/* The i-th of the queue, the oldest first. */
struct vshard_io *fault_storage_request(struct fault_storage *fs, uint32_t i);
/* Performs the i-th and calls its done(). */
void fault_storage_complete(struct fault_storage *fs, uint32_t i);
/* Completes all there are, and those that their done() submits, in an order drawn
 * from the seed. Returns how many. */
uint32_t fault_storage_drain(struct fault_storage *fs);

/* ---- the power cut ---- */

/* How a disk is left. */
enum {
    FAULT_CRASH_EACH_NAME = 1, /* directory changes survive each for itself */
    FAULT_CRASH_GARBAGE = 2,   /* rubbish, not zeros, where only the length survived */
    FAULT_CRASH_LOSE = 4,      /* nothing unsynced survives */
    FAULT_CRASH_KEEP = 8       /* everything does */
};

struct fault_crash {
    uint64_t seed;          /* of the choices, when there are no others */
    const uint32_t *chosen; /* [units] or NULL: the state of each unit, see below */
    uint32_t flags;         /* FAULT_CRASH_* */
    uint32_t unused;
};

/* The storage that the machine finds after a power cut now. It has no open file,
 * no rule and no queue; requests under way are never completed. This one goes on. */
struct fault_storage *fault_storage_after(struct fault_storage *fs,
                                          const struct fault_crash *crash);

/* The units of chance in such a power cut: directories, file lengths and sectors.
 * Sets states[i] to the number of states unit i may be left in, 0 the oldest.
 * Returns the number of units; fills up to cap of them. */
size_t fault_storage_units(struct fault_storage *fs, uint32_t flags, uint32_t *states, size_t cap);

/* Counts through all choices: `chosen` becomes the next one. Returns 0 when it was
 * the last, and then it is all zeros again. */
int fault_choice_next(uint32_t *chosen, const uint32_t *states, size_t units);

#endif
