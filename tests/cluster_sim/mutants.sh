#!/bin/sh
# mutants.sh - builds lib/node and lib/shard with each mistake of mutants.tsv, and sees the
# simulated cluster notice within SEEDS schedules, 400 if not said. First runs 0, which is no
# mistake. MUTANTS="60 61" picks some.
cd "${srcdir:-.}" || exit 1
out=$O/cluster-mutants
mkdir -p "$out"
killed=0 survived=0
for n in 0 ${MUTANTS:-$(sed -n 's/^\([0-9][0-9]*\)	.*/\1/p' tests/cluster_sim/mutants.tsv)}; do
    for f in lib/node/*.c lib/shard/*.c; do
        $CC $CPP_ALL -std=c11 -O1 -DVS_MUTANT="$n" -c -o "$out/$(basename "$f" .c).o" "$f" || exit 1
    done
    $CC -o "$out/sim" "$O"/tests/cluster_sim/*.o "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    timeout "${LIMIT:-120}" "$out/sim" --from 1 --to "${SEEDS:-400}" > "$out/log" 2>&1
    rc=$?
    printf '%s\t%s\t%s\n' "$n" "$([ $rc = 0 ] && echo passes || head -n 1 "$out/log")" \
        "$(sed -n "s/^$n	//p" tests/cluster_sim/mutants.tsv)"
    if [ "$n" = 0 ]; then
        [ $rc = 0 ] || exit 1
    elif [ $rc = 0 ]; then survived=$((survived + 1)); else killed=$((killed + 1)); fi
done
echo "cluster mutants: $killed killed, $survived survived"
[ $survived = 0 ]
