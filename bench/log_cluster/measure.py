"""measure.py - three processes of examples/log-host on loopback, beside three of etcd.

    python3 measure.py --host BIN --load BIN [--etcd-load BIN] [--rounds N] [--kills N]
                       [--transfers N] [--quiet-minutes M] [PROBE...]

Probes: rate (1,000 and 32 writes in flight, interleaved with etcd and with a bare
fdatasync loop; medians), failover (the leader is killed with -9 under load, and started
again), transfer (leadership is handed over under load), quiet (both cores busy: does
anybody call an election?). All but quiet unless said.

Everything happens in a temporary directory (TMPDIR), with real fdatasync. After failover
and transfer every acknowledged write is looked for, by counters: see load.c. Exits 1 if a
write was lost or done twice, or if nothing was measured."""
import argparse, math, os, random, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time
import urllib.request

BASE = 10000 + os.getpid() * 200 % 20000  # below the ports that systems hand out
started = []  # processes, to be ended whatever happens


def launch(command, **how):
    how.setdefault("stderr", subprocess.DEVNULL)
    started.append(subprocess.Popen(command, **how))
    return started[-1]


def say(*words):
    print(*words, flush=True)


def note(*words):
    """Progress: to stderr, so that stdout is the table."""
    print("   ", *words, file=sys.stderr, flush=True)


