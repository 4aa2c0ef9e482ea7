#!/bin/sh
# mutants.sh - builds the core with each known mistake, and sees it caught: by the
# tests of tests/unit/raft_{traps,sleep,epoch,flow}.c, by the simulator, or both: within
# SEEDS seeds, or else in a story, whose trace is another then.
# MUTANTS="1 2 3" picks some. Each row says how long the tests ran, and how long the
# simulator until it noticed (or to its end). First runs 0, which is no mistake, and must
# not be noticed. The last line is the sum.
cd "${srcdir:-.}" || exit 1
out=$O/mutants
mkdir -p "$out"
killed=0 survived=0
printf 'mutant\tby tests\tseconds\tby simulation\tseconds\tmistake\n'

# The files that are others with this mistake in them; the rest is the library's as it is.
with() {
    if grep -q "TRAP($1)" lib/raft/core.h; then
        ls lib/raft/*.c
    else
        grep -l "TRAP($1)" lib/raft/*.c lib/wal/recover.c
    fi
}

by_tests() {
    for t in traps sleep epoch flow; do
        timeout "${LIMIT:-60}" "$out/$t" > "$out/$t.log" 2>&1 || { echo yes; return; }
    done
    echo -
}

# The seed, or the story, that showed it.
by_simulation() {
    timeout "${LIMIT:-60}" "$out/sim" --from 1 --to "${SEEDS:-800}" > "$out/sim.log" 2>&1
    case $? in
    0 | 124) ;;
    *) echo "seed $(sed -n 's/^FAILED seed \([0-9]*\).*/\1/p' "$out/sim.log")"; return ;;
    esac
    for f in tests/sim/*.sim; do
        timeout "${LIMIT:-60}" "$out/sim" --story "$f" > "$out/story.log" 2>&1 ||
            { echo "story $(basename "$f" .sim)"; return; }
    done
    echo -
}

for n in 0 ${MUTANTS:-$(sed -n 's/^\([0-9][0-9]*\)	.*/\1/p' tests/sim/mutants.tsv)}; do
    rm -f "$out"/*.o
    for f in $(with "$n"); do
        $CC $CPP_ALL -std=c11 -O1 -DVS_MUTANT="$n" -c -o "$out/$(basename "$f" .c).o" "$f" || exit 1
    done
    for t in traps sleep epoch flow; do
        $CC -o "$out/$t" "$O/plain/raft_$t.o" $(ls "$out"/*.o 2> /dev/null) "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    done
    $CC -o "$out/sim" "$O"/tests/sim/*.o $(ls "$out"/*.o 2> /dev/null) "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    start=$(date +%s.%N)
    tests=$(by_tests)
    tested=$(date +%s.%N)
    sim=$(by_simulation)
    end=$(date +%s.%N)
    printf '%s\t%s\t%.1f\t%s\t%.1f\t%s\n' "$n" "$tests" "$(echo "$tested - $start" | bc)" "$sim" \
        "$(echo "$end - $tested" | bc)" "$(sed -n "s/^$n	//p" tests/sim/mutants.tsv)"
    if [ "$n" = 0 ]; then
        [ "$tests$sim" = -- ] || { echo "mutants: the core fails without a mistake in it"; exit 1; }
    elif [ "$tests$sim" = -- ]; then survived=$((survived + 1)); else killed=$((killed + 1)); fi
done
sed -n 's/^# *\([0-9]*\)  *waived: /waived \1: /p' tests/sim/mutants.tsv
echo "mutants: $killed killed, $survived survived"
[ $survived = 0 ]
