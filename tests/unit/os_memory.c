/* os_memory.c - the default memory of an index: heap and pages, huge pages, nodes.
 *
 * Method: sizes around the borders between heap and pages; the kernel's own account of
 * mappings (smaps) and of pages (move_pages). Which node a number means is asked on
 * synthetic topologies, which hwloc takes from the environment; HWLOC_THISSYSTEM makes
 * it bind for real, so that a machine of one node binds to it, and is refused when it
 * binds to a second one that is not there. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "os/os.h"
#include "support/smaps.h"

#define MIB ((size_t)1 << 20)

static void *get(const struct vshard_allocator *a, size_t bytes)
{
    return a->resize(a->ctx, NULL, 0, bytes, VS_ALIGN);
}

static void drop(const struct vshard_allocator *a, void *p, size_t bytes)
{
    cr_expect_null(a->resize(a->ctx, p, bytes, 0, VS_ALIGN));
}

static bool all(const unsigned char *p, size_t count, unsigned char value)
{
    for (size_t i = 0; i < count; i++) {
        if (p[i] != value)
            return false;
    }
    return true;
}

/* Blocks of every kind, each moved to every other: they keep what fits. */
static void expect_memory(const struct vshard_allocator *a)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t sizes[] = { 1,           64,      8 * page - 1, 8 * page,   9 * page + 1,
                             2 * MIB - 1, 2 * MIB, 2 * MIB + 1,  5 * MIB + 3 };

    for (size_t i = 0; i < VS_COUNT(sizes); i++) {
        for (size_t j = 0; j < VS_COUNT(sizes); j++) {
            size_t least = sizes[i] < sizes[j] ? sizes[i] : sizes[j];
            unsigned char *p = get(a, sizes[i]), *q;

            cr_assert_not_null(p);
            cr_expect_eq((uintptr_t)p % (sizes[i] >= 2 * MIB ? 2 * MIB : VS_ALIGN), 0);
            memset(p, 0xa5, sizes[i]);
            q = a->resize(a->ctx, p, sizes[i], sizes[j], VS_ALIGN);
            cr_assert_not_null(q);
            cr_expect(all(q, least, 0xa5), "%zu to %zu bytes", sizes[i], sizes[j]);
            memset(q, 0x5a, sizes[j]);
            drop(a, q, sizes[j]);
        }
    }
}

static struct vshard_allocator open_memory(uint32_t numa_node)
{
    struct vshard_allocator a = { 0 };
    uint32_t most;
    int rc = vs_os_memory_open(numa_node, &a, &most);

    cr_assert_eq(rc, 0, "node %u: %s", numa_node, vshard_strerror(rc));
    return a;
}

Test(os_memory, blocks_of_every_size_keep_their_bytes)
{
    struct vshard_allocator a = open_memory(0);

    expect_memory(&a);
    vs_os_memory_close(&a);
}

Test(os_memory, what_nobody_has_is_refused_and_the_old_block_kept)
{
    struct vshard_allocator a = open_memory(0);
    unsigned char *p = get(&a, 3 * MIB);

    cr_assert_not_null(p);
    memset(p, 7, 3 * MIB);
    for (size_t huge = SIZE_MAX; huge > SIZE_MAX / 8; huge -= SIZE_MAX / 8) {
        cr_expect_null(get(&a, huge));
        cr_expect_null(a.resize(a.ctx, p, 3 * MIB, huge, VS_ALIGN));
    }
    cr_expect(all(p, 3 * MIB, 7));
    drop(&a, p, 3 * MIB);
    vs_os_memory_close(&a);
}

static void expect_given_back(const struct vshard_allocator *a, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *p = get(a, bytes);

    cr_assert_not_null(p);
    memset(p, 1, bytes);
    drop(a, p, bytes);
    for (size_t at = 0; at < bytes; at += page) {
        errno = 0;
        cr_expect(msync(p + at, 1, MS_ASYNC) != 0 && errno == ENOMEM, "%zu of %zu is still there",
                  at, bytes);
    }
}

/* Also the second of its size, for which the C library would have kept the first. */
Test(os_memory, a_large_block_goes_back_to_the_system)
{
    struct vshard_allocator a = open_memory(0);

    for (int i = 0; i < 2; i++) {
        expect_given_back(&a, MIB / 8);
        expect_given_back(&a, 4 * MIB / 10);
        expect_given_back(&a, 4 * MIB + 1);
    }
}

Test(os_memory, an_allocator_of_somebody_else_is_left_alone)
{
    struct vshard_allocator other = { NULL, &other };

    vs_os_memory_close(&other);
}

