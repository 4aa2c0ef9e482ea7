/* node_threads.c - workers beside the control thread: nothing races, heartbeats keep their
 * rhythm, and control calls stay short.
 *
 * Method: three nodes in real time, one thread that makes all control calls, and two that
 * work for all nodes. 10,000 rows are written in one batch, then small ones over them, with
 * searches beside it and snapshots now and then. Leaders must stay what they were: an
 * election would mean that heartbeats were late. A canary, a thread that only sleeps, tells
 * whether the machine stood still, and then nobody is blamed. Meant above all for
 * ThreadSanitizer. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "support/cluster_ask.h"
#include "support/sanitized.h"

enum { ROWS = SANITIZED ? 1500 : 10000, SLOW = SANITIZED };
enum { NODES = 3, WORKERS = 2, MESSAGES = 1 << 16 };

struct rig;

struct member {
    struct rig *rig;
    uint64_t id;
    struct vshard_node *node;
    struct fault_storage *disk;
};

struct rig {
    struct member member[NODES + 1];
    struct {
        uint64_t to;
        size_t count;
        unsigned char *bytes;
    } message[MESSAGES];
    size_t first, last;
    int answered[64], status[64];
    uint32_t hits;
    uint64_t longest_ns; /* of a control call */
    atomic_int ending, work;
    pthread_t worker[WORKERS], canary;
    _Atomic uint64_t stood_still_ns; /* at most, as the canary saw it */
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void on_send(void *ctx, uint64_t to, const void *bytes, size_t count)
{
    struct rig *r = ((struct member *)ctx)->rig;
    size_t at = r->last++ % MESSAGES;

    cr_assert_lt(r->last - r->first, (size_t)MESSAGES);
    r->message[at].to = to;
    r->message[at].count = count;
    r->message[at].bytes = malloc(count);
    memcpy(r->message[at].bytes, bytes, count);
}

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    struct rig *r = ((struct member *)ctx)->rig;

    r->answered[d->tag]++;
    r->status[d->tag] = d->status;
    r->hits += d->hit_count;
}

static void on_wake(void *ctx, uint32_t what)
{
    struct rig *r = ((struct member *)ctx)->rig;

    if (what & VSHARD_WAKE_WORK)
        atomic_store(&r->work, 1);
}

static void *work(void *arg)
{
    struct rig *r = arg;
    const struct timespec nap = { 0, 200000 };

    while (!atomic_load(&r->ending)) {
        uint32_t done = 0;

        for (int i = 1; i <= NODES; i++)
            done += vshard_node_work(r->member[i].node);
        if (done == 0)
            nanosleep(&nap, NULL);
    }
    return NULL;
}

/* Only sleeps: how much longer than it wanted is the machine's. */
static void sleep_and_note(struct rig *r, long ns)
{
    const struct timespec nap = { 0, ns };
    uint64_t since = now_ns(), late, most = atomic_load(&r->stood_still_ns);

    nanosleep(&nap, NULL);
    late = now_ns() - since - (uint64_t)ns;
    while (late > most && !atomic_compare_exchange_weak(&r->stood_still_ns, &most, late))
        continue;
}

static void *watch_machine(void *arg)
{
    struct rig *r = arg;

    while (!atomic_load(&r->ending))
        sleep_and_note(r, 5 * MS);
    return NULL;
}

static void note(struct rig *r, uint64_t since)
{
    uint64_t ns = now_ns() - since;

    r->longest_ns = ns > r->longest_ns ? ns : r->longest_ns;
}

static void pump(struct rig *r)
{
    for (size_t through = r->last; r->first < through; r->first++) {
        size_t at = r->first % MESSAGES;
        uint64_t since = now_ns();

        vshard_node_recv(r->member[r->message[at].to].node, since, r->message[at].bytes,
                         r->message[at].count);
        note(r, since);
        free(r->message[at].bytes);
    }
    for (int i = 1; i <= NODES; i++) {
        uint64_t since = now_ns();

        vshard_node_tick(r->member[i].node, since);
        note(r, since);
    }
    sleep_and_note(r, 100000);
}

static int await(struct rig *r, uint64_t tag, uint64_t seconds)
{
    uint64_t end = now_ns() + seconds * 1000000000;

    while (r->answered[tag] == 0 && now_ns() < end)
        pump(r);
    cr_assert_eq(r->answered[tag], 1, "tag %d is answered %d times", (int)tag, r->answered[tag]);
    return r->status[tag];
}

static void start(struct rig *r)
{
    const uint64_t founders[] = { 1, 2, 3 };

    for (uint64_t id = 1; id <= NODES; id++) {
        struct member *m = &r->member[id];
        const struct vshard_node_host host = {
            .size = sizeof host, .ctx = m, .send = on_send, .done = on_done, .wake = on_wake
        };
        const struct vshard_node_birth birth = { .size = sizeof birth,
                                                 .cluster = { 1, 2 },
                                                 .node = id,
                                                 .founders = founders,
                                                 .founder_count = NODES,
                                                 .path = "home",
                                                 .storage = fault_storage_hook(
                                                     m->disk = fault_storage_create(id)) };
        const struct vshard_node_options o = { .size = sizeof o,
                                               .workers = WORKERS,
                                               .node = id,
                                               .search_ns = 60000 * MS,
                                               .write_ns = 60000 * MS,
                                               .snapshot_bytes = 300000,
                                               .election_ns = 1000 * MS,
                                               .path = "home",
                                               .host = &host,
                                               .storage = fault_storage_hook(m->disk) };

        m->rig = r;
        m->id = id;
        fault_storage_mkdir(m->disk, "home");
        cr_assert_eq(vshard_node_format(&birth), VSHARD_OK);
        cr_assert_eq(vshard_node_open(&o, now_ns(), &m->node), VSHARD_OK);
    }
    for (int i = 0; i < WORKERS; i++)
        cr_assert_eq(pthread_create(&r->worker[i], NULL, work, r), 0);
    cr_assert_eq(pthread_create(&r->canary, NULL, watch_machine, r), 0);
}

