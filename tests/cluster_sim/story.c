/* story.c - a whole cluster as a script: commands, a line of dashes, and the trace that they
 * must leave. `make bless-cluster` rewrites the traces; the diff is the review.
 *
 *     cluster nodes=6 founders=5 seed=3 replace=3000   first of all; a node that is silent for
 *                               `replace` ms loses its replicas; hosted=1: a store has the map
 *     create shards=4 replicas=3 learners=0
 *     alter replicas=5
 *     run 400 ms
 *     write n2 1..50 as 7       ask n2 to write these keys; 7 is what they are from now on
 *     remove n2 1..50
 *     check n3 1..50 as 7       how many n3 says are that, linearizably
 *     find n3 12 as 7           the nearest key to where that row lies, from what is at hand
 *     shards n1                 who leads and who is in each, as n1 has it
 *     nodes n1                  of the cluster, as n1 has it
 *     kill n1 | start n1 | cut n1 n2 | heal
 *     upgrade n1 | back n1      it is restarted with the next version of the library, or this one
 *     store away | store back   it answers nothing meanwhile
 *     level n1                  of formats: what the cluster writes, as n1 has it
 *     join n6 by n1 region=1 | leave n2 by n1 | primary n1 1
 *     recover n4 group 0 lost 1 2 3 epoch=1
 *
 * `cut` parts the nodes that it names from all others. Between the dashes and the next
 * blank line stands what happened, each line with the virtual time in milliseconds. A line
 * that begins with # is a comment. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#include "node/node.h"

enum { LINE = 300, SHARDS_MAX = 16, LEFT_MS = 20000 };

#define MS CLUSTER_MS

struct story {
    struct cluster *c;
    struct vshard_logger logger;
    uint64_t next_tag;
    char *got; /* the trace of a block */
    size_t got_bytes;
    FILE *told;
};

static void say(struct story *s, const char *format, ...)
{
    va_list args;

    fprintf(s->told, "%9.1f ", (double)s->c->now / 1e6);
    va_start(args, format);
    vfprintf(s->told, format, args);
    va_end(args);
    fputc('\n', s->told);
}

/* Of all that nodes tell: who leads, and what becomes of replicas. */
static void on_event(void *ctx, uint32_t level, const char *name,
                     const struct vshard_log_field *fields, size_t field_count)
{
    struct story *s = ctx;

    (void)level;
    if (s->c == NULL || strncmp(name, "node.", 5) != 0 || field_count != 4 ||
        strcmp(fields[0].name, "node") != 0)
        return;
    say(s, "n%d %s group %lld (%s %lld)", (int)fields[0].integer, name + 5,
        (long long)fields[1].integer, fields[2].text, (long long)fields[3].integer);
}

/* ---- asking ---- */

static uint64_t tag(struct story *s)
{
    s->next_tag = s->next_tag % 3000 + 1;
    s->c->answer[s->next_tag].times = 0;
    return s->next_tag;
}

/* What came of it: of the call, or of the request. */
static struct cluster_answer *answer(struct story *s, int rc, uint64_t asked, int *status)
{
    struct cluster_answer *a = rc == VSHARD_OK ? cluster_wait(s->c, asked, LEFT_MS * MS) : NULL;

    *status = rc != VSHARD_OK ? rc : a != NULL ? a->status : VSHARD_ETIMEDOUT;
    return a;
}

static void admin(struct story *s, unsigned at, const char *what, struct vshard_node_admin a)
{
    int status;

    a.size = sizeof a;
    a.tag = tag(s);
    answer(s, vshard_node_admin(s->c->node[at].node, s->c->now, &a), a.tag, &status);
    say(s, "n%u %s: %s", at, what, vshard_strerror(status));
}

static void write_keys(struct story *s, unsigned at, unsigned first, unsigned last, uint64_t salt)
{
    uint32_t count = last - first + 1;
    struct vshard_key *keys = calloc(count, sizeof *keys);
    float *vectors = calloc((size_t)count * DIM, sizeof *vectors);
    const struct vshard_node_write w = { .size = sizeof w,
                                         .flags = salt == 0 ? VSHARD_WRITE_REMOVE : 0,
                                         .count = count,
                                         .tag = tag(s),
                                         .timeout_ns = 10000 * MS,
                                         .collection = "words",
                                         .keys = keys,
                                         .vectors = vectors };
    int status;

    for (uint32_t i = 0; i < count; i++) {
        keys[i].lo = first + i;
        vector_of(vectors + (size_t)i * DIM, first + i, salt);
    }
    answer(s, vshard_node_write(s->c->node[at].node, s->c->now, &w), w.tag, &status);
    say(s, "n%u %s %u..%u: %s", at, salt == 0 ? "removes" : "writes", first, last,
        vshard_strerror(status));
    free(keys);
    free(vectors);
}

