/* view.c - the cluster as it lives: on a terminal a table that is drawn over itself, and
 * elsewhere a line a second. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../demo/screen.h"
#include "story.h"

enum { REDRAW_MS = 100, LINE_MS = 1000 };

static struct {
    int terminal, lines;
    uint64_t shown_ns, reads, writes;
} view;

void view_begin(void)
{
    view.terminal = isatty(STDOUT_FILENO);
    view.shown_ns = nodes_now();
    view.reads = view.writes = 0;
}

static void up(void)
{
    if (view.lines > 0)
        printf("\033[%dA", view.lines);
    view.lines = 0;
}

/* One shard: who leads it, and how far each replica is behind. */
static void show_shard(struct story *s, uint32_t shard)
{
    struct vshard_shard_status most = { 0 }, at[NODES_MAX + 1];
    struct vshard_shard_status all[SHARDS_MAX];
    size_t count;

    memset(at, 0, sizeof at);
    for (uint32_t i = 1; i <= s->plan.nodes; i++) {
        struct vshard_node *node = nodes_at(s->nodes, i);

        if (node == NULL || vshard_node_shards(node, "words", all, SHARDS_MAX, &count) != VSHARD_OK)
            continue;
        at[i] = all[shard];
        if (at[i].term >= most.term && at[i].here)
            most.leader = at[i].leader;
        most.term = at[i].term > most.term ? at[i].term : most.term;
        most.committed = at[i].committed > most.committed ? at[i].committed : most.committed;
        most.member_count = at[i].member_count;
        memcpy(most.members, at[i].members, sizeof most.members);
    }
    printf("  shard %u ", shard);
    for (uint32_t k = 0; k < most.member_count; k++) {
        uint32_t id = (uint32_t)most.members[k];
        uint64_t behind = most.committed - at[id].applied;

        if (nodes_at(s->nodes, id) == NULL)
            printf(" %snode %u  down    %s", dim_on(), id, plain_on());
        else
            printf(" %snode %u%s %s%6llu ", most.leader == id ? strong_on() : "", id, plain_on(),
                   most.leader == id ? "*" : " ", (unsigned long long)behind);
    }
    printf("\033[K\n");
    view.lines++;
}

static void show_plain(const char *phase, uint64_t done, uint64_t total, double reads,
                       double writes)
{
    printf("%-9s%3.0f %%; %.0f searches and %.0f writes a second\n", phase,
           total != 0 ? 100.0 * (double)done / (double)total : 100.0, reads, writes);
    fflush(stdout);
}

void view_show(struct story *s, const char *phase, uint64_t done, uint64_t total)
{
    uint64_t now = nodes_now(), since = now - view.shown_ns;
    double reads = (double)(s->reads - view.reads) * 1e9 / (double)since;
    double writes = (double)(s->writes - view.writes) * 1e9 / (double)since;

    if (since < (view.terminal ? REDRAW_MS : LINE_MS) * (uint64_t)1000000)
        return;
    view.shown_ns = now;
    view.reads = s->reads;
    view.writes = s->writes;
    if (!view.terminal) {
        show_plain(phase, done, total, reads, writes);
        return;
    }
    up();
    printf("%s%-9s%s%3.0f %%, %.0f searches/s, %.0f writes/s; * leads, and entries behind\033[K\n",
           strong_on(), phase, plain_on(), total ? 100.0 * (double)done / (double)total : 100.0,
           reads, writes);
    view.lines++;
    for (uint32_t i = 0; i < s->plan.shards; i++)
        show_shard(s, i);
    fflush(stdout);
}

void view_end(void)
{
    int lines = view.lines;

    if (!view.terminal)
        return;
    up();
    for (int i = 0; i < lines; i++)
        printf("\033[K\n");
    view.lines = lines;
    up();
    fflush(stdout);
}
