/* merge.c - sorted hit lists into one, in one go or as they arrive.
 *
 * What the answer is, vshard/merge.h says: of each key the newest version, of
 * the survivors the k nearest. Two things make this harder than it looks.
 *
 * A newer version may be farther. It kills an older hit that is among the k, and
 * then the (k+1)-th is in the answer after all. And a hit far outside of the k
 * may kill one that comes later and is near. So no hit can be thrown away before
 * the end: a merger keeps all it was given, up to hit_max, and the running
 * selection (select.c), which throws away, is only a guess.
 *
 * That guess can be proven right in one pass over the hits: select.c says why. It
 * selects SPARE more than are wanted, the pass finds which of the selected have a
 * newer version anywhere, and if enough others remain, they are the answer.
 *
 * When they do not, the answer is computed from all hits: a table finds the
 * survivor of each key, the others are dropped, and the selection runs again. No
 * key is left twice, so its answer needs no proof. Hits that are dropped so were
 * beaten by a hit that stays, so they could not have mattered later either.
 *
 * The bound. Let B be a number, and let shards leave out hits farther than B.
 *
 *   - If no key has two versions (SETTLED), and B is a running k-th distance, the
 *     answer does not change. B is reached when k different keys have a hit within
 *     B. Whatever comes later, their survivors are within B too, as more hits of
 *     the same version only bring a key nearer. So there are always k survivors
 *     before any hit that was left out.
 *   - If keys may have two versions, no finite B is sound. Let x, version 1, be in
 *     the answer. A shard that leaves out x, version 2, at any distance above B,
 *     leaves the dead version in the answer. So the bound is infinite.
 *   - If the caller drops the stale hits itself (CHECKED), any B does, in this
 *     sense: of what remains, the hits within B are exactly the nearest survivors
 *     there are. For all hits within B were pushed. Each survivor within B was
 *     pushed, survives among what was pushed, and is in the answer unless k
 *     nearer hits are; and a hit that remains after dropping is a survivor. */
#include "merge/select.h"

#include <math.h>

enum {
    FLAGS = VSHARD_MERGE_SETTLED | VSHARD_MERGE_CHECKED,
    LISTS_DEFAULT = 64, /* lists of k that a merger has room for by default */
    SPARE = 8,          /* selected beyond k, in case some are dead */
    STACK_BYTES = 8192  /* scratch of vshard_merge(): k up to 32 */
};

struct vshard_merger {
    struct vshard_allocator own_allocator;
    const struct vshard_allocator *allocator; /* NULL: the C library's heap */
    struct vshard_logger log;
    struct vs_select select;
    void *select_memory;
    struct vshard_merge_hit *hits; /* [hit_max]; NULL when settled */
    uint32_t *table;               /* [table_mask + 1] hit + 1 by key, 0 is empty */
    uint32_t table_mask;
    uint32_t hit_count;
    uint32_t hit_max;
    uint32_t k;
    uint32_t flags;
};

static int refuse(const struct vshard_logger *log, int status, const char *argument, int64_t value,
                  int64_t limit)
{
    return vs_refuse(log, status, "merge.refused", argument, value, limit);
}

static int read_options(struct vshard_merge_options *o, const struct vshard_merge_options *theirs)
{
    int rc =
        vs_options_read(o, sizeof *o, theirs, VS_SIZE_THROUGH(struct vshard_merge_options, logger));

    if (rc < 0)
        return rc;
    if (o->k == 0)
        return refuse(o->logger, VSHARD_EINVAL, "k", 0, 1);
    if (o->k > VSHARD_MERGE_K_MAX)
        return refuse(o->logger, VSHARD_E2BIG, "k", o->k, VSHARD_MERGE_K_MAX);
    if ((o->flags & ~(uint32_t)FLAGS) != 0 || o->flags == FLAGS)
        return refuse(o->logger, VSHARD_EINVAL, "flags", o->flags, FLAGS);
    if (o->hit_max > VSHARD_MERGE_HITS_MAX)
        return refuse(o->logger, VSHARD_E2BIG, "hit_max", o->hit_max, VSHARD_MERGE_HITS_MAX);
    if (o->allocator != NULL && o->allocator->resize == NULL)
        return refuse(o->logger, VSHARD_EINVAL, "allocator", 0, 0);
    if (o->hit_max == 0)
        o->hit_max = LISTS_DEFAULT * o->k;
    return VSHARD_OK;
}

