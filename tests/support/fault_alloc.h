/* fault_alloc.h - an allocator that counts, checks, and fails when told to.
 *
 * Every block lies between two guards, is filled with rubbish when it is made and
 * with other rubbish when it is released, and always moves when it is resized, so
 * that code which trusts fresh, freed or neighbouring memory shows it. The first
 * breach of the allocator's contract is remembered and reported by
 * fault_alloc_verdict(). Safe on any thread.
 *
 *     struct fault_alloc memory;
 *     fault_alloc_init(&memory);
 *     options.allocator = &memory.hook;
 *     ...
 *     cr_expect_null(fault_alloc_verdict(&memory));
 *     fault_alloc_fini(&memory);
 */
#ifndef SUPPORT_FAULT_ALLOC_H
#define SUPPORT_FAULT_ALLOC_H

#include <pthread.h>
#include <stdint.h>

#include <vshard/base.h>

struct fault_alloc {
    struct vshard_allocator hook;
    uint64_t calls;    /* that asked for memory, failed ones too */
    uint64_t failures; /* of them, the ones that were made to fail */
    uint64_t blocks;   /* live */
    uint64_t bytes;    /* live, as asked for */
    uint64_t bytes_peak;
    uint64_t bytes_limit; /* fail whatever would take `bytes` above this; 0: no limit */

    const void *watched; /* bytes that fault_alloc_watch() was told */
    size_t watched_bytes;
    uint64_t left_behind; /* blocks that were given back with these bytes in them */

    uint64_t fail_at;
    uint32_t fail_forever;
    char breach[200];
    struct fault_block **table;
    pthread_mutex_t lock;
};

/* What fails after the k-th call did. */
enum { FAULT_ONCE = 0, FAULT_FOREVER = 1 };

void fault_alloc_init(struct fault_alloc *memory);

/* Lets the k-th call from now on return NULL; 0 lets none. With FAULT_FOREVER all
 * those after it fail as well. */
void fault_alloc_fail(struct fault_alloc *memory, uint64_t k, uint32_t how);

/* Counts from now on the blocks that are given back with these bytes somewhere in them; NULL: none
 * any more. They are borrowed. */
void fault_alloc_watch(struct fault_alloc *memory, const void *bytes, size_t count);

/* How many live blocks have these bytes somewhere in them. */
uint64_t fault_alloc_holds(struct fault_alloc *memory, const void *bytes, size_t count);

/* NULL when no block lives and the contract was kept; otherwise what is wrong. */
const char *fault_alloc_verdict(struct fault_alloc *memory);

/* Gives back what still lives. */
void fault_alloc_fini(struct fault_alloc *memory);

/* Runs `scenario` with the first call failing, then the second, and so on until a
 * run meets no failure; then all of it again with every call from the k-th on
 * failing. The scenario builds what it needs, cleans up after itself, and returns
 * the first status that is not 0. A run that met a failure must return ENOMEM, or
 * 0 when the library could do without; a run that met none must return 0; and
 * none may leak. Returns the number of runs, or 0 with the reason in `why`. */
uint64_t fault_alloc_try_each(int (*scenario)(const struct vshard_allocator *memory, void *arg),
                              void *arg, char *why, size_t why_bytes);

#endif
