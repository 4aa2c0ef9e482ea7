/* segment.c - segments made ahead, shortened behind, and removed.
 *
 * A segment is made while the one before it fills: a file of its full length, whose space
 * storage reserves if it can and in which zeros are written, so that a full
 * disk is met here, where nothing is at stake, and a batch's sync has no extents to
 * allocate. The zeros go out in pieces, each synced, at twice the pace at which the
 * current segment fills, so that a batch waits for them only in the first segment. Then they are
 * large pieces: each is a turn of the host, which may be a second where it is busy. Where space is
 * reserved and a file is wanted sooner than its zeros are, they stay unwritten. The header
 * is written last: a file without one was never used.
 *
 * Once a newer segment is written to, the old one is cut to its batches, unless it is full.
 *
 * A segment goes when no group needs anything in it or before it. The superblock
 * first says where the log begins now, and is synced; then the file becomes a spare, or
 * takes the place of one. A crash in between leaves files below the floor, which the
 * next open removes.
 *
 * The next segment is made of a spare if there is one. One that never was shortened has all
 * its space already. Then only the first zeros are written here, and each batch
 * brings as many with it, in its own sync (flight.c), so nothing else is synced beside the
 * batches; in a new file each piece is a change of the file system's own books besides. What
 * stands in a spare counts for nothing: its header is another segment's, until it is zeros. */
#include "wal/log.h"

enum {
    IDLE,
    TAKING,
    TAKEN,
    OPENING,
    SIZING,
    FILLING,
    PROMISED,
    FILLED,
    HEADING,
    SYNCING,
    NAMING,
    DROPPING,
    REMOVING,
    DISCARDING
};

/* ---- making ---- */

enum { PATIENCE = 8 }; /* polls */
enum { AHEAD = 16 };   /* the part of a spare that is always zeros behind a batch: one in so many */

/* A new segment is wanted now, or will be soon. */
static bool making_wanted(const struct vshard_wal *w)
{
    if (w->making.open || w->status < 0 || !w->may_retry || !w->may_make)
        return false;
    return w->blocked || (w->current.open && w->current.end > w->current.bytes / 4);
}

static int make_head(struct vshard_wal *w)
{
    struct vs_wal_segment_head *h = &w->making.head;
    int rc;

    *h = (struct vs_wal_segment_head){ .log_id = w->options.log_id,
                                       .segment = w->next_segment,
                                       .key_id = w->key_id,
                                       .cipher = w->cipher };
    if (h->key_id != 0 && w->entropy.fill(w->entropy.ctx, h->salt, sizeof h->salt) != 0)
        return VSHARD_EIO;
    rc = vs_wal_key_derive(w, h->key_id, h->salt, &w->making.key);
    w->making.key.cipher = h->cipher;
    memcpy(h->check, w->making.key.check, sizeof h->check);
    return rc;
}

static void open_segment(struct vs_wal_task *t, uint32_t flags)
{
    t->io.path = t->path;
    t->io.flags = VSHARD_IO_OPEN_WRITE | flags;
    t->step = OPENING;
    vs_wal_submit(t, VSHARD_IO_OPEN);
}

static void make_file(struct vs_wal_task *t)
{
    open_segment(t, VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_EXCLUSIVE);
}

static void take_spare(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->maker;
    uint32_t spare = w->spares & 1 ? 0 : 1;

    w->spares &= ~(1u << spare);
    vs_wal_spare_path(w, spare, t->path_to);
    t->io.path = t->path_to;
    t->io.path_to = t->path;
    t->step = TAKING;
    vs_wal_submit(t, VSHARD_IO_RENAME);
}

static bool begin_making(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->maker;

    if (make_head(w) < 0) {
        vs_wal_poison(w, "key");
        return false;
    }
    w->next_segment++;
    w->making.goal = w->making.bytes = w->options.segment_bytes;
    w->making.filled = 0;
    w->making.end = VS_WAL_START;
    vs_wal_segment_path(w, w->making.head.segment, ".wal", t->path);
    if (w->spares == 0)
        make_file(t);
    else
        take_spare(w);
    return true;
}

