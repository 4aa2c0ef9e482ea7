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

static uint64_t fold(uint64_t digest, uint64_t word)
{
    digest = (digest ^ word) * 0x9e3779b97f4a7c15u;
    return digest ^ (digest >> 29);
}

static uint64_t chain_of(uint64_t before, const struct vshard_raft_entry *e)
{
    int config = e->kind == VSHARD_RAFT_CONFIG;
    uint64_t h = fold(fold(fold(before, e->index), e->term), (uint64_t)config);

    for (uint64_t i = 0; i < e->count && !config; i++)
        h = fold(h, ((const unsigned char *)e->data)[i]);
    return h;
}

static void disk_cut(struct disk *d, uint64_t from)
{
    while (d->count != 0 && d->first + d->count - 1 >= from)
        free((void *)(uintptr_t)d->entry[--d->count].data);
}

static void disk_trim(struct disk *d, uint64_t through)
{
    size_t gone = 0;

    while (gone < d->count && d->first + gone <= through)
        free((void *)(uintptr_t)d->entry[gone++].data);
    d->count -= gone;
    d->first += gone;
    memmove(d->entry, d->entry + gone, d->count * sizeof *d->entry);
    memmove(d->chain, d->chain + gone, d->count * sizeof *d->chain);
}

/* The digest of the log through `index`, which is in it or the snapshot's. */
static uint64_t disk_chain(const struct disk *d, uint64_t index)
{
    if (d->count == 0 || index < d->first)
        return d->snapshot_chain;
    return d->chain[index - d->first];
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
        uint64_t before = d->count ? d->chain[d->count - 1] : d->snapshot_chain;

        if (x.count != 0)
            memcpy(data, x.data, (size_t)x.count);
        x.data = data;
        x.flags = 0;
        if (d->count == d->cap) {
            d->cap = d->cap ? 2 * d->cap : 64;
            d->entry = realloc(d->entry, d->cap * sizeof *d->entry);
            d->chain = realloc(d->chain, d->cap * sizeof *d->chain);
        }
        if (d->count == 0)
            d->first = x.index;
        d->chain[d->count] = chain_of(before, &x);
        d->entry[d->count++] = x;
    }
}

static void disk_snapshot(struct disk *d, const struct work *w, uint64_t chain)
{
    d->snapshot = w->index;
    d->snapshot_term = w->term;
    d->snapshot_chain = chain;
    d->meta_count = (size_t)w->count;
    memcpy(d->meta, w->bytes, d->meta_count);
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
        n->work[n->work_count] =
            (struct work){ e->kind, e->index, e->term, e->offset, e->node, e->byte_count, { 0 } };
        if (e->byte_count > sizeof n->work->bytes)
            die("META", VSHARD_E2BIG);
        if (e->byte_count != 0)
            memcpy(n->work[n->work_count].bytes, e->bytes, (size_t)e->byte_count);
        n->work_count++;
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
    struct vshard_raft_event e = { .index = w->index, .offset = w->offset, .node = w->node };

    switch (w->kind) {
    case VSHARD_RAFT_APPLY: applied(c, n, w->index); return;
    case VSHARD_RAFT_META: /* the newest snapshot, and the log stays as it is */
        disk_snapshot(&n->disk, w, disk_chain(&n->disk, w->index));
        e.kind = VSHARD_RAFT_COMPACT;
        e.offset = w->index;
        e.index = n->g->log.base;
        break;
    case VSHARD_RAFT_SNAPSHOT_READ: /* the state is the digest of what led to it */
        if (w->index != n->disk.snapshot)
            die("an old snapshot is read", VSHARD_ENOTFOUND);
        e.kind = VSHARD_RAFT_CHUNK;
        e.bytes = &n->disk.snapshot_chain;
        e.byte_count = sizeof n->disk.snapshot_chain;
        e.flags = VSHARD_RAFT_LAST;
        break;
    case VSHARD_RAFT_SNAPSHOT_WRITE:
        memcpy(&n->incoming, w->bytes, sizeof n->incoming);
        e.kind = VSHARD_RAFT_CHUNK_WRITTEN;
        e.offset += w->count;
        break;
    default:
        e.kind = VSHARD_RAFT_INSTALLED;
        n->installs++;
        disk_cut(&n->disk, 0);
        disk_snapshot(&n->disk, w, n->incoming);
        break;
    }
    replica_step(c, n, e);
}

/* Applies up to `through`, and does all else that is not to send, which needs no turn. */
static void settle(struct cluster *c, struct replica *n, uint64_t through)
{
    for (size_t i = 0; i < n->work_count;) {
        struct work w = n->work[i];

        if (w.kind == VSHARD_RAFT_APPLY && w.index > through) {
            i++;
            continue;
        }
        memmove(n->work + i, n->work + i + 1, (--n->work_count - i) * sizeof w);
        do_work(c, n, &w);
        i = 0;
    }
}

