/* keyword.c - each different keyword of an index once, under a number. */
#include "index/keyword.h"

enum { CAP_MIN = 64 };

/* Chains: where each begins, and the next of each cell. */
struct vs_keyword_table {
    uint32_t cap; /* a power of two, of chains and of cells */
    uint32_t unused;
    _Atomic uint32_t links[]; /* [2 x cap] first of each chain, then next of each cell */
};

static size_t table_bytes(uint32_t cap)
{
    return sizeof(struct vs_keyword_table) + 2 * (size_t)cap * sizeof(uint32_t);
}

static struct vs_keyword_table *table_of(const struct vs_keywords *k)
{
    return atomic_load_explicit(&k->table, memory_order_acquire);
}

void vs_keywords_init(struct vs_keywords *k)
{
    memset(k, 0, sizeof *k);
    vs_column_init(&k->cells, sizeof(struct vs_keyword));
    k->free_head = k->leaving = VS_KEYWORD_NONE;
}

void vs_keyword_table_free(struct vs_keyword_table *t, const struct vshard_allocator *a)
{
    vs_free(a, t, t ? table_bytes(t->cap) : 0);
}

void vs_keywords_fini(struct vs_keywords *k, const struct vshard_allocator *a)
{
    vs_keyword_table_free(table_of(k), a);
    atomic_store(&k->table, NULL);
    vs_column_fini(&k->cells, a);
}

uint32_t vs_keywords_used(const struct vs_keywords *k)
{
    return atomic_load(&k->count) - atomic_load(&k->free_count);
}

static uint64_t bytes_with(const struct vs_keywords *k, uint64_t count)
{
    uint64_t extents = vs_extents_for(count), cap = atomic_load(&k->cap);

    if (extents < k->cells.extents)
        extents = k->cells.extents;
    if (cap < count)
        cap = cap ? 2 * cap : CAP_MIN;
    return extents * VS_EXTENT_ROWS * sizeof(struct vs_keyword) + cap * 2 * sizeof(uint32_t);
}

uint64_t vs_keywords_bytes(const struct vs_keywords *k)
{
    return bytes_with(k, k->count);
}

uint64_t vs_keywords_bytes_next(const struct vs_keywords *k)
{
    return bytes_with(k, k->free_count > 0 ? k->count : (uint64_t)k->count + 1);
}

/* ---- chains ---- */

static bool is_text(const struct vs_keywords *k, uint32_t number, const char *text, uint32_t length)
{
    const struct vs_keyword *cell = vs_keyword_at(k, number);

    return memcmp(cell->text, text, length) == 0 &&
           (length == VSHARD_KEYWORD_MAX || cell->text[length] == 0);
}

static _Atomic uint32_t *chain_of(struct vs_keyword_table *t, const char *text, uint32_t length)
{
    return &t->links[vs_checksum(text, length, 0) & (t->cap - 1)];
}

static _Atomic uint32_t *next_of(struct vs_keyword_table *t, uint32_t number)
{
    return &t->links[t->cap + number];
}

uint32_t vs_keywords_find(const struct vs_keywords *k, const char *text, uint32_t length)
{
    struct vs_keyword_table *t = table_of(k);
    uint32_t at;

    if (t == NULL)
        return VS_KEYWORD_NONE;
    at = atomic_load_explicit(chain_of(t, text, length), memory_order_acquire);
    while (at != VS_KEYWORD_NONE && !is_text(k, at, text, length))
        at = atomic_load_explicit(next_of(t, at), memory_order_acquire);
    return at;
}

static void chain_in(const struct vs_keywords *k, struct vs_keyword_table *t, uint32_t number)
{
    const char *text = vs_keyword_at(k, number)->text;
    _Atomic uint32_t *chain = chain_of(t, text, vs_keyword_length(text, VSHARD_KEYWORD_MAX));

    atomic_store_explicit(next_of(t, number), atomic_load(chain), memory_order_relaxed);
    atomic_store_explicit(chain, number, memory_order_release);
}

static void chain_out(struct vs_keywords *k, uint32_t number)
{
    struct vs_keyword_table *t = table_of(k);
    const char *text = vs_keyword_at(k, number)->text;
    _Atomic uint32_t *at = chain_of(t, text, vs_keyword_length(text, VSHARD_KEYWORD_MAX));

    while (atomic_load_explicit(at, memory_order_relaxed) != number)
        at = next_of(t, atomic_load_explicit(at, memory_order_relaxed));
    atomic_store_explicit(at, atomic_load(next_of(t, number)), memory_order_release);
}

/* A table with room for `count` cells, in which all that the old one leads to are. */
static struct vs_keyword_table *table_grown(const struct vs_keywords *k, uint32_t count,
                                            const struct vshard_allocator *a)
{
    struct vs_keyword_table *old = table_of(k), *t;
    uint32_t cap = old ? old->cap : CAP_MIN;

    while (cap < count)
        cap *= 2;
    t = vs_alloc(a, table_bytes(cap));
    if (t == NULL)
        return NULL;
    t->cap = cap;
    for (uint64_t i = 0; i < 2 * (uint64_t)cap; i++)
        atomic_init(&t->links[i], VS_KEYWORD_NONE);
    for (uint32_t i = 0; old != NULL && i < old->cap; i++) {
        for (uint32_t at = atomic_load(&old->links[i]); at != VS_KEYWORD_NONE;
             at = atomic_load(next_of(old, at)))
            chain_in(k, t, at);
    }
    return t;
}

