"""ports.py - ports of 127.0.0.1 for the servers of a test, that nobody else is given meanwhile.

A server that is killed leaves its port free until it is started again. From those that systems hand
out by themselves (32768 and on, mostly) any connection may take it then, even the one of a peer that
calls at that very port, which the system joins to itself. So they are below. Tests that run side by side
keep apart by a Unix socket of the port's name, which goes when its process goes."""
import random
import socket

LOWEST, HIGHEST = 10000, 30000
reserved = []


def reserve(port):
    """Whether it is ours from now on."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind('\0vshard-test-port-%d' % port)
        with socket.socket() as s:
            s.bind(('127.0.0.1', port))
        reserved.append(name)
        return True
    except OSError:
        name.close()
        return False


def free_ports(count=1):
    """The first of so many, one behind the other."""
    for _ in range(10000):
        first = random.randrange(LOWEST, HIGHEST - count)
        if all(reserve(port) for port in range(first, first + count)):
            return first
    raise OSError('there are no free ports')
