/* save.c - an index into a file, whole or not at all.
 *
 * Everything goes under a temporary name, is synced, takes the place of the old file
 * by renaming, and the directory is synced. A crash at any moment leaves the old file
 * or the new one. Not here: what the bytes mean, which is image.c. */
#include "index/image.h"

struct saving {
    struct vshard_index *x;
    struct vs_image_layout layout;
    unsigned char *sums;
    size_t sums_bytes;
    char *temporary; /* path + ".tmp" */
    char *directory; /* of path */
    size_t path_bytes;
    uint64_t file;
};

static const char suffix[] = ".tmp";

static int make_names(struct saving *s, const char *path)
{
    size_t n = strlen(path), at = n;

    s->path_bytes = n + sizeof suffix + 2;
    s->temporary = vs_alloc(s->x->allocator, s->path_bytes);
    s->directory = vs_alloc(s->x->allocator, s->path_bytes);
    if (s->temporary == NULL || s->directory == NULL)
        return VSHARD_ENOMEM;
    memcpy(s->temporary, path, n);
    memcpy(s->temporary + n, suffix, sizeof suffix);
    while (at > 0 && path[at - 1] != '/')
        at--;
    if (at == 0) {
        memcpy(s->directory, ".", 2);
    } else {
        memcpy(s->directory, path, at);
        s->directory[at] = 0;
    }
    return VSHARD_OK;
}

static int write_low(struct saving *s)
{
    const struct vshard_index *x = s->x;
    size_t bytes = x->quantizer.code_dim * sizeof(float);
    uint64_t at = s->layout.low;
    int rc = vs_io_write(x->storage, s->file, at, x->quantizer.low, bytes);

    if (rc < 0 || !vs_sketch_has_axes(x))
        return rc;
    at += bytes;
    rc = vs_io_write(x->storage, s->file, at, x->sketcher.low, sizeof x->sketcher.low);
    at += sizeof x->sketcher.low;
    return rc < 0 ? rc
                  : vs_io_write(x->storage, s->file, at, x->sketcher.axes, vs_sketcher_bytes(x));
}

/* The first `count` rows of a column, from `at` on. */
static int write_rows(struct saving *s, const struct vs_column *c, uint32_t count, uint64_t at)
{
    int rc = VSHARD_OK;

    for (uint32_t first = 0; rc == VSHARD_OK && first < count; first += VS_EXTENT_ROWS) {
        uint32_t n = count - first < VS_EXTENT_ROWS ? count - first : VS_EXTENT_ROWS;

        rc = vs_io_write(s->x->storage, s->file, at + first * c->stride, vs_column_at(c, first),
                         n * c->stride);
    }
    return rc;
}

static int write_attributes(struct saving *s)
{
    const struct vs_attributes *t = &s->x->attributes;
    int rc = VSHARD_OK;

    if (t->count > 0)
        rc = vs_io_write(s->x->storage, s->file, s->layout.schema, t->schema,
                         t->count * sizeof *t->schema);
    return rc < 0 ? rc : write_rows(s, &t->keywords.cells, t->keywords.count, s->layout.keywords);
}

static int write_column(struct saving *s, int column)
{
    size_t stride = vs_image_stride(s->x, column);
    struct vs_row rows[VS_EXTENT_ROWS];
    uint64_t at = s->layout.column[column];
    int rc = VSHARD_OK;

    for (uint32_t e = 0; stride > 0 && rc == VSHARD_OK && e < s->layout.extents; e++) {
        size_t bytes = vs_image_rows(s->x, e) * stride;

        rc = vs_io_write(s->x->storage, s->file, at, vs_image_extent(s->x, column, e, rows), bytes);
        at += bytes;
    }
    return rc;
}

