/* index_file.h - the bytes of an index file, for tests that forge them.
 *
 * Written from the drawing in vshard_index(3) and not from the library's own code:
 * where the sections are, which bytes a checksum covers, and how to make all
 * checksums right again after an edit, as a forger would. */
#ifndef SUPPORT_INDEX_FILE_H
#define SUPPORT_INDEX_FILE_H

#include "base/base.h"
#include <vshard/index.h>

enum {
    FILE_AXES = 256, /* numbers in the sketch of a long code */
    FILE_HEADER = 512,
    FILE_ALIGN = 4096,
    FILE_EXTENT = 1024,
    FILE_ATTRIBUTES = 8, /* at most */
    FILE_COLUMNS = 5,    /* rows, elements, codes, sketches, edges; then those of attributes */
    FILE_SECTIONS = 3 + FILE_COLUMNS + FILE_ATTRIBUTES + 1 /* low, entries, sums, the columns,
                                                              and keywords */
};

struct file_layout {
    uint64_t at[FILE_SECTIONS];    /* where each section begins */
    uint64_t bytes[FILE_SECTIONS]; /* its length, without padding */
    uint64_t stride[FILE_COLUMNS + FILE_ATTRIBUTES];
    uint64_t attributes;
    uint64_t low_parts[3]; /* low, and low and axes of the sketches */
    uint64_t slots, extents, end;
};

static inline void file_layout(const unsigned char *h, struct file_layout *l)
{
    uint64_t dim = vs_load32(h + 16), graph = vs_load32(h + 20) == VSHARD_FAMILY_HNSW;
    uint64_t metric = vs_load32(h + 24), element = vs_load32(h + 28), m = vs_load32(h + 32);
    uint64_t trained = vs_load32(h + 56), at = FILE_ALIGN;
    uint64_t code_dim = dim + (metric == VSHARD_METRIC_IP ? 16 : 0);
    bool l2_l1 = metric == VSHARD_METRIC_L2SQ || metric == VSHARD_METRIC_L1;
    bool floats = element == VSHARD_ELEMENT_F32 || element == VSHARD_ELEMENT_F16;
    bool own_code = element == VSHARD_ELEMENT_BITS || (!floats && l2_l1);
    bool axes = graph && !own_code && metric != VSHARD_METRIC_IP && metric != VSHARD_METRIC_L1 &&
                dim > FILE_AXES;
    uint64_t code_bytes = (code_dim + 63) / 64 * 64;
    uint64_t align = own_code ? 16 : 4;
    bool lean = vs_load32(h + 160) == 1 && graph && floats;
    uint64_t bytes = element == VSHARD_ELEMENT_F32    ? 4 * dim
                     : element == VSHARD_ELEMENT_F16  ? 2 * dim
                     : element == VSHARD_ELEMENT_BITS ? dim / 8
                                                      : dim;

    l->slots = vs_load64(h + 64);
    l->attributes = vs_load32(h + 404) < FILE_ATTRIBUTES ? vs_load32(h + 404) : FILE_ATTRIBUTES;
    l->extents = (l->slots + FILE_EXTENT - 1) / FILE_EXTENT;
    l->stride[0] = 16;
    l->stride[1] = lean && trained ? 32 : (bytes + align - 1) / align * align;
    l->stride[2] = trained && graph && !own_code ? code_bytes : 0;
    l->stride[3] = vs_load32(h + 156);
    l->stride[4] = trained && graph ? 8 * m : 0;
    for (uint64_t i = 0; i < FILE_ATTRIBUTES; i++)
        l->stride[FILE_COLUMNS + i] = i < l->attributes ? 8 : 0;
    l->low_parts[0] = 4 * code_dim;
    l->low_parts[1] = axes ? 4 * FILE_AXES : 0;
    l->low_parts[2] = axes ? FILE_AXES * ((code_dim + 3) / 4 * 4) : 0;
    l->bytes[0] = l->low_parts[0] + l->low_parts[1] + l->low_parts[2];
    l->bytes[1] = 4 * (uint64_t)vs_load32(h + 60);
    l->bytes[2] = 8 * (FILE_COLUMNS + l->attributes) * l->extents;
    for (int i = 0; i < FILE_COLUMNS + FILE_ATTRIBUTES; i++)
        l->bytes[3 + i] = l->slots * l->stride[i];
    l->bytes[FILE_SECTIONS - 1] = 128 * (uint64_t)vs_load32(h + 408);
    for (int i = 0; i < FILE_SECTIONS; i++) {
        l->at[i] = at;
        at += (l->bytes[i] + FILE_ALIGN - 1) / FILE_ALIGN * FILE_ALIGN;
    }
    l->end = at;
}

/* False for the zeros between sections. */
static inline bool file_covers(const struct file_layout *l, uint64_t offset)
{
    if (offset < FILE_HEADER + 64 * l->attributes)
        return true;
    for (int i = 0; i < FILE_SECTIONS; i++) {
        if (offset >= l->at[i] && offset < l->at[i] + l->bytes[i])
            return true;
    }
    return false;
}

/* Entries and keywords are summed in runs of 1,024, each sum the seed of the next. */
static inline uint64_t file_run_sum(const unsigned char *rows, uint64_t bytes, uint64_t stride)
{
    uint64_t sum = 0, run = stride * FILE_EXTENT;

    for (uint64_t at = 0; at < bytes; at += run)
        sum = vs_checksum(rows + at, bytes - at < run ? bytes - at : run, sum);
    return sum;
}

/* Each part of the first section, the sum of one the seed of the next. */
static inline uint64_t file_low_sum(const unsigned char *low, const uint64_t parts[3])
{
    uint64_t sum = 0;

    for (int i = 0; i < 3 && parts[i] > 0; i++) {
        sum = vs_checksum(low, parts[i], sum);
        low += parts[i];
    }
    return sum;
}

/* Makes all checksums right, those of the sections only where they lie in the file. */
static inline void file_reseal(unsigned char *f, size_t count)
{
    struct file_layout l;

    if (count < FILE_HEADER)
        return;
    file_layout(f, &l);
    if (l.slots <= VSHARD_ROWS_MAX && l.end <= count) {
        for (uint64_t i = 0; i < (FILE_COLUMNS + l.attributes) * l.extents; i++) {
            uint64_t column = i / l.extents, first = i % l.extents * FILE_EXTENT;
            uint64_t rows = l.slots - first < FILE_EXTENT ? l.slots - first : FILE_EXTENT;
            uint64_t sum = 0;

            if (l.stride[column] > 0)
                sum = vs_checksum(f + l.at[3 + column] + first * l.stride[column],
                                  rows * l.stride[column], 0);
            vs_store64(f + l.at[2] + 8 * i, sum);
        }
        vs_store64(f + 128, file_low_sum(f + l.at[0], l.low_parts));
        vs_store64(f + 136, file_run_sum(f + l.at[1], l.bytes[1], 4));
        vs_store64(f + 144, vs_checksum(f + l.at[2], l.bytes[2], 0));
        if (l.attributes > 0) {
            vs_store64(f + 420, vs_checksum(f + FILE_HEADER, 64 * l.attributes, 0));
            vs_store64(f + 428,
                       file_run_sum(f + l.at[FILE_SECTIONS - 1], l.bytes[FILE_SECTIONS - 1], 128));
        }
    }
    vs_store64(f + 504, vs_checksum(f, 504, 0));
}

#endif
