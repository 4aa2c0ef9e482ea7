/* requests.c - what a line of a client asks the node for.
 *
 * Each kind of request has a line in the table at the end, which says what words it takes.
 * What does not fit is refused by name, as what the node refuses is: its log event names the
 * argument, and main.c keeps that for the answer. */
#include "server.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 64 << 20, WRITE_MS = 30000, READ_MS = 5000, EXPORT_MS = 600000 };

#define MS UINT64_C(1000000)

const char export_name[] = "export-";
const char *const metric_names[3] = { "l2", "ip", "cosine" };
const char *const type_names[4] = { "", "int64", "double", "keyword" };

#define FIELD(name)                                       \
    {                                                     \
#name, offsetof(struct vshard_collection, name),  \
            sizeof(((struct vshard_collection *)0)->name) \
    }

const struct field collection_fields[] = {
    FIELD(dim),  FIELD(shards),          FIELD(replicas),  FIELD(learners),   FIELD(family),
    FIELD(m),    FIELD(ef_construction), FIELD(ef_search), FIELD(train_rows), FIELD(profile),
    FIELD(seed), FIELD(max_rows),        { NULL, 0, 0 }
};

static int wrong(struct server *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int wrong(struct server *s, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(s->why, sizeof s->why, format, args);
    va_end(args);
    return VSHARD_EINVAL;
}

bool number_read(const char *text, uint64_t limit, uint64_t *number)
{
    uint64_t n = 0;
    size_t i = 0;

    for (; isdigit((unsigned char)text[i]); i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');

        if (n > (UINT64_MAX - digit) / 10)
            return false;
        n = 10 * n + digit;
    }
    *number = n;
    return i > 0 && text[i] == 0 && n <= limit;
}

/* A word that the table says is a number. */
static uint64_t number(const struct request *r, uint32_t at)
{
    uint64_t n = 0;

    number_read(r->words[at], UINT64_MAX, &n);
    return n;
}

/* What is above 32 bits is above every limit. */
static uint32_t number32(const struct request *r, uint32_t at)
{
    uint64_t n = number(r, at);

    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* ---- collections ---- */

static int read_field(struct server *s, struct vshard_collection *c, const char *word)
{
    size_t length = strcspn(word, "=");
    const struct field *f = collection_fields;
    uint64_t value;
    uint32_t half;

    while (f->name != NULL && (strlen(f->name) != length || memcmp(f->name, word, length) != 0))
        f++;
    if (f->name == NULL)
        return wrong(s, "a collection has no field '%.*s'", (int)length, word);
    if (!number_read(word + length + 1, f->bytes == 8 ? UINT64_MAX : UINT32_MAX, &value))
        return wrong(s, "%s is not '%s', but a number up to %" PRIu64, f->name, word + length + 1,
                     f->bytes == 8 ? UINT64_MAX : UINT32_MAX);
    half = (uint32_t)value;
    memcpy((char *)c + f->at, f->bytes == 8 ? (void *)&value : (void *)&half, f->bytes);
    return VSHARD_OK;
}

/* Names are such that the line of an answer, and an expression that somebody types, can have
 * them; the library would take any bytes. */
static int read_attribute(struct server *s, struct vshard_attribute *a, const char *word)
{
    size_t length = strcspn(word, ":");
    uint32_t type = 1;

    while (type < 4 && strcmp(word + length + 1, type_names[type]) != 0)
        type++;
    if (type == 4)
        return wrong(s, "attribute %.*s: its type is int64, double or keyword, not '%s'",
                     (int)length, word, word + length + 1);
    if (length == 0 || length > VSHARD_ATTRIBUTE_NAME_MAX)
        return wrong(s, "attribute '%.*s': %zu bytes of a name, limit %d", (int)length, word,
                     length, VSHARD_ATTRIBUTE_NAME_MAX);
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)word[i]) && word[i] != '_')
            return wrong(s, "attribute '%.*s': a name has letters, digits and _", (int)length,
                         word);
    }
    *a = (struct vshard_attribute){ .type = type };
    memcpy(a->name, word, length);
    return VSHARD_OK;
}

/* Words of a line from `at` on: FIELD=NUMBER, and NAME:TYPE if there is room for attributes. */
static int read_fields(struct server *s, const struct request *r, uint32_t at,
                       struct vshard_collection *c, struct vshard_attribute *attributes)
{
    int rc = VSHARD_OK;

