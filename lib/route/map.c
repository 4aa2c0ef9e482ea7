/* map.c - the cluster map: a ring of equal arcs, and the shards that own them.
 *
 * A map is a sorted array of members and a table with a member's row for each
 * arc. The row is 16 bits, so that the default table is 128 KiB and a lookup is
 * one multiply-and-shift hash and one load.
 *
 * A change first allocates the new array of members, the only thing that can
 * fail; then rows in the table are renumbered, arcs move (balance.c), and the new
 * array replaces the old one. So a change happens whole or not at all.
 *
 * Not here: how many arcs each shard gets, which is balance.c; the bytes of a
 * map, which is document.c. */
#include "route/map.h"

/* ---- life ---- */

int vs_map_refuse(const struct vshard_map *map, int status, const char *argument, int64_t value,
                  int64_t limit)
{
    return vs_refuse(&map->log, status, "map.refused", argument, value, limit);
}

int vs_map_options(struct vshard_map_options *ours, const struct vshard_map_options *theirs)
{
    int rc = vs_options_read(ours, sizeof *ours, theirs,
                             VS_SIZE_THROUGH(struct vshard_map_options, logger));

    if (rc < 0)
        return rc;
    if (ours->arcs > VSHARD_MAP_ARCS_MAX)
        return vs_refuse(ours->logger, VSHARD_E2BIG, "map.refused", "arcs", ours->arcs,
                         VSHARD_MAP_ARCS_MAX);
    if ((ours->arcs & (ours->arcs - 1)) != 0)
        return vs_refuse(ours->logger, VSHARD_EINVAL, "map.refused", "arcs", ours->arcs,
                         VSHARD_MAP_ARCS_MAX);
    if (ours->allocator != NULL && ours->allocator->resize == NULL)
        return vs_refuse(ours->logger, VSHARD_EINVAL, "map.refused", "allocator", 0, 0);
    return VSHARD_OK;
}

int vs_map_new(struct vshard_map **map, const struct vshard_allocator *allocator,
               const struct vshard_logger *log, uint32_t arcs)
{
    struct vshard_map *m = vs_alloc_zeroed(allocator, sizeof *m);

    *map = NULL;
    if (m == NULL)
        return VSHARD_ENOMEM;
    if (allocator != NULL) {
        m->own_allocator = *allocator;
        m->allocator = &m->own_allocator;
    }
    if (log != NULL)
        m->log = *log;
    m->arcs = arcs;
    while ((uint32_t)1 << m->arc_bits < arcs)
        m->arc_bits++;
    m->owner = vs_alloc(m->allocator, arcs * sizeof *m->owner);
    if (m->owner == NULL) {
        vshard_map_destroy(m);
        return VSHARD_ENOMEM;
    }
    *map = m;
    return VSHARD_OK;
}

int vshard_map_create(const struct vshard_map_options *options, struct vshard_map **map)
{
    struct vshard_map_options o;
    int rc;

    if (map == NULL)
        return VSHARD_EINVAL;
    *map = NULL;
    rc = vs_map_options(&o, options);
    if (rc < 0)
        return rc;
    rc = vs_map_new(map, o.allocator, o.logger, o.arcs ? o.arcs : VSHARD_MAP_ARCS_DEFAULT);
    if (rc < 0)
        return rc;
    for (uint32_t a = 0; a < (*map)->arcs; a++)
        (*map)->owner[a] = VS_NOBODY;
    return VSHARD_OK;
}

int vshard_map_copy(const struct vshard_map *map, struct vshard_map **copy)
{
    struct vshard_map *m;
    int rc;

    if (copy == NULL)
        return VSHARD_EINVAL;
    *copy = NULL;
    if (map == NULL)
        return VSHARD_EINVAL;
    rc = vs_map_new(&m, map->allocator, &map->log, map->arcs);
    if (rc < 0)
        return rc;
    if (map->member_count != 0) {
        m->members = vs_alloc(m->allocator, map->member_count * sizeof *m->members);
        if (m->members == NULL) {
            vshard_map_destroy(m);
            return VSHARD_ENOMEM;
        }
        memcpy(m->members, map->members, map->member_count * sizeof *m->members);
    }
    m->member_count = map->member_count;
    memcpy(m->owner, map->owner, map->arcs * sizeof *m->owner);
    m->weight = map->weight;
    m->version = map->version;
    *copy = m;
    return VSHARD_OK;
}

void vshard_map_destroy(struct vshard_map *m)
{
    struct vshard_allocator copy;
    const struct vshard_allocator *allocator = NULL;

    if (m == NULL)
        return;
    if (m->allocator != NULL) {
        copy = m->own_allocator;
        allocator = &copy;
    }
    vs_free(allocator, m->members, m->member_count * sizeof *m->members);
    vs_free(allocator, m->owner, m->arcs * sizeof *m->owner);
    vs_free(allocator, m, sizeof *m);
}

