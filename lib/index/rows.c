/* rows.c - add and remove.
 *
 * Add is all or nothing: it verifies all it was given, then gets all memory it can
 * need, and only then changes the index, by steps that cannot fail. */
#include "index/state.h"

#include <math.h>

/* What one add is about to do. */
struct plan {
    const uint64_t *ids;
    const unsigned char *vectors;
    size_t vector_bytes;
    uint32_t *order; /* [count] rows of the call that count, in order */
    uint32_t count;  /* of them; rows overridden later in the call do not */
    size_t order_cap;
    uint32_t *slots; /* [slot_cap] where they were put */
    size_t slot_cap;
    uint32_t flat;    /* how many of them come before there is a graph */
    bool trains;      /* and whether they make it to train_rows */
    bool retrains;    /* codes are to be made anew, see retrain.c */
    uint32_t dropped; /* flat: chain of the slots that were replaced */
    struct vs_training *training;
    struct vs_trial *trial;
    struct vs_sketching *sketching;
    struct vs_bulk *bulk; /* NULL: rows are linked batch by batch */
    struct vs_islands *islands;
    const struct vshard_add_options *options;
    struct vs_incoming values;
};

/* ---- verifying ---- */

static int refuse_id(const struct vshard_index *x, size_t row)
{
    const struct vs_field fields[] = { { .name = "argument", .text = "ids: VSHARD_ID_NONE" },
                                       { .name = "row", .integer = (int64_t)row },
                                       { .name = "status",
                                         .text = vshard_strerror(VSHARD_EINVAL) } };

    vs_log(x->logger, VSHARD_LOG_WARN, "add.refused", fields, VS_COUNT(fields));
    return VSHARD_EINVAL;
}

/* An element of a vector, or with `element` equal to dim its length, is out of range. */
static int refuse_vector(const struct vshard_index *x, size_t row, size_t element,
                         const float *vector)
{
    bool whole = element == x->dim;
    double value = whole ? sqrt(vs_sum_squares(x, vector)) : (double)vector[element];
    double limit = whole ? VSHARD_LENGTH_MIN : (double)VSHARD_VALUE_MAX;
    const struct vs_field fields[] = {
        { .name = "argument", .text = whole ? "vectors: length" : "vectors: element" },
        { .name = "row", .integer = (int64_t)row },
        { .name = "element", .integer = (int64_t)element },
        { .name = "value", .real = &value },
        { .name = "limit", .real = &limit },
        { .name = "status", .text = vshard_strerror(VSHARD_EINVAL) }
    };

    vs_log(x->logger, VSHARD_LOG_WARN, "add.refused", fields, VS_COUNT(fields));
    return VSHARD_EINVAL;
}

static int check_vectors(struct vshard_index *x, const uint64_t *ids, const unsigned char *vectors,
                         size_t count, float *widened)
{
    size_t bytes = vs_vector_bytes(x);

    for (size_t i = 0; i < count; i++) {
        const void *vector = vectors + i * bytes;
        float inverse_length;
        size_t unfit;

        if (ids[i] == VSHARD_ID_NONE)
            return refuse_id(x, i);
        unfit = vs_find_unfit(x, vector);
        if (unfit == x->dim && vs_length_check(x, vector, widened, &inverse_length) == VSHARD_OK)
            continue;
        vs_widen(x, vector, widened);
        return refuse_vector(x, i, unfit, widened);
    }
    return VSHARD_OK;
}

