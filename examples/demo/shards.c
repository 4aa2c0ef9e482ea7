/* shards.c - a set of vectors cut into shards by the ring, one index a shard. */
#include "shards.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "screen.h"

enum { ROWS_AT_ONCE = 1024, MAP_BYTES_MAX = 1 << 20 };

static int says(const char *what, int status)
{
    return failed("%s: %s", what, vshard_strerror(status));
}

/* ---- building ---- */

static int make_map(struct shards *shards, uint32_t count)
{
    const struct vshard_map_options options = { .size = sizeof options };
    int rc = vshard_map_create(&options, &shards->map);

    for (uint32_t s = 0; rc == VSHARD_OK && s < count; s++)
        rc = vshard_map_add(shards->map, s, 1);
    return rc == VSHARD_OK ? 0 : says("the ring", rc);
}

static int make_indexes(struct shards *shards, const struct set *set,
                        const struct shards_plan *plan)
{
    const struct vshard_index_options options = { .size = sizeof options,
                                                  .dim = set->dim,
                                                  .metric = set->metric,
                                                  .element = set->element,
                                                  .seed = plan->seed,
                                                  .executor = plan->executor,
                                                  .storage = plan->storage };

    for (; shards->count < plan->shards; shards->count++) {
        int rc = vshard_index_create(&options, &shards->index[shards->count]);

        if (rc != VSHARD_OK)
            return says("an index", rc);
    }
    return 0;
}

/* A word's key is the hash of its letters; a row without a word is a number. */
static int find_owners(const struct shards *shards, const struct set *set, uint32_t *owners)
{
    struct vshard_key *keys = malloc(set->rows * sizeof *keys);
    int rc = VSHARD_ENOMEM;

    for (size_t i = 0; keys != NULL && i < set->rows; i++) {
        const char *word = set->base_words.count > 0 ? set->base_words.word[i] : NULL;

        keys[i] = word ? vshard_key_hash(word, strlen(word)) : (struct vshard_key){ 0, i };
    }
    if (keys != NULL)
        rc = vshard_map_owner(shards->map, keys, set->rows, owners, NULL);
    free(keys);
    return rc == VSHARD_OK ? 0 : says("the ring", rc);
}

/* Rows on their way to one shard. */
struct batch {
    uint64_t ids[ROWS_AT_ONCE];
    char *vectors;
    size_t count;
};

static int add_batch(struct shards *shards, const struct set *set, uint32_t shard,
                     struct batch *batch)
{
    int rc;

    for (size_t i = 0; i < batch->count; i++)
        memcpy(batch->vectors + i * set->row_bytes, set_row(set, batch->ids[i]), set->row_bytes);
    rc = vshard_index_add(shards->index[shard], batch->ids, batch->vectors, batch->count);
    batch->count = 0;
    return rc == VSHARD_OK ? 0 : says("adding", rc);
}

static int fill_shard(struct shards *shards, const struct set *set, const uint32_t *owners,
                      uint32_t shard, struct batch *batch, struct progress *progress,
                      uint64_t *done)
{
    int rc = 0;

    for (size_t row = 0; rc == 0 && row <= set->rows; row++) {
        if (row < set->rows && owners[row] == shard)
            batch->ids[batch->count++] = row;
        if (batch->count == ROWS_AT_ONCE || (row == set->rows && batch->count > 0)) {
            *done += batch->count;
            rc = add_batch(shards, set, shard, batch);
            progress_show(progress, *done);
            if (stop_wanted())
                rc = STOPPED;
        }
    }
    return rc;
}

static int fill_shards(struct shards *shards, const struct set *set, const uint32_t *owners)
{
    struct batch batch = { .vectors = malloc(ROWS_AT_ONCE * set->row_bytes) };
    struct progress progress;
    uint64_t done = 0;
    int rc = batch.vectors ? 0 : failed("building: %s", strerror(ENOMEM));

    progress_begin(&progress, "build", set->rows);
    for (uint32_t s = 0; rc == 0 && s < shards->count; s++)
        rc = fill_shard(shards, set, owners, s, &batch, &progress, &done);
    progress_end(&progress);
    free(batch.vectors);
    return rc;
}

int shards_build(struct shards *shards, const struct set *set, const struct shards_plan *plan)
{
    uint32_t *owners = malloc(set->rows * sizeof *owners);
    int rc = owners ? 0 : failed("building: %s", strerror(ENOMEM));

    memset(shards, 0, sizeof *shards);
    if (rc == 0)
        rc = make_map(shards, plan->shards);
    if (rc == 0)
        rc = make_indexes(shards, set, plan);
    if (rc == 0)
        rc = find_owners(shards, set, owners);
    if (rc == 0)
        rc = fill_shards(shards, set, owners);
    free(owners);
    return rc;
}

void shards_fini(struct shards *shards)
{
    for (uint32_t s = 0; s < shards->count; s++)
        vshard_index_destroy(shards->index[s]);
    vshard_map_destroy(shards->map);
    memset(shards, 0, sizeof *shards);
}