static void maker_io(struct vshard_wal *w, uint32_t step, uint32_t op)
{
    w->maker.io.file = w->making.file;
    w->maker.step = step;
    vs_wal_submit(&w->maker, op);
}

static void maker_write(struct vshard_wal *w, uint32_t step, uint64_t offset, void *bytes,
                        uint64_t count)
{
    w->maker.io.offset = offset;
    w->maker.io.buffer = bytes;
    w->maker.io.count = count;
    maker_io(w, step, VSHARD_IO_WRITE);
}

/* How far zeros may have been written by now: all, before the current segment is three
 * quarters full. */
static uint64_t pace(const struct vshard_wal *w)
{
    uint64_t used = w->current.end, quarter = w->making.bytes / 4, eighth = w->making.goal / 8;

    if (w->blocked || w->tight || !w->current.open)
        return UINT64_MAX;
    return used > quarter ? (used - quarter) * w->making.goal / (2 * quarter) + eighth : eighth;
}

/* The next piece of zeros, or the header when there are no more to write. Batches of a MiB leave
 * small pieces behind, one of which goes out with each. Where the file has its space, zeros are
 * then left to the promise of its length: a sync that changes the file system's books is less than
 * every byte twice. Elsewhere pieces are large. */
static bool fill_more(struct vshard_wal *w)
{
    uint64_t piece = vs_wal_piece(w, VS_WAL_PIECE), to = pace(w);
    uint64_t left = w->making.goal - w->making.filled;

    if (left == 0) {
        vs_wal_segment_write(&w->making.head, w->head_bytes);
        maker_write(w, HEADING, 0, w->head_bytes, VS_WAL_START);
        return true;
    }
    if (w->making.filled >= to) {
        w->maker.step = FILLED;
        return false;
    }
    if (to - w->making.filled > w->making.goal / 4) {
        if (w->making.backed && w->current.end > w->current.bytes / 4) {
            w->making.filled = w->making.goal;
            maker_io(w, PROMISED, VSHARD_IO_SYNC);
            return true;
        }
        piece = vs_wal_piece(w, VS_WAL_PIECES);
    }
    maker_write(w, FILLING, w->making.filled, w->zeros, left < piece ? left : piece);
    return true;
}

/* The file cannot be made: close it, remove it, and try again with a later poll. This is
 * found out before the current segment is three quarters full: what has been taken goes
 * there, and behind it what may free space. */
static bool give_up(struct vshard_wal *w, int status)
{
    if (status != VSHARD_ENOSPC) {
        vs_wal_poison(w, "segment");
        return false;
    }
    if (w->blocked)
        vs_wal_full(w);
    else
        vs_wal_tight(w);
    vs_wal_be_patient(w);
    if (w->making.open) {
        maker_io(w, DROPPING, VSHARD_IO_CLOSE);
        return true;
    }
    /* It may be there and not open: a spare that has its new name. */
    w->maker.io.path = w->maker.path;
    maker_io(w, REMOVING, VSHARD_IO_REMOVE);
    return true;
}

/* A spare that has all its space. */
static void use_spare(struct vs_wal_file *f)
{
    f->head.ahead = (uint32_t)(f->bytes / AHEAD / VS_WAL_SECTOR);
    f->goal = vs_wal_zeros_to(f, VS_WAL_START, 2);
}

