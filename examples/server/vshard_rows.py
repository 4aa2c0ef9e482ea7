"""vshard_rows.py - rows for vshardctl: from files, as the body of a write, and out of an export.

A value is kept as the bytes that a row has: 8 of a number, of a keyword its own. Each type has
bytes that mean that there is none."""
import ast
import collections
import json
import math
import os
import struct

ATTRIBUTES_MAX, KEYWORD_MAX, PAYLOAD_MAX = 8, 120, 65536
BATCH_ROWS, BATCH_BYTES = 1000, 2 << 20  # of a write: an entry of a log takes 4 MiB

Attribute = collections.namedtuple('Attribute', 'name type')
Type = collections.namedtuple('Type', 'number code missing')
TYPES = {'int64': Type(1, 'q', struct.pack('<q', -1 << 63)),
         'double': Type(2, 'd', struct.pack('<d', float('nan'))),
         'keyword': Type(3, '', b'')}
NUMBERS = {'f8': 'd', 'f4': 'f', 'f2': 'e', 'i8': 'q', 'i4': 'i', 'i2': 'h', 'i1': 'b', 'u4': 'I', 'u2': 'H', 'u1': 'B'}


# ---- values ----

def check_keyword(attribute, raw):
    if len(raw) > KEYWORD_MAX:
        raise RuntimeError('%s: a keyword of %d bytes, limit %d' % (attribute.name, len(raw), KEYWORD_MAX))
    if b'\0' in raw:
        raise RuntimeError('%s: a keyword has no zero byte' % attribute.name)
    return raw


def read_value(attribute, text):
    """A value as it is typed; nothing is a missing one."""
    if attribute.type == 'keyword':
        return check_keyword(attribute, text)
    if not text.strip():
        return TYPES[attribute.type].missing
    try:
        number = int(text) if attribute.type == 'int64' else float(text)
        return struct.pack('<' + TYPES[attribute.type].code, number)
    except (ValueError, struct.error):
        raise RuntimeError("%s is %s, not '%s'" % (
            attribute.name, 'an integer of 64 bits' if attribute.type == 'int64' else 'a number',
            text.decode(errors='replace')[:80]))


def show_value(attribute, raw):
    """As it is read, a keyword in quotes; None: there is none."""
    if attribute.type == 'keyword':
        return json.dumps(raw.decode(errors='backslashreplace'), ensure_ascii=False) if raw else None
    number, = struct.unpack('<' + TYPES[attribute.type].code, raw)
    return None if raw == TYPES['int64'].missing and attribute.type == 'int64' or number != number else repr(number)


def find_attribute(attributes, name):
    for attribute in attributes:
        if attribute.name == name:
            return attribute
    there = ', '.join(a.name for a in attributes) or 'the collection has none'
    raise RuntimeError("there is no attribute '%s' (%s)" % (name, there))


# ---- files ----

