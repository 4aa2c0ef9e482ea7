/* retrain.c - codes follow the rows.
 *
 * The range of codes is chosen from the first rows (quantizer.c), and what lies outside is cut. If
 * later rows lie elsewhere, as those of a cluster that is new, they come to be alike to a walk:
 * of 40 clusters that came one after the other 0.89 of the nearest were found, and 0.85 after
 * half of the rows were replaced. So where more elements are cut than should be, the range is
 * chosen again, by rows from all over the index and those that come, and all rows get other codes
 * and sketches. Their edges stay.
 *
 * Each add looks at one in 64 of its rows, chosen by a hash of their ids; if these are cut, at some
 * that are there; and if of both together more than 1 element in 200 is cut, which is five times
 * what was left out on purpose, codes are made anew before the rows are stored. It takes about a
 * hundredth of what adding all rows took, and until it happens again, as many elements must have
 * been cut again. It depends on the rows and the call alone, as the graph does.
 *
 * Readers beside it look at no codes: they scan the vectors meanwhile. A lean index has only codes
 * and stays as it was trained; so does a graph on a sphere, of an earlier version. */
#include "index/state.h"

enum {
    LOOKED_ONE_IN = 64, /* rows of a call */
    LOOKED_MOST = 1024,
    ROWS_MOST = 512, /* of those that are there */
    CUT_ONE_IN = 200 /* elements */
};

struct looked {
    uint64_t rows, cut;
};

static void look(const struct vshard_index *x, const void *elements, float inverse_length,
                 struct looked *at)
{
    at->cut += vs_count_cut(x, elements, inverse_length, x->strands[0].vector);
    at->rows++;
}

static struct looked look_at_call(const struct vshard_index *x, const uint64_t *ids,
                                  const struct vs_training_rest *call)
{
    struct looked at = { 0, 0 };

    for (uint32_t i = 0; i < call->count && at.rows < LOOKED_MOST; i++) {
        const void *vector = call->vectors + call->order[i] * vs_vector_bytes(x);
        float inverse_length;

        if (vs_mix64(ids[call->order[i]]) / ENTRY_ONE_IN % LOOKED_ONE_IN != 0)
            continue;
        vs_length_check(x, vector, x->strands[0].vector, &inverse_length);
        look(x, vector, inverse_length, &at);
    }
    return at;
}

static struct looked look_at_rows(const struct vshard_index *x)
{
    struct looked at = { 0, 0 };
    uint32_t next = 0, slot;

    while ((slot = vs_sample_next(x, ROWS_MOST, &next)) != VS_SLOT_NONE)
        look(x, vs_column_at(&x->elements, slot), vs_row_at(x, slot)->inverse_length, &at);
    return at;
}

static bool too_many(const struct vshard_index *x, uint64_t cut, uint64_t rows)
{
    return cut * CUT_ONE_IN > rows * x->quantizer.code_dim;
}

/* Whether this call should not begin before all codes are made anew. */
bool vs_retrain_due(const struct vshard_index *x, const uint64_t *ids,
                    const struct vs_training_rest *call)
{
    uint64_t live = atomic_load(&x->live);
    struct looked coming, there;

    if (!atomic_load(&x->trained) || vs_elements_are_codes(x) || vs_is_lean(x) || x->by_vectors ||
        x->on_sphere)
        return false;
    if (live < TRAIN_ROWS_MIN && call->count < TRAIN_ROWS_MIN) /* too few to learn from */
        return false;
    coming = look_at_call(x, ids, call);
    if (!too_many(x, coming.cut, coming.rows))
        return false;
    there = look_at_rows(x);
    return too_many(x,
                    (there.rows > 0 ? there.cut * live / there.rows : 0) +
                        coming.cut * call->count / coming.rows,
                    live + call->count);
}

static void encode_extent(void *arg, uint32_t extent, uint32_t strand)
{
    struct vshard_index *x = arg;
    uint32_t first = extent * VS_EXTENT_ROWS, slots = atomic_load(&x->slot_count);

    for (uint32_t slot = first; slot < slots && slot < first + VS_EXTENT_ROWS; slot++) {
        if (vs_row_state(x, slot) != VS_ROW_FREE)
            vs_encode_row(x, vs_column_at(&x->elements, slot), vs_row_at(x, slot)->inverse_length,
                          x->strands[strand * WALKS].vector, vs_column_at(&x->codes, slot));
    }
}

static void sketch_extent(void *arg, uint32_t extent, uint32_t strand)
{
    struct vshard_index *x = arg;
    uint32_t first = extent * VS_EXTENT_ROWS, slots = atomic_load(&x->slot_count);

    (void)strand;
    for (uint32_t slot = first; slot < slots && slot < first + VS_EXTENT_ROWS; slot++) {
        if (vs_row_state(x, slot) != VS_ROW_FREE)
            vs_sketch_row(x, vs_code_at(x, slot), vs_column_at(&x->sketches, slot));
    }
}

static void recode(struct vshard_index *x, struct vs_training *t, struct vs_trial *trial,
                   struct vs_sketching *sketching)
{
    uint32_t extents = vs_extents_for(atomic_load(&x->slot_count));

    vs_quantizer_train(x, t);
    vs_parallel(x, extents, encode_extent, x);
    if (vs_trial_fails(x, trial))
        vs_walk_by_vectors(x);
    if (x->sketches.stride == 0)
        return;
    vs_sketcher_train(x, sketching);
    vs_parallel(x, extents, sketch_extent, x);
    if (!vs_sketches_serve(x, sketching))
        vs_walk_by_codes(x);
}

void vs_retrain(struct vshard_index *x, struct vs_training *t, struct vs_trial *trial,
                struct vs_sketching *sketching)
{
    const struct vs_field rows = { .name = "rows", .integer = (int64_t)atomic_load(&x->live) };

    vs_keep_wait(x);
    vs_track_drop(x);
    atomic_store(&x->relinking, VS_RECODING);
    vs_readers_drain(x);
    recode(x, t, trial, sketching);
    atomic_store_explicit(&x->relinking, 0, memory_order_release);
    vs_log(x->logger, VSHARD_LOG_INFO, "codes.retrained", &rows, 1);
}
