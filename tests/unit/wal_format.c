/* wal_format.c - a sector is known by its bytes, its place, its batch and the past.
 *
 * Method: a batch of eight sectors is cut up; then each sector is moved to each
 * other's place, and to another batch, and to a batch with another past. Headers
 * and records meet every flipped bit and every version that is not theirs. */
#include <criterion/criterion.h>

#include "wal/format.h"
#include "wal/wal.h"

enum { SECTORS = 8 };

static unsigned char image[SECTORS * VS_WAL_DATA], sectors[SECTORS * VS_WAL_SECTOR];
static const struct vs_wal_head head = { .seq = 5, .prev = 1234, .stored = 3900, .raw = 3900 };

static uint64_t stripe(void)
{
    for (size_t i = 0; i < sizeof image; i++)
        image[i] = (unsigned char)(i * 7);
    vs_wal_head_write(&head, image);
    return vs_wal_stripe(image, VS_WAL_HEAD + head.stored, sectors, &head);
}

Test(wal_format, knows_each_sector_in_its_place_only)
{
    struct vs_wal_head later = head, other = head;

    stripe();
    later.seq++;
    other.prev++;
    for (uint64_t at = 0; at < SECTORS; at++) {
        const unsigned char *sector = sectors + at * VS_WAL_SECTOR;

        for (uint64_t place = 0; place < SECTORS; place++)
            cr_expect_eq(vs_wal_judge(sector, &head, place),
                         place == at ? VS_WAL_MEMBER : VS_WAL_ALIEN, "%lu at %lu",
                         (unsigned long)at, (unsigned long)place);
        cr_expect_eq(vs_wal_judge(sector, &later, at), VS_WAL_ALIEN);
        cr_expect_eq(vs_wal_judge(sector, &other, at), VS_WAL_ALIEN);
    }
}

Test(wal_format, puts_together_what_it_cut_up)
{
    unsigned char back[sizeof image];
    uint64_t digest = stripe(), again = 0;

    cr_assert_eq(vs_wal_sectors(head.stored), SECTORS);
    cr_assert_eq(vs_wal_unstripe(sectors, SECTORS, back, &head, &again), SECTORS);
    cr_expect_eq(digest, again);
    cr_expect_eq(memcmp(back, image, VS_WAL_HEAD + head.stored), 0);
    for (size_t i = 0; i < SECTORS; i++) {
        sectors[i * VS_WAL_SECTOR + 300] ^= 1;
        cr_expect_eq(vs_wal_unstripe(sectors, SECTORS, back, &head, &again), i);
        sectors[i * VS_WAL_SECTOR + 300] ^= 1;
    }
}

Test(wal_format, calls_a_sector_with_one_flipped_bit_empty)
{
    unsigned char zeros[VS_WAL_SECTOR] = { 0 };

    for (size_t bit = 0; bit < VS_WAL_SECTOR * 8; bit++) {
        zeros[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_eq(vs_wal_judge(zeros, &head, 0), VS_WAL_EMPTY, "bit %zu", bit);
        zeros[bit / 8] = 0;
    }
    zeros[3] = 3;
    cr_expect_eq(vs_wal_judge(zeros, &head, 0), VS_WAL_ALIEN);
}

Test(wal_format, refuses_headers_with_a_flipped_bit)
{
    static unsigned char slot[VS_WAL_START], small[VS_WAL_HEAD];
    struct vs_wal_super super = { .log_id = 7, .generation = 3 };
    struct vs_wal_head h = head;

    vs_wal_head_write(&head, small);
    cr_assert_eq(vs_wal_head_read(small, &h), VSHARD_OK);
    cr_expect_eq(h.seq, 5);
    for (size_t bit = 0; bit < VS_WAL_HEAD * 8; bit++) {
        small[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_eq(vs_wal_head_read(small, &h), VSHARD_ECORRUPT, "head, bit %zu", bit);
        small[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    vs_wal_super_write(&super, &(struct vs_wal_key){ 0 }, slot);
    cr_assert_eq(vs_wal_super_read(slot, &super), VSHARD_OK);
    for (size_t bit = 0; bit < 512 * 8; bit++) {
        slot[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_eq(vs_wal_super_read(slot, &super), VSHARD_ECORRUPT, "super, bit %zu", bit);
        slot[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
}

/* Rewrites a byte and the checksum after it: what a newer library would write. */
static void as_if_newer(unsigned char *p, size_t at, size_t checksum)
{
    p[at]++;
    vs_store64(p + checksum, vs_checksum(p, checksum, 0));
}

Test(wal_format, says_version_to_what_is_newer)
{
    static unsigned char bytes[VS_WAL_START];
    struct vs_wal_segment_head segment = { .log_id = 7, .segment = 1 };
    struct vs_wal_super super = { .log_id = 7 };
    struct vs_wal_head h = head;
    struct vs_wal_record r = { .kind = VSHARD_WAL_RESET + 1 };
    size_t at = 0;

    vs_wal_head_write(&head, bytes);
    as_if_newer(bytes, 4, 88);
    cr_expect_eq(vs_wal_head_read(bytes, &h), VSHARD_EVERSION);
    segment.ahead = 1; /* the newest version there is */
    vs_wal_segment_write(&segment, bytes);
    as_if_newer(bytes, 8, 504);
    cr_expect_eq(vs_wal_segment_read(bytes, &segment), VSHARD_EVERSION);
    vs_wal_super_write(&super, &(struct vs_wal_key){ 0 }, bytes);
    as_if_newer(bytes, 13, 504); /* a flag */
    cr_expect_eq(vs_wal_super_read(bytes, &super), VSHARD_EVERSION);
    vs_wal_record_write(&r, bytes, NULL, 0);
    cr_expect_eq(vs_wal_record_read(bytes, VS_WAL_RECORD, &at, &r), VSHARD_EVERSION);
}

Test(wal_format, reads_no_record_past_the_end)
{
    unsigned char bytes[256];
    struct vs_wal_record r = { 1, 2, 3, 100, VSHARD_WAL_ENTRY, image };
    size_t total = vs_wal_record_write(&r, bytes, NULL, 0);

    cr_expect_eq(total, 136);
    for (size_t cut = 0; cut < total; cut++) {
        size_t at = 0;
        cr_assert_eq(vs_wal_record_read(bytes, cut, &at, &r), VSHARD_ECORRUPT, "%zu", cut);
    }
    vs_store32(bytes + 24, UINT32_MAX);
    total = 0;
    cr_expect_eq(vs_wal_record_read(bytes, sizeof bytes, &total, &r), VSHARD_ECORRUPT);
}
