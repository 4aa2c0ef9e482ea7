/* index_where.c - any bytes as an expression about attributes: refused, or searched by.
 *
 * A small graph with three attributes is made once. Each input is given as the
 * expression of a filter, in memory of exactly its length; what is accepted is searched
 * by, exactly and by a walk, and must allow the same rows when the rows are listed by
 * id and the expression is added to that. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/random.h"
#include <vshard/index.h>

enum { ROWS = 400, D = 4, WORD = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

static uint64_t ids[ROWS];
static float vectors[ROWS * D];

static struct vshard_index *make_index(void)
{
    static const struct vshard_attribute three[] = { { VSHARD_ATTRIBUTE_INT64, "year" },
                                                     { VSHARD_ATTRIBUTE_DOUBLE, "price" },
                                                     { VSHARD_ATTRIBUTE_KEYWORD, "lang" } };
    static int64_t years[ROWS];
    static double prices[ROWS];
    static char langs[ROWS][WORD];
    const struct vshard_values values[] = { { years, 0 }, { prices, 0 }, { langs, WORD } };
    const struct vshard_add_options with = { sizeof with, 3, values };
    struct vshard_index_options o = { .size = sizeof o,
                                      .dim = D,
                                      .m = 4,
                                      .ef_construction = 8,
                                      .train_rows = 256,
                                      .attributes = three,
                                      .attribute_count = 3 };
    struct vshard_index *x;
    uint64_t seed = 1;

    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = i;
        years[i] = i % 9 == 0 ? VSHARD_MISSING : (int64_t)random_below(&seed, 300) - 20;
        prices[i] = i % 7 == 0 ? NAN : (double)random_float(&seed);
        if (i % 5 > 0)
            snprintf(langs[i], WORD, "%c", (char)('a' + random_below(&seed, 20)));
        for (uint32_t j = 0; j < D; j++)
            vectors[i * D + j] = random_float(&seed);
    }
    if (vshard_index_create(&o, &x) != VSHARD_OK ||
        vshard_index_add_with(x, ids, vectors, ROWS, &with) != VSHARD_OK)
        abort();
    return x;
}

/* Rows that are answered, or a status. */
static int search(struct vshard_index *x, const struct vshard_filter *f, uint32_t flags,
                  struct vshard_hit *hits)
{
    uint32_t found = 0;
    struct vshard_search_options o = {
        .size = sizeof o, .flags = flags, .filter = f, .found = &found
    };
    int rc = vshard_index_search(x, vectors, 1, ROWS, hits, &o);

    return rc < 0 ? rc : (int)found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    static struct vshard_index *x;
    static struct vshard_hit one[ROWS], other[ROWS];
    struct vshard_filter f = { .size = sizeof f,
                               .kind = VSHARD_FILTER_WHERE,
                               .where_bytes = count };
    unsigned char *bytes = malloc(count + (count == 0));
    int rc;

    if (x == NULL)
        x = make_index();
    if (bytes == NULL)
        abort();
    memcpy(bytes, data, count);
    f.where = bytes;
    rc = search(x, &f, VSHARD_SEARCH_EXACT, one);
    if (rc < 0 && rc != VSHARD_EINVAL && rc != VSHARD_EVERSION)
        abort();
    if (rc >= 0) {
        f.kind = VSHARD_FILTER_IDS;
        f.count = ROWS;
        f.ids = ids;
        if (search(x, &f, VSHARD_SEARCH_EXACT, other) != rc ||
            memcmp(one, other, sizeof one) != 0 || search(x, &f, 0, other) != rc)
            abort();
    }
    free(bytes);
    return 0;
}
