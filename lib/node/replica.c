/* replica.c - one replica of a group: born or loaded, fed with what is committed.
 *
 * The core is told APPLIED as soon as entries are queued here, so that a write is
 * acknowledged when it is durable. What is searchable follows: an entry is staged, which is
 * soon done, then applied, which is not: `applied` is where the shard stands. When more than
 * backlog_bytes wait, the core is told later, and writes are refused at the door.
 *
 * The map's replica applies in the control thread: its entries are few and small.
 *
 * Not here: staging, which is stage.c; snapshots, frozen.c; the items themselves, work.c. */
#include "node/core.h"

enum { DIGEST_EVERY = 4096, REST_NS = 1000000000, AGAIN_NS = 1000000000, AGAIN_MOST = 6 };

/* ---- the table ---- */

static uint32_t place_of(const struct vshard_node *n, uint64_t group)
{
    uint32_t low = 0, high = n->replica_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (n->replica[middle]->group < group)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct vs_replica *vs_replica_find(const struct vshard_node *n, uint64_t group)
{
    uint32_t at = place_of(n, group);

    return at < n->replica_count && n->replica[at]->group == group ? n->replica[at] : NULL;
}

static bool table_room(struct vshard_node *n)
{
    uint32_t cap = n->replica_cap ? 2 * n->replica_cap : 16;
    struct vs_replica **table;

    if (n->replica_count < n->replica_cap)
        return true;
    table = vs_alloc(n->allocator, cap * sizeof(struct vs_replica *));
    if (table == NULL)
        return false;
    if (n->replica_count != 0)
        memcpy(table, n->replica, n->replica_count * sizeof(struct vs_replica *));
    vs_free(n->allocator, n->replica, n->replica_cap * sizeof(struct vs_replica *));
    n->replica = table;
    n->replica_cap = cap;
    return true;
}

struct vs_shard_plan vs_plan_of(const struct vshard_node *n, const struct vs_collection *c)
{
    const struct vshard_collection *s = &c->spec;
    struct vs_shard_plan plan = { .dim = s->dim,
                                  .family = s->family,
                                  .metric = s->metric,
                                  .element = s->element,
                                  .m = s->m,
                                  .ef_construction = s->ef_construction,
                                  .train_rows = s->train_rows,
                                  .profile = s->profile,
                                  .attribute_count = s->attribute_count,
                                  .newest = vs_level_apply(n->level),
                                  .seed = s->seed,
                                  .allocator = n->allocator,
                                  .logger = n->logger,
                                  .executor = n->executor,
                                  .storage = &n->storage };

    memcpy(plan.attributes, c->attributes, sizeof plan.attributes);
    return plan;
}

int vs_replica_add(struct vshard_node *n, uint64_t group, const struct vs_collection *c,
                   uint32_t number, struct vs_replica **out)
{
    struct vs_replica *r = vs_alloc_zeroed(n->allocator, sizeof *r);
    uint32_t at = place_of(n, group);

    if (r == NULL || !table_room(n)) {
        vs_free(n->allocator, r, sizeof *r);
        return VSHARD_ENOMEM;
    }
    r->group = group;
    r->number = number;
    r->entries_end = &r->entries;
    if (c != NULL) {
        r->collection = c->id;
        r->plan = vs_plan_of(n, c);
    }
    memmove(&n->replica[at + 1], &n->replica[at],
            (n->replica_count - at) * sizeof(struct vs_replica *));
    n->replica[at] = r;
    n->replica_count++;
    *out = r;
    return VSHARD_OK;
}

static void entry_free(struct vshard_node *n, struct vs_entry *e)
{
    vs_free(n->allocator, e, sizeof *e + e->count);
}

static void drop_entries(struct vshard_node *n, struct vs_replica *r)
{
    while (r->entries != NULL) {
        struct vs_entry *e = r->entries;

        r->entries = e->next;
        r->backlog -= e->count;
        entry_free(n, e);
    }
    r->entries_end = &r->entries;
}

/* Of a replica that no item names. */
void vs_replica_free(struct vshard_node *n, struct vs_replica *r)
{
    uint32_t at = place_of(n, r->group);

    drop_entries(n, r);
    while (r->waiting != NULL) {
        struct vs_serving *s = r->waiting;

        r->waiting = s->next;
        vs_serving_free(n, s);
    }
    while (r->parked != NULL) {
        struct vs_parked *p = r->parked;

        r->parked = p->next;
        vs_free(n->allocator, p, sizeof *p);
    }
    vs_replica_snapshot_drop(n, r);
    vs_shard_destroy(r->shard);
    n->replica_count--;
    memmove(&n->replica[at], &n->replica[at + 1],
            (n->replica_count - at) * sizeof(struct vs_replica *));
    vs_free(n->allocator, r, sizeof *r);
}

void vs_replica_halt(struct vshard_node *n, struct vs_replica *r, int status)
{
    if (r->status == VSHARD_OK) {
        vs_node_event(n, VSHARD_LOG_ERROR, "node.halted", r->group, vshard_strerror(status),
                      status);
        r->halted_ns = n->now;
    }
    r->status = status;
    vs_serve_leave(n, r);
}

/* After a second, and twice as long each time, up to about a minute. */
void vs_replica_wait(struct vshard_node *n, struct vs_replica *r, const char *event)
{
    vs_node_event(n, VSHARD_LOG_WARN, event, r->group, vshard_strerror(VSHARD_ENOMEM),
                  VSHARD_ENOMEM);
    r->again_ns = n->now + ((uint64_t)AGAIN_NS << r->failures);
    r->failures += r->failures < AGAIN_MOST;
}

uint64_t vs_replica_epoch(const struct vs_replica *r)
{
    return r->term >> 48;
}

bool vs_replica_came(struct vshard_node *n, const struct vs_replica *r, uint64_t at)
{
    struct vshard_raft_status s = { .size = sizeof s };
    struct vs_members now = { .count = 0 };

    return vshard_raft_members(n->raft, r->group, now.member, &now.count) == VSHARD_OK &&
           vs_member_find(&now, n->node, n->incarnation) != NULL &&
           vshard_raft_inspect(n->raft, r->group, &s) == VSHARD_OK && at >= s.config;
}

/* ---- starting ---- */

static int load_meta(struct vshard_node *n, const char *base, struct vs_cluster *to, void **meta,
                     size_t *meta_bytes)
{
    char path[4096];
    void *bytes;
    size_t count;
    struct vs_in in;
    uint32_t head;
    int rc;

    memcpy(path, base, strlen(base) + 1);
    strncat(path, ".map", sizeof path - strlen(path) - 1);
    rc = vs_file_read(&n->storage, n->allocator, path, &bytes, &count);
    if (rc != VSHARD_OK)
        return rc;
    in = (struct vs_in){ .at = bytes, .left = count >= 8 ? count - 8 : 0 };
    if (count < 8 ||
        vs_checksum(bytes, count - 8, 0) != vs_load64((const unsigned char *)bytes + count - 8))
        rc = VSHARD_ECORRUPT;
    head = vs_take32(&in);
    if (rc == VSHARD_OK && (head == 0 || head > in.left))
        rc = VSHARD_ECORRUPT;
    if (rc == VSHARD_OK) {
        *meta = vs_alloc(n->allocator, head);
        rc = *meta ? VSHARD_OK : VSHARD_ENOMEM;
    }
    if (rc == VSHARD_OK) {
        *meta_bytes = head;
        memcpy(*meta, vs_take_bytes(&in, head), head);
        rc = vs_cluster_decode(to, &in);
    }
    vs_free(n->allocator, bytes, count);
    return rc;
}

/* Sets what the log says of the group's promises and of its snapshot; false: there is none. */
static bool find_snapshot(struct vshard_node *n, struct vs_replica *r, int *status)
{
    struct vshard_wal_group about = { .size = sizeof about };

    *status = vshard_wal_find(n->wal, r->group, &about);
    if (*status == VSHARD_OK && about.voted) { /* it may be dropped before it is open */
        r->term = about.vote_term;
        r->vote = about.vote;
    }
    if (*status != VSHARD_OK || about.mark_index == 0) {
        *status = *status == VSHARD_ENOTFOUND ? VSHARD_OK : *status;
        return false;
    }
    if (about.mark_bytes != 16) {
        *status = VSHARD_ECORRUPT;
        return false;
    }
    r->snapshot_index = vs_load64(about.mark);
    r->snapshot_term = vs_load64((const unsigned char *)about.mark + 8);
    return true;
}

/* What the core is told of it: of a shard, what an item has read (vs_replica_start). */
static int use_snapshot(struct vshard_node *n, struct vs_replica *r, struct vshard_raft_boot *boot,
                        void **meta, size_t *meta_bytes)
{
    char path[4096];
    int rc = VSHARD_OK;

    if (r->snapshot_index == 0)
        return VSHARD_OK;
    if (r->group == VS_META) {
        vs_snapshot_path(n, path, r->group, r->snapshot_index);
        rc = load_meta(n, path, &n->meta, meta, meta_bytes);
    }
    if (rc == VSHARD_ENOTFOUND)
        rc = VSHARD_ECORRUPT; /* the log names it */
    if (rc != VSHARD_OK)
        return rc;
    if (r->shard != NULL)
        atomic_store(&r->rows, vs_shard_rows(r->shard));
    boot->snapshot_index = boot->applied = r->snapshot_index;
    boot->snapshot_term = r->snapshot_term;
    boot->meta = *meta;
    boot->meta_count = *meta_bytes;
    r->queued = r->acknowledged = r->snapshot_index;
    atomic_store(&r->applied, r->snapshot_index);
    return VSHARD_OK;
}

static int load_entries(struct vshard_node *n, struct vs_replica *r, uint64_t first)
{
    struct vs_gathered g = { .limit = 4 << 20 };
    int rc;

    for (;; first += g.count) {
        vs_gathered_free(&g);
        rc = vs_gather(n, r->group, first, &g);
        if (rc == VSHARD_OK && g.count != 0)
            rc = vshard_raft_load(n->raft, r->group, g.entry, g.count);
        if (rc != VSHARD_OK || g.count == 0)
            break;
    }
    vs_gathered_free(&g);
    return rc;
}

/* The founders, if this node is one and has nothing of the group on disk. Of several voters
 * the first is preferred as leader: placement turns who is first. */
static uint32_t founders_of(const struct vshard_node *n, const struct vs_replica *r,
                            struct vshard_raft_member *member)
{
    const struct vs_meta_shard *shard = vs_cluster_group(&n->meta, r->group, NULL);
    uint32_t count = 0;
    bool here = false;

    for (uint32_t i = 0; r->group == VS_META && i < n->founder_count; i++) {
        member[count++] = (struct vshard_raft_member){
            n->founders[i], 1, i < VS_META_VOTERS ? VSHARD_RAFT_VOTER : VSHARD_RAFT_LEARNER, 0
        };
        here |= n->founders[i] == n->node && n->incarnation == 1;
    }
    for (uint32_t i = 0; shard != NULL && i < shard->founder_count; i++) {
        member[count++] =
            (struct vshard_raft_member){ shard->founders[i].node, shard->founders[i].incarnation,
                                         VSHARD_RAFT_VOTER, i == 0 };
        here |=
            shard->founders[i].node == n->node && shard->founders[i].incarnation == n->incarnation;
    }
    return here ? count : 0;
}

static int open_group(struct vshard_node *n, struct vs_replica *r, void **meta, size_t *meta_bytes)
{
    struct vshard_wal_group about = { .size = sizeof about };
    struct vshard_raft_boot boot = { .size = sizeof boot, .group = r->group };
    struct vshard_raft_member member[VSHARD_NODES_MAX];
    int rc = vshard_wal_find(n->wal, r->group, &about);
    bool known = rc == VSHARD_OK && (about.voted || about.mark_index != 0 || about.last_term != 0);

    if (rc != VSHARD_OK && rc != VSHARD_ENOTFOUND)
        return rc;
    rc = known ? use_snapshot(n, r, &boot, meta, meta_bytes) : VSHARD_OK;
    if (rc == VSHARD_OK && r->group != VS_META && r->shard == NULL)
        rc = vs_shard_create(&r->plan, &r->shard);
    if (rc != VSHARD_OK)
        return rc;
    if (known) {
        boot.term = r->term = about.voted ? about.vote_term : 0;
        boot.vote = r->vote = about.voted ? about.vote : 0;
        boot.commit = r->commit = about.commit;
    } else if (!n->unsettled) {
        boot.member_count = founders_of(n, r, member);
        boot.members = member;
    }
    /* Without a record it may have been born, and have voted, all the same. */
    boot.flags = n->unsettled ? VSHARD_RAFT_UNCERTAIN : 0;
    rc = vshard_raft_open(n->raft, &boot);
    if (rc == VSHARD_OK && known && about.last_term != 0)
        rc = load_entries(n, r, about.first);
    return rc;
}

static int start(struct vshard_node *n, struct vs_replica *r, void **meta, size_t *meta_bytes)
{
    int rc = open_group(n, r, meta, meta_bytes);

    if (rc == VSHARD_OK)
        rc = vshard_raft_start(n->raft, r->group, n->now);
    if (rc != VSHARD_OK)
        return rc;
    r->open = 1;
    r->failures = 0;
    r->comes = !vs_replica_came(n, r, VS_NEVER);
    vs_take_effects(n);
    return VSHARD_OK;
}

int vs_replica_start(struct vshard_node *n, struct vs_replica *r)
{
    void *meta = NULL;
    size_t meta_bytes = 0;
    struct vs_item *item;
    int rc;

    if (find_snapshot(n, r, &rc) && r->group != VS_META) {
        /* Some 100 MB are read and verified: not between two heartbeats. */
        item = vs_item_new(n, VS_ITEM_OPEN, r);
        if (item == NULL)
            return VSHARD_ENOMEM;
        item->index = r->snapshot_index;
        vs_item_push(n, item);
        return VSHARD_OK;
    }
    if (rc == VSHARD_OK)
        rc = start(n, r, &meta, &meta_bytes);
    vs_free(n->allocator, meta, meta_bytes);
    return rc;
}

static void begun(struct vshard_node *n, struct vs_replica *r, int rc)
{
    if (rc == VSHARD_ENOMEM)
        vs_replica_wait(n, r, "node.open");
    else if (rc != VSHARD_OK)
        vs_replica_halt(n, r, rc);
}

/* Its snapshot has been read. */
static void open_finished(struct vshard_node *n, struct vs_replica *r, struct vs_item *item)
{
    int rc = item->status == VSHARD_ENOTFOUND ? VSHARD_ECORRUPT : item->status;

    if (r->dropped)
        return;
    if (rc == VSHARD_OK)
        rc = start(n, r, &item->bytes, &item->count);
    begun(n, r, rc);
}

void vs_replica_begin(struct vshard_node *n, struct vs_replica *r)
{
    int rc;

    if (r->open || r->dropped || r->items != 0 || r->status != VSHARD_OK || n->now < r->again_ns)
        return;
    rc = vshard_raft_close(n->raft, r->group);
    vs_take_effects(n);
    if (rc != VSHARD_ENOMEM) {
        vs_shard_destroy(r->shard);
        r->shard = NULL;
        rc = vs_replica_start(n, r);
    }
    begun(n, r, rc);
}

/* ---- applying ---- */

static int queue_entry(struct vshard_node *n, struct vs_replica *r,
                       const struct vshard_raft_entry *x)
{
    bool batch = x->kind == VSHARD_RAFT_DATA && x->flags == 0;
    size_t count = batch ? (size_t)x->count : 0;
    struct vs_entry *e = vs_alloc(n->allocator, sizeof *e + count);

    if (e == NULL)
        return VSHARD_ENOMEM;
    *e = (struct vs_entry){ .index = x->index, .count = count };
    if (count != 0)
        memcpy(e + 1, x->data, count);
    *r->entries_end = e;
    r->entries_end = &e->next;
    if (r->unstaged == NULL)
        r->unstaged = e;
    r->backlog += count;
    r->since_snapshot += count;
    return VSHARD_OK;
}

/* Entries that were applied once stand before those that wait. */
int vs_replica_requeue(struct vshard_node *n, struct vs_replica *r,
                       const struct vshard_raft_entry *entries, uint32_t count)
{
    struct vs_entry *behind = r->entries, **end = r->entries_end;
    uint64_t since_snapshot = r->since_snapshot;
    int rc = VSHARD_OK;

    r->entries = NULL;
    r->entries_end = &r->entries;
    for (uint32_t i = 0; rc == VSHARD_OK && i < count; i++)
        rc = queue_entry(n, r, &entries[i]);
    if (rc != VSHARD_OK) {
        drop_entries(n, r);
        r->since_snapshot = since_snapshot;
    }
    *r->entries_end = behind;
    if (behind != NULL)
        r->entries_end = end;
    vs_stage_again(r);
    return rc;
}

static void apply_map(struct vshard_node *n, struct vs_replica *r,
                      const struct vshard_raft_effect *e)
{
    int rc = VSHARD_OK;

    for (uint32_t i = 0; rc == VSHARD_OK && i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];

        vs_cluster_epoch(&n->meta, x->term >> 48);
        if (x->kind == VSHARD_RAFT_DATA && x->flags == 0)
            rc = vs_cluster_apply(&n->meta, x->index, x->data, (size_t)x->count);
        r->since_snapshot += x->count;
    }
    if (rc != VSHARD_OK) {
        vs_node_fail(n, rc, "the map cannot be applied");
        return;
    }
    r->queued = r->acknowledged = e->index;
    atomic_store(&r->applied, e->index);
    n->meta_seen = 0;
    vs_todo_push(
        n, (struct vs_todo){ .kind = VSHARD_RAFT_APPLIED, .group = r->group, .index = e->index });
}

