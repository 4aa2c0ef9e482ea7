/* scripts.c - follows the scripts that etcd's Raft is tested with.
 *
 *     scripts <directory of etcd/raft> [<oracle>] [-v]
 *
 * quorum       commit indexes and votes, by vs_config_reached() and vs_config_tally();
 *              and what etcd's own harness asks besides: the halves may be exchanged,
 *              and an empty half or the same half twice changes nothing
 * confchange   the algebra of configurations, by vs_config_change(), _join(), _leave()
 * interaction  cores that campaign, replicate, change members, send snapshots
 *
 * The scripts are read where the package lies; none is copied here. The first two
 * name what they expect. The third shows a log of messages, of which ours have
 * another shape; so etcd's code runs it too (oracle.go, which also sees to it that
 * the output is the script's), and after every directive each replica must stand
 * where etcd's does: term, vote, commit, applied, role, leader, the configuration
 * applied, and every entry with its term, kind and bytes; after `status` also what
 * the leader knows of each member. DIFFERENCES.md says what is translated, and why
 * which directives differ. */
#include "cluster.h"

#include <ctype.h>
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT = 8192, FILES = 64, IDS = 16 };
enum { QUORUM = 127, CONFCHANGE = 58, INTERACTION = 85 }; /* directives that must agree */

static int verbose;

/* ---- scripts ---- */

struct directive {
    char *line, *input, *expected;
    unsigned at;
};

struct script {
    char *text;
    char *next;
    unsigned line;
};

static char *get_line(struct script *s)
{
    char *line = s->next, *end;

    if (*line == 0)
        return NULL;
    end = strchr(line, '\n');
    s->next = end ? end + 1 : line + strlen(line);
    if (end)
        *end = 0;
    s->line++;
    return line;
}

static void append(char *to, const char *line)
{
    if (strlen(to) + strlen(line) + 2 > TEXT) {
        fprintf(stderr, "etcd: a directive is too long\n");
        exit(1);
    }
    strcat(strcat(to, line), "\n");
}

/* The next directive: a line, its input, dashes, and what is expected, to a blank line. */
static int get_directive(struct script *s, struct directive *d)
{
    static char input[TEXT], expected[TEXT];
    char *line;

    input[0] = expected[0] = 0;
    while ((line = get_line(s)) != NULL && (line[0] == 0 || line[0] == '#'))
        ;
    if (line == NULL)
        return 0;
    *d = (struct directive){ line, input, expected, s->line };
    while ((line = get_line(s)) != NULL && strcmp(line, "----") != 0)
        append(input, line);
    while ((line = get_line(s)) != NULL && line[0] != 0)
        append(expected, line);
    return 1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Runs every script of a directory, in the order of names. */
static void each_script(const char *root, const char *under,
                        void (*run)(const char *name, struct script *s))
{
    char path[1024], *name[FILES];
    size_t count = 0;
    DIR *dir;
    struct dirent *entry;

    snprintf(path, sizeof path, "%s/%s", root, under);
    dir = opendir(path);
    if (dir == NULL) {
        fprintf(stderr, "etcd: %s: not there\n", path);
        exit(1);
    }
    while ((entry = readdir(dir)) != NULL && count < FILES) {
        if (strstr(entry->d_name, ".txt") != NULL)
            name[count++] = strdup(entry->d_name);
    }
    closedir(dir);
    qsort(name, count, sizeof *name, by_name);
    for (size_t i = 0; i < count; i++) {
        struct script s = { NULL, NULL, 0 };
        FILE *f;
        long bytes;

        snprintf(path, sizeof path, "%s/%s/%s", root, under, name[i]);
        f = fopen(path, "r");
        if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (bytes = ftell(f)) < 0)
            exit(1);
        rewind(f);
        s.text = s.next = calloc(1, (size_t)bytes + 1);
        if (fread(s.text, 1, (size_t)bytes, f) != (size_t)bytes)
            exit(1);
        fclose(f);
        run(name[i], &s);
        free(s.text);
        free(name[i]);
    }
}

/* The value of key=, without parentheses, spaces as they are; NULL if it is not there. */
static const char *argument(const char *line, const char *key, char *to, size_t cap)
{
    size_t n = strlen(key), used = 0;

    for (const char *p = strchr(line, ' '); p != NULL; p = strchr(p, ' ')) {
        int inside = 0;

        p++;
        if (strncmp(p, key, n) != 0 || p[n] != '=')
            continue;
        for (p += n + 1; *p != 0 && (inside || *p != ' ') && used + 1 < cap; p++) {
            inside = *p == '(' ? 1 : *p == ')' ? 0 : inside;
            if (*p != '(' && *p != ')' && *p != ' ')
                to[used++] = *p;
        }
        to[used] = 0;
        return to;
    }
    return NULL;
}

