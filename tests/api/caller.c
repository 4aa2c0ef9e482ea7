/* caller.c - a program that knows nothing but the headers it was compiled with.
 *
 * Prints what every call with a struct answers. abi.sh compiles it against edited
 * copies of the headers and links it to libraries of another age. With NEWER the
 * structs have a last field `later`, which is set to LATER where the caller asks
 * and must come back 0 where the library reports. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <vshard.h>

#if defined(NEWER)
#define ASK     , .later = LATER
#define TOLD(x) ((x).later == 0)
#else
#define ASK
#define TOLD(x) 1
#endif

enum { DIM = 4, ROWS = 20, K = 3 };

static void search(struct vshard_index *index, const float *query)
{
    struct vshard_hit hits[K];
    uint32_t found = 0;
    struct vshard_search_info info = { .size = sizeof info };
    struct vshard_search_options options = { .size = sizeof options,
                                             .found = &found,
                                             .info = &info ASK };
    int status = vshard_index_search(index, query, 1, K, hits, &options);

    printf("search %d", status);
    for (uint32_t i = 0; status == 0 && i < found; i++)
        printf(" %" PRIu64 ":%.3f", hits[i].id, (double)hits[i].distance);
    if (status == 0)
        printf(" distances %d told %d", info.distances > 0, TOLD(info));
    printf("\n");
}

static void report(struct vshard_index *index)
{
    struct vshard_machine machine;
    struct vshard_index_stats stats;
    struct vshard_index_check check;

    /* Rubbish, so that a field the library does not know must be cleared by it. */
    memset(&machine, 0xff, sizeof machine);
    memset(&stats, 0xff, sizeof stats);
    memset(&check, 0xff, sizeof check);
    machine.size = sizeof machine;
    stats.size = sizeof stats;
    check.size = sizeof check;
    printf("machine %d", vshard_machine_report(&machine));
    printf(" %s told %d\n", machine.version, TOLD(machine));
    printf("stats %d", vshard_index_stats(index, &stats));
    printf(" %u %" PRIu64 " told %d\n", stats.dim, stats.rows, TOLD(stats));
    printf("check %d", vshard_index_check(index, &check));
    printf(" %" PRIu64 " told %d\n", check.rows, TOLD(check));
}

static void merge(void)
{
    const struct vshard_merge_hit a[] = { { { 0, 1 }, 1, 1, 0 }, { { 0, 2 }, 1, 3, 0 } };
    const struct vshard_merge_hit b[] = { { { 0, 3 }, 1, 2, 1 } };
    const struct vshard_merge_list lists[] = { { a, 2 }, { b, 1 } };
    struct vshard_merge_options options = { .size = sizeof options, .k = 2 ASK };
    struct vshard_merge_hit hits[2];
    uint32_t found = 0;
    int status = vshard_merge(&options, lists, 2, hits, &found);

    printf("merge %d", status);
    for (uint32_t i = 0; i < found; i++)
        printf(" %" PRIu64, hits[i].key.lo);
    printf("\n");
}

int main(void)
{
    struct vshard_index_options options = { .size = sizeof options, .dim = DIM };
    struct vshard_index_options asking = { .size = sizeof asking, .dim = DIM ASK };
    struct vshard_open_options open = { .size = sizeof open ASK };
    struct vshard_index *index = NULL, *other = NULL;
    float vectors[ROWS * DIM];
    uint64_t ids[ROWS];

    for (int i = 0; i < ROWS * DIM; i++)
        vectors[i] = (float)(i * 7 % 11);
    for (int i = 0; i < ROWS; i++)
        ids[i] = (uint64_t)i + 100;
    printf("asking %d\n", vshard_index_create(&asking, &other));
    vshard_index_destroy(other);
    printf("create %d\n", vshard_index_create(&options, &index));
    printf("add %d\n", vshard_index_add(index, ids, vectors, ROWS));
    search(index, vectors);
    report(index);
    printf("open %d\n", vshard_index_open("/nowhere/at/all", &open, &other));
    vshard_index_destroy(index);
    merge();
    return 0;
}
