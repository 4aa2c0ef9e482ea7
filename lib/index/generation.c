/* generation.c - files of an index of which only what changed is written.
 *
 * A generation is a head, under the path that was asked for, and parts beside it, under that
 * path with ".g" and a number appended. The first part is a whole index file (image.c) of some
 * earlier moment. Each of the others has rows that changed between two generations; put in
 * their places one part after the other, they give the columns of the index. All that is not
 * in columns is in the head, as of now, and so are the checksums of all extents: what parts
 * have come to is verified as if it had been one file.
 *
 *     head         4,096 bytes, then an image without columns: its header, low, entries,
 *                  sums and keywords as in image.c, as if there were no columns between
 *                  the last two
 *          0    8  magic "VSHARDGN"
 *          8    4  version of this format: 1
 *         12    4  bytes of this block, 4096
 *         16    8  number of the first part; the others have those that follow
 *         24    8  the least number that a file left of earlier generations may have
 *         32    4  parts, 1..128
 *         36    4  zeros
 *         40    8  checksum of the image's header, which is the digest of the index
 *         48    8  bytes of the first part, and
 *         56    8  the digest in its header; of each other part
 *         64   16  likewise, but the checksum of all its bytes, in runs: its header, then
 *                  of each record the header and the rows, the sum of one the seed of
 *                  the next
 *         ...      zeros
 *       4088    8  checksum of bytes 0..4087
 *
 *     part         16 bytes, then records, by column, by extent
 *          0    8  magic "VSHARDPT"
 *          8    8  its number
 *
 *     record       144 bytes, then its rows one after the other, as files have them
 *          0   12  column, as image.c numbers them; extent; rows: 4 each
 *         12    4  zeros
 *         16  128  which rows of the extent, one bit each: uint64 [16]
 *
 * All is little-endian, checksums are XXH3-64. A number is given to one file only, as far as any
 * head can know that stays after a crash, so the rename of a new head takes the index from one
 * generation to the next: no file that the old one names was touched by then.
 *
 * Not here: what is written when, which is save_changes.c. */
#include "index/generation.h"

#include <stdio.h>

static const unsigned char head_magic[8] = { 'V', 'S', 'H', 'A', 'R', 'D', 'G', 'N' };
static const unsigned char part_magic[8] = { 'V', 'S', 'H', 'A', 'R', 'D', 'P', 'T' };

enum {
    VERSION = 1,
    AT_FIRST = 16,
    AT_BEFORE = 24,
    AT_COUNT = 32,
    AT_DIGEST = 40,
    AT_PARTS = 48,
    PART_BYTES = 16,
    AT_CHECKSUM = GENERATION_BYTES - 8
};

bool vs_generation_is(const unsigned char *bytes)
{
    return memcmp(bytes, head_magic, sizeof head_magic) == 0;
}

void vs_generation_encode(const struct vs_generation *g, unsigned char *block)
{
    memset(block, 0, GENERATION_BYTES);
    memcpy(block, head_magic, sizeof head_magic);
    vs_store32(block + 8, VERSION);
    vs_store32(block + 12, GENERATION_BYTES);
    vs_store64(block + AT_FIRST, g->first);
    vs_store64(block + AT_BEFORE, g->before);
    vs_store32(block + AT_COUNT, g->count);
    vs_store64(block + AT_DIGEST, g->digest);
    for (uint32_t i = 0; i < g->count; i++) {
        vs_store64(block + AT_PARTS + i * PART_BYTES, g->parts[i].bytes);
        vs_store64(block + AT_PARTS + i * PART_BYTES + 8, g->parts[i].sum);
    }
    vs_store64(block + AT_CHECKSUM, vs_checksum(block, AT_CHECKSUM, 0));
}

int vs_generation_decode(const unsigned char *block, struct vs_generation *out)
{
    memset(out, 0, sizeof *out);
    if (!vs_generation_is(block) ||
        vs_load64(block + AT_CHECKSUM) != vs_checksum(block, AT_CHECKSUM, 0))
        return VSHARD_ECORRUPT;
    if (vs_load32(block + 8) != VERSION)
        return VSHARD_EVERSION;
    out->first = vs_load64(block + AT_FIRST);
    out->before = vs_load64(block + AT_BEFORE);
    out->count = vs_load32(block + AT_COUNT);
    out->digest = vs_load64(block + AT_DIGEST);
    if (vs_load32(block + 12) != GENERATION_BYTES || out->count < 1 ||
        out->count > GENERATION_PARTS || out->first < 1 || out->first > UINT64_MAX / 2 ||
        out->before < 1 || out->before > out->first)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < out->count; i++) {
        out->parts[i].bytes = vs_load64(block + AT_PARTS + i * PART_BYTES);
        out->parts[i].sum = vs_load64(block + AT_PARTS + i * PART_BYTES + 8);
    }
    return VSHARD_OK;
}

int vs_generation_read(const struct vshard_storage *storage, const char *path,
                       struct vs_generation *out)
{
    unsigned char block[GENERATION_BYTES];
    uint64_t file, bytes;
    int rc = vs_io_open(storage, path, 0, &file, &bytes);

