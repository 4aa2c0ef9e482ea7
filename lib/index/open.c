/* open.c - an index from a file: verified, never trusted.
 *
 * The header and the small sections are verified at once, and so are every row's id
 * and state, because the map from ids is made of them, and values, because searches read them
 * in all rows. Vectors, codes and edges are
 * verified extent by extent: all of them when the file is copied, each at first touch
 * when it is mapped. A checksum finds accidents; what a forger could still do is
 * bounded by the checks of image.c and below: every slot that a file names is there. */
#include "index/track.h"

#include <math.h>

struct opening {
    const char *path;
    const struct vshard_open_options *options;
    struct vs_image image;
    struct vs_image_layout layout;
    struct vshard_index *x;
    uint64_t file, file_bytes;
    unsigned char *sums; /* copied; NULL when mapped, and in one file */
    size_t sums_bytes;
    bool has_parts; /* and this is the head of them: */
    bool parted;    /* one that it names is not there */
    struct vs_generation generation;
    struct vs_base base; /* its file has the columns; of one file, that is the same */
};

static int damaged(const struct opening *o, const char *what)
{
    const struct vs_field fields[] = { { "path", o->path, 0, NULL }, { "section", what, 0, NULL } };

    vs_log(o->options->logger, VSHARD_LOG_ERROR, "open.corrupt", fields, VS_COUNT(fields));
    return VSHARD_ECORRUPT;
}

/* The attributes as they were declared. */
static int read_schema(struct opening *o)
{
    struct vs_image *i = &o->image;
    size_t bytes = i->attribute_count * sizeof *i->schema;
    uint64_t at = (o->has_parts ? GENERATION_BYTES : 0) + IMAGE_HEADER_BYTES;
    int rc;

    if (i->attribute_count == 0)
        return VSHARD_OK;
    if (i->attribute_count > VSHARD_ATTRIBUTES_MAX || o->file_bytes < at + bytes)
        return damaged(o, "attributes");
    rc = vs_io_read(o->options->storage, o->file, at, i->schema, bytes);
    if (rc == VSHARD_OK && vs_image_schema_sum(i->schema, i->attribute_count) != i->schema_sum)
        return damaged(o, "attributes");
    i->options.attributes = i->schema;
    i->options.attribute_count = i->attribute_count;
    return rc;
}

/* The block before the header, where there is one: it says where the rows are. */
static int read_generation(struct opening *o, unsigned char *header)
{
    unsigned char block[GENERATION_BYTES];
    int rc;

    o->has_parts = vs_generation_is(header);
    if (!o->has_parts)
        return VSHARD_OK;
    if (o->file_bytes < sizeof block + IMAGE_HEADER_BYTES)
        return VSHARD_ECORRUPT;
    rc = vs_io_read(o->options->storage, o->file, 0, block, sizeof block);
    if (rc == VSHARD_OK)
        rc = vs_generation_decode(block, &o->generation);
    return rc < 0
               ? rc
               : vs_io_read(o->options->storage, o->file, sizeof block, header, IMAGE_HEADER_BYTES);
}

static int read_header(struct opening *o)
{
    unsigned char header[IMAGE_HEADER_BYTES];
    int rc;

    if (o->file_bytes < sizeof header)
        return damaged(o, "header");
    rc = vs_io_read(o->options->storage, o->file, 0, header, sizeof header);
    if (rc == VSHARD_OK)
        rc = read_generation(o, header);
    if (rc == VSHARD_OK)
        rc = vs_image_decode(header, &o->image);
    if (rc == VSHARD_OK && o->has_parts && o->image.digest != o->generation.digest)
        rc = VSHARD_ECORRUPT;
    if (rc == VSHARD_ECORRUPT)
        return damaged(o, "header");
    o->image.options.allocator = o->options->allocator;
    o->image.options.logger = o->options->logger;
    o->image.options.executor = o->options->executor;
    o->image.options.storage = o->options->storage;
    o->image.options.numa_node = o->options->numa_node;
    o->image.options.max_bytes = o->options->max_bytes;
    return rc == VSHARD_OK ? read_schema(o) : rc;
}

