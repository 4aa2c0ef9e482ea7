/* state.h - private to lib/index: the index itself, and what its files share.
 *
 * A row lives in one slot: its element vector, its code, its edges and its id are
 * the same slot of five columns. Slots are numbered from 0, without gaps; a removed
 * row's slot is used again.
 *
 *   elements   the vector as given; a lean index has none once there is a graph
 *   outside    of a lean index from then on: what its code leaves out
 *   codes      quantised to 7 bits an element, padded to 64 bytes (quantizer.c);
 *              absent where elements are their own code. Of a flat index, scaled bytes
 *              (flat.c), which are not in files
 *   sketches   64 or 128 bytes of each code, where there are any (sketch.c)
 *   edges      uint32 [degree], slots; VS_SLOT_NONE after the last
 *   rows       id, 1 / length, state
 *   attributes up to eight columns of values (attribute.h)
 *   links      uint32: of a row that is not live, the next slot of the chain it is in; of
 *              one that is, the slot that held its id before (reader.c); of one that moved,
 *              the slot it moved to (shrink.c)
 *
 * One call at a time may write (x->lock is taken), and any number may read beside it: see
 * reader.c. What readers read of these structs is atomic, or does not change. A save goes on
 * beside changes, too: see keep.c.
 *
 * What decides structure (codes, keys, edges) is integer arithmetic or acts on one
 * element at a time, so it is equal on every instruction set; floats only order the
 * final answer. */
#ifndef VS_INDEX_STATE_H
#define VS_INDEX_STATE_H

#include "base/base.h"
#include "index/attribute.h"
#include "index/column.h"
#include "index/idmap.h"
#include "index/index.h"
#include "index/where.h"
#include "kernel/kernel.h"
#include "os/os.h"

enum {
    M_MIN = 4,
    M_MAX = 128,
    M_DEFAULT = 32,
    EF_CONSTRUCTION_MIN = 8,
    EF_CONSTRUCTION_MAX = 4096,
    EF_CONSTRUCTION_DEFAULT = 200,
    EF_SEARCH_DEFAULT = 100,
    TRAIN_ROWS_MIN = 256,
    TRAIN_ROWS_MAX = 65536,
    TRAIN_ROWS_DEFAULT = 2048,
    PATH_MAX_BYTES = 4000,
    WIDTH_MAX = 256, /* host threads in one call, and readers at once */
    LIST_MIN = 512,  /* rows handled by one kernel call, at most */
    DECODED = 16,    /* and of those that are decoded first */
    OUTSIDE = 8,     /* elements of a lean row that are kept beyond the range of codes */
    IP_EXTRA_DIMS = 16,
    WALKS = 4 /* that take turns on one thread; more gained nothing */
};

/* How wide a beam must be for which recall (calibrate.c). */
enum { CALIBRATED_KS = 3, CALIBRATED_EFS = 19 };

struct vs_calibration {
    uint64_t rows;                                 /* there were; 0: never calibrated */
    uint32_t asked;                                /* of these */
    uint32_t found[CALIBRATED_KS][CALIBRATED_EFS]; /* of the asked rows' k nearest; 0 from
                                                      where it was not measured any more */
};

/* A row where searches may start: one of this many, chosen by a hash of its id. */
enum { ENTRY_ONE_IN = 1024 };

/* Added to the slot of an entry that is one since it began a cluster of its own, or took the place
 * of such a one (repair.c). */
#define VS_ENTRY_ALONE 0x80000000u

/* Rows that calibrations ask: one of this many, chosen by a hash of its slot; more of the
 * first, so that a small index has enough. */
enum { PROBE_ONE_IN = 32, PROBE_OFTEN_ONE_IN = 16, PROBES_OFTEN = 16384 };

/* ---- codes (quantizer.c) ---- */
struct vs_quantizer {
    float *low;          /* what code 0 stands for */
    float scale;         /* codes in one unit of the input */
    double radius2;      /* on a sphere: square of the greatest length that is spread out */
    int16_t *centre;     /* of products: by how much a row's code is less as a query's */
    uint32_t low_dim;    /* room in low and centre: dim, and IP_EXTRA_DIMS more for IP */
    uint32_t code_dim;   /* dim, and IP_EXTRA_DIMS more on a sphere */
    uint32_t code_bytes; /* code_dim rounded up to 64 */
};

/* ---- sketches of codes (sketch.c) ---- */
enum { SKETCH_DIMS = 256 }; /* numbers in a sketch, at most */

struct vs_sketcher {
    uint8_t *axes;          /* in panels (tile.c); NULL where codes are sketched as they are */
    float low[SKETCH_DIMS]; /* what number 0 stands for on each axis */
    float scale;            /* numbers in one unit of the projection */
};

/* ---- one caller's buffers (scratch.c) ---- */
struct vs_candidate {
    float distance;
    uint32_t slot;
    uint64_t id;
};

/* The nearest `cap` of the candidates offered, as a heap with the farthest on top. */
struct vs_top {
    struct vs_candidate *items;
    uint32_t count;
    uint32_t cap;
};

struct vs_scan; /* buffers of a scan (flat.c) */

enum { SCAN_WIDTH_MAX = 64 }; /* queries of one call that are scanned for at once */

