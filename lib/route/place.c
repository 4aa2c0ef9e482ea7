/* place.c - which nodes get the replicas of a shard.
 *
 * The nodes with the fewest replicas, among equals those with the fewest first places, and
 * among equals by number: a function of the counts alone. The first of a shard's nodes is
 * the one that should lead it, so it is the one of them with the fewest first places. */
#include "route/route.h"

void vs_placing_count(struct vs_placing *p, uint64_t node, bool leads)
{
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->node[i].node != node)
            continue;
        p->node[i].replicas++;
        p->node[i].leads += leads;
    }
}

static bool lighter(const struct vs_placing_node *a, const struct vs_placing_node *b)
{
    if (a->replicas != b->replicas)
        return a->replicas < b->replicas;
    return a->leads != b->leads ? a->leads < b->leads : a->node < b->node;
}

static bool leads_less(const struct vs_placing_node *a, const struct vs_placing_node *b)
{
    return a->leads != b->leads ? a->leads < b->leads : a->replicas < b->replicas;
}

void vs_place(struct vs_placing *p, uint64_t *nodes, uint32_t replicas)
{
    uint32_t taken[VS_PLACING_MAX], first = 0;
    bool used[VS_PLACING_MAX] = { false };

    for (uint32_t i = 0; i < replicas; i++) {
        uint32_t best = VS_PLACING_MAX;

        for (uint32_t k = 0; k < p->count; k++) {
            if (!used[k] && (best == VS_PLACING_MAX || lighter(&p->node[k], &p->node[best])))
                best = k;
        }
        used[best] = true;
        taken[i] = best;
        if (leads_less(&p->node[best], &p->node[taken[first]]))
            first = i;
    }
    for (uint32_t i = 0; i < replicas; i++) {
        uint32_t at = taken[(first + i) % replicas];

        nodes[i] = p->node[at].node;
        p->node[at].replicas++;
        p->node[at].leads += i == 0;
    }
}
