/* even.c - a map of many shards of one weight, made at once.
 *
 * It is the map to which vshard_map_add() leads that adds them one after the other, arc by arc, so
 * that where keys are does not depend on how a map was made. An add looks at all arcs; here each
 * shard has its arcs in a list in ring order, and an add touches those that move: as many as the
 * newcomer gets, so in all arcs * (1/2 + 1/3 + ..).
 *
 * What balance.c comes to where all weights are equal: with n shards each is due A / n arcs,
 * rounded down, and the A mod n arcs left over go to those that have more, the first of them.
 * There are enough of these: what was left over before, or all. So only the newcomer takes, and who
 * has more than its quota gives its first arcs. They are sorted by marks in a row of bits. */
#include "route/map.h"

struct lists {
    uint32_t *next;  /* [arcs] the next arc of the same shard */
    uint32_t *first; /* [shards] */
    uint64_t *moves; /* bits of the arcs that the newcomer gets */
    uint32_t words;
};

static size_t next_bytes(const struct vshard_map *m)
{
    return m->arcs * sizeof(uint32_t);
}

static void lists_free(const struct vshard_map *m, struct lists *l, uint32_t shards)
{
    vs_free(m->allocator, l->next, next_bytes(m));
    vs_free(m->allocator, l->first, shards * sizeof *l->first);
    vs_free(m->allocator, l->moves, l->words * sizeof *l->moves);
}

static int lists_make(const struct vshard_map *m, struct lists *l, uint32_t shards)
{
    l->words = (m->arcs + 63) / 64;
    l->next = vs_alloc(m->allocator, next_bytes(m));
    l->first = vs_alloc(m->allocator, shards * sizeof *l->first);
    l->moves = vs_alloc_zeroed(m->allocator, l->words * sizeof *l->moves);
    return l->next != NULL && l->first != NULL && l->moves != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

/* Who has more arcs than its quota marks the first of them, and has them no more. */
static void give(struct vshard_map *m, struct lists *l, uint32_t newcomer)
{
    uint32_t due = m->arcs / (newcomer + 1), extra = m->arcs % (newcomer + 1);

    for (uint32_t i = 0; i < newcomer; i++) {
        struct vs_member *member = &m->members[i];
        uint32_t quota = due;

        if (member->arcs > due && extra != 0) {
            quota++;
            extra--;
        }
        for (; member->arcs > quota; member->arcs--) {
            uint32_t arc = l->first[i];

            l->moves[arc / 64] |= (uint64_t)1 << arc % 64;
            l->first[i] = l->next[arc];
        }
    }
}

/* The marked arcs become the newcomer's list. */
static void take(struct vshard_map *m, struct lists *l, uint32_t newcomer)
{
    uint32_t *end = &l->first[newcomer];

    for (uint32_t w = 0; w < l->words; w++) {
        for (uint64_t bits = l->moves[w]; bits != 0; bits &= bits - 1) {
            uint32_t arc = 64 * w + (uint32_t)__builtin_ctzll(bits);

            *end = arc;
            end = &l->next[arc];
            m->members[newcomer].arcs++;
        }
        l->moves[w] = 0;
    }
}

static void share(struct vshard_map *m, struct lists *l)
{
    l->first[0] = 0;
    m->members[0].arcs = m->arcs;
    for (uint32_t a = 0; a < m->arcs; a++)
        l->next[a] = a + 1;
    for (uint32_t i = 1; i < m->member_count; i++) {
        give(m, l, i);
        take(m, l, i);
    }
    for (uint32_t i = 0; i < m->member_count; i++) {
        for (uint32_t a = l->first[i], left = m->members[i].arcs; left != 0; a = l->next[a], left--)
            m->owner[a] = (uint16_t)i;
    }
}

int vs_map_even(const struct vshard_map_options *options, uint32_t shards, struct vshard_map **map)
{
    struct lists l = { .words = 0 };
    struct vshard_map *m;
    int rc = vshard_map_create(options, &m);

    *map = m;
    if (rc != VSHARD_OK || shards == 0)
        return rc;
    if (shards > VSHARD_MAP_SHARDS_MAX)
        rc = vs_map_refuse(m, VSHARD_E2BIG, "shards", shards, VSHARD_MAP_SHARDS_MAX);
    if (rc == VSHARD_OK)
        rc = lists_make(m, &l, shards);
    if (rc == VSHARD_OK)
        m->members = vs_alloc_zeroed(m->allocator, shards * sizeof *m->members);
    if (rc == VSHARD_OK && m->members == NULL)
        rc = VSHARD_ENOMEM;
    if (rc == VSHARD_OK) {
        m->member_count = shards;
        m->weight = m->version = shards;
        for (uint32_t i = 0; i < shards; i++)
            m->members[i] = (struct vs_member){ .shard = i, .weight = 1 };
        share(m, &l);
    }
    lists_free(m, &l, shards);
    if (rc != VSHARD_OK) {
        vshard_map_destroy(m);
        *map = NULL;
    }
    return rc;
}
