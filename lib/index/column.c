/* column.c - rows of equal size, in extents that never move. */
#include "index/column.h"
#include "os/os.h"

/* A call gets all extents it needs in one block, and an eighth of what is there if that
 * is more, so that a large index makes few, large blocks (which can have huge pages). At
 * most an eighth of it is spare, or one extent. */
enum { GROWTH_SHARE = 8, GROWTH_MAX = 64, TABLE_MIN = 16 };

struct vs_block {
    struct vs_block *next;
    void *memory;
    size_t bytes;
};

void vs_column_init(struct vs_column *c, size_t stride)
{
    memset(c, 0, sizeof *c);
    c->stride = stride;
}

void vs_column_free(struct vs_column *c, const struct vshard_allocator *a)
{
    size_t stride = c->stride;
    bool tight = c->tight;

    vs_column_fini(c, a);
    c->stride = stride;
    c->tight = tight;
}

void vs_column_fini(struct vs_column *c, const struct vshard_allocator *a)
{
    while (c->blocks != NULL) {
        struct vs_block *block = c->blocks;

        c->blocks = block->next;
        vs_free(a, block->memory, block->bytes);
        vs_free(a, block, sizeof *block);
    }
    memset(c, 0, sizeof *c);
}

/* Allocates memory that lives as long as the column. */
static void *block_alloc(struct vs_column *c, size_t bytes, const struct vshard_allocator *a)
{
    struct vs_block *block = vs_alloc(a, sizeof *block);

    if (block == NULL)
        return NULL;
    block->memory = vs_alloc(a, bytes);
    if (block->memory == NULL) {
        vs_free(a, block, sizeof *block);
        return NULL;
    }
    block->bytes = bytes;
    block->next = c->blocks;
    c->blocks = block;
    c->heap_bytes += bytes + sizeof *block;
    return block->memory;
}

static int grow_table(struct vs_column *c, uint32_t extents, const struct vshard_allocator *a)
{
    unsigned char *_Atomic *old = atomic_load_explicit(&c->table, memory_order_relaxed);
    unsigned char *_Atomic *table;
    uint32_t cap = c->table_cap ? c->table_cap : TABLE_MIN;

    while (cap < extents)
        cap *= 2;
    if (cap == c->table_cap)
        return VSHARD_OK;
    table = block_alloc(c, cap * sizeof *table, a);
    if (table == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < cap; i++)
        atomic_init(&table[i], i < c->extents ? atomic_load(&old[i]) : NULL);
    atomic_store_explicit(&c->table, table, memory_order_release);
    c->table_cap = cap;
    return VSHARD_OK;
}

int vs_column_reserve(struct vs_column *c, uint64_t rows, const struct vshard_allocator *a)
{
    uint32_t want = vs_extents_for(rows), spare = c->tight ? 0 : c->extents / GROWTH_SHARE, count;
    size_t extent_bytes = VS_EXTENT_ROWS * c->stride, bytes;
    unsigned char *_Atomic *table;
    unsigned char *memory;

    if (want <= c->extents)
        return VSHARD_OK;
    if (spare > GROWTH_MAX)
        spare = GROWTH_MAX;
    count = want - c->extents > spare ? want - c->extents : spare;
    if (grow_table(c, c->extents + count, a) < 0 || !vs_bytes(&bytes, count, extent_bytes))
        return VSHARD_ENOMEM;
    memory = block_alloc(c, bytes, a);
    if (memory == NULL)
        return VSHARD_ENOMEM;
    table = atomic_load_explicit(&c->table, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&table[c->extents + i], memory + i * extent_bytes,
                              memory_order_relaxed);
    c->extents += count;
    return VSHARD_OK;
}

int vs_column_map(struct vs_column *c, void *bytes, uint64_t rows, const struct vshard_allocator *a)
{
    uint32_t want = vs_extents_for(rows);
    int rc = grow_table(c, want, a);

    if (rc == VSHARD_OK) {
        unsigned char *_Atomic *table = atomic_load_explicit(&c->table, memory_order_relaxed);

        for (uint32_t i = 0; i < want; i++)
            atomic_store_explicit(&table[i],
                                  (unsigned char *)bytes + i * VS_EXTENT_ROWS * c->stride,
                                  memory_order_relaxed);
        c->extents = want;
    }
    return rc;
}

int vs_column_node_bytes(const struct vs_column *c, uint64_t *bytes, size_t node_count)
{
    int rc = VSHARD_OK;

    for (const struct vs_block *b = c->blocks; rc == VSHARD_OK && b != NULL; b = b->next)
        rc = vs_os_node_bytes(b->memory, b->bytes, bytes, node_count);
    return rc;
}
