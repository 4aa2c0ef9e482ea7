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

void vs_wal_spare_path(const struct vshard_wal *w, uint32_t spare, char *to)
{
    static const char name[] = "wal.spare0";
    char *p = directory(w, to);

    memcpy(p, name, sizeof name);
    p[sizeof name - 2] = (char)('0' + spare);
}

void vs_wal_event(const struct vshard_wal *w, uint32_t level, const char *name, int64_t a,
                  int64_t b)
{
    const struct vs_field fields[] = { { "path", w->path, 0, NULL },
                                       { "barrier", NULL, a, NULL },
                                       { "value", NULL, b, NULL } };

    vs_log(w->log, level, name, fields, VS_COUNT(fields));
}

int vs_wal_key_derive(struct vshard_wal *w, uint32_t key_id, const uint8_t salt[VS_SEAL_SALT],
                      struct vs_wal_key *key)
{
    uint8_t master[VS_SEAL_KEY];
    int rc;

    memset(key, 0, sizeof *key);
    if (key_id == 0)
        return VSHARD_OK;
    rc = vs_seal_init();
    if (rc < 0)
        return rc;
    if (w->hooks.key == NULL || w->hooks.key(w->hooks.ctx, key_id, master) != 0)
        return vs_refuse(w->log, VSHARD_ENOTFOUND, "wal.no_key", "key_id", key_id, 0);
    rc = vs_seal_derive(key->subkey, master, salt);
    vs_wipe(master, sizeof master);
    if (rc == VSHARD_OK)
        rc = vs_seal_check(key->check, key->subkey);
    key->id = key_id;
    return rc;
}

int vs_wal_key_check(const struct vshard_wal *w, const struct vs_wal_key *key,
                     const uint8_t check[VS_SEAL_MAC])
{
    if (key->id == 0 || memcmp(check, key->check, VS_SEAL_MAC) == 0)
        return VSHARD_OK;
    return vs_refuse(w->log, VSHARD_EINVAL, "wal.wrong_key", "key_id", key->id, 0);
}

int vs_wal_key_use(struct vshard_wal *w, uint32_t key_id)
{
    uint8_t salt[VS_SEAL_SALT];
    struct vs_wal_key key;
    int rc;

    vs_wal_super_salt(w->options.log_id, salt);
    rc = vs_wal_key_derive(w, key_id, salt, &key);
    if (rc == VSHARD_OK) {
        w->super_key = key;
        w->key_id = key_id;
        w->cipher = VS_CIPHER_NONE;
        if (key_id != 0)
            w->cipher =
                w->options.cipher == VSHARD_WAL_AES256_GCM && vs_seal_has(VS_CIPHER_AES256_GCM)
                    ? VS_CIPHER_AES256_GCM
                    : VS_CIPHER_XCHACHA20;
    }
    vs_wipe(&key, sizeof key);
    return rc;
}