/* How many are selected, and how sparse their table is. */
static uint32_t selected(uint32_t k, uint32_t flags)
{
    return (flags & VSHARD_MERGE_SETTLED) != 0 ? k : k + SPARE;
}

static uint32_t spread(uint32_t flags)
{
    return (flags & VSHARD_MERGE_SETTLED) != 0 ? VS_SPREAD : VS_SPREAD_CHECKED;
}

static size_t select_bytes(uint32_t k, uint32_t flags)
{
    return vs_select_bytes(selected(k, flags), spread(flags));
}

static void select_init(struct vs_select *s, void *memory, uint32_t k, uint32_t flags)
{
    vs_select_init(s, memory, selected(k, flags), spread(flags));
}

/* ---- a merger ---- */

static size_t table_bytes(const struct vshard_merger *m)
{
    return ((size_t)m->table_mask + 1) * sizeof *m->table;
}

int vshard_merger_create(const struct vshard_merge_options *options, struct vshard_merger **merger)
{
    struct vshard_merge_options o;
    struct vshard_merger *m;
    int rc;

    if (merger == NULL)
        return VSHARD_EINVAL;
    *merger = NULL;
    rc = read_options(&o, options);
    if (rc < 0)
        return rc;

    m = vs_alloc_zeroed(o.allocator, sizeof *m);
    if (m == NULL)
        return VSHARD_ENOMEM;
    if (o.allocator != NULL) {
        m->own_allocator = *o.allocator;
        m->allocator = &m->own_allocator;
    }
    if (o.logger != NULL)
        m->log = *o.logger;
    m->k = o.k;
    m->flags = o.flags;
    m->hit_max = o.hit_max;
    m->select_memory = vs_alloc(m->allocator, select_bytes(m->k, m->flags));
    if (m->select_memory == NULL)
        goto fail;
    select_init(&m->select, m->select_memory, m->k, m->flags);
    if ((m->flags & VSHARD_MERGE_SETTLED) == 0) {
        m->table_mask = 63;
        while (m->table_mask < 2 * m->hit_max)
            m->table_mask = 2 * m->table_mask + 1;
        m->hits = vs_alloc(m->allocator, m->hit_max * sizeof *m->hits);
        m->table = vs_alloc(m->allocator, table_bytes(m));
        if (m->hits == NULL || m->table == NULL)
            goto fail;
    }
    *merger = m;
    return VSHARD_OK;

fail:
    vshard_merger_destroy(m);
    return VSHARD_ENOMEM;
}

void vshard_merger_destroy(struct vshard_merger *m)
{
    struct vshard_allocator copy;
    const struct vshard_allocator *allocator = NULL;

    if (m == NULL)
        return;
    if (m->allocator != NULL) {
        copy = m->own_allocator;
        allocator = &copy;
    }
    vs_free(allocator, m->table, table_bytes(m));
    vs_free(allocator, m->hits, m->hit_max * sizeof *m->hits);
    vs_free(allocator, m->select_memory, select_bytes(m->k, m->flags));
    vs_free(allocator, m, sizeof *m);
}

void vshard_merger_reset(struct vshard_merger *m)
{
    if (m == NULL)
        return;
    m->hit_count = 0;
    vs_select_reset(&m->select);
}

float vshard_merger_bound(const struct vshard_merger *m)
{
    if (m == NULL || m->flags == 0 || m->select.count < m->k)
        return INFINITY;
    return m->select.order[m->k - 1].distance;
}

/* The first hit that is out of order or has no distance; `count` if there is none. */
static size_t first_bad(const struct vshard_merge_hit *hits, size_t count)
{
    float last = -INFINITY;
    size_t i = 0;

    for (; i < count && hits[i].distance >= last; i++)
        last = hits[i].distance;
    return i;
}

