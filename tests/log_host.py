"""log_host.py - three real processes of examples/log-host, on good days and bad.

A load adds to counters, each addition sent until it is acknowledged (bench/log_cluster/
load.c); then every counter must be equal to the additions that were acknowledged, so none
was lost and none done twice. Meanwhile processes are killed with -9, stopped, started
again, robbed of their disk, and talked to by strangers. Then each thing that can be wrong
about the arguments and the machine. Cases of which the words are on the command line
run alone."""
import os, re, shutil, signal, socket, subprocess, sys, tempfile, time

from ports import free_ports

O = os.environ.get("O", "build")
HOST = f"{O}/examples/log-host/log-host"
LOAD = f"{O}/bench/log_cluster/load"
place = tempfile.mkdtemp(prefix="vshard-log-host-")
mounted, clusters, loads = [], [], []


class Failed(Exception):
    pass


def expect(fine, what):
    if not fine:
        raise Failed(what)


class Cluster:
    def __init__(self, name, options="", nodes=3, dirs=None):
        self.base = free_ports(30)
        self.options = options.split()
        self.dir = {i: (dirs or {}).get(i, f"{place}/{name}/{i}") for i in range(1, nodes + 1)}
        self.process = {}
        clusters.append(self)
        for i, d in self.dir.items():
            os.makedirs(d, exist_ok=True)
            self.start(i, "--init")
        self.until("all, and a leader among them, or an end", lambda: any(p.poll() for p in self.process.values()) or self.led())

    def command(self, i, *more):
        peers = ",".join(f"{k}=127.0.0.1:{self.base + k}" for k in self.dir)
        return [HOST, "--node", str(i), "--dir", self.dir[i], "--peers", peers, "--client",
                f"127.0.0.1:{self.base + 20 + i}", *self.options, *more]

    def start(self, i, *more):
        with open(f"{place}/log", "ab") as log:
            self.process[i] = subprocess.Popen(self.command(i, *more), stderr=log)

    def kill(self, *nodes, how=signal.SIGKILL):
        for i in nodes:
            self.process[i].send_signal(how)
        return [self.process.pop(i).wait(timeout=60) for i in nodes]

    def end(self):
        for p in self.process.values():
            p.kill()
            p.wait()
        self.process = {}

    def connect(self, i):
        return socket.create_connection(("127.0.0.1", self.base + 20 + i), timeout=5)

    def ask(self, i, *lines):
        """The answers to some lines, by their tags."""
        try:
            with self.connect(i) as s:
                s.sendall("".join(f"{k} {x}\n" for k, x in enumerate(lines)).encode())
                stream = s.makefile()
                got = dict(x.split(" ", 1) for x in (stream.readline() for _ in lines) if " " in x)
            return [got.get(str(k), "").strip() for k in range(len(lines))]
        except OSError:
            return ["" for _ in lines]

    def status(self, i):
        return dict(re.findall(r"(\w+)=(\S+)", self.ask(i, "status")[0]))

    def led(self):
        """Whether all answer, and one of them leads."""
        roles = [self.status(i).get("role") for i in self.process]
        return all(roles) and "3" in roles

    def sure(self, i, *lines, wanted="ok"):
        """The answers, once each is one that begins so: a leader that has just changed refuses, and so does one that does
        not know yet how far it is."""
        def right():
            answers = self.ask(i or self.leader(), *lines)
            return answers if all(x and x.startswith(wanted) for x in answers) else None
        return self.until(f"{lines} at {i or 'a leader'}", right)

    def until(self, what, test, seconds=120):
        end = time.time() + seconds
        while time.time() < end:
            got = test()
            if got:
                return got
            time.sleep(0.02)
        raise Failed(f"not within {seconds} s: {what}: " + "; ".join(str(self.status(i)) for i in self.process))

    def leader(self, but=0):
        return self.until("a leader", lambda: next((i for i in self.process if i != but and self.status(i).get("role") == "3"), 0))

    def agree(self):
        """All processes have applied the same."""
        def one():
            said = [self.status(i) for i in self.process]
            return all(said) and len({s["applied"] for s in said} | {s["last"] for s in said}) == 1
        self.until("all have applied all", one)