static void acknowledge(struct vshard_node *n, struct vs_replica *r)
{
    r->acknowledged = r->queued;
    vs_todo_push(
        n, (struct vs_todo){ .kind = VSHARD_RAFT_APPLIED, .group = r->group, .index = r->queued });
}

/* One that has halted applies nothing any more; what it is given is let go, here and in the core,
 * which would keep it for ever. */
static void pass_over(struct vshard_node *n, struct vs_replica *r)
{
    if (!r->apply_busy && !r->stage_busy) {
        drop_entries(n, r);
        vs_stage_again(r);
    }
    if (r->acknowledged < r->queued)
        acknowledge(n, r);
}

void vs_replica_apply(struct vshard_node *n, struct vs_replica *r,
                      const struct vshard_raft_effect *e)
{
    int rc = VSHARD_OK;

    if (r->group == VS_META) {
        apply_map(n, r, e);
        return;
    }
    if (r->status != VSHARD_OK) {
        r->queued = e->index;
        pass_over(n, r);
        return;
    }
    for (uint32_t i = 0; rc == VSHARD_OK && i < e->entry_count; i++)
        rc = queue_entry(n, r, &e->entries[i]);
    if (rc != VSHARD_OK) {
        vs_node_fail(n, rc, "committed entries");
        return;
    }
    r->queued = e->index;
    if (r->backlog <= n->o.backlog_bytes)
        acknowledge(n, r);
    vs_replica_more(n, r);
}

