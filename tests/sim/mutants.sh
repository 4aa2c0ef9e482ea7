#!/bin/sh
# mutants.sh - builds the core with each known mistake, and sees it caught: by the
# tests of tests/unit/raft_{traps,sleep,epoch}.c, by the simulator within SEEDS seeds, or both.
# MUTANTS="1 2 3" picks some. Each row says how long the tests ran, and how long the
# simulator until it noticed (or to its end). First runs 0, which is no mistake, and must
# not be noticed. The last line is the sum.
cd "${srcdir:-.}" || exit 1
out=$O/mutants
mkdir -p "$out"
killed=0 survived=0
printf 'mutant\tby tests\tseconds\tby simulation\tseconds\tmistake\n'
for n in 0 ${MUTANTS:-$(sed -n 's/^\([0-9][0-9]*\)	.*/\1/p' tests/sim/mutants.tsv)}; do
    for f in lib/raft/*.c lib/wal/recover.c; do
        $CC $CPP_ALL -std=c11 -O1 -DVS_MUTANT="$n" -c -o "$out/$(basename "$f" .c).o" "$f" || exit 1
    done
    for t in traps sleep epoch; do
        $CC -o "$out/$t" "$O/plain/raft_$t.o" "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    done
    $CC -o "$out/sim" "$O"/tests/sim/*.o "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    tests=- sim=-
    start=$(date +%s.%N)
    for t in traps sleep epoch; do
        [ $tests = yes ] || timeout "${LIMIT:-60}" "$out/$t" > "$out/$t.log" 2>&1 || tests=yes
    done
    tested=$(date +%s.%N)
    timeout "${LIMIT:-60}" "$out/sim" --from 1 --to "${SEEDS:-300}" > "$out/sim.log" 2>&1
    rc=$?
    end=$(date +%s.%N)
    [ $rc = 124 ] || [ $rc = 0 ] || sim="seed $(sed -n 's/^FAILED seed \([0-9]*\).*/\1/p' "$out/sim.log")"
    printf '%s\t%s\t%.1f\t%s\t%.1f\t%s\n' "$n" "$tests" "$(echo "$tested - $start" | bc)" "$sim" \
        "$(echo "$end - $tested" | bc)" "$(sed -n "s/^$n	//p" tests/sim/mutants.tsv)"
    if [ "$n" = 0 ]; then
        [ "$tests$sim" = -- ] || { echo "mutants: the core fails without a mistake in it"; exit 1; }
    elif [ "$tests$sim" = -- ]; then survived=$((survived + 1)); else killed=$((killed + 1)); fi
done
sed -n 's/^# *\([0-9]*\)  *waived: /waived \1: /p' tests/sim/mutants.tsv
echo "mutants: $killed killed, $survived survived"
[ $survived = 0 ]
