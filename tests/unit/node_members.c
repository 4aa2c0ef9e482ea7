/* node_members.c - who is a member of a group, in 64 bits of gossip.
 *
 * Method: sets of as many members as a shard has, drawn at random, as incarnations are; each
 * member must be found in its set, and hardly ever somebody else. */
#include <criterion/criterion.h>

#include "node/core.h"
#include "support/random.h"

enum { SETS = 20000 };

static uint32_t strangers(uint32_t members)
{
    uint64_t random = members;
    uint32_t found = 0;

    for (int i = 0; i < SETS; i++) {
        uint64_t set = 0, stranger;

        for (uint32_t k = 0; k < members; k++) {
            uint64_t bits = vs_member_bits(k + 1, random_next(&random));

            set |= bits;
            cr_assert_eq(set & bits, bits);
        }
        stranger = vs_member_bits(members + 1, random_next(&random));
        found += (set & stranger) == stranger;
    }
    return found;
}

Test(node_members, are_hardly_ever_taken_for_others)
{
    cr_expect_leq(strangers(3), SETS / 400u);
    cr_expect_leq(strangers(5), SETS / 80u);
    cr_expect_eq(strangers(0), 0u);
}
