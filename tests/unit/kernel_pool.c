/* kernel_pool.c - every variant keeps the pool that a simple model keeps.
 *
 * Method: the model appends, then sorts by insertion and cuts. The same calls go
 * to the model and to each variant; after each call keys, slots, count and next
 * must be equal. Sequences are random with few and many different keys, all
 * equal, rising, falling and extreme; capacities lie around the vector widths;
 * `next` and the expanded bits move as in a search. The arrays end at an
 * unreadable page after their sixteen spare entries, and the candidates too. */
#include "../support/kernel_data.h"

enum { CAP_LAST = 400, OFFERED = 700, SPARE = 16 };

struct model {
    int32_t keys[CAP_LAST + 1];
    uint32_t slots[CAP_LAST + 1];
    uint32_t count, cap, next;
};

static void model_push(struct model *m, const int32_t *keys, const uint32_t *slots, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t at = 0;
        while (at < m->count && m->keys[at] <= keys[i])
            at++;
        if (at == m->cap)
            continue;
        memmove(m->keys + at + 1, m->keys + at, (m->count - at) * sizeof m->keys[0]);
        memmove(m->slots + at + 1, m->slots + at, (m->count - at) * sizeof m->slots[0]);
        m->keys[at] = keys[i];
        m->slots[at] = slots[i];
        m->count += m->count < m->cap;
        m->next = at < m->next ? at : m->next;
    }
}

enum { FEW, MANY, EQUAL, RISING, FALLING, EXTREME, MOST_REFUSED, SHAPES };

static int32_t key_of(int shape, size_t i, uint64_t *seed)
{
    static const int32_t extreme[] = {
        INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX
    };
    uint64_t r = random_bits(seed);

    switch (shape) {
    case FEW: return (int32_t)(r % 5);
    case MANY: return (int32_t)(uint32_t)r;
    case EQUAL: return 7;
    case RISING: return (int32_t)i;
    case FALLING: return -(int32_t)i;
    case EXTREME: return extreme[r % 7];
    default: return (int32_t)(r % (1000 + 100 * i)); /* worse and worse */
    }
}

/* What a search does between two pushes: marks the next few entries expanded. */
static void expand(uint32_t *slots, uint32_t count, uint32_t *next, uint32_t steps)
{
    for (; *next < count && steps > 0; steps--)
        slots[(*next)++] |= VS_POOL_EXPANDED;
}

static void compare(const struct variant *v, const struct vs_pool *p, const struct model *m,
                    const char *where)
{
    cr_assert(p->count == m->count && p->next == m->next && p->cap == m->cap,
              "%s cpu=%x %s: count %u, want %u; next %u, want %u", v->kernel.name, v->cpu, where,
              p->count, m->count, p->next, m->next);
    for (uint32_t i = 0; i < m->count; i++)
        cr_assert(p->keys[i] == m->keys[i] && p->slots[i] == m->slots[i],
                  "%s cpu=%x %s: entry %u of %u", v->kernel.name, v->cpu, where, i, m->count);
}

static void play(const struct variant *v, uint32_t cap, int shape, uint64_t seed)
{
    struct walled wk = walled_make((cap + SPARE) * 4), ws = walled_make((cap + SPARE) * 4);
    struct walled ck = walled_make(OFFERED * 4), cs = walled_make(OFFERED * 4);
    struct vs_pool p = { (int32_t *)(void *)wk.end - cap - SPARE,
                         (uint32_t *)(void *)ws.end - cap - SPARE, 0, cap, 0 };
    struct model m = { .cap = cap };
    size_t offered = 0, batch;
    char where[64];

    random_fill(wk.from, (size_t)(wk.end - wk.from), &seed); /* nothing relies on zeros */
    random_fill(ws.from, (size_t)(ws.end - ws.from), &seed);
    for (; offered < OFFERED; offered += batch) {
        int32_t *keys;
        uint32_t *slots, steps = (uint32_t)(random_bits(&seed) % 4);

        batch = random_bits(&seed) % 3 ? random_bits(&seed) % 40 : random_bits(&seed) % 200;
        if (batch > OFFERED - offered)
            batch = OFFERED - offered;
        keys = (int32_t *)(void *)ck.end - batch;
        slots = (uint32_t *)(void *)cs.end - batch;
        for (size_t i = 0; i < batch; i++) {
            keys[i] = key_of(shape, offered + i, &seed);
            slots[i] = (uint32_t)(offered + i);
        }
        v->kernel.pool_push(&p, keys, slots, batch);
        model_push(&m, keys, slots, batch);
        snprintf(where, sizeof where, "cap=%u shape=%d after %zu", cap, shape, offered + batch);
        compare(v, &p, &m, where);
        expand(p.slots, p.count, &p.next, steps);
        expand(m.slots, m.count, &m.next, steps);
    }
    walled_free(&wk);
    walled_free(&ws);
    walled_free(&ck);
    walled_free(&cs);
}

