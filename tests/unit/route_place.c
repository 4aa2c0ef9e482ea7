/* route_place.c - where replicas go: every small cluster is filled, and the counts compared. */
#include <criterion/criterion.h>

#include "route/route.h"

Test(route_place, spreads_replicas_and_first_places_to_one)
{
    for (uint32_t nodes = 1; nodes <= VS_PLACING_MAX; nodes++) {
        for (uint32_t replicas = 1; replicas <= nodes && replicas <= 7; replicas++) {
            struct vs_placing p = { .count = nodes };

            for (uint32_t i = 0; i < nodes; i++)
                p.node[i].node = i + 1;
            for (uint32_t shard = 0; shard < 64; shard++) {
                uint64_t to[7];
                uint32_t least = UINT32_MAX, most = 0, leads_least = UINT32_MAX, leads_most = 0;

                vs_place(&p, to, replicas);
                for (uint32_t i = 0; i < replicas; i++) {
                    cr_assert(to[i] >= 1 && to[i] <= nodes);
                    for (uint32_t k = 0; k < i; k++)
                        cr_assert_neq(to[i], to[k]);
                }
                for (uint32_t i = 0; i < nodes; i++) {
                    least = p.node[i].replicas < least ? p.node[i].replicas : least;
                    most = p.node[i].replicas > most ? p.node[i].replicas : most;
                    leads_least = p.node[i].leads < leads_least ? p.node[i].leads : leads_least;
                    leads_most = p.node[i].leads > leads_most ? p.node[i].leads : leads_most;
                }
                cr_assert_leq(leads_most - leads_least, 1u, "%u nodes, %u replicas", nodes,
                              replicas);
                cr_assert_leq(most - least, 2u, "%u nodes, %u replicas", nodes, replicas);
            }
        }
    }
}

Test(route_place, prefers_who_has_least)
{
    struct vs_placing p = { .count = 3, .node = { { 5, 2, 0 }, { 6, 1, 1 }, { 7, 1, 0 } } };
    uint64_t to[2];

    cr_expect_eq(vs_place_one(&p), (uint64_t)7);
    vs_placing_count(&p, 7, false);
    vs_placing_count(&p, 99, true);
    cr_expect_eq(vs_place_one(&p), (uint64_t)6);
    vs_place(&p, to, 2);
    cr_expect_eq(to[0], (uint64_t)5, "no first place yet, and the smaller number");
    cr_expect_eq(to[1], (uint64_t)6);
}
