/* work.c - what each item of work does, on whatever thread takes it.
 *
 * A reader may look at its replica's shard, a writer may change it. Of the node only what
 * never changes is touched: allocator, storage, paths, options. */
#include "node/core.h"

#include <math.h>
#include <stdio.h>

enum { CHUNK = 256 << 10, ENTRY_ROWS = 32 };

/* ---- apply ---- */

/* A step of one entry; *rows are those that it took. */
static int apply_one(struct vs_replica *r, const struct vs_entry *e, uint32_t *rows, bool *whole)
{
    struct vs_shard_stats stats;
    struct vs_batch b = { .count = 0 };
    uint32_t before = r->row;
    int rc = VSHARD_OK;

    *whole = true;
    vs_shard_stats(r->shard, &stats);
    if (e->index <= stats.applied) { /* a snapshot that was installed has it */
        before = r->row = 0;
    } else if (e->count == 0) {
        vs_shard_pass(r->shard, e->index);
    } else {
        rc = vs_batch_decode(&b, r->plan.newest, e + 1, e->count);
        if (rc == VSHARD_OK)
            rc = vs_shard_apply(r->shard, e->index, e + 1, e->count, &r->row);
        *whole = r->row == b.count;
    }
    *rows = r->row - before;
    if (rc == VSHARD_OK && *whole)
        r->row = 0;
    return rc;
}

/* A step is one of a large entry, or some small entries: a row that comes by itself costs
 * as much as ENTRY_ROWS that come together. */
static int apply(struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    struct vs_entry *e = item->entry;
    uint32_t taken = 0, rows;
    bool whole = true;
    int rc = VSHARD_OK;

    for (uint64_t i = 0; i < item->entries && whole && taken < VS_CHUNK_ROWS; i++) {
        if (i != 0)
            e = e->next;
        rc = apply_one(r, e, &rows, &whole);
        if (rc != VSHARD_OK)
            break;
        taken += rows + ENTRY_ROWS;
        if (whole)
            atomic_store(&r->applied, e->index);
    }
    if (!vs_plan_stages(&r->plan))
        atomic_store(&r->rows, vs_shard_rows(r->shard));
    return rc;
}

/* ---- stage ---- */

/* What has been applied goes, and what waits comes; as far as there is room. */
static int stage(struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    struct vs_entry *e = item->entry;
    uint32_t kept = 0;
    int rc = vs_shard_unstage(r->shard, &kept);

    for (uint64_t i = 0; i < item->entries && rc == VSHARD_OK; i++) {
        if (i != 0)
            e = e->next; /* the last one's link may change */
        rc = vs_shard_stage(r->shard, e->index, e->count != 0 ? e + 1 : NULL, e->count);
    }
    atomic_store(&r->rows, vs_shard_rows(r->shard));
    atomic_store(&r->staged, vs_shard_searchable(r->shard));
    item->last = kept != 0 || item->entries != 0;
    return rc == VSHARD_ESTALE ? VSHARD_OK : rc; /* of another shard than there was */
}

/* ---- reads ---- */

static int search(const struct vshard_node *n, struct vs_item *item)
{
    struct vs_serving *s = item->serving;
    const struct vs_shard_query q = { .vector = s->asked + s->where_bytes,
                                      .k = s->k,
                                      .ef = s->ef,
                                      .exact = s->flags & VSHARD_NODE_EXACT,
                                      .where = s->where_bytes != 0 ? s->asked : NULL,
                                      .where_bytes = s->where_bytes,
                                      .bound = atomic_load(&s->bound),
                                      .target_recall = s->target_recall,
                                      .deadline_ns = s->deadline_ns,
                                      .clock = n->clock,
                                      .cancel = &s->cancel };
    int rc;

    s->hits = vs_alloc(n->allocator, s->k * sizeof *s->hits);
    if (s->hits == NULL)
        return VSHARD_ENOMEM;
    rc = vs_shard_search(item->replica->shard, &q, s->hits, &s->answer);
    item->position = s->answer.position;
    return rc;
}

