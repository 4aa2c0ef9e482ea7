/* wal_append.c - how fast the log makes records durable, and reads them back.
 *
 * What it models: a node whose groups append small entries. `append` keeps so many
 * records in flight on a real directory with a real fdatasync, one batch a sync;
 * beside it stands a bare fdatasync of the same number of bytes, which is the best
 * that any log on this disk could do one record at a time. `replay` opens a log of a
 * million records of 512 bytes, which reads and checks every byte, and then streams
 * all of them to a callback. Answers are checked: each record that comes back is
 * compared with what was written, and their number.
 *
 *     build/bench/wal_append [directory [seconds [records]]]
 *
 * The directory is made, must be empty or a log of an earlier run, and is emptied
 * at the end. Default: one under $TMPDIR or /tmp, 1 second a line, 1000000 records. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <vshard.h>

#include "support/bench.h"

enum { LATENCIES = 1 << 20 };

static double latency_us[LATENCIES];
static size_t latencies;

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double percentile(double p)
{
    qsort(latency_us, latencies, sizeof *latency_us, by_value);
    return latencies ? latency_us[(size_t)((double)(latencies - 1) * p)] : 0;
}

static void note_latency(double us)
{
    if (latencies < LATENCIES)
        latency_us[latencies++] = us;
}

static void die(const char *what, int status)
{
    fprintf(stderr, "wal_append: %s: %s\n", what, vshard_strerror(status));
    exit(1);
}

static void empty_directory(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;
    char name[4096];

    if (dir == NULL)
        return;
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        unlink(name);
    }
    closedir(dir);
}

/* The payload of entry `index`: its number, over and over. */
static void fill(unsigned char *payload, size_t bytes, uint64_t index)
{
    uint64_t word = index * 0x9e3779b97f4a7c15u;

    for (size_t i = 0; i + 8 <= bytes; i += 8, word = word * 6364136223846793005u + index)
        memcpy(payload + i, &word, 8);
}

/* The bare disk: write and fdatasync a preallocated file, one after the other. */
static void bare(const char *path, size_t bytes, double seconds)
{
    char name[4096];
    unsigned char *zeros = calloc(1, 16 << 20);
    uint64_t count = 0;
    double start, t;
    int fd;

    snprintf(name, sizeof name, "%s/bare", path);
    fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || zeros == NULL || write(fd, zeros, 16 << 20) != 16 << 20 || fsync(fd) != 0)
        die(name, VSHARD_EIO);
    latencies = 0;
    for (start = t = now_s(); t - start < seconds; count++) {
        double end;

        zeros[0] = (unsigned char)count;
        if (pwrite(fd, zeros, bytes, (off_t)(count * bytes % (8 << 20))) != (ssize_t)bytes ||
            fdatasync(fd) != 0)
            die(name, VSHARD_EIO);
        end = now_s();
        note_latency((end - t) * 1e6);
        t = end;
    }
    printf("fdatasync\t1\t%zu\t%.0f\t%.1f\t%.1f\t1.0\n", bytes, (double)count / (t - start),
           percentile(0.5), percentile(0.99));
    close(fd);
    unlink(name);
    free(zeros);
}

static struct vshard_wal *open_log(const char *path, struct vshard_wal_report *report)
{
    struct vshard_wal_options o = { .size = sizeof o, .path = path };
    struct vshard_wal *wal;
    int rc = vshard_wal_open(&o, report, &wal);

    if (rc < 0)
        die("open", rc);
    return wal;
}

/* Keeps `in_flight` records on their way, over four groups. */
static void append(const char *path, size_t in_flight, size_t bytes, double seconds)
{
    struct vshard_wal_report report = { .size = sizeof report };
    struct vshard_wal_stats stats = { .size = sizeof stats };
    struct vshard_wal *wal;
    unsigned char *payload = malloc(bytes);
    uint64_t index = 0, barrier = 0;
    double start, t;
    int rc = VSHARD_OK;

    empty_directory(path);
    wal = open_log(path, &report);
    latencies = 0;
    for (start = t = now_s(); t - start < seconds && rc == VSHARD_OK;) {
        double end;

        for (size_t i = 0; i < in_flight && rc == VSHARD_OK; i++, index++) {
            struct vshard_wal_record r = { .group = index % 4,
                                           .index = index / 4 + 1,
                                           .term = 1,
                                           .kind = VSHARD_WAL_ENTRY,
                                           .payload_bytes = (uint32_t)bytes,
                                           .payload = payload };
            fill(payload, bytes, index);
            rc = vshard_wal_append(wal, &r, 1, &barrier);
        }
        /* So that the log does not grow for ever: all but the last are covered. */
        for (uint64_t g = 0; g < 4 && index % (1 << 18) < in_flight && index > 64; g++) {
            struct vshard_wal_record r = {
                .group = g, .index = index / 4 - 8, .term = 1, .kind = VSHARD_WAL_MARK
            };
            rc = rc ? rc : vshard_wal_append(wal, &r, 1, &barrier);
        }
        if (rc == VSHARD_OK)
            rc = vshard_wal_sync(wal, barrier);
        end = now_s();
        note_latency((end - t) * 1e6);
        t = end;
    }
    if (rc < 0)
        die("append", rc);
    vshard_wal_stats_read(wal, &stats);
    printf("append\t%zu\t%zu\t%.0f\t%.1f\t%.1f\t%.1f\n", in_flight, bytes,
           (double)index / (t - start), percentile(0.5), percentile(0.99),
           (double)index / (double)stats.syncs);
    vshard_wal_close(wal);
    free(payload);
}

