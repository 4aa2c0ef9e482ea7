/* place.c - which nodes get the replicas of a shard.
 *
 * The first is to lead it: the node with the fewest first places, among equals the one with
 * the fewest replicas. The others are those with the fewest replicas, among equals with
 * the fewest first places. What is still equal is decided by number: a function of the
 * counts alone. */
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
    if (a->leads != b->leads)
        return a->leads < b->leads;
    return a->replicas != b->replicas ? a->replicas < b->replicas : a->node < b->node;
}

void vs_place(struct vs_placing *p, uint64_t *nodes, uint32_t replicas)
{
    bool used[VS_PLACING_MAX] = { false };

    for (uint32_t i = 0; i < replicas; i++) {
        uint32_t best = VS_PLACING_MAX;

        for (uint32_t k = 0; k < p->count; k++) {
            if (used[k])
                continue;
            if (best == VS_PLACING_MAX || (i == 0 ? leads_less(&p->node[k], &p->node[best])
                                                  : lighter(&p->node[k], &p->node[best])))
                best = k;
        }
        used[best] = true;
        nodes[i] = p->node[best].node;
        p->node[best].replicas++;
        p->node[best].leads += i == 0;
    }
}

uint64_t vs_place_one(const struct vs_placing *p)
{
    uint32_t best = 0;

    for (uint32_t k = 1; k < p->count; k++)
        best = lighter(&p->node[k], &p->node[best]) ? k : best;
    return p->node[best].node;
}
