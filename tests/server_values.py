#!/usr/bin/env python3
"""server_values.py - values and payloads of rows, by way of vshardctl and of the server's protocol.

Rows with a number, a fraction and a word are loaded from files, of which some have gaps. Searches
with an expression are asked for more rows than there are, so each must find exactly those for
which the same holds in Python. A backup is restored in another cluster, and each row must
come back with its vector, values and payload; so must a backup of the first form, which had
none. What is asked for wrongly must be refused by name."""
import json
import os
import random
import struct
import sys

import server as test

ctl = test.ctl
ROWS, DIM = 400, 8
DECLARED = ('year:int64', 'price:double', 'lang:keyword')
LANGS = ('de', 'en', 'old english', '')


def npy(path, descr, shape, data):
    head = repr({'descr': descr, 'fortran_order': False, 'shape': shape}).encode()
    head += b' ' * (-(len(head) + 11) % 64) + b'\n'
    with open(path, 'wb') as file:
        file.write(b'\x93NUMPY\x01\0' + struct.pack('<H', len(head)) + head + data)


class Data:
    """Rows, their files, and what each should show."""

    def __init__(self, folder):
        draw = random.Random(7)
        self.vectors = [struct.pack('<%df' % DIM, *(draw.gauss(0, 1) for _ in range(DIM))) for _ in range(ROWS)]
        self.year = [draw.randrange(1900, 2030) if i % 7 else None for i in range(ROWS)]
        self.price = [draw.randrange(400) / 8 for i in range(ROWS)]
        self.lang = [draw.choice(LANGS) for i in range(ROWS)]
        self.payload = ['row %d' % i if i % 3 else '' for i in range(ROWS)]
        self.file = {name: os.path.join(folder, name) for name in ('rows', 'year', 'price', 'lang', 'payload')}
        npy(self.file['rows'], '<f4', (ROWS, DIM), b''.join(self.vectors))
        npy(self.file['price'], '<f8', (ROWS,), struct.pack('<%dd' % ROWS, *self.price))
        npy(self.file['lang'], '|S11', (ROWS,), b''.join(w.encode().ljust(11, b'\0') for w in self.lang))
        for name, values in (('year', self.year), ('payload', self.payload)):
            with open(self.file[name], 'w') as file:
                file.writelines('%s\n' % ('' if v is None else v) for v in values)

    def shown(self, key):
        """Behind version and vector."""
        words = ['year=%d' % self.year[key]] if self.year[key] is not None else []
        words.append('price=%r' % self.price[key])
        words += ['lang=%s' % json.dumps(self.lang[key])] if self.lang[key] else []
        return ' '.join(words + (['@' + self.payload[key].encode().hex()] if self.payload[key] else []))


def lone(folder):
    cluster = test.Cluster(folder)
    cluster.start(1, '--format', nodes=(1,))
    cluster.connect(1).close()
    return cluster


def say(cluster, *words, status=0, wanted=''):
    return test.say(cluster, (1,), *words, status=status, wanted=wanted)


def check_all(cluster, name, data):
    server = cluster.connect(1)
    attributes = ctl.describe(server, name).attributes
    for key in range(ROWS):
        words = test.must('key %d' % key, server, 'fetch', name, key, 3)
        shown = ' '.join(ctl.fetched(attributes, words))
        if bytes.fromhex(words[1]) != data.vectors[key] or shown != data.shown(key):
            raise RuntimeError('key %d of %s is %s, not %s' % (key, name, shown, data.shown(key)))


def check_expressions(cluster, data):
    year, price, lang = data.year, data.price, data.lang
    cases = {
        'year = 1990': lambda i: year[i] == 1990,
        'year != 1990': lambda i: year[i] != 1990,
        'year>=1990 and year<2000': lambda i: year[i] is not None and 1990 <= year[i] < 2000,
        'year from 1990 to 1999': lambda i: year[i] is not None and 1990 <= year[i] <= 1999,
        'year missing': lambda i: year[i] is None,
        'not year missing and price <= 10.5': lambda i: year[i] is not None and price[i] <= 10.5,
        'price > 40 or price < 5 and lang = de': lambda i: price[i] > 40 or price[i] < 5 and lang[i] == 'de',
        '(price > 40 or price < 5) and lang = de': lambda i: (price[i] > 40 or price[i] < 5) and lang[i] == 'de',
        'lang in (de, "old english")': lambda i: lang[i] in ('de', 'old english'),
        "lang = 'old english' or lang missing": lambda i: lang[i] in ('old english', ''),
        'not (lang = de or lang = en or year < 1950)': lambda i: not (lang[i] in ('de', 'en') or (year[i] or 1950) < 1950),
        'lang = none': lambda i: False}
    for text, holds in cases.items():
        lines = say(cluster, 'search', 'books', data.file['rows'], 0, ROWS, 'where', text).splitlines()
        got = {int(line.split(' ')[0]) for line in lines}
        if got != {i for i in range(ROWS) if holds(i)}:
            raise RuntimeError('%s: found %d rows, not those for which it holds' % (text, len(got)))
        for line in lines[:3]:
            key, _, shown = line.split(' ', 2)
            if shown != data.shown(int(key)).split(' @')[0]:
                raise RuntimeError('%s: %s is shown with %s' % (text, key, shown))
    return len(cases)


