/* replay.c - entries by group, and the whole log in order. Blocks. */
#include "wal/log.h"

struct walk {
    struct vs_wal_reader reader;
    struct vshard_wal *w;
    const struct vshard_wal_visitor *visitor;
    const struct vs_wal_group *group; /* of the record before: records come in rows */
    const struct vs_wal_run *run;     /* of that record, too */
    uint32_t *again;                  /* of each record of a batch, see find_repeated() */
    size_t again_bytes;
    uint64_t done, total;
    uint32_t dead_too;
    uint32_t ended; /* by the visitor */
};

static struct vshard_wal_record shown(const struct vs_wal_record *r)
{
    return (struct vshard_wal_record){ .group = r->group,
                                       .index = r->index,
                                       .term = r->term,
                                       .kind = r->kind,
                                       .payload_bytes = r->bytes,
                                       .payload = r->bytes > 0 ? r->payload : NULL };
}

static int open_segment(struct vs_wal_reader *r, struct vshard_wal *w,
                        const struct vs_wal_segment *s)
{
    int rc;

    if (r->open && r->segment == s->id)
        return VSHARD_OK;
    vs_wal_reader_close(r);
    rc = vs_wal_reader_open(r, w, s->id);
    r->key = s->key;
    return rc;
}

/* ---- one run ---- */

static int show(struct vs_wal_visit *v, const struct vs_wal_record *r, const struct vs_wal_found *f,
                const struct vs_wal_run *run)
{
    const struct vshard_wal_place place = { f->head.seq, run->segment,
                                            (uint64_t)run->sector * VS_WAL_SECTOR, 1, 0 };
    const struct vshard_wal_record record = shown(r);

    v->ended = v->visitor->visit(v->visitor->ctx, &record, &place) != 0;
    return VSHARD_OK;
}

static bool in_run(const struct vs_wal_visit *v, const struct vs_wal_run *run,
                   const struct vs_wal_record *r)
{
    return r->kind == VSHARD_WAL_ENTRY && r->group == v->group->id && r->index >= run->first &&
           r->index - run->first < run->count && r->index >= v->from;
}

/* The batch holds indexes twice: the last of each is meant. */
static int show_last(struct vs_wal_visit *v, const struct vs_wal_found *f,
                     const struct vs_wal_run *run)
{
    const struct vshard_allocator *a = v->reader.wal->allocator;
    size_t bytes = run->count * sizeof(uint32_t);
    uint32_t *last = vs_alloc_zeroed(a, bytes); /* 1 + where it begins */
    struct vs_wal_record r;
    int rc = last != NULL ? VSHARD_OK : VSHARD_ENOMEM;

    for (size_t at = 0, next = 0; rc == VSHARD_OK && at < f->head.raw; at = next) {
        rc = vs_wal_record_read(f->body, f->head.raw, &next, &r);
        if (rc == VSHARD_OK && in_run(v, run, &r))
            last[r.index - run->first] = (uint32_t)at + 1;
    }
    for (uint32_t i = 0; i < run->count && rc == VSHARD_OK && !v->ended; i++) {
        size_t at = last[i] - 1u;

        if (last[i] == 0)
            continue;
        rc = vs_wal_record_read(f->body, f->head.raw, &at, &r);
        if (rc == VSHARD_OK)
            rc = show(v, &r, f, run);
    }
    vs_free(a, last, bytes);
    return rc;
}

int vs_wal_run_visit(struct vs_wal_visit *v, const struct vs_wal_run *run)
{
    struct vshard_wal *w = v->reader.wal;
    struct vs_wal_found f;
    struct vs_wal_record r;
    int rc = open_segment(&v->reader, w, vs_wal_segment_find(&w->index, run->segment));

    if (rc == VSHARD_OK)
        rc = vs_wal_reader_batch(&v->reader, (uint64_t)run->sector * VS_WAL_SECTOR, NULL, &f);
    /* A read that went astray may bring another batch, whole and of no use here. */
    if (rc == VSHARD_OK && f.head.seq != run->seq)
        rc = VSHARD_ECORRUPT;
    if (rc != VSHARD_OK)
        return rc == 1 ? VSHARD_ECORRUPT : rc;
    if (run->repeated)
        return show_last(v, &f, run);
    for (size_t at = 0; at < f.head.raw && !v->ended;) {
        rc = vs_wal_record_read(f.body, f.head.raw, &at, &r);
        if (rc == VSHARD_OK && in_run(v, run, &r))
            rc = show(v, &r, &f, run);
        if (rc < 0)
            return rc;
    }
    return VSHARD_OK;
}

