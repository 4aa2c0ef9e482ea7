/* linear.c - was this history of a register linearizable?
 *
 * The search of Wing and Gong as Lowe sharpened it: of the operations that are not
 * placed yet, any whose call comes before every return may be next; try each that
 * the register allows, and remember (set placed, value) so that no state is
 * searched twice. An operation whose outcome is unknown may be placed anywhere
 * after its call, or never; of many such each set would be a state of its own, so what
 * they can have done is settled first. */
#include "support/linear.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

enum { OPS_MAX = 1024, WORDS = OPS_MAX / 64, TRIES = 2000000 };

struct search {
    const struct linear_op *op;
    size_t count, left; /* left: operations with a return, not placed */
    uint64_t placed[WORDS];
    uint64_t *seen;
    size_t seen_cap, seen_count;
    uint64_t hash; /* of `placed`, by sums of words per operation */
    long tries;
};

static uint64_t spread(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static bool remember(struct search *s, uint64_t key)
{
    if (s->seen_count * 2 >= s->seen_cap) {
        size_t cap = s->seen_cap ? s->seen_cap * 2 : 1024;
        uint64_t *seen = calloc(cap, sizeof *seen);

        for (size_t i = 0; i < s->seen_cap; i++) {
            size_t at = s->seen[i] & (cap - 1);
            if (s->seen[i] == 0)
                continue;
            while (seen[at] != 0)
                at = (at + 1) & (cap - 1);
            seen[at] = s->seen[i];
        }
        free(s->seen);
        s->seen = seen;
        s->seen_cap = cap;
    }
    key |= 1;
    for (size_t at = key & (s->seen_cap - 1);; at = (at + 1) & (s->seen_cap - 1)) {
        if (s->seen[at] == key)
            return false;
        if (s->seen[at] == 0) {
            s->seen[at] = key;
            s->seen_count++;
            return true;
        }
    }
}

static int search(struct search *s, uint64_t value)
{
    uint64_t first_return = NEVER;

    if (s->left == 0)
        return 1;
    if (++s->tries > TRIES)
        return -1;
    if (!remember(s, spread(s->hash ^ spread(~value))))
        return 0;
    for (size_t i = 0; i < s->count; i++) {
        if (!(s->placed[i / 64] >> (i % 64) & 1) && s->op[i].ret < first_return)
            first_return = s->op[i].ret;
    }
    for (size_t i = 0; i < s->count && s->op[i].call <= first_return; i++) {
        const struct linear_op *o = &s->op[i];
        int verdict;

        if ((s->placed[i / 64] >> (i % 64) & 1) || (!o->write && o->value != value))
            continue;
        s->placed[i / 64] |= (uint64_t)1 << (i % 64);
        s->hash += spread(i + 1);
        s->left -= o->ret != NEVER;
        verdict = search(s, o->write ? o->value : value);
        s->left += o->ret != NEVER;
        s->hash -= spread(i + 1);
        s->placed[i / 64] &= ~((uint64_t)1 << (i % 64));
        if (verdict != 0)
            return verdict;
    }
    return 0;
}

static int by_call(const void *a, const void *b)
{
    const struct linear_op *x = a, *y = b;

    return x->call < y->call ? -1 : x->call > y->call;
}

/* The same operation with what others have seen of it. Of one whose outcome is unknown: a write
 * that nobody read explains nothing, and false is returned: what holds with it holds without.
 * One that somebody read took effect before that read returned, if no other wrote the same. */
static bool settle(struct linear_op *o, const struct linear_op *op, size_t count)
{
    uint64_t first = NEVER;
    size_t writers = o->value == 0; /* the register starts so */

    if (o->ret != NEVER)
        return true;
    for (size_t i = 0; i < count && o->write; i++) {
        if (op[i].value != o->value)
            continue;
        writers += op[i].write;
        if (!op[i].write && op[i].ret < first)
            first = op[i].ret;
    }
    if (writers == 1)
        o->ret = first;
    return first != NEVER;
}

int linear_check(const struct linear_op *op, size_t count)
{
    struct search s = { 0 };
    struct linear_op *sorted;
    int verdict;

    sorted = malloc((count + 1) * sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        struct linear_op o = op[i];

        if (!settle(&o, op, count)) /* nor does a read say anything that nobody saw */
            continue;
        sorted[s.count++] = o;
        s.left += o.ret != NEVER;
    }
    if (s.count > OPS_MAX) {
        free(sorted);
        return -1;
    }
    qsort(sorted, s.count, sizeof *sorted, by_call);
    s.op = sorted;
    verdict = search(&s, 0);
    free(s.seen);
    free(sorted);
    return verdict;
}
