/* log_writer.c - makes a log for tests of vshard-wal:
 *
 *     log_writer directory entries [key-file | -] [stay]
 *
 * Three groups take turns, one sync an entry of 300 bytes; a vote each, and a mark at
 * the end of the first. With a key file the log is sealed with key 3. With
 * "stay" it then says "written" and has the log open until its input ends. The process ends
 * without closing the log, as in a crash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vshard.h>

static int read_key(void *ctx, uint32_t key_id, uint8_t *key)
{
    FILE *f = fopen(ctx, "rb");
    int rc = f != NULL && key_id == 3 && fread(key, 32, 1, f) == 1 ? 0 : -1;

    if (f != NULL)
        fclose(f);
    return rc;
}

int main(int argc, char **argv)
{
    struct vshard_wal_hooks hooks = { .size = sizeof hooks, .key = read_key };
    struct vshard_wal_options o = {
        .size = sizeof o, .log_id = 77, .segment_bytes = 64 << 10, .flags = VSHARD_WAL_UNPACKED
    };
    struct vshard_wal *wal;
    unsigned char payload[300];
    uint64_t barrier = 0, entries;
    int rc;

    if (argc < 3)
        return 2;
    entries = strtoull(argv[2], NULL, 10);
    o.path = argv[1];
    if (argc > 3 && strcmp(argv[3], "-") != 0) {
        hooks.ctx = argv[3];
        o.hooks = &hooks;
        o.key_id = 3;
    }
    rc = vshard_wal_open(&o, NULL, &wal);
    for (uint64_t i = 0; rc == VSHARD_OK && i < entries; i++) {
        const struct vshard_wal_record r[2] = {
            { .group = i % 3 + 1,
              .index = i / 3 + 1,
              .term = 2,
              .kind = VSHARD_WAL_ENTRY,
              .payload_bytes = sizeof payload,
              .payload = payload },
            { .group = i % 3 + 1, .index = 5, .term = 2, .kind = VSHARD_WAL_VOTE }
        };

        memset(payload, (int)i, sizeof payload);
        rc = vshard_wal_append(wal, r, i < 3 ? 2 : 1, &barrier);
        if (rc == VSHARD_OK)
            rc = vshard_wal_sync(wal, barrier);
    }
    if (rc != VSHARD_OK)
        fprintf(stderr, "log_writer: %s\n", vshard_strerror(rc));
    if (rc == VSHARD_OK && argc > 4) {
        puts("written");
        fflush(stdout);
        while (getchar() != EOF)
            ;
    }
    fflush(NULL);
    quick_exit(rc != VSHARD_OK);
}
