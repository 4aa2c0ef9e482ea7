/* filter_scan.c - looking at all rows that a filter allows, one after the other.
 *
 * Each is measured, or, of a graph, only those that their codes do not rule out: codes are
 * a quarter of the bytes, and how far they may be off is known (vs_key_limit). So what is
 * answered is what measuring all would, but for one row in some ten thousand. */
#include "index/state.h"

#include <math.h>

enum {
    GROUP = 64,     /* rows looked at at once */
    REQUESTED = 512 /* bytes of a row that are requested early */
};

/* A scan under way. */
struct scan {
    struct vshard_index *x;
    struct vs_walk *walk;
    struct vs_top *top;
    const struct vs_column *column; /* what is looked at first */
    bool exact;                     /* that is the vectors */
};

static void measure(struct scan *c, uint32_t count)
{
    struct vs_scratch *s = c->walk->scratch;

    if (count == 0)
        return;
    vs_distances(c->x, &c->walk->query, s, count);
    for (uint32_t i = 0; i < count; i++) {
        if (c->top->count == c->top->cap && s->distances[i] > c->top->items[0].distance)
            continue;
        vs_top_offer(c->top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                    vs_row_at(c->x, s->slots[i])->id });
    }
}

/* Leaves of the first `count` rows of the scratch those that, by their keys, may be among the
 * nearest. */
static uint32_t sieve(struct scan *c, uint32_t count)
{
    struct vs_scratch *s = c->walk->scratch;
    float limit = vs_key_limit(c->x, c->top->items[0].distance);
    uint32_t kept = 0;

    for (uint64_t near = c->x->kernel.select_keys(limit, s->keys, count); near; near &= near - 1)
        s->slots[kept++] = s->slots[__builtin_ctzll(near)];
    return kept;
}

/* Measures rows that codes were looked at of: their vectors are not there yet. */
static void fetch(struct scan *c, uint32_t count)
{
    vs_walk_request(vs_exact(c->x, c->walk->query.codes_only), c->walk->scratch, count);
    measure(c, count);
}

/* Takes the first rows: measures as many as there are to be answers, the nearest by their codes,
 * and of the others those that these do not rule out. */
static void begin(struct scan *c, uint32_t count)
{
    struct vs_scratch *s = c->walk->scratch;
    uint32_t slots[GROUP], left = 0;
    int32_t keys[GROUP];

    memcpy(slots, s->slots, count * sizeof *slots);
    memcpy(keys, s->keys, count * sizeof *keys);
    s->pool.count = s->pool.next = 0;
    s->pool.cap = c->top->cap;
    c->x->kernel.pool_push(&s->pool, keys, slots, count);
    memcpy(s->slots, s->pool.slots, s->pool.count * sizeof *slots);
    fetch(c, s->pool.count);
    for (uint32_t i = 0; i < count; i++) {
        if (vs_contains(s->pool.slots, s->pool.count, slots[i]))
            continue;
        s->slots[left] = slots[i];
        s->keys[left++] = keys[i];
    }
    if (left > 0)
        fetch(c, sieve(c, left));
}

/* Takes the first `count` rows of the scratch, which were requested. False if a limit ends the
 * scan. */
static bool take(struct scan *c, uint32_t count)
{
    struct vs_walk *w = c->walk;
    struct vs_scratch *s = w->scratch;

    if (c->exact) {
        measure(c, count);
    } else {
        vs_keys(c->x, &w->query, s->rows, count, s->keys);
        s->distance_count += count;
        if (c->top->count == 0)
            begin(c, count);
        else
            fetch(c, c->top->count == c->top->cap ? sieve(c, count) : count);
    }
    s->row_count += count;
    w->cut = w->limits && vs_limits_cut(w->limits, s->distance_count - w->counted, count);
    return !w->cut;
}

