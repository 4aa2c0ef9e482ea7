/* wal_model.c - what a write-ahead log should hold, kept the slow and simple way. */
#include "support/wal_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/random.h"

struct entry {
    uint64_t term;
    uint32_t bytes;
    uint32_t held;
};

struct group {
    uint64_t vote_term, vote, commit, mark_index, mark_term, first, last;
    uint32_t voted, committed, marked, noted, mark_bytes, note_bytes;
    uint64_t note_term;
    struct entry entries[MODEL_ENTRIES]; /* by index; outside of first..last anything */
};

struct state {
    struct group groups[MODEL_GROUPS];
};

static char why[256];

void model_init(struct model *m)
{
    m->records = malloc(MODEL_RECORDS * sizeof *m->records);
    m->count = 0;
    if (m->records == NULL)
        abort();
}

void model_fini(struct model *m)
{
    free(m->records);
}

/* Half of a payload can be packed and half cannot, so that both are met. */
void model_payload(const struct vshard_wal_record *r, uint32_t bytes, unsigned char *to)
{
    uint64_t seed = r->group * 1000003 + r->index * 10007 + r->term * 101 + r->kind;

    memset(to, (int)(seed & 0x7f), bytes);
    if (seed & 1)
        random_bytes(&seed, to, bytes);
}

int model_append(struct model *m, struct vshard_wal *wal, const struct vshard_wal_record *r,
                 uint64_t *barrier)
{
    static unsigned char bytes[1 << 20];
    struct vshard_wal_record copy = *r;
    uint64_t named = 0;
    int rc;

    if (m->count == MODEL_RECORDS || r->payload_bytes > sizeof bytes)
        abort();
    model_payload(r, r->payload_bytes, bytes);
    copy.head = bytes;
    copy.head_bytes = r->payload_bytes / 3;
    copy.payload = bytes + copy.head_bytes;
    copy.payload_bytes -= copy.head_bytes;
    rc = vshard_wal_append(wal, &copy, 1, &named);
    if (rc == VSHARD_OK) {
        m->records[m->count++] =
            (struct model_record){ r->group, r->index, r->term, named, r->kind, r->payload_bytes };
        if (barrier != NULL)
            *barrier = named;
    }
    return rc;
}

/* Of which nothing is known; entries, which are many, stay as they are. */
static void clear(struct group *g)
{
    memset(g, 0, offsetof(struct group, entries));
    g->first = 1;
}

static void drop_from(struct group *g, uint64_t from)
{
    if (g->last >= g->first && g->last >= from)
        g->last = from > g->first ? from - 1 : g->first - 1;
}

static int held(const struct group *g)
{
    return g->last >= g->first && g->last != 0;
}

static void put_entry(struct group *g, const struct model_record *r)
{
    uint64_t before;

    drop_from(g, r->index);
    before = held(g) ? g->last : g->mark_index;
    if (!held(g) || before + 1 != r->index)
        g->first = r->index;
    g->last = r->index;
    g->entries[r->index] = (struct entry){ r->term, r->bytes, 1 };
}

static void put_mark(struct group *g, const struct model_record *r)
{
    if (held(g) && g->first <= r->index)
        g->first = r->index + 1;
    g->marked = 1;
    g->mark_index = r->index;
    g->mark_term = r->term;
    g->mark_bytes = r->bytes;
    if (g->last < g->first) { /* no entries */
        g->first = 1;
        g->last = 0;
    }
}

static void apply(struct state *s, const struct model_record *r)
{
    struct group *g = &s->groups[r->group];

    switch (r->kind) {
    case VSHARD_WAL_ENTRY: put_entry(g, r); break;
    case VSHARD_WAL_VOTE:
        g->voted = 1;
        g->vote = r->index;
        g->vote_term = r->term;
        break;
    case VSHARD_WAL_COMMIT:
        g->committed = 1;
        g->commit = r->index;
        break;
    case VSHARD_WAL_CUT: drop_from(g, r->index); break;
    case VSHARD_WAL_MARK: put_mark(g, r); break;
    case VSHARD_WAL_NOTE:
        g->noted = 1;
        g->note_bytes = r->bytes;
        g->note_term = r->term;
        break;
    case VSHARD_WAL_FORGET: clear(g); break;
    default: abort();
    }
}

static struct state *state_at(const struct model *m, uint64_t barrier)
{
    struct state *s = malloc(sizeof *s);
    uint64_t highest = 0;

    if (s == NULL)
        abort();
    for (size_t g = 0; g < MODEL_GROUPS; g++)
        clear(&s->groups[g]);
    for (size_t i = 0; i < m->count; i++)
        highest = m->records[i].barrier > highest ? m->records[i].barrier : highest;
    for (uint64_t b = 1; b <= highest && b <= barrier; b++) {
        for (size_t i = 0; i < m->count; i++) {
            if (m->records[i].barrier == b)
                apply(s, &m->records[i]);
        }
    }
    return s;
}

static const char *say(uint64_t group, const char *what, uint64_t got, uint64_t want)
{
    snprintf(why, sizeof why, "group %" PRIu64 ": %s is %" PRIu64 ", should be %" PRIu64, group,
             what, got, want);
    return why;
}

struct reading {
    const struct state *state;
    uint64_t next[MODEL_GROUPS];
    const char *wrong;
};

