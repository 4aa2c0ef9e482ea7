/* client.c - clients that write, read and retry, and hold the cluster to its word.
 *
 * Each client does one thing at a time. All but two use sessions: they repeat a
 * write until it is acknowledged, and every one of those must be applied exactly
 * once; told that it expired, they know that it was not applied, and open another
 * session. The others have no session: when an outcome is unknown they go on, and
 * the history says so. What was promised is checked on the spot (a read may not
 * answer from before anything that had been acknowledged when it was asked) and
 * again at the end, when each register's history must be linearizable. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static void again(struct world *w, struct client *c, uint64_t after)
{
    world_at(w, w->now + after, (struct event){ .kind = EV_CLIENT, .a = c->id });
}

void client_start(struct world *w)
{
    for (uint32_t i = 0; i < w->clients; i++) {
        struct client *c = &w->client[i];
        c->id = i;
        c->group = i % w->groups;
        c->sessions = i + 2 < w->clients;
        c->node = 1 + i % w->nodes;
        again(w, c, world_random(w, 300 * MS));
    }
}

static void remember(struct client *c, struct linear_op op)
{
    if (c->history_count == c->history_cap) {
        c->history_cap = c->history_cap ? c->history_cap * 2 : 64;
        c->history = realloc(c->history, c->history_cap * sizeof *c->history);
        c->history_key = realloc(c->history_key, c->history_cap * sizeof *c->history_key);
    }
    c->entry = c->history_count++;
    c->history[c->entry] = op;
    c->history_key[c->entry] = c->key;
}

static void choose(struct world *w, struct client *c)
{
    c->kind = (uint32_t)world_random(w, 2);
    c->key = world_random(w, KEYS);
    c->busy = 1;
    c->call = w->now;
    if (c->sessions && c->session == 0) {
        c->kind = OP_WRITE + 2; /* open a session */
        return;
    }
    if (c->kind == OP_WRITE) {
        c->op++;
        c->sequence++;
        c->value = ++w->next_value;
        remember(c, (struct linear_op){ w->now, NEVER, c->value, 1, c->id });
        return;
    }
    c->mode = (uint32_t)world_random(w, 3);
    if (c->mode == VSHARD_RAFT_READ_LEASE && w->jumps)
        c->mode = VSHARD_RAFT_READ_INDEX;
    c->max_age = world_random(w, 200 * MS);
    if (c->mode != VSHARD_RAFT_READ_STALE)
        remember(c, (struct linear_op){ w->now, NEVER, 0, 0, c->id });
}

static struct node *pick(struct world *w, struct client *c)
{
    if (c->node == 0 || world_chance(w, 200))
        c->node = 1 + (uint32_t)world_random(w, w->nodes);
    return &w->node[c->node];
}

static void submit(struct world *w, struct client *c, struct node *n)
{
    struct vshard_raft_entry x = { .kind = VSHARD_RAFT_DATA };
    struct vshard_raft_event e = { .group = c->group + 1, .tag = ++w->next_tag };
    unsigned char data[24];
    uint32_t id = c->id, op = (uint32_t)c->op;

    e.flags = world_chance(w, 300) ? VSHARD_RAFT_LOCAL_ONLY : 0;
    e.kind = c->kind == OP_READ ? VSHARD_RAFT_READ : VSHARD_RAFT_PROPOSE;
    if (c->kind == OP_READ) {
        e.mode = c->mode;
        e.max_age_ns = c->max_age / w->scale;
    } else {
        e.entries = &x;
        e.entry_count = 1;
    }
    if (c->kind == OP_WRITE + 2) {
        x.kind = VSHARD_RAFT_SESSION;
    } else {
        memcpy(data, &id, 4);
        memcpy(data + 4, &op, 4);
        memcpy(data + 8, &c->key, 8);
        memcpy(data + 16, &c->value, 8);
        x.data = data;
        x.count = sizeof data;
        x.session = c->sessions ? c->session : 0;
        x.sequence = c->sessions ? c->sequence : 0;
    }
    c->tag = e.tag;
    c->waiting = 1;
    c->sent = w->now;
    c->floor = w->truth[c->group].floor;
    w->tags_open++;
    if (c->kind == OP_WRITE)
        story_say(w, n, "is asked to set %c = %llu", (int)('a' + c->key),
                  (unsigned long long)c->value);
    if (node_event(w, n, e) != VSHARD_OK) {
        if (!c->waiting || c->tag != e.tag)
            fail(w, "n%u both refuses and answers tag %llu", n->id, (unsigned long long)e.tag);
        c->waiting = 0;
        w->tags_open--;
        c->node = 0;
        again(w, c, 10 * MS);
    }
}

