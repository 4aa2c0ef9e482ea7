/* format.c - the bytes of the write-ahead log. Pure: no file is touched here.
 *
 * A log is a directory with one superblock and a run of segments:
 *
 *     wal.super                what has been witnessed, and where the log begins
 *     0000000000000001.wal     segments, by rising number, with gaps
 *     0000000000000002.wal
 *     wal.spare0, wal.spare1   segments that the log has left, and may make others of
 *
 * A segment is a header and a run of batches. A batch is what one sync makes
 * durable: records of any groups, under one number, the barrier.
 *
 *     segment    header, twice | zeros to 4096 | batch | batch | ... | zeros | of before
 *
 *     batch      header | body          cut into sectors of 512 bytes:
 *     sector     504 bytes of the batch, zeros behind its end | tag
 *
 * Batches begin on sectors. The space behind the last batch reads as zeros, which
 * were written ahead and synced: all of it, or in a file that was a segment before as many
 * sectors as its header says, behind which batches of that segment may stand, with lower
 * numbers.
 *
 * Tags. Sector i of batch n carries
 *
 *     tag(n, i) = mix(XXH3(the 504 bytes) ^ (mix(digest(n-1) ^ mix(n)) + i))
 *
 * where mix is the finaliser of MurmurHash3 (a bijection of 64 bits), and the
 * digest chains the tags: digest(n) starts as digest(n-1), and for each tag in
 * order becomes mix(digest + tag). digest(0) = mix(log id ^ "VSWALLOG"). So a tag
 * vouches for the bytes, for the sector's place in its batch, for the batch's
 * number and, through the digest, for every batch before it. That a whole sector
 * can be recognised alone is what recovery lives on: after a crash each sector of
 * the last batch either was written or still is zeros, and each that is neither
 * has been damaged (recover.c). A checksum over the whole batch could not tell.
 *
 *     batch        0   4   magic "VSB" and a zero byte
 *     header       4   2   version, 1
 *     96 bytes     6   2   flags: 1 packed, 2 sealed
 *                  8   8   log id
 *                 16   8   n, the barrier: one more than the batch before
 *                 24   8   digest(n-1)
 *                 32   8   witness: a barrier that was durable before this was written,
 *                 40   8     the segment it ends in,
 *                 48   8     its end in that segment,
 *                 56   8     and its digest
 *                 64   4   body bytes as stored
 *                 68   4   body bytes raw
 *                 72   4   records
 *                 76  12   zeros
 *                 88   8   XXH3 of bytes 0..87
 *
 *     body: records, packed as one LZ4 block if flag 1, then sealed if flag 2
 *
 *     record       0   8   group
 *     32 bytes     8   8   index
 *     + payload   16   8   term
 *     + zeros     24   4   payload bytes
 *     to 8 bytes  28   1   kind, VSHARD_WAL_*
 *                 29   3   zeros
 *
 *     segment      0   8   magic "VSWALSEG"
 *     header       8   4   version, 1; 2 if `ahead` is not 0
 *     512 bytes,  12   4   cipher: 0 none, 1 XChaCha20-Poly1305, 2 AES-256-GCM
 *     at 0 and    16   8   log id
 *     at 512      24   8   segment
 *                 32   4   key id, 0 none
 *                 36   4   ahead: sectors behind the last batch that are zeros, 0 all
 *                 40  32   salt
 *                 72  16   key check
 *                 88       zeros
 *                504   8   XXH3 of bytes 0..503
 *
 * Seals. The subkey of a segment is BLAKE2b-256 of its salt under the host's key;
 * the salt is drawn when the file is made and a file is never reopened for writing,
 * so no run of the process repeats another's nonces. The nonce is n, the batch's
 * offset and zeros, of which AES-256-GCM takes the first 12 bytes; a batch that has to be written
 * again is written with the same bytes. The batch's header is the seal's context. Sectors are
 * tagged after sealing: what a crash tore can be judged without the key. A batch whose tags are
 * right and whose seal is not has been forged.
 *
 *     superblock   0   8   magic "VSWALSUP"
 *     512 bytes    8   4   version, 1
 *     at each of  12   4   flags: 1 unsettled
 *     0, 4096,    16   8   log id
 *     8192 and    24   8   generation
 *     12288       32  32   durable: barrier, digest, segment, end
 *                 64  32   floor: barrier before the first segment's first batch, its
 *                          digest, the first segment, 4096
 *                 96   8   the first barrier that may be missing, if unsettled
 *                104   8   next segment number
 *                112   8   incarnation: drawn when the log was made
 *                120   8   boot: how often the log was opened to be written
 *                128   4   key id, 0 none
 *                132   4   zeros
 *                136  16   key check
 *                152  32   signature: BLAKE2b-256 of bytes 0..151, if there is a key,
 *                          under the subkey for the salt "vshard superblock", zeros
 *                          to 24 bytes, log id
 *                184       zeros
 *                504   8   XXH3 of bytes 0..503
 *
 * Two slots are written at a time, the pair that is older, so that neither a torn
 * write nor one flipped bit loses the newest. The highest generation counts.
 *
 * Integers are little-endian. XXH3 finds accidents, not forgeries. Unknown versions,
 * flags and kinds are refused with VSHARD_EVERSION: the file is newer, not damaged.
 * Numbers that count (barriers, segments, generations, starts) stay below 2^63: no log has
 * come further, and the next one is always there.
 *
 * Not here: what a sequence of sectors means (recover.c), what records mean
 * (groups.c), when anything is written (flight.c). */
