/* schedule.c - one schedule: clients write and read, machines fail, and everything that was
 * answered is judged.
 *
 * Clients write few keys, one op on a key at a time, with values that tell the salt, so that
 * what is read can be told from everything else that was ever written. Reads ask for all
 * kinds of consistency, and some searches for some salts alone. Three of four collections are
 * graphs, of too few rows not to be exact: their entries are staged. Faults: power cuts, restarts,
 * cuts of the network, pauses, lost and repeated messages, a disk that is lost and a node that
 * joins in its place. In some, nodes of this version are restarted with the next one, some of them
 * back again, and at last all: no node may meet what its version does not know. In some the host
 * keeps the map, in a store that is away at times. At the end all is
 * healed, and every key is read and searched for once more. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/node.h"
#include "support/random.h"

enum { STEP_MS = 30, SALTS = 1000000, WORDS = 3 };

static const struct vshard_attribute attributes[] = {
    { VSHARD_ATTRIBUTE_INT64, "salt" },
    { VSHARD_ATTRIBUTE_KEYWORD, "word" }, /* a letter: salt % WORDS */
};

#define MS CLUSTER_MS

/* A read under way. */
struct reading {
    uint64_t tag; /* 0: free */
    struct judge judge;
    uint32_t kind, key; /* VSHARD_NODE_SEARCH or FETCH */
    uint32_t consistency;
    uint64_t at; /* the node asked */
    float query[DIM];
    uint32_t filter; /* of a search: FILTER_* */
    char word[1];
    int64_t between[2];
};

enum { FILTER_NONE = 0, FILTER_SALT = 1, FILTER_WORD = 2, FILTER_OTHER_WORD = 3, FILTERS = 4 };

struct schedule {
    uint64_t seed, random;
    struct cluster *c;
    struct model model;
    struct reading reading[READS];
    struct vshard_position session[CLIENTS][CLUSTER_POSITIONS];
    uint32_t session_count[CLIENTS];
    struct result *sum;
    uint64_t next_tag;
    uint64_t writing[CLIENTS]; /* tags; 0: none */
    uint64_t writing_at[CLIENTS];
    uint32_t wiped;
    uint64_t spare; /* a node that is not there yet; 0: it has joined */
    uint64_t gone;  /* a node that was told to leave */
    bool upgrades;  /* nodes are upgraded, one after the other */
    bool failed, loud;
};

static uint64_t chance(struct schedule *s, uint64_t below)
{
    return random_below(&s->random, below);
}

static void wrong(struct schedule *s, const char *what, uint32_t key, uint64_t detail)
{
    if (!s->failed)
        printf("cluster-sim: seed %llu: %s: key %u, %llu, at %llu ms\n",
               (unsigned long long)s->seed, what, key, (unsigned long long)detail,
               (unsigned long long)(s->c->now / MS));
    s->failed = true;
}

static uint64_t tag(struct schedule *s)
{
    return s->next_tag = s->next_tag % 3000 + 1;
}

static uint64_t some_node(struct schedule *s)
{
    uint64_t id = 1 + chance(s, s->c->count);

    return s->c->node[id].node != NULL && id != s->gone ? id : 0;
}

/* ---- writing ---- */

static char word_of(uint64_t salt)
{
    return (char)('a' + salt % WORDS);
}

