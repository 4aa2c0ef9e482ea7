/* image.c - the bytes of an index file.
 *
 * All integers are little-endian; floats are IEEE 754. The file is a header and eight
 * sections, with attributes more, in this order, each beginning at a multiple of 4,096
 * bytes, with zeros between; their lengths follow from the header.
 *
 *     header      512 bytes; then, if there are attributes, 64 for each: type 4, name 60
 *     low         float [dim]                  the quantiser; of IP 16 more, zeros if not
 *                                              on a sphere; then, if sketches have
 *                                              axes, float [256] low and uint8
 *                                              [4 panels] axes, see tile.c
 *     entries     uint32 [entry_count]         slots where a search may start; 2^31 is added if
 *                                              the row began a cluster (VS_ENTRY_ALONE)
 *     sums        uint64 [5 x extents]         checksum of each extent, by column; of 5
 *                                              columns, and one more for each attribute
 *     rows        16 bytes [slot_count]        id 8, of a row that is not live the next
 *                                              slot of its chain; inverse length 4, state 4
 *     elements    stride bytes [slot_count]    vectors as given, padded with zeros; of a
 *                                              lean index of floats, once trained, 32
 *                                              bytes: uint16 [8] elements, float16 [8]
 *                                              what their codes leave out, in steps, or in
 *                                              2^26 steps where 2^15 is added to the element
 *     codes       code_bytes [slot_count]      once trained, and if elements are not
 *                                              codes themselves
 *     sketches    64 or 128 bytes [slot_count] once trained, and if there are sketches
 *     edges       uint32 [slot_count x 2m]     once trained; the first of a row leads to
 *                                              its parent (graph_tree.c)
 *     values      int64 [slot_count]           a section for each attribute: attribute.h
 *     keywords    128 bytes [keyword_count]    if there are attributes: count of the values
 *                                              that are it 8, text 120, padded with zeros; of
 *                                              a free one the next of the chain 8, zeros 120
 *
 *     header       0   8   magic "VSHARDIX"
 *                  8   4   version of this format: 1, or 2 if there are attributes, or 3
 *                          if walks go by vectors (vectors.c): then there are no codes and
 *                          no sketches, and there may be attributes; or 4 if dim is 256
 *                          or less and there are no sketches, as they do not serve
 *                          (sketch.c); or 5 if metric is IP and it is trained, where
 *                          1 and 2 mean codes on a sphere, as they were once
 *                          (quantizer.c): in these there may be attributes, too
 *                 12   4   bytes of the header, 512
 *                 16  32   dim, family, metric, element, m, ef_construction,
 *                          ef_search, train_rows: 4 each
 *                 48   8   seed
 *                 56   4   1 if trained
 *                 60   4   entry_count
 *                 64   8   slot_count
 *                 72  24   rows that are live, removed (or dying), free: 8 each
 *                 96  12   first slot of the chains free, removed, dying: 4 each;
 *                          0xffffffff ends a chain
 *                108   8   repair: 1 if a pass is under way, its cursor: 4 each
 *                116   4   scale, a float
 *                120   8   square of the greatest length (sphere), a double
 *                128  24   checksums of low, entries, sums: 8 each
 *                152   4   scale of the sketches, a float
 *                156   4   bytes of a sketch: 64, 128, or 0 if there are none
 *                160   4   profile; 0 of a flat index, whose file is the same
 *                164   4   calibration: rows that were asked, 0 if never
 *                168   8   rows that there were then
 *                176 228   found: uint32 [3 x 19], of the 1, 10 and 100 nearest of all
 *                          that were asked, in beams 8, 12, 16, 24, 32, 48, 64, 100, 128,
 *                          192, 256, ... 4096 wide; zeros from where it was not measured
 *                404   4   attributes, 1 to 8, or 0; of version 1 this and all below are
 *                          zeros
 *                408  12   keywords: cells, first of the chain of free ones (0xffffffff ends
 *                          it), free ones: 4 each
 *                420  16   checksums of the attributes, and of keywords: 8 each
 *                436  68   zeros
 *                504   8   checksum of bytes 0..503
 *
 * An extent is 1,024 rows of one column, the last one what is left. Checksums are
 * XXH3-64 with seed 0. They vouch for each other: the header's for the sums', and the
 * sums for all rows; so the header's checksum stands for the whole index, and is its
 * digest.
 *
 * Not here: the order of writing, syncing and renaming, which is save.c. */
