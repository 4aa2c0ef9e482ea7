/* sketch.c - a look at a row that costs one cache line, or two.
 *
 * What a walk costs is the lines that it fetches, and of the rows that it meets most are
 * only to be found too far. So it goes by sketches: up to 256 numbers of 4 bits. Only
 * the rows that are in its pool at the end are ranked by their codes, and of these only
 * the first by their vectors (graph_search.c).
 *
 * A code is 7 bits an element, and a sketch holds the upper 4 of up to 256 elements.
 * The query keeps all 7. On real vectors that orders near rows nearly as codes do: of
 * the 10 nearest words in 331,000 of GloVe, 0.99 are among the 16 nearest by sketch.
 *
 * Codes of more than 256 elements are turned first, so that the 256 directions in which
 * the first rows differ most (their principal components) are kept, and mixed, so that rows differ
 * along each alike; 255 mixtures are kept: of MiniLM's 384 that is 0.97 of the variance, and 0.995
 * of the 10 nearest are among the 16 nearest by sketch. (Along the components themselves, whose
 * deviations are up to 2.8 times what they are on average, 4 bits leave 0.97 of them.)
 *
 * Not all rows can be sketched: of those that differ in all directions alike too much is
 * left out, and in clusters whose spread is a tenth of what lies between them all rows of one
 * cluster fall within a step or two of 4 bits. So when the graph begins it is measured
 * whether near rows stay near among the first 1,024, and if they do not, there are no
 * sketches, and walks go by codes. Asked is for the 10 nearest by code, and for the nearest
 * alone: where there are a hundred clusters, 10 of these rows are one of them, and are kept
 * whatever their order, but a walk must find 10 in the whole cluster. Of words, descriptors
 * and sentences 0.92 to 0.98 of the nearest by code are among the two nearest by sketch; in
 * such clusters 0.2 to 0.6.
 *
 * Sketches take part in building the graph, so they are made of integers: the axes are
 * rounded to 8 bits, a projection is an exact integer, and scaling it down acts on one
 * number at a time. The axes come from orthogonal iteration (Golub & Van Loan, 8.2.4).
 * Its two products, of the axes with the rows and back, are taken on axes and weights
 * rounded to 8 bits, with the kernel for codes: exact, and a hundred times as fast as
 * in floats; the axes are rounded in the end anyway. In between they are made
 * orthogonal in floats: each product of two of them is exact in float64, and each sum
 * is taken in one fixed order, so they are equal on every machine too.
 *
 * For distances that are squared differences, L2SQ and COSINE. Codes of 64 bytes are
 * one line already. */
#include "index/state.h"

#include <math.h>

enum {
    LINE = 64,       /* bytes, and what a row of sketches is a multiple of */
    ROWS_MAX = 1024, /* looked at for the axes, and to judge sketches */
    ROUNDS = 8,      /* of the iteration: more capture no more than 1 % more */
    BLOCK = 16,      /* axes that the others are made orthogonal to at once */
    PANELS = SKETCH_DIMS / VS_PANEL_ROWS,
    AXES = SKETCH_DIMS - 1,
    AXIS_ZERO = 128,
    AXIS_MAX = 127,
    ROUNDED_MAX = 127, /* of axes and weights while they are looked for */
    ASKED_ONE_IN = 4,  /* of those rows, when it is measured whether near rows stay near */
    KEPT_PERCENT = 80
};

/* So many nearest by code must be among so many nearest by sketch. */
static const struct {
    uint32_t near, among;
} asked_for[] = { { 10, VS_AMONG_MAX }, { 1, 2 } };

/* Buffers of one training. */
struct vs_sketching {
    const void **codes;    /* [ROWS_MAX] */
    const void **sketches; /* [ROWS_MAX] */
    int32_t *by_code;      /* [ROWS_MAX] keys */
    int32_t *by_sketch;    /* [ROWS_MAX] */
    uint32_t count;
    /* Where sketches have axes: */
    float *rows;            /* [ROWS_MAX x SKETCH_DIMS] projections */
    unsigned char *columns; /* [code_dim x ROWS_MAX] codes, the rows side by side */
    const void **column;    /* [code_dim] where each is */
    double *means;          /* [code_dim] */
    float *axes;            /* [SKETCH_DIMS x code_dim] */
    int8_t *rounded;        /* [strands x code_bytes] an axis */
    int8_t *weights;        /* [strands x ROWS_MAX] of the rows, along that axis */
    int32_t *products;      /* [strands x (ROWS_MAX + code_dim)] */
};

