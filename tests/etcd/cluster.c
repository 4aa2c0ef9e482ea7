/* cluster.c - cores on a desk; see cluster.h. */
#include "cluster.h"

#include <stdio.h>
#include <stdlib.h>

#define TICK ((uint64_t)1 << 40)

static void die(const char *what, int rc)
{
    fprintf(stderr, "etcd: %s: %s\n", what, vshard_strerror(rc));
    exit(1);
}

static void put(struct letters *to, struct letter *l)
{
    l->next = NULL;
    *to->last = l;
    to->last = &l->next;
}

static void empty(struct letters *l)
{
    while (l->first != NULL) {
        struct letter *next = l->first->next;
        free(l->first);
        l->first = next;
    }
    l->last = &l->first;
}

/* ---- storage ---- */

static void disk_cut(struct disk *d, uint64_t from)
{
    while (d->count != 0 && d->first + d->count - 1 >= from)
        free((void *)(uintptr_t)d->entry[--d->count].data);
}

static void disk_write(struct disk *d, const struct vshard_raft_effect *e)
{
    d->term = e->term;
    d->vote = e->vote;
    if (e->cut != 0)
        disk_cut(d, e->cut);
    for (uint32_t i = 0; i < e->entry_count; i++) {
        struct vshard_raft_entry x = e->entries[i];
        unsigned char *data = malloc((size_t)x.count + 1);

        if (x.count != 0)
            memcpy(data, x.data, (size_t)x.count);
        x.data = data;
        x.flags = 0;
        if (d->count == d->cap) {
            d->cap = d->cap ? 2 * d->cap : 64;
            d->entry = realloc(d->entry, d->cap * sizeof *d->entry);
        }
        if (d->count == 0)
            d->first = x.index;
        d->entry[d->count++] = x;
    }
}

/* ---- effects ---- */

static void hold(struct replica *n, const struct vshard_raft_effect *e)
{
    struct letter *l = malloc(sizeof *l + (size_t)(e->byte_count + e->body_count));

    l->from = n->id;
    l->to = e->node;
    l->count = (size_t)(e->byte_count + e->body_count);
    memcpy(l->bytes, e->bytes, (size_t)e->byte_count);
    if (e->body_count != 0)
        memcpy(l->bytes + e->byte_count, e->body, (size_t)e->body_count);
    put(&n->out, l);
}

static void take(struct replica *n, const struct vshard_raft_effect *e)
{
    switch (e->kind) {
    case VSHARD_RAFT_PERSIST: disk_write(&n->disk, e); break;
    case VSHARD_RAFT_SEND: hold(n, e); break;
    case VSHARD_RAFT_DONE:
        n->answer = e->status;
        n->answers++;
        break;
    case VSHARD_RAFT_FATAL: die("a group stopped", e->status); break;
    case VSHARD_RAFT_FETCH: die("entries are asked back", VSHARD_EINVAL); break;
    case VSHARD_RAFT_APPLY:
    case VSHARD_RAFT_META:
    case VSHARD_RAFT_SNAPSHOT_READ:
    case VSHARD_RAFT_SNAPSHOT_WRITE:
    case VSHARD_RAFT_INSTALL:
        if (n->work_count == VS_COUNT(n->work))
            die("too much work", VSHARD_E2BIG);
        n->work[n->work_count++] =
            (struct work){ e->kind, e->index, e->offset, e->node, e->byte_count };
        break;
    default: break;
    }
}

/* Takes the effects; what is to be durable is so at once. */
static void drain(struct cluster *c, struct replica *n)
{
    const struct vshard_raft_effect *e;
    uint64_t barrier = 0;

    while ((e = vshard_raft_next(n->raft)) != NULL) {
        if (e->kind == VSHARD_RAFT_PERSIST)
            barrier = e->barrier;
        take(n, e);
    }
    if (barrier != 0)
        replica_step(
            c, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = barrier });
}

int replica_step(struct cluster *c, struct replica *n, struct vshard_raft_event e)
{
    int rc;

    e.size = sizeof e;
    e.now_ns = ++c->now;
    e.group = GROUP;
    rc = vshard_raft_step(n->raft, &e);
    drain(c, n);
    return rc;
}

