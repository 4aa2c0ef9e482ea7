/* calibrate.c - how wide a beam must be for which recall.
 *
 * What a beam finds depends on the vectors, on their number and on the graph, so it is
 * measured: queries are answered in wider and wider beams, and compared with the nearest of
 * all rows by their vectors. These are looked for among the nearest 400 by code; where the
 * error of codes, at four standard deviations, does not rule out all others, every row is
 * measured. Where the caller has no queries, rows of the index stand for them, spread evenly over
 * the slots, whose order is that of their arrival or, after a bulk load, of where they lie.
 *
 * A row is an easy question for the graph that it is in: a walk that comes to it finds
 * its neighbours' names there. So a row that is asked is not there for its own walk, nor
 * for the scan: it is marked as seen before the walk begins. What is left would be harder
 * than a question that was never a row, because its neighbours have passed each other
 * over on its account, and there is a hole where it was. So only probes are asked: one
 * row in 32, for which nobody is ever passed over (graph_prune.c). They cost the graph a
 * few edges that are not needed, and are asked like strangers.
 *
 * What else was tried, on 300,000 image descriptors where 10,000 questions that are no rows
 * found 0.918: letting the walk pass through the row finds 0.955; leaving out any row
 * 0.897; repairing the graph around it as if it had been removed 0.946. Asking rows just
 * before they are linked is exact, but new rows are not like all where rows come in an
 * order, as words by frequency do (0.02 too much there), and a bulk load links all at once.
 *
 * Of a lean index the vectors are gone, and its answers are the nearest by what codes stand
 * for. How many of these are the nearest by what was given is found by the same error once
 * more: a row is taken for a vector drawn from those that have its code, each element anywhere
 * within half a step. The nearest by such vectors are what is to be found, and so are those
 * that are asked, of which walks know the code. What no beam finds is the part that rounding takes
 * (of words 0.02); beyond it, wider beams are not tried.
 *
 * Everything here is integers, or sums in one fixed order, so the calibration is a
 * function of the index and takes part in its digest. What is derived
 * from it for a search is not: there ef and recall are interpolated, between the beams that were
 * measured as if what is missed fell by a power of ef (on a straight line between 8 and 12 a beam
 * of 10 would find 0.015 more than is expected of it), and between k of 1, 10 and 100 by a power
 * of k. */
#include "index/state.h"

#include <math.h>

enum {
    ASKED_DEFAULT = 2000,
    PROBES_MIN = 100, /* fewer would tell less than rows that are harder */
    NEAREST = 100,    /* the last of ks */
    ANSWERS = 128,    /* those, and who is answered in place of those that a walk missed */
    CANDIDATES = 400, /* nearest by code, among whom the nearest are looked for */
    PLACES = 256      /* of a hash table for them: a power of two */
};

static const uint32_t ks[CALIBRATED_KS] = { 1, 10, 100 };
static const uint32_t efs[CALIBRATED_EFS] = { 8,   12,  16,  24,  32,   48,   64,   100,  128, 192,
                                              256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096 };

struct nearest {
    uint32_t without; /* a slot that is not taken */
    uint32_t count;
    uint32_t slots[ANSWERS]; /* nearest first */
    double distances[ANSWERS];
};

struct asked {
    uint32_t slot; /* of a row; else VS_SLOT_NONE */
    uint32_t count;
    uint32_t slots[ANSWERS]; /* nearest first, as searches measure */
    uint8_t ranks[ANSWERS];  /* by the vectors as they were given: 0 is the nearest */
};

struct calibrating {
    struct vshard_index *x;
    const unsigned char *queries; /* NULL: rows are asked */
    struct asked *asked;
    uint32_t count;
    uint32_t ef; /* at hand */
    _Atomic uint32_t found[CALIBRATED_KS];
    uint32_t findable[CALIBRATED_KS]; /* by the widest beam that there could be */
};

/* Of one query, how many neighbours there are to be found: a row is not its own. */
static uint64_t wanted(const struct vs_calibration *c, size_t k)
{
    return c->rows - 1 < ks[k] ? c->rows - 1 : ks[k];
}

/* ---- asking ---- */

/* By which answers are ranked. */
static void vector_of(const struct vshard_index *x, uint32_t slot, float *out)
{
    if (vs_is_codes_only(x))
        vs_decode(x, slot, 0, x->dim, out);
    else
        vs_widen(x, vs_column_at(&x->elements, slot), out);
}

