/* bytes.c - buffers, names, keys and events of one log. */
#include "wal/log.h"

int vs_wal_bytes_reserve(struct vshard_wal *w, struct vs_wal_bytes *b, size_t cap)
{
    size_t room = b->cap ? b->cap : 4096;
    unsigned char *p;

    if (cap <= b->cap)
        return VSHARD_OK;
    while (room < cap) {
        if (room > SIZE_MAX / 2)
            return VSHARD_ENOMEM;
        room *= 2;
    }
    p = vs_alloc(w->allocator, room);
    if (p == NULL)
        return VSHARD_ENOMEM;
    if (b->count > 0)
        memcpy(p, b->at, b->count);
    vs_free(w->allocator, b->at, b->cap);
    b->at = p;
    b->cap = room;
    return VSHARD_OK;
}

void vs_wal_bytes_fini(struct vshard_wal *w, struct vs_wal_bytes *b)
{
    vs_free(w->allocator, b->at, b->cap);
    *b = (struct vs_wal_bytes){ 0 };
}

static char *directory(const struct vshard_wal *w, char *to)
{
    size_t n = strlen(w->path);

    memcpy(to, w->path, n);
    to[n] = '/';
    return to + n + 1;
}

void vs_wal_segment_path(const struct vshard_wal *w, uint64_t segment, const char *suffix, char *to)
{
    static const char digits[] = "0123456789abcdef";
    char *p = directory(w, to);

    for (int shift = 60; shift >= 0; shift -= 4)
        *p++ = digits[segment >> shift & 15];
    memcpy(p, suffix, strlen(suffix) + 1);
}

void vs_wal_super_path(const struct vshard_wal *w, char *to)
{
    static const char name[] = "wal.super";

    memcpy(directory(w, to), name, sizeof name);
}

void vs_wal_event(const struct vshard_wal *w, uint32_t level, const char *name, int64_t a,
                  int64_t b)
{
    const struct vs_field fields[] = { { "path", w->path, 0, NULL },
                                       { "barrier", NULL, a, NULL },
                                       { "value", NULL, b, NULL } };

    vs_log(w->log, level, name, fields, VS_COUNT(fields));
}

int vs_wal_subkey(struct vshard_wal *w, const struct vs_wal_segment_head *head,
                  uint8_t subkey[VS_SEAL_KEY], uint8_t check[VS_SEAL_MAC])
{
    uint8_t key[VS_SEAL_KEY];
    int rc;

    memset(subkey, 0, VS_SEAL_KEY);
    memset(check, 0, VS_SEAL_MAC);
    if (head->key_id == 0)
        return VSHARD_OK;
    rc = vs_seal_init();
    if (rc < 0)
        return rc;
    if (w->hooks.key == NULL || w->hooks.key(w->hooks.ctx, head->key_id, key) != 0)
        return VSHARD_ENOTFOUND;
    rc = vs_seal_derive(subkey, key, head->salt);
    vs_wipe(key, sizeof key);
    if (rc == VSHARD_OK)
        rc = vs_seal_check(check, subkey);
    return rc;
}
