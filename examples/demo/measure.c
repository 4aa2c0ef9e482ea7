/* measure.c - many questions at once: how right the answers are, and how fast. */
#include "measure.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "screen.h"

/* Of each thread, between two looks at the clock. */
enum { QUESTIONS_A_THREAD = 8 * TOGETHER };

/* One run over all threads. */
struct round {
    const struct exam *exam;
    struct asker *askers; /* one a thread */
    struct vshard_merge_hit *answers;
    size_t total, end;
    uint32_t flags;
    _Atomic size_t next;
    _Atomic int status;
};

static void ask_some(void *arg, uint32_t thread)
{
    struct round *r = arg;
    size_t first;

    while (!stop_wanted() && (first = atomic_fetch_add(&r->next, TOGETHER)) < r->end) {
        const struct questions some = { .queries = set_query(r->exam->set, first),
                                        .count =
                                            r->end - first < TOGETHER ? r->end - first : TOGETHER,
                                        .ef = r->exam->ef,
                                        .flags = r->flags };
        int rc =
            shards_ask(r->exam->shards, &r->askers[thread], &some, r->answers + first * NEAREST);

        if (rc != VSHARD_OK)
            atomic_store(&r->status, rc);
    }
}

static int ask_all(struct round *r, const char *name)
{
    const struct vshard_executor *executor = r->exam->executor;
    size_t step = QUESTIONS_A_THREAD * executor->width;
    struct progress progress;
    int rc = 0;

    progress_begin(&progress, name, r->total);
    for (size_t first = 0; rc == 0 && first < r->total; first = r->end) {
        r->end = first + step < r->total ? first + step : r->total;
        atomic_store(&r->next, first);
        executor->run(executor->ctx, executor->width, ask_some, r);
        progress_show(&progress, r->end);
        if (atomic_load(&r->status) != VSHARD_OK)
            rc = failed("searching: %s", vshard_strerror(atomic_load(&r->status)));
        else if (stop_wanted())
            rc = STOPPED;
    }
    progress_end(&progress);
    return rc;
}

int exam_ask(const struct exam *exam, const char *name, uint32_t flags, size_t count,
             struct vshard_merge_hit *answers, double *taken)
{
    uint32_t threads = exam->executor->width;
    struct round round = { .exam = exam,
                           .askers = calloc(threads, sizeof *round.askers),
                           .answers = answers,
                           .total = count,
                           .flags = flags };
    int rc = round.askers ? 0 : failed("searching: %s", strerror(ENOMEM));
    double start;

    for (uint32_t t = 0; rc == 0 && t < threads; t++)
        rc = asker_init(&round.askers[t]);
    start = seconds();
    if (rc == 0)
        rc = ask_all(&round, name);
    *taken = seconds() - start;
    for (uint32_t t = 0; round.askers != NULL && t < threads; t++)
        asker_fini(&round.askers[t]);
    free(round.askers);
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int time_each(const struct exam *exam, struct asker *asker, double *us)
{
    struct vshard_merge_hit nearest[NEAREST];
    struct progress progress;
    int rc = 0;

    progress_begin(&progress, "latency", exam->set->queries);
    for (size_t q = 0; rc == 0 && q < exam->set->queries; q++) {
        const struct questions one = { set_query(exam->set, q), 1, exam->ef, 0 };
        double start = seconds();
        int status = shards_ask(exam->shards, asker, &one, nearest);

        us[q] = (seconds() - start) * 1e6;
        progress_show(&progress, q);
        if (status != VSHARD_OK)
            rc = failed("searching: %s", vshard_strerror(status));
        else if (stop_wanted())
            rc = STOPPED;
    }
    progress_end(&progress);
    return rc;
}

int exam_latency(const struct exam *exam, struct latency *latency)
{
    size_t count = exam->set->queries;
    double *us = malloc(count * sizeof *us);
    struct asker asker = { 0 };
    int rc = us ? asker_init(&asker) : failed("searching: %s", strerror(ENOMEM));

    if (rc == 0)
        rc = time_each(exam, &asker, us);
    if (rc == 0) {
        qsort(us, count, sizeof *us, by_value);
        latency->p50_us = us[count / 2];
        latency->p99_us = us[count * 99 / 100];
    }
    asker_fini(&asker);
    free(us);
    return rc;
}

double recall(const struct vshard_merge_hit *answers, const struct vshard_merge_hit *exact,
              size_t count, size_t rows)
{
    size_t each = rows < NEAREST ? rows : NEAREST, right = 0;

    for (size_t i = 0; i < count; i++) {
        float last = exact[i * NEAREST + each - 1].distance;

        for (size_t j = 0; j < each; j++)
            right += answers[i * NEAREST + j].distance <= last;
    }
    return (double)right / (double)(count * each);
}
