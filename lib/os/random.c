/* random.c - unpredictable bytes from the operating system. */
#include "os/os.h"

#include <unistd.h>

enum { CHUNK = 256 }; /* the most one getentropy() gives */

int vs_os_entropy(void *bytes, size_t count)
{
    unsigned char *to = bytes;

    while (count > 0) {
        size_t n = count < CHUNK ? count : CHUNK;

        if (getentropy(to, n) != 0)
            return VSHARD_EIO;
        to += n;
        count -= n;
    }
    return VSHARD_OK;
}
