/* generation.h - private to lib/index: a file of which only the changes are written. */
#ifndef VS_INDEX_GENERATION_H
#define VS_INDEX_GENERATION_H

#include "index/image.h"

enum {
    GENERATION_BYTES = 4096,      /* of the block that begins the head */
    GENERATION_PARTS = 128,       /* files of one generation beside the head, at most */
    GENERATION_PATH_BYTES = 4096, /* of a part's path; that of the head is shorter */
    PART_HEADER_BYTES = 16,
    RECORD_HEADER_BYTES = 144,
    EXTENT_WORDS = VS_EXTENT_ROWS / 64 /* of a bit for each row of an extent */
};

/* A file beside the head. */
struct vs_part {
    uint64_t bytes, sum; /* of the first, the digest of the index in it */
};

struct vs_generation {
    uint64_t first;  /* number of the first part; the others follow */
    uint64_t before; /* files from this number on may be left of earlier generations */
    uint64_t digest; /* of the index */
    uint32_t count;  /* parts, at least 1 */
    struct vs_part parts[GENERATION_PARTS];
};

/* Is this the begin of a head? Of 8 bytes. */
bool vs_generation_is(const unsigned char *bytes);

/* The block that begins the head: [GENERATION_BYTES]. Decoding says ECORRUPT or EVERSION. */
void vs_generation_encode(const struct vs_generation *g, unsigned char *block);
int vs_generation_decode(const unsigned char *block, struct vs_generation *out);

/* Reads the block of the head at `path`. Returns 0, ENOTFOUND (there is no file, or none that
 * is a head), ECORRUPT, EVERSION, or why storage failed. */
int vs_generation_read(const struct vshard_storage *storage, const char *path,
                       struct vs_generation *out);

/* Where the part of this number is. */
void vs_part_path(char to[GENERATION_PATH_BYTES], const char *path, uint64_t number);

/* A part begins with a header, and its checksum with that of the header. */
void vs_part_encode(unsigned char *header, uint64_t number);

/* Then come records: rows of one extent of a column. */
struct vs_record {
    uint32_t column, extent, count; /* rows in it */
    uint64_t rows[EXTENT_WORDS];    /* which, one bit each */
};
void vs_record_encode(const struct vs_record *r, unsigned char *header);

/* ---- for open ---- */
struct vs_base {
    uint64_t file;
    uint64_t bytes;
    uint32_t slots;
    struct vs_image_layout layout;
};

/* Opens the first part of a generation, which is closed by the caller if that succeeds.
 * Returns 0, ENOTFOUND, ECORRUPT, or why storage failed. */
int vs_base_open(const struct vshard_index *x, const struct vs_generation *g, const char *path,
                 struct vs_base *out);

/* Puts the rows of all other parts in their places. Of a mapped index, extents that have some
 * get memory. Returns as vs_base_open(), or ENOMEM. */
int vs_parts_apply(struct vshard_index *x, const struct vs_generation *g, const char *path,
                   const struct vs_base *base);

#endif
