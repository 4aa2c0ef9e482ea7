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
    size_t wiped_first;      /* bytes that are wiped before it is freed */
    uint32_t first, extents; /* in it; none in that of a table */
};

void vs_column_init(struct vs_column *c, size_t stride)
{
    memset(c, 0, sizeof *c);
    c->stride = stride;
}

void vs_column_free(struct vs_column *c, const struct vshard_allocator *a)
{
    struct vs_block *blocks = c->blocks;

    c->blocks = NULL;
    c->table_cap = 0;
    c->table = NULL;
    c->extents = 0;
    c->heap_bytes = 0;
    for (struct vs_block *b = blocks; b != NULL; b = b->next)
        b->wiped_first = b->bytes;
    vs_blocks_free(blocks, a);
}

void vs_column_fini(struct vs_column *c, const struct vshard_allocator *a)
{
    vs_blocks_free(c->blocks, a);
    memset(c, 0, sizeof *c);
}

void vs_blocks_free(struct vs_block *blocks, const struct vshard_allocator *a)
{
    while (blocks != NULL) {
        struct vs_block *block = blocks;

        blocks = block->next;
        memset(block->memory, 0, block->wiped_first);
        vs_free(a, block->memory, block->bytes);
        vs_free(a, block, sizeof *block);
    }
}

/* Allocates memory that lives as long as the column, or until it is cut. */
static struct vs_block *block_alloc(struct vs_column *c, size_t bytes,
                                    const struct vshard_allocator *a)
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
    block->wiped_first = 0;
    block->first = block->extents = 0;
    block->next = c->blocks;
    c->blocks = block;
    c->heap_bytes += bytes + sizeof *block;
    return block;
}

/* A block for these extents. */
static struct vs_block *extents_alloc(struct vs_column *c, uint32_t first, uint32_t count,
                                      const struct vshard_allocator *a)
{
    struct vs_block *block;
    size_t bytes;

    if (!vs_bytes(&bytes, count, VS_EXTENT_ROWS * c->stride))
        return NULL;
    block = block_alloc(c, bytes, a);
    if (block == NULL)
        return NULL;
    block->first = first;
    block->extents = count;
    return block;
}

/* Lets the table lead to the extents of a block. */
static void lead_to(struct vs_column *c, const struct vs_block *block)
{
    unsigned char *_Atomic *table = atomic_load_explicit(&c->table, memory_order_relaxed);

    for (uint32_t i = 0; i < block->extents; i++)
        atomic_store_explicit(&table[block->first + i],
                              (unsigned char *)block->memory + i * VS_EXTENT_ROWS * c->stride,
                              memory_order_release);
}

static int grow_table(struct vs_column *c, uint32_t extents, const struct vshard_allocator *a)
{
    unsigned char *_Atomic *old = atomic_load_explicit(&c->table, memory_order_relaxed);
    unsigned char *_Atomic *table;
    struct vs_block *block;
    uint32_t cap = c->table_cap ? c->table_cap : TABLE_MIN;

    while (cap < extents)
        cap *= 2;
    if (cap == c->table_cap)
        return VSHARD_OK;
    block = block_alloc(c, cap * sizeof *table, a);
    if (block == NULL)
        return VSHARD_ENOMEM;
    table = block->memory;
    for (uint32_t i = 0; i < cap; i++)
        atomic_init(&table[i], i < c->extents ? atomic_load(&old[i]) : NULL);
    atomic_store_explicit(&c->table, table, memory_order_release);
    c->table_cap = cap;
    return VSHARD_OK;
}

int vs_column_reserve(struct vs_column *c, uint64_t rows, const struct vshard_allocator *a)
{
    uint32_t want = vs_extents_for(rows), spare = c->tight ? 0 : c->extents / GROWTH_SHARE, count;
    struct vs_block *block;

    if (want <= c->extents)
        return VSHARD_OK;
    if (spare > GROWTH_MAX)
        spare = GROWTH_MAX;
    count = want - c->extents > spare ? want - c->extents : spare;
    if (grow_table(c, c->extents + count, a) < 0)
        return VSHARD_ENOMEM;
    block = extents_alloc(c, c->extents, count, a);
    if (block == NULL)
        return VSHARD_ENOMEM;
    lead_to(c, block);
    c->extents += count;
    return VSHARD_OK;
}

/* Puts what stays of a block into one of its own. */
static bool copy_first(struct vs_column *c, struct vs_block *old, uint32_t extents,
                       const struct vshard_allocator *a)
{
    struct vs_block *block = extents_alloc(c, old->first, extents, a);

    if (block == NULL)
        return false;
    memcpy(block->memory, old->memory, block->bytes);
    lead_to(c, block);
    old->wiped_first = block->bytes;
    return true;
}

/* Newer blocks, which come first, have later extents. */
void vs_column_cut(struct vs_column *c, uint64_t rows, const struct vshard_allocator *a,
                   struct vs_block **cut)
{
    uint32_t want = vs_extents_for(rows);
    struct vs_block **at = &c->blocks, *block;

    while ((block = *at) != NULL && c->extents > want) {
        if (block->extents == 0) {
            at = &block->next;
            continue;
        }
        if (block->first < want) {
            if (!copy_first(c, block, want - block->first, a))
                return;
            if (at == &c->blocks)
                at = &c->blocks->next; /* the copy has come before it */
        }
        c->extents = block->first < want ? want : block->first;
        c->heap_bytes -= block->bytes + sizeof *block;
        *at = block->next;
        block->next = *cut;
        *cut = block;
    }
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

int vs_column_own(struct vs_column *c, uint32_t extent, uint32_t rows,
                  const struct vshard_allocator *a)
{
    struct vs_block *block;

    if (grow_table(c, extent + 1, a) < 0)
        return VSHARD_ENOMEM;
    block = extents_alloc(c, extent, 1, a);
    if (block == NULL)
        return VSHARD_ENOMEM;
    memset(block->memory, 0, block->bytes);
    if (rows > 0)
        memcpy(block->memory, vs_column_at(c, extent * VS_EXTENT_ROWS), rows * c->stride);
    lead_to(c, block);
    if (extent >= c->extents)
        c->extents = extent + 1;
    return VSHARD_OK;
}

int vs_column_node_bytes(const struct vs_column *c, uint64_t *bytes, size_t node_count)
{
    int rc = VSHARD_OK;

    for (const struct vs_block *b = c->blocks; rc == VSHARD_OK && b != NULL; b = b->next)
        rc = vs_os_node_bytes(b->memory, b->bytes, bytes, node_count);
    return rc;
}
