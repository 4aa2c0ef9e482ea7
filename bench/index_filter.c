/* index_filter.c - searches that may answer some rows only: what they find, and how fast.
 *
 * What it models: a server that answers one question a call, each with a filter over ids.
 * Of the rows a share is allowed: at random; or those nearest to the query, as where the
 * filter and the question say the same; or those farthest from it, as where they
 * contradict each other.
 *
 *     build/bench/index_filter [set [rows [queries [ids|bits|call|where]]]]
 *     VSHARD_DATA=dir build/bench/index_filter minilm384 50000 200 bits
 *
 * By `where` the filter is a comparison of an attribute, of rows allowed at random alone.
 *
 * Each query is asked four times, one after the other, each twice, of which the second counts:
 *
 *   filter   with the filter, by the least beam that finds 0.95 (or the widest)
 *   exact    with the filter and EXACT, which scans what it allows
 *   after    without it, for as many rows as the host needs to find as much among those that are
 *            allowed, which it sorts out afterwards (its part is not in the time); inf where even
 *            the widest beam does not hold them
 *   plain    without it, and without a look at who is allowed: another question, whose answers are
 *            found to the same recall by this beam
 *
 * Times are this thread's processor time. `ratio` is that of the filter over the better of exact
 * and after, the two ways to the same answers that there are without it, and then over the better
 * of exact and plain. `met` and `followed` are the rows whose sketch or code was looked at, and
 * whose edges were, by the search with the filter and by the plain one. Truth is a scan in the
 * benchmark itself, under cosine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/index.h>

#include "support/bench.h"
#include "support/random.h"

enum { K = 10, LADDER = 12, WIDEST = 1536, KINDS = 3 };

#define LEAST 0.95 /* recall */

static const uint32_t ladder[LADDER] = { 10, 16, 24, 32, 48, 64, 96, 128, 192, 384, 768, WIDEST };
static const double shares[] = { 1, 0.9, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001, 0.00001 };
static const char *const kinds[KINDS] = { "random", "nearest", "farthest" };

struct bench {
    size_t rows, dim, queries;
    uint32_t form;
    float *base, *query;       /* of length 1 */
    float *all, *all_sorted;   /* [queries x rows] distances */
    float *distances, *sorted; /* those from the query at hand */
    uint64_t *bits, *ids;
    uint64_t allowed;
    unsigned char where[32]; /* that the attribute is below what allows a share */
    size_t where_bytes;
    struct vshard_index *index;
    double ladder_recall[LADDER], ladder_us[LADDER];
    struct vshard_hit *held[LADDER]; /* [queries x ladder[i]] all that an unfiltered beam holds */
};

/* What searches did. */
struct work {
    uint64_t rows, hops;
};

struct sums {
    double filtered, exact, after, plain, right, wanted, after_right[LADDER];
    uint64_t scans;
    struct work work, plain_work;
};

static double cpu_us(void)
{
    return bench_seconds(CLOCK_THREAD_CPUTIME_ID) * 1e6;
}

/* Of length 1. */
static float *read_vectors(const char *set, const char *tail, size_t *rows, size_t *dim)
{
    struct bench_vectors v;
    float *out;

    bench_read(&v, set, tail, *rows, false);
    *rows = v.rows;
    *dim = v.dim;
    out = v.floats;
    if (v.given != v.floats)
        free(v.given);
    for (size_t i = 0; i < *rows; i++) {
        double square = 0;

        for (size_t j = 0; j < *dim; j++)
            square += (double)out[i * *dim + j] * (double)out[i * *dim + j];
        for (size_t j = 0; j < *dim; j++)
            out[i * *dim + j] *= (float)(1 / sqrt(square));
    }
    return out;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

enum { DRAWN = 1 << 30 };

static uint64_t draw(size_t row)
{
    uint64_t seed = row * 7919 + 1;

    return random_below(&seed, DRAWN);
}

static void build(struct bench *b)
{
    static const struct vshard_attribute draws = { VSHARD_ATTRIBUTE_INT64, "draw" };
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = (uint32_t)b->dim,
                                      .metric = VSHARD_METRIC_COSINE,
                                      .attributes = &draws,
                                      .attribute_count = b->form == VSHARD_FILTER_WHERE };
    int64_t *drawn = bench_allocate(b->rows, sizeof *drawn);
    const struct vshard_values values = { drawn, 0 };
    struct vshard_add_options with = { .size = sizeof with,
                                       .value_count = (uint32_t)o.attribute_count,
                                       .values = &values };

    for (size_t i = 0; i < b->rows; i++) {
        b->ids[i] = i;
        drawn[i] = (int64_t)draw(i);
    }
    bench_must("create", vshard_index_create(&o, &b->index));
    bench_must("add", vshard_index_add_with(b->index, b->ids, b->base, b->rows, &with));
    free(drawn);
}