static void write_some(struct schedule *s, uint32_t client)
{
    uint64_t at = some_node(s);
    struct vshard_key keys[4];
    int64_t salts[4];
    char words[4][1];
    float vectors[4 * DIM];
    const struct vshard_values values[] = { { salts, 0 }, { words, 1 } };
    struct vshard_node_write w = { .size = sizeof w,
                                   .flags = chance(s, 4) == 0 ? VSHARD_WRITE_REMOVE : 0,
                                   .timeout_ns = 1500 * MS,
                                   .collection = "words",
                                   .keys = keys };

    if (at == 0 || s->writing[client] != 0)
        return;
    w.tag = tag(s);
    s->c->answer[w.tag].times = 0;
    for (uint64_t wanted = 1 + chance(s, 4); wanted > 0; wanted--) {
        uint32_t key = (uint32_t)chance(s, KEYS);
        struct op *o;

        if (s->model.under_way[key] != 0)
            continue;
        o = model_begin(&s->model, s->c->now, key, client);
        if (o == NULL)
            break;
        o->tag = w.tag;
        o->salt = random_next(&s->random) % SALTS + 1;
        o->live = (w.flags & VSHARD_WRITE_REMOVE) == 0;
        keys[w.count] = (struct vshard_key){ 0, key };
        salts[w.count] = (int64_t)o->salt;
        words[w.count][0] = word_of(o->salt);
        vector_of(vectors + (size_t)w.count * DIM, key, o->salt);
        w.count++;
    }
    if (w.count == 0)
        return;
    if (!(w.flags & VSHARD_WRITE_REMOVE)) {
        w.vectors = vectors;
        w.values = values;
        w.value_count = 2;
    }
    if (vshard_node_write(s->c->node[at].node, s->c->now, &w) != VSHARD_OK) {
        model_end(&s->model, w.tag, s->c->now, -1); /* nothing was sent, which is one outcome */
        s->sum->refused++;
        return;
    }
    s->writing[client] = w.tag;
    s->writing_at[client] = at;
}

static void remember(struct schedule *s, uint32_t client, const struct cluster_answer *a)
{
    for (uint32_t i = 0; i < a->position_count; i++) {
        uint32_t k = 0;

        while (k < s->session_count[client] && s->session[client][k].group != a->positions[i].group)
            k++;
        if (k == s->session_count[client])
            s->session[client][s->session_count[client]++] = a->positions[i];
        else if (a->positions[i].index > s->session[client][k].index)
            s->session[client][k] = a->positions[i];
    }
}

static void see_writes(struct schedule *s)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct cluster_answer *a = &s->c->answer[s->writing[i]];

        if (s->writing[i] == 0)
            continue;
        if (a->times > 1)
            wrong(s, "a write is answered twice", 0, s->writing[i]);
        if (a->times == 0 && s->c->node[s->writing_at[i]].node != NULL)
            continue;
        if (a->times == 1 && a->status == VSHARD_OK) {
            model_end(&s->model, s->writing[i], a->at_ns, 1);
            remember(s, i, a);
            s->sum->acknowledged++;
        } else {
            model_end(&s->model, s->writing[i], s->c->now, -1);
            s->sum->unknown++;
        }
        s->writing[i] = 0;
    }
}

/* ---- reading ---- */

static struct reading *room(struct schedule *s)
{
    for (int i = 0; i < READS; i++) {
        if (s->reading[i].tag == 0)
            return &s->reading[i];
    }
    return NULL;
}

static void set_judge(struct schedule *s, struct reading *r, uint32_t client, uint64_t age)
{
    r->judge = (struct judge){ .before = 0, .client = CLIENTS };
    if (r->consistency == VSHARD_READ_LINEARIZABLE)
        r->judge.before = s->c->now;
    if (r->consistency == VSHARD_READ_POSITIONS)
        r->judge = (struct judge){ .before = s->c->now, .client = client };
    if (r->consistency == VSHARD_READ_BOUNDED)
        r->judge.before = s->c->now - age;
}

/* Which salts are searched for. Returns the bytes of an expression that says so. */
static size_t set_filter(struct schedule *s, struct reading *r, void *where, size_t room)
{
    struct vshard_condition c[2] = { { .width = 1, .count = 1, .values = r->word },
                                     { .op = VSHARD_WHERE_NOT } };
    size_t bytes = 0;

    r->filter = (uint32_t)chance(s, FILTERS);
    r->word[0] = word_of(chance(s, WORDS));
    r->between[0] = (int64_t)chance(s, SALTS);
    r->between[1] = r->between[0] + (int64_t)chance(s, SALTS);
    c[0].op = VSHARD_WHERE_EQ;
    c[0].attribute = 1;
    c[0].type = VSHARD_ATTRIBUTE_KEYWORD;
    if (r->filter == FILTER_SALT)
        c[0] = (struct vshard_condition){ VSHARD_WHERE_RANGE, 0, VSHARD_ATTRIBUTE_INT64, 2, 0, 0,
                                          r->between };
    if (r->filter != FILTER_NONE && vshard_where_encode(c, r->filter == FILTER_OTHER_WORD ? 2 : 1,
                                                        where, room, &bytes) != VSHARD_OK)
        wrong(s, "an expression that is none", r->filter, 0);
    return bytes;
}

