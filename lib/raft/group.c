/* group.c - birth, inspection and end of a group. */
#include "raft/core.h"

int vs_config_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t more)
{
    return vs_grow(r->allocator, (void **)&g->config, &g->config_cap,
                   (uint64_t)g->config_count + more, sizeof *g->config);
}

/* For a configuration of `members`, whose nodes may be new to us. */
int vs_peers_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t members)
{
    uint32_t cap = g->peer_cap;
    int rc = vs_link_reserve(r, members);

    if (rc == VSHARD_OK)
        rc = vs_grow(r->allocator, (void **)&g->peer, &g->peer_cap, members, sizeof *g->peer);
    if (rc == VSHARD_OK && g->peer_cap != cap)
        memset(g->peer + cap, 0, (g->peer_cap - cap) * sizeof *g->peer);
    return rc;
}

/* The rows of the peers become those of the configuration in use; what is known
 * of members that stay, stays known. */
void vs_peers_follow(struct vshard_raft *r, struct vs_group *g)
{
    const struct vs_config *c = vs_config_now(g);
    struct vs_peer old[VSHARD_RAFT_MEMBERS_MAX];
    uint32_t rows = g->peer_cap < VSHARD_RAFT_MEMBERS_MAX ? g->peer_cap : VSHARD_RAFT_MEMBERS_MAX;

    VS_ASSERT(c->count <= g->peer_cap);
    if (g->peer_cap == 0)
        return;
    memcpy(old, g->peer, rows * sizeof *old);
    for (uint32_t i = 0; i < c->count; i++) {
        g->peer[i] = (struct vs_peer){ .node = c->member[i].node,
                                       .incarnation = c->member[i].incarnation,
                                       .next = g->log.last + 1,
                                       .since = c->index,
                                       .since_ns = r->now,
                                       .link = vs_link_add(r, c->member[i].node) };
        for (uint32_t k = 0; k < rows; k++) {
            if (old[k].node == c->member[i].node && old[k].incarnation == c->member[i].incarnation)
                g->peer[i] = old[k];
        }
    }
    memset(g->peer + c->count, 0, (g->peer_cap - c->count) * sizeof *g->peer);
}

void vs_config_push(struct vshard_raft *r, struct vs_group *g, const struct vs_config *c)
{
    VS_ASSERT(g->config_count < g->config_cap);
    g->config[g->config_count++] = *c;
    vs_peers_follow(r, g);
    g->told_members = 1;
}

void vs_group_free(struct vshard_raft *r, struct vs_group *g)
{
    const struct vshard_allocator *a = r->allocator;

    vs_log_free(&g->log);
    vs_free(a, g->config, g->config_cap * sizeof *g->config);
    vs_free(a, g->peer, g->peer_cap * sizeof *g->peer);
    vs_free(a, g->proposal, g->proposal_cap * sizeof *g->proposal);
    vs_free(a, g->request, g->request_cap * sizeof *g->request);
    vs_free(a, g->session, g->session_cap * sizeof *g->session);
    vs_free(a, g->meta, g->meta_bytes);
    vs_free(a, g->taken, g->taken_bytes);
    vs_free(a, g->install, g->install_bytes);
    vs_free(a, g, sizeof *g);
}

/* A promise broken elsewhere, or a disk that failed: the group takes part no more. */
void vs_group_stop(struct vshard_raft *r, struct vs_group *g, int status)
{
    struct vshard_raft_effect *e;

    if (g->stopped)
        return;
    if (g->asleep)
        vs_wake(r, g);
    g->stopped = 1;
    if (g->role == VSHARD_RAFT_LEADER) {
        vs_lead(r, g, false);
        vs_transfer_end(r, g, VSHARD_EUNKNOWN);
    }
    g->role = VSHARD_RAFT_FOLLOWER;
    g->leader = 0;
    vs_requests_drop(r, g);
    e = vs_effect(r, VSHARD_RAFT_FATAL, g->id);
    e->status = status;
    e->term = g->term;
}

