/* node.h - the door of lib/node: the whole of a cluster's process. All of it is public, but
 * for what tests need.
 *
 * Reading order: core.h (what a node is), meta.c (the cluster's map as a state machine),
 * birth.c, persist.c (the log on disk), effects.c (the core's effects), replica.c (one
 * shard's replica), items.c (work for threads), ask.c, serve.c and write.c (requests, where they
 * are asked and where they are served), steward.c (members), level.c (versions), hosted.c
 * (the map, where the host keeps it), flush.c (the only
 * callbacks), node.c (the calls). */
#ifndef VS_NODE_H
#define VS_NODE_H

#include "base/base.h"

#include <vshard/node.h>

enum { VS_LEVEL = 1 }; /* the highest level of formats that this library knows: level.c */

/* vshard_node_open() of a library whose highest level is this one (level.c): for the
 * simulator, in which versions meet that are not there yet. */
int vs_node_open(const struct vshard_node_options *options, uint32_t level, uint64_t now_ns,
                 struct vshard_node **node);

#endif
