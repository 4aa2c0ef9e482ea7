/* index.h - vectors, searchable by distance.
 *
 * An index holds vectors of one dimension, each under a 64-bit id of the caller's
 * choice, and finds those nearest to a query. It lives in one process. It can be
 * saved to a file and opened again, by copying the file into memory or by mapping
 * it. Nothing here knows about shards or networks.
 *
 * Threads: all calls on one index but vshard_index_destroy() may run beside each other.
 * Searches and fetches take no lock and never wait for a change: of each row they see all or
 * nothing, so of a vector that is replaced either the old or the new. The rows of one add to
 * a graph are seen in pieces of up to 1,024, in their order; those of a remove together. Calls
 * marked "in turn" wait for each other: those that change the index, and those that need it at
 * rest (vshard_index_check() and digest, which run beside one another). A save begins between
 * two changes, and goes on beside others. A change may wait for searches that began before it,
 * before it uses their memory again; so a filter's function must not change the index that asks
 * it. */
#ifndef VSHARD_INDEX_H
#define VSHARD_INDEX_H

#include <vshard/attribute.h>
#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A set of vectors of one dimension, searchable by distance. */
struct vshard_index;

/* ==== 1. What an index is made of ====================================== */

enum {                         /* how the index finds neighbours */
       VSHARD_FAMILY_HNSW = 0, /* a navigable graph: fast, approximate */
       VSHARD_FAMILY_FLAT = 1  /* a scan of all rows: exact */
};

enum {                           /* what distance means; smaller is always nearer */
       VSHARD_METRIC_L2SQ = 0,   /* squared Euclidean distance */
       VSHARD_METRIC_IP = 1,     /* inner product, negated; see CAVEATS of vshard_index(3) */
       VSHARD_METRIC_COSINE = 2, /* 1 - cosine of the angle, 0..2 */
       VSHARD_METRIC_L1 = 3,     /* sum of absolute differences */
       VSHARD_METRIC_HAMMING = 4 /* bits that differ; for BITS, and they have no other */
};

enum {                         /* the type of a vector's elements, given, stored and returned */
       VSHARD_ELEMENT_F32 = 0, /* float, finite, |x| <= VSHARD_VALUE_MAX */
       VSHARD_ELEMENT_U8 = 1,  /* uint8_t */
       VSHARD_ELEMENT_I8 = 2,  /* int8_t */
       VSHARD_ELEMENT_F16 = 3, /* IEEE 754 binary16 as uint16_t, finite; never widened in memory */
       VSHARD_ELEMENT_BITS = 4 /* eight to a byte, in any order; dim counts bits */
};

#define VSHARD_VALUE_MAX  1e15f       /* so that no distance overflows a float */
#define VSHARD_LENGTH_MIN 1e-15       /* cosine only: a shorter vector has no direction */
#define VSHARD_DIM_MAX    32768       /* so that integer distances fit in 31 bits */
#define VSHARD_K_MAX      4096        /* answers to one query */
#define VSHARD_EF_MAX     16384       /* width of the beam */
#define VSHARD_ROWS_MAX   0x7fffffffu /* rows in one index */
#define VSHARD_RANGE_MAX  (1u << 20)  /* answers to one range search */
#define VSHARD_ASKED_MAX  65536       /* queries of a calibration */

enum {                             /* what is kept of F32 and F16; of others there is one way */
       VSHARD_PROFILE_DEFAULT = 0, /* vectors as given, and codes of a byte an element */
       VSHARD_PROFILE_LEAN = 1     /* HNSW: codes alone, once there is a graph. FLAT: vectors
                                      alone; scans then read all of them, and take five to
                                      six times as long, seven to eight in batches */
};

/* Set `size` to sizeof(struct vshard_index_options), zero the rest, and fill in
 * what you care about: in every field, zero means the default. */
struct vshard_index_options {
    uint32_t size;    /* bytes in this struct; required */
    uint32_t dim;     /* elements in a vector, 1..32768; of BITS a multiple of 8; required */
    uint32_t family;  /* VSHARD_FAMILY_*; default HNSW */
    uint32_t metric;  /* VSHARD_METRIC_*; default L2SQ */
    uint32_t element; /* VSHARD_ELEMENT_*; default F32 */
    uint32_t m;       /* HNSW: a row keeps up to 2m edges, 4..128; default 32 */
    uint32_t ef_construction; /* HNSW: candidates weighed per insert, 8..4096; default 200 */
    uint32_t ef_search;       /* HNSW: width of the beam, 1..16384; default 100. A beam that
                                 goes by sketches (L2SQ and COSINE above 64 dimensions)
                                 is a quarter wider than asked for */
    uint32_t train_rows;      /* HNSW: rows scanned exactly until a graph is built over
                                 them, 256..65536; default 2048 */
    uint32_t flags;           /* none yet; 0 */
    uint64_t seed;            /* equal calls with equal seeds build equal indexes. Where others
                                 choose the ids, one that they do not know keeps them from
                                 choosing such as are slow to look up, or all begin searches */
    const struct vshard_allocator *allocator; /* copied; default: the machine's, see below */
    const struct vshard_logger *logger;       /* copied; default: silence */
    const struct vshard_executor *executor;   /* copied; default: the calling thread */
    const struct vshard_storage *storage;     /* copied; default: POSIX files */
    uint32_t numa_node; /* n: place memory on node n - 1 of the operating system; default:
                           where the thread runs that touches it first. Not with an allocator */
    uint32_t profile;   /* VSHARD_PROFILE_*; default DEFAULT */
    uint64_t max_bytes; /* memory for rows, codes, edges, ids and values of attributes: an add
                           that would take more is refused whole, with E2BIG; default: any. Buffers
                           of calls (vshard_index_stats.scratch_bytes) are not counted */
    const struct vshard_attribute *attributes; /* [attribute_count], copied; default: none */
    size_t attribute_count;                    /* 0..8 */
};

