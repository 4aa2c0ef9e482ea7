/* world.c - events, network, processes and disks of a simulated cluster. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 100, STATE_BYTES = 280, TRAILING = 4 };

/* ---- chance and bytes ---- */

uint64_t world_random(struct world *w, uint64_t below)
{
    uint64_t z = (w->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return below ? z % below : 0;
}

bool world_chance(struct world *w, uint32_t per_mille)
{
    return per_mille != 0 && world_random(w, 1000) < per_mille;
}

void bytes_set(struct bytes *b, const void *p, size_t n)
{
    unsigned char *copy = malloc(n ? n : 1);

    if (n != 0)
        memcpy(copy, p, n);
    free(b->p);
    b->p = copy;
    b->n = n;
}

void bytes_free(struct bytes *b)
{
    free(b->p);
    b->p = NULL;
    b->n = 0;
}

static void *resize(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    struct world *w = ctx;
    void *p;

    if (new_bytes == 0) {
        free(old);
        w->live_blocks -= old != NULL;
        return NULL;
    }
    if (w->oom_on && world_chance(w, w->oom)) {
        w->failed_allocs++;
        return NULL;
    }
    p = aligned_alloc(align, (new_bytes + align - 1) / align * align);
    if (old != NULL) {
        memcpy(p, old, old_bytes < new_bytes ? old_bytes : new_bytes);
        free(old);
    } else {
        w->live_blocks++;
    }
    return p;
}

/* ---- the queue ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void world_at(struct world *w, uint64_t at, struct event e)
{
    size_t i = w->queue_count++;

    if (w->queue_count > w->queue_cap) {
        w->queue_cap = w->queue_cap ? w->queue_cap * 2 : 1024;
        w->queue = realloc(w->queue, w->queue_cap * sizeof *w->queue);
    }
    e.at = at > w->now ? at : w->now;
    e.order = ++w->order;
    for (; i > 0 && before(&e, &w->queue[(i - 1) / 2]); i = (i - 1) / 2)
        w->queue[i] = w->queue[(i - 1) / 2];
    w->queue[i] = e;
}

static struct event pop(struct world *w)
{
    struct event top = w->queue[0], last = w->queue[--w->queue_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < w->queue_count) {
        if (child + 1 < w->queue_count && before(&w->queue[child + 1], &w->queue[child]))
            child++;
        if (!before(&w->queue[child], &last))
            break;
        w->queue[i] = w->queue[child];
        i = child;
    }
    if (w->queue_count != 0)
        w->queue[i] = last;
    return top;
}

/* ---- what a disk tells ---- */

void store_durable(struct world *w, struct node *n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n->held_count; i++) {
        struct held *h = &n->held[i];
        if (h->barrier <= n->durable) {
            network_send(w, n->id, (uint32_t)h->to, h->bytes.p, h->bytes.n, NULL, 0);
            bytes_free(&h->bytes);
        } else {
            n->held[kept++] = *h;
        }
    }
    n->held_count = kept;
    store_schedule(w, n);
    node_event(w, n,
               (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = n->durable });
}

/* One vote is, ahead of what was handed over before it. */
void store_vote_durable(struct world *w, struct node *n, uint64_t barrier)
{
    size_t kept = 0;

    for (size_t i = 0; i < n->held_count; i++) {
        struct held *h = &n->held[i];
        if (h->barrier == barrier && (h->flags & VSHARD_RAFT_VOTE_ONLY)) {
            network_send(w, n->id, (uint32_t)h->to, h->bytes.p, h->bytes.n, NULL, 0);
            bytes_free(&h->bytes);
        } else {
            n->held[kept++] = *h;
        }
    }
    n->held_count = kept;
    node_event(w, n,
               (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                           .flags = VSHARD_RAFT_VOTE_ONLY,
                                           .barrier = barrier });
}

