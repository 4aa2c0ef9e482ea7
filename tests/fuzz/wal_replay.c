/* wal_replay.c - any bytes in a log's directory are a log or a status.
 *
 * The input is laid out as the superblock (its first 512 bytes in each slot) and one
 * segment. Byte 0 picks what is made right first, so that the fuzzer comes past the
 * checksums: headers, then the tags of sectors. The log is opened as it is, and to
 * salvage, and read whole. */
#include <stdlib.h>

#include "wal/format.h"
#include "wal/wal.h"

#define SUPER   "log/wal.super"
#define SEGMENT "log/0000000000000001.wal"

/* Two files in memory; what is written to them is kept, sizes are bounded. */
struct files {
    unsigned char bytes[2][1 << 16];
    size_t count[2];
    uint32_t there[2];
};

static int which(const char *path)
{
    return strcmp(path, SUPER) == 0 ? 0 : strcmp(path, SEGMENT) == 0 ? 1 : -1;
}

static int transfer(struct files *f, struct vshard_io *io)
{
    size_t room = sizeof f->bytes[0], i = (size_t)io->file;

    if (io->op == VSHARD_IO_READ) {
        if (io->offset >= f->count[i])
            io->count = 0;
        else if (io->count > f->count[i] - io->offset)
            io->count = f->count[i] - io->offset;
        if (io->count > 0)
            memcpy(io->buffer, f->bytes[i] + io->offset, io->count);
        return VSHARD_OK;
    }
    if (io->offset > room || io->count > room - io->offset)
        return VSHARD_ENOSPC;
    memcpy(f->bytes[i] + io->offset, io->buffer, io->count);
    if (io->offset + io->count > f->count[i])
        f->count[i] = io->offset + io->count;
    return VSHARD_OK;
}

static int list(struct files *f, struct vshard_io *io)
{
    static const char *const names[] = { "0000000000000001.wal", "wal.super" };
    size_t used = 0;

    for (size_t i = 0; i < 2; i++) {
        if (f->there[1 - i]) {
            memcpy((char *)io->buffer + used, names[i], strlen(names[i]) + 1);
            used += strlen(names[i]) + 1;
        }
    }
    io->count = used;
    return VSHARD_OK;
}

static int perform(struct files *f, struct vshard_io *io)
{
    int i;

    switch (io->op) {
    case VSHARD_IO_LIST: return list(f, io);
    case VSHARD_IO_READ:
    case VSHARD_IO_WRITE: return transfer(f, io);
    case VSHARD_IO_RESIZE:
        if (io->offset > sizeof f->bytes[0])
            return VSHARD_ENOSPC;
        if (io->offset > f->count[io->file])
            memset(f->bytes[io->file] + f->count[io->file], 0, io->offset - f->count[io->file]);
        f->count[io->file] = io->offset;
        return VSHARD_OK;
    case VSHARD_IO_OPEN:
        i = which(io->path);
        if (i < 0 || (!f->there[i] && (io->flags & VSHARD_IO_OPEN_CREATE) == 0))
            return i < 0 ? VSHARD_ENOSPC : VSHARD_ENOTFOUND;
        f->there[i] = 1;
        io->file = (uint64_t)i;
        io->count = f->count[i];
        return VSHARD_OK;
    case VSHARD_IO_RENAME:
    case VSHARD_IO_REMOVE:
        i = which(io->path);
        if (i >= 0)
            f->there[i] = 0;
        return VSHARD_OK;
    default: return VSHARD_OK;
    }
}

static int read_key(void *ctx, uint32_t key_id, uint8_t *key)
{
    (void)ctx;
    memset(key, (int)key_id, VS_SEAL_KEY);
    return 0;
}

static void submit(void *ctx, struct vshard_io *io)
{
    io->status = perform(ctx, io);
    if (io->done != NULL)
        io->done(io);
}

