/* keep.c - what a save has yet to write, as it was when the save began.
 *
 * A save begins between two changes, and its file is the index as it is then: one position.
 * From there on changes go beside it. Before a change writes to a row that the save has not
 * taken yet, it puts a copy of the old bytes aside, which the save takes in their place; so
 * nobody reads what is being written.
 *
 *     passed   in each column, the save has taken the slots below
 *     marks    rows whose bytes were put aside: a copy is made once
 *     kept     the copies, in chains, of each extent of each column; freed as it is taken
 *
 * What says whether a row needs to be kept is read without the lock, which is taken to make
 * a copy, and by the save for 64 rows at a time. Rows that came later are not in the file.
 *
 * Copies are bounded: beyond an eighth of what is to be written, a change waits until
 * the save has written some more. If there is no memory for one, the save fails and not
 * the change.
 *
 * What is small is copied whole when the save begins (save.c). Where a column goes away,
 * the change waits for the save to be through (vs_keep_wait). */
#include "index/image.h"

enum {
    KEPT_ONE_IN = 8,     /* bytes that may be put aside, of those to be written */
    KEPT_MIN = 16 << 20, /* and always this many */
    GROUP = 64           /* rows taken at once */
};

struct vs_kept {
    struct vs_kept *next;
    uint64_t slot;
    unsigned char bytes[]; /* [stride] */
};

int vs_keep_init(struct vshard_index *x)
{
    struct vs_lock *locks[] = { &x->keep.turn, &x->keep.lock, &x->keep.gate };

    for (size_t i = 0; i < VS_COUNT(locks); i++) {
        if (vs_lock_init(locks[i]) == VSHARD_OK)
            continue;
        while (i > 0)
            vs_lock_fini(locks[--i]);
        return VSHARD_ENOMEM;
    }
    return VSHARD_OK;
}

void vs_keep_fini(struct vshard_index *x)
{
    vs_lock_fini(&x->keep.gate);
    vs_lock_fini(&x->keep.lock);
    vs_lock_fini(&x->keep.turn);
}

/* ---- the save ---- */

static size_t marks_bytes(const struct vs_keep *k)
{
    return k->columns * k->words * sizeof *k->marks;
}

static size_t chains_bytes(const struct vs_keep *k)
{
    return k->columns * vs_extents_for(k->slots) * sizeof(struct vs_kept *);
}

/* Notes what there is to be taken: no change may be under way, and no other save. On success
 * vs_keep_end() and vs_keep_free() must follow. */
int vs_keep_begin(struct vshard_index *x)
{
    struct vs_keep *k = &x->keep;
    size_t row_bytes = 0;

    k->slots = atomic_load(&x->slot_count);
    k->columns = (uint32_t)vs_image_columns(x);
    k->words = (k->slots + GROUP - 1) / GROUP;
    k->status = VSHARD_OK;
    k->kept_bytes = 0;
    for (uint32_t i = 0; i < k->columns; i++) {
        k->column[i] = vs_image_column(x, (int)i);
        k->stride[i] = vs_image_stride(x, (int)i);
        row_bytes += k->stride[i];
        atomic_store(&k->passed[i], k->stride[i] > 0 ? 0 : UINT32_MAX);
    }
    k->most = row_bytes * k->slots / KEPT_ONE_IN;
    if (k->most < KEPT_MIN)
        k->most = KEPT_MIN;
    if (k->most_set > 0)
        k->most = k->most_set;
    k->marks = vs_alloc_zeroed(x->allocator, marks_bytes(k));
    k->kept = vs_alloc_zeroed(x->allocator, chains_bytes(k));
    if (k->marks == NULL || k->kept == NULL) {
        vs_keep_free(x);
        return VSHARD_ENOMEM;
    }
    vs_lock_take(&k->gate);
    atomic_store_explicit(&k->on, 1, memory_order_release);
    return VSHARD_OK;
}

static uint64_t mark_bit(uint32_t slot)
{
    return 1ull << (slot % GROUP);
}

static _Atomic uint64_t *marks_of(const struct vs_keep *k, uint32_t column, uint32_t slot)
{
    return &k->marks[column * k->words + slot / GROUP];
}

/* A row as files have it. */
static void copy_row(const struct vshard_index *x, uint32_t column, uint32_t slot, void *to)
{
    const struct vs_keep *k = &x->keep;

    if (column == IMAGE_ROWS)
        vs_image_row(x, slot, to);
    else
        memcpy(to, vs_column_at(k->column[column], slot), k->stride[column]);
}

/* Takes the rows of a group that were not kept. */
static void take_group(const struct vshard_index *x, uint32_t column, uint32_t first,
                       uint32_t count, unsigned char *to)
{
    const struct vs_keep *k = &x->keep;
    uint64_t marks = atomic_load_explicit(marks_of(k, column, first), memory_order_relaxed);

    if (marks == 0 && column != IMAGE_ROWS) {
        memcpy(to, vs_column_at(k->column[column], first), count * k->stride[column]);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!(marks >> i & 1))
            copy_row(x, column, first + i, to + i * k->stride[column]);
    }
}

/* Puts what was kept of an extent in its place, or throws it away where that is NULL. */
static void take_kept(struct vshard_index *x, uint32_t column, uint32_t extent, unsigned char *to)
{
    struct vs_keep *k = &x->keep;
    struct vs_kept **chain = &k->kept[column * vs_extents_for(k->slots) + extent], *kept;
    size_t stride = k->stride[column], bytes = sizeof *kept + stride;

    while ((kept = *chain) != NULL) {
        *chain = kept->next;
        if (to != NULL)
            memcpy(to + (kept->slot - extent * VS_EXTENT_ROWS) * stride, kept->bytes, stride);
        vs_free_wiped(x->allocator, kept, bytes);
        k->kept_bytes -= bytes;
    }
}

