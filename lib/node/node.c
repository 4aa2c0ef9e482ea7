/* node.c - the calls: each checks what it was given, lets something happen, and brings the
 * node to rest.
 *
 * Rest is vs_turn(): finished work is taken in, timers run, what the core wants is done,
 * frames leave, the log is polled until nothing new is durable, and last of all answers
 * are handed over. Without workers one item of work is done in between. */
#include "node/core.h"

#include <math.h>

enum { WITNESS_NS = 1000000000, ROUNDS = 64 };

/* ---- refusing ---- */

void vs_node_fail(struct vshard_node *n, int status, const char *what)
{
    const struct vs_field fields[] = { { "what", what, 0, NULL },
                                       { "status", vshard_strerror(status), 0, NULL } };

    if (n->failed == VSHARD_OK)
        vs_log(n->logger, VSHARD_LOG_ERROR, "node.stopped", fields, VS_COUNT(fields));
    if (n->failed == VSHARD_OK)
        n->failed = status;
}

int vs_node_refuse(const struct vshard_node *n, int status, const char *argument, int64_t value,
                   int64_t limit)
{
    return vs_refuse(n->logger, status, "node.refused", argument, value, limit);
}

void vs_node_event(const struct vshard_node *n, uint32_t level, const char *name, uint64_t group,
                   const char *text, int64_t value)
{
    const struct vs_field fields[] = { { "node", NULL, (int64_t)n->node, NULL },
                                       { "group", NULL, (int64_t)group, NULL },
                                       { "what", text, 0, NULL },
                                       { "value", NULL, value, NULL } };

    vs_log(n->logger, level, name, fields, VS_COUNT(fields));
}

/* ---- the turn ---- */

static void collect(struct vshard_node *n)
{
    struct vs_item *item;

    while ((item = vs_item_finished(n)) != NULL)
        vs_replica_finished(n, item);
}

static void wake_workers(struct vshard_node *n)
{
    uint32_t told = n->items.told;

    if (n->o.workers == 0 || vs_items_waiting(n) == 0 || told)
        return;
    n->items.told = 1;
    n->host.wake(n->host.ctx, VSHARD_WAKE_WORK);
}

static void idle(struct vshard_node *n)
{
    if (n->idle_since <= n->witnessed || n->now - n->idle_since < WITNESS_NS)
        return;
    n->witnessed = n->now;
    vshard_wal_witness(n->wal); /* makes the end of an idle log certain */
}

static void settle(struct vshard_node *n)
{
    for (int i = 0; i < ROUNDS && n->failed == VSHARD_OK; i++) {
        vs_todo_work(n);
        vs_steward_map(n);
        vs_flush_frames(n);
        if (!vs_poll_log(n) && n->todo_count == 0 && n->meta_seen)
            return;
    }
}

void vs_turn(struct vshard_node *n)
{
    struct vshard_raft_event time = vs_event(VSHARD_RAFT_TIME, 0);

    if (n->o.workers == 0)
        vs_item_work(n);
    collect(n);
    if (n->failed == VSHARD_OK && vshard_raft_deadline_ns(n->raft) <= n->now)
        vs_step(n, &time);
    settle(n);
    if (n->failed == VSHARD_OK) {
        vs_steward_open(n);
        vs_steward_time(n);
        vs_serve_time(n);
        vs_requests_time(n);
        for (uint32_t i = 0; i < n->replica_count; i++) {
            vs_replica_more(n, n->replica[i]);
            vs_replica_snapshot(n, n->replica[i]);
        }
        settle(n);
        idle(n);
    }
    while (n->failed != VSHARD_OK && n->requests != NULL) /* there is no other turn */
        vs_request_finish(n, n->requests, n->failed);
    vs_flush_frames(n);
    wake_workers(n);
    vs_flush_answers(n);
}

/* Refuses calls that a node may not take now, and takes note of the time. */
static int enter(struct vshard_node *n, uint64_t now_ns)
{
    if (n == NULL)
        return VSHARD_EINVAL;
    if (n->inside)
        return VSHARD_EBUSY;
    n->now = now_ns > n->now ? now_ns : n->now;
    return n->failed;
}

