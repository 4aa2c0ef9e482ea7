/* machine.c - what the library found on this machine.
 *
 * It stands here because the answer names the kernels in use, and this is the
 * lowest room that knows them. */
#include "kernel/kernel.h"
#include "os/os.h"

#define TEXT(x)  TEXT_(x)
#define TEXT_(x) #x

static uint32_t packages(void)
{
    uint32_t with = 0;
#if defined(VS_HAVE_HWLOC)
    with |= VSHARD_WITH_HWLOC;
#endif
#if defined(VS_HAVE_SODIUM)
    with |= VSHARD_WITH_SODIUM;
#endif
#if defined(VS_HAVE_LZ4)
    with |= VSHARD_WITH_LZ4;
#endif
    return with;
}

int vshard_machine_report(struct vshard_machine *machine)
{
    struct vshard_machine found = { 0 };
    struct vs_kernel kernel;

    found.cpu = vs_os_cpu();
    found.numa_nodes = vs_os_numa_nodes();
    found.packages = packages();
    vs_kernel_init(&kernel, found.cpu);
    found.kernels = kernel.name;
    found.version =
        TEXT(VSHARD_VERSION_MAJOR) "." TEXT(VSHARD_VERSION_MINOR) "." TEXT(VSHARD_VERSION_PATCH);
    return vs_report_write(machine, &found, sizeof found,
                           VS_SIZE_THROUGH(struct vshard_machine, version));
}
