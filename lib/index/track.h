/* track.h - private to lib/index: what changed since a file was written, for saves. */
#ifndef VS_INDEX_TRACK_H
#define VS_INDEX_TRACK_H

#include "index/generation.h"

/* What changed until a save began. */
struct vs_touched {
    _Atomic uint64_t *bits; /* [columns x words]; NULL: that is not known */
    uint32_t slots;         /* later ones are all new */
    size_t words;
    uint32_t trained;
};

/* Hands over what changed since the last time, and begins anew, if there is memory. To be
 * called while no change is under way. */
void vs_track_turn(struct vshard_index *x, struct vs_touched *out);

/* The save has failed, so what changed then changed now: while no change is under way. */
void vs_track_turn_back(struct vshard_index *x, const struct vs_touched *t);
void vs_touched_free(struct vshard_index *x, struct vs_touched *t);

/* Rows that changed in 64 slots, from `first` on, of `slots` that there are. */
uint64_t vs_touched_word(const struct vs_touched *t, uint32_t column, uint32_t first,
                         uint32_t slots);

/* Is this generation, at this path, the last one that was saved or opened? */
bool vs_track_is(const struct vshard_index *x, const char *path, const struct vs_generation *g);

/* From now on it is. The sums, of the allocator, are taken over. Without memory there is none. */
void vs_track_note(struct vshard_index *x, const char *path, const struct vs_generation *g,
                   unsigned char *sums, size_t sums_bytes);
void vs_track_forget(struct vshard_index *x);

#endif
