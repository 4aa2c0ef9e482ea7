/* raft_memory.c - three replicas among which each allocation fails, and nothing is different.
 *
 * Method: one story of three replicas and a fourth that joins, through the public header:
 * sessions, forwarded requests, reads, a joint configuration, entries fetched from storage, a
 * snapshot in pieces, a hand-over, sleep and a closing. It is told once as it is. Then it is told
 * for each k with the k-th allocation failing: that step must say ENOMEM and change nothing that
 * the digest knows, and is taken again. In the end all replicas must stand where they stood
 * in the first telling. And for each k with all allocations from the k-th on failing until
 * a step has failed. */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdlib.h>

#include "support/fault_alloc.h"
#include <vshard/log.h>

#define MS ((uint64_t)1000000)

enum { NODES = 4, QUEUE = 4096, ENTRIES = 400, PIECE = 10 };

struct letter {
    uint64_t to;
    unsigned char *bytes;
    uint64_t count;
};

struct host {
    struct vshard_raft *raft;
    uint64_t barrier, entries, taken; /* of the last snapshot */
    uint32_t dones;
    unsigned char kept[ENTRIES][64]; /* what storage has: data of entries, by index */
    struct vshard_raft_entry entry[ENTRIES];
};

struct world {
    struct fault_alloc *memory;
    struct host host[NODES + 1];
    struct letter letter[QUEUE];
    struct vshard_raft_event todo[QUEUE];
    uint64_t todo_of[QUEUE], first, last, todo_first, todo_last;
    uint64_t now, cut_off, refusals, fetches, pieces, forwarded;
    uint32_t how;
};

static struct vshard_raft_member member_of(uint64_t node)
{
    return (struct vshard_raft_member){ node, node, VSHARD_RAFT_VOTER, 0 };
}

static void later(struct world *w, uint64_t node, struct vshard_raft_event e)
{
    w->todo_of[w->todo_last % QUEUE] = node;
    w->todo[w->todo_last++ % QUEUE] = e;
}

static void mail(struct world *w, const struct vshard_raft_effect *e)
{
    struct letter *l = &w->letter[w->last++ % QUEUE];

    cr_assert_lt(w->last - w->first, (uint64_t)QUEUE);
    *l = (struct letter){ e->node, malloc((size_t)(e->byte_count + e->body_count)),
                          e->byte_count + e->body_count };
    memcpy(l->bytes, e->bytes, (size_t)e->byte_count);
    if (e->body_count != 0)
        memcpy(l->bytes + e->byte_count, e->body, (size_t)e->body_count);
}

static void keep(struct host *h, const struct vshard_raft_effect *e)
{
    h->barrier = e->barrier;
    for (uint32_t i = 0; i < e->entry_count; i++) {
        struct vshard_raft_entry x = e->entries[i];

        if (x.index >= ENTRIES || x.count > sizeof *h->kept)
            continue; /* members of many: not asked for again here */
        if (x.count != 0)
            memcpy(h->kept[x.index], x.data, (size_t)x.count);
        x.data = h->kept[x.index];
        h->entry[x.index] = x;
    }
}

static void do_effect(struct world *w, uint64_t node, const struct vshard_raft_effect *e)
{
    struct host *h = &w->host[node];
    struct vshard_raft_event answer = { .node = e->node, .index = e->index, .offset = e->offset };

    switch (e->kind) {
    case VSHARD_RAFT_PERSIST: keep(h, e); return;
    case VSHARD_RAFT_SEND: mail(w, e); return;
    case VSHARD_RAFT_DONE: h->dones++; return;
    case VSHARD_RAFT_APPLY: answer.kind = VSHARD_RAFT_APPLIED; break;
    case VSHARD_RAFT_META:
        answer = (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT,
                                             .index = e->index,
                                             .offset = e->index };
        break;
    case VSHARD_RAFT_FETCH:
        w->fetches++;
        answer.kind = VSHARD_RAFT_FETCHED;
        answer.entries = &h->entry[e->index];
        answer.entry_count = 2;
        break;
    case VSHARD_RAFT_SNAPSHOT_READ:
        w->pieces++;
        answer.kind = VSHARD_RAFT_CHUNK;
        answer.bytes = "0123456789";
        answer.byte_count = PIECE;
        answer.flags = e->offset == 2 * PIECE ? VSHARD_RAFT_LAST : 0;
        break;
    case VSHARD_RAFT_SNAPSHOT_WRITE:
        answer.kind = VSHARD_RAFT_CHUNK_WRITTEN;
        answer.offset = e->offset + e->byte_count;
        break;
    case VSHARD_RAFT_INSTALL: answer.kind = VSHARD_RAFT_INSTALLED; break;
    default: return;
    }
    later(w, node, answer);
}

