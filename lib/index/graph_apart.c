/* graph_apart.c - how far rows are from each other, for who tells clusters apart.
 *
 * That is the distance by which they are compared, but not under an inner product: the
 * greatest products of a row are with long ones, wherever these are. There it is 1 less the
 * cosine of the angle between two rows, as codes have it, around the middle of these. The
 * squares that it takes are integers, and each step on floats is rounded once, so that it is the
 * same on every machine. */
#include "index/state.h"

#include <math.h>

enum { MIDDLE = 64, LOOKED_AT = 64 /* of the rows in a pool */ };

/* By codes, to s->rows[0, count): sets s->distances, uses s->keys. */
static void by_angle(const struct vshard_index *x, const void *code, struct vs_scratch *s,
                     uint32_t count)
{
    const struct vs_quantizer *z = &x->quantizer;
    unsigned char *middle = s->code + 2 * (size_t)z->code_bytes;
    int32_t own;

    memset(middle, MIDDLE, z->code_dim);
    memset(middle + z->code_dim, 0, z->code_bytes - z->code_dim);
    x->kernel.l2sq_code_many(middle, &code, 1, z->code_bytes, &own);
    x->kernel.l2sq_code_many(middle, s->rows, count, z->code_bytes, s->keys);
    for (uint32_t i = 0; i < count; i++)
        s->distances[i] = (float)s->keys[i];
    x->kernel.l2sq_code_many(code, s->rows, count, z->code_bytes, s->keys);
    for (uint32_t i = 0; i < count; i++) {
        double square = (double)own * (double)s->distances[i];
        double twice = (double)own + (double)s->distances[i] - s->keys[i];

        s->distances[i] = square > 0 ? (float)(1 - twice / (2 * sqrt(square))) : 1.0f;
    }
}

/* Sets s->distances to how far the row is from s->slots[0, count). Uses s->rows and s->keys. */
void vs_apart(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s, uint32_t count)
{
    if (vs_has_distances(x)) {
        vs_keys_of(x, slot, s, count);
        for (uint32_t i = 0; i < count; i++)
            s->distances[i] = vs_key_value(x, s->keys[i]);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        s->rows[i] = vs_code_at(x, s->slots[i]);
    by_angle(x, vs_code_at(x, slot), s, count);
}

/* How far the row is from the nearest in the pool, which is not empty and has the row's
 * keys. Sets *at to where that is; uses s->slots, s->rows, s->keys and s->distances. */
float vs_apart_least(const struct vshard_index *x, uint32_t slot, struct vs_scratch *s,
                     uint32_t *at)
{
    const struct vs_pool *p = &s->pool;
    uint32_t count = p->count < LOOKED_AT ? p->count : LOOKED_AT;

    *at = 0;
    if (vs_has_distances(x))
        return vs_key_value(x, p->keys[0]);
    for (uint32_t i = 0; i < count; i++)
        s->slots[i] = p->slots[i] & ~VS_POOL_EXPANDED;
    vs_apart(x, slot, s, count);
    for (uint32_t i = 1; i < count; i++)
        *at = s->distances[i] < s->distances[*at] ? i : *at;
    return s->distances[*at];
}
