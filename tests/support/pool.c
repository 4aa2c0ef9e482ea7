/* pool.c - host threads for struct vshard_executor.
 *
 * What a host needs to lend its threads, at its plainest: a job is a counter that
 * the workers and the caller take numbers from until there are none, and the job
 * is over when as many tasks have returned. Workers sleep on one condition, the
 * caller on another. A generation number tells a sleeping worker a new job from
 * the one it has just done. */
#include "support/pool.h"

#include <pthread.h>
#include <stdlib.h>

enum { WIDTH_MAX = 256 };

struct pool {
    struct vshard_executor executor;
    pthread_mutex_t turn; /* held for the length of a run() */
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work, finished;
    void (*task)(void *arg, uint32_t i);
    void *arg;
    uint64_t generation;
    uint32_t next, count, returned;
    uint32_t stop;
    uint32_t threads;
    pthread_t thread[WIDTH_MAX];
};

/* Takes numbers until there are none; called and left with the lock held. */
static void take_part(struct pool *pool)
{
    while (pool->next < pool->count) {
        uint32_t i = pool->next++;

        pthread_mutex_unlock(&pool->lock);
        pool->task(pool->arg, i);
        pthread_mutex_lock(&pool->lock);
        if (++pool->returned == pool->count)
            pthread_cond_signal(&pool->finished);
    }
}

static void *worker(void *arg)
{
    struct pool *pool = arg;
    uint64_t seen = 0;

    pthread_mutex_lock(&pool->lock);
    while (!pool->stop) {
        if (pool->generation == seen) {
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        seen = pool->generation;
        take_part(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void run(void *ctx, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    struct pool *pool = ctx;

    pthread_mutex_lock(&pool->turn);
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->arg = arg;
    pool->next = pool->returned = 0;
    pool->count = count;
    pool->generation++;
    pthread_cond_broadcast(&pool->work);
    take_part(pool);
    while (pool->returned < pool->count)
        pthread_cond_wait(&pool->finished, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->turn);
}

struct pool *pool_create(uint32_t width)
{
    struct pool *pool;

    if (width == 0 || width > WIDTH_MAX)
        return NULL;
    pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->executor.run = run;
    pool->executor.ctx = pool;
    pool->executor.width = width;
    for (; pool->threads + 1 < width; pool->threads++) {
        if (pthread_create(&pool->thread[pool->threads], NULL, worker, pool) != 0) {
            pool_destroy(pool);
            return NULL;
        }
    }
    return pool;
}

void pool_destroy(struct pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->threads; i++)
        pthread_join(pool->thread[i], NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->turn);
    free(pool);
}

const struct vshard_executor *pool_executor(const struct pool *pool)
{
    return &pool->executor;
}
