/* ask.c - what a story asks of nodes: to write, to remove, to find and to read.
 *
 * Rows are functions of their key and of a number, `as`, that tells one version of a row from
 * another. Where the collection has an attribute, it is the last digit of the key. */
#include "story.h"

#include <stdlib.h>
#include <string.h>

enum { AS_MAX = 9, HEAVY_MAX = 65536, FLOOD_MAX = 1000 };

/* ---- writing ---- */

static uint32_t attributes_at(struct story *s, unsigned at)
{
    struct vshard_collection spec = { .size = sizeof spec };

    vshard_node_collection(s->c->node[at].node, s->collection, &spec);
    return spec.attribute_count;
}

/* Later reads of the session see at least this. */
static void remember(struct story *s, const struct cluster_answer *a)
{
    for (uint32_t i = 0; i < a->position_count; i++) {
        uint32_t k = 0;

        while (k < s->session_count && s->session[k].group != a->positions[i].group)
            k++;
        if (k == CLUSTER_POSITIONS)
            return;
        if (k == s->session_count)
            s->session[s->session_count++] = (struct vshard_position){ 0 };
        if (a->positions[i].index >= s->session[k].index)
            s->session[k] = a->positions[i];
    }
}

struct rows {
    unsigned first, last;
    uint64_t salt; /* 0: they go */
    uint64_t request;
    uint32_t heavy;
};

struct flood {
    unsigned at, times;
    uint64_t every_ns;
};

/* The call alone. */
static int write_begin(struct story *s, unsigned at, const struct rows *r, uint64_t tag)
{
    static const char payload[HEAVY_MAX];
    uint32_t count = r->last - r->first + 1;
    struct vshard_key *keys = calloc(count, sizeof *keys);
    float *vectors = calloc((size_t)count * DIM, sizeof *vectors);
    int64_t *digits = calloc(count, sizeof *digits);
    const void **payloads = calloc(count, sizeof *payloads);
    uint32_t *bytes = calloc(count, sizeof *bytes);
    const struct vshard_values values = { digits, 0 };
    const struct vshard_node_write w = { .size = sizeof w,
                                         .flags = r->salt == 0 ? VSHARD_WRITE_REMOVE : 0,
                                         .count = count,
                                         .tag = tag,
                                         .timeout_ns = 10000 * MS,
                                         .request = { 0, r->request },
                                         .collection = s->collection,
                                         .keys = keys,
                                         .vectors = r->salt != 0 ? vectors : NULL,
                                         .values = &values,
                                         .value_count = r->salt != 0 ? attributes_at(s, at) : 0,
                                         .payloads = r->heavy != 0 ? payloads : NULL,
                                         .payload_bytes = r->heavy != 0 ? bytes : NULL };
    int rc;

    for (uint32_t i = 0; i < count; i++) {
        keys[i].lo = r->first + i;
        digits[i] = (r->first + i) % 10;
        payloads[i] = payload;
        bytes[i] = r->heavy;
        vector_of(vectors + (size_t)i * DIM, r->first + i, r->salt);
    }
    rc = vshard_node_write(s->c->node[at].node, s->c->now, &w);
    free(keys);
    free(vectors);
    free(digits);
    free(payloads);
    free(bytes);
    return rc;
}

static void write_rows(struct story *s, unsigned at, const struct rows *r)
{
    uint64_t tag = story_tag(s);
    int status;
    const struct cluster_answer *a = story_answer(s, write_begin(s, at, r, tag), tag, &status);

    if (status == VSHARD_OK)
        remember(s, a);
    story_say(s, "n%u %s %u..%u: %s", at, r->salt == 0 ? "removes" : "writes", r->first, r->last,
              vshard_strerror(status));
}

/* Many writes under way at once, of the same rows. */
static void flood(struct story *s, const struct flood *f, const struct rows *r)
{
    int rc[FLOOD_MAX];
    uint32_t fine = 0, refused = 0, busy = 0;
    uint64_t first = s->next_tag + 1;

    for (uint32_t i = 0; i < f->times && i < FLOOD_MAX; i++) {
        rc[i] = write_begin(s, f->at, r, story_tag(s));
        cluster_run(s->c, f->every_ns);
    }
    for (uint32_t i = 0; i < f->times && i < FLOOD_MAX; i++) {
        int status;

        story_answer(s, rc[i], first + i, &status);
        fine += status == VSHARD_OK;
        refused += rc[i] == VSHARD_EBUSY;
        busy += rc[i] == VSHARD_OK && status == VSHARD_EBUSY;
    }
    story_say(s, "n%u writes %u times: %u fine, %u refused, %u busy", f->at, f->times, fine,
              refused, busy);
}

/* ---- reading ---- */

