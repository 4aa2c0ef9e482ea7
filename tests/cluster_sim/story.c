/* story.c - a whole cluster as a script: commands, a line of dashes, and the trace that they
 * must leave. `make bless-cluster` rewrites the traces; the diff is the review.
 *
 *     cluster nodes=6 founders=5 seed=3 replace=3000   first of all; a node that is silent for
 *                               `replace` ms loses its replicas; hosted=1: a store has the map;
 *                               requests= backlog= snapshot= segment= cache=: as options of a node;
 *                               spread=10 repeat=300: the network takes up to 10 ms, and gives
 *                               300 of 1,000 messages twice; disk=20: what is written takes
 *                               up to 20 ms; step=20: nodes have no threads but one, to which each
 *                               item of work takes 20 ms
 *     use birds                 the collection that is meant from now on; at first "words"
 *     create shards=4 replicas=3 learners=0 digits=1 rows=90 family=graph train=256   digits=1: a
 *                               row has the last digit of its key as an attribute; train: rows
 *                               that a graph begins with
 *     at once n1 birds n2 fish  each creates that, before any knows of the other
 *     alter replicas=5 rows=40 | drop
 *     collection n1             what it is, as n1 has it
 *     run 400 ms
 *     write n2 1..50 as 7       ask n2 to write these keys; 7 is what they are from now on;
 *                               heavy=9000: with so many bytes each; request=3: under that id
 *     remove n2 1..50
 *     flood n2 20 times 1..50 as 7 every=50   that often, without waiting, each 50 µs
 *     check n3 1..50 as 7       how many n3 says are that, linearizably
 *     read n3 12 any            one row; or bounded=200 (ms), linearizable, session (what was
 *                               written, or read so), index=8, epoch=1; within=400 (ms)
 *     new session
 *     find n3 12 as 7           the nearest key to where that row lies, from what is at hand;
 *                               k=8 digit=3 whole linearizable within=50 (ms), 0: as long as is
 *                               usual; timed: says how long it took; counted: of how many rows;
 *                               times=90: how often it is answered in full; versions: of each
 *                               row
 *     ask n3 12 as 7 | give up  a search, and not to wait for it
 *     cache n3                  what it has answered of it
 *     shards n1                 who leads and who is in each, as n1 has it
 *     nodes n1                  of the cluster, as n1 has it
 *     kill n1 | start n1 | cut n1 n2 | heal | pause n1 40 ms
 *     slow n1 8 ms              so much longer takes each message from it
 *     digests                   of the first shard, whether they are equal
 *     lead n2 shard 0 by n1     it leads that from now on
 *     spoil n1 7                that row there is another, behind its back; as=6, and not 9;
 *                               shard=1: it is in that one then; version=5
 *     computes n1 by avx2       its replica of the first shard, by no newer instructions; or scalar
 *     pieces n1                 how much of a snapshot has come there, and in frames at all
 *     snapshot n1               of which entry n1 has one, of the first shard
 *     strange n1 cluster=9      a frame of another cluster, or version=9, or damaged=1
 *     give n1                   the map that the store has; the one of before; none; or damaged=70
 *     upgrade n1 | back n1      it is restarted with the next version of the library, or this one
 *     store away | store back   it answers nothing meanwhile
 *     store                     which version it has, what it refused, and which version nodes have
 *     level n1                  of formats: what the cluster writes, as n1 has it
 *     join n6 by n1 region=1 | leave n2 by n1 | primary n1 1
 *     recover n4 group 0 lost 1 2 3 epoch=1
 *
 * `cut` parts the nodes that it names from all others. Between the dashes and the next
 * blank line stands what happened, each line with the virtual time in milliseconds. A line
 * that begins with # is a comment. */
#include "story.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "node/core.h"

enum { LINE = 300, SHARDS_MAX = 16, FRAME = 512 };

void story_say(struct story *s, const char *format, ...)
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
    story_say(s, "n%d %s group %lld (%s %lld)", (int)fields[0].integer, name + 5,
              (long long)fields[1].integer, fields[2].text, (long long)fields[3].integer);
}

/* ---- asking ---- */

