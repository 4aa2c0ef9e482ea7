/* flight.c - a batch from memory to the disk: build, write, sync, take effect.
 *
 * One batch is under way at a time. While it is, appends fill the next ones, so
 * the slower the disk, the larger the batches: group commit needs no timer. The
 * numbers of batches are fixed when records go into them, and they leave in that
 * order, which is why a barrier can be named before anything is written.
 *
 * A segment that was one before has zeros only so far ahead (segment.c). As far as its header
 * says they are durable behind a batch before that is written, since recovery may find the
 * batch and nothing of what was under way with it. Each batch brings zeros for later ones,
 * under the same sync; for one that is larger than what is there, more are synced first.
 *
 * A write that fails for want of space is tried again later, with the same bytes
 * at the same place: nothing else could be said about what stands there. Any other
 * failure, and any failure of a sync, poisons the log: the kernel may have dropped
 * the pages, and a second sync would report success without them. */
#include "wal/log.h"

enum { IDLE, CLEARING, CLEARED, WRITING, FOLLOWING, SYNCING, UNWRITTEN };
enum { PACK_ABOVE = 256 };

uint64_t vs_wal_next_seq(const struct vshard_wal *w)
{
    if (w->last != NULL)
        return w->last->seq + 1;
    return (w->in_flight ? w->head.seq : w->durable.seq) + 1;
}

/* ---- building ---- */

/* Sectors that a body takes at most. */
static size_t sectors_at_most(size_t raw)
{
    return vs_wal_sectors(raw + VS_SEAL_MAC);
}

/* Makes `current` a file with room for so many bytes; false: not now. */
static bool find_room(struct vshard_wal *w, size_t bytes)
{
    struct vs_wal_segment *seg;

    if (w->current.open && !w->rotate && w->current.end + bytes <= w->current.bytes)
        return true;
    w->blocked = 1;
    if (!w->making.ready || w->making.head.key_id != w->key_id || w->old.open)
        return false;
    if (vs_wal_segment_reserve(&w->index) < 0) {
        w->stats.status = VSHARD_ENOMEM;
        return false;
    }
    w->current.full = !w->rotate;
    w->old = w->current;
    w->current = w->making;
    memset(&w->making, 0, sizeof w->making);
    w->blocked = w->rotate = 0;
    w->copy_cursor = 0; /* groups that were busy may be cold by now */
    w->copied = 0;
    seg = vs_wal_segment_add(&w->index, w->current.head.segment);
    seg->before = w->durable;
    seg->end = VS_WAL_START;
    seg->key = w->current.key;
    return w->current.end + bytes <= w->current.bytes;
}

/* Votes first, then what is copied forward, then the bulk. */
static int gather(struct vshard_wal *w, const struct vs_wal_batch *b)
{
    int rc = vs_wal_bytes_reserve(w, &w->body,
                                  b->urgent.count + b->bulk.count + w->options.rewrite_bytes);

    if (rc < 0)
        return rc;
    w->body.count = 0;
    if (b->urgent.count > 0)
        memcpy(w->body.at, b->urgent.at, b->urgent.count);
    w->body.count = w->copied_from = b->urgent.count;
    w->head.records = b->records + vs_wal_copy(w, &w->body);
    w->copied_end = w->body.count;
    if (b->bulk.count > 0)
        memcpy(w->body.at + w->body.count, b->bulk.at, b->bulk.count);
    w->body.count += b->bulk.count;
    return VSHARD_OK;
}

/* Packs the body into the image if that saves an eighth. */
static int pack(struct vshard_wal *w)
{
    size_t raw = w->body.count, n = 0;
    int rc = vs_wal_bytes_reserve(w, &w->image, VS_WAL_HEAD + raw + VS_SEAL_MAC);

    if (rc < 0)
        return rc;
    if (raw >= PACK_ABOVE && (w->options.flags & VSHARD_WAL_UNPACKED) == 0)
        n = vs_pack(&w->packing, w->body.at, raw, w->image.at + VS_WAL_HEAD, raw - raw / 8);
    if (n == 0)
        memcpy(w->image.at + VS_WAL_HEAD, w->body.at, raw);
    w->head.flags = n > 0 ? VS_WAL_PACKED : 0;
    w->head.raw = (uint32_t)raw;
    w->head.stored = (uint32_t)(n > 0 ? n : raw);
    return VSHARD_OK;
}

