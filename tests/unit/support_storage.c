/* support_storage.c - the fault storage behaves as a disk when it is well, and as
 * each of its faults says when it is not.
 *
 * Method: the same short stories of writes, syncs and names, then every crash
 * state of them counted through and compared with the set that a page cache and a
 * journal can leave; each fault is committed on purpose. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>

#include "os/os.h"
#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/random.h"

enum { CREATE = VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE, SECTOR = 512 };

static struct fault_storage *fs;
static const struct vshard_storage *storage;

static void init(void)
{
    fs = fault_storage_create(1);
    storage = fault_storage_hook(fs);
}

static void fini(void)
{
    fault_storage_destroy(fs);
}

TestSuite(support_storage, .init = init, .fini = fini);

static uint64_t opened(const char *path)
{
    uint64_t file = 0;

    cr_assert_eq(vs_io_open(storage, path, CREATE, &file, NULL), VSHARD_OK, "%s", path);
    return file;
}

static void fill(uint64_t file, uint64_t offset, char c, size_t count)
{
    char bytes[4096];

    memset(bytes, c, count);
    cr_assert_eq(vs_io_write(storage, file, offset, bytes, count), VSHARD_OK);
}

/* A file's content as text: one letter a sector, '.' for zeros, '?' for a mix. */
static const char *picture(struct fault_storage *of, const char *path)
{
    static char out[64];
    size_t count = 0, n = 0;
    const char *bytes = fault_storage_bytes(of, path, &count);

    if (bytes == NULL)
        return "none";
    for (size_t at = 0; at < count; at += SECTOR) {
        size_t end = at + SECTOR < count ? at + SECTOR : count;
        char c = bytes[at];

        for (size_t i = at; i < end; i++) {
            if (bytes[i] != c)
                c = '?';
        }
        out[n++] = c == 0 ? '.' : c;
    }
    out[n] = '\0';
    return n > 0 ? out : "empty";
}

/* Adds a word to a list of different ones, such as "|aa|ab|". */
static void add_word(char *list, const char *word)
{
    char between[80];

    snprintf(between, sizeof between, "|%s|", word);
    if (list[0] == '\0')
        strcpy(list, "|");
    if (strstr(list, between) == NULL)
        strcat(list, between + 1);
}

/* Crashes in every way there is, and collects the distinct pictures of `path`
 * into one text, in the order they are met. */
static const char *all_pictures(const char *path, uint32_t flags, size_t *states_seen)
{
    static char out[4096];
    uint32_t states[64], chosen[64] = { 0 };
    size_t units = fault_storage_units(fs, flags, states, 64);
    struct fault_crash crash = { .chosen = chosen, .flags = flags };

    cr_assert_leq(units, 64);
    out[0] = '\0';
    *states_seen = 0;
    do {
        struct fault_storage *after = fault_storage_after(fs, &crash);

        add_word(out, picture(after, path));
        cr_assert_null(fault_storage_verdict(after));
        fault_storage_destroy(after);
        ++*states_seen;
    } while (fault_choice_next(chosen, states, units));
    return out;
}

static void make_durable(const char *path, char c, size_t count)
{
    uint64_t file = opened(path);

    fill(file, 0, c, count);
    cr_assert_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_assert_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    cr_assert_eq(vs_io_close(storage, file), VSHARD_OK);
}

/* ---- a disk in good health ---- */

/* The same random calls on the POSIX storage would need a real disk; the model is
 * a plain array. */