/* 0 where there are none. */
size_t vs_sketch_bytes(const struct vshard_index *x)
{
    size_t bytes = x->dim <= 2 * LINE ? LINE : 2 * LINE;

    if (x->family != VSHARD_FAMILY_HNSW || x->metric == VSHARD_METRIC_IP || x->dim <= LINE)
        return 0;
    switch (x->space) {
    case SPACE_CODE_L2: return bytes;
    case SPACE_U8_L2:
    case SPACE_I8_L2: return x->dim <= SKETCH_DIMS ? bytes : 0;
    default: return 0;
    }
}

bool vs_sketch_has_axes(const struct vshard_index *x)
{
    return vs_sketch_bytes(x) > 0 && x->dim > SKETCH_DIMS;
}

static size_t panel_bytes(const struct vshard_index *x)
{
    return (x->quantizer.code_dim + 3u) / 4 * 4 * VS_PANEL_ROWS;
}

int vs_sketcher_init(struct vshard_index *x)
{
    struct vs_sketcher *k = &x->sketcher;

    if (!vs_sketch_has_axes(x))
        return VSHARD_OK;
    k->axes = vs_alloc_zeroed(x->allocator, vs_sketcher_bytes(x));
    return k->axes ? VSHARD_OK : VSHARD_ENOMEM;
}

size_t vs_sketcher_bytes(const struct vshard_index *x)
{
    return vs_sketch_has_axes(x) ? PANELS * panel_bytes(x) : 0;
}

void vs_sketcher_fini(struct vshard_index *x)
{
    vs_free(x->allocator, x->sketcher.axes, vs_sketcher_bytes(x));
}

/* ---- making sketches ---- */

/* Codes are [count][code_dim rounded up to 4]; out is [count][SKETCH_DIMS]. */
static void project(const struct vshard_index *x, const void *codes, uint32_t count, float *out)
{
    size_t bytes = panel_bytes(x), mean = AXES % VS_PANEL_ROWS;
    int32_t products[PANELS][WALKS * VS_PANEL_ROWS];

    for (size_t i = 0; i < PANELS; i++)
        x->kernel.panel_dot(codes, count, bytes / (4 * VS_PANEL_ROWS), x->sketcher.axes + i * bytes,
                            products[i]);
    for (uint32_t q = 0; q < count; q++) {
        int32_t off = products[AXES / VS_PANEL_ROWS][q * VS_PANEL_ROWS + mean];

        for (size_t i = 0; i < PANELS; i++, out += VS_PANEL_ROWS) {
            for (size_t r = 0; r < VS_PANEL_ROWS; r++)
                out[r] = (float)(products[i][q * VS_PANEL_ROWS + r] - off);
        }
    }
}

static void sketch_projected(const struct vshard_index *x, const float *projected, uint8_t *sketch)
{
    x->kernel.encode(projected, 1.0f, x->sketcher.low, x->sketcher.scale, SKETCH_DIMS, sketch);
}

/* The sketch of a query: all 7 bits of two numbers for each byte of a row's. */
static void sketch_query(const struct vshard_index *x, const void *code, uint8_t *sketch)
{
    const uint8_t *from = code;
    float projected[SKETCH_DIMS];

    if (x->sketcher.axes != NULL) {
        project(x, code, 1, projected);
        sketch_projected(x, projected, sketch);
        return;
    }
    memset(sketch + x->dim, 0, 2 * vs_sketch_bytes(x) - x->dim);
    if (x->space == SPACE_CODE_L2) {
        memcpy(sketch, from, x->dim);
    } else {
        uint8_t sign = x->space == SPACE_I8_L2 ? 128 : 0;

        for (size_t i = 0; i < x->dim; i++)
            sketch[i] = (uint8_t)(from[i] ^ sign) >> 1;
    }
}

