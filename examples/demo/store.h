/* store.h - the folder that the shards are saved in. */
#ifndef DEMO_STORE_H
#define DEMO_STORE_H

#include <stddef.h>
#include <stdint.h>

#include <vshard/base.h>

enum { STORE_PATH_MAX = 4000 };

struct store {
    struct vshard_storage posix, storage; /* storage is posix, watched */
    char folder[STORE_PATH_MAX - 64];
    char path[STORE_PATH_MAX]; /* of store_path() */
    int error;                 /* errno of the first request that failed */
    int is_ours;               /* the folder was made by us */
    int keep;                  /* the files stay after store_fini() */
    uint32_t shards;
};

/* Makes a folder of our own under TMPDIR, or takes `folder`, which must be new or
 * empty and whose files stay. Returns 0, or -1 after saying why not. */
int store_init(struct store *store, const char *folder, uint32_t shards);

/* Removes what was written unless `keep` is set, and the folder if we made it. */
void store_fini(struct store *store);

/* Where a shard is kept, or for VSHARD_SHARD_NONE the map; until the next call. */
const char *store_path(struct store *store, uint32_t shard);

/* Says that a call with `path` gave `status`, and why. Returns -1. */
int store_failed(struct store *store, const char *path, int status);

/* Writes or reads a small file whole. Returns 0, or -1 after saying why not. */
int store_write(const char *path, const void *bytes, size_t count);
int store_read(const char *path, void *bytes, size_t cap, size_t *count);

#endif