static int check_add(struct vshard_index *x, const uint64_t *ids, const void *vectors, size_t count)
{
    float *widened;
    size_t bytes;
    int rc;

    if (ids == NULL || vectors == NULL)
        return vs_refuse(x->logger, VSHARD_EINVAL, "add.refused",
                         ids == NULL ? "ids: NULL" : "vectors: NULL", 0, 0);
    if (x->mapping.bytes != NULL)
        return vs_refuse(x->logger, VSHARD_ENOTSUP, "add.refused", "index: mapped", 1, 0);
    if (count > VSHARD_ROWS_MAX || atomic_load(&x->slot_count) > VSHARD_ROWS_MAX - count ||
        !vs_bytes(&bytes, count, vs_vector_bytes(x)))
        return vs_refuse(x->logger, VSHARD_E2BIG, "add.refused", "count", (int64_t)count,
                         VSHARD_ROWS_MAX - (int64_t)atomic_load(&x->live));
    widened = vs_alloc(x->allocator, x->quantizer.code_dim * sizeof *widened);
    if (widened == NULL)
        return vs_refuse(x->logger, VSHARD_ENOMEM, "add.refused", "memory", 0, 0);
    rc = check_vectors(x, ids, vectors, count, widened);
    vs_free_wiped(x->allocator, widened, x->quantizer.code_dim * sizeof *widened);
    return rc;
}

/* ---- planning ---- */

/* Marks each row whose id comes again later, by a table of positions. */
static int find_last(struct vshard_index *x, struct plan *p, size_t count)
{
    uint64_t cap = 16, mask;
    uint32_t *table;

    while (cap < 2 * count)
        cap *= 2;
    mask = cap - 1;
    table = vs_alloc(x->allocator, cap * sizeof *table);
    if (table == NULL)
        return VSHARD_ENOMEM;
    memset(table, 0xff, cap * sizeof *table);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = vs_mix64(p->ids[i] ^ x->seed) & mask;

        p->order[i] = i;
        while (table[at] != VS_SLOT_NONE && p->ids[table[at]] != p->ids[i])
            at = (at + 1) & mask;
        if (table[at] != VS_SLOT_NONE)
            p->order[table[at]] = VS_SLOT_NONE;
        table[at] = i;
    }
    vs_free(x->allocator, table, cap * sizeof *table);
    for (uint32_t i = 0; i < count; i++) {
        if (p->order[i] != VS_SLOT_NONE)
            p->order[p->count++] = p->order[i];
    }
    return VSHARD_OK;
}

/* How many rows go in before there is a graph, and whether one is made then. */
static void plan_training(const struct vshard_index *x, struct plan *p)
{
    uint64_t live = x->live;

    if (x->family == VSHARD_FAMILY_FLAT) {
        p->flat = p->count;
        return;
    }
    if (atomic_load(&x->trained))
        return;
    for (; p->flat < p->count && live < x->train_rows; p->flat++)
        live += vs_idmap_find(&x->ids, p->ids[p->order[p->flat]]) == VS_SLOT_NONE;
    p->trains = live >= x->train_rows;
}

/* Of the rows that begin a cluster of their own, how many one call may make entries:
 * more than there can be clusters worth a scan. A call that trains links all that are there. */
static uint32_t far_most(const struct vshard_index *x, const struct plan *p)
{
    return 64 + (p->count + (p->trains ? atomic_load(&x->slot_count) : 0)) / 32;
}

static uint64_t count_entries(const struct vshard_index *x, const struct plan *p)
{
    /* One row of a batch may have found no live row, and 64 may be adopted by none. */
    uint64_t entries =
        (uint64_t)atomic_load(&x->entry_count) + 2 + far_most(x, p) + p->count / 64 + 64;
    uint32_t slots = p->trains ? atomic_load(&x->slot_count) : 0;

    for (uint32_t i = 0; i < p->count; i++)
        entries += vs_is_entry(x, p->ids[p->order[i]]);
    for (uint32_t slot = 0; slot < slots; slot++)
        entries += vs_is_entry(x, vs_row_at(x, slot)->id);
    return entries;
}

/* Whether the rows would take more than the index may have; what keywords may take then. */
static int check_bytes(const struct vshard_index *x, const struct plan *p, uint64_t slots,
                       uint64_t *room)
{
    uint64_t bytes;

    *room = UINT64_MAX;
    if (x->max_bytes == 0)
        return VSHARD_OK;
    bytes = vs_rows_bytes(x, slots, x->live + p->count, p->trains || atomic_load(&x->trained));
    *room = x->max_bytes - bytes;
    if (bytes <= x->max_bytes)
        return VSHARD_OK;
    return vs_refuse(x->logger, VSHARD_E2BIG, "add.refused", "max_bytes", (int64_t)bytes,
                     x->max_bytes > INT64_MAX ? INT64_MAX : (int64_t)x->max_bytes);
}

