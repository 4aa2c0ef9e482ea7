/* keymap.h - rows by key, and which requests have been applied: what a shard keeps beside
 * its index. Shared by the files of lib/shard. */
#ifndef VS_SHARD_KEYMAP_H
#define VS_SHARD_KEYMAP_H

#include <stdatomic.h>

#include "shard/shard.h"

/* Searches run beside a step of apply, and look up rows while it changes them: under
 * this, for some hundred nanoseconds at a time. Many read, or one writes. */
struct vs_guard {
    atomic_int readers; /* -1: somebody writes */
    atomic_int wanted;  /* somebody waits to write */
};

void vs_guard_read(struct vs_guard *g);
void vs_guard_read_end(struct vs_guard *g);
void vs_guard_write(struct vs_guard *g);
void vs_guard_write_end(struct vs_guard *g);

enum { VS_ROW_FREE = 0, VS_ROW_LIVE = 1, VS_ROW_TOMBSTONE = 2, VS_ROW_LEAVING = 3 /* of a tail */ };

struct vs_row {
    struct vshard_key key;
    uint64_t version; /* of a free row: the next free row + 1 */
    uint64_t born;    /* what gave the row to its key, and what wrote it last: steps of apply, */
    uint64_t last;    /* or in a tail entries; not state */
    unsigned char *payload;
    uint32_t payload_bytes;
    uint32_t state;
};

/* A row's number is its id in the index. Free rows are taken last in, first out, so that
 * numbers are a function of the calls. */
struct vs_keymap {
    const struct vshard_allocator *allocator;
    struct vs_row *row;
    uint32_t *table; /* row + 1 by key; 0 is empty */
    uint32_t count, cap, mask;
    uint32_t free; /* row + 1 */
    uint64_t live, tombstones;
    uint64_t seed; /* of the hash, so that who does not know it cannot choose keys that are slow */
};

#define VS_NO_ROW UINT32_MAX

void vs_keymap_init(struct vs_keymap *m, const struct vshard_allocator *a, uint64_t seed);
void vs_keymap_fini(struct vs_keymap *m);
/* Room for so many more rows, so that placing them cannot fail. Returns 0, ENOMEM, E2BIG. */
int vs_keymap_reserve(struct vs_keymap *m, uint32_t more);
uint32_t vs_keymap_find(const struct vs_keymap *m, struct vshard_key key);
/* A row for a key that has none; needs room. Its state is live, its version 0. */
uint32_t vs_keymap_place(struct vs_keymap *m, struct vshard_key key);
/* The row is free. */
void vs_keymap_drop(struct vs_keymap *m, uint32_t row);
/* The row that was placed last was never placed: there were `count` rows before. */
void vs_keymap_unplace(struct vs_keymap *m, uint32_t row, uint32_t count);
/* Of rows that were read from a file: puts them into the table, which has room. Returns 0
 * or ECORRUPT (a key twice). */
int vs_keymap_adopt(struct vs_keymap *m, uint32_t row);
uint64_t vs_keymap_digest(const struct vs_keymap *m);

/* The last VS_REQUESTS_KEPT request ids, oldest first in a ring. */
struct vs_requests {
    const struct vshard_allocator *allocator;
    struct vshard_key *ring;   /* [cap] */
    uint32_t *table;           /* place in the ring + 1; 0 is empty; [2 cap] */
    uint32_t count, cap, head; /* head: where the next goes once the ring is full */
    uint32_t reserved;
    uint64_t seed; /* likewise */
};

void vs_requests_fini(struct vs_requests *r);
int vs_requests_reserve(struct vs_requests *r);
bool vs_requests_has(const struct vs_requests *r, struct vshard_key id);
/* Needs room. */
void vs_requests_add(struct vs_requests *r, struct vshard_key id);
/* The i-th, the oldest first. */
struct vshard_key vs_requests_at(const struct vs_requests *r, uint32_t i);
uint64_t vs_requests_digest(const struct vs_requests *r);

/* A shard, or its tail: tail.c. */
struct vs_shard {
    struct vs_shard_plan plan;
    struct vshard_index *index;
    struct vs_keymap map;
    struct vs_requests requests;
    _Atomic uint64_t applied; /* of a tail: staged */
    _Atomic uint64_t step;    /* steps of apply that are complete; not state */
    _Atomic uint64_t rows;    /* that are live; of a tail: with what is below, when that has got
                                 as far; not state */
    uint64_t fenced, repeated;
    struct vs_guard guard; /* of map and requests, for searches and for a tail's staging; other
                              readers run when nothing is applied */
    struct vs_shard *tail; /* NULL: a flat shard, or a tail */

    /* of a tail */
    struct vs_shard *below; /* the shard that it is of; NULL: this is none */
    struct vs_keymap asked; /* request ids of entries in it, as keys */
    uint64_t payload_bytes; /* at most so many */
    _Atomic uint32_t kept;  /* rows, those too that say that one is gone */
    struct vs_guard whole;  /* of all of it, while an entry is staged or rows leave: for fetches */
    atomic_uint searches[2], phase;
    uint64_t leaving; /* rows that were written last up to here go, when no search of the other
                         phase is left; 0: none */
};

/* ---- shard.c ---- */

/* Of a shard that is all zero. */
void vs_shard_init(struct vs_shard *s, const struct vs_shard_plan *plan);

/* ---- apply.c ---- */

/* Rows [first, first + count) of a batch, in one step, all or nothing; into a tail all of them. */
int vs_apply_rows(struct vs_shard *s, const struct vs_batch *b, uint64_t index, uint32_t first,
                  uint32_t count);

/* ---- tail.c ---- */

int vs_tail_create(struct vs_shard *s);
/* What a search of the shard calls before all else, and in the end. */
uint32_t vs_tail_enter(struct vs_shard *tail);
void vs_tail_leave(struct vs_shard *tail, uint32_t phase);

#endif
