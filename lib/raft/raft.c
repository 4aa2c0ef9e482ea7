/* raft.c - one event, all or nothing.
 *
 * Finds the group an event is about, reserves, lets the room's other files change
 * state, and brings every group that was touched to rest.
 *
 * Not here: reserving, the list of effects, and rest itself, which are rest.c. */
#include "raft/core.h"

static const uint64_t millisecond = 1000000;

uint64_t vs_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return vs_mix64(*state);
}

/* ---- groups by id ---- */

struct vs_group *vs_group_find(const struct vshard_raft *r, uint64_t id)
{
    if (r->table_cap == 0)
        return NULL;
    for (uint64_t i = vs_mix64(id);; i++) {
        struct vs_group *g = r->table[i & (r->table_cap - 1)];
        if (g == NULL || g->id == id)
            return g;
    }
}

/* ---- events ---- */

bool vs_stalled(const struct vshard_raft *r)
{
    /* 34: a leader whose disk hangs must not hold the others off with heartbeats. */
    return r->pending_count != 0 && !TRAP(34) &&
           r->ran_ns - r->pending[r->pending_head].since_ns > r->o.disk_stall_ns;
}

/* A node that leads is called at each heartbeat, whatever its disk does. What is longer than an
 * election from one call to the next is this process that was held up, and says nothing of the
 * disk: if that does hang, the calls that follow will tell. */
static void time_passes(struct vshard_raft *r, uint64_t now)
{
    uint64_t ns = now > r->now ? now - r->now : 0;

    r->now += ns;
    r->ran_ns += ns < r->o.election_ns ? ns : r->o.election_ns;
}

/* Groups whose time has come; the rest stay due, and the host calls again at once:
 * a node of ten thousand needs room for a few. */
struct due {
    struct vs_group *group[64];
    uint32_t count;
};

/* A heap's due members are found without looking below one that is not due. */
static void find_due(const struct vshard_raft *r, uint32_t at, struct due *due)
{
    if (at >= r->group_count || r->heap[at]->deadline > r->now ||
        due->count == VS_COUNT(due->group))
        return;
    due->group[due->count++] = r->heap[at];
    find_due(r, 2 * at + 1, due);
    find_due(r, 2 * at + 2, due);
}

/* Whether another member might lead: of a configuration that is committed, or of a later one. */
static bool replaceable(const struct vshard_raft *r, const struct vs_group *g)
{
    uint32_t at = g->config_count;
    const struct vs_config *c;

    do {
        c = &g->config[--at];
        for (uint32_t i = 0; i < c->count; i++) {
            if ((c->member[i].role & (VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING)) &&
                (c->member[i].node != r->o.node || c->member[i].incarnation != r->o.incarnation))
                return true;
        }
    } while (at != 0 && c->index > g->commit);
    return false;
}

/* 34: whoever leads with a disk that hangs lets go, for others; where there are none it would only
 * have to wait and to begin anew, and all that is under way would end unknown. */
static void find_stalled(const struct vshard_raft *r, struct due *due)
{
    for (uint32_t i = 0; i < r->led_count && due->count < VS_COUNT(due->group); i++) {
        if (replaceable(r, r->led[i]))
            due->group[due->count++] = r->led[i];
    }
}

