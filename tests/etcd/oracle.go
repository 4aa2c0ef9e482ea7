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

func main() {
	defer out.Flush()
	testing.Init() // the packages that read scripts want to know how talkative to be
	_ = flag.CommandLine.Parse(nil)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "scripts":
		scripts(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: oracle scripts <directory> | lockstep <seed> <events>")
		os.Exit(2)
	}
}
