/* tail.c - rows that are committed and not applied yet, and found all the same.
 *
 * To apply an entry is to build a graph: some hundred microseconds a row, and the last row of
 * a batch waits for the others. So an entry is staged first, which is to copy it: its rows
 * go into the tail, a small flat shard, and hide what stands under the same keys below, in
 * the shard itself. What is removed leaves a row in the tail that says so. A search looks in
 * both (nearest.c). Who stages does so in the order of the log, each entry before it is
 * applied, so that the tail is never behind what is below. Nothing of it is state: it is in no
 * digest and no file, and what comes of an entry below is the same without it.
 *
 * What a tail must know from below: the version that stands under a key, and which requests
 * have been applied. Both are read under the guard of the shard while it is being written. That
 * is sound, since writers below are at entries that were staged before, and a key of theirs
 * is in the tail as long as that may matter.
 *
 * Leaving. A row goes when the entry that wrote it last has been applied, but not at once: a
 * search that looked into the tail before, and below before the row was there, would find
 * neither the old row nor the new one, or both. So searches count themselves, in one of two
 * phases. Rows that may go are noted, the phase changes, and they go when nobody is left who
 * began in the other one. Who begins later finds below what they say. A row that goes stops
 * hiding first, then leaves the index, then gives up its number: otherwise it would hide
 * what is below from who can not find it any more.
 *
 * A fetch reads the row of one key, with its values and its payload, which are not changed
 * together; so nothing is staged while it does.
 *
 * A tail has as much as a search can scan in passing, TAIL_BYTES of vectors, and as much of
 * payloads; an entry that is larger waits until there is nothing else in it. */
#include "shard/keymap.h"

enum { TAIL_BYTES = 4 << 20, TAIL_ROWS_MIN = 256, TAIL_ROWS_MAX = 4096, TOGETHER = 256 };

bool vs_plan_stages(const struct vs_shard_plan *plan)
{
    return plan->family != VSHARD_FAMILY_FLAT; /* there to apply is as cheap as to stage */
}

int vs_tail_create(struct vs_shard *s)
{
    struct vs_shard_plan plan = s->plan;
    int rc;

    if (!vs_plan_stages(&plan))
        return VSHARD_OK;
    plan.family = VSHARD_FAMILY_FLAT;
    plan.m = plan.ef_construction = plan.train_rows = plan.profile = 0;
    plan.executor = NULL;
    rc = vs_shard_create(&plan, &s->tail);
    if (rc == VSHARD_OK)
        s->tail->below = s;
    return rc;
}

uint64_t vs_shard_searchable(const struct vs_shard *s)
{
    uint64_t staged = s->tail != NULL ? atomic_load(&s->tail->applied) : 0;
    uint64_t applied = atomic_load(&s->applied);

    return staged > applied ? staged : applied;
}

uint64_t vs_shard_rows(const struct vs_shard *s)
{
    const struct vs_shard *tail = s->tail;

    if (tail != NULL && atomic_load(&tail->applied) >= atomic_load(&s->applied))
        s = tail;
    return atomic_load(&s->rows);
}

/* ---- searches ---- */

uint32_t vs_tail_enter(struct vs_shard *tail)
{
    for (;;) {
        uint32_t phase = atomic_load(&tail->phase);

        atomic_fetch_add(&tail->searches[phase], 1);
        if (atomic_load(&tail->phase) == phase)
            return phase;
        atomic_fetch_sub(&tail->searches[phase], 1); /* it has just changed */
    }
}

void vs_tail_leave(struct vs_shard *tail, uint32_t phase)
{
    atomic_fetch_sub(&tail->searches[phase], 1);
}

/* ---- fetches ---- */

const struct vs_shard *vs_shard_hold(struct vs_shard *s, struct vshard_key key)
{
    const struct vs_shard *tail = s->tail;
    uint32_t row;

    if (tail == NULL)
        return s;
    vs_guard_read(&s->tail->whole);
    row = vs_keymap_find(&tail->map, key);
    return row != VS_NO_ROW && tail->map.row[row].state != VS_ROW_LEAVING ? tail : s;
}