static uint32_t end_of(const struct vs_keep *k, uint32_t extent)
{
    uint32_t end = (extent + 1) * VS_EXTENT_ROWS;

    return end < k->slots ? end : k->slots;
}

/* The bytes of an extent as it was when the save began. A column's extents are taken in
 * order, each once. Returns 0, or ENOMEM: a row could not be kept. */
int vs_keep_take(struct vshard_index *x, uint32_t column, uint32_t extent, unsigned char *to)
{
    struct vs_keep *k = &x->keep;
    uint32_t first = extent * VS_EXTENT_ROWS, end = end_of(k, extent), count;
    int rc = VSHARD_OK;

    for (uint32_t at = first; rc == VSHARD_OK && at < end; at += count) {
        count = end - at < GROUP ? end - at : GROUP;
        vs_lock_take(&k->lock);
        rc = k->status;
        if (rc == VSHARD_OK)
            take_group(x, column, at, count, to + (at - first) * k->stride[column]);
        atomic_store_explicit(&k->passed[column], at + count, memory_order_release);
        vs_lock_leave(&k->lock);
    }
    vs_lock_take(&k->lock);
    take_kept(x, column, extent, to);
    vs_lock_leave(&k->lock);
    return rc;
}

/* Likewise, where the save does not need the bytes. */
int vs_keep_skip(struct vshard_index *x, uint32_t column, uint32_t extent)
{
    struct vs_keep *k = &x->keep;
    int rc;

    vs_lock_take(&k->lock);
    rc = k->status;
    atomic_store_explicit(&k->passed[column], end_of(k, extent), memory_order_release);
    take_kept(x, column, extent, NULL);
    vs_lock_leave(&k->lock);
    return rc;
}

/* Nothing need be kept any more: all was taken, or the save failed. */
void vs_keep_end(struct vshard_index *x)
{
    vs_lock_take(&x->keep.lock);
    atomic_store(&x->keep.on, 0);
    vs_lock_leave(&x->keep.lock);
    vs_lock_leave(&x->keep.gate);
}

/* Lets changes see whether they need still wait. */
void vs_keep_pause(struct vshard_index *x)
{
    vs_lock_leave(&x->keep.gate);
    vs_lock_take(&x->keep.gate);
}

/* Frees all, after the end, when no change is under way that began before it. */
void vs_keep_free(struct vshard_index *x)
{
    struct vs_keep *k = &x->keep;
    uint32_t chains = k->kept ? k->columns * vs_extents_for(k->slots) : 0;

    for (uint32_t i = 0; i < chains; i++) {
        while (k->kept[i] != NULL) {
            struct vs_kept *kept = k->kept[i];

            k->kept[i] = kept->next;
            vs_free_wiped(x->allocator, kept,
                          sizeof *kept + k->stride[i / vs_extents_for(k->slots)]);
        }
    }
    vs_free(x->allocator, k->kept, chains_bytes(k));
    vs_free(x->allocator, (void *)k->marks, marks_bytes(k));
    k->kept = NULL;
    k->marks = NULL;
}

/* ---- changes ---- */

static bool is_safe(const struct vs_keep *k, uint32_t column, uint32_t slot)
{
    return slot >= k->slots ||
           slot < atomic_load_explicit(&k->passed[column], memory_order_acquire) ||
           (atomic_load_explicit(marks_of(k, column, slot), memory_order_acquire) &
            mark_bit(slot)) != 0;
}

/* Waits until the save has written an extent. */
static void wait_once(struct vs_keep *k)
{
    vs_lock_share(&k->gate);
    vs_lock_leave(&k->gate);
}

static bool has_room(const struct vs_keep *k, size_t bytes)
{
    return k->kept_bytes == 0 || k->kept_bytes + bytes <= k->most;
}

static void put_aside(struct vshard_index *x, uint32_t column, uint32_t slot)
{
    struct vs_keep *k = &x->keep;
    size_t bytes = sizeof(struct vs_kept) + k->stride[column];
    struct vs_kept **chain = &k->kept[column * vs_extents_for(k->slots) + slot / VS_EXTENT_ROWS];
    struct vs_kept *kept = vs_alloc(x->allocator, bytes);

    if (kept == NULL) {
        k->status = VSHARD_ENOMEM;
        atomic_store(&k->on, 0);
        return;
    }
    kept->slot = slot;
    copy_row(x, column, slot, kept->bytes);
    kept->next = *chain;
    *chain = kept;
    k->kept_bytes += bytes;
    atomic_fetch_or_explicit(marks_of(k, column, slot), mark_bit(slot), memory_order_release);
}

/* The save has not taken this row yet, perhaps: keeps it as it is. */
void vs_keep_put(struct vshard_index *x, uint32_t column, uint32_t slot)
{
    struct vs_keep *k = &x->keep;
    bool done = is_safe(k, column, slot);

    while (!done) {
        vs_lock_take(&k->lock);
        done = atomic_load(&k->on) == 0 || is_safe(k, column, slot);
        if (!done && has_room(k, sizeof(struct vs_kept) + k->stride[column])) {
            put_aside(x, column, slot);
            done = true;
        }
        vs_lock_leave(&k->lock);
        if (!done)
            wait_once(k);
    }
}

/* Waits until the save, if there is one, needs no row of the index any more. */
void vs_keep_wait(struct vshard_index *x)
{
    while (atomic_load_explicit(&x->keep.on, memory_order_acquire))
        wait_once(&x->keep);
}
