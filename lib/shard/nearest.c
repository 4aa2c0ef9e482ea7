/* nearest.c - searches: in a shard, and in its tail.
 *
 * Beside steps of apply. A search takes no note of steps that come while it runs, but what it
 * finds has to be looked up afterwards: a row that has meanwhile been given to another
 * key was born by a later step than those that were complete when the search began, and
 * is left out. A row that was replaced meanwhile is answered with the old distance or the
 * new, and because of its old values or the new, whichever the index saw.
 *
 * With a tail. The tail is searched and looked up first, then what is below: a row that moves
 * from one to the other meanwhile is found once at least. A row from below is passed over
 * if the tail had another for its key when the search began, or if the key has been found
 * in the tail already. Then fewer may be left than were asked for, and more are asked for
 * below, unless those that are there are nearer than anything below can be. Where as many as
 * may be asked for are not enough, those that are passed over are first told apart. */
#include "shard/keymap.h"

#include <math.h>

/* One search. */
struct hunt {
    struct vs_shard *s, *tail; /* tail: NULL if nothing is in it */
    const struct vs_shard_query *q;
    struct vs_shard_answer *answer;
    const struct vshard_allocator *allocator;
    struct vshard_merge_hit *fresh; /* [fresh_count] of the tail */
    struct vs_keymap mine;          /* their keys */
    uint32_t fresh_count;
    uint32_t cut;    /* VSHARD_LIMIT_* that cut the last search of an index */
    uint64_t *open;  /* bits of the rows below that nothing hides; NULL: all are asked for */
    uint64_t rows;   /* bits */
    uint64_t staged; /* entries that the tail reflected when this began */
    uint64_t step;   /* and steps that were complete when what is below was searched */
};

static bool bounded(float bound)
{
    return bound < (float)INFINITY;
}

static int ask(struct hunt *h, struct vshard_index *index, uint32_t k, struct vshard_hit *found)
{
    const struct vs_shard_query *q = h->q;
    bool walks = index == h->s->index; /* a tail is scanned, whatever the effort */
    bool some = walks && h->open != NULL;
    const struct vshard_filter filter = { .size = sizeof filter,
                                          .kind = some ? VSHARD_FILTER_BITS : VSHARD_FILTER_WHERE,
                                          .count = some ? h->rows : 0,
                                          .bits = some ? h->open : NULL,
                                          .where = q->where,
                                          .where_bytes = q->where_bytes };
    struct vshard_search_info info = { .size = sizeof info };
    const struct vshard_search_options o = {
        .size = sizeof o,
        .ef_search = walks && q->target_recall <= 0 ? q->ef : 0,
        .target_recall = walks ? q->target_recall : 0,
        .flags = (q->exact ? VSHARD_SEARCH_EXACT : 0u) |
                 (bounded(q->bound) ? (uint32_t)VSHARD_SEARCH_WITHIN : 0u),
        .info = &info,
        .filter = q->where != NULL || some ? &filter : NULL,
        .clock = q->deadline_ns != 0 ? q->clock : NULL,
        .deadline_ns = q->clock != NULL ? q->deadline_ns : 0,
        .cancel = q->cancel,
        .distance_max = bounded(q->bound) ? q->bound : 0
    };
    int rc = vshard_index_search(index, q->vector, 1, k, found, &o);

    h->cut = info.limits;
    h->answer->limits |= info.limits;
    h->answer->distances += info.distances;
    return rc;
}

/* Whether the tail has something under a key, and had when this search began. */
static bool hidden(const struct hunt *h, struct vshard_key key)
{
    const struct vs_row *r;
    uint32_t row;

    if (h->tail == NULL || TRAP(73))
        return false;
    if (h->fresh_count != 0 && vs_keymap_find(&h->mine, key) != VS_NO_ROW)
        return true;
    row = vs_keymap_find(&h->tail->map, key);
    r = row != VS_NO_ROW ? &h->tail->map.row[row] : NULL;
    return r != NULL && r->state != VS_ROW_LEAVING && r->born <= h->staged;
}

