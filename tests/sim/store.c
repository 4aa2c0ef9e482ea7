/* store.c - what a node remembers, on the real write-ahead log.
 *
 * Each node has a file system of its own in memory (support/fault_storage.h), and on
 * it the log of lib/wal, driven as a host drives it: what the core wants persisted is
 * appended when it says so, the log's requests wait in the storage, and when the
 * simulated sync ends they are completed, in any order. A crash leaves the storage as a
 * power cut or a kill may: requests under way done, undone or in part, sectors that were
 * not synced old or new, names behind their files. Then recovery decides what is left,
 * and is interrupted itself one time in four.
 *
 *     PERSIST   vote, commit, cut, entries     one append
 *     snapshot  mark up to where entries can go, the snapshot as its payload
 *     install   cut from 1, mark               one append, so one batch
 *
 * Beside it stands a model, a list of entries for each group, that knows what has been
 * reported durable. The checks look at it; what recovery brings is compared with it, and
 * replaces it.
 *
 * Rules for hosts that this file keeps, since breaking them breaks Raft:
 *   - incarnation and boot come from the log's report, never from a record, which a
 *     crash may take back;
 *   - on an unsettled log each group is booted uncertain, and the log is settled when the
 *     last of them is certain; a group that is missing there, or contradicts itself, was
 *     never born, or was and has voted, so nobody may take part for it: the node starts
 *     anew, as another incarnation;
 *   - COMPACT is said when the mark is durable, and not before. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include <vshard/wal.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"

enum { READ_MAX = 5 };

struct entry_head { /* of an entry's payload in the log */
    uint64_t session, sequence;
    uint32_t kind, reserved;
};

struct mark_head { /* of a mark's */
    uint64_t index, term, meta_bytes;
};

struct real {
    struct fault_storage *fs;
    struct vshard_wal *wal;
    uint64_t chance;  /* apart from the world's */
    uint64_t barrier; /* the highest of what was appended */
    uint64_t boot;
    uint32_t unsettled;
    uint32_t rotted; /* on purpose, since the last opening */
    uint32_t
        full; /* 1: its disk has little room, or none; 2: the log has not noticed that it has */
    uint32_t exact; /* nothing was pending when the node stopped */
    uint32_t cuts;  /* a write that was pending takes entries away */
    struct {
        uint64_t term, vote, commit;
    } said[GROUPS_MAX]; /* in the last append */
};

/* ---- the log: writing ---- */

static void append(struct world *w, struct node *n, struct write *x,
                   const struct vshard_wal_record *records, size_t count)
{
    struct real *r = n->real;
    uint64_t barrier = 0;
    int rc = vshard_wal_append(r->wal, records, count, &barrier);

    x->waits = rc == VSHARD_ENOSPC && r->full;
    w->waits += x->waits;
    if (x->waits)
        return;
    if (rc != VSHARD_OK)
        fail(w, "n%u cannot append: %s", n->id, vshard_strerror(rc));
    x->own_barrier = barrier;
    /* The core's barriers rise with its writes; the log's need not, since votes overtake. */
    if (barrier > r->barrier)
        r->barrier = barrier;
    x->real_barrier = r->barrier;
}

/* Bulk of another group, in the same log: what a vote must not wait for. */
static void append_bulk(struct world *w, struct node *n, struct write *x)
{
    static const unsigned char bulk[3000];
    const struct vshard_wal_record r = { .kind = VSHARD_WAL_NOTE,
                                         .group = GROUPS_MAX + 1,
                                         .payload = bulk,
                                         .payload_bytes = sizeof bulk };

    append(w, n, x, &r, 1);
}

