#!/bin/sh
# mutants.sh - builds the core with each known mistake, and sees it caught: by the
# tests of tests/unit/raft_{traps,sleep,epoch}.c, by the simulator within SEEDS seeds, or both.
# MUTANTS="1 2 3" picks some. The last line is the sum.
cd "${srcdir:-.}" || exit 1
out=$O/mutants
mkdir -p "$out"
killed=0 survived=0
printf 'mutant\tby tests\tby simulation\tseconds\tmistake\n'
for n in ${MUTANTS:-$(sed -n 's/^\([0-9][0-9]*\)	.*/\1/p' tests/sim/mutants.tsv)}; do
    for f in lib/raft/*.c; do
        $CC $CPP_ALL -std=c11 -O1 -DVS_MUTANT="$n" -c -o "$out/$(basename "$f" .c).o" "$f" || exit 1
    done
    for t in traps sleep epoch; do
        $CC -o "$out/$t" "$O/plain/raft_$t.o" "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    done
    $CC -o "$out/sim" "$O"/tests/sim/*.o "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    start=$(date +%s.%N)
    tests=- sim=-
    for t in traps sleep epoch; do
        [ $tests = yes ] || timeout 20 "$out/$t" > "$out/$t.log" 2>&1 || tests=yes
    done
    timeout "${LIMIT:-15}" "$out/sim" --from 1 --to "${SEEDS:-300}" > "$out/sim.log" 2>&1
    rc=$?
    [ $rc = 124 ] || [ $rc = 0 ] || sim="seed $(sed -n 's/^FAILED seed \([0-9]*\).*/\1/p' "$out/sim.log")"
    took=$(echo "$(date +%s.%N) - $start" | bc)
    printf '%s\t%s\t%s\t%.1f\t%s\n' "$n" "$tests" "$sim" "$took" \
        "$(sed -n "s/^$n	//p" tests/sim/mutants.tsv)"
    if [ "$tests$sim" = -- ]; then survived=$((survived + 1)); else killed=$((killed + 1)); fi
done
echo "mutants: $killed killed, $survived survived"
[ $survived = 0 ]
