/* scratch.c - the buffers of one search or one build task, and the list of the
 * nearest. Buffers grow to what the largest call needed and then stay, so that a
 * search allocates nothing once it has run. */
#include "index/state.h"

enum { POOL_SPARE = 16 }; /* pool_push stores whole vectors past the end */

/* A larger array in place of an old one; NULL, and the old one kept, without memory. */
static void *grown(struct vshard_index *x, void *old, size_t old_bytes, size_t new_bytes)
{
    void *p = vs_alloc_zeroed(x->allocator, new_bytes);

    if (p == NULL)
        return NULL;
    vs_free(x->allocator, old, old_bytes);
    atomic_fetch_add(&x->scratch_bytes, new_bytes - old_bytes);
    return p;
}

/* For the query's code, and those of all that walk with it (sketch.c). */
static size_t code_room(const struct vshard_index *x)
{
    return (1 + WALKS) * (size_t)x->quantizer.code_bytes;
}

static void free_pools(struct vshard_index *x, struct vs_scratch *s, size_t bytes)
{
    vs_free(x->allocator, s->pool.keys, bytes);
    vs_free(x->allocator, s->pool.slots, bytes);
    vs_free(x->allocator, s->ranked.keys, bytes);
    vs_free(x->allocator, s->ranked.slots, bytes);
}

/* All arrays or none, so that they always have one capacity. */
static int grow_pool(struct vshard_index *x, struct vs_scratch *s, uint32_t cap)
{
    size_t old = s->pool_cap ? (s->pool_cap + POOL_SPARE) * sizeof(int32_t) : 0;
    size_t bytes = (cap + POOL_SPARE) * sizeof(int32_t);
    unsigned char *arrays[4] = { 0 };
    bool enough = true;

    for (int i = 0; i < 4; i++) {
        arrays[i] = vs_alloc_zeroed(x->allocator, bytes);
        enough = enough && arrays[i] != NULL;
    }
    if (!enough) {
        for (int i = 0; i < 4; i++)
            vs_free(x->allocator, arrays[i], bytes);
        return VSHARD_ENOMEM;
    }
    free_pools(x, s, old);
    s->pool.keys = (void *)arrays[0];
    s->pool.slots = (void *)arrays[1];
    s->ranked.keys = (void *)arrays[2];
    s->ranked.slots = (void *)arrays[3];
    s->pool_cap = cap;
    atomic_fetch_add(&x->scratch_bytes, 4 * (bytes - old));
    return VSHARD_OK;
}

static uint32_t list_cap(const struct vshard_index *x)
{
    return 4 * x->degree > LIST_MIN ? 4 * x->degree : LIST_MIN;
}

static int make_lists(struct vshard_index *x, struct vs_scratch *s)
{
    uint32_t cap = list_cap(x);

    if (s->slots == NULL)
        s->slots = grown(x, NULL, 0, cap * sizeof *s->slots);
    if (s->rows == NULL)
        s->rows = grown(x, NULL, 0, cap * sizeof *s->rows);
    if (s->keys == NULL)
        s->keys = grown(x, NULL, 0, cap * sizeof *s->keys);
    if (s->distances == NULL)
        s->distances = grown(x, NULL, 0, cap * sizeof *s->distances);
    if (s->vector == NULL)
        s->vector = grown(x, NULL, 0, x->quantizer.code_dim * sizeof *s->vector);
    if (s->code == NULL)
        s->code = grown(x, NULL, 0, code_room(x));
    if (s->sketch == NULL)
        s->sketch = grown(x, NULL, 0, SKETCH_DIMS);
    if (s->decoded == NULL && vs_is_lean(x))
        s->decoded = grown(x, NULL, 0, DECODED * x->dim * sizeof *s->decoded);
    if (vs_is_lean(x) && s->decoded == NULL)
        return VSHARD_ENOMEM;
    if (!s->sketch || !s->slots || !s->rows || !s->keys || !s->distances || !s->vector || !s->code)
        return VSHARD_ENOMEM;
    s->list_cap = cap;
    return VSHARD_OK;
}