static void append_persist(struct world *w, struct node *n, struct write *x)
{
    struct vshard_wal_record record[3 + 64], *next = record;
    struct entry_head head[64];
    struct real *r = n->real;

    if (x->entry_count > 64)
        fail(w, "n%u writes %u entries at once", n->id, x->entry_count);
    if (r->said[x->group].term != x->term || r->said[x->group].vote != x->vote)
        *next++ = (struct vshard_wal_record){ .kind = VSHARD_WAL_VOTE,
                                              .term = x->term,
                                              .index = x->vote };
    /* A hint, for which a vote must not wait. */
    if (x->vote_only)
        x->commit = r->said[x->group].commit;
    if (r->said[x->group].commit != x->commit)
        *next++ = (struct vshard_wal_record){ .kind = VSHARD_WAL_COMMIT, .index = x->commit };
    if (x->cut != 0)
        *next++ = (struct vshard_wal_record){ .kind = VSHARD_WAL_CUT, .index = x->cut };
    for (uint32_t i = 0; i < x->entry_count; i++) {
        const struct vshard_raft_entry *e = &x->entry[i];

        head[i] = (struct entry_head){ e->session, e->sequence, e->kind, 0 };
        *next++ = (struct vshard_wal_record){ .kind = VSHARD_WAL_ENTRY,
                                              .index = e->index,
                                              .term = e->term,
                                              .head = &head[i],
                                              .head_bytes = sizeof head[i],
                                              .payload = e->data,
                                              .payload_bytes = (uint32_t)e->count };
    }
    for (struct vshard_wal_record *i = record; i < next; i++)
        i->group = x->group + 1;
    for (uint32_t i = 0; i < w->bulk && !r->full; i++)
        append_bulk(w, n, x);
    append(w, n, x, record, (size_t)(next - record));
    if (x->waits)
        return;
    r->said[x->group].term = x->term;
    r->said[x->group].vote = x->vote;
    r->said[x->group].commit = x->commit;
}

static void append_snapshot(struct world *w, struct node *n, struct write *x)
{
    const struct mark_head head = { x->index, x->term, x->meta.n };
    unsigned char *bytes = malloc(x->meta.n + x->state.n + sizeof head);
    const struct vshard_wal_record record[2] = {
        { .kind = VSHARD_WAL_CUT, .group = x->group + 1, .index = 1 },
        { .kind = VSHARD_WAL_MARK,
          .group = x->group + 1,
          .index = x->through,
          .term = x->kind == WRITE_INSTALL ? x->term : 0,
          .head = &head,
          .head_bytes = sizeof head,
          .payload = bytes,
          .payload_bytes = (uint32_t)(x->meta.n + x->state.n) }
    };

    memcpy(bytes, x->meta.p, x->meta.n);
    memcpy(bytes + x->meta.n, x->state.p, x->state.n);
    if (x->kind == WRITE_INSTALL)
        append(w, n, x, record, 2);
    else
        append(w, n, x, record + 1, 1);
    free(bytes);
}

/* Completes one request, any of them. */
static void progress(struct real *r)
{
    fault_storage_complete(r->fs, (uint32_t)random_below(&r->chance, fault_storage_queued(r->fs)));
}

/* False if there is no room for it. */
static bool wait_durable(struct world *w, struct node *n, uint64_t barrier)
{
    struct real *r = n->real;
    uint64_t durable = 0;

    for (uint32_t refused = 0;;) {
        int rc = vshard_wal_poll(r->wal, &durable);

        if (rc != VSHARD_OK && (rc != VSHARD_ENOSPC || !r->full))
            fail(w, "n%u cannot write: %s", n->id, vshard_strerror(rc));
        if (rc == VSHARD_OK && r->full == 2)
            r->full = 0;
        if (durable >= barrier)
            return true;
        refused += rc == VSHARD_ENOSPC;
        if (refused == (r->full == 2 ? 400u : 20u))
            return false;
        if (fault_storage_queued(r->fs) == 0 && rc == VSHARD_ENOSPC)
            continue;
        if (fault_storage_queued(r->fs) == 0)
            fail(w, "n%u waits for barrier %llu, and nothing is under way", n->id,
                 (unsigned long long)barrier);
        progress(r);
    }
}

void store_schedule(struct world *w, struct node *n)
{
    uint64_t at = w->now + n->disk_ns / 2 + world_random(w, n->disk_ns + 1);

    if (n->sync_at != 0 || n->write_count == 0)
        return;
    if (n->stalled_until > at)
        at = n->stalled_until;
    n->sync_at = at;
    if (vshard_wal_poll(n->real->wal, NULL) != VSHARD_OK && !n->real->full)
        fail(w, "n%u cannot begin to write", n->id);
    world_at(w, at,
             (struct event){ .kind = EV_SYNC,
                             .node = n->id,
                             .boot = n->boot,
                             .a = n->write[n->write_count - 1].barrier });
}

