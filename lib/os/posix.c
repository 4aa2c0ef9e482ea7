/* posix.c - the default storage: files of this machine.
 *
 * Every request is carried out inside submit(), on the calling thread, so there
 * is nothing to wait for and nothing to remember: a file's name in the table is
 * its descriptor, and the table has no state of its own.
 *
 * Durability. SYNC is fdatasync(2), which POSIX obliges to write the contents and
 * whatever is needed to read them back, the length among it. It does not write
 * the directory entry of a new or renamed file; that is SYNC_DIR. When either
 * fails, the kernel may already have thrown away the pages it could not write and
 * a second sync would succeed without them, so EIO from a sync is final: the file
 * must be closed, and read back before anything in it is believed.
 *
 * ALONE is a lock that belongs to the open file, not to the process: of two opens in one
 * process one is refused, closing another descriptor of the file does not give it up, and
 * the kernel takes it back when the last copy of the descriptor is closed, however the
 * process ends. (A child that was forked and started no other program has a copy.) It binds
 * only those who ask for it. A network file system that passes locks on keeps two machines
 * apart; one that has none is not asked twice, and nobody is refused.
 *
 * Not here: retrying, caching, making directories. */

/* Files above 2 GiB where off_t would have 32 bits, and locks of open files where there
 * are any; before the first header. */
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int status_of(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR: return VSHARD_ENOTFOUND;
    case EEXIST:
    case ENOTEMPTY: return VSHARD_EEXIST;
    case ENOSPC:
    case EDQUOT: return VSHARD_ENOSPC;
    case EFBIG:
    case EOVERFLOW:
    case ENAMETOOLONG: return VSHARD_E2BIG;
    case ENOMEM: return VSHARD_ENOMEM;
    case EISDIR:
    case ENOSYS:
    case EOPNOTSUPP: return VSHARD_ENOTSUP;
    case EINVAL: return VSHARD_EINVAL;
    }
    return VSHARD_EIO;
}

static int status_of_call(int result)
{
    return result == 0 ? VSHARD_OK : status_of(errno);
}

static int descriptor(const struct vshard_io *io)
{
    return io->file <= INT32_MAX ? (int)io->file : -1; /* -1: the call says EBADF */
}

/* Whether the range is one that off_t can hold. */
static bool in_range(uint64_t offset, uint64_t count)
{
    const uint64_t limit = sizeof(off_t) >= 8 ? INT64_MAX : INT32_MAX;

    return offset <= limit && count <= limit - offset && count <= SIZE_MAX;
}

/* What POSIX leaves undefined is refused: changing a file that is opened for
 * reading, and EXCLUSIVE without CREATE. */
static bool flags_agree(uint32_t flags)
{
    const uint32_t all = VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_EXCLUSIVE |
                         VSHARD_IO_OPEN_TRUNCATE | VSHARD_IO_OPEN_ALONE;

    return (flags & ~all) == 0 && (flags == 0 || (flags & VSHARD_IO_OPEN_WRITE) != 0) &&
           ((flags & VSHARD_IO_OPEN_EXCLUSIVE) == 0 || (flags & VSHARD_IO_OPEN_CREATE) != 0);
}

static int open_flags(uint32_t flags)
{
    /* Not blocking matters only to what is not a plain file: opening a pipe by
     * mistake must fail, not hang. */
    int f = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    f |= flags & VSHARD_IO_OPEN_WRITE ? O_RDWR : O_RDONLY;
    f |= flags & VSHARD_IO_OPEN_CREATE ? O_CREAT : 0;
    f |= flags & VSHARD_IO_OPEN_EXCLUSIVE ? O_EXCL : 0;
    /* Nothing is cut off a file that somebody else has; see alone(). */
    if ((flags & VSHARD_IO_OPEN_ALONE) == 0)
        f |= flags & VSHARD_IO_OPEN_TRUNCATE ? O_TRUNC : 0;
    return f;
}

/* Locks of this kind are not there: an old kernel, or a file system without any. */
static bool has_no_locks(int error)
{
    return error == EINVAL || error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP;
}