void store_landed(struct world *w, struct node *n, const struct write *x)
{
    struct vshard_raft_event e = {
        .kind = VSHARD_RAFT_COMPACT, .group = x->group + 1, .index = x->through, .offset = x->index
    };
    int rc;

    n->compacting[x->group] = 0;
    if (x->index != n->disk[x->group].snapshot)
        return; /* a newer one was installed meanwhile */
    if (x->kind == WRITE_INSTALL) {
        memcpy(&n->machine[x->group], x->state.p, sizeof n->machine[x->group]);
        n->meta_index[x->group] = 0;
        e = (struct vshard_raft_event){ .kind = VSHARD_RAFT_INSTALLED,
                                        .group = x->group + 1,
                                        .index = x->index };
    }
    story_say(w, n, "%s %llu", x->kind == WRITE_INSTALL ? "installs snapshot" : "snapshot at",
              (unsigned long long)x->index);
    rc = node_event(w, n, e);
    if (rc != VSHARD_OK)
        fail(w, "n%u refuses snapshot %llu: %s", n->id, (unsigned long long)x->index,
             vshard_strerror(rc));
}

/* ---- effects ---- */

static void on_persist(struct world *w, struct node *n, uint32_t g,
                       const struct vshard_raft_effect *e)
{
    check_persist(w, n, g, e);
    store_persist(w, n, g, e);
    if (e->cut != 0 && e->cut > 1)
        story_say(w, n, "cuts its log back to %llu", (unsigned long long)e->cut - 1);
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *y = &e->entries[i];
        static const char *const kind[] = { "write", "blank", "members", "session" };
        story_say(w, n, "log %llu <- %s, term %llu", (unsigned long long)y->index, kind[y->kind],
                  (unsigned long long)y->term);
    }
}

static void on_send(struct world *w, struct node *n, const struct vshard_raft_effect *e)
{
    if (e->barrier <= n->durable) {
        network_send(w, n->id, (uint32_t)e->node, e->bytes, (size_t)e->byte_count, e->body,
                     (size_t)e->body_count);
        return;
    }
    if (e->body_count != 0)
        fail(w, "n%u holds back a message with a body", n->id);
    if (n->held_count == n->held_cap) {
        n->held_cap = n->held_cap ? n->held_cap * 2 : 16;
        n->held = realloc(n->held, n->held_cap * sizeof *n->held);
    }
    n->held[n->held_count] =
        (struct held){ .barrier = e->barrier, .to = e->node, .flags = e->flags };
    bytes_set(&n->held[n->held_count++].bytes, e->bytes, (size_t)e->byte_count);
}

static void machine_apply(struct world *w, struct node *n, uint32_t g,
                          const struct vshard_raft_entry *e, uint64_t term)
{
    struct machine *m = &n->machine[g];
    bool counts = e->kind == VSHARD_RAFT_DATA && e->flags == 0;

    m->applied++;
    m->hash = fold(fold(m->hash, entry_hash(e)), e->flags);
    if (counts && e->count == 24) {
        uint32_t client, op;
        uint64_t key, value;

        memcpy(&client, e->data, 4);
        memcpy(&op, (const char *)e->data + 4, 4);
        memcpy(&key, (const char *)e->data + 8, 8);
        memcpy(&value, (const char *)e->data + 16, 8);
        if (e->session != 0) {
            if (op <= m->last_op[client])
                fail(w, "exactly once: n%u applies write %u of client %u after write %llu", n->id,
                     op, client, (unsigned long long)m->last_op[client]);
            m->last_op[client] = op;
        }
        m->value[key] = value;
        story_say(w, n, "apply %llu: %c = %llu", (unsigned long long)e->index, (int)('a' + key),
                  (unsigned long long)value);
    }
    check_apply(w, n, g, e, term);
}

static void on_apply(struct world *w, struct node *n, uint32_t g,
                     const struct vshard_raft_effect *e)
{
    uint64_t index = 0, at = w->now + world_random(w, MS / 2);

    for (uint32_t i = 0; i < e->entry_count; i++) {
        machine_apply(w, n, g, &e->entries[i], e->term);
        index = e->entries[i].index;
    }
    world_at(w, n->busy_until > at ? n->busy_until : at,
             (struct event){ .kind = EV_APPLIED,
                             .node = n->id,
                             .boot = n->boot,
                             .life = n->life[g],
                             .a = g,
                             .b = index });
    if (w->snapshot_every != 0 && !(w->hoarders >> n->id & 1) &&
        index > n->disk[g].snapshot + w->snapshot_every && !n->compacting[g]) {
        n->compacting[g] = 1;
        world_at(
            w, w->now + MS,
            (struct event){
                .kind = EV_SNAPSHOT, .node = n->id, .boot = n->boot, .life = n->life[g], .a = g });
    }
}