struct vs_scratch {
    uint32_t position; /* the reader sees changes up to this one (reader.c) */
    uint64_t *visited; /* one bit a slot */
    size_t visited_words;
    uint32_t visited_slots; /* that have one; newer ones are passed over */
    uint32_t moved_from;    /* 0, or slots from here on lead to others (shrink.c) */
    struct vs_pool pool;
    struct vs_pool ranked; /* the pool again, by code; with room for as many. Before, of a walk
                              that follows some of its beam: rows met, in no order */
    uint32_t pool_cap;     /* room in each */
    uint32_t list_cap;     /* room in the next three */
    uint32_t *slots;
    const void **rows;
    int32_t *keys;
    float *distances;         /* [list_cap] */
    struct vs_candidate *top; /* [top_cap] */
    uint32_t top_cap;
    float *vector;         /* [code_dim] */
    unsigned char *code;   /* [1 + WALKS][code_bytes] that of the query; then those of all that
                              walk with this one, the first of them, without their padding */
    unsigned char *sketch; /* [SKETCH_DIMS] of the code, 7 bits each */
    struct vs_scan *scan;  /* NULL until there is a scan */
    float *decoded;        /* [DECODED x dim] rows of a lean index; else NULL */
    uint32_t decoded_rows; /* of them, that were written since they were wiped */
    uint64_t *marks;       /* one bit a slot: rows that a filter lists */
    size_t marks_words;
    uint32_t *listed; /* the same as a list; or what a range search has yet to follow */
    uint32_t listed_cap;
    int64_t *sets; /* keys that conditions are compared with (where.c) */
    uint32_t sets_cap;
    uint64_t distance_count; /* what the caller's calls did */
    uint64_t hop_count;
    uint64_t row_count;
};

/* ---- which rows may be answered (filter.c) ---- */
struct vs_filter {
    struct vshard_filter given;
    struct vs_where *where; /* NULL, or what must hold, too */
    const uint64_t *marks;  /* one bit a slot; NULL where the filter is asked row by row */
    uint64_t marks_slots;   /* slots that have one */
    const uint32_t *listed; /* slots of all allowed rows; NULL where there are too many */
    uint32_t listed_count;
    uint64_t allowed; /* rows, about; exact where they are listed */
    double share;     /* of the live rows */
    uint64_t set;     /* BITS: of them, as counted */
    bool by_id;       /* they are found by their ids faster than by asking about all rows */
    bool ids_differ;  /* from the slots of their rows, mostly */
    uint64_t checks;
    struct vs_limits *limits; /* of the call, which to list rows may take too long; NULL: none */
};

/* ---- what a call may cost (limits.c) ---- */
struct vs_limits {
    const struct vshard_clock *clock; /* NULL: no deadline */
    const uint32_t *cancel;           /* NULL: none */
    uint64_t deadline_ns;
    uint64_t budget;  /* distances of a query; 0: any number */
    uint64_t unasked; /* distances since the clock was read */
    uint32_t cut;     /* VSHARD_LIMIT_* that cut a query of the call */
    uint32_t on;      /* there is one of them */
};

/* ---- readers (reader.c) ---- */
struct vs_reader {
    _Atomic uint32_t busy;      /* claimed by a call */
    _Atomic uint64_t epoch;     /* the epoch it reads in; 0 outside */
    struct vs_scratch *scratch; /* [WALKS], made when the place is first claimed */
    char apart[40];             /* so that neighbours do not share a line */
};

/* ---- removed rows (repair.c) ---- */
struct vs_repair {
    uint32_t active;       /* a pass over the slots is under way */
    uint32_t cursor;       /* the next slot it looks at */
    uint32_t dying_head;   /* chain of the rows it will free */
    uint32_t removed_head; /* chain of the rows that wait for the next pass */
    uint64_t *marks;       /* two bits a slot: removed, and dying */
    size_t marks_words;
};

/* ---- inserting (graph_build.c) ---- */
struct vs_link { /* the edge target -> source is to be added */
    uint32_t target;
    int32_t key;
    uint32_t source;
};

enum { VS_FAR_ALONE = 2 };

struct vs_build {
    uint32_t batch_cap;     /* rows linked at once, at most */
    uint32_t *link_counts;  /* [batch_cap] */
    uint8_t *far;           /* [batch_cap] 1 where a row begins a cluster of its own,
                               VS_FAR_ALONE where it found no live row */
    uint32_t far_left;      /* of these, how many the call at hand may still make entries */
    struct vs_link *links;  /* [batch_cap x degree] */
    struct vs_link *sorted; /* likewise */
    uint32_t *groups;       /* [batch_cap x degree + 1] first link of each target */
    const uint32_t *slots;  /* the rows of the batch at hand */
    uint32_t count;
};

/* ---- a save beside changes (keep.c) ---- */
enum {                 /* columns that files have, see image.c */
       IMAGE_ROWS = 0, /* as files have them */
       IMAGE_EDGES = 4,
       IMAGE_FIRST_VALUES, /* columns before those of attributes */
       IMAGE_COLUMNS = IMAGE_FIRST_VALUES + VSHARD_ATTRIBUTES_MAX /* at most */
};

struct vs_kept;

struct vs_keep {
    struct vs_lock turn; /* saves wait for each other */
    struct vs_lock lock; /* of what follows, but for what is atomic */
    struct vs_lock gate; /* the save has it while it writes an extent */
    _Atomic uint32_t on; /* rows have to be kept */
    int status;          /* why it was turned off before its end; else 0 */
    uint32_t slots;      /* the index had when the save began, and its columns: */
    uint32_t columns;
    const struct vs_column *column[IMAGE_COLUMNS];
    size_t stride[IMAGE_COLUMNS];
    _Atomic uint32_t passed[IMAGE_COLUMNS]; /* slots below are taken already */
    _Atomic uint64_t *marks;                /* [columns x words] rows that were kept */
    size_t words;
    struct vs_kept **kept; /* [columns x extents] their bytes */
    size_t kept_bytes;
    size_t most;
    size_t most_set; /* by tests; else 0 */
};

/* ---- what changed since a file was written (track.c) ---- */
struct vs_track {
    _Atomic uint64_t *touched; /* [columns x words] one bit a row; NULL: that is not known */
    uint32_t slots;            /* later ones are all new */
    size_t words;
    uint32_t trained;      /* there was a graph */
    char *path;            /* of the generation; NULL: none. From here on only for saves: */
    uint64_t first, count; /* of its parts */
    uint64_t digest;
    unsigned char *sums; /* of its extents */
    size_t path_bytes, sums_bytes;
    _Atomic size_t bytes; /* of all that */
};