Test(support_storage, reads_back_what_was_written)
{
    enum { BYTES = 20000 };
    static unsigned char model[BYTES], bytes[BYTES];
    uint64_t file = opened("f"), seed = 7, length = 0;

    for (int step = 0; step < 2000; step++) {
        uint64_t at = random_below(&seed, BYTES), count = random_below(&seed, BYTES - at);

        switch (random_below(&seed, 4)) {
        case 0:
            random_bytes(&seed, bytes, count);
            memcpy(model + at, bytes, count);
            cr_assert_eq(vs_io_write(storage, file, at, bytes, count), VSHARD_OK);
            length = count > 0 && at + count > length ? at + count : length;
            break;
        case 1:
            if (at < length)
                memset(model + at, 0, length - at);
            length = at;
            cr_assert_eq(vs_io_resize(storage, file, at), VSHARD_OK);
            break;
        case 2: cr_assert_eq(vs_io_sync(storage, file), VSHARD_OK); break;
        default:
            count = at + count <= length ? count : 0;
            cr_assert_eq(vs_io_read(storage, file, at, bytes, count), VSHARD_OK);
            cr_assert_arr_eq(bytes, model + at, count, "step %d", step);
        }
    }
    cr_expect_eq(vs_io_read(storage, file, length, bytes, 1), VSHARD_ECORRUPT, "past the end");
    cr_expect_eq(vs_io_close(storage, file), VSHARD_OK);
    cr_expect_null(fault_storage_verdict(fs));
}

Test(support_storage, keeps_names_as_a_directory_does)
{
    uint64_t file;
    char names[32];
    size_t bytes = sizeof names;

    cr_expect_eq(vs_io_open(storage, "d/a", CREATE, &file, NULL), VSHARD_ENOTFOUND, "no directory");
    fault_storage_mkdir(fs, "d");
    fault_storage_put(fs, "d/b", "1", 1);
    fault_storage_put(fs, "d/a", "22", 2);
    fault_storage_put(fs, "da", "3", 1);
    cr_expect_eq(vs_io_list(storage, "d", names, &bytes), VSHARD_OK);
    cr_expect(bytes == 4 && memcmp(names, "a\0b", 4) == 0);
    bytes = 3;
    cr_expect_eq(vs_io_list(storage, "d", names, &bytes), VSHARD_E2BIG);
    cr_expect_eq(bytes, 4);
    bytes = sizeof names;
    cr_expect_eq(vs_io_list(storage, ".", names, &bytes), VSHARD_OK);
    cr_expect(bytes == 3 && memcmp(names, "da", 3) == 0);
    cr_expect_eq(vs_io_open(storage, "d/a", CREATE | VSHARD_IO_OPEN_EXCLUSIVE, &file, NULL),
                 VSHARD_EEXIST);
    cr_expect_eq(vs_io_rename(storage, "d/a", "d/b"), VSHARD_OK);
    cr_expect_str_eq(picture(fs, "d/b"), "2");
    cr_expect_eq(vs_io_rename(storage, "d/b", "b"), VSHARD_ENOTSUP, "across directories");
    cr_expect_eq(vs_io_rename(storage, "d/a", "d/c"), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_remove(storage, "d/b"), VSHARD_OK);
    cr_expect_eq(vs_io_remove(storage, "d/b"), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_open(storage, "d/b", 0, &file, NULL), VSHARD_ENOTFOUND);
    cr_expect_eq(vs_io_open(storage, "d", 0, &file, NULL), VSHARD_ENOTSUP);
    cr_expect_eq(
        vs_io_open(storage, "d", VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE, &file, NULL),
        VSHARD_ENOTSUP);
    cr_expect_eq(vs_io_sync_dir(storage, "e"), VSHARD_ENOTFOUND);
    cr_expect_null(fault_storage_verdict(fs));
}

Test(support_storage, has_a_file_alone_until_it_is_closed_or_the_power_is_cut)
{
    const uint32_t alone = CREATE | VSHARD_IO_OPEN_ALONE;
    const struct fault_crash crash = { .flags = FAULT_CRASH_KEEP };
    struct fault_storage *after;
    uint64_t file, again, plain;

    cr_assert_eq(vs_io_open(storage, "f", alone, &file, NULL), VSHARD_OK);
    fill(file, 0, 'a', 1);
    cr_expect_eq(vs_io_open(storage, "f", alone | VSHARD_IO_OPEN_TRUNCATE, &again, NULL),
                 VSHARD_EBUSY);
    cr_expect_str_eq(picture(fs, "f"), "a");
    cr_expect_eq(vs_io_open(storage, "g", alone, &again, NULL), VSHARD_OK, "another file");
    vs_io_close(storage, again);
    plain = opened("f");
    vs_io_close(storage, plain);
    cr_expect_eq(vs_io_open(storage, "f", alone, &again, NULL), VSHARD_EBUSY);
    after = fault_storage_after(fs, &crash);
    cr_expect_eq(vs_io_open(fault_storage_hook(after), "f", alone, &again, NULL), VSHARD_OK);
    vs_io_close(fault_storage_hook(after), again);
    fault_storage_destroy(after);
    vs_io_close(storage, file);
    cr_expect_eq(vs_io_open(storage, "f", alone, &again, NULL), VSHARD_OK);
    vs_io_close(storage, again);
    cr_expect_eq(vs_io_open(storage, "f", VSHARD_IO_OPEN_ALONE, &again, NULL), VSHARD_EINVAL);
    cr_expect_null(fault_storage_verdict(fs));
}