static void on_meta(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_effect *e)
{
    unsigned char state[STATE_BYTES] = { 0 };

    if (n->machine[g].applied != e->index)
        fail(w, "n%u takes a snapshot of %llu at %llu", n->id, (unsigned long long)e->index,
             (unsigned long long)n->machine[g].applied);
    memcpy(state, &n->machine[g], sizeof n->machine[g]);
    bytes_set(&n->meta[g], e->bytes, (size_t)e->byte_count);
    bytes_set(&n->meta_state[g], state, sizeof state);
    n->meta_index[g] = e->index;
    n->meta_term[g] = e->term;
    world_at(w, w->now + 2 * MS + world_random(w, 10 * MS),
             (struct event){ .kind = EV_WRITTEN,
                             .node = n->id,
                             .boot = n->boot,
                             .life = n->life[g],
                             .a = g,
                             .b = 1 });
}

static void on_snapshot_write(struct world *w, struct node *n, uint32_t g,
                              const struct vshard_raft_effect *e)
{
    struct bytes *in = &n->incoming[g];
    struct event done = { .kind = EV_WRITTEN,
                          .node = n->id,
                          .boot = n->boot,
                          .life = n->life[g],
                          .a = g,
                          .b = e->index,
                          .c = e->offset + e->byte_count };

    if (e->offset > in->n)
        fail(w, "n%u writes a snapshot with a gap", n->id);
    in->p = realloc(in->p, (size_t)(e->offset + e->byte_count + 1));
    in->n = (size_t)(e->offset + e->byte_count);
    if (e->byte_count != 0)
        memcpy(in->p + e->offset, e->bytes, (size_t)e->byte_count);
    if ((starve_delays(w, n) && done.c == STATE_BYTES) || world_chance(w, w->slow_pieces))
        n->piece[g] = done;
    else
        world_at(w, w->now + world_random(w, MS), done);
}

void piece_written(struct world *w, struct node *n, uint32_t g)
{
    if (n->piece[g].kind == 0)
        return;
    world_at(w, w->now + world_random(w, MS), n->piece[g]);
    n->piece[g].kind = 0;
    w->slow_written++;
}

static void on_role(struct world *w, struct node *n, const struct vshard_raft_effect *e)
{
    static const char *const role[] = { "follower", "asks whether to stand", "candidate",
                                        "leader" };

    if (e->role == VSHARD_RAFT_FOLLOWER && e->node != 0)
        story_say(w, n, "follows n%llu in term %llu", (unsigned long long)e->node,
                  (unsigned long long)e->term);
    else
        story_say(w, n, "%s in term %llu", role[e->role], (unsigned long long)e->term);
}

static void on_effect(struct world *w, struct node *n, const struct vshard_raft_effect *e)
{
    uint32_t g = e->group ? (uint32_t)e->group - 1 : 0;
    struct event later = {
        .node = n->id, .boot = n->boot, .life = n->life[g], .a = g, .b = e->index
    };

    w->digest = fold(fold(fold(w->digest, e->kind), fold(e->group, e->barrier)),
                     fold(fold(e->index, e->term), fold(e->node, e->byte_count)));
    switch (e->kind) {
    case VSHARD_RAFT_PERSIST: on_persist(w, n, g, e); break;
    case VSHARD_RAFT_SEND: on_send(w, n, e); break;
    case VSHARD_RAFT_APPLY: on_apply(w, n, g, e); break;
    case VSHARD_RAFT_DONE:
        if (!client_done(w, n, e) && !admin_done(w, e) && !story_done(w, n, e))
            fail(w, "n%u answers %llu, which nobody waits for", n->id, (unsigned long long)e->tag);
        break;
    case VSHARD_RAFT_ROLE: on_role(w, n, e); break;
    case VSHARD_RAFT_CERTAIN:
        store_certain(w, n, g);
        story_say(w, n, "is certain of its log again");
        break;
    case VSHARD_RAFT_FETCH:
        later.kind = EV_FETCH;
        later.c = e->node;
        world_at(w, w->now + world_random(w, MS), later);
        break;
    case VSHARD_RAFT_META: on_meta(w, n, g, e); break;
    case VSHARD_RAFT_SNAPSHOT_READ:
        later.kind = EV_CHUNK;
        later.c = e->node << 32 | e->offset;
        world_at(w, w->now + world_random(w, MS), later);
        break;
    case VSHARD_RAFT_SNAPSHOT_WRITE: on_snapshot_write(w, n, g, e); break;
    case VSHARD_RAFT_INSTALL:
        later.kind = EV_INSTALL;
        later.c = e->term;
        bytes_set(&later.bytes, e->bytes, (size_t)e->byte_count);
        world_at(w, w->now + world_random(w, 5 * MS), later);
        break;
    default: break;
    }
}