/* Returns 0 (also where there are no locks), EBUSY, or another status. */
static int lock_file(int fd)
{
    int rc;

#ifdef F_OFD_SETLK
    do {
        struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

        rc = fcntl(fd, F_OFD_SETLK, &whole);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0 && (errno == EAGAIN || errno == EACCES))
        return VSHARD_EBUSY;
    if (rc == 0 || !has_no_locks(errno))
        return status_of_call(rc);
#endif
    do
        rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno == EWOULDBLOCK)
        return VSHARD_EBUSY;
    return rc == 0 || has_no_locks(errno) ? VSHARD_OK : status_of(errno);
}

/* Takes a file that was opened, and does what had to wait for that. */
static int alone(int fd, uint32_t flags, struct stat *st)
{
    int rc = lock_file(fd);

    if (rc == VSHARD_OK && (flags & VSHARD_IO_OPEN_TRUNCATE))
        rc = status_of_call(ftruncate(fd, 0));
    /* Whoever had it may have written to it until now. */
    return rc == VSHARD_OK ? status_of_call(fstat(fd, st)) : rc;
}

static int open_file(struct vshard_io *io)
{
    struct stat st;
    int fd, rc = VSHARD_OK;

    if (!flags_agree(io->flags))
        return VSHARD_EINVAL;
    do
        fd = open(io->path, open_flags(io->flags), 0666);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return status_of(errno);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = VSHARD_ENOTSUP;
    else if (io->flags & VSHARD_IO_OPEN_ALONE)
        rc = alone(fd, io->flags, &st);
    if (rc != VSHARD_OK) {
        close(fd);
        return rc;
    }
    io->file = (uint64_t)fd;
    io->count = (uint64_t)st.st_size;
    return VSHARD_OK;
}

static int close_file(struct vshard_io *io)
{
    /* The descriptor is gone even when close() was interrupted; trying again
     * could close one that another thread has just been given. */
    return close(descriptor(io)) == 0 || errno == EINTR ? VSHARD_OK : status_of(errno);
}

