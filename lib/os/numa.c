/* numa.c - how many memory nodes this machine has, and giving way to others. */
#include "os/os.h"

#include <sched.h>

#if defined(VS_HAVE_HWLOC)
#include <hwloc.h>
#include <unistd.h>

uint32_t vs_os_numa_nodes(void)
{
    hwloc_topology_t topology;
    int nodes = 0;

#if defined(__linux__)
    /* Without sysfs, as in a bare chroot, hwloc finds nothing, and says so on stderr. */
    if (access("/sys/devices/system/cpu", R_OK) != 0)
        return 1;
#endif
    if (hwloc_topology_init(&topology) != 0)
        return 1;
    /* Memory nodes are kept whatever is filtered; caches and devices are not
     * wanted, and finding them is most of the work. The x86 component knows no
     * memory nodes and writes to stderr under Valgrind. */
    hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
    if (hwloc_topology_load(topology) == 0)
        nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    hwloc_topology_destroy(topology);
    return nodes > 0 ? (uint32_t)nodes : 1;
}

#else

/* Linux lists its nodes in a file as "0-3,6". Where there is no such file, all
 * memory is one node. */
uint32_t vs_os_numa_nodes(void)
{
    char text[256];
    uint64_t file = 0, bytes;
    struct vshard_io io = { .op = VSHARD_IO_READ, .count = sizeof text, .buffer = text };
    struct vshard_storage posix;

    vshard_storage_posix(&posix);
    if (vs_io_open(&posix, "/sys/devices/system/node/online", 0, &file, &bytes) != VSHARD_OK)
        return 1;
    io.file = file;
    posix.submit(posix.ctx, &io);
    vs_io_close(&posix, file);
    return io.status == VSHARD_OK ? vs_os_count_ranges(text, (size_t)io.count) : 1;
}

#endif

uint32_t vs_os_count_ranges(const char *text, size_t bytes)
{
    uint32_t total = 0, number = 0, low = 0;
    bool digits = false, range = false;

    for (size_t i = 0; i <= bytes; i++) {
        int c = i < bytes ? text[i] : '\n';

        if (c >= '0' && c <= '9' && number < 100000) {
            number = number * 10 + (uint32_t)(c - '0');
            digits = true;
        } else if (c == '-' && digits && !range) {
            low = number;
            number = 0;
            digits = false;
            range = true;
        } else {
            if (digits)
                total += range ? (number >= low ? number - low + 1 : 0) : 1;
            number = 0;
            digits = range = false;
            if (c != ',')
                break;
        }
    }
    return total > 0 ? total : 1;
}

void vs_os_yield(void)
{
    sched_yield();
}