/* Those of queries that walk together, which read the axes once for all of them. Codes are
 * gathered for that without their padding, so not where one of them stays. */
void vs_sketch_queries(const struct vshard_index *x, struct vs_walk *walks, uint32_t count)
{
    unsigned char *codes = walks[0].scratch->code + x->quantizer.code_bytes;
    size_t bytes = panel_bytes(x) / VS_PANEL_ROWS;
    float projected[WALKS][SKETCH_DIMS];

    if (x->sketches.stride == 0 || walks[0].query.sketch != NULL)
        return;
    for (uint32_t i = 0; i < count; i++)
        walks[i].query.sketch = walks[i].scratch->sketch;
    if (x->sketcher.axes == NULL) {
        for (uint32_t i = 0; i < count; i++)
            sketch_query(x, walks[i].query.code, walks[i].scratch->sketch);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        memcpy(codes + i * bytes, walks[i].query.code, bytes);
    project(x, codes, count, projected[0]);
    for (uint32_t i = 0; i < count; i++)
        sketch_projected(x, projected[i], walks[i].scratch->sketch);
}

/* The nearest of 16 numbers, of which r stands for 8 r. */
static unsigned upper(uint8_t number)
{
    return number < 120 ? (number + 4u) / 8 : 15;
}

void vs_sketch_row(const struct vshard_index *x, const void *code, uint8_t *sketch)
{
    size_t bytes = vs_sketch_bytes(x);
    uint8_t numbers[SKETCH_DIMS];

    sketch_query(x, code, numbers);
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t *n = numbers + i / LINE * 2 * LINE + i % LINE;

        sketch[i] = (uint8_t)(upper(n[0]) | upper(n[LINE]) << 4);
    }
}

/* ---- finding the axes ---- */

static void turn_rows(const struct vshard_index *x, struct vs_sketching *t)
{
    size_t dims = x->quantizer.code_dim;

    memset(t->columns, 0, dims * ROWS_MAX);
    for (size_t i = 0; i < dims; i++) {
        uint64_t sum = 0;

        for (uint32_t r = 0; r < t->count; r++) {
            t->columns[i * ROWS_MAX + r] = ((const uint8_t *)t->codes[r])[i];
            sum += t->columns[i * ROWS_MAX + r];
        }
        t->means[i] = (double)sum / t->count;
        t->column[i] = t->columns + i * ROWS_MAX;
    }
}

struct rounding {
    struct vshard_index *x;
    struct vs_sketching *t;
    size_t first; /* of the axes at hand */
};

/* To 8 bits, the greatest to 127. Returns the sum of what comes out. */
static int64_t round_all(const float *v, size_t count, int8_t *out)
{
    float greatest = 0.0f, scale;
    int64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        greatest = fmaxf(greatest, fabsf(v[i]));
    scale = greatest > 0.0f ? ROUNDED_MAX / greatest : 0.0f;
    for (size_t i = 0; i < count; i++) {
        out[i] = (int8_t)lrintf(v[i] * scale);
        sum += out[i];
    }
    return sum;
}

/* One axis, multiplied by the covariance of the rows, but for its length. */
static void multiply_axis(void *arg, uint32_t axis, uint32_t strand)
{
    const struct rounding *r = arg;
    const struct vshard_index *x = r->x;
    struct vs_sketching *t = r->t;
    size_t dims = x->quantizer.code_dim, bytes = x->quantizer.code_bytes;
    int8_t *rounded = t->rounded + strand * bytes, *weights = t->weights + strand * ROWS_MAX;
    int32_t *along = t->products + strand * (ROWS_MAX + dims), *sums = along + ROWS_MAX;
    float *v = t->axes + axis * dims, centered[ROWS_MAX];
    int64_t total = 0;

    memset(rounded, 0, bytes);
    round_all(v, dims, rounded);
    x->kernel.dot_code_many(rounded, t->codes, t->count, bytes, along);
    for (uint32_t i = 0; i < t->count; i++)
        total += along[i];
    for (uint32_t i = 0; i < t->count; i++)
        centered[i] = (float)((double)along[i] - (double)total / t->count);
    memset(weights, 0, ROWS_MAX);
    total = round_all(centered, t->count, weights);
    x->kernel.dot_code_many(weights, t->column, dims, ROWS_MAX, sums);
    for (size_t i = 0; i < dims; i++) {
        double mean = t->means[i] * (double)total;

        v[i] = (float)((double)sums[i] - mean);
    }
}

