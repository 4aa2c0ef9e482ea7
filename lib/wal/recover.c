/* recover.c - reads a log after a crash, and says what became of its end.
 *
 * Batches are read in the order of their numbers, from the superblock's floor on,
 * for as long as each is whole: its header and every sector carry the tag that
 * this batch, at this place, after these batches, must carry (format.c). Let n be
 * the last whole batch. Batch n+1 was never written, or was being written when the
 * process or the machine stopped, or was written, synced and has been damaged
 * since. Every sector behind n is looked at, and is one of
 *
 *   empty    zeros, as all space is before it is written; or one flipped bit
 *   member   it carries the tag of batch n+1 for exactly this place
 *   alien    neither
 *
 * and there are witnesses that n+1 was durable: a superblock that says so, or the
 * header of a later batch, which is only written once the one before is durable.
 * A header counts if it vouches for itself, wherever behind n it stands.
 *
 *   witness   alien   member    verdict
 *   yes       any     any       corrupt    it was synced, and is not whole
 *   no        some    any       uncertain  something was written there and changed
 *   no        none    some      torn       some sectors were written, the rest not yet
 *   no        none    none      clean
 *
 * Why torn is safe to cut. While a write is under way a sector holds what it held
 * before, which was zeros (as far behind the last batch as the segment's header says, and
 * for the whole of a batch that was begun), or what it is to hold; disks write sectors whole. Had
 * the sync returned, every sector would be a member, so some other thing than a
 * crash must have emptied one: a disk that forgets what it said was durable. Who
 * owns such disks asks for VSHARD_WAL_STRICT, and torn becomes uncertain.
 *
 * Why uncertain is not corrupt. An alien sector in the last batch may be rot after
 * the sync or rot before it. The batch may have been acknowledged, or not; with
 * one sync a batch, no log can know. A replica can: its peers know what was
 * committed. Until they have told it, it must neither vote nor acknowledge, and
 * since it may crash again before, the superblock says `unsettled` until
 * vshard_wal_settle(). That is written before anything is cut.
 *
 * What is kept is then made durable. The process may have ended because a sync of
 * batch n failed, and then the kernel may show pages that are not on the disk and
 * that it will never write. So batch n, unless a witness vouches for it, is written
 * again with the same bytes, and synced. Only then is it called durable.
 *
 * A segment's header is the last thing written when a segment is made, and it is
 * synced before the first batch. So a file with no whole header was never used, and
 * what stands in it counts for nothing, unless it is a member or a batch's header.
 *
 * The file in which n ends is cut behind it; files without a whole batch are
 * removed. Writing goes on in a new file. Each of these steps may be interrupted:
 * the next recovery finds the same n, and at worst the same verdict.
 *
 * What this cannot know: that batch n itself is the last, when n+1 and everything
 * after it vanished without a trace, file by file or by a disk that lied about
 * all of it, and no superblock says otherwise. Nothing on one machine can.
 *
 * Not here: how what is cut is cut (cut.c); what records mean (groups.c); the
 * log's own bytes (format.c). */
#include "wal/recover.h"

/* ---- the names ---- */

/* "0123456789abcdef.wal" is 16 digits and a suffix. */
static bool parse_name(const char *name, uint64_t *segment)
{
    uint64_t v = 0;

    for (size_t i = 0; i < 16; i++, name++) {
        if (*name >= '0' && *name <= '9')
            v = v << 4 | (uint64_t)(*name - '0');
        else if (*name >= 'a' && *name <= 'f')
            v = v << 4 | (uint64_t)(*name - 'a' + 10);
        else
            return false;
    }
    *segment = v;
    return v != 0 && v >> 63 == 0 && strcmp(name, ".wal") == 0;
}

