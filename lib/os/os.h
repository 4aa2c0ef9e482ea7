/* os.h - the door of lib/os: the only room that speaks to the machine.
 *
 * Its other face, vshard_storage_posix() and vshard_cpu_node(), is in <vshard/base.h>. */
#ifndef VS_OS_H
#define VS_OS_H

#include "base/base.h"

#include <pthread.h>

/* What this CPU and its operating system can run: VSHARD_CPU_* bits. */
uint32_t vs_os_cpu(void);

/* Memory nodes of this machine; 1 where that is unknown. */
uint32_t vs_os_numa_nodes(void);

/* How many numbers a list such as "0-3,6" names, as Linux writes them; at least 1. */
uint32_t vs_os_count_ranges(const char *text, size_t bytes);

/* A place for memory: node number - 1, as the operating system counts; `number` from 1.
 * *out is NULL where all memory is one node, and there is nothing to do. Returns 0,
 * EINVAL (no such node; *most is the greatest number), ENOTSUP (a build without hwloc),
 * ENOMEM. */
struct vs_os_place;
int vs_os_place_open(uint32_t number, struct vs_os_place **out, uint32_t *most);
/* Of whole pages: those not yet touched will lie there, as long as the node has room.
 * Returns 0 or ENOTSUP. */
int vs_os_place_bind(const struct vs_os_place *place, void *memory, size_t bytes);
void vs_os_place_close(struct vs_os_place *place);

/* Adds to bytes[n] what the kernel has of this memory on node n, in whole pages.
 * Returns 0, E2BIG (a node above those counted), ENOTSUP (this system does not tell). */
int vs_os_node_bytes(const void *memory, size_t count, uint64_t *bytes, size_t node_count);

/* The default memory of an index, placed on node numa_node - 1 unless that is 0. Statuses
 * of vs_os_place_open(), and ENOTSUP when the system refuses to place memory. */
int vs_os_memory_open(uint32_t numa_node, struct vshard_allocator *memory, uint32_t *most);
/* Does nothing to an allocator that is not of vs_os_memory_open(). */
void vs_os_memory_close(const struct vshard_allocator *memory);

/* Fills `bytes` with unpredictable bytes of the operating system. Returns 0 or EIO. */
int vs_os_entropy(void *bytes, size_t count);

/* Gives the processor to others for a moment, inside a short wait. */
void vs_os_yield(void);

/* A lock that many may share or one may have. Not to be taken twice by one thread. */
struct vs_lock {
    pthread_rwlock_t it;
};
int vs_lock_init(struct vs_lock *lock); /* 0 or ENOMEM */
void vs_lock_fini(struct vs_lock *lock);
void vs_lock_share(struct vs_lock *lock);
void vs_lock_take(struct vs_lock *lock);
void vs_lock_leave(struct vs_lock *lock);

/* ---- storage, blocking ----
 * For calls that save or open files: each submits one request and waits for it.
 * `storage` may be NULL: POSIX files. Returns the request's status. */
int vs_io_open(const struct vshard_storage *storage, const char *path, uint32_t flags,
               uint64_t *file, uint64_t *bytes);
int vs_io_close(const struct vshard_storage *storage, uint64_t file);
/* Reads exactly count bytes; ECORRUPT when the file ends before. */
int vs_io_read(const struct vshard_storage *storage, uint64_t file, uint64_t offset, void *buffer,
               size_t count);
int vs_io_write(const struct vshard_storage *storage, uint64_t file, uint64_t offset,
                const void *buffer, size_t count);
int vs_io_sync(const struct vshard_storage *storage, uint64_t file);
int vs_io_resize(const struct vshard_storage *storage, uint64_t file, uint64_t bytes);
int vs_io_rename(const struct vshard_storage *storage, const char *path, const char *path_to);
int vs_io_remove(const struct vshard_storage *storage, const char *path);
int vs_io_sync_dir(const struct vshard_storage *storage, const char *path);
/* Fills `names` with the sorted names of a directory, each ended by a zero byte.
 * *bytes is its room, then what was used; after E2BIG, the room it would take. */
int vs_io_list(const struct vshard_storage *storage, const char *path, char *names, size_t *bytes);
/* Hands all of them to take(), whatever room they take, and returns what that returns; or a
 * status, also ENOMEM. */
int vs_io_list_all(const struct vshard_storage *storage, const struct vshard_allocator *allocator,
                   const char *path, int (*take)(void *ctx, const char *names, size_t bytes),
                   void *ctx);
/* ECORRUPT when the file is shorter than `bytes`; ENOTSUP when it must be read instead. */
int vs_io_map(const struct vshard_storage *storage, uint64_t file, size_t bytes, void **buffer);
int vs_io_unmap(const struct vshard_storage *storage, void *buffer, size_t bytes);

/* Writes path + ".tmp", syncs, renames it over `path` and syncs the directory: a crash
 * leaves the old file or the new one, whole. */
int vs_file_replace(const struct vshard_storage *storage, const char *path, const void *bytes,
                    size_t count);
/* The two halves of that, for who writes a large file piece by piece: its name aside, E2BIG
 * where that is too long; and, with the status that writing, syncing and closing came to,
 * the rename, or the end of what was written. */
int vs_file_aside(char aside[4096], const char *path);
int vs_file_settle(const struct vshard_storage *storage, const char *path, int status);
/* Reads a file whole into memory of the allocator, [*count]; NULL where it is empty. */
int vs_file_read(const struct vshard_storage *storage, const struct vshard_allocator *a,
                 const char *path, void **bytes, size_t *count);

#endif
