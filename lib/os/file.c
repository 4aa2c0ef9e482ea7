/* file.c - small files whole: read, or replaced in one step. */
#include "os/os.h"

enum { PATH_BYTES = 4096 };

/* The directory that `path` stands in. */
static void directory_of(char *to, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t bytes = slash == NULL ? 0 : (size_t)(slash - path);

    memcpy(to, path, bytes);
    if (slash == path)
        to[bytes++] = '/';
    if (slash == NULL)
        to[bytes++] = '.';
    to[bytes] = 0;
}

static int write_aside(const struct vshard_storage *storage, const char *path, const void *bytes,
                       size_t count)
{
    uint64_t file;
    int rc = vs_io_open(storage, path,
                        VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE,
                        &file, NULL);
    int closed;

    if (rc != VSHARD_OK)
        return rc;
    if (count != 0)
        rc = vs_io_write(storage, file, 0, bytes, count);
    if (rc == VSHARD_OK)
        rc = vs_io_sync(storage, file);
    closed = vs_io_close(storage, file);
    return rc != VSHARD_OK ? rc : closed;
}

int vs_file_aside(char aside[4096], const char *path)
{
    size_t length = strlen(path);

    if (length + sizeof ".tmp" > PATH_BYTES)
        return VSHARD_E2BIG;
    memcpy(aside, path, length);
    memcpy(aside + length, ".tmp", sizeof ".tmp");
    return VSHARD_OK;
}

int vs_file_settle(const struct vshard_storage *storage, const char *path, int status)
{
    char aside[PATH_BYTES], directory[PATH_BYTES];
    int rc = vs_file_aside(aside, path);

    if (rc != VSHARD_OK)
        return rc;
    directory_of(directory, path);
    rc = status == VSHARD_OK ? vs_io_rename(storage, aside, path) : status;
    if (rc != VSHARD_OK) {
        vs_io_remove(storage, aside);
        return rc;
    }
    return vs_io_sync_dir(storage, directory);
}

int vs_file_replace(const struct vshard_storage *storage, const char *path, const void *bytes,
                    size_t count)
{
    char aside[PATH_BYTES];
    int rc = vs_file_aside(aside, path);

    if (rc == VSHARD_OK)
        rc = write_aside(storage, aside, bytes, count);
    return vs_file_settle(storage, path, rc);
}

int vs_file_read(const struct vshard_storage *storage, const struct vshard_allocator *a,
                 const char *path, void **bytes, size_t *count)
{
    uint64_t file, length;
    int rc = vs_io_open(storage, path, 0, &file, &length);

    *bytes = NULL;
    *count = 0;
    if (rc != VSHARD_OK)
        return rc;
    if (length > SIZE_MAX / 2)
        rc = VSHARD_E2BIG;
    if (rc == VSHARD_OK && length != 0) {
        *bytes = vs_alloc(a, (size_t)length);
        rc = *bytes ? vs_io_read(storage, file, 0, *bytes, (size_t)length) : VSHARD_ENOMEM;
    }
    vs_io_close(storage, file);
    if (rc != VSHARD_OK) {
        vs_free(a, *bytes, (size_t)length);
        *bytes = NULL;
        return rc;
    }
    *count = (size_t)length;
    return VSHARD_OK;
}
