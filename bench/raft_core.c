/* raft_core.c - how many entries a second three cores agree on, and what groups cost
 * that nobody uses.
 *
 * The first: one group, three replicas in one thread, entries of 256 bytes,
 * no disk and no network: what the core itself costs. Each round the leader is
 * handed one proposal of `batch` entries; messages go by a queue in memory, what
 * is to be persisted counts as durable at once, and what is handed out as applied.
 * The state machine of the last replica adds up the bytes it is given, and the sum
 * is compared with what was proposed. Allocations are counted after a warm-up.
 *
 * `message`: the entries of a batch are one proposal; `calls`: each is its own.
 *
 * The second: three nodes, each a replica of every group, on virtual time and a
 * network without delay. Once all groups sleep, a minute is run: processor time a
 * node against that minute, heartbeats that went from one node to another (and
 * answers) against the intervals in it, and what the allocator holds against the
 * groups. Then one node is lost: how long until others lead all that it led.
 *
 *     build/bench/raft_core [seconds [message|calls|idle [groups]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vshard/log.h>

#include "support/bench.h"

enum { BYTES = 256, REPLICAS = 3, QUEUE = 256, WARM_UP = 8000, SECOND = 1000000000 };

struct packet {
    unsigned char *bytes;
    size_t count, cap;
    uint32_t to;
};

struct bench {
    struct vshard_raft *raft[REPLICAS + 1];
    struct packet queue[QUEUE];
    size_t head, tail;
    uint64_t now, applied[REPLICAS + 1], barrier[REPLICAS + 1], sum[REPLICAS + 1];
    uint64_t durable[REPLICAS + 1], told[REPLICAS + 1], done, allocations;
    uint32_t leader;
};

/* Of this process: other work on the machine does not count. */
static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *counted(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    void *p = NULL;

    if (new_bytes != 0) {
        ++*(uint64_t *)ctx;
        p = aligned_alloc(align, (new_bytes + align - 1) / align * align);
        if (p != NULL && old != NULL)
            memcpy(p, old, old_bytes < new_bytes ? old_bytes : new_bytes);
        if (p == NULL)
            return NULL;
    }
    free(old);
    return p;
}

static void send(struct bench *b, const struct vshard_raft_effect *e)
{
    struct packet *p = &b->queue[b->tail++ % QUEUE];
    size_t n = (size_t)(e->byte_count + e->body_count);

    if (b->tail - b->head > QUEUE)
        exit(1);
    if (n > p->cap) {
        p->cap = 2 * n;
        p->bytes = realloc(p->bytes, p->cap);
    }
    memcpy(p->bytes, e->bytes, (size_t)e->byte_count);
    if (e->body_count != 0)
        memcpy(p->bytes + e->byte_count, e->body, (size_t)e->body_count);
    p->count = n;
    p->to = (uint32_t)e->node;
}

/* Barriers never have to be waited for: what was handed out before is durable. */
static void take(struct bench *b, uint32_t node)
{
    const struct vshard_raft_effect *e;

    while ((e = vshard_raft_next(b->raft[node])) != NULL) {
        switch (e->kind) {
        case VSHARD_RAFT_PERSIST: b->barrier[node] = e->barrier; break;
        case VSHARD_RAFT_SEND: send(b, e); break;
        case VSHARD_RAFT_APPLY:
            for (uint32_t i = 0; i < e->entry_count; i++)
                b->sum[node] += e->entries[i].count;
            b->applied[node] = e->index;
            break;
        case VSHARD_RAFT_DONE: b->done++; break;
        case VSHARD_RAFT_ROLE:
            if (e->role == VSHARD_RAFT_LEADER)
                b->leader = node;
            break;
        default: break;
        }
    }
}

static void step(struct bench *b, uint32_t node, struct vshard_raft_event e)
{
    e.size = sizeof e;
    e.group = 1;
    e.now_ns = b->now;
    if (vshard_raft_step(b->raft[node], &e) != VSHARD_OK && e.kind != VSHARD_RAFT_COMPACT) {
        fprintf(stderr, "raft_core: a step failed\n");
        exit(1);
    }
    take(b, node);
}

static void catch_up(struct bench *b, uint32_t node)
{
    while (b->durable[node] != b->barrier[node] || b->told[node] != b->applied[node]) {
        if (b->durable[node] != b->barrier[node]) {
            b->durable[node] = b->barrier[node];
            step(b, node,
                 (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED,
                                             .barrier = b->durable[node] });
        }
        if (b->told[node] != b->applied[node]) {
            b->told[node] = b->applied[node];
            step(b, node,
                 (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED, .index = b->told[node] });
        }
    }
}

