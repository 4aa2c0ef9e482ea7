/* filter.c - searches that may answer some rows only.
 *
 * How many rows a filter allows decides how to search (vs_filter_scans):
 *
 *   few    they are listed once a call, and each query scans the list: exact.
 *   more   the walk is that of any search, and does not ask the filter. Its beam is wider
 *          the fewer rows are allowed, so that it should hold k that are (vs_filter_ef);
 *          the filter is asked about the rows in it, nearest first.
 *
 * A beam that holds k allowed rows holds the nearest k, to the recall that beams have. One
 * that holds fewer is widened as long as that costs less than a scan of what is allowed,
 * which then follows. So a filter that allows nothing near the query, which no estimate
 * can know, costs time and not answers.
 *
 * Walks that keep to the allowed rows, and pass through the others by two edges at once
 * (ACORN-1: Patel et al. 2024), were tried. To ask about all rows met costs more than
 * their sketches do: they were two to ten times as slow at equal recall, and where no
 * allowed row is near the query they ended anywhere (bench/RESULTS.md). */
#include "index/state.h"

enum {
    SAMPLE = 256,         /* rows that are tried where allowed rows cannot be counted */
    LISTED_MAX = 1 << 17, /* allowed rows that are listed, at most */
    SAMPLE_WORDS = 256,   /* of bits that are looked at first */
    DENSE_ONE_IN = 32,    /* where more bits are set, a sample of them will do */
    BATCH = 32,           /* ids looked up at once */
    GROUP = 64            /* rows measured at once */
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

int vs_filter_check(const struct vshard_index *x, const struct vshard_filter *given,
                    struct vs_filter *f)
{
    struct vshard_filter *g = &f->given;
    int rc;

    memset(f, 0, sizeof *f);
    rc = vs_options_read(g, sizeof *g, given, VS_SIZE_THROUGH(struct vshard_filter, reserved));
    if (rc < 0)
        return refuse(x, rc, "filter.size", given->size, sizeof *g);
    if (g->kind < VSHARD_FILTER_IDS || g->kind > VSHARD_FILTER_CALL)
        return refuse(x, VSHARD_EINVAL, "filter.kind", g->kind, VSHARD_FILTER_CALL);
    if (g->kind == VSHARD_FILTER_IDS && g->ids == NULL && g->count > 0)
        return refuse(x, VSHARD_EINVAL, "filter.ids: NULL", (int64_t)g->count, 0);
    if (g->kind == VSHARD_FILTER_BITS && g->bits == NULL && g->count > 0)
        return refuse(x, VSHARD_EINVAL, "filter.bits: NULL", (int64_t)g->count, 0);
    if (g->kind == VSHARD_FILTER_CALL && g->allow == NULL)
        return refuse(x, VSHARD_EINVAL, "filter.allow: NULL", 0, 0);
    if (!(g->share >= 0.0f && g->share <= 1.0f))
        return refuse(x, VSHARD_EINVAL, "filter.share", (int64_t)g->share, 1);
    if (g->reserved != 0)
        return refuse(x, VSHARD_EINVAL, "filter.reserved", g->reserved, 0);
    return VSHARD_OK;
}

static bool asks(struct vs_filter *f, uint64_t id)
{
    const struct vshard_filter *g = &f->given;

    f->checks++;
    if (g->kind == VSHARD_FILTER_BITS)
        return id < g->count && bit_of(g->bits, id);
    return g->allow(g->ctx, id) != 0;
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
    return asks(f, vs_row_at(x, slot)->id);
}

/* ---- how many rows it allows ---- */

/* Adds a row to the marks, and to the list while there is room. */
static void mark(struct vs_filter *f, struct vs_scratch *s, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64);