static size_t split_ids(const char *text, uint64_t *id)
{
    size_t count = 0;
    char *end;

    for (const char *p = text; p != NULL && *p != 0; p = *end ? end + 1 : end) {
        if (count == IDS)
            exit(1);
        id[count++] = strtoull(p, &end, 10);
        if (end == p)
            return count - 1;
    }
    return count;
}

static const char *last_line(char *text)
{
    size_t n = strlen(text);

    while (n > 0 && text[n - 1] == '\n')
        text[--n] = 0;
    return strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text;
}

struct score {
    const char *suite;
    unsigned passed, all;
};

static void count(struct score *s, const char *file, const struct directive *d, const char *got)
{
    s->all++;
    s->passed += got == NULL;
    if (got != NULL && verbose)
        printf("  %s %s:%u %s: %s\n", s->suite, file, d->at, d->line, got);
}

/* ---- quorum ---- */

static struct score quorum = { "quorum", 0, 0 };

struct ballot {
    struct vs_config c;
    uint64_t index[VSHARD_RAFT_MEMBERS_MAX];
    int vote[VSHARD_RAFT_MEMBERS_MAX];
};

static void enter(struct ballot *b, uint64_t id, uint32_t role)
{
    int at = vs_config_node(&b->c, id);

    if (at < 0)
        b->c.member[at = (int)b->c.count++] = (struct vshard_raft_member){ id, 1, 0, 0 };
    b->c.member[at].role |= role;
}

static uint64_t exchanged(const struct ballot *b, int votes)
{
    struct ballot x = *b;

    for (uint32_t i = 0; i < x.c.count; i++) {
        uint32_t role = x.c.member[i].role;
        x.c.member[i].role = (role & VSHARD_RAFT_VOTER ? VSHARD_RAFT_OUTGOING : 0) |
                             (role & VSHARD_RAFT_OUTGOING ? VSHARD_RAFT_VOTER : 0);
    }
    return votes ? (uint64_t)(int64_t)vs_config_tally(&x.c, x.vote)
                 : vs_config_reached(&x.c, x.index);
}

static uint64_t doubled(const struct ballot *b)
{
    struct ballot x = *b;

    for (uint32_t i = 0; i < x.c.count; i++)
        x.c.member[i].role = VSHARD_RAFT_VOTER | VSHARD_RAFT_OUTGOING;
    return vs_config_reached(&x.c, x.index);
}

static const char *run_quorum(const struct directive *d)
{
    static char got[64];
    char text[512], *p, *save = NULL;
    struct ballot b = { 0 };
    uint64_t id[IDS];
    size_t n = 0;
    int votes = strncmp(d->line, "vote", 4) == 0, joint;

    if (argument(d->line, "cfg", text, sizeof text)) {
        n = split_ids(text, id);
        for (size_t i = 0; i < n; i++)
            enter(&b, id[i], VSHARD_RAFT_VOTER);
    }
    joint = argument(d->line, "cfgj", text, sizeof text) != NULL;
    if (joint) {
        n = strcmp(text, "zero") == 0 ? 0 : split_ids(text, id);
        for (size_t i = 0; i < n; i++)
            enter(&b, id[i], VSHARD_RAFT_OUTGOING);
    }
    n = 0;
    if (argument(d->line, votes ? "votes" : "idx", text, sizeof text)) {
        for (p = strtok_r(text, ",", &save); p != NULL; p = strtok_r(NULL, ",", &save), n++) {
            b.vote[n] = *p == 'y' ? 1 : *p == 'n' ? -1 : 0;
            b.index[n] = strtoull(p, NULL, 10);
        }
    }
    if (n != b.c.count)
        return "the script is not understood";
    if (votes) {
        int won = vs_config_tally(&b.c, b.vote);
        snprintf(got, sizeof got, "Vote%s", won > 0 ? "Won" : won < 0 ? "Lost" : "Pending");
        if (joint && (int)(int64_t)exchanged(&b, 1) != won)
            return "exchanging the halves makes a difference";
    } else {
        uint64_t reached = vs_config_reached(&b.c, b.index);
        if (reached == UINT64_MAX)
            strcpy(got, "<empty majority quorum>\u221e");
        else
            snprintf(got, sizeof got, "%llu", (unsigned long long)reached);
        if ((joint && exchanged(&b, 0) != reached) || (!joint && doubled(&b) != reached))
            return "the same quorum, put otherwise, makes a difference";
    }
    return strcmp(got, last_line(d->expected)) == 0 ? NULL : got;
}