/* Creates an empty index.
 *
 * Without an allocator, memory comes from the C library's heap, and blocks of 128 KiB and more
 * from the system as whole pages, which it has back when they are freed; those of 2 MiB and more
 * are aligned and advised for transparent huge pages.
 * With numa_node, blocks of 8 pages and more are whole pages on that node; when it is
 * full, the system takes others (vshard_index_node_bytes() tells). On a machine of one
 * node there is nothing to place.
 *
 * An HNSW index scans its rows exactly until it holds train_rows of them. It then
 * derives 8-bit codes from these rows, and from as many spread over the rest of the
 * same call, and builds the graph on integer distances between codes, so that equal calls with an
 * equal seed give an equal index on every instruction set and any number of threads. BITS, and
 * 8-bit elements under L2SQ and L1, are their own codes. Under L1, HAMMING and IP, too, the
 * graph is built on the metric itself.
 *
 * Codes follow the rows. Each add looks at some of its rows and of those that are there; if more
 * than 1 element in 200 is cut in codes, as where later rows lie elsewhere than the first, it
 * makes the codes of all anew before it goes on, and codes.retrained is logged. Searches are exact
 * meanwhile, and slower: about 0.1 s for 300,000 rows of 100 floats. A lean index stays as it was
 * trained.
 *
 * Codes have one scale for all dimensions and all rows. Where that does not tell near rows
 * apart, as where one feature reaches 30 times as far as the others, some rows are a
 * hundred times as long, or clusters are a ten thousandth as wide as they lie apart, a graph over
 * floats under L2SQ, COSINE and L1 is built and walked on the vectors instead, and codes.coarse is
 * logged as a warning: recall is as of other data, there are no codes (code_bytes of the stats is
 * 0), a search takes several times as long, and so does a load. This is measured on up to 1,024
 * rows when the graph begins, and when codes are made anew. It does not help, so that features are
 * to be scaled first, or a flat index taken:
 *   - a lean index, which has only codes, and is warned about
 *   - under IP, and 8-bit elements under COSINE and IP, which are not looked at.
 *     vshard_index_calibrate() tells what is found
 *
 * A lean index gives the vectors away when its graph begins, and keeps their codes, of
 * one byte an element: from then on a row is the vector that its code stands for. That
 * differs from the one given by at most half a step in each element (under COSINE after
 * both were divided by their lengths); a step is 1/127 of the range that all but 1 in 1,000
 * elements of the rows that codes are derived from lay in. Outside of this range the 8 farthest
 * elements of a row are right to 1/2,000 of how far they are out, up to 4 * 10^12 steps;
 * others are cut. 8-bit
 * elements and BITS are kept as given: they are as small. So is a flat index, always.
 *
 *   options   borrowed for the call
 *   index     [out] the new index, or NULL on failure; the caller ends it with
 *             vshard_index_destroy()
 *
 * Returns   0, EINVAL (a field out of range, HAMMING without BITS or BITS without
 *           HAMMING, an attribute without a type or a name of its own, no such node, a
 *           node and an allocator: the log names it), ENOMEM, ENOTSUP (numa_node in a
 *           build without hwloc, or the system does not let this process place memory),
 *           EVERSION
 * Thread    any
 * Source    Malkov & Yashunin 2018, Algorithms 2 and 4, on one layer: a small set
 *           of entry rows, scanned, replaces the upper layers
 * Since     0.1 */
VSHARD_API int vshard_index_create(const struct vshard_index_options *options,
                                   struct vshard_index **index);

/* Frees the index and all it owns. NULL is a no-op.
 *
 * Thread    exclusive
 * Since     0.1 */
VSHARD_API void vshard_index_destroy(struct vshard_index *index);

/* ==== 2. Rows ========================================================== */

