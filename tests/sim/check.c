/* check.c - what must hold after every event.
 *
 * Election safety: a term has one leader. Log matching: an index and a term name
 * one entry and one predecessor. Leader completeness: who becomes leader holds
 * every entry that was ever committed. State-machine safety: what is applied at an
 * index is the same everywhere, and so is the state it leads to. Committed means
 * durable on a quorum: looked up on the disks, at the moment a leader says so.
 * Terms and commit indexes of a process only rise. Nobody is elected while another holds a
 * lease. */
#include "sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "raft/core.h"

void fail(struct world *w, const char *what, ...)
{
    va_list args;

    fflush(stdout);
    printf("FAILED seed %llu at %.3f ms, event %llu: ", (unsigned long long)w->seed,
           (double)w->now / 1e6, (unsigned long long)w->steps);
    va_start(args, what);
    vprintf(what, args);
    va_end(args);
    printf("\nreplay: %s --trace --seed %llu\n", sim_program, (unsigned long long)w->seed);
    fflush(stdout);
    _exit(1);
}

uint64_t fold(uint64_t digest, uint64_t word)
{
    digest = (digest ^ word) * 0x9e3779b97f4a7c15u;
    return digest ^ (digest >> 29);
}

uint64_t entry_hash(const struct vshard_raft_entry *e)
{
    const unsigned char *p = e->data;
    uint64_t h = fold(fold(fold(e->index, e->term), e->kind), fold(e->session, e->sequence));

    for (uint64_t i = 0; i < e->count; i++)
        h = fold(h, p[i]);
    return h;
}

static struct index_record *record_at(struct group_truth *t, uint64_t index)
{
    if (index >= t->record_cap) {
        size_t cap = t->record_cap ? t->record_cap : 256;
        while (cap <= index)
            cap *= 2;
        t->record = realloc(t->record, cap * sizeof *t->record);
        memset(t->record + t->record_cap, 0, (cap - t->record_cap) * sizeof *t->record);
        t->record_cap = cap;
    }
    return &t->record[index];
}

void check_persist(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_effect *e)
{
    struct group_truth *t = &w->truth[g];

    for (uint32_t i = 0; i < e->entry_count; i++) {
        const struct vshard_raft_entry *x = &e->entries[i];
        struct index_record *r = record_at(t, x->index);
        struct variant v = { x->term, entry_hash(x),
                             vshard_raft_term(n->raft, g + 1, x->index - 1) };
        size_t k = 0;

        while (k < r->count && r->variant[k].term != v.term)
            k++;
        if (k < r->count) {
            if (r->variant[k].hash != v.hash)
                fail(w, "log matching: n%u writes another entry %llu of term %llu", n->id,
                     (unsigned long long)x->index, (unsigned long long)x->term);
            if (r->variant[k].before != v.before)
                fail(w, "log matching: n%u has entry %llu of term %llu after another past", n->id,
                     (unsigned long long)x->index, (unsigned long long)x->term);
            continue;
        }
        if (r->count == r->cap) {
            r->cap = r->cap ? r->cap * 2 : 2;
            r->variant = realloc(r->variant, r->cap * sizeof *r->variant);
        }
        r->variant[r->count++] = v;
    }
}

/* ---- sessions, as the core's session.c says that they are remembered ---- */

static struct known *known(struct group_truth *t, uint64_t id)
{
    for (uint32_t i = 0; i < t->known_count; i++) {
        if (t->known[i].id == id)
            return &t->known[i];
    }
    return NULL;
}

static void session_opens(const struct world *w, struct group_truth *t, uint64_t id)
{
    uint32_t oldest = 0;

    for (uint32_t i = 1; i < t->known_count; i++)
        oldest = t->known[i].used < t->known[oldest].used ? i : oldest;
    if (t->known_count == w->max_sessions)
        t->known[oldest] = t->known[--t->known_count];
    t->known[t->known_count++] = (struct known){ .id = id, .used = id };
}

/* The flags that an entry must be applied with. Clients number their writes without gaps. */
static uint32_t session_says(const struct world *w, struct group_truth *t, uint64_t index,
                             const struct truth *x)
{
    struct known *s = known(t, x->session);

    if (x->kind == VSHARD_RAFT_SESSION)
        session_opens(w, t, index);
    if (x->kind != VSHARD_RAFT_DATA || x->session == 0)
        return 0;
    if (s == NULL)
        return VSHARD_RAFT_EXPIRED;
    s->used = index;
    if (x->sequence > s->high) {
        s->high = x->sequence;
        return 0;
    }
    return s->high - x->sequence < 64 ? VSHARD_RAFT_DUPLICATE : VSHARD_RAFT_EXPIRED;
}

