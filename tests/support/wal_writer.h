/* wal_writer.h - what tests of the write-ahead log begin with: a disk, a log on it, and
 * a model that is told what the log is told (wal_model.h). */
#ifndef SUPPORT_WAL_WRITER_H
#define SUPPORT_WAL_WRITER_H

#include <criterion/criterion.h>

#include "support/fault_storage.h"
#include "support/wal_model.h"

static inline struct vshard_wal_options options(struct fault_storage *fs)
{
    return (struct vshard_wal_options){ .size = sizeof(struct vshard_wal_options),
                                        .log_id = 7,
                                        .segment_bytes = 64 << 10,
                                        .path = "log",
                                        .storage = fault_storage_hook(fs) };
}

static inline struct fault_storage *disk(uint64_t seed)
{
    struct fault_storage *fs = fault_storage_create(seed);

    fault_storage_mkdir(fs, "log");
    return fs;
}

/* Where each group stands, so that random records make sense to a log. */
struct writer {
    struct model model;
    struct vshard_wal *wal;
    uint64_t last[MODEL_GROUPS], term[MODEL_GROUPS], mark[MODEL_GROUPS];
    uint64_t seed;
};

static inline void put(struct writer *w, uint64_t group, uint32_t kind, uint64_t index,
                       uint32_t bytes)
{
    const struct vshard_wal_record r = {
        .group = group, .index = index, .term = w->term[group], .kind = kind, .payload_bytes = bytes
    };

    cr_assert_eq(model_append(&w->model, w->wal, &r, NULL), VSHARD_OK);
}

static inline void open_log(struct writer *w, const struct vshard_wal_options *o)
{
    struct vshard_wal_report report = { .size = sizeof report };

    cr_assert_eq(vshard_wal_open(o, &report, &w->wal), VSHARD_OK);
    cr_assert_eq(report.verdict, VSHARD_WAL_CLEAN);
}

static inline void check(struct writer *w, uint64_t barrier, const char *when)
{
    const char *wrong = model_differs(&w->model, w->wal, barrier);

    cr_assert_null(wrong, "%s: %s", when, wrong);
}

#endif
