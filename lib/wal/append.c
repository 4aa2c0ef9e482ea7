/* append.c - records into batches that are not written yet.
 *
 * Each batch has two parts. Entries and everything else go to the bulk of the last
 * batch, and into a new one when that is full. Votes go to the front of the first
 * batch that has not left: however much bulk waits, a vote is in the next sync.
 * A vote may therefore overtake its group's entries, which Raft allows (a vote
 * and a term are promises about the future, never about entries that come later
 * in the log), but not the group's forget, nor a vote that had to wait for one, nor
 * what begins the group: a group of nothing but a vote would be no member of itself.
 *
 * All or nothing: every batch remembers how long it was, and an append that cannot
 * be completed puts that back. */
#include "wal/log.h"

static int check_record(const struct vshard_wal *w, const struct vshard_wal_record *r)
{
    uint64_t bytes = (uint64_t)r->head_bytes + r->payload_bytes, limit = 0;

    if (r->kind < VSHARD_WAL_ENTRY || r->kind > VSHARD_WAL_FORGET || r->flags != 0 ||
        (r->head == NULL && r->head_bytes > 0) || (r->payload == NULL && r->payload_bytes > 0) ||
        (r->kind == VSHARD_WAL_ENTRY && (r->index == 0 || r->index == UINT64_MAX)))
        return vs_refuse(w->log, VSHARD_EINVAL, "wal.refused", "kind", r->kind, VSHARD_WAL_FORGET);
    if (r->kind == VSHARD_WAL_ENTRY)
        limit = w->options.segment_bytes / 8 < VSHARD_WAL_PAYLOAD_MAX ? w->options.segment_bytes / 8
                                                                      : VSHARD_WAL_PAYLOAD_MAX;
    else if (r->kind == VSHARD_WAL_MARK || r->kind == VSHARD_WAL_NOTE)
        limit = w->options.segment_bytes / 16 < VSHARD_WAL_BLOB_MAX ? w->options.segment_bytes / 16
                                                                    : VSHARD_WAL_BLOB_MAX;
    if (bytes > limit)
        return vs_refuse(w->log, VSHARD_E2BIG, "wal.refused", "payload_bytes", (int64_t)bytes,
                         (int64_t)limit);
    return VSHARD_OK;
}

static size_t bytes_of(const struct vshard_wal_record *r)
{
    return vs_wal_record_bytes((uint64_t)r->head_bytes + r->payload_bytes);
}

