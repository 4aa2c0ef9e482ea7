/* estimate.c - what rows take, in memory and on disk, before they are there.
 *
 * All of it follows from the layout of the columns, so it is the same on every replica:
 * one refuses what the others refuse. But whether codes and sketches serve is found out from the
 * rows (vectors.c, sketch.c), and there are no columns of what does not: so what a graph takes is
 * known as the most and the least, and limited by the most. Buffers that calls need while they run
 * depend on threads and are not counted, but for those that a load leaves behind. */
#include "index/image.h"

static uint64_t column_after(const struct vs_column *c, uint64_t rows)
{
    uint32_t extents = vs_extents_for(rows), there = c->extents;

    return (uint64_t)(extents > there ? extents : there) * VS_EXTENT_ROWS * c->stride;
}

/* Bytes of rows, codes, edges and ids once `slots` slots are in use by `ids` rows; with
 * codes and edges if there is a graph then. */
uint64_t vs_rows_bytes(const struct vshard_index *x, uint64_t slots, uint64_t ids, bool graph)
{
    uint64_t bytes = column_after(vs_exact(x, vs_is_lean(x) && graph), slots) +
                     column_after(&x->rows, slots) + column_after(&x->links, slots) +
                     column_after(&x->live_words, slots / 64 + 1) +
                     vs_idtable_bytes(vs_idmap_cap_for(&x->ids, ids)) +
                     vs_keywords_bytes(&x->attributes.keywords);

    for (uint32_t i = 0; i < x->attributes.count; i++)
        bytes += column_after(&x->attributes.columns[i], slots);

    if (graph || x->family == VSHARD_FAMILY_FLAT)
        bytes += column_after(&x->codes, slots) + column_after(&x->bounds, slots);
    if (graph)
        bytes += column_after(&x->sketches, slots) + column_after(&x->edges, slots) +
                 column_after(&x->entries, slots / ENTRY_ONE_IN + 1);
    return bytes;
}

static uint64_t file_bytes(struct vshard_index *x, uint64_t slots, bool graph)
{
    struct vs_image_layout layout;

    atomic_store(&x->slot_count, (uint32_t)slots);
    atomic_store(&x->entry_count, graph ? (uint32_t)(slots / ENTRY_ONE_IN + 1) : 0);
    atomic_store(&x->trained, graph);
    x->no_vectors = graph && vs_is_lean(x);
    vs_image_layout(x, &layout);
    return layout.end;
}

struct taken {
    uint64_t rows, memory, file;
};

/* Room for candidates that adding the rows leaves in a scratch. */
static uint32_t pool_after(const struct vshard_index *x, uint64_t count, bool graph)
{
    uint32_t build = graph ? vs_build_pool(x) : 0;
    uint32_t bulk = graph && vs_bulk_suits(x, count - x->train_rows) ? vs_bulk_pool(x) : 0;

    return bulk > build ? bulk : build;
}

static struct taken take(struct vshard_index *x, uint64_t count, bool graph, uint64_t others)
{
    struct taken t = { .rows = vs_rows_bytes(x, count, count, graph) };

    t.memory = others + t.rows;
    t.file = file_bytes(x, count, graph);
    return t;
}

/* What may turn out not to serve goes. */
static void drop_most(struct vshard_index *x)
{
    if (vs_walks_by_vectors(x))
        vs_walk_by_vectors(x);
    else
        vs_walk_by_codes(x);
}

static void estimate_rows(struct vshard_index *x, uint64_t count, struct vshard_index_estimate *out)
{
    bool graph = x->family == VSHARD_FAMILY_HNSW && count >= x->train_rows;
    struct vshard_index_stats empty = { .size = sizeof empty };
    struct taken most, least;
    uint64_t others;

    vshard_index_stats(x, &empty);
    others = empty.heap_bytes +
             x->strand_count * WALKS * vs_scratch_bytes(x, count, pool_after(x, count, graph));
    most = take(x, count, graph, others);
    drop_most(x);
    least = take(x, count, graph, others);
    out->rows_bytes = most.rows;
    out->memory_bytes = most.memory;
    out->file_bytes = most.file;
    out->least_rows_bytes = least.rows;
    out->least_memory_bytes = least.memory;
    out->least_file_bytes = least.file;
}

int vshard_index_estimate(const struct vshard_index_options *options, uint64_t count,
                          struct vshard_index_estimate *estimate)
{
    struct vshard_index_estimate out = { 0 };
    struct vshard_index *x;
    int rc = vshard_index_create(options, &x);

    if (rc < 0)
        return rc;
    if (count > VSHARD_ROWS_MAX)
        rc = vs_refuse(x->logger, VSHARD_E2BIG, "estimate.refused", "count",
                       count > INT64_MAX ? INT64_MAX : (int64_t)count, VSHARD_ROWS_MAX);
    if (rc == VSHARD_OK) {
        estimate_rows(x, count, &out);
        if (vs_report_write(estimate, &out, sizeof out,
                            VS_SIZE_THROUGH(struct vshard_index_estimate, file_bytes)) < 0)
            rc = vs_refuse(x->logger, VSHARD_EINVAL, "estimate.refused", "estimate.size",
                           estimate ? estimate->size : 0, sizeof out);
    }
    vshard_index_destroy(x);
    return rc;
}