static void quorum_script(const char *name, struct script *s)
{
    struct directive d;

    while (get_directive(s, &d))
        count(&quorum, name, &d, run_quorum(&d));
}

/* ---- confchange ---- */

static struct score confchange = { "confchange", 0, 0 };

static void erase(struct vs_config *c, uint64_t id)
{
    int at = vs_config_node(c, id);

    if (at < 0)
        return;
    c->count--;
    memmove(c->member + at, c->member + at + 1, (c->count - (uint32_t)at) * sizeof *c->member);
}

/* etcd's operations, "v1 l2 r3 u4", made into the list of members that our core is
 * asked for. A node of id 0 is etcd's way to say "never mind". */
static void operate(struct vs_config *c, const char *ops)
{
    for (const char *p = ops; *p != 0; p++) {
        uint64_t id;
        int at;

        if (strchr("vlru", *p) == NULL || !isdigit((unsigned char)p[1]))
            continue;
        id = strtoull(p + 1, NULL, 10);
        if (id == 0 || *p == 'u')
            continue;
        at = vs_config_node(c, id);
        if (*p == 'r') {
            erase(c, id);
            continue;
        }
        if (at < 0)
            c->member[at = (int)c->count++] = (struct vshard_raft_member){ id, 1, 0, 0 };
        c->member[at].role = *p == 'v' ? VSHARD_RAFT_VOTER : VSHARD_RAFT_LEARNER;
    }
}

static char *list(char *to, const struct vs_config *c, uint32_t role, uint32_t without,
                  const char *between)
{
    const char *sep = "";

    *to = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t has = c->member[i].role;
        if ((has & role) != role || (has & without) != 0)
            continue;
        sprintf(to + strlen(to), "%s%llu", sep, (unsigned long long)c->member[i].node);
        sep = between;
    }
    return to;
}

/* As etcd writes it: voters=(1 2)&&(1) learners=(3) learners_next=(4), then a line a member. */
static void describe(const struct vs_config *c, char *to)
{
    char part[256];

    sprintf(to, "voters=(%s)", list(part, c, VSHARD_RAFT_VOTER, 0, " "));
    if (vs_config_joint(c))
        sprintf(to + strlen(to), "&&(%s)", list(part, c, VSHARD_RAFT_OUTGOING, 0, " "));
    if (*list(part, c, VSHARD_RAFT_LEARNER, VSHARD_RAFT_OUTGOING, " "))
        sprintf(to + strlen(to), " learners=(%s)", part);
    if (*list(part, c, VSHARD_RAFT_LEARNER | VSHARD_RAFT_OUTGOING, 0, " "))
        sprintf(to + strlen(to), " learners_next=(%s)", part);
    strcat(to, "\n");
    for (uint32_t i = 0; i < c->count; i++)
        sprintf(to + strlen(to), "%llu:%s\n", (unsigned long long)c->member[i].node,
                c->member[i].role == VSHARD_RAFT_LEARNER ? " learner" : "");
}

/* Cuts out `what` and the number behind it. */
static void drop(char *text, const char *what)
{
    char *p, *q;

    while ((p = strstr(text, what)) != NULL) {
        for (q = p + strlen(what); isdigit((unsigned char)*q); q++)
            ;
        memmove(p, q, strlen(q) + 1);
    }
}

static int change(struct vs_config *now, const struct directive *d)
{
    struct vs_config want = *now, to;
    int rc;

    operate(&want, d->input);
    if (strncmp(d->line, "leave-joint", 11) == 0) {
        if (!vs_config_joint(now))
            return VSHARD_EEXIST;
        vs_config_leave(now, &to);
        *now = to;
        return VSHARD_OK;
    }
    if (vs_config_joint(now))
        return VSHARD_EBUSY; /* as a leader answers, see vs_configure() */
    rc = vs_config_change(strncmp(d->line, "simple", 6) == 0 ? now : NULL, want.member, want.count,
                          &to);
    if (rc == VSHARD_OK && strncmp(d->line, "enter-joint", 11) == 0)
        rc = vs_config_join(now, &to);
    if (rc == VSHARD_OK && strncmp(d->line, "simple", 6) == 0 && vs_config_joint(&to))
        return VSHARD_E2BIG;
    if (rc == VSHARD_OK)
        *now = to;
    return rc == VSHARD_EEXIST ? VSHARD_OK : rc;
}

