/* recover.h - what recovery knows while it runs. Private to recover.c and cut.c. */
#ifndef VS_WAL_RECOVER_H
#define VS_WAL_RECOVER_H

#include "wal/log.h"

struct vs_wal_scan {
    struct vshard_wal *w;
    struct vshard_wal_report *report;
    struct vs_wal_reader reader;
    struct vs_wal_point at; /* the last whole batch */
    uint64_t last_offset;   /* where it begins */
    size_t last_sectors;    /* 0: there is none */
    struct vs_wal_evidence found;
    uint64_t witnessed;
    uint64_t done, total;
    uint64_t ahead;   /* of the segment that is read: of zeros behind its batches */
    uint32_t stopped; /* behind `at` nothing is read, only looked at */
    uint32_t wrong;   /* a batch is whole and its contents are not */
    uint32_t super_lost;
};

/* Carries out what the verdict and the options ask for. `leftovers` are segments
 * that an earlier run was removing. */
int vs_wal_repair(struct vs_wal_scan *s, uint64_t *leftovers, size_t leftover_count);

#endif
