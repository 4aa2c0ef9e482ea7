/* keyword.h - each different keyword of an index once, under a number.
 *
 * A hash table of chains. Readers look keywords up beside the writer, without a lock: a
 * keyword is whole before a chain leads to it; one that no row has any more leaves its
 * chain at once, but keeps its bytes and its number until no reader can be looking at it
 * (vs_keywords_settle). Numbers are taken in an order that depends only on the calls, as
 * slots are (slots.c): last freed, first used. */
#ifndef VS_KEYWORD_H
#define VS_KEYWORD_H

#include "index/column.h"
#include "index/index.h"

#include <vshard/attribute.h>

#define VS_KEYWORD_NONE 0xffffffffu

/* One keyword. A free one has no text. */
struct vs_keyword {
    uint64_t refs;                 /* values that are this keyword; of a free one, the next of
                                      the chain of free ones, or VS_KEYWORD_NONE */
    char text[VSHARD_KEYWORD_MAX]; /* zeros behind it */
};

struct vs_keyword_table;

struct vs_keywords {
    struct vs_column cells; /* struct vs_keyword */
    struct vs_keyword_table *_Atomic table;
    _Atomic uint32_t cap;   /* of the table */
    _Atomic uint32_t count; /* cells in use or free */
    _Atomic uint32_t free_count;
    uint32_t free_head;
    uint32_t leaving; /* chain of those that left the table since the last settling */
};

static inline struct vs_keyword *vs_keyword_at(const struct vs_keywords *k, uint32_t number)
{
    return vs_column_at(&k->cells, number);
}

void vs_keywords_init(struct vs_keywords *k);
void vs_keywords_fini(struct vs_keywords *k, const struct vshard_allocator *a);

/* The number of a keyword of 1 to VSHARD_KEYWORD_MAX bytes, or VS_KEYWORD_NONE. */
uint32_t vs_keywords_find(const struct vs_keywords *k, const char *text, uint32_t length);

/* Different keywords that rows have. */
uint32_t vs_keywords_used(const struct vs_keywords *k);

/* Bytes that the keywords take, and would take if there were one more. */
uint64_t vs_keywords_bytes(const struct vs_keywords *k);
uint64_t vs_keywords_bytes_next(const struct vs_keywords *k);

/* Counts one more value that is this keyword. ENOMEM leaves all as it was; `retired` is
 * a table that was outgrown, which the caller frees when no reader can see it. */
int vs_keywords_add(struct vs_keywords *k, const char *text, uint32_t length,
                    const struct vshard_allocator *a, uint32_t *number,
                    struct vs_keyword_table **retired);

/* One value less. */
void vs_keywords_drop(struct vs_keywords *k, uint32_t number);

/* Wipes and frees those that left, when no reader can see them: `count` cells stay, and
 * those behind are as if they had never been. */
void vs_keywords_settle(struct vs_keywords *k, uint32_t count);

void vs_keyword_table_free(struct vs_keyword_table *t, const struct vshard_allocator *a);

/* Makes the table of cells that were read from a file. ECORRUPT if they are not what
 * this file writes: a text twice, a chain of free ones that is none. */
int vs_keywords_restore(struct vs_keywords *k, const struct vshard_allocator *a);

#endif
