/* set.c - the vectors of the demo: a base, questions, and names for both. */
#include "set.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/index.h>

#include "screen.h"
#include "support/npy.h"

enum { PATH_MAX_BYTES = 4096 };

int set_metric(const char *name)
{
    static const struct {
        const char *name;
        int metric;
    } known[] = { { "glove", VSHARD_METRIC_COSINE },
                  { "minilm", VSHARD_METRIC_COSINE },
                  { "sift", VSHARD_METRIC_L2SQ } };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strncmp(name, known[i].name, strlen(known[i].name)) == 0)
            return known[i].metric;
    }
    return -1;
}

static int read_text(FILE *file, const char *path, struct words *words)
{
    long bytes;

    if (fseek(file, 0, SEEK_END) != 0 || (bytes = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        return failed("%s: %s", path, strerror(errno));
    words->text = malloc((size_t)bytes + 1);
    if (words->text == NULL)
        return failed("%s: %s", path, strerror(ENOMEM));
    if (fread(words->text, 1, (size_t)bytes, file) != (size_t)bytes)
        return failed("%s: %s", path, ferror(file) ? strerror(errno) : "cut short");
    words->text[bytes] = '\0';
    return 0;
}

/* At least `want` lines, of which the first so many are kept. */
static int split_lines(const char *path, struct words *words, size_t want)
{
    char *at = words->text;

    words->word = calloc(want + 1, sizeof *words->word);
    if (words->word == NULL)
        return failed("%s: %s", path, strerror(ENOMEM));
    while (words->count < want && *at != '\0') {
        words->word[words->count++] = at;
        at += strcspn(at, "\n");
        if (*at == '\n')
            *at++ = '\0';
    }
    if (words->count < want)
        return failed("%s: %zu lines for %zu vectors", path, words->count, want);
    return 0;
}

static int read_words(struct words *words, const char *path, size_t want)
{
    FILE *file = fopen(path, "rb");
    int rc;

    if (file == NULL)
        return errno == ENOENT ? 0 : failed("%s: %s", path, strerror(errno));
    rc = read_text(file, path, words);
    fclose(file);
    return rc < 0 ? rc : split_lines(path, words, want);
}

/* As the index takes them: bytes as they are, all else as float32. */
static int take_vectors(const struct npy *array, const char *path, void **data)
{
    size_t bytes = array->rows * array->columns;

    if (array->rows == 0)
        return failed("%s: no vectors", path);
    *data = array->type == NPY_UINT8 ? malloc(bytes) : npy_floats(array);
    if (*data != NULL && array->type == NPY_UINT8)
        memcpy(*data, array->data, bytes);
    return *data != NULL ? 0 : failed("%s: %s", path, strerror(ENOMEM));
}

static int read_vectors(struct set *set, const char *path, size_t rows_max, size_t *rows,
                        void **data)
{
    struct npy array;
    uint32_t element;
    int rc = npy_read(&array, path, rows_max);

    if (rc < 0) {
        npy_free(&array);
        return failed("%s", array.error);
    }
    element = array.type == NPY_UINT8 ? VSHARD_ELEMENT_U8 : VSHARD_ELEMENT_F32;
    if (set->dim != 0 && (array.columns != set->dim || element != set->element))
        rc = failed("%s: not the dimension or the type of the base", path);
    else
        rc = take_vectors(&array, path, data);
    set->dim = (uint32_t)array.columns;
    set->element = element;
    set->row_bytes = set->dim * (element == VSHARD_ELEMENT_U8 ? 1 : sizeof(float));
    *rows = array.rows;
    npy_free(&array);
    return rc;
}

int set_read(struct set *set, const char *folder, const char *name, size_t rows_max)
{
    char path[4][PATH_MAX_BYTES];
    static const char *const tails[] = { "base.npy", "query.npy", "base.words.txt",
                                         "query.words.txt" };
    int rc;

    memset(set, 0, sizeof *set);
    for (int i = 0; i < 4; i++) {
        if (snprintf(path[i], PATH_MAX_BYTES, "%s/%s.%s", folder, name, tails[i]) >= PATH_MAX_BYTES)
            return failed("%s: %s", folder, strerror(ENAMETOOLONG));
    }
    rc = read_vectors(set, path[0], rows_max, &set->rows, &set->base_data);
    if (rc == 0)
        rc = read_vectors(set, path[1], 0, &set->queries, &set->query_data);
    if (rc == 0)
        rc = read_words(&set->base_words, path[2], set->rows);
    if (rc == 0)
        rc = read_words(&set->query_words, path[3], set->queries);
    return rc;
}

static void words_free(struct words *words)
{
    free(words->text);
    free(words->word);
}

void set_free(struct set *set)
{
    free(set->base_data);
    free(set->query_data);
    words_free(&set->base_words);
    words_free(&set->query_words);
}

const char *set_name(const struct words *words, size_t row, char text[32])
{
    if (row < words->count)
        return words->word[row];
    snprintf(text, 32, "#%zu", row);
    return text;
}