static void settle(struct bench *b)
{
    for (;;) {
        for (uint32_t i = 1; i <= REPLICAS; i++)
            catch_up(b, i);
        if (b->head == b->tail) {
            b->head = b->tail = 0; /* as a host takes up again the buffer that it had last */
            return;
        }
        while (b->head != b->tail) {
            struct packet *p = &b->queue[b->head++ % QUEUE];
            step(b, p->to,
                 (struct vshard_raft_event){
                     .kind = VSHARD_RAFT_MESSAGE, .bytes = p->bytes, .byte_count = p->count });
            catch_up(b, p->to);
        }
    }
}

static void start(struct bench *b)
{
    struct vshard_allocator a = { counted, &b->allocations };
    struct vshard_raft_member m[REPLICAS];

    for (uint32_t i = 0; i < REPLICAS; i++)
        m[i] = (struct vshard_raft_member){ i + 1, i + 1, VSHARD_RAFT_VOTER, 0 };
    b->now = 1000000000;
    for (uint32_t i = 1; i <= REPLICAS; i++) {
        struct vshard_raft_options o = {
            .size = sizeof o, .node = i, .incarnation = i, .boot = 1, .allocator = &a
        };
        struct vshard_raft_boot boot = {
            .size = sizeof boot, .group = 1, .members = m, .member_count = REPLICAS
        };
        if (vshard_raft_create(&o, &b->raft[i]) != VSHARD_OK ||
            vshard_raft_open(b->raft[i], &boot) != VSHARD_OK ||
            vshard_raft_start(b->raft[i], 1, b->now) != VSHARD_OK)
            exit(1);
        take(b, i);
    }
    while (b->leader == 0) {
        b->now += 10000000;
        for (uint32_t i = 1; i <= REPLICAS; i++)
            step(b, i, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
        settle(b);
    }
}

static void propose(struct bench *b, const struct vshard_raft_entry *e, uint32_t count,
                    uint64_t tag)
{
    step(b, b->leader,
         (struct vshard_raft_event){
             .kind = VSHARD_RAFT_PROPOSE, .tag = tag, .entries = e, .entry_count = count });
}

static void run(uint32_t batch, double for_seconds, int calls)
{
    static unsigned char data[BYTES];
    struct bench *b = calloc(1, sizeof *b);
    struct vshard_raft_entry *e = calloc(batch, sizeof *e);
    uint64_t entries = 0, rounds = 0, allocations = 0;
    double began = 0, now = 0;

    for (uint32_t i = 0; i < batch; i++)
        e[i] = (struct vshard_raft_entry){ .data = data, .count = BYTES };
    start(b);
    do {
        if (rounds == WARM_UP) {
            began = seconds();
            allocations = b->allocations;
            entries = 0;
        }
        b->now += 1000;
        rounds++;
        if (!calls)
            propose(b, e, batch, rounds);
        for (uint32_t i = 0; calls && i < batch; i++)
            propose(b, e, 1, rounds);
        settle(b);
        entries += batch;
        if (rounds % 64 == 0)
            now = seconds();
    } while (rounds <= WARM_UP || now - began < for_seconds);
    for (uint32_t i = 1; i <= REPLICAS; i++) {
        if (b->sum[i] < rounds * batch * BYTES && i == b->leader) {
            fprintf(stderr, "raft_core: replica %u was given too little\n", i);
            exit(1);
        }
    }
    printf("%u\t%.0f\t%.6f\n", batch, (double)entries / (now - began),
           (double)(b->allocations - allocations) / (double)entries);
    for (uint32_t i = 1; i <= REPLICAS; i++)
        vshard_raft_destroy(b->raft[i]);
    for (size_t i = 0; i < QUEUE; i++)
        free(b->queue[i].bytes);
    free(e);
    free(b);
}

/* ---- groups that nobody uses ---- */

enum { NODES = 3, BEATS = 7, ANSWERS = 8 }; /* the second byte of a message is its kind */

struct idle {
    struct vshard_raft *raft[NODES + 1];
    struct packet *packet; /* a ring */
    size_t head, tail, cap;
    uint64_t now, bytes[NODES + 1], beats, answers, others;
    uint32_t led[NODES + 1], down;
};

static void *measured(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    uint64_t one = 0;
    void *p = counted(&one, old, old_bytes, new_bytes, align);

    if (p != NULL || new_bytes == 0)
        *(uint64_t *)ctx += new_bytes - old_bytes;
    return p;
}

static void idle_send(struct idle *d, const struct vshard_raft_effect *e)
{
    size_t n = (size_t)(e->byte_count + e->body_count);
    struct packet p = { malloc(n), n, n, (uint32_t)e->node };
    unsigned kind = ((const unsigned char *)e->bytes)[1];

    d->beats += kind == BEATS;
    d->answers += kind == ANSWERS;
    d->others += kind != BEATS && kind != ANSWERS;
    memcpy(p.bytes, e->bytes, (size_t)e->byte_count);
    if (e->body_count != 0)
        memcpy(p.bytes + e->byte_count, e->body, (size_t)e->body_count);
    if (d->tail - d->head == d->cap) {
        fprintf(stderr, "raft_core: too many messages\n");
        exit(1);
    }
    d->packet[d->tail++ % d->cap] = p;
}

static void idle_step(struct idle *d, uint32_t node, struct vshard_raft_event e);

/* What is to be persisted is, and what is to be applied is, at once. */
static void idle_take(struct idle *d, uint32_t node)
{
    struct {
        uint64_t group, index;
    } applied[256];
    const struct vshard_raft_effect *e;
    uint64_t barrier = 0;
    uint32_t count = 0;

    while ((e = vshard_raft_next(d->raft[node])) != NULL) {
        if (e->kind == VSHARD_RAFT_PERSIST)
            barrier = e->barrier;
        else if (e->kind == VSHARD_RAFT_SEND)
            idle_send(d, e);
        else if (e->kind == VSHARD_RAFT_APPLY && count < 256) {
            applied[count].group = e->group;
            applied[count++].index = e->index;
        } else if (e->kind == VSHARD_RAFT_ROLE && e->role == VSHARD_RAFT_LEADER) {
            d->led[node]++;
        }
    }
    if (barrier != 0)
        idle_step(d, node,
                  (struct vshard_raft_event){ .kind = VSHARD_RAFT_PERSISTED, .barrier = barrier });
    for (uint32_t i = 0; i < count; i++)
        idle_step(d, node,
                  (struct vshard_raft_event){ .kind = VSHARD_RAFT_APPLIED,
                                              .group = applied[i].group,
                                              .index = applied[i].index });
}

static void idle_step(struct idle *d, uint32_t node, struct vshard_raft_event e)
{
    e.size = sizeof e;
    e.now_ns = d->now;
    if (vshard_raft_step(d->raft[node], &e) != VSHARD_OK) {
        fprintf(stderr, "raft_core: a step failed\n");
        exit(1);
    }
    idle_take(d, node);
}

static void idle_run(struct idle *d, uint64_t until)
{
    while (d->now < until) {
        uint64_t next = until;

        while (d->head != d->tail) {
            struct packet p = d->packet[d->head++ % d->cap];
            if (p.to != d->down)
                idle_step(d, p.to,
                          (struct vshard_raft_event){ .kind = VSHARD_RAFT_MESSAGE,
                                                      .bytes = p.bytes,
                                                      .byte_count = p.count });
            free(p.bytes);
        }
        for (uint32_t i = 1; i <= NODES; i++) {
            uint64_t at = i == d->down ? UINT64_MAX : vshard_raft_deadline_ns(d->raft[i]);
            next = at < next ? at : next;
        }
        d->now = next > d->now ? next : d->now;
        for (uint32_t i = 1; i <= NODES; i++) {
            if (i != d->down && vshard_raft_deadline_ns(d->raft[i]) <= d->now)
                idle_step(d, i, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TIME });
        }
    }
}

