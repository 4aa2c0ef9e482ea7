/* where.h - private to lib/index: conditions on attributes, as bytes and as they are
 * evaluated. */
#ifndef VS_INDEX_WHERE_H
#define VS_INDEX_WHERE_H

#include "index/attribute.h"

struct vs_scratch;

enum { WHERE_VERSION = 1, WHERE_WORDS = VS_EXTENT_ROWS / 64 };

/* One step of an expression in postfix order. */
struct vs_step {
    uint8_t op, type, attribute;
    uint8_t joined;              /* AND, OR: operands */
    uint32_t count;              /* IN: values */
    const unsigned char *values; /* in the bytes */
    int64_t low, high;           /* the keys between which it holds; IN: those of the least and
                                    of the greatest; high < low: of none */
    const int64_t *set;          /* IN: [count] keys in order */
};

struct vs_where {
    struct vs_step steps[VSHARD_CONDITIONS_MAX];
    uint32_t count;       /* 0: no expression */
    uint32_t value_count; /* of all IN */
    uint32_t comparisons; /* steps that look at a column */
    uint32_t sets;        /* and of them, how many are IN */
};

/* What is wrong with bytes that are no expression. */
struct vs_where_fault {
    const char *what;
    uint64_t value;
    uint64_t limit;
};

/* Reads an expression, which stays in the bytes. EINVAL, EVERSION or E2BIG with a fault. */
int vs_where_read(const void *bytes, size_t count, struct vs_where *w,
                  struct vs_where_fault *fault);

/* Is it about these attributes? EINVAL with a fault. */
int vs_where_suits(const struct vshard_attribute *schema, uint32_t count, const struct vs_where *w,
                   struct vs_where_fault *fault);

/* Turns values into keys, in the scratch of a reader. */
int vs_where_bind(struct vshard_index *x, struct vs_where *w, struct vs_scratch *s);

/* Does it hold for a live row? */
bool vs_where_holds(const struct vshard_index *x, const struct vs_where *w, uint32_t slot);

/* For which rows of an extent does it hold, of those that `live` has a bit for? */
void vs_where_extent(const struct vshard_index *x, const struct vs_where *w, uint32_t extent,
                     const uint64_t live[WHERE_WORDS], uint64_t out[WHERE_WORDS]);

/* Has the first values that vs_where_holds() will look at fetched. */
void vs_where_request(const struct vshard_index *x, const struct vs_where *w, uint32_t slot);

#endif