/* Takes from a row what it shares with these axes, one after the other. */
static void take_shared(const struct rounding *r, float *v, size_t first, size_t end)
{
    size_t dims = r->x->quantizer.code_dim;

    for (size_t other = first; other < end; other++) {
        const float *axis = r->t->axes + other * dims;
        float shared = (float)r->x->kernel.dot_f64(v, axis, dims);

        for (size_t i = 0; i < dims; i++) {
            double part = (double)shared * axis[i];

            v[i] = (float)(v[i] - part);
        }
    }
}

static void take_shared_of_block(void *arg, uint32_t item, uint32_t strand)
{
    const struct rounding *r = arg;
    size_t dims = r->x->quantizer.code_dim, end = r->first + BLOCK;

    (void)strand;
    take_shared(r, r->t->axes + (end + item) * dims, r->first, end);
}

static double length_of(const struct rounding *r, const float *v)
{
    return sqrt(r->x->kernel.dot_f64(v, v, r->x->quantizer.code_dim));
}

/* Gram and Schmidt: each axis loses what it shares with those before it. One that
 * shares all of itself, as when rows differ in fewer directions, becomes zero. */
static void make_orthonormal(struct rounding *r)
{
    struct vs_sketching *t = r->t;
    size_t dims = r->x->quantizer.code_dim;
    double before[SKETCH_DIMS];

    for (size_t axis = 0; axis < SKETCH_DIMS; axis++)
        before[axis] = length_of(r, t->axes + axis * dims);
    for (r->first = 0; r->first < SKETCH_DIMS; r->first += BLOCK) {
        for (size_t axis = r->first; axis < r->first + BLOCK; axis++) {
            float *v = t->axes + axis * dims;
            double length;

            take_shared(r, v, r->first, axis);
            length = length_of(r, v);
            for (size_t i = 0; i < dims; i++)
                v[i] = length > before[axis] * 1e-6 ? (float)((double)v[i] / length) : 0.0f;
        }
        vs_parallel(r->x, (uint32_t)(SKETCH_DIMS - BLOCK - r->first), take_shared_of_block, r);
    }
}

/* Turns the axes among themselves (a Walsh-Hadamard transform, but for its length): each becomes
 * a sum and difference of all. Together they span what they did, and rows differ along each alike,
 * so that one step suits all; along principal axes the first sets it, too coarse for most. */
static void mix_axes(const struct vshard_index *x, struct vs_sketching *t)
{
    size_t dims = x->quantizer.code_dim;

    for (size_t apart = 1; apart < SKETCH_DIMS; apart *= 2) {
        for (size_t axis = 0; axis < SKETCH_DIMS; axis += 2 * apart) {
            float *one = t->axes + axis * dims, *other = one + apart * dims;

            for (size_t i = 0; i < apart * dims; i++) {
                float sum = one[i] + other[i];

                other[i] = one[i] - other[i];
                one[i] = sum;
            }
        }
    }
}

static void find_axes(struct vshard_index *x, struct vs_sketching *t)
{
    struct rounding r = { x, t, 0 };
    size_t count = SKETCH_DIMS * (size_t)x->quantizer.code_dim;

    turn_rows(x, t);
    for (size_t i = 0; i < count; i++) /* any start will do that is not special */
        t->axes[i] = (float)(int8_t)(vs_mix64(i + 1) & 0xff);
    for (int round = 0; round < ROUNDS; round++) {
        make_orthonormal(&r);
        vs_parallel(x, SKETCH_DIMS, multiply_axis, &r);
    }
    make_orthonormal(&r);
}