static int create_words_at_once(struct rig *r)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .shards = 2,
                                            .replicas = 3,
                                            .train_rows = 1024,
                                            .name = "words" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 1, .collection = &spec
    };
    uint64_t end = now_ns() + 20000 * MS;
    int rc = VSHARD_EBUSY;

    while (rc == VSHARD_EBUSY && now_ns() < end) {
        pump(r);
        rc = vshard_node_admin(r->member[1].node, now_ns(), &a);
    }
    return rc == VSHARD_OK ? await(r, 1, 60) : rc;
}

static int write_some(struct rig *r, uint64_t tag, uint64_t first, uint32_t count, uint64_t salt)
{
    struct vshard_key *keys = calloc(count, sizeof *keys);
    float *vectors = calloc((size_t)count * DIM, sizeof *vectors);
    const struct vshard_node_write w = { .size = sizeof w,
                                         .count = count,
                                         .tag = tag,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };
    int rc;

    for (uint32_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, first + i };
        vector_of(vectors + (size_t)i * DIM, first + i, salt);
    }
    r->answered[tag] = 0;
    rc = vshard_node_write(r->member[1 + tag % NODES].node, now_ns(), &w);
    free(keys);
    free(vectors);
    return rc;
}

static int search_some(struct rig *r, uint64_t tag, uint64_t key)
{
    float query[DIM];
    const struct vshard_node_search s = {
        .size = sizeof s, .k = 5, .tag = tag, .collection = "words", .query = query
    };

    vector_of(query, key, 1);
    r->answered[tag] = 0;
    return vshard_node_search(r->member[1 + tag % NODES].node, now_ns(), &s);
}

static uint64_t elections(struct rig *r)
{
    uint64_t sum = 0;

    for (int i = 1; i <= NODES; i++) {
        struct vshard_node_status s = { .size = sizeof s };

        vshard_node_status(r->member[i].node, &s);
        sum += s.elections;
    }
    return sum;
}

/* Whether shards are led by whom the map prefers: others hand over after some seconds, which is
 * an election, and nobody's lateness. */
static bool led_as_preferred(struct rig *r)
{
    struct vshard_shard_status s[2];
    size_t count = 0;

    if (vshard_node_shards(r->member[1].node, "words", s, 2, &count) != VSHARD_OK || count != 2)
        return false;
    return s[0].leader == s[0].members[0] && s[1].leader == s[1].members[0];
}

Test(node_threads, keep_the_rhythm_while_much_is_applied, .timeout = 120)
{
    static struct rig r;
    uint64_t before, turn = 0;

    start(&r);
    cr_assert_eq(create_words_at_once(&r), VSHARD_OK);
    for (uint64_t start = now_ns(); now_ns() < start + 3000 * MS || !led_as_preferred(&r);) {
        cr_assert_lt(now_ns(), start + 30000 * MS, "leaders are not those that are preferred");
        pump(&r);
    }
    before = elections(&r);
    r.longest_ns = 0;
    cr_assert_eq(write_some(&r, 2, 0, ROWS, 1), VSHARD_OK);
    for (int i = 0; i < 40; i++) {
        cr_assert_eq(search_some(&r, 3, turn), VSHARD_OK);
        if (r.answered[2] != 0 && r.answered[4 + i % 8] != 0)
            cr_assert_eq(r.status[4 + i % 8], VSHARD_OK);
        if (r.answered[2] != 0 && (i < 8 || r.answered[4 + i % 8] != 0))
            cr_assert_eq(write_some(&r, 4 + (uint64_t)i % 8, turn++ * 40, 40, 1), VSHARD_OK);
        cr_assert_eq(await(&r, 3, 60), VSHARD_OK);
        for (int k = 0; k < 20; k++)
            pump(&r);
    }
    cr_assert_eq(await(&r, 2, 60), VSHARD_OK);
    cr_assert_gt(r.hits, 0u);
    cr_expect(SLOW || atomic_load(&r.stood_still_ns) > 100 * MS || elections(&r) == before,
              "heartbeats were late");
    atomic_store(&r.ending, 1);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(r.worker[i], NULL);
    pthread_join(r.canary, NULL);
    for (int i = 1; i <= NODES; i++) {
        vshard_node_close(r.member[i].node);
        cr_expect_null(fault_storage_verdict(r.member[i].disk));
        fault_storage_destroy(r.member[i].disk);
    }
    while (r.first < r.last)
        free(r.message[r.first++ % MESSAGES].bytes);
}
