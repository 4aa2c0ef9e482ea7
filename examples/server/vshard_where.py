"""vshard_where.py - what somebody types about attributes, as the bytes of an expression.

    year >= 1990 and not (lang = de or lang in (en, "old english")) and price missing
    year from 1990 to 1999

A condition is NAME = != < <= > >= VALUE, NAME in (VALUE, ...), NAME from VALUE to VALUE, or
NAME missing; `not` binds closest, then `and`, then `or`. A keyword is a word, or anything in
quotes; keywords have no order. Nothing holds of a missing value, so that `!=` does hold.

vshard_index(3) describes the bytes; the numbers in them are those of vshard/attribute.h."""
import re
import struct

from vshard_rows import TYPES, read_value

EQ, LT, LE, GT, GE, RANGE, IN, MISSING, AND, OR, NOT = range(1, 12)
OPS = {'=': EQ, '!=': EQ, '<': LT, '<=': LE, '>': GT, '>=': GE}
CONDITIONS_MAX, BYTES_MAX, LIST_MAX = 64, 65536, 65535
WORDS = re.compile(r'''\s*(?:(<=|>=|!=|[()<>=,])|"([^"]*)"|'([^']*)'|([^\s()<>=!,"']+)|$)''')


class Expression:
    """One reading of a text, from left to right."""

    def __init__(self, text, attributes):
        self.attributes, self.words, self.at = attributes, [], 0
        self.bytes, self.count = b'', 0
        at = 0
        while at < len(text.rstrip()):
            match = WORDS.match(text, at)
            if not match:
                raise RuntimeError("where: not understood from %s on" % text[at:].strip())
            sign, *quoted, word = match.groups()
            value = next((q for q in quoted if q is not None), None)
            self.words.append(('value', value) if value is not None else ('sign', sign) if sign else ('word', word))
            at = match.end()

    def take(self, *wanted):
        """The next word, if it is a sign or a word of those."""
        kind, text = self.words[self.at] if self.at < len(self.words) else ('end', '')
        if kind == 'value' or text not in wanted:
            return None
        self.at += 1
        return text

    def must(self, *wanted):
        text = self.take(*wanted)
        if text is None:
            here = repr(self.words[self.at][1]) if self.at < len(self.words) else 'the end'
            raise RuntimeError('where: %s is wanted, not %s' % (' or '.join(wanted), here))
        return text

    def put(self, op, more=b''):
        self.count += 1
        if self.count > CONDITIONS_MAX:
            raise RuntimeError('where: more conditions than the limit %d' % CONDITIONS_MAX)
        self.bytes += bytes([op]) + more

    def value(self, attribute):
        kind, text = self.words[self.at] if self.at < len(self.words) else ('end', '')
        if kind not in ('value', 'word'):
            raise RuntimeError('where: a value of %s is wanted, not %s' % (attribute.name, text or 'the end'))
        self.at += 1
        raw = read_value(attribute, text.encode())
        if raw == TYPES[attribute.type].missing:
            raise RuntimeError("where: that %s is missing is said by '%s missing'" % (attribute.name, attribute.name))
        return bytes([len(raw)]) + raw if attribute.type == 'keyword' else raw

    def values(self, attribute):
        self.must('(')
        values = [self.value(attribute)]
        while self.must(',', ')') == ',':
            values.append(self.value(attribute))
        if len(values) > LIST_MAX:
            raise RuntimeError('where: %d values of %s, limit %d' % (len(values), attribute.name, LIST_MAX))
        return struct.pack('<H', len(values)) + b''.join(values)

    def condition(self):
        kind, name = self.words[self.at] if self.at < len(self.words) else ('end', '')
        number = next((i for i, a in enumerate(self.attributes) if a.name == name), None)
        if kind != 'word' or number is None:
            there = ', '.join(a.name for a in self.attributes) or 'the collection has none'
            raise RuntimeError("where: there is no attribute '%s' (%s)" % (name, there))
        self.at += 1
        attribute = self.attributes[number]
        which = bytes([TYPES[attribute.type].number, number])
        op = self.must(*OPS, 'in', 'from', 'missing')
        if attribute.type == 'keyword' and op in ('<', '<=', '>', '>=', 'from'):
            raise RuntimeError("where: %s is a keyword, which is = or != or in, and not '%s'" % (name, op))
        if op == 'missing':
            self.put(MISSING, which)
        elif op == 'in':
            self.put(IN, which + self.values(attribute))
        elif op == 'from':
            low = self.value(attribute)
            self.must('to')
            self.put(RANGE, which + low + self.value(attribute))
        else:
            self.put(OPS[op], which + self.value(attribute))
        if op == '!=':
            self.put(NOT)

    def factor(self):
        if self.take('not'):
            self.factor()
            self.put(NOT)
        elif self.take('('):
            self.joined(OR)
            self.must(')')
        else:
            self.condition()

    def joined(self, op):
        count = 0
        while count == 0 or self.take('or' if op == OR else 'and'):
            self.joined(AND) if op == OR else self.factor()
            count += 1
        if count > 1:
            self.put(op, bytes([count]))


def where_bytes(text, attributes):
    """What a search is given behind its query."""
    expression = Expression(text, attributes)
    expression.joined(OR)
    if expression.at < len(expression.words):
        raise RuntimeError("where: and, or, or the end is wanted, not '%s'" % expression.words[expression.at][1])
    if len(expression.bytes) >= BYTES_MAX:
        raise RuntimeError('where: %d bytes, limit %d' % (len(expression.bytes) + 1, BYTES_MAX))
    return b'\x01' + expression.bytes
