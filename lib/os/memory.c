/* memory.c - the default memory of an index.
 *
 * Small blocks come from the C library's heap. A block of 128 KiB and more has pages of its own, so
 * that the system has it back when it is freed: an index that grew by small calls has many such
 * blocks, and of a heap that they are freed to the C library keeps most. One of 2 MiB and more
 * begins at a multiple of 2 MiB, too, and is advised for transparent huge pages, so that a walk
 * that jumps about in it misses fewer translations. Where memory is placed on a node, which is done
 * page by page, blocks of 8 pages and more have pages of their own; at most an eighth of them is
 * lost to rounding. */
#include "os/os.h"

#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define OWN_BYTES  ((size_t)128 << 10)
enum { PLACED_PAGES = 8 };

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t whole_pages(size_t bytes)
{
    return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

static bool has_own_pages(const struct vs_os_place *place, size_t bytes)
{
    return bytes >= OWN_BYTES || (place != NULL && bytes >= PLACED_PAGES * page_bytes());
}

/* Maps whole pages at a multiple of `align`: more than that, and the ends cut off. */
static void *map_aligned(size_t bytes, size_t align)
{
    unsigned char *p =
        mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t before;

    if (p == MAP_FAILED)
        return NULL;
    before = (align - (uintptr_t)p % align) % align;
    if (before > 0)
        munmap(p, before);
    munmap(p + before + bytes, align - before);
    return p + before;
}

static void *map_block(const struct vs_os_place *place, size_t bytes)
{
    size_t span, align = bytes >= HUGE_BYTES ? HUGE_BYTES : page_bytes();
    void *p;

    if (bytes > SIZE_MAX / 2)
        return NULL;
    span = whole_pages(bytes);
    p = map_aligned(span, align);
    if (p == NULL)
        return NULL;
    if (place != NULL && vs_os_place_bind(place, p, span) < 0) {
        munmap(p, span);
        return NULL;
    }
#if defined(MADV_HUGEPAGE)
    if (bytes >= HUGE_BYTES) /* advice: a kernel that has none of them may say so */
        madvise(p, span, MADV_HUGEPAGE);
#endif
    return p;
}

static void *take(const struct vs_os_place *place, size_t bytes)
{
    return has_own_pages(place, bytes) ? map_block(place, bytes) : vs_alloc(NULL, bytes);
}

static void give(const struct vs_os_place *place, void *p, size_t bytes)
{
    if (has_own_pages(place, bytes))
        munmap(p, whole_pages(bytes));
    else
        vs_free(NULL, p, bytes);
}

/* As vshard_allocator.resize; blocks are aligned to VS_ALIGN or more. */
static void *resize(void *ctx, void *old, size_t old_bytes, size_t new_bytes, size_t align)
{
    void *p = NULL;

    (void)align;
    if (new_bytes > 0) {
        p = take(ctx, new_bytes);
        if (p == NULL)
            return NULL;
    }
    if (old != NULL) {
        if (p != NULL)
            memcpy(p, old, old_bytes < new_bytes ? old_bytes : new_bytes);
        give(ctx, old, old_bytes);
    }
    return p;
}

/* Some systems know nodes and let nobody bind to them, as a container's filter of system
 * calls may: better to say so before anything depends on it. */
static int try_place(const struct vs_os_place *place)
{
    void *page = map_aligned(page_bytes(), page_bytes());
    int rc;

    if (page == NULL)
        return VSHARD_ENOMEM;
    rc = vs_os_place_bind(place, page, page_bytes());
    munmap(page, page_bytes());
    return rc;
}

int vs_os_memory_open(uint32_t numa_node, struct vshard_allocator *memory, uint32_t *most)
{
    struct vs_os_place *place = NULL;
    int rc = numa_node > 0 ? vs_os_place_open(numa_node, &place, most) : VSHARD_OK;

    if (rc == VSHARD_OK && place != NULL)
        rc = try_place(place);
    if (rc < 0) {
        vs_os_place_close(place);
        return rc;
    }
    *memory = (struct vshard_allocator){ resize, place };
    return VSHARD_OK;
}

void vs_os_memory_close(const struct vshard_allocator *memory)
{
    if (memory->resize == resize)
        vs_os_place_close(memory->ctx);
}