static int grow_visited(struct vshard_index *x, struct vs_scratch *s)
{
    size_t words = (size_t)x->rows.extents * VS_EXTENT_ROWS / 64 + 1;
    uint64_t *visited;

    if (words <= s->visited_words)
        return VSHARD_OK;
    words += words / 8; /* not again for each extent */
    visited = grown(x, s->visited, s->visited_words * sizeof *visited, words * sizeof *visited);
    if (visited == NULL)
        return VSHARD_ENOMEM;
    s->visited = visited;
    s->visited_words = words;
    return VSHARD_OK;
}

static int grow_top(struct vshard_index *x, struct vs_scratch *s, uint32_t cap)
{
    struct vs_candidate *top = grown(x, s->top, s->top_cap * sizeof *top, cap * sizeof *top);

    if (top == NULL)
        return VSHARD_ENOMEM;
    s->top = top;
    s->top_cap = cap;
    return VSHARD_OK;
}

int vs_scratch_reserve(struct vshard_index *x, struct vs_scratch *s, uint32_t pool_cap,
                       uint32_t top_cap)
{
    int rc = s->list_cap ? VSHARD_OK : make_lists(x, s);

    if (rc == VSHARD_OK)
        rc = grow_visited(x, s);
    if (rc == VSHARD_OK && pool_cap > s->pool_cap)
        rc = grow_pool(x, s, pool_cap);
    if (rc == VSHARD_OK && top_cap > s->top_cap)
        rc = grow_top(x, s, top_cap);
    return rc;
}

/* About what the scratch of a task takes that adds rows, once there are so many slots. */
size_t vs_scratch_bytes(const struct vshard_index *x, uint64_t slots, uint32_t pool_cap)
{
    size_t visited = (size_t)vs_extents_for(slots) * (VS_EXTENT_ROWS / 8);
    size_t lists =
        list_cap(x) * (sizeof(uint32_t) + sizeof(void *) + sizeof(int32_t) + sizeof(float));
    size_t decoded = vs_is_lean(x) ? DECODED * x->dim * sizeof(float) : 0;

    return sizeof(struct vs_scratch) + visited + visited / 8 + lists + decoded + SKETCH_DIMS +
           x->quantizer.code_dim * sizeof(float) + code_room(x) +
           (pool_cap > 0 ? 4 * (pool_cap + POOL_SPARE) * sizeof(int32_t) : 0);
}

/* Marks of as many slots as there may be, none set. */
int vs_scratch_marks(struct vshard_index *x, struct vs_scratch *s)
{
    size_t words = s->visited_words;

    if (words > s->marks_words) {
        uint64_t *marks = grown(x, s->marks, s->marks_words * sizeof *marks, words * sizeof *marks);

        if (marks == NULL)
            return VSHARD_ENOMEM;
        s->marks = marks;
        s->marks_words = words;
        return VSHARD_OK;
    }
    if (words > 0) /* none while there is no row */
        memset(s->marks, 0, s->marks_words * sizeof *s->marks);
    return VSHARD_OK;
}

/* Room for a list of `cap` slots; what it held is lost. */
int vs_scratch_list(struct vshard_index *x, struct vs_scratch *s, uint32_t cap)
{
    uint32_t *listed;

    if (cap <= s->listed_cap)
        return VSHARD_OK;
    listed = grown(x, s->listed, s->listed_cap * sizeof *listed, cap * sizeof *listed);
    if (listed == NULL)
        return VSHARD_ENOMEM;
    s->listed = listed;
    s->listed_cap = cap;
    return VSHARD_OK;
}

