/* harm.c - what a story does to nodes and ought not to: rows that are changed behind their back,
 * frames of strangers, maps that are wrong; and machines that have fewer instructions. */
#include "story.h"

#include <stdlib.h>
#include <string.h>

#include "node/core.h"
#include "shard/keymap.h"

enum { SHARDS_MAX = 16, FRAME = 512 };

static struct vs_replica *replica(struct story *s, unsigned at, uint64_t shard)
{
    struct vshard_shard_status all[SHARDS_MAX];
    size_t count = 0;

    vshard_node_shards(s->c->node[at].node, s->collection, all, SHARDS_MAX, &count);
    return shard < count ? vs_replica_find(s->c->node[at].node, all[shard].group) : NULL;
}

/* A batch that is in no log, as a fault of memory would change a shard. */
static void spoil(struct story *s, unsigned at, unsigned key, const char *line)
{
    struct vs_replica *r = replica(s, at, story_option(line, "shard=", 0));
    const struct vshard_key changed = { 0, key };
    const uint64_t version = story_option(line, "version=", 0);
    float vector[DIM];
    const struct vs_batch_source batch = { .kind = VS_BATCH_ADD,
                                           .count = 1,
                                           .vector_bytes = sizeof vector,
                                           .keys = &changed,
                                           .versions = version != 0 ? &version : NULL,
                                           .vectors = vector };
    size_t bytes = vs_batch_bytes(&batch);
    void *entry = malloc(bytes);
    uint32_t row = 0;

    vector_of(vector, key, story_option(line, "as=", 9));
    vs_batch_encode(&batch, entry);
    story_say(
        s, "n%u is spoiled: %s", at,
        vshard_strerror(vs_shard_apply(r->shard, atomic_load(&r->applied), entry, bytes, &row)));
    free(entry);
}

/* As on a machine that has these instructions, and perhaps fewer: each index of the shard. */
static void computes(struct story *s, unsigned at, const char *by)
{
    uint32_t cpu = strcmp(by, "avx2") == 0 ? VSHARD_CPU_AVX2 | VSHARD_CPU_SSE2 : 0;

    for (struct vs_shard *shard = replica(s, at, 0)->shard; shard != NULL; shard = shard->tail)
        story_machine(shard->index, cpu);
}

/* A frame that no peer sends. */
static void strange(struct story *s, unsigned at, const char *line)
{
    const struct vshard_wire_options o = { .size = sizeof o,
                                           .cluster = { 0xc1,
                                                        story_option(line, "cluster=", 0x57e2) },
                                           .node = at % s->c->count + 1 };
    struct vshard_frame f = { .size = sizeof f, .node = at, .head = "hello", .head_bytes = 5 };
    unsigned char bytes[FRAME];
    struct vshard_wire *wire;
    size_t count = 0;

    vshard_wire_create(&o, &wire);
    vshard_wire_encode(wire, &f, bytes, sizeof bytes, &count);
    vshard_wire_destroy(wire);
    bytes[4] = (unsigned char)story_option(line, "version=", bytes[4]);
    bytes[count - 1] ^= (unsigned char)story_option(line, "damaged=", 0);
    story_say(s, "n%u: %s", at,
              vshard_strerror(vshard_node_recv(s->c->node[at].node, s->c->now, bytes, count)));
}

/* What a host may tell of the map, rightly or not. */
static void give(struct story *s, unsigned at, const char *what)
{
    const struct cluster *c = s->c;
    bool before = strstr(what, "before") != NULL, none = strstr(what, "none") != NULL;
    size_t count = none ? 0 : before ? c->map_before_bytes : c->map_bytes;
    uint64_t damaged = story_option(what, "damaged=", 0);
    unsigned char *bytes = malloc(count + 1);

    if (count != 0)
        memcpy(bytes, before ? c->map_before : c->map, count);
    bytes[damaged < count ? damaged : 0] ^= damaged != 0;
    story_say(s, "n%u is given%s: %s", at, what,
              vshard_strerror(vshard_node_map(c->node[at].node, c->now, none ? NULL : bytes,
                                              count)));
    free(bytes);
}

bool story_harm(struct story *s, const char *line)
{
    char by[16];
    unsigned at, key;
    int what = 0;

    if (sscanf(line, "spoil n%u %u", &at, &key) == 2)
        spoil(s, at, key, line);
    else if (sscanf(line, "computes n%u by %15s", &at, by) == 2)
        computes(s, at, by);
    else if (sscanf(line, "strange n%u", &at) == 1)
        strange(s, at, line);
    else if (sscanf(line, "give n%u%n", &at, &what) == 1)
        give(s, at, line + what);
    else
        return false;
    return true;
}