static int seal(struct vshard_wal *w)
{
    uint8_t nonce[VS_SEAL_NONCE];
    struct vs_seal s = { w->current.key.subkey, nonce, w->image.at, VS_WAL_HEAD,
                         (enum vs_cipher)w->current.key.cipher };
    unsigned char *body = w->image.at + VS_WAL_HEAD;
    uint32_t plain = w->head.stored;

    if (w->current.key.id == 0) {
        vs_wal_head_write(&w->head, w->image.at);
        return VSHARD_OK;
    }
    vs_wal_nonce(nonce, w->head.seq, w->current.end);
    w->head.flags |= VS_WAL_SEALED;
    w->head.stored += VS_SEAL_MAC;
    vs_wal_head_write(&w->head, w->image.at);
    return vs_seal(&s, body, plain, body);
}

/* Builds the next batch in w->sectors. ENOMEM leaves everything as it was. 1: there is nothing
 * to write. */
static int build(struct vshard_wal *w, const struct vs_wal_batch *b)
{
    size_t bytes;
    int rc = gather(w, b);

    if (rc == VSHARD_OK && w->head.records == 0)
        return 1;
    if (rc == VSHARD_OK)
        rc = vs_wal_bytes_reserve(w, &w->sectors, sectors_at_most(w->body.count) * VS_WAL_SECTOR);
    if (rc == VSHARD_OK)
        rc = pack(w);
    if (rc < 0)
        return rc;
    w->head.log_id = w->options.log_id;
    w->head.seq = b->seq;
    w->head.prev = w->durable.digest;
    w->head.durable = w->durable;
    rc = seal(w);
    if (rc < 0)
        return rc;
    bytes = VS_WAL_HEAD + w->head.stored;
    w->digest = vs_wal_stripe(w->image.at, bytes, w->sectors.at, &w->head);
    w->sectors.count = vs_wal_sectors(w->head.stored) * VS_WAL_SECTOR;
    return VSHARD_OK;
}

static void write_batch(struct vshard_wal *w)
{
    w->flight.io.file = w->current.file;
    w->flight.io.offset = w->current.end;
    w->flight.io.count = w->sectors.count;
    w->flight.io.buffer = w->sectors.at;
    w->flight.step = WRITING;
    vs_wal_submit(&w->flight, VSHARD_IO_WRITE);
}

uint64_t vs_wal_zeros_to(const struct vs_wal_file *f, uint64_t end, uint32_t times)
{
    uint64_t to = end + (uint64_t)f->head.ahead * times * VS_WAL_SECTOR;

    to = (to + VS_WAL_PAGE - 1) / VS_WAL_PAGE * VS_WAL_PAGE;
    return to < f->bytes && f->head.ahead != 0 ? to : f->bytes;
}

static void write_zeros(struct vshard_wal *w, uint64_t to, uint32_t step)
{
    uint64_t left = to - w->current.filled, piece = vs_wal_piece(w, VS_WAL_PIECES);

    w->flight.io.file = w->current.file;
    w->flight.io.offset = w->current.filled;
    w->flight.io.count = left < piece ? left : piece;
    w->flight.io.buffer = w->zeros;
    w->flight.step = step;
    vs_wal_submit(&w->flight, VSHARD_IO_WRITE);
}

static void sync_file(struct vshard_wal *w, uint32_t step)
{
    w->flight.io.file = w->current.file;
    w->flight.step = step;
    vs_wal_submit(&w->flight, VSHARD_IO_SYNC);
}

/* The first request of a batch. */
static void set_out(struct vshard_wal *w)
{
    uint64_t to = vs_wal_zeros_to(&w->current, w->current.end + w->sectors.count, 1);

    if (w->current.filled < to)
        write_zeros(w, to, CLEARING);
    else
        write_batch(w);
}

/* The next one; false: that was the last. */
static bool go_on(struct vshard_wal *w)
{
    uint32_t step = w->flight.step;
    bool clearing = step == CLEARING;
    uint64_t to = vs_wal_zeros_to(&w->current, w->current.end + w->sectors.count, clearing ? 1 : 2);

    if (step == SYNCING)
        return false;
    if (step == CLEARED) {
        write_batch(w);
        return true;
    }
    if (step != WRITING)
        w->current.filled += w->flight.io.count;
    if (!clearing)
        w->full = 0;
    if (w->current.filled < to)
        write_zeros(w, to, clearing ? CLEARING : FOLLOWING);
    else
        sync_file(w, clearing ? CLEARED : SYNCING);
    return true;
}

static void recycle(struct vshard_wal *w, struct vs_wal_batch *b)
{
    w->first = b->next;
    if (w->first == NULL)
        w->last = NULL;
    b->next = w->idle;
    b->urgent.count = b->bulk.count = 0;
    b->records = 0;
    w->idle = b;
}

/* Whether a batch of nothing but copies has a place and gives one back. */
static bool leave(struct vshard_wal *w)
{
    uint64_t bytes;

    if (!w->tight || !w->may_leave || w->rotate || !w->current.open)
        return false;
    w->may_leave = 0;
    w->copy_cursor = 0;
    return vs_wal_leaves(w, &bytes) &&
           sectors_at_most(bytes + w->options.rewrite_bytes) * VS_WAL_SECTOR <=
               w->current.bytes - w->current.end;
}