/* ---- files ---- */

static int save_map(const struct shards *shards, const char *path)
{
    void *bytes = malloc(MAP_BYTES_MAX);
    size_t count = 0;
    int rc = bytes ? vshard_map_encode(shards->map, bytes, MAP_BYTES_MAX, &count) : VSHARD_ENOMEM;

    rc = rc == VSHARD_OK ? store_write(path, bytes, count) : says("the ring", rc);
    free(bytes);
    return rc;
}

static int open_map(struct shards *shards, const char *path)
{
    void *bytes = malloc(MAP_BYTES_MAX);
    size_t count = 0;
    int rc = bytes ? store_read(path, bytes, MAP_BYTES_MAX, &count) : failed("%s: no memory", path);

    if (rc == 0) {
        rc = vshard_map_decode(bytes, count, NULL, &shards->map);
        rc = rc == VSHARD_OK ? 0 : says(path, rc);
    }
    free(bytes);
    return rc;
}

int shards_save(const struct shards *shards, struct store *store)
{
    struct progress progress;
    int rc = 0;

    progress_begin(&progress, "save", shards->count);
    for (uint32_t s = 0; rc == 0 && s < shards->count; s++) {
        const char *path = store_path(store, s);
        int status = vshard_index_save(shards->index[s], path);

        progress_show(&progress, s + 1);
        if (status != VSHARD_OK)
            rc = store_failed(store, path, status);
        else if (stop_wanted())
            rc = STOPPED;
    }
    progress_end(&progress);
    return rc == 0 ? save_map(shards, store_path(store, VSHARD_SHARD_NONE)) : rc;
}

int shards_open(struct shards *shards, struct store *store)
{
    const struct vshard_open_options options = { .size = sizeof options,
                                                 .flags = VSHARD_OPEN_MAPPED,
                                                 .storage = &store->storage };
    struct vshard_map_stats stats = { .size = sizeof stats };

    memset(shards, 0, sizeof *shards);
    if (open_map(shards, store_path(store, VSHARD_SHARD_NONE)) < 0)
        return -1;
    vshard_map_stats(shards->map, &stats);
    for (; shards->count < stats.shards && shards->count < SHARDS_MAX; shards->count++) {
        const char *path = store_path(store, shards->count);
        int status = vshard_index_open(path, &options, &shards->index[shards->count]);

        if (status != VSHARD_OK)
            return store_failed(store, path, status);
    }
    return 0;
}

/* ---- asking ---- */

int asker_init(struct asker *asker)
{
    /* Each row is in one shard and in one version: nothing moves here. */
    const struct vshard_merge_options options = { .size = sizeof options,
                                                  .k = NEAREST,
                                                  .flags = VSHARD_MERGE_SETTLED };
    int rc = VSHARD_OK;

    memset(asker, 0, sizeof *asker);
    for (uint32_t i = 0; rc == VSHARD_OK && i < TOGETHER; i++)
        rc = vshard_merger_create(&options, &asker->mergers[i]);
    return rc == VSHARD_OK ? 0 : says("a merger", rc);
}

void asker_fini(struct asker *asker)
{
    for (uint32_t i = 0; i < TOGETHER; i++)
        vshard_merger_destroy(asker->mergers[i]);
}

/* One shard's answers, each to the merger of its question. */
static int ask_shard(const struct shards *shards, struct asker *asker, uint32_t shard,
                     const struct questions *questions)
{
    const struct vshard_search_options options = { .size = sizeof options,
                                                   .ef_search = questions->ef,
                                                   .flags = questions->flags };
    int rc = vshard_index_search(shards->index[shard], questions->queries, questions->count,
                                 NEAREST, asker->hits, &options);

    for (size_t q = 0; rc == VSHARD_OK && q < questions->count; q++) {
        size_t found =
            vshard_merge_from_index(asker->hits + q * NEAREST, NEAREST, shard, asker->list);

        rc = vshard_merger_push(asker->mergers[q], asker->list, found);
    }
    return rc;
}

int shards_ask(const struct shards *shards, struct asker *asker, const struct questions *questions,
               struct vshard_merge_hit *nearest)
{
    int rc = VSHARD_OK;

    for (size_t q = 0; q < questions->count; q++)
        vshard_merger_reset(asker->mergers[q]);
    for (uint32_t s = 0; rc == VSHARD_OK && s < shards->count; s++)
        rc = ask_shard(shards, asker, s, questions);
    for (size_t q = 0; rc == VSHARD_OK && q < questions->count; q++) {
        struct vshard_merge_hit *own = nearest + q * NEAREST;
        uint32_t found = 0;

        rc = vshard_merger_hits(asker->mergers[q], own, NEAREST, &found);
        memset(own + found, 0, (NEAREST - found) * sizeof *own);
    }
    return rc;
}