uint64_t story_tag(struct story *s)
{
    s->next_tag = s->next_tag % 3000 + 1;
    s->c->answer[s->next_tag].times = 0;
    return s->next_tag;
}

/* What came of it: of the call, or of the request. */
struct cluster_answer *story_answer(struct story *s, int rc, uint64_t asked, int *status)
{
    struct cluster_answer *a =
        rc == VSHARD_OK ? cluster_wait(s->c, asked, STORY_WAIT_MS * MS) : NULL;

    *status = rc != VSHARD_OK ? rc : a != NULL ? a->status : VSHARD_ETIMEDOUT;
    return a;
}

uint64_t story_option(const char *line, const char *name, uint64_t usual)
{
    const char *at = strstr(line, name);

    return at != NULL ? strtoull(at + strlen(name), NULL, 10) : usual;
}

static void admin(struct story *s, unsigned at, const char *what, struct vshard_node_admin a)
{
    int status;

    a.size = sizeof a;
    a.tag = story_tag(s);
    story_answer(s, vshard_node_admin(s->c->node[at].node, s->c->now, &a), a.tag, &status);
    story_say(s, "n%u %s: %s", at, what, vshard_strerror(status));
}

static void shards(struct story *s, unsigned at)
{
    struct vshard_shard_status all[SHARDS_MAX];
    size_t count = 0;

    vshard_node_shards(s->c->node[at].node, s->collection, all, SHARDS_MAX, &count);
    for (size_t i = 0; i < count; i++) {
        fprintf(s->told, "          shard %u: n%u leads", (unsigned)i,
                (unsigned)cluster_leader(s->c, s->collection, (uint32_t)i));
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

    story_say(s, "n%u knows level %u: %s", at, (unsigned)level, vshard_strerror(rc));
}

static void level(struct story *s, unsigned at)
{
    struct vshard_node_status status = { .size = sizeof status };

    if (vshard_node_status(s->c->node[at].node, &status) != VSHARD_OK) {
        story_say(s, "n%u is not there", at);
        return;
    }
    story_say(s, "n%u knows level %u, and writes %u: %s", at, status.level_known, status.level,
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
    vshard_node_shards(s->c->node[at].node, s->collection, all, SHARDS_MAX, &count);
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

static void slow_disks(struct cluster *c, uint64_t ns)
{
    c->disk_ns = ns;
    for (uint64_t id = 1; id <= c->founders; id++)
        fault_storage_defer(c->node[id].disk, ns != 0);
}

static void begin(struct story *s, const char *line)
{
    struct vshard_node_options o = { .logger = &s->logger };
    uint32_t nodes = (uint32_t)story_option(line, "nodes=", 3);

    o.replace_ns = story_option(line, "replace=", 3600000) * MS;
    o.max_requests = (uint32_t)story_option(line, "requests=", 0);
    o.backlog_bytes = story_option(line, "backlog=", 0);
    o.snapshot_bytes = story_option(line, "snapshot=", 0);
    o.segment_bytes = story_option(line, "segment=", 0);
    o.cache_bytes = story_option(line, "cache=", 0);
    if (s->c != NULL)
        cluster_destroy(s->c);
    s->c = NULL;
    s->c = (story_option(line, "hosted=", 0) ? cluster_create_hosted : cluster_create)(
        (uint32_t)story_option(line, "founders=", nodes), nodes, story_option(line, "seed=", 1),
        &o);
    s->c->repeat_per_mille = (uint32_t)story_option(line, "repeat=", 0);
    if (strstr(line, "spread=") != NULL)
        s->c->spread_ns = story_option(line, "spread=", 0) * MS;
    slow_disks(s->c, story_option(line, "disk=", 0) * MS);
    s->c->step_ns = story_option(line, "step=", 0) * MS;
    s->session_count = 0;
    strcpy(s->collection, "words");
}

static void create(struct story *s, const char *line)
{
    static const struct vshard_attribute digit = { VSHARD_ATTRIBUTE_INT64, "digit" };
    const struct vshard_collection spec = {
        .size = sizeof spec,
        .dim = DIM,
        .family = strstr(line, "family=graph") ? VSHARD_FAMILY_HNSW : VSHARD_FAMILY_FLAT,
        .shards = (uint32_t)story_option(line, "shards=", 0),
        .replicas = (uint32_t)story_option(line, "replicas=", 0),
        .learners = (uint32_t)story_option(line, "learners=", 0),
        .train_rows = (uint32_t)story_option(line, "train=", 0),
        .max_rows = story_option(line, "rows=", 0),
        .attribute_count = (uint32_t)story_option(line, "digits=", 0),
        .attributes = &digit,
        .name = s->collection
    };

    admin(s, 1, "creates",
          (struct vshard_node_admin){ .op = VSHARD_ADMIN_CREATE, .collection = &spec });
}

/* "n1 birds n2 fish": all are asked before any has answered. */
static void create_at_once(struct story *s, char *line)
{
    uint64_t tag[VSHARD_NODES_MAX], at[VSHARD_NODES_MAX];
    int rc[VSHARD_NODES_MAX];
    uint32_t count = 0;

    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " "), count++) {
        const struct vshard_collection spec = { .size = sizeof spec,
                                                .dim = DIM,
                                                .name = strtok(NULL, " ") };
        const struct vshard_node_admin a = { .size = sizeof a,
                                             .op = VSHARD_ADMIN_CREATE,
                                             .tag = tag[count] = story_tag(s),
                                             .collection = &spec };

        at[count] = strtoull(word + 1, NULL, 10);
        rc[count] = vshard_node_admin(s->c->node[at[count]].node, s->c->now, &a);
    }
    for (uint32_t i = 0; i < count; i++) {
        int status;

        story_answer(s, rc[i], tag[i], &status);
        story_say(s, "n%u creates: %s", (unsigned)at[i], vshard_strerror(status));
    }
}

static void store(struct story *s)
{
    story_say(s, "the store has version %u, and has refused %u", (unsigned)s->c->map_version,
              s->c->overtaken);
    for (uint64_t id = 1; id <= s->c->count; id++) {
        struct vshard_node_status status = { .size = sizeof status };

        if (s->c->node[id].node == NULL)
            continue;
        vshard_node_status(s->c->node[id].node, &status);
        fprintf(s->told, "          n%u has version %u: %u nodes, %u collections\n", (unsigned)id,
                (unsigned)status.map_index, status.nodes, status.collections);
    }
}

static void alter(struct story *s, const char *line)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .shards = (uint32_t)story_option(line, "shards=", 0),
                                            .replicas =
                                                (uint32_t)story_option(line, "replicas=", 0),
                                            .max_rows = story_option(line, "rows=", 0),
                                            .name = s->collection };

    admin(s, 1, "alters",
          (struct vshard_node_admin){ .op = VSHARD_ADMIN_ALTER, .collection = &spec });
}