static int on_time(struct vshard_raft *r)
{
    bool stalled = vs_stalled(r);
    bool beat = r->beat_at <= r->now && r->led_count + r->asleep_count != 0;
    struct vs_room room = { 0 };
    struct due due = { 0 };
    int rc = VSHARD_OK;

    if (r->group_count == 0)
        return VSHARD_OK;
    if (beat)
        vs_relax(r);
    if (stalled)
        find_stalled(r, &due);
    stalled = due.count != 0;
    if (!stalled)
        find_due(r, 0, &due);
    for (uint32_t i = 0; i < due.count && rc == VSHARD_OK; i++)
        rc = vs_room_add(r, due.group[i], &room);
    if (beat) {
        room.bytes += vs_beats_bytes(r);
        room.effects += r->link_count;
    }
    if (rc == VSHARD_OK)
        rc = vs_room_make(r, &room);
    if (rc != VSHARD_OK)
        return rc;

    r->step_id++;
    for (uint32_t i = 0; i < due.count; i++) {
        struct vs_group *g = due.group[i];

        g->mark = r->step_id; /* what it sends may lie in its log: it does not fall asleep now */
        vs_group_begin(r, g);
        if (stalled)
            vs_become_follower(r, g, g->term, 0);
        else
            vs_election_tick(r, g);
        vs_group_finish(r, g);
        if (g->deadline <= r->now) { /* it was served, and wants to be again at once */
            g->deadline = r->now + 1;
            vs_heap_place(r, g);
        }
    }
    if (beat) {
        vs_links_watch(r);
        vs_sleep_ready(r);
        vs_beats(r, NULL);
        r->beat_at = stalled && r->led_count != 0 ? r->now : vs_later(r->now, r->o.heartbeat_ns);
    }
    return VSHARD_OK;
}

/* One group's term and vote, ahead of what was written before them. */
static int on_vote_persisted(struct vshard_raft *r, uint64_t barrier)
{
    const struct vs_pending *p = NULL;
    struct vs_group *g;
    int rc;

    if (barrier > r->seq)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < r->pending_count; i++) {
        if (r->pending[r->pending_head + i].seq == barrier)
            p = &r->pending[r->pending_head + i];
    }
    if (p == NULL)
        return VSHARD_OK;
    if (!p->vote_only)
        return VSHARD_EINVAL;
    g = p->group;
    rc = vs_reserve_one(r, g, 0, 0);
    if (rc != VSHARD_OK)
        return rc;
    vs_group_begin(r, g);
    g->hard_done = barrier > g->hard_done ? barrier : g->hard_done;
    vs_self_vote(r, g);
    vs_group_finish(r, g);
    return VSHARD_OK;
}

static int on_persisted(struct vshard_raft *r, uint64_t through)
{
    struct vs_room room = { 0 };
    int rc = VSHARD_OK;

    if (through > r->seq)
        return VSHARD_EINVAL;
    if (through <= r->durable_seq)
        return VSHARD_OK;
    r->step_id++;
    for (uint32_t i = 0; i < r->pending_count && rc == VSHARD_OK; i++) {
        const struct vs_pending *p = &r->pending[r->pending_head + i];
        if (p->seq > through || p->group->mark == r->step_id)
            continue;
        p->group->mark = r->step_id;
        rc = vs_room_add(r, p->group, &room);
    }
    if (rc == VSHARD_OK)
        rc = vs_room_make(r, &room);
    if (rc != VSHARD_OK)
        return rc;

    r->durable_seq = through;
    for (uint32_t i = 0; i < r->pending_count && r->pending[r->pending_head + i].seq <= through;
         i++) {
        const struct vs_pending *p = &r->pending[r->pending_head + i];
        if (p->last > p->group->durable)
            p->group->durable = p->last < p->group->log.last ? p->last : p->group->log.last;
    }
    r->step_id++;
    while (r->pending_count != 0 && r->pending[r->pending_head].seq <= through) {
        struct vs_group *g = r->pending[r->pending_head].group;

        r->pending_head++;
        r->pending_count--;
        if (g->mark == r->step_id)
            continue;
        g->mark = r->step_id;
        vs_group_begin(r, g);
        vs_self_vote(r, g);
        vs_group_finish(r, g);
    }
    return VSHARD_OK;
}

/* 37: what a failed sync promised is not there, and trying again does not bring it
 * back. The node falls silent; what it led, it leads no more. */
