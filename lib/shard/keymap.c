/* keymap.c - rows by key, in a table of open addressing, and the ids of past requests.
 *
 * Nothing of the tables' layout is part of the state: a digest goes by rows and by the
 * order of requests, so tables may grow at any time. */
#include "shard/keymap.h"

#include "os/os.h"

enum { FIRST = 64 };

/* ---- the guard ---- */

void vs_guard_read(struct vs_guard *g)
{
    for (;;) {
        int readers = atomic_load_explicit(&g->readers, memory_order_relaxed);

        if (readers >= 0 && atomic_load_explicit(&g->wanted, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_weak_explicit(&g->readers, &readers, readers + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return;
        if (readers < 0)
            vs_os_yield();
    }
}

void vs_guard_read_end(struct vs_guard *g)
{
    atomic_fetch_sub_explicit(&g->readers, 1, memory_order_release);
}

void vs_guard_write(struct vs_guard *g)
{
    int none = 0;

    atomic_store_explicit(&g->wanted, 1, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&g->readers, &none, -1, memory_order_acquire,
                                                  memory_order_relaxed)) {
        none = 0;
        vs_os_yield();
    }
    atomic_store_explicit(&g->wanted, 0, memory_order_relaxed);
}

void vs_guard_write_end(struct vs_guard *g)
{
    atomic_store_explicit(&g->readers, 0, memory_order_release);
}

/* ---- rows ---- */

static uint64_t hash(uint64_t seed, struct vshard_key key)
{
    return vs_mix64(key.hi ^ vs_mix64(key.lo ^ seed));
}

static bool same(struct vshard_key a, struct vshard_key b)
{
    return a.hi == b.hi && a.lo == b.lo;
}

void vs_keymap_init(struct vs_keymap *m, const struct vshard_allocator *a, uint64_t seed)
{
    *m = (struct vs_keymap){ .allocator = a, .seed = seed };
}

static size_t table_bytes(const struct vs_keymap *m)
{
    return m->table ? ((size_t)m->mask + 1) * sizeof *m->table : 0;
}

void vs_keymap_fini(struct vs_keymap *m)
{
    for (uint32_t i = 0; i < m->count; i++)
        vs_free(m->allocator, m->row[i].payload, m->row[i].payload_bytes);
    vs_free(m->allocator, m->row, m->cap * sizeof *m->row);
    vs_free(m->allocator, m->table, table_bytes(m));
    vs_keymap_init(m, m->allocator, m->seed);
}

/* `at`: the hash of its key. */
static void table_put(uint32_t *table, uint32_t mask, uint64_t at, uint32_t row)
{
    while (table[at & mask] != 0)
        at++;
    table[at & mask] = row + 1;
}

static int grow_table(struct vs_keymap *m, uint32_t rows)
{
    uint64_t size = m->table ? (uint64_t)m->mask + 1 : FIRST;
    uint32_t *table;

    while (size < 2 * (uint64_t)rows)
        size *= 2;
    if (m->table != NULL && size == (uint64_t)m->mask + 1)
        return VSHARD_OK;
    table = vs_alloc_zeroed(m->allocator, (size_t)size * sizeof *table);
    if (table == NULL)
        return VSHARD_ENOMEM;
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->row[i].state != VS_ROW_FREE)
            table_put(table, (uint32_t)(size - 1), hash(m->seed, m->row[i].key), i);
    }
    vs_free(m->allocator, m->table, table_bytes(m));
    m->table = table;
    m->mask = (uint32_t)(size - 1);
    return VSHARD_OK;
}

static int grow_rows(struct vs_keymap *m, uint32_t rows)
{
    uint32_t cap = m->cap ? m->cap : FIRST;
    struct vs_row *row;

    while (cap < rows)
        cap = cap + cap / 2;
    if (cap == m->cap)
        return VSHARD_OK;
    row = vs_alloc(m->allocator, cap * sizeof *row);
    if (row == NULL)
        return VSHARD_ENOMEM;
    if (m->count != 0)
        memcpy(row, m->row, m->count * sizeof *row);
    vs_free(m->allocator, m->row, m->cap * sizeof *m->row);
    m->row = row;
    m->cap = cap;
    return VSHARD_OK;
}

int vs_keymap_reserve(struct vs_keymap *m, uint32_t more)
{
    uint64_t rows = (uint64_t)m->count + more;
    int rc;

    if (rows > VSHARD_ROWS_MAX / 2) /* so that sizes stay in 32 bits */
        return VSHARD_E2BIG;
    rc = grow_rows(m, (uint32_t)rows);
    return rc == VSHARD_OK ? grow_table(m, (uint32_t)rows) : rc;
}

uint32_t vs_keymap_find(const struct vs_keymap *m, struct vshard_key key)
{
    if (m->table == NULL)
        return VS_NO_ROW;
    for (uint64_t i = hash(m->seed, key);; i++) {
        uint32_t at = m->table[i & m->mask];

        if (at == 0)
            return VS_NO_ROW;
        if (same(m->row[at - 1].key, key))
            return at - 1;
    }
}

uint32_t vs_keymap_place(struct vs_keymap *m, struct vshard_key key)
{
    uint32_t row = m->free != 0 ? m->free - 1 : m->count++;

    if (m->free != 0)
        m->free = (uint32_t)m->row[row].version;
    m->row[row] = (struct vs_row){ .key = key, .state = VS_ROW_LIVE };
    table_put(m->table, m->mask, hash(m->seed, key), row);
    m->live++;
    return row;
}