int vshard_node_recv(struct vshard_node *n, uint64_t now_ns, const void *bytes, size_t count)
{
    struct vshard_frame f = { .size = sizeof f };
    int rc = enter(n, now_ns);

    if (rc != VSHARD_OK)
        return rc;
    if (bytes == NULL)
        return vs_node_refuse(n, VSHARD_EINVAL, "bytes", 0, 0);
    rc = vshard_wire_decode(n->wire, bytes, count, &f);
    if (rc != VSHARD_OK) {
        n->frames_refused++;
        return rc;
    }
    n->frames_taken++;
    vs_receive(n, &f);
    vs_turn(n);
    return n->failed;
}

int vshard_node_tick(struct vshard_node *n, uint64_t now_ns)
{
    int rc = enter(n, now_ns);

    if (rc != VSHARD_OK)
        return rc;
    vs_turn(n);
    return n->failed;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t vshard_node_deadline_ns(const struct vshard_node *n)
{
    uint64_t at;

    if (n == NULL || n->failed != VSHARD_OK)
        return VS_NEVER;
    if (n->o.workers == 0 && vs_items_waiting((struct vshard_node *)(uintptr_t)n) != 0)
        return 0;
    if (n->todo_count != 0)
        return 0;
    at = sooner(vshard_raft_deadline_ns(n->raft), vs_requests_deadline(n));
    at = sooner(at, sooner(n->serve_at, sooner(n->open_ns, sooner(n->gossip_at, n->steward_at))));
    return n->pending_count != 0 || n->stuck != NULL ? sooner(at, n->now + 1000000) : at;
}

uint32_t vshard_node_work(struct vshard_node *n)
{
    uint32_t done = n != NULL ? vs_item_work(n) : 0;

    if (done != 0 && n->o.workers != 0)
        n->host.wake(n->host.ctx, VSHARD_WAKE_CONTROL);
    return done;
}

/* ---- requests ---- */

static int admit(struct vshard_node *n, const char *collection, const struct vs_collection **out)
{
    if (n->request_count >= n->o.max_requests)
        return vs_node_refuse(n, VSHARD_EBUSY, "requests", n->request_count, n->o.max_requests);
    if (collection == NULL)
        return vs_node_refuse(n, VSHARD_EINVAL, "collection", 0, 0);
    *out = vs_cluster_find(&n->meta, collection);
    return *out != NULL ? VSHARD_OK : vs_node_refuse(n, VSHARD_ENOTFOUND, "collection", 0, 0);
}

/* Begins what has been asked, or takes it back. */
static int begin(struct vshard_node *n, struct vs_request *q, int rc)
{
    if (q != NULL && rc != VSHARD_OK) {
        struct vs_request **link = &n->ended;

        vs_request_finish(n, q, rc);
        while (*link != q)
            link = &(*link)->next;
        *link = NULL;
        n->ended_end = link;
        vs_request_free(n, q);
        return rc;
    }
    if (q != NULL && q->kind == VSHARD_NODE_SEARCH && vs_cache_answer(n, q))
        vs_request_finish(n, q, VSHARD_OK);
    for (uint32_t i = 0; q != NULL && i < q->part_count && q->link != NULL; i++) {
        if (q->kind == VSHARD_NODE_WRITE)
            vs_write_ask(n, q, &q->part[i]);
        else if (q->kind == VSHARD_NODE_EXPORT)
            vs_export_begin(n, q);
        else if (q->kind != VSHARD_NODE_ADMIN)
            vs_read_ask(n, q, &q->part[i]);
    }
    vs_turn(n);
    return q == NULL ? VSHARD_ENOMEM : VSHARD_OK;
}

static int copy_positions(struct vshard_node *n, struct vs_request *q,
                          const struct vshard_position *positions, uint32_t count)
{
    if (count == 0)
        return VSHARD_OK;
    q->positions = vs_alloc(n->allocator, count * sizeof *positions);
    if (q->positions == NULL)
        return VSHARD_ENOMEM;
    q->position_count = count;
    memcpy(q->positions, positions, count * sizeof *positions);
    return VSHARD_OK;
}

static int check_fresh(struct vshard_node *n, uint32_t consistency,
                       const struct vshard_position *positions, uint32_t count)
{
    if (consistency > VSHARD_READ_LINEARIZABLE)
        return vs_node_refuse(n, VSHARD_EINVAL, "consistency", consistency,
                              VSHARD_READ_LINEARIZABLE);
    if (positions == NULL && count != 0)
        return vs_node_refuse(n, VSHARD_EINVAL, "positions", count, 0);
    return VSHARD_OK;
}

static int check_search(struct vshard_node *n, const struct vshard_node_search *s,
                        const struct vs_collection *c)
{
    struct vs_shard_plan plan;
    int rc;

    if (s->k == 0 || s->k > VSHARD_MERGE_K_MAX)
        return vs_node_refuse(n, s->k ? VSHARD_E2BIG : VSHARD_EINVAL, "k", s->k,
                              VSHARD_MERGE_K_MAX);
    if (s->query == NULL)
        return vs_node_refuse(n, VSHARD_EINVAL, "query", 0, 0);
    rc = check_fresh(n, s->consistency, s->positions, s->position_count);
    if (rc != VSHARD_OK)
        return rc;
    if ((s->flags & ~(uint32_t)(VSHARD_NODE_EXACT | VSHARD_NODE_WHOLE)) != 0)
        return vs_node_refuse(n, VSHARD_EINVAL, "flags", s->flags, VSHARD_NODE_WHOLE);
    if (s->where == NULL && s->where_bytes == 0)
        return VSHARD_OK;
    plan = vs_plan_of(n, c);
    return vs_plan_admits_where(&plan, s->where, s->where_bytes);
}

/* The collection's effort is not its indexes': it may be altered, and their options are part
 * of what replicas must agree on. */
static void put_ask(struct vs_out *o, const struct vshard_node_search *s, struct vshard_key key,
                    uint32_t vector_bytes)
{
    vs_put64(o, s->max_staleness_ns);
    vs_put_key(o, key);
    vs_put32(o, s->ef_search);
    vs_put_float(o, s->target_recall);
    vs_put32(o, s->where_bytes);
    vs_put32(o, vector_bytes);
    vs_put_bytes(o, s->where, s->where_bytes);
    vs_put_bytes(o, s->query, vector_bytes);
}

static uint32_t vector_bytes(const struct vs_collection *c)
{
    const struct vs_shard_plan plan = { .dim = c->spec.dim, .element = c->spec.element };

    return vs_plan_vector_bytes(&plan);
}

static int begin_search(struct vshard_node *n, struct vs_request *q,
                        const struct vshard_node_search *s, const struct vs_collection *c)
{
    const struct vshard_merge_options o = { .size = sizeof o,
                                            .k = s->k,
                                            .flags = VSHARD_MERGE_SETTLED,
                                            .allocator = n->allocator,
                                            .logger = n->logger };
    int rc = vshard_merger_create(&o, &q->merger);

    q->k = s->k;
    q->flags = s->flags;
    q->consistency = s->consistency;
    q->collection = c->id;
    for (uint32_t i = 0; i < q->part_count; i++) {
        q->part[i].group = c->shard[i].group;
        q->part[i].shard = i;
        q->part[i].k = vs_read_effort(s->k, c->spec.shards);
        q->part[i].bound = INFINITY;
    }
    if (rc == VSHARD_OK)
        rc = copy_positions(n, q, s->positions, s->position_count);
    put_ask(&q->ask, s, (struct vshard_key){ 0, 0 }, vector_bytes(c));
    return rc == VSHARD_OK ? q->ask.status : rc;
}

int vshard_node_search(struct vshard_node *n, uint64_t now_ns,
                       const struct vshard_node_search *search)
{
    struct vshard_node_search s;
    const struct vs_collection *c = NULL;
    struct vs_request *q;
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_options_read(&s, sizeof s, search,
                             VS_SIZE_THROUGH(struct vshard_node_search, positions));
    if (rc == VSHARD_OK)
        rc = admit(n, s.collection, &c);
    if (rc == VSHARD_OK)
        rc = check_search(n, &s, c);
    if (rc != VSHARD_OK)
        return rc;
    if (s.ef_search == 0 && !(s.target_recall > 0))
        s.ef_search = c->spec.ef_search;
    q = vs_request_new(n, VSHARD_NODE_SEARCH, s.tag,
                       s.timeout_ns != 0 ? s.timeout_ns : n->o.search_ns, c->spec.shards);
    return begin(n, q, q != NULL ? begin_search(n, q, &s, c) : VSHARD_ENOMEM);
}

int vshard_node_fetch(struct vshard_node *n, uint64_t now_ns, const struct vshard_node_fetch *fetch)
{
    struct vshard_node_fetch f;
    struct vshard_node_search s = { .size = sizeof s };
    const struct vs_collection *c = NULL;
    struct vs_request *q;
    uint32_t shard;
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_options_read(&f, sizeof f, fetch,
                             VS_SIZE_THROUGH(struct vshard_node_fetch, positions));
    if (rc == VSHARD_OK)
        rc = admit(n, f.collection, &c);
    if (rc == VSHARD_OK)
        rc = check_fresh(n, f.consistency, f.positions, f.position_count);
    if (rc == VSHARD_OK)
        rc = vshard_map_owner(c->map, &f.key, 1, &shard, NULL);
    if (rc != VSHARD_OK)
        return rc;
    q = vs_request_new(n, VSHARD_NODE_FETCH, f.tag,
                       f.timeout_ns != 0 ? f.timeout_ns : n->o.search_ns, 1);
    if (q != NULL) {
        q->consistency = f.consistency;
        q->collection = c->id;
        q->part[0].group = c->shard[shard].group;
        q->part[0].shard = shard;
        s.max_staleness_ns = f.max_staleness_ns;
        put_ask(&q->ask, &s, f.key, 0);
        rc = copy_positions(n, q, f.positions, f.position_count);
        if (rc == VSHARD_OK)
            rc = q->ask.status;
    }
    return begin(n, q, rc);
}

int vshard_node_export(struct vshard_node *n, uint64_t now_ns,
                       const struct vshard_node_export *request)
{
    struct vshard_node_export e;
    const struct vs_collection *c = NULL;
    struct vs_replica *r = NULL;
    struct vs_request *q;
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_options_read(&e, sizeof e, request,
                             VS_SIZE_THROUGH(struct vshard_node_export, path));
    if (rc == VSHARD_OK)
        rc = admit(n, e.collection, &c);
    if (rc == VSHARD_OK && (e.path == NULL || e.path[0] == 0))
        rc = vs_node_refuse(n, VSHARD_EINVAL, "path", 0, 0);
    if (rc == VSHARD_OK && e.shard >= c->spec.shards)
        rc = vs_node_refuse(n, VSHARD_EINVAL, "shard", e.shard, c->spec.shards - 1);
    if (rc != VSHARD_OK)
        return rc;
    r = vs_replica_find(n, c->shard[e.shard].group);
    if (!vs_serves(n, r))
        return vs_node_refuse(n, VSHARD_ENOTFOUND, "shard", e.shard, 0);
    q = vs_request_new(n, VSHARD_NODE_EXPORT, e.tag,
                       e.timeout_ns != 0 ? e.timeout_ns : n->o.write_ns, 1);
    if (q != NULL) {
        q->collection = c->id;
        q->part[0].group = r->group;
        q->part[0].shard = e.shard;
        vs_put_bytes(&q->ask, e.path, strlen(e.path) + 1);
        rc = q->ask.status;
    }
    return begin(n, q, rc);
}

/* ---- writes ---- */

static int check_write(struct vshard_node *n, const struct vshard_node_write *w,
                       const struct vs_collection *c)
{
    bool removes = (w->flags & VSHARD_WRITE_REMOVE) != 0;

    if (w->count == 0 || w->count > VSHARD_WRITE_ROWS_MAX)
        return vs_node_refuse(n, w->count ? VSHARD_E2BIG : VSHARD_EINVAL, "count", w->count,
                              VSHARD_WRITE_ROWS_MAX);
    if ((w->flags & ~(uint32_t)(VSHARD_WRITE_REMOVE | VSHARD_WRITE_APPLIED)) != 0)
        return vs_node_refuse(n, VSHARD_EINVAL, "flags", w->flags, VSHARD_WRITE_APPLIED);
    if (w->keys == NULL || (!removes && w->vectors == NULL) ||
        (w->payloads == NULL) != (w->payload_bytes == NULL))
        return vs_node_refuse(n, VSHARD_EINVAL, w->keys ? "vectors" : "keys", 0, 0);
    if (!removes && w->value_count > c->spec.attribute_count)
        return vs_node_refuse(n, VSHARD_EINVAL, "value_count", w->value_count,
                              c->spec.attribute_count);
    if (!removes && w->value_count != 0 && w->values == NULL)
        return vs_node_refuse(n, VSHARD_EINVAL, "values", 0, 0);
    for (uint32_t i = 0; !removes && i < w->value_count; i++) {
        bool keyword = c->spec.attributes[i].type == VSHARD_ATTRIBUTE_KEYWORD;
        size_t width = w->values[i].width;

        if (w->values[i].values != NULL && (keyword ? width == 0 : width != 0 && width != 8))
            return vs_node_refuse(n, VSHARD_EINVAL, "values: width", (int64_t)width,
                                  keyword ? 1 : 8);
    }
    for (uint32_t i = 0; w->payload_bytes != NULL && i < w->count; i++) {
        if (w->payload_bytes[i] > VSHARD_PAYLOAD_MAX)
            return vs_node_refuse(n, VSHARD_E2BIG, "payload_bytes", w->payload_bytes[i],
                                  VSHARD_PAYLOAD_MAX);
        if (w->payload_bytes[i] != 0 && w->payloads[i] == NULL)
            return vs_node_refuse(n, VSHARD_EINVAL, "payloads", i, w->count);
    }
    return VSHARD_OK;
}

/* Rows by shard: rows[first[s] .. first[s + 1]) are those of shard s. */
static int split(struct vshard_node *n, const struct vshard_node_write *w,
                 const struct vs_collection *c, uint32_t *rows, uint32_t *first, uint32_t *owner)
{
    int rc = vshard_map_owner(c->map, w->keys, w->count, owner, NULL);

    (void)n;
    if (rc != VSHARD_OK)
        return rc;
    memset(first, 0, (c->spec.shards + 2) * sizeof *first);
    for (uint32_t i = 0; i < w->count; i++)
        first[owner[i] + 2]++;
    for (uint32_t s = 2; s < c->spec.shards + 2; s++)
        first[s] += first[s - 1];
    for (uint32_t i = 0; i < w->count; i++)
        rows[first[owner[i] + 1]++] = i;
    return VSHARD_OK;
}

static int make_part(struct vshard_node *n, struct vs_part *p, const struct vs_batch_source *s)
{
    p->count = vs_batch_bytes(s);
    if (p->count > vs_entry_limit(n)) {
        int64_t bytes = (int64_t)p->count;

        p->count = 0;
        return vs_node_refuse(n, VSHARD_E2BIG, "bytes of a shard's rows", bytes,
                              (int64_t)vs_entry_limit(n));
    }
    p->bytes = vs_alloc(n->allocator, p->count);
    if (p->bytes == NULL) {
        p->count = 0;
        return VSHARD_ENOMEM;
    }
    vs_batch_encode(s, p->bytes);
    return VSHARD_OK;
}

static int check_part(struct vshard_node *n, const struct vs_collection *c, const struct vs_part *p)
{
    const struct vs_shard_plan plan = vs_plan_of(n, c);
    struct vs_batch b;
    int rc = vs_batch_decode(&b, plan.newest, p->bytes, p->count);

    return rc == VSHARD_OK ? vs_plan_admits(&plan, &b) : rc;
}

static int make_parts(struct vshard_node *n, struct vs_request *q,
                      const struct vshard_node_write *w, const struct vs_collection *c,
                      const uint32_t *rows, const uint32_t *first)
{
    struct vs_batch_source s = { .format = vs_level_apply(TRAP(69) ? n->level : n->meta.level),
                                 .kind = w->flags & VSHARD_WRITE_REMOVE ? VS_BATCH_REMOVE
                                                                        : VS_BATCH_ADD,
                                 .vector_bytes = vector_bytes(c),
                                 .attribute_count = c->spec.attribute_count,
                                 .request = w->request,
                                 .keys = w->keys,
                                 .attributes = c->spec.attributes,
                                 .values = w->values,
                                 .value_count = w->value_count,
                                 .payloads = w->payloads,
                                 .payload_bytes = w->payload_bytes,
                                 .vectors = w->vectors };
    uint32_t part = 0;
    int rc = VSHARD_OK;

    if (s.request.hi == 0 && s.request.lo == 0)
        s.request = (struct vshard_key){ vs_mix64(n->node ^ vs_mix64(n->incarnation)), q->id };
    for (uint32_t i = 0; rc == VSHARD_OK && i < c->spec.shards; i++) {
        struct vs_part *p = &q->part[part];

        s.count = first[i + 1] - first[i];
        s.rows = rows + first[i];
        if (s.count == 0)
            continue;
        p->group = c->shard[i].group;
        p->shard = i;
        part++;
        rc = make_part(n, p, &s);
        if (rc == VSHARD_OK)
            rc = check_part(n, c, p);
    }
    return rc;
}

static int begin_write(struct vshard_node *n, const struct vshard_node_write *w,
                       const struct vs_collection *c, uint32_t *room)
{
    uint32_t *rows = room, *owner = room + w->count, *first = owner + w->count, parts = 0;
    struct vs_request *q;
    int rc = split(n, w, c, rows, first, owner);

    for (uint32_t i = 0; rc == VSHARD_OK && i < c->spec.shards; i++)
        parts += first[i + 1] != first[i];
    if (rc != VSHARD_OK)
        return rc;
    q = vs_request_new(n, VSHARD_NODE_WRITE, w->tag,
                       w->timeout_ns != 0 ? w->timeout_ns : n->o.write_ns, parts);
    if (q != NULL) {
        q->flags = w->flags;
        q->collection = c->id;
        rc = make_parts(n, q, w, c, rows, first);
    }
    return begin(n, q, rc);
}

int vshard_node_write(struct vshard_node *n, uint64_t now_ns, const struct vshard_node_write *write)
{
    struct vshard_node_write w;
    const struct vs_collection *c = NULL;
    uint32_t *room;
    size_t bytes;
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_options_read(&w, sizeof w, write,
                             VS_SIZE_THROUGH(struct vshard_node_write, payload_bytes));
    if (rc == VSHARD_OK)
        rc = admit(n, w.collection, &c);
    if (rc == VSHARD_OK)
        rc = check_write(n, &w, c);
    if (rc != VSHARD_OK)
        return rc;
    bytes = (2 * (size_t)w.count + c->spec.shards + 2) * sizeof *room;
    room = vs_alloc(n->allocator, bytes);
    if (room == NULL)
        return VSHARD_ENOMEM;
    rc = begin_write(n, &w, c, room);
    vs_free(n->allocator, room, bytes);
    return rc;
}

/* ---- admin ---- */

int vshard_node_admin(struct vshard_node *n, uint64_t now_ns, const struct vshard_node_admin *admin)
{
    struct vshard_node_admin a;
    struct vs_request *q;
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_options_read(&a, sizeof a, admin, VS_SIZE_THROUGH(struct vshard_node_admin, name));
    if (rc == VSHARD_OK && n->request_count >= n->o.max_requests)
        rc = vs_node_refuse(n, VSHARD_EBUSY, "requests", n->request_count, n->o.max_requests);
    if (rc != VSHARD_OK)
        return rc;
    q = vs_request_new(n, VSHARD_NODE_ADMIN, a.tag,
                       a.timeout_ns != 0 ? a.timeout_ns : n->o.write_ns,
                       a.op == VSHARD_ADMIN_RECOVER);
    if (q == NULL)
        return VSHARD_ENOMEM;
    q->command = a.op;
    if (a.op == VSHARD_ADMIN_RECOVER)
        return begin(n, q, vs_recover(n, q, &a));
    rc = vs_admin_command(n, &a, &q->ask);
    if (rc == VSHARD_OK)
        rc = q->ask.status;
    if (rc == VSHARD_OK && q->ask.count == 0 && a.op != VSHARD_ADMIN_JOIN)
        vs_request_finish(n, q, VSHARD_OK);
    else if (rc == VSHARD_OK)
        q->again_ns = n->now != 0 ? n->now : 1; /* at once, in this turn */
    return begin(n, q, rc);
}

/* ---- a map that the host keeps ---- */

int vshard_node_map(struct vshard_node *n, uint64_t now_ns, const void *bytes, size_t count)
{
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK && !vs_hosted(n))
        rc = vs_node_refuse(n, VSHARD_ENOTSUP, "put_map", 0, 0);
    if (rc == VSHARD_OK && bytes == NULL && count != 0)
        rc = vs_node_refuse(n, VSHARD_EINVAL, "bytes", 0, 0);
    if (rc == VSHARD_OK)
        rc = vs_hosted_given(n, bytes, count);
    if (rc != VSHARD_OK)
        return rc;
    vs_turn(n);
    return n->failed;
}

