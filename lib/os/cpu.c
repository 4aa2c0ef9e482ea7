/* cpu.c - which instruction sets this machine has.
 *
 * Each bit is read on its own. CPUs combine the sets freely (AVX-VNNI came to
 * client parts that have no AVX-512, VNNI to servers years before BF16), so a
 * level such as "v4" would hide what a machine can do, or claim what it cannot.
 *
 * A set that widens the registers counts only if the operating system saves
 * them when it switches tasks, which XGETBV tells.
 *
 * In a virtual machine CPUID is the hypervisor's to answer, which takes it up to some ten
 * microseconds each time, and every index that is made or opened asks. The GNU C library
 * has asked when the process began, and knows. */
#include "os/os.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 33)
#define KNOWN_LEAVES
#include <sys/platform/x86.h>
#endif
#endif

enum { EAX, EBX, ECX, EDX, REGISTERS };

#if defined(KNOWN_LEAVES)

/* Zeros of a leaf that there is not. */
static void read_leaf(uint32_t leaf, uint32_t part, uint32_t r[REGISTERS])
{
    uint32_t at = leaf == 1 ? CPUID_INDEX_1 : part == 0 ? CPUID_INDEX_7 : CPUID_INDEX_7_ECX_1;

    memcpy(r, __x86_get_cpuid_feature_leaf(at)->cpuid_array, REGISTERS * sizeof *r);
}

#else

static void read_leaf(uint32_t leaf, uint32_t part, uint32_t r[REGISTERS])
{
    memset(r, 0, REGISTERS * sizeof *r);
    __get_cpuid_count(leaf, part, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
}

#endif

/* The registers the operating system saves, as the mask XCR0. */
static uint32_t saved_state(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

uint32_t vs_os_cpu(void)
{
    enum { XCR0_YMM = 0x06, XCR0_ZMM = 0xe6 };
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    uint32_t first[REGISTERS], seventh[REGISTERS], more[REGISTERS], saved, f = VSHARD_CPU_SSE2;

    read_leaf(1, 0, first);
    if (!has(first[ECX], bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return f;
    saved = saved_state();
    if (!has(saved, XCR0_YMM))
        return f;
    read_leaf(7, 0, seventh);
    read_leaf(7, 1, more); /* zeros where there are no parts of that leaf */
    if (has(seventh[EBX], bit_AVX2))
        f |= VSHARD_CPU_AVX2;
    if (has(seventh[EBX], avx512) && has(saved, XCR0_ZMM)) {
        f |= VSHARD_CPU_AVX512;
        if (has(seventh[ECX], bit_AVX512VNNI))
            f |= VSHARD_CPU_VNNI;
        if (has(seventh[ECX], bit_AVX512VPOPCNTDQ))
            f |= VSHARD_CPU_VPOPCNTDQ;
    }
    if ((f & VSHARD_CPU_AVX2) && has(more[EAX], 1u << 4)) /* AVX-VNNI */
        f |= VSHARD_CPU_AVXVNNI;
    if ((f & VSHARD_CPU_AVX512) && has(more[EAX], 1u << 5)) /* AVX512_BF16 */
        f |= VSHARD_CPU_BF16;
    return f;
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

uint32_t vs_os_cpu(void)
{
    uint32_t f = VSHARD_CPU_NEON;          /* every AArch64 has it */

#if defined(__linux__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) /* HWCAP_ASIMDDP */
        f |= VSHARD_CPU_DOTPROD;
#elif defined(__ARM_FEATURE_DOTPROD)
    f |= VSHARD_CPU_DOTPROD;
#endif
    return f;
}

#else

uint32_t vs_os_cpu(void)
{
    return 0;
}

#endif
