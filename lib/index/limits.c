/* limits.c - what a search may cost: a deadline, a flag that cancels it, a number of
 * distances. A search that meets one stops where it is and answers with what it has. */
#include "index/state.h"

enum { CLOCK_EVERY = 64 }; /* distances between two looks at the clock, at least */

void vs_limits_read(struct vs_limits *l, const struct vshard_search_options *o)
{
    *l = (struct vs_limits){ .cancel = o->cancel,
                             .budget = o->distance_budget,
                             .unasked = CLOCK_EVERY };
    if (o->deadline_ns != 0) {
        l->clock = o->clock;
        l->deadline_ns = o->deadline_ns;
    }
    l->on = l->clock != NULL || l->cancel != NULL || l->budget != 0;
}

/* Is the whole call to end? */
bool vs_limits_over(const struct vs_limits *l)
{
    return (l->cut & ~(uint32_t)VSHARD_LIMIT_BUDGET) != 0;
}

/* After `more` distances, `spent` in all for this query: is it to end here? */
bool vs_limits_cut(struct vs_limits *l, uint64_t spent, uint64_t more)
{
    uint32_t cut = 0;

    if (!l->on)
        return false;
    if (l->budget != 0 && spent >= l->budget)
        cut |= VSHARD_LIMIT_BUDGET;
    if (l->cancel != NULL && __atomic_load_n(l->cancel, __ATOMIC_RELAXED) != 0)
        cut |= VSHARD_LIMIT_CANCEL;
    l->unasked += more;
    if (l->clock != NULL && l->unasked >= CLOCK_EVERY) {
        l->unasked = 0;
        if (l->clock->now_ns(l->clock->ctx) >= l->deadline_ns)
            cut |= VSHARD_LIMIT_DEADLINE;
    }
    l->cut |= cut;
    return cut != 0 || vs_limits_over(l);
}

/* After a look at so many rows, which no budget is for: is the whole call to end? */
bool vs_limits_ended(struct vs_limits *l, uint64_t rows)
{
    return l != NULL && vs_limits_cut(l, 0, rows);
}

/* What a cut is to those who asked for a failure. */
int vs_limits_status(const struct vs_limits *l)
{
    return l->cut & VSHARD_LIMIT_CANCEL     ? VSHARD_ECANCELED
           : l->cut & VSHARD_LIMIT_DEADLINE ? VSHARD_ETIMEDOUT
           : l->cut & VSHARD_LIMIT_BUDGET   ? VSHARD_E2BIG
                                            : VSHARD_OK;
}