    for (; rc == VSHARD_OK && at < r->word_count; at++) {
        const char *word = r->words[at];

        if (word[strcspn(word, "=:")] == '=')
            rc = read_field(s, c, word);
        else if (attributes == NULL || strchr(word, ':') == NULL)
            rc = wrong(s, "FIELD=NUMBER is wanted, not '%s'", word);
        else if (c->attribute_count == VSHARD_ATTRIBUTES_MAX)
            rc = wrong(s, "attributes: more than the limit %d", VSHARD_ATTRIBUTES_MAX);
        else
            rc = read_attribute(s, &attributes[c->attribute_count++], word);
    }
    return rc;
}

static int create(struct server *s, const struct request *r, uint64_t tag)
{
    struct vshard_attribute attributes[VSHARD_ATTRIBUTES_MAX];
    struct vshard_collection c = { .size = sizeof c,
                                   .dim = number32(r, 1),
                                   .metric = UINT32_MAX,
                                   .shards = number32(r, 3),
                                   .replicas = number32(r, 4),
                                   .name = r->words[0],
                                   .attributes = attributes };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = tag, .collection = &c
    };
    int rc;

    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(r->words[2], metric_names[i]) == 0)
            c.metric = i;
    }
    if (c.metric == UINT32_MAX)
        return wrong(s, "the metric is l2, ip or cosine, not '%s'", r->words[2]);
    rc = read_fields(s, r, 5, &c, attributes);
    if (c.attribute_count == 0)
        c.attributes = NULL;
    return rc == VSHARD_OK ? vshard_node_admin(s->node, server_now(), &a) : rc;
}

static int alter(struct server *s, const struct request *r, uint64_t tag)
{
    struct vshard_collection c = { .size = sizeof c, .name = r->words[0] };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_ALTER, .tag = tag, .collection = &c
    };
    int rc = read_fields(s, r, 1, &c, NULL);

    return rc == VSHARD_OK ? vshard_node_admin(s->node, server_now(), &a) : rc;
}

static int drop(struct server *s, const struct request *r, uint64_t tag)
{
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_DROP,
                                         .tag = tag,
                                         .timeout_ns = WRITE_MS * MS,
                                         .name = r->words[0] };

    return vshard_node_admin(s->node, server_now(), &a);
}

/* ---- members ---- */

static int join(struct server *s, const struct request *r, uint64_t tag)
{
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_JOIN,
                                         .tag = tag,
                                         .timeout_ns = WRITE_MS * MS,
                                         .node = number(r, 0) };

    return vshard_node_admin(s->node, server_now(), &a);
}

static int remove_node(struct server *s, const struct request *r, uint64_t tag)
{
    struct vshard_node_admin a = { .size = sizeof a,
                                   .op = VSHARD_ADMIN_REMOVE_NODE,
                                   .tag = tag,
                                   .timeout_ns = WRITE_MS * MS,
                                   .node = number(r, 0) };

    if (r->word_count > 2 ||
        (r->word_count == 2 && !number_read(r->words[1], UINT64_MAX, &a.incarnation)))
        return wrong(s, "an incarnation is one number of 64 bits, not '%.64s'", r->words[1]);
    return vshard_node_admin(s->node, server_now(), &a);
}

static int primary(struct server *s, const struct request *r, uint64_t tag)
{
    const struct vshard_node_admin a = { .size = sizeof a,
                                         .op = VSHARD_ADMIN_PRIMARY,
                                         .tag = tag,
                                         .timeout_ns = WRITE_MS * MS,
                                         .region = number32(r, 0) };

    return vshard_node_admin(s->node, server_now(), &a);
}

static int group_of(struct server *s, const struct request *r, uint64_t *group)
{
    struct vshard_shard_status *all = take(NULL, VSHARD_CLUSTER_SHARDS_MAX * sizeof *all);
    size_t count = 0;
    int rc = vshard_node_shards(s->node, r->words[0], all, VSHARD_CLUSTER_SHARDS_MAX, &count);

    if (rc == VSHARD_OK && number(r, 1) >= count)
        rc = wrong(s, "shard %" PRIu64 ", and there are %zu", number(r, 1), count);
    else if (rc == VSHARD_OK)
        *group = all[number(r, 1)].group;
    free(all);
    return rc;
}

/* NAME SHARD NODE, and where the replica goes. */
static int admin_replica(struct server *s, const struct request *r, uint32_t op, uint64_t tag)
{
    struct vshard_node_admin a = {
        .size = sizeof a, .op = op, .tag = tag, .timeout_ns = WRITE_MS * MS, .node = number(r, 2)
    };
    int rc = group_of(s, r, &a.group);

    if (op == VSHARD_ADMIN_REPLACE)
        a.to = number(r, 3);
    return rc == VSHARD_OK ? vshard_node_admin(s->node, server_now(), &a) : rc;
}