/* As it was given, or may have been. */
static void original_of(const struct vshard_index *x, uint32_t slot, float *out)
{
    float unit = 1.0f / x->quantizer.scale / 256;
    uint64_t drawn = 0;

    vector_of(x, slot, out);
    if (!vs_is_codes_only(x))
        return;
    if (x->metric == VSHARD_METRIC_COSINE)
        unit /= vs_row_at(x, slot)->inverse_length;
    for (size_t i = 0; i < x->dim; i++, drawn >>= 8) {
        float moved;

        if (i % 8 == 0)
            drawn = vs_mix64((uint64_t)slot << 32 | (i + 1));
        moved = ((float)(drawn & 0xff) - 127.5f) * unit; /* by itself, so that it is rounded alike
                                                            everywhere */
        out[i] += moved;
    }
}

/* The row of this slot as a query that it does not answer itself. */
static struct vs_query query_of_row(struct vshard_index *x, uint32_t slot, struct vs_scratch *s)
{
    struct vs_query q = { .code = vs_code_at(x, slot),
                          .space = vs_walk_space(x),
                          .without = slot + 1 };

    if (x->metric != VSHARD_METRIC_IP)
        return q;
    original_of(x, slot, s->vector);
    vs_encode_dot_query(x, s->vector, (int8_t *)s->code);
    q.code = s->code;
    q.space = SPACE_CODE_DOT;
    return q;
}

/* Queries were looked at before, and are not refused any more. */
static struct vs_query query_of(const struct calibrating *c, uint32_t at, struct vs_scratch *s)
{
    struct vs_query q;

    if (c->queries == NULL)
        return query_of_row(c->x, c->asked[at].slot, s);
    vs_query_check(c->x, c->queries + at * vs_vector_bytes(c->x), true, s, &q);
    return q;
}

static uint32_t group_size(const struct calibrating *c, uint32_t group)
{
    uint32_t left = c->count - group * WALKS;

    return left < WALKS ? left : WALKS;
}

/* Lists up to s->list_cap live rows from *slot on. */
static uint32_t list_rows(const struct vshard_index *x, struct vs_scratch *s, uint32_t *slot)
{
    uint32_t slots = atomic_load(&x->slot_count), count = 0;

    for (; *slot < slots && count < s->list_cap; ++*slot) {
        if (vs_row_state(x, *slot) != VS_ROW_LIVE)
            continue;
        s->slots[count] = *slot;
        s->rows[count++] = vs_code_at(x, *slot);
    }
    return count;
}

/* By the metric, but for what is the same for all rows. Overwrites the row. */
static double distance(const struct vshard_index *x, const float *query, float *row)
{
    double sum = 0;

    if (x->metric == VSHARD_METRIC_IP)
        return -x->kernel.dot_f64(query, row, x->dim);
    if (x->metric == VSHARD_METRIC_COSINE)
        return -x->kernel.dot_f64(query, row, x->dim) / sqrt(vs_sum_squares(x, row));
    for (size_t i = 0; i < x->dim; i++)
        row[i] = query[i] - row[i];
    if (x->metric == VSHARD_METRIC_L2SQ)
        return vs_sum_squares(x, row);
    for (size_t i = 0; i < x->dim; i++)
        sum += (double)fabsf(row[i]);
    return sum;
}

/* Takes a row among the nearest so far, if it is. */
static void keep_nearest(struct nearest *n, uint32_t slot, double d)
{
    uint32_t place = n->count;

    if (slot == n->without)
        return;
    for (; place > 0 && n->distances[place - 1] > d; place--) {
        if (place < ANSWERS) {
            n->distances[place] = n->distances[place - 1];
            n->slots[place] = n->slots[place - 1];
        }
    }
    if (place == ANSWERS)
        return;
    n->distances[place] = d;
    n->slots[place] = slot;
    n->count += n->count < ANSWERS;
}

/* The key from which on no row can be expected to be nearer than this, as of distance(): under
 * L1 each of two roundings adds 1/3 at most, on average, and has a variance of 1/12. */
static float limit_of(const struct vshard_index *x, const struct vs_scratch *s, double farthest)
{
    float dims = (float)x->dim;

    if (x->metric == VSHARD_METRIC_L1)
        return (float)farthest * x->quantizer.scale + dims / 3 + 4 * sqrtf(dims / 6);
    if (x->metric == VSHARD_METRIC_COSINE)
        farthest = 1 + farthest / sqrt(vs_sum_squares(x, s->vector));
    return vs_key_limit(x, (float)farthest);
}