    if (slot == VS_SLOT_NONE || (s->marks[slot / 64] & bit))
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

/* Looks up ids that are on their way from memory together. */
static void mark_ids(const struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                     const uint64_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        vs_idmap_prefetch(&x->ids, ids[i]);
    for (uint32_t i = 0; i < count; i++)
        vs_idmap_prefetch_row(&x->ids, ids[i]);
    for (uint32_t i = 0; i < count; i++)
        mark(f, s, vs_find_visible(x, ids[i], s->position));
}

static int list_ids(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    const struct vshard_filter *g = &f->given;
    int rc = list_begin(x, f, s, g->count);

    for (uint64_t i = 0; rc == VSHARD_OK && i < g->count; i += BATCH)
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

static int list_bits(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                     uint64_t set)
{
    uint64_t ids[BATCH];
    uint32_t count = 0;
    int rc = list_begin(x, f, s, set);

    for (uint64_t i = 0; rc == VSHARD_OK && i * 64 < f->given.count; i++) {
        for (uint64_t word = bits_at(&f->given, i); word != 0; word &= word - 1) {
            ids[count++] = i * 64 + (uint64_t)__builtin_ctzll(word);
            if (count == BATCH) {
                mark_ids(x, f, s, ids, count);
                count = 0;
            }
        }
    }
    if (rc == VSHARD_OK) {
        mark_ids(x, f, s, ids, count);
        list_end(f, s);
    }
    return rc;
}

/* Asks about every row. */
static int list_rows(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    int rc = list_begin(x, f, s, LISTED_MAX < slots ? LISTED_MAX : slots);
    uint64_t room = (uint64_t)s->marks_words * 64;

    for (uint32_t slot = 0; rc == VSHARD_OK && slot < slots && slot < room; slot++) {
        if (vs_filter_allows(x, f, slot, s->position))
            mark(f, s, slot);
    }
    if (rc == VSHARD_OK)
        list_end(f, s);
    return rc;
}

/* Set bits, at most so many: of words spread over all if these are dense, else exactly.
 * UINT64_MAX where the bits are so many more than the rows that they say nothing. */
static uint64_t count_bits(const struct vshard_index *x, const struct vshard_filter *g)
{
    uint64_t words = (g->count + 63) / 64, set = 0;

    if (words > x->live + 1)
        return UINT64_MAX;
    for (uint64_t i = 0; i < SAMPLE_WORDS && words > 4 * SAMPLE_WORDS; i++)
        set += (uint64_t)__builtin_popcountll(bits_at(g, vs_mix64(i + 1) % words));
    if (set > SAMPLE_WORDS * 64 / DENSE_ONE_IN)
        return set * words / SAMPLE_WORDS;
    set = 0;
    for (uint64_t i = 0; i < words; i++)
        set += (uint64_t)__builtin_popcountll(bits_at(g, i));
    return set;
}

/* The share of the live rows that is allowed, by a sample that is the same each time. */
static double sample(const struct vshard_index *x, struct vs_filter *f, uint32_t position)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire);
    uint32_t live = 0, allowed = 0, at[SAMPLE];

    for (uint32_t i = 0; i < SAMPLE && slots > 0; i++) {
        at[i] = (uint32_t)(vs_mix64(i + 1) % slots);
        __builtin_prefetch(vs_row_at(x, at[i]), 0, 3);
    }
    for (uint32_t i = 0; i < SAMPLE && slots > 0; i++) {
        live += vs_row_visible(x, at[i], position);
        allowed += vs_filter_allows(x, f, at[i], position);
    }
    return live > 0 ? ((double)allowed + 0.5) / ((double)live + 0.5) : 1;
}

/* The beam in which k allowed rows, and half as many again, are to be expected. */
uint32_t vs_filter_ef(const struct vs_filter *f, uint32_t ef, size_t k)
{
    double wide = (double)ef + 1.5 * (double)k * (1 / f->share - 1);

    return wide < VSHARD_EF_MAX ? (uint32_t)wide : VSHARD_EF_MAX;
}

/* Is a scan of the allowed rows cheaper than a walk with this beam? Both in nanoseconds
 * where sketches have 64 bytes; it is their relation that counts. A row in a beam was chosen
 * from all its neighbours. A row of a scan is read from anywhere, and what was not listed
 * is found by its id, or by asking about all rows. */
bool vs_filter_scans(const struct vshard_index *x, const struct vs_filter *f, uint32_t ef)
{
    double allowed = (double)f->allowed, live = (double)x->live;
    const struct vs_column *exact =
        vs_exact(x, vs_is_lean(x) && atomic_load_explicit(&x->trained, memory_order_acquire));
    double scan = allowed * (15 + (double)exact->stride / 40);
    double walk = 4000 + (double)ef * x->degree * 3;

    if (f->listed == NULL)
        scan += f->by_id ? allowed * 15 + live / 30 : live * 5;
    return scan <= walk;
}

