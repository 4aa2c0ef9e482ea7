/* main.c - a cluster in one process: real vectors through the replicated log, searches
 * fanned out and merged, and a leader killed in the midst of it.
 *
 * The story, in the order of run(): five nodes found a cluster (nodes.c); a collection of
 * four shards, three replicas each, is created and loaded (requests.c); a thousand words
 * are asked for, beside an exact scan; a third of all is written again while they are; then,
 * with searches and writes under way, the node
 * that leads most is killed, the others go on, and it comes back; at last every
 * acknowledged write is looked for. How it looks meanwhile is view.c.
 *
 *     make demo
 *     make demo DATA=dir SET=glove100 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "../demo/screen.h"
#include "story.h"

enum { BATCH = 1000, LIVE_BATCH = 100, LIVE_LOADS = 2, LOADS = 8, READS = 16, WRITES = 16, ASKED_MAX = 1000, CHECKED_MAX = 3000 };
enum { CALM_MS = 1500, STORM_MS = 4000, WRITES_A_SECOND = 500 };
enum { PATIENCE_MS = 60000 }; /* with a machine that has much else to do */
enum { WORDS = 8, WORDS_SHOWN = 6 }; /* asked for, and found */

static const uint64_t ms = 1000000;
static volatile sig_atomic_t stop_signal;

/* screen.c and set.c are shared with the other demo, which asks this. */
int stop_wanted(void);

int stop_wanted(void)
{
    return stop_signal != 0 || screen_is_lost();
}

static void stop(int number)
{
    stop_signal = number;
}

/* ---- options ---- */

static const char help[] =
    "usage: cluster [options]\n"
    "A cluster in one process: loaded, searched, its busiest leader killed, and checked.\n"
    "\n"
    "  --data DIR      where the .npy files are        examples/demo/data\n"
    "  --set NAME      NAME.base.npy, NAME.query.npy   glove30k\n"
    "  --rows N        use the first N rows only       all\n"
    "  --nodes N       3 to 16                         5\n"
    "  --shards N      1 to 64                         4\n"
    "  --replicas N    3 to 7                          3\n"
    "  --threads N     workers, 1 to 64                one a processor and one a node\n"
    "  --ef N          width of the search             100\n"
    "  --dir DIR       keep the files in DIR, which is new\n";

static int read_number(const char *name, uint64_t min, uint64_t max, uint64_t *to)
{
    const char *text = optarg;
    char *end;

    errno = 0;
    *to = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || errno != 0 || *to < min || *to > max)
        return failed("%s: a number from %llu to %llu is wanted, not '%s'", name,
                      (unsigned long long)min, (unsigned long long)max, text);
    return 0;
}

static int read_option(struct plan *p, int option)
{
    uint64_t n = 0;
    int rc = 0;

    switch (option) {
    case 'd': p->data = optarg; return 0;
    case 's': p->set = optarg; return 0;
    case 'D': p->dir = optarg; return 0;
    case 'r': rc = read_number("--rows", 1, UINT32_MAX, &n); break;
    case 'n': rc = read_number("--nodes", 3, NODES_MAX, &n); break;
    case 'S': rc = read_number("--shards", 1, SHARDS_MAX, &n); break;
    case 'R': rc = read_number("--replicas", 3, 7, &n); break;
    case 't': rc = read_number("--threads", 1, 64, &n); break;
    case 'e': rc = read_number("--ef", 1, VSHARD_EF_MAX, &n); break;
    case 'h': fputs(help, stdout); return 1;
    default: return -1;
    }
    if (option == 'r')
        p->rows = (size_t)n;
    else
        *(option == 'n'   ? &p->nodes
          : option == 'S' ? &p->shards
          : option == 'R' ? &p->replicas
          : option == 't' ? &p->threads
                          : &p->ef) = (uint32_t)n;
    return rc;
}