/* ---- a mapped file (open.c) ---- */
struct vs_mapping {
    unsigned char *bytes; /* NULL for an index in memory */
    size_t count;
    uint64_t file;
    const unsigned char *sums;  /* [columns][extents] checksums, in the mapping, or: */
    unsigned char *own_sums;    /* of a file that has parts */
    size_t own_bytes;           /* of them */
    _Atomic uint32_t *verified; /* [extents] 1 once an extent was verified */
    uint32_t extents;
};

struct vshard_index {
    struct vshard_allocator allocator_copy;
    struct vshard_logger logger_copy;
    struct vshard_storage storage_copy;
    struct vshard_executor executor;          /* run is NULL: the calling thread */
    const struct vshard_allocator *allocator; /* the host's, or that of lib/os */
    const struct vshard_logger *logger;
    const struct vshard_storage *storage;
    uint32_t numa_node; /* as created or opened */

    uint32_t dim, family, metric, element;
    uint32_t space;  /* SPACE_*, in which rows are compared with each other */
    uint32_t degree; /* 2m */
    uint32_t m, ef_construction, ef_search, train_rows;
    uint32_t profile;    /* VSHARD_PROFILE_* */
    uint32_t no_vectors; /* lean, and its graph has begun; for the writer, see vs_query */
    uint32_t on_sphere;  /* IP, and its graph was begun by an earlier version (quantizer.c) */
    _Atomic uint32_t by_vectors; /* walks go by the vectors: codes do not serve (vectors.c) */
    uint64_t seed;
    uint64_t max_bytes; /* that rows may take; 0: any */
    struct vs_kernel kernel;

    struct vs_column elements, outside, codes, sketches, edges, rows, links;
    struct vs_column bounds;     /* scales and norms of a flat index's codes (flat.c) */
    struct vs_column live_words; /* uint64: one bit a slot, 1 where a row is live */
    uint32_t live_word_count;    /* of them, how many were set to a value */
    const struct vs_column *_Atomic traversal; /* codes, or elements that are their own code, or by
                                          which walks go (vectors.c) */
    struct vs_column entries;                  /* uint32: the slots where a search may start */
    _Atomic uint32_t trained;                  /* there are codes and edges */
    _Atomic uint32_t relinking;                /* 0, VS_RELINKING or VS_RECODING */
    struct vs_quantizer quantizer;
    struct vs_sketcher sketcher;
    struct vs_calibration calibrations[2]; /* one of them holds, see vs_calibration() */
    _Atomic uint32_t calibration_at;
    _Atomic uint64_t calibrated_rows; /* as it says */
    struct vs_mapping mapping;
    struct vs_reader *readers;       /* [WIDTH_MAX] */
    struct vs_attributes attributes; /* the last: changes change the keywords at its end */

    /* What a change changes, on lines that searches look at once and not for each row. */
    char apart[64];
    _Atomic uint32_t entry_count;
    _Atomic uint32_t slot_count; /* slots in use or free */
    _Atomic uint64_t epoch;
    _Atomic uint32_t position;             /* of the last change that readers see */
    uint32_t drained;                      /* no reader sees less than this position */
    _Atomic uint32_t moved_from, moved_at; /* rows move down (shrink.c) */
    _Atomic uint64_t live, removed, free_count;
    _Atomic uint64_t shown; /* live rows, as readers see them: within a call, `live` runs ahead */
    uint32_t free_head;     /* chain of free slots */
    struct vs_idmap ids;
    struct vs_repair repair;
    struct vs_build build;
    struct vs_lock lock; /* taken by a call that writes, shared by those that need it still */
    struct vs_keep keep;
    struct vs_track track;
    struct vs_scratch *strands; /* [strand_count x WALKS] buffers of the writer's tasks */
    uint32_t strand_count;
    uint32_t strands_used;          /* of them, since they were wiped */
    _Atomic uint64_t scratch_bytes; /* in all struct vs_scratch, build and repair */
};

/* A query, prepared. */
struct vs_query {
    const void *elements; /* float32 where the index holds float16 */
    float inverse_length;
    const void *code;      /* what keys are computed against */
    const uint8_t *sketch; /* of the code, 7 bits each; NULL until there is a walk, and where
                              there are no sketches */
    uint32_t space;        /* SPACE_* */
    uint32_t without;      /* a slot that is not there for the walk, and 1; 0: none */
    bool codes_only;       /* of a lean index with a graph: rows have no elements */
};

enum {                   /* what is being done to a whole graph, so that searches scan */
       VS_RELINKING = 1, /* its edges are written */
       VS_RECODING = 2   /* its codes are */
};

enum { /* how keys are computed; smaller is nearer */
       SPACE_CODE_L2 = 0,
       SPACE_CODE_L1 = 1,
       SPACE_CODE_DOT = 2, /* the query is a signed code, the key the negated product: keys of two
                              queries cannot be compared */
       SPACE_U8_L2 = 3,    /* from here on elements are codes, and keys are distances */
       SPACE_I8_L2 = 4,
       SPACE_U8_L1 = 5,
       SPACE_I8_L1 = 6,
       SPACE_BITS = 7,
       SPACE_NONE = 8,
       SPACE_VECTORS = 9 /* of walks by vectors: x->space says how codes would be compared */
};

