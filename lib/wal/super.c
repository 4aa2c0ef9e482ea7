/* super.c - the superblock: written two slots at a time, the older pair; the newest slot
 * that is whole, and signed if it names a key, is the one that counts.
 *
 * Who writes a log has this file open from before it looks at the directory until it
 * closes the log, and has it alone (VSHARD_IO_OPEN_ALONE): so a second writer is refused
 * before it has read or changed anything. Who only reads asks for nothing. */
#include "wal/log.h"

int vs_wal_super_prepare(struct vshard_wal *w, uint64_t *at)
{
    int rc;

    w->super.generation++;
    w->super.key_id = w->super_key.id;
    rc = vs_wal_super_write(&w->super, &w->super_key, w->super_bytes);
    memcpy(w->super_bytes + VS_WAL_SUPER_SLOT, w->super_bytes, VS_WAL_SUPER_SLOT);
    *at = w->super.generation % 2 * 2 * VS_WAL_SUPER_SLOT;
    return rc;
}

int vs_wal_super_put(struct vshard_wal *w)
{
    uint64_t at;
    int rc = vs_wal_super_prepare(w, &at);

    return rc == VSHARD_OK
               ? vs_io_write(&w->storage, w->super_file, at, w->super_bytes, 2 * VS_WAL_SUPER_SLOT)
               : rc;
}

int vs_wal_super_sync(struct vshard_wal *w)
{
    int rc = vs_io_sync(&w->storage, w->super_file);

    if (rc == VSHARD_OK)
        w->signed_with = w->super.key_id;
    return rc;
}

int vs_wal_super_store(struct vshard_wal *w)
{
    int rc = vs_wal_super_put(w);

    return rc == VSHARD_OK ? vs_wal_super_sync(w) : rc;
}

/* ---- opening ---- */

/* Whoever trusts what a replica said trusts this disk, which has a name for that. */
static int draw_incarnation(struct vshard_wal *w)
{
    uint64_t drawn = 0;

    for (int i = 0; i < 8 && drawn == 0; i++) {
        if (w->entropy.fill(w->entropy.ctx, &drawn, sizeof drawn) != 0)
            return VSHARD_EIO;
    }
    w->super.incarnation = drawn ? drawn : 1;
    return VSHARD_OK;
}

static int busy(struct vshard_wal *w)
{
    const struct vs_field fields[] = { { "path", w->path, 0, NULL },
                                       { "status", vshard_strerror(VSHARD_EBUSY), 0, NULL } };

    vs_log(w->log, VSHARD_LOG_WARN, "wal.busy", fields, VS_COUNT(fields));
    return VSHARD_EBUSY;
}

/* `flags` is 0 or CREATE. A file that was not there and then is not empty belongs to
 * somebody who came in between: what was found before is not true any more. */
static int open_file(struct vshard_wal *w, uint32_t flags)
{
    char *path = vs_alloc(w->allocator, w->path_bytes);
    int rc;

    if (path == NULL)
        return VSHARD_ENOMEM;
    if ((w->options.flags & VSHARD_WAL_READ_ONLY) == 0)
        flags |= VSHARD_IO_OPEN_WRITE | VSHARD_IO_OPEN_ALONE;
    vs_wal_super_path(w, path);
    rc = vs_io_open(&w->storage, path, flags, &w->super_file, &w->super_found);
    vs_free(w->allocator, path, w->path_bytes);
    if (rc == VSHARD_OK)
        w->super_open = 1;
    if (rc == VSHARD_EBUSY ||
        (rc == VSHARD_OK && (flags & VSHARD_IO_OPEN_CREATE) && w->super_found != 0))
        return busy(w);
    return rc;
}

int vs_wal_super_open(struct vshard_wal *w)
{
    int rc = open_file(w, 0);

    return rc == VSHARD_ENOTFOUND ? VSHARD_OK : rc;
}

int vs_wal_super_make(struct vshard_wal *w)
{
    return w->super_open ? VSHARD_OK : open_file(w, VSHARD_IO_OPEN_CREATE);
}

static int create(struct vshard_wal *w)
{
    int rc;

    if (w->options.flags & VSHARD_WAL_READ_ONLY)
        return VSHARD_ENOTFOUND;
    w->super = (struct vs_wal_super){ .log_id = w->options.log_id, .next_segment = 1 };
    rc = draw_incarnation(w);
    if (rc < 0)
        return rc;
    rc = vs_wal_super_make(w);
    if (rc < 0)
        return rc;
    w->created = 1;
    w->super.durable.digest = w->super.floor.digest = vs_wal_first_digest(w->options.log_id);
    w->super.durable.end = w->super.floor.end = VS_WAL_START;
    rc = vs_wal_super_store(w);
    if (rc == VSHARD_OK)
        rc = vs_wal_super_store(w);
    return rc < 0 ? rc : vs_io_sync_dir(&w->storage, w->path);
}