/* A group that sleeps keeps what it must know, and no room to work in. */
void vs_group_trim(struct vshard_raft *r, struct vs_group *g)
{
    const struct vshard_allocator *a = r->allocator;

    vs_log_trim(&g->log);
    vs_free(a, g->proposal, g->proposal_cap * sizeof *g->proposal);
    vs_free(a, g->request, g->request_cap * sizeof *g->request);
    g->proposal = g->request = NULL;
    g->proposal_cap = g->proposal_head = g->request_cap = 0;
    /* All of the log is committed and applied: only the last configuration counts. */
    g->config[0] = *vs_config_now(g);
    g->config_count = 1;
    vs_shrink(a, (void **)&g->config, &g->config_cap, 1, sizeof *g->config);
    vs_shrink(a, (void **)&g->peer, &g->peer_cap, g->config[0].count, sizeof *g->peer);
    vs_shrink(a, (void **)&g->session, &g->session_cap, g->session_count, sizeof *g->session);
}

/* ---- opening ---- */

static int table_grow(struct vshard_raft *r)
{
    uint32_t cap = r->table_cap ? r->table_cap * 2 : 16;
    struct vs_group **table;

    if ((r->group_count + 1) * 2 <= r->table_cap)
        return VSHARD_OK;
    table = vs_alloc_zeroed(r->allocator, cap * sizeof *table);
    if (table == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < r->group_count; i++) {
        uint64_t at = vs_mix64(r->heap[i]->id);
        while (table[at & (cap - 1)] != NULL)
            at++;
        table[at & (cap - 1)] = r->heap[i];
    }
    vs_free(r->allocator, r->table, r->table_cap * sizeof *r->table);
    r->table = table;
    r->table_cap = cap;
    return VSHARD_OK;
}

static void table_add(struct vshard_raft *r, struct vs_group *g)
{
    uint64_t at = vs_mix64(g->id);

    while (r->table[at & (r->table_cap - 1)] != NULL)
        at++;
    r->table[at & (r->table_cap - 1)] = g;
    g->heap_at = r->group_count++;
    vs_heap_place(r, g);
}

static int take_meta(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_boot *b)
{
    struct vs_config c;
    uint32_t sessions;
    int rc;

    if (b->snapshot_index == 0)
        return b->meta_count == 0 ? VSHARD_OK : VSHARD_EINVAL;
    rc = vs_meta_check(b->meta, (size_t)b->meta_count, &c, &sessions);
    if (rc == VSHARD_OK)
        rc = vs_sessions_reserve(r, g, sessions);
    if (rc == VSHARD_OK)
        rc = vs_peers_reserve(r, g, c.count);
    if (rc != VSHARD_OK)
        return rc;
    g->meta = vs_alloc(r->allocator, (size_t)b->meta_count);
    if (g->meta == NULL)
        return VSHARD_ENOMEM;
    g->meta_bytes = (size_t)b->meta_count;
    memcpy(g->meta, b->meta, g->meta_bytes);
    vs_meta_adopt(r, g, g->meta, b->snapshot_index);
    g->snapshot_index = b->snapshot_index;
    g->snapshot_term = b->snapshot_term;
    vs_log_reset(&g->log, b->snapshot_index, b->snapshot_term);
    return VSHARD_OK;
}

/* A newborn group: every first member writes the same first entry. */
static int take_members(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_boot *b)
{
    unsigned char bytes[VS_CONFIG_BYTES];
    struct vshard_raft_entry e = {
        .index = 1, .term = 1, .kind = VSHARD_RAFT_CONFIG, .data = bytes
    };
    struct vs_config c;
    int rc;

    if (b->member_count == 0)
        return VSHARD_OK;
    if (b->term != 0 || b->vote != 0 || b->commit != 0 || b->snapshot_index != 0 ||
        b->applied != 0 || b->flags != 0)
        return VSHARD_EINVAL;
    rc = vs_config_change(NULL, b->members, b->member_count, &c);
    if (rc == VSHARD_OK)
        rc = vs_log_reserve(&g->log, 1, vs_entry_bytes(VS_CONFIG_BYTES));
    if (rc == VSHARD_OK)
        rc = vs_peers_reserve(r, g, c.count);
    if (rc != VSHARD_OK)
        return rc;
    e.count = vs_config_encode(&c, bytes);
    c.index = 1;
    vs_log_push(&g->log, &e);
    vs_config_push(r, g, &c);
    g->term = 1;
    return VSHARD_OK;
}

static int group_create(struct vshard_raft *r, const struct vshard_raft_boot *b,
                        struct vs_group **out)
{
    struct vs_group *g = vs_alloc_zeroed(r->allocator, sizeof *g);
    struct vs_config none = { 0 };
    int rc;