static bool maker_next(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->maker;

    switch (t->step) {
    case TAKING: /* before a byte is changed it must have no other name, whatever happens */
        t->io.path = w->path;
        maker_io(w, TAKEN, VSHARD_IO_SYNC_DIR);
        return true;
    case TAKEN: open_segment(t, 0); return true;
    case OPENING:
        t->io.offset = w->making.bytes;
        t->io.count = 0;
        /* Not for a spare, which has its space: XFS would look for as much again. */
        if ((w->options.flags & VSHARD_WAL_SPARSE) == 0 && !w->making.old)
            t->io.flags = VSHARD_IO_RESIZE_RESERVE;
        maker_io(w, SIZING, VSHARD_IO_RESIZE);
        return true;
    case SIZING: /* zeros by promise are durable after a sync, too */
        w->making.backed = !w->making.old && t->io.count >= w->making.bytes;
        if ((w->options.flags & VSHARD_WAL_SPARSE) == 0)
            return fill_more(w);
        w->making.filled = w->making.goal;
        maker_io(w, PROMISED, VSHARD_IO_SYNC);
        return true;
    case FILLING:
        w->making.filled += t->io.count;
        /* With a batch waiting one sync at the end is soonest; the header comes after it. */
        if (w->blocked && w->making.filled < w->making.goal)
            return fill_more(w);
        maker_io(w, PROMISED, VSHARD_IO_SYNC);
        return true;
    case PROMISED: return fill_more(w);
    case HEADING: maker_io(w, SYNCING, VSHARD_IO_SYNC); return true;
    case SYNCING:
        t->io.path = w->path;
        maker_io(w, NAMING, VSHARD_IO_SYNC_DIR);
        return true;
    case NAMING:
        w->making.ready = 1;
        w->full = w->tight = 0;
        w->patience = 0;
        t->step = IDLE;
        return true;
    case DROPPING:
        t->io.path = t->path;
        maker_io(w, REMOVING, VSHARD_IO_REMOVE);
        return true;
    default: t->step = IDLE; return true;
    }
}

bool vs_wal_maker_step(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->maker;
    int status;

    if (!t->busy && t->step == IDLE) {
        if (w->making.ready && w->making.head.key_id != w->key_id && w->status == VSHARD_OK) {
            maker_io(w, DROPPING, VSHARD_IO_CLOSE); /* made before the key was changed */
            return true;
        }
        return making_wanted(w) && begin_making(w);
    }
    if (!t->busy && t->step == FILLED)
        return w->status == VSHARD_OK && fill_more(w);
    if (!vs_wal_ended(t, &status))
        return false;
    if (t->step == OPENING && status == VSHARD_OK) {
        w->making.file = t->io.file;
        w->making.open = 1;
        w->making.old = t->io.count != 0;
        if (t->io.count >= w->making.bytes)
            use_spare(&w->making);
    }
    if (t->step == DROPPING)
        w->making.open = w->making.ready = 0;
    if (w->status < 0)
        return false;
    if (t->step == TAKING && status < 0) {
        make_file(t);
        return true;
    }
    /* A file that cannot be closed or removed is at worst a file too many. */
    if (status < 0 && t->step != DROPPING && t->step != REMOVING)
        return give_up(w, status);
    return maker_next(w);
}

/* ---- shortening ---- */

bool vs_wal_trimmer_step(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->trimmer;
    int status;

    if (!w->old.open || (t->busy && !vs_wal_ended(t, &status)))
        return false;
    t->io.file = w->old.file;
    switch (t->step) {
    case IDLE:
        if (w->old.full && (w->options.flags & VSHARD_WAL_SPARSE) == 0) {
            t->step = DROPPING;
            vs_wal_submit(t, VSHARD_IO_CLOSE);
            return true;
        }
        t->step = SIZING;
        t->io.offset = w->old.end;
        vs_wal_submit(t, VSHARD_IO_RESIZE);
        return true;
    case SIZING: /* even if that failed: zeros at the end harm nobody */
        t->step = DROPPING;
        vs_wal_submit(t, VSHARD_IO_CLOSE);
        return true;
    default:
        t->step = IDLE;
        w->old.open = 0;
        return true;
    }
}

/* ---- the superblock, and removing ---- */

/* The first segment that somebody needs, or that is written to. */
static size_t first_needed(const struct vshard_wal *w)
{
    size_t i = 0;

    while (i + 1 < w->index.segment_count && w->index.segments[i].live == 0 &&
           !(w->old.open && w->old.head.segment == w->index.segments[i].id))
        i++;
    return i;
}

static bool keep_super(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->keeper;

    w->super.durable = w->durable;
    w->super.next_segment = w->next_segment;
    if (vs_wal_super_prepare(w, &t->io.offset) < 0) {
        vs_wal_poison(w, "signature");
        return false;
    }
    t->io.file = w->super_file;
    t->io.buffer = w->super_bytes;
    t->io.count = 2 * VS_WAL_SUPER_SLOT;
    t->step = HEADING;
    w->witness = 0;
    vs_wal_submit(t, VSHARD_IO_WRITE);
    return true;
}

