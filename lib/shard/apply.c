/* apply.c - entries become rows: of a shard, and before of its tail.
 *
 * An entry is applied in steps of VS_CHUNK_ROWS rows, each all or nothing, so that who
 * applies may do other things in between. A first load (VS_BULK_ROWS or more, and no
 * fewer than there are) goes in whole, since an index builds that faster. Where the
 * borders lie is part of the apply format: the graph depends on it.
 *
 * Versions. A row has the version its entry gives it, or the index of the entry. A row
 * is passed over where its key has a newer version already, so a late repetition cannot
 * undo what came after. A removal with a version of its own leaves a tombstone, which
 * fences late rows off in the same way; one without leaves none, since no later entry
 * has a smaller index.
 *
 * Requests. An entry with a request id that was applied before, within the last
 * VS_REQUESTS_KEPT of them, changes nothing: a request may be sent again. */
#include "shard/keymap.h"

/* A step in the making: rows of the batch that go in, and how to take them back. */
struct step {
    struct vs_shard *s;
    const struct vs_batch *b;
    uint64_t index;
    uint32_t first, end;
    uint32_t count;          /* rows that go in, or out */
    int64_t came;            /* keys that have a row and had none, less those that had one */
    uint64_t *id;            /* [end - first] */
    uint32_t *from;          /* [end - first] the row of the batch */
    uint64_t *version;       /* [end - first] as it was */
    uint32_t *rows;          /* [end - first] the map's count before each */
    unsigned char **payload; /* [end - first] copies */
    unsigned char *vectors;  /* [count x vector_bytes], together */
    unsigned char *values;   /* of each attribute [end - first], as `value` has them */
    struct vshard_values value[VSHARD_ATTRIBUTES_MAX];
    size_t bytes, vector_bytes, value_bytes; /* of the three blocks */
};

static struct vshard_key key_of(const struct vs_batch *b, uint32_t i)
{
    const unsigned char *p = b->keys + 16 * (size_t)i;

    return (struct vshard_key){ vs_load64(p), vs_load64(p + 8) };
}

static uint64_t version_of(const struct step *t, uint32_t i)
{
    uint64_t version = t->b->versions ? vs_load64(t->b->versions + 8 * (size_t)i) : 0;

    return version != 0 ? version : t->index;
}

struct standing {
    uint64_t version; /* 0: there is none */
    bool live;
};

static struct standing standing_at(const struct vs_keymap *m, uint32_t row)
{
    if (row == VS_NO_ROW)
        return (struct standing){ 0, false };
    return (struct standing){ m->row[row].version, m->row[row].state == VS_ROW_LIVE };
}

/* What stands under a key. What a tail does not have stands below it. */
static struct standing what_stands(const struct step *t, struct vshard_key key, uint32_t row)
{
    struct vs_shard *below = t->s->below;
    struct standing there;

    if (row != VS_NO_ROW || below == NULL)
        return standing_at(&t->s->map, row);
    vs_guard_read(&below->guard);
    there = standing_at(&below->map, vs_keymap_find(&below->map, key));
    vs_guard_read_end(&below->guard);
    return there;
}

/* What writes a row: a step of a shard that is not complete yet, or an entry of a tail. */
static uint64_t mark_of(const struct step *t)
{
    return t->s->below != NULL ? t->index : atomic_load(&t->s->step) + 1;
}

static uint32_t payload_length(const struct vs_batch *b, uint32_t i)
{
    return b->lengths ? vs_load32(b->lengths + 4 * (size_t)i) : 0;
}

static int make_columns(struct step *t, size_t rows)
{
    unsigned char *at;

    for (uint32_t a = 0; a < t->b->attribute_count; a++)
        t->value_bytes += rows * t->b->column[a].width;
    if (t->value_bytes == 0)
        return VSHARD_OK;
    t->values = at = vs_alloc(t->s->plan.allocator, t->value_bytes);
    for (uint32_t a = 0; at != NULL && a < t->b->attribute_count; a++) {
        size_t width = t->b->column[a].width;

        t->value[a] = (struct vshard_values){ width != 0 ? at : NULL, width };
        at += rows * width;
    }
    return at != NULL ? VSHARD_OK : VSHARD_ENOMEM;
}

static int step_init(struct step *t)
{
    const struct vshard_allocator *a = t->s->plan.allocator;
    size_t rows = t->end - t->first;
    char *p;
    int rc;

    t->bytes = rows * (8 + 8 + sizeof(char *) + 4 + 4);
    t->vector_bytes = t->b->kind == VS_BATCH_ADD ? rows * t->b->vector_bytes : 0;
    p = vs_alloc_zeroed(a, t->bytes);
    t->vectors = t->vector_bytes != 0 ? vs_alloc(a, t->vector_bytes) : NULL;
    t->id = (uint64_t *)(void *)p;
    if (p == NULL || (t->vector_bytes != 0 && t->vectors == NULL) ||
        make_columns(t, rows) != VSHARD_OK)
        return VSHARD_ENOMEM;
    t->version = (uint64_t *)(void *)(p + 8 * rows);
    t->payload = (unsigned char **)(void *)(p + 16 * rows);
    t->from = (uint32_t *)(void *)(p + (16 + sizeof(char *)) * rows);
    t->rows = t->from + rows;
    vs_guard_write(&t->s->guard);
    rc = vs_keymap_reserve(&t->s->map, (uint32_t)rows);
    vs_guard_write_end(&t->s->guard);
    return rc;
}

