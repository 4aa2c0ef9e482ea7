/* image.h - private to lib/index: the bytes of an index file, for save, open, check
 * and digest. */
#ifndef VS_INDEX_IMAGE_H
#define VS_INDEX_IMAGE_H

#include "index/state.h"

enum { IMAGE_VERSION = 1, IMAGE_HEADER_BYTES = 512, IMAGE_ALIGN = 4096, IMAGE_COLUMNS = 5 };

/* What the header says beyond the options. */
struct vs_image {
    struct vshard_index_options options;
    uint32_t trained, entry_count;
    uint64_t slot_count, live, removed, free_count;
    uint32_t free_head, removed_head, dying_head, active, cursor;
    float scale;
    double radius2;
    float sketch_scale;
    uint32_t sketch_bytes;
    struct vs_calibration calibration;
    uint64_t low_sum, entries_sum, sums_sum; /* checksums of these sections */
    uint64_t digest;                         /* the header's own */
};

/* Where each section begins; `end` is the length of the file. */
struct vs_image_layout {
    uint64_t low, entries, sums, column[IMAGE_COLUMNS], end;
    uint32_t extents;
};

/* The columns in the order of the file: rows, elements, codes, sketches, edges. One that is not
 * there, or not yet, has stride 0. */
size_t vs_image_stride(const struct vshard_index *x, int column);
struct vs_column *vs_image_column(struct vshard_index *x, int column);

/* The section of the quantiser and the sketches' axes. */
size_t vs_image_low_bytes(const struct vshard_index *x);
uint64_t vs_image_low_sum(const struct vshard_index *x);

void vs_image_layout(const struct vshard_index *x, struct vs_image_layout *out);

/* Rows of the index in this extent. */
uint32_t vs_image_rows(const struct vshard_index *x, uint32_t extent);

/* The bytes of one extent of a column as a file has them; rows, [VS_EXTENT_ROWS], is where
 * those are put that memory has otherwise. */
const void *vs_image_extent(struct vshard_index *x, int column, uint32_t extent,
                            struct vs_row *rows);

/* The checksums of all extents of all columns, uint64 [IMAGE_COLUMNS x extents] in the
 * file's byte order. */
void vs_image_sums(struct vshard_index *x, unsigned char *sums, uint32_t extents);

/* Writes the header of this index, and its checksum. */
void vs_image_encode(struct vshard_index *x, const unsigned char *sums, unsigned char *header);

/* Reads a header: ECORRUPT or EVERSION if it is not one. */
int vs_image_decode(const unsigned char *header, struct vs_image *out);

/* False if an extent holds what no index holds: an edge to no row, a code above 127. */
bool vs_image_extent_valid(const struct vshard_index *x, uint32_t extent);

#endif