/* Readers may look ids up in a table that is too small meanwhile. */
static int reserve_ids(struct vshard_index *x, const struct plan *p)
{
    struct vs_idtable *old;
    uint64_t largest = 0;
    int rc;

    for (uint32_t i = 0; i < p->count; i++) {
        uint64_t id = p->ids[p->order[i]];

        largest = id > largest ? id : largest;
    }
    rc = vs_idmap_reserve(&x->ids, x->live + p->count, largest, x->allocator, &old);
    if (old != NULL)
        vs_readers_drain(x);
    vs_idtable_free(old, x->allocator);
    return rc;
}

/* Slots whose vectors are kept: of a lean index that trains, those that come before. */
static uint64_t elements_needed(const struct vshard_index *x, const struct plan *p, uint64_t slots)
{
    return vs_is_lean(x) && p->trains ? (uint64_t)atomic_load(&x->slot_count) + p->flat : slots;
}

static int begin_training(struct vshard_index *x, struct plan *p,
                          const struct vs_training_rest *rest)
{
    int rc = vs_training_begin(x, rest, &p->training);

    if (rc == VSHARD_OK)
        rc = vs_trial_begin(x, &p->trial);
    if (rc == VSHARD_OK)
        rc = vs_sketching_begin(x, &p->sketching);
    return rc;
}

static int reserve_rows(struct vshard_index *x, struct plan *p)
{
    uint64_t spare = x->free_count < p->count ? x->free_count : p->count;
    uint64_t slots = atomic_load(&x->slot_count) + p->count - spare;
    const struct vs_training_rest rest = { p->vectors, p->order + p->flat, p->count - p->flat };
    uint64_t room, entries;
    int rc = check_bytes(x, p, slots, &room);

    if (rc == VSHARD_OK)
        rc = vs_incoming_begin(x, &p->values, p->order, p->count, room);
    if (rc == VSHARD_OK && vs_is_lean(x) && (p->trains || vs_is_codes_only(x)))
        rc = vs_column_reserve(&x->outside, slots, x->allocator);
    if (rc == VSHARD_OK && !vs_is_codes_only(x))
        rc = vs_column_reserve(&x->elements, elements_needed(x, p, slots), x->allocator);
    if (rc == VSHARD_OK)
        rc = vs_column_reserve(&x->rows, slots, x->allocator);
    if (rc == VSHARD_OK)
        rc = vs_column_reserve(&x->links, slots, x->allocator);
    if (rc == VSHARD_OK)
        rc = reserve_ids(x, p);
    if (rc == VSHARD_OK)
        rc = vs_scan_reserve_rows(x, slots);
    if (rc == VSHARD_OK)
        rc = vs_attributes_reserve(x, slots);
    if (rc == VSHARD_OK)
        rc = vs_strands_reserve(x, 0);
    if (rc < 0 || (!p->trains && !atomic_load(&x->trained)))
        return rc;
    p->retrains = vs_retrain_due(x, p->ids, &rest);
    entries = count_entries(x, p);
    if (x->codes.stride > 0)
        rc = vs_column_reserve(&x->codes, slots, x->allocator);
    if (rc == VSHARD_OK && x->sketches.stride > 0)
        rc = vs_column_reserve(&x->sketches, slots, x->allocator);
    if (rc == VSHARD_OK)
        rc = vs_column_reserve(&x->edges, slots, x->allocator);
    if (rc == VSHARD_OK)
        rc = vs_column_reserve(&x->entries, entries, x->allocator);
    if (rc == VSHARD_OK)
        rc = vs_build_reserve(x, p->trains ? x->train_rows + p->count : p->count);
    if (rc == VSHARD_OK && (p->trains || p->retrains))
        rc = begin_training(x, p, &rest);
    if (rc == VSHARD_OK)
        rc = vs_repair_reserve(x, p->count, entries);
    if (rc == VSHARD_OK && vs_bulk_suits(x, p->count - p->flat))
        rc = vs_bulk_begin(x, p->count, &p->bulk);
    if (rc == VSHARD_OK && (p->trains || p->bulk != NULL))
        rc = vs_islands_begin(x, slots, &p->islands);
    return rc;
}

