/* frozen.c - snapshots of a replica: taken, sent, received, installed.
 *
 * A snapshot is taken when snapshot_bytes of entries have come since the last, or fewer, as many as
 * the last is long: who comes back applies all entries since, and of a small shard that is changed
 * a lot these would be many times what there is. So no more is written again than comes. The core
 * says of which position: of the last entry that it has handed over, and of those some may wait to
 * be applied, always while much is written. So the item waits, too, and applying stops at that
 * entry; then the shard stands there. It is saved as an item that reads: searches go on, applying
 * waits. When its files are durable the log marks it, and when the mark is durable the core forgets
 * the entries and the files of the one before are removed. A crash at any point finds the files
 * that the log names, and may find others, of a save that was under way or of a snapshot that
 * another had followed: these are removed when the node is opened, or as soon as it is settled what
 * its log names.
 *
 * On its way it is one run of bytes: of a shard 8 bytes of the rows file, 8 of the index
 * file, and both files; of the map its file. What arrives is written beside, and
 * becomes a snapshot by being renamed; then the shard is opened from it, which verifies
 * it, and takes the place of the one there was.
 *
 *     map file   4 bytes of META, META, the state as meta.c draws it, 8 checksum */
#include "node/core.h"

#include <stdio.h>
#include <stdlib.h>

enum { SNAPSHOT_MIN = 4 << 20 }; /* entries of so many bytes are applied in a second */

void vs_snapshot_path(const struct vshard_node *n, char path[4096], uint64_t group, uint64_t index)
{
    snprintf(path, 4096, "%s/g%llx-%llx", n->path, (unsigned long long)group,
             (unsigned long long)index);
}

void vs_incoming_path(const struct vshard_node *n, char path[4096], uint64_t group)
{
    snprintf(path, 4096, "%s/g%llx-in", n->path, (unsigned long long)group);
}

/* ---- taking ---- */

/* Bytes of entries. */
static uint64_t enough(const struct vshard_node *n, const struct vs_replica *r)
{
    uint64_t last = atomic_load(&r->snapshot_bytes);

    if (r->group == VS_META)
        return 1 << 16;
    last = last < SNAPSHOT_MIN ? SNAPSHOT_MIN : last;
    return last < n->o.snapshot_bytes ? last : n->o.snapshot_bytes;
}

void vs_replica_snapshot(struct vshard_node *n, struct vs_replica *r)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_SNAPSHOT, r->group);

    if (r->mark_wanted)
        vs_mark(n, r, r->installing ? r->taking_index : r->compact_index,
                r->installing ? r->taking_term
                              : vshard_raft_term(n->raft, r->group, r->compact_index));
    if (r->since_snapshot < enough(n, r) || r->taking_index != 0 || r->diverged || r->refilling ||
        r->acknowledged != r->queued || r->status != VSHARD_OK || !r->open)
        return;
    vs_step(n, &event); /* EBUSY: later */
}

static int map_bytes(struct vshard_node *n, const struct vshard_raft_effect *e, struct vs_out *o)
{
    *o = (struct vs_out){ .allocator = n->allocator };
    vs_put32(o, (uint32_t)e->byte_count);
    vs_put_bytes(o, e->bytes, (size_t)e->byte_count);
    vs_cluster_encode(&n->meta, o);
    if (o->status == VSHARD_OK)
        vs_put64(o, vs_checksum(o->at, o->count, 0));
    return o->status;
}

/* What is saved lies in one block; the map's is made here, a shard's where it is saved. */
static struct vs_item *snapshot_item(struct vshard_node *n, struct vs_replica *r,
                                     const struct vshard_raft_effect *e)
{
    struct vs_item *item = vs_item_new(n, r->group == VS_META ? VS_ITEM_META : VS_ITEM_SNAPSHOT, r);
    struct vs_out o = { .allocator = n->allocator };

    if (item == NULL)
        return NULL;
    if (r->group == VS_META)
        map_bytes(n, e, &o);
    else
        vs_put_bytes(&o, e->bytes, (size_t)e->byte_count);
    if (o.status != VSHARD_OK) {
        vs_out_free(&o);
        vs_item_free(n, item);
        return NULL;
    }
    item->bytes = o.at; /* the block is o.cap; meta_bytes of it count */
    item->count = o.cap;
    item->meta_bytes = o.count;
    item->index = e->index;
    return item;
}

