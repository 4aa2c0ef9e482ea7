/* network.c - messages in frames, between processes of two builds.
 *
 * What a core sends travels in the frames of lib/wire, as between real nodes, sealed
 * under some seeds. Frames are lost, doubled, delayed and overtaken; bits of them are
 * flipped, and every such frame must be refused; some reach the wrong node, by the
 * fault of the network (the frame says so) or of the sending host (then only the
 * message inside can).
 *
 * A process speaks frames of its build's version, 1 or 2, and below. Which of them a
 * peer understands is not configured: a process sends what it last heard from the
 * peer, and every now and then its newest, which an older peer counts and drops, or
 * its oldest, for a peer that has come back as an older build and has nothing to say. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "raft/core.h"
#include "wire/wire.h"

enum { TRY_OTHER = 8, FRAMES_MAX = 1 << 16 };

static struct vs_frame_codec codec_of(const struct world *w, const struct node *n)
{
    struct vs_frame_codec c = {
        .cluster = { 7, 11 }, .self = n->id, .version_max = n->build, .pack_above = 300
    };

    if (w->sealed) {
        c.keys[0].id = 1;
        memset(c.keys[0].key, 42, VS_SEAL_KEY);
    }
    return c;
}

static uint8_t version_for(struct node *n, uint32_t to)
{
    uint32_t known = n->spoken[to] ? n->spoken[to] : 1;

    if (++n->attempts[to] % TRY_OTHER == 0)
        return (uint8_t)(n->attempts[to] / TRY_OTHER % 2 ? n->build : 1);
    return (uint8_t)(known < n->build ? known : n->build);
}

static struct bytes frame(struct world *w, struct node *n, uint32_t to, const struct bytes *payload)
{
    struct vs_frame_codec codec = codec_of(w, n);
    struct vs_frame f = { .sender = n->id,
                          .receiver = to,
                          .incarnation = n->incarnation,
                          .payload = payload->p,
                          .payload_bytes = (uint32_t)payload->n,
                          .version = version_for(n, to) };
    uint8_t nonce[VS_SEAL_NONCE] = { 0 };
    struct bytes b = { malloc(vs_frame_bound(payload->n)), 0 };
    int rc;

    memcpy(nonce, &w->frames, sizeof w->frames);
    w->frames++;
    rc = vs_frame_encode(&codec, &f, nonce, b.p, vs_frame_bound(payload->n), &b.n);
    if (rc != VSHARD_OK)
        fail(w, "n%u cannot frame %zu bytes: %s", n->id, payload->n, vshard_strerror(rc));
    return b;
}

/* Flips a bit or three; says so in the event. */
static void garble(struct world *w, struct event *e)
{
    uint64_t bits = 1 + world_random(w, 3);

    for (uint64_t i = 0; i < bits; i++) {
        uint64_t at = world_random(w, 8 * e->bytes.n);
        e->bytes.p[at / 8] ^= (unsigned char)(1u << at % 8);
        if (i == 0)
            e->b = at + 1;
        else if (at + 1 == e->b) /* the same bit twice is none */
            e->bytes.p[at / 8] ^= (unsigned char)(1u << at % 8);
    }
}

void network_send(struct world *w, uint32_t from, uint32_t to, const void *a, size_t an,
                  const void *b, size_t bn)
{
    unsigned char joined[FRAMES_MAX];
    struct bytes payload = { joined, an + bn };
    uint32_t copies = 1 + world_chance(w, w->twice);

    if (to == 0 || to > w->nodes || w->cut[from][to] || fence_between(w, from, to) ||
        world_chance(w, w->loss))
        return;
    if (payload.n > sizeof joined)
        fail(w, "n%u sends %zu bytes at once", from, payload.n);
    memcpy(joined, a, an);
    if (bn != 0)
        memcpy(joined + an, b, bn);
    for (uint32_t i = 0; i < copies; i++) {
        uint64_t at = w->now + w->delay_ns + world_random(w, w->delay_spread + 1);
        struct event e = { .kind = EV_DELIVER, .node = to, .a = from };
        uint32_t receiver = to;

        if (world_chance(w, w->slow)) /* overtaken by many */
            at += world_random(w, 400 * MS);
        if (w->clogged[from][to] > at)
            at = w->clogged[from][to] + world_random(w, MS);
        if (world_chance(w, w->astray)) {
            e.node = 1 + (uint32_t)world_random(w, w->nodes);
            receiver = world_chance(w, 500) ? e.node : to;
        }
        e.bytes = frame(w, &w->node[from], receiver, &payload);
        if (world_chance(w, w->garble))
            garble(w, &e);
        world_at(w, at, e);
    }
}

/* Beats that an earlier process sent, and that come after those of a later one, say nothing
 * about the node's being there. */
static void note_heard(struct world *w, struct node *n, const struct vs_frame *f, uint64_t from)
{
    struct vs_message m;

    if (vs_message_decode(&m, f->payload, (size_t)f->payload_bytes) != VSHARD_OK)
        return;
    if (m.kind == VS_BEATS || m.kind == VS_BEAT_REPLIES) {
        if (m.from_incarnation == n->heard_incarnation[from] && m.boot < n->heard_boot[from])
            return;
        n->heard_incarnation[from] = m.from_incarnation;
        n->heard_boot[from] = m.boot;
    }
    n->heard[from] = w->now;
}

void network_deliver(struct world *w, struct node *n, const struct event *e)
{
    struct vs_frame_codec codec = codec_of(w, n);
    unsigned char scratch[FRAMES_MAX];
    struct vs_frame_counts counts = { { 0 } };
    struct vs_frame_work work = { scratch, sizeof scratch, &counts };
    struct vs_frame f;
    int rc = vs_frame_decode(&codec, e->bytes.p, e->bytes.n, &work, &f);

    if (rc != VSHARD_OK) {
        if (rc == VSHARD_ENOMEM && e->b == 0)
            fail(w, "n%u is sent a frame larger than any", n->id);
        w->refused++;
        w->unversioned += counts.count[VS_FRAME_UNVERSIONED];
        return;
    }
    if (e->b != 0)
        fail(w, "n%u takes a frame with bits flipped", n->id);
    n->spoken[f.sender] = f.version;
    rc = node_event(w, n,
                    (struct vshard_raft_event){ .kind = VSHARD_RAFT_MESSAGE,
                                                .bytes = f.payload,
                                                .byte_count = f.payload_bytes });
    if (rc == VSHARD_OK)
        note_heard(w, n, &f, e->a);
}
