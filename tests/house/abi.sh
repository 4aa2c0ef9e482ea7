#!/bin/sh
# abi.sh - callers older and newer than the library get what they ask for, or EVERSION.
#
# Method: "newer" headers are copies in which every struct that says its size has one
# more field. A caller and a library are compiled with either, and all four pairs run
# (tests/api/caller.c). Pairs must answer alike, except that a newer caller who asks
# for what an older library does not know is refused.
cd "${srcdir:-.}" || exit 1
CC=${CC:-cc}
t=$(mktemp -d) && trap 'rm -rf "$t"' EXIT
bad=0
say() { echo "$*"; bad=1; }

cp -r include "$t/newer"
for header in "$t"/newer/vshard/*.h; do
    awk '/^struct vshard_[a-z_]* \{/ { inside = 1; sized = 0 }
         inside && /^    uint32_t size;/ { sized = 1 }
         /^};/ { if (inside && sized) print "    uint64_t later;"; inside = 0 }
         { print }' "$header" > "$t/edited" && mv "$t/edited" "$header"
done
grep -q 'uint64_t later;' "$t/newer/vshard/base.h" || say "no struct was made newer"

library() { # <name> <include directory>
    mkdir "$t/$1" && (here=$PWD && cd "$t/$1" &&
        $CC -O0 -w -fPIC -c -I"$2" -I"$here/lib" "$here"/lib/*/*.c &&
        $CC -shared -o libvshard.so ./*.o -lxxhash -lm) || exit 1
}
library old "$PWD/include"
library new "$t/newer"
caller() { # <name> <include directory> <flags>
    $CC -Wall -Wextra -Werror -o "$t/$1-caller" -I"$2" $3 tests/api/caller.c -L"$t/old" -lvshard || exit 1
}
caller old "$PWD/include" ''
caller new "$t/newer" '-DNEWER -DLATER=0'
caller asking "$t/newer" '-DNEWER -DLATER=1'

for pair in old-old old-new new-old new-new asking-old; do
    LD_LIBRARY_PATH="$t/${pair#*-}" "$t/${pair%-*}-caller" > "$t/$pair" 2>&1 ||
        say "a ${pair%-*} caller of the ${pair#*-} library died"
done
grep -q '^add 0' "$t/old-old" && grep -q 'told 1' "$t/old-old" || { cat "$t/old-old"; say "nothing works"; }
for pair in old-new new-old new-new; do
    diff "$t/old-old" "$t/$pair" || say "a ${pair%-*} caller of the ${pair#*-} library (>) is answered otherwise"
done
for call in asking search open merge; do
    grep -q "^$call -7" "$t/asking-old" || say "$call lets pass what the library does not know"
done
exit $bad
