#!/bin/sh
# run.sh - our core and etcd/raft, one after the other, ROUNDS times, and the
# median of the ratios. Arguments: the two programs.
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-1}
ours=$1 theirs=$2
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
i=1
while [ "$i" -le "$rounds" ]; do
    "$ours" --core "$seconds" > "$out.a" && "$theirs" "$seconds" > "$out.b" || exit 1
    # batch, ours, allocations per entry, theirs
    paste "$out.a" "$out.b" | awk '$1 + 0 > 0 { print $1, $2, $3, $5 }' >> "$out"
    i=$((i + 1))
done
rm -f "$out.a" "$out.b"
printf 'batch\tvshard_per_cpu_s\tetcd_per_cpu_s\tratio\tleast\tallocations_per_entry\n'
for batch in 1 64 1024; do
    awk -v b=$batch '$1 == b { printf "%.6f %s %s %s\n", $2 / $4, $2, $4, $3 }' "$out" | sort -n |
        awk -v b=$batch '{ r[NR] = $1; o[NR] = $2; t[NR] = $3; if ($4 > a) a = $4 }
            END { m = int((NR + 1) / 2); printf "%d\t%d\t%d\t%.1f\t%.1f\t%s\n", b, o[m], t[m], r[m], r[1], a + 0 }'
done