static int read_options(struct plan *p, int argc, char **argv)
{
    static const struct option known[] = { { "data", required_argument, NULL, 'd' },
                                           { "set", required_argument, NULL, 's' },
                                           { "rows", required_argument, NULL, 'r' },
                                           { "nodes", required_argument, NULL, 'n' },
                                           { "shards", required_argument, NULL, 'S' },
                                           { "replicas", required_argument, NULL, 'R' },
                                           { "threads", required_argument, NULL, 't' },
                                           { "ef", required_argument, NULL, 'e' },
                                           { "dir", required_argument, NULL, 'D' },
                                           { "help", no_argument, NULL, 'h' },
                                           { NULL, 0, NULL, 0 } };
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int option, rc = 0, metric;
    uint32_t threads = processors < 1 ? 1 : processors > 48 ? 48 : (uint32_t)processors;

    *p = (struct plan){
        .data = "examples/demo/data",
        .set = "glove30k",
        .nodes = 5,
        .shards = 4,
        .replicas = 3,
        .ef = 100,
    };
    while (rc == 0 && (option = getopt_long(argc, argv, "", known, NULL)) != -1)
        rc = read_option(p, option);
    /* One a processor to compute, and one a node that may wait for its disk. */
    if (p->threads == 0)
        p->threads = threads + p->nodes;
    if (rc == 0 && optind < argc)
        rc = failed("what is '%s'?", argv[optind]);
    if (rc == 0 && p->replicas > p->nodes)
        rc = failed("%u replicas need as many nodes", p->replicas);
    if (rc != 0)
        return rc;
    metric = set_metric(p->set);
    p->metric = (uint32_t)metric;
    return metric >= 0 ? 0 : failed("what is '%s' compared by?", p->set);
}

/* ---- the folder ---- */

static int make_folder(struct story *s)
{
    const char *tmp = getenv("TMPDIR");

    if (s->plan.dir != NULL) {
        snprintf(s->folder, sizeof s->folder, "%.3900s", s->plan.dir);
        return mkdir(s->folder, 0777) == 0 ? 0 : failed("%s: %s", s->folder, strerror(errno));
    }
    snprintf(s->folder, sizeof s->folder, "%.3900s/vshard-demo.XXXXXX", tmp ? tmp : "/tmp");
    if (mkdtemp(s->folder) == NULL)
        return failed("%s: %s", s->folder, strerror(errno));
    s->folder_is_ours = 1;
    return 0;
}

static void remove_folder(struct story *s)
{
    struct vshard_storage storage;
    char names[1 << 16], path[8192];

    vshard_storage_posix(&storage);
    for (uint32_t i = 1; s->folder_is_ours && i <= s->plan.nodes; i++) {
        struct vshard_io list = { .op = VSHARD_IO_LIST, .buffer = names, .count = sizeof names };

        snprintf(path, sizeof path, "%s/node-%u", s->folder, i);
        list.path = path;
        storage.submit(storage.ctx, &list);
        for (char *name = names; list.status == VSHARD_OK && name < names + list.count;
             name += strlen(name) + 1) {
            snprintf(path, sizeof path, "%s/node-%u/%.255s", s->folder, i, name);
            unlink(path);
        }
        snprintf(path, sizeof path, "%s/node-%u", s->folder, i);
        rmdir(path);
    }
    if (s->folder_is_ours)
        rmdir(s->folder);
}

/* ---- founding ---- */

static int prepare(struct story *s)
{
    struct vshard_machine machine = { .size = sizeof machine };
    size_t queries;
    char rows[DIGITS_MAX];

    vshard_machine_report(&machine);
    say("vshard", "%s, %s, %u workers and a thread for control", machine.version, machine.kernels,
        s->plan.threads);
    if (set_read(&s->set, s->plan.data, s->plan.set, s->plan.rows) < 0)
        return -1;
    queries = s->set.queries;
    say("data", "%s of %s in %u dimensions", grouped(rows, s->set.rows), s->plan.set, s->set.dim);
    s->exact = calloc(queries * NEAREST, sizeof *s->exact);
    s->found = calloc(queries * NEAREST, sizeof *s->found);
    s->exact_count = calloc(queries, sizeof *s->exact_count);
    s->found_count = calloc(queries, sizeof *s->found_count);
    s->latency_cap = 1 << 20;
    s->latency = calloc(s->latency_cap, sizeof *s->latency);
    s->version = calloc(s->set.rows, sizeof *s->version);
    s->tried = calloc(s->set.rows, sizeof *s->tried);
    s->owner = calloc(s->set.rows, sizeof *s->owner);
    return s->exact && s->found && s->exact_count && s->found_count && s->latency && s->version &&
                   s->tried && s->owner
               ? 0
               : failed("no memory");
}