static int on_persist_failed(struct vshard_raft *r)
{
    size_t effects = 0, bytes = 0;
    int rc = VSHARD_OK;

    if (TRAP(37))
        return on_persisted(r, r->seq);
    if (TRAP(7))
        return VSHARD_OK;
    for (uint32_t i = 0; i < r->group_count; i++) {
        effects += vs_group_effects(r->heap[i]);
        bytes += vs_group_heads(r->heap[i]);
    }
    rc = vs_reserve(r, effects, bytes);
    if (rc == VSHARD_OK)
        rc = vs_pending_reserve(r, r->group_count);
    if (rc != VSHARD_OK)
        return rc;
    r->poisoned = 1;
    for (uint32_t i = 0; i < r->group_count; i++)
        vs_group_stop(r, r->heap[i], VSHARD_EIO);
    for (uint32_t i = 0; i < r->group_count; i++)
        r->heap[i]->deadline = VS_NEVER;
    return VSHARD_OK;
}

/* ---- messages ---- */

static int refuse_message(uint64_t *counter, int status)
{
    ++*counter;
    return status;
}

/* What appended entries of a message need beyond their bytes. */
static int reserve_special(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    const unsigned char *p = m->body;
    size_t left = m->body_bytes;
    uint32_t configs = 0, members = 0;
    int rc = VSHARD_OK;

    for (uint32_t i = 0; m->special != 0 && i < m->count && rc == VSHARD_OK; i++) {
        struct vshard_raft_entry e;
        struct vs_config c;
        size_t n = vs_entry_decode(&e, p, left);

        if (e.kind == VSHARD_RAFT_CONFIG) {
            configs++;
            rc = vs_config_decode(&c, e.data, (size_t)e.count);
            members += c.count;
            if (rc == VSHARD_OK)
                rc = vs_peers_reserve(r, g, c.count);
        }
        if (e.kind == VSHARD_RAFT_SESSION)
            rc = vs_sessions_reserve(r, g, r->o.max_sessions);
        p += n;
        left -= n;
    }
    if (rc == VSHARD_OK && configs != 0)
        rc = vs_link_reserve(r, members); /* each may name nodes that the others do not */
    return rc == VSHARD_OK && configs != 0 ? vs_config_reserve(r, g, configs + 2) : rc;
}

static int dispatch(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    switch (m->kind) {
    case VS_PREVOTE:
    case VS_VOTE: vs_on_vote(r, g, m); break;
    case VS_PREVOTE_REPLY:
    case VS_VOTE_REPLY: vs_on_vote_reply(r, g, m); break;
    case VS_APPEND: vs_on_append(r, g, m); break;
    case VS_APPEND_REPLY: vs_on_append_reply(r, g, m); break;
    case VS_TIMEOUT_NOW: vs_on_timeout_now(r, g, m); break;
    case VS_FORWARD: return vs_on_forward(r, g, m);
    case VS_FORWARD_REPLY: vs_on_forward_reply(r, g, m); break;
    case VS_READ: vs_on_read(r, g, m); break;
    case VS_READ_REPLY: vs_on_read_reply(r, g, m); break;
    case VS_SURE: vs_on_sure(r, g, m); break;
    case VS_SURE_REPLY: vs_on_sure_reply(r, g, m); break;
    case VS_CHUNK: return vs_on_chunk(r, g, m);
    case VS_CHUNK_REPLY: vs_on_chunk_reply(r, g, m); break;
    default: break;
    }
    return VSHARD_OK;
}

/* Does who sends this want something of the group? One that is no member any more, and was
 * not told, may ask for ever whether it is sure or whether to stand; a chunk may find no memory
 * yet. */
static bool wants(struct vs_group *g, const struct vs_message *m)
{
    if (m->kind == VS_SURE || m->kind == VS_PREVOTE)
        return vs_peer_of(g, m->from, m->from_incarnation) != NULL;
    return m->kind != VS_CHUNK;
}

