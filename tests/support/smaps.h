/* smaps.h - what the kernel says about this process's memory, for tests of huge pages. */
#ifndef SUPPORT_SMAPS_H
#define SUPPORT_SMAPS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct smap {
    uint64_t huge_bytes; /* in transparent huge pages */
    int advised;         /* for them */
};

/* Of the mapping that holds `address`; false where there is none, or nobody says. */
static inline int smap_of(const void *address, struct smap *out)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    unsigned long low, high, kilobytes;
    int here = 0, found = 0;
    char line[512];

    memset(out, 0, sizeof *out);
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2) {
            here = (uintptr_t)address >= low && (uintptr_t)address < high;
            found |= here;
        } else if (here && sscanf(line, "AnonHugePages: %lu kB", &kilobytes) == 1) {
            out->huge_bytes = (uint64_t)kilobytes << 10;
        } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
            out->advised = strstr(line, " hg") != NULL;
        }
    }
    if (file != NULL)
        fclose(file);
    return found;
}

/* Whether this system gives huge pages to who asks for them: asks, and looks. */
static inline int system_has_huge_pages(void)
{
    const size_t bytes = (size_t)16 << 20;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct smap map = { 0 };

    if (p == MAP_FAILED)
        return 0;
#if defined(MADV_HUGEPAGE)
    if (madvise(p, bytes, MADV_HUGEPAGE) == 0) {
        memset(p, 1, bytes);
        smap_of(p, &map);
    }
#endif
    munmap(p, bytes);
    return map.huge_bytes > 0;
}

#endif
