/* kernel_init.c - the choice of functions follows the CPU bits, and only them. */
#include "../support/kernel_data.h"

Test(kernel_init, no_bits_mean_scalar)
{
    struct vs_kernel k;

    vs_kernel_init(&k, 0);
    cr_assert_str_eq(k.name, "scalar");
}

/* There is nothing else in it but pointers. */
static bool has_all(const struct vs_kernel *k)
{
    void *words[sizeof *k / sizeof(void *)];
    size_t set = 0;

    memcpy(words, k, sizeof *k);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        set += words[i] != NULL;
    return set == sizeof words / sizeof words[0] && sizeof words == sizeof *k;
}

Test(kernel_init, fills_in_every_function_for_every_subset_of_bits)
{
    for (uint32_t cpu = 0; cpu < 512; cpu++) {
        struct vs_kernel k, again;

        memset(&k, 0, sizeof k);
        vs_kernel_init(&k, cpu);
        cr_expect(has_all(&k), "cpu=%x", cpu);
        memset(&again, 0xff, sizeof again);
        vs_kernel_init(&again, cpu);
        cr_expect(memcmp(&k, &again, sizeof k) == 0, "cpu=%x", cpu);
    }
}

Test(kernel_init, bits_it_does_not_know_change_nothing)
{
    struct vs_kernel a, b;

    vs_kernel_init(&a, cpu_bits());
    vs_kernel_init(&b, cpu_bits() | 0xffff0000u);
    cr_assert_eq(memcmp(&a, &b, sizeof a), 0);
}