/* The bit of a spare that has that name; 0: none has. */
static uint32_t spare_named(const char *name)
{
    static const char stem[] = "wal.spare";
    uint32_t digit = (uint32_t)(unsigned char)name[strlen(name) - 1] - '0';

    return digit < VS_WAL_SPARES && strlen(name) == sizeof stem &&
                   memcmp(name, stem, sizeof stem - 1) == 0
               ? 1u << digit
               : 0;
}

static int take_names(void *ctx, const char *names, size_t bytes)
{
    struct vshard_wal *w = ctx;
    uint64_t segment;
    int rc;

    for (size_t at = 0; at < bytes; at += strlen(names + at) + 1) {
        w->spares |= spare_named(names + at);
        if (!parse_name(names + at, &segment))
            continue;
        rc = vs_wal_segment_reserve(&w->index);
        if (rc < 0)
            return rc;
        vs_wal_segment_add(&w->index, segment); /* names come in order */
    }
    return VSHARD_OK;
}

/* ---- batches ---- */

/* Everything a batch says makes sense; nothing takes effect before that is known. */
static int check_records(const struct vs_wal_found *f)
{
    struct vs_wal_record r;
    uint32_t count = 0;
    int rc;

    for (size_t at = 0; at < f->head.raw; count++) {
        rc = vs_wal_record_read(f->body, f->head.raw, &at, &r);
        if (rc < 0)
            return rc;
        if (r.kind == VSHARD_WAL_ENTRY && (r.index == 0 || r.index == UINT64_MAX))
            return VSHARD_ECORRUPT;
    }
    return count == f->head.records ? VSHARD_OK : VSHARD_ECORRUPT;
}

static int apply_record(struct vs_wal_index *index, const struct vs_wal_record *r,
                        const struct vs_wal_where *where)
{
    const struct vshard_wal_record copy = { .payload = r->payload, .payload_bytes = r->bytes };
    struct vs_wal_blob *blob = NULL;
    struct vs_wal_group *g;
    int rc = vs_wal_group_make(index, r->group, &g);

    if (rc == VSHARD_OK)
        rc = vs_wal_run_reserve(index, g, 1);
    if (rc == VSHARD_OK && (r->kind == VSHARD_WAL_MARK || r->kind == VSHARD_WAL_NOTE))
        rc = vs_wal_blob_make(index, &copy, &blob);
    if (rc == VSHARD_OK)
        vs_wal_apply(index, r, where, blob);
    return rc;
}

static int apply_batch(struct vs_wal_scan *s, const struct vs_wal_found *f, uint64_t offset)
{
    const struct vs_wal_where where = { s->reader.segment, f->head.seq,
                                        (uint32_t)(offset / VS_WAL_SECTOR) };
    struct vs_wal_record r;
    int rc;

    for (size_t at = 0; at < f->head.raw;) {
        rc = vs_wal_record_read(f->body, f->head.raw, &at, &r);
        if (rc == VSHARD_OK)
            rc = apply_record(&s->w->index, &r, &where);
        if (rc < 0)
            return rc;
    }
    return VSHARD_OK;
}

static int progress(struct vs_wal_scan *s, uint64_t bytes)
{
    const struct vshard_wal_hooks *h = &s->w->hooks;

    s->done += bytes;
    return h->progress != NULL && h->progress(h->ctx, s->done, s->total) != 0 ? VSHARD_ECANCELED
                                                                              : VSHARD_OK;
}

/* Reads whole batches from *offset on, for as long as there are any. */
static int read_batches(struct vs_wal_scan *s, uint64_t *offset)
{
    struct vs_wal_found f;
    int rc;

    while ((rc = vs_wal_reader_batch(&s->reader, *offset, &s->at, &f)) == VSHARD_OK) {
        rc = check_records(&f);
        if (rc < 0)
            break;
        rc = apply_batch(s, &f, *offset);
        if (rc < 0)
            return rc;
        s->last_offset = *offset;
        s->last_sectors = f.sectors;
        *offset += f.sectors * VS_WAL_SECTOR;
        s->at = (struct vs_wal_point){ f.head.seq, f.digest, s->reader.segment, *offset };
        if (f.head.durable.seq > s->witnessed)
            s->witnessed = f.head.durable.seq;
        s->report->records += f.head.records;
        s->report->bytes += f.sectors * VS_WAL_SECTOR;
        rc = progress(s, f.sectors * VS_WAL_SECTOR);
        if (rc < 0)
            return rc;
    }
    if (rc == VSHARD_ECORRUPT) { /* the tags are right: no accident did this */
        s->wrong = 1;
        rc = 1;
    }
    return rc < 0 ? rc : VSHARD_OK;
}

