/* index_live.c - what an index is worth after, and while, its rows change.
 *
 * What it models: a collection that is not loaded once, but replaced, thinned out and
 * searched all day. Probes, one line each:
 *
 *   churn    half of the rows get other vectors, ROUNDS times; then compared with an index
 *            built afresh of what is in it: recall, memory, file, rows replaced a second, beside
 *            those inserted by that building, and by the last fifth of it
 *   half     half of the rows are removed; compared with an index of those that are left
 *   thin     nine of ten rows are removed, by calls of BATCH; memory then, and after maintain, as a
 *            part of what an index of those that are left takes. When four of ten are gone, and
 *            repaired, how long the others take to move together
 *   remove   a fifth of the rows are removed, on all processors, repair included; and a
 *            single call that repairs nothing
 *   beside   one thread searches and one replaces, each on a processor of its own, alone
 *            and together, in turns
 *   saving   how long a call takes that replaces 100 rows, alone, and beside a thread that saves
 *            over and over, in turns: the median, and the longest
 *   changes  of the rows a thousandth, a hundredth or a tenth get other vectors, in one call; then
 *            only what changed is saved, beside a save of everything: bytes, and time by the wall
 *
 *     build/bench/index_live [probes [set [rows [m]]]]
 *     VSHARD_DATA=dir build/bench/index_live churn,half glove100 100000
 *
 * Recall is of the 10 nearest in a beam of 100, counted by distances against an exact scan
 * of the same index. Times are of the process's processors but for beside, which counts by
 * the wall. Vectors to replace others with are rows of the same set. */
#define _GNU_SOURCE /* sched_setaffinity() */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vshard/index.h>

#include "support/bench.h"
#include "support/pool.h"
#include "support/random.h"

enum { K = 10, EF = 100, QUERIES = 1000, BATCH = 1000, ROUNDS = 20, REPEATS = 5 };
enum { BESIDE_BATCH = 100, BESIDE_ROUNDS = 3 };
#define BESIDE_S 4.0

struct bench {
    const char *set;
    struct bench_vectors base, query;
    size_t rows;
    uint32_t m;
    uint64_t seed;
    uint32_t *held; /* [rows] of each id, the row of the set whose vector it has */
};

/* ---- an index ---- */

static struct vshard_index *create(const struct bench *b, struct pool *pool)
{
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = (uint32_t)b->base.dim,
                                      .metric = b->base.metric,
                                      .element = b->base.element,
                                      .m = b->m,
                                      .seed = 1 };
    struct vshard_index *index;

    o.executor = pool ? pool_executor(pool) : NULL;
    bench_must("create", vshard_index_create(&o, &index));
    return index;
}

/* Adds the vectors that these ids hold. */
static void add(const struct bench *b, struct vshard_index *index, const uint64_t *ids,
                size_t count)
{
    size_t bytes = b->base.row_bytes;
    unsigned char *vectors = bench_allocate(count, bytes);

    for (size_t i = 0; i < count; i++)
        memcpy(vectors + i * bytes, (const char *)b->base.given + b->held[ids[i]] * bytes, bytes);
    bench_must("add", vshard_index_add(index, ids, vectors, count));
    free(vectors);
}

/* In batches; returns processor seconds. */
static double add_all(const struct bench *b, struct vshard_index *index, const uint64_t *ids,
                      size_t count)
{
    double cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);

    for (size_t i = 0; i < count; i += BATCH)
        add(b, index, ids + i, count - i < BATCH ? count - i : BATCH);
    return bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

static uint64_t *shuffled_ids(struct bench *b)
{
    uint64_t *ids = bench_allocate(b->rows, sizeof *ids);

    for (size_t i = 0; i < b->rows; i++)
        ids[i] = i;
    for (size_t i = b->rows; i > 1; i--) {
        size_t j = random_below(&b->seed, i);
        uint64_t id = ids[i - 1];

        ids[i - 1] = ids[j];
        ids[j] = id;
    }
    return ids;
}

struct quality {
    double recall, us; /* processor time of a query */
    double bytes, file_bytes;
    unsigned long long unreachable;
};

static double file_bytes(struct vshard_index *index)
{
    char path[] = "/tmp/vshard-live-XXXXXX";
    struct stat st;
    int fd = mkstemp(path);

    if (fd < 0)
        bench_die(path, "cannot be made");
    close(fd);
    bench_must("save", vshard_index_save(index, path));
    if (stat(path, &st) != 0)
        bench_die(path, "is not there");
    unlink(path);
    return (double)st.st_size;
}

