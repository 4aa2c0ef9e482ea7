/* groups.c - what the log holds, in memory: groups, runs of entries, segments.
 *
 * A run is a row of consecutive entries that stand in one batch, so an entry is
 * found by one search among its group's runs and one read of one batch. Later
 * records override earlier ones by four rules, which are all there is to the
 * meaning of a log:
 *
 *   an entry i    drops every entry at i and above; if it does not follow the last
 *                 one, or the mark, it drops all the others too
 *   a cut at i    drops every entry at i and above
 *   a mark at i   drops every entry up to i
 *   a reset,      drop everything
 *   a forget
 *
 * The second half of the first rule needs a reason. Segments are removed from the
 * front, and what stands in the rest may refer to what is gone: entries 8, 9 of a
 * group whose 1..7 were in a removed segment, which a mark further on covers. Such
 * entries are dead, or a record that says so comes later. Dropping on a gap makes
 * every suffix of the log mean the same as the whole of it.
 *
 * Nothing here allocates while a record takes effect: the room was made when the
 * record was appended, because a sync that has happened cannot be refused.
 *
 * A segment counts the runs and small states that stand in it. When the count of
 * the first one is zero, nobody needs it. Since only the first is ever removed,
 * cuts, resets and forgets need not be counted: what they undo goes before them. */
#include "wal/groups.h"

/* ---- groups ---- */

static size_t slot_of(const struct vs_wal_index *index, uint64_t id)
{
    return (size_t)vs_mix64(id) & (index->table_cap - 1);
}

struct vs_wal_group *vs_wal_group_find(const struct vs_wal_index *index, uint64_t id)
{
    if (index->table_cap == 0)
        return NULL;
    for (size_t i = slot_of(index, id); index->table[i] != NULL;
         i = (i + 1) & (index->table_cap - 1)) {
        if (index->table[i]->id == id)
            return index->table[i];
    }
    return NULL;
}

static void table_put(struct vs_wal_index *index, struct vs_wal_group *g)
{
    size_t i = slot_of(index, g->id);

    while (index->table[i] != NULL)
        i = (i + 1) & (index->table_cap - 1);
    index->table[i] = g;
}

/* Room for one more group: the list is at most half as long as the table. */
static int group_reserve(struct vs_wal_index *index)
{
    size_t cap = index->group_cap ? index->group_cap * 2 : 16;
    struct vs_wal_group **groups, **table;

    if (index->group_count < index->group_cap)
        return VSHARD_OK;
    groups = vs_alloc(index->allocator, cap * sizeof *groups);
    table = vs_alloc_zeroed(index->allocator, 2 * cap * sizeof *table);
    if (groups == NULL || table == NULL) {
        vs_free(index->allocator, groups, cap * sizeof *groups);
        vs_free(index->allocator, table, 2 * cap * sizeof *table);
        return VSHARD_ENOMEM;
    }
    if (index->group_count > 0)
        memcpy(groups, index->groups, index->group_count * sizeof *groups);
    vs_free(index->allocator, index->groups, index->group_cap * sizeof *groups);
    vs_free(index->allocator, index->table, index->table_cap * sizeof *table);
    index->groups = groups;
    index->group_cap = cap;
    index->table = table;
    index->table_cap = 2 * cap;
    for (size_t i = 0; i < index->group_count; i++)
        table_put(index, groups[i]);
    return VSHARD_OK;
}

int vs_wal_group_make(struct vs_wal_index *index, uint64_t id, struct vs_wal_group **group)
{
    struct vs_wal_group *g = vs_wal_group_find(index, id);

    if (g == NULL) {
        if (group_reserve(index) < 0)
            return VSHARD_ENOMEM;
        g = vs_alloc_zeroed(index->allocator, sizeof *g);
        if (g == NULL)
            return VSHARD_ENOMEM;
        g->id = id;
        index->sorted = index->group_count == 0 ||
                        (index->sorted && index->groups[index->group_count - 1]->id < id);
        index->groups[index->group_count++] = g;
        table_put(index, g);
    }
    *group = g;
    return VSHARD_OK;
}

bool vs_wal_group_held(const struct vs_wal_group *g)
{
    return vs_wal_group_oldest(g) != 0;
}

uint64_t vs_wal_group_last(const struct vs_wal_group *g)
{
    const struct vs_wal_run *run;

    if (g->run_count == 0)
        return g->mark_index;
    run = &g->runs[g->run_from + g->run_count - 1];
    return run->first + run->count - 1;
}

