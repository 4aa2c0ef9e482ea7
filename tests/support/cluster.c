/* cluster.c - nodes in one process on virtual time. */
#include "support/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/node.h"
#include "support/random.h"

enum { NET_MIN_NS = 50000, ITEM_NS = 20000, LATE_NS = 500000000 };

static const char home[] = "home";

uint64_t cluster_random(struct cluster *c, uint64_t below)
{
    return random_below(&c->random, below);
}

/* ---- the network: a heap by time ---- */

static bool before(const struct cluster_message *a, const struct cluster_message *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void push(struct cluster *c, struct cluster_message m)
{
    size_t i = c->message_count++;

    if (c->message_count > c->message_cap) {
        c->message_cap = 2 * c->message_cap + 256;
        c->message = realloc(c->message, c->message_cap * sizeof *c->message);
    }
    m.order = ++c->order;
    for (; i > 0 && before(&m, &c->message[(i - 1) / 2]); i = (i - 1) / 2)
        c->message[i] = c->message[(i - 1) / 2];
    c->message[i] = m;
}

static struct cluster_message pop(struct cluster *c)
{
    struct cluster_message top = c->message[0], last = c->message[--c->message_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < c->message_count) {
        if (child + 1 < c->message_count && before(&c->message[child + 1], &c->message[child]))
            child++;
        if (!before(&c->message[child], &last))
            break;
        c->message[i] = c->message[child];
        i = child;
    }
    if (c->message_count != 0)
        c->message[i] = last;
    return top;
}

static void on_send(void *ctx, uint64_t to, const void *bytes, size_t count)
{
    struct cluster_node *n = ctx;
    struct cluster *c = n->cluster;
    uint32_t copies = cluster_random(c, 1000) < c->repeat_per_mille ? 2 : 1;

    c->sent++;
    if (to == 0 || to > c->count)
        return;
    if (cluster_random(c, 1000) < c->lose_per_mille) {
        c->lost++;
        return;
    }
    for (uint32_t i = 0; i < copies; i++) {
        struct cluster_message m = { .from = n->id, .to = to, .count = count };

        m.at_ns =
            c->now + NET_MIN_NS + n->slow_ns + (c->spread_ns ? cluster_random(c, c->spread_ns) : 0);
        if (i != 0) /* a repetition may come when all has changed */
            m.at_ns += cluster_random(c, LATE_NS);
        m.bytes = malloc(count);
        memcpy(m.bytes, bytes, count);
        push(c, m);
    }
}

/* ---- a store that has the map ---- */

static void post(struct cluster *c, struct cluster_message m, const void *bytes)
{
    m.at_ns = c->now + NET_MIN_NS + cluster_random(c, c->spread_ns + 1);
    m.bytes = malloc(m.count + 1);
    if (m.count != 0)
        memcpy(m.bytes, bytes, m.count);
    push(c, m);
}

static void on_put(void *ctx, uint64_t version, const void *bytes, size_t count)
{
    struct cluster_node *n = ctx;

    post(n->cluster,
         (struct cluster_message){
             .from = n->id, .count = count, .version = version, .life = n->life },
         bytes);
}

static void tell_map(struct cluster *c, uint64_t id)
{
    post(c, (struct cluster_message){ .to = id, .count = c->map_bytes, .life = c->node[id].life },
         c->map);
}

/* Compare and swap. Who was first is told to all, by and by. */
static void store(struct cluster *c, const struct cluster_message *m)
{
    struct cluster_message answer = { .to = m->from, .version = m->version, .life = m->life };

    if (m->version == c->map_version + 1) {
        free(c->map_before);
        c->map_before = c->map;
        c->map_before_bytes = c->map_bytes;
        c->map = malloc(m->count);
        memcpy(c->map, m->bytes, m->count);
        c->map_bytes = m->count;
        c->map_version = m->version;
        for (uint64_t id = 1; id <= c->count; id++)
            tell_map(c, id);
    } else {
        c->overtaken++;
        answer.status = VSHARD_ESTALE;
        tell_map(c, m->from);
    }
    if (cluster_random(c, 1000) < c->lose_per_mille)
        answer.status = VSHARD_EIO;
    post(c, answer, NULL);
}

static void store_event(struct cluster *c, struct cluster_message *m)
{
    struct cluster_node *n = &c->node[m->to];
    int rc = VSHARD_OK;

    if (c->store_away) {
        m->at_ns = c->now + LATE_NS / 50;
        push(c, *m);
        return;
    }
    if (m->to == 0)
        store(c, m);
    else if (n->node != NULL && n->life == m->life && m->version != 0)
        vshard_node_map_put(n->node, c->now, m->version, m->status);
    else if (n->node != NULL && n->life == m->life)
        rc = vshard_node_map(n->node, c->now, m->count != 0 ? m->bytes : NULL, m->count);
    c->disputed += rc != VSHARD_OK && rc != VSHARD_ESTALE && rc != VSHARD_EVERSION;
    free(m->bytes);
}

/* ---- answers ---- */

static void on_done(void *ctx, const struct vshard_node_done *d)
{
    struct cluster_node *n = ctx;
    struct cluster_answer *a = &n->cluster->answer[d->tag % CLUSTER_ANSWERS];

    a->tag = d->tag;
    a->kind = d->kind;
    a->at_ns = n->cluster->now;
    a->times++;
    a->status = d->status;
    a->shards = d->shards;
    a->shards_answered = d->shards_answered;
    a->hedges = d->hedges;
    a->limits = d->limits;
    a->version = d->version;
    a->rows = d->rows;
    a->distances = d->distances;
    a->hit_count = d->hit_count < CLUSTER_HITS ? d->hit_count : CLUSTER_HITS;
    a->position_count =
        d->position_count < CLUSTER_POSITIONS ? d->position_count : CLUSTER_POSITIONS;
    a->payload_bytes = d->payload_bytes;
    a->value_count = d->value_count < CLUSTER_VALUES ? d->value_count : CLUSTER_VALUES;
    for (uint32_t i = 0; i < a->value_count; i++)
        memcpy(a->value[i].bytes, d->values[i].values, d->values[i].width);
    if (a->hit_count != 0)
        memcpy(a->hits, d->hits, a->hit_count * sizeof *a->hits);
    if (a->position_count != 0)
        memcpy(a->positions, d->positions, a->position_count * sizeof *a->positions);
    if (d->vector_bytes != 0 && d->vector_bytes <= sizeof a->vector)
        memcpy(a->vector, d->vector, d->vector_bytes);
    if (d->payload_bytes != 0 && d->payload_bytes <= sizeof a->payload)
        memcpy(a->payload, d->payload, d->payload_bytes);
}

/* ---- nodes ---- */

/* So that all that a cluster does follows from its seed. */
static int draw(void *ctx, void *bytes, size_t count)
{
    unsigned char *to = bytes;

    for (size_t i = 0; i < count; i++)
        to[i] = (unsigned char)cluster_random(ctx, 256);
    return 0;
}

static void format(struct cluster_node *n, bool joins)
{
    struct cluster *c = n->cluster;
    const struct vshard_entropy entropy = { draw, c };
    uint64_t founders[CLUSTER_NODES];
    struct vshard_node_birth b = { .size = sizeof b,
                                   .cluster = { 0xc1, 0x57e2 },
                                   .node = n->id,
                                   .founders = founders,
                                   .founder_count = joins ? 0 : c->founders,
                                   .flags = joins ? VSHARD_NODE_JOINS : 0,
                                   .region = n->region,
                                   .path = home,
                                   .storage = fault_storage_hook(n->disk),
                                   .entropy = &entropy };
    int rc;

    for (uint32_t i = 0; i < c->founders; i++)
        founders[i] = i + 1;
    rc = vshard_node_format(&b);
    if (rc != VSHARD_OK) {
        fprintf(stderr, "cluster: format: %s\n", vshard_strerror(rc));
        abort();
    }
}

static void new_disk(struct cluster_node *n)
{
    fault_storage_destroy(n->disk);
    n->disk = fault_storage_create(cluster_random(n->cluster, UINT32_MAX));
    fault_storage_mkdir(n->disk, home);
    fault_storage_refuse_maps(n->disk, 1);
}

int cluster_start(struct cluster *c, uint64_t id)
{
    struct cluster_node *n = &c->node[id];
    const struct vshard_node_host host = {
        .size = sizeof host,
        .ctx = n,
        .send = on_send,
        .done = on_done,
        .put_map = c->hosted ? on_put : NULL,
    };
    struct vshard_node_options o = c->options;

    o.size = sizeof o;
    o.node = id;
    o.path = home;
    o.host = &host;
    o.storage = fault_storage_hook(n->disk);
    o.logger = c->logger;
    n->disk_at = 0;
    fault_storage_defer(n->disk, 0); /* opening waits for each request */
    n->opened = vs_node_open(&o, n->level != 0 ? n->level : VS_LEVEL, c->now, &n->node);
    fault_storage_defer(n->disk, c->disk_ns != 0);
    n->life++;
    n->taken = 0;
    if (c->hosted)
        tell_map(c, id);
    return n->opened;
}

void cluster_kill(struct cluster *c, uint64_t id)
{
    struct cluster_node *n = &c->node[id];
    const struct fault_crash crash = { .seed = cluster_random(c, UINT32_MAX) };
    struct fault_storage *after;

    if (n->node == NULL)
        return;
    after = fault_storage_after(n->disk, &crash);
    fault_storage_defer(n->disk, 0);
    vshard_node_close(n->node);
    n->node = NULL;
    fault_storage_destroy(n->disk);
    n->disk = after;
    fault_storage_refuse_maps(n->disk, 1);
}

int cluster_upgrade(struct cluster *c, uint64_t id, uint32_t level)
{
    cluster_kill(c, id);
    c->node[id].level = level;
    return cluster_start(c, id);
}

static void ask_to_join(struct cluster *c, uint64_t id, uint64_t peer)
{
    const struct vshard_node_admin join = { .size = sizeof join,
                                            .op = VSHARD_ADMIN_JOIN,
                                            .node = peer,
                                            .tag = 4000 + id,
                                            .timeout_ns = 60000 * CLUSTER_MS };

    vshard_node_admin(c->node[id].node, c->now, &join);
}

void cluster_join(struct cluster *c, uint64_t id, uint64_t peer)
{
    struct cluster_node *n = &c->node[id];

    vshard_node_close(n->node);
    n->node = NULL;
    new_disk(n);
    format(n, true);
    if (cluster_start(c, id) == VSHARD_OK)
        ask_to_join(c, id, peer);
}

static struct cluster *make(uint32_t founders, uint32_t count, uint64_t seed,
                            const struct vshard_node_options *options, uint32_t hosted)
{
    struct cluster *c = calloc(1, sizeof *c);

    c->now = 1000 * CLUSTER_MS;
    c->random = seed;
    c->founders = founders;
    c->count = count;
    c->hosted = hosted;
    c->spread_ns = 100000;
    c->answer = calloc(CLUSTER_ANSWERS, sizeof *c->answer);
    if (options != NULL)
        c->options = *options;
    c->logger = c->options.logger;
    for (uint64_t id = 1; id <= count; id++) {
        c->node[id].cluster = c;
        c->node[id].id = id;
        new_disk(&c->node[id]);
        if (id > founders)
            continue;
        format(&c->node[id], hosted);
        if (cluster_start(c, id) != VSHARD_OK) {
            fprintf(stderr, "cluster: open: %s\n", vshard_strerror(c->node[id].opened));
            abort();
        }
        if (hosted)
            ask_to_join(c, id, id);
    }
    return c;
}

struct cluster *cluster_create(uint32_t founders, uint32_t count, uint64_t seed,
                               const struct vshard_node_options *options)
{
    return make(founders, count, seed, options, 0);
}

struct cluster *cluster_create_hosted(uint32_t founders, uint32_t count, uint64_t seed,
                                      const struct vshard_node_options *options)
{
    return make(founders, count, seed, options, 1);
}

void cluster_destroy(struct cluster *c)
{
    for (uint64_t id = 1; id <= c->count; id++) {
        vshard_node_close(c->node[id].node);
        fault_storage_destroy(c->node[id].disk);
    }
    for (size_t i = 0; i < c->message_count; i++)
        free(c->message[i].bytes);
    free(c->message);
    free(c->map);
    free(c->map_before);
    free(c->answer);
    free(c);
}

/* ---- time ---- */

static uint64_t wants(const struct cluster *c, const struct cluster_node *n)
{
    uint64_t at = n->node != NULL ? vshard_node_deadline_ns(n->node) : UINT64_MAX;

    if (at == 0)
        at = c->now + ITEM_NS; /* an item of work takes its time */
    if (at < c->now + 1000)
        at = c->now + 1000;
    at = at < n->paused_until ? n->paused_until : at;
    return n->disk_at != 0 && n->disk_at < at ? n->disk_at : at;
}

/* Its storage begins to work on what has been submitted, or is done with it. */
static void disk(struct cluster *c, struct cluster_node *n)
{
    if (n->disk_at != 0 && n->disk_at <= c->now) {
        n->disk_at = 0;
        fault_storage_drain(n->disk);
    }
    if (n->disk_at == 0 && n->node != NULL && fault_storage_queued(n->disk) != 0)
        n->disk_at = c->now + 1000 + cluster_random(c, c->disk_ns);
}

/* A call that comes now does an item, if one waits. */
static void work(struct cluster *c, struct cluster_node *n)
{
    if (c->step_ns != 0 && vshard_node_deadline_ns(n->node) == 0)
        n->paused_until = c->now + c->step_ns;
}

static void tick(struct cluster *c, struct cluster_node *n)
{
    disk(c, n);
    if (n->node != NULL && n->paused_until <= c->now) {
        work(c, n);
        vshard_node_tick(n->node, c->now);
    }
    disk(c, n);
}

static void deliver(struct cluster *c)
{
    struct cluster_message m = pop(c);
    struct cluster_node *from = &c->node[m.from], *to = &c->node[m.to];

    if (to->paused_until > c->now) { /* it waits in the socket */
        m.at_ns = to->paused_until;
        push(c, m);
        return;
    }
    if (m.from == 0 || m.to == 0) {
        store_event(c, &m);
        disk(c, to);
        return;
    }
    if (to->node != NULL && from->side == to->side) {
        work(c, to);
        vshard_node_recv(to->node, c->now, m.bytes, m.count);
        to->taken += m.count;
    } else {
        c->lost++;
    }
    disk(c, to);
    free(m.bytes);
}

/* One event, not after `end`. */
static bool event(struct cluster *c, uint64_t end)
{
    uint64_t at = c->message_count != 0 ? c->message[0].at_ns : UINT64_MAX, id = 0;

    for (uint64_t i = 1; i <= c->count; i++) {
        uint64_t w = wants(c, &c->node[i]);

        if (w < at) {
            at = w;
            id = i;
        }
    }
    if (at > end) {
        c->now = end;
        return false;
    }
    c->now = at > c->now ? at : c->now;
    if (id == 0)
        deliver(c);
    else
        tick(c, &c->node[id]);
    return true;
}

void cluster_run(struct cluster *c, uint64_t ns)
{
    uint64_t end = c->now + ns;

    while (event(c, end))
        continue;
}

struct cluster_answer *cluster_wait(struct cluster *c, uint64_t tag, uint64_t ns)
{
    struct cluster_answer *a = &c->answer[tag % CLUSTER_ANSWERS];
    uint64_t end = c->now + ns;

    while (a->times == 0 && event(c, end))
        continue;
    return a->times != 0 ? a : NULL;
}

uint64_t cluster_leader(struct cluster *c, const char *collection, uint32_t shard)
{
    struct vshard_shard_status s[64];
    uint64_t leader = 0, term = 0;
    size_t count;

    for (uint64_t id = 1; id <= c->count; id++) {
        if (c->node[id].node == NULL ||
            vshard_node_shards(c->node[id].node, collection, s, 64, &count) != VSHARD_OK ||
            shard >= count || s[shard].leader != id || s[shard].term < term)
            continue;
        leader = id;
        term = s[shard].term;
    }
    return leader;
}
