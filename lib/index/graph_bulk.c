/* graph_bulk.c - a graph over many rows at once, for a first load.
 *
 * Inserting rows one after the other spends most of its time on finding each row's
 * neighbours by a walk. When all rows are there, they can be found in blocks that fit
 * the cache instead (after PiPNN, Rubel et al. 2026, and ball carving):
 *
 *   1. Leaders are drawn, one row in LEADER_SHARE. Each row goes to the leaves of the
 *      FANOUT leaders that are nearest to it. A leaf with too many is split again.
 *   2. In each leaf each row finds its KEEP nearest by comparing all with all: the
 *      leaf's codes lie side by side in the cache, and squared distances come from
 *      tiles of products (tile.c).
 *   3. Of what its leaves found a row keeps a diverse few; each edge asks for one back,
 *      and each row prunes once for all that ask.
 *   4. Each row walks the graph that came of it, with a narrow beam, and chooses again
 *      among what it had and what it met; and edges back again. Leaves know only what
 *      is near; this is what makes ways between them. Nothing comes after, so now lists
 *      are filled.
 *
 * Every step writes only what belongs to one row or one leaf, and reads what the steps
 * before have left, on integer distances with ties in one fixed order. So the result
 * does not depend on the number of threads, nor on the instruction set.
 *
 * Equal rows fill each other's lists of the nearest. Of these each takes the few that
 * follow it in the leaf, in a ring, so that none is without an edge in. */
#include "index/state.h"

enum {
    BULK_MIN = 8192,    /* rows; fewer are linked as fast one by one */
    BULK_MAX = 1 << 28, /* so that occurrences of rows can be counted in 32 bits */
    FANOUT = 8,
    LEADER_SHARE = 192, /* rows for each leader */
    KEEP = 12,
    LEAF_MAX = 1024, /* rows compared with each other */
    SPLIT_MAX = 64,  /* leaves that a large one is split into, */
    SPLIT_DEPTH = 4, /* so often: then it is cut where its order says */
    WALK_EF = 56,
    TILE = 24, /* rows whose distances are computed at once */
    FOUND = FANOUT * KEEP
};

/* What one thread needs. */
struct vs_bulk_strand {
    unsigned char *codes;  /* [LEAF_MAX x stride] of one leaf */
    const void **rows;     /* [LEAF_MAX] where they are */
    int32_t *keys;         /* [TILE x LEAF_MAX] */
    unsigned char *panels; /* [LEAF_MAX x stride] the codes, as tiles want them */
    int32_t *norms;        /* [2 x LEAF_MAX] what a row adds to its distances, when it is
                              asked for, and when it is met */
    int8_t *asked;         /* [TILE x stride] */
    uint32_t *numbers;     /* [LEAF_MAX] of leaders */
};

struct vs_bulk {
    uint64_t cap; /* rows there is room for */
    uint32_t count;
    uint32_t leader_cap, leader_count;
    uint32_t width;        /* entries of each row in `found` */
    size_t stride;         /* of codes beside each other */
    uint32_t *slots;       /* [cap] the rows; what follows names them by their place here */
    uint32_t *leaders;     /* [leader_cap] */
    unsigned char *codes;  /* [leader_cap x stride] */
    const void **rows;     /* [leader_cap] */
    unsigned char *panels; /* [leader_cap x stride] their codes, as tiles want them */
    int32_t *norms;        /* [2 x leader_cap] */
    uint32_t *firsts;      /* [leader_cap + 1] first member of each leaf */
    uint32_t *nearest;     /* [cap x FANOUT] leader of each occurrence; then scratch */
    uint32_t *members;     /* [cap x FANOUT] occurrences, by leader */
    uint32_t *spare;       /* likewise: scratch of splits */
    uint32_t *found;       /* [cap x width] slots */
    uint32_t *ins;         /* [slots + 1] first edge in of each slot */
    size_t ins_cap;
    uint32_t *sources;  /* [cap x kept] where they come from */
    uint32_t *identity; /* [LEAF_MAX] 0, 1, 2, ... */
    struct vs_bulk_strand *strands;
};

/* ---- buffers ---- */

/* Whether a call that links `count` rows is to do it here: when they are many, and no
 * fewer than those that are linked already, which then are linked again with them. */