uint64_t vs_wal_group_first(const struct vs_wal_group *g)
{
    return g->run_count > 0 ? g->runs[g->run_from].first : g->mark_index + 1;
}

uint64_t vs_wal_group_last_term(const struct vs_wal_group *g)
{
    return g->run_count > 0 ? g->runs[g->run_from + g->run_count - 1].term : g->mark_term;
}

uint64_t vs_wal_group_oldest(const struct vs_wal_group *g)
{
    uint64_t oldest = UINT64_MAX;

    for (size_t i = 0; i < VS_WAL_REFS; i++) {
        if (g->ref[i] != 0 && g->ref[i] < oldest)
            oldest = g->ref[i];
    }
    /* Copying a group forward moves all its runs at once, so they stand in
     * segments that rise as their indexes do. */
    if (g->run_count > 0 && g->runs[g->run_from].segment < oldest)
        oldest = g->runs[g->run_from].segment;
    return oldest == UINT64_MAX ? 0 : oldest;
}

uint64_t vs_wal_group_bytes(const struct vs_wal_group *g)
{
    return g->bytes + (VS_WAL_REFS + 1) * VS_WAL_RECORD + (g->mark ? g->mark->bytes + 8 : 0) +
           (g->note ? g->note->bytes + 8 : 0);
}

static void sift_down(struct vs_wal_group **heap, size_t at, size_t count)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        struct vs_wal_group *swap = heap[at];

        if (child + 1 < count && heap[child]->id < heap[child + 1]->id)
            child++;
        if (swap->id >= heap[child]->id)
            return;
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* Heapsort: in place and without memory, which qsort() does not promise. */
void vs_wal_index_sort(struct vs_wal_index *index)
{
    if (index->sorted)
        return;
    for (size_t i = index->group_count / 2; i-- > 0;)
        sift_down(index->groups, i, index->group_count);
    for (size_t i = index->group_count; i-- > 1;) {
        struct vs_wal_group *largest = index->groups[0];

        index->groups[0] = index->groups[i];
        index->groups[i] = largest;
        sift_down(index->groups, 0, i);
    }
    index->sorted = 1;
}

/* ---- blobs ---- */

int vs_wal_blob_make(struct vs_wal_index *index, const struct vshard_wal_record *r,
                     struct vs_wal_blob **blob)
{
    size_t bytes = (size_t)r->head_bytes + r->payload_bytes;
    struct vs_wal_blob *b = vs_alloc(index->allocator, sizeof *b + bytes);

    if (b == NULL)
        return VSHARD_ENOMEM;
    b->next = NULL;
    b->bytes = (uint32_t)bytes;
    b->reserved = 0;
    if (r->head_bytes > 0)
        memcpy(b->data, r->head, r->head_bytes);
    if (r->payload_bytes > 0)
        memcpy(b->data + r->head_bytes, r->payload, r->payload_bytes);
    *blob = b;
    return VSHARD_OK;
}

void vs_wal_blob_free(struct vs_wal_index *index, struct vs_wal_blob *blob)
{
    if (blob != NULL)
        vs_free(index->allocator, blob, sizeof *blob + blob->bytes);
}

/* ---- segments ---- */

int vs_wal_segment_reserve(struct vs_wal_index *index)
{
    size_t cap = index->segment_cap ? index->segment_cap * 2 : 16;
    struct vs_wal_segment *s;

    if (index->segment_count < index->segment_cap)
        return VSHARD_OK;
    s = vs_alloc(index->allocator, cap * sizeof *s);
    if (s == NULL)
        return VSHARD_ENOMEM;
    if (index->segment_count > 0)
        memcpy(s, index->segments, index->segment_count * sizeof *s);
    if (index->segments != NULL)
        vs_wipe(index->segments, index->segment_count * sizeof *s);
    vs_free(index->allocator, index->segments, index->segment_cap * sizeof *s);
    index->segments = s;
    index->segment_cap = cap;
    return VSHARD_OK;
}

struct vs_wal_segment *vs_wal_segment_add(struct vs_wal_index *index, uint64_t id)
{
    struct vs_wal_segment *s = &index->segments[index->segment_count];

    VS_ASSERT(index->segment_count < index->segment_cap);
    VS_ASSERT(index->segment_count == 0 || s[-1].id < id);
    memset(s, 0, sizeof *s);
    s->id = id;
    index->segment_count++;
    return s;
}

