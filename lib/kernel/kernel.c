/* kernel.c - fills in a struct vs_kernel. A pure function of the CPU bits. */
#include "kernel/topics.h"

static const char *widest(uint32_t used)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } sets[] = {
        { VSHARD_CPU_VNNI, "avx512-vnni" },
        { VSHARD_CPU_AVX512, "avx512" },
        { VSHARD_CPU_AVXVNNI, "avx2-vnni" },
        { VSHARD_CPU_AVX2, "avx2" },
        { VSHARD_CPU_DOTPROD, "neon-dotprod" },
        { VSHARD_CPU_NEON, "neon" },
        { VSHARD_CPU_SSE2, "sse2" },
    };

    for (size_t i = 0; i < VS_COUNT(sets); i++) {
        if (used & sets[i].bit)
            return sets[i].name;
    }
    return "scalar";
}

void vs_kernel_init(struct vs_kernel *kernel, uint32_t cpu)
{
    uint32_t used = 0;

    used |= vs_kernel_pick_float32(kernel, cpu);
    used |= vs_kernel_pick_float64(kernel, cpu);
    used |= vs_kernel_pick_float16(kernel, cpu);
    used |= vs_kernel_pick_int8(kernel, cpu);
    used |= vs_kernel_pick_l1(kernel, cpu);
    used |= vs_kernel_pick_bits(kernel, cpu);
    used |= vs_kernel_pick_code(kernel, cpu);
    used |= vs_kernel_pick_u4(kernel, cpu);
    used |= vs_kernel_pick_encode(kernel, cpu);
    used |= vs_kernel_pick_pool(kernel, cpu);
    used |= vs_kernel_pick_tile(kernel, cpu);
    used |= vs_kernel_pick_sieve(kernel, cpu);
    used |= vs_kernel_pick_between(kernel, cpu);
    kernel->name = widest(used);
}
