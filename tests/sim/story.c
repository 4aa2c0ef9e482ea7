/* story.c - a cluster as a script: commands, a line of dashes, and the trace they
 * must leave. `make bless` rewrites the traces; the diff is the review.
 *
 *     cluster nodes=3 seed=7 members=3 snapshots=0    first of all
 *     run until leader          until somebody leads, for 5 s at most
 *     run 400 ms
 *     write n2 a=5              ask n2 to set a register; a, b or c
 *     read n3 a index|lease|stale=100
 *     cut n2 | cut n1 n2        both ways from everybody | from n1 to n2 only
 *     heal                      all links
 *     crash n1 | start n1 | wipe n1 | lose tail n1 | pause n1 400 ms | stall n1 400 ms
 *     transfer n1 n2            ask n1 to hand over to n2
 *     members n1 1 2 3 l4       ask n1 for these voters, and node 4 as a learner
 *
 * Between the dashes and the next blank line stands what happened, each line with
 * the virtual time in milliseconds. A line that starts with # is a comment. */
#include "sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 300 };

void story_say(struct world *w, const struct node *n, const char *format, ...)
{
    va_list args;

    if (w->story == NULL)
        return;
    fprintf(w->story, "%7.1f n%u ", (double)w->now / 1e6, n->id);
    va_start(args, format);
    vfprintf(w->story, format, args);
    va_end(args);
    fputc('\n', w->story);
}

bool story_done(struct world *w, const struct node *n, const struct vshard_raft_effect *e)
{
    struct asked *a = w->asked;

    while (a < w->asked + ASKED_MAX && (a->what[0] == 0 || a->tag != e->tag))
        a++;
    if (a == w->asked + ASKED_MAX)
        return false;
    if (e->status != VSHARD_OK)
        story_say(w, n, "answers %s: %s", a->what, vshard_strerror(e->status));
    else if (a->read)
        story_say(w, n, "answers %s: %llu, as of %llu", a->what,
                  (unsigned long long)n->machine[0].value[a->key], (unsigned long long)e->index);
    else
        story_say(w, n, "answers %s: done at %llu", a->what, (unsigned long long)e->index);
    a->what[0] = 0;
    return true;
}

static void ask(struct world *w, uint32_t id, struct vshard_raft_event e, const char *what,
                uint64_t key)
{
    struct asked *a = w->asked;
    int rc;

    while (a->what[0] != 0)
        a++;
    e.group = 1;
    e.tag = a->tag = ++w->next_tag;
    a->read = e.kind == VSHARD_RAFT_READ;
    a->key = key;
    snprintf(a->what, sizeof a->what, "%s", what);
    rc = node_event(w, &w->node[id], e);
    if (rc != VSHARD_OK) {
        story_say(w, &w->node[id], "refuses: %s", vshard_strerror(rc));
        a->what[0] = 0;
    }
}

static void write_register(struct world *w, uint32_t id, uint64_t key, uint64_t value)
{
    uint32_t who[2] = { 0, ++w->story_op };
    unsigned char data[24];
    char what[40];
    struct vshard_raft_entry x = { .kind = VSHARD_RAFT_DATA, .data = data, .count = sizeof data };

    memcpy(data, who, 8);
    memcpy(data + 8, &key, 8);
    memcpy(data + 16, &value, 8);
    snprintf(what, sizeof what, "write %c=%llu", (int)('a' + key), (unsigned long long)value);
    ask(w, id,
        (struct vshard_raft_event){ .kind = VSHARD_RAFT_PROPOSE, .entries = &x, .entry_count = 1 },
        what, key);
}

static void read_register(struct world *w, uint32_t id, uint64_t key, const char *how)
{
    struct vshard_raft_event e = { .kind = VSHARD_RAFT_READ };
    char what[40];

    if (strcmp(how, "lease") == 0)
        e.mode = VSHARD_RAFT_READ_LEASE;
    if (strncmp(how, "stale=", 6) == 0) {
        e.mode = VSHARD_RAFT_READ_STALE;
        e.max_age_ns = strtoull(how + 6, NULL, 10) * MS;
    }
    snprintf(what, sizeof what, "read %c", (int)('a' + key));
    ask(w, id, e, what, key);
}

static void members(struct world *w, uint32_t id, char *list)
{
    struct vshard_raft_member m[NODES_MAX];
    uint32_t count = 0;

    for (char *word = strtok(list, " "); word != NULL; word = strtok(NULL, " ")) {
        bool learner = word[0] == 'l';
        uint32_t node = (uint32_t)strtoul(word + learner, NULL, 10);
        m[count++] =
            (struct vshard_raft_member){ node, w->node[node].incarnation,
                                         learner ? VSHARD_RAFT_LEARNER : VSHARD_RAFT_VOTER, 0 };
    }
    ask(w, id,
        (struct vshard_raft_event){
            .kind = VSHARD_RAFT_CONFIGURE, .members = m, .member_count = count },
        "members", 0);
}

static void run_until(struct world *w, uint64_t end, bool leader)
{
    while (w->queue_count != 0 && w->queue[0].at <= end) {
        world_step(w);
        for (uint32_t i = 1; leader && i <= w->nodes; i++) {
            if (w->node[i].alive && w->node[i].seen_role[0] == VSHARD_RAFT_LEADER)
                return;
        }
    }
    w->now = end;
}

static struct world *cluster(const char *line)
{
    unsigned nodes = 3, seed = 1, all = 0, every = 0;
    const char *p;
    struct world *w;