/* Whether a row that is no candidate may be among the nearest. Inner products have no such
 * limit, nor has a lean index other vectors than codes. */
static bool may_miss(const struct vshard_index *x, const struct vs_scratch *s, double farthest)
{
    const struct vs_pool *p = &s->pool;

    if (p->count < p->cap || x->metric == VSHARD_METRIC_IP || x->by_vectors ||
        vs_elements_are_codes(x) || vs_is_codes_only(x))
        return false;
    return (float)p->keys[p->count - 1] <= limit_of(x, s, farthest);
}

/* The nearest candidates, by the vectors that `of` gives; where elements are codes, their order is
 * right. `row` has room for a vector. */
static void rank_candidates(const struct vshard_index *x, const struct vs_scratch *s,
                            void (*of)(const struct vshard_index *, uint32_t, float *), float *row,
                            struct nearest *n)
{
    for (uint32_t i = 0; i < s->pool.count; i++) {
        uint32_t slot = s->pool.slots[i];
        double d = s->pool.keys[i];

        if (!vs_elements_are_codes(x)) {
            of(x, slot, row);
            d = distance(x, s->vector, row);
        }
        keep_nearest(n, slot, d);
    }
}

static void rank_all(const struct vshard_index *x, const struct vs_scratch *s, float *row,
                     struct nearest *n)
{
    uint32_t slots = atomic_load(&x->slot_count);

    n->count = 0;
    for (uint32_t slot = 0; slot < slots; slot++) {
        if (vs_row_state(x, slot) != VS_ROW_LIVE)
            continue;
        vector_of(x, slot, row);
        keep_nearest(n, slot, distance(x, s->vector, row));
    }
}

/* UINT8_MAX: it is none of the nearest. */
static uint32_t rank_in(const struct nearest *n, uint32_t slot)
{
    uint32_t rank = 0;

    while (rank < n->count && n->slots[rank] != slot)
        rank++;
    return rank < n->count ? rank : UINT8_MAX;
}

/* `row` has room for a vector. */
static void note_nearest(const struct calibrating *c, uint32_t at, struct vs_scratch *s, float *row)
{
    struct vshard_index *x = c->x;
    struct asked *a = &c->asked[at];
    struct nearest answers = { .without = a->slot }, truth = answers;

    if (!vs_elements_are_codes(x) && c->queries != NULL)
        vs_widen(x, c->queries + at * vs_vector_bytes(x), s->vector);
    else if (!vs_elements_are_codes(x))
        original_of(x, a->slot, s->vector);
    rank_candidates(x, s, vector_of, row, &answers);
    if (answers.count >= NEAREST && may_miss(x, s, answers.distances[NEAREST - 1]))
        rank_all(x, s, row, &answers);
    if (vs_is_codes_only(x))
        rank_candidates(x, s, original_of, row, &truth);
    a->count = answers.count;
    for (uint32_t i = 0; i < a->count; i++) {
        a->slots[i] = answers.slots[i];
        a->ranks[i] = (uint8_t)(vs_is_codes_only(x) ? rank_in(&truth, a->slots[i]) : i);
    }
}

static void scan_group(void *arg, uint32_t group, uint32_t strand)
{
    const struct calibrating *c = arg;
    struct vshard_index *x = c->x;
    struct vs_scratch *s = &x->strands[strand * WALKS];
    uint32_t count = group_size(c, group), slot = 0, listed;
    struct vs_query queries[WALKS];

    for (uint32_t i = 0; i < count; i++) {
        queries[i] = query_of(c, group * WALKS + i, &s[i]);
        s[i].pool.count = s[i].pool.next = 0;
        s[i].pool.cap = CANDIDATES + 1; /* and the row itself */
    }
    while ((listed = list_rows(x, s, &slot)) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            vs_keys(x, &queries[i], s->rows, listed, s->keys);
            x->kernel.pool_push(&s[i].pool, s->keys, s->slots, listed);
        }
    }
    for (uint32_t i = 0; i < count; i++)
        note_nearest(c, group * WALKS + i, &s[i], s[(i + 1) % WALKS].vector);
}