/* Who owns what, as the nodes have it: the ring is a function of the number of shards. */
static int find_owners(struct story *s)
{
    const struct vshard_map_options o = { .size = sizeof o };
    struct vshard_map *map;
    int rc = vshard_map_create(&o, &map);

    for (uint32_t i = 0; rc == VSHARD_OK && i < s->plan.shards; i++)
        rc = vshard_map_add(map, i, 1);
    for (size_t i = 0; rc == VSHARD_OK && i < s->set.rows; i++) {
        const struct vshard_key key = { 0, i };

        rc = vshard_map_owner(map, &key, 1, &s->owner[i], NULL);
    }
    vshard_map_destroy(map);
    return rc == VSHARD_OK ? 0 : failed("the map: %s", vshard_strerror(rc));
}

static int shards_led(struct story *s, uint32_t node, uint32_t *led)
{
    struct vshard_shard_status all[SHARDS_MAX];
    int count = 0;
    size_t shards;

    if (nodes_at(s->nodes, node) == NULL ||
        vshard_node_shards(nodes_at(s->nodes, node), "words", all, SHARDS_MAX, &shards) !=
            VSHARD_OK)
        return 0;
    for (size_t i = 0; i < shards; i++) {
        int leads = all[i].leader == node && all[i].here;

        count += leads;
        if (led != NULL)
            led[i] = (uint32_t)leads;
    }
    return count;
}

static int wait_for_leaders(struct story *s)
{
    uint64_t end = nodes_now() + PATIENCE_MS * ms;
    int led = 0;

    while (nodes_now() < end && led < (int)s->plan.shards) {
        nodes_pump(s->nodes, nodes_now() + 20 * ms, NULL);
        led = 0;
        for (uint32_t i = 1; i <= s->plan.nodes; i++)
            led += shards_led(s, i, NULL);
    }
    return led >= (int)s->plan.shards ? 0 : failed("no leaders within %d s", PATIENCE_MS / 1000);
}

static int create(struct story *s)
{
    const struct vshard_attribute times = { VSHARD_ATTRIBUTE_INT64, "times" };
    const struct vshard_collection c = { .size = sizeof c,
                                         .dim = s->set.dim,
                                         .metric = s->plan.metric,
                                         .element = s->set.element,
                                         .shards = s->plan.shards,
                                         .replicas = s->plan.replicas,
                                         .attribute_count = 1,
                                         .attributes = &times,
                                         .name = "words" };
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_CREATE,
                                         .timeout_ns = PATIENCE_MS * ms,
                                         .collection = &c };
    uint64_t end = nodes_now() + PATIENCE_MS * ms;
    int rc;

    /* Until the founders are written down there is nowhere to place replicas. */
    do {
        nodes_pump(s->nodes, nodes_now() + 50 * ms, NULL);
        rc = vshard_node_admin(nodes_at(s->nodes, 1), nodes_now(), &a);
    } while (rc == VSHARD_EBUSY && nodes_now() < end);
    if (rc != VSHARD_OK)
        return failed("creating: %s", vshard_strerror(rc));
    s->asked[0].kind = FOR_ADMIN;
    s->under_way = 1;
    if (drain(s, "creating", 2 * PATIENCE_MS / 1000) != 0 || s->broken)
        return -1;
    return wait_for_leaders(s);
}

