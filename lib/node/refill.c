/* refill.c - a replica that has diverged from the others makes its state again.
 *
 * Its log is right, as every replica's is: what went wrong is what came of it, by a fault
 * of memory, say. So the state is thrown away and made again from the newest snapshot of
 * this replica and the entries behind it, which are in the write-ahead log. Until it is where it
 * was, it answers nothing. If it differs at once again, its snapshot is wrong, too, and it halts:
 * another takes its place on a spare node, or its node must lose its directory and join again. Once
 * another has agreed with it, what goes wrong later is another fault.
 *
 * It takes memory for all of that at once. Where there is not enough, what has been made of it goes
 * again, and so does what is known to be wrong, whose room may be all that is missing; it is tried
 * again later.
 *
 * Which of two that differ is wrong: the one whose digest fewer replicas name. Among as many nobody
 * can tell: first the one that does not lead makes its state again, then, if they still differ, the
 * one that does. If they differ then, too, the one that does not lead halts. */
#include "node/core.h"

enum verdict { UNKNOWN, AGREES, DIFFERS };

static enum verdict compare(const struct vshard_node *n, const struct vs_replica *r)
{
    uint32_t hints, same = 1, other = 0;
    const struct vs_hint *h = vs_hints_of(n, r->group, &hints);
    bool mine = false; /* it is my turn */

    for (uint32_t i = 0; i < hints; i++) {
        /* Of another recovery epoch it may be of other entries. */
        if (h[i].digest_index != r->digest_index || h[i].term >> 48 != vs_replica_epoch(r))
            continue;
        same += h[i].digest == r->digest;
        other += h[i].digest != r->digest;
        if (h[i].digest == r->digest)
            continue;
        if (r->role == VSHARD_RAFT_LEADER)
            mine |= !r->unproven && (h[i].flags & VS_HINT_UNPROVEN);
        else if (h[i].node == r->leader)
            mine |= !r->unproven || (h[i].flags & VS_HINT_UNPROVEN);
    }
    if (other > same || (other == same && mine))
        return DIFFERS;
    return same > 1 && other == 0 ? AGREES : UNKNOWN;
}

static bool ready(const struct vs_replica *r)
{
    return r->items == 0 && !r->apply_busy && r->taking_index == 0 && r->raft_reads == 0;
}

/* Called now and then as long as the replica has diverged. */
void vs_replica_refill(struct vshard_node *n, struct vs_replica *r)
{
    enum verdict verdict = r->diverged ? DIFFERS : r->digest_index == 0 ? UNKNOWN : compare(n, r);
    struct vs_item *item;

    if (verdict == AGREES)
        r->unproven = 0;
    if (verdict != DIFFERS)
        return;
    if (!r->diverged)
        vs_node_event(n, VSHARD_LOG_ERROR, "node.diverged", r->group, "at entry",
                      (int64_t)r->digest_index);
    r->diverged = 1;
    vs_serve_leave(n, r);
    vs_replica_snapshot_drop(n, r);
    if (!ready(r) || r->refilling || r->status != VSHARD_OK || n->now < r->again_ns)
        return; /* what runs must end first */
    if (r->unproven) {
        vs_replica_halt(n, r, VSHARD_ECORRUPT);
        return;
    }
    item = vs_item_new(n, VS_ITEM_REFILL, r);
    if (item == NULL) {
        vs_replica_wait(n, r, "node.refill");
        return;
    }
    item->index = r->snapshot_index;
    r->refilling = 1;
    vs_item_push(n, item);
}

void vs_replica_refilled(struct vshard_node *n, struct vs_replica *r, const struct vs_item *item)
{
    struct vs_gathered g = { .limit = UINT64_MAX };
    uint64_t through = r->entries != NULL ? r->entries->index - 1 : r->queued;
    uint32_t count = 0;
    int rc = item->status;

    r->refilling = 0;
    if (rc == VSHARD_OK && through > item->index)
        rc = vs_gather(n, r->group, item->index + 1, &g);
    while (count < g.count && g.entry[count].index <= through)
        count++;
    if (rc == VSHARD_OK && item->index + count != through)
        rc = VSHARD_ECORRUPT; /* the log does not have what was applied */
    if (rc == VSHARD_OK)
        rc = vs_replica_requeue(n, r, g.entry, count);
    vs_gathered_free(&g);
    if (rc == VSHARD_ENOMEM) {
        vs_replica_wait(n, r, "node.refill");
        return;
    }
    if (rc != VSHARD_OK)
        vs_replica_halt(n, r, rc);
    r->refills++;
    r->unproven = 1;
    r->failures = 0;
    r->digest_index = r->digest = r->rest_index = 0;
    r->diverged = 0;
    r->whole_at = through;
    vs_replica_more(n, r);
}
