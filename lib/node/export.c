/* export.c - a shard as a file that a host can read: vshard/node.h has its form.
 *
 * It is a read like a linearizable fetch, of this node's own replica: the core says how far the
 * replica must be, and an item writes what is there then. A row stands in the file as in the
 * answer to a fetch, behind its key. */
#include "node/core.h"

enum { HEAD = 32, PIECE_HEAD = 24, PIECE = 1 << 20 };

void vs_export_begin(struct vshard_node *n, struct vs_request *q)
{
    struct vs_replica *r = vs_replica_find(n, q->part[0].group);
    struct vs_serving *s = vs_alloc_zeroed(n->allocator, sizeof *s);
    void *path = vs_alloc(n->allocator, q->ask.count);

    if (s == NULL || path == NULL) {
        vs_free(n->allocator, s, sizeof *s);
        vs_free(n->allocator, path, q->ask.count);
        vs_request_finish(n, q, VSHARD_ENOMEM);
        return;
    }
    memcpy(path, q->ask.at, q->ask.count);
    *s = (struct vs_serving){ .replica = r,
                              .origin = n->node,
                              .request = q->id,
                              .kind = VS_SERVE_EXPORT,
                              .consistency = VSHARD_READ_LINEARIZABLE,
                              .deadline_ns = q->deadline_ns,
                              .asked = path,
                              .asked_bytes = q->ask.count,
                              .row = { .allocator = n->allocator } };
    q->part[0].node = n->node;
    q->part[0].again_ns = VS_NEVER; /* nobody else is asked */
    vs_serve_own(n, s);
}

/* ---- on a thread of work ---- */

struct writer {
    struct vshard_node *n;
    uint64_t file, at;
    struct vs_out piece;
};

/* The rows that have been put behind the room for the head of their piece. */
static int write_piece(struct writer *w)
{
    size_t rows = w->piece.count - PIECE_HEAD;
    struct vshard_key sum;
    int rc;

    if (w->piece.status != VSHARD_OK)
        return w->piece.status;
    sum = vshard_key_hash(w->piece.at + PIECE_HEAD, rows);
    vs_store64(w->piece.at, rows);
    vs_store64(w->piece.at + 8, sum.hi);
    vs_store64(w->piece.at + 16, sum.lo);
    rc = vs_io_write(&w->n->storage, w->file, w->at, w->piece.at, w->piece.count);
    w->at += w->piece.count;
    w->piece.count = PIECE_HEAD;
    return rc;
}

static int write_rows(struct writer *w, struct vs_serving *s, uint64_t *count)
{
    uint32_t at = 0;
    int rc = VSHARD_OK;

    while (rc == VSHARD_OK && vs_shard_next(s->replica->shard, &at, &s->key)) {
        s->row.count = 0;
        rc = vs_fetch_row(s, &s->replica->plan, s->replica->shard);
        vs_put_key(&w->piece, s->key);
        vs_put_row(&w->piece, s);
        while (w->piece.count % 8 != 0 && w->piece.status == VSHARD_OK)
            vs_put_bytes(&w->piece, "", 1);
        if (rc == VSHARD_OK)
            rc = w->piece.status;
        if (rc == VSHARD_OK && w->piece.count >= PIECE)
            rc = write_piece(w);
        ++*count;
    }
    if (rc == VSHARD_OK && w->piece.count > PIECE_HEAD)
        rc = write_piece(w);
    return rc == VSHARD_OK ? write_piece(w) : rc;
}

static int write_file(struct writer *w, struct vs_serving *s, const struct vs_shard_stats *stats)
{
    unsigned char head[HEAD] = "VSEXPT1";
    uint64_t count = 0;
    int rc;

    vs_store64(head + 8, stats->applied);
    vs_store64(head + 16, stats->rows);
    rc = vs_io_write(&w->n->storage, w->file, 0, head, HEAD);
    w->at = HEAD;
    vs_put_room(&w->piece, PIECE_HEAD);
    if (rc == VSHARD_OK)
        rc = write_rows(w, s, &count);
    VS_ASSERT(rc != VSHARD_OK || count == stats->rows);
    return rc == VSHARD_OK ? vs_io_sync(&w->n->storage, w->file) : rc;
}

int vs_export_run(struct vshard_node *n, struct vs_item *item)
{
    struct vs_serving *s = item->serving;
    struct writer w = { .n = n, .piece = { .allocator = n->allocator } };
    struct vs_shard_stats stats;
    char aside[4096];
    int rc = vs_file_aside(aside, (const char *)s->asked), closed;

    if (rc != VSHARD_OK)
        return rc;
    vs_shard_stats(s->replica->shard, &stats);
    item->position = stats.applied;
    s->answer.rows = stats.rows;
    rc = vs_io_open(&n->storage, aside,
                    VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_CREATE | VSHARD_IO_OPEN_TRUNCATE, &w.file,
                    NULL);
    if (rc != VSHARD_OK)
        return rc;
    rc = write_file(&w, s, &stats);
    closed = vs_io_close(&n->storage, w.file);
    vs_out_free(&w.piece);
    return vs_file_settle(&n->storage, (const char *)s->asked, rc != VSHARD_OK ? rc : closed);
}