/* A row as its frame has it, but for the payload. NULL where there is no memory. */
static unsigned char *row_room(struct vs_serving *s, const struct vs_shard_plan *plan,
                               struct vshard_values *values)
{
    size_t bytes = ((size_t)s->vector_bytes + 7) / 8 * 8 + 8 * (size_t)plan->attribute_count;
    unsigned char *row, *head;

    for (uint32_t a = 0; a < plan->attribute_count; a++)
        bytes += vs_value_bytes(plan->attributes[a].type);
    row = vs_put_room(&s->row, bytes);
    if (row == NULL)
        return NULL;
    memset(row, 0, bytes);
    head = row + ((size_t)s->vector_bytes + 7) / 8 * 8;
    for (uint32_t a = 0; a < plan->attribute_count; a++)
        vs_store64(head + 8 * (size_t)a, plan->attributes[a].type);
    vs_row_values(row, bytes, s->vector_bytes, plan->attribute_count, values);
    return row;
}

int vs_fetch_row(struct vs_serving *s, const struct vs_shard_plan *plan,
                 const struct vs_shard *from)
{
    struct vshard_values values[VSHARD_ATTRIBUTES_MAX];
    struct vs_shard_row row = { .values = values };
    int rc;

    s->vector_bytes = vs_plan_vector_bytes(plan);
    s->value_count = plan->attribute_count;
    row.vector = row_room(s, plan, values);
    if (row.vector == NULL)
        return VSHARD_ENOMEM;
    rc = vs_shard_fetch(from, s->key, &row);
    if (rc != VSHARD_OK)
        return rc;
    s->version = row.version;
    s->payload_bytes = row.payload_bytes;
    vs_put_bytes(&s->row, row.payload, row.payload_bytes);
    return s->row.status;
}

static int fetch(struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    const struct vs_shard *from;
    int rc;

    item->position = vs_shard_searchable(r->shard);
    from = vs_shard_hold(r->shard, item->serving->key);
    rc = vs_fetch_row(item->serving, &r->plan, from);
    vs_shard_release(r->shard);
    return rc;
}

/* ---- snapshots ---- */

static int save_map(struct vshard_node *n, struct vs_item *item)
{
    char path[4096], map[4096 + 8];

    vs_snapshot_path(n, path, item->replica->group, item->index);
    snprintf(map, sizeof map, "%s.map", path);
    return vs_file_replace(&n->storage, map, item->bytes, item->meta_bytes);
}

/* The files that a snapshot travels as; one for the map. */
struct files {
    char name[2][4096 + 8];
    uint64_t bytes[2];
    uint32_t count, head; /* head: bytes before the first */
};

static void files_of(struct files *f, const struct vs_replica *r, const char *path)
{
    *f = (struct files){ .count = r->group == VS_META ? 1 : 2,
                         .head = r->group == VS_META ? 0 : 16 };
    snprintf(f->name[0], sizeof f->name[0], "%s.%s", path, r->group == VS_META ? "map" : "rows");
    snprintf(f->name[1], sizeof f->name[1], "%s.index", path);
}

static int read_part(struct vshard_node *n, const char *name, uint64_t offset, void *to,
                     size_t count, uint64_t *bytes)
{
    uint64_t file;
    int rc = vs_io_open(&n->storage, name, 0, &file, bytes);

    if (rc != VSHARD_OK)
        return rc;
    if (offset < *bytes && count != 0)
        rc = vs_io_read(&n->storage, file, offset, to,
                        *bytes - offset < count ? (size_t)(*bytes - offset) : count);
    vs_io_close(&n->storage, file);
    return rc;
}

static int measure(struct vshard_node *n, struct files *f)
{
    int rc = VSHARD_OK;

    for (uint32_t i = 0; rc == VSHARD_OK && i < f->count; i++)
        rc = read_part(n, f->name[i], 0, NULL, 0, &f->bytes[i]);
    return rc;
}

/* So that it is known when as much has come since (frozen.c). */
static void note_size(struct vshard_node *n, struct vs_replica *r, const char *path)
{
    struct files f;

    files_of(&f, r, path);
    if (measure(n, &f) == VSHARD_OK)
        atomic_store(&r->snapshot_bytes, f.bytes[0] + f.bytes[1]);
}

