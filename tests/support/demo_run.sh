# demo_run.sh - how the tests of the demos run one: tests/demo.sh, tests/cluster.sh. Sourced
# with $demo, the program, and $t, a folder, whose TMPDIR a demo must leave empty.
bad=0
count=0

fail() { echo "${0##*/}: $case: $*"; sed 's/^/    /' "$t/out" "$t/err"; bad=1; }

# run <case> <status> <words of the reason> <arguments>: and nothing is left in TMPDIR.
run() {
    case=$1 status=$2 reason=$3
    shift 3
    count=$((count + 1))
    "$demo" "$@" > "$t/out" 2> "$t/err"
    got=$?
    [ $got = "$status" ] || fail "status $got, not $status"
    if [ -n "$reason" ]; then grep -q -- "$reason" "$t/err"; else [ ! -s "$t/err" ]; fi || fail "does not say '$reason'"
    [ -z "$(ls "$TMPDIR")" ] || { fail "leaves $(ls "$TMPDIR")"; rm -rf "$TMPDIR"/*; }
}
