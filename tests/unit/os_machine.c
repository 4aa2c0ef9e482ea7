/* os_machine.c - memory nodes, and unpredictable bytes. */
#include <criterion/criterion.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "os/os.h"

Test(os_machine, counts_the_nodes_a_list_names)
{
    static const struct {
        const char *text;
        uint32_t nodes;
    } cases[] = { { "0\n", 1 },   { "0-3\n", 4 },      { "0-3,6\n", 5 },  { "0,2,4\n", 3 },
                  { "", 1 },      { "\n", 1 },         { "nonsense", 1 }, { "3-1\n", 1 },
                  { "0-1,", 2 },  { "0-1,8-11\n", 6 }, { "5", 1 },        { "-3\n", 1 },
                  { "1-2-3", 2 }, { "7,\n", 1 } };

    for (size_t i = 0; i < VS_COUNT(cases); i++)
        cr_expect_eq(vs_os_count_ranges(cases[i].text, strlen(cases[i].text)), cases[i].nodes,
                     "\"%s\"", cases[i].text);
}

Test(os_machine, has_at_least_one_node_and_few)
{
    uint32_t nodes = vs_os_numa_nodes();

    cr_expect(nodes >= 1 && nodes <= 1024, "%u nodes", nodes);
    vs_os_yield();
}

/* Counts the places that stay the same byte over 16 draws: for true randomness
 * that is 2^-120 a place, for a byte that is never written it is certain. */
static void expect_every_byte_drawn(const struct vshard_entropy *entropy, size_t count)
{
    unsigned char first[1030], next[1030], seen[1030] = { 0 };

    cr_assert_eq(entropy->fill(entropy->ctx, first, count), 0);
    for (int draw = 0; draw < 16; draw++) {
        cr_assert_eq(entropy->fill(entropy->ctx, next, count), 0);
        for (size_t i = 0; i < count; i++)
            seen[i] |= first[i] != next[i];
    }
    for (size_t i = 0; i < count; i++)
        cr_expect(seen[i], "byte %zu of %zu", i, count);
}

static int fill_os(void *ctx, void *bytes, size_t count)
{
    (void)ctx;
    return vs_os_entropy(bytes, count);
}

Test(os_machine, draws_every_byte_it_is_asked_for)
{
    static const size_t counts[] = { 0, 1, 255, 256, 257, 512, 1030 };
    const struct vshard_entropy os = { fill_os, NULL };
    struct vshard_entropy standard;

    cr_assert_eq(vshard_entropy_default(NULL), VSHARD_EINVAL);
    cr_assert_eq(vshard_entropy_default(&standard), VSHARD_OK);
    for (size_t i = 0; i < VS_COUNT(counts); i++) {
        expect_every_byte_drawn(&os, counts[i]);
        expect_every_byte_drawn(&standard, counts[i]);
    }
}

Test(os_machine, reports_itself)
{
    struct vshard_machine machine = { .size = sizeof machine };
    char version[32];

    cr_assert_eq(vshard_machine_report(&machine), VSHARD_OK);
    cr_expect_eq(machine.size, sizeof machine);
    cr_expect_eq(machine.cpu, vs_os_cpu());
    cr_expect_eq(machine.numa_nodes, vs_os_numa_nodes());
    cr_expect_neq(machine.kernels[0], '\0');
    snprintf(version, sizeof version, "%d.%d.%d", VSHARD_VERSION_MAJOR, VSHARD_VERSION_MINOR,
             VSHARD_VERSION_PATCH);
    cr_expect_str_eq(machine.version, version);
    cr_expect_eq(vshard_version(), VSHARD_VERSION_NUMBER);
}

Test(os_machine, reports_to_callers_of_every_age)
{
    struct {
        struct vshard_machine known;
        uint64_t later;
    } newer = { .known = { .size = sizeof newer }, .later = 7 };
    struct vshard_machine unset = { .size = 0 };

    cr_expect_eq(vshard_machine_report(&newer.known), VSHARD_OK);
    cr_expect_eq(newer.later, 0, "what this library does not know is zero");
    cr_expect_eq(newer.known.size, sizeof newer);
    cr_expect_eq(vshard_machine_report(&unset), VSHARD_EINVAL);
    cr_expect_eq(vshard_machine_report(NULL), VSHARD_EINVAL);
}

#if defined(__x86_64__)
/* The C library may have cleared a bit that it works around, and none of these. */
Test(os_machine, has_the_instruction_sets_that_cpuid_tells)
{
    static const struct {
        uint32_t cpu, leaf, part, at, bit; /* `at`: of eax, ebx, ecx, edx */
    } bits[] = { { VSHARD_CPU_AVX2, 7, 0, 1, 5 },    { VSHARD_CPU_AVX512, 7, 0, 1, 16 },
                 { VSHARD_CPU_VNNI, 7, 0, 2, 11 },   { VSHARD_CPU_VPOPCNTDQ, 7, 0, 2, 14 },
                 { VSHARD_CPU_AVXVNNI, 7, 1, 0, 4 }, { VSHARD_CPU_BF16, 7, 1, 0, 5 } };
    uint32_t cpu = vs_os_cpu(), told = VSHARD_CPU_SSE2, r[4] = { 0 };

    __get_cpuid(1, &r[0], &r[1], &r[2], &r[3]);
    for (size_t i = 0; i < VS_COUNT(bits); i++) {
        uint32_t parts = 0;

        memset(r, 0, sizeof r);
        __get_cpuid_count(7, 0, &parts, &r[1], &r[2], &r[3]);
        if (bits[i].part <= parts)
            __get_cpuid_count(bits[i].leaf, bits[i].part, &r[0], &r[1], &r[2], &r[3]);
        else
            memset(r, 0, sizeof r);
        told |= r[bits[i].at] >> bits[i].bit & 1 ? bits[i].cpu : 0;
    }
    cr_expect_eq(cpu & ~told, 0u, "%#x of %#x", cpu, told);
    if (cpu & VSHARD_CPU_AVX512) /* then the system saves all registers */
        cr_expect_eq(cpu, told, "%#x", told);
}
#endif