bool vs_bulk_suits(const struct vshard_index *x, uint64_t count)
{
    uint64_t there = atomic_load(&x->trained) ? x->live : 0;

    return count >= BULK_MIN && count >= there && count + there <= BULK_MAX;
}

static size_t strand_bytes(const struct vs_bulk *b)
{
    return LEAF_MAX * b->stride;
}

void vs_bulk_end(struct vshard_index *x, struct vs_bulk *b)
{
    const struct vshard_allocator *a = x->allocator;

    if (b == NULL)
        return;
    for (uint32_t i = 0; b->strands != NULL && i < x->strand_count; i++) {
        vs_free(a, b->strands[i].codes, strand_bytes(b));
        vs_free(a, b->strands[i].rows, LEAF_MAX * sizeof *b->strands[i].rows);
        vs_free(a, b->strands[i].keys, TILE * LEAF_MAX * sizeof *b->strands[i].keys);
        vs_free(a, b->strands[i].panels, strand_bytes(b));
        vs_free(a, b->strands[i].norms, 2 * LEAF_MAX * sizeof *b->strands[i].norms);
        vs_free(a, b->strands[i].asked, TILE * b->stride);
        vs_free(a, b->strands[i].numbers, LEAF_MAX * sizeof *b->strands[i].numbers);
    }
    vs_free(a, b->strands, x->strand_count * sizeof *b->strands);
    vs_free(a, b->identity, LEAF_MAX * sizeof *b->identity);
    vs_free(a, b->sources, b->cap * vs_kept_edges(x) * sizeof *b->sources);
    vs_free(a, b->ins, b->ins_cap * sizeof *b->ins);
    vs_free(a, b->found, b->cap * b->width * sizeof *b->found);
    vs_free(a, b->spare, b->cap * FANOUT * sizeof *b->spare);
    vs_free(a, b->members, b->cap * FANOUT * sizeof *b->members);
    vs_free(a, b->nearest, b->cap * FANOUT * sizeof *b->nearest);
    vs_free(a, b->firsts, (b->leader_cap + 1) * sizeof *b->firsts);
    vs_free(a, b->rows, b->leader_cap * sizeof *b->rows);
    vs_free(a, b->panels, b->leader_cap * b->stride);
    vs_free(a, b->norms, 2 * (size_t)b->leader_cap * sizeof *b->norms);
    vs_free(a, b->codes, b->leader_cap * b->stride);
    vs_free(a, b->leaders, b->leader_cap * sizeof *b->leaders);
    vs_free(a, b->slots, b->cap * sizeof *b->slots);
    vs_free(a, b, sizeof *b);
}

static bool get_strands(struct vshard_index *x, struct vs_bulk *b)
{
    const struct vshard_allocator *a = x->allocator;

    b->strands = vs_alloc_zeroed(a, x->strand_count * sizeof *b->strands);
    for (uint32_t i = 0; b->strands != NULL && i < x->strand_count; i++) {
        b->strands[i].codes = vs_alloc(a, strand_bytes(b));
        b->strands[i].rows = vs_alloc(a, LEAF_MAX * sizeof *b->strands[i].rows);
        b->strands[i].keys = vs_alloc(a, TILE * LEAF_MAX * sizeof *b->strands[i].keys);
        b->strands[i].panels = vs_alloc(a, strand_bytes(b));
        b->strands[i].norms = vs_alloc(a, 2 * LEAF_MAX * sizeof *b->strands[i].norms);
        b->strands[i].asked = vs_alloc(a, TILE * b->stride);
        b->strands[i].numbers = vs_alloc(a, LEAF_MAX * sizeof *b->strands[i].numbers);
        if (!b->strands[i].codes || !b->strands[i].rows || !b->strands[i].keys ||
            !b->strands[i].panels || !b->strands[i].norms || !b->strands[i].asked ||
            !b->strands[i].numbers)
            return false;
        for (size_t j = 0; j < LEAF_MAX; j++)
            b->strands[i].rows[j] = b->strands[i].codes + j * b->stride;
    }
    return b->strands != NULL;
}

/* Gets all memory that linking `count` rows needs, beside those that are live. The
 * columns must have been reserved. */
