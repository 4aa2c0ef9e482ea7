/* freeze.c - a shard as files, and from files.
 *
 * PATH.index is the index, by vshard_index_save(), attributes and all. PATH.rows is what belongs to
 * its ids:
 *
 *     offset  bytes
 *          0  8   "VSROWS2\0"
 *          8  8   digest of the index file it goes with
 *         16  8   index of the last entry applied
 *         24  8   bytes of META, the owner's
 *         32  4   rows, free ones too
 *         36  4   first free row + 1
 *         40  4   requests
 *         44  4   0
 *         48  8   bytes of all payloads
 *         56  8   0
 *         64      META, padded with zeros to 8 bytes
 *                 rows        [rows x (8 hi, 8 lo, 8 version, 4 payload bytes, 4 state)]
 *                 requests    [requests x (8 hi, 8 lo)], the oldest first
 *                 payloads, one after the other, padded to 8 bytes
 *                 checksum    8, XXH3 of all before
 *
 * The index file is written first: a rows file that is there has its index beside it. */
#include "shard/keymap.h"

#include "os/os.h"

enum { HEAD = 64, ROW = 32, PATH_BYTES = 4096 };

static const char magic[8] = "VSROWS2";

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

static bool path_of(char path[PATH_BYTES], const char *base, const char *suffix)
{
    size_t a = strlen(base), b = strlen(suffix);

    if (a + b >= PATH_BYTES)
        return false;
    memcpy(path, base, a);
    memcpy(path + a, suffix, b + 1);
    return true;
}

/* ---- to bytes ---- */

static size_t payload_sum(const struct vs_keymap *m)
{
    size_t sum = 0;

    for (uint32_t i = 0; i < m->count; i++)
        sum += m->row[i].payload_bytes;
    return sum;
}

static size_t rows_bytes(const struct vs_shard *s, size_t meta_bytes)
{
    const struct vs_keymap *m = &s->map;

    return HEAD + padded(meta_bytes) + (size_t)m->count * ROW + 16 * (size_t)s->requests.count +
           padded(payload_sum(m)) + 8;
}

static unsigned char *put_rows(const struct vs_shard *s, unsigned char *p)
{
    const struct vs_keymap *m = &s->map;

    for (uint32_t i = 0; i < m->count; i++, p += ROW) {
        vs_store64(p, m->row[i].key.hi);
        vs_store64(p + 8, m->row[i].key.lo);
        vs_store64(p + 16, m->row[i].version);
        vs_store32(p + 24, m->row[i].payload_bytes);
        vs_store32(p + 28, m->row[i].state);
    }
    for (uint32_t i = 0; i < s->requests.count; i++, p += 16) {
        vs_store64(p, vs_requests_at(&s->requests, i).hi);
        vs_store64(p + 8, vs_requests_at(&s->requests, i).lo);
    }
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->row[i].payload_bytes != 0)
            memcpy(p, m->row[i].payload, m->row[i].payload_bytes);
        p += m->row[i].payload_bytes;
    }
    return p;
}

static void put_all(const struct vs_shard *s, uint64_t digest, const void *meta, size_t meta_bytes,
                    unsigned char *p, size_t bytes)
{
    const struct vs_keymap *m = &s->map;

    memset(p, 0, bytes);
    memcpy(p, magic, sizeof magic);
    vs_store64(p + 8, digest);
    vs_store64(p + 16, s->applied);
    vs_store64(p + 24, meta_bytes);
    vs_store32(p + 32, m->count);
    vs_store32(p + 36, m->free);
    vs_store32(p + 40, s->requests.count);
    vs_store64(p + 48, payload_sum(m));
    if (meta_bytes != 0)
        memcpy(p + HEAD, meta, meta_bytes);
    put_rows(s, p + HEAD + padded(meta_bytes));
    vs_store64(p + bytes - 8, vs_checksum(p, bytes - 8, 0));
}

int vs_shard_save(const struct vs_shard *s, const char *path, const void *meta, size_t meta_bytes)
{
    const struct vshard_allocator *a = s->plan.allocator;
    size_t bytes = rows_bytes(s, meta_bytes);
    char name[PATH_BYTES];
    unsigned char *p;
    uint64_t digest;
    int rc;

    if (!path_of(name, path, ".index"))
        return VSHARD_EINVAL;
    rc = vshard_index_digest(s->index, &digest);
    if (rc == VSHARD_OK)
        rc = vshard_index_save(s->index, name);
    if (rc != VSHARD_OK)
        return rc;
    p = vs_alloc(a, bytes);
    if (p == NULL)
        return VSHARD_ENOMEM;
    put_all(s, digest, meta, meta_bytes, p, bytes);
    rc = path_of(name, path, ".rows") ? vs_file_replace(s->plan.storage, name, p, bytes)
                                      : VSHARD_EINVAL;
    vs_free(a, p, bytes);
    return rc;
}

