/* index_memory.c - where the memory of an index lies, and in blocks of what size.
 *
 * Method: columns are grown through an allocator that counts; an index without a host's
 * allocator is looked up in the kernel's books: smaps for huge pages, move_pages for
 * nodes, get_mempolicy for what was asked of it. Nodes that the machine lacks are
 * synthetic (os_memory.c says how). A filter of system calls makes the kernel refuse
 * to place memory in the middle of an index's life. */
#include <criterion/criterion.h>

#include <errno.h>
#include <unistd.h>

#include "index/state.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/index_data.h"
#include "support/refuse_call.h"
#include "support/sanitized.h"
#include "support/smaps.h"

#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { D = 64, ROWS = 6000, NODES = 1024 };

/* ---- columns ---- */

Test(index_memory, a_call_gets_its_rows_in_one_block)
{
    struct fault_alloc memory;
    struct vs_column c;

    fault_alloc_init(&memory);
    vs_column_init(&c, 16);
    cr_assert_eq(vs_column_reserve(&c, 100000, &memory.hook), 0);
    cr_expect_eq(memory.calls, 4, "%llu calls for a table, rows, and their list",
                 (unsigned long long)memory.calls);
    cr_expect_eq(c.extents, vs_extents_for(100000), "more than asked for");
    cr_expect_eq(c.heap_bytes, memory.bytes);
    cr_assert_eq(vs_column_reserve(&c, 100000, &memory.hook), 0);
    cr_assert_eq(vs_column_reserve(&c, 0, &memory.hook), 0);
    cr_expect_eq(memory.calls, 4);
    vs_column_fini(&c, &memory.hook);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

Test(index_memory, at_most_an_eighth_is_spare)
{
    struct fault_alloc memory;
    struct vs_column c;

    fault_alloc_init(&memory);
    vs_column_init(&c, 4);
    for (uint32_t extents = 1; extents <= 2000; extents++) {
        cr_assert_eq(vs_column_reserve(&c, (uint64_t)extents << VS_EXTENT_SHIFT, &memory.hook), 0);
        cr_assert(c.extents >= extents && c.extents - extents <= extents / 8, "%u for %u",
                  c.extents, extents);
        *(uint32_t *)vs_column_at(&c, (extents << VS_EXTENT_SHIFT) - 1) = extents;
    }
    for (uint32_t extents = 1; extents <= 2000; extents++)
        cr_assert_eq(*(uint32_t *)vs_column_at(&c, (extents << VS_EXTENT_SHIFT) - 1), extents);
    cr_expect(memory.calls < 200, "%llu calls", (unsigned long long)memory.calls);
    cr_expect_eq(c.heap_bytes, memory.bytes);
    vs_column_fini(&c, &memory.hook);
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

/* ---- an index in memory of this machine ---- */

struct rows {
    uint64_t *ids;
    void *vectors;
};

static struct rows draw_rows(void)
{
    uint64_t seed = 5;

    return (struct rows){ number_ids(0, ROWS), draw_vectors(&seed, 0, ROWS, D) };
}

static void free_rows(struct rows *r)
{
    free(r->ids);
    free(r->vectors);
}

static struct vshard_index_options flat_options(void)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);

    o.family = VSHARD_FAMILY_FLAT;
    return o;
}

Test(index_memory, rows_of_a_large_call_lie_in_huge_pages)
{
    enum { WIDE = 1024, MANY = 4096 }; /* 16 MiB */
    struct vshard_index_options o = flat_options();
    uint64_t seed = 6, *ids = number_ids(0, MANY);
    void *vectors = draw_vectors(&seed, 0, MANY, WIDE);
    struct vshard_index *x;
    struct smap map;

    o.dim = WIDE;
    x = make_index(&o);
    add_rows(x, ids, vectors, MANY);
    cr_expect_eq((uintptr_t)vs_column_at(&x->elements, 0) % (2 << 20), 0, "not aligned");
    if (!system_has_huge_pages()) {
        printf("index_memory: skipped, this system gives no transparent huge pages\n");
    } else {
        cr_assert(smap_of(vs_column_at(&x->elements, 0), &map));
        cr_expect(map.advised, "not advised");
        cr_expect(map.huge_bytes >= 8 << 20, "%llu bytes in huge pages, of 16 MiB",
                  (unsigned long long)map.huge_bytes);
    }
    vshard_index_destroy(x);
    free(vectors);
    free(ids);
}

static int node_bytes(struct vshard_index *x, uint64_t *sum)
{
    static uint64_t bytes[NODES];
    int rc = vshard_index_node_bytes(x, bytes, NODES);

    *sum = 0;
    for (size_t i = 0; i < NODES; i++)
        *sum += bytes[i];
    return rc;
}

