/* wal_replay.c - any bytes in a log's directory are a log or a status, and what is a log means
 * one thing.
 *
 * Byte 0 of the input picks what is made right first, so that the fuzzer comes past the checksums:
 * the superblock and the segment's header, or else they are the input's next bytes; and then either
 * the tags of whatever stands in the segment, or the rest is a row of records, a few bytes each,
 * which are laid out in batches as the log would. The log is opened as it is, and to salvage;
 * what a walk over all of it shows is what each group shows by itself, and so it is after more was
 * written and the log was opened again. */
#include <stdio.h>
#include <stdlib.h>

#include "support/fault_storage.h"
#include "wal/format.h"
#include "wal/wal.h"

#define SUPER   "log/wal.super"
#define SEGMENT "log/0000000000000001.wal"

enum { SEGMENT_BYTES = 64 << 10, GROUPS = 64, BODY = 4096 };

struct input {
    const uint8_t *at;
    size_t left;
};

static uint8_t take(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

static void take_bytes(struct input *in, void *to, size_t count)
{
    size_t n = count < in->left ? count : in->left;

    if (n > 0)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

static int read_key(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    memset(key, (int)key_id, VS_SEAL_KEY);
    return 0;
}

/* ---- what stands in the segment ---- */

/* One record of few bytes; false: the batch ends here. */
static bool add_record(struct input *in, unsigned char *body, size_t *used, uint32_t *records)
{
    static const unsigned char zeros[64];
    uint8_t what = take(in), index, rest;
    struct vs_wal_record r = { .kind = what & 15, .group = what >> 4 & 3 };

    if (r.kind < VSHARD_WAL_ENTRY || r.kind > VSHARD_WAL_RESET || in->left == 0)
        return false;
    index = take(in);
    rest = take(in);
    r.index = index;
    r.term = rest & 15;
    r.bytes = (rest >> 4) * 4u;
    r.payload = zeros;
    if (*used + vs_wal_record_bytes(r.bytes) > BODY)
        return false;
    *used += vs_wal_record_write(&r, body + *used, NULL, 0);
    ++*records;
    return true;
}

/* Batches of such records, for as long as there are any and room for them. */
static void lay_out(struct input *in, unsigned char *segment, uint64_t digest)
{
    static unsigned char image[VS_WAL_HEAD + BODY];
    size_t at = VS_WAL_START;

    for (uint64_t seq = 1; in->left > 0; seq++) {
        struct vs_wal_head h = { .seq = seq, .prev = digest };
        size_t used = 0;

        while (add_record(in, image + VS_WAL_HEAD, &used, &h.records))
            ;
        h.stored = h.raw = (uint32_t)used;
        if (at + vs_wal_sectors(used) * VS_WAL_SECTOR > SEGMENT_BYTES)
            return;
        vs_wal_head_write(&h, image);
        digest = vs_wal_stripe(image, VS_WAL_HEAD + used, segment + at, &h);
        at += vs_wal_sectors(used) * VS_WAL_SECTOR;
    }
}

/* Gives whole batches one after the other the header and tags they should have. */
static void make_right(unsigned char *segment, size_t count, uint64_t digest)
{
    static unsigned char image[SEGMENT_BYTES];
    size_t at = VS_WAL_START;

    for (uint64_t seq = 1; at + VS_WAL_SECTOR <= count; seq++) {
        struct vs_wal_head h = { .seq = seq, .prev = digest };
        size_t sectors;

        h.flags = segment[at + 6] & VS_WAL_PACKED;
        h.stored = vs_load32(segment + at + 64) % 8192;
        h.raw = h.flags ? vs_load32(segment + at + 68) % 65536 : h.stored;
        h.records = segment[at + 72];
        if (h.records > h.raw / VS_WAL_RECORD)
            h.records = h.raw / VS_WAL_RECORD;
        sectors = vs_wal_sectors(h.stored);
        if (at + sectors * VS_WAL_SECTOR > count)
            return;
        for (size_t i = 0; i < sectors; i++)
            memcpy(image + i * VS_WAL_DATA, segment + at + i * VS_WAL_SECTOR, VS_WAL_DATA);
        vs_wal_head_write(&h, image);
        digest = vs_wal_stripe(image, VS_WAL_HEAD + h.stored, segment + at, &h);
        at += sectors * VS_WAL_SECTOR;
    }
}

static void prepare(struct fault_storage *fs, struct input in)
{
    static unsigned char super[VS_WAL_SUPER_BYTES], segment[SEGMENT_BYTES];
    struct vs_wal_super right = { .next_segment = 2, .generation = 1, .incarnation = 1 };
    uint8_t pick = take(&in);
    size_t count = SEGMENT_BYTES;

    memset(super, 0, sizeof super);
    memset(segment, 0, sizeof segment);
    right.durable.digest = right.floor.digest = vs_wal_first_digest(0);
    if (pick & 1)
        vs_wal_super_write(&right, &(struct vs_wal_key){ 0 }, super);
    else
        take_bytes(&in, super, VS_WAL_SECTOR);
    for (size_t i = 1; i < VS_WAL_SUPER_SLOTS; i++)
        memcpy(super + i * VS_WAL_SUPER_SLOT, super, VS_WAL_SECTOR);
    if (pick & 2)
        vs_wal_segment_write(&(struct vs_wal_segment_head){ .segment = 1 }, segment);
    else
        take_bytes(&in, segment, VS_WAL_SECTOR);
    if (pick & 4) {
        lay_out(&in, segment, right.floor.digest);
    } else {
        count = VS_WAL_START + (in.left < 40000 ? in.left : 40000);
        take_bytes(&in, segment + VS_WAL_START, count - VS_WAL_START);
        if (pick & 8)
            make_right(segment, count, right.floor.digest);
    }
    fault_storage_mkdir(fs, "log");
    fault_storage_put(fs, SUPER, super, sizeof super);
    fault_storage_put(fs, SEGMENT, segment, count);
}

/* ---- what the log shows ---- */

/* Entries of one group, one after the other. */
struct seen {
    uint64_t id, count, next, hash;
};

struct view {
    struct seen group[GROUPS];
    size_t count;
};

static _Noreturn void wrong(const char *what, uint64_t id)
{
    fprintf(stderr, "group %llu: %s\n", (unsigned long long)id, what);
    abort();
}

static struct seen *seen_of(struct view *v, uint64_t id)
{
    for (size_t i = 0; i < v->count; i++) {
        if (v->group[i].id == id)
            return &v->group[i];
    }
    return NULL;
}

static int see(void *ctx, const struct vshard_wal_record *r, const struct vshard_wal_place *p)
{
    struct seen *s = seen_of(ctx, r->group);

    (void)p;
    if (s == NULL || r->kind != VSHARD_WAL_ENTRY)
        return 0;
    if (s->count > 0 && r->index != s->next)
        wrong("entries do not follow each other", s->id);
    s->count++;
    s->next = r->index + 1;
    s->hash = vs_mix64(s->hash ^ r->index) ^ vs_mix64(r->term) ^
              vs_checksum(r->payload, r->payload_bytes, r->index);
    return 0;
}

static int touch(void *ctx, const struct vshard_wal_record *r, const struct vshard_wal_place *p)
{
    volatile unsigned char byte;

    (void)ctx, (void)p;
    for (uint32_t i = 0; i < r->payload_bytes; i++)
        byte = ((const unsigned char *)r->payload)[i];
    (void)byte;
    return 0;
}

/* What each group holds, found in both ways. */
static void look(struct vshard_wal *wal, struct view *all)
{
    static struct view each;
    const struct vshard_wal_visitor walk = { see, all }, read = { see, &each };
    uint64_t ids[GROUPS];

    memset(all, 0, sizeof *all);
    if (vshard_wal_groups(wal, 0, ids, GROUPS, &all->count) != VSHARD_OK)
        wrong("the groups are not listed", 0);
    for (size_t i = 0; i < all->count; i++)
        all->group[i].id = ids[i];
    each = *all;
    if (vshard_wal_replay(wal, &walk) != VSHARD_OK)
        wrong("what was opened is not replayed", 0);
    for (size_t i = 0; i < all->count; i++) {
        struct vshard_wal_group about = { .size = sizeof about };
        struct seen *s = &each.group[i];

        if (vshard_wal_find(wal, s->id, &about) != VSHARD_OK ||
            vshard_wal_read(wal, s->id, about.first, &read) != VSHARD_OK)
            wrong("is listed and not found", s->id);
        if (s->count != 0 && (about.last + 1 != s->next || about.first + s->count != s->next))
            wrong("its entries are not those it is said to hold", s->id);
        if (memcmp(s, &all->group[i], sizeof *s) != 0)
            wrong("replay shows other entries than read", s->id);
    }
}

/* One more entry for each group, and a vote; rounds of them, so that groups are carried forward. */
static int write_more(struct vshard_wal *wal, const struct view *v)
{
    static const unsigned char payload[3000];
    struct vshard_wal_stats stats = { .size = sizeof stats };
    int rc = VSHARD_OK;

    for (size_t i = 0; i < v->count && rc == VSHARD_OK; i++) {
        struct vshard_wal_group about = { .size = sizeof about };
        struct vshard_wal_record r[2] = { { .kind = VSHARD_WAL_ENTRY, .payload = payload },
                                          { .kind = VSHARD_WAL_VOTE, .term = 9, .index = 1 } };

        rc = vshard_wal_find(wal, v->group[i].id, &about);
        r[0].group = r[1].group = v->group[i].id;
        r[0].index = about.last + 1;
        r[0].term = about.last_term;
        r[0].payload_bytes = i % 2 ? sizeof payload : 5;
        if (rc == VSHARD_OK && r[0].index != 0 && r[0].index != UINT64_MAX)
            rc = vshard_wal_append(wal, r, 2, NULL);
    }
    if (rc == VSHARD_OK)
        rc = vshard_wal_stats_read(wal, &stats);
    return rc == VSHARD_OK ? vshard_wal_sync(wal, stats.appended) : rc;
}

static void go_on(struct vshard_wal_options *o, struct vshard_wal *wal)
{
    static struct view before, after;

    look(wal, &before);
    for (uint32_t i = 0; i < 3; i++) {
        if (vshard_wal_rotate(wal, 0) != VSHARD_OK || write_more(wal, &before) != VSHARD_OK)
            wrong("nothing more can be written", i);
    }
    look(wal, &before);
    vshard_wal_close(wal);
    o->flags = 0;
    if (vshard_wal_open(o, NULL, &wal) != VSHARD_OK)
        wrong("what was closed is not opened", 0);
    look(wal, &after);
    if (memcmp(&before, &after, sizeof after) != 0)
        wrong("another log is opened than was closed", 0);
    vshard_wal_close(wal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vshard_wal_visitor all = { touch, NULL };
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .key = read_key };

    for (uint32_t i = 0; size > 0 && i < 2; i++) {
        struct fault_storage *fs = fault_storage_create(1);
        struct vshard_wal_options o = { .size = sizeof o,
                                        .flags = i == 0 ? VSHARD_WAL_READ_ONLY : VSHARD_WAL_SALVAGE,
                                        .segment_bytes = SEGMENT_BYTES,
                                        .rewrite_above = 2,
                                        .path = "log",
                                        .storage = fault_storage_hook(fs),
                                        .hooks = &hooks };
        struct vshard_wal *wal;

        prepare(fs, (struct input){ data, size });
        if (vshard_wal_open(&o, NULL, &wal) == VSHARD_OK) {
            vshard_wal_scan(wal, &all);
            if (i == 1)
                go_on(&o, wal);
            else
                vshard_wal_close(wal);
        }
        if (fault_storage_verdict(fs) != NULL)
            wrong(fault_storage_verdict(fs), 0);
        fault_storage_destroy(fs);
    }
    return 0;
}
