/* support_pool.c - the pool runs each task once, on several threads, and returns after all. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "support/pool.h"
#include "support/random.h"

enum { COUNT = 256, ROUNDS = 2000 };

struct tally {
    atomic_uint times[COUNT];
    atomic_uint inside, most_inside;
};

static void mark(void *arg, uint32_t i)
{
    struct tally *t = arg;
    unsigned now = atomic_fetch_add(&t->inside, 1) + 1, most = atomic_load(&t->most_inside);

    while (now > most && !atomic_compare_exchange_weak(&t->most_inside, &most, now))
        continue;
    atomic_fetch_add(&t->times[i], 1);
    atomic_fetch_sub(&t->inside, 1);
}

static void expect_once_each(const struct vshard_executor *executor, uint32_t rounds)
{
    uint64_t seed = 1;

    for (uint32_t r = 0; r < rounds; r++) {
        struct tally t = { 0 };
        uint32_t count = (uint32_t)random_below(&seed, COUNT + 1);

        executor->run(executor->ctx, count, mark, &t);
        cr_assert_eq(t.inside, 0, "returned too early");
        for (uint32_t i = 0; i < COUNT; i++)
            cr_assert_eq(t.times[i], i < count, "round %u, task %u of %u", r, i, count);
        cr_assert_leq(t.most_inside, executor->width);
    }
}

Test(support_pool, runs_each_task_once_at_every_width)
{
    static const uint32_t widths[] = { 1, 2, 3, 8, 64 };

    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        struct pool *pool = pool_create(widths[i]);

        cr_assert_not_null(pool);
        cr_expect_eq(pool_executor(pool)->width, widths[i]);
        expect_once_each(pool_executor(pool), ROUNDS / widths[i]);
        pool_destroy(pool);
    }
}

/* Two tasks that each wait for the other end only if both run at once. */
static void meet(void *arg, uint32_t i)
{
    (void)i;
    pthread_barrier_wait(arg);
}

Test(support_pool, runs_tasks_side_by_side, .timeout = 120)
{
    struct pool *pool = pool_create(2);
    pthread_barrier_t both;

    pthread_barrier_init(&both, NULL, 2);
    pool_executor(pool)->run(pool_executor(pool)->ctx, 2, meet, &both);
    pthread_barrier_destroy(&both);
    pool_destroy(pool);
}

static void *caller(void *arg)
{
    expect_once_each(arg, 200);
    return NULL;
}

Test(support_pool, lets_callers_take_turns)
{
    struct pool *pool = pool_create(3);
    struct vshard_executor executor = *pool_executor(pool);
    pthread_t threads[4];

    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, caller, &executor), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    pool_destroy(pool);
}

Test(support_pool, refuses_widths_outside_its_range)
{
    cr_expect_null(pool_create(0));
    cr_expect_null(pool_create(257));
    pool_destroy(NULL);
}