/* One walk over the graph, of up to WALKS that take turns. */
struct vs_walk {
    struct vs_query query;
    struct vs_scratch *scratch; /* its pool is the result */
    struct vs_filter *filter;   /* NULL: any row may be answered */
    struct vs_limits *limits;   /* NULL: none */
    uint64_t counted;           /* distances of the scratch when this walk began */
    uint32_t follow;            /* edges of only so many, the nearest, are followed; 0: of all */
    uint32_t reach;             /* so many rows are nearer than the last answer, about; */
    int32_t reach_key;          /* no farther than this, when a probe began */
    uint32_t probe;             /* whether there was one, and what came of it */
    uint32_t rank;              /* of the rows that a filter leaves, so many are ranked */
    uint32_t width;             /* of the beam */
    bool aside;                 /* what is not followed is not in the pool, but kept aside */
    int32_t most;               /* greatest key that may still come to the beam */
    bool by_codes;              /* the query has a code, and rows may be ruled out by theirs */
    bool bounded;               /* no row farther than `farthest` is wanted: */
    float farthest;
    float farthest_key; /* what is within has no greater key; infinite where that is not known */
    int32_t nearest;    /* key met, */
    uint32_t idle;      /* and rows followed since */
    uint32_t gathered, followed;
    int status;
    bool ended;
    bool cut;    /* by a limit */
    bool passed; /* ended since what is left is too far */
};

/* A row that nobody is passed over for, so that the graph without it is nearly what it
 * would be had it never been there: it can be asked for its neighbours like a query that
 * is no row (calibrate.c). */
static inline bool vs_is_probe(uint32_t slot)
{
    return vs_mix64(slot) % (slot < PROBES_OFTEN ? PROBE_OFTEN_ONE_IN : PROBE_ONE_IN) == 0;
}

static inline struct vs_row *vs_row_at(const struct vshard_index *x, uint32_t slot)
{
    return vs_column_at(&x->rows, slot);
}

static inline uint32_t vs_row_state(const struct vshard_index *x, uint32_t slot)
{
    return atomic_load_explicit(&vs_row_at(x, slot)->state, memory_order_acquire) & VS_ROW_MASK;
}

/* Whether a reader who began at this position sees the row (reader.c). */
static inline bool vs_row_visible(const struct vshard_index *x, uint32_t slot, uint32_t position)
{
    uint32_t word = atomic_load_explicit(&vs_row_at(x, slot)->state, memory_order_acquire);
    uint32_t state = word & VS_ROW_MASK, since = word >> VS_ROW_BITS;

    return state == VS_ROW_LIVE ? since <= position : state != VS_ROW_FREE && since > position;
}

/* The next live row of a sample of at most `most` from all over the index: the slots are cut into
 * so many runs, and of each one live row is taken, from a place on that a hash says. (The first of
 * each run would be of one kind where rows of two kinds come in turns.) `at` is 0 before the first;
 * VS_SLOT_NONE after the last. */
static inline uint32_t vs_sample_next(const struct vshard_index *x, uint32_t most, uint32_t *at)
{
    uint64_t slots = atomic_load(&x->slot_count), count = slots < most ? slots : most;

    while (*at < count) {
        uint32_t first = (uint32_t)(*at * slots / count);
        uint32_t run = (uint32_t)((*at + 1) * slots / count) - first;
        uint32_t from = (uint32_t)(vs_mix64(++*at) % run);

        for (uint32_t i = 0; i < run; i++) {
            uint32_t slot = first + (from + i) % run;

            if (vs_row_state(x, slot) == VS_ROW_LIVE)
                return slot;
        }
    }
    return VS_SLOT_NONE;
}

static inline _Atomic uint32_t *vs_link_at(const struct vshard_index *x, uint32_t slot)
{
    return vs_column_at(&x->links, slot);
}

static inline uint32_t vs_link(const struct vshard_index *x, uint32_t slot)
{
    return atomic_load_explicit(vs_link_at(x, slot), memory_order_relaxed);
}

static inline void vs_link_set(const struct vshard_index *x, uint32_t slot, uint32_t to)
{
    atomic_store_explicit(vs_link_at(x, slot), to, memory_order_relaxed);
}

/* With VS_ENTRY_ALONE or without. */
static inline uint32_t vs_entry_word(const struct vshard_index *x, uint32_t at)
{
    _Atomic uint32_t *entry = vs_column_at(&x->entries, at);

    return atomic_load_explicit(entry, memory_order_acquire);
}

static inline uint32_t vs_entry_at(const struct vshard_index *x, uint32_t at)
{
    return vs_entry_word(x, at) & ~VS_ENTRY_ALONE;
}

static inline void vs_entry_set(struct vshard_index *x, uint32_t at, uint32_t word)
{
    _Atomic uint32_t *entry = vs_column_at(&x->entries, at);

    atomic_store_explicit(entry, word, memory_order_release);
}

/* The calibration that holds; a reader may use it until it leaves. */
static inline const struct vs_calibration *vs_calibration(const struct vshard_index *x)
{
    return &x->calibrations[atomic_load_explicit(&x->calibration_at, memory_order_acquire)];
}

static inline _Atomic uint32_t *vs_edges_at(const struct vshard_index *x, uint32_t slot)
{
    return vs_column_at(&x->edges, slot);
}

static inline const void *vs_code_at(const struct vshard_index *x, uint32_t slot)
{
    return vs_column_at(atomic_load_explicit(&x->traversal, memory_order_relaxed), slot);
}

/* Of one vector, as it is given, stored and returned. */
static inline size_t vs_vector_bytes(const struct vshard_index *x)
{
    switch (x->element) {
    case VSHARD_ELEMENT_F32: return (size_t)x->dim * 4;
    case VSHARD_ELEMENT_F16: return (size_t)x->dim * 2;
    case VSHARD_ELEMENT_BITS: return x->dim / 8;
    default: return x->dim;
    }
}

/* Elements that need no code: 8 bits or one, and an integer distance. */
static inline bool vs_elements_are_codes(const struct vshard_index *x)
{
    return x->space >= SPACE_U8_L2;
}

