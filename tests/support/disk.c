/* disk.c - an in-memory disk that knows what would survive a power cut.
 *
 * Each file is kept twice, as a read sees it and as the platter has it, and each
 * sector written since the last sync has a history: a copy of the whole sector
 * after each write that touched it. That is what a page cache does: the sector
 * goes to the disk as it stands at some moment, so a crash leaves it in one of
 * its versions, and never with a later write but without an earlier one. Between
 * sectors there is no order at all. The length of a file has a history of its
 * own, in order, because file systems journal it.
 *
 * A crash state is then one number for each sector, length and directory, and all
 * crash states of a small disk can be counted through. */
#include "support/disk.h"

#include <stdlib.h>
#include <string.h>

#include "support/random.h"

static void *must(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

static void *copy(const void *p, size_t bytes)
{
    void *q = must(malloc(bytes ? bytes : 1));

    if (bytes > 0) /* p may be NULL, which memcpy() must not be given */
        memcpy(q, p, bytes);
    return q;
}

/* Makes room for one more. */
static void *grow(void *items, uint32_t count, uint32_t *cap, size_t each)
{
    if (count < *cap)
        return items;
    *cap = *cap ? *cap * 2 : 8;
    return must(realloc(items, *cap * each));
}

/* ---- names ---- */

static void set_name(struct disk_names *names, const char *path, uint32_t file)
{
    for (uint32_t i = 0; i < names->count; i++) {
        if (strcmp(names->at[i].path, path) == 0) {
            names->at[i].file = file;
            return;
        }
    }
    names->at = grow(names->at, names->count, &names->cap, sizeof *names->at);
    names->at[names->count++] = (struct disk_name){ must(strdup(path)), file };
}

static uint32_t name_file(const struct disk_names *names, const char *path)
{
    for (uint32_t i = 0; i < names->count; i++) {
        if (strcmp(names->at[i].path, path) == 0)
            return names->at[i].file;
    }
    return DISK_NONE;
}

static void clear_name(struct disk_names *names, const char *path)
{
    for (uint32_t i = 0; i < names->count; i++) {
        if (strcmp(names->at[i].path, path) == 0) {
            free(names->at[i].path);
            names->at[i] = names->at[--names->count];
            return;
        }
    }
}

static void free_names(struct disk_names *names)
{
    for (uint32_t i = 0; i < names->count; i++)
        free(names->at[i].path);
    free(names->at);
    *names = (struct disk_names){ 0 };
}

static struct disk_names clone_names(const struct disk_names *names)
{
    struct disk_names out = { 0 };

    for (uint32_t i = 0; i < names->count; i++)
        set_name(&out, names->at[i].path, names->at[i].file);
    return out;
}

/* The directory of a path: "a/b" is in "a", "b" in ".", "/b" in "/". */
static char *parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t bytes = slash == NULL ? 0 : (size_t)(slash - path);
    char *out;

    if (slash == NULL)
        return must(strdup("."));
    if (bytes == 0)
        return must(strdup("/"));
    out = must(malloc(bytes + 1));
    memcpy(out, path, bytes);
    out[bytes] = '\0';
    return out;
}

/* "home" and "home/" are one directory. */
static size_t bare(const char *path)
{
    size_t n = strlen(path);

    return n > 1 && path[n - 1] == '/' ? n - 1 : n;
}

static int same_path(const char *a, const char *b)
{
    return bare(a) == bare(b) && memcmp(a, b, bare(a)) == 0;
}

int disk_has_dir(const struct disk *disk, const char *path)
{
    if (strcmp(path, ".") == 0 || strcmp(path, "/") == 0)
        return 1;
    for (uint32_t i = 0; i < disk->dir_count; i++) {
        if (same_path(disk->dirs[i], path))
            return 1;
    }
    return 0;
}

int disk_has_parent(const struct disk *disk, const char *path)
{
    char *dir = parent(path);
    int has = disk_has_dir(disk, dir);

    free(dir);
    return has;
}

int disk_same_dir(const char *a, const char *b)
{
    char *x = parent(a), *y = parent(b);
    int same = strcmp(x, y) == 0;

    free(x);
    free(y);
    return same;
}

void disk_mkdir(struct disk *disk, const char *path)
{
    if (disk_has_dir(disk, path))
        return;
    disk->dirs = grow(disk->dirs, disk->dir_count, &disk->dir_cap, sizeof *disk->dirs);
    disk->dirs[disk->dir_count++] = must(strdup(path));
}

