/* vshard-wal.c - looks at a write-ahead log, and repairs it when told to.
 *
 * Only the public header is used. `verify`, `dump` and `groups` open the log
 * read-only; `cut` and `salvage` change it, and only with --yes. See vshard-wal(1).
 *
 * The exit status is the worst that was found: 0 clean or torn, 1 uncertain,
 * 2 corrupt, 3 a failure to do what was asked. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/wal.h>

enum { FAILURE = 3, KEYS = 8, KEY_BYTES = 32 };

struct key {
    const char *file;
    uint64_t id; /* 0: whichever is asked for */
};

struct settings {
    const char *path;
    struct key keys[KEYS];
    uint64_t log_id, group;
    uint32_t key_count, key_id, flags;
    int have_log_id, have_group, live, payload, yes;
};

static const char help[] =
    "usage: vshard-wal [options] command directory\n"
    "\n"
    "  verify     read every byte, judge the tail, change nothing\n"
    "  groups     one line a group: vote, commit, mark, entries\n"
    "  dump       one line a record, in the order of the log\n"
    "  cut        remove a torn or uncertain tail; needs --yes\n"
    "  salvage    keep what stands before the damage; needs --yes\n"
    "\n"
    "  -g, --group N       dump only this group\n"
    "  -l, --live          dump only entries that still count\n"
    "  -p, --payload       dump payloads, as hexadecimal\n"
    "  -k, --key [N=]FILE  32 bytes that open what is sealed with key N, or with any\n"
    "  -i, --log-id N      whose log it is; default: what its files say\n"
    "  -s, --strict        call a torn tail uncertain\n"
    "  -y, --yes           really change the log\n"
    "  -h, --help          this text\n"
    "  -V, --version       the library's version\n";

static const struct option long_options[] = {
    { "group", required_argument, NULL, 'g' },  { "live", no_argument, NULL, 'l' },
    { "payload", no_argument, NULL, 'p' },      { "key", required_argument, NULL, 'k' },
    { "log-id", required_argument, NULL, 'i' }, { "strict", no_argument, NULL, 's' },
    { "yes", no_argument, NULL, 'y' },          { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },      { NULL, 0, NULL, 0 }
};

static int fail(const char *what, int status)
{
    fprintf(stderr, "vshard-wal: %s: %s\n", what, vshard_strerror(status));
    return FAILURE;
}

static uint64_t little_endian(const unsigned char *p, int bytes)
{
    uint64_t v = 0;

    while (bytes > 0)
        v = v << 8 | p[--bytes];
    return v;
}

/* What a log must be told before it can be opened: whose it is, which is at byte 16 of
 * each slot of the superblock and of each segment, and the key of the newest slot, so
 * that a repair does not take a signature away; where there is none, that of the newest
 * segment whose header is the same in both places. Nothing here is trusted: a wrong guess
 * is refused when the log is opened. */
static void look_into(struct settings *s, const char *name, int super, uint64_t *newest)
{
    unsigned char head[1024];
    char path[4096];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", s->path, name);
    f = fopen(path, "rb");
    for (long i = 0; f != NULL && i < (super ? 4 : 1); i++) {
        if (fseek(f, i * 4096, SEEK_SET) != 0 || fread(head, sizeof head, 1, f) != 1 ||
            memcmp(head, super ? "VSWALSUP" : "VSWALSEG", 8) != 0)
            continue;
        if (!s->have_log_id)
            s->log_id = little_endian(head + 16, 8);
        if (little_endian(head + 24, 8) >= *newest &&
            (super || memcmp(head, head + 512, 512) == 0)) {
            *newest = little_endian(head + 24, 8);
            s->key_id = (uint32_t)little_endian(head + (super ? 128 : 32), 4);
        }
    }
    if (f != NULL)
        fclose(f);
}

static void find_identity(struct settings *s)
{
    DIR *dir = opendir(s->path);
    uint64_t segment = 0, generation = 0;
    struct dirent *e;

    while (dir != NULL && (e = readdir(dir)) != NULL) {
        size_t n = strlen(e->d_name);

        if (n == 20 && strcmp(e->d_name + 16, ".wal") == 0)
            look_into(s, e->d_name, 0, &segment);
    }
    if (dir != NULL)
        closedir(dir);
    look_into(s, "wal.super", 1, &generation);
}

static int read_key(void *ctx, uint32_t key_id, uint8_t *key)
{
    const struct settings *s = ctx;
    const char *file = NULL;
    FILE *f;
    int rc;

    for (uint32_t i = 0; i < s->key_count; i++) {
        if (s->keys[i].id == key_id || (s->keys[i].id == 0 && file == NULL))
            file = s->keys[i].file;
    }
    if (file == NULL) {
        fprintf(stderr, "vshard-wal: the log is sealed with key %u; give it with --key\n", key_id);
        return -1;
    }
    f = fopen(file, "rb");
    rc = f != NULL && fread(key, KEY_BYTES, 1, f) == 1 ? 0 : -1;
    if (rc < 0)
        fprintf(stderr, "vshard-wal: %s does not have the %d bytes of a key\n", file, KEY_BYTES);
    if (f != NULL)
        fclose(f);
    return rc;
}