#include "wal/format.h"

#include <vshard/wal.h>

enum { SEGMENT_HEAD = 512, HEAD_CHECKSUM = 88, SMALL_CHECKSUM = 504, SIGNATURE = 152 };

static const unsigned char batch_magic[4] = { 'V', 'S', 'B', 0 };
static const unsigned char segment_magic[8] = { 'V', 'S', 'W', 'A', 'L', 'S', 'E', 'G' };
static const unsigned char super_magic[8] = { 'V', 'S', 'W', 'A', 'L', 'S', 'U', 'P' };

uint64_t vs_wal_first_digest(uint64_t log_id)
{
    return vs_mix64(log_id ^ 0x474f4c4c41575356u); /* "VSWALLOG" */
}

size_t vs_wal_sectors(uint64_t stored)
{
    return (size_t)((VS_WAL_HEAD + stored + VS_WAL_DATA - 1) / VS_WAL_DATA);
}

static uint64_t tag_seed(const struct vs_wal_head *head)
{
    return vs_mix64(head->prev ^ vs_mix64(head->seq));
}

static uint64_t tag_of(const unsigned char *sector, uint64_t seed, uint64_t nth)
{
    return vs_mix64(vs_checksum(sector, VS_WAL_DATA, 0) ^ (seed + nth));
}

uint64_t vs_wal_stripe(const unsigned char *image, size_t bytes, unsigned char *sectors,
                       const struct vs_wal_head *head)
{
    uint64_t seed = tag_seed(head), digest = head->prev;

    for (uint64_t i = 0; bytes > 0; i++, sectors += VS_WAL_SECTOR) {
        size_t n = bytes < VS_WAL_DATA ? bytes : VS_WAL_DATA;
        uint64_t tag;

        memcpy(sectors, image, n);
        memset(sectors + n, 0, VS_WAL_DATA - n);
        tag = tag_of(sectors, seed, i);
        vs_store64(sectors + VS_WAL_DATA, tag);
        digest = vs_mix64(digest + tag);
        image += n;
        bytes -= n;
    }
    return digest;
}

size_t vs_wal_unstripe(const unsigned char *sectors, size_t count, unsigned char *image,
                       const struct vs_wal_head *head, uint64_t *digest)
{
    uint64_t seed = tag_seed(head), chain = head->prev;

    for (size_t i = 0; i < count; i++, sectors += VS_WAL_SECTOR) {
        uint64_t tag = vs_load64(sectors + VS_WAL_DATA);

        if (tag != tag_of(sectors, seed, i))
            return i;
        chain = vs_mix64(chain + tag);
        if (image != NULL)
            memcpy(image + i * VS_WAL_DATA, sectors, VS_WAL_DATA);
    }
    *digest = chain;
    return count;
}

