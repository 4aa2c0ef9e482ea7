#!/bin/sh
# cluster.sh - the demo of the cluster, on a slice of its data, and what goes wrong.
#
# Each run founds a cluster in a folder of its own, loads it, kills its busiest leader and
# looks for every acknowledged write. The last line, the status and what is left behind
# are compared with what is promised.
cd "${srcdir:-.}" || exit 1
demo=${O:-build}/examples/cluster/cluster
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
export TMPDIR="$t/tmp" LC_ALL=C
mkdir "$TMPDIR"
. tests/support/demo_run.sh

last_line() {
    tail -n 1 "$t/out" |
        grep -Eqx 'demo: ok recall@10=(1\.0000|0\.9[0-9]{3}) qps=[0-9]+ failover_ms=[0-9]+ lost=0' ||
        fail "last line is '$(tail -n 1 "$t/out")'"
}

run 'a slice' 0 '' --rows 3000
last_line
run 'another shape' 0 '' --rows 600 --nodes 3 --shards 2 --threads 1 --dir "$t/kept"
last_line
[ "$(ls "$t/kept" | wc -l)" = 3 ] || fail "kept $(ls "$t/kept")"
run 'help' 0 '' --help
run 'an unknown option' 2 'bogus' --bogus
run 'a value too small' 2 "from 3 to 16 is wanted, not '2'" --nodes 2
run 'too few nodes' 2 '5 replicas need as many nodes' --nodes 4 --replicas 5
run 'a set of unknown metric' 2 "what is 'mine' compared by" --set mine
run 'no such data' 1 'No such file' --data "$t/none"
run 'a folder in use' 1 'File exists' --rows 600 --dir "$t/kept"
case='stopped in the midst'
count=$((count + 1))
timeout --preserve-status -s INT 2 "$demo" --rows 9000 > "$t/out" 2> "$t/err"
[ -z "$(ls "$TMPDIR")" ] || fail "leaves $(ls "$TMPDIR")"
[ $bad = 0 ] && echo "pass cluster ($count cases)"
exit $bad