/* Replicas take their digests at the same positions, so that they can be compared: at
 * multiples of DIGEST_EVERY, and where a log has come to rest. Nothing is applied before
 * it is taken; what could not be taken then is of no position any more. True if one was asked
 * for. */
static bool take_digest(struct vshard_node *n, struct vs_replica *r, bool idle)
{
    uint64_t at = atomic_load(&r->applied);
    struct vs_item *item;

    if (r->digest_busy || r->row != 0 || at == 0 || at <= r->digest_index ||
        (at % DIGEST_EVERY != 0 && !idle))
        return false;
    item = vs_item_new(n, VS_ITEM_DIGEST, r);
    if (item == NULL)
        return false;
    r->digest_busy = 1;
    vs_item_push(n, item);
    return true;
}

void vs_replica_rest(struct vshard_node *n, struct vs_replica *r)
{
    uint64_t at = atomic_load(&r->applied);

    if (r->group != VS_META && r->open && !r->dropped && r->status != VSHARD_OK)
        pass_over(n, r);
    if (r->group == VS_META || !r->open || r->dropped || r->status != VSHARD_OK || r->diverged ||
        r->entries != NULL || r->apply_busy)
        return;
    if (at != r->rest_index) {
        r->rest_index = at;
        r->rest_ns = n->now;
    } else if (n->now - r->rest_ns >= REST_NS) {
        vs_persist_commit(n, r); /* who starts again then has it before anybody leads */
        take_digest(n, r, true);
    }
}

