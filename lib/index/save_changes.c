/* save_changes.c - what changed since the last generation into a file, or everything.
 *
 * The files are those of generation.c. A new part is written under a number that no head names, and
 * synced, and its name is; then a new head takes the place of the old one by renaming. Until
 * then the old head is there, with all that it names; from then on the new one. Files that only
 * the old one named are removed when the new one is durable.
 *
 * Numbers go on from those of the head that is there. Where there is none they begin with one of
 * which there is no file: a head may be gone from sight whose end is not durable, and then a
 * crash brings it back.
 *
 * What changed is known for one path only: the one that was saved to, or opened, last (track.c).
 * Everything is written where that is not known, or where it would be too much. */
#include "index/save.h"
#include "index/track.h"

/* A head that says a greater one was made by nobody; it may be there, but is not gone on from. */
#define NUMBER_MAX (UINT64_MAX / 4)

enum {
    PARTS_ONE_IN = 2, /* bytes of parts, of those of the whole file, at most */
    LEFT_MAX = 1024   /* numbers of files that may be left, which a damaged head may say are any */
};

struct changing {
    struct vs_saving s;
    const char *path;
    struct vs_generation old, new;
    struct vs_image_layout head;
    struct vs_touched touched;
    uint64_t number;     /* of the part */
    uint64_t bytes, sum; /* written */
    char part[GENERATION_PATH_BYTES];
    bool known; /* there is an old head, */
    bool same;  /* and the index is known to have come from there */
    bool begun;
    bool whole;
    bool renamed; /* it was asked for, and may have come to pass whatever was answered */
};

/* ---- before ---- */

static int first_free_number(const struct vshard_index *x, const char *path, uint64_t *number)
{
    char part[GENERATION_PATH_BYTES];
    uint64_t file, bytes;
    int rc = VSHARD_OK;

    for (*number = 1; rc == VSHARD_OK; ++*number) {
        vs_part_path(part, path, *number);
        rc = vs_io_open(x->storage, part, 0, &file, &bytes);
        if (rc == VSHARD_ENOTFOUND)
            return VSHARD_OK;
        if (rc == VSHARD_OK)
            vs_io_close(x->storage, file);
    }
    return rc;
}

static int look(struct changing *c)
{
    struct vshard_index *x = c->s.x;
    int rc = vs_generation_read(x->storage, c->path, &c->old);

    c->known = rc == VSHARD_OK && c->old.first <= NUMBER_MAX;
    c->same = c->known && vs_track_is(x, c->path, &c->old);
    if (c->known)
        c->number = c->old.first + c->old.count;
    else if (rc == VSHARD_OK || rc == VSHARD_ENOTFOUND || rc == VSHARD_ECORRUPT ||
             rc == VSHARD_EVERSION)
        rc = first_free_number(x, c->path, &c->number);
    vs_part_path(c->part, c->path, c->number);
    return rc;
}

/* ---- at rest ---- */

/* Which rows of an extent changed, and how many. */
static uint32_t rows_of(const struct changing *c, uint32_t column, uint32_t extent,
                        struct vs_record *r)
{
    uint32_t slots = c->s.x->keep.slots;

    *r = (struct vs_record){ .column = column, .extent = extent };
    for (uint32_t i = 0; i < EXTENT_WORDS; i++) {
        r->rows[i] = vs_touched_word(&c->touched, column, extent * VS_EXTENT_ROWS + 64 * i, slots);
        r->count += (uint32_t)__builtin_popcountll(r->rows[i]);
    }
    return r->count;
}

/* Bytes of a part with all that changed. */
static uint64_t part_bytes(const struct changing *c)
{
    const struct vs_keep *k = &c->s.x->keep;
    uint64_t bytes = PART_HEADER_BYTES;
    struct vs_record r;

    for (uint32_t i = 0; i < k->columns; i++) {
        for (uint32_t e = 0; k->stride[i] > 0 && e < c->s.layout.extents; e++) {
            if (rows_of(c, i, e, &r) > 0)
                bytes += RECORD_HEADER_BYTES + r.count * k->stride[i];
        }
    }
    return bytes;
}

static bool must_be_whole(const struct changing *c)
{
    const struct vshard_index *x = c->s.x;
    uint64_t bytes = 0;

    if (!c->same || c->touched.bits == NULL || c->touched.trained != atomic_load(&x->trained) ||
        c->touched.slots > x->keep.slots || c->old.count == GENERATION_PARTS)
        return true;
    for (uint32_t i = 1; i < c->old.count; i++)
        bytes += c->old.parts[i].bytes;
    return bytes + part_bytes(c) > c->s.layout.end / PARTS_ONE_IN;
}

