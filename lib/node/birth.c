/* birth.c - a directory becomes a node's home, and a node is opened from it.
 *
 * What a node is stands in a note of its write-ahead log, under the map's group:
 *
 *     8 "VSNODE1\0", 16 cluster, 8 node, 8 incarnation, 4 founders, 4 region,
 *     [founders x 8]
 *
 * Founders have incarnation 1, which all of them know without asking. A node that joins,
 * or comes back without its disk, has one that its log has drawn: it is another replica,
 * which has promised nothing. */
#include "node/core.h"

enum { NOTE_HEAD = 48 };

static const char magic[8] = "VSNODE1";

struct identity {
    struct vshard_key cluster;
    uint64_t node, incarnation;
    uint32_t founder_count, region;
    uint64_t founders[VSHARD_NODES_MAX];
};

static uint64_t log_id(uint64_t node)
{
    return vs_mix64(node) | 1;
}

static int open_log(struct vshard_wal_options *o, struct vshard_wal_report *report,
                    struct vshard_wal **wal)
{
    o->size = sizeof *o;
    o->tail = VSHARD_WAL_TAIL_FLAG;
    *report = (struct vshard_wal_report){ .size = sizeof *report };
    return vshard_wal_open(o, report, wal);
}

static int read_note(struct vshard_wal *wal, struct identity *id)
{
    struct vshard_wal_group about = { .size = sizeof about };
    const unsigned char *p;
    int rc = vshard_wal_find(wal, VS_META, &about);

    if (rc != VSHARD_OK || about.note_bytes == 0)
        return rc == VSHARD_OK ? VSHARD_ENOTFOUND : rc;
    p = about.note;
    if (about.note_bytes < NOTE_HEAD || memcmp(p, magic, 6) != 0)
        return VSHARD_ECORRUPT;
    if (memcmp(p, magic, sizeof magic) != 0)
        return VSHARD_EVERSION;
    id->cluster = (struct vshard_key){ vs_load64(p + 8), vs_load64(p + 16) };
    id->node = vs_load64(p + 24);
    id->incarnation = vs_load64(p + 32);
    id->founder_count = vs_load32(p + 40);
    id->region = vs_load32(p + 44);
    if (id->founder_count > VSHARD_NODES_MAX ||
        about.note_bytes != NOTE_HEAD + 8 * id->founder_count)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < id->founder_count; i++)
        id->founders[i] = vs_load64(p + NOTE_HEAD + 8 * (size_t)i);
    return VSHARD_OK;
}

static int write_note(struct vshard_wal *wal, const struct identity *id)
{
    unsigned char note[NOTE_HEAD + 8 * VSHARD_NODES_MAX] = { 0 };
    const struct vshard_wal_record record = { .group = VS_META,
                                              .kind = VSHARD_WAL_NOTE,
                                              .payload = note,
                                              .payload_bytes = NOTE_HEAD + 8 * id->founder_count };
    uint64_t barrier;
    int rc;

    memcpy(note, magic, sizeof magic);
    vs_store64(note + 8, id->cluster.hi);
    vs_store64(note + 16, id->cluster.lo);
    vs_store64(note + 24, id->node);
    vs_store64(note + 32, id->incarnation);
    vs_store32(note + 40, id->founder_count);
    vs_store32(note + 44, id->region);
    for (uint32_t i = 0; i < id->founder_count; i++)
        vs_store64(note + NOTE_HEAD + 8 * (size_t)i, id->founders[i]);
    rc = vshard_wal_append(wal, &record, 1, &barrier);
    return rc == VSHARD_OK ? vshard_wal_sync(wal, barrier) : rc;
}

static int check_birth(const struct vshard_node_birth *b)
{
    bool joins = (b->flags & VSHARD_NODE_JOINS) != 0, here = joins;

    if (b->path == NULL || b->node == 0 || (b->cluster.hi == 0 && b->cluster.lo == 0) ||
        (b->flags & ~(uint32_t)VSHARD_NODE_JOINS) != 0)
        return vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "birth", (int64_t)b->node, 0);
    if (!joins && b->region != 0)
        return vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "region", b->region, 0);
    if (joins != (b->founder_count == 0) || (!joins && b->founders == NULL))
        return vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "founder_count",
                         b->founder_count, VSHARD_NODES_MAX);
    if (b->founder_count > VSHARD_NODES_MAX)
        return vs_refuse(b->logger, VSHARD_E2BIG, "node.refused", "founder_count", b->founder_count,
                         VSHARD_NODES_MAX);
    for (uint32_t i = 0; i < b->founder_count; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (b->founders[i] == b->founders[k])
                return vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "founders",
                                 (int64_t)b->founders[i], 0);
        }
        here |= b->founders[i] == b->node;
        if (b->founders[i] == 0)
            return vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "founders", 0, 0);
    }
    return here ? VSHARD_OK
                : vs_refuse(b->logger, VSHARD_EINVAL, "node.refused", "node", (int64_t)b->node, 0);
}