static uint32_t asleep(struct idle *d, uint32_t groups)
{
    uint32_t count = 0;

    for (uint32_t i = 1; i <= NODES; i++) {
        for (uint32_t g = 1; g <= groups && i != d->down; g++) {
            struct vshard_raft_status s = { .size = sizeof s };
            vshard_raft_inspect(d->raft[i], g, &s);
            count += s.asleep;
        }
    }
    return count;
}

static void idle_start(struct idle *d, uint32_t groups, uint64_t idle_ns)
{
    struct vshard_raft_member m[NODES];

    for (uint32_t i = 0; i < NODES; i++)
        m[i] = (struct vshard_raft_member){ i + 1, i + 1, VSHARD_RAFT_VOTER, 0 };
    d->now = SECOND;
    d->cap = 16 * (size_t)groups + 64;
    d->packet = calloc(d->cap, sizeof *d->packet);
    for (uint32_t i = 1; i <= NODES; i++) {
        struct vshard_allocator a = { measured, &d->bytes[i] };
        struct vshard_raft_options o = { .size = sizeof o,
                                         .node = i,
                                         .incarnation = i,
                                         .boot = 1,
                                         .allocator = &a,
                                         .idle_ns = idle_ns };
        if (vshard_raft_create(&o, &d->raft[i]) != VSHARD_OK)
            exit(1);
        for (uint32_t g = 1; g <= groups; g++) {
            struct vshard_raft_boot boot = {
                .size = sizeof boot, .group = g, .members = m, .member_count = NODES
            };
            if (vshard_raft_open(d->raft[i], &boot) != VSHARD_OK ||
                vshard_raft_start(d->raft[i], g, d->now) != VSHARD_OK)
                exit(1);
            idle_take(d, i);
        }
    }
}