static int begin(struct changing *c)
{
    struct vshard_index *x = c->s.x;
    int rc;

    vs_lock_share(&x->lock);
    rc = vs_saving_begin(&c->s);
    if (rc == VSHARD_OK) {
        c->begun = true;
        vs_image_layout_head(x, &c->head);
        if (x->mapping.bytes == NULL)
            vs_track_turn(x, &c->touched);
        c->whole = must_be_whole(c);
    }
    vs_lock_leave(&x->lock);
    return rc;
}

/* ---- beside changes ---- */

static int append(struct changing *c, const void *bytes, size_t count)
{
    int rc = vs_io_write(c->s.x->storage, c->s.file, c->bytes, bytes, count);

    c->sum = vs_checksum(bytes, count, c->sum);
    c->bytes += count;
    return rc;
}

/* Moves the rows that changed to the front. */
static void pack(unsigned char *rows, size_t stride, const struct vs_record *r)
{
    unsigned char *to = rows;

    for (uint32_t i = 0; i < VS_EXTENT_ROWS; i++) {
        if (!(r->rows[i / 64] >> (i % 64) & 1))
            continue;
        memmove(to, rows + i * stride, stride);
        to += stride;
    }
}

static int write_record(struct changing *c, const struct vs_record *r, unsigned char *sum)
{
    struct vshard_index *x = c->s.x;
    unsigned char header[RECORD_HEADER_BYTES];
    size_t stride = x->keep.stride[r->column];
    uint32_t left = x->keep.slots - r->extent * VS_EXTENT_ROWS;
    int rc = vs_keep_take(x, r->column, r->extent, c->s.extent);

    if (rc < 0)
        return rc;
    vs_store64(
        sum, vs_checksum(c->s.extent, (left < VS_EXTENT_ROWS ? left : VS_EXTENT_ROWS) * stride, 0));
    pack(c->s.extent, stride, r);
    vs_record_encode(r, header);
    rc = append(c, header, sizeof header);
    if (rc == VSHARD_OK)
        rc = append(c, c->s.extent, r->count * stride);
    vs_keep_pause(x);
    return rc;
}

static int write_column(struct changing *c, uint32_t column)
{
    struct vshard_index *x = c->s.x;
    uint32_t extents = c->s.layout.extents, before = vs_extents_for(c->touched.slots);
    struct vs_record r;
    int rc = VSHARD_OK;

    for (uint32_t e = 0; x->keep.stride[column] > 0 && rc == VSHARD_OK && e < extents; e++) {
        unsigned char *sum = c->s.sums + ((size_t)column * extents + e) * 8;

        if (rows_of(c, column, e, &r) > 0) {
            rc = write_record(c, &r, sum);
            continue;
        }
        rc = vs_keep_skip(x, column, e);
        memcpy(sum, x->track.sums + ((size_t)column * before + e) * 8, 8);
    }
    return rc;
}

static int write_part(struct changing *c)
{
    unsigned char header[PART_HEADER_BYTES];
    int rc;

    vs_part_encode(header, c->number);
    rc = append(c, header, sizeof header);
    for (uint32_t i = 0; rc == VSHARD_OK && i < c->s.x->keep.columns; i++)
        rc = write_column(c, i);
    vs_keep_end(c->s.x);
    c->s.noted = true;
    vs_image_seal(c->s.header, c->s.sums, c->s.sums_bytes);
    return rc;
}

static int write_first(struct changing *c)
{
    int rc = vs_saving_all(&c->s);

    c->bytes = c->s.layout.end;
    c->sum = vs_load64(c->s.header + IMAGE_HEADER_BYTES - 8);
    return rc;
}

/* Writes one file by `write`, and syncs it. */
static int write_file(struct changing *c, const char *path, int (*write)(struct changing *c))
{
    const struct vshard_storage *storage = c->s.x->storage;
    uint64_t bytes;
    int rc, closed;

    rc = vs_io_open(storage, path,
                    VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE,
                    &c->s.file, &bytes);
    if (rc < 0)
        return rc;
    rc = write(c);
    if (rc == VSHARD_OK)
        rc = vs_io_sync(storage, c->s.file);
    closed = vs_io_close(storage, c->s.file);
    return rc < 0 ? rc : closed;
}

