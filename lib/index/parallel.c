/* parallel.c - many small items of work over the host's threads. Items are taken in
 * runs, in any order; nothing that an item writes may depend on that order. */
#include "index/state.h"

enum { RUN = 2 * WALKS };

struct work {
    void (*fn)(void *arg, uint32_t item, uint32_t strand);
    void *arg;
    uint32_t count;
    _Atomic uint32_t next;
};

static void strand(void *arg, uint32_t number)
{
    struct work *w = arg;
    uint32_t first;

    while ((first = atomic_fetch_add(&w->next, RUN)) < w->count) {
        uint32_t end = w->count - first > RUN ? first + RUN : w->count;

        for (uint32_t i = first; i < end; i++)
            w->fn(w->arg, i, number);
    }
}

void vs_parallel(struct vshard_index *x, uint32_t count,
                 void (*fn)(void *arg, uint32_t item, uint32_t strand), void *arg)
{
    struct work w = { .fn = fn, .arg = arg, .count = count };
    uint32_t strands = (count + RUN - 1) / RUN;

    if (strands > x->strand_count)
        strands = x->strand_count;
    if (strands > x->strands_used)
        x->strands_used = strands;
    if (x->executor.run != NULL && strands > 1)
        x->executor.run(x->executor.ctx, strands, strand, &w);
    else if (strands > 0)
        strand(&w, 0);
}

/* Gets scratch for each strand, with room for `pool_cap` candidates. */
int vs_strands_reserve(struct vshard_index *x, uint32_t pool_cap)
{
    uint32_t count = x->strand_count * WALKS;
    int rc = VSHARD_OK;

    if (x->strands == NULL) {
        x->strands = vs_alloc_zeroed(x->allocator, count * sizeof *x->strands);
        if (x->strands == NULL)
            return VSHARD_ENOMEM;
        atomic_fetch_add(&x->scratch_bytes, count * sizeof *x->strands);
    }
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++)
        rc = vs_scratch_reserve(x, &x->strands[i], pool_cap, 0);
    return rc;
}

/* Of the rows that tasks had last there are vectors and codes left. */
void vs_strands_forget(struct vshard_index *x)
{
    for (uint32_t i = 0; x->strands != NULL && i < x->strands_used * WALKS; i++)
        vs_scratch_wipe(x, &x->strands[i]);
    x->strands_used = 0;
}

void vs_strands_fini(struct vshard_index *x)
{
    uint32_t count = x->strand_count * WALKS;

    for (uint32_t i = 0; x->strands != NULL && i < count; i++)
        vs_scratch_fini(x, &x->strands[i]);
    vs_free(x->allocator, x->strands, count * sizeof *x->strands);
    x->strands = NULL;
}