bool check_is_lost(const struct world *w, uint32_t g, uint64_t index, uint64_t term)
{
    return g == 0 && index > w->kept && vs_epoch(term) < w->past_epoch;
}

/* What an entry must agree with: the log that there is, or what a promotion has lost of the one
 * before. After they part, no entry is in both. */
static struct group_truth *truth_of(struct world *w, uint32_t g, const struct vshard_raft_entry *e)
{
    struct group_truth *past = &w->past;
    bool old = check_is_lost(w, g, e->index, e->term);

    return old && (e->index > past->count || past->committed[e->index - 1].term == e->term)
               ? past
               : &w->truth[g];
}

void check_apply(struct world *w, struct node *n, uint32_t g, const struct vshard_raft_entry *e,
                 uint64_t term)
{
    struct group_truth *t = truth_of(w, g, e);
    struct machine *m = &n->machine[g];
    struct truth now = { .term = e->term,
                         .hash = entry_hash(e),
                         .state = m->hash,
                         .decided = term,
                         .client = CLIENTS,
                         .session = e->session,
                         .sequence = e->sequence,
                         .kind = e->kind,
                         .flags = e->flags };

    if (e->index != m->applied)
        fail(w, "n%u was handed entry %llu after %llu", n->id, (unsigned long long)e->index,
             (unsigned long long)m->applied - 1);
    if (e->kind == VSHARD_RAFT_DATA && e->count == 24) {
        memcpy(&now.client, e->data, 4);
        memcpy(&now.op, (const char *)e->data + 4, 4);
    }
    if (e->index - 1 < t->count) {
        struct truth *was = &t->committed[e->index - 1];
        was->decided = term < was->decided ? term : was->decided;
        if (was->term != now.term || was->hash != now.hash)
            fail(w,
                 "state-machine safety: n%u applies entry %llu of term %llu, committed was one "
                 "of term %llu",
                 n->id, (unsigned long long)e->index, (unsigned long long)now.term,
                 (unsigned long long)was->term);
        if (was->state != now.state)
            fail(w, "n%u reaches another state at %llu", n->id, (unsigned long long)e->index);
        return;
    }
    if (e->index - 1 != t->count)
        fail(w, "n%u applies %llu before anyone applied %zu", n->id, (unsigned long long)e->index,
             t->count + 1);
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->committed = realloc(t->committed, t->cap * sizeof *t->committed);
    }
    t->committed[t->count++] = now;
    if (t != &w->past && now.flags != session_says(w, t, e->index, &now))
        fail(w, "sessions: n%u applies entry %llu of session %llu with flags %u", n->id,
             (unsigned long long)e->index, (unsigned long long)now.session, now.flags);
}

/* n is promoted with its log as far as `last`: what was committed beyond is lost. */
static void forfeit(struct world *w, const struct node *n, uint64_t last)
{
    struct vshard_raft_status s = { .size = sizeof s };
    struct group_truth *t = &w->truth[0], *past = &w->past;
    uint64_t kept = 0;

    vshard_raft_inspect(n->raft, 1, &s);
    while (
        kept < t->count && kept < last &&
        (kept + 1 < s.first || vshard_raft_term(n->raft, 1, kept + 1) == t->committed[kept].term))
        kept++;
    if (kept == t->count)
        return;
    if (w->past_at != w->fence_at) { /* else a promotion before was lost in a crash */
        free(past->committed);
        *past = (struct group_truth){ .count = t->count, .cap = t->count };
        past->committed = malloc(t->count * sizeof *past->committed);
        memcpy(past->committed, t->committed, t->count * sizeof *past->committed);
        w->past_at = w->fence_at;
    }
    w->past_epoch = s.epoch;
    w->kept = t->count = kept;
    w->forfeits++;
    t->known_count = 0;
    for (uint64_t i = 1; i <= kept; i++)
        session_says(w, t, i, &t->committed[i - 1]);
    t->floor = t->floor < kept ? t->floor : kept;
    while (t->floor_count != 0 && t->floor_index[t->floor_count - 1] > kept)
        t->floor_count--;
    client_forfeit(w, kept);
}

/* Nobody is elected while the leader of an earlier term may still read by its lease. */
static void check_leases(struct world *w, const struct node *n, uint32_t g, uint64_t term)
{
    for (uint32_t i = 1; i <= w->nodes && !w->jumps; i++) {
        struct vshard_raft_status s = { .size = sizeof s };
        const struct node *o = &w->node[i];

        if (o != n && o->alive && !o->poisoned &&
            vshard_raft_inspect(o->raft, g + 1, &s) == VSHARD_OK && s.term < term &&
            s.lease_ns > node_clock(w, o))
            fail(w, "lease: n%u is elected, and n%u may read by its lease for %llu ns", n->id, i,
                 (unsigned long long)((s.lease_ns - node_clock(w, o)) * w->scale));
    }
}