/* Zeros; or all but, since one flipped bit does not make an empty sector a full one. */
static bool empty(const unsigned char *p)
{
    uint64_t any = 0, one;
    unsigned bits = 0;

    for (size_t i = 0; i < VS_WAL_SECTOR; i += 8) {
        memcpy(&one, p + i, 8);
        any |= one;
    }
    for (size_t i = 0; any != 0 && i < VS_WAL_SECTOR && bits < 2; i += 8)
        bits += (unsigned)__builtin_popcountll(vs_load64(p + i));
    return bits < 2;
}

enum vs_wal_sector vs_wal_judge(const unsigned char *sector, const struct vs_wal_head *head,
                                uint64_t nth)
{
    if (empty(sector))
        return VS_WAL_EMPTY;
    return vs_load64(sector + VS_WAL_DATA) == tag_of(sector, tag_seed(head), nth) ? VS_WAL_MEMBER
                                                                                  : VS_WAL_ALIEN;
}

static void put_point(unsigned char *to, const struct vs_wal_point *p)
{
    vs_store64(to, p->seq);
    vs_store64(to + 8, p->digest);
    vs_store64(to + 16, p->segment);
    vs_store64(to + 24, p->end);
}

static void take_point(const unsigned char *from, struct vs_wal_point *p)
{
    p->seq = vs_load64(from);
    p->digest = vs_load64(from + 8);
    p->segment = vs_load64(from + 16);
    p->end = vs_load64(from + 24);
}

void vs_wal_head_write(const struct vs_wal_head *head, unsigned char *to)
{
    memset(to, 0, VS_WAL_HEAD);
    memcpy(to, batch_magic, sizeof batch_magic);
    vs_store16(to + 4, VS_WAL_VERSION);
    vs_store16(to + 6, (uint16_t)head->flags);
    vs_store64(to + 8, head->log_id);
    vs_store64(to + 16, head->seq);
    vs_store64(to + 24, head->prev);
    vs_store64(to + 32, head->durable.seq);
    vs_store64(to + 40, head->durable.segment);
    vs_store64(to + 48, head->durable.end);
    vs_store64(to + 56, head->durable.digest);
    vs_store32(to + 64, head->stored);
    vs_store32(to + 68, head->raw);
    vs_store32(to + 72, head->records);
    vs_store64(to + HEAD_CHECKSUM, vs_checksum(to, HEAD_CHECKSUM, 0));
}

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

int vs_wal_head_read(const unsigned char *from, struct vs_wal_head *head)
{
    if (memcmp(from, batch_magic, sizeof batch_magic) != 0 ||
        vs_load64(from + HEAD_CHECKSUM) != vs_checksum(from, HEAD_CHECKSUM, 0))
        return VSHARD_ECORRUPT;
    head->flags = vs_load16(from + 6);
    if (vs_load16(from + 4) != VS_WAL_VERSION ||
        (head->flags & ~(uint32_t)(VS_WAL_PACKED | VS_WAL_SEALED)) != 0 ||
        !all_zero(from + 76, HEAD_CHECKSUM - 76))
        return VSHARD_EVERSION;
    head->log_id = vs_load64(from + 8);
    head->seq = vs_load64(from + 16);
    head->prev = vs_load64(from + 24);
    head->durable.seq = vs_load64(from + 32);
    head->durable.segment = vs_load64(from + 40);
    head->durable.end = vs_load64(from + 48);
    head->durable.digest = vs_load64(from + 56);
    head->stored = vs_load32(from + 64);
    head->raw = vs_load32(from + 68);
    head->records = vs_load32(from + 72);
    if (head->stored > VS_WAL_BATCH_MAX || head->raw > VS_WAL_BATCH_MAX ||
        head->records > head->raw / VS_WAL_RECORD || head->seq == 0 || head->seq >> 63)
        return VSHARD_ECORRUPT;
    return VSHARD_OK;
}