class Array:
    """An .npy file of one or two dimensions."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, 'rb')
        head = self.file.read(10)
        if head[:7] != b'\x93NUMPY\x01' or len(head) < 10:
            raise RuntimeError('%s is not an .npy file of version 1' % path)
        try:
            about = ast.literal_eval(self.file.read(struct.unpack('<H', head[8:])[0]).decode())
            self.descr, self.shape, self.fortran = str(about['descr']), about['shape'], about['fortran_order']
            self.kind = self.descr.lstrip('<|')
            self.bytes = int(self.kind[1:]) if self.kind[:1] == 'S' else struct.calcsize(NUMBERS.get(self.kind, ''))
            if not isinstance(self.shape, tuple) or any(type(n) is not int or n < 0 for n in self.shape):
                raise ValueError('a shape of %s' % (self.shape,))
        except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as problem:
            raise RuntimeError('%s is no .npy file whose head can be read: %s' % (path, str(problem)[:200]))
        self.start = self.file.tell()
        self.plain = not self.fortran and self.bytes > 0

    def check_size(self):
        if os.fstat(self.file.fileno()).st_size < self.start + math.prod(self.shape) * self.bytes:
            raise RuntimeError('%s is shorter than its head says' % self.path)

    def raw(self, first, count):
        self.file.seek(self.start + first * self.bytes)
        return self.file.read(count * self.bytes)


class Rows(Array):
    """The rows of an .npy file of float16 or float32, each as the bytes of float32."""

    def __init__(self, path):
        super().__init__(path)
        if self.kind not in ('f4', 'f2'):
            raise RuntimeError("%s has elements of '%s', and no rows of float16 or float32 ('<f2' or '<f4')" % (path, self.descr))
        if self.fortran:
            raise RuntimeError('%s is in Fortran order, and rows are to be one behind the other, as C has them' % path)
        if len(self.shape) != 2:
            raise RuntimeError('%s is of shape %s, and rows need two dimensions' % (path, self.shape))
        self.check_size()
        self.count, self.dim = self.shape

    def read(self, first, count):
        """As many rows, one after the other."""
        count = max(0, min(count, self.count - first))
        raw = self.raw(first * self.dim, count * self.dim)
        if self.kind == 'f4':
            return raw
        return struct.pack('<%df' % (count * self.dim), *struct.unpack('<%de' % (count * self.dim), raw))


class Column:
    """Values of an attribute, or payloads if it is None: from an .npy file, or one a line."""

    def __init__(self, attribute, path):
        self.attribute, self.path = attribute, path
        with open(path, 'rb') as file:
            array = file.read(6) == b'\x93NUMPY' and attribute is not None
        if array:
            self.open_array(path)
        else:
            self.open_lines(path)

    def open_array(self, path):
        self.lines, self.array = None, Array(path)
        wanted = {'keyword': 'S', 'double': 'fiu', 'int64': 'iu'}[self.attribute.type]
        if self.array.kind[0] not in wanted or not self.array.plain or len(self.array.shape) != 1:
            raise RuntimeError('%s has no values of %s, which is %s' % (path, self.attribute.name, self.attribute.type))
        self.array.check_size()
        self.count, self.widest = self.array.shape[0], self.array.bytes

    def open_lines(self, path):
        with open(path, 'rb') as file:
            self.lines = file.read().split(b'\n')
        if self.lines[-1] == b'':
            self.lines.pop()
        self.count, self.widest = len(self.lines), max(map(len, self.lines), default=0)
        if self.attribute is None and self.widest > PAYLOAD_MAX:
            raise RuntimeError('%s: a payload of %d bytes, limit %d' % (path, self.widest, PAYLOAD_MAX))

    def read(self, first, count):
        if self.lines is not None:
            lines = self.lines[first:first + count]
            return [read_value(self.attribute, line) for line in lines] if self.attribute else lines
        raw, width = self.array.raw(first, count), self.array.bytes
        if self.attribute.type == 'keyword':
            return [check_keyword(self.attribute, raw[i:i + width].rstrip(b'\0')) for i in range(0, len(raw), width)]
        numbers = struct.unpack('<%d%s' % (len(raw) // width, NUMBERS[self.array.kind]), raw)
        return [struct.pack('<' + TYPES[self.attribute.type].code, n) for n in numbers]


def unfit(vector, metric):
    """Why no collection takes it, or None."""
    values = struct.unpack('<%df' % (len(vector) // 4), vector)
    for i, value in enumerate(values):
        if not math.isfinite(value):
            return 'element %d is %s' % (i, value)
    return 'all elements are 0, and cosine needs a direction' if metric == 'cosine' and not any(values) else None


# ---- the body of a write ----

def column_body(attribute, values):
    """Values, one for each row; None: all are missing."""
    if values is None:
        return struct.pack('<I', 0)
    width = max(map(len, values)) if attribute.type == 'keyword' else 8
    return struct.pack('<I', width) + b''.join(v.ljust(width, b'\0') for v in values)


def rows_body(keys, vectors, attributes=(), columns=None, payloads=None):
    """Rows as a server takes them; columns are values by the names of attributes."""
    body = struct.pack('<%dQ' % len(keys), *keys) + vectors
    if columns or payloads:
        body += b''.join(column_body(a, (columns or {}).get(a.name)) for a in attributes)
    if payloads:
        body += struct.pack('<%dI' % len(payloads), *map(len, payloads)) + b''.join(payloads)
    return body


# ---- an export ----

Row = collections.namedtuple('Row', 'key vector values payload')


def exported_rows(path, vector_bytes, attributes):
    """The rows of a file as vshard/node.h draws it."""
    head, numbers = struct.Struct('<QQQIIII'), [TYPES[a.type].number for a in attributes]
    with open(path, 'rb') as file:
        if file.read(32)[:8] != b'VSEXPT1\0':
            raise RuntimeError('%s is of another version' % path)
        while True:
            piece = file.read(struct.unpack('<Q16x', file.read(24))[0])
            if not piece:
                return
            at = 0
            while at < len(piece):
                high, key, _, size, count, payload, _ = head.unpack_from(piece, at)
                if high or size != vector_bytes:
                    raise RuntimeError('%s has rows that this program cannot write' % path)
                at += head.size
                vector = piece[at:at + size]
                at += (size + 7) // 8 * 8
                if list(struct.unpack_from('<%dQ' % count, piece, at)) != numbers:
                    raise RuntimeError('%s has other attributes than the manifest says' % path)
                at += 8 * count
                values = []
                for attribute in attributes:
                    width = KEYWORD_MAX if attribute.type == 'keyword' else 8
                    raw = piece[at:at + width]
                    values.append(raw.rstrip(b'\0') if attribute.type == 'keyword' else raw)
                    at += width
                yield Row(key, vector, values, piece[at:at + payload])
                at += (payload + 7) // 8 * 8


def row_batches(rows):
    """Lists of rows, none of more than a write should have."""
    some, size = [], 0
    for row in rows:
        more = 8 + len(row.vector) + len(row.payload) + sum(max(8, len(v)) for v in row.values)
        if some and (len(some) == BATCH_ROWS or size + more > BATCH_BYTES):
            yield some
            some, size = [], 0
        some.append(row)
        size += more
    if some:
        yield some


def batch_body(rows, attributes):
    columns = {a.name: [r.values[i] for r in rows] for i, a in enumerate(attributes)}
    payloads = [r.payload for r in rows]
    return rows_body([r.key for r in rows], b''.join(r.vector for r in rows), attributes, columns,
                     payloads if any(payloads) else None)
