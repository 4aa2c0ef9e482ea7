/* snapshot.c - a snapshot is a file that is there whole or not at all.
 *
 * It is named after its index, written aside, synced, renamed, and the directory
 * synced, on a thread of libuv's. The log names the one that counts in the payload of
 * its MARK, so files that no mark names are left-overs. The machine's own byte order:
 * a file does not travel, its state does. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct head {
    char magic[8];
    uint64_t index, term, meta_count, state_count;
    struct vshard_key check; /* of META and state */
};

struct job {
    uv_work_t work;
    const char *dir;
    struct snapshot *snapshot;
    int status;
    void (*done)(struct snapshot *s, int status, void *ctx);
    void *ctx;
};

static const char magic[8] = "VSHOST1";

static void path_of(char path[4096], const char *dir, uint64_t index, const char *suffix)
{
    snprintf(path, 4096, "%s/snapshot-%020" PRIu64 "%s", dir, index, suffix);
}

static struct vshard_key check_of(const struct snapshot *s)
{
    struct vshard_key parts[2] = { vshard_key_hash(s->meta.at, s->meta.count),
                                   vshard_key_hash(s->state.at, s->state.count) };

    return vshard_key_hash(parts, sizeof parts);
}

static bool write_all(int fd, const void *from, size_t count)
{
    const char *at = from;

    while (count > 0) {
        ssize_t n = write(fd, at, count);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static int status_of(int error)
{
    return error == ENOSPC || error == EDQUOT ? VSHARD_ENOSPC : VSHARD_EIO;
}

static void write_file(uv_work_t *work)
{
    struct job *j = work->data;
    struct snapshot *s = j->snapshot;
    struct head h = { .index = s->index,
                      .term = s->term,
                      .meta_count = s->meta.count,
                      .state_count = s->state.count,
                      .check = check_of(s) };
    char aside[4096], path[4096];
    int fd, dir;

    memcpy(h.magic, magic, sizeof magic);
    path_of(aside, j->dir, s->index, ".new");
    path_of(path, j->dir, s->index, "");
    fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    dir = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    j->status = VSHARD_OK;
    if (fd < 0 || dir < 0 || !write_all(fd, &h, sizeof h) ||
        !write_all(fd, s->meta.at, s->meta.count) || !write_all(fd, s->state.at, s->state.count) ||
        fsync(fd) != 0 || rename(aside, path) != 0 || fsync(dir) != 0) {
        j->status = status_of(errno);
        unlink(aside);
    }
    if (fd >= 0)
        close(fd);
    if (dir >= 0)
        close(dir);
}

static void written(uv_work_t *work, int cancelled)
{
    struct job *j = work->data;

    j->done(j->snapshot, cancelled != 0 ? VSHARD_ECANCELED : j->status, j->ctx);
    free(j);
}

void snapshot_write(uv_loop_t *loop, const char *dir, struct snapshot *s,
                    void (*done)(struct snapshot *s, int status, void *ctx), void *ctx)
{
    struct job *j = take(NULL, sizeof *j);

    *j = (struct job){ .dir = dir, .snapshot = s, .done = done, .ctx = ctx };
    j->work.data = j;
    if (uv_queue_work(loop, &j->work, write_file, written) != 0)
        die("cannot start work on a thread");
}

static int read_part(FILE *file, struct bytes *to, uint64_t count)
{
    char *at;

    if (count > SIZE_MAX / 2)
        return VSHARD_ECORRUPT;
    at = bytes_room(to, (size_t)count);
    if (fread(at, 1, (size_t)count, file) != count)
        return VSHARD_ECORRUPT;
    to->count += (size_t)count;
    return VSHARD_OK;
}

int snapshot_read(const char *dir, uint64_t index, struct snapshot *s)
{
    char path[4096];
    struct head h;
    struct vshard_key check;
    FILE *file;
    long size;
    int rc = VSHARD_ECORRUPT;

    *s = (struct snapshot){ .index = index };
    path_of(path, dir, index, "");
    file = fopen(path, "rb");
    if (file == NULL)
        return errno == ENOENT ? VSHARD_ENOTFOUND : VSHARD_EIO;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= (long)sizeof h &&
        fseek(file, 0, SEEK_SET) == 0 && fread(&h, sizeof h, 1, file) == 1 &&
        memcmp(h.magic, magic, sizeof magic) == 0 && h.index == index &&
        h.meta_count <= (uint64_t)size && h.state_count <= (uint64_t)size)
        rc = read_part(file, &s->meta, h.meta_count);
    if (rc == VSHARD_OK)
        rc = read_part(file, &s->state, h.state_count);
    fclose(file);
    if (rc != VSHARD_OK)
        return rc;
    s->term = h.term;
    check = check_of(s);
    return check.hi == h.check.hi && check.lo == h.check.lo ? VSHARD_OK : VSHARD_ECORRUPT;
}

void snapshot_remove(const char *dir, uint64_t index)
{
    char path[4096];

    path_of(path, dir, index, "");
    unlink(path); /* at worst a file too many */
}

void snapshot_free(struct snapshot *s)
{
    if (s == NULL)
        return;
    bytes_free(&s->meta);
    bytes_free(&s->state);
    free(s);
}
