/* index_generation.c - any bytes as the files of a generation: refused, or an index that bears use.
 *
 * The input is a list of edits, 7 bytes each (file, where, what), to the head, the first part or
 * the part with changes of a small good generation, of a kind that the first byte names. Sums of
 * parts and of the head's first block are made right afterwards, as a forger would; half of the
 * inputs also have their part cut or drawn out. What opens is searched, checked, and, when it was
 * copied, written to and saved. */
#include <stdlib.h>

#include "index/generation.h"
#include "support/fault_storage.h"
#include "support/random.h"

enum { D = 4, ROWS = 300, KINDS = 4, FILES = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

static const char *const names[FILES] = { "/i", "/i.g1", "/i.g2" };

static struct file {
    unsigned char *bytes;
    size_t count;
} files[KINDS][FILES];

static void add(struct vshard_index *x, uint64_t first, uint32_t count, uint64_t seed)
{
    static float v[ROWS * D];
    static int64_t numbers[ROWS];
    static char words[ROWS][4];
    const struct vshard_values values[] = { { numbers, 0 }, { words, 4 } };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_add_options o = { .size = sizeof o, .values = values };
    uint64_t ids[ROWS];

    (void)vshard_index_stats(x, &s);
    o.value_count = s.attribute_count < 2 ? s.attribute_count : 2;
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = first + i;
        numbers[i] = i % 6;
        words[i][0] = (char)(i % 11 ? 'a' + i % 11 : 0);
    }
    for (uint32_t i = 0; i < count * D; i++)
        v[i] = random_float(&seed) + 1.5f;
    if (s.dim == D && s.element == VSHARD_ELEMENT_F32)
        (void)vshard_index_add_with(x, ids, v, count, &o);
}

static void make_files(uint32_t kind)
{
    static const struct vshard_attribute schema[] = { { VSHARD_ATTRIBUTE_INT64, "number" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "word" } };
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = D,
                                      .m = 4,
                                      .ef_construction = 8,
                                      .train_rows = 256,
                                      .family = kind % 2,
                                      .attributes = schema,
                                      .attribute_count = kind / 2 * 2,
                                      .storage = fault_storage_hook(fs) };
    struct vshard_index *x;

    if (vshard_index_create(&o, &x) != VSHARD_OK)
        abort();
    add(x, 0, ROWS, 1);
    if (vshard_index_save_changes(x, names[0]) != VSHARD_OK)
        abort();
    add(x, ROWS - 2, 6, 2);
    if (vshard_index_save_changes(x, names[0]) != VSHARD_OK)
        abort();
    vshard_index_destroy(x);
    for (int i = 0; i < FILES; i++) {
        struct file *f = &files[kind][i];
        const void *bytes = fault_storage_bytes(fs, names[i], &f->count);

        f->bytes = malloc(f->count);
        if (bytes == NULL || f->bytes == NULL)
            abort();
        memcpy(f->bytes, bytes, f->count);
    }
    fault_storage_destroy(fs);
}

/* Records as they say they are; what the library reads of them has this sum. */
static uint64_t part_sum(const unsigned char *part, size_t count)
{
    uint64_t stride[7] = { 16, 16, 64, 0, 32, 8, 8 }, sum = vs_checksum(part, PART_HEADER_BYTES, 0);
    size_t at = PART_HEADER_BYTES;

    while (at + RECORD_HEADER_BYTES <= count) {
        uint32_t column = vs_load32(part + at);
        uint64_t bytes = vs_load32(part + at + 8) * (column < 7 ? stride[column] : 1);

        sum = vs_checksum(part + at, RECORD_HEADER_BYTES, sum);
        at += RECORD_HEADER_BYTES;
        if (bytes > count - at)
            break;
        sum = vs_checksum(part + at, bytes, sum);
        at += bytes;
    }
    return sum;
}

static void reseal(struct file edited[FILES])
{
    unsigned char *head = edited[0].bytes, *part = edited[2].bytes;

    if (edited[2].count >= PART_HEADER_BYTES) {
        vs_store64(head + 64, edited[2].count);
        vs_store64(head + 72, part_sum(part, edited[2].count));
    }
    vs_store64(head + GENERATION_BYTES - 8, vs_checksum(head, GENERATION_BYTES - 8, 0));
}

static void put_edited(struct fault_storage *fs, const uint8_t *data, size_t count)
{
    uint32_t kind = data[0] % KINDS;
    struct file edited[FILES];

    if (files[kind][0].bytes == NULL)
        make_files(kind);
    for (int i = 0; i < FILES; i++) {
        edited[i].count = files[kind][i].count;
        edited[i].bytes = calloc(1, edited[i].count + 256);
        if (edited[i].bytes == NULL)
            abort();
        memcpy(edited[i].bytes, files[kind][i].bytes, edited[i].count);
    }
    if (data[0] & 128 && count > 1)
        edited[2].count = edited[2].count + data[1] - 128;
    for (size_t at = 2; at + 7 <= count; at += 7) {
        struct file *f = &edited[data[at] % FILES];
        size_t most = data[at] & 128 ? f->count : f->count < 256 ? f->count : 256;

        if (most >= 4)
            vs_store32(f->bytes + vs_load16(data + at + 1) % (most - 3), vs_load32(data + at + 3));
    }
    reseal(edited);
    for (int i = 0; i < FILES; i++) {
        fault_storage_put(fs, names[i], edited[i].bytes, edited[i].count);
        free(edited[i].bytes);
    }
}

static void use(struct vshard_index *x, uint32_t flags)
{
    static const float query[D] = { 1, 1, 1, 1 };
    struct vshard_hit hits[10];
    struct vshard_index_stats s = { .size = sizeof s };
    const uint64_t ids[] = { 1, 2, 299 };

    (void)vshard_index_stats(x, &s);
    if (s.dim == D)
        (void)vshard_index_search(x, query, 1, 10, hits, NULL);
    (void)vshard_index_check(x, NULL);
    if (flags & VSHARD_OPEN_MAPPED)
        return;
    add(x, 290, 20, 3);
    (void)vshard_index_remove(x, ids, 3, NULL);
    (void)vshard_index_maintain(x, 0, NULL);
    (void)vshard_index_save_changes(x, names[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    if (count == 0)
        return 0;
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct fault_storage *fs = fault_storage_create(1);
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .storage = fault_storage_hook(fs) };
        struct vshard_index *x;

        put_edited(fs, data, count);
        if (vshard_index_open(names[0], &o, &x) == VSHARD_OK)
            use(x, flags);
        vshard_index_destroy(x);
        if (fault_storage_verdict(fs) != NULL)
            abort();
        fault_storage_destroy(fs);
    }
    return 0;
}
