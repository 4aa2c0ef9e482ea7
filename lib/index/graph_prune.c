/* graph_prune.c - which edges a row keeps, and lists of them.
 *
 * A diverse few: candidates are taken nearest first, and one is passed over when a
 * row already taken is nearer to it than it is to the row itself (Malkov & Yashunin
 * 2018, Algorithm 4). Free places are then filled with the nearest passed over.
 *
 * Equal vectors would fill each other's lists and be an island. At most a quarter of
 * a list goes to rows at distance 0 while there are others; and which of them, a hash
 * of both slots decides. In order of arrival, all would choose the same few.
 *
 * Nobody is passed over for a probe, nor does it take anybody's place while there is
 * another (calibrate.c). */
#include "index/state.h"

enum { FIRST = 4, COMPARE = 16 /* rows taken that a candidate is compared with at once */ };

static void put_first(const void **rows, uint32_t at)
{
    const void *row = rows[at];

    memmove(rows + 1, rows, at * sizeof *rows);
    rows[0] = row;
}

/* True if one of the rows taken, s->rows[0, taken), is nearer to the candidate than the row
 * itself, whose key is given. Candidates come in clusters: a row that one was passed over for
 * is compared with the next before the others are. Uses s->keys. */
static bool passed_over(const struct vshard_index *x, struct vs_scratch *s, uint32_t self,
                        uint32_t candidate, int32_t key, uint32_t taken)
{
    struct vs_query q;

    if (taken == 0)
        return false;
    q = vs_other_query(x, candidate, s);
    if (!vs_has_distances(x))
        key = vs_key_of(x, &q, self);
    for (uint32_t first = 0, count; first < taken; first += count) {
        uint32_t most = first == 0 ? FIRST : COMPARE;

        count = taken - first < most ? taken - first : most;
        vs_keys(x, &q, s->rows + first, count, s->keys);
        for (uint32_t i = 0; i < count; i++) {
            if (s->keys[i] < key) {
                put_first(s->rows, first + i);
                return true;
            }
        }
    }
    return false;
}

/* The key that a row has from itself, and all that are equal to it. */
static int32_t own_key(const struct vshard_index *x, struct vs_scratch *s, uint32_t slot)
{
    struct vs_query q;

    if (vs_has_distances(x))
        return 0;
    q = vs_other_query(x, slot, s);
    return vs_key_of(x, &q, slot);
}

/* Moves a few of the rows at the row's own key, `few` drawn by hash, before the others there. */
static void draw_equal(struct vs_pool *p, uint32_t self, int32_t own, uint32_t few)
{
    uint32_t first = 0, equal;

    while (first < p->count && p->keys[first] < own)
        first++;
    equal = first;
    while (equal < p->count && p->keys[equal] == own)
        equal++;
    for (uint32_t i = first; i < first + few && i + 1 < equal; i++) {
        uint64_t least = UINT64_MAX;
        uint32_t at = i, slot;

        for (uint32_t j = i; j < equal; j++) {
            uint64_t hash = vs_mix64((uint64_t)self << 32 | (p->slots[j] & ~VS_POOL_EXPANDED));

            if (hash < least) {
                least = hash;
                at = j;
            }
        }
        slot = p->slots[i];
        p->slots[i] = p->slots[at];
        p->slots[at] = slot;
    }
}

/* Takes a diverse few, at most `want`, of s->pool, whose keys are distances from one
 * row, and moves them to its front, nearest first. Those that are marked stay in any
 * case, and the marks go. Uses s->rows, s->keys and s->slots. */
void vs_choose(const struct vshard_index *x, struct vs_scratch *s, uint32_t self, uint32_t want)
{
    struct vs_pool *p = &s->pool;
    uint32_t taken = 0, compared = 0, passed = 0, equal = 0, marked = 0;
    uint32_t *chosen = s->slots, *rest = s->slots + x->degree; /* positions in the pool */
    int32_t own = own_key(x, s, self);

    for (uint32_t i = 0; i < p->count; i++)
        marked += p->slots[i] >> 31;
    want = want < marked ? marked : want;
    draw_equal(p, self, own, want);
    for (uint32_t i = 0; i < p->count && (taken < want || marked > 0); i++) {
        uint32_t slot = p->slots[i] & ~VS_POOL_EXPANDED;
        bool stays = slot != p->slots[i], crowded = p->keys[i] == own && ++equal > want / 4;

        if (!stays && (crowded || taken + marked >= want ||
                       passed_over(x, s, self, slot, p->keys[i], compared))) {
            if (passed < want)
                rest[passed++] = i;
            continue;
        }
        marked -= stays;
        chosen[taken++] = i;
        if (!vs_is_probe(slot))
            s->rows[compared++] = vs_code_at(x, slot);
        else if (want < x->degree)
            want++;
    }
    for (uint32_t i = 0; i < passed && taken < want; i++)
        chosen[taken++] = rest[i];

    /* Positions are below `want` too early to overwrite what is still needed, so the
     * chosen pass through the other arrays. */
    for (uint32_t i = 0; i < taken; i++) {
        s->keys[i] = p->keys[chosen[i]];
        rest[i] = p->slots[chosen[i]] & ~VS_POOL_EXPANDED;
    }
    memcpy(p->keys, s->keys, taken * sizeof *p->keys);
    memcpy(p->slots, rest, taken * sizeof *p->slots);
    p->count = taken;
}