/* To panels of unsigned bytes, as tile.c draws them: AXIS_ZERO stands for 0, and a last
 * axis, all AXIS_ZERO, tells what that adds to each projection. */
static void round_axes(struct vshard_index *x, const struct vs_sketching *t)
{
    size_t dims = x->quantizer.code_dim, bytes = panel_bytes(x);
    float greatest = 0.0f, scale;

    for (size_t i = 0; i < AXES * dims; i++)
        greatest = fmaxf(greatest, fabsf(t->axes[i]));
    scale = greatest > 0.0f ? AXIS_MAX / greatest : 0.0f;
    memset(x->sketcher.axes, AXIS_ZERO, PANELS * bytes);
    for (size_t axis = 0; axis < AXES; axis++) {
        uint8_t *panel = x->sketcher.axes + axis / VS_PANEL_ROWS * bytes;

        for (size_t i = 0; i < dims; i++)
            panel[(i / 4 * VS_PANEL_ROWS + axis % VS_PANEL_ROWS) * 4 + i % 4] =
                (uint8_t)(AXIS_ZERO + lrintf(t->axes[axis * dims + i] * scale));
    }
}

/* ---- finding the scale ---- */

/* Keeps 1 in 1,000 projections from being cut, and centres each axis. */
static void find_range(struct vshard_index *x, struct vs_sketching *t)
{
    struct vs_sketcher *k = &x->sketcher;
    float half;

    for (uint32_t r = 0; r < t->count; r++)
        project(x, t->codes[r], 1, t->rows + r * SKETCH_DIMS);
    for (size_t i = 0; i < SKETCH_DIMS; i++) {
        double sum = 0;

        for (uint32_t r = 0; r < t->count; r++)
            sum += (double)t->rows[r * SKETCH_DIMS + i];
        k->low[i] = (float)(sum / t->count);
    }
    for (size_t i = 0; i < (size_t)t->count * SKETCH_DIMS; i++)
        t->rows[i] = fabsf(t->rows[i] - k->low[i % SKETCH_DIMS]);
    half = vs_nth(t->rows, (size_t)t->count * SKETCH_DIMS,
                  (size_t)t->count * SKETCH_DIMS / 1000 * 999);
    if (half < 1.0f)
        half = 1.0f;
    k->scale = 127.0f / (2.0f * half);
    for (size_t i = 0; i < SKETCH_DIMS; i++)
        k->low[i] -= half;
}

/* Codes of the live rows must be there. */
void vs_sketcher_train(struct vshard_index *x, struct vs_sketching *t)
{
    uint32_t at = 0, slot;

    if (t == NULL)
        return;
    while ((slot = vs_sample_next(x, ROWS_MAX, &at)) != VS_SLOT_NONE) {
        t->codes[t->count] = vs_code_at(x, slot);
        t->sketches[t->count++] = vs_column_at(&x->sketches, slot);
    }
    if (!vs_sketch_has_axes(x) || t->count < SKETCH_DIMS)
        return;
    find_axes(x, t);
    mix_axes(x, t);
    round_axes(x, t);
    find_range(x, t);
}

/* ---- whether sketches serve ---- */

/* Whether near rows stay near. Sketches of the rows that were trained on must be there. Of fewer
 * rows than axes nothing is learned, as where all others were removed. */
bool vs_sketches_serve(struct vshard_index *x, struct vs_sketching *t)
{
    uint64_t kept[VS_COUNT(asked_for)] = { 0 }, asked[VS_COUNT(asked_for)] = { 0 };
    uint8_t *sketch = x->strands[0].sketch;

    if (vs_sketch_has_axes(x) && t->count < SKETCH_DIMS)
        return false;

    for (uint32_t r = 0; t->count > 1 && r < t->count; r += ASKED_ONE_IN) {
        const struct vs_query q = { .code = t->codes[r], .space = x->space };

        vs_keys(x, &q, t->codes, t->count, t->by_code);
        sketch_query(x, t->codes[r], sketch);
        x->kernel.l2sq_u4_many(sketch, t->sketches, t->count, x->sketches.stride, t->by_sketch);
        for (size_t i = 0; i < VS_COUNT(asked_for); i++) {
            uint32_t near = asked_for[i].near < t->count - 1 ? asked_for[i].near : t->count - 1;

            kept[i] +=
                vs_count_kept(x, t->by_code, t->by_sketch, t->count, r, near, asked_for[i].among);
            asked[i] += near;
        }
    }
    for (size_t i = 0; i < VS_COUNT(asked_for); i++) {
        if (kept[i] * 100 < asked[i] * KEPT_PERCENT)
            return false;
    }
    return true;
}

