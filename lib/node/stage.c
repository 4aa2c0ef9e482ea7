/* stage.c - when a replica stages: what is committed is made searchable before it is applied.
 *
 * An item stages as many entries as there is room for in the tail of the shard, in the order
 * of the log; before that it lets go what has been applied and no search wants any more
 * (lib/shard/tail.c). One is under way at a time, beside applies, saves and searches. An entry is
 * applied once it is staged, never before.
 *
 * Without room it is tried again when something has been applied, or when a search has ended
 * while nothing was: that may have been the one which held rows back. */
#include "node/core.h"

uint64_t vs_replica_searchable(const struct vs_replica *r)
{
    uint64_t applied = atomic_load(&r->applied), staged = atomic_load(&r->staged);

    return staged > applied ? staged : applied;
}

/* Another shard stands in the place of the one there was: its tail is empty. */
void vs_stage_again(struct vs_replica *r)
{
    r->unstaged = r->entries;
    r->stage_full = r->tail_kept = r->tail_stale = 0;
}

/* As many as there are now: their links do not change any more, but for the last's. */
void vs_stage_more(struct vshard_node *n, struct vs_replica *r)
{
    bool entries = r->unstaged != NULL && !r->stage_full;
    struct vs_item *item;

    if (r->stage_busy || !(entries || (r->tail_kept != 0 && r->tail_stale)))
        return;
    item = vs_item_new(n, VS_ITEM_STAGE, r);
    if (item == NULL)
        return; /* at a later turn */
    item->entry = r->unstaged;
    for (struct vs_entry *e = r->unstaged; e != NULL && item->entries < VS_CHUNK_ROWS; e = e->next)
        item->entries++;
    r->stage_busy = 1;
    r->stage_from = r->unstaged != NULL ? r->unstaged->index : UINT64_MAX;
    r->tail_stale = 0;
    vs_item_push(n, item);
}

void vs_stage_finished(struct vs_replica *r, const struct vs_item *item)
{
    r->stage_busy = 0;
    r->stage_full = item->status == VSHARD_EBUSY;
    r->tail_kept = item->last;
    while (r->unstaged != NULL && r->unstaged->index <= vs_replica_searchable(r))
        r->unstaged = r->unstaged->next;
}

/* Something has been applied, or who may have hindered what was from leaving is done. */
void vs_stage_moves(struct vs_replica *r)
{
    r->stage_full = 0;
    r->tail_stale = 1;
}
