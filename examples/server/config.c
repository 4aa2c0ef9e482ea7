/* config.c - the file that says which node a server is, of lines "name = value". */
#include "server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The line at hand, of which it is said what is wrong. */
struct place {
    const char *path;
    uint32_t line;
};

_Noreturn static void wrong(const struct place *at, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void wrong(const struct place *at, const char *name, const char *format, ...)
{
    char why[512], where[600];
    va_list args;

    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (at->line > 0)
        snprintf(where, sizeof where, "%s (line %" PRIu32 ")", why, at->line);
    else
        snprintf(where, sizeof where, "%s", why);
    die(name, where);
}

static uint64_t read_number(const struct place *at, const char *name, const char *value,
                            uint64_t least, uint64_t limit)
{
    uint64_t number;

    if (!number_read(value, limit, &number) || number < least)
        wrong(at, name, "'%.40s' is no number up to %" PRIu64 "%s", value, limit,
              least > 0 ? ", from 1 on" : "");
    return number;
}

static void read_address(const struct place *at, const char *name, const char *text,
                         struct address *to)
{
    char host[64], digits[64];
    uint64_t port;

    if (sscanf(text, "%63[^:]:%63s", host, digits) != 2 || !number_read(digits, 65535, &port) ||
        port == 0 || uv_ip4_addr(host, (int)port, (struct sockaddr_in *)&to->at) != 0)
        wrong(at, name, "'%.60s' is not an address and a port, as in 127.0.0.1:7101", text);
    snprintf(to->text, sizeof to->text, "%s:%" PRIu64, host, port);
}

static int read_nice(const struct place *at, const char *value)
{
    uint64_t number;

    if (!number_read(value, 19, &number))
        wrong(at, "nice", "'%.40s' is no number up to 19", value);
    return (int)number;
}

static void read_peer(const struct place *at, const char *value, struct config *c)
{
    struct address *peer = &c->peer[c->peer_count];
    char node[32], where[128], more[2];

    if (c->peer_count == NODES_MAX)
        wrong(at, "peer", "%s is one more than the limit of %d", value, NODES_MAX);
    if (sscanf(value, "%31s %127s %1s", node, where, more) != 2)
        wrong(at, "peer", "'%.60s' is not a node and its address, as in 2 127.0.0.1:7102", value);
    peer->node = read_number(at, "peer", node, 1, UINT64_MAX);
    read_address(at, "peer", where, peer);
    for (uint32_t i = 0; i < c->peer_count; i++) {
        if (c->peer[i].node == peer->node)
            wrong(at, "peer", "node %" PRIu64 " has an address already", peer->node);
    }
    c->peer_count++;
}

static void read_founder(const struct place *at, const char *value, struct config *c)
{
    if (c->founder_count == NODES_MAX)
        wrong(at, "founder", "%s is one more than the limit of %d", value, NODES_MAX);
    c->founders[c->founder_count++] = read_number(at, "founder", value, 1, UINT64_MAX);
}

static void read_line(const struct place *at, struct config *c, const char *name, const char *value)
{
    if (strcmp(name, "node") == 0)
        c->node = read_number(at, name, value, 1, UINT64_MAX);
    else if (strcmp(name, "cluster") == 0)
        c->cluster = vshard_key_hash(value, strlen(value));
    else if (strcmp(name, "dir") == 0 && strlen(value) >= sizeof c->dir)
        wrong(at, name, "it has %zu bytes, limit %zu", strlen(value), sizeof c->dir - 1);
    else if (strcmp(name, "dir") == 0)
        strcpy(c->dir, value);
    else if (strcmp(name, "workers") == 0)
        c->workers = (uint32_t)read_number(at, name, value, 0, WORKERS_MAX);
    else if (strcmp(name, "nice") == 0)
        c->nice = read_nice(at, value);
    else if (strcmp(name, "region") == 0) {
        c->region = (uint32_t)read_number(at, name, value, 0, UINT32_MAX);
        c->region_named = true;
    } else if (strcmp(name, "cache_bytes") == 0)
        c->cache_bytes = read_number(at, name, value, 0, UINT64_MAX);
    else if (strcmp(name, "listen") == 0)
        read_address(at, name, value, &c->listen);
    else if (strcmp(name, "client") == 0)
        read_address(at, name, value, &c->client);
    else if (strcmp(name, "founder") == 0)
        read_founder(at, value, c);
    else if (strcmp(name, "peer") == 0)
        read_peer(at, value, c);
    else
        wrong(at, "the configuration does not take", "%s", name);
}

static const char blanks[] = " \t\r\n";

/* Cuts blanks off both ends. */
static char *bare(char *text)
{
    size_t n;

    text += strspn(text, blanks);
    for (n = strlen(text); n > 0 && strchr(blanks, text[n - 1]) != NULL; n--)
        text[n - 1] = 0;
    return text;
}

static void read_lines(struct place *at, FILE *file, struct config *c)
{
    char buffer[4096], *line, *sign;

    while (fgets(buffer, sizeof buffer, file) != NULL) {
        at->line++;
        if (strchr(buffer, '\n') == NULL && !feof(file))
            wrong(at, at->path, "a line has more than %zu bytes", sizeof buffer - 2);
        line = bare(buffer);
        if (*line == 0 || *line == '#')
            continue;
        sign = strchr(line, '=');
        if (sign == NULL)
            wrong(at, "not a line of a configuration", "%.200s", line);
        *sign = 0;
        if (*bare(sign + 1) == 0)
            wrong(at, bare(line), "it has no value");
        read_line(at, c, bare(line), bare(sign + 1));
    }
    if (ferror(file))
        die(at->path, strerror(errno));
}

static const struct address *peer_of(const struct config *c, uint64_t node)
{
    for (uint32_t i = 0; i < c->peer_count; i++) {
        if (c->peer[i].node == node)
            return &c->peer[i];
    }
    return NULL;
}

static void check(const char *path, const struct config *c)
{
    const struct place whole = { path, 0 };

    if (c->node == 0 || c->dir[0] == 0 || c->listen.text[0] == 0 || c->client.text[0] == 0)
        wrong(&whole, path, "node, dir, listen and client are needed; there is no %s",
              c->node == 0             ? "node"
              : c->dir[0] == 0         ? "dir"
              : c->listen.text[0] == 0 ? "listen"
                                       : "client");
    if (strcmp(c->listen.text, c->client.text) == 0)
        wrong(&whole, "client", "%s is the address of listen, too", c->client.text);
    for (uint32_t i = 0; i < c->founder_count; i++) {
        if (c->founders[i] != c->node && peer_of(c, c->founders[i]) == NULL)
            wrong(&whole, "founder", "%" PRIu64 " is no peer: where is it?", c->founders[i]);
    }
}

void config_read(struct config *c, const char *path)
{
    struct place at = { path, 0 };
    FILE *file = fopen(path, "r");

    if (file == NULL)
        die(path, strerror(errno));
    *c = (struct config){ .workers = 3, .nice = 5 };
    read_lines(&at, file, c);
    fclose(file);
    check(path, c);
}