void replica_compact(struct cluster *c, struct replica *n, uint64_t keep)
{
    struct disk *d = &n->disk;
    uint64_t through;

    if (n->g->applied > d->snapshot)
        replica_step(c, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    settle(c, n, 0);
    through = d->snapshot > keep ? d->snapshot - keep : 0;
    if (through <= n->g->log.base)
        return;
    /* The digest of what is forgotten stays in that of what is kept. */
    disk_trim(d, through);
    replica_step(c, n,
                 (struct vshard_raft_event){
                     .kind = VSHARD_RAFT_COMPACT, .index = through, .offset = d->snapshot });
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

int (*cluster_loses)(const struct cluster *c, const struct letter *l);

static uint64_t term_of(const struct letter *l)
{
    struct vs_message m;
    struct vs_beat b;

    if (vs_message_decode(&m, l->bytes, l->count) != VSHARD_OK)
        return 0;
    if (m.kind != VS_BEATS && m.kind != VS_BEAT_REPLIES)
        return m.term;
    vs_beat_decode(&b, m.body);
    return b.term;
}

/* By term, and by arrival within one: a leader that is not one any more learns so
 * before it does more, in however many messages. */
static void newest_first(struct letters *l)
{
    struct letters sorted = { NULL, &sorted.first };

    while (l->first != NULL) {
        struct letter **best = &l->first, *take;

        for (struct letter **at = &l->first; *at != NULL; at = &(*at)->next) {
            if (term_of(*at) > term_of(*best))
                best = at;
        }
        take = *best;
        *best = take->next;
        put(&sorted, take);
    }
    l->first = sorted.first;
    l->last = sorted.first ? sorted.last : &l->first;
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
    if (cluster_loses != NULL)
        newest_first(&mine);
    for (struct letter *l = mine.first; l != NULL; l = l->next, count++) {
        if (!take_them || n->raft == NULL || (cluster_loses != NULL && cluster_loses(c, l)))
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

static void create(struct replica *n)
{
    struct vshard_raft_options o = { .size = sizeof o,
                                     .node = n->id,
                                     .incarnation = 1,
                                     .boot = ++n->boot,
                                     .election_ns = 16 * TICK,
                                     .heartbeat_ns = TICK / 1024,
                                     .max_cache_bytes = 64 << 20,
                                     .idle_ns = UINT64_MAX };
    int rc = vshard_raft_create(&o, &n->raft);

    if (rc != VSHARD_OK)
        die("create", rc);
}

static void open_group(struct cluster *c, struct replica *n)
{
    const struct disk *d = &n->disk;
    struct vshard_raft_boot b = { .size = sizeof b,
                                  .group = GROUP,
                                  .term = d->term,
                                  .vote = d->vote,
                                  .commit = d->commit,
                                  .applied = d->snapshot,
                                  .snapshot_index = d->snapshot,
                                  .snapshot_term = d->snapshot_term,
                                  .meta = d->meta_count ? d->meta : NULL,
                                  .meta_count = d->meta_count };
    int rc = vshard_raft_open(n->raft, &b);

    if (rc == VSHARD_OK)
        rc = vshard_raft_load(n->raft, GROUP, d->entry, d->count);
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
    struct disk *d = &n->disk;
    struct vs_config config;

    if (c->net.last == NULL)
        c->net.last = &c->net.first;
    n->id = id;
    n->out.last = &n->out.first;
    if (count != 0) {
        int rc = vs_config_change(NULL, member, count, &config);
        if (rc != VSHARD_OK)
            die("members", rc);
        vs_store32(d->meta, (uint32_t)vs_config_encode(&config, d->meta + 8));
        d->meta_count = 8 + vs_load32(d->meta);
        d->term = d->snapshot_term = 1;
        d->snapshot = d->commit = index;
    }
    c->count = id > c->count ? (uint32_t)id : c->count;
    create(n);
    open_group(c, n);
}

void replica_crash(struct cluster *c, uint64_t id)
{
    struct replica *n = &c->node[id];

    (void)c;
    empty(&n->out);
    n->work_count = 0;
    n->disk.commit = n->g ? n->g->commit : n->disk.commit;
    vshard_raft_destroy(n->raft);
    n->raft = NULL;
    n->g = NULL;
}

void replica_restart(struct cluster *c, uint64_t id)
{
    create(&c->node[id]);
    open_group(c, &c->node[id]);
}

uint64_t replica_chain(const struct replica *n)
{
    return disk_chain(&n->disk, n->g->log.last);
}

void cluster_free(struct cluster *c)
{
    for (uint64_t id = 1; id <= c->count; id++) {
        replica_crash(c, id);
        disk_cut(&c->node[id].disk, 0);
        free(c->node[id].disk.entry);
        free(c->node[id].disk.chain);
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