static void apply(struct disk_names *names, const struct disk_change *c)
{
    if (c->path_to != NULL)
        set_name(names, c->path_to, c->file);
    if (c->path != NULL && (c->path_to == NULL || name_file(names, c->path) == c->file))
        clear_name(names, c->path);
}

static void add_change(struct disk *disk, const char *path, const char *path_to, uint32_t file)
{
    disk->changes =
        grow(disk->changes, disk->change_count, &disk->change_cap, sizeof *disk->changes);
    disk->changes[disk->change_count++] =
        (struct disk_change){ parent(path ? path : path_to), path ? must(strdup(path)) : NULL,
                              path_to ? must(strdup(path_to)) : NULL, file };
}

static void change(struct disk *disk, const char *path, const char *path_to, uint32_t file)
{
    add_change(disk, path, path_to, file);
    apply(&disk->now, &disk->changes[disk->change_count - 1]);
}

static void free_change(struct disk_change *c)
{
    free(c->directory);
    free(c->path);
    free(c->path_to);
}

static void drop_changes(struct disk *disk, const char *directory)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < disk->change_count; i++) {
        if (directory != NULL && !same_path(disk->changes[i].directory, directory))
            disk->changes[kept++] = disk->changes[i];
        else
            free_change(&disk->changes[i]);
    }
    disk->change_count = kept;
}

uint32_t disk_find(const struct disk *disk, const char *path)
{
    return name_file(&disk->now, path);
}

static uint32_t new_file(struct disk *disk)
{
    uint32_t i = 0;

    while (i < disk->file_count && disk->files[i].used)
        i++;
    if (i == disk->file_count) {
        disk->files = grow(disk->files, disk->file_count, &disk->file_cap, sizeof *disk->files);
        disk->file_count++;
    }
    disk->files[i] = (struct disk_file){ .used = 1 };
    return i;
}

uint32_t disk_make(struct disk *disk, const char *path)
{
    uint32_t file = new_file(disk);

    change(disk, NULL, path, file);
    return file;
}

void disk_rename(struct disk *disk, const char *path, const char *path_to)
{
    if (strcmp(path, path_to) != 0)
        change(disk, path, path_to, disk_find(disk, path));
}

void disk_remove(struct disk *disk, const char *path)
{
    change(disk, path, NULL, disk_find(disk, path));
}

void disk_sync_dir(struct disk *disk, const char *path)
{
    for (uint32_t i = 0; i < disk->change_count; i++) {
        if (same_path(disk->changes[i].directory, path))
            apply(&disk->durable, &disk->changes[i]);
    }
    drop_changes(disk, path);
}

/* ---- bytes ---- */

static void reserve(struct disk_file *f, uint64_t bytes)
{
    size_t cap = f->cap ? f->cap : 4096;

    if (bytes <= f->cap)
        return;
    while (cap < bytes)
        cap *= 2;
    f->now = must(realloc(f->now, cap));
    f->durable = must(realloc(f->durable, cap));
    f->sectors = must(realloc(f->sectors, cap / DISK_SECTOR * sizeof *f->sectors));
    memset(f->now + f->cap, 0, cap - f->cap);
    memset(f->durable + f->cap, 0, cap - f->cap);
    for (size_t i = f->cap / DISK_SECTOR; i < cap / DISK_SECTOR; i++)
        f->sectors[i] = NULL;
    f->cap = cap;
}

/* Remembers the sector as it now stands. */
static void keep_version(struct disk_file *f, uint32_t sector, uint32_t cut_by)
{
    struct disk_sector *s = f->sectors[sector];

    if (s == NULL) {
        s = f->sectors[sector] = must(calloc(1, sizeof *s));
        f->dirty = grow(f->dirty, f->dirty_count, &f->dirty_cap, sizeof *f->dirty);
        f->dirty[f->dirty_count++] = sector;
    }
    s->versions = grow(s->versions, s->count, &s->cap, sizeof *s->versions);
    s->versions[s->count++] =
        (struct disk_version){ copy(f->now + (size_t)sector * DISK_SECTOR, DISK_SECTOR), cut_by,
                               0 };
}

static void keep_length(struct disk_file *f, uint64_t to, uint64_t steps)
{
    f->lengths = grow(f->lengths, f->length_count, &f->length_cap, sizeof *f->lengths);
    f->lengths[f->length_count++] = (struct disk_length){ f->bytes, to, steps };
    f->bytes = to;
}

static void clean_sector(struct disk_file *f, uint32_t sector)
{
    struct disk_sector *s = f->sectors[sector];

    for (uint32_t i = 0; i < s->count; i++)
        free(s->versions[i].bytes);
    free(s->versions);
    free(s);
    f->sectors[sector] = NULL;
}