static bool passes(const struct reading *r, uint64_t salt)
{
    switch (r->filter) {
    case FILTER_SALT: return (int64_t)salt >= r->between[0] && (int64_t)salt <= r->between[1];
    case FILTER_WORD: return word_of(salt) == r->word[0];
    case FILTER_OTHER_WORD: return word_of(salt) != r->word[0];
    default: return true;
    }
}

static void read_some(struct schedule *s, uint32_t client)
{
    uint64_t at = some_node(s), age = (20 + chance(s, 500)) * MS;
    struct reading *r = room(s);
    struct vshard_node_search q = { .size = sizeof q, .k = K, .flags = VSHARD_NODE_WHOLE };
    struct vshard_node_fetch f = { .size = sizeof f, .collection = "words" };
    unsigned char where[64];
    bool popular;
    int rc;

    if (at == 0 || r == NULL)
        return;
    r->consistency = (uint32_t)chance(s, 4);
    r->kind = chance(s, 3) == 0 ? VSHARD_NODE_SEARCH : VSHARD_NODE_FETCH;
    r->key = (uint32_t)chance(s, KEYS);
    r->at = at;
    set_judge(s, r, client, age);
    popular = chance(s, 2) == 0; /* some questions are asked again and again */
    vector_of(r->query, popular ? r->key % 2 : r->key, popular ? 0 : chance(s, 1000));
    f.consistency = q.consistency = r->consistency;
    f.timeout_ns = q.timeout_ns = 400 * MS;
    f.max_staleness_ns = q.max_staleness_ns = age;
    f.positions = q.positions = s->session[client];
    f.position_count = q.position_count = s->session_count[client];
    f.key.lo = r->key;
    q.collection = "words";
    q.query = r->query;
    r->filter = FILTER_NONE;
    if (!popular)
        q.where_bytes = (uint32_t)set_filter(s, r, where, sizeof where);
    q.where = q.where_bytes != 0 ? where : NULL;
    f.tag = q.tag = tag(s);
    s->c->answer[q.tag].times = 0;
    rc = r->kind == VSHARD_NODE_SEARCH ? vshard_node_search(s->c->node[at].node, s->c->now, &q)
                                       : vshard_node_fetch(s->c->node[at].node, s->c->now, &f);
    r->tag = rc == VSHARD_OK ? q.tag : 0;
}

/* Which of its writes a key shows, by the vector; 0: none of them. */
static uint64_t salt_of(const struct schedule *s, uint32_t key, const float *vector)
{
    for (uint32_t i = 0; i < s->model.count; i++) {
        const struct op *o = &s->model.op[i];
        float v[DIM];

        vector_of(v, key, o->salt);
        if (o->key == key && o->live && memcmp(v, vector, sizeof v) == 0)
            return o->salt;
    }
    return 0;
}

/* A hit shows a key at a distance, which some of its writes may share: is one of them
 * allowed? And was it ever written at all? */
static bool hit_allowed(const struct schedule *s, const struct reading *r, uint32_t key, float d,
                        bool *known)
{
    *known = false;
    for (uint32_t i = 0; i < s->model.count; i++) {
        const struct op *o = &s->model.op[i];
        float v[DIM];

        if (o->key != key || !o->live || !passes(r, o->salt))
            continue;
        vector_of(v, key, o->salt);
        if (distance(v, r->query) > d * 1.0001f + 1e-6f ||
            distance(v, r->query) < d * 0.9999f - 1e-6f)
            continue;
        *known = true;
        if (model_allows(&s->model, &r->judge, key, 1, o->salt))
            return true;
    }
    return false;
}