void vs_shard_release(struct vs_shard *s)
{
    if (s->tail != NULL)
        vs_guard_read_end(&s->tail->whole);
}

/* ---- leaving ---- */

/* Rows that are as many as a search can scan in passing. */
static uint64_t room_of(const struct vs_shard *tail)
{
    uint64_t room = TAIL_BYTES / vs_plan_vector_bytes(&tail->plan);

    return room < TAIL_ROWS_MIN ? TAIL_ROWS_MIN : room > TAIL_ROWS_MAX ? TAIL_ROWS_MAX : room;
}

static void count_kept(struct vs_shard *tail)
{
    atomic_store(&tail->kept, (uint32_t)(tail->map.live + tail->map.tombstones));
}

static void count_payloads(struct vs_shard *tail)
{
    tail->payload_bytes = 0;
    for (uint32_t i = 0; i < tail->map.count; i++)
        tail->payload_bytes += tail->map.row[i].payload_bytes;
}

/* Nothing is left: numbers begin from 0 again, so that who looks at all rows has few to look at.
 * Of an entry that was larger than the room the memory goes, too. */
static void begin_anew(struct vs_shard *tail)
{
    bool large = tail->map.count > room_of(tail);

    vs_guard_write(&tail->guard);
    if (large)
        vs_keymap_fini(&tail->map);
    tail->map.count = tail->map.free = 0;
    vs_guard_write_end(&tail->guard);
    if (large)
        vshard_index_maintain(tail->index, 0, NULL); /* without memory for that, another time */
}

/* What was written last by an entry up to `through` hides nothing from here on. */
static void stop_hiding(struct vs_shard *tail, uint64_t through)
{
    vs_guard_write(&tail->guard);
    for (uint32_t i = 0; i < tail->map.count; i++) {
        struct vs_row *r = &tail->map.row[i];

        if (r->last > through)
            continue;
        if (r->state == VS_ROW_LIVE)
            r->state = VS_ROW_LEAVING;
        else if (r->state == VS_ROW_TOMBSTONE)
            vs_keymap_drop(&tail->map, i);
    }
    vs_guard_write_end(&tail->guard);
}

/* Rows [*at, ..) that leave: up to TOGETHER of them. */
static uint32_t gather(const struct vs_shard *tail, uint32_t *at, uint64_t id[TOGETHER])
{
    uint32_t count = 0;

    for (; *at < tail->map.count && count < TOGETHER; ++*at) {
        if (tail->map.row[*at].state == VS_ROW_LEAVING)
            id[count++] = *at;
    }
    return count;
}

static int take_out(struct vs_shard *tail)
{
    uint64_t id[TOGETHER];
    uint32_t at = 0, count;

    while ((count = gather(tail, &at, id)) != 0) {
        int rc = vshard_index_remove(tail->index, id, count, NULL);

        if (rc != VSHARD_OK)
            return rc;
        vs_guard_write(&tail->guard);
        for (uint32_t i = 0; i < count; i++)
            vs_keymap_drop(&tail->map, (uint32_t)id[i]);
        vs_guard_write_end(&tail->guard);
    }
    return VSHARD_OK;
}

static void forget_requests(struct vs_keymap *asked, uint64_t through)
{
    for (uint32_t i = 0; i < asked->count; i++) {
        if (asked->row[i].state == VS_ROW_LIVE && asked->row[i].last <= through)
            vs_keymap_drop(asked, i);
    }
}

static bool may_leave(const struct vs_shard *tail, uint64_t applied)
{
    for (uint32_t i = 0; i < tail->map.count; i++) {
        if (tail->map.row[i].state != VS_ROW_FREE && tail->map.row[i].last <= applied)
            return true;
    }
    return false;
}