static const char *run_confchange(struct vs_config *now, const struct directive *d)
{
    static char got[TEXT];
    int simple = strncmp(d->line, "simple", 6) == 0, voterless = now->count == 0;
    int rc = change(now, d);

    switch (rc) {
    case VSHARD_OK: describe(now, got); break;
    case VSHARD_EEXIST: strcpy(got, "can't leave a non-joint config\n"); break;
    case VSHARD_EBUSY:
        strcpy(got, simple ? "can't apply simple config change in joint config\n"
                           : "config is already joint\n");
        break;
    case VSHARD_E2BIG:
        strcpy(got, "more than one voter changed without entering joint config\n");
        break;
    default:
        strcpy(got, !simple && voterless ? "can't make a zero-voter config joint\n"
                                         : "removed all voters\n");
    }
    drop(d->expected, " autoleave");
    drop(d->expected, " StateProbe match=0 next=");
    return strcmp(got, d->expected) == 0 ? NULL : got;
}

static void confchange_script(const char *name, struct script *s)
{
    struct vs_config now = { 0 };
    struct directive d;

    while (get_directive(s, &d))
        count(&confchange, name, &d, run_confchange(&now, &d));
}

/* ---- interaction ---- */

static struct score interaction = { "interaction", 0, 0 };
static FILE *oracle;
static struct cluster desk;
static uint64_t first_index; /* of the snapshot that all begin with */
static int refused;

static uint64_t etcd_term(uint64_t index, uint64_t term)
{
    /* Its replicas begin in term 0 behind a snapshot of term 1, ours in term 1. */
    return index != 0 && index <= first_index ? 1 : term != 0 ? term - 1 : 0;
}

static void add_nodes(const struct directive *d)
{
    struct vshard_raft_member m[IDS];
    char text[128];
    uint64_t id[IDS];
    uint32_t members = 0;
    int nodes = 0;

    sscanf(d->line, "add-nodes %d", &nodes);
    for (int learners = 0; learners < 2; learners++) {
        size_t n = argument(d->line, learners ? "learners" : "voters", text, sizeof text)
                       ? split_ids(text, id)
                       : 0;
        for (size_t i = 0; i < n; i++)
            m[members++] = (struct vshard_raft_member){
                id[i], 1, learners ? VSHARD_RAFT_LEARNER : VSHARD_RAFT_VOTER, 0
            };
    }
    if (argument(d->line, "index", text, sizeof text))
        first_index = strtoull(text, NULL, 10);
    for (int i = 0; i < nodes; i++) {
        uint64_t node = desk.count + 1;
        replica_start(&desk, node, m, members, members ? first_index : 0);
        desk.node[node].snapshots = 1;
    }
}

static void stabilize(const char *line)
{
    uint64_t id[IDS];
    size_t n = split_ids(strchr(line, ' ') ? strchr(line, ' ') + 1 : "", id);
    int busy = 1;

    if (strchr(line, ' ') != NULL) { /* "1 2": by spaces */
        n = 0;
        for (const char *p = strchr(line, ' '); p != NULL; p = strchr(p + 1, ' '))
            id[n++] = strtoull(p + 1, NULL, 10);
    } else {
        for (n = 0; n < desk.count; n++)
            id[n] = n + 1;
    }
    while (busy) {
        busy = 0;
        for (size_t i = 0; i < n; i++) {
            if (!replica_has_ready(&desk.node[id[i]]))
                continue;
            replica_ready(&desk, &desk.node[id[i]]);
            busy = 1;
        }
        for (size_t i = 0; i < n; i++)
            busy |= cluster_deliver(&desk, id[i], 1) != 0;
    }
}

static void propose(struct replica *n, const char *text)
{
    struct vshard_raft_entry x = { .kind = VSHARD_RAFT_DATA, .data = text, .count = strlen(text) };

    n->answer = VSHARD_OK;
    replica_step(
        &desk, n,
        (struct vshard_raft_event){ .kind = VSHARD_RAFT_PROPOSE, .entries = &x, .entry_count = 1 });
    refused = n->answer != VSHARD_OK;
}

