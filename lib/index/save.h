/* save.h - private to lib/index: what the two ways of saving share. */
#ifndef VS_INDEX_SAVE_H
#define VS_INDEX_SAVE_H

#include "index/image.h"

/* Bytes as they were when the save began. */
struct vs_copy {
    unsigned char *bytes;
    size_t count;
};

struct vs_saving {
    struct vshard_index *x;
    struct vs_image_layout layout;
    unsigned char header[IMAGE_HEADER_BYTES];
    struct vs_copy low, entries, keywords;
    unsigned char *extent; /* rows of one */
    size_t extent_bytes;
    unsigned char *sums;
    size_t sums_bytes;
    bool noted;      /* there is something to be freed */
    char *temporary; /* path + ".tmp" */
    char *directory; /* of path */
    size_t path_bytes;
    uint64_t file; /* that is being written */
};

int vs_saving_names(struct vs_saving *s, const char *path);
void vs_saving_free_names(struct vs_saving *s);

/* Notes the index as it is, while no change is under way. If that succeeds, the columns must be
 * taken (vs_keep_take), or vs_saving_all() called. vs_saving_end() must follow in any case, and
 * vs_saving_forget() when all is over. */
int vs_saving_begin(struct vs_saving *s);
void vs_saving_end(struct vs_saving *s);
void vs_saving_forget(struct vs_saving *s);

/* A file ends at a multiple of the alignment. This is to be written first, because some
 * section's own last byte may lie there. */
int vs_saving_pad(struct vs_saving *s, const struct vs_image_layout *layout);

/* All but the columns, the header last; and everything. */
int vs_saving_small(struct vs_saving *s, const struct vs_image_layout *layout);
int vs_saving_all(struct vs_saving *s);

/* What both calls check, and log. */
int vs_save_call(struct vshard_index *x, const char *path,
                 int (*save_to)(struct vshard_index *x, const char *path));

#endif
