/* wire_frame.c - any bytes are a frame or a status. The first byte picks the codec:
 * with seals or without, one version or two. A frame whose checksum is wrong gets
 * the right one, so that the fuzzer comes past it. */
#include <stdlib.h>

#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned char scratch[1 << 20];
    struct vs_frame_codec c = { .payload_max = sizeof scratch / 2 };
    struct vs_frame_counts counts = { { 0 } };
    struct vs_frame_work work = { scratch, sizeof scratch, &counts };
    struct vs_frame f;
    unsigned char *copy;
    size_t length;
    int whole;

    if (size < 1)
        return 0;
    c.version_max = 1 + (data[0] >> 1 & 1);
    if (data[0] & 1)
        c.keys[0].id = 1;
    size--;
    copy = malloc(size + 1);
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, size);
    if (size >= VS_FRAME_HEADER && (data[0] & 4)) {
        c.cluster.hi = vs_load64(copy + 8);
        c.cluster.lo = vs_load64(copy + 16);
        c.self = vs_load64(copy + 40);
        vs_store64(copy + 104, vs_checksum(copy + VS_FRAME_HEADER, size - VS_FRAME_HEADER,
                                           vs_checksum(copy, 104, 0)));
    }
    if (vs_frame_scratch(&c, copy, size) > sizeof scratch)
        abort();
    /* What is a frame is as long as it says; what has a length fits the limits. */
    length = 0;
    whole = vs_frame_length(&c, copy, size, &length) == VSHARD_OK && length == size;
    if (length > VS_FRAME_HEADER + sizeof scratch / 2 + VS_SEAL_MAC)
        abort();
    if (vs_frame_decode(&c, copy, size, &work, &f) == VSHARD_OK && !whole)
        abort();
    if (vs_frame_decode(&c, copy, size, &work, &f) == VSHARD_OK && f.payload_bytes > 0) {
        volatile unsigned char last = ((const unsigned char *)f.payload)[f.payload_bytes - 1];
        (void)last;
    }
    free(copy);
    return 0;
}