static int lead(struct server *s, const struct request *r, uint64_t tag)
{
    return admin_replica(s, r, VSHARD_ADMIN_LEAD, tag);
}

static int replace(struct server *s, const struct request *r, uint64_t tag)
{
    return admin_replica(s, r, VSHARD_ADMIN_REPLACE, tag);
}

/* GROUP EPOCH LAST LAST_TERM NODE+NODE.., and the statement. */
static int recover(struct server *s, const struct request *r, uint64_t tag)
{
    uint64_t lost[NODES_MAX];
    struct vshard_node_admin a = { .size = sizeof a,
                                   .op = VSHARD_ADMIN_RECOVER,
                                   .tag = tag,
                                   .timeout_ns = WRITE_MS * MS,
                                   .group = number(r, 0),
                                   .epoch = number32(r, 1),
                                   .last = number(r, 2),
                                   .last_term = number(r, 3),
                                   .lost = lost };
    char *statement, *save = NULL;
    int rc;

    for (char *w = strtok_r(r->words[4], "+", &save); w != NULL; w = strtok_r(NULL, "+", &save)) {
        if (a.lost_count == NODES_MAX)
            return wrong(s, "lost: more nodes than the limit %d", NODES_MAX);
        if (!number_read(w, UINT64_MAX, &lost[a.lost_count++]))
            return wrong(s, "lost: a node is a number, not '%s'", w);
    }
    if (r->body_bytes > VSHARD_STATEMENT_MAX)
        return wrong(s, "statement: %zu bytes, limit %d", r->body_bytes, VSHARD_STATEMENT_MAX);
    statement = take(NULL, r->body_bytes + 1);
    if (r->body_bytes > 0)
        memcpy(statement, r->body, r->body_bytes);
    statement[r->body_bytes] = 0;
    a.name = statement;
    rc = vshard_node_admin(s->node, server_now(), &a);
    free(statement);
    return rc;
}

/* ---- rows ---- */

/* The next bytes of a body; NULL: there are fewer. */
static const char *cut(struct request *body, size_t bytes)
{
    const char *at = body->body;

    if (bytes > body->body_bytes)
        return NULL;
    body->body += bytes;
    body->body_bytes -= bytes;
    return at;
}

/* Columns may be missing at the end, and so does all behind them. */
static int read_columns(struct server *s, struct request *body, const struct vshard_collection *c,
                        struct vshard_node_write *w, struct vshard_values *values)
{
    for (uint32_t i = 0; i < c->attribute_count && body->body_bytes > 0; i++) {
        const char *head = cut(body, 4), *column = NULL;
        uint32_t width = 0;

        if (head != NULL)
            memcpy(&width, head, sizeof width);
        if (width > VSHARD_KEYWORD_MAX)
            return wrong(s, "%s: places of %" PRIu32 " bytes, limit %d", c->attributes[i].name,
                         width, VSHARD_KEYWORD_MAX);
        if (head == NULL || (column = cut(body, (size_t)width * w->count)) == NULL)
            return wrong(s, "%s: the body ends before its values", c->attributes[i].name);
        values[i] = (struct vshard_values){ width > 0 ? (void *)(uintptr_t)column : NULL, width };
        w->value_count = i + 1;
    }
    return VSHARD_OK;
}

static int read_payloads(struct server *s, struct request *body, uint32_t count, uint32_t *sizes,
                         const void **payloads)
{
    const char *head = cut(body, (size_t)count * sizeof *sizes);

    if (head == NULL)
        return wrong(s, "the body ends before the sizes of payloads");
    memcpy(sizes, head, (size_t)count * sizeof *sizes);
    for (uint32_t i = 0; i < count; i++) {
        payloads[i] = cut(body, sizes[i]);
        if (payloads[i] == NULL)
            return wrong(s, "the body ends before payload %" PRIu32 ", of %" PRIu32 " bytes", i,
                         sizes[i]);
    }
    return VSHARD_OK;
}

/* What a body has behind keys and vectors. */
static int write_rest(struct server *s, struct request *body, const struct vshard_collection *c,
                      struct vshard_node_write *w)
{
    struct vshard_values values[VSHARD_ATTRIBUTES_MAX];
    uint32_t *sizes = NULL;
    const void **payloads = NULL;
    int rc = read_columns(s, body, c, w, values);