int vs_bulk_begin(struct vshard_index *x, uint64_t count, struct vs_bulk **out)
{
    const struct vshard_allocator *a = x->allocator;
    struct vs_bulk *b = vs_alloc_zeroed(a, sizeof *b);

    *out = b;
    if (b == NULL)
        return VSHARD_ENOMEM;
    b->cap = count + x->live;
    b->leader_cap = (uint32_t)(b->cap / LEADER_SHARE * 2 + 64) / VS_PANEL_ROWS * VS_PANEL_ROWS;
    b->width = FOUND > vs_kept_edges(x) ? FOUND : vs_kept_edges(x);
    b->stride = (x->traversal->stride + 63) / 64 * 64;
    b->ins_cap = (size_t)x->rows.extents * VS_EXTENT_ROWS + 1;
    b->slots = vs_alloc(a, b->cap * sizeof *b->slots);
    b->leaders = vs_alloc(a, b->leader_cap * sizeof *b->leaders);
    b->codes = vs_alloc(a, b->leader_cap * b->stride);
    b->rows = vs_alloc(a, b->leader_cap * sizeof *b->rows);
    b->panels = vs_alloc(a, b->leader_cap * b->stride);
    b->norms = vs_alloc(a, 2 * (size_t)b->leader_cap * sizeof *b->norms);
    b->firsts = vs_alloc(a, (b->leader_cap + 1) * sizeof *b->firsts);
    b->nearest = vs_alloc(a, b->cap * FANOUT * sizeof *b->nearest);
    b->members = vs_alloc(a, b->cap * FANOUT * sizeof *b->members);
    b->spare = vs_alloc(a, b->cap * FANOUT * sizeof *b->spare);
    b->found = vs_alloc(a, b->cap * b->width * sizeof *b->found);
    b->ins = vs_alloc(a, b->ins_cap * sizeof *b->ins);
    b->sources = vs_alloc(a, b->cap * vs_kept_edges(x) * sizeof *b->sources);
    b->identity = vs_alloc(a, LEAF_MAX * sizeof *b->identity);
    if (vs_strands_reserve(x, FOUND + WALK_EF + x->degree) < 0) {
        vs_bulk_end(x, b);
        *out = NULL;
        return VSHARD_ENOMEM;
    }
    if (b->slots && b->leaders && b->codes && b->rows && b->panels && b->norms && b->firsts &&
        b->nearest && b->members && b->spare && b->found && b->ins && b->sources && b->identity &&
        get_strands(x, b)) {
        for (uint32_t i = 0; i < LEAF_MAX; i++)
            b->identity[i] = i;
        return VSHARD_OK;
    }
    vs_bulk_end(x, b);
    *out = NULL;
    return VSHARD_ENOMEM;
}

struct bulk_work {
    struct vshard_index *x;
    struct vs_bulk *b;
    uint32_t want; /* edges that a list is cut to when it is too long */
};

static const void *code_of(const struct vshard_index *x, const struct vs_bulk *b, uint32_t row)
{
    return vs_code_at(x, b->slots[row]);
}

/* ---- squared distances by tiles ---- */

static bool has_tiles(const struct vshard_index *x)
{
    return x->space == SPACE_CODE_L2 || x->space == SPACE_U8_L2 || x->space == SPACE_I8_L2;
}

static size_t tile_dim(const struct vshard_index *x)
{
    return x->space == SPACE_CODE_L2 ? x->quantizer.code_bytes : x->dim;
}

/* What a row adds to |a|^2 + |b|^2 - 2ab. A tile wants one side signed and the other not,
 * so bytes of one sign are moved by 128 on one side, and this takes that off again. */
static void find_norms(const struct vshard_index *x, const void *const *rows, uint32_t count,
                       int32_t *asked, int32_t *met)
{
    size_t dim = tile_dim(x);

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
        for (size_t j = 0; j < dim; j++)
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
    int32_t products[TILE * VS_PANEL_ROWS];

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
    uint64_t limit = UINT64_MAX / LEADER_SHARE;

    b->leader_count = 0;
    for (uint32_t row = 0; row < b->count && b->leader_count < b->leader_cap; row++) {
        if (row > 0 && vs_mix64(row ^ x->seed) > limit)
            continue;
        b->rows[b->leader_count] = b->codes + b->leader_count * b->stride;
        memcpy(b->codes + b->leader_count * b->stride, code_of(x, b, row), x->traversal->stride);
        b->leaders[b->leader_count++] = row;
    }
    if (has_tiles(x)) {
        find_norms(x, b->rows, b->leader_count, b->norms, b->norms + b->leader_cap);
        pack_rows(x, b->rows, b->leader_count, b->panels);
    }
}

