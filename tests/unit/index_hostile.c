/* index_hostile.c - what is made to be slow is not.
 *
 * Method: ids that fall on one place of a table, and values in the worst order for a selection, are
 * made by who knows the code, from the private header index/state.h. Of ids the longest run of
 * taken places is looked at; of values what the selection takes, beside that of others. */
#include <criterion/criterion.h>

#include <math.h>
#include <time.h>

#include "index/state.h"
#include "support/index_data.h"
#include "support/random.h"

enum { D = 2, ROWS = 4000, VALUES = 40000, TIMES = 50 };

static uint64_t longest_run(const struct vs_idmap *map)
{
    const struct vs_idtable *table = vs_idmap_table(map);
    uint64_t run = 0, longest = 0;

    for (uint64_t i = 0; i < 2 * table->cap; i++) {
        run = atomic_load(&table->slots[i % table->cap]) == VS_SLOT_NONE ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    return longest;
}

Test(index_hostile, ids_that_fall_on_one_place_are_not_known_without_the_seed)
{
    uint64_t seed = 1, *ids = malloc(ROWS * sizeof *ids);
    void *vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, D);

    for (uint64_t i = 0; i < ROWS; i++)
        ids[i] = random_unmix(i << 32);
    cr_assert_eq(vs_mix64(ids[7]), 7ull << 32);
    for (uint64_t known = 0; known < 2; known++) {
        struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
        struct vshard_index *x;

        o.seed = known ? 0 : 0x9e3779b97f4a7c15u;
        o.family = VSHARD_FAMILY_FLAT;
        x = make_index(&o);
        add_rows(x, ids, vectors, ROWS);
        remove_rows(x, ids, ROWS / 2);
        add_rows(x, ids, vectors, ROWS);
        expect_clean(x, "ids of one place");
        if (known)
            cr_expect_geq(longest_run(&x->ids), ROWS, "the ids are not as bad as they could be");
        else
            cr_expect_lt(longest_run(&x->ids), 200);
        vshard_index_destroy(x);
    }
    free(vectors);
    free(ids);
}

/* McIlroy (1999), A killer adversary for quicksort: an element has no value yet until it is
 * compared with another that has none; then one of them gets the least that is left, and it is the
 * pivot whenever that is one of them. */
struct adversary {
    float *value; /* [VALUES] INFINITY: none yet */
    float next;
    uint32_t pivot;
};

static bool is_below(struct adversary *a, uint32_t one, uint32_t other)
{
    if (isinf(a->value[one]) && isinf(a->value[other])) {
        uint32_t decided = one == a->pivot ? one : other;

        a->value[decided] = a->next++;
    }
    if (isinf(a->value[one]))
        a->pivot = one;
    else if (isinf(a->value[other]))
        a->pivot = other;
    return a->value[one] < a->value[other];
}

/* What vs_nth() compares, without an end to its rounds. */
static void make_worst(float *out, size_t rank)
{
    uint32_t *at = malloc(VALUES * sizeof *at);
    struct adversary a = { out, 0, 0 };
    size_t first = 0, last = VALUES - 1;

    for (uint32_t i = 0; i < VALUES; i++) {
        at[i] = i;
        out[i] = INFINITY;
    }
    while (first < last) {
        uint32_t pivot = at[first + (last - first) / 2], t;
        size_t i = first, j = last;

        for (;;) {
            while (at[i] != pivot && is_below(&a, at[i], pivot))
                i++;
            while (at[j] != pivot && is_below(&a, pivot, at[j]))
                j--;
            if (i >= j)
                break;
            t = at[i];
            at[i++] = at[j];
            at[j--] = t;
        }
        if (rank <= j)
            last = j;
        else
            first = j + 1;
    }
    for (uint32_t i = 0; i < VALUES; i++)
        out[i] = isinf(out[i]) ? a.next++ : out[i];
    free(at);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Nanoseconds of processor time, the least of three. */
static double nth_ns(const float *values, size_t rank, float *found)
{
    float *v = malloc(VALUES * sizeof *v);
    double least = INFINITY;

    for (int i = 0; i < 3; i++) {
        struct timespec from, to;
        double ns;

        memcpy(v, values, VALUES * sizeof *v);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        *found = vs_nth(v, VALUES, rank);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        ns = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
        least = ns < least ? ns : least;
    }
    free(v);
    return least;
}

Test(index_hostile, a_selection_takes_no_longer_in_any_order_than_in_some)
{
    size_t rank = VALUES - 1 - VALUES / 1000;
    float *worst = malloc(VALUES * sizeof *worst), *any = malloc(VALUES * sizeof *any), found;
    uint64_t seed = 1;
    double slow, usual;

    make_worst(worst, rank);
    draw_elements(&seed, VSHARD_ELEMENT_F32, any, VALUES);
    usual = nth_ns(any, rank, &found);
    qsort(any, VALUES, sizeof *any, by_value);
    cr_expect_eq(found, any[rank]);
    slow = nth_ns(worst, rank, &found);
    qsort(worst, VALUES, sizeof *worst, by_value);
    cr_expect_eq(found, worst[rank]);
    printf("index_hostile: %d values, the worst order %.0f ns, any %.0f ns\n", VALUES, slow, usual);
    cr_expect_leq(slow, TIMES * usual, "%.0f ns, and %.0f in any order", slow, usual);
    free(worst);
    free(any);
}

/* The value there, in orders and with values that a selection may stumble over. */
Test(index_hostile, a_selection_finds_the_value)
{
    enum { FEW = 130 };
    float v[FEW], sorted[FEW];
    uint64_t seed = 2;

    for (uint32_t count = 1; count <= FEW; count += 3) {
        for (int kind = 0; kind < 4; kind++) {
            for (size_t rank = 0; rank < count; rank++) {
                for (uint32_t i = 0; i < count; i++)
                    v[i] = kind == 0   ? random_float(&seed)
                           : kind == 1 ? (float)i
                           : kind == 2 ? (float)random_below(&seed, 3) - 1
                                       : -(float)(i < count / 2 ? i : count - i);
                memcpy(sorted, v, count * sizeof *v);
                qsort(sorted, count, sizeof *v, by_value);
                cr_expect(vs_nth(v, count, rank) == sorted[rank], "kind %d, %zu of %u", kind, rank,
                          count);
            }
        }
    }
}
