/* wal_model.h - what a write-ahead log should hold, kept the slow and simple way.
 *
 * A history is every record that was appended, with the barrier that its append
 * named. The state at barrier b is what the records up to b say, applied one by one,
 * batch by batch, in each in the order of the calls: a vote stands before what was
 * appended earlier, but says nothing that those records could change. A log that was
 * crashed and opened again must hold exactly the state at the barrier it reports,
 * and that barrier must not be below what was acknowledged. */
#ifndef SUPPORT_WAL_MODEL_H
#define SUPPORT_WAL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include <vshard/wal.h>

enum { MODEL_GROUPS = 8, MODEL_ENTRIES = 4096, MODEL_RECORDS = 65536 };

struct model_record {
    uint64_t group, index, term, barrier;
    uint32_t kind, bytes;
};

struct model {
    struct model_record *records; /* [MODEL_RECORDS] */
    size_t count;
};

void model_init(struct model *m);
void model_fini(struct model *m);

/* Appends one record to the log, its payload made from its fields, and to the
 * history. Returns append's status; a refused record is not in the history. */
int model_append(struct model *m, struct vshard_wal *wal, const struct vshard_wal_record *r,
                 uint64_t *barrier);

/* Compares all that the log tells with the state at a barrier: groups, votes,
 * commits, marks, notes and every entry, by read and by replay. Returns NULL or
 * what differs, valid until the next call. */
const char *model_differs(const struct model *m, struct vshard_wal *wal, uint64_t barrier);

/* Fills a payload of `bytes` for a record. */
void model_payload(const struct vshard_wal_record *r, uint32_t bytes, unsigned char *to);

#endif