/* The first that has not been applied: some before it may be there, while an item that was to
 * stage them is not finished. */
static struct vs_entry *unapplied(const struct vs_replica *r)
{
    struct vs_entry *e = r->entries;

    while (e != NULL && e->index <= atomic_load(&r->applied))
        e = e->next;
    return e;
}

void vs_replica_more(struct vshard_node *n, struct vs_replica *r)
{
    bool stages = r->group != VS_META && vs_plan_stages(&r->plan);
    struct vs_entry *first;
    struct vs_item *item;
    uint64_t border;

    /* One that has diverged is to come to rest: what is applied now would be applied again. */
    if (r->diverged || r->refilling || r->dropped || r->status != VSHARD_OK)
        return;
    if (stages)
        vs_stage_more(n, r);
    first = r->apply_busy ? NULL : unapplied(r);
    if (first == NULL || (stages && first->index > vs_replica_searchable(r)))
        return;
    take_digest(n, r, false);
    item = vs_item_new(n, VS_ITEM_APPLY, r);
    if (item == NULL)
        return; /* at a later turn */
    /* As many as there are now: their links do not change any more, but for the last's. */
    item->entry = first;
    border = (first->index + DIGEST_EVERY - 1) / DIGEST_EVERY * DIGEST_EVERY;
    if (r->snapshot != NULL && r->snapshot->index < border)
        border = r->snapshot->index;
    if (stages && vs_replica_searchable(r) < border)
        border = vs_replica_searchable(r);
    for (struct vs_entry *e = first;
         e != NULL && item->entries < VS_CHUNK_ROWS && e->index <= border; e = e->next)
        item->entries++;
    r->apply_busy = 1;
    r->apply_from = first->index;
    vs_item_push(n, item);
}