def at(values, q):
    """The smallest value that so large a part of them does not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)] if values else float("nan")


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Cluster:
    """Three processes; subclasses say how one is started and asked who leads."""

    def __init__(self, directory):
        self.dir = os.path.join(directory, self.name)
        self.process = {}
        os.makedirs(self.dir)
        for i in (1, 2, 3):
            os.makedirs(f"{self.dir}/{i}")
            self.start(i, True)

    def start(self, i, first=False):
        with open(f"{self.dir}/{i}.log", "ab") as log:
            self.process[i] = launch(self.command(i, first), stdout=log, stderr=log)

    def wait_leader(self, seconds=30):
        end = time.time() + seconds
        while time.time() < end:
            leader = self.leader()
            if leader:
                return leader
            time.sleep(0.01)
        sys.exit(f"measure.py: {self.name} elects no leader; see its logs in {self.dir}")

    def kill(self, i):
        when = now_ns()
        self.process[i].send_signal(signal.SIGKILL)
        self.process[i].wait()
        return when

    def pause(self):
        for p in self.process.values():
            p.send_signal(signal.SIGSTOP)

    def go_on(self):
        for p in self.process.values():
            p.send_signal(signal.SIGCONT)
        time.sleep(1)  # time for an election, should one begin
        self.wait_leader()

    def stop(self):
        for p in self.process.values():
            p.send_signal(signal.SIGKILL)
            p.wait()


class Host(Cluster):
    name = "vshard"
    port = BASE

    def command(self, i, first):
        peers = ",".join(f"{k}=127.0.0.1:{self.port + k}" for k in (1, 2, 3))
        return [args.host, "--node", str(i), "--dir", f"{self.dir}/{i}", "--peers", peers, "--client",
                f"127.0.0.1:{self.port + 10 + i}"] + (["--init"] if first else []) + args.host_options.split()

    def ask(self, i, line):
        try:
            with socket.create_connection(("127.0.0.1", self.port + 10 + i), timeout=2) as s:
                s.sendall(f"m {line}\n".encode())
                return s.makefile().readline()
        except OSError:
            return ""

    def status(self, i):
        return dict(re.findall(r"(\w+)=(\S+)", self.ask(i, "status")))

    def leader(self):
        for i in (1, 2, 3):
            s = self.status(i)
            if s.get("role") == "3" and s.get("commit") == s.get("last"):
                return i
        for i in (1, 2, 3):
            if self.status(i).get("role") == "3":
                return i
        return 0

    def load(self, in_flight, seconds, add=False):
        nodes = ",".join(f"{k}={self.port + 10 + k}" for k in (1, 2, 3))
        return [args.load, "--nodes", nodes, "--in-flight", str(in_flight), "--seconds", str(seconds)] + (
            ["--add"] if add else [])


class Etcd(Cluster):
    name = "etcd"
    port = BASE + 100

    def command(self, i, first):
        peer = f"http://127.0.0.1:{self.port + i}"
        client = f"http://127.0.0.1:{self.port + 10 + i}"
        cluster = ",".join(f"n{k}=http://127.0.0.1:{self.port + k}" for k in (1, 2, 3))
        return ["etcd", "--name", f"n{i}", "--data-dir", f"{self.dir}/{i}/data", "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--listen-client-urls", client, "--advertise-client-urls",
                client, "--initial-cluster", cluster, "--log-level", "error", "--logger", "zap"]

    def leader(self):
        for i in (1, 2, 3):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 10 + i}/metrics", timeout=2) as r:
                    if re.search(r"^etcd_server_is_leader 1$", r.read().decode(), re.M):
                        return i
            except OSError:
                pass
        return 0

    def load(self, in_flight, seconds, add=False):
        nodes = ",".join(f"127.0.0.1:{self.port + 10 + k}" for k in (1, 2, 3))
        return [args.etcd_load, "-nodes", nodes, "-in-flight", str(in_flight), "-seconds", str(seconds),
                "-timeout", "5s" if seconds else "100ms"]  # of one request: a client that waits would be the limit


def run_load(command):
    r = subprocess.run(command, capture_output=True, text=True)
    for line in r.stdout.splitlines():
        if line.startswith("result"):
            return {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", line)}
    sys.exit(f"measure.py: no result from {' '.join(command)}: {r.stdout} {r.stderr}")


def bare_sync(directory, seconds):
    """Milliseconds of each fdatasync of a written, preallocated file, one after another."""
    path = f"{directory}/bare"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    block, times, offset = os.urandom(4096), [], 0
    os.pwrite(fd, bytes(8 << 20), 0)
    os.fsync(fd)
    end = time.time() + seconds
    while time.time() < end:
        begun = now_ns()
        os.pwrite(fd, block, offset)
        os.fdatasync(fd)
        times.append((now_ns() - begun) / 1e6)
        offset = (offset + 4096) % (8 << 20)
    os.close(fd)
    os.unlink(path)
    return times


def probe_rate(directory):
    host = Host(directory)
    clusters = [host] + ([Etcd(directory)] if args.etcd_load else [])
    for c in clusters:
        c.wait_leader()
        c.pause()  # who does not have the turn takes no processor from who has it
    got, bare = {}, []
    for r in range(args.rounds):
        for in_flight in (1000, 32):
            for c in random.sample(clusters, len(clusters)):
                note(f"round {r + 1}/{args.rounds}: {c.name}, {in_flight} in flight")
                c.go_on()
                x = run_load(c.load(in_flight, args.seconds))
                c.pause()
                got.setdefault((c.name, in_flight), []).append(x)
            bare.append(bare_sync(directory, 2))
    for c in clusters:
        c.stop()
    say("\n| writes in flight | of | commits/s, median | lowest, highest | p50 ms | p99 ms | worst ms |")
    say("|--:|---|--:|--:|--:|--:|--:|")
    for (name, in_flight), rows in got.items():
        m = {k: statistics.median(x[k] for x in rows) for k in rows[0]}
        say(f"| {in_flight} | {name} | {m['rate']:,.0f} | {min(x['rate'] for x in rows):,.0f}, "
            f"{max(x['rate'] for x in rows):,.0f} | {m['p50_ms']:.2f} | {m['p99_ms']:.2f} | "
            f"{max(x['max_ms'] for x in rows):.0f} |")
    bare_p50 = statistics.median(at(b, 0.5) for b in bare)
    bare_p99 = statistics.median(at(b, 0.99) for b in bare)
    say(f"| 1 | bare fdatasync | {statistics.median(len(b) / 2 for b in bare):,.0f} | | {bare_p50:.2f} | {bare_p99:.2f} | "
        f"{max(max(b) for b in bare):.0f} |")
    p99 = statistics.median(x["p99_ms"] for x in got["vshard", 32])
    say(f"\np99 at 32 in flight over p99 of a bare fdatasync: {p99 / bare_p99:.2f} (target: at most 4)")
    if args.etcd_load:
        for n in (1000, 32):
            ratio = [a["rate"] / b["rate"] for a, b in zip(got["vshard", n], got["etcd", n])]
            say(f"commits/s over etcd's at {n} in flight: median {statistics.median(ratio):.1f}, lowest {min(ratio):.1f}"
                + (" (target: at least 15)" if n == 1000 else ""))


class Load:
    """A load in the background, whose lines about terms are kept."""

    def __init__(self, command):
        self.terms, self.lines = {}, []
        self.process = launch(command, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "term":
                self.terms[int(words[1])] = (int(words[2]), int(words[3]))
            else:
                self.lines.append(line.strip())

    def next_term(self, after, seconds):
        """(last acknowledgement before, first of it) of the newest term above `after`."""
        end = time.time() + seconds
        while time.time() < end:
            newer = [t for t in self.terms if t > after]
            if newer:
                time.sleep(0.02)  # perhaps two elections in a row
                t = max(t for t in self.terms if t > after)
                return t, self.terms[min(newer)]
            time.sleep(0.002)
        return None, None

    def finish(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        self.reader.join()
        if self.process.returncode != 0 or any(x.startswith("WRONG") for x in self.lines):
            sys.exit("measure.py: FAILED: " + "; ".join(self.lines))
        return self.lines


def table_line(name, what, values, note_text=""):
    say(f"| {name} | {what} | {len(values)} | {at(values, 0.5):.0f} | {at(values, 0.99):.0f} | {max(values):.0f} | {note_text} |")


def milliseconds(span):
    return (span[1] - span[0]) / 1e6


class Disk:
    """A bare fdatasync every 20 ms: how long the disk itself stood still, and when."""
    def __init__(self, directory):
        self.path, self.syncs, self.stopping = os.path.join(directory, "disk"), [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with open(self.path, "wb", buffering=0) as f:
            while not self.stopping.wait(0.02):
                begun = now_ns()
                os.pwrite(f.fileno(), bytes(4096), 0)
                os.fdatasync(f.fileno())
                self.syncs.append((begun, now_ns()))

    def longest(self, begun, ended):
        """In milliseconds, of those under way within a span."""
        return max((milliseconds(x) for x in self.syncs if x[1] > begun and x[0] < ended), default=0)

    def stop(self):
        self.stopping.set()
        self.thread.join()


def one_failover(c, load):
    """When the leader was killed, and when the first write after it was acknowledged."""
    leader = c.wait_leader()
    before = max(load.terms) if load.terms else 0
    when = c.kill(leader)
    term, span = load.next_term(before, 60)
    if term is None:
        sys.exit(f"measure.py: FAILED: no write was acknowledged within 60 s of a kill ({c.name})")
    c.start(leader)
    time.sleep(random.uniform(0.5, 1.0))
    return when, span[1]


def probe_failover(directory):
    host, times, theirs, spans = Host(directory), [], [], []
    host.wait_leader()
    load = Load(host.load(64, 0, add=True))
    disk = Disk(directory)
    time.sleep(1)
    for k in range(args.kills):
        spans.append(one_failover(host, load))
        times.append(milliseconds(spans[-1]))
        if (k + 1) % 20 == 0:
            note(f"kill {k + 1}/{args.kills}: median {at(times, 0.5):.0f} ms, p99 {at(times, 0.99):.0f}")
    checked = load.finish()[-1]
    host.stop()
    disk.stop()
    if args.etcd_load:
        etcd = Etcd(directory)
        etcd.wait_leader()
        load = Load(etcd.load(64, 0))
        time.sleep(2)
        for k in range(args.etcd_kills):
            note(f"etcd, kill {k + 1}/{args.etcd_kills}")
            theirs.append(milliseconds(one_failover(etcd, load)))
            time.sleep(3)
        load.finish()
        etcd.stop()
    say("\n| of | leader killed -9 to first acknowledged write | n | median ms | p99 ms | worst ms | then |")
    say("|---|---|--:|--:|--:|--:|---|")
    table_line("vshard", "64 in flight", times, checked)
    if theirs:
        table_line("etcd", "64 in flight", theirs)
    say("\nThe longest, ms, and the longest bare fdatasync beside each:",
        ", ".join(f"{milliseconds(x):.0f} ({disk.longest(*x):.0f})" for x in sorted(spans, key=milliseconds)[:-7:-1]))


def probe_transfer(directory):
    host, gaps = Host(directory), []
    host.wait_leader()
    load = Load(host.load(64, 0, add=True))
    time.sleep(1)
    refused = 0
    while len(gaps) < args.transfers:
        leader = host.wait_leader()
        before = max(load.terms) if load.terms else 0
        if not host.ask(leader, f"lead {leader % 3 + 1}").startswith("m ok"):
            refused += 1
            time.sleep(0.2)
            continue
        term, span = load.next_term(before, 10)
        if term is not None:
            gaps.append((span[1] - span[0]) / 1e6)
        time.sleep(0.1)
    checked = load.finish()[-1]
    host.stop()
    bare = bare_sync(directory, 2)
    note("longest gaps, ms:", *[f"{x:.1f}" for x in sorted(gaps)[-6:]])
    say("\n| of | leadership handed over: gap in acknowledged writes | n | median ms | p99 ms | worst ms | then |")
    say("|---|---|--:|--:|--:|--:|---|")
    say(f"| vshard | 64 in flight | {len(gaps)} | {at(gaps, 0.5):.1f} | {at(gaps, 0.99):.1f} | {max(gaps):.1f} | {checked}"
        f"{f'; {refused} refused' if refused else ''} |")
    say(f"\nA bare fdatasync just after: p50 {at(bare, 0.5):.2f} ms, p99 {at(bare, 0.99):.2f}; a hand-over is three in a row (the last entries, the votes, the first entry of the term).")


CANARY = """
import time, sys
last = time.monotonic()
while True:
    time.sleep(0.005)
    now = time.monotonic()
    if now - last > 0.04: print(f'{now:.3f} {(now - last) * 1000:.0f}', flush=True)
    last = now