/* Adds vectors, copying them; an id that is there already gets the new vector.
 * Of an id that stands twice in one call, the last counts.
 *
 *   ids       uint64 [count], any but VSHARD_ID_NONE; borrowed
 *   vectors   element [count x dim], row-major, any alignment; borrowed
 *
 * All or nothing: on failure the index is unchanged. Large calls are faster than
 * many small ones, and use the executor. A call that links 8,192 rows or more, and no
 * fewer than are linked already, builds the graph over all of them at once: that is
 * faster still, and needs about 500 + 6m bytes a row until it returns.
 *
 * Returns   0, EINVAL (NaN, infinite or above VSHARD_VALUE_MAX; a vector shorter
 *           than VSHARD_LENGTH_MIN under cosine; VSHARD_ID_NONE), ENOMEM, E2BIG
 *           (more than VSHARD_ROWS_MAX rows, or more memory than max_bytes: the log says
 *           how much), ENOTSUP (a mapped index)
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_add(struct vshard_index *index, const uint64_t *ids,
                                const void *vectors, size_t count);

/* How to add. Zero means the default in every field. */
struct vshard_add_options {
    uint32_t size;                      /* bytes in this struct; required */
    uint32_t value_count;               /* of values: attributes, the first of the index's */
    const struct vshard_values *values; /* [value_count] arrays of `count` values each, borrowed;
                                           attributes beyond are missing; default: all are */
};

/* Adds vectors as vshard_index_add(), with the values of their attributes. A row that is
 * replaced gets the new vector and the new values together, and no reader sees one
 * without the other; of an attribute that is not given it has none then, and the same
 * is true of rows that vshard_index_add() replaces.
 *
 * Keywords are kept once each, at 128 bytes and what it takes to find them, for as long as
 * a row has them; rows keep numbers.
 *
 *   ids, vectors, count   as of vshard_index_add()
 *   options               borrowed; NULL for all defaults
 *
 * Returns   as vshard_index_add(); EINVAL also for more values than the index has
 *           attributes, a width that the type does not have, and a keyword above
 *           VSHARD_KEYWORD_MAX bytes; EVERSION (options of a newer library)
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_add_with(struct vshard_index *index, const uint64_t *ids,
                                     const void *vectors, size_t count,
                                     const struct vshard_add_options *options);

/* Removes rows. An id that is not there is passed over. A removed row is never
 * answered again; its edges are repaired, and its memory reused, a fixed number of
 * rows at a time, by later calls of add and remove, or at once by
 * vshard_index_maintain(). When half of all that rows had taken is free, 8,192 of them at least,
 * the others are moved together at the end of a call, and memory is given back.
 *
 *   ids       uint64 [count]; borrowed
 *   removed   [out] how many were there; may be NULL
 *
 * Returns   0, EINVAL, ENOMEM, ENOTSUP (a mapped index); on failure no row is removed
 * Thread    in turn
 * Source    Singh et al. 2021 (FreshDiskANN), Algorithm 4, with reverse edges
 * Since     0.1 */
VSHARD_API int vshard_index_remove(struct vshard_index *index, const uint64_t *ids, size_t count,
                                   size_t *removed);

/* Copies vectors out as they were given to add; of a lean index with a graph, as their
 * codes stand for them.
 *
 *   ids       uint64 [count]; borrowed
 *   vectors   [out] element [count x dim], row-major; an absent row is left untouched
 *   found     [out] uint8 [count], 1 where the id is there; may be NULL
 *
 * Returns   0, EINVAL, ENOTFOUND (at least one id is absent), ECORRUPT (mapped)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_fetch(struct vshard_index *index, const uint64_t *ids, size_t count,
                                  void *vectors, uint8_t *found);

/* Copies the values of attributes out, those of each row as one call has added them.
 *
 *   ids           uint64 [count]; borrowed
 *   values        [value_count] arrays that are written to; where a value is missing, with
 *                 VSHARD_MISSING, NaN or zeros; where the id is absent, not at all. A
 *                 keyword is followed by zeros up to the width
 *   value_count   up to the attributes of the index: the first ones
 *   found         [out] uint8 [count], 1 where the id is there; may be NULL
 *
 * Returns   0, EINVAL, ENOMEM, ENOTFOUND (at least one id is absent), E2BIG (a keyword
 *           is longer than the width; what was written by then is unspecified)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_fetch_values(struct vshard_index *index, const uint64_t *ids,
                                         size_t count, const struct vshard_values *values,
                                         size_t value_count, uint8_t *found);

/* Tells type and name of one attribute, as it was created.
 *
 *   at          from 0 on
 *   attribute   [out]
 *
 * Returns   0, EINVAL, ENOTFOUND (there are not so many)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_attribute(const struct vshard_index *index, size_t at,
                                      struct vshard_attribute *attribute);

/* Rows that can be found; 0 for NULL.
 *
 * Thread    any
 * Since     0.1 */
VSHARD_API uint64_t vshard_index_count(const struct vshard_index *index);

/* ==== 3. Search ======================================================== */

enum {                           /* struct vshard_search_options.flags */
       VSHARD_SEARCH_EXACT = 1,  /* scan every row, or every row that the filter allows */
       VSHARD_SEARCH_STRICT = 2, /* a search that a limit cuts fails: ECANCELED, ETIMEDOUT,
                                    or E2BIG for the budget */
       VSHARD_SEARCH_WITHIN = 4  /* no answer is farther than distance_max */
};

