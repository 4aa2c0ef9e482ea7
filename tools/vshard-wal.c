/* vshard-wal.c - looks at a write-ahead log, and repairs it when told to.
 *
 * Only the public header is used. `verify`, `dump` and `groups` open the log
 * read-only; `cut` and `salvage` change it, and only with --yes. See vshard-wal(1).
 *
 * The exit status is the worst that was found: 0 clean or torn, 1 uncertain,
 * 2 corrupt, 3 a failure to do what was asked. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard/wal.h>

enum { FAILURE = 3 };

struct settings {
    const char *path;
    const char *key_file;
    uint64_t log_id, group;
    uint32_t flags;
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
    "  -k, --key FILE      32 bytes that open sealed segments\n"
    "  -i, --log-id N      whose log it is; default: what the superblock says\n"
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

static uint64_t little_endian(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* The log id stands at byte 16 of each of the superblock's four slots. */
static void find_log_id(struct settings *s)
{
    unsigned char slot[24];
    char name[4096];
    FILE *f;

    snprintf(name, sizeof name, "%s/wal.super", s->path);
    f = fopen(name, "rb");
    if (f == NULL)
        return;
    for (long i = 0; i < 4; i++) {
        if (fseek(f, i * 4096, SEEK_SET) == 0 && fread(slot, sizeof slot, 1, f) == 1 &&
            memcmp(slot, "VSWALSUP", 8) == 0) {
            s->log_id = little_endian(slot + 16);
            break;
        }
    }
    fclose(f);
}

static int read_key(void *ctx, uint32_t key_id, uint8_t *key)
{
    const struct settings *s = ctx;
    FILE *f = s->key_file != NULL ? fopen(s->key_file, "rb") : NULL;
    int rc;

    if (f == NULL) {
        fprintf(stderr, "vshard-wal: the log is sealed with key %u; give it with --key\n", key_id);
        return -1;
    }
    rc = fread(key, 32, 1, f) == 1 ? 0 : -1;
    fclose(f);
    return rc;
}

static int open_log(struct settings *s, uint32_t flags, uint32_t tail,
                    struct vshard_wal_report *report, struct vshard_wal **wal)
{
    const struct vshard_wal_hooks hooks = { .size = sizeof hooks, .ctx = s, .key = read_key };
    struct vshard_wal_options o = { .size = sizeof o,
                                    .flags = flags | s->flags,
                                    .tail = tail,
                                    .log_id = s->log_id,
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

static int change(struct settings *s, uint32_t flags, uint32_t tail)
{
    struct vshard_wal_report report;
    struct vshard_wal *wal;
    int rc;

    if (!s->yes) {
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

static int parse_number(const char *text, uint64_t *value)
{
    char *end;

    *value = strtoull(text, &end, 0);
    return *text != '\0' && *end == '\0' && *text != '-' ? 0 : -1;
}

static int parse(int argc, char **argv, struct settings *s)
{
    int c, bad = 0;

    while ((c = getopt_long(argc, argv, "g:lpk:i:syhV", long_options, NULL)) != -1) {
        switch (c) {
        case 'g': bad |= parse_number(optarg, &s->group), s->have_group = 1; break;
        case 'i': bad |= parse_number(optarg, &s->log_id), s->have_log_id = 1; break;
        case 'l': s->live = 1; break;
        case 'p': s->payload = 1; break;
        case 'k': s->key_file = optarg; break;
        case 's': s->flags |= VSHARD_WAL_STRICT; break;
        case 'y': s->yes = 1; break;
        case 'h': fputs(help, stdout); exit(0);
        case 'V':
            printf("vshard-wal %u.%u.%u\n", vshard_version() / 1000000,
                   vshard_version() / 1000 % 1000, vshard_version() % 1000);
            exit(0);
        default: bad = -1;
        }
    }
    return bad != 0 || argc - optind != 2 ? -1 : 0;
}

int main(int argc, char **argv)
{
    struct settings s = { 0 };
    const char *command;
    int rc;

    if (parse(argc, argv, &s) < 0) {
        fputs(help, stderr);
        return FAILURE;
    }
    command = argv[optind];
    s.path = argv[optind + 1];
    if (!s.have_log_id)
        find_log_id(&s);
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
        rc = (fputs(help, stderr), FAILURE);
    return fflush(stdout) == 0 ? rc : FAILURE;
}