/* The sector must carry the tag that its own header asks for: bytes that look like
 * a header, somewhere in a payload, do not. */
bool vs_wal_head_found(const unsigned char *sector, uint64_t log_id, struct vs_wal_head *head)
{
    return memcmp(sector, batch_magic, sizeof batch_magic) == 0 &&
           vs_wal_head_read(sector, head) == VSHARD_OK && head->log_id == log_id &&
           vs_wal_judge(sector, head, 0) == VS_WAL_MEMBER;
}

void vs_wal_segment_write(const struct vs_wal_segment_head *head, unsigned char *to)
{
    memset(to, 0, VS_WAL_START);
    memcpy(to, segment_magic, sizeof segment_magic);
    vs_store32(to + 8, head->ahead != 0 ? VS_WAL_VERSION_AHEAD : VS_WAL_VERSION);
    vs_store32(to + 12, head->cipher);
    vs_store64(to + 16, head->log_id);
    vs_store64(to + 24, head->segment);
    vs_store32(to + 32, head->key_id);
    vs_store32(to + 36, head->ahead);
    memcpy(to + 40, head->salt, sizeof head->salt);
    memcpy(to + 72, head->check, sizeof head->check);
    vs_store64(to + SMALL_CHECKSUM, vs_checksum(to, SMALL_CHECKSUM, 0));
    memcpy(to + SEGMENT_HEAD, to, SEGMENT_HEAD);
}

static int segment_copy(const unsigned char *from, struct vs_wal_segment_head *head)
{
    uint32_t version = vs_load32(from + 8), cipher = vs_load32(from + 12);

    if (memcmp(from, segment_magic, sizeof segment_magic) != 0 ||
        vs_load64(from + SMALL_CHECKSUM) != vs_checksum(from, SMALL_CHECKSUM, 0))
        return VSHARD_ECORRUPT;
    if (version < VS_WAL_VERSION || version > VS_WAL_VERSION_AHEAD || cipher > VS_CIPHER_AES256_GCM)
        return VSHARD_EVERSION;
    head->log_id = vs_load64(from + 16);
    head->segment = vs_load64(from + 24);
    head->key_id = vs_load32(from + 32);
    head->ahead = vs_load32(from + 36);
    memcpy(head->salt, from + 40, sizeof head->salt);
    memcpy(head->check, from + 72, sizeof head->check);
    head->cipher = cipher;
    return (cipher != VS_CIPHER_NONE) == (head->key_id != 0) ? VSHARD_OK : VSHARD_ECORRUPT;
}

int vs_wal_segment_read(const unsigned char *from, struct vs_wal_segment_head *head)
{
    int rc = segment_copy(from, head);

    return rc == VSHARD_ECORRUPT ? segment_copy(from + SEGMENT_HEAD, head) : rc;
}

void vs_wal_super_salt(uint64_t log_id, uint8_t salt[VS_SEAL_SALT])
{
    static const char label[] = "vshard superblock";

    memset(salt, 0, VS_SEAL_SALT);
    memcpy(salt, label, sizeof label - 1);
    vs_store64(salt + 24, log_id);
}

int vs_wal_super_write(const struct vs_wal_super *super, const struct vs_wal_key *key,
                       unsigned char *to)
{
    int rc = VSHARD_OK;

    memset(to, 0, VS_WAL_SUPER_SLOT);
    memcpy(to, super_magic, sizeof super_magic);
    vs_store32(to + 8, VS_WAL_VERSION);
    vs_store32(to + 12, super->flags);
    vs_store64(to + 16, super->log_id);
    vs_store64(to + 24, super->generation);
    put_point(to + 32, &super->durable);
    put_point(to + 64, &super->floor);
    vs_store64(to + 96, super->unsettled_from);
    vs_store64(to + 104, super->next_segment);
    vs_store64(to + 112, super->incarnation);
    vs_store64(to + 120, super->boot);
    vs_store32(to + 128, key->id);
    memcpy(to + 136, key->check, sizeof key->check);
    if (key->id != 0)
        rc = vs_seal_sign(to + SIGNATURE, key->subkey, to, SIGNATURE);
    vs_store64(to + SMALL_CHECKSUM, vs_checksum(to, SMALL_CHECKSUM, 0));
    return rc;
}