enum {                          /* what cut a search: struct vshard_search_info.limits */
       VSHARD_LIMIT_BUDGET = 1, /* distance_budget */
       VSHARD_LIMIT_DEADLINE = 2,
       VSHARD_LIMIT_CANCEL = 4
};

enum {                         /* struct vshard_filter.kind */
       VSHARD_FILTER_IDS = 1,  /* a list of the ids that may be answered */
       VSHARD_FILTER_BITS = 2, /* a bit for each id from 0 on; ids beyond are refused */
       VSHARD_FILTER_CALL = 3, /* a function says */
       VSHARD_FILTER_WHERE = 4 /* the attributes say: `where` alone */
};

/* Which rows a search may answer: the others are passed over. Set `size` and `kind`, zero
 * the rest, and fill in what the kind reads. All of it is borrowed for the call, and must
 * not change during it.
 *
 * A list costs about 50 ns an id before the first query is looked at, 20 where the ids of the
 * index count from 0 on: for more than some thousand ids, bits or a function are faster. Bits are
 * for ids that are dense. A condition on attributes costs some nanoseconds a row that is looked
 * at, and about a fifth of one for each comparison but IN where all rows are, as where few are
 * allowed. */
struct vshard_filter {
    uint32_t size;        /* bytes in this struct; required */
    uint32_t kind;        /* VSHARD_FILTER_*; required */
    uint64_t count;       /* IDS: ids. BITS: bits */
    const uint64_t *ids;  /* IDS: [count], in any order; ids that are not there, or stand
                             twice, do no harm */
    const uint64_t *bits; /* BITS: [count / 64, rounded up]; id's is bit id % 64 of word
                             id / 64, and 1 allows it */
    /* CALL: not 0 if the row may be answered. It is called on the thread that searches,
     * many times a query and perhaps more than once for an id, must say the same of an id
     * throughout the call, and must not call the library on this index. */
    int (*allow)(void *ctx, uint64_t id);
    void *ctx;
    float share;       /* CALL: of the rows, how many are allowed, 0 < share <= 1; 0 if that is
                          not known: then 256 rows are asked about. It decides how, not what,
                          is searched */
    uint32_t reserved; /* 0 */
    const void *where; /* any kind: an expression by vshard_where_encode() that must hold, too;
                          of kind WHERE required. It is verified, so bytes from elsewhere do
                          no harm */
    size_t where_bytes;
};

/* What a search did. The library fills in as much as `size` says fits. */
struct vshard_search_info {
    uint32_t size;          /* bytes in this struct; required */
    uint32_t ef;            /* [out] width of the beam; 0 where every row was scanned */
    uint64_t distances;     /* [out] distances computed, over all queries of the call */
    uint64_t hops;          /* [out] rows whose edges were followed */
    uint64_t exact_scans;   /* [out] queries answered by scanning every row, or every row
                               that the filter allows */
    uint64_t rows;          /* [out] rows visited: met on a walk, or scanned */
    uint64_t filter_checks; /* [out] times that the filter was asked about a row */
    uint32_t limits;        /* [out] VSHARD_LIMIT_* that cut a query of the call; 0 if all
                               queries ran to their end */
    float share;            /* [out] of the rows, how many the filter allows, as measured; 1
                               without a filter */
    float recall;           /* [out] part of the k nearest that is expected to be found, 0..1;
                               NaN with a filter, and where the index is not calibrated */
    uint32_t reserved;      /* 0 */
};

/* Options of one search call: nothing here is kept in the index.
 *
 * A search that a limit cuts returns 0 and the nearest that it had met: each answer is a
 * row of the index, allowed, at its own distance, but nearer ones may be missing, and
 * there may be fewer than k. Limits are looked at after each 64 rows of a scan and after
 * each step of a walk, which is at most 4m rows; what was met is then ranked. */
struct vshard_search_options {
    uint32_t size;                      /* bytes in this struct; required */
    uint32_t ef_search;                 /* HNSW: width of the beam, 1..16384; default: the index's.
                                           At least k is used. More finds more, and costs more */
    uint32_t flags;                     /* VSHARD_SEARCH_*; default none */
    float target_recall;                /* HNSW: part of the k nearest to be found, above 0 and
                                           below 1, in place of ef_search; needs
                                           vshard_index_calibrate(); default: none */
    uint32_t *found;                    /* [out] [count], the answers of each query; may be NULL */
    struct vshard_search_info *info;    /* [out] may be NULL */
    const struct vshard_filter *filter; /* for all queries of the call; default: every row */
    const struct vshard_clock *clock;   /* read at most once in 64 distances; required with a
                                           deadline */
    uint64_t deadline_ns;               /* by that clock, of the whole call; default: none */
    uint64_t distance_budget;           /* distances for each query; default: no limit */
    const uint32_t *cancel;   /* the call ends soon after this is not 0; another thread sets
                                 it by an atomic store; default: none */
    void *reserved_pointer;   /* NULL */
    float distance_max;       /* with WITHIN: any number but NaN, in the metric's unit */
    uint32_t reserved_number; /* 0 */
};

