/* fault_storage.c - a file system in memory that fails, forgets and tears. */
#include "support/fault_storage.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "support/disk.h"
#include "support/fault_alloc.h"
#include "support/random.h"

enum { RULES = 8, HANDLES = 1024, QUEUE = 4096, MAPS = 256, OPS = 13 };

struct handle {
    uint32_t file; /* DISK_NONE: closed */
    uint32_t flags;
};

struct map {
    void *at;
    size_t bytes;
};

struct fault_storage {
    struct vshard_storage hook;
    struct disk *disk;
    uint64_t seed;
    uint64_t capacity;
    uint64_t counts[OPS];
    uint64_t struck;
    struct fault_rule rules[RULES];
    uint64_t seen[RULES]; /* requests each rule has looked at */
    uint32_t rule_count;
    uint32_t handle_count, map_count, queue_count;
    uint32_t defer, refuse_maps, refuse_reserves;
    struct handle handles[HANDLES];
    struct map maps[MAPS];
    struct map last; /* that was unmapped: nobody may touch it */
    struct vshard_io *queue[QUEUE];
    char breach[200];
    pthread_mutex_t lock;
};

static void breach(struct fault_storage *fs, const char *what, const struct vshard_io *io)
{
    if (fs->breach[0] == '\0')
        snprintf(fs->breach, sizeof fs->breach, "%s: op %u, file %llu, path %.80s", what, io->op,
                 (unsigned long long)io->file, io->path ? io->path : "-");
}

/* ---- what each request does ---- */

static struct disk_file *file_of(struct fault_storage *fs, const struct vshard_io *io,
                                 uint32_t flags)
{
    struct handle *h;

    if (io->file == 0 || io->file > fs->handle_count ||
        fs->handles[io->file - 1].file == DISK_NONE) {
        breach(fs, "no such open file", io);
        return NULL;
    }
    h = &fs->handles[io->file - 1];
    return (h->flags & flags) == flags ? &fs->disk->files[h->file] : NULL;
}

static int has_room(struct fault_storage *fs, const struct disk_file *f, uint64_t end,
                    uint64_t *fits)
{
    uint64_t others = disk_bytes(fs->disk) - f->bytes;
    uint64_t room = fs->capacity > others ? fs->capacity - others : 0;

    *fits = room > f->bytes ? room : f->bytes; /* what is there may be overwritten */
    return end <= *fits;
}

/* Has somebody opened the file to have it alone? */
static int is_taken(const struct fault_storage *fs, uint32_t file)
{
    for (uint32_t i = 0; i < fs->handle_count; i++) {
        if (fs->handles[i].file == file && (fs->handles[i].flags & VSHARD_IO_OPEN_ALONE))
            return 1;
    }
    return 0;
}

static int open_file(struct fault_storage *fs, struct vshard_io *io)
{
    uint32_t file = disk_find(fs->disk, io->path), h = 0;

    if (io->flags > 31 || (io->flags != 0 && (io->flags & VSHARD_IO_OPEN_WRITE) == 0) ||
        (io->flags & (VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_EXCLUSIVE)) ==
            VSHARD_IO_OPEN_EXCLUSIVE)
        return VSHARD_EINVAL;
    if (file != DISK_NONE && (io->flags & VSHARD_IO_OPEN_EXCLUSIVE))
        return VSHARD_EEXIST;
    if (disk_has_dir(fs->disk, io->path))
        return VSHARD_ENOTSUP;
    if (file != DISK_NONE && (io->flags & VSHARD_IO_OPEN_ALONE) && is_taken(fs, file))
        return VSHARD_EBUSY;
    if (file == DISK_NONE && (io->flags & VSHARD_IO_OPEN_CREATE) &&
        disk_has_parent(fs->disk, io->path))
        file = disk_make(fs->disk, io->path);
    if (file == DISK_NONE)
        return VSHARD_ENOTFOUND;
    while (h < fs->handle_count && fs->handles[h].file != DISK_NONE)
        h++;
    if (h == HANDLES)
        return VSHARD_EIO; /* as with too many descriptors */
    if (h == fs->handle_count)
        fs->handle_count++;
    if (io->flags & VSHARD_IO_OPEN_TRUNCATE)
        disk_resize(&fs->disk->files[file], 0);
    fs->handles[h] = (struct handle){ file, io->flags };
    fs->disk->files[file].handles++;
    io->file = h + 1;
    io->count = fs->disk->files[file].bytes;
    return VSHARD_OK;
}

