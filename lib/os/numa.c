/* numa.c - the memory nodes of this machine: how many there are, placing memory on
 * one, and asking the kernel where memory lies and which node a thread runs on.
 *
 * Nodes go by the operating system's numbers, which may have gaps. hwloc knows the
 * nodes and binds memory to them; what a page's or a thread's node is, the kernel says. */
#include "os/os.h"

#include <sched.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#if defined(VS_HAVE_HWLOC)
#include <hwloc.h>

/* The nodes of this machine, NULL where that is unknown. */
static hwloc_topology_t load_topology(void)
{
    hwloc_topology_t topology;

#if defined(__linux__)
    /* Without sysfs, as in a bare chroot, hwloc finds nothing, and says so on stderr. */
    if (access("/sys/devices/system/cpu", R_OK) != 0)
        return NULL;
#endif
    if (hwloc_topology_init(&topology) != 0)
        return NULL;
    /* Memory nodes are kept whatever is filtered; caches and devices are not
     * wanted, and finding them is most of the work. The x86 component knows no
     * memory nodes and writes to stderr under Valgrind. */
    hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
    if (hwloc_topology_load(topology) == 0 &&
        hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) > 0)
        return topology;
    hwloc_topology_destroy(topology);
    return NULL;
}

uint32_t vs_os_numa_nodes(void)
{
    hwloc_topology_t topology = load_topology();
    uint32_t nodes = 1;

    if (topology != NULL) {
        nodes = (uint32_t)hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
        hwloc_topology_destroy(topology);
    }
    return nodes;
}

struct vs_os_place {
    hwloc_topology_t topology;
    hwloc_const_nodeset_t node;
};

static int make_place(hwloc_topology_t topology, hwloc_obj_t node, struct vs_os_place **out)
{
    struct vs_os_place *place = vs_alloc(NULL, sizeof *place);

    if (place == NULL)
        return VSHARD_ENOMEM;
    place->topology = topology;
    place->node = node->nodeset;
    *out = place;
    return VSHARD_OK;
}

int vs_os_place_open(uint32_t number, struct vs_os_place **out, uint32_t *most)
{
    hwloc_topology_t topology = load_topology();
    hwloc_obj_t node;
    int rc;

    *out = NULL;
    *most = 1;
    if (topology == NULL)
        return number == 1 ? VSHARD_OK : VSHARD_EINVAL;
    *most += (uint32_t)hwloc_bitmap_last(hwloc_topology_get_topology_nodeset(topology));
    node = hwloc_get_numanode_obj_by_os_index(topology, number - 1);
    rc = node != NULL ? VSHARD_OK : VSHARD_EINVAL;
    if (rc == VSHARD_OK && hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) > 1)
        rc = make_place(topology, node, out);
    if (*out == NULL)
        hwloc_topology_destroy(topology);
    return rc;
}

/* Not strictly: where the node is full, memory elsewhere is better than being killed. */
int vs_os_place_bind(const struct vs_os_place *place, void *memory, size_t bytes)
{
    return hwloc_set_area_membind(place->topology, memory, bytes, place->node, HWLOC_MEMBIND_BIND,
                                  HWLOC_MEMBIND_BYNODESET) == 0
               ? VSHARD_OK
               : VSHARD_ENOTSUP;
}

void vs_os_place_close(struct vs_os_place *place)
{
    if (place == NULL)
        return;
    hwloc_topology_destroy(place->topology);
    vs_free(NULL, place, sizeof *place);
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

int vs_os_place_open(uint32_t number, struct vs_os_place **out, uint32_t *most)
{
    (void)number;
    *out = NULL;
    *most = 0;
    return VSHARD_ENOTSUP;
}

int vs_os_place_bind(const struct vs_os_place *place, void *memory, size_t bytes)
{
    (void)place;
    (void)memory;
    (void)bytes;
    return VSHARD_ENOTSUP;
}

void vs_os_place_close(struct vs_os_place *place)
{
    (void)place;
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

#if defined(__linux__)

uint32_t vshard_cpu_node(void)
{
    unsigned cpu, node;

    return syscall(SYS_getcpu, &cpu, &node, NULL) == 0 ? node + 1 : 0;
}

/* Where each of up to ASKED pages lies: move_pages() that moves nothing. */
enum { ASKED = 512 };

static int add_pages(const uintptr_t *pages, size_t count, uint64_t *bytes, size_t node_count)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    int nodes[ASKED];

    if (syscall(SYS_move_pages, 0, count, pages, NULL, nodes, 0) != 0)
        return VSHARD_ENOTSUP;
    for (size_t i = 0; i < count; i++) {
        if (nodes[i] < 0) /* nobody has touched it */
            continue;
        if ((size_t)nodes[i] >= node_count)
            return VSHARD_E2BIG;
        bytes[nodes[i]] += page;
    }
    return VSHARD_OK;
}

int vs_os_node_bytes(const void *memory, size_t count, uint64_t *bytes, size_t node_count)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = (uintptr_t)memory + count;
    uintptr_t pages[ASKED];
    int rc = VSHARD_OK;

    for (uintptr_t at = (uintptr_t)memory / page * page; rc == VSHARD_OK && at < end;) {
        size_t asked = 0;

        for (; asked < ASKED && at < end; at += page)
            pages[asked++] = at;
        rc = add_pages(pages, asked, bytes, node_count);
    }
    return rc;
}

#else

uint32_t vshard_cpu_node(void)
{
    return 0;
}

int vs_os_node_bytes(const void *memory, size_t count, uint64_t *bytes, size_t node_count)
{
    (void)memory;
    (void)count;
    (void)bytes;
    (void)node_count;
    return VSHARD_ENOTSUP;
}

#endif

void vs_os_yield(void)
{
    sched_yield();
}