static void wait_for(void *ctx, struct vshard_io *io)
{
    (void)ctx, (void)io;
}

static int visit(void *ctx, const struct vshard_wal_record *r, const struct vshard_wal_place *p)
{
    volatile unsigned char byte;

    (void)ctx, (void)p;
    for (uint32_t i = 0; i < r->payload_bytes; i++)
        byte = ((const unsigned char *)r->payload)[i];
    (void)byte;
    return 0;
}

/* Gives whole batches one after the other the header and tags they should have. */
static void make_right(struct files *f, uint64_t digest)
{
    unsigned char *image = malloc(1 << 16), *segment = f->bytes[1];
    size_t at = VS_WAL_START;

    for (uint64_t seq = 1; image != NULL && at + VS_WAL_SECTOR <= f->count[1]; seq++) {
        struct vs_wal_head h = { .seq = seq, .prev = digest };
        size_t sectors;

        h.flags = segment[at + 6] & VS_WAL_PACKED;
        h.stored = vs_load32(segment + at + 64) % 8192;
        h.raw = h.flags ? vs_load32(segment + at + 68) % 65536 : h.stored;
        h.records = segment[at + 72];
        if (h.records > h.raw / VS_WAL_RECORD)
            h.records = h.raw / VS_WAL_RECORD;
        sectors = vs_wal_sectors(h.stored);
        if (at + sectors * VS_WAL_SECTOR > f->count[1])
            break;
        for (size_t i = 0; i < sectors; i++)
            memcpy(image + i * VS_WAL_DATA, segment + at + i * VS_WAL_SECTOR, VS_WAL_DATA);
        vs_wal_head_write(&h, image);
        digest = vs_wal_stripe(image, VS_WAL_HEAD + h.stored, segment + at, &h);
        at += sectors * VS_WAL_SECTOR;
    }
    free(image);
}

static void prepare(struct files *f, const uint8_t *data, size_t size)
{
    size_t super = size < 512 ? size : 512, rest = size - super;
    struct vs_wal_super right = { .next_segment = 2, .generation = 1 };

    f->there[0] = f->there[1] = 1;
    f->count[0] = VS_WAL_SUPER_BYTES;
    for (size_t i = 0; i < VS_WAL_SUPER_SLOTS; i++)
        memcpy(f->bytes[0] + i * VS_WAL_SUPER_SLOT, data + 1, super > 0 ? super - 1 : 0);
    f->count[1] = VS_WAL_START + (rest < 40000 ? rest : 40000);
    memcpy(f->bytes[1] + VS_WAL_START, data + super, f->count[1] - VS_WAL_START);
    right.durable.digest = right.floor.digest = vs_wal_first_digest(0);
    if (data[0] & 1)
        vs_wal_super_write(&right, &(struct vs_wal_key){ 0 }, f->bytes[0]);
    if (data[0] & 2)
        vs_wal_segment_write(&(struct vs_wal_segment_head){ .segment = 1 }, f->bytes[1]);
    if (data[0] & 4)
        make_right(f, right.floor.digest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vshard_wal_visitor visitor = { visit, NULL };
    struct files *f = calloc(1, sizeof *f);
    struct vshard_storage storage = { submit, wait_for, f, NULL };
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .key = read_key };
    struct vshard_wal_options o = {
        .size = sizeof o, .path = "log", .storage = &storage, .hooks = &hooks
    };

    for (uint32_t i = 0; f != NULL && size > 0 && i < 2; i++) {
        struct vshard_wal *wal;

        prepare(f, data, size);
        o.flags = i == 0 ? VSHARD_WAL_READ_ONLY : VSHARD_WAL_SALVAGE;
        if (vshard_wal_open(&o, NULL, &wal) == VSHARD_OK) {
            vshard_wal_replay(wal, &visitor);
            vshard_wal_scan(wal, &visitor);
            vshard_wal_close(wal);
        }
    }
    free(f);
    return 0;
}
