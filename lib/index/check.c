/* check.c - is the index what it should be: every checksum, edge and id, and a way
 * from the entries to every row. And the digest, which says whether two are equal. */
#include "index/image.h"

/* ---- one row's edges and id ---- */

static bool edge_bad(const struct vshard_index *x, uint32_t slot, uint32_t at)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);
    uint32_t to = atomic_load(&edges[at]);

    if (to >= atomic_load(&x->slot_count) || to == slot || vs_row_state(x, to) == VS_ROW_FREE)
        return true;
    for (uint32_t i = 0; i < at; i++) {
        if (atomic_load(&edges[i]) == to)
            return true;
    }
    return false;
}

static void check_edges(const struct vshard_index *x, uint32_t slot, struct vshard_index_check *c)
{
    const _Atomic uint32_t *edges = vs_edges_at(x, slot);

    for (uint32_t i = 0; i < x->degree && atomic_load(&edges[i]) != VS_SLOT_NONE; i++) {
        c->edges++;
        c->bad_edges += edge_bad(x, slot, i);
    }
}

static void check_rows(const struct vshard_index *x, struct vshard_index_check *c)
{
    uint32_t slots = atomic_load(&x->slot_count);

    for (uint32_t slot = 0; slot < slots; slot++) {
        uint32_t state = vs_row_state(x, slot);

        if (state == VS_ROW_FREE)
            continue;
        if (atomic_load(&x->trained))
            check_edges(x, slot, c);
        if (state != VS_ROW_LIVE)
            continue;
        c->rows++;
        c->bad_ids += vs_idmap_find(&x->ids, vs_row_at(x, slot)->id) != slot;
    }
    c->bad_ids += x->ids.count != atomic_load(&x->live);
}

/* ---- reachability: breadth first from the entries ---- */

struct tour {
    uint64_t *seen;  /* one bit a slot */
    uint32_t *queue; /* [slots] */
    size_t slots;
    uint32_t count;
};

static void visit(struct tour *t, uint32_t slot)
{
    uint64_t bit = 1ull << (slot % 64);

    if (slot >= t->slots || (t->seen[slot / 64] & bit))
        return;
    t->seen[slot / 64] |= bit;
    t->queue[t->count++] = slot;
}

static void take_tour(const struct vshard_index *x, const struct vs_scratch *s, struct tour *t)
{
    uint32_t entries = atomic_load(&x->entry_count);

    for (uint32_t i = 0; i < entries; i++)
        visit(t, vs_moved(x, s, vs_entry_at(x, i)));
    for (uint32_t at = 0; at < t->count; at++) {
        const _Atomic uint32_t *edges = vs_edges_at(x, t->queue[at]);

        for (uint32_t i = 0; i < x->degree && atomic_load(&edges[i]) != VS_SLOT_NONE; i++)
            visit(t, vs_moved(x, s, atomic_load(&edges[i])));
    }
}

static int count_unreachable(const struct vshard_index *x, uint64_t *unreachable)
{
    size_t slots = atomic_load(&x->slot_count);
    size_t seen_bytes = (slots / 64 + 1) * sizeof(uint64_t), queue_bytes = slots * 4;
    struct tour t = { vs_alloc_zeroed(x->allocator, seen_bytes),
                      vs_alloc(x->allocator, queue_bytes), slots, 0 };
    const struct vs_scratch at_rest = { 0 };
    int rc = VSHARD_ENOMEM;

    if (t.seen != NULL && t.queue != NULL) {
        take_tour(x, &at_rest, &t);
        for (uint32_t slot = 0; slot < slots; slot++) {
            if (vs_row_state(x, slot) == VS_ROW_LIVE)
                *unreachable += !(t.seen[slot / 64] >> (slot % 64) & 1);
        }
        rc = VSHARD_OK;
    }
    vs_free(x->allocator, t.queue, queue_bytes);
    vs_free(x->allocator, t.seen, seen_bytes);
    return rc;
}

