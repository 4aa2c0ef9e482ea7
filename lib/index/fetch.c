/* fetch.c - vectors by their ids. */
#include "index/state.h"

/* The vector of an id as a reader sees it. */
static int fetch_one(struct vshard_index *x, uint32_t position, uint64_t id, void *vector)
{
    uint32_t slot = vs_find_visible(x, id, position);

    if (slot == VS_SLOT_NONE)
        return VSHARD_ENOTFOUND;
    if (vs_touch(x, slot) < 0)
        return VSHARD_ECORRUPT;
    if (vs_is_lean(x) && atomic_load_explicit(&x->trained, memory_order_acquire))
        vs_decode_elements(x, slot, vector);
    else
        memcpy(vector, vs_column_at(&x->elements, slot), vs_vector_bytes(x));
    return VSHARD_OK;
}

int vshard_index_fetch(struct vshard_index *index, const uint64_t *ids, size_t count, void *vectors,
                       uint8_t *found)
{
    struct vs_reader *reader;
    size_t bytes;
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (count > 0 && (ids == NULL || vectors == NULL))
        return vs_refuse(index->logger, VSHARD_EINVAL, "fetch.refused",
                         ids == NULL ? "ids: NULL" : "vectors: NULL", 0, 0);
    rc = vs_reader_enter(index, &reader);
    if (rc < 0)
        return vs_refuse(index->logger, rc, "fetch.refused", "memory", 0, 0);
    bytes = vs_vector_bytes(index);
    for (size_t i = 0; rc != VSHARD_ECORRUPT && i < count; i++) {
        int one = fetch_one(index, reader->scratch[0].position, ids[i],
                            (unsigned char *)vectors + i * bytes);

        if (found != NULL)
            found[i] = one == VSHARD_OK;
        rc = one < 0 ? one : rc;
    }
    vs_reader_leave(reader);
    return rc;
}