/* The place of a slot in a table, or the empty one where it belongs. */
static uint32_t place_of(const struct asked *a, const uint8_t *table, uint32_t slot)
{
    uint32_t place = (uint32_t)vs_mix64(slot) % PLACES;

    while (table[place] != 0 && a->slots[table[place] - 1] != slot)
        place = (place + 1) % PLACES;
    return place;
}

/* The k nearest of those that were met are the answer. */
static void count_right(const struct calibrating *c, const struct asked *a, const bool *met,
                        uint32_t right[CALIBRATED_KS])
{
    for (size_t k = 0; k < CALIBRATED_KS; k++) {
        uint32_t answers = 0;

        right[k] = 0;
        for (uint32_t i = 0; i < a->count && answers < ks[k]; i++) {
            answers += met[i];
            right[k] += met[i] && a->ranks[i] < ks[k];
        }
        if (right[k] >= c->x->live) /* of a query, whom all rows are neighbours */
            right[k] = (uint32_t)c->x->live - 1;
    }
}

static void count_found(struct calibrating *c, const struct vs_pool *p, const struct asked *a)
{
    uint32_t right[CALIBRATED_KS];
    uint8_t table[PLACES] = { 0 }; /* places in slots[], from 1 */
    bool met[ANSWERS + 1] = { false };

    for (uint32_t i = 0; i < a->count; i++)
        table[place_of(a, table, a->slots[i])] = (uint8_t)(i + 1);
    for (uint32_t i = 0; i < p->count; i++)
        met[table[place_of(a, table, p->slots[i] & ~VS_POOL_EXPANDED)]] = true;
    count_right(c, a, met + 1, right);
    for (size_t k = 0; k < CALIBRATED_KS; k++)
        atomic_fetch_add_explicit(&c->found[k], right[k], memory_order_relaxed);
}

static void count_findable(struct calibrating *c)
{
    bool met[ANSWERS];

    memset(met, true, sizeof met);
    for (uint32_t at = 0; at < c->count; at++) {
        uint32_t right[CALIBRATED_KS];

        count_right(c, &c->asked[at], met, right);
        for (size_t k = 0; k < CALIBRATED_KS; k++)
            c->findable[k] += right[k];
    }
}

static void walk_group(void *arg, uint32_t group, uint32_t strand)
{
    struct calibrating *c = arg;
    struct vs_walk walks[WALKS] = { 0 };
    uint32_t count = group_size(c, group);

    for (uint32_t i = 0; i < count; i++) {
        walks[i].scratch = &c->x->strands[strand * WALKS + i];
        walks[i].query = query_of(c, group * WALKS + i, walks[i].scratch);
    }
    vs_graph_walk(c->x, walks, count, vs_walk_width(c->x, c->ef));
    for (uint32_t i = 0; i < count; i++) {
        vs_graph_rank(c->x, &walks[i]);
        count_found(c, &walks[i].scratch->pool, &c->asked[group * WALKS + i]);
    }
}

/* ---- the measurement ---- */

static bool is_live(const struct vshard_index *x, uint32_t slot)
{
    return vs_row_state(x, slot) == VS_ROW_LIVE;
}

static bool is_live_probe(const struct vshard_index *x, uint32_t slot)
{
    return vs_is_probe(slot) && is_live(x, slot);
}

/* The slots are cut into `most` equal runs, and of each the first row is taken that may be
 * asked, or of the next. */
static uint32_t choose_rows(struct calibrating *c, uint32_t most,
                            bool (*may)(const struct vshard_index *, uint32_t))
{
    const struct vshard_index *x = c->x;
    uint32_t slots = atomic_load(&x->slot_count), chosen = 0;

    for (uint32_t slot = 0; slot < slots && chosen < most; slot++) {
        if (slot >= (uint64_t)slots * chosen / most && may(x, slot))
            c->asked[chosen++].slot = slot;
    }
    return chosen;
}

/* A wider beam would find nothing new. */
static bool is_enough(const struct calibrating *c, const struct vs_calibration *out, size_t e)
{
    uint64_t ten = c->findable[1], hundred = c->findable[2];

    return efs[e] >= out->rows ||
           (efs[e] > ks[2] && out->found[1][e] * UINT64_C(1000) >= ten * 995 &&
            out->found[2][e] * UINT64_C(100) >= hundred * 99);
}