/* Rows become keys, unless they are not what they were when the search began. */
static uint32_t look_up(const struct hunt *h, struct vs_shard *s, uint64_t since,
                        const struct vshard_hit *found, uint32_t k, struct vshard_merge_hit *hits)
{
    bool covered = s == h->s && h->tail != NULL;
    uint32_t count = 0;

    if (covered) /* the tail's before that of the shard: who stages takes both, too */
        vs_guard_read(&h->tail->guard);
    vs_guard_read(&s->guard);
    for (uint32_t i = 0; i < k && found[i].id != VSHARD_ID_NONE; i++) {
        /* A tail may have begun anew. */
        const struct vs_row *r = found[i].id < s->map.count ? &s->map.row[found[i].id] : NULL;

        if (r != NULL && r->state == VS_ROW_LIVE && r->born <= since &&
            !(covered && hidden(h, r->key)))
            hits[count++] = (struct vshard_merge_hit){ r->key, r->version, found[i].distance, 0 };
    }
    vs_guard_read_end(&s->guard);
    if (covered)
        vs_guard_read_end(&h->tail->guard);
    return count;
}

/* Room for k hits of an index, and for k rows. */
struct room {
    struct vshard_hit *found;
    struct vshard_merge_hit *rows;
    uint32_t k, count;
};

static void room_free(const struct hunt *h, struct room *m)
{
    vs_free(h->allocator, m->rows, m->k * sizeof *m->rows);
    vs_free(h->allocator, m->found, m->k * sizeof *m->found);
    *m = (struct room){ .k = 0 };
}