Test(os_memory, large_blocks_have_huge_pages)
{
    struct vshard_allocator a = open_memory(0);
    unsigned char *p = get(&a, 16 * MIB);
    struct smap map;

    cr_assert_not_null(p);
    memset(p, 1, 16 * MIB);
    if (!system_has_huge_pages()) {
        printf("os_memory: skipped, this system gives no transparent huge pages\n");
    } else {
        cr_assert(smap_of(p, &map));
        cr_expect(map.advised, "not advised");
        cr_expect(map.huge_bytes >= 2 * MIB, "%llu bytes in huge pages of 16 MiB",
                  (unsigned long long)map.huge_bytes);
    }
    drop(&a, p, 16 * MIB);
}

/* ---- nodes ---- */

enum { NODES = 1024 };

Test(os_memory, the_kernel_says_where_touched_pages_lie)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = 1500;
    unsigned char *p =
        mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t bytes[NODES] = { 0 }, sum = 0;
    int rc;

    cr_assert(p != MAP_FAILED);
#if defined(MADV_NOHUGEPAGE)
    madvise(p, pages * page, MADV_NOHUGEPAGE); /* one touch, one page */
#endif
    for (size_t i = 0; i < pages; i += 3)
        p[i * page + i] = 1;
    rc = vs_os_node_bytes(p, pages * page, bytes, NODES);
    if (rc == VSHARD_ENOTSUP) {
        printf("os_memory: skipped, this system does not say where pages lie\n");
        return;
    }
    cr_assert_eq(rc, 0);
    for (size_t i = 0; i < NODES; i++)
        sum += bytes[i];
    cr_expect_eq(sum, pages / 3 * page, "%llu bytes", (unsigned long long)sum);
    if (vs_os_numa_nodes() == 1 && vshard_cpu_node() > 0)
        cr_expect_eq(bytes[vshard_cpu_node() - 1], sum, "on another node than the only one");
    cr_expect_eq(vs_os_node_bytes(p, page, bytes, 0), VSHARD_E2BIG);
    cr_expect_eq(vs_os_node_bytes(NULL, 0, bytes, 0), 0);
    cr_expect(vshard_cpu_node() <= NODES);
}

#if defined(VS_HAVE_HWLOC)

static void expect_nodes(const char *topology, const uint32_t *numbers, size_t count)
{
    struct vshard_allocator a;

    setenv("HWLOC_SYNTHETIC", topology, 1);
    cr_expect_eq(vs_os_numa_nodes(), count, "%s", topology);
    for (uint32_t number = 1; number < 12; number++) {
        uint32_t most = 0;
        int rc = vs_os_memory_open(number, &a, &most), want = VSHARD_EINVAL;

        for (size_t i = 0; i < count; i++)
            want = numbers[i] == number ? VSHARD_OK : want;
        cr_expect_eq(rc, want, "%s, node %u: %s", topology, number, vshard_strerror(rc));
        cr_expect_eq(most, numbers[count - 1], "%s: at most %u", topology, most);
        if (rc == VSHARD_OK) {
            cr_expect_eq(a.ctx == NULL, count == 1, "%s: one node needs nothing", topology);
            vs_os_memory_close(&a);
        }
    }
}

Test(os_memory, a_number_means_the_systems_node_or_is_refused)
{
    expect_nodes("numa:1 pu:2", (uint32_t[]){ 1 }, 1);
    expect_nodes("numa:4 core:2 pu:1", (uint32_t[]){ 1, 2, 3, 4 }, 4);
    expect_nodes("numa:3(indexes=0,2,5) pu:1", (uint32_t[]){ 1, 3, 6 }, 3);
    expect_nodes("numa:2(indexes=1,8) pu:1", (uint32_t[]){ 2, 9 }, 2);
}

Test(os_memory, placed_blocks_keep_their_bytes)
{
    struct vshard_allocator a;

    setenv("HWLOC_SYNTHETIC", "numa:2 pu:1", 1);
    a = open_memory(2);
    expect_memory(&a);
    vs_os_memory_close(&a);
}

Test(os_memory, a_node_that_the_system_refuses_is_not_supported)
{
    struct vshard_allocator a = { 0 };
    uint32_t most;

    if (vs_os_numa_nodes() > 1) {
        printf("os_memory: skipped, this machine has a second node\n");
        return;
    }
    setenv("HWLOC_SYNTHETIC", "numa:2 pu:1", 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    cr_expect_eq(vs_os_memory_open(2, &a, &most), VSHARD_ENOTSUP);
    cr_expect_null(a.resize, "the allocator was filled in");
}

#else

Test(os_memory, without_hwloc_nothing_is_placed)
{
    struct vshard_allocator a = { 0 };
    uint32_t most;

    for (uint32_t number = 1; number < 4; number++)
        cr_expect_eq(vs_os_memory_open(number, &a, &most), VSHARD_ENOTSUP);
    cr_expect_null(a.resize, "the allocator was filled in");
}

#endif
