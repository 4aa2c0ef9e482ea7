/* shard_files.c - a shard is saved, opened, damaged, and saved on failing storage.
 *
 * Method: the shard that was opened must have the digest of the one that was saved, and
 * go on equally. Then every byte of the rows file is flipped and every length cut; every
 * storage request and every allocation fails once, and the old snapshot must stand. */
#include <criterion/criterion.h>

#include "support/fault_alloc.h"
#include "support/fault_storage.h"
#include "support/shard_data.h"

static struct vs_shard *filled(const struct vs_shard_plan *plan)
{
    struct vs_shard *s;

    cr_assert_eq(vs_shard_create(plan, &s), VSHARD_OK);
    cr_assert_eq(shard_do(s, 1, VS_BATCH_ADD, 1, 12, 5, 0, 1), VSHARD_OK);
    cr_assert_eq(shard_do(s, 2, VS_BATCH_REMOVE, 3, 4, 0, 0, 2), VSHARD_OK);
    cr_assert_eq(shard_do(s, 3, VS_BATCH_REMOVE, 9, 2, 0, 40, 3), VSHARD_OK);
    cr_assert_eq(shard_do(s, 4, VS_BATCH_ADD, 4, 1, 6, 0, 4), VSHARD_OK);
    return s;
}

static uint64_t digest_of(const struct vs_shard *s)
{
    uint64_t digest;

    cr_assert_eq(vs_shard_digest(s, &digest), VSHARD_OK);
    return digest;
}

Test(shard_files, open_as_they_were_saved_and_go_on_alike)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan plan = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard *s = filled(&plan), *t;
    struct vs_shard_stats stats;
    void *meta;
    size_t bytes;

    cr_assert_eq(vs_shard_save(s, "x", "meta!", 5), VSHARD_OK);
    cr_assert_eq(vs_shard_open(&plan, "x", &t, &meta, &bytes), VSHARD_OK);
    cr_expect_eq(bytes, (size_t)5);
    cr_expect_arr_eq(meta, "meta!", 5);
    vs_shard_stats(t, &stats);
    cr_expect_eq(stats.applied, (uint64_t)4);
    cr_expect_eq(digest_of(s), digest_of(t));
    for (uint64_t i = 5; i < 40; i++) {
        uint32_t kind = i % 3 == 0 ? VS_BATCH_REMOVE : VS_BATCH_ADD;

        cr_assert_eq(shard_do(s, i, kind, i % 20, 3, i, i % 5 ? 0 : 30, i % 4 ? i : 1), VSHARD_OK);
        cr_assert_eq(shard_do(t, i, kind, i % 20, 3, i, i % 5 ? 0 : 30, i % 4 ? i : 1), VSHARD_OK);
        cr_assert_eq(digest_of(s), digest_of(t), "after entry %d", (int)i);
    }
    vs_free(NULL, meta, bytes);
    vs_shard_destroy(s);
    vs_shard_destroy(t);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(shard_files, of_an_empty_shard_open)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan plan = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard *s, *t;
    void *meta;
    size_t bytes;

    plan.family = VSHARD_FAMILY_HNSW;
    plan.attribute_count = 0;
    cr_assert_eq(vs_shard_create(&plan, &s), VSHARD_OK);
    cr_assert_eq(vs_shard_save(s, "x", NULL, 0), VSHARD_OK);
    cr_assert_eq(vs_shard_open(&plan, "x", &t, &meta, &bytes), VSHARD_OK);
    cr_expect_eq(digest_of(s), digest_of(t));
    vs_shard_destroy(s);
    vs_shard_destroy(t);
    fault_storage_destroy(fs);
}

Test(shard_files, of_other_attributes_are_refused)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan plan = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard *s, *t;
    void *meta;
    size_t bytes;

    cr_assert_eq(vs_shard_create(&plan, &s), VSHARD_OK);
    cr_assert_eq(vs_shard_save(s, "x", NULL, 0), VSHARD_OK);
    plan.attributes[1].type = VSHARD_ATTRIBUTE_INT64;
    cr_expect_eq(vs_shard_open(&plan, "x", &t, &meta, &bytes), VSHARD_EINVAL);
    plan.attribute_count = 1;
    cr_expect_eq(vs_shard_open(&plan, "x", &t, &meta, &bytes), VSHARD_EINVAL);
    vs_shard_destroy(s);
    fault_storage_destroy(fs);
}