static void check_keys(struct story *s, unsigned at, unsigned first, unsigned last, uint64_t salt)
{
    uint32_t right = 0;

    for (unsigned key = first; key <= last; key++) {
        const struct vshard_node_fetch f = { .size = sizeof f,
                                             .consistency = VSHARD_READ_LINEARIZABLE,
                                             .tag = story_tag(s),
                                             .timeout_ns = 3000 * MS,
                                             .key = { 0, key },
                                             .collection = s->collection };
        float wanted[DIM];
        int status;
        const struct cluster_answer *a =
            story_answer(s, vshard_node_fetch(s->c->node[at].node, s->c->now, &f), f.tag, &status);

        vector_of(wanted, key, salt);
        right += status == VSHARD_OK && memcmp(a->vector, wanted, sizeof wanted) == 0;
    }
    story_say(s, "n%u has %u of %u", at, right, last - first + 1);
}

/* Which version of a row that is; 0: none. */
static unsigned version_of(const float *vector, unsigned key)
{
    for (unsigned as = 1; as <= AS_MAX; as++) {
        float v[DIM];

        vector_of(v, key, as);
        if (memcmp(v, vector, sizeof v) == 0)
            return as;
    }
    return 0;
}

/* One row, as fresh as the line says. */
static void read_row(struct story *s, unsigned at, unsigned key, const char *how)
{
    struct vshard_position wanted[CLUSTER_POSITIONS];
    struct vshard_node_fetch f = { .size = sizeof f,
                                   .tag = story_tag(s),
                                   .timeout_ns = story_option(how, "within=", 400) * MS,
                                   .max_staleness_ns = story_option(how, "bounded=", 0) * MS,
                                   .key = { 0, key },
                                   .collection = s->collection,
                                   .positions = wanted };
    const struct cluster_answer *a;
    uint64_t asked = s->c->now;
    int status;

    memcpy(wanted, s->session, sizeof wanted);
    if (strstr(how, "linearizable") != NULL)
        f.consistency = VSHARD_READ_LINEARIZABLE;
    else if (strstr(how, "bounded=") != NULL)
        f.consistency = VSHARD_READ_BOUNDED;
    else if (strstr(how, "any") == NULL)
        f.consistency = VSHARD_READ_POSITIONS;
    if (f.consistency == VSHARD_READ_POSITIONS)
        f.position_count = s->session_count;
    for (uint32_t i = 0; i < f.position_count; i++) {
        wanted[i].index = story_option(how, "index=", wanted[i].index);
        wanted[i].epoch = (uint32_t)story_option(how, "epoch=", wanted[i].epoch);
    }
    a = story_answer(s, vshard_node_fetch(s->c->node[at].node, s->c->now, &f), f.tag, &status);
    if (status == VSHARD_OK && strstr(how, "session") != NULL)
        remember(s, a);
    if (status == VSHARD_OK)
        story_say(s, "n%u reads %u (%s): as %u, which is entry %u, of %u; after %.1f ms", at, key,
                  how, version_of(a->vector, key), (unsigned)a->version,
                  (unsigned)a->positions[0].index, (double)(a->at_ns - asked) / 1e6);
    else
        story_say(s, "n%u reads %u (%s): %s", at, key, how, vshard_strerror(status));
}

/* ---- searching ---- */

struct question {
    unsigned at, key;
    uint64_t salt;
    const char *how;
};

static int search_begin(struct story *s, const struct question *ask, uint64_t tag)
{
    int64_t digit = (int64_t)story_option(ask->how, "digit=", 0);
    const struct vshard_condition is = {
        .op = VSHARD_WHERE_EQ, .type = VSHARD_ATTRIBUTE_INT64, .count = 1, .values = &digit
    };
    unsigned char where[64];
    size_t where_bytes = 0;
    float query[DIM];
    struct vshard_node_search q = { .size = sizeof q,
                                    .k = (uint32_t)story_option(ask->how, "k=", 1),
                                    .flags =
                                        strstr(ask->how, "whole") != NULL ? VSHARD_NODE_WHOLE : 0,
                                    .consistency = strstr(ask->how, "linearizable") != NULL
                                                       ? VSHARD_READ_LINEARIZABLE
                                                       : VSHARD_READ_ANY,
                                    .tag = tag,
                                    .timeout_ns = story_option(ask->how, "within=", 3000) * MS,
                                    .collection = s->collection,
                                    .query = query };

    if (strstr(ask->how, "digit=") != NULL) {
        vshard_where_encode(&is, 1, where, sizeof where, &where_bytes);
        q.where = where;
        q.where_bytes = (uint32_t)where_bytes;
    }
    vector_of(query, ask->key, ask->salt);
    return vshard_node_search(s->c->node[ask->at].node, s->c->now, &q);
}

