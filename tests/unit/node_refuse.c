/* node_refuse.c - what a node refuses, and that nothing worse happens: bad arguments, frames
 * of anybody, calls from callbacks, full queues, requests that are given up.
 *
 * Method: each rule of the header is broken once, and the status compared. Frames that
 * nodes sent each other are then cut, flipped and repeated, and fed to a node that must
 * still do its work afterwards. */
#include <criterion/criterion.h>

#include "support/cluster_ask.h"
#include "support/lone_node.h"

static void no_done(void *ctx, const struct vshard_node_done *done)
{
    (void)ctx;
    (void)done;
}

Test(node_refuse, births_that_contradict_themselves)
{
    struct fault_storage *fs = fault_storage_create(1);
    const uint64_t founders[] = { 1, 2, 2 }, zero[] = { 1, 0 };
    const struct vshard_node_birth good = { .size = sizeof good,
                                            .cluster = { 1, 2 },
                                            .node = 1,
                                            .founders = founders,
                                            .founder_count = 2,
                                            .path = "home",
                                            .storage = fault_storage_hook(fs) };
    struct vshard_node_birth b = good;

    fault_storage_mkdir(fs, "home");
    b.size = 3;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_format(NULL), VSHARD_EINVAL);
    b = good, b.path = NULL;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.node = 0;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.node = 9;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.cluster = (struct vshard_key){ 0, 0 };
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.founder_count = 3;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.founders = zero;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.founder_count = 17;
    cr_expect_eq(vshard_node_format(&b), VSHARD_E2BIG);
    b = good, b.founder_count = 0;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.flags = VSHARD_NODE_JOINS;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    b = good, b.flags = 8;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_format(&good), VSHARD_OK);
    cr_expect_eq(vshard_node_format(&good), VSHARD_EEXIST);
    b = good, b.node = 2;
    cr_expect_eq(vshard_node_format(&b), VSHARD_EEXIST);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(node_refuse, to_open_what_is_not_theirs)
{
    struct fault_storage *fs = fault_storage_create(1);
    const struct vshard_node_host host = { .size = sizeof host,
                                           .send = lone_send,
                                           .done = no_done };
    const struct vshard_node_options good = { .size = sizeof good,
                                              .node = 1,
                                              .path = "home",
                                              .host = &host,
                                              .storage = fault_storage_hook(fs) };
    struct vshard_node_host deaf = host;
    struct vshard_node_options o = good;
    struct vshard_node *node, *second;

    fault_storage_mkdir(fs, "home");
    cr_expect_eq(vshard_node_open(&o, 1, NULL), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_ENOTFOUND);
    cr_expect_null(node);
    cr_assert_eq(lone_format(fault_storage_hook(fs), NULL), VSHARD_OK);
    o.node = 2;
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_ESTALE);
    o = good, o.node = 0;
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_EINVAL);
    o = good, o.host = NULL;
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_EINVAL);
    deaf.done = NULL;
    o = good, o.host = &deaf;
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_EINVAL);
    o = good, o.workers = 2; /* and no wake() */
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_EINVAL);
    o = good, o.heartbeat_ns = o.election_ns = 1000000;
    cr_expect_eq(vshard_node_open(&o, 1, &node), VSHARD_EINVAL);
    cr_assert_eq(vshard_node_open(&good, 1, &node), VSHARD_OK);
    cr_expect_eq(vshard_node_open(&good, 1, &second), VSHARD_EBUSY, "another has it");
    cr_expect_null(second);
    vshard_node_close(node);
    vshard_node_close(NULL);
    cr_expect_null(fault_storage_verdict(fs));
    fault_storage_destroy(fs);
}

