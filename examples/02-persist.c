/* 02-persist.c - an index into a file, mapped again, asked the same question.
 *
 *     cc 02-persist.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * It prints:
 *
 *     before  12 at 0.02  10 at 1.00
 *     after   12 at 0.02  10 at 1.00
 *     the same bits: yes
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vshard.h>

enum { K = 2 };

static int make(const char *path, struct vshard_index **index)
{
    const uint64_t ids[] = { 10, 11, 12 };
    const float vectors[] = { 0, 0, 1, 0, 0.1f, 0.9f };
    const struct vshard_index_options options = { .size = sizeof options, .dim = 2 };
    int status = vshard_index_create(&options, index);

    if (status == VSHARD_OK)
        status = vshard_index_add(*index, ids, vectors, 3);
    if (status == VSHARD_OK)
        status = vshard_index_save(*index, path);
    return status;
}

/* Asks, and prints the answer. */
static int ask(struct vshard_index *index, const char *when, struct vshard_hit hits[K])
{
    const float query[] = { 0, 1 };
    int status = vshard_index_search(index, query, 1, K, hits, NULL);

    printf("%-6s", when);
    for (int i = 0; status == VSHARD_OK && i < K; i++)
        printf("  %llu at %.2f", (unsigned long long)hits[i].id, hits[i].distance);
    printf("\n");
    return status;
}

int main(void)
{
    /* Mapping opens a file of any size at once; what is searched is read then. */
    const struct vshard_open_options mapped = { .size = sizeof mapped,
                                                .flags = VSHARD_OPEN_MAPPED };
    struct vshard_index *index = NULL;
    struct vshard_hit before[K], after[K];
    char path[] = "/tmp/vshard-XXXXXX";
    int file = mkstemp(path), status = file < 0 ? VSHARD_EIO : make(path, &index);

    if (status == VSHARD_OK)
        status = ask(index, "before", before);
    vshard_index_destroy(index);
    index = NULL;
    if (status == VSHARD_OK)
        status = vshard_index_open(path, &mapped, &index);
    if (status == VSHARD_OK)
        status = ask(index, "after", after);
    if (status == VSHARD_OK)
        printf("the same bits: %s\n", memcmp(before, after, sizeof after) == 0 ? "yes" : "no");
    else
        fprintf(stderr, "vshard: %s\n", vshard_strerror(status));
    vshard_index_destroy(index);
    if (file >= 0) {
        close(file);
        remove(path);
    }
    return status != VSHARD_OK;
}