/* ---- a full disk ---- */

void store_full(struct world *w, struct node *n)
{
    struct real *r = n->real;

    r->full = 1;
    fault_storage_capacity(r->fs, fault_storage_used(r->fs) + world_random(w, 80 << 10));
}

static void store_room(struct node *n)
{
    n->real->full = n->real->full ? 2 : 0;
    fault_storage_capacity(n->real->fs, UINT64_MAX);
}

/* Nothing waits, or only what this is. */
static bool all_taken(const struct node *n, const struct write *but)
{
    for (size_t i = 0; i < n->write_count; i++) {
        if (n->write[i].waits && &n->write[i] != but)
            return false;
    }
    return true;
}

/* Lets the log find out what room there is: all it needs once there is some, or what a
 * snapshot that went past the others has freed. */
static void look_for_room(struct world *w, struct node *n)
{
    struct real *r = n->real;
    int rc = vshard_wal_poll(r->wal, NULL);

    for (uint32_t i = 0; rc == VSHARD_ENOSPC && i < (r->full == 2 ? 200u : 10u); i++) {
        if (fault_storage_queued(r->fs) > 0)
            progress(r);
        rc = vshard_wal_poll(r->wal, NULL);
    }
    if (rc == VSHARD_OK && r->full == 2)
        r->full = 0;
    if (r->full == 2 || (rc != VSHARD_OK && rc != VSHARD_ENOSPC))
        fail(w, "n%u has room, and its log says: %s", n->id, vshard_strerror(rc));
}

/* Gives the log again what it had no room for, in its order. */
static void append_waiting(struct world *w, struct node *n)
{
    for (size_t i = 0; i < n->write_count; i++) {
        struct write *x = &n->write[i];

        if (!x->waits)
            continue;
        if (x->kind == WRITE_PERSIST)
            append_persist(w, n, x);
        else
            append_snapshot(w, n, x);
        if (x->waits)
            return;
    }
}

static struct write *add_write(struct node *n)
{
    if (n->write_count == n->write_cap) {
        n->write_cap = n->write_cap ? 2 * n->write_cap : 64;
        n->write = realloc(n->write, n->write_cap * sizeof *n->write);
    }
    return &n->write[n->write_count++];
}

void store_persist(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_effect *e)
{
    struct write *x = add_write(n);

    *x = (struct write){ .kind = WRITE_PERSIST,
                         .group = g,
                         .barrier = e->barrier,
                         .entry_count = e->entry_count,
                         .term = e->term,
                         .vote = e->vote,
                         .commit = e->commit,
                         .vote_only = e->flags & VSHARD_RAFT_VOTE_ONLY,
                         .cut = e->cut };
    x->entry = malloc((e->entry_count + 1) * sizeof *x->entry);
    for (uint32_t i = 0; i < e->entry_count; i++)
        entry_copy(&x->entry[i], &e->entries[i]);
    n->asked = e->barrier;
    x->waits = !all_taken(n, x);
    if (!x->waits)
        append_persist(w, n, x);
    store_schedule(w, n);
}

void store_snapshot(struct world *w, struct node *n, const struct write *snapshot)
{
    struct write *x = add_write(n);

    *x = *snapshot;
    x->barrier = n->asked;
    /* A snapshot of what is durable frees room, and goes past what waits for some. */
    x->waits = x->kind == WRITE_INSTALL && !all_taken(n, x);
    if (!x->waits)
        append_snapshot(w, n, x);
    store_schedule(w, n);
}

/* Half of the time that the log has a vote sooner than what was written before it, that
 * vote is all that a sync makes durable: anything may come before the rest. */