static bool alloc_for_axes(struct vshard_index *x, struct vs_sketching *t)
{
    size_t dims = x->quantizer.code_dim;

    t->rows = vs_alloc(x->allocator, ROWS_MAX * SKETCH_DIMS * sizeof *t->rows);
    t->columns = vs_alloc(x->allocator, dims * ROWS_MAX);
    t->column = vs_alloc(x->allocator, dims * sizeof *t->column);
    t->means = vs_alloc(x->allocator, dims * sizeof *t->means);
    t->axes = vs_alloc(x->allocator, SKETCH_DIMS * dims * sizeof *t->axes);
    t->rounded = vs_alloc(x->allocator, x->strand_count * x->quantizer.code_bytes);
    t->weights = vs_alloc(x->allocator, (size_t)x->strand_count * ROWS_MAX);
    t->products = vs_alloc(x->allocator, x->strand_count * (ROWS_MAX + dims) * sizeof *t->products);
    return t->rows && t->columns && t->column && t->means && t->axes && t->rounded && t->weights &&
           t->products;
}

int vs_sketching_begin(struct vshard_index *x, struct vs_sketching **out)
{
    struct vs_sketching *t;

    *out = NULL;
    if (x->sketches.stride == 0)
        return VSHARD_OK;
    t = *out = vs_alloc_zeroed(x->allocator, sizeof *t);
    if (t == NULL)
        return VSHARD_ENOMEM;
    t->codes = vs_alloc(x->allocator, ROWS_MAX * sizeof *t->codes);
    t->sketches = vs_alloc(x->allocator, ROWS_MAX * sizeof *t->sketches);
    t->by_code = vs_alloc(x->allocator, ROWS_MAX * sizeof *t->by_code);
    t->by_sketch = vs_alloc(x->allocator, ROWS_MAX * sizeof *t->by_sketch);
    if (t->codes && t->sketches && t->by_code && t->by_sketch &&
        (!vs_sketch_has_axes(x) || alloc_for_axes(x, t)))
        return VSHARD_OK;
    vs_sketching_end(x, t);
    *out = NULL;
    return VSHARD_ENOMEM;
}

void vs_sketching_end(struct vshard_index *x, struct vs_sketching *t)
{
    size_t dims = x->quantizer.code_dim;

    if (t == NULL)
        return;
    vs_free(x->allocator, t->codes, ROWS_MAX * sizeof *t->codes);
    vs_free(x->allocator, t->sketches, ROWS_MAX * sizeof *t->sketches);
    vs_free(x->allocator, t->by_code, ROWS_MAX * sizeof *t->by_code);
    vs_free(x->allocator, t->by_sketch, ROWS_MAX * sizeof *t->by_sketch);
    vs_free_wiped(x->allocator, t->rows, ROWS_MAX * SKETCH_DIMS * sizeof *t->rows);
    vs_free_wiped(x->allocator, t->columns, dims * ROWS_MAX);
    vs_free(x->allocator, t->column, dims * sizeof *t->column);
    vs_free(x->allocator, t->means, dims * sizeof *t->means);
    vs_free(x->allocator, t->axes, SKETCH_DIMS * dims * sizeof *t->axes);
    vs_free_wiped(x->allocator, t->rounded, x->strand_count * x->quantizer.code_bytes);
    vs_free(x->allocator, t->weights, (size_t)x->strand_count * ROWS_MAX);
    vs_free(x->allocator, t->products, x->strand_count * (ROWS_MAX + dims) * sizeof *t->products);
    vs_free(x->allocator, t, sizeof *t);
}