/* ---- after most rows are gone ---- */

static uint64_t resident_bytes(void)
{
    unsigned long long all, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file != NULL && fscanf(file, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t heap_bytes_of(struct vshard_index *x)
{
    struct vshard_index_stats s = { .size = sizeof s };

    cr_assert_eq(vshard_index_stats(x, &s), 0);
    return s.heap_bytes;
}

static void expect_given_back(uint32_t family, size_t batch)
{
    enum { LARGE = 256, MANY = 30000, LEFT = 1000 };
    struct vshard_index_options o = small_options(LARGE, VSHARD_METRIC_L2SQ, VSHARD_ELEMENT_F32);
    uint64_t seed = 6, *ids = number_ids(0, MANY), before, held;
    float *vectors = draw_vectors(&seed, VSHARD_ELEMENT_F32, MANY, LARGE);
    struct vshard_index *x;

    o.family = family;
    o.ef_construction = 8;
    x = make_index(&o);
    for (size_t i = 0; i < MANY; i += batch)
        add_rows(x, ids + i, vectors + i * LARGE, batch);
    held = heap_bytes_of(x);
    before = resident_bytes();
    for (size_t i = 0; i < MANY - LEFT; i += 1000)
        remove_rows(x, ids + i, 1000);
    cr_assert_eq(vshard_index_maintain(x, 0, NULL), 0);
    cr_expect_lt(heap_bytes_of(x), held / 8);
    held -= heap_bytes_of(x);
    cr_expect(before - resident_bytes() >= held / 4 * 3,
              "family %u, in calls of %zu: of %llu bytes the system got %lld", family, batch,
              (unsigned long long)held, (long long)(before - resident_bytes()));
    vshard_index_destroy(x);
    free(vectors);
    free(ids);
}

/* Not only the allocator: what the process takes is less. */
Test(index_memory, the_system_has_memory_back_when_most_rows_are_gone)
{
    if (SANITIZED || resident_bytes() == 0)
        return;
    for (uint32_t family = 0; family < 2; family++) {
        expect_given_back(family, 30000);
        expect_given_back(family, 100);
    }
}

Test(index_memory, an_index_tells_where_its_rows_lie)
{
    struct vshard_index_options o = flat_options();
    struct vshard_index_stats s = { .size = sizeof s };
    struct rows r = draw_rows();
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    struct vshard_index *x;
    uint64_t sum;
    int rc;

    o.logger = &logger;
    x = make_index(&o);
    add_rows(x, r.ids, r.vectors, ROWS);
    rc = node_bytes(x, &sum);
    if (rc == VSHARD_ENOTSUP) {
        printf("index_memory: skipped, this system does not say where pages lie\n");
    } else {
        cr_assert_eq(rc, 0, "%s", vshard_strerror(rc));
        cr_assert_eq(vshard_index_stats(x, &s), 0);
        cr_expect_eq(s.numa_node, 0);
        cr_expect(sum >= (uint64_t)ROWS * D * 4, "%llu bytes", (unsigned long long)sum);
        /* Pages that small blocks share count for each of them. */
        cr_expect(sum <= s.heap_bytes + (256 << 10), "%llu of %llu bytes", (unsigned long long)sum,
                  (unsigned long long)s.heap_bytes);
        cr_expect_eq(vshard_index_node_bytes(x, &sum, 0), VSHARD_E2BIG);
        cr_expect_not_null(strstr(seen.fields, "node_count"));
    }
    cr_expect_eq(vshard_index_node_bytes(x, NULL, 1), VSHARD_EINVAL);
    cr_expect_str_eq(seen.name, "node_bytes.refused");
    cr_expect_eq(vshard_index_node_bytes(NULL, &sum, 1), VSHARD_EINVAL);
    vshard_index_destroy(x);
    free_rows(&r);
}

Test(index_memory, a_mapped_index_tells_where_its_file_lies)
{
    struct vshard_index_options o = flat_options();
    struct vshard_open_options mapped = { .size = sizeof mapped, .flags = VSHARD_OPEN_MAPPED };
    struct rows r = draw_rows();
    struct vshard_index *x = make_index(&o), *y;
    char path[] = "/tmp/vshard-memory-XXXXXX";
    int fd = mkstemp(path), rc;
    struct vshard_hit hit;
    uint64_t sum;

    cr_assert(fd >= 0);
    close(fd);
    add_rows(x, r.ids, r.vectors, ROWS);
    cr_assert_eq(vshard_index_save(x, path), 0);
    cr_assert_eq(vshard_index_open(path, &mapped, &y), 0);
    search_rows(y, r.vectors, 1, 1, 0, 0, &hit);
    rc = node_bytes(y, &sum);
    if (rc == VSHARD_ENOTSUP)
        printf("index_memory: skipped, this system does not say where pages lie\n");
    else
        cr_expect(rc == 0 && sum >= (uint64_t)ROWS * D * 4, "%s, %llu bytes", vshard_strerror(rc),
                  (unsigned long long)sum);
    vshard_index_destroy(y);
    vshard_index_destroy(x);
    unlink(path);
    free_rows(&r);
}

/* ---- nodes ---- */

/* A call that must fail with this status, naming `field`. */
static void expect_refused(int rc, int status, const struct seen *seen, const char *field)
{
    cr_expect_eq(rc, status, "%s: %s", field, vshard_strerror(rc));
    cr_expect_not_null(strstr(seen->fields, field), "%s is not in %s", field, seen->fields);
}

Test(index_memory, a_node_goes_with_neither_an_allocator_nor_a_mapped_file)
{
    struct vshard_index_options o = flat_options();
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    struct vshard_open_options open = {
        .size = sizeof open, .flags = VSHARD_OPEN_MAPPED, .logger = &logger, .numa_node = 1
    };
    struct vshard_index *x = (void *)1;
    struct fault_alloc memory;

    fault_alloc_init(&memory);
    o.allocator = &memory.hook;
    o.logger = &logger;
    o.numa_node = 1;
    expect_refused(vshard_index_create(&o, &x), VSHARD_EINVAL, &seen, "numa_node");
    cr_expect_null(x);
    x = (void *)1;
    expect_refused(vshard_index_open("/tmp/none", &open, &x), VSHARD_EINVAL, &seen, "numa_node");
    cr_expect_null(x);
    open = (struct vshard_open_options){ .size = sizeof open, .logger = &logger, .reserved = 1 };
    expect_refused(vshard_index_open("/tmp/none", &open, &x), VSHARD_EINVAL, &seen, "reserved");
    cr_expect_null(fault_alloc_verdict(&memory));
    fault_alloc_fini(&memory);
}

static struct fault_storage *saved(const struct vshard_index_options *options, const struct rows *r)
{
    struct vshard_index_options o = *options;
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index *x;

    o.storage = fault_storage_hook(fs);
    x = make_index(&o);
    add_rows(x, r->ids, r->vectors, ROWS);
    cr_assert_eq(vshard_index_save(x, "/i"), 0);
    vshard_index_destroy(x);
    return fs;
}

/* Creates, and opens a file, on this node. */
static void expect_statuses(uint32_t numa_node, int status, const char *limit)
{
    struct vshard_index_options o = flat_options();
    struct rows r = draw_rows();
    struct fault_storage *fs = saved(&o, &r);
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    struct vshard_open_options open = { .size = sizeof open,
                                        .logger = &logger,
                                        .storage = fault_storage_hook(fs),
                                        .numa_node = numa_node };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_index *x;
    int rc;

    o.logger = &logger;
    o.numa_node = numa_node;
    for (int opens = 0; opens < 2; opens++) {
        seen = (struct seen){ 0 };
        rc = opens ? vshard_index_open("/i", &open, &x) : vshard_index_create(&o, &x);
        cr_assert_eq(rc, status, "node %u, open %d: %s", numa_node, opens, vshard_strerror(rc));
        cr_assert_eq(x == NULL, rc < 0);
        if (rc < 0 && !opens)
            cr_expect(strstr(seen.fields, "argument=numa_node") != NULL &&
                          strstr(seen.fields, limit) != NULL,
                      "no %s in %s", limit, seen.fields);
        if (rc == 0) {
            if (!opens)
                add_rows(x, r.ids, r.vectors, ROWS);
            cr_assert_eq(vshard_index_stats(x, &s), 0);
            cr_expect_eq(s.numa_node, numa_node);
            cr_expect_eq(s.rows, ROWS);
        }
        vshard_index_destroy(x);
    }
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
    free_rows(&r);
}

#if defined(VS_HAVE_HWLOC)

Test(index_memory, a_node_is_one_of_the_systems)
{
    setenv("HWLOC_SYNTHETIC", "numa:3(indexes=0,2,5) pu:1", 1);
    expect_statuses(1, VSHARD_OK, "");
    expect_statuses(6, VSHARD_OK, "");
    expect_statuses(2, VSHARD_EINVAL, "limit=6");
    expect_statuses(7, VSHARD_EINVAL, "limit=6");
    expect_statuses(UINT32_MAX, VSHARD_EINVAL, "limit=6");
    setenv("HWLOC_SYNTHETIC", "numa:1 pu:4", 1);
    expect_statuses(1, VSHARD_OK, "");
    expect_statuses(2, VSHARD_EINVAL, "limit=1");
}

#else

Test(index_memory, without_hwloc_no_node_is_supported)
{
    expect_statuses(1, VSHARD_ENOTSUP, "limit=0");
    expect_statuses(2, VSHARD_ENOTSUP, "limit=0");
}

#endif

#if defined(VS_HAVE_HWLOC) && defined(__linux__)

/* A second node that is not there, so that the first is worth binding to. */
static struct vshard_index *make_bound(struct vshard_index_options *o)
{
    struct vshard_index *x = NULL;
    int rc;

    setenv("HWLOC_SYNTHETIC", "numa:2 pu:1", 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    o->numa_node = 1;
    rc = vshard_index_create(o, &x);
    if (rc == VSHARD_ENOTSUP)
        printf("index_memory: skipped, this process may not place memory\n");
    else
        cr_assert_eq(rc, 0, "%s", vshard_strerror(rc));
    return x;
}

/* The memory policy of an address, and 1 in *first if it speaks of node 0. */
static int policy_of(void *address, unsigned long *first)
{
    enum { OF_ADDRESS = 2, NODE_BITS = 4096 };
    unsigned long mask[NODE_BITS / 8 / sizeof(long)] = { 0 };
    int policy = -1;

    syscall(SYS_get_mempolicy, &policy, mask, NODE_BITS, address, OF_ADDRESS);
    *first = mask[0];
    return policy;
}

Test(index_memory, every_large_block_of_a_placed_index_is_bound_to_its_node)
{
    enum { DEFAULT = 0, PREFERRED = 1, PREFERRED_MANY = 5 };
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_IP, VSHARD_ELEMENT_F32);
    struct rows r = draw_rows();
    struct vshard_index *x = make_bound(&o);

    if (x != NULL) {
        uint64_t bytes[NODES];
        unsigned long first;
        void *blocks[5];

        add_rows(x, r.ids, r.vectors, ROWS);
        blocks[0] = vs_column_at(&x->elements, ROWS - 1);
        blocks[1] = vs_column_at(&x->codes, ROWS - 1);
        blocks[2] = vs_column_at(&x->edges, ROWS - 1);
        blocks[3] = vs_column_at(&x->rows, ROWS - 1);
        blocks[4] = x->ids.table;
        for (size_t i = 0; i < VS_COUNT(blocks); i++) {
            int policy = policy_of(blocks[i], &first);

            cr_expect(policy == PREFERRED || policy == PREFERRED_MANY, "block %zu: policy %d", i,
                      policy);
            cr_expect_eq(first, 1, "block %zu: nodes %lx", i, first);
        }
        cr_expect_eq(policy_of(r.vectors, &first), DEFAULT, "the heap was bound, too");
        if (vshard_index_node_bytes(x, bytes, NODES) == VSHARD_OK)
            cr_expect(bytes[0] >= (uint64_t)ROWS * D * 4, "%llu bytes on node 0",
                      (unsigned long long)bytes[0]);
        vshard_index_destroy(x);
    }
    free_rows(&r);
}

Test(index_memory, an_index_is_unchanged_when_the_system_stops_placing_memory)
{
    struct vshard_index_options o = small_options(D, VSHARD_METRIC_IP, VSHARD_ELEMENT_F32);
    struct rows r = draw_rows();
    struct seen seen;
    struct vshard_logger logger = seen_logger(&seen);
    struct vshard_index *x, *y;
    uint64_t digest;

    o.logger = &logger;
    x = make_bound(&o);
    if (x != NULL) {
        add_rows(x, r.ids, r.vectors, 900);
        digest = digest_of(x);
        if (!refuse_call(SYS_mbind, EPERM)) {
            printf("index_memory: skipped, no filter of system calls here\n");
        } else {
            cr_expect_eq(vshard_index_add(x, r.ids, r.vectors, ROWS), VSHARD_ENOMEM);
            cr_expect_str_eq(seen.name, "add.refused");
            cr_expect_eq(digest_of(x), digest);
            cr_expect_eq(vshard_index_count(x), 900);
            expect_clean(x, "after a refused add");
            expect_refused(vshard_index_create(&o, &y), VSHARD_ENOTSUP, &seen, "numa_node");
            cr_expect_null(y);
        }
        vshard_index_destroy(x);
    }
    free_rows(&r);
}

#endif
