/* node_export.c - a shard as a file.
 *
 * Method: the file is read back as the header draws it, by this test's own reader, and must
 * hold each row that was acknowledged before, once. Storage fails at each of its requests
 * meanwhile: then there is no file, and the node goes on. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"
#include "support/fault_alloc.h"

enum { SHARDS = 2 };

static uint64_t load(const unsigned char *p, int bytes)
{
    uint64_t v = 0;

    for (int i = bytes; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static int export_begin(struct cluster *c, uint64_t at, uint32_t shard, const char *path)
{
    const struct vshard_node_export e = {
        .size = sizeof e, .shard = shard, .tag = next_tag++, .collection = "words", .path = path
    };

    return vshard_node_export(c->node[at].node, c->now, &e);
}

static struct cluster_answer *export_shard(struct cluster *c, uint64_t at, uint32_t shard,
                                           const char *path)
{
    struct cluster_answer *a;

    cr_assert_eq(export_begin(c, at, shard, path), VSHARD_OK);
    a = cluster_wait(c, next_tag - 1, 12000 * MS);
    cr_assert_not_null(a, "no answer to an export");
    cr_assert_eq(a->times, 1u);
    return a;
}

/* Counts each key of [0, count) that the rows of a piece name. */
static void read_rows(const unsigned char *p, size_t bytes, uint64_t salt, int *seen,
                      uint64_t count)
{
    for (size_t at = 0; at < bytes;) {
        uint64_t key = load(p + at + 8, 8), vector = load(p + at + 24, 4);
        uint64_t attributes = load(p + at + 28, 4), payload = load(p + at + 32, 4);
        uint64_t value_bytes = 0;
        float wanted[DIM];

        cr_assert_lt(key, count);
        seen[key]++;
        vector_of(wanted, key, salt);
        cr_assert_eq(load(p + at, 8), (uint64_t)0);
        cr_assert_gt(load(p + at + 16, 8), (uint64_t)0, "no version");
        cr_assert_eq(vector, sizeof wanted);
        cr_assert_arr_eq(p + at + 40, wanted, sizeof wanted, "key %d", (int)key);
        cr_assert_eq(attributes, (uint64_t)WORDS_ATTRIBUTES);
        cr_assert_eq(payload, (uint64_t)0);
        at += 40 + vector;
        for (uint64_t i = 0; i < attributes; i++)
            value_bytes +=
                load(p + at + 8 * i, 4) == VSHARD_ATTRIBUTE_KEYWORD ? VSHARD_KEYWORD_MAX : 8;
        cr_assert_eq(load(p + at + 8 * attributes, 8), key % 10);
        at += 8 * attributes + value_bytes;
    }
}

/* Returns the rows that the head counts. */
static uint64_t read_file(struct cluster *c, uint64_t node, const char *path, uint64_t salt,
                          int *seen, uint64_t count)
{
    size_t bytes, at = 32;
    const unsigned char *p = fault_storage_bytes(c->node[node].disk, path, &bytes);
    uint64_t piece = 1;

    cr_assert_not_null(p, "no file");
    cr_assert_arr_eq(p, "VSEXPT1", 8);
    while (piece != 0) {
        struct vshard_key sum;

        cr_assert_leq(at + 24, bytes);
        piece = load(p + at, 8);
        cr_assert_leq(piece, bytes - at - 24);
        sum = vshard_key_hash(p + at + 24, piece);
        cr_assert(sum.hi == load(p + at + 8, 8) && sum.lo == load(p + at + 16, 8));
        read_rows(p + at + 24, piece, salt, seen, count);
        at += 24 + piece;
    }
    cr_assert_eq(at, bytes, "something is behind the end");
    return load(p + 16, 8);
}