static void clean(struct disk_file *f)
{
    for (uint32_t i = 0; i < f->dirty_count; i++)
        clean_sector(f, f->dirty[i]);
    f->dirty_count = f->length_count = 0;
}

static void free_file(struct disk_file *f)
{
    clean(f);
    free(f->now);
    free(f->durable);
    free(f->sectors);
    free(f->dirty);
    free(f->lengths);
    *f = (struct disk_file){ 0 };
}

void disk_write(struct disk_file *f, uint64_t offset, const void *bytes, size_t count)
{
    uint64_t end = offset + count;

    if (count == 0)
        return;
    reserve(f, end);
    memcpy(f->now + offset, bytes, count);
    for (uint64_t s = offset / DISK_SECTOR; s * DISK_SECTOR < end; s++)
        keep_version(f, (uint32_t)s, 0);
    /* A file system writes a long extension back in parts, the length after them. */
    if (end > f->bytes)
        keep_length(f, end, (end + DISK_SECTOR - 1) / DISK_SECTOR - f->bytes / DISK_SECTOR);
}

void disk_resize(struct disk_file *f, uint64_t bytes)
{
    uint64_t old = f->bytes;

    if (bytes == old)
        return;
    reserve(f, bytes);
    keep_length(f, bytes, 1);
    if (bytes > old)
        return;
    memset(f->now + bytes, 0, old - bytes);
    for (uint64_t s = bytes / DISK_SECTOR; s * DISK_SECTOR < old; s++)
        keep_version(f, (uint32_t)s, f->length_count);
}

static void sync_sector(struct disk_file *f, uint32_t sector)
{
    size_t at = (size_t)sector * DISK_SECTOR;

    memcpy(f->durable + at, f->now + at, DISK_SECTOR);
}

static void set_durable_length(struct disk_file *f, uint64_t bytes)
{
    if (bytes < f->bytes_durable)
        memset(f->durable + bytes, 0, f->bytes_durable - bytes);
    f->bytes_durable = bytes;
}

void disk_sync(struct disk_file *f)
{
    for (uint32_t i = 0; i < f->dirty_count; i++)
        sync_sector(f, f->dirty[i]);
    if (f->length_count > 0)
        set_durable_length(f, f->bytes);
    clean(f);
}

void disk_sync_fails(struct disk_file *f, uint64_t *seed)
{
    for (uint32_t i = 0; i < f->dirty_count; i++) {
        if (random_one_in(seed, 2))
            sync_sector(f, f->dirty[i]);
    }
    if (f->length_count > 0 && random_one_in(seed, 2))
        set_durable_length(f, f->bytes);
    if (f->cap > f->bytes_durable)
        memset(f->durable + f->bytes_durable, 0, f->cap - f->bytes_durable);
    clean(f);
}

void disk_flip(struct disk_file *f, uint64_t bit)
{
    uint64_t byte = bit / 8, sector = byte / DISK_SECTOR;
    unsigned char mask = (unsigned char)(1u << bit % 8);

    if (byte < f->bytes)
        f->now[byte] ^= mask;
    if (byte < f->bytes_durable)
        f->durable[byte] ^= mask;
    if (byte < f->cap && f->sectors[sector] != NULL) {
        for (uint32_t i = 0; i < f->sectors[sector]->count; i++)
            f->sectors[sector]->versions[i].bytes[byte % DISK_SECTOR] ^= mask;
    }
}

void disk_put(struct disk *disk, const char *path, const void *bytes, size_t count)
{
    uint32_t file = new_file(disk);
    struct disk_file *f = &disk->files[file];

    reserve(f, count);
    if (count > 0) {
        memcpy(f->now, bytes, count);
        memcpy(f->durable, bytes, count);
    }
    f->bytes = f->bytes_durable = count;
    set_name(&disk->now, path, file);
    set_name(&disk->durable, path, file);
}

/* A file that has neither a name nor a handle takes none, although a crash may bring it
 * back: a file system that needs the room writes its journal. */
uint64_t disk_bytes(const struct disk *disk)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < disk->file_count; i++)
        total += disk->files[i].used && disk->files[i].handles != 0 ? disk->files[i].bytes : 0;
    for (uint32_t i = 0; i < disk->now.count; i++) {
        const struct disk_file *f = &disk->files[disk->now.at[i].file];
        total += f->handles == 0 ? f->bytes : 0;
    }
    return total;
}

/* ---- the whole ---- */