static int plan_add(struct vshard_index *x, struct plan *p, size_t count)
{
    int rc;

    p->order_cap = count;
    p->order = vs_alloc(x->allocator, count * sizeof *p->order);
    if (p->order == NULL)
        return VSHARD_ENOMEM;
    rc = find_last(x, p, count);
    if (rc < 0)
        return rc;
    plan_training(x, p);
    p->slot_cap = p->count > x->train_rows ? p->count : x->train_rows;
    p->slots = vs_alloc(x->allocator, p->slot_cap * sizeof *p->slots);
    if (p->slots == NULL)
        return VSHARD_ENOMEM;
    return reserve_rows(x, p);
}

static void plan_fini(struct vshard_index *x, struct plan *p)
{
    vs_islands_end(x, p->islands);
    vs_bulk_end(x, p->bulk);
    vs_sketching_end(x, p->sketching);
    vs_training_end(x, p->training);
    vs_trial_end(x, p->trial);
    vs_free(x->allocator, p->slots, p->slot_cap * sizeof *p->slots);
    vs_free(x->allocator, p->order, p->order_cap * sizeof *p->order);
}

/* ---- doing ---- */

struct store {
    struct vshard_index *x;
    const struct plan *plan;
    uint32_t first;
    bool coded; /* rows get codes as they are stored */
};

/* Copies the vector of one row in, and codes it if there are codes. Returns it widened, where it
 * was. */
static float *store_vector(const struct store *st, uint32_t item, uint32_t strand)
{
    struct vshard_index *x = st->x;
    const struct plan *p = st->plan;
    uint32_t from = p->order[st->first + item], slot = p->slots[st->first + item];
    const void *vector = p->vectors + (size_t)from * p->vector_bytes;
    struct vs_row *row = vs_row_at(x, slot);
    float *widened = x->strands[strand * WALKS].vector;

    if (!vs_is_codes_only(x)) { /* else it gets what its code leaves out */
        unsigned char *to = vs_column_at(&x->elements, slot);

        memcpy(to, vector, p->vector_bytes);
        memset(to + p->vector_bytes, 0, x->elements.stride - p->vector_bytes);
    }
    vs_length_check(x, vector, widened, &row->inverse_length);
    if (st->coded && x->codes.stride > 0)
        vs_encode_row(x, vector, row->inverse_length, widened, vs_column_at(&x->codes, slot));
    return widened;
}

static void store_row(void *arg, uint32_t item, uint32_t strand)
{
    const struct store *st = arg;
    struct vshard_index *x = st->x;
    const struct plan *p = st->plan;
    uint32_t from = p->order[st->first + item], slot = p->slots[st->first + item];
    const void *vector = p->vectors + (size_t)from * p->vector_bytes;
    struct vs_row *row = vs_row_at(x, slot);
    float *widened = store_vector(st, item, strand);

    row->id = p->ids[from];
    vs_attributes_store(x, &p->values, st->first + item, slot);
    if (x->bounds.stride > 0)
        vs_scan_encode(x, slot, widened);
    if (!st->coded)
        return;
    if (vs_is_codes_only(x))
        vs_encode_outside(x, vector, row->inverse_length, widened, vs_column_at(&x->codes, slot),
                          vs_column_at(&x->outside, slot));
    if (x->sketches.stride > 0)
        vs_sketch_row(x, vs_code_at(x, slot), vs_column_at(&x->sketches, slot));
}

static void store_rows(struct vshard_index *x, struct plan *p, uint32_t first, uint32_t count)
{
    struct store st = { x, p, first, first >= p->flat };

    for (uint32_t i = 0; i < count; i++)
        p->slots[first + i] = vs_slot_take(x);
    vs_parallel(x, count, store_row, &st);
}

