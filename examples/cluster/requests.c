/* requests.c - what the demo asks of the cluster, and what it makes of the answers. */
#include "story.h"

#include <stdlib.h>
#include <string.h>

#include "../demo/screen.h"

static const char collection[] = "words";

uint32_t alive_node(struct story *s, size_t turn)
{
    uint32_t at = (uint32_t)(turn % s->plan.nodes) + 1;

    while (nodes_at(s->nodes, at) == NULL)
        at = at % s->plan.nodes + 1;
    return at;
}

static struct asked *room(struct story *s, uint32_t why, uint32_t node, size_t item)
{
    for (uint32_t i = 0; i < FLIGHT; i++) {
        if (s->asked[i].kind != 0)
            continue;
        s->asked[i] = (struct asked){ nodes_now(), why, node, item, 1 };
        s->under_way++;
        return &s->asked[i];
    }
    return NULL;
}

static uint64_t tag_of(const struct story *s, const struct asked *a)
{
    return (uint64_t)(a - s->asked);
}

static int begun(struct story *s, struct asked *a, int rc)
{
    if (rc == VSHARD_OK)
        return 0;
    a->kind = 0;
    s->under_way--;
    return rc == VSHARD_EBUSY ? -1 : failed("a request is refused: %s", vshard_strerror(rc));
}

int ask_read(struct story *s, uint32_t why, size_t query, uint32_t node)
{
    struct asked *a = room(s, why, node, query);
    struct vshard_node_search search = { .size = sizeof search,
                                         .k = NEAREST,
                                         .ef_search = s->plan.ef,
                                         .collection = collection,
                                         .query = set_query(&s->set, query) };

    if (a == NULL)
        return -1;
    search.tag = tag_of(s, a);
    if (why == FOR_EXACT || why == FOR_RECALL) { /* these are compared, and must be whole */
        search.flags = VSHARD_NODE_WHOLE | (why == FOR_EXACT ? VSHARD_NODE_EXACT : 0);
        search.timeout_ns = 60000000000;
    }
    return begun(s, a, vshard_node_search(nodes_at(s->nodes, node), nodes_now(), &search));
}

int ask_load(struct story *s, size_t first, size_t count, uint32_t node)
{
    struct asked *a = room(s, FOR_LOAD, node, first);
    struct vshard_key *keys = calloc(count, sizeof *keys);
    struct vshard_node_write w = { .size = sizeof w,
                                   .count = (uint32_t)count,
                                   .timeout_ns = 60000000000,
                                   .collection = collection,
                                   .keys = keys,
                                   .vectors = set_row(&s->set, first) };
    int rc;

    if (a == NULL || keys == NULL) {
        free(keys);
        return -1;
    }
    w.tag = tag_of(s, a);
    for (size_t i = 0; i < count; i++)
        keys[i] = (struct vshard_key){ 0, first + i };
    rc = begun(s, a, vshard_node_write(nodes_at(s->nodes, node), nodes_now(), &w));
    free(keys);
    return rc;
}

int is_being_written(const struct story *s, size_t row)
{
    for (uint32_t i = 0; i < FLIGHT; i++) {
        if (s->asked[i].kind == FOR_WRITE && s->asked[i].item == row)
            return 1;
    }
    return 0;
}

/* The same vectors again, so that recall stays what it was, with how often they were written. */
int ask_write(struct story *s, size_t row, size_t count, uint32_t node)
{
    struct asked *a = room(s, FOR_WRITE, node, row);
    struct vshard_key *keys = calloc(count, sizeof *keys);
    int64_t *times = calloc(count, sizeof *times);
    char *vectors = malloc(count * s->set.row_bytes);
    const struct vshard_values values = { times, 0 };
    struct vshard_node_write w = { .size = sizeof w,
                                   .count = (uint32_t)count,
                                   .timeout_ns = 10000000000,
                                   .collection = collection,
                                   .keys = keys,
                                   .values = &values,
                                   .value_count = 1,
                                   .vectors = vectors };
    int rc = -1;

    if (a != NULL && keys != NULL && times != NULL && vectors != NULL) {
        w.tag = tag_of(s, a);
        a->count = count;
        for (size_t i = 0; i < count; i++) {
            size_t at = row + i * THIRD;

            keys[i] = (struct vshard_key){ 0, at };
            times[i] = (int64_t)++s->tried[at];
            memcpy(vectors + i * s->set.row_bytes, set_row(&s->set, at), s->set.row_bytes);
        }
        rc = begun(s, a, vshard_node_write(nodes_at(s->nodes, node), nodes_now(), &w));
    }
    free(vectors);
    free(times);
    free(keys);
    return rc;
}

