/* answers.c - what the line of an answer tells, behind its tag and "ok". */
#include "server.h"

#include <inttypes.h>
#include <string.h>

static void print_hex(struct bytes *line, const void *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = bytes;

    bytes_add(line, " ", 1);
    for (size_t i = 0; i < count; i++) {
        bytes_add(line, &digits[p[i] >> 4], 1);
        bytes_add(line, &digits[p[i] & 15], 1);
    }
    if (count == 0)
        bytes_add(line, "-", 1);
}

static void print_positions(struct bytes *line, const struct vshard_node_done *d)
{
    for (uint32_t i = 0; i < d->position_count; i++)
        bytes_print(line, " %" PRIu64 ":%" PRIu64, d->positions[i].group, d->positions[i].index);
}

static void print_hits(struct bytes *line, const struct vshard_node_done *d)
{
    bytes_print(line, " %" PRIu32 "/%" PRIu32, d->shards_answered, d->shards);
    for (uint32_t i = 0; i < d->hit_count; i++)
        bytes_print(line, " %" PRIu64 ":%.6g", d->hits[i].key.lo, (double)d->hits[i].distance);
}

/* Eight bytes or, of a keyword, its place, as the row has them; whoever asks knows the types. */
static void print_row(struct bytes *line, const struct vshard_node_done *d)
{
    bytes_print(line, " %" PRIu64, d->version);
    print_hex(line, d->vector, d->vector_bytes);
    for (uint32_t i = 0; i < d->value_count; i++) {
        const char *value = d->values[i].values;
        size_t width = d->values[i].width;
        const char *end = width > 8 ? memchr(value, 0, width) : NULL;

        print_hex(line, value, width <= 8 ? 8 : end != NULL ? (size_t)(end - value) : width);
    }
    print_hex(line, d->payload, d->payload_bytes);
}

void print_done(struct bytes *line, const struct vshard_node_done *d)
{
    if (d->kind == VSHARD_NODE_WRITE || d->kind == VSHARD_NODE_ADMIN)
        print_positions(line, d);
    if (d->kind == VSHARD_NODE_SEARCH)
        print_hits(line, d);
    if (d->kind == VSHARD_NODE_FETCH)
        print_row(line, d);
}

void print_status(struct bytes *line, struct vshard_node *node)
{
    struct vshard_node_status s = { .size = sizeof s };

    vshard_node_status(node, &s);
    bytes_print(line,
                " node=%" PRIu64 " boot=%" PRIu64 " incarnation=%" PRIu64 " map_leader=%" PRIu64
                " nodes=%" PRIu32 " collections=%" PRIu32 " replicas=%" PRIu32 " requests=%" PRIu32
                " hedges=%" PRIu64 " elections=%" PRIu64,
                s.node, s.boot, s.incarnation, s.meta_leader, s.nodes, s.collections, s.replicas,
                s.requests, s.hedges, s.elections);
    bytes_print(line,
                " region=%" PRIu32 " primary=%" PRIu32 " map_last=%" PRIu64
                " map_last_term=%" PRIu64 " map_epoch=%" PRIu32 " map_status=%" PRId32
                " cache_answers=%" PRIu64 " cache_misses=%" PRIu64 " cache_bytes=%" PRIu64
                " frames_refused=%" PRIu64,
                s.region, s.primary, s.map_last, s.map_last_term, s.map_epoch, s.map_status,
                s.cache_answers, s.cache_misses, s.cache_bytes, s.frames_refused);
}

int print_collection(struct bytes *line, struct vshard_node *node, const char *name)
{
    struct vshard_collection c = { .size = sizeof c };
    int rc = vshard_node_collection(node, name, &c);

    if (rc != VSHARD_OK)
        return rc;
    bytes_print(line, " metric=%s", c.metric < 3 ? metric_names[c.metric] : "other");
    for (const struct field *f = collection_fields; f->name != NULL; f++) {
        uint64_t value = 0;
        uint32_t half;

        memcpy(f->bytes == 8 ? (void *)&value : (void *)&half, (char *)&c + f->at, f->bytes);
        bytes_print(line, " %s=%" PRIu64, f->name, f->bytes == 8 ? value : half);
    }
    for (uint32_t i = 0; i < c.attribute_count; i++)
        bytes_print(line, " %s:%s", c.attributes[i].name, type_names[c.attributes[i].type & 3]);
    return VSHARD_OK;
}

int print_shards(struct bytes *line, struct vshard_node *node, const char *name)
{
    static struct vshard_shard_status s[VSHARD_CLUSTER_SHARDS_MAX];
    size_t count = 0;
    int rc = vshard_node_shards(node, name, s, VSHARD_CLUSTER_SHARDS_MAX, &count);

    for (size_t i = 0; rc == VSHARD_OK && i < count; i++) {
        bytes_print(line,
                    " shard=%" PRIu32 ",group=%" PRIu64 ",leader=%" PRIu64 ",here=%" PRIu32
                    ",committed=%" PRIu64 ",applied=%" PRIu64 ",rows=%" PRIu64 ",last=%" PRIu64
                    ",last_term=%" PRIu64 ",epoch=%" PRIu32 ",members=",
                    s[i].shard, s[i].group, s[i].leader, s[i].here, s[i].committed, s[i].applied,
                    s[i].rows, s[i].last, s[i].last_term, s[i].epoch);
        for (uint32_t k = 0; k < s[i].member_count; k++)
            bytes_print(line, "%s%" PRIu64, k > 0 ? "+" : "", s[i].members[k]);
    }
    return rc;
}

void print_nodes(struct bytes *line, struct vshard_node *node)
{
    static const char *const flags[] = { "alive", "leaves", "lost", "votes", "halted" };
    struct vshard_peer_status p[VSHARD_NODES_MAX];
    size_t count = 0;

    vshard_node_peers(node, p, VSHARD_NODES_MAX, &count);
    for (size_t i = 0; i < count; i++) {
        bytes_print(
            line, " node=%" PRIu64 ",incarnation=%" PRIu64 ",region=%" PRIu32 ",replicas=%" PRIu32,
            p[i].node, p[i].incarnation, p[i].region, p[i].replicas);
        if (p[i].silence_ns != UINT64_MAX)
            bytes_print(line, ",silence_ms=%" PRIu64, p[i].silence_ns / 1000000);
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
            bytes_print(line, ",%s=%d", flags[k], (int)(p[i].flags >> k & 1));
    }
}
