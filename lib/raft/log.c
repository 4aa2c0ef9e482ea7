/* log.c - the entries of one group, in memory.
 *
 * Three arrays. `run` knows the term of every index since the last compaction, in
 * one element a term, so that terms never need storage. `bytes` holds the newest
 * entries in the form they have in messages, back to back, so that an append to
 * a replica is one head and one piece of this array. `slot` has an element for
 * each of those entries in the form hosts see, pointing into `bytes`.
 *
 * Both slide: entries leave at the front when they are applied, durable and no
 * longer needed by a slow replica, and enter at the back. When the back reaches
 * the end of the block, what is in use moves to its start; if it fills more than
 * half, the block doubles instead. So each entry is moved at most about once,
 * and nothing is allocated once the blocks have their size.
 *
 * An entry is index, term, session, sequence (8 bytes each, little-endian), data
 * bytes (4), kind (2), zero (2), data, and zeros to a multiple of 8. */
#include "raft/core.h"

int vs_grow_block(const struct vshard_allocator *a, void **block, uint32_t *cap, uint64_t need,
                  size_t each)
{
    uint64_t want = *cap ? *cap : 4;
    size_t bytes;
    void *p;

    while (want < need)
        want *= 2;
    if (want > UINT32_MAX || !vs_bytes(&bytes, (size_t)want, each))
        return VSHARD_ENOMEM;
    p = vs_alloc(a, bytes);
    if (p == NULL)
        return VSHARD_ENOMEM;
    if (*block != NULL)
        memcpy(p, *block, (size_t)*cap * each);
    vs_free(a, *block, (size_t)*cap * each);
    *block = p;
    *cap = (uint32_t)want;
    return VSHARD_OK;
}

/* Gives back what lies behind `need` elements, if there is memory for a smaller block. */
void vs_shrink(const struct vshard_allocator *a, void **block, uint32_t *cap, uint32_t need,
               size_t each)
{
    void *p = NULL;

    if (need == *cap)
        return;
    if (need != 0) {
        p = vs_alloc(a, need * each);
        if (p == NULL)
            return;
        memcpy(p, *block, need * each);
    }
    vs_free(a, *block, (size_t)*cap * each);
    *block = p;
    *cap = need;
}

void vs_log_init(struct vs_log *log, const struct vshard_allocator *a)
{
    memset(log, 0, sizeof *log);
    log->allocator = a;
}

void vs_log_free(struct vs_log *log)
{
    vs_free(log->allocator, log->slot, log->slot_cap * sizeof *log->slot);
    vs_free(log->allocator, log->run, log->run_cap * sizeof *log->run);
    vs_free(log->allocator, log->bytes, log->byte_cap);
    vs_log_init(log, log->allocator);
}

void vs_entry_encode(unsigned char *to, const struct vshard_raft_entry *e)
{
    size_t n = (size_t)e->count, padded = vs_entry_bytes(n) - VS_ENTRY_HEAD;

    vs_store64(to, e->index);
    vs_store64(to + 8, e->term);
    vs_store64(to + 16, e->session);
    vs_store64(to + 24, e->sequence);
    vs_store32(to + 32, (uint32_t)n);
    vs_store32(to + 36, e->kind);
    if (n != 0)
        memcpy(to + VS_ENTRY_HEAD, e->data, n);
    memset(to + VS_ENTRY_HEAD + n, 0, padded - n);
}

size_t vs_entry_decode(struct vshard_raft_entry *e, const unsigned char *p, size_t left)
{
    size_t bytes;

    if (left < VS_ENTRY_HEAD)
        return 0;
    *e = (struct vshard_raft_entry){ .index = vs_load64(p),
                                     .term = vs_load64(p + 8),
                                     .session = vs_load64(p + 16),
                                     .sequence = vs_load64(p + 24),
                                     .count = vs_load32(p + 32),
                                     .kind = vs_load32(p + 36),
                                     .data = p + VS_ENTRY_HEAD };
    if (e->count > VS_ENTRY_MAX || e->kind > VSHARD_RAFT_SESSION)
        return 0;
    bytes = vs_entry_bytes(e->count);
    return bytes <= left ? bytes : 0;
}

static int reserve_slots(struct vs_log *log, uint32_t more)
{
    uint64_t need = (uint64_t)log->slot_count + more;

    if (log->slot_head + need <= log->slot_cap)
        return VSHARD_OK;
    if (need * 2 > log->slot_cap) {
        int rc = vs_grow(log->allocator, (void **)&log->slot, &log->slot_cap, need * 2,
                         sizeof *log->slot);
        if (rc != VSHARD_OK)
            return rc;
    }
    if (log->slot_count != 0)
        memmove(log->slot, log->slot + log->slot_head, log->slot_count * sizeof *log->slot);
    log->slot_head = 0;
    return VSHARD_OK;
}

