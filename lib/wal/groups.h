/* groups.h - what the log holds, in memory. Private to this room.
 *
 * For each group its small state and the places of its live entries; for each
 * segment how much of it is still needed. Filled by recovery, kept up to date by
 * each batch that becomes durable, and the answer to two questions: where is entry
 * i of group g, and which files can go. */
#ifndef VS_WAL_GROUPS_H
#define VS_WAL_GROUPS_H

#include "wal/format.h"

#include <vshard/wal.h>

/* A payload that outlives its batch: of a mark or a note. */
struct vs_wal_blob {
    struct vs_wal_blob *next;
    uint32_t bytes;
    uint32_t reserved;
    unsigned char data[];
};

/* Consecutive entries of one term that stand in one batch. */
struct vs_wal_run {
    uint64_t first;
    uint64_t term;
    uint64_t segment;
    uint64_t seq;    /* the batch's number, by which it is known when it is read */
    uint32_t sector; /* of the batch, in its segment */
    uint32_t count;
    uint32_t bytes;    /* of records, about */
    uint32_t repeated; /* 1: the batch may hold an index of this run more than once */
};

enum { VS_WAL_REF_VOTE, VS_WAL_REF_COMMIT, VS_WAL_REF_MARK, VS_WAL_REF_NOTE, VS_WAL_REFS };

struct vs_wal_group {
    uint64_t id;
    uint64_t ref[VS_WAL_REFS]; /* the segment in which each stands; 0: there is none */
    uint64_t vote_term, vote;
    uint64_t commit;
    uint64_t mark_index, mark_term;
    struct vs_wal_blob *mark, *note;
    struct vs_wal_run *runs; /* [run_cap]; live from run_from, by rising index */
    uint32_t run_from, run_count, run_cap;
    uint32_t pending_runs;  /* that batches up to this one, not yet durable, may add, at most, */
    uint64_t pending_until;
    uint64_t pending_later; /* and the batches after it */
    uint64_t bytes;         /* of live entries, about */
    uint64_t pending_seq;   /* the last batch with a record of it */
    uint64_t pending_vote;  /* the last batch with a vote of it */
    uint64_t pending_batch; /* the last batch with an entry of it, */
    uint64_t pending_next;  /* the entry that would continue the run there, */
    uint64_t pending_term;  /* and of which term */
    uint64_t ordered_until; /* votes may not overtake this batch */
    uint64_t lowest;        /* replay.c: the lowest entry in the rest of a batch */
    uint64_t cut_segment;   /* the batch in which entries were last dropped */
    uint32_t cut_sector;
    uint32_t reserved;
};

struct vs_wal_segment {
    uint64_t id;
    struct vs_wal_point before; /* the batches before its first one */
    uint64_t end;               /* of its whole batches, bytes */
    uint64_t live;              /* runs and states that stand in it */
    struct vs_wal_key key;
};

struct vs_wal_index {
    const struct vshard_allocator *allocator;
    struct vs_wal_group **groups; /* [group_cap], of which group_count are set */
    struct vs_wal_group **table;  /* [table_cap], by hash; a power of two */
    size_t group_count, group_cap, table_cap;
    uint32_t sorted; /* groups are by rising id */
    uint32_t reserved;
    struct vs_wal_segment *segments; /* [segment_cap], by rising id */
    size_t segment_count, segment_cap;
};

/* Where a record stands. */
struct vs_wal_where {
    uint64_t segment;
    uint64_t seq; /* of the batch */
    uint32_t sector;
};

void vs_wal_index_fini(struct vs_wal_index *index);

struct vs_wal_group *vs_wal_group_find(const struct vs_wal_index *index, uint64_t id);
/* Finds it or makes it. Returns 0 or ENOMEM. */
int vs_wal_group_make(struct vs_wal_index *index, uint64_t id, struct vs_wal_group **group);
/* Whether anything stands in the log for it. */
bool vs_wal_group_held(const struct vs_wal_group *g);
uint64_t vs_wal_group_first(const struct vs_wal_group *g);
uint64_t vs_wal_group_last(const struct vs_wal_group *g);
uint64_t vs_wal_group_last_term(const struct vs_wal_group *g);
/* The oldest segment it needs; 0 when it needs none. */
uint64_t vs_wal_group_oldest(const struct vs_wal_group *g);
/* Bytes of records that hold all of it. */
uint64_t vs_wal_group_bytes(const struct vs_wal_group *g);
/* The run that holds an entry, or NULL. */
struct vs_wal_run *vs_wal_run_find(const struct vs_wal_group *g, uint64_t index);
/* Puts the groups in order of their ids. */
void vs_wal_index_sort(struct vs_wal_index *index);

/* Room for `more` runs beyond those that are pending. Returns 0 or ENOMEM. */
int vs_wal_run_reserve(struct vs_wal_index *index, struct vs_wal_group *g, uint32_t more);
int vs_wal_blob_make(struct vs_wal_index *index, const struct vshard_wal_record *r,
                     struct vs_wal_blob **blob);
void vs_wal_blob_free(struct vs_wal_index *index, struct vs_wal_blob *blob);

/* Room for one more. Returns 0 or ENOMEM. */
int vs_wal_segment_reserve(struct vs_wal_index *index);
/* Adds one that has room, with the highest id. */
struct vs_wal_segment *vs_wal_segment_add(struct vs_wal_index *index, uint64_t id);
struct vs_wal_segment *vs_wal_segment_find(const struct vs_wal_index *index, uint64_t id);
/* Forgets the first or any other. */
void vs_wal_segment_drop(struct vs_wal_index *index, size_t at);

/* Lets a record take effect. The group exists, a run has room, and a mark or note
 * comes with its blob, which the index takes; so this cannot fail. */
void vs_wal_apply(struct vs_wal_index *index, const struct vs_wal_record *r,
                  const struct vs_wal_where *where, struct vs_wal_blob *blob);

#endif