static void code_row(void *arg, uint32_t item, uint32_t strand)
{
    store_vector(arg, item, strand);
}

/* Rows that are near each other get slots that are, too. Which ones are is known by their codes, so
 * these are made first, wherever there is a slot. */
static void store_near(struct vshard_index *x, struct plan *p, uint32_t first, uint32_t count)
{
    struct store st = { x, p, first, true };

    for (uint32_t i = 0; i < count; i++)
        p->slots[first + i] = vs_slot_take(x);
    vs_parallel(x, count, code_row, &st);
    vs_bulk_arrange(x, p->bulk, p->slots + first, count);
    vs_parallel(x, count, store_row, &st);
}

/* Lets a row be found once readers are shown, and returns the slot of the one that it
 * replaces. */
static uint32_t publish(struct vshard_index *x, uint32_t slot)
{
    uint64_t id = vs_row_at(x, slot)->id;
    uint32_t old = vs_idmap_find(&x->ids, id);

    if (old != VS_SLOT_NONE)
        vs_row_settle(x, old);
    vs_row_born(x, slot);
    vs_link_set(x, slot, old);
    vs_scan_mark(x, slot, true);
    vs_idmap_put(&x->ids, id, slot);
    return old;
}

/* Without a graph nothing leads to a row that is gone, so its slot is free at once,
 * except that readers may still be looking at it: slots are chained up, and freed
 * together. */
static void drop_row(struct vshard_index *x, uint32_t slot, uint32_t *chain)
{
    vs_row_retired(x, slot);
    vs_link_set(x, slot, *chain);
    *chain = slot;
}

static void free_dropped(struct vshard_index *x, uint32_t chain)
{
    if (chain == VS_SLOT_NONE)
        return;
    vs_readers_drain(x);
    for (uint32_t slot = chain; slot != VS_SLOT_NONE; slot = vs_link(x, slot))
        vs_scan_mark(x, slot, false);
    vs_readers_drain(x);
    while (chain != VS_SLOT_NONE) {
        uint32_t next = vs_link(x, chain);

        vs_slot_free(x, chain);
        chain = next;
    }
}

static void add_flat(struct vshard_index *x, struct plan *p)
{
    store_rows(x, p, 0, p->flat);
    for (uint32_t i = 0; i < p->flat; i++) {
        uint32_t old = publish(x, p->slots[i]);

        if (old != VS_SLOT_NONE)
            drop_row(x, old, &p->dropped);
    }
    if (p->flat > 0)
        vs_readers_show(x);
}

static void encode_row(void *arg, uint32_t item, uint32_t strand)
{
    const struct store *st = arg;
    struct vshard_index *x = st->x;
    uint32_t slot = st->plan->slots[item];
    float *widened = x->strands[strand * WALKS].vector, inverse_length;
    const void *elements;

    if (x->codes.stride == 0)
        return;
    elements = vs_column_at(&x->elements, slot);
    inverse_length = vs_row_at(x, slot)->inverse_length;
    vs_encode_row(x, elements, inverse_length, widened, vs_column_at(&x->codes, slot));
    if (vs_is_lean(x))
        vs_encode_outside(x, elements, inverse_length, widened, vs_column_at(&x->codes, slot),
                          vs_column_at(&x->outside, slot));
}

static void sketch_row(void *arg, uint32_t item, uint32_t strand)
{
    const struct store *st = arg;
    uint32_t slot = st->plan->slots[item];

    (void)strand;
    if (st->x->sketches.stride > 0)
        vs_sketch_row(st->x, vs_code_at(st->x, slot), vs_column_at(&st->x->sketches, slot));
}

/* Links rows in batches, and lets them be entries. */
static void link_rows(struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    for (uint32_t first = 0, batch; first < count; first += batch) {
        batch = vs_build_batch(x);
        if (batch > x->build.batch_cap)
            batch = x->build.batch_cap;
        if (batch > count - first)
            batch = count - first;
        vs_build_link(x, slots + first, batch);
        for (uint32_t i = 0; i < batch; i++)
            vs_entry_offer(x, slots[first + i], x->build.far[i]);
    }
}

