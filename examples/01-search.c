/* 01-search.c - the smallest whole program: three vectors, one question.
 *
 *     cc 01-search.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * It prints:
 *
 *     12 at 0.02
 *     10 at 1.00
 */
#include <stdio.h>
#include <vshard.h>

int main(void)
{
    const uint64_t ids[] = { 10, 11, 12 };
    const float vectors[] = { 0, 0, 1, 0, 0.1f, 0.9f };
    const float query[] = { 0, 1 };
    struct vshard_index_options options = { .size = sizeof options, .dim = 2 };
    struct vshard_index *index;
    struct vshard_hit hits[2];
    int status = vshard_index_create(&options, &index);

    if (status == VSHARD_OK)
        status = vshard_index_add(index, ids, vectors, 3);
    if (status == VSHARD_OK)
        status = vshard_index_search(index, query, 1, 2, hits, NULL);
    for (int i = 0; status == VSHARD_OK && i < 2; i++)
        printf("%llu at %.2f\n", (unsigned long long)hits[i].id, hits[i].distance);
    if (status != VSHARD_OK)
        fprintf(stderr, "vshard: %s\n", vshard_strerror(status));
    vshard_index_destroy(index);
    return status != VSHARD_OK;
}
