/* raft.h - the door of lib/raft: the replicated-log core.
 *
 * Everything it offers is public, in vshard/log.h. The room is pure: no I/O, no
 * clock, no randomness but a seed. It knows neither the write-ahead log nor the
 * frames its messages travel in.
 *
 * Reading order: core.h (what a node and a group are), log.c, config.c, message.c
 * (the parts), election.c, beat.c, replicate.c, propose.c, read.c, snapshot.c (the
 * protocol), group.c (birth and inspection), digest.c, rest.c and raft.c (one event,
 * all or nothing). */
#ifndef VS_RAFT_H
#define VS_RAFT_H

#include "base/base.h"

#include <vshard/log.h>

#endif
