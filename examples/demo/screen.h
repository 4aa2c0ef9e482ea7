/* screen.h - how the demo speaks: aligned lines, a progress bar, colours. */
#ifndef DEMO_SCREEN_H
#define DEMO_SCREEN_H

#include <stdint.h>

enum { DIGITS_MAX = 32 };

/* Looks at standard output: a bar and colours only on a terminal, colours never
 * when NO_COLOR is set. */
void screen_init(void);

/* A line that opens a part: its name in the first column, then the text. An empty
 * name continues the part before. */
__attribute__((format(printf, 2, 3))) void say(const char *name, const char *format, ...);

/* An empty line. */
void gap(void);

/* What changes the colour of the text that follows; empty where there are no
 * colours. Things of the same number get the same colour. */
const char *dim_on(void), *strong_on(void), *plain_on(void);
const char *colour_on(uint32_t number);

/* A number with commas between thousands. Returns `text`. */
const char *grouped(char text[DIGITS_MAX], uint64_t number);

/* Says on standard error what failed. Returns -1. */
__attribute__((format(printf, 1, 2))) int failed(const char *format, ...);

/* Something that takes time. On a terminal a bar comes and goes; elsewhere a plain
 * line is printed after the first second, at every tenth, and every ten seconds. */
struct progress {
    const char *name; /* in the first column */
    uint64_t total;
    double start, shown; /* seconds */
    uint64_t shown_tenth;
};

void progress_begin(struct progress *progress, const char *name, uint64_t total);
void progress_show(struct progress *progress, uint64_t done);

/* Wipes the bar. Returns the seconds since the beginning. */
double progress_end(struct progress *progress);

/* A steady clock, in seconds. */
double seconds(void);

/* Whether nobody can read any more what we say. */
int screen_is_lost(void);

/* Flushes standard output. Returns 0, or -1 after saying why it could not. */
int screen_fini(void);

#endif