struct reading {
    uint64_t count, wrong;
    size_t bytes;
};

static int read_one(void *ctx, const struct vshard_wal_record *r,
                    const struct vshard_wal_place *place)
{
    struct reading *reading = ctx;
    unsigned char want[512];

    (void)place;
    fill(want, sizeof want, reading->count);
    if (r->payload_bytes != sizeof want || r->group != reading->count % 4 ||
        r->index != reading->count / 4 + 1 || memcmp(want, r->payload, sizeof want) != 0)
        reading->wrong++;
    reading->count++;
    return 0;
}

static void replay(const char *path, uint64_t count)
{
    struct vshard_wal_report report = { .size = sizeof report };
    struct reading reading = { .bytes = 512 };
    const struct vshard_wal_visitor visitor = { read_one, &reading };
    struct vshard_wal *wal;
    unsigned char payload[512];
    uint64_t barrier = 0;
    double start, opened, end;
    int rc = VSHARD_OK;

    empty_directory(path);
    wal = open_log(path, &report);
    for (uint64_t i = 0; i < count && rc == VSHARD_OK; i++) {
        struct vshard_wal_record r = { .group = i % 4,
                                       .index = i / 4 + 1,
                                       .term = 1,
                                       .kind = VSHARD_WAL_ENTRY,
                                       .payload_bytes = sizeof payload,
                                       .payload = payload };
        fill(payload, sizeof payload, i);
        rc = vshard_wal_append(wal, &r, 1, &barrier);
        if (rc == VSHARD_OK && i % 1024 == 1023)
            rc = vshard_wal_sync(wal, barrier);
    }
    rc = rc ? rc : vshard_wal_sync(wal, barrier);
    if (rc < 0)
        die("fill", rc);
    vshard_wal_close(wal);

    start = now_s();
    wal = open_log(path, &report);
    opened = now_s();
    rc = vshard_wal_replay(wal, &visitor);
    end = now_s();
    if (rc < 0 || reading.wrong != 0 || reading.count != count)
        die("what was read is not what was written", rc < 0 ? rc : VSHARD_ECORRUPT);
    printf("\nreplay\trecords\tbytes\topen_s\tstream_s\trecords_per_s\tMB_per_s\n");
    printf("replay\t%lu\t%lu\t%.3f\t%.3f\t%.0f\t%.0f\n", (unsigned long)count,
           (unsigned long)report.bytes, opened - start, end - opened, (double)count / (end - start),
           (double)report.bytes / (end - start) * 1e-6);
    vshard_wal_close(wal);
}

int main(int argc, char **argv)
{
    static const size_t flights[] = { 1, 32, 256, 1000 };
    const char *base = getenv("TMPDIR");
    char path[4000];
    double seconds = argc > 2 ? atof(argv[2]) : 1.0;
    uint64_t records = argc > 3 ? strtoull(argv[3], NULL, 10) : 1000000;

    bench_usage(argc, argv, 3, "[directory [seconds [records]]]");
    if (argc > 1)
        snprintf(path, sizeof path, "%s", argv[1]);
    else
        snprintf(path, sizeof path, "%s/vshard-wal-append-%ld", base ? base : "/tmp",
                 (long)getpid());
    mkdir(path, 0777);
    puts("what\tin_flight\tbytes\trecords_per_s\tp50_us\tp99_us\trecords_per_sync");
    bare(path, 512, seconds);
    bare(path, 4096, seconds);
    bare(path, 262144, seconds);
    for (size_t i = 0; i < sizeof flights / sizeof flights[0]; i++)
        append(path, flights[i], 256, seconds);
    replay(path, records);
    empty_directory(path);
    rmdir(path);
    return 0;
}