/* Backward shift: what stood behind a place that is empty now moves up if it may. */
static void table_remove(struct vs_keymap *m, struct vshard_key key, uint32_t row)
{
    uint64_t hole = hash(m->seed, key);

    while (m->table[hole & m->mask] != row + 1)
        hole++;
    for (uint64_t i = hole + 1; m->table[i & m->mask] != 0; i++) {
        uint64_t home = hash(m->seed, m->row[m->table[i & m->mask] - 1].key);

        if (((i - home) & m->mask) < ((i - hole) & m->mask))
            continue;
        m->table[hole & m->mask] = m->table[i & m->mask];
        hole = i;
    }
    m->table[hole & m->mask] = 0;
}

void vs_keymap_drop(struct vs_keymap *m, uint32_t row)
{
    struct vs_row *r = &m->row[row];

    table_remove(m, r->key, row);
    vs_free(m->allocator, r->payload, r->payload_bytes);
    if (r->state == VS_ROW_TOMBSTONE)
        m->tombstones--;
    else
        m->live--;
    *r = (struct vs_row){ .version = m->free, .state = VS_ROW_FREE };
    m->free = row + 1;
}

void vs_keymap_unplace(struct vs_keymap *m, uint32_t row, uint32_t count)
{
    vs_keymap_drop(m, row);
    if (row < count)
        return;
    m->free = (uint32_t)m->row[row].version;
    m->count = row;
}

int vs_keymap_adopt(struct vs_keymap *m, uint32_t row)
{
    struct vs_row *r = &m->row[row];

    if (r->state == VS_ROW_FREE)
        return VSHARD_OK;
    if (vs_keymap_find(m, r->key) != VS_NO_ROW)
        return VSHARD_ECORRUPT;
    table_put(m->table, m->mask, hash(m->seed, r->key), row);
    if (r->state == VS_ROW_TOMBSTONE)
        m->tombstones++;
    else
        m->live++;
    return VSHARD_OK;
}

uint64_t vs_keymap_digest(const struct vs_keymap *m)
{
    uint64_t sum = vs_mix64(m->count) ^ m->free;

    for (uint32_t i = 0; i < m->count; i++) {
        const struct vs_row *r = &m->row[i];
        unsigned char line[32];

        vs_store64(line, r->key.hi);
        vs_store64(line + 8, r->key.lo);
        vs_store64(line + 16, r->version);
        vs_store32(line + 24, r->state);
        vs_store32(line + 28, r->payload_bytes);
        sum = vs_checksum(line, sizeof line, sum);
        if (r->payload_bytes != 0)
            sum = vs_checksum(r->payload, r->payload_bytes, sum);
    }
    return sum;
}

/* ---- requests ---- */

static void requests_free(const struct vs_requests *r)
{
    vs_free(r->allocator, r->ring, r->cap * sizeof *r->ring);
    vs_free(r->allocator, r->table, 2 * (size_t)r->cap * sizeof *r->table);
}

void vs_requests_fini(struct vs_requests *r)
{
    requests_free(r);
    *r = (struct vs_requests){ .allocator = r->allocator, .seed = r->seed };
}

static uint32_t place_of(const struct vs_requests *r, struct vshard_key id)
{
    uint32_t mask = 2 * r->cap - 1;

    for (uint64_t i = hash(r->seed, id);; i++) {
        uint32_t at = r->table[i & mask];

        if (at == 0 || same(r->ring[at - 1], id))
            return (uint32_t)(i & mask);
    }
}

bool vs_requests_has(const struct vs_requests *r, struct vshard_key id)
{
    return r->cap != 0 && r->table[place_of(r, id)] != 0;
}

int vs_requests_reserve(struct vs_requests *r)
{
    struct vs_requests big = *r;

    if (r->count < r->cap || r->cap == VS_REQUESTS_KEPT)
        return VSHARD_OK;
    big.cap = r->cap != 0 ? 4 * r->cap : 256; /* up to the limit: 256 * 4^4 */
    big.ring = vs_alloc(r->allocator, big.cap * sizeof *big.ring);
    big.table = vs_alloc_zeroed(r->allocator, 2 * (size_t)big.cap * sizeof *big.table);
    if (big.ring == NULL || big.table == NULL) {
        requests_free(&big);
        return VSHARD_ENOMEM;
    }
    for (uint32_t i = 0; i < r->count; i++) { /* not full for good, so in order from 0 */
        big.ring[i] = r->ring[i];
        big.table[place_of(&big, r->ring[i])] = i + 1;
    }
    requests_free(r);
    *r = big;
    return VSHARD_OK;
}

static void forget(struct vs_requests *r, struct vshard_key id)
{
    uint32_t mask = 2 * r->cap - 1, hole = place_of(r, id);

    for (uint32_t i = hole + 1; r->table[i & mask] != 0; i++) {
        uint32_t home = (uint32_t)hash(r->seed, r->ring[r->table[i & mask] - 1]);

        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        r->table[hole & mask] = r->table[i & mask];
        hole = i;
    }
    r->table[hole & mask] = 0;
}

void vs_requests_add(struct vs_requests *r, struct vshard_key id)
{
    uint32_t at = r->count;

    if (r->count == r->cap) {
        at = r->head;
        forget(r, r->ring[at]);
        r->head = (r->head + 1) % r->cap;
    } else {
        r->count++;
    }
    r->ring[at] = id;
    r->table[place_of(r, id)] = at + 1;
}

struct vshard_key vs_requests_at(const struct vs_requests *r, uint32_t i)
{
    return r->ring[(r->head + i) % r->cap];
}

uint64_t vs_requests_digest(const struct vs_requests *r)
{
    uint64_t sum = r->count;

    for (uint32_t i = 0; i < r->count; i++) {
        struct vshard_key id = vs_requests_at(r, i);
        unsigned char line[16];

        vs_store64(line, id.hi);
        vs_store64(line + 8, id.lo);
        sum = vs_checksum(line, sizeof line, sum);
    }
    return sum;
}
