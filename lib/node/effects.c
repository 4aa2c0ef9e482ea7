/* effects.c - one event into the core, and what it says to do about it.
 *
 * Effects are done in their order, and nothing that they ask for steps the core again
 * before all are taken: such events wait in `todo`. */
#include "node/core.h"

struct vshard_raft_event vs_event(uint32_t kind, uint64_t group)
{
    return (struct vshard_raft_event){ .size = sizeof(struct vshard_raft_event),
                                       .kind = kind,
                                       .group = group };
}

/* ---- what waits for the effects to be taken ---- */

void vs_todo_push(struct vshard_node *n, struct vs_todo t)
{
    if (n->todo_first + n->todo_count == n->todo_cap) {
        size_t cap = 2 * n->todo_count + 64;
        struct vs_todo *todo = vs_alloc(n->allocator, cap * sizeof *todo);

        if (todo == NULL) {
            vs_node_fail(n, VSHARD_ENOMEM, "events");
            return;
        }
        if (n->todo_count != 0)
            memcpy(todo, n->todo + n->todo_first, n->todo_count * sizeof *todo);
        vs_free(n->allocator, n->todo, n->todo_cap * sizeof *todo);
        n->todo = todo;
        n->todo_cap = cap;
        n->todo_first = 0;
    }
    n->todo[n->todo_first + n->todo_count++] = t;
}

static int fetched(struct vshard_node *n, const struct vs_todo *t, struct vshard_raft_event *event)
{
    struct vs_gathered g = { .limit = t->byte_count };
    int rc;

    event->status = vs_gather(n, t->group, t->index, &g);
    event->entries = g.entry;
    event->entry_count = g.count;
    rc = vs_step(n, event);
    vs_gathered_free(&g);
    return rc;
}

void vs_todo_work(struct vshard_node *n)
{
    while (n->todo_count != 0 && n->failed == VSHARD_OK) {
        const struct vs_todo t = n->todo[n->todo_first];
        struct vshard_raft_event event = vs_event(t.kind, t.group);
        int rc;

        event.node = t.node;
        event.index = t.index;
        event.offset = t.offset;
        event.status = t.status;
        rc = t.kind == VSHARD_RAFT_FETCHED ? fetched(n, &t, &event) : vs_step(n, &event);
        if (rc == VSHARD_ENOMEM)
            return; /* at a later turn */
        n->todo_first++;
        if (--n->todo_count == 0)
            n->todo_first = 0;
    }
}

/* ---- proposals and reads: tags ---- */

struct vs_proposal *vs_proposal_new(struct vshard_node *n, uint32_t kind, uint64_t group)
{
    struct vs_proposal *p = vs_alloc_zeroed(n->allocator, sizeof *p);

    if (p == NULL)
        return NULL;
    p->kind = kind;
    p->group = group;
    p->next = n->proposals;
    p->link = &n->proposals;
    if (p->next != NULL)
        p->next->link = &p->next;
    n->proposals = p;
    return p;
}

void vs_proposal_free(struct vshard_node *n, struct vs_proposal *p)
{
    *p->link = p->next;
    if (p->next != NULL)
        p->next->link = p->link;
    vs_free(n->allocator, p, sizeof *p);
}

int vs_proposal_step(struct vshard_node *n, struct vs_proposal *p, struct vshard_raft_event *event)
{
    int rc;

    event->tag = (uintptr_t)p;
    rc = vs_step(n, event);
    if (rc != VSHARD_OK)
        vs_proposal_free(n, p);
    return rc;
}

static void done(struct vshard_node *n, const struct vshard_raft_effect *e)
{
    struct vs_proposal *p = (struct vs_proposal *)(uintptr_t)e->tag;

    if (p == NULL)
        return;
    switch (p->kind) {
    case VS_PROPOSED_WRITE: vs_write_committed(n, p, e); break;
    case VS_PROPOSED_ADMIN: vs_admin_committed(n, p, e); break;
    case VS_PROPOSED_RECOVERY: vs_recover_done(n, p, e); break;
    case VS_PROPOSED_AGAIN: vs_write_judged(n, p, e); break;
    case VS_PROPOSED_READ: vs_serve_read_done(n, p->serving, e->status, e->index); break;
    default: vs_steward_proposed(n, e->status);
    }
    vs_proposal_free(n, p);
}