int vshard_wal_read(struct vshard_wal *wal, uint64_t group, uint64_t first,
                    const struct vshard_wal_visitor *visitor)
{
    struct vs_wal_visit v = { .reader = { .wal = wal }, .from = first, .visitor = visitor };
    int rc = VSHARD_OK;

    if (wal == NULL || visitor == NULL || visitor->visit == NULL)
        return VSHARD_EINVAL;
    v.group = vs_wal_group_find(&wal->index, group);
    if (v.group == NULL || !vs_wal_group_held(v.group) || first < vs_wal_group_first(v.group))
        return VSHARD_ENOTFOUND;
    for (uint32_t i = 0; i < v.group->run_count && rc == VSHARD_OK && !v.ended; i++) {
        const struct vs_wal_run *run = &v.group->runs[v.group->run_from + i];

        if (run->first + run->count > first)
            rc = vs_wal_run_visit(&v, run);
    }
    vs_wal_reader_fini(&v.reader);
    return rc;
}

/* ---- the whole log ---- */

/* Says of each record of a batch if the rest of it holds that entry again, or one before it,
 * which took it away: of what lives in this batch that comes to the same. */
static int find_repeated(struct walk *k, const struct vs_wal_found *f)
{
    size_t bytes = f->head.records * sizeof *k->again;
    struct vs_wal_record r;
    struct vs_wal_group *g;
    uint32_t count = 0;

    vs_free(k->w->allocator, k->again, k->again_bytes);
    k->again = vs_alloc(k->w->allocator, bytes);
    k->again_bytes = k->again != NULL ? bytes : 0;
    if (k->again == NULL)
        return VSHARD_ENOMEM;
    for (size_t at = 0; at < f->head.raw; count++) {
        if (count == f->head.records)
            return VSHARD_ECORRUPT;
        k->again[count] = (uint32_t)at;
        if (vs_wal_record_read(f->body, f->head.raw, &at, &r) != VSHARD_OK)
            return VSHARD_ECORRUPT;
        g = vs_wal_group_find(&k->w->index, r.group);
        if (g != NULL)
            g->lowest = UINT64_MAX;
    }
    while (count-- > 0) { /* from the end on: the lowest index that comes later */
        size_t at = k->again[count];

        vs_wal_record_read(f->body, f->head.raw, &at, &r);
        g = vs_wal_group_find(&k->w->index, r.group);
        k->again[count] = g != NULL && r.index >= g->lowest;
        if (g != NULL && r.kind == VSHARD_WAL_ENTRY && r.index < g->lowest)
            g->lowest = r.index;
    }
    return VSHARD_OK;
}

/* Whether an entry stands where it lives; in a batch that holds it twice, perhaps. */
static bool entry_lives(struct walk *k, const struct vs_wal_record *r,
                        const struct vs_wal_where *where)
{
    if (k->group == NULL || k->group->id != r->group) {
        k->group = vs_wal_group_find(&k->w->index, r->group);
        k->run = NULL;
    }
    if (k->group == NULL)
        return false;
    if (k->run == NULL || r->index < k->run->first || r->index - k->run->first >= k->run->count)
        k->run = vs_wal_run_find(k->group, r->index);
    return k->run != NULL && k->run->segment == where->segment && k->run->sector == where->sector;
}

/* Other records live while they are the group's newest: tools want to know. */
static bool state_lives(const struct walk *k, const struct vs_wal_record *r,
                        const struct vs_wal_where *where)
{
    static const int refs[] = { [VSHARD_WAL_VOTE] = 1 + VS_WAL_REF_VOTE,
                                [VSHARD_WAL_COMMIT] = 1 + VS_WAL_REF_COMMIT,
                                [VSHARD_WAL_MARK] = 1 + VS_WAL_REF_MARK,
                                [VSHARD_WAL_NOTE] = 1 + VS_WAL_REF_NOTE,
                                [VSHARD_WAL_RESET] = 0 };
    const struct vs_wal_group *g = vs_wal_group_find(&k->w->index, r->group);

    return g != NULL && refs[r->kind] != 0 && g->ref[refs[r->kind] - 1] == where->segment;
}

static int walk_batch(struct walk *k, const struct vs_wal_found *f,
                      const struct vs_wal_where *where)
{
    struct vshard_wal_place place = { f->head.seq, where->segment,
                                      (uint64_t)where->sector * VS_WAL_SECTOR, 0, 0 };
    struct vs_wal_record r;
    uint32_t nth = 0;
    bool known = false;

    for (size_t at = 0; at < f->head.raw && !k->ended; nth++) {
        struct vshard_wal_record record;
        int rc = vs_wal_record_read(f->body, f->head.raw, &at, &r);

        if (rc < 0)
            return rc;
        place.live = r.kind == VSHARD_WAL_ENTRY ? entry_lives(k, &r, where)
                                                : k->dead_too && state_lives(k, &r, where);
        if (place.live && r.kind == VSHARD_WAL_ENTRY && k->run->repeated) {
            rc = known ? VSHARD_OK : find_repeated(k, f);
            if (rc < 0)
                return rc;
            known = true;
            place.live = !k->again[nth];
        }
        if (!k->dead_too && !place.live)
            continue;
        record = shown(&r);
        k->ended = k->visitor->visit(k->visitor->ctx, &record, &place) != 0;
    }
    return VSHARD_OK;
}