/* Keys of TILE rows from some leaders. */
static void leader_keys(const struct vshard_index *x, const struct vs_bulk *b,
                        struct vs_bulk_strand *t, const void *const *rows, const int32_t *own,
                        uint32_t few, uint32_t first, uint32_t count)
{
    if (has_tiles(x)) {
        tile_keys(x, t->asked, own, few, b->panels + first * tile_bytes(x),
                  b->norms + b->leader_cap + first, count, LEAF_MAX, t->keys);
        return;
    }
    for (uint32_t i = 0; i < few; i++) {
        const struct vs_query q = { .code = rows[i], .space = x->space };

        vs_keys(x, &q, b->rows + first, count, t->keys + (size_t)i * LEAF_MAX);
    }
}

/* The leaves of TILE rows: each occurrence is numbered row * FANOUT + its rank. */
static void join_leaves(void *arg, uint32_t item, uint32_t strand)
{
    const struct bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_bulk *b = w->b;
    struct vs_bulk_strand *t = &b->strands[strand];
    uint32_t row = item * TILE, few = b->count - row < TILE ? b->count - row : TILE;
    struct vs_pool pools[TILE];
    int32_t own[TILE], met[TILE], keys[TILE][FANOUT + 16];
    uint32_t slots[TILE][FANOUT + 16];
    const void *rows[TILE];

    for (uint32_t i = 0; i < few; i++) {
        rows[i] = code_of(x, b, row + i);
        pools[i] = (struct vs_pool){ keys[i], slots[i], 0, FANOUT, 0 };
    }
    if (has_tiles(x)) {
        find_norms(x, rows, few, own, met);
        ask_rows(x, rows, few, t->asked);
    }
    for (uint32_t first = 0; first < b->leader_count; first += LEAF_MAX) {
        uint32_t left = b->leader_count - first, n = left < LEAF_MAX ? left : LEAF_MAX;

        leader_keys(x, b, t, rows, own, few, first, n);
        for (uint32_t i = 0; i < n; i++)
            t->numbers[i] = first + i;
        for (uint32_t i = 0; i < few; i++)
            x->kernel.pool_push(&pools[i], t->keys + (size_t)i * LEAF_MAX, t->numbers, n);
    }
    for (uint32_t i = 0; i < few; i++) {
        for (uint32_t j = 0; j < FANOUT; j++)
            b->nearest[(size_t)(row + i) * FANOUT + j] =
                j < pools[i].count ? slots[i][j] : VS_SLOT_NONE;
    }
}