static int found(struct story *s)
{
    const struct nodes_plan plan = { .count = s->plan.nodes,
                                     .workers = s->plan.threads,
                                     .folder = s->folder,
                                     .done = on_done,
                                     .ctx = s };
    double start = seconds();

    s->nodes = nodes_open(&plan);
    if (s->nodes == NULL || create(s) != 0)
        return -1;
    say("cluster", "%u nodes, %u shards, %u replicas each; leaders after %.1f s", s->plan.nodes,
        s->plan.shards, s->plan.replicas, seconds() - start);
    return 0;
}

/* Logs take their first segments at once; said before they run out of it. */
static int check_space(const struct story *s)
{
    uint64_t need = (uint64_t)s->plan.nodes * (40u << 20) +
                    4 * s->plan.replicas * s->set.rows * (uint64_t)s->set.row_bytes;
    struct statvfs at;

    if (statvfs(s->folder, &at) != 0 || (uint64_t)at.f_bavail * at.f_frsize >= need)
        return 0;
    return failed("%s: about %llu MB are needed there, and %llu are free; --dir or TMPDIR names "
                  "another place",
                  s->folder, (unsigned long long)(need >> 20),
                  (unsigned long long)((uint64_t)at.f_bavail * at.f_frsize >> 20));
}

/* ---- loading ---- */

/* Entries that some replica has not applied. */
static uint64_t behind(struct story *s)
{
    struct vshard_shard_status all[SHARDS_MAX];
    uint64_t committed[SHARDS_MAX] = { 0 }, sum = 0;
    size_t count = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 1; i <= s->plan.nodes; i++) {
            if (nodes_at(s->nodes, i) == NULL ||
                vshard_node_shards(nodes_at(s->nodes, i), "words", all, SHARDS_MAX, &count) !=
                    VSHARD_OK)
                continue;
            for (size_t k = 0; k < count; k++) {
                if (all[k].here && pass == 0 && all[k].committed > committed[k])
                    committed[k] = all[k].committed;
                if (all[k].here && pass == 1)
                    sum += committed[k] - all[k].applied;
            }
        }
    }
    return sum;
}

static int catch_up(struct story *s, const char *phase)
{
    uint64_t first = behind(s), left;

    while ((left = behind(s)) != 0) {
        nodes_pump(s->nodes, nodes_now() + 20 * ms, NULL);
        view_show(s, phase, first - (left < first ? left : first), first);
        if (stop_wanted())
            return -1;
    }
    return 0;
}

static int load(struct story *s)
{
    double start = seconds(), durable;
    size_t at = 0, turn = 0;
    char a[DIGITS_MAX], b[DIGITS_MAX];

    view_begin();
    while (at < s->set.rows || s->under_way != 0) {
        while (at < s->set.rows && s->under_way < LOADS) {
            size_t count = s->set.rows - at < BATCH ? s->set.rows - at : BATCH;

            if (ask_load(s, at, count, alive_node(s, turn++)) != 0)
                break;
            at += count;
        }
        s->answered = 0;
        nodes_pump(s->nodes, nodes_now() + 20 * ms, &s->answered);
        view_show(s, "load", at, s->set.rows);
        if (s->broken || stop_wanted())
            return -1;
    }
    durable = seconds() - start;
    if (catch_up(s, "apply") != 0)
        return -1;
    view_end();
    say("load", "%s vectors a second until durable, %s until all replicas had applied them",
        grouped(a, (uint64_t)((double)s->set.rows / durable)),
        grouped(b, (uint64_t)((double)s->set.rows / (seconds() - start))));
    return 0;
}

/* ---- measuring ---- */