void vs_replica_meta_effect(struct vshard_node *n, struct vs_replica *r,
                            const struct vshard_raft_effect *e)
{
    struct vs_item *item = snapshot_item(n, r, e);

    if (item == NULL)
        return; /* the core may begin another one */
    r->taking_index = e->index;
    r->taking_term = e->term;
    r->since_snapshot = 0;
    /* A quarter of what has come since the last is kept, for who is a little late. */
    r->compact_index = e->index - (e->index - r->snapshot_index) / 4;
    if (vshard_raft_term(n->raft, r->group, r->compact_index) == 0)
        r->compact_index = e->index; /* the log begins later than that */
    r->snapshot = item;
    vs_replica_stands(n, r);
}

void vs_replica_stands(struct vshard_node *n, struct vs_replica *r)
{
    struct vs_item *item = r->snapshot;

    if (item == NULL || atomic_load(&r->applied) < item->index)
        return;
    r->snapshot = NULL;
    vs_item_push(n, item);
}

void vs_replica_snapshot_drop(struct vshard_node *n, struct vs_replica *r)
{
    if (r->snapshot == NULL)
        return;
    vs_item_free(n, r->snapshot);
    r->snapshot = NULL;
    r->taking_index = 0;
}

static void remove_files(struct vshard_node *n, struct vs_replica *r, uint64_t index)
{
    char path[4096], map[4096 + 8];

    vs_snapshot_path(n, path, r->group, index);
    if (r->group != VS_META) {
        vs_shard_remove_files(&n->storage, path);
        return;
    }
    snprintf(map, sizeof map, "%s.map", path);
    vs_io_remove(&n->storage, map);
}

/* Nothing came of the one that was being made. */
void vs_replica_untaken(struct vshard_node *n, struct vs_replica *r)
{
    if (r->taking_index != r->snapshot_index)
        remove_files(n, r, r->taking_index);
    r->taking_index = 0;
    r->installing = 0;
}

void vs_replica_files_remove(struct vshard_node *n, struct vs_replica *r)
{
    char path[4096];

    if (r->snapshot_index != 0)
        remove_files(n, r, r->snapshot_index);
    if (r->taking_index != 0) /* one that was not marked any more */
        remove_files(n, r, r->taking_index);
    vs_incoming_path(n, path, r->group);
    vs_shard_remove_files(&n->storage, path);
}

/* The mark is durable: the snapshot counts. */
void vs_replica_marked(struct vshard_node *n, struct vs_replica *r)
{
    uint64_t old = r->snapshot_index;

    r->snapshot_index = r->taking_index;
    r->snapshot_term = r->taking_term;
    vs_todo_push(
        n, (struct vs_todo){ .kind = r->installing ? VSHARD_RAFT_INSTALLED : VSHARD_RAFT_COMPACT,
                             .group = r->group,
                             .index = r->installing ? r->taking_index : r->compact_index,
                             .offset = r->installing ? 0 : r->taking_index });
    r->taking_index = 0;
    r->installing = 0;
    if (old != 0 && old != r->snapshot_index)
        remove_files(n, r, old);
}

/* ---- what a crash has left ---- */

/* Whether a name is one that vs_snapshot_path() or vs_incoming_path() begins, and what it is of;
 * index 0: of one that came in. */
static bool parse_name(const char *name, uint64_t *group, uint64_t *index)
{
    static const char *const ends[] = { ".rows",     ".index",     ".map",
                                        ".rows.tmp", ".index.tmp", ".map.tmp" };
    char *at = NULL;

    if (name[0] == 'g')
        *group = strtoull(name + 1, &at, 16);
    if (at == NULL || *at != '-')
        return false;
    *index = 0;
    if (strncmp(at, "-in.", 4) == 0)
        at += 3;
    else
        *index = strtoull(at + 1, &at, 16);
    for (size_t i = 0; i < VS_COUNT(ends); i++) {
        if (strcmp(at, ends[i]) == 0)
            return true;
    }
    return false;
}

/* Whether the log has a snapshot at this position; also where it cannot be understood. */
static bool marked(struct vshard_node *n, uint64_t group, uint64_t index)
{
    struct vshard_wal_group about = { .size = sizeof about };
    int rc = vshard_wal_find(n->wal, group, &about);

    if (rc == VSHARD_ENOTFOUND || (rc == VSHARD_OK && about.mark_index == 0))
        return false;
    return rc != VSHARD_OK || about.mark_bytes != 16 || vs_load64(about.mark) == index;
}