static void judge_fetch(struct schedule *s, const struct reading *r, const struct cluster_answer *a)
{
    uint64_t salt = 0;
    int64_t value;

    if (a->status == VSHARD_OK) {
        salt = salt_of(s, r->key, a->vector);
        if (salt == 0)
            wrong(s, "a vector that nobody wrote", r->key, r->consistency);
        memcpy(&value, a->value[0].bytes, sizeof value);
        if (a->value_count != 2 || (uint64_t)value != salt ||
            (char)a->value[1].bytes[0] != word_of(salt))
            wrong(s, "values of another write", r->key, r->consistency);
    }
    if (a->status != VSHARD_OK && a->status != VSHARD_ENOTFOUND)
        return;
    s->sum->reads++;
    if (r->consistency == VSHARD_READ_LINEARIZABLE)
        model_see(&s->model, &(struct seen){ r->judge.before, a->at_ns, salt, r->key });
    if (!model_allows(&s->model, &r->judge, r->key, a->status == VSHARD_OK, salt))
        wrong(s, a->status == VSHARD_OK ? "an old value" : "a value is gone", r->key,
              r->consistency);
}

/* Hits may be seen, and nothing that surely is there and nearer is missing. Distances tell
 * the writes of a key apart, well enough. */
static void judge_search(struct schedule *s, const struct reading *r,
                         const struct cluster_answer *a)
{
    bool hit[KEYS] = { false };
    float last = a->hit_count == K ? a->hits[K - 1].distance : 1e30f;

    if (a->status != VSHARD_OK)
        return;
    s->sum->reads++;
    for (uint32_t i = 0; i < a->hit_count; i++) {
        uint32_t key = (uint32_t)a->hits[i].key.lo;
        bool known, allowed = hit_allowed(s, r, key, a->hits[i].distance, &known);

        if (key >= KEYS || !known) {
            wrong(s, "a hit that nobody wrote", key, r->consistency);
            return;
        }
        if (hit[key])
            wrong(s, "a key is answered twice", key, r->consistency);
        hit[key] = true;
        if (!allowed)
            wrong(s, "a hit that is old or removed", key, r->consistency);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        uint64_t salt;
        float v[DIM];

        if (hit[key] || !model_certain(&s->model, &r->judge, key, &salt) || !passes(r, salt))
            continue;
        vector_of(v, key, salt);
        if (distance(v, r->query) < last * 0.9999f)
            wrong(s, "a near row is missing", key, a->hit_count);
    }
}

static void see_reads(struct schedule *s)
{
    for (int i = 0; i < READS; i++) {
        struct reading *r = &s->reading[i];
        struct cluster_answer *a = &s->c->answer[r->tag];

        if (r->tag == 0 || (a->times == 0 && s->c->node[r->at].node != NULL))
            continue;
        r->judge.now = a->times != 0 ? a->at_ns : s->c->now;
        if (a->times > 1)
            wrong(s, "a read is answered twice", r->key, r->tag);
        if (a->times != 0 && r->kind == VSHARD_NODE_FETCH)
            judge_fetch(s, r, a);
        else if (a->times != 0)
            judge_search(s, r, a);
        r->tag = 0;
    }
}

/* ---- faults ---- */

static uint32_t down(const struct schedule *s)
{
    uint32_t count = 0;

    for (uint64_t id = 1; id <= s->c->founders; id++)
        count += s->c->node[id].node == NULL;
    return count;
}

static void start(struct schedule *s, uint64_t id)
{
    if (s->c->node[id].node == NULL && cluster_start(s->c, id) != VSHARD_OK)
        wrong(s, "a node does not open", (uint32_t)id, (uint64_t)-s->c->node[id].opened);
}

static void heal(struct schedule *s)
{
    s->c->lose_per_mille = s->c->repeat_per_mille = s->c->store_away = 0;
    for (uint64_t id = 1; id <= s->c->count; id++)
        s->c->node[id].side = 0;
}