    if (g == NULL)
        return VSHARD_ENOMEM;
    *out = g;
    g->id = b->group;
    g->term = b->term;
    g->vote = b->vote;
    g->next_id = r->id_floor;
    g->commit = b->commit;
    g->applied = b->applied;
    g->uncertain = (b->flags & VSHARD_RAFT_UNCERTAIN) != 0;
    g->random = r->o.seed ^ vs_mix64(b->group) ^ vs_mix64(r->o.node) ^ r->o.boot;
    g->deadline = g->expires = VS_NEVER;
    vs_log_init(&g->log, r->allocator);
    rc = vs_config_reserve(r, g, 2);
    if (rc != VSHARD_OK)
        return rc;
    vs_config_push(r, g, &none);
    rc = take_meta(r, g, b);
    return rc == VSHARD_OK ? take_members(r, g, b) : rc;
}

int vshard_raft_open(struct vshard_raft *r, const struct vshard_raft_boot *boot)
{
    struct vshard_raft_boot b;
    struct vs_group *g = NULL;
    int rc;

    if (r == NULL)
        return VSHARD_EINVAL;
    rc = vs_options_read(&b, sizeof b, boot, VS_SIZE_THROUGH(struct vshard_raft_boot, meta));
    if (rc != VSHARD_OK)
        return rc;
    if (vs_group_find(r, b.group) != NULL)
        return VSHARD_EEXIST;
    if ((b.term | b.commit | b.applied | b.snapshot_index) >> 63 || b.applied < b.snapshot_index ||
        b.snapshot_term > b.term || (b.flags & ~(uint32_t)VSHARD_RAFT_UNCERTAIN) != 0 ||
        b.reserved != 0)
        return VSHARD_EINVAL;
    rc = table_grow(r);
    if (rc == VSHARD_OK)
        rc = vs_grow(r->allocator, (void **)&r->heap, &r->heap_cap, (uint64_t)r->group_count + 1,
                     sizeof *r->heap);
    if (rc == VSHARD_OK)
        rc = vs_grow(r->allocator, (void **)&r->led, &r->led_cap, (uint64_t)r->group_count + 1,
                     sizeof *r->led);
    if (rc == VSHARD_OK)
        rc = group_create(r, &b, &g);
    if (rc != VSHARD_OK) {
        if (g != NULL)
            vs_group_free(r, g);
        return rc;
    }
    table_add(r, g);
    return VSHARD_OK;
}

static int load_check(const struct vs_group *g, const struct vshard_raft_entry *e)
{
    struct vs_config c;

    if (e->index != g->log.last + 1 || e->term < vs_log_term(&g->log, g->log.last) ||
        e->count > VS_ENTRY_MAX || e->kind > VSHARD_RAFT_SESSION || e->term == 0 ||
        e->term > g->term || (e->count != 0 && e->data == NULL))
        return VSHARD_ECORRUPT;
    if (e->kind == VSHARD_RAFT_CONFIG)
        return vs_config_decode(&c, e->data, (size_t)e->count);
    return VSHARD_OK;
}

static int load_one(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_entry *e)
{
    struct vshard_raft_entry *slot;
    struct vs_config c;
    int rc;

    if (e->index <= g->log.base) {
        /* What lies behind a snapshot of another history is not ours (trap 25). */
        g->void_tail |= e->index == g->log.base && e->term != g->log.base_term;
        return VSHARD_OK;
    }
    if (g->void_tail)
        return VSHARD_OK;
    rc = load_check(g, e);
    if (rc == VSHARD_OK)
        rc = vs_log_reserve(&g->log, 1, vs_entry_bytes(e->count));
    if (rc == VSHARD_OK && e->kind == VSHARD_RAFT_CONFIG)
        rc = vs_config_reserve(r, g, 1);
    if (rc == VSHARD_OK && e->kind == VSHARD_RAFT_CONFIG)
        rc = vs_config_decode(&c, e->data, (size_t)e->count);
    if (rc == VSHARD_OK && e->kind == VSHARD_RAFT_CONFIG)
        rc = vs_peers_reserve(r, g, c.count);
    if (rc == VSHARD_OK && e->kind == VSHARD_RAFT_SESSION)
        rc = vs_sessions_reserve(r, g, r->o.max_sessions);
    if (rc != VSHARD_OK)
        return rc;
    slot = vs_log_push(&g->log, e);
    if (e->kind == VSHARD_RAFT_CONFIG) {
        c.index = e->index;
        vs_config_push(r, g, &c);
    }
    if (e->index <= g->applied)
        vs_session_apply(r, g, slot);
    if (g->log.byte_tail - g->log.byte_head > r->o.max_cache_bytes && e->index <= g->applied)
        vs_log_evict(&g->log, e->index - g->log.slot_count / 2);
    return VSHARD_OK;
}