static void take_query(struct bench *b, size_t query)
{
    b->distances = b->all + query * b->rows;
    b->sorted = b->all_sorted + query * b->rows;
}

static void measure_rows(struct bench *b, size_t query)
{
    const float *q = b->query + query * b->dim;

    take_query(b, query);
    for (size_t i = 0; i < b->rows; i++) {
        const float *v = b->base + i * b->dim;
        float sums[16] = { 0 }, sum = 0;
        size_t j = 0;

        for (; j + 16 <= b->dim; j += 16) {
            for (size_t l = 0; l < 16; l++)
                sums[l] += q[j + l] * v[j + l];
        }
        for (; j < b->dim; j++)
            sum += q[j] * v[j];
        for (size_t l = 0; l < 16; l++)
            sum += sums[l];
        b->distances[i] = 1 - sum;
    }
    memcpy(b->sorted, b->distances, b->rows * sizeof *b->sorted);
    qsort(b->sorted, b->rows, sizeof *b->sorted, by_value);
}

static int allows(const struct bench *b, uint64_t id)
{
    return b->bits[id / 64] >> id % 64 & 1;
}

static int ask(void *ctx, uint64_t id)
{
    return allows(ctx, id);
}

static void allow(struct bench *b, int kind, double share)
{
    size_t want = (size_t)ceil(share * (double)b->rows);
    float least = kind == 2 ? b->sorted[b->rows - want] : -INFINITY;
    float most = kind == 1 ? b->sorted[want - 1] : INFINITY;

    int64_t limit = (int64_t)ceil(share * DRAWN);
    const struct vshard_condition below = { VSHARD_WHERE_LT, 0, VSHARD_ATTRIBUTE_INT64, 1, 0, 0,
                                            &limit };

    bench_must("encode",
               vshard_where_encode(&below, 1, b->where, sizeof b->where, &b->where_bytes));
    memset(b->bits, 0, (b->rows / 64 + 1) * sizeof *b->bits);
    b->allowed = 0;
    for (size_t i = 0; i < b->rows; i++) {
        int yes = kind == 0 ? (int64_t)draw(i) < limit
                            : b->distances[i] >= least && b->distances[i] <= most;

        b->bits[i / 64] |= (uint64_t)yes << i % 64;
        if (yes)
            b->ids[b->allowed++] = i;
    }
}

static struct vshard_filter filter_of(struct bench *b)
{
    struct vshard_filter f = { .size = sizeof f, .kind = b->form };

    f.count = b->form == VSHARD_FILTER_IDS ? b->allowed : b->rows;
    f.ids = b->ids;
    f.bits = b->bits;
    f.allow = ask;
    f.ctx = b;
    if (b->form == VSHARD_FILTER_WHERE) {
        f.where = b->where;
        f.where_bytes = b->where_bytes;
    }
    return f;
}

/* The farthest of the nearest K that are allowed. */
static float truth(const struct bench *b, size_t *wanted)
{
    float nearest[K + 1];
    size_t count = 0;

    for (size_t i = 0; i < b->rows; i++) {
        size_t at;

        if (!allows(b, i) || (count == K && b->distances[i] >= nearest[K - 1]))
            continue;
        for (at = count < K ? count++ : K - 1; at > 0 && nearest[at - 1] > b->distances[i]; at--)
            nearest[at] = nearest[at - 1];
        nearest[at] = b->distances[i];
    }
    *wanted = count;
    return count > 0 ? nearest[count - 1] : 0;
}

static double search(struct bench *b, size_t query, size_t k, const struct vshard_search_options *o,
                     struct vshard_hit *hits)
{
    double from = 0;