/* Why something is refused; the verdict is printed anyway. */
static void say(void *ctx, uint32_t level, const char *name, const struct vshard_log_field *fields,
                size_t count)
{
    (void)ctx;
    if (level > VSHARD_LOG_WARN || strncmp(name, "wal.", 4) != 0)
        return;
    fprintf(stderr, "vshard-wal: %s", name);
    for (size_t i = 0; i < count; i++) {
        if (fields[i].text != NULL)
            fprintf(stderr, " %s=%s", fields[i].name, fields[i].text);
        else
            fprintf(stderr, " %s=%" PRId64, fields[i].name, fields[i].integer);
    }
    fputc('\n', stderr);
}

static int open_log(struct settings *s, uint32_t flags, uint32_t tail,
                    struct vshard_wal_report *report, struct vshard_wal **wal)
{
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .ctx = s, .key = read_key };
    const struct vshard_logger log = { say, NULL };
    struct vshard_wal_options o = { .size = sizeof o,
                                    .flags = flags | s->flags,
                                    .tail = tail,
                                    .key_id = s->key_id,
                                    .log_id = s->log_id,
                                    .log = &log,
                                    .path = s->path,
                                    .hooks = &hooks };

    *report = (struct vshard_wal_report){ .size = sizeof *report };
    return vshard_wal_open(&o, report, wal);
}

static int print_report(const struct vshard_wal_report *r)
{
    static const char *const verdicts[] = { "clean", "torn", "uncertain", "corrupt" };

    printf("verdict      %s\n", verdicts[r->verdict & 3]);
    printf("unsettled    %s\n", r->unsettled ? "yes" : "no");
    printf("incarnation  %016" PRIx64 ", opened %" PRIu64 " times\n", r->incarnation, r->boot);
    printf("barrier      %" PRIu64 ", witnessed %" PRIu64 "\n", r->barrier, r->witnessed);
    printf("ends at      %016" PRIx64 ".wal, byte %" PRIu64 "\n", r->segment, r->offset);
    printf("holds        %" PRIu64 " records, %" PRIu64 " bytes, %" PRIu64 " segments\n",
           r->records, r->bytes, r->segments);
    printf("behind it    %" PRIu64 " sectors of the next batch, %" PRIu64 " damaged\n",
           r->tail_present, r->tail_damaged);
    return r->verdict < VSHARD_WAL_UNCERTAIN ? 0 : (int)r->verdict - 1;
}

static int verify(struct settings *s)
{
    struct vshard_wal_report report;
    struct vshard_wal *wal;
    int rc = open_log(s, VSHARD_WAL_READ_ONLY, 0, &report, &wal);

    if (rc < 0)
        return fail(s->path, rc);
    vshard_wal_close(wal);
    return print_report(&report);
}

static const char *kind_name(uint32_t kind)
{
    static const char *const names[] = { "?",    "entry", "vote",   "commit", "cut",
                                         "mark", "note",  "forget", "reset" };

    return kind < sizeof names / sizeof names[0] ? names[kind] : names[0];
}