static int measure(struct calibrating *c, struct vs_calibration *out)
{
    uint32_t groups = (c->count + WALKS - 1) / WALKS;
    int rc = vs_strands_reserve(c->x, CANDIDATES + 1);

    if (rc == VSHARD_OK)
        vs_parallel(c->x, groups, scan_group, c);
    if (rc == VSHARD_OK)
        count_findable(c);
    for (size_t e = 0; rc == VSHARD_OK && e < CALIBRATED_EFS; e++) {
        c->ef = efs[e];
        rc = vs_strands_reserve(c->x, vs_walk_width(c->x, c->ef));
        if (rc < 0)
            break;
        for (size_t k = 0; k < CALIBRATED_KS; k++)
            atomic_store(&c->found[k], 0);
        vs_parallel(c->x, groups, walk_group, c);
        for (size_t k = 0; k < CALIBRATED_KS; k++) {
            uint32_t found = atomic_load(&c->found[k]), before = e > 0 ? out->found[k][e - 1] : 0;

            out->found[k][e] = found > before ? found : before;
        }
        if (is_enough(c, out, e))
            break;
    }
    return rc;
}

static int check_queries(struct vshard_index *x, const unsigned char *queries, size_t count)
{
    struct vs_scratch *s = &x->strands[0];
    float inverse_length;

    for (size_t i = 0; i < count; i++) {
        const unsigned char *query = queries + i * vs_vector_bytes(x);
        size_t at = vs_find_unfit(x, query);

        if (at < x->dim)
            return vs_refuse(x->logger, VSHARD_EINVAL, "calibrate.refused", "queries: element",
                             (int64_t)at, x->dim);
        if (vs_length_check(x, query, s->vector, &inverse_length) != VSHARD_OK)
            return vs_refuse(x->logger, VSHARD_EINVAL, "calibrate.refused", "queries: length", 0,
                             1);
    }
    return VSHARD_OK;
}

/* Where the other one is, nobody reads: who read it has been waited for. */
static void replace(struct vshard_index *x, const struct vs_calibration *with)
{
    uint32_t other = 1 - atomic_load(&x->calibration_at);

    x->calibrations[other] = *with;
    atomic_store(&x->calibrated_rows, with->rows);
    atomic_store_explicit(&x->calibration_at, other, memory_order_release);
    vs_readers_drain(x);
}

static int calibrate(struct vshard_index *x, const void *queries, uint32_t asked)
{
    struct vs_calibration out = { .rows = x->live };
    struct calibrating c = { .x = x, .queries = queries };
    int rc;

    c.asked = vs_alloc(x->allocator, asked * sizeof *c.asked);
    if (c.asked == NULL)
        return VSHARD_ENOMEM;
    c.count = asked;
    for (uint32_t i = 0; i < asked; i++)
        c.asked[i].slot = VS_SLOT_NONE;
    if (queries == NULL)
        c.count = choose_rows(&c, asked, is_live_probe);
    if (queries == NULL && c.count < PROBES_MIN)
        c.count = choose_rows(&c, asked, is_live);
    out.asked = c.count;
    rc = measure(&c, &out);
    vs_free(x->allocator, c.asked, asked * sizeof *c.asked);
    if (rc == VSHARD_OK)
        replace(x, &out);
    return rc;
}

static int begin_calibration(struct vshard_index *x, const void *queries, size_t asked)
{
    static const struct vs_calibration none;
    int rc;

    if (!atomic_load(&x->trained))
        return VSHARD_OK;
    if (x->live < 2) { /* nobody has a neighbour */
        replace(x, &none);
        return VSHARD_OK;
    }
    rc = vs_strands_reserve(x, 0);
    if (rc == VSHARD_OK && queries != NULL) {
        rc = check_queries(x, queries, asked);
        if (rc < 0)
            return rc;
    }
    if (rc == VSHARD_OK)
        rc = calibrate(x, queries, asked ? (uint32_t)asked : ASKED_DEFAULT);
    return rc < 0 ? vs_refuse(x->logger, rc, "calibrate.refused", "memory", 0, 0) : rc;
}

