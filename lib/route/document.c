/* document.c - a cluster map as bytes.
 *
 *     header      0   8   magic "VSMAP\0\0\1"; the last byte is the format
 *     32 bytes    8   4   bytes in the document, header and checksum included
 *                12   4   sections
 *                16   8   version of the map
 *                24   8   zero
 *
 *     section     0   4   kind
 *     table       4   4   offset of the section in the document
 *     16 bytes    8   4   bytes in the section
 *     each       12   4   zero
 *
 *     sections            one after the other, in the order of the table
 *
 *     checksum    8       XXH3-64, seed 0, of all bytes before it
 *
 *     kind 1, shards: 8 bytes each, by number, at most 16,384
 *                 0   4   number, not 2^32 - 1
 *                 4   4   weight, 0..1,000,000
 *
 *     kind 2, ring
 *                 0   4   arcs, a power of two, 1..2^20
 *                 4   4   runs
 *         then, 8 bytes a run, in ring order:
 *                 0   4   arcs in the run, at least 1; they add up to all
 *                 4   4   owner, as a row of section 1; differs from the run before
 *
 * Integers are little-endian. When no shard has a weight, nobody owns the arcs: one
 * run whose owner is 2^32 - 1. Otherwise each owner is a row, and has a weight.
 *
 * The table is there for what may come: centroids, hybrid placement, moves under
 * way. Kinds ascend. A reader that meets one it does not know refuses the map
 * (EVERSION): who understands half of a map sends keys to the wrong shard.
 *
 * There is one way to write a map. Zeros are zero, sections lie back to back, runs
 * are as long as they can be, rows ascend; the decoder takes nothing else. So two
 * maps are equal exactly when their bytes are, and a digest of one is a digest of
 * the other. The checksum finds accidents, not forgeries, so the decoder relies on
 * it for nothing: every number is checked against the bytes there are before it is
 * used, and before memory is asked for.
 *
 * What it does not check: that arcs are balanced by weight. A map in the middle of a
 * move will not be; the next change balances it. */
#include "route/map.h"

enum {
    HEADER_BYTES = 32,
    ENTRY_BYTES = 16,
    SECTIONS = 2,
    BODY = HEADER_BYTES + SECTIONS * ENTRY_BYTES,
    CHECKSUM_BYTES = 8,
    SECTION_SHARDS = 1,
    SECTION_RING = 2,
    SHARD_BYTES = 8,
    RING_BYTES = 8,
    RUN_BYTES = 8,
    FORMAT = 1
};

static const unsigned char magic[7] = "VSMAP\0";

/* ---- encode ---- */

static uint32_t count_runs(const struct vshard_map *m)
{
    uint32_t n = 1;

    for (uint32_t a = 1; a < m->arcs; a++)
        n += m->owner[a] != m->owner[a - 1];
    return n;
}

static void put_entry(unsigned char *at, uint32_t kind, uint32_t offset, uint32_t bytes)
{
    vs_store32(at, kind);
    vs_store32(at + 4, offset);
    vs_store32(at + 8, bytes);
    vs_store32(at + 12, 0);
}

static unsigned char *put_shards(const struct vshard_map *m, unsigned char *at)
{
    for (uint32_t i = 0; i < m->member_count; i++, at += SHARD_BYTES) {
        vs_store32(at, m->members[i].shard);
        vs_store32(at + 4, m->members[i].weight);
    }
    return at;
}

static unsigned char *put_ring(const struct vshard_map *m, unsigned char *at, uint32_t runs)
{
    vs_store32(at, m->arcs);
    vs_store32(at + 4, runs);
    at += RING_BYTES;
    for (uint32_t a = 0; a < m->arcs; at += RUN_BYTES) {
        uint32_t first = a;

        while (a < m->arcs && m->owner[a] == m->owner[first])
            a++;
        vs_store32(at, a - first);
        vs_store32(at + 4, m->owner[first] == VS_NOBODY ? UINT32_MAX : m->owner[first]);
    }
    return at;
}