/* ---- processes ---- */

uint64_t node_clock(const struct world *w, const struct node *n)
{
    int64_t drift =
        (int64_t)(w->now / MS) * n->drift_ppm + (int64_t)(w->now % MS) * n->drift_ppm / 1000000;

    return (uint64_t)((int64_t)(w->now + n->jumped + 1000 * MS * n->id) + drift) / w->scale;
}

static void drain(struct world *w, struct node *n)
{
    const struct vshard_raft_effect *e;
    uint64_t at, clock, deadline, wait, early;

    while ((e = vshard_raft_next(n->raft)) != NULL)
        on_effect(w, n, e);
    check_node(w, n);
    deadline = vshard_raft_deadline_ns(n->raft);
    if (deadline == NEVER)
        return;
    clock = node_clock(w, n);
    at = w->now + 1000;
    if (deadline > clock) { /* a little early is early, not wrong */
        wait = (deadline - clock) * w->scale;
        early = 1000 + (uint64_t)(n->drift_ppm > 0 ? n->drift_ppm : 0);
        at += wait - wait / 1000 * early / 1000;
    }
    if (n->timer_at != 0 && n->timer_at <= at && n->timer_at > w->now)
        return;
    n->timer_at = at;
    world_at(w, at, (struct event){ .kind = EV_TIMER, .node = n->id, .boot = n->boot });
}

int node_event(struct world *w, struct node *n, struct vshard_raft_event e)
{
    uint64_t digest = w->oom ? vshard_raft_digest(n->raft) : 0;
    int rc;

    e.size = sizeof e;
    e.now_ns = node_clock(w, n);
    w->steps++;
    w->oom_on = w->oom != 0;
    rc = vshard_raft_step(n->raft, &e);
    w->oom_on = 0;
    if (rc == VSHARD_ENOMEM) {
        if (w->oom == 0)
            fail(w, "n%u is out of memory", n->id);
        if (vshard_raft_digest(n->raft) != digest || vshard_raft_next(n->raft) != NULL)
            fail(w, "n%u changed in a step that failed (event %u)", n->id, e.kind);
        rc = vshard_raft_step(n->raft, &e);
    }
    drain(w, n);
    if (w->digests)
        w->digest = fold(w->digest, vshard_raft_digest(n->raft));
    return rc;
}

static void open_group(struct world *w, struct node *n, uint32_t g, bool first)
{
    struct vshard_raft_member m[NODES_MAX] = { 0 };
    struct disk_group *d = &n->disk[g];
    struct vshard_raft_boot b = { .size = sizeof b, .group = g + 1 };
    int rc;

    memset(&n->machine[g], 0, sizeof n->machine[g]);
    n->seen_term[g] = n->seen_commit[g] = 0;
    n->seen_role[g] = n->compacting[g] = n->seen_asleep[g] = 0;
    if (d->exists) {
        b.term = d->term;
        b.vote = d->vote;
        b.commit = w->forgetful ? d->snapshot : d->commit; /* it may be old */
        b.flags = d->uncertain ? VSHARD_RAFT_UNCERTAIN : 0;
        b.snapshot_index = b.applied = d->snapshot;
        b.snapshot_term = d->snapshot_term;
        b.meta = d->meta.p;
        b.meta_count = d->meta.n;
        if (d->snapshot != 0)
            memcpy(&n->machine[g], d->state.p, sizeof n->machine[g]);
    } else if (first && n->incarnation == n->id) {
        for (uint32_t i = 0; i < w->first_members; i++)
            m[i] =
                (struct vshard_raft_member){ i + 1, w->node[i + 1].incarnation, VSHARD_RAFT_VOTER,
                                             i == 0 && w->groups > GROUPS_FEW };
        b.members = m;
        b.member_count = w->first_members;
    }
    rc = vshard_raft_open(n->raft, &b);
    if (rc == VSHARD_OK)
        rc = vshard_raft_load(n->raft, g + 1, d->entry, d->count);
    if (rc == VSHARD_OK)
        rc = vshard_raft_start(n->raft, g + 1, node_clock(w, n));
    if (rc != VSHARD_OK)
        fail(
            w,
            "n%u cannot open group %u: %s; term %llu, snapshot %llu of term %llu, entries %llu..%llu",
            n->id, g + 1, vshard_strerror(rc), (unsigned long long)d->term,
            (unsigned long long)d->snapshot, (unsigned long long)d->snapshot_term,
            (unsigned long long)d->first, (unsigned long long)(d->first + d->count - 1));
    drain(w, n);
}