Test(support_storage, keeps_an_open_file_whose_name_is_gone)
{
    uint64_t file = opened("f");
    char c = 0;

    fill(file, 0, 'a', 1);
    cr_assert_eq(vs_io_remove(storage, "f"), VSHARD_OK);
    cr_assert_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    cr_expect_eq(vs_io_read(storage, file, 0, &c, 1), VSHARD_OK);
    cr_expect_eq(c, 'a');
    vs_io_close(storage, file);
}

Test(support_storage, maps_a_copy_or_refuses)
{
    uint64_t file;
    void *map;

    fault_storage_put(fs, "f", "bytes", 5);
    file = opened("f");
    cr_expect_eq(vs_io_map(storage, file, 6, &map), VSHARD_ECORRUPT);
    cr_assert_eq(vs_io_map(storage, file, 5, &map), VSHARD_OK);
    cr_expect_arr_eq(map, "bytes", 5);
    cr_expect_not_null(strstr(fault_storage_verdict(fs), "1 files open, 1 mapped"));
    cr_expect_eq(vs_io_unmap(storage, map, 5), VSHARD_OK);
    fault_storage_refuse_maps(fs, 1);
    cr_expect_eq(vs_io_map(storage, file, 5, &map), VSHARD_ENOTSUP);
    vs_io_close(storage, file);
}

Test(support_storage, crashes_who_writes_to_a_mapping, .signal = SIGSEGV)
{
    uint64_t file;
    void *map;

    fault_storage_put(fs, "f", "bytes", 5);
    file = opened("f");
    cr_assert_eq(vs_io_map(storage, file, 5, &map), VSHARD_OK);
    signal(SIGSEGV, SIG_DFL); /* a sanitizer would catch it before Criterion sees it */
    *(volatile char *)map = 'B';
}

/* ---- power cuts ---- */

Test(support_storage, keeps_what_was_synced_in_every_crash)
{
    size_t states;
    uint64_t file = opened("f");

    fill(file, 0, 'a', 3 * SECTOR);
    cr_assert_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_assert_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|aaa|");
    cr_expect_eq(states, 1, "nothing is left to chance");
    vs_io_close(storage, file);
}

Test(support_storage, loses_a_name_that_was_not_synced_though_its_file_was)
{
    size_t states;
    uint64_t file = opened("f");

    fill(file, 0, 'a', SECTOR);
    cr_assert_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|none|a|");
    vs_io_close(storage, file);
}

Test(support_storage, loses_bytes_that_were_not_synced_though_their_name_was)
{
    size_t states;
    uint64_t file = opened("f");

    fill(file, 0, 'a', SECTOR);
    cr_assert_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|empty|.|a|", "nothing, the length, or all");
    vs_io_close(storage, file);
}

Test(support_storage, tears_an_overwrite_by_sector)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', 3 * SECTOR);
    file = opened("f");
    fill(file, 0, 'b', 3 * SECTOR);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|aaa|baa|aba|bba|aab|bab|abb|bbb|");
    cr_expect_eq(states, 8);
    vs_io_close(storage, file);
}

Test(support_storage, reorders_writes_but_never_within_a_sector)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', 2 * SECTOR);
    file = opened("f");
    fill(file, 0, 'b', SECTOR);
    fill(file, SECTOR, 'c', SECTOR);
    fill(file, 0, 'd', SECTOR);
    /* The second write may be there without the first; the third takes the first
     * with it. */
    cr_expect_str_eq(all_pictures("f", 0, &states), "|aa|ba|da|ac|bc|dc|");
    vs_io_close(storage, file);
}