static void step_fini(struct step *t)
{
    const struct vshard_allocator *a = t->s->plan.allocator;

    for (uint32_t i = 0; t->id != NULL && t->payload != NULL && i < t->count; i++)
        vs_free(a, t->payload[i], payload_length(t->b, t->from[i]));
    vs_free(a, t->values, t->value_bytes);
    vs_free(a, t->vectors, t->vector_bytes);
    vs_free(a, t->id, t->bytes);
}

static void copy_values(struct step *t, uint32_t i)
{
    for (uint32_t a = 0; a < t->b->attribute_count; a++) {
        size_t width = t->value[a].width;

        if (width != 0)
            memcpy((char *)t->value[a].values + t->count * width,
                   t->b->column[a].values + i * width, width);
    }
}

static int copy_payload(struct step *t, uint32_t i, const unsigned char *from)
{
    uint32_t bytes = payload_length(t->b, i);

    if (bytes == 0)
        return VSHARD_OK;
    t->payload[t->count] = vs_alloc(t->s->plan.allocator, bytes);
    if (t->payload[t->count] == NULL)
        return VSHARD_ENOMEM;
    memcpy(t->payload[t->count], from, bytes);
    return VSHARD_OK;
}

/* Gives row i of the batch its place, unless a newer version has it. */
static int enter(struct step *t, uint32_t i, const unsigned char *payload)
{
    struct vs_keymap *m = &t->s->map;
    uint32_t row = vs_keymap_find(m, key_of(t->b, i)), before = m->count;
    const struct standing there = what_stands(t, key_of(t->b, i), row);
    int rc;

    if (there.version > version_of(t, i)) {
        t->s->fenced++;
        return VSHARD_OK;
    }
    rc = copy_payload(t, i, payload);
    if (rc != VSHARD_OK)
        return rc;
    t->rows[t->count] = row == VS_NO_ROW ? before : VS_NO_ROW;
    if (row == VS_NO_ROW)
        row = vs_keymap_place(m, key_of(t->b, i));
    if (t->rows[t->count] != VS_NO_ROW) {
        m->row[row].born = mark_of(t);
        t->came += !there.live;
    }
    m->row[row].last = mark_of(t);
    t->id[t->count] = row;
    t->from[t->count] = i;
    t->version[t->count] = m->row[row].version;
    m->row[row].version = version_of(t, i);
    memcpy(t->vectors + (size_t)t->count * t->b->vector_bytes,
           t->b->vectors + (size_t)i * t->b->vector_bytes, t->b->vector_bytes);
    copy_values(t, i);
    t->count++;
    return VSHARD_OK;
}

static void take_back(struct step *t)
{
    struct vs_keymap *m = &t->s->map;

    for (uint32_t i = t->count; i-- > 0;) {
        m->row[t->id[i]].version = t->version[i];
        if (t->rows[i] != VS_NO_ROW)
            vs_keymap_unplace(m, (uint32_t)t->id[i], t->rows[i]);
    }
}

/* The rows are in the index: what else belongs to them follows, and cannot fail. */
static void settle(struct step *t)
{
    struct vs_keymap *m = &t->s->map;
    const struct vs_batch *b = t->b;

    for (uint32_t i = 0; i < t->count; i++) {
        struct vs_row *r = &m->row[t->id[i]];

        if (r->state == VS_ROW_TOMBSTONE) {
            r->state = VS_ROW_LIVE;
            m->tombstones--;
            m->live++;
            t->came++;
        }
        vs_free(m->allocator, r->payload, r->payload_bytes);
        r->payload = t->payload[i];
        r->payload_bytes = payload_length(b, t->from[i]);
        t->payload[i] = NULL;
    }
}

static int add_rows(struct step *t)
{
    const struct vshard_add_options o = { .size = sizeof o,
                                          .value_count = t->b->attribute_count,
                                          .values = t->value };
    const unsigned char *payload = t->b->payloads;
    uint64_t fenced = t->s->fenced;
    int rc = VSHARD_OK;

    for (uint32_t i = 0; i < t->first; i++)
        payload += payload_length(t->b, i);
    vs_guard_write(&t->s->guard);
    for (uint32_t i = t->first; rc == VSHARD_OK && i < t->end; i++) {
        rc = enter(t, i, payload);
        payload += payload_length(t->b, i);
    }
    vs_guard_write_end(&t->s->guard);
    if (rc == VSHARD_OK && t->count != 0)
        rc = vshard_index_add_with(t->s->index, t->id, t->vectors, t->count, &o);
    vs_guard_write(&t->s->guard);
    if (rc == VSHARD_OK) {
        settle(t);
    } else {
        take_back(t);
        t->s->fenced = fenced;
    }
    vs_guard_write_end(&t->s->guard);
    return rc;
}