static void idle(uint32_t groups, int sleeps)
{
    enum { MINUTE = 60, INTERVALS = 2000 }; /* of 30 ms each in a minute */
    struct idle *d = calloc(1, sizeof *d);
    double began, took;
    uint64_t died, held = 0;
    uint32_t slept, led;

    idle_start(d, groups, sleeps ? 0 : UINT64_MAX);
    idle_run(d, 6 * (uint64_t)SECOND);
    slept = asleep(d, groups);
    d->beats = d->answers = d->others = 0;
    began = seconds();
    idle_run(d, (6 + MINUTE) * (uint64_t)SECOND);
    took = seconds() - began;
    for (uint32_t i = 1; i <= NODES; i++)
        held = d->bytes[i] > held ? d->bytes[i] : held;
    printf("%s\t%u\t%.1f\t%.3f\t%.3f\t%.3f\t%llu\t%.0f", sleeps ? "sleep" : "awake", groups,
           100.0 * slept / NODES / groups, 100 * took / MINUTE / NODES,
           (double)d->beats / INTERVALS / (NODES * (NODES - 1) / 2),
           (double)d->answers / INTERVALS / (NODES * (NODES - 1) / 2),
           (unsigned long long)d->others, (double)held / groups);
    fflush(stdout);

    died = d->now;
    d->down = 1;
    led = d->led[2] + d->led[3];
    d->led[1] = 0;
    for (uint32_t lost = 0, i = 1; i <= groups; i++) {
        struct vshard_raft_status s = { .size = sizeof s };
        vshard_raft_inspect(d->raft[1], i, &s);
        lost += s.role == VSHARD_RAFT_LEADER;
        d->led[1] = lost;
    }
    while (d->led[2] + d->led[3] < led + d->led[1] && d->now < died + 10 * (uint64_t)SECOND)
        idle_run(d, d->now + SECOND / 100);
    printf("\t%u\t%.0f\n", d->led[1], (double)(d->now - died) / 1e6);
    for (uint32_t i = 1; i <= NODES; i++)
        vshard_raft_destroy(d->raft[i]);
    while (d->head != d->tail)
        free(d->packet[d->head++ % d->cap].bytes);
    free(d->packet);
    free(d);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[2] : "";
    double for_seconds = argc > 1 ? strtod(argv[1], NULL) : 2;
    uint32_t groups = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 10000;

    bench_usage(argc, argv, 3, "[seconds [message|calls|idle [groups]]]");
    if (strcmp(what, "idle") != 0) {
        puts("batch\tentries_per_cpu_s\tallocations_per_entry");
        for (uint32_t batch = 1; batch <= 1024; batch = batch == 1 ? 64 : batch * 16)
            run(batch, for_seconds, strcmp(what, "calls") == 0);
    }
    if (strcmp(what, "idle") == 0 || *what == 0) {
        puts("idle\tgroups\tasleep_percent\tcore_percent_a_node\tbeats_a_pair_and_interval\t"
             "answers\tother_messages\tbytes_a_group\tlost_leaders\tms_until_led_again");
        idle(groups, 1);
        idle(groups / 10, 0); /* what it is worth */
    }
    return 0;
}
