/* create.c - the index's life: options, layout, stats, end. */
#include "index/state.h"

static const struct limit {
    const char *name;
    size_t at;
    uint32_t least, most, normal;
} limits[] = {
#define FIELD(name, least, most, normal)                                        \
    {                                                                           \
#name, offsetof(struct vshard_index_options, name), least, most, normal \
    }
    FIELD(dim, 1, VSHARD_DIM_MAX, 0),
    FIELD(family, 0, VSHARD_FAMILY_FLAT, 0),
    FIELD(metric, 0, VSHARD_METRIC_HAMMING, 0),
    FIELD(element, 0, VSHARD_ELEMENT_BITS, 0),
    FIELD(m, M_MIN, M_MAX, M_DEFAULT),
    FIELD(ef_construction, EF_CONSTRUCTION_MIN, EF_CONSTRUCTION_MAX, EF_CONSTRUCTION_DEFAULT),
    FIELD(ef_search, 1, VSHARD_EF_MAX, EF_SEARCH_DEFAULT),
    FIELD(train_rows, TRAIN_ROWS_MIN, TRAIN_ROWS_MAX, TRAIN_ROWS_DEFAULT),
    FIELD(flags, 0, 0, 0),
    FIELD(profile, 0, VSHARD_PROFILE_LEAN, 0),
#undef FIELD
};

/* Puts defaults in place of zeros; EINVAL names the first field out of range. What this
 * machine has is another question, which open_memory() asks. */
int vs_options_check(struct vshard_index_options *o)
{
    for (size_t i = 0; i < VS_COUNT(limits); i++) {
        uint32_t value;

        memcpy(&value, (char *)o + limits[i].at, sizeof value);
        if (value == 0)
            value = limits[i].normal;
        if (value < limits[i].least || value > limits[i].most)
            return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", limits[i].name, value,
                             value < limits[i].least ? limits[i].least : limits[i].most);
        memcpy((char *)o + limits[i].at, &value, sizeof value);
    }
    if (vs_space(o->element, o->metric) == SPACE_NONE)
        return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", "metric: not for this element",
                         o->metric, o->element);
    if (o->element == VSHARD_ELEMENT_BITS && o->dim % 8 != 0)
        return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", "dim: not a multiple of 8",
                         o->dim, 8);
    if (o->executor != NULL && (o->executor->width < 1 || o->executor->width > WIDTH_MAX))
        return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", "executor.width",
                         o->executor->width, WIDTH_MAX);
    return vs_attributes_check(o);
}

/* Memory of this machine, where the host brings none. */
static int open_memory(struct vshard_index_options *o, struct vshard_allocator *memory)
{
    uint32_t most = 0;
    int rc;

    if (o->allocator != NULL && o->numa_node > 0)
        return vs_refuse(o->logger, VSHARD_EINVAL, "create.refused", "numa_node: with an allocator",
                         o->numa_node, 0);
    if (o->allocator != NULL)
        return VSHARD_OK;
    rc = vs_os_memory_open(o->numa_node, memory, &most);
    if (rc < 0)
        return vs_refuse(o->logger, rc, "create.refused", "numa_node", o->numa_node, most);
    o->allocator = memory;
    return VSHARD_OK;
}

static void copy_hooks(struct vshard_index *x, const struct vshard_index_options *o)
{
    x->allocator_copy = *o->allocator;
    x->allocator = &x->allocator_copy;
    if (o->logger != NULL) {
        x->logger_copy = *o->logger;
        x->logger = &x->logger_copy;
    }
    if (o->storage != NULL) {
        x->storage_copy = *o->storage;
        x->storage = &x->storage_copy;
    }
    x->strand_count = 1;
    if (o->executor != NULL) {
        x->executor = *o->executor;
        x->strand_count = x->executor.width;
    }
}

/* An element row is padded to 4 bytes; where elements are walked as codes, to 16, so
 * that a row does not straddle more lines than it must. */
static size_t element_stride(const struct vshard_index *x)
{
    size_t bytes = vs_vector_bytes(x), align = vs_elements_are_codes(x) ? 16 : 4;

    return (bytes + align - 1) / align * align;
}

void vs_columns_list(struct vshard_index *x, struct vs_column *out[VS_COLUMNS])
{
    struct vs_column *all[] = {
        &x->elements, &x->outside, &x->codes,  &x->sketches,   &x->edges,
        &x->rows,     &x->links,   &x->bounds, &x->live_words, &x->entries
    };

    memcpy(out, all, sizeof all);
    for (uint32_t i = 0; i < VSHARD_ATTRIBUTES_MAX; i++)
        out[VS_COUNT(all) + i] = &x->attributes.columns[i];
}