/* Finds the nearest rows to each query, on the calling thread: parallel searches are
 * parallel calls. Four queries in one call share their memory latency, so a call with
 * many is faster a query than many calls.
 *
 *   queries   element [count x dim], row-major, any alignment; borrowed
 *   k         answers wanted for each query, 1..4096
 *   hits      [out] [count x k], row-major, nearest first, ties by smaller id. Each
 *             query gets min(k, rows) answers; the rest of its row is filled with
 *             VSHARD_ID_NONE. With a filter, `rows` are those that it allows; with
 *             WITHIN, answers farther than distance_max are left out (a walk ends sooner, too,
 *             where codes tell that all that is left is too far), and a query that
 *             a limit cuts may get fewer (info.limits)
 *   options   borrowed; NULL for all defaults
 *
 * With target_recall, the beam is as wide as the calibration says that this takes, on
 * average over queries like the rows. A target that even the widest calibrated beam did
 * not reach gets that one, as one near 1 does of a lean index, whose codes tell only so much
 * apart; info says what was used, and what it is expected to find.
 *
 * The distances of the answers are computed on the stored elements, in a lean index on
 * those that the code stands for. With
 * e = (dim + 4) * 2^-24, for F32 and F16: an L2SQ or L1 is right to a relative e, an
 * IP to e times the sum of |a[i] * b[i]|, a COSINE to 2e, and all to 1e-30. For 8-bit
 * elements and BITS the sums are exact and rounded once to float. Answers of a flat index, or with
 * VSHARD_SEARCH_EXACT, are the exact nearest by these distances.
 *
 * A filter is measured first: the ids of a list and, up to 64 bits a row, the bits are
 * counted, and otherwise, and where there is a condition, 256 rows are tried. Where few
 * rows are allowed they are scanned: the vectors of those that their codes, at four
 * standard deviations of their error, do not rule out. Else the beam is wide enough to
 * hold k rows that are allowed. Where it does not, or the rows near the query are not those
 * allowed, the allowed rows are scanned after all. If a limit ends the call while all rows are
 * asked about, or the ids of a list looked up, nothing is found.
 *
 * Returns   0, EINVAL (ef_search and target_recall at once, and an expression that is none
 *           or is not about the attributes of this index, too), ENOMEM, EVERSION, ECORRUPT
 *           (a mapped file is damaged), ENOTSUP (target_recall, and the graph is not
 *           calibrated); with VSHARD_SEARCH_STRICT also ECANCELED, ETIMEDOUT, E2BIG; on
 *           failure hits and found are unspecified
 * Thread    any
 * Source    Malkov & Yashunin 2018, Algorithms 2 and 5
 * Since     0.1 */
VSHARD_API int vshard_index_search(struct vshard_index *index, const void *queries, size_t count,
                                   size_t k, struct vshard_hit *hits,
                                   const struct vshard_search_options *options);

/* Finds all rows within a radius of one query.
 *
 *   query     element [dim], any alignment; borrowed
 *   radius    the farthest that counts, in the metric's unit, as in vshard_hit.distance;
 *             any number but NaN
 *   hits      [out] [room], nearest first, ties by smaller id; places beyond the answers
 *             are left as they are
 *   room      of the hits, 1..VSHARD_RANGE_MAX. If more rows are within the radius, the
 *             nearest are answered
 *   options   borrowed; NULL for all defaults. found[0] gets the number of answers: ask
 *             for it. WITHIN is implied, and distance_max not read
 *
 * A flat index, and EXACT, answer exactly all. A graph is followed from the beam's rows
 * to every neighbour within the radius, measured exactly: what is missing are rows that no
 * row within the radius leads to. When that becomes a quarter of the rows, all are scanned.
 *
 * Returns   as vshard_index_search()
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_range(struct vshard_index *index, const void *query, float radius,
                                  struct vshard_hit *hits, size_t room,
                                  const struct vshard_search_options *options);

enum {                            /* why a row is answered, or not; the first that holds */
       VSHARD_WHY_RETURNED = 1,   /* it is among the k answers */
       VSHARD_WHY_ABSENT = 2,     /* there is no such row */
       VSHARD_WHY_FILTERED = 3,   /* the filter refuses it */
       VSHARD_WHY_DISTANCE = 4,   /* it is farther than distance_max */
       VSHARD_WHY_RANK = 5,       /* k or more rows are nearer */
       VSHARD_WHY_LIMIT = 6,      /* a limit cut the search first */
       VSHARD_WHY_BEAM = 7,       /* the walk met it, but its place in the beam was taken by
                                     rows whose codes are nearer: raise ef_search */
       VSHARD_WHY_PATH = 8,       /* the walk did not come by it: raise ef_search */
       VSHARD_WHY_UNREACHABLE = 9 /* no edges lead to it: only in files of older libraries */
};

