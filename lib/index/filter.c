/* filter.c - searches that may answer some rows only.
 *
 * How many rows a filter allows decides how to search (vs_filter_scans):
 *
 *   few    they are listed once a call, and each query scans the list, by codes first
 *          (filter_scan.c).
 *   more   the walk is that of any search, and does not ask the filter. Its beam is wider
 *          the fewer rows are allowed, so that it should hold k that are (vs_filter_ef);
 *          but only the nearest tenth of what is added is followed, since nearly all rows
 *          of the beam are neighbours of those: half of the time at 5 %, at equal recall.
 *          The filter is asked about the rows in the beam, nearest first, and of those that
 *          it allows the nearest are ranked.
 *
 * A beam that holds k allowed rows holds the nearest k, to the recall that beams have. One
 * that holds fewer is widened as long as that costs less than a scan of what is allowed,
 * which then follows. So a filter that allows nothing near the query, which no estimate
 * can know, costs time and not answers.
 *
 * Tried, and slower: walks that keep to the allowed rows, and pass through the others by two
 * edges at once (ACORN-1: Patel et al. 2024); they were two to ten times as slow at equal
 * recall, and where no allowed row is near the query they ended anywhere. And a narrow beam beside
 * which allowed rows are kept as they are met: to ask about all rows met that are near enough
 * costs more than to keep them (bench/RESULTS.md). */
#include "index/state.h"

enum {
    SAMPLE = 256,         /* rows that are tried where allowed rows cannot be counted */
    LISTED_MAX = 1 << 17, /* allowed rows that are listed, at most */
    COUNTED_WORDS = 8192, /* of bits, that are all counted; of more */
    SAMPLE_WORDS = 256,   /* some are looked at first, */
    DENSE_ONE_IN = 32,    /* and where more bits are set, these will do */
    PIECE = 32,           /* words counted at once, */
    PIECES = 16,          /* and of these, so many */
    BATCH = 256,          /* ids looked up at once, */
    FEW = 2,              /* and of a word of bits, taken without a look at how many there are, */
    SPARSE_ONE_IN = 11    /* unless so few words have any */
};

static bool bit_of(const uint64_t *words, uint64_t at)
{
    return words[at / 64] >> (at % 64) & 1;
}

/* ---- what the caller gave ---- */

static int refuse(const struct vshard_index *x, int status, const char *argument, int64_t value,
                  int64_t limit)
{
    return vs_refuse(x->logger, status, "search.refused", argument, value, limit);
}

static int check_where(const struct vshard_index *x, struct vs_filter *f, struct vs_where *where)
{
    struct vs_where_fault fault;
    int rc = vs_where_read(f->given.where, f->given.where_bytes, where, &fault);

    if (rc == VSHARD_OK)
        rc = vs_where_suits(x->attributes.schema, x->attributes.count, where, &fault);
    if (rc < 0)
        return refuse(x, rc, fault.what, (int64_t)fault.value, (int64_t)fault.limit);
    f->where = where;
    return VSHARD_OK;
}

/* Reads a filter; `where` is for its expression, if it has one. */
int vs_filter_check(const struct vshard_index *x, const struct vshard_filter *given,
                    struct vs_filter *f, struct vs_where *where)
{
    struct vshard_filter *g = &f->given;
    int rc;

    memset(f, 0, sizeof *f);
    rc = vs_options_read(g, sizeof *g, given, VS_SIZE_THROUGH(struct vshard_filter, reserved));
    if (rc < 0)
        return refuse(x, rc, "filter.size", given->size, sizeof *g);
    if (g->kind < VSHARD_FILTER_IDS || g->kind > VSHARD_FILTER_WHERE)
        return refuse(x, VSHARD_EINVAL, "filter.kind", g->kind, VSHARD_FILTER_WHERE);
    if (g->kind == VSHARD_FILTER_IDS && g->ids == NULL && g->count > 0)
        return refuse(x, VSHARD_EINVAL, "filter.ids: NULL", (int64_t)g->count, 0);
    if (g->kind == VSHARD_FILTER_BITS && g->bits == NULL && g->count > 0)
        return refuse(x, VSHARD_EINVAL, "filter.bits: NULL", (int64_t)g->count, 0);
    if (g->kind == VSHARD_FILTER_CALL && g->allow == NULL)
        return refuse(x, VSHARD_EINVAL, "filter.allow: NULL", 0, 0);
    if (!(g->share >= 0.0f && g->share <= 1.0f))
        return vs_refuse_real(x->logger, VSHARD_EINVAL, "search.refused", "filter.share",
                              (double)g->share, 1);
    if (g->reserved != 0)
        return refuse(x, VSHARD_EINVAL, "filter.reserved", g->reserved, 0);
    if (g->kind == VSHARD_FILTER_WHERE || g->where != NULL || g->where_bytes > 0)
        return check_where(x, f, where);
    return VSHARD_OK;
}

