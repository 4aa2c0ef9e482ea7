/* 04-attributes.c - rows with a year and a language, and searches among some of them.
 *
 *     cc 04-attributes.c $(pkg-config --cflags --libs libvshard) && ./a.out
 *
 * It prints:
 *
 *     all              11 at 0.01  13 at 0.04  12 at 0.25
 *     de, after 1990   12 at 0.25  14 at 1.44
 *     12 is from 1994, in de
 */
#include <inttypes.h>
#include <stdio.h>
#include <vshard.h>

enum { ROWS = 5, K = 3, YEAR = 0, LANGUAGE = 1 };

static const struct vshard_attribute attributes[] = {
    [YEAR] = { VSHARD_ATTRIBUTE_INT64, "year" },
    [LANGUAGE] = { VSHARD_ATTRIBUTE_KEYWORD, "language" },
};

static int fill(struct vshard_index *index)
{
    const uint64_t ids[ROWS] = { 10, 11, 12, 13, 14 };
    const float vectors[ROWS] = { 5.0f, 1.1f, 1.5f, 0.8f, 2.2f };
    int64_t years[ROWS] = { 1999, 1985, 1994, VSHARD_MISSING, 2011 };
    char languages[ROWS][4] = { "en", "de", "de", "de", "de" };
    const struct vshard_values values[] = { { years, 0 }, { languages, sizeof languages[0] } };
    const struct vshard_add_options with = { sizeof with, 2, values };

    return vshard_index_add_with(index, ids, vectors, ROWS, &with);
}

static int ask(struct vshard_index *index, const char *what, const struct vshard_filter *filter)
{
    const float query = 1;
    uint32_t found = 0;
    struct vshard_hit hits[K];
    const struct vshard_search_options options = { .size = sizeof options,
                                                   .found = &found,
                                                   .filter = filter };
    int status = vshard_index_search(index, &query, 1, K, hits, &options);

    printf("%-15s", what);
    for (uint32_t i = 0; status == VSHARD_OK && i < found; i++)
        printf("  %" PRIu64 " at %.2f", hits[i].id, (double)hits[i].distance);
    printf("\n");
    return status;
}

/* Conditions stand before what joins them. Encoded once, they serve any number of searches. */
static int ask_some(struct vshard_index *index)
{
    const int64_t after = 1990;
    const struct vshard_condition conditions[] = {
        { VSHARD_WHERE_EQ, LANGUAGE, VSHARD_ATTRIBUTE_KEYWORD, 1, 2, 0, "de" },
        { VSHARD_WHERE_GT, YEAR, VSHARD_ATTRIBUTE_INT64, 1, 0, 0, &after },
        { .op = VSHARD_WHERE_AND, .count = 2 },
    };
    unsigned char where[64];
    struct vshard_filter filter = { .size = sizeof filter,
                                    .kind = VSHARD_FILTER_WHERE,
                                    .where = where };
    int status = vshard_where_encode(conditions, 3, where, sizeof where, &filter.where_bytes);

    return status < 0 ? status : ask(index, "de, after 1990", &filter);
}

static int tell(struct vshard_index *index, uint64_t id)
{
    int64_t year;
    char language[8];
    const struct vshard_values values[] = { { &year, 0 }, { language, sizeof language } };
    int status = vshard_index_fetch_values(index, &id, 1, values, 2, NULL);

    if (status == VSHARD_OK)
        printf("%" PRIu64 " is from %" PRId64 ", in %s\n", id, year, language);
    return status;
}

int main(void)
{
    const struct vshard_index_options options = {
        .size = sizeof options, .dim = 1, .attributes = attributes, .attribute_count = 2
    };
    struct vshard_index *index;
    int status = vshard_index_create(&options, &index);

    if (status == VSHARD_OK)
        status = fill(index);
    if (status == VSHARD_OK)
        status = ask(index, "all", NULL);
    if (status == VSHARD_OK)
        status = ask_some(index);
    if (status == VSHARD_OK)
        status = tell(index, 12);
    vshard_index_destroy(index);
    if (status < 0)
        fprintf(stderr, "%s\n", vshard_strerror(status));
    return status < 0;
}