int vshard_map_encode(const struct vshard_map *m, void *bytes, size_t cap, size_t *count)
{
    unsigned char *at = bytes;
    uint32_t runs, shard_bytes, ring_bytes, total;

    if (m == NULL || (bytes == NULL && cap != 0) || count == NULL)
        return VSHARD_EINVAL;
    runs = count_runs(m);
    shard_bytes = m->member_count * SHARD_BYTES;
    ring_bytes = RING_BYTES + runs * RUN_BYTES;
    total = BODY + shard_bytes + ring_bytes + CHECKSUM_BYTES;
    *count = total;
    if (bytes == NULL || cap < total)
        return VSHARD_E2BIG;

    memset(at, 0, HEADER_BYTES);
    memcpy(at, magic, sizeof magic);
    at[7] = FORMAT;
    vs_store32(at + 8, total);
    vs_store32(at + 12, SECTIONS);
    vs_store64(at + 16, m->version);
    put_entry(at + HEADER_BYTES, SECTION_SHARDS, BODY, shard_bytes);
    put_entry(at + HEADER_BYTES + ENTRY_BYTES, SECTION_RING, BODY + shard_bytes, ring_bytes);
    at = put_ring(m, put_shards(m, at + BODY), runs);
    vs_store64(at, vs_checksum(bytes, total - CHECKSUM_BYTES, 0));
    return VSHARD_OK;
}

/* ---- decode ---- */

/* What the header and the table say, once it is known to lie within the bytes. */
struct layout {
    uint64_t version;
    const unsigned char *shards; /* [shard_count x SHARD_BYTES] */
    const unsigned char *runs;   /* [run_count x RUN_BYTES] */
    uint32_t shard_count;
    uint32_t run_count;
    uint32_t arcs;
};

/* The magic and the checksum come first, so that damage is told from news. */
static int check_frame(const unsigned char *b, size_t count)
{
    if (count > VSHARD_MAP_BYTES_MAX)
        return VSHARD_E2BIG;
    if (count < HEADER_BYTES + CHECKSUM_BYTES || memcmp(b, magic, sizeof magic) != 0 ||
        vs_load32(b + 8) != count ||
        vs_load64(b + count - CHECKSUM_BYTES) != vs_checksum(b, count - CHECKSUM_BYTES, 0))
        return VSHARD_ECORRUPT;
    if (b[7] != FORMAT)
        return b[7] > FORMAT ? VSHARD_EVERSION : VSHARD_ECORRUPT;
    return VSHARD_OK;
}

/* Sections ascend, lie back to back, and are known. */
static int check_table(const unsigned char *b, size_t count)
{
    uint32_t sections = vs_load32(b + 12), kind_before = 0, unknown = 0;
    size_t room = count - HEADER_BYTES - CHECKSUM_BYTES;
    uint64_t offset = HEADER_BYTES + (uint64_t)sections * ENTRY_BYTES;

    if (sections > room / ENTRY_BYTES || vs_load64(b + 24) != 0)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < sections; i++) {
        const unsigned char *entry = b + HEADER_BYTES + (size_t)i * ENTRY_BYTES;
        uint32_t kind = vs_load32(entry);

        if (kind <= kind_before || vs_load32(entry + 4) != offset || vs_load32(entry + 12) != 0)
            return VSHARD_ECORRUPT;
        offset += vs_load32(entry + 8);
        kind_before = kind;
        unknown += kind > SECTIONS;
    }
    if (offset != count - CHECKSUM_BYTES || sections - unknown != SECTIONS)
        return VSHARD_ECORRUPT;
    return unknown != 0 ? VSHARD_EVERSION : VSHARD_OK;
}

static int read_layout(struct layout *l, const unsigned char *b, size_t count)
{
    const unsigned char *shards = b + HEADER_BYTES, *ring = shards + ENTRY_BYTES;
    uint32_t shard_bytes, ring_bytes;
    int rc = check_frame(b, count);

    if (rc == VSHARD_OK)
        rc = check_table(b, count);
    if (rc < 0)
        return rc;
    shard_bytes = vs_load32(shards + 8);
    ring_bytes = vs_load32(ring + 8);
    if (shard_bytes % SHARD_BYTES != 0 || shard_bytes / SHARD_BYTES > VSHARD_MAP_SHARDS_MAX ||
        ring_bytes < RING_BYTES || ring_bytes % RUN_BYTES != 0)
        return VSHARD_ECORRUPT;
    l->version = vs_load64(b + 16);
    l->shards = b + BODY;
    l->shard_count = shard_bytes / SHARD_BYTES;
    l->runs = b + BODY + shard_bytes + RING_BYTES;
    l->run_count = (ring_bytes - RING_BYTES) / RUN_BYTES;
    l->arcs = vs_load32(l->runs - RING_BYTES);
    if (vs_load32(l->runs - 4) != l->run_count || l->arcs == 0 || l->arcs > VSHARD_MAP_ARCS_MAX ||
        (l->arcs & (l->arcs - 1)) != 0)
        return VSHARD_ECORRUPT;
    return VSHARD_OK;
}