Test(node_refuse, requests_that_break_their_contract)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    struct vshard_node *n = c->node[1].node;
    const struct vshard_key keys[2] = { { 0, 1 }, { 0, 2 } };
    float vectors[2 * DIM] = { 1 };
    int64_t digits[2] = { 0, 0 };
    static char words[2][VSHARD_KEYWORD_MAX + 1];
    struct vshard_values values[] = { { digits, 0 }, { NULL, 0 }, { words, sizeof words[0] } };
    const uint32_t lengths[2] = { 1, VSHARD_PAYLOAD_MAX + 1 };
    const uint32_t fine[2] = { 0, 1 };
    const void *const payloads[2] = { "a", "b" }, *const absent[2] = { "a", NULL };
    const struct vshard_node_write good = { .size = sizeof good,
                                            .count = 2,
                                            .tag = 99,
                                            .collection = "words",
                                            .keys = keys,
                                            .vectors = vectors,
                                            .values = values,
                                            .value_count = 3 };
    const unsigned char where[] = { 1, VSHARD_WHERE_MISSING, VSHARD_ATTRIBUTE_INT64, 1 };
    const struct vshard_node_search find = {
        .size = sizeof find, .k = 3, .tag = 99, .collection = "words", .query = vectors
    };
    struct vshard_node_write w = good;
    struct vshard_node_search s = find;
    struct vshard_node_fetch f = { .size = sizeof f, .collection = "none" };
    struct vshard_node_admin a = { .size = sizeof a, .op = 99 };
    struct vshard_collection spec = { .size = sizeof spec, .name = "x" };
    const struct vshard_attribute twice[] = { { VSHARD_ATTRIBUTE_INT64, "x" },
                                              { VSHARD_ATTRIBUTE_DOUBLE, "x" } };
    char name[VSHARD_NAME_MAX + 2];

    w.collection = "none";
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_ENOTFOUND);
    w.collection = NULL;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.count = 0;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.count = VSHARD_WRITE_ROWS_MAX + 1;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_E2BIG);
    w = good, w.keys = NULL;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.vectors = NULL;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.flags = 128;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.payload_bytes = lengths, w.payloads = payloads;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_E2BIG);
    w = good, w.payload_bytes = fine, w.payloads = absent;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.payloads = payloads;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    vectors[DIM + 3] = 1.0f / 0.0f;
    cr_expect_eq(vshard_node_write(n, c->now, &good), VSHARD_EINVAL);
    vectors[DIM + 3] = 0;
    w = good, w.value_count = 4;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    w = good, w.values = NULL;
    cr_expect_eq(vshard_node_write(n, c->now, &w), VSHARD_EINVAL);
    values[0].width = 4;
    cr_expect_eq(vshard_node_write(n, c->now, &good), VSHARD_EINVAL);
    values[0].width = 8, values[2].width = 0;
    cr_expect_eq(vshard_node_write(n, c->now, &good), VSHARD_EINVAL);
    values[2].width = sizeof words[0];
    memset(words[1], 'w', sizeof words[1]);
    cr_expect_eq(vshard_node_write(n, c->now, &good), VSHARD_EINVAL, "a keyword is too long");

    s.k = 0;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    s.k = 4097;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_E2BIG);
    s = find, s.query = NULL;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    s = find, s.consistency = 9;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    s = find, s.position_count = 1;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL, "there are no positions");
    s = find, s.flags = 64;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    s = find, s.where = where, s.where_bytes = sizeof where;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL, "the attribute is a double");
    s.where_bytes = 3;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL, "it is cut short");
    s.where = "\2", s.where_bytes = 1;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EVERSION);
    s.where = NULL;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    s = find, s.size = 8;
    cr_expect_eq(vshard_node_search(n, c->now, &s), VSHARD_EINVAL);
    cr_expect_eq(vshard_node_search(NULL, c->now, &find), VSHARD_EINVAL);

    cr_expect_eq(vshard_node_fetch(n, c->now, &f), VSHARD_ENOTFOUND);
    f.collection = "words", f.position_count = 1;
    cr_expect_eq(vshard_node_fetch(n, c->now, &f), VSHARD_EINVAL, "there are no positions");
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EINVAL);
    a.op = VSHARD_ADMIN_CREATE, a.collection = &spec;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EINVAL, "no dimension");
    spec.dim = 4, spec.replicas = 8;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_E2BIG);
    spec.replicas = 4;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EBUSY, "fewer nodes");
    spec.replicas = 3, spec.shards = 1u << 20;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_E2BIG);
    spec.shards = 1, spec.attribute_count = VSHARD_ATTRIBUTES_MAX + 1;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EINVAL);
    spec.attribute_count = 2, spec.attributes = twice;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EINVAL);
    memset(name, 'x', sizeof name - 1), name[sizeof name - 1] = 0;
    spec.attribute_count = 0, spec.name = name;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_EINVAL);
    a.op = VSHARD_ADMIN_REPLACE, a.group = 77;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_ENOTFOUND);
    a.op = VSHARD_ADMIN_LEAD;
    cr_expect_eq(vshard_node_admin(n, c->now, &a), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_node_cancel(n, 12345), VSHARD_ENOTFOUND);
    cr_expect_eq(c->answer[99].times, 0u, "a call that is refused answers nothing");
    written(c, 1, 1, 5, 5, 0);
    cluster_destroy(c);
}

