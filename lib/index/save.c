/* save.c - an index into a file, whole or not at all.
 *
 * The file is the index as it was when the save began; changes go on beside it (keep.c).
 * Everything goes under a temporary name, is synced, takes the place of the old file
 * by renaming, and the directory is synced. A crash at any moment leaves the old file
 * or the new one. Not here: what the bytes mean, which is image.c. */
#include "index/image.h"

/* Bytes that go to one place of the file. */
struct copy {
    unsigned char *bytes;
    size_t count;
    uint64_t at;
};

struct saving {
    struct vshard_index *x;
    struct vs_image_layout layout;
    unsigned char header[IMAGE_HEADER_BYTES];
    struct copy low, entries, keywords;
    unsigned char *extent; /* rows of one */
    size_t extent_bytes;
    unsigned char *sums;
    size_t sums_bytes;
    bool noted;      /* there is something to be freed */
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
    size_t bytes = x->quantizer.code_dim * sizeof(float);

    memcpy(to, x->quantizer.low, bytes);
    if (!vs_sketch_has_axes(x))
        return;
    memcpy(to + bytes, x->sketcher.low, sizeof x->sketcher.low);
    memcpy(to + bytes + sizeof x->sketcher.low, x->sketcher.axes, vs_sketcher_bytes(x));
}

static int alloc_copy(struct saving *s, struct copy *c, uint64_t at, size_t bytes)
{
    c->at = at;
    c->count = bytes;
    c->bytes = vs_alloc(s->x->allocator, bytes);
    return c->bytes != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int copy_small(struct saving *s)
{
    struct vshard_index *x = s->x;
    const struct vs_keywords *k = &x->attributes.keywords;
    uint32_t entries = atomic_load(&x->entry_count), keywords = atomic_load(&k->count);

    if (alloc_copy(s, &s->low, s->layout.low, vs_image_low_bytes(x)) < 0 ||
        alloc_copy(s, &s->entries, s->layout.entries, entries * x->entries.stride) < 0 ||
        alloc_copy(s, &s->keywords, s->layout.keywords, keywords * k->cells.stride) < 0)
        return VSHARD_ENOMEM;
    copy_low(x, s->low.bytes);
    copy_rows(s->entries.bytes, &x->entries, entries);
    copy_rows(s->keywords.bytes, &k->cells, keywords);
    return VSHARD_OK;
}

static size_t extent_bytes(const struct saving *s)
{
    size_t stride = 0;

    for (int i = 0; i < vs_image_columns(s->x); i++)
        stride = vs_image_stride(s->x, i) > stride ? vs_image_stride(s->x, i) : stride;
    return VS_EXTENT_ROWS * stride;
}

static int begin_at_rest(struct saving *s)
{
    struct vshard_index *x = s->x;
    int rc;

    vs_image_layout(x, &s->layout);
    vs_image_encode(x, s->header);
    s->sums_bytes = vs_image_sums_bytes(x);
    s->sums = vs_alloc_zeroed(x->allocator, s->sums_bytes);
    s->extent_bytes = extent_bytes(s);
    s->extent = vs_alloc(x->allocator, s->extent_bytes);
    rc = copy_small(s);
    if (rc == VSHARD_OK && (s->sums == NULL || s->extent == NULL))
        rc = VSHARD_ENOMEM;
    return rc < 0 ? rc : vs_keep_begin(x);
}

/* From here on the file is the index as it is now: between two calls that change it. */
static int begin(struct saving *s)
{
    int rc;

    vs_lock_share(&s->x->lock);
    rc = begin_at_rest(s);
    vs_lock_leave(&s->x->lock);
    return rc;
}

static void end(struct saving *s)
{
    const struct vshard_allocator *a = s->x->allocator;

    vs_free(a, s->low.bytes, s->low.count);
    vs_free(a, s->entries.bytes, s->entries.count);
    vs_free(a, s->keywords.bytes, s->keywords.count);
    vs_free(a, s->extent, s->extent_bytes);
    vs_free(a, s->sums, s->sums_bytes);
}

/* ---- beside changes ---- */

static int write_copy(const struct saving *s, const struct copy *c)
{
    return c->count > 0 ? vs_io_write(s->x->storage, s->file, c->at, c->bytes, c->count)
                        : VSHARD_OK;
}

static int write_column(struct saving *s, uint32_t column)
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
static int write_columns(struct saving *s)
{
    int rc = write_column(s, IMAGE_EDGES);

    for (uint32_t i = 0; rc == VSHARD_OK && i < s->x->keep.columns; i++) {
        if (i != IMAGE_EDGES)
            rc = write_column(s, i);
    }
    return rc;
}

static int write_schema(const struct saving *s)
{
    const struct vs_attributes *t = &s->x->attributes;

    return t->count > 0 ? vs_io_write(s->x->storage, s->file, s->layout.schema, t->schema,
                                      t->count * sizeof *t->schema)
                        : VSHARD_OK;
}

static int write_sums(const struct saving *s)
{
    const struct copy sums = { s->sums, s->sums_bytes, s->layout.sums };

    return write_copy(s, &sums);
}

static int write_all(struct saving *s)
{
    const struct vshard_storage *storage = s->x->storage;
    static const unsigned char last = 0;
    int rc;

    /* The file ends at a multiple of the alignment. This goes first, because some
     * section's own last byte may lie there. */
    rc = vs_io_write(storage, s->file, s->layout.end - 1, &last, 1);
    if (rc == VSHARD_OK)
        rc = write_columns(s);
    vs_keep_end(s->x);
    if (rc == VSHARD_OK)
        rc = write_copy(s, &s->low);
    if (rc == VSHARD_OK)
        rc = write_copy(s, &s->entries);
    if (rc == VSHARD_OK)
        rc = write_copy(s, &s->keywords);
    if (rc == VSHARD_OK)
        rc = write_schema(s);
    if (rc == VSHARD_OK)
        rc = write_sums(s);
    vs_image_seal(s->header, s->sums, s->sums_bytes);
    return rc < 0 ? rc : vs_io_write(storage, s->file, 0, s->header, sizeof s->header);
}

/* Changes go on beside it, see keep.c; what was noted for them is freed between two. */
static int write_position(struct saving *s)
{
    int rc = begin(s);

    if (rc == VSHARD_OK) {
        rc = write_all(s);
        s->noted = true;
    }
    end(s);
    return rc;
}

static void forget(struct saving *s)
{
    if (!s->noted)
        return;
    vs_lock_share(&s->x->lock);
    vs_keep_free(s->x);
    vs_lock_leave(&s->x->lock);
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
    struct saving s = { .x = x };
    int rc = make_names(&s, path);

    vs_lock_take(&x->keep.turn);
    if (rc == VSHARD_OK)
        rc = write_and_rename(&s, path);
    forget(&s);
    vs_lock_leave(&x->keep.turn);
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
