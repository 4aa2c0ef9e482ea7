/* graph_leaves.c - which of many rows are near each other, in blocks that fit the cache
 * (after PiPNN, Rubel et al. 2026, and ball carving).
 *
 *   1. Leaders are drawn, one row in VS_LEADER_SHARE. Each row goes to the leaves of the
 *      VS_LEAF_FANOUT leaders that are nearest to it. A leaf with too many is split again.
 *      New rows are laid in the order of their nearest leaders: walks then find more of what they
 *      read next in a page, and in a cache, that they have met (after Coleman et al. 2021).
 *   2. In each leaf each row finds its VS_LEAF_KEEP nearest by comparing all with all: the
 *      leaf's codes lie side by side in the cache, and squared distances come from
 *      tiles of products (tile.c).
 *
 * Equal rows fill each other's lists of the nearest. Of these each takes the few that
 * follow it in the leaf, in a ring, so that none is without an edge in. */
#include "index/bulk.h"

enum {
    SPLIT_MAX = 64,  /* leaves that a large one is split into, */
    SPLIT_DEPTH = 4, /* so often: then it is cut where its order says */
    FANOUT_MIN = 3
};

/* ---- squared distances by tiles ---- */

static bool has_tiles(const struct vshard_index *x)
{
    return x->space == SPACE_CODE_L2 || x->space == SPACE_CODE_DOT || x->space == SPACE_U8_L2 ||
           x->space == SPACE_I8_L2;
}

static size_t tile_dim(const struct vshard_index *x)
{
    return vs_elements_are_codes(x) ? x->dim : x->quantizer.code_bytes;
}

/* What a row adds to |a|^2 + |b|^2 - 2ab. A tile wants one side signed and the other not,
 * so bytes of one sign are moved by 128 on one side, and this takes that off again. `zeros`
 * has room for a row. */
static void find_norms(const struct vshard_index *x, int8_t *zeros, const void *const *rows,
                       uint32_t count, int32_t *asked, int32_t *met)
{
    size_t dim = tile_dim(x);

    if (x->space == SPACE_CODE_DOT) {
        memset(asked, 0, count * sizeof *asked);
        memset(met, 0, count * sizeof *met);
        return;
    }
    if (x->space == SPACE_CODE_L2) {
        memset(zeros, 0, dim);
        x->kernel.l2sq_code_many((const uint8_t *)zeros, rows, count, dim, asked);
        memcpy(met, asked, count * sizeof *met);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *row = rows[i];
        uint32_t square = 0;
        int32_t sum = 0;

        for (size_t j = 0; j < dim; j++) {
            int32_t v = x->space == SPACE_I8_L2 ? (int8_t)row[j] : row[j];

            square += (uint32_t)(v * v);
            sum += v;
        }
        asked[i] = (int32_t)(square + (x->space == SPACE_I8_L2 ? 256u * (uint32_t)sum : 0));
        met[i] = (int32_t)(square - (x->space == SPACE_U8_L2 ? 256u * (uint32_t)sum : 0));
    }
}

static size_t tile_bytes(const struct vshard_index *x)
{
    return (tile_dim(x) + 3) / 4 * 4;
}

static void pack_rows(const struct vshard_index *x, const void *const *rows, uint32_t count,
                      unsigned char *panels)
{
    uint8_t flip = x->space == SPACE_I8_L2 ? 128 : 0;

    for (uint32_t first = 0; first < count; first += VS_PANEL_ROWS) {
        const void *some[VS_PANEL_ROWS];

        for (uint32_t i = 0; i < VS_PANEL_ROWS; i++) /* the last panel may repeat a row */
            some[i] = rows[first + i < count ? first + i : first];
        x->kernel.panel_pack(some, tile_dim(x), flip, panels + first * tile_bytes(x));
    }
}