static bool sync_vote(struct world *w, struct node *n)
{
    for (size_t i = 1; i < n->write_count; i++) {
        struct write *x = &n->write[i];

        if (!x->vote_only || x->told || x->waits || x->own_barrier >= x->real_barrier ||
            !n->disk[x->group].exists || world_chance(w, 500))
            continue;
        if (!wait_durable(w, n, x->own_barrier))
            return false;
        x->told = 1;
        n->disk[x->group].term = x->term;
        n->disk[x->group].vote = x->vote;
        n->sync_at = 0;
        w->overtakings++;
        store_schedule(w, n);
        store_vote_durable(w, n, x->barrier);
        return true;
    }
    return false;
}

/* Is this what a slow piece of a snapshot has waited for: entries that make it superfluous? */
static bool reaches(const struct node *n, const struct write *x)
{
    return x->entry_count != 0 && x->entry[x->entry_count - 1].index >= n->piece[x->group].b;
}

/* Makes writes durable through a barrier of the core's, and tells of snapshots. */
void store_sync(struct world *w, struct node *n, uint64_t through)
{
    struct write *landed;
    size_t writes = 0, snapshots = 0;

    if (n->real->full == 1 && w->now >= n->full_until)
        store_room(n);
    if (!all_taken(n, NULL))
        look_for_room(w, n);
    append_waiting(w, n);
    if (sync_vote(w, n))
        return;
    while (writes < n->write_count && n->write[writes].barrier <= through &&
           !n->write[writes].waits)
        writes++;
    if (writes > 0 && !wait_durable(w, n, n->write[writes - 1].real_barrier))
        writes = 0;
    landed = malloc((writes + 1) * sizeof *landed);
    for (size_t i = 0; i < writes; i++) {
        struct write *x = &n->write[i];

        model_write(w, n, x);
        n->durable = x->barrier;
        if (n->piece[x->group].kind != 0 && world_chance(w, reaches(n, x) ? 700 : 50))
            piece_written(w, n, x->group);
        if (x->kind != WRITE_PERSIST)
            landed[snapshots++] = *x;
        else
            write_free(x);
    }
    memmove(n->write, n->write + writes, (n->write_count - writes) * sizeof *n->write);
    n->write_count -= writes;
    n->sync_at = 0;
    store_durable(w, n);
    for (size_t i = 0; i < snapshots; i++) {
        store_landed(w, n, &landed[i]);
        write_free(&landed[i]);
    }
    free(landed);
}

/* ---- the log: reading ---- */

struct reading {
    struct vshard_raft_entry *to;
    size_t count, max;
};

static int read_entry(void *ctx, const struct vshard_wal_record *record,
                      const struct vshard_wal_place *place)
{
    struct reading *reading = ctx;
    struct entry_head head;
    struct vshard_raft_entry e = { .index = record->index, .term = record->term };

    (void)place;
    memcpy(&head, record->payload, sizeof head);
    e.session = head.session;
    e.sequence = head.sequence;
    e.kind = head.kind;
    e.count = record->payload_bytes - sizeof head;
    e.data = (const unsigned char *)record->payload + sizeof head;
    entry_copy(&reading->to[reading->count++], &e);
    return reading->count == reading->max;
}

/* Entries from an index on, a few, for the core that asks for them. */
size_t store_read(struct world *w, struct node *n, uint32_t g, uint64_t from,
                  struct vshard_raft_entry *to)
{
    const struct disk_group *d = &n->disk[g];
    struct reading reading = { to, 0, READ_MAX };
    const struct vshard_wal_visitor visitor = { read_entry, &reading };
    int rc;

    if (d->count == 0 || from < d->first || from >= d->first + d->count)
        return 0;
    /* What a snapshot under way makes superfluous, the log has given up already. */
    for (size_t i = 0; i < n->write_count; i++) {
        if (n->write[i].group == g && n->write[i].kind != WRITE_PERSIST &&
            from <= n->write[i].through)
            return 0;
    }
    rc = vshard_wal_read(n->real->wal, g + 1, from, &visitor);
    if (rc != VSHARD_OK || reading.count == 0 || to->index != from)
        fail(w, "n%u reads %llu: %s", n->id, (unsigned long long)from, vshard_strerror(rc));
    return reading.count;
}

void store_read_free(struct vshard_raft_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        entry_free(&entries[i]);
}

/* ---- the log: opening ---- */

