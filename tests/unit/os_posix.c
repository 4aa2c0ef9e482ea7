/* os_posix.c - the default storage keeps the promises of struct vshard_storage.
 *
 * Method: each request against real files in a fresh directory, each status by
 * the situation that causes it. What a power cut takes cannot be tried on a live
 * machine; that is what the fault storage of tests/support is for. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/os.h"
#include "support/refuse_call.h"

enum { WRITE = VSHARD_IO_OPEN_WRITE, CREATE = VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE };

static char dir[64];
static char path[96], other[96];

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/vshard-os-posix-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(other, sizeof other, "%s/other", dir);
}

static void remove_dir(void)
{
    unlink(path);
    unlink(other);
    rmdir(dir);
}

TestSuite(os_posix, .init = make_dir, .fini = remove_dir);

static uint64_t opened(const char *name, uint32_t flags)
{
    uint64_t file = UINT64_MAX;

    cr_assert_eq(vs_io_open(NULL, name, flags, &file, NULL), VSHARD_OK, "%s", name);
    return file;
}

static void put(const char *name, const char *text)
{
    uint64_t file = opened(name, CREATE | VSHARD_IO_OPEN_TRUNCATE);

    cr_assert_eq(vs_io_write(NULL, file, 0, text, strlen(text)), VSHARD_OK);
    cr_assert_eq(vs_io_close(NULL, file), VSHARD_OK);
}

Test(os_posix, reads_what_was_written_wherever_it_was_written)
{
    /* 5 GiB is past what 32 bits hold; the file is sparse. */
    static const uint64_t places[] = { 0, 1, 511, 4096, (uint64_t)5 << 30 };
    uint64_t file = opened(path, CREATE), bytes = 0;
    char back[6];

    for (size_t i = 0; i < VS_COUNT(places); i++) {
        cr_assert_eq(vs_io_write(NULL, file, places[i], "vector", 6), VSHARD_OK, "place %zu", i);
        cr_assert_eq(vs_io_read(NULL, file, places[i], back, 6), VSHARD_OK, "place %zu", i);
        cr_expect_arr_eq(back, "vector", 6, "place %zu", i);
    }
    cr_expect_eq(vs_io_sync(NULL, file), VSHARD_OK);
    cr_expect_eq(vs_io_close(NULL, file), VSHARD_OK);
    cr_expect_eq(vs_io_open(NULL, path, 0, &file, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, places[4] + 6);
    vs_io_close(NULL, file);
}

Test(os_posix, reads_short_only_at_the_end_and_the_helper_calls_that_damage)
{
    struct vshard_storage posix;
    char back[16];
    struct vshard_io io = { .op = VSHARD_IO_READ, .count = sizeof back, .buffer = back };
    uint64_t file;

    put(path, "0123456789");
    file = opened(path, 0);
    vshard_storage_posix(&posix);
    for (uint64_t offset = 0; offset <= 12; offset++) {
        io.file = file;
        io.offset = offset;
        io.count = sizeof back;
        posix.submit(posix.ctx, &io);
        cr_expect_eq(io.status, VSHARD_OK);
        cr_expect_eq(io.count, offset < 10 ? 10 - offset : 0, "offset %zu", (size_t)offset);
    }
    cr_expect_eq(vs_io_read(NULL, file, 0, back, 10), VSHARD_OK);
    cr_expect_eq(vs_io_read(NULL, file, 0, back, 11), VSHARD_ECORRUPT);
    cr_expect_eq(vs_io_read(NULL, file, 99, back, 0), VSHARD_OK);
    vs_io_close(NULL, file);
}

