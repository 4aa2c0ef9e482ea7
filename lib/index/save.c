/* save.c - an index into a file, whole or not at all.
 *
 * The file is the index as it was when the save began; changes go on beside it (keep.c).
 * Everything goes under a temporary name, is synced, takes the place of the old file
 * by renaming, and the directory is synced. A crash at any moment leaves the old file
 * or the new one. Not here: what the bytes mean, which is image.c. */
#include "index/save.h"

static const char suffix[] = ".tmp";

int vs_saving_names(struct vs_saving *s, const char *path)
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

void vs_saving_free_names(struct vs_saving *s)
{
    vs_free(s->x->allocator, s->directory, s->path_bytes);
    vs_free(s->x->allocator, s->temporary, s->path_bytes);
}

/* ---- what is small, copied when the save begins ---- */

/* The first `count` rows of a column, one after the other. */
static void copy_rows(unsigned char *to, const struct vs_column *c, uint32_t count)
{
    for (uint32_t first = 0; first < count; first += VS_EXTENT_ROWS) {
        uint32_t n = count - first < VS_EXTENT_ROWS ? count - first : VS_EXTENT_ROWS;

        memcpy(to + first * c->stride, vs_column_at(c, first), n * c->stride);
    }
}

static void copy_low(const struct vshard_index *x, unsigned char *to)
{
    size_t bytes = x->quantizer.low_dim * sizeof(float);

    memcpy(to, x->quantizer.low, bytes);
    if (!vs_sketch_has_axes(x))
        return;
    memcpy(to + bytes, x->sketcher.low, sizeof x->sketcher.low);
    memcpy(to + bytes + sizeof x->sketcher.low, x->sketcher.axes, vs_sketcher_bytes(x));
}

