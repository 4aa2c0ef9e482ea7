/* pool.h - host threads for struct vshard_executor: a pool that sleeps between calls. */
#ifndef SUPPORT_POOL_H
#define SUPPORT_POOL_H

#include <vshard/base.h>

struct pool;

/* A pool of `width` threads, the caller of run() among them; 1..256. NULL when
 * threads or memory cannot be had. */
struct pool *pool_create(uint32_t width);

/* No run() may be under way. NULL is allowed. */
void pool_destroy(struct pool *pool);

/* Borrowed; lives as long as the pool. Calls of run() from several threads take
 * turns. A task must not call run() of its own pool. */
const struct vshard_executor *pool_executor(const struct pool *pool);

#endif