static void take(struct world *w, uint64_t node)
{
    const struct vshard_raft_effect *e;

    while ((e = vshard_raft_next(w->host[node].raft)) != NULL)
        do_effect(w, node, e);
}

/* A refused step has changed nothing, and is taken again. */
static void step(struct world *w, uint64_t node, struct vshard_raft_event e)
{
    struct vshard_raft *r = w->host[node].raft;
    uint64_t before = vshard_raft_digest(r);
    int rc;

    e.size = sizeof e;
    e.group = 1;
    e.now_ns = w->now;
    while ((rc = vshard_raft_step(r, &e)) == VSHARD_ENOMEM) {
        cr_assert_eq(vshard_raft_digest(r), before, "kind %u", e.kind);
        cr_assert_null(vshard_raft_next(r));
        cr_assert_lt(++w->refusals, 2u, "it was to fail once");
        fault_alloc_fail(w->memory, 0, FAULT_ONCE);
    }
    cr_assert(rc == VSHARD_OK || e.kind == VSHARD_RAFT_MESSAGE, "kind %u says %d", e.kind, rc);
    take(w, node);
}

static int again(struct world *w, int rc)
{
    if (rc != VSHARD_ENOMEM)
        cr_assert_eq(rc, VSHARD_OK);
    else
        cr_assert_lt(++w->refusals, 2u);
    if (rc == VSHARD_ENOMEM)
        fault_alloc_fail(w->memory, 0, FAULT_ONCE);
    return rc == VSHARD_ENOMEM;
}

/* One of the first three is a member from birth. */
static void begin(struct world *w, uint64_t node)
{
    const struct vshard_raft_member first[3] = { member_of(1), member_of(2), member_of(3) };
    struct host *h = &w->host[node];
    struct vshard_raft_options o = { .size = sizeof o,
                                     .node = node,
                                     .incarnation = node,
                                     .boot = 1,
                                     .seed = 3 * node,
                                     .max_cache_bytes = 600,
                                     .max_message = 200,
                                     .allocator = &w->memory->hook };
    struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = first, .member_count = node < 4 ? 3 : 0
    };

    while (again(w, vshard_raft_create(&o, &h->raft)))
        ;
    while (again(w, vshard_raft_open(h->raft, &b)))
        ;
    while (again(w, vshard_raft_start(h->raft, 1, w->now)))
        ;
    take(w, node);
}

static bool deliver(struct world *w)
{
    struct letter l = w->letter[w->first % QUEUE];

    if (w->first == w->last)
        return false;
    w->first++;
    if (l.to != w->cut_off && l.to <= NODES && w->host[l.to].raft != NULL)
        step(w, l.to,
             (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_MESSAGE, .bytes = l.bytes, .byte_count = l.count });
    free(l.bytes);
    return true;
}

static bool work(struct world *w)
{
    if (w->todo_first == w->todo_last)
        return false;
    w->todo_first++;
    step(w, w->todo_of[(w->todo_first - 1) % QUEUE], w->todo[(w->todo_first - 1) % QUEUE]);
    return true;
}

