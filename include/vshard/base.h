/* base.h - what every area of libvshard shares: status codes, host hooks,
 * storage, version.
 *
 * The library starts no thread, opens no socket, reads no clock, draws no
 * randomness and writes to no standard stream. What it needs of the machine it
 * asks for through the hooks below, and each hook has a default.
 *
 * Memory, in four sentences. What you pass in is borrowed for the call. What you
 * keep, you allocated: results go into your arrays. What the library keeps, it
 * copied. What a callback is handed dies when the callback returns.
 *
 * Threads, one of four ways, which stands under every function. any: no object, or
 * internally safe. in turn: likewise, and such calls on one object wait for each other.
 * shared: runs beside other shared calls on the same object. exclusive: needs the
 * object to itself. Different objects never interfere. */
#ifndef VSHARD_BASE_H
#define VSHARD_BASE_H

#include <stddef.h>
#include <stdint.h>

#define VSHARD_VERSION_MAJOR 0
#define VSHARD_VERSION_MINOR 1
#define VSHARD_VERSION_PATCH 0

#if defined(__GNUC__)
#define VSHARD_API __attribute__((visibility("default")))
#else
#define VSHARD_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ==== 1. Status ======================================================== */

/* Every function that can fail returns 0 or one of these, and nothing else.
 * Numbers are never reused or renumbered; new ones are only appended, so
 * callers keep a default branch. */
enum {
    VSHARD_OK = 0,
    VSHARD_EINVAL = -1,      /* an argument breaks its documented contract */
    VSHARD_ENOMEM = -2,      /* the allocator returned NULL */
    VSHARD_EIO = -3,         /* storage or a host callback failed */
    VSHARD_ECORRUPT = -4,    /* stored or received bytes are damaged */
    VSHARD_ENOTSUP = -5,     /* this build, CPU or object cannot do that */
    VSHARD_E2BIG = -6,       /* a count, size or budget is above its limit */
    VSHARD_EVERSION = -7,    /* options, a file or a frame need a newer library */
    VSHARD_ENOSPC = -8,      /* storage is full; nothing was lost */
    VSHARD_ENOTFOUND = -9,   /* no such id, shard, file or collection */
    VSHARD_EEXIST = -10,     /* it is there already */
    VSHARD_EBUSY = -11,      /* not now; retry after the time the call reports */
    VSHARD_ESTALE = -12,     /* a map, token or replica is older than asked for */
    VSHARD_ENOTLEADER = -13, /* another replica leads */
    VSHARD_EUNKNOWN = -14,   /* the outcome is unknown: it may have happened */
    VSHARD_ETIMEDOUT = -15,  /* the deadline passed first */
    VSHARD_ECANCELED = -16   /* the caller cancelled it */
};

/* Returns the message for a status: static text, never NULL.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API const char *vshard_strerror(int status);

/* ==== 2. Host hooks ==================================================== */

/* These tables are copied when they are given; what their `ctx` points to must live
 * as long as the object. They are frozen: they will never get another field, so they
 * carry no size. */

/* Memory. One function covers malloc, realloc and free:
 *   old NULL       allocate new_bytes, aligned to `align`, a power of two
 *   new_bytes 0    release old; returns NULL
 *   otherwise      move old to new_bytes, keeping the shorter of the two
 * Returns NULL when there is none, and then `old` is untouched. Called on any
 * thread that calls the library. Default: the C library's heap. */
struct vshard_allocator {
    void *(*resize)(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align);
    void *ctx;
};

/* How to read a struct vshard_log_field. */
enum { VSHARD_FIELD_INTEGER = 0, VSHARD_FIELD_REAL = 1, VSHARD_FIELD_TEXT = 2 };

/* How loud an event is. */
enum {
    VSHARD_LOG_ERROR = 0, /* something was lost or refused that should not be */
    VSHARD_LOG_WARN = 1,  /* the caller's call was refused, or a limit is near */
    VSHARD_LOG_INFO = 2,  /* rare and normal: opened, saved, trained */
    VSHARD_LOG_DEBUG = 3
};

/* One typed field of a log event. Only the member that `kind` names is set. */
struct vshard_log_field {
    const char *name; /* as in "dim" */
    const char *text; /* VSHARD_FIELD_TEXT */
    int64_t integer;  /* VSHARD_FIELD_INTEGER */
    double real;      /* VSHARD_FIELD_REAL */
    uint32_t kind;
    uint32_t reserved; /* 0 */
};

/* Structured log events: a name such as "index.refused" and typed fields, so
 * that a host can write JSON or text as it likes. A call that is refused emits
 * one event whose fields name the argument, its value and the limit it broke.
 * Called on the calling thread, before the call returns. Default: silence. */