static int room_make(const struct hunt *h, struct room *m, uint32_t k)
{
    *m = (struct room){ .k = k };
    m->found = vs_alloc(h->allocator, k * sizeof *m->found);
    m->rows = vs_alloc(h->allocator, k * sizeof *m->rows);
    return m->found != NULL && m->rows != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int search_once(struct hunt *h, struct vs_shard *s, uint32_t k, struct room *m)
{
    uint64_t since = s == h->s ? atomic_load(&s->step) : h->staged;
    int rc = room_make(h, m, k);

    if (rc == VSHARD_OK)
        rc = ask(h, s->index, k, m->found);
    if (rc == VSHARD_OK)
        m->count = look_up(h, s, since, m->found, k, m->rows);
    return rc;
}

static bool full(const struct room *m)
{
    return m->found[m->k - 1].id != VSHARD_ID_NONE;
}

static uint32_t more_than(uint32_t k)
{
    return k < VSHARD_K_MAX / 2 ? 2 * k : VSHARD_K_MAX;
}

static int search_tail(struct hunt *h)
{
    struct room m;
    int rc = search_once(h, h->tail, h->q->k, &m);

    /* Some have just left. */
    while (rc == VSHARD_OK && m.count < h->q->k && full(&m) && m.k < VSHARD_K_MAX) {
        uint32_t k = more_than(m.k);

        room_free(h, &m);
        rc = search_once(h, h->tail, k, &m);
    }
    h->fresh_count = rc != VSHARD_OK ? 0 : m.count < h->q->k ? m.count : h->q->k;
    if (h->fresh_count != 0) {
        h->fresh = vs_alloc(h->allocator, h->q->k * sizeof *h->fresh);
        rc = h->fresh != NULL ? vs_keymap_reserve(&h->mine, h->fresh_count) : VSHARD_ENOMEM;
    }
    for (uint32_t i = 0; rc == VSHARD_OK && i < h->fresh_count; i++) {
        h->fresh[i] = m.rows[i];
        vs_keymap_place(&h->mine, m.rows[i].key);
    }
    room_free(h, &m);
    return rc;
}

/* The nearest of both. */
static uint32_t join(const struct hunt *h, const struct room *m, struct vshard_merge_hit *hits)
{
    uint32_t i = 0, j = 0, count = 0;

    while (count < h->q->k && (i < m->count || j < h->fresh_count)) {
        bool below =
            j == h->fresh_count || (i < m->count && m->rows[i].distance <= h->fresh[j].distance);

        hits[count++] = below ? m->rows[i++] : h->fresh[j++];
    }
    return count;
}

static void close_row(struct hunt *h, struct vshard_key key)
{
    uint32_t row = hidden(h, key) ? vs_keymap_find(&h->s->map, key) : VS_NO_ROW;

    if (row != VS_NO_ROW && row < h->rows)
        h->open[row / 64] &= ~(1ull << row % 64);
}

static size_t open_bytes(const struct hunt *h)
{
    return (size_t)(h->rows / 64 + 1) * sizeof *h->open;
}

/* From here on only rows that nothing hides are asked for below. */
static int tell_apart(struct hunt *h)
{
    const struct vs_keymap *tail = &h->tail->map;

    vs_guard_read(&h->s->guard);
    h->rows = h->s->map.count;
    vs_guard_read_end(&h->s->guard);
    h->open = vs_alloc(h->allocator, open_bytes(h));
    if (h->open == NULL)
        return VSHARD_ENOMEM;
    memset(h->open, 0xff, open_bytes(h));
    vs_guard_read(&h->tail->guard);
    vs_guard_read(&h->s->guard);
    for (uint32_t i = 0; i < tail->count; i++) {
        if (tail->row[i].state != VS_ROW_FREE)
            close_row(h, tail->row[i].key);
    }
    for (uint32_t i = 0; i < h->fresh_count; i++)
        close_row(h, h->fresh[i].key);
    vs_guard_read_end(&h->s->guard);
    vs_guard_read_end(&h->tail->guard);
    return VSHARD_OK;
}

/* Whether there may be rows below that belong to the answer, and were not asked for: they are
 * no nearer than the last that was. */
static bool wants_more(const struct hunt *h, const struct room *m, uint32_t count,
                       const struct vshard_merge_hit *hits)
{
    return h->tail != NULL && h->open == NULL && m->count < m->k && full(m) &&
           !(count == h->q->k && hits[count - 1].distance <= m->found[m->k - 1].distance);
}

/* What has been found is not given up for what is found in too little time. */
static int search_below(struct hunt *h, struct vshard_merge_hit *hits)
{
    uint32_t k = h->q->k;
    bool more = true, again = false;
    int rc = VSHARD_OK;

    while (rc == VSHARD_OK && more) {
        struct room m;

        rc = search_once(h, h->s, k, &m);
        more = rc == VSHARD_OK && !(again && h->cut != 0);
        if (more) {
            h->answer->found = join(h, &m, hits);
            more = wants_more(h, &m, h->answer->found, hits);
        }
        room_free(h, &m);
        again = true;
        if (more && k == VSHARD_K_MAX) {
            rc = tell_apart(h);
            k = h->q->k;
        } else {
            k = more_than(k);
        }
    }
    return rc;
}

int vs_shard_search(struct vs_shard *s, const struct vs_shard_query *q,
                    struct vshard_merge_hit *hits, struct vs_shard_answer *answer)
{
    struct hunt h = {
        .s = s, .q = q, .answer = answer, .allocator = s->plan.allocator, .tail = s->tail
    };
    uint32_t phase = s->tail != NULL ? vs_tail_enter(s->tail) : 0;
    int rc = VSHARD_OK;

    *answer = (struct vs_shard_answer){ .rows = vs_shard_rows(s) };
    vs_keymap_init(&h.mine, h.allocator, s->plan.seed);
    h.staged = s->tail != NULL ? atomic_load(&s->tail->applied) : 0;
    answer->position = atomic_load(&s->applied);
    answer->position = h.staged > answer->position ? h.staged : answer->position;
    if (h.tail != NULL && (atomic_load(&h.tail->kept) == 0 || TRAP(75)))
        h.tail = NULL;
    if (h.tail != NULL)
        rc = search_tail(&h);
    if (rc == VSHARD_OK)
        rc = search_below(&h, hits);
    if (s->tail != NULL)
        vs_tail_leave(s->tail, phase);
    vs_keymap_fini(&h.mine);
    vs_free(h.allocator, h.fresh, q->k * sizeof *h.fresh);
    vs_free(h.allocator, h.open, open_bytes(&h));
    return rc;
}