static int alloc_copy(struct vs_saving *s, struct vs_copy *c, size_t bytes)
{
    c->count = bytes;
    c->bytes = vs_alloc(s->x->allocator, bytes);
    return c->bytes != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int copy_small(struct vs_saving *s)
{
    struct vshard_index *x = s->x;
    const struct vs_keywords *k = &x->attributes.keywords;
    uint32_t entries = atomic_load(&x->entry_count), keywords = atomic_load(&k->count);

    if (alloc_copy(s, &s->low, vs_image_low_bytes(x)) < 0 ||
        alloc_copy(s, &s->entries, entries * x->entries.stride) < 0 ||
        alloc_copy(s, &s->keywords, keywords * k->cells.stride) < 0)
        return VSHARD_ENOMEM;
    copy_low(x, s->low.bytes);
    copy_rows(s->entries.bytes, &x->entries, entries);
    copy_rows(s->keywords.bytes, &k->cells, keywords);
    return VSHARD_OK;
}

/* Notes the index as it is, while no change is under way: that is the file. */
int vs_saving_begin(struct vs_saving *s)
{
    struct vshard_index *x = s->x;
    int rc;

    vs_image_layout(x, &s->layout);
    vs_image_encode(x, s->header);
    s->sums_bytes = vs_image_sums_bytes(x);
    s->sums = vs_alloc_zeroed(x->allocator, s->sums_bytes);
    s->extent_bytes = vs_image_extent_bytes(x);
    s->extent = vs_alloc(x->allocator, s->extent_bytes);
    rc = copy_small(s);
    if (rc == VSHARD_OK && (s->sums == NULL || s->extent == NULL))
        rc = VSHARD_ENOMEM;
    return rc < 0 ? rc : vs_keep_begin(x);
}

/* From here on the file is the index as it is now: between two calls that change it. */
static int begin(struct vs_saving *s)
{
    int rc;

    vs_lock_share(&s->x->lock);
    rc = vs_saving_begin(s);
    vs_lock_leave(&s->x->lock);
    return rc;
}

void vs_saving_end(struct vs_saving *s)
{
    const struct vshard_allocator *a = s->x->allocator;

    vs_free(a, s->low.bytes, s->low.count);
    vs_free(a, s->entries.bytes, s->entries.count);
    vs_free_wiped(a, s->keywords.bytes, s->keywords.count);
    vs_free_wiped(a, s->extent, s->extent_bytes);
    vs_free(a, s->sums, s->sums_bytes);
}

/* ---- beside changes ---- */

static int write_copy(const struct vs_saving *s, const struct vs_copy *c, uint64_t at)
{
    return c->count > 0 ? vs_io_write(s->x->storage, s->file, at, c->bytes, c->count) : VSHARD_OK;
}

static int write_column(struct vs_saving *s, uint32_t column)
{
    struct vshard_index *x = s->x;
    size_t stride = x->keep.stride[column];
    uint64_t at = s->layout.column[column];
    int rc = VSHARD_OK;

    for (uint32_t e = 0; stride > 0 && rc == VSHARD_OK && e < s->layout.extents; e++) {
        uint32_t left = x->keep.slots - e * VS_EXTENT_ROWS;
        size_t bytes = (left < VS_EXTENT_ROWS ? left : VS_EXTENT_ROWS) * stride;

        rc = vs_keep_take(x, column, e, s->extent);
        if (rc < 0)
            return rc;
        vs_store64(s->sums + ((size_t)column * s->layout.extents + e) * 8,
                   vs_checksum(s->extent, bytes, 0));
        rc = vs_io_write(x->storage, s->file, at, s->extent, bytes);
        vs_keep_pause(x);
        at += bytes;
    }
    return rc;
}

/* Edges first: changes write to more rows of this column than of all others. */
static int write_columns(struct vs_saving *s)
{
    int rc = write_column(s, IMAGE_EDGES);

    for (uint32_t i = 0; rc == VSHARD_OK && i < s->x->keep.columns; i++) {
        if (i != IMAGE_EDGES)
            rc = write_column(s, i);
    }
    return rc;
}

/* Attributes as they were declared do not change, so they are not copied. */
static int write_schema(const struct vs_saving *s, uint64_t at)
{
    const struct vs_attributes *t = &s->x->attributes;

    return t->count > 0
               ? vs_io_write(s->x->storage, s->file, at, t->schema, t->count * sizeof *t->schema)
               : VSHARD_OK;
}

static int write_sums(const struct vs_saving *s, uint64_t at)
{
    const struct vs_copy sums = { s->sums, s->sums_bytes };

    return write_copy(s, &sums, at);
}

int vs_saving_pad(struct vs_saving *s, const struct vs_image_layout *layout)
{
    static const unsigned char last = 0;

    return vs_io_write(s->x->storage, s->file, layout->end - 1, &last, 1);
}

int vs_saving_small(struct vs_saving *s, const struct vs_image_layout *layout)
{
    int rc = write_copy(s, &s->low, layout->low);

    if (rc == VSHARD_OK)
        rc = write_copy(s, &s->entries, layout->entries);
    if (rc == VSHARD_OK)
        rc = write_copy(s, &s->keywords, layout->keywords);
    if (rc == VSHARD_OK)
        rc = write_schema(s, layout->schema);
    if (rc == VSHARD_OK)
        rc = write_sums(s, layout->sums);
    vs_image_seal(s->header, s->sums, s->sums_bytes);
    return rc < 0
               ? rc
               : vs_io_write(s->x->storage, s->file, layout->header, s->header, sizeof s->header);
}

int vs_saving_all(struct vs_saving *s)
{
    int rc = vs_saving_pad(s, &s->layout);

    if (rc == VSHARD_OK)
        rc = write_columns(s);
    vs_keep_end(s->x);
    s->noted = true;
    return rc < 0 ? rc : vs_saving_small(s, &s->layout);
}

/* Changes go on beside it, see keep.c; what was noted for them is freed between two. */
static int write_position(struct vs_saving *s)
{
    int rc = begin(s);

    if (rc == VSHARD_OK)
        rc = vs_saving_all(s);
    vs_saving_end(s);
    return rc;
}

void vs_saving_forget(struct vs_saving *s)
{
    if (!s->noted)
        return;
    vs_lock_share(&s->x->lock);
    vs_keep_free(s->x);
    vs_lock_leave(&s->x->lock);
}

static int write_and_rename(struct vs_saving *s, const char *path)
{
    const struct vshard_storage *storage = s->x->storage;
    uint64_t bytes;
    int closed, rc;

    rc = vs_io_open(storage, s->temporary,
                    VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE,
                    &s->file, &bytes);
    if (rc < 0)
        return rc;
    rc = write_position(s);
    if (rc == VSHARD_OK)
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
    struct vs_saving s = { .x = x };
    int rc = vs_saving_names(&s, path);

    vs_lock_take(&x->keep.turn);
    if (rc == VSHARD_OK)
        rc = write_and_rename(&s, path);
    vs_saving_forget(&s);
    vs_lock_leave(&x->keep.turn);
    vs_saving_free_names(&s);
    return rc;
}

int vs_save_call(struct vshard_index *x, const char *path,
                 int (*save_to)(struct vshard_index *x, const char *path))
{
    int rc = VSHARD_OK;

    if (x == NULL)
        return VSHARD_EINVAL;
    if (path == NULL || path[0] == 0 || strlen(path) > PATH_MAX_BYTES)
        return vs_refuse(x->logger, VSHARD_EINVAL, "save.refused", "path: bytes",
                         path ? (int64_t)strlen(path) : 0, PATH_MAX_BYTES);
    if (x->mapping.bytes != NULL)
        rc = vshard_index_check(x, NULL); /* so that damage is not given a new checksum */
    if (rc == VSHARD_OK)
        rc = save_to(x, path);
    if (rc < 0)
        vs_log(x->logger, VSHARD_LOG_ERROR, "save.failed",
               (struct vs_field[]){ { "path", path, 0, NULL },
                                    { "status", vshard_strerror(rc), 0, NULL } },
               2);
    return rc;
}

int vshard_index_save(struct vshard_index *index, const char *path)
{
    return vs_save_call(index, path, save);
}