static int walk_segment(struct walk *k, const struct vs_wal_segment *s)
{
    const struct vshard_wal_hooks *h = &k->w->hooks;
    struct vs_wal_point at = s->before;
    struct vs_wal_found f;
    int rc = open_segment(&k->reader, k->w, s);

    for (uint64_t offset = VS_WAL_START; rc == VSHARD_OK && offset < s->end && !k->ended;) {
        const struct vs_wal_where where = { s->id, at.seq + 1, (uint32_t)(offset / VS_WAL_SECTOR) };

        rc = vs_wal_reader_batch(&k->reader, offset, &at, &f);
        if (rc == VSHARD_OK)
            rc = walk_batch(k, &f, &where);
        if (rc != VSHARD_OK)
            return rc == 1 ? VSHARD_ECORRUPT : rc;
        offset += f.sectors * VS_WAL_SECTOR;
        at.seq = f.head.seq;
        at.digest = f.digest;
        k->done += f.sectors * VS_WAL_SECTOR;
        if (h->progress != NULL && h->progress(h->ctx, k->done, k->total) != 0)
            return VSHARD_ECANCELED;
    }
    return rc;
}

static int walk(struct vshard_wal *w, const struct vshard_wal_visitor *visitor, uint32_t dead_too)
{
    struct walk k = { .reader = { .wal = w }, .w = w, .visitor = visitor, .dead_too = dead_too };
    int rc = VSHARD_OK;

    if (w == NULL || visitor == NULL || visitor->visit == NULL)
        return VSHARD_EINVAL;
    for (size_t i = 0; i < w->index.segment_count; i++)
        k.total += w->index.segments[i].end - VS_WAL_START;
    for (size_t i = 0; i < w->index.segment_count && rc == VSHARD_OK && !k.ended; i++)
        rc = walk_segment(&k, &w->index.segments[i]);
    vs_free(w->allocator, k.again, k.again_bytes);
    vs_wal_reader_fini(&k.reader);
    return rc;
}

int vshard_wal_replay(struct vshard_wal *wal, const struct vshard_wal_visitor *visitor)
{
    return walk(wal, visitor, 0);
}

int vshard_wal_scan(struct vshard_wal *wal, const struct vshard_wal_visitor *visitor)
{
    return walk(wal, visitor, 1);
}

/* ---- groups ---- */

int vshard_wal_groups(struct vshard_wal *wal, uint64_t first, uint64_t *ids, size_t cap,
                      size_t *count)
{
    size_t n = 0;

    if (wal == NULL || count == NULL || (ids == NULL && cap > 0))
        return VSHARD_EINVAL;
    vs_wal_index_sort(&wal->index);
    for (size_t i = 0; i < wal->index.group_count && n < cap; i++) {
        const struct vs_wal_group *g = wal->index.groups[i];

        if (g->id >= first && vs_wal_group_held(g))
            ids[n++] = g->id;
    }
    *count = n;
    return VSHARD_OK;
}

int vshard_wal_find(struct vshard_wal *wal, uint64_t group, struct vshard_wal_group *about)
{
    const struct vs_wal_group *g = wal ? vs_wal_group_find(&wal->index, group) : NULL;
    struct vshard_wal_group a = { 0 };

    if (wal == NULL || about == NULL)
        return VSHARD_EINVAL;
    if (g == NULL || !vs_wal_group_held(g))
        return VSHARD_ENOTFOUND;
    a.voted = g->ref[VS_WAL_REF_VOTE] != 0;
    a.vote_term = g->vote_term;
    a.vote = g->vote;
    a.commit = g->commit;
    a.mark_index = g->mark_index;
    a.mark_term = g->mark_term;
    a.first = vs_wal_group_first(g);
    a.last = vs_wal_group_last(g);
    a.last_term = vs_wal_group_last_term(g);
    a.bytes = g->bytes;
    a.segment = vs_wal_group_oldest(g);
    a.mark_bytes = g->mark ? g->mark->bytes : 0;
    a.note_bytes = g->note ? g->note->bytes : 0;
    a.mark = g->mark ? g->mark->data : NULL;
    a.note = g->note ? g->note->data : NULL;
    return vs_report_write(about, &a, sizeof a, VS_SIZE_THROUGH(struct vshard_wal_group, note));
}