/* The space in which rows are compared with each other once there is a graph. */
static inline uint32_t vs_walk_space(const struct vshard_index *x)
{
    return x->by_vectors ? (uint32_t)SPACE_VECTORS : x->space;
}

/* Whether keys between rows are distances: 0 between equal ones, the same both ways, and to
 * be compared with those between others. Else they are products, of which those of one query
 * can be compared (quantizer.c). */
static inline bool vs_has_distances(const struct vshard_index *x)
{
    return x->space != SPACE_CODE_DOT;
}

/* Marks of struct vs_repair: what the states say, from fewer lines. */
enum { VS_MARK_GONE = 1, VS_MARK_DYING = 2, VS_MARK_BITS = 2, VS_MARK_SLOTS = 64 / VS_MARK_BITS };

static inline uint64_t vs_mark(uint32_t slot, uint64_t mark)
{
    return mark << slot % VS_MARK_SLOTS * VS_MARK_BITS;
}

/* Was the row removed, and is still passed through? */
static inline bool vs_is_gone(const struct vshard_index *x, uint32_t slot)
{
    return x->repair.marks[slot / VS_MARK_SLOTS] & vs_mark(slot, VS_MARK_GONE);
}

/* Will the pass that is under way free this slot? */
static inline bool vs_is_dying(const struct vshard_index *x, uint32_t slot)
{
    return x->repair.marks[slot / VS_MARK_SLOTS] & vs_mark(slot, VS_MARK_DYING);
}

/* Codes are all that is kept once there is a graph. */
static inline bool vs_is_lean(const struct vshard_index *x)
{
    return x->profile == VSHARD_PROFILE_LEAN && x->family == VSHARD_FAMILY_HNSW &&
           (x->element == VSHARD_ELEMENT_F32 || x->element == VSHARD_ELEMENT_F16);
}

/* What a lean index keeps beside the code: by how much the elements lie outside of the
 * range of codes that do so by most, in steps of a code, as float16. */
struct vs_outside {
    uint16_t element[OUTSIDE]; /* 0 where there are fewer; with OUTSIDE_FAR, too */
    uint16_t by[OUTSIDE];      /* likewise */
};

/* Of an element: it is out by so many steps that float16 does not hold them, and `by` counts
 * units of OUTSIDE_UNIT steps. */
enum { OUTSIDE_FAR = 0x8000, OUTSIDE_UNIT = 1 << 26 };

/* A lean index with a graph, or about to have one: for the writer. */
static inline bool vs_is_codes_only(const struct vshard_index *x)
{
    return x->no_vectors != 0;
}

/* The column of what exact distances are computed from. */
static inline const struct vs_column *vs_exact(const struct vshard_index *x, bool codes_only)
{
    return codes_only ? &x->outside : &x->elements;
}

/* create.c */
enum { VS_COLUMNS = 10 + VSHARD_ATTRIBUTES_MAX };
void vs_columns_list(struct vshard_index *x, struct vs_column *out[VS_COLUMNS]);
int vs_options_check(struct vshard_index_options *o);
int vs_index_new(const struct vshard_index_options *o, struct vshard_index **out);

/* estimate.c */
uint64_t vs_rows_bytes(const struct vshard_index *x, uint64_t slots, uint64_t ids, bool graph);

/* quantizer.c */
int vs_quantizer_init(struct vshard_index *x);
size_t vs_quantizer_bytes(const struct vshard_index *x);
void vs_quantizer_fini(struct vshard_index *x);
struct vs_training;
struct vs_training_rest { /* rows of the call that come after those that are trained on */
    const unsigned char *vectors;
    const uint32_t *order; /* [count] places in `vectors` */
    uint32_t count;
};
int vs_training_begin(struct vshard_index *x, const struct vs_training_rest *rest,
                      struct vs_training **out);
void vs_training_end(struct vshard_index *x, struct vs_training *t);
void vs_quantizer_centre(struct vshard_index *x);
void vs_code_on_sphere(struct vshard_index *x);
void vs_quantizer_train(struct vshard_index *x, struct vs_training *t);
uint32_t vs_count_cut(const struct vshard_index *x, const void *elements, float inverse_length,
                      float *vector);
float vs_nth(float *v, size_t count, size_t rank);

/* vectors.c */
struct vs_trial;
void vs_vector_keys(const struct vshard_index *x, const void *query, const void *const *rows,
                    size_t count, int32_t *out);
float vs_key_value(const struct vshard_index *x, int32_t key);
int vs_trial_begin(struct vshard_index *x, struct vs_trial **out);
void vs_trial_end(struct vshard_index *x, struct vs_trial *t);
bool vs_trial_fails(struct vshard_index *x, struct vs_trial *t);
enum { VS_AMONG_MAX = 20 };
/* Of the `near` rows nearest to one of `count`, itself left out, by `keys`: how many are among the
 * `among` nearest by `rough`, at most VS_AMONG_MAX. */
uint32_t vs_count_kept(const struct vshard_index *x, const int32_t *keys, const int32_t *rough,
                       uint32_t count, uint32_t row, uint32_t near, uint32_t among);
bool vs_walks_by_vectors(const struct vshard_index *x);
void vs_walk_by_vectors(struct vshard_index *x);
void vs_walk_by_codes(struct vshard_index *x);

/* sketch.c */
struct vs_sketching;
size_t vs_sketch_bytes(const struct vshard_index *x);
bool vs_sketch_has_axes(const struct vshard_index *x);
size_t vs_sketcher_bytes(const struct vshard_index *x);
int vs_sketcher_init(struct vshard_index *x);
void vs_sketcher_fini(struct vshard_index *x);
int vs_sketching_begin(struct vshard_index *x, struct vs_sketching **out);
void vs_sketching_end(struct vshard_index *x, struct vs_sketching *t);
void vs_sketcher_train(struct vshard_index *x, struct vs_sketching *t);
bool vs_sketches_serve(struct vshard_index *x, struct vs_sketching *t);
void vs_sketch_queries(const struct vshard_index *x, struct vs_walk *walks, uint32_t count);
void vs_sketch_row(const struct vshard_index *x, const void *code, uint8_t *sketch);