/* Which rows go: those that are live, and not newer. With a version of its own a removal
 * leaves a tombstone, even where there was no row; in a tail always, since it hides what is
 * below. */
static int remove_rows(struct step *t)
{
    struct vs_keymap *m = &t->s->map;
    int rc = VSHARD_OK;

    for (uint32_t i = t->first; i < t->end; i++) {
        uint32_t row = vs_keymap_find(m, key_of(t->b, i));

        if (row != VS_NO_ROW && m->row[row].state == VS_ROW_LIVE &&
            m->row[row].version <= version_of(t, i))
            t->id[t->count++] = row;
    }
    if (t->count != 0)
        rc = vshard_index_remove(t->s->index, t->id, t->count, NULL);
    t->count = 0; /* ids, and no payloads */
    return rc;
}

static void bury(struct step *t, uint32_t i)
{
    struct vs_keymap *m = &t->s->map;
    struct vshard_key key = key_of(t->b, i);
    uint32_t row = vs_keymap_find(m, key);
    bool own = t->b->versions != NULL && vs_load64(t->b->versions + 8 * (size_t)i) != 0;
    bool stays = own || (t->s->below != NULL && !TRAP(74));
    const struct standing there = what_stands(t, key, row);
    struct vs_row *r;

    if (there.version > version_of(t, i)) {
        t->s->fenced++;
        return;
    }
    t->came -= there.live;
    if (row != VS_NO_ROW && !stays)
        vs_keymap_drop(m, row);
    if (!stays)
        return;
    if (row == VS_NO_ROW) {
        row = vs_keymap_place(m, key);
        m->row[row].born = mark_of(t);
    }
    r = &m->row[row];
    if (r->state == VS_ROW_LIVE) {
        m->live--;
        m->tombstones++;
    }
    vs_free(m->allocator, r->payload, r->payload_bytes);
    *r = (struct vs_row){ .key = key,
                          .version = own ? version_of(t, i) : 0,
                          .born = r->born,
                          .last = mark_of(t),
                          .state = VS_ROW_TOMBSTONE };
}

static int apply_step(struct step *t)
{
    int rc = step_init(t);

    if (rc == VSHARD_OK && t->b->kind == VS_BATCH_ADD)
        rc = add_rows(t);
    else if (rc == VSHARD_OK)
        rc = remove_rows(t);
    vs_guard_write(&t->s->guard);
    for (uint32_t i = t->first; rc == VSHARD_OK && t->b->kind == VS_BATCH_REMOVE && i < t->end; i++)
        bury(t, i);
    vs_guard_write_end(&t->s->guard);
    if (rc == VSHARD_OK) {
        atomic_fetch_add(&t->s->step, 1);
        atomic_fetch_add(&t->s->rows, (uint64_t)t->came);
    }
    step_fini(t);
    return rc;
}

int vs_apply_rows(struct vs_shard *s, const struct vs_batch *b, uint64_t index, uint32_t first,
                  uint32_t count)
{
    struct step t = { .s = s, .b = b, .index = index, .first = first, .end = first + count };

    return apply_step(&t);
}

static int reserve_request(struct vs_shard *s)
{
    int rc;

    vs_guard_write(&s->guard);
    rc = vs_requests_reserve(&s->requests);
    vs_guard_write_end(&s->guard);
    return rc;
}

static void add_request(struct vs_shard *s, struct vshard_key request)
{
    vs_guard_write(&s->guard);
    vs_requests_add(&s->requests, request);
    vs_guard_write_end(&s->guard);
}

bool vs_shard_did(struct vs_shard *s, struct vshard_key request)
{
    bool has;

    vs_guard_read(&s->guard);
    has = vs_requests_has(&s->requests, request);
    vs_guard_read_end(&s->guard);
    return has;
}

int vs_shard_apply(struct vs_shard *s, uint64_t index, const void *entry, size_t bytes,
                   uint32_t *row)
{
    struct vs_batch b;
    uint32_t count;
    bool asked;
    int rc = vs_batch_decode(&b, s->plan.newest, entry, bytes);

    if (rc != VSHARD_OK)
        return rc;
    if (*row == 0 && !vs_plan_fits(&s->plan, &b))
        return VSHARD_EINVAL;
    asked = b.request.hi != 0 || b.request.lo != 0;
    if (*row == 0 && asked && vs_requests_has(&s->requests, b.request) && !TRAP(63)) {
        s->repeated++;
        s->applied = index;
        *row = b.count;
        return VSHARD_OK;
    }
    if (asked && reserve_request(s) != VSHARD_OK)
        return VSHARD_ENOMEM;
    count = b.count - *row;
    if (!(*row == 0 && count >= VS_BULK_ROWS && count >= s->map.live) && count > VS_CHUNK_ROWS)
        count = VS_CHUNK_ROWS;
    rc = vs_apply_rows(s, &b, index, *row, count);
    if (rc != VSHARD_OK)
        return rc;
    *row += count;
    if (*row == b.count) {
        if (asked)
            add_request(s, b.request);
        s->applied = index;
    }
    return VSHARD_OK;
}

void vs_shard_pass(struct vs_shard *s, uint64_t index)
{
    s->applied = index;
}
