/* seal.c - authenticated encryption, by libsodium.
 *
 * XChaCha20-Poly1305: its nonce is long enough that a random one never repeats,
 * and it is fast on machines without AES instructions. AES-256-GCM is faster where
 * there are some, and nowhere else to be had; its nonce is short, so it is only for
 * who counts nonces under a key of his own, as the log does. Subkeys are derived with
 * keyed BLAKE2b, so that one key of the host's may serve any number of salts. */
#include "wire/wire.h"

#if defined(VS_HAVE_SODIUM)
#include <sodium.h>

int vs_seal_init(void)
{
    return sodium_init() < 0 ? VSHARD_EIO : VSHARD_OK;
}

bool vs_seal_has(enum vs_cipher cipher)
{
    return cipher != VS_CIPHER_AES256_GCM || crypto_aead_aes256gcm_is_available();
}

int vs_seal_derive(uint8_t subkey[VS_SEAL_KEY], const uint8_t key[VS_SEAL_KEY],
                   const uint8_t salt[VS_SEAL_SALT])
{
    return crypto_generichash(subkey, VS_SEAL_KEY, salt, VS_SEAL_SALT, key, VS_SEAL_KEY) == 0
               ? VSHARD_OK
               : VSHARD_ENOTSUP;
}

int vs_seal_check(uint8_t check[VS_SEAL_MAC], const uint8_t subkey[VS_SEAL_KEY])
{
    static const unsigned char label[] = "vshard key check";

    return crypto_generichash(check, VS_SEAL_MAC, label, sizeof label - 1, subkey, VS_SEAL_KEY) == 0
               ? VSHARD_OK
               : VSHARD_ENOTSUP;
}

int vs_seal_sign(uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                 const void *bytes, size_t count)
{
    return crypto_generichash(signature, VS_SEAL_SIGNATURE, bytes, count, key, VS_SEAL_KEY) == 0
               ? VSHARD_OK
               : VSHARD_ENOTSUP;
}

int vs_seal_signed(const uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                   const void *bytes, size_t count)
{
    uint8_t right[VS_SEAL_SIGNATURE];
    int rc = vs_seal_sign(right, key, bytes, count);

    if (rc == VSHARD_OK && sodium_memcmp(right, signature, sizeof right) != 0)
        rc = VSHARD_ECORRUPT;
    return rc;
}

int vs_seal(const struct vs_seal *s, const void *from, size_t bytes, void *to)
{
    int rc;

    if (!vs_seal_has(s->cipher))
        return VSHARD_ENOTSUP;
    if (s->cipher == VS_CIPHER_AES256_GCM)
        rc = crypto_aead_aes256gcm_encrypt(to, NULL, from, bytes, s->context, s->context_bytes,
                                           NULL, s->nonce, s->key);
    else
        rc = crypto_aead_xchacha20poly1305_ietf_encrypt(to, NULL, from, bytes, s->context,
                                                        s->context_bytes, NULL, s->nonce, s->key);
    return rc == 0 ? VSHARD_OK : VSHARD_ENOTSUP;
}

int vs_unseal(const struct vs_seal *s, const void *from, size_t bytes, void *to)
{
    int rc;

    if (bytes < VS_SEAL_MAC)
        return VSHARD_ECORRUPT;
    if (!vs_seal_has(s->cipher))
        return VSHARD_ENOTSUP;
    if (s->cipher == VS_CIPHER_AES256_GCM)
        rc = crypto_aead_aes256gcm_decrypt(to, NULL, NULL, from, bytes, s->context,
                                           s->context_bytes, s->nonce, s->key);
    else
        rc = crypto_aead_xchacha20poly1305_ietf_decrypt(to, NULL, NULL, from, bytes, s->context,
                                                        s->context_bytes, s->nonce, s->key);
    return rc == 0 ? VSHARD_OK : VSHARD_ECORRUPT;
}

void vs_wipe(void *p, size_t bytes)
{
    sodium_memzero(p, bytes);
}

#else

int vs_seal_init(void)
{
    return VSHARD_ENOTSUP;
}

bool vs_seal_has(enum vs_cipher cipher)
{
    return cipher == VS_CIPHER_NONE;
}

int vs_seal_derive(uint8_t subkey[VS_SEAL_KEY], const uint8_t key[VS_SEAL_KEY],
                   const uint8_t salt[VS_SEAL_SALT])
{
    (void)subkey, (void)key, (void)salt;
    return VSHARD_ENOTSUP;
}

int vs_seal_check(uint8_t check[VS_SEAL_MAC], const uint8_t subkey[VS_SEAL_KEY])
{
    (void)check, (void)subkey;
    return VSHARD_ENOTSUP;
}

int vs_seal_sign(uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                 const void *bytes, size_t count)
{
    (void)signature, (void)key, (void)bytes, (void)count;
    return VSHARD_ENOTSUP;
}

int vs_seal_signed(const uint8_t signature[VS_SEAL_SIGNATURE], const uint8_t key[VS_SEAL_KEY],
                   const void *bytes, size_t count)
{
    (void)signature, (void)key, (void)bytes, (void)count;
    return VSHARD_ENOTSUP;
}

int vs_seal(const struct vs_seal *s, const void *from, size_t bytes, void *to)
{
    (void)s, (void)from, (void)bytes, (void)to;
    return VSHARD_ENOTSUP;
}

int vs_unseal(const struct vs_seal *s, const void *from, size_t bytes, void *to)
{
    (void)s, (void)from, (void)bytes, (void)to;
    return VSHARD_ENOTSUP;
}

void vs_wipe(void *p, size_t bytes)
{
    volatile unsigned char *byte = p;

    while (bytes-- > 0)
        *byte++ = 0;
}

#endif
