#!/bin/sh
# runner.sh - tests ask of Criterion only what the runner without it has, too: sanitizers,
# valgrind and other architectures run them by that (tests/support/criterion_plain.h).
cd "${srcdir:-.}" || exit 1
bad=0

for name in $(grep -hoE '\bcr_[a-z_]+\(' tests/unit/*.c tests/support/*.h | sort -u | tr -d '('); do
    grep -qE "^#define $name\(" tests/support/criterion_plain.h ||
        { grep -lw "$name" tests/unit/*.c; echo "the plain runner has no $name()"; bad=1; }
done
exit $bad