int vshard_node_map_put(struct vshard_node *n, uint64_t now_ns, uint64_t version, int status)
{
    int rc = enter(n, now_ns);

    if (rc == VSHARD_OK)
        rc = vs_hosted_put(n, version, status);
    if (rc != VSHARD_OK)
        return rc;
    vs_turn(n);
    return n->failed;
}

int vshard_node_cancel(struct vshard_node *n, uint64_t tag)
{
    struct vs_request *next;
    uint32_t found = 0;
    int rc = enter(n, 0);

    if (rc == VSHARD_EINVAL || rc == VSHARD_EBUSY)
        return rc;
    for (struct vs_request *q = n->requests; q != NULL; q = next) {
        next = q->next;
        if (q->tag != tag)
            continue;
        for (uint32_t i = 0; i < q->part_count && q->kind != VSHARD_NODE_WRITE; i++) {
            unsigned char id[8];

            vs_store64(id, q->id);
            if (q->part[i].state == VS_PART_OPEN && q->part[i].node != n->node)
                vs_post(n, q->part[i].node, VS_FRAME_CANCEL, q->part[i].group, id, 8, NULL, 0);
        }
        vs_serve_cancel(n, n->node, q->id);
        vs_request_finish(n, q, VSHARD_ECANCELED);
        found++;
    }
    vs_flush_frames(n);
    vs_flush_answers(n);
    return found != 0 ? VSHARD_OK : VSHARD_ENOTFOUND;
}