void client_act(struct world *w, struct client *c)
{
    struct node *n;

    if (c->waiting)
        return;
    if (!c->busy) {
        if (w->quiet)
            return;
        if (w->now < w->lull_until) {
            again(w, c, w->lull_until - w->now + world_random(w, 20 * MS));
            return;
        }
        choose(w, c);
    }
    n = pick(w, c);
    if (!n->alive || n->poisoned || n->paused_until > w->now) {
        c->node = 0;
        again(w, c, 5 * MS);
        return;
    }
    submit(w, c, n);
}

static void finish(struct world *w, struct client *c)
{
    c->busy = 0;
    again(w, c, world_random(w, 20 * MS));
}

/* An answer of before a promotion, from one who has not heard of it. It was true then; of what
 * there is now it says nothing (client_forfeit). */
static bool is_late(const struct world *w, const struct client *c,
                    const struct vshard_raft_effect *e)
{
    return check_is_lost(w, c->group, e->index, e->term);
}

/* The entry of a client's write that it was told about. */
static const struct truth *entry_told(struct world *w, const struct client *c,
                                      const struct vshard_raft_effect *e)
{
    const struct group_truth *t = is_late(w, c, e) ? &w->past : &w->truth[c->group];
    uint64_t index = e->index;

    if (index == 0 || index > t->count)
        fail(w, "client %u is told of write %llu, which nobody applied", c->id,
             (unsigned long long)index);
    if (c->kind == OP_WRITE &&
        (t->committed[index - 1].client != c->id || t->committed[index - 1].op != (uint32_t)c->op))
        fail(w, "client %u is told its write is at %llu, which is another's", c->id,
             (unsigned long long)index);
    return &t->committed[index - 1];
}

/* Told that a write was not done, for its session had gone: then it was not. */
static void expired(struct world *w, const struct client *c, const struct vshard_raft_effect *e)
{
    if (c->kind == OP_READ)
        return;
    if (!(entry_told(w, c, e)->flags & VSHARD_RAFT_EXPIRED))
        fail(w, "client %u is told that its write at %llu expired, and it was applied", c->id,
             (unsigned long long)e->index);
    w->expired++;
}

static void wrote(struct world *w, struct client *c, const struct vshard_raft_effect *e)
{
    if (entry_told(w, c, e)->flags & VSHARD_RAFT_EXPIRED)
        fail(w, "client %u is told that its write at %llu was done, and it had expired", c->id,
             (unsigned long long)e->index);
    if (is_late(w, c, e))
        return;
    if (c->kind == OP_WRITE) {
        c->history[c->entry].ret = w->now;
        if (c->sessions)
            c->acked_op = c->op;
    } else {
        c->session = e->index;
        c->sequence = 0;
    }
    check_floor(w, c->group, e->index);
}

static void did_read(struct world *w, struct client *c, struct node *n,
                     const struct vshard_raft_effect *e)
{
    const struct machine *m = &n->machine[c->group];

    if (m->applied < e->index)
        fail(w, "n%u answers a read at %llu having applied %llu", n->id,
             (unsigned long long)e->index, (unsigned long long)m->applied);
    if (c->mode == VSHARD_RAFT_READ_STALE) {
        uint64_t by_clock = e->age_ns * w->scale;
        uint64_t age = by_clock + by_clock / 1000 * w->drift_ppm / 500 + MS / 1000;
        uint64_t then = w->now > age ? w->now - age : 0;

        /* The limit is on the proof; asking the leader takes what it takes. */
        if (!w->jumps && e->index < check_floor_at(w, c->group, then))
            fail(w,
                 "stale read: n%u says %llu is at most %llu ns old, but %llu was acknowledged "
                 "before",
                 n->id, (unsigned long long)e->index, (unsigned long long)e->age_ns,
                 (unsigned long long)check_floor_at(w, c->group, then));
        return;
    }
    if (e->index < c->floor)
        fail(w, "read (mode %u): n%u answers from %llu, but %llu had been acknowledged before",
             c->mode, n->id, (unsigned long long)e->index, (unsigned long long)c->floor);
    c->history[c->entry].ret = w->now;
    c->history[c->entry].value = m->value[c->key];
    if (!is_late(w, c, e))
        check_floor(w, c->group, e->index);
}