static bool counts_valid(const struct vs_image *i)
{
    return i->trained <= 1 && i->active <= 1 && i->slot_count <= VSHARD_ROWS_MAX &&
           (!i->trained || i->options.family == VSHARD_FAMILY_HNSW) &&
           (i->trained || (i->removed == 0 && i->entry_count == 0 && !i->active)) &&
           i->live <= i->slot_count && i->removed <= i->slot_count - i->live &&
           i->free_count == i->slot_count - i->live - i->removed &&
           i->keyword_count <= VSHARD_ROWS_MAX && i->keyword_free_count <= i->keyword_count &&
           vs_calibration_valid(&i->calibration) && i->entry_count <= i->slot_count &&
           i->cursor <= i->slot_count && isfinite(i->scale) && isfinite(i->radius2);
}

static bool sketches_valid(const struct vshard_index *x, const struct vs_image *i)
{
    bool axes = vs_sketch_has_axes(x);

    if (i->by_codes)
        return i->trained && i->sketch_bytes == 0 && vs_sketch_bytes(x) > 0 && !axes;
    if (i->by_vectors)
        return i->trained && i->sketch_bytes == 0 && vs_walks_by_vectors(x);
    if (i->by_products && !(i->trained && x->space == SPACE_CODE_DOT))
        return false;
    return i->sketch_bytes == (i->trained ? vs_sketch_bytes(x) : 0) ||
           (i->sketch_bytes == 0 && axes);
}

/* What options and counts say together: a saved option is never left to its default;
 * there is a graph as soon as there were train_rows rows, and as long as there were ever. */
static bool options_valid(const struct vshard_index *x, const struct vs_image *i)
{
    return x->m == i->options.m && x->ef_construction == i->options.ef_construction &&
           x->ef_search == i->options.ef_search && x->train_rows == i->options.train_rows &&
           sketches_valid(x, i) &&
           (x->family == VSHARD_FAMILY_FLAT || i->trained || i->live < x->train_rows);
}

/* An empty index with the header's options; refused options are damage here. */
static int make_index(struct opening *o)
{
    const struct vs_image *i = &o->image;
    struct vshard_index_options filled;
    int rc;

    if (!counts_valid(i))
        return damaged(o, "header");
    if (i->options.family == VSHARD_FAMILY_FLAT && o->options->flags != 0)
        o->image.options.profile = VSHARD_PROFILE_LEAN; /* a mapped index is, too */
    filled = i->options;
    if (vs_options_check(&filled) < 0)
        return damaged(o, "options");
    rc = vs_index_new(&i->options, &o->x);
    if (rc < 0)
        return rc;
    if (!options_valid(o->x, i))
        return damaged(o, "options");
    if (i->trained && !i->by_products && o->x->space == SPACE_CODE_DOT)
        vs_code_on_sphere(o->x);
    atomic_store(&o->x->trained, i->trained);
    atomic_store(&o->x->slot_count, (uint32_t)i->slot_count);
    atomic_store(&o->x->entry_count, i->entry_count);
    o->x->live = o->x->shown = i->live;
    o->x->removed = i->removed;
    o->x->free_count = i->free_count;
    o->x->free_head = i->free_head;
    o->x->repair.removed_head = i->removed_head;
    o->x->repair.dying_head = i->dying_head;
    o->x->repair.active = i->active;
    o->x->repair.cursor = i->cursor;
    o->x->quantizer.scale = i->scale;
    o->x->quantizer.radius2 = i->radius2;
    o->x->sketcher.scale = i->sketch_scale;
    o->x->calibrations[0] = i->calibration;
    atomic_store(&o->x->calibrated_rows, i->calibration.rows);
    o->x->no_vectors = i->trained && vs_is_lean(o->x);
    o->x->attributes.keywords.count = i->keyword_count;
    o->x->attributes.keywords.free_head =
        i->attribute_count > 0 ? i->keyword_free_head : VS_KEYWORD_NONE;
    o->x->attributes.keywords.free_count = i->keyword_free_count;
    if (i->by_vectors)
        vs_walk_by_vectors(o->x);
    if (i->trained && i->sketch_bytes == 0)
        o->x->sketches.stride = 0;
    if (o->has_parts)
        vs_image_layout_head(o->x, &o->layout);
    else
        vs_image_layout(o->x, &o->layout);
    return o->layout.end == o->file_bytes ? VSHARD_OK : damaged(o, "length");
}

