/* node_map.c - whatever bytes stand in the snapshot of a cluster's map, or in its log: they are
 * refused, or what was read writes the same bytes again. */
#include <stddef.h>
#include <stdint.h>

#include "node/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct vs_cluster map;
    struct vs_in in = { .at = bytes, .left = count };
    struct vs_out out = { .allocator = NULL };

    vs_cluster_init(&map, NULL, NULL);
    if (vs_cluster_decode(&map, &in) == VSHARD_OK) {
        vs_cluster_encode(&map, &out);
        VS_ASSERT(out.count == count - in.left && memcmp(out.at, bytes, out.count) == 0);
        if (in.left != 0)
            vs_cluster_apply(&map, 1, in.at, in.left);
    }
    vs_out_free(&out);
    vs_cluster_fini(&map);
    return 0;
}