int vshard_raft_load(struct vshard_raft *r, uint64_t group, const struct vshard_raft_entry *entries,
                     size_t count)
{
    struct vs_group *g = r ? vs_group_find(r, group) : NULL;
    int rc = VSHARD_OK;

    if (g == NULL)
        return VSHARD_ENOTFOUND;
    if (g->started || (count != 0 && entries == NULL))
        return VSHARD_EINVAL;
    for (size_t i = 0; i < count && rc == VSHARD_OK; i++)
        rc = load_one(r, g, &entries[i]);
    return rc;
}

int vshard_raft_start(struct vshard_raft *r, uint64_t group, uint64_t now_ns)
{
    struct vs_group *g = r ? vs_group_find(r, group) : NULL;
    bool newborn;
    int rc;

    if (g == NULL)
        return VSHARD_ENOTFOUND;
    if (g->started)
        return VSHARD_EINVAL;
    if (r->effect_taken < r->effect_count)
        return VSHARD_EBUSY;
    if (r->poisoned || g->stopped)
        return VSHARD_EIO;
    if (g->applied > g->log.last || g->commit > g->log.last)
        return VSHARD_ECORRUPT;
    rc = vs_group_reserve(r, g, 0, 0);
    if (rc == VSHARD_OK)
        rc = vs_grow(r->allocator, (void **)&r->pending, &r->pending_cap,
                     (uint64_t)r->pending_head + r->pending_count + 1, sizeof *r->pending);
    if (rc == VSHARD_OK)
        rc = vs_reserve(r, vs_group_effects(g), vs_group_heads(g));
    if (rc != VSHARD_OK)
        return rc;
    r->effect_count = r->effect_taken = 0;
    r->head_used = 0;
    r->now = now_ns > r->now ? now_ns : r->now;
    if (r->since_ns == 0)
        r->since_ns = r->now;
    newborn =
        g->term == 1 && g->log.last == 1 && g->vote == 0 && g->commit == 0 && g->log.base == 0;
    vs_group_begin(r, g);
    if (g->commit < g->applied)
        g->commit = g->applied;
    g->handed = g->applied;
    g->durable = g->log.last;
    g->started = 1;
    if (newborn) { /* or it was, and crashed; then it writes the same again */
        g->durable = 0;
        g->fresh = 1;
        g->cut = 1;
        g->log_seq = r->seq + 1;
        vs_dirty(r, g);
    } else if (g->void_tail) { /* storage has it yet, and would show it again */
        g->cut = g->log.last + 1;
        g->log_seq = r->seq + 1;
    }
    if (g->uncertain && !TRAP(17))
        vs_certain_begin(r, g);
    else
        g->uncertain = VS_CERTAIN;
    vs_election_begin(r, g);
    if (TRAP(35))
        g->election_at = vs_later(r->now, 1000 * r->o.election_ns);
    vs_group_finish(r, g);
    return VSHARD_OK;
}

/* ---- looking inside ---- */

/* ---- closing ---- */

/* Barriers of the group that are not reached speak for nobody any more. */
static void pending_forget(struct vshard_raft *r, const struct vs_group *g)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < r->pending_count; i++) {
        const struct vs_pending p = r->pending[r->pending_head + i];

        if (p.group != g)
            r->pending[r->pending_head + kept++] = p;
    }
    r->pending_count = kept;
}

static void table_rebuild(struct vshard_raft *r)
{
    memset(r->table, 0, r->table_cap * sizeof(struct vs_group *));
    for (uint32_t i = 0; i < r->group_count; i++) {
        uint64_t at = vs_mix64(r->heap[i]->id);

        while (r->table[at & (r->table_cap - 1)] != NULL)
            at++;
        r->table[at & (r->table_cap - 1)] = r->heap[i];
    }
}

