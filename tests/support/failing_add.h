/* failing_add.h - a call that adds rows fails at each of its allocations, one after the other. */
#ifndef SUPPORT_FAILING_ADD_H
#define SUPPORT_FAILING_ADD_H

#include "support/fault_alloc.h"
#include "support/index_data.h"

struct failing_add {
    const struct vshard_index_options *options;
    const float *vectors; /* of the rows `there`, added in calls of `batch`, and of the call */
    uint32_t there, batch, count;
    void (*look)(const struct vshard_index *x, bool struck, void *ctx); /* after the call; NULL */
    void *ctx;
};

/* A call that fails must change nothing, and one that does not what it changes without
 * failures. Returns how many calls were made. */
static inline uint64_t fail_each_allocation(const struct failing_add *f)
{
    uint64_t reference = 0, k = 0, *ids = number_ids(0, f->there + f->count);
    bool struck = false;

    do {
        struct vshard_index_options o = *f->options;
        struct fault_alloc memory;
        struct vshard_index *x;
        uint64_t before;
        int rc;

        fault_alloc_init(&memory);
        o.allocator = &memory.hook;
        x = make_index(&o);
        for (uint32_t i = 0; i < f->there; i += f->batch)
            add_rows(x, ids + i, f->vectors + (size_t)i * o.dim, f->batch);
        before = digest_of(x);
        memory.failures = 0;
        fault_alloc_fail(&memory, k, FAULT_ONCE);
        rc = vshard_index_add(x, ids + f->there, f->vectors + (size_t)f->there * o.dim, f->count);
        fault_alloc_fail(&memory, 0, FAULT_ONCE);
        struck = memory.failures > 0;
        cr_assert_eq(rc, struck ? VSHARD_ENOMEM : 0, "k %llu", (unsigned long long)k);
        if (struck)
            cr_assert_eq(digest_of(x), before, "k %llu: changed", (unsigned long long)k);
        else if (k == 0)
            reference = digest_of(x);
        else
            cr_assert_eq(digest_of(x), reference, "k %llu", (unsigned long long)k);
        if (f->look != NULL)
            f->look(x, struck, f->ctx);
        vshard_index_destroy(x);
        cr_assert_null(fault_alloc_verdict(&memory), "k %llu: %s", (unsigned long long)k,
                       fault_alloc_verdict(&memory));
        fault_alloc_fini(&memory);
        k++;
    } while (struck || k == 1);
    free(ids);
    return k;
}

#endif
