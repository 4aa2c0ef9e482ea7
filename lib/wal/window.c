/* window.c - batches of one segment, read back and checked. Blocks. */
#include "wal/log.h"

void vs_wal_reader_close(struct vs_wal_reader *r)
{
    if (r->open)
        vs_io_close(&r->wal->storage, r->file);
    r->open = 0;
    r->window.count = 0;
}

void vs_wal_reader_fini(struct vs_wal_reader *r)
{
    vs_wal_reader_close(r);
    vs_wal_bytes_fini(r->wal, &r->window);
    vs_wal_bytes_fini(r->wal, &r->image);
    vs_wal_bytes_fini(r->wal, &r->raw);
    vs_wipe(&r->key, sizeof r->key);
}

/* Opens the file and nothing more: its header may be what is damaged. */
int vs_wal_reader_open(struct vs_wal_reader *r, struct vshard_wal *w, uint64_t segment)
{
    char *path = vs_alloc(w->allocator, w->path_bytes);
    int rc;

    if (path == NULL)
        return VSHARD_ENOMEM;
    vs_wal_segment_path(w, segment, ".wal", path);
    r->wal = w;
    r->segment = segment;
    r->key.id = 0;
    r->window.count = 0;
    rc = vs_io_open(&w->storage, path, 0, &r->file, &r->bytes);
    r->open = rc == VSHARD_OK;
    vs_free(w->allocator, path, w->path_bytes);
    return rc;
}

static int fill_window(struct vs_wal_reader *r, uint64_t offset, size_t bytes)
{
    uint64_t left = offset < r->bytes ? r->bytes - offset : 0;
    size_t there = left < VS_WAL_WINDOW ? (size_t)left : VS_WAL_WINDOW;
    size_t want = bytes > there ? bytes : there;
    int rc = vs_wal_bytes_reserve(r->wal, &r->window, want);

    if (rc < 0)
        return rc;
    if (there < bytes)
        there = left < bytes ? (size_t)left : bytes;
    r->window.count = 0;
    rc = vs_io_read(&r->wal->storage, r->file, offset, r->window.at, there);
    if (rc < 0)
        return rc;
    memset(r->window.at + there, 0, want - there);
    r->window_at = offset;
    r->window.count = want;
    return VSHARD_OK;
}

int vs_wal_reader_bytes(struct vs_wal_reader *r, uint64_t offset, size_t bytes,
                        const unsigned char **p)
{
    int rc;

    if (offset < r->window_at || offset + bytes > r->window_at + r->window.count) {
        rc = fill_window(r, offset, bytes);
        if (rc < 0)
            return rc;
    }
    *p = r->window.at + (offset - r->window_at);
    return VSHARD_OK;
}

int vs_wal_body(struct vshard_wal *w, const struct vs_wal_head *head, const struct vs_wal_key *key,
                uint64_t offset, struct vs_wal_bytes *image, struct vs_wal_bytes *raw,
                const unsigned char **body)
{
    unsigned char *from = image->at + VS_WAL_HEAD;
    uint32_t bytes = head->stored;
    int rc;

    if (head->flags & VS_WAL_SEALED) {
        uint8_t nonce[VS_SEAL_NONCE];
        struct vs_seal s = { key->subkey, nonce, image->at, VS_WAL_HEAD,
                             (enum vs_cipher)key->cipher };

        vs_wal_nonce(nonce, head->seq, offset);
        rc = vs_unseal(&s, from, bytes, from);
        if (rc < 0)
            return rc;
        bytes -= VS_SEAL_MAC;
    }
    if (head->flags & VS_WAL_PACKED) {
        rc = vs_wal_bytes_reserve(w, raw, head->raw);
        if (rc == VSHARD_OK)
            rc = vs_unpack(from, bytes, raw->at, head->raw);
        if (rc < 0)
            return rc;
        from = raw->at;
        bytes = head->raw;
    }
    *body = from;
    return bytes == head->raw ? VSHARD_OK : VSHARD_ECORRUPT;
}

/* The header at an offset, if it is the one that belongs there. */
static int head_at(struct vs_wal_reader *r, uint64_t offset, const struct vs_wal_point *after,
                   struct vs_wal_head *head)
{
    const unsigned char *sector;
    int rc = vs_wal_reader_bytes(r, offset, VS_WAL_SECTOR, &sector);

    if (rc < 0)
        return rc;
    rc = vs_wal_head_read(sector, head);
    if (rc == VSHARD_EVERSION)
        return rc;
    if (rc < 0 || head->log_id != r->wal->options.log_id ||
        vs_wal_judge(sector, head, 0) != VS_WAL_MEMBER)
        return 1;
    if (after != NULL && (head->seq != after->seq + 1 || head->prev != after->digest))
        return 1;
    return VSHARD_OK;
}

int vs_wal_reader_batch(struct vs_wal_reader *r, uint64_t offset, const struct vs_wal_point *after,
                        struct vs_wal_found *found)
{
    const unsigned char *sectors;
    int rc;

    if (offset + VS_WAL_SECTOR > r->bytes)
        return 1;
    rc = head_at(r, offset, after, &found->head);
    if (rc != VSHARD_OK)
        return rc;
    found->sectors = vs_wal_sectors(found->head.stored);
    if (found->sectors > (r->bytes - offset) / VS_WAL_SECTOR)
        return 1;
    rc = vs_wal_reader_bytes(r, offset, found->sectors * VS_WAL_SECTOR, &sectors);
    if (rc == VSHARD_OK)
        rc = vs_wal_bytes_reserve(r->wal, &r->image, found->sectors * VS_WAL_DATA);
    if (rc < 0)
        return rc;
    if (vs_wal_unstripe(sectors, found->sectors, r->image.at, &found->head, &found->digest) <
        found->sectors)
        return 1;
    if (((found->head.flags & VS_WAL_SEALED) != 0) != (r->key.id != 0))
        return VSHARD_ECORRUPT;
    return vs_wal_body(r->wal, &found->head, &r->key, offset, &r->image, &r->raw, &found->body);
}