static void cut(struct schedule *s)
{
    for (uint64_t id = 1; id <= s->c->count; id++)
        s->c->node[id].side = (uint32_t)chance(s, 2);
    s->c->store_away = (uint32_t)chance(s, 2);
    s->sum->cuts++;
}

/* A disk is lost when all others are there, and no replica is on its way from a node that
 * leaves: so that no quorum ever rests on it. */
static void wipe(struct schedule *s, uint64_t id)
{
    if (s->wiped || s->gone != 0 || down(s) != 0 || s->c->founders < 3)
        return;
    heal(s);
    s->wiped = 1;
    s->sum->wipes++;
    cluster_join(s->c, id, id % s->c->founders + 1);
    cluster_run(s->c, 3000 * MS);
}

/* ---- upgrades ---- */

enum { NEXT = VS_LEVEL + 1 };

static uint32_t of_this_version(const struct schedule *s)
{
    uint32_t count = 0;

    for (uint64_t id = 1; id <= s->c->founders; id++)
        count += id != s->gone && s->c->node[id].level != NEXT;
    return count;
}

static void restart(struct schedule *s, uint64_t id, uint32_t level)
{
    if (cluster_upgrade(s->c, id, level) != VSHARD_OK)
        wrong(s, "a node does not open", (uint32_t)id, (uint64_t)-s->c->node[id].opened);
    s->sum->upgrades++;
}

/* One node, to the next version; or back, while there is another that has stayed. Who goes
 * back is heard of before others go on. */
static void upgrade(struct schedule *s)
{
    uint64_t id = 1 + chance(s, s->c->founders);
    bool old = s->c->node[id].level != NEXT;

    if (s->c->node[id].node == NULL && down(s) >= (s->c->founders - 1) / 2)
        return;
    if (old) {
        restart(s, id, NEXT);
    } else if (of_this_version(s) != 0 && chance(s, 2) == 0) {
        heal(s);
        restart(s, id, VS_LEVEL);
        cluster_run(s->c, 1000 * MS);
    }
}

static struct vshard_node_status status_of(const struct schedule *s, uint64_t id)
{
    struct vshard_node_status status = { .size = sizeof status };

    vshard_node_status(s->c->node[id].node, &status);
    return status;
}

static void see_node(struct schedule *s, uint64_t id)
{
    struct vshard_shard_status shards[8];
    size_t count = 0;

    if (status_of(s, id).status != VSHARD_OK)
        wrong(s, "a node has stopped", (uint32_t)id, (uint64_t)-status_of(s, id).status);
    vshard_node_shards(s->c->node[id].node, NULL, shards, 8, &count);
    for (size_t i = 0; i < count && i < 8; i++) {
        if (shards[i].here == 2)
            wrong(s, "a replica has halted", (uint32_t)i, id);
    }
}

static void see_nodes(struct schedule *s)
{
    if (s->c->disputed != 0)
        wrong(s, "a node does not believe the store", 0, s->c->disputed);
    for (uint64_t id = 1; id <= s->c->count; id++) {
        if (s->c->node[id].node != NULL && id != s->gone)
            see_node(s, id);
    }
}

/* As any of the others knows. */
static bool is_member(const struct schedule *s, uint64_t id)
{
    struct vshard_peer_status peer[VSHARD_NODES_MAX];
    bool found = false;

    for (uint64_t at = 1; at <= s->c->count; at++) {
        size_t count = 0;

        if (at == id || s->c->node[at].node == NULL)
            continue;
        vshard_node_peers(s->c->node[at].node, peer, VSHARD_NODES_MAX, &count);
        for (size_t i = 0; i < count; i++)
            found |= peer[i].node == id;
    }
    return found;
}

/* The last ones, too; and all come to know of it. One that was to join, and was of an earlier
 * version than all when it was heard, asks again. */