static int fill(void *ctx, void *bytes, size_t count)
{
    const struct node *n = ctx;

    memset(bytes, (int)n->boot, count);
    memcpy(bytes, &n->incarnation, count < sizeof n->incarnation ? count : sizeof n->incarnation);
    return 0;
}

static int open_log(struct world *w, struct node *n, uint32_t flags,
                    struct vshard_wal_report *report)
{
    const struct vshard_entropy entropy = { fill, n };
    const struct vshard_wal_options o = {
        .size = sizeof o,
        /* Unpacked, so that digests are equal over versions of LZ4. */
        .flags = flags | VSHARD_WAL_UNPACKED | (w->seed >> 3 & 3 ? VSHARD_WAL_SPARSE : 0) |
                 (n->real->rotted ? VSHARD_WAL_SALVAGE : 0),
        .tail = VSHARD_WAL_TAIL_FLAG,
        .log_id = w->seed,
        .segment_bytes = 64 << 10,
        .barrier_bytes = 4 << 10,
        .rewrite_above = 2,
        .path = "log",
        .storage = fault_storage_hook(n->real->fs),
        .entropy = &entropy
    };

    *report = (struct vshard_wal_report){ .size = sizeof *report };
    return vshard_wal_open(&o, report, &n->real->wal);
}

/* What is found when the machine comes back. */
static void power_cut(struct real *r, uint32_t flags)
{
    const struct fault_crash how = { .seed = random_next(&r->chance), .flags = flags };
    struct fault_storage *after = fault_storage_after(r->fs, &how);

    fault_storage_heal(r->fs);
    vshard_wal_close(r->wal);
    fault_storage_destroy(r->fs);
    r->wal = NULL;
    r->fs = after;
    fault_storage_defer(after, 1);
}

static void interrupt(struct world *w, struct node *n)
{
    struct vshard_wal_report report;
    struct real *r = n->real;

    while (random_one_in(&r->chance, 4)) {
        fault_storage_fail(r->fs, 1 + random_below(&r->chance, 40), FAULT_FOREVER);
        open_log(w, n, 0, &report);
        power_cut(r, random_one_in(&r->chance, 2) ? FAULT_CRASH_EACH_NAME : 0);
    }
}

static void load_mark(struct disk_group *d, const struct vshard_wal_group *about)
{
    const unsigned char *bytes = about->mark;
    struct mark_head head;

    memcpy(&head, bytes, sizeof head);
    bytes += sizeof head;
    d->snapshot = head.index;
    d->snapshot_term = head.term;
    bytes_set(&d->meta, bytes, (size_t)head.meta_bytes);
    bytes += head.meta_bytes;
    bytes_set(&d->state, bytes, about->mark_bytes - sizeof head - (size_t)head.meta_bytes);
}

static void load_group(struct world *w, struct node *n, uint32_t g)
{
    struct vshard_wal_group about = { .size = sizeof about };
    struct disk_group *d = &n->disk[g];
    struct reading reading = { NULL, 0, SIZE_MAX };
    const struct vshard_wal_visitor visitor = { read_entry, &reading };
    int rc = vshard_wal_find(n->real->wal, g + 1, &about);

    memset(d, 0, sizeof *d);
    memset(&n->real->said[g], 0, sizeof n->real->said[g]);
    if (rc == VSHARD_ENOTFOUND)
        return;
    d->exists = 1;
    n->real->said[g].term = d->term = about.vote_term;
    n->real->said[g].vote = d->vote = about.vote;
    n->real->said[g].commit = d->commit = about.commit;
    if (about.mark_bytes != 0)
        load_mark(d, &about);
    d->first = about.first;
    d->cap = (size_t)(about.last + 1 - about.first);
    reading.to = d->entry = calloc(d->cap + 1, sizeof *d->entry);
    if (d->cap != 0)
        rc = vshard_wal_read(n->real->wal, g + 1, about.first, &visitor);
    if (rc != VSHARD_OK || reading.count != d->cap)
        fail(w, "n%u reads %zu of %zu entries: %s", n->id, reading.count, d->cap,
             vshard_strerror(rc));
    d->count = d->cap;
    d->cap++;
}

