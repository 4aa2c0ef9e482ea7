/* attribute.h - typed columns beside the vectors of an index, and conditions on them.
 *
 * An index may have up to eight attributes, each a number or a word for every row. They
 * are declared when it is created, come with the rows, and are what a search can be
 * restricted by. One value of each type means that there is none: VSHARD_MISSING, NaN,
 * and the empty keyword. */
#ifndef VSHARD_ATTRIBUTE_H
#define VSHARD_ATTRIBUTE_H

#include <vshard/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ==== 1. Attributes ==================================================== */

enum {                              /* the type of an attribute's values */
       VSHARD_ATTRIBUTE_INT64 = 1,  /* int64_t; VSHARD_MISSING is none */
       VSHARD_ATTRIBUTE_DOUBLE = 2, /* double, infinities too; NaN is none */
       VSHARD_ATTRIBUTE_KEYWORD = 3 /* 1..120 bytes, none of them zero; the empty one is none */
};

#define VSHARD_ATTRIBUTES_MAX     8         /* of one index */
#define VSHARD_ATTRIBUTE_NAME_MAX 59        /* bytes of a name */
#define VSHARD_KEYWORD_MAX        120       /* bytes of a keyword */
#define VSHARD_MISSING            INT64_MIN /* an INT64 that is not there; NumPy's NaT */

/* One attribute. An array element: it will never get another field. */
struct vshard_attribute {
    uint32_t type; /* VSHARD_ATTRIBUTE_* */
    char name[60]; /* 1..59 bytes and zeros; no two of an index are equal */
};

/* Values of one attribute, one for each row of a call, as NumPy has them: int64 [count],
 * float64 [count], or S<width> [count]. The call that adds reads them, the one that
 * fetches writes them. An array element: it will never get another field. */
struct vshard_values {
    void *values; /* int64_t or double [count], or char [count x width], each keyword ended by
                     zeros unless it fills its place; any alignment. NULL: to add, all are
                     missing; to fetch, none are wanted */
    size_t width; /* KEYWORD: bytes of a place, at least 1; of the others 0 or 8 */
};

/* ==== 2. Conditions ==================================================== */

enum {                      /* what a condition says of a row */
       VSHARD_WHERE_EQ = 1, /* the value is the one given */
       VSHARD_WHERE_LT = 2, /* it is less; not for keywords, nor are the next four */
       VSHARD_WHERE_LE = 3,
       VSHARD_WHERE_GT = 4,
       VSHARD_WHERE_GE = 5,
       VSHARD_WHERE_RANGE = 6,   /* it is neither less than the first of two given values nor
                                    greater than the second */
       VSHARD_WHERE_IN = 7,      /* it is one of those given */
       VSHARD_WHERE_MISSING = 8, /* there is none */
       VSHARD_WHERE_AND = 9,     /* the `count` conditions before this one hold, all of them */
       VSHARD_WHERE_OR = 10,     /* at least one of them holds */
       VSHARD_WHERE_NOT = 11     /* the condition before this one does not hold */
};

#define VSHARD_CONDITIONS_MAX  64    /* in one expression */
#define VSHARD_WHERE_BYTES_MAX 65536 /* of an encoded one */

/* One step of an expression in postfix order: operands come before what joins them, and
 * the whole leaves one. A comparison with a missing value does not hold, whatever it is,
 * so NOT of it does. An array element: it will never get another field. */
struct vshard_condition {
    uint32_t op;        /* VSHARD_WHERE_* */
    uint32_t attribute; /* its number, from 0 on, in the order of create; of AND, OR, NOT 0 */
    uint32_t type;      /* VSHARD_ATTRIBUTE_* of it; of AND, OR, NOT 0 */
    uint32_t count;     /* values: 1, of RANGE 2, of IN up to 65535, of MISSING and NOT 0. AND,
                           OR: conditions that are joined, 1..64 */
    uint32_t width;     /* KEYWORD: bytes of each place in `values`, as in vshard_values */
    uint32_t reserved;  /* 0 */
    const void *values; /* int64_t or double [count], no NaN; or char [count x width] */
};

/* Writes an expression as bytes, which is what a search is given (struct vshard_filter)
 * and what may be kept or sent to another machine: they mean the same on each. They are
 * described in vshard_index(3), so that other programs can write them, too.
 *
 *   conditions  [count], borrowed
 *   count       1..64
 *   bytes       [out] [room]; may be NULL if room is 0
 *   used        [out] bytes written, or with E2BIG how many there would be
 *
 * Returns   0, EINVAL (an op, type, count, width or value out of range, a comparison that
 *           keywords do not have, or not one result), E2BIG (more than room, or more than
 *           VSHARD_WHERE_BYTES_MAX)
 * Thread    any
 * Since     0.1 */
VSHARD_API int vshard_where_encode(const struct vshard_condition *conditions, size_t count,
                                   void *bytes, size_t room, size_t *used);

#ifdef __cplusplus
}
#endif
#endif /* VSHARD_ATTRIBUTE_H */
