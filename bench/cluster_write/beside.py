"""beside.py - one server of ours and one of chroma's, in turns: the same rows, the same questions.

    python -m venv v && v/bin/pip install chromadb
    make server && v/bin/python bench/cluster_write/beside.py --chroma v/bin/chroma [--set NAME]
                                                              [--rows N] [--rounds N]

Each is started in an empty directory and gets the rows in batches of 1,000 from one client that
waits for each acknowledgement; when all are in its index, one client asks a question at a time.
Answers are compared with an exact scan: recall. Each speaks its own protocol, and what its client
costs is part of it; the processor is that of the server alone, until all rows are in its index.
A table to stdout; files in TMPDIR."""
import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time

import chromadb
import numpy

spec = importlib.util.spec_from_file_location('measure', os.path.join(os.path.dirname(__file__), 'measure.py'))
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)
test, ctl = measure.test, measure.ctl

K, BATCH, QUERIES = 10, 1000, 1000


class Ours:
    name = 'libvshard'

    def __init__(self, folder, dim, args):
        self.cluster = test.Cluster(folder)
        self.cluster.start(1, '--format', nodes=(1,))
        self.server = self.cluster.connect(1)
        self.pid = self.cluster.process[1].pid
        test.wait('founding', 20, lambda: self.server.ask('create', 'words', dim, 'cosine', 1, 1)[0])
        test.wait('a leader', 20, lambda: ctl.shards(self.server, 'words')[0]['leader'] == '1')

    def add(self, first, vectors):
        body = ctl.rows_body(range(first, first + len(vectors)), vectors.tobytes())
        self.server.must('a write', 'write', 'words', len(vectors), 0, body=body)

    def settle(self, rows):
        test.wait('applying', 600, lambda: measure.has_applied(self.server, rows))

    def search(self, vector):
        words = self.server.must('a search', 'search', 'words', K, 0, 0, body=vector.tobytes())
        return [int(w.split(':')[0]) for w in words[1:]]

    def stop(self):
        self.cluster.stop()


class Chroma:
    name = 'chroma ' + chromadb.__version__

    def __init__(self, folder, dim, args):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.process = subprocess.Popen([args.chroma, 'run', '--path', folder, '--port', str(port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self.process.pid
        end = time.time() + 60
        while True:
            try:
                client = chromadb.HttpClient(port=port)
                break
            except ValueError:
                if time.time() > end:
                    raise
                time.sleep(0.2)
        self.words = client.create_collection('words', embedding_function=None, configuration={
            'hnsw': {'space': 'cosine', 'max_neighbors': 16, 'ef_construction': 200, 'ef_search': 100}})

    def add(self, first, vectors):
        self.words.add(ids=[str(i) for i in range(first, first + len(vectors))], embeddings=vectors)

    def settle(self, rows):
        assert self.words.count() == rows

    def search(self, vector):
        return [int(i) for i in self.words.query(query_embeddings=[vector], n_results=K, include=[])['ids'][0]]

    def stop(self):
        self.process.kill()
        self.process.wait()


def ask(server, queries, exact):
    found, begun = 0, time.time()
    for q, wanted in zip(queries, exact):
        found += len(wanted.intersection(server.search(q)))
    return len(queries) / (time.time() - begun), found / (K * len(queries))


def one(kind, base, queries, exact, args):
    folder = tempfile.mkdtemp(prefix='vshard-beside.')
    server = None
    try:
        server = kind(folder, base.shape[1], args)
        begun = time.time()
        for first in range(0, len(base), BATCH):
            server.add(first, base[first:first + BATCH])
        acknowledged = time.time() - begun
        server.settle(len(base))
        whole, processor = time.time() - begun, measure.processor(server.pid)
        print('%s\t%d\t%.0f\t%.0f\t%.1f\t%.0f\t%.4f' % (
            kind.name, len(base), len(base) / acknowledged, len(base) / whole, processor,
            *ask(server, queries, exact)), flush=True)
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--chroma', required=True)
    p.add_argument('--set', default='glove30k')
    p.add_argument('--rows', type=int, default=50000)
    p.add_argument('--rounds', type=int, default=3)
    args = p.parse_args()
    data = os.environ.get('VSHARD_DATA', os.path.join(measure.root, 'examples/demo/data'))
    base = numpy.load(os.path.join(data, args.set + '.base.npy'))[:args.rows].astype(numpy.float32)
    queries = numpy.load(os.path.join(data, args.set + '.query.npy'))[:QUERIES].astype(numpy.float32)
    unit = base / numpy.linalg.norm(base, axis=1, keepdims=True)
    exact = [set(row) for row in numpy.argsort(-(queries @ unit.T), axis=1)[:, :K].tolist()]
    print('server\trows\tacknowledged_per_s\tindexed_per_s\tprocessor_s\tqueries_per_s\trecall')
    for _ in range(args.rounds):
        for kind in (Ours, Chroma):
            one(kind, base, queries, exact, args)


if __name__ == '__main__':
    main()