/* A part that is not there, or is not what it should be. */
static int part_status(struct opening *o, int rc)
{
    o->parted = rc == VSHARD_ENOTFOUND;
    return rc == VSHARD_ENOTFOUND || rc == VSHARD_ECORRUPT ? damaged(o, "part") : rc;
}

/* The file that has the columns. */
static int open_base(struct opening *o)
{
    if (o->has_parts)
        return part_status(o, vs_base_open(o->x, &o->generation, o->path, &o->base));
    o->base = (struct vs_base){ o->file, o->file_bytes, atomic_load(&o->x->slot_count), o->layout };
    return VSHARD_OK;
}

/* ---- small sections: copied in both ways of opening ---- */

static int read_sketcher(struct opening *o, uint64_t at)
{
    struct vs_sketcher *k = &o->x->sketcher;
    int rc = vs_io_read(o->x->storage, o->file, at, k->low, sizeof k->low);

    return rc < 0 ? rc
                  : vs_io_read(o->x->storage, o->file, at + sizeof k->low, k->axes,
                               vs_sketcher_bytes(o->x));
}

static bool low_valid(const struct vshard_index *x)
{
    const struct vs_kernel *k = &x->kernel;

    return k->find_unfit(x->quantizer.low, x->quantizer.low_dim, __FLT_MAX__) ==
               x->quantizer.low_dim &&
           k->find_unfit(x->sketcher.low, SKETCH_DIMS, __FLT_MAX__) == SKETCH_DIMS;
}

static int read_low(struct opening *o)
{
    struct vs_quantizer *z = &o->x->quantizer;
    size_t bytes = z->low_dim * sizeof(float);
    int rc = vs_io_read(o->x->storage, o->file, o->layout.low, z->low, bytes);

    if (rc == VSHARD_OK && vs_sketch_has_axes(o->x))
        rc = read_sketcher(o, o->layout.low + bytes);
    if (rc < 0)
        return rc;
    if (vs_image_low_sum(o->x) != o->image.low_sum || !low_valid(o->x))
        return damaged(o, "low");
    vs_quantizer_centre(o->x);
    return VSHARD_OK;
}

/* Reads `count` rows of a column, and their chained checksum. */
static int read_rows(struct opening *o, struct vs_column *c, uint32_t count, uint64_t at,
                     uint64_t *sum)
{
    int rc = VSHARD_OK;

    *sum = 0;
    for (uint32_t first = 0; rc == VSHARD_OK && first < count; first += VS_EXTENT_ROWS) {
        uint32_t n = count - first < VS_EXTENT_ROWS ? count - first : VS_EXTENT_ROWS;
        void *rows = vs_column_at(c, first);

        rc = vs_io_read(o->x->storage, o->file, at + first * c->stride, rows, n * c->stride);
        if (rc == VSHARD_OK)
            *sum = vs_checksum(rows, n * c->stride, *sum);
    }
    return rc;
}

static int read_entries(struct opening *o)
{
    uint32_t count = o->image.entry_count;
    uint64_t sum;
    int rc = vs_column_reserve(&o->x->entries, (uint64_t)count + 1, o->x->allocator);

    if (rc == VSHARD_OK)
        rc = read_rows(o, &o->x->entries, count, o->layout.entries, &sum);
    if (rc == VSHARD_OK && sum != o->image.entries_sum)
        return damaged(o, "entries");
    return rc;
}

static int read_keywords(struct opening *o)
{
    struct vs_keywords *k = &o->x->attributes.keywords;
    uint64_t sum;
    int rc;

    if (o->image.attribute_count == 0)
        return VSHARD_OK;
    rc = vs_column_reserve(&k->cells, k->count, o->x->allocator);
    if (rc == VSHARD_OK)
        rc = read_rows(o, &k->cells, k->count, o->layout.keywords, &sum);
    if (rc == VSHARD_OK && sum != o->image.keywords_sum)
        return damaged(o, "keywords");
    if (rc == VSHARD_OK)
        rc = vs_keywords_restore(k, o->x->allocator);
    return rc == VSHARD_ECORRUPT ? damaged(o, "keywords") : rc;
}

/* Values and keywords that agree with rows and with each other. */
static int check_values(struct opening *o)
{
    uint64_t bad;
    int rc = vs_attributes_audit(o->x, &bad);

    return rc == VSHARD_OK && bad > 0 ? damaged(o, "values") : rc;
}