"""


def probe_quiet(directory):
    """Elections while two processes spin, and what a process that only sleeps noticed."""
    host = Host(directory)
    host.wait_leader()
    load = Load(host.load(32, 0, add=True))
    time.sleep(1)
    spin = [launch([sys.executable, "-c", f"import os; os.nice({args.spin_nice})\nwhile True: pass"])
            for _ in range(os.cpu_count())]
    canary = launch([sys.executable, "-c", CANARY], stdout=subprocess.PIPE, text=True)
    first = {i: host.status(i) for i in (1, 2, 3)}
    begun = time.time()
    while time.time() - begun < args.quiet_minutes * 60:
        time.sleep(min(60, args.quiet_minutes * 60 - (time.time() - begun)) or 0)
        s = host.status(host.wait_leader())
        note(f"{time.time() - begun:.0f} s: term {s['term']}, then {first[1]['term']}")
    last = {i: host.status(i) for i in (1, 2, 3)}
    for p in spin + [canary]:
        p.kill()
    stalls = [float(x.split()[1]) for x in canary.stdout.read().splitlines() if len(x.split()) == 2]
    elections = sum(int(last[i]["elections"]) - int(first[i]["elections"]) for i in (1, 2, 3))
    checked = load.finish()
    host.stop()
    say(f"\n{args.quiet_minutes:g} minutes, {os.cpu_count()} spinning processes (nice {args.spin_nice}), 32 writes in flight: {elections} elections, "
        f"term {first[1]['term']} then {last[1]['term']}; a process that sleeps 5 ms at a time was held up beyond 40 ms "
        f"{len(stalls)} times, at worst {max(stalls, default=0):.0f} ms; {checked[-1]}")


PROBES = {"rate": probe_rate, "failover": probe_failover, "transfer": probe_transfer, "quiet": probe_quiet}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("probe", nargs="*", choices=[[], *PROBES], default=[])
parser.add_argument("--host", required=True)
parser.add_argument("--load", required=True)
parser.add_argument("--etcd-load", default="")
parser.add_argument("--host-options", default="")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=float, default=4)
parser.add_argument("--kills", type=int, default=200)
parser.add_argument("--etcd-kills", type=int, default=8)
parser.add_argument("--transfers", type=int, default=100)
parser.add_argument("--spin-nice", type=int, default=0)
parser.add_argument("--quiet-minutes", type=float, default=10)
args = parser.parse_args()

if __name__ == "__main__":
    place = tempfile.mkdtemp(prefix="vshard-log-cluster-")
    try:
        for p in args.probe or ["rate", "failover", "transfer"]:
            os.makedirs(f"{place}/{p}")
            PROBES[p](f"{place}/{p}")
            shutil.rmtree(f"{place}/{p}")
    finally:
        for p in started:
            p.kill()
            p.wait()
        shutil.rmtree(place, ignore_errors=True)
