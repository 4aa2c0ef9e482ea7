/* entropy.c - the default of struct vshard_entropy.
 *
 * It lives here because each foreign library has one room, and libsodium's is
 * this one. Nothing in this room draws from it: what decides replicated state
 * takes a seed from the log, and what seals a frame takes the hook it was given. */
#include "os/os.h"

#if defined(VS_HAVE_SODIUM)
#include <sodium.h>

static int fill(void *ctx, void *bytes, size_t count)
{
    (void)ctx;
    randombytes_buf(bytes, count);
    return 0;
}

int vshard_entropy_default(struct vshard_entropy *entropy)
{
    if (entropy == NULL)
        return VSHARD_EINVAL;
    if (sodium_init() < 0) /* may be called again, and from any thread */
        return VSHARD_EIO;
    *entropy = (struct vshard_entropy){ fill, NULL };
    return VSHARD_OK;
}

#else

static int fill(void *ctx, void *bytes, size_t count)
{
    (void)ctx;
    return vs_os_entropy(bytes, count);
}

int vshard_entropy_default(struct vshard_entropy *entropy)
{
    if (entropy == NULL)
        return VSHARD_EINVAL;
    *entropy = (struct vshard_entropy){ fill, NULL };
    return VSHARD_OK;
}

#endif
