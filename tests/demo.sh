#!/bin/sh
# demo.sh - the demo as its users meet it, good days and bad.
#
# A small slice of the data runs whole; then each thing that can go wrong is made to
# go wrong, and the exit status, the reason given and what is left behind are
# compared with what is promised. A full disk is made twice: by a limit on the size
# of files, and, where we may mount one, by a small file system.
cd "${srcdir:-.}" || exit 1
demo=${O:-build}/examples/demo/demo
t=$(mktemp -d) && trap 'umount "$t/small" 2> "$t/null"; rm -rf "$t"' EXIT
export TMPDIR="$t/tmp" LC_ALL=C
unset NO_COLOR
mkdir "$TMPDIR"
. tests/support/demo_run.sh

last_line() {
    tail -n 1 "$t/out" | grep -Eqx 'demo: ok recall@10=[01]\.[0-9]{4} qps=[0-9]+' ||
        fail "last line is '$(tail -n 1 "$t/out")'"
}

run 'a slice' 0 '' --rows 2000
last_line
run 'a slice with graphs' 0 '' --rows 9000 --shards 2 --threads 3
last_line
run 'one shard, one row' 0 '' --rows 1 --shards 1
last_line
run 'more shards than rows' 0 '' --rows 7 --shards 64
last_line
run 'files are kept' 0 '' --rows 2000 --dir "$t/kept"
last_line
[ "$(echo $(ls "$t/kept"))" = 'map shard-0.index shard-1.index shard-2.index shard-3.index' ] ||
    fail "kept $(echo $(ls "$t/kept"))"
grep -q "$(printf '\033')" "$t/out" && fail 'colours, and no terminal'
run 'recall below the floor' 1 'is below 0.97' --rows 20000 --shards 1 --ef 1
run 'help' 0 '' --help
grep -q '^usage: demo' "$t/out" || fail 'no usage'

# Arguments: status 2, and what is wrong with which.
run 'an unknown option' 2 "option '--bogus'" --bogus
run 'a word too many' 2 "'now'" now
run 'no value' 2 "'--ef' requires" --ef
run 'a value of none' 2 "shards takes a number from 1 to 64, not '0'" --shards 0
run 'a value too large' 2 "ef takes .* not '16385'" --ef 16385
run 'a negative value' 2 "seed takes .* not '-1'" --seed -1
run 'not a number' 2 "threads takes .* not '2x'" --threads 2x
run 'an unknown metric' 2 "metric takes .* not 'hamming'" --metric hamming
run 'a set of unknown metric' 2 "what is 'mine' compared by" --set mine

# The world: status 1, which file, and why.
run 'no such data' 1 "$t/none/glove30k.base.npy: No such file or directory" --data "$t/none"
mkdir "$t/data"
cp examples/demo/data/glove30k.* "$t/data"
printf 'the\nof\n' > "$t/data/glove30k.base.words.txt"
run 'too few words' 1 'base.words.txt: 2 lines for 30000 vectors' --data "$t/data"
head -c 9000 examples/demo/data/glove30k.base.npy > "$t/data/glove30k.base.npy"
run 'vectors cut short' 1 'glove30k.base.npy: cut short' --data "$t/data"
echo hello > "$t/data/glove30k.query.npy"
run 'not an .npy file' 1 'glove30k.query.npy: not an .npy file' --data "$t/data" --rows 40
run 'a folder in use' 1 "$t/kept: Directory not empty" --rows 2000 --dir "$t/kept"
: > "$t/file"
run 'a file for a folder' 1 "$t/file: Not a directory" --rows 2000 --dir "$t/file"
run 'a folder inside a file' 1 "$t/file/sub: Not a directory" --rows 2000 --dir "$t/file/sub"
mkdir "$t/locked" && chmod 555 "$t/locked"
if [ "$(id -u)" != 0 ]; then
    run 'a folder without leave to write' 1 "$t/locked: Permission denied" --rows 2000 --dir "$t/locked"
    run 'no leave to make a folder' 1 "$t/locked/sub: Permission denied" --rows 2000 --dir "$t/locked/sub"
fi
(
    TMPDIR=$t/none
    run 'no place for files' 1 "$t/none/vshard-demo.*: No such file" --rows 2000
    exit $bad
) 2> "$t/null" || bad=1
if [ -e /dev/full ]; then
    case='output to a full disk'
    count=$((count + 1))
    "$demo" --rows 2000 > /dev/full 2> "$t/err"
    [ $? = 1 ] && grep -q 'standard output: No space left' "$t/err" || fail 'is not noticed'
fi
(
    ulimit -f 100 # half-kilobytes, or kilobytes, as the shell has it
    run 'files too large' 1 'shard-0.index: File too large' --rows 2000
    mkdir "$t/few"
    run 'files too large, in a folder of ours' 1 'shard-0.index: File too large' --rows 2000 --dir "$t/few"
    [ -z "$(ls "$t/few")" ] || fail "leaves $(ls "$t/few")"
    exit $bad
) || bad=1
count=$((count + 2))
mkdir "$t/small"
if mount -t tmpfs -o size=1m none "$t/small" 2> "$t/null"; then
    run 'a full disk' 1 'shard-[1-3].index: No space left on device' --rows 4000 --dir "$t/small/new"
    [ -z "$(ls "$t/small")" ] || fail "leaves $(ls "$t/small")"
else
    echo 'skip demo a full file system: may not mount one'
fi

# Ctrl-C at several moments: the status is the signal's and nothing stays. The shell
# lets background jobs ignore INT, so a shell of its own asks for it again.
for signal in INT TERM; do
    for after in 0.1 0.6 1.5; do
        case="$signal after $after s"
        count=$((count + 1))
        for wait in $after 3 20; do # later where the machine had not let it begin
            timeout --preserve-status -s $signal $wait "$demo" --shards 2 > "$t/out" 2> "$t/err"
            got=$?
            [ $got = 0 ] || [ -s "$t/out" ] || [ -s "$t/err" ] || continue
            break
        done
        [ $got = $([ $signal = INT ] && echo 130 || echo 143) ] || [ $got = 0 ] || fail "status $got"
        [ $got = 0 ] || grep -q 'demo: stopped' "$t/err" || fail 'does not say so'
        [ -z "$(ls "$TMPDIR")" ] || { fail "leaves $(ls "$TMPDIR")"; rm -rf "$TMPDIR"/*; }
    done
done

# On a terminal: a bar, and colours unless NO_COLOR is set.
if script -qec true "$t/null" > "$t/null" 2>&1; then
    export TERM=xterm
    script -qec "$demo --rows 9000" "$t/colours" > "$t/null" < /dev/null
    NO_COLOR='' script -qec "$demo --rows 9000" "$t/plain" > "$t/null" < /dev/null
    case='on a terminal'
    count=$((count + 2))
    : > "$t/out"; : > "$t/err"
    grep -q "$(printf '\033\\[1m')" "$t/colours" || fail 'no colours'
    grep -q "$(printf '\r.*100 %%')" "$t/colours" || fail 'no bar'
    grep -q "$(printf '\033\\[[0-9]*m')" "$t/plain" && fail 'colours, and NO_COLOR is set'
fi
[ $bad = 0 ] && echo "pass demo ($count cases)"
exit $bad
