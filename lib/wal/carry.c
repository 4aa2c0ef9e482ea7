/* carry.c - what is needed for long, copied out of the oldest segment.
 *
 * One log for many groups has one price: a group that writes nothing for a month
 * keeps the month-old segment in which its last entries stand, and with it every
 * segment since. So when there are too many segments, or the oldest one is sealed with
 * a key that is no longer used, what such a group still needs is written again at the end
 * of the log: a reset, its vote, commit, mark and note, and its live entries, all of it in
 * one batch. A batch is whole or not there, so the copy replaces the original in one step,
 * and a reader needs no rule but "a reset forgets".
 *
 * Only a group without records on their way is copied, because those would have to
 * come behind its copy and votes go in front. A group that needs more than
 * rewrite_bytes is not copied but reported: it wants a snapshot, not a copy.
 *
 * A group whose entries all stand further on may be busy and large: it marks what it no
 * longer needs, but what it once said, and not since, keeps the segment, as a vote does for
 * as long as its leader lives. Only that is written again, without a reset and with few
 * segments already, but not more of it in a segment than an eighth. It says what is durable,
 * and of what is on its way only votes come before it: then the vote is left out, whose place
 * the new one takes.
 *
 * Copies go with what is appended, and where storage is full nothing is, after the mark that
 * is to free space. Then they are a batch of their own, if that lets go of the oldest
 * segment: else they would only use up the room that is left. */
#include "wal/log.h"

enum { LOOK_AT = 4096 }; /* groups, for one batch */
enum { FEW = 3 };        /* segments, from which on what busy groups said is copied */

struct copy {
    struct vshard_wal *w;
    struct vs_wal_bytes *body;
    uint32_t records;
    uint32_t overflow;
};

static void put(struct copy *c, const struct vs_wal_record *r)
{
    size_t bytes = vs_wal_record_bytes(r->bytes);

    if (c->overflow || bytes > c->body->cap - c->body->count) {
        c->overflow = 1;
        return;
    }
    vs_wal_record_write(r, c->body->at + c->body->count, NULL, 0);
    c->body->count += bytes;
    c->records++;
}

static int put_entry(void *ctx, const struct vshard_wal_record *record,
                     const struct vshard_wal_place *place)
{
    struct copy *c = ctx;
    const struct vs_wal_record r = { .group = record->group,
                                     .index = record->index,
                                     .term = record->term,
                                     .bytes = record->payload_bytes,
                                     .kind = VSHARD_WAL_ENTRY,
                                     .payload = record->payload };

    (void)place;
    put(c, &r);
    return c->overflow != 0;
}

/* Of a copy of all, or of what stands in one segment. A mark says that entries up to it are
 * gone: without a reset it would take those that came after it. */
static bool stands(const struct vs_wal_group *g, int ref, uint64_t segment)
{
    if (segment == 0)
        return g->ref[ref] != 0;
    return g->ref[ref] == segment &&
           (ref != VS_WAL_REF_MARK || g->run_count == 0 ||
            g->runs[g->run_from].first > g->mark_index);
}

static uint64_t state_bytes(const struct vs_wal_group *g, uint64_t segment)
{
    uint64_t bytes = VS_WAL_REFS * VS_WAL_RECORD;

    if (stands(g, VS_WAL_REF_MARK, segment))
        bytes += g->mark->bytes + 8;
    if (stands(g, VS_WAL_REF_NOTE, segment))
        bytes += g->note->bytes + 8;
    return bytes;
}

static void put_state(struct copy *c, const struct vs_wal_group *g, uint64_t segment)
{
    if (stands(g, VS_WAL_REF_VOTE, segment) && g->pending_vote <= c->w->durable.seq)
        put(c, &(struct vs_wal_record){ g->id, g->vote, g->vote_term, 0, VSHARD_WAL_VOTE, NULL });
    if (stands(g, VS_WAL_REF_COMMIT, segment))
        put(c, &(struct vs_wal_record){ g->id, g->commit, 0, 0, VSHARD_WAL_COMMIT, NULL });
    if (stands(g, VS_WAL_REF_MARK, segment))
        put(c, &(struct vs_wal_record){ g->id, g->mark_index, g->mark_term, g->mark->bytes,
                                        VSHARD_WAL_MARK, g->mark->data });
    if (stands(g, VS_WAL_REF_NOTE, segment))
        put(c,
            &(struct vs_wal_record){ g->id, 0, 0, g->note->bytes, VSHARD_WAL_NOTE, g->note->data });
}