/* What was reported durable is there; and where nothing was pending, nothing else is. */
static void compare(struct world *w, const struct node *n, uint32_t g, const struct disk_group *was)
{
    const struct disk_group *is = &n->disk[g];
    const struct real *r = n->real;
    uint64_t last = is->first + is->count, last_was = was->first + was->count;

    if (is->term < was->term || is->snapshot < was->snapshot || is->exists < was->exists ||
        (is->term == was->term && was->vote != 0 && is->vote != was->vote))
        fail(w, "n%u forgot a promise of term %llu", n->id, (unsigned long long)was->term);
    if (r->exact && (is->term != was->term || is->vote != was->vote || is->count != was->count ||
                     is->snapshot != was->snapshot || is->exists != was->exists))
        fail(w, "n%u remembers what it never said", n->id);
    for (uint64_t i = was->first; i < last_was && !r->cuts; i++) {
        if (i <= is->snapshot ||
            (i >= is->first && i < last &&
             entry_hash(&is->entry[i - is->first]) == entry_hash(&was->entry[i - was->first])))
            continue;
        fail(w, "n%u forgot entry %llu", n->id, (unsigned long long)i);
    }
}

/* A replica that lost so much that it cannot say where it stood. What an unsettled log
 * lacks may have superseded what was removed on the strength of it. */
static bool lost(const struct node *n, uint32_t g)
{
    const struct disk_group *d = &n->disk[g];
    uint64_t last = d->count ? d->first + d->count - 1 : d->snapshot;

    return !d->exists || (d->count != 0 && d->first > d->snapshot + 1) || d->commit > last ||
           d->snapshot_term > d->term || (d->count != 0 && d->entry[d->count - 1].term > d->term);
}

static void real_open(struct world *w, struct node *n)
{
    struct vshard_wal_report report;
    struct real *r = n->real;
    bool all_lost = false;
    int rc;

    interrupt(w, n);
    rc = open_log(w, n, 0, &report);
    if (rc != VSHARD_OK || (report.verdict > VSHARD_WAL_TORN && !r->rotted))
        fail(w, "n%u opens its log: %s, verdict %u", n->id, vshard_strerror(rc), report.verdict);
    if (report.incarnation != n->incarnation || report.boot <= r->boot)
        fail(w, "n%u is incarnation %llu, boot %llu after %llu", n->id,
             (unsigned long long)report.incarnation, (unsigned long long)report.boot,
             (unsigned long long)r->boot);
    if (report.unsettled < (r->rotted | r->unsettled))
        fail(w, "n%u forgot that its log is unsettled", n->id);
    r->boot = report.boot;
    r->barrier = report.barrier;
    for (uint32_t g = 0; g < w->groups; g++) {
        struct disk_group was = n->disk[g];

        load_group(w, n, g);
        if (!report.unsettled)
            compare(w, n, g, &was);
        n->disk[g].uncertain = report.unsettled;
        model_clear(&was);
    }
    r->unsettled = report.unsettled;
    r->rotted = 0;
    for (uint32_t g = 0; g < w->groups; g++)
        all_lost |= lost(n, g);
    if (all_lost && report.unsettled) {
        w->wiped_node = n->id;
        store_wipe(w, n);
        real_open(w, n);
    }
}

/* ---- a node's life ---- */

static void real_new(struct world *w, struct node *n)
{
    n->real = calloc(1, sizeof *n->real);
    n->real->chance = w->seed ^ n->incarnation << 32;
    n->real->fs = fault_storage_create(random_next(&n->real->chance));
    fault_storage_mkdir(n->real->fs, "log");
    fault_storage_defer(n->real->fs, 1);
}

static void real_free(struct world *w, struct node *n)
{
    const char *wrong;

    if (n->real == NULL)
        return;
    vshard_wal_close(n->real->wal);
    wrong = fault_storage_verdict(n->real->fs);
    if (wrong != NULL)
        fail(w, "n%u uses its storage wrongly: %s", n->id, wrong);
    fault_storage_destroy(n->real->fs);
    free(n->real);
    n->real = NULL;
}