Test(support_storage, never_splits_a_sector_between_two_writes)
{
    size_t states, count;
    uint64_t file;
    uint32_t chosen[1] = { 2 };
    struct fault_crash crash = { .chosen = chosen };
    struct fault_storage *after;
    const char *bytes;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, 0, 'b', 10);
    fill(file, 10, 'c', 10);
    all_pictures("f", 0, &states);
    cr_expect_eq(states, 3, "neither, the first, or both: not the second alone");
    after = fault_storage_after(fs, &crash);
    bytes = fault_storage_bytes(after, "f", &count);
    cr_expect_arr_eq(bytes, "bbbbbbbbbbccccccccccaaaa", 24);
    fault_storage_destroy(after);
    vs_io_close(storage, file);
}

Test(support_storage, leaves_a_longer_file_at_any_sector_boundary)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, SECTOR, 'b', 2 * SECTOR);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|a|a.|a..|ab|ab.|a.b|abb|");
    vs_io_close(storage, file);
}

Test(support_storage, never_shows_what_a_surviving_cut_removed)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', 2 * SECTOR);
    file = opened("f");
    cr_assert_eq(vs_io_resize(storage, file, 0), VSHARD_OK);
    cr_assert_eq(vs_io_resize(storage, file, 2 * SECTOR), VSHARD_OK);
    /* The whole file, none of it, or zeros: never an 'a' behind the cut. Where the
     * cut was lost the sectors it zeroed may still have reached the disk. */
    cr_expect_str_eq(all_pictures("f", 0, &states), "|aa|empty|..|.a|a.|");
    vs_io_close(storage, file);
}

Test(support_storage, replaces_a_file_by_rename_in_one_step)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f.tmp");
    fill(file, 0, 'b', 2 * SECTOR);
    cr_assert_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_assert_eq(vs_io_close(storage, file), VSHARD_OK);
    cr_assert_eq(vs_io_rename(storage, "f.tmp", "f"), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|a|bb|");
    cr_expect_str_eq(all_pictures("f", FAULT_CRASH_EACH_NAME, &states), "|a|bb|");
    cr_assert_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|bb|");
}

Test(support_storage, shows_the_rename_before_the_sync_that_loses_a_file)
{
    size_t states;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f.tmp");
    fill(file, 0, 'b', SECTOR);
    cr_assert_eq(vs_io_close(storage, file), VSHARD_OK);
    cr_assert_eq(vs_io_rename(storage, "f.tmp", "f"), VSHARD_OK);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|a|empty|.|b|",
                     "the old file, or none of either");
}

Test(support_storage, keeps_a_prefix_of_the_names_or_each_for_itself)
{
    size_t states;

    fault_storage_put(fs, "a", "1", 1);
    fault_storage_put(fs, "b", "1", 1);
    cr_assert_eq(vs_io_remove(storage, "a"), VSHARD_OK);
    cr_assert_eq(vs_io_remove(storage, "b"), VSHARD_OK);
    all_pictures("b", 0, &states);
    cr_expect_eq(states, 3);
    all_pictures("b", FAULT_CRASH_EACH_NAME, &states);
    cr_expect_eq(states, 4);
}

Test(support_storage, draws_only_states_that_counting_finds_and_in_time_all_of_them)
{
    uint64_t file;
    size_t states;
    char all[4096], seen[4096] = "";

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, 0, 'b', 3 * SECTOR);
    fill(file, SECTOR, 'c', SECTOR);
    strcpy(all, all_pictures("f", 0, &states));
    for (uint64_t seed = 0; seed < 2000; seed++) {
        struct fault_crash crash = { .seed = seed };
        struct fault_storage *after = fault_storage_after(fs, &crash);
        char word[80];

        snprintf(word, sizeof word, "|%s|", picture(after, "f"));
        cr_assert_not_null(strstr(all, word), "seed %zu: %s", (size_t)seed, word);
        add_word(seen, picture(after, "f"));
        fault_storage_destroy(after);
    }
    cr_expect_eq(strlen(seen), strlen(all), "drawn: %s; all: %s", seen, all);
    vs_io_close(storage, file);
}