/* Adds all of a group, or only what it said in one segment, or nothing. */
static bool copy_group(struct copy *c, const struct vs_wal_group *g, uint64_t segment)
{
    const struct vshard_wal_visitor visitor = { put_entry, c };
    struct vs_wal_visit v = { .reader = { .wal = c->w }, .group = g, .visitor = &visitor };
    size_t before = c->body->count;
    uint32_t records = c->records;
    int rc = VSHARD_OK;

    c->overflow = 0;
    if (segment == 0)
        put(c, &(struct vs_wal_record){ .group = g->id, .kind = VSHARD_WAL_RESET });
    put_state(c, g, segment);
    for (uint32_t i = 0; segment == 0 && i < g->run_count && rc == VSHARD_OK && !c->overflow; i++)
        rc = vs_wal_run_visit(&v, &g->runs[g->run_from + i]);
    vs_wal_reader_fini(&v.reader);
    if (rc == VSHARD_OK && !c->overflow)
        return true;
    if (rc < 0)
        vs_wal_event(c->w, VSHARD_LOG_ERROR, "wal.copy_failed", (int64_t)g->id, rc);
    c->body->count = before;
    c->records = records;
    return false;
}

static void pin(struct vshard_wal *w, const struct vs_wal_group *g, uint64_t bytes)
{
    if (bytes > w->stats.pinned_bytes) {
        w->stats.pinned = g->id;
        w->stats.pinned_bytes = bytes;
    }
}

/* Bytes of what would be copied of a group to leave the oldest segment; 0: nothing, now. */
static uint64_t wanted(const struct vshard_wal *w, const struct vs_wal_group *g, bool many,
                       uint64_t *segment)
{
    uint64_t oldest = w->index.segments[0].id;

    *segment = 0;
    if (vs_wal_group_oldest(g) != oldest)
        return 0;
    if (g->run_count > 0 && g->runs[g->run_from].segment == oldest)
        return many && g->pending_seq <= w->durable.seq ? vs_wal_group_bytes(g) : 0;
    *segment = oldest;
    if (!many && w->copied > w->options.segment_bytes / 8)
        return 0;
    return state_bytes(g, oldest);
}

/* There are too many segments, or the oldest one is under another key. */
static bool are_many(const struct vshard_wal *w)
{
    return w->index.segment_count > w->options.rewrite_above ||
           w->index.segments[0].key.id != w->key_id;
}

bool vs_wal_leaves(const struct vshard_wal *w, uint64_t *bytes)
{
    const struct vs_wal_index *index = &w->index;
    bool many;
    uint64_t segment;

    *bytes = 0;
    if (index->segment_count < 2)
        return false;
    many = are_many(w);
    if (!many && index->segment_count < FEW)
        return false;
    for (size_t i = 0; i < index->group_count; i++) {
        const struct vs_wal_group *g = index->groups[i];
        uint64_t own = wanted(w, g, many, &segment);

        if (vs_wal_group_oldest(g) != index->segments[0].id)
            continue;
        if (own == 0 || own > w->options.rewrite_bytes)
            return false;
        *bytes += own;
    }
    return true;
}

uint32_t vs_wal_copy(struct vshard_wal *w, struct vs_wal_bytes *body)
{
    const struct vs_wal_index *index = &w->index;
    struct copy c = { .w = w, .body = body };
    uint64_t oldest, segment, before = body->count, end = before + w->options.rewrite_bytes;
    bool many;

    if (index->segment_count == 0 || index->segments[0].live == 0)
        return 0;
    many = are_many(w);
    if (!many && index->segment_count < FEW)
        return 0;
    oldest = index->segments[0].id;
    if (w->copy_segment != oldest || w->copy_cursor == 0) {
        w->copy_segment = oldest;
        w->copy_cursor = 0;
        w->copy_again = 0;
        w->stats.pinned_bytes = 0;
    }
    for (int n = 0; n < LOOK_AT && w->copy_cursor < index->group_count; n++) {
        const struct vs_wal_group *g = index->groups[w->copy_cursor++];
        uint64_t bytes = wanted(w, g, many, &segment);

        if (bytes == 0) {
            w->copy_again |= vs_wal_group_oldest(g) == oldest;
        } else if (bytes > w->options.rewrite_bytes) {
            pin(w, g, bytes);
        } else if (bytes > end - body->count) {
            w->copy_cursor--; /* the next batch has room for it */
            break;
        } else if (!copy_group(&c, g, segment)) {
            pin(w, g, bytes);
        }
    }
    /* A group that was busy may be silent by the next batch. An old key does not wait for the next
     * segment to see that. */
    if (w->copy_again && w->copy_cursor == index->group_count &&
        index->segments[0].key.id != w->key_id)
        w->copy_cursor = 0;
    w->stats.rewritten += c.records;
    w->copied += body->count - before;
    return c.records;
}