static void pass(struct world *w, uint64_t ms)
{
    for (uint64_t until = w->now + ms * MS; w->now < until; w->now += 5 * MS) {
        for (uint64_t i = 1; i <= NODES; i++) {
            if (w->host[i].raft == NULL)
                continue;
            if (vshard_raft_deadline_ns(w->host[i].raft) <= w->now)
                step(w, i, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
            step(w, i,
                 (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                             .barrier = w->host[i].barrier });
        }
        while (deliver(w) || work(w))
            ;
    }
}

static void propose(struct world *w, uint64_t node, uint32_t kind, uint64_t session)
{
    const struct vshard_raft_entry e = { .kind = kind,
                                         .session = session,
                                         .sequence = session != 0,
                                         .data = "forty bytes of data, of which none is 0.",
                                         .count = 40 };

    step(w, node,
         (struct vshard_raft_event){
             .kind = VSHARD_RAFT_PROPOSE, .tag = 1, .entries = &e, .entry_count = 1 });
}

static void ask(struct world *w, uint64_t node, uint32_t kind, uint64_t other)
{
    step(w, node, (struct vshard_raft_event){ .kind = kind, .tag = 2, .node = other });
}

static struct vshard_raft_status status(const struct world *w, uint64_t node)
{
    struct vshard_raft_status s = { .size = sizeof s };

    cr_assert_eq(vshard_raft_inspect(w->host[node].raft, 1, &s), VSHARD_OK);
    return s;
}

static void elect(struct world *w, uint64_t node)
{
    pass(w, 151);
    step(w, node, (struct vshard_raft_event){ .kind = VSHARD_RAFT_CAMPAIGN });
    pass(w, 30);
    cr_assert_eq(status(w, node).role, (uint32_t)VSHARD_RAFT_LEADER);
}

static void change_members(struct world *w)
{
    const struct vshard_raft_member to[3] = { member_of(1), member_of(2), member_of(4) };

    step(w, 1,
         (struct vshard_raft_event){
             .kind = VSHARD_RAFT_CONFIGURE, .tag = 3, .members = to, .member_count = 3 });
    pass(w, 200);
    cr_assert_eq(status(w, 1).member_count, 3u);
    cr_assert_eq(status(w, 4).commit, status(w, 1).commit, "node 4 follows");
}

static void tell(struct world *w)
{
    w->now = 1000 * MS;
    for (uint64_t i = 1; i <= NODES; i++)
        begin(w, i);
    elect(w, 1);
    propose(w, 1, VSHARD_RAFT_SESSION, 0);
    pass(w, 30);
    propose(w, 2, VSHARD_RAFT_DATA, status(w, 1).last); /* forwarded */
    ask(w, 3, VSHARD_RAFT_READ, 0);
    pass(w, 40);
    w->cut_off = 3;
    for (int i = 0; i < 30; i++)
        propose(w, 1, VSHARD_RAFT_DATA, 0);
    pass(w, 100);
    w->cut_off = 0; /* 3 gets entries that are not in memory any more */
    pass(w, 300);
    cr_assert_eq(status(w, 3).commit, status(w, 1).commit);
    step(w, 1, (struct vshard_raft_event){ .kind = VSHARD_RAFT_SNAPSHOT });
    pass(w, 30);
    change_members(w); /* 4 gets the snapshot */
    ask(w, 1, VSHARD_RAFT_TRANSFER, 2);
    pass(w, 60);
    cr_assert_eq(status(w, 2).role, (uint32_t)VSHARD_RAFT_LEADER);
    propose(w, 1, VSHARD_RAFT_DATA, 0);
    pass(w, 3000);
    cr_assert_eq(status(w, 2).asleep, 1u);
    propose(w, 2, VSHARD_RAFT_DATA, 0);
    pass(w, 60);
    while (again(w, vshard_raft_close(w->host[3].raft, 1)))
        ;
    take(w, 3);
}

static void end(struct world *w)
{
    for (uint64_t i = 1; i <= NODES; i++)
        vshard_raft_destroy(w->host[i].raft);
    while (w->first != w->last)
        free(w->letter[w->first++ % QUEUE].bytes);
}

/* Returns the calls for memory; `digest` [NODES]: where it ended. */
static uint64_t told(uint64_t k, uint32_t how, uint64_t *digest)
{
    struct world *w = calloc(1, sizeof *w);
    struct fault_alloc memory;
    uint64_t refusals, calls;

    fault_alloc_init(&memory);
    fault_alloc_fail(&memory, k, how);
    w->memory = &memory;
    tell(w);
    cr_assert_gt(w->fetches, 3u);
    cr_assert_gt(w->pieces, 2u);
    for (uint64_t i = 1; i <= NODES; i++)
        digest[i - 1] = vshard_raft_digest(w->host[i].raft);
    refusals = w->refusals;
    calls = memory.calls;
    end(w);
    cr_assert_null(fault_alloc_verdict(&memory), "k %llu: %s", (unsigned long long)k,
                   fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
    free(w);
    (void)refusals;
    return calls;
}

Test(raft_memory, each_allocation_among_replicas_may_fail, .timeout = 300)
{
    uint64_t whole[NODES], calls = told(0, FAULT_ONCE, whole);

    cr_assert_gt(calls, 50u);
    for (uint64_t k = 1; k <= calls; k++) {
        for (uint32_t how = FAULT_ONCE; how <= FAULT_FOREVER; how++) {
            uint64_t digest[NODES];

            told(k, how, digest);
            cr_assert_arr_eq(digest, whole, sizeof whole, "k %llu", (unsigned long long)k);
        }
    }
}