void node_start(struct world *w, struct node *n, bool first)
{
    struct vshard_raft_options o = { .size = sizeof o,
                                     .node = n->id,
                                     .incarnation = n->incarnation,
                                     .seed = w->seed,
                                     .max_message = 400,
                                     .max_inflight = 4,
                                     .max_cache_bytes = 600,
                                     .max_uncommitted_bytes = 4000,
                                     .max_sessions = w->max_sessions,
                                     .heartbeat_ns = 30 * MS / w->scale,
                                     .election_ns = 150 * MS / w->scale,
                                     .idle_ns = w->idle_ns / w->scale,
                                     .clock_drift_ppm = w->drift_ppm,
                                     .allocator = &w->allocator };

    memset(n->spoken, 0, sizeof n->spoken);
    memset(n->heard_boot, 0, sizeof n->heard_boot);
    if (n->boot != 0 && world_chance(w, w->rolling))
        n->build = 1 + (uint32_t)world_random(w, 2);
    n->boot++;
    o.boot = store_open(w, n);
    o.incarnation = n->incarnation; /* a disk may be found lost only now */
    n->alive = 1;
    n->poisoned = 0;
    n->timer_at = n->sync_at = n->durable = 0;
    if (vshard_raft_create(&o, &n->raft) != VSHARD_OK)
        fail(w, "n%u cannot start", n->id);
    story_say(w, n, "starts");
    for (uint32_t g = 0; g < w->groups; g++)
        open_group(w, n, g, first && n->id <= w->first_members);
}

static void drop_volatile(struct node *n)
{
    for (size_t i = 0; i < n->held_count; i++)
        bytes_free(&n->held[i].bytes);
    n->held_count = 0;
    for (uint32_t g = 0; g < GROUPS_MAX; g++) {
        bytes_free(&n->incoming[g]);
        n->piece[g].kind = 0;
    }
}

void node_crash(struct world *w, struct node *n)
{
    if (!n->alive)
        return;
    story_say(w, n, "crashes");
    store_crash(n);
    n->alive = 0;
    drop_volatile(n);
    vshard_raft_destroy(n->raft);
    n->raft = NULL;
    client_crashed(w, n);
}

void node_wipe(struct world *w, struct node *n)
{
    node_crash(w, n);
    story_say(w, n, "loses its disk");
    store_wipe(w, n);
}

void node_lose_tail(struct world *w, struct node *n)
{
    node_crash(w, n);
    story_say(w, n, "may have lost the end of its log");
    store_lose_tail(w, n);
}

/* ---- events ---- */

static void on_fetch(struct world *w, struct node *n, const struct event *e)
{
    struct vshard_raft_entry entries[8];
    bool fails = world_chance(w, w->unreadable);
    size_t count = fails ? 0 : store_read(w, n, (uint32_t)e->a, e->b, entries);

    node_event(w, n,
               (struct vshard_raft_event){ .kind = VSHARD_RAFT_FETCHED,
                                           .group = e->a + 1,
                                           .node = e->c,
                                           .index = e->b,
                                           .entries = entries,
                                           .entry_count = (uint32_t)count,
                                           .status = fails   ? VSHARD_EIO
                                                     : count ? VSHARD_OK
                                                             : VSHARD_ENOTFOUND });
    store_read_free(entries, count);
}