static int on_message(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    struct vs_message m;
    struct vs_link *link;
    struct vs_group *g;
    int rc = vs_message_decode(&m, e->bytes, (size_t)e->byte_count);

    if (rc == VSHARD_ECORRUPT)
        return refuse_message(&r->counters.malformed, rc);
    if (rc == VSHARD_EVERSION)
        return refuse_message(&r->counters.unversioned, rc);
    /* 38: a message for someone else is refused here, whatever it says. */
    if (!TRAP(38) && (m.to != r->o.node || m.from == r->o.node ||
                      (m.to_incarnation != r->o.incarnation && m.to_incarnation != 0 && !TRAP(16))))
        return refuse_message(&r->counters.misdirected, VSHARD_EINVAL);
    if (m.kind == VS_BEATS || m.kind == VS_BEAT_REPLIES) {
        rc = vs_on_beats(r, &m);
        r->counters.messages += rc == VSHARD_OK;
        return rc;
    }
    g = vs_group_find(r, m.group);
    if (g == NULL || !g->started)
        return refuse_message(&r->counters.ungrouped, VSHARD_ENOTFOUND);
    if (g->stopped)
        return VSHARD_OK;
    rc = reserve_special(r, g, &m);
    if (rc == VSHARD_OK)
        rc = vs_reserve_one(r, g, m.count, m.body_bytes);
    if (rc != VSHARD_OK)
        return rc;
    if (wants(g, &m))
        vs_touch(r, g);
    vs_group_begin(r, g);
    rc = dispatch(r, g, &m);
    if (rc != VSHARD_OK) {
        r->effect_count = 0;
        r->counters.malformed += rc == VSHARD_ECORRUPT;
        return rc;
    }
    vs_group_finish(r, g);
    link = vs_link_find(r, m.from);
    if (link != NULL)
        link->seen_ns = r->now;
    r->counters.messages++;
    r->counters.outdated += vs_epoch(m.term) < vs_epoch(g->term);
    return VSHARD_OK;
}

/* ---- the host's requests ---- */

static int entries_bytes(const struct vshard_raft_event *e, size_t *bytes)
{
    *bytes = 0;
    if (e->entry_count != 0 && e->entries == NULL)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        if (x->count != 0 && x->data == NULL)
            return VSHARD_EINVAL;
        if (x->count > VS_ENTRY_MAX)
            return VSHARD_E2BIG;
        *bytes += vs_entry_bytes(x->count);
    }
    return *bytes <= VS_MESSAGE_MAX - VS_MESSAGE_HEAD ? VSHARD_OK : VSHARD_EINVAL;
}

static int on_request(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    switch (e->kind) {
    case VSHARD_RAFT_PROPOSE: return vs_propose(r, g, e);
    case VSHARD_RAFT_CONFIGURE: vs_configure(r, g, e); break;
    case VSHARD_RAFT_READ: vs_read(r, g, e); break;
    case VSHARD_RAFT_TRANSFER: vs_transfer(r, g, e); break;
    case VSHARD_RAFT_PROMOTE: vs_promote(r, g, e); break;
    case VSHARD_RAFT_CAMPAIGN:
        if (g->role != VSHARD_RAFT_LEADER && vs_can_campaign(r, g))
            vs_stand(r, g);
        break;
    case VSHARD_RAFT_APPLIED:
        if (e->index > g->handed)
            return VSHARD_EINVAL;
        g->applied = e->index > g->applied ? e->index : g->applied;
        if (VS_CONFIG_APPLIED)
            vs_peers_follow(r, g);
        vs_evict(r, g);
        break;
    case VSHARD_RAFT_SNAPSHOT: return vs_snapshot(r, g);
    case VSHARD_RAFT_COMPACT: return vs_compact(r, g, e);
    case VSHARD_RAFT_FETCHED: vs_on_fetched(r, g, e); break;
    case VSHARD_RAFT_CHUNK: vs_on_host_chunk(r, g, e); break;
    case VSHARD_RAFT_CHUNK_WRITTEN: return vs_on_chunk_written(r, g, e);
    case VSHARD_RAFT_INSTALLED: return vs_on_installed(r, g, e);
    default: return VSHARD_EINVAL;
    }
    return VSHARD_OK;
}