static int check_entry(void *ctx, const struct vshard_wal_record *r,
                       const struct vshard_wal_place *place)
{
    static unsigned char want[1 << 20];
    struct reading *reading = ctx;
    const struct group *g;
    const struct entry *e;

    (void)place;
    if (r->group >= MODEL_GROUPS || r->kind != VSHARD_WAL_ENTRY) {
        reading->wrong = say(r->group, "an alien record's kind", r->kind, VSHARD_WAL_ENTRY);
        return 1;
    }
    g = &reading->state->groups[r->group];
    if (r->index != reading->next[r->group] || r->index > g->last) {
        reading->wrong = say(r->group, "an entry's index", r->index, reading->next[r->group]);
        return 1;
    }
    e = &g->entries[r->index];
    if (r->term != e->term || r->payload_bytes != e->bytes) {
        reading->wrong = say(r->group, "an entry's term or length", r->term, e->term);
        return 1;
    }
    model_payload(r, e->bytes, want);
    if (e->bytes > 0 && memcmp(want, r->payload, e->bytes) != 0) {
        reading->wrong = say(r->group, "the payload of", r->index, r->index);
        return 1;
    }
    reading->next[r->group]++;
    return 0;
}

static const char *check_blob(uint64_t id, const struct model_record *r, const void *got)
{
    static unsigned char want[1 << 20];
    const struct vshard_wal_record record = {
        .group = r->group, .index = r->index, .term = r->term, .kind = r->kind
    };

    model_payload(&record, r->bytes, want);
    return r->bytes > 0 && memcmp(want, got, r->bytes) != 0 ? say(id, "a blob", 0, r->kind) : NULL;
}

/* The last mark or note of a group up to a barrier, as it was appended. */
static const struct model_record *last_of(const struct model *m, uint64_t group, uint32_t kind,
                                          uint64_t barrier)
{
    const struct model_record *found = NULL;

    for (size_t i = 0; i < m->count; i++) {
        if (m->records[i].group == group && m->records[i].kind == kind &&
            m->records[i].barrier <= barrier)
            found = &m->records[i];
    }
    return found;
}

static const char *check_group(const struct model *m, struct vshard_wal *wal, uint64_t id,
                               const struct group *g, uint64_t barrier)
{
    struct vshard_wal_group about = { .size = sizeof about };
    const int any = held(g) || g->voted || g->committed || g->marked || g->noted;
    int rc = vshard_wal_find(wal, id, &about);
    uint64_t last = held(g) ? g->last : g->mark_index, first = held(g) ? g->first : last + 1;
    uint64_t last_term = held(g) ? g->entries[g->last].term : g->mark_term;
    const char *wrong = NULL;

    if (!any)
        return rc == VSHARD_ENOTFOUND ? NULL : say(id, "find", (uint64_t)-rc, 9);
    if (rc != VSHARD_OK)
        return say(id, "find", (uint64_t)-rc, 0);
    if (about.voted != g->voted)
        return say(id, "voted", about.voted, g->voted);
    if (about.vote != g->vote || about.vote_term != g->vote_term)
        return say(id, "the vote's term", about.vote_term, g->vote_term);
    if (about.commit != g->commit)
        return say(id, "commit", about.commit, g->commit);
    if (about.mark_index != g->mark_index || about.mark_term != g->mark_term)
        return say(id, "the mark", about.mark_index, g->mark_index);
    if (about.first != first)
        return say(id, "first", about.first, first);
    if (about.last != last)
        return say(id, "last", about.last, last);
    if (about.last_term != last_term)
        return say(id, "the last term", about.last_term, last_term);
    if (about.mark_bytes != g->mark_bytes || about.note_bytes != g->note_bytes)
        return say(id, "a blob's length", about.note_bytes, g->note_bytes);
    if (g->marked)
        wrong = check_blob(id, last_of(m, id, VSHARD_WAL_MARK, barrier), about.mark);
    if (g->noted && wrong == NULL)
        wrong = check_blob(id, last_of(m, id, VSHARD_WAL_NOTE, barrier), about.note);
    return wrong;
}

static const char *check_entries(const struct state *s, struct vshard_wal *wal)
{
    struct reading by_group = { .state = s }, in_order = { .state = s };
    const struct vshard_wal_visitor one = { check_entry, &by_group },
                                    all = { check_entry, &in_order };

    for (uint64_t id = 0; id < MODEL_GROUPS; id++) {
        const struct group *g = &s->groups[id];

        by_group.next[id] = in_order.next[id] = g->first;
        if (held(g) && vshard_wal_read(wal, id, g->first, &one) != VSHARD_OK)
            return say(id, "read fails; first", g->first, g->first);
        if (by_group.wrong != NULL)
            return by_group.wrong;
        if (held(g) && by_group.next[id] != g->last + 1)
            return say(id, "the end of read", by_group.next[id], g->last + 1);
    }
    if (vshard_wal_replay(wal, &all) != VSHARD_OK)
        return "replay fails";
    if (in_order.wrong != NULL)
        return in_order.wrong;
    for (uint64_t id = 0; id < MODEL_GROUPS; id++) {
        if (held(&s->groups[id]) && in_order.next[id] != s->groups[id].last + 1)
            return say(id, "the end of replay", in_order.next[id], s->groups[id].last + 1);
    }
    return NULL;
}

const char *model_differs(const struct model *m, struct vshard_wal *wal, uint64_t barrier)
{
    struct state *s = state_at(m, barrier);
    const char *wrong = NULL;

    for (uint64_t id = 0; id < MODEL_GROUPS && wrong == NULL; id++)
        wrong = check_group(m, wal, id, &s->groups[id], barrier);
    if (wrong == NULL)
        wrong = check_entries(s, wal);
    free(s);
    return wrong;
}