static int ask_all(struct story *s, uint32_t why, size_t count)
{
    size_t at = 0;

    view_begin();
    while (at < count || s->under_way != 0) {
        while (at < count && s->under_way < READS && ask_read(s, why, at, alive_node(s, at)) == 0)
            at++;
        s->answered = 0;
        nodes_pump(s->nodes, nodes_now() + 20 * ms, &s->answered);
        view_show(s, why == FOR_EXACT ? "exact" : "search", at, count);
        if (s->broken || stop_wanted())
            return -1;
    }
    view_end();
    return 0;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double percentile(struct story *s, double part)
{
    if (s->latency_count == 0)
        return 0;
    qsort(s->latency, s->latency_count, sizeof *s->latency, by_value);
    return (double)s->latency[(size_t)((double)(s->latency_count - 1) * part)] * 1e-3;
}

/* Judged by distance: an answer as near as the last of the exact ones is right. */
static double recall(const struct story *s, size_t count)
{
    size_t right = 0, wanted = 0;

    for (size_t q = 0; q < count; q++) {
        uint32_t n = s->exact_count[q];
        float last = n != 0 ? s->exact[q * NEAREST + n - 1].distance : 0;

        wanted += n;
        for (uint32_t i = 0; i < s->found_count[q] && i < n; i++)
            right += s->found[q * NEAREST + i].distance <= last * 1.000001f + 1e-7f;
    }
    return wanted != 0 ? (double)right / (double)wanted : 1;
}

/* Words, and those that were found nearest to each, in whatever shard they are. */
static void show_words(const struct story *s, const char *title, size_t first, size_t end)
{
    char line[512], name[32];

    for (size_t q = first; q < end && q < s->set.query_words.count; q++) {
        const struct vshard_merge_hit *hits = s->found + q * NEAREST;
        size_t at = 0;

        for (uint32_t i = 0; i < s->found_count[q] && i < WORDS_SHOWN; i++)
            at += (size_t)snprintf(line + at, sizeof line - at, "%s%.24s", i != 0 ? ", " : "",
                                   set_name(&s->set.base_words, hits[i].key.lo, name));
        say(q == first ? title : "", "%s%s%s: %s", strong_on(),
            set_name(&s->set.query_words, q, name), plain_on(), line);
    }
}

static int measure(struct story *s, double *quality, double *qps)
{
    size_t count = s->set.queries < ASKED_MAX ? s->set.queries : ASKED_MAX;
    double start;

    if (ask_all(s, FOR_EXACT, count) != 0)
        return -1;
    s->latency_count = 0;
    start = seconds();
    for (int round = 0; round < 3; round++) {
        if (ask_all(s, FOR_RECALL, count) != 0)
            return -1;
    }
    *qps = 3 * (double)count / (seconds() - start);
    *quality = recall(s, count);
    say("search", "recall@10 %.4f; %.0f a second, each asking %u shards; p50 %.0f us, p99 %.0f us",
        *quality, *qps, s->plan.shards, percentile(s, 0.5), percentile(s, 0.99));
    show_words(s, "nearest", 0, WORDS / 2);
    return 0;
}

/* ---- changed while it is searched ---- */

static uint32_t count_kind(const struct story *s, uint32_t kind)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < FLIGHT; i++)
        count += s->asked[i].kind == kind;
    return count;
}

static void change_and_ask(struct story *s, size_t thirds, size_t *at, size_t *turn)
{
    size_t count = s->set.queries < ASKED_MAX ? s->set.queries : ASKED_MAX;

    while (*at < thirds && count_kind(s, FOR_WRITE) < LIVE_LOADS) {
        size_t rows = thirds - *at < LIVE_BATCH ? thirds - *at : LIVE_BATCH;

        if (ask_write(s, *at * THIRD, rows, alive_node(s, *at)) != 0)
            break;
        *at += rows;
    }
    while (count_kind(s, FOR_LIVE) < READS &&
           ask_read(s, FOR_LIVE, *turn % count, alive_node(s, *turn)) == 0)
        ++*turn;
}

/* Until all replicas have taken in what was written. */
static int live(struct story *s)
{
    size_t thirds = (s->set.rows + THIRD - 1) / THIRD, at = 0, turn = 0;
    size_t count = s->set.queries < ASKED_MAX ? s->set.queries : ASKED_MAX;
    uint64_t reads = s->reads;
    double start = seconds();
    char a[DIGITS_MAX], b[DIGITS_MAX];

    s->latency_count = 0;
    view_begin();
    while (at < thirds || turn < count || count_kind(s, FOR_WRITE) != 0 || behind(s) != 0) {
        change_and_ask(s, thirds, &at, &turn);
        s->answered = 0;
        nodes_pump(s->nodes, nodes_now() + 5 * ms, &s->answered);
        view_show(s, "live", at, thirds);
        if (s->broken || stop_wanted())
            return -1;
    }
    if (drain(s, "requests", 20) != 0)
        return -1;
    view_end();
    say("live",
        "%s words written again in %.1f s; of %s searches meanwhile %llu failed, recall@10 %.4f, "
        "p99 %.0f us",
        grouped(a, thirds), seconds() - start, grouped(b, s->reads - reads),
        (unsigned long long)s->reads_failed, recall(s, count), percentile(s, 0.99));
    s->reads_failed = s->reads_partial = 0;
    return 0;
}