static void ask_rows(const struct vshard_index *x, const void *const *rows, uint32_t few,
                     int8_t *asked)
{
    size_t dim = tile_dim(x), bytes = tile_bytes(x);
    uint8_t flip = x->space == SPACE_U8_L2 ? 128 : 0;

    memset(asked, 0, few * bytes);
    for (uint32_t i = 0; i < few; i++) {
        if (x->space == SPACE_CODE_DOT)
            vs_encode_dot_row(x, rows[i], asked + i * bytes);
        for (size_t j = 0; x->space != SPACE_CODE_DOT && j < dim; j++)
            asked[i * bytes + j] = (int8_t)(((const uint8_t *)rows[i])[j] ^ flip);
    }
}

/* Distances from few rows to `count`, of which panels and norms are given. Those of one
 * of the few are `pitch` after those of the one before. */
static void tile_keys(const struct vshard_index *x, const int8_t *asked, const int32_t *own,
                      uint32_t few, const unsigned char *panels, const int32_t *met, uint32_t count,
                      size_t pitch, int32_t *keys)
{
    size_t bytes = tile_bytes(x);
    int32_t products[VS_LEAF_TILE * VS_PANEL_ROWS];

    for (uint32_t at = 0; at < count; at += VS_PANEL_ROWS) {
        uint32_t width = count - at < VS_PANEL_ROWS ? count - at : VS_PANEL_ROWS;

        x->kernel.panel_dot(asked, few, bytes / 4, panels + at * bytes, products);
        for (uint32_t i = 0; i < few; i++) {
            const int32_t *p = products + i * VS_PANEL_ROWS;
            int32_t *out = keys + i * pitch + at;

            for (uint32_t j = 0; j < width; j++)
                out[j] = (int32_t)((uint32_t)own[i] + (uint32_t)met[at + j] - 2u * (uint32_t)p[j]);
        }
    }
}

/* ---- 1: leaves ---- */

/* Drawn by hash of the place, so that no order of the rows is special. */
static void draw_leaders(const struct vshard_index *x, struct vs_bulk *b)
{
    uint64_t limit = UINT64_MAX / VS_LEADER_SHARE;

    b->leader_count = 0;
    for (uint32_t row = 0; row < b->count && b->leader_count < b->leader_cap; row++) {
        if (row > 0 && vs_mix64(row ^ x->seed) > limit)
            continue;
        b->rows[b->leader_count] = b->codes + b->leader_count * b->stride;
        memcpy(b->codes + b->leader_count * b->stride, vs_bulk_code(x, b, row),
               x->traversal->stride);
        b->leader_count++;
    }
    if (has_tiles(x)) {
        find_norms(x, b->strands[0].asked, b->rows, b->leader_count, b->norms,
                   b->norms + b->leader_cap);
        pack_rows(x, b->rows, b->leader_count, b->panels);
    }
}

/* Keys of VS_LEAF_TILE rows from some leaders. */
static void leader_keys(const struct vshard_index *x, const struct vs_bulk *b,
                        struct vs_bulk_strand *t, const void *const *rows, const int32_t *own,
                        uint32_t few, uint32_t first, uint32_t count)
{
    if (has_tiles(x)) {
        tile_keys(x, t->asked, own, few, b->panels + first * tile_bytes(x),
                  b->norms + b->leader_cap + first, count, VS_LEAF_MAX, t->keys);
        return;
    }
    for (uint32_t i = 0; i < few; i++) {
        const struct vs_query q = { .code = rows[i], .space = x->space };

        vs_keys(x, &q, b->rows + first, count, t->keys + (size_t)i * VS_LEAF_MAX);
    }
}

/* Leaves that a row goes to: 8 at the default of ef_construction. */
static uint32_t fanout(const struct vshard_index *x)
{
    uint32_t leaves = x->ef_construction / 25;

    return leaves < FANOUT_MIN ? FANOUT_MIN : leaves < VS_LEAF_FANOUT ? leaves : VS_LEAF_FANOUT;
}