/* Adds rows of the pool, whose keys are distances from one row, to the `count` edges that
 * the row keeps, until they are `want` or the pool is empty; returns how many they are. A row
 * that is in the pool twice is added once. Uses s->rows and s->keys. */
uint32_t vs_fill(const struct vshard_index *x, struct vs_scratch *s, uint32_t self, uint32_t *edges,
                 uint32_t count, uint32_t want)
{
    const struct vs_pool *p = &s->pool;
    uint32_t compared = 0, passed = 0, equal = 0, places = want > count ? want - count : 0;
    uint32_t had = count;
    uint32_t rest[2 * M_MAX];
    int32_t own = own_key(x, s, self);

    for (uint32_t i = 0; i < count; i++) {
        if (!vs_is_probe(edges[i]))
            s->rows[compared++] = vs_code_at(x, edges[i]);
    }
    for (uint32_t i = 0; i < p->count && count < want; i++) {
        bool crowded = p->keys[i] == own && ++equal > (places + 3) / 4;

        if (vs_contains(edges + had, count - had, p->slots[i]))
            continue;
        if (crowded || passed_over(x, s, self, p->slots[i], p->keys[i], compared)) {
            if (passed < places)
                rest[passed++] = p->slots[i];
            continue;
        }
        edges[count++] = p->slots[i];
        if (!vs_is_probe(p->slots[i]))
            s->rows[compared++] = vs_code_at(x, p->slots[i]);
    }
    for (uint32_t i = 0; i < passed && count < want; i++) {
        if (!vs_contains(edges + had, count - had, rest[i]))
            edges[count++] = rest[i];
    }
    return count;
}

/* Drops removed rows from the pool of a walk, and its marks from the others. */
void vs_keep_live(const struct vshard_index *x, struct vs_pool *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        p->slots[i] &= ~VS_POOL_EXPANDED;
    vs_keep_live_or_marked(x, p);
}

/* Drops removed rows from the pool that are not marked. */
void vs_keep_live_or_marked(const struct vshard_index *x, struct vs_pool *p)
{
    uint32_t kept = 0;
    bool any = atomic_load_explicit(&x->removed, memory_order_relaxed) > 0;

    for (uint32_t i = 0; i < p->count && any; i++) {
        uint32_t slot = p->slots[i];

        if (!(slot & VS_POOL_EXPANDED) && vs_is_gone(x, slot))
            continue;
        p->keys[kept] = p->keys[i];
        p->slots[kept++] = slot;
    }
    p->count = any ? kept : p->count;
}

void vs_write_edges(struct vshard_index *x, uint32_t slot, const uint32_t *to, uint32_t count)
{
    _Atomic uint32_t *edges = vs_edges_at(x, slot);

    vs_keep(x, IMAGE_EDGES, slot);
    for (uint32_t i = 0; i < x->degree; i++)
        atomic_store_explicit(&edges[i], i < count ? to[i] : VS_SLOT_NONE, memory_order_release);
}

uint32_t vs_read_edges(const struct vshard_index *x, uint32_t slot, uint32_t *out)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);
    uint32_t count = 0;

    while (count < x->degree) {
        uint32_t to = atomic_load_explicit(&edges[count], memory_order_relaxed);

        if (to == VS_SLOT_NONE)
            break;
        out[count++] = to;
    }
    return count;
}

/* Offers s->slots[0, count) to the pool, by their keys from the query. */
void vs_offer(const struct vshard_index *x, const struct vs_query *q, struct vs_scratch *s,
              uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        s->rows[i] = vs_code_at(x, s->slots[i]);
        __builtin_prefetch(s->rows[i]);
        __builtin_prefetch((const char *)s->rows[i] + 64);
    }
    vs_keys(x, q, s->rows, count, s->keys);
    x->kernel.pool_push(&s->pool, s->keys, s->slots, count);
}

/* Keys between one row and s->slots[0, count). */
void vs_keys_of(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s, uint32_t count)
{
    const struct vs_query q = vs_other_query(x, slot, s);

    for (uint32_t i = 0; i < count; i++)
        s->rows[i] = vs_code_at(x, s->slots[i]);
    vs_keys(x, &q, s->rows, count, s->keys);
}
