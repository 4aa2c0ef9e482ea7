/* reader.c - who is reading, so that the writer knows when a slot is free.
 *
 * A reader claims a place in a table, writes down the epoch it begins in, and clears
 * it when it leaves. A writer that has made slots unreachable raises the epoch and
 * waits until no place holds an older one: then no reader can still know these slots
 * (epoch-based reclamation, Fraser 2004). Readers never wait for the writer. With a
 * place comes scratch memory, so that a search allocates nothing after its first. */
#include "index/state.h"

int vs_readers_init(struct vshard_index *x)
{
    size_t bytes = WIDTH_MAX * sizeof *x->readers;

    atomic_init(&x->epoch, 1);
    x->readers = vs_alloc_zeroed(x->allocator, bytes);
    return x->readers ? VSHARD_OK : VSHARD_ENOMEM;
}

void vs_readers_fini(struct vshard_index *x)
{
    if (x->readers == NULL)
        return;
    for (uint32_t i = 0; i < WIDTH_MAX; i++) {
        struct vs_scratch *scratch = x->readers[i].scratch;

        for (uint32_t j = 0; scratch != NULL && j < WALKS; j++)
            vs_scratch_fini(x, &scratch[j]);
        vs_free(x->allocator, scratch, WALKS * sizeof *scratch);
    }
    vs_free(x->allocator, x->readers, WIDTH_MAX * sizeof *x->readers);
}

/* More threads than places take turns: the one that comes too late yields until
 * another search ends. */
static struct vs_reader *claim(struct vshard_index *x)
{
    for (;;) {
        for (uint32_t i = 0; i < WIDTH_MAX; i++) {
            struct vs_reader *r = &x->readers[i];
            uint32_t idle = 0;

            if (atomic_load_explicit(&r->busy, memory_order_relaxed) == 0 &&
                atomic_compare_exchange_strong(&r->busy, &idle, 1))
                return r;
        }
        vs_os_yield();
    }
}

int vs_reader_enter(struct vshard_index *x, struct vs_reader **out)
{
    struct vs_reader *r = claim(x);

    if (r->scratch == NULL) {
        r->scratch = vs_alloc_zeroed(x->allocator, WALKS * sizeof *r->scratch);
        if (r->scratch == NULL) {
            atomic_store_explicit(&r->busy, 0, memory_order_release);
            return VSHARD_ENOMEM;
        }
        atomic_fetch_add(&x->scratch_bytes, WALKS * sizeof *r->scratch);
    }
    atomic_store(&r->epoch, atomic_load(&x->epoch));
    atomic_thread_fence(memory_order_seq_cst);
    *out = r;
    return VSHARD_OK;
}

void vs_reader_leave(struct vs_reader *r)
{
    atomic_store_explicit(&r->epoch, 0, memory_order_release);
    atomic_store_explicit(&r->busy, 0, memory_order_release);
}

void vs_readers_drain(struct vshard_index *x)
{
    uint64_t now = atomic_fetch_add(&x->epoch, 1) + 1;

    for (uint32_t i = 0; i < WIDTH_MAX; i++) {
        uint64_t epoch;

        while ((epoch = atomic_load(&x->readers[i].epoch)) != 0 && epoch < now)
            vs_os_yield();
    }
}