static uint64_t span(const struct vs_wal_head *head)
{
    return vs_wal_sectors(head->stored) * VS_WAL_SECTOR;
}

/* Looks at every sector from an offset to the end of the file. In one that was a segment
 * before, what stands behind the zeros, which reach past a batch that has begun, is no
 * evidence, unless it is a later batch's or a member. */
static int examine(struct vs_wal_scan *s, uint64_t from)
{
    const struct vs_wal_head next = { .seq = s->at.seq + 1, .prev = s->at.digest };
    struct vs_wal_head head;

    for (uint64_t offset = from; offset < s->reader.bytes; offset += VS_WAL_SECTOR) {
        const unsigned char *sector;
        enum vs_wal_sector is;
        bool near;
        int rc = vs_wal_reader_bytes(&s->reader, offset, VS_WAL_SECTOR, &sector);

        if (rc < 0)
            return rc;
        is = vs_wal_judge(sector, &next, (offset - from) / VS_WAL_SECTOR);
        if (is == VS_WAL_EMPTY)
            continue;
        if (offset == from && is == VS_WAL_MEMBER &&
            vs_wal_head_found(sector, s->w->options.log_id, &head) && s->ahead < span(&head))
            s->ahead = span(&head);
        near = is == VS_WAL_MEMBER || offset - from < s->ahead;
        s->found.members += is == VS_WAL_MEMBER;
        s->found.damaged += near && is == VS_WAL_ALIEN;
        if (vs_wal_head_found(sector, s->w->options.log_id, &head) && head.seq > s->at.seq + 1 &&
            head.seq - 1 > s->found.witness)
            s->found.witness = head.seq - 1;
        if (near || s->found.witness > s->at.seq)
            s->found.last = offset + VS_WAL_SECTOR;
    }
    return VSHARD_OK;
}

/* Returns 0; 1: both copies of the header are damaged; or a status. */
static int read_segment_head(struct vs_wal_scan *s, struct vs_wal_segment *seg)
{
    struct vs_wal_segment_head head;
    const unsigned char *p;
    int rc = vs_wal_reader_bytes(&s->reader, 0, VS_WAL_START, &p);

    if (rc < 0)
        return rc;
    rc = vs_wal_segment_read(p, &head);
    if (rc == VSHARD_ECORRUPT || (rc == VSHARD_OK && head.segment != seg->id))
        return 1;
    if (rc == VSHARD_OK && head.log_id != s->w->options.log_id)
        rc = vs_refuse(s->w->log, VSHARD_ESTALE, "wal.other_log", "log_id", (int64_t)head.log_id,
                       (int64_t)s->w->options.log_id);
    if (rc == VSHARD_OK && head.key_id == 0 && (s->w->options.flags & VSHARD_WAL_SEALED_ONLY))
        rc = vs_refuse(s->w->log, VSHARD_ECORRUPT, "wal.unsealed", "segment", (int64_t)seg->id, 0);
    if (rc == VSHARD_OK)
        rc = vs_wal_key_derive(s->w, head.key_id, head.salt, &seg->key);
    if (rc == VSHARD_OK)
        rc = vs_wal_key_check(s->w, &seg->key, head.check);
    if (rc < 0)
        return rc;
    seg->key.cipher = head.cipher;
    if (head.ahead != 0)
        s->ahead = (uint64_t)head.ahead * VS_WAL_SECTOR;
    s->reader.key = seg->key;
    return seg->key.id != 0 && !vs_seal_has((enum vs_cipher)head.cipher) ? VSHARD_ENOTSUP
                                                                         : VSHARD_OK;
}