    if (rc < 0)
        return rc;
    rc =
        bytes < sizeof block ? VSHARD_ENOTFOUND : vs_io_read(storage, file, 0, block, sizeof block);
    vs_io_close(storage, file);
    if (rc == VSHARD_OK)
        rc = vs_generation_is(block) ? vs_generation_decode(block, out) : VSHARD_ENOTFOUND;
    return rc;
}

void vs_part_path(char to[GENERATION_PATH_BYTES], const char *path, uint64_t number)
{
    snprintf(to, GENERATION_PATH_BYTES, "%s.g%llu", path, (unsigned long long)number);
}

void vs_part_encode(unsigned char *header, uint64_t number)
{
    memcpy(header, part_magic, sizeof part_magic);
    vs_store64(header + 8, number);
}

void vs_record_encode(const struct vs_record *r, unsigned char *header)
{
    vs_store32(header, r->column);
    vs_store32(header + 4, r->extent);
    vs_store32(header + 8, r->count);
    vs_store32(header + 12, 0);
    for (int i = 0; i < EXTENT_WORDS; i++)
        vs_store64(header + 16 + 8 * i, r->rows[i]);
}

/* ---- opening ---- */

/* Rows that came after the first part are in others, whole: memory for more of them than these
 * files could hold is not even asked for. */
static int parts_hold(const struct vshard_index *x, const struct vs_generation *g, const char *path,
                      uint64_t rows)
{
    uint64_t file, bytes, held = 0, row_bytes = 0;
    char name[GENERATION_PATH_BYTES];

    for (int i = 0; i < vs_image_columns(x); i++)
        row_bytes += vs_image_stride(x, i);
    for (uint32_t i = 1; rows > 0 && i < g->count; i++) {
        int rc;

        vs_part_path(name, path, g->first + i);
        rc = vs_io_open(x->storage, name, 0, &file, &bytes);
        if (rc < 0)
            return rc;
        vs_io_close(x->storage, file);
        if (bytes != g->parts[i].bytes)
            return VSHARD_ECORRUPT;
        held += bytes / row_bytes;
    }
    return held >= rows ? VSHARD_OK : VSHARD_ECORRUPT;
}

int vs_base_open(const struct vshard_index *x, const struct vs_generation *g, const char *path,
                 struct vs_base *out)
{
    unsigned char header[IMAGE_HEADER_BYTES];
    char name[GENERATION_PATH_BYTES];
    struct vs_image image;
    struct vs_image_counts counts;
    int rc;

    vs_part_path(name, path, g->first);
    rc = vs_io_open(x->storage, name, 0, &out->file, &out->bytes);
    if (rc < 0)
        return rc;
    rc = vs_io_read(x->storage, out->file, 0, header, sizeof header);
    if (rc == VSHARD_OK)
        rc = vs_image_decode(header, &image) < 0 ? VSHARD_ECORRUPT : VSHARD_OK;
    if (rc == VSHARD_OK &&
        (image.digest != g->parts[0].sum || image.slot_count > atomic_load(&x->slot_count) ||
         image.trained != atomic_load(&x->trained)))
        rc = VSHARD_ECORRUPT;
    if (rc == VSHARD_OK) {
        out->slots = (uint32_t)image.slot_count;
        counts = (struct vs_image_counts){ out->slots, image.entry_count, image.keyword_count };
        vs_image_layout_of(x, &counts, &out->layout);
        rc = out->layout.end != out->bytes || g->parts[0].bytes != out->bytes
                 ? VSHARD_ECORRUPT
                 : parts_hold(x, g, path, atomic_load(&x->slot_count) - out->slots);
    }
    if (rc < 0)
        vs_io_close(x->storage, out->file);
    return rc;
}

/* One part, while it is read. */
struct reading {
    struct vshard_index *x;
    const struct vs_base *base;
    uint64_t file, at, end;
    uint64_t sum;
    unsigned char *rows; /* [VS_EXTENT_ROWS] of the widest column */
};

/* Rows past the last one of the index have memory in its extent, too, and are in no checksum. */
static bool record_decode(const struct vshard_index *x, const unsigned char *header,
                          struct vs_record *r)
{
    uint32_t count = 0, extents = vs_extents_for(atomic_load(&x->slot_count));

    r->column = vs_load32(header);
    r->extent = vs_load32(header + 4);
    r->count = vs_load32(header + 8);
    if (r->column >= (uint32_t)vs_image_columns(x) || r->extent >= extents ||
        vs_image_stride(x, (int)r->column) == 0)
        return false;
    for (uint32_t i = 0; i < EXTENT_WORDS; i++) {
        r->rows[i] = vs_load64(header + 16 + 8 * i);
        count += (uint32_t)__builtin_popcountll(r->rows[i]);
    }
    return count == r->count;
}