Test(node_refuse, rows_that_no_entry_of_their_log_can_hold)
{
    struct vshard_node_options o = { .segment_bytes = 65536 };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    struct vshard_node_status status = { .size = sizeof status };

    cr_expect_eq(write_rows(c, 1, 1, 300, 5, NULL), (uint64_t)0, "18 KB, and an eighth is 8");
    written(c, 1, 1, 100, 5, 0);
    cluster_run(c, 100 * MS);
    for (uint64_t id = 1; id <= 3; id++) {
        vshard_node_status(c->node[id].node, &status);
        cr_expect_eq(status.status, VSHARD_OK);
    }
    cluster_destroy(c);
}

Test(node_refuse, writes_where_too_much_waits_to_be_applied)
{
    struct vshard_node_options o = { .backlog_bytes = 4000 };
    struct cluster *c = with_words(3, 3, 1, 3, &o);
    uint64_t leader = cluster_leader(c, "words", 0), tags[40];
    uint32_t busy = 0, fine = 0;

    /* Rows come faster than items are done: the rig does one a while. */
    for (int i = 0; i < 40; i++)
        tags[i] = write_rows(c, leader, 1, 60, (uint64_t)i, NULL);
    for (int i = 0; i < 40; i++) {
        struct cluster_answer *a = cluster_wait(c, tags[i], 6000 * MS);

        cr_assert_not_null(a, "write %d", i);
        busy += a->status == VSHARD_EBUSY;
        fine += a->status == VSHARD_OK;
    }
    cr_expect_eq(busy + fine, 40u);
    cr_expect_gt(fine, 0u);
    cluster_run(c, 500 * MS);
    written(c, leader, 1, 60, 99, VSHARD_WRITE_APPLIED);
    expect_rows(c, leader, 1, 60, 99);
    cluster_destroy(c);
}

Test(node_refuse, more_requests_than_they_have_room_for)
{
    struct vshard_node_options o = { .max_requests = 3 };
    struct cluster *c = with_words(3, 3, 2, 3, &o);
    uint64_t tag[3];

    for (int i = 0; i < 3; i++)
        cr_assert_neq(tag[i] = write_rows(c, 1, 1, 5, 5, NULL), (uint64_t)0);
    cr_expect_eq(write_rows(c, 1, 1, 5, 5, NULL), (uint64_t)0);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(cluster_wait(c, tag[i], 5000 * MS)->status, VSHARD_OK);
    cr_expect_neq(write_rows(c, 1, 1, 5, 5, NULL), (uint64_t)0);
    cluster_destroy(c);
}

Test(node_refuse, to_wait_for_what_was_given_up)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    uint64_t tag, leader = cluster_leader(c, "words", 0);

    c->node[leader].paused_until = c->now + 1000 * MS;
    tag = write_rows(c, leader % 3 + 1, 1, 50, 5, NULL);
    cr_assert_eq(vshard_node_cancel(c->node[leader % 3 + 1].node, tag), VSHARD_OK);
    cr_expect_eq(c->answer[tag].status, VSHARD_ECANCELED);
    cr_expect_eq(c->answer[tag].times, 1u);
    cluster_run(c, 3000 * MS);
    cr_expect_eq(c->answer[tag].times, 1u, "a request is answered once");
    tag = write_rows(c, leader % 3 + 1, 1, 50, 5, NULL);
    vshard_node_close(c->node[leader % 3 + 1].node);
    c->node[leader % 3 + 1].node = NULL;
    cr_expect_eq(c->answer[tag].times, 1u);
    cr_expect_eq(c->answer[tag].status, VSHARD_ECANCELED);
    cluster_destroy(c);
}