/* Without a superblock the first header is believed: salvage has nothing better. */
static int guess_floor(struct vs_wal_scan *s)
{
    struct vs_wal_found f;
    int rc = vs_wal_reader_batch(&s->reader, VS_WAL_START, NULL, &f);

    if (rc != VSHARD_OK)
        return rc < 0 && rc != VSHARD_ECORRUPT ? rc : VSHARD_OK;
    s->at = (struct vs_wal_point){ f.head.seq - 1, f.head.prev, s->reader.segment, VS_WAL_START };
    s->w->super.floor = s->at;
    return VSHARD_OK;
}

/* A file without a header was being made and was never used: whatever stands in it
 * is what the file system left there. Unless there are batches in it. */
static void judge_headless(struct vs_wal_scan *s, const struct vs_wal_evidence *before)
{
    if (s->found.members == before->members && s->found.witness == before->witness)
        s->found = *before;
    else
        s->found.damaged++; /* what is in it cannot be read */
}

static int scan_segment(struct vs_wal_scan *s, size_t i)
{
    struct vs_wal_segment *seg = &s->w->index.segments[i];
    struct vs_wal_evidence before = s->found;
    uint64_t offset = VS_WAL_START;
    int rc = vs_wal_reader_open(&s->reader, s->w, seg->id);
    bool headless;

    if (rc < 0)
        return rc;
    s->ahead = UINT64_MAX;
    rc = read_segment_head(s, seg);
    headless = rc == 1;
    if (rc == VSHARD_OK && i == 0 && s->super_lost)
        rc = guess_floor(s);
    if (rc < 0)
        return rc;
    seg->before = s->at;
    if (!headless && !s->stopped)
        rc = read_batches(s, &offset);
    seg->end = offset;
    if (rc == VSHARD_OK || rc == 1)
        rc = examine(s, offset);
    if (headless)
        judge_headless(s, &before);
    if (s->found.members + s->found.damaged > before.members + before.damaged || s->wrong)
        s->stopped = 1;
    vs_wal_reader_close(&s->reader);
    return rc;
}

/* ---- the verdict ---- */

static uint32_t judge_tail(const struct vs_wal_scan *s)
{
    if (TRAP(36) && s->found.members + s->found.damaged > 0)
        return VSHARD_WAL_TORN;
    if (s->wrong || s->super_lost || s->witnessed > s->at.seq)
        return VSHARD_WAL_CORRUPT;
    if (s->found.damaged > 0)
        return VSHARD_WAL_UNCERTAIN;
    if (s->found.members > 0)
        return s->w->options.flags & VSHARD_WAL_STRICT ? VSHARD_WAL_UNCERTAIN : VSHARD_WAL_TORN;
    return VSHARD_WAL_CLEAN;
}

static void fill_report(struct vs_wal_scan *s)
{
    struct vshard_wal_report *r = s->report;

    if (s->w->super.durable.seq > s->witnessed)
        s->witnessed = s->w->super.durable.seq;
    if (s->found.witness > s->witnessed)
        s->witnessed = s->found.witness;
    r->verdict = judge_tail(s);
    r->created = s->w->created;
    r->unsettled = (s->w->super.flags & VS_WAL_UNSETTLED) != 0;
    r->barrier = s->at.seq;
    r->witnessed = s->witnessed;
    r->segment = s->at.segment;
    r->offset = s->at.end;
    r->segments = s->w->index.segment_count;
    r->tail_present = s->found.members;
    r->tail_damaged = s->found.damaged;
    r->incarnation = s->w->super.incarnation;
    r->boot = s->w->super.boot;
}