static int asks_for_nothing(const struct directive *d)
{
    return d->input[strspn(d->input, " \n")] == 0;
}

/* A change that is refused leaves an empty entry in etcd's log. */
static void propose_change(struct replica *n, const struct directive *d)
{
    struct vs_config want = *replica_config(n), now = want, to;
    char how[32] = "";

    argument(d->line, "transition", how, sizeof how);
    n->answer = VSHARD_OK;
    operate(&want, d->input);
    if (asks_for_nothing(d) && vs_config_joint(&now)) {
        n->answer = replica_leave_joint(&desk, n);
    } else if (strcmp(how, "implicit") == 0 || strcmp(how, "explicit") == 0) {
        if (vs_config_change(NULL, want.member, want.count, &to) != VSHARD_OK ||
            vs_config_join(&now, &to) != VSHARD_OK)
            exit(1);
        n->stays_joint = strcmp(how, "explicit") == 0;
        replica_append_config(&desk, n, &to);
    } else {
        n->stays_joint = 0;
        replica_step(&desk, n,
                     (struct vshard_raft_event){ .kind = VSHARD_RAFT_CONFIGURE,
                                                 .members = want.member,
                                                 .member_count = want.count });
    }
    refused = n->answer != VSHARD_OK;
    if (refused) {
        propose(n, "");
        refused = 1;
    }
}

static void compact(struct replica *n, uint64_t index)
{
    if (replica_step(&desk, n,
                     (struct vshard_raft_event){ .kind = VSHARD_RAFT_COMPACT,
                                                 .index = index,
                                                 .offset = n->g->snapshot_index }) != VSHARD_OK)
        exit(1);
}

static void command(const struct directive *d)
{
    char text[128];
    unsigned long long a = 0, b = 0;
    struct replica *n;

    refused = 0;
    sscanf(d->line, "%*s %llu %llu", &a, &b);
    n = &desk.node[a <= NODES ? a : 0];
    if (strncmp(d->line, "add-nodes", 9) == 0)
        add_nodes(d);
    else if (strncmp(d->line, "campaign", 8) == 0)
        replica_campaign(&desk, n);
    else if (strncmp(d->line, "stabilize", 9) == 0)
        stabilize(d->line);
    else if (strncmp(d->line, "process-ready", 13) == 0)
        replica_ready(&desk, n);
    else if (strncmp(d->line, "propose-conf-change", 19) == 0)
        propose_change(n, d);
    else if (sscanf(d->line, "propose %llu %127s", &a, text) == 2)
        propose(n, text);
    else if (argument(d->line, "drop", text, sizeof text))
        cluster_deliver(&desk, strtoull(text, NULL, 10), 0);
    else if (strncmp(d->line, "compact", 7) == 0)
        compact(n, b);
    else if (strncmp(d->line, "tick-heartbeat", 14) == 0)
        replica_beat(&desk, n);
    else if (strncmp(d->line, "log-level", 9) != 0 && strncmp(d->line, "status", 6) != 0) {
        fprintf(stderr, "etcd: what is \"%s\"?\n", d->line);
        exit(1);
    }
}

