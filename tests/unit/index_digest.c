/* index_digest.c - equal calls build equal indexes, on any machine and any threads.
 *
 * Method: one long history of adds in batches of many sizes, upserts, removes and
 * repairs is played several times: on 1 to 8 threads, with the kernels of every subset
 * of this machine's instruction sets, and by an index that is saved, destroyed and
 * opened again after every step. After each step all must have the digest of the first
 * play. To take instruction sets away, the test reaches into the index by the private
 * header index/state.h and calls vs_kernel_init() again with fewer CPU bits, right
 * after create or open: no public call can, since nobody else should want to. */
#include <criterion/criterion.h>

#include "index/state.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/pool.h"
#include "support/sanitized.h"

enum { N = 3600, D = 19, D_SKETCHES = 66, D_AXES = 300, STEPS = 15 };

struct play {
    uint32_t metric, element, dim, profile;
    uint32_t cpu, threads;
    uint32_t reopens; /* after each step */
    uint64_t seed;
    struct fault_storage *fs;
    struct pool *pool;
    struct vshard_index *x;
    unsigned char *vectors;
    uint64_t *ids;
    uint32_t active; /* steps that ended in the midst of a repair */
    float scales[2]; /* of codes, once trained and in the end */
    uint64_t digests[STEPS];
};

static void add_range(struct play *p, uint32_t first, uint32_t count, uint32_t batch)
{
    size_t bytes = p->dim * element_bytes(p->element);

    for (uint32_t done = 0; done < count; done += batch) {
        uint32_t n = count - done < batch ? count - done : batch;

        add_rows(p->x, p->ids + first + done, p->vectors + (first + done) * bytes, n);
    }
}

static void calibrate(struct play *p)
{
    cr_assert_eq(vshard_index_calibrate(p->x, NULL, 50), 0);
}

/* Gives rows [first, first + count) the vectors of others. */
static void replace_range(struct play *p, uint32_t first, uint32_t count)
{
    size_t bytes = p->dim * element_bytes(p->element);

    add_rows(p->x, p->ids + first, p->vectors + (N - first - count) * bytes, count);
}

static void maintain(struct play *p, uint64_t budget)
{
    cr_assert_eq(vshard_index_maintain(p->x, budget, NULL), 0);
}

static void take_step(struct play *p, uint32_t step)
{
    switch (step) {
    case 0: add_range(p, 0, 200, 7); break;
    case 1: add_range(p, 200, 100, 33); break; /* trains */
    case 2: add_range(p, 300, 1700, 1700); break;
    case 3: add_range(p, 2000, 200, 1), calibrate(p); break;
    case 4: replace_range(p, 100, 300); break;
    case 5: remove_rows(p->x, p->ids + 500, 400); break;
    case 6: maintain(p, 700); break; /* begins a pass */
    case 7: remove_rows(p->x, p->ids + 1500, 3); break;
    case 8: add_range(p, 2200, 1, 1); break;
    case 9: maintain(p, 0); break;
    case 10: add_range(p, 2201, 1399, 150); break; /* into freed slots, and new ones */
    case 11: remove_rows(p->x, p->ids + 1600, 999); break;
    case 12: remove_rows(p->x, p->ids + 2600, 3); break;      /* begins a pass by itself */
    case 13: add_range(p, 400, 600, 64), calibrate(p); break; /* beside removed rows */
    default: maintain(p, 0); break;
    }
}

static void reopen(struct play *p)
{
    struct vshard_open_options o = { .size = sizeof o,
                                     .executor = pool_executor(p->pool),
                                     .storage = fault_storage_hook(p->fs) };

    cr_assert_eq(vshard_index_save(p->x, "/i"), 0);
    vshard_index_destroy(p->x);
    cr_assert_eq(vshard_index_open("/i", &o, &p->x), 0);
    vs_kernel_init(&p->x->kernel, p->cpu);
}

/* The last rows lie elsewhere, so that codes are made anew (retrain.c). */
static void move_last(struct play *p)
{
    for (size_t i = 2300; p->element == VSHARD_ELEMENT_F32 && i < N; i++) {
        float *v = (float *)(void *)p->vectors + i * p->dim;

        for (uint32_t j = 0; j < p->dim; j += 8)
            v[j] += 40;
    }
}