Test(kernel_pool, keeps_what_the_model_keeps)
{
    static const uint32_t caps[] = { 1,  2,  3,  7,  8,  9,  10, 15,  16,  17,  23,  24,      25,
                                     31, 32, 33, 63, 64, 65, 99, 100, 127, 128, 129, CAP_LAST };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);

    for (size_t i = 0; i < variants; i++) {
        for (size_t c = 0; c < sizeof caps / sizeof caps[0]; c++) {
            for (int shape = 0; shape < SHAPES; shape++) {
                for (uint64_t seed = 1; seed <= 3; seed++)
                    play(&v[i], caps[c], shape, seed);
            }
        }
    }
}

/* All orders of seven candidates, two of them equal, in every small pool. */
Test(kernel_pool, keeps_what_the_model_keeps_in_every_order)
{
    enum { N = 7 };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    uint32_t slots[N];

    for (uint32_t i = 0; i < N; i++)
        slots[i] = i;
    for (size_t i = 0; i < variants; i++) {
        for (uint32_t cap = 1; cap <= N; cap++) {
            for (uint32_t order = 0; order < 5040; order++) {
                int32_t left[N] = { -3, -2, 0, 0, 1, 2, 3 }, keys[N];
                int32_t pool_keys[N + SPARE];
                uint32_t pool_slots[N + SPARE], digits = order;
                struct vs_pool p = { pool_keys, pool_slots, 0, cap, 0 };
                struct model m = { .cap = cap };
                char where[64];

                for (uint32_t n = N; n > 0; digits /= n, n--) {
                    keys[N - n] = left[digits % n];
                    memmove(left + digits % n, left + digits % n + 1,
                            (n - 1 - digits % n) * sizeof left[0]);
                }
                v[i].kernel.pool_push(&p, keys, slots, N);
                model_push(&m, keys, slots, N);
                snprintf(where, sizeof where, "cap=%u order=%u", cap, order);
                compare(&v[i], &p, &m, where);
            }
        }
    }
}

/* In arrays that end at an unreadable page, from one to others and in place. */
static void keep(const struct variant *v, int32_t most, const int32_t *keys, const uint32_t *slots,
                 size_t count)
{
    struct walled wk = walled_make(count * 4), ws = walled_make(count * 4);
    int32_t *k = (int32_t *)(void *)wk.end - count, want[OFFERED];
    uint32_t *s = (uint32_t *)(void *)ws.end - count, names[OFFERED];
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        want[kept] = keys[i];
        names[kept] = slots[i];
        kept += keys[i] <= most;
    }
    memcpy(k, keys, count * sizeof *k);
    memcpy(s, slots, count * sizeof *s);
    cr_assert_eq(v->kernel.count_keys(most, k, count), kept, "%s cpu=%x", v->kernel.name, v->cpu);
    for (int in_place = 0; in_place < 2; in_place++) {
        struct walled ok = walled_make(kept * 4), os = walled_make(kept * 4);
        int32_t *out_keys = in_place ? k : (int32_t *)(void *)ok.end - kept;
        uint32_t *out_slots = in_place ? s : (uint32_t *)(void *)os.end - kept;

        cr_assert_eq(v->kernel.keep_keys(most, k, s, count, out_keys, out_slots), kept);
        cr_assert(memcmp(out_keys, want, kept * sizeof *want) == 0 &&
                      memcmp(out_slots, names, kept * sizeof *names) == 0,
                  "%s cpu=%x: %zu of %zu", v->kernel.name, v->cpu, kept, count);
        walled_free(&ok);
        walled_free(&os);
    }
    walled_free(&wk);
    walled_free(&ws);
}

Test(kernel_pool, counts_and_keeps_keys_that_are_at_most_so_great)
{
    static const size_t counts[] = { 0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, OFFERED };
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    uint64_t seed = 5;
    int32_t keys[OFFERED];
    uint32_t slots[OFFERED];

    for (int shape = 0; shape < SHAPES; shape++) {
        for (size_t i = 0; i < OFFERED; i++) {
            keys[i] = key_of(shape, i, &seed);
            slots[i] = (uint32_t)random_bits(&seed);
        }
        for (size_t i = 0; i < variants; i++) {
            for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
                keep(&v[i], keys[counts[c] / 2], keys, slots, counts[c]);
                keep(&v[i], INT32_MIN, keys, slots, counts[c]);
                keep(&v[i], INT32_MAX, keys, slots, counts[c]);
            }
        }
    }
}

Test(kernel_pool, a_pool_without_room_stays_empty)
{
    struct variant v[VARIANTS_MAX];
    size_t variants = variants_make(v);
    int32_t keys[SPARE], offered[3] = { 3, INT32_MIN, INT32_MAX };
    uint32_t slots[SPARE], names[3] = { 1, 2, 3 };

    for (size_t i = 0; i < variants; i++) {
        struct vs_pool p = { keys, slots, 0, 0, 0 };
        v[i].kernel.pool_push(&p, offered, names, 3);
        cr_expect(p.count == 0 && p.next == 0, "%s", v[i].kernel.name);
    }
}