struct vshard_logger {
    void (*event)(void *ctx, uint32_t level, const char *name,
                  const struct vshard_log_field *fields, size_t field_count);
    void *ctx;
};

/* Host threads for work inside one call. run() calls task(arg, i) once for each
 * i in [0, count), in any order and on any threads, and returns when all have
 * returned. count is never above `width`, the number of threads worth using,
 * 1..256. Results never depend on width. Default: the calling thread. */
struct vshard_executor {
    void (*run)(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg);
    void *ctx;
    uint32_t width;
    uint32_t reserved; /* 0 */
};

/* A steady clock in nanoseconds, read only for deadlines inside a long call. */
struct vshard_clock {
    uint64_t (*now_ns)(void *ctx);
    void *ctx;
};

/* Fills `bytes` with unpredictable bytes, for salts and session ids; never for
 * anything replicas must agree on. Returns 0, or non-zero on failure.
 * Default: libsodium, or the operating system in a build without it. */
struct vshard_entropy {
    int (*fill)(void *ctx, void *bytes, size_t count);
    void *ctx;
};

/* Fills in the default entropy hook: libsodium's generator, or the operating
 * system's in a build without libsodium. It keeps no state of its own.
 *
 *   entropy   [out]
 *
 * Returns   0, EINVAL, EIO (libsodium found no source of randomness)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_entropy_default(struct vshard_entropy *entropy);

/* ==== 3. Storage ======================================================= */

/* What a struct vshard_io asks for. */
enum {
    VSHARD_IO_OPEN = 1,     /* path, flags            -> file, count = its bytes */
    VSHARD_IO_CLOSE = 2,    /* file */
    VSHARD_IO_READ = 3,     /* file, offset, buffer, count -> count read, short only at the end */
    VSHARD_IO_WRITE = 4,    /* file, offset, buffer, count -> all of it, or a status */
    VSHARD_IO_SYNC = 5,     /* file: contents and length are durable afterwards; after a failure
                               nobody knows what is, and syncing again does not help */
    VSHARD_IO_RESIZE = 6,   /* file, offset = new length in bytes; new bytes read as zero; with
                               RESIZE_RESERVE -> count = bytes from the start that have their
                               space, so that writing them finds room; ENOSPC where there is
                               none for that. 0: this storage cannot reserve */
    VSHARD_IO_RENAME = 7,   /* path -> path_to, replacing it in one step */
    VSHARD_IO_REMOVE = 8,   /* path */
    VSHARD_IO_SYNC_DIR = 9, /* path of a directory: its entries are durable afterwards */
    VSHARD_IO_LIST = 10,    /* path of a directory, buffer, count -> names in byte order, each
                               ended by a zero byte, and count used; E2BIG when they do not
                               fit, with the count that would do */
    VSHARD_IO_MAP = 11,     /* file, count = bytes from its start, at least 1 -> buffer, read-only;
                               E2BIG when the file is shorter; ENOTSUP is allowed */
    VSHARD_IO_UNMAP = 12    /* buffer, count */
};

/* Flags of VSHARD_IO_OPEN; without WRITE, and then without the others, for reading. */
enum {
    VSHARD_IO_OPEN_WRITE = 1,
    VSHARD_IO_OPEN_CREATE = 2,    /* make it if it is not there */
    VSHARD_IO_OPEN_EXCLUSIVE = 4, /* only with CREATE: EEXIST if it is there */
    VSHARD_IO_OPEN_TRUNCATE = 8,  /* cut it to nothing */
    VSHARD_IO_OPEN_ALONE = 16     /* nobody else may have it open with this flag, in this process
                                     or another: EBUSY, and nothing is done to the file. Closing
                                     it gives it back, and so does the end of the process.
                                     Storage that cannot tell ignores the flag */
};

/* Flags of VSHARD_IO_RESIZE. */
enum {
    VSHARD_IO_RESIZE_RESERVE = 1 /* with count = 0, for storage that does not know the flag */
};

/* One storage request. The submitter fills it in, and neither moves nor touches
 * it until it is complete; storage then fills in `status` and the results. */
struct vshard_io {
    uint32_t op;      /* VSHARD_IO_* */
    uint32_t flags;   /* of that op */
    int32_t status;   /* [out] 0, EINVAL, EIO, ENOSPC, ENOTFOUND, EEXIST, ENOTSUP, ENOMEM, E2BIG,
                         EBUSY */
    int32_t error;    /* [out] after a failure the system's own number for it, as errno, or 0:
                         for people; programs go by `status` */
    uint64_t file;    /* [out] of OPEN, [in] of the others: storage's name for a file */
    uint64_t offset;  /* bytes from the start of the file */
    uint64_t count;   /* bytes wanted, then bytes done */
    void *buffer;     /* borrowed until complete */
    const char *path; /* ends in a zero byte; borrowed until complete */
    const char *path_to;
    /* Called once, when the request is complete, on any thread; may be NULL. */
    void (*done)(struct vshard_io *io);
    void *owner; /* the submitter's own; storage does not look at it */
    void *link;  /* storage's own until complete; the submitter does not look at it */
};

