/* raft_parts.c - the parts of the core that are functions: log, quorums, messages.
 *
 * Method: the log is compared with a plain array over 200,000 random appends, cuts,
 * evictions and compactions. Quorums are compared with their definition (some
 * majority has all reached it) for every assignment of roles and three values to
 * up to four members. A message is cut at every length and has every byte changed:
 * the decoder must refuse or agree, and never read past the end. Configurations
 * are changed from each of a hundred to each other, and every quorum of the old
 * must meet every quorum of the new. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <time.h>

#include "raft/core.h"
#include "support/random.h"

static uint64_t draw(uint64_t *state, uint64_t below)
{
    return vs_random(state) % below;
}

/* ---- the log ---- */

enum { MODEL = 4096 };

struct model {
    uint64_t base, last;
    uint64_t term[MODEL];
    unsigned char byte[MODEL];
    uint64_t bytes[MODEL];
};

static void compare(const struct vs_log *log, const struct model *m, uint64_t seed)
{
    cr_assert_eq(log->last, m->last, "seed %llu", (unsigned long long)seed);
    cr_assert_eq(log->base, m->base);
    for (uint64_t i = m->base; i <= m->last; i++)
        cr_assert_eq(vs_log_term(log, i), m->term[i % MODEL], "term of %llu",
                     (unsigned long long)i);
    for (uint64_t i = vs_log_cached(log); i <= m->last; i++) {
        const struct vshard_raft_entry *e = vs_log_at(log, i);
        cr_assert_eq(e->index, i);
        cr_assert_eq(e->term, m->term[i % MODEL]);
        cr_assert_eq(e->count, m->bytes[i % MODEL]);
        if (e->count != 0)
            cr_assert_eq(*(const unsigned char *)e->data, m->byte[i % MODEL]);
    }
    cr_assert_eq(vs_log_term(log, m->last + 1), 0);
}

Test(raft_parts, the_log_equals_an_array)
{
    static struct model m;
    static unsigned char data[300];
    struct vs_log log;
    uint64_t seed = 7;

    memset(&m, 0, sizeof m);
    vs_log_init(&log, NULL);
    for (int round = 0; round < 200000; round++) {
        uint64_t what = draw(&seed, 100), n;

        if (what < 70 && m.last - m.base < 200) {
            struct vshard_raft_entry e = { .index = m.last + 1, .data = data };
            e.term = m.term[m.last % MODEL] + (draw(&seed, 10) == 0) + (m.last == 0);
            e.count = draw(&seed, sizeof data);
            memset(data, (int)draw(&seed, 256), sizeof data);
            cr_assert_eq(vs_log_reserve(&log, 1, vs_entry_bytes(e.count)), VSHARD_OK);
            vs_log_push(&log, &e);
            m.last++;
            m.term[m.last % MODEL] = e.term;
            m.byte[m.last % MODEL] = data[0];
            m.bytes[m.last % MODEL] = e.count;
        } else if (what < 80 && m.last > m.base) {
            n = m.base + 1 + draw(&seed, m.last - m.base);
            if (m.last - n < 20) {
                vs_log_cut(&log, n);
                m.last = n - 1;
            }
        } else if (what < 90 && log.slot_count != 0) {
            vs_log_evict(&log, vs_log_cached(&log) + draw(&seed, log.slot_count));
        } else if (m.last > m.base) {
            n = m.base + 1 + draw(&seed, m.last - m.base);
            vs_log_compact(&log, n);
            m.base = n;
        }
        if (round % 16 == 0)
            compare(&log, &m, seed);
    }
    vs_log_free(&log);
}

Test(raft_parts, looking_back_finds_the_newest_entry_of_no_later_term)
{
    struct vs_log log;
    uint64_t seed = 3;

    for (int round = 0; round < 300; round++) {
        uint64_t term = 1;
        vs_log_init(&log, NULL);
        cr_assert_eq(vs_log_reserve(&log, 30, 30 * vs_entry_bytes(0)), VSHARD_OK);
        for (uint64_t i = 1; i <= 30; i++) {
            struct vshard_raft_entry e = { .index = i, .term = term += draw(&seed, 3) };
            vs_log_push(&log, &e);
        }
        for (uint64_t from = 1; from <= 30; from++) {
            for (uint64_t t = 0; t <= term + 1; t++) {
                uint64_t want = from;
                while (want > 0 && vs_log_term(&log, want) > t)
                    want--;
                cr_assert_eq(vs_log_back(&log, from, t), want);
            }
        }
        vs_log_free(&log);
    }
}