void check_elected(struct world *w, struct node *n, uint32_t g, uint64_t term)
{
    struct group_truth *t = &w->truth[g];
    struct vshard_raft_status s = { .size = sizeof s };

    for (size_t i = t->reign_count; i-- > 0;) {
        if (t->reign[i].term == term &&
            (t->reign[i].node != n->id || t->reign[i].incarnation != n->incarnation))
            fail(w, "election safety: n%u.%llu and n%u.%llu both lead term %llu", t->reign[i].node,
                 (unsigned long long)t->reign[i].incarnation, n->id,
                 (unsigned long long)n->incarnation, (unsigned long long)term);
    }
    if (t->reign_count == t->reign_cap) {
        t->reign_cap = t->reign_cap ? t->reign_cap * 2 : 64;
        t->reign = realloc(t->reign, t->reign_cap * sizeof *t->reign);
    }
    t->reign[t->reign_count++] = (struct reign){ term, n->incarnation, n->id };
    check_leases(w, n, g, term);
    vshard_raft_inspect(n->raft, g + 1, &s);
    if (s.epoch != 0 && (term & VS_TERM_COUNT) == 1)
        forfeit(w, n, s.last - 1); /* by order, with what it has */
    for (uint64_t i = s.first; i <= t->count; i++) {
        if (t->committed[i - 1].decided < term &&
            vshard_raft_term(n->raft, g + 1, i) != t->committed[i - 1].term)
            fail(w, "leader completeness: n%u leads term %llu without committed entry %llu", n->id,
                 (unsigned long long)term, (unsigned long long)i);
    }
}

static bool on_disk(const struct node *n, uint32_t g, uint64_t index, uint64_t term)
{
    const struct disk_group *d = &n->disk[g];

    if (index <= d->snapshot)
        return true;
    return d->count != 0 && index >= d->first && index - d->first < d->count &&
           d->entry[index - d->first].term == term;
}

static void check_committed(struct world *w, struct node *n, uint32_t g, uint64_t index)
{
    struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
    uint64_t term = vshard_raft_term(n->raft, g + 1, index);
    uint32_t count, have[2] = { 0, 0 }, all[2] = { 0, 0 };

    vshard_raft_members(n->raft, g + 1, m, &count);
    for (uint32_t i = 0; i < count; i++) {
        const struct node *o = &w->node[m[i].node];
        /* A copy that has been lost since it was acknowledged is no fault of the leader's. */
        bool has = o->incarnation == m[i].incarnation
                       ? uncertain(w, o) || on_disk(o, g, index, term)
                       : o->id == w->wiped_node;
        for (uint32_t half = 0; half < 2; half++) {
            if (!(m[i].role & (half ? VSHARD_RAFT_OUTGOING : VSHARD_RAFT_VOTER)))
                continue;
            all[half]++;
            have[half] += has;
        }
    }
    for (uint32_t half = 0; half < 2; half++) {
        if (all[half] != 0 && have[half] <= all[half] / 2)
            fail(w, "n%u commits %llu of term %llu, which is on %u of %u disks", n->id,
                 (unsigned long long)index, (unsigned long long)term, have[half], all[half]);
    }
}

void check_node(struct world *w, struct node *n)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        struct vshard_raft_status s = { .size = sizeof s };

        if (vshard_raft_inspect(n->raft, g + 1, &s) != VSHARD_OK)
            continue;
        if (s.term < n->seen_term[g])
            fail(w, "n%u falls back to term %llu", n->id, (unsigned long long)s.term);
        if (s.commit < n->seen_commit[g])
            fail(w, "n%u takes its commit index back to %llu", n->id, (unsigned long long)s.commit);
        if (s.applied > s.commit || s.commit > s.last || s.durable > s.last)
            fail(w, "n%u has applied %llu, commit %llu, durable %llu, last %llu", n->id,
                 (unsigned long long)s.applied, (unsigned long long)s.commit,
                 (unsigned long long)s.durable, (unsigned long long)s.last);
        if (s.role == VSHARD_RAFT_LEADER &&
            (n->seen_role[g] != VSHARD_RAFT_LEADER || n->seen_term[g] != s.term))
            check_elected(w, n, g, s.term);
        if (s.role == VSHARD_RAFT_LEADER && s.commit > n->seen_commit[g] && s.commit >= s.first)
            check_committed(w, n, g, s.commit);
        if (s.stopped && !n->poisoned && s.superseded && w->fence != 0)
            n->parted = 1;
        else if (s.stopped && !n->poisoned)
            fail(w, "n%u stopped group %u", n->id, g + 1);
        n->seen_term[g] = s.term;
        n->seen_commit[g] = s.commit;
        n->seen_role[g] = s.role;
        w->naps += s.asleep && !n->seen_asleep[g];
        if (s.asleep && (s.pending != 0 || s.applied != s.last || s.durable != s.last))
            fail(w, "n%u sleeps with work to do in group %u", n->id, g + 1);
        if (s.asleep != n->seen_asleep[g])
            story_say(w, n, s.asleep ? "falls asleep" : "wakes");
        n->seen_asleep[g] = s.asleep;
    }
}