/* Opens a step from within, for what no event asks for. */
static void begin(struct cluster *c, struct replica *n, uint32_t entries, size_t bytes)
{
    int rc = vs_reserve_one(n->raft, n->g, entries, bytes);

    if (rc != VSHARD_OK)
        die("reserve", rc);
    n->raft->now = ++c->now;
    n->raft->effect_count = n->raft->effect_taken = 0;
    n->raft->head_used = VS_MESSAGE_HEAD;
    vs_group_begin(n->raft, n->g);
}

static void finish(struct cluster *c, struct replica *n)
{
    vs_group_finish(n->raft, n->g);
    drain(c, n);
}

void replica_campaign(struct cluster *c, struct replica *n)
{
    begin(c, n, 0, 0);
    vs_campaign(n->raft, n->g, VS_FLAG_TRANSFER);
    finish(c, n);
}

void replica_append_config(struct cluster *c, struct replica *n, const struct vs_config *config)
{
    unsigned char bytes[VS_CONFIG_BYTES];
    struct vshard_raft_entry e = { .kind = VSHARD_RAFT_CONFIG, .data = bytes };

    e.count = vs_config_encode(config, bytes);
    begin(c, n, 1, vs_entry_bytes(e.count));
    vs_leader_append(n->raft, n->g, &e);
    finish(c, n);
}

int replica_leave_joint(struct cluster *c, struct replica *n)
{
    uint64_t last = n->g->log.last;

    begin(c, n, 1, vs_entry_bytes(VS_CONFIG_BYTES));
    vs_leave_joint(n->raft, n->g);
    finish(c, n);
    return n->g->log.last > last ? VSHARD_OK : VSHARD_EBUSY;
}