    w->values = w->value_count > 0 ? values : NULL;
    if (rc == VSHARD_OK && body->body_bytes > 0) {
        w->payload_bytes = sizes = take(NULL, w->count * sizeof *sizes);
        w->payloads = payloads = take(NULL, w->count * sizeof *payloads);
        rc = read_payloads(s, body, w->count, sizes, payloads);
    }
    if (rc == VSHARD_OK && body->body_bytes > 0)
        rc = wrong(s, "the body has %zu bytes too many", body->body_bytes);
    if (rc == VSHARD_OK)
        rc = vshard_node_write(s->node, server_now(), w);
    free(sizes);
    free(payloads);
    return rc;
}

static int look_up(struct server *s, const struct request *r, struct vshard_collection *c)
{
    *c = (struct vshard_collection){ .size = sizeof *c };
    return vshard_node_collection(s->node, r->words[0], c);
}

/* NAME COUNT REQUEST, and rows, or keys alone. */
static int write_rows(struct server *s, const struct request *r, uint32_t flags, uint64_t tag)
{
    struct vshard_collection c;
    struct request body = *r;
    struct vshard_key *keys;
    struct vshard_node_write w = { .size = sizeof w,
                                   .flags = flags,
                                   .count = number32(r, 1),
                                   .tag = tag,
                                   .timeout_ns = WRITE_MS * MS,
                                   .collection = r->words[0] };
    const char *given;
    int rc = look_up(s, r, &c);

    if (rc != VSHARD_OK)
        return rc;
    if (w.count == 0 || w.count > VSHARD_WRITE_ROWS_MAX)
        return wrong(s, "count %" PRIu32 ", limit %d", w.count, VSHARD_WRITE_ROWS_MAX);
    given = cut(&body, 8 * (size_t)w.count);
    if (flags != VSHARD_WRITE_REMOVE && given != NULL)
        w.vectors = cut(&body, (size_t)w.count * c.dim * sizeof(float));
    if (given == NULL || (flags != VSHARD_WRITE_REMOVE && w.vectors == NULL))
        return wrong(s, "a body of %zu bytes does not have %" PRIu32 " rows", r->body_bytes,
                     w.count);
    keys = take(NULL, w.count * sizeof *keys);
    for (uint32_t i = 0; i < w.count; i++) {
        keys[i].hi = 0;
        memcpy(&keys[i].lo, given + 8 * (size_t)i, 8);
    }
    if (number(r, 2) != 0)
        w.request = (struct vshard_key){ 1, number(r, 2) };
    w.keys = keys;
    rc = write_rest(s, &body, &c, &w);
    free(keys);
    return rc;
}

static int write_some(struct server *s, const struct request *r, uint64_t tag)
{
    return write_rows(s, r, 0, tag);
}

static int remove_some(struct server *s, const struct request *r, uint64_t tag)
{
    return write_rows(s, r, VSHARD_WRITE_REMOVE, tag);
}

/* NAME K EF CONSISTENCY, the query, and an expression. */
static int search(struct server *s, const struct request *r, uint64_t tag)
{
    struct vshard_collection c;
    struct vshard_node_search q = { .size = sizeof q,
                                    .k = number32(r, 1),
                                    .ef_search = number32(r, 2),
                                    .consistency = number32(r, 3),
                                    .timeout_ns = READ_MS * MS,
                                    .tag = tag,
                                    .collection = r->words[0],
                                    .query = r->body };
    struct request body = *r;
    int rc = look_up(s, r, &c);

    if (rc != VSHARD_OK)
        return rc;
    if (cut(&body, c.dim * sizeof(float)) == NULL)
        return wrong(s, "a query of %zu bytes, and dim is %" PRIu32, r->body_bytes, c.dim);
    if (body.body_bytes > VSHARD_WHERE_BYTES_MAX)
        return wrong(s, "an expression of %zu bytes, limit %d", body.body_bytes,
                     VSHARD_WHERE_BYTES_MAX);
    q.where = body.body_bytes > 0 ? body.body : NULL;
    q.where_bytes = (uint32_t)body.body_bytes;
    return vshard_node_search(s->node, server_now(), &q);
}

static int fetch(struct server *s, const struct request *r, uint64_t tag)
{
    const struct vshard_node_fetch f = { .size = sizeof f,
                                         .consistency = number32(r, 2),
                                         .timeout_ns = READ_MS * MS,
                                         .tag = tag,
                                         .key = { 0, number(r, 1) },
                                         .collection = r->words[0] };

    return vshard_node_fetch(s->node, server_now(), &f);
}