Test(os_posix, opens_as_the_flags_say)
{
    uint64_t file, bytes;

    cr_expect_eq(vs_io_open(NULL, path, 0, &file, &bytes), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_open(NULL, path, WRITE, &file, &bytes), VSHARD_ENOTFOUND);
    put(path, "abc");
    cr_expect_eq(vs_io_open(NULL, path, CREATE | VSHARD_IO_OPEN_EXCLUSIVE, &file, &bytes),
                 VSHARD_EEXIST);
    cr_expect_eq(vs_io_open(NULL, path, CREATE, &file, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, 3);
    vs_io_close(NULL, file);
    cr_expect_eq(vs_io_open(NULL, path, WRITE | VSHARD_IO_OPEN_TRUNCATE, &file, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, 0);
    vs_io_close(NULL, file);
    file = opened(path, 0);
    cr_expect_eq(vs_io_write(NULL, file, 0, "x", 1), VSHARD_EIO, "opened for reading");
    vs_io_close(NULL, file);
    cr_expect_eq(vs_io_open(NULL, path, VSHARD_IO_OPEN_TRUNCATE, &file, &bytes), VSHARD_EINVAL);
    cr_expect_eq(vs_io_open(NULL, path, 1u << 20, &file, &bytes), VSHARD_EINVAL);
}

Test(os_posix, has_a_file_alone_until_it_is_closed)
{
    const uint32_t alone = CREATE | VSHARD_IO_OPEN_ALONE;
    uint64_t file = opened(path, alone), again, bytes, plain;

    cr_assert_eq(vs_io_write(NULL, file, 0, "abc", 3), VSHARD_OK);
    cr_expect_eq(vs_io_open(NULL, path, alone, &again, &bytes), VSHARD_EBUSY);
    cr_expect_eq(vs_io_open(NULL, path, alone | VSHARD_IO_OPEN_TRUNCATE, &again, &bytes),
                 VSHARD_EBUSY);
    plain = opened(path, WRITE); /* who does not ask is not asked */
    cr_expect_eq(vs_io_close(NULL, plain), VSHARD_OK);
    plain = opened(path, 0);
    cr_expect_eq(vs_io_open(NULL, path, alone, &again, &bytes), VSHARD_EBUSY);
    cr_expect_eq(vs_io_close(NULL, file), VSHARD_OK);
    cr_assert_eq(vs_io_open(NULL, path, alone, &file, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, 3, "nothing was cut off by who was refused");
    vs_io_close(NULL, plain);
    cr_expect_eq(vs_io_open(NULL, path, alone, &again, &bytes), VSHARD_EBUSY);
    vs_io_close(NULL, file);
    cr_assert_eq(vs_io_open(NULL, path, alone | VSHARD_IO_OPEN_TRUNCATE, &file, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, 0);
    vs_io_close(NULL, file);
    cr_expect_eq(vs_io_open(NULL, path, VSHARD_IO_OPEN_ALONE, &file, &bytes), VSHARD_EINVAL,
                 "only for who writes");
}

Test(os_posix, is_not_inherited_by_programs_the_host_starts)
{
    uint64_t file = opened(path, CREATE);

    cr_expect(fcntl((int)file, F_GETFD) & FD_CLOEXEC);
    vs_io_close(NULL, file);
}

Test(os_posix, refuses_what_is_not_a_plain_file_without_hanging, .timeout = 120)
{
    uint64_t file, bytes;

    cr_expect_eq(vs_io_open(NULL, dir, 0, &file, &bytes), VSHARD_ENOTSUP);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(vs_io_open(NULL, path, 0, &file, &bytes), VSHARD_ENOTSUP);
    cr_expect_eq(vs_io_open(NULL, "/dev/null", 0, &file, &bytes), VSHARD_ENOTSUP);
}

Test(os_posix, resizes_with_zeros)
{
    uint64_t file = opened(path, CREATE);
    char back[8];

    cr_assert_eq(vs_io_write(NULL, file, 0, "abcdef", 6), VSHARD_OK);
    cr_assert_eq(vs_io_resize(NULL, file, 2), VSHARD_OK);
    cr_assert_eq(vs_io_resize(NULL, file, 8), VSHARD_OK);
    cr_assert_eq(vs_io_read(NULL, file, 0, back, 8), VSHARD_OK);
    cr_expect_arr_eq(back, "ab\0\0\0\0\0\0", 8);
    cr_expect_eq(vs_io_resize(NULL, file, UINT64_MAX), VSHARD_E2BIG);
    vs_io_close(NULL, file);
}

/* Where the file system can, or it says that it cannot: never a promise without space. */
Test(os_posix, reserves_the_space_that_it_says)
{
    static const uint64_t length = 1 << 20;
    struct vshard_io io = { .op = VSHARD_IO_RESIZE, .flags = VSHARD_IO_RESIZE_RESERVE };
    struct vshard_storage s;
    unsigned char bytes[64] = { 1 }, zeros[64] = { 0 };
    struct stat st;

    vshard_storage_posix(&s);
    io.file = opened(path, CREATE);
    for (int turn = 0; turn < 3; turn++) { /* longer, shorter, and none at all */
        io.offset = turn == 0 ? length : turn == 1 ? length / 4 : 0;
        io.count = 0;
        s.submit(s.ctx, &io);
        cr_assert_eq(io.status, VSHARD_OK);
        cr_assert_eq(stat(path, &st), 0);
        cr_expect_eq((uint64_t)st.st_size, io.offset);
        cr_expect(io.count == io.offset || io.count == 0);
        cr_expect_geq((uint64_t)st.st_blocks * 512, io.count);
        if (turn == 0)
            cr_assert_eq(vs_io_read(NULL, io.file, length - 64, bytes, 64), VSHARD_OK);
        cr_expect_arr_eq(bytes, zeros, 64);
    }
    vs_io_close(NULL, io.file);
}

#ifdef SYS_fallocate
/* What is answered to a request for room, by a file of two bytes and a kernel that refuses so. */
static void expect_refused(int error, int32_t status, uint64_t bytes)
{
    struct vshard_io io = { .op = VSHARD_IO_RESIZE, .flags = VSHARD_IO_RESIZE_RESERVE };
    struct vshard_storage s;
    struct stat st;

    vshard_storage_posix(&s);
    put(path, "ab");
    io.file = opened(path, WRITE);
    io.offset = 1 << 20;
    io.count = 7;
    if (!refuse_call(SYS_fallocate, error)) {
        printf("os_posix: skipped, no filter of system calls here\n");
    } else {
        s.submit(s.ctx, &io);
        cr_expect_eq(io.status, status, "%s", vshard_strerror(io.status));
        cr_expect_eq(io.count, 0, "%llu bytes are promised", (unsigned long long)io.count);
        cr_assert_eq(stat(path, &st), 0);
        cr_expect_eq((uint64_t)st.st_size, bytes);
    }
    vs_io_close(NULL, io.file);
}

Test(os_posix, promises_no_room_where_the_file_system_cannot_reserve)
{
    expect_refused(EOPNOTSUPP, VSHARD_OK, 1 << 20);
}

Test(os_posix, promises_no_room_where_a_signal_comes_between)
{
    expect_refused(EINTR, VSHARD_OK, 1 << 20);
}

Test(os_posix, a_file_stays_as_long_as_it_was_where_there_is_no_room_to_reserve)
{
    expect_refused(ENOSPC, VSHARD_ENOSPC, 2);
}

Test(os_posix, a_file_stays_as_long_as_it_was_where_the_quota_is_used_up)
{
    expect_refused(EDQUOT, VSHARD_ENOSPC, 2);
}
#endif

Test(os_posix, refuses_ranges_no_file_has)
{
    uint64_t file = opened(path, CREATE);
    char byte = 0;

    cr_expect_eq(vs_io_write(NULL, file, UINT64_MAX, &byte, 1), VSHARD_E2BIG);
    cr_expect_eq(vs_io_write(NULL, file, INT64_MAX, &byte, 1), VSHARD_E2BIG);
    cr_expect_eq(vs_io_read(NULL, file, INT64_MAX, &byte, 1), VSHARD_E2BIG);
    vs_io_close(NULL, file);
}

Test(os_posix, renames_over_and_removes)
{
    uint64_t file;
    char back[3];

    put(path, "new");
    put(other, "old");
    cr_expect_eq(vs_io_rename(NULL, path, other), VSHARD_OK);
    cr_expect_eq(vs_io_sync_dir(NULL, dir), VSHARD_OK);
    file = opened(other, 0);
    cr_expect_eq(vs_io_read(NULL, file, 0, back, 3), VSHARD_OK);
    cr_expect_arr_eq(back, "new", 3);
    vs_io_close(NULL, file);
    cr_expect_eq(vs_io_rename(NULL, path, other), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_remove(NULL, other), VSHARD_OK);
    cr_expect_eq(vs_io_remove(NULL, other), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_sync_dir(NULL, other), VSHARD_ENOTFOUND);
}

Test(os_posix, lists_names_in_byte_order_and_says_what_room_it_needs)
{
    static const char *const names[] = { "b", "a", "ab", "B", "10", "9", "a-very-long-name" };
    static const char sorted[] = "10\0"
                                 "9\0B\0a\0a-very-long-name\0ab\0b";
    char file[128], buffer[sizeof sorted + 8];

    for (size_t i = 0; i < VS_COUNT(names); i++) {
        snprintf(file, sizeof file, "%s/%s", dir, names[i]);
        put(file, "");
    }
    for (size_t room = 0; room <= sizeof buffer; room++) {
        size_t bytes = room;
        int rc = vs_io_list(NULL, dir, buffer, &bytes);

        cr_expect_eq(rc, room < sizeof sorted ? VSHARD_E2BIG : VSHARD_OK, "room %zu", room);
        cr_expect_eq(bytes, sizeof sorted, "room %zu", room);
        if (rc == VSHARD_OK)
            cr_expect_arr_eq(buffer, sorted, sizeof sorted, "room %zu", room);
    }
    for (size_t i = 0; i < VS_COUNT(names); i++) {
        snprintf(file, sizeof file, "%s/%s", dir, names[i]);
        unlink(file);
    }
}

Test(os_posix, maps_what_is_there_and_nothing_past_the_end)
{
    uint64_t file;
    void *map = NULL;

    put(path, "mapped bytes");
    file = opened(path, 0);
    cr_expect_eq(vs_io_map(NULL, file, 13, &map), VSHARD_ECORRUPT);
    cr_expect_eq(vs_io_map(NULL, file, 0, &map), VSHARD_EINVAL);
    cr_assert_eq(vs_io_map(NULL, file, 12, &map), VSHARD_OK);
    cr_expect_eq(vs_io_close(NULL, file), VSHARD_OK);
    cr_expect_arr_eq(map, "mapped bytes", 12, "the mapping outlives its file");
    cr_expect_eq(vs_io_unmap(NULL, map, 12), VSHARD_OK);
}

Test(os_posix, reports_a_file_above_the_process_limit)
{
    const struct rlimit limit = { 4096, RLIM_INFINITY };
    uint64_t file = opened(path, CREATE);
    char page[4096] = { 0 };

    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_expect_eq(vs_io_write(NULL, file, 0, page, sizeof page), VSHARD_OK);
    /* Half of it fits, so the first pwrite() is short and the second fails. */
    cr_expect_eq(vs_io_write(NULL, file, 2048, page, sizeof page), VSHARD_E2BIG);
    vs_io_close(NULL, file);
}

static int calls;

static void count_call(struct vshard_io *io)
{
    (void)io;
    calls++;
}

Test(os_posix, calls_done_once_success_or_not_and_leaves_errno_alone)
{
    struct vshard_storage posix;
    struct vshard_io io = { .op = VSHARD_IO_REMOVE, .path = path, .done = count_call };

    cr_assert_eq(vshard_storage_posix(NULL), VSHARD_EINVAL);
    cr_assert_eq(vshard_storage_posix(&posix), VSHARD_OK);
    errno = 77;
    posix.submit(posix.ctx, &io);
    posix.wait(posix.ctx, &io);
    cr_expect_eq(io.status, VSHARD_ENOTFOUND);
    cr_expect_eq(io.error, ENOENT);
    cr_expect_eq(calls, 1);
    cr_expect_eq(errno, 77);
    io.op = 99;
    posix.submit(posix.ctx, &io);
    cr_expect_eq(io.status, VSHARD_ENOTSUP, "an op of a newer library");
    cr_expect_eq(calls, 2);
    io.op = VSHARD_IO_SYNC;
    io.file = UINT64_MAX;
    posix.submit(posix.ctx, &io);
    cr_expect_eq(io.status, VSHARD_EIO, "no such file handle");
}