class Load:
    def __init__(self, c, in_flight=48):
        nodes = ",".join(f"{i}={c.base + 20 + i}" for i in c.dir)
        self.process = subprocess.Popen([LOAD, "--nodes", nodes, "--in-flight", str(in_flight), "--seconds", "0", "--add"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        loads.append(self.process)

    def begun(self, c):
        """Waits for its first writes."""
        c.until("writes", lambda: any(int(c.status(i).get("applied", 0)) > 200 for i in c.process))

    def finish(self):
        self.process.send_signal(signal.SIGINT)
        out = self.process.communicate(timeout=300)[0]
        expect(self.process.returncode == 0 and "each done once" in out, out)
        return int(re.search(r"verified (\d+) writes", out).group(1))


# ---- cases ----

def killed_leader():
    c = Cluster("kill", "--snapshot-every 3000 --segment 256")
    load = Load(c)
    load.begun(c)
    for _ in range(2):
        old = c.leader()
        c.kill(old)
        c.leader(but=old)
        time.sleep(0.3)
        c.start(old)
        time.sleep(0.3)
    old = c.leader()
    c.kill(1, 2, 3)  # all at once, with writes under way
    for i in (1, 2, 3):
        c.start(i)
    c.leader()
    time.sleep(0.3)
    expect(load.finish() > 100, "hardly anything was written")
    c.agree()
    sums = [c.sure(i, "get lane0", "get lane0 stale 5000") for i in (1, 2, 3)]
    expect(len({x.split()[-1] for s in sums for x in s}) == 1, sums)
    c.end()


def stopped_leader():
    c = Cluster("stop")
    load = Load(c)
    load.begun(c)
    old = c.leader()
    expect(c.kill(old, how=signal.SIGINT) == [0], "Ctrl-C: the status is not 0")
    new = c.until("who took over", lambda: c.status(c.leader(but=old)))
    expect(new["elections"] == "1" or int(new["term"]) > 1, "nobody took over")
    load.finish()
    expect(c.kill(*c.process, how=signal.SIGTERM) == [0, 0], "SIGTERM: the status is not 0")


def lost_disk():
    c = Cluster("lost", "--snapshot-every 500 --segment 64")
    load = Load(c)
    c.until("logs that begin with a snapshot", lambda: all(int(c.status(i).get("first", 0)) > 1 for i in c.dir))
    lost = c.leader() % 3 + 1
    c.kill(lost)
    shutil.rmtree(c.dir[lost])
    os.makedirs(c.dir[lost])
    c.start(lost, "--join")
    incarnation = c.until("an incarnation", lambda: c.status(lost).get("incarnation"))
    c.until("replace", lambda: c.ask(c.leader(), f"replace {lost} {incarnation}")[0] in ("ok", "error exists"))
    load.finish()
    c.agree()
    expect(int(c.until("its status", lambda: c.status(lost))["snapshot"]) > 0, "it was not brought up by a snapshot")
    others = [i for i in c.process if i != lost]
    c.kill(others[0])  # with the new one, there is a majority
    c.leader(but=others[0])
    c.sure(0, "put 0 0 a b")
    c.end()


def strangers():
    c = Cluster("strangers")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"VSF\0\1" + b"\xff" * 200, b"\0" * 300, b"VSF\0\2" + b"\0" * 200):
        with socket.create_connection(("127.0.0.1", c.base + 1), timeout=60) as s:
            try:
                s.sendall(junk)
                rest = s.recv(1)
            except (BrokenPipeError, ConnectionResetError):  # it had not read all when it closed
                rest = b""
            expect(rest == b"", "a stranger is heard out")
    with c.connect(1) as s:  # a line without an end
        try:
            s.sendall(b"x" * 100000)
            s.recv(1)
        except OSError:
            pass
    bad = ["put", "put 0 0 k", "put 1 0 k v", "put x 1 k v", "get", "get k never", "get " + "k" * 300, "lead", "lead 99",
           "put 0 0 k " + "v" * 4097, "replace 1 0", "nonsense", "add 0 0 k -", "put 0 0 k v w"]
    answers = c.sure(0, *bad, wanted="")
    expect(all(a.startswith("error ") for a in answers), list(zip(bad, answers)))
    c.sure(0, "put 7 1 k v", wanted="error expired")  # a session that never was
    c.sure(0, "put 0 0 k v")
    ok = c.sure(0, "get k", "get k lease")
    expect(ok[0].endswith(" v") and ok[1].endswith(" v"), ok)
    c.sure(0, "get none", wanted="none")
    c.end()


def sessions():
    c = Cluster("sessions")

    def once(key):
        """What a session's additions are answered with, or nothing, when a leader has changed meanwhile."""
        n = c.leader()
        opened = c.ask(n, "open")[0]
        if not opened.startswith("ok "):
            return None
        answers = [c.ask(n, f"add {opened.split()[1]} {sequence} {key} 5")[0] for sequence in (1, 1, 2)]
        return None if any(not a or a.startswith("error") for a in answers) else answers
    first, again, later = c.until("a session", lambda: once(f"k{time.time()}"))
    expect(first.endswith(" 5") and again.startswith("done") and later.endswith(" 10"), (first, again, later))
    c.end()


def half_closed():
    c = Cluster("half")
    c.sure(0, "put 0 0 k v")

    def answers(i, lines):
        """Of who asks all at once, and then closes its half, as a pipe into nc does."""
        with c.connect(i) as s:
            s.settimeout(60)
            s.sendall("".join(f"{k} {x}\n" for k, x in enumerate(lines)).encode() + b"a line that does not end")
            s.shutdown(socket.SHUT_WR)
            got = s.makefile().read().splitlines()
        return got, sorted(int(x.split()[0]) for x in got) == list(range(len(lines)))
    for lines in (["status"], ["put 0 0 k v"], ["get k"] * 500, [], ["put 0 0 k v", "get k", "status", "nonsense"] * 100,
                  ["get k stale 60000"] * 1500 + ["put 0 0 k v"] * 4000):  # more than may be under way at once
        for i in (1, 2, 3):
            got, whole = answers(i, lines)
            expect(whole, f"{len(got)} of {len(lines)} requests are answered to who has closed its half: {got[-3:]}")
    for i in (1, 2, 3) * 20:  # who is gone before the second of two answers: writing that one is no signal to die of
        with c.connect(i) as s:
            s.sendall(b"0 status\n1 put 0 0 k v\n2 status\n")
    c.until("all answer still, or an end", lambda: any(p.poll() for p in c.process.values()) or all(c.status(i) for i in c.process))
    expect([p.poll() for p in c.process.values()] == [None] * 3, "a client that is gone ends a node")
    c.end()


def sealed():
    with open(f"{place}/key", "w") as f:
        f.write("ab" * 32 + "\n")
    with open(f"{place}/other", "w") as f:
        f.write("cd" * 32 + "\n")
    c = Cluster("sealed", f"--key-file {place}/key", nodes=1)
    if c.process[1].poll() is not None:
        return "built without libsodium"
    c.end()
    c = Cluster("sealed three", f"--key-file {place}/key")
    load = Load(c)
    load.begun(c)
    stranger = c.leader() % 3 + 1
    c.kill(stranger)
    c.options = ["--key-file", f"{place}/other"]
    c.start(stranger)
    c.until("frames of the wrong key are refused", lambda: int(c.status(c.leader()).get("refused", 0)) > 0)
    expect(c.until("its status", lambda: c.status(stranger))["leader"] == "0", "it follows somebody whose frames it cannot open")
    load.finish()
    c.end()


def full_disk():
    small = f"{place}/small"
    os.makedirs(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], stderr=subprocess.DEVNULL).returncode:
        return "may not mount a small file system"
    mounted.append(small)
    c = Cluster("full", "--segment 256", dirs={1: f"{small}/1"})
    c.until("node 1 leads", lambda: c.leader() == 1 or not c.ask(c.leader(), "lead 1"))
    c.sure(0, "put 0 0 before full")
    with open(f"{small}/filler", "wb", buffering=0) as f:
        try:
            while f.write(b"x" * 4096) == 4096:
                pass
        except OSError:
            pass
    # Its last writes wait for room that is not there. It says so, refuses more, and as a
    # leader whose storage is silent it steps down; the others go on, and reads with them.
    c.until("the disk is full", lambda: c.ask(c.leader(), f"put 0 0 filler {os.urandom(1500).hex()}") and
            c.status(1).get("wal") == "full")
    c.sure(0, "put 0 0 during full")  # writes go on elsewhere
    c.until("another leads, and the disk is full", lambda: c.leader() != 1 and c.status(1).get("wal") == "full")
    expect(c.sure(0, "get before")[0].endswith(" full"), "no read")
    os.unlink(f"{small}/filler")
    c.until("it recovers", lambda: c.status(1).get("wal") == "ok")
    c.sure(0, "put 0 0 after full")
    c.agree()
    expect(c.sure(1, "get during")[0].endswith(" full"), "it did not catch up")
    c.end()


