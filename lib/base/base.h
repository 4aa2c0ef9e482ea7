/* base.h - the door of lib/base: words every other room may use.
 *
 * Nothing here knows about vectors, logs, shards or the operating system. */
#ifndef VS_BASE_H
#define VS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <vshard/base.h>

#include "base/mutant.h"

/* An invariant of ours. It stays on in release builds: a replica that carries
 * on with a broken log is worse than a replica that stops. Never for anything
 * that a caller, a peer or a disk can cause. */
#define VS_ASSERT(cond) ((cond) ? (void)0 : vs_panic(#cond, __FILE__, __LINE__))

__attribute__((noreturn, cold)) void vs_panic(const char *what, const char *file, int line);

#define VS_COUNT(array) (sizeof(array) / sizeof(array)[0])

/* ---- memory ----
 * `a` may be NULL: the C library's heap. Every block is freed with the size it
 * was allocated with, and is aligned to VS_ALIGN. */
enum { VS_ALIGN = 64 };

void *vs_alloc(const struct vshard_allocator *a, size_t bytes);
void *vs_alloc_zeroed(const struct vshard_allocator *a, size_t bytes);
void vs_free(const struct vshard_allocator *a, void *p, size_t bytes);

/* Of memory that has had a caller's data in it: nobody finds it there afterwards. */
static inline void vs_free_wiped(const struct vshard_allocator *a, void *p, size_t bytes)
{
    if (p != NULL)
        memset(p, 0, bytes);
    vs_free(a, p, bytes);
}

/* Sets *bytes to count * each; false if that does not fit in a size_t. */
static inline bool vs_bytes(size_t *bytes, size_t count, size_t each)
{
    return !__builtin_mul_overflow(count, each, bytes);
}

/* ---- options ----
 * Reads an options struct from a caller built against any version of the
 * headers; see options.c for the rule. Returns 0, EINVAL or EVERSION. */
#define VS_SIZE_THROUGH(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))
int vs_options_read(void *ours, uint32_t our_size, const void *theirs, uint32_t min_size);

/* The other direction: fills a caller's struct, up to the size it says it has. */
int vs_report_write(void *theirs, const void *ours, uint32_t our_size, uint32_t min_size);

/* ---- log events ---- */
struct vs_field {
    const char *name;
    const char *text; /* or NULL */
    int64_t integer;  /* counts when the other two are NULL */
    const double *real;
};

/* Emits one event; `log` may be NULL. Fields end at the first without a name. */
void vs_log(const struct vshard_logger *log, uint32_t level, const char *name,
            const struct vs_field *fields, size_t field_count);

/* Refuses a call: emits `event` with the fields argument, value and limit, and
 * returns `status`, so that a check is one line. */
int vs_refuse(const struct vshard_logger *log, int status, const char *event, const char *argument,
              int64_t value, int64_t limit);
int vs_refuse_real(const struct vshard_logger *log, int status, const char *event,
                   const char *argument, double value, double limit);

/* ---- byte order ----
 * Little-endian loads and stores at any address: every format on disk and wire. */
static inline uint16_t vs_load16(const void *from)
{
    const unsigned char *p = from;
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t vs_load32(const void *from)
{
    const unsigned char *p = from;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t vs_load64(const void *from)
{
    const unsigned char *p = from;
    return (uint64_t)vs_load32(p) | (uint64_t)vs_load32(p + 4) << 32;
}

static inline void vs_store16(void *to, uint16_t v)
{
    unsigned char *p = to;
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

static inline void vs_store32(void *to, uint32_t v)
{
    unsigned char *p = to;
    vs_store16(p, (uint16_t)v);
    vs_store16(p + 2, (uint16_t)(v >> 16));
}

static inline void vs_store64(void *to, uint64_t v)
{
    unsigned char *p = to;
    vs_store32(p, (uint32_t)v);
    vs_store32(p + 4, (uint32_t)(v >> 32));
}

/* ---- hashes ---- */

/* XXH3-64 of n bytes. Chained: pass the previous checksum as the seed. */
uint64_t vs_checksum(const void *p, size_t n, uint64_t seed);

/* Spreads 64 bits; a bijection (the finaliser of MurmurHash3). */
static inline uint64_t vs_mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return x ^ (x >> 33);
}

#endif
