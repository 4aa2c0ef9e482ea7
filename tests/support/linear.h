/* linear.h - was this history of one register linearizable? */
#ifndef SUPPORT_LINEAR_H
#define SUPPORT_LINEAR_H

#include <stddef.h>
#include <stdint.h>

struct linear_op {      /* on one register that starts as 0 */
    uint64_t call, ret; /* ret is UINT64_MAX: the outcome is unknown */
    uint64_t value;     /* written or read */
    uint32_t write;
    uint32_t client;
};

/* 1 if some order of the operations, each between its call and its return, explains
 * all values; 0 if none; -1 if it was too hard to say. At most 1,024 operations. */
int linear_check(const struct linear_op *op, size_t count);

#endif
