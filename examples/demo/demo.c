/* demo.c - real vectors in shards: built, searched, merged, saved, mapped, compared.
 *
 * The story, in the order of main(): words become vectors (set.c); a ring says which
 * shard owns a word, and every shard is an index (shards.c); ten words are asked for
 * their nearest; then a thousand, beside an exact scan (measure.c); all is saved
 * (store.c), mapped, and asked again. How it is printed is screen.c.
 *
 *     make demo
 *     make demo DATA=dir SET=glove100
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard.h>

#include "measure.h"
#include "options.h"
#include "screen.h"
#include "set.h"
#include "shards.h"
#include "store.h"
#include "support/pool.h"

enum { WORDS_SHOWN = 10, NEAREST_SHOWN = 4, COLUMN = 17, LISTED_MAX = 8, EXACT_MAX = 1000 };

static const double recall_floor = 0.97, timed_at_least = 0.5;

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t stop_signal;

static void stop(int signal_number)
{
    stop_signal = signal_number;
}

int stop_wanted(void)
{
    return stop_signal != 0 || screen_is_lost();
}

/* A signal only says that we should stop, so that whoever is at work can first clean
 * up. What a full file or a closed pipe makes of a write, the write says. */
static void listen(void)
{
    static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_flags = SA_RESTART };

    action.sa_handler = stop;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++)
        sigaction(stops[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

/* ---- the story ---- */

struct demo {
    struct options options;
    struct set set;
    struct pool *pool;
    struct shards shards;
    struct store store;
    struct vshard_merge_hit *answers; /* [queries x NEAREST] */
    double recall, qps;
};

static void show_machine(const struct demo *d)
{
    struct vshard_machine machine = { .size = sizeof machine };

    vshard_machine_report(&machine);
    say("vshard", "%s, %s, %u thread%s", machine.version, machine.kernels, d->options.threads,
        d->options.threads == 1 ? "" : "s");
}

static const char *noun(const struct demo *d)
{
    return d->set.base_words.count > 0 ? "words" : "vectors";
}

static void show_set(const struct demo *d)
{
    static const char *const metrics[] = { "squared distance", "inner product", "cosine" };
    char rows[DIGITS_MAX], queries[DIGITS_MAX];

    say("data", "%s %s of %s in %u dimensions, compared by %s; %s others to ask for",
        grouped(rows, d->set.rows), noun(d), d->options.set, d->set.dim, metrics[d->options.metric],
        grouped(queries, d->set.queries));
}

/* The rows of each shard, or of the smallest and the largest where there are many. */
static void show_build(const struct demo *d, double taken)
{
    char a[DIGITS_MAX], b[DIGITS_MAX], text[LISTED_MAX * DIGITS_MAX] = "";
    uint64_t least = UINT64_MAX, most = 0;

    for (uint32_t s = 0; s < d->shards.count; s++) {
        uint64_t rows = vshard_index_count(d->shards.index[s]);

        least = rows < least ? rows : least;
        most = rows > most ? rows : most;
        if (d->shards.count <= LISTED_MAX) {
            strcat(text, s > 0 ? ", " : "");
            strcat(text, grouped(a, rows));
        }
    }
    if (d->shards.count > LISTED_MAX)
        snprintf(text, sizeof text, "%s to %s", grouped(a, least), grouped(b, most));
    say("build", "%u shard%s by the ring, of %s %s; %.1f s, %s a second", d->shards.count,
        d->shards.count == 1 ? "" : "s", text, noun(d), taken,
        grouped(a, (uint64_t)((double)d->set.rows / taken)));
}

static int build(struct demo *d)
{
    const struct shards_plan plan = { .shards = d->options.shards,
                                      .seed = d->options.seed,
                                      .executor = pool_executor(d->pool),
                                      .storage = &d->store.storage };
    double start = seconds();
    int rc = shards_build(&d->shards, &d->set, &plan);

    if (rc == 0)
        show_build(d, seconds() - start);
    return rc;
}

/* One line: what was asked for, its neighbours, and beside each the shard it was in.
 * The padding is counted without the colours. */
static void show_neighbours(const struct demo *d, size_t query,
                            const struct vshard_merge_hit *nearest)
{
    char line[1024], name[32];
    size_t at = 0;

    for (size_t i = 0; i < NEAREST_SHOWN && i < d->set.rows; i++) {
        const char *word = set_name(&d->set.base_words, nearest[i].key.lo, name);
        int width = snprintf(NULL, 0, "%.24s %u", word, nearest[i].shard);

        at += (size_t)snprintf(line + at, sizeof line - at, "%.24s %s%u%s%*s", word,
                               colour_on(nearest[i].shard), nearest[i].shard, plain_on(),
                               width < COLUMN ? COLUMN - width : 1, "");
    }
    while (at > 0 && line[at - 1] == ' ')
        line[--at] = '\0';
    say(query == 0 ? "nearest" : "", "%s%-*.24s%s %s", strong_on(), COLUMN - 1,
        set_name(&d->set.query_words, query, name), plain_on(), line);
}

static int show_nearest(const struct demo *d)
{
    struct vshard_merge_hit nearest[NEAREST];
    struct asker asker;
    int rc = asker_init(&asker);

    gap();
    for (size_t q = 0; rc == 0 && q < WORDS_SHOWN && q < d->set.queries; q++) {
        const struct questions one = { set_query(&d->set, q), 1, d->options.ef, 0 };
        int status = shards_ask(&d->shards, &asker, &one, nearest);

        if (status == VSHARD_OK)
            show_neighbours(d, q, nearest);
        else
            rc = failed("searching: %s", vshard_strerror(status));
    }
    say("", "%sthe number is the shard that had the answer%s", dim_on(), plain_on());
    gap();
    asker_fini(&asker);
    return rc;
}

/* Asks every question as often as it takes for the clock to be trusted. */
static int time_all(struct demo *d, const struct exam *exam)
{
    double taken = 0, once;
    size_t rounds = 0;
    int rc = 0;

    while (rc == 0 && taken < timed_at_least) {
        rc = exam_ask(exam, "search", 0, d->set.queries, d->answers, &once);
        taken += once;
        rounds++;
    }
    d->qps = (double)(rounds * d->set.queries) / taken;
    return rc;
}

/* Recall over at most EXACT_MAX questions, as each is compared with every row. */
static int judge(struct demo *d, const struct exam *exam, size_t count)
{
    struct vshard_merge_hit *both = calloc(2 * count * NEAREST, sizeof *both);
    double taken;
    int rc = both ? 0 : failed("searching: no memory");

    if (rc == 0)
        rc = exam_ask(exam, "exact", VSHARD_SEARCH_EXACT, count, both, &taken);
    if (rc == 0)
        rc = exam_ask(exam, "search", 0, count, both + count * NEAREST, &taken);
    if (rc == 0)
        d->recall = recall(both + count * NEAREST, both, count, d->set.rows);
    free(both);
    return rc;
}

static void show_memory(const struct demo *d)
{
    struct vshard_index_stats sum = { 0 };
    double rows;

    for (uint32_t s = 0; s < d->shards.count; s++) {
        struct vshard_index_stats stats = { .size = sizeof stats };

        vshard_index_stats(d->shards.index[s], &stats);
        sum.rows += stats.rows;
        sum.heap_bytes += stats.heap_bytes;
        sum.element_bytes += stats.element_bytes;
        sum.code_bytes += stats.code_bytes;
        sum.edge_bytes += stats.edge_bytes;
    }
    rows = (double)sum.rows;
    say("memory",
        "%.0f bytes a vector: %.0f for itself, %.0f its code, %.0f its edges, %.0f the rest",
        (double)sum.heap_bytes / rows, (double)sum.element_bytes / rows,
        (double)sum.code_bytes / rows, (double)sum.edge_bytes / rows,
        (double)(sum.heap_bytes - sum.element_bytes - sum.code_bytes - sum.edge_bytes) / rows);
}

static int measure(struct demo *d)
{
    const struct exam exam = { &d->shards, &d->set, pool_executor(d->pool), d->options.ef };
    size_t judged = d->set.queries < EXACT_MAX ? d->set.queries : EXACT_MAX;
    char text[DIGITS_MAX];
    struct latency latency;
    int rc = judge(d, &exam, judged);

    if (rc == 0)
        say("recall", "%s%.4f%s of the 10 nearest, beside an exact scan, for %s questions",
            strong_on(), d->recall, plain_on(), grouped(text, judged));
    if (rc == 0)
        rc = time_all(d, &exam);
    if (rc == 0)
        say("speed", "%s%s%s questions a second on %u thread%s, each asking every shard",
            strong_on(), grouped(text, (uint64_t)d->qps), plain_on(), d->options.threads,
            d->options.threads == 1 ? "" : "s");
    if (rc == 0)
        rc = exam_latency(&exam, &latency);
    if (rc != 0)
        return rc;
    say("latency", "%.0f us in the middle (p50), %.0f us for one in a hundred (p99), on one thread",
        latency.p50_us, latency.p99_us);
    show_memory(d);
    return 0;
}

/* Answers of the mapped shards, compared byte by byte with those of the memory. */
static int compare(struct demo *d, const struct shards *mapped)
{
    const struct exam exam = { mapped, &d->set, pool_executor(d->pool), d->options.ef };
    struct vshard_merge_hit *again = calloc(d->set.queries * NEAREST, sizeof *again);
    char text[DIGITS_MAX];
    size_t same = 0;
    double taken;
    int rc = again ? 0 : failed("searching: no memory");

    if (rc == 0)
        rc = exam_ask(&exam, "compare", 0, d->set.queries, again, &taken);
    for (size_t q = 0; rc == 0 && q < d->set.queries; q++)
        same += memcmp(again + q * NEAREST, d->answers + q * NEAREST, NEAREST * sizeof *again) == 0;
    free(again);
    if (rc == 0 && same < d->set.queries)
        rc = failed("%zu of %zu answers differ once mapped", d->set.queries - same, d->set.queries);
    if (rc == 0)
        say("", "all %s answers are the same, bit by bit", grouped(text, same));
    return rc;
}

static int save_and_map(struct demo *d)
{
    struct shards mapped = { 0 };
    double start = seconds(), saved, opened;
    uint64_t bytes = 0;
    int rc = shards_save(&d->shards, &d->store);

    saved = seconds();
    if (rc == 0)
        rc = shards_open(&mapped, &d->store);
    opened = seconds();
    for (uint32_t s = 0; rc == 0 && s < mapped.count; s++) {
        struct vshard_index_stats stats = { .size = sizeof stats };

        vshard_index_stats(mapped.index[s], &stats);
        bytes += stats.mapped_bytes;
    }
    if (rc == 0)
        say("files", "%.1f MB saved in %.2f s, mapped again in %.0f ms%s%s", (double)bytes * 1e-6,
            saved - start, (opened - saved) * 1e3, d->options.dir ? ", in " : "",
            d->options.dir ? d->options.dir : "");
    if (rc == 0)
        rc = compare(d, &mapped);
    shards_fini(&mapped);
    return rc;
}

static int prepare(struct demo *d)
{
    show_machine(d);
    if (set_read(&d->set, d->options.data, d->options.set, d->options.rows) < 0)
        return -1;
    d->set.metric = d->options.metric;
    d->answers = calloc(d->set.queries * NEAREST, sizeof *d->answers);
    d->pool = pool_create(d->options.threads);
    if (d->answers == NULL || d->pool == NULL)
        return failed("no memory, or no threads");
    show_set(d);
    return 0;
}

static int run(struct demo *d)
{
    int rc = prepare(d);

    if (rc == 0)
        rc = build(d);
    if (rc == 0)
        rc = show_nearest(d);
    if (rc == 0)
        rc = measure(d);
    if (rc == 0)
        rc = save_and_map(d);
    if (rc == 0 && d->recall < recall_floor)
        rc = failed("recall@10=%.4f is below %.2f; try a larger --ef", d->recall, recall_floor);
    if (rc == 0) {
        d->store.keep = d->options.dir != NULL;
        printf("demo: ok recall@10=%.4f qps=%.0f\n", d->recall, d->qps);
        rc = screen_fini();
    }
    return rc;
}

int main(int argc, char **argv)
{
    static struct demo demo;
    int rc;

    screen_init();
    rc = options_read(&demo.options, argc, argv);
    if (rc != 0)
        return rc - 1;
    listen();
    rc = store_init(&demo.store, demo.options.dir, demo.options.shards);
    if (rc == 0) {
        rc = run(&demo);
        store_fini(&demo.store);
    }
    shards_fini(&demo.shards);
    pool_destroy(demo.pool);
    set_free(&demo.set);
    free(demo.answers);
    if (rc == STOPPED && stop_signal == 0)
        screen_fini();
    if (rc == STOPPED && stop_signal != 0) { /* end as the signal would have ended us */
        failed("stopped; nothing is left behind");
        signal(stop_signal, SIG_DFL);
        raise(stop_signal);
    }
    return rc == 0 ? 0 : 1;
}