Test(node_export, holds_each_acknowledged_row_once)
{
    struct cluster *c = with_words(3, 3, SHARDS, 3, NULL);
    int seen[400] = { 0 };
    uint64_t rows = 0;

    for (uint64_t first = 0; first < 400; first += 50)
        written(c, 1 + first / 50 % 3, first, 50, 7, 0);
    written(c, 1, 0, 400, 8, 0);
    written(c, 2, 390, 10, 8, VSHARD_WRITE_REMOVE);
    for (uint32_t s = 0; s < SHARDS; s++) {
        char path[] = "home/a-0";
        struct cluster_answer *a;
        uint64_t in_head;

        path[7] = (char)('0' + s);
        a = export_shard(c, 3, s, path);
        cr_assert_eq(a->status, VSHARD_OK, "%s", vshard_strerror(a->status));
        cr_assert_eq(a->position_count, 1u);
        in_head = read_file(c, 3, path, 8, seen, 400);
        cr_assert_eq(in_head, a->rows);
        rows += in_head;
    }
    cr_assert_eq(rows, (uint64_t)390);
    for (int i = 0; i < 400; i++)
        cr_assert_eq(seen[i], i < 390, "key %d is there %d times", i, seen[i]);
    cluster_destroy(c);
}

Test(node_export, of_nothing_is_a_file_without_rows)
{
    struct cluster *c = with_words(1, 1, 1, 1, NULL);
    int seen[1];

    cr_assert_eq(export_shard(c, 1, 0, "home/none")->status, VSHARD_OK);
    cr_assert_eq(read_file(c, 1, "home/none", 0, seen, 0), (uint64_t)0);
    cluster_destroy(c);
}

Test(node_export, refuses_what_is_not_there)
{
    struct cluster *c = with_words(3, 3, 1, 1, NULL);
    uint64_t leader = cluster_leader(c, "words", 0);
    const struct vshard_node_export unknown = {
        .size = sizeof unknown, .tag = 1, .collection = "others", .path = "home/x"
    };

    cr_assert_eq(export_begin(c, leader, 1, "home/x"), VSHARD_EINVAL);
    cr_assert_eq(export_begin(c, leader, 0, NULL), VSHARD_EINVAL);
    cr_assert_eq(export_begin(c, leader, 0, ""), VSHARD_EINVAL);
    cr_assert_eq(export_begin(c, leader % 3 + 1, 0, "home/x"), VSHARD_ENOTFOUND);
    cr_assert_eq(vshard_node_export(c->node[leader].node, c->now, &unknown), VSHARD_ENOTFOUND);
    cr_assert_eq(export_shard(c, leader, 0, "nowhere/x")->status, VSHARD_ENOTFOUND);
    cluster_destroy(c);
}

Test(node_export, that_fails_leaves_no_file)
{
    struct cluster *c = with_words(1, 1, 1, 1, NULL);
    const struct fault_rule rule[] = {
        { 1, 1u << VSHARD_IO_OPEN, FAULT_ONCE, FAULT_FAIL, VSHARD_EIO },
        { 1, 1u << VSHARD_IO_WRITE, FAULT_ONCE, FAULT_FAIL, VSHARD_ENOSPC },
        { 3, 1u << VSHARD_IO_WRITE, FAULT_ONCE, FAULT_SHORT, VSHARD_ENOSPC },
        { 1, 1u << VSHARD_IO_RENAME, FAULT_ONCE, FAULT_FAIL, VSHARD_EIO }
    };

    written(c, 1, 0, 50, 1, 0);
    cluster_run(c, 3000 * MS); /* the log is at rest: what fails now is the export's */
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        struct cluster_answer *a;
        size_t bytes;

        fault_storage_rule(c->node[1].disk, &rule[i]);
        a = export_shard(c, 1, 0, "home/x");
        cr_assert_eq(a->status, rule[i].status, "fault %d: %s", (int)i, vshard_strerror(a->status));
        cr_assert_null(fault_storage_bytes(c->node[1].disk, "home/x", &bytes));
        cr_assert_null(fault_storage_bytes(c->node[1].disk, "home/x.tmp", &bytes));
        fault_storage_heal(c->node[1].disk);
    }
    expect_rows(c, 1, 0, 50, 1);
    cluster_destroy(c);
}