/* retrain.c */
bool vs_retrain_due(const struct vshard_index *x, const uint64_t *ids,
                    const struct vs_training_rest *call);
void vs_retrain(struct vshard_index *x, struct vs_training *t, struct vs_trial *trial,
                struct vs_sketching *sketching);

double vs_sum_squares(const struct vshard_index *x, const float *v);
void vs_widen(const struct vshard_index *x, const void *elements, float *out);
int vs_length_check(const struct vshard_index *x, const void *elements, float *room,
                    float *inverse_length);
void vs_encode_row(const struct vshard_index *x, const void *elements, float inverse_length,
                   float *room, unsigned char *code);
void vs_encode_outside(const struct vshard_index *x, const void *elements, float inverse_length,
                       float *vector, const unsigned char *code, struct vs_outside *out);
void vs_decode(const struct vshard_index *x, uint32_t slot, size_t first, size_t count, float *out);
void vs_decode_elements(const struct vshard_index *x, uint32_t slot, unsigned char *out);
void vs_encode_dot_row(const struct vshard_index *x, const unsigned char *row, int8_t *code);
void vs_encode_dot_query(const struct vshard_index *x, const float *query, int8_t *code);

/* keys.c: distances, in codes and exact */
uint32_t vs_space(uint32_t element, uint32_t metric);
size_t vs_find_unfit(const struct vshard_index *x, const void *elements);
void vs_keys(const struct vshard_index *x, const struct vs_query *q, const void *const *rows,
             size_t count, int32_t *out);
void vs_distances(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                  size_t count);
int vs_query_check(const struct vshard_index *x, const void *query, bool by_codes,
                   struct vs_scratch *s, struct vs_query *out);
struct vs_query vs_row_query(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s);
struct vs_query vs_other_query(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s);
int32_t vs_key_of(const struct vshard_index *x, const struct vs_query *q, uint32_t slot);

/* scratch.c */
int vs_scratch_reserve(struct vshard_index *x, struct vs_scratch *s, uint32_t pool_cap,
                       uint32_t top_cap);
int vs_scratch_marks(struct vshard_index *x, struct vs_scratch *s);
int vs_scratch_list(struct vshard_index *x, struct vs_scratch *s, uint32_t cap);
int vs_scratch_sets(struct vshard_index *x, struct vs_scratch *s, uint32_t cap);
size_t vs_scratch_bytes(const struct vshard_index *x, uint64_t slots, uint32_t pool_cap);
void vs_scratch_forget(const struct vshard_index *x, struct vs_scratch *s);
void vs_scratch_wipe(const struct vshard_index *x, struct vs_scratch *s);
void vs_scratch_fini(struct vshard_index *x, struct vs_scratch *s);
bool vs_nearer(const struct vs_candidate *a, const struct vs_candidate *b);
void vs_top_offer(struct vs_top *top, struct vs_candidate c);
void vs_top_sort(struct vs_top *top);

/* reader.c */
int vs_readers_init(struct vshard_index *x);
void vs_readers_fini(struct vshard_index *x);
int vs_reader_enter(struct vshard_index *x, struct vs_reader **out);
void vs_reader_renew(struct vshard_index *x, struct vs_reader *r);
void vs_reader_leave(struct vs_reader *r);
uint32_t vs_find_visible(const struct vshard_index *x, uint64_t id, uint32_t position);
void vs_row_born(struct vshard_index *x, uint32_t slot);
void vs_row_settle(struct vshard_index *x, uint32_t slot);
void vs_row_retired(struct vshard_index *x, uint32_t slot);
void vs_readers_show(struct vshard_index *x);
void vs_readers_number(struct vshard_index *x);
void vs_readers_drain(struct vshard_index *x);

/* parallel.c: runs fn(arg, item, strand) once for each item; a strand is one thread
 * of the executor, and has scratch of its own. */
void vs_parallel(struct vshard_index *x, uint32_t count,
                 void (*fn)(void *arg, uint32_t item, uint32_t strand), void *arg);
int vs_strands_reserve(struct vshard_index *x, uint32_t pool_cap);
void vs_strands_forget(struct vshard_index *x);
void vs_strands_fini(struct vshard_index *x);

/* flat.c */
bool vs_scan_coded(const struct vshard_index *x);
void vs_scan_encode(struct vshard_index *x, uint32_t slot, float *vector);
void vs_scan_copy(struct vshard_index *x, uint32_t from, uint32_t to);
void vs_scan_mark(struct vshard_index *x, uint32_t slot, bool live);
uint64_t vs_scan_live(const struct vshard_index *x, uint32_t slot);
int vs_scan_reserve_rows(struct vshard_index *x, uint64_t slots);
void vs_scan_forget(const struct vshard_index *x, struct vs_scan *c);
void vs_scan_free(struct vshard_index *x, struct vs_scan *c);
uint32_t vs_scan_width(const struct vshard_index *x, size_t k);
int vs_flat_search(struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
                   struct vs_top *top);
int vs_flat_search_many(struct vshard_index *x, struct vs_scratch *s, const void *queries,
                        uint32_t count, uint32_t k, struct vs_top *tops);