static bool remove_unwanted(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->keeper;

    w->keeping = w->unwanted & 1 ? 0 : 1;
    vs_wal_spare_path(w, w->keeping, t->path);
    t->io.path = t->path;
    t->step = DISCARDING;
    vs_wal_submit(t, VSHARD_IO_REMOVE);
    return true;
}

static bool begin_keeping(struct vshard_wal *w)
{
    const struct vs_wal_segment *s;
    size_t needed;

    if (w->status < 0)
        return false;
    if (w->unwanted != 0)
        return remove_unwanted(w);
    if (w->keep_left > 0)
        return false;
    w->super_before = w->super;
    needed = first_needed(w);
    if (needed > 0) {
        s = &w->index.segments[needed];
        w->super.floor = s->before;
        w->super.floor.segment = s->id;
        w->super.floor.end = VS_WAL_START;
        w->retiring = s->id;
        return keep_super(w);
    }
    if (w->witness && (w->super.durable.seq < w->durable.seq || w->super.key_id != w->super_key.id))
        return keep_super(w);
    w->witness = 0;
    return false;
}

/* A spare needs all its space, or it saves nothing, and must not outlive the key of what it
 * holds. */
static bool makes_spare(const struct vshard_wal *w, const struct vs_wal_segment *s)
{
    return (w->options.flags & VSHARD_WAL_SPARSE) == 0 && s->key.id == w->key_id &&
           s->end > w->options.segment_bytes / 4 * 3 && !w->full && !w->tight;
}

/* The next file below the floor becomes a spare, or goes. */
static bool retire_next(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->keeper;
    bool spare;

    t->step = IDLE;
    if (w->retiring == 0 || w->index.segments[0].id >= w->retiring) {
        w->retiring = 0;
        return true;
    }
    spare = makes_spare(w, &w->index.segments[0]);
    w->keeping = w->spares & 1 ? 1 : 0;
    w->keeping_key = w->key_id;
    w->unwanted &= ~((uint32_t)spare << w->keeping); /* it takes the place of that */
    vs_wal_segment_path(w, w->index.segments[0].id, ".wal", t->path);
    vs_wal_spare_path(w, w->keeping, t->path_to);
    vs_wal_segment_drop(&w->index, 0);
    w->may_leave = 1;
    w->polls_left = 0; /* there may be room now */
    w->stats.removed++;
    t->io.path = t->path;
    t->io.path_to = t->path_to;
    t->step = REMOVING;
    vs_wal_submit(t, spare ? VSHARD_IO_RENAME : VSHARD_IO_REMOVE);
    return true;
}

/* There was no space for the superblock, of which the newest pair of slots is whole: the other
 * is written again some time. */
static void put_off(struct vshard_wal *w)
{
    w->super = w->super_before;
    w->retiring = 0;
    w->witness = 1;
    w->keep_left = PATIENCE;
    w->keeper.step = IDLE;
    w->stats.refused_space++;
}

bool vs_wal_keeper_step(struct vshard_wal *w)
{
    struct vs_wal_task *t = &w->keeper;
    int status;

    if (!t->busy)
        return t->step == IDLE && begin_keeping(w);
    if (!vs_wal_ended(t, &status))
        return false;
    if (status == VSHARD_ENOSPC && t->step == HEADING) {
        put_off(w);
        return false;
    }
    if (status < 0 && t->step != REMOVING && t->step != DISCARDING) {
        vs_wal_poison(w, "superblock");
        return false;
    }
    if (t->step == SYNCING)
        w->signed_with = w->super.key_id;
    /* A witness need not be durable at once; a floor must, and another key. */
    if (t->step == HEADING && (w->retiring != 0 || w->signed_with != w->super.key_id)) {
        t->step = SYNCING;
        vs_wal_submit(t, VSHARD_IO_SYNC);
        return true;
    }
    if (t->step == DISCARDING) {
        w->unwanted &= ~(1u << w->keeping);
        w->polls_left = 0; /* there may be room now */
    }
    if (t->io.op == VSHARD_IO_RENAME && status == VSHARD_OK)
        *(w->keeping_key == w->key_id ? &w->spares : &w->unwanted) |= 1u << w->keeping;
    return retire_next(w);
}
