/* snapshot.c - a state instead of the entries that led to it.
 *
 * The host owns the bytes of a snapshot; the core owns META, which it cannot do
 * without: who the members were at that point, and what their clients had done.
 * It keeps META of the newest durable snapshot in memory.
 *
 * A replica that needs entries which have been compacted gets the snapshot in
 * pieces, one under way at a time; the receiver says how much it has, so a lost
 * piece costs that piece, and a new attempt at the same snapshot resumes. The
 * receiver installs it when it is whole and nothing is being applied, and only if
 * it does not have those entries by then (trap 25). */
#include "raft/core.h"

int vs_snapshot(struct vshard_raft *r, struct vs_group *g)
{
    size_t bytes = vs_meta_bytes(g, g->applied);
    struct vshard_raft_effect *e;
    unsigned char *meta;

    if (g->handed != g->applied || g->installing || g->applied <= g->snapshot_index)
        return VSHARD_EBUSY;
    meta = vs_alloc(r->allocator, bytes);
    if (meta == NULL)
        return VSHARD_ENOMEM;
    vs_free(r->allocator, g->taken, g->taken_bytes);
    g->taken = meta;
    g->taken_bytes = bytes;
    g->taken_index = g->applied;
    g->taken_term = vs_log_term(&g->log, g->applied);
    e = vs_effect(r, VSHARD_RAFT_META, g->id);
    e->index = g->taken_index;
    e->term = g->taken_term;
    vs_meta_encode(g, g->taken_index, meta);
    e->byte_count = bytes;
    e->bytes = meta;
    return VSHARD_OK;
}

static void forget_configs(struct vs_group *g)
{
    uint32_t old = 0;

    while (old + 1 < g->config_count && g->config[old + 1].index <= g->log.base)
        old++;
    g->config_count -= old;
    memmove(g->config, g->config + old, g->config_count * sizeof *g->config);
}

int vs_compact(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    if (e->offset != g->snapshot_index && e->offset != g->taken_index)
        return VSHARD_EINVAL;
    if (e->index > e->offset || e->index > g->applied)
        return VSHARD_EINVAL;
    if (e->offset == g->taken_index && g->taken_index > g->snapshot_index) {
        vs_free(r->allocator, g->meta, g->meta_bytes);
        g->meta = g->taken;
        g->meta_bytes = g->taken_bytes;
        g->snapshot_index = g->taken_index;
        g->snapshot_term = g->taken_term;
        g->taken = NULL;
        g->taken_bytes = 0;
        g->taken_index = 0;
    }
    vs_log_compact(&g->log, e->index);
    forget_configs(g);
    return VSHARD_OK;
}

/* ---- sending ---- */

void vs_chunk_send(struct vshard_raft *r, struct vs_group *g, struct vs_peer *p)
{
    struct vshard_raft_effect *e;

    if (p->paused || p->reading)
        return;
    if (p->chunk_offset == 0) {
        p->chunk_index = g->snapshot_index;
        p->chunk_term = g->snapshot_term;
    }
    p->reading = 1;
    e = vs_effect(r, VSHARD_RAFT_SNAPSHOT_READ, g->id);
    e->node = p->node;
    e->index = p->chunk_index;
    e->offset = p->chunk_offset;
}

void vs_on_host_chunk(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    int at = vs_config_node(vs_config_now(g), e->node);
    struct vs_peer *p = at < 0 ? NULL : &g->peer[at];
    size_t meta = e->offset == 0 ? g->meta_bytes : 0;
    struct vs_message m = { .kind = VS_CHUNK,
                            .term = g->term,
                            .round = g->round,
                            .stamp = r->now,
                            .index = e->index,
                            .hint = e->offset,
                            .hint_term = meta };
    unsigned char *out;

    if (p == NULL || !p->reading)
        return;
    p->reading = 0;
    if (g->role != VSHARD_RAFT_LEADER || p->state != VS_SNAPSHOT || e->index != p->chunk_index ||
        e->offset != p->chunk_offset)
        return;
    /* It is gone: begin the newest. If this is the newest, the host cannot read it now. */
    if (e->index != g->snapshot_index && (e->status == VSHARD_ENOTFOUND || e->offset == 0)) {
        p->chunk_offset = 0;
        return;
    }
    p->paused = 1;
    p->chunk_ns = r->now;
    if (e->status != VSHARD_OK)
        return;
    out = vs_head(r, meta + (size_t)e->byte_count);
    if (meta != 0)
        memcpy(out, g->meta, meta);
    if (e->byte_count != 0)
        memcpy(out + meta, e->bytes, (size_t)e->byte_count);
    m.to = p->node;
    m.to_incarnation = p->incarnation;
    m.log_term = p->chunk_term;
    m.flags = e->flags & VSHARD_RAFT_LAST ? VS_FLAG_LAST : 0;
    m.body = out;
    m.body_bytes = meta + (size_t)e->byte_count;
    vs_send(r, g, &m, 0);
}