static void on_chunk(struct world *w, struct node *n, const struct event *e)
{
    const struct disk_group *d = &n->disk[e->a];
    struct vshard_raft_event x = { .kind = VSHARD_RAFT_CHUNK,
                                   .group = e->a + 1,
                                   .node = e->c >> 32,
                                   .index = e->b,
                                   .offset = e->c & UINT32_MAX,
                                   .status = VSHARD_ENOTFOUND };

    if (world_chance(w, w->unreadable)) {
        x.status = VSHARD_EIO;
    } else if (d->snapshot == e->b && x.offset <= d->state.n) {
        x.status = VSHARD_OK;
        x.bytes = d->state.p + x.offset;
        x.byte_count = d->state.n - x.offset;
        if (x.byte_count > CHUNK)
            x.byte_count = CHUNK;
        x.flags = x.offset + x.byte_count == d->state.n ? VSHARD_RAFT_LAST : 0;
    }
    node_event(w, n, x);
}

/* A snapshot that another replica sent, and that is on its way to the disk, is newer. */
static bool is_overtaken(const struct node *n, const struct write *snapshot)
{
    for (size_t i = 0; i < n->write_count; i++) {
        const struct write *x = &n->write[i];

        if (x->kind == WRITE_INSTALL && x->group == snapshot->group && x->index >= snapshot->index)
            return true;
    }
    return false;
}

static void on_written(struct world *w, struct node *n, const struct event *e)
{
    struct write x = { .kind = WRITE_SNAPSHOT, .group = (uint32_t)e->a };

    if (e->c != 0) {
        node_event(w, n,
                   (struct vshard_raft_event){ .kind = VSHARD_RAFT_CHUNK_WRITTEN,
                                               .group = e->a + 1,
                                               .index = e->b,
                                               .offset = e->c,
                                               .status = n->full_until > w->now ? VSHARD_ENOSPC
                                                                                : VSHARD_OK });
        return;
    }
    x.index = n->meta_index[x.group];
    x.term = n->meta_term[x.group];
    x.through = x.index > TRAILING ? x.index - TRAILING : 0;
    if (x.index <= n->disk[x.group].snapshot || is_overtaken(n, &x)) {
        n->compacting[x.group] = 0;
        return;
    }
    bytes_set(&x.meta, n->meta[x.group].p, n->meta[x.group].n);
    bytes_set(&x.state, n->meta_state[x.group].p, n->meta_state[x.group].n);
    store_snapshot(w, n, &x);
}

static void on_install(struct world *w, struct node *n, struct event *e)
{
    uint32_t g = (uint32_t)e->a;
    struct write x = {
        .kind = WRITE_INSTALL, .group = g, .index = e->b, .term = e->c, .through = e->b
    };

    if (n->incoming[g].n != STATE_BYTES)
        fail(w, "n%u installs %zu bytes of a snapshot", n->id, n->incoming[g].n);
    if (e->b <= n->disk[g].snapshot || e->b < n->machine[g].applied)
        fail(w, "n%u installs snapshot %llu over %llu", n->id, (unsigned long long)e->b,
             (unsigned long long)n->machine[g].applied);
    bytes_set(&x.meta, e->bytes.p, e->bytes.n);
    bytes_set(&x.state, n->incoming[g].p, n->incoming[g].n);
    store_snapshot(w, n, &x);
}

static void on_snapshot(struct world *w, struct node *n, const struct event *e)
{
    int rc = node_event(
        w, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT, .group = e->a + 1 });
    if (rc != VSHARD_OK)
        n->compacting[e->a] = 0;
}

void node_reopen(struct world *w, struct node *n, uint32_t g)
{
    struct vshard_raft_status s = { .size = sizeof s };
    const struct vshard_raft_effect *e;

    if (!n->alive || n->poisoned || n->paused_until > w->now || n->write_count != 0 ||
        vshard_raft_inspect(n->raft, g + 1, &s) != VSHARD_OK || s.stopped || !s.term_durable ||
        s.durable != s.last)
        return;
    story_say(w, n, "closes its group and opens it again");
    w->reopened++;
    if (vshard_raft_close(n->raft, g + 1) != VSHARD_OK)
        fail(w, "n%u cannot close group %u", n->id, g + 1);
    while ((e = vshard_raft_next(n->raft)) != NULL)
        on_effect(w, n, e);
    n->life[g]++;
    n->piece[g].kind = 0;
    bytes_free(&n->incoming[g]);
    open_group(w, n, g, false);
}

