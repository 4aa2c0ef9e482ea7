/* fault_alloc.c - an allocator that counts, checks, and fails when told to. */
#include "support/fault_alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, BUCKETS = 4096, FRESH = 0xa5, FREED = 0xdd, FENCE = 0xfd };

/* Kept apart from the memory it describes, so that a wild write cannot reach it. */
struct fault_block {
    struct fault_block *next;
    unsigned char *start; /* of what malloc gave */
    unsigned char *user;
    size_t bytes;
    size_t align;
};

static void breach(struct fault_alloc *memory, const char *what, const void *p, size_t a, size_t b)
{
    if (memory->breach[0] == '\0')
        snprintf(memory->breach, sizeof memory->breach, "%s: block %p, %zu against %zu", what, p, a,
                 b);
}

static struct fault_block **bucket(struct fault_alloc *memory, const void *user)
{
    uintptr_t h = (uintptr_t)user / 16;

    return &memory->table[(h ^ h / BUCKETS) % BUCKETS];
}

static void *make(struct fault_alloc *memory, size_t bytes, size_t align)
{
    struct fault_block *block = malloc(sizeof *block);
    struct fault_block **at;

    if (block == NULL || bytes > SIZE_MAX / 2 ||
        (block->start = malloc(bytes + align + 2 * GUARD)) == NULL) {
        free(block);
        return NULL;
    }
    block->bytes = bytes;
    block->align = align;
    block->user = block->start + GUARD;
    block->user += (align - (uintptr_t)block->user % align) % align;
    memset(block->user - GUARD, FENCE, GUARD);
    memset(block->user, FRESH, bytes);
    memset(block->user + bytes, FENCE, GUARD);
    at = bucket(memory, block->user);
    block->next = *at;
    *at = block;
    memory->blocks++;
    memory->bytes += bytes;
    if (memory->bytes > memory->bytes_peak)
        memory->bytes_peak = memory->bytes;
    return block->user;
}

static struct fault_block *take(struct fault_alloc *memory, const void *user)
{
    for (struct fault_block **at = bucket(memory, user); *at != NULL; at = &(*at)->next) {
        if ((*at)->user == user) {
            struct fault_block *block = *at;
            *at = block->next;
            return block;
        }
    }
    return NULL;
}

static int holds(const struct fault_block *block, const void *bytes, size_t count)
{
    const unsigned char *at = block->user, *end = at + block->bytes;

    while ((size_t)(end - at) >= count && (at = memchr(at, *(const unsigned char *)bytes,
                                                       (size_t)(end - at) - count + 1)) != NULL) {
        if (memcmp(at++, bytes, count) == 0)
            return 1;
    }
    return 0;
}

static void drop(struct fault_alloc *memory, struct fault_block *block)
{
    if (memory->watched != NULL)
        memory->left_behind += (uint64_t)holds(block, memory->watched, memory->watched_bytes);
    for (size_t i = 0; i < GUARD; i++) {
        if (block->user[-1 - (ptrdiff_t)i] != FENCE)
            breach(memory, "written before the start", block->user, i + 1, block->bytes);
        if (block->user[block->bytes + i] != FENCE)
            breach(memory, "written past the end", block->user, block->bytes + i, block->bytes);
    }
    memory->blocks--;
    memory->bytes -= block->bytes;
    memset(block->user, FREED, block->bytes);
    free(block->start);
    free(block);
}

static int must_fail(struct fault_alloc *memory, size_t new_bytes, size_t old_bytes)
{
    uint64_t call = ++memory->calls;
    int fail = memory->fail_at != 0 &&
               (call == memory->fail_at || (memory->fail_forever && call > memory->fail_at));

    if (memory->bytes_limit != 0 && memory->bytes - old_bytes + new_bytes > memory->bytes_limit)
        fail = 1;
    memory->failures += (uint64_t)fail;
    return fail;
}