void replica_beat(struct cluster *c, struct replica *n)
{
    if (n->g->role != VSHARD_RAFT_LEADER)
        return;
    if (n->raft->beat_at > c->now)
        c->now = n->raft->beat_at;
    replica_step(c, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
}

/* ---- the host's part ---- */

int replica_has_ready(const struct replica *n)
{
    return n->raft != NULL && (n->out.first != NULL || n->work_count != 0);
}

static void applied(struct cluster *c, struct replica *n, uint64_t index)
{
    replica_step(c, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = index });
    if (n->snapshots)
        replica_step(c, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
}

static void do_work(struct cluster *c, struct replica *n, const struct work *w)
{
    static const unsigned char state[1] = { 0 };
    struct vshard_raft_event e = { .index = w->index, .offset = w->offset, .node = w->node };

    switch (w->kind) {
    case VSHARD_RAFT_APPLY: applied(c, n, w->index); return;
    case VSHARD_RAFT_META: /* the newest snapshot, and the log stays as it is */
        e.kind = VSHARD_RAFT_COMPACT;
        e.offset = w->index;
        e.index = n->g->log.base;
        break;
    case VSHARD_RAFT_SNAPSHOT_READ:
        e.kind = VSHARD_RAFT_CHUNK;
        e.bytes = state;
        e.byte_count = sizeof state;
        e.flags = VSHARD_RAFT_LAST;
        break;
    case VSHARD_RAFT_SNAPSHOT_WRITE:
        e.kind = VSHARD_RAFT_CHUNK_WRITTEN;
        e.offset += w->count;
        break;
    default:
        e.kind = VSHARD_RAFT_INSTALLED;
        disk_cut(&n->disk, 0);
        break;
    }
    replica_step(c, n, e);
}

/* What waits for a turn: to send, and to apply; the rest is the host's own affair. */
static int waits(const struct work *w)
{
    return w->kind == VSHARD_RAFT_APPLY || w->kind == VSHARD_RAFT_SNAPSHOT_READ;
}

/* Does the work that need not wait, and applies up to `through`. */
static void settle(struct cluster *c, struct replica *n, uint64_t through)
{
    for (size_t i = 0; i < n->work_count;) {
        struct work w = n->work[i];

        if (waits(&w) && (w.kind != VSHARD_RAFT_APPLY || w.index > through)) {
            i++;
            continue;
        }
        memmove(n->work + i, n->work + i + 1, (--n->work_count - i) * sizeof w);
        do_work(c, n, &w);
        i = 0;
    }
}

void replica_ready(struct cluster *c, struct replica *n)
{
    struct work work[VS_COUNT(n->work)];
    size_t count = n->work_count;
    uint64_t commit = n->g->commit;

    if (n->out.first != NULL) {
        *c->net.last = n->out.first;
        c->net.last = n->out.last;
        n->out.first = NULL;
        n->out.last = &n->out.first;
    }
    memcpy(work, n->work, count * sizeof *work);
    n->work_count = 0;
    for (size_t i = 0; i < count; i++)
        do_work(c, n, &work[i]);
    settle(c, n, commit);
    if (VS_CONFIG_APPLIED && n->g->role == VSHARD_RAFT_LEADER && !n->stays_joint &&
        vs_config_joint(replica_config(n)))
        replica_leave_joint(c, n);
}

size_t cluster_deliver(struct cluster *c, uint64_t id, int take_them)
{
    struct letters mine = { .last = &mine.first };
    struct letter **at = &c->net.first;
    struct replica *n = &c->node[id];
    size_t count = 0;

    while (*at != NULL) {
        struct letter *l = *at;
        if (l->to == id) {
            *at = l->next;
            put(&mine, l);
        } else {
            at = &l->next;
        }
    }
    c->net.last = at;
    for (struct letter *l = mine.first; l != NULL; l = l->next, count++) {
        if (!take_them || n->raft == NULL)
            continue;
        replica_step(c, n,
                     (struct vshard_raft_event){
                         .kind = VSHARD_RAFT_MESSAGE, .bytes = l->bytes, .byte_count = l->count });
        settle(c, n, 0);
    }
    empty(&mine);
    return count;
}

/* ---- birth and death ---- */

static void create(struct cluster *c, struct replica *n)
{
    struct vshard_raft_options o = { .size = sizeof o,
                                     .node = n->id,
                                     .incarnation = 1,
                                     .boot = ++n->boot,
                                     .election_ns = 128 * TICK,
                                     .heartbeat_ns = TICK / 1024,
                                     .max_cache_bytes = 64 << 20 };
    int rc = vshard_raft_create(&o, &n->raft);

    (void)c;
    if (rc != VSHARD_OK)
        die("create", rc);
}

static void open_group(struct cluster *c, struct replica *n, const struct vshard_raft_boot *b)
{
    int rc = vshard_raft_open(n->raft, b);

    if (rc == VSHARD_OK)
        rc = vshard_raft_load(n->raft, GROUP, n->disk.entry, n->disk.count);
    if (rc == VSHARD_OK)
        rc = vshard_raft_start(n->raft, GROUP, ++c->now);
    if (rc != VSHARD_OK)
        die("open", rc);
    n->g = vs_group_find(n->raft, GROUP);
    drain(c, n);
}

void replica_start(struct cluster *c, uint64_t id, const struct vshard_raft_member *member,
                   uint32_t count, uint64_t index)
{
    struct replica *n = &c->node[id];
    struct vshard_raft_boot b = { .size = sizeof b, .group = GROUP };
    unsigned char meta[8 + VS_CONFIG_BYTES] = { 0 };
    struct vs_config config;

    if (c->net.last == NULL)
        c->net.last = &c->net.first;
    n->id = id;
    n->out.last = &n->out.first;
    if (count != 0) {
        int rc = vs_config_change(NULL, member, count, &config);
        if (rc != VSHARD_OK)
            die("members", rc);
        vs_store32(meta, (uint32_t)vs_config_encode(&config, meta + 8));
        b.meta = meta;
        b.meta_count = 8 + vs_load32(meta);
        b.term = b.snapshot_term = 1;
        b.snapshot_index = b.applied = b.commit = index;
    }
    c->count = id > c->count ? (uint32_t)id : c->count;
    create(c, n);
    open_group(c, n, &b);
}

void replica_crash(struct cluster *c, uint64_t id)
{
    struct replica *n = &c->node[id];

    (void)c;
    empty(&n->out);
    n->work_count = 0;
    vshard_raft_destroy(n->raft);
    n->raft = NULL;
    n->g = NULL;
}

void cluster_free(struct cluster *c)
{
    for (uint64_t id = 1; id <= c->count; id++) {
        replica_crash(c, id);
        disk_cut(&c->node[id].disk, 0);
        free(c->node[id].disk.entry);
    }
    empty(&c->net);
    memset(c, 0, sizeof *c);
}

const struct vs_config *replica_config(const struct replica *n)
{
    const struct vs_group *g = n->g;
    uint32_t at = g->config_count - 1;

    while (at > 0 && g->config[at].index > g->applied)
        at--;
    return &g->config[at];
}