static void check_keys(struct story *s, unsigned at, unsigned first, unsigned last, uint64_t salt)
{
    uint32_t right = 0;

    for (unsigned key = first; key <= last; key++) {
        const struct vshard_node_fetch f = { .size = sizeof f,
                                             .consistency = VSHARD_READ_LINEARIZABLE,
                                             .tag = tag(s),
                                             .timeout_ns = 3000 * MS,
                                             .key = { 0, key },
                                             .collection = "words" };
        float wanted[DIM];
        int status;
        const struct cluster_answer *a =
            answer(s, vshard_node_fetch(s->c->node[at].node, s->c->now, &f), f.tag, &status);

        vector_of(wanted, key, salt);
        right += status == VSHARD_OK && memcmp(a->vector, wanted, sizeof wanted) == 0;
    }
    say(s, "n%u has %u of %u", at, right, last - first + 1);
}

static void find(struct story *s, unsigned at, unsigned key, uint64_t salt)
{
    float query[DIM];
    const struct vshard_node_search q = { .size = sizeof q,
                                          .k = 1,
                                          .tag = tag(s),
                                          .timeout_ns = 3000 * MS,
                                          .collection = "words",
                                          .query = query };
    const struct cluster_answer *a;
    int status;

    vector_of(query, key, salt);
    a = answer(s, vshard_node_search(s->c->node[at].node, s->c->now, &q), q.tag, &status);
    if (status != VSHARD_OK || a->hit_count == 0)
        say(s, "n%u finds nothing: %s", at, vshard_strerror(status));
    else
        say(s, "n%u finds %u, %u of %u shards", at, (unsigned)a->hits[0].key.lo, a->shards_answered,
            a->shards);
}

static void shards(struct story *s, unsigned at)
{
    struct vshard_shard_status all[SHARDS_MAX];
    size_t count = 0;

    vshard_node_shards(s->c->node[at].node, "words", all, SHARDS_MAX, &count);
    for (size_t i = 0; i < count; i++) {
        fprintf(s->told, "          shard %u: n%u leads", (unsigned)i,
                (unsigned)cluster_leader(s->c, "words", (uint32_t)i));
        for (uint32_t k = 0; k < all[i].member_count; k++)
            fprintf(s->told, " n%u", (unsigned)all[i].members[k]);
        fputc('\n', s->told);
    }
}

static void nodes(struct story *s, unsigned at)
{
    static const char *const word[] = { "alive", "leaves", "lost", "votes", "halted" };
    struct vshard_peer_status all[VSHARD_NODES_MAX];
    size_t count = 0;

    vshard_node_peers(s->c->node[at].node, all, VSHARD_NODES_MAX, &count);
    for (size_t i = 0; i < count; i++) {
        fprintf(s->told, "          n%u with %u:", (unsigned)all[i].node, all[i].replicas);
        for (uint32_t k = 0; k < sizeof word / sizeof *word; k++) {
            if (all[i].flags >> k & 1)
                fprintf(s->told, " %s", word[k]);
        }
        fputc('\n', s->told);
    }
}

static void restart(struct story *s, unsigned at, uint32_t level)
{
    int rc = cluster_upgrade(s->c, at, level);

    say(s, "n%u knows level %u: %s", at, (unsigned)level, vshard_strerror(rc));
}

static void level(struct story *s, unsigned at)
{
    struct vshard_node_status status = { .size = sizeof status };

    if (vshard_node_status(s->c->node[at].node, &status) != VSHARD_OK) {
        say(s, "n%u is not there", at);
        return;
    }
    say(s, "n%u knows level %u, and writes %u: %s", at, status.level_known, status.level,
        vshard_strerror(status.status));
}