/* ---- callbacks ---- */

struct nosy {
    struct vshard_node *node;
    int status[4];
    int asked;
};

static void nosy_done(void *ctx, const struct vshard_node_done *done)
{
    struct nosy *y = ctx;

    (void)done;
    y->asked++;
    y->status[0] = vshard_node_tick(y->node, 1);
    y->status[1] = vshard_node_recv(y->node, 1, "x", 1);
    y->status[2] = vshard_node_cancel(y->node, 1);
    y->status[3] = vshard_node_search(y->node, 1, NULL);
}

Test(node_refuse, calls_from_callbacks)
{
    struct fault_storage *fs = fault_storage_create(1);
    struct nosy y = { .asked = 0 };
    const struct vshard_node_host host = {
        .size = sizeof host, .ctx = &y, .send = lone_send, .done = nosy_done
    };
    const struct vshard_node_options o = { .size = sizeof o,
                                           .node = 1,
                                           .path = "home",
                                           .host = &host,
                                           .storage = fault_storage_hook(fs) };
    struct vshard_node_admin a = { .size = sizeof a, .op = VSHARD_ADMIN_DROP, .name = "x" };
    uint64_t now = 1000 * MS;

    fault_storage_mkdir(fs, "home");
    cr_assert_eq(lone_format(fault_storage_hook(fs), NULL), VSHARD_OK);
    cr_assert_eq(vshard_node_open(&o, now, &y.node), VSHARD_OK);
    cr_assert_eq(vshard_node_admin(y.node, now, &a), VSHARD_OK);
    for (; now < 4000 * MS && y.asked == 0; now += MS)
        vshard_node_tick(y.node, now);
    cr_assert_eq(y.asked, 1);
    for (int i = 0; i < 4; i++)
        cr_expect_eq(y.status[i], VSHARD_EBUSY, "%d", i);
    vshard_node_close(y.node);
    fault_storage_destroy(fs);
}

/* ---- frames ---- */

/* Frames that are under way are given to their receivers damaged in some way, as well. */
Test(node_refuse, frames_that_are_damaged_or_strange)
{
    struct cluster *c = with_words(3, 3, 2, 3, NULL);
    struct vshard_node_status before = { .size = sizeof before }, after = before;
    struct vshard_wire *stranger;
    const struct vshard_wire_options o = { .size = sizeof o, .cluster = { 9, 9 }, .node = 2 };
    struct vshard_frame f = { .size = sizeof f, .node = 1, .head = "hello", .head_bytes = 5 };
    unsigned char bytes[512];
    uint64_t state = 7;
    size_t count;

    written(c, 1, 1, 50, 5, 0);
    vshard_node_status(c->node[1].node, &before);
    cr_assert_eq(vshard_wire_create(&o, &stranger), VSHARD_OK);
    cr_assert_eq(vshard_wire_encode(stranger, &f, bytes, sizeof bytes, &count), VSHARD_OK);
    cr_expect_eq(vshard_node_recv(c->node[1].node, c->now, bytes, count), VSHARD_ENOTFOUND);
    cr_expect_eq(vshard_node_recv(c->node[1].node, c->now, bytes, 3), VSHARD_ECORRUPT);
    cr_expect_eq(vshard_node_recv(c->node[1].node, c->now, NULL, 3), VSHARD_EINVAL);
    vshard_wire_destroy(stranger);
    vshard_node_status(c->node[1].node, &after);
    cr_expect_eq(after.frames_refused, before.frames_refused + 2);
    for (int round = 0; round < 300; round++) {
        for (size_t i = 0; i < c->message_count && i < 4; i++) {
            const struct cluster_message *m = &c->message[i];
            unsigned char *copy = malloc(m->count);

            memcpy(copy, m->bytes, m->count);
            copy[random_below(&state, m->count)] ^= (unsigned char)(1 + random_below(&state, 255));
            vshard_node_recv(c->node[m->to].node, c->now, copy, m->count);
            vshard_node_recv(c->node[m->to].node, c->now, m->bytes,
                             (size_t)random_below(&state, m->count));
            free(copy);
        }
        if (round % 10 == 0)
            search_begin(c, 1 + (uint64_t)round % 3, 1, 5, NULL);
        cluster_run(c, 5 * MS);
    }
    written(c, 2, 1, 50, 6, 0);
    expect_rows(c, 3, 1, 50, 6);
    cluster_destroy(c);
}