static void lost(struct world *w, struct client *c, int status)
{
    bool write = c->kind == OP_WRITE;

    c->node = 0;
    if (write && (status == VSHARD_EUNKNOWN || status == VSHARD_ESTALE) &&
        (!c->sessions || c->session == 0)) {
        finish(w, c); /* it may have happened; the history says so */
    } else if (write && status == VSHARD_ESTALE) {
        c->session = 0;
        finish(w, c);
    } else {
        again(w, c, 2 * MS + world_random(w, 20 * MS));
    }
}

bool client_done(struct world *w, struct node *n, const struct vshard_raft_effect *e)
{
    struct client *c = w->client;

    while (c < w->client + CLIENTS && !(c->waiting && c->tag == e->tag))
        c++;
    if (c == w->client + CLIENTS)
        return false;
    c->waiting = 0;
    w->tags_open--;
    if (e->status != VSHARD_OK) {
        story_say(w, n, "answers: %s", vshard_strerror(e->status));
        if (e->status == VSHARD_ESTALE)
            expired(w, c, e);
        lost(w, c, e->status);
        if (e->node != 0 && e->node <= w->nodes)
            c->node = (uint32_t)e->node;
        return true;
    }
    c->node = n->id;
    if (c->kind == OP_READ)
        did_read(w, c, n, e);
    else
        wrote(w, c, e);
    story_say(w, n, "answers: done at %llu", (unsigned long long)e->index);
    finish(w, c);
    return true;
}

void client_crashed(struct world *w, struct node *n)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct client *c = &w->client[i];
        if (c->waiting && c->node == n->id) {
            c->waiting = 0;
            w->tags_open--;
            lost(w, c, VSHARD_EUNKNOWN);
        }
    }
    if (w->admin.busy && w->admin.node == n->id) {
        w->admin.busy = 0;
        w->tags_open--;
    }
}

/* Sessions that were opened beyond it are nobody's now, or another's. */
void client_forfeit(struct world *w, uint64_t kept)
{
    for (uint32_t i = 0; i < w->clients; i++) {
        struct client *c = &w->client[i];

        if (c->group != 0)
            continue;
        c->acked_op = 0;
        c->floor = c->floor < kept ? c->floor : kept;
        if (c->session <= kept)
            continue;
        c->session = 0;
        c->busy = c->waiting; /* what it would ask again, it begins anew */
    }
}

bool clients_idle(const struct world *w)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        if (w->client[i].busy)
            return false;
    }
    return true;
}

void client_check(struct world *w)
{
    /* What was lost is in the histories: they tell nothing. */
    for (uint32_t g = 0; g < w->groups && w->forfeits == 0; g++) {
        for (uint64_t key = 0; key < KEYS; key++) {
            struct linear_op *op;
            size_t count = 0, all = 0;
            int verdict;

            for (uint32_t i = 0; i < CLIENTS; i++)
                all += w->client[i].history_count;
            op = malloc((all + 1) * sizeof *op);
            for (uint32_t i = 0; i < CLIENTS; i++) {
                const struct client *c = &w->client[i];
                for (size_t k = 0; k < c->history_count && c->group == g; k++) {
                    if (c->history_key[k] == key)
                        op[count++] = c->history[k];
                }
            }
            verdict = linear_check(op, count);
            if (verdict != 1)
                fail(w, "register %c of group %u: %zu operations are not linearizable%s",
                     (int)('a' + key), g + 1, count,
                     verdict < 0 ? ", or it is too hard to say" : "");
            free(op);
        }
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        const struct client *c = &w->client[i];
        for (uint32_t k = 1; k <= w->nodes && c->sessions; k++) {
            const struct machine *m = &w->node[k].machine[c->group];
            if (m->applied == w->truth[c->group].count && m->last_op[i] < c->acked_op)
                fail(w, "n%u lost write %llu of client %u", k, (unsigned long long)c->acked_op, i);
        }
    }
}
