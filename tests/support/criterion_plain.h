/* criterion_plain.h - enough of Criterion to run a test file as a program.
 *
 * For machines that have no Criterion, such as an emulated one, and for tools that
 * want no more than one process at a time. Test() and TestSuite() with .init,
 * .fini, .signal and .timeout, the cr_assert and cr_expect families that the tests
 * use, and a main() that runs each test in a child. One test file makes one
 * program: `make plain`. */
#ifndef SUPPORT_CRITERION_PLAIN_H
#define SUPPORT_CRITERION_PLAIN_H

#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct plain_options {
    void (*init)(void);
    void (*fini)(void);
    int signal;     /* the test must end by it */
    double timeout; /* seconds */
    int none;       /* so that no list of options is empty */
};

struct plain_test {
    const char *suite, *name; /* no name: the suite itself */
    void (*run)(void);
    struct plain_options options;
    struct plain_test *next;
};

static struct plain_test *plain_tests, **plain_last = &plain_tests;
static unsigned plain_failures; /* in the test that runs */

/* Constructors run in the order of the file, so tests do too. */
#define plain_add(id, in, called, function, ...)                                      \
    __attribute__((constructor)) static void plain_add_##id(void)                     \
    {                                                                                 \
        static struct plain_test t = { in, called, function, { __VA_ARGS__ }, NULL }; \
        *plain_last = &t;                                                             \
        plain_last = &t.next;                                                         \
    }

#define Test(in, called, ...)                                                \
    static void plain_##in##_##called(void);                                 \
    plain_add(in##_##called, #in, #called, plain_##in##_##called, .none = 0, \
              __VA_ARGS__) static void plain_##in##_##called(void)

#define TestSuite(in, ...) plain_add(in##_suite, #in, NULL, NULL, .none = 0, __VA_ARGS__)

#define plain_check(fatal, ok, what, ...)                  \
    do {                                                   \
        if (!(ok)) {                                       \
            printf("%s:%d: %s", __FILE__, __LINE__, what); \
            printf(" " __VA_ARGS__);                       \
            putchar('\n');                                 \
            plain_failures++;                              \
            if (fatal) {                                   \
                fflush(stdout);                            \
                _exit(1);                                  \
            }                                              \
        }                                                  \
    } while (0)

#define plain_eq(fatal, a, b, ...) plain_check(fatal, (a) == (b), #a " == " #b, __VA_ARGS__)
#define plain_str(fatal, a, b, ...) \
    plain_check(fatal, strcmp((a), (b)) == 0, #a " == " #b, __VA_ARGS__)
#define plain_arr(fatal, a, b, n, ...) \
    plain_check(fatal, memcmp((a), (b), (n)) == 0, #a " == " #b, __VA_ARGS__)

#define cr_assert(ok, ...)             plain_check(1, (ok), #ok, __VA_ARGS__)
#define cr_assert_not(ok, ...)         plain_check(1, !(ok), "not " #ok, __VA_ARGS__)
#define cr_assert_null(p, ...)         plain_check(1, (p) == NULL, #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...)     plain_check(1, (p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...)        plain_eq(1, a, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)       plain_check(1, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)        plain_check(1, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)       plain_check(1, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)        plain_check(1, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)       plain_check(1, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)    plain_str(1, a, b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) plain_arr(1, a, b, n, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) \
    plain_check(1, memcmp((a), (b), (n)) != 0, #a " != " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) \
    plain_check(1, (a) - (b) <= (e) && (b) - (a) <= (e), #a " ~ " #b, __VA_ARGS__)
#define cr_expect(ok, ...)             plain_check(0, (ok), #ok, __VA_ARGS__)
#define cr_expect_not(ok, ...)         plain_check(0, !(ok), "not " #ok, __VA_ARGS__)
#define cr_expect_null(p, ...)         plain_check(0, (p) == NULL, #p " is NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...)     plain_check(0, (p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_expect_eq(a, b, ...)        plain_eq(0, a, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)       plain_check(0, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)        plain_check(0, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)       plain_check(0, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)        plain_check(0, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)       plain_check(0, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)    plain_str(0, a, b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) plain_arr(0, a, b, n, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...) \
    plain_check(0, memcmp((a), (b), (n)) != 0, #a " != " #b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) \
    plain_check(0, (a) - (b) <= (e) && (b) - (a) <= (e), #a " ~ " #b, __VA_ARGS__)
#define cr_fail(...)  plain_check(0, 0, "", __VA_ARGS__)

static void plain_child(const struct plain_test *t, const struct plain_options *suite)
{
    double timeout = t->options.timeout > 0 ? t->options.timeout : suite->timeout;

    if (timeout > 0)
        alarm((unsigned)(timeout * 20)); /* emulators and checkers are slow */
    if (suite->init != NULL)
        suite->init();
    if (t->options.init != NULL)
        t->options.init();
    t->run();
    if (t->options.fini != NULL)
        t->options.fini();
    if (suite->fini != NULL)
        suite->fini();
}

static int plain_passes(const struct plain_test *t)
{
    const struct plain_options none = { 0 };
    const struct plain_options *suite = &none;
    int status = 0;
    pid_t child;

    for (const struct plain_test *s = plain_tests; s != NULL; s = s->next) {
        if (s->name == NULL && strcmp(s->suite, t->suite) == 0)
            suite = &s->options;
    }
    fflush(stdout);
    child = fork();
    if (child == 0) {
        plain_child(t, suite);
        fflush(stdout);
        _exit(plain_failures != 0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) != t->options.signal)
        printf("signal %d\n", WTERMSIG(status));
    return t->options.signal != 0 ? WIFSIGNALED(status) && WTERMSIG(status) == t->options.signal
                                  : WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
    unsigned run = 0, failed = 0;
    const char *suite = "";

    for (const struct plain_test *t = plain_tests; t != NULL; t = t->next) {
        if (t->name == NULL)
            continue;
        suite = t->suite;
        run++;
        if (!plain_passes(t)) {
            printf("FAIL %s::%s\n", t->suite, t->name);
            failed++;
        }
    }
    printf("plain %s: %u tests, %u failed\n", suite, run, failed);
    return failed != 0;
}

#endif
