/* machine.c - an index as on a machine that has fewer instructions. By itself, since the private
 * headers of an index and of a shard do not go together. */
#include "index/state.h"
#include "story.h"

void story_machine(struct vshard_index *index, uint32_t cpu)
{
    vs_kernel_init(&index->kernel, cpu & vs_os_cpu());
}