static int write_all(struct saving *s)
{
    const struct vshard_storage *storage = s->x->storage;
    unsigned char header[IMAGE_HEADER_BYTES];
    static const unsigned char last = 0;
    int rc;

    vs_image_sums(s->x, s->sums, s->layout.extents);
    vs_image_encode(s->x, s->sums, header);
    /* The file ends at a multiple of the alignment. This goes first, because some
     * section's own last byte may lie there. */
    rc = vs_io_write(storage, s->file, s->layout.end - 1, &last, 1);
    if (rc == VSHARD_OK)
        rc = vs_io_write(storage, s->file, 0, header, sizeof header);
    if (rc == VSHARD_OK)
        rc = write_low(s);
    if (rc == VSHARD_OK)
        rc = write_rows(s, &s->x->entries, atomic_load(&s->x->entry_count), s->layout.entries);
    if (rc == VSHARD_OK && s->layout.extents > 0)
        rc = vs_io_write(storage, s->file, s->layout.sums, s->sums, s->sums_bytes);
    for (int i = 0; rc == VSHARD_OK && i < vs_image_columns(s->x); i++)
        rc = write_column(s, i);
    if (rc == VSHARD_OK)
        rc = write_attributes(s);
    return rc;
}

/* Nothing is changed meanwhile: the file is the index between two calls. */
static int write_at_rest(struct saving *s)
{
    int rc = VSHARD_ENOMEM;

    vs_lock_share(&s->x->lock);
    vs_image_layout(s->x, &s->layout);
    s->sums_bytes = vs_image_sums_bytes(s->x);
    s->sums = vs_alloc(s->x->allocator, s->sums_bytes);
    if (s->sums != NULL)
        rc = write_all(s);
    vs_lock_leave(&s->x->lock);
    vs_free(s->x->allocator, s->sums, s->sums_bytes);
    return rc;
}

static int write_and_rename(struct saving *s, const char *path)
{
    const struct vshard_storage *storage = s->x->storage;
    uint64_t bytes;
    int closed, rc;

    rc = vs_io_open(storage, s->temporary,
                    VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE,
                    &s->file, &bytes);
    if (rc < 0)
        return rc;
    rc = write_at_rest(s);
    if (rc == VSHARD_OK) /* which takes longer, and no change need wait for it */
        rc = vs_io_sync(storage, s->file);
    closed = vs_io_close(storage, s->file);
    if (rc == VSHARD_OK)
        rc = closed;
    if (rc == VSHARD_OK)
        rc = vs_io_rename(storage, s->temporary, path);
    if (rc < 0) {
        vs_io_remove(storage, s->temporary);
        return rc;
    }
    /* The new file is there, and stays unless a crash brings the old one back. */
    return vs_io_sync_dir(storage, s->directory) < 0 ? VSHARD_EUNKNOWN : VSHARD_OK;
}

static int save(struct vshard_index *x, const char *path)
{
    struct saving s = { .x = x };
    int rc = make_names(&s, path);

    if (rc == VSHARD_OK)
        rc = write_and_rename(&s, path);
    vs_free(x->allocator, s.directory, s.path_bytes);
    vs_free(x->allocator, s.temporary, s.path_bytes);
    return rc;
}

int vshard_index_save(struct vshard_index *index, const char *path)
{
    int rc = VSHARD_OK;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (path == NULL || path[0] == 0 || strlen(path) > PATH_MAX_BYTES)
        return vs_refuse(index->logger, VSHARD_EINVAL, "save.refused", "path: bytes",
                         path ? (int64_t)strlen(path) : 0, PATH_MAX_BYTES);
    if (index->mapping.bytes != NULL)
        rc = vshard_index_check(index, NULL); /* so that damage is not given a new checksum */
    if (rc == VSHARD_OK)
        rc = save(index, path);
    if (rc < 0)
        vs_log(index->logger, VSHARD_LOG_ERROR, "save.failed",
               (struct vs_field[]){ { "path", path, 0, NULL },
                                    { "status", vshard_strerror(rc), 0, NULL } },
               2);
    return rc;
}