def check_put(cluster, data):
    payload = os.path.join(cluster.folder, 'bytes')
    with open(payload, 'wb') as file:
        file.write(bytes(range(256)) * 256)
    say(cluster, 'put', 'books', 9000, data.file['rows'], 3, 'year=-5', 'lang=a "b" \u00e4', '@' + payload)
    line = say(cluster, 'fetch', 'books', 9000, wanted='year=-5 lang="a \\"b\\" \u00e4" @00010203')
    if not line.endswith('fdfeff\n') or len(line) < 2 * 65536:
        raise RuntimeError('a payload of 65536 bytes does not come back whole')
    say(cluster, 'put', 'books', 9000, data.file['rows'], 4, 'price=inf')
    if say(cluster, 'fetch', 'books', 9000).split(' ')[2:] != ['price=inf\n']:
        raise RuntimeError('what is put again keeps values that it was not given')
    say(cluster, 'remove', 'books', 9000)


def check_backup(cluster, other, data):
    folder = os.path.join(cluster.folder, 'backup')
    say(cluster, 'create', 'plain', DIM, 'l2', 1, 1)
    say(cluster, 'load', 'plain', data.file['rows'])
    say(cluster, 'backup', folder, 'books', 'plain', wanted='books: %d rows' % ROWS)
    say(other, 'restore', folder, wanted='books: %d of %d' % (ROWS, ROWS))
    check_all(other, 'books', data)
    for name in ('books', 'plain'):
        if say(cluster, 'describe', name) != say(other, 'describe', name):
            raise RuntimeError('%s is restored as another kind of collection' % name)

    manifest = os.path.join(folder, 'manifest.json')
    with open(manifest) as file:
        made = json.load(file)
    plain = made['collections'][1]
    first = {'format': 1, 'collections': [{'name': 'first', 'metric': 'l2', 'dim': DIM, 'shards': 1, 'replicas': 1,
                                           'files': plain['files']}]}
    wrong = json.loads(json.dumps(made))
    wrong['collections'][0].update(name='wrong', attributes=made['collections'][0]['attributes'][:2])
    for what, status, wanted in ((first, 0, '%d of %d rows' % (ROWS, ROWS)), (wrong, 1, 'other attributes'),
                                 ({'format': 3}, 1, 'another version')):
        with open(manifest, 'w') as file:
            json.dump(what, file)
        names = [c['name'] for c in what.get('collections', [])[:1]]
        say(other, 'restore', folder, *names, status=status, wanted=wanted)