/* What a node takes it to be. */
static void collection(struct story *s, unsigned at)
{
    struct vshard_collection spec = { .size = sizeof spec };
    int rc = vshard_node_collection(s->c->node[at].node, s->collection, &spec);

    if (rc == VSHARD_OK)
        fprintf(s->told,
                "          %s: %s, %u shards, %u replicas, %u attributes, rows of a shard at most "
                "%u\n",
                s->collection, spec.family == VSHARD_FAMILY_FLAT ? "flat" : "graph", spec.shards,
                spec.replicas, spec.attribute_count, (unsigned)spec.max_rows);
    else
        fprintf(s->told, "          %s: %s\n", s->collection, vshard_strerror(rc));
}

static void cut(struct story *s, char *line)
{
    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) {
        if (word[0] == 'n')
            s->c->node[strtoul(word + 1, NULL, 10)].side = 1;
    }
}

static void digests(struct story *s)
{
    struct vshard_shard_status one = { 0 }, first = { 0 };
    uint32_t equal = 0, other = 0;
    size_t count;

    for (uint64_t id = 1; id <= s->c->count; id++) {
        if (s->c->node[id].node == NULL)
            continue;
        vshard_node_shards(s->c->node[id].node, s->collection, &one, 1, &count);
        if (one.here == 0)
            continue;
        if (equal == 0)
            first = one;
        if (one.digest_index == first.digest_index && one.digest == first.digest)
            equal++;
        else
            other++;
    }
    story_say(s, "of entry %u, %u equal digests, %u others", (unsigned)first.digest_index, equal,
              other);
}