/* Whether whoever wrote a slot had the key that it names. ECORRUPT: no. */
static int authenticate(struct vshard_wal *w, const unsigned char *slot,
                        const struct vs_wal_super *super)
{
    uint8_t salt[VS_SEAL_SALT];
    struct vs_wal_key key;
    int rc;

    if (super->log_id != w->options.log_id)
        return vs_refuse(w->log, VSHARD_ESTALE, "wal.other_log", "log_id", (int64_t)super->log_id,
                         (int64_t)w->options.log_id);
    if (super->key_id == 0)
        return w->options.flags & VSHARD_WAL_SEALED_ONLY
                   ? vs_refuse(w->log, VSHARD_ECORRUPT, "wal.unsealed", "superblock", 0, 0)
                   : VSHARD_OK;
    vs_wal_super_salt(super->log_id, salt);
    rc = vs_wal_key_derive(w, super->key_id, salt, &key);
    if (rc == VSHARD_OK)
        rc = vs_wal_key_check(w, &key, super->check);
    if (rc == VSHARD_OK)
        rc = vs_wal_super_signed(slot, &key);
    if (rc == VSHARD_ECORRUPT)
        vs_wal_event(w, VSHARD_LOG_ERROR, "wal.forged", 0, (int64_t)super->generation);
    vs_wipe(&key, sizeof key);
    return rc;
}

/* Takes the newest slot that is whole and, if it names a key, was signed with it.
 * ECORRUPT: none is. */
static int pick_slot(struct vshard_wal *w, const unsigned char *slots)
{
    struct vs_wal_super super[VS_WAL_SUPER_SLOTS];
    uint32_t whole = 0;

    for (uint32_t i = 0; i < VS_WAL_SUPER_SLOTS; i++) {
        int rc = vs_wal_super_read(slots + i * VS_WAL_SUPER_SLOT, &super[i]);

        if (rc == VSHARD_EVERSION)
            return rc;
        whole |= (uint32_t)(rc == VSHARD_OK) << i;
    }
    while (whole != 0) {
        uint32_t best = VS_WAL_SUPER_SLOTS;
        int rc;

        for (uint32_t i = 0; i < VS_WAL_SUPER_SLOTS; i++) {
            if ((whole >> i & 1) &&
                (best == VS_WAL_SUPER_SLOTS || super[i].generation > super[best].generation))
                best = i;
        }
        rc = authenticate(w, slots + best * VS_WAL_SUPER_SLOT, &super[best]);
        if (rc == VSHARD_OK) {
            w->super = super[best];
            w->signed_with = w->super.key_id;
        }
        if (rc != VSHARD_ECORRUPT)
            return rc;
        whole &= ~(1u << best);
    }
    return VSHARD_ECORRUPT;
}

/* ECORRUPT: there is nothing in it that could be believed. */
static int read_super(struct vshard_wal *w)
{
    uint64_t bytes = w->super_found;
    unsigned char *slots;
    int rc;

    slots = vs_alloc_zeroed(w->allocator, VS_WAL_SUPER_BYTES);
    if (slots == NULL)
        return VSHARD_ENOMEM;
    rc = vs_io_read(&w->storage, w->super_file, 0, slots,
                    bytes < VS_WAL_SUPER_BYTES ? (size_t)bytes : VS_WAL_SUPER_BYTES);
    if (rc == VSHARD_OK)
        rc = pick_slot(w, slots);
    vs_free(w->allocator, slots, VS_WAL_SUPER_BYTES);
    return rc;
}

/* The superblock is gone and segments are not: their own chain must do. What it knew
 * of promises is gone too, so this is another disk now. */
static int do_without_super(struct vshard_wal *w)
{
    w->super = (struct vs_wal_super){ .log_id = w->options.log_id };
    w->super.floor.digest = vs_wal_first_digest(w->options.log_id);
    w->super.floor.end = VS_WAL_START;
    w->super.durable = w->super.floor;
    return draw_incarnation(w);
}

int vs_wal_super_load(struct vshard_wal *w, uint32_t *lost)
{
    int rc = w->super_open ? read_super(w) : VSHARD_ECORRUPT;

    if (rc != VSHARD_ECORRUPT) /* such as ENOTFOUND, of the key that it names */
        return rc;
    if (w->index.segment_count == 0)
        return create(w);
    *lost = 1;
    return do_without_super(w);
}
