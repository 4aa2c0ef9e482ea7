/* cpu.c - which instruction sets this machine has. */
#include "os/os.h"

uint32_t vs_os_cpu(void)
{
    uint32_t f = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        f |= VSHARD_CPU_AVX2;
    if ((f & VSHARD_CPU_AVX2) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        f |= VSHARD_CPU_AVX512;
#elif defined(__aarch64__)
    f |= VSHARD_CPU_NEON;
#endif
    return f;
}