    if ((p = strstr(line, "nodes=")) != NULL)
        nodes = (unsigned)strtoul(p + 6, NULL, 10);
    if ((p = strstr(line, "seed=")) != NULL)
        seed = (unsigned)strtoul(p + 5, NULL, 10);
    if ((p = strstr(line, "members=")) != NULL)
        all = (unsigned)strtoul(p + 8, NULL, 10);
    if ((p = strstr(line, "snapshots=")) != NULL)
        every = (unsigned)strtoul(p + 10, NULL, 10);
    w = world_new(seed, nodes, 1, all ? all : nodes);
    w->snapshot_every = every;
    return w;
}

static bool command(struct world *w, char *line)
{
    unsigned a, b;
    char key, how[40] = "";
    unsigned long long v;

    if (strncmp(line, "cluster", 7) == 0) {
        for (uint32_t i = 1; i <= w->nodes; i++)
            node_start(w, &w->node[i], true);
    } else if (strcmp(line, "run until leader") == 0) {
        run_until(w, w->now + 5000 * MS, true);
    } else if (sscanf(line, "run %llu ms", &v) == 1) {
        run_until(w, w->now + v * MS, false);
    } else if (sscanf(line, "write n%u %c=%llu", &a, &key, &v) == 3) {
        write_register(w, a, (uint64_t)(key - 'a'), v);
    } else if (sscanf(line, "read n%u %c %39s", &a, &key, how) >= 2) {
        read_register(w, a, (uint64_t)(key - 'a'), how);
    } else if (sscanf(line, "cut n%u n%u", &a, &b) == 2) {
        w->cut[a][b] = 1;
    } else if (sscanf(line, "cut n%u", &a) == 1) {
        for (uint32_t i = 1; i <= w->nodes; i++)
            w->cut[a][i] = w->cut[i][a] = i != a;
    } else if (strcmp(line, "heal") == 0) {
        memset(w->cut, 0, sizeof w->cut);
    } else if (sscanf(line, "crash n%u", &a) == 1) {
        node_crash(w, &w->node[a]);
    } else if (sscanf(line, "wipe n%u", &a) == 1) {
        node_wipe(w, &w->node[a]);
    } else if (sscanf(line, "lose tail n%u", &a) == 1) {
        node_lose_tail(w, &w->node[a]);
    } else if (sscanf(line, "start n%u", &a) == 1) {
        node_start(w, &w->node[a], true);
    } else if (sscanf(line, "pause n%u %llu ms", &a, &v) == 2) {
        w->node[a].paused_until = w->now + v * MS;
    } else if (sscanf(line, "stall n%u %llu ms", &a, &v) == 2) {
        w->node[a].stalled_until = w->now + v * MS;
    } else if (sscanf(line, "transfer n%u n%u", &a, &b) == 2) {
        ask(w, a, (struct vshard_raft_event){ .kind = VSHARD_RAFT_TRANSFER, .node = b },
            "hand-over", 0);
    } else if (sscanf(line, "members n%u %39[^\n]", &a, how) == 2) {
        members(w, a, how);
    } else {
        return false;
    }
    return true;
}

struct script {
    FILE *in, *out; /* out: what a blessed file would be */
    FILE *want;     /* the expected trace of the block */
    char *want_text, *got_text;
    size_t want_bytes, got_bytes;
    struct world *w;
    unsigned line;
};

/* Runs the commands of a block; false at the end of the file. */
static bool commands(struct script *s, const char *path, bool *bad)
{
    char line[LINE], copy[LINE];

    while (fgets(line, sizeof line, s->in) != NULL) {
        s->line++;
        fputs(line, s->out);
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "----") == 0)
            return true;
        if (line[0] == 0 || line[0] == '#')
            continue;
        if (strncmp(line, "cluster", 7) == 0) {
            if (s->w != NULL)
                world_free(s->w);
            s->w = cluster(line);
            s->w->story = open_memstream(&s->got_text, &s->got_bytes);
        }
        strcpy(copy, line);
        if (s->w == NULL || !command(s->w, copy)) {
            printf("%s:%u: what is \"%s\"?\n", path, s->line, line);
            *bad = true;
            return false;
        }
    }
    return false;
}

static void expected(struct script *s)
{
    char line[LINE];

    s->want = open_memstream(&s->want_text, &s->want_bytes);
    while (fgets(line, sizeof line, s->in) != NULL) {
        s->line++;
        if (line[0] == '\n')
            break;
        fputs(line, s->want);
    }
    fclose(s->want);
}

int story_run(const char *path, bool bless)
{
    struct script s = { .in = fopen(path, "r") };
    char *text = NULL;
    size_t bytes = 0, from = 0;
    bool bad = false;

    if (s.in == NULL) {
        printf("%s: cannot be read\n", path);
        return 1;
    }
    s.out = open_memstream(&text, &bytes);
    while (commands(&s, path, &bad)) {
        fflush(s.w->story);
        from = s.w->told;
        expected(&s);
        if (!bless && strcmp(s.want_text, s.got_text + from) != 0) {
            printf("%s:%u: expected\n%s---- but\n%s", path, s.line, s.want_text, s.got_text + from);
            bad = true;
        }
        fputs(s.got_text + from, s.out);
        fputc('\n', s.out);
        s.w->told = s.got_bytes;
        free(s.want_text);
    }
    fclose(s.out);
    fclose(s.in);
    if (s.w != NULL) {
        fclose(s.w->story);
        s.w->story = NULL;
        world_free(s.w);
    }
    free(s.got_text);
    if (bless && !bad) {
        FILE *f = fopen(path, "w");
        fwrite(text, 1, bytes, f);
        fclose(f);
    }
    printf("%s %s\n", bad ? "FAIL" : bless ? "told" : "pass", path);
    free(text);
    return bad;
}