struct disk *disk_create(void)
{
    return must(calloc(1, sizeof(struct disk)));
}

static struct disk_file clone_file(const struct disk_file *from)
{
    struct disk_file f = *from;

    f.now = copy(from->now, from->cap);
    f.durable = copy(from->durable, from->cap);
    f.sectors = must(calloc(from->cap / DISK_SECTOR + 1, sizeof *f.sectors));
    f.dirty = copy(from->dirty, from->dirty_count * sizeof *f.dirty);
    f.dirty_cap = from->dirty_count;
    f.lengths = copy(from->lengths, from->length_count * sizeof *f.lengths);
    f.length_cap = from->length_count;
    for (uint32_t i = 0; i < f.dirty_count; i++) {
        struct disk_sector *s = copy(from->sectors[f.dirty[i]], sizeof *s);

        s->versions = copy(s->versions, s->count * sizeof *s->versions);
        s->cap = s->count;
        for (uint32_t v = 0; v < s->count; v++)
            s->versions[v].bytes = copy(s->versions[v].bytes, DISK_SECTOR);
        f.sectors[f.dirty[i]] = s;
    }
    return f;
}

struct disk *disk_clone(const struct disk *from)
{
    struct disk *disk = disk_create();

    disk->files = must(calloc(from->file_count + 1u, sizeof *disk->files));
    disk->file_count = from->file_count;
    disk->file_cap = from->file_count + 1;
    for (uint32_t i = 0; i < from->file_count; i++) {
        if (from->files[i].used)
            disk->files[i] = clone_file(&from->files[i]);
    }
    disk->now = clone_names(&from->now);
    disk->durable = clone_names(&from->durable);
    for (uint32_t i = 0; i < from->dir_count; i++)
        disk_mkdir(disk, from->dirs[i]);
    for (uint32_t i = 0; i < from->change_count; i++)
        add_change(disk, from->changes[i].path, from->changes[i].path_to, from->changes[i].file);
    return disk;
}

void disk_destroy(struct disk *disk)
{
    if (disk == NULL)
        return;
    for (uint32_t i = 0; i < disk->file_count; i++)
        free_file(&disk->files[i]);
    free(disk->files);
    free_names(&disk->now);
    free_names(&disk->durable);
    for (uint32_t i = 0; i < disk->dir_count; i++)
        free(disk->dirs[i]);
    free(disk->dirs);
    drop_changes(disk, NULL);
    free(disk->changes);
    free(disk);
}

static void mark_names(const struct disk_names *names, unsigned char *reachable)
{
    for (uint32_t i = 0; i < names->count; i++)
        reachable[names->at[i].file] = 1;
}

/* Of each file whether a name leads to it, or did and a crash may bring that back. For all
 * at once: on a full disk thousands are made and removed, and none of that is durable. The
 * caller frees it. */
static unsigned char *find_reachable(const struct disk *disk)
{
    unsigned char *reachable = must(calloc(disk->file_count + 1, 1));

    mark_names(&disk->now, reachable);
    mark_names(&disk->durable, reachable);
    for (uint32_t i = 0; i < disk->change_count; i++) {
        if (disk->changes[i].path_to != NULL)
            reachable[disk->changes[i].file] = 1;
    }
    return reachable;
}

void disk_collect(struct disk *disk)
{
    unsigned char *reachable = find_reachable(disk);

    for (uint32_t i = 0; i < disk->file_count; i++) {
        struct disk_file *f = &disk->files[i];

        if (f->used && f->handles == 0 && !reachable[i])
            free_file(f);
    }
    free(reachable);
}

/* ---- crash states ---- */

static uint32_t length_states(const struct disk_file *f)
{
    uint64_t states = 1;

    for (uint32_t i = 0; i < f->length_count; i++)
        states += f->lengths[i].steps;
    return (uint32_t)states;
}

/* The length in a state, and in *whole how many changes it has behind it. */
static uint64_t length_in(const struct disk_file *f, uint64_t state, uint32_t *whole)
{
    for (uint32_t i = 0; i < f->length_count; i++) {
        const struct disk_length *l = &f->lengths[i];

        *whole = i;
        if (state == 0)
            return i == 0 ? f->bytes_durable : l->from;
        if (state < l->steps)
            return (l->from / DISK_SECTOR + state) * DISK_SECTOR;
        state -= l->steps;
    }
    *whole = f->length_count;
    return f->length_count ? f->lengths[f->length_count - 1].to : f->bytes_durable;
}