/* A client has been told that the state reaches `index`; no read that begins later
 * may answer from before it. */
void check_floor(struct world *w, uint32_t g, uint64_t index)
{
    struct group_truth *t = &w->truth[g];

    if (index <= t->floor)
        return;
    t->floor = index;
    if (t->floor_count == t->floor_cap) {
        t->floor_cap = t->floor_cap ? t->floor_cap * 2 : 256;
        t->floor_at = realloc(t->floor_at, t->floor_cap * sizeof *t->floor_at);
        t->floor_index = realloc(t->floor_index, t->floor_cap * sizeof *t->floor_index);
    }
    t->floor_at[t->floor_count] = w->now;
    t->floor_index[t->floor_count++] = index;
}

uint64_t check_floor_at(const struct world *w, uint32_t g, uint64_t at)
{
    const struct group_truth *t = &w->truth[g];

    for (size_t i = t->floor_count; i-- > 0;) {
        if (t->floor_at[i] < at)
            return t->floor_index[i];
    }
    return 0;
}

/* For whoever reads a failure. */
void check_print(struct world *w)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        for (uint32_t i = 1; i <= w->nodes; i++) {
            struct vshard_raft_status s = { .size = sizeof s };
            struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
            uint32_t count;

            if (!w->node[i].alive || vshard_raft_inspect(w->node[i].raft, g + 1, &s) != VSHARD_OK)
                continue;
            printf("group %u n%u.%llu role %u term %llu leader %llu first %llu last %llu/%llu "
                   "durable %llu commit %llu applied %llu pending %llu members",
                   g + 1, i, (unsigned long long)w->node[i].incarnation, s.role,
                   (unsigned long long)s.term, (unsigned long long)s.leader,
                   (unsigned long long)s.first, (unsigned long long)s.last,
                   (unsigned long long)s.last_term, (unsigned long long)s.durable,
                   (unsigned long long)s.commit, (unsigned long long)s.applied,
                   (unsigned long long)s.pending);
            vshard_raft_members(w->node[i].raft, g + 1, m, &count);
            for (uint32_t k = 0; k < count; k++)
                printf(" %llu.%llu:%u", (unsigned long long)m[k].node,
                       (unsigned long long)m[k].incarnation, m[k].role);
            printf("\n");
        }
    }
}

/* All members alive have applied all that is committed, under one leader. */
bool check_settled(struct world *w)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        struct vshard_raft_member m[VSHARD_RAFT_MEMBERS_MAX];
        struct vshard_raft_status lead = { .size = sizeof lead };
        const struct node *leader = NULL;
        uint32_t count;

        for (uint32_t i = 1; i <= w->nodes; i++) {
            struct vshard_raft_status s = { .size = sizeof s };
            vshard_raft_inspect(w->node[i].raft, g + 1, &s);
            if (s.role == VSHARD_RAFT_LEADER && (leader == NULL || s.term > lead.term)) {
                leader = &w->node[i];
                lead = s;
            }
        }
        if (leader == NULL || lead.commit != lead.last || lead.applied != lead.last)
            return false;
        vshard_raft_members(leader->raft, g + 1, m, &count);
        for (uint32_t i = 0; i < count; i++) {
            struct vshard_raft_status s = { .size = sizeof s };
            const struct node *n = &w->node[m[i].node];

            if (m[i].role & VSHARD_RAFT_OUTGOING)
                return false;
            if (n->incarnation != m[i].incarnation || n->disk[g].uncertain)
                return false; /* taken back soon, by whoever administers the cluster */
            vshard_raft_inspect(n->raft, g + 1, &s);
            if (s.applied != lead.applied || s.term != lead.term)
                return false;
        }
    }
    return true;
}

void check_converged(struct world *w)
{
    for (uint32_t g = 0; g < w->groups; g++) {
        const struct group_truth *t = &w->truth[g];
        for (uint32_t i = 1; i <= w->nodes; i++) {
            const struct machine *m = &w->node[i].machine[g];
            if (m->applied != 0 && m->applied <= t->count &&
                m->hash != t->committed[m->applied - 1].state)
                fail(w, "n%u ends in another state at %llu", i, (unsigned long long)m->applied);
        }
        if (t->floor > t->count)
            fail(w, "a client was told of %llu, the log ends at %zu", (unsigned long long)t->floor,
                 t->count);
    }
}