/* Requests rows, and notes where they are. */
static int request(const struct scan *c, const uint32_t *slots, uint32_t count, const void **rows)
{
    const struct vs_extents extents = vs_column_extents(c->column);

    for (uint32_t i = 0; i < count; i++) {
        const char *row = vs_extents_at(&extents, slots[i]);
        int rc = vs_touch(c->x, slots[i]);

        if (rc < 0)
            return rc;
        for (size_t at = 0; at < extents.stride && at < REQUESTED; at += 64)
            __builtin_prefetch(row + at, 0, 2);
        rows[i] = row;
    }
    return VSHARD_OK;
}

/* Each group is on its way while the one before it is looked at. */
static int scan_listed(struct scan *c)
{
    const struct vs_filter *f = c->walk->filter;
    struct vs_scratch *s = c->walk->scratch;
    uint32_t count = f->listed_count < GROUP ? f->listed_count : GROUP;
    const void *rows[GROUP];
    int rc = request(c, f->listed, count, rows);

    for (uint32_t first = 0; rc == VSHARD_OK && count > 0;) {
        uint32_t left = f->listed_count - first - count, after = left < GROUP ? left : GROUP;

        memcpy(s->slots, f->listed + first, count * sizeof *s->slots);
        memcpy(s->rows, rows, count * sizeof *s->rows);
        first += count;
        rc = request(c, f->listed + first, after, rows);
        if (!take(c, count))
            break;
        count = after;
    }
    return rc;
}

/* Takes rows of a word, from `first` on, that may be answered: 64 at once, the rest when
 * there are as many. False if a limit ends it. */
static bool scan_word(struct scan *c, uint32_t first, uint64_t word, uint32_t *gathered)
{
    struct vs_filter *f = c->walk->filter;
    struct vs_walk *w = c->walk;
    struct vs_scratch *s = w->scratch;
    uint32_t passed_over = 0;

    for (; word != 0; word &= word - 1) {
        uint32_t slot = first + (uint32_t)__builtin_ctzll(word);

        if (!vs_row_visible(c->x, slot, s->position) ||
            (f != NULL && f->marks == NULL && !vs_filter_asks(c->x, f, slot))) {
            passed_over++;
            continue;
        }
        s->slots[(*gathered)++] = slot;
        if (*gathered < GROUP)
            continue;
        *gathered = 0;
        vs_walk_request(c->column, s, GROUP);
        if (!take(c, GROUP))
            return false;
    }
    if (passed_over > 0 && w->limits) /* to ask takes time, too */
        w->cut = vs_limits_cut(w->limits, s->distance_count - w->counted, passed_over);
    return !w->cut;
}

static int scan_rows(struct scan *c)
{
    uint32_t slots = atomic_load_explicit(&c->x->slot_count, memory_order_acquire), gathered = 0;

    for (uint32_t first = 0; first < slots; first += VS_EXTENT_ROWS) {
        uint64_t words[WHERE_WORDS];
        int rc = vs_touch(c->x, first);

        if (rc < 0)
            return rc;
        vs_filter_rows(c->x, c->walk->filter, slots, first / VS_EXTENT_ROWS, words);
        for (uint32_t i = 0; i < WHERE_WORDS; i++) {
            if (!scan_word(c, first + 64 * i, words[i], &gathered))
                return VSHARD_OK;
        }
    }
    vs_walk_request(c->column, c->walk->scratch, gathered);
    take(c, gathered);
    return VSHARD_OK;
}

/* Offers all allowed rows, until a limit ends it: measured if `exact`, or if codes are no help. */
int vs_filter_scan(struct vshard_index *x, struct vs_walk *w, struct vs_top *top, bool exact)
{
    struct scan c = { .x = x, .walk = w, .top = top };

    c.exact = exact || vs_elements_are_codes(x) || isinf(vs_key_limit(x, 0));
    c.column = c.exact ? vs_exact(x, w->query.codes_only) : x->traversal;
    return w->filter != NULL && w->filter->listed != NULL ? scan_listed(&c) : scan_rows(&c);
}