static int check_all(const struct vshard_wal *w, const struct vshard_wal_record *records,
                     size_t count)
{
    uint64_t bytes = 0;
    bool grows = false;

    if (w->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_ENOTSUP;
    if (w->status < 0)
        return w->status;
    for (size_t i = 0; i < count; i++) {
        int rc = check_record(w, &records[i]);

        if (rc < 0)
            return rc;
        bytes += bytes_of(&records[i]);
        grows |= records[i].kind == VSHARD_WAL_ENTRY || records[i].kind == VSHARD_WAL_NOTE;
    }
    /* The rest of the last segment there is room for is for votes, and what frees space. */
    if (w->full || (w->tight && grows))
        return VSHARD_ENOSPC;
    if (w->pending_bytes > 0 && w->pending_bytes + bytes > w->options.pending_bytes)
        return VSHARD_EBUSY;
    return VSHARD_OK;
}

/* ---- batches ---- */

static struct vs_wal_batch *add_batch(struct vshard_wal *w)
{
    uint64_t seq = vs_wal_next_seq(w);
    struct vs_wal_batch *b = w->idle;

    if (b != NULL)
        w->idle = b->next;
    else
        b = vs_alloc_zeroed(w->allocator, sizeof *b);
    if (b == NULL)
        return NULL;
    b->next = NULL;
    b->seq = seq;
    b->records = b->old_records = 0; /* no old records: it is new */
    if (w->last != NULL)
        w->last->next = b;
    else
        w->first = b;
    w->last = b;
    return b;
}

static struct vs_wal_batch *for_vote(struct vshard_wal *w)
{
    struct vs_wal_batch *b = w->first;

    while (b != NULL && b->urgent.count >= w->options.barrier_bytes)
        b = b->next;
    return b != NULL ? b : add_batch(w);
}

static struct vs_wal_batch *for_bulk(struct vshard_wal *w, size_t bytes)
{
    struct vs_wal_batch *b = w->last;

    if (b == NULL || (b->bulk.count > 0 && b->bulk.count + bytes > w->options.barrier_bytes))
        return add_batch(w);
    return b;
}

static void remember(struct vshard_wal *w)
{
    for (struct vs_wal_batch *b = w->first; b != NULL; b = b->next) {
        b->old_records = b->records;
        b->old_urgent = b->urgent.count;
        b->old_bulk = b->bulk.count;
    }
}

/* Takes back what the append has done so far. */
static void undo(struct vshard_wal *w, const struct vshard_wal_record *records, size_t count,
                 struct vs_wal_blob **blobs_end)
{
    struct vs_wal_batch **link = &w->first;

    w->last = NULL;
    for (struct vs_wal_batch *b = w->first, *next; b != NULL; b = next) {
        next = b->next;
        b->records = b->old_records;
        b->urgent.count = b->records ? b->old_urgent : 0;
        b->bulk.count = b->records ? b->old_bulk : 0;
        if (b->records > 0) {
            link = &b->next;
            w->last = b;
        } else {
            *link = next;
            b->next = w->idle;
            w->idle = b;
        }
    }
    for (struct vs_wal_blob *blob = *blobs_end, *next; blob != NULL; blob = next) {
        next = blob->next;
        vs_wal_blob_free(&w->index, blob);
    }
    *blobs_end = NULL;
    w->blobs_end = blobs_end;
    /* What was reserved stays; the next entry must not think it continues a run. */
    for (size_t i = 0; i < count; i++) {
        struct vs_wal_group *g = vs_wal_group_find(&w->index, records[i].group);

        if (g != NULL)
            g->pending_next = 0;
    }
}

/* ---- one record ---- */

/* Runs of batches that have landed are not pending any more. A group may always have some
 * under way, so they are counted by two spans of batches, of which the older one ends. */
static void forget_landed(const struct vshard_wal *w, struct vs_wal_group *g)
{
    if (g->pending_until > w->durable.seq)
        return;
    g->pending_runs = g->pending_seq > w->durable.seq ? (uint32_t)g->pending_later : 0;
    g->pending_until = g->pending_seq;
    g->pending_later = 0;
}

/* Room in the index for what the record will do when its batch has landed. */
static int reserve(struct vshard_wal *w, struct vs_wal_group *g, const struct vshard_wal_record *r,
                   const struct vs_wal_batch *b)
{
    bool continues =
        g->pending_batch == b->seq && g->pending_next == r->index && g->pending_term == r->term;
    struct vs_wal_blob *blob;
    int rc = VSHARD_OK;

    forget_landed(w, g);
    if (r->kind == VSHARD_WAL_ENTRY) {
        rc = vs_wal_run_reserve(&w->index, g, continues ? 0 : 1);
        if (rc == VSHARD_OK) {
            g->pending_later += continues ? 0 : 1;
            g->pending_batch = b->seq;
            g->pending_next = r->index + 1;
            g->pending_term = r->term;
        }
    } else if (r->kind == VSHARD_WAL_MARK || r->kind == VSHARD_WAL_NOTE) {
        rc = vs_wal_blob_make(&w->index, r, &blob);
        if (rc == VSHARD_OK) {
            *w->blobs_end = blob;
            w->blobs_end = &blob->next;
        }
    }
    /* What drops entries may drop the run that the next entry would continue. */
    if (r->kind == VSHARD_WAL_CUT || r->kind == VSHARD_WAL_MARK || r->kind == VSHARD_WAL_FORGET)
        g->pending_next = 0;
    if (rc == VSHARD_OK && b->seq > g->pending_seq)
        g->pending_seq = b->seq;
    if (rc == VSHARD_OK && r->kind == VSHARD_WAL_VOTE && b->seq > g->pending_vote)
        g->pending_vote = b->seq;
    return rc;
}

/* `room`: bytes that the batch must still have. */
static int add(struct vshard_wal *w, const struct vshard_wal_record *r, size_t room,
               uint64_t *barrier)
{
    size_t bytes = bytes_of(r);
    struct vs_wal_group *g;
    struct vs_wal_batch *b;
    struct vs_wal_bytes *to;
    const struct vs_wal_record encoded = { r->group,         r->index,
                                           r->term,          r->head_bytes + r->payload_bytes,
                                           (uint8_t)r->kind, r->payload };
    bool urgent;
    int rc = vs_wal_group_make(&w->index, r->group, &g);

    if (rc < 0)
        return rc;
    urgent =
        r->kind == VSHARD_WAL_VOTE && g->ordered_until <= w->durable.seq && vs_wal_group_held(g);
    b = urgent ? for_vote(w) : for_bulk(w, room);
    if (b == NULL)
        return VSHARD_ENOMEM;
    to = urgent ? &b->urgent : &b->bulk;
    rc = vs_wal_bytes_reserve(w, to, to->count + bytes);
    if (rc == VSHARD_OK)
        rc = reserve(w, g, r, b);
    if (rc < 0)
        return rc;
    to->count += vs_wal_record_write(&encoded, to->at + to->count, r->head, r->head_bytes);
    b->records++;
    if (r->kind == VSHARD_WAL_FORGET || (r->kind == VSHARD_WAL_VOTE && !urgent))
        g->ordered_until = b->seq;
    if (b->seq > *barrier)
        *barrier = b->seq;
    return VSHARD_OK;
}

int vshard_wal_append(struct vshard_wal *wal, const struct vshard_wal_record *records, size_t count,
                      uint64_t *barrier)
{
    struct vs_wal_blob **blobs_end;
    uint64_t highest, bytes = 0;
    size_t left = 0;
    int rc;

    if (wal == NULL || (records == NULL && count > 0))
        return VSHARD_EINVAL;
    rc = check_all(wal, records, count);
    if (rc < 0)
        return rc;
    highest = wal->durable.seq;
    blobs_end = wal->blobs_end;
    remember(wal);
    for (size_t i = 0; i < count; i++)
        left += bytes_of(&records[i]);
    for (size_t i = 0; i < count; i++) {
        size_t own = bytes_of(&records[i]);

        /* What fits into one batch goes into one, so that no crash can part it. */
        rc = add(wal, &records[i], left <= wal->options.barrier_bytes ? left : own, &highest);
        if (rc < 0) {
            undo(wal, records, count, blobs_end);
            return rc;
        }
        bytes += own;
        left = left <= wal->options.barrier_bytes ? left - own : left;
    }
    wal->pending_bytes += bytes;
    if (barrier != NULL)
        *barrier = highest;
    return VSHARD_OK;
}