static double search_us(const struct bench *b, struct vshard_index *index, struct vshard_hit *hits)
{
    const struct vshard_search_options o = { .size = sizeof o, .ef_search = EF };
    double cpu = bench_seconds(CLOCK_THREAD_CPUTIME_ID);

    bench_must("search", vshard_index_search(index, b->query.given, b->query.rows, K, hits, &o));
    return (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)b->query.rows * 1e6;
}

static void judge(const struct bench *b, struct vshard_index *index, struct quality *q)
{
    const struct vshard_search_options scan = { .size = sizeof scan, .flags = VSHARD_SEARCH_EXACT };
    struct vshard_index_stats stats = { .size = sizeof stats };
    struct vshard_index_check check = { .size = sizeof check };
    size_t count = b->query.rows, right = 0;
    struct vshard_hit *hits = bench_allocate(count * K, sizeof *hits);
    struct vshard_hit *exact = bench_allocate(count * K, sizeof *exact);

    q->us = search_us(b, index, hits);
    bench_must("search", vshard_index_search(index, b->query.given, count, K, exact, &scan));
    for (size_t i = 0; i < count * K; i++)
        right += hits[i].distance <= exact[i / K * K + K - 1].distance;
    q->recall = (double)right / (double)(count * K);
    bench_must("stats", vshard_index_stats(index, &stats));
    q->bytes = (double)(stats.heap_bytes - stats.scratch_bytes);
    q->file_bytes = file_bytes(index);
    bench_must("check", vshard_index_check(index, &check));
    q->unreachable = check.unreachable;
    free(exact);
    free(hits);
}

/* The times of two indexes' queries, in turns: medians. */
static void compare_speed(const struct bench *b, struct vshard_index *one,
                          struct vshard_index *other, double *us, double *other_us)
{
    struct vshard_hit *hits = bench_allocate(b->query.rows * K, sizeof *hits);
    double a[REPEATS], c[REPEATS];

    for (size_t i = 0; i < REPEATS; i++) {
        a[i] = search_us(b, one, hits);
        c[i] = search_us(b, other, hits);
    }
    qsort(a, REPEATS, sizeof *a, bench_by_value);
    qsort(c, REPEATS, sizeof *c, bench_by_value);
    *us = a[REPEATS / 2];
    *other_us = c[REPEATS / 2];
    free(hits);
}

static void report(const struct bench *b, const char *probe, struct vshard_index *index,
                   struct vshard_index *fresh)
{
    struct quality q, f;
    double us, fresh_us;

    judge(b, index, &q);
    judge(b, fresh, &f);
    compare_speed(b, index, fresh, &us, &fresh_us);
    printf("%s\t%s\t%zu\t%u\trecall %.4f, fresh %.4f; unreachable %llu; memory %.3f, file %.3f, "
           "queries a second %.3f of fresh",
           probe, b->set, b->rows, b->m, q.recall, f.recall, q.unreachable, q.bytes / f.bytes,
           q.file_bytes / f.file_bytes, fresh_us / us);
}

/* ---- probes ---- */

static void churn(struct bench *b)
{
    struct vshard_index *index = create(b, NULL), *fresh = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    double insert_s, last_s, replace_s = 0, replaced, inserted;
    size_t most = b->rows / 5 * 4;

    add_all(b, index, ids, b->rows);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t *some = shuffled_ids(b);

        for (size_t i = 0; i < b->rows / 2; i++)
            b->held[some[i]] = (uint32_t)random_below(&b->seed, b->base.rows);
        replace_s += add_all(b, index, some, b->rows / 2);
        free(some);
        fprintf(stderr, "\rindex_live: churn, round %d of %d", round + 1, ROUNDS);
    }
    fputc('\n', stderr);
    bench_must("maintain", vshard_index_maintain(index, 0, NULL));
    insert_s = add_all(b, fresh, ids, most);
    last_s = add_all(b, fresh, ids + most, b->rows - most);
    report(b, "churn", index, fresh);
    replaced = ROUNDS * (double)(b->rows / 2) / replace_s;
    inserted = (double)b->rows / (insert_s + last_s);
    printf("; rows a processor second: %.0f replaced, %.0f inserted, the last fifth of them %.0f: "
           "%.2f, %.2f\n",
           replaced, inserted, (double)(b->rows - most) / last_s, replaced / inserted,
           replaced * last_s / (double)(b->rows - most));
    vshard_index_destroy(fresh);
    vshard_index_destroy(index);
    free(ids);
}

