/* disk.h - an in-memory disk that knows what would survive a power cut.
 *
 * The inner half of fault_storage.h, which is what tests use; see there for the
 * model. Everything here is one thread's, and runs out of memory by abort(). */
#ifndef SUPPORT_DISK_H
#define SUPPORT_DISK_H

#include <stddef.h>
#include <stdint.h>

enum { DISK_SECTOR = 512 };
#define DISK_NONE UINT32_MAX

/* What one sector held after a write, until the next sync. */
struct disk_version {
    unsigned char *bytes; /* [DISK_SECTOR] */
    uint32_t cut_by;      /* 1 + the length change that zeroed it; 0: a write */
    uint32_t unused;
};

struct disk_sector {
    struct disk_version *versions;
    uint32_t count;
    uint32_t cap;
};

struct disk_length {
    uint64_t from, to;
    uint64_t steps; /* lengths on the way that a crash may leave, `to` the last */
};

struct disk_file {
    unsigned char *now;     /* what a read returns; zeros past `bytes` */
    unsigned char *durable; /* what is on the platter; zeros past `bytes_durable` */
    uint64_t bytes, bytes_durable;
    struct disk_sector **sectors; /* [cap / DISK_SECTOR]; NULL: clean */
    size_t cap;
    uint32_t *dirty; /* sectors with a history, the first touched first */
    uint32_t dirty_count, dirty_cap;
    struct disk_length *lengths; /* changes since the last sync */
    uint32_t length_count, length_cap;
    uint32_t handles; /* open ones */
    uint32_t used;    /* 0: this place is free */
};

struct disk_name {
    char *path;
    uint32_t file;
};

struct disk_names {
    struct disk_name *at;
    uint32_t count, cap;
};

/* A change of a directory that no SYNC_DIR has made durable. */
struct disk_change {
    char *directory;
    char *path;    /* taken away, or NULL */
    char *path_to; /* put there, or NULL */
    uint32_t file;
};

struct disk {
    struct disk_file *files;
    uint32_t file_count, file_cap;
    uint32_t dir_count, dir_cap, change_count, change_cap;
    struct disk_names now, durable;
    char **dirs;
    struct disk_change *changes;
};

struct disk *disk_create(void);
struct disk *disk_clone(const struct disk *disk);
void disk_destroy(struct disk *disk);

void disk_mkdir(struct disk *disk, const char *path);
int disk_has_dir(const struct disk *disk, const char *path);
int disk_has_parent(const struct disk *disk, const char *path);
/* Whether two paths name entries of one directory. */
int disk_same_dir(const char *a, const char *b);

uint32_t disk_find(const struct disk *disk, const char *path);
uint32_t disk_make(struct disk *disk, const char *path);
void disk_rename(struct disk *disk, const char *path, const char *path_to);
void disk_remove(struct disk *disk, const char *path);
void disk_sync_dir(struct disk *disk, const char *path);

void disk_write(struct disk_file *file, uint64_t offset, const void *bytes, size_t count);
void disk_resize(struct disk_file *file, uint64_t bytes);
void disk_sync(struct disk_file *file);
/* Forgets what was not written, having written some of it; the next disk_sync()
 * will not know that anything is missing. */
void disk_sync_fails(struct disk_file *file, uint64_t *seed);
void disk_flip(struct disk_file *file, uint64_t bit);
/* Makes bytes and name durable at once, as if they had always been there. */
void disk_put(struct disk *disk, const char *path, const void *bytes, size_t count);

/* Frees files that no name, change or handle reaches. */
void disk_collect(struct disk *disk);

uint64_t disk_bytes(const struct disk *disk);

/* ---- crash states ----
 * The units of a disk, each a number of states it may be left in, state 0 the
 * oldest and the last the newest: for each directory the changes that made it (or
 * each of them by itself with `each_change`), then for each file its length and
 * its dirty sectors. Returns how many units there are; fills up to cap. */
size_t disk_units(const struct disk *disk, int each_change, uint32_t *states, size_t cap);

/* Leaves each unit in its chosen state, and nothing volatile. `garbage` is NULL,
 * or the seed of what stands where a length grew and the data did not follow. */
void disk_crash(struct disk *disk, int each_change, const uint32_t *chosen, uint64_t *garbage);

#endif