Test(support_storage, loses_or_keeps_everything_when_told_to)
{
    uint64_t file;
    struct fault_crash crash = { .seed = 3, .flags = FAULT_CRASH_LOSE };
    struct fault_storage *after;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, 0, 'b', 4 * SECTOR);
    after = fault_storage_after(fs, &crash);
    cr_expect_str_eq(picture(after, "f"), "a");
    fault_storage_destroy(after);
    crash.flags = FAULT_CRASH_KEEP;
    after = fault_storage_after(fs, &crash);
    cr_expect_str_eq(picture(after, "f"), "bbbb");
    fault_storage_destroy(after);
    vs_io_close(storage, file);
}

Test(support_storage, leaves_rubbish_behind_a_grown_length_when_told_to)
{
    uint64_t file;
    uint32_t chosen[] = { 1, 0 }; /* the length, not the sector */
    struct fault_crash crash = { .chosen = chosen, .flags = FAULT_CRASH_GARBAGE };
    struct fault_storage *after;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, SECTOR, 'b', SECTOR);
    after = fault_storage_after(fs, &crash);
    cr_expect_str_eq(picture(after, "f"), "a?");
    fault_storage_destroy(after);
    vs_io_close(storage, file);
}

Test(support_storage, can_be_crashed_again_and_again)
{
    struct fault_crash keep = { .flags = FAULT_CRASH_KEEP };
    uint64_t file = opened("f");

    fill(file, 0, 'a', SECTOR);
    for (int i = 0; i < 5; i++) {
        struct fault_storage *after = fault_storage_after(fs, &keep);

        cr_expect_str_eq(picture(after, "f"), i % 2 ? "b" : "a");
        fault_storage_destroy(fs);
        fs = after;
        storage = fault_storage_hook(fs);
        file = opened("f");
        fill(file, 0, i % 2 ? 'a' : 'b', SECTOR);
    }
}

/* ---- faults ---- */

Test(support_storage, fails_the_kth_request_once_or_for_ever)
{
    char c;
    uint64_t file;

    fault_storage_put(fs, "f", "x", 1);
    file = opened("f");
    for (uint64_t k = 1; k <= 4; k++) {
        for (uint32_t how = FAULT_ONCE; how <= FAULT_FOREVER; how++) {
            fault_storage_fail(fs, k, how);
            for (uint64_t i = 1; i <= 6; i++)
                cr_expect_eq(vs_io_read(storage, file, 0, &c, 1),
                             (how == FAULT_FOREVER ? i >= k : i == k) ? VSHARD_EIO : VSHARD_OK,
                             "k %zu, request %zu", (size_t)k, (size_t)i);
            fault_storage_heal(fs);
        }
    }
    cr_expect_eq(vs_io_read(storage, file, 0, &c, 1), VSHARD_OK);
    vs_io_close(storage, file);
}

Test(support_storage, strikes_only_the_ops_a_rule_names_with_its_status)
{
    const struct fault_rule rule = { .k = 2,
                                     .ops = 1u << VSHARD_IO_WRITE | 1u << VSHARD_IO_RESIZE,
                                     .status = VSHARD_ENOSPC };
    uint64_t file = opened("f");

    fault_storage_rule(fs, &rule);
    cr_expect_eq(vs_io_write(storage, file, 0, "a", 1), VSHARD_OK);
    cr_expect_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_expect_eq(vs_io_resize(storage, file, 9), VSHARD_ENOSPC);
    cr_expect_eq(vs_io_write(storage, file, 0, "b", 1), VSHARD_OK);
    cr_expect_eq(fault_storage_struck(fs), 1);
    cr_expect_str_eq(picture(fs, "f"), "b", "the struck request did nothing");
    vs_io_close(storage, file);
}

