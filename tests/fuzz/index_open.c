/* index_open.c - any bytes as an index file: refused, or an index that bears use.
 *
 * Checksums and lengths would stop nearly every input at the door. So the input is
 * taken as a list of edits, 6 bytes each (where, what), to a small good file of a
 * kind that the first byte names, and the checksums are made right afterwards; one
 * input in 256 goes in as it is. What opens is searched, fetched, checked, and, when
 * it was copied, written to and saved. */
#include <stdlib.h>

#include "support/fault_storage.h"
#include "support/index_file.h"
#include "support/random.h"

enum { D = 4, ROWS = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

static void fill(uint32_t element, unsigned char *v, size_t rows)
{
    uint64_t seed = 1;

    for (size_t i = 0; i < rows * D; i++) {
        float f = random_float(&seed) + 1.5f;

        if (element == VSHARD_ELEMENT_F32)
            memcpy(v + 4 * i, &f, sizeof f);
        else
            v[i] = (unsigned char)(1 + random_below(&seed, 100));
    }
}

enum { PLAIN_KINDS = 18, KINDS = 2 * PLAIN_KINDS }; /* the second half has attributes */

static const struct vshard_attribute attributes[] = { { VSHARD_ATTRIBUTE_INT64, "number" },
                                                      { VSHARD_ATTRIBUTE_DOUBLE, "real" },
                                                      { VSHARD_ATTRIBUTE_KEYWORD, "word" } };

static int add_valued(struct vshard_index *x, const uint64_t *ids, const void *v, uint32_t count)
{
    static int64_t numbers[ROWS];
    static double reals[ROWS];
    static char words[ROWS][4];
    const struct vshard_values values[] = { { numbers, 0 }, { reals, 0 }, { words, 4 } };
    struct vshard_index_stats s = { .size = sizeof s };
    struct vshard_add_options o = { .size = sizeof o, .values = values };

    (void)vshard_index_stats(x, &s);
    o.value_count = s.attribute_count < 3 ? s.attribute_count : 3;
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = i % 6;
        reals[i] = i / 8.0;
        words[i][0] = (char)(i % 11 ? 'a' + i % 11 : 0);
        words[i][1] = (char)(i % 3 ? 'a' + i % 17 : 0);
    }
    return vshard_index_add_with(x, ids, v, count, &o);
}

/* The file of each kind, made when it is first wanted. */
static struct {
    unsigned char *bytes;
    size_t count;
} files[KINDS];

static void make_file(uint32_t kind)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = D,
                                      .m = 4,
                                      .ef_construction = 8,
                                      .train_rows = 256,
                                      .family = kind % PLAIN_KINDS / 9,
                                      .metric = kind % 3,
                                      .element = kind / 3 % 3,
                                      .attributes = attributes,
                                      .attribute_count = kind < PLAIN_KINDS ? 0 : 3,
                                      .storage = fault_storage_hook(fs) };
    static unsigned char v[ROWS * D * 4];
    uint64_t ids[ROWS];
    struct vshard_index *x;

    for (uint32_t i = 0; i < ROWS; i++)
        ids[i] = i;
    fill(o.element, v, ROWS);
    if (vshard_index_create(&o, &x) != VSHARD_OK || add_valued(x, ids, v, ROWS) != VSHARD_OK ||
        vshard_index_remove(x, ids, 20, NULL) != VSHARD_OK ||
        vshard_index_maintain(x, 100, NULL) != VSHARD_OK || vshard_index_save(x, "/i") != VSHARD_OK)
        abort();
    vshard_index_destroy(x);
    fault_storage_bytes(fs, "/i", &files[kind].count);
    files[kind].bytes = malloc(files[kind].count);
    if (files[kind].bytes == NULL)
        abort();
    memcpy(files[kind].bytes, fault_storage_bytes(fs, "/i", &files[kind].count), files[kind].count);
    fault_storage_destroy(fs);
}