def check_refusals(cluster, data):
    """What vshardctl says to what is wrong; then what the server says, to who writes lines himself."""
    rows, folder = data.file['rows'], cluster.folder
    lines = {'few': '1\n2\n', 'words': 'x\n' * ROWS, 'long': 'y' * 121 + '\n' * ROWS, 'large': 'z' * 65537 + '\n' * ROWS}
    for name, text in lines.items():
        with open(os.path.join(folder, name), 'w') as file:
            file.write(text)
    few, words, long, large = (os.path.join(folder, name) for name in lines)
    created = ('create', 'new', DIM, 'l2', 1, 1)
    search, put = ('search', 'books', rows, 0, 5), ('put', 'books', 1, rows, 0)
    load = ('load', 'books', rows, 0)
    cases = [
        (1, "type is int64, double or keyword, not 'int'", created + ('a:int',)), (1, 'name twice', created + ('a:int64',) * 2),
        (1, "a name has letters, digits and _", created + ('a-b:int64',)), (1, 'limit 59', created + ('a' * 60 + ':int64',)),
        (2, 'up to 8 attributes', created + tuple('a%d:int64' % i for i in range(9))),
        (1, "no field 'efsearch'", created + ('efsearch=5',)), (1, 'ef_search 20000, limit 16384', created + ('ef_search=20000',)),
        (1, "m is not 'x', but a number up to 4294967295", created + ('m=x',)), (1, "not 'word'", created + ('word',)),
        (1, "no attribute 'yeer' (year, price, lang)", load + ('yeer=' + few,)), (1, 'has 2 values', load + ('year=' + few,)),
        (1, "year is an integer of 64 bits, not 'x'", load + ('year=' + words,)),
        (1, 'has no values of year, which is int64', load + ('year=' + data.file['price'],)),
        (1, 'a keyword of 121 bytes, limit 120', load + ('lang=' + long,)), (1, 'payload of 65537 bytes, limit 65536', load + ('@' + large,)),
        (1, 'No such file', load + ('year=none',)), (2, "not 'year'", load + ('year',)),
        (1, 'row 400 is not one', ('put', 'books', 1, rows, ROWS)), (1, "not '1.5'", put + ('year=1.5',)),
        (1, 'more bytes than the limit 65536', put + ('@' + large,)), (2, "ATTRIBUTE=VALUE or @FILE", put + ('year',)),
        (1, "no attribute 'yeer'", search + ('where', 'yeer = 1')), (1, "not '<'", search + ('where', 'lang < de')),
        (1, 'integer of 64 bits', search + ('where', 'year = %d' % (1 << 63))), (1, ') is wanted', search + ('where', '(year = 1')),
        (1, "not 'year'", search + ('where', 'year = 1 year = 2')), (1, 'a value of year', search + ('where', 'year =')),
        (1, 'limit 64', search + ('where', ' or '.join(['year = 1'] * 64))), (2, 'where EXPRESSION', search + ('year',)),
        (1, 'limit 65536', search + ('where', 'year in (%s)' % ','.join(map(str, range(9000))))),
        (1, "said by 'price missing'", search + ('where', 'price = nan')), (2, 'where EXPRESSION', search + ('where',)),
        (1, 'k 5000, limit 4096', ('search', 'books', rows, 0, 5000)), (0, 'NAME in (VALUE, ...)', ('search', '--help')),
        (0, 'describe NAME', ('describe', '--help')), (1, "no collection 'none'", ('describe', 'none'))]
    for status, wanted, arguments in cases:
        say(cluster, *arguments, status=status, wanted=wanted)

    server, vector = cluster.connect(1), data.vectors[0]
    row = struct.pack('<Q', 1) + vector
    lines = [
        ('limit 120', 'write', ('books', 1, 0), row + struct.pack('<I', 121)),
        ('price: the body ends', 'write', ('books', 1, 0), row + struct.pack('<II', 0, 8)),
        ('values: width 5, limit 8', 'write', ('books', 1, 0), row + struct.pack('<I5s', 5, b'')),
        ('before payload 0, of 9 bytes', 'write', ('books', 1, 0), row + struct.pack('<IIII', 0, 0, 0, 9)),
        ('1 bytes too many', 'write', ('books', 1, 0), row + struct.pack('<IIIIB', 0, 0, 0, 0, 1)),
        ('does not have 2 rows', 'write', ('books', 2, 0), row), ('limit 65536', 'write', ('books', 65537, 0), row),
        ('dim is 8', 'search', ('books', 1, 0, 0), b'1'), ('where', 'search', ('books', 1, 0, 0), vector + b'?'),
        ('limit 65536', 'search', ('books', 1, 0, 0), vector + bytes(65537)),
        ('count is a number of 64 bits', 'write', ('books', 'x', 0), row), ('request is missing', 'write', ('books', 1), row),
        ("'x' is too much", 'fetch', ('books', 1, 3, 'x'), None), ("no request 'flush'", 'flush', (), None)]
    for wanted, word, arguments, body in lines:
        fine, said = server.ask(word, *arguments, body=body)
        if fine or wanted not in ' '.join(said):
            raise RuntimeError("%s %s: '%s' is not said, but: %s" % (word, arguments, wanted, ' '.join(said)))
    return len(cases) + len(lines)


def run(folder):
    cluster, other = lone(os.path.join(folder, 'a')), lone(os.path.join(folder, 'b'))
    data = Data(folder)
    say(cluster, 'create', 'books', DIM, 'l2', 2, 1, 'ef_search=77', *DECLARED)
    say(cluster, 'describe', 'books', wanted='ef_search=77')
    say(cluster, 'load', 'books', data.file['rows'], *('%s=%s' % (a, data.file[a]) for a in ('year', 'price', 'lang')),
        '@' + data.file['payload'], wanted='%d of %d rows' % (ROWS, ROWS))
    check_all(cluster, 'books', data)
    expressions = check_expressions(cluster, data)
    check_put(cluster, data)
    check_backup(cluster, other, data)
    said = check_refusals(cluster, data)
    return '%d rows with values and payloads, loaded, backed up and restored; %d expressions, %d refusals' % (
        ROWS, expressions, said)


if __name__ == '__main__':
    sys.exit(test.perform('server-values', run))
