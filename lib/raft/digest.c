/* digest.c - everything that a node knows, as one number.
 *
 * Whatever may decide what a later step does is in it, and nothing that does not follow from
 * the history alone: no addresses, no sizes of blocks, no place in a table. */
#include "raft/core.h"

static uint64_t digest_words(const uint64_t *word, size_t count, uint64_t seed)
{
    unsigned char bytes[8 * 40];

    VS_ASSERT(count <= 40);
    for (size_t i = 0; i < count; i++)
        vs_store64(bytes + 8 * i, word[i]);
    return vs_checksum(bytes, 8 * count, seed);
}

/* The last entry of each append under way, in order: where in the ring they lie does not
 * matter. */
static uint64_t digest_flight(const struct vs_peer *p, uint64_t seed)
{
    uint64_t word[VS_FLIGHT_MAX];

    for (uint32_t i = 0; i < p->flight_count; i++)
        word[i] = p->flight[(p->flight_head + i) % VS_FLIGHT_MAX];
    return digest_words(word, p->flight_count, seed);
}

static uint64_t digest_peer(const struct vs_peer *p, uint64_t seed)
{
    const uint64_t word[] = { p->node,         p->incarnation,
                              p->match,        p->next,
                              p->sent_commit,  p->sent_ns,
                              p->ack_ns,       p->ack_round,
                              p->forward_high, p->forward_seen,
                              p->forward_boot, p->since,
                              p->boot,         p->sure_boot,
                              p->sure_term,    p->sure_index,
                              p->chunk_index,  p->chunk_term,
                              p->chunk_offset, p->chunk_ns,
                              p->flight_count, (uint64_t)(int64_t)p->vote,
                              p->state,        p->paused,
                              p->fetching,     p->reading,
                              p->asleep,       p->uncertain,
                              p->since_ns };

    return digest_flight(p, digest_words(word, VS_COUNT(word), seed));
}

/* Roles and priorities with the rest. */
static uint64_t digest_config(const struct vs_config *c, uint64_t seed)
{
    unsigned char bytes[VS_CONFIG_BYTES];

    return vs_checksum(bytes, vs_config_encode(c, bytes), digest_words(&c->index, 1, seed));
}

static uint64_t digest_request(const struct vs_request *q, uint64_t seed)
{
    const uint64_t word[] = { q->tag,         q->index,  q->term,
                              q->round,       q->origin, q->origin_incarnation,
                              q->origin_boot, q->id,     q->stamp,
                              q->deadline,    q->kind,   (uint64_t)(int64_t)q->status };

    return digest_words(word, VS_COUNT(word), seed);
}

/* What there is of promises, of roles and of the log's ends. */
static uint64_t digest_state(const struct vs_group *g)
{
    const uint64_t word[] = { g->id,          g->term,
                              g->vote,        g->leader,
                              g->commit,      g->handed,
                              g->applied,     g->durable,
                              g->verified,    g->hard_seq,
                              g->hard_done,   g->log_seq,
                              g->log.base,    g->log.base_term,
                              g->log.last,    g->log.slot_count,
                              g->role,        g->stopped,
                              g->started,     g->uncertain,
                              g->sure_index,  g->sure_term,
                              g->sure_at,     g->asleep,
                              g->excused,     g->leader_incarnation,
                              g->told_term,   g->told_leader,
                              g->told_role,   g->told_members,
                              g->proof_index, g->proof_ns,
                              g->void_tail,   g->vote_incarnation };

    return digest_words(word, VS_COUNT(word), 0);
}

/* When what is due, and what is under way. */
static uint64_t digest_work(const struct vs_group *g, uint64_t seed)
{
    const uint64_t word[] = { g->deadline,
                              g->election_at,
                              g->promise_until,
                              g->lead_since,
                              g->check_at,
                              g->active_ns,
                              g->expires,
                              g->prefer_at,
                              g->random,
                              g->round,
                              g->next_id,
                              g->transfer_node,
                              g->transfer_tag,
                              g->transfer_until,
                              g->transfer_fence,
                              g->transfer_sent,
                              g->transfer_told,
                              g->snapshot_index,
                              g->snapshot_term,
                              g->taken_index,
                              g->taken_term,
                              g->install_index,
                              g->install_term,
                              g->install_from,
                              g->install_incarnation,
                              g->install_offset,
                              g->install_stamp,
                              g->write_end,
                              g->writing,
                              g->write_last,
                              g->installing,
                              g->config_count,
                              g->proposal_count,
                              g->request_count,
                              g->session_count,
                              g->waiting_count,
                              g->waiting_open,
                              g->waiting_config,
                              g->waiting_applied,
                              g->waiting_round };

    return digest_words(word, VS_COUNT(word), seed);
}

static uint64_t digest_group(const struct vs_group *g)
{
    const unsigned char *bytes = g->log.bytes ? g->log.bytes + g->log.byte_head : NULL;
    uint64_t d = digest_work(g, digest_state(g));

    d = vs_checksum(bytes, g->log.byte_tail - g->log.byte_head, d);
    d = vs_checksum(g->meta, g->meta_bytes, d);
    d = vs_checksum(g->taken, g->taken_bytes, d);
    d = vs_checksum(g->install, g->install_bytes, d);
    for (uint32_t i = 0; i < g->log.run_count; i++)
        d = digest_words((uint64_t[]){ g->log.run[i].first, g->log.run[i].term }, 2, d);
    for (uint32_t i = 0; i < g->config_count; i++)
        d = digest_config(&g->config[i], d);
    for (uint32_t i = 0; i < vs_config_now(g)->count; i++)
        d = digest_peer(&g->peer[i], d);
    for (uint32_t i = 0; i < g->proposal_count; i++)
        d = digest_request(&g->proposal[g->proposal_head + i], d);
    for (uint32_t i = 0; i < g->request_count; i++)
        d = digest_request(&g->request[i], d);
    for (uint32_t i = 0; i < g->session_count; i++)
        d = digest_words((uint64_t[]){ g->session[i].id, g->session[i].high, g->session[i].seen,
                                       g->session[i].used },
                         4, d);
    return d;
}

static uint64_t digest_link(const struct vs_link *l, uint64_t seed)
{
    const uint64_t word[] = { l->node,    l->incarnation, l->boot,    l->heard_ns,
                              l->seen_ns, l->answered_ns, l->mean_ns, l->spread_ns,
                              l->led,     l->followed,    l->up };

    return digest_words(word, VS_COUNT(word), seed);
}

static uint64_t digest_pending(const struct vs_pending *p, uint64_t seed)
{
    const uint64_t word[] = { p->seq, p->last, p->since_ns, p->group->id, p->vote_only };

    return digest_words(word, VS_COUNT(word), seed);
}

uint64_t vshard_raft_digest(const struct vshard_raft *r)
{
    uint64_t d;

    if (r == NULL)
        return 0;
    d = digest_words((uint64_t[]){ r->now, r->ran_ns, r->seq, r->durable_seq, r->beat_at,
                                   r->since_ns, r->group_count, r->poisoned, r->id_floor },
                     9, r->o.node);
    for (uint32_t i = 0; i < r->link_count; i++)
        d = digest_link(&r->link[i], d);
    for (uint32_t i = 0; i < r->pending_count; i++)
        d = digest_pending(&r->pending[r->pending_head + i], d);
    /* The sum of the groups does not depend on the order they lie in. */
    for (uint32_t i = 0; i < r->group_count; i++)
        d += vs_mix64(digest_group(r->heap[i]));
    return d;
}