static void put_edited(struct fault_storage *fs, const uint8_t *data, size_t count)
{
    uint32_t kind = data[0] % KINDS;
    unsigned char *bytes;
    size_t n;

    if (files[kind].bytes == NULL)
        make_file(kind);
    n = files[kind].count;
    bytes = malloc(n);
    if (bytes == NULL)
        abort();
    memcpy(bytes, files[kind].bytes, n);
    for (size_t at = 1; at + 6 <= count; at += 6) {
        uint32_t where = vs_load16(data + at);

        /* Half of the edits are to the header. */
        where = where & 0x8000 ? where % (FILE_HEADER / 4) * 4 : (uint32_t)(where * 4 % n);
        vs_store32(bytes + where, vs_load32(data + at + 2));
    }
    file_reseal(bytes, n);
    fault_storage_put(fs, "/i", bytes, n);
    free(bytes);
}

/* Fetches what there is, and searches by it; the attributes may be others than were made. */
static void use_values(struct vshard_index *x, const uint64_t *ids, const void *v)
{
    static const unsigned char where[] = {
        1, VSHARD_WHERE_GT, VSHARD_ATTRIBUTE_INT64, 0, 2, 0, 0, 0, 0, 0, 0, 0
    };
    static unsigned char out[VSHARD_ATTRIBUTES_MAX][30 * VSHARD_KEYWORD_MAX];
    struct vshard_filter f = {
        .size = sizeof f, .kind = VSHARD_FILTER_WHERE, .where = where, .where_bytes = sizeof where
    };
    struct vshard_search_options o = { .size = sizeof o, .filter = &f };
    struct vshard_values values[VSHARD_ATTRIBUTES_MAX];
    struct vshard_attribute a;
    struct vshard_hit hits[20];
    size_t count = 0;

    for (; vshard_index_attribute(x, count, &a) == VSHARD_OK; count++)
        values[count] =
            (struct vshard_values){ out[count],
                                    a.type == VSHARD_ATTRIBUTE_KEYWORD ? VSHARD_KEYWORD_MAX : 0 };
    (void)vshard_index_fetch_values(x, ids, 30, values, count, NULL);
    (void)vshard_index_search(x, v, 2, 10, hits, &o);
}

static void use(struct vshard_index *x, uint32_t flags)
{
    struct vshard_index_stats s = { .size = sizeof s };
    static unsigned char v[64 * 256 * 4];
    struct vshard_hit hits[20];
    uint64_t ids[30], digest;

    if (vshard_index_stats(x, &s) != VSHARD_OK || s.dim > 256)
        return;
    for (uint32_t i = 0; i < 30; i++)
        ids[i] = i * 7;
    memset(v, 1, sizeof v);
    (void)vshard_index_search(x, v, 2, 10, hits, NULL);
    (void)vshard_index_fetch(x, ids, 30, v, NULL);
    memset(v, 1, sizeof v);
    use_values(x, ids, v);
    (void)vshard_index_check(x, NULL);
    (void)vshard_index_digest(x, &digest);
    if (flags & VSHARD_OPEN_MAPPED)
        return;
    memset(v, 1, sizeof v);
    (void)add_valued(x, ids, v, 30);
    (void)vshard_index_remove(x, ids, 15, NULL);
    (void)vshard_index_maintain(x, 0, NULL);
    (void)vshard_index_search(x, v, 2, 10, hits, NULL);
    (void)vshard_index_save(x, "/j");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    struct fault_storage *fs;

    if (count == 0)
        return 0;
    fs = fault_storage_create(1);
    if (data[0] == 255)
        fault_storage_put(fs, "/i", data + 1, count - 1);
    else
        put_edited(fs, data, count);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct vshard_open_options o = { .size = sizeof o,
                                         .flags = flags,
                                         .storage = fault_storage_hook(fs) };
        struct vshard_index *x;

        if (vshard_index_open("/i", &o, &x) == VSHARD_OK)
            use(x, flags);
        vshard_index_destroy(x);
    }
    if (fault_storage_verdict(fs) != NULL)
        abort();
    fault_storage_destroy(fs);
    return 0;
}