/* What an operator reads off the status of the node whose replica is to go on. */
static void recover(struct story *s, unsigned at, unsigned group, char *lost, unsigned epoch)
{
    struct vshard_node_status status = { .size = sizeof status };
    struct vshard_shard_status all[SHARDS_MAX];
    uint64_t nodes[VSHARD_NODES_MAX];
    struct vshard_node_admin a = {
        .op = VSHARD_ADMIN_RECOVER, .group = group, .lost = nodes, .epoch = epoch, .name = "a story"
    };
    size_t count = 0;

    for (char *word = strtok(lost, " "); word != NULL; word = strtok(NULL, " "))
        nodes[a.lost_count++] = strtoull(word, NULL, 10);
    vshard_node_status(s->c->node[at].node, &status);
    vshard_node_shards(s->c->node[at].node, "words", all, SHARDS_MAX, &count);
    a.last = status.map_last;
    a.last_term = status.map_last_term;
    for (size_t i = 0; i < count; i++) {
        if (all[i].group == group) {
            a.last = all[i].last;
            a.last_term = all[i].last_term;
        }
    }
    admin(s, at, "is told to go on without the others", a);
}

/* ---- commands ---- */

/* The number behind a word such as "nodes=", or what is usual. */
static uint64_t option(const char *line, const char *name, uint64_t usual)
{
    const char *at = strstr(line, name);

    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : usual;
}

static void begin(struct story *s, const char *line)
{
    struct vshard_node_options o = { .logger = &s->logger };
    uint32_t nodes = (uint32_t)option(line, "nodes=", 3);

    o.replace_ns = option(line, "replace=", 3600000) * MS;
    if (s->c != NULL)
        cluster_destroy(s->c);
    s->c = NULL;
    s->c = (option(line, "hosted=", 0) ? cluster_create_hosted : cluster_create)(
        (uint32_t)option(line, "founders=", nodes), nodes, option(line, "seed=", 1), &o);
}

static void collection(struct story *s, uint32_t op, const char *line)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = op == VSHARD_ADMIN_CREATE ? DIM : 0,
                                            .family =
                                                op == VSHARD_ADMIN_CREATE ? VSHARD_FAMILY_FLAT : 0u,
                                            .shards = (uint32_t)option(line, "shards=", 0),
                                            .replicas = (uint32_t)option(line, "replicas=", 0),
                                            .learners = (uint32_t)option(line, "learners=", 0),
                                            .name = "words" };

    admin(s, 1, op == VSHARD_ADMIN_CREATE ? "creates" : "alters",
          (struct vshard_node_admin){ .op = op, .collection = &spec });
}

static void cut(struct story *s, char *line)
{
    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) {
        if (word[0] == 'n')
            s->c->node[strtoul(word + 1, NULL, 10)].side = 1;
    }
}

static bool ask_command(struct story *s, const char *line)
{
    unsigned at, first, last, salt;

    if (sscanf(line, "write n%u %u..%u as %u", &at, &first, &last, &salt) == 4)
        write_keys(s, at, first, last, salt);
    else if (sscanf(line, "remove n%u %u..%u", &at, &first, &last) == 3)
        write_keys(s, at, first, last, 0);
    else if (sscanf(line, "check n%u %u..%u as %u", &at, &first, &last, &salt) == 4)
        check_keys(s, at, first, last, salt);
    else if (sscanf(line, "find n%u %u as %u", &at, &first, &salt) == 3)
        find(s, at, first, salt);
    else if (sscanf(line, "shards n%u", &at) == 1)
        shards(s, at);
    else if (sscanf(line, "nodes n%u", &at) == 1)
        nodes(s, at);
    else
        return false;
    return true;
}