static void repoint(struct vs_log *log, const unsigned char *was, const unsigned char *is)
{
    for (uint32_t i = 0; i < log->slot_count; i++) {
        struct vshard_raft_entry *e = &log->slot[log->slot_head + i];
        e->data = is + ((const unsigned char *)e->data - was);
    }
}

static int reserve_bytes(struct vs_log *log, size_t more)
{
    size_t used = log->byte_tail - log->byte_head, need = used + more;

    if (log->byte_tail + more <= log->byte_cap)
        return VSHARD_OK;
    if (need * 2 > log->byte_cap) {
        size_t cap = log->byte_cap ? log->byte_cap : 512;
        unsigned char *p;

        while (cap < need * 2)
            cap *= 2;
        p = vs_alloc(log->allocator, cap);
        if (p == NULL)
            return VSHARD_ENOMEM;
        if (used != 0)
            memcpy(p, log->bytes + log->byte_head, used);
        if (log->bytes != NULL)
            repoint(log, log->bytes + log->byte_head, p);
        vs_free(log->allocator, log->bytes, log->byte_cap);
        log->bytes = p;
        log->byte_cap = cap;
    } else {
        memmove(log->bytes, log->bytes + log->byte_head, used);
        repoint(log, log->bytes + log->byte_head, log->bytes);
    }
    log->byte_head = 0;
    log->byte_tail = used;
    return VSHARD_OK;
}

int vs_log_reserve(struct vs_log *log, uint32_t entries, size_t bytes)
{
    int rc = reserve_slots(log, entries);

    if (rc == VSHARD_OK)
        rc = reserve_bytes(log, bytes);
    if (rc == VSHARD_OK)
        rc = vs_grow(log->allocator, (void **)&log->run, &log->run_cap,
                     (uint64_t)log->run_count + entries, sizeof *log->run);
    return rc;
}

static void note_run(struct vs_log *log, uint64_t index, uint64_t term)
{
    if (log->run_count == 0 || log->run[log->run_count - 1].term != term)
        log->run[log->run_count++] = (struct vs_run){ index, term };
}

struct vshard_raft_entry *vs_log_push(struct vs_log *log, const struct vshard_raft_entry *e)
{
    unsigned char *at = log->bytes + log->byte_tail;
    struct vshard_raft_entry *slot = &log->slot[log->slot_head + log->slot_count];

    VS_ASSERT(e->index == log->last + 1);
    VS_ASSERT(log->slot_head + log->slot_count < log->slot_cap);
    VS_ASSERT(log->byte_tail + vs_entry_bytes(e->count) <= log->byte_cap);
    vs_entry_encode(at, e);
    *slot = *e;
    slot->flags = 0;
    slot->reserved = NULL;
    slot->data = at + VS_ENTRY_HEAD;
    log->byte_tail += vs_entry_bytes(e->count);
    log->slot_count++;
    log->last++;
    note_run(log, e->index, e->term);
    return slot;
}

void vs_log_extend(struct vs_log *log, const unsigned char *encoded, size_t bytes, uint32_t count)
{
    unsigned char *at = log->bytes + log->byte_tail;
    struct vshard_raft_entry *slot = &log->slot[log->slot_head + log->slot_count];

    VS_ASSERT(log->slot_head + log->slot_count + count <= log->slot_cap);
    VS_ASSERT(log->byte_tail + bytes <= log->byte_cap);
    memcpy(at, encoded, bytes);
    for (uint32_t i = 0; i < count; i++) {
        at += vs_entry_decode(&slot[i], at, bytes);
        VS_ASSERT(slot[i].index == log->last + 1 + i);
        note_run(log, slot[i].index, slot[i].term);
    }
    log->byte_tail += bytes;
    log->slot_count += count;
    log->last += count;
}

/* Where the bytes of the cached entry `index` begin; for last + 1, where they end. */
static size_t offset_of(const struct vs_log *log, uint64_t index)
{
    uint64_t at = index - vs_log_cached(log);

    if (at == log->slot_count)
        return log->byte_tail;
    return (size_t)((const unsigned char *)log->slot[log->slot_head + at].data - log->bytes) -
           VS_ENTRY_HEAD;
}