/* Room for so many keys; what it held is lost. */
int vs_scratch_sets(struct vshard_index *x, struct vs_scratch *s, uint32_t cap)
{
    int64_t *sets;

    if (cap <= s->sets_cap)
        return VSHARD_OK;
    sets = grown(x, s->sets, s->sets_cap * sizeof *sets, cap * sizeof *sets);
    if (sets == NULL)
        return VSHARD_ENOMEM;
    s->sets = sets;
    s->sets_cap = cap;
    return VSHARD_OK;
}

/* What a reader has of rows goes when it has read: one of them may be removed. */
void vs_scratch_forget(const struct vshard_index *x, struct vs_scratch *s)
{
    if (s->decoded_rows > 0)
        memset(s->decoded, 0, s->decoded_rows * x->dim * sizeof *s->decoded);
    s->decoded_rows = 0;
    vs_scan_forget(x, s->scan);
}

/* The same, and of what asked. */
void vs_scratch_wipe(const struct vshard_index *x, struct vs_scratch *s)
{
    vs_scratch_forget(x, s);
    if (s->list_cap == 0)
        return;
    memset(s->vector, 0, x->quantizer.code_dim * sizeof *s->vector);
    memset(s->code, 0, code_room(x));
    memset(s->sketch, 0, SKETCH_DIMS);
}

void vs_scratch_fini(struct vshard_index *x, struct vs_scratch *s)
{
    const struct vshard_allocator *a = x->allocator;
    uint32_t cap = list_cap(x);

    vs_free(a, s->visited, s->visited_words * sizeof *s->visited);
    free_pools(x, s, (s->pool_cap + POOL_SPARE) * sizeof(int32_t));
    vs_free(a, s->slots, cap * sizeof *s->slots);
    vs_free(a, s->rows, cap * sizeof *s->rows);
    vs_free(a, s->keys, cap * sizeof *s->keys);
    vs_free(a, s->distances, cap * sizeof *s->distances);
    vs_free(a, s->vector, x->quantizer.code_dim * sizeof *s->vector);
    vs_free(a, s->code, code_room(x));
    vs_free(a, s->sketch, SKETCH_DIMS);
    vs_free(a, s->decoded, DECODED * x->dim * sizeof *s->decoded);
    vs_free(a, s->top, s->top_cap * sizeof *s->top);
    vs_scan_free(x, s->scan);
    vs_free(a, s->marks, s->marks_words * sizeof *s->marks);
    vs_free(a, s->listed, s->listed_cap * sizeof *s->listed);
    vs_free(a, s->sets, s->sets_cap * sizeof *s->sets);
    memset(s, 0, sizeof *s);
}

/* ---- the nearest few ---- */

bool vs_nearer(const struct vs_candidate *a, const struct vs_candidate *b)
{
    if (a->distance != b->distance)
        return a->distance < b->distance;
    return a->id < b->id;
}

static void sift_down(struct vs_candidate *items, uint32_t count, uint32_t at)
{
    struct vs_candidate c = items[at];

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= count)
            break;
        if (child + 1 < count && vs_nearer(&items[child], &items[child + 1]))
            child++;
        if (!vs_nearer(&c, &items[child]))
            break;
        items[at] = items[child];
        at = child;
    }
    items[at] = c;
}

void vs_top_offer(struct vs_top *top, struct vs_candidate c)
{
    uint32_t at;

    if (top->count == top->cap) {
        if (!vs_nearer(&c, &top->items[0]))
            return;
        top->items[0] = c;
        sift_down(top->items, top->count, 0);
        return;
    }
    for (at = top->count++; at > 0; at = (at - 1) / 2) {
        struct vs_candidate *parent = &top->items[(at - 1) / 2];

        if (!vs_nearer(parent, &c))
            break;
        top->items[at] = *parent;
    }
    top->items[at] = c;
}

/* Nearest first. */
void vs_top_sort(struct vs_top *top)
{
    for (uint32_t n = top->count; n > 1; n--) {
        struct vs_candidate farthest = top->items[0];

        top->items[0] = top->items[n - 1];
        sift_down(top->items, n - 1, 0);
        top->items[n - 1] = farthest;
    }
}