static void upgrade_all(struct schedule *s)
{
    bool all = false;

    for (uint64_t id = 1; id <= s->c->count; id++) {
        if (s->c->node[id].node == NULL || s->c->node[id].level == NEXT)
            continue;
        restart(s, id, NEXT);
        if (id != s->gone && !is_member(s, id))
            cluster_join(s->c, id, id % s->c->founders + 1);
        cluster_run(s->c, 500 * MS);
    }
    for (int i = 0; i < 100 && !all; i++) {
        cluster_run(s->c, 100 * MS);
        all = true;
        for (uint64_t id = 1; id <= s->c->count; id++)
            all &= s->c->node[id].node == NULL || id == s->gone || status_of(s, id).level == NEXT;
    }
    if (!all)
        wrong(s, "not all write what all know", 0, 0);
}

/* A node comes, when all are well; and one goes, when there is one more than replicas need. */
static void come(struct schedule *s)
{
    if (s->spare == 0 || down(s) != 0)
        return;
    heal(s);
    if (s->upgrades && (of_this_version(s) == 0 || chance(s, 2) == 0))
        s->c->node[s->spare].level = NEXT;
    cluster_join(s->c, s->spare, 1);
    s->spare = 0;
    s->sum->joins++;
}

static void go(struct schedule *s)
{
    struct vshard_node_admin leave = {
        .size = sizeof leave, .op = VSHARD_ADMIN_REMOVE_NODE, .tag = 3600, .timeout_ns = 3000 * MS
    };
    uint64_t id = 1 + chance(s, s->c->founders), other = id % s->c->founders + 1;

    if (s->gone != 0 || s->spare != 0 || down(s) != 0)
        return;
    heal(s);
    leave.node = id;
    s->c->answer[leave.tag].times = 0;
    if (vshard_node_admin(s->c->node[other].node, s->c->now, &leave) != VSHARD_OK)
        return;
    s->gone = id;
    cluster_wait(s->c, leave.tag, 4000 * MS);
    s->sum->leaves++;
}

/* The power of all fails at once, and comes back. */
static void blackout(struct schedule *s)
{
    for (uint64_t id = 1; id <= s->c->founders; id++)
        cluster_kill(s->c, id);
    for (uint64_t id = 1; id <= s->c->founders; id++)
        start(s, id);
    s->sum->kills += s->c->founders;
}

static void fault(struct schedule *s)
{
    uint64_t id = 1 + chance(s, s->c->founders);

    switch (chance(s, 14)) {
    case 12:
        if (chance(s, 4) == 0)
            come(s);
        break;
    case 13:
        if (chance(s, 4) == 0)
            go(s);
        break;
    case 0:
    case 1:
        if (down(s) < (s->c->founders - 1) / 2 && s->c->node[id].node != NULL) {
            cluster_kill(s->c, id);
            s->sum->kills++;
        }
        break;
    case 2:
    case 3: start(s, id); break;
    case 4: cut(s); break;
    case 5:
    case 6: heal(s); break;
    case 7: s->c->node[id].paused_until = s->c->now + chance(s, 600) * MS; break;
    case 8: s->c->lose_per_mille = (uint32_t)chance(s, 100); break;
    case 9: s->c->repeat_per_mille = (uint32_t)chance(s, 100); break;
    case 10:
        if (chance(s, 8) == 0)
            wipe(s, id);
        break;
    default: blackout(s);
    }
}

/* ---- from birth to the last check ---- */

static bool create(struct schedule *s)
{
    const struct vshard_collection spec = { .size = sizeof spec,
                                            .dim = DIM,
                                            .family = s->seed % 4 == 0 ? VSHARD_FAMILY_FLAT
                                                                       : VSHARD_FAMILY_HNSW,
                                            .shards = 1 + (uint32_t)chance(s, 7),
                                            .replicas = 3,
                                            .attribute_count = 2,
                                            .attributes = attributes,
                                            .name = "words" };
    const struct vshard_node_admin a = {
        .size = sizeof a, .op = VSHARD_ADMIN_CREATE, .tag = 3500, .collection = &spec
    };
    int rc = VSHARD_EBUSY;

    for (int i = 0; i < 50 && rc == VSHARD_EBUSY; i++) {
        cluster_run(s->c, 100 * MS);
        rc = vshard_node_admin(s->c->node[1].node, s->c->now, &a);
    }
    if (rc != VSHARD_OK || cluster_wait(s->c, 3500, 5000 * MS) == NULL ||
        s->c->answer[3500].status != VSHARD_OK)
        wrong(s, "no collection", 0, (uint64_t)-rc);
    cluster_run(s->c, 500 * MS);
    return !s->failed;
}