Test(support_storage, writes_a_first_part_when_a_write_is_short)
{
    const struct fault_rule rule = { .k = 1, .does = FAULT_SHORT, .how = FAULT_FOREVER };
    char seen[5] = "----";

    fault_storage_rule(fs, &rule);
    for (int i = 0; i < 100; i++) {
        uint64_t file;
        char bytes[4 * SECTOR];
        size_t count = 0;

        fault_storage_put(fs, "f", "", 0);
        memset(bytes, 'b', sizeof bytes);
        file = (fault_storage_heal(fs), opened("f"));
        fault_storage_rule(fs, &rule);
        cr_expect_eq(vs_io_write(storage, file, 0, bytes, sizeof bytes), VSHARD_EIO);
        fault_storage_bytes(fs, "f", &count);
        cr_assert(count % SECTOR == 0 && count < sizeof bytes, "%zu", count);
        seen[count / SECTOR] = 'x';
        fault_storage_heal(fs);
        vs_io_close(storage, file);
    }
    cr_expect_str_eq(seen, "xxxx", "every length short of the whole");
}

Test(support_storage, forgets_silently_what_a_failed_sync_did_not_write)
{
    const struct fault_rule rule = { .k = 1, .ops = 1u << VSHARD_IO_SYNC };
    char seen[64] = "";

    for (uint64_t seed = 0; seed < 64; seed++) {
        struct fault_crash crash = { .flags = FAULT_CRASH_KEEP };
        struct fault_storage *after;
        uint64_t file;

        fault_storage_destroy(fs);
        fs = fault_storage_create(seed);
        storage = fault_storage_hook(fs);
        make_durable("f", 'a', 2 * SECTOR);
        file = opened("f");
        fill(file, 0, 'b', 2 * SECTOR);
        fault_storage_rule(fs, &rule);
        cr_expect_eq(vs_io_sync(storage, file), VSHARD_EIO);
        cr_expect_str_eq(picture(fs, "f"), "bb", "a read still sees it");
        cr_expect_eq(vs_io_sync(storage, file), VSHARD_OK, "and the next sync says all is well");
        after = fault_storage_after(fs, &crash);
        add_word(seen, picture(after, "f"));
        fault_storage_destroy(after);
        vs_io_close(storage, file);
    }
    cr_expect_eq(strlen(seen), 13, "each sector written or not: %s", seen);
}

Test(support_storage, lies_about_writes_and_syncs)
{
    const struct fault_rule sync = { .k = 1, .ops = 1u << VSHARD_IO_SYNC, .does = FAULT_LIE };
    const struct fault_rule write = { .k = 1, .ops = 1u << VSHARD_IO_WRITE, .does = FAULT_LIE };
    const struct fault_rule dir = { .k = 1, .ops = 1u << VSHARD_IO_SYNC_DIR, .does = FAULT_LIE };
    struct fault_crash lose = { .flags = FAULT_CRASH_LOSE };
    struct fault_storage *after;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fault_storage_rule(fs, &write);
    fill(file, 0, 'b', SECTOR);
    cr_expect_str_eq(picture(fs, "f"), "a");
    fill(file, 0, 'b', SECTOR);
    fault_storage_rule(fs, &sync);
    cr_expect_eq(vs_io_sync(storage, file), VSHARD_OK);
    cr_expect_eq(vs_io_remove(storage, "f"), VSHARD_OK);
    fault_storage_rule(fs, &dir);
    cr_expect_eq(vs_io_sync_dir(storage, "."), VSHARD_OK);
    after = fault_storage_after(fs, &lose);
    cr_expect_str_eq(picture(after, "f"), "a");
    fault_storage_destroy(after);
    vs_io_close(storage, file);
}

Test(support_storage, misdirects_reads_and_writes_to_another_sector)
{
    const struct fault_rule rule = { .k = 1, .does = FAULT_MISDIRECT, .how = FAULT_FOREVER };
    char bytes[4 * SECTOR], back[SECTOR];
    uint64_t file;
    size_t count;

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)('a' + i / SECTOR);
    fault_storage_put(fs, "f", bytes, sizeof bytes);
    file = opened("f");
    fault_storage_rule(fs, &rule);
    for (int i = 0; i < 50; i++) {
        cr_assert_eq(vs_io_read(storage, file, SECTOR, back, SECTOR), VSHARD_OK);
        cr_assert(back[0] != 'b' && back[0] == back[SECTOR - 1], "a whole sector, another one");
    }
    fill(file, SECTOR, 'x', SECTOR);
    cr_expect_eq(((const char *)fault_storage_bytes(fs, "f", &count))[SECTOR], 'b');
    cr_expect_eq(count, sizeof bytes);
    cr_expect_neq(strspn(picture(fs, "f"), "abcd"), 4, "some other sector took it");
    fault_storage_heal(fs);
    vs_io_close(storage, file);
}