/* Why a row was or was not an answer. The library fills in as much as `size` says fits. */
struct vshard_explanation {
    uint32_t size;       /* bytes in this struct; required */
    uint32_t why;        /* [out] VSHARD_WHY_* */
    uint64_t rank;       /* [out] rows that may be answered and come before it, by exact
                            distance; 0 also where it is absent */
    uint64_t candidates; /* [out] rows that may be answered, of all distances */
    float distance;      /* [out] from the query; +infinity where it is absent */
    uint32_t limits;     /* [out] VSHARD_LIMIT_* that cut the search */
};

/* Says why a search does, or does not, answer with a row: it searches once more, and then
 * scans every row, so it is for people and tests.
 *
 *   query        element [dim], any alignment; borrowed
 *   id           the row in question
 *   k            answers wanted, 1..4096
 *   options      of the search in question, but that EXACT and STRICT are ignored; limits
 *                count for the search, and not for the scan. found and info are not
 *                written. Borrowed; NULL for all defaults
 *   explanation  [out]
 *
 * Returns   as vshard_index_search()
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_explain(struct vshard_index *index, const void *query, uint64_t id,
                                    size_t k, const struct vshard_search_options *options,
                                    struct vshard_explanation *explanation);

/* Measures how wide a beam must be for which recall, so that searches may ask for
 * target_recall. Queries are answered by walks in wider and wider beams, and compared
 * with the nearest by the vectors: for k of 1, 10 and 100; other k are interpolated,
 * which is right to 0.04 even in beams that are hardly wider than k.
 * If there are none to be had, rows of the index stand for them, evenly spread, each left
 * out of its own walk. That is right for queries that are like the rows; for others, as
 * under IP, or where rare things are asked of an index of frequent ones, it is not.
 *
 *   queries   element [asked x dim], like those to come; borrowed. NULL: rows
 *   asked     of them, 0 to 65536; 0 for 2,000 rows. Four times as many halve the error of
 *             the estimate, which is about 0.004 with 2,000
 *
 * It takes about `asked` scans of all codes, and uses the executor; a query whose nearest
 * codes cannot tell, at four standard deviations of their error, has all vectors scanned, in
 * float64. Under IP, of which that error is not known, the nearest are those among the 400
 * nearest by code. What was measured is
 * part of the index, of its file and its digest, until the next call: calibrate again
 * when the number of rows has doubled or half of them were replaced (stats tells how
 * many there were). Where there is no graph it does nothing, as every answer is exact.
 *
 * The recall of a lean index is that of the vectors it was given, which it does not have any
 * more: they are taken to lie anywhere within half a step of what their codes stand for.
 * Rounding loses a part of the nearest that no beam finds, nor VSHARD_SEARCH_EXACT, which is exact
 * among codes: 0.02 of words of 100 dimensions, 0.01 of sentences of 384. Beams are measured until
 * they find 0.995 of what there is to be found, and a target above that gets the widest of
 * these. Where elements have but few values, or rows are equal, less may be lost than is expected.
 *
 * Returns   0, EINVAL (a query that a search would refuse, too), ENOMEM, ENOTSUP (a
 *           mapped index); on failure the calibration is as it was
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_calibrate(struct vshard_index *index, const void *queries,
                                      size_t asked);

/* ==== 4. Files ========================================================= */

/* Writes the index to a file. It is written under path + ".tmp", synced, renamed
 * and the directory synced: a crash leaves the old file or the new one, whole.
 *
 * The file is the index as it was when the save began, between two changes. Changes go on
 * beside it: what they write to before the save has come by is put aside, up to an
 * eighth of the rows' bytes or 16 MiB; beyond that they wait for some more to be
 * written. A change that moves rows together (vshard_index_remove()) waits for the save. Saves of
 * one index wait for each other; two indexes must not be saved to one path at once.
 *
 *   path      ends in a zero byte, at most 4000 bytes; borrowed
 *
 * Returns   0, EINVAL, ENOMEM, EIO, ENOSPC, ENOTFOUND (no such directory), ECORRUPT
 *           (a mapped index is damaged), EUNKNOWN (the new file is in place, but its
 *           directory could not be synced: a crash may bring the old one back), E2BIG
 *           (a name longer than the file system takes, or the file), ENOTSUP (there
 *           is something else than a file under the temporary name). On any other
 *           failure than EUNKNOWN the file at `path` is as it was
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_save(struct vshard_index *index, const char *path);

/* Writes what changed since the last generation at this path, or everything where there is
 * none. A generation is a small file at `path`, and files beside it, named path + ".g" and a
 * number, that have the rows; vshard_index_open() takes all of them for one. They belong together:
 * move or copy all or none, and leave their removal to this call.
 *
 * The files are written and synced first; then, as by vshard_index_save(), a new file takes the
 * place of the one at `path` by renaming. A crash at any moment leaves the old generation or the
 * new one, whole; and whoever has mapped an older one keeps it.
 *
 * What changed is known from the last call with this path on, or from vshard_index_open() of it,
 * not mapped; it is a bit for each row and column. Rows are written whole, and in each column on
 * its own: a row that is replaced or added also has up to about 1.5m others of a graph write their
 * edges. All is written if another has saved to the path since, if a graph began, if rows were
 * moved together (vshard_index_remove()), if memory for the bits was refused, if there are 127
 * files of changes, or if those would take more than half of what everything takes. Then older
 * files are removed. So up to 2.5 times the file of vshard_index_save() is taken for a while.
 *
 * Rows that were removed or replaced stay, with their vectors, in older files of the generation
 * until all is written. vshard_index_save() writes none that vshard_index_maintain() has freed.
 *
 * Changes go on beside it as beside vshard_index_save(). Of two paths that are saved to by turns
 * each is written whole. vshard_index_save() to the same path leaves the files beside it: they
 * may be removed then.
 *
 *   path      ends in a zero byte, at most 4000 bytes; borrowed
 *
 * Returns   as vshard_index_save(); also what reading the file at `path` says, if that fails. A
 *           file there that is damaged, or none of these, is replaced
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_save_changes(struct vshard_index *index, const char *path);

enum {                         /* struct vshard_open_options.flags */
       VSHARD_OPEN_MAPPED = 1, /* map the file: opens in milliseconds, shares memory between
                                  processes, and is read-only; a flat index is then lean */
       VSHARD_OPEN_LEAN = 2    /* a flat index as by VSHARD_PROFILE_LEAN, which is not in
                                  its file */
};

