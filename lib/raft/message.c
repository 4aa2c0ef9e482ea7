/* message.c - what nodes say to each other, as bytes.
 *
 *     0   1   version, 1            48   8   term
 *     1   1   kind                  56   8   index
 *     2   2   flags                 64   8   term of the entry at index
 *     4   4   entries or beats      72   8   commit
 *     8   8   group                 80   8   round
 *    16   8   from node             88   8   stamp
 *    24   8   to node               96   8   hint
 *    32   8   from incarnation     104   8   term of the hint
 *    40   8   to incarnation       112   8   boot of the sender
 *                                  120   8   body bytes
 *
 * Integers are little-endian. One head serves all kinds; 128 bytes are nothing
 * beside a packet, and a reader has one place to check. The body holds entries
 * (log.c), beats, or META and a piece of a snapshot.
 *
 * Bytes come from anywhere. A message is taken only if its version, kind, flags
 * and lengths are known and every entry in it is whole, in order and of a term
 * that rises and stays at or below the message's.
 *
 * Not here: checksums, seals and the cluster's id, which belong to the frame that
 * carries the message. */
#include "raft/core.h"

enum { VERSION = 1, FLAGS = 2 * VS_FLAG_UNCERTAIN - 1 };

void vs_message_encode(unsigned char *to, const struct vs_message *m)
{
    const uint64_t word[] = { m->group,          m->from,  m->to,        m->from_incarnation,
                              m->to_incarnation, m->term,  m->index,     m->log_term,
                              m->commit,         m->round, m->stamp,     m->hint,
                              m->hint_term,      m->boot,  m->body_bytes };

    to[0] = VERSION;
    to[1] = (unsigned char)m->kind;
    vs_store16(to + 2, (uint16_t)m->flags);
    vs_store32(to + 4, m->count);
    for (size_t i = 0; i < VS_COUNT(word); i++)
        vs_store64(to + 8 + 8 * i, word[i]);
}

static int check_entries(struct vs_message *m)
{
    const unsigned char *p = m->body;
    size_t left = m->body_bytes;
    uint64_t index = m->index, term = m->log_term;

    /* No entry is of term 0, and before the first there is none. */
    if (m->kind == VS_APPEND && (m->term == 0 || (m->index == 0) != (m->log_term == 0)))
        return VSHARD_ECORRUPT;
    if (m->kind == VS_FORWARD && m->count == 0)
        return VSHARD_ECORRUPT;
    for (uint32_t i = 0; i < m->count; i++) {
        struct vshard_raft_entry e;
        struct vs_config c;
        size_t n = vs_entry_decode(&e, p, left);

        if (n == 0)
            return VSHARD_ECORRUPT;
        if (m->kind == VS_APPEND &&
            (e.index != ++index || e.term < term || e.term > m->term || e.term == 0))
            return VSHARD_ECORRUPT;
        if (m->kind == VS_APPEND && e.kind == VSHARD_RAFT_CONFIG &&
            vs_config_decode(&c, e.data, (size_t)e.count) != VSHARD_OK)
            return VSHARD_ECORRUPT;
        if (m->kind == VS_FORWARD && e.kind != VSHARD_RAFT_DATA && e.kind != VSHARD_RAFT_SESSION)
            return VSHARD_ECORRUPT;
        m->largest = e.count > m->largest ? e.count : m->largest;
        m->special += e.kind != VSHARD_RAFT_DATA && e.kind != VSHARD_RAFT_BLANK;
        term = e.term;
        p += n;
        left -= n;
    }
    return left == 0 ? VSHARD_OK : VSHARD_ECORRUPT;
}

int vs_message_decode(struct vs_message *m, const void *bytes, size_t count)
{
    const unsigned char *p = bytes;
    uint64_t word[15];

    if (bytes == NULL || count < VS_MESSAGE_HEAD || count > VS_MESSAGE_MAX)
        return VSHARD_ECORRUPT;
    if (p[0] != VERSION || p[1] == 0 || p[1] > VS_KIND_MAX || (vs_load16(p + 2) & ~FLAGS) != 0)
        return VSHARD_EVERSION;
    for (size_t i = 0; i < VS_COUNT(word); i++)
        word[i] = vs_load64(p + 8 + 8 * i);
    *m = (struct vs_message){ .kind = p[1],
                              .flags = vs_load16(p + 2),
                              .count = vs_load32(p + 4),
                              .group = word[0],
                              .from = word[1],
                              .to = word[2],
                              .from_incarnation = word[3],
                              .to_incarnation = word[4],
                              .term = word[5],
                              .index = word[6],
                              .log_term = word[7],
                              .commit = word[8],
                              .round = word[9],
                              .stamp = word[10],
                              .hint = word[11],
                              .hint_term = word[12],
                              .boot = word[13],
                              .body = p + VS_MESSAGE_HEAD,
                              .body_bytes = count - VS_MESSAGE_HEAD };
    /* Half of the numbers are room enough, and sums of two cannot overflow. */
    if (word[14] != m->body_bytes || m->from == 0 || (m->term | m->index | m->commit) >> 63 ||
        (m->term & VS_TERM_COUNT) == VS_TERM_COUNT)
        return VSHARD_ECORRUPT;
    switch (m->kind) {
    case VS_APPEND:
    case VS_FORWARD: return check_entries(m);
    case VS_BEATS:
    case VS_BEAT_REPLIES:
        return m->body_bytes == (size_t)m->count * VS_BEAT_BYTES ? VSHARD_OK : VSHARD_ECORRUPT;
    case VS_CHUNK:
        return m->hint_term <= m->body_bytes && m->count == 0 && m->index != 0 &&
                       m->log_term != 0 && m->log_term <= m->term && m->hint >> 63 == 0
                   ? VSHARD_OK
                   : VSHARD_ECORRUPT;
    default: return m->body_bytes == 0 && m->count == 0 ? VSHARD_OK : VSHARD_ECORRUPT;
    }
}

void vs_beat_encode(unsigned char *to, const struct vs_beat *b)
{
    const uint64_t word[] = { b->group,    b->term,           b->commit, b->round,
                              b->received, b->to_incarnation, b->flags };

    for (size_t i = 0; i < VS_COUNT(word); i++)
        vs_store64(to + 8 * i, word[i]);
}

void vs_beat_decode(struct vs_beat *b, const unsigned char *from)
{
    *b = (struct vs_beat){ .group = vs_load64(from),
                           .term = vs_load64(from + 8),
                           .commit = vs_load64(from + 16),
                           .round = vs_load64(from + 24),
                           .received = vs_load64(from + 32),
                           .to_incarnation = vs_load64(from + 40),
                           .flags = vs_load32(from + 48) };
}