/* A lean index that has a graph needs no vectors any more, once no reader scans them and
 * no save writes them. */
static void drop_vectors(struct vshard_index *x)
{
    vs_readers_drain(x);
    vs_keep_wait(x);
    vs_column_free(&x->elements, x->allocator);
}

/* Searches go by the graph from here on. None may see rows that were replaced before it was made,
 * since they are not in it; and none may scan any more when others come, which have no vectors in a
 * lean index. */
static void begin_graph(struct vshard_index *x)
{
    vs_readers_drain(x);
    atomic_store_explicit(&x->trained, 1, memory_order_release);
    vs_readers_drain(x);
}

/* Leaves are made by codes. */
static void drop_bulk(struct vshard_index *x, struct plan *p)
{
    vs_bulk_end(x, p->bulk);
    p->bulk = NULL;
}

/* Makes the graph over the rows that are there. They stay to be found by scanning
 * until it is whole. */
static void train(struct vshard_index *x, struct plan *p)
{
    struct store st = { x, p, 0, true };
    uint32_t slots = atomic_load(&x->slot_count), count = 0;

    vs_quantizer_train(x, p->training);
    for (uint32_t slot = 0; slot < slots; slot++) {
        memset(vs_column_at(&x->edges, slot), 0xff, x->edges.stride);
        if (x->codes.stride > 0)
            memset(vs_column_at(&x->codes, slot), 0, x->codes.stride);
        if (x->sketches.stride > 0)
            memset(vs_column_at(&x->sketches, slot), 0, x->sketches.stride);
        if (vs_is_lean(x))
            memset(vs_column_at(&x->outside, slot), 0, x->outside.stride);
        if (vs_row_state(x, slot) == VS_ROW_LIVE)
            p->slots[count++] = slot;
    }
    vs_parallel(x, count, encode_row, &st);
    if (vs_trial_fails(x, p->trial)) {
        vs_walk_by_vectors(x);
        drop_bulk(x, p);
    }
    x->no_vectors = vs_is_lean(x); /* rows are their codes from here on, and what they leave out */
    if (x->sketches.stride > 0)
        vs_sketcher_train(x, p->sketching);
    vs_parallel(x, count, sketch_row, &st);
    if (x->sketches.stride > 0 && !vs_sketches_serve(x, p->sketching))
        vs_walk_by_codes(x);
    if (p->bulk != NULL) /* with the others, when they are stored */
        return;
    link_rows(x, p->slots, count);
    vs_islands_enter(x, p->islands, p->slots, count);
    begin_graph(x);
}

/* Lets new rows be found, in order, and retires those that they replace. */
static void publish_linked(struct vshard_index *x, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t old = publish(x, slots[i]);

        if (old != VS_SLOT_NONE)
            vs_repair_retire(x, old);
    }
    vs_readers_show(x);
}

/* Where there was a graph, readers scan until it is whole again. */
static void add_bulk(struct vshard_index *x, struct plan *p)
{
    uint32_t count = p->count - p->flat;

    store_near(x, p, p->flat, count);
    atomic_store(&x->relinking, VS_RELINKING);
    vs_readers_drain(x);
    vs_bulk_link(x, p->bulk, p->islands);
    begin_graph(x);
    publish_linked(x, p->slots + p->flat, count);
    atomic_store_explicit(&x->relinking, 0, memory_order_release);
}

static void add_linked(struct vshard_index *x, struct plan *p)
{
    for (uint32_t first = p->flat, batch; first < p->count; first += batch) {
        batch = vs_build_batch(x);
        if (batch > x->build.batch_cap)
            batch = x->build.batch_cap;
        if (batch > p->count - first)
            batch = p->count - first;
        store_rows(x, p, first, batch);
        vs_build_link(x, p->slots + first, batch);
        for (uint32_t i = 0; i < batch; i++)
            vs_entry_offer(x, p->slots[first + i], x->build.far[i]);
        publish_linked(x, p->slots + first, batch);
    }
}

