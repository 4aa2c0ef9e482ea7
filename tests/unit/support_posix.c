/* support_posix.c - the fault storage, when nothing fails, is like a real disk.
 *
 * Method: the same random requests to the fault storage and to POSIX files; every
 * status, every count and every byte must agree. So what tests learn on the one
 * holds for the other. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "os/os.h"
#include "support/fault_storage.h"
#include "support/random.h"
#include "support/seeds.h"

enum { NAMES = 4, STEPS = 300, SPAN = 3000, SIDES = 2 };

struct side {
    struct vshard_storage storage;
    char dir[64];
    uint64_t files[NAMES]; /* by the order they were opened in */
};

static const char *const name[NAMES + 1] = { "a", "b", "c", "ab", "no/where" };

static int request(struct side *side, struct vshard_io *io)
{
    side->storage.submit(side->storage.ctx, io);
    side->storage.wait(side->storage.ctx, io);
    return io->status;
}

/* One random request, drawn once and made on both sides. */
static void step(struct side *sides, uint32_t *open_count, uint64_t *seed, uint64_t number)
{
    static unsigned char data[SPAN], out[SIDES][SPAN];
    static const uint32_t ops[] = { VSHARD_IO_OPEN,   VSHARD_IO_OPEN,   VSHARD_IO_CLOSE,
                                    VSHARD_IO_READ,   VSHARD_IO_READ,   VSHARD_IO_WRITE,
                                    VSHARD_IO_WRITE,  VSHARD_IO_SYNC,   VSHARD_IO_RESIZE,
                                    VSHARD_IO_RENAME, VSHARD_IO_REMOVE, VSHARD_IO_SYNC_DIR,
                                    VSHARD_IO_LIST };
    uint32_t op = ops[random_below(seed, VS_COUNT(ops))], flags = 0;
    uint64_t from = random_below(seed, NAMES + 1), to = random_below(seed, NAMES + 1);
    uint64_t file = random_below(seed, NAMES), offset = random_below(seed, SPAN);
    uint64_t count = op == VSHARD_IO_LIST ? random_below(seed, 12) : random_below(seed, SPAN);
    struct vshard_io io[SIDES];

    if (op == VSHARD_IO_OPEN) {
        flags = (uint32_t)random_below(seed, 16);
        if (*open_count == NAMES)
            return;
    } else if (op == VSHARD_IO_CLOSE || op == VSHARD_IO_READ || op == VSHARD_IO_WRITE ||
               op == VSHARD_IO_SYNC || op == VSHARD_IO_RESIZE) {
        if (file >= *open_count)
            return;
    }
    if (op == VSHARD_IO_RESIZE) { /* whether there is room for both is not what is compared */
        flags = (uint32_t)random_below(seed, 2) * VSHARD_IO_RESIZE_RESERVE;
        count = 0;
    }
    random_bytes(seed, data, SPAN);
    for (int i = 0; i < SIDES; i++) {
        char path[96], path_to[96];

        snprintf(path, sizeof path, "%s/%s", sides[i].dir, name[from]);
        snprintf(path_to, sizeof path_to, "%s/%s", sides[i].dir, name[to]);
        if (op == VSHARD_IO_SYNC_DIR || op == VSHARD_IO_LIST)
            snprintf(path, sizeof path, "%s", sides[i].dir);
        memset(out[i], 0, SPAN);
        io[i] = (struct vshard_io){ .op = op,
                                    .flags = flags,
                                    .offset = offset,
                                    .count = count,
                                    .path = path,
                                    .path_to = path_to,
                                    .buffer = op == VSHARD_IO_WRITE ? data : out[i] };
        if (op != VSHARD_IO_OPEN && file < *open_count)
            io[i].file = sides[i].files[file];
        request(&sides[i], &io[i]);
    }
    cr_assert_eq(io[0].status, io[1].status, "seed %zu: op %u flags %u: %d and %d", (size_t)number,
                 op, flags, io[0].status, io[1].status);
    if (op != VSHARD_IO_RESIZE && (io[0].status == VSHARD_OK || op == VSHARD_IO_LIST))
        cr_assert_eq(io[0].count, io[1].count, "seed %zu: op %u", (size_t)number, op);
    if (io[0].status == VSHARD_OK)
        cr_assert_arr_eq(out[0], out[1], SPAN, "seed %zu: op %u", (size_t)number, op);
    if (op == VSHARD_IO_OPEN && io[0].status == VSHARD_OK) {
        for (int i = 0; i < SIDES; i++)
            sides[i].files[*open_count] = io[i].file;
        ++*open_count;
    }
    if (op == VSHARD_IO_CLOSE) {
        --*open_count;
        for (int i = 0; i < SIDES; i++)
            sides[i].files[file] = sides[i].files[*open_count];
    }
}

Test(support_posix, agrees_with_real_files_for_each_seed)
{
    for (uint64_t number = seeds_first(); number < seeds_end(60); number++) {
        struct fault_storage *fs = fault_storage_create(number);
        struct side sides[SIDES] = { { .storage = *fault_storage_hook(fs), .dir = "d" },
                                     { .dir = "/tmp/vshard-both-XXXXXX" } };
        uint32_t open_count = 0;
        uint64_t seed = number;

        vshard_storage_posix(&sides[1].storage);
        cr_assert_not_null(mkdtemp(sides[1].dir));
        fault_storage_mkdir(fs, "d");
        for (int i = 0; i < STEPS; i++)
            step(sides, &open_count, &seed, number);
        while (open_count-- > 0) {
            vs_io_close(&sides[0].storage, sides[0].files[open_count]);
            vs_io_close(&sides[1].storage, sides[1].files[open_count]);
        }
        cr_assert_null(fault_storage_verdict(fs), "seed %zu: %s", (size_t)number,
                       fault_storage_verdict(fs));
        fault_storage_destroy(fs);
        for (int i = 0; i < NAMES; i++) {
            char path[96];
            snprintf(path, sizeof path, "%s/%s", sides[1].dir, name[i]);
            unlink(path);
        }
        cr_assert_eq(rmdir(sides[1].dir), 0);
    }
}