/* ---- the storm ---- */

/* Searches as fast as they are answered, and writes at a pace that replicas can apply:
 * a row that is replaced in a graph costs as much as ten searches. */
static void keep_asking(struct story *s, size_t *turn)
{
    uint32_t reads = count_kind(s, FOR_READ), writes = count_kind(s, FOR_WRITE);
    uint64_t due = (nodes_now() - s->storm_began_ns) / (1000000000 / WRITES_A_SECOND);

    for (; reads < READS; reads++) {
        size_t q = (*turn)++;

        if (ask_read(s, FOR_READ, q % s->set.queries, alive_node(s, q)) != 0)
            break;
    }
    for (; writes < WRITES && s->storm_writes < due; writes++) {
        size_t w = (*turn)++, row = w * 7919 % s->set.rows;

        /* Of two writes at once either may be applied last: the check at the end could not
         * tell a lost one from an overtaken one. */
        if (is_being_written(s, row))
            continue;
        if (ask_write(s, row, 1, alive_node(s, w)) != 0)
            break;
        s->storm_writes++;
    }
}

static int storm(struct story *s, const char *phase, uint64_t for_ns, size_t *turn)
{
    uint64_t start = nodes_now(), end = start + for_ns;

    while (nodes_now() < end) {
        keep_asking(s, turn);
        s->answered = 0;
        nodes_pump(s->nodes, nodes_now() + 5 * ms, &s->answered);
        view_show(s, phase, (nodes_now() - start) / ms, for_ns / ms);
        if (stop_wanted())
            return -1;
    }
    return 0;
}

/* What was asked of the dead node gets no answer; nobody waits for it. */
static void forget(struct story *s, uint32_t node)
{
    for (uint32_t i = 0; i < FLIGHT; i++) {
        if (s->asked[i].kind != 0 && s->asked[i].node == node) {
            s->asked[i].kind = 0;
            s->under_way--;
        }
    }
}

static uint32_t busiest(struct story *s)
{
    uint32_t node = 1;
    int most = 0;

    for (uint32_t i = 1; i <= s->plan.nodes; i++) {
        int led = shards_led(s, i, NULL);

        if (led > most) {
            most = led;
            node = i;
        }
    }
    return node;
}

static int kill_leader(struct story *s, size_t *turn)
{
    uint64_t reads = s->reads;
    double quiet;
    int led;

    s->latency_count = 0;
    s->storm_began_ns = nodes_now();
    view_begin();
    if (storm(s, "calm", CALM_MS * ms, turn) != 0)
        return -1;
    quiet = percentile(s, 0.99);
    s->latency_count = 0;
    while (shards_led(s, busiest(s), NULL) == 0) { /* leaders are just elected */
        if (storm(s, "calm", 20 * ms, turn) != 0)
            return -1;
    }
    s->killed = busiest(s);
    led = shards_led(s, s->killed, s->led);
    s->killed_at_ns = nodes_now();
    nodes_kill(s->nodes, s->killed);
    forget(s, s->killed);
    do {
        if (storm(s, "storm", STORM_MS * ms, turn) != 0)
            return -1;
    } while (s->failover_ns == 0 && nodes_now() < s->killed_at_ns + PATIENCE_MS * ms);
    view_end();
    if (s->failover_ns == 0)
        return failed("no shard of the dead leader has taken a write within %d s", PATIENCE_MS / 1000);
    say("kill",
        "node %u, leader of %d, died in mid-query; its shards took writes again after %.0f ms",
        s->killed, led, (double)s->failover_ns * 1e-6);
    say("",
        "of %llu searches meanwhile %llu failed, %llu were partial; p99 %.0f us, before %.0f us",
        (unsigned long long)(s->reads - reads), (unsigned long long)s->reads_failed,
        (unsigned long long)s->reads_partial, percentile(s, 0.99), quiet);
    if (ask_all(s, FOR_RECALL, s->set.queries < WORDS ? s->set.queries : WORDS) != 0)
        return -1;
    show_words(s, "nearest", WORDS / 2, WORDS); /* one node is still dead */
    return 0;
}

