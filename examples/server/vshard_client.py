"""vshard_client.py - speaks with servers of a cluster, by the protocol of clients.c."""
import collections
import contextlib
import os
import shutil
import socket
import sys
import threading
import time

from vshard_rows import Attribute

# Statuses of vshard/base.h after which the same may be asked again.
AGAIN = (-11, -13, -14, -15)  # EBUSY, ENOTLEADER, EUNKNOWN, ETIMEDOUT
INVALID, NOT_FOUND, EXISTS, BUSY, STALE, TIMED_OUT = -1, -9, -10, -11, -12, -15
PATIENCE = 60  # seconds without any progress
CONNECT, SILENCE = 5, 10  # seconds until a machine that says nothing is taken for gone
LINE_MAX, NAME_MAX = 2048, 64  # bytes
clock = time.monotonic  # which nobody sets


class Usage(Exception):
    """What was asked for is not a command: `why` if there is more to say."""


class Refused(RuntimeError):
    """An answer that says no; `status` is one of vshard/base.h."""

    def __init__(self, what, words):
        self.status = int(words[0])
        super().__init__('%s: %s' % (what, ' '.join(words[1:])))


def note(text):
    print('vshardctl: %s' % text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_later(text):
    """What takes longer is said to be under way, on stderr."""
    timer = threading.Timer(2, note, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Server:
    """One connection; requests are answered in any order, by tag."""

    def __init__(self, host, port, timeout=40):
        self.socket = socket.create_connection((host, port), min(timeout, CONNECT))
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (('TCP_KEEPIDLE', SILENCE // 2), ('TCP_KEEPINTVL', 1), ('TCP_USER_TIMEOUT', 1000 * SILENCE)):
            if hasattr(socket, option):
                self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self.got = b''
        self.turn = 0

    def tag(self):
        self.turn += 1
        return str(self.turn)

    def send(self, word, *words, body=None, tag=None):
        tag = tag or self.tag()
        line = ' '.join([word, tag] + [str(w) for w in words])
        if body is not None:
            line += ' %d' % len(body)
        if '\n' in line or len(line.encode()) > LINE_MAX:
            raise RuntimeError('a request is one line of up to %d bytes, and not %s' % (LINE_MAX, ascii(line)[:200]))
        self.socket.sendall(line.encode() + b'\n' + (body or b''))
        return tag

    def more(self):
        more = self.socket.recv(1 << 16)
        if not more:
            raise ConnectionError('the server has closed the connection')
        self.got += more

    def receive(self):
        """The next answer, as (tag, fine, words)."""
        while b'\n' not in self.got:
            self.more()
        line, self.got = self.got.split(b'\n', 1)
        words = line.decode(errors='replace').split(' ')
        return words[0], words[1] == 'ok', words[2:]

    def ask(self, word, *words, body=None):
        tag = self.send(word, *words, body=body)
        with said_later("waiting for the answer to '%s'" % word):
            while True:
                answer = self.receive()
                if answer[0] == tag:
                    return answer[1], answer[2]

    def must(self, what, word, *words, body=None):
        fine, answer = self.ask(word, *words, body=body)
        if not fine:
            raise Refused(what, answer)
        return answer

    def take(self, count):
        """Bytes behind an answer."""
        parts = [self.got[:count]]
        self.got = self.got[count:]
        left = count - len(parts[0])
        while left:
            part = self.socket.recv(min(left, 1 << 20))
            if not part:
                raise ConnectionError('the server has closed the connection')
            parts.append(part)
            left -= len(part)
        return b''.join(parts)

    def close(self):
        self.socket.close()


def words_of(words):
    """NAME=VALUE, as a dictionary."""
    return dict(w.split('=', 1) for w in words)


class Servers:
    """Those of --at: the first that answers, and when it is gone the next."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.at = 0
        self.server = None

    def one(self):
        if self.server is None:
            self.server = self.first()
        return self.server

    def first(self):
        for turn in range(len(self.addresses)):
            try:
                self.at = (self.at + (turn > 0)) % len(self.addresses)
                return Server(*self.addresses[self.at])
            except OSError as problem:
                reason = problem
        raise ConnectionError('no server answers at %s (--at): %s' % (self.names(), reason))

    def names(self):
        return ', '.join('%s:%d' % a for a in self.addresses)

    def each(self, name=None):
        """All of them, as (address, connection, status as a dictionary, shards of `name`, or None where
        it does not know that: it may not yet); of one that does not answer, the address alone."""
        for address in self.addresses:
            try:
                server = Server(*address, timeout=5)
                status = words_of(server.must('status', 'status'))
                yield address, server, status, shards_or_none(server, name) if name else []
            except OSError:
                yield address, None, None, []

    def lose(self):
        """This one is gone; the next is to answer."""
        if self.server is not None:
            self.server.close()
        self.server = None
        self.at = (self.at + 1) % len(self.addresses)


# ---- writing much ----

# What is sent, and the rows in it. Its words have an id, under which it is done once.
Write = collections.namedtuple('Write', 'rows word words body')


def new_ids():
    """Numbers that no other writer uses, as good as certainly."""
    first = int.from_bytes(os.urandom(5), 'little') << 20
    while True:
        first += 1
        yield first


def write_all(servers, writes, acknowledged, flight=8):
    """Sends writes, some at a time, until each is acknowledged. What a server has not answered
    when it goes, or could not do in time, is sent again under the same id."""
    todo, under_way, writes = [], {}, iter(writes)
    since = clock()
    while True:
        while len(todo) + len(under_way) < flight:
            write = next(writes, None)  # what goes wrong here is no fault of a server
            if write is None:
                break
            todo.append(write)
        if not todo and not under_way:
            return
        try:
            server = servers.one()
            while todo:
                write = todo.pop(0)
                tag = server.tag()
                under_way[tag] = write
                server.send(write.word, *write.words, body=write.body, tag=tag)
            tag, fine, words = server.receive()
        except OSError as problem:
            todo += under_way.values()
            under_way.clear()
            if clock() - since > PATIENCE:
                raise ConnectionError('%d writes are not acknowledged: %s' % (len(todo), problem))
            servers.lose()
            time.sleep(0.1)
            continue
        if tag not in under_way:
            continue
        write = under_way.pop(tag)
        if fine:
            since = clock()
            acknowledged(write.rows)
        elif int(words[0]) in AGAIN and clock() - since < PATIENCE:
            todo.append(write)
            time.sleep(0.02)
        else:
            problem = Refused('a write', words)
            problem.write = write
            raise problem


class Progress:
    """A line about what takes more than a second, and one at the end."""

    def __init__(self, what, total, unit='rows'):
        self.what, self.total, self.done, self.unit = what, total, 0, unit
        self.live = sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'
        self.begun = self.shown = clock()
        self.width = 0  # of the line that stands there, and is to be written over

    def add(self, count):
        self.done += count
        if clock() - self.shown >= (0.2 if self.live else 2) and clock() - self.begun >= 1:
            self.shown = clock()
            self.show('\r' if self.live else '\n')

    def show(self, end):
        """A line that is wider than a terminal could not be written over."""
        line = '%s: %d of %d %s, %d a second' % (self.what, self.done, self.total, self.unit,
                                                 self.done / max(clock() - self.begun, 1e-3))
        if self.live:
            line = line[:max(1, shutil.get_terminal_size().columns - 1)]
        print(line.ljust(self.width), end=end, flush=True)
        self.width = len(line) if self.live else 0

    def end(self):
        self.show('\n')

    def end_shown(self):
        """Of what is only worth a line when it took long."""
        if self.shown > self.begun:
            self.end()


# ---- looking ----

Collection = collections.namedtuple('Collection', 'metric fields attributes')


def describe(server, name):
    """A collection: its numbers as a dictionary, and its attributes in their order."""
    try:
        words = server.must(name, 'describe', name)
    except Refused as problem:
        if problem.status == NOT_FOUND:
            raise no_collection(name)
        raise
    fields = words_of(w for w in words if '=' in w)
    metric = fields.pop('metric')
    return Collection(metric, {f: int(n) for f, n in fields.items()},
                      [Attribute(*w.split(':')) for w in words if '=' not in w])


def shards(server, name):
    return [words_of(word.split(',')) for word in server.must(name, 'shards', name)]


def shards_or_none(server, name):
    try:
        return shards(server, name)
    except Refused as problem:
        if problem.status != NOT_FOUND:
            raise
        return None


def no_collection(name):
    return RuntimeError("there is no collection '%s'" % name)


def create(servers, name, dim, metric, count, replicas, *more):
    """A young cluster may not know all its nodes yet. Where the outcome was not known, and the
    collection is there when it is asked for again, it is this one, if it is such a one."""
    until, unknown, noted = clock() + PATIENCE, False, False
    while True:
        try:
            servers.one().must(name, 'create', name, dim, metric, count, replicas, *more)
            return
        except Refused as problem:
            if problem.status == EXISTS and unknown:
                is_now = describe(servers.one(), name)
                if (is_now.metric, *(is_now.fields[f] for f in ('dim', 'shards', 'replicas'))) == (
                        metric, dim, count, replicas):
                    return
            if problem.status not in AGAIN or clock() > until:
                raise
            unknown |= problem.status != BUSY
            if not noted and clock() > until - PATIENCE + 1:
                note('%s; it is asked again for up to %d s' % (problem, PATIENCE))
                noted = True
        time.sleep(0.2)


def check_name(name):
    """Names are words of a line."""
    raw = name.encode(errors='surrogateescape')
    if not 1 <= len(raw) <= NAME_MAX or any(c <= ' ' or not c.isprintable() for c in name):
        raise Usage("the name of a collection has 1 to %d bytes, none of them blank, and is not %s" % (
            NAME_MAX, ascii(name)[:2 * NAME_MAX]))
    return name


def number(what, text):
    if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 64:
        raise Usage("%s is a number, not '%s'" % (what.upper(), text))
    return int(text)
