/* pack.c - LZ4 blocks, for frames and for batches of the log. */
#include "wire/wire.h"

#if defined(VS_HAVE_LZ4)
#include <limits.h>
#include <lz4.h>

enum { PAUSE = 15, QUICK = 8 }; /* QUICK: LZ4's acceleration, 3.5 times as fast on such data */

bool vs_pack_available(void)
{
    return true;
}

size_t vs_pack(struct vs_packing *packing, const void *from, size_t bytes, void *to, size_t cap)
{
    struct vs_packing always = { 0 }, *p = packing != NULL ? packing : &always;
    int n;

    if (bytes == 0 || bytes > LZ4_MAX_INPUT_SIZE)
        return 0;
    if (p->pause > 0) {
        p->pause--;
        return 0;
    }
    if (cap > INT_MAX)
        cap = INT_MAX;
    n = LZ4_compress_fast(from, to, (int)bytes, (int)cap, p->quick ? QUICK : 1);
    p->pause = n > 0 ? 0 : PAUSE;
    p->quick = n > 0 && (size_t)n > bytes - bytes / 4;
    return n > 0 ? (size_t)n : 0;
}

int vs_unpack(const void *from, size_t bytes, void *raw, size_t raw_bytes)
{
    if (bytes > INT_MAX || raw_bytes > INT_MAX)
        return VSHARD_ECORRUPT;
    return LZ4_decompress_safe(from, raw, (int)bytes, (int)raw_bytes) == (int)raw_bytes
               ? VSHARD_OK
               : VSHARD_ECORRUPT;
}

#else

bool vs_pack_available(void)
{
    return false;
}

size_t vs_pack(struct vs_packing *packing, const void *from, size_t bytes, void *to, size_t cap)
{
    (void)packing, (void)from, (void)bytes, (void)to, (void)cap;
    return 0;
}

int vs_unpack(const void *from, size_t bytes, void *raw, size_t raw_bytes)
{
    (void)from, (void)bytes, (void)raw, (void)raw_bytes;
    return VSHARD_ENOTSUP;
}

#endif