/* ---- keywords that come and go ---- */

static int make_room(struct vs_keywords *k, const struct vshard_allocator *a,
                     struct vs_keyword_table **retired)
{
    struct vs_keyword_table *old = table_of(k), *t;
    int rc = vs_column_reserve(&k->cells, (uint64_t)k->count + 1, a);

    if (rc < 0 || (old != NULL && k->count < old->cap))
        return rc;
    t = table_grown(k, k->count + 1, a);
    if (t == NULL)
        return VSHARD_ENOMEM;
    *retired = old;
    atomic_store_explicit(&k->table, t, memory_order_release);
    atomic_store(&k->cap, t->cap);
    return VSHARD_OK;
}

int vs_keywords_add(struct vs_keywords *k, const char *text, uint32_t length,
                    const struct vshard_allocator *a, uint32_t *number,
                    struct vs_keyword_table **retired)
{
    uint32_t at = vs_keywords_find(k, text, length);
    struct vs_keyword *cell;
    int rc = VSHARD_OK;

    *retired = NULL;
    if (at != VS_KEYWORD_NONE) {
        vs_keyword_at(k, at)->refs++;
        *number = at;
        return VSHARD_OK;
    }
    if (k->free_head == VS_KEYWORD_NONE)
        rc = make_room(k, a, retired);
    if (rc < 0)
        return rc;
    at = k->free_head;
    if (at == VS_KEYWORD_NONE) {
        at = k->count++;
    } else {
        k->free_head = (uint32_t)vs_keyword_at(k, at)->refs;
        k->free_count--;
    }
    cell = vs_keyword_at(k, at);
    cell->refs = 1;
    memset(cell->text, 0, sizeof cell->text);
    memcpy(cell->text, text, length);
    chain_in(k, table_of(k), at);
    *number = at;
    return VSHARD_OK;
}

void vs_keywords_drop(struct vs_keywords *k, uint32_t number)
{
    struct vs_keyword *cell = vs_keyword_at(k, number);

    if (--cell->refs > 0)
        return;
    chain_out(k, number);
    cell->refs = k->leaving;
    k->leaving = number;
}

/* The whole chain goes before those that were free: so keywords that were added and are
 * dropped again, the last first, leave no trace. */
void vs_keywords_settle(struct vs_keywords *k, uint32_t count)
{
    uint32_t at = k->leaving, last = VS_KEYWORD_NONE;

    while (at != VS_KEYWORD_NONE) {
        struct vs_keyword *cell = vs_keyword_at(k, at);
        uint32_t next = (uint32_t)cell->refs;

        memset(cell->text, 0, sizeof cell->text);
        cell->refs = VS_KEYWORD_NONE;
        if (at < count) {
            if (last == VS_KEYWORD_NONE)
                k->leaving = at;
            else
                vs_keyword_at(k, last)->refs = at;
            last = at;
            k->free_count++;
        }
        at = next;
    }
    if (last != VS_KEYWORD_NONE) {
        vs_keyword_at(k, last)->refs = k->free_head;
        k->free_head = k->leaving;
    }
    k->leaving = VS_KEYWORD_NONE;
    k->count = count;
}

/* ---- from a file ---- */

static bool padded(const char *text, uint32_t length)
{
    for (uint32_t i = length; i < VSHARD_KEYWORD_MAX; i++) {
        if (text[i] != 0)
            return false;
    }
    return true;
}

static bool free_valid(const struct vs_keywords *k, uint32_t free_cells)
{
    uint32_t at = k->free_head;

    for (uint32_t left = free_cells; left > 0; left--) {
        const struct vs_keyword *cell;

        if (at >= k->count)
            return false;
        cell = vs_keyword_at(k, at);
        if (cell->text[0] != 0 || cell->refs > UINT32_MAX)
            return false;
        at = (uint32_t)cell->refs;
    }
    return at == VS_KEYWORD_NONE && k->free_count == free_cells;
}

int vs_keywords_restore(struct vs_keywords *k, const struct vshard_allocator *a)
{
    struct vs_keyword_table *t;
    uint32_t free_cells = 0;

    if (k->count == 0)
        return free_valid(k, 0) ? VSHARD_OK : VSHARD_ECORRUPT;
    t = table_grown(k, k->count, a);
    if (t == NULL)
        return VSHARD_ENOMEM;
    atomic_store(&k->table, t);
    atomic_store(&k->cap, t->cap);
    for (uint32_t i = 0; i < k->count; i++) {
        const char *text = vs_keyword_at(k, i)->text;
        uint32_t length = vs_keyword_length(text, VSHARD_KEYWORD_MAX);

        if (!padded(text, length))
            return VSHARD_ECORRUPT;
        if (length == 0) {
            free_cells++;
            continue;
        }
        if (vs_keywords_find(k, text, length) != VS_KEYWORD_NONE)
            return VSHARD_ECORRUPT;
        chain_in(k, t, i);
    }
    return free_valid(k, free_cells) ? VSHARD_OK : VSHARD_ECORRUPT;
}