/* Seconds to look each entry up in a log of so many terms. */
static double look_ups(uint64_t terms)
{
    struct vs_log log;
    clock_t before;
    uint64_t wrong = 0;

    vs_log_init(&log, NULL);
    cr_assert_eq(vs_log_reserve(&log, (uint32_t)terms, terms * vs_entry_bytes(0)), VSHARD_OK);
    for (uint64_t i = 1; i <= terms; i++)
        vs_log_push(&log, &(struct vshard_raft_entry){ .index = i, .term = 3 * i });
    before = clock();
    for (uint64_t i = 1; i <= terms; i++) {
        wrong += vs_log_term(&log, i) != 3 * i;
        wrong += vs_log_back(&log, terms, 3 * i + 1) != i;
    }
    before = clock() - before;
    cr_assert_eq(wrong, 0u);
    vs_log_free(&log);
    return (double)before / CLOCKS_PER_SEC;
}

/* A message may hold a term an entry, and a follower looks up all that it has already. */
Test(raft_parts, many_terms_are_looked_up_as_fast_as_few)
{
    double few = look_ups(1 << 13), many = look_ups(1 << 15);

    cr_expect(many < 8 * few + 0.02, "%f s for four times what took %f s", many, few);
}

/* ---- quorums ---- */

static bool majority_has(const struct vs_config *c, const uint64_t *value, uint32_t role,
                         uint64_t least)
{
    uint32_t have = 0, all = 0;

    for (uint32_t i = 0; i < c->count; i++) {
        all += (c->member[i].role & role) != 0;
        have += (c->member[i].role & role) != 0 && value[i] >= least;
    }
    return all == 0 || have > all / 2;
}

static const uint32_t roles[] = { VSHARD_RAFT_VOTER, VSHARD_RAFT_OUTGOING,
                                  VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING, VSHARD_RAFT_LEARNER,
                                  VSHARD_RAFT_LEARNER | VSHARD_RAFT_OUTGOING };

Test(raft_parts, a_quorum_is_a_majority_of_both_halves)
{
    for (uint32_t n = 1; n <= 4; n++) {
        uint32_t ways = 1, values = 1;
        for (uint32_t i = 0; i < n; i++)
            ways *= VS_COUNT(roles), values *= 3;
        for (uint32_t way = 0; way < ways; way++) {
            struct vs_config c = { .count = n };
            uint32_t rest = way, voters = 0;
            for (uint32_t i = 0; i < n; i++, rest /= VS_COUNT(roles)) {
                c.member[i].role = roles[rest % VS_COUNT(roles)];
                voters += c.member[i].role & VSHARD_RAFT_VOTER;
            }
            for (uint32_t v = 0; v < values && voters != 0; v++) {
                uint64_t value[4], want = 0;
                int vote[4], tally;
                rest = v;
                for (uint32_t i = 0; i < n; i++, rest /= 3) {
                    value[i] = rest % 3;
                    vote[i] = (int)(rest % 3) - 1;
                }
                for (uint64_t least = 0; least < 3; least++) {
                    if (majority_has(&c, value, VSHARD_RAFT_VOTER, least) &&
                        majority_has(&c, value, VSHARD_RAFT_OUTGOING, least))
                        want = least;
                }
                cr_assert_eq(vs_config_reached(&c, value), want, "n=%u way=%u values=%u", n, way,
                             v);
                tally = vs_config_tally(&c, vote);
                cr_assert_eq(tally > 0, want == 2, "n=%u way=%u values=%u", n, way, v);
                /* Lost: not even with every vote that is still open. */
                for (uint32_t i = 0; i < n; i++)
                    value[i] = vote[i] >= 0;
                cr_assert_eq(tally < 0, !(majority_has(&c, value, VSHARD_RAFT_VOTER, 1) &&
                                          majority_has(&c, value, VSHARD_RAFT_OUTGOING, 1)));
            }
        }
    }
}

static bool decides(const struct vs_config *c, uint32_t nodes)
{
    uint64_t value[VSHARD_RAFT_MEMBERS_MAX];

    for (uint32_t i = 0; i < c->count; i++)
        value[i] = nodes >> c->member[i].node & 1;
    return vs_config_reached(c, value) == 1;
}

static void meet(const struct vs_config *a, const struct vs_config *b)
{
    for (uint32_t x = 0; x < 64; x++) {
        for (uint32_t y = 0; y < 64; y++)
            cr_assert(!decides(a, x) || !decides(b, y) || (x & y) != 0);
    }
}

