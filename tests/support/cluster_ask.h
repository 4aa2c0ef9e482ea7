/* cluster_ask.h - short ways to ask a cluster of cluster.h for something: one collection,
 * "words", whose vectors are a function of key and salt. Include after criterion. */
#ifndef SUPPORT_CLUSTER_ASK_H
#define SUPPORT_CLUSTER_ASK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/cluster.h"
#include "support/random.h"

#define MS  CLUSTER_MS
#define ASK __attribute__((unused)) static

enum { DIM = 8, WORDS_ATTRIBUTES = 3, WORD = 8 };

static const struct vshard_attribute words_attributes[WORDS_ATTRIBUTES] = {
    { VSHARD_ATTRIBUTE_INT64, "digit" },
    { VSHARD_ATTRIBUTE_DOUBLE, "half" },
    { VSHARD_ATTRIBUTE_KEYWORD, "word" },
};

static uint64_t next_tag = 1;

ASK void vector_of(float *v, uint64_t key, uint64_t salt)
{
    uint64_t state = key * 7919 + salt;

    for (int i = 0; i < DIM; i++)
        v[i] = random_float(&state);
}

/* The status that the call or else its answer has. */
ASK int administer(struct cluster *c, uint64_t at, struct vshard_node_admin a)
{
    struct cluster_answer *answer;
    int rc;

    a.size = sizeof a;
    a.tag = next_tag++;
    rc = vshard_node_admin(c->node[at].node, c->now, &a);
    if (rc != VSHARD_OK)
        return rc;
    answer = cluster_wait(c, a.tag, 8000 * MS);
    cr_assert_not_null(answer, "no answer");
    return answer->status;
}

ASK struct cluster_answer *create(struct cluster *c, uint64_t at, uint32_t shards,
                                  uint32_t replicas)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = VSHARD_FAMILY_FLAT,
                                            .shards = shards,
                                            .replicas = replicas,
                                            .attribute_count = WORDS_ATTRIBUTES,
                                            .attributes = words_attributes,
                                            .name = "words" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = next_tag++, .collection = &spec
    };

    if (vshard_node_admin(c->node[at].node, c->now, &a) != VSHARD_OK)
        return NULL;
    return cluster_wait(c, a.tag, 8000 * MS);
}

/* Rows first .. first + count - 1, their values key % 10, key / 2.0, and for each third "w" and
 * key % 10. Returns the tag; 0: refused. */
ASK uint64_t write_rows(struct cluster *c, uint64_t at, uint64_t first, uint32_t count,
                        uint64_t salt, const struct vshard_node_write *more)
{
    struct vshard_key *keys = calloc(count, sizeof *keys);
    float *vectors = calloc((size_t)count * DIM, sizeof *vectors);
    int64_t *digits = calloc(count, sizeof *digits);
    double *halves = calloc(count, sizeof *halves);
    char(*words)[WORD] = calloc(count, sizeof *words);
    const struct vshard_values values[] = { { digits, 0 }, { halves, 0 }, { words, WORD } };
    struct vshard_node_write w = { .flags = 0 };
    int rc;

    if (more != NULL)
        w = *more;
    w.size = sizeof w;
    w.count = count;
    w.tag = next_tag++;
    w.collection = "words";
    w.keys = keys;
    if (!(w.flags & VSHARD_WRITE_REMOVE)) {
        w.vectors = vectors;
        w.values = values;
        w.value_count = WORDS_ATTRIBUTES;
    }
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = (struct vshard_key){ 0, first + i };
        vector_of(vectors + (size_t)i * DIM, first + i, salt);
        digits[i] = (int64_t)((first + i) % 10);
        halves[i] = (double)(first + i) / 2;
        if ((first + i) % 3 == 0)
            snprintf(words[i], WORD, "w%d", (int)((first + i) % 10));
    }
    rc = vshard_node_write(c->node[at].node, c->now, &w);
    free(keys);
    free(vectors);
    free(digits);
    free(halves);
    free(words);
    return rc == VSHARD_OK ? w.tag : 0;
}

/* Written and acknowledged. */
ASK struct cluster_answer *written(struct cluster *c, uint64_t at, uint64_t first, uint32_t count,
                                   uint64_t salt, uint32_t flags)
{
    const struct vshard_node_write more = { .flags = flags, .timeout_ns = 10000 * MS };
    uint64_t tag = write_rows(c, at, first, count, salt, &more);
    struct cluster_answer *a;

    cr_assert_neq(tag, (uint64_t)0, "a write is refused");
    a = cluster_wait(c, tag, 12000 * MS);
    cr_assert_not_null(a, "no answer to a write");
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    return a;
}

ASK uint64_t search_begin(struct cluster *c, uint64_t at, uint64_t key, uint64_t salt,
                          const struct vshard_node_search *more)
{
    struct vshard_node_search s = { .k = 3 };
    float query[DIM];

    if (more != NULL)
        s = *more;
    vector_of(query, key, salt);
    s.size = sizeof s;
    s.k = s.k ? s.k : 3;
    s.tag = next_tag++;
    s.collection = "words";
    s.query = query;
    return vshard_node_search(c->node[at].node, c->now, &s) == VSHARD_OK ? s.tag : 0;
}

ASK struct cluster_answer *search(struct cluster *c, uint64_t at, uint64_t key, uint64_t salt,
                                  const struct vshard_node_search *more)
{
    uint64_t tag = search_begin(c, at, key, salt, more);
    struct cluster_answer *a;

    cr_assert_neq(tag, (uint64_t)0, "a search is refused");
    a = cluster_wait(c, tag, 12000 * MS);
    cr_assert_not_null(a, "no answer to a search");
    return a;
}

ASK struct cluster_answer *fetch(struct cluster *c, uint64_t at, uint64_t key,
                                 const struct vshard_node_fetch *more)
{
    struct vshard_node_fetch f = { .consistency = VSHARD_READ_LINEARIZABLE,
                                   .timeout_ns = 5000 * MS };
    struct cluster_answer *a;

    if (more != NULL)
        f = *more;
    f.size = sizeof f;
    f.tag = next_tag++;
    f.key = (struct vshard_key){ 0, key };
    f.collection = "words";
    cr_assert_eq(vshard_node_fetch(c->node[at].node, c->now, &f), VSHARD_OK);
    a = cluster_wait(c, f.tag, 12000 * MS);
    cr_assert_not_null(a, "no answer to a fetch");
    return a;
}

/* A cluster with the collection. */
ASK struct cluster *with_words(uint32_t founders, uint32_t count, uint32_t shards,
                               uint32_t replicas, const struct vshard_node_options *o)
{
    struct cluster *c = cluster_create(founders, count, 1, o);
    struct cluster_answer *a;

    cluster_run(c, 1500 * MS);
    a = create(c, 1, shards, replicas);
    cr_assert_not_null(a, "no answer to create");
    cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
    cluster_run(c, 1000 * MS);
    return c;
}

/* All rows are there, in that version, as the freshest of reads sees them. */
ASK void expect_rows(struct cluster *c, uint64_t at, uint64_t first, uint32_t count, uint64_t salt)
{
    for (uint64_t key = first; key < first + count; key++) {
        struct cluster_answer *a = fetch(c, at, key, NULL);
        float wanted[DIM];

        vector_of(wanted, key, salt);
        cr_assert_eq(a->status, VSHARD_OK, "key %d: %s", (int)key, vshard_strerror(a->status));
        cr_assert_arr_eq(a->vector, wanted, sizeof wanted, "key %d", (int)key);
    }
}

#endif