static void live(struct schedule *s, uint64_t ns)
{
    uint64_t end = s->c->now + ns;

    while (s->c->now < end && !s->failed) {
        for (uint32_t i = 0; i < CLIENTS; i++) {
            if (chance(s, 3) == 0)
                write_some(s, i);
            if (chance(s, 2) == 0)
                read_some(s, i);
        }
        if (chance(s, 8) == 0)
            fault(s);
        if (s->upgrades && chance(s, 20) == 0)
            upgrade(s);
        cluster_run(s->c, (1 + chance(s, STEP_MS)) * MS);
        see_writes(s);
        see_reads(s);
        see_nodes(s);
    }
}

/* One read that must be answered, as often as it takes. */
static void must_read(struct schedule *s, uint32_t key, uint32_t kind)
{
    for (int i = 0; i < 20 && !s->failed; i++) {
        struct reading *r = &s->reading[0];
        struct cluster_answer *a;
        struct vshard_node_fetch f = { .size = sizeof f,
                                       .consistency = VSHARD_READ_LINEARIZABLE,
                                       .timeout_ns = 1000 * MS,
                                       .key = { 0, key },
                                       .collection = "words" };
        struct vshard_node_search q = { .size = sizeof q,
                                        .consistency = VSHARD_READ_LINEARIZABLE,
                                        .timeout_ns = 1000 * MS,
                                        .k = K,
                                        .flags = VSHARD_NODE_WHOLE,
                                        .collection = "words",
                                        .query = r->query };
        uint64_t at = 1 + chance(s, s->c->founders);

        if (at == s->gone)
            at = at % s->c->founders + 1;
        r->key = key;
        r->filter = FILTER_NONE;
        r->consistency = VSHARD_READ_LINEARIZABLE;
        set_judge(s, r, 0, 0);
        vector_of(r->query, key, 1);
        f.tag = q.tag = tag(s);
        s->c->answer[f.tag].times = 0;
        if ((kind == VSHARD_NODE_FETCH
                 ? vshard_node_fetch(s->c->node[at].node, s->c->now, &f)
                 : vshard_node_search(s->c->node[at].node, s->c->now, &q)) != VSHARD_OK)
            continue;
        a = cluster_wait(s->c, f.tag, 3000 * MS);
        r->judge.now = s->c->now;
        if (a == NULL || (a->status != VSHARD_OK && a->status != VSHARD_ENOTFOUND))
            continue;
        if (kind == VSHARD_NODE_FETCH)
            judge_fetch(s, r, a);
        else
            judge_search(s, r, a);
        return;
    }
    wrong(s, "no answer when all is well", key, kind);
}

static void check_histories(struct schedule *s)
{
    for (uint32_t key = 0; key < KEYS && !s->failed; key++) {
        int verdict = model_linearizable(&s->model, key);

        if (verdict == 0)
            wrong(s, "a history that is not linearizable", key, s->model.seen_count);
        s->sum->histories += verdict == 1;
        s->sum->too_hard += verdict < 0;
    }
}

/* Replicas that name a digest for the same position name the same. */
static void compare_digests(struct schedule *s)
{
    struct vshard_shard_status seen[8] = { { 0 } }, at[8];
    size_t count;

    for (uint64_t id = 1; id <= s->c->count; id++) {
        if (s->c->node[id].node == NULL ||
            vshard_node_shards(s->c->node[id].node, "words", at, 8, &count) != VSHARD_OK)
            continue;
        for (size_t i = 0; i < count; i++) {
            if (at[i].here == 2)
                wrong(s, "a replica has halted", (uint32_t)i, id);
            if (!at[i].here || at[i].digest_index == 0)
                continue;
            if (seen[i].digest_index == at[i].digest_index && seen[i].digest != at[i].digest)
                wrong(s, "replicas differ", (uint32_t)i, id);
            seen[i] = at[i];
        }
    }
}