/* Of an event, the entries that may go into the log. */
static uint32_t entries_for_log(const struct vshard_raft_event *e)
{
    if (e->kind == VSHARD_RAFT_PROMOTE)
        return 1;
    return e->kind == VSHARD_RAFT_PROPOSE ? e->entry_count : 0;
}

/* What the host reports about a group at rest need not wake it. */
static bool wakes(const struct vshard_raft *r, const struct vs_group *g,
                  const struct vshard_raft_event *e)
{
    switch (e->kind) {
    case VSHARD_RAFT_APPLIED:
    case VSHARD_RAFT_SNAPSHOT:
    case VSHARD_RAFT_COMPACT: return false;
    case VSHARD_RAFT_READ: return !vs_read_is_proven(r, g, e);
    default: return true;
    }
}

static int on_group_event(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    struct vs_group *g = vs_group_find(r, e->group);
    size_t bytes;
    int rc = entries_bytes(e, &bytes);

    if (rc != VSHARD_OK)
        return rc;
    if (g == NULL || !g->started)
        return VSHARD_ENOTFOUND;
    if (g->stopped)
        return VSHARD_EIO;
    for (uint32_t i = 0; i < e->entry_count && rc == VSHARD_OK; i++) {
        if (e->entries[i].kind == VSHARD_RAFT_SESSION)
            rc = vs_sessions_reserve(r, g, r->o.max_sessions);
    }
    if (rc == VSHARD_OK && (e->kind == VSHARD_RAFT_CHUNK || e->kind == VSHARD_RAFT_PROMOTE))
        bytes += e->byte_count;
    if (rc == VSHARD_OK && (e->kind == VSHARD_RAFT_CONFIGURE || e->kind == VSHARD_RAFT_INSTALLED ||
                            e->kind == VSHARD_RAFT_PROMOTE))
        rc = vs_peers_reserve(r, g, VSHARD_RAFT_MEMBERS_MAX);
    if (rc == VSHARD_OK)
        rc = vs_reserve_one(r, g, entries_for_log(e), bytes);
    if (rc != VSHARD_OK)
        return rc;
    if (wakes(r, g, e))
        vs_touch(r, g);
    vs_group_begin(r, g);
    rc = on_request(r, g, e);
    if (rc != VSHARD_OK) {
        r->effect_count = 0;
        return rc;
    }
    vs_group_finish(r, g);
    return VSHARD_OK;
}

static uint32_t flags_of(uint32_t kind)
{
    switch (kind) {
    case VSHARD_RAFT_PROPOSE:
    case VSHARD_RAFT_READ: return VSHARD_RAFT_LOCAL_ONLY;
    case VSHARD_RAFT_CHUNK: return VSHARD_RAFT_LAST;
    case VSHARD_RAFT_PERSISTED: return VSHARD_RAFT_VOTE_ONLY;
    default: return 0;
    }
}