int vshard_merger_push(struct vshard_merger *m, const struct vshard_merge_hit *hits, size_t count)
{
    size_t bad;
    int rc;

    if (m == NULL || (hits == NULL && count != 0))
        return VSHARD_EINVAL;
    if (m->hits == NULL) {
        rc = vs_select_list(&m->select, hits, count);
        vs_select_flush(&m->select);
        return rc < 0 ? refuse(&m->log, rc, "hits", -1, (int64_t)count) : VSHARD_OK;
    }
    if (count > m->hit_max - m->hit_count)
        return refuse(&m->log, VSHARD_E2BIG, "hits",
                      count > VSHARD_MERGE_HITS_MAX ? INT64_MAX : (int64_t)count + m->hit_count,
                      m->hit_max);
    bad = first_bad(hits, count);
    if (bad != count)
        return refuse(&m->log, VSHARD_EINVAL, "hits", (int64_t)bad, (int64_t)count);
    if (count == 0)
        return VSHARD_OK;
    memcpy(m->hits + m->hit_count, hits, count * sizeof *hits);
    m->hit_count += (uint32_t)count;
    rc = vs_select_list(&m->select, hits, count);
    vs_select_flush(&m->select);
    return rc;
}

/* ---- the long way ---- */

/* Drops each hit that another one of its key survives. What is left of a sorted
 * list is sorted. */
static void drop_the_dead(struct vshard_merger *m)
{
    uint32_t n = 0;

    memset(m->table, 0, table_bytes(m));
    for (uint32_t i = 0; i < m->hit_count; i++) {
        const struct vshard_key key = m->hits[i].key;
        uint32_t t = (uint32_t)vs_mix64(key.lo ^ vs_mix64(key.hi)) & m->table_mask;

        while (m->table[t] != 0 && !vs_key_equal(m->hits[m->table[t] - 1].key, key))
            t = (t + 1) & m->table_mask;
        if (m->table[t] == 0) {
            m->table[t] = i + 1;
        } else if (vs_hit_survives(&m->hits[i], &m->hits[m->table[t] - 1])) {
            m->hits[m->table[t] - 1].distance = NAN; /* dead; still found by its key */
            m->table[t] = i + 1;
        } else {
            m->hits[i].distance = NAN;
        }
    }
    for (uint32_t i = 0; i < m->hit_count; i++) {
        if (!isnan(m->hits[i].distance))
            m->hits[n++] = m->hits[i];
    }
    m->hit_count = n;
}

/* The borders of the lists were not kept: each run that ascends serves as one. */
static void settle(struct vshard_merger *m)
{
    drop_the_dead(m);
    vs_select_reset(&m->select);
    for (uint32_t first = 0; first < m->hit_count;) {
        uint32_t run = (uint32_t)first_bad(m->hits + first, m->hit_count - first);

        VS_ASSERT(vs_select_list(&m->select, m->hits + first, run) == VSHARD_OK);
        first += run;
    }
    vs_select_flush(&m->select);
}

/* After a check: enough of the selected are left, or all there are. */
static bool enough(const struct vs_select *s, uint32_t k)
{
    return s->dead_count == 0 || s->count - s->dead_count >= k;
}

int vshard_merger_hits(struct vshard_merger *m, struct vshard_merge_hit *hits, size_t cap,
                       uint32_t *found)
{
    if (m == NULL || (hits == NULL && cap != 0) || found == NULL)
        return VSHARD_EINVAL;
    if (m->hits != NULL) {
        vs_select_check_begin(&m->select);
        for (uint32_t first = 0; first < m->hit_count;) {
            uint32_t run = (uint32_t)first_bad(m->hits + first, m->hit_count - first);

            VS_ASSERT(vs_select_check(&m->select, m->hits + first, run) == VSHARD_OK);
            first += run;
        }
        if (!enough(&m->select, m->k))
            settle(m);
    }
    *found = vs_select_write(&m->select, hits, cap < m->k ? cap : m->k);
    return VSHARD_OK;
}

/* ---- all lists at once ---- */