/* Sorts the occurrences by leader. */
static void gather_members(struct vs_bulk *b)
{
    size_t occurrences = (size_t)b->count * FANOUT;

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

/* Of the rows at distance 0 from the one at `self`, the `few` that follow it in the
 * leaf, as in a ring, come first, and the others last. Ties of the pool are in the
 * order of the leaf, so keys say it all. */
static void ring_equal(int32_t *keys, uint32_t count, uint32_t self, uint32_t few)
{
    uint32_t taken = 0;

    for (uint32_t i = 1; i < count; i++) {
        uint32_t at = (self + i) % count;

        if (keys[at] == 0 && taken++ >= few)
            keys[at] = INT32_MAX;
    }
}

/* Distances of rows [first, first + few) to the whole leaf, into t->keys. */
static void leaf_keys(const struct vshard_index *x, struct vs_bulk_strand *t, uint32_t first,
                      uint32_t few, uint32_t count)
{
    if (has_tiles(x)) {
        ask_rows(x, t->rows + first, few, t->asked);
        tile_keys(x, t->asked, t->norms + first, few, t->panels, t->norms + LEAF_MAX, count,
                  LEAF_MAX, t->keys);
        return;
    }
    for (uint32_t i = 0; i < few; i++) {
        const struct vs_query q = { .code = t->rows[first + i], .space = x->space };

        vs_keys(x, &q, t->rows, count, t->keys + (size_t)i * LEAF_MAX);
    }
}

static void find_in_leaf(const struct vshard_index *x, struct vs_bulk *b, struct vs_scratch *s,
                         int32_t *keys, const uint32_t *members, uint32_t count, uint32_t self)
{
    uint32_t row = members[self] / FANOUT, rank = members[self] % FANOUT, equal = 0;
    uint32_t *found = b->found + (size_t)row * b->width + rank * KEEP, taken = 0;

    keys[self] = INT32_MAX;
    s->pool.count = s->pool.next = 0;
    s->pool.cap = KEEP;
    x->kernel.pool_push(&s->pool, keys, b->identity, count);
    while (equal < s->pool.count && s->pool.keys[equal] == 0)
        equal++;
    if (equal > KEEP / 4) {
        ring_equal(keys, count, self, KEEP / 4);
        s->pool.count = s->pool.next = 0;
        x->kernel.pool_push(&s->pool, keys, b->identity, count);
    }
    for (uint32_t i = 0; i < s->pool.count && s->pool.keys[i] != INT32_MAX; i++)
        found[taken++] = b->slots[members[s->pool.slots[i]] / FANOUT];
    while (taken < KEEP)
        found[taken++] = VS_SLOT_NONE;
}

static void search_leaf(const struct bulk_work *w, uint32_t strand, const uint32_t *members,
                        uint32_t count)
{
    const struct vshard_index *x = w->x;
    struct vs_bulk_strand *t = &w->b->strands[strand];
    struct vs_scratch *s = &w->x->strands[strand * WALKS];

    for (uint32_t i = 0; i < count; i++)
        memcpy(t->codes + i * w->b->stride, code_of(x, w->b, members[i] / FANOUT),
               x->traversal->stride);
    if (has_tiles(x)) {
        find_norms(x, t->rows, count, t->norms, t->norms + LEAF_MAX);
        pack_rows(x, t->rows, count, t->panels);
    }
    for (uint32_t first = 0; first < count; first += TILE) {
        uint32_t few = count - first < TILE ? count - first : TILE;

        leaf_keys(x, t, first, few, count);
        for (uint32_t i = 0; i < few; i++)
            find_in_leaf(x, w->b, s, t->keys + (size_t)i * LEAF_MAX, members, count, first + i);
    }
}

/* Sorts a large leaf's members by which of a few of them is nearest. Returns how many
 * groups there are; ends[i] is where one ends. */
static uint32_t split(const struct bulk_work *w, uint32_t strand, uint32_t first, uint32_t count,
                      uint32_t *ends)
{
    const struct vs_bulk *b = w->b;
    struct vs_bulk_strand *t = &b->strands[strand];
    uint32_t groups = 2 * count / LEAF_MAX + 1, next[SPLIT_MAX] = { 0 }, sum = 0;
    uint32_t *members = b->members + first, *group = b->nearest + first, *spare = b->spare + first;

    groups = groups > SPLIT_MAX ? SPLIT_MAX : groups;
    for (uint32_t i = 0; i < groups; i++)
        memcpy(t->codes + i * b->stride,
               code_of(w->x, b, members[(uint64_t)i * count / groups] / FANOUT),
               w->x->traversal->stride);
    for (uint32_t i = 0; i < count; i++) {
        const struct vs_query q = { .code = code_of(w->x, b, members[i] / FANOUT),
                                    .space = w->x->space };
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

static void search_split(const struct bulk_work *w, uint32_t strand, uint32_t first, uint32_t count,
                         uint32_t depth)
{
    uint32_t ends[SPLIT_MAX], groups;

    if (count <= LEAF_MAX) {
        search_leaf(w, strand, w->b->members + first, count);
        return;
    }
    if (depth == SPLIT_DEPTH) {
        for (uint32_t at = 0; at < count; at += LEAF_MAX)
            search_leaf(w, strand, w->b->members + first + at,
                        count - at < LEAF_MAX ? count - at : LEAF_MAX);
        return;
    }
    groups = split(w, strand, first, count, ends);
    for (uint32_t i = 0, at = 0; i < groups; at = ends[i++])
        search_split(w, strand, first + at, ends[i] - at, depth + 1);
}

static void search_leader(void *arg, uint32_t leader, uint32_t strand)
{
    const struct bulk_work *w = arg;
    uint32_t first = w->b->firsts[leader];

    search_split(w, strand, first, w->b->firsts[leader + 1] - first, 0);
}

/* ---- 3: edges ---- */

static bool mark(uint64_t *marks, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64), old = marks[slot / 64];

    marks[slot / 64] = old | bit;
    return (old & bit) == 0;
}

/* A diverse few of what the leaves found. */
static void choose_found(void *arg, uint32_t row, uint32_t strand)
{
    const struct bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    const uint32_t *found = w->b->found + (size_t)row * w->b->width;
    const struct vs_query q = { .code = code_of(x, w->b, row), .space = x->space };
    uint32_t slot = w->b->slots[row], unseen = 0;

    for (uint32_t i = 0; i < FOUND; i++) {
        if (found[i] != VS_SLOT_NONE && mark(s->visited, found[i]))
            s->slots[unseen++] = found[i];
    }
    for (uint32_t i = 0; i < unseen; i++)
        s->visited[s->slots[i] / 64] = 0;
    s->pool.count = s->pool.next = 0;
    s->pool.cap = FOUND;
    vs_offer(x, &q, s, unseen);
    vs_choose(x, s, slot, vs_kept_edges(x));
    vs_write_edges(x, slot, s->pool.slots, s->pool.count);
}

/* Collects for each slot the rows that have an edge to it. */
static void gather_ins(const struct vshard_index *x, struct vs_bulk *b)
{
    uint32_t slots = atomic_load(&x->slot_count), kept = vs_kept_edges(x);

    memset(b->ins, 0, (slots + 1) * sizeof *b->ins);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t row = 0; row < b->count; row++) {
            const _Atomic uint32_t *edges = vs_edges_at(x, b->slots[row]);

            for (uint32_t i = 0; i < kept; i++) {
                uint32_t to = atomic_load_explicit(&edges[i], memory_order_relaxed);

                if (to == VS_SLOT_NONE)
                    break;
                if (pass == 0)
                    b->ins[to + 1]++;
                else
                    b->sources[b->ins[to]++] = b->slots[row];
            }
        }
        for (uint32_t i = 0; pass == 0 && i < slots; i++)
            b->ins[i + 1] += b->ins[i];
    }
    memmove(b->ins + 1, b->ins, slots * sizeof *b->ins);
    b->ins[0] = 0;
}

