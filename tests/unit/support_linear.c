/* support_linear.c - the linearizability checker, on histories whose verdict is known.
 *
 * Method: small histories written by hand, good and bad; then random ones made to
 * be good (each operation takes effect at a moment between call and return), which
 * must pass, and the same with one read falsified into a value that was overwritten
 * before the read began, which must not. For five operations the verdict is also
 * compared with trying all orders. */
#include <criterion/criterion.h>
#include <stdbool.h>

#include "support/linear.h"
#include "support/random.h"

#define OPEN UINT64_MAX
#define CHECK(...)                                          \
    linear_check((const struct linear_op[]){ __VA_ARGS__ }, \
                 sizeof((const struct linear_op[]){ __VA_ARGS__ }) / sizeof(struct linear_op))
#define W(call, ret, value)    \
    {                          \
        call, ret, value, 1, 0 \
    }
#define R(call, ret, value)    \
    {                          \
        call, ret, value, 0, 0 \
    }

Test(support_linear, known_good_histories)
{
    cr_expect_eq(linear_check(NULL, 0), 1);
    cr_expect_eq(CHECK(R(1, 2, 0)), 1);
    cr_expect_eq(CHECK(W(1, 2, 5), R(3, 4, 5)), 1);
    cr_expect_eq(CHECK(W(1, 9, 5), R(2, 3, 0), R(4, 5, 5)), 1);
    cr_expect_eq(CHECK(W(1, 9, 5), W(1, 9, 6), R(10, 11, 5)), 1);
    cr_expect_eq(CHECK(W(1, OPEN, 5), R(2, 3, 0), R(20, 21, 5)), 1, "it took effect late");
    cr_expect_eq(CHECK(W(1, OPEN, 5), R(2, 3, 0)), 1, "or never");
    cr_expect_eq(CHECK(W(1, 4, 5), R(4, 4, 5)), 1, "a read at an instant");
}

Test(support_linear, known_bad_histories)
{
    cr_expect_eq(CHECK(R(1, 2, 5)), 0, "nobody wrote that");
    cr_expect_eq(CHECK(W(1, 2, 5), R(3, 4, 0)), 0, "stale");
    cr_expect_eq(CHECK(W(1, 9, 5), R(2, 3, 5), R(4, 5, 0)), 0, "new, then old");
    cr_expect_eq(CHECK(W(1, 2, 5), W(3, 4, 6), R(5, 6, 5)), 0, "lost update");
    cr_expect_eq(CHECK(W(10, OPEN, 5), R(1, 2, 5)), 0, "read before it was written");
    cr_expect_eq(CHECK(W(1, 9, 5), W(1, 9, 6), R(10, 11, 5), R(12, 13, 6)), 0,
                 "two readers, two orders");
}

/* Sixty of which nobody knows the outcome, and then a read of what was never there: without
 * telling first what they can have done, each set of them is a state to be searched. */
Test(support_linear, unknown_outcomes_do_not_make_it_hard)
{
    struct linear_op op[64];

    for (uint64_t i = 0; i < 60; i++)
        op[i] = (struct linear_op)W(1 + i, OPEN, 100 + i);
    op[60] = (struct linear_op)W(70, 80, 5);
    op[61] = (struct linear_op)R(90, 95, 120);
    op[62] = (struct linear_op)R(96, 99, 120);
    op[63] = (struct linear_op)R(200, 210, 120);
    cr_expect_eq(linear_check(op, 64), 1, "one of them took effect late");
    op[63] = (struct linear_op)R(200, 210, 121);
    cr_expect_eq(linear_check(op, 64), 1, "two did");
    op[63] = (struct linear_op)R(200, 210, 5);
    cr_expect_eq(linear_check(op, 64), 0, "overwritten before");
    op[63] = (struct linear_op)R(200, 210, 7);
    cr_expect_eq(linear_check(op, 64), 0, "nobody wrote that");
}

static bool orders(const struct linear_op *op, size_t n, uint32_t placed, uint64_t value)
{
    bool open = true;

    for (size_t i = 0; i < n; i++)
        open &= (placed >> i & 1) || op[i].ret == OPEN;
    if (open)
        return true;
    for (size_t i = 0; i < n; i++) {
        bool first = !(placed >> i & 1);
        for (size_t k = 0; k < n; k++)
            first &= (placed >> k & 1) || op[k].ret >= op[i].call;
        if (first && (op[i].write || op[i].value == value) &&
            orders(op, n, placed | 1u << i, op[i].write ? op[i].value : value))
            return true;
    }
    return false;
}

Test(support_linear, agrees_with_trying_all_orders)
{
    uint64_t seed = 11;
    int good = 0;

    for (int round = 0; round < 40000; round++) {
        struct linear_op op[5];
        for (int i = 0; i < 5; i++) {
            uint64_t call = random_below(&seed, 20);
            bool write = random_below(&seed, 2);
            op[i] = (struct linear_op){ call, call + random_below(&seed, 12),
                                        random_below(&seed, 4), write, 0 };
            if (write && random_below(&seed, 6) == 0)
                op[i].ret = OPEN;
        }
        good += linear_check(op, 5) == 1;
        cr_assert_eq(linear_check(op, 5), orders(op, 5, 0, 0), "round %d", round);
    }
    cr_expect(good > 1000 && good < 39000, "%d", good);
}

Test(support_linear, long_histories)
{
    for (uint64_t start = 1; start <= 20; start++) {
        struct linear_op op[300];
        uint64_t seed = start, value = 0, at = 0;
        size_t bad = 0;

        for (uint64_t i = 0; i < 300; i++) {
            at += 3 + random_below(&seed, 5);
            op[i] =
                (struct linear_op){ at - random_below(&seed, 20) % at, at + random_below(&seed, 20),
                                    0, (uint32_t)random_below(&seed, 2), 0 };
            if (op[i].write) {
                value = i + 1;
            } else if (i > 200 && bad == 0) {
                bad = i;
            }
            op[i].value = value;
        }
        cr_expect_eq(linear_check(op, 300), 1, "seed %llu", (unsigned long long)start);
        op[bad].value = 1000; /* never written */
        cr_expect_eq(linear_check(op, 300), 0, "seed %llu", (unsigned long long)start);
    }
}
