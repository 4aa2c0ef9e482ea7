/* cut.c - what recovery does about the end it has judged.
 *
 * The order matters, since each step may be the last before the next crash: first
 * the superblock says that records may be missing, then the last batch is written
 * again and the file cut behind it, then files that hold nothing are removed, and
 * only then is the end called durable. See recover.c for why. */
#include "wal/recover.h"

static bool must_flag(const struct vs_wal_scan *s)
{
    return s->report->verdict == VSHARD_WAL_CORRUPT ||
           (s->report->verdict == VSHARD_WAL_UNCERTAIN &&
            s->w->options.tail != VSHARD_WAL_TAIL_CUT);
}

/* Says that records may be missing, before any is removed. */
static int flag_unsettled(struct vs_wal_scan *s)
{
    struct vshard_wal *w = s->w;

    if (!must_flag(s))
        return VSHARD_OK;
    if ((w->super.flags & VS_WAL_UNSETTLED) == 0 || w->super.unsettled_from > s->at.seq + 1)
        w->super.unsettled_from = s->at.seq + 1;
    w->super.flags |= VS_WAL_UNSETTLED;
    s->report->unsettled = 1;
    return vs_wal_super_store(w);
}

/* Copies what is about to be cut into "<segment>.cut". */
static int keep_aside(struct vs_wal_scan *s, uint64_t file, uint64_t from, uint64_t to)
{
    struct vshard_wal *w = s->w;
    char *path = vs_alloc(w->allocator, w->path_bytes);
    unsigned char *buffer = vs_alloc(w->allocator, VS_WAL_WINDOW);
    uint64_t aside = 0;
    int rc = VSHARD_ENOMEM;

    if (path == NULL || buffer == NULL)
        goto done;
    vs_wal_segment_path(w, s->at.segment, ".cut", path);
    rc = vs_io_open(&w->storage, path,
                    VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE, &aside,
                    NULL);
    if (rc < 0)
        goto done;
    for (uint64_t at = from; at < to && rc == VSHARD_OK; at += VS_WAL_WINDOW) {
        size_t n = to - at < VS_WAL_WINDOW ? (size_t)(to - at) : VS_WAL_WINDOW;

        rc = vs_io_read(&w->storage, file, at, buffer, n);
        if (rc == VSHARD_OK)
            rc = vs_io_write(&w->storage, aside, at - from, buffer, n);
    }
    if (rc == VSHARD_OK)
        rc = vs_io_sync(&w->storage, aside);
    vs_io_close(&w->storage, aside);
    if (rc == VSHARD_OK)
        rc = vs_io_sync_dir(&w->storage, w->path);
done:
    vs_free(w->allocator, buffer, VS_WAL_WINDOW);
    vs_free(w->allocator, path, w->path_bytes);
    return rc;
}

/* Writes the last batch again with the bytes it has. */
static int write_again(struct vs_wal_scan *s, uint64_t file)
{
    size_t bytes = s->last_sectors * VS_WAL_SECTOR;
    unsigned char *sectors = vs_alloc(s->w->allocator, bytes);
    int rc = VSHARD_ENOMEM;

    if (sectors != NULL)
        rc = vs_io_read(&s->w->storage, file, s->last_offset, sectors, bytes);
    if (rc == VSHARD_OK)
        rc = vs_io_write(&s->w->storage, file, s->last_offset, sectors, bytes);
    vs_free(s->w->allocator, sectors, bytes);
    return rc;
}

/* Cuts the segment in which the log ends, and makes its last batch durable. */
static int settle_tail(struct vs_wal_scan *s)
{
    struct vshard_wal *w = s->w;
    uint64_t file, bytes, aside_to = s->found.last > s->at.end ? s->found.last : s->at.end;
    char *path;
    int rc;

    if (s->last_sectors == 0)
        return VSHARD_OK;
    path = vs_alloc(w->allocator, w->path_bytes);
    if (path == NULL)
        return VSHARD_ENOMEM;
    vs_wal_segment_path(w, s->at.segment, ".wal", path);
    rc = vs_io_open(&w->storage, path, VSHARD_IO_OPEN_WRITE, &file, &bytes);
    vs_free(w->allocator, path, w->path_bytes);
    if (rc < 0)
        return rc;
    if (aside_to > bytes)
        aside_to = bytes;
    if (s->report->verdict == VSHARD_WAL_CORRUPT && aside_to > s->at.end)
        rc = keep_aside(s, file, s->at.end, aside_to);
    if (rc == VSHARD_OK && s->at.seq > w->super.durable.seq)
        rc = write_again(s, file);
    if (rc == VSHARD_OK && bytes > s->at.end)
        rc = vs_io_resize(&w->storage, file, s->at.end);
    if (rc == VSHARD_OK)
        rc = vs_io_sync(&w->storage, file);
    if (rc == VSHARD_OK)
        s->report->removed += aside_to - s->at.end;
    vs_io_close(&w->storage, file);
    return rc;
}