static int write_changes(struct changing *c)
{
    int rc = begin(c);

    if (rc < 0)
        return rc;
    return c->whole ? write_first(c) : write_part(c);
}

static void name_parts(struct changing *c)
{
    struct vs_generation *g = &c->new;

    *g = c->old;
    if (c->whole) {
        g->before = c->known ? c->old.first : 1;
        g->first = c->number;
        g->count = 0;
    }
    g->parts[g->count++] = (struct vs_part){ c->bytes, c->sum };
    g->digest = vs_load64(c->s.header + IMAGE_HEADER_BYTES - 8);
}

static int write_head(struct changing *c)
{
    unsigned char block[GENERATION_BYTES];
    int rc = vs_saving_pad(&c->s, &c->head);

    vs_generation_encode(&c->new, block);
    if (rc == VSHARD_OK)
        rc = vs_saving_small(&c->s, &c->head);
    return rc < 0 ? rc : vs_io_write(c->s.x->storage, c->s.file, 0, block, sizeof block);
}

/* A file may have this number that an earlier chain left, and somebody may have mapped it: it is
 * not written to, but makes way. */
static int put_part(struct changing *c)
{
    const struct vshard_storage *storage = c->s.x->storage;
    int rc = vs_io_remove(storage, c->part);

    if (rc == VSHARD_OK || rc == VSHARD_ENOTFOUND)
        rc = write_file(c, c->part, write_changes);
    return rc < 0 ? rc : vs_io_sync_dir(storage, c->s.directory);
}

static int put_head(struct changing *c)
{
    const struct vshard_storage *storage = c->s.x->storage;
    int rc;

    name_parts(c);
    rc = write_file(c, c->s.temporary, write_head);
    if (rc == VSHARD_OK) {
        c->renamed = true;
        rc = vs_io_rename(storage, c->s.temporary, c->path);
    }
    if (rc < 0) {
        vs_io_remove(storage, c->s.temporary);
        return rc;
    }
    return vs_io_sync_dir(storage, c->s.directory) < 0 ? VSHARD_EUNKNOWN : VSHARD_OK;
}

/* ---- afterwards ---- */

/* Files that no head names any more. One that is left is tried again with the next whole one. */
static void remove_old(struct changing *c)
{
    char part[GENERATION_PATH_BYTES];
    uint64_t n = c->known ? c->old.before : 1;

    if (c->number - n > LEFT_MAX)
        n = c->number - LEFT_MAX;
    for (; n < c->number; n++) {
        vs_part_path(part, c->path, n);
        vs_io_remove(c->s.x->storage, part);
    }
}

static void settle(struct changing *c, int rc)
{
    struct vshard_index *x = c->s.x;

    if (rc == VSHARD_OK && x->mapping.bytes == NULL) {
        vs_track_note(x, c->path, &c->new, c->s.sums, c->s.sums_bytes);
        c->s.sums = NULL;
        c->s.sums_bytes = 0;
    }
    if (rc == VSHARD_EUNKNOWN)
        vs_track_forget(x);
    if (rc < 0 && rc != VSHARD_EUNKNOWN && c->begun && x->mapping.bytes == NULL) {
        vs_lock_share(&x->lock);
        vs_track_turn_back(x, &c->touched);
        vs_lock_leave(&x->lock);
    }
    vs_touched_free(x, &c->touched);
    if (rc == VSHARD_OK && c->whole)
        remove_old(c);
}

static int write_all(struct changing *c)
{
    int rc = look(c);

    if (rc < 0)
        return rc;
    rc = put_part(c);
    if (rc == VSHARD_OK)
        rc = put_head(c);
    if (rc < 0 && !c->renamed)
        vs_io_remove(c->s.x->storage, c->part);
    return rc;
}

static int save_changes(struct vshard_index *x, const char *path)
{
    struct changing c = { .s.x = x, .path = path };
    int rc = vs_saving_names(&c.s, path);

    vs_lock_take(&x->keep.turn);
    if (rc == VSHARD_OK)
        rc = write_all(&c);
    settle(&c, rc);
    vs_saving_end(&c.s);
    vs_saving_forget(&c.s);
    vs_lock_leave(&x->keep.turn);
    vs_saving_free_names(&c.s);
    return rc;
}

int vshard_index_save_changes(struct vshard_index *index, const char *path)
{
    return vs_save_call(index, path, save_changes);
}