static bool node_command(struct story *s, char *line)
{
    unsigned at, by, epoch;
    char lost[40];

    if (sscanf(line, "kill n%u", &at) == 1) {
        cluster_kill(s->c, at);
    } else if (sscanf(line, "start n%u", &at) == 1) {
        cluster_start(s->c, at);
    } else if (sscanf(line, "upgrade n%u", &at) == 1) {
        restart(s, at, VS_LEVEL + 1);
    } else if (sscanf(line, "back n%u", &at) == 1) {
        restart(s, at, VS_LEVEL);
    } else if (sscanf(line, "level n%u", &at) == 1) {
        level(s, at);
    } else if (sscanf(line, "join n%u by n%u", &at, &by) == 2) {
        s->c->node[at].region = (uint32_t)option(line, "region=", 0);
        cluster_join(s->c, at, by);
    } else if (sscanf(line, "leave n%u by n%u", &at, &by) == 2) {
        admin(s, by, "sees one leave",
              (struct vshard_node_admin){ .op = VSHARD_ADMIN_REMOVE_NODE, .node = at });
    } else if (sscanf(line, "primary n%u %u", &at, &by) == 2) {
        admin(s, at, "makes a region the primary one",
              (struct vshard_node_admin){ .op = VSHARD_ADMIN_PRIMARY, .region = by });
    } else if (sscanf(line, "recover n%u group %u lost %39[0-9 ]epoch=%u", &at, &by, lost,
                      &epoch) == 4) {
        recover(s, at, by, lost, epoch);
    } else {
        return false;
    }
    return true;
}

static bool command(struct story *s, char *line)
{
    unsigned long long ms;

    if (strncmp(line, "cluster", 7) == 0) {
        begin(s, line);
    } else if (s->c == NULL) {
        return false;
    } else if (sscanf(line, "run %llu ms", &ms) == 1) {
        cluster_run(s->c, ms * MS);
    } else if (strncmp(line, "create", 6) == 0) {
        collection(s, VSHARD_ADMIN_CREATE, line);
    } else if (strncmp(line, "alter", 5) == 0) {
        collection(s, VSHARD_ADMIN_ALTER, line);
    } else if (strncmp(line, "cut", 3) == 0) {
        cut(s, line);
    } else if (strncmp(line, "store ", 6) == 0) {
        s->c->store_away = strcmp(line, "store away") == 0;
    } else if (strcmp(line, "heal") == 0) {
        for (uint64_t id = 1; id <= s->c->count; id++)
            s->c->node[id].side = 0;
    } else {
        return ask_command(s, line) || node_command(s, line);
    }
    return true;
}

/* ---- scripts ---- */

/* Runs the commands of a block; false at the end of the file, or at what is no command. */
static bool block(struct story *s, FILE *in, FILE *out, const char *path, bool *bad)
{
    char line[LINE];

    s->told = open_memstream(&s->got, &s->got_bytes);
    while (fgets(line, sizeof line, in) != NULL) {
        fputs(line, out);
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "----") == 0)
            return true;
        if (line[0] == 0 || line[0] == '#')
            continue;
        if (!command(s, line)) {
            printf("%s: what is \"%s\"?\n", path, line);
            *bad = true;
            return false;
        }
    }
    return false;
}

/* The trace that the script expects, up to an empty line. */
static char *expected(FILE *in)
{
    char line[LINE], *text = NULL;
    size_t bytes = 0;
    FILE *want = open_memstream(&text, &bytes);

    while (fgets(line, sizeof line, in) != NULL && line[0] != '\n')
        fputs(line, want);
    fclose(want);
    return text;
}

static bool tell(struct story *s, FILE *in, FILE *out, const char *path, bool bless)
{
    bool bad = false;

    while (block(s, in, out, path, &bad)) {
        char *want = expected(in);

        fclose(s->told);
        if (!bless && strcmp(want, s->got) != 0) {
            printf("%s: expected\n%s---- but\n%s", path, want, s->got);
            bad = true;
        }
        fprintf(out, "%s\n", s->got);
        free(want);
        free(s->got);
    }
    if (s->c != NULL)
        cluster_destroy(s->c);
    fclose(s->told);
    free(s->got);
    return !bad;
}

bool story_run(const char *path, bool bless)
{
    struct story s = { .next_tag = 0 };
    FILE *in = fopen(path, "r"), *out;
    char *text = NULL;
    size_t bytes = 0;
    bool fine;

    if (in == NULL) {
        printf("%s: cannot be read\n", path);
        return false;
    }
    s.logger = (struct vshard_logger){ on_event, &s };
    out = open_memstream(&text, &bytes);
    fine = tell(&s, in, out, path, bless);
    fclose(out);
    fclose(in);
    if (bless && fine) {
        out = fopen(path, "w");
        fwrite(text, 1, bytes, out);
        fclose(out);
    }
    printf("%s %s\n", !fine ? "FAIL" : bless ? "told" : "pass", path);
    free(text);
    return fine;
}
