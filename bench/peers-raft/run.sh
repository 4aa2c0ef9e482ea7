#!/bin/sh
# run.sh - the core beside etcd/raft: one after the other, ROUNDS times over.
#
# Each row is one way to do the same work; its ratio is the median of the rounds'
# ratios, and `least` the worst round. `calls`: each entry is proposed by itself;
# `message`: a batch is one proposal. Messages of ours are bytes, as between
# processes; theirs are marshalled (`bytes`), or, where no process could, handed
# over as they lie in memory (`pointers`). Arguments: the two programs.
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-0.5}
ours=$1 theirs=$2
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
i=1
while [ "$i" -le "$rounds" ]; do
    for way in calls message; do
        "$ours" "$seconds" $way > "$out/ours" || exit 1
        for wire in bytes pointers; do
            "$theirs" "$seconds" $way $wire > "$out/theirs" || exit 1
            # way, wire, batch, ours, allocations an entry, theirs
            paste "$out/ours" "$out/theirs" |
                awk -v w="$way $wire" '$1 + 0 > 0 { print w, $1, $2, $3, $5 }' >> "$out/all"
        done
    done
    i=$((i + 1))
done
printf 'proposed\ttheir_wire\tbatch\tvshard_per_cpu_s\tetcd_per_cpu_s\tratio\tleast\tallocations_per_entry\n'
for row in 'calls bytes' 'message bytes' 'calls pointers' 'message pointers'; do
    for batch in 1 64 1024; do
        awk -v w="$row $batch" 'w == $1 " " $2 " " $3 { printf "%.6f %s %s %s\n", $4 / $6, $4, $6, $5 }' "$out/all" |
            sort -n |
            awk -v w="$row $batch" '{ r[NR] = $1; o[NR] = $2; t[NR] = $3; if ($4 > a) a = $4 }
                END { m = int((NR + 1) / 2); gsub(" ", "\t", w)
                      printf "%s\t%d\t%d\t%.1f\t%.1f\t%s\n", w, o[m], t[m], r[m], r[1], a + 0 }'
    done
done
