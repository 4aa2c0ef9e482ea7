/* image.h - private to lib/index: the bytes of an index file, for save, open, check
 * and digest. */
#ifndef VS_INDEX_IMAGE_H
#define VS_INDEX_IMAGE_H

#include "index/state.h"

enum {
    IMAGE_PLAIN = 1,      /* version of a file without attributes */
    IMAGE_ATTRIBUTES = 2, /* and with them */
    IMAGE_VECTORS = 3,    /* of a graph that is walked by vectors, with or without them */
    IMAGE_CODES = 4,      /* of one walked by codes that could have sketches without axes */
    IMAGE_PRODUCTS = 5,   /* of one under IP, but for those that were begun on a sphere */
    IMAGE_HEADER_BYTES = 512,
    IMAGE_ALIGN = 4096
};

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
    uint32_t by_vectors, by_codes, by_products;
    uint32_t attribute_count, keyword_count, keyword_free_head, keyword_free_count;
    uint64_t schema_sum, keywords_sum;
    struct vshard_attribute schema[VSHARD_ATTRIBUTES_MAX];
    uint64_t low_sum, entries_sum, sums_sum; /* checksums of these sections */
    uint64_t digest;                         /* the header's own */
};

/* How much there is of what an index has any number of. */
struct vs_image_counts {
    uint64_t slots;
    uint32_t entries, keywords;
};

/* Where each section begins; `end` is the length of the file. */
struct vs_image_layout {
    uint64_t header, schema, low, entries, sums, column[IMAGE_COLUMNS], keywords, end;
    uint32_t extents;
};

/* The columns in the order of the file: rows, elements, codes, sketches, edges, then those of
 * attributes. One that is not there, or not yet, has stride 0. */
int vs_image_columns(const struct vshard_index *x);
size_t vs_image_stride(const struct vshard_index *x, int column);
struct vs_column *vs_image_column(struct vshard_index *x, int column);

/* Of an extent of the widest column. */
size_t vs_image_extent_bytes(const struct vshard_index *x);

/* The section of the quantiser and the sketches' axes. */
size_t vs_image_low_bytes(const struct vshard_index *x);
uint64_t vs_image_low_sum(const struct vshard_index *x);

/* Of the whole file of an index like this one, with so much in it; of this one; and of the
 * file that has all of it but the columns (generation.c). */
void vs_image_layout_of(const struct vshard_index *x, const struct vs_image_counts *counts,
                        struct vs_image_layout *out);
void vs_image_layout(const struct vshard_index *x, struct vs_image_layout *out);
void vs_image_layout_head(const struct vshard_index *x, struct vs_image_layout *out);

/* Rows of the index in this extent. */
uint32_t vs_image_rows(const struct vshard_index *x, uint32_t extent);

/* One row as files have it. */
void vs_image_row(const struct vshard_index *x, uint32_t slot, struct vs_row *out);

/* The bytes of one extent of a column as a file has them; rows, [VS_EXTENT_ROWS], is where
 * those are put that memory has otherwise. */
const void *vs_image_extent(struct vshard_index *x, int column, uint32_t extent,
                            struct vs_row *rows);

/* The checksums of all extents of all columns, uint64 [columns x extents] in the file's
 * byte order, and how many bytes they take. */
size_t vs_image_sums_bytes(const struct vshard_index *x);
void vs_image_sums(struct vshard_index *x, unsigned char *sums, uint32_t extents);

/* Attributes as they are declared, and all keywords. */
uint64_t vs_image_schema_sum(const struct vshard_attribute *schema, uint32_t count);
uint64_t vs_image_keywords_sum(const struct vs_keywords *k);

/* Writes the header of this index, without the checksum of the sums and its own, which come
 * last. */
void vs_image_encode(struct vshard_index *x, unsigned char *header);
void vs_image_seal(unsigned char *header, const unsigned char *sums, size_t sums_bytes);

/* Reads a header: ECORRUPT or EVERSION if it is not one. */
int vs_image_decode(const unsigned char *header, struct vs_image *out);

/* False if an extent holds what no index holds: an edge to no row, a code above 127. */
bool vs_image_extent_valid(const struct vshard_index *x, uint32_t extent);

#endif