static void lead(struct story *s, unsigned at, unsigned shard, unsigned by)
{
    struct vshard_shard_status all[SHARDS_MAX];
    struct vshard_node_admin a = { .op = VSHARD_ADMIN_LEAD, .node = at, .group = 1000 };
    size_t count = 0;

    vshard_node_shards(s->c->node[by].node, s->collection, all, SHARDS_MAX, &count);
    if (shard < count)
        a.group = all[shard].group;
    admin(s, by, "says who leads", a);
}

/* How much of a snapshot of the first shard has come. */
static void pieces(struct story *s, unsigned at)
{
    size_t rows = 0, index = 0;

    fault_storage_bytes(s->c->node[at].disk, "home/g1-in.index", &index);
    fault_storage_bytes(s->c->node[at].disk, "home/g1-in.rows", &rows);
    story_say(s, "n%u has %u KB of a snapshot, of %u KB in frames", at,
              (unsigned)((index + rows) >> 10), (unsigned)(s->c->node[at].taken >> 10));
}

static bool look_command(struct story *s, const char *line)
{
    unsigned at;

    if (sscanf(line, "shards n%u", &at) == 1)
        shards(s, at);
    else if (sscanf(line, "nodes n%u", &at) == 1)
        nodes(s, at);
    else if (sscanf(line, "level n%u", &at) == 1)
        level(s, at);
    else if (sscanf(line, "collection n%u", &at) == 1)
        collection(s, at);
    else if (sscanf(line, "pieces n%u", &at) == 1)
        pieces(s, at);
    else if (sscanf(line, "snapshot n%u", &at) == 1)
        story_say(s, "n%u has a snapshot of entry %u", at,
                  (unsigned)vs_replica_find(s->c->node[at].node, 1)->snapshot_index);
    else if (strcmp(line, "digests") == 0)
        digests(s);
    else
        return false;
    return true;
}

static bool node_command(struct story *s, char *line)
{
    unsigned at, by, epoch, shard;
    char lost[40];

    if (sscanf(line, "kill n%u", &at) == 1) {
        cluster_kill(s->c, at);
    } else if (sscanf(line, "start n%u", &at) == 1) {
        cluster_start(s->c, at);
    } else if (sscanf(line, "upgrade n%u", &at) == 1) {
        restart(s, at, VS_LEVEL + 1);
    } else if (sscanf(line, "back n%u", &at) == 1) {
        restart(s, at, VS_LEVEL);
    } else if (sscanf(line, "pause n%u %u ms", &at, &by) == 2) {
        s->c->node[at].paused_until = s->c->now + by * MS;
    } else if (sscanf(line, "slow n%u %u ms", &at, &by) == 2) {
        s->c->node[at].slow_ns = by * MS;
    } else if (sscanf(line, "lead n%u shard %u by n%u", &at, &shard, &by) == 3) {
        lead(s, at, shard, by);
    } else if (sscanf(line, "join n%u by n%u", &at, &by) == 2) {
        s->c->node[at].region = (uint32_t)story_option(line, "region=", 0);
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
        create(s, line);
    } else if (strncmp(line, "at once ", 8) == 0) {
        create_at_once(s, line + 8);
    } else if (strcmp(line, "store") == 0) {
        store(s);
    } else if (strncmp(line, "alter", 5) == 0) {
        alter(s, line);
    } else if (strcmp(line, "drop") == 0) {
        admin(s, 1, "drops",
              (struct vshard_node_admin){ .op = VSHARD_ADMIN_DROP, .name = s->collection });
    } else if (strncmp(line, "cut ", 4) == 0) {
        cut(s, line);
    } else if (strncmp(line, "store ", 6) == 0) {
        s->c->store_away = strcmp(line, "store away") == 0;
    } else if (strcmp(line, "heal") == 0) {
        for (uint64_t id = 1; id <= s->c->count; id++)
            s->c->node[id].side = 0;
    } else {
        return story_ask(s, line) || look_command(s, line) || story_harm(s, line) ||
               node_command(s, line);
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