static int revive(struct story *s)
{
    double start = seconds();
    int rc = nodes_revive(s->nodes, s->killed);

    if (rc != VSHARD_OK)
        return failed("node %u does not open again: %s", s->killed, vshard_strerror(rc));
    nodes_pump(s->nodes, nodes_now() + 300 * ms, NULL);
    view_begin();
    if (drain(s, "requests", 20) != 0 || catch_up(s, "revive") != 0)
        return -1;
    view_end();
    say("revive", "node %u opened its files again and had caught up after %.1f s", s->killed,
        seconds() - start);
    return 0;
}

/* Every row that was written in the storm, and some of the others. */
static int check(struct story *s)
{
    size_t step = s->set.rows / CHECKED_MAX + 1, checked = 0;
    char a[DIGITS_MAX], b[DIGITS_MAX];

    view_begin();
    for (size_t row = 0; row < s->set.rows || s->under_way != 0;) {
        while (row < s->set.rows && s->under_way < READS) {
            if ((s->tried[row] != 0 || row % step == 0)) {
                if (ask_check(s, row, alive_node(s, row)) != 0)
                    break;
                checked++;
            }
            row++;
        }
        s->answered = 0;
        nodes_pump(s->nodes, nodes_now() + 20 * ms, &s->answered);
        view_show(s, "check", row, s->set.rows);
        if (stop_wanted())
            return -1;
    }
    view_end();
    say("check", "%s rows fetched, linearizable; %s writes were acknowledged, %llu are lost",
        grouped(a, checked), grouped(b, s->writes - s->writes_late), (unsigned long long)s->lost);
    return 0;
}

static int run(struct story *s)
{
    double quality = 0, qps = 0;
    size_t turn = 0;
    int rc = prepare(s);

    if (rc == 0)
        rc = find_owners(s);
    if (rc == 0)
        rc = make_folder(s);
    if (rc == 0)
        rc = check_space(s);
    if (rc == 0)
        rc = found(s);
    if (rc == 0)
        rc = load(s);
    if (rc == 0)
        rc = measure(s, &quality, &qps);
    if (rc == 0)
        rc = live(s);
    if (rc == 0)
        rc = kill_leader(s, &turn);
    if (rc == 0)
        rc = revive(s);
    if (rc == 0)
        rc = check(s);
    if (rc == 0 && s->lost != 0)
        rc = failed("%llu acknowledged writes are lost", (unsigned long long)s->lost);
    if (rc == 0)
        printf("demo: ok recall@10=%.4f qps=%.0f failover_ms=%.0f lost=%llu\n", quality, qps,
               (double)s->failover_ns * 1e-6, (unsigned long long)s->lost);
    return rc;
}

static void listen(void)
{
    struct sigaction action = { .sa_flags = SA_RESTART };

    action.sa_handler = stop;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
    static struct story story;
    int rc;

    screen_init();
    rc = read_options(&story.plan, argc, argv);
    if (rc != 0)
        return rc < 0 ? 2 : 0;
    listen();
    rc = run(&story);
    nodes_close(story.nodes);
    remove_folder(&story);
    set_free(&story.set);
    free(story.exact);
    free(story.found);
    free(story.exact_count);
    free(story.found_count);
    free(story.latency);
    free(story.version);
    free(story.tried);
    free(story.owner);
    if (rc == 0)
        rc = screen_fini();
    return rc == 0 ? 0 : 1;
}