/* Memory for an extent of a mapped column, if it has none yet. */
static int own(const struct reading *r, struct vs_column *c, uint32_t extent)
{
    const unsigned char *mapped = r->x->mapping.bytes, *at;
    uint32_t first = extent * VS_EXTENT_ROWS, there;

    if (mapped == NULL)
        return VSHARD_OK;
    at = vs_column_at(c, first);
    if (at < mapped || at >= mapped + r->x->mapping.count)
        return VSHARD_OK;
    there = first < r->base->slots ? r->base->slots - first : 0;
    return vs_column_own(c, extent, there < VS_EXTENT_ROWS ? there : VS_EXTENT_ROWS,
                         r->x->allocator);
}

static int put_record(struct reading *r, const struct vs_record *record)
{
    struct vs_column *c = vs_image_column(r->x, (int)record->column);
    size_t stride = vs_image_stride(r->x, (int)record->column);
    const unsigned char *row = r->rows;
    int rc = own(r, c, record->extent);

    for (uint32_t i = 0; rc == VSHARD_OK && i < VS_EXTENT_ROWS; i++) {
        if (!(record->rows[i / 64] >> (i % 64) & 1))
            continue;
        memcpy(vs_column_at(c, record->extent * VS_EXTENT_ROWS + i), row, stride);
        row += stride;
    }
    return rc;
}

static int read_record(struct reading *r)
{
    unsigned char header[RECORD_HEADER_BYTES];
    struct vs_record record;
    size_t bytes;
    int rc;

    if (r->end - r->at < sizeof header)
        return VSHARD_ECORRUPT;
    rc = vs_io_read(r->x->storage, r->file, r->at, header, sizeof header);
    if (rc < 0)
        return rc;
    if (!record_decode(r->x, header, &record))
        return VSHARD_ECORRUPT;
    r->at += sizeof header;
    bytes = record.count * vs_image_stride(r->x, (int)record.column);
    if (r->end - r->at < bytes)
        return VSHARD_ECORRUPT;
    rc = vs_io_read(r->x->storage, r->file, r->at, r->rows, bytes);
    if (rc < 0)
        return rc;
    r->at += bytes;
    r->sum = vs_checksum(header, sizeof header, r->sum);
    r->sum = vs_checksum(r->rows, bytes, r->sum);
    return put_record(r, &record);
}

static int read_part(struct reading *r, uint64_t number, const struct vs_part *part)
{
    unsigned char header[PART_HEADER_BYTES], good[PART_HEADER_BYTES];
    int rc;

    vs_part_encode(good, number);
    if (r->end != part->bytes || r->end < sizeof header)
        return VSHARD_ECORRUPT;
    rc = vs_io_read(r->x->storage, r->file, 0, header, sizeof header);
    if (rc == VSHARD_OK && memcmp(header, good, sizeof good) != 0)
        rc = VSHARD_ECORRUPT;
    r->at = sizeof header;
    r->sum = vs_checksum(header, sizeof header, 0);
    while (rc == VSHARD_OK && r->at < r->end)
        rc = read_record(r);
    return rc == VSHARD_OK && r->sum != part->sum ? VSHARD_ECORRUPT : rc;
}

/* Rows that came after the first part, which it is the others' to bring. */
static int make_room(struct reading *r)
{
    struct vshard_index *x = r->x;
    uint32_t extents = vs_extents_for(atomic_load(&x->slot_count));
    uint32_t from = r->base->slots / VS_EXTENT_ROWS;
    int rc = VSHARD_OK;

    for (int i = 0; rc == VSHARD_OK && i < vs_image_columns(x); i++) {
        struct vs_column *c = vs_image_column(x, i);
        size_t stride = vs_image_stride(x, i);

        for (uint32_t e = from; rc == VSHARD_OK && stride > 0 && e < extents; e++) {
            uint32_t there = e == from ? r->base->slots % VS_EXTENT_ROWS : 0;

            if (x->mapping.bytes != NULL)
                rc = vs_column_own(c, e, there, x->allocator);
            else
                memset(vs_column_at(c, e * VS_EXTENT_ROWS + there), 0,
                       (VS_EXTENT_ROWS - there) * stride);
        }
    }
    return rc;
}

int vs_parts_apply(struct vshard_index *x, const struct vs_generation *g, const char *path,
                   const struct vs_base *base)
{
    struct reading r = { .x = x, .base = base };
    size_t bytes = vs_image_extent_bytes(x);
    char name[GENERATION_PATH_BYTES];
    int rc = VSHARD_OK;

    r.rows = vs_alloc(x->allocator, bytes);
    if (r.rows == NULL)
        return VSHARD_ENOMEM;
    if (base->slots < atomic_load(&x->slot_count))
        rc = make_room(&r);
    for (uint32_t i = 1; rc == VSHARD_OK && i < g->count; i++) {
        vs_part_path(name, path, g->first + i);
        rc = vs_io_open(x->storage, name, 0, &r.file, &r.end);
        if (rc < 0)
            break;
        rc = read_part(&r, g->first + i, &g->parts[i]);
        vs_io_close(x->storage, r.file);
    }
    vs_free_wiped(x->allocator, r.rows, bytes);
    return rc;
}
