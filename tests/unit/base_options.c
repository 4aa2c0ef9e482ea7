/* base_options.c - callers older and newer than the library. */
#include <criterion/criterion.h>

#include "base/base.h"

struct v1 {
    uint32_t size, dim, metric;
};
struct v2 {
    uint32_t size, dim, metric, beam, flags;
};

Test(base_options, zeroes_fields_an_older_caller_lacks)
{
    struct v1 theirs = { sizeof theirs, 128, 1 };
    struct v2 ours;

    memset(&ours, 0xff, sizeof ours);
    cr_assert_eq(vs_options_read(&ours, sizeof ours, &theirs, sizeof(struct v1)), VSHARD_OK);
    cr_assert_eq(ours.dim, 128);
    cr_assert_eq(ours.beam, 0);
    cr_assert_eq(ours.size, sizeof ours);
}

Test(base_options, accepts_a_newer_caller_that_asks_for_nothing_new)
{
    struct v2 theirs = { sizeof theirs, 128, 1, 0, 0 };
    struct v1 ours;

    cr_assert_eq(vs_options_read(&ours, sizeof ours, &theirs, sizeof(struct v1)), VSHARD_OK);
}

Test(base_options, refuses_a_newer_caller_that_asks_for_something_new)
{
    struct v2 theirs = { sizeof theirs, 128, 1, 64, 0 };
    struct v1 ours;

    cr_assert_eq(vs_options_read(&ours, sizeof ours, &theirs, sizeof(struct v1)), VSHARD_EVERSION);
}

Test(base_options, refuses_a_size_that_was_never_set)
{
    struct v1 theirs = { 0, 128, 1 }, ours;

    cr_assert_eq(vs_options_read(&ours, sizeof ours, &theirs, sizeof theirs), VSHARD_EINVAL);
    cr_assert_eq(vs_options_read(&ours, sizeof ours, NULL, sizeof theirs), VSHARD_EINVAL);
}
