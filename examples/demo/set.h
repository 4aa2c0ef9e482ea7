/* set.h - the vectors of the demo: a base, questions, and names for both. */
#ifndef DEMO_SET_H
#define DEMO_SET_H

#include <stddef.h>
#include <stdint.h>

/* One word a line. */
struct words {
    char *text;
    const char **word; /* [count] */
    size_t count;
};

struct set {
    uint32_t metric;  /* VSHARD_METRIC_* */
    uint32_t element; /* VSHARD_ELEMENT_* */
    uint32_t dim;
    size_t row_bytes;
    size_t rows, queries;
    void *base_data;                      /* element [rows x dim] */
    void *query_data;                     /* element [queries x dim] */
    struct words base_words, query_words; /* no words where there is no such file */
};

/* What a set is compared by when nobody says; -1 if that cannot be known. */
int set_metric(const char *name);

/* Reads NAME.base.npy, NAME.query.npy and, where they are, NAME.base.words.txt and
 * NAME.query.words.txt; at most rows_max of the base unless that is 0. Returns 0, or
 * -1 after saying why not; set_free() releases it either way. */
int set_read(struct set *set, const char *folder, const char *name, size_t rows_max);

void set_free(struct set *set);

static inline const void *set_row(const struct set *set, size_t row)
{
    return (const char *)set->base_data + row * set->row_bytes;
}

static inline const void *set_query(const struct set *set, size_t query)
{
    return (const char *)set->query_data + query * set->row_bytes;
}

/* The word of a row or query, or "#12" written to `text`. */
const char *set_name(const struct words *words, size_t row, char text[32]);

#endif