static void play(struct play *p)
{
    struct vshard_index_options o = small_options(p->dim, p->metric, p->element);
    uint64_t seed = 77;

    p->fs = fault_storage_create(1);
    p->pool = pool_create(p->threads);
    p->vectors = draw_vectors(&seed, p->element, N, p->dim);
    move_last(p);
    p->ids = number_ids(1, N);
    p->active = 0;
    o.seed = p->seed;
    o.profile = p->profile;
    o.executor = pool_executor(p->pool);
    o.storage = fault_storage_hook(p->fs);
    p->x = make_index(&o);
    vs_kernel_init(&p->x->kernel, p->cpu);
    for (uint32_t step = 0; step < STEPS; step++) {
        take_step(p, step);
        p->digests[step] = digest_of(p->x);
        p->active += p->x->repair.active;
        p->scales[step > 2] = p->x->quantizer.scale;
        if (p->reopens)
            reopen(p);
    }
    expect_clean(p->x, "at the end");
    vshard_index_destroy(p->x);
    pool_destroy(p->pool);
    fault_storage_destroy(p->fs);
    free(p->vectors);
    free(p->ids);
}

static void expect_equal(const struct play *first, struct play then)
{
    play(&then);
    for (uint32_t step = 0; step < STEPS; step++)
        cr_assert_eq(then.digests[step], first->digests[step],
                     "%s %s, cpu %#x, %u threads, %s: another digest after step %u",
                     metric_names[then.metric], element_names[then.element], then.cpu, then.threads,
                     then.reopens ? "reopened" : "kept open", step);
}

static struct play first_lean_play(uint32_t metric, uint32_t element, uint32_t dim,
                                   uint32_t profile)
{
    struct play p = { .metric = metric,
                      .element = element,
                      .dim = dim,
                      .profile = profile,
                      .threads = 1,
                      .seed = 5,
                      .cpu = vs_os_cpu() };

    play(&p);
    cr_assert(element != VSHARD_ELEMENT_F32 || profile == VSHARD_PROFILE_LEAN ||
                  p.scales[0] != p.scales[1],
              "codes were never made anew");
    cr_assert(p.active >= 4, "the history has %u steps in the midst of a repair", p.active);
    for (uint32_t i = 0; i < STEPS; i++) {
        for (uint32_t j = 0; j < i; j++)
            cr_assert_neq(p.digests[i], p.digests[j], "steps %u and %u change nothing", i, j);
    }
    return p;
}

static struct play first_play(uint32_t metric, uint32_t element, uint32_t dim)
{
    return first_lean_play(metric, element, dim, VSHARD_PROFILE_DEFAULT);
}

/* Under a sanitizer the fewest and the most: to compare digests none is needed. */
Test(index_digest, does_not_depend_on_the_number_of_threads)
{
    struct play first = first_play(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, D);

    for (uint32_t threads = 1; threads <= 8; threads += SANITIZED ? 7 : 1) {
        struct play then = first;

        then.threads = threads;
        expect_equal(&first, then);
    }
}

/* From no bits to all, one more at a time; under a sanitizer, which takes ten times as long, none
 * and all. That each function is the same in every subset of them is what the kernels' own tests
 * prove. */
static void play_on_each_cpu(uint32_t metric, uint32_t element, uint32_t dim)
{
    static const uint32_t bits[] = { VSHARD_CPU_SSE2,    VSHARD_CPU_NEON,   VSHARD_CPU_AVX2,
                                     VSHARD_CPU_AVXVNNI, VSHARD_CPU_AVX512, ~0u };
    struct play first = first_play(metric, element, dim);
    uint32_t all = vs_os_cpu(), cpu = 0;

    for (size_t i = 0; i <= VS_COUNT(bits); i++) {
        struct play then = first;

        then.cpu = cpu;
        then.threads = 3;
        if (i == 0 || ((bits[i - 1] & all) && (!SANITIZED || i == VS_COUNT(bits))))
            expect_equal(&first, then);
        if (i < VS_COUNT(bits))
            cpu |= bits[i] & all;
    }
}

Test(index_digest, does_not_depend_on_the_instruction_set_for_f32)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++)
        play_on_each_cpu(metric, VSHARD_ELEMENT_F32, D);
}

Test(index_digest, does_not_depend_on_the_instruction_set_for_u8)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++)
        play_on_each_cpu(metric, VSHARD_ELEMENT_U8, D);
}

Test(index_digest, does_not_depend_on_the_instruction_set_for_i8)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++)
        play_on_each_cpu(metric, VSHARD_ELEMENT_I8, D);
}

Test(index_digest, does_not_depend_on_the_instruction_set_for_f16)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++)
        play_on_each_cpu(metric, VSHARD_ELEMENT_F16, D);
}