/* search.c: what a call asked for */
struct vs_request {
    uint32_t ef, width; /* the beam as it is called, and as it is */
    uint32_t follow;    /* rows of it whose edges are followed; 0: all */
    uint32_t reach;     /* rows of it among which k are to be expected that a filter allows */
    uint32_t rank;      /* those that a filter leaves of it, and that are ranked, at most */
    float recall;       /* expected */
    bool walks;         /* and does not scan */
    uint32_t flags;
    size_t k;
    float farthest; /* +infinity: any distance */
    uint32_t *found;
    struct vshard_search_info *info;
    struct vs_filter *filter; /* NULL, or: */
    struct vs_filter the_filter;
    struct vs_limits limits;
    uint64_t exact_scans;
    struct vs_where the_where; /* the last: it is large, and set only where there is one */
};
int vs_request_options(const struct vshard_index *x, const struct vshard_search_options *given,
                       struct vshard_search_options *o);
int vs_request_begin(struct vshard_index *x, const struct vshard_search_options *options, size_t k,
                     const float *radius, struct vs_request *want, struct vs_reader **out);
bool vs_request_walks(const struct vshard_index *x, const struct vs_request *want);
int vs_request_run(struct vshard_index *x, struct vs_reader *r, const void *queries, size_t count,
                   struct vs_request *want, struct vshard_hit *hits);
int vs_request_end(struct vshard_index *x, struct vs_reader *r, struct vs_request *want,
                   int status);
int vs_scan_allowed(struct vshard_index *x, const struct vs_request *want, struct vs_walk *w,
                    struct vs_top *top);

/* filter.c */
int vs_filter_check(const struct vshard_index *x, const struct vshard_filter *given,
                    struct vs_filter *f, struct vs_where *where);
int vs_filter_measure(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s,
                      uint32_t ef, size_t k);
uint32_t vs_filter_ef(const struct vs_filter *f, uint32_t ef, size_t k);
bool vs_filter_allows(const struct vshard_index *x, struct vs_filter *f, uint32_t slot,
                      uint32_t position);
int vs_filter_list(struct vshard_index *x, struct vs_filter *f, struct vs_scratch *s);
bool vs_filter_asks(const struct vshard_index *x, struct vs_filter *f, uint32_t slot);
void vs_filter_rows(const struct vshard_index *x, const struct vs_filter *f, uint32_t slots,
                    uint32_t extent, uint64_t out[WHERE_WORDS]);
bool vs_filter_scans(const struct vshard_index *x, const struct vs_filter *f, uint32_t ef);
void vs_filter_pool(const struct vshard_index *x, struct vs_walk *w);

/* filter_scan.c */
int vs_filter_scan(struct vshard_index *x, struct vs_walk *w, struct vs_top *top, bool exact);

/* check.c */
int vs_reaches(const struct vshard_index *x, const struct vs_scratch *s, uint32_t slot,
               bool *reached);

/* limits.c */
void vs_limits_read(struct vs_limits *l, const struct vshard_search_options *o);
bool vs_limits_cut(struct vs_limits *l, uint64_t spent, uint64_t more);
bool vs_limits_ended(struct vs_limits *l, uint64_t rows);
bool vs_limits_over(const struct vs_limits *l);
int vs_limits_status(const struct vs_limits *l);

/* graph_search.c */
void vs_visited_clear(const struct vshard_index *x, struct vs_scratch *s);
uint32_t vs_walk_room(const struct vshard_index *x, uint32_t width, uint32_t follow);
void vs_walk_narrow(const struct vshard_index *x, struct vs_walk *w);
void vs_walk_request(const struct vs_column *column, struct vs_scratch *s, uint32_t count);
float vs_key_limit(const struct vshard_index *x, float distance);
void vs_graph_walk(const struct vshard_index *x, struct vs_walk *walks, uint32_t count,
                   uint32_t ef);
void vs_graph_rank(const struct vshard_index *x, struct vs_walk *w);
void vs_graph_rerank(struct vshard_index *x, struct vs_walk *w, struct vs_top *top);

/* graph_prune.c */
void vs_choose(const struct vshard_index *x, struct vs_scratch *s, uint32_t self, uint32_t want);
uint32_t vs_fill(const struct vshard_index *x, struct vs_scratch *s, uint32_t self, uint32_t *edges,
                 uint32_t count, uint32_t want);
void vs_keep_live(const struct vshard_index *x, struct vs_pool *p);
void vs_keep_live_or_marked(const struct vshard_index *x, struct vs_pool *p);
void vs_offer(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
              uint32_t count);
void vs_keys_of(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s, uint32_t count);
uint32_t vs_read_edges(const struct vshard_index *x, uint32_t slot, uint32_t *out);
void vs_write_edges(struct vshard_index *x, uint32_t slot, const uint32_t *to, uint32_t count);

/* A new row takes this part of its places, and a full list is cut to it, so that the
 * next edges back find room: a list is then pruned once in 16 edges and not for each. */
static inline uint32_t vs_kept_edges(const struct vshard_index *x)
{
    return x->degree / 4 * 3;
}

static inline bool vs_contains(const uint32_t *list, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == slot)
            return true;
    }
    return false;
}

/* graph_apart.c */
void vs_apart(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s, uint32_t count);
float vs_apart_least(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s,
                     uint32_t *at);

/* graph_tree.c */
struct vs_planting {
    uint64_t *seen;    /* one bit a slot */
    uint32_t *queue;   /* [rows] */
    uint32_t *parents; /* [slots] */
};
uint32_t vs_tree_parent(const struct vshard_index *x, const uint32_t *to, uint32_t count);
void vs_tree_pin(const struct vshard_index *x, struct vs_pool *p, uint32_t slot,
                 const uint32_t *edges, uint32_t count);
void vs_tree_front(uint32_t *list, uint32_t count, uint32_t parent);
void vs_tree_hang(struct vshard_index *x, uint32_t slot);
uint32_t vs_entry_find(const struct vshard_index *x, uint32_t slot);
void vs_tree_orphan(struct vshard_index *x, uint32_t slot);
void vs_tree_forget(struct vshard_index *x, uint32_t slot);
void vs_tree_plant(struct vshard_index *x, struct vs_planting *p, const uint32_t *slots,
                   uint32_t count);

