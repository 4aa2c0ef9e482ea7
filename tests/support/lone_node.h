/* lone_node.h - a cluster of one node, at "home": its founding, and a network for it. */
#ifndef SUPPORT_LONE_NODE_H
#define SUPPORT_LONE_NODE_H

#include <vshard.h>

#define LONE __attribute__((unused)) static

/* Nobody is there to send to. */
LONE void lone_send(void *ctx, uint64_t node, const void *frame, size_t bytes)
{
    (void)ctx;
    (void)node;
    (void)frame;
    (void)bytes;
}

LONE int lone_format(const struct vshard_storage *storage, const struct vshard_allocator *memory)
{
    const uint64_t founders[] = { 1 };
    const struct vshard_node_birth birth = { .size = sizeof birth,
                                             .cluster = { 1, 2 },
                                             .node = 1,
                                             .founders = founders,
                                             .founder_count = 1,
                                             .path = "home",
                                             .allocator = memory,
                                             .storage = storage };

    return vshard_node_format(&birth);
}

#endif
