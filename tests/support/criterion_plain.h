/* criterion_plain.h - enough of Criterion to run a test file as a program.
 *
 * For machines that have no Criterion, such as an emulated one. Test(), the
 * cr_assert and cr_expect families that the tests use, and a main() that runs
 * everything in this process: a crash ends the run, and the last line printed
 * names the test it was in. One test file makes one program:
 *
 *     aarch64-linux-gnu-gcc -static -DVS_TEST_PLAIN -Iinclude -Ilib -Itests \
 *         -o t tests/unit/kernel_x.c lib/kernel/...c lib/os/cpu.c && qemu-aarch64 ./t */
#ifndef VS_TEST_CRITERION_PLAIN_H
#define VS_TEST_CRITERION_PLAIN_H

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

struct plain_test {
    const char *suite, *name;
    void (*run)(void);
    struct plain_test *next;
};

static struct plain_test *plain_tests, **plain_last = &plain_tests;
static unsigned plain_failures; /* in the test that runs */
static jmp_buf plain_stop;      /* where a failed assertion goes */

/* Constructors run in the order of the file, so tests do too. */
#define Test(in, called, ...)                                                       \
    static void plain_##in##_##called(void);                                        \
    __attribute__((constructor)) static void plain_add_##in##_##called(void)        \
    {                                                                               \
        static struct plain_test t = { #in, #called, plain_##in##_##called, NULL }; \
        *plain_last = &t;                                                           \
        plain_last = &t.next;                                                       \
    }                                                                               \
    static void plain_##in##_##called(void)

#define plain_check(fatal, ok, what, ...)                  \
    do {                                                   \
        if (!(ok)) {                                       \
            printf("%s:%d: %s", __FILE__, __LINE__, what); \
            printf(" " __VA_ARGS__);                       \
            putchar('\n');                                 \
            plain_failures++;                              \
            if (fatal)                                     \
                longjmp(plain_stop, 1);                    \
        }                                                  \
    } while (0)

#define cr_assert(ok, ...)          plain_check(1, (ok), #ok, __VA_ARGS__)
#define cr_expect(ok, ...)          plain_check(0, (ok), #ok, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)     plain_check(1, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)     plain_check(0, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) plain_check(1, !strcmp(a, b), #a " == " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) plain_check(0, !strcmp(a, b), #a " == " #b, __VA_ARGS__)

int main(void)
{
    unsigned run = 0, failed = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (const struct plain_test *t = plain_tests; t != NULL; t = t->next) {
        printf("%s::%s\n", t->suite, t->name);
        plain_failures = 0;
        if (setjmp(plain_stop) == 0)
            t->run();
        run++;
        failed += plain_failures != 0;
    }
    printf("%u tests, %u failed\n", run, failed);
    return failed != 0;
}

#endif
