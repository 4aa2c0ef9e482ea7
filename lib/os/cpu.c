/* cpu.c - which instruction sets this machine has.
 *
 * Each bit is read on its own. CPUs combine the sets freely (AVX-VNNI came to
 * client parts that have no AVX-512, VNNI to servers years before BF16), so a
 * level such as "v4" would hide what a machine can do, or claim what it cannot.
 *
 * A set that widens the registers counts only if the operating system saves
 * them when it switches tasks, which XGETBV tells. */
#include "os/os.h"

#if defined(__x86_64__)
#include <cpuid.h>

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
    uint32_t a, b, c, d, saved, last, f = VSHARD_CPU_SSE2;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return f;
    saved = saved_state();
    if (!has(saved, XCR0_YMM) || !__get_cpuid_count(7, 0, &last, &b, &c, &d))
        return f;
    if (has(b, bit_AVX2))
        f |= VSHARD_CPU_AVX2;
    if (has(b, avx512) && has(saved, XCR0_ZMM)) {
        f |= VSHARD_CPU_AVX512;
        if (has(c, bit_AVX512VNNI))
            f |= VSHARD_CPU_VNNI;
        if (has(c, bit_AVX512VPOPCNTDQ))
            f |= VSHARD_CPU_VPOPCNTDQ;
    }
    if (last >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        if ((f & VSHARD_CPU_AVX2) && has(a, 1u << 4)) /* AVX-VNNI */
            f |= VSHARD_CPU_AVXVNNI;
        if ((f & VSHARD_CPU_AVX512) && has(a, 1u << 5)) /* AVX512_BF16 */
            f |= VSHARD_CPU_BF16;
    }
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
