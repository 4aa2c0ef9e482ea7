/* shard_batch.c - whatever bytes a log or a peer offers as an entry: they are refused, or
 * every array that they promise is there. Applied to a shard, they change it or nothing. */
#include <stddef.h>
#include <stdint.h>

#include "shard/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    const struct vs_shard_plan plan = { .dim = 4,
                                        .family = VSHARD_FAMILY_HNSW,
                                        .attribute_count = 2,
                                        .attributes = { { VSHARD_ATTRIBUTE_INT64, "number" },
                                                        { VSHARD_ATTRIBUTE_KEYWORD, "word" } } };
    struct vs_shard *shard;
    struct vs_batch b;
    uint32_t row = 0;

    if (vs_batch_decode(&b, 0, bytes, count) != VSHARD_OK || vs_plan_admits(&plan, &b) != VSHARD_OK)
        return 0;
    if (vs_shard_create(&plan, &shard) != VSHARD_OK)
        return 0;
    VS_ASSERT(vs_shard_stage(shard, 1, bytes, count) == VSHARD_OK); /* what was admitted can be */
    while (row < b.count && vs_shard_apply(shard, 1, bytes, count, &row) == VSHARD_OK)
        continue;
    VS_ASSERT(row == b.count); /* staged, and applied */
    vs_shard_destroy(shard);
    return 0;
}
