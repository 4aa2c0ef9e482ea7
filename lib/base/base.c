/* base.c - status texts, allocation, log events, hashes, panic. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

const char *vshard_strerror(int status)
{
    switch (status) {
    case VSHARD_OK: return "success";
    case VSHARD_EINVAL: return "an argument breaks its contract";
    case VSHARD_ENOMEM: return "out of memory";
    case VSHARD_EIO: return "storage or a host callback failed";
    case VSHARD_ECORRUPT: return "stored or received bytes are damaged";
    case VSHARD_ENOTSUP: return "not supported by this build, CPU or object";
    case VSHARD_E2BIG: return "a count, size or budget is above its limit";
    case VSHARD_EVERSION: return "this needs a newer version of the library";
    case VSHARD_ENOSPC: return "storage is full";
    case VSHARD_ENOTFOUND: return "not found";
    case VSHARD_EEXIST: return "it exists already";
    case VSHARD_EBUSY: return "busy; try again later";
    case VSHARD_ESTALE: return "older than what was asked for";
    case VSHARD_ENOTLEADER: return "another replica leads";
    case VSHARD_EUNKNOWN: return "the outcome is unknown";
    case VSHARD_ETIMEDOUT: return "the deadline passed";
    case VSHARD_ECANCELED: return "cancelled by the caller";
    }
    return "unknown status";
}

uint32_t vshard_version(void)
{
    return VSHARD_VERSION_NUMBER;
}

void vs_panic(const char *what, const char *file, int line)
{
    /* Kept on the stack for whoever opens the core file: a library does not
     * write to stderr. */
    char last_words[256];

    snprintf(last_words, sizeof last_words, "%s:%d: broken invariant: %s", file, line, what);
    __asm__ volatile("" : : "r"(last_words) : "memory");
    abort();
}

static size_t rounded(size_t bytes)
{
    return (bytes + VS_ALIGN - 1) / VS_ALIGN * VS_ALIGN;
}

void *vs_alloc(const struct vshard_allocator *a, size_t bytes)
{
    if (bytes == 0)
        bytes = 1;
    if (bytes > SIZE_MAX - VS_ALIGN)
        return NULL;
    return a ? a->resize(a->ctx, NULL, 0, bytes, VS_ALIGN)
             : aligned_alloc(VS_ALIGN, rounded(bytes));
}

void *vs_alloc_zeroed(const struct vshard_allocator *a, size_t bytes)
{
    void *p = vs_alloc(a, bytes);
    if (p != NULL)
        memset(p, 0, bytes);
    return p;
}

void vs_free(const struct vshard_allocator *a, void *p, size_t bytes)
{
    if (p == NULL)
        return;
    if (a)
        a->resize(a->ctx, p, bytes ? bytes : 1, 0, VS_ALIGN);
    else
        free(p);
}

enum { FIELD_MAX = 8 };

void vs_log(const struct vshard_logger *log, uint32_t level, const char *name,
            const struct vs_field *fields, size_t field_count)
{
    struct vshard_log_field out[FIELD_MAX] = { 0 };
    size_t n = 0;

    if (log == NULL || log->event == NULL)
        return;
    for (; n < field_count && n < FIELD_MAX && fields[n].name != NULL; n++) {
        out[n].name = fields[n].name;
        out[n].text = fields[n].text;
        out[n].integer = fields[n].integer;
        out[n].kind = fields[n].text ? VSHARD_FIELD_TEXT : VSHARD_FIELD_INTEGER;
        if (fields[n].real != NULL) {
            out[n].real = *fields[n].real;
            out[n].kind = VSHARD_FIELD_REAL;
        }
    }
    log->event(log->ctx, level, name, out, n);
}

int vs_refuse(const struct vshard_logger *log, int status, const char *event, const char *argument,
              int64_t value, int64_t limit)
{
    const struct vs_field fields[] = { { "argument", argument, 0, NULL },
                                       { "value", NULL, value, NULL },
                                       { "limit", NULL, limit, NULL },
                                       { "status", vshard_strerror(status), 0, NULL } };

    vs_log(log, VSHARD_LOG_WARN, event, fields, VS_COUNT(fields));
    return status;
}

int vs_refuse_real(const struct vshard_logger *log, int status, const char *event,
                   const char *argument, double value, double limit)
{
    const struct vs_field fields[] = { { .name = "argument", .text = argument },
                                       { .name = "value", .real = &value },
                                       { .name = "limit", .real = &limit },
                                       { .name = "status", .text = vshard_strerror(status) } };

    vs_log(log, VSHARD_LOG_WARN, event, fields, VS_COUNT(fields));
    return status;
}

uint64_t vs_checksum(const void *p, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

struct vshard_key vshard_key_hash(const void *bytes, size_t count)
{
    XXH128_hash_t h = XXH3_128bits(bytes, count);

    return (struct vshard_key){ h.high64, h.low64 };
}