static int save(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    char path[4096];
    int rc;

    vs_snapshot_path(n, path, r->group, item->index);
    rc = vs_shard_save(r->shard, path, item->bytes, item->meta_bytes);
    if (rc == VSHARD_OK)
        note_size(n, r, path);
    return rc;
}

static int read_chunk(struct vshard_node *n, struct vs_item *item)
{
    char path[4096];
    struct files f;
    uint64_t at, end;
    unsigned char *to;
    int rc;

    vs_snapshot_path(n, path, item->replica->group, item->index);
    files_of(&f, item->replica, path);
    item->bytes = to = vs_alloc(n->allocator, CHUNK);
    if (to == NULL)
        return VSHARD_ENOMEM;
    item->count = CHUNK;
    rc = measure(n, &f);
    end = f.head + f.bytes[0] + f.bytes[1];
    if (item->offset > end)
        rc = VSHARD_ENOTFOUND;
    for (at = item->offset; rc == VSHARD_OK && at < end && at < item->offset + CHUNK;) {
        unsigned char head[16];
        size_t room = (size_t)(item->offset + CHUNK - at), count;

        if (at < f.head) {
            vs_store64(head, f.bytes[0]);
            vs_store64(head + 8, f.bytes[1]);
            count = (size_t)(f.head - at) < room ? (size_t)(f.head - at) : room;
            memcpy(to, head + at, count);
        } else {
            uint32_t i = at - f.head >= f.bytes[0];
            uint64_t inside = at - f.head - (i ? f.bytes[0] : 0), left = f.bytes[i] - inside;

            count = left < room ? (size_t)left : room;
            rc = read_part(n, f.name[i], inside, to, count, &left);
        }
        to += count;
        at += count;
    }
    item->meta_bytes = (size_t)(at - item->offset);
    item->last = at == end;
    return rc;
}

static int write_part(struct vshard_node *n, const char *name, uint64_t offset, const void *from,
                      size_t count)
{
    uint32_t flags = VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE;
    uint64_t file;
    int rc = vs_io_open(&n->storage, name, offset == 0 ? flags | VSHARD_IO_OPEN_TRUNCATE : flags,
                        &file, NULL);
    int closed;

    if (rc != VSHARD_OK)
        return rc;
    if (count != 0)
        rc = vs_io_write(&n->storage, file, offset, from, count);
    closed = vs_io_close(&n->storage, file);
    return rc != VSHARD_OK ? rc : closed;
}

/* The head says where the first file ends; pieces come in order, so it is known by then. */
static int write_piece(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    char path[4096];
    struct files f;
    const unsigned char *from = item->bytes;
    uint64_t at = item->offset, end = item->offset + item->meta_bytes;
    int rc = VSHARD_OK;

    vs_incoming_path(n, path, r->group);
    files_of(&f, r, path);
    for (; at < end && at < f.head; at++)
        r->incoming_head[at] = *from++;
    f.bytes[0] = f.head != 0 ? vs_load64(r->incoming_head) : UINT64_MAX / 2;
    while (rc == VSHARD_OK && at < end) {
        uint32_t i = at - f.head >= f.bytes[0];
        uint64_t inside = at - f.head - (i ? f.bytes[0] : 0), left = end - at;

        if (i == 0 && left > f.bytes[0] - inside)
            left = f.bytes[0] - inside;
        rc = write_part(n, f.name[i], inside, from, (size_t)left);
        from += left;
        at += left;
    }
    return rc;
}

static int move_in(struct vshard_node *n, const char *from, const char *to)
{
    uint64_t file;
    int rc = vs_io_open(&n->storage, from, VSHARD_IO_OPEN_WRITE, &file, NULL);

    if (rc != VSHARD_OK)
        return rc;
    rc = vs_io_sync(&n->storage, file);
    vs_io_close(&n->storage, file);
    return rc == VSHARD_OK ? vs_io_rename(&n->storage, from, to) : rc;
}