/* Whether the options let us go on, and what must be remembered if so. */
static int decide(struct vs_wal_scan *s)
{
    static const char *const events[] = { "wal.clean", "wal.torn", "wal.uncertain", "wal.corrupt" };
    const struct vshard_wal_options *o = &s->w->options;
    uint32_t verdict = s->report->verdict;

    if (verdict != VSHARD_WAL_CLEAN)
        vs_wal_event(s->w, verdict == VSHARD_WAL_TORN ? VSHARD_LOG_INFO : VSHARD_LOG_ERROR,
                     events[verdict], (int64_t)s->at.seq,
                     (int64_t)(s->found.members + s->found.damaged));
    if (o->flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_OK;
    if (verdict == VSHARD_WAL_CORRUPT && (o->flags & VSHARD_WAL_SALVAGE) == 0)
        return VSHARD_ECORRUPT;
    if (verdict == VSHARD_WAL_UNCERTAIN && o->tail == VSHARD_WAL_TAIL_REFUSE &&
        (o->flags & VSHARD_WAL_SALVAGE) == 0)
        return VSHARD_ECORRUPT;
    return VSHARD_OK;
}

/* Takes the segments below the floor out of the index; they are leftovers. */
static int split_leftovers(struct vs_wal_scan *s, uint64_t **ids, size_t *count)
{
    struct vs_wal_index *index = &s->w->index;
    uint64_t floor = s->w->super.floor.segment;
    size_t n = 0;

    while (n < index->segment_count && index->segments[n].id < floor)
        n++;
    *count = n;
    *ids = NULL;
    if (n == 0)
        return VSHARD_OK;
    *ids = vs_alloc(s->w->allocator, n * sizeof **ids);
    if (*ids == NULL)
        return VSHARD_ENOMEM;
    for (size_t i = 0; i < n; i++)
        (*ids)[i] = index->segments[i].id;
    for (size_t i = n; i-- > 0;)
        vs_wal_segment_drop(index, i);
    return VSHARD_OK;
}

static int scan_all(struct vs_wal_scan *s)
{
    struct vs_wal_index *index = &s->w->index;
    int rc = VSHARD_OK;

    s->at = s->w->super.floor;
    for (size_t i = 0; i < index->segment_count && rc == VSHARD_OK; i++)
        rc = scan_segment(s, i);
    vs_wal_reader_fini(&s->reader);
    return rc;
}

int vs_wal_recover(struct vshard_wal *w, struct vshard_wal_report *report)
{
    struct vs_wal_scan s = { .w = w, .report = report, .reader = { .wal = w } };
    uint64_t *leftovers = NULL, highest;
    size_t leftover_count = 0;
    int rc = vs_wal_super_open(w); /* what is looked at after this, no other process changes */

    if (rc == VSHARD_OK)
        rc = vs_io_list_all(&w->storage, w->allocator, w->path, take_names, w);
    if (rc == VSHARD_OK)
        rc = vs_wal_super_load(w, &s.super_lost);
    if (rc < 0)
        return rc;
    highest = w->index.segment_count ? w->index.segments[w->index.segment_count - 1].id : 0;
    rc = split_leftovers(&s, &leftovers, &leftover_count);
    s.total = w->index.segment_count * w->options.segment_bytes;
    if (rc == VSHARD_OK)
        rc = scan_all(&s);
    if (rc == VSHARD_OK) {
        fill_report(&s);
        rc = decide(&s);
    }
    w->next_segment = highest + 1 > w->super.next_segment ? highest + 1 : w->super.next_segment;
    w->super.next_segment = w->next_segment;
    if (rc == VSHARD_OK && (w->options.flags & VSHARD_WAL_READ_ONLY) == 0)
        rc = vs_wal_repair(&s, leftovers, leftover_count);
    vs_free(w->allocator, leftovers, leftover_count * sizeof *leftovers);
    w->durable = s.at;
    w->unsettled = report->unsettled;
    report->segments = w->index.segment_count;
    report->boot = w->super.boot;
    return rc;
}