Test(index_digest, does_not_depend_on_the_instruction_set_for_bits)
{
    play_on_each_cpu(VSHARD_METRIC_HAMMING, VSHARD_ELEMENT_BITS, D);
}

/* Sketches come of floats, and take part in the building. */
Test(index_digest, does_not_depend_on_the_instruction_set_with_sketches)
{
    play_on_each_cpu(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, D_SKETCHES);
    play_on_each_cpu(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_U8, D_SKETCHES);
    play_on_each_cpu(VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32, D_AXES);
}

/* By every compiler, on every architecture. Who changes how graphs are built on purpose writes down
 * what comes of it, and says so in the CHANGELOG: replicas that were built otherwise are others. */
Test(index_digest, is_this_number_with_sketches_that_have_axes)
{
    struct play p = first_play(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, D_AXES);

    cr_expect_eq(p.digests[STEPS - 1], 0xfb29367aa568eb81u, "%016llx",
                 (unsigned long long)p.digests[STEPS - 1]);
}

Test(index_digest, of_a_lean_index_depends_on_calls_alone)
{
    for (uint32_t metric = 0; metric < NUMBER_METRICS; metric++) {
        uint32_t element = metric % 2 ? VSHARD_ELEMENT_F16 : VSHARD_ELEMENT_F32;
        struct play first = first_lean_play(metric, element, D, VSHARD_PROFILE_LEAN), then = first;

        then.threads = 3;
        then.cpu = 0;
        expect_equal(&first, then);
        then.cpu = first.cpu;
        then.reopens = 1;
        expect_equal(&first, then);
    }
}

Test(index_digest, does_not_depend_on_being_saved_and_opened_with_sketches)
{
    struct play first = first_play(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, D_AXES);
    struct play then = first;

    then.reopens = 1;
    then.threads = 2;
    expect_equal(&first, then);
}

Test(index_digest, does_not_depend_on_being_saved_and_opened)
{
    for (uint32_t at = 0; at < METRICS * ELEMENTS; at++) {
        struct play first, then;

        if (at % 4 == 3 || !combine(at % METRICS, at / METRICS)) /* enough, in less time */
            continue;
        first = then = first_play(at % METRICS, at / METRICS, D);
        then.reopens = 1;
        then.threads = 2;
        expect_equal(&first, then);
    }
}

Test(index_digest, depends_on_the_seed)
{
    struct play first = first_play(VSHARD_METRIC_COSINE, VSHARD_ELEMENT_F32, D), then = first;

    then.seed = 6;
    play(&then);
    for (uint32_t step = 0; step < STEPS; step++)
        cr_expect_neq(then.digests[step], first.digests[step], "step %u", step);
}

static struct vshard_index *made_of(const struct vshard_index_options *o, const float *v,
                                    const uint64_t *ids, uint32_t count)
{
    struct vshard_index *x = make_index(o);

    add_rows(x, ids, v, count);
    return x;
}

Test(index_digest, depends_on_options_vectors_ids_and_order)
{
    struct vshard_index_options o = small_options(D, 0, 0), other[6];
    uint64_t seed = 8, digest, *ids = number_ids(0, 400);
    float *v = draw_vectors(&seed, VSHARD_ELEMENT_F32, 400, D);
    struct vshard_index *x = made_of(&o, v, ids, 400);

    digest = digest_of(x);
    vshard_index_destroy(x);
    for (uint32_t i = 0; i < 6; i++)
        other[i] = o;
    other[0].m = 7;
    other[1].ef_construction = 41;
    other[2].ef_search = 41;
    other[3].train_rows = 257;
    other[4].metric = VSHARD_METRIC_COSINE;
    other[5].profile = VSHARD_PROFILE_LEAN;
    for (uint32_t i = 0; i < 6; i++) {
        x = made_of(&other[i], v, ids, 400);
        cr_expect_neq(digest_of(x), digest, "option %u", i);
        vshard_index_destroy(x);
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 1)
            v[399 * D] += 0.5f;
        if (i == 2)
            ids[5] = 1000;
        if (i == 3) {
            v[399 * D] -= 0.5f;
            ids[5] = 6;
            ids[6] = 5;
        }
        x = made_of(&o, v, ids, 400);
        cr_expect_eq(digest_of(x) == digest, i == 0, "change %u", i);
        vshard_index_destroy(x);
    }
    free(v);
    free(ids);
}