/* What the kind says, whatever the expression does. */
bool vs_filter_asks(const struct vshard_index *x, struct vs_filter *f, uint32_t slot)
{
    const struct vshard_filter *g = &f->given;
    uint64_t id = vs_row_at(x, slot)->id;

    f->checks++;
    if (g->kind == VSHARD_FILTER_BITS)
        return id < g->count && bit_of(g->bits, id);
    return g->kind == VSHARD_FILTER_WHERE || g->allow(g->ctx, id) != 0;
}

/* Is it a row that may be answered? */
bool vs_filter_allows(const struct vshard_index *x, struct vs_filter *f, uint32_t slot,
                      uint32_t position)
{
    if (!vs_row_visible(x, slot, position))
        return false;
    if (f == NULL)
        return true;
    if (f->marks != NULL)
        return slot < f->marks_slots && bit_of(f->marks, slot);
    return (f->where == NULL || vs_where_holds(x, f->where, slot)) && vs_filter_asks(x, f, slot);
}

/* Which rows of an extent are live, or may be seen still, and listed, or have the attributes that
 * an expression asks for. */
void vs_filter_rows(const struct vshard_index *x, const struct vs_filter *f, uint32_t slots,
                    uint32_t extent, uint64_t out[WHERE_WORDS])
{
    uint32_t first = extent * VS_EXTENT_ROWS;
    uint64_t live[WHERE_WORDS];

    for (uint32_t i = 0; i < WHERE_WORDS; i++)
        live[i] = first + 64 * i < slots ? vs_scan_live(x, first + 64 * i) : 0;
    if (f != NULL && f->where != NULL && f->marks == NULL)
        vs_where_extent(x, f->where, extent, live, out);
    else
        memcpy(out, live, sizeof live);
    for (uint32_t i = 0; f != NULL && f->marks != NULL && i < WHERE_WORDS; i++)
        out[i] &= first + 64 * i < f->marks_slots ? f->marks[first / 64 + i] : 0;
}

/* ---- how many rows it allows ---- */

/* Adds a row to the marks, and to the list while there is room. */
static void mark(struct vs_filter *f, struct vs_scratch *s, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64);

    if (s->marks[slot / 64] & bit)
        return;
    s->marks[slot / 64] |= bit;
    if (f->allowed < s->listed_cap)
        s->listed[f->allowed] = slot;
    f->allowed++;
}

static int list_begin(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                      uint64_t cap)
{
    int rc = vs_scratch_marks(x, s);

    if (rc == VSHARD_OK)
        rc = vs_scratch_list(x, s, cap < LISTED_MAX ? (uint32_t)cap : LISTED_MAX);
    f->allowed = 0;
    return rc;
}

static void list_end(struct vs_filter *f, const struct vs_scratch *s)
{
    f->marks = s->marks;
    f->marks_slots = (uint64_t)s->marks_words * 64;
    if (f->allowed <= s->listed_cap) {
        f->listed = s->listed;
        f->listed_count = (uint32_t)f->allowed;
    }
}

/* Marks a row if the expression holds for it, too. */
static void mark_one(const struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                     uint32_t slot)
{
    if (slot != VS_SLOT_NONE && (f->where == NULL || vs_where_holds(x, f->where, slot)))
        mark(f, s, slot);
}