/* The leaves of VS_LEAF_TILE rows: each occurrence is numbered row * VS_LEAF_FANOUT + its rank. */
static void join_leaves(void *arg, uint32_t item, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_bulk *b = w->b;
    struct vs_bulk_strand *t = &b->strands[strand];
    uint32_t row = item * VS_LEAF_TILE,
             few = b->count - row < VS_LEAF_TILE ? b->count - row : VS_LEAF_TILE;
    struct vs_pool pools[VS_LEAF_TILE];
    int32_t own[VS_LEAF_TILE], met[VS_LEAF_TILE], keys[VS_LEAF_TILE][VS_LEAF_FANOUT + 16];
    uint32_t slots[VS_LEAF_TILE][VS_LEAF_FANOUT + 16];
    const void *rows[VS_LEAF_TILE];

    for (uint32_t i = 0; i < few; i++) {
        rows[i] = vs_bulk_code(x, b, row + i);
        pools[i] = (struct vs_pool){ keys[i], slots[i], 0, fanout(x), 0 };
    }
    if (has_tiles(x)) {
        find_norms(x, t->asked, rows, few, own, met);
        ask_rows(x, rows, few, t->asked);
    }
    for (uint32_t first = 0; first < b->leader_count; first += VS_LEAF_MAX) {
        uint32_t left = b->leader_count - first, n = left < VS_LEAF_MAX ? left : VS_LEAF_MAX;

        leader_keys(x, b, t, rows, own, few, first, n);
        for (uint32_t i = 0; i < n; i++)
            t->numbers[i] = first + i;
        for (uint32_t i = 0; i < few; i++)
            x->kernel.pool_push(&pools[i], t->keys + (size_t)i * VS_LEAF_MAX, t->numbers, n);
    }
    for (uint32_t i = 0; i < few; i++) {
        for (uint32_t j = 0; j < VS_LEAF_FANOUT; j++)
            b->nearest[(size_t)(row + i) * VS_LEAF_FANOUT + j] =
                j < pools[i].count ? slots[i][j] : VS_SLOT_NONE;
    }
}

/* Sorts the occurrences by leader. */
static void gather_members(struct vs_bulk *b)
{
    size_t occurrences = (size_t)b->count * VS_LEAF_FANOUT;

    memset(b->firsts, 0, (b->leader_count + 1) * sizeof *b->firsts);
    for (size_t i = 0; i < occurrences; i++) {
        if (b->nearest[i] != VS_SLOT_NONE)
            b->firsts[b->nearest[i] + 1]++;
    }
    for (uint32_t i = 0; i < b->leader_count; i++)
        b->firsts[i + 1] += b->firsts[i];
    for (size_t i = 0; i < occurrences; i++) {
        if (b->nearest[i] != VS_SLOT_NONE)
            b->members[b->firsts[b->nearest[i]]++] = (uint32_t)i;
    }
    memmove(b->firsts + 1, b->firsts, b->leader_count * sizeof *b->firsts);
    b->firsts[0] = 0;
}

/* ---- 2: all with all ---- */

/* Of the rows that are equal to the one at `self`, the `few` that follow it in the
 * leaf, as in a ring, come first, and the others last. Ties of the pool are in the
 * order of the leaf, so keys say it all. */
static void ring_equal(int32_t *keys, int32_t own, uint32_t count, uint32_t self, uint32_t few)
{
    uint32_t taken = 0;

    for (uint32_t i = 1; i < count; i++) {
        uint32_t at = (self + i) % count;

        if (keys[at] == own && taken++ >= few)
            keys[at] = INT32_MAX;
    }
}

/* Distances of rows [first, first + few) to the whole leaf, into t->keys. */
static void leaf_keys(const struct vshard_index *x, struct vs_bulk_strand *t, uint32_t first,
                      uint32_t few, uint32_t count)
{
    if (has_tiles(x)) {
        ask_rows(x, t->rows + first, few, t->asked);
        tile_keys(x, t->asked, t->norms + first, few, t->panels, t->norms + VS_LEAF_MAX, count,
                  VS_LEAF_MAX, t->keys);
        return;
    }
    for (uint32_t i = 0; i < few; i++) {
        const struct vs_query q = { .code = t->rows[first + i], .space = x->space };

        vs_keys(x, &q, t->rows, count, t->keys + (size_t)i * VS_LEAF_MAX);
    }
}