#include "index/image.h"
#include "index/generation.h"

#include <math.h>

static const unsigned char magic[8] = { 'V', 'S', 'H', 'A', 'R', 'D', 'I', 'X' };

enum {
    AT_OPTIONS = 16,
    AT_SEED = 48,
    AT_TRAINED = 56,
    AT_ENTRIES = 60,
    AT_SLOTS = 64,
    AT_COUNTS = 72,
    AT_CHAINS = 96,
    AT_REPAIR = 108,
    AT_SCALE = 116,
    AT_RADIUS2 = 120,
    AT_SUMS = 128,
    AT_SKETCHER = 152,
    AT_PROFILE = 160,
    AT_CALIBRATION = 164,
    AT_FOUND = 176,
    AT_ATTRIBUTES = AT_FOUND + 4 * CALIBRATED_KS * CALIBRATED_EFS,
    AT_KEYWORDS = AT_ATTRIBUTES + 4,
    AT_ATTRIBUTE_SUMS = AT_KEYWORDS + 12,
    AT_ZEROS = AT_ATTRIBUTE_SUMS + 16,
    AT_CHECKSUM = 504
};

static float load_float(const unsigned char *p)
{
    uint32_t bits = vs_load32(p);
    float v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

static double load_double(const unsigned char *p)
{
    uint64_t bits = vs_load64(p);
    double v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

static void store_float(unsigned char *p, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    vs_store32(p, bits);
}

static void store_double(unsigned char *p, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    vs_store64(p, bits);
}

int vs_image_columns(const struct vshard_index *x)
{
    return IMAGE_FIRST_VALUES + (int)x->attributes.count;
}

size_t vs_image_stride(const struct vshard_index *x, int column)
{
    bool trained = atomic_load(&x->trained);

    switch (column) {
    case 0: return x->rows.stride;
    case 1: return vs_exact(x, vs_is_codes_only(x))->stride;
    case 2: return trained ? x->codes.stride : 0;
    case 3: return trained ? x->sketches.stride : 0;
    case 4: return trained ? x->edges.stride : 0;
    default: return sizeof(int64_t);
    }
}

struct vs_column *vs_image_column(struct vshard_index *x, int column)
{
    struct vs_column *elements = vs_is_codes_only(x) ? &x->outside : &x->elements;
    struct vs_column *columns[IMAGE_FIRST_VALUES] = { &x->rows, elements, &x->codes, &x->sketches,
                                                      &x->edges };

    return column < IMAGE_FIRST_VALUES ? columns[column]
                                       : &x->attributes.columns[column - IMAGE_FIRST_VALUES];
}

size_t vs_image_extent_bytes(const struct vshard_index *x)
{
    size_t stride = 0;

    for (int i = 0; i < vs_image_columns(x); i++)
        stride = vs_image_stride(x, i) > stride ? vs_image_stride(x, i) : stride;
    return VS_EXTENT_ROWS * stride;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + IMAGE_ALIGN - 1) / IMAGE_ALIGN * IMAGE_ALIGN;
}

size_t vs_image_low_bytes(const struct vshard_index *x)
{
    return x->quantizer.low_dim * sizeof(float) +
           (vs_sketch_has_axes(x) ? sizeof x->sketcher.low + vs_sketcher_bytes(x) : 0);
}

uint64_t vs_image_low_sum(const struct vshard_index *x)
{
    uint64_t sum = vs_checksum(x->quantizer.low, x->quantizer.low_dim * sizeof(float), 0);

    if (!vs_sketch_has_axes(x))
        return sum;
    sum = vs_checksum(x->sketcher.low, sizeof x->sketcher.low, sum);
    return vs_checksum(x->sketcher.axes, vs_sketcher_bytes(x), sum);
}

static size_t sums_bytes_of(const struct vshard_index *x, uint64_t slots)
{
    return (size_t)vs_extents_for(slots) * (size_t)vs_image_columns(x) * sizeof(uint64_t);
}

/* The sections before the columns. Returns where those begin. */
static uint64_t lay_first(const struct vshard_index *x, const struct vs_image_counts *counts,
                          uint64_t at, struct vs_image_layout *out)
{
    memset(out, 0, sizeof *out);
    out->extents = vs_extents_for(counts->slots);
    out->header = at;
    out->schema = at + IMAGE_HEADER_BYTES;
    at += IMAGE_ALIGN;
    out->low = at;
    at += aligned(vs_image_low_bytes(x));
    out->entries = at;
    at += aligned(counts->entries * sizeof(uint32_t));
    out->sums = at;
    return at + aligned(sums_bytes_of(x, counts->slots));
}

static void lay_last(const struct vs_image_counts *counts, uint64_t at, struct vs_image_layout *out)
{
    out->keywords = at;
    out->end = at + aligned((uint64_t)counts->keywords * sizeof(struct vs_keyword));
}

void vs_image_layout_of(const struct vshard_index *x, const struct vs_image_counts *counts,
                        struct vs_image_layout *out)
{
    uint64_t at = lay_first(x, counts, 0, out);

    for (int i = 0; i < vs_image_columns(x); i++) {
        out->column[i] = at;
        at += aligned(counts->slots * vs_image_stride(x, i));
    }
    lay_last(counts, at, out);
}

static struct vs_image_counts counts_of(const struct vshard_index *x)
{
    return (struct vs_image_counts){ atomic_load(&x->slot_count), atomic_load(&x->entry_count),
                                     x->attributes.keywords.count };
}

void vs_image_layout(const struct vshard_index *x, struct vs_image_layout *out)
{
    const struct vs_image_counts counts = counts_of(x);

    vs_image_layout_of(x, &counts, out);
}

void vs_image_layout_head(const struct vshard_index *x, struct vs_image_layout *out)
{
    const struct vs_image_counts counts = counts_of(x);

    lay_last(&counts, lay_first(x, &counts, GENERATION_BYTES, out), out);
}

uint32_t vs_image_rows(const struct vshard_index *x, uint32_t extent)
{
    uint32_t left = atomic_load(&x->slot_count) - extent * VS_EXTENT_ROWS;

    return left < VS_EXTENT_ROWS ? left : VS_EXTENT_ROWS;
}

/* Of a mapped index, rows are so already. */
void vs_image_row(const struct vshard_index *x, uint32_t slot, struct vs_row *out)
{
    const struct vs_row *row = vs_row_at(x, slot);
    uint32_t state = vs_row_state(x, slot);
    bool chained = state != VS_ROW_LIVE && x->mapping.bytes == NULL;

    out->id = chained ? vs_link(x, slot) : row->id;
    out->inverse_length = row->inverse_length;
    atomic_init(&out->state, state);
}

const void *vs_image_extent(struct vshard_index *x, int column, uint32_t extent,
                            struct vs_row *rows)
{
    uint32_t first = extent * VS_EXTENT_ROWS, count = vs_image_rows(x, extent);

    if (column != IMAGE_ROWS)
        return vs_column_at(vs_image_column(x, column), first);
    for (uint32_t i = 0; i < count; i++)
        vs_image_row(x, first + i, &rows[i]);
    return rows;
}

size_t vs_image_sums_bytes(const struct vshard_index *x)
{
    return sums_bytes_of(x, atomic_load(&x->slot_count));
}

void vs_image_sums(struct vshard_index *x, unsigned char *sums, uint32_t extents)
{
    struct vs_row rows[VS_EXTENT_ROWS];

    for (int i = 0; i < vs_image_columns(x); i++) {
        size_t stride = vs_image_stride(x, i);

        for (uint32_t e = 0; e < extents; e++) {
            uint64_t sum = 0;

            if (stride > 0)
                sum = vs_checksum(vs_image_extent(x, i, e, rows), vs_image_rows(x, e) * stride, 0);
            vs_store64(sums + ((size_t)i * extents + e) * 8, sum);
        }
    }
}

/* What may lie in several extents has a chained checksum. */
static uint64_t chained_sum(const struct vs_column *c, uint32_t count)
{
    uint64_t sum = 0;

    for (uint32_t first = 0; first < count; first += VS_EXTENT_ROWS) {
        uint32_t n = count - first < VS_EXTENT_ROWS ? count - first : VS_EXTENT_ROWS;

        sum = vs_checksum(vs_column_at(c, first), n * c->stride, sum);
    }
    return sum;
}

uint64_t vs_image_schema_sum(const struct vshard_attribute *schema, uint32_t count)
{
    return vs_checksum(schema, count * sizeof *schema, 0);
}

uint64_t vs_image_keywords_sum(const struct vs_keywords *k)
{
    return chained_sum(&k->cells, k->count);
}

static void encode_attributes(const struct vs_attributes *t, unsigned char *header)
{
    if (t->count == 0)
        return;
    vs_store32(header + AT_ATTRIBUTES, t->count);
    vs_store32(header + AT_KEYWORDS, t->keywords.count);
    vs_store32(header + AT_KEYWORDS + 4, t->keywords.free_head);
    vs_store32(header + AT_KEYWORDS + 8, t->keywords.free_count);
    vs_store64(header + AT_ATTRIBUTE_SUMS, vs_image_schema_sum(t->schema, t->count));
    vs_store64(header + AT_ATTRIBUTE_SUMS + 8, vs_image_keywords_sum(&t->keywords));
}

static void decode_attributes(const unsigned char *header, struct vs_image *out)
{
    out->attribute_count = vs_load32(header + AT_ATTRIBUTES);
    out->keyword_count = vs_load32(header + AT_KEYWORDS);
    out->keyword_free_head = vs_load32(header + AT_KEYWORDS + 4);
    out->keyword_free_count = vs_load32(header + AT_KEYWORDS + 8);
    out->schema_sum = vs_load64(header + AT_ATTRIBUTE_SUMS);
    out->keywords_sum = vs_load64(header + AT_ATTRIBUTE_SUMS + 8);
}

static uint32_t version_of(const struct vshard_index *x)
{
    if (x->by_vectors)
        return IMAGE_VECTORS;
    if (atomic_load(&x->trained) && x->space == SPACE_CODE_DOT)
        return IMAGE_PRODUCTS;
    if (atomic_load(&x->trained) && x->sketches.stride == 0 && vs_sketch_bytes(x) > 0 &&
        !vs_sketch_has_axes(x))
        return IMAGE_CODES;
    return x->attributes.count > 0 ? IMAGE_ATTRIBUTES : IMAGE_PLAIN;
}

static void encode_calibration(const struct vs_calibration *c, unsigned char *header)
{
    const uint32_t *found = &c->found[0][0];

    vs_store32(header + AT_CALIBRATION, c->asked);
    vs_store64(header + AT_CALIBRATION + 4, c->rows);
    for (size_t i = 0; i < CALIBRATED_KS * CALIBRATED_EFS; i++)
        vs_store32(header + AT_FOUND + 4 * i, found[i]);
}

static void decode_calibration(const unsigned char *header, struct vs_calibration *c)
{
    uint32_t *found = &c->found[0][0];

    c->asked = vs_load32(header + AT_CALIBRATION);
    c->rows = vs_load64(header + AT_CALIBRATION + 4);
    for (size_t i = 0; i < CALIBRATED_KS * CALIBRATED_EFS; i++)
        found[i] = vs_load32(header + AT_FOUND + 4 * i);
}

void vs_image_encode(struct vshard_index *x, unsigned char *header)
{
    const uint32_t options[] = { x->dim, x->family,          x->metric,    x->element,
                                 x->m,   x->ef_construction, x->ef_search, x->train_rows };

    memset(header, 0, IMAGE_HEADER_BYTES);
    memcpy(header, magic, sizeof magic);
    vs_store32(header + 8, version_of(x));
    vs_store32(header + 12, IMAGE_HEADER_BYTES);
    for (size_t i = 0; i < VS_COUNT(options); i++)
        vs_store32(header + AT_OPTIONS + 4 * i, options[i]);
    vs_store64(header + AT_SEED, x->seed);
    vs_store32(header + AT_TRAINED, atomic_load(&x->trained));
    vs_store32(header + AT_ENTRIES, atomic_load(&x->entry_count));
    vs_store64(header + AT_SLOTS, atomic_load(&x->slot_count));
    vs_store64(header + AT_COUNTS, x->live);
    vs_store64(header + AT_COUNTS + 8, x->removed);
    vs_store64(header + AT_COUNTS + 16, x->free_count);
    vs_store32(header + AT_CHAINS, x->free_head);
    vs_store32(header + AT_CHAINS + 4, x->repair.removed_head);
    vs_store32(header + AT_CHAINS + 8, x->repair.dying_head);
    vs_store32(header + AT_REPAIR, x->repair.active);
    vs_store32(header + AT_REPAIR + 4, x->repair.cursor);
    store_float(header + AT_SCALE, x->quantizer.scale);
    store_double(header + AT_RADIUS2, x->quantizer.radius2);
    store_float(header + AT_SKETCHER, x->sketcher.scale);
    vs_store32(header + AT_SKETCHER + 4, (uint32_t)vs_image_stride(x, 3));
    vs_store32(header + AT_PROFILE, x->family == VSHARD_FAMILY_HNSW ? x->profile : 0);
    encode_calibration(vs_calibration(x), header);
    encode_attributes(&x->attributes, header);
    vs_store64(header + AT_SUMS, vs_image_low_sum(x));
    vs_store64(header + AT_SUMS + 8, chained_sum(&x->entries, atomic_load(&x->entry_count)));
}

void vs_image_seal(unsigned char *header, const unsigned char *sums, size_t sums_bytes)
{
    vs_store64(header + AT_SUMS + 16, vs_checksum(sums, sums_bytes, 0));
    vs_store64(header + AT_CHECKSUM, vs_checksum(header, AT_CHECKSUM, 0));
}

static bool all_zero(const unsigned char *p, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

int vs_image_decode(const unsigned char *header, struct vs_image *out)
{
    uint32_t *const options[] = { &out->options.dim,       &out->options.family,
                                  &out->options.metric,    &out->options.element,
                                  &out->options.m,         &out->options.ef_construction,
                                  &out->options.ef_search, &out->options.train_rows };
    uint32_t version;
    size_t zeros;

    memset(out, 0, sizeof *out);
    if (memcmp(header, magic, sizeof magic) != 0)
        return VSHARD_ECORRUPT;
    out->digest = vs_load64(header + AT_CHECKSUM);
    if (out->digest != vs_checksum(header, AT_CHECKSUM, 0))
        return VSHARD_ECORRUPT;
    version = vs_load32(header + 8);
    if (version < IMAGE_PLAIN || version > IMAGE_PRODUCTS)
        return VSHARD_EVERSION;
    zeros = version == IMAGE_PLAIN ? AT_ATTRIBUTES : AT_ZEROS;
    if (vs_load32(header + 12) != IMAGE_HEADER_BYTES ||
        !all_zero(header + zeros, AT_CHECKSUM - zeros))
        return VSHARD_ECORRUPT;
    out->by_vectors = version == IMAGE_VECTORS;
    out->by_codes = version == IMAGE_CODES;
    out->by_products = version == IMAGE_PRODUCTS;
    if (version != IMAGE_PLAIN)
        decode_attributes(header, out);
    if (version == IMAGE_ATTRIBUTES && out->attribute_count == 0)
        return VSHARD_ECORRUPT;
    out->options.size = sizeof out->options;
    for (size_t i = 0; i < VS_COUNT(options); i++)
        *options[i] = vs_load32(header + AT_OPTIONS + 4 * i);
    out->options.seed = vs_load64(header + AT_SEED);
    out->trained = vs_load32(header + AT_TRAINED);
    out->entry_count = vs_load32(header + AT_ENTRIES);
    out->slot_count = vs_load64(header + AT_SLOTS);
    out->live = vs_load64(header + AT_COUNTS);
    out->removed = vs_load64(header + AT_COUNTS + 8);
    out->free_count = vs_load64(header + AT_COUNTS + 16);
    out->free_head = vs_load32(header + AT_CHAINS);
    out->removed_head = vs_load32(header + AT_CHAINS + 4);
    out->dying_head = vs_load32(header + AT_CHAINS + 8);
    out->active = vs_load32(header + AT_REPAIR);
    out->cursor = vs_load32(header + AT_REPAIR + 4);
    out->scale = load_float(header + AT_SCALE);
    out->radius2 = load_double(header + AT_RADIUS2);
    out->sketch_scale = load_float(header + AT_SKETCHER);
    out->sketch_bytes = vs_load32(header + AT_SKETCHER + 4);
    out->options.profile = vs_load32(header + AT_PROFILE);
    decode_calibration(header, &out->calibration);
    out->low_sum = vs_load64(header + AT_SUMS);
    out->entries_sum = vs_load64(header + AT_SUMS + 8);
    out->sums_sum = vs_load64(header + AT_SUMS + 16);
    return VSHARD_OK;
}

static bool edges_valid(const struct vshard_index *x, uint32_t extent)
{
    uint32_t slots = atomic_load(&x->slot_count);
    size_t count = (size_t)vs_image_rows(x, extent) * x->degree;
    const uint32_t *edges = vs_column_at(&x->edges, extent * VS_EXTENT_ROWS);

    for (size_t i = 0; i < count; i++) {
        if (edges[i] >= slots && edges[i] != VS_SLOT_NONE)
            return false;
    }
    return true;
}

/* Codes are numbers of 7 bits. */
static bool codes_valid(const struct vshard_index *x, uint32_t extent)
{
    size_t words = (size_t)vs_image_rows(x, extent) * x->codes.stride / 8;
    const uint64_t *codes = vs_column_at(&x->codes, extent * VS_EXTENT_ROWS);
    uint64_t any = 0;

    for (size_t i = 0; i < words; i++)
        any |= codes[i];
    return (any & 0x8080808080808080u) == 0;
}

/* Elements that are there, and finite numbers. */
static bool outside_valid(const struct vshard_index *x, uint32_t extent)
{
    uint32_t rows = vs_image_rows(x, extent);

    for (uint32_t r = 0; r < rows; r++) {
        const struct vs_outside *o = vs_column_at(&x->outside, extent * VS_EXTENT_ROWS + r);

        for (size_t i = 0; i < OUTSIDE; i++) {
            if ((o->element[i] & ~OUTSIDE_FAR) >= (int)x->dim || (o->by[i] & 0x7c00) == 0x7c00)
                return false;
        }
    }
    return true;
}

bool vs_image_extent_valid(const struct vshard_index *x, uint32_t extent)
{
    return (!vs_is_codes_only(x) || outside_valid(x, extent)) &&
           (vs_image_stride(x, 2) == 0 || codes_valid(x, extent)) &&
           (vs_image_stride(x, 4) == 0 || edges_valid(x, extent));
}