/* How to open a file. Zero means the default in every field. */
struct vshard_open_options {
    uint32_t size;                            /* bytes in this struct; required */
    uint32_t flags;                           /* VSHARD_OPEN_*; default: copy into memory */
    const struct vshard_allocator *allocator; /* copied; default: as of vshard_index_create() */
    const struct vshard_logger *logger;       /* copied; default: silence */
    const struct vshard_executor *executor;   /* copied; default: the calling thread */
    const struct vshard_storage *storage;     /* copied; default: POSIX files */
    uint32_t numa_node; /* as in struct vshard_index_options; not with an allocator, and not
                           mapped: a file's pages lie where they were first read */
    uint32_t reserved;  /* 0 */
    uint64_t max_bytes; /* as in struct vshard_index_options: it is not in the file. An index
                           that takes more already opens, and takes no more rows */
};

/* Opens a saved index: it answers as the one that was saved, bit for bit.
 *
 * Structure, lengths and row ids are verified before use. A copied file is verified
 * whole. Of a mapped file, each group of 1,024 rows is verified when it is first
 * touched. A mapped file must not be changed or cut in place while it is open;
 * vshard_index_save() never does that, because it replaces the file by renaming.
 *
 *   path      ends in a zero byte, at most 4000 bytes; borrowed
 *   options   borrowed; NULL for all defaults
 *   index     [out] the index, or NULL on failure
 *
 * Returns   0, EINVAL, ENOMEM, EIO, ENOTFOUND, ECORRUPT, E2BIG (a name longer than
 *           the file system takes), ENOTSUP (this is not a file, but a directory or
 *           a pipe; this storage cannot map; or numa_node, as in create), EVERSION
 *           (options or file of a newer library)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_open(const char *path, const struct vshard_open_options *options,
                                 struct vshard_index **index);

/* ==== 5. Health ======================================================== */

/* Numbers about an index. The library fills in as much as `size` says fits. */
struct vshard_index_stats {
    uint32_t size;            /* bytes in this struct; required */
    uint32_t dim;             /* [out] as created, like the next seven */
    uint32_t family;          /* [out] */
    uint32_t metric;          /* [out] */
    uint32_t element;         /* [out] */
    uint32_t m;               /* [out] 0 for a flat index */
    uint32_t ef_construction; /* [out] */
    uint32_t ef_search;       /* [out] */
    uint32_t train_rows;      /* [out] */
    uint32_t trained;         /* [out] 1 once there is a graph */
    uint32_t mapped;          /* [out] 1 if read from a mapped file */
    uint32_t entries;         /* [out] rows where a search may start */
    uint64_t rows;            /* [out] rows that can be found */
    uint64_t removed_rows;    /* [out] removed, their edges not yet repaired */
    uint64_t free_rows;       /* [out] ready to be used again */
    uint64_t heap_bytes;      /* [out] all memory held through the allocator */
    uint64_t mapped_bytes;    /* [out] bytes of the mapped file */
    uint64_t element_bytes;   /* [out] of heap_bytes or mapped_bytes: vectors as given */
    uint64_t code_bytes;      /* [out] likewise: codes */
    uint64_t edge_bytes;      /* [out] likewise: the graph */
    uint64_t id_bytes;        /* [out] likewise: ids and the map from ids to rows */
    uint64_t scratch_bytes;   /* [out] of heap_bytes: buffers of searches and builds */
    uint32_t numa_node;       /* [out] as created or opened; 0 if not placed */
    uint32_t profile;         /* [out] as created */
    uint64_t calibrated_rows; /* [out] rows there were when it was calibrated last; 0: never */
    uint64_t attribute_bytes; /* [out] of heap_bytes or mapped_bytes: values and keywords */
    uint32_t attribute_count; /* [out] as created */
    uint32_t keyword_count;   /* [out] different keywords that rows have */
};

