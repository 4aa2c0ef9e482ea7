/* support_alloc.c - the fault allocator sees what it says it sees.
 *
 * Method: commit each breach on purpose, and expect to be found out. */
#include <criterion/criterion.h>

#include "base/base.h"
#include "support/fault_alloc.h"

static struct fault_alloc memory;

static void init(void)
{
    fault_alloc_init(&memory);
}

static void fini(void)
{
    fault_alloc_fini(&memory);
}

TestSuite(support_alloc, .init = init, .fini = fini);

static void *resize(void *old, size_t old_bytes, size_t new_bytes)
{
    return memory.hook.resize(memory.hook.ctx, old, old_bytes, new_bytes, 64);
}

static void expect_verdict(const char *text)
{
    const char *verdict = fault_alloc_verdict(&memory);

    cr_assert_not_null(verdict, "expected: %s", text);
    cr_expect_not_null(strstr(verdict, text), "expected: %s, got: %s", text, verdict);
}

Test(support_alloc, finds_nothing_wrong_with_honest_use)
{
    unsigned char *p = resize(NULL, 0, 100);

    cr_assert_not_null(p);
    memset(p, 7, 100);
    p = resize(p, 100, 1000);
    cr_expect(p[0] == 7 && p[99] == 7, "the shorter of the two is kept");
    cr_expect_eq(p[100], 0xa5, "fresh bytes are rubbish");
    p = resize(p, 1000, 10);
    cr_expect_eq(memory.bytes, 10);
    cr_expect_eq(memory.bytes_peak, 1100, "both live while one is moved");
    cr_expect_null(resize(p, 10, 0));
    cr_expect_eq(memory.calls, 3, "a release asks for no memory");
    cr_expect_null(fault_alloc_verdict(&memory));
}

Test(support_alloc, honours_every_alignment)
{
    for (size_t align = 1; align <= 65536; align *= 2) {
        void *p = memory.hook.resize(memory.hook.ctx, NULL, 0, 3, align);

        cr_expect_eq((uintptr_t)p % align, 0, "align %zu", align);
        memory.hook.resize(memory.hook.ctx, p, 3, 0, align);
    }
    cr_expect_null(fault_alloc_verdict(&memory));
}

Test(support_alloc, reports_a_leak)
{
    void *p = resize(NULL, 0, 5);

    expect_verdict("1 blocks, 5 bytes leaked");
    resize(p, 5, 0);
}

Test(support_alloc, reports_a_wrong_size)
{
    resize(resize(NULL, 0, 5), 6, 0);
    expect_verdict("another size");
}

Test(support_alloc, reports_a_wrong_alignment)
{
    void *p = resize(NULL, 0, 5);

    memory.hook.resize(memory.hook.ctx, p, 5, 0, 32);
    expect_verdict("another alignment");
}

Test(support_alloc, reports_a_second_release)
{
    void *volatile p = resize(NULL, 0, 5);

    resize(p, 5, 0);
    resize(p, 5, 0);
    expect_verdict("released twice");
}

Test(support_alloc, reports_a_write_past_the_end)
{
    unsigned char *p = resize(NULL, 0, 5);

    p[5] = 0;
    resize(p, 5, 0);
    expect_verdict("past the end");
}

Test(support_alloc, reports_a_write_before_the_start)
{
    unsigned char *p = resize(NULL, 0, 5);

    p[-1] = 0;
    resize(p, 5, 0);
    expect_verdict("before the start");
}

Test(support_alloc, fails_the_kth_call_once_or_for_ever)
{
    for (uint64_t k = 1; k <= 5; k++) {
        for (uint32_t how = FAULT_ONCE; how <= FAULT_FOREVER; how++) {
            fault_alloc_fail(&memory, k, how);
            for (uint64_t i = 1; i <= 8; i++) {
                void *p = resize(NULL, 0, 1);
                int failed = how == FAULT_FOREVER ? i >= k : i == k;

                cr_expect_eq(p == NULL, failed, "k %zu, call %zu", (size_t)k, (size_t)i);
                if (p != NULL)
                    resize(p, 1, 0);
            }
        }
    }
    cr_expect_null(fault_alloc_verdict(&memory));
}

Test(support_alloc, leaves_the_old_block_when_a_resize_fails)
{
    unsigned char *p = resize(NULL, 0, 4);

    memcpy(p, "keep", 4);
    fault_alloc_fail(&memory, 1, FAULT_ONCE);
    cr_expect_null(resize(p, 4, 400));
    cr_expect_arr_eq(p, "keep", 4);
    resize(p, 4, 0);
    cr_expect_null(fault_alloc_verdict(&memory));
}

Test(support_alloc, keeps_a_budget)
{
    void *p;

    memory.bytes_limit = 100;
    p = resize(NULL, 0, 60);
    cr_assert_not_null(p);
    cr_expect_null(resize(NULL, 0, 41));
    p = resize(p, 60, 100);
    cr_expect_not_null(p);
    resize(p, 100, 0);
}

/* Three allocations, each after the last; `arg` says which mistake to make. */
static int scenario(const struct vshard_allocator *a, void *arg)
{
    const char *mistake = arg;
    void *one = vs_alloc(a, 1), *two = NULL, *three = NULL;
    int rc = VSHARD_ENOMEM;

    if (one == NULL)
        return strcmp(mistake, "wrong status") == 0 ? VSHARD_EIO : rc;
    two = vs_alloc(a, 2);
    if (two == NULL && strcmp(mistake, "leak") == 0)
        return rc;
    three = two != NULL ? vs_alloc(a, 3) : NULL;
    if (three != NULL)
        rc = strcmp(mistake, "never works") == 0 ? VSHARD_ENOMEM : VSHARD_OK;
    vs_free(a, three, 3);
    vs_free(a, two, 2);
    vs_free(a, one, 1);
    return rc;
}

Test(support_alloc, tries_each_failure_and_names_the_one_that_is_handled_badly)
{
    char why[200];

    cr_expect_eq(fault_alloc_try_each(scenario, "", why, sizeof why), 2 * (3 + 1));
    cr_expect_eq(fault_alloc_try_each(scenario, "leak", why, sizeof why), 0);
    cr_expect_str_eq(why, "allocation 2 fails once: status -2: 1 blocks, 1 bytes leaked");
    cr_expect_eq(fault_alloc_try_each(scenario, "wrong status", why, sizeof why), 0);
    cr_expect_not_null(strstr(why, "allocation 1 fails once"), "%s", why);
    cr_expect_eq(fault_alloc_try_each(scenario, "never works", why, sizeof why), 0);
    cr_expect_not_null(strstr(why, "allocation 4 fails once"), "%s", why);
}
