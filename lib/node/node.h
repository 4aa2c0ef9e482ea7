/* node.h - the door of lib/node: the whole of a cluster's process. All of it is public.
 *
 * Reading order: core.h (what a node is), meta.c (the cluster's map as a state machine),
 * birth.c, persist.c (the log on disk), effects.c (the core's effects), replica.c (one
 * shard's replica), items.c (work for threads), ask.c, serve.c and write.c (requests, where they
 * are asked and where they are served), steward.c (members), flush.c (the only callbacks),
 * node.c (the calls). */
#ifndef VS_NODE_H
#define VS_NODE_H

#include "base/base.h"

#include <vshard/node.h>

#endif