static void *resize_locked(struct fault_alloc *memory, void *old, size_t old_bytes,
                           size_t new_bytes, size_t align)
{
    struct fault_block *block = NULL;
    void *fresh = NULL;

    if (align == 0 || (align & (align - 1)) != 0) {
        breach(memory, "alignment is no power of two", old, align, 0);
        return NULL;
    }
    if (old == NULL && new_bytes == 0)
        breach(memory, "asked for nothing", old, 0, 0);
    if (old != NULL && (block = take(memory, old)) == NULL) {
        breach(memory, "released twice, or never allocated", old, old_bytes, 0);
        return NULL;
    }
    if (block != NULL && block->bytes != old_bytes)
        breach(memory, "given back with another size", old, old_bytes, block->bytes);
    if (block != NULL && block->align != align)
        breach(memory, "given back with another alignment", old, align, block->align);
    if (new_bytes > 0 && !must_fail(memory, new_bytes, block ? block->bytes : 0))
        fresh = make(memory, new_bytes, align);
    if (fresh != NULL && block != NULL)
        memcpy(fresh, block->user, block->bytes < new_bytes ? block->bytes : new_bytes);
    if (block != NULL && (fresh != NULL || new_bytes == 0)) {
        drop(memory, block);
    } else if (block != NULL) { /* the old block stays as it was */
        struct fault_block **at = bucket(memory, block->user);
        block->next = *at;
        *at = block;
    }
    return fresh;
}

static void *resize(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    struct fault_alloc *memory = ctx;
    void *p;

    pthread_mutex_lock(&memory->lock);
    p = resize_locked(memory, old, old_bytes, new_bytes, align);
    pthread_mutex_unlock(&memory->lock);
    return p;
}

void fault_alloc_init(struct fault_alloc *memory)
{
    memset(memory, 0, sizeof *memory);
    memory->hook = (struct vshard_allocator){ resize, memory };
    memory->table = calloc(BUCKETS, sizeof *memory->table);
    if (memory->table == NULL)
        abort();
    pthread_mutex_init(&memory->lock, NULL);
}

void fault_alloc_fail(struct fault_alloc *memory, uint64_t k, uint32_t how)
{
    pthread_mutex_lock(&memory->lock);
    memory->fail_at = k == 0 ? 0 : memory->calls + k;
    memory->fail_forever = how == FAULT_FOREVER;
    pthread_mutex_unlock(&memory->lock);
}

void fault_alloc_watch(struct fault_alloc *memory, const void *bytes, size_t count)
{
    pthread_mutex_lock(&memory->lock);
    memory->watched = bytes;
    memory->watched_bytes = count;
    memory->left_behind = 0;
    pthread_mutex_unlock(&memory->lock);
}

uint64_t fault_alloc_holds(struct fault_alloc *memory, const void *bytes, size_t count)
{
    uint64_t found = 0;

    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct fault_block *b = memory->table[i]; b != NULL; b = b->next)
            found += (uint64_t)holds(b, bytes, count);
    }
    pthread_mutex_unlock(&memory->lock);
    return found;
}

const char *fault_alloc_verdict(struct fault_alloc *memory)
{
    pthread_mutex_lock(&memory->lock);
    if (memory->breach[0] == '\0' && memory->blocks != 0)
        snprintf(memory->breach, sizeof memory->breach, "%llu blocks, %llu bytes leaked",
                 (unsigned long long)memory->blocks, (unsigned long long)memory->bytes);
    pthread_mutex_unlock(&memory->lock);
    return memory->breach[0] == '\0' ? NULL : memory->breach;
}

void fault_alloc_fini(struct fault_alloc *memory)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        while (memory->table[i] != NULL)
            drop(memory, take(memory, memory->table[i]->user));
    }
    free(memory->table);
    pthread_mutex_destroy(&memory->lock);
}

uint64_t fault_alloc_try_each(int (*scenario)(const struct vshard_allocator *memory, void *arg),
                              void *arg, char *why, size_t why_bytes)
{
    uint64_t runs = 0;

    for (uint32_t how = FAULT_ONCE; how <= FAULT_FOREVER; how++) {
        for (uint64_t k = 1, failures = 1; failures > 0; k++, runs++) {
            struct fault_alloc memory;
            const char *verdict;
            int rc;

            fault_alloc_init(&memory);
            fault_alloc_fail(&memory, k, how);
            rc = scenario(&memory.hook, arg);
            failures = memory.failures;
            verdict = fault_alloc_verdict(&memory);
            if (verdict == NULL && rc != 0 && (rc != VSHARD_ENOMEM || failures == 0))
                verdict = vshard_strerror(rc);
            if (verdict != NULL)
                snprintf(why, why_bytes, "allocation %llu fails %s: status %d: %s",
                         (unsigned long long)k, how == FAULT_ONCE ? "once" : "for ever", rc,
                         verdict);
            fault_alloc_fini(&memory);
            if (verdict != NULL)
                return 0;
        }
    }
    return runs;
}