/* graph_islands.c */
struct vs_islands;
int vs_islands_begin(struct vshard_index *x, uint64_t slots, struct vs_islands **out);
void vs_islands_end(struct vshard_index *x, struct vs_islands *g);
void vs_islands_enter(struct vshard_index *x, struct vs_islands *g, const uint32_t *slots,
                      uint32_t count);

/* graph_bulk.c */
struct vs_bulk;
bool vs_bulk_suits(const struct vshard_index *x, uint64_t count);
uint32_t vs_bulk_pool(const struct vshard_index *x);
int vs_bulk_begin(struct vshard_index *x, uint64_t count, struct vs_bulk **out);
void vs_bulk_end(struct vshard_index *x, struct vs_bulk *b);
void vs_bulk_arrange(struct vshard_index *x, struct vs_bulk *b, uint32_t *slots, uint32_t count);
void vs_bulk_link(struct vshard_index *x, struct vs_bulk *b, struct vs_islands *islands);

/* graph_build.c */
uint32_t vs_build_pool(const struct vshard_index *x);
int vs_build_reserve(struct vshard_index *x, uint64_t rows);
void vs_build_trim(struct vshard_index *x);
void vs_build_fini(struct vshard_index *x);
float vs_far_times(const struct vshard_index *x);
bool vs_is_entry(const struct vshard_index *x, uint64_t id);
void vs_entry_offer(struct vshard_index *x, uint32_t slot, uint32_t far);
uint32_t vs_build_batch(const struct vshard_index *x);
void vs_build_link(struct vshard_index *x, const uint32_t *slots, uint32_t count);

/* graph_relink.c */
void vs_build_relink(struct vshard_index *x, const uint32_t *slots, uint32_t count);

/* calibrate.c */
bool vs_calibration_valid(const struct vs_calibration *c);
double vs_calibrated_ef(const struct vs_calibration *c, size_t k, float recall);
float vs_calibrated_recall(const struct vs_calibration *c, size_t k, double ef);

/* repair.c */
int vs_repair_reserve(struct vshard_index *x, uint64_t changed, uint64_t entries);
void vs_repair_retire(struct vshard_index *x, uint32_t slot);
void vs_repair_run(struct vshard_index *x, uint64_t quota);
void vs_repair_fini(struct vshard_index *x);

/* shrink.c */
bool vs_shrink_due(const struct vshard_index *x);
void vs_shrink_run(struct vshard_index *x);
void vs_shrink_most(struct vshard_index *x);

/* Where the row is that an edge or an entry leads to, for one who reads while rows move. */
static inline uint32_t vs_moved(const struct vshard_index *x, const struct vs_scratch *s,
                                uint32_t slot)
{
    return s->moved_from > 0 && slot >= s->moved_from && slot != VS_SLOT_NONE ? vs_link(x, slot)
                                                                              : slot;
}

/* keep.c */
int vs_keep_init(struct vshard_index *x);
void vs_keep_fini(struct vshard_index *x);
int vs_keep_begin(struct vshard_index *x);
int vs_keep_take(struct vshard_index *x, uint32_t column, uint32_t extent, unsigned char *to);
int vs_keep_skip(struct vshard_index *x, uint32_t column, uint32_t extent);
void vs_keep_pause(struct vshard_index *x);
void vs_keep_end(struct vshard_index *x);
void vs_keep_free(struct vshard_index *x);
void vs_keep_wait(struct vshard_index *x);
void vs_keep_put(struct vshard_index *x, uint32_t column, uint32_t slot);

/* track.c */
void vs_track_put(struct vshard_index *x, uint32_t column, uint32_t slot);
void vs_track_drop(struct vshard_index *x);
void vs_track_fini(struct vshard_index *x);

/* To be called before what files have of a row in this column changes. */
static inline void vs_keep(struct vshard_index *x, uint32_t column, uint32_t slot)
{
    if (x->track.touched != NULL)
        vs_track_put(x, column, slot);
    if (atomic_load_explicit(&x->keep.on, memory_order_acquire))
        vs_keep_put(x, column, slot);
}

/* And before any of it does. */
static inline void vs_keep_all(struct vshard_index *x, uint32_t slot)
{
    for (uint32_t i = 0; i < IMAGE_FIRST_VALUES + x->attributes.count; i++)
        vs_keep(x, i, slot);
}

/* slots.c */
void vs_slot_wipe(struct vshard_index *x, uint32_t slot);
void vs_slot_free(struct vshard_index *x, uint32_t slot);
uint32_t vs_slot_take(struct vshard_index *x);

/* open.c */
int vs_mapping_verify(const struct vshard_index *x, uint32_t extent);
void vs_mapping_close(struct vshard_index *x);

/* Sketches order rows a little wrong, so a walk by them takes along a quarter more than
 * it was asked for, of which codes then choose. */
static inline uint32_t vs_walk_width(const struct vshard_index *x, double ef)
{
    bool sketched =
        atomic_load_explicit(&x->trained, memory_order_acquire) && x->sketches.stride > 0;

    return (uint32_t)(sketched ? 1.25 * ef : ef + 0.5);
}

/* In a mapped index each extent is verified when it is first touched. */
static inline int vs_touch(const struct vshard_index *x, uint32_t slot)
{
    if (x->mapping.bytes == NULL ||
        atomic_load_explicit(&x->mapping.verified[slot >> VS_EXTENT_SHIFT], memory_order_acquire))
        return VSHARD_OK;
    return vs_mapping_verify(x, slot >> VS_EXTENT_SHIFT);
}

#endif