static int take_event(struct vshard_raft *r, const struct vshard_raft_event *e)
{
    if (r->effect_taken < r->effect_count)
        return VSHARD_EBUSY;
    if (r->poisoned)
        return VSHARD_EIO;
    if (e->kind != VSHARD_RAFT_MESSAGE && e->kind != VSHARD_RAFT_CHUNK &&
        e->kind != VSHARD_RAFT_PROMOTE && e->byte_count != 0)
        return VSHARD_EINVAL;
    if ((e->flags & ~flags_of(e->kind)) != 0 || e->reserved != 0 || e->reserved_pointer != NULL ||
        e->mode > (e->kind == VSHARD_RAFT_READ ? VSHARD_RAFT_READ_STALE : 0) ||
        (e->entry_count != 0 && e->kind != VSHARD_RAFT_PROPOSE && e->kind != VSHARD_RAFT_FETCHED))
        return VSHARD_EINVAL;
    if (e->byte_count > (e->kind == VSHARD_RAFT_CHUNK ? VS_PIECE_MAX : VS_MESSAGE_MAX) ||
        (e->byte_count != 0 && e->bytes == NULL))
        return VSHARD_EINVAL;
    vs_effects_begin(r);
    time_passes(r, e->now_ns);
    switch (e->kind) {
    case VSHARD_RAFT_TIME: return on_time(r);
    case VSHARD_RAFT_MESSAGE: return on_message(r, e);
    case VSHARD_RAFT_PERSISTED:
        return e->flags & VSHARD_RAFT_VOTE_ONLY ? on_vote_persisted(r, e->barrier)
                                                : on_persisted(r, e->barrier);
    case VSHARD_RAFT_PERSIST_FAILED: return on_persist_failed(r);
    default: return on_group_event(r, e);
    }
}

int vshard_raft_step(struct vshard_raft *r, const struct vshard_raft_event *event)
{
    struct vshard_raft_event copy;
    uint64_t was, ran;
    int rc;

    if (r == NULL || event == NULL)
        return VSHARD_EINVAL;
    if (event->size != sizeof copy) { /* from a caller built with other headers */
        rc = vs_options_read(&copy, sizeof copy, event,
                             VS_SIZE_THROUGH(struct vshard_raft_event, reserved_pointer));
        if (rc != VSHARD_OK)
            return rc;
        event = &copy;
    }
    was = r->now;
    ran = r->ran_ns;
    rc = take_event(r, event);
    if (rc == VSHARD_ENOMEM) {
        r->now = was;
        r->ran_ns = ran;
    }
    return rc;
}

const struct vshard_raft_effect *vshard_raft_next(struct vshard_raft *r)
{
    while (r != NULL && r->effect_taken < r->effect_count) {
        const struct vshard_raft_effect *e = &r->effect[r->effect_taken++];
        if (e->kind != 0)
            return e;
    }
    return NULL;
}

uint64_t vshard_raft_deadline_ns(const struct vshard_raft *r)
{
    uint64_t at;

    if (r == NULL || r->poisoned)
        return VS_NEVER;
    at = r->group_count != 0 ? r->heap[0]->deadline : VS_NEVER;
    return r->led_count + r->asleep_count != 0 && r->beat_at < at ? r->beat_at : at;
}

/* ---- birth and death of a node ---- */

static int refuse(const struct vshard_raft_options *o, const char *field, uint64_t value,
                  uint64_t limit)
{
    return vs_refuse(o->logger, VSHARD_EINVAL, "raft.refused", field, (int64_t)value,
                     (int64_t)limit);
}

/* Fields that must be set, and those that have a most. */
static int check_options(const struct vshard_raft_options *o)
{
    const struct {
        const char *field;
        uint64_t value, least, most;
    } rule[] = { { "node", o->node, 1, UINT64_MAX },
                 { "incarnation", o->incarnation, 1, UINT64_MAX },
                 { "boot", o->boot, 1, UINT64_MAX },
                 { "max_inflight", o->max_inflight, 0, VS_FLIGHT_MAX },
                 { "max_sessions", o->max_sessions, 0, 65536 },
                 { "clock_drift_ppm", o->clock_drift_ppm, 0, 100000 },
                 { "max_message", o->max_message, 0, VS_APPEND_MAX },
                 { "max_entry", o->max_entry, 0, VS_ENTRY_MAX } };

    for (size_t i = 0; i < VS_COUNT(rule); i++) {
        if (rule[i].value < rule[i].least || rule[i].value > rule[i].most)
            return refuse(o, rule[i].field, rule[i].value, rule[i].most);
    }
    return VSHARD_OK;
}

