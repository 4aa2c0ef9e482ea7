/* shards.h - a set of vectors cut into shards by the ring, one index a shard. */
#ifndef DEMO_SHARDS_H
#define DEMO_SHARDS_H

#include <stddef.h>
#include <stdint.h>

#include <vshard.h>

#include "set.h"
#include "store.h"

enum { SHARDS_MAX = 64, NEAREST = 10, TOGETHER = 16, STOPPED = -2 };

struct shards {
    struct vshard_map *map;
    struct vshard_index *index[SHARDS_MAX];
    uint32_t count;
};

/* What building needs to know. */
struct shards_plan {
    uint32_t shards;
    uint64_t seed;
    const struct vshard_executor *executor;
    const struct vshard_storage *storage;
};

/* These return 0, or -1 after saying why not, or STOPPED when the user wants to. */

/* Asks the ring for the owner of every row, and adds it there. */
int shards_build(struct shards *shards, const struct set *set, const struct shards_plan *plan);

/* Writes every shard and the map. */
int shards_save(const struct shards *shards, struct store *store);

/* Reads the map and maps the shards. */
int shards_open(struct shards *shards, struct store *store);

void shards_fini(struct shards *shards);

/* What one thread needs to ask up to TOGETHER questions at once. */
struct asker {
    struct vshard_merger *mergers[TOGETHER]; /* one a question */
    struct vshard_hit hits[TOGETHER * NEAREST];
    struct vshard_merge_hit list[NEAREST];
};

int asker_init(struct asker *asker);
void asker_fini(struct asker *asker);

/* Questions that go to the shards together. */
struct questions {
    const void *queries; /* [count x dim] */
    size_t count;        /* at most TOGETHER */
    uint32_t ef;
    uint32_t flags; /* VSHARD_SEARCH_* */
};

/* Asks each shard for its nearest and merges them: key.lo is the row, `shard` who
 * answered. For each question it writes NEAREST hits, or as many as there are rows and
 * then zeros. Returns a status of the library. Any number of askers may ask at once. */
int shards_ask(const struct shards *shards, struct asker *asker, const struct questions *questions,
               struct vshard_merge_hit *nearest);

/* Whether the user wants us to stop, or has left. */
int stop_wanted(void);

#endif
