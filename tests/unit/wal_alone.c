/* wal_alone.c - a log has one writer.
 *
 * Method: a second open of the same directory, while the first is open, after it is
 * closed, and after a crash took it, in memory; the same with real files, in this process
 * and in another one, which is killed at last. Whoever is refused must have left every
 * byte as it was, so the directory is compared. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/wal_writer.h"

static uint32_t refusals;

static void note(void *ctx, uint32_t level, const char *name, const struct vshard_log_field *fields,
                 size_t count)
{
    (void)ctx;
    if (strcmp(name, "wal.busy") != 0)
        return;
    cr_expect_eq(level, VSHARD_LOG_WARN);
    cr_assert_eq(count, 2);
    cr_expect_str_eq(fields[0].name, "path");
    refusals++;
}

static const struct vshard_logger logger = { note, NULL };

static void refused(struct vshard_wal_options o)
{
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    uint32_t before = refusals;

    o.log = &logger;
    cr_expect_eq(vshard_wal_open(&o, &report, &wal), VSHARD_EBUSY);
    cr_expect_null(wal);
    cr_expect_eq(report.boot, 0, "nothing is counted");
    cr_expect_eq(refusals, before + 1);
}

static void append(struct vshard_wal *wal, uint64_t index)
{
    const struct vshard_wal_record r = {
        .group = 1, .index = index, .term = 1, .kind = VSHARD_WAL_ENTRY
    };
    uint64_t barrier;

    cr_assert_eq(vshard_wal_append(wal, &r, 1, &barrier), VSHARD_OK);
    cr_assert_eq(vshard_wal_sync(wal, barrier), VSHARD_OK);
}

static uint64_t last_of(struct vshard_wal *wal)
{
    struct vshard_wal_group about = { .size = sizeof about };

    return vshard_wal_find(wal, 1, &about) == VSHARD_OK ? about.last : 0;
}

/* ---- in memory ---- */

Test(wal_alone, refuses_a_second_writer_before_it_has_read_anything)
{
    struct fault_storage *fs = disk(1);
    const struct vshard_wal_options o = options(fs);
    struct vshard_wal *wal, *second;
    uint64_t requests;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    for (uint64_t i = 1; i <= 20; i++) {
        append(wal, i);
        requests = fault_storage_count(fs, 0);
        refused(o);
        cr_expect_eq(fault_storage_count(fs, 0), requests + 1, "it only tries to open");
    }
    append(wal, 21);
    vshard_wal_close(wal);
    cr_assert_eq(vshard_wal_open(&o, NULL, &second), VSHARD_OK, "closed is given back");
    cr_expect_eq(last_of(second), 21);
    refused(o);
    vshard_wal_close(second);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(wal_alone, lets_anybody_look_beside_a_writer_and_write_beside_who_looks)
{
    struct fault_storage *fs = disk(2);
    struct vshard_wal_options o = options(fs), look = o;
    struct vshard_wal *wal, *reader[2];

    look.flags = VSHARD_WAL_READ_ONLY;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    append(wal, 1);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(vshard_wal_open(&look, NULL, &reader[i]), VSHARD_OK);
        cr_expect_eq(last_of(reader[i]), 1);
    }
    append(wal, 2);
    vshard_wal_close(wal);
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    vshard_wal_close(reader[0]);
    vshard_wal_close(reader[1]);
    refused(o);
    vshard_wal_close(wal);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(wal_alone, is_given_back_by_a_crash_and_by_an_open_that_fails)
{
    const struct fault_crash crash = { .flags = FAULT_CRASH_KEEP };
    struct fault_storage *fs = disk(3), *after;
    struct vshard_wal_options o = options(fs), other = o;
    struct vshard_wal *wal, *second;

    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    append(wal, 1);
    after = fault_storage_after(fs, &crash);
    o.storage = other.storage = fault_storage_hook(after);
    other.log_id = 8;
    cr_expect_eq(vshard_wal_open(&other, NULL, &second), VSHARD_ESTALE);
    cr_assert_eq(vshard_wal_open(&o, NULL, &second), VSHARD_OK);
    cr_expect_eq(last_of(second), 1);
    refused(o);
    vshard_wal_close(second);
    vshard_wal_close(wal);
    cr_expect_null(fault_storage_verdict(after));
    fault_storage_destroy(after);
    fault_storage_destroy(fs);
}

/* A log that somebody else makes just then, and closes again. */
struct rival {
    struct vshard_storage hook;
    const struct vshard_storage *below;
    struct fault_storage *fs;
    int32_t at; /* opens of the superblock before it comes */
};

static void come_between(void *ctx, struct vshard_io *io)
{
    struct rival *rival = ctx;
    const struct vshard_wal_options o = options(rival->fs);
    struct vshard_wal *wal;

    if (io->op == VSHARD_IO_OPEN && strstr(io->path, "wal.super") != NULL && rival->at-- == 0) {
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
        append(wal, 1);
        vshard_wal_close(wal);
    }
    rival->below->submit(rival->below->ctx, io);
}

static void wait_below(void *ctx, struct vshard_io *io)
{
    struct rival *rival = ctx;

    rival->below->wait(rival->below->ctx, io);
}

Test(wal_alone, does_not_make_a_log_where_one_was_made_meanwhile)
{
    for (int32_t at = 0; at < 2; at++) {
        struct fault_storage *fs = disk(4);
        struct rival rival = { .below = fault_storage_hook(fs), .fs = fs, .at = at };
        struct vshard_wal_options o = options(fs);
        struct vshard_wal *wal;

        rival.hook = (struct vshard_storage){ come_between, wait_below, &rival, NULL };
        o.storage = &rival.hook;
        if (at == 1)
            refused(o); /* it had seen that there is none */
        cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
        cr_expect_eq(last_of(wal), 1);
        vshard_wal_close(wal);
        cr_expect_null(fault_storage_verdict(fs));
        fault_storage_destroy(fs);
    }
}

/* ---- with files ---- */

static char dir[64];

static struct vshard_wal_options in_files(void)
{
    return (struct vshard_wal_options){ .size = sizeof(struct vshard_wal_options),
                                        .segment_bytes = 64 << 10,
                                        .path = dir };
}

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/vshard-wal-alone-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void remove_dir(void)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        char path[512];

        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (d != NULL)
        closedir(d);
    rmdir(dir);
}