static int read_options(struct vshard_raft_options *o, const struct vshard_raft_options *from)
{
    int rc =
        vs_options_read(o, sizeof *o, from, VS_SIZE_THROUGH(struct vshard_raft_options, idle_ns));

    if (rc == VSHARD_OK)
        rc = check_options(o);
    if (rc != VSHARD_OK)
        return rc;
    if (o->max_inflight == 0)
        o->max_inflight = VS_FLIGHT_MAX;
    if (o->heartbeat_ns == 0)
        o->heartbeat_ns = 30 * millisecond;
    if (o->election_ns == 0)
        o->election_ns = 150 * millisecond;
    if (o->election_max_ns == 0)
        o->election_max_ns = 6 * o->election_ns;
    if (o->idle_ns == 0)
        o->idle_ns = 10 * o->election_ns;
    if (o->disk_stall_ns == 0)
        o->disk_stall_ns = 4 * o->election_ns;
    if (o->request_ns == 0)
        o->request_ns = 10 * o->election_ns;
    if (o->max_message == 0)
        o->max_message = 256 << 10;
    if (o->max_inflight_bytes == 0)
        o->max_inflight_bytes = 4 << 20;
    if (o->max_uncommitted_bytes == 0)
        o->max_uncommitted_bytes = 64 << 20;
    if (o->max_cache_bytes == 0)
        o->max_cache_bytes = 256 << 10;
    if (o->clock_drift_ppm == 0)
        o->clock_drift_ppm = 1000;
    if (o->max_sessions == 0)
        o->max_sessions = 1024;
    if (o->max_entry == 0)
        o->max_entry = VS_ENTRY_MAX;
    /* Heartbeats must fit into the silence a follower bears, with some to spare. */
    if (o->heartbeat_ns > o->election_ns / 2)
        return refuse(o, "heartbeat_ns", o->heartbeat_ns, o->election_ns / 2);
    if (o->election_max_ns < o->election_ns || o->election_max_ns >> 48 != 0)
        return refuse(o, "election_max_ns", o->election_max_ns, ((uint64_t)1 << 48) - 1);
    return VSHARD_OK;
}

int vshard_raft_create(const struct vshard_raft_options *options, struct vshard_raft **raft)
{
    struct vshard_raft_options o;
    struct vshard_raft *r;
    int rc;

    if (raft == NULL)
        return VSHARD_EINVAL;
    *raft = NULL;
    rc = read_options(&o, options);
    if (rc != VSHARD_OK)
        return rc;
    r = vs_alloc_zeroed(o.allocator, sizeof *r);
    if (r == NULL)
        return VSHARD_ENOMEM;
    r->o = o;
    if (o.allocator != NULL) {
        r->allocator_copy = *o.allocator;
        r->allocator = &r->allocator_copy;
    }
    if (o.logger != NULL) {
        r->logger_copy = *o.logger;
        r->logger = &r->logger_copy;
    }
    *raft = r;
    return VSHARD_OK;
}

void vshard_raft_destroy(struct vshard_raft *r)
{
    struct vshard_allocator copy;
    const struct vshard_allocator *a = NULL;

    if (r == NULL)
        return;
    for (uint32_t i = 0; i < r->group_count; i++)
        vs_group_free(r, r->heap[i]);
    if (r->allocator != NULL) {
        copy = r->allocator_copy;
        a = &copy;
    }
    vs_free(a, r->table, r->table_cap * sizeof *r->table);
    vs_free(a, r->heap, r->heap_cap * sizeof *r->heap);
    vs_free(a, r->led, r->led_cap * sizeof *r->led);
    vs_free(a, r->link, r->link_cap * sizeof *r->link);
    vs_free(a, r->pending, r->pending_cap * sizeof *r->pending);
    vs_free(a, r->effect, r->effect_cap * sizeof *r->effect);
    vs_free(a, r->head, r->head_cap);
    vs_free(a, r, sizeof *r);
}