static bool sums_match(const struct opening *o, const unsigned char *sums)
{
    return vs_checksum(sums, vs_image_sums_bytes(o->x), 0) == o->image.sums_sum;
}

static bool extent_matches(const struct vshard_index *x, const unsigned char *sums,
                           uint32_t extents, int column, uint32_t extent)
{
    size_t stride = vs_image_stride(x, column);
    const struct vs_column *c = vs_image_column((struct vshard_index *)x, column);
    uint64_t sum = 0;

    if (stride > 0)
        sum = vs_checksum(vs_column_at(c, extent * VS_EXTENT_ROWS),
                          vs_image_rows(x, extent) * stride, 0);
    return sum == vs_load64(sums + ((size_t)column * extents + extent) * 8);
}

/* ---- rows: what the small numbers of the header promise ---- */

/* Walks a chain of slots; true if it has `count` members, all of this state. */
static bool chain_valid(const struct vshard_index *x, uint32_t slot, uint32_t state, uint64_t count)
{
    uint32_t slots = atomic_load(&x->slot_count);

    for (; count > 0; count--) {
        const struct vs_row *row;

        if (slot >= slots)
            return false;
        row = vs_row_at(x, slot);
        if (atomic_load(&row->state) != state || row->id > UINT32_MAX)
            return false;
        slot = (uint32_t)row->id;
    }
    return slot == VS_SLOT_NONE;
}

/* The bytes that a flat index scans are not in the file. */
static int encode_rows(struct opening *o)
{
    struct vshard_index *x = o->x;
    size_t bytes = x->quantizer.low_dim * sizeof(float);
    float *vector = vs_alloc(x->allocator, bytes);

    if (vector == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t slot = 0; slot < atomic_load(&x->slot_count); slot++) {
        if (vs_row_state(x, slot) == VS_ROW_LIVE)
            vs_scan_encode(x, slot, vector);
    }
    vs_free_wiped(x->allocator, vector, bytes);
    return VSHARD_OK;
}

/* In memory a row that is not live has its chain in a column of its own. */
static void take_links(struct vshard_index *x)
{
    uint32_t slots = atomic_load(&x->slot_count);

    for (uint32_t slot = 0; slot < slots; slot++) {
        struct vs_row *row = vs_row_at(x, slot);
        bool live = atomic_load(&row->state) == VS_ROW_LIVE;

        vs_link_set(x, slot, live ? VS_SLOT_NONE : (uint32_t)row->id);
        row->id = live ? row->id : 0;
    }
}

static int reserve_ids(struct vshard_index *x)
{
    uint32_t slots = atomic_load(&x->slot_count);
    struct vs_idtable *none;
    uint64_t largest = 0;
    int rc;

    for (uint32_t slot = 0; slot < slots; slot++) {
        const struct vs_row *row = vs_row_at(x, slot);

        if (atomic_load(&row->state) == VS_ROW_LIVE && row->id > largest)
            largest = row->id;
    }
    rc = vs_idmap_reserve(&x->ids, x->live, largest, x->allocator, &none);
    if (rc == VSHARD_OK && x->mapping.bytes == NULL)
        rc = vs_column_reserve(&x->links, slots, x->allocator);
    return rc < 0 ? rc : vs_scan_reserve_rows(x, slots);
}