/* Reports numbers about an index.
 *
 * Returns   0, EINVAL
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_stats(struct vshard_index *index, struct vshard_index_stats *stats);

/* What rows take. */
struct vshard_index_estimate {
    uint32_t size;             /* bytes in this struct; required */
    uint32_t reserved;         /* 0 */
    uint64_t rows_bytes;       /* [out] of rows, codes, edges, ids and values: what max_bytes
                                  limits. Keywords are to be added: 136 to 152 bytes each, once
                                  there are some thousand different ones */
    uint64_t memory_bytes;     /* [out] these, and what the index and its own buffers take */
    uint64_t file_bytes;       /* [out] of the file that is saved then */
    uint64_t least_rows_bytes; /* [out] likewise, of a graph whose rows turn out to be such that */
    uint64_t least_memory_bytes; /* [out] codes and sketches do not serve, as far as its options */
    uint64_t least_file_bytes;   /* [out] leave that to the rows; else the same as above */
};

/* Says what an index of these options takes with so many rows, added by one call; added
 * by many, memory has up to an eighth in reserve, unless max_bytes is given. Searches add
 * their buffers, an eighth of a byte a row and some 10 KB for each thread at once and
 * each of four queries; a call that adds rows takes more until it returns (vshard_index_add()).
 * Right to 5 % from 10,000 rows on, where both numbers of a pair are the same: of a flat index, and
 * of a graph over bits, under IP, over 8-bit elements of up to 64 dimensions or, under L2SQ, more
 * than 256, or under L1, and of a lean one of up to 64 dimensions or under L1. Elsewhere rows
 * decide whether codes and sketches serve (vshard_index_create()), when the graph begins. Where
 * both do, as of words, sentences and descriptors of images, it is the greater number, to 5 %;
 * where neither does, the least; and in between where codes alone do. max_bytes is compared with
 * the greater until the graph begins.
 *
 *   options   as for vshard_index_create()
 *   count     rows, up to VSHARD_ROWS_MAX
 *
 * Returns   0, EINVAL, E2BIG, ENOMEM, EVERSION
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_index_estimate(const struct vshard_index_options *options, uint64_t count,
                                     struct vshard_index_estimate *estimate);

/* Asks the system on which memory nodes the rows of an index lie, with their codes, edges
 * and ids. A search runs fastest on a thread of that node: vshard_cpu_node() says which
 * one a thread is on. It looks at every page.
 *
 *   bytes       [out] uint64 [node_count]: bytes[n] lie on node n, in whole pages. Memory
 *               that nothing was written to lies nowhere yet
 *   node_count  one more than the greatest number of a node
 *
 * Returns   0, EINVAL, E2BIG (something lies on node node_count or above), ENOTSUP (this
 *           system does not tell)
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_node_bytes(struct vshard_index *index, uint64_t *bytes,
                                       size_t node_count);

/* What vshard_index_check() found. */
struct vshard_index_check {
    uint32_t size;        /* bytes in this struct; required */
    uint32_t reserved;    /* 0 */
    uint64_t rows;        /* [out] live rows looked at */
    uint64_t edges;       /* [out] edges looked at */
    uint64_t bad_edges;   /* [out] edges to no row, to itself, or twice to one row */
    uint64_t bad_ids;     /* [out] rows that their id does not lead to */
    uint64_t unreachable; /* [out] live rows that no search can reach */
    uint64_t bad_values;  /* [out] values that no row can have, and keywords that are not had
                             by as many rows as they say */
};

/* Verifies the whole index: the checksums of a mapped file, every edge, the way from
 * every id to its row and back, the values of attributes, and that every live row can be
 * reached.
 *
 *   report    [out] may be NULL
 *
 * Returns   0, EINVAL, ENOMEM, ECORRUPT (a checksum, an edge, an id or a value is wrong).
 *           Unreachable rows are reported, and are no error: they are found by an
 *           exact search, and by fetch. There are none but in files of older libraries
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_check(struct vshard_index *index, struct vshard_index_check *report);

/* A 64-bit hash of the structure: options, codes, vectors, edges, ids, values, free rows,
 * entries, the calibration and the place of the repair. Two indexes made by equal calls have equal
 * digests, on every instruction set and any number of threads.
 *
 *   digest    [out]
 *
 * Returns   0, EINVAL, ENOMEM, ECORRUPT (a mapped file is damaged)
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_digest(struct vshard_index *index, uint64_t *digest);

/* Repairs edges around removed rows and frees them for reuse. When none is left, an eighth of
 * what rows had taken is free, 1,024 of them at least, and the budget is 0 or as many more rows,
 * the others are moved together and memory is given back. Searches go on beside that, and answers
 * of a graph stay what they were.
 *
 *   budget     rows to look at; 0 for as many as it takes
 *   remaining  [out] removed rows still to be repaired; may be NULL
 *
 * Returns   0, EINVAL, ENOMEM, ENOTSUP (a mapped index)
 * Thread    in turn
 * Since     0.1 */
VSHARD_API int vshard_index_maintain(struct vshard_index *index, uint64_t budget,
                                     uint64_t *remaining);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_INDEX_H */