int vshard_node_format(const struct vshard_node_birth *birth)
{
    struct vshard_node_birth b;
    struct vshard_wal_report report;
    struct vshard_wal *wal = NULL;
    struct vshard_wal_options o = { .size = sizeof o };
    struct identity id = { .incarnation = 1 };
    int rc =
        vs_options_read(&b, sizeof b, birth, VS_SIZE_THROUGH(struct vshard_node_birth, entropy));

    if (rc == VSHARD_OK)
        rc = check_birth(&b);
    if (rc != VSHARD_OK)
        return rc;
    o.path = b.path;
    o.segment_bytes = 65536; /* for one note; the first opening makes larger ones */
    o.log_id = log_id(b.node);
    o.storage = b.storage;
    o.allocator = b.allocator;
    o.log = b.logger;
    o.entropy = b.entropy;
    rc = open_log(&o, &report, &wal);
    if (rc != VSHARD_OK)
        return rc == VSHARD_ESTALE ? VSHARD_EEXIST : rc;
    rc = read_note(wal, &(struct identity){ .node = 0 });
    rc = rc == VSHARD_ENOTFOUND ? VSHARD_OK : VSHARD_EEXIST;
    id.cluster = b.cluster;
    id.node = b.node;
    id.region = b.region;
    id.founder_count = b.founder_count;
    if (b.founder_count != 0)
        memcpy(id.founders, b.founders, b.founder_count * sizeof *b.founders);
    if (b.flags & VSHARD_NODE_JOINS)
        id.incarnation = report.incarnation > 1 ? report.incarnation : 2;
    if (rc == VSHARD_OK)
        rc = write_note(wal, &id);
    vshard_wal_close(wal);
    return rc;
}

/* ---- opening ---- */

static int check_options(const struct vshard_node_options *o, struct vshard_node_host *host)
{
    int rc;

    if (o->path == NULL || o->node == 0 || strlen(o->path) > 3000)
        return vs_refuse(o->logger, VSHARD_EINVAL, "node.refused", o->node ? "path" : "node",
                         (int64_t)o->node, 3000);
    rc = vs_options_read(host, sizeof *host, o->host,
                         VS_SIZE_THROUGH(struct vshard_node_host, wake));
    if (rc != VSHARD_OK || host->send == NULL || host->done == NULL ||
        (o->workers != 0 && host->wake == NULL))
        return vs_refuse(o->logger, rc != VSHARD_OK ? rc : VSHARD_EINVAL, "node.refused", "host", 0,
                         0);
    if (o->workers > 256)
        return vs_refuse(o->logger, VSHARD_E2BIG, "node.refused", "workers", o->workers, 256);
    return VSHARD_OK;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static void set_defaults(struct vshard_node_options *o)
{
    const uint64_t ms = 1000000;

    o->heartbeat_ns = or_default(o->heartbeat_ns, 30 * ms);
    o->election_ns = or_default(o->election_ns, 150 * ms);
    o->search_ns = or_default(o->search_ns, 50 * ms);
    o->write_ns = or_default(o->write_ns, 5000 * ms);
    o->hedge_ns = or_default(o->hedge_ns, 5 * ms);
    o->replace_ns = or_default(o->replace_ns, 60000 * ms);
    o->snapshot_bytes = or_default(o->snapshot_bytes, 64 << 20);
    o->backlog_bytes = or_default(o->backlog_bytes, 64 << 20);
    o->segment_bytes = or_default(o->segment_bytes, 32 << 20);
    o->max_requests = (uint32_t)or_default(o->max_requests, 4096);
}

static void copy_hooks(struct vshard_node *n)
{
    const struct vshard_node_options *o = &n->o;

    if (o->allocator != NULL) {
        n->allocator_copy = *o->allocator;
        n->allocator = &n->allocator_copy;
    }
    if (o->logger != NULL) {
        n->logger_copy = *o->logger;
        n->logger = &n->logger_copy;
    }
    if (o->executor != NULL) {
        n->executor_copy = *o->executor;
        n->executor = &n->executor_copy;
    }
    if (o->clock != NULL) {
        n->clock_copy = *o->clock;
        n->clock = &n->clock_copy;
    }
    if (o->storage != NULL)
        n->storage = *o->storage;
    else
        vshard_storage_posix(&n->storage);
    memcpy(n->path, o->path, strlen(o->path) + 1);
}

static void wal_wake(void *ctx)
{
    struct vshard_node *n = ctx;

    if (n->opened && n->o.workers != 0)
        n->host.wake(n->host.ctx, VSHARD_WAKE_CONTROL);
}

static int open_storage(struct vshard_node *n)
{
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .ctx = n, .wake = wal_wake };
    struct vshard_wal_options o = { .size = sizeof o,
                                    .path = n->path,
                                    .flags = VSHARD_WAL_UNPACKED, /* vectors do not pack */
                                    .log_id = log_id(n->o.node),
                                    .segment_bytes = n->o.segment_bytes,
                                    .storage = &n->wal_storage,
                                    .allocator = n->allocator,
                                    .log = n->logger,
                                    .hooks = &hooks };
    struct vshard_wal_report report;
    struct identity id;
    int rc;

    vs_items_storage(n);
    rc = open_log(&o, &report, &n->wal);
    if (rc == VSHARD_OK)
        rc = read_note(n->wal, &id);
    if (rc == VSHARD_OK && id.node != n->o.node)
        rc = VSHARD_ESTALE;
    if (rc == VSHARD_OK && vs_hosted(n) && id.founder_count != 0) /* they found group 0 */
        rc = vs_node_refuse(n, VSHARD_EINVAL, "put_map", id.founder_count, 0);
    if (rc != VSHARD_OK)
        return rc;
    n->cluster = id.cluster;
    n->node = id.node;
    n->incarnation = id.incarnation;
    n->region = id.region;
    n->boot = report.boot;
    n->unsettled = report.unsettled;
    n->founder_count = id.founder_count;
    memcpy(n->founders, id.founders, sizeof n->founders);
    vs_snapshots_sweep(n);
    return VSHARD_OK;
}