static int close_file(struct fault_storage *fs, struct vshard_io *io)
{
    struct disk_file *f = file_of(fs, io, 0);

    if (f == NULL)
        return VSHARD_EIO;
    fs->handles[io->file - 1].file = DISK_NONE;
    f->handles--;
    disk_collect(fs->disk);
    return VSHARD_OK;
}

/* Where a misdirected request goes: another sector that is in the file. */
static uint64_t elsewhere(struct fault_storage *fs, const struct disk_file *f, uint64_t offset)
{
    uint64_t sectors = f->bytes / DISK_SECTOR;

    if (sectors < 2)
        return offset;
    return (offset + DISK_SECTOR * (1 + random_below(&fs->seed, sectors - 1))) %
           (sectors * DISK_SECTOR);
}

static int read_file(struct fault_storage *fs, struct vshard_io *io, uint32_t fault)
{
    const struct disk_file *f = file_of(fs, io, 0);
    uint64_t offset = io->offset, end;

    if (f == NULL)
        return VSHARD_EIO;
    end = fault == FAULT_STALE ? f->bytes_durable : f->bytes;
    if (fault == FAULT_MISDIRECT)
        offset = elsewhere(fs, f, offset);
    if (offset >= end)
        io->count = 0;
    else if (io->count > end - offset)
        io->count = end - offset;
    if (io->count > 0)
        memcpy(io->buffer, (fault == FAULT_STALE ? f->durable : f->now) + offset,
               (size_t)io->count);
    if (fault == FAULT_FLIP && io->count > 0) {
        uint64_t bit = random_below(&fs->seed, io->count * 8);
        ((unsigned char *)io->buffer)[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    return VSHARD_OK;
}

static int write_file(struct fault_storage *fs, struct vshard_io *io, uint32_t fault)
{
    struct disk_file *f = file_of(fs, io, VSHARD_IO_OPEN_WRITE);
    uint64_t offset = io->offset, fits;

    if (f == NULL)
        return VSHARD_EIO;
    if (fault == FAULT_LIE)
        return VSHARD_OK;
    if (offset > INT64_MAX || io->count > INT64_MAX - offset)
        return VSHARD_E2BIG;
    if (fault == FAULT_MISDIRECT)
        offset = elsewhere(fs, f, offset);
    if (fault == FAULT_SHORT) {
        uint64_t sectors = (io->count + DISK_SECTOR - 1) / DISK_SECTOR;
        disk_write(f, offset, io->buffer,
                   (size_t)(random_below(&fs->seed, sectors ? sectors : 1) * DISK_SECTOR));
        return VSHARD_EIO;
    }
    if (has_room(fs, f, offset + io->count, &fits)) {
        disk_write(f, offset, io->buffer, (size_t)io->count);
        return VSHARD_OK;
    }
    if (fits > offset)
        disk_write(f, offset, io->buffer, (size_t)(fits - offset));
    return VSHARD_ENOSPC;
}

static int resize_file(struct fault_storage *fs, struct vshard_io *io)
{
    struct disk_file *f = file_of(fs, io, VSHARD_IO_OPEN_WRITE);
    int reserves = (io->flags & VSHARD_IO_RESIZE_RESERVE) != 0 && !fs->refuse_reserves;
    uint64_t fits;

    if (f == NULL)
        return VSHARD_EIO;
    if (io->offset > INT64_MAX)
        return VSHARD_E2BIG;
    if (!has_room(fs, f, io->offset, &fits))
        return VSHARD_ENOSPC;
    if (reserves) { /* as XFS, looks for room for all of it, whatever the file has */
        uint64_t used = disk_bytes(fs->disk);

        if (fs->capacity < used || fs->capacity - used < io->offset)
            return VSHARD_ENOSPC;
        io->count = io->offset;
    }
    disk_resize(f, io->offset);
    return VSHARD_OK;
}

static int sync_file(struct fault_storage *fs, struct vshard_io *io, uint32_t fault)
{
    struct disk_file *f = file_of(fs, io, 0);

    if (f == NULL)
        return VSHARD_EIO;
    if (fault != FAULT_LIE)
        disk_sync(f);
    return VSHARD_OK;
}

static int rename_file(struct fault_storage *fs, struct vshard_io *io)
{
    if (disk_find(fs->disk, io->path) == DISK_NONE || !disk_has_parent(fs->disk, io->path_to))
        return VSHARD_ENOTFOUND;
    if (!disk_same_dir(io->path, io->path_to))
        return VSHARD_ENOTSUP;
    disk_rename(fs->disk, io->path, io->path_to);
    return VSHARD_OK;
}

static int remove_file(struct fault_storage *fs, struct vshard_io *io)
{
    if (disk_find(fs->disk, io->path) == DISK_NONE)
        return VSHARD_ENOTFOUND;
    disk_remove(fs->disk, io->path);
    return VSHARD_OK;
}

static int sync_dir(struct fault_storage *fs, struct vshard_io *io, uint32_t fault)
{
    if (!disk_has_dir(fs->disk, io->path))
        return VSHARD_ENOTFOUND;
    if (fault != FAULT_LIE) {
        disk_sync_dir(fs->disk, io->path);
        disk_collect(fs->disk);
    }
    return VSHARD_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int list_dir(struct fault_storage *fs, struct vshard_io *io)
{
    const struct disk_names *names = &fs->disk->now;
    const char **sorted;
    uint64_t used = 0;
    size_t n = 0, prefix = strlen(io->path) + 1;

    if (!disk_has_dir(fs->disk, io->path))
        return VSHARD_ENOTFOUND;
    if (strcmp(io->path, ".") == 0)
        prefix = 0;
    else if (strcmp(io->path, "/") == 0)
        prefix = 1;
    sorted = malloc((names->count + 1) * sizeof *sorted);
    if (sorted == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < names->count; i++) {
        const char *path = names->at[i].path;
        if ((prefix == 0 || strncmp(path, io->path, prefix - (prefix > 1)) == 0) &&
            strlen(path) > prefix && strchr(path + prefix, '/') == NULL &&
            (prefix == 0 || path[prefix - 1] == '/'))
            sorted[n++] = path + prefix;
    }
    qsort(sorted, n, sizeof *sorted, by_text);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = strlen(sorted[i]) + 1;
        if (used + bytes <= io->count)
            memcpy((char *)io->buffer + used, sorted[i], bytes);
        used += bytes;
    }
    free(sorted);
    n = used > io->count;
    io->count = used;
    return n ? VSHARD_E2BIG : VSHARD_OK;
}

/* Pages to write to. A file that is mapped over and over, with one byte changed each time, gets
 * those that it had: new ones cost more than all else that is done with them. */
static void *take_pages(struct fault_storage *fs, size_t bytes)
{
    void *p = fs->last.at;

    if (p == NULL || fs->last.bytes != bytes || mprotect(p, bytes, PROT_READ | PROT_WRITE) != 0)
        return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fs->last.at = NULL;
    return p;
}

/* Who still reads there shall crash. */
static void leave_pages(struct fault_storage *fs, struct map m)
{
    if (fs->last.at != NULL)
        munmap(fs->last.at, fs->last.bytes);
    fs->last = m;
    mprotect(m.at, m.bytes, PROT_NONE);
}

static int map_file(struct fault_storage *fs, struct vshard_io *io)
{
    const struct disk_file *f = file_of(fs, io, 0);
    void *p;
    uint32_t m = 0;

    if (fs->refuse_maps)
        return VSHARD_ENOTSUP;
    if (f == NULL)
        return VSHARD_EIO;
    if (io->count == 0 || io->offset != 0)
        return VSHARD_EINVAL;
    if (io->count > f->bytes)
        return VSHARD_E2BIG;
    while (m < fs->map_count && fs->maps[m].at != NULL)
        m++;
    if (m == MAPS)
        return VSHARD_ENOMEM;
    p = take_pages(fs, (size_t)io->count);
    if (p == MAP_FAILED)
        return VSHARD_ENOMEM;
    memcpy(p, f->now, (size_t)io->count);
    mprotect(p, (size_t)io->count, PROT_READ); /* who writes to it shall crash */
    fs->maps[m] = (struct map){ io->buffer = p, (size_t)io->count };
    if (m == fs->map_count)
        fs->map_count++;
    return VSHARD_OK;
}

static int unmap(struct fault_storage *fs, struct vshard_io *io)
{
    for (uint32_t m = 0; m < fs->map_count; m++) {
        if (fs->maps[m].at == io->buffer && io->buffer != NULL) {
            if (fs->maps[m].bytes != io->count)
                breach(fs, "unmapped with another size", io);
            leave_pages(fs, fs->maps[m]);
            fs->maps[m].at = NULL;
            return VSHARD_OK;
        }
    }
    breach(fs, "unmapped what is not mapped", io);
    return VSHARD_EIO;
}

static int perform(struct fault_storage *fs, struct vshard_io *io, uint32_t fault)
{
    switch (io->op) {
    case VSHARD_IO_OPEN: return open_file(fs, io);
    case VSHARD_IO_CLOSE: return close_file(fs, io);
    case VSHARD_IO_READ: return read_file(fs, io, fault);
    case VSHARD_IO_WRITE: return write_file(fs, io, fault);
    case VSHARD_IO_SYNC: return sync_file(fs, io, fault);
    case VSHARD_IO_RESIZE: return resize_file(fs, io);
    case VSHARD_IO_RENAME: return rename_file(fs, io);
    case VSHARD_IO_REMOVE: return remove_file(fs, io);
    case VSHARD_IO_SYNC_DIR: return sync_dir(fs, io, fault);
    case VSHARD_IO_LIST: return list_dir(fs, io);
    case VSHARD_IO_MAP: return map_file(fs, io);
    case VSHARD_IO_UNMAP: return unmap(fs, io);
    }
    return VSHARD_ENOTSUP;
}

/* ---- faults ---- */

static const struct fault_rule *strike(struct fault_storage *fs, const struct vshard_io *io)
{
    const struct fault_rule *hit = NULL;

    for (uint32_t i = 0; i < fs->rule_count; i++) {
        const struct fault_rule *r = &fs->rules[i];

        if (r->ops != 0 && (r->ops >> io->op & 1) == 0)
            continue;
        fs->seen[i]++;
        if (hit == NULL && (fs->seen[i] == r->k || (r->how == FAULT_FOREVER && fs->seen[i] > r->k)))
            hit = r;
    }
    return hit;
}

static int perform_or_fail(struct fault_storage *fs, struct vshard_io *io)
{
    const struct fault_rule *r = strike(fs, io);
    int rc, status = r != NULL && r->status != 0 ? r->status : VSHARD_EIO;
    struct disk_file *f;

    if (r == NULL)
        return perform(fs, io, FAULT_FAIL);
    fs->struck++;
    if (r->does == FAULT_FAIL) {
        if (io->op == VSHARD_IO_SYNC && (f = file_of(fs, io, 0)) != NULL)
            disk_sync_fails(f, &fs->seed);
        /* As with POSIX, a close that reports an error has closed. */
        if (io->op == VSHARD_IO_CLOSE)
            close_file(fs, io);
        return status;
    }
    rc = perform(fs, io, r->does);
    return r->does == FAULT_SHORT && rc == VSHARD_EIO ? status : rc;
}

static void check(struct fault_storage *fs, const struct vshard_io *io)
{
    static const struct {
        unsigned char path, path_to, buffer;
    } needs[OPS] = { [VSHARD_IO_OPEN] = { 1, 0, 0 },   [VSHARD_IO_READ] = { 0, 0, 1 },
                     [VSHARD_IO_WRITE] = { 0, 0, 1 },  [VSHARD_IO_RENAME] = { 1, 1, 0 },
                     [VSHARD_IO_REMOVE] = { 1, 0, 0 }, [VSHARD_IO_SYNC_DIR] = { 1, 0, 0 },
                     [VSHARD_IO_LIST] = { 1, 0, 1 },   [VSHARD_IO_UNMAP] = { 0, 0, 1 } };

    if (io->op == 0 || io->op >= OPS)
        breach(fs, "no such op", io);
    else if ((needs[io->op].path && io->path == NULL) ||
             (needs[io->op].path_to && io->path_to == NULL) ||
             (needs[io->op].buffer && io->buffer == NULL && io->count > 0))
        breach(fs, "a field the op needs is NULL", io);
    else if (io->flags != 0 && io->op != VSHARD_IO_OPEN &&
             (io->op != VSHARD_IO_RESIZE || io->flags != VSHARD_IO_RESIZE_RESERVE))
        breach(fs, "a field the op does not use is set", io);
    else
        for (uint32_t i = 0; i < fs->queue_count; i++) {
            if (fs->queue[i] == io)
                breach(fs, "submitted twice", io);
        }
}

static void submit(void *ctx, struct vshard_io *io)
{
    struct fault_storage *fs = ctx;
    int queued = 0;

    pthread_mutex_lock(&fs->lock);
    check(fs, io);
    fs->counts[0]++;
    fs->counts[io->op < OPS ? io->op : 0]++;
    if (fs->defer && fs->queue_count < QUEUE) {
        fs->queue[fs->queue_count++] = io;
        queued = 1;
    } else {
        io->status = perform_or_fail(fs, io);
    }
    pthread_mutex_unlock(&fs->lock);
    if (!queued && io->done != NULL)
        io->done(io);
}

/* Performs a queued request. Returns 0 when it is not queued. */
static int finish(struct fault_storage *fs, struct vshard_io *io)
{
    int found = 0;

    pthread_mutex_lock(&fs->lock);
    for (uint32_t i = 0; i < fs->queue_count && !found; i++) {
        if (fs->queue[i] == io) {
            memmove(fs->queue + i, fs->queue + i + 1, (--fs->queue_count - i) * sizeof *fs->queue);
            io->status = perform_or_fail(fs, io);
            found = 1;
        }
    }
    pthread_mutex_unlock(&fs->lock);
    if (found && io->done != NULL)
        io->done(io);
    return found;
}

static void wait_for(void *ctx, struct vshard_io *io)
{
    finish(ctx, io);
}

/* ---- the test's side ---- */

static struct fault_storage *with_disk(struct disk *disk, uint64_t seed)
{
    struct fault_storage *fs = calloc(1, sizeof *fs);

    if (fs == NULL)
        abort();
    fs->hook = (struct vshard_storage){ submit, wait_for, fs, NULL };
    fs->disk = disk;
    fs->seed = seed;
    fs->capacity = UINT64_MAX;
    pthread_mutex_init(&fs->lock, NULL);
    return fs;
}

struct fault_storage *fault_storage_create(uint64_t seed)
{
    return with_disk(disk_create(), seed);
}

void fault_storage_destroy(struct fault_storage *fs)
{
    if (fs == NULL)
        return;
    for (uint32_t m = 0; m < fs->map_count; m++) {
        if (fs->maps[m].at != NULL)
            munmap(fs->maps[m].at, fs->maps[m].bytes);
    }
    if (fs->last.at != NULL)
        munmap(fs->last.at, fs->last.bytes);
    disk_destroy(fs->disk);
    pthread_mutex_destroy(&fs->lock);
    free(fs);
}

const struct vshard_storage *fault_storage_hook(struct fault_storage *fs)
{
    return &fs->hook;
}

const char *fault_storage_verdict(struct fault_storage *fs)
{
    uint32_t files = 0, maps = 0;

    pthread_mutex_lock(&fs->lock);
    for (uint32_t i = 0; i < fs->handle_count; i++)
        files += fs->handles[i].file != DISK_NONE;
    for (uint32_t i = 0; i < fs->map_count; i++)
        maps += fs->maps[i].at != NULL;
    if (fs->breach[0] == '\0' && files + maps + fs->queue_count > 0)
        snprintf(fs->breach, sizeof fs->breach, "%u files open, %u mapped, %u requests queued",
                 files, maps, fs->queue_count);
    pthread_mutex_unlock(&fs->lock);
    return fs->breach[0] == '\0' ? NULL : fs->breach;
}

void fault_storage_mkdir(struct fault_storage *fs, const char *path)
{
    disk_mkdir(fs->disk, path);
}

void fault_storage_put(struct fault_storage *fs, const char *path, const void *bytes, size_t count)
{
    disk_put(fs->disk, path, bytes, count);
}

const void *fault_storage_bytes(struct fault_storage *fs, const char *path, size_t *count)
{
    uint32_t file = disk_find(fs->disk, path);

    if (file == DISK_NONE)
        return NULL;
    *count = (size_t)fs->disk->files[file].bytes;
    return fs->disk->files[file].now != NULL ? fs->disk->files[file].now : (const void *)"";
}

void fault_storage_flip(struct fault_storage *fs, const char *path, uint64_t bit)
{
    uint32_t file = disk_find(fs->disk, path);

    if (file != DISK_NONE)
        disk_flip(&fs->disk->files[file], bit);
}

uint64_t fault_storage_count(struct fault_storage *fs, uint32_t op)
{
    return op < OPS ? fs->counts[op] : 0;
}

void fault_storage_rule(struct fault_storage *fs, const struct fault_rule *rule)
{
    if (fs->rule_count == RULES)
        abort();
    fs->seen[fs->rule_count] = 0;
    fs->rules[fs->rule_count++] = *rule;
}

void fault_storage_fail(struct fault_storage *fs, uint64_t k, uint32_t how)
{
    const struct fault_rule rule = { .k = k, .how = how };

    fault_storage_rule(fs, &rule);
}

void fault_storage_heal(struct fault_storage *fs)
{
    fs->rule_count = 0;
}

uint64_t fault_storage_struck(struct fault_storage *fs)
{
    return fs->struck;
}

void fault_storage_capacity(struct fault_storage *fs, uint64_t bytes)
{
    fs->capacity = bytes;
}

uint64_t fault_storage_used(const struct fault_storage *fs)
{
    return disk_bytes(fs->disk);
}

void fault_storage_refuse_maps(struct fault_storage *fs, uint32_t refuse)
{
    fs->refuse_maps = refuse;
}

void fault_storage_refuse_reserves(struct fault_storage *fs, uint32_t refuse)
{
    fs->refuse_reserves = refuse;
}

void fault_storage_defer(struct fault_storage *fs, uint32_t defer)
{
    fs->defer = defer;
}

uint32_t fault_storage_queued(struct fault_storage *fs)
{
    return fs->queue_count;
}

struct vshard_io *fault_storage_request(struct fault_storage *fs, uint32_t i)
{
    return i < fs->queue_count ? fs->queue[i] : NULL;
}

void fault_storage_complete(struct fault_storage *fs, uint32_t i)
{
    if (i < fs->queue_count)
        finish(fs, fs->queue[i]);
}

uint32_t fault_storage_drain(struct fault_storage *fs)
{
    uint32_t count = 0;

    for (; fs->queue_count > 0; count++)
        fault_storage_complete(fs, (uint32_t)random_below(&fs->seed, fs->queue_count));
    return count;
}

/* ---- the power cut ---- */

/* A copy of the disk in which the requests under way have begun: their effect is
 * as volatile as any unsynced write's, so the choice of states covers all of it,
 * none of it and every part. */
static struct disk *disk_in_flight(struct fault_storage *fs, uint64_t *seed)
{
    struct fault_storage copy = { .disk = disk_clone(fs->disk), .capacity = fs->capacity };
    uint32_t order[QUEUE], n = fs->queue_count;

    memcpy(copy.handles, fs->handles, sizeof copy.handles);
    copy.handle_count = fs->handle_count;
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    if (seed != NULL)
        random_shuffle(seed, order, n);
    for (uint32_t i = 0; i < n; i++) {
        struct vshard_io io = *fs->queue[order[i]];

        if (io.op == VSHARD_IO_OPEN || io.op == VSHARD_IO_WRITE || io.op == VSHARD_IO_RESIZE ||
            io.op == VSHARD_IO_RENAME || io.op == VSHARD_IO_REMOVE)
            perform(&copy, &io, FAULT_FAIL);
    }
    return copy.disk;
}

size_t fault_storage_units(struct fault_storage *fs, uint32_t flags, uint32_t *states, size_t cap)
{
    struct disk *disk = disk_in_flight(fs, NULL);
    size_t units = disk_units(disk, (flags & FAULT_CRASH_EACH_NAME) != 0, states, cap);

    disk_destroy(disk);
    return units;
}

/* Whole-disk moods first, since states where every sector is drawn for itself are
 * rarely the all-or-nothing ones that recovery code mistakes for each other. */
static void draw(uint32_t *chosen, const uint32_t *states, size_t units, uint32_t flags,
                 uint64_t *seed)
{
    uint64_t mood = random_below(seed, 4);

    if (flags & FAULT_CRASH_LOSE)
        mood = 0;
    else if (flags & FAULT_CRASH_KEEP)
        mood = 1;
    for (size_t i = 0; i < units; i++) {
        uint32_t last = states[i] - 1;

        if (mood < 2)
            chosen[i] = mood == 0 ? 0 : last;
        else if (mood == 2)
            chosen[i] = random_one_in(seed, 2) ? last : 0;
        else
            chosen[i] = (uint32_t)random_below(seed, last + 1u);
    }
}

struct fault_storage *fault_storage_after(struct fault_storage *fs, const struct fault_crash *crash)
{
    uint64_t seed = crash->seed;
    int each = (crash->flags & FAULT_CRASH_EACH_NAME) != 0;
    struct disk *disk = disk_in_flight(fs, crash->chosen ? NULL : &seed);
    size_t units = disk_units(disk, each, NULL, 0);
    uint32_t *states = calloc(units + 1, sizeof *states);
    uint32_t *chosen = calloc(units + 1, sizeof *chosen);
    struct fault_storage *after = with_disk(disk, fs->seed ^ crash->seed);

    if (states == NULL || chosen == NULL)
        abort();
    disk_units(disk, each, states, units);
    if (crash->chosen != NULL)
        memcpy(chosen, crash->chosen, units * sizeof *chosen);
    else
        draw(chosen, states, units, crash->flags, &seed);
    disk_crash(disk, each, chosen, crash->flags & FAULT_CRASH_GARBAGE ? &seed : NULL);
    after->capacity = fs->capacity;
    after->refuse_maps = fs->refuse_maps;
    after->refuse_reserves = fs->refuse_reserves;
    free(states);
    free(chosen);
    return after;
}

int fault_choice_next(uint32_t *chosen, const uint32_t *states, size_t units)
{
    for (size_t i = 0; i < units; i++) {
        if (++chosen[i] < states[i])
            return 1;
        chosen[i] = 0;
    }
    return 0;
}