void vs_on_chunk_reply(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_peer *p = vs_peer_of(g, m->from, m->from_incarnation);

    if (m->term > g->term) {
        vs_become_follower(r, g, m->term, 0);
        return;
    }
    if (g->role != VSHARD_RAFT_LEADER || m->term != g->term || p == NULL ||
        p->state != VS_SNAPSHOT || m->index != p->chunk_index || m->log_term != p->chunk_term)
        return;
    /* An answer to an earlier piece may come late; it must not turn us back. */
    if (p->paused && (m->hint > p->chunk_offset || m->stamp >= p->chunk_ns)) {
        p->chunk_offset = m->hint;
        p->paused = 0;
    }
}

/* ---- receiving ---- */

static void reply_chunk(struct vshard_raft *r, struct vs_group *g, uint64_t stamp)
{
    struct vs_message m = { .kind = VS_CHUNK_REPLY,
                            .to = g->install_from,
                            .term = g->term,
                            .to_incarnation = g->install_incarnation,
                            .index = g->install_index,
                            .log_term = g->install_term,
                            .hint = g->install_offset,
                            .stamp = stamp };

    vs_send(r, g, &m, 0);
}

/* `stamp`: of what this answers, of the leader of this term; 0: of nothing. */
static void reply_have(struct vshard_raft *r, struct vs_group *g, uint64_t to, uint64_t incarnation,
                       uint64_t index, uint64_t stamp)
{
    struct vs_message m = { .kind = VS_APPEND_REPLY,
                            .to = to,
                            .to_incarnation = incarnation,
                            .term = g->term,
                            .index = index,
                            .stamp = stamp };

    vs_send(r, g, &m, index > g->durable ? g->log_seq : 0);
}

static bool same_snapshot(const struct vs_group *g, const struct vs_message *m)
{
    return g->install != NULL && g->install_index == m->index && g->install_term == m->log_term &&
           g->install_from == m->from && g->install_incarnation == m->from_incarnation;
}

static void write_piece(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    size_t meta = (size_t)m->hint_term, bytes = m->body_bytes - meta;
    struct vshard_raft_effect *e = vs_effect(r, VSHARD_RAFT_SNAPSHOT_WRITE, g->id);
    unsigned char *copy = vs_head(r, bytes);

    if (bytes != 0)
        memcpy(copy, m->body + meta, bytes);
    e->index = m->index;
    e->term = m->log_term;
    e->offset = m->hint;
    e->bytes = copy;
    e->byte_count = bytes;
    g->writing = 1;
    g->install_stamp = m->stamp;
    g->write_end = m->hint + bytes;
    g->write_last = (m->flags & VS_FLAG_LAST) != 0;
}

static bool obsolete(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    if (TRAP(25))
        return false;
    if (m->index <= g->commit) {
        reply_have(r, g, m->from, m->from_incarnation, m->index, m->stamp);
        return true;
    }
    if (vs_log_term(&g->log, m->index) == m->log_term) {
        g->commit = m->index;
        g->verified = m->index > g->verified ? m->index : g->verified;
        reply_have(r, g, m->from, m->from_incarnation, m->index, m->stamp);
        return true;
    }
    return false;
}

/* A piece of a snapshot we know nothing of: we crashed, or had begun another. */
static void want_from_start(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    struct vs_message reply = { .kind = VS_CHUNK_REPLY,
                                .to = m->from,
                                .term = g->term,
                                .to_incarnation = m->from_incarnation,
                                .index = m->index,
                                .log_term = m->log_term,
                                .stamp = m->stamp };

    vs_send(r, g, &reply, 0);
}

static void begin_install(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m,
                          unsigned char *meta)
{
    vs_free(r->allocator, g->install, g->install_bytes);
    g->install = meta;
    g->install_bytes = (size_t)m->hint_term;
    memcpy(meta, m->body, g->install_bytes);
    g->install_index = m->index;
    g->install_term = m->log_term;
    g->install_from = m->from;
    g->install_incarnation = m->from_incarnation;
    g->install_offset = 0;
}

