#!/bin/sh
# digests.sh - the same seed is the same history, whatever compiled it: the digest of a
# seed folds in every effect and, after every event, all that the core knows.
cd "${srcdir:-.}" || exit 1
out=$O/digests
mkdir -p "$out"
for cc in gcc clang; do
    command -v $cc > /dev/null || { echo "digests: no $cc here"; continue; }
    for level in -O0 -O3; do
        $cc $CPP_ALL -std=c11 $level -o "$out/sim$cc$level" -Itests tests/sim/*.c tests/support/linear.c \
            tests/support/disk.c tests/support/fault_storage.c lib/raft/*.c lib/wal/*.c lib/wire/*.c lib/base/*.c \
            lib/os/*.c $LIBS || exit 1
        "$out/sim$cc$level" --from 1 --to "${SEEDS:-100}" --digest > "$out/$cc$level" || exit 1
        cmp "$out/gcc-O0" "$out/$cc$level" || { echo "digests: $cc $level differs"; exit 1; }
    done
done
echo "digests: equal over ${SEEDS:-100} seeds, $(awk '{ n += $3 } END { print n }' "$out/gcc-O0") events"