/* Looks up ids that are on their way from memory together. */
static void mark_by_map(const struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                        const uint64_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        vs_idmap_prefetch(&x->ids, ids[i]);
    for (uint32_t i = 0; i < count; i++)
        vs_idmap_prefetch_row(&x->ids, ids[i]);
    for (uint32_t i = 0; i < count; i++)
        mark_one(x, f, s, vs_find_visible(x, ids[i], s->position));
}

/* Ids that count from 0 on are often the slots themselves, so that is tried first: it saves
 * one of two accesses, or two of three where ids are hashed. Where it is mostly in vain, as after a
 * bulk load, whose rows lie beside those near them, it is not tried again: it would be one more. */
static void mark_ids(const struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                     const uint64_t *ids, uint32_t count)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire), rest = 0;
    uint64_t others[BATCH];

    if (f->ids_differ) {
        mark_by_map(x, f, s, ids, count);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] < slots)
            __builtin_prefetch(vs_row_at(x, (uint32_t)ids[i]), 0, 3);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)ids[i];

        if (ids[i] < slots && vs_row_visible(x, slot, s->position) &&
            vs_row_at(x, slot)->id == ids[i])
            mark_one(x, f, s, slot);
        else
            others[rest++] = ids[i];
    }
    f->ids_differ = rest > count / 2;
    mark_by_map(x, f, s, others, rest);
}

static int list_ids(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    const struct vshard_filter *g = &f->given;
    int rc = list_begin(x, f, s, g->count);

    for (uint64_t i = 0; rc == VSHARD_OK && i < g->count && !vs_limits_ended(f->limits, BATCH);
         i += BATCH)
        mark_ids(x, f, s, g->ids + i, g->count - i < BATCH ? (uint32_t)(g->count - i) : BATCH);
    if (rc == VSHARD_OK)
        list_end(f, s);
    return rc;
}

/* A word of the bits, without those beyond the last. */
static uint64_t bits_at(const struct vshard_filter *g, uint64_t word)
{
    uint64_t left = g->count - word * 64;

    return left < 64 ? g->bits[word] & ((1ull << left) - 1) : g->bits[word];
}

/* Appends the ids of a word's bits, for which there is room for 64 and FEW. How many there are
 * cannot be predicted, and to be wrong costs more than to take few in any case. */
static uint32_t take_ids(uint64_t word, uint64_t first, uint64_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < FEW; i++) {
        ids[count] = first + (uint64_t)__builtin_ctzll(word | 1ull << 63);
        count += word != 0;
        word &= word - 1;
    }
    for (; word != 0; word &= word - 1)
        ids[count++] = first + (uint64_t)__builtin_ctzll(word);
    return count;
}

static int list_bits(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    uint64_t ids[BATCH], words = (f->given.count + 63) / 64;
    bool sparse = f->set < words / SPARSE_ONE_IN;
    uint32_t count = 0;
    int rc = list_begin(x, f, s, f->set);

    for (uint64_t i = 0; rc == VSHARD_OK && i < words; i++) {
        uint64_t word = bits_at(&f->given, i);

        if (sparse && word == 0)
            continue;
        if (count > BATCH - 64 - FEW) {
            mark_ids(x, f, s, ids, count);
            count = 0;
            if (vs_limits_ended(f->limits, BATCH))
                break;
        }
        count = take_ids(word, i * 64, ids, count);
    }
    if (rc == VSHARD_OK) {
        mark_ids(x, f, s, ids, count);
        list_end(f, s);
    }
    return rc;
}

/* Those of a word of rows, from `first` on. */
static void mark_rows(const struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                      uint32_t first, uint64_t word)
{
    for (; word != 0; word &= word - 1) {
        uint32_t slot = first + (uint32_t)__builtin_ctzll(word);

        if (vs_row_visible(x, slot, s->position) && vs_filter_asks(x, f, slot))
            mark(f, s, slot);
    }
}