static int check_lists(struct vs_select *s, const struct vshard_merge_options *o,
                       const struct vshard_merge_list *lists, size_t list_count)
{
    for (size_t i = 0; i < list_count; i++) {
        if (vs_select_check(s, lists[i].hits, lists[i].count) < 0)
            return refuse(o->logger, VSHARD_EINVAL, "lists", (int64_t)i, (int64_t)list_count);
    }
    return VSHARD_OK;
}

/* The long way, for lists whose guess was wrong. All of them have been checked. */
static int merge_all(const struct vshard_merge_options *o, const struct vshard_merge_list *lists,
                     size_t list_count, struct vshard_merge_hit *hits, uint32_t *found)
{
    struct vshard_merger *m;
    int rc = vshard_merger_create(o, &m);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < list_count; i++) {
        if (lists[i].count != 0)
            memcpy(m->hits + m->hit_count, lists[i].hits, lists[i].count * sizeof *lists[i].hits);
        m->hit_count += (uint32_t)lists[i].count;
    }
    settle(m);
    *found = vs_select_write(&m->select, hits, o->k);
    vshard_merger_destroy(m);
    return VSHARD_OK;
}

/* Sets *total to the hits in all lists. */
static int count_hits(const struct vshard_merge_options *o, const struct vshard_merge_list *lists,
                      size_t list_count, size_t *total)
{
    *total = 0;
    for (size_t i = 0; i < list_count; i++) {
        if (lists[i].hits == NULL && lists[i].count != 0)
            return refuse(o->logger, VSHARD_EINVAL, "lists", (int64_t)i, (int64_t)list_count);
        if (lists[i].count > VSHARD_MERGE_HITS_MAX - *total)
            return refuse(o->logger, VSHARD_E2BIG, "hits", (int64_t)i, VSHARD_MERGE_HITS_MAX);
        *total += lists[i].count;
    }
    return VSHARD_OK;
}

size_t vshard_merge_from_index(const struct vshard_hit *hits, size_t count, uint32_t shard,
                               struct vshard_merge_hit *list)
{
    size_t n = 0;

    for (; n < count && hits[n].id != VSHARD_ID_NONE; n++)
        list[n] = (struct vshard_merge_hit){ { 0, hits[n].id }, 0, hits[n].distance, shard };
    return n;
}

int vshard_merge(const struct vshard_merge_options *options, const struct vshard_merge_list *lists,
                 size_t list_count, struct vshard_merge_hit *hits, uint32_t *found)
{
    _Alignas(VS_ALIGN) unsigned char stack[STACK_BYTES];
    struct vshard_merge_options o;
    struct vs_select select;
    size_t bytes, total;
    void *memory = stack;
    bool done = false;
    int rc = read_options(&o, options);

    if (rc < 0)
        return rc;
    if ((lists == NULL && list_count != 0) || hits == NULL || found == NULL)
        return VSHARD_EINVAL;
    if (list_count > VSHARD_MERGE_LISTS_MAX)
        return refuse(o.logger, VSHARD_E2BIG, "list_count",
                      list_count > INT64_MAX ? INT64_MAX : (int64_t)list_count,
                      VSHARD_MERGE_LISTS_MAX);
    rc = count_hits(&o, lists, list_count, &total);
    if (rc < 0)
        return rc;

    bytes = select_bytes(o.k, o.flags);
    if (bytes > sizeof stack)
        memory = vs_alloc(o.allocator, bytes);
    if (memory == NULL)
        return VSHARD_ENOMEM;
    select_init(&select, memory, o.k, o.flags);
    rc = vs_select_lists(&select, lists, list_count);
    if (rc < 0)
        refuse(o.logger, rc, "lists", -1, (int64_t)list_count);
    else if ((o.flags & VSHARD_MERGE_SETTLED) == 0)
        rc = check_lists(&select, &o, lists, list_count);
    if (rc == VSHARD_OK && enough(&select, o.k)) {
        *found = vs_select_write(&select, hits, o.k);
        done = true;
    }
    if (memory != stack)
        vs_free(o.allocator, memory, bytes);
    if (rc < 0 || done)
        return rc;

    o.hit_max = (uint32_t)total;
    return merge_all(&o, lists, list_count, hits, found);
}