def full_of_its_own_log():
    small = f"{place}/narrow"
    os.makedirs(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], stderr=subprocess.DEVNULL).returncode:
        return "may not mount a small file system"
    mounted.append(small)
    c = Cluster("narrow", "--segment 256", nodes=1, dirs={1: f"{small}/1"})
    # Ten keys, written again and again: the log is larger than the disk, its state is not.
    for i in range(1000):
        c.sure(1, *[f"put 0 0 key{i % 10} {os.urandom(1500).hex()}" for _ in range(2)])
    expect(c.status(1)["snapshot"] != "0", "it took no snapshot")
    c.end()


def arguments():
    d = f"{place}/arguments"
    os.makedirs(d)
    port = free_ports(4)
    good = ["--node", "1", "--dir", d, "--peers", f"1=127.0.0.1:{port}", "--client", f"127.0.0.1:{port + 1}"]

    def run(status, words, *command):
        p = subprocess.run([HOST, *command], capture_output=True, text=True, timeout=120)
        expect(p.returncode == status and words in p.stdout + p.stderr, f"{command}: {p.returncode} {p.stderr}")

    run(0, "usage: log-host", "--help")
    run(2, "are required")
    run(2, "--bogus", "--bogus")
    run(2, "what is 'now' for", *good, "now")
    run(2, "not both", *good, "--init", "--join")
    run(2, "does not list node 2", *good, "--node", "2")
    run(2, "a port takes", *good, "--client", "127.0.0.1:0")
    run(2, "in numbers", *good, "--client", "localhost:1502")
    run(2, "HOST:PORT", *good, "--client", "1502")
    run(2, "twice", "--peers", "1=127.0.0.1:1,1=127.0.0.1:2")
    run(2, "--election takes", *good, "--election", "1")
    run(2, "--segment takes", *good, "--segment", "1x")
    run(2, "No such file", *good, "--key-file", f"{d}/none")
    with open(f"{d}/key", "w") as f:
        f.write("abc\n")
    run(2, "hex digits", *good, "--key-file", f"{d}/key")
    run(1, "No such file", "--node", "1", "--dir", f"{d}/none", *good[4:])
    run(1, "has no log", *good)

    c = Cluster("alone", nodes=1)  # a cluster of one
    c.sure(1, "put 0 0 k v")
    run(1, "another process has this directory", *c.command(1)[1:])
    other = ["--node", "1", "--dir", f"{d}/other", "--init"]
    os.makedirs(f"{d}/other")
    run(1, "address already in use", *other, "--peers", f"1=127.0.0.1:{port + 2}", "--client", f"127.0.0.1:{c.base + 21}")
    shutil.rmtree(f"{d}/other")
    os.makedirs(f"{d}/other")
    run(1, "address already in use", *other, "--peers", f"1=127.0.0.1:{c.base + 1}", "--client", f"127.0.0.1:{port + 3}")
    c.kill(1)
    run(1, "has a log already", *c.command(1, "--init")[1:])
    run(1, "log of another", *c.command(1, "--cluster", "7")[1:])
    c.start(1)
    expect(c.until("the write", lambda: c.ask(1, "get k")[0].endswith(" v")), "it is gone")
    c.end()


CASES = [arguments, killed_leader, stopped_leader, lost_disk, strangers, sessions, half_closed, sealed, full_disk, full_of_its_own_log]

bad = 0
try:
    for case in CASES:
        name = case.__name__.replace("_", " ")
        if sys.argv[1:] and name not in " ".join(sys.argv[1:]):
            continue
        begun = time.time()
        try:
            skipped = case()
            print(f"skip log-host {name}: {skipped}" if skipped else f"pass log-host {name} ({time.time() - begun:.1f} s)", flush=True)
        except (Failed, OSError, subprocess.SubprocessError, KeyError, IndexError, ValueError) as problem:
            bad = 1
            print(f"FAIL log-host {name}: {problem!r}", flush=True)
            with open(f"{place}/log", "rb") as log:
                print("".join("    " + x.decode(errors="replace") for x in log.readlines()[-25:]), flush=True)
        for c in clusters:
            c.end()
        for p in loads:
            p.kill()
            p.wait()
        with open(f"{place}/log", "ab") as log:
            log.truncate(0)
finally:
    for m in mounted:
        subprocess.run(["umount", "-l", m])
    shutil.rmtree(place, ignore_errors=True)
sys.exit(bad)
