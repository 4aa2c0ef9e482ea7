/* log.c - what the server says of itself: lines of JSON on stderr.
 *
 * Each is written at once, since threads say things side by side, and is JSON whatever a path or a
 * name has in it. */
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Room is kept for what ends a text, and the line. */
enum { TEXT_MAX = 8000, END_MAX = 64 };

struct text {
    char at[TEXT_MAX + END_MAX];
    size_t count;
};

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *format, ...)
{
    size_t room = sizeof t->at - t->count;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(t->at + t->count, room, format, args);
    va_end(args);
    t->count += (size_t)n < room ? (size_t)n : room - 1;
}

/* How many bytes the character of UTF-8 has that begins here; 0: none does. */
static size_t character(const unsigned char *s)
{
    static const struct {
        unsigned char first, last, low, high; /* of the first byte, and of the second */
        size_t bytes;
    } kinds[] = { { 0x00, 0x7f, 0, 0, 1 },       { 0xc2, 0xdf, 0x80, 0xbf, 2 },
                  { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
                  { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
                  { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 },
                  { 0xf4, 0xf4, 0x80, 0x8f, 4 } };
    size_t k = 0, i = 2;

    while (k < sizeof kinds / sizeof *kinds && (s[0] < kinds[k].first || s[0] > kinds[k].last))
        k++;
    if (k == sizeof kinds / sizeof *kinds ||
        (kinds[k].bytes > 1 && (s[1] < kinds[k].low || s[1] > kinds[k].high)))
        return 0;
    while (i < kinds[k].bytes && (s[i] & 0xc0) == 0x80)
        i++;
    return i < kinds[k].bytes ? 0 : kinds[k].bytes;
}

static void put_text(struct text *t, const char *text)
{
    put(t, "\"");
    while (*text != 0 && t->count < TEXT_MAX) {
        unsigned char c = (unsigned char)*text;
        size_t bytes = character((const unsigned char *)text);

        if (bytes == 0)
            put(t, "\\ufffd");
        else if (c < ' ' || c == 0x7f)
            put(t, "\\u%04x", c);
        else
            put(t, "%s%.*s", c == '"' || c == '\\' ? "\\" : "", (int)bytes, text);
        text += bytes > 0 ? bytes : 1;
    }
    put(t, "\"");
}

static void put_head(struct text *t, const char *level, const char *event)
{
    t->count = 0;
    put(t, "{\"ms\":%" PRIu64 "%s,\"event\":", server_now() / 1000000, level);
    put_text(t, event);
}

static void put_name(struct text *t, const char *name)
{
    put(t, ",");
    put_text(t, name);
    put(t, ":");
}

static void say(struct text *t)
{
    put(t, "}\n");
    while (write(STDERR_FILENO, t->at, t->count) < 0 && errno == EINTR)
        continue;
}

void log_line(const char *event, const char *name, const char *text, int64_t value)
{
    struct text t;

    put_head(&t, "", event);
    if (name != NULL)
        put_name(&t, name);
    if (text != NULL)
        put_text(&t, text);
    else if (name != NULL)
        put(&t, "%" PRId64, value);
    say(&t);
}

static void put_field(struct text *t, const struct vshard_log_field *f)
{
    if (t->count >= TEXT_MAX)
        return;
    put_name(t, f->name);
    if (f->kind == VSHARD_FIELD_TEXT)
        put_text(t, f->text);
    else if (f->kind != VSHARD_FIELD_REAL)
        put(t, "%" PRId64, f->integer);
    else if (isfinite(f->real))
        put(t, "%g", f->real);
    else
        put(t, "null"); /* JSON has no word for it */
}

void log_event(uint32_t level, const char *name, const struct vshard_log_field *field, size_t count)
{
    char said[32];
    struct text t;

    snprintf(said, sizeof said, ",\"level\":%" PRIu32, level);
    put_head(&t, said, name);
    for (size_t i = 0; i < count; i++)
        put_field(&t, &field[i]);
    say(&t);
}

void die(const char *what, const char *why)
{
    log_line("server.ends", what, why, 0);
    exit(1);
}
