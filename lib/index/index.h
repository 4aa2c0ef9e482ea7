/* index.h - the door of lib/index: what other rooms need beyond <vshard/index.h>. */
#ifndef VS_INDEX_H
#define VS_INDEX_H

#include "base/base.h"

#include <vshard/index.h>

/* Bytes of the keyword that begins here, at most `most` of them. */
static inline uint32_t vs_keyword_length(const char *text, size_t most)
{
    const char *zero = memchr(text, 0, most);

    return (uint32_t)(zero != NULL ? (size_t)(zero - text) : most);
}

/* Whether an index of these attributes would take an expression, for who has none at hand.
 * Returns 0, or EINVAL or EVERSION, and logs why as `event`. */
int vs_where_check(const struct vshard_attribute *schema, uint32_t count, const void *where,
                   size_t bytes, const struct vshard_logger *log, const char *event);

#endif
