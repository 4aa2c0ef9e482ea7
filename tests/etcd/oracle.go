// oracle.go - etcd's Raft, asked where its replicas stand.
//
//	oracle scripts <raft directory>   runs the interaction scripts found there
//	oracle lockstep <seed> <events>   runs a cluster through random events
//
// Both print the state of each replica after each directive or event, for the C
// programs beside this file to compare with. Scripts also run against their own
// expected output, so that what is printed is what the script is about.
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/raft"
	"go.etcd.io/etcd/raft/raftpb"
	"go.etcd.io/etcd/raft/rafttest"
)

var out = bufio.NewWriterSize(os.Stdout, 1<<16)

// private reads a field that RawNode does not offer.
func private(v reflect.Value, name string) reflect.Value {
	f := v.FieldByName(name)
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
}

// entries is the whole log, stored or not.
func entries(rn *raft.RawNode, s raft.Storage) []raftpb.Entry {
	r := private(reflect.ValueOf(rn).Elem(), "raft").Elem()
	unstable := private(private(r, "raftLog").Elem(), "unstable")
	tail := private(unstable, "entries").Interface().([]raftpb.Entry)
	offset := private(unstable, "offset").Uint()
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	var all []raftpb.Entry
	if private(unstable, "snapshot").IsNil() && first <= last && first < offset {
		if last >= offset {
			last = offset - 1
		}
		if first <= last {
			all, _ = s.Entries(first, last+1, 1<<62)
		}
	}
	return append(append([]raftpb.Entry{}, all...), tail...)
}

func ids(m map[uint64]struct{}) string {
	var l []int
	for id := range m {
		l = append(l, int(id))
	}
	sort.Ints(l)
	s := fmt.Sprint(l)
	return strings.ReplaceAll(s[1:len(s)-1], " ", ",")
}

// config is voters/outgoing/learners/learners next.
func config(st raft.Status) string {
	c := st.Config
	return fmt.Sprintf("%s/%s/%s/%s", ids(c.Voters[0]), ids(c.Voters[1]), ids(c.Learners), ids(c.LearnersNext))
}

func state(rn *raft.RawNode, s raft.Storage) {
	st := rn.Status()
	fmt.Fprintf(out, "node %d %d %d %d %d %d %d %s\n", st.ID, st.Term, st.Vote, st.Commit, st.Applied, st.RaftState, st.Lead, config(st))
	for _, e := range entries(rn, s) {
		kind := "n"
		data := strconv.Quote(string(e.Data))
		if e.Type != raftpb.EntryNormal {
			kind, data = "c", `""`
		}
		fmt.Fprintf(out, "entry %d %d %s %s\n", e.Index, e.Term, kind, data)
	}
}

func progress(rn *raft.RawNode) {
	st := rn.Status()
	var l []int
	for id := range st.Progress {
		l = append(l, int(id))
	}
	sort.Ints(l)
	for _, id := range l {
		pr := st.Progress[uint64(id)]
		fmt.Fprintf(out, "progress %d %s %d\n", id, pr.State, pr.Match)
	}
}

func scripts(dir string) {
	files, _ := os.ReadDir(dir + "/testdata")
	for _, f := range files {
		env := rafttest.NewInteractionEnv(nil)
		text, err := os.ReadFile(dir + "/testdata/" + f.Name())
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(out, "script %s\n", f.Name())
		d := directives(string(text))
		for i := range d {
			got := env.Handle(&testing.T{}, d[i])
			verdict := "as-written"
			if strings.TrimSpace(got) != strings.TrimSpace(d[i].Expected) {
				verdict = "otherwise"
			}
			fmt.Fprintf(out, "do %s %s\n", strings.TrimPrefix(d[i].Pos, "<string>:"), verdict)
			if strings.Contains(got, "proposal dropped") {
				fmt.Fprintln(out, "dropped")
			}
			if strings.Contains(got, "ignoring conf change") {
				fmt.Fprintln(out, "ignored")
			}
			for _, n := range env.Nodes {
				state(n.RawNode, n.Storage)
			}
			if d[i].Cmd == "status" {
				id, _ := strconv.Atoi(d[i].CmdArgs[0].Key)
				progress(env.Nodes[id-1].RawNode)
			}
			fmt.Fprintln(out, "done")
		}
	}
}

// directives reads a script as the package that runs it does.
func directives(text string) []datadriven.TestData {
	var all []datadriven.TestData
	datadriven.RunTestFromString(&testing.T{}, text, func(t *testing.T, d *datadriven.TestData) string {
		all = append(all, *d)
		return d.Expected
	})
	return all
}