/* ---- effects ---- */

static void role(struct vshard_node *n, struct vs_replica *r, const struct vshard_raft_effect *e)
{
    static const char *const name[] = { "follower", "precandidate", "candidate", "leader" };

    if (r->role != e->role && e->role == VSHARD_RAFT_LEADER)
        vs_node_event(n, VSHARD_LOG_INFO, "node.leads", r->group, name[e->role], (int64_t)e->term);
    n->elections += e->role == VSHARD_RAFT_CANDIDATE;
    r->role = e->role;
    r->leader = e->node;
}

void vs_certain(struct vshard_node *n)
{
    struct vshard_raft_status map = { .size = sizeof map };
    int rc;

    /* The log is settled when the last of its groups is, and the map names all of them. Where
     * the host keeps it, it has no group. */
    if ((vs_hosted(n) && !n->hosted.given) || !n->unsettled || !n->meta_seen ||
        n->open_ns != VS_NEVER || vshard_raft_inspect(n->raft, VS_META, &map) != VSHARD_OK ||
        atomic_load(&n->replica[0]->applied) < map.commit)
        return;
    for (uint32_t i = vs_hosted(n); i < n->replica_count; i++) {
        struct vshard_raft_status s = { .size = sizeof s };

        if (!n->replica[i]->dropped &&
            (!n->replica[i]->open ||
             vshard_raft_inspect(n->raft, n->replica[i]->group, &s) != VSHARD_OK || s.uncertain))
            return;
    }
    rc = vshard_wal_settle(n->wal);
    if (rc == VSHARD_ENOSPC)
        return; /* when there is room, see steward.c */
    if (rc != VSHARD_OK) {
        vs_node_fail(n, rc, "settle");
        return;
    }
    n->unsettled = 0;
    vs_snapshots_sweep(n);
}

static void effect(struct vshard_node *n, const struct vshard_raft_effect *e)
{
    struct vs_replica *r = vs_replica_find(n, e->group);

    if (e->kind == VSHARD_RAFT_SEND) {
        vs_send_message(n, e);
        return;
    }
    if (e->kind == VSHARD_RAFT_DONE) {
        done(n, e);
        return;
    }
    if (r == NULL) {
        vs_node_fail(n, VSHARD_EINVAL, "an effect of no replica");
        return;
    }
    switch (e->kind) {
    case VSHARD_RAFT_PERSIST: vs_persist(n, r, e); break;
    case VSHARD_RAFT_APPLY: vs_replica_apply(n, r, e); break;
    case VSHARD_RAFT_ROLE: role(n, r, e); break;
    case VSHARD_RAFT_MEMBERS: n->steward_at = n->now; break;
    case VSHARD_RAFT_FETCH:
        vs_todo_push(n, (struct vs_todo){ .kind = VSHARD_RAFT_FETCHED,
                                          .group = e->group,
                                          .node = e->node,
                                          .index = e->index,
                                          .byte_count = e->byte_count });
        break;
    case VSHARD_RAFT_META: vs_replica_meta_effect(n, r, e); break;
    case VSHARD_RAFT_SNAPSHOT_READ: vs_replica_read_effect(n, r, e); break;
    case VSHARD_RAFT_SNAPSHOT_WRITE: vs_replica_piece(n, r, e); break;
    case VSHARD_RAFT_INSTALL: vs_replica_install(n, r, e); break;
    case VSHARD_RAFT_CERTAIN: vs_certain(n); break;
    case VSHARD_RAFT_FATAL: vs_replica_halt(n, r, e->status); break;
    case VSHARD_RAFT_EPOCH:
        vs_node_event(n, VSHARD_LOG_WARN, "node.epoch", r->group, "void beyond", (int64_t)e->index);
        break;
    default: vs_node_event(n, VSHARD_LOG_WARN, "node.effect", r->group, "unknown", e->kind);
    }
}

void vs_take_effects(struct vshard_node *n)
{
    const struct vshard_raft_effect *e;

    while ((e = vshard_raft_next(n->raft)) != NULL)
        effect(n, e);
}

int vs_step(struct vshard_node *n, struct vshard_raft_event *event)
{
    int rc;

    event->now_ns = n->now;
    rc = vshard_raft_step(n->raft, event);
    vs_take_effects(n);
    return rc;
}