static void on_node_event(struct world *w, struct node *n, struct event *e)
{
    if (e->life != 0 && e->life != n->life[e->a])
        return;
    switch (e->kind) {
    case EV_DELIVER: network_deliver(w, n, e); break;
    case EV_TIMER:
        if (n->timer_at == e->at)
            n->timer_at = 0;
        node_event(w, n, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
        break;
    case EV_SYNC:
        if (n->sync_at != 0 && e->at >= n->sync_at)
            store_sync(w, n, e->a);
        break;
    case EV_APPLIED:
        node_event(w, n,
                   (struct vshard_raft_event){
                       .kind = VSHARD_RAFT_APPLIED, .group = e->a + 1, .index = e->b });
        break;
    case EV_FETCH: on_fetch(w, n, e); break;
    case EV_CHUNK: on_chunk(w, n, e); break;
    case EV_WRITTEN: on_written(w, n, e); break;
    case EV_INSTALL: on_install(w, n, e); break;
    case EV_SNAPSHOT: on_snapshot(w, n, e); break;
    default: break;
    }
}

bool world_step(struct world *w)
{
    struct event e;
    struct node *n;

    if (w->queue_count == 0)
        return false;
    e = pop(w);
    w->now = e.at;
    if (e.kind == EV_CLIENT) {
        client_act(w, &w->client[e.a]);
    } else if (e.kind == EV_FAULT) {
        fault_act(w, &e);
    } else if (e.kind == EV_RESTART) {
        if (!w->node[e.node].alive && !(w->fenced >> e.node & 1))
            node_start(w, &w->node[e.node], true);
    } else {
        n = &w->node[e.node];
        if (n->alive && n->paused_until > w->now) {
            world_at(w, n->paused_until, e);
            /* The copy in the queue keeps the order and the bytes. */
            return true;
        }
        if (n->alive && !n->poisoned && (e.boot == n->boot || e.boot == 0))
            on_node_event(w, n, &e);
    }
    bytes_free(&e.bytes);
    return true;
}

struct world *world_new(uint64_t seed, uint32_t nodes, uint32_t groups, uint32_t members)
{
    struct world *w = calloc(1, sizeof *w);

    w->seed = w->random = w->aside = seed;
    w->nodes = nodes;
    w->groups = groups;
    w->first_members = members;
    w->delay_ns = MS / 5;
    w->delay_spread = MS;
    w->clients = CLIENTS / 2;
    w->max_sessions = SESSIONS_MAX;
    w->drift_ppm = 1000;
    w->scale = 1;
    w->allocator = (struct vshard_allocator){ resize, w };
    for (uint32_t i = 1; i <= nodes; i++) {
        w->node[i].id = i;
        w->node[i].incarnation = i;
        w->node[i].disk_ns = MS / 2;
        w->node[i].build = 1;
        for (uint32_t g = 0; g < GROUPS_MAX; g++)
            w->node[i].life[g] = 1;
    }
    return w;
}

void world_free(struct world *w)
{
    for (uint32_t i = 1; i <= w->nodes; i++) {
        struct node *n = &w->node[i];

        vshard_raft_destroy(n->raft);
        drop_volatile(n);
        free(n->held);
        store_free(w, n);
        for (uint32_t g = 0; g < GROUPS_MAX; g++) {
            bytes_free(&n->meta[g]);
            bytes_free(&n->meta_state[g]);
        }
    }
    if (w->live_blocks != 0)
        fail(w, "%lld blocks were never released", (long long)w->live_blocks);
    for (size_t i = 0; i < w->queue_count; i++)
        bytes_free(&w->queue[i].bytes);
    for (uint32_t g = 0; g < GROUPS_MAX; g++) {
        struct group_truth *t = &w->truth[g];
        for (size_t i = 0; i < t->record_cap; i++)
            free(t->record[i].variant);
        free(t->record);
        free(t->committed);
        free(t->reign);
        free(t->floor_at);
        free(t->floor_index);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        free(w->client[i].history);
        free(w->client[i].history_key);
    }
    free(w->past.committed);
    free(w->queue);
    free(w);
}