/* Edges back to all that have an edge to this row; if there is not room for all, a
 * diverse few. */
static void add_ins(void *arg, uint32_t row, uint32_t strand)
{
    const struct bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    uint32_t slot = w->b->slots[row], edges[2 * M_MAX], count = vs_read_edges(x, slot, edges);
    const struct vs_query q = { .code = vs_code_at(x, slot), .space = x->space };
    const uint32_t *in = w->b->sources + w->b->ins[slot],
                   *end = w->b->sources + w->b->ins[slot + 1];
    uint32_t own = count, gathered = 0;

    s->pool.count = s->pool.next = 0;
    s->pool.cap = 4 * x->degree;
    for (; in < end; in++) {
        if (vs_contains(edges, own, *in))
            continue;
        if (count < x->degree)
            edges[count] = *in;
        count++;
        s->slots[gathered++] = *in;
        if (gathered == s->list_cap) {
            vs_offer(x, &q, s, gathered);
            gathered = 0;
        }
    }
    if (count > x->degree) {
        vs_offer(x, &q, s, gathered);
        memcpy(s->slots, edges, own * sizeof *edges);
        vs_offer(x, &q, s, own);
        vs_choose(x, s, slot, w->want);
        vs_write_edges(x, slot, s->pool.slots, s->pool.count);
    } else {
        vs_write_edges(x, slot, edges, count);
    }
}

static void link_back(struct bulk_work *w)
{
    gather_ins(w->x, w->b);
    vs_parallel(w->x, w->b->count, add_ins, w);
}

/* ---- 4: a walk for each row ---- */