static void lay_out(struct vshard_index *x)
{
    bool graph = x->family == VSHARD_FAMILY_HNSW;
    struct vs_column *columns[VS_COLUMNS];

    x->degree = graph ? 2 * x->m : 0;
    x->free_head = x->repair.removed_head = x->repair.dying_head = VS_SLOT_NONE;
    vs_column_init(&x->elements, element_stride(x));
    vs_column_init(&x->outside, vs_is_lean(x) ? sizeof(struct vs_outside) : 0);
    vs_column_init(&x->codes, graph && !vs_elements_are_codes(x) ? x->quantizer.code_bytes
                              : vs_scan_coded(x)                 ? x->dim
                                                                 : 0);
    vs_column_init(&x->bounds, vs_scan_coded(x) ? 2 * sizeof(float) : 0);
    vs_column_init(&x->live_words, sizeof(uint64_t));
    vs_column_init(&x->sketches, vs_sketch_bytes(x));
    vs_column_init(&x->edges, x->degree * sizeof(uint32_t));
    vs_column_init(&x->rows, sizeof(struct vs_row));
    vs_column_init(&x->links, sizeof(uint32_t));
    vs_column_init(&x->entries, sizeof(uint32_t));
    vs_columns_list(x, columns);
    for (size_t i = 0; i < VS_COLUMNS; i++)
        columns[i]->tight = x->max_bytes > 0;
    x->traversal = vs_elements_are_codes(x) ? &x->elements : &x->codes;
    vs_idmap_init(&x->ids, &x->rows, x->seed);
}

/* Makes an empty index of options that were read. */
int vs_index_new(const struct vshard_index_options *given, struct vshard_index **out)
{
    struct vshard_index_options o = *given;
    struct vshard_allocator memory;
    struct vshard_index *x;
    int rc = vs_options_check(&o);

    if (rc == VSHARD_OK)
        rc = open_memory(&o, &memory);
    if (rc < 0)
        return rc;
    x = vs_alloc_zeroed(o.allocator, sizeof *x);
    if (x != NULL && vs_lock_init(&x->lock) < 0) {
        vs_free(o.allocator, x, sizeof *x);
        x = NULL;
    }
    if (x != NULL && vs_keep_init(x) < 0) {
        vs_lock_fini(&x->lock);
        vs_free(o.allocator, x, sizeof *x);
        x = NULL;
    }
    if (x == NULL) {
        vs_os_memory_close(o.allocator);
        return vs_refuse(o.logger, VSHARD_ENOMEM, "create.refused", "memory", sizeof *x, 0);
    }
    copy_hooks(x, &o);
    x->numa_node = o.numa_node;
    x->dim = o.dim;
    x->family = o.family;
    x->metric = o.metric;
    x->element = o.element;
    x->space = vs_space(o.element, o.metric);
    x->m = o.m;
    x->ef_construction = o.ef_construction;
    x->ef_search = o.ef_search;
    x->train_rows = o.train_rows;
    x->profile = o.profile;
    x->seed = o.seed;
    x->max_bytes = o.max_bytes;
    vs_kernel_init(&x->kernel, vs_os_cpu());
    vs_attributes_init(x, &o);
    rc = vs_quantizer_init(x);
    if (rc == VSHARD_OK)
        rc = vs_sketcher_init(x);
    if (rc == VSHARD_OK)
        rc = vs_readers_init(x);
    lay_out(x);
    if (rc < 0) {
        vs_refuse(x->logger, rc, "create.refused", "memory", 0, 0);
        vshard_index_destroy(x);
        return rc;
    }
    *out = x;
    return VSHARD_OK;
}

int vshard_index_create(const struct vshard_index_options *options, struct vshard_index **index)
{
    struct vshard_index_options o;
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    *index = NULL;
    rc = vs_options_read(&o, sizeof o, options,
                         VS_SIZE_THROUGH(struct vshard_index_options, storage));
    if (rc == VSHARD_EVERSION) /* larger than ours, so our fields are there */
        return vs_refuse(options->logger, rc, "create.refused", "options.size", options->size,
                         sizeof o);
    if (rc < 0) /* too small to trust any field, the logger's among them */
        return rc;
    return vs_index_new(&o, index);
}

void vshard_index_destroy(struct vshard_index *x)
{
    struct vs_column *columns[VS_COLUMNS];
    struct vshard_allocator a;

    if (x == NULL)
        return;
    a = x->allocator_copy; /* the index is gone before its memory is freed */
    vs_build_fini(x);
    vs_strands_fini(x);
    vs_repair_fini(x);
    vs_readers_fini(x);
    vs_idmap_fini(&x->ids, &a);
    vs_columns_list(x, columns);
    for (size_t i = 0; i < VS_COLUMNS; i++)
        vs_column_fini(columns[i], &a);
    vs_keywords_fini(&x->attributes.keywords, &a);
    vs_sketcher_fini(x);
    vs_quantizer_fini(x);
    vs_mapping_close(x);
    vs_track_fini(x);
    vs_keep_fini(x);
    vs_lock_fini(&x->lock);
    vs_free(&a, x, sizeof *x);
    vs_os_memory_close(&a);
}