/* Do edges lead to this row? Beside a writer, as they are just now. */
int vs_reaches(const struct vshard_index *x, const struct vs_scratch *s, uint32_t slot,
               bool *reached)
{
    size_t slots = atomic_load(&x->slot_count);
    size_t seen_bytes = (slots / 64 + 1) * sizeof(uint64_t), queue_bytes = slots * 4;
    struct tour t = { vs_alloc_zeroed(x->allocator, seen_bytes),
                      vs_alloc(x->allocator, queue_bytes), slots, 0 };
    bool enough = t.seen != NULL && t.queue != NULL;

    if (enough && slot < slots) {
        take_tour(x, s, &t);
        *reached = t.seen[slot / 64] >> (slot % 64) & 1;
    }
    vs_free(x->allocator, t.queue, queue_bytes);
    vs_free(x->allocator, t.seen, seen_bytes);
    return enough ? VSHARD_OK : VSHARD_ENOMEM;
}

/* ---- the calls ---- */

static int verify_mapping(const struct vshard_index *x)
{
    int rc = VSHARD_OK;

    for (uint32_t e = 0; rc == VSHARD_OK && x->mapping.bytes != NULL && e < x->mapping.extents; e++)
        rc = vs_mapping_verify(x, e);
    return rc;
}

static int check(struct vshard_index *x, struct vshard_index_check *c)
{
    int rc = verify_mapping(x);

    if (rc < 0)
        return rc;
    check_rows(x, c);
    rc = vs_attributes_audit(x, &c->bad_values);
    if (rc == VSHARD_OK && atomic_load(&x->trained))
        rc = count_unreachable(x, &c->unreachable);
    return rc < 0 ? vs_refuse(x->logger, rc, "check.refused", "memory", 0, 0) : rc;
}

int vshard_index_check(struct vshard_index *index, struct vshard_index_check *report)
{
    struct vshard_index_check c = { 0 };
    uint32_t min_size = VS_SIZE_THROUGH(struct vshard_index_check, unreachable);
    int rc = VSHARD_OK;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (report != NULL)
        rc = vs_report_write(report, &c, sizeof c, min_size);
    if (rc < 0)
        return vs_refuse(index->logger, rc, "check.refused", "report.size", report->size, sizeof c);
    vs_lock_share(&index->lock);
    rc = check(index, &c);
    vs_lock_leave(&index->lock);
    if (report != NULL)
        vs_report_write(report, &c, sizeof c, min_size);
    if (rc < 0)
        return rc;
    return c.bad_edges > 0 || c.bad_ids > 0 || c.bad_values > 0 ? VSHARD_ECORRUPT : VSHARD_OK;
}

static int compute_digest(struct vshard_index *x, uint64_t *digest)
{
    unsigned char header[IMAGE_HEADER_BYTES];
    struct vs_image_layout layout;
    struct vs_image image;
    unsigned char *sums;
    size_t bytes;
    int rc = verify_mapping(x);

    if (rc < 0)
        return rc;
    vs_image_layout(x, &layout);
    bytes = vs_image_sums_bytes(x);
    sums = vs_alloc(x->allocator, bytes);
    if (sums == NULL)
        return vs_refuse(x->logger, VSHARD_ENOMEM, "digest.refused", "memory", (int64_t)bytes, 0);
    vs_image_sums(x, sums, layout.extents);
    vs_image_encode(x, header);
    vs_image_seal(header, sums, bytes);
    vs_free(x->allocator, sums, bytes);
    rc = vs_image_decode(header, &image);
    *digest = image.digest;
    return rc;
}

/* The checksum that a saved file would have in its header: it stands for the whole. */
int vshard_index_digest(struct vshard_index *index, uint64_t *digest)
{
    int rc;

    if (index == NULL)
        return VSHARD_EINVAL;
    if (digest == NULL)
        return vs_refuse(index->logger, VSHARD_EINVAL, "digest.refused", "digest: NULL", 0, 0);
    vs_lock_share(&index->lock);
    rc = compute_digest(index, digest);
    vs_lock_leave(&index->lock);
    return rc;
}