static int read_file(struct vshard_io *io)
{
    unsigned char *to = io->buffer;
    uint64_t done = 0;

    if (!in_range(io->offset, io->count))
        return VSHARD_E2BIG;
    while (done < io->count) {
        ssize_t n = pread(descriptor(io), to + done, (size_t)(io->count - done),
                          (off_t)(io->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return status_of(errno);
        if (n == 0)
            break; /* the end of the file */
        done += (uint64_t)n;
    }
    io->count = done;
    return VSHARD_OK;
}

static int write_file(struct vshard_io *io)
{
    const unsigned char *from = io->buffer;
    uint64_t done = 0;

    if (!in_range(io->offset, io->count))
        return VSHARD_E2BIG;
    while (done < io->count) {
        ssize_t n = pwrite(descriptor(io), from + done, (size_t)(io->count - done),
                           (off_t)(io->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? status_of(errno) : VSHARD_EIO;
        done += (uint64_t)n;
    }
    return VSHARD_OK;
}

static int sync_file(struct vshard_io *io)
{
    int rc;

    do {
#if defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
        rc = fdatasync(descriptor(io));
#else
        rc = fsync(descriptor(io));
#endif
    } while (rc != 0 && errno == EINTR);
    return status_of_call(rc);
}

/* As far as the file system can: the others say so in one way or another, and have no
 * promise to give. Nor has one that a signal interrupts, which might do so again for ever. */
static int reserve(struct vshard_io *io)
{
    int rc = -1;

    io->count = 0;
#ifdef __linux__
    rc = fallocate(descriptor(io), 0, 0, (off_t)io->offset);
    if (rc != 0 && (errno == ENOSPC || errno == EDQUOT))
        return status_of_call(rc);
#endif
    if (rc == 0)
        io->count = io->offset;
    return VSHARD_OK;
}

static int resize_file(struct vshard_io *io)
{
    int rc = VSHARD_OK;

    if (!in_range(io->offset, 0))
        return VSHARD_E2BIG;
    if ((io->flags & VSHARD_IO_RESIZE_RESERVE) != 0 && io->offset != 0)
        rc = reserve(io);
    if (rc != VSHARD_OK)
        return rc;
    do
        rc = ftruncate(descriptor(io), (off_t)io->offset);
    while (rc != 0 && errno == EINTR);
    /* EINVAL is how Linux says that the file was opened for reading. */
    return rc != 0 && errno == EINVAL ? VSHARD_EIO : status_of_call(rc);
}

static int sync_dir(struct vshard_io *io)
{
    int fd, rc, error;

    do
        fd = open(io->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return status_of(errno);
    do
        rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    error = errno;
    close(fd);
    return rc == 0 ? VSHARD_OK : status_of(error);
}

/* Puts a name into its place among those in [0, used), which are sorted. */
static void insert_name(char *names, size_t used, const char *name, size_t bytes)
{
    size_t at = 0;

    while (at < used && strcmp(names + at, name) < 0)
        at += strlen(names + at) + 1;
    memmove(names + at + bytes, names + at, used - at);
    memcpy(names + at, name, bytes);
}

/* Sorted, so that whoever reads a directory meets its files in the same order on
 * every machine. Sorting by insertion, in the caller's buffer, needs no memory;
 * the directories this library keeps have tens of entries. */
static int list_dir(struct vshard_io *io)
{
    DIR *dir = opendir(io->path);
    uint64_t used = 0;
    struct dirent *entry;

    if (dir == NULL)
        return status_of(errno);
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
        size_t bytes = strlen(entry->d_name) + 1;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (used + bytes <= io->count)
            insert_name(io->buffer, (size_t)used, entry->d_name, bytes);
        used += bytes; /* goes on counting when the buffer is full */
    }
    if (errno != 0) {
        int error = errno;

        closedir(dir);
        return status_of(error);
    }
    closedir(dir);
    if (used > io->count) {
        io->count = used;
        return VSHARD_E2BIG;
    }
    io->count = used;
    return VSHARD_OK;
}

static int map_file(struct vshard_io *io)
{
    struct stat st;
    void *p;

    if (io->count == 0 || io->offset != 0)
        return VSHARD_EINVAL;
    if (fstat(descriptor(io), &st) != 0)
        return status_of(errno);
    /* A page past the end could be mapped, but touching it would be a SIGBUS. */
    if (!in_range(0, io->count) || io->count > (uint64_t)st.st_size)
        return VSHARD_E2BIG;
    p = mmap(NULL, (size_t)io->count, PROT_READ, MAP_SHARED, descriptor(io), 0);
    if (p == MAP_FAILED)
        return status_of(errno);
    io->buffer = p;
    return VSHARD_OK;
}

static int perform(struct vshard_io *io)
{
    switch (io->op) {
    case VSHARD_IO_OPEN: return open_file(io);
    case VSHARD_IO_CLOSE: return close_file(io);
    case VSHARD_IO_READ: return read_file(io);
    case VSHARD_IO_WRITE: return write_file(io);
    case VSHARD_IO_SYNC: return sync_file(io);
    case VSHARD_IO_RESIZE: return resize_file(io);
    case VSHARD_IO_RENAME: return status_of_call(rename(io->path, io->path_to));
    case VSHARD_IO_REMOVE: return status_of_call(unlink(io->path));
    case VSHARD_IO_SYNC_DIR: return sync_dir(io);
    case VSHARD_IO_LIST: return list_dir(io);
    case VSHARD_IO_MAP: return map_file(io);
    case VSHARD_IO_UNMAP: return status_of_call(munmap(io->buffer, (size_t)io->count));
    }
    return VSHARD_ENOTSUP;
}

static void submit(void *ctx, struct vshard_io *io)
{
    const int saved = errno; /* the host's, not ours to change */

    (void)ctx;
    errno = 0;
    io->status = perform(io);
    io->error = io->status != VSHARD_OK ? errno : 0;
    errno = saved;
    if (io->done != NULL)
        io->done(io);
}

static void wait_for(void *ctx, struct vshard_io *io)
{
    (void)ctx;
    (void)io; /* was complete when submit() returned */
}

int vshard_storage_posix(struct vshard_storage *storage)
{
    if (storage == NULL)
        return VSHARD_EINVAL;
    *storage = (struct vshard_storage){ submit, wait_for, NULL, NULL };
    return VSHARD_OK;
}
