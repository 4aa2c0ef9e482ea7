/* shard.c - one replica of one shard: what it is made of, and its rows one by one.
 *
 * Not here: entries, which are apply.c and, until they are applied, tail.c; searches,
 * nearest.c; files, freeze.c. */
#include "shard/keymap.h"

static int make_index(struct vs_shard *s)
{
    const struct vs_shard_plan *p = &s->plan;
    const struct vshard_index_options o = { .size = sizeof o,
                                            .dim = p->dim,
                                            .family = p->family,
                                            .metric = p->metric,
                                            .element = p->element,
                                            .m = p->m,
                                            .ef_construction = p->ef_construction,
                                            .train_rows = p->train_rows,
                                            .profile = p->profile,
                                            .seed = p->seed,
                                            .allocator = p->allocator,
                                            .logger = p->logger,
                                            .executor = p->executor,
                                            .storage = p->storage,
                                            .attributes = p->attributes,
                                            .attribute_count = p->attribute_count };

    return vshard_index_create(&o, &s->index);
}

void vs_shard_init(struct vs_shard *s, const struct vs_shard_plan *plan)
{
    s->plan = *plan;
    s->requests = (struct vs_requests){ .allocator = plan->allocator, .seed = plan->seed };
    vs_keymap_init(&s->map, plan->allocator, plan->seed);
    vs_keymap_init(&s->asked, plan->allocator, plan->seed);
}

int vs_shard_create(const struct vs_shard_plan *plan, struct vs_shard **shard)
{
    struct vs_shard *s = vs_alloc_zeroed(plan->allocator, sizeof *s);
    int rc;

    *shard = NULL;
    if (s == NULL)
        return VSHARD_ENOMEM;
    vs_shard_init(s, plan);
    rc = make_index(s);
    if (rc == VSHARD_OK)
        rc = vs_tail_create(s);
    if (rc != VSHARD_OK) {
        vs_shard_destroy(s);
        return rc;
    }
    *shard = s;
    return VSHARD_OK;
}

void vs_shard_destroy(struct vs_shard *s)
{
    if (s == NULL)
        return;
    vs_shard_destroy(s->tail);
    vshard_index_destroy(s->index);
    vs_keymap_fini(&s->map);
    vs_keymap_fini(&s->asked);
    vs_requests_fini(&s->requests);
    vs_free(s->plan.allocator, s, sizeof *s);
}

/* ---- what is there ---- */

void vs_shard_stats(const struct vs_shard *s, struct vs_shard_stats *stats)
{
    *stats = (struct vs_shard_stats){ .applied = s->applied,
                                      .rows = s->map.live,
                                      .tombstones = s->map.tombstones,
                                      .fenced = s->fenced,
                                      .repeated = s->repeated };
}

int vs_shard_digest(const struct vs_shard *s, uint64_t *digest)
{
    uint64_t index;
    int rc = vshard_index_digest(s->index, &index);

    if (rc == VSHARD_OK)
        *digest = vs_mix64(index ^ vs_mix64(vs_keymap_digest(&s->map) ^
                                            vs_mix64(vs_requests_digest(&s->requests))));
    return rc;
}

int vs_shard_fetch(const struct vs_shard *s, struct vshard_key key, struct vs_shard_row *to)
{
    uint32_t row = vs_keymap_find(&s->map, key);
    const struct vs_row *r;
    uint64_t id = row;
    int rc = VSHARD_OK;

    if (row == VS_NO_ROW || s->map.row[row].state != VS_ROW_LIVE)
        return VSHARD_ENOTFOUND;
    r = &s->map.row[row];
    to->version = r->version;
    to->payload = r->payload;
    to->payload_bytes = r->payload_bytes;
    if (to->values != NULL)
        rc = vshard_index_fetch_values(s->index, &id, 1, to->values, s->plan.attribute_count, NULL);
    return rc == VSHARD_OK && to->vector != NULL
               ? vshard_index_fetch(s->index, &id, 1, to->vector, NULL)
               : rc;
}

bool vs_shard_next(const struct vs_shard *s, uint32_t *at, struct vshard_key *key)
{
    for (; *at < s->map.count; ++*at) {
        if (s->map.row[*at].state != VS_ROW_LIVE)
            continue;
        *key = s->map.row[(*at)++].key;
        return true;
    }
    return false;
}