/* What is written from now on has the new forms. */
static void live_calmly(struct schedule *s)
{
    for (int i = 0; i < 20 && !s->failed; i++) {
        for (uint32_t client = 0; client < CLIENTS; client++)
            write_some(s, client);
        cluster_run(s->c, 100 * MS);
        see_writes(s);
        see_nodes(s);
    }
    cluster_run(s->c, 2000 * MS);
    see_writes(s);
}

static void finish(struct schedule *s)
{
    heal(s);
    for (uint64_t id = 1; id <= s->c->founders; id++)
        start(s, id);
    for (int i = 0; i < 40 && !s->failed; i++) {
        cluster_run(s->c, 100 * MS);
        see_writes(s);
        see_reads(s);
    }
    if (s->upgrades && !s->failed)
        upgrade_all(s);
    see_writes(s);
    see_reads(s);
    if (s->upgrades && !s->failed)
        live_calmly(s);
    for (uint32_t key = 0; key < KEYS && !s->failed; key++)
        must_read(s, key, VSHARD_NODE_FETCH);
    for (uint32_t key = 0; key < KEYS && !s->failed; key += 5)
        must_read(s, key, VSHARD_NODE_SEARCH);
    compare_digests(s);
    check_histories(s);
}

static void on_event(void *ctx, uint32_t level, const char *name,
                     const struct vshard_log_field *fields, size_t field_count)
{
    struct schedule *s = ctx;

    (void)level;
    (void)fields;

    s->sum->snapshots += strcmp(name, "node.refilled") == 0;
    if (s->loud) {
        printf("%llu %s", (unsigned long long)s->c->now / MS, name);
        for (size_t i = 0; i < field_count; i++)
            printf(" %s=%s%lld", fields[i].name, fields[i].text ? fields[i].text : "",
                   (long long)fields[i].integer);
        printf("\n");
    }
    if (strcmp(name, "node.diverged") == 0)
        wrong(s, "replicas have diverged", 0, 0);
}

bool schedule_run(uint64_t seed, struct result *sum, bool loud)
{
    static struct schedule s;
    struct vshard_node_options o = { .segment_bytes = 65536,
                                     .replace_ns = UINT64_MAX,
                                     .search_ns = 400 * MS };
    const struct vshard_logger logger = { on_event, &s };
    uint32_t founders;
    bool hosted;

    memset(&s, 0, sizeof s);
    s.seed = seed;
    s.random = seed * 0x9e3779b97f4a7c15u + 1;
    s.sum = sum;
    s.loud = loud;
    founders = chance(&s, 2) ? 3 : 5;
    o.snapshot_bytes = 500 + chance(&s, 20000);
    o.cache_bytes = chance(&s, 2) * 5000;
    model_init(&s.model);
    o.logger = &logger;
    s.spare = chance(&s, 2) ? founders + 1 : 0;
    hosted = chance(&s, 3) == 0;
    s.c = hosted ? cluster_create_hosted(founders, founders + (s.spare != 0), seed, &o)
                 : cluster_create(founders, founders + (s.spare != 0), seed, &o);
    sum->hosted += hosted;
    s.c->spread_ns = chance(&s, 3) ? 200000 : 5 * MS;
    s.c->disk_ns = chance(&s, 3) ? chance(&s, chance(&s, 2) ? 4 * MS : 40 * MS) : 0;
    s.upgrades = chance(&s, 3) == 0;
    if (create(&s))
        live(&s, 4000 * MS + chance(&s, 4000) * MS);
    if (!s.failed)
        finish(&s);
    cluster_destroy(s.c);
    return !s.failed;
}