Test(support_storage, reads_stale_and_flipped_bytes_when_told_to)
{
    const struct fault_rule stale = { .k = 1, .does = FAULT_STALE };
    const struct fault_rule flip = { .k = 1, .does = FAULT_FLIP };
    unsigned char back[SECTOR], bits = 0;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, 0, 'b', SECTOR);
    fault_storage_rule(fs, &stale);
    cr_assert_eq(vs_io_read(storage, file, 0, back, SECTOR), VSHARD_OK);
    cr_expect_eq(back[0], 'a');
    fault_storage_heal(fs);
    fault_storage_rule(fs, &flip);
    cr_assert_eq(vs_io_read(storage, file, 0, back, SECTOR), VSHARD_OK);
    for (size_t i = 0; i < SECTOR; i++)
        bits = (unsigned char)(bits + __builtin_popcount(back[i] ^ 'b'));
    cr_expect_eq(bits, 1);
    cr_expect_str_eq(picture(fs, "f"), "b", "only the answer was wrong");
    vs_io_close(storage, file);
}

Test(support_storage, flips_a_stored_bit_everywhere_it_is_stored)
{
    struct fault_crash keep = { .flags = FAULT_CRASH_KEEP }, lose = { .flags = FAULT_CRASH_LOSE };
    struct fault_storage *after;
    uint64_t file;

    make_durable("f", 'a', SECTOR);
    file = opened("f");
    fill(file, 0, 'c', SECTOR);
    fault_storage_flip(fs, "f", 8 * 100 + 2);
    for (int i = 0; i < 2; i++) {
        size_t count;

        after = fault_storage_after(fs, i ? &keep : &lose);
        cr_expect_eq(((const char *)fault_storage_bytes(after, "f", &count))[100],
                     (i ? 'c' : 'a') ^ 4);
        fault_storage_destroy(after);
    }
    vs_io_close(storage, file);
}

Test(support_storage, is_full_at_its_capacity)
{
    char bytes[1000] = { 1 };
    uint64_t one = opened("one"), two = opened("two");
    size_t count;

    fault_storage_capacity(fs, 1500);
    cr_expect_eq(vs_io_write(storage, one, 0, bytes, 1000), VSHARD_OK);
    cr_expect_eq(vs_io_write(storage, two, 0, bytes, 1000), VSHARD_ENOSPC);
    fault_storage_bytes(fs, "two", &count);
    cr_expect_eq(count, 500, "what fits arrives");
    cr_expect_eq(vs_io_write(storage, one, 0, bytes, 1000), VSHARD_OK, "overwriting needs no room");
    cr_expect_eq(vs_io_resize(storage, one, 1001), VSHARD_ENOSPC);
    cr_expect_eq(vs_io_resize(storage, two, 0), VSHARD_OK);
    cr_expect_eq(vs_io_write(storage, one, 1000, bytes, 500), VSHARD_OK, "room was given back");
    vs_io_close(storage, one);
    vs_io_close(storage, two);
}

Test(support_storage, counts_requests_by_kind)
{
    uint64_t file = opened("f");

    vs_io_sync(storage, file);
    vs_io_sync(storage, file);
    vs_io_close(storage, file);
    cr_expect_eq(fault_storage_count(fs, VSHARD_IO_SYNC), 2);
    cr_expect_eq(fault_storage_count(fs, VSHARD_IO_WRITE), 0);
    cr_expect_eq(fault_storage_count(fs, 0), 4);
}

/* ---- deferred completion ---- */

static uint32_t done_order[8], done_count;

static void note_done(struct vshard_io *io)
{
    done_order[done_count++] = (uint32_t)io->offset / SECTOR;
}

