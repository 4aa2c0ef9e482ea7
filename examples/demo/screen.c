/* screen.c - how the demo speaks: aligned lines, a progress bar, colours. */
#include "screen.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NAME_WIDTH = 9, BAR_WIDTH = 40 };

static struct {
    int terminal, colours, utf8;
    int bar;   /* there is a bar on the last line */
    int error; /* errno, once standard output could not be written */
} screen;

void screen_init(void)
{
    const char *term = getenv("TERM");

    setlocale(LC_CTYPE, "");
    screen.terminal = isatty(STDOUT_FILENO) && term != NULL && strcmp(term, "dumb") != 0;
    screen.colours = screen.terminal && getenv("NO_COLOR") == NULL;
    screen.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

const char *dim_on(void)
{
    return screen.colours ? "\033[2m" : "";
}

const char *strong_on(void)
{
    return screen.colours ? "\033[1m" : "";
}

const char *plain_on(void)
{
    return screen.colours ? "\033[0m" : "";
}

const char *colour_on(uint32_t number)
{
    static const char *const codes[] = { "\033[36m", "\033[33m", "\033[35m", "\033[32m" };

    return screen.colours ? codes[number % 4] : "";
}

static void wipe_bar(void)
{
    if (screen.bar)
        fputs("\r\033[K", stdout);
    screen.bar = 0;
}

static void flush(void)
{
    if (fflush(stdout) != 0 && screen.error == 0)
        screen.error = errno;
}

void gap(void)
{
    putchar('\n');
}

void say(const char *name, const char *format, ...)
{
    va_list args;

    wipe_bar();
    printf("%s%-*s%s", strong_on(), NAME_WIDTH, name, plain_on());
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    flush();
}

const char *grouped(char text[DIGITS_MAX], uint64_t number)
{
    char digits[DIGITS_MAX];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    char *to = text;

    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return text;
}

int failed(const char *format, ...)
{
    va_list args;

    wipe_bar();
    fflush(stdout);
    fputs("demo: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return -1;
}

double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void progress_begin(struct progress *progress, const char *name, uint64_t total)
{
    progress->name = name;
    progress->total = total > 0 ? total : 1;
    progress->start = progress->shown = seconds();
    progress->shown_tenth = 0;
}

static void draw_bar(const struct progress *p, double share, double left)
{
    int full = (int)(share * BAR_WIDTH);

    printf("\r%s%-*s%s", strong_on(), NAME_WIDTH, p->name, plain_on());
    for (int i = 0; i < BAR_WIDTH; i++) {
        if (i == full)
            fputs(dim_on(), stdout);
        fputs(screen.utf8 ? (i < full || screen.colours ? "\u2501" : " ")
              : i < full  ? "#"
                          : ".",
              stdout);
    }
    printf("%s %3.0f %%", plain_on(), 100 * share);
    if (left >= 1)
        printf(", %.0f s left", left);
    fputs("\033[K", stdout);
    screen.bar = 1;
}

static void print_count(struct progress *p, uint64_t done)
{
    char count[DIGITS_MAX], total[DIGITS_MAX];

    p->shown_tenth = 10 * done / p->total;
    printf("%-*s%s of %s ...\n", NAME_WIDTH, p->name, grouped(count, done),
           grouped(total, p->total));
}

void progress_show(struct progress *progress, uint64_t done)
{
    double now = seconds(), share = (double)done / (double)progress->total;
    double since = now - progress->shown, left = (now - progress->start) * (1 / share - 1);

    if (screen.terminal ? since < 0.05 && done < progress->total
                        : since < 1 || done == progress->total ||
                              (since < 10 && 10 * done / progress->total <= progress->shown_tenth))
        return;
    progress->shown = now;
    if (screen.terminal)
        draw_bar(progress, share, now - progress->start < 2 || done == 0 ? 0 : left);
    else
        print_count(progress, done);
    flush();
}

double progress_end(struct progress *progress)
{
    wipe_bar();
    return seconds() - progress->start;
}

int screen_is_lost(void)
{
    return screen.error != 0;
}

int screen_fini(void)
{
    flush();
    return screen.error == 0 ? 0 : failed("standard output: %s", strerror(screen.error));
}