/* Finds out what the filter allows, once a call, in the scratch of its first query. */
int vs_filter_measure(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                      uint32_t ef, size_t k)
{
    const struct vshard_filter *g = &f->given;
    uint64_t rows = atomic_load_explicit(&x->live, memory_order_relaxed);
    double live = rows > 0 ? (double)rows : 1, least = 0.5 / live;
    uint64_t set = g->kind == VSHARD_FILTER_BITS ? count_bits(x, g) : UINT64_MAX;
    int rc = VSHARD_OK;

    if (g->kind == VSHARD_FILTER_IDS) {
        rc = list_ids(x, f, s);
    } else {
        f->by_id = set <= rows / 4;
        f->share = set != UINT64_MAX ? (double)set / live : (double)g->share;
        if (!(f->share > 0) && set == UINT64_MAX)
            f->share = sample(x, f, s->position);
        f->share = f->share < least ? least : f->share < 1 ? f->share : 1;
        f->allowed = (uint64_t)(f->share * live);
        if (vs_filter_scans(x, f, vs_filter_ef(f, ef, k)))
            rc = f->by_id ? list_bits(x, f, s, set) : list_rows(x, f, s);
    }
    if (f->marks != NULL)
        f->share = (double)f->allowed / live;
    f->share = f->share < least ? least : f->share < 1 ? f->share : 1;
    return rc;
}

/* Leaves in a walk's pool the rows that may be answered. */
void vs_filter_pool(const struct vshard_index *x, struct vs_walk *w)
{
    struct vs_pool *pool = &w->scratch->pool;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < pool->count; i++)
        __builtin_prefetch(vs_row_at(x, pool->slots[i] & ~VS_POOL_EXPANDED), 0, 3);
    for (uint32_t i = 0; i < pool->count; i++) {
        uint32_t slot = pool->slots[i] & ~VS_POOL_EXPANDED;

        pool->keys[kept] = pool->keys[i];
        pool->slots[kept] = pool->slots[i];
        kept += vs_filter_allows(x, w->filter, slot, w->scratch->position);
    }
    pool->count = kept;
}

/* ---- scanning ---- */

static void measure_rows(struct vshard_index *x, struct vs_walk *w, struct vs_top *top,
                         uint32_t count)
{
    struct vs_scratch *s = w->scratch;

    vs_walk_request(vs_exact(x, w->query.codes_only), s, count);
    vs_distances(x, &w->query, s, count);
    for (uint32_t i = 0; i < count; i++) {
        if (top->count == top->cap && s->distances[i] > top->items[0].distance)
            continue;
        vs_top_offer(top, (struct vs_candidate){ s->distances[i], s->slots[i],
                                                 vs_row_at(x, s->slots[i])->id });
    }
}

static bool is_over(struct vs_walk *w, uint32_t more)
{
    w->cut = w->limits && vs_limits_cut(w->limits, w->scratch->distance_count - w->counted, more);
    return w->cut;
}

static int scan_listed(struct vshard_index *x, struct vs_walk *w, struct vs_top *top)
{
    const struct vs_filter *f = w->filter;
    struct vs_scratch *s = w->scratch;

    for (uint32_t first = 0; first < f->listed_count; first += GROUP) {
        uint32_t count = f->listed_count - first < GROUP ? f->listed_count - first : GROUP;

        for (uint32_t i = 0; i < count; i++) {
            int rc = vs_touch(x, f->listed[first + i]);

            if (rc < 0)
                return rc;
            s->slots[i] = f->listed[first + i];
        }
        measure_rows(x, w, top, count);
        if (is_over(w, count))
            break;
    }
    s->row_count += f->listed_count;
    return VSHARD_OK;
}

/* Offers all allowed rows, by their exact distances, until a limit ends it. */
int vs_filter_scan(struct vshard_index *x, struct vs_walk *w, struct vs_top *top)
{
    uint32_t slots = atomic_load_explicit(&x->slot_count, memory_order_acquire), gathered = 0;
    struct vs_scratch *s = w->scratch;

    if (w->filter != NULL && w->filter->listed != NULL)
        return scan_listed(x, w, top);
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (slot % VS_EXTENT_ROWS == 0) {
            int rc = vs_touch(x, slot);

            if (rc < 0)
                return rc;
            if (is_over(w, GROUP))
                return VSHARD_OK;
        }
        s->row_count++;
        if (!vs_filter_allows(x, w->filter, slot, s->position))
            continue;
        s->slots[gathered++] = slot;
        if (gathered < GROUP)
            continue;
        measure_rows(x, w, top, gathered);
        if (is_over(w, gathered))
            return VSHARD_OK;
        gathered = 0;
    }
    measure_rows(x, w, top, gathered);
    return VSHARD_OK;
}