static void add_planned(struct vshard_index *x, struct plan *p)
{
    x->build.far_left = far_most(x, p);
    add_flat(x, p);
    if (p->trains)
        train(x, p);
    if (p->retrains) {
        vs_retrain(x, p->training, p->trial, p->sketching);
        if (x->by_vectors)
            drop_bulk(x, p);
    }
    if (p->bulk != NULL)
        add_bulk(x, p);
    else
        add_linked(x, p);
    free_dropped(x, p->dropped);
    if (p->trains && vs_is_lean(x))
        drop_vectors(x);
    vs_repair_run(x, p->count);
}

static int add_rows(struct vshard_index *x, struct plan *p, size_t count)
{
    int rc = check_add(x, p->ids, p->vectors, count);

    if (rc == VSHARD_OK)
        rc = vs_incoming_read(x, p->options, count, &p->values);
    if (rc < 0)
        return rc;
    p->vector_bytes = vs_vector_bytes(x);
    rc = plan_add(x, p, count);
    if (rc == VSHARD_OK)
        add_planned(x, p);
    else if (rc != VSHARD_E2BIG)
        vs_refuse(x->logger, rc, "add.refused", "memory", 0, 0);
    vs_incoming_end(x, &p->values, rc);
    plan_fini(x, p);
    vs_attributes_settle(x);
    vs_build_trim(x);
    if (rc == VSHARD_OK)
        vs_shrink_run(x);
    return rc;
}

int vshard_index_add(struct vshard_index *index, const uint64_t *ids, const void *vectors,
                     size_t count)
{
    return vshard_index_add_with(index, ids, vectors, count, NULL);
}

int vshard_index_add_with(struct vshard_index *index, const uint64_t *ids, const void *vectors,
                          size_t count, const struct vshard_add_options *options)
{
    struct plan p = { .ids = ids, .vectors = vectors, .dropped = VS_SLOT_NONE, .options = options };
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (count == 0)
        return VSHARD_OK;
    vs_lock_take(&index->lock);
    rc = add_rows(index, &p, count);
    vs_lock_leave(&index->lock);
    return rc;
}

/* ---- remove ---- */

static int remove_rows(struct vshard_index *x, const uint64_t *ids, size_t count, size_t *removed)
{
    uint32_t dropped = VS_SLOT_NONE;
    size_t done = 0;
    int rc = vs_repair_reserve(x, count, atomic_load(&x->entry_count));

    if (rc < 0)
        return vs_refuse(x->logger, rc, "remove.refused", "memory", 0, 0);
    for (size_t i = 0; i < count; i++) {
        uint32_t slot = vs_idmap_find(&x->ids, ids[i]);

        if (slot == VS_SLOT_NONE || vs_row_state(x, slot) != VS_ROW_LIVE) /* given twice */
            continue;
        if (atomic_load(&x->trained))
            vs_repair_retire(x, slot);
        else
            drop_row(x, slot, &dropped);
        done++;
    }
    if (done > 0)
        vs_readers_show(x);
    for (size_t i = 0; done > 0 && i < count; i++)
        vs_idmap_remove(&x->ids, ids[i]);
    free_dropped(x, dropped);
    vs_repair_run(x, done);
    vs_attributes_settle(x);
    vs_build_trim(x);
    vs_shrink_run(x);
    if (removed != NULL)
        *removed = done;
    return VSHARD_OK;
}

int vshard_index_remove(struct vshard_index *index, const uint64_t *ids, size_t count,
                        size_t *removed)
{
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (ids == NULL && count > 0)
        return vs_refuse(index->logger, VSHARD_EINVAL, "remove.refused", "ids: NULL", 0, 0);
    if (index->mapping.bytes != NULL)
        return vs_refuse(index->logger, VSHARD_ENOTSUP, "remove.refused", "index: mapped", 1, 0);
    vs_lock_take(&index->lock);
    rc = remove_rows(index, ids, count, removed);
    vs_lock_leave(&index->lock);
    return rc;
}