    for (int i = 0; i < 2; i++) { /* the first brings into cache what the last threw out */
        from = cpu_us();
        bench_must("search",
                   vshard_index_search(b->index, b->query + query * b->dim, 1, k, hits, o));
    }
    return cpu_us() - from;
}

static size_t count_right(const struct bench *b, const struct vshard_hit *hits, float farthest)
{
    size_t right = 0;

    for (size_t i = 0; i < K && hits[i].id != VSHARD_ID_NONE; i++) {
        if (!allows(b, hits[i].id))
            bench_die("filter", "a row was answered that is not allowed");
        right += b->distances[hits[i].id] <= farthest + 1e-5f;
    }
    return right;
}

/* Of all that an unfiltered beam held, those among the first K allowed that belong there. */
static size_t count_after(const struct bench *b, const struct vshard_hit *held, size_t count,
                          float farthest)
{
    size_t right = 0, taken = 0;

    for (size_t i = 0; i < count && taken < K && held[i].id != VSHARD_ID_NONE; i++) {
        if (!allows(b, held[i].id))
            continue;
        taken++;
        right += b->distances[held[i].id] <= farthest + 1e-5f;
    }
    return right;
}

static void measure_ladder(struct bench *b)
{
    struct vshard_hit hits[K];
    size_t wanted;

    memset(b->bits, 0xff, (b->rows / 64 + 1) * sizeof *b->bits);
    for (size_t q = 0; q < b->queries; q++) {
        float farthest;

        take_query(b, q);
        farthest = truth(b, &wanted);
        for (int i = 0; i < LADDER; i++) {
            struct vshard_search_options o = { .size = sizeof o, .ef_search = ladder[i] };

            b->ladder_us[i] += search(b, q, K, &o, hits) / (double)b->queries;
            b->ladder_recall[i] +=
                (double)count_right(b, hits, farthest) / (double)(K * b->queries);
            search(b, q, ladder[i], &o, b->held[i] + q * ladder[i]);
        }
    }
    for (int i = 0; i < LADDER; i++)
        printf("unfiltered ef %u recall %.4f, %.1f us\n", ladder[i], b->ladder_recall[i],
               b->ladder_us[i]);
}

static void count_work(struct work *w, const struct vshard_search_info *info)
{
    w->rows += info->rows;
    w->hops += info->hops;
}

/* The beams that are asked. */
struct beams {
    uint32_t filtered, after, plain;
};

static void probe(struct bench *b, size_t query, const struct beams *beams, struct sums *s)
{
    struct vshard_search_info info = { .size = sizeof info }, plain_info = info;
    struct vshard_filter f = filter_of(b);
    struct vshard_search_options filtered = { .size = sizeof filtered,
                                              .ef_search = beams->filtered };
    struct vshard_search_options exact = filtered, after = filtered, plain = filtered;
    struct vshard_hit hits[WIDEST];
    size_t wanted;
    float farthest = truth(b, &wanted);

    filtered.filter = exact.filter = &f;
    filtered.info = &info;
    plain.info = &plain_info;
    exact.flags = VSHARD_SEARCH_EXACT;
    after.ef_search = beams->after;
    plain.ef_search = beams->plain;
    s->plain += search(b, query, K, &plain, hits);
    s->after += search(b, query, beams->after, &after, hits);
    s->exact += search(b, query, K, &exact, hits);
    s->filtered += search(b, query, K, &filtered, hits);
    s->right += (double)count_right(b, hits, farthest);
    s->wanted += (double)wanted;
    s->scans += info.exact_scans;
    count_work(&s->work, &info);
    count_work(&s->plain_work, &plain_info);
    for (int i = 0; i < LADDER; i++)
        s->after_right[i] +=
            (double)count_after(b, b->held[i] + query * ladder[i], ladder[i], farthest);
}

/* The least beam of the ladder with this recall, else the widest. */
static uint32_t equal_ef(const double *recalls, double recall)
{
    for (int i = 0; i < LADDER; i++) {
        if (recalls[i] >= recall)
            return ladder[i];
    }
    return ladder[LADDER - 1];
}

