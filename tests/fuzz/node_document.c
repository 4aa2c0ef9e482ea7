/* node_document.c - whatever a host says its store has: it is refused, or what was read writes
 * the same bytes again. The checksum is made right, since anybody can do that. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "node/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void take(const unsigned char *bytes, size_t count)
{
    static struct vs_cluster map;
    struct vs_out out = { .allocator = NULL };
    struct vshard_key cluster;
    uint64_t version;

    vs_cluster_init(&map, NULL, NULL);
    if (vshard_node_map_read(bytes, count, &cluster, &version) == VSHARD_OK &&
        vs_hosted_take(&map, cluster, bytes, count) == VSHARD_OK) {
        vs_cluster_encode(&map, &out);
        VS_ASSERT(out.count == count - 48 && memcmp(out.at, bytes + 40, out.count) == 0);
    }
    vs_out_free(&out);
    vs_cluster_fini(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    unsigned char *copy;

    take(bytes, count);
    if (count < 48)
        return 0;
    copy = malloc(count);
    memcpy(copy, bytes, count);
    vs_store64(copy + 32, count - 48);
    vs_store64(copy + count - 8, vs_checksum(copy, count - 8, 0));
    take(copy, count);
    free(copy);
    return 0;
}
