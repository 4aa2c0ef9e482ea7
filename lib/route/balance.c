/* balance.c - how many arcs each shard gets, and which of them move.
 *
 * Quotas, by largest remainder (Hamilton's method). Shard i of weight w_i, of a
 * sum W, is due A * w_i / W of A arcs: it gets that rounded down, and the arcs left
 * over go, one each, to those with the largest remainders. So nobody is a whole
 * arc away from its due. Weights are at most 10^6, arcs 2^20: the product fits 64
 * bits.
 *
 * Where remainders are equal, any of their owners may have the arc. It goes first
 * to members that own more than their due rounded down: one of these would have
 * to give an arc up. That saves one move each time, and nothing else can, so of
 * all balances by largest remainder this one is the nearest to what is there. (The
 * rest of the ties goes to smaller shard numbers, to have one answer.)
 *
 * Moves. A shard that owns more than its quota must give up the difference. That
 * sum is the lower bound for any way to reach the quotas, and it is what moves: no
 * arc leaves a shard that is within its quota. Givers give up their first arcs in
 * ring order, and takers fill up in the order of their numbers, so that what moves
 * lies in long runs. */
#include "route/map.h"

static uint32_t count_above(const struct vshard_map *m, uint64_t remainder)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->member_count; i++)
        n += m->members[i].remainder > remainder;
    return n;
}

/* The smallest remainder of which at most `extra` are larger, found by halving:
 * sorting would need memory, or time in the worst case. */
static uint64_t threshold(const struct vshard_map *m, uint32_t extra)
{
    uint64_t low = 0, high = m->weight;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (count_above(m, middle) <= extra)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* One arc more for `extra` of those with this remainder: in the first pass, those
 * that would have to give it up; in the second, the others. */
static void give_ties(struct vshard_map *m, uint64_t remainder, uint32_t extra)
{
    for (int pass = 1; pass <= 2; pass++) {
        for (uint32_t i = 0; i < m->member_count && extra > 0; i++) {
            struct vs_member *member = &m->members[i];

            if (member->remainder != remainder || (pass == 1 && member->arcs <= member->quota))
                continue;
            member->quota++;
            member->remainder = UINT64_MAX; /* served */
            extra--;
        }
    }
}

static void set_quotas(struct vshard_map *m)
{
    uint32_t extra = m->arcs;
    uint64_t t;

    for (uint32_t i = 0; i < m->member_count; i++) {
        uint64_t due = (uint64_t)m->arcs * m->members[i].weight; /* over m->weight */

        m->members[i].quota = m->weight == 0 ? 0 : (uint32_t)(due / m->weight);
        m->members[i].remainder = m->weight == 0 ? 0 : due % m->weight;
        extra -= m->members[i].quota;
    }
    if (m->weight == 0)
        return;
    t = threshold(m, extra);
    for (uint32_t i = 0; i < m->member_count; i++) {
        if (m->members[i].remainder > t) {
            m->members[i].quota++;
            extra--;
        }
    }
    give_ties(m, t, extra);
}

static uint16_t next_taker(const struct vshard_map *m, uint32_t row)
{
    while (row < m->member_count && m->members[row].arcs >= m->members[row].quota)
        row++;
    return row < m->member_count ? (uint16_t)row : VS_NOBODY;
}

void vs_map_balance(struct vshard_map *m)
{
    uint16_t taker;

    set_quotas(m);
    taker = next_taker(m, 0);
    for (uint32_t a = 0; a < m->arcs; a++) {
        uint16_t giver = m->owner[a];

        if (giver != VS_NOBODY) {
            if (m->members[giver].arcs <= m->members[giver].quota)
                continue;
            m->members[giver].arcs--;
        }
        m->owner[a] = taker;
        if (taker != VS_NOBODY && ++m->members[taker].arcs == m->members[taker].quota)
            taker = next_taker(m, taker);
    }
}