static void find_in_leaf(const struct vshard_index *x, struct vs_bulk *b, struct vs_scratch *s,
                         int32_t *keys, const uint32_t *members, uint32_t count, uint32_t self)
{
    uint32_t row = members[self] / VS_LEAF_FANOUT, rank = members[self] % VS_LEAF_FANOUT, equal = 0;
    uint32_t *found = b->found + (size_t)row * b->width + rank * VS_LEAF_KEEP, taken = 0;
    int32_t own = keys[self];

    keys[self] = INT32_MAX;
    s->pool.count = s->pool.next = 0;
    s->pool.cap = VS_LEAF_KEEP;
    x->kernel.pool_push(&s->pool, keys, b->identity, count);
    for (uint32_t i = 0; i < s->pool.count; i++)
        equal += s->pool.keys[i] == own;
    if (equal > VS_LEAF_KEEP / 4) {
        ring_equal(keys, own, count, self, VS_LEAF_KEEP / 4);
        s->pool.count = s->pool.next = 0;
        x->kernel.pool_push(&s->pool, keys, b->identity, count);
    }
    for (uint32_t i = 0; i < s->pool.count && s->pool.keys[i] != INT32_MAX; i++)
        found[taken++] = b->slots[members[s->pool.slots[i]] / VS_LEAF_FANOUT];
    while (taken < VS_LEAF_KEEP)
        found[taken++] = VS_SLOT_NONE;
}

static void search_leaf(const struct vs_bulk_work *w, uint32_t strand, const uint32_t *members,
                        uint32_t count)
{
    const struct vshard_index *x = w->x;
    struct vs_bulk_strand *t = &w->b->strands[strand];
    struct vs_scratch *s = &w->x->strands[strand * WALKS];

    for (uint32_t i = 0; i < count; i++)
        memcpy(t->codes + i * w->b->stride, vs_bulk_code(x, w->b, members[i] / VS_LEAF_FANOUT),
               x->traversal->stride);
    if (has_tiles(x)) {
        find_norms(x, t->asked, t->rows, count, t->norms, t->norms + VS_LEAF_MAX);
        pack_rows(x, t->rows, count, t->panels);
    }
    for (uint32_t first = 0; first < count; first += VS_LEAF_TILE) {
        uint32_t few = count - first < VS_LEAF_TILE ? count - first : VS_LEAF_TILE;

        leaf_keys(x, t, first, few, count);
        for (uint32_t i = 0; i < few; i++)
            find_in_leaf(x, w->b, s, t->keys + (size_t)i * VS_LEAF_MAX, members, count, first + i);
    }
}

/* Sorts a large leaf's members by which of a few of them is nearest. Returns how many
 * groups there are; ends[i] is where one ends. */
static uint32_t split(const struct vs_bulk_work *w, uint32_t strand, uint32_t first, uint32_t count,
                      uint32_t *ends)
{
    const struct vs_bulk *b = w->b;
    struct vs_bulk_strand *t = &b->strands[strand];
    uint32_t groups = 2 * count / VS_LEAF_MAX + 1, next[SPLIT_MAX] = { 0 }, sum = 0;
    uint32_t *members = b->members + first, *group = b->nearest + first, *spare = b->spare + first;

    groups = groups > SPLIT_MAX ? SPLIT_MAX : groups;
    for (uint32_t i = 0; i < groups; i++)
        memcpy(t->codes + i * b->stride,
               vs_bulk_code(w->x, b, members[(uint64_t)i * count / groups] / VS_LEAF_FANOUT),
               w->x->traversal->stride);
    for (uint32_t i = 0; i < count; i++) {
        const struct vs_query q = vs_row_query(w->x, b->slots[members[i] / VS_LEAF_FANOUT],
                                               &w->x->strands[strand * WALKS]);
        uint32_t best = 0;

        vs_keys(w->x, &q, t->rows, groups, t->keys);
        for (uint32_t j = 1; j < groups; j++)
            best = t->keys[j] < t->keys[best] ? j : best;
        group[i] = best;
        next[best]++;
    }
    for (uint32_t i = 0; i < groups; i++) {
        sum += next[i];
        ends[i] = sum;
        next[i] = sum - next[i];
    }
    for (uint32_t i = 0; i < count; i++)
        spare[next[group[i]]++] = members[i];
    memcpy(members, spare, count * sizeof *members);
    return groups;
}

