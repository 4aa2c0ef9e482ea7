/* model.c - what a node should remember: for each group its vote and a list of entries. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

void entry_copy(struct vshard_raft_entry *to, const struct vshard_raft_entry *from)
{
    void *data = malloc((size_t)from->count + 1);

    *to = *from;
    if (from->count != 0)
        memcpy(data, from->data, (size_t)from->count);
    to->data = data;
    to->flags = 0;
}

void entry_free(struct vshard_raft_entry *e)
{
    free((void *)(uintptr_t)e->data);
}

void model_cut(struct disk_group *d, uint64_t from)
{
    while (d->count != 0 && d->first + d->count - 1 >= from)
        entry_free(&d->entry[--d->count]);
}

static void model_append(struct world *w, struct node *n, struct disk_group *d,
                         const struct vshard_raft_entry *e)
{
    if (d->count == 0)
        d->first = e->index;
    if (e->index != d->first + d->count)
        fail(w, "n%u writes entry %llu behind %llu", n->id, (unsigned long long)e->index,
             (unsigned long long)(d->first + d->count - 1));
    if (d->count == d->cap) {
        d->cap = d->cap ? d->cap * 2 : 64;
        d->entry = realloc(d->entry, d->cap * sizeof *d->entry);
    }
    entry_copy(&d->entry[d->count++], e);
}

static void model_trim(struct disk_group *d, uint64_t through)
{
    size_t gone = 0;

    while (gone < d->count && d->first + gone <= through)
        entry_free(&d->entry[gone++]);
    if (gone == 0)
        return;
    memmove(d->entry, d->entry + gone, (d->count - gone) * sizeof *d->entry);
    d->count -= gone;
    d->first += gone;
}

void model_clear(struct disk_group *d)
{
    model_cut(d, 0);
    free(d->entry);
    bytes_free(&d->meta);
    bytes_free(&d->state);
    memset(d, 0, sizeof *d);
}

void write_free(struct write *x)
{
    for (uint32_t i = 0; i < x->entry_count; i++)
        entry_free(&x->entry[i]);
    free(x->entry);
    bytes_free(&x->meta);
    bytes_free(&x->state);
}

static void model_snapshot(struct disk_group *d, const struct write *x)
{
    d->exists = 1;
    if (x->kind == WRITE_INSTALL)
        model_cut(d, 0);
    bytes_set(&d->meta, x->meta.p, x->meta.n);
    bytes_set(&d->state, x->state.p, x->state.n);
    d->snapshot = x->index;
    d->snapshot_term = x->term;
    model_trim(d, x->through);
}

void model_write(struct world *w, struct node *n, const struct write *x)
{
    struct disk_group *d = &n->disk[x->group];

    if (x->kind != WRITE_PERSIST) {
        if (x->index > d->snapshot)
            model_snapshot(d, x);
        return;
    }

    d->exists = 1;
    if (x->term > d->term || (x->term == d->term && d->vote == 0)) {
        d->term = x->term;
        d->vote = x->vote;
    }
    d->commit = x->commit;
    if (x->cut != 0)
        model_cut(d, x->cut);
    for (uint32_t i = 0; i < x->entry_count; i++)
        model_append(w, n, d, &x->entry[i]);
}