/* ---- changes ---- */

uint32_t vs_map_row(const struct vshard_map *m, uint32_t shard)
{
    uint32_t low = 0, high = m->member_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (m->members[middle].shard < shard)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_member(const struct vshard_map *m, uint32_t row, uint32_t shard)
{
    return row < m->member_count && m->members[row].shard == shard;
}

/* What every change is refused for. */
static int check_change(const struct vshard_map *m, uint32_t shard, uint32_t weight)
{
    if (m == NULL)
        return VSHARD_EINVAL;
    if (shard == VSHARD_SHARD_NONE)
        return vs_map_refuse(m, VSHARD_EINVAL, "shard", shard, VSHARD_SHARD_NONE - 1);
    if (weight > VSHARD_MAP_WEIGHT_MAX)
        return vs_map_refuse(m, VSHARD_E2BIG, "weight", weight, VSHARD_MAP_WEIGHT_MAX);
    if (m->version == UINT64_MAX)
        return vs_map_refuse(m, VSHARD_E2BIG, "version", -1, -1);
    return VSHARD_OK;
}

static void change_rows(struct vshard_map *m, uint32_t from_row, int by)
{
    for (uint32_t a = 0; a < m->arcs; a++) {
        if (m->owner[a] != VS_NOBODY && m->owner[a] >= from_row)
            m->owner[a] = (uint16_t)(m->owner[a] + by);
    }
}

static void replace_members(struct vshard_map *m, struct vs_member *members, uint32_t count)
{
    vs_free(m->allocator, m->members, m->member_count * sizeof *m->members);
    m->members = members;
    m->member_count = count;
}

int vshard_map_add(struct vshard_map *m, uint32_t shard, uint32_t weight)
{
    struct vs_member *members;
    uint32_t row;
    int rc = check_change(m, shard, weight);

    if (rc < 0)
        return rc;
    row = vs_map_row(m, shard);
    if (is_member(m, row, shard))
        return vs_map_refuse(m, VSHARD_EEXIST, "shard", shard, 0);
    if (m->member_count == VSHARD_MAP_SHARDS_MAX)
        return vs_map_refuse(m, VSHARD_E2BIG, "shards", (int64_t)m->member_count + 1,
                             VSHARD_MAP_SHARDS_MAX);
    members = vs_alloc(m->allocator, (m->member_count + 1) * sizeof *members);
    if (members == NULL)
        return VSHARD_ENOMEM;

    if (row > 0)
        memcpy(members, m->members, row * sizeof *members);
    members[row] = (struct vs_member){ .shard = shard, .weight = weight };
    if (row < m->member_count)
        memcpy(members + row + 1, m->members + row, (m->member_count - row) * sizeof *members);
    change_rows(m, row, 1);
    replace_members(m, members, m->member_count + 1);
    m->weight += weight;
    vs_map_balance(m);
    m->version++;
    return VSHARD_OK;
}

int vshard_map_remove(struct vshard_map *m, uint32_t shard)
{
    struct vs_member *members = NULL;
    uint32_t row, rest;
    int rc = check_change(m, shard, 0);

    if (rc < 0)
        return rc;
    row = vs_map_row(m, shard);
    if (!is_member(m, row, shard))
        return vs_map_refuse(m, VSHARD_ENOTFOUND, "shard", shard, 0);
    rest = m->member_count - 1;
    if (rest != 0 && m->weight != 0 && m->members[row].weight == m->weight)
        return vs_map_refuse(m, VSHARD_EBUSY, "shard", shard, 1);
    if (rest != 0) {
        members = vs_alloc(m->allocator, rest * sizeof *members);
        if (members == NULL)
            return VSHARD_ENOMEM;
    }

    m->weight -= m->members[row].weight;
    m->members[row].weight = 0;
    vs_map_balance(m); /* now it owns nothing */
    if (rest != 0) {
        memcpy(members, m->members, row * sizeof *members);
        memcpy(members + row, m->members + row + 1, (rest - row) * sizeof *members);
        change_rows(m, row + 1, -1);
    }
    replace_members(m, members, rest);
    m->version++;
    return VSHARD_OK;
}

int vshard_map_reweight(struct vshard_map *m, uint32_t shard, uint32_t weight)
{
    uint32_t row;
    int rc = check_change(m, shard, weight);

    if (rc < 0)
        return rc;
    row = vs_map_row(m, shard);
    if (!is_member(m, row, shard))
        return vs_map_refuse(m, VSHARD_ENOTFOUND, "shard", shard, 0);
    if (m->members[row].weight == weight)
        return VSHARD_OK;
    if (weight == 0 && m->members[row].weight == m->weight)
        return vs_map_refuse(m, VSHARD_EBUSY, "weight", 0, 1);

    m->weight = m->weight - m->members[row].weight + weight;
    m->members[row].weight = weight;
    vs_map_balance(m);
    m->version++;
    return VSHARD_OK;
}

/* ---- questions ---- */

/* Frozen for ever: another function would send every key elsewhere. The inner
 * finaliser spreads hi over 64 bits, the outer one spreads hi and lo together. For
 * one hi it is a bijection of lo, and the other way round, so integers in lo and
 * the two halves of a UUID meet no more often than random bits. */
static inline uint32_t arc_of(struct vshard_key key, uint32_t bits)
{
    uint64_t h = key.hi;

    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    h ^= h >> 33;
    h ^= key.lo;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    h ^= h >> 33;
    return (uint32_t)(h >> 32) >> (32 - bits); /* bits is at most 20 */
}

int vshard_map_owner(const struct vshard_map *m, const struct vshard_key *keys, size_t count,
                     uint32_t *shards, uint32_t *arcs)
{
    if (m == NULL || (keys == NULL && count != 0))
        return VSHARD_EINVAL;
    if (shards != NULL && m->weight == 0)
        return VSHARD_ENOTFOUND;
    for (size_t i = 0; i < count; i++) {
        uint32_t arc = m->arc_bits == 0 ? 0 : arc_of(keys[i], m->arc_bits);

        if (shards != NULL)
            shards[i] = m->members[m->owner[arc]].shard;
        if (arcs != NULL)
            arcs[i] = arc;
    }
    return VSHARD_OK;
}

static uint32_t shard_of(const struct vshard_map *m, uint32_t arc)
{
    return m->owner[arc] == VS_NOBODY ? VSHARD_SHARD_NONE : m->members[m->owner[arc]].shard;
}

int vshard_map_arcs(const struct vshard_map *m, uint32_t first, uint32_t count, uint32_t *shards)
{
    if (m == NULL || (shards == NULL && count != 0) || first > m->arcs || count > m->arcs - first)
        return VSHARD_EINVAL;
    for (uint32_t i = 0; i < count; i++)
        shards[i] = shard_of(m, first + i);
    return VSHARD_OK;
}

int vshard_map_shards(const struct vshard_map *m, struct vshard_map_shard *shards, size_t cap,
                      size_t *count)
{
    if (m == NULL || (shards == NULL && cap != 0) || count == NULL)
        return VSHARD_EINVAL;
    *count = m->member_count;
    if (cap < m->member_count)
        return VSHARD_E2BIG;
    for (uint32_t i = 0; i < m->member_count; i++)
        shards[i] = (struct vshard_map_shard){ .shard = m->members[i].shard,
                                               .weight = m->members[i].weight,
                                               .arcs = m->members[i].arcs };
    return VSHARD_OK;
}

int vshard_map_moves(const struct vshard_map *from, const struct vshard_map *to,
                     struct vshard_map_move *moves, size_t cap, size_t *count)
{
    struct vshard_map_move run = { 0 };
    size_t n = 0;

    if (from == NULL || to == NULL || (moves == NULL && cap != 0) || count == NULL)
        return VSHARD_EINVAL;
    if (from->arcs != to->arcs)
        return vs_map_refuse(to, VSHARD_EINVAL, "arcs", to->arcs, from->arcs);
    for (uint32_t a = 0; a < from->arcs; a++) {
        uint32_t old = shard_of(from, a), new = shard_of(to, a);

        if (old == new)
            continue;
        if (run.count != 0 && run.first + run.count == a && run.from == old && run.to == new) {
            run.count++;
        } else {
            run = (struct vshard_map_move){ .first = a, .count = 1, .from = old, .to = new };
            n++;
        }
        if (n <= cap)
            moves[n - 1] = run;
    }
    *count = n;
    return n > cap ? VSHARD_E2BIG : VSHARD_OK;
}

uint64_t vshard_map_version(const struct vshard_map *m)
{
    return m == NULL ? 0 : m->version;
}

int vshard_map_stats(const struct vshard_map *m, struct vshard_map_stats *stats)
{
    struct vshard_map_stats ours = { .size = sizeof ours };

    if (m == NULL)
        return VSHARD_EINVAL;
    ours.arcs = m->arcs;
    ours.shards = m->member_count;
    ours.weight = m->weight;
    ours.version = m->version;
    for (uint32_t a = 0; a < m->arcs; a++)
        ours.runs += a == 0 || m->owner[a] != m->owner[a - 1];
    return vs_report_write(stats, &ours, sizeof ours,
                           VS_SIZE_THROUGH(struct vshard_map_stats, version));
}