uint64_t store_open(struct world *w, struct node *n)
{
    n->asked = 0;
    if (n->real == NULL)
        real_new(w, n);
    real_open(w, n);
    return n->real->boot;
}

static void drop_writes(struct node *n)
{
    for (size_t i = 0; i < n->write_count; i++)
        write_free(&n->write[i]);
    n->write_count = 0;
}

/* The process is gone, and with it, most often, the power. */
void store_crash(struct node *n)
{
    static const uint32_t moods[] = {
        0, 0, FAULT_CRASH_EACH_NAME, FAULT_CRASH_GARBAGE, FAULT_CRASH_LOSE, FAULT_CRASH_KEEP
    };
    struct real *r = n->real;

    r->exact = n->write_count == 0;
    r->cuts = 0;
    for (size_t i = 0; i < n->write_count; i++)
        r->cuts |= n->write[i].cut != 0 || n->write[i].kind != WRITE_PERSIST;
    for (uint64_t i = random_below(&r->chance, 4); i > 0 && fault_storage_queued(r->fs); i--) {
        progress(r);
        vshard_wal_poll(r->wal, NULL);
    }
    store_room(n); /* somebody makes it, before it is started again */
    r->full = 0;
    power_cut(r, moods[random_below(&r->chance, 6)]);
    drop_writes(n);
}

/* A sync fails, the log is poisoned, and the process ends. The machine does not: what
 * is read afterwards may not be on the disk. */
void store_fail(struct world *w, struct node *n)
{
    struct real *r = n->real;
    int rc = VSHARD_OK;

    if (n->write_count == 0)
        return;
    fault_storage_rule(r->fs, &(struct fault_rule){ .k = 1, .ops = 1 << VSHARD_IO_SYNC });
    store_room(n);
    do {
        rc = vshard_wal_poll(r->wal, NULL);
        if (fault_storage_queued(r->fs) == 0)
            break;
        progress(r);
    } while (rc == VSHARD_OK || rc == VSHARD_ENOSPC);
    if (rc != VSHARD_OK && rc != VSHARD_EIO && rc != VSHARD_ENOSPC)
        fail(w, "n%u: a failed sync is %s", n->id, vshard_strerror(rc));
    fault_storage_heal(r->fs);
}

/* The disk of a node that is down is lost; another takes its place. */
void store_wipe(struct world *w, struct node *n)
{
    for (uint32_t g = 0; g < GROUPS_MAX; g++)
        model_clear(&n->disk[g]);
    real_free(w, n);
    n->incarnation += 100;
    real_new(w, n);
}

/* Rot in the last batch that is whole: storage will have its doubts. */
void store_lose_tail(struct world *w, struct node *n)
{
    struct vshard_wal_report report;
    struct real *r = n->real;
    char path[48];

    if (open_log(w, n, VSHARD_WAL_READ_ONLY, &report) != VSHARD_OK)
        fail(w, "n%u cannot look at its log", n->id);
    vshard_wal_close(r->wal);
    r->wal = NULL;
    if (report.records == 0)
        return;
    snprintf(path, sizeof path, "log/%016llx.wal", (unsigned long long)report.segment);
    fault_storage_flip(r->fs, path, report.offset * 8 - 1 - random_below(&r->chance, 4096));
    r->rotted = 1;
    for (uint32_t g = 0; g < w->groups; g++)
        n->disk[g].uncertain = 1;
}

void store_certain(struct world *w, struct node *n, uint32_t g)
{
    uint32_t doubts = 0;
    int rc;

    n->disk[g].uncertain = 0;
    for (uint32_t i = 0; i < w->groups; i++)
        doubts += n->disk[i].uncertain;
    if (doubts != 0)
        return;
    rc = vshard_wal_settle(n->real->wal);
    if (rc != VSHARD_OK)
        fail(w, "n%u cannot settle its log: %s", n->id, vshard_strerror(rc));
    n->real->unsettled = 0;
}

void store_free(struct world *w, struct node *n)
{
    drop_writes(n);
    free(n->write);
    for (uint32_t g = 0; g < GROUPS_MAX; g++)
        model_clear(&n->disk[g]);
    real_free(w, n);
}