static void search_split(const struct vs_bulk_work *w, uint32_t strand, uint32_t first,
                         uint32_t count, uint32_t depth)
{
    uint32_t ends[SPLIT_MAX], groups;

    if (count <= VS_LEAF_MAX) {
        search_leaf(w, strand, w->b->members + first, count);
        return;
    }
    if (depth == SPLIT_DEPTH) {
        for (uint32_t at = 0; at < count; at += VS_LEAF_MAX)
            search_leaf(w, strand, w->b->members + first + at,
                        count - at < VS_LEAF_MAX ? count - at : VS_LEAF_MAX);
        return;
    }
    groups = split(w, strand, first, count, ends);
    for (uint32_t i = 0, at = 0; i < groups; at = ends[i++])
        search_split(w, strand, first + at, ends[i] - at, depth + 1);
}

static void search_leader(void *arg, uint32_t leader, uint32_t strand)
{
    const struct vs_bulk_work *w = arg;
    uint32_t first = w->b->firsts[leader];

    search_split(w, strand, first, w->b->firsts[leader + 1] - first, 0);
}

/* ---- both ---- */

/* Sorts the places of new rows, which `from` has or else are in order, by the leader that is
 * `rank`-th nearest; equal ones stay as they are. */
static void sort_places(struct vs_bulk *b, uint32_t rank, const uint32_t *from, uint32_t *to)
{
    uint32_t count = b->count - b->old;

    memset(b->firsts, 0, (b->leader_count + 1) * sizeof *b->firsts);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < count; i++) {
            uint32_t place = from ? from[i] : i;
            uint32_t leader = b->nearest[(size_t)(b->old + place) * VS_LEAF_FANOUT + rank];

            leader = leader == VS_SLOT_NONE ? b->leader_count - 1 : leader;
            if (pass == 0)
                b->firsts[leader + 1]++;
            else
                to[b->firsts[leader]++] = place;
        }
        for (uint32_t i = 0; pass == 0 && i < b->leader_count; i++)
            b->firsts[i + 1] += b->firsts[i];
    }
}

const uint32_t *vs_leaves_join(struct vs_bulk_work *w)
{
    struct vs_bulk *b = w->b;
    uint32_t count = b->count - b->old, *order = b->members;
    size_t row = VS_LEAF_FANOUT * sizeof *b->nearest;

    draw_leaders(w->x, b);
    vs_parallel(w->x, (b->count + VS_LEAF_TILE - 1) / VS_LEAF_TILE, join_leaves, w);
    sort_places(b, 1, NULL, b->spare);
    sort_places(b, 0, b->spare, order);
    for (uint32_t i = 0; i < count; i++)
        memcpy(b->spare + (size_t)i * VS_LEAF_FANOUT,
               b->nearest + (size_t)(b->old + order[i]) * VS_LEAF_FANOUT, row);
    memcpy(b->nearest + (size_t)b->old * VS_LEAF_FANOUT, b->spare, count * row);
    return order;
}

void vs_leaves_find(struct vs_bulk_work *w)
{
    gather_members(w->b);
    vs_parallel(w->x, w->b->leader_count, search_leader, w);
}