void export_path(const struct config *c, uint64_t tag, char path[4096])
{
    snprintf(path, 4096, "%s/%s%" PRIu64, c->dir, export_name, tag);
}

static int export(struct server *s, const struct request *r, uint64_t tag)
{
    char path[4096];
    const struct vshard_node_export e = { .size = sizeof e,
                                          .shard = number32(r, 1),
                                          .tag = tag,
                                          .timeout_ns = EXPORT_MS * MS,
                                          .collection = r->words[0],
                                          .path = path };

    export_path(&s->config, tag, path);
    return vshard_node_export(s->node, server_now(), &e);
}

/* ---- lines ---- */

/* What each takes, and its words in their order: lower-case ones are numbers, `...` is any
 * more of them. With a body, the line ends with the number of its bytes. */
static const struct kind {
    const char *word;
    bool body;
    const char *takes;
    int (*begin)(struct server *s, const struct request *r, uint64_t tag); /* NULL:
 clients.c does it at once */
} kinds[] = {
    { "create", false, "NAME dim METRIC shards replicas ...", create },
    { "alter", false, "NAME FIELD=NUMBER ...", alter },
    { "drop", false, "NAME", drop },
    { "join", false, "node", join },
    { "remove-node", false, "node ...", remove_node },
    { "lead", false, "NAME shard node", lead },
    { "replace", false, "NAME shard node to", replace },
    { "primary", false, "region", primary },
    { "recover", true, "group epoch last last_term LOST", recover },
    { "write", true, "NAME count request", write_some },
    { "remove", true, "NAME count request", remove_some },
    { "search", true, "NAME k ef consistency", search },
    { "fetch", false, "NAME key consistency", fetch },
    { "export", false, "NAME shard", export },
    { "describe", false, "NAME", NULL },
    { "shards", false, "NAME", NULL },
    { "read", false, "offset", NULL },
    { "status", false, "", NULL },
    { "nodes", false, "", NULL },
    { "end", false, "", NULL },
};

static const struct kind *kind_of(const char *word)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].word, word) == 0)
            return &kinds[i];
    }
    return NULL;
}

bool request_read(struct request *r, char *line, size_t *body)
{
    const struct kind *kind;
    char *save = NULL, *word = strtok_r(line, " ", &save), *tag = strtok_r(NULL, " ", &save);
    uint64_t bytes = 0;

    *r = (struct request){ .body = NULL };
    *body = 0;
    if (tag == NULL || strlen(word) >= sizeof r->word || strlen(tag) >= sizeof r->tag)
        return false;
    strcpy(r->word, word);
    strcpy(r->tag, tag);
    while (r->word_count < WORDS_MAX && (word = strtok_r(NULL, " ", &save)) != NULL)
        r->words[r->word_count++] = word;
    kind = kind_of(r->word);
    if (kind == NULL || !kind->body)
        return word == NULL;
    if (r->word_count == 0 || !number_read(r->words[--r->word_count], BODY_MAX, &bytes))
        return false;
    *body = (size_t)bytes;
    return word == NULL;
}

/* Whether the words are those that the kind takes. */
static int check_words(struct server *s, const struct request *r, const struct kind *kind)
{
    const char *at = kind->takes;
    uint32_t i = 0;
    uint64_t n;

    while (*at != 0 && *at != '.') {
        int length = (int)strcspn(at, " ");

        if (i == r->word_count)
            return wrong(s, "%s takes %s, and %.*s is missing", kind->word, kind->takes, length,
                         at);
        if (islower((unsigned char)*at) && !number_read(r->words[i], UINT64_MAX, &n))
            return wrong(s, "%.*s is a number of 64 bits, not '%.64s'", length, at, r->words[i]);
        at += length;
        at += *at == ' ';
        i++;
    }
    if (i < r->word_count && *at != '.')
        return wrong(s, "%s takes %s, and '%.64s' is too much", kind->word,
                     *kind->takes != 0 ? kind->takes : "nothing", r->words[i]);
    return VSHARD_OK;
}

int request_check(struct server *s, const struct request *r)
{
    const struct kind *kind = kind_of(r->word);

    if (kind != NULL)
        return check_words(s, r, kind);
    wrong(s, "there is no request '%s'", r->word);
    return VSHARD_ENOTSUP;
}

int request_begin(struct server *s, const struct request *r, uint64_t tag)
{
    return kind_of(r->word)->begin(s, r, tag);
}