static void choose_again(struct vshard_index *x, struct vs_bulk *b, struct vs_walk *walk,
                         uint32_t row)
{
    struct vs_scratch *s = walk->scratch;
    uint32_t slot = b->slots[row], edges[2 * M_MAX], count = vs_read_edges(x, slot, edges);
    uint32_t *found = b->found + (size_t)row * b->width, kept = 0;

    vs_graph_rank(x, walk);
    vs_keep_live(x, &s->pool);
    for (uint32_t i = 0; i < s->pool.count; i++) {
        s->pool.keys[kept] = s->pool.keys[i];
        s->pool.slots[kept] = s->pool.slots[i];
        kept += s->pool.slots[i] != slot;
    }
    s->pool.count = kept;
    s->pool.cap = WALK_EF + x->degree;
    for (uint32_t i = kept = 0; i < count; i++) {
        s->slots[kept] = edges[i];
        kept += !vs_contains(s->pool.slots, s->pool.count, edges[i]);
    }
    vs_offer(x, &walk->query, s, kept);
    vs_choose(x, s, slot, vs_kept_edges(x));
    for (uint32_t i = 0; i < b->width; i++)
        found[i] = i < s->pool.count ? s->pool.slots[i] : VS_SLOT_NONE;
}

static void walk_rows(void *arg, uint32_t group, uint32_t strand)
{
    const struct bulk_work *w = arg;
    struct vshard_index *x = w->x;
    struct vs_bulk *b = w->b;
    struct vs_walk walks[WALKS] = { 0 };
    uint32_t first = group * WALKS, count = b->count - first < WALKS ? b->count - first : WALKS;

    for (uint32_t i = 0; i < count; i++) {
        walks[i].scratch = &x->strands[strand * WALKS + i];
        walks[i].query = (struct vs_query){ .code = code_of(x, b, first + i), .space = x->space };
        if (x->sketches.stride > 0) {
            vs_sketch_query(x, walks[i].query.code, walks[i].scratch->sketch);
            walks[i].query.sketch = walks[i].scratch->sketch;
        }
    }
    vs_graph_walk(x, walks, count, WALK_EF);
    for (uint32_t i = 0; i < count; i++)
        choose_again(x, b, &walks[i], first + i);
}

static void write_found(void *arg, uint32_t row, uint32_t strand)
{
    const struct bulk_work *w = arg;
    const uint32_t *found = w->b->found + (size_t)row * w->b->width;
    uint32_t count = 0, kept = vs_kept_edges(w->x);

    (void)strand;
    while (count < kept && found[count] != VS_SLOT_NONE)
        count++;
    vs_write_edges(w->x, w->b->slots[row], found, count);
}

/* Links the new rows, which have codes and are not live yet, and all live rows. */
void vs_bulk_link(struct vshard_index *x, struct vs_bulk *b, const uint32_t *slots, uint32_t count)
{
    struct bulk_work w = { x, b, vs_kept_edges(x) };
    uint32_t slot_count = atomic_load(&x->slot_count), old;
    struct vs_planting planting = { x->strands[0].visited, b->spare, b->ins };

    b->count = 0;
    for (uint32_t slot = 0; slot < slot_count; slot++) {
        if (vs_row_state(x, slot) == VS_ROW_LIVE)
            b->slots[b->count++] = slot;
    }
    old = atomic_load(&x->trained) ? b->count : 0; /* are entries already, if they are to be */
    memcpy(b->slots + b->count, slots, count * sizeof *slots);
    b->count += count;
    for (size_t i = 0; i < (size_t)b->count * b->width; i++)
        b->found[i] = VS_SLOT_NONE;
    for (uint32_t i = 0; i < x->strand_count * WALKS; i++)
        memset(x->strands[i].visited, 0, (slot_count / 64 + 1) * sizeof(uint64_t));

    draw_leaders(x, b);
    vs_parallel(x, (b->count + TILE - 1) / TILE, join_leaves, &w);
    gather_members(b);
    vs_parallel(x, b->leader_count, search_leader, &w);
    vs_parallel(x, b->count, choose_found, &w);
    link_back(&w);
    for (uint32_t i = old; i < b->count; i++)
        vs_entry_offer(x, b->slots[i], 0);
    vs_parallel(x, (b->count + WALKS - 1) / WALKS, walk_rows, &w);
    vs_parallel(x, b->count, write_found, &w);
    w.want = x->degree;
    link_back(&w);
    vs_tree_plant(x, &planting, b->slots, b->count);
}
