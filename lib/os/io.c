/* io.c - storage requests, one at a time: submit, wait, return the status.
 *
 * For code that saves or opens a file as one step. What must overlap requests
 * (the write-ahead log) fills in struct vshard_io itself. */
#include "os/os.h"

static int run(const struct vshard_storage *storage, struct vshard_io *io)
{
    struct vshard_storage posix;

    if (storage == NULL) {
        vshard_storage_posix(&posix);
        storage = &posix;
    }
    storage->submit(storage->ctx, io);
    storage->wait(storage->ctx, io);
    /* A table of the host's may be wrong; a status is 0 or negative all the same. */
    return io->status > 0 ? VSHARD_EIO : io->status;
}

int vs_io_open(const struct vshard_storage *storage, const char *path, uint32_t flags,
               uint64_t *file, uint64_t *bytes)
{
    struct vshard_io io = { .op = VSHARD_IO_OPEN, .flags = flags, .path = path };
    int rc = run(storage, &io);

    if (rc == VSHARD_OK) {
        *file = io.file;
        if (bytes != NULL)
            *bytes = io.count;
    }
    return rc;
}

int vs_io_close(const struct vshard_storage *storage, uint64_t file)
{
    struct vshard_io io = { .op = VSHARD_IO_CLOSE, .file = file };

    return run(storage, &io);
}

int vs_io_read(const struct vshard_storage *storage, uint64_t file, uint64_t offset, void *buffer,
               size_t count)
{
    struct vshard_io io = {
        .op = VSHARD_IO_READ, .file = file, .offset = offset, .count = count, .buffer = buffer
    };
    int rc = count == 0 ? VSHARD_OK : run(storage, &io);

    if (rc != VSHARD_OK || io.count == count)
        return rc;
    return io.count < count ? VSHARD_ECORRUPT : VSHARD_EIO;
}

int vs_io_write(const struct vshard_storage *storage, uint64_t file, uint64_t offset,
                const void *buffer, size_t count)
{
    /* One struct serves both directions; WRITE only reads through the pointer. */
    struct vshard_io io = { .op = VSHARD_IO_WRITE, .file = file, .offset = offset, .count = count };

    memcpy(&io.buffer, &buffer, sizeof buffer);
    return count == 0 ? VSHARD_OK : run(storage, &io);
}

int vs_io_sync(const struct vshard_storage *storage, uint64_t file)
{
    struct vshard_io io = { .op = VSHARD_IO_SYNC, .file = file };

    return run(storage, &io);
}

int vs_io_resize(const struct vshard_storage *storage, uint64_t file, uint64_t bytes)
{
    struct vshard_io io = { .op = VSHARD_IO_RESIZE, .file = file, .offset = bytes };

    return run(storage, &io);
}

int vs_io_rename(const struct vshard_storage *storage, const char *path, const char *path_to)
{
    struct vshard_io io = { .op = VSHARD_IO_RENAME, .path = path, .path_to = path_to };

    return run(storage, &io);
}

int vs_io_remove(const struct vshard_storage *storage, const char *path)
{
    struct vshard_io io = { .op = VSHARD_IO_REMOVE, .path = path };

    return run(storage, &io);
}

int vs_io_sync_dir(const struct vshard_storage *storage, const char *path)
{
    struct vshard_io io = { .op = VSHARD_IO_SYNC_DIR, .path = path };

    return run(storage, &io);
}

int vs_io_list(const struct vshard_storage *storage, const char *path, char *names, size_t *bytes)
{
    struct vshard_io io = { .op = VSHARD_IO_LIST, .path = path, .buffer = names, .count = *bytes };
    int rc = run(storage, &io);

    if (rc == VSHARD_OK || rc == VSHARD_E2BIG)
        *bytes = (size_t)io.count;
    return rc;
}

int vs_io_list_all(const struct vshard_storage *storage, const struct vshard_allocator *allocator,
                   const char *path, int (*take)(void *ctx, const char *names, size_t bytes),
                   void *ctx)
{
    size_t cap = 4096, bytes;
    int rc;

    do {
        char *names = vs_alloc(allocator, cap);

        if (names == NULL)
            return VSHARD_ENOMEM;
        bytes = cap;
        rc = vs_io_list(storage, path, names, &bytes);
        if (rc == VSHARD_OK)
            rc = take(ctx, names, bytes);
        vs_free(allocator, names, cap);
        cap = bytes > 2 * cap ? bytes : 2 * cap;
    } while (rc == VSHARD_E2BIG && cap < (64u << 20));
    return rc;
}

int vs_io_map(const struct vshard_storage *storage, uint64_t file, size_t bytes, void **buffer)
{
    struct vshard_io io = { .op = VSHARD_IO_MAP, .file = file, .count = bytes };
    int rc = run(storage, &io);

    if (rc == VSHARD_OK)
        *buffer = io.buffer;
    return rc == VSHARD_E2BIG ? VSHARD_ECORRUPT : rc;
}

int vs_io_unmap(const struct vshard_storage *storage, void *buffer, size_t bytes)
{
    struct vshard_io io = { .op = VSHARD_IO_UNMAP, .buffer = buffer, .count = bytes };

    return run(storage, &io);
}