uint64_t vshard_index_count(const struct vshard_index *index)
{
    return index ? atomic_load_explicit(&index->shown, memory_order_acquire) : 0;
}

static uint64_t scratch_bytes(const struct vshard_index *x)
{
    return WIDTH_MAX * sizeof *x->readers + atomic_load(&x->scratch_bytes) +
           x->mapping.extents * sizeof *x->mapping.verified + x->mapping.own_bytes;
}

/* Bytes of a column's rows, in memory or in the mapped file. */
static uint64_t column_bytes(const struct vshard_index *x, const struct vs_column *c)
{
    if (x->mapping.bytes != NULL)
        return (uint64_t)atomic_load(&x->slot_count) * c->stride;
    return c->heap_bytes;
}

int vshard_index_stats(struct vshard_index *index, struct vshard_index_stats *stats)
{
    const struct vshard_index *x = index;
    struct vshard_index_stats s = { 0 };
    struct vs_column *columns[VS_COLUMNS];
    uint64_t ids_bytes;

    if (x == NULL)
        return VSHARD_EINVAL;
    ids_bytes = atomic_load(&x->ids.bytes);
    s.dim = x->dim;
    s.family = x->family;
    s.metric = x->metric;
    s.element = x->element;
    s.m = x->degree / 2;
    s.ef_construction = x->ef_construction;
    s.ef_search = x->ef_search;
    s.train_rows = x->train_rows;
    s.trained = atomic_load(&x->trained);
    s.mapped = x->mapping.bytes != NULL;
    s.entries = atomic_load(&x->entry_count);
    s.rows = x->shown;
    s.removed_rows = x->removed;
    s.free_rows = x->free_count;
    s.element_bytes = column_bytes(x, vs_exact(x, vs_is_lean(x) && s.trained));
    s.code_bytes =
        column_bytes(x, &x->codes) + column_bytes(x, &x->sketches) + x->bounds.heap_bytes;
    s.edge_bytes = column_bytes(x, &x->edges);
    s.id_bytes =
        column_bytes(x, &x->rows) + x->links.heap_bytes + ids_bytes + x->live_words.heap_bytes;
    s.attribute_bytes = vs_attributes_bytes(x);
    s.attribute_count = x->attributes.count;
    s.keyword_count = vs_keywords_used(&x->attributes.keywords);
    s.scratch_bytes = scratch_bytes(x);
    s.mapped_bytes = x->mapping.count;
    s.numa_node = x->numa_node;
    s.calibrated_rows = atomic_load(&x->calibrated_rows);
    s.profile = x->profile;
    s.heap_bytes = sizeof *x + ids_bytes + vs_quantizer_bytes(x) + vs_sketcher_bytes(x) +
                   s.scratch_bytes + vs_keywords_bytes(&x->attributes.keywords) +
                   atomic_load(&x->track.bytes);
    vs_columns_list(index, columns);
    for (size_t i = 0; i < VS_COLUMNS; i++)
        s.heap_bytes += columns[i]->heap_bytes;
    if (vs_report_write(stats, &s, sizeof s,
                        VS_SIZE_THROUGH(struct vshard_index_stats, scratch_bytes)) < 0)
        return vs_refuse(x->logger, VSHARD_EINVAL, "stats.refused", "stats.size",
                         stats ? stats->size : 0, sizeof s);
    return VSHARD_OK;
}

/* Where rows lie: columns, the map from ids, and the mapped file. */
static int add_node_bytes(struct vshard_index *x, uint64_t *bytes, size_t node_count)
{
    struct vs_column *columns[VS_COLUMNS];
    int rc = vs_os_node_bytes(vs_idmap_table(&x->ids), vs_idtable_bytes(vs_idmap_cap(&x->ids)),
                              bytes, node_count);

    if (rc == VSHARD_OK)
        rc = vs_os_node_bytes(x->mapping.bytes, x->mapping.count, bytes, node_count);
    vs_columns_list(x, columns);
    for (size_t i = 0; rc == VSHARD_OK && i < VS_COLUMNS; i++)
        rc = vs_column_node_bytes(columns[i], bytes, node_count);
    if (rc == VSHARD_OK)
        rc = vs_column_node_bytes(&x->attributes.keywords.cells, bytes, node_count);
    return rc;
}

int vshard_index_node_bytes(struct vshard_index *index, uint64_t *bytes, size_t node_count)
{
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (bytes == NULL)
        return vs_refuse(index->logger, VSHARD_EINVAL, "node_bytes.refused", "bytes: NULL", 0, 0);
    memset(bytes, 0, node_count * sizeof *bytes);
    vs_lock_share(&index->lock);
    rc = add_node_bytes(index, bytes, node_count);
    vs_lock_leave(&index->lock);
    if (rc < 0)
        return vs_refuse(index->logger, rc, "node_bytes.refused", "node_count", (int64_t)node_count,
                         0);
    return VSHARD_OK;
}
