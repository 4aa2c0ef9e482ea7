/* column.h - rows of equal size, addressed by slot, that never move.
 *
 * A column is a table of extents of 1,024 rows. Growing it adds extents and never
 * touches those that are there, so a reader's pointer stays good beside a writer;
 * the table itself is replaced when it is full, and the old ones are kept until
 * the end (together they are smaller than the last). When it is cut, what shares a block
 * with rows that go is copied, and readers may use the old bytes until the writer has
 * waited for them. */
#ifndef VS_COLUMN_H
#define VS_COLUMN_H

#include "base/base.h"

#include <stdatomic.h>

enum { VS_EXTENT_SHIFT = 10, VS_EXTENT_ROWS = 1 << VS_EXTENT_SHIFT };

struct vs_block;

struct vs_column {
    unsigned char *_Atomic *_Atomic table; /* [table_cap] first byte of each extent */
    _Atomic size_t stride;                 /* bytes from one row to the next; 0: there are none */
    _Atomic uint32_t extents;              /* extents that have memory */
    uint32_t table_cap;
    bool tight;              /* takes no extents before they are needed */
    struct vs_block *blocks; /* what to free at the end: extents and old tables */
    _Atomic size_t heap_bytes;
};

/* A column as it is now, for loops over many slots. */
struct vs_extents {
    unsigned char *_Atomic *table;
    size_t stride;
};

static inline struct vs_extents vs_column_extents(const struct vs_column *c)
{
    return (struct vs_extents){ atomic_load_explicit(&c->table, memory_order_acquire),
                                atomic_load_explicit(&c->stride, memory_order_relaxed) };
}

static inline void *vs_extents_at(const struct vs_extents *e, uint32_t slot)
{
    unsigned char *extent =
        atomic_load_explicit(&e->table[slot >> VS_EXTENT_SHIFT], memory_order_acquire);

    return extent + (size_t)(slot & (VS_EXTENT_ROWS - 1)) * e->stride;
}

static inline void *vs_column_at(const struct vs_column *c, uint32_t slot)
{
    const struct vs_extents e = vs_column_extents(c);

    return vs_extents_at(&e, slot);
}

static inline uint32_t vs_extents_for(uint64_t rows)
{
    return (uint32_t)((rows + VS_EXTENT_ROWS - 1) >> VS_EXTENT_SHIFT);
}

void vs_column_init(struct vs_column *c, size_t stride);
void vs_column_fini(struct vs_column *c, const struct vshard_allocator *a);

/* Takes all memory from it, wiped, and leaves an empty column; readers may look at its size
 * meanwhile. */
void vs_column_free(struct vs_column *c, const struct vshard_allocator *a);

/* Makes room for slots [0, rows), not zeroed. On failure the column is as it was. */
int vs_column_reserve(struct vs_column *c, uint64_t rows, const struct vshard_allocator *a);

/* Gives back what rows from `rows` on take, which nobody may know any more: puts it into
 * *cut, to be freed when no reader can know it. Without memory for a copy of what must stay,
 * all stays. */
void vs_column_cut(struct vs_column *c, uint64_t rows, const struct vshard_allocator *a,
                   struct vs_block **cut);
void vs_blocks_free(struct vs_block *blocks, const struct vshard_allocator *a);

/* Lays the column over memory that somebody else owns: rows from `bytes` on. */
int vs_column_map(struct vs_column *c, void *bytes, uint64_t rows,
                  const struct vshard_allocator *a);

/* Gives one extent memory of the column's own, zeros but for a copy of the first `rows` rows that
 * it was laid over. An extent that comes next is added. */
int vs_column_own(struct vs_column *c, uint32_t extent, uint32_t rows,
                  const struct vshard_allocator *a);

/* Adds to bytes[n] what the kernel has of the column on memory node n; statuses of
 * vs_os_node_bytes(). */
int vs_column_node_bytes(const struct vs_column *c, uint64_t *bytes, size_t node_count);

#endif