static int print_record(void *ctx, const struct vshard_wal_record *r,
                        const struct vshard_wal_place *place)
{
    const struct settings *s = ctx;
    const unsigned char *bytes = r->payload;

    if (s->have_group && r->group != s->group)
        return 0;
    printf("%" PRIu64 "\t%016" PRIx64 "+%" PRIu64 "\t%s\t%s\tgroup=%" PRIu64 " index=%" PRIu64
           " term=%" PRIu64 " bytes=%u",
           place->barrier, place->segment, place->offset, place->live ? "live" : "dead",
           kind_name(r->kind), r->group, r->index, r->term, r->payload_bytes);
    if (s->payload && r->payload_bytes > 0)
        putchar('\t');
    for (uint32_t i = 0; s->payload && i < r->payload_bytes; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
    return ferror(stdout) != 0;
}

static int dump(struct settings *s)
{
    const struct vshard_wal_visitor visitor = { print_record, s };
    struct vshard_wal_report report;
    struct vshard_wal *wal;
    int rc = open_log(s, VSHARD_WAL_READ_ONLY, 0, &report, &wal);

    if (rc < 0)
        return fail(s->path, rc);
    rc = s->live ? vshard_wal_replay(wal, &visitor) : vshard_wal_scan(wal, &visitor);
    vshard_wal_close(wal);
    if (rc < 0)
        return fail(s->path, rc);
    return report.verdict < VSHARD_WAL_UNCERTAIN ? 0 : (int)report.verdict - 1;
}

static void print_group(struct vshard_wal *wal, uint64_t id)
{
    struct vshard_wal_group g = { .size = sizeof g };

    if (vshard_wal_find(wal, id, &g) < 0)
        return;
    printf("%" PRIu64 "\tterm=%" PRIu64 " vote=%" PRIu64 " commit=%" PRIu64 " mark=%" PRIu64
           " entries=%" PRIu64 "..%" PRIu64 " last_term=%" PRIu64 " bytes=%" PRIu64
           " oldest=%016" PRIx64 "\n",
           id, g.vote_term, g.vote, g.commit, g.mark_index, g.first, g.last, g.last_term, g.bytes,
           g.segment);
}

static int groups(struct settings *s)
{
    struct vshard_wal_report report;
    struct vshard_wal *wal;
    uint64_t ids[256], from = 0;
    size_t count;
    int rc = open_log(s, VSHARD_WAL_READ_ONLY, 0, &report, &wal);

    if (rc < 0)
        return fail(s->path, rc);
    do {
        rc = vshard_wal_groups(wal, from, ids, 256, &count);
        for (size_t i = 0; rc == VSHARD_OK && i < count; i++)
            print_group(wal, ids[i]);
        from = count > 0 ? ids[count - 1] + 1 : 0;
    } while (rc == VSHARD_OK && count == 256 && from != 0);
    vshard_wal_close(wal);
    return report.verdict < VSHARD_WAL_UNCERTAIN ? 0 : (int)report.verdict - 1;
}

/* Looks first, so that nothing is made, cut or signed that was not asked for. */
static int change(struct settings *s, uint32_t flags, uint32_t tail)
{
    struct vshard_wal_report report;
    struct vshard_wal *wal;
    int rc = open_log(s, VSHARD_WAL_READ_ONLY, 0, &report, &wal);

    vshard_wal_close(wal);
    if (rc < 0)
        return fail(s->path, rc);
    if (report.verdict == VSHARD_WAL_CLEAN) {
        print_report(&report);
        puts("removed      nothing: the log is whole");
        return 0;
    }
    if (report.verdict == VSHARD_WAL_CORRUPT && (flags & VSHARD_WAL_SALVAGE) == 0) {
        print_report(&report);
        fputs("vshard-wal: records that were synced are damaged; only salvage goes so far\n",
              stderr);
        return FAILURE;
    }
    if (!s->yes) {
        print_report(&report);
        fputs("vshard-wal: this removes records; say --yes if that is meant\n", stderr);
        return FAILURE;
    }
    rc = open_log(s, flags, tail, &report, &wal);
    vshard_wal_close(wal);
    if (rc < 0)
        return fail(s->path, rc);
    print_report(&report);
    printf("removed      %" PRIu64 " bytes behind barrier %" PRIu64 "\n", report.removed,
           report.barrier);
    return 0;
}

static _Noreturn void wrong(const char *format, ...)
{
    va_list args;

    fputs("vshard-wal: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\nTry 'vshard-wal --help'.\n", stderr);
    exit(FAILURE);
}

static uint64_t parse_number(const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < low || value > high)
        wrong("%s takes a number from %" PRIu64 " to %" PRIu64 ", not '%s'", name, low, high, text);
    return value;
}

/* "3=file" is key 3; "file" is any. */
static void parse_key(struct settings *s, char *text)
{
    char *equals = strchr(text, '=');
    struct key *key = &s->keys[s->key_count];

    if (s->key_count == KEYS)
        wrong("--key may be given %d times", KEYS);
    s->key_count++;
    *key = (struct key){ .file = text };
    if (equals == NULL)
        return;
    *equals = '\0';
    key->file = equals + 1;
    key->id = parse_number("--key", text, 1, UINT32_MAX);
}

static void parse(int argc, char **argv, struct settings *s)
{
    int c;

    while ((c = getopt_long(argc, argv, "g:lpk:i:syhV", long_options, NULL)) != -1) {
        switch (c) {
        case 'g':
            s->group = parse_number("--group", optarg, 0, UINT64_MAX);
            s->have_group = 1;
            break;
        case 'i':
            s->log_id = parse_number("--log-id", optarg, 0, UINT64_MAX);
            s->have_log_id = 1;
            break;
        case 'l': s->live = 1; break;
        case 'p': s->payload = 1; break;
        case 'k': parse_key(s, optarg); break;
        case 's': s->flags |= VSHARD_WAL_STRICT; break;
        case 'y': s->yes = 1; break;
        case 'h': fputs(help, stdout); exit(0);
        case 'V':
            printf("vshard-wal %u.%u.%u\n", vshard_version() / 1000000,
                   vshard_version() / 1000 % 1000, vshard_version() % 1000);
            exit(0);
        default: wrong("see above");
        }
    }
    if (argc - optind != 2)
        wrong("a command and a directory are wanted");
}

int main(int argc, char **argv)
{
    struct settings s = { 0 };
    const char *command;
    int rc;

    parse(argc, argv, &s);
    command = argv[optind];
    s.path = argv[optind + 1];
    find_identity(&s);
    if (strcmp(command, "verify") == 0)
        rc = verify(&s);
    else if (strcmp(command, "dump") == 0)
        rc = dump(&s);
    else if (strcmp(command, "groups") == 0)
        rc = groups(&s);
    else if (strcmp(command, "cut") == 0)
        rc = change(&s, 0, VSHARD_WAL_TAIL_CUT);
    else if (strcmp(command, "salvage") == 0)
        rc = change(&s, VSHARD_WAL_SALVAGE, VSHARD_WAL_TAIL_FLAG);
    else
        wrong("'%s' is not a command", command);
    return fflush(stdout) == 0 ? rc : FAILURE;
}