static int open_bytes(const struct vs_shard_plan *plan, struct fault_storage *fs,
                      const unsigned char *rows, size_t count)
{
    struct vs_shard *t;
    void *meta;
    size_t bytes;
    int rc;

    fault_storage_put(fs, "x.rows", rows, count);
    rc = vs_shard_open(plan, "x", &t, &meta, &bytes);
    if (rc == VSHARD_OK)
        vs_free(NULL, meta, bytes);
    vs_shard_destroy(t);
    return rc;
}

Test(shard_files, that_are_damaged_are_refused_whatever_the_byte)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan plan = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard *s = filled(&plan);
    const unsigned char *stored;
    unsigned char *rows;
    size_t count;

    cr_assert_eq(vs_shard_save(s, "x", "meta!", 5), VSHARD_OK);
    stored = fault_storage_bytes(fs, "x.rows", &count);
    rows = malloc(count);
    memcpy(rows, stored, count);
    cr_assert_eq(open_bytes(&plan, fs, rows, count), VSHARD_OK);
    for (size_t i = 0; i < count; i++) {
        rows[i] ^= 0x10;
        cr_expect_neq(open_bytes(&plan, fs, rows, count), VSHARD_OK, "byte %zu", i);
        rows[i] ^= 0x10;
        cr_expect_neq(open_bytes(&plan, fs, rows, i), VSHARD_OK, "cut to %zu", i);
    }
    /* Damage with a checksum that fits: somebody meant it. Nothing worse than a refusal. */
    for (size_t i = 8; i < count - 8; i++) {
        for (int bit = 0; bit < 8; bit++) {
            rows[i] ^= (unsigned char)(1 << bit);
            vs_store64(rows + count - 8, vs_checksum(rows, count - 8, 0));
            open_bytes(&plan, fs, rows, count);
            rows[i] ^= (unsigned char)(1 << bit);
        }
    }
    free(rows);
    vs_shard_destroy(s);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(shard_files, leave_the_old_snapshot_whichever_storage_call_fails)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan plan = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard *s = filled(&plan), *t;
    uint64_t old;
    void *meta;
    size_t bytes;
    int rc = VSHARD_EIO;

    cr_assert_eq(vs_shard_save(s, "old", NULL, 0), VSHARD_OK);
    old = digest_of(s);
    cr_assert_eq(shard_do(s, 5, VS_BATCH_ADD, 100, 9, 5, 0, 9), VSHARD_OK);
    for (uint64_t k = 1; rc != VSHARD_OK; k++) {
        cr_assert(k < 100);
        fault_storage_fail(fs, k, FAULT_ONCE);
        rc = vs_shard_save(s, "new", NULL, 0);
        fault_storage_heal(fs);
        cr_assert_eq(vs_shard_open(&plan, "old", &t, &meta, &bytes), VSHARD_OK);
        cr_assert_eq(digest_of(t), old);
        vs_shard_destroy(t);
    }
    for (uint64_t k = 1;; k++) {
        fault_storage_fail(fs, k, FAULT_ONCE);
        rc = vs_shard_open(&plan, "new", &t, &meta, &bytes);
        fault_storage_heal(fs);
        vs_shard_destroy(t);
        if (rc == VSHARD_OK)
            break;
        cr_assert(k < 100);
    }
    vs_shard_remove_files(plan.storage, "new");
    cr_expect_eq(vs_shard_open(&plan, "new", &t, &meta, &bytes), VSHARD_ENOTFOUND);
    vs_shard_destroy(s);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

static int save_and_open(const struct vshard_allocator *memory, void *arg)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct vs_shard_plan calm = shard_plan(NULL, fault_storage_hook(fs));
    struct vs_shard_plan plan = shard_plan(memory, fault_storage_hook(fs));
    struct vs_shard *s = filled(&calm), *t = NULL, *u = NULL;
    void *meta = NULL;
    size_t bytes = 0;
    int rc;

    (void)arg;
    cr_assert_eq(vs_shard_save(s, "x", "meta!", 5), VSHARD_OK);
    rc = vs_shard_open(&plan, "x", &t, &meta, &bytes);
    vs_free(memory, meta, bytes);
    if (rc == VSHARD_OK)
        rc = vs_shard_save(t, "y", "meta!", 5);
    vs_shard_destroy(t);
    vs_shard_destroy(u);
    vs_shard_destroy(s);
    fault_storage_destroy(fs);
    return rc;
}

Test(shard_files, bear_it_whichever_allocation_fails)
{
    char why[200];

    cr_assert(fault_alloc_try_each(save_and_open, NULL, why, sizeof why) > 0, "%s", why);
}
