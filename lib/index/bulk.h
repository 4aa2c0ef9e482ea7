/* bulk.h - private to lib/index: what the two files share that link many rows at once.
 * graph_leaves.c finds which rows are near each other, graph_bulk.c makes edges of it. */
#ifndef VS_INDEX_BULK_H
#define VS_INDEX_BULK_H

#include "index/state.h"

enum {
    VS_LEAF_FANOUT = 8,    /* leaves that a row goes to, at most */
    VS_LEAF_KEEP = 12,     /* neighbours that each of them finds */
    VS_LEAF_MAX = 1024,    /* rows compared with each other */
    VS_LEAF_TILE = 24,     /* rows whose distances are computed at once */
    VS_LEADER_SHARE = 192, /* rows for each leader */
    VS_LEAVES_FOUND = VS_LEAF_FANOUT * VS_LEAF_KEEP
};

/* What one thread needs. */
struct vs_bulk_strand {
    unsigned char *codes;  /* [VS_LEAF_MAX x stride] of one leaf */
    const void **rows;     /* [VS_LEAF_MAX] where they are */
    int32_t *keys;         /* [VS_LEAF_TILE x VS_LEAF_MAX] */
    unsigned char *panels; /* [VS_LEAF_MAX x stride] the codes, as tiles want them */
    int32_t *norms;        /* [2 x VS_LEAF_MAX] what a row adds to its distances, when it is
                              asked for, and when it is met */
    int8_t *asked;         /* [VS_LEAF_TILE x stride] */
    uint32_t *numbers;     /* [VS_LEAF_MAX] of leaders */
};

struct vs_bulk {
    uint64_t cap;        /* rows there is room for */
    uint32_t count, old; /* rows, and how many of these, the first, were live before */
    uint32_t leader_cap, leader_count;
    uint32_t width;        /* entries of each row in `found` */
    size_t stride;         /* of codes beside each other */
    uint32_t *slots;       /* [cap] the rows; what follows names them by their place here */
    unsigned char *codes;  /* [leader_cap x stride] */
    const void **rows;     /* [leader_cap] */
    unsigned char *panels; /* [leader_cap x stride] their codes, as tiles want them */
    int32_t *norms;        /* [2 x leader_cap] */
    uint32_t *firsts;      /* [leader_cap + 1] first member of each leaf */
    uint32_t *nearest;     /* [cap x VS_LEAF_FANOUT] leader of each occurrence; then scratch */
    uint32_t *members;     /* [cap x VS_LEAF_FANOUT] occurrences, by leader */
    uint32_t *spare;       /* likewise: scratch */
    uint32_t *found;       /* [cap x width] slots */
    uint32_t *ins;         /* [slots + 1] first edge in of each slot */
    size_t ins_cap;
    uint32_t *sources;  /* [cap x kept] where they come from */
    uint32_t *identity; /* [VS_LEAF_MAX] 0, 1, 2, ... */
    struct vs_bulk_strand *strands;
};

struct vs_bulk_work {
    struct vshard_index *x;
    struct vs_bulk *b;
    uint32_t want; /* edges that a list is cut to when it is too long */
};

static inline const void *vs_bulk_code(const struct vshard_index *x, const struct vs_bulk *b,
                                       uint32_t row)
{
    return vs_code_at(x, b->slots[row]);
}

/* graph_leaves.c: which leaders are nearest to each row, and an order of the new rows in which
 * those of one leader follow each other: order[i] is the place of the i-th, from slots[old] on.
 * From then on rows are taken to lie in this order, which is valid until leaves are searched. */
const uint32_t *vs_leaves_join(struct vs_bulk_work *w);

/* Leaves found[] with the nearest rows that each row meets in its leaves. */
void vs_leaves_find(struct vs_bulk_work *w);

#endif