int vs_wal_super_signed(const unsigned char *from, const struct vs_wal_key *key)
{
    return vs_seal_signed(from + SIGNATURE, key->subkey, from, SIGNATURE);
}

int vs_wal_super_read(const unsigned char *from, struct vs_wal_super *super)
{
    uint64_t numbers;

    if (memcmp(from, super_magic, sizeof super_magic) != 0 ||
        vs_load64(from + SMALL_CHECKSUM) != vs_checksum(from, SMALL_CHECKSUM, 0))
        return VSHARD_ECORRUPT;
    super->flags = vs_load32(from + 12);
    if (vs_load32(from + 8) != VS_WAL_VERSION || (super->flags & ~(uint32_t)VS_WAL_UNSETTLED) != 0)
        return VSHARD_EVERSION;
    super->log_id = vs_load64(from + 16);
    super->generation = vs_load64(from + 24);
    take_point(from + 32, &super->durable);
    take_point(from + 64, &super->floor);
    super->unsettled_from = vs_load64(from + 96);
    super->next_segment = vs_load64(from + 104);
    super->incarnation = vs_load64(from + 112);
    super->boot = vs_load64(from + 120);
    super->key_id = vs_load32(from + 128);
    super->reserved = 0;
    memcpy(super->check, from + 136, sizeof super->check);
    numbers = super->generation | super->durable.seq | super->floor.seq | super->floor.segment |
              super->next_segment | super->boot;
    return numbers >> 63 == 0 ? VSHARD_OK : VSHARD_ECORRUPT;
}

size_t vs_wal_record_bytes(uint64_t payload_bytes)
{
    return (size_t)(VS_WAL_RECORD + (payload_bytes + 7) / 8 * 8);
}

size_t vs_wal_record_write(const struct vs_wal_record *r, unsigned char *to, const void *head,
                           size_t head_bytes)
{
    size_t total = vs_wal_record_bytes(r->bytes), tail = r->bytes - head_bytes;

    vs_store64(to, r->group);
    vs_store64(to + 8, r->index);
    vs_store64(to + 16, r->term);
    vs_store32(to + 24, r->bytes);
    vs_store32(to + 28, r->kind);
    memset(to + total - 8, 0, total > VS_WAL_RECORD ? 8 : 0);
    if (head_bytes > 0)
        memcpy(to + VS_WAL_RECORD, head, head_bytes);
    if (tail > 0)
        memcpy(to + VS_WAL_RECORD + head_bytes, r->payload, tail);
    return total;
}

int vs_wal_record_read(const unsigned char *body, size_t bytes, size_t *at, struct vs_wal_record *r)
{
    const unsigned char *from = body + *at;
    uint32_t kind;

    if (bytes - *at < VS_WAL_RECORD)
        return VSHARD_ECORRUPT;
    r->group = vs_load64(from);
    r->index = vs_load64(from + 8);
    r->term = vs_load64(from + 16);
    r->bytes = vs_load32(from + 24);
    kind = vs_load32(from + 28);
    if (kind < VSHARD_WAL_ENTRY || kind > VSHARD_WAL_RESET)
        return VSHARD_EVERSION;
    r->kind = (uint8_t)kind;
    if (r->bytes > bytes - *at || vs_wal_record_bytes(r->bytes) > bytes - *at)
        return VSHARD_ECORRUPT;
    r->payload = from + VS_WAL_RECORD;
    *at += vs_wal_record_bytes(r->bytes);
    return VSHARD_OK;
}

void vs_wal_nonce(uint8_t nonce[VS_SEAL_NONCE], uint64_t seq, uint64_t offset)
{
    memset(nonce, 0, VS_SEAL_NONCE);
    vs_store64(nonce, seq);
    vs_store64(nonce + 8, offset);
}