/* Asks about every row. */
static int list_rows(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    int rc = list_begin(x, f, s, LISTED_MAX < slots ? LISTED_MAX : slots);
    bool over = false;

    if (rc == VSHARD_OK && slots > s->marks_words * 64)
        slots = (uint32_t)s->marks_words * 64; /* newer rows are not seen */
    for (uint32_t e = 0; rc == VSHARD_OK && !over && e < vs_extents_for(slots); e++) {
        uint64_t words[WHERE_WORDS];

        vs_filter_rows(x, f, slots, e, words);
        for (uint32_t i = 0; i < WHERE_WORDS && !over; i++) {
            mark_rows(x, f, s, e * VS_EXTENT_ROWS + 64 * i, words[i]);
            over = vs_limits_ended(f->limits, (uint64_t)__builtin_popcountll(words[i]));
        }
    }
    if (rc == VSHARD_OK)
        list_end(f, s);
    return rc;
}

/* Finds all rows that are allowed, if they were not found yet and no limit ends the call; they stay
 * in this scratch. */
int vs_filter_list(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    if (f->marks != NULL)
        return VSHARD_OK;
    return f->by_id ? list_bits(x, f, s) : list_rows(x, f, s);
}

/* Set bits of whole words: those by which they differ from zeros. */
static uint64_t ones(const struct vshard_index *x, const uint64_t *words, uint64_t count)
{
    static const uint64_t zeros[PIECE];
    uint64_t set = 0;

    for (uint64_t i = 0; i < count;) {
        uint64_t size = count - i < PIECE ? count - i : PIECE;
        const void *pieces[PIECES];
        int32_t in[PIECES];
        uint32_t n = 0;

        for (; n < PIECES && count - i >= size; i += size)
            pieces[n++] = words + i;
        x->kernel.hamming_many((const void *)zeros, pieces, n, size * sizeof *words, in);
        while (n > 0)
            set += (uint64_t)in[--n];
    }
    return set;
}

/* Set bits, at most so many: exactly, or of words spread over all if these are many and dense.
 * UINT64_MAX where the bits are so many more than the rows that they say nothing. */
static uint64_t count_bits(const struct vshard_index *x, const struct vshard_filter *g)
{
    uint64_t words = (g->count + 63) / 64, set = 0;

    if (words > x->live + 1)
        return UINT64_MAX;
    for (uint64_t i = 0; i < SAMPLE_WORDS && words > COUNTED_WORDS; i++)
        set += (uint64_t)__builtin_popcountll(bits_at(g, vs_mix64(i + 1) % words));
    if (set > SAMPLE_WORDS * 64 / DENSE_ONE_IN)
        return set * words / SAMPLE_WORDS;
    set = ones(x, g->bits, g->count / 64);
    return g->count % 64 == 0 ? set : set + (uint64_t)__builtin_popcountll(bits_at(g, words - 1));
}

/* The share of the live rows that is allowed, by a sample that is the same each time. */
static double sample(const struct vshard_index *x, struct vs_filter *f, uint32_t position)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    uint32_t live = 0, allowed = 0, at[SAMPLE];

    for (uint32_t i = 0; i < SAMPLE && slots > 0; i++) {
        at[i] = (uint32_t)(vs_mix64(i + 1) % slots);
        __builtin_prefetch(vs_row_at(x, at[i]), 0, 3);
        if (f->where != NULL)
            vs_where_request(x, f->where, at[i]);
    }
    for (uint32_t i = 0; i < SAMPLE && slots > 0; i++) {
        live += vs_row_visible(x, at[i], position);
        allowed += vs_filter_allows(x, f, at[i], position);
    }
    return live > 0 ? ((double)allowed + 0.5) / ((double)live + 0.5) : 1;
}

/* The beam in which twice k allowed rows are to be expected: so one query in some hundred finds
 * fewer than k and has to begin again, where of half as many again one in fifteen does. */
uint32_t vs_filter_ef(const struct vs_filter *f, uint32_t ef, size_t k)
{
    double wide = (double)ef + 2.0 * (double)k * (1 / f->share - 1);

    return wide < VSHARD_EF_MAX ? (uint32_t)wide : VSHARD_EF_MAX;
}

/* Of one row that is allowed, looked at by its code or, where it has none, by its vector. */
static double scan_cost(const struct vshard_index *x, bool trained)
{
    return vs_elements_are_codes(x) || !trained || x->by_vectors
               ? 15 + (double)x->elements.stride / 40
               : 5 + (double)x->codes.stride / 60;
}