static void crash_sector(struct disk_file *f, uint32_t sector, uint32_t state, uint32_t whole)
{
    const struct disk_sector *s = f->sectors[sector];

    /* Where the file's length has seen a cut, its bytes are gone too. */
    for (uint32_t v = 0; v < s->count; v++) {
        if (s->versions[v].cut_by != 0 && s->versions[v].cut_by <= whole && state < v + 1)
            state = v + 1;
    }
    if (state > 0)
        memcpy(f->durable + (size_t)sector * DISK_SECTOR, s->versions[state - 1].bytes,
               DISK_SECTOR);
}

static size_t crash_file(struct disk_file *f, const uint32_t *chosen, uint64_t *garbage)
{
    size_t used = 0;
    uint32_t whole = 0;
    uint64_t old = f->bytes_durable;
    uint64_t bytes = length_in(f, f->length_count ? chosen[used++] : 0, &whole);

    reserve(f, bytes);
    if (garbage != NULL && bytes > old)
        random_bytes(garbage, f->durable + old, (size_t)(bytes - old));
    for (uint32_t i = 0; i < f->dirty_count; i++)
        crash_sector(f, f->dirty[i], chosen[used++], whole);
    if (f->cap > bytes)
        memset(f->durable + bytes, 0, f->cap - bytes);
    f->bytes = f->bytes_durable = bytes;
    if (f->cap > 0)
        memcpy(f->now, f->durable, f->cap);
    clean(f);
    f->handles = 0;
    return used;
}

/* Whether change i is the first of its directory, and how many that has. */
static uint32_t changes_of_dir(const struct disk *disk, uint32_t i)
{
    const char *dir = disk->changes[i].directory;
    uint32_t count = 0;

    for (uint32_t j = 0; j < disk->change_count; j++) {
        if (strcmp(disk->changes[j].directory, dir) == 0) {
            if (j < i)
                return 0;
            count++;
        }
    }
    return count;
}

static void add_unit(uint32_t count, uint32_t *states, size_t cap, size_t *n)
{
    if (*n < cap)
        states[*n] = count;
    (*n)++;
}

static size_t dir_units(const struct disk *disk, int each_change, uint32_t *states, size_t cap)
{
    size_t n = 0;

    for (uint32_t i = 0; i < disk->change_count; i++) {
        if (each_change)
            add_unit(2, states, cap, &n);
        else if (changes_of_dir(disk, i) > 0)
            add_unit(changes_of_dir(disk, i) + 1, states, cap, &n);
    }
    return n;
}

size_t disk_units(const struct disk *disk, int each_change, uint32_t *states, size_t cap)
{
    size_t n = dir_units(disk, each_change, states, cap);
    unsigned char *reachable = find_reachable(disk);

    for (uint32_t i = 0; i < disk->file_count; i++) {
        const struct disk_file *f = &disk->files[i];

        if (!f->used || !reachable[i])
            continue;
        if (f->length_count > 0)
            add_unit(length_states(f), states, cap, &n);
        for (uint32_t s = 0; s < f->dirty_count; s++)
            add_unit(f->sectors[f->dirty[s]]->count + 1, states, cap, &n);
    }
    free(reachable);
    return n;
}

static void crash_dirs(struct disk *disk, int each_change, const uint32_t *chosen)
{
    size_t used = 0;

    for (uint32_t i = 0; i < disk->change_count; i++) {
        const char *dir = disk->changes[i].directory;

        if (each_change) {
            if (chosen[used++])
                apply(&disk->durable, &disk->changes[i]);
        } else if (changes_of_dir(disk, i) > 0) {
            uint32_t left = chosen[used++];
            for (uint32_t j = i; j < disk->change_count && left > 0; j++) {
                if (strcmp(disk->changes[j].directory, dir) == 0) {
                    apply(&disk->durable, &disk->changes[j]);
                    left--;
                }
            }
        }
    }
}

/* Files before names: which files are units was decided by the names as they were,
 * and a removal that survives takes its file's last name away. */
void disk_crash(struct disk *disk, int each_change, const uint32_t *chosen, uint64_t *garbage)
{
    size_t used = dir_units(disk, each_change, NULL, 0);
    unsigned char *reachable = find_reachable(disk);

    for (uint32_t i = 0; i < disk->file_count; i++) {
        if (disk->files[i].used && reachable[i])
            used += crash_file(&disk->files[i], chosen + used, garbage);
        disk->files[i].handles = 0;
    }
    free(reachable);
    crash_dirs(disk, each_change, chosen);
    drop_changes(disk, NULL);
    free_names(&disk->now);
    disk->now = clone_names(&disk->durable);
    disk_collect(disk);
}
