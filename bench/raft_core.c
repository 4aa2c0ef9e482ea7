/* raft_core.c - how many entries a second three cores agree on.
 *
 * What it models: one group, three replicas in one thread, entries of 256 bytes,
 * no disk and no network: what the core itself costs. Each round the leader is
 * handed one proposal of `batch` entries; messages go by a queue in memory, what
 * is to be persisted counts as durable at once, and what is handed out as applied.
 * The state machine of the last replica adds up the bytes it is given, and the sum
 * is compared with what was proposed. Allocations are counted after a warm-up.
 *
 *     build/bench/raft_core [seconds]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vshard/log.h>

enum { BYTES = 256, REPLICAS = 3, QUEUE = 256, WARM_UP = 8000 };

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
        if (b->head == b->tail)
            return;
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

static void propose(struct bench *b, const struct vshard_raft_entry *e, uint32_t count, uint64_t tag)
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

int main(int argc, char **argv)
{
    int calls = argc > 2 && strcmp(argv[2], "calls") == 0;
    double for_seconds = argc > 1 ? strtod(argv[1], NULL) : 2;

    puts("batch\tentries_per_cpu_s\tallocations_per_entry");
    for (uint32_t batch = 1; batch <= 1024; batch = batch == 1 ? 64 : batch * 16)
        run(batch, for_seconds, calls);
    return 0;
}