static int read_shards(struct vshard_map *m, const struct layout *l)
{
    const unsigned char *at = l->shards;

    for (uint32_t i = 0; i < l->shard_count; i++, at += SHARD_BYTES) {
        struct vs_member *member = &m->members[i];

        *member = (struct vs_member){ .shard = vs_load32(at), .weight = vs_load32(at + 4) };
        if (member->shard == VSHARD_SHARD_NONE || member->weight > VSHARD_MAP_WEIGHT_MAX ||
            (i > 0 && member->shard <= member[-1].shard))
            return VSHARD_ECORRUPT;
        m->weight += member->weight;
    }
    return VSHARD_OK;
}

static int read_runs(struct vshard_map *m, const struct layout *l)
{
    const unsigned char *at = l->runs;
    uint32_t arc = 0, owner_before = UINT32_MAX - 1; /* no row, and not nobody */

    for (uint32_t i = 0; i < l->run_count; i++, at += RUN_BYTES) {
        uint32_t arcs = vs_load32(at), owner = vs_load32(at + 4);

        if (arcs == 0 || arcs > m->arcs - arc || owner == owner_before)
            return VSHARD_ECORRUPT;
        if (m->weight == 0 ? owner != UINT32_MAX
                           : owner >= m->member_count || m->members[owner].weight == 0)
            return VSHARD_ECORRUPT;
        if (m->weight != 0)
            m->members[owner].arcs += arcs;
        for (uint32_t end = arc + arcs; arc < end; arc++)
            m->owner[arc] = m->weight == 0 ? VS_NOBODY : (uint16_t)owner;
        owner_before = owner;
    }
    return arc == m->arcs ? VSHARD_OK : VSHARD_ECORRUPT;
}

int vshard_map_decode(const void *bytes, size_t count, const struct vshard_map_options *options,
                      struct vshard_map **map)
{
    struct vshard_map_options o = { .size = sizeof o };
    struct layout l;
    struct vshard_map *m = NULL;
    int rc;

    if (map == NULL)
        return VSHARD_EINVAL;
    *map = NULL;
    rc = options != NULL ? vs_map_options(&o, options) : VSHARD_OK;
    if (rc < 0)
        return rc;
    if (bytes == NULL)
        return VSHARD_EINVAL;
    rc = read_layout(&l, bytes, count);
    if (rc < 0)
        return vs_refuse(o.logger, rc, "map.refused", "bytes",
                         count > INT64_MAX ? INT64_MAX : (int64_t)count, VSHARD_MAP_BYTES_MAX);
    if (o.arcs != 0 && o.arcs != l.arcs)
        return vs_refuse(o.logger, VSHARD_EINVAL, "map.refused", "arcs", l.arcs, o.arcs);

    rc = vs_map_new(&m, o.allocator, o.logger, l.arcs);
    if (rc < 0)
        return rc;
    m->version = l.version;
    if (l.shard_count != 0) {
        rc = VSHARD_ENOMEM;
        m->members = vs_alloc(m->allocator, l.shard_count * sizeof *m->members);
        if (m->members == NULL)
            goto fail;
    }
    m->member_count = l.shard_count;
    rc = read_shards(m, &l);
    if (rc == VSHARD_OK)
        rc = read_runs(m, &l);
    if (rc < 0) {
        vs_map_refuse(m, rc, "bytes", (int64_t)count, VSHARD_MAP_BYTES_MAX);
        goto fail;
    }
    *map = m;
    return VSHARD_OK;

fail:
    vshard_map_destroy(m);
    return rc;
}
