/* wal.c - the life of a log: options, open, poll, close. */
#include "wal/log.h"

enum { SEGMENT_MIN = 64 << 10, SEGMENT_MAX = 1 << 30, SEGMENT_DEFAULT = 32 << 20 };
enum { BARRIER_MIN = 4 << 10, BARRIER_DEFAULT = 1 << 20 };
enum { PENDING_DEFAULT = 64 << 20, REWRITE_DEFAULT = 256 << 10, REWRITE_ABOVE = 4 };

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int refuse(const struct vshard_wal_options *o, const char *field, uint64_t value,
                  uint64_t limit)
{
    return vs_refuse(o->log, VSHARD_EINVAL, "wal.refused", field, (int64_t)value, (int64_t)limit);
}

/* Puts the defaults in and refuses what is out of range. */
static int settle_options(struct vshard_wal_options *o)
{
    const uint32_t known = VSHARD_WAL_READ_ONLY | VSHARD_WAL_SALVAGE | VSHARD_WAL_STRICT |
                           VSHARD_WAL_UNPACKED | VSHARD_WAL_SPARSE | VSHARD_WAL_SEALED_ONLY;

    if (o->path == NULL || *o->path == '\0')
        return refuse(o, "path", 0, 0);
    if ((o->flags & ~known) != 0)
        return refuse(o, "flags", o->flags, known);
    if (o->tail > VSHARD_WAL_TAIL_CUT)
        return refuse(o, "tail", o->tail, VSHARD_WAL_TAIL_CUT);
    if (o->key_id != 0 && (o->hooks == NULL || o->hooks->key == NULL))
        return refuse(o, "key_id", o->key_id, 0);
    if (o->cipher > VSHARD_WAL_AES256_GCM)
        return refuse(o, "cipher", o->cipher, VSHARD_WAL_AES256_GCM);
    if (o->reserved != 0)
        return refuse(o, "reserved", o->reserved, 0);
    if ((o->flags & VSHARD_WAL_SEALED_ONLY) && o->key_id == 0 &&
        (o->flags & VSHARD_WAL_READ_ONLY) == 0)
        return refuse(o, "key_id", 0, 0);
    if (o->segment_bytes == 0)
        o->segment_bytes = SEGMENT_DEFAULT;
    o->segment_bytes = o->segment_bytes / VS_WAL_START * VS_WAL_START;
    if (o->segment_bytes < SEGMENT_MIN || o->segment_bytes > SEGMENT_MAX)
        return refuse(o, "segment_bytes", o->segment_bytes, SEGMENT_MAX);
    if (o->barrier_bytes == 0)
        o->barrier_bytes = smaller(BARRIER_DEFAULT, o->segment_bytes / 8);
    if (o->barrier_bytes < BARRIER_MIN || o->barrier_bytes > o->segment_bytes / 8)
        return refuse(o, "barrier_bytes", o->barrier_bytes, o->segment_bytes / 8);
    if (o->pending_bytes == 0)
        o->pending_bytes = PENDING_DEFAULT;
    if (o->rewrite_bytes == 0)
        o->rewrite_bytes = REWRITE_DEFAULT;
    o->rewrite_bytes = smaller(o->rewrite_bytes, o->segment_bytes / 8);
    if (o->rewrite_above == 0)
        o->rewrite_above = REWRITE_ABOVE;
    return VSHARD_OK;
}

static int copy_hooks(struct vshard_wal *w, const struct vshard_wal_options *o)
{
    if (o->log != NULL) {
        w->logger = *o->log;
        w->log = &w->logger;
    }
    if (o->storage != NULL)
        w->storage = *o->storage;
    else
        vshard_storage_posix(&w->storage);
    if (o->hooks != NULL) {
        int rc = vs_options_read(&w->hooks, sizeof w->hooks, o->hooks,
                                 VS_SIZE_THROUGH(struct vshard_wal_hooks, progress));
        if (rc < 0)
            return rc;
    }
    if (o->entropy != NULL) {
        w->entropy = *o->entropy;
        return VSHARD_OK;
    }
    return vshard_entropy_default(&w->entropy);
}