/* Where bytes are kept. Requests take effect in any order unless one was
 * complete before the other was submitted. Frozen, as the hooks above. */
struct vshard_storage {
    /* Takes a request. It may be complete before submit() returns. */
    void (*submit)(void *ctx, struct vshard_io *io);
    /* Returns when the request is complete, having called its done(). */
    void (*wait)(void *ctx, struct vshard_io *io);
    void *ctx;
    void *reserved; /* NULL */
};

/* Fills in the default: files of this machine, by POSIX. Each request is
 * complete when submit() returns. SYNC is fdatasync(). ALONE is a lock of the open file
 * where the file system has those. It keeps no state: any number of objects may share it.
 *
 *   storage   [out]
 *
 * Returns   0, EINVAL
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_storage_posix(struct vshard_storage *storage);

/* ==== 4. Keys and hits ================================================= */

/* How maps, merges and nodes name a vector: a UUID, an integer in `lo`, or a
 * 128-bit hash of a string. */
struct vshard_key {
    uint64_t hi;
    uint64_t lo;
};

/* The key of a string or any bytes: its 128-bit XXH3 hash, the same on every
 * machine and in every version. Two of 2^50 strings collide with a probability
 * of 2^-29.
 *
 *   bytes     [count], borrowed; NULL only if count is 0
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API struct vshard_key vshard_key_hash(const void *bytes, size_t count);

/* One answer of an index. An array element: it will never get another field. */
struct vshard_hit {
    uint64_t id;       /* VSHARD_ID_NONE where there are fewer answers than asked for */
    float distance;    /* smaller is nearer; +infinity where there is no answer */
    uint32_t reserved; /* 0 */
};

#define VSHARD_ID_NONE UINT64_MAX /* the one id that cannot be used */

/* ==== 5. This library, on this machine ================================= */

/* The version of the library that runs, as VSHARD_VERSION_NUMBER was when it was
 * compiled: major * 1000000 + minor * 1000 + patch.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API uint32_t vshard_version(void);

#define VSHARD_VERSION_NUMBER \
    (VSHARD_VERSION_MAJOR * 1000000 + VSHARD_VERSION_MINOR * 1000 + VSHARD_VERSION_PATCH)

/* Instruction sets, as bits of struct vshard_machine.cpu. */
enum {
    VSHARD_CPU_AVX2 = 1 << 0,      /* with FMA and F16C */
    VSHARD_CPU_AVX512 = 1 << 1,    /* F, BW, VL, DQ */
    VSHARD_CPU_AVXVNNI = 1 << 2,   /* 256-bit VEX-encoded VNNI */
    VSHARD_CPU_VNNI = 1 << 3,      /* AVX-512 VNNI */
    VSHARD_CPU_VPOPCNTDQ = 1 << 4, /* AVX-512 VPOPCNTDQ */
    VSHARD_CPU_BF16 = 1 << 5,      /* AVX-512 BF16 */
    VSHARD_CPU_NEON = 1 << 6,
    VSHARD_CPU_DOTPROD = 1 << 7, /* NEON dot product */
    VSHARD_CPU_SSE2 = 1 << 8     /* every x86-64 */
};

/* What the library found on this machine. Set `size`; the library fills in as
 * much as fits. */
struct vshard_machine {
    uint32_t size;       /* bytes in this struct; required */
    uint32_t cpu;        /* [out] VSHARD_CPU_* */
    uint32_t numa_nodes; /* [out] memory nodes, at least 1 */
    uint32_t packages;   /* [out] VSHARD_WITH_*: what this build was linked with */
    const char *kernels; /* [out] static text: the instruction sets in use, as "avx2" */
    const char *version; /* [out] static text, as "0.1.0" */
};

enum { VSHARD_WITH_HWLOC = 1 << 0, VSHARD_WITH_SODIUM = 1 << 1, VSHARD_WITH_LZ4 = 1 << 2 };

/* Reports the instruction sets in use and what this build was linked with.
 *
 * Returns   0, EINVAL
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_machine_report(struct vshard_machine *machine);

/* The memory node that the calling thread runs on, as it is now: n for node n - 1 of the
 * operating system, as in numa_node of an index; 0 where that is unknown. It costs a
 * system call. Threads that are not bound to processors move.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API uint32_t vshard_cpu_node(void);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_BASE_H */