static int leave(struct vs_shard *tail, uint64_t applied)
{
    int rc = VSHARD_OK;

    forget_requests(&tail->asked, applied);
    for (int turn = 0; turn < 2 && rc == VSHARD_OK; turn++) {
        uint32_t phase = atomic_load(&tail->phase);

        if (tail->leaving == 0 && may_leave(tail, applied)) {
            tail->leaving = applied;
            phase = 1 - phase;
            atomic_store(&tail->phase, phase);
        }
        if (tail->leaving == 0 || atomic_load(&tail->searches[1 - phase]) != 0)
            break;
        stop_hiding(tail, tail->leaving);
        rc = take_out(tail);
        if (rc == VSHARD_OK)
            tail->leaving = 0;
        count_payloads(tail);
    }
    count_kept(tail);
    if (tail->map.count != 0 && tail->map.live + tail->map.tombstones == 0)
        begin_anew(tail);
    return rc;
}

int vs_shard_unstage(struct vs_shard *s, uint32_t *kept)
{
    int rc;

    vs_guard_write(&s->tail->whole);
    rc = leave(s->tail, atomic_load(&s->applied));
    vs_guard_write_end(&s->tail->whole);
    *kept = atomic_load(&s->tail->kept);
    return rc;
}

/* ---- staging ---- */

/* Whether the request of an entry was done before: 1 or 0; -1: it cannot be told as long as
 * entries before it wait, since the shard may forget it over them. */
static int repeated(struct vs_shard *s, uint64_t index, struct vshard_key request)
{
    bool full, has;

    if (vs_keymap_find(&s->tail->asked, request) != VS_NO_ROW)
        return 1;
    vs_guard_read(&s->guard);
    has = vs_requests_has(&s->requests, request);
    full = s->requests.count == VS_REQUESTS_KEPT;
    vs_guard_read_end(&s->guard);
    return has && full && atomic_load(&s->applied) != index - 1 ? -1 : has;
}

static bool has_room(const struct vs_shard *tail, const struct vs_batch *b)
{
    uint64_t rows = tail->map.live + tail->map.tombstones;

    return rows == 0 || (rows + b->count <= room_of(tail) && tail->payload_bytes <= TAIL_BYTES &&
                         b->payload_bytes <= TAIL_BYTES - tail->payload_bytes);
}

static int stage_batch(struct vs_shard *s, uint64_t index, const struct vs_batch *b)
{
    struct vs_shard *tail = s->tail;
    bool asked = b->request.hi != 0 || b->request.lo != 0;
    int again = asked ? repeated(s, index, b->request) : 0, rc;
    uint32_t row;

    if (again == 1)
        return VSHARD_OK;
    if (again == -1 || !has_room(tail, b))
        return VSHARD_EBUSY;
    rc = asked ? vs_keymap_reserve(&tail->asked, 1) : VSHARD_OK;
    if (rc == VSHARD_OK)
        rc = vs_apply_rows(tail, b, index, 0, b->count);
    if (rc == VSHARD_OK && asked) {
        row = vs_keymap_place(&tail->asked, b->request);
        tail->asked.row[row].last = index;
    }
    if (rc == VSHARD_OK)
        tail->payload_bytes += b->payload_bytes;
    count_kept(tail);
    return rc;
}

int vs_shard_stage(struct vs_shard *s, uint64_t index, const void *entry, size_t bytes)
{
    uint64_t at = vs_shard_searchable(s);
    struct vs_batch b;
    int rc = VSHARD_OK;

    if (index <= at)
        return VSHARD_OK;
    if (index != at + 1)
        return VSHARD_ESTALE;
    if (atomic_load(&s->tail->applied) != at) /* what came before was never staged */
        atomic_store(&s->tail->rows, atomic_load(&s->rows));
    if (bytes != 0) {
        rc = vs_batch_decode(&b, s->plan.newest, entry, bytes);
        if (rc == VSHARD_OK && !vs_plan_fits(&s->plan, &b))
            rc = VSHARD_EINVAL;
        vs_guard_write(&s->tail->whole);
        if (rc == VSHARD_OK)
            rc = stage_batch(s, index, &b);
        vs_guard_write_end(&s->tail->whole);
    }
    if (rc == VSHARD_OK)
        atomic_store(&s->tail->applied, index);
    return rc;
}