static int make_task(struct vshard_wal *w, struct vs_wal_task *t)
{
    t->wal = w;
    t->path = vs_alloc(w->allocator, w->path_bytes);
    t->path_to = vs_alloc(w->allocator, w->path_bytes);
    return t->path != NULL && t->path_to != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int make_buffers(struct vshard_wal *w, const char *path)
{
    w->path_bytes = strlen(path) + VS_WAL_NAME;
    w->path = vs_alloc(w->allocator, w->path_bytes);
    if (w->path == NULL)
        return VSHARD_ENOMEM;
    memcpy(w->path, path, strlen(path) + 1);
    if (w->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_OK;
    w->super_bytes = vs_alloc_zeroed(w->allocator, 2 * VS_WAL_SUPER_SLOT);
    w->zeros = vs_alloc_zeroed(w->allocator, vs_wal_piece(w, VS_WAL_PIECES));
    w->head_bytes = vs_alloc_zeroed(w->allocator, VS_WAL_START);
    if (w->super_bytes == NULL || w->zeros == NULL || w->head_bytes == NULL ||
        make_task(w, &w->flight) < 0 || make_task(w, &w->maker) < 0 ||
        make_task(w, &w->trimmer) < 0 || make_task(w, &w->keeper) < 0)
        return VSHARD_ENOMEM;
    return VSHARD_OK;
}

static int create(struct vshard_wal_options *o, struct vshard_wal **out)
{
    struct vshard_wal *w = vs_alloc_zeroed(o->allocator, sizeof *w);

    if (w == NULL)
        return VSHARD_ENOMEM;
    if (o->allocator != NULL) {
        w->memory = *o->allocator;
        w->allocator = &w->memory;
    }
    w->options = *o;
    w->index.allocator = w->allocator;
    w->blobs_end = &w->blobs;
    *out = w;
    return VSHARD_OK;
}

static int tell(struct vshard_wal_report *report, const struct vshard_wal_report *found)
{
    return vs_report_write(report, found, sizeof *found,
                           VS_SIZE_THROUGH(struct vshard_wal_report, removed));
}

int vshard_wal_open(const struct vshard_wal_options *options, struct vshard_wal_report *report,
                    struct vshard_wal **wal)
{
    struct vshard_wal_report found = { .size = sizeof found };
    struct vshard_wal_options o;
    struct vshard_wal *w = NULL;
    int rc;

    if (wal == NULL)
        return VSHARD_EINVAL;
    *wal = NULL;
    rc = vs_options_read(&o, sizeof o, options, VS_SIZE_THROUGH(struct vshard_wal_options, hooks));
    if (rc == VSHARD_OK)
        rc = settle_options(&o);
    if (rc == VSHARD_OK && report != NULL) /* before anything is made, cut or counted */
        rc = tell(report, &found);
    if (rc == VSHARD_OK)
        rc = create(&o, &w);
    if (rc == VSHARD_OK)
        rc = copy_hooks(w, &o);
    if (rc == VSHARD_OK)
        rc = make_buffers(w, o.path);
    if (rc == VSHARD_OK && (o.flags & VSHARD_WAL_READ_ONLY) == 0)
        rc = vs_wal_key_use(w, o.key_id);
    if (rc == VSHARD_OK)
        rc = vs_wal_recover(w, &found);
    if (report != NULL)
        tell(report, &found);
    if (rc < 0) {
        if (w != NULL)
            w->status = rc; /* nothing is written on the way out */
        vshard_wal_close(w);
        return rc;
    }
    *wal = w;
    return VSHARD_OK;
}

int vshard_wal_poll(struct vshard_wal *wal, uint64_t *durable)
{
    if (wal == NULL)
        return VSHARD_EINVAL;
    wal->stats.status = VSHARD_OK;
    if ((wal->options.flags & VSHARD_WAL_READ_ONLY) == 0)
        vs_wal_pump(wal);
    if (durable != NULL)
        *durable = wal->durable.seq;
    if (wal->status < 0)
        return wal->status;
    return wal->full || wal->tight ? VSHARD_ENOSPC : wal->stats.status;
}

int vshard_wal_sync(struct vshard_wal *wal, uint64_t barrier)
{
    int rc;

    if (wal == NULL || barrier >= vs_wal_next_seq(wal))
        return VSHARD_EINVAL;
    while (wal->durable.seq < barrier) {
        rc = vshard_wal_poll(wal, NULL);
        if (wal->durable.seq >= barrier)
            break;
        if (rc < 0 && (rc != VSHARD_ENOSPC || wal->full)) /* else there is room for these */
            return rc;
        if (!vs_wal_wait(wal))
            return rc < 0 ? rc : VSHARD_EBUSY; /* nothing is under way and nothing could be begun */
    }
    return VSHARD_OK;
}

int vshard_wal_witness(struct vshard_wal *wal)
{
    if (wal == NULL)
        return VSHARD_EINVAL;
    if (wal->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_ENOTSUP;
    wal->witness = 1;
    vs_wal_pump(wal);
    return wal->status;
}

int vshard_wal_settle(struct vshard_wal *wal)
{
    struct vs_wal_super before;
    int rc;

    if (wal == NULL)
        return VSHARD_EINVAL;
    if (wal->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_ENOTSUP;
    while (wal->keeper.busy) {
        wal->storage.wait(wal->storage.ctx, &wal->keeper.io);
        vs_wal_pump(wal);
    }
    if (wal->status < 0)
        return wal->status;
    before = wal->super;
    wal->super.flags &= ~(uint32_t)VS_WAL_UNSETTLED;
    wal->super.unsettled_from = 0;
    wal->super.durable = wal->durable;
    rc = vs_wal_super_put(wal);
    if (rc == VSHARD_ENOSPC) { /* the newest pair of slots is whole, and says what it said */
        wal->super = before;
        wal->stats.refused_space++;
        return rc;
    }
    if (rc == VSHARD_OK)
        rc = vs_wal_super_sync(wal);
    if (rc < 0) {
        vs_wal_poison(wal, "superblock");
        return VSHARD_EIO;
    }
    wal->unsettled = 0;
    return VSHARD_OK;
}

int vshard_wal_rotate(struct vshard_wal *wal, uint32_t key_id)
{
    int rc;

    if (wal == NULL || (key_id != 0 && wal->hooks.key == NULL))
        return VSHARD_EINVAL;
    if (wal->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_ENOTSUP;
    if (wal->status < 0)
        return wal->status;
    if ((wal->options.flags & VSHARD_WAL_SEALED_ONLY) && key_id == 0)
        return VSHARD_EINVAL;
    if (key_id != wal->key_id) {
        rc = vs_wal_key_use(wal, key_id);
        if (rc < 0)
            return rc;
        wal->witness = 1; /* the superblock changes keys, too */
        wal->unwanted |= wal->spares;
        wal->spares = 0;
    }
    wal->rotate = 1;
    return VSHARD_OK;
}

int vshard_wal_stats_read(const struct vshard_wal *wal, struct vshard_wal_stats *stats)
{
    struct vshard_wal_stats s;

    if (wal == NULL)
        return VSHARD_EINVAL;
    s = wal->stats;
    s.status = wal->status < 0 ? wal->status : wal->full || wal->tight ? VSHARD_ENOSPC : VSHARD_OK;
    s.unsettled = wal->unsettled;
    s.appended = vs_wal_next_seq(wal) - 1;
    s.durable = wal->durable.seq;
    s.pending_bytes = wal->pending_bytes;
    s.segments = wal->index.segment_count;
    s.oldest = s.segments > 0 ? wal->index.segments[0].id : 0;
    s.cipher = wal->cipher;
    s.other_keys = wal->signed_with != wal->key_id;
    s.other_keys += wal->unwanted != 0 || (wal->keeper.busy && wal->keeping_key != wal->key_id);
    for (size_t i = 0; i < wal->index.segment_count; i++)
        s.other_keys += wal->index.segments[i].key.id != wal->key_id;
    s.groups = 0;
    for (size_t i = 0; i < wal->index.group_count; i++)
        s.groups += vs_wal_group_held(wal->index.groups[i]);
    return vs_report_write(stats, &s, sizeof s, VS_SIZE_THROUGH(struct vshard_wal_stats, removed));
}

/* ---- the end ---- */

static void free_batches(struct vshard_wal *w, struct vs_wal_batch *b)
{
    while (b != NULL) {
        struct vs_wal_batch *next = b->next;

        vs_wal_bytes_fini(w, &b->urgent);
        vs_wal_bytes_fini(w, &b->bulk);
        vs_free(w->allocator, b, sizeof *b);
        b = next;
    }
}

static void close_file(struct vshard_wal *w, struct vs_wal_file *f)
{
    if (f->open)
        vs_io_close(&w->storage, f->file);
    vs_wipe(&f->key, sizeof f->key);
    f->open = 0;
}

/* Leaves the directory as small as it can be: the space behind the last batch, and
 * the segment made ahead, would never be used again, and spares perhaps not for long.
 * Failing at it harms nobody. */
static void tidy(struct vshard_wal *w)
{
    int rc = VSHARD_OK;

    /* A batch that was under way must be gone for good before the superblock calls the end
     * durable: the next run writes another one of that number. */
    if (w->current.open && w->current.end < w->current.bytes) {
        rc = vs_io_resize(&w->storage, w->current.file, w->current.end);
        if (rc == VSHARD_OK)
            rc = vs_io_sync(&w->storage, w->current.file);
    }
    if (rc == VSHARD_OK && w->super.durable.seq < w->durable.seq) {
        w->super.durable = w->durable;
        w->super.next_segment = w->next_segment;
        vs_wal_super_store(w);
    }
    if (w->making.open) {
        close_file(w, &w->making);
        vs_wal_segment_path(w, w->making.head.segment, ".wal", w->maker.path);
        vs_io_remove(&w->storage, w->maker.path);
    }
    w->spares |= w->unwanted;
    vs_wal_drop_spares(w);
}

/* Lets every request end, and starts no new one. */
static void quiet(struct vshard_wal *w)
{
    int status = w->status;

    w->status = VSHARD_ECANCELED;
    while (vs_wal_wait(w))
        vs_wal_pump(w);
    if (w->status == VSHARD_ECANCELED)
        w->status = status;
}

static void free_task(struct vshard_wal *w, struct vs_wal_task *t)
{
    vs_free(w->allocator, t->path, w->path_bytes);
    vs_free(w->allocator, t->path_to, w->path_bytes);
}

void vshard_wal_close(struct vshard_wal *wal)
{
    struct vshard_wal *w = wal;
    struct vshard_allocator memory;

    if (w == NULL)
        return;
    quiet(w);
    if (w->status == VSHARD_OK && (w->options.flags & VSHARD_WAL_READ_ONLY) == 0)
        tidy(w);
    close_file(w, &w->current);
    close_file(w, &w->making);
    close_file(w, &w->old);
    if (w->super_open)
        vs_io_close(&w->storage, w->super_file);
    free_batches(w, w->first);
    free_batches(w, w->idle);
    while (w->blobs != NULL) {
        struct vs_wal_blob *b = w->blobs;

        w->blobs = b->next;
        vs_wal_blob_free(&w->index, b);
    }
    vs_wal_index_fini(&w->index);
    vs_wal_bytes_fini(w, &w->body);
    vs_wal_bytes_fini(w, &w->packed);
    vs_wal_bytes_fini(w, &w->image);
    vs_wal_bytes_fini(w, &w->sectors);
    free_task(w, &w->flight);
    free_task(w, &w->maker);
    free_task(w, &w->trimmer);
    free_task(w, &w->keeper);
    vs_wipe(&w->super_key, sizeof w->super_key);
    vs_free(w->allocator, w->super_bytes, 2 * VS_WAL_SUPER_SLOT);
    vs_free(w->allocator, w->zeros, vs_wal_piece(w, VS_WAL_PIECES));
    vs_free(w->allocator, w->head_bytes, VS_WAL_START);
    vs_free(w->allocator, w->path, w->path_bytes);
    memory = w->memory;
    vs_free(w->allocator ? &memory : NULL, w, sizeof *w);
}