// ---- lockstep: what lockstep.c does, done by etcd ----

const world = 250
const start = 2

// disk is etcd's storage in memory and, beside it, a digest of the log through each entry.
type disk struct {
	*raft.MemoryStorage
	first, base uint64 // chain[0] is of entry first; base: of the snapshot
	chain       []uint64
}

func fold(digest, word uint64) uint64 {
	digest = (digest ^ word) * 0x9e3779b97f4a7c15
	return digest ^ (digest >> 29)
}

func (d *disk) write(ents []raftpb.Entry) {
	if len(ents) == 0 {
		return
	}
	if err := d.Append(ents); err != nil {
		panic(err)
	}
	for i := range ents {
		e := &ents[i]
		if len(d.chain) == 0 || e.Index < d.first {
			d.first, d.chain = e.Index, nil
		} else {
			d.chain = d.chain[:e.Index-d.first]
		}
		before, config := d.base, uint64(0)
		if len(d.chain) != 0 {
			before = d.chain[len(d.chain)-1]
		}
		if e.Type != raftpb.EntryNormal {
			config = 1
		}
		h := fold(fold(fold(before, e.Index), e.Term), config)
		if config == 0 {
			for _, b := range e.Data {
				h = fold(h, uint64(b))
			}
		}
		d.chain = append(d.chain, h)
	}
}

func (d *disk) through(index uint64) uint64 {
	if len(d.chain) == 0 || index < d.first {
		return d.base
	}
	return d.chain[index-d.first]
}

type member struct {
	id   uint64
	rn   *raft.RawNode // nil: down
	disk *disk
	conf raftpb.ConfState
	snap uint64
	app  uint64
}

type desk struct {
	n       int
	node    []*member
	net     []raftpb.Message
	cut     [9][9]bool
	muted   [9]bool
	dice    uint64
	written uint64
}

func (w *desk) roll(below uint64) uint64 {
	w.dice += 0x9e3779b97f4a7c15
	z := w.dice
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return (z ^ (z >> 31)) % below
}

type silent struct{}

func (silent) Debug(v ...interface{})                   {}
func (silent) Debugf(format string, v ...interface{})   {}
func (silent) Error(v ...interface{})                   {}
func (silent) Errorf(format string, v ...interface{})   {}
func (silent) Info(v ...interface{})                    {}
func (silent) Infof(format string, v ...interface{})    {}
func (silent) Warning(v ...interface{})                 {}
func (silent) Warningf(format string, v ...interface{}) {}
func (silent) Fatal(v ...interface{})                   { panic(fmt.Sprint(v...)) }
func (silent) Fatalf(format string, v ...interface{})   { panic(fmt.Sprintf(format, v...)) }
func (silent) Panic(v ...interface{})                   { panic(fmt.Sprint(v...)) }
func (silent) Panicf(format string, v ...interface{})   { panic(fmt.Sprintf(format, v...)) }

func (m *member) start() {
	rn, err := raft.NewRawNode(&raft.Config{ID: m.id, Applied: m.snap, ElectionTick: 1 << 40, HeartbeatTick: 1,
		Storage: m.disk, MaxSizePerMsg: 1 << 40, MaxInflightMsgs: 16, CheckQuorum: true, Logger: silent{}})
	if err != nil {
		panic(err)
	}
	m.rn, m.app = rn, m.snap
}

func newDesk(seed uint64) *desk {
	w := &desk{dice: seed}
	w.n = 3 + int(w.roll(3))
	var conf raftpb.ConfState
	for i := 1; i <= w.n; i++ {
		conf.Voters = append(conf.Voters, uint64(i))
	}
	w.node = append(w.node, nil)
	for i := 1; i <= w.n; i++ {
		m := &member{id: uint64(i), disk: &disk{MemoryStorage: raft.NewMemoryStorage()}, conf: conf, snap: start}
		_ = m.disk.ApplySnapshot(raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{ConfState: conf, Index: start, Term: 1}})
		_ = m.disk.SetHardState(raftpb.HardState{Term: 1, Commit: start})
		m.start()
		w.node = append(w.node, m)
	}
	return w
}