/* Whether it is being made, or received, by a replica that has begun since. */
static bool under_way(const struct vshard_node *n, uint64_t group, uint64_t index)
{
    const struct vs_replica *r = vs_replica_find(n, group);

    if (r == NULL)
        return false;
    return index != 0 ? index == r->taking_index || index == r->snapshot_index
                      : r->incoming != 0 || r->installing;
}

static int sweep_names(void *ctx, const char *names, size_t bytes)
{
    struct vshard_node *n = ctx;
    char path[4096];
    uint64_t group, index;

    for (size_t at = 0; at < bytes; at += strlen(names + at) + 1) {
        bool whole = strstr(names + at, ".tmp") == NULL;

        if (!parse_name(names + at, &group, &index) || (whole && marked(n, group, index)) ||
            under_way(n, group, index))
            continue;
        snprintf(path, sizeof path, "%s/%s", n->path, names + at);
        vs_io_remove(&n->storage, path);
    }
    return VSHARD_OK;
}

/* When the node is opened, or else when its log is settled. What cannot be removed now is tried at
 * the next opening. */
void vs_snapshots_sweep(struct vshard_node *n)
{
    if (!n->unsettled) /* else the log may have lost a mark */
        vs_io_list_all(&n->storage, n->allocator, n->path, sweep_names, n);
}

/* ---- sending ---- */

/* The core asks for no other piece before it knows that there is none of this one. */
void vs_replica_no_chunk(struct vshard_node *n, struct vs_replica *r, uint64_t node, uint64_t index,
                         uint64_t offset, int status)
{
    vs_todo_push(n, (struct vs_todo){ .kind = VSHARD_RAFT_CHUNK,
                                      .status = status,
                                      .group = r->group,
                                      .node = node,
                                      .index = index,
                                      .offset = offset });
}

void vs_replica_read_effect(struct vshard_node *n, struct vs_replica *r,
                            const struct vshard_raft_effect *e)
{
    bool gone = e->index != r->snapshot_index;
    struct vs_item *item = gone ? NULL : vs_item_new(n, VS_ITEM_CHUNK, r);

    if (item == NULL) {
        vs_replica_no_chunk(n, r, e->node, e->index, e->offset,
                            gone ? VSHARD_ENOTFOUND : VSHARD_ENOMEM);
        return;
    }
    item->index = e->index;
    item->node = e->node;
    item->offset = e->offset;
    vs_item_push(n, item);
}

/* ---- receiving ---- */

/* The core takes no other piece before it knows what came of this one. */
void vs_replica_wrote(struct vshard_node *n, struct vs_replica *r, uint64_t index, uint64_t end,
                      int status)
{
    vs_todo_push(n, (struct vs_todo){ .kind = VSHARD_RAFT_CHUNK_WRITTEN,
                                      .group = r->group,
                                      .index = index,
                                      .offset = end,
                                      .status = status });
}

void vs_replica_piece(struct vshard_node *n, struct vs_replica *r,
                      const struct vshard_raft_effect *e)
{
    struct vs_item *item = vs_item_new(n, VS_ITEM_PIECE, r);

    if (item != NULL)
        item->bytes = vs_alloc(n->allocator, (size_t)e->byte_count + 1);
    if (item == NULL || item->bytes == NULL) {
        vs_item_free(n, item);
        vs_replica_wrote(n, r, e->index, e->offset, VSHARD_ENOMEM);
        return;
    }
    item->count = (size_t)e->byte_count + 1;
    memcpy(item->bytes, e->bytes, (size_t)e->byte_count);
    item->meta_bytes = (size_t)e->byte_count;
    item->index = e->index;
    item->offset = e->offset;
    r->incoming = e->index;
    vs_item_push(n, item);
}

void vs_replica_install(struct vshard_node *n, struct vs_replica *r,
                        const struct vshard_raft_effect *e)
{
    struct vs_item *item;

    vs_replica_snapshot_drop(n, r);
    item = r->taking_index == 0 ? vs_item_new(n, VS_ITEM_INSTALL, r) : NULL;
    if (item == NULL || r->incoming != e->index) { /* one of our own is under way: another time */
        vs_item_free(n, item);
        vs_todo_push(n, (struct vs_todo){ .kind = VSHARD_RAFT_INSTALLED,
                                          .group = r->group,
                                          .index = e->index,
                                          .status = VSHARD_EIO });
        return;
    }
    item->index = e->index;
    r->taking_index = e->index;
    r->taking_term = e->term;
    r->installing = 1;
    r->incoming = 0;
    r->since_snapshot = 0;
    vs_item_push(n, item);
}