static int make_wire(struct vshard_node *n)
{
    const struct vshard_wire_options o = { .size = sizeof o,
                                           .key_count = n->o.key_count,
                                           .cluster = n->cluster,
                                           .node = n->node,
                                           .incarnation = n->incarnation,
                                           .pack_above = UINT32_MAX, /* vectors do not pack */
                                           .keys = n->o.keys,
                                           .allocator = n->allocator };

    int rc = vshard_wire_create(&o, &n->wire);

    if (rc == VSHARD_OK)
        vs_wire_accept(n->wire, vs_level_frame(n->level));
    return rc;
}

static int make_core(struct vshard_node *n)
{
    const struct vshard_raft_options o = { .size = sizeof o,
                                           .node = n->node,
                                           .incarnation = n->incarnation,
                                           .boot = n->boot,
                                           .seed = vs_mix64(n->node ^ n->cluster.lo) ^ n->boot,
                                           .heartbeat_ns = n->o.heartbeat_ns,
                                           .election_ns = n->o.election_ns,
                                           .idle_ns = n->o.idle_ns,
                                           .max_entry = vs_entry_limit(n),
                                           .max_cache_bytes = VS_CORE_CACHE,
                                           .allocator = n->allocator,
                                           .logger = n->logger };

    return vshard_raft_create(&o, &n->raft);
}

static int open_all(struct vshard_node *n)
{
    struct vs_replica *map;
    int rc = open_storage(n);

    if (rc == VSHARD_OK)
        rc = make_wire(n);
    if (rc == VSHARD_OK)
        rc = make_core(n);
    if (rc == VSHARD_OK)
        rc = vs_replica_add(n, VS_META, NULL, 0, &map);
    n->gossips = n->boot << 40;
    /* What an earlier incarnation asked for may still be answered: no request has the number of one
     * of those. Founders begin at 0. */
    n->next_request = n->gossips + vs_mix64(n->incarnation - 1);
    n->hedge_credit = 200; /* ten second requests before any has been earned */
    n->serve_at = VS_NEVER;
    n->kept_group = VS_META + 1;
    n->opened = rc == VSHARD_OK;
    if (rc == VSHARD_OK)
        rc = vs_replica_start(n, map);
    for (uint32_t i = 0; i < n->founder_count; i++)
        vs_peer_meet(n, n->founders[i]);
    if (rc == VSHARD_OK)
        vs_turn(n);
    return rc == VSHARD_OK ? n->failed : rc;
}

int vs_node_open(const struct vshard_node_options *options, uint32_t level, uint64_t now_ns,
                 struct vshard_node **node)
{
    struct vshard_node_options o;
    struct vshard_node_host host;
    struct vshard_node *n;
    int rc;

    if (node == NULL)
        return VSHARD_EINVAL;
    *node = NULL;
    rc = vs_options_read(&o, sizeof o, options, VS_SIZE_THROUGH(struct vshard_node_options, clock));
    if (rc == VSHARD_OK)
        rc = check_options(&o, &host);
    if (rc != VSHARD_OK)
        return rc;
    set_defaults(&o);
    n = vs_alloc_zeroed(o.allocator, sizeof *n);
    if (n == NULL)
        return VSHARD_ENOMEM;
    n->o = o;
    n->host = host;
    n->now = now_ns;
    n->level = level;
    copy_hooks(n);
    n->held_end = &n->held;
    n->stuck_end = &n->stuck;
    n->sending_end = &n->sending;
    n->ended_end = &n->ended;
    vs_items_init(&n->items);
    vs_cluster_init(&n->meta, n->allocator, n->logger);
    n->meta.known = level;
    vs_cluster_init(&n->hosted.next, n->allocator, n->logger);
    n->hosted.next.known = level;
    rc = vs_cache_init(n);
    if (rc == VSHARD_OK)
        rc = open_all(n);
    if (rc != VSHARD_OK) {
        vshard_node_close(n);
        return rc;
    }
    *node = n;
    return VSHARD_OK;
}

int vshard_node_open(const struct vshard_node_options *options, uint64_t now_ns,
                     struct vshard_node **node)
{
    return vs_node_open(options, VS_LEVEL, now_ns, node);
}