/* ---- from bytes ---- */

struct image {
    const unsigned char *p;
    size_t bytes, meta_bytes, payload_bytes;
    uint32_t rows, free, requests;
};

static int read_head(struct image *i)
{
    uint64_t meta, payload, total;

    if (i->bytes < HEAD + 8 || memcmp(i->p, magic, 6) != 0)
        return VSHARD_ECORRUPT;
    if (memcmp(i->p, magic, sizeof magic) != 0)
        return VSHARD_EVERSION;
    if (vs_checksum(i->p, i->bytes - 8, 0) != vs_load64(i->p + i->bytes - 8))
        return VSHARD_ECORRUPT;
    meta = vs_load64(i->p + 24);
    payload = vs_load64(i->p + 48);
    i->rows = vs_load32(i->p + 32);
    i->free = vs_load32(i->p + 36);
    i->requests = vs_load32(i->p + 40);
    if (meta > VS_SNAPSHOT_META_MAX || payload > i->bytes || i->rows > VSHARD_ROWS_MAX / 2 ||
        i->requests > VS_REQUESTS_KEPT || i->free > i->rows || vs_load32(i->p + 44) != 0)
        return VSHARD_ECORRUPT;
    total = HEAD + padded((size_t)meta) + (uint64_t)i->rows * ROW + 16 * (uint64_t)i->requests +
            padded((size_t)payload) + 8;
    i->meta_bytes = (size_t)meta;
    i->payload_bytes = (size_t)payload;
    return total == i->bytes ? VSHARD_OK : VSHARD_ECORRUPT;
}

static int take_row(struct vs_shard *s, uint32_t i, const unsigned char *p,
                    const unsigned char **payload, const unsigned char *end)
{
    struct vs_row r = { .key = { vs_load64(p), vs_load64(p + 8) },
                        .version = vs_load64(p + 16),
                        .state = vs_load32(p + 28) };
    uint32_t bytes = vs_load32(p + 24);

    s->map.row[i] = (struct vs_row){ .state = VS_ROW_FREE };
    s->map.count = i + 1;
    if (r.state > VS_ROW_TOMBSTONE || bytes > VS_PAYLOAD_MAX || bytes > (size_t)(end - *payload) ||
        (r.state != VS_ROW_LIVE && bytes != 0))
        return VSHARD_ECORRUPT;
    if (bytes != 0) {
        r.payload = vs_alloc(s->plan.allocator, bytes);
        if (r.payload == NULL)
            return VSHARD_ENOMEM;
        memcpy(r.payload, *payload, bytes);
        r.payload_bytes = bytes;
        *payload += bytes;
    }
    s->map.row[i] = r;
    return vs_keymap_adopt(&s->map, i);
}

static int take_rows(struct vs_shard *s, const struct image *i)
{
    const unsigned char *row = i->p + HEAD + padded(i->meta_bytes);
    const unsigned char *request = row + (size_t)i->rows * ROW;
    const unsigned char *payload = request + 16 * (size_t)i->requests;
    const unsigned char *end = payload + i->payload_bytes;
    int rc = vs_keymap_reserve(&s->map, i->rows);

    for (uint32_t k = 0; rc == VSHARD_OK && k < i->rows; k++)
        rc = take_row(s, k, row + (size_t)k * ROW, &payload, end);
    for (uint32_t k = 0; rc == VSHARD_OK && k < i->requests; k++) {
        struct vshard_key id = { vs_load64(request + 16 * (size_t)k),
                                 vs_load64(request + 16 * (size_t)k + 8) };

        rc = vs_requests_reserve(&s->requests);
        if (rc == VSHARD_OK && vs_requests_has(&s->requests, id))
            rc = VSHARD_ECORRUPT;
        if (rc == VSHARD_OK)
            vs_requests_add(&s->requests, id);
    }
    s->map.free = i->free;
    return rc == VSHARD_OK && payload != end ? VSHARD_ECORRUPT : rc;
}