static void half(struct bench *b)
{
    struct vshard_index *index = create(b, NULL), *fresh = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    size_t kept = b->rows / 2;

    add_all(b, index, ids, b->rows);
    bench_must("remove", vshard_index_remove(index, ids + kept, b->rows - kept, NULL));
    bench_must("maintain", vshard_index_maintain(index, 0, NULL));
    add_all(b, fresh, ids, kept);
    report(b, "half", index, fresh);
    putchar('\n');
    vshard_index_destroy(fresh);
    vshard_index_destroy(index);
    free(ids);
}

static double heap_bytes(struct vshard_index *index)
{
    struct vshard_index_stats stats = { .size = sizeof stats };

    bench_must("stats", vshard_index_stats(index, &stats));
    return (double)(stats.heap_bytes - stats.scratch_bytes);
}

static void remove_some(struct vshard_index *index, const uint64_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i += BATCH)
        bench_must("remove", vshard_index_remove(index, ids + i,
                                                 count - i < BATCH ? count - i : BATCH, NULL));
}

static void thin(struct bench *b)
{
    struct vshard_index *index = create(b, NULL), *fresh = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    size_t kept = b->rows / 10, first = b->rows / 10 * 6;
    double whole, removed, moving;

    add_all(b, index, ids, b->rows);
    add_all(b, fresh, ids, kept);
    whole = heap_bytes(index);
    remove_some(index, ids + first, b->rows - first);
    for (uint64_t remaining = 1; remaining > 0;)
        bench_must("maintain", vshard_index_maintain(index, BATCH, &remaining));
    moving = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    bench_must("maintain", vshard_index_maintain(index, 0, NULL));
    moving = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - moving;
    remove_some(index, ids + kept, first - kept);
    removed = heap_bytes(index);
    bench_must("maintain", vshard_index_maintain(index, 0, NULL));
    report(b, "thin", index, fresh);
    printf(
        "; memory of it before %.3f, when they were removed %.3f; four of ten moved in %.1f ms\n",
        whole / heap_bytes(fresh), removed / heap_bytes(fresh), moving * 1e3);
    vshard_index_destroy(fresh);
    vshard_index_destroy(index);
    free(ids);
}

static void removal(struct bench *b)
{
    struct pool *pool = pool_create((uint32_t)sysconf(_SC_NPROCESSORS_ONLN));
    struct vshard_index *index = create(b, pool);
    uint64_t *ids = shuffled_ids(b);
    size_t count = b->rows / 5, first = BATCH / 2;
    double alone, wall;

    add_all(b, index, ids, b->rows);
    alone = bench_seconds(CLOCK_MONOTONIC);
    bench_must("remove", vshard_index_remove(index, ids, first, NULL)); /* no pass begins yet */
    alone = bench_seconds(CLOCK_MONOTONIC) - alone;
    wall = bench_seconds(CLOCK_MONOTONIC);
    remove_some(index, ids + first, count - first);
    bench_must("maintain", vshard_index_maintain(index, 0, NULL));
    wall = bench_seconds(CLOCK_MONOTONIC) - wall;
    printf("remove\t%s\t%zu\t%u\t%.0f rows a second with repair; a call without %.2f us a row\n",
           b->set, b->rows, b->m, (double)(count - first) / wall, alone / (double)first * 1e6);
    vshard_index_destroy(index);
    pool_destroy(pool);
    free(ids);
}

/* ---- beside ---- */

struct side {
    const struct bench *b;
    struct vshard_index *index;
    int processor;
    uint64_t seed;
    atomic_int *over;
    double done; /* queries, or rows */
};

static void stay_on(int processor)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        bench_die("beside", "a processor cannot be chosen");
}

static void *search_on(void *arg)
{
    const struct vshard_search_options o = { .size = sizeof o, .ef_search = EF };
    struct side *s = arg;
    const struct bench *b = s->b;
    struct vshard_hit hits[K];

    stay_on(s->processor);
    for (size_t i = 0; !atomic_load(s->over); i++, s->done++)
        bench_must("search", vshard_index_search(s->index,
                                                 (const char *)b->query.given +
                                                     i % b->query.rows * b->query.row_bytes,
                                                 1, K, hits, &o));
    return NULL;
}

