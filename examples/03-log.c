/* 03-log.c - three replicas of a counter in one process, over an array as network.
 *
 *     cc 03-log.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * Time, the network and the disks are variables here, so each run is the same. The
 * leader is cut off while a client adds: what it took alone is not confirmed, the
 * others go on, and once healed all three agree on exactly what was confirmed.
 *
 * It prints:
 *
 *     10 additions confirmed
 *     the leader is cut off
 *     an addition at it: no answer
 *     10 more confirmed by another leader, of a later term
 *     healed; the lonely addition: outcome unknown
 *     counters: 20 20 20
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vshard.h>

enum { NODES = 3, GROUP = 1, MESSAGES = 4096 };

/* The replica, the state machine, and what a disk would hold. A real host keeps term,
 * vote and entries in a write-ahead log, see vshard_host(7). */
struct node {
    struct vshard_raft *raft;
    uint64_t counter;
    uint64_t persisted; /* the last barrier written */
    uint64_t term;      /* in which it leads, or 0 */
    int reachable;
};

struct message {
    int from, to;
    size_t count;
    unsigned char bytes[2048];
};

static struct node node[NODES + 1]; /* by id, from 1 */
static struct message network[MESSAGES];
static size_t first, last; /* messages under way */
static uint64_t now = 1;   /* ns */
static int answers, answer;

static void check(int fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "03-log: %s\n", what);
        exit(1);
    }
}

/* ---- effects: persist, then send, then apply ---- */

static void post(int from, const struct vshard_raft_effect *e)
{
    struct message *m = &network[last++ % MESSAGES];

    check(e->byte_count + e->body_count <= sizeof m->bytes, "a message too long");
    m->from = from;
    m->to = (int)e->node;
    m->count = e->byte_count + e->body_count;
    memcpy(m->bytes, e->bytes, e->byte_count);
    if (e->body_count > 0)
        memcpy(m->bytes + e->byte_count, e->body, e->body_count);
}

static uint64_t apply(struct node *n, const struct vshard_raft_effect *e)
{
    for (uint32_t i = 0; i < e->entry_count; i++) {
        uint64_t amount;

        if (e->entries[i].kind == VSHARD_RAFT_DATA && e->entries[i].flags == 0) {
            memcpy(&amount, e->entries[i].data, sizeof amount);
            n->counter += amount;
        }
    }
    return e->index;
}

static void step(int id, struct vshard_raft_event event);

static void take_effects(int id)
{
    const struct vshard_raft_effect *e;
    struct node *n = &node[id];
    uint64_t persisted = 0, applied = 0;

    while ((e = vshard_raft_next(n->raft)) != NULL) {
        switch (e->kind) {
        case VSHARD_RAFT_PERSIST: persisted = e->barrier; break; /* memory is our disk, */
        case VSHARD_RAFT_SEND: post(id, e); break;               /* so nothing waits for it */
        case VSHARD_RAFT_APPLY: applied = apply(n, e); break;
        case VSHARD_RAFT_DONE: answers++, answer = e->status; break;
        case VSHARD_RAFT_ROLE: n->term = e->role == VSHARD_RAFT_LEADER ? e->term : 0; break;
        default: break;
        }
    }
    /* Now that all effects are taken, the replica may be told. */
    if (persisted != 0)
        step(id, (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = persisted });
    if (applied != 0)
        step(id, (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = applied });
}

static void step(int id, struct vshard_raft_event event)
{
    event.size = sizeof event;
    event.now_ns = now;
    event.group = GROUP;
    check(vshard_raft_step(node[id].raft, &event) == VSHARD_OK, "a step fails");
    take_effects(id);
}

/* ---- the world ---- */

static void run(int milliseconds)
{
    for (int ms = 0; ms < milliseconds; ms++, now += 1000000) {
        for (size_t through = last; first < through; first++) {
            const struct message m = network[first % MESSAGES];

            if (node[m.from].reachable && node[m.to].reachable)
                step(m.to, (struct vshard_raft_event){ .kind = VSHARD_RAFT_MESSAGE,
                                                       .bytes = m.bytes,
                                                       .byte_count = m.count });
        }
        for (int id = 1; id <= NODES; id++) {
            if (vshard_raft_deadline_ns(node[id].raft) <= now)
                step(id, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
        }
    }
}

static int leader(void)
{
    int id = NODES;

    while (id > 0 && (node[id].term == 0 || !node[id].reachable))
        id--;
    check(id > 0, "nobody leads");
    return id;
}

/* Adds 1 at a node; 1 if that was confirmed within 100 ms. */
static int add(int id)
{
    const uint64_t amount = 1;
    const struct vshard_raft_entry entry = { .data = &amount, .count = sizeof amount };

    answers = 0;
    step(id, (struct vshard_raft_event){
                 .kind = VSHARD_RAFT_PROPOSE, .tag = 1, .entries = &entry, .entry_count = 1 });
    for (int ms = 0; ms < 100 && answers == 0; ms++)
        run(1);
    return answers == 1 && answer == VSHARD_OK;
}

static void birth(int id)
{
    static const struct vshard_raft_member members[NODES] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                              { 2, 1, VSHARD_RAFT_VOTER, 0 },
                                                              { 3, 1, VSHARD_RAFT_VOTER, 0 } };
    const struct vshard_raft_options options = {
        .size = sizeof options, .node = (uint64_t)id, .incarnation = 1, .boot = 1, .seed = 7
    };
    const struct vshard_raft_boot boot = {
        .size = sizeof boot, .group = GROUP, .members = members, .member_count = NODES
    };

    node[id].reachable = 1;
    check(vshard_raft_create(&options, &node[id].raft) == VSHARD_OK, "create");
    check(vshard_raft_open(node[id].raft, &boot) == VSHARD_OK, "open");
    check(vshard_raft_start(node[id].raft, GROUP, now) == VSHARD_OK, "start");
    take_effects(id);
}

int main(void)
{
    uint64_t confirmed = 0, term;
    int cut;

    for (int id = 1; id <= NODES; id++)
        birth(id);
    run(1000);
    while (confirmed < 10)
        confirmed += (uint64_t)add(leader());
    printf("%d additions confirmed\n", (int)confirmed);

    cut = leader();
    term = node[cut].term;
    node[cut].reachable = 0;
    puts("the leader is cut off");
    check(!add(cut) && answers == 0, "it confirms what it has alone");
    puts("an addition at it: no answer");
    run(1000);
    check(answers == 1 && answer == VSHARD_EUNKNOWN, "it does not say that it does not know");
    while (confirmed < 20)
        confirmed += (uint64_t)add(leader());
    check(leader() != cut && node[leader()].term > term, "the old leader leads");
    puts("10 more confirmed by another leader, of a later term");

    node[cut].reachable = 1;
    puts("healed; the lonely addition: outcome unknown");
    run(1000);
    printf("counters: %d %d %d\n", (int)node[1].counter, (int)node[2].counter,
           (int)node[3].counter);
    for (int id = 1; id <= NODES; id++) {
        check(node[id].counter == confirmed, "a counter is wrong");
        vshard_raft_destroy(node[id].raft);
    }
    return 0;
}