Test(support_storage, completes_requests_in_the_order_the_test_says)
{
    uint64_t file = opened("f");
    char bytes[SECTOR] = "";
    struct vshard_io io[3];

    fault_storage_defer(fs, 1);
    for (uint32_t i = 0; i < 3; i++) {
        io[i] = (struct vshard_io){ .op = VSHARD_IO_WRITE,
                                    .file = file,
                                    .offset = i * SECTOR,
                                    .count = SECTOR,
                                    .buffer = bytes,
                                    .done = note_done,
                                    .status = 1 };
        storage->submit(storage->ctx, &io[i]);
    }
    cr_expect_eq(fault_storage_queued(fs), 3);
    cr_expect_eq(io[2].status, 1, "nothing has happened");
    cr_expect_str_eq(picture(fs, "f"), "empty");
    cr_expect_eq(fault_storage_request(fs, 1), &io[1]);
    fault_storage_complete(fs, 1);
    storage->wait(storage->ctx, &io[2]);
    storage->wait(storage->ctx, &io[2]); /* again: nothing more */
    cr_expect_eq(fault_storage_drain(fs), 1);
    cr_expect_eq(done_count, 3);
    cr_expect(done_order[0] == 1 && done_order[1] == 2 && done_order[2] == 0);
    fault_storage_defer(fs, 0);
    vs_io_close(storage, file);
    cr_expect_null(fault_storage_verdict(fs));
}

Test(support_storage, may_or_may_not_have_done_what_was_under_way_at_a_crash)
{
    size_t states;
    uint64_t file;
    char bytes[2 * SECTOR];
    struct vshard_io write = {
        .op = VSHARD_IO_WRITE, .count = sizeof bytes, .buffer = bytes, .done = note_done
    };
    struct vshard_io sync = { .op = VSHARD_IO_SYNC, .done = note_done };

    make_durable("f", 'a', 2 * SECTOR);
    file = write.file = sync.file = opened("f");
    memset(bytes, 'b', sizeof bytes);
    fault_storage_defer(fs, 1);
    storage->submit(storage->ctx, &write);
    storage->submit(storage->ctx, &sync);
    cr_expect_str_eq(all_pictures("f", 0, &states), "|aa|ba|ab|bb|");
    cr_expect_eq(done_count, 0, "a crash completes nothing");
    cr_expect_eq(fault_storage_drain(fs), 2, "and takes nothing from this storage");
    fault_storage_defer(fs, 0);
    vs_io_close(storage, file);
}

/* ---- breaches of the contract ---- */

static void expect_breach(struct vshard_io io, const char *text)
{
    fault_storage_destroy(fs);
    init();
    storage->submit(storage->ctx, &io);
    cr_assert_not_null(fault_storage_verdict(fs), "%s", text);
    cr_expect_not_null(strstr(fault_storage_verdict(fs), text), "%s: %s", text,
                       fault_storage_verdict(fs));
}

Test(support_storage, reports_who_breaks_the_contract)
{
    struct vshard_io io = { .op = VSHARD_IO_SYNC };
    uint64_t file;

    expect_breach(io, "no such open file");
    io.file = 5;
    expect_breach(io, "no such open file");
    io.flags = 1;
    expect_breach(io, "does not use is set");
    io = (struct vshard_io){ .op = VSHARD_IO_WRITE, .count = 1 };
    expect_breach(io, "is NULL");
    io = (struct vshard_io){ .op = VSHARD_IO_UNMAP, .buffer = &io, .count = 1 };
    expect_breach(io, "not mapped");
    io = (struct vshard_io){ .op = 77 };
    expect_breach(io, "no such op");

    fault_storage_destroy(fs);
    init();
    file = opened("f");
    cr_expect_not_null(strstr(fault_storage_verdict(fs), "1 files open"));
    fault_storage_destroy(fs);
    init();
    file = opened("f");
    fault_storage_defer(fs, 1);
    io = (struct vshard_io){ .op = VSHARD_IO_CLOSE, .file = file };
    storage->submit(storage->ctx, &io);
    storage->submit(storage->ctx, &io);
    cr_expect_not_null(strstr(fault_storage_verdict(fs), "submitted twice"));
}
