#!/bin/sh
# sizes.sh - reports functions over 70 lines and files over 600. These are signs to
# look at, not gates, so it never fails.
cd "${srcdir:-.}" || exit 1
for file in lib/*/*.[ch]; do
    awk -v file="$file" '
        /^[a-z].*\(/ && !/;$/ { name = $0; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
        /^{/ { start = NR }
        /^}/ && start { if (NR - start - 1 > 70) print "  " file ": " name " has " NR - start - 1 " lines"; start = 0 }
        END { if (NR > 600) print "  " file " has " NR " lines" }' "$file"
done
exit 0