static bool same_attributes(const struct vs_shard *s, uint32_t count)
{
    struct vshard_attribute found;

    if (count != s->plan.attribute_count)
        return false;
    for (uint32_t a = 0; a < count; a++) {
        if (vshard_index_attribute(s->index, a, &found) != VSHARD_OK ||
            memcmp(&found, &s->plan.attributes[a], sizeof found) != 0)
            return false;
    }
    return true;
}

/* Free rows form one list, and the live ones are those that the index has. */
static int check_rows(const struct vs_shard *s)
{
    uint64_t free = 0, wanted = s->map.count - s->map.live - s->map.tombstones;
    struct vshard_index_stats stats = { .size = sizeof stats };

    for (uint32_t at = s->map.free; at != 0; at = (uint32_t)s->map.row[at - 1].version) {
        if (s->map.row[at - 1].state != VS_ROW_FREE || s->map.row[at - 1].version > s->map.count ||
            ++free > wanted)
            return VSHARD_ECORRUPT;
    }
    if (free != wanted || vshard_index_count(s->index) != s->map.live ||
        vshard_index_stats(s->index, &stats) != VSHARD_OK)
        return VSHARD_ECORRUPT;
    return stats.dim == s->plan.dim && stats.metric == s->plan.metric &&
                   stats.element == s->plan.element && stats.family == s->plan.family &&
                   same_attributes(s, stats.attribute_count)
               ? VSHARD_OK
               : VSHARD_EINVAL;
}

static int open_index(struct vs_shard *s, const char *path, uint64_t digest)
{
    const struct vshard_open_options o = { .size = sizeof o,
                                           .allocator = s->plan.allocator,
                                           .logger = s->plan.logger,
                                           .executor = s->plan.executor,
                                           .storage = s->plan.storage };
    char name[PATH_BYTES];
    uint64_t found;
    int rc = path_of(name, path, ".index") ? vshard_index_open(name, &o, &s->index) : VSHARD_EINVAL;

    if (rc == VSHARD_OK)
        rc = vshard_index_digest(s->index, &found);
    return rc == VSHARD_OK && found != digest ? VSHARD_ECORRUPT : rc;
}

static int open_all(struct vs_shard *s, const char *path, struct image *i, void **meta)
{
    int rc = read_head(i);

    if (rc == VSHARD_OK)
        rc = open_index(s, path, vs_load64(i->p + 8));
    if (rc == VSHARD_OK)
        rc = take_rows(s, i);
    if (rc == VSHARD_OK)
        rc = check_rows(s);
    s->applied = rc == VSHARD_OK ? vs_load64(i->p + 16) : 0;
    s->rows = s->map.live;
    if (rc == VSHARD_OK)
        rc = vs_tail_create(s);
    if (rc != VSHARD_OK || i->meta_bytes == 0)
        return rc;
    *meta = vs_alloc(s->plan.allocator, i->meta_bytes);
    if (*meta == NULL)
        return VSHARD_ENOMEM;
    memcpy(*meta, i->p + HEAD, i->meta_bytes);
    return VSHARD_OK;
}

int vs_shard_open(const struct vs_shard_plan *plan, const char *path, struct vs_shard **shard,
                  void **meta, size_t *meta_bytes)
{
    struct vs_shard *s;
    struct image i = { 0 };
    char name[PATH_BYTES];
    void *bytes = NULL;
    int rc;

    *shard = NULL;
    *meta = NULL;
    *meta_bytes = 0;
    if (!path_of(name, path, ".rows"))
        return VSHARD_EINVAL;
    rc = vs_file_read(plan->storage, plan->allocator, name, &bytes, &i.bytes);
    if (rc != VSHARD_OK)
        return rc;
    i.p = bytes;
    s = vs_alloc_zeroed(plan->allocator, sizeof *s);
    if (s != NULL)
        vs_shard_init(s, plan);
    rc = s != NULL ? open_all(s, path, &i, meta) : VSHARD_ENOMEM;
    vs_free(plan->allocator, bytes, i.bytes);
    if (rc != VSHARD_OK) {
        vs_shard_destroy(s);
        return rc;
    }
    *meta_bytes = i.meta_bytes;
    *shard = s;
    return VSHARD_OK;
}

void vs_shard_remove_files(const struct vshard_storage *storage, const char *path)
{
    char name[PATH_BYTES];

    if (path_of(name, path, ".rows"))
        vs_io_remove(storage, name);
    if (path_of(name, path, ".index"))
        vs_io_remove(storage, name);
}