/* Entries up to this are of no use any more: they are applied, and no item walks them. */
static uint64_t done_with(const struct vs_replica *r)
{
    uint64_t through = atomic_load(&r->applied);

    if (r->apply_busy && r->apply_from <= through)
        through = r->apply_from - 1;
    if (r->stage_busy && r->stage_from <= through)
        through = r->stage_from - 1;
    return through;
}

/* The first entries have been applied; their memory goes. */
static void applied(struct vshard_node *n, struct vs_replica *r)
{
    uint64_t through = done_with(r);

    while (r->entries != NULL && r->entries->index <= through) {
        struct vs_entry *e = r->entries;

        r->entries = e->next;
        if (r->unstaged == e)
            r->unstaged = e->next;
        if (r->entries == NULL)
            r->entries_end = &r->entries;
        r->backlog -= e->count;
        entry_free(n, e);
    }
    if (r->acknowledged < r->queued && r->backlog <= n->o.backlog_bytes)
        acknowledge(n, r);
    vs_serve_ready(n, r);
    vs_write_parked(n, r);
}

static void stage_finished(struct vshard_node *n, struct vs_replica *r, const struct vs_item *item)
{
    vs_stage_finished(r, item);
    applied(n, r);
    if (item->status != VSHARD_OK && item->status != VSHARD_EBUSY && item->status != VSHARD_ENOMEM)
        vs_replica_halt(n, r, item->status);
    vs_replica_more(n, r);
}