/* Of one row in the beam: a tenth or more are followed, and each of their neighbours is looked at.
 * By what, is settled when there is a graph. */
static double walk_cost(const struct vshard_index *x, bool trained)
{
    size_t bytes = !trained                 ? x->elements.stride
                   : x->sketches.stride > 0 ? x->sketches.stride
                                            : x->traversal->stride;

    return 30 + 0.3 * x->degree * (2 + (double)bytes / 64);
}

/* What finding the allowed rows takes, if they are not listed: by their ids, or by asking
 * about all rows, of which conditions look at 64 at once. */
static double list_cost(const struct vshard_index *x, const struct vs_filter *f)
{
    double live = (double)x->live;

    if (f->listed != NULL)
        return 0;
    if (f->by_id)
        return (double)f->allowed * 6 + live / 30;
    if (f->given.kind == VSHARD_FILTER_WHERE)
        return live * (0.15 * f->where->comparisons + 8.0 * f->where->sets);
    return live * 5;
}

/* Is a scan of the allowed rows cheaper than a walk with this beam? In nanoseconds, as
 * measured; it is their relation that counts. */
bool vs_filter_scans(const struct vshard_index *x, const struct vs_filter *f, uint32_t ef)
{
    bool trained = atomic_load_explicit(&x->trained, memory_order_acquire);

    return list_cost(x, f) + (double)f->allowed * scan_cost(x, trained) <=
           4000 + ef * walk_cost(x, trained);
}

/* Finds out what the filter allows, once a call, in the scratch of its first query. */
int vs_filter_measure(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                      uint32_t ef, size_t k)
{
    const struct vshard_filter *g = &f->given;
    uint64_t rows = atomic_load_explicit(&x->live, memory_order_relaxed);
    double live = rows > 0 ? (double)rows : 1, least = 0.5 / live;
    uint64_t set = g->kind == VSHARD_FILTER_BITS ? count_bits(x, g) : UINT64_MAX;
    bool counted = set != UINT64_MAX && f->where == NULL;
    int rc = f->where != NULL ? vs_where_bind(x, f->where, s) : VSHARD_OK;

    if (rc < 0)
        return rc;
    if (g->kind == VSHARD_FILTER_IDS) {
        rc = list_ids(x, f, s);
    } else {
        f->set = set;
        f->by_id = set <= rows / 4;
        f->share = counted ? (double)set / live : (double)g->share;
        if (!(f->share > 0) && !counted)
            f->share = sample(x, f, s->position);
        f->share = f->share < least ? least : f->share < 1 ? f->share : 1;
        f->allowed = (uint64_t)(f->share * live);
        if (vs_filter_scans(x, f, vs_filter_ef(f, ef, k)))
            rc = vs_filter_list(x, f, s);
    }
    if (f->marks != NULL)
        f->share = (double)f->allowed / live;
    f->share = f->share < least ? least : f->share < 1 ? f->share : 1;
    return rc;
}

/* Leaves in a walk's pool the rows of its beam that may be answered. */
void vs_filter_pool(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_pool *pool = w->aside ? &w->scratch->ranked : &w->scratch->pool;
    uint32_t kept = 0;

    if (w->aside)
        vs_walk_narrow(x, w);
    for (uint32_t i = 0; i < pool->count; i++) {
        uint32_t slot = pool->slots[i] & ~VS_POOL_EXPANDED;

        __builtin_prefetch(vs_row_at(x, slot), 0, 3);
        if (w->filter->where != NULL)
            vs_where_request(x, w->filter->where, slot);
    }
    for (uint32_t i = 0; i < pool->count; i++) {
        uint32_t slot = pool->slots[i] & ~VS_POOL_EXPANDED;

        pool->keys[kept] = pool->keys[i];
        pool->slots[kept] = pool->slots[i];
        kept += vs_filter_allows(x, w->filter, slot, w->scratch->position);
    }
    pool->count = w->aside || kept < w->rank ? kept : w->rank;
    if (!w->aside)
        return;
    w->scratch->pool.count = w->scratch->pool.next = 0;
    w->scratch->pool.cap = w->rank;
    x->kernel.pool_push(&w->scratch->pool, pool->keys, pool->slots, kept);
}
