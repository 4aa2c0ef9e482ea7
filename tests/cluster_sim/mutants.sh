#!/bin/sh
# mutants.sh - builds lib/node and lib/shard with each mistake of mutants.tsv, and sees the
# simulated cluster notice within SEEDS schedules, 400 if not said; or the story that the
# mistake names. First runs 0, which is no mistake. MUTANTS="60 61" picks some.
#
# A mistake whose run takes LIMIT seconds has timed out. That is noticed where the run without
# a mistake takes a quarter of it at most; else the machine may just be slow.
cd "${srcdir:-.}" || exit 1
out=$O/cluster-mutants
table=tests/cluster_sim/mutants.tsv
limit=${LIMIT:-120}
mkdir -p "$out"
killed=0 survived=0 plain=0

column() {
    awk -F '\t' -v n="$1" -v k="$2" '$1 == n { print $k }' $table
}

for n in 0 ${MUTANTS:-$(sed -n 's/^\([0-9][0-9]*\)	.*/\1/p' $table)}; do
    for f in lib/node/*.c lib/shard/*.c; do
        $CC $CPP_ALL -std=c11 -O1 -DVS_MUTANT="$n" -c -o "$out/$(basename "$f" .c).o" "$f" || exit 1
    done
    $CC -o "$out/sim" "$O"/tests/cluster_sim/*.o "$out"/*.o "$O/libsupport.a" "$O/libvshard.a" $LIBS || exit 1
    story=$(column "$n" 3)
    if [ -n "$story" ]; then
        set -- --story "tests/cluster_sim/$story.sim"
    else
        set -- --from 1 --to "${SEEDS:-400}"
    fi
    start=$(date +%s)
    timeout "$limit" "$out/sim" "$@" > "$out/log" 2>&1
    rc=$?
    seconds=$(($(date +%s) - start))
    case $rc in
    0) said=passes ;;
    124) said="timed out" ;;
    *) said=$(head -n 1 "$out/log") ;;
    esac
    printf '%s\t%s\t%s s\t%s\n' "$n" "$said" "$seconds" "$(column "$n" 2)"
    if [ "$n" = 0 ]; then
        [ $rc = 0 ] || exit 1
        plain=$seconds
    elif [ $rc = 0 ] || { [ $rc = 124 ] && [ $((4 * plain)) -gt "$limit" ]; }; then
        survived=$((survived + 1))
    else
        killed=$((killed + 1))
    fi
done
echo "cluster mutants: $killed killed, $survived survived"
[ $survived = 0 ]
