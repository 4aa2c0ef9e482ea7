/* track.c - which rows changed since a generation of the index's file was written.
 *
 * A bit for each row of each column, set before the row changes, where a save beside the change
 * would keep it, too (vs_keep). Rows that came later need none. A save takes the bits over when
 * it begins, and new ones take their place; if it fails, they are put together again.
 *
 * Where all rows move there is no telling (vs_track_drop), and the next save is whole.
 *
 * The bits belong to changes, which set them from all strands, and are replaced while no change is
 * under way. The rest belongs to saves, which wait for each other. */
#include "index/track.h"

void vs_track_put(struct vshard_index *x, uint32_t column, uint32_t slot)
{
    struct vs_track *t = &x->track;
    uint64_t bit = 1ull << (slot % 64);
    _Atomic uint64_t *word;

    if (slot >= t->slots)
        return;
    word = &t->touched[column * t->words + slot / 64];
    /* Most rows that are touched were before, and strands would take the line from each other. */
    if ((atomic_load_explicit(word, memory_order_relaxed) & bit) == 0)
        atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

static size_t bits_bytes(const struct vshard_index *x, size_t words)
{
    return (size_t)vs_image_columns(x) * words * sizeof(uint64_t);
}

/* No change may be under way but the caller's. */
void vs_track_drop(struct vshard_index *x)
{
    struct vs_track *t = &x->track;

    if (t->touched == NULL)
        return;
    t->bytes -= bits_bytes(x, t->words);
    vs_free(x->allocator, (void *)t->touched, bits_bytes(x, t->words));
    t->touched = NULL;
}

void vs_track_turn(struct vshard_index *x, struct vs_touched *out)
{
    struct vs_track *t = &x->track;

    *out = (struct vs_touched){ t->touched, t->slots, t->words, t->trained };
    t->slots = atomic_load(&x->slot_count);
    t->words = (t->slots + 63) / 64 + 1;
    t->trained = atomic_load(&x->trained);
    t->touched = vs_alloc_zeroed(x->allocator, bits_bytes(x, t->words));
    if (t->touched != NULL)
        t->bytes += bits_bytes(x, t->words);
}

void vs_touched_free(struct vshard_index *x, struct vs_touched *t)
{
    if (t->bits == NULL)
        return;
    x->track.bytes -= bits_bytes(x, t->words);
    vs_free(x->allocator, (void *)t->bits, bits_bytes(x, t->words));
    t->bits = NULL;
}

void vs_track_turn_back(struct vshard_index *x, const struct vs_touched *old)
{
    struct vs_track *t = &x->track;

    if (t->touched == NULL) /* rows have moved meanwhile, or there was no memory */
        return;
    if (old->bits == NULL) {
        vs_track_drop(x);
        return;
    }
    for (int c = 0; c < vs_image_columns(x); c++) {
        for (size_t i = 0; i < old->words; i++)
            t->touched[(size_t)c * t->words + i] |= old->bits[(size_t)c * old->words + i];
    }
    t->slots = old->slots;
    t->trained = old->trained;
}

/* Bits of a word that begins with `first`, of slots below `end`. */
static uint64_t below(uint32_t first, uint32_t end)
{
    return end <= first ? 0 : end - first < 64 ? (1ull << (end - first)) - 1 : UINT64_MAX;
}

uint64_t vs_touched_word(const struct vs_touched *t, uint32_t column, uint32_t first,
                         uint32_t slots)
{
    uint64_t old = below(first, t->slots), bits = 0;

    if (old != 0)
        bits = t->bits[column * t->words + first / 64] & old;
    return bits | (below(first, slots) & ~old);
}

bool vs_track_is(const struct vshard_index *x, const char *path, const struct vs_generation *g)
{
    const struct vs_track *t = &x->track;

    return t->path != NULL && strcmp(t->path, path) == 0 && t->first == g->first &&
           t->count == g->count && t->digest == g->digest;
}

void vs_track_forget(struct vshard_index *x)
{
    struct vs_track *t = &x->track;

    t->bytes -= t->path_bytes + t->sums_bytes;
    vs_free(x->allocator, t->path, t->path_bytes);
    vs_free(x->allocator, t->sums, t->sums_bytes);
    t->path = NULL;
    t->sums = NULL;
    t->path_bytes = t->sums_bytes = 0;
}

void vs_track_note(struct vshard_index *x, const char *path, const struct vs_generation *g,
                   unsigned char *sums, size_t sums_bytes)
{
    struct vs_track *t = &x->track;

    vs_track_forget(x);
    t->sums = sums;
    t->sums_bytes = sums_bytes;
    t->path_bytes = strlen(path) + 1;
    t->path = vs_alloc(x->allocator, t->path_bytes);
    t->first = g->first;
    t->count = g->count;
    t->digest = g->digest;
    if (t->path == NULL)
        t->path_bytes = 0;
    else
        memcpy(t->path, path, t->path_bytes);
    t->bytes += t->path_bytes + t->sums_bytes;
}

void vs_track_fini(struct vshard_index *x)
{
    vs_track_drop(x);
    vs_track_forget(x);
}
