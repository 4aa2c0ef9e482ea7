/* session.c - which requests of which client have been applied.
 *
 * A session is opened by an entry, whose index is its id. Each later entry of the
 * client names the session and a sequence, and is applied once however often it
 * is in the log: the group remembers, for each session, the highest sequence and
 * which of the 64 up to it were applied. What is older than that, or of a session
 * that was forgotten, is refused rather than guessed at. When there are too many,
 * the one unused for longest goes; that is a function of the log, so all replicas
 * forget the same one.
 *
 * META of a snapshot: configuration bytes (4), sessions (4), configuration
 * (config.c), then id, highest, seen, used (8 bytes each) a session. */
#include "raft/core.h"

enum { SESSION_BYTES = 32 };

int vs_sessions_reserve(struct vshard_raft *r, struct vs_group *g, uint32_t count)
{
    return vs_grow(r->allocator, (void **)&g->session, &g->session_cap, count, sizeof *g->session);
}

static struct vs_session *find(const struct vs_group *g, uint64_t id)
{
    uint32_t low = 0, high = g->session_count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (g->session[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < g->session_count && g->session[low].id == id ? &g->session[low] : NULL;
}

static void open_session(struct vshard_raft *r, struct vs_group *g, uint64_t id)
{
    if (g->session_count >= r->o.max_sessions) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < g->session_count; i++)
            oldest = g->session[i].used < g->session[oldest].used ? i : oldest;
        memmove(g->session + oldest, g->session + oldest + 1,
                (--g->session_count - oldest) * sizeof *g->session);
    }
    VS_ASSERT(g->session_count < g->session_cap);
    g->session[g->session_count++] = (struct vs_session){ .id = id, .used = id };
}

uint32_t vs_session_apply(struct vshard_raft *r, struct vs_group *g,
                          const struct vshard_raft_entry *e)
{
    struct vs_session *s;
    uint64_t back;

    if (e->kind == VSHARD_RAFT_SESSION)
        open_session(r, g, e->index);
    if (e->session == 0 || e->kind != VSHARD_RAFT_DATA)
        return 0;
    s = find(g, e->session);
    if (s == NULL || e->sequence == 0)
        return VSHARD_RAFT_EXPIRED;
    s->used = e->index;
    if (e->sequence > s->high) {
        back = e->sequence - s->high;
        s->seen = back < VS_SESSION_WINDOW ? s->seen << back : 0;
        s->seen |= 1;
        s->high = e->sequence;
        return 0;
    }
    back = s->high - e->sequence;
    if (back >= VS_SESSION_WINDOW)
        return VSHARD_RAFT_EXPIRED;
    if (s->seen >> back & 1)
        return VSHARD_RAFT_DUPLICATE;
    s->seen |= (uint64_t)1 << back;
    return 0;
}

/* ---- META ---- */

/* The configuration that entry `index` was written under. */
static const struct vs_config *config_at(const struct vs_group *g, uint64_t index)
{
    uint32_t at = g->config_count - 1;

    while (at > 0 && g->config[at].index > index)
        at--;
    return &g->config[at];
}

size_t vs_meta_bytes(const struct vs_group *g, uint64_t index)
{
    return 16 + 24 * (size_t)config_at(g, index)->count + (size_t)g->session_count * SESSION_BYTES;
}

void vs_meta_encode(const struct vs_group *g, uint64_t index, unsigned char *to)
{
    size_t used = 8 + vs_config_encode(config_at(g, index), to + 8);

    vs_store32(to, (uint32_t)used - 8);
    vs_store32(to + 4, g->session_count);
    for (uint32_t i = 0; i < g->session_count; i++) {
        const struct vs_session *s = &g->session[i];
        vs_store64(to + used, s->id);
        vs_store64(to + used + 8, s->high);
        vs_store64(to + used + 16, s->seen);
        vs_store64(to + used + 24, s->used);
        used += SESSION_BYTES;
    }
}

int vs_meta_check(const void *meta, size_t bytes, struct vs_config *c, uint32_t *sessions)
{
    const unsigned char *p = meta;
    uint32_t config;
    uint64_t last = 0;

    if (meta == NULL || bytes < 8)
        return VSHARD_ECORRUPT;
    config = vs_load32(p);
    *sessions = vs_load32(p + 4);
    if (config > bytes - 8 || *sessions > 65536 ||
        bytes - 8 - config != (size_t)*sessions * SESSION_BYTES)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < *sessions; i++) {
        uint64_t id = vs_load64(p + 8 + config + (size_t)i * SESSION_BYTES);
        if (id <= last)
            return VSHARD_ECORRUPT;
        last = id;
    }
    return vs_config_decode(c, p + 8, config);
}

void vs_meta_adopt(struct vshard_raft *r, struct vs_group *g, const unsigned char *meta,
                   uint64_t index)
{
    const unsigned char *p = meta + 8 + vs_load32(meta);
    struct vs_config c;

    vs_config_decode(&c, meta + 8, vs_load32(meta));
    c.index = index;
    g->config_count = 0;
    vs_config_push(r, g, &c);
    g->session_count = vs_load32(meta + 4);
    for (uint32_t i = 0; i < g->session_count; i++, p += SESSION_BYTES)
        g->session[i] = (struct vs_session){ vs_load64(p), vs_load64(p + 8), vs_load64(p + 16),
                                             vs_load64(p + 24) };
}