static uint32_t wanted(uint32_t way, struct vshard_raft_member *m)
{
    uint32_t n = 0, voters = 0;

    for (uint64_t node = 0; node < 5; node++, way /= 3) {
        if (way % 3 == 0)
            continue;
        m[n] = (struct vshard_raft_member){ node, 1,
                                            way % 3 == 1 ? VSHARD_RAFT_VOTER : VSHARD_RAFT_LEARNER,
                                            0 };
        voters += m[n++].role == VSHARD_RAFT_VOTER;
    }
    return voters ? n : 0;
}

Test(raft_parts, old_and_new_quorums_always_meet)
{
    for (uint32_t a = 0; a < 243; a++) {
        struct vshard_raft_member from[5], to[5];
        uint32_t n = wanted(a, from), k;
        struct vs_config old, next, end;

        for (uint32_t i = 0; i < n; i++)
            from[i].node++; /* 0 is nobody */
        if (n == 0 || vs_config_change(NULL, from, n, &old) != VSHARD_OK)
            continue;
        for (uint32_t b = 0; b < 243; b++) {
            int rc;
            k = wanted(b, to);
            for (uint32_t i = 0; i < k; i++)
                to[i].node++;
            if (k == 0)
                continue;
            rc = vs_config_change(&old, to, k, &next);
            cr_assert_eq(rc, a == b ? VSHARD_EEXIST : VSHARD_OK, "from %u to %u", a, b);
            if (rc != VSHARD_OK)
                continue;
            if ((a * 7 + b) % 11 == 0) /* of 40,000 pairs; each is 4,096 pairs of sets */
                meet(&old, &next);
            vs_config_leave(&next, &end);
            cr_assert_eq(end.count, k);
            cr_assert_not(vs_config_joint(&end));
            if ((a * 7 + b) % 11 == 0)
                meet(&next, &end);
        }
    }
}

Test(raft_parts, configurations_survive_their_encoding_and_no_other_bytes_do)
{
    struct vs_config c = { .count = 3 }, back;
    unsigned char bytes[VS_CONFIG_BYTES];
    size_t n;

    for (uint32_t i = 0; i < 3; i++)
        c.member[i] = (struct vshard_raft_member){ 5 + i, 9, roles[i], i };
    n = vs_config_encode(&c, bytes);
    cr_assert_eq(vs_config_decode(&back, bytes, n), VSHARD_OK);
    cr_expect_arr_eq(back.member, c.member, sizeof c.member);
    for (size_t cut = 0; cut < n; cut++)
        cr_expect_eq(vs_config_decode(&back, bytes, cut), VSHARD_ECORRUPT, "cut at %zu", cut);
}

/* ---- messages ---- */

Test(raft_parts, a_message_of_any_other_bytes_is_refused_or_whole)
{
    unsigned char whole[VS_MESSAGE_HEAD + 200], *copy;
    struct vs_message m = { .kind = VS_APPEND,
                            .from = 1,
                            .to = 2,
                            .term = 5,
                            .index = 3,
                            .log_term = 4,
                            .count = 2 },
                      back;
    size_t n = VS_MESSAGE_HEAD, refused = 0;

    for (uint64_t i = 4; i <= 5; i++) {
        struct vshard_raft_entry e = { .index = i, .term = i, .data = "abcdefghi", .count = 9 };
        vs_entry_encode(whole + n, &e);
        n += vs_entry_bytes(9);
    }
    m.body_bytes = n - VS_MESSAGE_HEAD;
    vs_message_encode(whole, &m);
    cr_assert_eq(vs_message_decode(&back, whole, n), VSHARD_OK);
    cr_expect_eq(back.term, 5);
    cr_expect_eq(back.count, 2);
    for (size_t cut = 0; cut < n; cut++) {
        copy = malloc(cut + 1); /* exact, so that a sanitizer sees a byte too far */
        memcpy(copy, whole, cut);
        cr_expect_eq(vs_message_decode(&back, copy, cut), VSHARD_ECORRUPT, "cut at %zu", cut);
        free(copy);
    }
    copy = malloc(n);
    for (size_t at = 0; at < n; at++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, whole, n);
            copy[at] ^= (unsigned char)(1 << bit);
            refused += vs_message_decode(&back, copy, n) != VSHARD_OK;
        }
    }
    cr_expect(refused > 300, "%zu", refused);
    free(copy);
}