void vs_log_cut(struct vs_log *log, uint64_t from)
{
    uint64_t cached = vs_log_cached(log);

    if (from > log->last)
        return;
    VS_ASSERT(from > log->base);
    while (log->run_count != 0 && log->run[log->run_count - 1].first >= from)
        log->run_count--;
    if (TRAP(5)) {
        /* The entries stay in the cache, and the next ones land behind them. */
        log->slot_head += (uint32_t)(log->last - from + 1) < log->slot_count
                              ? (uint32_t)(log->last - from + 1)
                              : log->slot_count;
        log->slot_count -= (uint32_t)(log->last - from + 1) < log->slot_count
                               ? (uint32_t)(log->last - from + 1)
                               : log->slot_count;
    } else if (from <= cached) {
        log->slot_count = 0;
        log->byte_head = log->byte_tail = 0;
        log->slot_head = 0;
    } else {
        log->byte_tail = offset_of(log, from);
        log->slot_count = (uint32_t)(from - cached);
    }
    log->last = from - 1;
}

void vs_log_evict(struct vs_log *log, uint64_t through)
{
    uint64_t cached = vs_log_cached(log);

    if (through < cached)
        return;
    VS_ASSERT(through <= log->last);
    log->byte_head = offset_of(log, through + 1);
    log->slot_head += (uint32_t)(through - cached + 1);
    log->slot_count -= (uint32_t)(through - cached + 1);
    if (log->slot_count == 0)
        log->slot_head = 0, log->byte_head = log->byte_tail = 0;
}

/* Forgets the entries, all of which storage has, and keeps their terms. */
void vs_log_trim(struct vs_log *log)
{
    vs_log_evict(log, log->last);
    vs_shrink(log->allocator, (void **)&log->slot, &log->slot_cap, 0, sizeof *log->slot);
    vs_shrink(log->allocator, (void **)&log->run, &log->run_cap, log->run_count, sizeof *log->run);
    vs_free(log->allocator, log->bytes, log->byte_cap);
    log->bytes = NULL;
    log->byte_cap = 0;
}

void vs_log_compact(struct vs_log *log, uint64_t index)
{
    uint32_t gone = 0;

    if (index <= log->base)
        return;
    VS_ASSERT(index <= log->last);
    log->base_term = vs_log_term(log, index);
    vs_log_evict(log, index);
    while (gone + 1 < log->run_count && log->run[gone + 1].first <= index + 1)
        gone++;
    if (index == log->last)
        gone = log->run_count;
    memmove(log->run, log->run + gone, (log->run_count - gone) * sizeof *log->run);
    log->run_count -= gone;
    log->base = index;
    if (log->run_count != 0 && log->run[0].first <= index)
        log->run[0].first = index + 1;
}

void vs_log_reset(struct vs_log *log, uint64_t index, uint64_t term)
{
    log->base = log->last = index;
    log->base_term = term;
    log->run_count = 0;
    log->slot_head = log->slot_count = 0;
    log->byte_head = log->byte_tail = 0;
}

/* How many runs begin at or before an entry; nearly always all. */
static uint32_t runs_through(const struct vs_log *log, uint64_t index)
{
    uint32_t low = 0, high = log->run_count;

    if (high != 0 && log->run[high - 1].first <= index)
        return high;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (log->run[mid].first <= index)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

uint64_t vs_log_term(const struct vs_log *log, uint64_t index)
{
    uint32_t runs;

    if (index == log->base)
        return log->base_term;
    if (index < log->base || index > log->last)
        return 0;
    runs = runs_through(log, index);
    return runs != 0 ? log->run[runs - 1].term : 0;
}

uint64_t vs_log_back(const struct vs_log *log, uint64_t index, uint64_t term)
{
    uint64_t at = index < log->last ? index : log->last;
    uint32_t low = 0, all = runs_through(log, at), high = all;

    while (low < high) { /* terms rise as indexes do */
        uint32_t mid = low + (high - low) / 2;
        if (log->run[mid].term <= term)
            low = mid + 1;
        else
            high = mid;
    }
    return low < all ? log->run[low].first - 1 : at;
}

struct vshard_raft_entry *vs_log_at(const struct vs_log *log, uint64_t index)
{
    if (index > log->last || index < vs_log_cached(log))
        return NULL;
    return &log->slot[log->slot_head + (index - vs_log_cached(log))];
}

size_t vs_log_span(const struct vs_log *log, uint64_t first, uint64_t last, const void **start)
{
    size_t from = offset_of(log, first);

    *start = log->bytes + from;
    return offset_of(log, last + 1) - from;
}
