/* options.c - what the user asked for. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vshard.h>

#include "screen.h"
#include "set.h"
#include "shards.h"

enum { THREADS_MAX = 256, WRONG = 1 + 2 };

static const char help[] =
    "usage: demo [options]\n"
    "Real vectors in shards: built, searched, merged, saved, mapped, compared.\n"
    "\n"
    "  --data DIR      where the .npy files are        examples/demo/data\n"
    "  --set NAME      NAME.base.npy, NAME.query.npy   glove30k\n"
    "  --metric NAME   cosine, l2 or ip                as the set is known to need\n"
    "  --rows N        use the first N rows only       all\n"
    "  --shards N      1 to 64                         4\n"
    "  --threads N     1 to 256                        one a processor\n"
    "  --ef N          width of the search, 1 to 16384 100\n"
    "  --seed N        of the indexes                  1\n"
    "  --dir DIR       keep the files in DIR, which is new or empty\n"
    "  --help          this\n"
    "\n"
    "Ends with status 0 if recall@10 is at least 0.97 and the mapped files answer as\n"
    "the memory did, 1 if not or if something failed, 2 if the arguments are wrong.\n";

static int wrong(void)
{
    fputs("Try 'demo --help'.\n", stderr);
    return WRONG;
}

static int read_number(const char *name, const char *text, uint64_t min, uint64_t max,
                       uint64_t *number)
{
    char *end;

    errno = 0;
    *number = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *number >= min &&
        *number <= max)
        return 0;
    failed("--%s takes a number from %llu to %llu, not '%s'", name, (unsigned long long)min,
           (unsigned long long)max, text);
    return wrong();
}

static int read_metric(const char *text, uint32_t *metric)
{
    static const char *const names[] = { "l2", "ip", "cosine" }; /* as VSHARD_METRIC_* */

    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *metric = i;
            return 0;
        }
    }
    failed("--metric takes cosine, l2 or ip, not '%s'", text);
    return wrong();
}

static int read_one(struct options *o, int option, const char *name, int *metric_said)
{
    uint64_t number = 0;
    int rc = 0;

    switch (option) {
    case 'd': o->data = optarg; break;
    case 's': o->set = optarg; break;
    case 'D': o->dir = optarg; break;
    case 'm': *metric_said = 1; return read_metric(optarg, &o->metric);
    case 'r':
        rc = read_number(name, optarg, 1, VSHARD_ROWS_MAX, &number);
        o->rows = (size_t)number;
        break;
    case 'n':
        rc = read_number(name, optarg, 1, SHARDS_MAX, &number);
        o->shards = (uint32_t)number;
        break;
    case 't':
        rc = read_number(name, optarg, 1, THREADS_MAX, &number);
        o->threads = (uint32_t)number;
        break;
    case 'e':
        rc = read_number(name, optarg, 1, VSHARD_EF_MAX, &number);
        o->ef = (uint32_t)number;
        break;
    case 'x': rc = read_number(name, optarg, 0, UINT64_MAX, &o->seed); break;
    case 'h': return fputs(help, stdout) < 0 || screen_fini() < 0 ? 1 + 1 : 1 + 0;
    default: return wrong();
    }
    return rc;
}

static int find_metric(struct options *o)
{
    int metric = set_metric(o->set);

    if (metric < 0) {
        failed("what is '%s' compared by? Say --metric cosine, l2 or ip", o->set);
        return wrong();
    }
    o->metric = (uint32_t)metric;
    return 0;
}

int options_read(struct options *options, int argc, char **argv)
{
    static const struct option known[] = { { "data", required_argument, NULL, 'd' },
                                           { "set", required_argument, NULL, 's' },
                                           { "metric", required_argument, NULL, 'm' },
                                           { "rows", required_argument, NULL, 'r' },
                                           { "shards", required_argument, NULL, 'n' },
                                           { "threads", required_argument, NULL, 't' },
                                           { "ef", required_argument, NULL, 'e' },
                                           { "seed", required_argument, NULL, 'x' },
                                           { "dir", required_argument, NULL, 'D' },
                                           { "help", no_argument, NULL, 'h' },
                                           { NULL, 0, NULL, 0 } };
    static char name[] = "demo"; /* what getopt calls us when it complains */
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int option, which = 0, metric_said = 0, rc = 0;

    *options = (struct options){
        .data = "examples/demo/data", .set = "glove30k", .shards = 4, .ef = 100, .seed = 1
    };
    options->threads = processors < 1             ? 1
                       : processors > THREADS_MAX ? THREADS_MAX
                                                  : (uint32_t)processors;
    argv[0] = name;
    while (rc == 0 && (option = getopt_long(argc, argv, "", known, &which)) != -1)
        rc = read_one(options, option, known[which].name, &metric_said);
    if (rc == 0 && optind < argc) {
        failed("what is '%s'?", argv[optind]);
        rc = wrong();
    }
    return rc == 0 && !metric_said ? find_metric(options) : rc;
}
