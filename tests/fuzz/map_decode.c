/* map_decode.c - any bytes as a cluster map: refused, or taken and canonical.
 *
 * The checksum would stop nearly every input at the door, so the target makes it
 * and the length good first; one input in 256 goes in as it is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include <vshard/map.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    unsigned char *bytes = malloc(count ? count : 1), *again;
    struct vshard_map *map;
    size_t again_count;

    if (bytes == NULL)
        return 0;
    memcpy(bytes, data, count);
    if (count >= 40 && data[24] != 0xff) {
        vs_store32(bytes + 8, (uint32_t)count);
        vs_store64(bytes + count - 8, vs_checksum(bytes, count - 8, 0));
    }
    if (vshard_map_decode(bytes, count, NULL, &map) == VSHARD_OK) {
        again = malloc(count);
        if (again != NULL && (vshard_map_encode(map, again, count, &again_count) != VSHARD_OK ||
                              again_count != count || memcmp(bytes, again, count) != 0))
            abort();
        /* A map from outside must bear a change. */
        if (vshard_map_add(map, 1, 1) == VSHARD_OK)
            (void)vshard_map_remove(map, 1);
        vshard_map_destroy(map);
        free(again);
    }
    free(bytes);
    return 0;
}