int ask_check(struct story *s, size_t row, uint32_t node)
{
    struct asked *a = room(s, FOR_CHECK, node, row);
    struct vshard_node_fetch f = { .size = sizeof f,
                                   .consistency = VSHARD_READ_LINEARIZABLE,
                                   .timeout_ns = 60000000000,
                                   .key = { 0, row },
                                   .collection = collection };

    if (a == NULL)
        return -1;
    f.tag = tag_of(s, a);
    return begun(s, a, vshard_node_fetch(nodes_at(s->nodes, node), nodes_now(), &f));
}

/* ---- answers ---- */

static void took(struct story *s, uint64_t ns)
{
    if (s->latency_count < s->latency_cap)
        s->latency[s->latency_count++] = ns;
}

static void on_read(struct story *s, const struct asked *a, const struct vshard_node_done *d)
{
    struct vshard_merge_hit *to = a->kind == FOR_EXACT ? s->exact : s->found;
    uint32_t *count = a->kind == FOR_EXACT ? s->exact_count : s->found_count;

    s->reads++;
    s->reads_failed += d->status != VSHARD_OK;
    s->reads_partial += d->status == VSHARD_OK && d->shards_answered < d->shards;
    if (a->kind != FOR_EXACT)
        took(s, nodes_now() - a->at_ns);
    if (a->kind == FOR_READ || (a->kind == FOR_LIVE && d->status != VSHARD_OK))
        return;
    if (d->status != VSHARD_OK) {
        s->broken = failed("a search: %s", vshard_strerror(d->status));
        return;
    }
    count[a->item] = d->hit_count;
    memcpy(to + a->item * NEAREST, d->hits, d->hit_count * sizeof *d->hits);
}

/* The first write that a shard of the dead leader takes ends the outage. */
static void on_write(struct story *s, const struct asked *a, const struct vshard_node_done *d)
{
    s->writes += a->count;
    if (d->status != VSHARD_OK) {
        s->writes_late += a->count;
        return;
    }
    for (size_t i = 0; i < a->count; i++)
        s->version[a->item + i * THIRD]++;
    if (s->killed != 0 && s->failover_ns == 0 && s->led[s->owner[a->item]])
        s->failover_ns = nodes_now() - s->killed_at_ns;
}

static void on_check(struct story *s, const struct asked *a, const struct vshard_node_done *d)
{
    int64_t times = 0;

    if (d->status == VSHARD_OK)
        memcpy(&times, d->values[0].values, sizeof times);
    if (times == VSHARD_MISSING) /* it was loaded, and never written again */
        times = 0;
    if (d->status != VSHARD_OK || d->vector_bytes != s->set.row_bytes ||
        memcmp(d->vector, set_row(&s->set, a->item), s->set.row_bytes) != 0 ||
        (uint64_t)times < s->version[a->item])
        s->lost++;
}

void on_done(void *ctx, uint32_t at, const struct vshard_node_done *d)
{
    struct story *s = ctx;
    struct asked *a = &s->asked[d->tag];

    if (nodes_at(s->nodes, at) == NULL)
        return; /* its process is gone: nobody hears this; see forget() */
    switch (a->kind) {
    case FOR_EXACT:
    case FOR_RECALL:
    case FOR_LIVE:
    case FOR_READ: on_read(s, a, d); break;
    case FOR_WRITE: on_write(s, a, d); break;
    case FOR_CHECK: on_check(s, a, d); break;
    default:
        if (d->status != VSHARD_OK)
            s->broken = failed("a request: %s", vshard_strerror(d->status));
    }
    a->kind = 0;
    s->under_way--;
    s->answered = 1;
}

int drain(struct story *s, const char *what, double seconds_at_most)
{
    uint64_t end = nodes_now() + (uint64_t)(seconds_at_most * 1e9);

    while (s->under_way != 0 && nodes_now() < end)
        nodes_pump(s->nodes, nodes_now() + 5000000, NULL);
    return s->under_way == 0 ? 0 : failed("%s: no answer within %.0f s", what, seconds_at_most);
}