Test(wal_alone, refuses_a_second_writer_of_this_process, .init = make_dir, .fini = remove_dir)
{
    const struct vshard_wal_options o = in_files();
    struct vshard_wal_options look = o;
    struct vshard_wal *wal, *reader;

    look.flags = VSHARD_WAL_READ_ONLY;
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    append(wal, 1);
    refused(o);
    /* Closing another descriptor of the file gives up locks that belong to a process. */
    cr_assert_eq(vshard_wal_open(&look, NULL, &reader), VSHARD_OK);
    vshard_wal_close(reader);
    refused(o);
    vshard_wal_close(wal);
    cr_assert_eq(vshard_wal_open(&o, NULL, &wal), VSHARD_OK);
    cr_expect_eq(last_of(wal), 1);
    vshard_wal_close(wal);
}

/* The other process: opens, appends, says so, and stays. */
static void hold(const struct vshard_wal_options *o, int to)
{
    struct vshard_wal *wal;

    if (vshard_wal_open(o, NULL, &wal) != VSHARD_OK)
        _exit(1);
    append(wal, 1);
    if (write(to, "x", 1) == 1)
        pause();
    _exit(1);
}

Test(wal_alone, refuses_a_writer_of_another_process_until_that_is_killed, .init = make_dir,
     .fini = remove_dir, .timeout = 60)
{
    const struct vshard_wal_options o = in_files();
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal *wal;
    int ends[2], status;
    char told;
    pid_t child;

    cr_assert_eq(pipe(ends), 0);
    child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
        hold(&o, ends[1]);
    close(ends[1]);
    cr_assert_eq(read(ends[0], &told, 1), 1);
    close(ends[0]);
    for (int i = 0; i < 3; i++)
        refused(o);
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(vshard_wal_open(&o, &report, &wal), VSHARD_OK);
    cr_expect_eq(last_of(wal), 1);
    cr_expect_eq(report.boot, 2, "those that were refused are not counted");
    vshard_wal_close(wal);
}
