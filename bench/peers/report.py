"""report.py - what was measured, as a file of tab-separated values, as tables and as a picture."""
import os

import measure

TARGETS = (0.90, 0.95, 0.99)
COLUMNS = ("set", "peer", "params", "knob", "recall", "qps", "build_s", "bytes_per_vector",
           "mode", "build_cpu_s", "rss_per_vector", "cpu_per_wall", "passes", "spread", "marks")


def words(settings):
    return " ".join(f"{k}={v}" for k, v in settings.items()) or "-"


def write(path, points):
    """One line a point, best of its passes; the file is whole or not there."""
    with open(path + ".part", "w") as f:
        print(*COLUMNS, sep="\t", file=f)
        for p in points:
            print(p.set.name, p.index.peer, words(p.index.params), words(p.knobs),
                  f"{p.recall:.4f}", f"{p.qps:.1f}", f"{p.index.built['build_s']:.2f}",
                  f"{p.index.built['bytes']:.0f}", p.mode, f"{p.index.built['build_cpu_s']:.2f}",
                  f"{p.index.built['rss']:.0f}", f"{p.cpu_per_wall:.3f}", len(p.passes),
                  f"{p.spread:.2f}", p.marks or "-", sep="\t", file=f)
    os.replace(path + ".part", path)


def groups(points, key):
    out = {}
    for p in points:
        out.setdefault(key(p), []).append(p)
    return out


def speed(qps):
    if qps is None:
        return "-"
    digits = max(0, len(str(int(qps))) - 3)
    return f"{round(qps, -digits):,.0f}" if qps >= 100 else f"{qps:.3g}"


def table(points, mode):
    """Lines of one set's table in one mode, fastest at 0.95 first."""
    lines = []
    for peer, some in groups(points, lambda p: p.index.peer).items():
        pairs = [(p.recall, p.qps, p) for p in some]
        qps = [measure.qps_at(pairs, t) for t in TARGETS]
        best = next((b for b in (measure.point_at(pairs, t) for t in (0.95, 0.90, 0.0)) if b))[2]
        b = best.index.built
        marks = "".join(sorted({m for p in some for m in p.marks}))
        lines.append(((qps[1] or 0, qps[0] or 0), [
            peer + (f" [{marks}]" if marks else ""), *map(speed, qps), f"{b['build_s']:.0f}",
            f"{b['build_cpu_s']:.0f}", f"{b['bytes']:.0f}", f"{b['rss']:.0f}",
            f"{words(best.index.params)} / {words(best.knobs)}" + (
                "" if best.recall >= 0.95 else f" (recall {best.recall:.3f})")]))
    lines.sort(key=lambda line: line[0], reverse=True)
    head = ["peer", *(f"{t:.2f}" for t in TARGETS), "build s", "CPU s", "bytes", "RSS",
            "best at 0.95: build / search"]
    rows = [head] + [line[1] for line in lines]
    width = [max(len(r[i]) for r in rows) for i in range(len(head))]
    out = [f"{points[0].set.name}, {points[0].set.rows} rows, {mode}: QPS at recall@10"]
    for n, r in enumerate(rows):
        cells = [c.ljust(w) if i in (0, len(head) - 1) else c.rjust(w)
                 for i, (c, w) in enumerate(zip(r, width))]
        out.append("| " + " | ".join(cells) + " |")
        if n == 0:
            out.append("|" + "|".join("-" * (w + 1) + ("-" if i in (0, len(head) - 1) else ":")
                                      for i, w in enumerate(width)) + "|")
    return out + ratios(points)


def ratios(points):
    """Lines that compare this library with the best of the others, and with hnswlib. Of each peer,
    and of this library over all its settings, the best point counts that reaches a target."""
    peers = {peer: [(p.recall, p.qps) for p in some]
             for peer, some in groups(points, lambda p: p.index.peer).items()}
    ours = [q for name, some in peers.items() if name.startswith("vshard") for q in some]
    others = {n: some for n, some in peers.items() if not n.startswith("vshard")}
    if not ours or not others:
        return []
    out = []
    for t in TARGETS:
        mine = measure.qps_at(ours, t)
        theirs = {n: q for n, some in others.items() if (q := measure.qps_at(some, t))}
        if mine is None or not theirs:
            out.append(f"at {t:.2f}: " + ("vshard does not get there" if mine is None else
                                          "no peer gets there"))
            continue
        best = max(theirs, key=theirs.get)
        line = f"at {t:.2f}: vshard is {mine / theirs[best]:.2f} times the best peer, {best}"
        if "hnswlib" in theirs and best != "hnswlib":
            line += f", and {mine / theirs['hnswlib']:.2f} times hnswlib"
        out.append(line)
    return out


def tables(points):
    out = []
    for (_, mode), some in groups(points, lambda p: (p.set.name, p.mode)).items():
        out += ["", *table(some, mode)]
    return out


def picture(path, points):
    """A panel a set; a line a peer's front, dashed for one call at a time."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = groups(points, lambda p: p.set.name)
    figure, panels = plt.subplots(1, len(sets), figsize=(8 * len(sets), 6), squeeze=False)
    names = list(dict.fromkeys(p.index.peer for p in points))
    for panel, (name, some) in zip(panels[0], sets.items()):
        for (peer, mode), mine in groups(some, lambda p: (p.index.peer, p.mode)).items():
            line = measure.front([(p.recall, p.qps) for p in mine])
            panel.plot([q[0] for q in line], [q[1] for q in line], color=f"C{names.index(peer) % 10}",
                       linestyle="-" if mode == "batch" else "--", marker="o", markersize=3,
                       linewidth=2.5 if peer.startswith("vshard") else 1.2,
                       label=peer if mode == "batch" else f"{peer}, one at a time")
        panel.set(title=f"{name}, {some[0].set.rows} rows", xlabel="recall@10", yscale="log",
                  ylabel="queries per second, one thread", xlim=(0.7, 1.003))
        panel.grid(True, which="both", alpha=0.3)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