static int read_ids(struct opening *o)
{
    struct vshard_index *x = o->x;
    uint32_t slots = atomic_load(&x->slot_count);
    uint64_t seen[VS_ROW_DYING + 1] = { 0 };
    int rc = reserve_ids(x);

    if (rc < 0)
        return rc;
    for (uint32_t slot = 0; slot < slots; slot++) {
        const struct vs_row *row = vs_row_at(x, slot);
        uint32_t state = atomic_load(&row->state);

        if (state > VS_ROW_DYING || !isfinite(row->inverse_length))
            return damaged(o, "rows");
        if (++seen[state] > x->live && state == VS_ROW_LIVE)
            return damaged(o, "rows");
        if (state == VS_ROW_LIVE &&
            (row->id == VSHARD_ID_NONE || vs_idmap_put(&x->ids, row->id, slot) != VS_SLOT_NONE))
            return damaged(o, "rows");
        if (state == VS_ROW_LIVE || state == VS_ROW_REMOVED)
            vs_scan_mark(x, slot, true);
    }
    if (seen[VS_ROW_LIVE] != x->live || (seen[VS_ROW_DYING] > 0 && !x->repair.active) ||
        !chain_valid(x, x->free_head, VS_ROW_FREE, seen[VS_ROW_FREE]) ||
        !chain_valid(x, x->repair.removed_head, VS_ROW_REMOVED, seen[VS_ROW_REMOVED]) ||
        !chain_valid(x, x->repair.dying_head, VS_ROW_DYING, seen[VS_ROW_DYING]))
        return damaged(o, "rows");
    for (uint32_t i = 0; i < o->image.entry_count; i++) {
        uint32_t slot = vs_entry_at(x, i);

        if (slot >= slots || vs_row_state(x, slot) == VS_ROW_FREE)
            return damaged(o, "entries");
    }
    if (x->mapping.bytes == NULL)
        take_links(x);
    rc = check_values(o);
    return rc == VSHARD_OK && x->bounds.stride > 0 ? encode_rows(o) : rc;
}

/* ---- copied ---- */

static int read_column(struct opening *o, int column)
{
    struct vshard_index *x = o->x;
    struct vs_column *c = vs_image_column(x, column);
    size_t stride = vs_image_stride(x, column);
    uint64_t at = o->base.layout.column[column];
    int rc;

    if (stride == 0)
        return VSHARD_OK;
    rc = vs_column_reserve(c, o->image.slot_count, x->allocator);
    for (uint32_t e = 0; rc == VSHARD_OK && e < o->base.layout.extents; e++) {
        uint32_t left = o->base.slots - e * VS_EXTENT_ROWS;
        size_t bytes = (left < VS_EXTENT_ROWS ? left : VS_EXTENT_ROWS) * stride;

        rc = vs_io_read(x->storage, o->base.file, at, vs_column_at(c, e * VS_EXTENT_ROWS), bytes);
        at += bytes;
    }
    return rc;
}

/* Columns that are all there, in memory. */
static int verify_columns(struct opening *o)
{
    for (uint32_t e = 0; e < o->layout.extents; e++) {
        for (int i = 0; i < vs_image_columns(o->x); i++) {
            if (!extent_matches(o->x, o->sums, o->layout.extents, i, e))
                return damaged(o, "columns");
        }
        if (!vs_image_extent_valid(o->x, e))
            return damaged(o, "columns");
    }
    return VSHARD_OK;
}

static int read_parts(struct opening *o)
{
    return o->has_parts ? part_status(o, vs_parts_apply(o->x, &o->generation, o->path, &o->base))
                        : VSHARD_OK;
}

/* The repair's marks are not in the file: they say what the states say. */
static int restore_marks(struct opening *o)
{
    const struct vshard_index *x = o->x;
    const struct vs_repair *r = &x->repair;
    int rc = vs_repair_reserve(o->x, 0, 0);

    if (rc < 0 || r->marks == NULL)
        return rc;
    for (uint32_t slot = r->dying_head; slot != VS_SLOT_NONE; slot = vs_link(x, slot))
        r->marks[slot / VS_MARK_SLOTS] |= vs_mark(slot, VS_MARK_GONE | VS_MARK_DYING);
    for (uint32_t slot = r->removed_head; slot != VS_SLOT_NONE; slot = vs_link(x, slot))
        r->marks[slot / VS_MARK_SLOTS] |= vs_mark(slot, VS_MARK_GONE);
    return VSHARD_OK;
}

static int read_sums(struct opening *o)
{
    int rc;

    o->sums_bytes = vs_image_sums_bytes(o->x);
    o->sums = vs_alloc(o->x->allocator, o->sums_bytes);
    if (o->sums == NULL)
        return VSHARD_ENOMEM;
    rc = vs_io_read(o->x->storage, o->file, o->layout.sums, o->sums, o->sums_bytes);
    return rc == VSHARD_OK && !sums_match(o, o->sums) ? damaged(o, "sums") : rc;
}