/* Payloads of every type and length, under a checksum that fits: a peer of ours that has gone
 * mad. The types beyond the core's are this room's to bear. */
Test(node_refuse, whatever_a_mad_peer_says)
{
    struct vshard_node_options options = { .replace_ns = UINT64_MAX };
    struct cluster *c = with_words(3, 3, 2, 3, &options);
    const struct vshard_wire_options o = {
        .size = sizeof o, .cluster = { 0xc1, 0x57e2 }, .node = 2, .incarnation = 1
    };
    struct vshard_wire *mad;
    uint64_t state = 11;

    written(c, 1, 1, 50, 5, 0);
    cr_assert_eq(vshard_wire_create(&o, &mad), VSHARD_OK);
    for (int i = 0; i < 20000; i++) {
        unsigned char payload[160], bytes[512];
        struct vshard_frame f = { .size = sizeof f, .node = 1, .head = payload };
        size_t count;

        random_bytes(&state, payload, sizeof payload);
        /* Small numbers reach further than random ones. */
        for (size_t k = 0; k < sizeof payload / 8; k++) {
            if (random_below(&state, 3) != 0) {
                uint64_t small = random_below(&state, 4);
                memcpy(payload + 8 * k, &small, 8);
            }
        }
        f.type = 2 + (uint32_t)random_below(&state, 8);
        if (f.type == 7) /* a request to be admitted, which would be granted */
            continue;
        f.group = random_below(&state, 4);
        f.head_bytes = random_below(&state, sizeof payload);
        cr_assert_eq(vshard_wire_encode(mad, &f, bytes, sizeof bytes, &count), VSHARD_OK);
        vshard_node_recv(c->node[1].node, c->now, bytes, count);
        if (i % 500 == 0)
            cluster_run(c, 20 * MS);
    }
    vshard_wire_destroy(mad);
    cluster_run(c, 1000 * MS);
    written(c, 2, 1, 50, 6, 0);
    expect_rows(c, 1, 1, 50, 6);
    cluster_destroy(c);
}

/* The command of a collection is an entry of a log, of which each node takes as much as its
 * segments say. */
Test(node_refuse, a_collection_that_no_log_takes)
{
    struct vshard_node_options o = { .segment_bytes = 65536 };
    struct cluster *c = cluster_create(3, 3, 1, &o);
    struct vshard_node_status s = { .size = sizeof s };
    uint64_t other;

    cluster_run(c, 1500 * MS);
    for (uint64_t at = 1; at <= 3; at++) {
        struct cluster_answer *a = create(c, at, 1000, 3);

        cr_assert_not_null(a, "no answer at node %d", (int)at);
        cr_expect_eq(a->status, VSHARD_E2BIG, "at node %d: %s", (int)at,
                     vshard_strerror(a->status));
    }
    /* One whose own log would take it hears of the leader's. */
    vshard_node_status(c->node[1].node, &s);
    other = s.meta_leader % 3 + 1;
    cluster_kill(c, other);
    c->options.segment_bytes = 1 << 20;
    cr_assert_eq(cluster_start(c, other), VSHARD_OK);
    cluster_run(c, 1000 * MS);
    cr_expect_eq(create(c, other, 1000, 3)->status, VSHARD_E2BIG);
    cr_expect_eq(create(c, other, 2, 3)->status, VSHARD_OK);
    cluster_destroy(c);
}
