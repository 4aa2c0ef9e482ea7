/* store.c - the state machine: keys and values, and counters that are added to.
 *
 * An entry is an operation, 'p' or 'a', one byte with the length of the key, the key,
 * and what to put or add. An image is the same entries again, one for each key, each
 * behind four bytes with its length, so loading one is applying it. */
#include "host.h"

#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item {
    struct item *before, *after; /* in a list of all, to be saved */
    char *value;
    size_t value_count;
    size_t key_count;
    char key[KEY_MAX];
};

struct store {
    void *tree; /* of tsearch(3) */
    struct item all;
};

static int compare(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    size_t shorter = x->key_count < y->key_count ? x->key_count : y->key_count;
    int order = memcmp(x->key, y->key, shorter);

    return order != 0 ? order : (x->key_count > y->key_count) - (x->key_count < y->key_count);
}

struct store *store_create(void)
{
    struct store *s = take(NULL, sizeof *s);

    *s = (struct store){ 0 };
    s->all.before = s->all.after = &s->all;
    return s;
}

static void clear(struct store *s)
{
    while (s->all.after != &s->all) {
        struct item *i = s->all.after;

        tdelete(i, &s->tree, compare);
        s->all.after = i->after;
        free(i->value);
        free(i);
    }
    s->all.before = &s->all;
}

void store_destroy(struct store *s)
{
    if (s == NULL)
        return;
    clear(s);
    free(s);
}

static struct item *find(const struct store *s, const char *key, size_t count)
{
    struct item wanted, **found;

    wanted.key_count = count;
    memcpy(wanted.key, key, count);
    found = tfind(&wanted, (void *const *)&s->tree, compare);
    return found != NULL ? *found : NULL;
}

static struct item *make(struct store *s, const char *key, size_t count)
{
    struct item *i = find(s, key, count);

    if (i != NULL)
        return i;
    i = take(NULL, sizeof *i);
    *i = (struct item){ .key_count = count };
    memcpy(i->key, key, count);
    i->before = s->all.before;
    i->after = &s->all;
    i->before->after = i;
    s->all.before = i;
    if (tsearch(i, &s->tree, compare) == NULL)
        die("out of memory");
    return i;
}

static void put(struct store *s, const char *key, size_t key_count, const char *value, size_t count)
{
    struct item *i = make(s, key, key_count);

    if (i->value == NULL || i->value_count < count)
        i->value = take(i->value, count + 1);
    memcpy(i->value, value, count);
    i->value[count] = '\0';
    i->value_count = count;
}

const char *store_get(const struct store *s, const char *key, size_t count, size_t *value_count)
{
    const struct item *i = find(s, key, count);

    *value_count = i != NULL ? i->value_count : 0;
    return i != NULL ? i->value : NULL;
}

static void add(struct store *s, const char *key, size_t key_count, const char *amount,
                struct bytes *answer)
{
    size_t count;
    const char *old = store_get(s, key, key_count, &count);
    /* Sums wrap, and what is no number counts as 0: the same on every replica. */
    uint64_t sum = (old != NULL ? strtoull(old, NULL, 10) : 0) + strtoull(amount, NULL, 10);
    char text[24];

    count = (size_t)snprintf(text, sizeof text, "%" PRId64, (int64_t)sum);
    put(s, key, key_count, text, count);
    bytes_add(answer, text, count);
}

void store_apply(struct store *s, const void *entry, size_t count, struct bytes *answer)
{
    const char *at = entry, *key = at + 2;
    size_t key_count = count >= 2 ? (unsigned char)at[1] : 0;

    if (count < 2 || key_count > count - 2)
        die("an entry that this version does not know"); /* it must never be skipped */
    if (at[0] == 'p')
        put(s, key, key_count, key + key_count, count - 2 - key_count);
    else if (at[0] == 'a' && at[count - 1] == '\0')
        add(s, key, key_count, key + key_count, answer);
    else
        die("an entry that this version does not know");
}

void store_entry_put(struct bytes *to, const char *key, size_t key_count, const char *value,
                     size_t count)
{
    const char head[] = { 'p', (char)key_count };

    bytes_add(to, head, sizeof head);
    bytes_add(to, key, key_count);
    bytes_add(to, value, count);
}

void store_entry_add(struct bytes *to, const char *key, size_t key_count, int64_t amount)
{
    const char head[] = { 'a', (char)key_count };
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRId64, amount);

    bytes_add(to, head, sizeof head);
    bytes_add(to, key, key_count);
    bytes_add(to, text, (size_t)n + 1); /* with its zero */
}

void store_save(const struct store *s, struct bytes *image)
{
    for (const struct item *i = s->all.after; i != &s->all; i = i->after) {
        uint32_t count = (uint32_t)(2 + i->key_count + i->value_count);

        bytes_add(image, &count, sizeof count);
        store_entry_put(image, i->key, i->key_count, i->value, i->value_count);
    }
}

int store_load(struct store *s, const void *image, size_t count)
{
    const char *at = image;
    struct bytes none = { 0 };

    clear(s);
    while (count > 0) {
        uint32_t n;

        if (count < sizeof n)
            return VSHARD_ECORRUPT;
        memcpy(&n, at, sizeof n);
        if (n < 2 || n > count - sizeof n)
            return VSHARD_ECORRUPT;
        store_apply(s, at + sizeof n, n, &none);
        at += sizeof n + n;
        count -= sizeof n + n;
    }
    return VSHARD_OK;
}