static void apply_finished(struct vshard_node *n, struct vs_replica *r, const struct vs_item *item)
{
    r->apply_busy = 0;
    applied(n, r);
    if (item->status != VSHARD_OK && item->status != VSHARD_ENOMEM)
        vs_replica_halt(n, r, item->status);
    vs_replica_stands(n, r);
    vs_stage_moves(r);
    vs_replica_more(n, r);
}

static void search_finished(struct vshard_node *n, struct vs_replica *r, struct vs_item *item)
{
    vs_serve_done(n, item);
    if (r->tail_kept != 0 && !r->apply_busy) {
        vs_stage_moves(r);
        vs_replica_more(n, r);
    }
}

static void digest_finished(struct vs_replica *r, const struct vs_item *item)
{
    r->digest_busy = 0;
    if (item->status != VSHARD_OK)
        return;
    r->digest = item->digest;
    r->digest_index = item->position;
}

static void chunk_finished(struct vshard_node *n, struct vs_replica *r, const struct vs_item *item)
{
    struct vshard_raft_event event = vs_event(VSHARD_RAFT_CHUNK, r->group);

    event.node = item->node;
    event.index = item->index;
    event.offset = item->offset;
    event.status = item->status;
    if (item->status == VSHARD_OK) {
        event.bytes = item->bytes;
        event.byte_count = item->meta_bytes; /* read; the block may be larger */
        event.flags = item->last ? VSHARD_RAFT_LAST : 0;
    }
    if (vs_step(n, &event) == VSHARD_ENOMEM)
        vs_replica_no_chunk(n, r, item->node, item->index, item->offset, VSHARD_ENOMEM);
}

