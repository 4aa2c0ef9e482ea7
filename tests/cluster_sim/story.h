/* story.h - what the files of stories share: story.c runs scripts and what they do to nodes,
 * ask.c what they ask of them, harm.c what is done to them and ought not to be. */
#ifndef CLUSTER_STORY_H
#define CLUSTER_STORY_H

#include <stdio.h>

#include "sim.h"

enum { STORY_WAIT_MS = 20000 };

#define MS CLUSTER_MS

struct story {
    struct cluster *c;
    struct vshard_logger logger;
    char collection[VSHARD_NAME_MAX + 1]; /* that is asked */
    uint64_t next_tag;
    uint64_t asked, asked_at; /* a tag and a node: what is under way */
    struct vshard_position session[CLUSTER_POSITIONS];
    uint32_t session_count;
    char *got; /* the trace of a block */
    size_t got_bytes;
    FILE *told;
};

void story_say(struct story *s, const char *format, ...);
/* A tag that nothing has. */
uint64_t story_tag(struct story *s);
/* What came of it: of the call, or of the request. */
struct cluster_answer *story_answer(struct story *s, int rc, uint64_t asked, int *status);
/* The number behind a word such as "nodes=", or what is usual. */
uint64_t story_option(const char *line, const char *name, uint64_t usual);

/* Does what the line asks; false if it asks nothing. */
bool story_ask(struct story *s, const char *line);
bool story_harm(struct story *s, const char *line);

/* The index computes by instructions of these sets alone, as far as they are there. */
void story_machine(struct vshard_index *index, uint32_t cpu);

#endif
