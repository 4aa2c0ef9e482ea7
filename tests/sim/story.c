/* story.c - told later */
#include "sim.h"
#include <stdarg.h>
void story_say(struct world *w, const struct node *n, const char *format, ...)
{
    va_list args;
    if (w->story == NULL)
        return;
    fprintf(w->story, "%7.1f n%u ", (double)w->now / 1e6, n->id);
    va_start(args, format);
    vfprintf(w->story, format, args);
    va_end(args);
    fputc('\n', w->story);
}
int story_run(const char *path, bool bless)
{
    (void)path;
    (void)bless;
    return 1;
}