static void snapshot_finished(struct vshard_node *n, struct vs_replica *r,
                              const struct vs_item *item)
{
    if (r->diverged) { /* and so has what was saved, perhaps */
        vs_replica_untaken(n, r);
        return;
    }
    if (item->status != VSHARD_OK) {
        vs_node_event(n, VSHARD_LOG_WARN, "node.snapshot", r->group, vshard_strerror(item->status),
                      item->status);
        vs_replica_untaken(n, r); /* again when as much has come as before it */
        return;
    }
    vs_mark(n, r, r->compact_index, vshard_raft_term(n->raft, r->group, r->compact_index));
}

/* The map is the control thread's, so it is read here; into another one, which takes its place
 * when it is whole. */
static int adopt_map(struct vshard_node *n, struct vs_replica *r)
{
    struct vs_cluster *m = vs_alloc(n->allocator, sizeof *m);
    char path[4096];
    void *meta = NULL;
    size_t meta_bytes = 0;
    int rc;

    if (m == NULL)
        return VSHARD_ENOMEM;
    vs_cluster_init(m, n->allocator, n->logger);
    m->known = n->level;
    vs_snapshot_path(n, path, r->group, r->taking_index);
    rc = load_meta(n, path, m, &meta, &meta_bytes);
    vs_free(n->allocator, meta, meta_bytes);
    if (rc == VSHARD_OK)
        vs_map_adopt(n, m);
    vs_cluster_fini(m);
    vs_free(n->allocator, m, sizeof *m);
    if (rc != VSHARD_OK && rc != VSHARD_ENOMEM)
        vs_node_fail(n, rc, "the map cannot be installed");
    return rc;
}

static void install_finished(struct vshard_node *n, struct vs_replica *r,
                             const struct vs_item *item)
{
    int rc = item->status;

    if (rc == VSHARD_OK && r->group == VS_META)
        rc = adopt_map(n, r);
    if (rc != VSHARD_OK) {
        vs_node_event(n, VSHARD_LOG_WARN, "node.install", r->group, vshard_strerror(rc), rc);
        vs_replica_untaken(n, r);
        vs_todo_push(n, (struct vs_todo){ .kind = VSHARD_RAFT_INSTALLED,
                                          .group = r->group,
                                          .index = item->index,
                                          .status = VSHARD_EIO });
        return;
    }
    vs_node_event(n, VSHARD_LOG_INFO, "node.refilled", r->group, "to entry", (int64_t)item->index);
    r->queued = r->acknowledged = item->index;
    if (r->group != VS_META) {
        vs_stage_again(r);
        applied(n, r);
    }
    vs_mark(n, r, r->taking_index, r->taking_term);
}

void vs_replica_finished(struct vshard_node *n, struct vs_item *item)
{
    struct vs_replica *r = item->replica;

    r->items--;
    switch (item->kind) {
    case VS_ITEM_APPLY: apply_finished(n, r, item); break;
    case VS_ITEM_STAGE: stage_finished(n, r, item); break;
    case VS_ITEM_SEARCH: search_finished(n, r, item); break;
    case VS_ITEM_FETCH:
    case VS_ITEM_EXPORT: vs_serve_done(n, item); break;
    case VS_ITEM_META:
    case VS_ITEM_SNAPSHOT: snapshot_finished(n, r, item); break;
    case VS_ITEM_CHUNK: chunk_finished(n, r, item); break;
    case VS_ITEM_PIECE:
        vs_replica_wrote(n, r, item->index, item->offset + item->meta_bytes, item->status);
        break;
    case VS_ITEM_INSTALL: install_finished(n, r, item); break;
    case VS_ITEM_REFILL: vs_replica_refilled(n, r, item); break;
    case VS_ITEM_OPEN: open_finished(n, r, item); break;
    case VS_ITEM_CLOSE: n->steward_at = n->now; break; /* now it goes */
    default: digest_finished(r, item);
    }
    vs_item_free(n, item);
}