static bool begin(struct vshard_wal *w)
{
    struct vs_wal_batch copies = { .seq = w->durable.seq + 1 }, *b = w->first;
    int rc;

    if (w->status < 0 || w->in_flight)
        return false;
    if (b == NULL) {
        if (!leave(w))
            return false;
        b = &copies;
    }
    VS_ASSERT(b->seq == w->durable.seq + 1);
    if (!find_room(w, sectors_at_most(b->urgent.count + b->bulk.count + w->options.rewrite_bytes) *
                          VS_WAL_SECTOR))
        return false;
    rc = build(w, b);
    if (rc == 1)
        return false;
    if (rc == VSHARD_ENOMEM) {
        w->may_leave = 1;
        w->stats.status = rc; /* what poll() returns; tried again with the next one */
        return false;
    }
    if (rc < 0) {
        vs_wal_poison(w, "seal");
        return false;
    }
    w->in_flight = 1;
    if (b != &copies)
        recycle(w, b);
    set_out(w);
    return true;
}

/* ---- taking effect ---- */

static struct vs_wal_blob *next_blob(struct vshard_wal *w)
{
    struct vs_wal_blob *b = w->blobs;

    VS_ASSERT(b != NULL);
    w->blobs = b->next;
    if (w->blobs == NULL)
        w->blobs_end = &w->blobs;
    return b;
}

/* What was copied keeps the mark and the note it has, past the reset that may stand before
 * them. */
static struct vs_wal_blob *keep_blob(struct vs_wal_group *g, uint32_t kind,
                                     struct vs_wal_blob *kept[2])
{
    struct vs_wal_blob **own[2] = { &g->mark, &g->note }, *blob = NULL;

    for (int i = 0; i < 2; i++) {
        bool asked = kind == (i == 0 ? VSHARD_WAL_MARK : VSHARD_WAL_NOTE);

        if (kind == VSHARD_WAL_RESET || (asked && kept[i] == NULL)) {
            kept[i] = *own[i];
            *own[i] = NULL;
        }
        if (asked) {
            blob = kept[i];
            kept[i] = NULL;
        }
    }
    return blob;
}

static void take_effect(struct vshard_wal *w)
{
    const struct vs_wal_where where = { w->current.head.segment, w->head.seq,
                                        (uint32_t)(w->current.end / VS_WAL_SECTOR) };
    struct vs_wal_blob *kept[2] = { NULL, NULL };

    for (size_t at = 0; at < w->body.count;) {
        bool copied = at >= w->copied_from && at < w->copied_end;
        struct vs_wal_blob *blob = NULL;
        struct vs_wal_record r;
        int rc = vs_wal_record_read(w->body.at, w->body.count, &at, &r);

        VS_ASSERT(rc == VSHARD_OK);
        if (copied)
            blob = keep_blob(vs_wal_group_find(&w->index, r.group), r.kind, kept);
        else if (r.kind == VSHARD_WAL_MARK || r.kind == VSHARD_WAL_NOTE)
            blob = next_blob(w);
        vs_wal_apply(&w->index, &r, &where, blob);
    }
}

static void land(struct vshard_wal *w)
{
    take_effect(w);
    w->current.end += w->sectors.count;
    w->durable =
        (struct vs_wal_point){ w->head.seq, w->digest, w->current.head.segment, w->current.end };
    vs_wal_segment_find(&w->index, w->current.head.segment)->end = w->current.end;
    w->pending_bytes -= w->body.count - (w->copied_end - w->copied_from);
    w->stats.syncs++;
    w->stats.records += w->head.records;
    w->stats.written_bytes += w->sectors.count;
    w->in_flight = 0;
    w->may_leave = 1;
    w->flight.step = IDLE;
}

bool vs_wal_flight_step(struct vshard_wal *w)
{
    int status;

    if (w->flight.step == UNWRITTEN && w->may_retry && w->status == VSHARD_OK) {
        set_out(w);
        return true;
    }
    if (!w->in_flight)
        return begin(w);
    if (!vs_wal_ended(&w->flight, &status))
        return false;
    if (w->status < 0)
        return false;
    if (w->flight.io.op == VSHARD_IO_WRITE && status == VSHARD_ENOSPC) {
        w->flight.step = UNWRITTEN;
        vs_wal_full(w);
        return false;
    }
    if (status < 0) {
        vs_wal_poison(w, w->flight.io.op == VSHARD_IO_WRITE ? "write" : "sync");
        return false;
    }
    if (!go_on(w))
        land(w);
    return true;
}