func (w *desk) ready(m *member) {
	rd := m.rn.Ready()
	if !raft.IsEmptyHardState(rd.HardState) {
		_ = m.disk.SetHardState(rd.HardState)
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := m.disk.ApplySnapshot(rd.Snapshot); err != nil {
			panic(err)
		}
		m.conf, m.snap, m.app = rd.Snapshot.Metadata.ConfState, rd.Snapshot.Metadata.Index, rd.Snapshot.Metadata.Index
		m.disk.base, m.disk.chain = binary.LittleEndian.Uint64(rd.Snapshot.Data), nil
	}
	m.disk.write(rd.Entries)
	for _, e := range rd.CommittedEntries {
		if e.Type == raftpb.EntryConfChangeV2 {
			var cc raftpb.ConfChangeV2
			if err := cc.Unmarshal(e.Data); err != nil {
				panic(err)
			}
			m.conf = *m.rn.ApplyConfChange(cc)
		}
		m.app = e.Index
	}
	w.net = append(w.net, rd.Messages...)
	m.rn.Advance(rd)
}

func (w *desk) deliver(m *member) bool {
	var rest, mine []raftpb.Message
	for _, msg := range w.net {
		if msg.To == m.id {
			mine = append(mine, msg)
		} else {
			rest = append(rest, msg)
		}
	}
	w.net = rest
	sort.SliceStable(mine, func(i, k int) bool { return mine[i].Term > mine[k].Term })
	for _, msg := range mine {
		if m.rn != nil && !w.cut[msg.From][msg.To] {
			_ = m.rn.Step(msg)
		}
	}
	return len(mine) != 0
}

func (w *desk) settle() {
	for busy := true; busy; {
		busy = false
		for _, m := range w.node[1:] {
			if m.rn != nil && m.rn.HasReady() {
				w.ready(m)
				busy = true
			}
		}
		for _, m := range w.node[1:] {
			busy = w.deliver(m) || busy
		}
	}
}

func (w *desk) whole() bool {
	for i := 1; i <= w.n; i++ {
		if w.node[i].rn == nil {
			return false
		}
		for k := 1; k <= w.n; k++ {
			if w.cut[i][k] {
				return false
			}
		}
	}
	return true
}

func (w *desk) leader() *member {
	var best *member
	for _, m := range w.node[1:] {
		if m.rn != nil && m.rn.BasicStatus().RaftState == raft.StateLeader &&
			(best == nil || m.rn.BasicStatus().Term > best.rn.BasicStatus().Term) {
			best = m
		}
	}
	return best
}

func votes(m *member, id uint64) bool {
	for _, v := range m.conf.Voters {
		if v == id {
			return true
		}
	}
	return false
}

func (w *desk) propose(m *member, count uint64) {
	for i := uint64(0); i < count; i++ {
		w.written++
		data := make([]byte, 8)
		binary.LittleEndian.PutUint64(data, w.written)
		_ = m.rn.Propose(data)
	}
}

func (w *desk) members(lead *member, a, b, k uint64) {
	who := []uint64{a}
	if k != 0 && b != a {
		who = append(who, b)
	}
	var cc raftpb.ConfChangeV2
	voters := len(lead.conf.Voters)
	for _, id := range who {
		if id == lead.id {
			continue
		}
		if votes(lead, id) {
			cc.Changes = append(cc.Changes, raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddLearnerNode, NodeID: id})
			voters--
		} else {
			cc.Changes = append(cc.Changes, raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddNode, NodeID: id})
			voters++
		}
	}
	if voters >= 2 && len(cc.Changes) != 0 {
		_ = lead.rn.ProposeConfChange(cc)
	}
}

func (w *desk) compact(m *member, keep uint64) {
	if m.app > m.snap {
		data := make([]byte, 8)
		binary.LittleEndian.PutUint64(data, m.disk.through(m.app))
		if _, err := m.disk.CreateSnapshot(m.app, &m.conf, data); err != nil {
			panic(err)
		}
		m.snap, m.disk.base = m.app, m.disk.through(m.app)
	}
	first, _ := m.disk.FirstIndex()
	if m.snap > keep && m.snap-keep >= first {
		_ = m.disk.Compact(m.snap - keep)
		if gone := m.snap - keep + 1 - m.disk.first; gone <= uint64(len(m.disk.chain)) {
			m.disk.chain, m.disk.first = m.disk.chain[gone:], m.snap-keep+1
		}
	}
}

