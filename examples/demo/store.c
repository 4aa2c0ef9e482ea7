/* store.c - the folder that the shards are saved in.
 *
 * The library reports a failed write by a status, which a program can act upon; a
 * person wants to hear which file, and the system's own word for what is wrong with
 * it. So the storage that the indexes are given is POSIX files with one thing more:
 * it remembers the system's number for the first request that failed. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vshard/map.h>

#include "screen.h"

static void submit(void *ctx, struct vshard_io *io)
{
    struct store *store = ctx;

    store->posix.submit(store->posix.ctx, io);
    if (io->status != VSHARD_OK && store->error == 0)
        store->error = io->error;
}

static void wait(void *ctx, struct vshard_io *io)
{
    struct store *store = ctx;

    store->posix.wait(store->posix.ctx, io);
}

static int is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int empty = 1;

    if (dir == NULL)
        return failed("%s: %s", folder, strerror(errno));
    while (empty && (entry = readdir(dir)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(dir);
    return empty;
}

static int take_folder(struct store *store)
{
    if (mkdir(store->folder, 0777) == 0) {
        store->is_ours = 1;
        return 0;
    }
    if (errno != EEXIST)
        return failed("%s: %s", store->folder, strerror(errno));
    switch (is_empty(store->folder)) {
    case 0: return failed("%s: %s", store->folder, strerror(ENOTEMPTY));
    case 1: break;
    default: return -1;
    }
    if (access(store->folder, W_OK | X_OK) != 0)
        return failed("%s: %s", store->folder, strerror(errno));
    return 0;
}

static int make_folder(struct store *store)
{
    if (mkdtemp(store->folder) == NULL)
        return failed("%s: %s", store->folder, strerror(errno));
    store->is_ours = 1;
    return 0;
}

int store_init(struct store *store, const char *folder, uint32_t shards)
{
    const char *base = getenv("TMPDIR");
    int bytes;

    memset(store, 0, sizeof *store);
    if (base == NULL || base[0] == '\0')
        base = "/tmp";
    if (folder != NULL)
        bytes = snprintf(store->folder, sizeof store->folder, "%s", folder);
    else
        bytes = snprintf(store->folder, sizeof store->folder, "%s/vshard-demo.XXXXXX", base);
    if (bytes < 0 || (size_t)bytes >= sizeof store->folder)
        return failed("%s: %s", folder ? folder : base, strerror(ENAMETOOLONG));
    store->shards = shards;
    store->storage = (struct vshard_storage){ submit, wait, store, NULL };
    vshard_storage_posix(&store->posix);
    return folder != NULL ? take_folder(store) : make_folder(store);
}

void store_fini(struct store *store)
{
    char path[STORE_PATH_MAX + 8];

    for (uint32_t i = 0; !store->keep && i <= store->shards; i++) {
        const char *kept = store_path(store, i < store->shards ? i : VSHARD_SHARD_NONE);

        snprintf(path, sizeof path, "%s.tmp", kept);
        unlink(path);
        unlink(kept);
    }
    if (!store->keep && store->is_ours)
        rmdir(store->folder);
}

const char *store_path(struct store *store, uint32_t shard)
{
    if (shard == VSHARD_SHARD_NONE)
        snprintf(store->path, sizeof store->path, "%s/map", store->folder);
    else
        snprintf(store->path, sizeof store->path, "%s/shard-%u.index", store->folder, shard);
    return store->path;
}

int store_failed(struct store *store, const char *path, int status)
{
    const char *why = store->error != 0 ? strerror(store->error) : vshard_strerror(status);

    store->error = 0;
    return failed("%s: %s", path, why);
}

static int write_and_sync(int fd, const char *at, size_t count)
{
    while (count > 0) {
        ssize_t n = write(fd, at, count);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += n;
        count -= (size_t)n;
    }
    return fsync(fd);
}

int store_write(const char *path, const void *bytes, size_t count)
{
    char temporary[STORE_PATH_MAX + 8];
    int fd, rc, error;

    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    rc = fd < 0 ? -1 : write_and_sync(fd, bytes, count);
    error = errno;
    if (fd >= 0 && close(fd) != 0 && rc == 0) {
        rc = -1;
        error = errno;
    }
    if (rc == 0 && (rc = rename(temporary, path)) != 0)
        error = errno;
    if (rc == 0)
        return 0;
    unlink(temporary);
    return failed("%s: %s", path, strerror(error));
}

int store_read(const char *path, void *bytes, size_t cap, size_t *count)
{
    FILE *file = fopen(path, "rb");
    int error = 0;

    if (file == NULL)
        return failed("%s: %s", path, strerror(errno));
    *count = fread(bytes, 1, cap, file);
    if (ferror(file))
        error = errno;
    fclose(file);
    return error == 0 ? 0 : failed("%s: %s", path, strerror(error));
}
