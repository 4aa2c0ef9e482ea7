"""vshard_recovery.py - the recover commands of vshardctl, for when most replicas are lost.

What is said to be lost is compared with who answers, and of the rest the one is asked that has
most of the log; vshard/node.h says why nothing automatic does this."""
import collections
import time

from vshard_client import BUSY, EXISTS, Refused, Usage, clock, number

def read_recovery(words):
    """NODE... [--yes STATEMENT]: the nodes, and the statement or None."""
    words, statement = list(words), None
    if '--yes' in words:
        if words.index('--yes') != len(words) - 2:
            raise Usage("--yes is followed by one word, in quotes: who was fenced, and how")
        statement = words[-1]
        words = words[:-2]
        if not 1 <= len(statement.encode()) <= 1024:
            raise Usage('the statement has %d bytes, and may have 1 to 1024' % len(statement.encode()))
    if not words:
        raise Usage('which nodes are lost?')
    return [number('NODE', word) for word in words], statement


def survivors(servers, lost, name=None):
    """By node its server, status, shards. A node that is called lost must not answer."""
    alive = {}
    for address, server, status, there in servers.each(name):
        if server is None:
            continue
        if int(status['node']) in lost:
            raise RuntimeError('node %s is called lost, and answers at %s:%d: fence it first' % (
                status['node'], *address))
        if there is None:  # what it has may be the best there is
            raise RuntimeError("the server at %s:%d knows no collection '%s'" % (*address, name))
        alive[int(status['node'])] = (server, status, there)
    if not alive:
        raise ConnectionError('no server answers at %s (--at)' % servers.names())
    return alive


# Whom to ask, and the state of its log that it is asked about.
Recovery = collections.namedtuple('Recovery', 'what node server group epoch last last_term')


def pick(what, group, candidates):
    """The one with most of the log; a candidate is (last_term, last, epoch, node, server)."""
    last_term, last, _, node, server = max(candidates, key=lambda c: c[:2])
    epoch = max(c[2] for c in candidates) + 1
    return Recovery(what, node, server, group, epoch, last, last_term)


def recover_all(recoveries, lost, statement):
    for r in recoveries:
        print('%s: node %d has most that is left, up to %d in term %d; it is to go on in epoch %d' % (
            r.what, r.node, r.last, r.last_term, r.epoch))
    if statement is None:
        raise Usage('nothing was done. What was acknowledged and is not in these logs would be lost for good: see '
                    'to it that no lost node runs again as it was, and add --yes with who was fenced, and how')
    for r in recoveries:
        recover_one(r, lost, statement)


def recover_one(r, lost, statement):
    until = clock() + 10
    while True:
        fine, words = r.server.ask('recover', r.group, r.epoch, r.last, r.last_term, '+'.join(map(str, lost)),
                                   body=statement.encode())
        if fine:
            print('%s: node %d goes on; what was acknowledged at %s or beyond is lost' % (
                r.what, r.node, words[0].split(':')[1]))
            return
        if int(words[0]) == EXISTS:
            print('%s: the others are a quorum, and nothing was done' % r.what)
            return
        if int(words[0]) != BUSY or clock() > until:
            raise Refused(r.what, words)
        time.sleep(0.2)  # a lost node, or a leader, was heard a moment ago


def do_recover_map(servers, *words):
    """The cluster's map has lost most of its voters with these nodes, which are the first five founders: the
    server that has most of it goes on, in a new epoch. What was acknowledged and is not in its
    log is lost for good. So: power off or cut off each lost node, that none of them runs again
    as it was; name all others in --at; look at what this says without --yes; then say it
    again with --yes and a statement of who was fenced and how, which is kept in the log. This
    comes first, then recover for each collection, then remove-node for each lost node. When all
    of that is done, and not before, they come back with empty directories, by --joins and join.
    Until then nodes shows who is lost. One that comes back as it was, all the same, stands in
    nobody's way: it follows, or nodes shows that it has halted."""
    lost, statement = read_recovery(words)
    alive = survivors(servers, lost)
    unheard = max(int(status['nodes']) for _, status, _ in alive.values()) - len(alive) - len(set(lost))
    if unheard > 0:
        raise RuntimeError('%d more nodes are members: name their servers in --at, or call them lost' % unheard)
    recover_all([pick('the map', 0, [
        (int(s['map_last_term']), int(s['map_last']), int(s['map_epoch']), node, server)
        for node, (server, s, _) in alive.items()])], lost, statement)


def do_recover(servers, name, *words):
    """Likewise for the shards of a collection that have lost most of their replicas with these nodes, see
    recover-map --help. Shards whose other replicas are a quorum are left as they are."""
    lost, statement = read_recovery(words)
    alive = survivors(servers, lost, name)
    members, group, candidates = {}, {}, collections.defaultdict(list)
    for node, (server, _, there) in alive.items():
        for s in there:
            shard = int(s['shard'])
            group[shard] = int(s['group'])
            members.setdefault(shard, set()).update(map(int, s['members'].split('+')))
            if s['here'] == '1':
                candidates[shard].append((int(s['last_term']), int(s['last']), int(s['epoch']), node, server))
    hurt = sorted(shard for shard, nodes in members.items() if nodes & set(lost))
    for shard in hurt:
        unheard = members[shard] - set(lost) - set(alive)
        if unheard:
            raise RuntimeError('%s, shard %d: node %d has a replica: name its server in --at, or call it lost' % (
                name, shard, min(unheard)))
        if not candidates[shard]:
            raise RuntimeError('%s, shard %d: all replicas are lost' % (name, shard))
    if not hurt:
        raise RuntimeError('%s: no shard has a replica at node %s' % (name, ', '.join(map(str, lost))))
    recover_all([pick('%s, shard %d' % (name, shard), group[shard], candidates[shard]) for shard in hurt],
                lost, statement)