func (w *desk) event() {
	n := uint64(w.n)
	kind := w.roll(100)
	a, b, k := 1+w.roll(n), 1+w.roll(n), w.roll(4)
	if kind < 14 && k == 3 {
		b = w.roll(64)
	}
	m, lead := w.node[a], w.leader()
	up := m.rn != nil
	leads := up && m.rn.BasicStatus().RaftState == raft.StateLeader
	switch {
	case kind < 14:
		for i := uint64(1); i <= n; i++ {
			for j := uint64(1); j <= n; j++ {
				oneWay := w.roll(5)
				if (a+b)%2 == 0 {
					w.cut[i][j] = false
					continue
				}
				c := k == 1 && oneWay == 0 || k == 2 && (i == a || j == a) || k == 3 && (b>>i&1) != (b>>j&1)
				w.cut[i][j] = c && i != j
			}
		}
	case kind < 32:
		if up && m.rn.BasicStatus().RaftState == raft.StateFollower {
			_ = m.rn.Step(raftpb.Message{Type: raftpb.MsgTimeoutNow, From: a, To: a, Term: m.rn.BasicStatus().Term})
		}
	case kind < 64:
		if leads {
			w.propose(m, 1+k)
		} else if lead != nil {
			w.propose(lead, 1+k)
		}
	case kind < 69:
		m.rn = nil
	case kind < 86:
		if !up || m.rn.BasicStatus().RaftState == raft.StateCandidate {
			m.start()
		}
	case kind < 91:
		if leads && a != b && w.node[b].rn != nil && !w.cut[a][b] && !w.cut[b][a] && votes(w.node[b], b) {
			m.rn.TransferLeader(b)
		}
	case kind < 96:
		if up {
			w.compact(m, k)
		}
	default:
		if w.whole() && lead != nil {
			w.members(lead, a, b, k)
		}
	}
	w.settle()
	for i := 0; i < 2*w.n; i++ {
		m := w.node[1+i%w.n]
		if m.rn == nil {
			continue
		}
		if m.rn.BasicStatus().RaftState == raft.StateLeader {
			m.rn.Tick()
		}
		w.settle()
	}
	w.mute()
}

// mute: see lockstep.c.
func (w *desk) mute() {
	for i := 1; i <= w.n; i++ {
		if w.node[i].rn == nil {
			continue
		}
		st := w.node[i].rn.BasicStatus()
		if st.Lead == 0 {
			continue
		}
		l := w.node[st.Lead]
		heard := int(st.Lead) == i
		if !heard && l.rn != nil {
			ls := l.rn.BasicStatus()
			heard = ls.RaftState == raft.StateLeader && ls.Term == st.Term && !w.cut[i][st.Lead] && !w.cut[st.Lead][i]
		}
		w.muted[i] = !heard
	}
}

func (w *desk) roles(m *member) string {
	s := make([]byte, w.n)
	for i := range s {
		s[i] = '-'
	}
	for _, id := range m.conf.Learners {
		s[id-1] = 'l'
	}
	for _, id := range m.conf.Voters {
		s[id-1] = 'v'
	}
	if len(m.conf.VotersOutgoing) != 0 {
		return strings.Repeat("j", w.n)
	}
	return string(s)
}

func lockstep(seed, events uint64) {
	var w *desk
	for i := uint64(0); i < events; i++ {
		if i%world == 0 {
			w = newDesk(seed + i/world)
		}
		w.event()
		for _, m := range w.node[1:] {
			if m.rn == nil {
				fmt.Fprintf(out, "%d down; ", m.id)
				continue
			}
			st := m.rn.BasicStatus()
			last, _ := m.disk.LastIndex()
			fmt.Fprintf(out, "%d %d %d %d %d %d %016x ", m.id, st.Term, st.Vote, st.RaftState, st.Lead, last, m.disk.through(last))
			if w.muted[m.id] {
				fmt.Fprint(out, "~; ")
			} else {
				fmt.Fprintf(out, "%d %s; ", st.Commit, w.roles(m))
			}
		}
		fmt.Fprintln(out)
	}
}

func main() {
	defer out.Flush()
	testing.Init() // the packages that read scripts want to know how talkative to be
	_ = flag.CommandLine.Parse(nil)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "scripts":
		scripts(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "lockstep":
		seed, _ := strconv.ParseUint(os.Args[2], 10, 64)
		events, _ := strconv.ParseUint(os.Args[3], 10, 64)
		lockstep(seed, events)
	default:
		fmt.Fprintln(os.Stderr, "usage: oracle scripts <directory> | lockstep <seed> <events>")
		os.Exit(2)
	}
}
