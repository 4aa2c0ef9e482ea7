// etcd.go - how many entries a second three etcd/raft nodes agree on.
//
// The other half of bench/raft_core.c, and the same work: one group, three
// replicas on one thread, entries of 256 bytes, no disk and no network. Each
// round the leader is handed `batch` entries; Ready structures are stored in
// memory, counted as durable at once, and sent by a queue. What has been applied
// is compacted away, a thousand entries behind. Time is that of the process,
// collector included. There are four ways to do it, and each is measured:
//
//	calls     Propose once for each entry, as its own server does
//	message   all entries of a round in one message, the fastest way in
//	bytes     a message is marshalled and unmarshalled, as between processes
//	pointers  the replicas share the memory of messages and entries
//
//	etcd seconds calls|message bytes|pointers
package main

import (
	"fmt"
	"io/ioutil"
	"log"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"go.etcd.io/etcd/raft"
	pb "go.etcd.io/etcd/raft/raftpb"
)

const (
	entryBytes = 256
	replicas   = 3
	trailing   = 1000
	warmUp     = 2000
)

type node struct {
	raw     *raft.RawNode
	storage *raft.MemoryStorage
	applied uint64
	sum     uint64
}

type cluster struct {
	node  [replicas + 1]*node
	queue []pb.Message
	wire  [][]byte
	bytes bool
	lead  uint64
}

func seconds() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)*1e-6
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func start(bytes bool) *cluster {
	c := &cluster{bytes: bytes}
	peers := []uint64{1, 2, 3}
	for id := uint64(1); id <= replicas; id++ {
		s := raft.NewMemoryStorage()
		check(s.ApplySnapshot(pb.Snapshot{Metadata: pb.SnapshotMetadata{
			Index: 1, Term: 1, ConfState: pb.ConfState{Voters: peers}}}))
		raw, err := raft.NewRawNode(&raft.Config{
			ID: id, ElectionTick: 10, HeartbeatTick: 1, Storage: s,
			MaxSizePerMsg: 256 << 10, MaxInflightMsgs: 16, Applied: 1,
			CheckQuorum: true, PreVote: true,
		})
		check(err)
		c.node[id] = &node{raw: raw, storage: s, applied: 1}
	}
	check(c.node[1].raw.Campaign())
	c.settle()
	if c.lead == 0 {
		fmt.Fprintln(os.Stderr, "etcd: nobody leads")
		os.Exit(1)
	}
	return c
}

// Stores, sends and applies what one node has ready.
func (c *cluster) ready(id uint64) {
	n := c.node[id]
	for n.raw.HasReady() {
		rd := n.raw.Ready()
		check(n.storage.Append(rd.Entries))
		if !raft.IsEmptyHardState(rd.HardState) {
			check(n.storage.SetHardState(rd.HardState))
		}
		c.send(rd.Messages)
		for i := range rd.CommittedEntries {
			n.sum += uint64(len(rd.CommittedEntries[i].Data))
			n.applied = rd.CommittedEntries[i].Index
		}
		if rd.SoftState != nil {
			c.lead = rd.SoftState.Lead
		}
		n.raw.Advance(rd)
		first, err := n.storage.FirstIndex()
		check(err)
		if n.applied > first+2*trailing {
			check(n.storage.Compact(n.applied - trailing))
		}
	}
}

func (c *cluster) send(messages []pb.Message) {
	if !c.bytes {
		c.queue = append(c.queue, messages...)
		return
	}
	for i := range messages {
		b, err := messages[i].Marshal()
		check(err)
		c.wire = append(c.wire, b)
	}
}

func (c *cluster) settle() {
	for {
		for id := uint64(1); id <= replicas; id++ {
			c.ready(id)
		}
		if len(c.queue)+len(c.wire) == 0 {
			return
		}
		work, wire := c.queue, c.wire
		c.queue, c.wire = nil, nil
		for _, b := range wire {
			m := pb.Message{}
			check(m.Unmarshal(b))
			work = append(work, m)
		}
		for _, m := range work {
			check(c.node[m.To].raw.Step(m))
			c.ready(m.To)
		}
	}
}

func run(batch int, forSeconds float64, calls, bytes bool) {
	c := start(bytes)
	data := make([]byte, entryBytes)
	entries, rounds := 0, 0
	began, now := 0.0, 0.0
	for rounds <= warmUp || now-began < forSeconds {
		if rounds == warmUp {
			began, entries = seconds(), 0
		}
		if calls {
			for i := 0; i < batch; i++ {
				check(c.node[c.lead].raw.Propose(data))
			}
		} else {
			e := make([]pb.Entry, batch)
			for i := range e {
				e[i].Data = data
			}
			check(c.node[c.lead].raw.Step(pb.Message{Type: pb.MsgProp, From: c.lead, Entries: e}))
		}
		c.settle()
		entries += batch
		rounds++
		if rounds%64 == 0 {
			now = seconds()
		}
	}
	if c.node[c.lead].sum < uint64(rounds*batch*entryBytes) {
		fmt.Fprintln(os.Stderr, "etcd: the leader was given too little")
		os.Exit(1)
	}
	fmt.Printf("%d\t%.0f\n", batch, float64(entries)/(now-began))
}

func main() {
	runtime.GOMAXPROCS(1)
	raft.SetLogger(&raft.DefaultLogger{Logger: log.New(ioutil.Discard, "", 0)})
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: etcd seconds calls|message bytes|pointers")
		os.Exit(2)
	}
	forSeconds, err := strconv.ParseFloat(os.Args[1], 64)
	check(err)
	fmt.Println("batch\tentries_per_cpu_s")
	for _, batch := range []int{1, 64, 1024} {
		run(batch, forSeconds, os.Args[2] == "calls", os.Args[3] == "bytes")
	}
}
