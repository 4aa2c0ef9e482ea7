/* options.c - one rule for every options struct that crosses the ABI.
 *
 * The caller and the library may be built from different versions of vshard.h.
 * Fields are only ever appended, and in every field zero means the default, so
 * the two versions agree on everything up to the shorter of the two sizes:
 *
 *   caller older    |#######|         the fields it does not know are zeroed,
 *   library         |###########|     that is, they take their defaults
 *
 *   caller newer    |###########|     the fields we do not know must be zero,
 *   library         |#######|         or the caller asked for something we
 *                           ^^^^      cannot do: VSHARD_EVERSION
 *
 * It is the rule of Linux's copy_struct_from_user(). It holds as long as public
 * structs have no padding, whose bytes nobody promised to zero (header.sh), and
 * no options struct embeds another by value, which could then never grow. */
#include "base/base.h"

/* Far above any real struct; catches a `size` that was never set. */
#define SIZE_LIMIT 4096

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

/* `min_size` is the size the struct had in its first release: VS_SIZE_THROUGH()
 * its last field then, whatever has been appended since. */
int vs_options_read(void *ours, uint32_t our_size, const void *theirs, uint32_t min_size)
{
    uint32_t their_size;

    if (theirs == NULL)
        return VSHARD_EINVAL;
    memcpy(&their_size, theirs, sizeof their_size);
    if (their_size < min_size || their_size > SIZE_LIMIT)
        return VSHARD_EINVAL;
    if (their_size > our_size &&
        !all_zero((const unsigned char *)theirs + our_size, their_size - our_size))
        return VSHARD_EVERSION;

    memset(ours, 0, our_size);
    memcpy(ours, theirs, their_size < our_size ? their_size : our_size);
    memcpy(ours, &our_size, sizeof our_size);
    return VSHARD_OK;
}

int vs_report_write(void *theirs, const void *ours, uint32_t our_size, uint32_t min_size)
{
    uint32_t their_size;

    if (theirs == NULL)
        return VSHARD_EINVAL;
    memcpy(&their_size, theirs, sizeof their_size);
    if (their_size < min_size || their_size > SIZE_LIMIT)
        return VSHARD_EINVAL;
    if (their_size > our_size)
        memset((unsigned char *)theirs + our_size, 0, their_size - our_size);
    memcpy(theirs, ours, their_size < our_size ? their_size : our_size);
    memcpy(theirs, &their_size, sizeof their_size);
    return VSHARD_OK;
}