static void ask_all(struct bench *b, int kind, double share, const struct beams *beams,
                    struct sums *s)
{
    memset(s, 0, sizeof *s);
    for (size_t q = 0; q < b->queries; q++) {
        take_query(b, q);
        if (kind > 0 || q == 0)
            allow(b, kind, share);
        probe(b, q, beams, s);
    }
}

static void measure(struct bench *b, int kind, double share)
{
    struct beams beams = { ladder[0], ladder[0], ladder[0] };
    double n = (double)b->queries, recall = 0, equal, after, better;
    struct sums s;
    bool held;

    for (int i = 0; i < LADDER && recall < LEAST; i++) { /* the least beam that finds enough */
        beams.filtered = ladder[i];
        ask_all(b, kind, share, &beams, &s);
        recall = s.wanted > 0 ? s.right / s.wanted : 1;
    }
    equal = recall > LEAST ? recall : LEAST;
    for (int i = 0; i < LADDER; i++)
        s.after_right[i] /= s.wanted > 0 ? s.wanted : 1;
    beams.after = equal_ef(s.after_right, equal);
    beams.plain = equal_ef(b->ladder_recall, equal);
    held = s.after_right[LADDER - 1] >= equal;
    ask_all(b, kind, share, &beams, &s);
    after = held ? s.after : INFINITY;
    better = s.exact < after ? s.exact : after;
    printf("%-8s %8g %8llu %4u %7.4f %9.1f %9.1f %9.1f %9.1f %6.2f %6.2f %5.2f %7.0f %7.1f %7.0f "
           "%7.1f\n",
           kinds[kind], share, (unsigned long long)b->allowed, beams.filtered, recall,
           s.filtered / n, s.exact / n, after / n, s.plain / n, s.filtered / better,
           s.filtered / (s.exact < s.plain ? s.exact : s.plain), (double)s.scans / n,
           (double)s.work.rows / n, (double)s.work.hops / n, (double)s.plain_work.rows / n,
           (double)s.plain_work.hops / n);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *set = argc > 1 ? argv[1] : "glove30k", *form = argc > 4 ? argv[4] : "bits";
    struct bench b = { .rows = argc > 2 ? strtoull(argv[2], NULL, 10) : 100000,
                       .queries = argc > 3 ? strtoull(argv[3], NULL, 10) : 200 };

    bench_usage(argc, argv, 4, "[set [rows [queries [ids|bits|call|where]]]]");
    b.form = strcmp(form, "ids") == 0     ? VSHARD_FILTER_IDS
             : strcmp(form, "call") == 0  ? VSHARD_FILTER_CALL
             : strcmp(form, "where") == 0 ? VSHARD_FILTER_WHERE
                                          : VSHARD_FILTER_BITS;
    b.base = read_vectors(set, "base.npy", &b.rows, &b.dim);
    b.query = read_vectors(set, "query.npy", &b.queries, &b.dim);
    b.all = bench_allocate(b.queries * b.rows, sizeof *b.all);
    b.all_sorted = bench_allocate(b.queries * b.rows, sizeof *b.all_sorted);
    for (size_t q = 0; q < b.queries; q++)
        measure_rows(&b, q);
    b.bits = bench_allocate(b.rows / 64 + 1, sizeof *b.bits);
    b.ids = bench_allocate(b.rows, sizeof *b.ids);
    for (int i = 0; i < LADDER; i++)
        b.held[i] = bench_allocate(b.queries * ladder[i], sizeof *b.held[i]);
    build(&b);
    printf("%s, %zu rows, %zu queries, filter by %s\n", set, b.rows, b.queries, form);
    measure_ladder(&b);
    printf(
        "rows        share  allowed   ef  recall filter us  exact us  after us  plain us  ratio  "
        "ratio scans     met followed     met followed\n");
    for (int kind = 0; kind < (b.form == VSHARD_FILTER_WHERE ? 1 : KINDS); kind++) {
        for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
            measure(&b, kind, shares[i]);
    }
    vshard_index_destroy(b.index);
    free(b.base);
    free(b.query);
    free(b.all);
    free(b.all_sorted);
    free(b.bits);
    free(b.ids);
    for (int i = 0; i < LADDER; i++)
        free(b.held[i]);
    return 0;
}