int vshard_index_calibrate(struct vshard_index *index, const void *queries, size_t asked)
{
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (asked > VSHARD_ASKED_MAX)
        return vs_refuse(index->logger, VSHARD_EINVAL, "calibrate.refused", "asked", (int64_t)asked,
                         VSHARD_ASKED_MAX);
    if (queries != NULL && asked == 0)
        return vs_refuse(index->logger, VSHARD_EINVAL, "calibrate.refused", "asked", 0, 1);
    if (index->mapping.bytes != NULL)
        return vs_refuse(index->logger, VSHARD_ENOTSUP, "calibrate.refused", "index: mapped", 1, 0);
    vs_lock_take(&index->lock);
    rc = begin_calibration(index, queries, asked);
    vs_lock_leave(&index->lock);
    return rc;
}

/* What a file may say: counts that can be, and that do not fall. */
bool vs_calibration_valid(const struct vs_calibration *c)
{
    bool none = c->rows == 0 || c->asked == 0;

    if (c->rows > VSHARD_ROWS_MAX || c->asked > VSHARD_ASKED_MAX || c->rows == 1 ||
        (none && (c->rows != 0 || c->asked != 0)))
        return false;
    for (size_t k = 0; k < CALIBRATED_KS; k++) {
        for (size_t e = 0; e < CALIBRATED_EFS; e++) {
            uint32_t found = c->found[k][e], before = e > 0 ? c->found[k][e - 1] : 0;

            if (found != 0 && (none || found < before || found > c->asked * wanted(c, k)))
                return false;
            if (e > 0 && found == 0 && before != 0) {
                for (; e < CALIBRATED_EFS; e++) {
                    if (c->found[k][e] != 0)
                        return false;
                }
            }
        }
    }
    return true;
}

/* ---- reading it ---- */

static double recall_at(const struct vs_calibration *c, size_t k, size_t e)
{
    return (double)c->found[k][e] / (double)(c->asked * wanted(c, k));
}

/* The widest beam that was measured. */
static size_t widest(const struct vs_calibration *c, size_t k)
{
    size_t e = CALIBRATED_EFS - 1;

    while (e > 0 && c->found[k][e] == 0)
        e--;
    return e;
}

/* The narrowest beam that reaches this recall for ks[k], or the widest measured. It may be
 * narrower than what it is to find: callers see to that, once they have gone between ks. */
static double beam_for(const struct vs_calibration *c, size_t k, double recall)
{
    double least = 0.5 / (double)(c->asked * wanted(c, k)); /* where none was missed */
    size_t e = 0, last = widest(c, k);

    while (e < last && recall_at(c, k, e) < recall)
        e++;
    if (e > 0 && recall_at(c, k, e) > recall) {
        double many = 1 - recall_at(c, k, e - 1), few = fmax(1 - recall_at(c, k, e), least);
        double way = fmin(log(many / (1 - recall)) / log(many / few), 1);

        return efs[e - 1] * pow((double)efs[e] / efs[e - 1], way);
    }
    return efs[e];
}

/* The two of ks that k is between, and the power of the step from the first to the
 * second that leads to k: 0..1, above 1 beyond the last. */
static size_t between(size_t k, double *power)
{
    size_t lower = k < ks[1] ? 0 : 1;

    *power = log10((double)k) - (double)lower;
    return lower;
}

/* Beyond 100 nearest, as many times as wide as they are more. */
static double beam(const struct vs_calibration *c, size_t k, double recall)
{
    double power, low, high;
    size_t lower;

    if (k > ks[2])
        return beam_for(c, 2, recall) * (double)k / ks[2];
    lower = between(k, &power);
    low = beam_for(c, lower, recall);
    high = beam_for(c, lower + 1, recall);
    return low * pow(high / low, power);
}

/* With its fraction, which counts where the beam is narrow. */
double vs_calibrated_ef(const struct vs_calibration *c, size_t k, float recall)
{
    return fmin(beam(c, k, (double)recall), VSHARD_EF_MAX);
}

/* The greatest recall for which a beam of `ef` is enough; NaN if that was not measured. */
float vs_calibrated_recall(const struct vs_calibration *c, size_t k, double ef)
{
    double least = 0, most, power;
    size_t lower;

    if (c->rows == 0)
        return NAN;
    lower = between(k < ks[2] ? k : ks[2], &power);
    most = (1 - power) * recall_at(c, lower, widest(c, lower)) +
           power * recall_at(c, lower + 1, widest(c, lower + 1));
    for (int i = 0; i < 40; i++) {
        double middle = (least + most) / 2;

        if (beam(c, k, middle) <= ef + 1e-6)
            least = middle;
        else
            most = middle;
    }
    return (float)least;
}
