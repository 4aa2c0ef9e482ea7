/* attribute.h - private to lib/index: the values beside the vectors.
 *
 * Each attribute is a column of int64, whatever its type, so that one comparison serves
 * all: a double is kept as the integer that orders as it does, a keyword as its number
 * (keyword.h). VSHARD_MISSING is a value that is not there, and what free slots hold. */
#ifndef VS_INDEX_ATTRIBUTE_H
#define VS_INDEX_ATTRIBUTE_H

#include "index/keyword.h"

#include <vshard/index.h>

struct vs_attributes {
    struct vshard_attribute schema[VSHARD_ATTRIBUTES_MAX];
    uint32_t count;
    struct vs_column columns[VSHARD_ATTRIBUTES_MAX]; /* int64 */
    struct vs_keywords keywords;
};

/* The values that a call adds. */
struct vs_incoming {
    const struct vshard_values *given; /* NULL: none */
    uint32_t given_count;
    int64_t *keys; /* [rows x attributes] as they will be kept */
    size_t keys_bytes;
    uint32_t rows;
    uint32_t keywords_before; /* cells there were */
    size_t counted;           /* of the keys, how many the keywords know of */
};

int vs_attributes_check(const struct vshard_index_options *o);
void vs_attributes_init(struct vshard_index *x, const struct vshard_index_options *o);
int vs_attributes_reserve(struct vshard_index *x, uint64_t slots);
uint64_t vs_attributes_bytes(const struct vshard_index *x);

/* Verifies what add was given. */
int vs_incoming_read(const struct vshard_index *x, const struct vshard_add_options *options,
                     size_t count, struct vs_incoming *in);

/* Makes keys of the rows that `order` names; keywords may take `room` more bytes. On failure
 * vs_incoming_end() takes back what was done. */
int vs_incoming_begin(struct vshard_index *x, struct vs_incoming *in, const uint32_t *order,
                      uint32_t rows, uint64_t room);
void vs_incoming_end(struct vshard_index *x, struct vs_incoming *in, int status);

/* Puts the values of row `at` of the call into a slot; takes them out of one. */
void vs_attributes_store(struct vshard_index *x, const struct vs_incoming *in, uint32_t at,
                         uint32_t slot);
void vs_attributes_clear(struct vshard_index *x, uint32_t slot);

/* Ends a call that cleared slots: keywords that nobody has any more are gone. */
void vs_attributes_settle(struct vshard_index *x);

/* Counts values that no row can have, and keywords whose values are not as many as they say. */
int vs_attributes_audit(const struct vshard_index *x, uint64_t *bad);

/* A double as an integer that orders as it does; NaN as VSHARD_MISSING. */
int64_t vs_double_key(double v);

#endif
