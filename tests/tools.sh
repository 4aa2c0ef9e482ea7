#!/bin/sh
# tools.sh - vshard-wal on real files, whole, damaged and absent.
#
# Each case makes a log (tests/api/log_writer.c), damages it with dd, and compares the
# tool's exit status and what it prints; what only looks must leave every byte alone.
cd "${srcdir:-.}" || exit 1
O=${O:-$PWD/build}
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
bad=0
# shellcheck disable=SC2086
${CC:-cc} -Wall -Wextra -Iinclude -o "$t/log_writer" tests/api/log_writer.c -L"$O" -lvshard $LDFLAGS || exit 1
LD_LIBRARY_PATH=$O${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
segment=0000000000000001.wal

fresh() { # a log of 30 records, the last batch at 18432..19456
    rm -rf "$t/log" && mkdir "$t/log" && "$t/log_writer" "$t/log" 30 "$@" || exit 1
}
damage() { # file, byte
    printf '\125' | dd of="$t/log/$1" bs=1 seek="$2" conv=notrunc 2> "$t/dd" || exit 1
}
sums() { (cd "$t/log" && cksum -- *); }
# expect <status> <what it is> <a line it prints, or -> <arguments>
expect() {
    status=$1 what=$2 line=$3
    shift 3
    "$O/tools/vshard-wal" "$@" > "$t/out" 2> "$t/err"
    rc=$?
    if [ $rc = "$status" ] && { [ "$line" = - ] || grep -q -- "$line" "$t/out" "$t/err"; }; then
        echo "pass tool $what"
    else
        echo "FAIL tool $what: status $rc, not $status, or no \"$line\" in:"
        cat "$t/out" "$t/err"
        bad=1
    fi
}

expect 0 'prints help' 'usage: vshard-wal' --help
expect 0 'prints its version' 'vshard-wal [0-9]' --version
expect 3 'wants a command' 'a command and a directory are wanted' "$t"
expect 3 'wants a directory' 'a command and a directory are wanted' verify
expect 3 'knows its commands' "'mend' is not a command" mend "$t"
expect 3 'knows its options' "unrecognized option '--mend'" --mend verify "$t"
expect 3 'takes numbers for numbers' "--group takes a number from 0 to 18446744073709551615, not 'x'" -g x dump "$t"
expect 3 'takes no number below zero' "--group takes a number from .* not '-3'" -g -3 dump "$t"
expect 3 'takes no number too large' "--group takes a number from .* not '99999999999999999999'" -g 99999999999999999999 dump "$t"
expect 3 'says when there is no directory' 'not found' verify "$t/nowhere"
mkdir "$t/empty"
for command in verify dump groups cut salvage; do
    expect 3 "says when there is no log to $command" 'not found' -y $command "$t/empty"
done
[ -z "$(ls "$t/empty")" ] || { echo 'FAIL tool made a log where none was'; bad=1; }

fresh
before=$(sums)
expect 0 'verifies a whole log' 'verdict      clean' verify "$t/log"
expect 0 'lists groups' 'vote=5 commit=0 mark=0 entries=1..10' groups "$t/log"
expect 0 'dumps records' 'entry	group=3 index=10 term=2 bytes=300' dump "$t/log"
[ "$(wc -l < "$t/out")" = 33 ] || { echo 'FAIL tool dumps 33 records'; bad=1; }
expect 0 'dumps one group' - -g 2 -l dump "$t/log"
[ "$(wc -l < "$t/out")" = 10 ] || { echo 'FAIL tool dumps 10 entries of a group'; bad=1; }
expect 0 'dumps payloads' '	1d1d1d1d' -p dump "$t/log"
expect 3 'refuses the log of another' 'wal.other_log' -i 78 verify "$t/log"
expect 0 'cuts nothing off a whole log' 'nothing' -y cut "$t/log"
expect 0 'salvages nothing from a whole log' 'nothing' -y salvage "$t/log"
if [ -e /dev/full ]; then
    "$O/tools/vshard-wal" dump "$t/log" > /dev/full 2> "$t/err"
    [ $? = 3 ] || { echo 'FAIL tool notices a full disk'; bad=1; }
fi
[ "$before" = "$(sums)" ] || { echo 'FAIL tool changed what it only looked at'; bad=1; }

fresh
damage $segment 19000 # the last batch
before=$(sums)
expect 1 'calls a damaged last batch uncertain' 'verdict      uncertain' verify "$t/log"
expect 1 'dumps up to it' 'index=9 term=2' dump "$t/log"
expect 3 'cuts nothing without --yes' 'say --yes' cut "$t/log"
[ "$before" = "$(sums)" ] || { echo 'FAIL tool changed what it only looked at'; bad=1; }
expect 0 'cuts it with --yes' 'behind barrier 29' --yes cut "$t/log"
expect 0 'verifies what it left' 'verdict      clean' verify "$t/log"
expect 0 'leaves it settled' 'unsettled    no' verify "$t/log"

fresh
damage $segment 6000
before=$(sums)
expect 2 'calls an earlier damage corrupt' 'verdict      corrupt' verify "$t/log"
expect 2 'dumps up to the damage' 'index=1 term=2' dump "$t/log"
expect 3 'does not cut a corrupt log' 'only salvage' -y cut "$t/log"
expect 3 'salvages nothing without --yes' 'say --yes' salvage "$t/log"
[ "$before" = "$(sums)" ] || { echo 'FAIL tool changed what it only looked at'; bad=1; }
expect 0 'salvages with --yes' 'removed      [1-9]' -y salvage "$t/log"
[ -e "$t/log/0000000000000001.cut" ] || { echo 'FAIL tool keeps what it cut'; bad=1; }
expect 0 'leaves it unsettled' 'unsettled    yes' verify "$t/log"

fresh
rm "$t/log/wal.super"
expect 2 'calls a log without superblock corrupt' 'verdict      corrupt' verify "$t/log"
expect 0 'salvages it, knowing whose it is' 'behind barrier 30' -y salvage "$t/log"

fresh
for file in wal.super $segment 0000000000000002.wal; do : > "$t/log/$file"; done
expect 2 'survives empty files' 'verdict      corrupt' verify "$t/log"

# A writer that stays, and damage behind its back.
rm -rf "$t/log" && mkdir "$t/log" "$t/held" && mkfifo "$t/held/in" "$t/held/out"
"$t/log_writer" "$t/log" 30 - stay < "$t/held/in" > "$t/held/out" &
writer=$!
exec 8> "$t/held/in"
read -r word < "$t/held/out"
[ "$word" = written ] || { echo 'FAIL tool has a writer beside it'; bad=1; }
expect 0 'verifies beside a writer' 'verdict      clean' verify "$t/log"
expect 0 'dumps beside a writer' 'entry	group=3 index=10 term=2 bytes=300' dump "$t/log"
damage $segment 19000
before=$(sums)
expect 3 'does not cut beside a writer' 'wal.busy' -y cut "$t/log"
expect 3 'does not salvage beside a writer' 'wal.busy' -y salvage "$t/log"
[ "$before" = "$(sums)" ] || { echo 'FAIL tool changed the log of a writer'; bad=1; }
kill -9 $writer
wait $writer 2> "$t/err"
exec 8>&-
expect 0 'cuts when the writer was killed' 'behind barrier 29' -y cut "$t/log"

head -c 32 /dev/urandom > "$t/key"
head -c 32 /dev/urandom > "$t/other"
head -c 31 /dev/urandom > "$t/short"
rm -rf "$t/log" && mkdir "$t/log"
if "$t/log_writer" "$t/log" 30 "$t/key" 2> "$t/err"; then
    expect 3 'asks for a key' 'give it with --key' verify "$t/log"
    expect 3 'says that a key is wrong' 'wrong_key' -k "$t/other" verify "$t/log"
    expect 3 'says that a key is short' '32 bytes' -k "$t/short" verify "$t/log"
    expect 3 'says that a key is missing' '32 bytes' -k "$t/nokey" verify "$t/log"
    expect 3 'takes a key for its number' 'give it with --key' -k "2=$t/key" verify "$t/log"
    expect 0 'opens a sealed log' '	1d1d1d1d' -k "$t/other" -k "3=$t/key" -p dump "$t/log"
    damage $segment 19100
    expect 0 'cuts a sealed log' 'removed      [1-9]' -k "3=$t/key" -y cut "$t/log"
    expect 3 'leaves it sealed and signed' 'give it with --key' verify "$t/log"
    rm "$t/log/wal.super"
    expect 0 'salvages a sealed log without superblock' 'behind barrier' -k "3=$t/key" -y salvage "$t/log"
    [ "$(od -An -tu4 -j128 -N4 "$t/log/wal.super" | tr -d ' ')" = 3 ] ||
        { echo 'FAIL tool signs the superblock it made'; bad=1; }
else
    echo 'skip tool and keys: a build without libsodium'
fi
exit $bad