/* ---- the end ---- */

static void drop_lists(struct vshard_node *n)
{
    while (n->held != NULL) {
        struct vs_held *h = n->held;

        n->held = h->next;
        vs_free(n->allocator, h, sizeof *h + h->count);
    }
    while (n->stuck != NULL) {
        struct vs_stuck *s = n->stuck;

        n->stuck = s->next;
        vs_free(n->allocator, s, s->bytes);
    }
    while (n->sending != NULL) {
        struct vs_sending *s = n->sending;

        n->sending = s->next;
        vs_free(n->allocator, s, sizeof *s + s->cap);
    }
    while (n->proposals != NULL) {
        if (n->proposals->kind == VS_PROPOSED_READ)
            vs_serving_free(n, n->proposals->serving);
        vs_proposal_free(n, n->proposals);
    }
}

/* Items that no thread has begun go unheard; none is running. */
static void drop_items(struct vshard_node *n)
{
    struct vs_item *item;

    while (n->wal != NULL && n->items.waiting != 0 && vs_item_work(n) != 0)
        continue;
    while ((item = vs_item_finished(n)) != NULL) {
        if (item->serving != NULL)
            vs_serving_free(n, item->serving);
        vs_item_free(n, item);
    }
}

void vshard_node_close(struct vshard_node *n)
{
    struct vshard_allocator copy;
    const struct vshard_allocator *a = NULL;

    if (n == NULL)
        return;
    while (n->requests != NULL)
        vs_request_finish(n, n->requests, VSHARD_ECANCELED);
    vs_flush_answers(n);
    drop_items(n);
    n->opened = 0;
    vshard_wal_close(n->wal);
    drop_lists(n);
    vs_cache_fini(n);
    while (n->replica_count != 0)
        vs_replica_free(n, n->replica[n->replica_count - 1]);
    vshard_raft_destroy(n->raft);
    vshard_wire_destroy(n->wire);
    vs_cluster_fini(&n->meta);
    vs_hosted_fini(n);
    vs_free(n->allocator, n->replica, n->replica_cap * sizeof(struct vs_replica *));
    vs_free(n->allocator, n->pending, n->pending_cap * sizeof *n->pending);
    vs_free(n->allocator, n->record, n->record_cap * sizeof *n->record);
    vs_free(n->allocator, n->record_head, n->record_cap * VS_ENTRY_HEAD_BYTES);
    vs_free(n->allocator, n->todo, n->todo_cap * sizeof *n->todo);
    vs_free(n->allocator, n->hint, n->hint_cap * sizeof *n->hint);
    if (n->allocator != NULL) {
        copy = n->allocator_copy;
        a = &copy;
    }
    vs_free(a, n, sizeof *n);
}