static void *replace_on(void *arg)
{
    struct side *s = arg;
    uint64_t ids[BESIDE_BATCH];

    stay_on(s->processor);
    for (; !atomic_load(s->over); s->done += BESIDE_BATCH) {
        for (size_t i = 0; i < BESIDE_BATCH; i++) {
            ids[i] = random_below(&s->seed, s->b->rows);
            s->b->held[ids[i]] = (uint32_t)random_below(&s->seed, s->b->base.rows);
        }
        add(s->b, s->index, ids, BESIDE_BATCH);
    }
    return NULL;
}

/* Queries and rows a second; 0 for a side that is left out. */
static void run_sides(struct bench *b, struct vshard_index *index, bool reads, bool writes,
                      double *rates)
{
    atomic_int over = 0;
    struct side sides[2] = { { b, index, 0, 1, &over, 0 },
                             { b, index, 1, random_next(&b->seed), &over, 0 } };
    bool on[2] = { reads, writes };
    pthread_t threads[2];
    double wall = bench_seconds(CLOCK_MONOTONIC);

    for (int i = 0; i < 2; i++) {
        if (on[i] && pthread_create(&threads[i], NULL, i ? replace_on : search_on, &sides[i]) != 0)
            bench_die("beside", "no thread");
    }
    usleep((useconds_t)(BESIDE_S * 1e6));
    atomic_store(&over, 1);
    for (int i = 0; i < 2; i++) {
        if (on[i])
            pthread_join(threads[i], NULL);
        rates[i] = sides[i].done / (bench_seconds(CLOCK_MONOTONIC) - wall);
    }
}

static void beside(struct bench *b)
{
    struct vshard_index *index = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    double shares[2][BESIDE_ROUNDS], alone[2][BESIDE_ROUNDS];

    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        bench_die("beside", "needs two processors");
    add_all(b, index, ids, b->rows);
    for (int r = 0; r < BESIDE_ROUNDS; r++) {
        double one[2], other[2], both[2];

        run_sides(b, index, true, false, one);
        run_sides(b, index, false, true, other);
        run_sides(b, index, true, true, both);
        alone[0][r] = one[0];
        alone[1][r] = other[1];
        shares[0][r] = both[0] / one[0];
        shares[1][r] = both[1] / other[1];
    }
    for (int i = 0; i < 2; i++) {
        qsort(shares[i], BESIDE_ROUNDS, sizeof(double), bench_by_value);
        qsort(alone[i], BESIDE_ROUNDS, sizeof(double), bench_by_value);
    }
    printf("beside\t%s\t%zu\t%u\treader %.0f queries a second alone, %.3f of that beside; writer "
           "%.0f rows a second alone, %.3f of that beside\n",
           b->set, b->rows, b->m, alone[0][BESIDE_ROUNDS / 2], shares[0][BESIDE_ROUNDS / 2],
           alone[1][BESIDE_ROUNDS / 2], shares[1][BESIDE_ROUNDS / 2]);
    vshard_index_destroy(index);
    free(ids);
}

/* ---- saves ---- */

enum { CALLS = 100 };

static void *save_on(void *arg)
{
    struct side *s = arg;

    for (; !atomic_load(s->over); s->done++)
        file_bytes(s->index);
    return NULL;
}

/* Seconds that each call takes. */
static void time_calls(struct bench *b, struct vshard_index *index, double seconds[CALLS])
{
    for (size_t i = 0; i < CALLS; i++) {
        uint64_t ids[BESIDE_BATCH];
        double begun;

        for (size_t j = 0; j < BESIDE_BATCH; j++)
            ids[j] = random_below(&b->seed, b->rows);
        begun = bench_seconds(CLOCK_MONOTONIC);
        add(b, index, ids, BESIDE_BATCH);
        seconds[i] = bench_seconds(CLOCK_MONOTONIC) - begun;
    }
}

static void saving(struct bench *b)
{
    struct vshard_index *index = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    double alone[BESIDE_ROUNDS * CALLS], both[BESIDE_ROUNDS * CALLS], saves = 0;
    size_t count = BESIDE_ROUNDS * CALLS;

    add_all(b, index, ids, b->rows);
    for (int r = 0; r < BESIDE_ROUNDS; r++) {
        atomic_int over = 0;
        struct side side = { .b = b, .index = index, .over = &over };
        pthread_t thread;

        time_calls(b, index, alone + r * CALLS);
        if (pthread_create(&thread, NULL, save_on, &side) != 0)
            bench_die("saving", "no thread");
        time_calls(b, index, both + r * CALLS);
        atomic_store(&over, 1);
        pthread_join(thread, NULL);
        saves += side.done;
    }
    qsort(alone, count, sizeof *alone, bench_by_value);
    qsort(both, count, sizeof *both, bench_by_value);
    printf(
        "saving\t%s\t%zu\t%u\ta call of %d rows takes %.1f ms alone, at most %.1f; beside %.0f saves "
        "%.1f ms, at most %.1f\n",
        b->set, b->rows, b->m, BESIDE_BATCH, alone[count / 2] * 1e3, alone[count - 1] * 1e3, saves,
        both[count / 2] * 1e3, both[count - 1] * 1e3);
    vshard_index_destroy(index);
    free(ids);
}

