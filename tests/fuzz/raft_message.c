/* raft_message.c - any message gets a status from a replica, whatever it is just doing. The
 * input is a row of pieces, each 1 byte what to do and, for a message, a head and a body whose
 * lengths, receiver and, half of the time, term and group are put right. */
#include <stdlib.h>

#include "raft/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(struct vshard_raft *r, uint64_t *barrier)
{
    const struct vshard_raft_effect *e;

    while ((e = vshard_raft_next(r)) != NULL) {
        if (e->kind == VSHARD_RAFT_PERSIST)
            *barrier = e->barrier;
    }
}

static void message(struct vshard_raft *r, struct vshard_raft_event *e, const uint8_t *data,
                    size_t size)
{
    struct vshard_raft_status s = { .size = sizeof s };
    unsigned char *wire = malloc(size);

    if (wire == NULL)
        return;
    memcpy(wire, data, size);
    vs_store64(wire + 24, 1);
    vs_store64(wire + 40, 1);
    vs_store64(wire + 120, size - VS_MESSAGE_HEAD);
    wire[0] = 1;
    if (wire[3] & 1) {
        vshard_raft_inspect(r, 1, &s);
        vs_store64(wire + 8, 1);
        vs_store64(wire + 16, 2 + (wire[3] >> 1 & 1));
        vs_store64(wire + 32, 2 + (wire[3] >> 1 & 1));
        vs_store64(wire + 48, s.term + (wire[3] >> 2 & 1));
    }
    wire[3] = 0;
    e->kind = VSHARD_RAFT_MESSAGE;
    e->bytes = wire;
    e->byte_count = size;
    vshard_raft_step(r, e);
    free(wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vshard_raft_member three[] = { { 1, 1, VSHARD_RAFT_VOTER, 0 },
                                                { 2, 2, VSHARD_RAFT_VOTER, 0 },
                                                { 3, 3, VSHARD_RAFT_VOTER, 0 } };
    const struct vshard_raft_options o = {
        .size = sizeof o, .node = 1, .incarnation = 1, .boot = 1
    };
    const struct vshard_raft_boot b = {
        .size = sizeof b, .group = 1, .members = three, .member_count = 3
    };
    struct vshard_raft *r;
    uint64_t now = 1000000000, barrier = 0;

    if (vshard_raft_create(&o, &r) != VSHARD_OK || vshard_raft_open(r, &b) != VSHARD_OK ||
        vshard_raft_start(r, 1, now) != VSHARD_OK)
        abort();
    take(r, &barrier);
    while (size > 0) {
        struct vshard_raft_event e = { .size = sizeof e, .now_ns = now += data[0] * 100000 };
        size_t body = data[0] % 4 == 0 && size > 1 + VS_MESSAGE_HEAD ? data[1] : 0;

        data++;
        size--;
        if (size >= VS_MESSAGE_HEAD + body && data[-1] % 8 < 5) {
            message(r, &e, data, VS_MESSAGE_HEAD + body);
            data += VS_MESSAGE_HEAD + body;
            size -= VS_MESSAGE_HEAD + body;
        } else if (data[-1] % 2) {
            e.kind = VSHARD_RAFT_TIME;
            vshard_raft_step(r, &e);
        } else {
            e.kind = VSHARD_RAFT_PERSISTED;
            e.barrier = barrier;
            vshard_raft_step(r, &e);
        }
        take(r, &barrier);
    }
    vshard_raft_destroy(r);
    return 0;
}