static void find(struct story *s, const struct question *ask)
{
    uint64_t tag = story_tag(s), asked = s->c->now;
    const struct cluster_answer *a;
    int status;

    a = story_answer(s, search_begin(s, ask, tag), tag, &status);
    if (status != VSHARD_OK || (a->hit_count == 0 && a->shards == a->shards_answered)) {
        story_say(s, "n%u finds nothing: %s", ask->at, vshard_strerror(status));
        return;
    }
    fprintf(s->told, "%9.1f n%u finds", (double)s->c->now / 1e6, ask->at);
    for (uint32_t i = 0; i < a->hit_count; i++) {
        fprintf(s->told, " %u", (unsigned)a->hits[i].key.lo);
        if (strstr(ask->how, "versions") != NULL)
            fprintf(s->told, "@%u", (unsigned)a->hits[i].version);
    }
    fprintf(s->told, "%s, %u of %u shards", a->hit_count == 0 ? " nothing" : "", a->shards_answered,
            a->shards);
    if (strstr(ask->how, "counted") != NULL)
        fprintf(s->told, ", of %u rows", (unsigned)a->rows);
    if (strstr(ask->how, "timed") != NULL)
        fprintf(s->told, ", %u asked twice, after %.1f ms", a->hedges,
                (double)(a->at_ns - asked) / 1e6);
    fputc('\n', s->told);
}

/* How often a question is answered with as many hits as it asks for. */
static void find_often(struct story *s, const struct question *ask, unsigned times)
{
    uint32_t k = (uint32_t)story_option(ask->how, "k=", 1), all = 0;

    for (unsigned i = 0; i < times; i++) {
        uint64_t tag = story_tag(s);
        int status;
        const struct cluster_answer *a = story_answer(s, search_begin(s, ask, tag), tag, &status);

        all += status == VSHARD_OK && a->hit_count == k && a->shards == a->shards_answered;
    }
    story_say(s, "n%u finds all %u in %u of %u", ask->at, k, all, times);
}

static void give_up(struct story *s)
{
    struct cluster_answer *a = &s->c->answer[s->asked];
    int rc = vshard_node_cancel(s->c->node[s->asked_at].node, s->asked);

    cluster_run(s->c, 2000 * MS);
    story_say(s, "n%u gives up: %s; answered %u times: %s", (unsigned)s->asked_at,
              vshard_strerror(rc), a->times, vshard_strerror(a->status));
}

static void cache(struct story *s, unsigned at)
{
    struct vshard_node_status status = { .size = sizeof status };

    vshard_node_status(s->c->node[at].node, &status);
    story_say(s, "n%u has answered %u searches from its cache", at, (unsigned)status.cache_answers);
}

/* ---- commands ---- */

static bool find_command(struct story *s, const char *line)
{
    struct question ask = { 0 };
    unsigned salt, times = (unsigned)story_option(line, "times=", 0);

    ask.how = line;
    if (sscanf(line, "find n%u %u as %u", &ask.at, &ask.key, &salt) == 3) {
        ask.salt = salt;
        if (times != 0)
            find_often(s, &ask, times);
        else
            find(s, &ask);
    } else if (sscanf(line, "ask n%u %u as %u", &ask.at, &ask.key, &salt) == 3) {
        ask.salt = salt;
        s->asked = story_tag(s);
        s->asked_at = ask.at;
        search_begin(s, &ask, s->asked);
    } else if (strcmp(line, "give up") == 0) {
        give_up(s);
    } else {
        return false;
    }
    return true;
}

bool story_ask(struct story *s, const char *line)
{
    struct rows r = { .heavy = (uint32_t)story_option(line, "heavy=", 0),
                      .request = story_option(line, "request=", 0) };
    struct flood f = { .every_ns = story_option(line, "every=", 0) * 1000 };
    unsigned at, key, salt;
    int how = 0;

    if (sscanf(line, "use %64s", s->collection) == 1) {
        return true;
    } else if (sscanf(line, "write n%u %u..%u as %u", &at, &r.first, &r.last, &salt) == 4) {
        r.salt = salt;
        write_rows(s, at, &r);
    } else if (sscanf(line, "remove n%u %u..%u", &at, &r.first, &r.last) == 3) {
        write_rows(s, at, &r);
    } else if (sscanf(line, "flood n%u %u times %u..%u as %u", &f.at, &f.times, &r.first, &r.last,
                      &salt) == 5) {
        r.salt = salt;
        flood(s, &f, &r);
    } else if (sscanf(line, "check n%u %u..%u as %u", &at, &r.first, &r.last, &salt) == 4) {
        check_keys(s, at, r.first, r.last, salt);
    } else if (sscanf(line, "read n%u %u %n", &at, &key, &how) == 2) {
        read_row(s, at, key, line + how);
    } else if (strcmp(line, "new session") == 0) {
        s->session_count = 0;
    } else if (sscanf(line, "cache n%u", &at) == 1) {
        cache(s, at);
    } else {
        return find_command(s, line);
    }
    return true;
}
