/* index_reader_threads.c - a reader who began before a change sees what was there then.
 *
 * Method: a reader is held where it began. A writer on a thread of its own changes rows that
 * were added since, so that it must wait for that reader in the midst of its change; and
 * there ids are looked up. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "index/state.h"
#include "support/index_data.h"

enum { D = 8, ROWS = 400, OLD = 7, OTHER = 9, NEW = 1000 };

struct waiting {
    struct vshard_index *x;
    float *vectors; /* [ROWS][D] */
    void (*change)(struct waiting *w);
    uint64_t epoch;
    pthread_t writer;
};

static void replace_old(struct waiting *w)
{
    add_rows(w->x, &(uint64_t){ OLD }, w->vectors, 1);
}

static void remove_both(struct waiting *w)
{
    remove_rows(w->x, (uint64_t[]){ OLD, NEW, OLD }, 3);
}

static void remove_three(struct waiting *w)
{
    remove_rows(w->x, (uint64_t[]){ OTHER, NEW, NEW + 1 }, 3);
}

static void *change_on(void *arg)
{
    struct waiting *w = arg;

    w->change(w);
    return NULL;
}

static struct waiting make_waiting_of(uint32_t family, uint32_t profile, size_t rows)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    struct waiting w = { .x = NULL };
    uint64_t seed = 1, *ids = number_ids(0, rows);

    o.family = family;
    o.profile = profile;
    w.x = make_index(&o);
    w.vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, ROWS, D);
    add_rows(w.x, ids, w.vectors, rows);
    vs_readers_drain(w.x); /* so that no change of these waits for readers */
    free(ids);
    return w;
}

static struct waiting make_waiting(uint32_t family)
{
    return make_waiting_of(family, 0, ROWS);
}

/* Returns when the writer waits for readers. */
static void begin_change(struct waiting *w, void (*change)(struct waiting *w))
{
    w->change = change;
    w->epoch = atomic_load(&w->x->epoch);
    cr_assert_eq(pthread_create(&w->writer, NULL, change_on, w), 0);
    while (atomic_load(&w->x->epoch) == w->epoch)
        vs_os_yield();
}

static void end_waiting(struct waiting *w)
{
    expect_clean(w->x, "afterwards");
    vshard_index_destroy(w->x);
    free(w->vectors);
}

Test(index_reader_threads, a_row_that_is_replaced_twice_is_found_by_a_reader_from_before)
{
    struct waiting w = make_waiting(VSHARD_FAMILY_HNSW);
    struct vs_reader *held;
    uint32_t before, position;

    cr_assert_eq(vs_reader_enter(w.x, &held), 0);
    position = held->scratch[0].position;
    before = vs_find_visible(w.x, OLD, position);
    cr_assert_neq(before, VS_SLOT_NONE);
    replace_old(&w);
    cr_expect_eq(vs_find_visible(w.x, OLD, position), before);
    begin_change(&w, replace_old);
    cr_expect_eq(vs_find_visible(w.x, OLD, position), before);
    vs_reader_leave(held);
    pthread_join(w.writer, NULL);
    end_waiting(&w);
}

/* A call that removes rows is one change, for those who fetch as for those who search. */
static void removed_together(uint32_t family)
{
    struct waiting w = make_waiting(family);
    struct vs_reader *held;
    float vector[D];

    cr_assert_eq(vs_reader_enter(w.x, &held), 0);
    add_rows(w.x, &(uint64_t){ NEW }, w.vectors, 1);
    begin_change(&w, remove_both);
    cr_expect_eq(vshard_index_fetch(w.x, &(uint64_t){ OLD }, 1, vector, NULL), 0, "family %u",
                 family);
    cr_expect_eq(vshard_index_fetch(w.x, &(uint64_t){ NEW }, 1, vector, NULL), 0);
    vs_reader_leave(held);
    pthread_join(w.writer, NULL);
    cr_expect_eq(vshard_index_fetch(w.x, &(uint64_t){ NEW }, 1, vector, NULL), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_index_fetch(w.x, &(uint64_t){ OLD }, 1, vector, NULL), VSHARD_ENOTFOUND);
    end_waiting(&w);
}

Test(index_reader_threads, rows_of_one_call_are_removed_at_once)
{
    removed_together(VSHARD_FAMILY_FLAT);
    removed_together(VSHARD_FAMILY_HNSW);
}

/* ---- a graph begins ---- */

enum { BEFORE = 250, AFTER = 300 }; /* of 256 that a graph takes */

static void add_first(struct waiting *w, size_t count)
{
    uint64_t *ids = number_ids(0, count);

    add_rows(w->x, ids, w->vectors, count);
    free(ids);
}

static void replace_all(struct waiting *w)
{
    add_first(w, AFTER);
}

/* Rows that are replaced by the call that makes the graph are not in it. Who sees them still
 * must go on to scan. */
static void replaced_as_a_graph_begins(uint32_t profile)
{
    struct waiting w = make_waiting_of(VSHARD_FAMILY_HNSW, profile, BEFORE);
    struct vs_reader *held;
    uint32_t position, before;

    add_first(&w, BEFORE); /* so that ids need no larger table, for which it would wait, too */
    vs_readers_drain(w.x);
    cr_assert_eq(vs_reader_enter(w.x, &held), 0);
    position = held->scratch[0].position;
    before = vs_find_visible(w.x, OLD, position);
    begin_change(&w, replace_all);
    cr_expect_eq(atomic_load(&w.x->trained), 0, "profile %u", profile);
    cr_expect_eq(vs_find_visible(w.x, OLD, position), before);
    vs_reader_leave(held);
    pthread_join(w.writer, NULL);
    cr_expect_eq(atomic_load(&w.x->trained), 1);
    end_waiting(&w);
}

Test(index_reader_threads, a_graph_begins_when_nobody_sees_rows_that_are_not_in_it)
{
    replaced_as_a_graph_begins(0);
    replaced_as_a_graph_begins(VSHARD_PROFILE_LEAN);
}

/* ---- the count ---- */

Test(index_reader_threads, rows_are_counted_as_readers_see_them)
{
    struct waiting w = make_waiting(VSHARD_FAMILY_HNSW);
    struct vs_reader *held;

    cr_assert_eq(vs_reader_enter(w.x, &held), 0);
    replace_old(&w);
    begin_change(&w, replace_old);
    cr_expect_eq(vshard_index_count(w.x), ROWS);
    vs_reader_leave(held);
    pthread_join(w.writer, NULL);
    add_rows(w.x, &(uint64_t){ NEW }, w.vectors, 1);
    cr_assert_eq(vs_reader_enter(w.x, &held), 0);
    add_rows(w.x, &(uint64_t){ NEW + 1 }, w.vectors, 1);
    begin_change(&w, remove_three);
    cr_expect_eq(vshard_index_count(w.x), ROWS + 2, "a call that removes is not done yet");
    vs_reader_leave(held);
    pthread_join(w.writer, NULL);
    cr_expect_eq(vshard_index_count(w.x), ROWS - 1);
    end_waiting(&w);
}