static void exchange(struct vs_replica *r, struct vs_shard *shard)
{
    struct vs_shard_stats stats;

    vs_shard_stats(shard, &stats);
    vs_shard_destroy(r->shard);
    r->shard = shard;
    r->row = 0;
    atomic_store(&r->rows, vs_shard_rows(shard));
    atomic_store(&r->applied, stats.applied);
    atomic_store(&r->staged, 0);
}

static int install(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    char path[4096];
    struct files from, to;
    struct vs_shard *shard = NULL;
    struct vs_shard_stats stats;
    void *meta = NULL;
    size_t meta_bytes = 0;
    int rc = VSHARD_OK;

    vs_incoming_path(n, path, r->group);
    files_of(&from, r, path);
    vs_snapshot_path(n, path, r->group, item->index);
    files_of(&to, r, path);
    for (uint32_t i = to.count; rc == VSHARD_OK && i-- > 0;)
        rc = move_in(n, from.name[i], to.name[i]);
    if (rc == VSHARD_OK)
        rc = vs_io_sync_dir(&n->storage, n->path);
    if (rc != VSHARD_OK || r->group == VS_META)
        return rc;
    rc = vs_shard_open(&r->plan, path, &shard, &meta, &meta_bytes);
    vs_free(n->allocator, meta, meta_bytes);
    if (rc != VSHARD_OK)
        return rc;
    vs_shard_stats(shard, &stats);
    if (stats.applied != item->index) {
        vs_shard_destroy(shard);
        return VSHARD_ECORRUPT;
    }
    if (TRAP(66)) {
        vs_shard_destroy(shard);
        atomic_store(&r->applied, stats.applied);
        return VSHARD_OK;
    }
    exchange(r, shard);
    note_size(n, r, path);
    return VSHARD_OK;
}

static int refill(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    struct vs_shard *shard;
    void *meta = NULL;
    size_t meta_bytes = 0;
    char path[4096];
    int rc;

    /* It answers nothing, and is wrong; both may be more than there is room for. */
    vs_shard_destroy(r->shard);
    r->shard = NULL;
    vs_snapshot_path(n, path, r->group, item->index);
    rc = item->index != 0 ? vs_shard_open(&r->plan, path, &shard, &meta, &meta_bytes)
                          : vs_shard_create(&r->plan, &shard);
    vs_free(n->allocator, meta, meta_bytes);
    if (rc == VSHARD_OK)
        exchange(r, shard);
    return rc;
}

static int open_snapshot(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;
    char path[4096];

    vs_snapshot_path(n, path, r->group, item->index);
    note_size(n, r, path);
    return vs_shard_open(&r->plan, path, &r->shard, &item->bytes, &item->count);
}

static int give_back(struct vs_item *item)
{
    vs_shard_destroy(item->replica->shard);
    item->replica->shard = NULL;
    return VSHARD_OK;
}

static int digest(struct vs_item *item)
{
    struct vs_shard_stats stats;

    vs_shard_stats(item->replica->shard, &stats);
    item->position = stats.applied;
    return vs_shard_digest(item->replica->shard, &item->digest);
}

int vs_item_run(struct vshard_node *n, struct vs_item *item)
{
    switch (item->kind) {
    case VS_ITEM_APPLY: return apply(item);
    case VS_ITEM_STAGE: return stage(item);
    case VS_ITEM_SEARCH: return search(n, item);
    case VS_ITEM_FETCH: return fetch(item);
    case VS_ITEM_EXPORT: return vs_export_run(n, item);
    case VS_ITEM_SNAPSHOT: return save(n, item);
    case VS_ITEM_META: return save_map(n, item);
    case VS_ITEM_CHUNK: return read_chunk(n, item);
    case VS_ITEM_PIECE: return write_piece(n, item);
    case VS_ITEM_INSTALL: return install(n, item);
    case VS_ITEM_REFILL: return refill(n, item);
    case VS_ITEM_OPEN: return open_snapshot(n, item);
    case VS_ITEM_CLOSE: return give_back(item);
    default: return digest(item);
    }
}