int vs_on_chunk(struct vshard_raft *r, struct vs_group *g, const struct vs_message *m)
{
    unsigned char *meta = NULL;
    struct vs_config c;
    uint32_t sessions;

    if (m->hint == 0) {
        int rc = vs_meta_check(m->body, (size_t)m->hint_term, &c, &sessions);
        if (rc == VSHARD_OK)
            rc = vs_sessions_reserve(r, g, sessions);
        if (rc == VSHARD_OK)
            rc = vs_peers_reserve(r, g, c.count);
        if (rc == VSHARD_OK && (meta = vs_alloc(r->allocator, (size_t)m->hint_term)) == NULL)
            rc = VSHARD_ENOMEM;
        if (rc != VSHARD_OK)
            return rc;
    }
    vs_touch(r, g);
    if (m->term >= g->term && vs_follows(r, g, m)) {
        if (vs_unproven(g, m->term) && m->index <= g->commit &&
            vs_log_term(&g->log, m->index) != m->log_term)
            vs_group_stop(r, g, VSHARD_ESTALE);
        else if (!g->installing && !obsolete(r, g, m)) {
            if (meta != NULL && !same_snapshot(g, m) && !g->writing) {
                begin_install(r, g, m, meta);
                meta = NULL;
            }
            if (same_snapshot(g, m) && !g->writing) {
                if (m->hint == g->install_offset)
                    write_piece(r, g, m);
                else
                    reply_chunk(r, g, m->stamp);
            } else if (m->hint != 0 && !g->writing) {
                want_from_start(r, g, m);
            }
        }
    }
    vs_free(r->allocator, meta, (size_t)m->hint_term);
    return VSHARD_OK;
}

/* A piece may have been written in part; then the leader is told to go on from there. */
int vs_on_chunk_written(struct vshard_raft *r, struct vs_group *g,
                        const struct vshard_raft_event *e)
{
    if (!g->writing || e->index != g->install_index)
        return VSHARD_OK;
    if (e->status == VSHARD_OK && (e->offset < g->install_offset || e->offset > g->write_end))
        return VSHARD_EINVAL;
    g->writing = 0;
    if (e->status != VSHARD_OK)
        return VSHARD_OK;
    g->install_offset = e->offset;
    if (g->write_last && e->offset == g->write_end)
        g->installing = 1;
    else if (g->install_from != 0)
        reply_chunk(r, g, r->now);
    return VSHARD_OK;
}

static void end_install(struct vshard_raft *r, struct vs_group *g)
{
    vs_free(r->allocator, g->install, g->install_bytes);
    g->install = NULL;
    g->install_bytes = 0;
    g->install_offset = 0;
    g->installing = g->writing = 0;
}

/* While it came, another leader may have sent the entries, and more than those: they were
 * acknowledged, and this replica may have been elected with them. Or another epoch has begun,
 * of whose log it may be no part. */
static bool is_needed(const struct vs_group *g)
{
    return g->install_from != 0 && g->install_index > g->commit &&
           (vs_log_term(&g->log, g->install_index) != g->install_term || TRAP(49));
}

void vs_install_try(struct vshard_raft *r, struct vs_group *g)
{
    struct vshard_raft_effect *e;

    if (g->install == NULL || g->writing || g->installing == 2)
        return;
    if (!is_needed(g) && !TRAP(25)) {
        end_install(r, g);
        return;
    }
    if (g->installing == 0 || g->handed != g->applied)
        return;
    g->installing = 2;
    e = vs_effect(r, VSHARD_RAFT_INSTALL, g->id);
    e->index = g->install_index;
    e->term = g->install_term;
    e->bytes = g->install;
    e->byte_count = g->install_bytes;
}

int vs_on_installed(struct vshard_raft *r, struct vs_group *g, const struct vshard_raft_event *e)
{
    if (g->installing != 2 || e->index != g->install_index)
        return VSHARD_EINVAL;
    if (e->status != VSHARD_OK) {
        end_install(r, g);
        return VSHARD_OK;
    }
    vs_log_reset(&g->log, g->install_index, g->install_term);
    g->snapshot_index = g->install_index;
    g->snapshot_term = g->install_term;
    g->commit = g->applied = g->handed = g->durable = g->install_index;
    g->verified = g->install_from != 0 ? g->install_index : 0;
    g->cut = g->install_index + 1;
    g->log_seq = r->seq + 1;
    if (!TRAP(53))
        vs_proposals_overtaken(r, g);
    vs_meta_adopt(r, g, g->install, g->install_index);
    vs_free(r->allocator, g->meta, g->meta_bytes);
    g->meta = g->install;
    g->meta_bytes = g->install_bytes;
    g->install = NULL;
    g->install_bytes = 0;
    vs_free(r->allocator, g->taken, g->taken_bytes);
    g->taken = NULL;
    g->taken_bytes = 0;
    g->taken_index = 0;
    end_install(r, g);
    if (g->leader != 0 && g->install_from != 0)
        reply_have(r, g, g->leader, g->leader_incarnation, g->commit, g->install_stamp);
    return VSHARD_OK;
}