struct vs_wal_segment *vs_wal_segment_find(const struct vs_wal_index *index, uint64_t id)
{
    size_t low = 0, high = index->segment_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (index->segments[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < index->segment_count && index->segments[low].id == id ? &index->segments[low]
                                                                       : NULL;
}

void vs_wal_segment_drop(struct vs_wal_index *index, size_t at)
{
    struct vs_wal_segment *s = &index->segments[at];

    vs_wipe(&s->key, sizeof s->key);
    index->segment_count--;
    memmove(s, s + 1, (index->segment_count - at) * sizeof *s);
}

static void use(struct vs_wal_index *index, uint64_t segment, int64_t change)
{
    struct vs_wal_segment *s = vs_wal_segment_find(index, segment);

    VS_ASSERT(s != NULL);
    s->live += (uint64_t)change;
}

/* ---- runs ---- */

int vs_wal_run_reserve(struct vs_wal_index *index, struct vs_wal_group *g, uint32_t more)
{
    uint64_t need = (uint64_t)g->run_count + g->pending_runs + g->pending_later + more;
    uint32_t cap = g->run_cap ? g->run_cap : 4;
    struct vs_wal_run *runs;

    if (g->run_from + need <= g->run_cap)
        return VSHARD_OK;
    if (need <= g->run_cap - g->run_cap / 4) { /* a window that slid to the end */
        memmove(g->runs, g->runs + g->run_from, g->run_count * sizeof *runs);
        g->run_from = 0;
        return VSHARD_OK;
    }
    while (cap < need + need / 4) {
        if (cap > UINT32_MAX / 2)
            return VSHARD_ENOMEM;
        cap *= 2;
    }
    runs = vs_alloc(index->allocator, cap * sizeof *runs);
    if (runs == NULL)
        return VSHARD_ENOMEM;
    if (g->run_count > 0)
        memcpy(runs, g->runs + g->run_from, g->run_count * sizeof *runs);
    vs_free(index->allocator, g->runs, g->run_cap * sizeof *runs);
    g->runs = runs;
    g->run_cap = cap;
    g->run_from = 0;
    return VSHARD_OK;
}

struct vs_wal_run *vs_wal_run_find(const struct vs_wal_group *g, uint64_t index)
{
    size_t low = g->run_from, high = low + g->run_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (g->runs[middle].first + g->runs[middle].count <= index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < (size_t)g->run_from + g->run_count && g->runs[low].first <= index ? &g->runs[low]
                                                                                   : NULL;
}

/* Takes `count` entries from a run's bytes, in proportion. */
static void shorten(struct vs_wal_group *g, struct vs_wal_run *run, uint32_t count)
{
    uint32_t bytes = (uint32_t)((uint64_t)run->bytes * count / run->count);

    run->count -= count;
    run->bytes -= bytes;
    g->bytes -= bytes;
}

/* Drops entries at `from` and above. */
static void drop_tail(struct vs_wal_index *index, struct vs_wal_group *g, uint64_t from)
{
    while (g->run_count > 0) {
        struct vs_wal_run *run = &g->runs[g->run_from + g->run_count - 1];

        if (run->first + run->count <= from)
            return;
        if (run->first < from) {
            shorten(g, run, (uint32_t)(run->first + run->count - from));
            return;
        }
        use(index, run->segment, -1);
        g->bytes -= run->bytes;
        g->run_count--;
    }
}

/* Drops entries up to and with `through`. */
static void drop_front(struct vs_wal_index *index, struct vs_wal_group *g, uint64_t through)
{
    while (g->run_count > 0) {
        struct vs_wal_run *run = &g->runs[g->run_from];

        if (run->first > through)
            return;
        if (run->first + run->count - 1 > through) {
            shorten(g, run, (uint32_t)(through + 1 - run->first));
            run->first = through + 1;
            return;
        }
        use(index, run->segment, -1);
        g->bytes -= run->bytes;
        g->run_from++;
        g->run_count--;
    }
    g->run_from = 0;
}

/* From here on this batch may hold an index twice, the first time dead. */
static void note_cut(struct vs_wal_group *g, const struct vs_wal_where *where)
{
    g->cut_segment = where->segment;
    g->cut_sector = where->sector;
}

static void push_run(struct vs_wal_index *index, struct vs_wal_group *g,
                     const struct vs_wal_record *r, const struct vs_wal_where *where)
{
    if (g->run_from + g->run_count == g->run_cap) {
        memmove(g->runs, g->runs + g->run_from, g->run_count * sizeof *g->runs);
        g->run_from = 0;
    }
    VS_ASSERT(g->run_count < g->run_cap);
    g->runs[g->run_from + g->run_count++] = (struct vs_wal_run){ .first = r->index,
                                                                 .term = r->term,
                                                                 .segment = where->segment,
                                                                 .seq = where->seq,
                                                                 .sector = where->sector };
    use(index, where->segment, 1);
}

static void add_entry(struct vs_wal_index *index, struct vs_wal_group *g,
                      const struct vs_wal_record *r, const struct vs_wal_where *where)
{
    uint32_t bytes = (uint32_t)vs_wal_record_bytes(r->bytes);
    struct vs_wal_run *run = NULL;

    if (g->run_count > 0 && r->index != vs_wal_group_last(g) + 1) {
        drop_tail(index, g, r->index);
        if (r->index != vs_wal_group_last(g) + 1)
            drop_tail(index, g, 0);
        note_cut(g, where);
    }
    if (g->run_count > 0)
        run = &g->runs[g->run_from + g->run_count - 1];
    if (run == NULL || run->segment != where->segment || run->sector != where->sector ||
        run->term != r->term) {
        push_run(index, g, r, where);
        run = &g->runs[g->run_from + g->run_count - 1];
    }
    run->count++;
    run->bytes += bytes;
    run->repeated |= g->cut_segment == where->segment && g->cut_sector == where->sector;
    g->bytes += bytes;
}

/* ---- records ---- */

static void refer(struct vs_wal_index *index, struct vs_wal_group *g, int ref, uint64_t segment)
{
    if (g->ref[ref] != 0)
        use(index, g->ref[ref], -1);
    if (segment != 0)
        use(index, segment, 1);
    g->ref[ref] = segment;
}

static void drop_group(struct vs_wal_index *index, struct vs_wal_group *g)
{
    drop_tail(index, g, 0);
    for (int i = 0; i < VS_WAL_REFS; i++)
        refer(index, g, i, 0);
    vs_wal_blob_free(index, g->mark);
    vs_wal_blob_free(index, g->note);
    g->mark = g->note = NULL;
    g->vote_term = g->vote = g->commit = g->mark_index = g->mark_term = 0;
}

void vs_wal_apply(struct vs_wal_index *index, const struct vs_wal_record *r,
                  const struct vs_wal_where *where, struct vs_wal_blob *blob)
{
    struct vs_wal_group *g = vs_wal_group_find(index, r->group);

    VS_ASSERT(g != NULL);
    switch (r->kind) {
    case VSHARD_WAL_ENTRY: add_entry(index, g, r, where); break;
    case VSHARD_WAL_VOTE:
        g->vote_term = r->term;
        g->vote = r->index;
        refer(index, g, VS_WAL_REF_VOTE, where->segment);
        break;
    case VSHARD_WAL_COMMIT:
        g->commit = r->index;
        refer(index, g, VS_WAL_REF_COMMIT, where->segment);
        break;
    case VSHARD_WAL_CUT:
        drop_tail(index, g, r->index);
        note_cut(g, where);
        break;
    case VSHARD_WAL_MARK:
        drop_front(index, g, r->index);
        if (g->run_count == 0) /* what comes next may have been there */
            note_cut(g, where);
        g->mark_index = r->index;
        g->mark_term = r->term;
        vs_wal_blob_free(index, g->mark);
        g->mark = blob;
        refer(index, g, VS_WAL_REF_MARK, where->segment);
        break;
    case VSHARD_WAL_NOTE:
        vs_wal_blob_free(index, g->note);
        g->note = blob;
        refer(index, g, VS_WAL_REF_NOTE, where->segment);
        break;
    case VSHARD_WAL_FORGET: note_cut(g, where); /* fall through */
    default: drop_group(index, g); break;       /* a reset is the first of its group in the batch */
    }
}

void vs_wal_index_fini(struct vs_wal_index *index)
{
    for (size_t i = 0; i < index->group_count; i++) {
        struct vs_wal_group *g = index->groups[i];

        vs_wal_blob_free(index, g->mark);
        vs_wal_blob_free(index, g->note);
        vs_free(index->allocator, g->runs, g->run_cap * sizeof *g->runs);
        vs_free(index->allocator, g, sizeof *g);
    }
    vs_free(index->allocator, index->groups, index->group_cap * sizeof *index->groups);
    vs_free(index->allocator, index->table, index->table_cap * sizeof *index->table);
    if (index->segments != NULL)
        vs_wipe(index->segments, index->segment_cap * sizeof *index->segments);
    vs_free(index->allocator, index->segments, index->segment_cap * sizeof *index->segments);
    memset(index, 0, sizeof *index);
}