int vshard_raft_close(struct vshard_raft *r, uint64_t group)
{
    struct vs_group *g, *last;
    int rc;

    if (r == NULL)
        return VSHARD_EINVAL;
    g = vs_group_find(r, group);
    if (g == NULL)
        return VSHARD_ENOTFOUND;
    if (r->effect_taken < r->effect_count)
        return VSHARD_EBUSY;
    vs_effects_begin(r);
    rc = vs_reserve_one(r, g, 0, 0);
    if (rc != VSHARD_OK)
        return rc;
    vs_group_begin(r, g);
    if (g->asleep)
        vs_wake(r, g);
    if (g->role == VSHARD_RAFT_LEADER && !g->stopped)
        vs_lead(r, g, false);
    g->stopped = 1;
    vs_transfer_end(r, g, VSHARD_EUNKNOWN);
    g->role = VSHARD_RAFT_FOLLOWER;
    vs_requests_drop(r, g);
    pending_forget(r, g);
    r->id_floor = g->next_id > r->id_floor ? g->next_id : r->id_floor;
    last = r->heap[--r->group_count];
    if (last != g) {
        last->heap_at = g->heap_at;
        vs_heap_place(r, last);
    }
    table_rebuild(r);
    vs_group_free(r, g);
    return VSHARD_OK;
}

int vshard_raft_inspect(const struct vshard_raft *r, uint64_t group,
                        struct vshard_raft_status *status)
{
    const struct vs_group *g = r ? vs_group_find(r, group) : NULL;
    struct vshard_raft_status s = { .size = sizeof s };

    if (g == NULL)
        return VSHARD_ENOTFOUND;
    s.role = g->role;
    s.term = g->term;
    s.vote = g->vote;
    s.leader = g->leader;
    s.first = g->log.base + 1;
    s.last = g->log.last;
    s.last_term = vs_log_term(&g->log, g->log.last);
    s.durable = g->durable;
    s.commit = g->commit;
    s.applied = g->applied;
    s.snapshot = g->snapshot_index;
    s.lease_ns = vs_lease_until(r, g);
    s.uncommitted_bytes = vs_uncommitted(g);
    s.pending = g->proposal_count + g->request_count + g->transfer_told;
    s.member_count = vs_config_now(g)->count;
    s.stopped = g->stopped;
    s.uncertain = g->uncertain != VS_CERTAIN;
    s.asleep = g->asleep;
    s.epoch = vs_epoch(g->term);
    s.superseded = vs_superseded(g);
    s.term_durable = vs_promised(r, g);
    s.config = vs_config_now(g)->index;
    s.held_bytes = g->log.byte_tail - g->log.byte_head;
    return vs_report_write(status, &s, sizeof s,
                           VS_SIZE_THROUGH(struct vshard_raft_status, term_durable));
}

uint64_t vshard_raft_term(const struct vshard_raft *r, uint64_t group, uint64_t index)
{
    const struct vs_group *g = r ? vs_group_find(r, group) : NULL;

    return g ? vs_log_term(&g->log, index) : 0;
}

int vshard_raft_members(const struct vshard_raft *r, uint64_t group,
                        struct vshard_raft_member *members, uint32_t *count)
{
    const struct vs_group *g = r ? vs_group_find(r, group) : NULL;

    if (members == NULL || count == NULL)
        return VSHARD_EINVAL;
    if (g == NULL)
        return VSHARD_ENOTFOUND;
    *count = vs_config_now(g)->count;
    memcpy(members, vs_config_now(g)->member, *count * sizeof *members);
    return VSHARD_OK;
}

uint64_t vshard_raft_match(const struct vshard_raft *r, uint64_t group, uint64_t node,
                           uint64_t incarnation)
{
    struct vs_group *g = r ? vs_group_find(r, group) : NULL;
    const struct vs_peer *p = NULL;

    if (g != NULL && g->role == VSHARD_RAFT_LEADER)
        p = vs_peer_of(g, node, incarnation);
    if (p == NULL || p->uncertain)
        return 0;
    return vs_is_self(r, p) ? g->durable : p->match;
}

int vshard_raft_count(const struct vshard_raft *r, struct vshard_raft_counters *counters)
{
    struct vshard_raft_counters c;

    if (r == NULL)
        return VSHARD_EINVAL;
    c = r->counters;
    c.size = sizeof c;
    return vs_report_write(counters, &c, sizeof c,
                           VS_SIZE_THROUGH(struct vshard_raft_counters, outdated));
}