/* What changes from here on is what the next generation has to have. */
static int begin_track(struct opening *o)
{
    struct vs_touched none;

    vs_track_turn(o->x, &none);
    vs_track_note(o->x, o->path, &o->generation, o->sums, o->sums_bytes);
    o->sums = NULL;
    return o->x->track.touched != NULL && o->x->track.path != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int copy_in(struct opening *o)
{
    int rc = read_sums(o);

    for (int i = 0; rc == VSHARD_OK && i < vs_image_columns(o->x); i++)
        rc = read_column(o, i);
    if (rc == VSHARD_OK)
        rc = read_parts(o);
    if (rc == VSHARD_OK)
        rc = verify_columns(o);
    if (rc == VSHARD_OK)
        rc = read_ids(o);
    if (rc == VSHARD_OK)
        rc = restore_marks(o);
    return rc == VSHARD_OK && o->has_parts ? begin_track(o) : rc;
}

/* ---- mapped ---- */

/* The checksums: in the mapping, or of a head, which is not mapped. */
static int map_sums(struct opening *o)
{
    struct vs_mapping *m = &o->x->mapping;
    int rc;

    m->sums = m->bytes + o->layout.sums;
    if (!o->has_parts)
        return sums_match(o, m->sums) ? VSHARD_OK : damaged(o, "sums");
    rc = read_sums(o);
    m->sums = m->own_sums = o->sums;
    m->own_bytes = o->sums != NULL ? o->sums_bytes : 0;
    o->sums = NULL;
    return rc;
}

static int map_base(struct opening *o)
{
    struct vs_mapping *m = &o->x->mapping;
    void *bytes;
    int rc = vs_io_map(o->x->storage, o->base.file, o->base.bytes, &bytes);

    if (rc < 0)
        return rc;
    m->bytes = bytes;
    m->count = o->base.bytes;
    m->file = o->base.file;
    m->extents = o->layout.extents;
    m->verified = vs_alloc_zeroed(o->x->allocator, m->extents * sizeof *m->verified);
    return m->verified != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int map_in(struct opening *o)
{
    struct vs_mapping *m = &o->x->mapping;
    int rc = map_base(o);

    if (rc == VSHARD_OK)
        rc = map_sums(o);
    for (int i = 0; rc == VSHARD_OK && i < vs_image_columns(o->x); i++) {
        if (vs_image_stride(o->x, i) > 0)
            rc = vs_column_map(vs_image_column(o->x, i), m->bytes + o->base.layout.column[i],
                               o->base.slots, o->x->allocator);
    }
    if (rc == VSHARD_OK)
        rc = read_parts(o);
    for (uint32_t e = 0; rc == VSHARD_OK && e < m->extents; e++) {
        if (!extent_matches(o->x, m->sums, m->extents, 0, e))
            rc = damaged(o, "rows");
        for (int i = IMAGE_FIRST_VALUES; rc == VSHARD_OK && i < vs_image_columns(o->x); i++) {
            if (!extent_matches(o->x, m->sums, m->extents, i, e))
                rc = damaged(o, "values");
        }
    }
    return rc == VSHARD_OK ? read_ids(o) : rc;
}

/* Verifies what was not yet: vectors, codes and edges of one extent. Two threads may
 * do the same one at once, which costs time and nothing else. */
int vs_mapping_verify(const struct vshard_index *x, uint32_t extent)
{
    const struct vs_mapping *m = &x->mapping;
    const struct vs_field fields[] = { { "extent", NULL, extent, NULL } };
    bool good = true;

    for (int i = 1; i < vs_image_columns(x); i++)
        good = good && extent_matches(x, m->sums, m->extents, i, extent);
    if (!good || !vs_image_extent_valid(x, extent)) {
        vs_log(x->logger, VSHARD_LOG_ERROR, "index.corrupt", fields, VS_COUNT(fields));
        return VSHARD_ECORRUPT;
    }
    atomic_store_explicit(&m->verified[extent], 1, memory_order_release);
    return VSHARD_OK;
}

void vs_mapping_close(struct vshard_index *x)
{
    struct vs_mapping *m = &x->mapping;

    if (m->bytes == NULL)
        return;
    vs_free(x->allocator, m->own_sums, m->own_bytes);
    vs_free(x->allocator, (void *)m->verified, m->extents * sizeof *m->verified);
    vs_io_unmap(x->storage, m->bytes, m->count);
    vs_io_close(x->storage, m->file);
    m->bytes = NULL;
}

/* ---- the call ---- */

static int read_file(struct opening *o)
{
    bool mapped = o->options->flags & VSHARD_OPEN_MAPPED;
    int rc = read_header(o);

    if (rc == VSHARD_OK)
        rc = make_index(o);
    if (rc == VSHARD_OK)
        rc = read_low(o);
    if (rc == VSHARD_OK)
        rc = read_entries(o);
    if (rc == VSHARD_OK)
        rc = read_keywords(o);
    if (rc == VSHARD_OK)
        rc = open_base(o);
    if (rc < 0)
        return rc;
    rc = mapped ? map_in(o) : copy_in(o);
    if (o->has_parts && o->x->mapping.bytes == NULL)
        vs_io_close(o->options->storage, o->base.file);
    return rc;
}

static int open_once(struct opening *o)
{
    int rc = vs_io_open(o->options->storage, o->path, 0, &o->file, &o->file_bytes);

    if (rc < 0)
        return rc;
    rc = read_file(o);
    if (o->has_parts || o->x == NULL || o->x->mapping.bytes == NULL)
        vs_io_close(o->options->storage, o->file);
    if (o->sums != NULL)
        vs_free(o->x->allocator, o->sums, o->sums_bytes);
    return rc;
}

/* A head may have been replaced, and what it names removed, since it was read: then the new
 * one is read. */
static int open_file(struct opening *o)
{
    const struct opening fresh = *o;
    struct vs_generation now;
    int rc = open_once(o);

    while (o->parted && vs_generation_read(o->options->storage, o->path, &now) == VSHARD_OK &&
           (now.first != o->generation.first || now.count != o->generation.count ||
            now.digest != o->generation.digest)) {
        vshard_index_destroy(o->x);
        *o = fresh;
        rc = open_once(o);
    }
    return rc;
}

static int read_options(const struct vshard_open_options *given, struct vshard_open_options *o)
{
    int rc = VSHARD_OK;

    *o = (struct vshard_open_options){ .size = sizeof *o };
    if (given != NULL)
        rc = vs_options_read(o, sizeof *o, given,
                             VS_SIZE_THROUGH(struct vshard_open_options, storage));
    if (rc == VSHARD_EVERSION) /* larger than ours, so our fields are there */
        return vs_refuse(given->logger, rc, "open.refused", "options.size", given->size, sizeof *o);
    if (rc == VSHARD_OK && (o->flags & ~(uint32_t)(VSHARD_OPEN_MAPPED | VSHARD_OPEN_LEAN)))
        return vs_refuse(o->logger, VSHARD_EINVAL, "open.refused", "flags", o->flags,
                         VSHARD_OPEN_MAPPED | VSHARD_OPEN_LEAN);
    if (rc == VSHARD_OK && o->reserved != 0)
        return vs_refuse(o->logger, VSHARD_EINVAL, "open.refused", "reserved", o->reserved, 0);
    if (rc == VSHARD_OK && o->numa_node > 0 && (o->flags & VSHARD_OPEN_MAPPED))
        return vs_refuse(o->logger, VSHARD_EINVAL, "open.refused", "numa_node: of a mapped file",
                         o->numa_node, 0);
    if (rc == VSHARD_OK && o->executor != NULL &&
        (o->executor->width < 1 || o->executor->width > WIDTH_MAX))
        return vs_refuse(o->logger, VSHARD_EINVAL, "open.refused", "executor.width",
                         o->executor->width, WIDTH_MAX);
    return rc;
}

int vshard_index_open(const char *path, const struct vshard_open_options *options,
                      struct vshard_index **index)
{
    struct vshard_open_options read;
    struct opening o = { .path = path, .options = &read };
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    *index = NULL;
    rc = read_options(options, &read);
    if (rc < 0)
        return rc;
    if (path == NULL || path[0] == 0 || strlen(path) > PATH_MAX_BYTES)
        return vs_refuse(read.logger, VSHARD_EINVAL, "open.refused", "path: bytes",
                         path ? (int64_t)strlen(path) : 0, PATH_MAX_BYTES);
    rc = open_file(&o);
    if (rc < 0) {
        vs_refuse(read.logger, rc, "open.failed", path, 0, 0);
        vshard_index_destroy(o.x);
        return rc;
    }
    *index = o.x;
    return VSHARD_OK;
}