static void say(char *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(char *to, const char *format, ...)
{
    size_t used = strlen(to);
    va_list args;

    va_start(args, format);
    vsnprintf(to + used, TEXT - used, format, args);
    va_end(args);
}

/* What oracle.go prints of a replica, of ours. */
static void describe_replica(const struct replica *n, char *to)
{
    static const int role[] = { 0, 3, 1, 2 };
    const struct vs_group *g = n->g;
    const struct vs_config *c = replica_config(n);
    char a[64], b[64], l[64], next[64];

    say(to, "node %llu %llu %llu %llu %llu %d %llu %s/%s/%s/%s\n", (unsigned long long)n->id,
        (unsigned long long)etcd_term(0, g->term), (unsigned long long)g->vote,
        (unsigned long long)g->commit, (unsigned long long)g->applied, role[g->role],
        (unsigned long long)g->leader, list(a, c, VSHARD_RAFT_VOTER, 0, ","),
        list(b, c, VSHARD_RAFT_OUTGOING, 0, ","),
        list(l, c, VSHARD_RAFT_LEARNER, VSHARD_RAFT_OUTGOING, ","),
        list(next, c, VSHARD_RAFT_LEARNER | VSHARD_RAFT_OUTGOING, 0, ","));
    for (uint64_t i = g->log.base + 1; i <= g->log.last; i++) {
        const struct vshard_raft_entry *e = vs_log_at(&g->log, i);
        int config = e->kind == VSHARD_RAFT_CONFIG;
        say(to, "entry %llu %llu %c \"%.*s\"\n", (unsigned long long)i,
            (unsigned long long)etcd_term(i, e->term), config ? 'c' : 'n',
            config ? 0 : (int)e->count, (const char *)e->data);
    }
}

static void describe_progress(const struct replica *n, char *to)
{
    static const char *const state[] = { "StateProbe", "StateReplicate", "StateSnapshot" };
    const struct vs_config *c = vs_config_now(n->g);

    for (uint32_t i = 0; i < c->count; i++) {
        const struct vs_peer *p = &n->g->peer[i];
        int self = p->node == n->id;
        say(to, "progress %llu %s %llu\n", (unsigned long long)p->node,
            state[self ? VS_REPLICATE : p->state],
            (unsigned long long)(self ? n->g->durable : p->match));
    }
}

static const char *first_difference(const char *ours, const char *theirs)
{
    static char text[512];

    while (*ours != 0 || *theirs != 0) {
        size_t a = strcspn(ours, "\n"), b = strcspn(theirs, "\n");
        if (a != b || memcmp(ours, theirs, a) != 0) {
            snprintf(text, sizeof text, "ours is \"%.*s\", etcd's \"%.*s\"", (int)a, ours, (int)b,
                     theirs);
            return text;
        }
        ours += a + (ours[a] != 0);
        theirs += b + (theirs[b] != 0);
    }
    return NULL;
}

/* Reads etcd's state after a directive, up to "done"; NULL if it is not that directive's. */
static const char *oracle_state(const struct directive *d)
{
    static char text[TEXT], line[512];
    char verdict[32];
    unsigned at;

    text[0] = 0;
    if (fgets(line, sizeof line, oracle) == NULL || sscanf(line, "do %u %31s", &at, verdict) != 2 ||
        at != d->at || strcmp(verdict, "as-written") != 0)
        return NULL;
    while (fgets(line, sizeof line, oracle) != NULL && strcmp(line, "done\n") != 0)
        append(text, strtok(line, "\n"));
    return text;
}

static void interaction_script(const char *name, struct script *s)
{
    char line[512], expected[512];
    struct directive d;

    snprintf(expected, sizeof expected, "script %s\n", name);
    if (oracle == NULL || fgets(line, sizeof line, oracle) == NULL || strcmp(line, expected) != 0) {
        fprintf(stderr, "etcd: the oracle does not run %s\n", name);
        exit(1);
    }
    first_index = 0;
    while (get_directive(s, &d)) {
        static char ours[TEXT];
        const char *theirs = oracle_state(&d);
        unsigned long long id = 0;

        if (theirs == NULL) {
            fprintf(stderr, "etcd: the oracle does not follow %s:%u\n", name, d.at);
            exit(1);
        }
        command(&d);
        ours[0] = 0;
        if (refused)
            say(ours, "%s\n", strncmp(d.line, "propose ", 8) == 0 ? "dropped" : "ignored");
        for (uint64_t i = 1; i <= desk.count; i++)
            describe_replica(&desk.node[i], ours);
        if (sscanf(d.line, "status %llu", &id) == 1)
            describe_progress(&desk.node[id], ours);
        count(&interaction, name, &d, first_difference(ours, theirs));
    }
    cluster_free(&desk);
}

int main(int argc, char **argv)
{
    char run[1024];

    if (argc < 2) {
        fprintf(stderr, "usage: scripts <etcd/raft> [<oracle>] [-v]\n");
        return 2;
    }
    verbose = strcmp(argv[argc - 1], "-v") == 0;
    argc -= verbose;
    each_script(argv[1], "quorum/testdata", quorum_script);
    each_script(argv[1], "confchange/testdata", confchange_script);
    if (argc > 2) {
        snprintf(run, sizeof run, "'%s' scripts '%s'", argv[2], argv[1]);
        oracle = popen(run, "r");
        each_script(argv[1], "testdata", interaction_script);
        if (oracle == NULL || pclose(oracle) != 0)
            return 1;
    }
    printf("etcd: quorum %u/%u, confchange %u/%u, interaction %u/%u\n", quorum.passed, quorum.all,
           confchange.passed, confchange.all, interaction.passed, interaction.all);
    return quorum.passed < QUORUM || confchange.passed < CONFCHANGE ||
           (argc > 2 && interaction.passed < INTERACTION);
}