/* ---- saves of what changed ---- */

static double saved(struct vshard_index *index, const char *path,
                    int (*save)(struct vshard_index *index, const char *path))
{
    double start = bench_seconds(CLOCK_MONOTONIC);

    bench_must("save", save(index, path));
    return bench_seconds(CLOCK_MONOTONIC) - start;
}

/* Of a part of a generation, or of a whole file; 0 if there is none. */
static double bytes_at(const char *path, unsigned part)
{
    char name[100];
    struct stat st;

    snprintf(name, sizeof name, part ? "%s.g%u" : "%s", path, part);
    return stat(name, &st) == 0 ? (double)st.st_size : 0;
}

/* Each share on its own: the generation before is whole. Files are removed by the number. */
static void changes(struct bench *b)
{
    static const size_t shares[] = { 1000, 100, 10 };
    struct vshard_index *index = create(b, NULL);
    uint64_t *ids = shuffled_ids(b);
    char directory[] = "/tmp/vshard-live-XXXXXX", whole[64], head[64], part[80];

    if (mkdtemp(directory) == NULL)
        bench_die(directory, "cannot be made");
    add_all(b, index, ids, b->rows);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        size_t count = b->rows / shares[i];
        double seconds[2], sizes[2];

        snprintf(whole, sizeof whole, "%s/w%zu", directory, i);
        snprintf(head, sizeof head, "%s/h%zu", directory, i);
        saved(index, head, vshard_index_save_changes);
        for (size_t j = 0; j < count; j++)
            b->held[ids[j]] = (uint32_t)random_below(&b->seed, b->base.rows);
        add(b, index, ids, count);
        seconds[0] = saved(index, head, vshard_index_save_changes);
        seconds[1] = saved(index, whole, vshard_index_save);
        sizes[0] = bytes_at(head, 2) + bytes_at(head, 0);
        sizes[1] = bytes_at(whole, 0);
        printf("changes\t%s\t%zu\t%u\t%zu rows replaced: %.2f MB in %.0f ms, %s; whole %.2f MB in "
               "%.0f ms\n",
               b->set, b->rows, b->m, count, sizes[0] / 1e6, seconds[0] * 1e3,
               bytes_at(head, 1) > 0 ? "of changes" : "whole", sizes[1] / 1e6, seconds[1] * 1e3);
        unlink(whole);
        unlink(head);
        for (unsigned n = 1; n < 3; n++) {
            snprintf(part, sizeof part, "%s.g%u", head, n);
            unlink(part);
        }
    }
    rmdir(directory);
    vshard_index_destroy(index);
    free(ids);
}

/* ---- main ---- */

static void hold_first(struct bench *b)
{
    for (size_t i = 0; i < b->rows; i++)
        b->held[i] = (uint32_t)i;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(struct bench *b);
    } probes[] = { { "churn", churn },    { "half", half },     { "thin", thin },
                   { "remove", removal }, { "beside", beside }, { "saving", saving },
                   { "changes", changes } };
    const char *asked = argc > 1 ? argv[1] : "churn,half,thin,remove,beside,saving";
    struct bench b = { .set = argc > 2 ? argv[2] : "glove30k", .seed = 1 };

    bench_usage(argc, argv, 4, "[probe,... [set [rows [m]]]]");
    bench_read(&b.base, b.set, "base.npy", 0, false);
    bench_read(&b.query, b.set, "query.npy", QUERIES, false);
    b.rows = argc > 3 ? strtoul(argv[3], NULL, 10) : b.base.rows;
    b.rows = b.rows == 0 || b.rows > b.base.rows ? b.base.rows : b.rows;
    b.m = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 16;
    b.held = bench_allocate(b.rows, sizeof *b.held);
    puts("probe\tset\trows\tm\tresult");
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) {
        if (strstr(asked, probes[i].name) == NULL)
            continue;
        hold_first(&b);
        probes[i].run(&b);
        fflush(stdout);
    }
    free(b.held);
    bench_free(&b.base);
    bench_free(&b.query);
    return 0;
}
