/* store.c - the state machine: keys and values, and counters that are added to.
 *
 * An entry is an operation, 'p' or 'a', one byte with the length of the key, the key,
 * and what to put or add. An image is the same entries again, one for each key, each
 * behind four bytes with its length, so loading one is applying it. */
#include "host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 1 << 10 };

struct item {
    struct item *after; /* in a list of all, to be saved */
    struct item *next;  /* of the same bucket */
    uint64_t hash;
    char *value;
    size_t value_count;
    size_t key_count;
    char key[];
};

struct store {
    struct item **bucket; /* [buckets] */
    size_t buckets;       /* a power of two; 0 before the first key */
    size_t count;
    struct item *first, **last; /* all, in the order in which they came */
};

struct store *store_create(void)
{
    struct store *s = take(NULL, sizeof *s);

    *s = (struct store){ 0 };
    s->last = &s->first;
    return s;
}

static void clear(struct store *s)
{
    while (s->first != NULL) {
        struct item *i = s->first;

        s->first = i->after;
        free(i->value);
        free(i);
    }
    s->last = &s->first;
    free(s->bucket);
    s->bucket = NULL;
    s->buckets = s->count = 0;
}

void store_destroy(struct store *s)
{
    if (s == NULL)
        return;
    clear(s);
    free(s);
}

static void link_item(struct store *s, struct item *i)
{
    struct item **bucket = &s->bucket[i->hash & (s->buckets - 1)];

    i->next = *bucket;
    *bucket = i;
}

/* Never more items than buckets. */
static void make_room(struct store *s)
{
    if (s->count < s->buckets)
        return;
    s->buckets = s->buckets > 0 ? 2 * s->buckets : FIRST_BUCKETS;
    s->bucket = take(s->bucket, s->buckets * sizeof(struct item *));
    for (size_t i = 0; i < s->buckets; i++)
        s->bucket[i] = NULL;
    for (struct item *i = s->first; i != NULL; i = i->after)
        link_item(s, i);
}

static struct item *find(const struct store *s, uint64_t hash, const char *key, size_t count)
{
    struct item *i = s->buckets > 0 ? s->bucket[hash & (s->buckets - 1)] : NULL;

    while (i != NULL &&
           (i->hash != hash || i->key_count != count || memcmp(i->key, key, count) != 0))
        i = i->next;
    return i;
}

static struct item *make(struct store *s, const char *key, size_t count)
{
    uint64_t hash = vshard_key_hash(key, count).lo;
    struct item *i = find(s, hash, key, count);

    if (i != NULL)
        return i;
    make_room(s);
    i = take(NULL, sizeof *i + count);
    *i = (struct item){ .hash = hash, .key_count = count };
    memcpy(i->key, key, count);
    *s->last = i;
    s->last = &i->after;
    link_item(s, i);
    s->count++;
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
    const struct item *i = find(s, vshard_key_hash(key, count).lo, key, count);

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
    for (const struct item *i = s->first; i != NULL; i = i->after) {
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
