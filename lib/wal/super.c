/* super.c - the superblock: two slots at a time, the older pair. */
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

int vs_wal_super_store(struct vshard_wal *w)
{
    uint64_t at;
    int rc = vs_wal_super_prepare(w, &at);

    if (rc == VSHARD_OK)
        rc = vs_io_write(&w->storage, w->super_file, at, w->super_bytes, 2 * VS_WAL_SUPER_SLOT);
    return rc < 0 ? rc : vs_io_sync(&w->storage, w->super_file);
}
