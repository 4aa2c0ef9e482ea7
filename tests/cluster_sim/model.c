/* model.c - what may be read, from what was written and acknowledged.
 *
 * An op takes effect at some moment between its call and its acknowledgement. One that
 * was given up may take effect at any time from its call on; but once the frames that carry
 * it have died (GONE after it was given up), it has happened or never will, so an
 * op that was begun after that comes after it.
 *
 * A reader that must see all that ended before some moment may not see a state which an op
 * that had ended by then came after. It may see every other state that was ever written.
 *
 * That judges each answer by itself. In the end what linearizable fetches of a key found must fit
 * together, too: each key is a register, whose whole history is handed to support/linear.c. */
#include "sim.h"

#include <string.h>

#include "support/linear.h"
#include "support/random.h"

static const uint64_t gone = 4000000000;

void model_init(struct model *m)
{
    memset(m, 0, sizeof *m);
    for (uint32_t key = 0; key < KEYS; key++) { /* at first no key is there */
        struct op *o = &m->op[m->count++];

        *o = (struct op){ .key = key, .client = CLIENTS, .outcome = 1, .ended = 1 };
    }
}

struct op *model_begin(struct model *m, uint64_t now, uint32_t key, uint32_t client)
{
    struct op *o = &m->op[m->count];

    if (m->count == OPS)
        return NULL;
    m->count++;
    m->under_way[key]++;
    *o = (struct op){ .key = key, .client = client, .invoked = now };
    return o;
}

void model_end(struct model *m, uint64_t tag, uint64_t now, int32_t outcome)
{
    for (uint32_t i = KEYS; i < m->count; i++) {
        struct op *o = &m->op[i];

        if (o->tag != tag || o->outcome != 0)
            continue;
        o->outcome = outcome;
        o->ended = now;
        m->under_way[o->key]--;
    }
}

/* Whether b surely took effect after a, and had ended before the moment that counts: of what was
 * answered in that moment nobody can tell, since in one instant of virtual time a client may ask
 * before its answer is there. */
static bool supersedes(const struct op *b, const struct op *a, const struct judge *j)
{
    uint64_t end = a->outcome == 1 ? a->ended : a->ended + gone;

    if (a == b || b->outcome != 1 || b->ended >= j->before || a->outcome == 0)
        return false;
    if (j->client != CLIENTS && b->client != j->client)
        return false;
    return b->invoked > end;
}

static bool may_be_seen(const struct model *m, const struct judge *j, const struct op *a)
{
    if (a->invoked > j->now)
        return false;
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->op[i].key == a->key && supersedes(&m->op[i], a, j))
            return false;
    }
    return true;
}

bool model_allows(const struct model *m, const struct judge *j, uint32_t key, uint32_t live,
                  uint64_t salt)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct op *a = &m->op[i];

        if (a->key == key && a->live == live && (!live || a->salt == salt) && may_be_seen(m, j, a))
            return true;
    }
    return false;
}

bool model_certain(const struct model *m, const struct judge *j, uint32_t key, uint64_t *salt)
{
    const struct op *only = NULL;

    for (uint32_t i = 0; i < m->count; i++) {
        const struct op *a = &m->op[i];

        if (a->key != key || !may_be_seen(m, j, a))
            continue;
        if (only != NULL)
            return false;
        only = a;
    }
    if (only == NULL || !only->live)
        return false;
    *salt = only->salt;
    return true;
}

bool model_knows(const struct model *m, uint32_t key, uint64_t salt)
{
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->op[i].key == key && m->op[i].live && m->op[i].salt == salt)
            return true;
    }
    return false;
}

void model_see(struct model *m, const struct seen *seen)
{
    if (m->seen_count < SEEN)
        m->seen[m->seen_count++] = *seen;
}

int model_linearizable(const struct model *m, uint32_t key)
{
    static struct linear_op op[OPS + SEEN];
    size_t count = 0;

    for (uint32_t i = KEYS; i < m->count; i++) {
        const struct op *o = &m->op[i];

        if (o->key == key)
            op[count++] = (struct linear_op){ o->invoked, o->outcome == 1 ? o->ended : UINT64_MAX,
                                              o->live ? o->salt : 0, 1, o->client };
    }
    for (uint32_t i = 0; i < m->seen_count; i++) {
        const struct seen *s = &m->seen[i];

        if (s->key == key)
            op[count++] = (struct linear_op){ s->asked, s->answered, s->salt, 0, CLIENTS };
    }
    return linear_check(op, count);
}

void vector_of(float *v, uint64_t key, uint64_t salt)
{
    uint64_t state = key * 7919 + salt;

    for (int i = 0; i < DIM; i++)
        v[i] = random_float(&state);
}

float distance(const float *a, const float *b)
{
    float sum = 0;

    for (int i = 0; i < DIM; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}