static int remove_segment(struct vs_wal_scan *s, uint64_t id, bool keep)
{
    struct vshard_wal *w = s->w;
    char *path = vs_alloc(w->allocator, 2 * w->path_bytes);
    int rc;

    if (path == NULL)
        return VSHARD_ENOMEM;
    vs_wal_segment_path(w, id, ".wal", path);
    vs_wal_segment_path(w, id, ".bad", path + w->path_bytes);
    rc = keep ? vs_io_rename(&w->storage, path, path + w->path_bytes)
              : vs_io_remove(&w->storage, path);
    vs_free(w->allocator, path, 2 * w->path_bytes);
    return rc == VSHARD_ENOTFOUND ? VSHARD_OK : rc;
}

/* Removes what an earlier run was removing, and every file without a whole batch,
 * which a corrupt log keeps under another name. */
static int remove_files(struct vs_wal_scan *s, uint64_t *leftovers, size_t leftover_count)
{
    struct vs_wal_index *index = &s->w->index;
    bool keep = s->report->verdict == VSHARD_WAL_CORRUPT, changed = leftover_count > 0;
    int rc = VSHARD_OK;

    for (size_t i = 0; i < leftover_count && rc == VSHARD_OK; i++)
        rc = remove_segment(s, leftovers[i], false);
    for (size_t i = index->segment_count; i-- > 0 && rc == VSHARD_OK;) {
        if (index->segments[i].end > VS_WAL_START)
            continue;
        rc = remove_segment(s, index->segments[i].id, keep);
        if (rc == VSHARD_OK)
            vs_wal_segment_drop(index, i);
        changed = true;
    }
    return rc == VSHARD_OK && changed ? vs_io_sync_dir(&s->w->storage, s->w->path) : rc;
}

/* What an earlier run has left is not used again: a log that is made anew, or goes on from
 * further back, must not find batches of its past, whose numbers are not lower. */
int vs_wal_drop_spares(struct vshard_wal *w)
{
    char *path = vs_alloc(w->allocator, w->path_bytes);
    int rc = path == NULL ? VSHARD_ENOMEM : VSHARD_OK;
    bool any = w->spares != 0;

    for (uint32_t i = 0; i < VS_WAL_SPARES && rc == VSHARD_OK; i++) {
        if ((w->spares >> i & 1) == 0)
            continue;
        vs_wal_spare_path(w, i, path);
        rc = vs_io_remove(&w->storage, path);
        rc = rc == VSHARD_ENOTFOUND ? VSHARD_OK : rc;
        w->spares &= ~(1u << i);
    }
    vs_free(w->allocator, path, w->path_bytes);
    return rc == VSHARD_OK && any ? vs_io_sync_dir(&w->storage, w->path) : rc;
}

/* There were segments and no file of that name. */
static int remake_super(struct vshard_wal *w)
{
    int rc = vs_wal_super_make(w);

    return rc < 0 ? rc : vs_io_sync_dir(&w->storage, w->path);
}

int vs_wal_repair(struct vs_wal_scan *s, uint64_t *leftovers, size_t leftover_count)
{
    struct vshard_wal *w = s->w;
    int rc;

    rc = vs_wal_drop_spares(w);
    if (rc == VSHARD_OK && !w->super_open)
        rc = remake_super(w);
    if (rc == VSHARD_OK)
        rc = flag_unsettled(s);
    if (rc == VSHARD_OK && (s->report->verdict != VSHARD_WAL_CLEAN || s->super_lost ||
                            s->at.seq != w->super.durable.seq))
        rc = settle_tail(s);
    if (rc == VSHARD_OK)
        rc = remove_files(s, leftovers, leftover_count);
    if (rc < 0)
        return rc;
    w->super.durable = s->at;
    w->super.boot++;
    return vs_wal_super_store(w);
}
